/*
 * retention.c
 *		Removing history: finished tasks one by one, the periods of the logs
 *		that nobody belongs to any more as a whole.
 *
 * Tasks are walked by id, which is the order of their creation, as far as
 * those that are too young.  A chunk is one set-based statement for each
 * table.  It waits for nobody: a task that another session holds, or a step
 * of which it holds, is passed over.  Whoever wants a task that is being
 * pruned (retry_task, say) waits for the short rest of the transaction and
 * then finds that it has gone.
 *
 * A task goes only when the orchestrator has read what happened to it and to
 * each of its steps; then it has drawn what follows.  Timers are left: one
 * without its step means nothing and goes when it is due.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "define/access.h"
#include "define/ownership.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "pg/catalog.h"
#include "pg/clock.h"
#include "pg/fault.h"
#include "pg/guc.h"
#include "pg/query.h"
#include "run/retention.h"
#include "storage/lock.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/timestamp.h"

/* See EXECUTOR_LOCK_CLASS in executor.c: no user's advisory lock has this class. */
#define UPKEEP_LOCK_CLASS 1003

/* Tasks and, where there are more, steps of one chunk. */
#define CHUNK_TASKS 1000
#define CHUNK_STEPS 20000

/* Looks at so many tasks for each one that may be pruned, before it reports. */
#define LOOKED_AT_FOR_ONE 10

/* A new period begins after this share of the retention, though not daily twice. */
#define PERIODS_IN_RETENTION 10

/* A partition smaller than this is not worth emptying. */
#define SMALLEST_COMPACTED (8 * 1024 * 1024)

static const char *const DONE_STATES = "{complete,cancelled,resolved_manually}";

static bool
AcquireUpkeepLock(bool dont_wait)
{
	LOCKTAG		tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, 0, 0, UPKEEP_LOCK_CLASS);
	return LockAcquire(&tag, ExclusiveLock, false, dont_wait) != LOCKACQUIRE_NOT_AVAIL;
}

/* ---------- which tasks ---------- */

/* What the orchestrator has read; all there is where none has ever worked. */
static KeptQuery READ_POSITION = {
	.sql =
	"SELECT coalesce(c.position, pg_current_snapshot()), coalesce(c.system_identifier = $1, true),"
	"       tasker.current_period(), c.position IS NOT NULL"
	"  FROM (SELECT) one LEFT JOIN tasker.orchestrator_checkpoint c ON true",
	.nargs = 1,.types = {INT8OID}
};

/* The same, less what a consumer of events has still to read. */
static KeptQuery READ_COMMON_POSITION = {
	.sql =
	"SELECT format('%s:%s:%s', coalesce(min(r.xact), bound.xmax), bound.xmax, string_agg(r.xact::text, ',' ORDER BY r.xact))::pg_snapshot"
	"  FROM (SELECT tasker.position_read_by_consumers() AS consumers) c"
	" CROSS JOIN LATERAL (SELECT CASE WHEN pg_snapshot_xmax(c.consumers) < pg_snapshot_xmax($1)"
	"                                 THEN pg_snapshot_xmax(c.consumers) ELSE pg_snapshot_xmax($1) END AS xmax) bound"
	"  LEFT JOIN LATERAL (SELECT x AS xact FROM pg_snapshot_xip(c.consumers) x WHERE x < bound.xmax"
	"                     UNION SELECT x FROM pg_snapshot_xip($1) x WHERE x < bound.xmax) r ON true"
	" WHERE c.consumers IS NOT NULL GROUP BY bound.xmax",
	.nargs = 1,.types = {PG_SNAPSHOTOID}
};

static KeptQuery LOOK_AHEAD = {
	.sql =
	"SELECT t.task_id, (SELECT l.created_at < $2 FROM tasker.task_transition_log l"
	"                    WHERE l.task_id = t.task_id AND l.sort_key = 10)"
	"  FROM (SELECT task_id FROM tasker.tasks WHERE task_id > $1 ORDER BY task_id OFFSET $3 LIMIT 1) t",
	.nargs = 3,.types = {INT8OID, TIMESTAMPTZOID, INT8OID}
};

