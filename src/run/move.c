/*
 * move.c
 *		The one place where states change: compare-and-set of the row and
 *		append to the log.
 *
 * There are two ways with one result.  The direct one writes rows and index
 * entries past the executor; it is what runs.  The SQL one stands in where a
 * table has triggers, which only the executor fires, and is what the tests
 * compare with (tasker.direct_writes).
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "pg/clock.h"
#include "pg/fault.h"
#include "pg/measure.h"
#include "pg/query.h"
#include "pg/table.h"
#include "pg/waiters.h"
#include "pg/wakeup.h"
#include "run/move.h"
#include "run/row.h"
#include "run/timer.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/xid8.h"

Datum
JsonbOfText(const char *json)
{
	return DirectFunctionCall1(jsonb_in, CStringGetDatum(json));
}

/* ---------- by SQL ---------- */

/*
 * unnest(NULL) has no rows and ROWS FROM fills up with NULLs: an array that
 * is not given costs nothing.
 */
static KeptQuery MOVE_STEPS = {
	.sql =
	"WITH moved AS ("
	" UPDATE tasker.workflow_steps s"
	"    SET state = $2::tasker.state,"
	"        sort_key = s.sort_key + 10,"
	"        attempts = greatest(0, s.attempts + $4),"
	"        executor_id = CASE WHEN $2 = 'in_progress' THEN u.executor_id ELSE s.executor_id END,"
	"        last_attempted_at = CASE WHEN $2 = 'in_progress' THEN $5 ELSE s.last_attempted_at END,"
	"        next_retry_at = u.next_retry_at,"
	"        backoff_request_seconds = u.backoff_request_seconds,"
	"        failed_permanently = coalesce(u.failed_permanently, false),"
	"        results = coalesce(u.results, s.results)"
	"   FROM (SELECT * FROM ROWS FROM (unnest($8), unnest($9), unnest($10), unnest($11), unnest($12),"
	"                                  unnest($13), unnest($14), unnest($15)) LIMIT cardinality($8))"
	"        u(step_id, sort_key, executor_id, results, metadata, next_retry_at,"
	"          backoff_request_seconds, failed_permanently)"
	"  WHERE s.workflow_step_id = u.step_id"
	"    AND s.state = $1::tasker.state"
	"    AND s.sort_key = coalesce(u.sort_key, s.sort_key)"
	"    AND coalesce(s.executor_id = $16, $16 IS NULL)"
	"    AND ($2 <> 'in_progress' OR s.sort_key <= " CppAsString2(LAST_CLAIMED_SORT_KEY) ")"
	" RETURNING s.workflow_step_id, s.task_id, s.sort_key, s.attempts, s.timeout_seconds,"
	"           s.executor_id, s.last_attempted_at, s.handler_id, u.metadata"
	"), logged AS ("
	" INSERT INTO tasker.workflow_step_transition_log"
	"        (workflow_step_id, sort_key, from_state, to_state, created_at, executor_id, role, metadata)"
	" SELECT workflow_step_id, sort_key, $1::tasker.state, $2::tasker.state, $5,"
	"        CASE WHEN $6 THEN executor_id END, $3, coalesce(metadata, $7)"
	"   FROM moved"
	")"
	"SELECT workflow_step_id, task_id, sort_key, attempts, coalesce(timeout_seconds, 0),"
	"       coalesce(executor_id, 0), coalesce(last_attempted_at, $5), handler_id FROM moved",
	.nargs = 16,.types = {TEXTOID, TEXTOID, TEXTOID, INT4OID, TIMESTAMPTZOID, BOOLOID, JSONBOID,
	INT8ARRAYOID, INT4ARRAYOID, INT8ARRAYOID, JSONBARRAYOID, JSONBARRAYOID, TIMESTAMPTZARRAYOID,
	INT4ARRAYOID, BOOLARRAYOID, INT8OID}
};

