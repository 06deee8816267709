/*
 * transition.h
 *		A single task or step under its lock, and what it is refused.
 *
 * All functions need an open query scope.
 */
#ifndef TASKER_TRANSITION_H
#define TASKER_TRANSITION_H

#include "tasker.h"

#include "run/move.h"

/* A step row as it is under the lock that reading it took. */
typedef struct LockedStep
{
	int64		step_id;
	int64		task_id;
	TaskerState state;
	int32		sort_key;
	int32		attempts;
	int32		retry_limit;
	bool		retryable;
	bool		failed_permanently;
} LockedStep;

/* Locks a step row and reads it; raises 42704 where there is none. */
extern LockedStep LockStep(int64 step_id);

/* Locks a task row and gives its state; raises 42704 where there is none. */
extern TaskerState LockTask(int64 task_id);

/* The state of a task as of this moment, in any isolation level; raises 42704. */
extern TaskerState LatestTaskState(int64 task_id);

/* Whether steps of a task in this state must not begin again. */
extern bool IsOverForGood(TaskerState state);

/* Locks a task that nobody else holds; false where it is held, or gone. */
extern bool LockFreeTask(int64 task_id);

/* Raise TK002, saying what is allowed. */
pg_noreturn extern void RefuseTransition(StateOwner owner, int64 id, TaskerState from, TaskerState to,
							 const char *guard);

/* {"reason": ...} as jsonb; 0 where the reason is NULL. */
extern Datum ReasonMetadata(const char *reason);

/* Raise 42704 for an id that names nothing. */
pg_noreturn extern void RefuseUnknown(const char *what, int64 id);

#endif							/* TASKER_TRANSITION_H */
