-- Orchestration: discovery, retries, skipping, cancelling, finalization, each
-- with the exact history that it leaves. Time passes by moving the clock.
SELECT tasker.orchestrate() >= 0 AS settled;
SELECT executor_id AS puller FROM tasker.register_executor('orchestrate', '{orchestrate.H}', 0) \gset

-- Sets the clock so that a moment is less than a millisecond past, or lies one to two milliseconds ahead.
CREATE FUNCTION pg_temp.set_clock(moment timestamptz, ahead integer DEFAULT 0) RETURNS void LANGUAGE sql AS $$
	SELECT set_config('tasker.clock_offset',
		(setting::integer + ceil(extract(epoch FROM moment - tasker.now()) * 1000)::integer - ahead)::text, false)
	FROM pg_settings WHERE name = 'tasker.clock_offset'
$$;

-- Runs a task to its end: a step fails as often as failures says, then completes.
-- When nothing can run the clock moves to the next retry. Returns the number of step runs.
CREATE FUNCTION pg_temp.run_task(task bigint, executor bigint, failures jsonb DEFAULT '{}') RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
	runs integer := 0;
	before integer;
	due timestamptz;
	c tasker.claimed_step;
BEGIN
	LOOP
		PERFORM tasker.orchestrate();
		before := runs;
		FOR c IN SELECT * FROM tasker.claim_steps(executor, 100) LOOP
			runs := runs + 1;
			IF c.attempt <= coalesce((failures ->> c.step_name)::integer, 0) THEN
				PERFORM tasker.fail_step(c.workflow_step_id, c.claim, 'failure ' || c.attempt || ' of ' || c.step_name);
			ELSE
				PERFORM tasker.complete_step(c.workflow_step_id, c.claim, jsonb_build_object('attempt', c.attempt));
			END IF;
		END LOOP;
		CONTINUE WHEN runs > before;
		SELECT min(next_retry_at) INTO due FROM tasker.workflow_steps WHERE task_id = task AND state = 'error';
		EXIT WHEN due IS NULL;
		PERFORM pg_temp.set_clock(due);
	END LOOP;
	PERFORM tasker.orchestrate();
	RETURN runs;
END
$$;

CREATE FUNCTION pg_temp.claim(executor bigint) RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(step_name, ', ') FROM tasker.claim_steps(executor, 100)
$$;

-- As many times as it is called: what it moved.
CREATE FUNCTION pg_temp.settle() RETURNS text LANGUAGE sql AS $$
	SELECT CASE WHEN tasker.orchestrate() > 0 THEN 'something' ELSE 'nothing' END
$$;

---- the five workflow shapes ----
SELECT count(test.template(shape, steps, '{"handler_class": "orchestrate.H"}'))
FROM (VALUES
	('linear', 'initialize_data; validate_input<-initialize_data; process_data<-validate_input; transform_results<-process_data; validate_output<-transform_results; finalize_workflow<-validate_output'),
	('diamond', 'start_workflow; branch_one_process<-start_workflow; branch_two_process<-start_workflow; branch_one_validate<-branch_one_process; branch_two_validate<-branch_two_process; merge_branches<-branch_one_validate,branch_two_validate; end_workflow<-merge_branches'),
	('parallel merge', 'fetch_user_data; fetch_order_data; fetch_inventory_data; fetch_pricing_data; process_user_data<-fetch_user_data; process_order_data<-fetch_order_data; merge_all_data<-process_user_data,process_order_data,fetch_inventory_data,fetch_pricing_data'),
	('tree', 'root_initialization; branch_a_setup<-root_initialization; branch_b_setup<-root_initialization; branch_a_task_one<-branch_a_setup; branch_a_task_two<-branch_a_setup; branch_b_task_one<-branch_b_setup; branch_b_task_two<-branch_b_setup; aggregate_results<-branch_a_task_one,branch_a_task_two,branch_b_task_one,branch_b_task_two'),
	('mixed', 'init_auth; init_config; validate_permissions<-init_auth; setup_environment<-init_config; begin_processing<-validate_permissions,setup_environment; process_critical_data<-begin_processing; process_optional_data<-begin_processing; cleanup_temp_files<-setup_environment; finalize_and_report<-process_critical_data,cleanup_temp_files')
) AS t(shape, steps);
CREATE TEMPORARY TABLE shape (place serial, shape text, failures jsonb, task_id bigint, runs integer);
INSERT INTO shape (shape, failures) VALUES
	('linear', '{"process_data": 1}'),
	('diamond', '{"branch_one_process": 1, "branch_two_process": 1}'),
	('parallel merge', '{"fetch_order_data": 1, "fetch_inventory_data": 1, "merge_all_data": 1}'),
	('tree', '{"branch_b_setup": 1, "branch_a_task_two": 1, "branch_b_task_two": 1}'),
	('mixed', '{"validate_permissions": 1, "setup_environment": 1, "process_critical_data": 2}');
