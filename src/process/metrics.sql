-- Metrics for Prometheus: what happened, what waits, how long it takes.
--
-- Whatever is read here at every scrape costs what runs and waits now, not what
-- the history holds. What has to read all tasks and steps is in a view of its own.

CREATE VIEW tasker.stat_tasks AS
SELECT coalesce(s.name, '') AS namespace, coalesce(t.name, 'other') AS task, coalesce(t.version, '') AS version,
	c.created, c.started, c.completed, c.failed, c.cancelled, c.resolved, c.retried,
	c.bounds, c.buckets, c.seconds, c.timed
FROM tasker.transition_counts() c
LEFT JOIN tasker.named_tasks t ON t.named_task_id = c.id
LEFT JOIN tasker.task_namespaces s ON s.task_namespace_id = t.task_namespace_id
WHERE c.owner = 'task' AND (c.id IS NULL OR t.named_task_id IS NOT NULL);
COMMENT ON VIEW tasker.stat_tasks IS
'What happened to the tasks of each template since the server''s start or reset_stats(): transitions that were committed, from the template''s first one on. Templates that have found no room (2048 templates and handlers of the server have) are one row, other, of no namespace. No row where tasker is not preloaded. For operators and monitoring.';
COMMENT ON COLUMN tasker.stat_tasks.failed IS 'Transitions to error; a task that is retried may fail again.';
COMMENT ON COLUMN tasker.stat_tasks.resolved IS 'Transitions to resolved_manually.';
COMMENT ON COLUMN tasker.stat_tasks.retried IS 'Transitions from error to pending.';
COMMENT ON COLUMN tasker.stat_tasks.bounds IS 'Upper bounds of a histogram, in seconds: of tasks that are complete, from their requested_at on.';
COMMENT ON COLUMN tasker.stat_tasks.buckets IS 'How many took up to the bound of the same place; timed is how many there were, seconds how long they took together.';

-- From one priority to the next: each has one that is first in line.
CREATE FUNCTION tasker.waiting_seconds(handler integer) RETURNS double precision
LANGUAGE sql STABLE PARALLEL SAFE
SET jit = off
BEGIN ATOMIC
	WITH RECURSIVE first AS (
		(SELECT q.rank, q.workflow_step_id FROM tasker.work_queue q
		WHERE q.handler_id = handler ORDER BY q.rank, q.workflow_step_id LIMIT 1)
		UNION ALL
		SELECT q.rank, q.workflow_step_id FROM first f
		CROSS JOIN LATERAL (SELECT q.rank, q.workflow_step_id FROM tasker.work_queue q
			WHERE q.handler_id = handler AND q.rank > f.rank ORDER BY q.rank, q.workflow_step_id LIMIT 1) q
	)
	SELECT greatest(extract(epoch FROM tasker.now() - min(r.ready_at)), 0)
	FROM (SELECT f.workflow_step_id FROM first f LIMIT 100) f
	CROSS JOIN LATERAL (SELECT w.sort_key FROM tasker.workflow_steps w WHERE w.workflow_step_id = f.workflow_step_id OFFSET 0) w
	CROSS JOIN LATERAL tasker.ready_since(f.workflow_step_id, w.sort_key + 10) r;
END;
COMMENT ON FUNCTION tasker.waiting_seconds(integer) IS
'For how many seconds the step of a handler, given by its id, that has waited longest is ready, of those that are first in line of their priority; 0 where none waits. Read by stat_handlers.';

-- What is read at every scrape is asked by functions that can say so: to compile
-- it took ten times as long as to run it, and estimates of tables that change
-- by the second have the planner do that.
CREATE FUNCTION tasker.handler_status()
RETURNS TABLE (handler text, namespace text, started bigint, completed bigint, failed bigint, cancelled bigint, resolved bigint, retried bigint,
	released bigint, lost bigint, bounds double precision[], buckets bigint[], seconds double precision, timed bigint,
	waiting bigint, waiting_seconds double precision, executors bigint)
