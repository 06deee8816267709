-- The test kit: what its notation, handlers, clock, coordinator and assertions
-- do, and that nothing of it is left behind.
CREATE EXTENSION tasker_testing;
SELECT tasker.orchestrate() >= 0 AS settled;

-- What a statement is refused with; ids differ between runs and are masked.
CREATE FUNCTION pg_temp.refusal(statement text, VARIADIC ids bigint[] DEFAULT '{}') RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	message text;
	detail text;
	hint text;
BEGIN
	EXECUTE statement USING ids[1], ids[2];
	RETURN 'accepted';
EXCEPTION WHEN ASSERT_FAILURE OR OTHERS THEN
	GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN regexp_replace(concat_ws(' | ', SQLSTATE || ' ' || message, nullif(detail, ''), nullif(hint, '')),
		'(step|task|executor) \d+', '\1 N', 'g');
END
$$;
CREATE VIEW pg_temp.run AS
SELECT step_name, attempt, pass, succeeded, results, sqlstate, error, detail FROM tasker_testing.step_runs ORDER BY run_id;

---- what CREATE EXTENSION leaves ----
-- everything is documented and nothing is open to PUBLIC
SELECT i.identity FROM pg_depend d JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
CROSS JOIN LATERAL pg_identify_object(d.classid, d.objid, d.objsubid) i
WHERE e.extname = 'tasker_testing' AND d.deptype = 'e'
	AND (i.schema IS DISTINCT FROM 'tasker_testing' AND i.identity <> 'tasker_testing'
		OR i.type IN ('function', 'table', 'view', 'schema', 'index') AND coalesce(length(obj_description(d.objid, d.classid::regclass::name)), 0) < 20);
SELECT p.oid::regprocedure FROM pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) x
WHERE p.pronamespace = 'tasker_testing'::regnamespace AND x.grantee = 0;
-- only what leads to the handlers of the caller leaves the search_path to the caller
SELECT p.proname FROM pg_proc p
WHERE p.pronamespace = 'tasker_testing'::regnamespace AND p.prosqlbody IS NULL AND p.proconfig IS NULL ORDER BY 1;

---- the notation ----
SELECT s ->> 'name' AS name, s ->> 'handler_class' AS handler, s -> 'handler_config' AS config, s -> 'depends_on_steps' AS parents, s -> 'timeout_seconds' AS option
FROM jsonb_array_elements(tasker_testing.template('t', ' a; b(f=2)<-a;c( t=1 )<- a , b; d(i); e(h=Shop::Charge)<-d;', '{"timeout_seconds": 5}') -> 'step_templates') s;
SELECT tasker_testing.template('t', '', namespace => 'n', version => '2.0.0');
SELECT pg_temp.refusal(format('SELECT tasker_testing.register_template(%L, %L)', 'broken', s))
FROM unnest(ARRAY['a b', 'a; <-a', 'a(f=2', 'a(x=2)', 'a(f=)', 'a(h=)', 'a<-b<-c', 'a<-z', 'a<-b; b<-a', '']) s;
SELECT pg_temp.refusal('SELECT tasker_testing.create_workflow(''circle'')');
SELECT pg_temp.refusal('SELECT tasker_testing.create_workflow(NULL)');
SELECT pg_temp.refusal('SELECT tasker_testing.create_workflow(''linear'', ''{"batch_id": 7}'')');
SELECT pg_temp.refusal('SELECT count(*) FROM tasker_testing.create_dataset(0)');
SELECT pg_temp.refusal('SELECT count(*) FROM tasker_testing.create_state_mix(9)');

---- handlers ----
BEGIN;
CREATE TABLE public.charges (order_id integer PRIMARY KEY, attempt integer);
CREATE FUNCTION public.charge(step tasker.claimed_step) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
	-- found by the search_path of the caller
	INSERT INTO charges VALUES ((step.inputs ->> 'order_id')::integer, step.attempt);
	IF step.attempt = 1 THEN
		RAISE EXCEPTION 'card declined' USING ERRCODE = '22000', DETAIL = 'try again';
	END IF;
	RETURN jsonb_build_object('charged', step.dependency_results -> 'quote' -> 'price');
