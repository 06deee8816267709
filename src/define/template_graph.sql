-- The graph of a template, for people and tools.

CREATE FUNCTION tasker.find_template(name text, namespace text, version text) RETURNS integer
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	found_id integer;
BEGIN
	SELECT t.named_task_id INTO found_id
	FROM tasker.named_tasks t
	JOIN tasker.task_namespaces n USING (task_namespace_id)
	WHERE n.name = find_template.namespace AND t.name = find_template.name
		AND CASE coalesce(find_template.version, 'latest') WHEN 'latest' THEN t.deprecated_at IS NULL
			ELSE t.version = find_template.version END
	ORDER BY t.version_numbers DESC
	LIMIT 1;
	IF found_id IS NULL THEN
		RAISE EXCEPTION 'template "%.%" does not exist', coalesce(find_template.namespace, 'NULL'),
			coalesce(find_template.name, 'NULL') || coalesce('@' || find_template.version, '')
			USING ERRCODE = 'undefined_object', HINT = 'Register it with tasker.register_task_template().';
	END IF;
	RETURN found_id;
END
$$;
COMMENT ON FUNCTION tasker.find_template(text, text, text) IS
'The named_task_id of a version of a template, deprecated or not; where version is NULL or ''latest'', of the highest that is not deprecated. Error: 42704 unknown template.';

-- Nodes are numbered by position, which is a topological order. Nested loops and
-- scans are off for the same reason as in task_edges().
CREATE FUNCTION tasker.template_edges(named_task_id integer, OUT sources integer[], OUT targets integer[])
LANGUAGE sql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
SET enable_nestloop = off
SET enable_seqscan = off
SET jit = off
BEGIN ATOMIC
	SELECT coalesce(array_agg(p.position + 1 ORDER BY c.position, p.position), '{}'),
		coalesce(array_agg(c.position + 1 ORDER BY c.position, p.position), '{}')
	FROM tasker.named_step_edges e
	JOIN tasker.named_tasks_named_steps p ON p.named_task_id = template_edges.named_task_id AND p.named_step_id = e.from_named_step_id
	JOIN tasker.named_tasks_named_steps c ON c.named_task_id = template_edges.named_task_id AND c.named_step_id = e.to_named_step_id
	WHERE e.named_task_id = template_edges.named_task_id;
END;
COMMENT ON FUNCTION tasker.template_edges(integer) IS
'The edges of a template: the n-th leads from the step at position sources[n] - 1 to that at targets[n] - 1.';

CREATE FUNCTION tasker.task_template_graph(name text, namespace text DEFAULT 'default', version text DEFAULT NULL) RETURNS jsonb
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
SET enable_nestloop = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
	template integer := tasker.find_template(name, namespace, version);
	identity jsonb;
	step_names text[];
	edge record;
	levels integer[];
	nodes jsonb;
BEGIN
	SELECT jsonb_build_object('name', t.name, 'namespace', n.name, 'version', t.version, 'deprecated', t.deprecated_at IS NOT NULL) INTO identity
	FROM tasker.named_tasks t
	JOIN tasker.task_namespaces n USING (task_namespace_id)
	WHERE t.named_task_id = template;
	step_names := ARRAY(SELECT n.name FROM tasker.named_tasks_named_steps s JOIN tasker.named_steps n USING (named_step_id)
		WHERE s.named_task_id = template ORDER BY s.position);
	edge := tasker.template_edges(template);
	levels := (tasker.graph_depths(cardinality(step_names), edge.sources, edge.targets)).longest;

	WITH edges AS MATERIALIZED (
		SELECT e.source, e.target, p.name AS source_name, c.name AS target_name
		FROM unnest(edge.sources, edge.targets) e (source, target)
		JOIN unnest(step_names) WITH ORDINALITY p (name, place) ON p.place = e.source
		JOIN unnest(step_names) WITH ORDINALITY c (name, place) ON c.place = e.target
	), parents AS MATERIALIZED (
		SELECT e.target AS place, jsonb_agg(e.source_name ORDER BY e.source) AS names FROM edges e GROUP BY e.target
	), children AS MATERIALIZED (
		SELECT e.source AS place, jsonb_agg(e.target_name ORDER BY e.target) AS names FROM edges e GROUP BY e.source
	), step AS MATERIALIZED (
		SELECT s.position, n.name, h.name AS handler, l.level, s.skippable,
			CASE WHEN s.default_retryable THEN greatest(s.default_retry_limit, 1) ELSE 1 END AS attempts_allowed,
			coalesce(p.names, '[]') AS parents, coalesce(c.names, '[]') AS children
		FROM tasker.named_tasks_named_steps s
		JOIN tasker.named_steps n USING (named_step_id)
		JOIN tasker.handlers h USING (handler_id)
		JOIN unnest(levels) WITH ORDINALITY l (level, place) ON l.place = s.position + 1
		LEFT JOIN parents p ON p.place = s.position + 1
		LEFT JOIN children c ON c.place = s.position + 1
		WHERE s.named_task_id = template
	), level AS (
		SELECT s.level, jsonb_agg(s.name ORDER BY s.position) AS names, count(*) AS width FROM step s GROUP BY s.level
	)
	SELECT jsonb_build_object(
			'nodes', coalesce((SELECT jsonb_agg(to_jsonb(s) ORDER BY s.position) FROM step s), '[]'),
			'edges', coalesce((SELECT jsonb_agg(jsonb_build_object('from', e.source_name, 'to', e.target_name,
					'type', CASE jsonb_array_length(p.names) WHEN 1 THEN 'single' ELSE 'multiple' END) ORDER BY e.target, e.source)
				FROM edges e JOIN parents p ON p.place = e.target), '[]'),
			'topological_order', to_jsonb(step_names),
			'levels', coalesce((SELECT jsonb_agg(l.names ORDER BY l.level) FROM level l), '[]'),
			'roots', coalesce((SELECT jsonb_agg(s.name ORDER BY s.position) FROM step s WHERE s.parents = '[]'), '[]'),
			'leaves', coalesce((SELECT jsonb_agg(s.name ORDER BY s.position) FROM step s WHERE s.children = '[]'), '[]'),
			'critical_path', (SELECT jsonb_agg(n.name ORDER BY v.place)
				FROM tasker.graph_paths(edge.sources, edge.targets, array_fill(1::double precision, ARRAY[cardinality(step_names)]), 1) p
				CROSS JOIN LATERAL unnest(p.nodes) WITH ORDINALITY v (node, place)
				JOIN unnest(step_names) WITH ORDINALITY n (name, place) ON n.place = v.node),
			'summary', (SELECT jsonb_build_object('total_steps', cardinality(step_names), 'total_dependencies', cardinality(edge.sources),
					'has_cycles', false, 'max_depth', coalesce(max(l.level), 0), 'parallel_branches', coalesce(max(l.width), 0))
				FROM level l))
	INTO nodes;
	RETURN identity || nodes;