DO $$
DECLARE
	s shape;
BEGIN
	FOR s IN SELECT * FROM shape ORDER BY place LOOP
		s.task_id := tasker.create_task(s.shape, namespace => 'test');
		UPDATE shape SET task_id = s.task_id WHERE place = s.place;
		s.runs := pg_temp.run_task(s.task_id, (SELECT executor_id FROM tasker.stat_executors WHERE name = 'orchestrate'), s.failures);
		UPDATE shape SET runs = s.runs WHERE place = s.place;
	END LOOP;
END
$$;
-- a good run is two transitions, a failed one three: into progress, into error, back to pending
SELECT shape, runs, tasker.task_state(task_id), (SELECT sum(attempts) FROM test.steps(task_id)) AS attempts,
	(SELECT count(*) FROM tasker.workflow_step_transitions JOIN tasker.workflow_steps s USING (workflow_step_id)
		WHERE s.task_id = shape.task_id) AS step_transitions
FROM shape ORDER BY place;
SELECT shape, h.owner, h.moves FROM shape, test.history(task_id) WITH ORDINALITY h(owner, moves, n) ORDER BY place, n;
-- what a retry leaves behind
SELECT shape, n.name, s.attempts, s.results, s.next_retry_at, s.backoff_request_seconds, s.failed_permanently
FROM shape JOIN tasker.workflow_steps s USING (task_id) JOIN tasker.named_steps n USING (named_step_id)
WHERE s.attempts > 1 ORDER BY place, workflow_step_id;
-- the backoff doubles
SELECT l.metadata ->> 'attempt_number' AS attempt, l.metadata ->> 'error_message' AS error, l.metadata ->> 'backoff_seconds' AS backoff,
	l.metadata ->> 'backoff_type' AS type, l.metadata ->> 'retry_available' AS retry
FROM shape JOIN tasker.workflow_steps s USING (task_id) JOIN tasker.workflow_step_transitions l USING (workflow_step_id)
WHERE shape = 'mixed' AND s.workflow_step_id = test.step(task_id, 'process_critical_data') AND l.to_state = 'error' ORDER BY l.sort_key;

---- idempotent ----
SELECT tasker.create_task('diamond', namespace => 'test') AS twice \gset
SELECT tasker.orchestrate() AS first_time, tasker.orchestrate() AS second_time;
SELECT tasker.orchestrate(:twice) AS of_the_task, tasker.orchestrate() AS third_time;
SELECT pg_temp.claim(:puller);
SELECT tasker.complete_step(test.step(:twice, 'start_workflow'), test.claim(:twice, 'start_workflow'));
-- what follows from a completion are places in the queue: no state changes
SELECT tasker.orchestrate() AS moved;
SELECT count(*) AS waiting FROM tasker.work_queue JOIN tasker.workflow_steps USING (workflow_step_id) WHERE task_id = :twice;
SELECT tasker.orchestrate() AS moved;
SELECT count(*) AS waiting FROM tasker.work_queue JOIN tasker.workflow_steps USING (workflow_step_id) WHERE task_id = :twice;
SELECT pg_temp.run_task(:twice, :puller) AS runs;
SELECT tasker.orchestrate() AS moved, tasker.orchestrate(:twice) AS moved_again;

