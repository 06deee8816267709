-- What the recent past says about speed and failure.
--
-- Everything starts from the rows of the logs that are younger than a given time,
-- found by the BRIN index that each partition has on it: what is older is not
-- read. From there all goes by key, to the row of a step, a task, a claim. No
-- statistics can turn that into a scan of a whole table: the two functions that
-- read the logs forbid it, and laterals with OFFSET 0 are asked row by row.
-- Durations are seconds.

CREATE FUNCTION tasker.ended_attempts(since timestamptz)
RETURNS TABLE (workflow_step_id bigint, sort_key integer, state tasker.state, started_at timestamptz, ended_at timestamptz, metadata jsonb)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 10000
SET enable_seqscan = off
SET jit = off
BEGIN ATOMIC
	SELECT l.workflow_step_id, l.sort_key, l.to_state,
		(SELECT claim.created_at FROM tasker.workflow_step_transition_log claim
			WHERE claim.workflow_step_id = l.workflow_step_id AND claim.sort_key = l.sort_key - 10),
		l.created_at, CASE WHEN l.to_state = 'error' THEN l.metadata END
	FROM tasker.workflow_step_transition_log l
	WHERE l.created_at >= coalesce(since, '-infinity')
		AND l.from_state = 'in_progress' AND l.to_state IN ('complete', 'error')
		AND (l.metadata IS NULL OR NOT l.metadata ? 'waited');
END;
COMMENT ON FUNCTION tasker.ended_attempts(timestamptz) IS
'The attempts that were completed or failed since then (NULL: ever), with the time of their claim, and the metadata of those that failed; waits that have ended well are none. Read by the analytics.';

CREATE FUNCTION tasker.recent_tasks(since timestamptz)
RETURNS TABLE (task_id bigint, created_at timestamptz, ended_at timestamptz, ended_as tasker.state)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 10000
SET enable_seqscan = off
SET jit = off
BEGIN ATOMIC
	SELECT DISTINCT ON (l.task_id) l.task_id,
		(SELECT creation.created_at FROM tasker.task_transition_log creation WHERE creation.task_id = l.task_id AND creation.sort_key = 10),
		CASE WHEN l.from_state IS NOT NULL THEN l.created_at END,
		CASE WHEN l.from_state IS NOT NULL THEN l.to_state END
	-- Without the OFFSET the whole log might be read in the order that is wanted.
	FROM (
		SELECT l.* FROM tasker.task_transition_log l
		WHERE l.created_at >= coalesce(since, '-infinity')
			AND (l.from_state IS NULL OR l.to_state NOT IN ('pending', 'in_progress'))
		OFFSET 0
	) l
	ORDER BY l.task_id, l.sort_key DESC;
END;
COMMENT ON FUNCTION tasker.recent_tasks(timestamptz) IS
'The tasks that were created or ended since then (NULL: ever), one row each: the creation, and the last end since then, NULL where there is none. Read by the analytics.';

-- A claim follows upon what made its step pending: a release, a retry or, for
-- the first one, the end of the last parent, and of a root the creation.
CREATE FUNCTION tasker.ready_since(step_id bigint, claim integer)
RETURNS TABLE (ready_at timestamptz)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
	SELECT CASE WHEN claim > 10 THEN
			(SELECT l.created_at FROM tasker.workflow_step_transition_log l WHERE l.workflow_step_id = step_id AND l.sort_key = claim - 10)
		ELSE greatest(
			(SELECT l.created_at FROM tasker.task_transition_log l WHERE l.task_id = s.task_id AND l.sort_key = 10),
			(SELECT max((SELECT l.created_at FROM tasker.workflow_step_transition_log l
					WHERE l.workflow_step_id = p.workflow_step_id AND l.sort_key = p.sort_key))
				FROM tasker.named_step_edges e
				CROSS JOIN LATERAL (SELECT p.workflow_step_id, p.sort_key FROM tasker.workflow_steps p
					WHERE p.task_id = s.task_id AND p.named_step_id = e.from_named_step_id OFFSET 0) p
				WHERE e.named_task_id = s.named_task_id AND e.to_named_step_id = s.named_step_id))
		END
	FROM (
		SELECT s.task_id, s.named_step_id, (SELECT t.named_task_id FROM tasker.tasks t WHERE t.task_id = s.task_id) AS named_task_id
		FROM tasker.workflow_steps s
		WHERE s.workflow_step_id = step_id
	) s;
