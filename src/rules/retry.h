/*
 * retry.h
 *		Whether and when a failed step may run again. Pure.
 */
#ifndef TASKER_RETRY_H
#define TASKER_RETRY_H

#include "tasker.h"

typedef struct BackoffPolicy
{
	double		base_seconds;	/* after the first failure, doubled for each further one */
	double		cap_seconds;	/* never longer */
	double		jitter;			/* 0 to 1: share that is random, both ways */
} BackoffPolicy;

/*
 * Whether an attempt may follow: always for the first one, else while the
 * step is retryable, attempts remain, and no failure was declared final.
 * readiness.sql says the same of a row.
 */
extern bool IsRetryEligible(bool retryable, bool failed_permanently, int attempts, int retry_limit);

/*
 * Seconds to wait after the given number of attempts (1 or more): the base
 * doubled for each attempt after the first, at most the cap, moved by the
 * jitter; random is in [0, 1) and gives the direction.  Never negative.
 */
extern double BackoffSeconds(const BackoffPolicy *policy, int attempts, double random);

#endif							/* TASKER_RETRY_H */
