/*
 * timer.c
 *		What is due later.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "pg/fault.h"
#include "pg/query.h"
#include "pg/table.h"
#include "run/timer.h"
#include "utils/datetime.h"

static KeptQuery SET_TIMERS = {
	.sql =
	"INSERT INTO tasker.timers (due_at, workflow_step_id, sort_key)"
	" SELECT u.due_at, u.step_id, u.sort_key"
	"   FROM ROWS FROM (unnest($1), unnest($2), unnest($3)) u(due_at, step_id, sort_key)"
	" ON CONFLICT DO NOTHING",
	.nargs = 3,.types = {TIMESTAMPTZARRAYOID, INT8ARRAYOID, INT4ARRAYOID}
};

/* By ctid: a planned join against a table that is usually empty goes wrong. */
static KeptQuery TAKE_DUE_TIMERS = {
	.sql =
	"DELETE FROM tasker.timers WHERE ctid = ANY (ARRAY("
	" SELECT t.ctid FROM tasker.timers t WHERE t.due_at > $1 AND t.due_at <= $2"
	"  ORDER BY t.due_at LIMIT $3))"
	" RETURNING due_at, workflow_step_id, sort_key",
	.nargs = 3,.types = {TIMESTAMPTZOID, TIMESTAMPTZOID, INT8OID}
};

typedef enum TimerColumn
{
	TIMER_DUE_AT, TIMER_COLUMNS
} TimerColumn;

static const TableShape TIMERS = {
	.name = "timers",.n_columns = TIMER_COLUMNS,
	.columns = {"due_at"}
};

void
SetTimers(const Timer *timers, int n)
{
	Datum	   *due_at = palloc(sizeof(Datum) * Max(n, 1));
	int64	   *step_ids = palloc(sizeof(int64) * Max(n, 1));
	int32	   *sort_keys = palloc(sizeof(int32) * Max(n, 1));
	Datum		args[3];

	if (n == 0)
		return;
	for (int i = 0; i < n; i++)
	{
		due_at[i] = TimestampTzGetDatum(timers[i].due_at);
		step_ids[i] = timers[i].step_id;
		sort_keys[i] = timers[i].sort_key;
	}
	FAULT_POINT("timer-set");
	args[0] = NullableArray(due_at, NULL, n, TIMESTAMPTZOID);
	args[1] = Int64Array(step_ids, n);
	args[2] = Int32Array(sort_keys, n);
	(void) RunQuery(&SET_TIMERS, args, NULL);
}

Timer *
TakeDueTimers(TimestampTz after, TimestampTz now, int max, int *n)
{
	Datum		args[3] = {TimestampTzGetDatum(after), TimestampTzGetDatum(now), Int64GetDatum(max)};
	Timer	   *timers;

	/* Most looks find nothing, and looking is cheaper than a statement. */
	*n = NextTimer(after) > now ? 0 : (int) RunQuery(&TAKE_DUE_TIMERS, args, NULL);
	if (*n > 0)
		FAULT_POINT("timer-taken");
	timers = palloc(sizeof(Timer) * Max(*n, 1));
	for (int i = 0; i < *n; i++)
		timers[i] = (Timer)
	{
		.due_at = DatumGetTimestampTz(RowDatum(i, 1, NULL)),
			.step_id = RowInt64(i, 2),
			.sort_key = RowInt32(i, 3),
	};
	return timers;
}

TimestampTz
NextTimer(TimestampTz after)
{
	static const int due_at[] = {TIMER_DUE_AT};
	Datum		key = TimestampTzGetDatum(after);
	TimestampTz next = DT_NOEND;
	Table	   *timers;
	Lookup	   *by_time;
	TupleTableSlot *row;

	BeginAccess();
	timers = OpenTable(&TIMERS);
	by_time = BeginLookup(timers, 1, due_at);
	LookBeyond(by_time, 1, &key);
	row = NextRow(by_time);
	if (row != NULL)
		next = DatumGetTimestampTz(RowColumn(timers, row, TIMER_DUE_AT, NULL));
	EndLookup(by_time);
	EndAccess();
	return next;
}
