-- Task templates: what may be registered, what is refused and how it is said,
-- versions, replacement, and what a session remembers of them.

-- ---------- everything a template can say ----------

SELECT tasker.register_task_template($${
	"name": "order_fulfilment",
	"namespace_name": "shop",
	"version": "2.13.0",
	"description": "From the cart to the door",
	"task_handler_class": "OrderFulfilment",
	"module_namespace": "Shop",
	"concurrent": true,
	"default_dependent_system": "warehouse",
	"named_steps": ["validate", "charge", "pack", "send", "never_used"],
	"schema": {"type": "object"},
	"environments": {"test": {}},
	"step_templates": [
		{"name": "send", "handler_class": "Send", "depends_on_steps": ["pack", "charge", "pack"], "depends_on_step": "charge"},
		{"name": "pack", "handler_class": "Pack", "depends_on_step": "validate"},
		{"name": "charge", "handler_class": "Charge", "description": "Take the money", "dependent_system": "bank",
			"depends_on_steps": ["validate"], "default_retryable": false, "default_retry_limit": 0, "skippable": true,
			"handler_config": {"url": "https://bank.example", "params": [1, {"a": null}]},
			"custom_events": [{"name": "payment.charged"}], "priority": -7, "timeout_seconds": 20,
			"backoff_base_seconds": 0.5, "backoff_cap_seconds": 60, "backoff_jitter": 0.25},
		{"name": "validate", "handler_class": "Validate"}
	]
}$$) IS NOT NULL AS registered;

CREATE VIEW pg_temp.templates AS
SELECT s.name AS namespace, t.name, t.version, t.version_numbers, t.revision, t.description,
	t.deprecated_at IS NOT NULL AS deprecated, t.named_task_id
FROM tasker.named_tasks t JOIN tasker.task_namespaces s USING (task_namespace_id);

CREATE VIEW pg_temp.template_steps AS
SELECT t.name AS template, t.version, ts.position, s.name AS step, d.name AS system, h.name AS handler, s.description,
	ts.default_retryable AS retryable, ts.default_retry_limit AS "limit", ts.skippable, ts.priority, ts.timeout_seconds AS timeout,
	ts.backoff_base_seconds AS base, ts.backoff_cap_seconds AS cap, ts.backoff_jitter AS jitter, ts.handler_config AS config,
	ARRAY(SELECT p.name FROM tasker.named_step_edges e JOIN tasker.named_steps p ON p.named_step_id = e.from_named_step_id
		WHERE e.named_task_id = t.named_task_id AND e.to_named_step_id = ts.named_step_id ORDER BY 1) AS parents
FROM tasker.named_tasks_named_steps ts
JOIN tasker.named_tasks t USING (named_task_id)
JOIN tasker.named_steps s USING (named_step_id)
JOIN tasker.dependent_systems d USING (dependent_system_id)
JOIN tasker.handlers h USING (handler_id);

\x on
SELECT namespace, name, version, version_numbers, revision, description, deprecated FROM pg_temp.templates WHERE namespace = 'shop';
SELECT * FROM pg_temp.template_steps WHERE template = 'order_fulfilment' ORDER BY position;

-- The least a template can say, and what stands for the rest.
SELECT tasker.register_task_template($${
	"name": "minimal", "step_templates": [{"name": "only", "handler_class": "H"}]}$$) IS NOT NULL AS registered;
SELECT namespace, name, version, version_numbers, revision, description, deprecated FROM pg_temp.templates WHERE name = 'minimal';
SELECT * FROM pg_temp.template_steps WHERE template = 'minimal';
\x off
SELECT configuration FROM tasker.named_tasks WHERE name = 'minimal';

-- No template, no answer.
SELECT tasker.register_task_template(NULL) IS NULL AS nothing;

