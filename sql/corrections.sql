-- What the views of the original Tasker got wrong: each situation once, what the
-- original said about it, and what is right. The clock begins where no other
-- test has been, so that figures of a period are about the tasks made here.
SET tasker.clock_offset = '15 d';
SELECT tasker.orchestrate() >= 0 AS settled;
SELECT tasker.now() AS start \gset
SELECT executor_id AS executor FROM tasker.register_executor('corrections', '{corrections.H}', 0) \gset
CREATE FUNCTION pg_temp.make(name text, steps text, options jsonb DEFAULT '{}') RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
	PERFORM test.template('corrections ' || name, steps, '{"handler_class": "corrections.H", "backoff_base_seconds": 100}' || options);
	RETURN tasker.create_task('corrections ' || name, namespace => 'test');
END
$$;
-- Claims what is ready; the steps of a task by name.
CREATE FUNCTION pg_temp.claim(task bigint) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	PERFORM tasker.orchestrate();
	RETURN (SELECT string_agg(c.step_name, ' ' ORDER BY c.workflow_step_id)
		FROM tasker.claim_steps((SELECT max(executor_id) FROM tasker.executors WHERE name = 'corrections'), 1000) c WHERE c.task_id = task);
END
$$;
CREATE FUNCTION pg_temp.complete(task bigint, names text) RETURNS bigint LANGUAGE sql AS $$
	SELECT count(tasker.complete_step(test.step(task, name), test.claim(task, name))) FROM unnest(string_to_array(names, ' ')) name
$$;
CREATE FUNCTION pg_temp.fail(task bigint, name text, retryable boolean DEFAULT true, retry_after integer DEFAULT NULL) RETURNS boolean LANGUAGE sql AS $$
	SELECT tasker.fail_step(test.step(task, name), test.claim(task, name), 'no luck', retryable => retryable, retry_after_seconds => retry_after)
$$;
CREATE FUNCTION pg_temp.advance(seconds integer) RETURNS void LANGUAGE sql AS $$
	SELECT set_config('tasker.clock_offset', (setting::integer + seconds * 1000)::text, false) FROM pg_settings WHERE name = 'tasker.clock_offset'
$$;
CREATE FUNCTION pg_temp.readiness(task bigint, OUT step text, OUT state tasker.state, OUT attempts integer, OUT ready boolean,
	OUT eligible boolean, OUT blocking_reason text, OUT until_ready numeric)
RETURNS SETOF record LANGUAGE sql AS $$
	SELECT r.name, r.current_state, r.attempts, r.ready_for_execution, r.retry_eligible, r.blocking_reason, round(r.time_until_ready::numeric, -1)
	FROM tasker.step_readiness_status(task) r ORDER BY r.workflow_step_id
$$;
CREATE FUNCTION pg_temp.context(task bigint, OUT status tasker.state, OUT ready bigint, OUT failed bigint, OUT cancelled bigint,
	OUT execution_status text, OUT health text)
RETURNS SETOF record LANGUAGE sql AS $$
	SELECT c.status, c.ready_steps, c.failed_steps, c.cancelled_steps, c.execution_status, c.health_status FROM tasker.task_execution_context(task) c
$$;

---- the current state ----
-- A step failed, was retried and completed, and the clock went back meanwhile.
-- The original, reading the latest by created_at, said: error. The state is
-- where the last transition led, and exactly one row is the most recent.
SELECT pg_temp.make('state', 'a') AS task \gset
SELECT pg_temp.claim(:task), pg_temp.fail(:task, 'a');
SELECT pg_temp.advance(100), pg_temp.claim(:task);
SELECT pg_temp.advance(-150);
SELECT pg_temp.complete(:task, 'a');
SELECT tasker.orchestrate() > 0 AS orchestrated;
SELECT l.sort_key, l.to_state, l.most_recent FROM tasker.workflow_step_transitions l WHERE workflow_step_id = test.step(:task, 'a') ORDER BY l.created_at;
SELECT tasker.step_state(test.step(:task, 'a')) AS step, tasker.task_state(:task) AS task;
SELECT count(*) FROM tasker.workflow_step_transitions WHERE workflow_step_id = test.step(:task, 'a') AND most_recent;
SELECT pg_temp.advance(50);

