-- Templates from YAML files, and what they say differently for an environment.
\getenv abs_srcdir PG_ABS_SRCDIR
\set file :abs_srcdir '/test/templates/order_processing.yaml'
\set order `cat :'file'`
\set file :abs_srcdir '/test/templates/api_integration.yaml'
\set sync `cat :'file'`
\set file :abs_srcdir '/test/templates/nightly_report.yaml'
\set report `cat :'file'`

CREATE VIEW pg_temp.steps AS
SELECT nt.name AS template, nt.version, nt.environment, s.name AS step, h.name AS handler, d.name AS system, ts.default_retryable AS retryable,
	ts.default_retry_limit AS "limit", ts.skippable,
	ARRAY(SELECT p.name FROM tasker.named_step_edges e JOIN tasker.named_steps p ON p.named_step_id = e.from_named_step_id
		WHERE e.named_task_id = nt.named_task_id AND e.to_named_step_id = ts.named_step_id ORDER BY 1) AS parents,
	ts.handler_config AS config
FROM tasker.named_tasks_named_steps ts
JOIN tasker.named_tasks nt USING (named_task_id)
JOIN tasker.named_steps s USING (named_step_id)
JOIN tasker.dependent_systems d USING (dependent_system_id)
JOIN tasker.handlers h USING (handler_id)
ORDER BY nt.name, nt.version_numbers, ts.position;

-- ---------- files as they are ----------

SELECT tasker.register_task_template_yaml(:'order') AS id \gset
SELECT step, handler, system, retryable, "limit", skippable, parents FROM pg_temp.steps WHERE template = 'order_processing';
SELECT step, config FROM pg_temp.steps WHERE template = 'order_processing';
\x on
SELECT namespace, name, version, description, task_handler_class, module_namespace, environment, step_count
FROM tasker.task_templates WHERE named_task_id = :id;
\x off
SELECT tasker.task_template('order_processing', 'ecommerce') -> 'schema' -> 'properties' -> 'customer' -> 'properties';

SELECT tasker.register_task_template_yaml(:'report') IS NOT NULL AS registered;
SELECT step, config FROM pg_temp.steps WHERE template = 'nightly_report';

-- The same from YAML and as jsonb is the same; from NULL comes nothing.
SELECT tasker.register_task_template(tasker.yaml_to_jsonb(:'order')) = :id AS same, tasker.register_task_template_yaml(NULL) IS NULL AS nothing;
SELECT revision FROM tasker.task_templates WHERE named_task_id = :id;

-- Both kinds of errors.
\set VERBOSITY default
\set SHOW_CONTEXT never
SELECT tasker.register_task_template_yaml(E'name: t\nstep_templates:\n  - name: a\n    handler_class: [');
SELECT tasker.register_task_template_yaml(E'name: t\nversion: 1.0\nstep_templates:\n  - {name: a, handler_class: H}');
SELECT tasker.register_task_template_yaml(E'- name: t');

-- A task from a file.
SELECT tasker.create_task('order_processing', '{"cart_items": [{"product_id": 1, "quantity": 2}], "customer": {"email": "a@b"}}', 'ecommerce') AS task \gset
SELECT step FROM test.steps(:task);

-- ---------- environments ----------

-- None is in force: the template as it stands.
SHOW tasker.environment;
SELECT tasker.register_task_template_yaml(:'sync') AS id \gset
SELECT environment, step, "limit", parents, config FROM pg_temp.steps WHERE template = 'customer_sync';

-- In production other content replaces it.
SET tasker.environment = 'production';
SELECT tasker.register_task_template_yaml(:'sync') = :id AS same;
SELECT environment, step, "limit", parents, config FROM pg_temp.steps WHERE template = 'customer_sync';
SELECT environment, revision, description FROM tasker.task_templates WHERE named_task_id = :id;
-- The document stays as it was registered; what is in force is kept beside it.
SELECT tasker.task_template('customer_sync', 'crm') = tasker.yaml_to_jsonb(:'sync') AS as_registered,
	tasker.task_template('customer_sync', 'crm') ? 'environments' AS environments,
	tasker.task_template('customer_sync', 'crm', effective => true) ? 'environments' AS environments_in_force,
	tasker.task_template('customer_sync', 'crm', effective => true) -> 'description' AS description_in_force;
