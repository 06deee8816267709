/*
 * orchestrate.c
 *		Consequences, drawn from the log, one batch after the other.
 *
 * A batch is one transaction: take in what is new, see what follows (reads
 * only), move tasks, move steps, dispatch.  What a batch moves is in the log
 * again and is read by the next one, its own claims included: that is how the
 * memory of who has which step is kept, and why it may be thrown away.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "define/ownership.h"
#include "define/policy.h"
#include "define/step_template.h"
#include "execute/pause.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "orchestrate/advance.h"
#include "orchestrate/discover.h"
#include "orchestrate/dispatch.h"
#include "orchestrate/intake.h"
#include "orchestrate/memory.h"
#include "orchestrate/orchestrate.h"
#include "orchestrate/roster.h"
#include "pg/clock.h"
#include "pg/fault.h"
#include "pg/guc.h"
#include "pg/query.h"
#include "pgstat.h"
#include "run/transition.h"
#include "utils/datetime.h"
#include "utils/memutils.h"

/* ---------- a batch ---------- */

static bool
CheckpointIsDue(const Orchestrator *o)
{
	return TimestampDifferenceExceeds(o->saved_at, GetCurrentTimestamp(), tasker_checkpoint_interval);
}

/* When to look again if no news come before. */
static TimestampTz
WakeTime(Batch *batch)
{
	Orchestrator *o = batch->o;
	TimestampTz wake_at = Min(batch->report.wake_at, NextTimer(o->timers_taken_until));

	wake_at = Min(wake_at, NextReenqueue(o->timers_taken_until));
	wake_at = Min(wake_at, o->executors_good_until);
	if (o->postponed_until != 0)
		wake_at = Min(wake_at, o->postponed_until);
	if (o->dirty)
		wake_at = Min(wake_at, batch->now + (int64) tasker_checkpoint_interval * 1000);
	return wake_at;
}

/* What pg_stat_activity shows of the worker; a session's query stays. */
static void
EnterPhase(bool in_session, const char *phase)
{
	if (!in_session)
		pgstat_report_activity(STATE_RUNNING, phase);
}

BatchReport
RunBatch(Orchestrator *o, int batch_size, bool in_session)
{
	Batch		batch = {.o = o,.now = TaskerNow(),.batch_size = batch_size,.report.wake_at = DT_NOEND};

	MemoryContext caller = CurrentMemoryContext;
	MemoryContext scratch = AllocSetContextCreate(caller, "tasker batch", ALLOCSET_DEFAULT_SIZES);

	MemoryContextSwitchTo(scratch);
	o->last = (Owner)
	{
		0
	};
	o->in_session = in_session;

	EnterPhase(in_session, "tasker: reading the logs");
	TakeOver();
	RefreshPauses();
	RefreshPolicies();
	if (!in_session || !HasWork(o))
	{
		o->moved = false;
		if (!ReadLog(&batch))
		{
			MemoryContextSwitchTo(caller);
			MemoryContextDelete(scratch);
			return batch.report;
		}
	}
	if (o->reconcile)
	{
		LookAtOpenTasks(o);
		o->reconcile = false;
		o->dirty = true;
	}
	EnterPhase(in_session, "tasker: looking for what follows");
	TakeUpPostponed(o, batch.now);
	LookAtExecutors(&batch);
	TakeTimers(&batch);
	FollowStarted(&batch);
	FollowClosed(&batch);
	FollowFailed(&batch);
	FollowCancelled(&batch);
	FollowCandidates(&batch);
	FollowTurns(&batch);

	EnterPhase(in_session, "tasker: moving tasks and steps");
	MovePlannedTasks(&batch);
	FAULT_POINT("batch-tasks-moved");
	MovePlannedSteps(&batch);
	FAULT_POINT("batch-steps-moved");
	EnterPhase(in_session, "tasker: giving steps to executors");
	Dispatch(&batch);

	batch.report.transitions = batch.transitions;
	o->moved |= batch.transitions > 0;
	batch.report.more |= HasWork(o) || o->moved;
	if (!HasWork(o) && o->postponed_until == 0 &&
		(in_session || (o->dirty && CheckpointIsDue(o))))
		SaveCheckpoint(o);
	if (o->postponed_until != 0)
		NotePostponed(o);
	/* What was moved now lies beyond the position. */
	o->dirty |= batch.transitions > 0;
	if (!batch.report.more)
		batch.report.wake_at = WakeTime(&batch);
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(scratch);
	return batch.report;
}

/* ---------- one task, by a session ---------- */

void
AdvanceTask(int64 task_id)
{
	int64		transitions;

	RefreshPauses();
	RefreshPolicies();
	do
	{
		MemoryContext caller = CurrentMemoryContext;
		MemoryContext scratch = AllocSetContextCreate(caller, "tasker batch", ALLOCSET_DEFAULT_SIZES);
		Batch		batch = {.now = TaskerNow(),.batch_size = INT_MAX / 8};

		CHECK_FOR_INTERRUPTS();
		MemoryContextSwitchTo(scratch);
		batch.o = OpenOrchestrator(scratch);
		batch.o->in_session = true;
		LookAtTask(batch.o, task_id);
		FollowStarted(&batch);
		FollowFailed(&batch);
		FollowCancelled(&batch);
		FollowCandidates(&batch);
		/*
		 * Without the orchestrator's lock no wait begins, as an event could
		 * come in between; none is forgotten and no timer is set, as the
		 * orchestrator does the same to the same rows, and would wait for
		 * this transaction.  It reads of all of it in the log.
		 */
		batch.begin_waits.n = batch.left_waits.n = 0;
		batch.n_timers = 0;
		MovePlannedTasks(&batch);
		MovePlannedSteps(&batch);
		transitions = batch.transitions;
		MemoryContextSwitchTo(caller);
		MemoryContextDelete(scratch);
	} while (transitions > 0);
}

