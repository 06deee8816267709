/*
 * memory.h
 *		What an orchestrator remembers between batches, and what one batch
 *		collects before it moves anything.
 *
 * Internal to the files of this wing; others see orchestrate.h.
 */
#ifndef TASKER_MEMORY_H
#define TASKER_MEMORY_H

#include "tasker.h"

#include "execute/executor.h"
#include "execute/outcome.h"
#include "execute/queue.h"
#include "lib/stringinfo.h"
#include "orchestrate/orchestrator.h"
#include "rules/state.h"
#include "run/reenqueue.h"
#include "run/timer.h"
#include "utils/hsearch.h"

typedef struct IdList
{
	int64	   *ids;
	int			n;
	int			room;
} IdList;

/* What is left to look at. */
typedef enum WorkKind
{
	WORK_REENQUEUED,			/* tasks whose re-enqueue is due */
	WORK_STARTED,				/* tasks that became pending */
	WORK_CLOSED,				/* steps that became complete or resolved */
	WORK_FAILED,				/* steps that came to error */
	WORK_CANCELLED,				/* steps that were cancelled */
	WORK_CANDIDATES,			/* steps that may be ready */
	WORK_TURNS,					/* tasks that run one step at a time, and may have none that runs */
	WORK_FINALS,				/* tasks that may be done or stuck */
	WORK_KINDS
} WorkKind;

/* Whose row it is. */
typedef struct Owner
{
	int64		id;
	int64		is_task;		/* 1, or 0 for a step; without padding */
} Owner;

/* A step in flight. */
typedef struct InFlight
{
	int64		step_id;		/* hash key */
	int64		executor_id;
} InFlight;

/* An owner (a step with open parents, or a task) and what it waits for. */
typedef struct Watch
{
	int64		owner_id;		/* hash key */
	int64		waits_for;		/* a step */
} Watch;

typedef struct Handler
{
	int32		handler_id;		/* hash key */
	bool		may_wait;		/* the queue may have steps of it */
	int			n;
	int		   *executors;		/* indexes of those that run it */
	int			next;			/* whose turn it is */
} Handler;

typedef struct ExecutorSlot
{
	Executor	executor;
	int			in_flight;
	StringInfo	payload;		/* of this batch; NULL: none yet */
} ExecutorSlot;

struct Orchestrator
{
	MemoryContext context;		/* of everything here */
	MemoryContext executor_context; /* of the executors and handlers */
	int64		generation;		/* of the checkpoint this comes from; 0: there was none */
	ItemPointerData checkpoint_tid; /* the version of its row that we have written; invalid: none */
	char	   *position;		/* a pg_snapshot as text; NULL: not read yet */
	bool		reconcile;
	bool		paused;
	IdList		work[WORK_KINDS];
	Owner		last;			/* what the last batch took, if it was of one; id 0: nothing */
	IdList		postponed[WORK_KINDS];
	TimestampTz postponed_until;
	bool		postponed_noted;	/* the checkpoint says so, too */
	bool		avoid_locked_rows;
	TimestampTz quiet_until;	/* nothing is pushed until then, nor before there is room; 0: pushes */
	bool		in_session;		/* batches follow each other in one transaction */
	HTAB	   *in_flight;
	HTAB	   *watched_children;
	HTAB	   *watched_tasks;
	bool		refresh_executors;
	int			executor_count;
	ExecutorSlot *executors;
	HTAB	   *handlers;
	TimestampTz executors_good_until;
	TimestampTz timers_taken_until;
	TimestampTz timers_rescan_at;	/* by the real clock: when to look at them from the start again */
	bool		moved;			/* something was moved since the log was read */
	bool		dirty;			/* more was read than the checkpoint knows */
	uint64		rows_since_mark;	/* of the logs, see log_mark.h */
	TimestampTz saved_at;		/* by the real clock */
};

/* A new row of the steps' log. */
typedef struct LogEntry
{
	int64		step_id;
	int64		executor_id;
	int32		sort_key;
	TaskerState to_state;
	bool		has_executor;
} LogEntry;