-- The limits themselves are legal.
SET client_min_messages = error;
SELECT tasker.register_task_template(jsonb_build_object(
	'name', repeat('n', 64), 'namespace_name', repeat('🚀', 64), 'version', '999999999.999999999.999999999',
	'description', '', 'task_handler_class', '', 'step_templates', jsonb_build_array(
		jsonb_build_object('name', repeat('é', 128), 'handler_class', repeat('h', 256), 'dependent_system', repeat('d', 64),
			'default_retry_limit', 10000, 'priority', 1000, 'timeout_seconds', 31536000, 'backoff_base_seconds', 31536000,
			'backoff_cap_seconds', 0, 'backoff_jitter', 1, 'handler_config', '{}'::jsonb, 'custom_events', '[]'::jsonb),
		jsonb_build_object('name', 's', 'handler_class', 'h', 'depends_on_steps', '[]'::jsonb, 'default_retry_limit', 0,
			'priority', -1000, 'timeout_seconds', 1.0, 'backoff_base_seconds', 0, 'backoff_jitter', 0))))
	IS NOT NULL AS registered;
RESET client_min_messages;
SELECT tasker.create_task(repeat('n', 64), namespace => repeat('🚀', 64), version => '999999999.999999999.999999999') IS NOT NULL AS created;

-- ---------- what is refused ----------

-- Registers a template and takes that back; says what came of it.
CREATE FUNCTION pg_temp.complaint(template jsonb) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	PERFORM tasker.register_task_template(template);
	RAISE EXCEPTION USING ERRCODE = 'XX999', MESSAGE = 'registered';
EXCEPTION WHEN OTHERS THEN
	RETURN CASE SQLSTATE WHEN 'XX999' THEN SQLERRM ELSE SQLSTATE || ' ' || SQLERRM END;
END
$$;

-- A valid template with some keys, and with some keys of its second step.
CREATE FUNCTION pg_temp.with_keys(keys jsonb, step_keys jsonb DEFAULT '{}') RETURNS jsonb LANGUAGE sql AS $$
	SELECT jsonb_build_object('name', 't', 'namespace_name', 'n', 'version', '1.0.0', 'step_templates', jsonb_build_array(
		'{"name": "a", "handler_class": "H"}'::jsonb,
		'{"name": "b", "handler_class": "H", "depends_on_step": "a"}'::jsonb || step_keys)) || keys
$$;

SET client_min_messages = error;

-- Which types each key takes. A key that says who depends on whom may pass the
-- check of types and fail later.
SELECT key,
	pg_temp.complaint(pg_temp.with_keys(jsonb_build_object(key, 'a'))) ~ 'must be' AS string,
	pg_temp.complaint(pg_temp.with_keys(jsonb_build_object(key, 1))) ~ 'must be' AS number,
	pg_temp.complaint(pg_temp.with_keys(jsonb_build_object(key, true))) ~ 'must be' AS boolean,
	pg_temp.complaint(pg_temp.with_keys(jsonb_build_object(key, '{}'::jsonb))) ~ 'must be' AS object,
	pg_temp.complaint(pg_temp.with_keys(jsonb_build_object(key, '["a"]'::jsonb))) ~ 'must be' AS strings,
	pg_temp.complaint(pg_temp.with_keys(jsonb_build_object(key, '[1]'::jsonb))) ~ 'must be' AS numbers,
	pg_temp.complaint(pg_temp.with_keys(jsonb_build_object(key, NULL))) ~ 'must be' AS null
FROM unnest('{name,namespace_name,version,description,task_handler_class,module_namespace,concurrent,
	default_dependent_system,named_steps,schema,environments,step_templates}'::text[]) key;

SELECT key,
	pg_temp.complaint(pg_temp.with_keys('{}', jsonb_build_object(key, 'a'))) ~ 'must be' AS string,
	pg_temp.complaint(pg_temp.with_keys('{}', jsonb_build_object(key, 1))) ~ 'must be' AS number,
	pg_temp.complaint(pg_temp.with_keys('{}', jsonb_build_object(key, true))) ~ 'must be' AS boolean,
	pg_temp.complaint(pg_temp.with_keys('{}', jsonb_build_object(key, '{}'::jsonb))) ~ 'must be' AS object,
	pg_temp.complaint(pg_temp.with_keys('{}', jsonb_build_object(key, '["a"]'::jsonb))) ~ 'must be' AS strings,
	pg_temp.complaint(pg_temp.with_keys('{}', jsonb_build_object(key, '[1]'::jsonb))) ~ 'must be' AS numbers,
	pg_temp.complaint(pg_temp.with_keys('{}', jsonb_build_object(key, NULL))) ~ 'must be' AS null
