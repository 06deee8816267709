-- Pictures of a task for people: its graph as it stands, and its history.

-- In a quoted Mermaid label an ASCII punctuation mark may end the label, begin
-- markdown or an entity, or be eaten by Mermaid's own clean-up of style lines,
-- so each one is written as its number; letters of any script, emoji and
-- underscores stay readable. Line breaks and other controls become spaces.
CREATE FUNCTION tasker.mermaid_label(words text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
	SELECT string_agg(
		CASE
			WHEN c.letter IN ('_', ' ') OR (c.letter = '-' AND c.place > 1) THEN c.letter
			WHEN c.letter ~ '^[!-/:-@\[-`{-~]$' THEN '#' || ascii(c.letter) || ';'
			ELSE c.letter
		END, '' ORDER BY c.place)
	FROM regexp_split_to_table(regexp_replace(words, '[[:cntrl:]\s]+', ' ', 'g'), '') WITH ORDINALITY AS c (letter, place);
END;
COMMENT ON FUNCTION tasker.mermaid_label(text) IS 'A text made safe inside the quotes of a Mermaid label. Helper of task_diagram().';

CREATE FUNCTION tasker.task_diagram(task_id bigint, format text DEFAULT 'text') RETURNS text
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
	task record;
	picture text;
BEGIN
	IF format IS NULL OR format NOT IN ('text', 'mermaid') THEN
		RAISE EXCEPTION 'unknown diagram format: %', coalesce(quote_literal(format), 'NULL')
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Formats are ''text'' and ''mermaid''.';
	END IF;

	SELECT t.task_id, t.named_task_id, t.state, n.name, n.version, s.name AS namespace INTO task
	FROM tasker.tasks t
	JOIN tasker.named_tasks n USING (named_task_id)
	JOIN tasker.task_namespaces s ON s.task_namespace_id = t.task_namespace_id
	WHERE t.task_id = task_diagram.task_id;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'task % does not exist', coalesce(task_diagram.task_id::text, 'NULL')
			USING ERRCODE = 'undefined_object';
	END IF;

	IF format = 'text' THEN
		-- One line a step under the heading of its level. A wide fan-in names
		-- its first parents only: a terminal has no room for a thousand.
		WITH step AS (
			SELECT d.dependency_level AS level, s.workflow_step_id AS id, s.state, s.attempts, s.retry_limit,
				regexp_replace(n.name, '[[:cntrl:]\s]+', ' ', 'g') AS name,
				(SELECT string_agg(p.name, ', ' ORDER BY p.id) || CASE WHEN count(*) < max(p.total) THEN ', and ' || max(p.total) - count(*) || ' more' ELSE '' END
					FROM (
						SELECT ps.workflow_step_id AS id, count(*) OVER () AS total,
							regexp_replace(pn.name, '[[:cntrl:]\s]+', ' ', 'g') AS name
						FROM tasker.named_step_edges e
						JOIN tasker.workflow_steps ps ON ps.task_id = s.task_id AND ps.named_step_id = e.from_named_step_id
						JOIN tasker.named_steps pn ON pn.named_step_id = ps.named_step_id
						WHERE e.named_task_id = task.named_task_id AND e.to_named_step_id = s.named_step_id
						ORDER BY ps.workflow_step_id
						LIMIT 8
					) p) AS parents,
				(SELECT regexp_replace(l.metadata ->> 'error_message', '[[:cntrl:]\s]+', ' ', 'g')
					FROM tasker.workflow_step_transition_log l
					WHERE s.state = 'error' AND l.workflow_step_id = s.workflow_step_id AND l.sort_key = s.sort_key) AS error
			FROM tasker.dependency_levels(task_diagram.task_id) d
			JOIN tasker.workflow_steps s ON s.workflow_step_id = d.workflow_step_id
			JOIN tasker.named_steps n ON n.named_step_id = s.named_step_id
		), line AS (
			SELECT DISTINCT step.level, 0::bigint AS id, 'level ' || step.level AS words FROM step
			UNION ALL
			SELECT step.level, step.id, rtrim(
				CASE step.state
					WHEN 'pending' THEN '  [ ] '
					WHEN 'in_progress' THEN '  [>] '
					WHEN 'complete' THEN '  [x] '
					WHEN 'error' THEN '  [!] '
					WHEN 'cancelled' THEN '  [-] '
					WHEN 'resolved_manually' THEN '  [~] '
				END
				|| rpad(step.name, max(length(step.name)) OVER ())
				|| '  ' || rpad(step.state::text, max(length(step.state::text)) OVER ())
				|| '  ' || step.attempts || '/' || step.retry_limit
				|| coalesce('  <- ' || step.parents, '')
				|| coalesce('  ! ' || CASE WHEN length(step.error) > 60 THEN left(step.error, 57) || '...' ELSE step.error END, ''))
			FROM step
		)
		SELECT string_agg(E'\n' || line.words, '' ORDER BY line.level, line.id) INTO picture FROM line;

		RETURN format('task %s: %s %s in %s, %s', task.task_id,
			regexp_replace(task.name, '[[:cntrl:]\s]+', ' ', 'g'), task.version,
			regexp_replace(task.namespace, '[[:cntrl:]\s]+', ' ', 'g'), task.state)
			|| coalesce(picture, '');
	END IF;

	WITH step AS (
		SELECT s.workflow_step_id AS id, s.named_step_id, s.is_root, s.state,
			tasker.mermaid_label(n.name)
				|| '<br/>' || s.state || '<br/>attempts ' || s.attempts || '/' || s.retry_limit
				|| coalesce('<br/>' || tasker.mermaid_label(left((SELECT l.metadata ->> 'error_message'
					FROM tasker.workflow_step_transition_log l
					WHERE s.state = 'error' AND l.workflow_step_id = s.workflow_step_id AND l.sort_key = s.sort_key), 30)), '') AS label
		FROM tasker.workflow_steps s
		JOIN tasker.named_steps n USING (named_step_id)
		WHERE s.task_id = task_diagram.task_id
	), edge AS (
		SELECT 'task_' || task.task_id AS source, step.id, 0::bigint AS from_id FROM step WHERE step.is_root
		UNION ALL
		SELECT 'step_' || p.id, step.id, p.id
		FROM tasker.named_step_edges e
		JOIN step ON step.named_step_id = e.to_named_step_id
		JOIN step p ON p.named_step_id = e.from_named_step_id
		WHERE e.named_task_id = task.named_task_id
	), node AS (
		SELECT 0::bigint AS id, 'task_' || task.task_id AS name, task.state
		UNION ALL
		SELECT step.id, 'step_' || step.id, step.state FROM step
	), line AS (
		SELECT 1 AS part, 0::bigint AS id, 0::bigint AS place,
			format('task_%s["%s<br/>id %s<br/>%s"]', task.task_id, tasker.mermaid_label(task.name), task.task_id, task.state) AS words
		UNION ALL
		SELECT 2, step.id, 0, format('step_%s["%s"]', step.id, step.label) FROM step
		UNION ALL
		SELECT 3, edge.id, edge.from_id, format('%s --> step_%s', edge.source, edge.id) FROM edge
		UNION ALL
		SELECT 4, 0, colour.place, format('classDef %s fill:%s', colour.state, colour.name)
		FROM (VALUES (1, 'pending', 'lightblue'), (2, 'in_progress', 'lightgreen'), (3, 'complete', 'green'),
			(4, 'error', 'red'), (5, 'cancelled', 'gray'), (6, 'resolved_manually', 'lightgray')) AS colour (place, state, name)
		UNION ALL
		SELECT 5, min(node.id), 0, format('class %s %s', string_agg(node.name, ',' ORDER BY node.id), node.state)
		FROM node GROUP BY node.state
	)
	SELECT string_agg(E'\n    ' || line.words, '' ORDER BY line.part, line.id, line.place) INTO picture FROM line;

	RETURN E'---\ntitle: '
		|| to_json(format('Task %s: %s', task.task_id, regexp_replace(task.name, '[[:cntrl:]\s]+', ' ', 'g')))
		|| E'\n---\nflowchart TD' || picture;
END
$$;
COMMENT ON FUNCTION tasker.task_diagram(bigint, text) IS
'A picture of a task. ''text'', for a terminal: steps by level with state, attempts/limit, parents and error. ''mermaid'': a flowchart. Marks: [ ] pending, [>] in progress, [x] complete, [!] error, [-] cancelled, [~] resolved by hand. Errors: 22023 unknown format; 42704 unknown task.';

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
