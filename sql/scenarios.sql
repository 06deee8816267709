-- What the original's own tests did, with their exact counts, by the test kit.
-- Where the engine differs on purpose, a comment says so.
CREATE EXTENSION tasker_testing;
SELECT tasker.orchestrate() >= 0 AS settled;
BEGIN;

-- The steps of a task that are ready.
CREATE FUNCTION pg_temp.ready(task bigint) RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(name, ', ' ORDER BY workflow_step_id) FROM tasker.step_readiness_status(task) WHERE ready_for_execution
$$;

---- the five shapes ----
CREATE TEMPORARY TABLE shape ON COMMIT DROP AS
SELECT row_number() OVER (ORDER BY share DESC) AS place, shape, name, tasker_testing.create_workflow(shape) AS task_id
FROM tasker_testing.shapes WHERE share > 0;
-- steps, edges, levels
SELECT s.shape, n.name, w.name AS namespace, n.version, n.configuration ->> 'task_handler_class' AS task_handler_class,
	(SELECT count(*) FROM tasker.workflow_steps t WHERE t.task_id = s.task_id) AS steps,
	(SELECT count(*) FROM tasker.named_step_edges e WHERE e.named_task_id = n.named_task_id) AS edges,
	(SELECT max(dependency_level) FROM tasker.dependency_levels(s.task_id)) AS deepest
FROM shape s JOIN tasker.tasks t USING (task_id) JOIN tasker.named_tasks n USING (named_task_id)
JOIN tasker.task_namespaces w ON w.task_namespace_id = n.task_namespace_id ORDER BY place;
SELECT s.shape, n.name, l.dependency_level AS level, h.name AS handler, t.handler_config AS config, w.retry_limit AS attempts, t.backoff_base_seconds AS base, t.backoff_cap_seconds AS cap
FROM shape s CROSS JOIN LATERAL tasker.dependency_levels(s.task_id) l
JOIN tasker.workflow_steps w USING (workflow_step_id) JOIN tasker.named_steps n USING (named_step_id) JOIN tasker.handlers h USING (handler_id)
JOIN tasker.tasks k ON k.task_id = s.task_id JOIN tasker.named_tasks_named_steps t USING (named_task_id, named_step_id)
WHERE s.shape IN ('linear', 'mixed') OR t.handler_config <> '{"failure_count": 0}' ORDER BY place, w.workflow_step_id;
-- initially only the roots are ready
SELECT shape, pg_temp.ready(task_id) FROM shape ORDER BY place;
SELECT shape, r.dependencies_satisfied, r.ready_for_execution, count(*) FROM shape, tasker.step_readiness_status(task_id) r GROUP BY place, 1, 2, 3 ORDER BY place, 2;

-- Runs, passes, transitions of steps (2 for a run that succeeds, 3 for one that
-- is tried again) and the time that backoff takes at least: 2, then 4 seconds.
SELECT shape, r.* FROM shape, tasker_testing.run_task(task_id) r ORDER BY place;
SELECT shape, count(*) AS step_transitions FROM shape JOIN tasker.workflow_steps USING (task_id)
JOIN tasker.workflow_step_transition_log USING (workflow_step_id) GROUP BY shape, place ORDER BY place;
SELECT count(DISTINCT v) AS outcomes, min(v) AS outcome FROM shape, LATERAL (VALUES
	(tasker_testing.assert_task_history(task_id, '{pending,in_progress,complete}')),
	(tasker_testing.assert_nothing_ready(task_id))) a(v);