FROM unnest('{handler_class,description,dependent_system,depends_on_step,depends_on_steps,default_retryable,
	default_retry_limit,skippable,handler_config,custom_events,priority,timeout_seconds,backoff_base_seconds,
	backoff_cap_seconds,backoff_jitter}'::text[]) key;

\pset format unaligned
\pset tuples_only on

-- The template as a whole.
SELECT pg_temp.complaint(t::jsonb) FROM (VALUES
	('[]'), ('"template"'), ('1'), ('null'),
	('{}'),
	('{"name": 1, "step_templates": []}'),
	('{"name": null}'),
	('{"name": "t"}'),
	('{"name": "t", "step_templates": {}}'),
	('{"name": "t", "step_templates": []}'),
	('{"name": "t", "namespace_name": "n", "version": "3.0.0", "step_templates": []}'),
	('{"name": "t", "step_templates": [1]}'),
	('{"name": "t", "step_templates": [{"name": "a", "handler_class": "H"}, []]}'),
	('{"name": "t", "step_templates": [{"handler_class": "H"}]}'),
	('{"name": "t", "step_templates": [{"name": 1, "handler_class": "H"}]}'),
	('{"name": "t", "step_templates": [{"name": "a"}]}')) v (t);

-- One message for each type, at both levels.
SELECT pg_temp.complaint(pg_temp.with_keys(t::jsonb)) FROM (VALUES
	('{"description": 5}'), ('{"concurrent": "yes"}'), ('{"named_steps": "a"}'), ('{"named_steps": ["a", 2]}'),
	('{"schema": []}'), ('{"step_templates": "a"}'),
	('{"backoff_strategy": "slow"}'), ('{"identity_strategy": "app.nobody"}'), ('{"coordinator_strategy": "a.b.c"}'),
	('{"steps": []}'), ('{"Name": "t"}'), ('{"": 1}'),
	('{"name": ""}'), ('{"namespace_name": ""}'), ('{"default_dependent_system": ""}')) v (t);
SELECT pg_temp.complaint(pg_temp.with_keys('{}', s::jsonb)) FROM (VALUES
	('{"handler_class": 5}'), ('{"default_retryable": 1}'), ('{"depends_on_steps": "a"}'), ('{"depends_on_steps": ["a", null]}'),
	('{"handler_config": []}'), ('{"custom_events": {}}'), ('{"priority": "high"}'),
	('{"depend_on_step": "a"}'), ('{"retry_limit": 1}'), ('{"depends_on": ["a"]}'),
	('{"name": ""}'), ('{"handler_class": ""}'), ('{"dependent_system": ""}'), ('{"depends_on_step": ""}'), ('{"depends_on_steps": [""]}')) v (s);

-- Numbers out of range or in fractions, however large.
SELECT pg_temp.complaint(pg_temp.with_keys('{}', s::jsonb)) FROM (VALUES
	('{"default_retry_limit": -1}'), ('{"default_retry_limit": 10001}'), ('{"default_retry_limit": 2.5}'),
	('{"priority": -1001}'), ('{"priority": 1001}'), ('{"priority": 0.1}'), ('{"priority": 1e400}'),
	('{"timeout_seconds": 0}'), ('{"timeout_seconds": -5}'), ('{"timeout_seconds": 31536001}'), ('{"timeout_seconds": 1.5}'),
	('{"backoff_base_seconds": -0.1}'), ('{"backoff_base_seconds": 1e9}'),
	('{"backoff_cap_seconds": -1}'), ('{"backoff_cap_seconds": 1e9}'),
	('{"backoff_jitter": -0.01}'), ('{"backoff_jitter": 1.01}')) v (s);

