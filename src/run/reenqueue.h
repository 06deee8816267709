/*
 * reenqueue.h
 *		Scheduling a task to be looked at again.
 *
 * At once: the task goes back to pending, and whoever orchestrates looks at it
 * from its rows.  Later: a row says when; a task has at most one, the earlier
 * of two stays, so that nothing can pile up.  All functions need an open query
 * scope.
 */
#ifndef TASKER_REENQUEUE_H
#define TASKER_REENQUEUE_H

#include "tasker.h"

/* Ten years: what is later is a mistake. */
#define MAX_REENQUEUE_SECONDS 315360000.0

/* Schedules a task; false where an earlier time was set already, which stays. */
extern bool ScheduleReenqueue(int64 task_id, TimestampTz due_at, const char *reason);

/*
 * Up to max tasks that are due, after a time before which all were found
 * already, in the current memory context.
 */
extern int64 *FindDueReenqueues(TimestampTz after, TimestampTz now, int max, int *n);

/*
 * Takes the one of a task that is due and returns its reason; NULL where it is
 * not any more.  Nobody else has the row while the task is locked.
 */
extern char *TakeDueReenqueue(int64 task_id, TimestampTz now);

/* The first one after a time; DT_NOEND where there is none. */
extern TimestampTz NextReenqueue(TimestampTz after);

/* What the log says of a task that goes back to pending. */
extern Datum ReenqueueMetadata(const char *reason);

#endif							/* TASKER_REENQUEUE_H */