static KeptQuery LOCK_FINISHED_TASKS = {
	.sql =
	"SELECT t.task_id FROM tasker.tasks t"
	" WHERE t.task_id > $1 AND t.task_id <= $2 AND t.state = ANY ($3::tasker.state[])"
	"   AND (SELECT l.created_at < $4 AND pg_visible_in_snapshot(l.xact_id, $5)"
	"          FROM tasker.task_transition_log l"
	"         WHERE l.task_id = t.task_id AND l.sort_key = t.sort_key)"
	" ORDER BY t.task_id LIMIT $6 FOR UPDATE OF t SKIP LOCKED",
	.nargs = 6,.types = {INT8OID, INT8OID, TEXTOID, TIMESTAMPTZOID, PG_SNAPSHOTOID, INT8OID}
};

static KeptQuery COUNT_STEPS = {
	.sql =
	"SELECT u, (SELECT count(*) FROM tasker.workflow_steps s WHERE s.task_id = u)"
	"  FROM (SELECT unnest($1) AS u LIMIT cardinality($1)) batch",
	.nargs = 1,.types = {INT8ARRAYOID}
};

static KeptQuery LOCK_STEPS = {
	.sql =
	"SELECT s.workflow_step_id, s.task_id FROM tasker.workflow_steps s"
	" WHERE s.task_id = ANY ($1) AND s.state <> 'in_progress'"
	"   AND (s.sort_key = 0 OR"
	"        (SELECT pg_visible_in_snapshot(l.xact_id, $2) FROM tasker.workflow_step_transition_log l"
	"          WHERE l.workflow_step_id = s.workflow_step_id AND l.sort_key = s.sort_key))"
	" ORDER BY s.task_id FOR UPDATE OF s SKIP LOCKED",
	.nargs = 2,.types = {INT8ARRAYOID, PG_SNAPSHOTOID}
};

/* What is asked for, and what is known, while tasks are pruned. */
typedef struct Pruning
{
	TimestampTz finished_before;
	Datum		states;			/* text of an array of states */
	Datum		position;		/* what the orchestrator and the consumers of events have read */
	int64		latest_period;
	bool		orchestrated;	/* there is a checkpoint */
	bool		keep_rows;		/* leave transitions of closed periods */
} Pruning;

/* Tasks and all their steps, locked. */
typedef struct Victims
{
	int			tasks;
	int64	   *task_id;
	int			steps;
	int64	   *step_id;
} Victims;

/*
 * False on a database that was restored or cloned and is not adopted:
 * nothing is removed there.
 */
static bool
BeginPruning(Pruning *p)
{
	Datum		own = Int64GetDatum(HomeIdentifier());
	bool		adopted;

	(void) RunQuery(&READ_POSITION, &own, NULL);
	p->position = datumCopy(RowDatum(0, 1, NULL), false, -1);
	p->latest_period = RowInt64(0, 3);
	p->orchestrated = RowBool(0, 4);
	adopted = RowBool(0, 2);
	if (SchemaVersion() >= 101 && RunQuery(&READ_COMMON_POSITION, &p->position, NULL) == 1)
		p->position = datumCopy(RowDatum(0, 1, NULL), false, -1);
	return adopted;
}

/*
 * Finds where a chunk ends that begins after the id given: looked_at tasks
 * later, or at the last there is.  Sets last where all beyond is too young.
 */
static int64
FindEndOfChunk(const Pruning *p, int64 after, int looked_at, bool *last)
{
	Datum		args[3] = {Int64GetDatum(after), TimestampTzGetDatum(p->finished_before),
	Int64GetDatum(looked_at - 1)};

	if (RunQuery(&LOOK_AHEAD, args, NULL) == 0)
	{
		*last = true;
		return PG_INT64_MAX;
	}
	*last = !RowBool(0, 2);
	return RowInt64(0, 1);
}

/*
 * Locks finished tasks between two ids with their steps.  Leaves out those
 * that are not to be had at once, and so many at the end that the steps are
 * not too many; through is set to the last id that is done with.
 */
