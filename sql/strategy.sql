-- What a template may replace: strategies, built in or functions of its owner.
SELECT tasker.orchestrate() >= 0 AS settled;
SELECT executor_id AS puller FROM tasker.register_executor('strategy', '{strategy.H}', 0) \gset

-- One step per name; keys are merged into the template.
CREATE FUNCTION pg_temp.register(name text, keys jsonb, step_keys jsonb DEFAULT '{}') RETURNS integer LANGUAGE sql AS $$
	SELECT tasker.register_task_template(jsonb_build_object('name', name, 'namespace_name', 'test', 'version', '1.0.0', 'step_templates',
		jsonb_build_array('{"name": "a", "handler_class": "strategy.H", "default_retry_limit": 6, "backoff_jitter": 0}' || step_keys)) || keys)
$$;
CREATE FUNCTION pg_temp.settle() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	WHILE tasker.orchestrate() > 0 LOOP END LOOP;
END
$$;
-- Fails the step so often; the waits that this led to.
CREATE FUNCTION pg_temp.waits(template text, failures integer, executor bigint) RETURNS TABLE (waits text, types text) LANGUAGE plpgsql AS $$
DECLARE
	t bigint := tasker.create_task(template, namespace => 'test');
	c record;
BEGIN
	FOR i IN 1..failures LOOP
		PERFORM pg_temp.settle();
		SELECT * INTO c FROM tasker.claim_steps(executor, 100) WHERE task_id = t;
		PERFORM tasker.fail_step(c.workflow_step_id, c.claim, 'failure ' || i, CASE WHEN i = 2 THEN 'Busy' END);
		PERFORM tasker.retry_due_steps(t);
		PERFORM set_config('tasker.clock_offset', (setting::bigint + 1000000)::text, false) FROM pg_settings WHERE name = 'tasker.clock_offset';
		PERFORM tasker.retry_due_steps(t);
	END LOOP;
	PERFORM set_config('tasker.clock_offset', '0', false);
	PERFORM tasker.cancel_task(t);
	PERFORM pg_temp.settle();
	RETURN QUERY SELECT string_agg(l.metadata ->> 'backoff_seconds', ' ' ORDER BY l.sort_key), string_agg(DISTINCT l.metadata ->> 'backoff_type', ' ')
	FROM tasker.workflow_step_transitions l
	WHERE l.workflow_step_id = test.step(t, 'a') AND l.to_state = 'error';
END
$$;

---- what is registered ----
SELECT pg_temp.register('plain', '{}') > 0 AS registered;
SELECT name, concurrent, coordinator_strategy, reenqueuer_strategy, identity_strategy, backoff_strategy, owner = current_user AS is_mine
FROM tasker.named_tasks WHERE name = 'plain';

---- backoff: exponential, linear, constant ----
SELECT pg_temp.register('backoff ' || s, jsonb_build_object('backoff_strategy', s), '{"backoff_base_seconds": 10, "backoff_cap_seconds": 75}') > 0 AS registered
FROM unnest('{exponential,linear,constant}'::text[]) s;
SELECT s AS strategy, w.* FROM unnest('{exponential,linear,constant}'::text[]) s, pg_temp.waits('backoff ' || s, 5, :puller) w;
-- the original's formula, least(2^attempts, 30), is base 2, cap 30
SELECT pg_temp.register('backoff of the original', '{}', '{"backoff_base_seconds": 2, "backoff_cap_seconds": 30}') > 0 AS registered;
SELECT * FROM pg_temp.waits('backoff of the original', 5, :puller);

