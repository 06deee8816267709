/*
 * intake.c
 *		What came in: new rows of the logs, timers that are due, or, where the
 *		log is not to be relied on, the rows of tasks and steps themselves.
 *
 * Reading the log exactly once.  A position is a pg_snapshot.  New are the
 * rows of transactions that were running at the position or started since;
 * the next position is the snapshot of that same read.  Both logs are read in
 * one statement, since two statements have two snapshots.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "orchestrate/intake.h"
#include "orchestrate/roster.h"
#include "pg/position.h"
#include "pg/query.h"
#include "rules/state.h"
#include "run/transition.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

/* ---------- the logs ---------- */

static KeptQuery READ_LOG = {
	.sql =
	"SELECT 'p' AS kind, 0::bigint AS owner_id, 0 AS sort_key, NULL AS to_state,"
	"       coalesce(c.generation, 0) AS executor_id,"
	"       pg_current_snapshot()::text AS position,"
	"       c.paused_at IS NOT NULL AS paused, coalesce(c.system_identifier = $2, false) AS owned"
	"  FROM (SELECT) one LEFT JOIN tasker.orchestrator_checkpoint c ON true"
	" UNION ALL "
	"SELECT 't', task_id, sort_key, to_state::text, NULL, NULL, NULL, NULL FROM tasker.task_transition_log"
	" WHERE xact_id >= pg_snapshot_xmax($1::pg_snapshot) AND to_state = 'pending'"
	" UNION ALL "
	"SELECT 't', task_id, sort_key, to_state::text, NULL, NULL, NULL, NULL FROM tasker.task_transition_log"
	" WHERE xact_id = ANY (ARRAY(SELECT pg_snapshot_xip($1::pg_snapshot))) AND to_state = 'pending'"
	" UNION ALL "
	"SELECT 's', workflow_step_id, sort_key, to_state::text, executor_id, NULL, NULL, NULL FROM tasker.workflow_step_transition_log"
	" WHERE xact_id >= pg_snapshot_xmax($1::pg_snapshot)"
	" UNION ALL "
	"SELECT 's', workflow_step_id, sort_key, to_state::text, executor_id, NULL, NULL, NULL FROM tasker.workflow_step_transition_log"
	" WHERE xact_id = ANY (ARRAY(SELECT pg_snapshot_xip($1::pg_snapshot)))"
	" ORDER BY kind, owner_id, sort_key",
	.nargs = 2,.types = {TEXTOID, INT8OID}
};

static void
ApplyStepRow(Orchestrator *o, int64 step_id, TaskerState to_state, bool has_executor, int64 executor_id)
{
	if (to_state != STATE_IN_PROGRESS)
		NoteLanding(o, step_id);
	switch (to_state)
	{
		case STATE_IN_PROGRESS:
			if (has_executor)
				NoteFlight(o, step_id, executor_id);
			break;
		case STATE_COMPLETE:
		case STATE_RESOLVED_MANUALLY:
			AddWork(o, WORK_CLOSED, step_id);
			break;
		case STATE_ERROR:
			AddWork(o, WORK_FAILED, step_id);
			break;
		case STATE_CANCELLED:
			AddWork(o, WORK_CANCELLED, step_id);
			break;
		default:
			AddWork(o, WORK_CANDIDATES, step_id);
			break;
	}
}

/*
 * Reads what is new in both logs and turns it into work.  Starts again from
 * the checkpoint if somebody else has moved it.
 */
bool
ReadLog(Batch *batch)
{
	Orchestrator *o = batch->o;
	Datum		args[2];
	uint64		rows;
	char	   *position = NULL;

	if (o->position == NULL)
		ReadCheckpoint(o);
	args[1] = Int64GetDatum((int64) GetSystemIdentifier());
	for (;;)
	{
		args[0] = CStringGetTextDatum(o->position);
		rows = RunQuery(&READ_LOG, args, NULL);
		if (rows > 0 && RowText(0, 1)[0] == 'p' && RowInt64(0, 5) == o->generation)
			break;
		ReadCheckpoint(o);
	}
	if (!RowBool(0, 8))
		return false;
	for (uint64 row = 0; row < rows; row++)
	{
		bool		no_executor;
		Datum		executor = RowDatum(row, 5, &no_executor);
		char		kind = RowText(row, 1)[0];

		if (kind == 'p')
		{
			position = PositionOfSnapshot(o->context, RowText(row, 6));
			o->paused = RowBool(row, 7);
		}
		else if (kind == 't')
			AddWork(o, WORK_STARTED, RowInt64(row, 2));
		else
			ApplyStepRow(o, RowInt64(row, 2), StateOfLabel(RowText(row, 4)), !no_executor,
						 no_executor ? 0 : DatumGetInt64(executor));
	}
	pfree(o->position);
	o->position = position;
	batch->report.log_rows += rows - 1;
	o->dirty |= rows > 1;
	return true;
}