static Victims
LockVictims(const Pruning *p, int64 after, int64 *through, int max_tasks)
{
	Datum		task_args[6] = {Int64GetDatum(after), Int64GetDatum(*through), p->states,
	TimestampTzGetDatum(p->finished_before), p->position, Int64GetDatum(max_tasks)};
	Datum		step_args[2] = {0, p->position};
	Victims		v = {0};
	int			found = (int) RunQuery(&LOCK_FINISHED_TASKS, task_args, NULL);
	int64	   *candidate = palloc(sizeof(int64) * Max(found, 1));
	int64	   *expected = palloc(sizeof(int64) * Max(found, 1));
	int64		steps = 0;
	int			rows;
	int			row = 0;

	if (found == 0)
		return v;
	for (int i = 0; i < found; i++)
		candidate[i] = RowInt64(i, 1);
	if (found == max_tasks)
		*through = candidate[found - 1];
	step_args[0] = Int64Array(candidate, found);
	(void) RunQuery(&COUNT_STEPS, step_args, NULL);
	for (int i = 0; i < found; i++)
	{
		expected[i] = RowInt64(i, 2);
		if (i > 0 && steps + expected[i] > CHUNK_STEPS)
		{
			found = i;
			*through = candidate[i - 1];
			break;
		}
		steps += expected[i];
	}

	step_args[0] = Int64Array(candidate, found);
	rows = (int) RunQuery(&LOCK_STEPS, step_args, NULL);
	v.task_id = candidate;
	v.step_id = palloc(sizeof(int64) * Max(rows, 1));
	/* Both are in the order of the tasks. */
	for (int i = 0; i < found; i++)
	{
		int			first = row;

		while (row < rows && RowInt64(row, 2) == candidate[i])
			row++;
		if (row - first != expected[i])
			continue;
		for (int s = first; s < row; s++)
			v.step_id[v.steps++] = RowInt64(s, 1);
		v.task_id[v.tasks++] = candidate[i];
	}
	return v;
}

/* ---------- away with them ---------- */

/*
 * Any step may still be in the queue, for who resolves it by hand leaves it
 * there.  A row that is locked is being taken by a claim, which will find the
 * step gone.
 */
static KeptQuery DELETE_QUEUED = {
	.sql =
	"DELETE FROM tasker.work_queue WHERE ctid = ANY (ARRAY("
	" SELECT (SELECT q.ctid FROM tasker.work_queue q"
	"          WHERE q.handler_id = s.handler_id AND q.rank = s.rank AND q.workflow_step_id = s.workflow_step_id"
	"            FOR UPDATE SKIP LOCKED)"
	"   FROM tasker.workflow_steps s WHERE s.workflow_step_id = ANY ($1)))",
	.nargs = 1,.types = {INT8ARRAYOID}
};

static KeptQuery DELETE_ANNOTATIONS = {
	.sql = "DELETE FROM tasker.task_annotations WHERE task_id = ANY ($1)",
	.nargs = 1,.types = {INT8ARRAYOID}
};

static KeptQuery DELETE_EVENTS_OF_TASKS = {
	.sql = "DELETE FROM tasker.published_events WHERE task_id = ANY ($1)",
	.nargs = 1,.types = {INT8ARRAYOID}
};

/* Custom events go with their task, or by their age. */
static KeptQuery DELETE_OLD_EVENTS = {
	.sql =
	"DELETE FROM tasker.published_events WHERE ctid = ANY (ARRAY("
	" SELECT e.ctid FROM tasker.published_events e WHERE e.created_at < $1 AND pg_visible_in_snapshot(e.xact_id, $2)"
	"  ORDER BY e.created_at LIMIT $3))",
	.nargs = 3,.types = {TIMESTAMPTZOID, PG_SNAPSHOTOID, INT8OID}
};

static KeptQuery DELETE_STEPS = {
	.sql = "DELETE FROM tasker.workflow_steps WHERE workflow_step_id = ANY ($1)",
	.nargs = 1,.types = {INT8ARRAYOID}
};

static KeptQuery DELETE_TASKS = {
	.sql = "DELETE FROM tasker.tasks WHERE task_id = ANY ($1)",
	.nargs = 1,.types = {INT8ARRAYOID}
};