-- Names that are too long, counted in characters.
SELECT pg_temp.complaint(pg_temp.with_keys(jsonb_build_object(key, repeat('x', n))))
FROM (VALUES ('namespace_name', 65), ('version', 33), ('description', 10001), ('task_handler_class', 257),
	('module_namespace', 257), ('default_dependent_system', 65)) v (key, n);
SELECT replace(pg_temp.complaint(pg_temp.with_keys(jsonb_build_object('name', repeat('é', 65)))), repeat('é', 65), 'é x 65');
SELECT replace(pg_temp.complaint(pg_temp.with_keys('{}', jsonb_build_object('name', repeat('é', 129)))), repeat('é', 129), 'é x 129');
SELECT pg_temp.complaint(pg_temp.with_keys('{}', jsonb_build_object(key, repeat('x', n))))
FROM (VALUES ('handler_class', 257), ('description', 10001), ('dependent_system', 65), ('depends_on_step', 129)) v (key, n);

-- Versions that are not three numbers.
SELECT pg_temp.complaint(pg_temp.with_keys(jsonb_build_object('version', version)))
FROM unnest(ARRAY['', '1', '1.0', '1.0.0.0', '1..0', '.1.0', '1.0.', 'v1.0.0', '1.0.0-beta', ' 1.0.0', '1.0.0 ', '-1.0.0', '01.0.0', '1.00.0', '1,0,0',
	'latest', '1.0.x', '١.٠.٠', '1.0.1234567890', '1234567890.0.0', E'1.0.0\n']) version;

-- Dependencies.
SELECT pg_temp.complaint(pg_temp.with_keys(jsonb_build_object('step_templates', jsonb_build_array(
	'{"name": "a", "handler_class": "H"}'::jsonb, '{"name": "b", "handler_class": "H"}' || b::jsonb,
	'{"name": "c", "handler_class": "H"}' || c::jsonb, '{"name": "d", "handler_class": "H"}' || d::jsonb))))
FROM (VALUES
	('{"depends_on_step": "x"}', '{}', '{}'),
	('{"depends_on_steps": ["a", "A"]}', '{}', '{}'),
	('{"depends_on_steps": ["a", "a "]}', '{}', '{}'),
	('{}', '{"depends_on_step": "c"}', '{}'),
	('{}', '{"depends_on_steps": ["a", "c"]}', '{}'),
	('{}', '{"name": "a"}', '{}'),
	('{}', '{}', '{"name": "b", "dependent_system": "another"}'),
	('{"depends_on_step": "c"}', '{"depends_on_step": "b"}', '{}'),
	('{"depends_on_steps": ["a", "d"]}', '{"depends_on_step": "b"}', '{"depends_on_step": "c"}'),
	('{"depends_on_step": "a"}', '{"depends_on_step": "b"}', '{"depends_on_steps": ["a", "b", "c"], "depends_on_step": "b"}')) v (b, c, d);
-- The step named is on the circle, even where most steps only hang on it.
SELECT pg_temp.complaint(pg_temp.with_keys(jsonb_build_object('step_templates',
	(SELECT jsonb_agg(jsonb_build_object('name', 's' || i, 'handler_class', 'H',
		'depends_on_step', 's' || CASE WHEN i = 40 THEN 50 WHEN i > 1 THEN i - 1 ELSE 1000 END) ORDER BY i)
	FROM generate_series(1, 999) i) || '{"name": "s1000", "handler_class": "H"}'::jsonb))) ~ 's(4\d|50)": its dependencies lead in a circle back to itself$';

-- With named_steps, every step must be among them.
SELECT pg_temp.complaint(pg_temp.with_keys(t::jsonb)) FROM (VALUES
	('{"named_steps": ["a", "b"]}'), ('{"named_steps": ["b", "c", "a"]}'), ('{"named_steps": ["a"]}'), ('{"named_steps": []}')) v (t);