-- the calculator by itself
SELECT strategy, string_agg(tasker.backoff_seconds(a, strategy, 1.5, 20, 0)::text, ' ' ORDER BY a) AS waits
FROM unnest('{exponential,linear,constant}'::text[]) strategy, unnest('{1,2,3,4,5,100,2147483647}'::integer[]) a GROUP BY 1 ORDER BY 1;
SET tasker.backoff_base = '3s';
SET tasker.backoff_cap = '10s';
SELECT tasker.backoff_seconds(1), tasker.backoff_seconds(2), tasker.backoff_seconds(3), tasker.backoff_seconds(2, NULL, NULL, NULL, NULL);
RESET tasker.backoff_base;
RESET tasker.backoff_cap;
-- jitter goes both ways, and nowhere beyond the cap
SELECT min(w) >= 5 AND max(w) <= 15 AND min(w) < 9 AND max(w) > 11 AS spread FROM (SELECT tasker.backoff_seconds(1, 'constant', 10, 100, 0.5) AS w FROM generate_series(1, 1000)) b;
SELECT max(w) = 12 AS capped FROM (SELECT tasker.backoff_seconds(1, 'constant', 10, 12, 0.5) AS w FROM generate_series(1, 1000)) b;
SELECT tasker.backoff_seconds(0);
SELECT tasker.backoff_seconds(NULL);
SELECT tasker.backoff_seconds(1, 'quadratic');
SELECT tasker.backoff_seconds(1, 'linear', -1);
SELECT tasker.backoff_seconds(1, 'linear', 'NaN');
SELECT tasker.backoff_seconds(1, 'linear', 1, 1e10);
SELECT tasker.backoff_seconds(1, 'linear', 1, 1, 1.1);

---- a function ----
CREATE SCHEMA strategy;
CREATE FUNCTION strategy.backoff(failure jsonb) RETURNS interval LANGUAGE sql AS $$
	SELECT CASE WHEN failure ->> 'error_class' = 'Busy' THEN interval '1 min'
		WHEN (failure ->> 'attempt')::integer = 3 THEN NULL
		WHEN (failure ->> 'attempt')::integer = 4 THEN interval '-5 s'
		ELSE (failure ->> 'attempt')::integer * interval '7 s' END
$$;
SELECT pg_temp.register('backoff by function', '{"backoff_strategy": "strategy.backoff"}', '{"backoff_base_seconds": 10, "backoff_cap_seconds": 75}') > 0 AS registered;
-- NULL leaves it to the built-in one; never before now
SELECT * FROM pg_temp.waits('backoff by function', 5, :puller);
-- what it is told
CREATE TABLE strategy.told (what jsonb, role text, path text);
CREATE OR REPLACE FUNCTION strategy.backoff(failure jsonb) RETURNS interval LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO strategy.told VALUES (failure - 'task_id' - 'workflow_step_id', current_user, current_setting('search_path'));
	RETURN '1 s';
END
$$;
SELECT * FROM pg_temp.waits('backoff by function', 2, :puller);
SELECT what, role = current_user AS is_owner, path FROM strategy.told;
-- one that fails is a warning, and the step waits as usual; what it has written is gone
TRUNCATE strategy.told;
\set VERBOSITY terse

CREATE OR REPLACE FUNCTION strategy.backoff(failure jsonb) RETURNS interval LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO strategy.told VALUES (failure);
	RETURN 1 / 0 * interval '1 s';
END
$$;
SELECT * FROM pg_temp.waits('backoff by function', 2, :puller);
SELECT count(*) FROM strategy.told;
-- so is one that calls back, and one that is gone
CREATE OR REPLACE FUNCTION strategy.backoff(failure jsonb) RETURNS interval LANGUAGE sql AS $$
	SELECT tasker.create_task('plain', namespace => 'test') * interval '1 s'
$$;
SELECT * FROM pg_temp.waits('backoff by function', 1, :puller);
DROP FUNCTION strategy.backoff;
SELECT * FROM pg_temp.waits('backoff by function', 1, :puller);
\set VERBOSITY default
-- an executor that asks for a wait is not overruled
CREATE FUNCTION strategy.backoff(failure jsonb) RETURNS interval LANGUAGE sql AS $$ SELECT interval '1 s' $$;
SELECT tasker.create_task('backoff by function', namespace => 'test') AS t \gset
SELECT pg_temp.settle();
SELECT tasker.fail_step(workflow_step_id, claim, 'later', retry_after_seconds => 17) FROM tasker.claim_steps(:puller, 100);
SELECT metadata ->> 'backoff_seconds' AS wait, metadata ->> 'backoff_type' AS type FROM tasker.workflow_step_transitions
WHERE workflow_step_id = test.step(:t, 'a') AND to_state = 'error';
SELECT tasker.cancel_task(:t);

