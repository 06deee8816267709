/*
 * orchestrate.c
 *		Consequences, drawn from the log: discovery, retries, recovery,
 *		dispatch.
 *
 * A batch is one transaction: read what is new in the logs, see what follows
 * (reads only), move tasks, move steps, dispatch.  What a batch moves is in
 * the log again and is read by the next one, its own claims included: that
 * is how the memory of who has which step is kept, and why it may be thrown
 * away.
 *
 * Reading the log exactly once.  A position is a pg_snapshot.  New are the
 * rows of transactions that were running at the position or started since;
 * the next position is the snapshot of that same read.  Both logs are read in
 * one statement, since two statements have two snapshots.  A transaction is
 * not in its own snapshot, so its number is added to the position: rows that
 * it writes later are then read again rather than never.
 *
 * Fan-in is race-free without locks between siblings: the parent that commits
 * last is read last, and by then every parent is seen finished.  A child may
 * be found twice, or before its last parent's row is read; the state of the
 * step and the key of the queue make that harmless.
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "commands/async.h"
#include "execute/claim.h"
#include "execute/executor.h"
#include "execute/outcome.h"
#include "execute/pause.h"
#include "execute/queue.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "orchestrate/finalize.h"
#include "orchestrate/orchestrate.h"
#include "pg/clock.h"
#include "pg/guc.h"
#include "pg/query.h"
#include "run/timer.h"
#include "run/transition.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/hsearch.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"

/* NOTIFY refuses payloads of 8000 bytes. */
#define MAX_PAYLOAD 7900

/* A step whose entry in a payload would be longer is fetched by my_steps. */
#define MAX_PAYLOAD_ENTRY 6000

/* How soon rows that were locked are tried again. */
#define LOCKED_RETRY_US 50000

/* Beyond this many the memory of open parents and tasks is dropped. */
#define MAX_WATCHED 200000

/* ---------- lists of ids ---------- */

typedef struct IdList
{
	int64	   *ids;
	int			n;
	int			room;
} IdList;

static void
AddId(MemoryContext context, IdList *list, int64 id)
{
	if (list->n == list->room)
	{
		list->room = Max(64, 2 * list->room);
		list->ids = list->ids ? repalloc_huge(list->ids, sizeof(int64) * list->room) :
			MemoryContextAllocHuge(context, sizeof(int64) * list->room);
	}
	list->ids[list->n++] = id;
}

static int
CompareIds(const void *a, const void *b)
{
	int64		left = *(const int64 *) a;
	int64		right = *(const int64 *) b;

	return left < right ? -1 : left > right;
}

/* Takes up to max ids off the end of a list: sorted, each once, in the current context. */
static int64 *
TakeIds(IdList *list, int max, int *n)
{
	int			take = Min(max, list->n);
	int64	   *ids = palloc(sizeof(int64) * Max(take, 1));

	memcpy(ids, list->ids + list->n - take, sizeof(int64) * take);
	list->n -= take;
	qsort(ids, take, sizeof(int64), CompareIds);
	*n = 0;
	for (int i = 0; i < take; i++)
	{
		if (i == 0 || ids[i] != ids[i - 1])
			ids[(*n)++] = ids[i];
	}
	return ids;
}

/* ---------- the memory ---------- */

/* What is left to look at. */
typedef enum WorkKind
{
	WORK_STARTED,				/* tasks that became pending */
	WORK_CLOSED,				/* steps that became complete or resolved */
	WORK_FAILED,				/* steps that came to error */
	WORK_CANCELLED,				/* steps that were cancelled */
	WORK_CANDIDATES,			/* steps that may be ready */
	WORK_FINALS,				/* tasks that may be done or stuck */
	WORK_KINDS
} WorkKind;

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
	int64		generation;		/* of the checkpoint this comes from; 0: not read yet */
	char	   *position;		/* a pg_snapshot as text */
	bool		reconcile;
	bool		paused;
	IdList		work[WORK_KINDS];
	IdList		last;			/* what the last batch took, if it was of one */
	IdList		postponed[WORK_KINDS];
	TimestampTz postponed_until;
	bool		avoid_locked_rows;
	HTAB	   *in_flight;
	HTAB	   *watched_children;
	HTAB	   *watched_tasks;
	bool		refresh_executors;
	int			executor_count;
	ExecutorSlot *executors;
	HTAB	   *handlers;
	TimestampTz executors_good_until;
	TimestampTz timers_taken_until;
	bool		dirty;			/* more was read than the checkpoint knows */
	TimestampTz saved_at;		/* by the real clock */
};

/* What one batch decides before it moves anything. */
typedef struct Batch
{
	Orchestrator *o;
	TimestampTz now;
	int			batch_size;
	int64		transitions;
	IdList		start;			/* tasks: pending to in_progress */
	IdList		promote;		/* steps: error to pending */
	IdList		skip;			/* steps: error to resolved */
	IdList		cascade;		/* steps: pending to cancelled */
	IdList		dequeue;		/* steps that need no executor any more */
	int			n_ready;
	int			ready_room;
	ReadyStep  *ready;
	int			n_failures;
	StepFailure *failures;		/* lost executors and timeouts */
	int			n_timers;
	Timer	   *timers;
	BatchReport report;
} Batch;