static KeptQuery DELETE_STEP_LOG = {
	.sql = "DELETE FROM tasker.workflow_step_transition_log WHERE workflow_step_id = ANY ($1)",
	.nargs = 1,.types = {INT8ARRAYOID}
};

static KeptQuery DELETE_TASK_LOG = {
	.sql = "DELETE FROM tasker.task_transition_log WHERE task_id = ANY ($1)",
	.nargs = 1,.types = {INT8ARRAYOID}
};

/* A period without a row has not seen upkeep: then it is the current one. */
static KeptQuery NOTE_KEPT_STEP_ROWS = {
	.sql =
	"UPDATE tasker.history_periods SET keeps_step_rows = true"
	" WHERE period = ANY ($1) AND NOT keeps_step_rows",
	.nargs = 1,.types = {INT8ARRAYOID}
};

static KeptQuery NOTE_KEPT_TASK_ROWS = {
	.sql =
	"UPDATE tasker.history_periods SET keeps_task_rows = true"
	" WHERE period = ANY ($1) AND NOT keeps_task_rows",
	.nargs = 1,.types = {INT8ARRAYOID}
};

/*
 * Runs a statement that the triggers of the logs would refuse.  Not by way of
 * set_config_option, which would throw away every cached plan of the session,
 * twice: the trigger code looks at the variable alone.
 */
static uint64
RunQueryPastTriggers(KeptQuery *query, const Datum *args)
{
	int			role = SessionReplicationRole;
	uint64		rows;

	PG_TRY();
	{
		SessionReplicationRole = SESSION_REPLICATION_ROLE_REPLICA;
		rows = RunQuery(query, args, NULL);
	}
	PG_FINALLY();
	{
		SessionReplicationRole = role;
	}
	PG_END_TRY();
	return rows;
}

/* The period of an owner, as tasker.history_period says. */
static int64
PeriodOf(int64 owner_id)
{
	return Max(owner_id >> 40, 0);
}

static int
CompareIds(const void *a, const void *b)
{
	int64		x = *(const int64 *) a;
	int64		y = *(const int64 *) b;

	return x < y ? -1 : x > y;
}

/*
 * Removes the transitions of owners, but for those of closed periods if they
 * are to be kept; notes of which periods that were.  Sorts the owners.
 */
static void
PruneLog(const Pruning *p, KeptQuery *delete, KeptQuery *note, int64 *owners, int n)
{
	int64	   *periods = palloc(sizeof(int64) * Max(n, 1));
	int			kept = 0;
	int			noted = 0;
	Datum		arg;

	qsort(owners, n, sizeof(int64), CompareIds);
	for (; p->keep_rows && kept < n && PeriodOf(owners[kept]) < p->latest_period; kept++)
	{
		if (noted == 0 || periods[noted - 1] != PeriodOf(owners[kept]))
			periods[noted++] = PeriodOf(owners[kept]);
	}
	if (noted > 0)
	{
		arg = Int64Array(periods, noted);
		(void) RunQuery(note, &arg, NULL);
	}
	if (kept < n)
	{
		arg = Int64Array(owners + kept, n - kept);
		(void) RunQueryPastTriggers(delete, &arg);
	}
}

static void
RemoveVictims(const Pruning *p, Victims *v)
{
	Datum		arg;

	PruneLog(p, &DELETE_STEP_LOG, &NOTE_KEPT_STEP_ROWS, v->step_id, v->steps);
	PruneLog(p, &DELETE_TASK_LOG, &NOTE_KEPT_TASK_ROWS, v->task_id, v->tasks);
	FAULT_POINT("log-pruned");
	arg = Int64Array(v->step_id, v->steps);
	(void) RunQuery(&DELETE_QUEUED, &arg, NULL);
	(void) RunQuery(&DELETE_STEPS, &arg, NULL);
	arg = Int64Array(v->task_id, v->tasks);
	(void) RunQuery(&DELETE_ANNOTATIONS, &arg, NULL);
	if (SchemaVersion() >= 101)
		(void) RunQuery(&DELETE_EVENTS_OF_TASKS, &arg, NULL);
	(void) RunQuery(&DELETE_TASKS, &arg, NULL);
}

