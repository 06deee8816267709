/*
 * waiters.c
 *		Sessions that wait, and waking them after the commit that brings what
 *		they wait for.
 *
 * No wake-up is lost: a waiter joins first and looks afterwards, with a new
 * snapshot; who brings something makes it visible first and wakes afterwards.
 * Whichever comes first, one of the two sees the other.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "lib/ilist.h"
#include "miscadmin.h"
#include "pg/waiters.h"
#include "port/atomics.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "storage/sinval.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

/*
 * The client's connection, from libpq/libpq.h: that header asks for those of
 * every authentication library that the server was built with.
 */
extern PGDLLIMPORT WaitEventSet *FeBeWaitSet;
extern bool pq_check_connection(void);
#define CLIENT_SOCKET_POSITION 0	/* FeBeWaitSetSocketPos */

/* A session that runs more handlers than this is woken for any. */
#define MAX_WAITER_HANDLERS 16

typedef enum WaitKind
{
	WAIT_FOR_STEPS,
	WAIT_FOR_TASK,
	WAIT_KINDS
} WaitKind;

/* The place of one session. */
typedef struct Waiter
{
	dlist_node	node;			/* in the list of its kind while it waits */
	WaitKind	kind;
	bool		waiting;		/* in that list; false: was woken, or does not wait */
	Oid			database;
	Latch	   *latch;
	int64		id;				/* the executor, or the task */
	int			max;			/* steps that it wants */
	int			n_handlers;		/* -1: any */
	int32		handlers[MAX_WAITER_HANDLERS];
	int32		granted_handler;	/* what it was woken for, and how many of it */
	int			granted;
} Waiter;

typedef struct WaiterState
{
	LWLock	   *lock;			/* protects everything here but the counts */
	pg_atomic_uint32 counts[WAIT_KINDS];	/* how many are in the lists */
	dlist_head	lists[WAIT_KINDS];	/* first come, first woken */
	Waiter		waiters[FLEXIBLE_ARRAY_MEMBER]; /* by the session's place among processes */
} WaiterState;

/* Steps of one handler in the current transaction. */
typedef struct StepNote
{
	int32		handler_id;
	int			waiting;		/* came to wait: for its commit */
	int			taken;			/* will wait again: for its abort */
} StepNote;

typedef struct IdNotes
{
	int64	   *ids;
	int			n;
	int			room;
} IdNotes;

static WaiterState *State = NULL;
static bool joined = false;		/* this session has something in its place */
static shmem_request_hook_type previous_request_hook = NULL;
static shmem_startup_hook_type previous_startup_hook = NULL;

static StepNote *step_notes = NULL;
static int	step_note_count = 0;
static int	step_note_room = 0;
static IdNotes ended_tasks;
static IdNotes ended_executors;
static bool everyone_looks_again = false;

/* ---------- shared memory ---------- */

static Size
WaiterStateSize(void)
{
	return add_size(offsetof(WaiterState, waiters), mul_size(MaxBackends, sizeof(Waiter)));
}

static void
RequestWaiters(void)
{
	if (previous_request_hook)
		previous_request_hook();
	RequestAddinShmemSpace(WaiterStateSize());
	RequestNamedLWLockTranche("tasker waiters", 1);
}

static void
StartWaiters(void)
{
	bool		found;

	if (previous_startup_hook)
		previous_startup_hook();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	State = ShmemInitStruct("tasker waiters", WaiterStateSize(), &found);
	if (!found)
	{
		memset(State, 0, WaiterStateSize());
		State->lock = &(GetNamedLWLockTranche("tasker waiters"))->lock;
		for (int kind = 0; kind < WAIT_KINDS; kind++)
		{
			pg_atomic_init_u32(&State->counts[kind], 0);
			dlist_init(&State->lists[kind]);
		}
	}
	LWLockRelease(AddinShmemInitLock);
}

bool
WaitersAreWoken(void)
{
	return State != NULL && !RecoveryInProgress();
}

/* ---------- waking, under the lock ---------- */

static void
RemoveWaiter(Waiter *waiter)
{
	dlist_delete(&waiter->node);
	waiter->waiting = false;
	pg_atomic_fetch_sub_u32(&State->counts[waiter->kind], 1);
}