---- readiness ----
-- Never attempted. The first version compared NULL attempts with the limit and
-- never found such a step ready.
SELECT pg_temp.make('first', 'a; b<-a') AS task \gset
SELECT * FROM pg_temp.readiness(:task);
-- A parent without any transition is pending: it blocks, as it did in the original.
SELECT step, ready FROM pg_temp.readiness(:task) WHERE step = 'b';
SELECT tasker.cancel_task(:task);

-- Not retryable. The original: never ready, not even the first time.
SELECT pg_temp.make('once', 'a', '{"default_retryable": false}') AS task \gset
SELECT * FROM pg_temp.readiness(:task);
SELECT pg_temp.claim(:task), pg_temp.fail(:task, 'a');
-- After it the original said: eligible, for 1 < 3, not blocked; the task waited for ever.
SELECT * FROM pg_temp.readiness(:task);
SELECT * FROM pg_temp.context(:task);
SELECT tasker.orchestrate() > 0 AS orchestrated;
SELECT * FROM pg_temp.context(:task);

-- An explicit wait of 20 seconds after a failure whose backoff would be 100. The
-- original showed 20 as next_retry_at and waited for both.
SELECT pg_temp.make('wait', 'a; b; c') AS task \gset
SELECT pg_temp.claim(:task), pg_temp.fail(:task, 'a', retry_after => 20), pg_temp.fail(:task, 'b', retry_after => 180), pg_temp.fail(:task, 'c');
SELECT * FROM pg_temp.readiness(:task);
SELECT pg_temp.advance(20);
SELECT * FROM pg_temp.readiness(:task);
-- It said that a is ready, but ran pending steps only, and looked at the task again
-- when the slowest of the three was due. a runs now, c and b at their own times.
SELECT pg_temp.claim(:task);
SELECT pg_temp.advance(80), pg_temp.claim(:task);
SELECT pg_temp.advance(80), pg_temp.claim(:task);
-- A wait that was asked for was never forgotten: after a retry by hand the step
-- went on waiting.
SELECT pg_temp.fail(:task, 'a', retry_after => 500), tasker.retry_step(test.step(:task, 'a')), pg_temp.complete(:task, 'b c');
SELECT step, ready, until_ready FROM pg_temp.readiness(:task) WHERE step = 'a';
SELECT backoff_request_seconds, backoff_type FROM tasker.step_readiness_status(:task) WHERE name = 'a';
SELECT pg_temp.claim(:task), pg_temp.complete(:task, 'a');

---- execution context ----
-- A failure in its backoff. The first view said: blocked_by_failures, and the task
-- ended in error too early.
SELECT pg_temp.make('context', 'a; b; c<-b') AS task \gset
SELECT pg_temp.claim(:task), pg_temp.fail(:task, 'a'), pg_temp.complete(:task, 'b');
SELECT tasker.orchestrate() > 0 AS orchestrated, pg_temp.claim(:task);
SELECT * FROM pg_temp.context(:task);
SELECT pg_temp.complete(:task, 'c');
SELECT * FROM pg_temp.context(:task);
-- A failure for good beside work that can be done. The original hid it behind
-- has_ready_steps, with health recovering; its successor stopped the other branch.
-- Here the branch goes on, and the step itself says that it will not.
SELECT pg_temp.make('permanent', 'a; b; c<-b') AS task \gset
SELECT pg_temp.claim(:task), pg_temp.fail(:task, 'a', retryable => false), pg_temp.complete(:task, 'b');
SELECT * FROM pg_temp.context(:task);
SELECT step, blocking_reason FROM pg_temp.readiness(:task) WHERE step = 'a';
SELECT pg_temp.claim(:task);
-- in progress: a person may already look at it
SELECT execution_status, health_status, needs_intervention FROM tasker.task_execution_context(:task);
SELECT pg_temp.complete(:task, 'c');
SELECT tasker.orchestrate() > 0 AS orchestrated;
SELECT * FROM pg_temp.context(:task);
-- A cancelled step. The original counted it in the total only and waited for its
-- children for ever: never all_complete, never blocked.
SELECT pg_temp.make('cancelled', 'a; b<-a; c') AS task \gset
SELECT tasker.cancel_step(test.step(:task, 'a')), pg_temp.claim(:task), pg_temp.complete(:task, 'c');
SELECT * FROM pg_temp.context(:task);
SELECT tasker.orchestrate() >= 0 AS orchestrated;
SELECT * FROM pg_temp.context(:task);
SELECT * FROM test.steps(:task);

