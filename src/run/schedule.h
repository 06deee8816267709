/*
 * schedule.h
 *		Tasks that are started by time.
 */
#ifndef TASKER_SCHEDULE_H
#define TASKER_SCHEDULE_H

#include "tasker.h"

#include "pgtime.h"
#include "rules/cron.h"

/*
 * The first minute after a time that matches on the clocks of a zone; DT_NOEND
 * where there is none in nine years.  Where clocks are put forward, what was
 * meant for the hour that is left out is due when it ends; where they are put
 * back, what was meant for the hour that comes twice is due the first time.
 * An expression whose hour begins with * follows elapsed time instead.
 */
extern TimestampTz NextCronTime(const CronExpression *cron, TimestampTz after, pg_tz *zone);

/*
 * Creates the tasks whose schedules are due, max at most; returns how many, and
 * in *due_at when the next one is, DT_NOEND where there is none.  Opens query
 * scopes itself.
 */
extern int	StartScheduledTasks(int max, TimestampTz *due_at);

#endif							/* TASKER_SCHEDULE_H */
