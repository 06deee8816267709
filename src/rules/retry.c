/*
 * retry.c
 *		Whether and when a failed step may run again.
 */
#include "postgres.h"

#include <math.h>

#include "rules/retry.h"

bool
IsRetryEligible(bool retryable, bool failed_permanently, int attempts, int retry_limit)
{
	if (failed_permanently)
		return false;
	return attempts == 0 || (retryable && attempts < retry_limit);
}

double
BackoffSeconds(const BackoffPolicy *policy, int attempts, double random)
{
	/* Beyond 2^1000 a double would overflow; the cap has won long before. */
	double		wait = policy->base_seconds * pow(2.0, Min(attempts - 1, 1000));

	wait = Min(wait, policy->cap_seconds);
	wait += wait * policy->jitter * (2.0 * random - 1.0);
	return Min(Max(wait, 0.0), policy->cap_seconds);
}
