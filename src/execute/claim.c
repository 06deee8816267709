/*
 * claim.c
 *		Giving ready steps to executors, and the pull side of it.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "define/policy.h"
#include "define/step_template.h"
#include "execute/claim.h"
#include "execute/claimed_step.h"
#include "execute/executor.h"
#include "execute/pause.h"
#include "execute/queue.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "pg/clock.h"
#include "pg/fault.h"
#include "pg/query.h"
#include "pg/shmem.h"
#include "pg/wakeup.h"
#include "rules/document.h"
#include "run/row.h"
#include "run/transition.h"
#include "utils/builtins.h"

#define MAX_CLAIM 10000

/* Who has what: the last checkpoint, and the claims that the log got since. */
static KeptQuery FIND_STEPS_OF_EXECUTOR = {
	.sql =
	"WITH checkpoint AS ("
	" SELECT coalesce((SELECT c.position FROM tasker.orchestrator_checkpoint c WHERE c.only_one), '3:3:') AS position)"
	"SELECT DISTINCT s.workflow_step_id"
	"  FROM (SELECT u.step_id FROM tasker.orchestrator_checkpoint c,"
	"               ROWS FROM (unnest(c.in_flight_steps), unnest(c.in_flight_executors)) u(step_id, executor_id)"
	"         WHERE c.only_one AND u.executor_id = $1"
	"        UNION ALL"
	"        SELECT l.workflow_step_id FROM tasker.workflow_step_transition_log l"
	"         WHERE l.xact_id >= (SELECT pg_snapshot_xmax(position) FROM checkpoint)"
	"           AND l.to_state = 'in_progress' AND l.executor_id = $1"
	"        UNION ALL"
	"        SELECT l.workflow_step_id FROM tasker.workflow_step_transition_log l"
	"         WHERE l.xact_id = ANY (ARRAY(SELECT pg_snapshot_xip(position) FROM checkpoint))"
	"           AND l.to_state = 'in_progress' AND l.executor_id = $1) candidates"
	"  CROSS JOIN LATERAL (SELECT s.* FROM tasker.workflow_steps s"
	"                       WHERE s.workflow_step_id = candidates.step_id LIMIT 1) s"
	" WHERE s.state = 'in_progress' AND s.executor_id = $1"
	" ORDER BY s.workflow_step_id",
	.nargs = 1,.types = {INT8OID}
};

MovedStep *
ClaimSteps(const int64 *step_ids, const int64 *executors, int n, int *claimed)
{
	StepMoves	moves = {
		.from = STATE_PENDING,.to = STATE_IN_PROGRESS,.n = n,
		.step_ids = step_ids,.executors = executors,.by_executor = true,.attempt_change = 1
	};

	return MoveSteps(&moves, claimed);
}

/* Hands steps to the SQL function that is running, as rows of tasker.claimed_step. */
static void
ReturnClaimedSteps(FunctionCallInfo fcinfo, const int64 *step_ids, int n)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	ClaimedStep *steps = ReadClaimedSteps(step_ids, n, MAX_CONTENT_BYTES);

	for (int i = 0; i < n; i++)
		tuplestore_puttuple(result->setResult, FormClaimedStep(result->setDesc, &steps[i]));
}

/* ---------- one step ---------- */

KeptQuery	LOCK_AVAILABLE_STEPS = {
	.sql =
	"SELECT s.workflow_step_id FROM tasker.workflow_steps s"
	" WHERE s.workflow_step_id = ANY ($1) ORDER BY s.workflow_step_id FOR NO KEY UPDATE SKIP LOCKED",
	.nargs = 1,.types = {INT8ARRAYOID}
};

static KeptQuery LOCK_STEP_TO_CLAIM = {
	.sql =
	"SELECT s.workflow_step_id FROM tasker.workflow_steps s WHERE s.workflow_step_id = ANY ($1) FOR NO KEY UPDATE",
	.nargs = 1,.types = {INT8ARRAYOID}
};

static KeptQuery READ_STEP_TO_CLAIM = {
	.sql =
	"SELECT t.task_id, t.named_task_id, s.handler_id, s.rank::integer,"
	"       s.state = 'pending' AND t.state IN ('pending', 'in_progress')"
	"       AND NOT EXISTS (SELECT 1 FROM tasker.named_step_edges e"
	"                        WHERE e.named_task_id = t.named_task_id AND e.to_named_step_id = s.named_step_id"
	"                          AND (SELECT p.state FROM tasker.workflow_steps p"
	"                                WHERE p.task_id = s.task_id AND p.named_step_id = e.from_named_step_id)"
	"                              NOT IN ('complete', 'resolved_manually') OFFSET 0),"
	"       s.named_step_id"
	"  FROM tasker.workflow_steps s JOIN tasker.tasks t ON t.task_id = s.task_id"
	" WHERE s.workflow_step_id = $1",
	.nargs = 1,.types = {INT8OID}
};

