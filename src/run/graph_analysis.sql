-- What the graph of a task says of how it goes: what it waits for, what a failure
-- costs, where it could go faster. Computed when asked for, never stored.

CREATE FUNCTION tasker.graph_weights(
	-- points of a path
	OUT path_step double precision, OUT path_completed double precision, OUT path_blocked double precision,
	OUT path_error double precision, OUT path_retry double precision, OUT path_minute double precision,
	OUT unhealthy_factor double precision, OUT completion_discount double precision,
	-- points of a step that others wait for
	OUT downstream double precision, OUT blocked double precision, OUT attempt double precision,
	OUT not_retryable double precision, OUT exhausted double precision,
	OUT error_factor double precision, OUT exhausted_factor double precision, OUT waiting_factor double precision,
	-- from how many points on
	OUT critical double precision, OUT high double precision, OUT medium double precision,
	-- seconds that a step takes of which nothing is known; how much is looked at to know more
	OUT base_seconds double precision, OUT error_seconds double precision, OUT retry_seconds double precision,
	OUT sampled_tasks integer, OUT sampled_steps integer)
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
	SELECT 10, -15, 25, 30, 10, 2, 1.5, 0.3,
		5, 15, 3, 10, 20, 2.0, 0.5, 1.2,
		100, 50, 20,
		30, 60, 30, 20, 10000;
END;
COMMENT ON FUNCTION tasker.graph_weights() IS
'The weights by which critical_paths(), bottlenecks() and error_chains() score, and what they assume of durations: the one place that says so.';

CREATE FUNCTION tasker.severity(score double precision) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
	SELECT CASE WHEN score >= w.critical THEN 'Critical' WHEN score >= w.high THEN 'High' WHEN score >= w.medium THEN 'Medium' ELSE 'Low' END
	FROM tasker.graph_weights() w;
END;
COMMENT ON FUNCTION tasker.severity(double precision) IS 'What a score of the graph analysis means: Critical, High, Medium or Low.';

CREATE VIEW tasker.step_durations AS
SELECT s.workflow_step_id, s.task_id, s.named_step_id,
	(SELECT l.created_at FROM tasker.workflow_step_transition_log l
		WHERE l.workflow_step_id = s.workflow_step_id AND l.sort_key = s.sort_key)
	- (SELECT l.created_at FROM tasker.workflow_step_transition_log l
		WHERE l.workflow_step_id = s.workflow_step_id AND l.sort_key = s.sort_key - 10) AS duration
FROM tasker.workflow_steps s
WHERE s.state = 'complete';
COMMENT ON VIEW tasker.step_durations IS
'How long the attempt took that completed a step, from its claim to its completion; only steps that are complete. Ask by task_id or workflow_step_id.';

-- What is not measured is expected to take what it took in the tasks that came
-- before, a bounded number of them. Averages meet steps in a hash join.
CREATE FUNCTION tasker.expected_durations(task_id bigint)
RETURNS TABLE (workflow_step_id bigint, seconds double precision, measured boolean)
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
SET enable_nestloop = off
SET enable_seqscan = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
	weight record := tasker.graph_weights();
	template integer := (SELECT t.named_task_id FROM tasker.tasks t WHERE t.task_id = expected_durations.task_id);
	steps bigint := (SELECT count(*) FROM tasker.workflow_steps s WHERE s.task_id = expected_durations.task_id);
	earlier bigint[] := ARRAY(
		SELECT t.task_id FROM tasker.tasks t
		WHERE t.named_task_id = template AND t.task_id < expected_durations.task_id
		ORDER BY t.named_task_id DESC, t.task_id DESC
		LIMIT least(weight.sampled_tasks, weight.sampled_steps / greatest(steps, 1)));
