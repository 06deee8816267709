-- Events for the steps that wait for them: those that came before the wait, and
-- those that come while it lasts.

CREATE FUNCTION tasker.has_all(payload jsonb, match jsonb) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
	SELECT NOT EXISTS (SELECT FROM jsonb_each(match) m WHERE payload -> m.key IS DISTINCT FROM m.value);
END;
COMMENT ON FUNCTION tasker.has_all(jsonb, jsonb) IS 'Whether a payload has equal values under all keys of the match.';

CREATE FUNCTION tasker.received_event(event_key text, name text, occurred_at timestamptz, payload jsonb) RETURNS jsonb
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
	SELECT jsonb_build_object('event_key', event_key, 'name', name, 'occurred_at', occurred_at, 'payload', payload);
END;
COMMENT ON FUNCTION tasker.received_event(text, text, timestamptz, jsonb) IS 'An event as the results of the step that has waited for it.';

-- Each kind of wait has its index, and the planner, held to plain index scans
-- elsewhere, may use the one that is no btree.
CREATE FUNCTION tasker.first_event(event_name text, match jsonb, of_task bigint, events_since timestamptz, namespaces integer[]) RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET enable_bitmapscan = on
SET enable_seqscan = off
SET jit = off
AS $$
#variable_conflict use_variable
DECLARE
	result jsonb;
BEGIN
	IF event_name ~ '^(task|step)\.' THEN
		SELECT tasker.received_event(v.event_key, v.name, v.occurred_at, v.payload) INTO result
		FROM tasker.events v
		WHERE v.task_id = (match ->> 'task_id')::bigint AND v.name = event_name AND v.category <> 'custom' AND tasker.has_all(v.payload, match)
			AND (namespaces IS NULL OR (SELECT t.task_namespace_id FROM tasker.tasks t WHERE t.task_id = v.task_id) = ANY (namespaces))
		ORDER BY v.occurred_at, v.owner_id, v.sort_key LIMIT 1;
	ELSIF of_task IS NOT NULL THEN
		SELECT tasker.received_event('event:' || e.event_id, e.name, e.created_at, tasker.custom_event_payload(e)) INTO result
		FROM tasker.published_events e
		WHERE e.task_id = of_task AND e.name = event_name AND e.created_at >= events_since AND tasker.has_all(e.payload, match)
		ORDER BY e.created_at, e.event_id LIMIT 1;
	ELSIF match = '{}' THEN
		SELECT tasker.received_event('event:' || e.event_id, e.name, e.created_at, tasker.custom_event_payload(e)) INTO result
		FROM tasker.published_events e
		WHERE e.awaited AND e.name = event_name AND e.created_at >= events_since
			AND (namespaces IS NULL OR (SELECT t.task_namespace_id FROM tasker.tasks t WHERE t.task_id = e.task_id) = ANY (namespaces))
		ORDER BY e.created_at, e.event_id LIMIT 1;
	ELSE
		WITH candidate AS MATERIALIZED (
			SELECT e.event_id, e.created_at, e.name, e.task_id, e.payload FROM tasker.published_events e
			WHERE e.awaited AND e.payload @> match
		)
		SELECT tasker.received_event('event:' || e.event_id, e.name, e.created_at, tasker.custom_event_payload(e)) INTO result
		FROM (
			SELECT c.event_id FROM candidate c
			WHERE c.name = event_name AND c.created_at >= events_since AND tasker.has_all(c.payload, match)
				AND (namespaces IS NULL OR (SELECT t.task_namespace_id FROM tasker.tasks t WHERE t.task_id = c.task_id) = ANY (namespaces))
			ORDER BY c.created_at, c.event_id LIMIT 1
		) first
		JOIN tasker.published_events e ON e.event_id = first.event_id;
	END IF;
	RETURN result;
END
$$;
COMMENT ON FUNCTION tasker.first_event(text, jsonb, bigint, timestamptz, integer[]) IS
'The oldest event that a step could have waited for, of those that are there already; NULL where there is none. Of system events all that the history of the task has count. For the orchestrator.';
