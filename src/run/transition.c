/*
 * transition.c
 *		Moving a single task or step under its guards: the SQL functions of the
 *		state machines.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "pg/catalog.h"
#include "pg/clock.h"
#include "pg/query.h"
#include "pg/table.h"
#include "pg/wakeup.h"
#include "rules/document.h"
#include "rules/retry.h"
#include "run/row.h"
#include "run/timer.h"
#include "run/transition.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/jsonb.h"

#define MAX_REASON_LENGTH 1000

/* ---------- one, under its guards ---------- */

static KeptQuery LOCK_STEP = {
	.sql =
	"SELECT task_id, state::text, sort_key, attempts, retry_limit, retryable, failed_permanently"
	"  FROM tasker.workflow_steps WHERE workflow_step_id = $1 FOR NO KEY UPDATE",
	.nargs = 1,.types = {INT8OID}
};

static KeptQuery LOCK_TASK = {
	.sql = "SELECT state::text, sort_key FROM tasker.tasks WHERE task_id = $1 FOR NO KEY UPDATE",
	.nargs = 1,.types = {INT8OID}
};

static KeptQuery LOCK_FREE_TASK = {
	.sql = "SELECT 1 FROM tasker.tasks WHERE task_id = $1 FOR NO KEY UPDATE SKIP LOCKED",
	.nargs = 1,.types = {INT8OID}
};

static KeptQuery HAS_OPEN_PARENT = {
	.sql =
	"SELECT EXISTS (SELECT 1 FROM tasker.workflow_steps s"
	"  JOIN tasker.tasks t ON t.task_id = s.task_id"
	"  JOIN tasker.named_step_edges e ON e.named_task_id = t.named_task_id AND e.to_named_step_id = s.named_step_id"
	"  JOIN tasker.workflow_steps p ON p.task_id = s.task_id AND p.named_step_id = e.from_named_step_id"
	" WHERE s.workflow_step_id = $1 AND p.state NOT IN ('complete', 'resolved_manually'))",
	.nargs = 1,.types = {INT8OID}
};

static KeptQuery HAS_OPEN_STEP = {
	.sql =
	"SELECT EXISTS (SELECT 1 FROM tasker.workflow_steps"
	" WHERE task_id = $1 AND state NOT IN ('complete', 'resolved_manually'))",
	.nargs = 1,.types = {INT8OID}
};

static KeptQuery RUNS_ONE_AT_A_TIME = {
	.sql =
	"SELECT EXISTS (SELECT 1 FROM tasker.workflow_steps s"
	"  JOIN tasker.tasks t ON t.task_id = s.task_id"
	"  JOIN tasker.named_tasks nt ON nt.named_task_id = t.named_task_id"
	" WHERE s.workflow_step_id = $1 AND NOT nt.concurrent)",
	.nargs = 1,.types = {INT8OID}
};

/* A wait without its row would have no end. */
static KeptQuery WAITS_BY_ITSELF = {
	.sql =
	"SELECT ts.waits_for IS NOT NULL FROM tasker.workflow_steps s"
	"  JOIN tasker.tasks t ON t.task_id = s.task_id"
	"  JOIN tasker.named_tasks_named_steps ts ON ts.named_task_id = t.named_task_id AND ts.named_step_id = s.named_step_id"
	" WHERE s.workflow_step_id = $1",
	.nargs = 1,.types = {INT8OID}
};

LockedStep
LockStep(int64 step_id)
{
	Datum		arg = Int64GetDatum(step_id);

	if (RunQuery(&LOCK_STEP, &arg, NULL) == 0)
		RefuseUnknown("step", step_id);
	return (LockedStep)
	{
		.step_id = step_id,
			.task_id = RowInt64(0, 1),
			.state = StateOfLabel(RowText(0, 2)),
			.sort_key = RowInt32(0, 3),
			.attempts = RowInt32(0, 4),
			.retry_limit = RowInt32(0, 5),
			.retryable = RowBool(0, 6),
			.failed_permanently = RowBool(0, 7),
	};
}

