-- What happened, as events: the one builder of payloads, a function for each
-- kind of owner. All is read by key from the row of a log on; what a pruned
-- task had is null.

CREATE FUNCTION tasker.small_json(value jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
	SELECT CASE WHEN octet_length(value::text) <= 8000 THEN value END;
END;
COMMENT ON FUNCTION tasker.small_json(jsonb) IS 'The value where it is short enough for the payload of an event, else NULL.';

CREATE FUNCTION tasker.task_event_payload(happened tasker.task_transition_log) RETURNS jsonb
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	SELECT jsonb_build_object('event_type', tasker.transition_event('task', l.from_state, l.to_state),
			'event_key', 'task:' || l.task_id || ':' || l.sort_key, 'event_version', 1, 'timestamp', l.created_at,
			'task_id', l.task_id, 'step_id', NULL, 'namespace', ns.name, 'task_name', nt.name, 'task_version', nt.version, 'step_name', NULL,
			'attempt_number', NULL, 'started_at', run.started_at,
			'completed_at', run.ended_at, 'execution_duration', extract(epoch FROM run.ended_at - run.started_at),
			'error_message', l.metadata ->> 'error_message', 'exception_class', l.metadata ->> 'error_class',
			'from_state', l.from_state, 'to_state', l.to_state, 'executor_id', l.executor_id, 'role', l.role,
			'reason', coalesce(l.metadata ->> 'reason', l.metadata ->> 'triggered_by'))
		|| CASE
			WHEN l.to_state = 'pending' AND (l.from_state IS NULL OR l.from_state = 'in_progress') THEN
				jsonb_build_object('task_context', tasker.small_json(t.context), 'requested_at', t.requested_at)
			WHEN l.to_state NOT IN ('pending', 'in_progress') THEN
				(SELECT jsonb_build_object('total_steps', nullif(count(*), 0),
						'completed_steps', count(*) FILTER (WHERE s.state IN ('complete', 'resolved_manually')),
						'failed_steps', count(*) FILTER (WHERE s.state = 'error'))
					|| CASE WHEN l.to_state = 'error' THEN
						jsonb_build_object('error_steps', to_jsonb((array_agg(s.name ORDER BY s.workflow_step_id) FILTER (WHERE s.state = 'error'))[1:100]))
					ELSE '{}' END
				FROM (
					SELECT w.workflow_step_id, (SELECT n.name FROM tasker.named_steps n WHERE n.named_step_id = w.named_step_id) AS name,
						coalesce((SELECT k.to_state FROM tasker.workflow_step_transition_log k
							WHERE k.workflow_step_id = w.workflow_step_id AND k.created_at <= l.created_at
							ORDER BY k.sort_key DESC LIMIT 1), 'pending') AS state
					FROM tasker.workflow_steps w
					WHERE w.task_id = l.task_id
				) s)
			ELSE '{}'
		END
	FROM (SELECT (happened).*) l
	LEFT JOIN tasker.tasks t ON t.task_id = l.task_id
	LEFT JOIN tasker.named_tasks nt ON nt.named_task_id = t.named_task_id
	LEFT JOIN tasker.task_namespaces ns ON ns.task_namespace_id = nt.task_namespace_id
	CROSS JOIN LATERAL (
		SELECT max(k.created_at) AS started_at,
			CASE WHEN l.to_state NOT IN ('pending', 'in_progress') THEN l.created_at END AS ended_at
		FROM tasker.task_transition_log k
		WHERE k.task_id = l.task_id AND k.sort_key <= l.sort_key AND k.to_state = 'in_progress'
			-- A task that has gone back to pending has not started again yet.
			AND l.to_state <> 'pending'
	) run;
END;
COMMENT ON FUNCTION tasker.task_event_payload(tasker.task_transition_log) IS 'The payload of the event that a row of the task log is.';

CREATE FUNCTION tasker.step_event_payload(happened tasker.workflow_step_transition_log) RETURNS jsonb
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	SELECT jsonb_build_object('event_type', tasker.transition_event('step', l.from_state, l.to_state),
			'event_key', 'step:' || l.workflow_step_id || ':' || l.sort_key, 'event_version', 1, 'timestamp', l.created_at,
			'task_id', s.task_id, 'step_id', l.workflow_step_id, 'namespace', ns.name, 'task_name', nt.name, 'task_version', nt.version,
			'step_name', (SELECT n.name FROM tasker.named_steps n WHERE n.named_step_id = s.named_step_id),
			'attempt_number', attempt.number, 'started_at', attempt.started_at,
			'completed_at', attempt.ended_at, 'execution_duration', extract(epoch FROM attempt.ended_at - attempt.started_at),
			'error_message', l.metadata ->> 'error_message', 'exception_class', l.metadata ->> 'error_class',
			'from_state', l.from_state, 'to_state', l.to_state, 'executor_id', l.executor_id, 'role', l.role,
			'reason', coalesce(l.metadata ->> 'reason', l.metadata ->> 'triggered_by'))
		|| CASE l.to_state
			WHEN 'complete' THEN jsonb_build_object('step_results', tasker.small_json(s.results))
			WHEN 'in_progress' THEN jsonb_build_object('retry_limit', s.retry_limit)
			WHEN 'error' THEN jsonb_build_object('retry_limit', s.retry_limit, 'retry_available', l.metadata -> 'retry_available',
				'backoff_seconds', l.metadata -> 'backoff_seconds', 'backoff_type', l.metadata ->> 'backoff_type')
			WHEN 'pending' THEN CASE WHEN l.from_state = 'error' THEN jsonb_build_object('retry_limit', s.retry_limit) ELSE '{}' END
			ELSE '{}'
		END
	FROM (SELECT (happened).*) l
	LEFT JOIN tasker.workflow_steps s ON s.workflow_step_id = l.workflow_step_id
	LEFT JOIN tasker.tasks t ON t.task_id = s.task_id
	LEFT JOIN tasker.named_tasks nt ON nt.named_task_id = t.named_task_id
	LEFT JOIN tasker.task_namespaces ns ON ns.task_namespace_id = nt.task_namespace_id
	CROSS JOIN LATERAL (
		-- Attempts are claims that were not given back before, since an operator last set them to zero.
		SELECT greatest(0, count(*) FILTER (WHERE k.to_state = 'in_progress')
				- count(*) FILTER (WHERE k.from_state = 'in_progress' AND k.to_state = 'pending' AND k.sort_key < l.sort_key)) AS number,
			CASE WHEN l.to_state = 'in_progress' OR l.from_state = 'in_progress'
				THEN max(k.created_at) FILTER (WHERE k.to_state = 'in_progress') END AS started_at,
			CASE WHEN l.from_state = 'in_progress' THEN l.created_at END AS ended_at
		FROM tasker.workflow_step_transition_log k
		WHERE k.workflow_step_id = l.workflow_step_id AND k.sort_key <= l.sort_key
			AND k.sort_key > coalesce((
				SELECT max(z.sort_key) FROM tasker.workflow_step_transition_log z
				WHERE z.workflow_step_id = l.workflow_step_id AND z.sort_key <= l.sort_key
					AND z.from_state = 'error' AND z.to_state = 'pending' AND z.metadata ->> 'triggered_by' IS NULL), 0)
	) attempt;
END;
COMMENT ON FUNCTION tasker.step_event_payload(tasker.workflow_step_transition_log) IS 'The payload of the event that a row of the step log is.';

CREATE FUNCTION tasker.custom_event_payload(published tasker.published_events) RETURNS jsonb
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	SELECT (published).payload || jsonb_build_object('event_type', (published).name, 'event_key', 'event:' || (published).event_id,
		'event_version', coalesce((SELECT d.version FROM tasker.custom_events d WHERE d.name = (published).name), 1),
		'timestamp', (published).created_at, 'task_id', (published).task_id, 'step_id', (published).workflow_step_id, 'role', (published).role);
END;
COMMENT ON FUNCTION tasker.custom_event_payload(tasker.published_events) IS 'The payload of a custom event, with the keys that tell what and whose it is.';

-- From the owners to their logs, row by row (OFFSET 0), whatever statistics say.
CREATE VIEW tasker.events AS
SELECT 'task:' || t.task_id || ':' || l.sort_key AS event_key, tasker.transition_event('task', l.from_state, l.to_state) AS name,
	'task' AS category, t.task_id, NULL::bigint AS step_id, l.created_at AS occurred_at, l.xact_id,
	t.task_id AS owner_id, l.sort_key, tasker.task_event_payload(l) AS payload
FROM tasker.tasks t
CROSS JOIN LATERAL (SELECT k.* FROM tasker.task_transition_log k WHERE k.task_id = t.task_id OFFSET 0) l
UNION ALL
SELECT 'step:' || s.workflow_step_id || ':' || l.sort_key, tasker.transition_event('step', l.from_state, l.to_state),
	'step', s.task_id, s.workflow_step_id, l.created_at, l.xact_id, s.workflow_step_id, l.sort_key, tasker.step_event_payload(l)
FROM tasker.workflow_steps s
CROSS JOIN LATERAL (SELECT k.* FROM tasker.workflow_step_transition_log k WHERE k.workflow_step_id = s.workflow_step_id OFFSET 0) l
UNION ALL
SELECT 'event:' || e.event_id, e.name, 'custom', e.task_id, e.workflow_step_id, e.created_at, e.xact_id, e.event_id, 0,
	tasker.custom_event_payload(e)
FROM tasker.published_events e;
COMMENT ON VIEW tasker.events IS
'Everything that happened to tasks that exist, as events with payloads: each transition of a task or a step, each custom event. Ask for one task (WHERE task_id = ...) or one owner (category and owner_id); the whole is as large as the history. event_key names an event for ever. For reading on and on use read_events(). The keys of payloads: event_definitions.payload_schema, docs/events.md. Runs with the rights of the caller.';
COMMENT ON COLUMN tasker.events.category IS 'task, step or custom.';
COMMENT ON COLUMN tasker.events.owner_id IS 'The task, step or published event that it belongs to, by category.';
COMMENT ON COLUMN tasker.events.sort_key IS 'Place in the owner''s log; 0 for custom events.';
