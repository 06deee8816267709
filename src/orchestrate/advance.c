/*
 * advance.c
 *		Moving what a batch has collected: tasks first, then steps, as
 *		everyone does who locks both.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "define/policy.h"
#include "execute/pause.h"
#include "execute/claim.h"
#include "orchestrate/advance.h"
#include "orchestrate/discover.h"
#include "orchestrate/finalize.h"
#include "orchestrate/waiting.h"
#include "pg/clock.h"
#include "pg/query.h"
#include "pg/wakeup.h"
#include "run/transition.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"

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
	if (!AvoidsLockedRows(batch->o) || asked == 0)
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

/* How soon a time limit comes back whose step was locked, and the soonest re-enqueue that a strategy can ask for. */
#define LOCKED_TIMER_US 50000
#define SHORTEST_REENQUEUE_US USECS_PER_SEC

static KeptQuery TASK_EXISTS = {
	.sql = "SELECT 1 FROM tasker.tasks WHERE task_id = $1",
	.nargs = 1,.types = {INT8OID}
};

/*
 * Tasks whose re-enqueue is due go back to pending: the next batch starts them
 * and looks at them as a whole.  Sessions lock the task before its re-enqueue,
 * and so it is done here, never waiting for one that is held.
 */
static void
MoveReenqueues(Batch *batch)
{
	int			n;
	int64	   *task_ids = TakeWork(batch, WORK_REENQUEUED, &n);

	for (int i = 0; i < n; i++)
	{
		Datum		arg = Int64GetDatum(task_ids[i]);
		char	   *reason;

		if (!LockFreeTask(task_ids[i]) && RunQuery(&TASK_EXISTS, &arg, NULL) > 0)
		{
			Postpone(batch->o, WORK_REENQUEUED, task_ids[i], batch->now);
			continue;
		}
		reason = TakeDueReenqueue(task_ids[i], batch->now);
		if (reason != NULL)
			batch->transitions += MoveTasks(STATE_IN_PROGRESS, STATE_PENDING, 1, &task_ids[i],
											ReenqueueMetadata(reason));
	}
}

static KeptQuery DECIDE_REENQUEUE = {
	.sql =
	"SELECT d.reason, d.delay,"
	"       jsonb_build_object('task_id', $1, 'execution_status', d.execution_status, 'reason', d.reason,"
	"                          'delay_seconds', extract(epoch FROM d.delay))"
	"  FROM tasker.finalization_decision($1) d WHERE d.action = 'reenqueue'",
	.nargs = 1,.types = {INT8OID}
};

/* Asks the template when to look at an open task again. */
static void
ReenqueueByStrategy(Batch *batch, int64 task_id, const TaskPolicy *policy)
{
	const char *strategy = policy->strategies[STRATEGY_REENQUEUER];
	Datum		arg = Int64GetDatum(task_id);
	char	   *reason;
	Datum		delay;
	bool		none = false;
	double		seconds;

	if (RunQuery(&DECIDE_REENQUEUE, &arg, NULL) == 0)
		return;
	reason = RowText(0, 1);
	delay = PointerGetDatum(DatumGetIntervalP(datumCopy(RowDatum(0, 2, NULL), false, sizeof(Interval))));
	if (!IsBuiltinStrategy(STRATEGY_REENQUEUER, strategy))
		(void) TryStrategy(STRATEGY_REENQUEUER, strategy, policy->owner,
						   JsonbPGetDatum(DatumGetJsonbPCopy(RowDatum(0, 3, NULL))),
						   "The task is looked at again as \"delayed\" has it.", &delay, &none);
	if (none)
		return;
	seconds = Min(Max(IntervalSeconds(DatumGetIntervalP(delay)), 0), MAX_REENQUEUE_SECONDS);
	(void) ScheduleReenqueue(task_id, batch->now + Max((int64) (seconds * USECS_PER_SEC), SHORTEST_REENQUEUE_US), reason);
}

/* Open tasks whose template wants them looked at by time. */
static void
ReenqueueOpenTasks(Batch *batch, const Finality *finalities, int n)
{
	for (int i = 0; i < n && AnyPolicy(); i++)
	{
		const TaskPolicy *policy = PolicyOf(finalities[i].named_task_id);

		if (finalities[i].outcome == STATE_IN_PROGRESS &&
			strcmp(policy->strategies[STRATEGY_REENQUEUER], DefaultStrategy(STRATEGY_REENQUEUER)) != 0)
			ReenqueueByStrategy(batch, finalities[i].task_id, policy);
	}
}

