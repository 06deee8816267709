/*
 * discover.c
 *		What follows from what came in.  Reads only: the batch collects what
 *		is to be moved.
 *
 * Fan-in is race-free without locks between siblings: the parent that commits
 * last is read last, and by then every parent is seen finished.  A child may
 * be found twice, or before its last parent's row is read; the state of the
 * step and the key of the queue make that harmless.
 */
#include "postgres.h"

#include "define/policy.h"
#include "define/step_template.h"
#include "execute/pause.h"
#include "orchestrate/discover.h"
#include "pg/table.h"
#include "rules/state.h"
#include "run/row.h"
#include "run/transition.h"

/* The tables of runs, with a way to each by its keys. */
typedef struct Reader
{
	Table	   *steps;
	Table	   *tasks;
	Lookup	   *step_by_id;
	Lookup	   *by_named_step;
	Lookup	   *steps_of_task;
	Lookup	   *task_by_id;
	TaskRow		task;			/* the one read last: steps of one task often come together */
} Reader;

static Reader
OpenReader(void)
{
	static const int step_task[] = {STEP_TASK};
	Reader		r = {0};

	RefreshStepTemplates();
	BeginAccess();
	r.steps = OpenTable(&STEPS);
	r.tasks = OpenTable(&TASKS);
	r.step_by_id = LookupById(r.steps);
	r.by_named_step = LookupByNamedStep(r.steps);
	r.steps_of_task = BeginLookup(r.steps, 1, step_task);
	r.task_by_id = LookupById(r.tasks);
	return r;
}

static void
CloseReader(Reader *r)
{
	EndLookup(r->step_by_id);
	EndLookup(r->by_named_step);
	EndLookup(r->steps_of_task);
	EndLookup(r->task_by_id);
	EndAccess();
}

/* Reads the task of a step into r->task; false where it is gone. */
static bool
ReadTaskOf(Reader *r, const StepRow *step)
{
	return r->task.task_id == step->task_id || FindTaskRow(r->tasks, r->task_by_id, step->task_id, &r->task);
}

static const StepTemplate *
TemplateOf(const Reader *r, const StepRow *step)
{
	return GetStepTemplate(r->task.named_task_id, step->named_step_id);
}

/* sort_key of the transition that creates a task. */
#define FIRST_SORT_KEY 10

/* A step of a task has stopped: where one runs at a time, the next may have its turn. */
static void
PassTurn(Orchestrator *o, int32 named_task_id, int64 task_id)
{
	if (!PolicyOf(named_task_id)->concurrent)
		AddWork(o, WORK_TURNS, task_id);
}

void
AddReady(Batch *batch, ReadyStep step)
{
	if (batch->n_ready == batch->ready_room)
	{
		batch->ready_room = Max(64, 2 * batch->ready_room);
		batch->ready = batch->ready ? repalloc_huge(batch->ready, sizeof(ReadyStep) * batch->ready_room) :
			palloc(sizeof(ReadyStep) * batch->ready_room);
	}
	batch->ready[batch->n_ready++] = step;
}

/* A step has moved on: if it has waited, or somebody else has ended its wait, that is forgotten. */
static void
LeaveWait(Batch *batch, int32 named_task_id, int64 step_id)
{
	if (PolicyOf(named_task_id)->waits)
		AddId(CurrentMemoryContext, &batch->left_waits, step_id);
}

/* What follows from one finished step. */
static void
FollowClosedStep(Batch *batch, Reader *r, const StepRow *step)
{
	Orchestrator *o = batch->o;
	Watch	   *watch = hash_search(o->watched_tasks, &step->task_id, HASH_FIND, NULL);
	const StepTemplate *step_template;
	StepRow		child;

	/* A watched step keeps its task going; now it does not any more. */
	if (watch != NULL ? watch->waits_for == step->step_id : step->is_leaf)
	{
		(void) WaitsForAnother(o->watched_tasks, step->task_id, step->step_id);
		AddWork(o, WORK_FINALS, step->task_id);
	}
	if ((step->is_leaf && !AnyPolicy()) || !ReadTaskOf(r, step))
		return;
	PassTurn(o, r->task.named_task_id, step->task_id);
	LeaveWait(batch, r->task.named_task_id, step->step_id);
	if (step->is_leaf)
		return;
	step_template = TemplateOf(r, step);
	for (int c = 0; c < step_template->n_children; c++)
	{
		if (FindStepOfTask(r->steps, r->by_named_step, step->task_id, step_template->children[c], &child) &&
			!WaitsForAnother(o->watched_children, child.step_id, step->step_id))
			AddWork(o, WORK_CANDIDATES, child.step_id);
	}
}

