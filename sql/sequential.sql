-- concurrent: false: a task has at most one step in progress at a time,
-- whoever claims, and each step that stops passes the turn on.
SELECT tasker.orchestrate() >= 0 AS settled;
SELECT executor_id AS puller FROM tasker.register_executor('sequential', '{sequential.H}', 0) \gset
SELECT executor_id AS other FROM tasker.register_executor('sequential, too', '{sequential.H}', 0) \gset

CREATE FUNCTION pg_temp.sequential(name text, steps text, options jsonb DEFAULT '{}') RETURNS integer LANGUAGE sql AS $$
	SELECT tasker.register_task_template(jsonb_build_object('name', name, 'namespace_name', 'test', 'version', '1.0.0', 'concurrent', false,
		'step_templates', jsonb_agg(jsonb_build_object('name', trim(split_part(s, '<-', 1)), 'handler_class', 'sequential.H', 'backoff_base_seconds', 60)
			|| CASE WHEN s LIKE '%<-%' THEN jsonb_build_object('depends_on_steps',
				(SELECT jsonb_agg(trim(p)) FROM unnest(string_to_array(split_part(s, '<-', 2), ',')) p)) ELSE '{}' END
			|| coalesce(options -> trim(split_part(s, '<-', 1)), '{}') ORDER BY n)))
	FROM unnest(string_to_array(steps, ';')) WITH ORDINALITY u(s, n)
$$;
-- The names of what an executor gets.
CREATE FUNCTION pg_temp.claim(executor bigint) RETURNS text LANGUAGE sql AS $$
	SELECT coalesce((SELECT string_agg(step_name, ', ') FROM tasker.claim_steps(executor, 100)), 'nothing')
$$;
CREATE FUNCTION pg_temp.settle() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	WHILE tasker.orchestrate() > 0 LOOP END LOOP;
END
$$;
CREATE FUNCTION pg_temp.complete(task bigint, step text) RETURNS boolean LANGUAGE sql AS $$
	SELECT tasker.complete_step(test.step(task, step), test.claim(task, step))
$$;
CREATE FUNCTION pg_temp.viable(task bigint) RETURNS text LANGUAGE sql AS $$
	SELECT coalesce(string_agg(n.name, ', ' ORDER BY v), 'nothing') FROM tasker.find_viable_steps(task) v
	JOIN tasker.workflow_steps s ON s.workflow_step_id = v JOIN tasker.named_steps n USING (named_step_id)
$$;

---- three roots and what hangs on them: one at a time, by priority, then in order ----
SELECT pg_temp.sequential('one at a time', 'a; b; c; d<-a,b; e', '{"c": {"priority": 5}}') > 0 AS registered;
SELECT tasker.create_task('one at a time', namespace => 'test') AS t \gset
SELECT pg_temp.settle();
SELECT count(*) AS waiting FROM tasker.work_queue q JOIN tasker.workflow_steps s USING (workflow_step_id) WHERE s.task_id = :t;
SELECT pg_temp.viable(:t);
SELECT pg_temp.claim(:puller);
-- nobody else gets any while it runs, and nothing is ready
SELECT pg_temp.settle();
SELECT pg_temp.claim(:other), pg_temp.viable(:t);
SELECT count(*) FILTER (WHERE ready_for_execution) AS ready, string_agg(DISTINCT blocking_reason, ', ') AS reasons
FROM tasker.step_readiness_status(:t);
\set VERBOSITY sqlstate
SELECT tasker.transition_step(test.step(:t, 'a'), 'in_progress');
\set VERBOSITY default
SELECT pg_temp.complete(:t, 'c'), pg_temp.settle();
SELECT pg_temp.claim(:other);
SELECT pg_temp.complete(:t, 'a'), pg_temp.settle();
SELECT pg_temp.claim(:puller);
SELECT pg_temp.complete(:t, 'b'), pg_temp.settle();
-- d is ready now as well, but e is a root and so comes before it in the template
SELECT pg_temp.claim(:puller);
SELECT pg_temp.complete(:t, 'e'), pg_temp.settle();
SELECT pg_temp.claim(:puller);
SELECT pg_temp.complete(:t, 'd'), pg_temp.settle();
SELECT tasker.task_state(:t);
SELECT * FROM tasker.check();

