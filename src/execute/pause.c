/*
 * pause.c
 *		What must not be dispatched now, and the functions that decide it.
 *
 * The work queue holds no step of a paused template: pause() removes them and
 * resume() puts those that are ready back.  Both exclude the orchestrator's
 * batches, so that none dispatches on an older decision.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "define/access.h"
#include "define/ownership.h"
#include "execute/executor.h"
#include "execute/pause.h"
#include "execute/queue.h"
#include "miscadmin.h"
#include "pg/catalog.h"
#include "pg/clock.h"
#include "pg/fault.h"
#include "pg/low_water.h"
#include "pg/position.h"
#include "pg/query.h"
#include "pg/shmem.h"
#include "pg/waiters.h"
#include "pg/wakeup.h"
#include "run/step_wait.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"

/* See EXECUTOR_LOCK_CLASS in executor.c: no user's advisory lock has this class. */
#define ORCHESTRATION_LOCK_CLASS 1002

/* ---------- the lock ---------- */

static LockAcquireResult
AcquireOrchestrationLock(bool dont_wait)
{
	LOCKTAG		tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, 0, 0, ORCHESTRATION_LOCK_CLASS);
	return LockAcquire(&tag, ExclusiveLock, false, dont_wait);
}

void
LockOrchestration(void)
{
	(void) AcquireOrchestrationLock(false);
}

bool
TryLockOrchestration(void)
{
	return AcquireOrchestrationLock(true) != LOCKACQUIRE_NOT_AVAIL;
}

/* ---------- asking ---------- */

static KeptQuery IS_PAUSED = {
	.sql =
	"SELECT 1 FROM tasker.orchestrator_checkpoint"
	" WHERE paused_at IS NOT NULL OR system_identifier <> $1",
	.nargs = 1,.types = {INT8OID}
};

static KeptQuery READ_PAUSED_NAMED_TASKS = {
	.sql =
	"SELECT nt.named_task_id FROM tasker.named_tasks nt"
	"  JOIN tasker.task_namespaces ns ON ns.task_namespace_id = nt.task_namespace_id"
	" WHERE nt.paused_at IS NOT NULL OR ns.paused_at IS NOT NULL",
	.nargs = 0
};

static int32 *paused_named_tasks = NULL;
static int	paused_count = 0;
static uint64 paused_generation = 0;

bool
DispatchIsPaused(void)
{
	Datum		arg = Int64GetDatum(HomeIdentifier());

	return AwaitsTakeOver() || RunQuery(&IS_PAUSED, &arg, NULL) > 0;
}

void
RefreshPauses(void)
{
	uint64		generation = DefinitionsGeneration();
	uint64		n;

	if (generation == paused_generation)
		return;
	n = RunPlainQuery(&READ_PAUSED_NAMED_TASKS);
	if (paused_named_tasks != NULL)
		pfree(paused_named_tasks);
	paused_count = 0;
	paused_named_tasks = MemoryContextAlloc(TopMemoryContext, sizeof(int32) * Max(n, 1));
	for (uint64 i = 0; i < n; i++)
		paused_named_tasks[i] = RowInt32(i, 1);
	paused_count = (int) n;
	paused_generation = generation;
}

bool
NamedTaskIsPaused(int32 named_task_id)
{
	for (int i = 0; i < paused_count; i++)
	{
		if (paused_named_tasks[i] == named_task_id)
			return true;
	}
	return false;
}

/* ---------- deciding ---------- */

/* $2: pause (true) or resume (false); a pause that holds keeps its time. */
static KeptQuery PAUSE_EVERYTHING = {
	.sql =
	"UPDATE tasker.orchestrator_checkpoint"
	"   SET paused_at = CASE WHEN $2 THEN coalesce(paused_at, $1) END, generation = generation + 1"
	" RETURNING system_identifier",
	.nargs = 2,.types = {TIMESTAMPTZOID, BOOLOID}
};

static KeptQuery PAUSE_NAMESPACE = {
	.sql =
	"UPDATE tasker.task_namespaces SET paused_at = CASE WHEN $2 THEN coalesce(paused_at, $1) END"
	" WHERE name = $3"
	" RETURNING task_namespace_id",
	.nargs = 3,.types = {TIMESTAMPTZOID, BOOLOID, TEXTOID}
};

