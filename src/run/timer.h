/*
 * timer.h
 *		What is due later: the end of a backoff or of an attempt's time.
 *
 * A timer names a step and the transition that made it; once the step has
 * moved on, the timer means nothing.  All functions need an open query scope.
 */
#ifndef TASKER_TIMER_H
#define TASKER_TIMER_H

#include "tasker.h"

typedef struct Timer
{
	TimestampTz due_at;
	int64		step_id;
	int32		sort_key;
} Timer;

/* Writes timers; one that is there already stays. */
extern void SetTimers(const Timer *timers, int n);

/*
 * Takes up to max timers that are due, after a time before which all were
 * taken already.  Returns them, oldest first, and their number.
 */
extern Timer *TakeDueTimers(TimestampTz after, TimestampTz now, int max, int *n);

/* The first timer after a time; DT_NOEND where there is none. */
extern TimestampTz NextTimer(TimestampTz after);

#endif							/* TASKER_TIMER_H */