/* Tasks first: whoever locks a task and its steps does it in this order. */
void
MovePlannedTasks(Batch *batch)
{
	Orchestrator *o = batch->o;
	int			n;
	int64	   *task_ids = Available(batch, &batch->start, &LOCK_AVAILABLE_TASKS, WORK_STARTED, &n);
	Finality   *finalities;
	IdList		finals = {0};
	int			found;

	MoveReenqueues(batch);
	batch->transitions += MoveTasks(STATE_PENDING, STATE_IN_PROGRESS, n, task_ids, 0);
	task_ids = TakeWork(batch, WORK_FINALS, &n);
	for (int i = 0; i < n; i++)
		AddId(CurrentMemoryContext, &finals, task_ids[i]);
	task_ids = Available(batch, &finals, &LOCK_AVAILABLE_TASKS, WORK_FINALS, &n);
	finalities = JudgeTasks(task_ids, n, &found);
	batch->transitions += FinalizeTasks(finalities, found);
	ReenqueueOpenTasks(batch, finalities, found);
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
		.from = from,.to = to,.step_ids = Available(batch, list, &LOCK_AVAILABLE_STEPS, kind, &n),
		/* What goes back from an executor does not count. */
		.attempt_change = from == STATE_IN_PROGRESS && to == STATE_PENDING ? -1 : 0
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
	const StepFailure *left = a;
	const StepFailure *right = b;

	if (left->step_id != right->step_id)
		return left->step_id < right->step_id ? -1 : 1;
	return right->retry_after - left->retry_after;
}

/* A step that is both late and lost is lost: it runs again at once. */
static void
SortFailures(Batch *batch)
{
	int			kept = 0;

	qsort(batch->failures, batch->n_failures, sizeof(StepFailure), CompareFailures);
	for (int i = 0; i < batch->n_failures; i++)
	{
		if (kept == 0 || batch->failures[kept - 1].step_id != batch->failures[i].step_id)
			batch->failures[kept++] = batch->failures[i];
	}
	batch->n_failures = kept;
}

/*
 * Leaves the failures of steps that somebody holds.  Whoever does is reporting;
 * if that fails, the next look finds the step lost again, or late.
 */
static void
LeaveLockedFailures(Batch *batch)
{
	int64	   *ids = palloc(sizeof(int64) * batch->n_failures);
	Timer	   *late = palloc(sizeof(Timer) * batch->n_failures);
	int			asked = batch->n_failures;
	int			n_late = 0;
	int			n;

	for (int i = 0; i < asked; i++)
		ids[i] = batch->failures[i].step_id;
	n = LockAvailableSteps(ids, asked);
	batch->n_failures = 0;
	for (int i = 0, a = 0; i < asked; i++)
	{
		const StepFailure *failure = &batch->failures[i];

		if (a < n && RowInt64(a, 1) == failure->step_id)
		{
			batch->failures[batch->n_failures++] = *failure;
			a++;
		}
		else if (failure->retry_after == RETRY_BY_BACKOFF)
			late[n_late++] = (Timer)
		{
			.due_at = batch->now + LOCKED_TIMER_US,.step_id = failure->step_id,.sort_key = failure->claim
		};
	}
	if (batch->n_failures == asked)
		return;
	SetTimers(late, n_late);
	batch->o->refresh_executors = true;
	ComeBackSoon(batch->o, batch->now);
}

/* In avoidance of locked rows only the failures that could be locked. */
static void
MoveFailures(Batch *batch)
{
	int			moved;

	SortFailures(batch);
	if (AvoidsLockedRows(batch->o) && batch->n_failures > 0)
		LeaveLockedFailures(batch);
	(void) FailSteps(batch->failures, batch->n_failures, false, 0, &moved);
	batch->transitions += moved;
}

/* Whoever held a step meanwhile may have begun another backoff. */
#define DUE_STEPS \
	"SELECT s.workflow_step_id, s.task_id FROM tasker.workflow_steps s" \
	" WHERE s.workflow_step_id = ANY ($1) AND s.state = 'error' AND s.next_retry_at <= $2" \
	" ORDER BY s.workflow_step_id FOR NO KEY UPDATE"

