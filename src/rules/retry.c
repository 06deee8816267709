/*
 * retry.c
 *		Whether and when a failed step may run again.
 */
#include "postgres.h"

#include <math.h>

#include "common/pg_prng.h"
#include "pg/guc.h"
#include "rules/retry.h"
#include "utils/builtins.h"

/* A year, the most that a template can say. */
#define MAX_BACKOFF_SECONDS 31536000.0

bool
IsRetryEligible(bool retryable, bool failed_permanently, int attempts, int retry_limit)
{
	if (failed_permanently)
		return false;
	return attempts == 0 || (retryable && attempts < retry_limit);
}

BackoffGrowth
BackoffGrowthOf(const char *strategy)
{
	if (strcmp(strategy, "linear") == 0)
		return BACKOFF_LINEAR;
	return strcmp(strategy, "constant") == 0 ? BACKOFF_CONSTANT : BACKOFF_EXPONENTIAL;
}

static double
GrowthFactor(BackoffGrowth growth, int attempts)
{
	switch (growth)
	{
		case BACKOFF_LINEAR:
			return attempts;
		case BACKOFF_CONSTANT:
			return 1;
		default:
			/* Beyond 2^1000 a double would overflow; the cap has won long before. */
			return pow(2.0, Min(attempts - 1, 1000));
	}
}

double
BackoffSeconds(const BackoffPolicy *policy, int attempts, double random)
{
	double		wait = policy->base_seconds * GrowthFactor(policy->growth, attempts);

	wait = Min(wait, policy->cap_seconds);
	wait += wait * policy->jitter * (2.0 * random - 1.0);
	return Min(Max(wait, 0.0), policy->cap_seconds);
}

/* An argument in its range, or the setting where it is NULL. */
static double
BackoffArgument(FunctionCallInfo fcinfo, int number, const char *name, double max, double otherwise)
{
	double		value = PG_ARGISNULL(number) ? otherwise : PG_GETARG_FLOAT8(number);

	if (!(value >= 0 && value <= max))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must be between 0 and %g", name, max)));
	return value;
}

PG_FUNCTION_INFO_V1(tasker_backoff_seconds);

Datum
tasker_backoff_seconds(PG_FUNCTION_ARGS)
{
	BackoffPolicy policy;
	char	   *growth = PG_ARGISNULL(1) ? "exponential" : text_to_cstring(PG_GETARG_TEXT_PP(1));

	if (PG_ARGISNULL(0) || PG_GETARG_INT32(0) < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("attempts must be 1 or more")));
	policy.growth = BackoffGrowthOf(growth);
	if (policy.growth == BACKOFF_EXPONENTIAL && strcmp(growth, "exponential") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("there is no backoff of the name \"%s\"", growth),
				 errhint("There are exponential, linear and constant.")));
	policy.base_seconds = BackoffArgument(fcinfo, 2, "base_seconds", MAX_BACKOFF_SECONDS, tasker_backoff_base / 1000.0);
	policy.cap_seconds = BackoffArgument(fcinfo, 3, "cap_seconds", MAX_BACKOFF_SECONDS, tasker_backoff_cap / 1000.0);
	policy.jitter = BackoffArgument(fcinfo, 4, "jitter", 1, tasker_backoff_jitter);
	PG_RETURN_FLOAT8(BackoffSeconds(&policy, PG_GETARG_INT32(0), pg_prng_double(&pg_global_prng_state)));
}
