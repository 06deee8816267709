/*
 * finalize.c
 *		Deciding a task's outcome.
 *
 * A step can still run if it is in progress, waits for its retry, is about
 * to be skipped, or is pending with every parent finished.  In a DAG a
 * pending step with unfinished parents leads up to one of these or to one
 * that is dead, so nothing else needs to be looked at.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "orchestrate/finalize.h"
#include "pg/fault.h"
#include "pg/query.h"
#include "pg/table.h"
#include "run/row.h"
#include "run/transition.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"

/*
 * This asks again what the statement before has asked: in between a session
 * may have claimed the step that was ready then, or even finished it.
 */
static KeptQuery FIND_LIVE_STEPS = {
	.sql =
	"SELECT u, (SELECT max(s.workflow_step_id + 0) FROM tasker.workflow_steps s"
	"            WHERE s.task_id = u"
	"              AND (s.state = 'in_progress'"
	"                   OR (s.state = 'error' AND (s.next_retry_at IS NOT NULL OR s.skippable))"
	"                   OR (s.state = 'pending'"
	"                       AND NOT EXISTS (SELECT 1 FROM tasker.named_step_edges e"
	"                                       WHERE e.named_task_id = batch.named_task_id"
	"                                         AND e.to_named_step_id = s.named_step_id"
	"                                         AND (SELECT p.state FROM tasker.workflow_steps p"
	"                                               WHERE p.task_id = s.task_id AND p.named_step_id = e.from_named_step_id) NOT IN ('complete', 'resolved_manually') OFFSET 0)))),"
	"       EXISTS (SELECT 1 FROM tasker.workflow_steps s"
	"                WHERE s.task_id = u AND s.state NOT IN ('complete', 'resolved_manually'))"
	"  FROM (SELECT * FROM ROWS FROM (unnest($1), unnest($2)) b(u, named_task_id) LIMIT cardinality($1)) batch",
	.nargs = 2,.types = {INT8ARRAYOID, INT4ARRAYOID}
};

/* Where no step moves, one that is ready keeps the task going. */
static void
LookForLiveSteps(Finality *finalities, int n)
{
	int64	   *task_ids = palloc(sizeof(int64) * n);
	int32	   *named_task_ids = palloc(sizeof(int32) * n);
	int		   *place = palloc(sizeof(int) * n);
	int			asked = 0;
	int			found;
	Datum		args[2];

	for (int i = 0; i < n; i++)
	{
		if (finalities[i].outcome != STATE_ERROR)
			continue;
		place[asked] = i;
		named_task_ids[asked] = finalities[i].named_task_id;
		task_ids[asked++] = finalities[i].task_id;
	}
	if (asked == 0)
		return;
	args[0] = Int64Array(task_ids, asked);
	args[1] = Int32Array(named_task_ids, asked);
	found = (int) RunQuery(&FIND_LIVE_STEPS, args, NULL);
	/* In the order asked. */
	for (int i = 0; i < found; i++)
	{
		Finality   *finality = &finalities[place[i]];
		bool		none;
		Datum		live = RowDatum(i, 2, &none);

		if (!none)
		{
			finality->outcome = STATE_IN_PROGRESS;
			finality->open_step = DatumGetInt64(live);
		}
		else if (!RowBool(i, 3))
			finality->outcome = STATE_COMPLETE;
	}
}

/* Whether a step goes on by itself. */
static bool
IsMoving(const StepRow *step)
{
	return step->state == STATE_IN_PROGRESS ||
		(step->state == STATE_ERROR && (step->has_retry || step->skippable));
}

/* What the steps of a task come to; the newest that moves is the one to wait for. */
static Finality
JudgeTask(const Table *steps, Lookup *steps_of_task, const TaskRow *task)
{
	Finality	finality = {.task_id = task->task_id,.named_task_id = task->named_task_id,.state = task->state,.outcome = STATE_COMPLETE};
	Datum		key = Int64GetDatum(task->task_id);
	TupleTableSlot *row;

	LookFor(steps_of_task, 1, &key);
	while ((row = NextRow(steps_of_task)) != NULL)
	{
		StepRow		step = ReadStepRow(steps, row);

		if (SatisfiesDependents(step.state))
			continue;
		if (IsMoving(&step))
			finality.open_step = Max(finality.open_step, step.step_id);
		finality.outcome = finality.open_step != 0 ? STATE_IN_PROGRESS : STATE_ERROR;
	}
	return finality;
}

