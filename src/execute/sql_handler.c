/*
 * sql_handler.c
 *		Steps whose handler is a SQL function, run in the session.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "execute/claim.h"
#include "execute/claimed_step.h"
#include "execute/outcome.h"
#include "execute/sql_handler.h"
#include "pg/catalog.h"
#include "pg/fault.h"
#include "pg/query.h"
#include "pg/user_function.h"
#include "rules/document.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/typcache.h"

/* A claimed step and what running it needs, beyond the scope in which it was claimed. */
typedef struct Attempt
{
	int64		step_id;
	int32		claim;
	const char *handler;
	const char *owner;
	Oid			step_type;		/* tasker.claimed_step */
	Datum		step;			/* the argument of the handler */
} Attempt;

/* Claims a step; false where it may not run now.  The attempt lives in the current context. */
static bool
BeginAttempt(int64 step_id, Attempt *attempt)
{
	MemoryContext caller = CurrentMemoryContext;
	QueryScope	scope;
	bool		claimed;

	OpenQueryScope(&scope);
	claimed = ClaimStep(step_id, 0);
	if (claimed)
	{
		Oid			type = ExtensionType("claimed_step");
		TupleDesc	row_type = lookup_rowtype_tupdesc(type, -1);
		ClaimedStep *step = ReadClaimedSteps(&step_id, 1, MAX_CONTENT_BYTES);
		HeapTuple	tuple = FormClaimedStep(row_type, step);

		MemoryContextSwitchTo(caller);
		*attempt = (Attempt)
		{
			.step_id = step_id,.claim = step->claim,
				.handler = pstrdup(step->step_template->handler),
				.owner = pstrdup(step->step_template->owner),
				.step_type = type,.step = heap_copy_tuple_as_datum(tuple, row_type)
		};
		ReleaseTupleDesc(row_type);
	}
	CloseQueryScope(&scope);
	return claimed;
}

/* What an error of the handler says of the attempt. */
static StepFailure
FailureOfError(const Attempt *attempt, const ErrorData *error)
{
	StepFailure failure = {
		.step_id = attempt->step_id,.claim = attempt->claim,
		.error = error->message ? error->message : "unknown",
		.error_class = pstrdup(unpack_sql_state(error->sqlerrcode)),
		.retryable = error->sqlerrcode != ERRCODE_TASKER_PERMANENT_FAILURE,
		.retry_after = RETRY_BY_BACKOFF
	};

	if (error->sqlerrcode == ERRCODE_TASKER_RETRY_AFTER && error->detail != NULL)
	{
		char	   *end;
		long		seconds = strtol(error->detail, &end, 10);

		if (end != error->detail && *end == '\0' && seconds >= 0 && seconds <= INT_MAX)
			failure.retry_after = (int32) seconds;
	}
	return failure;
}

/* What results that are too large say of the attempt. */
static StepFailure
FailureOfSize(const Attempt *attempt, Size bytes)
{
	return (StepFailure)
	{
		.step_id = attempt->step_id,.claim = attempt->claim,
			.error = psprintf("the results of a step must have at most %d bytes, not %zu", MAX_CONTENT_BYTES, bytes),
			.error_class = "54000",.retry_after = RETRY_BY_BACKOFF
	};
}

/*
 * Reports the outcome of an attempt.  The claim may be settled already, by the
 * handler itself: that stays.
 */
static void
EndAttempt(const Attempt *attempt, const StepFailure *failure, Datum results)
{
	StepMoves	complete = {
		.from = STATE_IN_PROGRESS,.to = STATE_COMPLETE,.n = 1,.step_ids = &attempt->step_id,
		.sort_keys = &attempt->claim,.by_executor = true,.results = &results
	};
	QueryScope	scope;
	int			moved;

	OpenQueryScope(&scope);
	if (failure != NULL)
		(void) FailSteps(failure, 1, true, 0, &moved);
	else
		(void) MoveSteps(&complete, &moved);
	CloseQueryScope(&scope);
}

TaskerState
ExecuteStep(int64 step_id)
{
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext scratch = AllocSetContextCreate(caller, "tasker attempt", ALLOCSET_DEFAULT_SIZES);
	Attempt		attempt;
	StepFailure failure;
	ErrorData  *error;
	Datum		results;
	bool		no_results;
	bool		done = false;
	bool		claimed;

	MemoryContextSwitchTo(scratch);
	claimed = BeginAttempt(step_id, &attempt);
	if (claimed)
	{
		FAULT_POINT("attempt-begun");
		/* A handler for executors is the caller's mistake and no failure of the step. */
		(void) FindUserFunction(attempt.handler, attempt.step_type, JSONBOID, attempt.owner);
		done = TryUserFunction(attempt.handler, attempt.step_type, JSONBOID, attempt.owner, attempt.step,
							   &results, &no_results, &error);
		if (done && no_results)
			results = JsonbOfText("{}");
		if (!done)
			failure = FailureOfError(&attempt, error);
		else if (DocumentBytes(results) > MAX_CONTENT_BYTES)
		{
			failure = FailureOfSize(&attempt, DocumentBytes(results));
			done = false;
		}
		FAULT_POINT("attempt-run");
		EndAttempt(&attempt, done ? NULL : &failure, results);
	}
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(scratch);
	return !claimed ? STATE_NONE : done ? STATE_COMPLETE : STATE_ERROR;
}

PG_FUNCTION_INFO_V1(tasker_execute_step);

Datum
tasker_execute_step(PG_FUNCTION_ARGS)
{
	TaskerState state;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("step_id must not be null")));
	state = ExecuteStep(PG_GETARG_INT64(0));
	if (state == STATE_NONE)
		PG_RETURN_NULL();
	return DirectFunctionCall2(enum_in, CStringGetDatum(StateLabel(state)),
							   ObjectIdGetDatum(get_fn_expr_rettype(fcinfo->flinfo)));
}