/* What one batch decides before it moves anything. */
typedef struct Batch
{
	Orchestrator *o;
	TimestampTz now;
	int			batch_size;
	bool		look_only;		/* to tell what could run: waiting and held steps, due retries included */
	int64		transitions;
	int			n_entries;
	int			entries_room;
	LogEntry   *entries;
	IdList		start;			/* tasks: pending to in_progress */
	IdList		promote;		/* steps: error to pending */
	IdList		skip;			/* steps: error to resolved */
	IdList		cascade;		/* steps: pending to cancelled */
	IdList		release;		/* steps: in_progress to pending, the attempt given back */
	IdList		dequeue;		/* steps that need no executor any more */
	IdList		begin_waits;	/* steps: pending to in_progress, without an executor */
	IdList		waits_due;		/* steps whose wait may be over */
	IdList		left_waits;		/* steps whose wait is over, if they have waited */
	int			n_ready;
	int			ready_room;
	ReadyStep  *ready;
	int			n_failures;
	StepFailure *failures;		/* lost executors and timeouts */
	int			n_timers;
	Timer	   *timers;
	BatchReport report;
} Batch;

/* ---------- lists of ids ---------- */

extern void AddId(MemoryContext context, IdList *list, int64 id);

/* Takes up to max ids off the end of a list: sorted, each once, in the current context. */
extern int64 *TakeIds(IdList *list, int max, int *n);

/* For qsort of anything that begins with an int64 id. */
extern int	CompareIds(const void *a, const void *b);

/* A hash table over keys without pointers, in a context. */
extern HTAB *MakeHash(MemoryContext context, const char *name, Size key_size, Size entry_size);

/* ---------- work ---------- */

extern void AddWork(Orchestrator *o, WorkKind kind, int64 id);

/* Takes work of a kind for a batch; what the smallest batch takes is remembered, in case it fails. */
extern int64 *TakeWork(Batch *batch, WorkKind kind, int *n);
extern bool HasWork(const Orchestrator *o);

/* Leaves work for a little later: its rows are locked. */
extern void Postpone(Orchestrator *o, WorkKind kind, int64 id, TimestampTz now);
extern void ComeBackSoon(Orchestrator *o, TimestampTz now);

/* Notes with the checkpoint that something is postponed: whoever starts from there looks for it. */
extern void NotePostponed(Orchestrator *o);

/*
 * Whether rows that others have locked are passed over.  A session does so
 * from the first move of its transaction on: it holds rows itself then, and
 * not in one order with those that the next batch wants.
 */
extern bool AvoidsLockedRows(const Orchestrator *o);
extern void TakeUpPostponed(Orchestrator *o, TimestampTz now);

/*
 * Whether the batch has taken something that can be set aside if it fails: the
 * smallest batch takes one thing, whatever kinds of work there are.
 */
extern bool IsFull(const Batch *batch);

/* Whether an owner was set aside by SetAsideLast. */
extern bool IsSetAside(int64 id, bool is_task);

/* ---------- watching ---------- */

/* Remembers that an owner waits for a step: until that moves there is nothing to look at. */
extern void SetWatch(Orchestrator *o, HTAB **watches, int64 owner_id, int64 waits_for);

/*
 * Whether the owner is known to wait for another step than the one that just
 * moved, so that there is nothing to look at.  Forgets the watch otherwise.
 */
extern bool WaitsForAnother(HTAB *watches, int64 owner_id, int64 moved);

/* ---------- in flight ---------- */

/* The slot of a live executor; NULL where there is none. */
extern ExecutorSlot *FindExecutorSlot(Orchestrator *o, int64 executor_id);
extern void NoteFlight(Orchestrator *o, int64 step_id, int64 executor_id);
extern void NoteLanding(Orchestrator *o, int64 step_id);

/* ---------- the checkpoint ---------- */

/* Forgets everything and starts from the checkpoint. */
extern void ReadCheckpoint(Orchestrator *o);
extern void SaveCheckpoint(Orchestrator *o);

#endif							/* TASKER_MEMORY_H */
