-- Tasks as spans: whose child each is, how long it lasted, how it ended.
CREATE TEMP TABLE executor AS SELECT (tasker.register_executor('traces', '{H}', 0)).executor_id AS id;
SELECT test.template('traced', 'a; b<-a; c<-a; d<-b,c', '{"backoff_base_seconds": 10}') > 0 AS registered;

-- Claims the one step that is ready, and moves the clock by units of 100 s, beside which the time that really passes is nothing.
CREATE FUNCTION pg_temp.claim(OUT step bigint, OUT claim integer) LANGUAGE sql AS $$
	SELECT workflow_step_id, claim FROM tasker.claim_steps((SELECT id FROM executor))
$$;
CREATE FUNCTION pg_temp.pass(units integer) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM set_config('tasker.clock_offset', extract(epoch FROM current_setting('tasker.clock_offset')::interval)::integer + 100 * units || 's', false);
	PERFORM tasker.orchestrate();
END
$$;

-- Spans without ids: the parent by name, times in units since the creation.
CREATE FUNCTION pg_temp.spans(task bigint)
RETURNS TABLE (span text, step text, parent text, begins integer, ends integer, status text, message text, attempt text, outcome text, error text) LANGUAGE sql AS $$
	SELECT s.name, s.attributes ->> 'tasker.step_name',
		coalesce(p.name || ' ' || p.number, s.parent_span_id),
		round(extract(epoch FROM s.started_at - min(s.started_at) OVER ()) / 100)::integer, round(extract(epoch FROM s.ended_at - min(s.started_at) OVER ()) / 100)::integer,
		s.status, s.status_message, s.attributes ->> 'tasker.attempt', s.attributes ->> 'tasker.outcome', s.attributes ->> 'error.type'
	FROM tasker.task_spans(task) WITH ORDINALITY s(trace_id, span_id, parent_span_id, name, kind, started_at, ended_at, status, status_message, attributes, events, number)
	LEFT JOIN tasker.task_spans(task) WITH ORDINALITY p(trace_id, span_id, parent_span_id, name, kind, started_at, ended_at, status, status_message, attributes, events, number)
		ON p.span_id = s.parent_span_id
	ORDER BY s.number
$$;

-- ---------- what is a traceparent ----------