TaskerState
LockTask(int64 task_id)
{
	Datum		arg = Int64GetDatum(task_id);

	if (RunQuery(&LOCK_TASK, &arg, NULL) == 0)
		RefuseUnknown("task", task_id);
	return StateOfLabel(RowText(0, 1));
}

bool
LockFreeTask(int64 task_id)
{
	Datum		arg = Int64GetDatum(task_id);

	return RunQuery(&LOCK_FREE_TASK, &arg, NULL) > 0;
}

/* No lock is needed: who has the step of a task that is being cancelled has waited for it. */
TaskerState
LatestTaskState(int64 task_id)
{
	static const int key[] = {TASK_ID};
	Table	   *tasks = OpenTable(&TASKS);
	Lookup	   *by_id;
	TaskRow		task;
	bool		found;

	BeginAccess();
	by_id = BeginLatestLookup(tasks, 1, key);
	found = FindTaskRow(tasks, by_id, task_id, &task);
	EndLookup(by_id);
	EndAccess();
	if (!found)
		RefuseUnknown("task", task_id);
	return task.state;
}

bool
IsOverForGood(TaskerState state)
{
	return state == STATE_CANCELLED || state == STATE_RESOLVED_MANUALLY;
}

void
RefuseTransition(StateOwner owner, int64 id, TaskerState from, TaskerState to, const char *guard)
{
	ereport(ERROR,
			(errcode(ERRCODE_TASKER_TRANSITION_NOT_ALLOWED),
			 errmsg("%s " INT64_FORMAT " cannot move from \"%s\" to \"%s\"",
					OwnerLabel(owner), id, StateLabel(from), StateLabel(to)),
			 guard ? errdetail("%s", guard) :
			 errdetail("Allowed next states: %s.", NextStates(owner, from)),
			 from == to ? errhint("It is in that state already.") : 0));
}

Datum
ReasonMetadata(const char *reason)
{
	StringInfoData json;

	if (reason == NULL)
		return 0;
	if (pg_mbstrlen(reason) > MAX_REASON_LENGTH)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the reason of a transition must have at most %d characters, not %d",
						MAX_REASON_LENGTH, pg_mbstrlen(reason))));
	initStringInfo(&json);
	appendStringInfoString(&json, "{\"reason\": ");
	escape_json(&json, reason);
	appendStringInfoChar(&json, '}');
	return JsonbOfText(json.data);
}

typedef enum MoveOutcome
{
	MOVE_DONE,
	MOVE_ALREADY,
	MOVE_NOT_ALLOWED
} MoveOutcome;

static const char *const outcome_labels[] = {
	[MOVE_DONE] = "transitioned",
	[MOVE_ALREADY] = "already_in_state",
	[MOVE_NOT_ALLOWED] = "not_allowed",
};

/* What is asked of one transition, and what came of it. */
typedef struct Move
{
	StateOwner	owner;
	int64		id;
	TaskerState to;
	uint32		allowed_from;	/* a bit per state */
	Datum		metadata;
	TaskerState from;			/* found under the lock */
	const char *guard;			/* why it was refused, if not by the table */
	int32		sort_key;		/* of the new transition */
} Move;

/* A guard of a step that refuses, or NULL. */
static const char *
StepGuard(const LockedStep *step, TaskerState to)
{
	Datum		arg = Int64GetDatum(step->step_id);

	if (to != STATE_IN_PROGRESS)
		return NULL;
	if (!IsRetryEligible(step->retryable, step->failed_permanently, step->attempts,
						 step->retry_limit))
		return psprintf("All %d attempts are used.", step->attempts);
	if (step->sort_key > LAST_CLAIMED_SORT_KEY)
		return "It has had as many transitions as can be numbered.";
	(void) RunQuery(&HAS_OPEN_PARENT, &arg, NULL);
	if (RowBool(0, 1))
		return "A step that it depends on is neither complete nor resolved.";
	(void) RunQuery(&RUNS_ONE_AT_A_TIME, &arg, NULL);
	if (RowBool(0, 1))
		return "Its task runs one step at a time, in turn: claim it.";
	if (SchemaVersion() >= 101 && RunQuery(&WAITS_BY_ITSELF, &arg, NULL) == 1 && RowBool(0, 1))
		return "It waits for a time or an event: the orchestrator lets it begin.";
	return NULL;
}