---- signatures and privileges are checked at registration ----
CREATE FUNCTION strategy.returns_text(failure jsonb) RETURNS text LANGUAGE sql AS $$ SELECT 'later' $$;
CREATE FUNCTION strategy.returns_set(failure jsonb) RETURNS SETOF interval LANGUAGE sql AS $$ SELECT interval '1 s' $$;
CREATE FUNCTION strategy.takes_json(failure json) RETURNS interval LANGUAGE sql AS $$ SELECT interval '1 s' $$;
CREATE PROCEDURE strategy.a_procedure(failure jsonb) LANGUAGE sql AS $$ SELECT $$;
SELECT pg_temp.register('refused', '{"backoff_strategy": "strategy.returns_text"}');
SELECT pg_temp.register('refused', '{"backoff_strategy": "strategy.returns_set"}');
SELECT pg_temp.register('refused', '{"backoff_strategy": "strategy.takes_json"}');
SELECT pg_temp.register('refused', '{"backoff_strategy": "strategy.a_procedure"}');
SELECT pg_temp.register('refused', '{"identity_strategy": "strategy.backoff"}');
SELECT pg_temp.register('refused', '{"backoff_strategy": "strategy.backoff(jsonb)"}');
SELECT pg_temp.register('refused', '{"backoff_strategy": "backoff"}');
SELECT count(*) FROM tasker.named_tasks WHERE name = 'refused';

-- The function runs as the role that registered the template, and can do no more than that role.
CREATE ROLE strategy_owner;
GRANT USAGE ON SCHEMA tasker TO strategy_owner;
GRANT EXECUTE ON FUNCTION tasker.register_task_template TO strategy_owner;
SET ROLE strategy_owner;
SELECT tasker.register_task_template('{"name": "owned", "namespace_name": "test", "version": "1.0.0", "backoff_strategy": "strategy.backoff", "step_templates": [{"name": "a", "handler_class": "strategy.H"}]}');
RESET ROLE;
GRANT USAGE ON SCHEMA strategy TO strategy_owner;
REVOKE EXECUTE ON FUNCTION strategy.backoff FROM PUBLIC;
SET ROLE strategy_owner;
SELECT tasker.register_task_template('{"name": "owned", "namespace_name": "test", "version": "1.0.0", "backoff_strategy": "strategy.backoff", "step_templates": [{"name": "a", "handler_class": "strategy.H"}]}');
RESET ROLE;
GRANT EXECUTE ON FUNCTION strategy.backoff TO strategy_owner;
SET ROLE strategy_owner;
SELECT tasker.register_task_template('{"name": "owned", "namespace_name": "test", "version": "1.0.0", "backoff_strategy": "strategy.backoff", "step_templates": [{"name": "a", "handler_class": "strategy.H"}]}') > 0 AS registered;
RESET ROLE;
CREATE OR REPLACE FUNCTION strategy.backoff(failure jsonb) RETURNS interval LANGUAGE plpgsql AS $$
BEGIN
	RETURN (SELECT count(*) FROM strategy.told) * interval '1 s';
END
$$;
SELECT * FROM pg_temp.waits('owned', 1, :puller);
CREATE OR REPLACE FUNCTION strategy.backoff(failure jsonb) RETURNS interval LANGUAGE plpgsql AS $$
BEGIN
	RAISE WARNING 'as %, path %', current_user, current_setting('search_path');
	EXECUTE 'SET ROLE ' || quote_ident(session_user);
	RETURN '1 s';
END
$$;
SELECT * FROM pg_temp.waits('owned', 1, :puller);
-- equal content registered by another role changes nothing, the owner neither
SELECT tasker.register_task_template('{"name": "owned", "namespace_name": "test", "version": "1.0.0", "backoff_strategy": "strategy.backoff", "step_templates": [{"name": "a", "handler_class": "strategy.H"}]}') > 0 AS registered;
SELECT owner FROM tasker.named_tasks WHERE name = 'owned';
-- the owner is gone
ALTER ROLE strategy_owner RENAME TO strategy_heir;
SELECT * FROM pg_temp.waits('owned', 1, :puller);
ALTER ROLE strategy_heir RENAME TO strategy_owner;

---- cancelling reaches through a function ----
CREATE OR REPLACE FUNCTION strategy.backoff(failure jsonb) RETURNS interval LANGUAGE plpgsql AS $$
BEGIN
	PERFORM pg_sleep(60);
	RETURN '1 s';