static KeptQuery MOVE_TASKS = {
	.sql =
	"WITH moved AS ("
	" UPDATE tasker.tasks t"
	"    SET state = $2::tasker.state, sort_key = t.sort_key + 10"
	"   FROM (SELECT unnest($6) AS u LIMIT cardinality($6)) batch"
	"  WHERE t.task_id = u AND t.state = $1::tasker.state"
	" RETURNING t.task_id, t.sort_key, t.named_task_id, t.requested_at"
	"), logged AS ("
	" INSERT INTO tasker.task_transition_log"
	"        (task_id, sort_key, from_state, to_state, created_at, role, metadata)"
	" SELECT task_id, sort_key, $1::tasker.state, $2::tasker.state, $4, $3, $5"
	"   FROM moved"
	")"
	"SELECT named_task_id, requested_at FROM moved",
	.nargs = 6,.types = {TEXTOID, TEXTOID, TEXTOID, TIMESTAMPTZOID, JSONBOID, INT8ARRAYOID}
};

static Datum
TimestampTzArray(const TimestampTz *values, const bool *nulls, int n)
{
	Datum	   *datums = palloc(sizeof(Datum) * n);

	for (int i = 0; i < n; i++)
		datums[i] = TimestampTzGetDatum(values[i]);
	return NullableArray(datums, nulls, n, TIMESTAMPTZOID);
}

/* -1 stands for NULL. */
static Datum
Int32ArrayOrNull(const int32 *values, int n)
{
	Datum	   *datums = palloc(sizeof(Datum) * n);
	bool	   *nulls = palloc(sizeof(bool) * n);

	for (int i = 0; i < n; i++)
	{
		datums[i] = Int32GetDatum(values[i]);
		nulls[i] = values[i] == -1;
	}
	return NullableArray(datums, nulls, n, INT4OID);
}

static Datum
BoolArray(const bool *values, int n)
{
	Datum	   *datums = palloc(sizeof(Datum) * n);

	for (int i = 0; i < n; i++)
		datums[i] = BoolGetDatum(values[i]);
	return NullableArray(datums, NULL, n, BOOLOID);
}

static MovedStep *
MoveStepsBySql(const StepMoves *moves, int *moved)
{
	int			n = moves->n;
	MovedStep  *result;
	Datum		args[16] = {0};
	char		nulls[17];

	memset(nulls, 'n', 16);
	nulls[16] = '\0';

#define SET_ARG(number, given, value) \
	do { \
		if (given) \
		{ \
			args[(number) - 1] = (value); \
			nulls[(number) - 1] = ' '; \
		} \
	} while (0)

	SET_ARG(1, true, CStringGetTextDatum(StateLabel(moves->from)));
	SET_ARG(2, true, CStringGetTextDatum(StateLabel(moves->to)));
	SET_ARG(3, true, QueryCallerName());
	SET_ARG(4, true, Int32GetDatum(moves->attempt_change));
	SET_ARG(5, true, TimestampTzGetDatum(moves->at));
	SET_ARG(6, true, BoolGetDatum(moves->by_executor));
	SET_ARG(7, moves->metadata_of_all != 0, moves->metadata_of_all);
	SET_ARG(8, true, Int64Array(moves->step_ids, n));
	SET_ARG(9, moves->sort_keys, Int32Array(moves->sort_keys, n));
	SET_ARG(10, moves->executors, Int64Array(moves->executors, n));
	SET_ARG(11, moves->results, NullableArray(moves->results, moves->no_results, n, JSONBOID));
	SET_ARG(12, moves->metadata, NullableArray(moves->metadata, NULL, n, JSONBOID));
	SET_ARG(13, moves->retry_at, TimestampTzArray(moves->retry_at, moves->no_retry, n));
	SET_ARG(14, moves->backoff_seconds, Int32ArrayOrNull(moves->backoff_seconds, n));
	SET_ARG(15, moves->permanent, BoolArray(moves->permanent, n));
	SET_ARG(16, moves->of_executor != 0, Int64GetDatum(moves->of_executor));
#undef SET_ARG

	*moved = (int) RunQuery(&MOVE_STEPS, args, nulls);
	result = palloc(sizeof(MovedStep) * Max(*moved, 1));
	for (int i = 0; i < *moved; i++)
		result[i] = (MovedStep)
	{
		.step_id = RowInt64(i, 1),
			.task_id = RowInt64(i, 2),
			.sort_key = RowInt32(i, 3),
			.attempts = RowInt32(i, 4),
			.timeout_seconds = RowInt32(i, 5),
			.executor_id = RowInt64(i, 6),
			.attempted_at = DatumGetTimestampTz(RowDatum(i, 7, NULL)),
			.handler_id = RowInt32(i, 8),
	};
	return result;
}