END
$$;
COMMENT ON FUNCTION tasker.task_template_graph(text, text, text) IS
'The graph of a template (version NULL: the latest by number, deprecated or not): name, namespace, version, deprecated; nodes (name, handler, position, level, parents, children, skippable, attempts_allowed); edges (from, to, type: multiple where the dependent has other parents too, else single); topological_order; levels, a level being the longest path from a root; roots; leaves; critical_path, the longest path; summary (total_steps, total_dependencies, has_cycles, which is never so, max_depth, the highest level from 0, parallel_branches, the widest level). Linear in steps and edges. Error: 42704 unknown template.';

CREATE FUNCTION tasker.task_template_diagram(name text, namespace text DEFAULT 'default', version text DEFAULT NULL,
	format text DEFAULT 'text') RETURNS text
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
SET enable_nestloop = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
	graph jsonb;
	identity record;
	drawing jsonb;
BEGIN
	PERFORM tasker.check_diagram_format(format);
	graph := tasker.task_template_graph(name, namespace, version);
	SELECT t.* INTO identity FROM jsonb_to_record(graph) AS t (name text, namespace text, version text);

	WITH step AS MATERIALIZED (
		SELECT s.node, s.node ->> 'name' AS name, (s.node ->> 'position')::integer AS position
		FROM jsonb_array_elements(graph -> 'nodes') s (node)
	)
	SELECT jsonb_build_object(
			'title', tasker.one_line(format('%s %s in %s', identity.name, identity.version, identity.namespace)),
			'direction', 'TD',
			'template', to_jsonb(identity),
			'nodes', (SELECT coalesce(jsonb_agg((s.node - '{parents,children}'::text[]) || jsonb_build_object('id', 'step_' || s.position, 'type', 'step',
					'lines', to_jsonb(ARRAY[s.name, s.node ->> 'handler', 'up to ' || (s.node ->> 'attempts_allowed')
						|| CASE s.node ->> 'attempts_allowed' WHEN '1' THEN ' attempt' ELSE ' attempts' END])
						|| CASE WHEN (s.node ->> 'skippable')::boolean THEN '["skippable"]' ELSE '[]'::jsonb END)
					ORDER BY s.position), '[]') FROM step s),
			'edges', (SELECT coalesce(jsonb_agg(jsonb_build_object('source_id', 'step_' || p.position, 'target_id', 'step_' || c.position,
					'label', 'provides') ORDER BY c.position, p.position), '[]')
				FROM jsonb_array_elements(graph -> 'edges') e (edge)
				JOIN step p ON p.name = e.edge ->> 'from'
				JOIN step c ON c.name = e.edge ->> 'to'))
	INTO drawing;
	RETURN tasker.draw(drawing, drawing ->> 'title', format);
END
$$;
COMMENT ON FUNCTION tasker.task_template_diagram(text, text, text, text) IS
'A picture of a template (version NULL: the latest by number) in the formats of task_diagram(): ''text'', ''mermaid'', ''dot'', ''json''. Errors: 22023 unknown format; 42704 unknown template.';
