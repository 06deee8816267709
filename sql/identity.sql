-- Which requests mean the same task: strategies of templates.

SET TimeZone = 'UTC';
SET DateStyle = 'ISO';

-- Registers a template with two steps and an identity_strategy in namespace "identity".
CREATE FUNCTION pg_temp.register(name text, strategy text, version text DEFAULT '1.0.0') RETURNS boolean LANGUAGE sql AS $$
	SELECT tasker.register_task_template(jsonb_build_object('name', name, 'namespace_name', 'identity', 'version', version, 'identity_strategy', strategy,
		'step_templates', '[{"name": "a", "handler_class": "H", "skippable": true}, {"name": "b", "handler_class": "H", "skippable": true}]'::jsonb)) > 0
$$;
-- Creates a task and says which one it is, counted from 1 in each block.
CREATE TEMP TABLE known (place serial, task_id bigint UNIQUE);
CREATE FUNCTION pg_temp.nth(task bigint) RETURNS integer LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO known (task_id) SELECT task WHERE NOT EXISTS (SELECT FROM known k WHERE k.task_id = task);
	RETURN (SELECT place FROM known k WHERE k.task_id = task);
END
$$;
CREATE FUNCTION pg_temp.outcome(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	result text;
BEGIN
	EXECUTE query INTO result;
	RETURN result;
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE || ' ' || regexp_replace(SQLERRM, '\d+ of', 'N of');
END
$$;
SELECT pg_temp.register('none', 'default') AND pg_temp.register('hash', 'hash') AND pg_temp.register('hash 2', 'hash') AS registered;

-- ---------- default ----------

-- Equal requests are different tasks, unless they say the same key.
SELECT pg_temp.nth(tasker.create_task('none', namespace => 'identity')), pg_temp.nth(tasker.create_task('none', namespace => 'identity'));
SELECT pg_temp.nth(tasker.create_task('none', namespace => 'identity', identity_key => 'k')), pg_temp.nth(tasker.create_task('none', namespace => 'identity', identity_key => 'k'));

-- ---------- hash ----------

TRUNCATE known RESTART IDENTITY;
-- All that makes a request: a second one like it is the first task.
CREATE FUNCTION pg_temp.create(changed jsonb DEFAULT '{}') RETURNS integer LANGUAGE sql AS $$
	SELECT pg_temp.nth(id) FROM tasker.create_tasks(ARRAY['{"name": "hash", "namespace": "identity", "context": {"a": 1, "b": {"c": [1, 2], "d": null}},
		"initiator": "i", "source_system": "s", "reason": "r", "bypass_steps": ["a", "b"], "requested_at": "2026-05-01 12:00:30Z"}'::jsonb || changed]) id
$$;
SELECT pg_temp.create() AS first, pg_temp.create() AS again;
SELECT identity_key ~ '^[0-9a-f]{64}$' AS is_sha256, requested_at FROM tasker.tasks WHERE task_id = (SELECT task_id FROM known);
-- What is written otherwise, what is no part of it, and what is.
SELECT changed, pg_temp.create(changed) AS task FROM (VALUES
	('{"context": {"b": {"d": null, "c": [1, 2]}, "a": 1}}'::jsonb), ('{"bypass_steps": ["b", "a", "b"]}'), ('{"tags": ["x"]}'), ('{"priority": 7}'),
	('{"requested_at": "2026-05-01 14:00:59.999999+02"}'),
	('{"context": {}}'), ('{"context": {"a": 2}}'), ('{"bypass_steps": ["a"]}'), ('{"initiator": "I"}'), ('{"source_system": ""}'), ('{"reason": "s"}'), ('{"version": "1.0.0"}'),
	('{"name": "hash 2"}')) v (changed);
-- A later version takes the same request for the same, though it would do something else.
SELECT pg_temp.register('hash', 'hash', '1.1.0') AS registered;
SELECT pg_temp.create() AS first;
-- A key that is given wins.
SELECT pg_temp.create('{"identity_key": "mine"}') AS given, pg_temp.create('{"identity_key": "mine", "context": {}}') AS given_again;
SELECT identity_key FROM tasker.tasks WHERE task_id = (SELECT max(task_id) FROM known);

-- Less than a minute apart is the same task, whatever the clock on the wall says.
TRUNCATE known RESTART IDENTITY;
SELECT at, pg_temp.create(jsonb_build_object('requested_at', at)) AS task FROM unnest(ARRAY['2026-06-01 12:00:59Z', '2026-06-01 12:01:00Z', '2026-06-01 12:01:58.999999Z',
	'2026-06-01 12:01:59Z', '2026-06-01 12:00:00Z', '2026-06-01 11:59:59.5Z', '2026-06-01 11:59:59Z', '1999-12-31 23:59:59Z', '2000-01-01 00:00:58Z', '1969-12-31 23:59:30Z', '1970-01-01 00:00:29Z']) at;
-- Also where requests come together.
TRUNCATE known RESTART IDENTITY;
SELECT array_agg(pg_temp.nth(id) ORDER BY n) AS tasks FROM tasker.create_tasks(ARRAY(
	SELECT jsonb_build_object('name', 'hash', 'namespace', 'identity', 'context', '{"together": true}'::jsonb, 'requested_at', timestamptz '2026-07-01 12:00:50Z' + s * interval '10 s')
	FROM generate_series(0, 12) s)) WITH ORDINALITY r (id, n);
SELECT count(*) AS tasks, array_agg(requested_at ORDER BY requested_at) FROM tasker.tasks WHERE context = '{"together": true}';
-- Without requested_at it is now that counts.
TRUNCATE known RESTART IDENTITY;
SELECT pg_temp.nth(tasker.create_task('hash', '{"now": true}', 'identity')) AS task;
SET tasker.clock_offset = '59s';
SELECT pg_temp.nth(tasker.create_task('hash', '{"now": true}', 'identity')) AS task;
SET tasker.clock_offset = '119s';
SELECT pg_temp.nth(tasker.create_task('hash', '{"now": true}', 'identity')) AS task;
RESET tasker.clock_offset;
-- An ended task is still the task of its request.
SELECT tasker.cancel_task(task_id) FROM known WHERE place = 2;
SET tasker.clock_offset = '119s';
SELECT pg_temp.nth(tasker.create_task('hash', '{"now": true}', 'identity')) AS task;
RESET tasker.clock_offset;

-- ---------- functions ----------

TRUNCATE known RESTART IDENTITY;
CREATE SCHEMA identity_test;
CREATE FUNCTION identity_test.by_order(request jsonb) RETURNS text LANGUAGE sql AS $$ SELECT 'order ' || (request->'context'->>'order') $$;
CREATE FUNCTION identity_test.all_of_it(request jsonb) RETURNS text LANGUAGE sql AS $$ SELECT request::text $$;
CREATE FUNCTION identity_test.bad(request jsonb) RETURNS text LANGUAGE sql AS $$ SELECT repeat('é', (request->'context'->>'length')::integer) $$;
CREATE FUNCTION identity_test.failing(request jsonb) RETURNS text LANGUAGE sql AS $$ SELECT (1 / 0)::text $$;
SELECT pg_temp.register('by order', 'identity_test.by_order') AND pg_temp.register('all', 'identity_test.all_of_it')
	AND pg_temp.register('bad', 'identity_test.bad') AND pg_temp.register('failing', 'identity_test.failing') AS registered;
-- One key, one task; no key, no identity.
SELECT context, pg_temp.nth(tasker.create_task('by order', context, 'identity')) AS task FROM (VALUES
	('{"order": 1}'::jsonb), ('{"order": 2}'), ('{"order": 1, "more": true}'), ('{}'), ('{}')) v (context);
SELECT array_agg(pg_temp.nth(id) ORDER BY n) AS tasks FROM tasker.create_tasks(ARRAY['{"name": "by order", "namespace": "identity", "context": {"order": 3}}',
	'{"name": "by order", "namespace": "identity", "context": {"order": 3}}', '{"name": "by order", "namespace": "identity", "context": {"order": 1}}',
	'{"name": "by order", "namespace": "identity", "context": {"order": 3}, "identity_key": "order 2"}']::jsonb[]) WITH ORDINALITY r (id, n);
-- It is told the request with what holds where it says nothing.
SELECT tasker.create_task('all', '{"o": "é\"\\"}', 'identity', tags => '{x,"y\"z"}', bypass_steps => '{b}', priority => -3, requested_at => '2026-01-02 03:04:05.678+00') AS task \gset
SELECT identity_key::jsonb FROM tasker.tasks WHERE task_id = :task;
-- Keys that are none, and errors, are those of the creation: nothing is created.
SELECT length, left(pg_temp.outcome(format('SELECT tasker.create_task(''bad'', ''{"length": %s}'', ''identity'') > 0', length)), 90) AS outcome FROM unnest(ARRAY[0, 1, 512, 513]) length;
SELECT pg_temp.outcome($$SELECT tasker.create_task('failing', namespace => 'identity')$$);
SELECT count(*) AS tasks FROM tasker.tasks t JOIN tasker.named_tasks n USING (named_task_id) WHERE n.name = 'failing';
-- A key of another template of the namespace is refused, as one that was given.
SELECT pg_temp.outcome($$SELECT tasker.create_task('by order', '{"order": 4}', 'identity') > 0$$);
SELECT pg_temp.outcome($$SELECT tasker.create_task('none', namespace => 'identity', identity_key => 'order 4')$$);

-- ---------- looking it up ----------

SELECT tasker.find_task('order 1', 'identity') = (SELECT task_id FROM known WHERE place = 1) AS found, tasker.find_task('order 1') AS elsewhere, tasker.find_task('none such', 'identity') AS unknown;
BEGIN;
SELECT tasker.create_task('by order', '{"order": 1}', 'identity') AS old, tasker.create_task('by order', '{"order": 5}', 'identity') AS new \gset
SAVEPOINT s;
SELECT tasker.create_task('by order', '{"order": 6}', 'identity') AS newer \gset
SELECT tasker.task_is_new(:old) AS old, tasker.task_is_new(:new) AS new, tasker.task_is_new(:newer) AS newer, tasker.task_is_new(-1) AS unknown;
COMMIT;
SELECT tasker.task_is_new(:new) AS new;
-- For those who may create tasks and nothing else.
CREATE ROLE regress_tasker_identity;
GRANT USAGE ON SCHEMA tasker TO regress_tasker_identity;
GRANT EXECUTE ON FUNCTION tasker.create_task, tasker.find_task, tasker.task_is_new TO regress_tasker_identity;
SET ROLE regress_tasker_identity;
SELECT tasker.find_task('order 5', 'identity') = :new AS found, tasker.task_is_new(tasker.create_task('by order', '{"order": 5}', 'identity')) AS new;
RESET ROLE;
DROP OWNED BY regress_tasker_identity;
DROP ROLE regress_tasker_identity;

SELECT count(tasker.cancel_task(task_id)) > 0 AS cancelled FROM tasker.tasks t JOIN tasker.task_namespaces s USING (task_namespace_id)
WHERE s.name = 'identity' AND state IN ('pending', 'in_progress');
SELECT tasker.orchestrate() IS NOT NULL AS done;
SELECT * FROM tasker.check();