END
$$;
CREATE FUNCTION public.quote(step tasker.claimed_step) RETURNS jsonb LANGUAGE sql AS $$SELECT '{"price": 5}'::jsonb$$;
CREATE FUNCTION public.not_a_handler(step tasker.claimed_step) RETURNS text LANGUAGE sql AS $$SELECT ''$$;
SELECT tasker_testing.register_template('order', 'quote(h=Quote); charge(h=Charge)<-quote; mail(h=Mail)<-charge', '{"backoff_base_seconds": 2, "backoff_jitter": 0}') > 0 AS registered;
SELECT tasker_testing.use_handler('Quote', 'public.quote'::regproc::regprocedure), tasker_testing.use_handler('Charge', 'public.charge(tasker.claimed_step)');
SELECT pg_temp.refusal('SELECT tasker_testing.use_handler(''x'', ''public.not_a_handler(tasker.claimed_step)'')');
SELECT pg_temp.refusal('SELECT tasker_testing.use_handler(''x'', NULL)');
SELECT pg_temp.refusal('SELECT tasker_testing.use_handler(NULL, ''public.quote(tasker.claimed_step)'')');
SELECT * FROM tasker_testing.handlers ORDER BY handler COLLATE "C";
SELECT tasker.create_task('order', '{"order_id": 7}', 'tasker_testing') AS task \gset
SELECT * FROM tasker_testing.run_task(:task);
SELECT * FROM pg_temp.run;
-- the work of the failed attempt was rolled back, and the attempt was counted
SELECT * FROM public.charges;
SELECT * FROM test.history(:task);
SELECT regexp_replace(message, 'task \d+', 'task N') FROM tasker_testing.execution_log ORDER BY entry;
SELECT * FROM tasker_testing.execution_stats;
-- what a handler is given can be made again from the rows: as claimed, but for what has happened since
SELECT to_jsonb(tasker_testing.claimed_step(tasker_testing.step_id(:task, 'charge'))) - '{workflow_step_id,task_id}'::text[];
SELECT executor_id AS puller FROM tasker.register_executor('testing', '{ConfigurableFailureHandler}', 0) \gset
SELECT tasker_testing.create_workflow('diamond', '{"n": 1}') AS other \gset
SELECT tasker.orchestrate() > 0 AS orchestrated;
SELECT to_jsonb(c) AS claimed, workflow_step_id AS step FROM tasker.claim_steps(:puller) c \gset
SELECT to_jsonb(tasker_testing.claimed_step(:step)) = :'claimed' AS same;
ROLLBACK;

-- permanent, server-requested, and a mistake in between
BEGIN;
CREATE FUNCTION public.picky(step tasker.claimed_step) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
	CASE step.step_name
		WHEN 'permanent' THEN RAISE 'no such account' USING ERRCODE = 'TK005';
		WHEN 'later' THEN
			IF step.attempt = 1 THEN RAISE 'busy' USING ERRCODE = 'TK006', DETAIL = '120'; END IF;
		WHEN 'mistaken' THEN RAISE 'busy' USING ERRCODE = 'TK006', DETAIL = 'soon';
		WHEN 'cancels' THEN PERFORM tasker.cancel_task(step.task_id);
		WHEN 'null' THEN RETURN NULL;
		ELSE RETURN '{"ran": "as in production"}';
	END CASE;
	RETURN '{"ok": true}';