SELECT tasker.register_task_template_yaml(:'sync') = :id AS same, (SELECT revision FROM tasker.task_templates WHERE named_task_id = :id) AS revision;

-- An environment under which nothing is written, or that is not mentioned: the template as it stands.
SET client_min_messages = notice;
SET tasker.environment = 'development';
SELECT tasker.register_task_template_yaml(:'sync') = :id AS same;
SET tasker.environment = 'prodution';
SELECT tasker.register_task_template_yaml(:'sync') = :id AS same;
SELECT environment, revision, tasker.task_template('customer_sync', 'crm', effective => true) = tasker.task_template('customer_sync', 'crm') AS as_it_stands
FROM tasker.task_templates WHERE named_task_id = :id;
-- A template without environments has nothing to say of any.
SELECT tasker.register_task_template_yaml(:'report') IS NOT NULL AS registered;
SELECT environment, revision FROM tasker.task_templates WHERE name = 'nightly_report';
RESET client_min_messages;

-- Arrays are replaced as a whole.
SET tasker.environment = 'test';
SELECT tasker.register_task_template_yaml(:'sync') = :id AS same;
SELECT environment, step, config -> 'topics' AS topics FROM pg_temp.steps WHERE template = 'customer_sync' AND step IN ('merge_records', 'publish');

-- With tasks it stays in its environment.
SELECT tasker.create_task('customer_sync', namespace => 'crm') IS NOT NULL AS created;
SET tasker.environment = 'production';
SELECT tasker.register_task_template_yaml(:'sync');
\echo :LAST_ERROR_SQLSTATE
RESET tasker.environment;
SELECT tasker.register_task_template_yaml(:'sync');
SET tasker.environment = 'test';
SELECT tasker.register_task_template_yaml(:'sync') = :id AS same;
RESET tasker.environment;