END;
COMMENT ON FUNCTION tasker.ready_since(bigint, integer) IS
'When a step had become ready before the claim with this number: the release, retry or resumption that made it pending, the end of its last parent, or the creation of its task. No row where there is no such step. Read by the analytics.';

CREATE FUNCTION tasker.step_of_template(step_id bigint, namespace text, task_name text, version text)
RETURNS TABLE (task_id bigint, attempts integer, retryable boolean, step_name text, task_name text, namespace_name text, version text)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
	SELECT s.task_id, s.attempts, s.retryable, step.name, t.name, n.name, t.version
	FROM tasker.workflow_steps s
	CROSS JOIN LATERAL (SELECT t.named_task_id FROM tasker.tasks t WHERE t.task_id = s.task_id OFFSET 0) run
	JOIN tasker.named_tasks t ON t.named_task_id = run.named_task_id
	JOIN tasker.task_namespaces n ON n.task_namespace_id = t.task_namespace_id
	JOIN tasker.named_steps step ON step.named_step_id = s.named_step_id
	WHERE s.workflow_step_id = step_id
		AND (step_of_template.namespace IS NULL OR n.name = step_of_template.namespace)
		AND (step_of_template.task_name IS NULL OR t.name = step_of_template.task_name)
		AND (step_of_template.version IS NULL OR t.version = step_of_template.version)
	OFFSET 0;
END;
COMMENT ON FUNCTION tasker.step_of_template(bigint, text, text, text) IS
'A step with its names, if it is of the namespace, template name and version given (NULL: any). Read by the analytics.';

CREATE FUNCTION tasker.analytics_metrics(since timestamptz DEFAULT tasker.now() - interval '1 hour')
RETURNS TABLE (
	active_tasks_count bigint, total_namespaces_count bigint, unique_task_types_count bigint,
	system_health_score numeric, task_throughput bigint, completion_count bigint, error_count bigint,
	completion_rate numeric, error_rate numeric,
	avg_task_duration numeric, p50_task_duration numeric, p95_task_duration numeric, p99_task_duration numeric,
	step_throughput bigint, step_failure_count bigint,
	avg_step_duration numeric, p50_step_duration numeric, p95_step_duration numeric, p99_step_duration numeric,
	avg_queue_wait numeric, p50_queue_wait numeric, p95_queue_wait numeric, p99_queue_wait numeric,
	analysis_period_start timestamptz, calculated_at timestamptz)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
