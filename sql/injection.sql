-- Names that would like to be code: each of them, as every name there is, goes
-- through the whole life of a task and comes back as it was.
CREATE TABLE test.victim AS SELECT 'alive' AS state;
CREATE TEMP TABLE hostile (number integer GENERATED ALWAYS AS IDENTITY, name text);
INSERT INTO hostile (name) VALUES
	('''; DROP TABLE test.victim; --'), ('"; DROP TABLE test.victim; --'), ('$$; DROP TABLE test.victim; $$'), ('$1'), ('%s%n%1$s%%'), ('%I.%L'), (E'\\'), (E'\\''; DROP TABLE test.victim; --'),
	(E'new\nline\r\ttab'), (E'\x01\x1b[31m\x7f'), ('{"a": 1}'), ('[]'), ('null'), (''''), ('"'), ('`'), (' '), ('tasker.tasks'), ('pg_catalog.now()'), (U&'\202e\200b\+01F600'),
	(repeat('x', 64)), (repeat('ä', 64)), ('&amp;<script>alert(1)</script>'), ('*'), ('a: &b *b'), ('x"]; y --> z; %% c'), ('*/ DROP TABLE test.victim; /*'), ('<%= 1 %>'), ('~'), ('#/a~0b~1c');

-- The life of a task in which everything has the same name; says where it came back as something else.
CREATE FUNCTION pg_temp.life(n text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	template jsonb := jsonb_build_object('name', n, 'namespace_name', n, 'version', '1.0.0', 'description', n, 'default_dependent_system', n, 'named_steps', jsonb_build_array(n, n || 'b'),
		'task_handler_class', n, 'module_namespace', n, 'schema', jsonb_build_object('properties', jsonb_build_object(n, jsonb_build_object('type', 'string', 'default', n), 'other', jsonb_build_object('enum', jsonb_build_array(n)))),
		'environments', jsonb_build_object(n, jsonb_build_object('step_templates', jsonb_build_array(jsonb_build_object('name', n, 'handler_config', jsonb_build_object(n, n))))),
		'step_templates', jsonb_build_array(
			jsonb_build_object('name', n, 'handler_class', n, 'description', n, 'dependent_system', n, 'handler_config', jsonb_build_object(n, 'x'), 'default_retry_limit', 3, 'backoff_base_seconds', 0),
			jsonb_build_object('name', n || 'b', 'handler_class', n, 'depends_on_step', n)));
	task bigint;
	executor bigint;
	c tasker.claimed_step;
	wrong text[] := '{}';
	format text;
BEGIN
	PERFORM set_config('tasker.environment', n, true);
	-- YAML has no control characters.
	PERFORM tasker.register_task_template(template);
	IF n !~ '\x01' AND tasker.register_task_template_yaml(replace(template::text, '<%', '\x3C%')) <> tasker.register_task_template(template) THEN
		wrong := wrong || 'JSON is not the same as YAML'::text;
	END IF;
	PERFORM tasker.describe_namespace(n, n), tasker.describe_dependent_system(n, n), tasker.map_objects(n, n, left(n, 63) || '2', n), tasker.pause(n), tasker.resume(n), tasker.pause(n, n, '1.0.0'), tasker.resume(n, n, '1.0.0');
	task := tasker.create_task(n, '{}', n, '1.0.0', n, n, n, ARRAY[n, 'x'], '{}', n);
	IF tasker.create_task(n, '{}', n, identity_key => n) <> task OR tasker.find_task(n, n) <> task THEN
		wrong := wrong || 'identity key'::text;
	END IF;
	SELECT executor_id INTO executor FROM tasker.register_executor(n, ARRAY[n], 0, true);
	PERFORM tasker.orchestrate();
	SELECT * INTO c FROM tasker.claim_steps(executor, 1);
	IF (c.task_name, c.step_name, c.handler) IS DISTINCT FROM (n, n, n) OR c.handler_config IS DISTINCT FROM jsonb_build_object(n, n) OR c.inputs IS DISTINCT FROM jsonb_build_object(n, n) THEN
		wrong := wrong || format('claimed step: %s', c);
	END IF;
	PERFORM tasker.fail_step(c.workflow_step_id, c.claim, n, n, true, 0);
	IF (SELECT (results->>'error', results->>'error_class') FROM tasker.workflow_steps WHERE workflow_step_id = c.workflow_step_id) IS DISTINCT FROM (n, n) THEN
		wrong := wrong || 'error'::text;
	END IF;
	PERFORM tasker.retry_due_steps(task), tasker.orchestrate();
	SELECT * INTO c FROM tasker.claim_steps(executor, 1);
	PERFORM tasker.complete_step(c.workflow_step_id, c.claim, jsonb_build_object(n, n)), tasker.orchestrate();
	SELECT * INTO c FROM tasker.claim_steps(executor, 1);
	IF c.dependency_results IS DISTINCT FROM jsonb_build_object(n, jsonb_build_object(n, n)) THEN
		wrong := wrong || 'results of a parent'::text;
	END IF;
	PERFORM tasker.annotate_task(task, n, jsonb_build_object(n, n), n), tasker.update_task(task, n || '!', ARRAY[n]);
	IF ARRAY(SELECT f.task_id FROM tasker.find_tasks(n, n, '1.0.0', tags => ARRAY[n], annotation_type => n, annotation => jsonb_build_object(n, n), initiator => n, source_system => n, identity_key => n, context => jsonb_build_object(n, n)) f) <> ARRAY[task]
		OR ARRAY(SELECT f.task_id FROM tasker.find_tasks(any_tags => ARRAY[n]) f) <> ARRAY[task] THEN
		wrong := wrong || 'find_tasks'::text;
	END IF;
	IF NOT EXISTS (SELECT FROM tasker.mapped_objects(n, n) m WHERE (m.dependent_system, m.mapped_remote_id) = (left(n, 63) || '2', n)) THEN
		wrong := wrong || 'object map'::text;
	END IF;
	FOREACH format IN ARRAY '{text,mermaid,dot,json}'::text[] LOOP
		PERFORM tasker.task_diagram(task, format), tasker.task_template_diagram(n, n, '1.0.0', format);
	END LOOP;
	PERFORM tasker.task_document(task), tasker.task_template(n, n), tasker.task_template_graph(n, n), tasker.error_chains(task), tasker.bottlenecks(task), tasker.slowest_steps(), tasker.analytics_metrics();
	PERFORM tasker.transition_task(task, 'cancelled', jsonb_build_object(n, n)), tasker.cancel_task(task, n), tasker.unregister_executor(executor);
	IF (SELECT t.metadata FROM tasker.task_transitions t WHERE t.task_id = task ORDER BY sort_key DESC LIMIT 1) IS DISTINCT FROM jsonb_build_object(n, n) THEN
		wrong := wrong || 'metadata'::text;
	END IF;
	PERFORM tasker.deprecate_task_template(n, n), tasker.orchestrate();
	RETURN coalesce(nullif(array_to_string(wrong, ', '), ''), 'as it was');
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE || ' ' || SQLERRM;
END
$$;
-- Versions of psql differ in how wide they take a character to be.
\pset format unaligned
SELECT number, left(name, 40) AS name, pg_temp.life(name) FROM hostile ORDER BY number;
\pset format aligned

-- Where a name is refused, the refusal is no code either, and says the name.
SELECT number FROM hostile h WHERE pg_temp.life(h.name || repeat('x', 65)) NOT LIKE '22023 %' ORDER BY 1;
CREATE FUNCTION pg_temp.complaint(query text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE query;
	RETURN 'fine';
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE || ' ' || SQLERRM;
END
$$;
SELECT query, count(*) AS refused, count(*) FILTER (WHERE strpos(complaint, name) > 0) AS named, string_agg(DISTINCT left(complaint, 5), ' ') AS codes
FROM hostile, unnest(ARRAY['SELECT tasker.create_task(%L)', 'SELECT tasker.task_template(%L)', 'SELECT tasker.pause(%L, %1$L, %1$L)', 'SELECT tasker.register_event(%L)',
	'SELECT tasker.task_template_diagram(''x'', %L)', 'SELECT tasker.backoff_seconds(1, %L)']) query,
	LATERAL (SELECT pg_temp.complaint(format(query, name || ' no')) AS complaint) c
GROUP BY query ORDER BY query;

-- Roles, and functions, of such names: each runs as itself.
CREATE ROLE "regress""; DROP TABLE test.victim; --" SUPERUSER;
CREATE SCHEMA "sch""; DROP TABLE test.victim; --";
SET ROLE "regress""; DROP TABLE test.victim; --";
CREATE FUNCTION "sch""; DROP TABLE test.victim; --"."f'); --"(step tasker.claimed_step) RETURNS jsonb LANGUAGE sql AS $$ SELECT to_jsonb(current_user) $$;
CREATE FUNCTION "sch""; DROP TABLE test.victim; --"."g%s"(facts jsonb) RETURNS text LANGUAGE sql AS $$ SELECT current_user || (facts ->> 'name') $$;
SELECT tasker.register_task_template(jsonb_build_object('name', 'odd functions', 'namespace_name', 'injection', 'version', '1.0.0', 'coordinator_strategy', 'synchronous',
	'identity_strategy', '"sch""; DROP TABLE test.victim; --"."g%s"', 'step_templates', jsonb_build_array(jsonb_build_object('name', 'a', 'handler_class', '"sch""; DROP TABLE test.victim; --"."f''); --"')))) > 0 AS registered;
RESET ROLE;
SELECT tasker.create_task('odd functions', namespace => 'injection') AS task \gset
SELECT state FROM tasker.coordinate_task(:task);
SELECT t.identity_key, s.results, l.role = current_user AS mine FROM tasker.tasks t JOIN tasker.workflow_steps s USING (task_id) JOIN tasker.task_transitions l USING (task_id) WHERE t.task_id = :task AND l.sort_key = 10;
SELECT name, pg_temp.complaint(format('SELECT tasker.register_task_template(%L)', jsonb_build_object('name', 'x', 'namespace_name', 'injection', 'version', '1.0.0', 'identity_strategy', name,
	'step_templates', '[{"name": "a", "handler_class": "H"}]'::jsonb))) AS complaint
FROM unnest(ARRAY['public.f(jsonb); DROP TABLE test.victim', '"unclosed', 'a.b.c', 'x.y''', 'tasker."create_task(text"', '.', 'now()']) name;

-- A function of a strategy that calls back is told that it may not.
CREATE FUNCTION test.calls_back(facts jsonb) RETURNS text LANGUAGE sql AS $$ SELECT tasker.create_task('odd functions', namespace => 'injection')::text $$;
SELECT tasker.register_task_template('{"name": "calls back", "namespace_name": "injection", "version": "1.0.0", "identity_strategy": "test.calls_back", "step_templates": [{"name": "a", "handler_class": "H"}]}') > 0 AS registered;
SELECT pg_temp.complaint('SELECT tasker.create_task(''calls back'', namespace => ''injection'')');

-- What fuzzing has found.
SELECT pg_temp.complaint('SELECT tasker.graph_depths(2147483647, ''{}'', ''{}'')');

SELECT * FROM test.victim;
SELECT * FROM tasker.check();
-- The task belongs to a role that goes.
DROP OWNED BY "regress""; DROP TABLE test.victim; --";
DROP SCHEMA "sch""; DROP TABLE test.victim; --" CASCADE;
DROP ROLE "regress""; DROP TABLE test.victim; --";
DROP TABLE test.victim;
