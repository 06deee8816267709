/*
 * cron.h
 *		Cron expressions: when something is due again.  Pure, on the fields of
 *		a wall clock; time zones are the caller's.
 */
#ifndef TASKER_CRON_H
#define TASKER_CRON_H

#include "tasker.h"

/* Which values of each field match, one bit each. */
typedef struct CronExpression
{
	uint64		minutes;
	uint32		hours;
	uint32		days;			/* of the month, from bit 1 */
	uint32		months;			/* from bit 1 */
	uint32		weekdays;		/* Sunday is 0 */
	bool		any_day;		/* the field is * */
	bool		any_weekday;
	bool		any_hour;		/* the field begins with *: it follows elapsed time, not the wall clock */
} CronExpression;

/* A minute of a wall clock. */
typedef struct CronMinute
{
	int			year;
	int			month;			/* from 1 */
	int			day;			/* from 1 */
	int			hour;
	int			minute;
} CronMinute;

/*
 * Reads "minute hour day month weekday", with lists, ranges, steps and English
 * names of months and weekdays, or one of @hourly, @daily, @weekly, @monthly,
 * @yearly.  NULL, or what is wrong with it, allocated in the current context.
 */
extern const char *ParseCron(const char *text, CronExpression *cron);

/* Whether the day of a minute matches: where both day fields are given, one of them is enough. */
extern bool CronDayMatches(const CronExpression *cron, const CronMinute *minute);

/* Whether a minute matches. */
extern bool CronMatches(const CronExpression *cron, const CronMinute *minute);

#endif							/* TASKER_CRON_H */
