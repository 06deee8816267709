-- Everything here is deterministic: no background worker acts on its own in
-- this database (tests call tasker.orchestrate()), and backoffs have no jitter.
SELECT format('ALTER DATABASE %I SET %s', current_database(), setting)
FROM unnest(ARRAY['tasker.orchestrator = off', 'tasker.backoff_jitter = 0',
	'client_min_messages = warning', 'TimeZone = ''UTC''']) setting \gexec
CREATE EXTENSION tasker;

-- A vocabulary for the tests, outside of the extension.
CREATE SCHEMA test;

-- Registers namespace test, template NAME, from "a; b<-a; c<-a,b": every step
-- has the handler H. options is merged into each step.
CREATE FUNCTION test.template(name text, steps text, options jsonb DEFAULT '{}', version text DEFAULT '1.0.0')
RETURNS integer LANGUAGE sql AS $$
	SELECT tasker.register_task_template(jsonb_build_object('name', name, 'namespace_name', 'test', 'version', version,
		'step_templates', jsonb_agg(
			jsonb_build_object('name', trim(split_part(s, '<-', 1)), 'handler_class', 'H')
			|| CASE WHEN s LIKE '%<-%' THEN jsonb_build_object('depends_on_steps',
				(SELECT jsonb_agg(trim(p)) FROM unnest(string_to_array(split_part(s, '<-', 2), ',')) p)) ELSE '{}' END
			|| options ORDER BY n)))
	FROM unnest(string_to_array(steps, ';')) WITH ORDINALITY u(s, n)
$$;

-- The id of a step by its name.
CREATE FUNCTION test.step(task bigint, step_name text) RETURNS bigint LANGUAGE sql AS $$
	SELECT workflow_step_id FROM tasker.workflow_steps JOIN tasker.named_steps n USING (named_step_id)
	WHERE task_id = task AND n.name = step_name
$$;

-- The claim number of a step in progress.
CREATE FUNCTION test.claim(task bigint, step_name text) RETURNS integer LANGUAGE sql AS $$
	SELECT sort_key FROM tasker.workflow_steps WHERE workflow_step_id = test.step(task, step_name) AND state = 'in_progress'
$$;

-- All steps of a task, in the order of the template.
CREATE FUNCTION test.steps(task bigint, OUT step text, OUT state tasker.state, OUT attempts integer)
RETURNS SETOF record LANGUAGE sql AS $$
	SELECT n.name, s.state, s.attempts FROM tasker.workflow_steps s JOIN tasker.named_steps n USING (named_step_id)
	WHERE s.task_id = task ORDER BY s.workflow_step_id
$$;

-- The history of a task and its steps: "a: pending > in_progress", in order of writing within each owner.
CREATE FUNCTION test.history(task bigint, OUT owner text, OUT moves text) RETURNS SETOF record LANGUAGE sql AS $$
	SELECT 'task', string_agg(to_state::text, ' > ' ORDER BY sort_key) FROM tasker.task_transitions WHERE task_id = task
	UNION ALL
	(SELECT n.name, string_agg(l.to_state::text, ' > ' ORDER BY l.sort_key)
	FROM tasker.workflow_steps s JOIN tasker.named_steps n USING (named_step_id)
	JOIN tasker.workflow_step_transitions l USING (workflow_step_id)
	WHERE s.task_id = task GROUP BY s.workflow_step_id, n.name ORDER BY s.workflow_step_id)
$$;

-- Completes whatever can run until nothing can; returns the number of step runs.
CREATE FUNCTION test.run_all(executor bigint) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
	runs integer := 0;
	batch integer;
BEGIN
	LOOP
		PERFORM tasker.orchestrate();
		WITH c AS MATERIALIZED (SELECT * FROM tasker.claim_steps(executor, 1000))
		SELECT count(tasker.complete_step(c.workflow_step_id, c.claim, jsonb_build_object('by', c.step_name))) INTO batch FROM c;
		runs := runs + batch;
		EXIT WHEN batch = 0;
	END LOOP;
	PERFORM tasker.orchestrate();
	RETURN runs;
END
$$;
