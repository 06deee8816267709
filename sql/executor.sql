-- Executors: registration, signs of life, and how they get steps.
SELECT tasker.orchestrate() >= 0 AS settled;

-- What a statement is refused with; ids differ between runs and are masked.
CREATE FUNCTION pg_temp.refusal(statement text, VARIADIC ids bigint[] DEFAULT '{}') RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	message text;
	detail text;
	hint text;
BEGIN
	EXECUTE statement USING ids[1], ids[2], ids[3];
	RETURN 'accepted';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN regexp_replace(concat_ws(' | ', SQLSTATE || ' ' || message, nullif(detail, ''), nullif(hint, '')),
		'(step|task|executor) \d+', '\1 N', 'g');
END
$$;

-- Lets time pass.
CREATE FUNCTION pg_temp.advance(milliseconds integer) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM set_config('tasker.clock_offset', (setting::integer + milliseconds)::text, false)
	FROM pg_settings WHERE name = 'tasker.clock_offset';
END
$$;
CREATE FUNCTION pg_temp.settle() RETURNS text LANGUAGE sql AS $$
	SELECT CASE WHEN tasker.orchestrate() > 0 THEN 'something' ELSE 'nothing' END
$$;
CREATE VIEW pg_temp.executor AS
SELECT name, handlers, capacity, detached, lease, ended_at IS NULL AS lives, end_reason, in_flight
FROM tasker.stat_executors WHERE name LIKE 'executor %' ORDER BY executor_id;

---- registration ----
SELECT executor_id AS bound, channel ~ '^tasker_[0-9a-f]{20}$' AS channel_is_unguessable
FROM tasker.register_executor('executor bound', '{executor.H,executor.I,executor.H}', 0) \gset
SELECT executor_id AS detached FROM tasker.register_executor('executor detached', '{executor.H}', 0, detached => true, lease => '10 seconds') \gset
SELECT executor_id AS own_default FROM tasker.register_executor('executor default', '{executor.nobody}', detached => true) \gset
SELECT :'channel_is_unguessable' AS channel_is_unguessable;
SELECT * FROM pg_temp.executor;
SELECT count(DISTINCT channel) = count(*) AS channels_differ FROM tasker.executors;
-- a name may be used again: executors are told apart by their ids
SELECT executor_id AS namesake FROM tasker.register_executor('executor bound', '{executor.H}', 0) \gset
SELECT :namesake <> :bound AS differs;
SELECT tasker.unregister_executor(:namesake);

SELECT pg_temp.refusal(s) FROM unnest(ARRAY[
	$$SELECT tasker.register_executor('', '{h}')$$,
	$$SELECT tasker.register_executor(repeat('n', 129), '{h}')$$,
	$$SELECT tasker.register_executor(NULL, '{h}')$$,
	$$SELECT tasker.register_executor('executor x', NULL)$$,
	$$SELECT tasker.register_executor('executor x', '{}')$$,
	$$SELECT tasker.register_executor('executor x', '{h,NULL}')$$,
	$$SELECT tasker.register_executor('executor x', '{{h,i},{j,k}}')$$,
	$$SELECT tasker.register_executor('executor x', '{h}', -1)$$,
	$$SELECT tasker.register_executor('executor x', '{h}', 10001)$$,
	$$SELECT tasker.register_executor('executor x', '{h}', NULL)$$,
	$$SELECT tasker.register_executor('executor x', '{h}', 1, NULL)$$,
	$$SELECT tasker.register_executor('executor x', '{h}', lease => '0')$$,
	$$SELECT tasker.register_executor('executor x', '{h}', lease => '-1 second')$$,
	$$SELECT tasker.register_executor('executor x', '{h}', lease => '99 milliseconds')$$,
	$$SELECT tasker.register_executor('executor x', '{h}', lease => '1 month')$$,
	$$SELECT tasker.unregister_executor(-1)$$,
	$$SELECT tasker.unregister_executor(NULL)$$,
	$$SELECT tasker.heartbeat(-1)$$,
	$$SELECT tasker.heartbeat(NULL)$$,
	$$SELECT tasker.my_steps(-1)$$,
	$$SELECT tasker.my_steps(NULL)$$,
	$$SELECT tasker.claim_steps(-1)$$,
	$$SELECT tasker.claim_steps(NULL)$$]) WITH ORDINALITY u(s, n) ORDER BY n;