---- orchestrate(task_id) ----
-- It works from the rows: what got lost from the queue is found again, for
-- that task. (check() leaves out tasks whose log has news: hence the second look.)
SELECT tasker.create_task('linear', namespace => 'test') AS one \gset
SELECT tasker.create_task('linear', namespace => 'test') AS other \gset
SELECT pg_temp.settle();
SELECT pg_temp.settle();
DELETE FROM tasker.work_queue WHERE workflow_step_id IN (test.step(:one, 'initialize_data'), test.step(:other, 'initialize_data'));
SELECT problem, owner FROM tasker.check();
SELECT tasker.orchestrate(:one) AS moved;
SELECT workflow_step_id = test.step(:one, 'initialize_data') AS of_one FROM tasker.work_queue
WHERE workflow_step_id IN (test.step(:one, 'initialize_data'), test.step(:other, 'initialize_data'));
SELECT tasker.orchestrate(:other) AS moved;
SELECT pg_temp.run_task(:one, :puller) AS runs;
SELECT tasker.task_state(:one), tasker.task_state(:other);
SELECT tasker.orchestrate(-1);

---- retries ----
-- Promotion at the due time: a millisecond before it nothing happens.
SELECT test.template('orchestrate retry', 'a; b<-a', '{"handler_class": "orchestrate.H", "backoff_base_seconds": 60, "default_retry_limit": 2}') > 0 AS registered;
SELECT tasker.create_task('orchestrate retry', namespace => 'test') AS due \gset
SELECT pg_temp.settle();
SELECT pg_temp.claim(:puller);
SELECT tasker.fail_step(test.step(:due, 'a'), test.claim(:due, 'a'), 'once');
SELECT pg_temp.settle();
SELECT test.step(:due, 'a') AS step_a \gset
-- The verdict counts only if the time had not come when it was over: a busy machine tries again.
CREATE FUNCTION pg_temp.just_before(step bigint) RETURNS TABLE (in_time boolean, viable boolean, state tasker.state) LANGUAGE plpgsql AS $$
DECLARE
	due timestamptz := (SELECT next_retry_at FROM tasker.workflow_steps WHERE workflow_step_id = step);
BEGIN
	FOR try IN 1..200 LOOP
		BEGIN
			PERFORM pg_temp.set_clock(due, try / 20 + 1);
			PERFORM tasker.orchestrate();
			SELECT step IN (SELECT tasker.find_viable_steps(s.task_id)), s.state INTO viable, state
			FROM tasker.workflow_steps s WHERE workflow_step_id = step;
			in_time := tasker.now() < due;
			IF NOT in_time THEN
				RAISE EXCEPTION 'too late';
			END IF;
			RETURN NEXT;
			RETURN;
		EXCEPTION WHEN raise_exception THEN
		END;
	END LOOP;
	RETURN NEXT;
END
$$;
SELECT * FROM pg_temp.just_before(:step_a);
SELECT pg_temp.set_clock(next_retry_at) FROM tasker.workflow_steps WHERE workflow_step_id = :step_a;
SELECT :step_a IN (SELECT tasker.find_viable_steps(:due)) AS viable;
SELECT tasker.orchestrate() AS moved;
SELECT tasker.step_state(:step_a);
SELECT count(*) AS waiting FROM tasker.work_queue WHERE workflow_step_id = :step_a;
SELECT count(*) AS timers FROM tasker.timers WHERE workflow_step_id = :step_a;

-- Exhaustion ends in error, with a dependent that never ran.
SELECT pg_temp.claim(:puller);
SELECT tasker.fail_step(:step_a, test.claim(:due, 'a'), 'twice');
SELECT next_retry_at FROM tasker.workflow_steps WHERE workflow_step_id = :step_a;
SELECT pg_temp.settle();
SELECT * FROM test.history(:due);
SELECT metadata ->> 'attempt_number' AS attempt, metadata ->> 'retry_available' AS retry, metadata ? 'backoff_seconds' AS backs_off
FROM tasker.workflow_step_transitions WHERE workflow_step_id = :step_a AND to_state = 'error' ORDER BY sort_key;

-- The executor's word wins over the backoff, in both directions, beyond the cap too.
SELECT tasker.create_tasks(ARRAY(SELECT '{"name": "orchestrate retry", "namespace": "test"}'::jsonb FROM generate_series(1, 3))) AS task_id \g /dev/null
SELECT pg_temp.settle();
WITH c AS MATERIALIZED (SELECT * FROM tasker.claim_steps(:puller, 100)),
	failed AS MATERIALIZED (SELECT workflow_step_id, tasker.fail_step(workflow_step_id, claim, 'busy',
		retry_after_seconds => (ARRAY[0, 7, 100000])[row_number() OVER (ORDER BY workflow_step_id)]) FROM c)
