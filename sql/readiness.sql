-- Readiness: whether a step may run now, and what it waits for if not.
SELECT tasker.orchestrate() >= 0 AS settled;
SELECT executor_id AS puller FROM tasker.register_executor('readiness', '{readiness.H}', 0) \gset

-- What each step of a task waits for, one line a step. How long is said as
-- "in the future": the clock runs.
CREATE FUNCTION pg_temp.readiness(task bigint, OUT step text, OUT state tasker.state, OUT attempts text,
	OUT parents text, OUT ready boolean, OUT blocking_reason text, OUT until_ready text, OUT dependency_status text,
	OUT retry_eligible boolean, OUT retry_status text, OUT backoff_type text)
RETURNS SETOF record LANGUAGE sql AS $$
	SELECT r.name, r.current_state, r.attempts || '/' || r.retry_limit, r.completed_parents || '/' || r.total_parents,
		r.ready_for_execution, r.blocking_reason,
		CASE WHEN r.time_until_ready = 0 THEN 'now' WHEN r.time_until_ready > 0 THEN 'in the future' END,
		r.dependency_status, r.retry_eligible, r.retry_status, r.backoff_type
	FROM tasker.step_readiness_statuses r WHERE r.task_id = task ORDER BY r.workflow_step_id
$$;

CREATE FUNCTION pg_temp.context(task bigint, OUT status tasker.state, OUT pending bigint, OUT in_progress bigint,
	OUT completed bigint, OUT failed bigint, OUT cancelled bigint, OUT ready bigint, OUT total bigint,
	OUT execution_status text, OUT recommended_action text, OUT percentage numeric, OUT health text)
RETURNS SETOF record LANGUAGE sql AS $$
	SELECT c.status, c.pending_steps, c.in_progress_steps, c.completed_steps, c.failed_steps, c.cancelled_steps,
		c.ready_steps, c.total_steps, c.execution_status, c.recommended_action, c.completion_percentage, c.health_status
	FROM tasker.task_execution_contexts c WHERE c.task_id = task
$$;

-- The view and the function that the orchestrator's own reads stand behind name the same steps.
CREATE FUNCTION pg_temp.agrees(task bigint) RETURNS boolean LANGUAGE sql AS $$
	SELECT ARRAY(SELECT v FROM tasker.find_viable_steps(task) v ORDER BY v)
		= ARRAY(SELECT r.workflow_step_id FROM tasker.step_readiness_statuses r
			WHERE r.task_id = task AND r.ready_for_execution ORDER BY r.workflow_step_id)
$$;

-- Lets time pass.
CREATE FUNCTION pg_temp.advance(seconds integer) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM set_config('tasker.clock_offset', (setting::integer + seconds * 1000)::text, false)
	FROM pg_settings WHERE name = 'tasker.clock_offset';
END
$$;

---- the life of a diamond ----
SELECT test.template('readiness diamond', 'a; b<-a; c<-a; d<-b,c',
	'{"handler_class": "readiness.H", "backoff_base_seconds": 100}') > 0 AS registered;
SELECT tasker.create_task('readiness diamond', namespace => 'test') AS diamond \gset

-- created: the root is ready, before any orchestrator has looked
SELECT * FROM pg_temp.readiness(:diamond);
SELECT * FROM pg_temp.context(:diamond);
SELECT pg_temp.agrees(:diamond);

-- waiting in the queue changes nothing
SELECT tasker.orchestrate() > 0 AS orchestrated;
SELECT * FROM pg_temp.readiness(:diamond);
SELECT * FROM pg_temp.context(:diamond);
SELECT pg_temp.agrees(:diamond);

-- a is in progress
SELECT step_name FROM tasker.claim_steps(:puller, 10);
SELECT * FROM pg_temp.readiness(:diamond);
SELECT * FROM pg_temp.context(:diamond);
SELECT pg_temp.agrees(:diamond);

-- a is complete: both branches are ready, d waits for 2
SELECT tasker.complete_step(test.step(:diamond, 'a'), test.claim(:diamond, 'a'));
SELECT * FROM pg_temp.readiness(:diamond);
SELECT * FROM pg_temp.context(:diamond);
SELECT pg_temp.agrees(:diamond);