-- what no template can name either
SELECT left(pg_temp.refusal(s), 5) AS sqlstate FROM unnest(ARRAY[$$SELECT tasker.register_executor('executor x', '{h,""}')$$,
	$$SELECT tasker.register_executor('executor x', ARRAY[repeat('h', 257)])$$]) s;
SELECT pg_temp.refusal('SELECT tasker.claim_steps($1, 0)', :bound);
SELECT pg_temp.refusal('SELECT tasker.claim_steps($1, -1)', :bound);
SELECT pg_temp.refusal('SELECT tasker.claim_steps($1, 10001)', :bound);
SELECT count(*) FROM tasker.executors WHERE name = 'executor x';
-- names of any script
SELECT executor_id AS odd FROM tasker.register_executor('executor Ünï "q'' 🚀', ARRAY['executor.Ünï "q'' 🚀'], 0) \gset
SELECT name, handlers FROM tasker.stat_executors WHERE executor_id = :odd;
SELECT tasker.unregister_executor(:odd);

---- who gets what ----
SELECT test.template('executor single', 'a', '{"handler_class": "executor.H"}') > 0 AS registered;
SELECT test.template('executor other', 'a', '{"handler_class": "executor.other"}') > 0 AS registered;
-- by priority, then oldest first; max is a bound, 1 if not given
SELECT count(tasker.create_task('executor single', jsonb_build_object('label', label), 'test', priority => priority))
FROM (VALUES (1, 'first', 0), (2, 'low', -5), (3, 'high', 5), (4, 'second', 0), (5, 'high too', 5)) AS t(n, label, priority);
SELECT tasker.create_task('executor other', namespace => 'test') AS other \gset
SELECT pg_temp.settle();
SELECT inputs ->> 'label' AS label FROM tasker.claim_steps(:bound);
SELECT inputs ->> 'label' AS label FROM tasker.claim_steps(:bound, NULL);
SELECT string_agg(inputs ->> 'label', ', ') AS labels FROM tasker.claim_steps(:bound, 2);
SELECT string_agg(inputs ->> 'label', ', ') AS labels FROM tasker.claim_steps(:bound, 10000);
SELECT count(*) FROM tasker.claim_steps(:bound, 10000);
-- handlers that do not match get nothing
SELECT count(*) FROM tasker.claim_steps(:own_default, 10);
SELECT step_name, handler, attempt FROM tasker.my_steps(:bound) WHERE inputs ->> 'label' = 'low';
SELECT in_flight FROM pg_temp.executor WHERE name = 'executor bound' AND lives;
SELECT count(*) FROM tasker.my_steps(:own_default);
-- one registered late finds the step that nobody could run
SELECT executor_id AS late FROM tasker.register_executor('executor late', '{executor.other}', 1) \gset
SELECT pg_temp.settle();
SELECT task_id = :other AS it, task_name, step_name FROM tasker.my_steps(:late);
SELECT tasker.complete_step(workflow_step_id, claim) FROM tasker.my_steps(:late);
SELECT count(tasker.complete_step(workflow_step_id, claim)) FROM tasker.my_steps(:bound);
SELECT pg_temp.settle();
SELECT count(*) FROM tasker.my_steps(:bound);
SELECT tasker.unregister_executor(:late);

---- what a claim says ----
SELECT tasker.register_task_template('{"name": "executor payload", "namespace_name": "test", "version": "1.0.0", "step_templates": [
	{"name": "a", "handler_class": "executor.H", "handler_config": {"url": "http://example.com"}},
	{"name": "b", "handler_class": "executor.I", "skippable": true},
	{"name": "c", "handler_class": "executor.H", "depends_on_steps": ["a", "b"]},
	{"name": "d", "handler_class": "executor.H", "depends_on_step": "c"}]}') > 0 AS registered;
