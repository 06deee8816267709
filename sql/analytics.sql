-- What the recent past says about speed and failure, and how healthy all is. In
-- a database of its own, for the figures are about everything in it.
SELECT current_database() AS original \gset
CREATE DATABASE regress_tasker_analytics;
SELECT format('ALTER DATABASE regress_tasker_analytics SET %s', setting)
FROM unnest(ARRAY['tasker.orchestrator = off', 'tasker.backoff_jitter = 0', 'client_min_messages = warning', 'TimeZone = ''UTC''']) setting \gexec
\c regress_tasker_analytics
CREATE EXTENSION tasker;
SELECT tasker.register_task_template('{"name": "order", "namespace_name": "shop", "version": "1.0.0", "step_templates": [
	{"name": "a", "handler_class": "H"}, {"name": "b", "handler_class": "H", "depends_on_step": "a"},
	{"name": "c", "handler_class": "H", "depends_on_step": "a"}, {"name": "d", "handler_class": "H", "depends_on_steps": ["b", "c"]}]}') > 0 AS registered;
SELECT tasker.register_task_template('{"name": "probe", "namespace_name": "lab", "version": "1.0.0", "step_templates": [
	{"name": "x", "handler_class": "H", "backoff_base_seconds": 100, "backoff_cap_seconds": 1000}]}') > 0 AS registered;
SELECT executor_id AS executor FROM tasker.register_executor('analytics', '{H}', 0) \gset

-- Moves the clock to so many seconds after the beginning, and draws the consequences
-- of what happened before. Figures are shown in steps of 25 seconds, for the
-- test takes some time itself.
CREATE FUNCTION pg_temp.at(seconds integer) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM set_config('tasker.clock_offset', (seconds * 1000)::text, false);
	PERFORM tasker.orchestrate();
END
$$;
CREATE FUNCTION pg_temp.about(seconds numeric) RETURNS numeric LANGUAGE sql AS 'SELECT round(seconds / 25) * 25';
CREATE TABLE task (id bigint, label text);
CREATE FUNCTION pg_temp.make(template text, label text) RETURNS void LANGUAGE sql AS $$
	INSERT INTO task SELECT tasker.create_task(template, namespace => CASE template WHEN 'order' THEN 'shop' ELSE 'lab' END), label
$$;
CREATE FUNCTION pg_temp.label(task_id bigint) RETURNS text LANGUAGE sql AS 'SELECT label FROM task WHERE id = task_id';
CREATE VIEW pg_temp.step AS
SELECT label || '.' || n.name AS name, s.workflow_step_id AS id, s.sort_key AS claim
FROM task JOIN tasker.workflow_steps s ON s.task_id = task.id JOIN tasker.named_steps n USING (named_step_id);
CREATE FUNCTION pg_temp.claim() RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(pg_temp.label(task_id) || '.' || step_name, ' ' ORDER BY workflow_step_id)
	FROM tasker.claim_steps((SELECT executor_id FROM tasker.executors), 100)
$$;
CREATE FUNCTION pg_temp.complete(names text) RETURNS bigint LANGUAGE sql AS $$
	SELECT count(tasker.complete_step(id, claim)) FROM pg_temp.step WHERE name = ANY (string_to_array(names, ' '))
$$;
CREATE FUNCTION pg_temp.fail(names text, error text, retryable boolean DEFAULT true) RETURNS bigint LANGUAGE sql AS $$
	SELECT count(tasker.fail_step(id, claim, error, 'LabError', retryable)) FROM pg_temp.step WHERE name = ANY (string_to_array(names, ' '))
$$;

---- nothing yet ----
SELECT * FROM tasker.ended_attempts(NULL);
SELECT * FROM tasker.recent_tasks(NULL);
SELECT * FROM tasker.slowest_steps();
SELECT * FROM tasker.slowest_tasks();
SELECT * FROM tasker.error_patterns();
SELECT * FROM tasker.step_duration_statistics();
\x on
SELECT m.*, calculated_at - analysis_period_start BETWEEN '1 hour' AND '1 hour 1 minute' AS last_hour
FROM (SELECT to_jsonb(m) - '{analysis_period_start,calculated_at}'::text[] AS figures, m.analysis_period_start, m.calculated_at FROM tasker.analytics_metrics() m) x
CROSS JOIN LATERAL jsonb_to_record(x.figures) AS m (active_tasks_count bigint, system_health_score numeric, task_throughput bigint,
	completion_rate numeric, error_rate numeric, avg_task_duration numeric, p99_step_duration numeric, avg_queue_wait numeric);
\x off

