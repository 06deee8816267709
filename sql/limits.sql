-- Every limit, at the limit and one beyond. docs/limits.md is the list.

-- Text that no compression helps: n characters of four bytes.
CREATE FUNCTION pg_temp.wide(n integer) RETURNS text LANGUAGE sql AS $$
	SELECT coalesce(string_agg(chr(65536 + (i * 7919) % 40000), ''), '') FROM generate_series(1, n) i
$$;
-- A JSON object of exactly so many bytes of jsonb, incompressible enough not to vanish.
CREATE FUNCTION pg_temp.large(bytes integer) RETURNS jsonb LANGUAGE sql AS $$
	SELECT jsonb_build_object('k', repeat('x', bytes - (pg_column_size(jsonb_build_object('k', '')) - 4)))
$$;
-- What a statement comes to; whatever it does is undone. Ids are not printed.
CREATE FUNCTION pg_temp.outcome(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	told text;
BEGIN
	EXECUTE statement;
	RAISE SQLSTATE 'YYYYY';
EXCEPTION
	WHEN SQLSTATE 'YYYYY' THEN RETURN 'ok';
	WHEN OTHERS THEN
		GET STACKED DIAGNOSTICS told = PG_EXCEPTION_DETAIL;
		RETURN SQLSTATE || ' ' || regexp_replace(left(regexp_replace(SQLERRM, '[^[:ascii:]]+', '...', 'g'), 150), '(step|task|executor|of step) \d+', '\1 N', 'g');
END
$$;
CREATE FUNCTION pg_temp.settle() RETURNS text LANGUAGE sql AS $$
	SELECT CASE WHEN tasker.orchestrate() >= 0 THEN 'settled' END
$$;
-- A statement with a value at the limit, and with one beyond.
CREATE FUNCTION pg_temp.try(what text, statement text, at_limit text, beyond text, OUT "limit" text, OUT at text, OUT one_beyond text) LANGUAGE sql AS $$
	SELECT what, pg_temp.outcome(replace(statement, '@', at_limit)), pg_temp.outcome(replace(statement, '@', beyond))
$$;
-- A template document that differs from a harmless one.
CREATE FUNCTION pg_temp.document(change jsonb DEFAULT '{}', step_change jsonb DEFAULT '{}') RETURNS jsonb LANGUAGE sql AS $$
	SELECT jsonb_build_object('name', 'limits', 'namespace_name', 'limits', 'version', '9.0.0',
		'step_templates', jsonb_build_array('{"name": "a", "handler_class": "H"}'::jsonb || step_change)) || change
$$;

SELECT test.template('limits', 'a; b<-a') > 0 AS registered;
SELECT test.template('limits_fast', 'a', '{"backoff_base_seconds": 0, "default_retry_limit": 10000}') > 0 AS registered;
SELECT test.template('limits_skip', 'a; b', '{"skippable": true}') > 0 AS registered;
SELECT executor_id AS executor FROM tasker.register_executor('limits', '{H}', 0) \gset
SELECT tasker.create_task('limits', '{}', 'test') AS task \gset

\t on
\pset format unaligned

-- ---------- lengths, in characters ----------

SELECT t.* FROM (VALUES
	(1, 'name of a template', $$tasker.register_task_template(pg_temp.document(jsonb_build_object('name', pg_temp.wide(@))))$$, '64', '65'),
	(2, 'name of a namespace', $$tasker.register_task_template(pg_temp.document(jsonb_build_object('namespace_name', pg_temp.wide(@))))$$, '64', '65'),
	(3, 'description of a template', $$tasker.register_task_template(pg_temp.document(jsonb_build_object('description', pg_temp.wide(@))))$$, '10000', '10001'),
	(4, 'task_handler_class', $$tasker.register_task_template(pg_temp.document(jsonb_build_object('task_handler_class', pg_temp.wide(@))))$$, '256', '257'),
	(5, 'module_namespace', $$tasker.register_task_template(pg_temp.document(jsonb_build_object('module_namespace', pg_temp.wide(@))))$$, '256', '257'),
	(6, 'version', $$tasker.register_task_template(pg_temp.document(jsonb_build_object('version', '@.1.1')))$$, '999999999', '1000000000'),
	(7, 'default_dependent_system', $$tasker.register_task_template(pg_temp.document(jsonb_build_object('default_dependent_system', pg_temp.wide(@))))$$, '64', '65'),
	(8, 'name of an environment', $$tasker.register_task_template(pg_temp.document(jsonb_build_object('environments', jsonb_build_object(pg_temp.wide(@), '{}'::jsonb))))$$, '64', '65'),
	(9, 'name of a step', $$tasker.register_task_template(pg_temp.document(step_change => jsonb_build_object('name', pg_temp.wide(@))))$$, '128', '129'),
	(10, 'handler_class', $$tasker.register_task_template(pg_temp.document(step_change => jsonb_build_object('handler_class', pg_temp.wide(@))))$$, '256', '257'),
	(11, 'description of a step', $$tasker.register_task_template(pg_temp.document(step_change => jsonb_build_object('description', pg_temp.wide(@))))$$, '10000', '10001'),
	(12, 'dependent_system', $$tasker.register_task_template(pg_temp.document(step_change => jsonb_build_object('dependent_system', pg_temp.wide(@))))$$, '64', '65'),
	(13, 'name of a custom event', $$tasker.register_task_template(pg_temp.document(step_change => jsonb_build_object('custom_events', jsonb_build_array(jsonb_build_object('name', 'a.' || pg_temp.wide(@ - 2))))))$$, '128', '129'),
	(14, 'initiator', $$tasker.create_task('limits', '{}', 'test', initiator => pg_temp.wide(@))$$, '128', '129'),
	(15, 'source_system', $$tasker.create_task('limits', '{}', 'test', source_system => pg_temp.wide(@))$$, '128', '129'),
	(16, 'reason of a task', $$tasker.create_task('limits', '{}', 'test', reason => pg_temp.wide(@))$$, '128', '129'),
	(17, 'reason of a task, updated', format($$tasker.update_task(%s, reason => pg_temp.wide(@))$$, :task), '128', '129'),
	(18, 'identity key', $$tasker.create_task('limits', '{}', 'test', identity_key => pg_temp.wide(@))$$, '512', '513'),
	(19, 'tag', $$tasker.create_task('limits', '{}', 'test', tags => ARRAY[pg_temp.wide(@)])$$, '512', '513'),
	(20, 'tag of a request', $$tasker.create_tasks(ARRAY[jsonb_build_object('name', 'limits', 'namespace', 'test', 'tags', jsonb_build_array(pg_temp.wide(@)))])$$, '512', '513'),
	(21, 'tag, updated', format($$tasker.update_task(%s, tags => ARRAY[pg_temp.wide(@)])$$, :task), '512', '513'),
	(22, 'reason of a transition', format($$tasker.cancel_task(%s, pg_temp.wide(@))$$, :task), '1000', '1001'),
	(23, 'reason of a re-enqueue', format($$tasker.reenqueue_task(%s, '1 s', pg_temp.wide(@))$$, :task), '128', '129'),
	(24, 'type of an annotation', format($$tasker.annotate_task(%s, pg_temp.wide(@), '{}')$$, :task), '64', '65'),
	(25, 'name of an executor', $$tasker.register_executor(pg_temp.wide(@), '{H}')$$, '128', '129'),
	(26, 'name of a handler', $$tasker.register_executor('x', ARRAY[pg_temp.wide(@)])$$, '256', '257'),
	(27, 'namespace, described', $$tasker.describe_namespace(pg_temp.wide(@), 'd')$$, '64', '65'),
	(28, 'dependent system, described', $$tasker.describe_dependent_system(pg_temp.wide(@), 'd')$$, '64', '65'),
	(29, 'remote id', $$tasker.map_objects('one', pg_temp.wide(@), 'two', '2')$$, '128', '129')
) u(n, what, call, at_limit, beyond), pg_temp.try(what, 'SELECT ' || call, at_limit, beyond) t ORDER BY n;

-- ---------- numbers of things ----------

SELECT t.* FROM (VALUES
	(2, 'custom events of a step', $$tasker.register_task_template(pg_temp.document(step_change => jsonb_build_object('custom_events',
		(SELECT jsonb_agg(jsonb_build_object('name', 'e.' || i)) FROM generate_series(1, @) i))))$$, '1000', '1001'),
	(3, 'environments of a template', $$tasker.register_task_template(pg_temp.document(jsonb_build_object('environments',
		(SELECT jsonb_object_agg('e' || i, '{}'::jsonb) FROM generate_series(1, @) i))))$$, '100', '101'),
	(4, 'tags', $$tasker.create_task('limits', '{}', 'test', tags => ARRAY(SELECT 't' || i FROM generate_series(1, @) i))$$, '1000', '1001'),
	(5, 'tags of a request', $$tasker.create_tasks(ARRAY[jsonb_build_object('name', 'limits', 'namespace', 'test', 'tags',
		(SELECT jsonb_agg('t' || i) FROM generate_series(1, @) i))])$$, '1000', '1001'),
	(6, 'tags, updated', format($$tasker.update_task(%s, tags => ARRAY(SELECT 't' || i FROM generate_series(1, @) i))$$, :task), '1000', '1001'),
	(7, 'handlers of an executor', $$tasker.register_executor('x', ARRAY(SELECT 'limits ' || i FROM generate_series(1, @) i))$$, '1000', '1001'),
	(8, 'capacity of an executor', $$tasker.register_executor('x', '{H}', @)$$, '10000', '10001'),
	(9, 'steps of a claim', format($$tasker.claim_steps(%s, @)$$, :executor), '10000', '10001'),
	(10, 'steps of a report', format($$tasker.complete_steps(array_fill(%s::bigint, ARRAY[@]), array_fill(10, ARRAY[@]), skip_stale => true)$$, test.step(:task, 'a')), '100000', '100001'),
	(13, 'tasks found', $$count(*) FROM tasker.find_tasks(max_tasks => @)$$, '1000', '1001'),
	(14, 'bypassed steps', $$tasker.create_task('limits_skip', '{}', 'test', bypass_steps => array_fill('a'::text, ARRAY[@]))$$, '2', '3')
) u(n, what, call, at_limit, beyond), pg_temp.try(what, 'SELECT ' || call, at_limit, beyond) t ORDER BY n;
-- What is large at the limit is tried beyond it only; test/t/011_sizes.pl has a template of 100,000 steps.
SELECT pg_temp.outcome($$SELECT tasker.register_task_template(jsonb_build_object('name', 'x', 'step_templates',
	(SELECT jsonb_agg(jsonb_build_object('name', 's' || i, 'handler_class', 'H')) FROM generate_series(1, 100001) i)))$$);
SELECT pg_temp.outcome($$SELECT count(*) FROM tasker.create_tasks(array_fill('{"name": "limits", "namespace": "test"}'::jsonb, ARRAY[1000001]))$$);
SELECT pg_temp.outcome($$SELECT tasker.fail_steps(array_fill(1::bigint, ARRAY[100001]), array_fill(10, ARRAY[100001]), array_fill('e'::text, ARRAY[100001]))$$);
SELECT pg_temp.outcome($$SELECT tasker.release_steps(array_fill(1::bigint, ARRAY[100001]), array_fill(10, ARRAY[100001]))$$);
-- 1,415 steps that all depend on each other have 1,000,405 dependencies
SELECT pg_temp.outcome($$SELECT tasker.register_task_template(jsonb_build_object('name', 'x', 'step_templates',
	(SELECT jsonb_agg(jsonb_build_object('name', i::text, 'handler_class', 'H') || CASE WHEN i = 1 THEN '{}' ELSE
		jsonb_build_object('depends_on_steps', (SELECT jsonb_agg(p::text) FROM generate_series(1, i - 1) p)) END) FROM generate_series(1, 1415) i)))$$);

-- ---------- numbers ----------

SELECT t.* FROM (VALUES
	(1, 'priority of a task', $$tasker.create_task('limits', '{}', 'test', priority => @)$$, '10000', '10001'),
	(2, 'priority of a task, lowest', $$tasker.create_task('limits', '{}', 'test', priority => @)$$, '-10000', '-10001'),
	(3, 'priority of a step', $$tasker.register_task_template(pg_temp.document(step_change => '{"priority": @}'))$$, '1000', '1001'),
	(4, 'retry limit', $$tasker.register_task_template(pg_temp.document(step_change => '{"default_retry_limit": @}'))$$, '10000', '10001'),
	(5, 'retry limit, lowest', $$tasker.register_task_template(pg_temp.document(step_change => '{"default_retry_limit": @}'))$$, '0', '-1'),
	(6, 'retry limit, updated', format($$tasker.update_step(%s, retry_limit => @)$$, test.step(:task, 'a')), '10000', '10001'),
	(7, 'timeout', $$tasker.register_task_template(pg_temp.document(step_change => '{"timeout_seconds": @}'))$$, '31536000', '31536001'),
	(8, 'timeout, lowest', $$tasker.register_task_template(pg_temp.document(step_change => '{"timeout_seconds": @}'))$$, '1', '0'),
	(9, 'backoff', $$tasker.register_task_template(pg_temp.document(step_change => '{"backoff_base_seconds": @}'))$$, '31536000', '31536000.1'),
	(10, 'cap of a backoff', $$tasker.register_task_template(pg_temp.document(step_change => '{"backoff_cap_seconds": @}'))$$, '31536000', '31536000.1'),
	(11, 'jitter', $$tasker.register_task_template(pg_temp.document(step_change => '{"backoff_jitter": @}'))$$, '1', '1.01'),
	(12, 'attempts of a backoff', $$tasker.backoff_seconds(@)$$, '2147483647', '0'),
	(13, 'delay of a re-enqueue', format($$tasker.reenqueue_task(%s, '@ seconds')$$, :task), '315360000', '315360001'),
	(14, 'lease of an executor', $$tasker.register_executor('x', '{H}', 0, true, '@')$$, '365 days', '365 days 1 microsecond'),
	-- what overflows an integer of microseconds and comes out positive
	(15, 'lease of an executor, far beyond', $$tasker.register_executor('x', '{H}', 0, true, '@')$$, '364 days', '300000000 days'),
	(16, 'lease of an executor, shortest', $$tasker.register_executor('x', '{H}', 0, true, '@')$$, '100 ms', '99.999 ms'),
	(17, 'retention of a round of upkeep', $$tasker.upkeep('@ s')$$, '2147483647', '2147483648'),
	(18, 'tasks of a round of upkeep', $$tasker.upkeep('10 years', @)$$, '2147483647', '0'),
	(19, 'paths', format($$tasker.critical_paths(%s, @)$$, :task), '100', '101')
) u(n, what, call, at_limit, beyond), pg_temp.try(what, 'SELECT ' || call, at_limit, beyond) t ORDER BY n;

-- ---------- times ----------

SELECT t.* FROM (VALUES
	(1, 'requested_at, latest', $$tasker.create_task('limits', '{}', 'test', requested_at => '@')$$, '294276-12-31 23:59:59.999999+00', 'infinity'),
	(2, 'requested_at, earliest', $$tasker.create_task('limits', '{}', 'test', requested_at => '@')$$, '4713-01-01 00:00:00+00 BC', '-infinity'),
	(3, 'requested_at of a request', $$tasker.create_tasks(ARRAY['{"name": "limits", "namespace": "test", "requested_at": "@"}'::jsonb])$$, '294276-12-31 23:59:59.999999+00', '294277-01-01 00:00:00+00')
) u(n, what, call, at_limit, beyond), pg_temp.try(what, 'SELECT ' || call, at_limit, beyond) t ORDER BY n;
-- a bound may be infinite: all, or none
SELECT pg_temp.outcome(format('SELECT %s', call)) FROM unnest(ARRAY[
	$$count(*) FROM tasker.find_tasks(requested_from => '-infinity', requested_before => 'infinity')$$,
	$$count(*) FROM tasker.slowest_steps('infinity')$$, $$count(*) FROM tasker.slowest_steps('-infinity')$$,
	$$count(*) FROM tasker.analytics_metrics('-infinity')$$,
	$$tasker.prune_tasks('-infinity')$$, $$tasker.prune_tasks('infinity')$$]) WITH ORDINALITY u(call, n) ORDER BY n;

-- ---------- sizes, in bytes of jsonb ----------

SELECT t.* FROM (VALUES
	(1, 'context', $$tasker.create_task('limits', pg_temp.large(@), 'test')$$, '67108864', '67108865'),
	(2, 'metadata of a transition', format($$tasker.transition_step(%s, 'cancelled', pg_temp.large(@))$$, test.step(:task, 'a')), '1048576', '1048577')
) u(n, what, call, at_limit, beyond), pg_temp.try(what, 'SELECT ' || call, at_limit, beyond) t ORDER BY n;

SELECT pg_temp.outcome($$SELECT tasker.create_tasks(ARRAY[jsonb_build_object('name', 'limits', 'namespace', 'test', 'context', pg_temp.large(67108865))])$$);
SELECT pg_temp.outcome(format($$SELECT tasker.update_step(%s, inputs => pg_temp.large(67108865))$$, test.step(:task, 'b')));

-- Results, and what those of a step's parents come to together.
SELECT test.template('limits_wide', 'a; b; c<-a,b') > 0 AS registered;
SELECT tasker.create_task('limits_wide', '{}', 'test') AS wide \gset
SELECT tasker.cancel_task(:task, pg_temp.wide(1000));
SELECT pg_temp.settle();
SELECT step_name FROM tasker.claim_steps(:executor, 10) WHERE task_id = :wide ORDER BY 1;
SELECT pg_temp.outcome(format('SELECT tasker.complete_step(%s, %s, pg_temp.large(67108865))', test.step(:wide, 'a'), test.claim(:wide, 'a')));
SELECT pg_temp.outcome(format('SELECT tasker.complete_steps(ARRAY[%s], ARRAY[%s], ARRAY[pg_temp.large(67108865)])', test.step(:wide, 'a'), test.claim(:wide, 'a')));
SELECT tasker.complete_step(test.step(:wide, 'a'), test.claim(:wide, 'a'), pg_temp.large(67108864));
SELECT tasker.complete_step(test.step(:wide, 'b'), test.claim(:wide, 'b'), '{"x": 1}');
SELECT pg_temp.settle();
-- too much to be handed over at once is left out; the executor asks for it
SELECT step_name, dependency_results IS NULL AS left_out FROM tasker.claim_steps(:executor);
SELECT step_name, pg_column_size(results) > 500000 AS large FROM tasker.step_transitive_dependencies(test.step(:wide, 'c')) ORDER BY 1;
SELECT tasker.complete_step(test.step(:wide, 'c'), test.claim(:wide, 'c'));

-- A SQL handler whose results are too large has failed, for good.
CREATE FUNCTION test.too_much(step tasker.claimed_step) RETURNS jsonb LANGUAGE sql AS $$ SELECT jsonb_build_object('k', repeat('x', 67108864)) $$;
SELECT test.template('limits_sql', 'a', '{"handler_class": "test.too_much"}') > 0 AS registered;
SELECT tasker.create_task('limits_sql', '{}', 'test') AS sql \gset
SELECT state, step_runs, failed_runs FROM tasker.coordinate_task(:sql);
SELECT l.metadata ->> 'error_message', l.metadata ->> 'error_class' FROM tasker.workflow_step_transition_log l
WHERE l.workflow_step_id = test.step(:sql, 'a') AND l.to_state = 'error';

-- ---------- a step that has been tried for ever ----------

-- All of it is rolled back: the log of its two hundred million transitions is spared us.
BEGIN;
SELECT tasker.create_task('limits', '{}', 'test') AS worn \gset
SELECT pg_temp.settle();
CREATE FUNCTION test.wear(step bigint, sort_key integer) RETURNS void LANGUAGE sql AS $$
	UPDATE tasker.workflow_steps s SET sort_key = wear.sort_key WHERE workflow_step_id = step;
	INSERT INTO tasker.workflow_step_transition_log (workflow_step_id, sort_key, from_state, to_state, created_at, role)
	VALUES (step, sort_key, 'in_progress', 'pending', now(), 'nobody')
$$;
SELECT test.wear(test.step(:worn, 'a'), 2147480000);
SELECT claim FROM tasker.claim_steps(:executor);
SELECT tasker.release_step(test.step(:worn, 'a'), 2147480010);
SELECT pg_temp.settle();
-- no claim is given any more, by nobody and to nobody, and others are served
SELECT tasker.create_task('limits_fast', '{}', 'test') AS other \gset
SELECT pg_temp.settle();
SELECT task_id = :other AS other_is_served FROM tasker.claim_steps(:executor, 10);
SELECT pg_temp.outcome(format('SELECT tasker.transition_step(%s, ''in_progress'')', test.step(:worn, 'a')));
SELECT count(*) FROM tasker.claim_step(:executor, test.step(:worn, 'a'));
-- it can be settled, and its task goes on
SELECT tasker.resolve_step(test.step(:worn, 'a'), 'worn out');
SELECT pg_temp.settle();
SELECT step_name FROM tasker.claim_steps(:executor, 10);
SELECT tasker.complete_step(test.step(:worn, 'b'), test.claim(:worn, 'b'));
SELECT tasker.complete_step(test.step(:other, 'a'), test.claim(:other, 'a'));
SELECT pg_temp.settle();
SELECT tasker.task_state(:worn), tasker.task_state(:other);

-- The last number of all, of a step and of a task, both ways of writing.
SELECT tasker.create_task('limits', '{}', 'test') AS last \gset
SELECT test.wear(test.step(:last, 'a'), 2147483640);
UPDATE tasker.tasks SET sort_key = 2147483640 WHERE task_id = :last;
SELECT pg_temp.outcome(format('SELECT tasker.cancel_step(%s)', test.step(:last, 'a')));
SELECT pg_temp.outcome(format('SELECT tasker.transition_task(%s, ''in_progress'')', :last));
SET tasker.direct_writes = off;
SELECT pg_temp.outcome(format('SELECT tasker.cancel_step(%s)', test.step(:last, 'a')));
SELECT count(*) FROM tasker.claim_step(:executor, test.step(:last, 'a'));
RESET tasker.direct_writes;
ROLLBACK;