BEGIN
	RETURN QUERY
	WITH average AS MATERIALIZED (
		SELECT d.named_step_id, avg(extract(epoch FROM d.duration))::double precision AS seconds
		FROM unnest(earlier) e (task_id)
		CROSS JOIN LATERAL (SELECT d.* FROM tasker.step_durations d WHERE d.task_id = e.task_id OFFSET 0) d
		WHERE d.duration IS NOT NULL
		GROUP BY d.named_step_id
	), own AS MATERIALIZED (
		SELECT s.workflow_step_id, s.named_step_id, s.state, s.attempts,
			CASE s.state
				WHEN 'complete' THEN
					(SELECT extract(epoch FROM d.duration)::double precision FROM tasker.step_durations d WHERE d.workflow_step_id = s.workflow_step_id)
				WHEN 'resolved_manually' THEN 0
				WHEN 'cancelled' THEN 0
			END AS seconds
		FROM tasker.workflow_steps s
		WHERE s.task_id = expected_durations.task_id
	)
	SELECT own.workflow_step_id,
		coalesce(own.seconds, coalesce(average.seconds, weight.base_seconds)
			+ CASE own.state WHEN 'error' THEN weight.error_seconds ELSE 0 END
			+ weight.retry_seconds * greatest(own.attempts - 1, 0)),
		own.seconds IS NOT NULL
	FROM own
	LEFT JOIN average ON average.named_step_id = own.named_step_id
	ORDER BY own.workflow_step_id + 0;
END
$$;
COMMENT ON FUNCTION tasker.expected_durations(bigint) IS
'How many seconds each step of a task took (measured: complete ones, from claim to completion; nothing for those resolved or cancelled), or may take: the average of this step in up to 20 earlier tasks of the template, 30 s where none has completed it; 60 s more in error and 30 s more for each attempt after the first. No row where there is no such task.';

-- Columns come as arrays in the order of the step ids and are laid side by side, so
-- that nothing is joined.
CREATE FUNCTION tasker.graph_steps(task_id bigint)
RETURNS TABLE (place integer, workflow_step_id bigint, step_name text, state tasker.state,
	attempts integer, retry_limit integer, retry_eligible boolean, next_retry_at timestamptz,
	level integer, ready boolean, blocked boolean, downstream_steps integer, blocked_steps integer,
	seconds double precision, measured boolean)
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
	edge record := tasker.task_edges(task_id);
	step record;
	reach record;
BEGIN
	IF edge.step_ids = '{}' THEN
		RETURN;
	END IF;
	SELECT array_agg(r.name) AS names, array_agg(r.current_state) AS states, array_agg(r.attempts) AS attempts,
		array_agg(r.retry_limit) AS retry_limits, array_agg(r.retry_eligible) AS eligible, array_agg(r.next_retry_at) AS retries,
		array_agg(r.ready_for_execution) AS ready,
		array_agg(r.current_state IN ('pending', 'error') AND NOT r.dependencies_satisfied) AS blocked
	INTO step
	FROM (
		SELECT r.* FROM tasker.step_readiness_statuses r
		WHERE r.task_id = graph_steps.task_id
		ORDER BY r.workflow_step_id + 0
	) r;
	reach := tasker.graph_reach(edge.sources, edge.targets, step.blocked);

	RETURN QUERY
	SELECT s.place::integer, s.id, s.name, s.state, s.attempts, s.retry_limit, s.eligible, s.retry,
		s.level, s.ready, s.blocked, s.reachable, s.reachable_blocked, s.seconds, s.measured
	FROM ROWS FROM (unnest(edge.step_ids, step.names, step.states, step.attempts, step.retry_limits, step.eligible, step.retries,
			(tasker.graph_depths(cardinality(edge.step_ids), edge.sources, edge.targets)).longest,
			step.ready, step.blocked, reach.reachable, reach.reachable_marked),
		tasker.expected_durations(graph_steps.task_id)) WITH ORDINALITY
		AS s (id, name, state, attempts, retry_limit, eligible, retry, level, ready, blocked, reachable, reachable_blocked,
			same_id, seconds, measured, place);
END
$$;
COMMENT ON FUNCTION tasker.graph_steps(bigint) IS
'Each step of a task with its place in the graph, in the order of the ids: level (longest path from a root), ready (may run now), blocked (pending or in error behind parents that are not finished), downstream_steps (how many others depend on it, directly or not), blocked_steps (how many of those are blocked), seconds (measured, or expected: see expected_durations). What the other functions of the analysis read. No row where there is no such task.';