END
$$;
SELECT tasker.create_task('backoff by function', namespace => 'test') AS t \gset
SELECT pg_temp.settle();
SELECT workflow_step_id AS step, claim FROM tasker.claim_steps(:puller, 100) \gset
BEGIN;
SET LOCAL statement_timeout = '200ms';
SELECT tasker.fail_step(:step, :claim, 'slow');
ROLLBACK;
SELECT state FROM test.steps(:t);
SELECT tasker.cancel_task(:t);
SELECT pg_temp.settle();

---- the re-enqueuer ----
-- What the finalizer decides, state by state, and whether the finalizer does it.
CREATE FUNCTION pg_temp.decision(task bigint) RETURNS TABLE (execution_status text, action text, reason text, delay numeric, becomes tasker.state) LANGUAGE sql AS $$
	SELECT d.execution_status, d.action, d.reason, round(extract(epoch FROM d.delay)), tasker.finalize_task(task) FROM tasker.finalization_decision(task) d
$$;
SELECT test.template('decided', 'a; b<-a', '{"handler_class": "strategy.H", "backoff_base_seconds": 100, "default_retry_limit": 2}') > 0 AS registered;
SELECT tasker.create_task('decided', namespace => 'test') AS t \gset
SELECT * FROM pg_temp.decision(:t);
SELECT pg_temp.settle();
SELECT workflow_step_id AS step, claim FROM tasker.claim_steps(:puller, 100) \gset
SELECT * FROM pg_temp.decision(:t);
SELECT tasker.fail_step(:step, :claim, 'once');
SELECT * FROM pg_temp.decision(:t);
SET tasker.clock_offset = 100001;
SELECT * FROM pg_temp.decision(:t);
SELECT tasker.retry_due_steps(-1), tasker.retry_due_steps(:t), tasker.retry_due_steps(:t);
SELECT pg_temp.settle();
SELECT workflow_step_id AS step, claim FROM tasker.claim_steps(:puller, 100) \gset
SELECT tasker.fail_step(:step, :claim, 'twice');
SELECT * FROM pg_temp.decision(:t);
SELECT * FROM pg_temp.decision(:t);
SELECT tasker.resolve_step(test.step(:t, 'a')), pg_temp.settle();
SELECT tasker.complete_step(workflow_step_id, claim) FROM tasker.claim_steps(:puller, 100);
SELECT * FROM pg_temp.decision(:t);
SELECT * FROM pg_temp.decision(:t);
SELECT count(*) FROM tasker.finalization_decision(-1);
RESET tasker.clock_offset;

-- By hand: at once, and later.
SELECT tasker.create_task('decided', namespace => 'test') AS t \gset
SELECT tasker.reenqueue_task(:t);
SELECT pg_temp.settle();
SELECT tasker.reenqueue_task(:t), tasker.reenqueue_task(:t), tasker.task_state(:t);
SELECT pg_temp.settle();
SELECT from_state, to_state, metadata FROM tasker.task_transitions WHERE task_id = :t ORDER BY sort_key;
SELECT tasker.reenqueue_task(:t, '1 hour', 'awaiting_dependencies'), tasker.reenqueue_task(:t, '2 hours'), tasker.reenqueue_task(:t, '10 min');
SELECT reason, round(extract(epoch FROM due_at - tasker.now())) AS due FROM tasker.task_reenqueues WHERE task_id = :t;
-- what got lost is found again by it
SELECT pg_temp.settle();
DELETE FROM tasker.work_queue WHERE workflow_step_id = test.step(:t, 'a');
SET tasker.clock_offset = 599000;
SELECT pg_temp.settle(), count(*) AS moves FROM tasker.task_transitions WHERE task_id = :t;
SET tasker.clock_offset = 601000;
SELECT pg_temp.settle();
SELECT from_state, to_state, metadata FROM tasker.task_transitions WHERE task_id = :t ORDER BY sort_key DESC LIMIT 2;
SELECT count(*) AS scheduled FROM tasker.task_reenqueues WHERE task_id = :t;
SELECT count(*) AS waiting FROM tasker.work_queue WHERE workflow_step_id = test.step(:t, 'a');
RESET tasker.clock_offset;
-- one that has ended does not come back, and a time that was set then means nothing
SELECT tasker.reenqueue_task(:t, '1 s');
SELECT tasker.cancel_task(:t);
SET tasker.clock_offset = 2000;
SELECT pg_temp.settle(), count(*) AS scheduled FROM tasker.task_reenqueues;
SELECT tasker.task_state(:t), count(*) AS scheduled FROM tasker.task_reenqueues;
\set VERBOSITY sqlstate
SELECT tasker.reenqueue_task(:t);
\set VERBOSITY default
SELECT tasker.reenqueue_task(-1);
SELECT tasker.reenqueue_task(NULL);
SELECT tasker.create_task('decided', namespace => 'test') AS t \gset
SELECT tasker.reenqueue_task(:t, '-1 s');
SELECT tasker.reenqueue_task(:t, '11 years');
SELECT tasker.reenqueue_task(:t, '1 s', '');
SELECT tasker.reenqueue_task(:t, '1 s', repeat('x', 129));
SELECT tasker.retry_due_steps(max => 0);
RESET tasker.clock_offset;
SELECT tasker.cancel_task(:t), pg_temp.settle();

