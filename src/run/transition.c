/*
 * transition.c
 *		The one place where states change, and the SQL functions that move a
 *		single task or step under its guards.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "pg/clock.h"
#include "pg/query.h"
#include "pg/waiters.h"
#include "pg/wakeup.h"
#include "rules/retry.h"
#include "run/timer.h"
#include "run/transition.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/jsonb.h"

/* ---------- many at once ---------- */

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
	" RETURNING s.workflow_step_id, s.task_id, s.sort_key, s.attempts, s.timeout_seconds,"
	"           s.executor_id, u.metadata"
	"), logged AS ("
	" INSERT INTO tasker.workflow_step_transition_log"
	"        (workflow_step_id, sort_key, from_state, to_state, created_at, executor_id, role, metadata)"
	" SELECT workflow_step_id, sort_key, $1::tasker.state, $2::tasker.state, $5,"
	"        CASE WHEN $6 THEN executor_id END, $3, coalesce(metadata, $7)"
	"   FROM moved"
	")"
	"SELECT workflow_step_id, task_id, sort_key, attempts, coalesce(timeout_seconds, 0) FROM moved",
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
	" RETURNING t.task_id, t.sort_key"
	"), logged AS ("
	" INSERT INTO tasker.task_transition_log"
	"        (task_id, sort_key, from_state, to_state, created_at, role, metadata)"
	" SELECT task_id, sort_key, $1::tasker.state, $2::tasker.state, $4, $3, $5"
	"   FROM moved"
	")"
	"SELECT task_id FROM moved",
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

MovedStep *
MoveSteps(const StepMoves *moves, int *moved)
{
	int			n = moves->n;
	MovedStep  *result;
	Datum		args[16] = {0};
	char		nulls[17];

	*moved = 0;
	if (n == 0)
		return NULL;
	Assert(IsLegalTransition(OWNER_STEP, moves->from, moves->to));
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
	SET_ARG(5, true, TimestampTzGetDatum(moves->at != 0 ? moves->at : TaskerNow()));
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
	};
	if (moves->to == STATE_IN_PROGRESS)
		LimitAttempts(result, *moved, moves->at != 0 ? moves->at : TaskerNow());
	if (*moved > 0)
		WakeOrchestratorAtCommit();
	return result;
}

int
MoveTasks(TaskerState from, TaskerState to, int n, const int64 *task_ids, Datum metadata)
{
	char		nulls[7] = "      ";
	Datum		args[6];
	uint64		moved;

	if (n == 0)
		return 0;
	Assert(IsLegalTransition(OWNER_TASK, from, to));
	args[0] = CStringGetTextDatum(StateLabel(from));
	args[1] = CStringGetTextDatum(StateLabel(to));
	args[2] = QueryCallerName();
	args[3] = TimestampTzGetDatum(TaskerNow());
	args[4] = metadata;
	nulls[4] = metadata != 0 ? ' ' : 'n';
	args[5] = Int64Array(task_ids, n);
	moved = RunQuery(&MOVE_TASKS, args, nulls);
	if (moved > 0)
		WakeOrchestratorAtCommit();
	if (EndsTask(to))
		NoteTasksEnded(task_ids, n);
	return (int) moved;
}

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

static KeptQuery HAS_OPEN_PARENT = {
	.sql =
	"SELECT EXISTS (SELECT 1 FROM tasker.workflow_step_edges e"
	"  JOIN tasker.workflow_steps p ON p.workflow_step_id = e.from_step_id"
	" WHERE e.to_step_id = $1 AND p.state NOT IN ('complete', 'resolved_manually'))",
	.nargs = 1,.types = {INT8OID}
};

static KeptQuery HAS_OPEN_STEP = {
	.sql =
	"SELECT EXISTS (SELECT 1 FROM tasker.workflow_steps"
	" WHERE task_id = $1 AND state NOT IN ('complete', 'resolved_manually'))",
	.nargs = 1,.types = {INT8OID}
};

void
RefuseUnknown(const char *what, int64 id)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("%s " INT64_FORMAT " does not exist", what, id)));
}

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
JsonbOfText(const char *json)
{
	return DirectFunctionCall1(jsonb_in, CStringGetDatum(json));
}

Datum
ReasonMetadata(const char *reason)
{
	StringInfoData json;

	if (reason == NULL)
		return 0;
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
	(void) RunQuery(&HAS_OPEN_PARENT, &arg, NULL);
	if (RowBool(0, 1))
		return "A step that it depends on is neither complete nor resolved.";
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