/* A finished step: its children may be ready, its task may be done. */
void
FollowClosed(Batch *batch)
{
	int			n;
	int64	   *step_ids = TakeWork(batch, WORK_CLOSED, &n);
	StepRow		step;
	Reader		r;

	if (n == 0)
		return;
	r = OpenReader();
	for (int i = 0; i < n; i++)
	{
		if (FindStepRow(r.steps, r.step_by_id, step_ids[i], &step))
			FollowClosedStep(batch, &r, &step);
	}
	CloseReader(&r);
}

/*
 * One step of a task that became pending.  Of a new task only the roots can
 * be ready; one that comes back is looked at as a whole.  True for a step from
 * which something may follow.
 */
static bool
FollowStepOfStarted(Orchestrator *o, const TaskRow *task, const StepRow *step)
{
	bool		is_new = task->sort_key <= FIRST_SORT_KEY;

	if (step->state == STATE_PENDING && (step->is_root || !is_new))
		AddWork(o, WORK_CANDIDATES, step->step_id);
	else if (step->state == STATE_ERROR && !is_new)
		AddWork(o, WORK_FAILED, step->step_id);
	else if (step->state == STATE_CANCELLED && !is_new)
		AddWork(o, WORK_CANCELLED, step->step_id);
	else
		return false;
	return is_new;
}

/* A task that became pending: it starts, and its roots may be ready. */
void
FollowStarted(Batch *batch)
{
	Orchestrator *o = batch->o;
	int			n;
	int64	   *task_ids = TakeWork(batch, WORK_STARTED, &n);
	Reader		r;

	if (n == 0)
		return;
	r = OpenReader();
	for (int i = 0; i < n; i++)
	{
		Datum		key = Int64GetDatum(task_ids[i]);
		TaskRow		task;
		TupleTableSlot *row;
		bool		has_root = false;

		if (!FindTaskRow(r.tasks, r.task_by_id, task_ids[i], &task) ||
			(task.state != STATE_PENDING && task.state != STATE_IN_PROGRESS))
			continue;
		if (task.state == STATE_PENDING)
			AddId(CurrentMemoryContext, &batch->start, task.task_id);
		LookFor(r.steps_of_task, 1, &key);
		while ((row = NextRow(r.steps_of_task)) != NULL)
		{
			StepRow		step = ReadStepRow(r.steps, row);

			has_root |= FollowStepOfStarted(o, &task, &step);
		}
		PassTurn(o, task.named_task_id, task.task_id);
		if (!has_root)
			AddWork(o, WORK_FINALS, task.task_id);
	}
	CloseReader(&r);
}

/* What follows from one failed step: it waits for its retry, runs again now, is skipped, or stops its task. */
static void
FollowFailedStep(Batch *batch, const TaskRow *task, const StepRow *step)
{
	Orchestrator *o = batch->o;

	/* One that is promoted at once takes part in the next look for a turn. */
	if (step->has_retry && step->next_retry_at <= batch->now)
	{
		AddId(CurrentMemoryContext, &batch->promote, step->step_id);
		return;
	}
	PassTurn(o, task->named_task_id, task->task_id);
	if (step->has_retry)
		batch->timers[batch->n_timers++] = (Timer)
	{
		.due_at = step->next_retry_at,.step_id = step->step_id,.sort_key = step->sort_key
	};
	else if (step->skippable)
		AddId(CurrentMemoryContext, &batch->skip, step->step_id);
	else
	{
		(void) WaitsForAnother(o->watched_tasks, task->task_id, step->step_id);
		if (hash_search(o->watched_tasks, &task->task_id, HASH_FIND, NULL) == NULL)
			AddWork(o, WORK_FINALS, task->task_id);
	}
}