SELECT tasker.create_task('executor payload', '{"order": 7, "deep": {"er": [1, null]}}', 'test') AS payload \gset
SELECT pg_temp.settle();
SELECT claim, attempt, task_id = :payload AS of_task, task_name, step_name, handler, handler_config, inputs, dependency_results FROM tasker.claim_steps(:bound, 10);
SELECT tasker.complete_step(test.step(:payload, 'a'), test.claim(:payload, 'a'), '{"paid": true}');
-- of a parent that was resolved there may be no results
SELECT tasker.release_step(test.step(:payload, 'b'), test.claim(:payload, 'b'));
SELECT tasker.resolve_step(test.step(:payload, 'b'));
UPDATE tasker.workflow_steps SET inputs = '{"order": 8, "own": 1}' WHERE workflow_step_id = test.step(:payload, 'c');
SELECT pg_temp.settle();
SELECT claim, attempt, step_name, handler_config, inputs, dependency_results FROM tasker.claim_steps(:bound, 10);
-- the claim grows, the attempt counts
SELECT tasker.fail_step(test.step(:payload, 'c'), test.claim(:payload, 'c'), 'no', retry_after_seconds => 0);
SELECT pg_temp.settle();
SELECT claim, attempt, step_name, dependency_results FROM tasker.claim_steps(:bound, 10);
SELECT tasker.complete_step(test.step(:payload, 'c'), test.claim(:payload, 'c'), '[1, 2]');
SELECT pg_temp.settle();
-- of direct parents only
SELECT step_name, dependency_results FROM tasker.claim_steps(:bound, 10);
SELECT tasker.complete_step(test.step(:payload, 'd'), test.claim(:payload, 'd'), NULL);
SELECT results FROM tasker.workflow_steps WHERE workflow_step_id = test.step(:payload, 'd');
SELECT pg_temp.settle();
SELECT tasker.task_state(:payload);

---- capacity ----
-- What is pushed is found by my_steps; no more than the capacity.
SELECT executor_id AS pushed FROM tasker.register_executor('executor pushed', '{executor.H}', 2) \gset
SELECT count(tasker.create_task('executor single', jsonb_build_object('label', n), 'test')) FROM generate_series(1, 5) n;
SELECT pg_temp.settle();
SELECT inputs ->> 'label' AS label, claim, attempt FROM tasker.my_steps(:pushed);
SELECT tasker.complete_step(workflow_step_id, claim) FROM tasker.my_steps(:pushed) WHERE inputs ->> 'label' = '1';
SELECT pg_temp.settle();
SELECT inputs ->> 'label' AS label FROM tasker.my_steps(:pushed);
-- it may pull more than that, if it wants to
SELECT inputs ->> 'label' AS label FROM tasker.claim_steps(:pushed, 1);
SELECT in_flight FROM pg_temp.executor WHERE name = 'executor pushed';
-- and gets no more until it is below its capacity
SELECT tasker.complete_step(workflow_step_id, claim) FROM tasker.my_steps(:pushed) WHERE inputs ->> 'label' = '2';
SELECT pg_temp.settle();
SELECT inputs ->> 'label' AS label FROM tasker.my_steps(:pushed);
SELECT count(tasker.complete_step(workflow_step_id, claim)) FROM tasker.my_steps(:pushed);
SELECT pg_temp.settle();
SELECT count(tasker.complete_step(workflow_step_id, claim)) FROM tasker.my_steps(:pushed);
SELECT pg_temp.settle();
-- two take turns
SELECT executor_id AS second FROM tasker.register_executor('executor second', '{executor.H}', 2) \gset
SELECT count(tasker.create_task('executor single', namespace => 'test')) FROM generate_series(1, 5) n;
SELECT pg_temp.settle();
SELECT (SELECT count(*) FROM tasker.my_steps(:pushed)) AS of_pushed, (SELECT count(*) FROM tasker.my_steps(:second)) AS of_second,
	(SELECT count(*) FROM tasker.work_queue JOIN tasker.handlers USING (handler_id) WHERE name = 'executor.H') AS waiting;
-- one leaves: what it had is lost and goes to the other as that gets free
SELECT tasker.unregister_executor(:second);
SELECT pg_temp.settle();
SELECT attempt, count(*) FROM (SELECT attempt FROM tasker.my_steps(:pushed)
	UNION ALL SELECT attempts FROM tasker.work_queue JOIN tasker.workflow_steps USING (workflow_step_id, handler_id)
		JOIN tasker.handlers USING (handler_id) WHERE name = 'executor.H') s GROUP BY 1 ORDER BY 1;
