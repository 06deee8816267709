/*
 * await.c
 *		Waiting for steps, and for the end of a task, without polling.
 *
 * These are procedures: called outside of a transaction block they may end
 * their transaction before they sleep, so that nothing of it is held, no
 * snapshot above all.  Each look at the tables is a transaction of its own;
 * the last one, which claims, commits with the statement.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "execute/claim.h"
#include "execute/claimed_step.h"
#include "execute/executor.h"
#include "execute/pause.h"
#include "execute/queue.h"
#include "funcapi.h"
#include "pg/clock.h"
#include "pg/fault.h"
#include "pg/query.h"
#include "pg/shmem.h"
#include "pg/wait.h"
#include "pg/waiters.h"
#include "rules/document.h"
#include "run/transition.h"
#include "tcop/pquery.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/jsonb.h"

#define MAX_AWAITED 10000

/* Where nobody is woken (no preload, standby): the waits between two looks. */
#define FIRST_POLL_MS 10
#define LAST_POLL_MS 1000

/* When to look again although not woken: while others are taking what waits (ever later), and at all. */
#define FIRST_BUSY_LOOK_MS 20
#define LAST_BUSY_LOOK_MS 1000
#define SAFETY_LOOK_MS 60000

typedef struct Wait
{
	TimestampTz deadline;		/* by the real clock; DT_NOEND: none */
	int			poll_ms;		/* the next wait where nobody is woken */
	uint32		wait_event;
	MemoryContext home;			/* outlives the transactions of the wait */
} Wait;

/* ---------- any wait ---------- */

/* Refuses to wait where the caller's transaction would be held all the while. */
static void
RequireOwnTransactions(FunctionCallInfo fcinfo, const char *procedure)
{
	if (fcinfo->context == NULL || !IsA(fcinfo->context, CallContext) ||
		castNode(CallContext, fcinfo->context)->atomic)
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("tasker.%s() cannot wait inside a transaction block or a function", procedure),
				 errdetail("It would hold a snapshot for as long as it waits."),
				 errhint("CALL it as a statement of its own, with autocommit on.")));
}

/* Begins a wait whose timeout is an argument. */
static Wait
BeginWait(FunctionCallInfo fcinfo, int timeout_argument, uint32 wait_event)
{
	Wait		wait = {
		.deadline = DT_NOEND,.poll_ms = FIRST_POLL_MS,.wait_event = wait_event,.home = CurrentMemoryContext
	};

	if (!PG_ARGISNULL(timeout_argument))
		wait.deadline =
			DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval,
													TimestampTzGetDatum(GetCurrentTimestamp()),
													PG_GETARG_DATUM(timeout_argument)));
	if (SPI_connect_ext(SPI_OPT_NONATOMIC) != SPI_OK_CONNECT)
		elog(ERROR, "could not connect to the SPI manager");
	return wait;
}

/* Opens a scope for one look at the tables, in a transaction that may be a new one. */
static void
BeginLook(QueryScope *scope)
{
	EnsurePortalSnapshotExists();
	OpenQueryScope(scope);
}

static bool
IsOver(const Wait *wait)
{
	return wait->deadline <= GetCurrentTimestamp();
}

/* Sleeps until woken, for so many milliseconds at most, or until the deadline. */
static bool
Sleep(Wait *wait, int longest_ms)
{
	TimestampTz until;

	if (!WaitersAreWoken())
	{
		longest_ms = Min(longest_ms, wait->poll_ms);
		wait->poll_ms = Min(LAST_POLL_MS, 2 * wait->poll_ms);
	}
	until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), longest_ms);
	return SleepUntilWoken(Min(until, wait->deadline), wait->wait_event);
}

/*
 * Ends a wait; gives the row that a procedure with one INOUT parameter
 * returns.  The value is text, older than the wait: the wait's memory goes.
 */