LANGUAGE sql VOLATILE PARALLEL RESTRICTED ROWS 20
SET jit = off
BEGIN ATOMIC
	SELECT h.name AS handler, coalesce(s.name, '') AS namespace,
		c.started, c.completed, c.failed, c.cancelled, c.resolved, c.retried, c.released, c.lost,
		c.bounds, c.buckets, c.seconds, c.timed,
		(SELECT count(*) FROM (SELECT FROM tasker.work_queue q WHERE q.handler_id = h.handler_id LIMIT 10001) q) AS waiting,
		tasker.waiting_seconds(h.handler_id) AS waiting_seconds,
		(SELECT count(*) FROM tasker.executors e WHERE e.ended_at IS NULL AND h.handler_id = ANY (e.handlers)) AS executors
	FROM tasker.handlers h
	LEFT JOIN tasker.task_namespaces s ON s.task_namespace_id = h.task_namespace_id
	LEFT JOIN (SELECT * FROM tasker.transition_counts() WHERE owner = 'step') c ON c.id = h.handler_id
	UNION ALL
	SELECT 'other', 'other', c.started, c.completed, c.failed, c.cancelled, c.resolved, c.retried, c.released, c.lost,
		c.bounds, c.buckets, c.seconds, c.timed, NULL, NULL, NULL
	FROM tasker.transition_counts() c
	WHERE c.owner = 'step' AND c.id IS NULL;
END;
COMMENT ON FUNCTION tasker.handler_status() IS 'The rows of stat_handlers.';

CREATE VIEW tasker.stat_handlers AS
SELECT handler, namespace, started, completed, failed, cancelled, resolved, retried, released, lost,
	bounds, buckets, seconds, timed, waiting, waiting_seconds, executors
FROM tasker.handler_status();
COMMENT ON VIEW tasker.stat_handlers IS
'What waits for each handler now, and what happened to its steps since the server''s start or reset_stats(): transitions that were committed, from the handler''s first one on; NULL before, and where tasker is not preloaded. Handlers that have found no room (2048 templates and handlers of the server have) are one more row, other. For operators and monitoring.';
COMMENT ON COLUMN tasker.stat_handlers.namespace IS 'The isolated namespace whose steps it is for; empty where the others share it.';
COMMENT ON COLUMN tasker.stat_handlers.started IS 'Claims, and starts by hand.';
COMMENT ON COLUMN tasker.stat_handlers.failed IS 'Transitions to error, those that are lost included.';
COMMENT ON COLUMN tasker.stat_handlers.resolved IS 'Transitions to resolved_manually.';
COMMENT ON COLUMN tasker.stat_handlers.retried IS 'Transitions from error to pending.';
COMMENT ON COLUMN tasker.stat_handlers.released IS 'Given back, unstarted or by hand: transitions from in_progress to pending.';
COMMENT ON COLUMN tasker.stat_handlers.lost IS 'Those of failed that no executor has reported: it was lost, or the attempt took longer than its timeout.';
COMMENT ON COLUMN tasker.stat_handlers.bounds IS 'Upper bounds of a histogram, in seconds: of attempts that an executor has reported complete or failed, from their claim on.';
COMMENT ON COLUMN tasker.stat_handlers.buckets IS 'How many took up to the bound of the same place; timed is how many there were, seconds how long they took together.';
COMMENT ON COLUMN tasker.stat_handlers.waiting IS 'Ready steps that no executor has; 10001 stands for more than 10000.';
COMMENT ON COLUMN tasker.stat_handlers.waiting_seconds IS 'For how long the one that has waited longest is ready, of those that are first in line of their priority; 0 where none waits.';
COMMENT ON COLUMN tasker.stat_handlers.executors IS 'Executors that can run it and have not ended.';

