/*
 * clock.h
 *		The one clock: all times that tasker writes or compares come from here.
 */
#ifndef TASKER_CLOCK_H
#define TASKER_CLOCK_H

#include "tasker.h"

/* Gives the wall time of this moment, moved by tasker.clock_offset. */
extern TimestampTz TaskerNow(void);

#endif							/* TASKER_CLOCK_H */