/* A guard of a task that refuses, or NULL. */
static const char *
TaskGuard(int64 task_id, TaskerState to)
{
	Datum		arg = Int64GetDatum(task_id);

	if (to != STATE_COMPLETE)
		return NULL;
	(void) RunQuery(&HAS_OPEN_STEP, &arg, NULL);
	return RowBool(0, 1) ? "Not every step is complete or resolved." : NULL;
}

static MoveOutcome
MoveStep(Move *move)
{
	LockedStep	step = LockStep(move->id);
	bool		no_retry = true;
	TimestampTz never = 0;
	StepMoves	moves = {
		.to = move->to,.n = 1,.step_ids = &move->id,
		.attempt_change = move->to == STATE_IN_PROGRESS ? 1 : 0,
		.metadata_of_all = move->metadata,
		.retry_at = &never,.no_retry = &no_retry
	};
	MovedStep  *result;
	int			moved;

	move->from = moves.from = step.state;
	if (step.state == move->to)
		return MOVE_ALREADY;
	if (!(move->allowed_from & (1 << step.state)) ||
		!IsLegalTransition(OWNER_STEP, step.state, move->to))
		return MOVE_NOT_ALLOWED;
	move->guard = StepGuard(&step, move->to);
	if (move->guard != NULL)
		return MOVE_NOT_ALLOWED;
	/* As release_step and retry_step do: an attempt given back, or all of them. */
	if (move->to == STATE_PENDING)
		moves.attempt_change = step.state == STATE_IN_PROGRESS ? -1 : -step.attempts;
	if (move->to == STATE_ERROR)
	{
		/* A failure by hand follows the rules of any other, without a backoff. */
		never = TaskerNow();
		no_retry = !IsRetryEligible(step.retryable, false, step.attempts, step.retry_limit);
	}
	result = MoveSteps(&moves, &moved);
	if (moved != 1)
		elog(ERROR, "step " INT64_FORMAT " changed under its lock", move->id);
	move->sort_key = result[0].sort_key;
	return MOVE_DONE;
}

static MoveOutcome
MoveTask(Move *move)
{
	Datum		arg = Int64GetDatum(move->id);

	if (RunQuery(&LOCK_TASK, &arg, NULL) == 0)
		RefuseUnknown("task", move->id);
	move->from = StateOfLabel(RowText(0, 1));
	move->sort_key = RowInt32(0, 2) + 10;
	if (move->from == move->to)
		return MOVE_ALREADY;
	if (!(move->allowed_from & (1 << move->from)) ||
		!IsLegalTransition(OWNER_TASK, move->from, move->to))
		return MOVE_NOT_ALLOWED;
	move->guard = TaskGuard(move->id, move->to);
	if (move->guard != NULL)
		return MOVE_NOT_ALLOWED;
	if (MoveTasks(move->from, move->to, 1, &move->id, move->metadata) != 1)
		elog(ERROR, "task " INT64_FORMAT " changed under its lock", move->id);
	return MOVE_DONE;
}

static MoveOutcome
RunMove(Move *move)
{
	QueryScope	scope;
	MoveOutcome outcome;

	OpenQueryScope(&scope);
	if (move->owner == OWNER_TASK)
		RequireForTask(move->id, MAY_OPERATE);
	else
		RequireForStep(move->id, MAY_OPERATE);
	outcome = move->owner == OWNER_TASK ? MoveTask(move) : MoveStep(move);
	if (move->guard != NULL)
		move->guard = MemoryContextStrdup(scope.context, move->guard);
	CloseQueryScope(&scope);
	return outcome;
}