---- the graph ----
-- Deeper than fifty: there the original stopped looking.
SELECT pg_temp.make('deep', 's0; ' || string_agg(format('s%s<-s%s', i, i - 1), '; ' ORDER BY i)) AS task FROM generate_series(1, 59) i \gset
SELECT max(min_depth_from_root) AS shortest, (SELECT max(dependency_level) FROM tasker.dependency_levels(:task)) AS longest FROM tasker.step_dag_relationships WHERE task_id = :task;
SELECT tasker.cancel_task(:task);
-- Twelve layers of ten steps, each with all of the layer before as parents: 10^11
-- paths, each of which the original walked.
SELECT pg_temp.make('layers', string_agg(format('l%s_%s', l, i) || CASE WHEN l > 1 THEN '<-' || (SELECT string_agg(format('l%s_%s', l - 1, p), ',') FROM generate_series(1, 10) p) ELSE '' END, '; ' ORDER BY l, i)) AS task
FROM generate_series(1, 12) l, generate_series(1, 10) i \gset
SET statement_timeout = '10s';
SELECT dependency_level, count(*) FROM tasker.dependency_levels(:task) GROUP BY 1 ORDER BY 1;
SELECT min_depth_from_root, count(*), min(parent_count), max(child_count) FROM tasker.step_dag_relationships WHERE task_id = :task GROUP BY 1 ORDER BY 1;
RESET statement_timeout;
SELECT tasker.cancel_task(:task);

---- the workflow summary ----
-- Its depth was the largest number of parents, its branches the number of
-- different numbers of parents: of a chain of five the original said 1 deep and 2
-- branches, of this fan-in 4 deep and 2 branches.
SELECT pg_temp.make('chain', 'a; b<-a; c<-b; d<-c; e<-d') AS chain, pg_temp.make('fan', 'a; b; c; d; e<-a,b,c,d') AS fan \gset
SELECT max_dependency_depth, parallel_branches FROM tasker.task_workflow_summaries WHERE task_id IN (:chain, :fan) ORDER BY task_id;
-- A step in its backoff is no blockade, and one in progress is not blocked.
SELECT pg_temp.claim(:fan), pg_temp.fail(:fan, 'a');
SELECT workflow_efficiency, blocking_reasons FROM tasker.task_workflow_summaries WHERE task_id = :fan;
SELECT pg_temp.complete(:fan, 'b c d');
SELECT workflow_efficiency, blocking_reasons FROM tasker.task_workflow_summaries WHERE task_id = :fan;
SELECT count(tasker.cancel_task(task)) FROM unnest(ARRAY[:chain, :fan]) task;