static KeptQuery PAUSE_NAMED_TASKS = {
	.sql =
	"UPDATE tasker.named_tasks nt SET paused_at = CASE WHEN $2 THEN coalesce(nt.paused_at, $1) END"
	" WHERE nt.task_namespace_id = (SELECT ns.task_namespace_id FROM tasker.task_namespaces ns WHERE ns.name = $3)"
	"   AND nt.name = $4 AND nt.version = coalesce($5, nt.version)"
	" RETURNING nt.named_task_id",
	.nargs = 5,.types = {TIMESTAMPTZOID, BOOLOID, TEXTOID, TEXTOID, TEXTOID}
};

/* Whoever remembers what waits must look again. */
static KeptQuery FORGET_MEMORY = {
	.sql = "UPDATE tasker.orchestrator_checkpoint SET generation = generation + 1, reconcile = reconcile OR $1",
	.nargs = 1,.types = {BOOLOID}
};

/* Whose turn it is in tasks that run one step at a time, only a batch can tell. */
#define HAS_TURNS_OR(waits) \
	"SELECT EXISTS (SELECT 1 FROM tasker.named_tasks nt" \
	"  JOIN tasker.task_namespaces ns ON ns.task_namespace_id = nt.task_namespace_id" \
	" WHERE (NOT nt.concurrent OR " waits ") AND ns.name = $1 AND ($2 IS NULL OR nt.name = $2) AND ($3 IS NULL OR nt.version = $3))"

static KeptQuery HAS_TURNS = {
	.sql = HAS_TURNS_OR("false"),
	.nargs = 3,.types = {TEXTOID, TEXTOID, TEXTOID}
};

/* And only a batch lets a step begin to wait. */
static KeptQuery HAS_TURNS_OR_WAITS = {
	.sql = HAS_TURNS_OR("EXISTS (SELECT 1 FROM tasker.named_tasks_named_steps ts"
						"         WHERE ts.named_task_id = nt.named_task_id AND ts.waits_for IS NOT NULL)"),
	.nargs = 3,.types = {TEXTOID, TEXTOID, TEXTOID}
};

static KeptQuery DEQUEUE_PAUSED = {
	.sql =
	"DELETE FROM tasker.work_queue WHERE ctid = ANY (ARRAY("
	" SELECT q.ctid FROM tasker.work_queue q"
	"   JOIN tasker.workflow_steps s ON s.workflow_step_id = q.workflow_step_id"
	"   JOIN tasker.tasks t ON t.task_id = s.task_id"
	"   JOIN tasker.named_tasks nt ON nt.named_task_id = t.named_task_id"
	"   JOIN tasker.task_namespaces ns ON ns.task_namespace_id = nt.task_namespace_id"
	"  WHERE nt.paused_at IS NOT NULL OR ns.paused_at IS NOT NULL))",
	.nargs = 0
};

/* Steps of the scope that became ready during the pause, or before it. */
#define ENQUEUE(waits) \
	"INSERT INTO tasker.work_queue (handler_id, rank, workflow_step_id)" \
	" SELECT s.handler_id, s.rank, s.workflow_step_id" \
	"   FROM tasker.task_namespaces ns" \
	"   JOIN tasker.named_tasks nt ON nt.task_namespace_id = ns.task_namespace_id" \
	"   JOIN tasker.tasks t ON t.named_task_id = nt.named_task_id AND t.state IN ('pending', 'in_progress')" \
	"   JOIN tasker.workflow_steps s ON s.task_id = t.task_id AND s.state = 'pending'" \
	"  WHERE ns.name = $1 AND ($2 IS NULL OR nt.name = $2) AND ($3 IS NULL OR nt.version = $3)" \
	"    AND ns.paused_at IS NULL AND nt.paused_at IS NULL" \
	"    AND nt.concurrent AND nt.coordinator_strategy = 'orchestrator'" \
	"    AND NOT " waits \
	"    AND NOT EXISTS (SELECT 1 FROM tasker.named_step_edges e" \
	"                      JOIN tasker.workflow_steps p ON p.named_step_id = e.from_named_step_id" \
	"                     WHERE e.named_task_id = t.named_task_id AND e.to_named_step_id = s.named_step_id" \
	"                       AND p.task_id = s.task_id AND p.state NOT IN ('complete', 'resolved_manually'))" \
	" ON CONFLICT DO NOTHING"

static KeptQuery ENQUEUE_RESUMED = {
	.sql = ENQUEUE("false"),
	.nargs = 3,.types = {TEXTOID, TEXTOID, TEXTOID}
};

/* Steps that wait need no executor. */
static KeptQuery ENQUEUE_RESUMED_RUN_STEPS = {
	.sql = ENQUEUE("EXISTS (SELECT 1 FROM tasker.named_tasks_named_steps ts WHERE ts.named_task_id = t.named_task_id"
				   "            AND ts.named_step_id = s.named_step_id AND ts.waits_for IS NOT NULL)"),
	.nargs = 3,.types = {TEXTOID, TEXTOID, TEXTOID}
};

