/*
 * step_wait.c
 *		The rows of steps that wait.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "pg/query.h"
#include "run/step_wait.h"
#include "utils/jsonb.h"

/*
 * Events count since the task was created, as its log has it, and if the
 * template's owner is confined, only those of tasks in its namespaces.
 */
static KeptQuery PREPARE_WAITS = {
	.sql =
	"WITH step AS MATERIALIZED ("
	" SELECT s.workflow_step_id, s.sort_key, ts.waits_for, r.*,"
	"        CASE WHEN r.event_name ~ '^(task|step)\\.' THEN '-infinity'"
	"             WHEN r.event_name IS NOT NULL THEN coalesce("
	"               (SELECT l.created_at FROM tasker.task_transition_log l WHERE l.task_id = t.task_id AND l.sort_key = 10),"
	"               t.requested_at) END AS events_since,"
	"        CASE WHEN r.event_name IS NULL THEN NULL"
	"             WHEN EXISTS (SELECT 1 FROM pg_roles o WHERE o.rolname = nt.owner) THEN tasker.namespaces_of_role(nt.owner, 'admin')"
	"             WHEN EXISTS (SELECT 1 FROM tasker.capability_grants g WHERE g.role_name = nt.owner) THEN '{}' END AS namespaces"
	"   FROM (SELECT unnest($1) AS u LIMIT cardinality($1)) batch"
	"   CROSS JOIN LATERAL (SELECT * FROM tasker.workflow_steps s WHERE s.workflow_step_id = u LIMIT 1) s"
	"   CROSS JOIN LATERAL (SELECT * FROM tasker.tasks t WHERE t.task_id = s.task_id LIMIT 1) t"
	"   CROSS JOIN LATERAL (SELECT * FROM tasker.named_tasks nt WHERE nt.named_task_id = t.named_task_id LIMIT 1) nt"
	"   CROSS JOIN LATERAL (SELECT * FROM tasker.named_tasks_named_steps ts"
	"                        WHERE ts.named_task_id = t.named_task_id AND ts.named_step_id = s.named_step_id LIMIT 1) ts"
	"   CROSS JOIN LATERAL tasker.resolve_wait(ts.waits_for, t.context || coalesce(s.inputs, '{}'), t.task_id, $2) r"
	"  WHERE s.state = 'pending' AND ts.waits_for IS NOT NULL"
	"), plan AS MATERIALIZED ("
	" SELECT step.*,"
	"        CASE WHEN step.problem IS NOT NULL THEN NULL"
	"             WHEN step.event_name IS NOT NULL THEN"
	"               tasker.first_event(step.event_name, step.match, step.of_task, step.events_since, step.namespaces)"
	"             WHEN step.until <= $2 THEN jsonb_build_object('slept_until', step.until) END AS results"
	"   FROM step"
	"), written AS ("
	" INSERT INTO tasker.step_waits"
	"        (workflow_step_id, sort_key, since, until, event_name, match, of_task, events_since, namespaces)"
	" SELECT p.workflow_step_id, p.sort_key + 10, $2, p.until, p.event_name, p.match, p.of_task, p.events_since, p.namespaces"
	"   FROM plan p WHERE p.problem IS NULL AND p.results IS NULL"
	" ON CONFLICT (workflow_step_id) DO UPDATE"
	"    SET sort_key = excluded.sort_key, since = excluded.since, until = excluded.until,"
	"        event_name = excluded.event_name, match = excluded.match, of_task = excluded.of_task,"
	"        events_since = excluded.events_since, namespaces = excluded.namespaces, event = NULL"
	")"
	"SELECT p.workflow_step_id, p.sort_key, p.problem, p.results, p.until,"
	"       p.waits_for || jsonb_strip_nulls(jsonb_build_object('until', p.until, 'match', p.match))"
	"  FROM plan p ORDER BY p.workflow_step_id",
	.nargs = 2,.types = {INT8ARRAYOID, TIMESTAMPTZOID}
};

/*
 * Who has waited long enough looks once more: an event may have come in time
 * and not be delivered yet, say because the server was down.
 */