static void
WakeWaiter(Waiter *waiter)
{
	RemoveWaiter(waiter);
	SetLatch(waiter->latch);
}

static bool
RunsHandler(const Waiter *waiter, int32 handler_id)
{
	for (int i = 0; i < waiter->n_handlers; i++)
	{
		if (waiter->handlers[i] == handler_id)
			return true;
	}
	return waiter->n_handlers < 0;
}

/* Wakes as many waiters as want so many steps of a handler together. */
static void
WakeForSteps(Oid database, int32 handler_id, int n)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &State->lists[WAIT_FOR_STEPS])
	{
		Waiter	   *waiter = dlist_container(Waiter, node, iter.cur);

		if (n <= 0)
			return;
		if (waiter->database != database || !RunsHandler(waiter, handler_id))
			continue;
		waiter->granted_handler = handler_id;
		waiter->granted = Min(n, waiter->max);
		n -= waiter->granted;
		WakeWaiter(waiter);
	}
}

static int
CompareNotedIds(const void *a, const void *b)
{
	int64		left = *(const int64 *) a;
	int64		right = *(const int64 *) b;

	return left < right ? -1 : left > right;
}

/* Wakes those who wait for one of these tasks, or in the name of one of these executors. */
static void
WakeForIds(Oid database, WaitKind kind, const IdNotes *notes)
{
	dlist_mutable_iter iter;

	qsort(notes->ids, notes->n, sizeof(int64), CompareNotedIds);
	dlist_foreach_modify(iter, &State->lists[kind])
	{
		Waiter	   *waiter = dlist_container(Waiter, node, iter.cur);

		if (waiter->database == database &&
			bsearch(&waiter->id, notes->ids, notes->n, sizeof(int64), CompareNotedIds) != NULL)
			WakeWaiter(waiter);
	}
}

static void
WakeEveryone(Oid database)
{
	for (int kind = 0; kind < WAIT_KINDS; kind++)
	{
		dlist_mutable_iter iter;

		dlist_foreach_modify(iter, &State->lists[kind])
		{
			Waiter	   *waiter = dlist_container(Waiter, node, iter.cur);

			if (waiter->database == database)
				WakeWaiter(waiter);
		}
	}
}

void
WakeAllWaiters(Oid database)
{
	if (State == NULL)
		return;
	LWLockAcquire(State->lock, LW_EXCLUSIVE);
	WakeEveryone(database);
	LWLockRelease(State->lock);
}

/* ---------- notes of the current transaction ---------- */

static StepNote *
StepNoteOf(int32 handler_id)
{
	/* Steps come in runs of the same handler: the latest is the likeliest. */
	for (int i = step_note_count - 1; i >= 0; i--)
	{
		if (step_notes[i].handler_id == handler_id)
			return &step_notes[i];
	}
	if (step_note_count == step_note_room)
	{
		step_note_room = Max(16, 2 * step_note_room);
		step_notes = step_notes ?
			repalloc(step_notes, sizeof(StepNote) * step_note_room) :
			MemoryContextAlloc(TopMemoryContext, sizeof(StepNote) * step_note_room);
	}
	step_notes[step_note_count] = (StepNote)
	{
		.handler_id = handler_id
	};
	return &step_notes[step_note_count++];
}

void
NoteStepsWaiting(int32 handler_id, int n)
{
	if (State != NULL)
		StepNoteOf(handler_id)->waiting += n;
}

void
NoteStepsTaken(int32 handler_id, int n)
{
	if (State != NULL)
		StepNoteOf(handler_id)->taken += n;
}

static void
NoteIds(IdNotes *notes, const int64 *ids, int n)
{
	if (State == NULL || n == 0)
		return;
	if (notes->n + n > notes->room)
	{
		notes->room = Max(64, Max(2 * notes->room, notes->n + n));
		notes->ids = notes->ids ?
			repalloc_huge(notes->ids, sizeof(int64) * notes->room) :
			MemoryContextAllocHuge(TopMemoryContext, sizeof(int64) * notes->room);
	}
	memcpy(notes->ids + notes->n, ids, sizeof(int64) * n);
	notes->n += n;
}

