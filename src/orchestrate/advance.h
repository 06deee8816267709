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

/*
 * Locks those of the steps (ids ascending) that nobody else holds; returns
 * their number, the ids are the first column of the rows.
 */
extern int	LockAvailableSteps(const int64 *step_ids, int n);

#endif							/* TASKER_ADVANCE_H */
