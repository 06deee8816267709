/*
 * claim.h
 *		Giving ready steps to executors.
 *
 * All functions need an open query scope.
 */
#ifndef TASKER_CLAIM_H
#define TASKER_CLAIM_H

#include "tasker.h"

#include "run/move.h"

/*
 * Claims steps for executors, one for each step; steps that are not pending
 * any more are passed over.  step_ids ascending.  Returns what was claimed and its number.
 */
extern MovedStep *ClaimSteps(const int64 *step_ids, const int64 *executors, int n, int *claimed);

#endif							/* TASKER_CLAIM_H */