void
FollowFailed(Batch *batch)
{
	int			n;
	int64	   *step_ids = TakeWork(batch, WORK_FAILED, &n);
	StepRow		step;
	Reader		r;

	if (n == 0)
		return;
	batch->timers = palloc(sizeof(Timer) * n);
	r = OpenReader();
	for (int i = 0; i < n; i++)
	{
		if (!FindStepRow(r.steps, r.step_by_id, step_ids[i], &step) || step.state != STATE_ERROR || !ReadTaskOf(&r, &step))
			continue;
		LeaveWait(batch, r.task.named_task_id, step.step_id);
		if (r.task.state == STATE_PENDING || r.task.state == STATE_IN_PROGRESS)
			FollowFailedStep(batch, &r.task, &step);
	}
	CloseReader(&r);
}

/* What follows from one cancelled step: those that depend on it can never run. */
static void
FollowCancelledStep(Batch *batch, Reader *r, const StepRow *step)
{
	Orchestrator *o = batch->o;
	const StepTemplate *step_template = TemplateOf(r, step);
	StepRow		child;

	(void) hash_search(o->watched_tasks, &step->task_id, HASH_REMOVE, NULL);
	AddWork(o, WORK_FINALS, step->task_id);
	PassTurn(o, r->task.named_task_id, step->task_id);
	for (int c = 0; c < step_template->n_children; c++)
	{
		if (FindStepOfTask(r->steps, r->by_named_step, step->task_id, step_template->children[c], &child) &&
			child.state == STATE_PENDING)
			AddId(CurrentMemoryContext, &batch->cascade, child.step_id);
	}
}

void
FollowCancelled(Batch *batch)
{
	int			n;
	int64	   *step_ids = TakeWork(batch, WORK_CANCELLED, &n);
	StepRow		step;
	Reader		r;

	if (n == 0)
		return;
	r = OpenReader();
	for (int i = 0; i < n; i++)
	{
		if (FindStepRow(r.steps, r.step_by_id, step_ids[i], &step) && step.state == STATE_CANCELLED &&
			ReadTaskOf(&r, &step) && r.task.state != STATE_CANCELLED)
			FollowCancelledStep(batch, &r, &step);
		AddId(CurrentMemoryContext, &batch->dequeue, step_ids[i]);
		if (AnyWaits())
			AddId(CurrentMemoryContext, &batch->left_waits, step_ids[i]);
	}
	CloseReader(&r);
}

/* The last parent that is not finished: in a wide fan-in the last one to finish. */
static bool
FindOpenParent(Reader *r, const StepRow *step, StepRow *parent)
{
	const StepTemplate *step_template = TemplateOf(r, step);

	for (int p = 0; p < step_template->n_parents; p++)
	{
		if (FindStepOfTask(r->steps, r->by_named_step, step->task_id, step_template->parents[p], parent) &&
			!SatisfiesDependents(parent->state))
			return true;
	}
	return false;
}

static ReadyStep
ReadyStepOf(const StepRow *step)
{
	return (ReadyStep)
	{
		.step_id = step->step_id,.handler_id = step->handler_id,.rank = step->rank
	};
}

/* A step that may run: it is given to an executor, or begins to wait. */
static void
AddRunnable(Batch *batch, const Reader *r, const StepRow *step)
{
	if (!PolicyOf(r->task.named_task_id)->waits || !TemplateOf(r, step)->waits)
		AddReady(batch, ReadyStepOf(step));
	else if (!batch->look_only)
		AddId(CurrentMemoryContext, &batch->begin_waits, step->step_id);
}

/* One step that may be ready, and its task. */
static void
FollowCandidate(Batch *batch, Reader *r, const StepRow *step)
{
	Orchestrator *o = batch->o;
	const TaskRow *task = &r->task;
	const TaskPolicy *policy = PolicyOf(task->named_task_id);
	StepRow		parent;

	if (step->state == STATE_IN_PROGRESS)
		return;
	/* Settled before its parents were: nothing else may tell that the task is done. */
	if (step->state != STATE_PENDING)
		AddWork(o, WORK_FINALS, task->task_id);
	else if (!step->is_root && FindOpenParent(r, step, &parent))
	{
		bool		parent_moves = parent.state == STATE_IN_PROGRESS ||
			(parent.state == STATE_ERROR && parent.has_retry);

		SetWatch(o, &o->watched_children, step->step_id, parent.step_id);
		/*
		 * A parent that is not moving may never do: then the task is stuck.
		 * A step that waits again keeps no task going, so the watch on it, if
		 * there is one, ends in any case.
		 */
		if (!WaitsForAnother(o->watched_tasks, task->task_id, step->step_id) && !parent_moves)
			AddWork(o, WORK_FINALS, task->task_id);
	}
	else if (task->state == STATE_ERROR && AvoidsLockedRows(o) && !LockFreeTask(task->task_id))
	{
		/* It may take a while until the task can be revived. */
		AddWork(o, WORK_FINALS, task->task_id);
		Postpone(o, WORK_CANDIDATES, step->step_id, batch->now);
	}
	else if (task->state == STATE_PENDING || task->state == STATE_IN_PROGRESS || task->state == STATE_ERROR)
	{
		/* One that was given back may not begin anew at once. */
		if (policy->waits && TemplateOf(r, step)->waits)
			LeaveWait(batch, task->named_task_id, step->step_id);
		/* A task in error comes back to life before its step is given out, paused or not. */
		if (task->state == STATE_ERROR)
			AddWork(o, WORK_FINALS, task->task_id);
		if (!policy->concurrent)
			AddWork(o, WORK_TURNS, task->task_id);
		else if (!NamedTaskIsPaused(task->named_task_id) && (policy->dispatched || batch->look_only))
			AddRunnable(batch, r, step);
	}
}