static HTAB *
MakeHash(MemoryContext context, const char *name, Size key_size, Size entry_size)
{
	HASHCTL		control = {.keysize = key_size,.entrysize = entry_size,.hcxt = context};

	return hash_create(name, 256, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

static HTAB *
MakeWatches(Orchestrator *o)
{
	return MakeHash(o->context, "tasker watches", sizeof(int64), sizeof(Watch));
}

static void
MakeMemory(Orchestrator *o)
{
	o->in_flight = MakeHash(o->context, "tasker in flight", sizeof(int64), sizeof(InFlight));
	o->watched_children = MakeWatches(o);
	o->watched_tasks = MakeWatches(o);
	o->executor_context = AllocSetContextCreate(o->context, "tasker executors", ALLOCSET_DEFAULT_SIZES);
	o->refresh_executors = true;
	o->timers_taken_until = DT_NOBEGIN;
}

Orchestrator *
OpenOrchestrator(MemoryContext parent)
{
	MemoryContext context = AllocSetContextCreate(parent, "tasker orchestrator", ALLOCSET_DEFAULT_SIZES);
	Orchestrator *o = MemoryContextAllocZero(context, sizeof(Orchestrator));

	o->context = context;
	MakeMemory(o);
	return o;
}

void
CloseOrchestrator(Orchestrator *o)
{
	MemoryContextDelete(o->context);
}

void
RefreshExecutors(Orchestrator *o)
{
	o->refresh_executors = true;
}

void
AvoidLockedRows(Orchestrator *o)
{
	o->avoid_locked_rows = true;
}

bool
MetLockedRows(const Orchestrator *o)
{
	return o->postponed_until != 0;
}

/*
 * Owners that a batch of one could not get past.  They outlive the memory
 * that met them: it is thrown away after an error and reads them again.
 */
static HTAB *set_aside = NULL;

static bool
IsSetAside(int64 id)
{
	return set_aside != NULL && hash_search(set_aside, &id, HASH_FIND, NULL) != NULL;
}

int
SetAsideLast(Orchestrator *o)
{
	if (set_aside == NULL)
		set_aside = MakeHash(TopMemoryContext, "tasker set aside", sizeof(int64), sizeof(int64));
	for (int i = 0; i < o->last.n; i++)
		(void) hash_search(set_aside, &o->last.ids[i], HASH_ENTER, NULL);
	return (int) hash_get_num_entries(set_aside);
}

static void
AddWork(Orchestrator *o, WorkKind kind, int64 id)
{
	if (!IsSetAside(id))
		AddId(o->context, &o->work[kind], id);
}

/* Takes work of a kind for a batch; what the smallest batch takes is remembered, in case it fails. */
static int64 *
TakeWork(Batch *batch, WorkKind kind, int *n)
{
	int64	   *ids = TakeIds(&batch->o->work[kind], batch->batch_size, n);

	for (int i = 0; i < *n && batch->batch_size == 1; i++)
		AddId(batch->o->context, &batch->o->last, ids[i]);
	return ids;
}

static bool
HasWork(const Orchestrator *o)
{
	for (int kind = 0; kind < WORK_KINDS; kind++)
	{
		if (o->work[kind].n > 0)
			return true;
	}
	return false;
}

static void
Postpone(Orchestrator *o, WorkKind kind, int64 id, TimestampTz now)
{
	AddId(o->context, &o->postponed[kind], id);
	o->postponed_until = now + LOCKED_RETRY_US;
}

/* What was postponed is work again when its time has come. */
static void
TakeUpPostponed(Orchestrator *o, TimestampTz now)
{
	if (o->postponed_until == 0 || o->postponed_until > now)
		return;
	for (int kind = 0; kind < WORK_KINDS; kind++)
	{
		for (int i = 0; i < o->postponed[kind].n; i++)
			AddWork(o, kind, o->postponed[kind].ids[i]);
		o->postponed[kind].n = 0;
	}
	o->postponed_until = 0;
}

/* ---------- watching ---------- */

/* A watch only saves work; too many are dropped, those of gone owners with them. */
static void
SetWatch(Orchestrator *o, HTAB **watches, int64 owner_id, int64 waits_for)
{
	Watch	   *watch;

	if (hash_get_num_entries(*watches) >= MAX_WATCHED)
	{
		hash_destroy(*watches);
		*watches = MakeWatches(o);
	}
	watch = hash_search(*watches, &owner_id, HASH_ENTER, NULL);
	watch->waits_for = waits_for;
}

/*
 * Whether the owner is known to wait for another step than the one that just
 * moved, so that there is nothing to look at.  Forgets the watch otherwise.
 */
static bool
WaitsForAnother(HTAB *watches, int64 owner_id, int64 moved)
{
	Watch	   *watch = hash_search(watches, &owner_id, HASH_FIND, NULL);

	if (watch == NULL)
		return false;
	if (watch->waits_for != moved)
		return true;
	(void) hash_search(watches, &owner_id, HASH_REMOVE, NULL);
	return false;
}

/* ---------- in flight ---------- */

static ExecutorSlot *
FindExecutorSlot(Orchestrator *o, int64 executor_id)
{
	int			low = 0;
	int			high = o->executor_count - 1;

	while (low <= high)
	{
		int			middle = (low + high) / 2;
		int64		id = o->executors[middle].executor.executor_id;

		if (id == executor_id)
			return &o->executors[middle];
		if (id < executor_id)
			low = middle + 1;
		else
			high = middle - 1;
	}
	return NULL;
}

static void
NoteLanding(Orchestrator *o, int64 step_id)
{
	InFlight   *flight = hash_search(o->in_flight, &step_id, HASH_FIND, NULL);
	ExecutorSlot *slot;

	if (flight == NULL)
		return;
	slot = FindExecutorSlot(o, flight->executor_id);
	if (slot != NULL)
		slot->in_flight--;
	(void) hash_search(o->in_flight, &step_id, HASH_REMOVE, NULL);
}

static void
NoteFlight(Orchestrator *o, int64 step_id, int64 executor_id)
{
	InFlight   *flight;
	ExecutorSlot *slot;

	NoteLanding(o, step_id);
	flight = hash_search(o->in_flight, &step_id, HASH_ENTER, NULL);
	flight->executor_id = executor_id;
	slot = FindExecutorSlot(o, executor_id);
	if (slot != NULL)
		slot->in_flight++;
	else
		o->refresh_executors = true;
}

/* ---------- the checkpoint ---------- */

static KeptQuery READ_CHECKPOINT = {
	.sql =
	"SELECT generation, position::text, reconcile, in_flight_steps, in_flight_executors"
	"  FROM tasker.orchestrator_checkpoint",
	.nargs = 0
};

static KeptQuery SAVE_CHECKPOINT = {
	.sql =
	"UPDATE tasker.orchestrator_checkpoint"
	"   SET generation = generation + 1, position = $1::pg_snapshot, reconcile = false,"
	"       in_flight_steps = $2, in_flight_executors = $3, saved_at = $4"
	" RETURNING generation",
	.nargs = 4,.types = {TEXTOID, INT8ARRAYOID, INT8ARRAYOID, TIMESTAMPTZOID}
};

/* Forgets everything and starts from the checkpoint. */
static void
ReadCheckpoint(Orchestrator *o)
{
	MemoryContext context = o->context;
	bool		avoid_locked_rows = o->avoid_locked_rows;
	ArrayType  *steps;
	ArrayType  *executors;

	MemoryContextDeleteChildren(context);
	*o = (Orchestrator)
	{
		.context = context,.avoid_locked_rows = avoid_locked_rows
	};
	MakeMemory(o);
	if (RunPlainQuery(&READ_CHECKPOINT) == 0)
	{
		EnsureCheckpoint();
		(void) RunPlainQuery(&READ_CHECKPOINT);
	}
	o->generation = RowInt64(0, 1);
	o->position = MemoryContextStrdup(context, RowText(0, 2));
	o->reconcile = RowBool(0, 3);
	o->saved_at = GetCurrentTimestamp();
	steps = DatumGetArrayTypeP(RowDatum(0, 4, NULL));
	executors = DatumGetArrayTypeP(RowDatum(0, 5, NULL));
	for (int i = 0; i < ArrayGetNItems(ARR_NDIM(steps), ARR_DIMS(steps)); i++)
		NoteFlight(o, ((int64 *) ARR_DATA_PTR(steps))[i], ((int64 *) ARR_DATA_PTR(executors))[i]);
}

static void
SaveCheckpoint(Orchestrator *o)
{
	long		n = hash_get_num_entries(o->in_flight);
	int64	   *steps = palloc(sizeof(int64) * Max(n, 1));
	int64	   *executors = palloc(sizeof(int64) * Max(n, 1));
	HASH_SEQ_STATUS scan;
	InFlight   *flight;
	Datum		args[4];
	int			i = 0;

	hash_seq_init(&scan, o->in_flight);
	while ((flight = hash_seq_search(&scan)) != NULL)
	{
		steps[i] = flight->step_id;
		executors[i++] = flight->executor_id;
	}
	args[0] = CStringGetTextDatum(o->position);
	args[1] = Int64Array(steps, i);
	args[2] = Int64Array(executors, i);
	args[3] = TimestampTzGetDatum(TaskerNow());
	(void) RunQuery(&SAVE_CHECKPOINT, args, NULL);
	o->generation = RowInt64(0, 1);
	o->saved_at = GetCurrentTimestamp();
	o->dirty = false;
	o->reconcile = false;
	/* Timers that sessions wrote late are found by looking from the start now and then. */
	o->timers_taken_until = DT_NOBEGIN;
}

/* ---------- reading the log ---------- */

static KeptQuery READ_LOG = {
	.sql =
	"SELECT 'p' AS kind, 0::bigint AS owner_id, 0 AS sort_key, NULL AS to_state, c.generation AS executor_id,"
	"       pg_current_snapshot()::text AS position,"
	"       c.paused_at IS NOT NULL OR c.system_identifier <> $2 AS paused"
	"  FROM tasker.orchestrator_checkpoint c"
	" UNION ALL "
	"SELECT 't', task_id, sort_key, to_state::text, NULL, NULL, NULL FROM tasker.task_transition_log"
	" WHERE xact_id >= pg_snapshot_xmax($1::pg_snapshot) AND to_state = 'pending'"
	" UNION ALL "
	"SELECT 't', task_id, sort_key, to_state::text, NULL, NULL, NULL FROM tasker.task_transition_log"
	" WHERE xact_id = ANY (ARRAY(SELECT pg_snapshot_xip($1::pg_snapshot))) AND to_state = 'pending'"
	" UNION ALL "
	"SELECT 's', workflow_step_id, sort_key, to_state::text, executor_id, NULL, NULL FROM tasker.workflow_step_transition_log"
	" WHERE xact_id >= pg_snapshot_xmax($1::pg_snapshot)"
	" UNION ALL "
	"SELECT 's', workflow_step_id, sort_key, to_state::text, executor_id, NULL, NULL FROM tasker.workflow_step_transition_log"
	" WHERE xact_id = ANY (ARRAY(SELECT pg_snapshot_xip($1::pg_snapshot)))"
	" ORDER BY kind, owner_id, sort_key",
	.nargs = 2,.types = {TEXTOID, INT8OID}
};

/*
 * The snapshot as the next position: with our own transaction among those
 * still running, if it has a number that the snapshot counts as past.
 */
static char *
PositionOfSnapshot(MemoryContext context, const char *snapshot)
{
	FullTransactionId own = GetTopFullTransactionIdIfAny();
	uint64		xmin;
	uint64		xmax;
	const char *running = strrchr(snapshot, ':') + 1;
	StringInfoData position;
	char	   *rest;
	bool		placed = false;

	xmin = strtou64(snapshot, &rest, 10);
	xmax = strtou64(rest + 1, NULL, 10);
	if (!FullTransactionIdIsValid(own) || U64FromFullTransactionId(own) >= xmax)
		return MemoryContextStrdup(context, snapshot);

	/* The list is in ascending order. */
	initStringInfo(&position);
	appendStringInfo(&position, UINT64_FORMAT ":" UINT64_FORMAT ":",
					 Min(xmin, U64FromFullTransactionId(own)), xmax);
	for (const char *c = running; *c != '\0' || !placed;)
	{
		uint64		xid = *c != '\0' ? strtou64(c, &rest, 10) : PG_UINT64_MAX;

		if (!placed && xid > U64FromFullTransactionId(own))
		{
			appendStringInfo(&position, "%s" UINT64_FORMAT, position.data[position.len - 1] == ':' ? "" : ",",
							 U64FromFullTransactionId(own));
			placed = true;
			continue;
		}
		appendStringInfo(&position, "%s" UINT64_FORMAT, position.data[position.len - 1] == ':' ? "" : ",", xid);
		c = *rest == ',' ? rest + 1 : rest;
	}
	return MemoryContextStrdup(context, position.data);
}

static void
ApplyStepRow(Orchestrator *o, int64 step_id, TaskerState to_state, bool has_executor, int64 executor_id)
{
	if (to_state != STATE_IN_PROGRESS)
		NoteLanding(o, step_id);
	switch (to_state)
	{
		case STATE_IN_PROGRESS:
			if (has_executor)
				NoteFlight(o, step_id, executor_id);
			break;
		case STATE_COMPLETE:
		case STATE_RESOLVED_MANUALLY:
			AddWork(o, WORK_CLOSED, step_id);
			break;
		case STATE_ERROR:
			AddWork(o, WORK_FAILED, step_id);
			break;
		case STATE_CANCELLED:
			AddWork(o, WORK_CANCELLED, step_id);
			break;
		default:
			AddWork(o, WORK_CANDIDATES, step_id);
			break;
	}
}

/*
 * Reads what is new in both logs and turns it into work.  Starts again from
 * the checkpoint if somebody else has moved it.
 */
static void
ReadLog(Batch *batch)
{
	Orchestrator *o = batch->o;
	Datum		args[2];
	uint64		rows;
	char	   *position = NULL;

	if (o->generation == 0)
		ReadCheckpoint(o);
	args[1] = Int64GetDatum((int64) GetSystemIdentifier());
	for (;;)
	{
		args[0] = CStringGetTextDatum(o->position);
		rows = RunQuery(&READ_LOG, args, NULL);
		if (rows > 0 && RowText(0, 1)[0] == 'p' && RowInt64(0, 5) == o->generation)
			break;
		ReadCheckpoint(o);
	}
	for (uint64 row = 0; row < rows; row++)
	{
		bool		no_executor;
		Datum		executor = RowDatum(row, 5, &no_executor);
		char		kind = RowText(row, 1)[0];

		if (kind == 'p')
		{
			position = PositionOfSnapshot(o->context, RowText(row, 6));
			o->paused = RowBool(row, 7);
		}
		else if (kind == 't')
			AddWork(o, WORK_STARTED, RowInt64(row, 2));
		else
			ApplyStepRow(o, RowInt64(row, 2), StateOfLabel(RowText(row, 4)), !no_executor,
						 no_executor ? 0 : DatumGetInt64(executor));
	}
	pfree(o->position);
	o->position = position;
	batch->report.log_rows += rows - 1;
	o->dirty |= rows > 1;
}

/* ---------- reading rows instead of the log ---------- */

static KeptQuery READ_OPEN_TASKS = {
	.sql =
	"SELECT t.task_id, t.state = 'pending', s.workflow_step_id, s.state::text"
	"  FROM tasker.tasks t JOIN tasker.workflow_steps s ON s.task_id = t.task_id"
	" WHERE t.state IN ('pending', 'in_progress')"
	"   AND s.state IN ('pending', 'error', 'cancelled', 'complete', 'resolved_manually')"
	" ORDER BY t.task_id",
	.nargs = 0
};

static KeptQuery READ_TASK = {
	.sql =
	"SELECT t.task_id, t.state = 'pending', s.workflow_step_id, s.state::text"
	"  FROM tasker.tasks t JOIN tasker.workflow_steps s ON s.task_id = t.task_id"
	" WHERE t.task_id = $1",
	.nargs = 1,.types = {INT8OID}
};

/* Everything that could follow from the rows of the last query. */
static void
AddWorkOfRows(Orchestrator *o, uint64 rows)
{
	int64		task_id = 0;

	for (uint64 row = 0; row < rows; row++)
	{
		TaskerState state = StateOfLabel(RowText(row, 4));

		if (RowInt64(row, 1) != task_id)
		{
			task_id = RowInt64(row, 1);
			if (RowBool(row, 2))
				AddWork(o, WORK_STARTED, task_id);
			AddWork(o, WORK_FINALS, task_id);
		}
		if (state == STATE_PENDING)
			AddWork(o, WORK_CANDIDATES, RowInt64(row, 3));
		else if (state == STATE_ERROR)
			AddWork(o, WORK_FAILED, RowInt64(row, 3));
		else if (state == STATE_CANCELLED)
			AddWork(o, WORK_CANCELLED, RowInt64(row, 3));
	}
}

void
LookAtTask(Orchestrator *o, int64 task_id)
{
	Datum		arg = Int64GetDatum(task_id);
	uint64		rows;

	if (o->generation == 0)
		ReadCheckpoint(o);
	rows = RunQuery(&READ_TASK, &arg, NULL);
	if (rows == 0)
		RefuseUnknown("task", task_id);
	AddWorkOfRows(o, rows);
}

/* ---------- executors ---------- */

static Handler *
HandlerOf(Orchestrator *o, int32 handler_id)
{
	bool		found;
	Handler    *handler = hash_search(o->handlers, &handler_id, HASH_ENTER, &found);

	if (!found)
	{
		handler->may_wait = true;
		handler->n = handler->next = 0;
		handler->executors = NULL;
	}
	return handler;
}

/* Lists for each handler the executors that steps are pushed to. */
static void
ListHandlers(Orchestrator *o)
{
	o->handlers = MakeHash(o->executor_context, "tasker handlers", sizeof(int32), sizeof(Handler));
	for (int e = 0; e < o->executor_count; e++)
	{
		const Executor *executor = &o->executors[e].executor;

		for (int h = 0; h < executor->handler_count && executor->capacity > 0; h++)
		{
			Handler    *handler = HandlerOf(o, executor->handler_ids[h]);

			if ((handler->n & (handler->n + 1)) == 0)
				handler->executors = handler->executors ?
					repalloc(handler->executors, sizeof(int) * (2 * handler->n + 2)) :
					palloc(sizeof(int) * 2);
			handler->executors[handler->n++] = e;
		}
	}
}

static void
CountFlights(Orchestrator *o)
{
	HASH_SEQ_STATUS scan;
	InFlight   *flight;

	hash_seq_init(&scan, o->in_flight);
	while ((flight = hash_seq_search(&scan)) != NULL)
	{
		ExecutorSlot *slot = FindExecutorSlot(o, flight->executor_id);

		if (slot != NULL)
			slot->in_flight++;
	}
}

/* Reads who is there; those who are gone are ended. */
static void
ReadExecutors(Batch *batch)
{
	Orchestrator *o = batch->o;
	int64	   *gone;
	Executor   *executors;
	MemoryContext caller;
	int			n;
	int			n_gone = 0;

	MemoryContextReset(o->executor_context);
	caller = MemoryContextSwitchTo(o->executor_context);
	executors = ReadLiveExecutors(&n);
	o->executors = palloc0(sizeof(ExecutorSlot) * Max(n, 1));
	o->executor_count = 0;
	o->executors_good_until = DT_NOEND;
	gone = palloc(sizeof(int64) * Max(n, 1));
	for (int i = 0; i < n; i++)
	{
		TimestampTz good_until;

		if (ExecutorIsAlive(&executors[i], batch->now, &good_until))
		{
			o->executors[o->executor_count++].executor = executors[i];
			o->executors_good_until = Min(o->executors_good_until, good_until);
		}
		else
			gone[n_gone++] = executors[i].executor_id;
	}
	ListHandlers(o);
	MemoryContextSwitchTo(caller);
	CountFlights(o);
	EndExecutors(gone, n_gone, "lost");
	o->refresh_executors = false;
}

/* Leases that would have run out may have been renewed since they were read. */
static void
CheckLeases(Batch *batch)
{
	Orchestrator *o = batch->o;
	TimestampTz first = DT_NOEND;

	for (int e = 0; e < o->executor_count; e++)
	{
		TimestampTz good_until;

		if (!o->executors[e].executor.detached)
			continue;
		if (!ExecutorIsAlive(&o->executors[e].executor, batch->now, &good_until))
			o->refresh_executors = true;
		first = Min(first, good_until);
	}
	o->executors_good_until = first;
}

/* Room for failures, which lost executors and timeouts add. */
static void
AddFailure(Batch *batch, int64 step_id, int32 claim, char *error, const char *error_class, int32 retry_after)
{
	if (batch->failures == NULL)
		batch->failures = palloc(sizeof(StepFailure) * 16);
	else if (batch->n_failures >= 16 && (batch->n_failures & (batch->n_failures - 1)) == 0)
		batch->failures = repalloc(batch->failures, sizeof(StepFailure) * 2 * batch->n_failures);
	batch->failures[batch->n_failures++] = (StepFailure)
	{
		.step_id = step_id,.claim = claim,.error = error,.error_class = error_class,
			.retryable = true,.retry_after = retry_after
	};
}

static KeptQuery READ_CLAIMS = {
	.sql =
	"SELECT s.workflow_step_id, s.sort_key, s.executor_id"
	"  FROM unnest($1) u JOIN tasker.workflow_steps s ON s.workflow_step_id = u"
	" WHERE s.state = 'in_progress' AND s.executor_id IS NOT NULL",
	.nargs = 1,.types = {INT8ARRAYOID}
};

/* Steps whose executor is not there any more fail, to be retried at once. */
static void
FindLostSteps(Batch *batch)
{
	Orchestrator *o = batch->o;
	IdList		lost = {0};
	HASH_SEQ_STATUS scan;
	InFlight   *flight;
	int			n;
	int64	   *step_ids;
	Datum		arg;
	uint64		rows;

	hash_seq_init(&scan, o->in_flight);
	while ((flight = hash_seq_search(&scan)) != NULL)
	{
		if (FindExecutorSlot(o, flight->executor_id) == NULL)
			AddId(CurrentMemoryContext, &lost, flight->step_id);
	}
	if (lost.n == 0)
		return;
	step_ids = TakeIds(&lost, lost.n, &n);
	arg = Int64Array(step_ids, n);
	rows = RunQuery(&READ_CLAIMS, &arg, NULL);
	for (uint64 row = 0; row < rows; row++)
		AddFailure(batch, RowInt64(row, 1), RowInt32(row, 2),
				   psprintf("executor " INT64_FORMAT " was lost", RowInt64(row, 3)), "executor_lost", 0);
}

static void
LookAtExecutors(Batch *batch)
{
	Orchestrator *o = batch->o;

	if (!o->refresh_executors && o->executors_good_until <= batch->now)
		CheckLeases(batch);
	if (!o->refresh_executors)
		return;
	ReadExecutors(batch);
	FindLostSteps(batch);
}

/* ---------- timers ---------- */

static KeptQuery READ_TIMED_STEPS = {
	.sql =
	"SELECT s.workflow_step_id, s.sort_key, s.state::text, coalesce(s.timeout_seconds, 0)"
	"  FROM ROWS FROM (unnest($1), unnest($2)) u(step_id, sort_key)"
	"  JOIN tasker.workflow_steps s ON s.workflow_step_id = u.step_id AND s.sort_key = u.sort_key",
	.nargs = 2,.types = {INT8ARRAYOID, INT4ARRAYOID}
};

static void
TakeTimers(Batch *batch)
{
	Orchestrator *o = batch->o;
	int			n;
	Timer	   *timers = TakeDueTimers(o->timers_taken_until, batch->now, batch->batch_size, &n);
	int64	   *step_ids;
	int32	   *sort_keys;
	Datum		args[2];
	uint64		rows;

	if (n < batch->batch_size)
		o->timers_taken_until = batch->now;
	else
		batch->report.more = true;
	if (n == 0)
		return;
	step_ids = palloc(sizeof(int64) * n);
	sort_keys = palloc(sizeof(int32) * n);
	for (int i = 0; i < n; i++)
	{
		step_ids[i] = timers[i].step_id;
		sort_keys[i] = timers[i].sort_key;
	}
	args[0] = Int64Array(step_ids, n);
	args[1] = Int32Array(sort_keys, n);
	rows = RunQuery(&READ_TIMED_STEPS, args, NULL);
	for (uint64 row = 0; row < rows; row++)
	{
		TaskerState state = StateOfLabel(RowText(row, 3));

		if (state == STATE_ERROR)
			AddWork(o, WORK_FAILED, RowInt64(row, 1));
		else if (state == STATE_IN_PROGRESS)
			AddFailure(batch, RowInt64(row, 1), RowInt32(row, 2),
					   psprintf("the attempt took longer than %d seconds", RowInt32(row, 4)),
					   "timeout", RETRY_BY_BACKOFF);
	}
}

/* ---------- what follows ---------- */

static KeptQuery READ_CHILDREN = {
	.sql =
	"SELECT s.workflow_step_id, s.task_id, e.to_step_id"
	"  FROM unnest($1) u"
	"  JOIN tasker.workflow_steps s ON s.workflow_step_id = u"
	"  LEFT JOIN tasker.workflow_step_edges e ON e.from_step_id = s.workflow_step_id AND NOT s.is_leaf",
	.nargs = 1,.types = {INT8ARRAYOID}
};

/* The newest open parent: in a wide fan-in the last one to finish. */
static KeptQuery READ_CANDIDATES = {
	.sql =
	"SELECT c.workflow_step_id, c.task_id, c.handler_id, c.rank::integer, t.state::text, t.named_task_id,"
	"       p.workflow_step_id, p.state = 'in_progress' OR (p.state = 'error' AND p.next_retry_at IS NOT NULL),"
	"       c.state::text"
	"  FROM unnest($1) u"
	"  JOIN tasker.workflow_steps c ON c.workflow_step_id = u"
	"  JOIN tasker.tasks t ON t.task_id = c.task_id"
	"  LEFT JOIN LATERAL ("
	"   SELECT s.workflow_step_id, s.state, s.next_retry_at"
	"     FROM tasker.workflow_step_edges e"
	"     JOIN tasker.workflow_steps s ON s.workflow_step_id = e.from_step_id"
	"    WHERE e.to_step_id = c.workflow_step_id AND s.state NOT IN ('complete', 'resolved_manually')"
	"    ORDER BY e.from_step_id DESC LIMIT 1) p ON true",
	.nargs = 1,.types = {INT8ARRAYOID}
};

static KeptQuery READ_ROOTS = {
	.sql =
	"SELECT t.task_id, s.workflow_step_id, t.state = 'pending'"
	"  FROM unnest($1) u"
	"  JOIN tasker.tasks t ON t.task_id = u AND t.state IN ('pending', 'in_progress')"
	"  LEFT JOIN tasker.workflow_steps s ON s.task_id = t.task_id AND s.is_root AND s.state = 'pending'"
	" ORDER BY t.task_id",
	.nargs = 1,.types = {INT8ARRAYOID}
};

static KeptQuery READ_FAILED = {
	.sql =
	"SELECT s.workflow_step_id, s.task_id, s.sort_key, s.next_retry_at, s.skippable, s.handler_id,"
	"       s.rank::integer, t.named_task_id"
	"  FROM unnest($1) u"
	"  JOIN tasker.workflow_steps s ON s.workflow_step_id = u AND s.state = 'error'"
	"  JOIN tasker.tasks t ON t.task_id = s.task_id AND t.state IN ('pending', 'in_progress')",
	.nargs = 1,.types = {INT8ARRAYOID}
};

static KeptQuery READ_CANCELLED = {
	.sql =
	"SELECT s.task_id, c.workflow_step_id"
	"  FROM unnest($1) u"
	"  JOIN tasker.workflow_steps s ON s.workflow_step_id = u AND s.state = 'cancelled'"
	"  JOIN tasker.tasks t ON t.task_id = s.task_id AND t.state <> 'cancelled'"
	"  LEFT JOIN (tasker.workflow_step_edges e"
	"             JOIN tasker.workflow_steps c ON c.workflow_step_id = e.to_step_id)"
	"    ON e.from_step_id = s.workflow_step_id AND c.state = 'pending'",
	.nargs = 1,.types = {INT8ARRAYOID}
};

static void
AddReady(Batch *batch, ReadyStep step)
{
	if (batch->n_ready == batch->ready_room)
	{
		batch->ready_room = Max(64, 2 * batch->ready_room);
		batch->ready = batch->ready ? repalloc_huge(batch->ready, sizeof(ReadyStep) * batch->ready_room) :
			palloc(sizeof(ReadyStep) * batch->ready_room);
	}
	batch->ready[batch->n_ready++] = step;
}

/* A finished step: its children may be ready, its task may be done. */
static void
FollowClosed(Batch *batch)
{
	Orchestrator *o = batch->o;
	int			n;
	int64	   *step_ids = TakeWork(batch, WORK_CLOSED, &n);
	Datum		arg;
	uint64		rows;

	if (n == 0)
		return;
	arg = Int64Array(step_ids, n);
	rows = RunQuery(&READ_CHILDREN, &arg, NULL);
	for (uint64 row = 0; row < rows; row++)
	{
		int64		step_id = RowInt64(row, 1);
		int64		task_id = RowInt64(row, 2);
		bool		leaf;
		Datum		child = RowDatum(row, 3, &leaf);
		Watch	   *watch = hash_search(o->watched_tasks, &task_id, HASH_FIND, NULL);

		/* A watched step keeps its task going; now it does not any more. */
		if (watch != NULL ? watch->waits_for == step_id : leaf)
		{
			(void) WaitsForAnother(o->watched_tasks, task_id, step_id);
			AddWork(o, WORK_FINALS, task_id);
		}
		if (!leaf && !WaitsForAnother(o->watched_children, DatumGetInt64(child), step_id))
			AddWork(o, WORK_CANDIDATES, DatumGetInt64(child));
	}
}

/* A task that became pending: it starts, and its roots may be ready. */
static void
FollowStarted(Batch *batch)
{
	Orchestrator *o = batch->o;
	int			n;
	int64	   *task_ids = TakeWork(batch, WORK_STARTED, &n);
	Datum		arg;
	uint64		rows;
	int64		last = 0;

	if (n == 0)
		return;
	arg = Int64Array(task_ids, n);
	rows = RunQuery(&READ_ROOTS, &arg, NULL);
	for (uint64 row = 0; row < rows; row++)
	{
		int64		task_id = RowInt64(row, 1);
		bool		no_root;
		Datum		root = RowDatum(row, 2, &no_root);

		if (task_id != last && RowBool(row, 3))
			AddId(CurrentMemoryContext, &batch->start, task_id);
		last = task_id;
		if (no_root)
			AddWork(o, WORK_FINALS, task_id);
		else
			AddWork(o, WORK_CANDIDATES, DatumGetInt64(root));
	}
}

/* A failed step: it waits for its retry, runs again now, is skipped, or stops its task. */
static void
FollowFailed(Batch *batch)
{
	Orchestrator *o = batch->o;
	int			n;
	int64	   *step_ids = TakeWork(batch, WORK_FAILED, &n);
	Datum		arg;
	uint64		rows;

	if (n == 0)
		return;
	arg = Int64Array(step_ids, n);
	rows = RunQuery(&READ_FAILED, &arg, NULL);
	batch->timers = palloc(sizeof(Timer) * Max(rows, 1));
	for (uint64 row = 0; row < rows; row++)
	{
		int64		step_id = RowInt64(row, 1);
		int64		task_id = RowInt64(row, 2);
		bool		no_retry;
		Datum		retry_at = RowDatum(row, 4, &no_retry);

		if (!no_retry && DatumGetTimestampTz(retry_at) <= batch->now)
			AddId(CurrentMemoryContext, &batch->promote, step_id);
		else if (!no_retry)
			batch->timers[batch->n_timers++] = (Timer)
		{
			.due_at = DatumGetTimestampTz(retry_at),.step_id = step_id,.sort_key = RowInt32(row, 3)
		};
		else if (RowBool(row, 5))
			AddId(CurrentMemoryContext, &batch->skip, step_id);
		else
		{
			(void) WaitsForAnother(o->watched_tasks, task_id, step_id);
			if (hash_search(o->watched_tasks, &task_id, HASH_FIND, NULL) == NULL)
				AddWork(o, WORK_FINALS, task_id);
		}
	}
}

/* A cancelled step: what depends on it can never run. */
static void
FollowCancelled(Batch *batch)
{
	Orchestrator *o = batch->o;
	int			n;
	int64	   *step_ids = TakeWork(batch, WORK_CANCELLED, &n);
	Datum		arg;
	uint64		rows;

	if (n == 0)
		return;
	arg = Int64Array(step_ids, n);
	rows = RunQuery(&READ_CANCELLED, &arg, NULL);
	for (uint64 row = 0; row < rows; row++)
	{
		int64		task_id = RowInt64(row, 1);
		bool		no_child;
		Datum		child = RowDatum(row, 2, &no_child);

		(void) hash_search(o->watched_tasks, &task_id, HASH_REMOVE, NULL);
		AddWork(o, WORK_FINALS, task_id);
		if (!no_child)
			AddId(CurrentMemoryContext, &batch->cascade, DatumGetInt64(child));
	}
	for (int i = 0; i < n; i++)
		AddId(CurrentMemoryContext, &batch->dequeue, step_ids[i]);
}

/* Steps that may be ready: those whose parents are all finished are. */
static void
FollowCandidates(Batch *batch)
{
	Orchestrator *o = batch->o;
	int			n;
	int64	   *step_ids = TakeWork(batch, WORK_CANDIDATES, &n);
	Datum		arg;
	uint64		rows;

	if (n == 0)
		return;
	arg = Int64Array(step_ids, n);
	rows = RunQuery(&READ_CANDIDATES, &arg, NULL);
	for (uint64 row = 0; row < rows; row++)
	{
		int64		step_id = RowInt64(row, 1);
		int64		task_id = RowInt64(row, 2);
		TaskerState task_state = StateOfLabel(RowText(row, 5));
		TaskerState state = StateOfLabel(RowText(row, 9));
		bool		satisfied;
		Datum		open_parent = RowDatum(row, 7, &satisfied);

		if (state == STATE_IN_PROGRESS)
			continue;
		/* Settled before its parents were: nothing else may tell that the task is done. */
		if (state != STATE_PENDING)
			AddWork(o, WORK_FINALS, task_id);
		else if (!satisfied)
		{
			SetWatch(o, &o->watched_children, step_id, DatumGetInt64(open_parent));
			/* A parent that is not moving may never do: then the task is stuck. */
			if (!RowBool(row, 8) && hash_search(o->watched_tasks, &task_id, HASH_FIND, NULL) == NULL)
				AddWork(o, WORK_FINALS, task_id);
		}
		else if (task_state == STATE_ERROR)
			AddWork(o, WORK_FINALS, task_id);	/* it is revived, and comes back as started */
		else if ((task_state == STATE_PENDING || task_state == STATE_IN_PROGRESS) &&
				 !NamedTaskIsPaused(RowInt32(row, 6)))
			AddReady(batch, (ReadyStep)
					 {
						 .step_id = step_id,.handler_id = RowInt32(row, 3),.rank = (int16) RowInt32(row, 4)
					 });
	}
}

/* ---------- moving ---------- */

static KeptQuery LOCK_AVAILABLE_STEPS = {
	.sql =
	"SELECT s.workflow_step_id FROM tasker.workflow_steps s"
	" WHERE s.workflow_step_id = ANY ($1) ORDER BY s.workflow_step_id FOR NO KEY UPDATE SKIP LOCKED",
	.nargs = 1,.types = {INT8ARRAYOID}
};

static KeptQuery LOCK_AVAILABLE_TASKS = {
	.sql =
	"SELECT t.task_id FROM tasker.tasks t"
	" WHERE t.task_id = ANY ($1) ORDER BY t.task_id FOR NO KEY UPDATE SKIP LOCKED",
	.nargs = 1,.types = {INT8ARRAYOID}
};

/*
 * The ids of a list, ascending, each once.  When locked rows are avoided,
 * only those that could be locked; the rest is postponed as work of a kind.
 */
static int64 *
Available(Batch *batch, IdList *list, KeptQuery *lock, WorkKind kind, int *n)
{
	int			asked;
	int64	   *ids = TakeIds(list, list->n, &asked);
	int64	   *available;
	Datum		arg;

	*n = asked;
	if (!batch->o->avoid_locked_rows || asked == 0)
		return ids;
	arg = Int64Array(ids, asked);
	*n = (int) RunQuery(lock, &arg, NULL);
	available = palloc(sizeof(int64) * Max(*n, 1));
	for (int i = 0; i < *n; i++)
		available[i] = RowInt64(i, 1);
	for (int i = 0, a = 0; i < asked; i++)
	{
		if (a < *n && available[a] == ids[i])
			a++;
		else
			Postpone(batch->o, kind, ids[i], batch->now);
	}
	return available;
}

/* Tasks first: whoever locks a task and its steps does it in this order. */
static void
MovePlannedTasks(Batch *batch)
{
	Orchestrator *o = batch->o;
	int			n;
	int64	   *task_ids = Available(batch, &batch->start, &LOCK_AVAILABLE_TASKS, WORK_STARTED, &n);
	Finality   *finalities;
	IdList		finals = {0};
	int			found;

	batch->transitions += MoveTasks(STATE_PENDING, STATE_IN_PROGRESS, n, task_ids, 0);
	task_ids = TakeWork(batch, WORK_FINALS, &n);
	for (int i = 0; i < n; i++)
		AddId(CurrentMemoryContext, &finals, task_ids[i]);
	task_ids = Available(batch, &finals, &LOCK_AVAILABLE_TASKS, WORK_FINALS, &n);
	finalities = JudgeTasks(task_ids, n, &found);
	batch->transitions += FinalizeTasks(finalities, found);
	for (int i = 0; i < found; i++)
	{
		if (finalities[i].open_step != 0)
			SetWatch(o, &o->watched_tasks, finalities[i].task_id, finalities[i].open_step);
	}
}

static void
MoveList(Batch *batch, IdList *list, WorkKind kind, TaskerState from, TaskerState to, const char *metadata)
{
	int			n;
	int			moved;
	StepMoves	moves = {
		.from = from,.to = to,.step_ids = Available(batch, list, &LOCK_AVAILABLE_STEPS, kind, &n)
	};

	moves.n = n;
	if (n == 0)
		return;
	moves.metadata_of_all = JsonbOfText(metadata);
	(void) MoveSteps(&moves, &moved);
	batch->transitions += moved;
}

static int
CompareFailures(const void *a, const void *b)
{
	return CompareIds(&((const StepFailure *) a)->step_id, &((const StepFailure *) b)->step_id);
}

/* In avoidance of locked rows only the failures that could be locked. */
static void
MoveFailures(Batch *batch)
{
	int			moved;

	qsort(batch->failures, batch->n_failures, sizeof(StepFailure), CompareFailures);
	if (batch->o->avoid_locked_rows && batch->n_failures > 0)
	{
		int64	   *ids = palloc(sizeof(int64) * batch->n_failures);
		Datum		arg;
		int			asked = batch->n_failures;
		int			n;

		for (int i = 0; i < asked; i++)
			ids[i] = batch->failures[i].step_id;
		arg = Int64Array(ids, asked);
		n = (int) RunQuery(&LOCK_AVAILABLE_STEPS, &arg, NULL);
		batch->n_failures = 0;
		for (int i = 0, a = 0; i < asked; i++)
		{
			if (a < n && RowInt64(a, 1) == batch->failures[i].step_id)
			{
				batch->failures[batch->n_failures++] = batch->failures[i];
				a++;
			}
			else
			{
				/* Whoever holds it is reporting; if that fails, the next look finds it lost or late. */
				batch->o->refresh_executors = true;
				batch->o->postponed_until = batch->now + LOCKED_RETRY_US;
			}
		}
	}
	(void) FailSteps(batch->failures, batch->n_failures, false, 0, &moved);
	batch->transitions += moved;
}

static KeptQuery READ_PROMOTED = {
	.sql =
	"SELECT s.workflow_step_id, s.handler_id, s.rank::integer, t.named_task_id"
	"  FROM unnest($1) u"
	"  JOIN tasker.workflow_steps s ON s.workflow_step_id = u AND s.state = 'pending'"
	"  JOIN tasker.tasks t ON t.task_id = s.task_id",
	.nargs = 1,.types = {INT8ARRAYOID}
};

/* Retries whose time has come; they have run before, so their parents are finished. */
static void
PromoteRetries(Batch *batch)
{
	int			n;
	int			moved;
	StepMoves	moves = {
		.from = STATE_ERROR,.to = STATE_PENDING,
		.step_ids = Available(batch, &batch->promote, &LOCK_AVAILABLE_STEPS, WORK_FAILED, &n)
	};
	Datum		arg;
	uint64		rows;

	moves.n = n;
	if (n == 0)
		return;
	moves.metadata_of_all = JsonbOfText("{\"triggered_by\": \"backoff over\"}");
	(void) MoveSteps(&moves, &moved);
	batch->transitions += moved;
	arg = Int64Array(moves.step_ids, n);
	rows = RunQuery(&READ_PROMOTED, &arg, NULL);
	for (uint64 row = 0; row < rows; row++)
	{
		if (!NamedTaskIsPaused(RowInt32(row, 4)))
			AddReady(batch, (ReadyStep)
					 {
						 .step_id = RowInt64(row, 1),.handler_id = RowInt32(row, 2),.rank = (int16) RowInt32(row, 3)
					 });
	}
}

static void
MovePlannedSteps(Batch *batch)
{
	PromoteRetries(batch);
	MoveList(batch, &batch->skip, WORK_FAILED, STATE_ERROR, STATE_RESOLVED_MANUALLY,
			 "{\"reason\": \"skipped: no attempt remains\"}");
	MoveList(batch, &batch->cascade, WORK_CANCELLED, STATE_PENDING, STATE_CANCELLED,
			 "{\"reason\": \"a step that it depends on was cancelled\"}");
	MoveFailures(batch);
	if (batch->dequeue.n > 0)
	{
		int			n;
		int64	   *ids = TakeIds(&batch->dequeue, batch->dequeue.n, &n);

		DequeueSteps(ids, n);
	}
	SetTimers(batch->timers, batch->n_timers);
}

/* ---------- dispatch ---------- */

/* Steps and who gets them. */
typedef struct Assignment
{
	int			n;
	int			room;
	ReadyStep  *steps;
	int		   *executors;		/* indexes of slots */
} Assignment;

/* The next executor of a handler that has free capacity, or -1. */
static int
FindFreeExecutor(Orchestrator *o, Handler *handler)
{
	for (int tried = 0; tried < handler->n; tried++)
	{
		int			e = handler->executors[handler->next];

		handler->next = (handler->next + 1) % handler->n;
		if (o->executors[e].in_flight < o->executors[e].executor.capacity)
			return e;
	}
	return -1;
}

/* Gives a step to an executor with free capacity; false where there is none. */
static bool
Assign(Batch *batch, Assignment *assignment, const ReadyStep *step)
{
	Handler    *handler = HandlerOf(batch->o, step->handler_id);
	int			e = FindFreeExecutor(batch->o, handler);

	if (e < 0)
		return false;
	if (assignment->n == assignment->room)
	{
		assignment->room = Max(64, 2 * assignment->room);
		assignment->steps = assignment->steps ?
			repalloc(assignment->steps, sizeof(ReadyStep) * assignment->room) :
			palloc(sizeof(ReadyStep) * assignment->room);
		assignment->executors = assignment->executors ?
			repalloc(assignment->executors, sizeof(int) * assignment->room) :
			palloc(sizeof(int) * assignment->room);
	}
	assignment->steps[assignment->n] = *step;
	assignment->executors[assignment->n++] = e;
	batch->o->executors[e].in_flight++;
	return true;
}

static int
CompareReady(const void *a, const void *b)
{
	const ReadyStep *left = a;
	const ReadyStep *right = b;

	if (left->rank != right->rank)
		return left->rank < right->rank ? -1 : 1;
	return CompareIds(&left->step_id, &right->step_id);
}

/*
 * New ready steps: given out at once where an executor is free and none of
 * the same handler waits already, else put into the queue.
 */
static void
AssignReady(Batch *batch, Assignment *assignment)
{
	Orchestrator *o = batch->o;
	int			waiting = 0;

	qsort(batch->ready, batch->n_ready, sizeof(ReadyStep), CompareReady);
	for (int i = 0; i < batch->n_ready; i++)
	{
		Handler    *handler;

		if (i > 0 && batch->ready[i].step_id == batch->ready[i - 1].step_id)
			continue;
		handler = HandlerOf(o, batch->ready[i].handler_id);
		if (!o->paused && !handler->may_wait && assignment->n < batch->batch_size &&
			Assign(batch, assignment, &batch->ready[i]))
			continue;
		handler->may_wait = true;
		batch->ready[waiting++] = batch->ready[i];
	}
	EnqueueSteps(batch->ready, waiting);
}

/* The free capacity of a handler's executors. */
static int
FreeCapacity(Orchestrator *o, const Handler *handler)
{
	int			sum = 0;

	for (int i = 0; i < handler->n; i++)
	{
		const ExecutorSlot *slot = &o->executors[handler->executors[i]];

		sum += Max(0, slot->executor.capacity - slot->in_flight);
	}
	return sum;
}

/* Waiting steps for executors that still have free capacity. */
static void
AssignWaiting(Batch *batch, Assignment *assignment)
{
	Orchestrator *o = batch->o;
	int			room = batch->batch_size - assignment->n;
	int			n_handlers = 0;
	int			wanted = 0;
	int			taken;
	int			left = 0;
	int32	   *handler_ids = palloc(sizeof(int32) * Max(hash_get_num_entries(o->handlers), 1));
	HASH_SEQ_STATUS scan;
	Handler    *handler;
	ReadyStep  *steps;

	hash_seq_init(&scan, o->handlers);
	while ((handler = hash_seq_search(&scan)) != NULL)
	{
		int			free_capacity = handler->may_wait ? FreeCapacity(o, handler) : 0;

		if (free_capacity == 0)
			continue;
		handler_ids[n_handlers++] = handler->handler_id;
		wanted += free_capacity;
	}
	if (n_handlers == 0 || o->paused)
		return;
	if (room <= 0)
	{
		batch->report.more = true;
		return;
	}
	wanted = Min(wanted, room);
	steps = TakeSteps(handler_ids, n_handlers, wanted, &taken);
	for (int i = 0; i < taken; i++)
	{
		if (batch->batch_size == 1)
			AddId(o->context, &o->last, steps[i].step_id);
		if (!IsSetAside(steps[i].step_id) && !Assign(batch, assignment, &steps[i]))
			steps[left++] = steps[i];
	}
	EnqueueSteps(steps, left);
	if (taken == wanted && left < taken)
		batch->report.more = true;
	for (int h = 0; h < n_handlers && taken < wanted; h++)
	{
		handler = HandlerOf(o, handler_ids[h]);
		handler->may_wait = HasWaitingSteps(handler_ids[h]);
		/* Another session is taking them, or the mark is past them: look again soon. */
		if (handler->may_wait)
			batch->report.wake_at = Min(batch->report.wake_at, batch->now + USECS_PER_SEC);
	}
}

/* An entry of a payload: what an executor needs to start, or the word to fetch it. */
static void
AppendPayloadEntry(StringInfo entry, uint64 row)
{
	static const char *const texts[] = {"task", "step", "handler"};
	static const char *const objects[] = {"handler_config", "inputs", "dependency_results"};
	int			without_objects;

	resetStringInfo(entry);
	appendStringInfo(entry, "{\"step_id\":" INT64_FORMAT ",\"claim\":%d,\"attempt\":%d,\"task_id\":" INT64_FORMAT,
					 RowInt64(row, 1), RowInt32(row, 2), RowInt32(row, 3), RowInt64(row, 4));
	for (int i = 0; i < lengthof(texts); i++)
	{
		appendStringInfo(entry, ",\"%s\":", texts[i]);
		escape_json(entry, RowText(row, 5 + i));
	}
	without_objects = entry->len;
	for (int i = 0; i < lengthof(objects); i++)
	{
		struct varlena *raw = (struct varlena *) DatumGetPointer(RowDatum(row, 8 + i, NULL));

		/* Reading a large value only to drop it is not worth it. */
		if (entry->len <= MAX_PAYLOAD_ENTRY && toast_raw_datum_size(PointerGetDatum(raw)) <= MAX_PAYLOAD_ENTRY)
		{
			Jsonb	   *jsonb = DatumGetJsonbP(PointerGetDatum(raw));

			appendStringInfo(entry, ",\"%s\":", objects[i]);
			(void) JsonbToCString(entry, &jsonb->root, VARSIZE(jsonb));
			continue;
		}
		entry->len = MAX_PAYLOAD_ENTRY + 1;
		break;
	}
	if (entry->len > MAX_PAYLOAD_ENTRY)
	{
		entry->len = without_objects;
		entry->data[entry->len] = '\0';
		appendStringInfoString(entry, ",\"fetch\":true");
	}
	appendStringInfoChar(entry, '}');
}

static void
SendPayload(Batch *batch, ExecutorSlot *slot)
{
	appendStringInfoString(slot->payload, "]}");
	Async_Notify(slot->executor.channel, slot->payload->data);
	slot->payload = NULL;
	batch->report.notifications++;
}

/* Tells each executor about its steps, in as few messages as their size allows. */
static void
NotifyExecutors(Batch *batch, uint64 rows)
{
	Orchestrator *o = batch->o;
	StringInfoData entry;

	initStringInfo(&entry);
	for (uint64 row = 0; row < rows; row++)
	{
		ExecutorSlot *slot = FindExecutorSlot(o, RowInt64(row, 11));

		AppendPayloadEntry(&entry, row);
		if (slot->payload != NULL && slot->payload->len + entry.len + 3 > MAX_PAYLOAD)
			SendPayload(batch, slot);
		if (slot->payload == NULL)
		{
			slot->payload = makeStringInfo();
			appendStringInfoString(slot->payload, "{\"steps\":[");
		}
		else
			appendStringInfoChar(slot->payload, ',');
		appendBinaryStringInfo(slot->payload, entry.data, entry.len);
	}
	for (int e = 0; e < o->executor_count; e++)
	{
		if (o->executors[e].payload != NULL)
			SendPayload(batch, &o->executors[e]);
	}
}

typedef struct Claim
{
	int64		step_id;
	int64		executor_id;
} Claim;

/* Steps that are locked go back to the queue. */
static int
KeepAvailableClaims(Batch *batch, Claim *claims, int n)
{
	int64	   *ids = palloc(sizeof(int64) * n);
	Datum		arg;
	int			available;
	int			kept = 0;

	for (int i = 0; i < n; i++)
		ids[i] = claims[i].step_id;
	arg = Int64Array(ids, n);
	available = (int) RunQuery(&LOCK_AVAILABLE_STEPS, &arg, NULL);
	for (int i = 0, a = 0; i < n; i++)
	{
		if (a < available && RowInt64(a, 1) == claims[i].step_id)
		{
			claims[kept++] = claims[i];
			a++;
		}
		else
			Postpone(batch->o, WORK_CANDIDATES, claims[i].step_id, batch->now);
	}
	return kept;
}

static void
ClaimAssigned(Batch *batch, const Assignment *assignment)
{
	Orchestrator *o = batch->o;
	int			n = assignment->n;
	Claim	   *claims = palloc(sizeof(Claim) * n);
	int64	   *step_ids = palloc(sizeof(int64) * n);
	int64	   *executors = palloc(sizeof(int64) * n);
	MovedStep  *moved;
	int			claimed;

	for (int i = 0; i < n; i++)
	{
		ExecutorSlot *slot = &o->executors[assignment->executors[i]];

		claims[i] = (Claim)
		{
			.step_id = assignment->steps[i].step_id,.executor_id = slot->executor.executor_id
		};
		/* Counted when the log row is read: until then nothing else is assigned. */
		slot->in_flight--;
	}
	qsort(claims, n, sizeof(Claim), CompareIds);
	if (o->avoid_locked_rows)
		n = KeepAvailableClaims(batch, claims, n);
	for (int i = 0; i < n; i++)
	{
		step_ids[i] = claims[i].step_id;
		executors[i] = claims[i].executor_id;
	}
	moved = ClaimSteps(step_ids, executors, n, &claimed);
	batch->transitions += claimed;
	batch->report.claims += claimed;
	for (int i = 0; i < claimed; i++)
		step_ids[i] = moved[i].step_id;
	qsort(step_ids, claimed, sizeof(int64), CompareIds);
	NotifyExecutors(batch, ReadClaimedSteps(step_ids, claimed));
}

static void
Dispatch(Batch *batch)
{
	Assignment	assignment = {0};

	AssignReady(batch, &assignment);
	AssignWaiting(batch, &assignment);
	if (assignment.n > 0)
		ClaimAssigned(batch, &assignment);
}

/* ---------- a batch ---------- */

static bool
CheckpointIsDue(const Orchestrator *o)
{
	return TimestampDifferenceExceeds(o->saved_at, GetCurrentTimestamp(), tasker_checkpoint_interval);
}

/* When to look again if no news come before. */
static TimestampTz
WakeTime(Batch *batch)
{
	Orchestrator *o = batch->o;
	TimestampTz wake_at = Min(batch->report.wake_at, NextTimer(o->timers_taken_until));

	wake_at = Min(wake_at, o->executors_good_until);
	if (o->postponed_until != 0)
		wake_at = Min(wake_at, o->postponed_until);
	if (o->dirty)
		wake_at = Min(wake_at, batch->now + (int64) tasker_checkpoint_interval * 1000);
	return wake_at;
}

BatchReport
RunBatch(Orchestrator *o, int batch_size, bool save)
{
	Batch		batch = {.o = o,.now = TaskerNow(),.batch_size = batch_size,.report.wake_at = DT_NOEND};

	o->last.n = 0;

	RefreshPauses();
	ReadLog(&batch);
	if (o->reconcile)
	{
		AddWorkOfRows(o, RunPlainQuery(&READ_OPEN_TASKS));
		o->reconcile = false;
		o->dirty = true;
	}
	TakeUpPostponed(o, batch.now);
	LookAtExecutors(&batch);
	TakeTimers(&batch);
	FollowStarted(&batch);
	FollowClosed(&batch);
	FollowFailed(&batch);
	FollowCancelled(&batch);
	FollowCandidates(&batch);

	MovePlannedTasks(&batch);
	MovePlannedSteps(&batch);
	Dispatch(&batch);

	batch.report.transitions = batch.transitions;
	batch.report.more |= HasWork(o) || batch.transitions > 0;
	if (!HasWork(o) && o->postponed_until == 0 && (save || (o->dirty && CheckpointIsDue(o))))
		SaveCheckpoint(o);
	if (!batch.report.more)
		batch.report.wake_at = WakeTime(&batch);
	return batch.report;
}

/* ---------- in a session ---------- */

/* Runs batches until nothing is left to do; returns the transitions made. */
static int64
OrchestrateHere(int64 task_id)
{
	QueryScope	scope;
	Orchestrator *o;
	BatchReport report;
	int64		transitions = 0;
	bool		looked = task_id == 0;

	OpenQueryScope(&scope);
	LockOrchestration();
	o = OpenOrchestrator(CurrentMemoryContext);
	do
	{
		CHECK_FOR_INTERRUPTS();
		if (!looked)
			LookAtTask(o, task_id);
		looked = true;
		report = RunBatch(o, tasker_batch_size, true);
		transitions += report.transitions;
	} while (report.more);
	CloseOrchestrator(o);
	CloseQueryScope(&scope);
	return transitions;
}

PG_FUNCTION_INFO_V1(tasker_orchestrate);

Datum
tasker_orchestrate(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(OrchestrateHere(PG_ARGISNULL(0) ? 0 : PG_GETARG_INT64(0)));
}

static KeptQuery READ_DUE_RETRIES = {
	.sql =
	"SELECT s.workflow_step_id, t.named_task_id"
	"  FROM tasker.workflow_steps s JOIN tasker.tasks t ON t.task_id = s.task_id"
	" WHERE s.task_id = $1 AND t.state IN ('pending', 'in_progress')"
	"   AND s.state = 'error' AND s.next_retry_at <= $2",
	.nargs = 2,.types = {INT8OID, TIMESTAMPTZOID}
};

PG_FUNCTION_INFO_V1(tasker_find_viable_steps);

/* The same reads as a batch does, for one task and without any move. */
Datum
tasker_find_viable_steps(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	QueryScope	scope;
	Batch		batch = {.now = TaskerNow(),.batch_size = INT_MAX / 8};
	Datum		args[2];
	uint64		rows;

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("task_id must not be null")));
	args[0] = Int64GetDatum(PG_GETARG_INT64(0));
	args[1] = TimestampTzGetDatum(batch.now);
	OpenQueryScope(&scope);
	batch.o = OpenOrchestrator(CurrentMemoryContext);
	rows = RunQuery(&READ_TASK, args, NULL);
	if (rows == 0)
		RefuseUnknown("task", PG_GETARG_INT64(0));
	AddWorkOfRows(batch.o, rows);
	RefreshPauses();
	FollowCandidates(&batch);
	rows = RunQuery(&READ_DUE_RETRIES, args, NULL);
	for (uint64 row = 0; row < rows; row++)
	{
		if (!NamedTaskIsPaused(RowInt32(row, 2)))
			AddReady(&batch, (ReadyStep)
					 {
						 .step_id = RowInt64(row, 1)
					 });
	}
	for (int i = 0; i < batch.n_ready; i++)
		batch.ready[i].rank = 0;
	qsort(batch.ready, batch.n_ready, sizeof(ReadyStep), CompareReady);
	if (DispatchIsPaused())
		batch.n_ready = 0;
	for (int i = 0; i < batch.n_ready; i++)
	{
		Datum		value = Int64GetDatum(batch.ready[i].step_id);
		bool		null = false;

		tuplestore_putvalues(result->setResult, result->setDesc, &value, &null);
	}
	CloseQueryScope(&scope);
	return (Datum) 0;
}