/*
 * Prunes at most max_tasks tasks after the one given, looking at no more than
 * looked_at; returns how many, and in after where to go on, 0 at the end.
 */
static int
PruneChunk(const Pruning *p, int64 *after, int max_tasks, int looked_at)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "tasker pruning", ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(context);
	bool		last;
	int64		end = FindEndOfChunk(p, *after, looked_at, &last);
	int64		through = end;
	Victims		victims = LockVictims(p, *after, &through, max_tasks);

	if (victims.tasks > 0)
		RemoveVictims(p, &victims);
	*after = last && through == end ? 0 : through;
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(context);
	return victims.tasks;
}

/* Prunes chunk by chunk from the beginning; more tells whether the end was not reached. */
static int
PruneMany(const Pruning *p, int max_tasks, bool *more)
{
	int64		after = 0;
	int			pruned = 0;

	do
	{
		CHECK_FOR_INTERRUPTS();
		pruned += PruneChunk(p, &after, Min(CHUNK_TASKS, max_tasks - pruned), CHUNK_TASKS * LOOKED_AT_FOR_ONE);
	}
	while (after != 0 && pruned < max_tasks);
	*more = after != 0;
	return pruned;
}

/* ---------- the periods ---------- */

static KeptQuery KEEP_PERIODS = {
	.sql = "SELECT coalesce(tasker.keep_periods($1 * interval '1 second'), 0)",
	.nargs = 1,.types = {INT8OID}
};

static KeptQuery DROP_HISTORY = {.sql = "SELECT dropped, is_locked FROM tasker.drop_history()",.nargs = 0};

static KeptQuery COMPACT_HISTORY = {
	.sql = "SELECT tasker.compact_history($1, $2)",
	.nargs = 2,.types = {TIMESTAMPTZOID, INT8OID}
};

/* Begins a period if it is time; 0 if it is not. */
static int64
KeepPeriods(int64 retention_seconds)
{
	Datum		length = Int64GetDatum(Max(SECS_PER_DAY, retention_seconds / PERIODS_IN_RETENTION));

	(void) RunQuery(&KEEP_PERIODS, &length, retention_seconds > 0 ? " " : "n");
	return RowInt64(0, 1);
}

/*
 * Drops or empties a partition; NULL where there is none to be had, and sets
 * locked where one is to be dropped that somebody reads.
 */
static char *
FreePartition(TimestampTz finished_before, bool *locked)
{
	Datum		args[2] = {TimestampTzGetDatum(finished_before), Int64GetDatum(SMALLEST_COMPACTED)};
	char	   *freed;

	(void) RunPlainQuery(&DROP_HISTORY);
	freed = RowText(0, 1);
	*locked = RowBool(0, 2);
	if (freed != NULL || finished_before == 0)
		return freed;
	(void) RunQueryPastTriggers(&COMPACT_HISTORY, args);
	return RowText(0, 1);
}

/* Removes custom events that are old enough and read; whether there may be more. */
static bool
PruneEvents(const Pruning *p, int max_events)
{
	Datum		args[3] = {TimestampTzGetDatum(p->finished_before), p->position, Int64GetDatum(max_events)};

	return SchemaVersion() >= 101 && RunQuery(&DELETE_OLD_EVENTS, args, NULL) == max_events;
}

UpkeepReport
RunUpkeep(PruneCursor *cursor, int64 retention_seconds, int max_tasks)
{
	UpkeepReport report = {0};
	Pruning		p = {
		.finished_before = retention_seconds == 0 ? 0 : TaskerNow() - retention_seconds * USECS_PER_SEC,
		.states = CStringGetTextDatum(DONE_STATES),.keep_rows = true
	};

	/* Without a checkpoint nothing has happened here, or a restore is still to bring it. */
	report.busy = !AcquireUpkeepLock(true) || !BeginPruning(&p) || !p.orchestrated;
	if (report.busy)
		return report;
	if (retention_seconds > 0)
	{
		if (cursor == NULL)
			report.pruned = PruneMany(&p, max_tasks, &report.more);
		else
		{
			report.pruned = PruneChunk(&p, &cursor->after, max_tasks, max_tasks * LOOKED_AT_FOR_ONE);
			report.more = cursor->after != 0;
		}
		report.more |= PruneEvents(&p, max_tasks);
		if (report.more)
			return report;
	}
	report.period_begun = KeepPeriods(retention_seconds);
	if (report.period_begun == 0)
		report.partition_freed = FreePartition(p.finished_before, &report.locked);
	if (report.period_begun != 0)
		FAULT_POINT("period-begun");
	if (report.partition_freed != NULL)
		FAULT_POINT("partition-freed");
	report.more = report.partition_freed != NULL;
	return report;
}