SELECT count(*) FROM failed;
SELECT round(extract(epoch FROM next_retry_at - last_failure_at)) AS wait, backoff_request_seconds, backoff_type
FROM tasker.step_readiness_statuses r JOIN tasker.tasks USING (task_id)
WHERE r.current_state = 'error' AND named_task_id = (SELECT named_task_id FROM tasker.tasks WHERE task_id = :due) AND tasks.state = 'in_progress' ORDER BY wait;
-- no wait at all: at once
SELECT tasker.orchestrate() AS moved;
SELECT pg_temp.claim(:puller);
SELECT count(tasker.cancel_task(task_id)) FROM tasker.tasks
WHERE named_task_id = (SELECT named_task_id FROM tasker.tasks WHERE task_id = :due) AND state = 'in_progress';
SELECT pg_temp.settle();

-- The cap, and a failure that no retry can help.
SELECT test.template('orchestrate cap', 'a', '{"handler_class": "orchestrate.H", "backoff_base_seconds": 8, "backoff_cap_seconds": 20, "default_retry_limit": 5}') > 0 AS registered;
SELECT tasker.create_task('orchestrate cap', namespace => 'test') AS capped \gset
SELECT pg_temp.run_task(:capped, :puller, '{"a": 4}') AS runs;
SELECT metadata ->> 'backoff_seconds' AS backoff FROM tasker.workflow_step_transitions
WHERE workflow_step_id = test.step(:capped, 'a') AND to_state = 'error' ORDER BY sort_key;
SELECT tasker.create_task('orchestrate cap', namespace => 'test') AS permanent \gset
SELECT pg_temp.settle();
SELECT pg_temp.claim(:puller);
SELECT tasker.fail_step(test.step(:permanent, 'a'), test.claim(:permanent, 'a'), 'bad card', 'PermanentError', retryable => false, retry_after_seconds => 1);
SELECT pg_temp.settle();
SELECT * FROM test.history(:permanent);
SELECT attempts, failed_permanently, next_retry_at, results FROM tasker.workflow_steps WHERE workflow_step_id = test.step(:permanent, 'a');
SELECT metadata FROM tasker.workflow_step_transitions WHERE workflow_step_id = test.step(:permanent, 'a') AND to_state = 'error';

---- skippable ----
SELECT tasker.register_task_template('{"name": "orchestrate skip", "namespace_name": "test", "version": "1.0.0", "step_templates": [
	{"name": "a", "handler_class": "orchestrate.H"},
	{"name": "optional", "handler_class": "orchestrate.H", "skippable": true, "default_retry_limit": 2, "depends_on_step": "a"},
	{"name": "b", "handler_class": "orchestrate.H", "depends_on_step": "optional"}]}') > 0 AS registered;
-- exhausted, it is resolved and its children go on
SELECT tasker.create_task('orchestrate skip', namespace => 'test') AS skipped \gset
SELECT pg_temp.run_task(:skipped, :puller, '{"optional": 2}') AS runs;
SELECT * FROM test.history(:skipped);
SELECT metadata FROM tasker.workflow_step_transitions WHERE workflow_step_id = test.step(:skipped, 'optional') AND most_recent;
-- bypassed at creation
SELECT tasker.create_task('orchestrate skip', namespace => 'test', bypass_steps => '{optional}') AS bypassed \gset
SELECT * FROM test.history(:bypassed);
SELECT pg_temp.run_task(:bypassed, :puller) AS runs;
SELECT * FROM test.history(:bypassed);
SELECT metadata FROM tasker.workflow_step_transitions WHERE workflow_step_id = test.step(:bypassed, 'optional') AND most_recent;
-- one that cannot be skipped
SELECT tasker.create_task('orchestrate skip', namespace => 'test', bypass_steps => '{b}');
-- nothing left to do: complete without a run
SELECT test.template('orchestrate bypass all', 'a; b<-a', '{"handler_class": "orchestrate.H", "skippable": true}') > 0 AS registered;
SELECT tasker.create_task('orchestrate bypass all', namespace => 'test', bypass_steps => '{a,b}') AS nothing_left \gset
SELECT pg_temp.settle();
SELECT * FROM test.history(:nothing_left);

