-- What happened to a task as spans of OpenTelemetry. All of it is read from the
-- logs, and ids are derived from what a span is of, so that nothing has to be
-- written for it, and whoever asks, whenever, gets the same.

CREATE FUNCTION tasker.span_id(home bigint, kind text, id bigint, number integer) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
	SELECT lpad(to_hex(hashtextextended(format('%s:%s:%s:%s', home, kind, id, number) COLLATE "C", 0)), 16, '0');
END;
COMMENT ON FUNCTION tasker.span_id(bigint, text, bigint, integer) IS
'The id of a span: of the database (see tasker.home), what it is of, and the sort_key of the transition that it begins or, if queued, ends with.';

CREATE FUNCTION tasker.trace_id(home bigint, of_task bigint, traceparent text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
	SELECT coalesce(substring(traceparent FROM 4 FOR 32),
		encode(substring(sha256(convert_to(format('%s:trace:%s', home, of_task), 'UTF8')) FOR 16), 'hex'));
END;
COMMENT ON FUNCTION tasker.trace_id(bigint, bigint, text) IS 'The trace of a task: that of its traceparent, or one of its own.';

-- Of the flags only sampled (1) and random (2) are known, and may be passed on.
CREATE FUNCTION tasker.trace_flags(traceparent text) RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
	SELECT coalesce(('x' || substring(traceparent FROM 54 FOR 2))::bit(8)::integer & 3, 1);
END;
COMMENT ON FUNCTION tasker.trace_flags(text) IS 'The flags of a traceparent: 1 sampled, 2 random; 1 where there is none.';

CREATE FUNCTION tasker.step_traceparent(step_id bigint, claim integer) RETURNS text
LANGUAGE c STABLE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'tasker_step_traceparent';
COMMENT ON FUNCTION tasker.step_traceparent(bigint, integer) IS
'What an executor hands on with the calls that it makes for a step: the traceparent (W3C Trace Context) whose span is the execution of the claim with this number. Derived, so it is the same before, during and after that; a number that was never given out has a span that never comes. Also where the task was created without a traceparent: then it has a trace of its own. Needs no privilege on tables. Error: 42704 unknown step.';

-- By key from the task on, row by row (OFFSET 0), whatever statistics say.
CREATE FUNCTION tasker.task_spans(task_id bigint)
RETURNS TABLE (trace_id text, span_id text, parent_span_id text, name text, kind text, started_at timestamptz, ended_at timestamptz,
	status text, status_message text, attributes jsonb, events jsonb)
LANGUAGE sql STABLE ROWS 20
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET jit = off
BEGIN ATOMIC
	WITH task AS MATERIALIZED (
		SELECT t.task_id, tasker.trace_id(h.identifier, t.task_id, t.traceparent) AS trace_id,
			substring(t.traceparent FROM 37 FOR 16) AS parent_span_id, h.identifier AS home, t.initiator, t.source_system,
			jsonb_build_object('tasker.task_id', t.task_id, 'tasker.task_name', n.name, 'tasker.namespace', s.name, 'tasker.version', n.version) AS attributes
		FROM tasker.tasks t
		JOIN tasker.named_tasks n ON n.named_task_id = t.named_task_id
		JOIN tasker.task_namespaces s ON s.task_namespace_id = n.task_namespace_id
		CROSS JOIN tasker.home h
		WHERE t.task_id = task_spans.task_id
	), run AS MATERIALIZED (
		-- From the creation, or from what took the task out of an end, to the first end after it.
		SELECT m.number, min(m.sort_key) AS first_key, min(m.created_at) AS started_at, min(m.sort_key) FILTER (WHERE m.is_end) AS end_key,
			tasker.span_id(m.home, 'task', m.task_id, min(m.sort_key)) AS span_id
		FROM (
			SELECT task.home, task.task_id, k.sort_key, k.created_at, k.to_state NOT IN ('pending', 'in_progress') AS is_end,
				count(*) FILTER (WHERE k.from_state IS NULL OR k.from_state NOT IN ('pending', 'in_progress') AND k.to_state IN ('pending', 'in_progress'))
					OVER (ORDER BY k.sort_key) AS number
			FROM task
			CROSS JOIN LATERAL (SELECT l.* FROM tasker.task_transition_log l WHERE l.task_id = task.task_id OFFSET 0) k
		) m
		GROUP BY m.home, m.task_id, m.number
	), move AS MATERIALIZED (
		SELECT m.*, sum(CASE WHEN m.to_state = 'in_progress' THEN 1 WHEN m.from_state = 'in_progress' AND m.to_state = 'pending' THEN -1 ELSE 0 END)
			OVER (PARTITION BY m.workflow_step_id, m.resets ORDER BY m.sort_key) AS attempt
		FROM (
			SELECT s.*, k.sort_key, k.from_state, k.to_state, k.created_at, k.executor_id, k.metadata,
				lead(k.created_at) OVER later AS next_at, lead(k.to_state) OVER later AS next_state, lead(k.metadata) OVER later AS next_metadata,
				-- An operator's retry starts from zero.
				count(*) FILTER (WHERE k.from_state = 'error' AND k.to_state = 'pending' AND k.metadata ->> 'triggered_by' IS NULL) OVER later AS resets
			FROM task
			CROSS JOIN LATERAL (
				SELECT w.workflow_step_id, h.name IN ('tasker.sleep', 'tasker.await_event') AS waits,
					task.attributes || jsonb_build_object('tasker.step_id', w.workflow_step_id, 'tasker.handler', h.name,
						'tasker.step_name', (SELECT n.name FROM tasker.named_steps n WHERE n.named_step_id = w.named_step_id)) AS attributes
				FROM tasker.workflow_steps w
				CROSS JOIN LATERAL (SELECT n.name FROM tasker.handlers n WHERE n.handler_id = w.handler_id OFFSET 0) h
				WHERE w.task_id = task.task_id
				OFFSET 0) s
			CROSS JOIN LATERAL (SELECT l.* FROM tasker.workflow_step_transition_log l WHERE l.workflow_step_id = s.workflow_step_id OFFSET 0) k
			WINDOW later AS (PARTITION BY s.workflow_step_id ORDER BY k.sort_key)
		) m
	), step_span AS (
		SELECT 'queued' AS kind, 'tasker.step.queued' AS name, m.workflow_step_id, m.sort_key, m.sort_key AS place, least(ready.ready_at, m.created_at) AS started_at, m.created_at AS ended_at,
			m.created_at AS belongs_at, NULL AS failure, m.attributes || jsonb_build_object('tasker.attempt', m.attempt) AS attributes
		FROM move m
		CROSS JOIN LATERAL (SELECT r.ready_at FROM tasker.ready_since(m.workflow_step_id, m.sort_key) r OFFSET 0) ready
		WHERE m.to_state = 'in_progress' AND NOT m.waits
		UNION ALL
		SELECT 'execution', CASE WHEN m.waits THEN 'tasker.step.waiting' ELSE 'tasker.step.execution' END, m.workflow_step_id, m.sort_key, m.sort_key + 1, m.created_at, m.next_at, m.created_at,
			CASE WHEN m.next_state = 'error' THEN coalesce(m.next_metadata, '{}') END,
			m.attributes || jsonb_strip_nulls(jsonb_build_object('tasker.attempt', m.attempt, 'tasker.claim', m.sort_key, 'tasker.executor_id', m.executor_id,
				'tasker.outcome', CASE m.next_state WHEN 'pending' THEN 'released' ELSE m.next_state::text END))
		FROM move m
		WHERE m.to_state = 'in_progress'
		UNION ALL
		SELECT 'retry', 'tasker.step.retry', m.workflow_step_id, m.sort_key, m.sort_key, m.created_at, m.next_at, coalesce(m.next_at, m.created_at), NULL,
			m.attributes || jsonb_strip_nulls(jsonb_build_object('tasker.attempt', m.attempt, 'tasker.backoff_type', m.metadata ->> 'backoff_type'))
		FROM move m
		WHERE m.to_state = 'error'
			AND (m.next_state = 'pending' AND m.next_metadata ->> 'triggered_by' IS NOT NULL
				OR m.next_state IS NULL AND (m.metadata ->> 'retry_available')::boolean)
	)
	SELECT task.trace_id, s.span_id, s.parent_span_id, s.name, CASE WHEN s.parent_span_id = task.parent_span_id THEN 'consumer' ELSE 'internal' END, s.started_at, s.ended_at, s.status, s.status_message, s.attributes, s.events
	FROM task
	CROSS JOIN LATERAL (
		SELECT 0::bigint AS step_id, r.first_key AS place, r.span_id,
			coalesce(task.parent_span_id, CASE WHEN r.number > 1 THEN (SELECT f.span_id FROM run f WHERE f.number = 1) END) AS parent_span_id,
			'tasker.task.execution' AS name, r.started_at, e.ended_at,
			CASE e.state WHEN 'error' THEN 'error' ELSE 'unset' END AS status,
			CASE e.state WHEN 'error' THEN 'steps in error: ' || (SELECT string_agg(n, ', ') FROM jsonb_array_elements_text(nullif(e.payload -> 'error_steps', 'null')) n) END AS status_message,
			task.attributes || jsonb_strip_nulls(jsonb_build_object('tasker.initiator', task.initiator, 'tasker.source_system', task.source_system,
				'tasker.outcome', e.state, 'tasker.total_steps', e.payload -> 'total_steps', 'tasker.completed_steps', e.payload -> 'completed_steps',
				'tasker.failed_steps', e.payload -> 'failed_steps', 'error.type', CASE e.state WHEN 'error' THEN '_OTHER' END)) AS attributes,
			(SELECT jsonb_agg(jsonb_build_object('name', tasker.transition_event('task', l.from_state, l.to_state), 'time', l.created_at,
					'attributes', jsonb_strip_nulls(jsonb_build_object('tasker.reason', coalesce(l.metadata ->> 'reason', l.metadata ->> 'triggered_by'))))
					ORDER BY l.sort_key)
				FROM tasker.task_transition_log l
				WHERE l.task_id = task.task_id AND l.sort_key BETWEEN r.first_key AND coalesce(r.end_key, 2147483647)) AS events
		FROM run r
		LEFT JOIN LATERAL (SELECT l.created_at AS ended_at, l.to_state AS state, tasker.task_event_payload(l) AS payload
			FROM tasker.task_transition_log l WHERE l.task_id = task.task_id AND l.sort_key = r.end_key OFFSET 0) e ON true
		UNION ALL
		SELECT s.workflow_step_id, s.place, tasker.span_id(task.home, s.kind, s.workflow_step_id, s.sort_key),
			-- The run that it was part of; clocks may have been set back.
			coalesce((SELECT r.span_id FROM run r WHERE r.started_at <= s.belongs_at ORDER BY r.number DESC LIMIT 1), (SELECT r.span_id FROM run r WHERE r.number = 1)),
			s.name, s.started_at, s.ended_at,
			CASE WHEN s.failure IS NULL THEN 'unset' ELSE 'error' END, s.failure ->> 'error_message',
			s.attributes || CASE WHEN s.failure IS NULL THEN '{}' ELSE jsonb_build_object('error.type', coalesce(s.failure ->> 'error_class', '_OTHER')) END,
			CASE WHEN s.failure IS NULL THEN '[]' ELSE jsonb_build_array(jsonb_build_object('name', 'exception', 'time', s.ended_at, 'attributes',
				jsonb_strip_nulls(jsonb_build_object('exception.type', s.failure ->> 'error_class', 'exception.message', s.failure ->> 'error_message')))) END
		FROM step_span s
	) s
	ORDER BY s.step_id, s.place;
END;
COMMENT ON FUNCTION tasker.task_spans(bigint) IS
'A task as spans of OpenTelemetry: tasker.task.execution from the creation to the end, one more for each time that an operator starts it again; below it, for each claim of a step, tasker.step.queued from when it was ready and tasker.step.execution to its outcome; tasker.step.waiting instead of both where a step sleeps or awaits an event; tasker.step.retry from a failure until the step is due again. ended_at is NULL for what is not over. trace_id and the parent of the task are those of its traceparent; where it has none, its trace is its own. Ids are derived: the same each time. A span that has ended changes no more. status is error or unset, kind is consumer for a task whose parent its traceparent says, else internal. Steps settled without being claimed have no span. No row for an unknown task. Runs with the rights of the caller.';

CREATE FUNCTION tasker.otlp_attributes(attributes jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
	SELECT coalesce(jsonb_agg(jsonb_build_object('key', a.key, 'value',
		CASE jsonb_typeof(a.value) WHEN 'number' THEN jsonb_build_object('intValue', a.value #>> '{}') ELSE jsonb_build_object('stringValue', a.value #>> '{}') END)
		ORDER BY a.key), '[]')
	FROM jsonb_each(attributes) a;
END;
COMMENT ON FUNCTION tasker.otlp_attributes(jsonb) IS 'Strings and whole numbers as attributes in the JSON of OTLP.';

CREATE FUNCTION tasker.unix_nanoseconds(instant timestamptz) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
	SELECT (extract(epoch FROM instant) * 1000000000)::bigint::text;
END;
COMMENT ON FUNCTION tasker.unix_nanoseconds(timestamptz) IS 'Nanoseconds since 1970 as the JSON of OTLP spells them.';

CREATE FUNCTION tasker.otlp_spans(task_ids bigint[]) RETURNS SETOF jsonb
LANGUAGE sql STABLE STRICT ROWS 1
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	SELECT jsonb_build_object('resourceSpans', jsonb_build_array(jsonb_build_object(
		'resource', jsonb_build_object('attributes', tasker.otlp_attributes(jsonb_build_object('service.name', 'tasker', 'service.version', e.extversion,
			'service.instance.id', to_hex(h.identifier), 'db.system.name', 'postgresql', 'db.namespace', current_database()))),
		'scopeSpans', jsonb_build_array(jsonb_build_object(
			'scope', jsonb_build_object('name', 'tasker', 'version', e.extversion),
			'spans', page.spans)))))
	FROM (
		SELECT numbered.page, jsonb_agg(numbered.span ORDER BY numbered.place) AS spans
		FROM (
			SELECT row_number() OVER () AS place, (row_number() OVER () - 1) / 1000 AS page,
				jsonb_strip_nulls(jsonb_build_object('traceId', s.trace_id, 'spanId', s.span_id, 'parentSpanId', s.parent_span_id,
					-- Bits 8 and 9: it is known whether the parent is remote, and it is.
					'flags', tasker.trace_flags(t.traceparent) | CASE WHEN s.parent_span_id = substring(t.traceparent FROM 37 FOR 16) THEN 768 ELSE 256 END,
					'name', s.name, 'kind', CASE s.kind WHEN 'consumer' THEN 5 ELSE 1 END, 'startTimeUnixNano', tasker.unix_nanoseconds(s.started_at), 'endTimeUnixNano', tasker.unix_nanoseconds(s.ended_at),
					'attributes', tasker.otlp_attributes(s.attributes),
					'events', (SELECT jsonb_agg(jsonb_build_object('timeUnixNano', tasker.unix_nanoseconds((o.value ->> 'time')::timestamptz),
							'name', o.value ->> 'name', 'attributes', tasker.otlp_attributes(o.value -> 'attributes')) ORDER BY o.ordinality)
						FROM jsonb_array_elements(s.events) WITH ORDINALITY o),
					'status', jsonb_build_object('code', CASE s.status WHEN 'error' THEN 2 ELSE 0 END, 'message', s.status_message))) AS span
			FROM (SELECT DISTINCT i.task_id FROM unnest(task_ids) i (task_id)) wanted
			CROSS JOIN LATERAL (SELECT o.* FROM tasker.tasks o WHERE o.task_id = wanted.task_id AND tasker.trace_flags(o.traceparent) & 1 = 1 OFFSET 0) t
			CROSS JOIN LATERAL tasker.task_spans(t.task_id) s
			WHERE s.ended_at IS NOT NULL
		) numbered
		GROUP BY numbered.page
	) page
	CROSS JOIN tasker.home h
	JOIN pg_extension e ON e.extname = 'tasker'
	ORDER BY page.page;
END;
COMMENT ON FUNCTION tasker.otlp_spans(bigint[]) IS
'The spans of tasks that have ended, as bodies for POST to /v1/traces of an OpenTelemetry collector (ExportTraceServiceRequest in the JSON of OTLP): one row for up to 1000 spans, none where there is nothing. Tasks whose traceparent says that the trace is not sampled are left out. Given twice it says the same twice, with the same ids. Runs with the rights of the caller.';