-- b fails and waits for its retry, c is in progress
SELECT tasker.orchestrate() >= 0 AS orchestrated;
SELECT step_name FROM tasker.claim_steps(:puller, 10);
SELECT tasker.fail_step(test.step(:diamond, 'b'), test.claim(:diamond, 'b'), 'no luck');
SELECT * FROM pg_temp.readiness(:diamond);
SELECT * FROM pg_temp.context(:diamond);
SELECT pg_temp.agrees(:diamond);
SELECT round(extract(epoch FROM next_retry_at - last_failure_at)) AS backoff, last_attempted_at < last_failure_at AS attempted_before
FROM tasker.step_readiness_statuses WHERE workflow_step_id = test.step(:diamond, 'b');

-- c is complete: nothing runs, and there is something to wait for
SELECT tasker.complete_step(test.step(:diamond, 'c'), test.claim(:diamond, 'c'));
SELECT tasker.orchestrate() >= 0 AS orchestrated;
SELECT * FROM pg_temp.context(:diamond);
SELECT pg_temp.agrees(:diamond);

-- the backoff is over: b is ready, before any orchestrator has looked
SELECT pg_temp.advance(100);
SELECT * FROM pg_temp.readiness(:diamond);
SELECT * FROM pg_temp.context(:diamond);
SELECT pg_temp.agrees(:diamond);

-- promoted: pending with its attempt counted, and nothing left of the failure
SELECT tasker.orchestrate() > 0 AS orchestrated;
SELECT * FROM pg_temp.readiness(:diamond);
SELECT pg_temp.agrees(:diamond);

-- b and d
SELECT test.run_all(:puller) AS runs;
SELECT * FROM pg_temp.readiness(:diamond);
SELECT * FROM pg_temp.context(:diamond);
SELECT pg_temp.agrees(:diamond);

---- corrected semantics ----
-- Every root here runs at least once, whatever its retry settings are.
SELECT tasker.register_task_template('{"name": "readiness rules", "namespace_name": "test", "version": "1.0.0",
	"step_templates": [
		{"name": "never retried", "handler_class": "readiness.H", "default_retryable": false},
		{"name": "limit zero", "handler_class": "readiness.H", "default_retry_limit": 0},
		{"name": "limit one", "handler_class": "readiness.H", "default_retry_limit": 1},
		{"name": "backoff", "handler_class": "readiness.H", "backoff_base_seconds": 50},
		{"name": "requested", "handler_class": "readiness.H", "backoff_base_seconds": 50},
		{"name": "permanent", "handler_class": "readiness.H"},
		{"name": "released", "handler_class": "readiness.H"},
		{"name": "cancelled", "handler_class": "readiness.H"},
		{"name": "after cancelled", "handler_class": "readiness.H", "depends_on_step": "cancelled"},
		{"name": "resolved", "handler_class": "readiness.H"},
		{"name": "after resolved", "handler_class": "readiness.H", "depends_on_step": "resolved"}]}') > 0 AS registered;
SELECT tasker.create_task('readiness rules', namespace => 'test') AS rules \gset
SELECT step, attempts, ready, blocking_reason, retry_eligible, retry_status FROM pg_temp.readiness(:rules);
SELECT pg_temp.agrees(:rules);

SELECT tasker.orchestrate() > 0 AS orchestrated;
SELECT string_agg(step_name, ', ') AS claimed FROM tasker.claim_steps(:puller, 100);
SELECT count(tasker.fail_step(test.step(:rules, step), test.claim(:rules, step), 'no luck'))
FROM unnest('{never retried,limit zero,limit one,backoff}'::text[]) step;
SELECT tasker.fail_step(test.step(:rules, 'requested'), test.claim(:rules, 'requested'), 'busy', retry_after_seconds => 7);
SELECT tasker.fail_step(test.step(:rules, 'permanent'), test.claim(:rules, 'permanent'), 'bad card', retryable => false);
SELECT tasker.release_step(test.step(:rules, 'released'), test.claim(:rules, 'released'));
SELECT tasker.cancel_step(test.step(:rules, 'cancelled'));
SELECT tasker.release_step(test.step(:rules, 'resolved'), test.claim(:rules, 'resolved'));
SELECT tasker.resolve_step(test.step(:rules, 'resolved'));
SELECT * FROM pg_temp.readiness(:rules);
SELECT * FROM pg_temp.context(:rules);
SELECT pg_temp.agrees(:rules);
-- one next_retry_at, the one that counts
SELECT name, round(extract(epoch FROM next_retry_at - last_failure_at)) AS wait, backoff_request_seconds
FROM tasker.step_readiness_statuses WHERE task_id = :rules AND current_state = 'error' ORDER BY workflow_step_id;