CREATE FUNCTION tasker.critical_paths(task_id bigint, max integer DEFAULT 5)
RETURNS TABLE (rank bigint, step_ids bigint[], step_names text[], length bigint,
	completed_steps bigint, ready_steps bigint, blocked_steps bigint, error_steps bigint, retried_steps bigint,
	estimated_duration interval, remaining_duration interval, completion_percentage numeric, criticality_score numeric,
	failed_step_names text[])
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
SET enable_nestloop = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
	weight record := tasker.graph_weights();
	edge record := tasker.task_edges(task_id);
	step record;
BEGIN
	SELECT array_agg(s.workflow_step_id) AS ids, array_agg(s.step_name) AS names, array_agg(s.completed) AS completed,
		array_agg(s.ready) AS ready, array_agg(s.blocked) AS blocked, array_agg(s.failed) AS failed, array_agg(s.retried) AS retried,
		array_agg(s.seconds) AS seconds, array_agg(s.ahead) AS ahead,
		array_agg(weight.path_step
			+ weight.path_completed * s.completed::integer
			+ weight.path_blocked * s.blocked::integer * s.factor
			+ weight.path_error * s.failed::integer * s.factor
			+ weight.path_retry * s.retried::integer
			+ weight.path_minute * s.ahead / 60) AS weights
	INTO step
	FROM (
		SELECT s.*, s.state IN ('complete', 'resolved_manually') AS completed, s.state = 'error' AS failed, s.attempts > 1 AS retried,
			CASE WHEN s.state IN ('complete', 'resolved_manually', 'cancelled') THEN 0 ELSE s.seconds END AS ahead,
			CASE WHEN bool_or(s.state = 'error') OVER () THEN weight.unhealthy_factor ELSE 1 END AS factor
		FROM tasker.graph_steps(task_id) s
		ORDER BY s.place
	) s;

	RETURN QUERY
	SELECT row_number() OVER (ORDER BY path.place), path.ids, path.names, path.length,
		path.completed, path.ready, path.blocked, path.failed, path.retried,
		make_interval(secs => path.seconds), make_interval(secs => path.ahead),
		round(100.0 * path.completed / path.length, 2),
		round(greatest(path.weight * (1 - weight.completion_discount * path.completed / path.length), 0)::numeric, 2),
		path.failed_names
	FROM (
		SELECT p.place, p.weight, count(*) AS length, array_agg(s.id ORDER BY v.place) AS ids, array_agg(s.name ORDER BY v.place) AS names,
			count(*) FILTER (WHERE s.completed) AS completed, count(*) FILTER (WHERE s.ready) AS ready,
			count(*) FILTER (WHERE s.blocked) AS blocked, count(*) FILTER (WHERE s.failed) AS failed,
			count(*) FILTER (WHERE s.retried) AS retried, sum(s.seconds) AS seconds, sum(s.ahead) AS ahead,
			coalesce(array_agg(s.name ORDER BY v.place) FILTER (WHERE s.failed), '{}') AS failed_names
		FROM tasker.graph_paths(edge.sources, edge.targets, step.weights, max) WITH ORDINALITY p (nodes, weight, place)
		CROSS JOIN LATERAL unnest(p.nodes) WITH ORDINALITY v (node, place)
		JOIN unnest(step.ids, step.names, step.completed, step.ready, step.blocked, step.failed, step.retried, step.seconds, step.ahead)
			WITH ORDINALITY s (id, name, completed, ready, blocked, failed, retried, seconds, ahead, place) ON s.place = v.node
		GROUP BY p.place, p.weight
	) path
	ORDER BY path.place;
END
$$;
COMMENT ON FUNCTION tasker.critical_paths(bigint, integer) IS
'The paths from a root to a leaf of a task that ask most for attention, at most max (1 to 100), worst first. Points: 10 for each step, -15 if it is finished, 25 if blocked, 30 if in error (both half as much again while any step of the task is in error), 10 if it needed more than one attempt, 2 for each minute that it may still take. Paths are ranked by the sum; criticality_score is the sum less up to 30 % for the part that is finished, never below 0. Linear in the edges, however many paths there are. No row where there is no such task. Error: 22023 bad max.';