SELECT tasker_testing.assert_step_runs(task_id, CASE shape WHEN 'linear' THEN 7 WHEN 'diamond' THEN 9 WHEN 'parallel_merge' THEN 10 WHEN 'tree' THEN 11 ELSE 13 END)
FROM shape ORDER BY place;
-- final attempts are 1 + failures; process_critical_data uses all three and still succeeds
SELECT shape, n.name, s.attempts, s.retry_limit, s.results -> 'failed_attempts' AS failed_attempts, history.moves
FROM shape JOIN tasker.workflow_steps s USING (task_id) JOIN tasker.named_steps n USING (named_step_id)
CROSS JOIN LATERAL (SELECT moves FROM test.history(task_id) WHERE owner = n.name) history
WHERE s.attempts > 1 ORDER BY place, s.workflow_step_id;
-- a parent always runs before its children
SELECT count(*) AS edges, count(*) FILTER (WHERE tasker_testing.assert_ran_in_order(p.task_id, ARRAY[pn.name, cn.name]) = 'ok') AS in_order
FROM shape JOIN tasker.workflow_steps p USING (task_id)
JOIN tasker.workflow_step_edges e ON e.from_step_id = p.workflow_step_id JOIN tasker.workflow_steps c ON c.workflow_step_id = e.to_step_id
JOIN tasker.named_steps pn ON pn.named_step_id = p.named_step_id JOIN tasker.named_steps cn ON cn.named_step_id = c.named_step_id;
SELECT tasker_testing.assert_consistent();

---- the chain of the configurable failure task: reliable, flaky, timeout, idempotent ----
SELECT tasker_testing.create_workflow('configurable_failure') AS task \gset
SELECT * FROM tasker_testing.run_task(:task);
SELECT * FROM test.steps(:task);

---- one failure, one pass ----
SELECT tasker_testing.create_workflow('linear') AS task \gset
SELECT * FROM tasker_testing.run_task(:task, max_passes => 1);
-- The original left the task pending, with nothing scheduled. Here it stays in
-- progress and the retry has its timer.
SELECT tasker_testing.assert_task_state(:task, 'in_progress'), tasker_testing.assert_step_state(:task, 'process_data', 'error'),
	tasker_testing.assert_waits(:task, 'process_data', '2 s'), tasker_testing.assert_nothing_ready(:task),
	tasker_testing.assert_never_ran(:task, 'transform_results');
SELECT attempts, retry_limit, retry_eligible, retry_status FROM tasker.step_readiness_status(:task) WHERE name = 'process_data';
-- waiting, not blocked
SELECT execution_status, health_status, recommended_action, completed_steps, failed_steps, completion_percentage FROM tasker.task_execution_context(:task);
SELECT state, passes, step_runs, failed_runs, waited <= '2 s' AS the_rest_at_most, stopped FROM tasker_testing.run_task(:task);

---- the retry limit ----
-- In the words of the original: 10 failures, 3 attempts.
SELECT tasker_testing.configure_failure('process_data', 10, 'Service unavailable');
SELECT tasker_testing.create_workflow('linear') AS task \gset
SELECT * FROM tasker_testing.run_task(:task);
SELECT tasker_testing.assert_task_state(:task, 'error'), tasker_testing.assert_step_state(:task, 'process_data', 'error'),
	tasker_testing.assert_attempts(:task, 'process_data', 3), tasker_testing.assert_results(:task, 'process_data', '{"error": "Service unavailable"}'),
	tasker_testing.assert_step_history(:task, 'process_data', '{in_progress,error,pending,in_progress,error,pending,in_progress,error}');
SELECT execution_status, health_status FROM tasker.task_execution_context(:task);
-- The coordinator of the original gave the step no further attempt; an operator can.
SELECT tasker_testing.clear_failures(), tasker.retry_task(:task);
SELECT * FROM tasker_testing.run_task(:task);

---- a failed root ----
SELECT tasker_testing.configure_failure('start_workflow', 4);
SELECT tasker_testing.create_workflow('diamond') AS task \gset
SELECT * FROM tasker_testing.run_task(:task);
SELECT * FROM test.steps(:task);
SELECT tasker_testing.clear_failures();

---- explicit backoff ----
CREATE FUNCTION public.busy(step tasker.claimed_step) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
	IF step.attempt = 1 THEN
		RAISE 'Too many requests' USING ERRCODE = 'TK006', DETAIL = step.inputs ->> step.step_name;
	END IF;
	RETURN '{}';