END
$$;
SELECT tasker_testing.use_handler('Picky', 'public.picky(tasker.claimed_step)');
SELECT tasker_testing.register_template('picky', 'permanent(h=Picky); later(h=Picky); mistaken(h=Picky); null(h=Picky); direct(h=public.picky)', '{"backoff_base_seconds": 2, "backoff_jitter": 0}') > 0 AS registered;
SELECT tasker.create_task('picky', namespace => 'tasker_testing') AS task \gset
SELECT * FROM tasker_testing.run_task(:task, max_passes => 1);
SELECT * FROM pg_temp.run;
SELECT tasker_testing.assert_waits(:task, 'later', '120 s');
SELECT step_name, reason, due_at - began_at AS delay FROM tasker_testing.pending_delays WHERE task_id = :task ORDER BY step_name;
SELECT state, passes, step_runs, failed_runs, waited <= '120 s' AS the_rest_at_most, stopped FROM tasker_testing.run_task(:task);
SELECT * FROM test.steps(:task);
-- A handler that ends its own task loses its claim: like that of an executor in one transaction, its work is rolled back.
SELECT tasker_testing.register_template('selfish', 'cancels(h=Picky)', '{"default_retry_limit": 1}') > 0 AS registered;
SELECT tasker.create_task('selfish', namespace => 'tasker_testing') AS task \gset
SELECT * FROM tasker_testing.run_task(:task);
SELECT sqlstate, regexp_replace(error, '\d+', 'N', 'g') AS error, detail, results FROM tasker_testing.step_runs ORDER BY run_id DESC LIMIT 1;
ROLLBACK;

-- the handlers of the kit say what they know
BEGIN;
SELECT tasker_testing.register_template('kinds', 'a(f=1); b(t=1)<-a; c(h=RandomFailureHandler)<-b; d(h=CompositeTestHandler)<-c',
	'{"backoff_base_seconds": 2, "backoff_jitter": 0}') > 0 AS registered;
SELECT tasker.register_task_template(jsonb_set(tasker_testing.template('kinds', 'a(f=1); b(t=1)<-a; c(h=RandomFailureHandler)<-b; d(h=CompositeTestHandler)<-c',
	'{"backoff_base_seconds": 2, "backoff_jitter": 0}', version => '1.1.0'), '{step_templates,3,handler_config}',
	'{"patterns": [{"type": "execution_range", "max": 1, "action": "fail", "message": "the first"},
		{"type": "execution_range", "min": 2, "max": 2, "action": "delay", "delay_seconds": 60},
		{"type": "probability", "probability": 0, "action": "fail"},
		{"type": "execution_range", "max": 2, "action": "fail"},
		{"type": "always", "action": "succeed"}, {"type": "always", "action": "fail"}]}')) > 0 AS registered;
SELECT tasker.create_task('kinds', '{"seed": 4}', 'tasker_testing') AS task \gset
SELECT * FROM tasker_testing.run_task(:task, 9);
SELECT step_name, attempt, results - 'processed_at' AS results, error, detail FROM pg_temp.run;
-- the same seed, the same chances
SELECT count(*) AS runs, string_agg(CASE WHEN fails THEN '!' ELSE '.' END, '' ORDER BY i) AS failures
FROM generate_series(1, 40) i, LATERAL (SELECT tasker_testing.chance('4', 'c', i::text) < 0.3 AS fails) r;
ROLLBACK;

---- configured failures ----
BEGIN;
SELECT tasker_testing.configure_failure('initialize_data', 1, 'disk full');
SELECT tasker_testing.configure_failure('process_data', 0);
SELECT tasker_testing.configure_failure('validate_output', 5, 'wrong', permanent => true);
SELECT tasker_testing.create_workflow('linear') AS task \gset
SELECT * FROM tasker_testing.run_task(:task);
SELECT step_name, attempt, sqlstate, error, detail FROM pg_temp.run;
SELECT failures_configured FROM tasker_testing.execution_stats;
SELECT tasker_testing.clear_failures('validate_output'), tasker_testing.clear_failures('validate_output'), tasker_testing.clear_failures();
SELECT tasker.retry_task(:task);
SELECT * FROM tasker_testing.run_task(:task);
SELECT pg_temp.refusal('SELECT tasker_testing.configure_failure(''a'', -1)');
SELECT pg_temp.refusal('SELECT tasker_testing.configure_failure(NULL)');
ROLLBACK;