CREATE FUNCTION tasker.bottlenecks(task_id bigint, max integer DEFAULT 10)
RETURNS TABLE (workflow_step_id bigint, step_name text, state tasker.state, downstream_steps integer, blocked_steps integer,
	attempts integer, retry_eligible boolean, bottleneck_score numeric, severity text)
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
	SELECT s.workflow_step_id, s.step_name, s.state, s.downstream_steps, s.blocked_steps, s.attempts, s.retry_eligible,
		round(point.score::numeric, 2), tasker.severity(point.score)
	FROM tasker.graph_weights() w
	CROSS JOIN tasker.graph_steps(task_id) s
	CROSS JOIN LATERAL (SELECT s.state = 'error' AND s.attempts >= s.retry_limit AS exhausted) retry
	CROSS JOIN LATERAL (
		SELECT (w.downstream * s.downstream_steps + w.blocked * s.blocked_steps)
			* CASE
				WHEN s.state = 'error' THEN w.error_factor + CASE WHEN retry.exhausted THEN w.exhausted_factor ELSE 0 END
				WHEN s.blocked THEN w.waiting_factor
				ELSE 1
			END
			+ w.attempt * s.attempts
			+ CASE WHEN s.retry_eligible THEN 0 ELSE w.not_retryable END
			+ CASE WHEN retry.exhausted THEN w.exhausted ELSE 0 END AS score
	) point
	WHERE s.state IN ('pending', 'in_progress', 'error') AND s.downstream_steps > 0
	ORDER BY point.score DESC, s.workflow_step_id
	LIMIT max;
END;
COMMENT ON FUNCTION tasker.bottlenecks(bigint, integer) IS
'The steps of a task that are pending, in progress or in error and that others depend on, worst first: (5 for each step downstream + 15 for each that is blocked) x (2 in error, 2.5 with all attempts used; 1.2 if itself blocked) + 3 for each attempt + 10 where no further attempt is allowed + 20 where a failed step has used all. severity: Critical from 100, High from 50, Medium from 20, else Low. max NULL: all.';

CREATE FUNCTION tasker.error_chains(task_id bigint)
RETURNS TABLE (workflow_step_id bigint, step_name text, error_message text, downstream_steps integer, blocked_steps integer,
	attempts integer, retry_limit integer, retry_eligible boolean, next_retry_at timestamptz,
	impact_score numeric, impact_level text, suggested_actions text[])
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
	SELECT s.workflow_step_id, s.step_name,
		(SELECT l.metadata ->> 'error_message' FROM tasker.workflow_steps f
			JOIN tasker.workflow_step_transition_log l ON l.workflow_step_id = f.workflow_step_id AND l.sort_key = f.sort_key
			WHERE f.workflow_step_id = s.workflow_step_id),
		s.downstream_steps, s.blocked_steps, s.attempts, s.retry_limit, s.retry_eligible, s.next_retry_at,
		round(point.score::numeric, 2), tasker.severity(point.score),
		CASE
			WHEN t.state IN ('cancelled', 'resolved_manually') THEN '{}'::text[]
			WHEN s.retry_eligible THEN ARRAY[
				'wait: it is retried after next_retry_at',
				format('retry now: SELECT tasker.retry_step(%s)', s.workflow_step_id)]
			ELSE ARRAY[
				format('remove the cause, then: SELECT tasker.retry_step(%s)', s.workflow_step_id),
				format('do its work by hand, then: SELECT tasker.resolve_step(%s)', s.workflow_step_id)]
				|| CASE WHEN s.blocked_steps > 0 THEN ARRAY[format('give up what depends on it: SELECT tasker.cancel_task(%s)', t.task_id)] ELSE '{}' END
		END
	FROM tasker.tasks t
	CROSS JOIN tasker.graph_weights() w
	CROSS JOIN tasker.graph_steps(t.task_id) s
	CROSS JOIN LATERAL (
		SELECT w.blocked * s.blocked_steps + w.downstream * s.downstream_steps + w.attempt * s.attempts
			+ CASE WHEN s.attempts >= s.retry_limit THEN w.exhausted ELSE 0 END AS score
	) point
	WHERE t.task_id = error_chains.task_id AND s.state = 'error'
	ORDER BY point.score DESC, s.workflow_step_id;