SELECT tasker.create_task('traced', namespace => 'test', traceparent => t)
FROM (VALUES ('00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-')) v(t);
CREATE FUNCTION pg_temp.taken(traceparent text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	hint text;
BEGIN
	PERFORM tasker.create_task('traced', namespace => 'test', traceparent => taken.traceparent);
	RAISE EXCEPTION USING ERRCODE = 'P0002', HINT = 'taken';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
	RETURN CASE WHEN SQLSTATE = 'P0002' THEN 'taken' ELSE SQLSTATE || CASE WHEN hint <> '' THEN ', with a hint' END END;
END
$$;
SELECT t AS traceparent, pg_temp.taken(t) FROM (VALUES
	('00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01'), ('00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00'),
	('00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-ff'), ('00-00000000000000000000000000000001-0000000000000001-03'), (NULL),
	(''), ('00'), ('00-'), ('01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01'), ('fe-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more'),
	('fe-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01more'), ('cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7'),
	('0-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01'), ('ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01'),
	('00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01'), ('00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01'),
	('00-4bf92f3577b34da6a3ce929d0e0e47361-00f067aa0ba902b7-01'), ('00-00000000000000000000000000000000-00f067aa0ba902b7-01'),
	('00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01'), ('00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7'),
	('00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1'), ('00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-012'),
	('00-4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7-01'), (' 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01')) v(t);

-- Kept by each way of creation.
SELECT c AS third FROM tasker.create_tasks(ARRAY[
	'{"name": "traced", "namespace": "test", "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"}',
	'{"name": "traced", "namespace": "test", "traceparent": "0a-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-07-more"}',
	'{"name": "traced", "namespace": "test"}']::jsonb[]) c OFFSET 2 \gset
SELECT traceparent FROM tasker.tasks WHERE task_id >= :third - 2 ORDER BY task_id;
BEGIN;
SET LOCAL tasker.direct_writes = off;
SELECT c AS of_key FROM tasker.create_tasks(ARRAY[
	'{"name": "traced", "namespace": "test", "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}',
	'{"name": "traced", "namespace": "test", "identity_key": "traced"}']::jsonb[]) c OFFSET 1 \gset
SELECT traceparent FROM tasker.tasks WHERE task_id >= :of_key - 1 ORDER BY task_id;
-- The second creation changes nothing of the first.
SELECT tasker.create_task('traced', '{}', 'test', identity_key => 'traced', traceparent => '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01') = :of_key AS the_same;
SELECT traceparent FROM tasker.tasks WHERE task_id = :of_key;
COMMIT;
SELECT tasker.create_requested_task('{"name": "traced", "namespace": "test", "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1"}');
SELECT tasker.create_tasks(ARRAY['{"name": "traced", "namespace": "test", "traceparent": 1}']::jsonb[]);
SELECT count(tasker.cancel_task(task_id)) FROM tasker.tasks WHERE state = 'pending';

-- ---------- a diamond, with a retry and a release ----------

SELECT tasker.create_task('traced', '{}', 'test', traceparent => '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01') AS task \gset
SELECT pg_temp.pass(2);
SELECT * FROM pg_temp.claim() \gset
-- What its executor hands on, and what is known so far.
SELECT tasker.step_traceparent(:step, :claim) AS handed_on \gset
SELECT * FROM pg_temp.spans(:task);
SELECT pg_temp.pass(3);
SELECT tasker.fail_step(:step, :claim, 'the line is dead', 'NetworkError');
SELECT pg_temp.pass(4);
SELECT pg_temp.pass(16);
SELECT * FROM pg_temp.claim() \gset
SELECT tasker.release_step(:step, :claim);
SELECT pg_temp.pass(5);
SELECT * FROM pg_temp.claim() \gset
SELECT pg_temp.pass(6);
SELECT tasker.complete_step(:step, :claim, '{"secret": "result"}');
SELECT pg_temp.pass(1);
SELECT * FROM pg_temp.claim() \gset b_
SELECT pg_temp.pass(1);
SELECT * FROM pg_temp.claim() \gset c_
SELECT pg_temp.pass(7);
SELECT tasker.complete_step(:c_step, :c_claim);
SELECT pg_temp.pass(8);
SELECT tasker.complete_step(:b_step, :b_claim);
SELECT pg_temp.pass(9);
SELECT * FROM pg_temp.claim() \gset
SELECT pg_temp.pass(10);
SELECT tasker.complete_step(:step, :claim);
SELECT tasker.orchestrate() > 0 AS ended;
SELECT * FROM pg_temp.spans(:task);
SELECT DISTINCT trace_id FROM tasker.task_spans(:task);
SELECT :'handed_on' = '00-4bf92f3577b34da6a3ce929d0e0e4736-' || span_id || '-01' AS of_the_failed_attempt, events -> 0 -> 'attributes' AS said
FROM tasker.task_spans(:task) WHERE status = 'error';
SELECT jsonb_path_query_array(events, '$[*].name') AS events, attributes - 'tasker.task_id' AS attributes FROM tasker.task_spans(:task) WHERE name = 'tasker.task.execution';
SELECT jsonb_object_keys(attributes) AS of_an_execution FROM tasker.task_spans(:task) WHERE name = 'tasker.step.execution' AND status = 'error';
-- No two are the same, and asked again they are the same; nothing of what was worked on is in them.
SELECT count(DISTINCT s.span_id) = count(*) AND count(*) = count(a.span_id) AS same, bool_or(s::text LIKE '%secret%') AS tells
FROM tasker.task_spans(:task) s LEFT JOIN tasker.task_spans(:task) a ON a = s;

-- ---------- as OTLP ----------

SELECT jsonb_pretty(jsonb_set(r #- '{attributes}', '{attributes}', (SELECT jsonb_agg(a -> 'key') FROM jsonb_array_elements(r -> 'attributes') a))) AS resource, scope - 'version' AS scope
FROM tasker.otlp_spans(ARRAY[:task]) o CROSS JOIN LATERAL (SELECT o #> '{resourceSpans,0,resource}', o #> '{resourceSpans,0,scopeSpans,0,scope}') v(r, scope);
SELECT s ->> 'name' AS name, s ->> 'kind' AS kind, s ->> 'flags' AS flags, s -> 'status' AS status, jsonb_array_length(s -> 'events') AS events,
	s ->> 'startTimeUnixNano' ~ '^[0-9]{19}$' AS begins, s ->> 'endTimeUnixNano' ~ '^[0-9]{19}$' AS ends, s ->> 'traceId' AS trace, s ->> 'spanId' ~ '^[0-9a-f]{16}$' AS id
FROM tasker.otlp_spans(ARRAY[:task]) o CROSS JOIN LATERAL jsonb_array_elements(o #> '{resourceSpans,0,scopeSpans,0,spans}') s;
-- All that is exported is what there is, once.
SELECT count(*) = (SELECT count(*) FROM tasker.task_spans(:task)) AS all
FROM tasker.otlp_spans(ARRAY[:task, :task]) o CROSS JOIN LATERAL jsonb_array_elements(o #> '{resourceSpans,0,scopeSpans,0,spans}') s
JOIN tasker.task_spans(:task) t ON t.span_id = s ->> 'spanId' AND t.trace_id = s ->> 'traceId' AND t.parent_span_id = s ->> 'parentSpanId'
	AND t.started_at = to_timestamp(0) + (s ->> 'startTimeUnixNano')::numeric / 1000 * interval '1 microsecond';
SELECT tasker.unix_nanoseconds('2026-11-29 01:02:03.456789+00'), tasker.otlp_attributes('{"b": 7, "a": "x"}'), tasker.otlp_attributes('{}');
SELECT count(*) FROM tasker.otlp_spans('{}');
SELECT count(*) FROM tasker.otlp_spans('{-1,NULL}');

-- ---------- failed, started again, cancelled; a trace of its own ----------

SELECT tasker.create_task('traced', '{}', 'test') AS task \gset
SELECT tasker.orchestrate() > 0 AS started;
SELECT * FROM pg_temp.claim() \gset
SELECT count(*) AS not_over FROM tasker.otlp_spans(ARRAY[:task]) o CROSS JOIN LATERAL jsonb_array_elements(o #> '{resourceSpans,0,scopeSpans,0,spans}') s WHERE s ->> 'name' <> 'tasker.step.queued';
SELECT pg_temp.pass(1);
SELECT tasker.fail_step(:step, :claim, 'never', retryable => false);
SELECT tasker.orchestrate() > 0 AS failed;
SELECT * FROM pg_temp.spans(:task);
CREATE TEMP TABLE before AS SELECT * FROM tasker.task_spans(:task);
SELECT pg_temp.pass(100);
SELECT tasker.retry_task(:task, 'the line is back');
SELECT tasker.orchestrate() > 0 AS again;
SELECT * FROM pg_temp.claim() \gset
SELECT pg_temp.pass(5);
SELECT tasker.cancel_task(:task, 'changed our mind');
SELECT tasker.orchestrate() > 0 AS cancelled;
SELECT * FROM pg_temp.spans(:task);
SELECT jsonb_path_query_array(events, '$[*].name') AS events, jsonb_path_query_array(events, '$[*].attributes."tasker.reason"') AS reasons
FROM tasker.task_spans(:task) WHERE name = 'tasker.task.execution';
-- What was over has not changed.
SELECT count(*) AS changed FROM before b WHERE NOT EXISTS (SELECT FROM tasker.task_spans(:task) s WHERE s = b);
-- Its trace is its own, and its executors are told.
SELECT count(DISTINCT trace_id) AS traces, bool_and(trace_id ~ '^[0-9a-f]{32}$') AS well_formed,
	bool_or(tasker.step_traceparent(:step, :claim) = format('00-%s-%s-01', trace_id, span_id)) AS told
FROM tasker.task_spans(:task);

-- ---------- settled without being claimed; not sampled; unknown ----------

SELECT tasker.create_task('traced', '{}', 'test', traceparent => '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-fe') AS task \gset
SELECT right(tasker.step_traceparent(test.step(:task, 'a'), 10), 3) AS flags;
SELECT tasker.cancel_task(:task);
SELECT * FROM pg_temp.spans(:task);
SELECT count(*) AS not_sampled FROM tasker.otlp_spans(ARRAY[:task]);
SELECT count(*) FROM tasker.task_spans(-1);
SELECT tasker.step_traceparent(-1, 10);
SELECT tasker.step_traceparent(NULL, 10) IS NULL AS nothing;
-- A step that waits is in no queue.
SELECT tasker.register_task_template('{"name": "resting", "namespace_name": "test", "version": "1.0.0", "step_templates": [
	{"name": "rest", "sleep": {"for": "30 seconds"}}]}') > 0 AS registered;
SELECT tasker.create_task('resting', '{}', 'test') AS task \gset
SELECT tasker.orchestrate() > 0 AS waits;
SELECT pg_temp.pass(30);
SELECT * FROM pg_temp.spans(:task);
-- Whatever its shape: each attempt has its two spans below the task, no step begins before the last of its parents has ended.
CREATE TEMP TABLE run AS
	SELECT shape, test.template(shape, steps) AS template, tasker.create_task(shape, '{}', 'test') AS task_id
	FROM (VALUES ('linear spans', 'a; b<-a; c<-b; d<-c'), ('diamond spans', 'a; b<-a; c<-a; d<-b,c'), ('merged spans', 'a; b; c; d<-a,b,c'),
		('tree of spans', 'a; b<-a; c<-a; d<-b; e<-b; f<-c; g<-c'), ('mixed spans', 'a; b<-a; c<-a; d<-b,c; e<-b; f<-d,e')) v(shape, steps);
SELECT test.run_all((SELECT id FROM executor)) AS runs;
CREATE TEMP TABLE span AS SELECT r.task_id, s.* FROM run r CROSS JOIN LATERAL tasker.task_spans(r.task_id) s;
SELECT r.shape, count(*) AS spans,
	(SELECT count(*) FROM span s JOIN span p ON p.span_id = s.parent_span_id AND p.name = 'tasker.task.execution' WHERE s.task_id = r.task_id) AS below,
	(SELECT count(*) FROM tasker.workflow_step_edges e JOIN tasker.workflow_steps c ON c.workflow_step_id = e.to_step_id WHERE c.task_id = r.task_id) AS edges,
	(SELECT count(*) FROM span c
		JOIN tasker.workflow_step_edges e ON c.attributes -> 'tasker.step_id' = to_jsonb(e.to_step_id)
		JOIN span p ON p.attributes -> 'tasker.step_id' = to_jsonb(e.from_step_id) AND p.name = 'tasker.step.execution'
		WHERE c.task_id = r.task_id AND c.name = 'tasker.step.queued' AND p.ended_at <= c.started_at) AS in_order
FROM run r JOIN span s ON s.task_id = r.task_id GROUP BY r.shape, r.task_id ORDER BY r.task_id;
-- A task of many steps comes in pages.
SELECT test.template('wide', (SELECT string_agg('s' || i, '; ') FROM generate_series(1, 700) i)) > 0 AS registered;
SELECT tasker.create_task('wide', '{}', 'test') AS task \gset
SELECT test.run_all((SELECT id FROM executor)) AS runs;
SELECT jsonb_array_length(o #> '{resourceSpans,0,scopeSpans,0,spans}') AS spans FROM tasker.otlp_spans(ARRAY[:task]) o;
RESET tasker.clock_offset;