static Datum
EndWait(FunctionCallInfo fcinfo, const char *value)
{
	TupleDesc	row_type;
	char	   *text = unconstify(char *, value);

	if (SPI_finish() != SPI_OK_FINISH)
		elog(ERROR, "could not disconnect from the SPI manager");
	if (get_call_result_type(fcinfo, NULL, &row_type) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	return HeapTupleGetDatum(BuildTupleFromCStrings(TupleDescGetAttInMetadata(row_type), &text));
}

/* ---------- steps ---------- */

typedef struct StepWait
{
	Wait		wait;
	int64		executor_id;
	int			max;
	int64		heartbeat_every;	/* microseconds; 0: needs none */
	TimestampTz heartbeat_at;	/* by the real clock */
	int			n_handlers;
	int32	   *handlers;		/* of the last look */
	int			busy_ms;		/* the last look found steps that others are taking: how long to sleep */
	int			claimed;
	int			n_taken;
	int32	   *taken_of;		/* handlers of what was taken out of the queue */
	StringInfoData json;		/* what was claimed, before the closing bracket */
} StepWait;

/* Appends steps as objects with the names of the columns of tasker.claimed_step. */
static void
AppendClaimedSteps(StringInfo json, const ClaimedStep *steps, int n)
{
	static const char *const text_names[] = {"task_name", "step_name", "handler"};
	static const char *const object_names[] = {"handler_config", "inputs", "dependency_results"};

	for (const ClaimedStep *step = steps; step < steps + n; step++)
	{
		const StepTemplate *step_template = step->step_template;
		const char *texts[] = {step_template->task_name, step_template->step_name, step_template->handler};
		Datum		objects[] = {step_template->handler_config, step->inputs, step->dependency_results};

		appendStringInfo(json, "%s{\"workflow_step_id\":" INT64_FORMAT ",\"claim\":%d,\"attempt\":%d,\"task_id\":" INT64_FORMAT,
						 json->len > 1 ? "," : "", step->step_id, step->claim, step->attempt, step->task_id);
		for (int i = 0; i < lengthof(texts); i++)
		{
			appendStringInfo(json, ",\"%s\":", text_names[i]);
			escape_json(json, texts[i]);
		}
		if (step->traceparent != NULL)
			appendStringInfo(json, ",\"traceparent\":\"%s\"", step->traceparent);
		for (int i = 0; i < lengthof(objects); i++)
		{
			Jsonb	   *jsonb = objects[i] != 0 ? DatumGetJsonbP(objects[i]) : NULL;

			appendStringInfo(json, ",\"%s\":", object_names[i]);
			if (jsonb != NULL)
				(void) JsonbToCString(json, &jsonb->root, VARSIZE(jsonb));
			else
				appendStringInfoString(json, "null");
		}
		appendStringInfoChar(json, '}');
	}
}

static int
CompareStepIds(const void *a, const void *b)
{
	int64		left = ((const ReadyStep *) a)->step_id;
	int64		right = ((const ReadyStep *) b)->step_id;

	return left < right ? -1 : left > right;
}

/* Claims steps that were taken out of the queue; those that are settled already are passed over. */
static void
ClaimTaken(StepWait *w, ReadyStep *ready, int n)
{
	int64	   *step_ids = palloc(sizeof(int64) * n);
	int64	   *executors = palloc(sizeof(int64) * n);
	MovedStep  *steps;
	int			claimed;

	qsort(ready, n, sizeof(ReadyStep), CompareStepIds);
	for (int i = 0; i < n; i++)
	{
		step_ids[i] = ready[i].step_id;
		executors[i] = w->executor_id;
	}
	steps = ClaimSteps(step_ids, executors, n, &claimed);
	FAULT_POINT("await-claimed");
	for (int i = 0; i < claimed; i++)
		step_ids[i] = steps[i].step_id;
	AppendClaimedSteps(&w->json, ReadClaimedSteps(step_ids, claimed, MAX_CONTENT_BYTES), claimed);
	w->claimed += claimed;
}

/* Remembers the handlers of what was taken, beyond the scope. */
static void
NoteTaken(StepWait *w, const ReadyStep *ready, int n)
{
	w->taken_of = w->taken_of ?
		repalloc(w->taken_of, sizeof(int32) * (w->n_taken + n)) :
		MemoryContextAlloc(w->wait.home, sizeof(int32) * n);
	for (int i = 0; i < n; i++)
		w->taken_of[w->n_taken++] = ready[i].handler_id;
}

static bool
AnyWaits(const StepWait *w)
{
	for (int i = 0; i < w->n_handlers; i++)
	{
		if (HasWaitingSteps(w->handlers[i]))
			return true;
	}
	return false;
}

/*
 * Claims what waits, or sees that nothing does.  Raises 55000 when the
 * executor has ended.  The last look before a sleep is thorough: it asks as
 * well for steps that others are taking, which come back if they are rolled
 * back.
 */
static bool
LookForSteps(StepWait *w, bool thorough)
{
	QueryScope	scope;
	ReadyStep  *ready;
	int			taken;
	int32	   *handlers;

	BeginLook(&scope);
	handlers = HandlersOfExecutor(w->executor_id, true, &w->n_handlers);
	if (w->handlers != NULL)
		pfree(w->handlers);
	w->handlers = MemoryContextAlloc(w->wait.home, sizeof(int32) * Max(w->n_handlers, 1));
	memcpy(w->handlers, handlers, sizeof(int32) * w->n_handlers);
	if (!DispatchIsPaused())
	{
		while (w->claimed < w->max &&
			   (ready = TakeSteps(handlers, w->n_handlers, w->max - w->claimed, &taken), taken > 0))
		{
			NoteTaken(w, ready, taken);
			ClaimTaken(w, ready, taken);
		}
		if (thorough && w->claimed == 0)
			w->busy_ms = !AnyWaits(w) ? 0 :
				Min(LAST_BUSY_LOOK_MS, Max(FIRST_BUSY_LOOK_MS, 2 * w->busy_ms));
	}
	CloseQueryScope(&scope);
	return w->claimed > 0;
}

/* Sleeps until woken or until it is time to look again; beats the heart meanwhile. */
static void
SleepForSteps(StepWait *w)
{
	TimestampTz look_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													  w->busy_ms > 0 ? w->busy_ms : SAFETY_LOOK_MS);

	for (;;)
	{
		TimestampTz now = GetCurrentTimestamp();
		TimestampTz until = look_at;

		if (w->heartbeat_every > 0 && w->heartbeat_at <= now)
		{
			/* One that is unknown has ended, or needs its row: the next look says. */
			if (!RecordHeartbeat(w->executor_id, TaskerNow(), false))
				return;
			w->heartbeat_at = now + w->heartbeat_every;
		}
		if (now >= look_at || IsOver(&w->wait))
			return;
		if (w->heartbeat_every > 0)
			until = Min(until, w->heartbeat_at);
		if (Sleep(&w->wait, (int) TimestampDifferenceMilliseconds(now, until)) || !WaitersAreWoken())
			return;
	}
}