---- the clock ----
BEGIN;
SELECT tasker.now() AS before \gset
SELECT tasker_testing.advance_clock('1 hour') AS after \gset
SELECT :'after'::timestamptz - :'before' BETWEEN '1 hour' AND '1 hour 1 minute' AS an_hour_later;
SHOW tasker.clock_offset;
SELECT tasker_testing.advance_clock('0.5 milliseconds') > :'before' AS later;
SHOW tasker.clock_offset;
SELECT pg_temp.refusal('SELECT tasker_testing.advance_clock(''-1 second'')');
SELECT pg_temp.refusal('SELECT tasker_testing.advance_clock(NULL)');
SELECT left(pg_temp.refusal('SELECT tasker_testing.advance_clock(''1 year'')'), 5) AS too_far;
COMMIT;
SHOW tasker.clock_offset;
-- delays one by one, and all at once; an attempt's time is one too
BEGIN;
SELECT tasker_testing.register_template('slow', 'a(h=testing.T); b(f=1); c(f=1)', '{"timeout_seconds": 600, "backoff_jitter": 0, "backoff_base_seconds": 10}') > 0 AS registered;
SELECT tasker.create_task('slow', namespace => 'tasker_testing') AS task \gset
SELECT executor_id AS puller FROM tasker.register_executor('testing', '{testing.T}', 0) \gset
SELECT tasker.orchestrate() > 0 AS orchestrated;
SELECT step_name FROM tasker.claim_steps(:puller, 10);
SELECT * FROM tasker_testing.run_task(:task, 1);
SELECT step_name, reason, due_at - began_at AS delay FROM tasker_testing.pending_delays WHERE task_id = :task ORDER BY due_at, step_name;
SELECT tasker_testing.play_next_delay(ARRAY[:task]::bigint[]) <= '10 s' AS ten_seconds_at_most;
SELECT * FROM test.steps(:task);
SELECT tasker_testing.play_all_delays(ARRAY[:task]::bigint[]) <= '590 s' AS the_rest_at_most;
SELECT * FROM test.steps(:task);
SELECT state, passes, step_runs, failed_runs, waited <= '10 s' AS ten_seconds_at_most, stopped FROM tasker_testing.run_task(:task);
SELECT tasker_testing.play_next_delay(ARRAY[:task]::bigint[]);
-- a task that is to be looked at again
SELECT tasker_testing.create_workflow('linear') AS task \gset
SELECT tasker.reenqueue_task(:task, '40 s');
SELECT step_name, reason, due_at - tasker.now() <= '40 s' AS soon FROM tasker_testing.pending_delays WHERE task_id = :task;
SELECT tasker_testing.play_next_delay(ARRAY[:task]::bigint[]) <= '40 s' AS played;
SELECT count(*) FROM tasker_testing.pending_delays WHERE task_id = :task;
ROLLBACK;