---- twenty minutes ----
SELECT pg_temp.at(0);
SELECT tasker.now() AS start \gset
SELECT pg_temp.make('order', 'o1'), pg_temp.make('order', 'o2'), pg_temp.make('probe', 'p1');
SELECT pg_temp.at(100), pg_temp.claim();
SELECT pg_temp.at(300), pg_temp.complete('o1.a o2.a'), pg_temp.fail('p1.x', 'sample 17 of 20 is lost');
SELECT pg_temp.at(400);
-- both branches of both orders, and the probe again
SELECT pg_temp.claim();
SELECT pg_temp.at(500), pg_temp.complete('o1.b o2.b o2.c'), pg_temp.fail('p1.x', 'sample 3 of 20 is lost');
SELECT pg_temp.at(600);
SELECT pg_temp.claim();
SELECT pg_temp.at(700), pg_temp.complete('o2.d');
SELECT pg_temp.at(705);
SELECT pg_temp.claim();
SELECT pg_temp.at(800), pg_temp.fail('p1.x', 'the flask broke', false);
SELECT pg_temp.at(900), pg_temp.complete('o1.c');
SELECT pg_temp.at(1000);
SELECT pg_temp.claim();
SELECT pg_temp.at(1100), pg_temp.complete('o1.d');
SELECT pg_temp.make('order', 'o3'), pg_temp.make('probe', 'p2');
SELECT tasker.cancel_task(id) FROM task WHERE label = 'p2';
SELECT pg_temp.at(1200);

SELECT label, t.state, pg_temp.about(extract(epoch FROM r.ended_at - r.created_at)) AS took
FROM task JOIN tasker.tasks t ON t.task_id = task.id JOIN tasker.recent_tasks(:'start') r USING (task_id) ORDER BY label;
SELECT name, a.sort_key, a.state, pg_temp.about(extract(epoch FROM a.ended_at - a.started_at)) AS took,
	pg_temp.about(extract(epoch FROM a.started_at - r.ready_at)) AS waited
FROM tasker.ended_attempts(:'start') a JOIN pg_temp.step ON step.id = a.workflow_step_id
CROSS JOIN LATERAL tasker.ready_since(a.workflow_step_id, a.sort_key - 10) r ORDER BY name, a.sort_key;

---- metrics ----
CREATE FUNCTION pg_temp.metrics(since timestamptz) RETURNS TABLE (metric text, value numeric) LANGUAGE sql AS $$
	SELECT key, CASE WHEN key ~ '(duration|wait)$' THEN pg_temp.about(value::numeric) ELSE value::numeric END
	FROM tasker.analytics_metrics(since) m, jsonb_each_text(to_jsonb(m)) WITH ORDINALITY e (key, value, place)
	WHERE key NOT IN ('analysis_period_start', 'calculated_at')
$$;
SELECT * FROM pg_temp.metrics(:'start') ORDER BY 1;
-- the end of the period only, and everything
SELECT string_agg(metric || ' ' || value, ', ' ORDER BY metric) FROM pg_temp.metrics(:'start'::timestamptz + interval '650 s');
SELECT count(*) AS same FROM pg_temp.metrics(NULL) a JOIN pg_temp.metrics(:'start') b USING (metric) WHERE a.value IS NOT DISTINCT FROM b.value;
SELECT count(*) AS metrics FROM pg_temp.metrics(NULL);

---- the slowest ----
SELECT pg_temp.label(task_id) AS task, step_name, task_name, namespace_name, version, pg_temp.about(duration_seconds) AS duration,
	pg_temp.about(waiting_seconds) AS waiting, attempts, pg_temp.about(extract(epoch FROM completed_at - created_at)) AS since_creation,
	extract(epoch FROM completed_at - started_at) = duration_seconds AND extract(epoch FROM started_at - ready_at) = waiting_seconds AS adds_up, retryable, step_status
FROM tasker.slowest_steps(:'start', 3) ORDER BY pg_temp.about(duration_seconds) DESC, 1;
SELECT pg_temp.label(task_id) AS task, task_name, namespace_name, version, status, pg_temp.about(duration_seconds) AS duration,
	pg_temp.about(execution_seconds) AS execution, pg_temp.about(waiting_seconds) AS waiting,
	step_count, completed_steps, error_steps, extract(epoch FROM completed_at - created_at) = duration_seconds AS adds_up, initiator, source_system
FROM tasker.slowest_tasks(:'start');
-- how many, of what, since when
SELECT count(*) FROM tasker.slowest_steps(:'start', NULL);
SELECT count(*) FROM tasker.slowest_steps(:'start', 0);
SELECT count(*) FROM tasker.slowest_steps(:'start', -1);
SELECT count(*) FROM tasker.slowest_tasks(:'start', -1);
SELECT count(*) FROM tasker.slowest_steps(max => 100, namespace => 'shop', task_name => 'order', version => '1.0.0');
SELECT count(*) FROM tasker.slowest_steps(namespace => 'lab');
SELECT count(*) FROM tasker.slowest_steps(version => '1.0.1');
SELECT pg_temp.label(task_id) FROM tasker.slowest_tasks(namespace => 'lab');
SELECT pg_temp.label(task_id) FROM tasker.slowest_tasks(task_name => 'order', max => 1);
SELECT count(*) FROM tasker.slowest_tasks(version => '1.0.1');
SELECT pg_temp.label(task_id), step_name, attempts FROM tasker.slowest_steps(:'start'::timestamptz + interval '850 s');
SELECT pg_temp.label(task_id) FROM tasker.slowest_tasks(:'start'::timestamptz + interval '850 s');

