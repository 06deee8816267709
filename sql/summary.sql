-- The next action of a task, many tasks at once, and each task in one row.
SELECT tasker.orchestrate() >= 0 AS settled;
SELECT executor_id AS executor FROM tasker.register_executor('summary', '{summary.H}', 0) \gset
SELECT test.template('summary wide', 'r; m1<-r; m2<-r; m3<-r; m4<-r; m5<-r; m6<-r; j<-m1,m2,m3,m4,m5,m6; e<-j',
	'{"handler_class": "summary.H", "backoff_base_seconds": 100}') > 0 AS registered;

CREATE FUNCTION pg_temp.claim() RETURNS bigint LANGUAGE sql AS $$
	SELECT count(*) FROM tasker.claim_steps((SELECT max(executor_id) FROM tasker.executors WHERE name = 'summary'), 100)
$$;
CREATE FUNCTION pg_temp.action(task bigint, OUT status tasker.state, OUT execution_status text, OUT health text,
	OUT work boolean, OUT reenqueue boolean, OUT intervention boolean, OUT action text, OUT urgency text, OUT can_proceed text, OUT progress jsonb)
RETURNS SETOF record LANGUAGE sql AS $$
	SELECT c.status, c.execution_status, c.health_status, c.has_work_to_do, c.should_reenqueue, c.needs_intervention,
		c.next_action_details ->> 'action', c.next_action_details ->> 'urgency', c.next_action_details ->> 'can_proceed', c.progress_details
	FROM tasker.task_execution_contexts c WHERE c.task_id = task
$$;
-- Names instead of ids.
CREATE FUNCTION pg_temp.names(ids jsonb) RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(n.name, ' ' ORDER BY i.place)
	FROM jsonb_array_elements_text(ids) WITH ORDINALITY i (id, place)
	JOIN tasker.workflow_steps s ON s.workflow_step_id = i.id::bigint JOIN tasker.named_steps n USING (named_step_id)
$$;
CREATE FUNCTION pg_temp.summary(task bigint, OUT roots text, OUT ready text, OUT next text, OUT blocked text, OUT reasons jsonb,
	OUT depth integer, OUT branches bigint, OUT strategy text, OUT batch integer, OUT efficiency text, OUT potential text)
RETURNS SETOF record LANGUAGE sql AS $$
	SELECT pg_temp.names(s.root_step_ids), pg_temp.names(s.ready_step_ids), pg_temp.names(s.next_executable_step_ids), pg_temp.names(s.blocked_step_ids),
		s.blocking_reasons, s.max_dependency_depth, s.parallel_branches, s.processing_strategy, s.recommended_batch_size,
		s.workflow_efficiency, s.parallelism_potential
	FROM tasker.task_workflow_summaries s WHERE s.task_id = task
$$;

---- the life of a wide task ----
SELECT tasker.create_task('summary wide', namespace => 'test') AS wide \gset
SELECT * FROM pg_temp.action(:wide);
SELECT * FROM pg_temp.summary(:wide);
SELECT tasker.orchestrate() > 0 AS orchestrated, pg_temp.claim() AS claimed;
SELECT * FROM pg_temp.action(:wide);
SELECT * FROM pg_temp.summary(:wide);
SELECT tasker.complete_step(test.step(:wide, 'r'), test.claim(:wide, 'r'));
SELECT * FROM pg_temp.action(:wide);
SELECT * FROM pg_temp.summary(:wide);
SELECT root_step_count, processing_recommendation = jsonb_build_object('strategy', 'batch_parallel', 'batch_size', 10, 'parallel_safe', true, 'step_ids', ready_step_ids) AS recommended
FROM tasker.task_workflow_summaries WHERE task_id = :wide;
-- one fails while two others wait for an executor
SELECT tasker.orchestrate() > 0 AS orchestrated, pg_temp.claim() AS claimed;
SELECT tasker.fail_step(test.step(:wide, 'm1'), test.claim(:wide, 'm1'), 'no luck');
SELECT tasker.release_step(test.step(:wide, 'm2'), test.claim(:wide, 'm2')), tasker.release_step(test.step(:wide, 'm3'), test.claim(:wide, 'm3'));
SELECT * FROM pg_temp.action(:wide);
SELECT * FROM pg_temp.summary(:wide);
-- nothing runs but the clock
SELECT tasker.orchestrate() > 0 AS orchestrated, pg_temp.claim() AS claimed;
SELECT count(tasker.complete_step(test.step(:wide, m), test.claim(:wide, m))) FROM unnest('{m2,m3,m4,m5,m6}'::text[]) m;
SELECT * FROM pg_temp.action(:wide);
SELECT * FROM pg_temp.summary(:wide);
-- paused: still to wait for
SET tasker.clock_offset = 100000;
SELECT tasker.pause('test', 'summary wide');
SELECT * FROM pg_temp.action(:wide);
SELECT * FROM pg_temp.summary(:wide);
SELECT tasker.resume('test', 'summary wide');
SELECT * FROM pg_temp.action(:wide);
-- it fails for good: a person is needed, before and after the task has ended in error
SELECT tasker.orchestrate() > 0 AS orchestrated, pg_temp.claim() AS claimed;
SELECT tasker.fail_step(test.step(:wide, 'm1'), test.claim(:wide, 'm1'), 'never', retryable => false);
SELECT * FROM pg_temp.action(:wide);
SELECT * FROM pg_temp.summary(:wide);
SELECT tasker.orchestrate() > 0 AS orchestrated;
SELECT * FROM pg_temp.action(:wide);
SELECT next_action_details ->> 'description' AS description FROM tasker.task_execution_contexts WHERE task_id = :wide;
-- and helps
SELECT tasker.resolve_step(test.step(:wide, 'm1'));
SELECT * FROM pg_temp.action(:wide);
SELECT test.run_all(:executor) AS runs;
SELECT * FROM pg_temp.action(:wide);
SELECT * FROM pg_temp.summary(:wide);

