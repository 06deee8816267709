/*
 * schedule.c
 *		Tasks that are started by time.
 */
#include "postgres.h"

#include "pg/clock.h"
#include "run/schedule.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

/* 29 February comes after eight years at the latest. */
#define LONGEST_WAIT (INT64CONST(9) * 366 * USECS_PER_DAY)

/* How far back a change of the clocks is looked for. */
#define BEFORE_CHANGE (3 * USECS_PER_HOUR)

/* What the clocks of a zone show; *west are the seconds that they are behind UTC. */
static CronMinute
WallClock(TimestampTz at, pg_tz *zone, int *west)
{
	struct pg_tm tm;
	fsec_t		fsec;

	if (timestamp2tm(at, west, &tm, &fsec, NULL, zone) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("timestamp out of range")));
	return (CronMinute)
	{
		tm.tm_year, tm.tm_mon, tm.tm_mday, tm.tm_hour, tm.tm_min
	};
}

/* Whether the clocks have shown the same minute before, because they were put back since. */
static bool
IsRepeated(TimestampTz at, pg_tz *zone)
{
	int			west;
	int			west_before;
	int			west_then;
	TimestampTz first;

	(void) WallClock(at, zone, &west);
	(void) WallClock(at - BEFORE_CHANGE, zone, &west_before);
	first = at + (int64) (west_before - west) * USECS_PER_SEC;
	if (first >= at)
		return false;
	(void) WallClock(first, zone, &west_then);
	return west_then == west_before;
}

/* Whether something was meant for the minutes that the clocks have left out just before a time. */
static bool
MatchesLeftOut(const CronExpression *cron, TimestampTz at, pg_tz *zone)
{
	int			west;
	int			west_before;

	(void) WallClock(at, zone, &west);
	(void) WallClock(at - USECS_PER_MINUTE, zone, &west_before);
	/* The left out ones are those that clocks of before would show from now on. */
	for (int second = 0; second < west_before - west; second += SECS_PER_MINUTE)
	{
		TimestampTz as_utc = at + (int64) (second - west_before) * USECS_PER_SEC;
		CronMinute	minute = WallClock(as_utc, pg_tzset("GMT"), &(int) {0});

		if (CronMatches(cron, &minute))
			return true;
	}
	return false;
}

TimestampTz
NextCronTime(const CronExpression *cron, TimestampTz after, pg_tz *zone)
{
	/* Timestamps count from a full minute; older ones are negative. */
	TimestampTz at = after - (after % USECS_PER_MINUTE + USECS_PER_MINUTE) % USECS_PER_MINUTE + USECS_PER_MINUTE;

	while (at - after < LONGEST_WAIT)
	{
		int			west;
		CronMinute	minute = WallClock(at, zone, &west);
		bool		hour_matches = CronDayMatches(cron, &minute) && (cron->hours >> minute.hour & 1) != 0;

		if (!cron->any_hour && MatchesLeftOut(cron, at, zone))
			return at;
		if (CronMatches(cron, &minute) && (cron->any_hour || !IsRepeated(at, zone)))
			return at;
		/* Clocks change at full hours and half hours only, which are all looked at. */
		at += (hour_matches ? 1 : 30 - minute.minute % 30) * USECS_PER_MINUTE;
	}
	return DT_NOEND;
}

/* ---------- from SQL ---------- */

/* Raises 22023 for an expression that is none. */
static CronExpression
CronArgument(const char *text)
{
	CronExpression cron;
	const char *problem = ParseCron(text, &cron);

	if (problem != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("cron expression \"%s\" is invalid: %s", text, problem)));
	return cron;
}

static pg_tz *
ZoneArgument(const char *name)
{
	pg_tz	   *zone = pg_tzset(name);

	if (zone == NULL || !pg_tz_acceptable(zone))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("time zone \"%s\" is not known", name),
				 errhint("See pg_timezone_names.")));
	return zone;
}

PG_FUNCTION_INFO_V1(tasker_next_cron_time);

Datum
tasker_next_cron_time(PG_FUNCTION_ARGS)
{
	CronExpression cron = CronArgument(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	TimestampTz after = PG_GETARG_TIMESTAMPTZ(1);
	pg_tz	   *zone = ZoneArgument(text_to_cstring(PG_GETARG_TEXT_PP(2)));
	TimestampTz next;

	if (TIMESTAMP_NOT_FINITE(after))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the time after which to look must be finite")));
	next = NextCronTime(&cron, after, zone);
	if (next == DT_NOEND)
		PG_RETURN_NULL();
	PG_RETURN_TIMESTAMPTZ(next);
}