/* Says that a detached executor lives, where it is time to. */
static void
BeatHeart(StepWait *w)
{
	TimestampTz now = GetCurrentTimestamp();

	if (w->heartbeat_every == 0 || w->heartbeat_at > now)
		return;
	EnsurePortalSnapshotExists();
	(void) NoteHeartbeat(w->executor_id);
	w->heartbeat_at = now + w->heartbeat_every;
}

/* Claims up to max steps, waiting for some if need be. */
static void
AwaitSteps(StepWait *w)
{
	QueryScope	scope;

	BeginLook(&scope);
	w->heartbeat_every = LeaseOfExecutor(w->executor_id) / 3;
	CloseQueryScope(&scope);
	for (;;)
	{
		BeatHeart(w);
		if (LookForSteps(w, false) || IsOver(&w->wait))
			break;
		SPI_commit();
		if (WaitersAreWoken())
			JoinStepWaiters(w->executor_id, w->handlers, w->n_handlers, w->max);
		if (LookForSteps(w, true))
			break;
		SPI_commit();
		SleepForSteps(w);
	}
	LeaveWaiters(w->taken_of, w->n_taken, w->claimed < w->max);
}

PG_FUNCTION_INFO_V1(tasker_await_steps);

Datum
tasker_await_steps(PG_FUNCTION_ARGS)
{
	StepWait	w = {0};

	RequireOwnTransactions(fcinfo, "await_steps");
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("executor_id must not be null")));
	w.executor_id = PG_GETARG_INT64(0);
	w.max = PG_ARGISNULL(1) ? 1 : PG_GETARG_INT32(1);
	if (w.max < 1 || w.max > MAX_AWAITED)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the number of steps to claim must be between 1 and %d, not %d", MAX_AWAITED, w.max)));
	initStringInfo(&w.json);
	appendStringInfoChar(&w.json, '[');
	w.wait = BeginWait(fcinfo, 2, WaitEventOf(WAIT_AWAIT_STEPS));
	AwaitSteps(&w);
	appendStringInfoChar(&w.json, ']');
	PG_RETURN_DATUM(EndWait(fcinfo, w.json.data));
}

/* ---------- tasks ---------- */

static KeptQuery READ_TASK_STATE = {
	.sql = "SELECT state::text FROM tasker.tasks WHERE task_id = $1",
	.nargs = 1,.types = {INT8OID}
};

/* The state of a task; raises 42704. */
static TaskerState
LookAtTask(int64 task_id)
{
	QueryScope	scope;
	Datum		arg = Int64GetDatum(task_id);
	TaskerState state;

	EnsurePortalSnapshotExists();
	OpenReadingScope(&scope);
	RequireForTask(task_id, MAY_ANYTHING);
	if (RunQuery(&READ_TASK_STATE, &arg, NULL) == 0)
		RefuseUnknown("task", task_id);
	state = StateOfLabel(RowText(0, 1));
	CloseQueryScope(&scope);
	return state;
}

/* The state in which a task ended, or in which it is when the time is over. */
static TaskerState
AwaitTask(Wait *wait, int64 task_id)
{
	TaskerState state = LookAtTask(task_id);

	while (!EndsTask(state) && !IsOver(wait))
	{
		SPI_commit();
		if (WaitersAreWoken())
			JoinTaskWaiters(task_id);
		state = LookAtTask(task_id);
		if (EndsTask(state))
			break;
		SPI_commit();
		(void) Sleep(wait, SAFETY_LOOK_MS);
		state = LookAtTask(task_id);
	}
	LeaveWaiters(NULL, 0, true);
	return state;
}

PG_FUNCTION_INFO_V1(tasker_await_task);

Datum
tasker_await_task(PG_FUNCTION_ARGS)
{
	Wait		wait;
	TaskerState state;

	RequireOwnTransactions(fcinfo, "await_task");
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("task_id must not be null")));
	wait = BeginWait(fcinfo, 1, WaitEventOf(WAIT_AWAIT_TASK));
	state = AwaitTask(&wait, PG_GETARG_INT64(0));
	PG_RETURN_DATUM(EndWait(fcinfo, EndsTask(state) ? StateLabel(state) : NULL));
}