\pset format aligned
\pset tuples_only off

-- A refused template leaves nothing behind; neither does one taken back.
SELECT count(*) FROM pg_temp.templates WHERE namespace = 'n';
SELECT count(*) FROM tasker.task_namespaces WHERE name = 'n';

-- In full, as a user sees it.
SELECT tasker.register_task_template('{"name": "t", "step_templates": [{"name": "a", "handler_class": "H", "depends_on_step": "b"}]}');
SELECT tasker.register_task_template(pg_temp.with_keys('{"reenqueuer_strategy": "often"}'));
RESET client_min_messages;

-- ---------- names ----------

-- Any character that a text can have is a character of a name.
\set name 'it''s a "name" \\ with 🚀, ☃, $1, %s and; a\ttab'
SELECT tasker.register_task_template(jsonb_build_object('name', :'name', 'namespace_name', :'name', 'step_templates', jsonb_build_array(
	jsonb_build_object('name', :'name', 'handler_class', :'name', 'skippable', true),
	jsonb_build_object('name', '', 'handler_class', :'name') || jsonb_build_object('name', 'next ' || :'name', 'depends_on_step', :'name')))) IS NOT NULL AS registered;
SELECT tasker.create_task(:'name', namespace => :'name', bypass_steps => ARRAY[:'name']) AS task \gset
SELECT n.name = :'name' AS first, n.name = 'next ' || :'name' AS second, s.state
FROM tasker.workflow_steps s JOIN tasker.named_steps n USING (named_step_id) WHERE s.task_id = :task ORDER BY s.workflow_step_id;
SELECT tasker.create_task(:'name', namespace => :'name', version => '7.0.0');
\pset format unaligned
\pset tuples_only on
SELECT pg_temp.complaint(jsonb_build_object('name', :'name', 'step_templates', jsonb_build_array(
	jsonb_build_object('name', :'name', 'handler_class', 'H', 'depends_on_step', 'not ' || :'name'))));
\pset format aligned
\pset tuples_only off

-- Names that differ only in where namespace, name and version are parted.
CREATE FUNCTION pg_temp.register(namespace text, name text, version text, steps text DEFAULT 'a') RETURNS integer LANGUAGE sql AS $$
	SELECT tasker.register_task_template(jsonb_build_object('name', name, 'namespace_name', namespace, 'version', version,
		'step_templates', jsonb_agg(jsonb_build_object('name', s, 'handler_class', 'template_test'))))
	FROM string_to_table(steps, ',') s
$$;
CREATE FUNCTION pg_temp.version_of(task bigint) RETURNS text LANGUAGE sql AS $$
	SELECT t.namespace || '.' || t.name || '@' || t.version || ' with ' || (SELECT string_agg(n.name, ',' ORDER BY s.workflow_step_id)
		FROM tasker.workflow_steps s JOIN tasker.named_steps n USING (named_step_id) WHERE s.task_id = task)
	FROM tasker.tasks JOIN pg_temp.templates t USING (named_task_id) WHERE task_id = task
$$;
SELECT pg_temp.register(E'x\ny', 'z', '1.0.0', 'first') <> pg_temp.register('x', E'y\nz', '1.0.0', 'second') AS differ;
SELECT pg_temp.version_of(tasker.create_task('z', namespace => E'x\ny')) ~ 'first' AS first,
	pg_temp.version_of(tasker.create_task(E'y\nz', namespace => 'x')) ~ 'second' AS second;
SELECT pg_temp.register('x.y', 'z', '1.0.0', 'first') <> pg_temp.register('x', 'y.z', '1.0.0', 'second') AS differ;
SELECT pg_temp.version_of(tasker.create_task('z', namespace => 'x.y')) ~ 'first' AS first,
	pg_temp.version_of(tasker.create_task('y.z', namespace => 'x')) ~ 'second' AS second;

