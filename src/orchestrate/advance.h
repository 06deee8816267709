/*
 * advance.h
 *		Moving what a batch has collected.
 */
#ifndef TASKER_ADVANCE_H
#define TASKER_ADVANCE_H

#include "orchestrate/memory.h"

/* Starts tasks and finalizes those that are done or stuck. */
extern void MovePlannedTasks(Batch *batch);

/* Promotes retries, skips, cancels, fails; sets timers. */
extern void MovePlannedSteps(Batch *batch);

#endif							/* TASKER_ADVANCE_H */
