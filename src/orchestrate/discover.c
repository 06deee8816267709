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

#include "catalog/pg_type.h"
#include "execute/pause.h"
#include "orchestrate/discover.h"
#include "pg/query.h"
#include "rules/state.h"

static KeptQuery READ_CHILDREN = {
	.sql =
	"SELECT s.workflow_step_id, s.task_id, e.to_step_id"
	"  FROM (SELECT unnest($1) AS u LIMIT cardinality($1)) batch"
	"  JOIN tasker.workflow_steps s ON s.workflow_step_id = u"
	"  LEFT JOIN tasker.workflow_step_edges e ON e.from_step_id = s.workflow_step_id AND NOT s.is_leaf",
	.nargs = 1,.types = {INT8ARRAYOID}
};

/* The newest open parent: in a wide fan-in the last one to finish. */
static KeptQuery READ_CANDIDATES = {
	.sql =
	"SELECT c.workflow_step_id, c.task_id, c.handler_id, c.rank::integer, t.state::text, t.named_task_id,"
	"       p.workflow_step_id, p.state = 'in_progress' OR (p.state = 'error' AND p.next_retry_at IS NOT NULL),"
	"       c.state::text"
	"  FROM (SELECT unnest($1) AS u LIMIT cardinality($1)) batch"
	"  JOIN tasker.workflow_steps c ON c.workflow_step_id = u"
	"  JOIN tasker.tasks t ON t.task_id = c.task_id"
	"  LEFT JOIN LATERAL ("
	"   SELECT s.workflow_step_id, s.state, s.next_retry_at"
	"     FROM tasker.workflow_step_edges e"
	"     JOIN tasker.workflow_steps s ON s.workflow_step_id = e.from_step_id"
	"    WHERE e.to_step_id = c.workflow_step_id AND s.state NOT IN ('complete', 'resolved_manually')"
	"    ORDER BY e.from_step_id DESC LIMIT 1) p ON true",
	.nargs = 1,.types = {INT8ARRAYOID}
};

static KeptQuery READ_ROOTS = {
	.sql =
	"SELECT t.task_id, s.workflow_step_id, t.state = 'pending'"
	"  FROM (SELECT unnest($1) AS u LIMIT cardinality($1)) batch"
	"  JOIN tasker.tasks t ON t.task_id = u AND t.state IN ('pending', 'in_progress')"
	"  LEFT JOIN tasker.workflow_steps s ON s.task_id = t.task_id AND s.is_root AND s.state = 'pending'"
	" ORDER BY t.task_id",
	.nargs = 1,.types = {INT8ARRAYOID}
};

static KeptQuery READ_FAILED = {
	.sql =
	"SELECT s.workflow_step_id, s.task_id, s.sort_key, s.next_retry_at, s.skippable, s.handler_id,"
	"       s.rank::integer, t.named_task_id"
	"  FROM (SELECT unnest($1) AS u LIMIT cardinality($1)) batch"
	"  JOIN tasker.workflow_steps s ON s.workflow_step_id = u AND s.state = 'error'"
	"  JOIN tasker.tasks t ON t.task_id = s.task_id AND t.state IN ('pending', 'in_progress')",
	.nargs = 1,.types = {INT8ARRAYOID}
};

static KeptQuery READ_CANCELLED = {
	.sql =
	"SELECT s.task_id, c.workflow_step_id"
	"  FROM (SELECT unnest($1) AS u LIMIT cardinality($1)) batch"
	"  JOIN tasker.workflow_steps s ON s.workflow_step_id = u AND s.state = 'cancelled'"
	"  JOIN tasker.tasks t ON t.task_id = s.task_id AND t.state <> 'cancelled'"
	"  LEFT JOIN (tasker.workflow_step_edges e"
	"             JOIN tasker.workflow_steps c ON c.workflow_step_id = e.to_step_id)"
	"    ON e.from_step_id = s.workflow_step_id AND c.state = 'pending'",
	.nargs = 1,.types = {INT8ARRAYOID}
};

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

/* A finished step: its children may be ready, its task may be done. */
void
FollowClosed(Batch *batch)
{
	Orchestrator *o = batch->o;
	int			n;
	int64	   *step_ids = TakeWork(batch, WORK_CLOSED, &n);
	Datum		arg;
	uint64		rows;

	if (n == 0)
		return;
	arg = Int64Array(step_ids, n);
	rows = RunQuery(&READ_CHILDREN, &arg, NULL);
	for (uint64 row = 0; row < rows; row++)
	{
		int64		step_id = RowInt64(row, 1);
		int64		task_id = RowInt64(row, 2);
		bool		leaf;
		Datum		child = RowDatum(row, 3, &leaf);
		Watch	   *watch = hash_search(o->watched_tasks, &task_id, HASH_FIND, NULL);

		/* A watched step keeps its task going; now it does not any more. */
		if (watch != NULL ? watch->waits_for == step_id : leaf)
		{
			(void) WaitsForAnother(o->watched_tasks, task_id, step_id);
			AddWork(o, WORK_FINALS, task_id);
		}
		if (!leaf && !WaitsForAnother(o->watched_children, DatumGetInt64(child), step_id))
			AddWork(o, WORK_CANDIDATES, DatumGetInt64(child));
	}
}