-- the cascade reaches the step that can never run
SELECT tasker.orchestrate() > 0 AS orchestrated;
SELECT * FROM pg_temp.readiness(:rules) WHERE step LIKE '%cancelled';
SELECT pg_temp.agrees(:rules);

-- what still can run does; then waiting for retries comes before being blocked
SELECT string_agg(step_name, ', ') AS claimed FROM tasker.claim_steps(:puller, 100);
SELECT tasker.complete_step(test.step(:rules, 'released'), test.claim(:rules, 'released'));
SELECT tasker.complete_step(test.step(:rules, 'after resolved'), test.claim(:rules, 'after resolved'));
SELECT tasker.orchestrate() >= 0 AS orchestrated;
SELECT * FROM pg_temp.context(:rules);

-- the requested wait is over before the backoff of the other
SELECT pg_temp.advance(7);
SELECT step, ready, until_ready FROM pg_temp.readiness(:rules) WHERE state = 'error';
SELECT * FROM pg_temp.context(:rules);
SELECT pg_temp.agrees(:rules);
SELECT pg_temp.advance(43);
SELECT step, ready, until_ready FROM pg_temp.readiness(:rules) WHERE state = 'error';
SELECT test.run_all(:puller) AS runs;
-- nothing is left to wait for: the task ends in error
SELECT * FROM pg_temp.context(:rules);
SELECT step, state, blocking_reason, retry_status FROM pg_temp.readiness(:rules);
SELECT pg_temp.agrees(:rules);

---- pauses and closed tasks ----
SELECT tasker.create_task('readiness diamond', namespace => 'test') AS held \gset
SELECT tasker.pause('test', 'readiness diamond');
SELECT step, ready, blocking_reason, until_ready FROM pg_temp.readiness(:held);
SELECT * FROM pg_temp.context(:held);
SELECT pg_temp.agrees(:held);
SELECT tasker.resume('test', 'readiness diamond');
SELECT tasker.pause('test');
SELECT step, ready, blocking_reason, until_ready FROM pg_temp.readiness(:held) WHERE ready OR step = 'a';
SELECT pg_temp.agrees(:held);
SELECT tasker.resume('test');
SELECT tasker.pause();
SELECT step, ready, blocking_reason, until_ready FROM pg_temp.readiness(:held) WHERE ready OR step = 'a';
SELECT pg_temp.agrees(:held);
SELECT tasker.resume();
SELECT step, ready, blocking_reason, until_ready FROM pg_temp.readiness(:held) WHERE ready OR step = 'a';
SELECT pg_temp.agrees(:held);
SELECT tasker.cancel_task(:held);
SELECT step, state, ready, blocking_reason, until_ready FROM pg_temp.readiness(:held);
SELECT * FROM pg_temp.context(:held);
SELECT pg_temp.agrees(:held);

---- the functions ----
SELECT name FROM tasker.step_readiness_status(:diamond) ORDER BY workflow_step_id;
SELECT name FROM tasker.step_readiness_status(:diamond, ARRAY[test.step(:diamond, 'c'), test.step(:rules, 'backoff'), NULL]);
SELECT count(*) FROM tasker.step_readiness_status(-1);
SELECT execution_status FROM tasker.task_execution_context(:diamond);
SELECT count(*) FROM tasker.task_execution_context(-1);
SELECT tasker.find_viable_steps(-1);
SELECT tasker.find_viable_steps(NULL);

