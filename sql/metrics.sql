-- Metrics in the terms of Prometheus. In a database of its own, for they are about
-- everything in it. What is counted in shared memory is compared with the logs
-- where it is counted at all; test/t/025_metrics.pl asks the real Prometheus.
SELECT current_database() AS original \gset
CREATE DATABASE regress_tasker_metrics;
SELECT format('ALTER DATABASE regress_tasker_metrics SET %s', setting)
FROM unnest(ARRAY['tasker.orchestrator = off', 'tasker.backoff_jitter = 0', 'client_min_messages = warning', 'TimeZone = ''UTC''']) setting \gexec
\c regress_tasker_metrics
CREATE EXTENSION tasker;
SELECT tasker.register_task_template(jsonb_build_object('name', 'order', 'namespace_name', 'shop "one" \ two', 'version', '1.0.0', 'step_templates', jsonb_build_array(
	jsonb_build_object('name', 'a', 'handler_class', 'plain'),
	jsonb_build_object('name', 'b', 'handler_class', 'say "hi"', 'depends_on_step', 'a'),
	jsonb_build_object('name', 'c', 'handler_class', 'back\slash', 'depends_on_step', 'a'),
	jsonb_build_object('name', 'd', 'handler_class', E'new\nline', 'depends_on_step', 'a', 'default_retry_limit', 1),
	jsonb_build_object('name', 'e', 'handler_class', 'größe {x="y"} # 1,2', 'depends_on_step', 'a')))) > 0 AS registered;