-- By database, and for a role without privileges on anything.
SELECT format('ALTER DATABASE %I SET tasker.environment = ''production''', current_database()) \gexec
\c
\set VERBOSITY default
\set SHOW_CONTEXT never
SHOW tasker.environment;
SELECT format('ALTER DATABASE %I RESET tasker.environment', current_database()) \gexec
CREATE ROLE regress_tasker_environment;
GRANT USAGE ON SCHEMA tasker TO regress_tasker_environment;
GRANT EXECUTE ON FUNCTION tasker.register_task_template_yaml, tasker.task_template TO regress_tasker_environment;
SET ROLE regress_tasker_environment;
SET tasker.environment = 'b';
SELECT tasker.register_task_template_yaml('
name: by_role
step_templates: [{name: s, handler_class: H}]
environments: {b: {description: of b}}') IS NOT NULL AS registered;
SELECT tasker.task_template('by_role', effective => true) -> 'description' AS description;
RESET ROLE;
DROP OWNED BY regress_tasker_environment;
DROP ROLE regress_tasker_environment;

-- ---------- every environment is checked ----------

CREATE FUNCTION pg_temp.complaint(environments text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	PERFORM tasker.register_task_template_yaml(E'
name: e
step_templates:
- {name: a, handler_class: H, handler_config: {x: 1, deep: {y: 2}}}
- {name: b, handler_class: H, depends_on_step: a}
environments:\n  ' || environments);
	RAISE EXCEPTION USING ERRCODE = 'XX999', MESSAGE = 'registered';
EXCEPTION WHEN OTHERS THEN
	RETURN CASE SQLSTATE WHEN 'XX999' THEN SQLERRM ELSE SQLSTATE || ' ' || SQLERRM END;
END
$$;
RESET tasker.environment;
\pset format unaligned
\pset tuples_only on
SELECT pg_temp.complaint(e) FROM unnest(ARRAY[
	'{}', '{p: {}}', '{p: ~}', '{p: {}, q: {description: x}}',
	'[]', 'p', '{p: []}', '{p: 1}', '{"": {}}', '{' || repeat('e', 65) || ': {}}', '{' || repeat('é', 64) || ': {}}',
	'{p: {name: x}}', '{p: {namespace_name: x}}', '{p: {version: 2.0.0}}', '{p: {environments: {}}}',
	'{p: {step_template: []}}', '{p: {description: 1}}', '{p: {named_steps: [a]}}', '{p: {description: ~}}',
	'{p: {step_templates: {}}}', '{p: {step_templates: ~}}', '{p: {step_templates: [1]}}', '{p: {step_templates: [{handler_class: H}]}}', '{p: {step_templates: [{name: 1}]}}',
	'{p: {step_templates: []}}', '{p: {step_templates: [{name: a}]}}',
	'{p: {step_templates: [{name: a}, {name: c}]}}', '{p: {step_templates: [{name: A, handler_config: {}}]}}',
	'{p: {step_templates: [{name: a}, {name: b}, {name: a}]}}',
	'{p: {step_templates: [{name: a, handler_config: 1}]}}', '{p: {step_templates: [{name: a, priority: 5000}]}}', '{p: {step_templates: [{name: a, retries: 1}]}}',
	'{p: {step_templates: [{name: a, depends_on_steps: [b]}]}}', '{p: {step_templates: [{name: b, depends_on_step: c}]}}',
	'{p: {step_templates: [{name: b, custom_events: [{name: x}]}]}}',
	'{fine: {step_templates: [{name: a, priority: 5}]}, p: {}, q: {step_templates: [{name: a, priority: 5000}]}}']) e;
\pset format aligned
\pset tuples_only off

-- Objects are merged to any depth; null is a value; what is no object is replaced.
CREATE FUNCTION pg_temp.merged(base jsonb, override jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
	PERFORM set_config('tasker.environment', 'e', true);
	PERFORM tasker.register_task_template(jsonb_build_object('name', 'merging', 'step_templates', jsonb_build_array(
			jsonb_build_object('name', 'a', 'handler_class', 'H', 'handler_config', base)),
		'environments', jsonb_build_object('e', jsonb_build_object('step_templates', jsonb_build_array(
			jsonb_build_object('name', 'a', 'handler_config', override))))));
	RETURN tasker.task_template('merging', effective => true) #> '{step_templates,0,handler_config}';
END
$$;
SELECT base, override, pg_temp.merged(base::jsonb, override::jsonb) AS merged
FROM (VALUES ('{}', '{}'), ('{"a": 1}', '{}'), ('{}', '{"a": 1}'), ('{"a": 1}', '{"a": 2}'), ('{"a": 1, "b": 2}', '{"b": null, "c": 3}'),
	('{"a": {"b": {"c": 1, "d": 2}, "e": []}}', '{"a": {"b": {"d": {"x": 1}}, "e": [1, {}]}}'),
	('{"a": {"b": 1}}', '{"a": 5}'), ('{"a": 5}', '{"a": {"b": 1}}'), ('{"a": [1, 2, 3]}', '{"a": [9]}'), ('{"a": {"b": 1}}', '{"a": null}'),
	('{"a": null}', '{"a": {"b": 1}}'), ('{"": {"": 1}}', '{"": {"": 2, "é": 3}}')) v (base, override);

SELECT count(*) FILTER (WHERE NOT tasker.cancel_task(task_id)) AS not_cancelled
FROM tasker.tasks JOIN tasker.task_templates USING (named_task_id) WHERE namespace IN ('ecommerce', 'crm') AND state IN ('pending', 'in_progress');
SELECT tasker.orchestrate() IS NOT NULL AS done;
SELECT * FROM tasker.check();