---- cancelling ----
-- What can never run any more goes with the step; what depends on others only goes on.
SELECT test.template('orchestrate cascade', 'a; b<-a; c<-b; d<-c; side<-a', '{"handler_class": "orchestrate.H"}') > 0 AS registered;
SELECT tasker.create_task('orchestrate cascade', namespace => 'test') AS cascade \gset
SELECT tasker.cancel_step(test.step(:cascade, 'b'));
SELECT pg_temp.settle();
SELECT * FROM test.steps(:cascade);
-- the task ends in error only when its live branch is done
SELECT tasker.task_state(:cascade);
SELECT pg_temp.run_task(:cascade, :puller) AS runs;
SELECT * FROM test.history(:cascade);

---- a dead branch and a live one ----
SELECT test.template('orchestrate branches', 'a; dead<-a; after_dead<-dead; live<-a; after_live<-live; last<-after_dead,after_live',
	'{"handler_class": "orchestrate.H", "default_retry_limit": 1}') > 0 AS registered;
SELECT tasker.create_task('orchestrate branches', namespace => 'test') AS branches \gset
SELECT pg_temp.settle();
SELECT pg_temp.claim(:puller);
SELECT tasker.complete_step(test.step(:branches, 'a'), test.claim(:branches, 'a'));
SELECT pg_temp.settle();
SELECT pg_temp.claim(:puller);
SELECT tasker.fail_step(test.step(:branches, 'dead'), test.claim(:branches, 'dead'), 'it was the only attempt');
SELECT tasker.orchestrate() AS moved;
SELECT tasker.task_state(:branches);
SELECT tasker.finalize_task(:branches);
SELECT tasker.complete_step(test.step(:branches, 'live'), test.claim(:branches, 'live'));
SELECT tasker.orchestrate() AS moved;
SELECT tasker.task_state(:branches);
SELECT tasker.finalize_task(:branches);
SELECT pg_temp.claim(:puller);
SELECT tasker.complete_step(test.step(:branches, 'after_live'), test.claim(:branches, 'after_live'));
SELECT tasker.orchestrate() AS moved;
SELECT tasker.task_state(:branches);
SELECT tasker.finalize_task(:branches);
SELECT * FROM test.history(:branches);

---- out of error ----
-- The step that failed is not a root: the task comes back, and so does the step.
SELECT tasker.retry_step(test.step(:branches, 'dead'), 'fixed the cause');
SELECT tasker.step_state(test.step(:branches, 'dead')), tasker.task_state(:branches);
SELECT pg_temp.settle();
SELECT tasker.task_state(:branches);
SELECT pg_temp.run_task(:branches, :puller) AS runs;
SELECT * FROM test.history(:branches);

-- By resolve_step: the dependents run with the results given.
SELECT tasker.create_task('orchestrate branches', namespace => 'test') AS resolved \gset
SELECT pg_temp.run_task(:resolved, :puller, '{"dead": 1}') AS runs;
SELECT tasker.task_state(:resolved);
SELECT tasker.resolve_step(test.step(:resolved, 'dead'), 'done by phone', '{"by": "phone"}');
SELECT pg_temp.settle();
SELECT step_name, dependency_results FROM tasker.claim_steps(:puller, 100);
SELECT tasker.complete_step(test.step(:resolved, 'after_dead'), test.claim(:resolved, 'after_dead'));
SELECT pg_temp.run_task(:resolved, :puller) AS runs;
SELECT * FROM test.history(:resolved);

-- By resolve_step, where the last step was the one that failed: complete without another run.
SELECT tasker.create_task('orchestrate branches', namespace => 'test') AS last_resolved \gset
SELECT pg_temp.run_task(:last_resolved, :puller, '{"last": 1}') AS runs;
SELECT tasker.resolve_step(test.step(:last_resolved, 'last'));
SELECT pg_temp.settle();
SELECT * FROM test.history(:last_resolved) WHERE owner IN ('task', 'last');