/* What a move is counted as; COUNTED_EVENTS: as nothing. */
static CountedEvent
EventOfMove(TaskerState from, TaskerState to)
{
	switch (to)
	{
		case STATE_IN_PROGRESS:
			return COUNTED_STARTED;
		case STATE_COMPLETE:
			return COUNTED_COMPLETED;
		case STATE_ERROR:
			return COUNTED_FAILED;
		case STATE_CANCELLED:
			return COUNTED_CANCELLED;
		case STATE_RESOLVED_MANUALLY:
			return COUNTED_RESOLVED;
		case STATE_PENDING:
			return from == STATE_ERROR ? COUNTED_RETRIED : COUNTED_RELEASED;
		default:
			return COUNTED_EVENTS;
	}
}

/* Counts a task that has moved; one that is complete is timed from its request on. */
static void
CountTaskMove(TaskerState from, TaskerState to, int32 named_task_id, TimestampTz requested_at, TimestampTz now)
{
	NoteEvent(COUNTED_TASKS, named_task_id, EventOfMove(from, to), to == STATE_COMPLETE ? Max(now - requested_at, 0) : UNTIMED);
}

static int
MoveTasksBySql(TaskerState from, TaskerState to, int n, const int64 *task_ids, Datum metadata)
{
	TimestampTz now = TaskerNow();
	int			moved;
	char		nulls[7] = "      ";
	Datum		args[6];

	args[0] = CStringGetTextDatum(StateLabel(from));
	args[1] = CStringGetTextDatum(StateLabel(to));
	args[2] = QueryCallerName();
	args[3] = TimestampTzGetDatum(now);
	args[4] = metadata;
	nulls[4] = metadata != 0 ? ' ' : 'n';
	args[5] = Int64Array(task_ids, n);
	moved = (int) RunQuery(&MOVE_TASKS, args, nulls);
	for (int i = 0; i < moved; i++)
		CountTaskMove(from, to, RowInt32(i, 1), DatumGetTimestampTz(RowDatum(i, 2, NULL)), now);
	return moved;
}

/* ---------- directly ---------- */

/* What the transitions of one call have in common, as values of a log's columns. */
typedef struct LogRow
{
	Datum		values[LOG_COLUMNS];
	bool		nulls[LOG_COLUMNS];
} LogRow;

static LogRow
CommonLogRow(const Table *log, TaskerState from, TaskerState to, TimestampTz at)
{
	LogRow		row = {{0}};

	row.nulls[LOG_FROM_STATE] = from == STATE_NONE;
	if (from != STATE_NONE)
		row.values[LOG_FROM_STATE] = StateValue(log, LOG_FROM_STATE, from);
	row.values[LOG_TO_STATE] = StateValue(log, LOG_TO_STATE, to);
	row.values[LOG_CREATED_AT] = TimestampTzGetDatum(at);
	row.values[LOG_XACT] = FullTransactionIdGetDatum(GetTopFullTransactionId());
	row.values[LOG_ROLE] = QueryCallerName();
	row.nulls[LOG_EXECUTOR] = true;
	row.nulls[LOG_METADATA] = true;
	return row;
}

static void
SetLogMetadata(LogRow *row, Datum metadata)
{
	row->nulls[LOG_METADATA] = metadata == 0;
	row->values[LOG_METADATA] = metadata;
}

/* The number of the next transition. */
static int32
NextSortKey(StateOwner owner, int64 id, int32 sort_key)
{
	if (sort_key > PG_INT32_MAX - 10)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("%s " INT64_FORMAT " has had as many transitions as can be numbered", OwnerLabel(owner), id)));
	return sort_key + 10;
}