---- what the coordinator leaves alone ----
BEGIN;
-- another task with the same handlers, a step of which is in progress elsewhere
SELECT tasker_testing.create_workflow('linear') AS task \gset
SELECT tasker_testing.create_workflow('linear') AS other \gset
SELECT * FROM tasker_testing.run_task(:task);
SELECT * FROM test.history(:other);
-- a task that waits for somebody else
SELECT executor_id AS puller FROM tasker.register_executor('testing', '{ConfigurableFailureHandler}', 0) \gset
SELECT step_name FROM tasker.claim_steps(:puller);
SELECT * FROM tasker_testing.run_task(:other);
SELECT pg_temp.refusal('SELECT tasker_testing.run_task(-1)');
SELECT pg_temp.refusal('SELECT tasker_testing.run_task(NULL)');
SELECT pg_temp.refusal('SELECT tasker_testing.run_tasks(''{}'')');
SELECT pg_temp.refusal('SELECT tasker_testing.run_tasks(NULL)');
SELECT pg_temp.refusal('SELECT tasker_testing.run_task($1, 0)', :task);
SELECT pg_temp.refusal('SELECT tasker_testing.run_task($1, NULL)', :task);
-- one step at a time
SELECT tasker.register_task_template(tasker_testing.template('turns', 'a(f=1); b; c', '{"backoff_base_seconds": 2, "backoff_jitter": 0}') || '{"concurrent": false}') > 0 AS registered;
SELECT tasker.create_task('turns', namespace => 'tasker_testing') AS task \gset
SELECT * FROM tasker_testing.run_task(:task);
SELECT tasker_testing.assert_ran_in_order(:task, '{b,c}');
SELECT step_name, attempt FROM tasker_testing.step_runs WHERE task_id = :task ORDER BY run_id;
-- by priority, then oldest first
SELECT tasker.register_task_template(jsonb_set(tasker_testing.template('ranked', 'a; b; c'), '{step_templates,1,priority}', '5')) > 0 AS registered;
SELECT tasker.create_task('ranked', namespace => 'tasker_testing') AS task \gset
SELECT * FROM tasker_testing.run_task(:task);
SELECT tasker_testing.assert_ran_in_order(:task, '{b,a,c}');
ROLLBACK;

---- assertions ----
BEGIN;
SELECT tasker_testing.create_workflow('mixed') AS task \gset
SELECT tasker_testing.configure_failure('cleanup_temp_files', 9, 'full');
SELECT * FROM tasker_testing.run_task(:task);
SELECT a FROM (VALUES
	(tasker_testing.assert_task_state(:task, 'error')),
	(tasker_testing.assert_step_state(:task, 'cleanup_temp_files', 'error')),
	(tasker_testing.assert_step_states(:task, '{"process_critical_data": "complete", "finalize_and_report": "pending"}')),
	(tasker_testing.assert_attempts(:task, 'cleanup_temp_files', 3)),
	(tasker_testing.assert_task_history(:task, '{pending,in_progress,error}')),
	(tasker_testing.assert_step_history(:task, 'setup_environment', '{in_progress,error,pending,in_progress,complete}')),
	(tasker_testing.assert_step_history(:task, 'finalize_and_report', '{}')),
	(tasker_testing.assert_step_runs(:task, 14)),
	(tasker_testing.assert_ran_in_order(:task, '{setup_environment,begin_processing,process_critical_data}')),
	(tasker_testing.assert_never_ran(:task, 'finalize_and_report')),
	(tasker_testing.assert_results(:task, 'cleanup_temp_files', '{"error": "full"}')),
	(tasker_testing.assert_nothing_ready(:task)),
	(tasker_testing.assert_consistent())) v(a);
-- each of them fails, and says what is so and what was expected
SELECT pg_temp.refusal('SELECT tasker_testing.' || s, :task) FROM unnest(ARRAY[
	'assert_task_state($1, ''complete'', ''all went well'')',
	'assert_step_state($1, ''cleanup_temp_files'', ''complete'')',
	'assert_step_states($1, ''{"init_auth": "error", "init_config": "complete", "cleanup_temp_files": "pending"}'')',
	'assert_attempts($1, ''cleanup_temp_files'', 1)',
	'assert_task_history($1, ''{pending,in_progress,complete}'')',
	'assert_step_history($1, ''init_auth'', ''{}'')',
	'assert_step_history($1, ''finalize_and_report'', ''{in_progress}'')',
	'assert_step_runs($1, 13)',
	'assert_ran_in_order($1, ''{begin_processing,setup_environment,finalize_and_report}'')',
	'assert_never_ran($1, ''cleanup_temp_files'')',
	'assert_results($1, ''cleanup_temp_files'', ''{"success": true}'')',
	'assert_results($1, ''finalize_and_report'', ''{}'')',
	'assert_waits($1, ''cleanup_temp_files'', ''2 s'')']) s;