/*
 * On another server than the one that the rows come from: transactions of
 * the old one have numbers that are still to come here and must not look new.
 * This is the only change that the logs ever see.
 */
static KeptQuery AGE_TASK_LOG = {
	.sql =
	"UPDATE tasker.task_transition_log SET xact_id = '3'"
	" WHERE xact_id >= pg_snapshot_xmin(pg_current_snapshot()) AND xact_id <> pg_current_xact_id()",
	.nargs = 0
};

static KeptQuery AGE_STEP_LOG = {
	.sql =
	"UPDATE tasker.workflow_step_transition_log SET xact_id = '3'"
	" WHERE xact_id >= pg_snapshot_xmin(pg_current_snapshot()) AND xact_id <> pg_current_xact_id()",
	.nargs = 0
};

/*
 * The same where there may be consumers of events, whose positions are of the
 * old server, too.  What the k slowest of them have not read yet becomes the
 * work of transaction 3 + k, which no server gives out (initdb takes some
 * hundred), and stays unread in their new positions.
 */
#define AGE_LOG(log) \
	"UPDATE tasker." log " l SET xact_id = (3 + (SELECT count(*) FROM tasker.event_consumers c" \
	"                                             WHERE NOT pg_visible_in_snapshot(l.xact_id, c.position)))::text::xid8" \
	" WHERE (l.xact_id >= pg_snapshot_xmin(pg_current_snapshot()) AND l.xact_id <> pg_current_xact_id())" \
	"    OR (l.xact_id > '3' AND l.xact_id < '1000')" \
	"    OR EXISTS (SELECT 1 FROM tasker.event_consumers c WHERE NOT pg_visible_in_snapshot(l.xact_id, c.position))"

static KeptQuery AGE_TASKS = {.sql = AGE_LOG("task_transition_log"),.nargs = 0};
static KeptQuery AGE_STEPS = {.sql = AGE_LOG("workflow_step_transition_log"),.nargs = 0};
static KeptQuery AGE_EVENTS = {.sql = AGE_LOG("published_events"),.nargs = 0};

static KeptQuery RESET_CONSUMERS = {
	.sql =
	"UPDATE tasker.event_consumers c"
	"   SET position = format('%s:%s:%s', 3 + r.rank, pg_snapshot_xmax($1::pg_snapshot),"
	"         concat_ws(',', r.unread, (SELECT string_agg(x::text, ',' ORDER BY x) FROM pg_snapshot_xip($1::pg_snapshot) x)))::pg_snapshot,"
	"       window_end = NULL, cursor_at = NULL, cursor_place = NULL, cursor_id = NULL, cursor_sort_key = NULL"
	"  FROM (SELECT o.name, o.rank, (SELECT string_agg((3 + k)::text, ',' ORDER BY k) FROM generate_series(o.rank, o.consumers) k) AS unread"
	"          FROM (SELECT s.name, row_number() OVER (ORDER BY pg_snapshot_xmax(s.position),"
	"                         (SELECT count(*) FROM pg_snapshot_xip(s.position)) DESC, s.name) AS rank,"
	"                       count(*) OVER () AS consumers"
	"                  FROM tasker.event_consumers s) o) r"
	" WHERE c.name = r.name",
	.nargs = 1,.types = {TEXTOID}
};

/* A dump of version 1.0 has partitions without. */
static KeptQuery SECURE_PARTITIONS = {.sql = "SELECT tasker.secure_partitions()",.nargs = 0};

static KeptQuery EMPTY_MARKS = {.sql = "DELETE FROM tasker.log_marks",.nargs = 0};

static KeptQuery EMPTY_QUEUE = {.sql = "DELETE FROM tasker.work_queue",.nargs = 0};
static KeptQuery EMPTY_TIMERS = {.sql = "DELETE FROM tasker.timers",.nargs = 0};

static KeptQuery REBUILD_TIMERS = {
	.sql =
	"INSERT INTO tasker.timers (due_at, workflow_step_id, sort_key)"
	" SELECT coalesce(s.next_retry_at, s.last_attempted_at + s.timeout_seconds * interval '1 second'),"
	"        s.workflow_step_id, s.sort_key"
	"   FROM tasker.workflow_steps s JOIN tasker.tasks t ON t.task_id = s.task_id"
	"  WHERE t.state IN ('pending', 'in_progress')"
	"    AND ((s.state = 'error' AND s.next_retry_at IS NOT NULL)"
	"         OR (s.state = 'in_progress' AND s.timeout_seconds IS NOT NULL))"
	" ON CONFLICT DO NOTHING",
	.nargs = 0
};

