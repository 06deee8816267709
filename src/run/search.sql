-- Finding tasks: newest first, page by page.

CREATE VIEW tasker.task_summaries AS
SELECT t.task_id, s.name AS namespace, n.name, n.version, s.name || '.' || n.name || '@' || n.version AS full_name,
	t.state,
	(SELECT l.created_at FROM tasker.task_transition_log l
		WHERE l.task_id = t.task_id AND l.sort_key = t.sort_key) AS state_since,
	t.priority, t.requested_at, t.initiator, t.source_system, t.reason, t.tags, t.identity_key
FROM tasker.tasks t
JOIN tasker.named_tasks n ON n.named_task_id = t.named_task_id
JOIN tasker.task_namespaces s ON s.task_namespace_id = n.task_namespace_id;
COMMENT ON VIEW tasker.task_summaries IS
'What a list says of each task. For people and dashboards; ask by task_id, or find_tasks() for a page.';
COMMENT ON COLUMN tasker.task_summaries.state_since IS 'When the task came into its state: of a complete one, when it was completed.';

-- The newest tasks are looked at first, whatever is asked for: what is common
-- is found among them. Only then an index is asked, one that is chosen here
-- and not by statistics. A fence (OFFSET 0) around what it is asked for keeps
-- the other conditions from leading to another one. Where several would do, it
-- is the one that likely has the fewest rows; each gives all that it has, to be
-- sorted, but for those that have the order of the ids.
CREATE FUNCTION tasker.find_tasks(
	namespace text DEFAULT NULL, name text DEFAULT NULL, version text DEFAULT NULL, states tasker.state[] DEFAULT NULL,
	tags text[] DEFAULT NULL, any_tags text[] DEFAULT NULL, annotation_type text DEFAULT NULL, annotation jsonb DEFAULT NULL,
	initiator text DEFAULT NULL, source_system text DEFAULT NULL,
	requested_from timestamptz DEFAULT NULL, requested_before timestamptz DEFAULT NULL,
	identity_key text DEFAULT NULL, context jsonb DEFAULT NULL,
	before_task_id bigint DEFAULT NULL, max_tasks integer DEFAULT 20)
RETURNS SETOF tasker.task_summaries
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
	confined CONSTANT boolean := NOT tasker.sees_everything();
	newest CONSTANT text := '(SELECT * FROM tasker.tasks t WHERE t.task_id < $1 ORDER BY t.task_id DESC LIMIT 1000)';
	template_ids integer[];
	namespace_ids integer[];
	type_id integer;
	wanted text := 'true';
	source text;
	upper_end bigint := coalesce(before_task_id, 9223372036854775807);
	found bigint := 0;