SET jit = off
BEGIN ATOMIC
	WITH attempt AS MATERIALIZED (
		SELECT a.workflow_step_id, a.sort_key - 10 AS claim, a.state, a.started_at,
			extract(epoch FROM a.ended_at - a.started_at)::double precision AS seconds,
			row_number() OVER () AS number, count(*) OVER () AS attempts
		FROM tasker.ended_attempts(since) a
	), wait AS (
		SELECT greatest(extract(epoch FROM a.started_at - r.ready_at)::double precision, 0) AS seconds
		FROM attempt a
		CROSS JOIN LATERAL tasker.ready_since(a.workflow_step_id, a.claim) r
		WHERE a.number % (1 + (a.attempts - 1) / 10000) = 0
	), used AS (
		SELECT n.task_namespace_id, n.name
		FROM tasker.named_tasks n
		WHERE EXISTS (SELECT FROM tasker.tasks t WHERE t.named_task_id = n.named_task_id OFFSET 0)
	)
	SELECT (SELECT count(*) FROM tasker.tasks t WHERE t.state IN ('pending', 'in_progress')),
		(SELECT count(DISTINCT u.task_namespace_id) FROM used u),
		(SELECT count(DISTINCT (u.task_namespace_id, u.name)) FROM used u),
		coalesce(round(task.completed::numeric / nullif(task.completed + task.failed, 0), 3), 1.000),
		task.created, task.completed, task.failed,
		coalesce(round(task.completed * 100.0 / nullif(task.ended, 0), 2), 0.00),
		coalesce(round(task.failed * 100.0 / nullif(task.ended, 0), 2), 0.00),
		round(task.mean::numeric, 6), round(task.percentiles[1]::numeric, 6), round(task.percentiles[2]::numeric, 6), round(task.percentiles[3]::numeric, 6),
		step.completed, step.failed,
		round(step.mean::numeric, 6), round(step.percentiles[1]::numeric, 6), round(step.percentiles[2]::numeric, 6), round(step.percentiles[3]::numeric, 6),
		round(waits.mean::numeric, 6), round(waits.percentiles[1]::numeric, 6), round(waits.percentiles[2]::numeric, 6), round(waits.percentiles[3]::numeric, 6),
		since, tasker.now()
	FROM (
		SELECT count(*) FILTER (WHERE t.created_at >= coalesce(since, '-infinity')) AS created, count(t.ended_at) AS ended,
			count(*) FILTER (WHERE t.ended_as = 'complete') AS completed,
			count(*) FILTER (WHERE t.ended_as = 'error') AS failed,
			avg(t.seconds) FILTER (WHERE t.ended_as = 'complete') AS mean,
			percentile_cont('{0.5,0.95,0.99}'::double precision[]) WITHIN GROUP (ORDER BY t.seconds) FILTER (WHERE t.ended_as = 'complete') AS percentiles
		FROM (SELECT r.*, extract(epoch FROM r.ended_at - r.created_at)::double precision AS seconds FROM tasker.recent_tasks(since) r) t
	) task
	CROSS JOIN (
		SELECT count(*) FILTER (WHERE a.state = 'complete') AS completed,
			count(*) FILTER (WHERE a.state = 'error') AS failed,
			avg(a.seconds) FILTER (WHERE a.state = 'complete') AS mean,
			percentile_cont('{0.5,0.95,0.99}'::double precision[]) WITHIN GROUP (ORDER BY a.seconds) FILTER (WHERE a.state = 'complete') AS percentiles
		FROM attempt a
	) step
	CROSS JOIN (
		SELECT avg(w.seconds) AS mean, percentile_cont('{0.5,0.95,0.99}'::double precision[]) WITHIN GROUP (ORDER BY w.seconds) AS percentiles
		FROM wait w
	) waits;
END;
COMMENT ON FUNCTION tasker.analytics_metrics(timestamptz) IS
'What has happened since then (NULL: ever), in one row. Counts: active_tasks_count open tasks now; total_namespaces_count and unique_task_types_count of those that have tasks; task_throughput tasks created; completion_count and error_count tasks by their last end in the period; step_throughput and step_failure_count attempts completed and failed. Rates: completion_rate and error_rate are per cent of the tasks that ended, system_health_score completed to completed and failed, 1 where there is none. Seconds, average and percentiles, NULL where there is nothing to measure: task_duration of completed tasks from creation to end; step_duration of completed steps from claim to completion; queue_wait from a step being ready to its claim, of every attempt that ended, or of about 10000 evenly chosen ones. Costs one pass over the tasks and, by the period, the rows of the logs written since.';

CREATE FUNCTION tasker.slowest_steps(since timestamptz DEFAULT tasker.now() - interval '24 hours', max integer DEFAULT 10,
	namespace text DEFAULT NULL, task_name text DEFAULT NULL, version text DEFAULT NULL)
RETURNS TABLE (workflow_step_id bigint, task_id bigint, step_name text, task_name text, namespace_name text, version text,
	duration_seconds numeric, waiting_seconds numeric, attempts integer, created_at timestamptz, ready_at timestamptz,
	started_at timestamptz, completed_at timestamptz, retryable boolean, step_status tasker.state)