static KeptQuery LOCK_DUE_STEPS = {
	.sql = DUE_STEPS,
	.nargs = 2,.types = {INT8ARRAYOID, TIMESTAMPTZOID}
};

/* Who has moved something holds rows, and must not wait for others. */
static KeptQuery LOCK_FREE_DUE_STEPS = {
	.sql = DUE_STEPS " SKIP LOCKED",
	.nargs = 2,.types = {INT8ARRAYOID, TIMESTAMPTZOID}
};

static KeptQuery READ_PROMOTED = {
	.sql =
	"SELECT s.workflow_step_id, s.handler_id, s.rank::integer, t.named_task_id, t.task_id"
	"  FROM (SELECT unnest($1) AS u LIMIT cardinality($1)) batch"
	"  CROSS JOIN LATERAL (SELECT * FROM tasker.workflow_steps s WHERE s.workflow_step_id = u LIMIT 1) s"
	"  CROSS JOIN LATERAL (SELECT * FROM tasker.tasks t WHERE t.task_id = s.task_id LIMIT 1) t"
	" WHERE s.state = 'pending'"
	"   AND NOT EXISTS (SELECT 1 FROM tasker.named_step_edges e"
	"                    WHERE e.named_task_id = t.named_task_id AND e.to_named_step_id = s.named_step_id"
	"                      AND (SELECT p.state FROM tasker.workflow_steps p"
	"                            WHERE p.task_id = s.task_id AND p.named_step_id = e.from_named_step_id)"
	"                          NOT IN ('complete', 'resolved_manually') OFFSET 0)",
	.nargs = 1,.types = {INT8ARRAYOID}
};

/* Moves those of the steps that are due, which are left in step_ids; returns their number. */
static int
PromoteDueSteps(int64 *step_ids, int n, TimestampTz now, const char *metadata)
{
	StepMoves	moves = {.from = STATE_ERROR,.to = STATE_PENDING,.step_ids = step_ids};
	Datum		due[2] = {Int64Array(step_ids, n), TimestampTzGetDatum(now)};
	int			moved;

	if (n == 0)
		return 0;
	n = (int) RunQuery(TransactionHasNews() ? &LOCK_FREE_DUE_STEPS : &LOCK_DUE_STEPS, due, NULL);
	for (int i = 0; i < n; i++)
	{
		/* The task may have been cancelled while its step was waited for. */
		if (!IsOverForGood(LatestTaskState(RowInt64(i, 2))))
			step_ids[moves.n++] = RowInt64(i, 1);
	}
	moves.metadata_of_all = JsonbOfText(metadata);
	(void) MoveSteps(&moves, &moved);
	return moved;
}

/*
 * Retries whose time has come.  A step that was failed by hand may never have
 * run, and its parents be open: then it waits for them like any other.
 */
static void
PromoteRetries(Batch *batch)
{
	int			n;
	int64	   *step_ids = Available(batch, &batch->promote, &LOCK_AVAILABLE_STEPS, WORK_FAILED, &n);
	Datum		arg;
	uint64		rows;

	n = PromoteDueSteps(step_ids, n, batch->now, "{\"triggered_by\": \"backoff over\"}");
	if (n == 0)
		return;
	batch->transitions += n;
	arg = Int64Array(step_ids, n);
	rows = RunQuery(&READ_PROMOTED, &arg, NULL);
	for (uint64 row = 0; row < rows; row++)
	{
		const TaskPolicy *policy = PolicyOf(RowInt32(row, 4));

		if (!policy->concurrent)
			AddWork(batch->o, WORK_TURNS, RowInt64(row, 5));
		else if (policy->waits)
			AddWork(batch->o, WORK_CANDIDATES, RowInt64(row, 1));
		else if (policy->dispatched && !NamedTaskIsPaused(RowInt32(row, 4)))
			AddReady(batch, (ReadyStep)
					 {
						 .step_id = RowInt64(row, 1),.handler_id = RowInt32(row, 2),.rank = (int16) RowInt32(row, 3)
					 });
	}
}

/* Ends, forgets and begins the waits of steps that no executor runs. */
static void
MoveWaits(Batch *batch)
{
	int			n;
	int64	   *step_ids;

	EndWaits(batch);
	ForgetLeftWaits(batch);
	step_ids = Available(batch, &batch->begin_waits, &LOCK_AVAILABLE_STEPS, WORK_CANDIDATES, &n);
	BeginWaits(batch, step_ids, n);
}