DO $$
BEGIN
	FOR i IN 1..10 LOOP
		PERFORM tasker.orchestrate();
		PERFORM tasker.complete_step(workflow_step_id, claim)
		FROM tasker.stat_executors e, tasker.my_steps(e.executor_id) WHERE e.name = 'executor pushed';
	END LOOP;
END
$$;
SELECT tasker.unregister_executor(:pushed);
SELECT pg_temp.settle();
SELECT DISTINCT t.state FROM tasker.tasks t JOIN tasker.named_tasks n USING (named_task_id) WHERE n.name = 'executor single';

---- the end of an executor ----
SELECT executor_id AS leaving FROM tasker.register_executor('executor leaving', '{executor.H}', 0) \gset
SELECT tasker.create_task('executor single', namespace => 'test') AS lost \gset
SELECT pg_temp.settle();
SELECT claim, attempt FROM tasker.claim_steps(:leaving);
SELECT tasker.heartbeat(:leaving) AS alive;
SELECT tasker.unregister_executor(:leaving);
SELECT tasker.unregister_executor(:leaving) AS again;
SELECT tasker.heartbeat(:leaving) AS alive;
SELECT * FROM pg_temp.executor WHERE name = 'executor leaving';
SELECT pg_temp.refusal('SELECT tasker.claim_steps($1)', :leaving);
-- until the orchestrator has looked the step is still with it, and may be completed
SELECT count(*) FROM tasker.my_steps(:leaving);
SELECT pg_temp.settle();
SELECT count(*) FROM tasker.my_steps(:leaving);
SELECT * FROM test.history(:lost);
SELECT metadata ->> 'error_class' AS class, metadata ->> 'backoff_seconds' AS backoff, executor_id IS NULL AS by_orchestrator,
	regexp_replace(metadata ->> 'error_message', '\d+', 'N') AS message
FROM tasker.workflow_step_transitions WHERE workflow_step_id = test.step(:lost, 'a') AND to_state = 'error';
SELECT pg_temp.refusal('SELECT tasker.complete_step($1, 10)', test.step(:lost, 'a'));
SELECT claim, attempt FROM tasker.claim_steps(:bound);
SELECT pg_temp.refusal('SELECT tasker.complete_step($1, 10, executor_id => $2)', test.step(:lost, 'a'), :leaving);
-- the last attempt lost: a poisonous step ends in error
SELECT tasker.fail_step(test.step(:lost, 'a'), 40, 'no', retry_after_seconds => 0);
SELECT pg_temp.settle();
SELECT executor_id AS leaving FROM tasker.register_executor('executor leaving', '{executor.H}', 0) \gset
SELECT claim, attempt FROM tasker.claim_steps(:leaving);
SELECT tasker.unregister_executor(:leaving);
SELECT pg_temp.settle();
SELECT * FROM test.history(:lost);

-- Rolled back, it has not ended.
SELECT executor_id AS staying FROM tasker.register_executor('executor staying', '{executor.H}', 0) \gset
SELECT tasker.create_task('executor single', namespace => 'test') AS kept \gset
SELECT pg_temp.settle();
SELECT claim FROM tasker.claim_steps(:staying);
BEGIN;
SELECT tasker.unregister_executor(:staying);
ROLLBACK;
SELECT pg_temp.settle();
SELECT * FROM pg_temp.executor WHERE name = 'executor staying';
SELECT tasker.complete_step(test.step(:kept, 'a'), 10, executor_id => :staying);
-- Rolled back, it was never there.
BEGIN;
SELECT executor_id AS never FROM tasker.register_executor('executor never', '{executor.H}', 5, detached => true) \gset
ROLLBACK;
SELECT pg_temp.refusal('SELECT tasker.heartbeat($1)', :never);
SELECT pg_temp.refusal('SELECT tasker.claim_steps($1)', :never);