/* Whether the row is what the move of index i expects. */
static bool
IsAsExpected(const StepMoves *moves, int i, const StepRow *step)
{
	if (moves->to == STATE_IN_PROGRESS && step->sort_key > LAST_CLAIMED_SORT_KEY)
		return false;
	return step->state == moves->from &&
		(moves->sort_keys == NULL || step->sort_key == moves->sort_keys[i]) &&
		(moves->of_executor == 0 || step->executor_id == moves->of_executor);
}

/* The new version of a step's row. */
static Change
ChangeOfStep(const Table *steps, const StepMoves *moves, int i, const StepRow *step)
{
	Change		change = {0};
	int			attempts = Max(0, step->attempts + moves->attempt_change);

	if (attempts > Max(step->retry_limit, 1))
		ereport(ERROR,
				(errcode(ERRCODE_CHECK_VIOLATION),
				 errmsg("step " INT64_FORMAT " has no attempt left of %d", step->step_id, step->retry_limit)));
	ChangeColumn(&change, STEP_STATE, StateValue(steps, STEP_STATE, moves->to));
	ChangeColumn(&change, STEP_SORT_KEY, Int32GetDatum(NextSortKey(OWNER_STEP, step->step_id, step->sort_key)));
	if (moves->attempt_change != 0)
		ChangeColumn(&change, STEP_ATTEMPTS, Int32GetDatum(attempts));
	if (moves->to == STATE_IN_PROGRESS)
	{
		if (moves->executors)
			ChangeColumn(&change, STEP_EXECUTOR, Int64GetDatum(moves->executors[i]));
		else
			ChangeToNull(&change, STEP_EXECUTOR);
		ChangeColumn(&change, STEP_LAST_ATTEMPTED_AT, TimestampTzGetDatum(moves->at));
	}
	if (moves->retry_at && !moves->no_retry[i])
		ChangeColumn(&change, STEP_NEXT_RETRY_AT, TimestampTzGetDatum(moves->retry_at[i]));
	else
		ChangeToNull(&change, STEP_NEXT_RETRY_AT);
	if (moves->backoff_seconds && moves->backoff_seconds[i] != -1)
		ChangeColumn(&change, STEP_BACKOFF_REQUEST, Int32GetDatum(moves->backoff_seconds[i]));
	else
		ChangeToNull(&change, STEP_BACKOFF_REQUEST);
	ChangeColumn(&change, STEP_FAILED_PERMANENTLY, BoolGetDatum(moves->permanent && moves->permanent[i]));
	if (moves->results && !(moves->no_results && moves->no_results[i]))
		ChangeColumn(&change, STEP_RESULTS, moves->results[i]);
	return change;
}

/*
 * Moves the step of index i if its row, or the version that another
 * transaction has made of it meanwhile, is as expected.
 */
static bool
MoveStepDirectly(Table *steps, Lookup *by_id, const StepMoves *moves, int i, StepRow *step)
{
	Datum		id = Int64GetDatum(moves->step_ids[i]);
	TupleTableSlot *row;

	LookFor(by_id, 1, &id);
	row = NextRow(by_id);
	if (row == NULL)
		return false;
	for (;;)
	{
		Change		change;
		WriteOutcome outcome;

		*step = ReadStepRow(steps, row);
		if (!IsAsExpected(moves, i, step))
			return false;
		change = ChangeOfStep(steps, moves, i, step);
		outcome = WriteRow(steps, row, &change);
		if (outcome != WRITE_CHANGED)
			return outcome == WRITE_DONE;
	}
}

/* Who gets the step, or has had it; 0: nobody. */
static int64
ExecutorOfMove(const StepMoves *moves, int i, const StepRow *step)
{
	return moves->to != STATE_IN_PROGRESS ? step->executor_id :
		moves->executors ? moves->executors[i] : 0;
}

static void
LogStepMove(Appender *log, LogRow *row, const StepMoves *moves, int i, const StepRow *step)
{
	int64		executor = ExecutorOfMove(moves, i, step);

	row->values[LOG_OWNER] = Int64GetDatum(step->step_id);
	row->values[LOG_SORT_KEY] = Int32GetDatum(step->sort_key + 10);
	row->nulls[LOG_EXECUTOR] = !moves->by_executor || executor == 0;
	row->values[LOG_EXECUTOR] = Int64GetDatum(executor);
	SetLogMetadata(row, moves->metadata ? moves->metadata[i] : moves->metadata_of_all);
	AppendRow(log, step->step_id, row->values, row->nulls);
}

