-- Drawing a graph. What is drawn is a JSON object, which is itself one of the
-- formats: title, direction, nodes of id, type, name, lines (the words in its box)
-- and other facts, edges of source_id, target_id and label, and, where nodes have
-- states, states with their colours. Pure: no function here reads a table.

CREATE FUNCTION tasker.state_colours(OUT state tasker.state, OUT colour text)
RETURNS SETOF record
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
	VALUES ('pending'::tasker.state, 'lightblue'), ('in_progress', 'lightgreen'), ('complete', 'green'),
		('error', 'red'), ('cancelled', 'gray'), ('resolved_manually', 'lightgray');
END;
COMMENT ON FUNCTION tasker.state_colours() IS 'The colour of each state in diagrams.';

CREATE FUNCTION tasker.one_line(words text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN regexp_replace(words, '[[:cntrl:]\s]+', ' ', 'g');
COMMENT ON FUNCTION tasker.one_line(text) IS 'A text without line breaks and other controls: runs of them become one space. Helper of diagrams.';

-- In a quoted Mermaid label an ASCII punctuation mark may end the label, begin
-- markdown or an entity, or be eaten by Mermaid's own clean-up of style lines,
-- so each one is written as its number; letters of any script, emoji, slashes and
-- underscores stay readable.
CREATE FUNCTION tasker.mermaid_label(words text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
	SELECT string_agg(
		CASE
			WHEN c.letter IN ('_', ' ', '/') OR (c.letter = '-' AND c.place > 1) THEN c.letter
			WHEN c.letter ~ '^[!-/:-@\[-`{-~]$' THEN '#' || ascii(c.letter) || ';'
			ELSE c.letter
		END, '' ORDER BY c.place)
	FROM regexp_split_to_table(tasker.one_line(words), '') WITH ORDINALITY AS c (letter, place);
END;
COMMENT ON FUNCTION tasker.mermaid_label(text) IS 'A text made safe inside the quotes of a Mermaid label. Helper of diagrams.';

-- Graphviz reads a backslash as the beginning of an escape and an ampersand as that
-- of an HTML entity, in quotes too. Other controls have no place in SVG.
CREATE FUNCTION tasker.dot_label(words text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN regexp_replace(
	replace(replace(replace(replace(replace(words, '\', '\\'), '"', '\"'), '&', '&amp;'), E'\r\n', E'\n'), E'\n', '\n'),
	'[[:cntrl:]]', ' ', 'g');
COMMENT ON FUNCTION tasker.dot_label(text) IS 'A text made safe inside the quotes of a Graphviz label; line breaks are kept. Helper of diagrams.';

-- Graphviz reads the escapes of a tooltip twice.
CREATE FUNCTION tasker.dot_tooltip(words text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN replace(tasker.dot_label(words), '\\', '\\\\');
COMMENT ON FUNCTION tasker.dot_tooltip(text) IS 'A text made safe inside the quotes of a Graphviz tooltip; line breaks are kept. Helper of diagrams.';

CREATE FUNCTION tasker.draw_mermaid(graph jsonb) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
	WITH node AS (
		SELECT n.node ->> 'id' AS id, n.node ->> 'state' AS state, n.place,
			(SELECT string_agg(tasker.mermaid_label(l.line), '<br/>' ORDER BY l.place)
				FROM jsonb_array_elements_text(n.node -> 'lines') WITH ORDINALITY l (line, place)) AS label
		FROM jsonb_array_elements(graph -> 'nodes') WITH ORDINALITY n (node, place)
	), line AS (
		SELECT 1 AS part, node.place, format('%s["%s"]', node.id, node.label) AS words FROM node
		UNION ALL
		SELECT 2, e.place, format('%s --> %s', e.edge ->> 'source_id', e.edge ->> 'target_id')
		FROM jsonb_array_elements(graph -> 'edges') WITH ORDINALITY e (edge, place)
		UNION ALL
		SELECT 3, s.place, format('classDef %s fill:%s', s.style ->> 'state', s.style ->> 'colour')
		FROM jsonb_array_elements(graph -> 'states') WITH ORDINALITY s (style, place)
		UNION ALL
		SELECT 4, min(node.place), format('class %s %s', string_agg(node.id, ',' ORDER BY node.place), node.state)
		FROM node WHERE node.state IS NOT NULL GROUP BY node.state
	)
	SELECT E'---\ntitle: ' || to_json(graph ->> 'title') || E'\n---\nflowchart ' || (graph ->> 'direction')
		|| coalesce((SELECT string_agg(E'\n    ' || line.words, '' ORDER BY line.part, line.place) FROM line), '');
END;
COMMENT ON FUNCTION tasker.draw_mermaid(jsonb) IS 'A graph as a Mermaid flowchart. Helper of diagrams.';

CREATE FUNCTION tasker.draw_dot(graph jsonb) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
	WITH line AS (
		SELECT 1 AS part, n.place,
			format('%s [label="%s"', n.node ->> 'id',
				(SELECT string_agg(tasker.dot_label(tasker.one_line(l.line)), '\n' ORDER BY l.place)
					FROM jsonb_array_elements_text(n.node -> 'lines') WITH ORDINALITY l (line, place)))
				|| coalesce(', fillcolor="' || (n.node ->> 'colour') || '"', '')
				|| coalesce(', tooltip="' || tasker.dot_tooltip(n.node ->> 'error') || '"', '')
				|| CASE n.node ->> 'type' WHEN 'task' THEN ', peripheries=2' ELSE '' END
				|| '];' AS words
		FROM jsonb_array_elements(graph -> 'nodes') WITH ORDINALITY n (node, place)
		UNION ALL
		SELECT 2, e.place, format('%s -> %s;', e.edge ->> 'source_id', e.edge ->> 'target_id')
		FROM jsonb_array_elements(graph -> 'edges') WITH ORDINALITY e (edge, place)
	)
	SELECT format(E'digraph {\n    graph [label="%s", labelloc=t, rankdir=%s, charset="UTF-8", fontname="Helvetica"];'
			|| E'\n    node [shape=box, style="rounded,filled", fillcolor="white", fontname="Helvetica"];',
			tasker.dot_label(tasker.one_line(graph ->> 'title')), CASE graph ->> 'direction' WHEN 'TD' THEN 'TB' ELSE graph ->> 'direction' END)
		|| coalesce((SELECT string_agg(E'\n    ' || line.words, '' ORDER BY line.part, line.place) FROM line), '')
		|| E'\n}';
END;
COMMENT ON FUNCTION tasker.draw_dot(jsonb) IS 'A graph in the language of Graphviz. Helper of diagrams.';

-- One line a step under the heading of its level. A wide fan-in names its first
-- parents only: a terminal has no room for a thousand. Nested loops are off so
-- that edges meet their nodes in a hash join, however many the planner expects.
CREATE FUNCTION tasker.draw_text(graph jsonb, heading text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
SET enable_nestloop = off
SET jit = off
BEGIN ATOMIC
	WITH step AS MATERIALIZED (
		SELECT n.place, n.node ->> 'id' AS id, tasker.one_line(n.node ->> 'name') AS name, (n.node ->> 'level')::integer AS level,
			n.node ->> 'state' AS state, tasker.one_line(coalesce(n.node ->> 'state', n.node ->> 'handler')) AS what,
			CASE WHEN n.node ? 'state' THEN (n.node ->> 'attempts') || '/' || (n.node ->> 'retry_limit')
				ELSE concat_ws(', ', 'up to ' || (n.node ->> 'attempts_allowed'), CASE WHEN (n.node ->> 'skippable')::boolean THEN 'skippable' END)
			END AS attempts,
			tasker.one_line(n.node ->> 'error') AS error
		FROM jsonb_array_elements(graph -> 'nodes') WITH ORDINALITY n (node, place)
		WHERE n.node ->> 'type' = 'step'
	), parent AS (
		SELECT e.edge ->> 'target_id' AS id, e.edge ->> 'source_id' AS parent_id,
			row_number() OVER family AS place, count(*) OVER (PARTITION BY e.edge ->> 'target_id') AS total
		FROM jsonb_array_elements(graph -> 'edges') WITH ORDINALITY e (edge, place)
		WINDOW family AS (PARTITION BY e.edge ->> 'target_id' ORDER BY e.place)
	), parents AS (
		SELECT parent.id, string_agg(step.name, ', ' ORDER BY parent.place)
			|| CASE WHEN max(parent.total) > 8 THEN ', and ' || max(parent.total) - 8 || ' more' ELSE '' END AS names
		FROM parent
		JOIN step ON step.id = parent.parent_id
		WHERE parent.place <= 8
		GROUP BY parent.id
	), line AS (
		SELECT DISTINCT step.level, 0::bigint AS place, 'level ' || step.level AS words FROM step
		UNION ALL
		SELECT step.level, step.place, rtrim(
			CASE step.state
				WHEN 'pending' THEN '  [ ] '
				WHEN 'in_progress' THEN '  [>] '
				WHEN 'complete' THEN '  [x] '
				WHEN 'error' THEN '  [!] '
				WHEN 'cancelled' THEN '  [-] '
				WHEN 'resolved_manually' THEN '  [~] '
				ELSE '  '
			END
			|| rpad(step.name, max(length(step.name)) OVER ())
			|| '  ' || rpad(step.what, max(length(step.what)) OVER ())
			|| '  ' || step.attempts
			|| coalesce('  <- ' || parents.names, '')
			|| coalesce('  ! ' || CASE WHEN length(step.error) > 60 THEN left(step.error, 57) || '...' ELSE step.error END, ''))
		FROM step
		LEFT JOIN parents ON parents.id = step.id
	)
	SELECT tasker.one_line(heading) || coalesce(string_agg(E'\n' || line.words, '' ORDER BY line.level, line.place), '') FROM line;
END;
COMMENT ON FUNCTION tasker.draw_text(jsonb, text) IS
'A graph for a terminal, under a heading: its steps by level. Helper of diagrams.';

CREATE FUNCTION tasker.check_diagram_format(format text) RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF format IS NULL OR format NOT IN ('text', 'mermaid', 'dot', 'json') THEN
		RAISE EXCEPTION 'unknown diagram format: %', coalesce(quote_literal(format), 'NULL')
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Formats are ''text'', ''mermaid'', ''dot'' and ''json''.';
	END IF;
END
$$;
COMMENT ON FUNCTION tasker.check_diagram_format(text) IS 'Raises 22023 where a format is none of diagrams. Helper of diagrams.';

CREATE FUNCTION tasker.draw(graph jsonb, heading text, format text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE format
	WHEN 'text' THEN tasker.draw_text(graph, heading)
	WHEN 'mermaid' THEN tasker.draw_mermaid(graph)
	WHEN 'dot' THEN tasker.draw_dot(graph)
	WHEN 'json' THEN graph::text
END;
COMMENT ON FUNCTION tasker.draw(jsonb, text, text) IS 'A graph in one of the formats. Helper of diagrams.';