LANGUAGE sql STABLE PARALLEL SAFE
SET jit = off
BEGIN ATOMIC
	SELECT slow.workflow_step_id, slow.task_id, slow.step_name, slow.task_name, slow.namespace_name, slow.version,
		round(extract(epoch FROM slow.duration), 6),
		round(greatest(extract(epoch FROM slow.started_at - ready.ready_at), 0), 6), slow.attempts,
		(SELECT l.created_at FROM tasker.task_transition_log l WHERE l.task_id = slow.task_id AND l.sort_key = 10),
		ready.ready_at, slow.started_at, slow.ended_at, slow.retryable, slow.state
	FROM (
		SELECT a.*, s.*
		FROM (
			SELECT a.workflow_step_id, a.sort_key, a.state, a.started_at, a.ended_at, a.ended_at - a.started_at AS duration
			FROM tasker.ended_attempts(slowest_steps.since) a
			WHERE a.state = 'complete'
			ORDER BY duration DESC, a.workflow_step_id
		) a
		CROSS JOIN LATERAL tasker.step_of_template(a.workflow_step_id, slowest_steps.namespace, slowest_steps.task_name, slowest_steps.version) s
		ORDER BY a.duration DESC, a.workflow_step_id
		LIMIT max
	) slow
	CROSS JOIN LATERAL tasker.ready_since(slow.workflow_step_id, slow.sort_key - 10) ready
	ORDER BY slow.duration DESC, slow.workflow_step_id;
END;
COMMENT ON FUNCTION tasker.slowest_steps(timestamptz, integer, text, text, text) IS
'The steps completed since then (NULL: ever) whose successful attempt took longest, at most so many (NULL: all), of the namespace, template name and version given (NULL: any). duration_seconds from claim to completion, waiting_seconds from being ready to that claim; created_at is the creation of the task. Error: 2201W negative max.';

CREATE FUNCTION tasker.slowest_tasks(since timestamptz DEFAULT tasker.now() - interval '24 hours', max integer DEFAULT 10,
	namespace text DEFAULT NULL, task_name text DEFAULT NULL, version text DEFAULT NULL)
RETURNS TABLE (task_id bigint, task_name text, namespace_name text, version text, status tasker.state,
	duration_seconds numeric, execution_seconds numeric, waiting_seconds numeric,
	step_count bigint, completed_steps bigint, error_steps bigint,
	created_at timestamptz, completed_at timestamptz, initiator text, source_system text)
