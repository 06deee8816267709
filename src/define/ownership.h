/*
 * ownership.h
 *		Which server a database belongs to.
 *
 * The checkpoint row names the server that orchestrates the database.  It is
 * made with the first template, so that a dump of anything that could run
 * carries it.  On another server, after a restore or in a clone, nothing is
 * orchestrated until resume() adopts the database; and while a restore has
 * not brought the row yet, there is none, and nothing happens either.
 */
#ifndef TASKER_OWNERSHIP_H
#define TASKER_OWNERSHIP_H

#include "tasker.h"

/* Makes the checkpoint row where there is none yet.  Needs an open query scope. */
extern void EnsureCheckpoint(void);

#endif							/* TASKER_OWNERSHIP_H */
