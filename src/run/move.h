/*
 * move.h
 *		The one place where states change: compare-and-set of the row and
 *		append to the log.
 *
 * All functions need an open query scope.  They wake the orchestrator at the
 * commit.
 */
#ifndef TASKER_MOVE_H
#define TASKER_MOVE_H

#include "tasker.h"

#include "pg/table.h"
#include "rules/state.h"

/*
 * Beyond this transition a step is not claimed any more: it must not circle
 * through the queue for ever, and the numbers that are left serve to end it.
 */
#define LAST_CLAIMED_SORT_KEY 2147480000

/*
 * One kind of transition for many steps.  Arrays have n elements each; one
 * that is NULL stands for "nothing of the kind".  Steps must be in ascending
 * order of id: that is the order in which their rows are locked.
 */
typedef struct StepMoves
{
	TaskerState from;
	TaskerState to;
	TimestampTz at;				/* when; 0: now */
	int			n;
	const int64 *step_ids;
	const int32 *sort_keys;		/* move only from this transition */
	const int64 *executors;		/* who gets the step */
	int64		of_executor;	/* move only if this one has the step; 0: anyone */
	bool		by_executor;	/* the log names the executor that has it */
	int			attempt_change; /* added to the attempts, which stop at zero */
	const Datum *results;		/* jsonb; steps without one keep theirs */
	const bool *no_results;
	Datum		metadata_of_all;	/* jsonb; 0: none */
	const Datum *metadata;		/* jsonb, instead of metadata_of_all */
	const TimestampTz *retry_at;	/* when a failed step may run again */
	const bool *no_retry;		/* where it may not */
	const int32 *backoff_seconds;	/* asked for by the executor; -1: not */
	const bool *permanent;		/* no retry can help */
} StepMoves;

typedef struct MovedStep
{
	int64		step_id;
	int64		task_id;
	int32		sort_key;
	int32		attempts;
	int32		timeout_seconds;	/* 0: none */
	int32		handler_id;
	int64		executor_id;	/* who got it, or has had it; 0: nobody */
	TimestampTz attempted_at;	/* the last attempt before */
} MovedStep;

/*
 * Moves those steps that are as expected and appends to their log; the
 * others are left alone.  Returns what moved, in the current memory context,
 * and its number.  The caller answers for the guards.
 */
extern MovedStep *MoveSteps(const StepMoves *moves, int *moved);

/*
 * Moves those tasks that are in the state expected.  Returns how many moved;
 * task_ids ascending, metadata a jsonb for all or 0.
 */
extern int	MoveTasks(TaskerState from, TaskerState to, int n, const int64 *task_ids, Datum metadata);

/*
 * Appends the first transition, to pending, of tasks that were just written
 * directly; ids ascending.  The log must take direct writes.
 */
extern void LogCreations(Table *log, const int64 *task_ids, int n, TimestampTz at);

/* A jsonb of JSON text that we wrote ourselves. */
extern Datum JsonbOfText(const char *json);

#endif							/* TASKER_MOVE_H */