LANGUAGE sql STABLE PARALLEL SAFE
SET jit = off
BEGIN ATOMIC
	SELECT slow.task_id, slow.task_name, slow.namespace_name, slow.version, slow.ended_as,
		round(extract(epoch FROM slow.duration), 6), round(busy.seconds, 6), round(extract(epoch FROM slow.duration) - busy.seconds, 6),
		step.total, step.completed, step.failed, slow.created_at, slow.ended_at, slow.initiator, slow.source_system
	FROM (
		SELECT r.*, t.*
		FROM (
			SELECT r.task_id, r.created_at, r.ended_at, r.ended_as, r.ended_at - r.created_at AS duration
			FROM tasker.recent_tasks(slowest_tasks.since) r
			WHERE r.ended_as IN ('complete', 'error')
			ORDER BY duration DESC, r.task_id
		) r
		CROSS JOIN LATERAL (
			SELECT n.name AS task_name, s.name AS namespace_name, n.version, t.initiator, t.source_system
			FROM tasker.tasks t
			JOIN tasker.named_tasks n ON n.named_task_id = t.named_task_id
			JOIN tasker.task_namespaces s ON s.task_namespace_id = n.task_namespace_id
			WHERE t.task_id = r.task_id
				AND (slowest_tasks.namespace IS NULL OR s.name = slowest_tasks.namespace)
				AND (slowest_tasks.task_name IS NULL OR n.name = slowest_tasks.task_name)
				AND (slowest_tasks.version IS NULL OR n.version = slowest_tasks.version)
			OFFSET 0
		) t
		ORDER BY r.duration DESC, r.task_id
		LIMIT max
	) slow
	CROSS JOIN LATERAL (
		SELECT count(*) AS total,
			count(*) FILTER (WHERE s.state IN ('complete', 'resolved_manually')) AS completed,
			count(*) FILTER (WHERE s.state = 'error') AS failed
		FROM tasker.workflow_steps s
		WHERE s.task_id = slow.task_id
	) step
	-- Attempts overlap: what counts is the time in which at least one ran.
	CROSS JOIN LATERAL (
		SELECT coalesce(sum(extract(epoch FROM upper(run) - lower(run))), 0) AS seconds
		FROM unnest((
			SELECT range_agg(tstzrange(claim.created_at, greatest(claim.created_at, claim.ended_at)))
			FROM tasker.workflow_steps s
			CROSS JOIN LATERAL (
				SELECT l.to_state, l.created_at, lead(l.created_at) OVER (ORDER BY l.sort_key) AS ended_at
				FROM tasker.workflow_step_transition_log l
				WHERE l.workflow_step_id = s.workflow_step_id
				OFFSET 0
			) claim
			WHERE s.task_id = slow.task_id AND claim.to_state = 'in_progress' AND claim.created_at < slow.ended_at
		)) AS run
		WHERE NOT isempty(run)
	) busy
	ORDER BY slow.duration DESC, slow.task_id;
END;
COMMENT ON FUNCTION tasker.slowest_tasks(timestamptz, integer, text, text, text) IS
'The tasks that ended since then (NULL: ever) as complete or in error and took longest from creation to end, at most so many (NULL: all), of the namespace, template name and version given (NULL: any). execution_seconds is the time in which at least one of its steps was with an executor, waiting_seconds the rest. status is how it ended then. Error: 2201W negative max.';

CREATE FUNCTION tasker.error_patterns(since timestamptz DEFAULT tasker.now() - interval '24 hours', max integer DEFAULT 10,
	namespace text DEFAULT NULL, task_name text DEFAULT NULL, version text DEFAULT NULL)
RETURNS TABLE (error_class text, error_pattern text, occurrences bigint, steps bigint, tasks bigint, step_names text[],
	first_seen_at timestamptz, last_seen_at timestamptz, last_step_id bigint)
LANGUAGE sql STABLE PARALLEL SAFE
SET jit = off
BEGIN ATOMIC
	SELECT e.error_class, e.pattern, count(*), count(DISTINCT e.workflow_step_id), count(DISTINCT e.task_id),
		array_agg(DISTINCT e.step_name ORDER BY e.step_name), min(e.ended_at), max(e.ended_at),
		(array_agg(e.workflow_step_id ORDER BY e.ended_at DESC, e.workflow_step_id DESC))[1]
	FROM (
		SELECT a.metadata ->> 'error_class' AS error_class, regexp_replace(a.metadata ->> 'error_message', '\d+', '#', 'g') AS pattern,
			a.workflow_step_id, a.ended_at, s.task_id, s.step_name
		FROM tasker.ended_attempts(error_patterns.since) a
		CROSS JOIN LATERAL tasker.step_of_template(a.workflow_step_id, error_patterns.namespace, error_patterns.task_name, error_patterns.version) s
		WHERE a.state = 'error'
	) e
	GROUP BY e.error_class, e.pattern
	ORDER BY count(*) DESC, max(e.ended_at) DESC, e.error_class, e.pattern
	LIMIT max;
END;
COMMENT ON FUNCTION tasker.error_patterns(timestamptz, integer, text, text, text) IS
'What failed attempts since then (NULL: ever) had in common, the most frequent first, at most so many (NULL: all), of the namespace, template name and version given (NULL: any). error_pattern is the message with each number written as #; lost executors and timeouts have the classes executor_lost and timeout. Error: 2201W negative max.';