-- or it was not to be asked
SELECT pg_temp.refusal('SELECT tasker_testing.' || s, :task) FROM unnest(ARRAY[
	'assert_step_state($1, ''nobody'', ''complete'')',
	'assert_step_states($1, ''{"init_auth": "broken"}'')',
	'assert_task_state(-1, ''complete'')',
	'assert_attempts(-1, ''a'', 1)',
	'assert_idempotent(-1)']) s;
SELECT tasker.retry_task(:task);
SELECT pg_temp.refusal('SELECT tasker_testing.assert_nothing_ready($1)', :task);
SELECT pg_temp.refusal('SELECT tasker_testing.assert_idempotent($1)', :task);
-- an assertion inside of a handler ends the test, not the attempt
CREATE FUNCTION public.asserting(step tasker.claimed_step) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
	RETURN to_jsonb(tasker_testing.assert_never_ran(step.task_id, step.step_name));
END
$$;
SELECT tasker_testing.use_handler('ConfigurableFailureHandler', 'public.asserting(tasker.claimed_step)');
SELECT tasker_testing.clear_failures();
SELECT pg_temp.refusal('SELECT tasker_testing.run_task($1)', :task);
-- what is broken behind the engine's back is found
UPDATE tasker.workflow_steps SET attempts = 0 WHERE workflow_step_id = tasker_testing.step_id(:task, 'init_auth');
UPDATE tasker.workflow_steps SET state = 'pending', sort_key = 0 WHERE workflow_step_id = tasker_testing.step_id(:task, 'init_auth');
SELECT pg_temp.refusal('SELECT tasker_testing.assert_consistent()') LIKE 'P0004 %step_ran_before_parent%' AS found;
ROLLBACK;

---- idempotency ----
BEGIN;
CREATE FUNCTION public.careless(step tasker.claimed_step) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
	CASE step.step_name
		WHEN 'counts' THEN RETURN jsonb_build_object('rows', (SELECT count(*) FROM tasker_testing.step_runs));
		WHEN 'sums' THEN RETURN jsonb_build_object('checksum', (SELECT count(*) FROM tasker_testing.step_runs));
		WHEN 'raises' THEN
			IF tasker.step_state(step.workflow_step_id) = 'complete' THEN RAISE 'already there' USING ERRCODE = '23505'; END IF;
			RETURN '{}';
		ELSE RETURN '{"same": 1}';
	END CASE;
END
$$;
SELECT tasker_testing.use_handler('Careless', 'public.careless(tasker.claimed_step)');
SELECT tasker_testing.register_template('careless', 'counts(h=Careless); sums(h=Careless); raises(h=Careless); same(h=Careless)') > 0 AS registered;
SELECT tasker.create_task('careless', namespace => 'tasker_testing') AS task \gset
SELECT * FROM tasker_testing.run_task(:task);
SELECT * FROM tasker_testing.check_idempotency(:task, 2);
SELECT * FROM tasker_testing.check_idempotency(:task, 1, '{rows}');
SELECT pg_temp.refusal('SELECT tasker_testing.check_idempotency($1, 0)', :task);
SELECT pg_temp.refusal('SELECT tasker_testing.assert_idempotent($1, 1)', :task);
-- nothing of the task has changed
SELECT * FROM test.history(:task);
ROLLBACK;

---- a test that commits takes its own things back ----
SELECT tasker_testing.use_handler('x', 'tasker_testing.succeed(tasker.claimed_step)'), tasker_testing.configure_failure('x');
SELECT tasker_testing.reset();
SELECT (SELECT count(*) FROM tasker_testing.handler_functions) AS handlers, (SELECT count(*) FROM tasker_testing.failures) AS failures,
	(SELECT count(*) FROM tasker_testing.step_runs) AS runs, (SELECT count(*) FROM tasker_testing.passes) AS passes;
DROP VIEW pg_temp.run;
DROP EXTENSION tasker_testing;
SELECT * FROM tasker.check();