CREATE FUNCTION tasker.metric_samples() RETURNS TABLE (name text, type text, help text, labels jsonb, value double precision)
LANGUAGE sql VOLATILE PARALLEL RESTRICTED ROWS 500
SET jit = off
BEGIN ATOMIC
	WITH task AS MATERIALIZED (SELECT * FROM tasker.stat_tasks), handler AS MATERIALIZED (SELECT * FROM tasker.stat_handlers)
	SELECT s.family || s.suffix AS name, d.type, d.help, jsonb_build_object('datname', current_database()) || s.labels AS labels, s.value
	FROM (
		SELECT 'tasker_task_' || e.event || '_total' AS family, '' AS suffix,
			jsonb_build_object('namespace', t.namespace, 'task', t.task, 'version', t.version) AS labels, e.n::double precision AS value
		FROM task t
		CROSS JOIN LATERAL (VALUES ('created', t.created), ('started', t.started), ('completed', t.completed), ('failed', t.failed),
			('cancelled', t.cancelled), ('resolved', t.resolved), ('retried', t.retried)) e (event, n)
		UNION ALL
		SELECT 'tasker_step_' || e.event || '_total', '', jsonb_build_object('handler', h.handler, 'namespace', h.namespace), e.n
		FROM handler h
		CROSS JOIN LATERAL (VALUES ('started', h.started), ('completed', h.completed), ('failed', h.failed), ('cancelled', h.cancelled),
			('resolved', h.resolved), ('retried', h.retried), ('released', h.released), ('lost', h.lost)) e (event, n)
		WHERE h.started IS NOT NULL
		UNION ALL
		SELECT g.family, b.suffix, g.labels || b.labels, b.value
		FROM (
			SELECT 'tasker_task_duration_seconds' AS family, jsonb_build_object('namespace', t.namespace, 'task', t.task, 'version', t.version) AS labels,
				t.bounds, t.buckets, t.seconds, t.timed
			FROM task t
			UNION ALL
			SELECT 'tasker_step_duration_seconds', jsonb_build_object('handler', h.handler, 'namespace', h.namespace), h.bounds, h.buckets, h.seconds, h.timed
			FROM handler h
			WHERE h.started IS NOT NULL
			UNION ALL
			SELECT 'tasker_latency_seconds', jsonb_build_object('stage', l.name),
				array_agg(l.upper_bound ORDER BY l.upper_bound) FILTER (WHERE l.upper_bound < 'Infinity'),
				array_agg(l.count ORDER BY l.upper_bound) FILTER (WHERE l.upper_bound < 'Infinity'), max(l.seconds), max(l.count)
			FROM tasker.stat_latencies l
			GROUP BY l.name
		) g
		CROSS JOIN LATERAL (
			SELECT '_bucket' AS suffix, jsonb_build_object('le', u.bound::text) AS labels, u.n::double precision AS value
			FROM unnest(g.bounds, g.buckets) u (bound, n)
			UNION ALL VALUES ('_bucket', jsonb_build_object('le', '+Inf'), g.timed), ('_sum', '{}', g.seconds), ('_count', '{}', g.timed)
		) b
		UNION ALL
		SELECT 'tasker_handler_' || e.gauge, '', jsonb_build_object('handler', h.handler, 'namespace', h.namespace), e.value
		FROM handler h
		CROSS JOIN LATERAL (VALUES ('waiting_steps', h.waiting), ('waiting_seconds', h.waiting_seconds), ('executors', h.executors)) e (gauge, value)
		WHERE h.executors IS NOT NULL
		UNION ALL
		SELECT 'tasker_executors_' || v.gauge, '', '{}', v.value
		FROM (SELECT count(*) AS alive, coalesce(sum(e.capacity), 0) AS capacity, coalesce(sum(e.in_flight), 0) AS in_flight
			FROM tasker.stat_executors e WHERE e.ended_at IS NULL) e
		CROSS JOIN LATERAL (VALUES ('alive', e.alive), ('capacity', e.capacity), ('in_flight_steps', e.in_flight)) v (gauge, value)
		UNION ALL
		SELECT 'tasker_orchestrator_' || v.name, '', '{}', coalesce(v.value, 0)
		FROM tasker.stat_orchestrator o
		CROSS JOIN LATERAL (VALUES ('running', (o.status = 'running')::integer), ('holds_dispatch', (o.holds_dispatch IS NOT NULL)::integer),
			('batches_total', o.batches), ('log_rows_total', o.log_rows), ('claims_total', o.claims), ('notifications_total', o.notifications),
			('errors_total', o.errors), ('unread_rows', o.unread_rows), ('unread_seconds', o.unread_seconds), ('memory_bytes', o.memory_bytes),
			('set_aside', o.set_aside)) v (name, value)
		UNION ALL
		SELECT 'tasker_consumer_' || v.name, '', jsonb_build_object('consumer', c.name), v.value
		FROM tasker.stat_event_consumers c
		CROSS JOIN LATERAL (VALUES ('events_behind', c.events_behind), ('events_read_total', c.events_read),
			('read_seconds', greatest(extract(epoch FROM tasker.now() - coalesce(c.read_at, c.created_at)), 0)),
			('holds_history', c.holds_history::integer)) v (name, value)
		UNION ALL
		SELECT 'tasker_history_' || v.gauge, '', '{}', v.value
		FROM (SELECT count(*) AS partitions, sum(pg_total_relation_size(i.inhrelid)) AS bytes,
				(SELECT coalesce(max(extract(epoch FROM tasker.now() - p.closed_at)), 0) FROM tasker.history_periods p WHERE p.closed_at IS NOT NULL) AS oldest,
				extract(epoch FROM current_setting('tasker.retention')::interval) AS retention
			FROM pg_inherits i
			WHERE i.inhparent IN ('tasker.task_transition_log'::regclass, 'tasker.workflow_step_transition_log'::regclass)) h
		CROSS JOIN LATERAL (VALUES ('partitions', h.partitions), ('bytes', h.bytes), ('oldest_seconds', greatest(h.oldest, 0)),
			('retention_seconds', h.retention)) v (gauge, value)
	) s
	JOIN (VALUES
		('tasker_task_created_total', 'counter', 'Tasks created.'),
		('tasker_task_started_total', 'counter', 'Transitions of tasks to in_progress.'),
		('tasker_task_completed_total', 'counter', 'Transitions of tasks to complete.'),
		('tasker_task_failed_total', 'counter', 'Transitions of tasks to error.'),
		('tasker_task_cancelled_total', 'counter', 'Transitions of tasks to cancelled.'),
		('tasker_task_resolved_total', 'counter', 'Transitions of tasks to resolved_manually.'),
		('tasker_task_retried_total', 'counter', 'Transitions of tasks from error to pending.'),
		('tasker_task_duration_seconds', 'histogram', 'From the request of a task to its completion.'),
		('tasker_step_started_total', 'counter', 'Transitions of steps to in_progress: attempts.'),
		('tasker_step_completed_total', 'counter', 'Transitions of steps to complete.'),
		('tasker_step_failed_total', 'counter', 'Transitions of steps to error, lost attempts included.'),
		('tasker_step_cancelled_total', 'counter', 'Transitions of steps to cancelled.'),
		('tasker_step_resolved_total', 'counter', 'Transitions of steps to resolved_manually.'),
		('tasker_step_retried_total', 'counter', 'Transitions of steps from error to pending.'),
		('tasker_step_released_total', 'counter', 'Transitions of steps from in_progress to pending.'),
		('tasker_step_lost_total', 'counter', 'Attempts that ended without a report: the executor was lost, or time was out.'),
		('tasker_step_duration_seconds', 'histogram', 'From the claim of a step to the report of its executor.'),
		('tasker_latency_seconds', 'histogram', 'How long tasker itself takes, by stage: intake, dispatch, claim, execution, batch.'),
		('tasker_handler_waiting_steps', 'gauge', 'Ready steps that no executor has; 10001: more than 10000.'),
		('tasker_handler_waiting_seconds', 'gauge', 'For how long the one that has waited longest is ready, of those first in line.'),
		('tasker_handler_executors', 'gauge', 'Executors that can run the handler.'),
		('tasker_executors_alive', 'gauge', 'Executors that have not ended.'),
		('tasker_executors_capacity', 'gauge', 'Steps that can be pushed to them at once.'),
		('tasker_executors_in_flight_steps', 'gauge', 'Steps that they have.'),
		('tasker_orchestrator_running', 'gauge', 'Whether an orchestrator runs for the database.'),
		('tasker_orchestrator_holds_dispatch', 'gauge', 'Whether nothing is given out: everything is paused, or the database was restored.'),
		('tasker_orchestrator_batches_total', 'counter', 'Batches of the orchestrator.'),
		('tasker_orchestrator_log_rows_total', 'counter', 'Transitions that it has read.'),
		('tasker_orchestrator_claims_total', 'counter', 'Steps that it has given out.'),
		('tasker_orchestrator_notifications_total', 'counter', 'Notifications that it has sent.'),
		('tasker_orchestrator_errors_total', 'counter', 'Batches that have failed.'),
		('tasker_orchestrator_unread_rows', 'gauge', 'Committed transitions that no batch has read.'),
		('tasker_orchestrator_unread_seconds', 'gauge', 'For how long the oldest commit with news has been unread.'),
		('tasker_orchestrator_memory_bytes', 'gauge', 'What the process of the orchestrator has allocated.'),
		('tasker_orchestrator_set_aside', 'gauge', 'Tasks and steps that it could not process.'),
		('tasker_consumer_events_behind', 'gauge', 'Events that a consumer has not read; more than 10000 of a kind count as 10001.'),
		('tasker_consumer_events_read_total', 'counter', 'Events that a consumer has read.'),
		('tasker_consumer_read_seconds', 'gauge', 'Since a consumer has read for the last time.'),
		('tasker_consumer_holds_history', 'gauge', 'Whether retention waits for the consumer.'),
		('tasker_history_partitions', 'gauge', 'Partitions of the transition logs.'),
		('tasker_history_bytes', 'gauge', 'Size of the transition logs.'),
		('tasker_history_oldest_seconds', 'gauge', 'Since the end of the oldest period of the logs that is still there; 0: there is none but the current one.'),
		('tasker_history_retention_seconds', 'gauge', 'The setting tasker.retention; 0 keeps everything.')) d (family, type, help)
		ON d.family = s.family;