BEGIN
	IF max_tasks IS NULL OR max_tasks NOT BETWEEN 1 AND 1000 THEN
		RAISE EXCEPTION 'max_tasks must be between 1 and 1000, not %', coalesce(max_tasks::text, 'NULL')
			USING ERRCODE = 'invalid_parameter_value', HINT = 'For the next page give before_task_id the last task_id of this one.';
	END IF;

	-- Among the tasks of all tenants those of one would be looked for in vain: by its templates they are found.
	IF confined OR find_tasks.namespace IS NOT NULL OR find_tasks.name IS NOT NULL OR find_tasks.version IS NOT NULL THEN
		SELECT array_agg(n.named_task_id) INTO template_ids
		FROM tasker.named_tasks n
		JOIN tasker.task_namespaces s ON s.task_namespace_id = n.task_namespace_id
		WHERE (find_tasks.namespace IS NULL OR s.name = find_tasks.namespace)
			AND (find_tasks.name IS NULL OR n.name = find_tasks.name)
			AND (find_tasks.version IS NULL OR n.version = find_tasks.version);
		wanted := wanted || ' AND t.named_task_id = ANY ($3)';
	END IF;
	IF find_tasks.states IS NOT NULL THEN
		wanted := wanted || ' AND t.state = ANY ($4)';
	END IF;
	IF cardinality(find_tasks.tags) > 0 THEN
		wanted := wanted || $w$ AND t.tags @> $5 AND t.tags <> '{}'$w$;
	END IF;
	IF find_tasks.any_tags IS NOT NULL THEN
		wanted := wanted || $w$ AND t.tags && $6 AND t.tags <> '{}'$w$;
	END IF;
	IF find_tasks.annotation_type IS NOT NULL OR find_tasks.annotation IS NOT NULL THEN
		SELECT y.annotation_type_id INTO type_id FROM tasker.annotation_types y WHERE y.name = find_tasks.annotation_type;
		wanted := wanted || ' AND EXISTS (SELECT FROM (SELECT * FROM tasker.task_annotations a WHERE a.task_id = t.task_id OFFSET 0) a WHERE true'
			|| CASE WHEN find_tasks.annotation_type IS NULL THEN '' ELSE ' AND a.annotation_type_id = $7' END
			|| CASE WHEN find_tasks.annotation IS NULL THEN '' ELSE ' AND a.annotation @> $8' END || ')';
	END IF;
	IF find_tasks.initiator IS NOT NULL THEN
		wanted := wanted || ' AND t.initiator = $9';
	END IF;
	IF find_tasks.source_system IS NOT NULL THEN
		wanted := wanted || ' AND t.source_system = $10';
	END IF;
	IF find_tasks.requested_from IS NOT NULL THEN
		wanted := wanted || ' AND t.requested_at >= $11';
	END IF;
	IF find_tasks.requested_before IS NOT NULL THEN
		wanted := wanted || ' AND t.requested_at < $12';
	END IF;
	IF find_tasks.identity_key IS NOT NULL THEN
		wanted := wanted || ' AND t.identity_key = $13';
	END IF;
	IF find_tasks.context IS NOT NULL THEN
		wanted := wanted || ' AND t.context @> $14';
	END IF;

	source := CASE
		WHEN find_tasks.identity_key IS NOT NULL THEN
			'(SELECT * FROM tasker.tasks t WHERE t.task_namespace_id = ANY ($15) AND t.identity_key = $13 OFFSET 0)'
		WHEN NOT confined AND (find_tasks.annotation_type IS NOT NULL OR find_tasks.annotation IS NOT NULL) THEN
			'(SELECT DISTINCT a.task_id FROM tasker.task_annotations a WHERE a.task_id < $1'
			|| CASE WHEN find_tasks.annotation_type IS NULL THEN '' ELSE ' AND a.annotation_type_id = $7' END
			|| CASE WHEN find_tasks.annotation IS NULL THEN '' ELSE ' AND a.annotation @> $8' END
			|| ' ORDER BY a.task_id DESC OFFSET 0) o CROSS JOIN LATERAL (SELECT * FROM tasker.tasks t WHERE t.task_id = o.task_id OFFSET 0)'
		WHEN NOT confined AND cardinality(find_tasks.tags) > 0 THEN
			$w$(SELECT * FROM tasker.tasks t WHERE t.tags @> $5 AND t.tags <> '{}' OFFSET 0)$w$
		WHEN NOT confined AND find_tasks.any_tags IS NOT NULL THEN
			$w$(SELECT * FROM tasker.tasks t WHERE t.tags && $6 AND t.tags <> '{}' OFFSET 0)$w$
		WHEN NOT confined AND find_tasks.states <@ '{error,cancelled,resolved_manually}' THEN
			$w$(SELECT DISTINCT l.task_id FROM tasker.task_transition_log l
			WHERE l.to_state IN ('error', 'cancelled', 'resolved_manually') AND l.task_id < $1
			ORDER BY l.task_id DESC OFFSET 0) o CROSS JOIN LATERAL (SELECT * FROM tasker.tasks t WHERE t.task_id = o.task_id OFFSET 0)$w$
		WHEN NOT confined AND find_tasks.requested_from IS NOT NULL THEN
			'(SELECT * FROM tasker.tasks t WHERE t.requested_at >= $11'
			|| CASE WHEN find_tasks.requested_before IS NULL THEN '' ELSE ' AND t.requested_at < $12' END || ' OFFSET 0)'
		WHEN confined OR find_tasks.namespace IS NOT NULL OR find_tasks.name IS NOT NULL OR find_tasks.version IS NOT NULL THEN
			-- Equality would do, but then the order could be had from the primary key, too.
			'unnest($3) template (id) CROSS JOIN LATERAL (SELECT * FROM tasker.tasks t
			WHERE t.named_task_id >= template.id AND t.named_task_id <= template.id AND t.task_id < $1 AND ' || wanted
			|| ' ORDER BY t.named_task_id DESC, t.task_id DESC LIMIT $2)'
		ELSE
			'(SELECT * FROM tasker.tasks t WHERE t.task_id < $1 AND ' || wanted || ' ORDER BY t.task_id DESC LIMIT $2)'
	END;
	namespace_ids := ARRAY(SELECT s.task_namespace_id FROM tasker.task_namespaces s);

	FOREACH source IN ARRAY CASE WHEN find_tasks.identity_key IS NULL AND NOT confined THEN ARRAY[newest, source] ELSE ARRAY[source] END
	LOOP
		RETURN QUERY EXECUTE
			'SELECT s.* FROM (SELECT t.task_id FROM ' || source || ' t WHERE t.task_id < $1 AND ' || wanted
			|| ' ORDER BY t.task_id DESC LIMIT $2) page
			CROSS JOIN LATERAL (SELECT * FROM tasker.task_summaries s WHERE s.task_id = page.task_id OFFSET 0) s
			ORDER BY page.task_id DESC'
		USING upper_end, max_tasks - found, template_ids, find_tasks.states, find_tasks.tags, find_tasks.any_tags,
			type_id, find_tasks.annotation, find_tasks.initiator, find_tasks.source_system,
			find_tasks.requested_from, find_tasks.requested_before, find_tasks.identity_key, find_tasks.context, namespace_ids;
		GET DIAGNOSTICS found = ROW_COUNT;
		EXIT WHEN found >= max_tasks OR source <> newest;
		-- Where there are no more than the newest, the bound is NULL and nothing lies below it.
		EXECUTE 'SELECT (SELECT min(t.task_id) FROM ' || newest || ' t HAVING count(*) = 1000)' INTO upper_end USING upper_end;
		EXIT WHEN upper_end IS NULL;
	END LOOP;
END
$$;
COMMENT ON FUNCTION tasker.find_tasks(text, text, text, tasker.state[], text[], text[], text, jsonb, text, text, timestamptz, timestamptz, text, jsonb, bigint, integer) IS
'A page of tasks, newest first: up to max_tasks (1 to 1000) that fulfil all conditions given. tags: has all of them; any_tags: has at least one; annotation: one of this type, where that is given, contains this object, as does context. The next page is asked for with before_task_id, the last task_id of this one: tasks that are created meanwhile move no page. What is not among the newest 1000 tasks is found by an index where one of identity_key, annotation_type, annotation, tags, any_tags, states (of error, cancelled and resolved_manually only), requested_from, namespace, name or version is given, else by walking through all tasks. A role that is confined to namespaces walks through its own tasks instead, unless identity_key is given. Runs with the rights of the caller, who needs SELECT on tasks, named_tasks, task_namespaces, task_transition_log, task_summaries and, to search by them, on annotation_types and task_annotations, as grant_producer() and grant_observer() give it. Error: 22023 bad max_tasks.';