---- whatever ends a turn passes it on ----
SELECT pg_temp.sequential('turns', 'a; b; c; d; e; f') > 0 AS registered;
SELECT tasker.create_task('turns', namespace => 'test') AS t \gset
SELECT pg_temp.settle();
SELECT pg_temp.claim(:puller);
-- a release: the same one again
SELECT tasker.release_step(test.step(:t, 'a'), test.claim(:t, 'a')), pg_temp.settle();
SELECT pg_temp.claim(:puller);
-- a failure: while it waits for its retry the next one runs
SELECT tasker.fail_step(test.step(:t, 'a'), test.claim(:t, 'a'), 'once'), pg_temp.settle();
SELECT pg_temp.claim(:puller);
-- its time comes while another runs: it waits for its turn, and is first then
SET tasker.clock_offset = 61000;
SELECT pg_temp.settle();
SELECT state FROM test.steps(:t) WHERE step = 'a';
SELECT pg_temp.claim(:other), pg_temp.viable(:t);
SELECT tasker.cancel_step(test.step(:t, 'b')), pg_temp.settle();
SELECT pg_temp.claim(:puller);
-- the executor leaves
SELECT pg_temp.complete(:t, 'a'), pg_temp.settle();
SELECT pg_temp.claim(:other);
SELECT tasker.unregister_executor(:other), pg_temp.settle();
SELECT pg_temp.claim(:puller);
-- a step that waits in the queue, d, is settled by hand
SELECT pg_temp.complete(:t, 'c'), pg_temp.settle();
SELECT tasker.resolve_step(test.step(:t, 'd')), pg_temp.settle();
SELECT pg_temp.claim(:puller);
SELECT pg_temp.complete(:t, 'e'), pg_temp.settle();
SELECT tasker.transition_step(test.step(:t, 'f'), 'error') > 0 AS failed_by_hand, pg_temp.settle();
SELECT pg_temp.claim(:puller);
SELECT pg_temp.complete(:t, 'f'), pg_temp.settle();
-- b was cancelled
SELECT tasker.task_state(:t);
SELECT * FROM tasker.check();
RESET tasker.clock_offset;

---- pause, resume, rebuild, one step by id ----
SELECT tasker.create_task('turns', namespace => 'test') AS t \gset
SELECT pg_temp.settle();
SELECT tasker.pause('test', 'turns');
SELECT pg_temp.claim(:puller), pg_temp.viable(:t);
SELECT tasker.resume('test', 'turns');
SELECT pg_temp.settle();
SELECT count(*) AS waiting FROM tasker.work_queue q JOIN tasker.workflow_steps s USING (workflow_step_id) WHERE s.task_id = :t;
SELECT tasker.rebuild_accelerators();
SELECT pg_temp.settle();
SELECT count(*) AS waiting FROM tasker.work_queue q JOIN tasker.workflow_steps s USING (workflow_step_id) WHERE s.task_id = :t;
-- only the one whose turn it is can be claimed by its id
SELECT count(*) FROM tasker.claim_step(:puller, test.step(:t, 'b'));
SELECT step_name, attempt FROM tasker.claim_step(:puller, test.step(:t, 'a'));
SELECT count(*) FROM tasker.claim_step(:puller, test.step(:t, 'a'));
SELECT count(*) FROM tasker.claim_step(:puller, test.step(:t, 'b'));
SELECT pg_temp.complete(:t, 'a'), pg_temp.settle();
SELECT pg_temp.claim(:puller);
SELECT tasker.cancel_task(:t), pg_temp.settle();

---- beside each other: tasks do not wait for other tasks ----
SELECT count(tasker.create_task('turns', namespace => 'test')) FROM generate_series(1, 3);
SELECT pg_temp.settle();
SELECT pg_temp.claim(:puller);

---- check() sees a broken turn ----
BEGIN;
SELECT tasker.create_task('turns', namespace => 'test') AS t \gset
SELECT pg_temp.settle();
SELECT workflow_step_id AS queued FROM tasker.work_queue q JOIN tasker.workflow_steps s USING (workflow_step_id) WHERE s.task_id = :t \gset
DELETE FROM tasker.work_queue WHERE workflow_step_id = :queued;
SELECT problem, count(*) FROM tasker.check() GROUP BY 1;
ROLLBACK;

---- a random DAG as a whole: never two at once, everything once ----
SELECT pg_temp.sequential('sequential dag', string_agg('s' || i || CASE WHEN i > 3 THEN '<-s' || (i / 2) || ',s' || (i - 3) ELSE '' END, '; ' ORDER BY i)) > 0 AS registered
FROM generate_series(1, 25) i;
DO $$
DECLARE
	puller bigint := (SELECT executor_id FROM tasker.executors WHERE name = 'sequential');
	t bigint := tasker.create_task('sequential dag', namespace => 'test');
	c record;
	runs integer := 0;
	failed integer := 0;
BEGIN
	FOR i IN 1..200 LOOP
		PERFORM pg_temp.settle();
		FOR c IN SELECT * FROM tasker.claim_steps(puller, 100) WHERE task_id = t LOOP
			IF (SELECT count(*) FROM tasker.workflow_steps WHERE task_id = t AND state = 'in_progress') <> 1 THEN
				RAISE EXCEPTION 'more than one step is in progress';
			END IF;
			runs := runs + 1;
			IF c.attempt = 1 AND c.workflow_step_id % 3 = 0 THEN
				failed := failed + 1;
				PERFORM tasker.fail_step(c.workflow_step_id, c.claim, 'once', retry_after_seconds => 0);
			ELSE
				PERFORM tasker.complete_step(c.workflow_step_id, c.claim);
			END IF;
		END LOOP;
		EXIT WHEN tasker.task_state(t) = 'complete';
	END LOOP;
	IF tasker.task_state(t) <> 'complete' OR runs <> 25 + failed OR failed NOT BETWEEN 8 AND 9 THEN
		RAISE EXCEPTION 'task is %, % runs, % failed', tasker.task_state(t), runs, failed;
	END IF;
END
$$;
SELECT tasker.unregister_executor(:puller);
SELECT pg_temp.settle();