END;
COMMENT ON FUNCTION tasker.metric_samples() IS 'The rows of metrics.';

CREATE VIEW tasker.metrics AS
SELECT name, type, help, labels, value FROM tasker.metric_samples();
COMMENT ON VIEW tasker.metrics IS
'Metrics in the terms of Prometheus, one row for each sample. Counters and histograms are kept in shared memory and begin at zero when the server starts, or at reset_stats(), which rate() and increase() know how to take; they count what was committed. Costs what runs and waits now, not what the history holds. Without tasker in shared_preload_libraries only gauges tell something. For monitoring: grant_observer() without a namespace is enough.';
COMMENT ON COLUMN tasker.metrics.type IS 'counter, gauge or histogram.';
COMMENT ON COLUMN tasker.metrics.labels IS 'An object of strings: datname is the database, le the upper bound of a bucket.';

CREATE VIEW tasker.state_metrics AS
SELECT d.name, 'gauge' AS type, d.help, jsonb_build_object('datname', current_database(), 'state', d.state) AS labels, coalesce(n.value, 0)::double precision AS value
FROM (SELECT * FROM (VALUES ('tasker_tasks', 'Tasks by state.'), ('tasker_steps', 'Steps by state.')) m (name, help)
	CROSS JOIN unnest(enum_range(NULL::tasker.state)) s (state)) d