END;
COMMENT ON FUNCTION tasker.error_chains(bigint) IS
'The failed steps of a task, worst first, and what each of them costs: the steps downstream, how many of these are blocked, whether and when it is retried. impact_score: 15 for each blocked step + 5 for each downstream + 3 for each attempt + 20 where all are used; impact_level as in bottlenecks(). suggested_actions are statements for an operator; none in a task that is cancelled or resolved. Which steps: step_transitive_dependents().';

CREATE FUNCTION tasker.parallelism(task_id bigint)
RETURNS TABLE (level integer, total_steps bigint, ready_steps bigint, in_progress_steps bigint, blocked_steps bigint, error_steps bigint,
	completed_steps bigint, potential text, bottleneck_risk text)
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
	SELECT l.level, l.total, l.ready, l.in_progress, l.blocked, l.failed, l.completed,
		CASE WHEN l.ready > 1 THEN 'High' WHEN l.ready = 1 THEN 'Medium' ELSE 'Low' END,
		CASE WHEN l.blocked * 2 > l.total THEN 'High' ELSE 'Low' END
	FROM (
		SELECT s.level, count(*) AS total, count(*) FILTER (WHERE s.ready) AS ready,
			count(*) FILTER (WHERE s.state = 'in_progress') AS in_progress,
			count(*) FILTER (WHERE s.blocked) AS blocked, count(*) FILTER (WHERE s.state = 'error') AS failed,
			count(*) FILTER (WHERE s.state IN ('complete', 'resolved_manually')) AS completed
		FROM tasker.graph_steps(task_id) s
		GROUP BY s.level
	) l
	ORDER BY l.level;
END;
COMMENT ON FUNCTION tasker.parallelism(bigint) IS
'What could run side by side in a task, a row a level. potential: High if more than one step is ready, Medium if one, else Low. bottleneck_risk: High if more than half of the level is blocked, else Low.';

CREATE FUNCTION tasker.task_graph_analysis(task_id bigint) RETURNS jsonb
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	drawing jsonb := tasker.task_drawing(task_id);
BEGIN
	RETURN (SELECT jsonb_build_object(
		'task', drawing -> 'task',
		'dependency_graph', jsonb_build_object('nodes', drawing -> 'nodes', 'edges', drawing -> 'edges'),
		'critical_paths', (SELECT coalesce(jsonb_agg(to_jsonb(p) ORDER BY p.rank), '[]') FROM tasker.critical_paths(task_id) p),
		'bottlenecks', (SELECT coalesce(jsonb_agg(to_jsonb(b) ORDER BY b.bottleneck_score DESC, b.workflow_step_id), '[]') FROM tasker.bottlenecks(task_id) b),
		'error_chains', (SELECT coalesce(jsonb_agg(to_jsonb(e) ORDER BY e.impact_score DESC, e.workflow_step_id), '[]') FROM tasker.error_chains(task_id) e),
		'parallelism', (SELECT jsonb_build_object(
				'levels', coalesce(jsonb_agg(to_jsonb(l) ORDER BY l.level), '[]'),
				'efficiency_percentage', coalesce(round(100.0 * count(*) FILTER (WHERE l.ready_steps > 1) / nullif(count(*), 0), 2), 0))
			FROM tasker.parallelism(task_id) l)));
END
$$;
COMMENT ON FUNCTION tasker.task_graph_analysis(bigint) IS
'All that is said of the graph of a task in one document: task, dependency_graph (nodes and edges as in the json format of task_diagram), and the rows of critical_paths(), bottlenecks(), error_chains() and parallelism(), with the percentage of levels on which more than one step is ready. Error: 42704 unknown task.';