-- Labels are escaped: backslash, quote and line feed, nothing else.
SELECT line FROM regexp_split_to_table(tasker.prometheus_metrics(), '\n') line WHERE line LIKE '%tasker_handler_executors%';
-- Who reads the text finds the names again.
SELECT (SELECT array_agg(h.name ORDER BY h.name) FROM tasker.handlers h) = array_agg(name ORDER BY name) AS same
FROM (
	SELECT replace(replace(replace(replace((regexp_match(line, 'handler="((?:[^"\\]|\\.)*)"'))[1], '\\', E'\x01'), '\n', E'\n'), '\"', '"'), E'\x01', '\') AS name
	FROM regexp_split_to_table(tasker.prometheus_metrics(), '\n') line WHERE line LIKE 'tasker_handler_executors%') found;

-- Every line is a comment or a sample; the samples of a name stand together, behind their two comments.
CREATE VIEW line AS
SELECT n, line, coalesce((regexp_match(line, '^# (HELP|TYPE) '))[1], 'sample') AS kind, coalesce((regexp_match(line, '^# (?:HELP|TYPE) (\w+)'))[1],
	regexp_replace(line, '^(\w+?)(_bucket|_sum|_count)?[ {].*$', '\1')) AS family
FROM regexp_split_to_table(rtrim(tasker.prometheus_metrics(true), E'\n'), '\n') WITH ORDINALITY l (line, n);
SELECT line FROM line
WHERE line !~ '^# HELP \w+ [^\n]+$' AND line !~ '^# TYPE \w+ (counter|gauge|histogram)$'
	AND line !~ '^[a-z_]+\{(,?[a-z]+="([^"\\]|\\["\\n])*")+\} (\d+(\.\d+)?(e[+-]?\d+)?|[+-]Inf|NaN)$';
SELECT count(*) > 20 AS many, bool_and(helps = 1 AND types = 1) AS one_each, bool_and(first = 'HELP,TYPE') AS first, bool_and(together) AS together
FROM (SELECT family, count(*) FILTER (WHERE kind = 'HELP') AS helps, count(*) FILTER (WHERE kind = 'TYPE') AS types,
		array_to_string((array_agg(kind ORDER BY n))[1:2], ',') AS first, max(n) - min(n) + 1 = count(*) AS together
	FROM line GROUP BY family) families;
SELECT right(tasker.prometheus_metrics(), 1) = E'\n' AS ends_with_a_line_feed;

-- Work: completed, failed, cancelled, rolled back; and what waits.
SELECT count(tasker.create_task('order', namespace => 'shop "one" \ two')) FROM generate_series(1, 3);
SELECT tasker.orchestrate() > 0 AS moved;
SELECT executor_id AS executor FROM tasker.register_executor('metrics', '{plain}', 0) \gset
SELECT count(tasker.complete_step(workflow_step_id, claim)) FROM tasker.claim_steps(:executor, 2);
SELECT tasker.orchestrate() >= 0 AS done;
SELECT tasker.cancel_task(max(task_id)) FROM tasker.tasks;
SELECT tasker.orchestrate() >= 0 AS done;
SELECT executor_id AS failing FROM tasker.register_executor('fails', ARRAY[E'new\nline'], 0) \gset
SELECT count(tasker.fail_step(workflow_step_id, claim, 'no')) FROM tasker.claim_steps(:failing, 1);
BEGIN;
SELECT count(tasker.complete_step(workflow_step_id, claim)) FROM tasker.claim_steps(:failing, 1);
ROLLBACK;
SELECT tasker.orchestrate() >= 0 AS done;
SET tasker.clock_offset = '1h';
SELECT name, labels ->> 'handler' AS handler, CASE name WHEN 'tasker_handler_waiting_seconds' THEN round(value::numeric / 100) * 100 ELSE value::numeric END AS value
FROM tasker.metrics WHERE name LIKE 'tasker\_handler\_%' ORDER BY labels ->> 'handler' COLLATE "C", name;
RESET tasker.clock_offset;
SELECT name, value FROM tasker.metrics WHERE name LIKE 'tasker\_executors\_%' ORDER BY name;
SELECT name, labels - 'datname' AS labels, value FROM tasker.state_metrics WHERE value > 0 ORDER BY name, labels;
-- Counted in shared memory, where there is any, and as the logs have it.
SELECT coalesce(sum(h.started), 0) = CASE WHEN count(o.measured_since) > 0 THEN (SELECT count(*) FROM tasker.workflow_step_transition_log WHERE to_state = 'in_progress') ELSE 0 END AS started,
	coalesce(sum(h.completed), 0) = CASE WHEN count(o.measured_since) > 0 THEN (SELECT count(*) FROM tasker.workflow_step_transition_log WHERE to_state = 'complete') ELSE 0 END AS completed,
	coalesce(sum(h.failed), 0) = CASE WHEN count(o.measured_since) > 0 THEN 1 ELSE 0 END AS failed,
	coalesce(sum(h.timed), 0) = coalesce(sum(h.completed + h.failed), 0) AS timed
FROM tasker.stat_handlers h CROSS JOIN tasker.stat_orchestrator o;
SELECT count(*) = CASE WHEN count(o.measured_since) > 0 THEN 1 ELSE 0 END AS one, coalesce(bool_and(created = 3 AND cancelled = 1 AND task = 'order' AND namespace = 'shop "one" \ two' AND version = '1.0.0'), true) AS counted
FROM tasker.stat_tasks CROSS JOIN tasker.stat_orchestrator o;
-- Only who may look everywhere may look here.
CREATE ROLE regress_tasker_monitor;
SELECT tasker.grant_observer('regress_tasker_monitor', 'shop "one" \ two');
SET ROLE regress_tasker_monitor;
SELECT count(*) FROM tasker.metrics;
SELECT tasker.prometheus_metrics();
RESET ROLE;
SELECT tasker.grant_observer('regress_tasker_monitor');
SET ROLE regress_tasker_monitor;
SELECT count(*) > 20 AS looks FROM tasker.metrics;
SELECT length(tasker.prometheus_metrics(true)) > 1000 AS looks;
RESET ROLE;
\c :original
DROP DATABASE regress_tasker_metrics WITH (FORCE);
DROP ROLE regress_tasker_monitor;
