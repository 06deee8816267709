/*
 * claim.h
 *		Giving ready steps to executors.
 *
 * All functions need an open query scope.
 */
#ifndef TASKER_CLAIM_H
#define TASKER_CLAIM_H

#include "tasker.h"

#include "pg/query.h"
#include "run/move.h"

/*
 * Claims steps for executors, one for each step; steps that are not pending
 * any more are passed over.  step_ids ascending.  Returns what was claimed and its number.
 */
extern MovedStep *ClaimSteps(const int64 *step_ids, const int64 *executors, int n, int *claimed);

/*
 * Locks those of the steps (ids ascending) that nobody else holds; returns
 * their number, the ids are the first column of the rows.
 */
extern KeptQuery LOCK_AVAILABLE_STEPS;
extern int	LockAvailableSteps(const int64 *step_ids, int n);

/*
 * Claims one step if it may run now, for an executor (0: none, the session
 * itself); false if it may not, or somebody else has it.  Raises 42704 where
 * there is no such step.  Takes the lock of its task first where that runs one
 * step at a time and a coordinator runs it.
 */
extern bool ClaimStep(int64 step_id, int64 executor_id);

#endif							/* TASKER_CLAIM_H */