END
$$;
SELECT tasker_testing.use_handler('Busy', 'public.busy(tasker.claimed_step)');
SELECT tasker_testing.register_template('busy', 'one(h=Busy)') > 0 AS one, tasker_testing.register_template('busy two', 'one(h=Busy); two(h=Busy)') > 0 AS two;
SELECT tasker.create_task('busy', '{"one": 120}', 'tasker_testing') AS task \gset
SELECT * FROM tasker_testing.run_task(:task, 1);
SELECT tasker_testing.assert_waits(:task, 'one', '120 s');
SELECT name, backoff_request_seconds, backoff_type, retry_status, round(time_until_ready / 10) * 10 AS seconds FROM tasker.step_readiness_status(:task);
SELECT state, passes, step_runs, failed_runs, waited <= '120 s' AS the_rest_at_most, stopped FROM tasker_testing.run_task(:task);
-- Of two steps the original let the earlier one wait for the later (180 s). Here
-- each is run when it is due: two further passes, 60 and then 120 seconds later.
SELECT tasker.create_task('busy two', '{"one": 60, "two": 180}', 'tasker_testing') AS task \gset
SELECT state, passes, step_runs, failed_runs, date_trunc('minute', waited + '30 s') AS waited, stopped FROM tasker_testing.run_task(:task);
SELECT step_name, attempt, pass FROM tasker_testing.step_runs WHERE task_id = :task ORDER BY run_id;

---- idempotency ----
SELECT tasker_testing.create_workflow('mixed') AS task \gset
SELECT * FROM tasker_testing.run_task(:task);
SELECT results AS first FROM tasker.workflow_steps WHERE workflow_step_id = tasker_testing.step_id(:task, 'finalize_and_report') \gset
SELECT tasker_testing.assert_idempotent(:task, 3);
SELECT results -> 'checksum' = :'first'::jsonb -> 'checksum' AS same_checksum,
	results -> 'sequence_number' = :'first'::jsonb -> 'sequence_number' AS same_number,
	results -> 'idempotency_check' -> 'execution_count' AS executions,
	results -> 'idempotency_check' -> 'is_repeat_execution' AS repeated,
	results -> 'idempotency_check' -> 'first_executed_at' = :'first'::jsonb -> 'generated_at' AS knows_the_first
FROM tasker_testing.step_runs WHERE task_id = :task AND step_name = 'finalize_and_report' ORDER BY run_id;
SELECT (:'first'::jsonb ->> 'checksum') = md5(concat_ws('_', :task, tasker_testing.step_id(:task, 'finalize_and_report'), 'finalize_and_report')) AS checksum,
	(:'first'::jsonb ->> 'sequence_number')::bigint = tasker_testing.step_id(:task, 'finalize_and_report') % 1000 AS number;
-- The original put the steps back to pending for this; here a task that is
-- complete stays complete, and its handlers are called again.
SELECT tasker_testing.assert_task_history(:task, '{pending,in_progress,complete}'), tasker_testing.assert_step_runs(:task, 13);

---- batches ----
SELECT (r).tasks, (r).succeeded_tasks, (r).failed_tasks, (r).open_tasks, (r).passes, (r).step_runs, (r).failed_runs, (r).waited, (r).stopped
FROM tasker_testing.run_tasks(ARRAY(SELECT tasker_testing.create_workflow(s) FROM unnest('{diamond,parallel_merge,tree}'::text[]) s)) r;
-- eight: two of each of four shapes
SELECT (r).tasks, (r).succeeded_tasks, (r).step_runs, (r).failed_runs, (r).passes, (r).waited, (r).stopped
FROM tasker_testing.run_tasks(ARRAY(SELECT tasker_testing.create_workflow(s) FROM unnest('{linear,diamond,parallel_merge,tree}'::text[]) s, generate_series(1, 2))) r;
-- three reliable ones and two flaky ones: all five succeed
SELECT tasker_testing.register_template('reliable', 'a; b<-a') > 0 AS registered;
SELECT (r).tasks, (r).succeeded_tasks, (r).step_runs, (r).failed_runs, (r).stopped
FROM tasker_testing.run_tasks(ARRAY(SELECT tasker.create_task('reliable', namespace => 'tasker_testing') FROM generate_series(1, 3))
	|| ARRAY(SELECT tasker_testing.create_workflow('configurable_failure') FROM generate_series(1, 2))) r;
