-- Finding tasks: newest first, page by page.
SET TimeZone = 'UTC';
SET DateStyle = 'ISO';

SELECT test.template('search', 'a') > 0 AND test.template('search', 'a', version => '2.0.0') > 0 AND test.template('search other', 'a') > 0
	AND tasker.register_task_template('{"name": "search", "namespace_name": "search", "version": "1.0.0", "step_templates": [{"name": "a", "handler_class": "H"}]}') > 0 AS registered;

-- Twelve tasks that differ in everything, and as many that only make them old:
-- more than the newest 1000, which are looked at first.
CREATE TEMP TABLE made AS
SELECT n, tasker.create_task(CASE WHEN n % 3 = 0 THEN 'search other' ELSE 'search' END, jsonb_build_object('n', n, 'odd', n % 2 = 1), CASE WHEN n = 4 THEN 'search' ELSE 'test' END,
	CASE WHEN n = 5 THEN '2.0.0' WHEN n % 3 <> 0 THEN '1.0.0' END, initiator => 'search ' || n % 4, source_system => CASE WHEN n < 4 THEN 'search' ELSE 'other' END,
	reason => 'reason ' || n, tags => CASE WHEN n < 7 THEN ARRAY['search', 'search ' || n % 2] ELSE '{}' END,
	identity_key => CASE WHEN n % 5 = 0 THEN 'search ' || n END, requested_at => timestamptz '2001-01-01 00:00Z' + n * interval '1 h') AS task_id
FROM generate_series(1, 12) n;
SELECT tasker.annotate_task(task_id, 'search ' || n % 2, jsonb_build_object('n', n, 'list', jsonb_build_array(n, 'x'))) > 0 AS noted FROM made WHERE n IN (2, 3, 4);
SELECT tasker.annotate_task(task_id, 'search 0', '{"n": 2}') > 0 AS noted_twice FROM made WHERE n = 2;
SELECT tasker.cancel_task(task_id) FROM made WHERE n IN (1, 8);
SELECT executor_id AS executor FROM tasker.register_executor('search', '{H}', 0) \gset
SELECT tasker.orchestrate() IS NOT NULL AS done;
SELECT count(tasker.fail_step(s.workflow_step_id, s.claim, 'broken', retryable => false)) FROM tasker.claim_steps(:executor, 3) s;
SELECT tasker.orchestrate() IS NOT NULL AS done;
SELECT tasker.resolve_task(task_id) FROM made WHERE n = 3;
SELECT test.run_all(:executor);