CREATE FUNCTION tasker.step_duration_statistics(since timestamptz DEFAULT tasker.now() - interval '24 hours', max integer DEFAULT 10,
	namespace text DEFAULT NULL, task_name text DEFAULT NULL, version text DEFAULT NULL)
RETURNS TABLE (namespace_name text, task_name text, version text, step_name text,
	completions bigint, failures bigint, total_duration numeric, avg_duration numeric,
	p50_duration numeric, p95_duration numeric, p99_duration numeric, max_duration numeric, avg_queue_wait numeric)
LANGUAGE sql STABLE PARALLEL SAFE
SET jit = off
BEGIN ATOMIC
	SELECT n.name, t.name, t.version, step.name, g.completions, g.failures,
		round(g.total::numeric, 6), round(g.mean::numeric, 6), round(g.percentiles[1]::numeric, 6), round(g.percentiles[2]::numeric, 6),
		round(g.percentiles[3]::numeric, 6), round(g.longest::numeric, 6), round(g.wait::numeric, 6)
	FROM (
		SELECT run.named_task_id, s.named_step_id,
			count(*) FILTER (WHERE a.state = 'complete') AS completions,
			count(*) FILTER (WHERE a.state = 'error') AS failures,
			sum(a.seconds) AS total,
			avg(a.seconds) FILTER (WHERE a.state = 'complete') AS mean,
			percentile_cont('{0.5,0.95,0.99}'::double precision[]) WITHIN GROUP (ORDER BY a.seconds) FILTER (WHERE a.state = 'complete') AS percentiles,
			max(a.seconds) FILTER (WHERE a.state = 'complete') AS longest,
			avg(greatest(extract(epoch FROM a.started_at - w.ready_at)::double precision, 0)) FILTER (WHERE w.ready_at IS NOT NULL) AS wait
		FROM (
			SELECT a.workflow_step_id, a.sort_key - 10 AS claim, a.state, a.started_at,
				extract(epoch FROM a.ended_at - a.started_at)::double precision AS seconds,
				row_number() OVER () AS number, count(*) OVER () AS attempts
			FROM tasker.ended_attempts(step_duration_statistics.since) a
		) a
		CROSS JOIN LATERAL (SELECT s.named_step_id, s.task_id FROM tasker.workflow_steps s WHERE s.workflow_step_id = a.workflow_step_id OFFSET 0) s
		CROSS JOIN LATERAL (SELECT t.named_task_id FROM tasker.tasks t WHERE t.task_id = s.task_id OFFSET 0) run
		LEFT JOIN LATERAL tasker.ready_since(CASE WHEN a.number % (1 + (a.attempts - 1) / 10000) = 0 THEN a.workflow_step_id END, a.claim) w ON true
		GROUP BY run.named_task_id, s.named_step_id
	) g
	JOIN tasker.named_tasks t ON t.named_task_id = g.named_task_id
	JOIN tasker.task_namespaces n ON n.task_namespace_id = t.task_namespace_id
	JOIN tasker.named_steps step ON step.named_step_id = g.named_step_id
	WHERE (step_duration_statistics.namespace IS NULL OR n.name = step_duration_statistics.namespace)
		AND (step_duration_statistics.task_name IS NULL OR t.name = step_duration_statistics.task_name)
		AND (step_duration_statistics.version IS NULL OR t.version = step_duration_statistics.version)
	ORDER BY g.total DESC, n.name, t.name, t.version_numbers, step.name
	LIMIT max;
END;
COMMENT ON FUNCTION tasker.step_duration_statistics(timestamptz, integer, text, text, text) IS
'Where the time of executors goes: for each step of each template the attempts that ended since then (NULL: ever), those that took most time in all first, at most so many rows (NULL: all), of the namespace, template name and version given (NULL: any). total_duration is of all attempts, the failed included; avg, p50, p95, p99 and max of the completed ones, from claim to completion; avg_queue_wait from being ready to the claim, by about 10000 evenly chosen attempts where there are more. Error: 2201W negative max.';