void
NoteTasksEnded(const int64 *task_ids, int n)
{
	NoteIds(&ended_tasks, task_ids, n);
}

void
NoteExecutorsEnded(const int64 *executor_ids, int n)
{
	NoteIds(&ended_executors, executor_ids, n);
}

void
NoteEveryoneLooksAgain(void)
{
	everyone_looks_again = State != NULL;
}

/* Wakes for what this transaction, or one inside it, has put into the queue or given back to it. */
static void
WakeForStepNotes(bool commit)
{
	for (int i = 0; i < step_note_count; i++)
		WakeForSteps(MyDatabaseId, step_notes[i].handler_id,
					 commit ? step_notes[i].waiting : step_notes[i].taken);
}

/* Whether anybody waits; what was noted is visible to all by now. */
static bool
AnyoneWaits(void)
{
	pg_memory_barrier();
	return pg_atomic_read_u32(&State->counts[WAIT_FOR_STEPS]) > 0 ||
		pg_atomic_read_u32(&State->counts[WAIT_FOR_TASK]) > 0;
}

static void
WakeForNotes(bool commit)
{
	if (step_note_count + ended_tasks.n + ended_executors.n == 0 && !everyone_looks_again)
		return;
	if (!AnyoneWaits())
		return;
	LWLockAcquire(State->lock, LW_EXCLUSIVE);
	WakeForStepNotes(commit);
	if (commit && ended_tasks.n > 0)
		WakeForIds(MyDatabaseId, WAIT_FOR_TASK, &ended_tasks);
	if (commit && ended_executors.n > 0)
		WakeForIds(MyDatabaseId, WAIT_FOR_STEPS, &ended_executors);
	if (commit && everyone_looks_again)
		WakeEveryone(MyDatabaseId);
	LWLockRelease(State->lock);
}

static void
ForgetIds(IdNotes *notes)
{
	notes->n = 0;
	if (notes->room > 8192)
	{
		pfree(notes->ids);
		notes->ids = NULL;
		notes->room = 0;
	}
}

static void
FollowTransaction(XactEvent event, void *arg)
{
	if (State == NULL ||
		(event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT && event != XACT_EVENT_PREPARE))
		return;
	if (joined && event == XACT_EVENT_ABORT)
		LeaveWaiters(NULL, 0, false);
	if (event != XACT_EVENT_PREPARE)
		WakeForNotes(event == XACT_EVENT_COMMIT);
	step_note_count = 0;
	everyone_looks_again = false;
	ForgetIds(&ended_tasks);
	ForgetIds(&ended_executors);
}

/* What a rolled-back subtransaction had taken waits again from now on; it is not known which. */
static void
FollowSubtransaction(SubXactEvent event, SubTransactionId mine, SubTransactionId parent, void *arg)
{
	if (State == NULL || event != SUBXACT_EVENT_ABORT_SUB || step_note_count == 0 || !AnyoneWaits())
		return;
	LWLockAcquire(State->lock, LW_EXCLUSIVE);
	WakeForStepNotes(false);
	LWLockRelease(State->lock);
}

/* ---------- waiting ---------- */

static Waiter *
MyPlace(void)
{
	ptrdiff_t	place = MyProc - ProcGlobal->allProcs;

	if (place < 0 || place >= MaxBackends)
		elog(ERROR, "process %d is no session and cannot wait", MyProcPid);
	return &State->waiters[place];
}

/* Enters the list of its kind at the end, or stays where it is. */
static void
JoinWaiters(const Waiter *wish)
{
	Waiter	   *waiter = MyPlace();

	joined = true;
	LWLockAcquire(State->lock, LW_EXCLUSIVE);
	if (!waiter->waiting)
	{
		*waiter = *wish;
		waiter->waiting = true;
		waiter->database = MyDatabaseId;
		waiter->latch = MyLatch;
		dlist_push_tail(&State->lists[waiter->kind], &waiter->node);
		pg_atomic_fetch_add_u32(&State->counts[waiter->kind], 1);
	}
	LWLockRelease(State->lock);
}