/* A task that became pending: it starts, and its roots may be ready. */
void
FollowStarted(Batch *batch)
{
	Orchestrator *o = batch->o;
	int			n;
	int64	   *task_ids = TakeWork(batch, WORK_STARTED, &n);
	Datum		arg;
	uint64		rows;
	int64		last = 0;

	if (n == 0)
		return;
	arg = Int64Array(task_ids, n);
	rows = RunQuery(&READ_ROOTS, &arg, NULL);
	for (uint64 row = 0; row < rows; row++)
	{
		int64		task_id = RowInt64(row, 1);
		bool		no_root;
		Datum		root = RowDatum(row, 2, &no_root);

		if (task_id != last && RowBool(row, 3))
			AddId(CurrentMemoryContext, &batch->start, task_id);
		last = task_id;
		if (no_root)
			AddWork(o, WORK_FINALS, task_id);
		else
			AddWork(o, WORK_CANDIDATES, DatumGetInt64(root));
	}
}

/* A failed step: it waits for its retry, runs again now, is skipped, or stops its task. */
void
FollowFailed(Batch *batch)
{
	Orchestrator *o = batch->o;
	int			n;
	int64	   *step_ids = TakeWork(batch, WORK_FAILED, &n);
	Datum		arg;
	uint64		rows;

	if (n == 0)
		return;
	arg = Int64Array(step_ids, n);
	rows = RunQuery(&READ_FAILED, &arg, NULL);
	batch->timers = palloc(sizeof(Timer) * Max(rows, 1));
	for (uint64 row = 0; row < rows; row++)
	{
		int64		step_id = RowInt64(row, 1);
		int64		task_id = RowInt64(row, 2);
		bool		no_retry;
		Datum		retry_at = RowDatum(row, 4, &no_retry);

		if (!no_retry && DatumGetTimestampTz(retry_at) <= batch->now)
			AddId(CurrentMemoryContext, &batch->promote, step_id);
		else if (!no_retry)
			batch->timers[batch->n_timers++] = (Timer)
		{
			.due_at = DatumGetTimestampTz(retry_at),.step_id = step_id,.sort_key = RowInt32(row, 3)
		};
		else if (RowBool(row, 5))
			AddId(CurrentMemoryContext, &batch->skip, step_id);
		else
		{
			(void) WaitsForAnother(o->watched_tasks, task_id, step_id);
			if (hash_search(o->watched_tasks, &task_id, HASH_FIND, NULL) == NULL)
				AddWork(o, WORK_FINALS, task_id);
		}
	}
}

/* A cancelled step: what depends on it can never run. */
void
FollowCancelled(Batch *batch)
{
	Orchestrator *o = batch->o;
	int			n;
	int64	   *step_ids = TakeWork(batch, WORK_CANCELLED, &n);
	Datum		arg;
	uint64		rows;

	if (n == 0)
		return;
	arg = Int64Array(step_ids, n);
	rows = RunQuery(&READ_CANCELLED, &arg, NULL);
	for (uint64 row = 0; row < rows; row++)
	{
		int64		task_id = RowInt64(row, 1);
		bool		no_child;
		Datum		child = RowDatum(row, 2, &no_child);

		(void) hash_search(o->watched_tasks, &task_id, HASH_REMOVE, NULL);
		AddWork(o, WORK_FINALS, task_id);
		if (!no_child)
			AddId(CurrentMemoryContext, &batch->cascade, DatumGetInt64(child));
	}
	for (int i = 0; i < n; i++)
		AddId(CurrentMemoryContext, &batch->dequeue, step_ids[i]);
}

/* Steps that may be ready: those whose parents are all finished are. */
void
FollowCandidates(Batch *batch)
{
	Orchestrator *o = batch->o;
	int			n;
	int64	   *step_ids = TakeWork(batch, WORK_CANDIDATES, &n);
	Datum		arg;
	uint64		rows;

	if (n == 0)
		return;
	arg = Int64Array(step_ids, n);
	rows = RunQuery(&READ_CANDIDATES, &arg, NULL);
	for (uint64 row = 0; row < rows; row++)
	{
		int64		step_id = RowInt64(row, 1);
		int64		task_id = RowInt64(row, 2);
		TaskerState task_state = StateOfLabel(RowText(row, 5));
		TaskerState state = StateOfLabel(RowText(row, 9));
		bool		satisfied;
		Datum		open_parent = RowDatum(row, 7, &satisfied);

		if (state == STATE_IN_PROGRESS)
			continue;
		/* Settled before its parents were: nothing else may tell that the task is done. */
		if (state != STATE_PENDING)
			AddWork(o, WORK_FINALS, task_id);
		else if (!satisfied)
		{
			SetWatch(o, &o->watched_children, step_id, DatumGetInt64(open_parent));
			/*
			 * A parent that is not moving may never do: then the task is
			 * stuck.  A step that waits again keeps no task going, so the
			 * watch on it, if there is one, ends in any case.
			 */
			if (!WaitsForAnother(o->watched_tasks, task_id, step_id) && !RowBool(row, 8))
				AddWork(o, WORK_FINALS, task_id);
		}
		else if (task_state == STATE_ERROR && o->avoid_locked_rows)
		{
			/* It may take a while until the task can be revived. */
			AddWork(o, WORK_FINALS, task_id);
			Postpone(o, WORK_CANDIDATES, step_id, batch->now);
		}
		else if (task_state == STATE_PENDING || task_state == STATE_IN_PROGRESS ||
				 task_state == STATE_ERROR)
		{
			/* A task in error comes back to life before its step is given out, paused or not. */
			if (task_state == STATE_ERROR)
				AddWork(o, WORK_FINALS, task_id);
			if (!NamedTaskIsPaused(RowInt32(row, 6)))
				AddReady(batch, (ReadyStep)
						 {
							 .step_id = step_id,.handler_id = RowInt32(row, 3),.rank = (int16) RowInt32(row, 4)
						 });
		}
	}
}
