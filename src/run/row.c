/*
 * row.c
 *		The rows of tasks, steps, edges and logs as C sees them.
 */
#include "postgres.h"

#include "run/row.h"
#include "catalog/pg_enum.h"
#include "utils/rel.h"
#include "utils/syscache.h"

const TableShape STEPS = {
	.name = "workflow_steps",.n_columns = STEP_COLUMNS,
	.columns = {
		"workflow_step_id", "task_id", "executor_id", "last_attempted_at", "next_retry_at", "named_step_id",
		"handler_id", "sort_key", "attempts", "retry_limit", "timeout_seconds", "backoff_request_seconds",
		"state", "rank", "retryable", "skippable", "is_root", "is_leaf",
		"failed_permanently", "inputs", "results"
	}
};

const TableShape TASKS = {
	.name = "tasks",.n_columns = TASK_COLUMNS,.n_later = 1,
	.columns = {
		"task_id", "named_task_id", "task_namespace_id", "sort_key", "state", "priority", "requested_at",
		"identity_key", "initiator", "source_system", "reason", "tags", "bypass_steps",
		"context", "traceparent"
	}
};

const TableShape STEP_LOG = {
	.name = "workflow_step_transition_log",.n_columns = LOG_COLUMNS,
	.columns = {
		"workflow_step_id", "sort_key", "from_state", "to_state", "created_at", "xact_id", "executor_id",
		"role", "metadata"
	}
};

const TableShape TASK_LOG = {
	.name = "task_transition_log",.n_columns = LOG_COLUMNS,
	.columns = {
		"task_id", "sort_key", "from_state", "to_state", "created_at", "xact_id", "executor_id",
		"role", "metadata"
	}
};

/* ---------- states ---------- */

/* The values of the enum type, whose numbers never change while it lives. */
static struct
{
	Oid			type;
	Oid			values[STATE_RESOLVED_MANUALLY + 1];
}			states;

static void
ReadStates(Oid type)
{
	states.type = InvalidOid;
	for (TaskerState state = STATE_PENDING; state <= STATE_RESOLVED_MANUALLY; state++)
	{
		states.values[state] = GetSysCacheOid2(ENUMTYPOIDNAME, Anum_pg_enum_oid, ObjectIdGetDatum(type),
											   CStringGetDatum(StateLabel(state)));
		if (!OidIsValid(states.values[state]))
			elog(ERROR, "label \"%s\" of type tasker.state is missing", StateLabel(state));
	}
	states.type = type;
}

static void
KnowStates(const Table *table, int column)
{
	Oid			type = ColumnType(table, column);

	if (states.type != type)
		ReadStates(type);
}

Datum
StateValue(const Table *table, int column, TaskerState state)
{
	KnowStates(table, column);
	return ObjectIdGetDatum(states.values[state]);
}

TaskerState
StateOfValue(const Table *table, int column, Datum value)
{
	Oid			oid = DatumGetObjectId(value);

	KnowStates(table, column);
	for (TaskerState state = STATE_PENDING; state <= STATE_RESOLVED_MANUALLY; state++)
	{
		if (states.values[state] == oid)
			return state;
	}
	elog(ERROR, "value %u is not of type tasker.state", oid);
}

/* ---------- rows ---------- */