-- A kind of step and a system are shared by the templates that name them, in
-- whatever namespace; the same name in another system is another kind.
SELECT pg_temp.register('kinds', 'one', '1.0.0', 'shared,own') IS NOT NULL AS one, pg_temp.register('kinds', 'two', '1.0.0', 'shared') IS NOT NULL AS two,
	tasker.register_task_template('{"name": "three", "namespace_name": "kinds", "default_dependent_system": "elsewhere",
		"step_templates": [{"name": "shared", "handler_class": "template_test"}]}') IS NOT NULL AS three;
SELECT d.name AS system, n.name, count(*) AS templates
FROM tasker.named_tasks_named_steps ts JOIN tasker.named_steps n USING (named_step_id) JOIN tasker.dependent_systems d USING (dependent_system_id)
JOIN pg_temp.templates t USING (named_task_id)
WHERE t.namespace = 'kinds' GROUP BY 1, 2 ORDER BY 1, 2;

-- ---------- the same again, and something else ----------

SELECT pg_temp.register('again', 't', '1.0.0', 'a,b') AS id \gset
SELECT xmin AS written_by FROM tasker.named_tasks WHERE named_task_id = :id \gset

-- The same content is a no-op, in whatever order and spacing it is written.
SELECT pg_temp.register('again', 't', '1.0.0', 'a,b') = :id AS same;
SELECT tasker.register_task_template('{"step_templates":
	[{"handler_class": "template_test", "name": "a"}, {"handler_class": "template_test", "name": "b"}],
	"version": "1.0.0", "namespace_name": "again", "name": "t"}') = :id AS same;
SELECT revision, xmin = :'written_by'::xid AS untouched FROM tasker.named_tasks WHERE named_task_id = :id;

-- Other content replaces it as long as nothing was made from it.
SELECT tasker.register_task_template('{"name": "t", "namespace_name": "again", "version": "1.0.0", "description": "new",
	"step_templates": [{"name": "c", "handler_class": "template_test", "depends_on_step": "b"}, {"name": "b", "handler_class": "template_test", "priority": 3}]}') = :id AS same;
SELECT revision, description FROM tasker.named_tasks WHERE named_task_id = :id;
SELECT position, step, priority, parents FROM pg_temp.template_steps WHERE template = 't' AND version = '1.0.0' ORDER BY position;

-- A task that was rolled back is none.
BEGIN;
SELECT pg_temp.version_of(tasker.create_task('t', namespace => 'again'));
ROLLBACK;
SELECT pg_temp.register('again', 't', '1.0.0', 'd,e') = :id AS same;
SELECT pg_temp.version_of(tasker.create_task('t', namespace => 'again'));

-- From here on it stays as it is.
\set SHOW_CONTEXT never
SELECT pg_temp.register('again', 't', '1.0.0', 'f');
\echo :LAST_ERROR_SQLSTATE
SELECT pg_temp.register('again', 't', '1.0.0', 'd,e') = :id AS same;
SELECT revision FROM tasker.named_tasks WHERE named_task_id = :id;
SELECT pg_temp.register('again', 't', '1.0.1', 'f') <> :id AS another;
SELECT pg_temp.version_of(tasker.create_task('t', namespace => 'again'));

-- ---------- versions ----------

-- They compare as numbers, not as text.
SELECT pg_temp.register('versions', 'v', '0.9.0', 'a') IS NOT NULL AS registered;
SELECT pg_temp.version_of(tasker.create_task('v', namespace => 'versions'));
SELECT pg_temp.register('versions', 'v', '0.10.0', 'b') IS NOT NULL AS registered;
SELECT pg_temp.version_of(tasker.create_task('v', namespace => 'versions'));
SELECT pg_temp.register('versions', 'v', '0.2.99', 'c') IS NOT NULL AS registered;
SELECT pg_temp.version_of(tasker.create_task('v', namespace => 'versions'));
SELECT pg_temp.version_of(tasker.create_task('v', namespace => 'versions', version => '0.2.99'));
SELECT pg_temp.version_of(tasker.create_task('v', namespace => 'versions', version => 'latest'));
SELECT pg_temp.version_of((SELECT * FROM tasker.create_tasks(ARRAY['{"name": "v", "namespace": "versions", "version": "latest"}'::jsonb])));
SELECT version FROM pg_temp.templates WHERE namespace = 'versions' ORDER BY version_numbers;