-- By retry_task: every failed step gets fresh attempts.
SELECT tasker.create_task('orchestrate branches', namespace => 'test') AS retried \gset
SELECT pg_temp.run_task(:retried, :puller, '{"dead": 1, "live": 1}') AS runs;
SELECT * FROM test.steps(:retried);
SELECT tasker.retry_task(:retried, 'fixed the cause');
SELECT * FROM test.steps(:retried);
SELECT pg_temp.run_task(:retried, :puller) AS runs;
SELECT * FROM test.history(:retried);

-- By retry_task, when nothing of it can run: it ends in error again.
SELECT tasker.create_task('orchestrate cascade', namespace => 'test') AS hopeless \gset
SELECT tasker.cancel_step(test.step(:hopeless, 'a'));
SELECT pg_temp.settle();
SELECT tasker.retry_task(:hopeless);
SELECT pg_temp.settle();
SELECT * FROM test.history(:hopeless);

---- finalize_task ----
-- In any session, before the orchestrator comes to it; the same outcome.
SELECT test.template('orchestrate single', 'a', '{"handler_class": "orchestrate.H"}') > 0 AS registered;
SELECT tasker.create_task('orchestrate single', namespace => 'test') AS single \gset
SELECT tasker.finalize_task(:single);
SELECT pg_temp.settle();
SELECT pg_temp.claim(:puller);
SELECT tasker.finalize_task(:single);
SELECT tasker.complete_step(test.step(:single, 'a'), test.claim(:single, 'a'));
SELECT tasker.finalize_task(:single), tasker.finalize_task(:single);
SELECT tasker.orchestrate() AS moved;
SELECT * FROM test.history(:single);
SELECT tasker.create_task('orchestrate single', namespace => 'test') AS single_error \gset
SELECT pg_temp.settle();
SELECT pg_temp.claim(:puller);
SELECT tasker.fail_step(test.step(:single_error, 'a'), test.claim(:single_error, 'a'), 'no', retryable => false);
SELECT tasker.finalize_task(:single_error);
SELECT tasker.orchestrate() AS moved;
SELECT tasker.finalize_task(-1);
SELECT tasker.finalize_task(NULL);

---- more than a batch in one call ----
-- Also of the caller's own transaction, whose rows are not past for it.
SET statement_timeout = '30s';
CREATE FUNCTION pg_temp.many() RETURNS TABLE (task tasker.state, step tasker.state, tasks bigint) LANGUAGE sql AS $$
	SELECT t.state, s.state, count(*) FROM tasker.tasks t JOIN tasker.workflow_steps s USING (task_id)
	WHERE t.named_task_id = (SELECT named_task_id FROM tasker.named_tasks WHERE name = 'orchestrate single')
	AND t.initiator = 'many' GROUP BY 1, 2
$$;
BEGIN;
SELECT count(*) FROM tasker.create_tasks(ARRAY(SELECT '{"name": "orchestrate single", "namespace": "test", "initiator": "many"}'::jsonb FROM generate_series(1, 600)));
SELECT tasker.orchestrate() AS moved;
SELECT * FROM pg_temp.many();
SELECT tasker.orchestrate() AS moved;
COMMIT;
SELECT count(tasker.fail_step(workflow_step_id, claim, 'again', retry_after_seconds => 0)) FROM tasker.claim_steps(:puller, 10000);
SELECT tasker.orchestrate() AS moved;
SELECT * FROM pg_temp.many();
SELECT count(tasker.complete_step(workflow_step_id, claim)) FROM tasker.claim_steps(:puller, 10000);
SELECT tasker.orchestrate() AS moved;
SELECT * FROM pg_temp.many();
SELECT tasker.orchestrate() AS moved;
RESET statement_timeout;

---- several in one transaction, and a rollback ----
BEGIN;
SELECT tasker.create_task('linear', namespace => 'test') AS inside \gset
SELECT pg_temp.run_task(:inside, :puller, '{"process_data": 1}') AS runs;
SELECT tasker.task_state(:inside);
ROLLBACK;
SELECT tasker.task_state(:inside);
SELECT tasker.orchestrate() AS moved;
BEGIN;
SELECT tasker.create_task('linear', namespace => 'test') AS inside \gset
SELECT pg_temp.run_task(:inside, :puller, '{"process_data": 1}') AS runs;
COMMIT;
SELECT tasker.orchestrate() AS moved;
SELECT tasker.task_state(:inside);

SELECT tasker.unregister_executor(:puller);
SELECT * FROM tasker.check();
