-- SQL handlers and coordinators: a session that runs the steps of a task
-- itself, without executors and without the orchestrator's lock.
SELECT tasker.orchestrate() >= 0 AS settled;
CREATE SCHEMA app;
CREATE TABLE app.done (n integer GENERATED ALWAYS AS IDENTITY, step text, attempt integer, role text, path text);

-- Notes the run; raises what the step's configuration says, on as many attempts.
CREATE FUNCTION app.work(step tasker.claimed_step) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO app.done (step, attempt, role, path) VALUES (step.step_name, step.attempt, current_user, current_setting('search_path'));
	IF step.attempt <= (step.handler_config ->> 'failures')::integer THEN
		RAISE EXCEPTION '% on attempt %', step.handler_config ->> 'message', step.attempt
			USING ERRCODE = coalesce(step.handler_config ->> 'code', 'P0001'), DETAIL = coalesce(step.handler_config ->> 'detail', '');
	END IF;
	RETURN CASE WHEN step.handler_config ->> 'nothing' IS NULL
		THEN jsonb_build_object('parents', step.dependency_results, 'n', step.inputs -> 'n') END;
END
$$;
CREATE FUNCTION pg_temp.register(name text, steps text, keys jsonb DEFAULT '{}', step_keys jsonb DEFAULT '{}') RETURNS integer LANGUAGE sql AS $$
	SELECT tasker.register_task_template(jsonb_build_object('name', name, 'namespace_name', 'test', 'version', '1.0.0',
		'coordinator_strategy', 'synchronous', 'step_templates', jsonb_agg(
			jsonb_build_object('name', trim(split_part(s, '<-', 1)), 'handler_class', 'app.work', 'backoff_base_seconds', 60, 'backoff_jitter', 0)
			|| CASE WHEN s LIKE '%<-%' THEN jsonb_build_object('depends_on_steps',
				(SELECT jsonb_agg(trim(p)) FROM unnest(string_to_array(split_part(s, '<-', 2), ',')) p)) ELSE '{}' END
			|| coalesce(step_keys -> trim(split_part(s, '<-', 1)), '{}') ORDER BY n)) || keys)
	FROM unnest(string_to_array(steps, ';')) WITH ORDINALITY u(s, n)
$$;
CREATE FUNCTION pg_temp.done() RETURNS text LANGUAGE sql AS $$
	WITH gone AS (DELETE FROM app.done RETURNING n, step, attempt)
	SELECT string_agg(step || attempt, ' ' ORDER BY n) FROM gone
$$;

---- a task from its creation to its end in one call ----
SELECT pg_temp.register('synchronous', 'a; b<-a; c<-a; d<-b,c') > 0 AS registered;
SELECT tasker.create_task('synchronous', '{"n": 7}', 'test') AS t \gset
SELECT * FROM tasker.coordinate_task(:t);
SELECT * FROM test.history(:t);
SELECT n.name, s.results FROM tasker.workflow_steps s JOIN tasker.named_steps n USING (named_step_id) WHERE s.task_id = :t ORDER BY workflow_step_id;
SELECT role = current_user AS as_owner, path FROM app.done WHERE step = 'a';
SELECT pg_temp.done();
-- again: nothing
SELECT * FROM tasker.coordinate_task(:t);
SELECT tasker.orchestrate() AS moves;
SELECT * FROM tasker.check();

-- the orchestrator leaves its steps alone
SELECT tasker.create_task('synchronous', namespace => 'test') AS t \gset
SELECT tasker.orchestrate() > 0 AS started, tasker.orchestrate() AS moves;
SELECT count(*) AS waiting FROM tasker.work_queue q JOIN tasker.workflow_steps s USING (workflow_step_id) WHERE s.task_id = :t;
SELECT * FROM tasker.check();
SELECT v = test.step(:t, 'a') AS viable FROM tasker.find_viable_steps(:t) v;
-- so much and no more
SELECT * FROM tasker.coordinate_task(:t, 0);
SELECT * FROM tasker.coordinate_task(:t, 2);
SELECT * FROM test.steps(:t);
SELECT * FROM tasker.coordinate_task(:t);
SELECT pg_temp.done();

---- failures ----
SELECT pg_temp.register('failing', 'once; twice; for_good; later; skipped; after<-once,skipped', '{}', '{
	"once": {"handler_config": {"failures": 1, "message": "broken"}},
	"twice": {"handler_config": {"failures": 9, "message": "still broken"}, "default_retry_limit": 2},
	"for_good": {"handler_config": {"failures": 9, "message": "useless", "code": "TK005"}},
	"later": {"handler_config": {"failures": 1, "message": "busy", "code": "TK006", "detail": "90"}},
	"skipped": {"handler_config": {"failures": 9, "message": "whatever"}, "default_retry_limit": 1, "skippable": true}}') > 0 AS registered;