static MovedStep *
MoveStepsDirectly(Table *steps, Table *log, const StepMoves *moves, int *moved)
{
	MovedStep  *result = palloc(sizeof(MovedStep) * moves->n);
	Lookup	   *by_id;
	Appender   *appender;
	LogRow		row;

	BeginAccess();
	by_id = LookupById(steps);
	appender = BeginAppend(log);
	row = CommonLogRow(log, moves->from, moves->to, moves->at);
	for (int i = 0; i < moves->n; i++)
	{
		StepRow		step;

		if (!MoveStepDirectly(steps, by_id, moves, i, &step))
			continue;
		FAULT_POINT("step-moved");
		LogStepMove(appender, &row, moves, i, &step);
		result[(*moved)++] = (MovedStep)
		{
			.step_id = step.step_id,
				.task_id = step.task_id,
				.sort_key = step.sort_key + 10,
				.attempts = Max(0, step.attempts + moves->attempt_change),
				.timeout_seconds = step.timeout_seconds,
				.handler_id = step.handler_id,
				.executor_id = ExecutorOfMove(moves, i, &step),
				.attempted_at = step.last_attempted_at,
		};
	}
	EndAppend(appender);
	EndLookup(by_id);
	EndAccess();
	return result;
}

static bool
MoveTaskDirectly(Table *tasks, Lookup *by_id, TaskerState from, TaskerState to, int64 task_id, TaskRow *task)
{
	Datum		id = Int64GetDatum(task_id);
	TupleTableSlot *row;

	LookFor(by_id, 1, &id);
	row = NextRow(by_id);
	if (row == NULL)
		return false;
	for (;;)
	{
		Change		change = {0};
		WriteOutcome outcome;

		*task = ReadTaskRow(tasks, row);
		if (task->state != from)
			return false;
		ChangeColumn(&change, TASK_STATE, StateValue(tasks, TASK_STATE, to));
		ChangeColumn(&change, TASK_SORT_KEY, Int32GetDatum(NextSortKey(OWNER_TASK, task_id, task->sort_key)));
		outcome = WriteRow(tasks, row, &change);
		if (outcome != WRITE_CHANGED)
			return outcome == WRITE_DONE;
	}
}

static int
MoveTasksDirectly(Table *tasks, Table *log, TaskerState from, TaskerState to, int n, const int64 *task_ids,
				  Datum metadata)
{
	Lookup	   *by_id;
	Appender   *appender;
	LogRow		row;
	TimestampTz now = TaskerNow();
	int			moved = 0;

	BeginAccess();
	by_id = LookupById(tasks);
	appender = BeginAppend(log);
	row = CommonLogRow(log, from, to, now);
	SetLogMetadata(&row, metadata);
	for (int i = 0; i < n; i++)
	{
		TaskRow		task;

		if (!MoveTaskDirectly(tasks, by_id, from, to, task_ids[i], &task))
			continue;
		FAULT_POINT("task-moved");
		row.values[LOG_OWNER] = Int64GetDatum(task.task_id);
		row.values[LOG_SORT_KEY] = Int32GetDatum(task.sort_key + 10);
		AppendRow(appender, task.task_id, row.values, row.nulls);
		CountTaskMove(from, to, task.named_task_id, task.requested_at, now);
		moved++;
	}
	EndAppend(appender);
	EndLookup(by_id);
	EndAccess();
	return moved;
}

void
LogCreations(Table *log, const int64 *task_ids, int n, TimestampTz at)
{
	Appender   *appender;
	LogRow		row;

	BeginAccess();
	appender = BeginAppend(log);
	row = CommonLogRow(log, STATE_NONE, STATE_PENDING, at);
	row.values[LOG_SORT_KEY] = Int32GetDatum(10);
	for (int i = 0; i < n; i++)
	{
		row.values[LOG_OWNER] = Int64GetDatum(task_ids[i]);
		AppendRow(appender, task_ids[i], row.values, row.nulls);
	}
	EndAppend(appender);
	EndAccess();
}

