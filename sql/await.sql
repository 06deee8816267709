-- Waiting outside of any snapshot: what is refused, what is given at once, and
-- what a timeout gives. Who is woken by what: test/t/004_await.pl.
SELECT test.template('await', 'a; b; c; d<-a,b,c', '{"handler_config": {"k": [1, "\"x"]}}') IS NOT NULL AS registered;
SELECT executor_id AS e FROM tasker.register_executor('await', '{H}', 0) \gset
SELECT executor_id AS detached FROM tasker.register_executor('await detached', '{H}', 0, true) \gset

-- Arguments.
CALL tasker.await_steps(NULL, 1, '0');
CALL tasker.await_steps(:e, 0, '0');
CALL tasker.await_steps(:e, 10001, '0');
CALL tasker.await_steps(-1, 1, '0');
CALL tasker.await_task(NULL, '0');
CALL tasker.await_task(-1, '0');

-- Not where the caller's transaction would be held meanwhile.
BEGIN;
CALL tasker.await_steps(:e, 1, '0');
ROLLBACK;
BEGIN;
CALL tasker.await_task(1, '0');
ROLLBACK;
CREATE FUNCTION test.await(executor bigint) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
	steps jsonb;
BEGIN
	CALL tasker.await_steps(executor, 1, '0', steps);
	RETURN steps;
END
$$;
SELECT test.await(:e);
DROP FUNCTION test.await;

-- Nobody may but those it is granted to.
CREATE ROLE regress_await;
GRANT USAGE ON SCHEMA tasker TO regress_await;
SET ROLE regress_await;
CALL tasker.await_steps(1, 1, '0');
CALL tasker.await_task(1, '0');
RESET ROLE;
GRANT EXECUTE ON PROCEDURE tasker.await_steps TO regress_await;
GRANT EXECUTE ON FUNCTION tasker.register_executor TO regress_await;
SET ROLE regress_await;
SELECT executor_id AS own FROM tasker.register_executor('own', '{own}', 0) \gset
CALL tasker.await_steps(:own, 1, '0');
RESET ROLE;
DROP OWNED BY regress_await;
DROP ROLE regress_await;

-- Nothing there.
CALL tasker.await_steps(:e, 1, '0');
CALL tasker.await_steps(:e, 10, '-1 s');
CALL tasker.await_steps(executor_id => :e, timeout => '30 ms');
CALL tasker.await_steps(:detached, 1, '30 ms');

-- What waits is given at once, in the words of my_steps.
SELECT tasker.create_task('await', '{"n": "ä\"\\"}', 'test') AS task \gset
SELECT tasker.orchestrate() > 0 AS orchestrated;
CALL tasker.await_task(:task, '0');
CALL tasker.await_task(:task, '30 ms');
CALL tasker.await_steps(:e, 2) \gset
SELECT (SELECT jsonb_agg(to_jsonb(m)) FROM tasker.my_steps(:e) m) = :'steps'::jsonb AS same,
	jsonb_array_length(:'steps') AS n;
SELECT string_agg(key, ', ' ORDER BY key COLLATE "C") AS keys FROM jsonb_object_keys(:'steps'::jsonb -> 0) key;
SELECT s ->> 'step_name' AS step, s -> 'claim' AS claim, s -> 'handler_config' AS config, s -> 'inputs' AS inputs
FROM jsonb_array_elements(:'steps') s;

-- Through another program's eyes: prepared, and under another isolation level.
SET default_transaction_isolation = 'serializable';
CALL tasker.await_steps(:detached, 10, '1 h') \gset
RESET default_transaction_isolation;
SELECT s ->> 'step_name' AS step FROM jsonb_array_elements(:'steps') s;
SELECT count(tasker.complete_step(workflow_step_id, sort_key, '{"r": 1}')) FROM tasker.workflow_steps WHERE task_id = :task AND state = 'in_progress';
SELECT tasker.orchestrate() > 0 AS orchestrated;

-- A pause gives nothing; a procedure of one's own may wait, and commits with it.
SELECT tasker.pause();
CALL tasker.await_steps(:e, 1, '30 ms');
SELECT tasker.resume();
DO $$
DECLARE
	steps jsonb;
	executor bigint := (SELECT max(executor_id) FROM tasker.executors WHERE name = 'await');
BEGIN
	CALL tasker.await_steps(executor, 1, '1 h', steps);
	RAISE WARNING '%', steps -> 0 -> 'dependency_results';
	CALL tasker.await_steps(executor, 1, '30 ms', steps);
	RAISE WARNING '%', steps;
	PERFORM tasker.fail_step(workflow_step_id, sort_key, 'no', retryable => false) FROM tasker.workflow_steps WHERE state = 'in_progress';
	COMMIT;
END
$$;
SELECT tasker.orchestrate() > 0 AS orchestrated;

-- Every end of a task.
CALL tasker.await_task(:task);
SELECT tasker.resolve_task(:task);
CALL tasker.await_task(task_id => :task, timeout => NULL);
SELECT tasker.create_task('await', namespace => 'test') AS task \gset
SELECT tasker.cancel_task(:task);
CALL tasker.await_task(:task, '1 h');
SELECT tasker.create_task('await', namespace => 'test') AS task \gset
SELECT test.run_all(:e);
CALL tasker.await_task(:task, '1 h');

-- An executor that has ended gets nothing.
SELECT tasker.unregister_executor(:e), tasker.unregister_executor(:detached);
\set VERBOSITY sqlstate
CALL tasker.await_steps(:e, 1, '1 h');
\set VERBOSITY default
SELECT tasker.orchestrate() > 0 AS orchestrated;
SELECT * FROM tasker.check();
