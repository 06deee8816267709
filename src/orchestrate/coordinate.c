/*
 * coordinate.c
 *		A session that runs the steps of a task itself, by their SQL handlers.
 *
 * No lock of the orchestrator is held while handlers run: their transaction
 * may be long, and other tasks go on.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "define/policy.h"
#include "execute/sql_handler.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "orchestrate/orchestrate.h"
#include "pg/fault.h"
#include "pg/query.h"
#include "run/move.h"
#include "run/transition.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"

/* What coordinating a task has come to. */
typedef struct Coordination
{
	TaskerState state;			/* of the task */
	int32		step_runs;
	int32		failed_runs;
	bool		has_retry;
	TimestampTz next_retry_at;	/* where has_retry: when a step may run again */
} Coordination;

static KeptQuery READ_COORDINATOR = {
	.sql =
	"SELECT nt.coordinator_strategy, nt.owner"
	"  FROM tasker.tasks t JOIN tasker.named_tasks nt ON nt.named_task_id = t.named_task_id"
	" WHERE t.task_id = $1",
	.nargs = 1,.types = {INT8OID}
};

static KeptQuery READ_TASK_STATE = {
	.sql =
	"SELECT t.state::text, (SELECT min(s.next_retry_at) FROM tasker.workflow_steps s"
	"                        WHERE s.task_id = t.task_id AND s.state = 'error' AND t.state IN ('pending', 'in_progress'))"
	"  FROM tasker.tasks t WHERE t.task_id = $1",
	.nargs = 1,.types = {INT8OID}
};

/*
 * The function that coordinates a task and its owner; NULL where that is built
 * in.  The task is locked before any of its steps is, as by everyone who will
 * change both: else a cancellation could have it and wait for a step.
 */
static char *
FindCoordinator(int64 task_id, char **owner)
{
	MemoryContext caller = CurrentMemoryContext;
	Datum		arg = Int64GetDatum(task_id);
	QueryScope	scope;
	char	   *strategy;

	OpenQueryScope(&scope);
	(void) LockTask(task_id);
	(void) RunQuery(&READ_COORDINATOR, &arg, NULL);
	strategy = RowText(0, 1);
	*owner = MemoryContextStrdup(caller, RowText(0, 2));
	strategy = IsBuiltinStrategy(STRATEGY_COORDINATOR, strategy) ? NULL : MemoryContextStrdup(caller, strategy);
	CloseQueryScope(&scope);
	return strategy;
}

/* Draws the consequences and finds what can run now, in the current context. */
static int64 *
FindNextSteps(int64 task_id, int *n)
{
	MemoryContext caller = CurrentMemoryContext;
	QueryScope	scope;
	int64	   *found;
	int64	   *step_ids;

	OpenQueryScope(&scope);
	AdvanceTask(task_id);
	found = FindViableSteps(task_id, n);
	step_ids = MemoryContextAlloc(caller, sizeof(int64) * Max(*n, 1));
	memcpy(step_ids, found, sizeof(int64) * *n);
	CloseQueryScope(&scope);
	return step_ids;
}

/* Runs what can run until nothing can, or so many steps have run. */
static void
RunSteps(int64 task_id, int32 max_steps, Coordination *coordination)
{
	bool		has_run = true;

	while (has_run && coordination->step_runs < max_steps)
	{
		int			n;
		int64	   *step_ids = FindNextSteps(task_id, &n);

		has_run = false;
		for (int i = 0; i < n && coordination->step_runs < max_steps; i++)
		{
			TaskerState state;

			CHECK_FOR_INTERRUPTS();
			state = ExecuteStep(step_ids[i]);
			if (state == STATE_NONE)
				continue;
			has_run = true;
			coordination->step_runs++;
			coordination->failed_runs += state == STATE_ERROR;
		}
		pfree(step_ids);
	}
}

/* Tells the template's function to run the task: it finds and executes the steps as it sees fit. */
static void
CallCoordinator(int64 task_id, const char *function, const char *owner)
{
	Datum		argument = JsonbOfText(psprintf("{\"task_id\": " INT64_FORMAT "}", task_id));
	bool		none;

	(void) CallStrategy(STRATEGY_COORDINATOR, function, owner, argument, &none);
}

static void
ReadState(int64 task_id, Coordination *coordination)
{
	Datum		arg = Int64GetDatum(task_id);
	QueryScope	scope;
	Datum		retry;
	bool		no_retry;

	OpenQueryScope(&scope);
	AdvanceTask(task_id);
	if (RunQuery(&READ_TASK_STATE, &arg, NULL) == 0)
		RefuseUnknown("task", task_id);
	coordination->state = StateOfLabel(RowText(0, 1));
	retry = RowDatum(0, 2, &no_retry);
	coordination->has_retry = !no_retry;
	coordination->next_retry_at = no_retry ? 0 : DatumGetTimestampTz(retry);
	CloseQueryScope(&scope);
}

PG_FUNCTION_INFO_V1(tasker_coordinate_task);

Datum
tasker_coordinate_task(PG_FUNCTION_ARGS)
{
	Coordination coordination = {0};
	int64		task_id;
	int32		max_steps = PG_ARGISNULL(1) ? INT_MAX : PG_GETARG_INT32(1);
	char	   *owner;
	char	   *function;
	TupleDesc	row_type;
	Datum		values[4];
	bool		nulls[4] = {false};

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("task_id must not be null")));
	if (max_steps < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the number of steps to run must not be negative, but is %d", max_steps)));
	if (get_call_result_type(fcinfo, NULL, &row_type) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	task_id = PG_GETARG_INT64(0);
	function = FindCoordinator(task_id, &owner);
	if (function != NULL)
		CallCoordinator(task_id, function, owner);
	else
		RunSteps(task_id, max_steps, &coordination);
	FAULT_POINT("coordinated");
	ReadState(task_id, &coordination);
	values[0] = DirectFunctionCall2(enum_in, CStringGetDatum(StateLabel(coordination.state)),
									ObjectIdGetDatum(TupleDescAttr(row_type, 0)->atttypid));
	values[1] = Int32GetDatum(coordination.step_runs);
	values[2] = Int32GetDatum(coordination.failed_runs);
	nulls[1] = nulls[2] = function != NULL;
	values[3] = TimestampTzGetDatum(coordination.next_retry_at);
	nulls[3] = !coordination.has_retry;
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(row_type), values, nulls)));
}