-- The numbers of the tasks of a page that are among the twelve, in its order.
CREATE FUNCTION pg_temp.found(conditions text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	result text;
BEGIN
	EXECUTE 'SELECT coalesce(string_agg(coalesce(m.n::text, ''?''), '' '' ORDER BY f.place), ''none'')
		FROM tasker.find_tasks(' || conditions || ') WITH ORDINALITY f (task_id, a, b, c, d, e, f, g, h, i, j, k, l, m, place) LEFT JOIN made m USING (task_id)' INTO result;
	RETURN result;
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE || ' ' || SQLERRM;
END
$$;
CREATE TEMP TABLE asked (place serial, conditions text);
INSERT INTO asked (conditions) VALUES
	($$max_tasks => 12$$), ($$namespace => 'search'$$), ($$name => 'search other'$$), ($$name => 'search', namespace => 'test'$$), ($$name => 'search', version => '2.0.0'$$),
	($$namespace => 'nowhere'$$), ($$name => 'search', version => '9.9.9'$$),
	($$states => '{error}', name => 'search'$$), ($$states => '{error}', initiator => 'search 2'$$), ($$states => '{cancelled,resolved_manually}', source_system => 'search'$$),
	($$states => '{complete}', initiator => 'search 1'$$), ($$states => '{complete,cancelled}', initiator => 'search 0'$$), ($$states => '{in_progress}', initiator => 'search 1'$$), ($$states => '{}'$$),
	($$tags => '{search}'$$), ($$tags => '{"search 0",search}'$$), ($$tags => '{"search 0","search 1"}'$$), ($$any_tags => '{"search 0","search 1"}', max_tasks => 4$$), ($$any_tags => '{nothing}'$$), ($$any_tags => '{}'$$),
	($$tags => '{}', initiator => 'search 1'$$), ($$tags => '{search}', states => '{complete}'$$), ($$tags => '{search}', name => 'search other'$$),
	($$annotation_type => 'search 0'$$), ($$annotation_type => 'search 1'$$), ($$annotation_type => 'nothing'$$), ($$annotation => '{"list": ["x"]}'$$), ($$annotation => '{"n": 3}'$$),
	($$annotation_type => 'search 0', annotation => '{"list": ["x"]}'$$), ($$annotation_type => 'search 0', annotation => '{"n": 3}'$$), ($$annotation => '{"list": ["x"]}', tags => '{"search 1"}'$$),
	($$initiator => 'search 1'$$), ($$source_system => 'search'$$), ($$initiator => 'search 1', source_system => 'search'$$),
	($$requested_from => '2001-01-01 03:00Z', requested_before => '2001-01-01 06:00Z'$$), ($$requested_before => '2001-01-01 03:00Z', name => 'search'$$), ($$requested_from => '2001-01-01 10:00Z', initiator => 'search 2'$$),
	($$requested_from => '2001-01-01 06:00Z', requested_before => '2001-01-01 06:00Z'$$),
	($$identity_key => 'search 5'$$), ($$identity_key => 'search 5', namespace => 'test'$$), ($$identity_key => 'search 5', namespace => 'search'$$), ($$identity_key => 'search 6'$$),
	($$context => '{"n": 7}'$$), ($$context => '{"odd": true}', initiator => 'search 3'$$);

-- ---------- among the newest ----------

SELECT conditions, pg_temp.found(conditions) AS tasks FROM asked ORDER BY place;
-- Everything that a list shows.
\x on
SELECT namespace, name, version, full_name, state, state_since = (SELECT max(l.created_at) FROM tasker.task_transitions l WHERE l.task_id = f.task_id) AS since_its_last_transition,
	priority, requested_at, initiator, source_system, reason, tags, identity_key
FROM tasker.find_tasks(identity_key => 'search 5') f;
\x off

-- ---------- beyond them ----------

CREATE TEMP TABLE before AS SELECT place, pg_temp.found(conditions) AS tasks FROM asked;
SELECT count(*) FROM tasker.create_tasks(ARRAY(SELECT jsonb_build_object('name', 'search other', 'namespace', 'test', 'tags', CASE WHEN n % 100 = 0 THEN '["later", "each"]'::jsonb ELSE '["later"]' END)
	FROM generate_series(1, 1100) n));
-- The same is found, but for what says nothing that only the twelve have.
SELECT a.conditions, b.tasks AS before, pg_temp.found(a.conditions) AS now FROM asked a JOIN before b USING (place) WHERE b.tasks <> pg_temp.found(a.conditions) ORDER BY place;
-- A page may begin among the newest and end beyond.
SELECT pg_temp.found($$any_tags => '{each,search}'$$) AS tasks, pg_temp.found($$any_tags => '{each,search}', max_tasks => 12$$) AS fewer;
SELECT count(*) AS later FROM tasker.find_tasks(any_tags => '{later,search}', max_tasks => 1000);
SELECT tasker.annotate_task(max(task_id), 'search 1', '{"n": 3}') > 0 AS newest_noted FROM tasker.tasks;
SELECT pg_temp.found($$annotation_type => 'search 1', annotation => '{"n": 3}'$$) AS tasks, pg_temp.found($$annotation => '{"n": 3}', max_tasks => 1$$) AS one;

-- ---------- pages ----------

-- A walk through all pages meets each task once, though others come meanwhile.
CREATE FUNCTION pg_temp.walk(conditions text, pages_of integer) RETURNS TABLE (page integer, task_id bigint) LANGUAGE plpgsql AS $$
DECLARE
	last bigint;
BEGIN
	page := 0;
	LOOP
		page := page + 1;
		FOR task_id IN EXECUTE format('SELECT task_id FROM tasker.find_tasks(%s, before_task_id => %L, max_tasks => %s)', conditions, last, pages_of) LOOP
			last := task_id;
			RETURN NEXT;
		END LOOP;
		EXIT WHEN NOT FOUND;
		PERFORM tasker.create_task('search', namespace => 'test', tags => '{later}', requested_at => '2001-01-01 05:00Z');
	END LOOP;
END
$$;
CREATE TEMP TABLE expected AS SELECT task_id FROM tasker.tasks WHERE tags @> '{later}';
SELECT pages_of, count(*) AS tasks, count(DISTINCT w.task_id) AS different, max(w.page) AS pages, count(*) FILTER (WHERE e.task_id IS NULL) AS unexpected
FROM unnest(ARRAY[7, 100, 1000]) pages_of CROSS JOIN LATERAL pg_temp.walk($$tags => '{later}', name => 'search other'$$, pages_of) w LEFT JOIN expected e USING (task_id)
GROUP BY pages_of ORDER BY pages_of;
-- Those that were requested at the same time are told apart by their ids.
SELECT count(*) AS tasks, count(DISTINCT task_id) AS different FROM pg_temp.walk($$requested_from => '2001-01-01 05:00Z', requested_before => '2001-01-01 05:00:01Z'$$, 3);

-- ---------- bad arguments, and rights ----------

SELECT max_tasks, pg_temp.found('max_tasks => ' || coalesce(max_tasks::text, 'NULL')) FROM unnest(ARRAY[0, -1, 1001, NULL]) max_tasks;
-- Text is only text.
SELECT pg_temp.found($$name => $q$' OR true --$q$, tags => ARRAY[$q$'}') OR true --$q$]$$) AS tasks;
-- Who may not see the tasks finds none.
\set VERBOSITY terse
CREATE ROLE regress_tasker_search;
GRANT USAGE ON SCHEMA tasker TO regress_tasker_search;
GRANT EXECUTE ON FUNCTION tasker.find_tasks, tasker.task_document TO regress_tasker_search;
SET ROLE regress_tasker_search;
SELECT * FROM tasker.find_tasks();
RESET ROLE;
GRANT SELECT ON tasker.tasks, tasker.named_tasks, tasker.task_namespaces, tasker.task_transition_log, tasker.task_summaries TO regress_tasker_search;
SET ROLE regress_tasker_search;
SELECT count(*) FROM tasker.find_tasks(name => 'search', namespace => 'search');
RESET ROLE;
DROP OWNED BY regress_tasker_search;
DROP ROLE regress_tasker_search;

-- ---------- a task as a document ----------

SELECT test.template('search document', 'a; b<-a; c<-a; d<-a; e<-b,c; f<-b,c; g') > 0 AS registered;
SELECT tasker.create_task('search document', '{"x": 1}', 'test', '1.0.0', 'i', 's', 'r', '{t}', priority => 10, requested_at => '2026-01-01 00:00Z') AS task \gset
SELECT tasker.annotate_task(:task, 'search 0', '{"n": 1}') > 0 AS noted, tasker.update_step(test.step(:task, 'b'), inputs => '{"x": 2}');
SELECT tasker.orchestrate() IS NOT NULL AS done;
SELECT count(*) FROM tasker.claim_steps(:executor, 2);
SELECT tasker.complete_step(test.step(:task, 'a'), test.claim(:task, 'a'), '{"ok": true}');
SELECT jsonb_pretty(tasker.task_document(:task) - 'task_id' - 'workflow_steps' - 'task_annotations') AS document;
SELECT annotation->>'annotation_type' AS type, (annotation->'annotation') - 'workflow_step_id' AS annotation FROM jsonb_array_elements(tasker.task_document(:task)->'task_annotations') annotation;
-- Steps are named instead of numbered, so that a person can check them.
CREATE FUNCTION pg_temp.names(ids jsonb) RETURNS text LANGUAGE sql AS $$
	SELECT coalesce(string_agg(n.name, ' ' ORDER BY i.place), '') FROM jsonb_array_elements_text(ids) WITH ORDINALITY i (id, place)
	JOIN tasker.workflow_steps s ON s.workflow_step_id = i.id::bigint JOIN tasker.named_steps n USING (named_step_id)
$$;
SELECT s->>'name' AS name, pg_temp.names(s->'parents_ids') AS parents, pg_temp.names(s->'children_ids') AS children, pg_temp.names(s->'siblings_ids') AS siblings,
	s->'status' AS status, s->'processed' AS processed, s->'in_process' AS in_process, s->>'processed_at' IS NOT NULL AS has_processed_at, s->'inputs' AS inputs, s->'results' AS results
FROM jsonb_array_elements(tasker.task_document(:task)->'workflow_steps') WITH ORDINALITY d (s, place) ORDER BY place;
SELECT string_agg(key, ' ' ORDER BY key) AS keys FROM jsonb_object_keys(tasker.task_document(:task)->'workflow_steps'->0) key;
SELECT string_agg(key, ' ' ORDER BY key) AS analysis FROM jsonb_object_keys(tasker.task_document(:task, true)->'dependency_analysis') key;
SELECT tasker.task_document(-1) IS NULL AND tasker.task_document(NULL) IS NULL AS none;
-- A wide one: siblings are listed up to a thousand.
SELECT test.template('search wide', 'a; ' || string_agg('b' || n || '<-a', '; ')) > 0 AS registered FROM generate_series(1, 1001) n;
SELECT tasker.create_task('search wide', namespace => 'test') AS wide \gset
SELECT count(*) AS steps, count(*) FILTER (WHERE s->'siblings_ids' = 'null') AS without_siblings, max(jsonb_array_length(s->'children_ids')) AS children
FROM jsonb_array_elements(tasker.task_document(:wide)->'workflow_steps') s;

-- Nothing of this waits for work that will never come.
SELECT tasker.unregister_executor(:executor);
SELECT count(tasker.cancel_task(task_id)) > 0 AS cancelled FROM tasker.task_summaries WHERE name LIKE 'search%' AND state IN ('pending', 'in_progress');
SELECT tasker.orchestrate() IS NOT NULL AS done;
SELECT * FROM tasker.check();