---- the five workflow shapes ----
SELECT count(test.template(shape, steps, '{"handler_class": "readiness.H"}'))
FROM (VALUES
	('readiness linear', 'initialize_data; validate_input<-initialize_data; process_data<-validate_input; transform_results<-process_data; validate_output<-transform_results; finalize_workflow<-validate_output'),
	('readiness branches', 'start_workflow; branch_one_process<-start_workflow; branch_two_process<-start_workflow; branch_one_validate<-branch_one_process; branch_two_validate<-branch_two_process; merge_branches<-branch_one_validate,branch_two_validate; end_workflow<-merge_branches'),
	('readiness parallel merge', 'fetch_user_data; fetch_order_data; fetch_inventory_data; fetch_pricing_data; process_user_data<-fetch_user_data; process_order_data<-fetch_order_data; merge_all_data<-process_user_data,process_order_data,fetch_inventory_data,fetch_pricing_data'),
	('readiness tree', 'root_initialization; branch_a_setup<-root_initialization; branch_b_setup<-root_initialization; branch_a_task_one<-branch_a_setup; branch_a_task_two<-branch_a_setup; branch_b_task_one<-branch_b_setup; branch_b_task_two<-branch_b_setup; aggregate_results<-branch_a_task_one,branch_a_task_two,branch_b_task_one,branch_b_task_two'),
	('readiness mixed', 'init_auth; init_config; validate_permissions<-init_auth; setup_environment<-init_config; begin_processing<-validate_permissions,setup_environment; process_critical_data<-begin_processing; process_optional_data<-begin_processing; cleanup_temp_files<-setup_environment; finalize_and_report<-process_critical_data,cleanup_temp_files'),
	-- the shortest and the longest way to d differ
	('readiness shortcut', 'a; b<-a; c<-b; d<-a,c')) AS t(shape, steps);
CREATE TEMPORARY TABLE shape_task AS
SELECT shape, tasker.create_task(shape, namespace => 'test') AS task_id
FROM unnest(ARRAY['readiness linear', 'readiness branches', 'readiness parallel merge', 'readiness tree',
	'readiness mixed', 'readiness shortcut']) WITH ORDINALITY AS s(shape, place) ORDER BY place;

-- steps, edges, levels 0 to the last; what is ready at the start are the roots
SELECT shape, count(*) AS steps, sum(d.parent_count) AS edges, sum(d.parent_count) = sum(d.child_count) AS symmetric,
	max(l.dependency_level) AS last_level, count(*) FILTER (WHERE d.is_root_step) AS roots, count(*) FILTER (WHERE d.is_leaf_step) AS leaves,
	bool_and(r.ready_for_execution = d.is_root_step) AS roots_are_ready
FROM shape_task
JOIN tasker.step_dag_relationships d USING (task_id)
JOIN tasker.step_readiness_statuses r USING (workflow_step_id)
CROSS JOIN LATERAL (SELECT dependency_level FROM tasker.dependency_levels(d.task_id) l
	WHERE l.workflow_step_id = d.workflow_step_id) l
GROUP BY shape, shape_task.task_id ORDER BY shape_task.task_id;
SELECT shape, pg_temp.agrees(task_id) FROM shape_task ORDER BY task_id;

SELECT shape, l.dependency_level AS level, string_agg(n.name, ', ' ORDER BY l.workflow_step_id) AS steps
FROM shape_task
CROSS JOIN LATERAL tasker.dependency_levels(task_id) l
JOIN tasker.workflow_steps s USING (workflow_step_id)
JOIN tasker.named_steps n USING (named_step_id)
GROUP BY shape, shape_task.task_id, l.dependency_level ORDER BY shape_task.task_id, l.dependency_level;

CREATE FUNCTION pg_temp.names(ids jsonb) RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(n.name, ', ' ORDER BY place)
	FROM jsonb_array_elements_text(ids) WITH ORDINALITY i(id, place)
	JOIN tasker.workflow_steps s ON s.workflow_step_id = i.id::bigint JOIN tasker.named_steps n USING (named_step_id)