static KeptQuery FIND_ENDED_WAITS = {
	.sql =
	"SELECT w.workflow_step_id, w.sort_key,"
	"       CASE WHEN came.event IS NULL AND w.event_name IS NOT NULL AND ts.waits_for -> 'await_event' -> 'default' IS NULL"
	"            THEN format('no event \"%s\" came within %s seconds', w.event_name, ts.waits_for -> 'await_event' -> 'timeout_seconds') END,"
	"       CASE WHEN came.event IS NOT NULL THEN came.event"
	"            WHEN w.event_name IS NULL THEN jsonb_build_object('slept_until', w.until)"
	"            ELSE ts.waits_for -> 'await_event' -> 'default' END"
	"  FROM (SELECT unnest($1) AS u LIMIT cardinality($1)) batch"
	"  CROSS JOIN LATERAL (SELECT * FROM tasker.step_waits w WHERE w.workflow_step_id = u LIMIT 1) w"
	"  CROSS JOIN LATERAL (SELECT * FROM tasker.workflow_steps s WHERE s.workflow_step_id = u LIMIT 1) s"
	"  CROSS JOIN LATERAL (SELECT * FROM tasker.tasks t WHERE t.task_id = s.task_id LIMIT 1) t"
	"  CROSS JOIN LATERAL (SELECT * FROM tasker.named_tasks_named_steps ts"
	"                       WHERE ts.named_task_id = t.named_task_id AND ts.named_step_id = s.named_step_id LIMIT 1) ts"
	"  CROSS JOIN LATERAL (SELECT CASE WHEN w.event IS NOT NULL THEN w.event"
	"                                  WHEN w.event_name IS NOT NULL AND w.until <= $2 THEN"
	"                                    tasker.first_event(w.event_name, w.match, w.of_task, w.events_since, w.namespaces) END AS event"
	"                      OFFSET 0) came"
	" WHERE s.state = 'in_progress' AND s.sort_key = w.sort_key AND (w.event IS NOT NULL OR w.until <= $2)"
	" ORDER BY w.workflow_step_id",
	.nargs = 2,.types = {INT8ARRAYOID, TIMESTAMPTZOID}
};

static KeptQuery REMOVE_WAITS = {
	.sql = "DELETE FROM tasker.step_waits w WHERE w.workflow_step_id = ANY ($1)",
	.nargs = 1,.types = {INT8ARRAYOID}
};

#define REMOVE_LEFT \
	"DELETE FROM tasker.step_waits w" \
	" WHERE NOT EXISTS (SELECT 1 FROM tasker.workflow_steps s" \
	"                    WHERE s.workflow_step_id = w.workflow_step_id AND s.state = 'in_progress' AND s.sort_key = w.sort_key)"

static KeptQuery REMOVE_LEFT_WAITS = {
	.sql = REMOVE_LEFT " AND w.workflow_step_id = ANY ($1)",
	.nargs = 1,.types = {INT8ARRAYOID}
};

static KeptQuery REMOVE_ALL_LEFT_WAITS = {.sql = REMOVE_LEFT,.nargs = 0};

/* A jsonb of a row; 0 for NULL. */
static Datum
RowJsonb(uint64 row, int column)
{
	bool		none;
	Datum		value = RowDatum(row, column, &none);

	return none ? (Datum) 0 : JsonbPGetDatum(DatumGetJsonbPCopy(value));
}

NewWait *
PrepareWaits(const int64 *step_ids, int n, TimestampTz now, int *found)
{
	Datum		args[2] = {Int64Array(step_ids, n), TimestampTzGetDatum(now)};
	NewWait    *waits;

	*found = (int) RunQuery(&PREPARE_WAITS, args, NULL);
	waits = palloc(sizeof(NewWait) * Max(*found, 1));
	for (int i = 0; i < *found; i++)
	{
		bool		endless;
		Datum		until = RowDatum(i, 5, &endless);

		waits[i] = (NewWait)
		{
			.step_id = RowInt64(i, 1),.sort_key = RowInt32(i, 2),.problem = RowText(i, 3),
				.results = RowJsonb(i, 4),.has_end = !endless,
				.until = endless ? 0 : DatumGetTimestampTz(until),.metadata = RowJsonb(i, 6)
		};
	}
	return waits;
}

EndedWait *
FindEndedWaits(const int64 *step_ids, int n, TimestampTz now, int *found)
{
	Datum		args[2] = {Int64Array(step_ids, n), TimestampTzGetDatum(now)};
	EndedWait  *waits;

	*found = (int) RunQuery(&FIND_ENDED_WAITS, args, NULL);
	waits = palloc(sizeof(EndedWait) * Max(*found, 1));
	for (int i = 0; i < *found; i++)
		waits[i] = (EndedWait)
	{
		.step_id = RowInt64(i, 1),.claim = RowInt32(i, 2),.problem = RowText(i, 3),.results = RowJsonb(i, 4)
	};
	return waits;
}

void
RemoveWaits(const int64 *step_ids, int n)
{
	Datum		arg = Int64Array(step_ids, n);

	if (n > 0)
		(void) RunQuery(&REMOVE_WAITS, &arg, NULL);
}

void
RemoveLeftWaits(const int64 *step_ids, int n)
{
	Datum		arg = Int64Array(step_ids, n);

	if (n > 0)
		(void) RunQuery(&REMOVE_LEFT_WAITS, &arg, NULL);
}

void
RemoveAllLeftWaits(void)
{
	(void) RunPlainQuery(&REMOVE_ALL_LEFT_WAITS);
}
