-- Events brought to the steps that wait for them.

CREATE FUNCTION tasker.deliver_event_page(names text[], event_keys text[], occurred_at timestamptz[], task_ids bigint[], payloads jsonb[]) RETURNS bigint
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_deliver_event_page';
COMMENT ON FUNCTION tasker.deliver_event_page(text[], text[], timestamptz[], bigint[], jsonb[]) IS
'Gives each waiting step the first of these events, in their order, that it waits for, and returns how many steps have got one; the next batch of the orchestrator completes them. An event that comes twice does no harm. Waits for a batch that is running. For deliver_events(). Error: 2202E the arrays are not of one length.';

CREATE FUNCTION tasker.awaited_patterns() RETURNS text[]
LANGUAGE sql STABLE
BEGIN ATOMIC
	-- A consumer has no more than a hundred patterns.
	SELECT CASE WHEN count(*) > 100 THEN '{*}' ELSE coalesce(array_agg(a.name ORDER BY a.name), '{}') END
	FROM (SELECT DISTINCT ts.waits_for -> 'await_event' ->> 'name' AS name FROM tasker.named_tasks_named_steps ts
		WHERE ts.waits_for IS NOT NULL AND ts.waits_for ? 'await_event') a;
END;
COMMENT ON FUNCTION tasker.awaited_patterns() IS 'Which events templates wait for, as patterns of a consumer; empty where none does. For deliver_events().';

CREATE FUNCTION tasker.deliver_events(max integer DEFAULT 1000) RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	awaited text[] := tasker.awaited_patterns();
	page record;
	delivered bigint := 0;
BEGIN
	-- The lock of the orchestration before the row of the consumer; refuses where nothing can be written.
	PERFORM tasker.deliver_event_page('{}', '{}', '{}', '{}', '{}');
	IF awaited = '{}' OR NOT EXISTS (SELECT FROM tasker.orchestrator_checkpoint c JOIN tasker.home h ON h.identifier = c.system_identifier) THEN
		RETURN 0;
	END IF;
	IF NOT EXISTS (SELECT FROM tasker.event_consumers c WHERE c.name = 'tasker.waits' AND c.patterns = awaited) THEN
		-- Templates that wait have made it; whoever drops it has all that happened delivered again.
		PERFORM tasker.create_event_consumer('tasker.waits', awaited, true);
	END IF;
	LOOP
		SELECT array_agg(e.name ORDER BY e.place) AS names, array_agg(e.event_key ORDER BY e.place) AS keys,
			array_agg(e.occurred_at ORDER BY e.place) AS times, array_agg(e.task_id ORDER BY e.place) AS tasks,
			array_agg(e.payload ORDER BY e.place) AS payloads, count(*) AS n
		INTO page
		FROM tasker.read_events('tasker.waits', max) WITH ORDINALITY
			e (event_key, name, category, task_id, step_id, occurred_at, payload, place);
		EXIT WHEN page.n = 0;
		delivered := delivered + tasker.deliver_event_page(page.names, page.keys, page.times, page.tasks, page.payloads);
	END LOOP;
	RETURN delivered;
END
$$;
COMMENT ON FUNCTION tasker.deliver_events(integer) IS
'Reads what has happened since it was called last, max events at a time, and gives it to the steps that wait for it; returns how many steps have got an event. The next batch of the orchestrator, of the worker or orchestrate(), completes them. Reads as the consumer tasker.waits of the events that templates wait for. The background worker does the same by itself after each batch. Nothing is delivered in a database that comes from another server and is not adopted. Error: 22023 max is not between 1 and 10000.';
