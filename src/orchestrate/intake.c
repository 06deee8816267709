/*
 * intake.c
 *		What came in: new rows of the logs, timers that are due, or, where the
 *		log is not to be relied on, the rows of tasks and steps themselves.
 *
 * Reading the log exactly once.  A position is a pg_snapshot.  New are the
 * rows of transactions that were running at the position or started since;
 * the next position is the snapshot of that same read.  Both logs are read
 * under one snapshot.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "define/ownership.h"
#include "define/policy.h"
#include "orchestrate/intake.h"
#include "orchestrate/roster.h"
#include "pg/fault.h"
#include "pg/measure.h"
#include "pg/position.h"
#include "pg/query.h"
#include "pg/table.h"
#include "rules/state.h"
#include "storage/itemptr.h"
#include "run/row.h"
#include "run/transition.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/xid8.h"

/* ---------- the logs ---------- */

static KeptQuery READ_CHECKPOINT_STATE = {
	.sql =
	"SELECT coalesce(c.generation, 0), c.paused_at IS NOT NULL, coalesce(c.system_identifier = $1, false)"
	"  FROM (SELECT) one LEFT JOIN tasker.orchestrator_checkpoint c ON c.only_one",
	.nargs = 1,.types = {INT8OID}
};

static void
ApplyStepRow(Orchestrator *o, const LogEntry *entry)
{
	int64		step_id = entry->step_id;

	if (entry->to_state != STATE_IN_PROGRESS)
		NoteLanding(o, step_id);
	switch (entry->to_state)
	{
		case STATE_IN_PROGRESS:
			if (entry->has_executor)
				NoteFlight(o, step_id, entry->executor_id);
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
 * Under an old snapshot all former versions of the row stay, and finding the
 * latest costs more with each.  It is usually the one that we have written.
 */
static KeptQuery READ_OWN_CHECKPOINT_STATE = {
	.sql =
	"SELECT c.generation, c.paused_at IS NOT NULL, c.system_identifier = $1"
	"  FROM tasker.orchestrator_checkpoint c WHERE c.ctid = $2",
	.nargs = 2,.types = {INT8OID, TIDOID}
};

/* Reads who owns the database, whether it is paused, and the checkpoint's generation; into SPI's row 0. */
static void
ReadCheckpointState(const Orchestrator *o)
{
	Datum		args[2] = {Int64GetDatum(HomeIdentifier()), PointerGetDatum(&o->checkpoint_tid)};

	if (!ItemPointerIsValid(&o->checkpoint_tid) || RunQuery(&READ_OWN_CHECKPOINT_STATE, args, NULL) == 0)
		(void) RunQuery(&READ_CHECKPOINT_STATE, args, NULL);
}

/* Takes in one new row of a log. */
typedef void (*TakeLogRow) (Batch *batch, Table *log, TupleTableSlot *row);

static TaskerState
ToState(Table *log, TupleTableSlot *row)
{
	return StateOfValue(log, LOG_TO_STATE, RowColumn(log, row, LOG_TO_STATE, NULL));
}

/* Whether another transaction than this one made the transition. */
static bool
IsOfOthers(Table *log, TupleTableSlot *row)
{
	FullTransactionId made_by = DatumGetFullTransactionId(RowColumn(log, row, LOG_XACT, NULL));

	return !FullTransactionIdEquals(made_by, GetTopFullTransactionIdIfAny());
}

/* Of tasks only the way to pending has consequences. */
static void
TakeTaskLogRow(Batch *batch, Table *log, TupleTableSlot *row)
{
	batch->report.log_rows++;
	batch->report.others |= IsOfOthers(log, row);
	if (ToState(log, row) == STATE_PENDING)
		AddWork(batch->o, WORK_STARTED, DatumGetInt64(RowColumn(log, row, LOG_OWNER, NULL)));
}

static int
CompareLogRows(const void *a, const void *b)
{
	const LogEntry *left = a;
	const LogEntry *right = b;

	if (left->step_id != right->step_id)
		return left->step_id < right->step_id ? -1 : 1;
	return left->sort_key < right->sort_key ? -1 : left->sort_key > right->sort_key;
}

static void
TakeStepLogRow(Batch *batch, Table *log, TupleTableSlot *row)
{
	bool		no_executor;
	Datum		executor = RowColumn(log, row, LOG_EXECUTOR, &no_executor);

	if (batch->n_entries == batch->entries_room)
	{
		batch->entries_room = Max(256, 2 * batch->entries_room);
		batch->entries = batch->entries ?
			repalloc_huge(batch->entries, sizeof(LogEntry) * batch->entries_room) :
			palloc(sizeof(LogEntry) * batch->entries_room);
	}
	batch->report.log_rows++;
	batch->report.others |= IsOfOthers(log, row);
	batch->entries[batch->n_entries++] = (LogEntry)
	{
		.step_id = DatumGetInt64(RowColumn(log, row, LOG_OWNER, NULL)),
			.sort_key = DatumGetInt32(RowColumn(log, row, LOG_SORT_KEY, NULL)),
			.to_state = ToState(log, row),
			.has_executor = !no_executor,
			.executor_id = no_executor ? 0 : DatumGetInt64(executor),
	};
}

/* Reads the rows of transactions that a position has not seen, part by part. */
static void
ReadNewRows(Batch *batch, const TableShape *shape, const char *position, TakeLogRow take)
{
	static const int log_xact[] = {LOG_XACT};
	Table	   *log = OpenTable(shape);
	int			n_parts;
	Table	  **parts = TableParts(log, &n_parts);

	for (int i = 0; i < n_parts; i++)
	{
		Lookup	   *by_transaction = BeginLookup(parts[i], 1, log_xact);
		uint64		transaction = PositionXmax(position);
		const char *running = PositionRunning(position);
		Datum		key = UInt64GetDatum(transaction);
		TupleTableSlot *row;

		LookFrom(by_transaction, 1, &key);
		while ((row = NextRow(by_transaction)) != NULL)
			take(batch, parts[i], row);
		while (NextRunning(&running, &transaction))
		{
			key = UInt64GetDatum(transaction);
			LookFor(by_transaction, 1, &key);
			while ((row = NextRow(by_transaction)) != NULL)
				take(batch, parts[i], row);
		}
		EndLookup(by_transaction);
	}
}

/*
 * Reads what is new in both logs and turns it into work.  Starts again from
 * the checkpoint if somebody else has moved it.
 */
bool
ReadLog(Batch *batch)
{
	Orchestrator *o = batch->o;
	char	   *position;

	if (o->position == NULL)
		ReadCheckpoint(o);
	while (ReadCheckpointState(o), RowInt64(0, 1) != o->generation)
		ReadCheckpoint(o);
	o->paused = RowBool(0, 2);
	if (!RowBool(0, 3))
		return false;
	batch->report.news_since = BeginIntake();
	BeginAccess();
	position = PositionOfSnapshot(o->context, CurrentSnapshotText());
	ReadNewRows(batch, &TASK_LOG, o->position, TakeTaskLogRow);
	ReadNewRows(batch, &STEP_LOG, o->position, TakeStepLogRow);
	EndAccess();
	FAULT_POINT("log-read");
	qsort(batch->entries, batch->n_entries, sizeof(LogEntry), CompareLogRows);
	for (int i = 0; i < batch->n_entries; i++)
		ApplyStepRow(o, &batch->entries[i]);
	pfree(o->position);
	o->position = position;
	o->dirty |= batch->report.log_rows > 0;
	o->rows_since_mark += batch->report.log_rows;
	return true;
}

/* ---------- rows instead of the logs ---------- */

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
			if (AnyPolicy())
				AddWork(o, WORK_TURNS, task_id);
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

	rows = RunQuery(&READ_TASK, &arg, NULL);
	if (rows == 0)
		RefuseUnknown("task", task_id);
	AddWorkOfRows(o, rows);
}

/* An operator may have settled what had failed, and nobody has read of it. */
static KeptQuery READ_TASKS_IN_ERROR = {
	.sql = "SELECT t.task_id FROM tasker.tasks t WHERE t.state = 'error' ORDER BY t.task_id",
	.nargs = 0
};

void
LookAtOpenTasks(Orchestrator *o)
{
	uint64		rows;

	AddWorkOfRows(o, RunPlainQuery(&READ_OPEN_TASKS));
	rows = RunPlainQuery(&READ_TASKS_IN_ERROR);
	for (uint64 row = 0; row < rows; row++)
		AddWork(o, WORK_FINALS, RowInt64(row, 1));
}

/* ---------- timers ---------- */

#define RESCAN_SHARE 50

static KeptQuery READ_TIMED_STEPS = {
	.sql =
	"SELECT s.workflow_step_id, s.sort_key, s.state::text, coalesce(s.timeout_seconds, 0)"
	"  FROM ROWS FROM (unnest($1), unnest($2)) u(step_id, sort_key)"
	"  CROSS JOIN LATERAL (SELECT * FROM tasker.workflow_steps s WHERE s.workflow_step_id = u.step_id LIMIT 1) s"
	" WHERE s.sort_key = u.sort_key",
	.nargs = 2,.types = {INT8ARRAYOID, INT4ARRAYOID}
};

/*
 * The timers that are due, tasks to be looked at again among them.  Those taken stay as dead entries until the oldest
 * snapshot lets them go, so a look from the start may cost; it is done once a
 * second at most, and takes at most one part in RESCAN_SHARE of the time.
 */
static Timer *
LookAtTimers(Batch *batch, int *n, int *n_tasks)
{
	Orchestrator *o = batch->o;
	bool		from_start = o->timers_taken_until == DT_NOBEGIN;
	TimestampTz begun = GetCurrentTimestamp();
	Timer	   *timers;
	int64	   *task_ids;
	TimestampTz ended;

	task_ids = FindDueReenqueues(o->timers_taken_until, batch->now, batch->batch_size, n_tasks);
	for (int i = 0; i < *n_tasks; i++)
		AddWork(o, WORK_REENQUEUED, task_ids[i]);
	timers = TakeDueTimers(o->timers_taken_until, batch->now, batch->batch_size, n);
	ended = GetCurrentTimestamp();
	if (from_start)
		o->timers_rescan_at = ended + Max(USECS_PER_SEC, (ended - begun) * RESCAN_SHARE);
	return timers;
}

void
TakeTimers(Batch *batch)
{
	Orchestrator *o = batch->o;
	int			n;
	int			n_tasks;
	Timer	   *timers = LookAtTimers(batch, &n, &n_tasks);
	int64	   *step_ids;
	int32	   *sort_keys;
	Datum		args[2];
	uint64		rows;

	if (n < batch->batch_size && n_tasks < batch->batch_size)
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
		/* One without a time limit has no timer, but where it waits. */
		else if (state == STATE_IN_PROGRESS && RowInt32(row, 4) == 0)
			AddId(CurrentMemoryContext, &batch->waits_due, RowInt64(row, 1));
		else if (state == STATE_IN_PROGRESS)
			AddFailure(batch, RowInt64(row, 1), RowInt32(row, 2),
					   psprintf("the attempt took longer than %d seconds", RowInt32(row, 4)),
					   "timeout", RETRY_BY_BACKOFF);
	}
}