StepRow
ReadStepRow(const Table *steps, TupleTableSlot *row)
{
	bool		no_executor;
	bool		no_retry;
	bool		no_timeout;
	bool		no_attempt;
	Datum		attempted = RowColumn(steps, row, STEP_LAST_ATTEMPTED_AT, &no_attempt);
	Datum		executor = RowColumn(steps, row, STEP_EXECUTOR, &no_executor);
	Datum		next_retry = RowColumn(steps, row, STEP_NEXT_RETRY_AT, &no_retry);
	Datum		timeout = RowColumn(steps, row, STEP_TIMEOUT, &no_timeout);

	return (StepRow)
	{
		.step_id = DatumGetInt64(RowColumn(steps, row, STEP_ID, NULL)),
			.task_id = DatumGetInt64(RowColumn(steps, row, STEP_TASK, NULL)),
			.executor_id = no_executor ? 0 : DatumGetInt64(executor),
			.has_retry = !no_retry,
			.next_retry_at = no_retry ? 0 : DatumGetTimestampTz(next_retry),
			.last_attempted_at = no_attempt ? 0 : DatumGetTimestampTz(attempted),
			.named_step_id = DatumGetInt32(RowColumn(steps, row, STEP_NAMED_STEP, NULL)),
			.handler_id = DatumGetInt32(RowColumn(steps, row, STEP_HANDLER, NULL)),
			.sort_key = DatumGetInt32(RowColumn(steps, row, STEP_SORT_KEY, NULL)),
			.attempts = DatumGetInt32(RowColumn(steps, row, STEP_ATTEMPTS, NULL)),
			.retry_limit = DatumGetInt32(RowColumn(steps, row, STEP_RETRY_LIMIT, NULL)),
			.timeout_seconds = no_timeout ? 0 : DatumGetInt32(timeout),
			.state = StateOfValue(steps, STEP_STATE, RowColumn(steps, row, STEP_STATE, NULL)),
			.rank = DatumGetInt16(RowColumn(steps, row, STEP_RANK, NULL)),
			.skippable = DatumGetBool(RowColumn(steps, row, STEP_SKIPPABLE, NULL)),
			.is_root = DatumGetBool(RowColumn(steps, row, STEP_IS_ROOT, NULL)),
			.is_leaf = DatumGetBool(RowColumn(steps, row, STEP_IS_LEAF, NULL)),
	};
}

TaskRow
ReadTaskRow(const Table *tasks, TupleTableSlot *row)
{
	return (TaskRow)
	{
		.task_id = DatumGetInt64(RowColumn(tasks, row, TASK_ID, NULL)),
			.named_task_id = DatumGetInt32(RowColumn(tasks, row, TASK_NAMED_TASK, NULL)),
			.sort_key = DatumGetInt32(RowColumn(tasks, row, TASK_SORT_KEY, NULL)),
			.state = StateOfValue(tasks, TASK_STATE, RowColumn(tasks, row, TASK_STATE, NULL)),
			.requested_at = DatumGetTimestampTz(RowColumn(tasks, row, TASK_REQUESTED_AT, NULL)),
	};
}

Lookup *
LookupById(Table *table)
{
	static const int id = 0;

	return BeginLookup(table, 1, &id);
}

bool
FindStepRow(const Table *steps, Lookup *by_id, int64 step_id, StepRow *step)
{
	Datum		key = Int64GetDatum(step_id);
	TupleTableSlot *row;

	LookFor(by_id, 1, &key);
	row = NextRow(by_id);
	if (row != NULL)
		*step = ReadStepRow(steps, row);
	return row != NULL;
}

Lookup *
LookupByNamedStep(Table *steps)
{
	static const int key[] = {STEP_TASK, STEP_NAMED_STEP};

	return BeginLookup(steps, 2, key);
}

bool
FindStepOfTask(const Table *steps, Lookup *by_named_step, int64 task_id, int32 named_step_id, StepRow *step)
{
	Datum		key[] = {Int64GetDatum(task_id), Int32GetDatum(named_step_id)};
	TupleTableSlot *row;

	LookFor(by_named_step, 2, key);
	row = NextRow(by_named_step);
	if (row != NULL)
		*step = ReadStepRow(steps, row);
	return row != NULL;
}

bool
FindTaskRow(const Table *tasks, Lookup *by_id, int64 task_id, TaskRow *task)
{
	Datum		key = Int64GetDatum(task_id);
	TupleTableSlot *row;

	LookFor(by_id, 1, &key);
	row = NextRow(by_id);
	if (row != NULL)
		*task = ReadTaskRow(tasks, row);
	return row != NULL;
}