LEFT JOIN (
	SELECT 'tasker_tasks' AS name, t.state, count(*) AS value FROM tasker.tasks t GROUP BY t.state
	UNION ALL
	SELECT 'tasker_steps', w.state, count(*) FROM tasker.workflow_steps w GROUP BY w.state
) n ON n.name = d.name AND n.state = d.state;
COMMENT ON VIEW tasker.state_metrics IS
'Metrics as those of the view metrics: how many tasks and steps there are in each state. Reads all tasks and steps, one pass each, as system_health_counts() does, so not at every scrape.';

CREATE FUNCTION tasker.prometheus_metrics(with_states boolean DEFAULT false) RETURNS text
LANGUAGE sql VOLATILE PARALLEL RESTRICTED
SET extra_float_digits = 1
SET jit = off
BEGIN ATOMIC
	SELECT coalesce(string_agg(
		CASE WHEN s.place = 1 THEN format(E'# HELP %s %s\n# TYPE %1$s %3$s\n', s.family,
			replace(replace(s.help, '\', '\\'), E'\n', '\n'), s.type) ELSE '' END
		|| s.name || coalesce('{' || (
			SELECT string_agg(format('%s="%s"', l.key, replace(replace(replace(l.value, '\', '\\'), E'\n', '\n'), '"', '\"')), ',' ORDER BY l.key = 'le', l.key COLLATE "C")
			FROM jsonb_each_text(s.labels) l) || '}', '')
		|| ' ' || CASE s.value WHEN 'Infinity' THEN '+Inf' WHEN '-Infinity' THEN '-Inf' ELSE s.value::text END, E'\n'
		ORDER BY s.family COLLATE "C", s.place) || E'\n', '')
	FROM (
		SELECT m.*, row_number() OVER (PARTITION BY m.family
			ORDER BY (m.labels - 'le')::text COLLATE "C", m.name COLLATE "C" = m.family || '_count', m.name COLLATE "C" = m.family || '_sum',
				(m.labels ->> 'le')::double precision) AS place
		FROM (
			SELECT a.*, CASE a.type WHEN 'histogram' THEN regexp_replace(a.name, '_(bucket|sum|count)$', '') ELSE a.name END AS family
			FROM (SELECT * FROM tasker.metrics UNION ALL SELECT * FROM tasker.state_metrics WHERE with_states) a
		) m
	) s;
END;
COMMENT ON FUNCTION tasker.prometheus_metrics(boolean) IS
'The view metrics in the text format of Prometheus (version 0.0.4), to be served to a scrape as it is, in UTF-8; with_states: state_metrics as well, which reads all tasks and steps. Changes nothing. For monitoring: grant_observer() without a namespace is enough.';
