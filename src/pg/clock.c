/*
 * clock.c
 *		The one clock and the setting that moves it.
 */
#include "postgres.h"

#include "pg/clock.h"
#include "pg/guc.h"

double
IntervalSeconds(const Interval *interval)
{
	return (interval->month * (double) DAYS_PER_MONTH + interval->day) * SECS_PER_DAY +
		interval->time / (double) USECS_PER_SEC;
}

PG_FUNCTION_INFO_V1(tasker_now);

TimestampTz
TaskerNow(void)
{
	return GetCurrentTimestamp() + (int64) tasker_clock_offset * 1000;
}

Datum
tasker_now(PG_FUNCTION_ARGS)
{
	PG_RETURN_TIMESTAMPTZ(TaskerNow());
}