/* ---------- from SQL ---------- */

/* The states argument as text, checked: a task in any other is not finished. */
static Datum
FinishedStates(ArrayType *states)
{
	char	   *text = OidOutputFunctionCall(F_ARRAY_OUT, PointerGetDatum(states));

	if (array_contains_nulls(states) || strstr(text, "pending") != NULL || strstr(text, "in_progress") != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("only tasks that have ended can be pruned"),
				 errhint("The states are complete, cancelled, resolved_manually and error.")));
	return CStringGetTextDatum(text);
}

static int32
PositiveCount(FunctionCallInfo fcinfo, int number)
{
	int32		count = PG_ARGISNULL(number) ? 0 : PG_GETARG_INT32(number);

	if (count < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_tasks must be greater than zero")));
	return count;
}

PG_FUNCTION_INFO_V1(tasker_prune_tasks);
PG_FUNCTION_INFO_V1(tasker_upkeep);

Datum
tasker_prune_tasks(PG_FUNCTION_ARGS)
{
	int32		max_tasks = PositiveCount(fcinfo, 1);
	QueryScope	scope;
	Pruning		p = {.keep_rows = tasker_retention > 0};
	bool		more;
	int			pruned;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(2))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("finished_before and states must not be null")));
	p.finished_before = PG_GETARG_TIMESTAMPTZ(0);
	p.states = FinishedStates(PG_GETARG_ARRAYTYPE_P(2));
	OpenQueryScope(&scope);
	RequireEverywhere(MAY_ADMINISTER);
	(void) AcquireUpkeepLock(false);
	if (!BeginPruning(&p))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this database was restored or cloned and is not adopted yet"),
				 errhint("Call tasker.resume() first.")));
	pruned = PruneMany(&p, max_tasks, &more);
	CloseQueryScope(&scope);
	PG_RETURN_INT32(pruned);
}

/* Seconds of the retention argument, or of the setting where it is null. */
static int64
RetentionArgument(FunctionCallInfo fcinfo)
{
	int64		seconds = tasker_retention;

	if (!PG_ARGISNULL(0))
	{
		double		length = IntervalSeconds(PG_GETARG_INTERVAL_P(0));

		seconds = (int64) Min(Max(length, -1), (double) INT_MAX + 1);
	}
	if (seconds < 0 || seconds > INT_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("retention must be between 0 and %d seconds", INT_MAX)));
	return seconds;
}

Datum
tasker_upkeep(PG_FUNCTION_ARGS)
{
	int64		retention_seconds = RetentionArgument(fcinfo);
	int32		max_tasks = PositiveCount(fcinfo, 1);
	TupleDesc	row_type;
	QueryScope	scope;
	UpkeepReport report;
	Datum		values[4];
	bool		nulls[4] = {false};

	if (get_call_result_type(fcinfo, NULL, &row_type) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	row_type = BlessTupleDesc(row_type);
	OpenQueryScope(&scope);
	RequireEverywhere(MAY_ADMINISTER);
	report = RunUpkeep(NULL, retention_seconds, max_tasks);
	values[0] = Int32GetDatum(report.pruned);
	values[1] = Int64GetDatum(report.period_begun);
	nulls[1] = report.period_begun == 0;
	MemoryContextSwitchTo(scope.context);
	values[2] = report.partition_freed == NULL ? 0 : CStringGetTextDatum(report.partition_freed);
	nulls[2] = report.partition_freed == NULL;
	values[3] = BoolGetDatum(report.more);
	CloseQueryScope(&scope);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(row_type, values, nulls)));
}