static KeptQuery REBUILD_TIMERS_OF_WAITS = {
	.sql =
	"INSERT INTO tasker.timers (due_at, workflow_step_id, sort_key)"
	" SELECT CASE WHEN w.event IS NULL THEN w.until ELSE w.since END, w.workflow_step_id, w.sort_key"
	"   FROM tasker.step_waits w WHERE w.event IS NOT NULL OR w.until IS NOT NULL"
	" ON CONFLICT DO NOTHING",
	.nargs = 0
};

static KeptQuery RESET_CHECKPOINT = {
	.sql =
	"UPDATE tasker.orchestrator_checkpoint"
	"   SET system_identifier = $1, generation = generation + 1, position = $3::pg_snapshot,"
	"       reconcile = true, saved_at = $2,"
	"       (in_flight_steps, in_flight_executors) ="
	"        (SELECT coalesce(array_agg(workflow_step_id), '{}'), coalesce(array_agg(executor_id), '{}')"
	"           FROM tasker.workflow_steps WHERE state = 'in_progress' AND executor_id IS NOT NULL)",
	.nargs = 3,.types = {INT8OID, TIMESTAMPTZOID, TEXTOID}
};

static KeptQuery READ_SNAPSHOT = {.sql = "SELECT pg_current_snapshot()::text",.nargs = 0};

/*
 * Makes all accelerators again from tasks and steps.  The work queue is
 * filled by the next batch, which looks at every open task.
 */
static void
RebuildAccelerators(void)
{
	Datum		args[3] = {Int64GetDatum(HomeIdentifier()), TimestampTzGetDatum(TaskerNow())};

	(void) RunPlainQuery(&READ_SNAPSHOT);
	args[2] = CStringGetTextDatum(PositionOfSnapshot(CurrentMemoryContext, RowText(0, 1)));
	(void) RunPlainQuery(&EMPTY_QUEUE);
	ResetLowWaterMarksAtCommit();
	(void) RunPlainQuery(&EMPTY_TIMERS);
	FAULT_POINT("accelerators-empty");
	(void) RunPlainQuery(&REBUILD_TIMERS);
	if (SchemaVersion() >= 101)
	{
		RemoveAllLeftWaits();
		(void) RunPlainQuery(&REBUILD_TIMERS_OF_WAITS);
	}
	(void) RunQuery(&RESET_CHECKPOINT, args, NULL);
}

/* Ages what transactions of the old server did, for everybody who reads the logs. */
static void
AgeLogs(void)
{
	Datum		position;

	if (SchemaVersion() < 101)
	{
		(void) RunPlainQuery(&AGE_TASK_LOG);
		(void) RunPlainQuery(&AGE_STEP_LOG);
		return;
	}
	(void) RunPlainQuery(&SECURE_PARTITIONS);
	(void) RunPlainQuery(&AGE_TASKS);
	(void) RunPlainQuery(&AGE_STEPS);
	(void) RunPlainQuery(&AGE_EVENTS);
	(void) RunPlainQuery(&EMPTY_MARKS);
	(void) RunPlainQuery(&READ_SNAPSHOT);
	position = CStringGetTextDatum(PositionOfSnapshot(CurrentMemoryContext, RowText(0, 1)));
	(void) RunQuery(&RESET_CONSUMERS, &position, NULL);
}

/*
 * Of detached executors those that have said nothing in this server are with
 * the original, if anywhere.  The others are found gone, or not, as ever.
 */
static void
EndForeignExecutors(void)
{
	int			n;
	int			n_foreign = 0;
	Executor   *executors = ReadLiveExecutors(&n);
	int64	   *foreign = palloc(sizeof(int64) * Max(n, 1));
	TimestampTz seen_at;

	for (int i = 0; i < n; i++)
	{
		if (executors[i].detached && Shared != NULL && !LastHeartbeat(executors[i].executor_id, &seen_at))
			foreign[n_foreign++] = executors[i].executor_id;
	}
	EndExecutors(foreign, n_foreign, "lost");
}

