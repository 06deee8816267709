-- What is registered: templates, namespaces, dependent systems, and what is
-- said of them.

CREATE FUNCTION pg_temp.register(namespace text, name text, version text, more jsonb DEFAULT '{}') RETURNS integer LANGUAGE sql AS $$
	SELECT tasker.register_task_template(jsonb_build_object('name', name, 'namespace_name', namespace, 'version', version,
		'step_templates', '[{"name": "a", "handler_class": "R1"}, {"name": "b", "handler_class": "R2"}]'::jsonb) || more)
$$;
SELECT pg_temp.register('registry one', 'x', v) IS NOT NULL AS registered FROM unnest('{0.9.0,0.10.0,0.2.0}'::text[]) v;
SELECT pg_temp.register('registry one', 'y', '1.0.0', '{"description": "Why", "task_handler_class": "YHandler", "module_namespace": "Y",
	"step_templates": [{"name": "only", "handler_class": "R1"}]}') IS NOT NULL AS registered;
SELECT pg_temp.register('registry two', 'x', '3.0.0') IS NOT NULL AS registered;

-- The latest is the highest number that is not deprecated.
CREATE VIEW pg_temp.latest AS
SELECT full_name, is_latest, deprecated_at IS NOT NULL AS deprecated FROM tasker.task_templates
WHERE namespace LIKE 'registry %' ORDER BY namespace, name, string_to_array(version, '.')::integer[];
SELECT * FROM pg_temp.latest;
SELECT tasker.deprecate_task_template('x', 'registry one', '0.10.0');
SELECT * FROM pg_temp.latest WHERE full_name LIKE '%one.x%';
SELECT tasker.task_template('x', 'registry one') ->> 'version' AS default, tasker.task_template('x', 'registry one', 'latest') ->> 'version' AS latest,
	tasker.task_template('x', 'registry one', '0.10.0') ->> 'version' AS deprecated;
SELECT tasker.deprecate_task_template('x', 'registry one');
SELECT * FROM pg_temp.latest WHERE full_name LIKE '%one.x%';

-- What can be seen of a version.
\x on
SELECT namespace, name, version, full_name, is_latest, description, task_handler_class, module_namespace, environment, owner = current_user AS own,
	revision, step_count, registered_at IS NOT NULL AS registered, deprecated_at, paused_at
FROM tasker.task_templates WHERE name = 'y' AND namespace = 'registry one';
\x off
SELECT tasker.pause('registry one', 'y', '1.0.0');
SELECT paused_at IS NOT NULL AS paused FROM tasker.task_templates WHERE name = 'y' AND namespace = 'registry one';
SELECT tasker.resume('registry one', 'y', '1.0.0');

-- The document, exactly.
SELECT tasker.task_template('y', 'registry one');
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
SELECT pg_temp.outcome('SELECT tasker.task_template(' || arguments || ')')
FROM unnest(ARRAY[$$'x'$$, $$'x', 'registry one'$$, $$'x', 'registry one', 'latest'$$, $$'x', 'registry one', '1.1.1'$$, $$'x', 'registry one', '1.1'$$,
	$$'x', 'nowhere'$$, 'NULL', $$'x', NULL$$, $$'y', 'registry one', NULL, NULL$$]) arguments;

-- By namespace, in numbers.
SELECT namespace, description, templates, versions, deprecated_versions, handlers, last_registered_at IS NOT NULL AS dated, paused_at
FROM tasker.stat_templates WHERE namespace LIKE 'registry %' ORDER BY 1;

-- ---------- descriptions ----------

SELECT tasker.describe_namespace('registry one', 'The first') = task_namespace_id AS same FROM tasker.task_namespaces WHERE name = 'registry one';
SELECT tasker.describe_namespace('registry three', 'Nothing is in it yet') IS NOT NULL AS made;
SELECT tasker.describe_dependent_system('registry system', 'Far away') AS id \gset
SELECT tasker.describe_dependent_system('registry system', 'Near by') = :id AS same;
SELECT namespace, description, templates, versions, handlers FROM tasker.stat_templates WHERE namespace LIKE 'registry %' ORDER BY 1;
SELECT name, description FROM tasker.dependent_systems WHERE name = 'registry system';
SELECT tasker.describe_dependent_system('registry system', NULL) = :id AS same;
SELECT name, description FROM tasker.dependent_systems WHERE name = 'registry system';
-- A template that names them changes nothing about them.
SELECT pg_temp.register('registry three', 'z', '1.0.0', '{"default_dependent_system": "registry system"}') IS NOT NULL AS registered;
SELECT namespace, description, templates FROM tasker.stat_templates WHERE namespace = 'registry three';
SELECT pg_temp.outcome(format('SELECT tasker.describe_%s(%L, ''x'')', what, name))
FROM unnest('{namespace,dependent_system}'::text[]) what, unnest(ARRAY['', repeat('x', 65), NULL]) name;

-- A role needs no more than the functions.
CREATE ROLE regress_tasker_registry;
GRANT USAGE ON SCHEMA tasker TO regress_tasker_registry;
GRANT EXECUTE ON FUNCTION tasker.describe_namespace, tasker.describe_dependent_system, tasker.task_template TO regress_tasker_registry;
SET ROLE regress_tasker_registry;
SELECT tasker.describe_namespace('registry four', 'Of a role') IS NOT NULL AS made, tasker.describe_dependent_system('registry system', 'Of a role') = :id AS same,
	tasker.task_template('z', 'registry three') ->> 'name' AS name;
RESET ROLE;
DROP OWNED BY regress_tasker_registry;
DROP ROLE regress_tasker_registry;
