/*
 * reenqueue.c
 *		Scheduling a task to be looked at again.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "pg/clock.h"
#include "pg/query.h"
#include "pg/table.h"
#include "pg/wakeup.h"
#include "run/move.h"
#include "run/reenqueue.h"
#include "run/transition.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/json.h"

static KeptQuery SCHEDULE = {
	.sql =
	"INSERT INTO tasker.task_reenqueues AS r (task_id, due_at, reason, role) VALUES ($1, $2, $3, $4)"
	" ON CONFLICT (task_id) DO UPDATE SET due_at = excluded.due_at, reason = excluded.reason, role = excluded.role"
	"  WHERE r.due_at > excluded.due_at",
	.nargs = 4,.types = {INT8OID, TIMESTAMPTZOID, TEXTOID, TEXTOID}
};

static KeptQuery UNSCHEDULE = {
	.sql = "DELETE FROM tasker.task_reenqueues WHERE task_id = $1",
	.nargs = 1,.types = {INT8OID}
};

static KeptQuery FIND_DUE = {
	.sql =
	"SELECT r.task_id FROM tasker.task_reenqueues r WHERE r.due_at > $1 AND r.due_at <= $2"
	" ORDER BY r.due_at LIMIT $3",
	.nargs = 3,.types = {TIMESTAMPTZOID, TIMESTAMPTZOID, INT8OID}
};

static KeptQuery TAKE_DUE = {
	.sql =
	"DELETE FROM tasker.task_reenqueues WHERE task_id = $1 AND due_at <= $2 RETURNING reason",
	.nargs = 2,.types = {INT8OID, TIMESTAMPTZOID}
};

static const TableShape REENQUEUES = {
	.name = "task_reenqueues",.n_columns = 1,
	.columns = {"due_at"}
};

bool
ScheduleReenqueue(int64 task_id, TimestampTz due_at, const char *reason)
{
	Datum		args[4] = {Int64GetDatum(task_id), TimestampTzGetDatum(due_at), CStringGetTextDatum(reason),
	QueryCallerName()};

	WakeOrchestratorAtCommit(0);
	return RunQuery(&SCHEDULE, args, NULL) > 0;
}

TimestampTz
NextReenqueue(TimestampTz after)
{
	static const int due_at = 0;
	Datum		key = TimestampTzGetDatum(after);
	TimestampTz next = DT_NOEND;
	Table	   *table;
	Lookup	   *by_time;
	TupleTableSlot *row;

	BeginAccess();
	table = OpenTable(&REENQUEUES);
	by_time = BeginLookup(table, 1, &due_at);
	LookBeyond(by_time, 1, &key);
	row = NextRow(by_time);
	if (row != NULL)
		next = DatumGetTimestampTz(RowColumn(table, row, due_at, NULL));
	EndLookup(by_time);
	EndAccess();
	return next;
}

int64 *
FindDueReenqueues(TimestampTz after, TimestampTz now, int max, int *n)
{
	Datum		args[3] = {TimestampTzGetDatum(after), TimestampTzGetDatum(now), Int64GetDatum(max)};
	int64	   *due;

	/* Most looks find nothing, and looking is cheaper than a statement. */
	*n = NextReenqueue(after) > now ? 0 : (int) RunQuery(&FIND_DUE, args, NULL);
	due = palloc(sizeof(int64) * Max(*n, 1));
	for (int i = 0; i < *n; i++)
		due[i] = RowInt64(i, 1);
	return due;
}

char *
TakeDueReenqueue(int64 task_id, TimestampTz now)
{
	Datum		args[2] = {Int64GetDatum(task_id), TimestampTzGetDatum(now)};

	return RunQuery(&TAKE_DUE, args, NULL) == 0 ? NULL : RowText(0, 1);
}

Datum
ReenqueueMetadata(const char *reason)
{
	StringInfoData json;

	initStringInfo(&json);
	appendStringInfoString(&json, "{\"reason\": ");
	escape_json(&json, reason);
	appendStringInfoString(&json, ", \"triggered_by\": \"re-enqueue\"}");
	return JsonbOfText(json.data);
}

/* Re-enqueues a task after so many seconds; says what that came to. */
static const char *
ReenqueueTask(int64 task_id, double delay, const char *reason)
{
	TaskerState from = LockTask(task_id);
	Datum		arg = Int64GetDatum(task_id);

	if (EndsTask(from))
		RefuseTransition(OWNER_TASK, task_id, from, STATE_PENDING,
						 from == STATE_ERROR ? "It has ended: retry_task starts it again." : "It has ended.");
	if (delay > 0)
		return ScheduleReenqueue(task_id, TaskerNow() + (int64) (delay * USECS_PER_SEC), reason) ?
			"scheduled" : "already_scheduled";
	(void) RunQuery(&UNSCHEDULE, &arg, NULL);
	if (from == STATE_PENDING)
		return "already_pending";
	(void) MoveTasks(from, STATE_PENDING, 1, &task_id, ReenqueueMetadata(reason));
	return "reenqueued";
}

PG_FUNCTION_INFO_V1(tasker_reenqueue_task);

Datum
tasker_reenqueue_task(PG_FUNCTION_ARGS)
{
	double		delay = PG_ARGISNULL(1) ? 0 : IntervalSeconds(PG_GETARG_INTERVAL_P(1));
	const char *reason = !PG_ARGISNULL(2) ? text_to_cstring(PG_GETARG_TEXT_PP(2)) :
		delay > 0 ? "retry_backoff" : "pending_steps_remaining";
	const char *outcome;
	QueryScope	scope;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("task_id must not be null")));
	if (delay < 0 || delay > MAX_REENQUEUE_SECONDS)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the delay of a re-enqueue must be between 0 and %.0f seconds", MAX_REENQUEUE_SECONDS)));
	if (reason[0] == '\0' || pg_mbstrlen(reason) > 128)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the reason of a re-enqueue must have 1 to 128 characters, not %d", pg_mbstrlen(reason))));
	OpenQueryScope(&scope);
	outcome = ReenqueueTask(PG_GETARG_INT64(0), delay, reason);
	CloseQueryScope(&scope);
	return CStringGetTextDatum(outcome);
}