---- leases ----
-- Detached: alive as long as it says so in time; the end of its session means nothing.
SELECT tasker.create_task('executor single', namespace => 'test') AS leased \gset
SELECT pg_temp.settle();
SELECT tasker.heartbeat(:detached);
SELECT claim FROM tasker.claim_steps(:detached);
SELECT pg_temp.advance(9000);
SELECT pg_temp.settle();
SELECT tasker.heartbeat(:detached);
SELECT pg_temp.advance(9000);
SELECT pg_temp.settle();
SELECT lives, in_flight FROM pg_temp.executor WHERE name = 'executor detached';
-- one lease without a sign of life
SELECT pg_temp.advance(1000);
SELECT pg_temp.settle();
SELECT lives, end_reason, in_flight FROM pg_temp.executor WHERE name = 'executor detached';
SELECT lives FROM pg_temp.executor WHERE name = 'executor default';
SELECT tasker.heartbeat(:detached);
SELECT pg_temp.refusal('SELECT tasker.claim_steps($1)', :detached);
SELECT pg_temp.refusal('SELECT tasker.complete_step($1, 10, executor_id => $2)', test.step(:leased, 'a'), :detached);
SELECT pg_temp.refusal('SELECT tasker.fail_step($1, 10, ''late'', executor_id => $2)', test.step(:leased, 'a'), :detached);
SELECT pg_temp.refusal('SELECT tasker.release_step($1, 10, $2)', test.step(:leased, 'a'), :detached);
SELECT * FROM test.history(:leased);
SELECT claim, attempt FROM tasker.claim_steps(:bound);
SELECT tasker.complete_step(test.step(:leased, 'a'), test.claim(:leased, 'a'));
-- the default lease is a setting, read at the registration
SELECT lease = current_setting('tasker.lease')::interval AS is_default FROM pg_temp.executor WHERE name = 'executor default';
SET tasker.lease = '5s';
SELECT executor_id AS short FROM tasker.register_executor('executor short', '{executor.nobody}', detached => true) \gset
RESET tasker.lease;
SELECT lease FROM pg_temp.executor WHERE name = 'executor short';
SELECT tasker.unregister_executor(:short);
SELECT tasker.unregister_executor(:own_default);

---- timeouts ----
SELECT test.template('executor timeout', 'a', '{"handler_class": "executor.H", "timeout_seconds": 30, "default_retry_limit": 2, "backoff_base_seconds": 10}') > 0 AS registered;
SELECT tasker.create_task('executor timeout', namespace => 'test') AS slow \gset
SELECT tasker.create_task('executor timeout', namespace => 'test') AS fast \gset
SELECT pg_temp.settle();
SELECT count(*) FROM tasker.claim_steps(:bound, 10);
SELECT pg_temp.advance(29000);
SELECT pg_temp.settle();
SELECT tasker.complete_step(test.step(:fast, 'a'), test.claim(:fast, 'a'));
SELECT pg_temp.advance(1000);
SELECT pg_temp.settle();
SELECT owner, moves FROM test.history(:fast);
SELECT owner, moves FROM test.history(:slow);
SELECT metadata FROM tasker.workflow_step_transitions WHERE workflow_step_id = test.step(:slow, 'a') AND to_state = 'error';
SELECT pg_temp.refusal('SELECT tasker.complete_step($1, 10)', test.step(:slow, 'a'));
-- a late "it failed" is not the failure that was noted
SELECT pg_temp.refusal('SELECT tasker.fail_step($1, 10, ''late'')', test.step(:slow, 'a'));
-- each attempt has its own time
SELECT pg_temp.advance(10000);
SELECT pg_temp.settle();
SELECT claim, attempt FROM tasker.claim_steps(:bound);
SELECT pg_temp.advance(29000);
SELECT pg_temp.settle();
SELECT pg_temp.advance(1000);
SELECT pg_temp.settle();
SELECT owner, moves FROM test.history(:slow);
SELECT count(*) AS timers FROM tasker.timers JOIN tasker.workflow_steps USING (workflow_step_id) WHERE task_id IN (:slow, :fast);

---- a claim that is rolled back is free again at once ----
SELECT tasker.create_task('executor single', namespace => 'test') AS again \gset
SELECT pg_temp.settle();
BEGIN;
SELECT count(*) FROM tasker.claim_steps(:bound);
ROLLBACK;
BEGIN;
SAVEPOINT s;
SELECT count(*) FROM tasker.claim_steps(:bound);
ROLLBACK TO s;
SELECT claim, attempt FROM tasker.claim_steps(:bound);
COMMIT;
SELECT tasker.complete_step(test.step(:again, 'a'), 10);
SELECT pg_temp.settle();
SELECT * FROM test.history(:again);

SELECT tasker.unregister_executor(:bound), tasker.unregister_executor(:staying);
SELECT * FROM tasker.check();