-- By strategy: delayed, and a function.
SELECT tasker.register_task_template('{"name": "looked at delayed", "namespace_name": "test", "version": "1.0.0", "reenqueuer_strategy": "delayed",
	"step_templates": [{"name": "a", "handler_class": "strategy.H"}, {"name": "b", "handler_class": "strategy.H", "depends_on_step": "a", "backoff_base_seconds": 30}]}') > 0 AS registered;
SELECT tasker.create_task('looked at delayed', namespace => 'test') AS t \gset
SELECT pg_temp.settle();
-- nothing is scheduled before the finalizer has looked; a failure of b makes it look
SELECT tasker.complete_step(workflow_step_id, claim) FROM tasker.claim_steps(:puller, 100);
SELECT pg_temp.settle();
SELECT tasker.fail_step(workflow_step_id, claim, 'once') FROM tasker.claim_steps(:puller, 100);
SELECT pg_temp.settle();
SELECT tasker.orchestrate(:t) >= 0 AS looked;
SELECT reason, round(extract(epoch FROM due_at - tasker.now())) AS due FROM tasker.task_reenqueues WHERE task_id = :t;
-- when it is due the task is looked at and scheduled anew: never a runaway
SET tasker.clock_offset = 31000;
SELECT pg_temp.settle();
SELECT from_state, to_state, metadata ->> 'reason' AS reason FROM tasker.task_transitions WHERE task_id = :t ORDER BY sort_key;
SELECT tasker.complete_step(workflow_step_id, claim) FROM tasker.claim_steps(:puller, 100);
SELECT pg_temp.settle();
SELECT tasker.task_state(:t);
RESET tasker.clock_offset;

CREATE FUNCTION strategy.reenqueuer(decision jsonb) RETURNS interval LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO strategy.told VALUES (decision - 'task_id', current_user);
	RETURN CASE WHEN decision ->> 'reason' = 'steps_in_progress' THEN interval '0' END;
END
$$;
SELECT pg_temp.register('looked at by function', '{"reenqueuer_strategy": "strategy.reenqueuer"}') > 0 AS registered;
SELECT tasker.create_task('looked at by function', namespace => 'test') AS t \gset
SELECT tasker.orchestrate(:t) > 0 AS moved;
SELECT what, role = current_user AS is_owner FROM strategy.told;
SELECT count(*) AS scheduled FROM tasker.task_reenqueues WHERE task_id = :t;
SELECT count(*) FROM tasker.claim_steps(:puller, 100);
TRUNCATE strategy.told;
SELECT tasker.orchestrate(:t) >= 0 AS looked;
SELECT what FROM strategy.told;
-- not sooner than a second
SELECT reason, extract(epoch FROM due_at - tasker.now()) BETWEEN 0.5 AND 1 AS in_a_second FROM tasker.task_reenqueues WHERE task_id = :t;
SELECT tasker.cancel_task(:t), pg_temp.settle();
SET tasker.clock_offset = 2000;
SELECT pg_temp.settle();
SELECT count(*) AS scheduled FROM tasker.task_reenqueues WHERE task_id = :t;
RESET tasker.clock_offset;

SELECT * FROM tasker.check();
SELECT tasker.unregister_executor(:puller);
DROP SCHEMA strategy CASCADE;
SET client_min_messages = error;
DROP OWNED BY strategy_owner;
DROP ROLE strategy_owner;
RESET client_min_messages;
