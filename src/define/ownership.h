/*
 * ownership.h
 *		Which database the orchestrator's rows belong to.
 *
 * The checkpoint row names the database that it was made in, server included.
 * It is made with the first template, so that a dump of anything that could
 * run carries it.  In any other one, after a restore or in a clone, nothing is
 * orchestrated until resume() adopts the database; and while a restore has
 * not brought the row yet, there is none, and nothing happens either.
 *
 * A physical copy has the name of its original.  So the first one to look in
 * a server that has come to its data in another way than by its own work (see
 * pg/arrival.h) takes the database over: after a promotion work goes on, in a
 * restored backup it is as if the row came from elsewhere.  All functions need
 * an open query scope.
 */
#ifndef TASKER_OWNERSHIP_H
#define TASKER_OWNERSHIP_H

#include "tasker.h"

/* What the checkpoint of this database is to say: the column of tasker.home. */
extern int64 HomeIdentifier(void);

/* Makes the checkpoint row where there is none yet. */
extern void EnsureCheckpoint(void);

/* Takes the database over where that is due.  For whoever holds the orchestrator's lock. */
extern void TakeOver(void);

/* Whether the database comes from a backup and nobody has taken it over yet. */
extern bool AwaitsTakeOver(void);

#endif							/* TASKER_OWNERSHIP_H */