void
JoinStepWaiters(int64 executor_id, const int32 *handler_ids, int n_handlers, int max)
{
	Waiter		wish = {.kind = WAIT_FOR_STEPS,.id = executor_id,.max = max,.n_handlers = n_handlers};

	if (n_handlers > MAX_WAITER_HANDLERS)
		wish.n_handlers = -1;
	else
		memcpy(wish.handlers, handler_ids, sizeof(int32) * n_handlers);
	JoinWaiters(&wish);
}

void
JoinTaskWaiters(int64 task_id)
{
	Waiter		wish = {.kind = WAIT_FOR_TASK,.id = task_id};

	JoinWaiters(&wish);
}

void
LeaveWaiters(const int32 *taken_of_handlers, int n_taken, bool wants_more)
{
	Waiter	   *waiter;
	int32		handler_id = 0;
	int			left = 0;

	if (!joined)
		return;
	joined = false;
	waiter = MyPlace();
	LWLockAcquire(State->lock, LW_EXCLUSIVE);
	if (waiter->waiting)
		RemoveWaiter(waiter);
	for (int i = 0; i < n_taken && waiter->granted > 0; i++)
	{
		if (taken_of_handlers[i] == waiter->granted_handler)
			waiter->granted--;
	}
	if (!wants_more)
	{
		left = waiter->granted;
		handler_id = waiter->granted_handler;
	}
	waiter->granted = 0;
	LWLockRelease(State->lock);
	/* Not before the end of the transaction: until then it may hold locks on them. */
	if (left > 0)
	{
		NoteStepsWaiting(handler_id, left);
		NoteStepsTaken(handler_id, left);
	}
}

/* Ends the session if its client has gone: steps must not be claimed for nobody. */
static void
CheckClient(void)
{
	if (MyProcPort == NULL || pq_check_connection())
		return;
	ClientConnectionLost = true;
	InterruptPending = true;
	CHECK_FOR_INTERRUPTS();
}

/*
 * Waits once, for the latch, the time, or the client's going: its socket is
 * watched where the system can tell that without reading from it.
 */
static void
WaitOnce(long timeout, uint32 wait_event)
{
	WaitEvent	event;

	if (MyProcPort == NULL || FeBeWaitSet == NULL || !WaitEventSetCanReportClosed())
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_EXIT_ON_PM_DEATH | (timeout >= 0 ? WL_TIMEOUT : 0),
						 timeout, wait_event);
	else
	{
		ModifyWaitEvent(FeBeWaitSet, CLIENT_SOCKET_POSITION, WL_SOCKET_CLOSED, NULL);
		if (WaitEventSetWait(FeBeWaitSet, timeout, &event, 1, wait_event) == 1 &&
			(event.events & WL_POSTMASTER_DEATH))
			ereport(FATAL,
					(errcode(ERRCODE_ADMIN_SHUTDOWN),
					 errmsg("terminating connection due to unexpected postmaster exit")));
	}
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
	if (catchupInterruptPending)
		ProcessCatchupInterrupt();
	CheckClient();
}

bool
SleepUntilWoken(TimestampTz until, uint32 wait_event)
{
	const volatile Waiter *waiter = joined ? MyPlace() : NULL;

	for (;;)
	{
		long		timeout = -1;

		if (waiter != NULL && !waiter->waiting)
			return true;
		if (until != DT_NOEND)
		{
			timeout = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), until);
			if (timeout <= 0)
				return false;
		}
		/* Reading a catalog may have left one. */
		InvalidateCatalogSnapshot();
		Assert(!HaveRegisteredOrActiveSnapshot());
		WaitOnce(timeout, wait_event);
	}
}

void
InitWaiters(void)
{
	RegisterXactCallback(FollowTransaction, NULL);
	RegisterSubXactCallback(FollowSubtransaction, NULL);
	if (!process_shared_preload_libraries_in_progress || IsBinaryUpgrade)
		return;
	previous_request_hook = shmem_request_hook;
	shmem_request_hook = RequestWaiters;
	previous_startup_hook = shmem_startup_hook;
	shmem_startup_hook = StartWaiters;
}
