/*
 * outcome.h
 *		How a claimed step ended: complete, failed, released.
 */
#ifndef TASKER_OUTCOME_H
#define TASKER_OUTCOME_H

#include "tasker.h"

#include "run/transition.h"

#define RETRY_BY_BACKOFF	(-1)	/* retry_after: what the template says */

typedef struct StepFailure
{
	int64		step_id;
	int32		claim;
	const char *error;
	const char *error_class;	/* NULL: none */
	bool		retryable;		/* false: no retry can help */
	int32		retry_after;	/* seconds, or RETRY_BY_BACKOFF */
} StepFailure;

/*
 * Moves claimed steps to error, with the time of the next attempt where one
 * remains; stale claims are left alone.  failures in ascending order of
 * step_id; by_executor says that the executor itself reports, of_executor (0:
 * any) that only its steps may move.  Needs an open query scope.  Returns
 * what moved and its number.
 */
extern MovedStep *FailSteps(const StepFailure *failures, int n, bool by_executor,
							int64 of_executor, int *moved);

#endif							/* TASKER_OUTCOME_H */