-- One that does not exist, or could not.
CREATE FUNCTION pg_temp.outcome(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	result text;
BEGIN
	EXECUTE query INTO result;
	RETURN result;
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE || ' ' || SQLERRM;
END
$$;
SELECT pg_temp.outcome(format('SELECT tasker.create_task(%L, namespace => %L, version => %L)', 'v', 'versions', version))
FROM unnest(ARRAY['0.9.1', '0.9', '0.9.0.0', 'Latest', '', '0..9', 'v0.9.0', '0.9.0 ', '00.9.0', '9999999999.0.0', '99999999999999999999999.0.0']) version;
SELECT pg_temp.outcome($$SELECT tasker.create_task('v')$$);
SELECT pg_temp.outcome($$SELECT tasker.create_task('w', namespace => 'versions')$$);

-- A deprecated version makes no new tasks; the latest is then one that does.
SELECT tasker.deprecate_task_template('v', 'versions', '0.10.0');
SELECT pg_temp.version_of(tasker.create_task('v', namespace => 'versions'));
SELECT pg_temp.version_of(tasker.create_task('v', namespace => 'versions', version => 'latest'));
SELECT tasker.create_task('v', namespace => 'versions', version => '0.10.0');
\echo :LAST_ERROR_SQLSTATE
-- It stays deprecated when it is registered again, and since when it is.
SELECT deprecated_at AS since FROM tasker.named_tasks JOIN pg_temp.templates USING (named_task_id, version) WHERE namespace = 'versions' AND version = '0.10.0' \gset
SELECT tasker.deprecate_task_template('v', 'versions', '0.10.0');
SELECT pg_temp.register('versions', 'v', '0.10.0', 'b') IS NOT NULL AS registered;
SELECT deprecated_at = :'since' AS unchanged FROM tasker.named_tasks JOIN pg_temp.templates USING (named_task_id, version) WHERE namespace = 'versions' AND version = '0.10.0';
-- All versions at once.
SELECT tasker.deprecate_task_template('v', 'versions');
SELECT count(*) FILTER (WHERE deprecated) AS deprecated, count(*) FROM pg_temp.templates WHERE namespace = 'versions';
SELECT pg_temp.outcome($$SELECT tasker.create_task('v', namespace => 'versions')$$) ~ '^(42704|55000) ' AS refused;
-- A new version is open again.
SELECT pg_temp.register('versions', 'v', '0.11.0', 'b') IS NOT NULL AS registered;
SELECT pg_temp.version_of(tasker.create_task('v', namespace => 'versions'));
-- What does not exist cannot be deprecated.
SELECT pg_temp.outcome($$SELECT tasker.deprecate_task_template('v')$$);
SELECT pg_temp.outcome($$SELECT tasker.deprecate_task_template('w', 'versions')$$);
SELECT pg_temp.outcome($$SELECT tasker.deprecate_task_template('v', 'nowhere')$$);
SELECT pg_temp.outcome($$SELECT tasker.deprecate_task_template('v', 'versions', '9.9.9')$$);
SELECT pg_temp.outcome($$SELECT tasker.deprecate_task_template('v', 'versions', 'latest')$$);
SELECT pg_temp.outcome($$SELECT tasker.deprecate_task_template('v', 'versions', '00.9.0')$$);
SELECT pg_temp.outcome($$SELECT tasker.deprecate_task_template(NULL)$$);
SELECT pg_temp.outcome($$SELECT tasker.deprecate_task_template('v', NULL)$$);

-- ---------- what a session remembers ----------

-- A registration counts from the next statement on, and no longer than it lasts.
SELECT pg_temp.register('memory', 'm', '1.0.0', 'a') IS NOT NULL AS registered;
SELECT pg_temp.version_of(tasker.create_task('m', namespace => 'memory'));
BEGIN;
SELECT pg_temp.register('memory', 'm', '1.1.0', 'a,b') IS NOT NULL AS registered;
SELECT pg_temp.version_of(tasker.create_task('m', namespace => 'memory'));
ROLLBACK;
SELECT pg_temp.version_of(tasker.create_task('m', namespace => 'memory'));
SELECT pg_temp.outcome($$SELECT tasker.create_task('m', namespace => 'memory', version => '1.1.0')$$);
BEGIN;
SAVEPOINT s;
SELECT pg_temp.register('memory', 'm', '1.2.0', 'a,b,c') IS NOT NULL AS registered;
SELECT pg_temp.version_of(tasker.create_task('m', namespace => 'memory'));
ROLLBACK TO s;
SELECT pg_temp.version_of(tasker.create_task('m', namespace => 'memory'));
SAVEPOINT s;
SELECT pg_temp.register('memory', 'm', '1.3.0', 'a,b,c,d') IS NOT NULL AS registered;
RELEASE s;
SELECT pg_temp.version_of(tasker.create_task('m', namespace => 'memory'));
COMMIT;
SELECT pg_temp.version_of(tasker.create_task('m', namespace => 'memory'));

-- So does a replacement.
SELECT pg_temp.register('memory', 'r', '1.0.0', 'a') IS NOT NULL AS registered;
BEGIN;
SELECT pg_temp.version_of(tasker.create_task('r', namespace => 'memory'));
ROLLBACK;
BEGIN;
SELECT pg_temp.register('memory', 'r', '1.0.0', 'x,y') IS NOT NULL AS registered;
SELECT pg_temp.version_of(tasker.create_task('r', namespace => 'memory'));
ROLLBACK;
BEGIN;
SELECT pg_temp.version_of(tasker.create_task('r', namespace => 'memory'));
ROLLBACK;
SELECT pg_temp.register('memory', 'r', '1.0.0', 'x,y,z') IS NOT NULL AS registered;
SELECT pg_temp.version_of(tasker.create_task('r', namespace => 'memory'));

-- And a deprecation.
BEGIN;
SELECT tasker.deprecate_task_template('m', 'memory', '1.3.0');
SELECT pg_temp.version_of(tasker.create_task('m', namespace => 'memory'));
ROLLBACK;
SELECT pg_temp.version_of(tasker.create_task('m', namespace => 'memory'));

-- Within one statement, too: a new version, and other content.
SELECT pg_temp.register('memory', 'o', '1.0.0', 'a') IS NOT NULL AS registered;
BEGIN;
SELECT pg_temp.version_of(tasker.create_task('o', namespace => 'memory'));
ROLLBACK;
BEGIN;
SELECT tasker.create_task('o', namespace => 'memory', reason => tasker.register_task_template('{"name": "o", "namespace_name": "memory", "version": "2.0.0",
	"step_templates": [{"name": "n", "handler_class": "template_test"}]}')::text) AS task \gset
SELECT pg_temp.version_of(:task);
ROLLBACK;
BEGIN;
SELECT pg_temp.version_of(tasker.create_task('o', namespace => 'memory'));
ROLLBACK;
SELECT tasker.create_task('o', namespace => 'memory', reason => tasker.register_task_template('{"name": "o", "namespace_name": "memory", "version": "1.0.0",
	"step_templates": [{"name": "n", "handler_class": "template_test"}]}')::text) AS task \gset
SELECT pg_temp.version_of(:task);

-- Nothing of this waits for work that will never come.
SELECT count(*) FILTER (WHERE NOT tasker.cancel_task(task_id)) AS not_cancelled
FROM tasker.tasks JOIN pg_temp.templates USING (named_task_id)
WHERE namespace IN ('again', 'versions', 'memory', 'x', E'x\ny', 'x.y', repeat('🚀', 64), :'name') AND tasker.task_state(task_id) IN ('pending', 'in_progress');
SELECT tasker.orchestrate() IS NOT NULL AS done;
SELECT * FROM tasker.check();