/* ---------- either way ---------- */

/* Whoever starts a step with a timeout, by claim or by hand, sets its timer. */
static void
LimitAttempts(const MovedStep *steps, int n, TimestampTz now)
{
	Timer	   *timers = palloc(sizeof(Timer) * Max(n, 1));
	int			timed = 0;

	for (int i = 0; i < n; i++)
	{
		if (steps[i].timeout_seconds > 0)
			timers[timed++] = (Timer)
		{
			.due_at = now + (int64) steps[i].timeout_seconds * USECS_PER_SEC,
				.step_id = steps[i].step_id,.sort_key = steps[i].sort_key
		};
	}
	SetTimers(timers, timed);
}

/* Counts and times what executors do with steps, and what happens to them. */
static void
MeasureMoves(const StepMoves *moves, const MovedStep *steps, int n)
{
	CountedEvent counted = EventOfMove(moves->from, moves->to);

	for (int i = 0; i < n; i++)
	{
		const MovedStep *step = &steps[i];
		int64		microseconds = UNTIMED;

		if (moves->from == STATE_IN_PROGRESS && moves->by_executor && moves->to != STATE_PENDING)
			microseconds = Max(moves->at - step->attempted_at, 0);
		NoteEvent(COUNTED_STEPS, step->handler_id, counted, microseconds);
		if (moves->to == STATE_IN_PROGRESS)
		{
			NoteClaimOfStep(step->step_id, moves->at);
			NoteExecutorStep(step->executor_id, EXECUTOR_CLAIMS, UNTIMED);
		}
		else if (moves->from != STATE_IN_PROGRESS)
			continue;
		else if (moves->to == STATE_PENDING)
			NoteExecutorStep(step->executor_id, EXECUTOR_RELEASES, UNTIMED);
		else if (moves->by_executor)
			NoteExecutorStep(step->executor_id, moves->to == STATE_COMPLETE ? EXECUTOR_COMPLETIONS : EXECUTOR_FAILURES, microseconds);
		else if (moves->to == STATE_ERROR)
		{
			NoteExecutorStep(step->executor_id, EXECUTOR_LOSSES, UNTIMED);
			NoteEvent(COUNTED_STEPS, step->handler_id, COUNTED_LOST, UNTIMED);
		}
	}
}

MovedStep *
MoveSteps(const StepMoves *asked, int *moved)
{
	StepMoves	moves = *asked;
	Table	   *steps;
	Table	   *log;
	MovedStep  *result;

	*moved = 0;
	if (moves.n == 0)
		return NULL;
	Assert(IsLegalTransition(OWNER_STEP, moves.from, moves.to));
	if (moves.at == 0)
		moves.at = TaskerNow();
	steps = OpenTable(&STEPS);
	log = OpenTable(&STEP_LOG);
	if (TakesDirectWrites(steps, false) && TakesDirectWrites(log, true))
		result = MoveStepsDirectly(steps, log, &moves, moved);
	else
		result = MoveStepsBySql(&moves, moved);
	FAULT_POINT("steps-logged");
	if (moves.to == STATE_IN_PROGRESS)
		LimitAttempts(result, *moved, moves.at);
	MeasureMoves(&moves, result, *moved);
	if (*moved > 0)
		WakeOrchestratorAtCommit(*moved);
	return result;
}

int
MoveTasks(TaskerState from, TaskerState to, int n, const int64 *task_ids, Datum metadata)
{
	Table	   *tasks;
	Table	   *log;
	int			moved;

	if (n == 0)
		return 0;
	Assert(IsLegalTransition(OWNER_TASK, from, to));
	tasks = OpenTable(&TASKS);
	log = OpenTable(&TASK_LOG);
	if (TakesDirectWrites(tasks, false) && TakesDirectWrites(log, true))
		moved = MoveTasksDirectly(tasks, log, from, to, n, task_ids, metadata);
	else
		moved = MoveTasksBySql(from, to, n, task_ids, metadata);
	if (moved > 0)
		WakeOrchestratorAtCommit(moved);
	if (EndsTask(to))
		NoteTasksEnded(task_ids, n);
	return moved;
}
