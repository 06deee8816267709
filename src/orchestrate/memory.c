/*
 * memory.c
 *		What an orchestrator remembers between batches.
 *
 * All of it comes from the checkpoint and the log, and can be thrown away.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "orchestrate/memory.h"
#include "pg/clock.h"
#include "pg/fault.h"
#include "pg/position.h"
#include "pg/query.h"
#include "pg/wakeup.h"
#include "run/log_mark.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/memutils.h"

/* How soon rows that were locked are tried again. */
#define LOCKED_RETRY_US 50000

/* Beyond this many the memory of open parents and tasks is dropped. */
#define MAX_WATCHED 200000

/* ---------- lists of ids ---------- */

void
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

int
CompareIds(const void *a, const void *b)
{
	int64		left = *(const int64 *) a;
	int64		right = *(const int64 *) b;

	return left < right ? -1 : left > right;
}

/* Takes up to max ids off the end of a list: sorted, each once, in the current context. */
int64 *
TakeIds(IdList *list, int max, int *n)
{
	int			take = Min(max, list->n);
	int64	   *ids = palloc(sizeof(int64) * Max(take, 1));

	/* A list that was always empty has no array. */
	if (take > 0)
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

HTAB *
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
AvoidsLockedRows(const Orchestrator *o)
{
	return o->avoid_locked_rows || (o->in_session && TransactionHasNews());
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

bool
IsSetAside(int64 id, bool is_task)
{
	Owner		owner = {.id = id,.is_task = is_task};

	return set_aside != NULL && hash_search(set_aside, &owner, HASH_FIND, NULL) != NULL;
}

bool
SetAsideLast(Orchestrator *o, int64 *id, bool *is_task)
{
	if (o->last.id == 0)
		return false;
	if (set_aside == NULL)
		set_aside = MakeHash(TopMemoryContext, "tasker set aside", sizeof(Owner), sizeof(Owner));
	(void) hash_search(set_aside, &o->last, HASH_ENTER, NULL);
	*id = o->last.id;
	*is_task = o->last.is_task;
	return true;
}

static bool
IsWorkOfTasks(WorkKind kind)
{
	return kind == WORK_STARTED || kind == WORK_TURNS || kind == WORK_FINALS;
}

void
AddWork(Orchestrator *o, WorkKind kind, int64 id)
{
	if (!IsSetAside(id, IsWorkOfTasks(kind)))
		AddId(o->context, &o->work[kind], id);
}

/* Takes work of a kind for a batch; what the smallest batch takes is remembered, in case it fails. */
int64 *
TakeWork(Batch *batch, WorkKind kind, int *n)
{
	int64	   *ids = TakeIds(&batch->o->work[kind], IsFull(batch) ? 0 : batch->batch_size, n);

	if (batch->batch_size == 1 && *n == 1)
		batch->o->last = (Owner)
	{
		.id = ids[0],.is_task = IsWorkOfTasks(kind)
	};
	return ids;
}

bool
IsFull(const Batch *batch)
{
	return batch->batch_size == 1 && batch->o->last.id != 0;
}

bool
HasWork(const Orchestrator *o)
{
	for (int kind = 0; kind < WORK_KINDS; kind++)
	{
		if (o->work[kind].n > 0)
			return true;
	}
	return false;
}

void
ComeBackSoon(Orchestrator *o, TimestampTz now)
{
	o->postponed_until = now + LOCKED_RETRY_US;
}

void
Postpone(Orchestrator *o, WorkKind kind, int64 id, TimestampTz now)
{
	AddId(o->context, &o->postponed[kind], id);
	ComeBackSoon(o, now);
}

/* What was postponed is work again when its time has come. */
void
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
void
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
bool
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

ExecutorSlot *
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

void
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

void
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
	"  FROM tasker.orchestrator_checkpoint WHERE only_one",
	.nargs = 0
};

static KeptQuery SAVE_CHECKPOINT = {
	.sql =
	"UPDATE tasker.orchestrator_checkpoint"
	"   SET generation = generation + 1, position = $1::pg_snapshot, reconcile = $5,"
	"       in_flight_steps = $2, in_flight_executors = $3, saved_at = $4"
	" WHERE only_one RETURNING generation, ctid",
	.nargs = 5,.types = {TEXTOID, INT8ARRAYOID, INT8ARRAYOID, TIMESTAMPTZOID, BOOLOID}
};

static KeptQuery NOTE_POSTPONED = {
	.sql =
	"UPDATE tasker.orchestrator_checkpoint SET generation = generation + 1, reconcile = true"
	" WHERE only_one RETURNING generation",
	.nargs = 0
};

/*
 * What is postponed may have left the queue and the timers with this very
 * transaction: the memory alone would know of it, and the next one, of a worker
 * after a crash or of another session, would not.
 */
void
NotePostponed(Orchestrator *o)
{
	if (o->postponed_noted || RunPlainQuery(&NOTE_POSTPONED) == 0)
		return;
	o->generation = RowInt64(0, 1);
	o->postponed_noted = o->dirty = true;
}

/* Forgets everything and starts from the checkpoint. */
void
ReadCheckpoint(Orchestrator *o)
{
	MemoryContext context = o->context;
	bool		avoid_locked_rows = o->avoid_locked_rows;
	TimestampTz quiet_until = o->quiet_until;
	bool		in_session = o->in_session;
	ArrayType  *steps;
	ArrayType  *executors;

	MemoryContextDeleteChildren(context);
	*o = (Orchestrator)
	{
		.context = context,.avoid_locked_rows = avoid_locked_rows,.quiet_until = quiet_until,.in_session = in_session
	};
	MakeMemory(o);
	o->saved_at = GetCurrentTimestamp();
	if (RunPlainQuery(&READ_CHECKPOINT) == 0)
	{
		/* There is no template yet, or a restore has not brought the row yet. */
		o->position = MemoryContextStrdup(context, NOTHING_READ);
		return;
	}
	o->generation = RowInt64(0, 1);
	o->position = MemoryContextStrdup(context, RowText(0, 2));
	o->reconcile = RowBool(0, 3);
	steps = DatumGetArrayTypeP(RowDatum(0, 4, NULL));
	executors = DatumGetArrayTypeP(RowDatum(0, 5, NULL));
	for (int i = 0; i < ArrayGetNItems(ARR_NDIM(steps), ARR_DIMS(steps)); i++)
		NoteFlight(o, ((int64 *) ARR_DATA_PTR(steps))[i], ((int64 *) ARR_DATA_PTR(executors))[i]);
}

void
SaveCheckpoint(Orchestrator *o)
{
	long		n = hash_get_num_entries(o->in_flight);
	int64	   *steps = palloc(sizeof(int64) * Max(n, 1));
	int64	   *executors = palloc(sizeof(int64) * Max(n, 1));
	HASH_SEQ_STATUS scan;
	InFlight   *flight;
	Datum		args[5];
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
	/* What is set aside the position has passed: whoever starts from it looks at every open task. */
	args[4] = BoolGetDatum(set_aside != NULL);
	FAULT_POINT("checkpoint-due");
	(void) RunQuery(&SAVE_CHECKPOINT, args, NULL);
	FAULT_POINT("checkpoint-saved");
	o->generation = RowInt64(0, 1);
	o->saved_at = GetCurrentTimestamp();
	o->dirty = false;
	o->reconcile = o->postponed_noted = false;
	o->checkpoint_tid = *(ItemPointer) DatumGetPointer(RowDatum(0, 2, NULL));
	if (o->rows_since_mark >= ROWS_BETWEEN_MARKS)
	{
		LeaveMark(o->position);
		o->rows_since_mark = 0;
	}
	/* Timers that sessions wrote late are found by looking from the start now and then. */
	if (o->timers_rescan_at <= o->saved_at)
		o->timers_taken_until = DT_NOBEGIN;
}