static TaskerState
StateOfDatum(Oid enum_value)
{
	return StateOfLabel(DatumGetCString(DirectFunctionCall1(enum_out, ObjectIdGetDatum(enum_value))));
}

/* Arguments (id, to_state, ..., metadata); the metadata is the last one. */
static Move
MoveOfArguments(FunctionCallInfo fcinfo, StateOwner owner)
{
	int			metadata = PG_NARGS() - 1;
	Move		move = {.owner = owner,.allowed_from = ~0U};

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the %s and the state to move it to must not be null", OwnerLabel(owner))));
	move.id = PG_GETARG_INT64(0);
	move.to = StateOfDatum(PG_GETARG_OID(1));
	if (!PG_ARGISNULL(metadata))
	{
		Jsonb	   *given = PG_GETARG_JSONB_P(metadata);

		if (!JB_ROOT_IS_OBJECT(given))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("metadata of a transition must be a JSON object")));
		CheckDocumentSize(JsonbPGetDatum(given), MAX_METADATA_BYTES, "metadata of a transition");
		if (JB_ROOT_COUNT(given) > 0)
			move.metadata = JsonbPGetDatum(given);
	}
	return move;
}

static Datum
TransitionOrRaise(FunctionCallInfo fcinfo, StateOwner owner)
{
	Move		move = MoveOfArguments(fcinfo, owner);

	if (RunMove(&move) != MOVE_DONE)
		RefuseTransition(owner, move.id, move.from, move.to, move.guard);
	return Int32GetDatum(move.sort_key);
}

static Datum
SafeTransition(FunctionCallInfo fcinfo, StateOwner owner)
{
	Move		move = MoveOfArguments(fcinfo, owner);

	return CStringGetTextDatum(outcome_labels[RunMove(&move)]);
}

static Datum
ConditionalTransition(FunctionCallInfo fcinfo, StateOwner owner)
{
	Move		move = MoveOfArguments(fcinfo, owner);
	Datum	   *states;
	bool	   *nulls;
	int			n;

	if (PG_ARGISNULL(2))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the states to move the %s from must not be null", OwnerLabel(owner))));
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(2), ARR_ELEMTYPE(PG_GETARG_ARRAYTYPE_P(2)),
					  sizeof(Oid), true, TYPALIGN_INT, &states, &nulls, &n);
	move.allowed_from = 0;
	for (int i = 0; i < n; i++)
	{
		if (!nulls[i])
			move.allowed_from |= 1 << StateOfDatum(DatumGetObjectId(states[i]));
	}
	return CStringGetTextDatum(outcome_labels[RunMove(&move)]);
}

PG_FUNCTION_INFO_V1(tasker_transition_task);
PG_FUNCTION_INFO_V1(tasker_transition_step);
PG_FUNCTION_INFO_V1(tasker_safe_transition_task);
PG_FUNCTION_INFO_V1(tasker_safe_transition_step);
PG_FUNCTION_INFO_V1(tasker_conditional_transition_task);
PG_FUNCTION_INFO_V1(tasker_conditional_transition_step);

Datum
tasker_transition_task(PG_FUNCTION_ARGS)
{
	return TransitionOrRaise(fcinfo, OWNER_TASK);
}

Datum
tasker_transition_step(PG_FUNCTION_ARGS)
{
	return TransitionOrRaise(fcinfo, OWNER_STEP);
}

Datum
tasker_safe_transition_task(PG_FUNCTION_ARGS)
{
	return SafeTransition(fcinfo, OWNER_TASK);
}

Datum
tasker_safe_transition_step(PG_FUNCTION_ARGS)
{
	return SafeTransition(fcinfo, OWNER_STEP);
}

Datum
tasker_conditional_transition_task(PG_FUNCTION_ARGS)
{
	return ConditionalTransition(fcinfo, OWNER_TASK);
}

Datum
tasker_conditional_transition_step(PG_FUNCTION_ARGS)
{
	return ConditionalTransition(fcinfo, OWNER_STEP);
}