---- analytics ----
-- Some minutes that all figures are about: of two tasks one is complete, after a
-- retry; of the other one step is.
SELECT tasker.now() AS begin \gset
SELECT active_tasks_count AS active FROM tasker.analytics_metrics() \gset
SELECT pg_temp.make('done', 'a; b<-a') AS done, pg_temp.make('half', 'a; b<-a') AS half \gset
SELECT pg_temp.advance(100), pg_temp.claim(:done);
SELECT pg_temp.advance(100), pg_temp.fail(:done, 'a'), pg_temp.complete(:half, 'a');
SELECT pg_temp.advance(100), pg_temp.claim(:done);
SELECT pg_temp.advance(100), pg_temp.complete(:done, 'a');
SELECT pg_temp.advance(100), pg_temp.claim(:done);
SELECT pg_temp.advance(300), pg_temp.complete(:done, 'b'), tasker.orchestrate() > 0 AS orchestrated;
SELECT tasker.release_step(test.step(:half, 'b'), test.claim(:half, 'b'));
CREATE TEMP VIEW metrics AS SELECT * FROM tasker.analytics_metrics((SELECT min(t.requested_at) FROM tasker.tasks t JOIN tasker.named_tasks n USING (named_task_id) WHERE n.name = 'corrections done'));
SELECT active_tasks_count - :active AS active, task_throughput, completion_count, error_count, completion_rate, error_rate, system_health_score FROM metrics;
-- A completed step made a task count as completed: the original said 2. One errored
-- step made it count as an error: the original said 1, and rates of them.
-- The steps ended 200, 400 and 800 seconds after their creation: 467 on average, said
-- the original, is what a step takes, the wait included, and what a task takes.
SELECT step_throughput, round(avg_step_duration, -1) AS step, round(avg_queue_wait / 25) * 25 AS wait, round(avg_task_duration, -1) AS task FROM metrics;
-- The percentiles were constants in the code.
SELECT round(p50_step_duration, -1) AS p50, round(p95_step_duration, -1) AS p95, round(p99_step_duration, -1) AS p99 FROM metrics;

-- A task counts as active although nothing has happened to its steps yet: those
-- without a transition the original did not see.
SELECT active_tasks_count AS active, (SELECT pending_steps FROM tasker.system_health_counts()) AS pending, (SELECT total_steps FROM tasker.system_health_counts()) AS total FROM tasker.analytics_metrics() \gset
SELECT pg_temp.make('untouched', 'a; b; c') AS untouched \gset
SELECT active_tasks_count - :active AS active FROM tasker.analytics_metrics();
-- They were in the total but not among the pending.
SELECT pending_steps - :pending AS pending, total_steps - :total AS total FROM tasker.system_health_counts();

-- The slowest tasks: joined with all transitions, a task of two steps with seven
-- transitions counted seven steps.
SELECT task_id = :done AS is_it, step_count, completed_steps, error_steps, round(duration_seconds, -1) AS duration,
	round(execution_seconds, -1) AS execution, round(waiting_seconds, -1) AS waiting
FROM tasker.slowest_tasks(:'begin', namespace => 'test', task_name => 'corrections done');
SELECT count(*) AS rows, count(DISTINCT task_id) AS tasks FROM tasker.slowest_tasks(:'start', NULL, 'test');
-- The slowest steps: from creation to completion the last one of a workflow always
-- was. What an attempt took, and what it waited.
SELECT task_id = :done AS of_done, step_name, round(duration_seconds, -1) AS duration, round(waiting_seconds, -1) AS waiting, attempts
FROM tasker.slowest_steps(:'begin', namespace => 'test') ORDER BY completed_at;

---- health ----
-- In backoff: the original did not look at the time, and counted on.
SELECT retryable_error_steps AS retryable, in_backoff_steps AS backoff, exhausted_retry_steps AS exhausted FROM tasker.system_health_counts() \gset
SELECT pg_temp.claim(:untouched), pg_temp.fail(:untouched, 'a'), pg_temp.fail(:untouched, 'b', retryable => false), pg_temp.complete(:untouched, 'c');
SELECT retryable_error_steps - :retryable AS retryable, in_backoff_steps - :backoff AS backoff, exhausted_retry_steps - :exhausted AS exhausted FROM tasker.system_health_counts();
SELECT pg_temp.advance(100);
SELECT retryable_error_steps - :retryable AS retryable, in_backoff_steps - :backoff AS backoff, exhausted_retry_steps - :exhausted AS exhausted FROM tasker.system_health_counts();

SELECT count(tasker.cancel_task(t.task_id)) FROM tasker.tasks t JOIN tasker.named_tasks n USING (named_task_id)
WHERE n.name LIKE 'corrections %' AND t.state IN ('pending', 'in_progress');
SELECT tasker.orchestrate() > 0 AS orchestrated;
SELECT tasker.unregister_executor(:executor);
SELECT * FROM tasker.check();