SELECT tasker.create_task('failing', namespace => 'test') AS t \gset
SELECT state, step_runs, failed_runs, round(extract(epoch FROM next_retry_at - tasker.now())) AS next FROM tasker.coordinate_task(:t);
SELECT n.name, s.state, s.attempts, s.results, round(extract(epoch FROM s.next_retry_at - s.last_attempted_at)) AS wait, s.failed_permanently
FROM tasker.workflow_steps s JOIN tasker.named_steps n USING (named_step_id) WHERE s.task_id = :t ORDER BY workflow_step_id;
-- what a failing handler has written is undone and skipped has no attempt left, so after may run when once has
SELECT pg_temp.done();
SET tasker.clock_offset = 61000;
SELECT state, step_runs, failed_runs, round(extract(epoch FROM next_retry_at - tasker.now())) AS next FROM tasker.coordinate_task(:t);
SET tasker.clock_offset = 91000;
SELECT state, step_runs, failed_runs, next_retry_at FROM tasker.coordinate_task(:t);
SELECT pg_temp.done();
SELECT * FROM test.history(:t);
RESET tasker.clock_offset;
SELECT tasker.orchestrate() AS moves;

---- one step ----
SELECT tasker.create_task('synchronous', namespace => 'test') AS t \gset
SELECT tasker.execute_step(test.step(:t, 'b')), tasker.execute_step(test.step(:t, 'a')), tasker.execute_step(test.step(:t, 'a'));
SELECT tasker.execute_step(-1);
SELECT tasker.execute_step(NULL);
-- nothing is a result, too
SELECT pg_temp.register('no results', 'a', '{}', '{"a": {"handler_config": {"nothing": true}}}') > 0 AS registered;
SELECT tasker.create_task('no results', namespace => 'test') AS u \gset
SELECT tasker.execute_step(test.step(:u, 'a'));
SELECT results FROM tasker.workflow_steps WHERE task_id = :u;

-- Rolled back, nothing has happened.
BEGIN;
SELECT state, step_runs FROM tasker.coordinate_task(:t);
ROLLBACK;
SELECT * FROM test.steps(:t);
SELECT state, step_runs FROM tasker.coordinate_task(:t);
SELECT pg_temp.done();

-- A handler may call tasker: create tasks, settle its own claim, cancel its task.
CREATE FUNCTION app.calls(step tasker.claimed_step) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
	IF step.step_name = 'creates' THEN
		RETURN to_jsonb(tasker.create_task('no results', namespace => 'test') > 0);
	ELSIF step.step_name = 'completes' THEN
		PERFORM tasker.complete_step(step.workflow_step_id, step.claim, '"by itself"');
	ELSIF step.step_name = 'cancels' THEN
		PERFORM tasker.cancel_task(step.task_id);
	END IF;
	RETURN '"by return"';
END
$$;
SELECT pg_temp.register('calls', 'creates; completes; cancels<-completes; after<-cancels', '{"concurrent": false}', (SELECT jsonb_object_agg(s, '{"handler_class": "app.calls"}'::jsonb)
	FROM unnest('{creates,completes,cancels,after}'::text[]) s)) > 0 AS registered;
SELECT tasker.create_task('calls', namespace => 'test') AS t \gset
SELECT * FROM tasker.coordinate_task(:t);
SELECT n.name, s.state, s.results FROM tasker.workflow_steps s JOIN tasker.named_steps n USING (named_step_id) WHERE s.task_id = :t ORDER BY workflow_step_id;

---- handlers that are none ----
SELECT pg_temp.register('for executors', 'a', '{}', '{"a": {"handler_class": "Charge"}}') > 0 AS registered;
SELECT tasker.create_task('for executors', namespace => 'test') AS t \gset
SELECT * FROM tasker.coordinate_task(:t);
SELECT pg_temp.register('wrong', 'a', '{}', '{"a": {"handler_class": "app.wrong"}}') > 0 AS registered;
SELECT tasker.create_task('wrong', namespace => 'test') AS u \gset
SELECT * FROM tasker.coordinate_task(:u);
CREATE FUNCTION app.wrong(step tasker.claimed_step) RETURNS json LANGUAGE sql AS $$ SELECT '{}'::json $$;
SELECT * FROM tasker.coordinate_task(:u);
SELECT test.steps(:t), test.steps(:u);
SELECT tasker.cancel_task(:t), tasker.cancel_task(:u);
SELECT * FROM tasker.coordinate_task(-1);
SELECT * FROM tasker.coordinate_task(NULL);
SELECT * FROM tasker.coordinate_task(:t, -1);