/* Makes a restored or cloned database one that is orchestrated. */
static void
AdoptDatabase(void)
{
	ereport(NOTICE,
			(errmsg("this database was restored or cloned and is adopted now"),
			 errdetail("Steps that were in progress count as lost and run again where attempts remain.")));
	/* The triggers that keep the logs insert-only do not fire for a replica. */
	(void) set_config_option("session_replication_role", "replica",
							 PGC_SUSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	AgeLogs();
	EndForeignExecutors();
	RebuildAccelerators();
}

static char *
TextArgumentOrNull(FunctionCallInfo fcinfo, int number)
{
	return PG_ARGISNULL(number) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(number));
}

/* Raises 42704: the scope is not there, or not the caller's. */
static void
RefuseScope(const char *namespace_name, const char *task_name)
{
	if (task_name != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("template \"%s.%s\" does not exist in this version", namespace_name, task_name)));
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("namespace \"%s\" does not exist", namespace_name)));
}

/* Pauses or resumes the scope that the arguments name. */
static void
SetPause(FunctionCallInfo fcinfo, bool pause)
{
	char	   *namespace_name = TextArgumentOrNull(fcinfo, 0);
	char	   *task_name = TextArgumentOrNull(fcinfo, 1);
	QueryScope	scope;
	Datum		look_at_all = BoolGetDatum(false);
	Datum		args[5] = {TimestampTzGetDatum(TaskerNow()), BoolGetDatum(pause)};
	char		nulls[6] = {' ', ' ', 'n', PG_ARGISNULL(1) ? 'n' : ' ', PG_ARGISNULL(2) ? 'n' : ' ', '\0'};

	if (task_name != NULL && namespace_name == NULL)
		namespace_name = pstrdup("default");
	if (!PG_ARGISNULL(2) && task_name == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a version needs the name of a template")));
	for (int i = 0; i < 3; i++)
	{
		if (!PG_ARGISNULL(i))
			args[i + 2] = PG_GETARG_DATUM(i);
	}
	if (namespace_name != NULL)
	{
		args[2] = CStringGetTextDatum(namespace_name);
		nulls[2] = ' ';
	}

	OpenQueryScope(&scope);
	if (namespace_name == NULL)
		RequireEverywhere(pause ? MAY_OPERATE : MAY_OPERATE | MAY_ADMINISTER);
	else if (!RoleMayByName(QueryCaller(), namespace_name, MAY_OPERATE | MAY_ADMINISTER))
		RefuseScope(namespace_name, task_name);
	LockOrchestration();
	EnsureCheckpoint();
	TakeOver();
	if (namespace_name == NULL)
	{
		(void) RunQuery(&PAUSE_EVERYTHING, args, NULL);
		if (!pause && RowInt64(0, 1) != HomeIdentifier())
			AdoptDatabase();
	}
	else
	{
		if (RunQuery(task_name ? &PAUSE_NAMED_TASKS : &PAUSE_NAMESPACE, args, nulls) == 0)
			RefuseScope(namespace_name, task_name);
		if (pause)
			(void) RunPlainQuery(&DEQUEUE_PAUSED);
		else
		{
			bool		may_wait = SchemaVersion() >= 101;

			(void) RunQuery(may_wait ? &ENQUEUE_RESUMED_RUN_STEPS : &ENQUEUE_RESUMED, &args[2], &nulls[2]);
			ResetLowWaterMarksAtCommit();
			(void) RunQuery(may_wait ? &HAS_TURNS_OR_WAITS : &HAS_TURNS, &args[2], &nulls[2]);
			look_at_all = BoolGetDatum(RowBool(0, 1));
		}
		(void) RunQuery(&FORGET_MEMORY, &look_at_all, NULL);
		InvalidateDefinitions();
	}
	CloseQueryScope(&scope);
	WakeForExecutorsAtCommit();
	NoteEveryoneLooksAgain();
}

PG_FUNCTION_INFO_V1(tasker_pause);
PG_FUNCTION_INFO_V1(tasker_resume);
PG_FUNCTION_INFO_V1(tasker_rebuild_accelerators);

Datum
tasker_pause(PG_FUNCTION_ARGS)
{
	SetPause(fcinfo, true);
	PG_RETURN_VOID();
}

Datum
tasker_resume(PG_FUNCTION_ARGS)
{
	SetPause(fcinfo, false);
	PG_RETURN_VOID();
}

Datum
tasker_rebuild_accelerators(PG_FUNCTION_ARGS)
{
	QueryScope	scope;

	OpenQueryScope(&scope);
	RequireEverywhere(MAY_ADMINISTER);
	LockOrchestration();
	EnsureCheckpoint();
	RebuildAccelerators();
	CloseQueryScope(&scope);
	WakeForExecutorsAtCommit();
	NoteEveryoneLooksAgain();
	PG_RETURN_VOID();
}
