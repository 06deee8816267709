-- Pictures of a task for people: its graph as it stands, and its history.

-- Steps, edges and levels come as arrays in the order of the step ids, what hangs
-- on a step by subplans: there is no join that could be planned badly.
CREATE FUNCTION tasker.task_drawing(task_id bigint) RETURNS jsonb
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
	task record;
	graph record;
	levels integer[];
	nodes jsonb;
	edges jsonb;
BEGIN
	SELECT t.task_id, t.state, n.name, n.version, s.name AS namespace INTO task
	FROM tasker.tasks t
	JOIN tasker.named_tasks n USING (named_task_id)
	JOIN tasker.task_namespaces s ON s.task_namespace_id = t.task_namespace_id
	WHERE t.task_id = task_drawing.task_id;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'task % does not exist', coalesce(task_drawing.task_id::text, 'NULL')
			USING ERRCODE = 'undefined_object';
	END IF;
	graph := tasker.task_edges(task.task_id);
	levels := (tasker.graph_depths(cardinality(graph.step_ids), graph.sources, graph.targets)).longest;

	SELECT jsonb_agg(jsonb_strip_nulls(jsonb_build_object('id', 'step_' || step.id, 'type', 'step', 'step_id', step.id,
			'name', step.name, 'level', levels[step.place], 'state', step.state, 'colour', step.colour,
			'attempts', step.attempts, 'retry_limit', step.retry_limit, 'error', step.error,
			'lines', array_remove(ARRAY[step.name, step.state::text, 'attempts ' || step.attempts || '/' || step.retry_limit,
				left(step.error, 30)], NULL))) ORDER BY step.place) INTO nodes
	FROM (
		SELECT s.workflow_step_id AS id, row_number() OVER (ORDER BY s.workflow_step_id + 0) AS place,
			s.state, s.attempts, s.retry_limit,
			(SELECT c.colour FROM tasker.state_colours() c WHERE c.state = s.state) AS colour,
			(SELECT n.name FROM tasker.named_steps n WHERE n.named_step_id = s.named_step_id) AS name,
			(SELECT l.metadata ->> 'error_message' FROM tasker.workflow_step_transition_log l
				WHERE s.state = 'error' AND l.workflow_step_id = s.workflow_step_id AND l.sort_key = s.sort_key) AS error
		FROM tasker.workflow_steps s
		WHERE s.task_id = task_drawing.task_id
	) step;

	SELECT jsonb_agg(jsonb_build_object('source_id', edge.source, 'target_id', 'step_' || graph.step_ids[edge.target], 'label', edge.label)
			ORDER BY edge.target, edge.place) INTO edges
	FROM (
		SELECT 'task_' || task.task_id AS source, s.place AS target, 0 AS place, 'starts' AS label
		FROM unnest(levels) WITH ORDINALITY s (level, place)
		WHERE s.level = 0
		UNION ALL
		SELECT 'step_' || graph.step_ids[e.source], e.target, e.source, 'provides'
		FROM unnest(graph.sources, graph.targets) e (source, target)
	) edge;

	RETURN jsonb_build_object(
		'title', format('Task %s: %s', task.task_id, tasker.one_line(task.name)),
		'direction', 'TD',
		'task', jsonb_build_object('task_id', task.task_id, 'name', task.name, 'namespace', task.namespace,
			'version', task.version, 'state', task.state),
		'states', (SELECT jsonb_agg(to_jsonb(c)) FROM tasker.state_colours() c),
		'nodes', jsonb_build_array(jsonb_build_object('id', 'task_' || task.task_id, 'type', 'task', 'task_id', task.task_id,
			'name', task.name, 'state', task.state,
			'colour', (SELECT c.colour FROM tasker.state_colours() c WHERE c.state = task.state),
			'lines', jsonb_build_array(task.name, 'id ' || task.task_id, task.state))) || coalesce(nodes, '[]'),
		'edges', coalesce(edges, '[]'));
END
$$;
COMMENT ON FUNCTION tasker.task_drawing(bigint) IS
'The graph of a task as tasker.draw() wants it. Helper of task_diagram(). Error: 42704 unknown task.';

CREATE FUNCTION tasker.task_diagram(task_id bigint, format text DEFAULT 'text') RETURNS text
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	graph jsonb;
	task record;
BEGIN
	PERFORM tasker.check_diagram_format(format);
	graph := tasker.task_drawing(task_id);
	SELECT t.* INTO task FROM jsonb_to_record(graph -> 'task') AS t (task_id bigint, name text, version text, namespace text, state text);
	RETURN tasker.draw(graph,
		format('task %s: %s %s in %s, %s', task.task_id, task.name, task.version, task.namespace, task.state), format);
END
$$;
COMMENT ON FUNCTION tasker.task_diagram(bigint, text) IS
'A picture of a task. ''text'', for a terminal: steps by level with state, attempts/limit, parents and error. ''mermaid'': a flowchart. ''dot'': for Graphviz, with whole error messages as tooltips. ''json'': title, direction, task, states with their colours, nodes (id, type, name, state, colour, lines, and of a step step_id, level, attempts, retry_limit, error) and edges (source_id, target_id, label). Marks: [ ] pending, [>] in progress, [x] complete, [!] error, [-] cancelled, [~] resolved by hand. Errors: 22023 unknown format; 42704 unknown task.';

CREATE FUNCTION tasker.task_timeline(task_id bigint)
RETURNS TABLE (at timestamptz, since_start interval, owner text, step_name text, attempt integer,
	from_state tasker.state, to_state tasker.state, executor text, detail text)
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
	SELECT happened.created_at, happened.created_at - min(happened.created_at) OVER (),
		happened.owner, happened.step_name, happened.attempt,
		happened.from_state, happened.to_state, x.name,
		nullif(concat_ws('; ',
			regexp_replace(happened.metadata ->> 'error_message', '[[:cntrl:]\s]+', ' ', 'g'),
			happened.metadata ->> 'reason',
			'next attempt after ' || (happened.metadata ->> 'backoff_seconds') || ' s',
			happened.metadata ->> 'triggered_by'), '')
	FROM (
		SELECT 'task' AS owner, NULL::bigint AS step_id, NULL::text AS step_name, NULL::integer AS attempt,
			l.sort_key, l.from_state, l.to_state, l.created_at, l.executor_id, l.metadata
		FROM tasker.task_transition_log l
		WHERE l.task_id = task_timeline.task_id
		UNION ALL
		SELECT 'step', s.workflow_step_id, n.name, nullif(l.claims, 0)::integer,
			l.sort_key, l.from_state, l.to_state, l.created_at, l.executor_id, l.metadata
		FROM tasker.workflow_steps s
		LEFT JOIN tasker.named_steps n ON n.named_step_id = s.named_step_id
		CROSS JOIN LATERAL (
			SELECT k.*, count(*) FILTER (WHERE k.to_state = 'in_progress') OVER (ORDER BY k.sort_key) AS claims
			FROM tasker.workflow_step_transition_log k
			WHERE k.workflow_step_id = s.workflow_step_id
		) l
		WHERE s.task_id = task_timeline.task_id
	) happened
	LEFT JOIN tasker.executors x ON x.executor_id = happened.executor_id
	ORDER BY happened.created_at, happened.sort_key, happened.step_id NULLS FIRST;
END;
COMMENT ON FUNCTION tasker.task_timeline(bigint) IS
'Everything that happened to a task and its steps, oldest first. attempt counts the claims of the step so far, those given back included. No row where there is no such task.';