$$;
SELECT n.name, parent_count, child_count, pg_temp.names(parent_step_ids) AS parents, pg_temp.names(child_step_ids) AS children,
	is_root_step AS root, is_leaf_step AS leaf, min_depth_from_root AS depth
FROM shape_task JOIN tasker.step_dag_relationships d USING (task_id) JOIN tasker.named_steps n USING (named_step_id)
WHERE shape IN ('readiness mixed', 'readiness shortcut') ORDER BY workflow_step_id;
SELECT bool_and(CASE WHEN is_root_step THEN parent_step_ids = '[]' ELSE jsonb_array_length(parent_step_ids) = parent_count END) AS parents,
	bool_and(CASE WHEN is_leaf_step THEN child_step_ids = '[]' ELSE jsonb_array_length(child_step_ids) = child_count END) AS children
FROM shape_task JOIN tasker.step_dag_relationships USING (task_id);
SELECT count(*) FROM tasker.dependency_levels(-1);
-- one step is found as well as one task
SELECT parent_count FROM tasker.step_dag_relationships
WHERE workflow_step_id = (SELECT test.step(task_id, 'merge_all_data') FROM shape_task WHERE shape = 'readiness parallel merge');

---- a task costs what it has, however many others there are ----
-- Which big tables are read how, in the plans of any version; every partition of
-- the logs counts but that of the next period, which is empty.
CREATE FUNCTION pg_temp.scans(statement text) RETURNS TABLE (relation text, by_index boolean) LANGUAGE plpgsql AS $$
DECLARE
	plan jsonb;
BEGIN
	EXECUTE 'EXPLAIN (COSTS OFF, FORMAT JSON) ' || statement INTO plan;
	RETURN QUERY
	SELECT name, bool_and(n ->> 'Node Type' <> 'Seq Scan')
	FROM jsonb_path_query(plan, 'strict $.**') n
	CROSS JOIN regexp_replace(n ->> 'Relation Name', '_p0$', '') AS name
	WHERE name IN ('tasks', 'workflow_steps', 'workflow_step_edges', 'task_transition_log', 'workflow_step_transition_log')
	GROUP BY 1 ORDER BY 1;
END
$$;
BEGIN;
SELECT count(*) FROM tasker.create_tasks(ARRAY(SELECT '{"name": "readiness diamond", "namespace": "test"}'::jsonb FROM generate_series(1, 3000)));
SELECT count(tasker.transition_step(workflow_step_id, 'in_progress')) FROM tasker.workflow_steps
JOIN tasker.tasks t USING (task_id) WHERE is_root AND workflow_steps.state = 'pending' AND t.named_task_id = (SELECT named_task_id FROM tasker.tasks WHERE task_id = :diamond);
ANALYZE tasker.tasks, tasker.workflow_steps, tasker.workflow_step_edges, tasker.task_transition_log, tasker.workflow_step_transition_log;
SELECT * FROM pg_temp.scans(format('SELECT * FROM tasker.step_readiness_statuses WHERE task_id = %s', :diamond));
SELECT * FROM pg_temp.scans(format('SELECT * FROM tasker.step_readiness_statuses WHERE workflow_step_id = %s', test.step(:diamond, 'd')));
SELECT * FROM pg_temp.scans(format('SELECT * FROM tasker.task_execution_contexts WHERE task_id = %s', :diamond));
SELECT * FROM pg_temp.scans(format('SELECT * FROM tasker.step_dag_relationships WHERE task_id = %s', :diamond));
SELECT * FROM pg_temp.scans(format('SELECT * FROM tasker.task_transitions WHERE task_id = %s AND most_recent', :diamond));
SELECT * FROM pg_temp.scans(format('SELECT * FROM tasker.workflow_step_transitions WHERE workflow_step_id = %s AND most_recent', test.step(:diamond, 'd')));
ROLLBACK;
ANALYZE tasker.tasks, tasker.workflow_steps, tasker.workflow_step_edges, tasker.task_transition_log, tasker.workflow_step_transition_log;

SELECT count(tasker.cancel_task(task_id)) FROM shape_task;
SELECT tasker.orchestrate() >= 0 AS orchestrated;
SELECT tasker.unregister_executor(:puller);
SELECT * FROM tasker.check();
