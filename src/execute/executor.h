/*
 * executor.h
 *		The clients that run steps: who is there, and who is gone.
 *
 * A session-bound executor holds a session-level lock that nobody else ever
 * takes: while it is held the session lives, whatever shared memory says, and
 * with or without preloading.  A detached one is alive while its heartbeats
 * come within its lease.
 */
#ifndef TASKER_EXECUTOR_H
#define TASKER_EXECUTOR_H

#include "tasker.h"

typedef struct Executor
{
	int64		executor_id;
	int			capacity;
	bool		detached;
	int64		lease;			/* microseconds */
	TimestampTz seen_at;		/* last heartbeat that the row knows */
	char	   *channel;
	int			handler_count;
	int32	   *handler_ids;
} Executor;

/* The executors that have not ended, in the current memory context.  Needs an open query scope. */
extern Executor *ReadLiveExecutors(int *n);

/*
 * Whether the executor still lives.  Where it does, *good_until is until when
 * that is sure: the end of the lease, DT_NOEND for a session.
 */
extern bool ExecutorIsAlive(const Executor *executor, TimestampTz now, TimestampTz *good_until);

/* The reason of an executor that gave its steps back: they do not count as lost. */
#define END_RELEASED "released"

/*
 * Locks those of the executors that have not ended and that nobody else has
 * locked; leaves them in the array and returns their number.  Needs an open
 * query scope.
 */
extern int	LockLiveExecutors(int64 *executor_ids, int n);

/* Marks executors as ended.  Needs an open query scope. */
extern void EndExecutors(const int64 *executor_ids, int n, const char *reason);

/*
 * The handlers of an executor; raises 42704 if it is unknown and 55000 if it
 * has ended and must_live.  Needs an open query scope.
 */
extern int32 *HandlersOfExecutor(int64 executor_id, bool must_live, int *n);

/* The lease of a detached executor in microseconds, 0 for others; raises 42704.  Needs an open query scope. */
extern int64 LeaseOfExecutor(int64 executor_id);

/*
 * Sign of life of a detached executor; false if it has ended.  Opens a query
 * scope itself where shared memory knows nothing of it.
 */
extern bool NoteHeartbeat(int64 executor_id);

#endif							/* TASKER_EXECUTOR_H */