-- one that stops early
SELECT (r).tasks, (r).succeeded_tasks, (r).open_tasks, (r).passes, (r).stopped
FROM tasker_testing.run_tasks(ARRAY(SELECT task_id FROM tasker_testing.create_dataset(30)), 3) r;

---- datasets and views ----
SELECT n, string_agg(shape || ' ' || tasks, ', ' ORDER BY place) AS tasks, sum(tasks) AS total
FROM unnest('{1,30,50}'::integer[]) n
CROSS JOIN LATERAL (SELECT d.shape, count(*) AS tasks, min(d.task_id) AS place FROM tasker_testing.create_dataset(n) d GROUP BY d.shape) c
GROUP BY n ORDER BY n;
-- fifty tasks: 15 complete, 5 in error, 30 pending
CREATE TEMPORARY TABLE mix ON COMMIT DROP AS SELECT * FROM tasker_testing.create_state_mix(50);
SELECT state, count(*) FROM mix GROUP BY state ORDER BY state;
SELECT count(*) AS tasks,
	count(*) FILTER (WHERE total_steps = pending_steps + in_progress_steps + completed_steps + failed_steps + cancelled_steps) AS add_up,
	count(*) FILTER (WHERE abs(completion_percentage - 100.0 * completed_steps / total_steps) <= 0.1) AS right_percentage,
	count(*) FILTER (WHERE total_steps BETWEEN 6 AND 12) AS six_to_twelve_steps,
	count(DISTINCT named_task_id) AS patterns
FROM mix CROSS JOIN LATERAL tasker.task_execution_context(mix.task_id);
SELECT state, execution_status, health_status, recommended_action, count(*), sum(total_steps) AS steps, sum(completed_steps) AS completed, sum(failed_steps) AS failed, sum(ready_steps) AS ready
FROM mix CROSS JOIN LATERAL tasker.task_execution_context(mix.task_id) GROUP BY 1, 2, 3, 4 ORDER BY 1;
-- parents and children agree, roots have depth 0, nothing is deeper than 10
WITH step AS MATERIALIZED (
	SELECT r.* FROM mix CROSS JOIN LATERAL (SELECT * FROM tasker.step_dag_relationships d WHERE d.task_id = mix.task_id) r
), up AS (
	SELECT p.id::bigint AS parent, s.workflow_step_id AS child FROM step s, jsonb_array_elements_text(s.parent_step_ids) p(id)
), down AS (
	SELECT s.workflow_step_id AS parent, c.id::bigint AS child FROM step s, jsonb_array_elements_text(s.child_step_ids) c(id)
)
SELECT (SELECT count(*) FROM step) AS steps, (SELECT count(*) FROM up) AS edges, (SELECT count(*) FROM up FULL JOIN down USING (parent, child) WHERE up IS NULL OR down IS NULL) AS one_sided,
	(SELECT count(*) FROM step WHERE is_root_step <> (min_depth_from_root = 0)) AS wrong_roots, (SELECT max(min_depth_from_root) <= 10 FROM step) AS shallow;
-- completed steps never become ready
SELECT count(*) FROM mix CROSS JOIN LATERAL tasker.step_readiness_status(mix.task_id) r WHERE r.current_state = 'complete' AND r.ready_for_execution;
SELECT tasker_testing.assert_consistent();

---- graphs ----
-- several ways to one step are fine; circles are not
SELECT tasker_testing.register_template('ways', 'a; b<-a; c<-a,b; d<-a,b,c') > 0 AS registered;
\set VERBOSITY terse
SAVEPOINT s;
SELECT tasker_testing.register_template('direct circle', 'a<-b; b<-a');
ROLLBACK TO s;
SELECT tasker_testing.register_template('indirect circle', 'a<-c; b<-a; c<-b');
ROLLBACK TO s;
SELECT tasker_testing.register_template('self', 'a<-a');
ROLLBACK;

-- nothing of all this is there
SELECT count(*) FROM tasker.task_namespaces WHERE name = 'tasker_testing';
SELECT count(*) FROM tasker_testing.step_runs;
SHOW tasker.clock_offset;
DROP EXTENSION tasker_testing;
SELECT * FROM tasker.check();