/* As of this moment, in any isolation level: who has claimed before has committed. */
static bool
HasStepInProgress(int64 task_id)
{
	static const int step_task[] = {STEP_TASK};
	Datum		key = Int64GetDatum(task_id);
	Table	   *steps = OpenTable(&STEPS);
	Lookup	   *of_task;
	TupleTableSlot *row;
	bool		found = false;

	BeginAccess();
	of_task = BeginLatestLookup(steps, 1, step_task);
	LookFor(of_task, 1, &key);
	while (!found && (row = NextRow(of_task)) != NULL)
		found = ReadStepRow(steps, row).state == STATE_IN_PROGRESS;
	EndLookup(of_task);
	EndAccess();
	return found;
}

/*
 * Whether a step of a task that runs one at a time has the turn.  Where the
 * orchestrator gives the turns, it waits in the queue, and who takes it out of
 * there has it.  Where nobody does, whoever holds the task's lock may take it.
 */
static bool
TakeTurn(int64 task_id, const TaskPolicy *policy, const ReadyStep *step)
{
	if (policy->dispatched)
		return TakeStep(step);
	(void) LockTask(task_id);
	return !HasStepInProgress(task_id);
}

/* Whether no executor runs the step: the orchestrator has it wait. */
static bool
StepWaits(const TaskPolicy *policy, int32 named_task_id, int32 named_step_id)
{
	if (!policy->waits)
		return false;
	RefreshStepTemplates();
	return GetStepTemplate(named_task_id, named_step_id)->waits;
}

bool
ClaimStep(int64 step_id, int64 executor_id)
{
	Datum		arg = Int64GetDatum(step_id);
	StepMoves	moves = {
		.from = STATE_PENDING,.to = STATE_IN_PROGRESS,.n = 1,.step_ids = &step_id,
		.executors = executor_id != 0 ? &executor_id : NULL,.by_executor = true,.attempt_change = 1
	};
	const TaskPolicy *policy;
	ReadyStep	step;
	Datum		step_ids = Int64Array(&step_id, 1);
	int64		task_id;
	int32		named_task_id;
	int32		named_step_id;
	int			claimed;

	RefreshPauses();
	RefreshPolicies();
	if (RunQuery(&READ_STEP_TO_CLAIM, &arg, NULL) == 0)
		RefuseUnknown("step", step_id);
	if (!RowBool(0, 5) || NamedTaskIsPaused(RowInt32(0, 2)))
		return false;
	task_id = RowInt64(0, 1);
	named_task_id = RowInt32(0, 2);
	named_step_id = RowInt32(0, 6);
	policy = PolicyOf(named_task_id);
	step = (ReadyStep)
	{
		.step_id = step_id,.handler_id = RowInt32(0, 3),.rank = (int16) RowInt32(0, 4)
	};
	if (DispatchIsPaused() || StepWaits(policy, named_task_id, named_step_id))
		return false;
	/*
	 * Its row before its place in the queue, for which whoever holds the row
	 * may wait.  Who has moved something holds rows, and must not wait for
	 * others: see claim_steps.
	 */
	if (RunQuery(TransactionHasNews() ? &LOCK_AVAILABLE_STEPS : &LOCK_STEP_TO_CLAIM, &step_ids, NULL) == 0)
		return false;
	if (policy->concurrent)
		(void) TakeStep(&step);
	else if (!TakeTurn(task_id, policy, &step))
		return false;
	(void) MoveSteps(&moves, &claimed);
	return claimed > 0;
}

PG_FUNCTION_INFO_V1(tasker_claim_step);

Datum
tasker_claim_step(PG_FUNCTION_ARGS)
{
	QueryScope	scope;
	int64		executor_id = PG_ARGISNULL(0) ? 0 : PG_GETARG_INT64(0);
	int64		step_id;
	int			n_handlers;

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	if (PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("step_id must not be null")));
	step_id = PG_GETARG_INT64(1);
	OpenQueryScope(&scope);
	RequireForStep(step_id, MAY_EXECUTE);
	if (executor_id != 0)
		(void) HandlersOfExecutor(executor_id, true, &n_handlers);
	if (ClaimStep(step_id, executor_id))
		ReturnClaimedSteps(fcinfo, &step_id, 1);
	CloseQueryScope(&scope);
	return (Datum) 0;
}

/* ---------- the next steps ---------- */

static int
CompareIds(const void *a, const void *b)
{
	int64		left = *(const int64 *) a;
	int64		right = *(const int64 *) b;

	return left < right ? -1 : left > right;
}

