/*
 * step.c
 *		What an operator does to steps: cancel, retry, resolve.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "pg/query.h"
#include "run/step.h"
#include "run/transition.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"

/* More than anyone has; MoveSteps stops at zero. */
#define ALL_ATTEMPTS 1000000

static KeptQuery LOCK_STEPS_OF_TASK = {
	.sql =
	"SELECT workflow_step_id FROM tasker.workflow_steps"
	" WHERE task_id = $1 AND state IN ('pending', 'in_progress', 'error')"
	" ORDER BY workflow_step_id + 0 FOR NO KEY UPDATE",
	.nargs = 1,.types = {INT8OID}
};

/*
 * Moves all steps of a task from one state to another.  They are locked in
 * order of their ids first, as everyone does who locks several.
 */
static void
MoveStepsOfTask(int64 task_id, int n_from, const TaskerState *from, StepMoves *moves)
{
	Datum		arg = Int64GetDatum(task_id);
	int			n = (int) RunQuery(&LOCK_STEPS_OF_TASK, &arg, NULL);
	int64	   *step_ids = palloc(sizeof(int64) * Max(n, 1));
	int			moved;

	for (int i = 0; i < n; i++)
		step_ids[i] = RowInt64(i, 1);
	moves->n = n;
	moves->step_ids = step_ids;
	for (int f = 0; f < n_from; f++)
	{
		moves->from = from[f];
		(void) MoveSteps(moves, &moved);
	}
}

void
CancelStepsOfTask(int64 task_id, Datum metadata)
{
	static const TaskerState from[] = {STATE_PENDING, STATE_IN_PROGRESS};
	StepMoves	moves = {.to = STATE_CANCELLED,.metadata_of_all = metadata};

	MoveStepsOfTask(task_id, lengthof(from), from, &moves);
}

void
RetryStepsOfTask(int64 task_id, Datum metadata)
{
	static const TaskerState from[] = {STATE_ERROR};
	StepMoves	moves = {.to = STATE_PENDING,.attempt_change = -ALL_ATTEMPTS,.metadata_of_all = metadata};

	MoveStepsOfTask(task_id, lengthof(from), from, &moves);
}

/*
 * In a task that is over for good a step would wait for an attempt that never
 * comes.  A cancellation locks the step, too, so whoever has that sees how it
 * ended.
 */
static void
CheckTaskCanGoOn(const LockedStep *step, TaskerState to)
{
	TaskerState state = LatestTaskState(step->task_id);

	if (IsOverForGood(state))
		RefuseTransition(OWNER_STEP, step->step_id, STATE_ERROR, to,
						 psprintf("Its task " INT64_FORMAT " is \"%s\".", step->task_id, StateLabel(state)));
}

/*
 * What the three operator's functions share.  False if the step is in that
 * state already.
 */
static bool
OperateOnStep(int64 step_id, TaskerState to, const char *reason, Jsonb *results)
{
	QueryScope	scope;
	LockedStep	step;
	Datum		result = JsonbPGetDatum(results);
	StepMoves	moves = {
		.to = to,.n = 1,.step_ids = &step_id,
		.attempt_change = to == STATE_PENDING ? -ALL_ATTEMPTS : 0,
		.results = results ? &result : NULL
	};
	int			moved;

	OpenQueryScope(&scope);
	step = LockStep(step_id);
	if (to == STATE_PENDING)
		CheckTaskCanGoOn(&step, to);
	if (step.state != to)
	{
		/* A step in progress is given back by its executor, not taken away as a retry. */
		if (!IsLegalTransition(OWNER_STEP, step.state, to) ||
			(step.state == STATE_IN_PROGRESS && to == STATE_PENDING))
			RefuseTransition(OWNER_STEP, step_id, step.state, to,
							 step.state == STATE_IN_PROGRESS && to == STATE_PENDING ?
							 "Its executor has it: release or cancel it." : NULL);
		moves.from = step.state;
		moves.metadata_of_all = ReasonMetadata(reason);
		(void) MoveSteps(&moves, &moved);
	}
	CloseQueryScope(&scope);
	return step.state != to;
}

static Datum
OperateOnStepArgument(FunctionCallInfo fcinfo, TaskerState to)
{
	char	   *reason = PG_ARGISNULL(1) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(1));
	Jsonb	   *results = PG_NARGS() > 2 && !PG_ARGISNULL(2) ? PG_GETARG_JSONB_P(2) : NULL;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("step_id must not be null")));
	return BoolGetDatum(OperateOnStep(PG_GETARG_INT64(0), to, reason, results));
}

PG_FUNCTION_INFO_V1(tasker_cancel_step);
PG_FUNCTION_INFO_V1(tasker_retry_step);
PG_FUNCTION_INFO_V1(tasker_resolve_step);

Datum
tasker_cancel_step(PG_FUNCTION_ARGS)
{
	return OperateOnStepArgument(fcinfo, STATE_CANCELLED);
}

Datum
tasker_retry_step(PG_FUNCTION_ARGS)
{
	return OperateOnStepArgument(fcinfo, STATE_PENDING);
}

Datum
tasker_resolve_step(PG_FUNCTION_ARGS)
{
	return OperateOnStepArgument(fcinfo, STATE_RESOLVED_MANUALLY);
}