/* ---------- rows instead of the logs ---------- */

static KeptQuery READ_OPEN_TASKS = {
	.sql =
	"SELECT t.task_id, t.state = 'pending', s.workflow_step_id, s.state::text"
	"  FROM tasker.tasks t JOIN tasker.workflow_steps s ON s.task_id = t.task_id"
	" WHERE t.state IN ('pending', 'in_progress')"
	"   AND s.state IN ('pending', 'error', 'cancelled', 'complete', 'resolved_manually')"
	" ORDER BY t.task_id",
	.nargs = 0
};

static KeptQuery READ_TASK = {
	.sql =
	"SELECT t.task_id, t.state = 'pending', s.workflow_step_id, s.state::text"
	"  FROM tasker.tasks t JOIN tasker.workflow_steps s ON s.task_id = t.task_id"
	" WHERE t.task_id = $1",
	.nargs = 1,.types = {INT8OID}
};

/* Everything that could follow from the rows of the last query. */
static void
AddWorkOfRows(Orchestrator *o, uint64 rows)
{
	int64		task_id = 0;

	for (uint64 row = 0; row < rows; row++)
	{
		TaskerState state = StateOfLabel(RowText(row, 4));

		if (RowInt64(row, 1) != task_id)
		{
			task_id = RowInt64(row, 1);
			if (RowBool(row, 2))
				AddWork(o, WORK_STARTED, task_id);
			AddWork(o, WORK_FINALS, task_id);
		}
		if (state == STATE_PENDING)
			AddWork(o, WORK_CANDIDATES, RowInt64(row, 3));
		else if (state == STATE_ERROR)
			AddWork(o, WORK_FAILED, RowInt64(row, 3));
		else if (state == STATE_CANCELLED)
			AddWork(o, WORK_CANCELLED, RowInt64(row, 3));
	}
}

void
LookAtTask(Orchestrator *o, int64 task_id)
{
	Datum		arg = Int64GetDatum(task_id);
	uint64		rows;

	rows = RunQuery(&READ_TASK, &arg, NULL);
	if (rows == 0)
		RefuseUnknown("task", task_id);
	AddWorkOfRows(o, rows);
}

void
LookAtOpenTasks(Orchestrator *o)
{
	AddWorkOfRows(o, RunPlainQuery(&READ_OPEN_TASKS));
}

/* ---------- timers ---------- */

static KeptQuery READ_TIMED_STEPS = {
	.sql =
	"SELECT s.workflow_step_id, s.sort_key, s.state::text, coalesce(s.timeout_seconds, 0)"
	"  FROM ROWS FROM (unnest($1), unnest($2)) u(step_id, sort_key)"
	"  JOIN tasker.workflow_steps s ON s.workflow_step_id = u.step_id AND s.sort_key = u.sort_key",
	.nargs = 2,.types = {INT8ARRAYOID, INT4ARRAYOID}
};

void
TakeTimers(Batch *batch)
{
	Orchestrator *o = batch->o;
	int			n;
	Timer	   *timers = TakeDueTimers(o->timers_taken_until, batch->now, batch->batch_size, &n);
	int64	   *step_ids;
	int32	   *sort_keys;
	Datum		args[2];
	uint64		rows;

	if (n < batch->batch_size)
		o->timers_taken_until = batch->now;
	else
		batch->report.more = true;
	if (n == 0)
		return;
	step_ids = palloc(sizeof(int64) * n);
	sort_keys = palloc(sizeof(int32) * n);
	for (int i = 0; i < n; i++)
	{
		step_ids[i] = timers[i].step_id;
		sort_keys[i] = timers[i].sort_key;
	}
	args[0] = Int64Array(step_ids, n);
	args[1] = Int32Array(sort_keys, n);
	rows = RunQuery(&READ_TIMED_STEPS, args, NULL);
	for (uint64 row = 0; row < rows; row++)
	{
		TaskerState state = StateOfLabel(RowText(row, 3));

		if (state == STATE_ERROR)
			AddWork(o, WORK_FAILED, RowInt64(row, 1));
		else if (state == STATE_IN_PROGRESS)
			AddFailure(batch, RowInt64(row, 1), RowInt32(row, 2),
					   psprintf("the attempt took longer than %d seconds", RowInt32(row, 4)),
					   "timeout", RETRY_BY_BACKOFF);
	}
}
