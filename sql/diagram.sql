-- Diagrams of tasks and templates, in each format.
\set SHOW_CONTEXT never
SELECT tasker.orchestrate() >= 0 AS settled;
SELECT executor_id AS executor FROM tasker.register_executor('diagram', '{diagram.H}', 0) \gset

-- Ids differ between runs: names of steps, numbers of the template and N stand in their place.
CREATE FUNCTION pg_temp.without_ids(picture text, task bigint) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	s record;
BEGIN
	FOR s IN SELECT workflow_step_id AS id, row_number() OVER (ORDER BY workflow_step_id) AS place FROM tasker.workflow_steps
		WHERE task_id = task ORDER BY workflow_step_id DESC LOOP
		picture := regexp_replace(picture, '(step_|"step_id": )' || s.id || '\M', '\1' || s.place, 'g');
	END LOOP;
	RETURN regexp_replace(picture, '(task_|task |Task |id |"task_id": )' || task || '\M', '\1N', 'g');
END
$$;

---- a task: an error, a retry, a cancelled branch ----
SELECT tasker.register_task_template('{"name": "diagram order", "namespace_name": "diagram", "version": "1.2.3", "step_templates": [
	{"name": "validate", "handler_class": "diagram.H"},
	{"name": "charge", "handler_class": "diagram.H", "depends_on_step": "validate", "default_retryable": false},
	{"name": "reserve", "handler_class": "diagram.H", "depends_on_step": "validate", "default_retry_limit": 5},
	{"name": "gift wrap", "handler_class": "diagram.H", "depends_on_step": "validate", "skippable": true},
	{"name": "ship", "handler_class": "diagram.Ship", "depends_on_steps": ["charge", "reserve"]},
	{"name": "note", "handler_class": "diagram.H", "depends_on_step": "gift wrap"}]}') > 0 AS registered;
SELECT tasker.create_task('diagram order', namespace => 'diagram') AS task \gset
SELECT tasker.orchestrate() > 0 AS orchestrated;
SELECT tasker.complete_step(workflow_step_id, claim) FROM tasker.claim_steps(:executor, 1);
SELECT tasker.orchestrate() > 0 AS orchestrated;
SELECT step_name FROM tasker.claim_steps(:executor, 10);
SELECT tasker.fail_step(test.step(:task, 'charge'), 10, E'card "declined" by C:\\new\\bank & co:\n\tinsufficient <funds>\r\nask again tomorrow');
SELECT tasker.fail_step(test.step(:task, 'reserve'), 10, 'no stock', retry_after_seconds => 0);
SELECT tasker.cancel_step(test.step(:task, 'gift wrap'));
SELECT tasker.orchestrate() > 0 AS orchestrated;
SELECT step_name, attempt FROM tasker.claim_steps(:executor, 10);
\pset format unaligned
\pset tuples_only on
-- the error is cut at 30 characters in the box and whole in the tooltip
SELECT pg_temp.without_ids(tasker.task_diagram(:task, 'dot'), :task);
SELECT pg_temp.without_ids(tasker.task_diagram(:task, 'text'), :task);
SELECT pg_temp.without_ids(jsonb_pretty(tasker.task_diagram(:task, 'json')::jsonb), :task);

---- a template ----
SELECT tasker.task_template_diagram('diagram order', 'diagram');
SELECT tasker.task_template_diagram('diagram order', 'diagram', '1.2.3', 'mermaid');
SELECT tasker.task_template_diagram('diagram order', 'diagram', format => 'dot');
SELECT jsonb_pretty(tasker.task_template_diagram('diagram order', 'diagram', format => 'json')::jsonb - 'nodes');
SELECT jsonb_pretty(node) FROM jsonb_path_query(tasker.task_template_diagram('diagram order', 'diagram', format => 'json')::jsonb, '$.nodes[*] ? (@.name like_regex "gift|charge")') node;