/* ---------- in a session ---------- */

/* How often a session takes in what others have done since it began. */
#define LATE_READS 10

/*
 * Runs batches until nothing is left to do; returns the transitions made.
 * Others may bring news for ever: the rest of it is left to who orchestrates
 * next, whom the commit wakes.
 */
static int64
OrchestrateHere(int64 task_id)
{
	QueryScope	scope;
	Orchestrator *o;
	BatchReport report;
	int64		transitions = 0;
	bool		look = task_id != 0;
	int			late_reads = -1;

	OpenQueryScope(&scope);
	/* A batch draws the consequences for everybody, and says how many there were. */
	RequireEverywhere(MAY_OPERATE);
	LockOrchestration();
	o = OpenOrchestrator(CurrentMemoryContext);
	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		report = RunBatch(o, tasker_batch_size, true);
		transitions += report.transitions;
		late_reads += report.others || late_reads < 0;
		/* Not before a batch: the first one starts the memory from the checkpoint. */
		if (look)
			LookAtTask(o, task_id);
		else if (!report.more || late_reads > LATE_READS)
			break;
		look = false;
	}
	CloseOrchestrator(o);
	CloseQueryScope(&scope);
	return transitions;
}

PG_FUNCTION_INFO_V1(tasker_orchestrate);

Datum
tasker_orchestrate(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(OrchestrateHere(PG_ARGISNULL(0) ? 0 : PG_GETARG_INT64(0)));
}

static KeptQuery READ_DUE_RETRIES = {
	.sql =
	"SELECT s.workflow_step_id, t.named_task_id, s.named_step_id"
	"  FROM tasker.workflow_steps s JOIN tasker.tasks t ON t.task_id = s.task_id"
	" WHERE s.task_id = $1 AND t.state IN ('pending', 'in_progress')"
	"   AND s.state = 'error' AND s.next_retry_at <= $2",
	.nargs = 2,.types = {INT8OID, TIMESTAMPTZOID}
};

/* Steps in error whose time has come; where one runs at a time, FollowTurns has looked at them, too. */
static void
AddDueRetries(Batch *batch, int64 task_id)
{
	Datum		args[2] = {Int64GetDatum(task_id), TimestampTzGetDatum(batch->now)};
	uint64		rows = RunQuery(&READ_DUE_RETRIES, args, NULL);
	int64	   *step_ids = palloc(sizeof(int64) * Max(rows, 1));
	int32	   *named_steps = palloc(sizeof(int32) * Max(rows, 1));
	int32		named_task_id = rows > 0 ? RowInt32(0, 2) : 0;

	if (rows == 0 || NamedTaskIsPaused(named_task_id) || !PolicyOf(named_task_id)->concurrent)
		return;
	for (uint64 row = 0; row < rows; row++)
	{
		step_ids[row] = RowInt64(row, 1);
		named_steps[row] = RowInt32(row, 3);
	}
	for (uint64 row = 0; row < rows; row++)
	{
		if (!PolicyOf(named_task_id)->waits || !GetStepTemplate(named_task_id, named_steps[row])->waits)
			AddReady(batch, (ReadyStep)
					 {
						 .step_id = step_ids[row]
					 });
	}
}

int64 *
FindViableSteps(int64 task_id, int *n)
{
	Batch		batch = {.now = TaskerNow(),.batch_size = INT_MAX / 8,.look_only = true};
	int64	   *step_ids;

	batch.o = OpenOrchestrator(CurrentMemoryContext);
	RefreshPauses();
	RefreshPolicies();
	LookAtTask(batch.o, task_id);
	FollowCandidates(&batch);
	FollowTurns(&batch);
	AddDueRetries(&batch, task_id);
	CloseOrchestrator(batch.o);
	*n = DispatchIsPaused() ? 0 : batch.n_ready;
	step_ids = palloc(sizeof(int64) * Max(*n, 1));
	for (int i = 0; i < *n; i++)
		step_ids[i] = batch.ready[i].step_id;
	qsort(step_ids, *n, sizeof(int64), CompareIds);
	return step_ids;
}

PG_FUNCTION_INFO_V1(tasker_find_viable_steps);

/* The same reads as a batch does, for one task and without any move. */
Datum
tasker_find_viable_steps(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	QueryScope	scope;
	int64	   *step_ids;
	int			n;

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("task_id must not be null")));
	OpenReadingScope(&scope);
	RequireForTask(PG_GETARG_INT64(0), MAY_ANYTHING);
	step_ids = FindViableSteps(PG_GETARG_INT64(0), &n);
	for (int i = 0; i < n; i++)
	{
		Datum		value = Int64GetDatum(step_ids[i]);
		bool		null = false;

		tuplestore_putvalues(result->setResult, result->setDesc, &value, &null);
	}
	CloseQueryScope(&scope);
	return (Datum) 0;
}