static void
NoticeNothingHappens(void)
{
	if (!OrchestratorRunning())
		ereport(NOTICE,
				(errmsg("no step is waiting, and no orchestrator runs for this database"),
				 errhint("Call tasker.orchestrate() to find ready steps, or add tasker to shared_preload_libraries.")));
}

int
LockAvailableSteps(const int64 *step_ids, int n)
{
	Datum		arg = Int64Array(step_ids, n);

	return (int) RunQuery(&LOCK_AVAILABLE_STEPS, &arg, NULL);
}

static int
CompareReadyById(const void *a, const void *b)
{
	return CompareIds(&((const ReadyStep *) a)->step_id, &((const ReadyStep *) b)->step_id);
}

/* Puts those that somebody holds back into the queue; returns how many are left. */
static int
KeepUnheld(ReadyStep *ready, int64 *step_ids, int n)
{
	ReadyStep  *held = palloc(sizeof(ReadyStep) * n);
	int			available = LockAvailableSteps(step_ids, n);
	int			n_held = 0;

	for (int i = 0, a = 0; i < n; i++)
	{
		if (a < available && RowInt64(a, 1) == ready[i].step_id)
			step_ids[a++] = ready[i].step_id;
		else
			held[n_held++] = ready[i];
	}
	EnqueueSteps(held, n_held);
	return available;
}

/*
 * Takes steps out of the queue, up to max with those claimed so far, and
 * claims those that are still to be had; whether it is worth to look again.
 * Who has claimed before does not wait for rows: the next ones may have lower
 * ids, and who holds those may wait for ours.
 */
static bool
ClaimWaiting(FunctionCallInfo fcinfo, int64 executor_id, const int32 *handlers, int n_handlers, int max, int *claimed)
{
	int			taken;
	ReadyStep  *ready = TakeSteps(handlers, n_handlers, max - *claimed, &taken);
	int64	   *step_ids = palloc(sizeof(int64) * Max(taken, 1));
	int64	   *executors = palloc(sizeof(int64) * Max(taken, 1));
	int			n = taken;
	int			moved;
	MovedStep  *steps;

	if (taken == 0)
		return false;
	qsort(ready, taken, sizeof(ReadyStep), CompareReadyById);
	for (int i = 0; i < taken; i++)
	{
		step_ids[i] = ready[i].step_id;
		executors[i] = executor_id;
	}
	if (*claimed > 0)
		n = KeepUnheld(ready, step_ids, taken);
	steps = ClaimSteps(step_ids, executors, n, &moved);
	FAULT_POINT("claimed");
	for (int i = 0; i < moved; i++)
		step_ids[i] = steps[i].step_id;
	ReturnClaimedSteps(fcinfo, step_ids, moved);
	*claimed += moved;
	/* Those that are held would only be taken again. */
	return *claimed < max && n == taken;
}

PG_FUNCTION_INFO_V1(tasker_claim_steps);

Datum
tasker_claim_steps(PG_FUNCTION_ARGS)
{
	QueryScope	scope;
	int64		executor_id;
	int			max = PG_ARGISNULL(1) ? 1 : PG_GETARG_INT32(1);
	int32	   *handlers;
	int			n_handlers;
	int			claimed = 0;

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("executor_id must not be null")));
	if (max < 1 || max > MAX_CLAIM)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the number of steps to claim must be between 1 and %d, not %d", MAX_CLAIM, max)));
	executor_id = PG_GETARG_INT64(0);

	OpenQueryScope(&scope);
	handlers = HandlersOfExecutor(executor_id, true, &n_handlers);
	if (!DispatchIsPaused())
	{
		/* Where some of them have been settled meanwhile, take others. */
		while (ClaimWaiting(fcinfo, executor_id, handlers, n_handlers, max, &claimed))
			CHECK_FOR_INTERRUPTS();
	}
	CloseQueryScope(&scope);
	(void) RecordHeartbeat(executor_id, TaskerNow(), false);
	if (claimed == 0)
		NoticeNothingHappens();
	return (Datum) 0;
}

PG_FUNCTION_INFO_V1(tasker_my_steps);

Datum
tasker_my_steps(PG_FUNCTION_ARGS)
{
	QueryScope	scope;
	Datum		executor_id;
	int64	   *step_ids;
	int			n;

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("executor_id must not be null")));
	executor_id = Int64GetDatum(PG_GETARG_INT64(0));
	OpenReadingScope(&scope);
	(void) HandlersOfExecutor(DatumGetInt64(executor_id), false, &n);
	n = (int) RunQuery(&FIND_STEPS_OF_EXECUTOR, &executor_id, NULL);
	step_ids = palloc(sizeof(int64) * Max(n, 1));
	for (int i = 0; i < n; i++)
		step_ids[i] = RowInt64(i, 1);
	ReturnClaimedSteps(fcinfo, step_ids, n);
	CloseQueryScope(&scope);
	return (Datum) 0;
}