---- errors ----
SELECT error_class, error_pattern, occurrences, steps, tasks, step_names,
	pg_temp.about(extract(epoch FROM first_seen_at - :'start')) AS first, pg_temp.about(extract(epoch FROM last_seen_at - :'start')) AS last,
	(SELECT name FROM pg_temp.step WHERE id = last_step_id) AS last_step
FROM tasker.error_patterns(:'start');
SELECT count(*) FROM tasker.error_patterns(namespace => 'shop');
SELECT error_pattern FROM tasker.error_patterns(max => 1, namespace => 'lab', task_name => 'probe', version => '1.0.0');

---- where the time goes ----
SELECT namespace_name, task_name, version, step_name, completions, failures, pg_temp.about(total_duration) AS total, pg_temp.about(avg_duration) AS avg,
	pg_temp.about(p50_duration) AS p50, pg_temp.about(p95_duration) AS p95, pg_temp.about(p99_duration) AS p99, pg_temp.about(max_duration) AS max, pg_temp.about(avg_queue_wait) AS wait
FROM tasker.step_duration_statistics(:'start') ORDER BY pg_temp.about(total_duration) DESC, step_name;
SELECT step_name FROM tasker.step_duration_statistics(:'start', namespace => 'lab');
SELECT step_name FROM tasker.step_duration_statistics(:'start', 1);

---- a release is no attempt, and what follows it waits anew ----
SELECT pg_temp.claim();
SELECT tasker.release_step(id, claim) FROM pg_temp.step WHERE name = 'o3.a';
SELECT pg_temp.at(1300), pg_temp.claim();
SELECT pg_temp.at(1400), pg_temp.complete('o3.a');
SELECT pg_temp.about(duration_seconds) AS duration, pg_temp.about(waiting_seconds) AS waiting, attempts
FROM tasker.slowest_steps(:'start'::timestamptz + interval '1350 s');

---- health ----
CREATE FUNCTION pg_temp.health() RETURNS TABLE (what text, value text) LANGUAGE sql AS $$
	SELECT key, value FROM tasker.system_health_counts() h, jsonb_each_text(to_jsonb(h)) WITH ORDINALITY e (key, value, place)
	WHERE key !~ 'connections' AND value <> '0'
$$;
SELECT * FROM pg_temp.health() ORDER BY 1;
SELECT active_connections >= 1 AS active, connections >= active_connections AS clients, max_connections = current_setting('max_connections')::integer AS max
FROM tasker.system_health_counts();
-- twenty more probes fail for good, and one waits for its backoff
SELECT count(pg_temp.make('probe', 'q' || i)) FROM generate_series(1, 21) i;
SELECT pg_temp.at(1400), pg_temp.claim() IS NOT NULL AS claimed;
SELECT pg_temp.fail(string_agg(name, ' '), 'broken', false) FROM pg_temp.step WHERE name ~ '^q' AND name <> 'q21.x';
SELECT pg_temp.fail('q21.x', 'broken');
SELECT pg_temp.at(1400);
SELECT what, value FROM pg_temp.health() WHERE what ~ 'error|retry|backoff|status|reasons' ORDER BY 1;
-- which ends
SELECT set_config('tasker.clock_offset', '1600s', false) IS NOT NULL AS later;
SELECT what, value FROM pg_temp.health() WHERE what ~ 'retryable|backoff' ORDER BY 1;

---- only what is recent is read ----
-- Each partition has the index, those to come as well.
SELECT tasker.make_period(2);
SELECT i.indrelid::regclass AS partition, m.amname AS method, a.attname AS "column"
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am m ON m.oid = c.relam
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
WHERE m.amname = 'brin' ORDER BY 1;
-- It is used whatever the planner believes of the logs.
CREATE FUNCTION pg_temp.scans(query text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	plan json;
BEGIN
	SET LOCAL enable_seqscan = off;
	EXECUTE 'EXPLAIN (FORMAT JSON, COSTS OFF) ' || query INTO plan;
	RETURN QUERY SELECT DISTINCT n ->> 'Node Type' || ' by ' || (n ->> 'Index Name')
	FROM jsonb_path_query(plan::jsonb, 'strict $.**') n WHERE n ->> 'Index Name' IS NOT NULL ORDER BY 1;
END
$$;
SELECT * FROM pg_temp.scans('SELECT FROM tasker.workflow_step_transition_log WHERE created_at >= tasker.now() AND from_state = ''in_progress''');
SELECT proname, proconfig FROM pg_proc WHERE pronamespace = 'tasker'::regnamespace AND proname IN ('ended_attempts', 'recent_tasks') ORDER BY 1;

SELECT * FROM tasker.check();
\c :original
DROP DATABASE regress_tasker_analytics WITH (FORCE);
