/*
 * finalize.h
 *		Deciding a task's outcome.
 */
#ifndef TASKER_FINALIZE_H
#define TASKER_FINALIZE_H

#include "tasker.h"

#include "rules/state.h"

typedef struct Finality
{
	int64		task_id;
	int32		named_task_id;
	TaskerState state;			/* of the task, before */
	TaskerState outcome;		/* complete or error; in_progress: it goes on */
	int64		open_step;		/* that keeps it going; 0: none */
} Finality;

/*
 * Looks at tasks and decides: complete where every step is complete or
 * resolved, error where nothing can run any more; else one step that can.
 * Changes nothing.  Needs an open query scope; the result is in the order of
 * the tasks found, in the current memory context.
 */
extern Finality *JudgeTasks(const int64 *task_ids, int n, int *found);

/*
 * Moves tasks to their outcomes, through the states in between where one
 * comes back from error.  Returns the number of transitions.
 */
extern int	FinalizeTasks(const Finality *finalities, int n);

#endif							/* TASKER_FINALIZE_H */