---- names that a picture must survive ----
SELECT tasker.register_task_template(jsonb_build_object('name', E'odd "name" \\ & <b>', 'namespace_name', 'diagram', 'step_templates', jsonb_build_array(
	jsonb_build_object('name', 'a quote " and a backslash \', 'handler_class', 'diagram.H'),
	jsonb_build_object('name', E'\\N \\G \\l \\" escapes', 'handler_class', 'diagram.H', 'depends_on_step', 'a quote " and a backslash \'),
	jsonb_build_object('name', '<table> &lt; &amp; &#65;', 'handler_class', 'diagram.H', 'depends_on_step', 'a quote " and a backslash \'),
	jsonb_build_object('name', E'two\r\nlines\tand a tab\u0001', 'handler_class', 'diagram.H', 'depends_on_steps', jsonb_build_array(E'\\N \\G \\l \\" escapes', '<table> &lt; &amp; &#65;')),
	jsonb_build_object('name', 'Ünï 🚀 ]; -> x', 'handler_class', 'diagram.H')))) > 0 AS registered;
SELECT tasker.create_task(E'odd "name" \\ & <b>', namespace => 'diagram') AS odd \gset
SELECT pg_temp.without_ids(tasker.task_diagram(:odd, 'dot'), :odd);
SELECT tasker.task_template_diagram(E'odd "name" \\ & <b>', 'diagram', format => 'dot');
SELECT tasker.task_template_diagram(E'odd "name" \\ & <b>', 'diagram', format => 'mermaid');
SELECT tasker.task_template_diagram(E'odd "name" \\ & <b>', 'diagram');
-- JSON says them as they are
SELECT node ->> 'name' FROM jsonb_array_elements(tasker.task_diagram(:odd, 'json')::jsonb -> 'nodes') node;
\pset tuples_only off
\pset format aligned

---- the json format agrees with the tables ----
SELECT count(*) AS nodes, bool_and(node ->> 'state' = s.state::text AND (node ->> 'attempts')::integer = s.attempts AND (node ->> 'retry_limit')::integer = s.retry_limit
	AND (node ->> 'level')::integer = l.dependency_level AND node ->> 'colour' = c.colour) AS as_it_is
FROM jsonb_array_elements(tasker.task_diagram(:task, 'json')::jsonb -> 'nodes') node
JOIN tasker.workflow_steps s ON s.workflow_step_id = (node ->> 'step_id')::bigint
JOIN tasker.dependency_levels(:task) l USING (workflow_step_id)
JOIN tasker.state_colours() c ON c.state = s.state;
SELECT count(*) AS edges, count(e.from_step_id) AS as_it_is
FROM jsonb_array_elements(tasker.task_diagram(:task, 'json')::jsonb -> 'edges') edge
LEFT JOIN tasker.workflow_step_edges e ON edge ->> 'source_id' = 'step_' || e.from_step_id AND edge ->> 'target_id' = 'step_' || e.to_step_id
WHERE edge ->> 'label' = 'provides';

---- the latest version by number that is not deprecated, as everywhere ----
SELECT test.template('diagram versions', 'a', version => '1.9.0') > 0 AS registered, test.template('diagram versions', 'a; b<-a', version => '1.10.0') > 0 AS registered_too,
	test.template('diagram versions', 'a; b; c', version => '2.0.0') > 0 AS and_one_more;
SELECT tasker.task_template_diagram('diagram versions', 'test', '1.9.0');
SELECT tasker.deprecate_task_template('diagram versions', 'test', '2.0.0');
SELECT tasker.task_template_diagram('diagram versions', 'test');

---- refused ----
SELECT tasker.task_template_diagram('diagram versions', 'test', format => 'svg');
SELECT tasker.task_template_diagram('diagram versions', 'test', format => NULL);
SELECT tasker.task_template_diagram('diagram versions');
SELECT tasker.task_template_diagram('diagram versions', 'test', '1.0.0');
SELECT tasker.task_template_diagram(NULL, 'test');
SELECT tasker.task_diagram(-1, 'dot');

SELECT tasker.cancel_task(:task), tasker.cancel_task(:odd);
SELECT tasker.unregister_executor(:executor);
SELECT tasker.orchestrate() >= 0 AS orchestrated;
SELECT * FROM tasker.check();