Finality *
JudgeTasks(const int64 *task_ids, int n, int *found)
{
	static const int step_task[] = {STEP_TASK};
	Finality   *finalities = palloc0(sizeof(Finality) * Max(n, 1));
	Table	   *tasks;
	Table	   *steps;
	Lookup	   *task_by_id;
	Lookup	   *steps_of_task;
	TaskRow		task;

	*found = 0;
	if (n == 0)
		return finalities;
	BeginAccess();
	tasks = OpenTable(&TASKS);
	steps = OpenTable(&STEPS);
	task_by_id = LookupById(tasks);
	steps_of_task = BeginLookup(steps, 1, step_task);
	for (int i = 0; i < n; i++)
	{
		if (FindTaskRow(tasks, task_by_id, task_ids[i], &task))
			finalities[(*found)++] = JudgeTask(steps, steps_of_task, &task);
	}
	EndLookup(task_by_id);
	EndLookup(steps_of_task);
	EndAccess();
	LookForLiveSteps(finalities, *found);
	return finalities;
}

static bool
IsIn(TaskerState state, const TaskerState *states)
{
	for (; *states != STATE_NONE; states++)
	{
		if (*states == state)
			return true;
	}
	return false;
}

static int
CompareIds(const void *a, const void *b)
{
	int64		left = *(const int64 *) a;
	int64		right = *(const int64 *) b;

	return left < right ? -1 : left > right;
}

/* Makes one transition for all tasks that were in one of the states and go to one of the outcomes. */
static int
MoveThose(const Finality *finalities, int n, const TaskerState *were, const TaskerState *go,
		  TaskerState from, TaskerState to)
{
	int64	   *task_ids = palloc(sizeof(int64) * Max(n, 1));
	int			picked = 0;

	for (int i = 0; i < n; i++)
	{
		if (IsIn(finalities[i].state, were) && IsIn(finalities[i].outcome, go))
			task_ids[picked++] = finalities[i].task_id;
	}
	qsort(task_ids, picked, sizeof(int64), CompareIds);
	return MoveTasks(from, to, picked, task_ids, 0);
}

int
FinalizeTasks(const Finality *finalities, int n)
{
	static const TaskerState error[] = {STATE_ERROR, STATE_NONE};
	static const TaskerState open[] = {STATE_PENDING, STATE_IN_PROGRESS, STATE_ERROR, STATE_NONE};
	static const TaskerState started[] = {STATE_PENDING, STATE_IN_PROGRESS, STATE_NONE};
	static const TaskerState alive[] = {STATE_IN_PROGRESS, STATE_COMPLETE, STATE_NONE};
	static const TaskerState every[] = {STATE_IN_PROGRESS, STATE_COMPLETE, STATE_ERROR, STATE_NONE};
	static const TaskerState complete[] = {STATE_COMPLETE, STATE_NONE};
	int			moved = 0;

	/* Out of an error that was settled, and into progress: the path to complete leads through both. */
	moved += MoveThose(finalities, n, error, alive, STATE_ERROR, STATE_PENDING);
	moved += MoveThose(finalities, n, error, alive, STATE_PENDING, STATE_IN_PROGRESS);
	moved += MoveThose(finalities, n, started, every, STATE_PENDING, STATE_IN_PROGRESS);
	FAULT_POINT("finalizing");
	moved += MoveThose(finalities, n, open, complete, STATE_IN_PROGRESS, STATE_COMPLETE);
	moved += MoveThose(finalities, n, started, error, STATE_IN_PROGRESS, STATE_ERROR);
	return moved;
}

PG_FUNCTION_INFO_V1(tasker_finalize_task);

Datum
tasker_finalize_task(PG_FUNCTION_ARGS)
{
	QueryScope	scope;
	int64		task_id;
	Finality   *finality;
	Oid			state_type = get_fn_expr_rettype(fcinfo->flinfo);
	TaskerState state;
	int			found;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("task_id must not be null")));
	task_id = PG_GETARG_INT64(0);
	OpenQueryScope(&scope);
	RequireForTask(task_id, MAY_OPERATE);
	(void) LockTask(task_id);
	finality = JudgeTasks(&task_id, 1, &found);
	(void) FinalizeTasks(finality, found);
	state = LockTask(task_id);
	CloseQueryScope(&scope);
	return DirectFunctionCall2(enum_in, CStringGetDatum(StateLabel(state)),
							   ObjectIdGetDatum(state_type));
}
