/*
 * step_wait.h
 *		The rows of steps that wait.
 *
 * All functions need an open query scope, and SQL of 1.1.  Only who holds the
 * orchestrator's lock calls them: others would wait for each other's rows.
 */
#ifndef TASKER_STEP_WAIT_H
#define TASKER_STEP_WAIT_H

#include "tasker.h"

/* A wait that is to begin. */
typedef struct NewWait
{
	int64		step_id;
	int32		sort_key;		/* of the step before */
	char	   *problem;		/* why it cannot; NULL: nothing */
	Datum		metadata;		/* jsonb: what it waits for */
	Datum		results;		/* jsonb, where it is over at once; 0: it is not */
	bool		has_end;
	TimestampTz until;			/* where has_end */
} NewWait;

/*
 * Finds what pending steps wait for that begin to wait now, and writes the rows
 * of those whose wait goes on, for the transition that the caller makes next.
 * Steps that are not pending any more are left out.  Ascending by step.
 */
extern NewWait *PrepareWaits(const int64 *step_ids, int n, TimestampTz now, int *found);

/* A wait that is over. */
typedef struct EndedWait
{
	int64		step_id;
	int32		claim;			/* the transition that began it */
	char	   *problem;		/* it timed out; NULL: it did not */
	Datum		results;		/* jsonb, where there is no problem */
} EndedWait;

/* Of steps those whose wait is over, by an event or by time.  Ascending by step. */
extern EndedWait *FindEndedWaits(const int64 *step_ids, int n, TimestampTz now, int *found);

/* Removes the rows of waits that have ended. */
extern void RemoveWaits(const int64 *step_ids, int n);

/* The same for those of the steps that do not wait any more, whoever has moved them. */
extern void RemoveLeftWaits(const int64 *step_ids, int n);

/* The same for all steps, where the log is not read that tells of them. */
extern void RemoveAllLeftWaits(void);

#endif							/* TASKER_STEP_WAIT_H */