/* Steps that may be ready: those whose parents are all finished are. */
void
FollowCandidates(Batch *batch)
{
	int			n;
	int64	   *step_ids = TakeWork(batch, WORK_CANDIDATES, &n);
	StepRow		step;
	Reader		r;

	if (n == 0)
		return;
	r = OpenReader();
	for (int i = 0; i < n; i++)
	{
		if (FindStepRow(r.steps, r.step_by_id, step_ids[i], &step) && ReadTaskOf(&r, &step))
			FollowCandidate(batch, &r, &step);
	}
	CloseReader(&r);
}

/* ---------- one step at a time ---------- */

/* Whether a step could run if it had the turn. */
static bool
CouldRun(const Batch *batch, Reader *r, const StepRow *step)
{
	StepRow		parent;

	if (step->state != STATE_PENDING &&
		!(batch->look_only && step->state == STATE_ERROR && step->has_retry && step->next_retry_at <= batch->now))
		return false;
	return step->is_root || !FindOpenParent(r, step, &parent);
}

/*
 * The step that has the turn: false where one is in progress, or none could
 * run.  Who waits in the queue has it already (*given).  All is read under one
 * snapshot, and a claim takes its step out of the queue in the transaction
 * that moves it: so a step is always seen in one of the two places, and at
 * most one step of the task is ever there.
 */
static bool
FindTurn(const Batch *batch, Reader *r, int64 task_id, ReadyStep *turn, bool *given)
{
	Datum		key = Int64GetDatum(task_id);
	TupleTableSlot *row;
	bool		found = false;

	*given = false;
	LookFor(r->steps_of_task, 1, &key);
	while ((row = NextRow(r->steps_of_task)) != NULL)
	{
		StepRow		step = ReadStepRow(r->steps, row);
		ReadyStep	ready = ReadyStepOf(&step);

		if (step.state == STATE_IN_PROGRESS)
			return false;
		if (*given || !CouldRun(batch, r, &step))
			continue;
		*given = IsWaiting(&ready);
		if (!found || *given || CompareReadySteps(&ready, turn) < 0)
			*turn = ready;
		found = true;
	}
	return found;
}

void
FollowTurns(Batch *batch)
{
	int			n;
	int64	   *task_ids = TakeWork(batch, WORK_TURNS, &n);
	Reader		r;

	if (n == 0)
		return;
	r = OpenReader();
	for (int i = 0; i < n; i++)
	{
		const TaskPolicy *policy;
		ReadyStep	turn;
		StepRow		step;
		bool		given;

		if (!FindTaskRow(r.tasks, r.task_by_id, task_ids[i], &r.task) ||
			(EndsTask(r.task.state) && r.task.state != STATE_ERROR) ||
			NamedTaskIsPaused(r.task.named_task_id))
			continue;
		policy = PolicyOf(r.task.named_task_id);
		if (policy->concurrent || !(policy->dispatched || batch->look_only))
			continue;
		if (!FindTurn(batch, &r, task_ids[i], &turn, &given) || (given && !batch->look_only))
			continue;
		if (!policy->waits)
			AddReady(batch, turn);
		else if (FindStepRow(r.steps, r.step_by_id, turn.step_id, &step))
			AddRunnable(batch, &r, &step);
	}
	CloseReader(&r);
}
