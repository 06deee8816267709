/*
 * retry.h
 *		Whether and when a failed step may run again. Pure.
 */
#ifndef TASKER_RETRY_H
#define TASKER_RETRY_H

#include "tasker.h"

/* How the wait grows from attempt to attempt. */
typedef enum BackoffGrowth
{
	BACKOFF_EXPONENTIAL,		/* base, 2 base, 4 base, ... */
	BACKOFF_LINEAR,				/* base, 2 base, 3 base, ... */
	BACKOFF_CONSTANT			/* base */
} BackoffGrowth;

typedef struct BackoffPolicy
{
	BackoffGrowth growth;
	double		base_seconds;	/* after the first failure */
	double		cap_seconds;	/* never longer */
	double		jitter;			/* 0 to 1: share that is random, both ways */
} BackoffPolicy;

/*
 * Whether an attempt may follow: always for the first one, else while the
 * step is retryable, attempts remain, and no failure was declared final.
 * readiness.sql says the same of a row.
 */
extern bool IsRetryEligible(bool retryable, bool failed_permanently, int attempts, int retry_limit);

/* The growth that a backoff_strategy names; exponential for any other name. */
extern BackoffGrowth BackoffGrowthOf(const char *strategy);

/*
 * Seconds to wait after the given number of attempts (1 or more): the base
 * as it has grown by then, at most the cap, moved by the jitter; random is in
 * [0, 1) and gives the direction.  Never negative, never above the cap.
 */
extern double BackoffSeconds(const BackoffPolicy *policy, int attempts, double random);

#endif							/* TASKER_RETRY_H */
