/*
 * event_wait.c
 *		Events for the steps that wait for them.
 *
 * However many steps wait, each event is looked up by what it has: for each
 * way in which events of its name are awaited the values under these keys
 * make an object, and those who wait for an equal one are found by its hash.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "define/waiting_step.h"
#include "pg/clock.h"
#include "pg/query.h"
#include "pg/wakeup.h"
#include "run/event_wait.h"
#include "run/timer.h"
#include "utils/builtins.h"

/* The first of a page that a step waits for is the one: the order is that of the page. */
static KeptQuery DELIVER_EVENTS = {
	.sql =
	"WITH received AS MATERIALIZED ("
	" SELECT DISTINCT ON (w.workflow_step_id) w.workflow_step_id,"
	"        tasker.received_event(e.event_key, e.name, e.occurred_at, e.payload) AS event"
	"   FROM ROWS FROM (unnest($1), unnest($2), unnest($3), unnest($4), unnest($5)) WITH ORDINALITY"
	"        e(name, event_key, occurred_at, task_id, payload, place)"
	"  CROSS JOIN LATERAL (SELECT * FROM ROWS FROM (unnest($6), unnest($7), unnest($8)) a(name, keys, own_task)"
	"                       WHERE a.name = e.name) a"
	"  CROSS JOIN LATERAL (SELECT coalesce(jsonb_object_agg(k, e.payload -> k), '{}') AS match,"
	"                             CASE WHEN a.own_task THEN e.task_id END AS task_id"
	"                        FROM jsonb_array_elements_text(a.keys) k) has"
	"  CROSS JOIN LATERAL (SELECT * FROM tasker.step_waits w"
	"                       WHERE w.event_name = e.name"
	"                         AND jsonb_hash_extended(w.match, coalesce(w.of_task, 0)) = jsonb_hash_extended(has.match, coalesce(has.task_id, 0))"
	"                         AND w.match = has.match AND w.of_task IS NOT DISTINCT FROM has.task_id AND w.event IS NULL"
	"                         AND w.events_since <= e.occurred_at"
	"                         AND (w.namespaces IS NULL"
	"                              OR (SELECT t.task_namespace_id FROM tasker.tasks t WHERE t.task_id = e.task_id) = ANY (w.namespaces))"
	"                      OFFSET 0) w"
	"  ORDER BY w.workflow_step_id, e.place)"
	"UPDATE tasker.step_waits w SET event = r.event FROM received r WHERE w.workflow_step_id = r.workflow_step_id"
	" RETURNING w.workflow_step_id, w.sort_key",
	.nargs = 8,.types = {TEXTARRAYOID, TEXTARRAYOID, TIMESTAMPTZARRAYOID, INT8ARRAYOID, JSONBARRAYOID,
	TEXTARRAYOID, JSONBARRAYOID, BOOLARRAYOID}
};

ArrayBuildState *
AddAwaitedNames(ArrayBuildState *patterns)
{
	int			n;
	const AwaitedEvent *awaited = AwaitedEvents(&n);

	for (int i = 0; i < n; i++)
	{
		if (i == 0 || strcmp(awaited[i].name, awaited[i - 1].name) != 0)
			patterns = accumArrayResult(patterns, CStringGetTextDatum(awaited[i].name), false, TEXTOID, CurrentMemoryContext);
	}
	return patterns;
}

/* The steps that have got an event are looked at with the timers that are due. */
static void
WakeReceivers(int n)
{
	Timer	   *timers = palloc(sizeof(Timer) * n);
	TimestampTz now = TaskerNow();

	for (int i = 0; i < n; i++)
		timers[i] = (Timer)
	{
		.due_at = now,.step_id = RowInt64(i, 1),.sort_key = RowInt32(i, 2)
	};
	SetTimers(timers, n);
	WakeOrchestratorAtCommit(n);
}

/* Notes the events of a page with the steps that wait for them. */
static void
Deliver(const EventPage *page, const AwaitedEvent *awaited, int n)
{
	Datum	   *names = palloc(sizeof(Datum) * n);
	Datum	   *keys = palloc(sizeof(Datum) * n);
	Datum	   *own = palloc(sizeof(Datum) * n);
	Datum		args[8] = {page->names, page->event_keys, page->occurred_at, page->task_ids, page->payloads};
	int			received;

	for (int i = 0; i < n; i++)
	{
		names[i] = CStringGetTextDatum(awaited[i].name);
		keys[i] = awaited[i].keys;
		own[i] = BoolGetDatum(awaited[i].own_task);
	}
	args[5] = NullableArray(names, NULL, n, TEXTOID);
	args[6] = NullableArray(keys, NULL, n, JSONBOID);
	args[7] = NullableArray(own, NULL, n, BOOLOID);
	received = (int) RunQuery(&DELIVER_EVENTS, args, NULL);
	if (received > 0)
		WakeReceivers(received);
}

void
DeliverEvents(const EventPage *page, bool impatient)
{
	QueryScope	scope;
	const AwaitedEvent *awaited;
	int			n;

	OpenQueryScope(&scope);
	awaited = AwaitedEvents(&n);
	if (n > 0)
		Deliver(page, awaited, n);
	CloseQueryScope(&scope);
}