---- other ends ----
-- cancelled: nobody needs to do anything
SELECT tasker.create_task('summary wide', namespace => 'test') AS ended \gset
SELECT tasker.cancel_task(:ended);
SELECT * FROM pg_temp.action(:ended);
SELECT * FROM pg_temp.summary(:ended);
-- given up by hand: what is left is not waited for
SELECT tasker.create_task('summary wide', namespace => 'test') AS given_up \gset
SELECT tasker.orchestrate() > 0 AS orchestrated, pg_temp.claim() AS claimed;
SELECT tasker.fail_step(test.step(:given_up, 'r'), test.claim(:given_up, 'r'), 'never', retryable => false);
SELECT tasker.orchestrate() > 0 AS orchestrated;
SELECT * FROM pg_temp.action(:given_up);
SELECT tasker.resolve_task(:given_up);
SELECT * FROM pg_temp.action(:given_up);
RESET tasker.clock_offset;

---- one definition ----
-- The views, the functions for one task and those for many say the same, here of
-- every task that the tests before have left, and of random ones named twice. How
-- long until a step is ready is the one thing that the moment changes: the clock is
-- beyond the backoffs that others have left, and there is one for an hour.
SET tasker.clock_offset = '14 d';
SELECT tasker.create_task('summary wide', namespace => 'test') AS waiting \gset
SELECT tasker.orchestrate() > 0 AS orchestrated, pg_temp.claim() AS claimed;
SELECT tasker.fail_step(test.step(:waiting, 'r'), test.claim(:waiting, 'r'), 'busy', retry_after_seconds => 3600);
CREATE TEMP TABLE asked AS SELECT array_agg(task_id ORDER BY random()) AS ids FROM tasker.tasks;
CREATE FUNCTION pg_temp.same(ids bigint[], OUT rows boolean, OUT differences bigint) LANGUAGE sql AS $$
	WITH batch AS MATERIALIZED (
		SELECT 'step' AS what, to_jsonb(r) - 'time_until_ready' AS row FROM tasker.step_readiness_statuses(ids) r
		UNION ALL SELECT 'task', to_jsonb(c) FROM tasker.task_execution_contexts(ids) c
	), single AS MATERIALIZED (
		SELECT 'step' AS what, to_jsonb(r) - 'time_until_ready' AS row FROM (SELECT DISTINCT unnest(ids) AS id) a CROSS JOIN LATERAL tasker.step_readiness_status(a.id) r
		UNION ALL SELECT 'task', to_jsonb(c) FROM (SELECT DISTINCT unnest(ids) AS id) a CROSS JOIN LATERAL tasker.task_execution_context(a.id) c
	), view AS MATERIALIZED (
		SELECT 'step' AS what, to_jsonb(r) - 'time_until_ready' AS row FROM tasker.step_readiness_statuses r WHERE r.task_id = ANY (ids)
		UNION ALL SELECT 'task', to_jsonb(c) FROM tasker.task_execution_contexts c WHERE c.task_id = ANY (ids)
	)
	SELECT (SELECT count(*) FROM batch) > cardinality(ids), (SELECT count(*) FROM (
		(SELECT * FROM batch EXCEPT ALL SELECT * FROM single) UNION ALL (SELECT * FROM single EXCEPT ALL SELECT * FROM batch)
		UNION ALL (SELECT * FROM batch EXCEPT ALL SELECT * FROM view) UNION ALL (SELECT * FROM view EXCEPT ALL SELECT * FROM batch)) d)
$$;
SELECT (pg_temp.same(ids)).* FROM asked;
SELECT (pg_temp.same(ids[1:20] || ids[11:30] || NULL || ARRAY[-1])).* FROM asked;
-- and the sets of steps are those of the tasks
SELECT (SELECT count(*) FROM tasker.step_readiness_statuses(ids)) = (SELECT count(*) FROM tasker.workflow_steps) AS every_step_once,
	(SELECT count(*) FROM tasker.task_execution_contexts(ids || ids)) = cardinality(ids) AS every_task_once
FROM asked;
SELECT count(*) FROM tasker.step_readiness_statuses('{}');
SELECT count(*) FROM tasker.step_readiness_statuses(NULL::bigint[]);
SELECT count(*) FROM tasker.task_execution_contexts('{-1,NULL}');
-- ready steps and the counts agree in the summary, too
SELECT count(*) AS tasks_that_disagree FROM tasker.task_workflow_summaries s
WHERE jsonb_array_length(s.ready_step_ids) <> s.ready_steps
	OR jsonb_array_length(s.blocked_step_ids) <> jsonb_array_length(s.blocking_reasons)
	OR jsonb_array_length(s.ready_step_ids) + jsonb_array_length(s.blocked_step_ids) <> s.pending_steps + s.failed_steps
	OR s.root_step_count <> (SELECT count(*) FROM tasker.workflow_steps w WHERE w.task_id = s.task_id AND w.is_root);

SELECT tasker.cancel_task(:waiting);
SELECT tasker.unregister_executor(:executor);
SELECT * FROM tasker.check();