void
MovePlannedSteps(Batch *batch)
{
	PromoteRetries(batch);
	MoveList(batch, &batch->skip, WORK_FAILED, STATE_ERROR, STATE_RESOLVED_MANUALLY,
			 "{\"reason\": \"skipped: no attempt remains\"}");
	MoveList(batch, &batch->cascade, WORK_CANCELLED, STATE_PENDING, STATE_CANCELLED,
			 "{\"reason\": \"a step that it depends on was cancelled\"}");
	if (batch->release.n > 0 && AvoidsLockedRows(batch->o))
		RefreshExecutors(batch->o);
	MoveList(batch, &batch->release, WORK_CANDIDATES, STATE_IN_PROGRESS, STATE_PENDING,
			 "{\"reason\": \"its executor has left\"}");
	MoveFailures(batch);
	if (batch->dequeue.n > 0)
	{
		int			n;
		int64	   *ids = TakeIds(&batch->dequeue, batch->dequeue.n, &n);

		DequeueSteps(ids, n);
	}
	SetTimers(batch->timers, batch->n_timers);
	MoveWaits(batch);
}

/* ---------- the retry coordinator by hand ---------- */

static KeptQuery READ_DUE_RETRIES_OF_TASK = {
	.sql =
	"SELECT s.workflow_step_id FROM tasker.workflow_steps s JOIN tasker.tasks t ON t.task_id = s.task_id"
	" WHERE s.task_id = $1 AND t.state IN ('pending', 'in_progress') AND s.state = 'error' AND s.next_retry_at <= $2"
	" ORDER BY s.workflow_step_id LIMIT $3",
	.nargs = 3,.types = {INT8OID, TIMESTAMPTZOID, INT4OID}
};

static KeptQuery READ_DUE_RETRIES = {
	.sql =
	"SELECT s.workflow_step_id"
	"  FROM (SELECT DISTINCT i.workflow_step_id FROM tasker.timers i WHERE i.due_at <= $2 LIMIT 1000000) i"
	"  CROSS JOIN LATERAL (SELECT * FROM tasker.workflow_steps s WHERE s.workflow_step_id = i.workflow_step_id LIMIT 1) s"
	"  CROSS JOIN LATERAL (SELECT * FROM tasker.tasks t WHERE t.task_id = s.task_id LIMIT 1) t"
	" WHERE $1 IS NULL AND t.state IN ('pending', 'in_progress') AND s.state = 'error' AND s.next_retry_at <= $2"
	" ORDER BY s.workflow_step_id LIMIT $3",
	.nargs = 3,.types = {INT8OID, TIMESTAMPTZOID, INT4OID}
};

/* Moves steps in error whose time has come to pending; returns how many. */
static int
RetryDueSteps(Datum task_id, char no_task, int32 max)
{
	TimestampTz now = TaskerNow();
	Datum		args[3] = {task_id, TimestampTzGetDatum(now), Int32GetDatum(max)};
	char		nulls[4] = {no_task, ' ', ' ', '\0'};
	int			n = (int) RunQuery(no_task == 'n' ? &READ_DUE_RETRIES : &READ_DUE_RETRIES_OF_TASK, args, nulls);
	int64	   *step_ids = palloc(sizeof(int64) * Max(n, 1));

	for (int i = 0; i < n; i++)
		step_ids[i] = RowInt64(i, 1);
	return PromoteDueSteps(step_ids, n, now, "{\"triggered_by\": \"retry coordinator\"}");
}

PG_FUNCTION_INFO_V1(tasker_retry_due_steps);

Datum
tasker_retry_due_steps(PG_FUNCTION_ARGS)
{
	int32		max = PG_ARGISNULL(1) ? INT_MAX : PG_GETARG_INT32(1);
	QueryScope	scope;
	int			promoted;

	if (max < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the number of steps to retry must be positive, but is %d", max)));
	OpenQueryScope(&scope);
	if (PG_ARGISNULL(0))
		RequireEverywhere(MAY_OPERATE);
	else
		RequireForTask(PG_GETARG_INT64(0), MAY_OPERATE);
	promoted = RetryDueSteps(PG_ARGISNULL(0) ? 0 : PG_GETARG_DATUM(0), PG_ARGISNULL(0) ? 'n' : ' ', max);
	CloseQueryScope(&scope);
	PG_RETURN_INT32(promoted);
}