---- a coordinator of one's own ----
-- The last step that can run first.
CREATE FUNCTION app.backwards(task jsonb) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	step bigint;
BEGIN
	LOOP
		SELECT max(v) INTO step FROM tasker.find_viable_steps((task ->> 'task_id')::bigint) v;
		EXIT WHEN step IS NULL;
		PERFORM tasker.execute_step(step);
	END LOOP;
END
$$;
SELECT pg_temp.register('backwards', 'a; b; c; d<-b; e<-a,d', '{"coordinator_strategy": "app.backwards"}') > 0 AS registered;
SELECT tasker.create_task('backwards', namespace => 'test') AS t \gset
SELECT * FROM tasker.coordinate_task(:t);
SELECT pg_temp.done();
-- it fails: the call does
CREATE OR REPLACE FUNCTION app.backwards(task jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	RAISE EXCEPTION 'no idea';
END
$$;
SELECT tasker.create_task('backwards', namespace => 'test') AS t \gset
SELECT * FROM tasker.coordinate_task(:t);
SELECT tasker.cancel_task(:t);

---- one step at a time, and beside executors ----
SELECT pg_temp.register('in turn', 'a; b; c', '{"concurrent": false}') > 0 AS registered;
SELECT tasker.create_task('in turn', namespace => 'test') AS t \gset
SELECT count(*) FROM tasker.claim_step(NULL, test.step(:t, 'b'));
SELECT tasker.execute_step(test.step(:t, 'a')) IS NULL AS must_wait;
SELECT count(*) AS viable FROM tasker.find_viable_steps(:t);
SELECT tasker.complete_step(test.step(:t, 'b'), test.claim(:t, 'b'));
SELECT state, step_runs FROM tasker.coordinate_task(:t);
SELECT pg_temp.done();
-- a task of executors can be run by hand as well, if its handlers are functions
SELECT pg_temp.register('either way', 'a; b<-a; c<-a', '{"coordinator_strategy": "orchestrator"}') > 0 AS registered;
SELECT executor_id AS puller FROM tasker.register_executor('coordinate', '{app.work}', 0) \gset
SELECT tasker.create_task('either way', namespace => 'test') AS t \gset
SELECT tasker.orchestrate() > 0, tasker.orchestrate() >= 0;
SELECT step_name FROM tasker.claim_steps(:puller);
SELECT state, step_runs FROM tasker.coordinate_task(:t);
SELECT tasker.complete_step(test.step(:t, 'a'), test.claim(:t, 'a'));
SELECT state, step_runs FROM tasker.coordinate_task(:t);
SELECT tasker.orchestrate() >= 0, tasker.orchestrate() AS moves;
SELECT count(*) FROM tasker.claim_steps(:puller, 10);
SELECT tasker.unregister_executor(:puller);

---- pause ----
SELECT tasker.create_task('synchronous', namespace => 'test') AS t \gset
SELECT tasker.pause('test', 'synchronous');
SELECT state, step_runs FROM tasker.coordinate_task(:t);
SELECT tasker.resume('test', 'synchronous');
SELECT tasker.pause();
SELECT state, step_runs FROM tasker.coordinate_task(:t);
SELECT tasker.resume();
SELECT state, step_runs FROM tasker.coordinate_task(:t);

---- as whom ----
TRUNCATE app.done;
CREATE ROLE coordinate_owner;
CREATE ROLE coordinate_caller;
GRANT USAGE ON SCHEMA tasker TO coordinate_owner, coordinate_caller;
GRANT USAGE ON SCHEMA app TO coordinate_owner;
GRANT EXECUTE ON FUNCTION tasker.register_task_template, tasker.create_task TO coordinate_owner;
GRANT EXECUTE ON FUNCTION tasker.coordinate_task, tasker.create_task TO coordinate_caller;
GRANT INSERT, SELECT ON app.done TO coordinate_owner;
SET ROLE coordinate_owner;
SELECT tasker.register_task_template('{"name": "as whom", "namespace_name": "test", "version": "1.0.0", "coordinator_strategy": "synchronous",
	"step_templates": [{"name": "a", "handler_class": "app.work"}]}') > 0 AS registered;
SET ROLE coordinate_caller;
SELECT tasker.create_task('as whom', namespace => 'test') AS t \gset
SELECT state, step_runs, failed_runs FROM tasker.coordinate_task(:t);
RESET ROLE;
SELECT step, role FROM app.done;
SELECT to_state, role FROM tasker.workflow_step_transitions JOIN tasker.workflow_steps s USING (workflow_step_id) WHERE s.task_id = :t ORDER BY workflow_step_transitions.sort_key;

SELECT tasker.orchestrate() >= 0 AS settled;
SELECT * FROM tasker.check();
SET client_min_messages = error;
DROP SCHEMA app CASCADE;
DROP OWNED BY coordinate_owner, coordinate_caller;
DROP ROLE coordinate_owner, coordinate_caller;
RESET client_min_messages;
