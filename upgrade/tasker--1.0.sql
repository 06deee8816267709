-- The install script is made of the .sql files under src/, in the order that
-- the Makefile names them; this one comes first.
\echo Use "CREATE EXTENSION tasker" to load this file. \quit

-- Every name below is spelled with its schema; operators and built-in types
-- can only mean PostgreSQL's own.
SET LOCAL search_path = pg_catalog, pg_temp;

COMMENT ON SCHEMA tasker IS
'Durable workflow orchestration: task templates, tasks, steps, their transition logs, and the functions that move them.';
-- States and the transitions between them. The table of legal transitions is
-- the constant in state.c; everything here is generated from it.

CREATE TYPE tasker.state AS ENUM (
	'pending', 'in_progress', 'complete', 'error', 'cancelled', 'resolved_manually');
COMMENT ON TYPE tasker.state IS
'State of a task or of a step. The order of the labels is the order of TaskerState in state.h.';

CREATE FUNCTION tasker.legal_transitions(
	OUT owner text, OUT from_state tasker.state, OUT to_state tasker.state, OUT event text)
RETURNS SETOF record
LANGUAGE c STABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'tasker_legal_transitions';
COMMENT ON FUNCTION tasker.legal_transitions() IS
'One row for each transition that a task or a step may make, read from the constant tables that enforce them. from_state is NULL for the transition that a creation makes.';

CREATE VIEW tasker.allowed_transitions AS
SELECT owner, from_state, to_state, event FROM tasker.legal_transitions();
COMMENT ON VIEW tasker.allowed_transitions IS
'Which state changes are legal, for owner ''task'' and ''step'', and the event that each one announces.';
-- Whether and when a failed step may run again.

CREATE FUNCTION tasker.backoff_seconds(attempts integer, strategy text DEFAULT 'exponential',
	base_seconds double precision DEFAULT NULL, cap_seconds double precision DEFAULT NULL, jitter double precision DEFAULT NULL)
RETURNS double precision
LANGUAGE c VOLATILE PARALLEL SAFE AS 'MODULE_PATHNAME', 'tasker_backoff_seconds';
COMMENT ON FUNCTION tasker.backoff_seconds(integer, text, double precision, double precision, double precision) IS
'The wait that follows so many attempts (1 and up): exponential (base doubled for each attempt after the first), linear (base times attempts) or constant; at most the cap, moved by a random share of it, up to jitter (0 to 1) in both directions, and never above the cap. NULL: the settings tasker.backoff_base, .backoff_cap, .backoff_jitter. What fail_step does, for strategies of one''s own to build on. Errors: 22023 an argument out of range.';
-- What in a jsonb value violates a JSON Schema.

CREATE FUNCTION tasker.json_schema_violations(schema jsonb, instance jsonb)
RETURNS TABLE (path text, problem text)
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE ROWS 1
AS 'MODULE_PATHNAME', 'tasker_json_schema_violations';
COMMENT ON FUNCTION tasker.json_schema_violations(jsonb, jsonb) IS
'What in instance violates a JSON Schema of draft 4, 6 or 7 (its "$schema"; 7 if it names none): one row for each violation, up to 1000, with its JSON pointer, which is empty for the instance as a whole; no row if it is valid. Defaults are not inserted. Errors: 22023 invalid schema; 54001 schema or instance reach too deep for max_stack_depth; 54000 a pattern takes too many steps.';
-- What can be said of a graph whose nodes are numbered from 1 and whose edges are
-- two arrays: the n-th edge leads from sources[n] to targets[n]. Pure: they read
-- no table, so that tasks and templates use the same ones.

CREATE FUNCTION tasker.graph_depths(n integer, sources integer[], targets integer[],
	OUT shortest integer[], OUT longest integer[])
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'tasker_graph_depths';
COMMENT ON FUNCTION tasker.graph_depths(integer, integer[], integer[]) IS
'For each node of a graph the length of the shortest and of the longest path to it from a root, 0 at the roots. Linear. Error: 22023 for arrays that do not fit together, or a cycle.';

CREATE FUNCTION tasker.graph_reach(sources integer[], targets integer[], marked boolean[],
	OUT reachable integer[], OUT reachable_marked integer[])
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'tasker_graph_reach';
COMMENT ON FUNCTION tasker.graph_reach(integer[], integer[], boolean[]) IS
'For each node of a graph, of which there are as many as marks: how many others can be reached from it, and how many of those are marked. Exact; takes one operation for each edge and 64 nodes, in 16 MB of memory. Error: 22023 for arrays that do not fit together, or a cycle.';

CREATE FUNCTION tasker.graph_paths(sources integer[], targets integer[], weights double precision[], max integer,
	OUT nodes integer[], OUT weight double precision)
RETURNS SETOF record
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'tasker_graph_paths';
COMMENT ON FUNCTION tasker.graph_paths(integer[], integer[], double precision[], integer) IS
'The heaviest paths from a root to a leaf, at most max (1 to 100), the heaviest first. The weight of a path is the sum of the weights of its nodes. Linear in the edges, however many paths there are. Error: 22023 for arrays that do not fit together, a cycle, or a bad max.';
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
-- YAML, in which the original's templates are written.

CREATE FUNCTION tasker.yaml_to_jsonb(document text) RETURNS jsonb
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'tasker_yaml_to_jsonb';
COMMENT ON FUNCTION tasker.yaml_to_jsonb(text) IS
'A YAML document as jsonb. Plain scalars mean what they mean to Ruby: null, ~ and nothing; yes/no, on/off, true/false in any case; integers with _ or , between digits, 0x, 0b, 0o and leading 0; floats need a point (1.5, 1.0e+3); :name is "name". Dates, times and 12:30 stay strings, as does everything quoted. Numbers keep all their digits. Keys are text as written. Anchors, aliases and merge keys (<<) are resolved; what stands in a mapping itself goes before what is merged into it. Errors: 22023 with line and column: not YAML, more than one document, a key twice, .inf and .nan, an alias to nothing or to what it is part of, other tags than !!str, !!int, !!float, !!bool, !!null, !!map, !!seq, ERB (<%); 54000 aliases and merge keys that repeat more than 1000000 values or 64 MB, more than 1000 levels; 22P05 a character that the database cannot store.';
CREATE FUNCTION tasker.now() RETURNS timestamptz
LANGUAGE c STABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'tasker_now';
COMMENT ON FUNCTION tasker.now() IS
'The one clock of tasker: wall time at the moment of the call, moved by the setting tasker.clock_offset. All timestamps that tasker writes and all due times it compares come from here.';
-- What may be run: namespaces, named tasks (workflow definitions), their named
-- steps and the edges between these. Written by register_task_template() only.

CREATE TABLE tasker.task_namespaces (
	task_namespace_id integer GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
	name text NOT NULL
		CONSTRAINT task_namespace_name_is_unique UNIQUE
		CONSTRAINT task_namespace_name_has_1_to_64_characters CHECK (length(name) BETWEEN 1 AND 64),
	description text,
	paused_at timestamptz,
	created_at timestamptz NOT NULL DEFAULT tasker.now()
);
COMMENT ON TABLE tasker.task_namespaces IS 'A namespace groups task definitions.';
COMMENT ON COLUMN tasker.task_namespaces.paused_at IS 'Since when nothing of this namespace is dispatched; NULL while it runs.';

CREATE TABLE tasker.named_tasks (
	named_task_id integer GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
	task_namespace_id integer NOT NULL REFERENCES tasker.task_namespaces,
	name text NOT NULL
		CONSTRAINT named_task_name_has_1_to_64_characters CHECK (length(name) BETWEEN 1 AND 64),
	version text NOT NULL
		CONSTRAINT named_task_version_is_three_numbers CHECK (version ~ '^\d{1,9}\.\d{1,9}\.\d{1,9}$'),
	version_numbers integer[] NOT NULL GENERATED ALWAYS AS (string_to_array(version, '.')::integer[]) STORED,
	description text,
	configuration jsonb NOT NULL
		CONSTRAINT named_task_configuration_is_an_object CHECK (jsonb_typeof(configuration) = 'object'),
	environment text,
	effective_configuration jsonb,
	revision integer NOT NULL DEFAULT 1,
	owner text NOT NULL,
	concurrent boolean NOT NULL DEFAULT true,
	coordinator_strategy text NOT NULL DEFAULT 'orchestrator',
	reenqueuer_strategy text NOT NULL DEFAULT 'event_driven',
	identity_strategy text NOT NULL DEFAULT 'default',
	backoff_strategy text NOT NULL DEFAULT 'exponential',
	paused_at timestamptz,
	deprecated_at timestamptz,
	created_at timestamptz NOT NULL DEFAULT tasker.now(),
	CONSTRAINT named_task_is_effective_in_an_environment CHECK ((environment IS NULL) = (effective_configuration IS NULL)),
	CONSTRAINT named_task_version_is_unique UNIQUE (task_namespace_id, name, version_numbers)
);
COMMENT ON TABLE tasker.named_tasks IS
'A named task is one version of a workflow definition. The unique index also finds the latest version: versions compare as numbers.';
COMMENT ON COLUMN tasker.named_tasks.configuration IS 'The template as it was registered; registering equal content again is a no-op.';
COMMENT ON COLUMN tasker.named_tasks.environment IS 'Whose overrides (environments of the template) were merged in at registration: tasker.environment of the session, where the template has something to say of it; else NULL.';
COMMENT ON COLUMN tasker.named_tasks.effective_configuration IS 'The template with these overrides, which its steps were made from; NULL where configuration itself is in force. Kept, so that a version means what it meant when it was registered.';
COMMENT ON COLUMN tasker.named_tasks.revision IS 'Grows when the content is replaced, which is possible while the version has no tasks.';
COMMENT ON COLUMN tasker.named_tasks.owner IS 'The role that registered the content: functions that the template names run as it.';
COMMENT ON COLUMN tasker.named_tasks.concurrent IS 'False: a task has at most one step in progress at a time.';
COMMENT ON COLUMN tasker.named_tasks.coordinator_strategy IS 'Who runs the steps: orchestrator (executors, told by the orchestrator), synchronous (coordinate_task, by SQL functions), or a function.';
COMMENT ON COLUMN tasker.named_tasks.reenqueuer_strategy IS 'When an open task is looked at again by time: event_driven (never: the logs and timers tell), delayed (as finalization_decision says), or a function.';
COMMENT ON COLUMN tasker.named_tasks.identity_strategy IS 'The identity key of a task that was given none: default (none), hash (of the request, within a minute), or a function.';
COMMENT ON COLUMN tasker.named_tasks.backoff_strategy IS 'How long a failed step waits: exponential, linear, constant, or a function.';
COMMENT ON COLUMN tasker.named_tasks.paused_at IS 'Since when nothing of this version is dispatched; NULL while it runs.';
COMMENT ON COLUMN tasker.named_tasks.deprecated_at IS 'Since when no new task may be created from it; NULL while it is in use.';

CREATE TABLE tasker.dependent_systems (
	dependent_system_id integer GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
	name text NOT NULL
		CONSTRAINT dependent_system_name_is_unique UNIQUE
		CONSTRAINT dependent_system_name_has_1_to_64_characters CHECK (length(name) BETWEEN 1 AND 64),
	description text,
	created_at timestamptz NOT NULL DEFAULT tasker.now()
);
COMMENT ON TABLE tasker.dependent_systems IS 'An external system that steps talk to; ''unknown'' where a template names none.';

CREATE TABLE tasker.named_steps (
	named_step_id integer GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
	dependent_system_id integer NOT NULL REFERENCES tasker.dependent_systems,
	name text NOT NULL
		CONSTRAINT named_step_name_has_1_to_128_characters CHECK (length(name) BETWEEN 1 AND 128),
	description text,
	created_at timestamptz NOT NULL DEFAULT tasker.now(),
	CONSTRAINT named_step_is_unique_in_its_system UNIQUE (dependent_system_id, name)
);
COMMENT ON TABLE tasker.named_steps IS 'A kind of step, shared by the templates that use it.';

CREATE TABLE tasker.handlers (
	handler_id integer GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
	name text NOT NULL
		CONSTRAINT handler_name_is_unique UNIQUE
		CONSTRAINT handler_name_has_1_to_256_characters CHECK (length(name) BETWEEN 1 AND 256)
);
COMMENT ON TABLE tasker.handlers IS
'The names of what executors can run (handler_class of a template). Steps and the work queue carry the number.';

CREATE TABLE tasker.named_tasks_named_steps (
	named_task_id integer NOT NULL REFERENCES tasker.named_tasks,
	named_step_id integer NOT NULL REFERENCES tasker.named_steps,
	position integer NOT NULL
		CONSTRAINT template_step_position_is_not_negative CHECK (position >= 0),
	handler_id integer NOT NULL REFERENCES tasker.handlers,
	handler_config jsonb NOT NULL DEFAULT '{}',
	default_retryable boolean NOT NULL DEFAULT true,
	default_retry_limit integer NOT NULL DEFAULT 3
		CONSTRAINT template_step_retry_limit_is_0_to_10000 CHECK (default_retry_limit BETWEEN 0 AND 10000),
	skippable boolean NOT NULL DEFAULT false,
	priority smallint NOT NULL DEFAULT 0,
	timeout_seconds integer
		CONSTRAINT template_step_timeout_is_positive CHECK (timeout_seconds > 0),
	backoff_base_seconds double precision
		CONSTRAINT template_step_backoff_base_is_not_negative CHECK (backoff_base_seconds >= 0),
	backoff_cap_seconds double precision
		CONSTRAINT template_step_backoff_cap_is_not_negative CHECK (backoff_cap_seconds >= 0),
	backoff_jitter double precision
		CONSTRAINT template_step_backoff_jitter_is_0_to_1 CHECK (backoff_jitter BETWEEN 0 AND 1),
	PRIMARY KEY (named_task_id, named_step_id),
	CONSTRAINT template_step_position_is_unique UNIQUE (named_task_id, position)
);
COMMENT ON TABLE tasker.named_tasks_named_steps IS 'The step templates of a named task, in a topological order given by position.';
COMMENT ON COLUMN tasker.named_tasks_named_steps.priority IS 'Added to the priority of the task; higher runs first.';
COMMENT ON COLUMN tasker.named_tasks_named_steps.timeout_seconds IS 'How long one attempt may take before it counts as failed; NULL: no limit.';
COMMENT ON COLUMN tasker.named_tasks_named_steps.backoff_base_seconds IS 'Wait after the first failure, doubled for each further one; NULL: tasker.backoff_base.';
COMMENT ON COLUMN tasker.named_tasks_named_steps.backoff_cap_seconds IS 'Longest wait between attempts; NULL: tasker.backoff_cap.';
COMMENT ON COLUMN tasker.named_tasks_named_steps.backoff_jitter IS 'Share of the wait that is random, 0 to 1, in both directions; NULL: tasker.backoff_jitter.';

CREATE TABLE tasker.named_step_edges (
	named_task_id integer NOT NULL,
	from_named_step_id integer NOT NULL,
	to_named_step_id integer NOT NULL,
	PRIMARY KEY (named_task_id, from_named_step_id, to_named_step_id),
	FOREIGN KEY (named_task_id, from_named_step_id) REFERENCES tasker.named_tasks_named_steps,
	FOREIGN KEY (named_task_id, to_named_step_id) REFERENCES tasker.named_tasks_named_steps,
	CONSTRAINT template_edge_is_not_a_self_edge CHECK (from_named_step_id <> to_named_step_id)
);
COMMENT ON TABLE tasker.named_step_edges IS 'The edges of a template, from prerequisite to dependent; those of its tasks are the same, see workflow_step_edges.';
CREATE UNIQUE INDEX parents_of_named_step ON tasker.named_step_edges (named_task_id, to_named_step_id, from_named_step_id);
COMMENT ON INDEX tasker.parents_of_named_step IS 'Serves the readiness views: the parents of a step.';

CREATE FUNCTION tasker.register_task_template(template jsonb) RETURNS integer
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'tasker_register_task_template';
COMMENT ON FUNCTION tasker.register_task_template(jsonb) IS
'Registers a workflow definition and returns its named_task_id. Keys: name*, namespace_name (default), version (0.1.0), description, task_handler_class and module_namespace (for your information), default_dependent_system, named_steps (if given, every step is among them), schema (JSON Schema of the contexts of its tasks, draft 4, 6 or 7), environments (by name, each with keys to override: objects are merged key by key, step_templates by name; the one that tasker.environment names counts, all are checked), step_templates* of name*, handler_class*, description, dependent_system, depends_on_step, depends_on_steps, default_retryable (true), default_retry_limit (3), skippable (false), handler_config, custom_events of name* and description (see register_event), priority (0), timeout_seconds, backoff_base_seconds, backoff_cap_seconds, backoff_jitter. A step that is not retryable gets one attempt, and a crash of its executor counts as one. The whole template is validated before anything is written. Equal content in the same environment under the same version is a no-op. Errors: 22023 invalid template; TK003 other content or environment under a version that already has tasks. Concurrent registrations of one version wait for each other.';

CREATE FUNCTION tasker.register_task_template_yaml(document text) RETURNS integer
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'tasker_register_task_template_yaml';
COMMENT ON FUNCTION tasker.register_task_template_yaml(text) IS
'register_task_template() of a YAML document, which is read by yaml_to_jsonb(): the errors of both.';

CREATE FUNCTION tasker.deprecate_task_template(name text, namespace text DEFAULT 'default', version text DEFAULT NULL) RETURNS integer
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'tasker_deprecate_task_template';
COMMENT ON FUNCTION tasker.deprecate_task_template(text, text, text) IS
'Stops the creation of new tasks from a version (all versions where version is NULL) and returns how many versions it deprecated. Tasks that exist go on. Errors: 42704 unknown template; 22023 version ''latest'', which names another one after each call.';
-- The JSON Schema that a template demands of the contexts of its tasks.

CREATE FUNCTION tasker.validate_context(
	name text, context jsonb, namespace text DEFAULT 'default', version text DEFAULT NULL)
RETURNS TABLE (path text, problem text)
LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 1
AS 'MODULE_PATHNAME', 'tasker_validate_context';
COMMENT ON FUNCTION tasker.validate_context(text, jsonb, text, text) IS
'What would keep create_task() from accepting a context: one row for each violation of the template''s schema, up to 1000, with its JSON pointer, which is empty for the context as a whole; no row if it is accepted, or the template has no schema. Missing properties count with their defaults. version NULL is the latest by number. Writes nothing. Errors: 42704 unknown template; 22004 a null argument; 22023 the context is not an object; 54001 schema or context reach too deep for max_stack_depth; 54000 a pattern takes too many steps.';
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
-- The catalogue of events. What tasker announces itself follows from the
-- transitions; custom events are entered with the templates whose steps announce
-- them, or by hand.

CREATE TABLE tasker.custom_events (
	name text PRIMARY KEY
		CONSTRAINT custom_event_name_has_3_to_128_characters CHECK (length(name) BETWEEN 3 AND 128),
	description text,
	fired_by text[] NOT NULL DEFAULT '{}',
	registered_at timestamptz NOT NULL
);
COMMENT ON TABLE tasker.custom_events IS 'Events that are announced by handlers. Written by register_task_template() and register_event().';
COMMENT ON COLUMN tasker.custom_events.fired_by IS 'Who else announces it, as register_event() was told; steps are in named_step_events.';
COMMENT ON COLUMN tasker.custom_events.registered_at IS 'When it was entered first.';

CREATE TABLE tasker.named_step_events (
	named_task_id integer NOT NULL,
	named_step_id integer NOT NULL,
	name text NOT NULL REFERENCES tasker.custom_events,
	PRIMARY KEY (named_task_id, named_step_id, name),
	FOREIGN KEY (named_task_id, named_step_id) REFERENCES tasker.named_tasks_named_steps
);
COMMENT ON TABLE tasker.named_step_events IS 'Which steps of which templates announce a custom event (custom_events of a step template).';
CREATE INDEX steps_of_custom_event ON tasker.named_step_events (name);
COMMENT ON INDEX tasker.steps_of_custom_event IS 'Serves event_definitions for one event, and the removal of an event.';

CREATE VIEW tasker.event_definitions AS
SELECT l.event AS name, l.owner AS category,
	format('A %s goes from %s to %s.', l.owner,
		string_agg(coalesce(l.from_state::text, 'nothing'), ' or ' ORDER BY l.from_state NULLS FIRST), l.to_state) AS description,
	array_agg(coalesce(l.from_state::text, 'nothing') || ' -> ' || l.to_state ORDER BY l.from_state NULLS FIRST) AS fired_by,
	NULL::timestamptz AS registered_at
FROM tasker.legal_transitions() l
GROUP BY l.event, l.owner, l.to_state
UNION ALL
SELECT e.name, 'custom', e.description,
	e.fired_by || ARRAY(
		SELECT DISTINCT concat_ws('.', ns.name, nt.name, s.name)
		FROM tasker.named_step_events se
		JOIN tasker.named_tasks nt ON nt.named_task_id = se.named_task_id
		JOIN tasker.task_namespaces ns ON ns.task_namespace_id = nt.task_namespace_id
		JOIN tasker.named_steps s ON s.named_step_id = se.named_step_id
		WHERE se.name = e.name
		ORDER BY 1),
	e.registered_at
FROM tasker.custom_events e;
COMMENT ON VIEW tasker.event_definitions IS
'Every event there is. category is task, step or custom (workflow and observability are reserved). description of the former says which change of state announces it, fired_by names the transitions. fired_by of a custom event names steps as namespace.template.step, and whatever register_event() was told. registered_at is NULL for what is built in. Search it with WHERE category = ... and name LIKE, description ILIKE.';

CREATE FUNCTION tasker.register_event(name text, description text DEFAULT NULL, fired_by text[] DEFAULT '{}') RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'tasker_register_event';
COMMENT ON FUNCTION tasker.register_event(text, text, text[]) IS
'Enters a custom event into the catalogue: true if it is new; false if it was there, then fired_by is added to what is known and a description that is given replaces the old one, with a NOTICE. name has at least one dot with something around it, up to 128 characters, no spaces, control characters or *; it does not begin with task., step., workflow., observability., tasker. or test. Errors: 22023 invalid name or fired_by; 22004 no name.';
-- What is registered, for people and programs that look, and what is said of
-- namespaces and systems besides their names.

CREATE VIEW tasker.task_templates AS
SELECT nt.named_task_id, ns.name AS namespace, nt.name, nt.version,
	ns.name || '.' || nt.name || '@' || nt.version AS full_name,
	nt.deprecated_at IS NULL AND nt.version_numbers = (
		SELECT l.version_numbers FROM tasker.named_tasks l
		WHERE l.task_namespace_id = nt.task_namespace_id AND l.name = nt.name AND l.deprecated_at IS NULL
		ORDER BY l.version_numbers DESC LIMIT 1) AS is_latest,
	nt.description,
	c.content ->> 'task_handler_class' AS task_handler_class,
	c.content ->> 'module_namespace' AS module_namespace,
	nt.environment, nt.owner, nt.revision,
	(SELECT count(*) FROM tasker.named_tasks_named_steps ts WHERE ts.named_task_id = nt.named_task_id)::integer AS step_count,
	nt.created_at AS registered_at, nt.deprecated_at, nt.paused_at
FROM tasker.named_tasks nt
JOIN tasker.task_namespaces ns ON ns.task_namespace_id = nt.task_namespace_id
CROSS JOIN LATERAL (SELECT coalesce(nt.effective_configuration, nt.configuration)) c (content);
COMMENT ON VIEW tasker.task_templates IS
'One row for each version of each template. is_latest: what create_task takes where no version is given, the highest number that is not deprecated. environment: whose overrides its steps were made with. revision grows while the content is replaced. paused_at is the pause of this version alone.';

CREATE VIEW tasker.stat_templates AS
SELECT ns.name AS namespace, ns.description,
	count(DISTINCT nt.name)::integer AS templates,
	count(nt.named_task_id)::integer AS versions,
	count(nt.deprecated_at)::integer AS deprecated_versions,
	(SELECT count(DISTINCT ts.handler_id)
		FROM tasker.named_tasks t JOIN tasker.named_tasks_named_steps ts ON ts.named_task_id = t.named_task_id
		WHERE t.task_namespace_id = ns.task_namespace_id)::integer AS handlers,
	max(nt.created_at) AS last_registered_at, ns.paused_at
FROM tasker.task_namespaces ns
LEFT JOIN tasker.named_tasks nt ON nt.task_namespace_id = ns.task_namespace_id
GROUP BY ns.task_namespace_id;
COMMENT ON VIEW tasker.stat_templates IS
'One row for each namespace: how many templates it has, how many versions of them, and how many different handlers their steps name.';

CREATE FUNCTION tasker.task_template(name text, namespace text DEFAULT 'default', version text DEFAULT NULL, effective boolean DEFAULT false)
RETURNS jsonb
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'tasker_task_template';
COMMENT ON FUNCTION tasker.task_template(text, text, text, boolean) IS
'A template as it was registered; with effective as it is in force, with the overrides of its environment. version NULL or ''latest'' is the highest that is not deprecated. Errors: 42704 unknown template; 22004 a null argument.';

CREATE FUNCTION tasker.describe_namespace(name text, description text) RETURNS integer
LANGUAGE sql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	INSERT INTO tasker.task_namespaces AS n (name, description) VALUES ($1, $2)
	ON CONFLICT (name) DO UPDATE SET description = EXCLUDED.description
	RETURNING n.task_namespace_id;
END;
COMMENT ON FUNCTION tasker.describe_namespace(text, text) IS
'Says what a namespace is for, makes it if need be, and returns its task_namespace_id. NULL takes the description away. Errors: 23514 a name that is empty or has more than 64 characters; 23502 no name.';

CREATE FUNCTION tasker.describe_dependent_system(name text, description text) RETURNS integer
LANGUAGE sql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	INSERT INTO tasker.dependent_systems AS d (name, description) VALUES ($1, $2)
	ON CONFLICT (name) DO UPDATE SET description = EXCLUDED.description
	RETURNING d.dependent_system_id;
END;
COMMENT ON FUNCTION tasker.describe_dependent_system(text, text) IS
'Says what a dependent system is, makes it if need be, and returns its dependent_system_id. NULL takes the description away. Errors: 23514 a name that is empty or has more than 64 characters; 23502 no name.';
-- The same thing goes by different ids in different systems: which are one.

CREATE TABLE tasker.dependent_system_object_maps (
	dependent_system_object_map_id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
	dependent_system_one_id integer NOT NULL REFERENCES tasker.dependent_systems,
	remote_id_one text COLLATE "C" NOT NULL
		CONSTRAINT remote_id_one_has_1_to_128_characters CHECK (length(remote_id_one) BETWEEN 1 AND 128),
	dependent_system_two_id integer NOT NULL REFERENCES tasker.dependent_systems,
	remote_id_two text COLLATE "C" NOT NULL
		CONSTRAINT remote_id_two_has_1_to_128_characters CHECK (length(remote_id_two) BETWEEN 1 AND 128),
	created_at timestamptz NOT NULL DEFAULT tasker.now(),
	CONSTRAINT object_map_is_unique UNIQUE (dependent_system_one_id, remote_id_one, dependent_system_two_id, remote_id_two),
	CONSTRAINT object_map_has_its_lesser_side_first
		CHECK ((dependent_system_one_id, remote_id_one) < (dependent_system_two_id, remote_id_two))
);
COMMENT ON TABLE tasker.dependent_system_object_maps IS
'An object of one system is an object of another. The side that sorts first is stored first, so a pair is one row whichever way round it is named. Written by map_objects().';
CREATE INDEX object_maps_by_second_side ON tasker.dependent_system_object_maps (dependent_system_two_id, remote_id_two);
COMMENT ON INDEX tasker.object_maps_by_second_side IS 'Serves mapped_objects: the maps that have an object on their second side.';

CREATE FUNCTION tasker.map_objects(system_one text, remote_id_one text, system_two text, remote_id_two text) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
	systems text[] := ARRAY[system_one, system_two];
	ids integer[];
	remotes text[] := ARRAY[remote_id_one, remote_id_two];
	map bigint;
BEGIN
	IF array_position(systems || remotes, NULL) IS NOT NULL THEN
		RAISE null_value_not_allowed USING MESSAGE = 'systems and remote ids must not be null';
	END IF;
	IF EXISTS (SELECT FROM unnest(systems) s WHERE length(s) NOT BETWEEN 1 AND 64) THEN
		RAISE invalid_parameter_value USING MESSAGE = 'the name of a dependent system must have 1 to 64 characters';
	END IF;
	IF EXISTS (SELECT FROM unnest(remotes) r WHERE length(r) NOT BETWEEN 1 AND 128) THEN
		RAISE invalid_parameter_value USING MESSAGE = 'a remote id must have 1 to 128 characters';
	END IF;
	IF system_one = system_two AND remote_id_one = remote_id_two THEN
		RAISE invalid_parameter_value
			USING MESSAGE = format('object "%s" of system "%s" cannot be mapped to itself', remote_id_one, system_one);
	END IF;

	-- In one order, as register_task_template() inserts them: two sessions cannot deadlock.
	INSERT INTO tasker.dependent_systems (name)
	SELECT DISTINCT s FROM unnest(systems) s
	WHERE NOT EXISTS (SELECT FROM tasker.dependent_systems d WHERE d.name = s)
	ORDER BY s
	ON CONFLICT (name) DO NOTHING;
	ids := ARRAY(SELECT d.dependent_system_id FROM unnest(systems) WITH ORDINALITY u (s, n)
		JOIN tasker.dependent_systems d ON d.name = u.s ORDER BY u.n);
	IF (ids[1], remotes[1] COLLATE "C") > (ids[2], remotes[2] COLLATE "C") THEN
		ids := ARRAY[ids[2], ids[1]];
		remotes := ARRAY[remotes[2], remotes[1]];
	END IF;
	INSERT INTO tasker.dependent_system_object_maps AS m
		(dependent_system_one_id, remote_id_one, dependent_system_two_id, remote_id_two)
	SELECT ids[1], remotes[1], ids[2], remotes[2]
	WHERE NOT EXISTS (SELECT FROM tasker.dependent_system_object_maps x
		WHERE x.dependent_system_one_id = ids[1] AND x.remote_id_one = remotes[1]
			AND x.dependent_system_two_id = ids[2] AND x.remote_id_two = remotes[2])
	ON CONFLICT DO NOTHING
	RETURNING m.dependent_system_object_map_id INTO map;
	IF map IS NULL THEN
		SELECT m.dependent_system_object_map_id INTO map FROM tasker.dependent_system_object_maps m
		WHERE m.dependent_system_one_id = ids[1] AND m.remote_id_one = remotes[1]
			AND m.dependent_system_two_id = ids[2] AND m.remote_id_two = remotes[2];
	END IF;
	-- It was there, and somebody has deleted it since.
	IF map IS NULL THEN
		RAISE serialization_failure USING MESSAGE = format('object "%s" of system "%s" is being mapped by another transaction',
			remote_id_one, system_one), HINT = 'Try the transaction again.';
	END IF;
	RETURN map;
END
$$;
COMMENT ON FUNCTION tasker.map_objects(text, text, text, text) IS
'Notes that an object of one system is an object of another (or another object of the same), and returns the number of the map: a new one, or the one that is there, whichever way round it was made. Systems that do not exist are made. Of two sessions that map the same pair the second waits and gets the same number. Errors: 22004 a null argument; 22023 a system name of not 1 to 64 or a remote id of not 1 to 128 characters, an object mapped to itself; 40001 mapped by another transaction since this one began, under repeatable read.';

CREATE FUNCTION tasker.mapped_objects(system text, remote_id text,
	OUT dependent_system_object_map_id bigint, OUT dependent_system text, OUT mapped_remote_id text)
RETURNS SETOF record
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
	SELECT m.dependent_system_object_map_id, d.name, m.remote_id_two
	FROM tasker.dependent_system_object_maps m
	JOIN tasker.dependent_systems d ON d.dependent_system_id = m.dependent_system_two_id
	WHERE m.dependent_system_one_id = (SELECT s.dependent_system_id FROM tasker.dependent_systems s WHERE s.name = $1)
		AND m.remote_id_one = $2 COLLATE "C"
	UNION ALL
	SELECT m.dependent_system_object_map_id, d.name, m.remote_id_one
	FROM tasker.dependent_system_object_maps m
	JOIN tasker.dependent_systems d ON d.dependent_system_id = m.dependent_system_one_id
	WHERE m.dependent_system_two_id = (SELECT s.dependent_system_id FROM tasker.dependent_systems s WHERE s.name = $1)
		AND m.remote_id_two = $2 COLLATE "C";
END;
COMMENT ON FUNCTION tasker.mapped_objects(text, text) IS
'What an object of a system is in others: one row for each map that it is in, with the system and the id of the other side. No row for what was never mapped.';
-- A task is one run of a named task.

CREATE TABLE tasker.tasks (
	task_id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
	named_task_id integer NOT NULL REFERENCES tasker.named_tasks,
	task_namespace_id integer NOT NULL,
	sort_key integer NOT NULL,
	state tasker.state NOT NULL DEFAULT 'pending',
	priority smallint NOT NULL DEFAULT 0,
	requested_at timestamptz NOT NULL,
	identity_key text
		CONSTRAINT task_identity_key_has_1_to_512_characters CHECK (length(identity_key) BETWEEN 1 AND 512),
	initiator text NOT NULL DEFAULT 'unknown'
		CONSTRAINT task_initiator_has_up_to_128_characters CHECK (length(initiator) <= 128),
	source_system text NOT NULL DEFAULT 'unknown'
		CONSTRAINT task_source_system_has_up_to_128_characters CHECK (length(source_system) <= 128),
	reason text NOT NULL DEFAULT 'unknown'
		CONSTRAINT task_reason_has_up_to_128_characters CHECK (length(reason) <= 128),
	tags text[] NOT NULL DEFAULT '{}',
	bypass_steps text[] NOT NULL DEFAULT '{}',
	context jsonb NOT NULL
		CONSTRAINT task_context_is_an_object CHECK (jsonb_typeof(context) = 'object')
) WITH (fillfactor = 30, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
COMMENT ON TABLE tasker.tasks IS
'One run of a workflow. state and sort_key mirror the latest row of the task''s log and change only together with it; no index covers them, so that a state change stays a heap-only update (half the page is left free for it).';
COMMENT ON COLUMN tasker.tasks.sort_key IS 'sort_key of the task''s most recent transition.';
COMMENT ON COLUMN tasker.tasks.identity_key IS 'Given by the creator or made by the template''s identity_strategy: a second creation under the same key in the namespace returns this task.';

CREATE UNIQUE INDEX task_identity_key_is_unique_in_namespace
	ON tasker.tasks (task_namespace_id, identity_key) WHERE identity_key IS NOT NULL;
COMMENT ON INDEX tasker.task_identity_key_is_unique_in_namespace IS 'Serves create_task: the first task of an identity key.';
CREATE INDEX tasks_of_named_task ON tasker.tasks (named_task_id, task_id);
COMMENT ON INDEX tasker.tasks_of_named_task IS 'Serves register_task_template (has the version tasks?), pause and resume of a template.';
CREATE INDEX tasks_by_tag ON tasker.tasks USING gin (tags) WHERE tags <> '{}';
COMMENT ON INDEX tasker.tasks_by_tag IS 'Serves find_tasks: the tasks with a tag. Those without cost it nothing.';
CREATE INDEX tasks_by_request ON tasker.tasks (requested_at);
COMMENT ON INDEX tasker.tasks_by_request IS 'Serves find_tasks: the tasks requested in a time.';

CREATE FUNCTION tasker.create_task(
	name text, context jsonb DEFAULT '{}', namespace text DEFAULT 'default', version text DEFAULT NULL,
	initiator text DEFAULT 'unknown', source_system text DEFAULT 'unknown', reason text DEFAULT 'unknown',
	tags text[] DEFAULT '{}', bypass_steps text[] DEFAULT '{}',
	identity_key text DEFAULT NULL, priority integer DEFAULT 0, requested_at timestamptz DEFAULT NULL)
RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'tasker_create_task';
COMMENT ON FUNCTION tasker.create_task(text, jsonb, text, text, text, text, text, text[], text[], text, integer, timestamptz) IS
'Creates a task with its steps and edges in the caller''s transaction and returns its task_id; work starts after the commit. The context is validated against the template''s schema, if it has one, and stored with the defaults of properties that are missing; validate_context() tries it. version NULL is the latest by number. Under an identity_key that the namespace has seen, the first task is returned and nothing is created (task_is_new tells which). Where none is given, the identity_strategy of the template makes one: hash of name, namespace, version asked for, initiator, source_system, reason, context, bypass_steps and the minute of requested_at, tags and priority left out, and equal requests less than a minute apart are the same task also across the turn of a minute, unless both transactions are open; or a function, called with the request and its full_name. bypass_steps names skippable steps that are resolved at once. requested_at says when it was asked for, now where NULL; it delays nothing. Errors: 42704 unknown template; 22023 bad argument, or the context violates the schema; 54001 and 54000 as validate_context(); 55000 deprecated version; 40001 the template changed meanwhile (try again).';

CREATE FUNCTION tasker.find_task(identity_key text, namespace text DEFAULT 'default') RETURNS bigint
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	SELECT t.task_id FROM tasker.tasks t
	WHERE t.task_namespace_id = (SELECT s.task_namespace_id FROM tasker.task_namespaces s WHERE s.name = namespace)
		AND t.identity_key = find_task.identity_key;
END;
COMMENT ON FUNCTION tasker.find_task(text, text) IS 'The task of an identity key in a namespace; NULL where there is none. Runs as the owner of the extension, like create_task.';

CREATE FUNCTION tasker.create_tasks(requests jsonb[]) RETURNS SETOF bigint
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'tasker_create_tasks';
COMMENT ON FUNCTION tasker.create_tasks(jsonb[]) IS
'Creates many tasks at once: each object has the parameters of create_task as keys (tags and bypass_steps as arrays of strings, requested_at as a string that is a timestamptz). Returns the task ids in the order of the requests. All or nothing.';

CREATE FUNCTION tasker.cancel_task(task_id bigint, reason text DEFAULT NULL) RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_cancel_task';
COMMENT ON FUNCTION tasker.cancel_task(bigint, text) IS
'Cancels a task and all its steps that are pending or in progress; a result that comes later is refused as stale. True if it was cancelled by this call, false if it was cancelled before. Locks the task row, then its steps by id. Errors: 42704 unknown task; TK002 the task is in error (retry or resolve it).';

CREATE FUNCTION tasker.retry_task(task_id bigint, reason text DEFAULT NULL) RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_retry_task';
COMMENT ON FUNCTION tasker.retry_task(bigint, text) IS
'Gives every failed step of a task in error a fresh set of attempts and starts the task again. False if the task is already pending or in progress. Errors: 42704 unknown task; TK002 any other state.';

CREATE FUNCTION tasker.resolve_task(task_id bigint, reason text DEFAULT NULL) RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_resolve_task';
COMMENT ON FUNCTION tasker.resolve_task(bigint, text) IS
'Marks a task in error as settled by hand; its steps stay as they are and run no more. False if it is resolved already. Errors: 42704 unknown task; TK002 the task is not in error.';
-- A workflow step is one node of a task; an edge leads from a prerequisite to a
-- dependent of the same task.

CREATE TABLE tasker.workflow_steps (
	workflow_step_id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
	task_id bigint NOT NULL REFERENCES tasker.tasks,
	executor_id bigint,
	last_attempted_at timestamptz,
	next_retry_at timestamptz,
	named_step_id integer NOT NULL,
	handler_id integer NOT NULL,
	sort_key integer NOT NULL DEFAULT 0,
	attempts integer NOT NULL DEFAULT 0,
	retry_limit integer NOT NULL,
	timeout_seconds integer,
	backoff_request_seconds integer,
	state tasker.state NOT NULL DEFAULT 'pending',
	rank smallint NOT NULL DEFAULT 0,
	retryable boolean NOT NULL,
	skippable boolean NOT NULL,
	is_root boolean NOT NULL,
	is_leaf boolean NOT NULL,
	failed_permanently boolean NOT NULL DEFAULT false,
	inputs jsonb,
	results jsonb,
	CONSTRAINT step_is_unique_in_its_task UNIQUE (task_id, named_step_id),
	CONSTRAINT step_attempts_within_limit CHECK (attempts BETWEEN 0 AND greatest(retry_limit, 1)),
	CONSTRAINT step_in_progress_was_attempted CHECK (state <> 'in_progress' OR attempts > 0)
) WITH (fillfactor = 28, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
COMMENT ON TABLE tasker.workflow_steps IS
'One node of a task. state and sort_key mirror the latest row of the step''s log and change only together with it; no index covers a column that a state change writes, and a third of each page is enough for the rows as created, so that claim and completion stay heap-only updates even while an old snapshot keeps the former versions. Step ids of one task grow in topological order.';
COMMENT ON COLUMN tasker.workflow_steps.executor_id IS 'Who has the step while it is in progress, else who had it last.';
COMMENT ON COLUMN tasker.workflow_steps.sort_key IS 'sort_key of the most recent transition, 0 where there is none; while in progress it is the claim number.';
COMMENT ON COLUMN tasker.workflow_steps.attempts IS 'Attempts counted at the claim; a release gives one back, retry_step starts from zero.';
COMMENT ON COLUMN tasker.workflow_steps.retry_limit IS 'Attempts allowed in all; the first is always allowed.';
COMMENT ON COLUMN tasker.workflow_steps.next_retry_at IS 'When a step in error may run again; NULL in every other state and where no attempt remains.';
COMMENT ON COLUMN tasker.workflow_steps.rank IS 'Minus the priority: smaller runs first.';
COMMENT ON COLUMN tasker.workflow_steps.failed_permanently IS 'An executor said that no retry can help.';
COMMENT ON COLUMN tasker.workflow_steps.inputs IS 'Only what differs from the task''s context; NULL where nothing does.';
COMMENT ON CONSTRAINT step_is_unique_in_its_task ON tasker.workflow_steps IS
'Also serves every query for the steps of a task, and the way along its edges.';

CREATE VIEW tasker.workflow_step_edges AS
SELECT parent.workflow_step_id AS from_step_id, child.workflow_step_id AS to_step_id
FROM tasker.tasks t
JOIN tasker.named_step_edges e ON e.named_task_id = t.named_task_id
JOIN tasker.workflow_steps parent ON parent.task_id = t.task_id AND parent.named_step_id = e.from_named_step_id
JOIN tasker.workflow_steps child ON child.task_id = t.task_id AND child.named_step_id = e.to_named_step_id;
COMMENT ON VIEW tasker.workflow_step_edges IS
'from_step_id must be finished before to_step_id may run. A task has the edges of its template, which does not change while it has tasks, so they are not written again for each task. Ids grow in topological order.';

CREATE FUNCTION tasker.cancel_step(step_id bigint, reason text DEFAULT NULL) RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_cancel_step';
COMMENT ON FUNCTION tasker.cancel_step(bigint, text) IS
'Cancels a step that is pending or in progress; the orchestrator then cancels what can never run any more. False if it was cancelled before. Errors: 42704 unknown step; TK002 any other state.';

CREATE FUNCTION tasker.retry_step(step_id bigint, reason text DEFAULT NULL) RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_retry_step';
COMMENT ON FUNCTION tasker.retry_step(bigint, text) IS
'Puts a step in error back to pending at once, with a fresh set of attempts; its task starts again if it had ended in error. False if the step is pending already. Errors: 42704 unknown step; TK002 any other state.';

CREATE FUNCTION tasker.resolve_step(step_id bigint, reason text DEFAULT NULL, results jsonb DEFAULT NULL) RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_resolve_step';
COMMENT ON FUNCTION tasker.resolve_step(bigint, text, jsonb) IS
'Settles a step in error or pending by hand, with results for its dependents if given; they may run then. False if it is resolved already. Errors: 42704 unknown step; TK002 any other state.';
-- Annotations: what executors and people note about a task.

CREATE TABLE tasker.annotation_types (
	annotation_type_id integer GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
	name text NOT NULL
		CONSTRAINT annotation_type_name_is_unique UNIQUE
		CONSTRAINT annotation_type_name_has_1_to_64_characters CHECK (length(name) BETWEEN 1 AND 64),
	description text,
	created_at timestamptz NOT NULL DEFAULT tasker.now()
);
COMMENT ON TABLE tasker.annotation_types IS
'The kinds of annotations. Made by the first annotation of a kind; update is written by update_task and update_step.';

CREATE TABLE tasker.task_annotations (
	task_annotation_id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
	task_id bigint NOT NULL REFERENCES tasker.tasks,
	annotation_type_id integer NOT NULL REFERENCES tasker.annotation_types,
	created_at timestamptz NOT NULL DEFAULT tasker.now(),
	role text NOT NULL,
	annotation jsonb NOT NULL
		CONSTRAINT annotation_is_an_object CHECK (jsonb_typeof(annotation) = 'object')
);
COMMENT ON TABLE tasker.task_annotations IS
'What was noted about a task. Rows are added and removed, never changed; they leave with their task.';
COMMENT ON COLUMN tasker.task_annotations.role IS 'Who noted it.';

CREATE INDEX annotations_of_task ON tasker.task_annotations (task_id);
COMMENT ON INDEX tasker.annotations_of_task IS 'Serves the annotations of one task, and prune_tasks.';
CREATE INDEX annotations_of_type ON tasker.task_annotations (annotation_type_id, task_id);
COMMENT ON INDEX tasker.annotations_of_type IS 'Serves find_tasks: the newest tasks with an annotation of a type.';
CREATE INDEX annotations_by_content ON tasker.task_annotations USING gin (annotation jsonb_path_ops);
COMMENT ON INDEX tasker.annotations_by_content IS 'Serves find_tasks: the tasks whose annotation contains an object.';

CREATE VIEW tasker.annotations AS
SELECT a.task_annotation_id, a.task_id, t.name AS type, a.annotation, a.created_at, a.role
FROM tasker.task_annotations a
JOIN tasker.annotation_types t USING (annotation_type_id);
COMMENT ON VIEW tasker.annotations IS 'The annotations with the names of their types. For people; ask by task_id.';

CREATE FUNCTION tasker.annotate_task(task_id bigint, type text, annotation jsonb, description text DEFAULT NULL) RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_annotate_task';
COMMENT ON FUNCTION tasker.annotate_task(bigint, text, jsonb, text) IS
'Adds an annotation, a JSON object, to a task in whatever state and returns its task_annotation_id. The type is made if it is new; a description replaces that of the type. Changes no state: an executor notes what it knows in the transaction that completes its step. Locks the task row FOR KEY SHARE, which waits for nobody but who prunes the task. Errors: 42704 unknown task; 22004 null; 22023 type not of 1 to 64 characters, annotation not an object.';

CREATE FUNCTION tasker.remove_annotation(task_annotation_id bigint) RETURNS boolean
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_remove_annotation';
COMMENT ON FUNCTION tasker.remove_annotation(bigint) IS
'Removes an annotation. False if there is none of that id.';
-- What may be changed of a task and a step by hand. No state changes by it, so
-- it is no transition; each change is noted as an annotation of type update.

CREATE FUNCTION tasker.update_task(task_id bigint, reason text DEFAULT NULL, tags text[] DEFAULT NULL) RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_update_task';
COMMENT ON FUNCTION tasker.update_task(bigint, text, text[]) IS
'Changes the reason and the tags of a task in whatever state; NULL leaves one as it is. What changed, from and to, is kept as an annotation of type update. Its identity key stays, though it may have been made of the reason. True if anything changed. Locks the task row. Errors: 42704 unknown task; 22023 a reason of more than 128 characters; 22004 a null task_id or tag.';

CREATE FUNCTION tasker.update_step(step_id bigint, retry_limit integer DEFAULT NULL, inputs jsonb DEFAULT NULL) RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_update_step';
COMMENT ON FUNCTION tasker.update_step(bigint, integer, jsonb) IS
'Changes the retry limit of a step that is pending, in progress or waiting for its next attempt, and the inputs of one that is pending or in error: the next attempt has them. NULL leaves one as it is. inputs is a JSON object that is laid over the context of the task; an empty one means the context alone. What changed, from and to, is kept as an annotation of type update on its task. True if anything changed. A step in error that has no attempt left is not started by a higher limit: call retry_step, then this. Locks the task row FOR KEY SHARE, then the step. Errors: 42704 unknown step; 55000 the state of the step does not allow it; 22023 inputs not an object, retry_limit not from 0 to 10000 or less than the attempts already made allow; 22004 a null step_id.';
-- The logs: what happened. Every change of state appends one row, in the
-- transaction that makes it; a row never changes afterwards.
--
-- Both logs are partitioned by their owner's id into periods: period k holds the
-- rows of the owners with ids from k * 2^40 up to (k + 1) * 2^40. A new period
-- begins when the sequences of task and step ids are moved to its first id, so
-- that ids, and with them the rows of one time, lie together: a period none of
-- whose owners exists any more is dropped as a whole, without deleting a row.
--
-- The parents have no index, each partition has its own. Indexes of a parent
-- would be made anew when a restore attaches a partition to the parent that
-- CREATE EXTENSION has made, and the partition's indexes in the dump would then
-- collide with them. Nothing is lost: owners of two partitions are never the
-- same, so what is unique in each partition is unique in all.

CREATE TABLE tasker.task_transition_log (
	task_id bigint NOT NULL,
	sort_key integer NOT NULL,
	from_state tasker.state,
	to_state tasker.state NOT NULL,
	created_at timestamptz NOT NULL,
	xact_id xid8 NOT NULL DEFAULT pg_current_xact_id(),
	executor_id bigint,
	role text NOT NULL,
	metadata jsonb
) PARTITION BY RANGE (task_id);
COMMENT ON TABLE tasker.task_transition_log IS
'Every change of state of every task, oldest first by sort_key (10, 20, ...). Insert-only. The first row of a task has no from_state: its creation. Each partition is one period (see tasker.stat_history).';
COMMENT ON COLUMN tasker.task_transition_log.xact_id IS 'The transaction that made the change: readers of the log resume from a snapshot of these.';

CREATE TABLE tasker.workflow_step_transition_log (
	workflow_step_id bigint NOT NULL,
	sort_key integer NOT NULL,
	from_state tasker.state NOT NULL,
	to_state tasker.state NOT NULL,
	created_at timestamptz NOT NULL,
	xact_id xid8 NOT NULL DEFAULT pg_current_xact_id(),
	executor_id bigint,
	role text NOT NULL,
	metadata jsonb
) PARTITION BY RANGE (workflow_step_id);
COMMENT ON TABLE tasker.workflow_step_transition_log IS
'Every change of state of every step, oldest first by sort_key (10, 20, ...). Insert-only. A step without a row is pending. Each partition is one period (see tasker.stat_history).';
COMMENT ON COLUMN tasker.workflow_step_transition_log.executor_id IS 'The executor that the step was claimed for, or that reported.';

CREATE FUNCTION tasker.refuse_log_change() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RAISE EXCEPTION '% on tasker.% is not allowed', TG_OP, TG_TABLE_NAME
		USING ERRCODE = 'TK004',
			DETAIL = 'The transition logs are insert-only: they are the audit trail and the event bus.',
			HINT = 'To change a state, use the functions of tasker; history is removed by retention only.';
END
$$;
COMMENT ON FUNCTION tasker.refuse_log_change() IS 'Trigger that keeps the transition logs insert-only.';

CREATE TRIGGER insert_only BEFORE UPDATE OR DELETE OR TRUNCATE ON tasker.task_transition_log
	FOR EACH STATEMENT EXECUTE FUNCTION tasker.refuse_log_change();
CREATE TRIGGER insert_only BEFORE UPDATE OR DELETE OR TRUNCATE ON tasker.workflow_step_transition_log
	FOR EACH STATEMENT EXECUTE FUNCTION tasker.refuse_log_change();

-- Periods 0 and 1 are made here and are members of the extension; all others
-- are made by whoever owns it and are not, so that pg_dump writes them out as
-- the ordinary tables that they are. Attaching locks the parent SHARE UPDATE
-- EXCLUSIVE: nobody who reads or writes waits.
CREATE FUNCTION tasker.make_period(period bigint) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	log record;
	leaf text;
	grantee record;
BEGIN
	FOR log IN SELECT * FROM (VALUES
		('task_transition_log', 'task_id', 'tasks'),
		('workflow_step_transition_log', 'workflow_step_id', 'steps')) l(parent, owner_id, owners)
	LOOP
		leaf := log.parent || '_p' || period;
		CONTINUE WHEN to_regclass('tasker.' || leaf) IS NOT NULL;
		EXECUTE format('CREATE TABLE tasker.%I (LIKE tasker.%I INCLUDING DEFAULTS INCLUDING COMMENTS, PRIMARY KEY (%I, sort_key))
			WITH (autovacuum_vacuum_insert_scale_factor = 0.05)', leaf, log.parent, log.owner_id);
		EXECUTE format('COMMENT ON TABLE tasker.%I IS %L', leaf, format('The transitions of the %s of period %s.', log.owners, period));
		EXECUTE format('CREATE INDEX %I ON tasker.%I (xact_id)', leaf || '_by_transaction', leaf);
		EXECUTE format('COMMENT ON INDEX tasker.%I IS %L', leaf || '_by_transaction',
			'Serves the readers of the log: what is new since a position.');
		EXECUTE format('CREATE INDEX %I ON tasker.%I USING brin (created_at) WITH (autosummarize = on)', leaf || '_by_time', leaf);
		EXECUTE format('COMMENT ON INDEX tasker.%I IS %L', leaf || '_by_time',
			'Serves the analytics: what happened since a time.');
		IF log.owners = 'tasks' THEN
			EXECUTE format('CREATE INDEX %I ON tasker.%I (task_id) WHERE to_state IN (''error'', ''cancelled'', ''resolved_manually'')',
				leaf || '_rare_states', leaf);
			EXECUTE format('COMMENT ON INDEX tasker.%I IS %L', leaf || '_rare_states',
				'Serves find_tasks: the newest tasks in a state that few tasks come into. The row of a task cannot be indexed by its state, which changes.');
		END IF;
		EXECUTE format('CREATE TRIGGER insert_only BEFORE UPDATE OR DELETE OR TRUNCATE ON tasker.%I
			FOR EACH STATEMENT EXECUTE FUNCTION tasker.refuse_log_change()', leaf);
		-- Default privileges must not open what is closed.
		FOR grantee IN
			SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END AS name
			FROM pg_class c, aclexplode(c.relacl) a
			WHERE c.oid = to_regclass('tasker.' || leaf) AND a.grantee <> c.relowner
		LOOP
			EXECUTE format('REVOKE ALL ON tasker.%I FROM %s', leaf, grantee.name);
		END LOOP;
		EXECUTE format('ALTER TABLE tasker.%I ATTACH PARTITION tasker.%I FOR VALUES FROM (%s) TO (%s)', log.parent, leaf,
			CASE period WHEN 0 THEN 'MINVALUE' ELSE (period << 40)::text END, (period + 1) << 40);
	END LOOP;
END
$$;
COMMENT ON FUNCTION tasker.make_period(bigint) IS
'Makes the partitions of both logs for a period, where they are missing. For tasker itself; only the owner of the extension can.';

SELECT tasker.make_period(0);
SELECT tasker.make_period(1);

CREATE VIEW tasker.task_transitions AS
SELECT l.task_id, l.sort_key, l.from_state, l.to_state, l.sort_key = t.sort_key AS most_recent,
	coalesce(l.metadata, '{}') AS metadata, l.created_at, l.xact_id, l.role, l.executor_id
FROM tasker.task_transition_log l
JOIN tasker.tasks t USING (task_id);
COMMENT ON VIEW tasker.task_transitions IS
'The log of the tasks. most_recent is true for exactly one row of each task, by construction: the row that tasks.sort_key names.';

CREATE VIEW tasker.workflow_step_transitions AS
SELECT l.workflow_step_id, l.sort_key, l.from_state, l.to_state, l.sort_key = s.sort_key AS most_recent,
	coalesce(l.metadata, '{}') AS metadata, l.created_at, l.xact_id, l.role, l.executor_id
FROM tasker.workflow_step_transition_log l
JOIN tasker.workflow_steps s USING (workflow_step_id);
COMMENT ON VIEW tasker.workflow_step_transitions IS
'The log of the steps. most_recent is true for exactly one row of each step that has any, by construction: the row that workflow_steps.sort_key names.';

CREATE FUNCTION tasker.transition_task(task_id bigint, to_state tasker.state, metadata jsonb DEFAULT '{}') RETURNS integer
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_transition_task';
COMMENT ON FUNCTION tasker.transition_task(bigint, tasker.state, jsonb) IS
'Moves a task to a state and returns the sort_key of the transition. Errors: 42704 unknown task; TK002 the transition is not legal, the task is in that state already, or a guard refuses (complete needs every step complete or resolved).';
CREATE FUNCTION tasker.transition_step(step_id bigint, to_state tasker.state, metadata jsonb DEFAULT '{}') RETURNS integer
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_transition_step';
COMMENT ON FUNCTION tasker.transition_step(bigint, tasker.state, jsonb) IS
'Moves a step to a state and returns the sort_key of the transition, which for in_progress is the claim number. Errors: 42704 unknown step; TK002 the transition is not legal, the step is in that state already, or a guard refuses (in_progress needs every parent complete or resolved and an attempt left).';

CREATE FUNCTION tasker.safe_transition_task(task_id bigint, to_state tasker.state, metadata jsonb DEFAULT '{}') RETURNS text
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_safe_transition_task';
COMMENT ON FUNCTION tasker.safe_transition_task(bigint, tasker.state, jsonb) IS
'Like transition_task, but says ''transitioned'', ''already_in_state'' or ''not_allowed'' instead of raising TK002.';
CREATE FUNCTION tasker.safe_transition_step(step_id bigint, to_state tasker.state, metadata jsonb DEFAULT '{}') RETURNS text
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_safe_transition_step';
COMMENT ON FUNCTION tasker.safe_transition_step(bigint, tasker.state, jsonb) IS
'Like transition_step, but says ''transitioned'', ''already_in_state'' or ''not_allowed'' instead of raising TK002.';

CREATE FUNCTION tasker.conditional_transition_task(task_id bigint, to_state tasker.state, allowed_from tasker.state[], metadata jsonb DEFAULT '{}') RETURNS text
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_conditional_transition_task';
COMMENT ON FUNCTION tasker.conditional_transition_task(bigint, tasker.state, tasker.state[], jsonb) IS
'Like safe_transition_task, but moves only from one of the states given: ''not_allowed'' from any other.';
CREATE FUNCTION tasker.conditional_transition_step(step_id bigint, to_state tasker.state, allowed_from tasker.state[], metadata jsonb DEFAULT '{}') RETURNS text
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_conditional_transition_step';
COMMENT ON FUNCTION tasker.conditional_transition_step(bigint, tasker.state, tasker.state[], jsonb) IS
'Like safe_transition_step, but moves only from one of the states given: ''not_allowed'' from any other.';

CREATE FUNCTION tasker.task_state(task_id bigint) RETURNS tasker.state
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
	SELECT t.state FROM tasker.tasks t WHERE t.task_id = task_state.task_id;
END;
COMMENT ON FUNCTION tasker.task_state(bigint) IS 'The state of a task; NULL where there is no such task.';
CREATE FUNCTION tasker.step_state(step_id bigint) RETURNS tasker.state
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
	SELECT s.state FROM tasker.workflow_steps s WHERE s.workflow_step_id = step_id;
END;
COMMENT ON FUNCTION tasker.step_state(bigint) IS 'The state of a step; NULL where there is no such step.';
CREATE FUNCTION tasker.task_in_any_state(task_id bigint, states tasker.state[]) RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
	SELECT coalesce(tasker.task_state(task_id) = ANY (states), false);
END;
COMMENT ON FUNCTION tasker.task_in_any_state(bigint, tasker.state[]) IS 'Whether a task is in one of the states; false where there is no such task.';
CREATE FUNCTION tasker.step_in_any_state(step_id bigint, states tasker.state[]) RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
	SELECT coalesce(tasker.step_state(step_id) = ANY (states), false);
END;
COMMENT ON FUNCTION tasker.step_in_any_state(bigint, tasker.state[]) IS 'Whether a step is in one of the states; false where there is no such step.';

CREATE FUNCTION tasker.task_is_new(task_id bigint) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	SELECT EXISTS (SELECT FROM tasker.task_transition_log l
		WHERE l.task_id = task_is_new.task_id AND l.sort_key = 10 AND l.xact_id = pg_current_xact_id_if_assigned());
END;
COMMENT ON FUNCTION tasker.task_is_new(bigint) IS
'Whether this transaction has created the task: false where create_task has returned one that was there before. Runs as the owner of the extension, like create_task.';
CREATE TABLE tasker.timers (
	due_at timestamptz NOT NULL,
	workflow_step_id bigint NOT NULL,
	sort_key integer NOT NULL,
	PRIMARY KEY (due_at, workflow_step_id, sort_key)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
COMMENT ON TABLE tasker.timers IS
'A row only where something is due later: the end of a backoff (the transition named is the one to error) or of an attempt''s time (the transition named is the claim). A timer whose transition is no longer the step''s latest means nothing. Rebuilt from workflow_steps by tasker.rebuild_accelerators().';
COMMENT ON CONSTRAINT timers_pkey ON tasker.timers IS 'Serves the orchestrator: what is due, and when the next one is.';
-- Scheduling a task to be looked at again.

CREATE TABLE tasker.task_reenqueues (
	task_id bigint PRIMARY KEY,
	due_at timestamptz NOT NULL,
	reason text NOT NULL
		CONSTRAINT reenqueue_reason_has_1_to_128_characters CHECK (length(reason) BETWEEN 1 AND 128),
	role text NOT NULL
);
COMMENT ON TABLE tasker.task_reenqueues IS
'Tasks that are to be looked at again later, whatever the logs say meanwhile: one row a task at most, the earlier of two. The row goes when it is due; of a task that has ended it means nothing.';
COMMENT ON COLUMN tasker.task_reenqueues.role IS 'Who asked for it.';
CREATE INDEX reenqueues_by_time ON tasker.task_reenqueues (due_at);
COMMENT ON INDEX tasker.reenqueues_by_time IS 'Serves the orchestrator: which are due, and when the next one is.';

CREATE FUNCTION tasker.reenqueue_task(task_id bigint, delay interval DEFAULT NULL, reason text DEFAULT NULL) RETURNS text
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_reenqueue_task';
COMMENT ON FUNCTION tasker.reenqueue_task(bigint, interval, text) IS
'Has an open task looked at again from its rows, at once or after a delay. At once (delay NULL or 0): it goes back to pending with the reason (default pending_steps_remaining) in the log, and the orchestrator starts it again: ''reenqueued'', or ''already_pending''. Later (default reason retry_backoff): ''scheduled'', or ''already_scheduled'' where an earlier time stands, which stays. Steps are not touched. Nothing needs it in normal operation: the logs and timers bring every task back. Locks the task row. Errors: 42704 unknown task; TK002 the task has ended; 22023 bad delay or reason.';
-- History: the periods of the logs, how they begin and how they end.
--
-- The current period is where the sequences of task and step ids are. Its
-- partitions and those of the next one always exist, committed, before an id
-- of it does. That is why moving the sequences, which no rollback takes back,
-- is safe at any moment: whatever else a round of upkeep leaves undone, the
-- next one makes up for it.

CREATE TABLE tasker.history_periods (
	period bigint PRIMARY KEY,
	made_by xid8 NOT NULL,
	began_at timestamptz,
	closed_at timestamptz,
	closed_by xid8,
	closed_on bigint,
	keeps_task_rows boolean NOT NULL DEFAULT false,
	keeps_step_rows boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE tasker.history_periods IS
'What upkeep remembers of the periods of the logs. Rows come with the first round of upkeep: a dump carries them, and the script must not collide with them.';
COMMENT ON COLUMN tasker.history_periods.made_by IS 'The transaction that made its partitions; before its end no id of the period may be given out.';
COMMENT ON COLUMN tasker.history_periods.closed_by IS 'The transaction that began the next period: when it and all before it have ended, nobody brings an owner into this one any more.';
COMMENT ON COLUMN tasker.history_periods.closed_on IS 'The server that closed_by is a transaction of.';
COMMENT ON COLUMN tasker.history_periods.keeps_task_rows IS 'Tasks were pruned whose transitions are still there: they go with the partition.';
COMMENT ON COLUMN tasker.history_periods.keeps_step_rows IS 'The same for steps.';

CREATE FUNCTION tasker.history_period(owner_id bigint) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
	SELECT CASE WHEN owner_id < 0 THEN 0 ELSE owner_id >> 40 END;
END;
COMMENT ON FUNCTION tasker.history_period(bigint) IS 'The period that the transitions of a task or step belong to, by its id.';

CREATE FUNCTION tasker.current_period() RETURNS bigint
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
	SELECT greatest(tasker.history_period(t.last_value), tasker.history_period(s.last_value))
	FROM tasker.tasks_task_id_seq t, tasker.workflow_steps_workflow_step_id_seq s;
END;
COMMENT ON FUNCTION tasker.current_period() IS 'The period that new tasks and steps belong to.';

CREATE FUNCTION tasker.keep_periods(length interval) RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	now timestamptz := tasker.now();
	latest bigint := tasker.current_period();
	began_at timestamptz;
	started bigint;
BEGIN
	SELECT p.began_at INTO began_at FROM tasker.history_periods p WHERE p.period = latest;
	IF began_at IS NULL THEN
		began_at := coalesce((SELECT l.created_at FROM tasker.task_transition_log l
			WHERE l.task_id = (SELECT min(t.task_id) FROM tasker.tasks t WHERE t.task_id >= latest << 40) AND l.sort_key = 10), now);
		INSERT INTO tasker.history_periods AS p (period, made_by, began_at) VALUES (latest, pg_current_xact_id(), began_at)
		ON CONFLICT (period) DO UPDATE SET began_at = excluded.began_at WHERE p.began_at IS NULL;
	END IF;

	-- A period without a task goes on: an idle database makes none. Neither
	-- does one begin in the transaction that made it, nor when there are many:
	-- readers of the whole log look into each partition.
	IF began_at + length <= now
		AND EXISTS (SELECT FROM tasker.tasks t WHERE t.task_id >= latest << 40)
		AND to_regclass('tasker.task_transition_log_p' || latest + 1) IS NOT NULL
		AND to_regclass('tasker.workflow_step_transition_log_p' || latest + 1) IS NOT NULL
		AND (SELECT count(*) FROM pg_inherits i WHERE i.inhparent = 'tasker.task_transition_log'::regclass) < 24
		AND NOT EXISTS (SELECT FROM tasker.history_periods p
			WHERE p.period = latest + 1 AND p.made_by = pg_current_xact_id())
	THEN
		latest := latest + 1;
		started := latest;
		INSERT INTO tasker.history_periods AS p (period, made_by, began_at) VALUES (latest, pg_current_xact_id(), now)
		ON CONFLICT (period) DO UPDATE SET began_at = excluded.began_at;
	END IF;

	-- The sequences go together, and only forwards.
	PERFORM setval('tasker.tasks_task_id_seq', latest << 40, false)
	FROM tasker.tasks_task_id_seq s WHERE s.last_value < latest << 40;
	PERFORM setval('tasker.workflow_steps_workflow_step_id_seq', latest << 40, false)
	FROM tasker.workflow_steps_workflow_step_id_seq s WHERE s.last_value < latest << 40;
	INSERT INTO tasker.history_periods AS p (period, made_by, closed_at, closed_by, closed_on)
	SELECT DISTINCT over.period, pg_current_xact_id(), now, pg_current_xact_id(), (SELECT system_identifier FROM pg_control_system())
	FROM pg_inherits i
	JOIN pg_class c ON c.oid = i.inhrelid
	CROSS JOIN LATERAL (SELECT substring(c.relname FROM '_p(\d+)$')::bigint) over (period)
	LEFT JOIN tasker.history_periods h ON h.period = over.period
	WHERE i.inhparent IN ('tasker.task_transition_log'::regclass, 'tasker.workflow_step_transition_log'::regclass)
		AND over.period < latest AND h.closed_at IS NULL
	ON CONFLICT (period) DO UPDATE
	SET closed_at = excluded.closed_at, closed_by = excluded.closed_by, closed_on = excluded.closed_on;

	IF to_regclass('tasker.task_transition_log_p' || latest + 1) IS NULL
		OR to_regclass('tasker.workflow_step_transition_log_p' || latest + 1) IS NULL
	THEN
		PERFORM tasker.make_period(latest + 1);
		INSERT INTO tasker.history_periods (period, made_by) VALUES (latest + 1, pg_current_xact_id())
		ON CONFLICT (period) DO NOTHING;
	END IF;
	RETURN started;
END
$$;
COMMENT ON FUNCTION tasker.keep_periods(interval) IS
'Begins a new period when the current one is that old (NULL: never) and makes the partitions of the next one. Returns the period that began, else NULL. For upkeep, which holds its lock.';
-- Retention: what is finished and old enough goes.

CREATE FUNCTION tasker.prune_tasks(finished_before timestamptz, max_tasks integer DEFAULT 10000,
	states tasker.state[] DEFAULT '{complete,cancelled,resolved_manually}')
RETURNS integer
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_prune_tasks';
COMMENT ON FUNCTION tasker.prune_tasks(timestamptz, integer, tasker.state[]) IS
'Removes up to max_tasks tasks that are in one of the states since before the time given, oldest first, with their steps, edges, annotations and transitions, and returns how many. Call it again until it returns less. A task that another session has locked, a step of which is locked or in progress, or whose transitions the orchestrator has not read yet is left for later. Its identity key becomes free. Where tasker.retention is on, transitions of a closed period go with their partition. states may be complete, cancelled, resolved_manually and error. Locks task rows, then their step rows; other pruning waits. Errors: 22023 bad argument; 55000 the database comes from another server and is not adopted; 40001 under repeatable read, when a task has changed meanwhile (try again).';

CREATE FUNCTION tasker.upkeep(retention interval DEFAULT NULL, max_tasks integer DEFAULT 10000,
	OUT pruned integer, OUT period_begun bigint, OUT partition_freed text, OUT more boolean)
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_upkeep';
COMMENT ON FUNCTION tasker.upkeep(interval, integer) IS
'Does one round of what the background worker does for tasker.retention, for servers where none runs: prunes up to max_tasks tasks that have been complete, cancelled or resolved for that long, begins a new period of the logs when it is time, and drops or empties at most one partition. retention NULL means the setting; 0 or an unset setting prunes nothing. more: call it again, in another transaction. Run it as a statement of its own: a dropped partition keeps the log locked until the end of the transaction. Does nothing while another session is at it.';
CREATE TABLE tasker.work_queue (
	handler_id integer NOT NULL,
	rank smallint NOT NULL,
	workflow_step_id bigint NOT NULL,
	PRIMARY KEY (handler_id, rank, workflow_step_id)
) WITH (fillfactor = 90, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
COMMENT ON TABLE tasker.work_queue IS
'A row only for a step that is ready and has no executor yet. handler and rank of a step never change, so the key is unique by step. An accelerator: rebuilt from workflow_steps by tasker.rebuild_accelerators().';
COMMENT ON CONSTRAINT work_queue_pkey ON tasker.work_queue IS 'Serves claims: the next steps of a handler by rank, oldest first.';
-- An executor is a client that runs steps.

CREATE TABLE tasker.executors (
	executor_id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
	name text NOT NULL
		CONSTRAINT executor_name_has_1_to_128_characters CHECK (length(name) BETWEEN 1 AND 128),
	handlers integer[] NOT NULL,
	capacity integer NOT NULL
		CONSTRAINT executor_capacity_is_0_to_10000 CHECK (capacity BETWEEN 0 AND 10000),
	detached boolean NOT NULL,
	lease interval NOT NULL
		CONSTRAINT executor_lease_is_positive CHECK (lease > interval '0'),
	channel text NOT NULL,
	role text NOT NULL,
	registered_at timestamptz NOT NULL,
	last_heartbeat_at timestamptz NOT NULL,
	ended_at timestamptz,
	end_reason text
);
COMMENT ON TABLE tasker.executors IS 'Clients that run steps, those that have ended included: the logs name them.';
COMMENT ON COLUMN tasker.executors.capacity IS 'How many steps are pushed to it at once; 0: it only pulls.';
COMMENT ON COLUMN tasker.executors.detached IS 'False: it lives as long as the session that registered it. True: as long as its heartbeats arrive within the lease.';
COMMENT ON COLUMN tasker.executors.channel IS 'The NOTIFY channel it listens on.';
COMMENT ON COLUMN tasker.executors.last_heartbeat_at IS 'Kept only where shared memory is not available; see stat_executors.';
CREATE INDEX live_executors ON tasker.executors (executor_id) WHERE ended_at IS NULL;
COMMENT ON INDEX tasker.live_executors IS 'Serves the orchestrator: who is there to run steps.';

CREATE FUNCTION tasker.register_executor(
	name text, handlers text[], capacity integer DEFAULT 10,
	detached boolean DEFAULT false, lease interval DEFAULT NULL,
	OUT executor_id bigint, OUT channel text)
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_register_executor';
COMMENT ON FUNCTION tasker.register_executor(text, text[], integer, boolean, interval) IS
'Registers the caller as one who runs steps of these handlers, up to capacity at once (0: pull only), and gives its id and the channel to LISTEN on. Session-bound by default: when the session ends, for whatever reason, its steps go to others at once. detached: it must call heartbeat() within the lease (default tasker.lease). A handler no template names yet is legal. Errors: 22023 bad argument; 53000 no room for another detached executor (tasker.max_executors).';

CREATE FUNCTION tasker.unregister_executor(executor_id bigint, release boolean DEFAULT false) RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_unregister_executor';
COMMENT ON FUNCTION tasker.unregister_executor(bigint, boolean) IS
'Ends an executor; steps it still has go to others. They count as lost, as after a crash, unless release: then they are given back unstarted and the attempts do not count, those claimed for it meanwhile included. False if it has ended before. Error: 42704 unknown executor.';

CREATE FUNCTION tasker.heartbeat(executor_id bigint) RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_heartbeat';
COMMENT ON FUNCTION tasker.heartbeat(bigint) IS
'Sign of life of a detached executor, kept in shared memory where tasker is preloaded: no row is written. False if the executor has ended, by lease or otherwise: it should register again. Error: 42704 unknown executor.';
-- Giving ready steps to executors.

CREATE TYPE tasker.claimed_step AS (
	workflow_step_id bigint, claim integer, attempt integer, task_id bigint,
	task_name text, step_name text, handler text, handler_config jsonb,
	inputs jsonb, dependency_results jsonb);
COMMENT ON TYPE tasker.claimed_step IS
'What an executor needs to run a step: the claim number it reports with, the task''s context with the step''s own inputs over it, and the results of the direct parents by step name.';

CREATE FUNCTION tasker.claim_steps(executor_id bigint, max integer DEFAULT 1) RETURNS SETOF tasker.claimed_step
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_claim_steps';
COMMENT ON FUNCTION tasker.claim_steps(bigint, integer) IS
'Claims up to max ready steps for an executor, by priority, then oldest first; none waiting gives no row. Never waits for another claimer. Errors: 42704 unknown executor; 55000 the executor has ended; 22023 max is not 1 to 10000.';

CREATE FUNCTION tasker.claim_step(executor_id bigint, step_id bigint) RETURNS SETOF tasker.claimed_step
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_claim_step';
COMMENT ON FUNCTION tasker.claim_step(bigint, bigint) IS
'Claims one step, whatever its handler, if it may run now: pending, its parents finished, its task open and not paused, and its turn where the task runs one step at a time; else gives no row. For coordinators, which find the steps of a task by find_viable_steps. executor_id NULL: the claim is the session''s own; only report its outcome in the same transaction, for nobody notices if that does not happen. Waits for whoever holds the step''s row, and the task''s where a coordinator runs it one step at a time. Errors: 42704 unknown step or executor; 55000 the executor has ended.';

CREATE FUNCTION tasker.my_steps(executor_id bigint) RETURNS SETOF tasker.claimed_step
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_my_steps';
COMMENT ON FUNCTION tasker.my_steps(bigint) IS
'The steps that an executor has now: what a missed notification said is found again here. Error: 42704 unknown executor.';
-- How a claimed step ended. Each function touches only the steps it is given
-- and their log, so that outcomes never wait for each other. The claim number
-- is the fencing token; with executor_id the step must also be that
-- executor's. Reporting the same outcome again is a success that changes
-- nothing.

CREATE FUNCTION tasker.complete_step(step_id bigint, claim integer, results jsonb DEFAULT '{}', executor_id bigint DEFAULT NULL) RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_complete_step';
COMMENT ON FUNCTION tasker.complete_step(bigint, integer, jsonb, bigint) IS
'Reports that the attempt made under this claim has succeeded. True if this call completed the step, false if the same claim completed it before. Errors: 42704 unknown step; TK001 the claim is stale: the step was given to another, cancelled or settled meanwhile, and nothing changes.';

CREATE FUNCTION tasker.complete_steps(step_ids bigint[], claims integer[], results jsonb[] DEFAULT NULL, executor_id bigint DEFAULT NULL, skip_stale boolean DEFAULT false) RETURNS bigint[]
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_complete_steps';
COMMENT ON FUNCTION tasker.complete_steps(bigint[], integer[], jsonb[], bigint, boolean) IS
'complete_step for arrays of equal length. One stale claim refuses all (TK001), unless skip_stale: then the ids that were refused are returned, an empty array where none was.';

CREATE FUNCTION tasker.fail_step(step_id bigint, claim integer, error text, error_class text DEFAULT NULL, retryable boolean DEFAULT true, retry_after_seconds integer DEFAULT NULL, executor_id bigint DEFAULT NULL) RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_fail_step';
COMMENT ON FUNCTION tasker.fail_step(bigint, integer, text, text, boolean, integer, bigint) IS
'Reports that the attempt made under this claim has failed. Where attempts remain the step runs again after retry_after_seconds if given, else after its backoff; retryable false makes the failure final. True and false as for complete_step. Errors: 42704, TK001 as for complete_step; 22023 bad argument.';

CREATE FUNCTION tasker.fail_steps(step_ids bigint[], claims integer[], errors text[], error_classes text[] DEFAULT NULL, retryable boolean[] DEFAULT NULL, retry_after_seconds integer[] DEFAULT NULL, executor_id bigint DEFAULT NULL, skip_stale boolean DEFAULT false) RETURNS bigint[]
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_fail_steps';
COMMENT ON FUNCTION tasker.fail_steps(bigint[], integer[], text[], text[], boolean[], integer[], bigint, boolean) IS
'fail_step for arrays of equal length; stale claims as in complete_steps.';

CREATE FUNCTION tasker.release_step(step_id bigint, claim integer, executor_id bigint DEFAULT NULL) RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_release_step';
COMMENT ON FUNCTION tasker.release_step(bigint, integer, bigint) IS
'Gives a claimed step back unstarted: it goes to pending and the attempt does not count. True and false, and errors, as for complete_step.';

CREATE FUNCTION tasker.release_steps(step_ids bigint[], claims integer[], executor_id bigint DEFAULT NULL, skip_stale boolean DEFAULT false) RETURNS bigint[]
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_release_steps';
COMMENT ON FUNCTION tasker.release_steps(bigint[], integer[], bigint, boolean) IS
'release_step for arrays of equal length; stale claims as in complete_steps.';
-- Steps whose handler is a SQL function.

CREATE FUNCTION tasker.execute_step(step_id bigint) RETURNS tasker.state
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_execute_step';
COMMENT ON FUNCTION tasker.execute_step(bigint) IS
'Claims a step whose handler_class is a SQL function, named with its schema, f(tasker.claimed_step) RETURNS jsonb; runs it here and now as the owner of the template, with search_path = pg_catalog, pg_temp; completes the step with what it returns, or fails it with what it raises, and gives the state. What a failing function has written is undone. It raises TK005 for a failure that no retry can help, TK006 with a number of seconds as DETAIL for a retry after these. NULL where the step may not run now (see claim_step). All in the caller''s transaction: the step is locked until its end. Errors: 42704 unknown step; 22023, 42883, 42809, 42501 the handler is not such a function, or not to be executed by the owner.';
-- What must not be dispatched now.

CREATE FUNCTION tasker.pause(namespace text DEFAULT NULL, task_name text DEFAULT NULL, version text DEFAULT NULL) RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_pause';
COMMENT ON FUNCTION tasker.pause(text, text, text) IS
'Stops the dispatch of steps: of everything, of a namespace, of a named task, or of one version of it. Steps in progress go on and may report. Error: 42704 no such namespace or template.';
CREATE FUNCTION tasker.resume(namespace text DEFAULT NULL, task_name text DEFAULT NULL, version text DEFAULT NULL) RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_resume';
COMMENT ON FUNCTION tasker.resume(text, text, text) IS
'Ends the pause of the same scope; a pause of everything or of the namespace stays when a template is resumed, and the other way round. A template''s pause is a mark on each of its versions. Without arguments, on a restored or cloned database, it also adopts the database: accelerators are rebuilt and dispatch begins. Error: 42704 no such namespace or template.';

CREATE FUNCTION tasker.rebuild_accelerators() RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_rebuild_accelerators';
COMMENT ON FUNCTION tasker.rebuild_accelerators() IS
'Throws away the work queue, the timers and the checkpoint and makes them again from tasks and steps. Waits for the orchestrator''s batch; changes no state.';
-- Waiting without polling and without LISTEN, outside of any snapshot.

CREATE PROCEDURE tasker.await_steps(executor_id bigint, max integer DEFAULT 1, timeout interval DEFAULT NULL,
	INOUT steps jsonb DEFAULT NULL)
LANGUAGE c AS 'MODULE_PATHNAME', 'tasker_await_steps';
COMMENT ON PROCEDURE tasker.await_steps(bigint, integer, interval, jsonb) IS
'Blocking pull: claims up to max ready steps for an executor, as claim_steps does, and waits for some if there are none. steps: an array of objects with the columns of tasker.claimed_step, empty after the timeout (NULL: waits without end, 0: does not wait). Woken by the commit that brings steps; while waiting it holds no snapshot, no lock and no row, and it counts as the heartbeat of a detached executor. Where tasker is not preloaded it looks again by itself, after 10 ms at first and then ever later, at least each second. Register the executor with capacity 0 if it only pulls. Must be called outside of a transaction block. Errors: 25001 in a transaction block or from a function; 42704 unknown executor; 55000 the executor has ended, also while it waits; 22023 max is not 1 to 10000.';

CREATE PROCEDURE tasker.await_task(task_id bigint, timeout interval DEFAULT NULL, INOUT state tasker.state DEFAULT NULL)
LANGUAGE c AS 'MODULE_PATHNAME', 'tasker_await_task';
COMMENT ON PROCEDURE tasker.await_task(bigint, interval, tasker.state) IS
'Waits until a task has come to an end and gives its state: complete, error, cancelled or resolved_manually; NULL after the timeout (NULL: waits without end, 0: does not wait). Waits as await_steps does, on a standby by looking again as without preload. Must be called outside of a transaction block. Errors: 25001 in a transaction block or from a function; 42704 unknown task.';
-- Consequences, drawn from the log by one writer at a time.

CREATE TABLE tasker.orchestrator_checkpoint (
	only_one boolean NOT NULL DEFAULT true PRIMARY KEY CONSTRAINT one_checkpoint CHECK (only_one),
	system_identifier bigint NOT NULL,
	generation bigint NOT NULL DEFAULT 1,
	position pg_snapshot NOT NULL,
	in_flight_steps bigint[] NOT NULL DEFAULT '{}',
	in_flight_executors bigint[] NOT NULL DEFAULT '{}',
	reconcile boolean NOT NULL DEFAULT false,
	paused_at timestamptz,
	saved_at timestamptz NOT NULL
);
COMMENT ON TABLE tasker.orchestrator_checkpoint IS
'How far the orchestrator has read the logs and which steps were with which executor then, both from one snapshot; saved about once a second. After a crash the log is replayed from here. The row is made at the first use: a dump carries it, and the script must not collide with it.';
COMMENT ON COLUMN tasker.orchestrator_checkpoint.system_identifier IS 'The server that the position belongs to. On any other (a restore, a clone) nothing is dispatched until tasker.resume().';
COMMENT ON COLUMN tasker.orchestrator_checkpoint.generation IS 'Grows with each save: who remembers another one must read the row again.';
COMMENT ON COLUMN tasker.orchestrator_checkpoint.reconcile IS 'The next batch looks at every open task instead of only at what the log got since.';
COMMENT ON COLUMN tasker.orchestrator_checkpoint.paused_at IS 'Since when everything is paused; NULL while it runs.';

CREATE FUNCTION tasker.orchestrate(task_id bigint DEFAULT NULL) RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_orchestrate';
COMMENT ON FUNCTION tasker.orchestrate(bigint) IS
'Does in this session and transaction what the background worker does: discovers ready steps, promotes due retries, recovers steps of lost executors, finalizes tasks, dispatches. Runs until there is nothing left to do and returns how many transitions it made; a second call makes none. With a task_id that task is looked at from its rows as well, whatever the log has said. Waits for another orchestrator at work. Error: 42704 unknown task.';

CREATE FUNCTION tasker.retry_due_steps(task_id bigint DEFAULT NULL, max integer DEFAULT NULL) RETURNS integer
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_retry_due_steps';
COMMENT ON FUNCTION tasker.retry_due_steps(bigint, integer) IS
'The retry coordinator by hand: puts steps in error whose backoff is over back to pending, of one task or of all open ones, max at most, and returns how many; the orchestrator then gives them out. It does the same by itself when the time comes. Locks the step rows, by id. Error: 22023 max is not positive.';

CREATE FUNCTION tasker.find_viable_steps(task_id bigint) RETURNS SETOF bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_find_viable_steps';
COMMENT ON FUNCTION tasker.find_viable_steps(bigint) IS
'The steps of a task that may run now, by id: pending, every parent finished, in a task that is not paused, and steps in error whose backoff is over; of a task that runs one step at a time the one whose turn it is. Changes nothing. Error: 42704 unknown task.';
-- Tasks that a session runs itself.

CREATE FUNCTION tasker.coordinate_task(task_id bigint, max_steps integer DEFAULT NULL,
	OUT state tasker.state, OUT step_runs integer, OUT failed_runs integer, OUT next_retry_at timestamptz)
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_coordinate_task';
COMMENT ON FUNCTION tasker.coordinate_task(bigint, integer) IS
'Runs a task here and now: draws what follows from its state, runs each step that may run by execute_step, and again, until nothing can run or max_steps have run. state: of the task then; step_runs and failed_runs: how many attempts were made here, and failed; next_retry_at: when a step may run again, so call it then. Where the template''s coordinator_strategy is a function f(jsonb) RETURNS void, that is called instead, with {"task_id": ...} and as the owner of the template, to find (find_viable_steps) and run (execute_step) the steps in its own way; the counts are NULL then. All in the caller''s transaction, which holds the rows of the steps it has run until its end; the orchestrator goes on with other tasks meanwhile. The handlers must be SQL functions, see execute_step. Errors: 42704 unknown task; those of execute_step.';
CREATE FUNCTION tasker.finalize_task(task_id bigint) RETURNS tasker.state
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_finalize_task';
COMMENT ON FUNCTION tasker.finalize_task(bigint) IS
'Decides a task''s outcome now and returns its state: complete when every step is complete or resolved, error when nothing of it can run any more, unchanged otherwise. The orchestrator does this by itself. Error: 42704 unknown task.';
-- The periods as operators see them, and the end of those that are over.

CREATE VIEW tasker.stat_history AS
WITH leaf AS (
	SELECT l.log, c.oid AS relation, p.period, p.period << 40 AS first_id, ((p.period + 1) << 40) - 1 AS last_id,
		c.reltuples, tasker.current_period() AS latest
	FROM (VALUES ('task', 'tasker.task_transition_log'::regclass), ('step', 'tasker.workflow_step_transition_log')) l (log, parent)
	JOIN pg_inherits i ON i.inhparent = l.parent
	JOIN pg_class c ON c.oid = i.inhrelid
	CROSS JOIN LATERAL (SELECT substring(c.relname FROM '_p(\d+)$')::bigint) p (period)
), checkpoint AS (
	SELECT c.position, pg_snapshot_xmax(c.position) AS next_xact, ARRAY(SELECT pg_snapshot_xip(c.position)) AS running,
		c.system_identifier = (SELECT system_identifier FROM pg_control_system()) AS owned
	FROM tasker.orchestrator_checkpoint c
), status AS (
	SELECT leaf.log, leaf.period, leaf.relation, leaf.first_id, leaf.last_id, h.began_at, h.closed_at,
		CASE leaf.log WHEN 'task' THEN h.keeps_task_rows ELSE h.keeps_step_rows END AS keeps_rows,
		nullif(leaf.reltuples, -1)::bigint AS rows, leaf.latest,
		CASE leaf.log
			WHEN 'task' THEN (SELECT min(t.task_id) FROM tasker.tasks t WHERE t.task_id >= leaf.first_id AND t.task_id <= leaf.last_id)
			ELSE (SELECT min(s.workflow_step_id) FROM tasker.workflow_steps s WHERE s.workflow_step_id >= leaf.first_id AND s.workflow_step_id <= leaf.last_id)
		END AS oldest_owner,
		h.closed_by IS NULL OR (h.closed_on = (SELECT system_identifier FROM pg_control_system())
			AND h.closed_by >= pg_snapshot_xmin(pg_current_snapshot())) AS is_closing,
		CASE
			WHEN NOT coalesce((SELECT owned FROM checkpoint), true) THEN true
			WHEN leaf.log = 'task' THEN
				EXISTS (SELECT FROM tasker.task_transition_log l
					WHERE l.task_id >= leaf.first_id AND l.task_id <= leaf.last_id
						AND l.xact_id >= (SELECT next_xact FROM checkpoint) AND l.xact_id <= '18446744073709551615')
				OR EXISTS (SELECT FROM tasker.task_transition_log l
					WHERE l.task_id >= leaf.first_id AND l.task_id <= leaf.last_id
						AND l.xact_id = ANY ((SELECT running FROM checkpoint)::xid8[]))
			ELSE
				EXISTS (SELECT FROM tasker.workflow_step_transition_log l
					WHERE l.workflow_step_id >= leaf.first_id AND l.workflow_step_id <= leaf.last_id
						AND l.xact_id >= (SELECT next_xact FROM checkpoint) AND l.xact_id <= '18446744073709551615')
				OR EXISTS (SELECT FROM tasker.workflow_step_transition_log l
					WHERE l.workflow_step_id >= leaf.first_id AND l.workflow_step_id <= leaf.last_id
						AND l.xact_id = ANY ((SELECT running FROM checkpoint)::xid8[]))
		END AS is_unread
	FROM leaf
	LEFT JOIN tasker.history_periods h ON h.period = leaf.period
)
SELECT s.log, s.period, s.relation::regclass AS partition, s.first_id, s.last_id, s.began_at, s.closed_at,
	s.rows, pg_total_relation_size(s.relation) AS bytes,
	CASE
		WHEN s.oldest_owner IS NULL THEN 0
		WHEN s.log = 'task' THEN (SELECT count(*) FROM (SELECT FROM tasker.tasks t
			WHERE t.task_id >= s.oldest_owner AND t.task_id <= s.last_id LIMIT 10001) o)
		ELSE (SELECT count(*) FROM (SELECT FROM tasker.workflow_steps w
			WHERE w.workflow_step_id >= s.oldest_owner AND w.workflow_step_id <= s.last_id LIMIT 10001) o)
	END AS owners,
	s.oldest_owner, coalesce(s.keeps_rows, false) AS keeps_rows,
	CASE
		WHEN s.period > s.latest THEN 'not begun'
		WHEN s.period = s.latest THEN 'current'
		WHEN s.oldest_owner IS NOT NULL THEN 'owners'
		WHEN s.is_closing THEN 'transactions'
		WHEN s.is_unread THEN 'orchestrator'
	END AS held_by
FROM status s;
COMMENT ON VIEW tasker.stat_history IS
'The partitions of the logs, one row each: which ids they are for, how large they are, and what keeps a partition from being dropped by upkeep. For operators.';
COMMENT ON COLUMN tasker.stat_history.rows IS 'The estimate of the last vacuum or analyze.';
COMMENT ON COLUMN tasker.stat_history.owners IS 'Tasks or steps of the period that exist; 10001 stands for more than 10000.';
COMMENT ON COLUMN tasker.stat_history.oldest_owner IS 'The task or step of the period with the smallest id.';
COMMENT ON COLUMN tasker.stat_history.keeps_rows IS 'Transitions of pruned owners wait here for the end of the partition.';
COMMENT ON COLUMN tasker.stat_history.held_by IS
'Why the partition stays: not begun, current, owners (some exist), transactions (one that ran at the end of the period still does), orchestrator (it has not read all rows, or this database is not adopted). NULL: the next round of upkeep drops it, unless somebody reads it.';

-- Locks: the partition first, without waiting; it has no owner, so only who
-- reads the whole log can have it. Then the parent, for which everybody who
-- reads or writes the log waits in turn: hence the short timeout, and nothing
-- else in the transaction after that.
CREATE FUNCTION tasker.drop_history(OUT dropped text, OUT is_locked boolean)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '50ms'
AS $$
DECLARE
	leaf text;
	parent text;
	over bigint;
BEGIN
	is_locked := false;
	FOREACH leaf IN ARRAY ARRAY(SELECT h.partition::text FROM tasker.stat_history h WHERE h.held_by IS NULL ORDER BY h.period, h.log DESC)
	LOOP
		parent := regexp_replace(leaf, '_p\d+$', '');
		over := substring(leaf FROM '_p(\d+)$');
		BEGIN
			EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE NOWAIT', leaf);
			EXECUTE format('LOCK TABLE ONLY %s IN ACCESS EXCLUSIVE MODE', parent);
			IF EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = leaf::regclass AND d.deptype = 'e') THEN
				EXECUTE format('ALTER EXTENSION tasker DROP TABLE %s', leaf);
			END IF;
			EXECUTE format('ALTER TABLE %s DETACH PARTITION %s', parent, leaf);
			EXECUTE format('DROP TABLE %s', leaf);
		EXCEPTION WHEN lock_not_available THEN
			is_locked := true;
			CONTINUE;
		END;
		DELETE FROM tasker.history_periods p
		WHERE p.period = over
			AND to_regclass('tasker.task_transition_log_p' || over) IS NULL
			AND to_regclass('tasker.workflow_step_transition_log_p' || over) IS NULL;
		dropped := leaf;
		RETURN;
	END LOOP;
END
$$;
COMMENT ON FUNCTION tasker.drop_history() IS
'Drops one partition that nothing holds, if it is to be had at once, and gives its name; else says whether there was one that somebody had locked. For upkeep.';

-- A period that a few owners keep, a task in error for weeks, say, would keep
-- the rows of all others, too. So the partition is emptied and gets back the
-- rows of those who are still there. That locks this partition alone; its few
-- owners, and who reads the whole log, wait for as long as those rows take.
CREATE FUNCTION tasker.compact_history(closed_before timestamptz, smallest bigint) RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	leaf text;
	steps boolean;
	over bigint;
	kept text;
BEGIN
	FOREACH leaf IN ARRAY ARRAY(SELECT h.partition::text FROM tasker.stat_history h
		WHERE h.held_by = 'owners' AND h.keeps_rows AND h.owners <= 10000
			AND h.closed_at < closed_before AND h.bytes >= smallest
		ORDER BY h.period, h.log DESC)
	LOOP
		BEGIN
			EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE NOWAIT', leaf);
		EXCEPTION WHEN lock_not_available THEN
			CONTINUE;
		END;
		steps := leaf LIKE '%step%';
		over := substring(leaf FROM '_p(\d+)$');
		EXECUTE format('SELECT array_agg(l)::text FROM %s o CROSS JOIN LATERAL
				(SELECT l.* FROM %s l WHERE l.%I = o.%3$I OFFSET 0) l
			WHERE o.%3$I >= $1 AND o.%3$I < $2',
			CASE WHEN steps THEN 'tasker.workflow_steps' ELSE 'tasker.tasks' END, leaf,
			CASE WHEN steps THEN 'workflow_step_id' ELSE 'task_id' END)
		INTO kept USING over << 40, (over + 1) << 40;
		EXECUTE format('TRUNCATE %s', leaf);
		EXECUTE format('INSERT INTO %s SELECT l.* FROM unnest($1::%1$s[]) l', leaf) USING kept;
		UPDATE tasker.history_periods p
		SET keeps_task_rows = p.keeps_task_rows AND steps, keeps_step_rows = p.keeps_step_rows AND NOT steps
		WHERE p.period = over;
		RETURN leaf;
	END LOOP;
	RETURN NULL;
END
$$;
COMMENT ON FUNCTION tasker.compact_history(timestamptz, bigint) IS
'Takes the rows of pruned owners out of one partition of a period that was closed before the time given, is at least that many bytes large and is kept by no more than 10000 owners; returns its name. For upkeep, with the triggers of the logs off.';
-- The graph of a task as arrays, for the functions of rules/graph.sql.

-- Step ids grow in topological order. The template is asked for by its number and
-- scans and nested loops are off, so that steps and edges come by their keys and
-- meet in hash or merge joins even where the planner believes that the tables are
-- empty. It then likes to walk all steps by id, too, where it may save a sort: + 0
-- says that it may not. jit would only see the price of a forbidden plan and
-- compile for it.
CREATE FUNCTION tasker.task_edges(task_id bigint, OUT step_ids bigint[], OUT sources integer[], OUT targets integer[])
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
SET enable_nestloop = off
SET enable_seqscan = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
	template integer := (SELECT t.named_task_id FROM tasker.tasks t WHERE t.task_id = task_edges.task_id);
BEGIN
	SELECT coalesce(array_agg(s.workflow_step_id ORDER BY s.workflow_step_id + 0), '{}') INTO step_ids
	FROM tasker.workflow_steps s
	WHERE s.task_id = task_edges.task_id;

	WITH step AS MATERIALIZED (
		SELECT s.named_step_id, row_number() OVER (ORDER BY s.workflow_step_id + 0)::integer AS place
		FROM tasker.workflow_steps s
		WHERE s.task_id = task_edges.task_id
	)
	SELECT coalesce(array_agg(p.place), '{}'), coalesce(array_agg(c.place), '{}') INTO sources, targets
	FROM tasker.named_step_edges e
	JOIN step c ON c.named_step_id = e.to_named_step_id
	JOIN step p ON p.named_step_id = e.from_named_step_id
	WHERE e.named_task_id = template;
END
$$;
COMMENT ON FUNCTION tasker.task_edges(bigint) IS
'The steps of a task by id, and its edges as the places of their ends among these: the n-th edge leads from step_ids[sources[n]] to step_ids[targets[n]]. Empty where there is no such task.';
-- Readiness: may a step run now, and if not, what is it waiting for. One row a
-- step and one row a task, computed from the rows of truth, never stored.
--
-- These views are written to be asked for one task among a million. A condition
-- on task_id or on workflow_step_id reaches the scan of workflow_steps, and what
-- hangs on a step is fetched by subplans with all key columns, which no wrong
-- statistics can turn into a scan of a whole table.

CREATE VIEW tasker.step_readiness_statuses AS
SELECT s.workflow_step_id, s.task_id, s.named_step_id, n.name, s.state AS current_state,
	rule.dependencies_satisfied, rule.retry_eligible, verdict.ready AS ready_for_execution,
	(SELECT l.created_at FROM tasker.workflow_step_transition_log l
		WHERE s.state = 'error' AND l.workflow_step_id = s.workflow_step_id AND l.sort_key = s.sort_key) AS last_failure_at,
	s.next_retry_at,
	parent.total AS total_parents, parent.completed AS completed_parents,
	s.attempts, s.retry_limit, s.backoff_request_seconds, s.last_attempted_at,
	CASE
		WHEN verdict.ready THEN NULL
		WHEN NOT rule.dependencies_satisfied THEN 'dependencies_not_satisfied'
		WHEN s.state = 'error' AND NOT rule.retry_eligible THEN 'retry_not_eligible'
		WHEN s.state NOT IN ('pending', 'error') OR t.state NOT IN ('pending', 'in_progress') THEN 'invalid_state'
		ELSE 'unknown'
	END AS blocking_reason,
	CASE
		WHEN verdict.ready THEN 0
		ELSE greatest(extract(epoch FROM s.next_retry_at - tasker.now())::double precision,
			CASE WHEN s.next_retry_at IS NOT NULL THEN 0 END)
	END AS time_until_ready,
	CASE
		WHEN parent.total = 0 THEN 'no_dependencies'
		WHEN rule.dependencies_satisfied THEN 'all_satisfied'
		ELSE parent.completed || '/' || parent.total || '_satisfied'
	END AS dependency_status,
	CASE
		WHEN NOT rule.retry_eligible THEN 'max_retries_reached'
		WHEN s.state = 'error' AND s.next_retry_at > tasker.now() THEN 'waiting_for_backoff'
		ELSE 'retry_eligible'
	END AS retry_status,
	CASE
		WHEN s.backoff_request_seconds IS NOT NULL AND s.last_attempted_at IS NOT NULL THEN 'explicit_backoff'
		WHEN s.state = 'error' THEN 'exponential_backoff'
		ELSE 'no_backoff'
	END AS backoff_type
FROM tasker.workflow_steps s
JOIN tasker.tasks t ON t.task_id = s.task_id
LEFT JOIN tasker.named_steps n ON n.named_step_id = s.named_step_id
CROSS JOIN LATERAL (
	-- Whether anything of the task may run: asked once a task, not once a step.
	SELECT t.state IN ('pending', 'in_progress')
		AND NOT EXISTS (SELECT FROM tasker.orchestrator_checkpoint c WHERE c.paused_at IS NOT NULL)
		AND NOT EXISTS (SELECT FROM tasker.task_namespaces ns WHERE ns.task_namespace_id = t.task_namespace_id AND ns.paused_at IS NOT NULL)
		AND (SELECT nt.paused_at IS NULL
				AND (nt.concurrent OR NOT EXISTS (SELECT FROM tasker.workflow_steps o WHERE o.task_id = t.task_id AND o.state = 'in_progress'))
			FROM tasker.named_tasks nt WHERE nt.named_task_id = t.named_task_id) AS is_open
	OFFSET 0
) gate
CROSS JOIN LATERAL (
	SELECT count(*)::integer AS total,
		count(*) FILTER (WHERE (
			SELECT p.state FROM tasker.workflow_steps p
			WHERE p.task_id = s.task_id AND p.named_step_id = e.from_named_step_id
		) IN ('complete', 'resolved_manually'))::integer AS completed
	FROM tasker.named_step_edges e
	WHERE e.named_task_id = t.named_task_id AND e.to_named_step_id = s.named_step_id
) parent
CROSS JOIN LATERAL (
	SELECT parent.completed = parent.total AS dependencies_satisfied,
		NOT s.failed_permanently
			AND (s.attempts = 0 OR (s.retryable AND s.attempts < s.retry_limit)) AS retry_eligible
) rule
CROSS JOIN LATERAL (
	SELECT rule.dependencies_satisfied
		AND gate.is_open
		AND (s.state = 'pending'
			OR (s.state = 'error' AND rule.retry_eligible
				AND coalesce(s.next_retry_at <= tasker.now(), false))) AS ready
) verdict;
COMMENT ON VIEW tasker.step_readiness_statuses IS
'Whether each step may run now, and what it waits for. For people, dashboards and check(); ask by task_id or workflow_step_id.';
COMMENT ON COLUMN tasker.step_readiness_statuses.dependencies_satisfied IS 'Every parent is complete or resolved_manually.';
COMMENT ON COLUMN tasker.step_readiness_statuses.retry_eligible IS 'Another attempt is allowed: the first one always, further ones while the step is retryable and below its limit, none after a permanent failure.';
COMMENT ON COLUMN tasker.step_readiness_statuses.ready_for_execution IS 'The step may run now: dependencies satisfied, its task open and not paused, and the step pending or due for its retry.';
COMMENT ON COLUMN tasker.step_readiness_statuses.last_failure_at IS 'When the step failed, while error is its state.';
COMMENT ON COLUMN tasker.step_readiness_statuses.next_retry_at IS 'The one time that counts, requested by the executor or computed from the backoff.';
COMMENT ON COLUMN tasker.step_readiness_statuses.blocking_reason IS 'NULL where ready; dependencies_not_satisfied, retry_not_eligible, invalid_state (of the step or its task), or unknown: it waits for its backoff, for its turn where one step runs at a time, or is paused.';
COMMENT ON COLUMN tasker.step_readiness_statuses.time_until_ready IS 'Seconds; 0 where ready, NULL where no time will make it so.';
COMMENT ON COLUMN tasker.step_readiness_statuses.dependency_status IS 'no_dependencies, all_satisfied, or completed/total_satisfied.';
COMMENT ON COLUMN tasker.step_readiness_statuses.retry_status IS 'max_retries_reached (no attempt is left, for whatever reason), waiting_for_backoff, or retry_eligible.';
COMMENT ON COLUMN tasker.step_readiness_statuses.backoff_type IS 'explicit_backoff (the executor asked for it), exponential_backoff, or no_backoff.';

CREATE VIEW tasker.task_execution_contexts AS
SELECT t.task_id, t.named_task_id, t.state AS status,
	step.total AS total_steps, step.pending AS pending_steps, step.in_progress AS in_progress_steps,
	step.completed AS completed_steps, step.failed AS failed_steps, step.ready AS ready_steps,
	verdict.execution_status, verdict.recommended_action,
	CASE WHEN step.total = 0 THEN 0.0
		ELSE round(step.completed * 100.0 / step.total, 2)
	END AS completion_percentage,
	verdict.health_status, step.cancelled AS cancelled_steps,
	verdict.execution_status IN ('has_ready_steps', 'processing') AS has_work_to_do,
	t.state IN ('pending', 'in_progress')
		AND verdict.execution_status IN ('processing', 'waiting_for_dependencies') AS should_reenqueue,
	verdict.needs_intervention,
	CASE
		WHEN t.state IN ('complete', 'cancelled', 'resolved_manually') THEN
			jsonb '{"action": "none", "description": "The task has ended.", "urgency": "none", "can_proceed": false}'
		WHEN t.state = 'error' OR verdict.recommended_action = 'handle_failures' THEN
			jsonb '{"action": "handle_failures", "description": "Nothing more can run: retry or resolve the steps that failed.", "urgency": "critical", "can_proceed": false}'
		WHEN verdict.recommended_action = 'execute_ready_steps' THEN
			jsonb '{"action": "execute_ready_steps", "description": "Steps are ready for an executor.", "urgency": "high", "can_proceed": true}'
		WHEN verdict.recommended_action = 'wait_for_completion' THEN
			jsonb '{"action": "wait_for_completion", "description": "Executors are at work.", "urgency": "low", "can_proceed": false}'
		WHEN verdict.recommended_action = 'finalize_task' THEN
			jsonb '{"action": "finalize_task", "description": "All steps are done: the orchestrator closes the task.", "urgency": "medium", "can_proceed": true}'
		ELSE
			jsonb '{"action": "wait_for_dependencies", "description": "Steps wait for a retry, or until something is resumed.", "urgency": "low", "can_proceed": false}'
	END AS next_action_details,
	jsonb_build_object('completed_ratio', step.completed || '/' || step.total,
		'percentage', CASE WHEN step.total = 0 THEN 0.0 ELSE round(step.completed * 100.0 / step.total, 2) END || '%',
		'remaining_steps', step.total - step.completed,
		'failed_steps', step.failed, 'ready_steps', step.ready) AS progress_details
FROM tasker.tasks t
CROSS JOIN LATERAL (
	SELECT count(*) AS total,
		count(*) FILTER (WHERE r.current_state = 'pending') AS pending,
		count(*) FILTER (WHERE r.current_state = 'in_progress') AS in_progress,
		count(*) FILTER (WHERE r.current_state IN ('complete', 'resolved_manually')) AS completed,
		count(*) FILTER (WHERE r.current_state = 'error') AS failed,
		count(*) FILTER (WHERE r.current_state = 'cancelled') AS cancelled,
		count(*) FILTER (WHERE r.ready_for_execution) AS ready,
		count(*) FILTER (WHERE r.current_state = 'error' AND NOT r.retry_eligible) AS permanently_blocked
	FROM tasker.step_readiness_statuses r
	WHERE r.task_id = t.task_id
) step
CROSS JOIN LATERAL (
	-- Failures come after work that can still be done, but before waiting: a
	-- step that failed for good or was cancelled leaves nothing to wait for
	-- unless another one is in its backoff.
	SELECT CASE
		WHEN step.ready > 0 THEN 'has_ready_steps'
		WHEN step.in_progress > 0 THEN 'processing'
		WHEN step.completed = step.total AND step.total > 0 THEN 'all_complete'
		WHEN step.permanently_blocked + step.cancelled > 0 AND step.failed = step.permanently_blocked THEN 'blocked_by_failures'
		ELSE 'waiting_for_dependencies'
	END AS execution_status,
	CASE
		WHEN step.failed = 0 THEN 'healthy'
		WHEN step.ready > 0 THEN 'recovering'
		WHEN step.permanently_blocked > 0 THEN 'blocked'
		ELSE 'recovering'
	END AS health_status
) status
CROSS JOIN LATERAL (
	SELECT status.*,
		CASE status.execution_status
			WHEN 'has_ready_steps' THEN 'execute_ready_steps'
			WHEN 'processing' THEN 'wait_for_completion'
			WHEN 'all_complete' THEN 'finalize_task'
			WHEN 'blocked_by_failures' THEN 'handle_failures'
			ELSE 'wait_for_dependencies'
		END AS recommended_action,
		t.state = 'error' OR (t.state IN ('pending', 'in_progress')
			AND (status.execution_status = 'blocked_by_failures' OR status.health_status = 'blocked')) AS needs_intervention
) verdict;
COMMENT ON VIEW tasker.task_execution_contexts IS
'How far each task has come and what it needs next. For people and dashboards; ask by task_id.';
COMMENT ON COLUMN tasker.task_execution_contexts.completed_steps IS 'Complete or resolved_manually.';
COMMENT ON COLUMN tasker.task_execution_contexts.failed_steps IS 'In error, those that will run again included.';
COMMENT ON COLUMN tasker.task_execution_contexts.execution_status IS 'The first that holds: has_ready_steps, processing, all_complete, blocked_by_failures (a step failed for good or was cancelled, and none waits for its backoff), waiting_for_dependencies.';
COMMENT ON COLUMN tasker.task_execution_contexts.health_status IS 'healthy (no step in error), recovering, or blocked (a step failed for good and none is ready).';
COMMENT ON COLUMN tasker.task_execution_contexts.has_work_to_do IS 'Steps are ready or in progress.';
COMMENT ON COLUMN tasker.task_execution_contexts.should_reenqueue IS 'The task is open and worth another look later: steps are in progress, or wait for a retry or for what is paused.';
COMMENT ON COLUMN tasker.task_execution_contexts.needs_intervention IS 'A person is needed: the task is in error, or it is open, a step of it failed for good or was cancelled, and no other one is ready.';
COMMENT ON COLUMN tasker.task_execution_contexts.next_action_details IS 'action (recommended_action, but handle_failures for every task in error and none for one that has ended), description, urgency (critical, high, medium, low, none) and can_proceed (something can be done without waiting).';
COMMENT ON COLUMN tasker.task_execution_contexts.progress_details IS 'completed_ratio (text, completed/total), percentage (text), remaining_steps, failed_steps, ready_steps.';

CREATE FUNCTION tasker.step_readiness_status(task_id bigint, step_ids bigint[] DEFAULT NULL)
RETURNS SETOF tasker.step_readiness_statuses
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
	SELECT r.* FROM tasker.step_readiness_statuses r
	WHERE r.task_id = step_readiness_status.task_id
		AND (step_ids IS NULL OR r.workflow_step_id = ANY (step_ids));
END;
COMMENT ON FUNCTION tasker.step_readiness_status(bigint, bigint[]) IS
'Readiness of the steps of a task, or of those given; no row where there is no such task.';

CREATE FUNCTION tasker.task_execution_context(task_id bigint)
RETURNS SETOF tasker.task_execution_contexts
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
	SELECT c.* FROM tasker.task_execution_contexts c
	WHERE c.task_id = task_execution_context.task_id;
END;
COMMENT ON FUNCTION tasker.task_execution_context(bigint) IS
'The execution context of one task; no row where there is no such task.';

-- Many tasks in one call: the views are asked for each one by its key, so that
-- what one costs is what many cost, whatever the planner believes of the tables.
-- Joined as a whole, it would have to guess how many steps they have.
CREATE FUNCTION tasker.step_readiness_statuses(task_ids bigint[])
RETURNS SETOF tasker.step_readiness_statuses
LANGUAGE sql STABLE PARALLEL SAFE ROWS 5000
SET enable_seqscan = off
SET jit = off
BEGIN ATOMIC
	SELECT r.*
	FROM (SELECT DISTINCT u.task_id FROM unnest(task_ids) u (task_id)) asked
	CROSS JOIN LATERAL (SELECT r.* FROM tasker.step_readiness_statuses r WHERE r.task_id = asked.task_id OFFSET 0) r;
END;
COMMENT ON FUNCTION tasker.step_readiness_statuses(bigint[]) IS
'step_readiness_status() of many tasks: the rows of the view of the same name, each task once however often it is named. No row for a task that does not exist.';

CREATE FUNCTION tasker.task_execution_contexts(task_ids bigint[])
RETURNS SETOF tasker.task_execution_contexts
LANGUAGE sql STABLE PARALLEL SAFE ROWS 500
SET enable_seqscan = off
SET jit = off
BEGIN ATOMIC
	SELECT c.*
	FROM (SELECT DISTINCT u.task_id FROM unnest(task_ids) u (task_id)) asked
	CROSS JOIN LATERAL (SELECT c.* FROM tasker.task_execution_contexts c WHERE c.task_id = asked.task_id OFFSET 0) c;
END;
COMMENT ON FUNCTION tasker.task_execution_contexts(bigint[]) IS
'task_execution_context() of many tasks: the rows of the view of the same name, each task once however often it is named. No row for a task that does not exist.';

-- What it claims to cost and to return is read by step_dag_relationships' planner.
CREATE FUNCTION tasker.step_depths(task_id bigint)
RETURNS TABLE (workflow_step_id bigint, shortest integer, longest integer)
LANGUAGE sql STABLE PARALLEL SAFE COST 10000 ROWS 1000
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	SELECT step.*
	FROM tasker.task_edges(step_depths.task_id) edge
	CROSS JOIN LATERAL tasker.graph_depths(cardinality(edge.step_ids), edge.sources, edge.targets) depth
	CROSS JOIN LATERAL unnest(edge.step_ids, depth.shortest, depth.longest) step;
END;
COMMENT ON FUNCTION tasker.step_depths(bigint) IS
'For each step of a task its shortest and longest distance from a root, 0 at the roots. Read by step_dag_relationships and dependency_levels.';

CREATE FUNCTION tasker.dependency_levels(task_id bigint)
RETURNS TABLE (workflow_step_id bigint, dependency_level integer)
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
	SELECT d.workflow_step_id, d.longest
	FROM tasker.step_depths(task_id) d
	ORDER BY d.longest, d.workflow_step_id;
END;
COMMENT ON FUNCTION tasker.dependency_levels(bigint) IS
'The level of each step of a task: its longest path from a root, 0 at the roots. Steps of one level do not depend on each other. No row where there is no such task.';

-- The distances of a task are computed once for all its steps: what step_depths
-- claims to cost and to return makes a hash join of both the cheapest plan even
-- where the planner expects a single step, and not one call for each step.
CREATE VIEW tasker.step_dag_relationships AS
SELECT s.workflow_step_id, s.task_id, s.named_step_id,
	parent.ids AS parent_step_ids, child.ids AS child_step_ids,
	parent.total AS parent_count, child.total AS child_count,
	parent.total = 0 AS is_root_step, child.total = 0 AS is_leaf_step,
	depth.shortest AS min_depth_from_root
FROM tasker.tasks t
CROSS JOIN LATERAL tasker.step_depths(t.task_id) depth
JOIN tasker.workflow_steps s ON s.task_id = t.task_id AND s.workflow_step_id = depth.workflow_step_id
CROSS JOIN LATERAL (
	SELECT count(*) AS total, coalesce(jsonb_agg(p.workflow_step_id ORDER BY p.workflow_step_id), '[]') AS ids
	FROM tasker.named_step_edges e
	JOIN tasker.workflow_steps p ON p.task_id = t.task_id AND p.named_step_id = e.from_named_step_id
	WHERE e.named_task_id = t.named_task_id AND e.to_named_step_id = s.named_step_id
) parent
CROSS JOIN LATERAL (
	SELECT count(*) AS total, coalesce(jsonb_agg(c.workflow_step_id ORDER BY c.workflow_step_id), '[]') AS ids
	FROM tasker.named_step_edges e
	JOIN tasker.workflow_steps c ON c.task_id = t.task_id AND c.named_step_id = e.to_named_step_id
	WHERE e.named_task_id = t.named_task_id AND e.from_named_step_id = s.named_step_id
) child;
COMMENT ON VIEW tasker.step_dag_relationships IS
'The place of each step in the graph of its task. For people and tools that draw; ask by task_id or workflow_step_id.';
COMMENT ON COLUMN tasker.step_dag_relationships.parent_step_ids IS 'The steps it waits for, ascending.';
COMMENT ON COLUMN tasker.step_dag_relationships.child_step_ids IS 'The steps that wait for it, ascending.';
COMMENT ON COLUMN tasker.step_dag_relationships.min_depth_from_root IS 'Length of the shortest path from a root, 0 at the roots; for the longest see dependency_levels().';
-- A task in one row, for a dashboard: its execution context, which steps make it
-- up, which may run, which may not and why, and how parallel it can be.

CREATE VIEW tasker.task_workflow_summaries AS
SELECT c.*, step.root_step_ids, step.root_step_count, step.ready_step_ids,
	nullif(step.ready_step_ids, '[]') AS next_executable_step_ids,
	step.blocked_step_ids, step.blocking_reasons,
	graph.max_dependency_depth, graph.parallel_branches,
	plan.processing_strategy, plan.recommended_batch_size,
	jsonb_build_object('strategy', plan.processing_strategy, 'step_ids', step.ready_step_ids,
		'parallel_safe', c.ready_steps > 1, 'batch_size', plan.recommended_batch_size) AS processing_recommendation,
	CASE
		WHEN c.ready_steps > 0 AND c.failed_steps = 0 THEN 'optimal'
		WHEN c.ready_steps > 0 THEN 'recovering'
		WHEN c.in_progress_steps > 0 THEN 'processing'
		WHEN c.execution_status = 'all_complete' THEN 'complete'
		WHEN c.execution_status = 'blocked_by_failures' THEN 'blocked'
		ELSE 'waiting'
	END AS workflow_efficiency,
	CASE
		WHEN c.ready_steps > 5 THEN 'high_parallelism'
		WHEN c.ready_steps > 1 THEN 'moderate_parallelism'
		WHEN c.ready_steps = 1 THEN 'sequential_only'
		ELSE 'no_ready_work'
	END AS parallelism_potential
FROM tasker.task_execution_contexts c
CROSS JOIN LATERAL (
	SELECT count(*) FILTER (WHERE r.total_parents = 0) AS root_step_count,
		coalesce(jsonb_agg(r.workflow_step_id ORDER BY r.workflow_step_id) FILTER (WHERE r.total_parents = 0), '[]') AS root_step_ids,
		coalesce(jsonb_agg(r.workflow_step_id ORDER BY r.workflow_step_id) FILTER (WHERE r.ready_for_execution), '[]') AS ready_step_ids,
		coalesce(jsonb_agg(r.workflow_step_id ORDER BY r.workflow_step_id) FILTER (WHERE NOT r.ready_for_execution AND r.current_state IN ('pending', 'error')), '[]') AS blocked_step_ids,
		coalesce(jsonb_agg(r.blocking_reason ORDER BY r.workflow_step_id) FILTER (WHERE NOT r.ready_for_execution AND r.current_state IN ('pending', 'error')), '[]') AS blocking_reasons
	-- The function keeps to the keys where statistics would have the view read all steps.
	FROM tasker.step_readiness_statuses(ARRAY[c.task_id]) r
) step
CROSS JOIN LATERAL (
	SELECT max(level.depth) AS max_dependency_depth, max(level.width) AS parallel_branches
	FROM (SELECT d.longest AS depth, count(*) AS width FROM tasker.step_depths(c.task_id) d GROUP BY d.longest) level
) graph
CROSS JOIN LATERAL (
	SELECT CASE
		WHEN c.ready_steps > 5 THEN 'batch_parallel'
		WHEN c.ready_steps > 1 THEN 'small_parallel'
		WHEN c.ready_steps = 1 THEN 'sequential'
		ELSE 'waiting'
	END AS processing_strategy,
	CASE
		WHEN c.ready_steps > 5 THEN 10
		WHEN c.ready_steps > 1 THEN 3
		ELSE c.ready_steps::integer
	END AS recommended_batch_size
) plan;
COMMENT ON VIEW tasker.task_workflow_summaries IS
'Each task in one row: the columns of task_execution_contexts, its roots, what may run and what may not, and its shape. For dashboards and batch tools; ask by task_id.';
COMMENT ON COLUMN tasker.task_workflow_summaries.ready_step_ids IS 'The steps that may run now, ascending; [] where there is none.';
COMMENT ON COLUMN tasker.task_workflow_summaries.next_executable_step_ids IS 'The same, but NULL where there is none.';
COMMENT ON COLUMN tasker.task_workflow_summaries.blocked_step_ids IS 'The steps, pending or in error, that may not run now, ascending. What is in progress or has ended is not blocked.';
COMMENT ON COLUMN tasker.task_workflow_summaries.blocking_reasons IS 'For each of blocked_step_ids, at the same place, its blocking_reason as in step_readiness_statuses.';
COMMENT ON COLUMN tasker.task_workflow_summaries.max_dependency_depth IS 'Edges on the longest path from a root; NULL for a task without steps.';
COMMENT ON COLUMN tasker.task_workflow_summaries.parallel_branches IS 'Steps on the widest level, which is as many as can run at once if levels go together; NULL for a task without steps.';
COMMENT ON COLUMN tasker.task_workflow_summaries.processing_strategy IS 'By the number of ready steps: batch_parallel (more than 5), small_parallel, sequential (1), waiting.';
COMMENT ON COLUMN tasker.task_workflow_summaries.recommended_batch_size IS 'How many steps to claim at once: 10, 3, 1 or 0 by processing_strategy.';
COMMENT ON COLUMN tasker.task_workflow_summaries.processing_recommendation IS 'strategy, step_ids (the ready ones), parallel_safe (there are several, and ready steps never depend on each other), batch_size.';
COMMENT ON COLUMN tasker.task_workflow_summaries.workflow_efficiency IS 'optimal (steps are ready, none is in error), recovering (ready ones and failed ones), processing, complete, blocked (a step failed for good or was cancelled and nothing is left to run), waiting (also for a backoff).';
COMMENT ON COLUMN tasker.task_workflow_summaries.parallelism_potential IS 'By the number of ready steps: high_parallelism (more than 5), moderate_parallelism, sequential_only (1), no_ready_work.';
-- What the recent past says about speed and failure.
--
-- Everything starts from the rows of the logs that are younger than a given time,
-- found by the BRIN index that each partition has on it: what is older is not
-- read. From there all goes by key, to the row of a step, a task, a claim. No
-- statistics can turn that into a scan of a whole table: the two functions that
-- read the logs forbid it, and laterals with OFFSET 0 are asked row by row.
-- Durations are seconds.

CREATE FUNCTION tasker.ended_attempts(since timestamptz)
RETURNS TABLE (workflow_step_id bigint, sort_key integer, state tasker.state, started_at timestamptz, ended_at timestamptz, metadata jsonb)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 10000
SET enable_seqscan = off
SET jit = off
BEGIN ATOMIC
	SELECT l.workflow_step_id, l.sort_key, l.to_state,
		(SELECT claim.created_at FROM tasker.workflow_step_transition_log claim
			WHERE claim.workflow_step_id = l.workflow_step_id AND claim.sort_key = l.sort_key - 10),
		l.created_at, CASE WHEN l.to_state = 'error' THEN l.metadata END
	FROM tasker.workflow_step_transition_log l
	WHERE l.created_at >= coalesce(since, '-infinity')
		AND l.from_state = 'in_progress' AND l.to_state IN ('complete', 'error');
END;
COMMENT ON FUNCTION tasker.ended_attempts(timestamptz) IS
'The attempts that were completed or failed since then (NULL: ever), with the time of their claim, and the metadata of those that failed. Read by the analytics.';

CREATE FUNCTION tasker.recent_tasks(since timestamptz)
RETURNS TABLE (task_id bigint, created_at timestamptz, ended_at timestamptz, ended_as tasker.state)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 10000
SET enable_seqscan = off
SET jit = off
BEGIN ATOMIC
	SELECT DISTINCT ON (l.task_id) l.task_id,
		(SELECT creation.created_at FROM tasker.task_transition_log creation WHERE creation.task_id = l.task_id AND creation.sort_key = 10),
		CASE WHEN l.from_state IS NOT NULL THEN l.created_at END,
		CASE WHEN l.from_state IS NOT NULL THEN l.to_state END
	-- Without the OFFSET the whole log might be read in the order that is wanted.
	FROM (
		SELECT l.* FROM tasker.task_transition_log l
		WHERE l.created_at >= coalesce(since, '-infinity')
			AND (l.from_state IS NULL OR l.to_state NOT IN ('pending', 'in_progress'))
		OFFSET 0
	) l
	ORDER BY l.task_id, l.sort_key DESC;
END;
COMMENT ON FUNCTION tasker.recent_tasks(timestamptz) IS
'The tasks that were created or ended since then (NULL: ever), one row each: the creation, and the last end since then, NULL where there is none. Read by the analytics.';

-- A claim follows upon what made its step pending: a release, a retry or, for
-- the first one, the end of the last parent, and of a root the creation.
CREATE FUNCTION tasker.ready_since(step_id bigint, claim integer)
RETURNS TABLE (ready_at timestamptz)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
	SELECT CASE WHEN claim > 10 THEN
			(SELECT l.created_at FROM tasker.workflow_step_transition_log l WHERE l.workflow_step_id = step_id AND l.sort_key = claim - 10)
		ELSE greatest(
			(SELECT l.created_at FROM tasker.task_transition_log l WHERE l.task_id = s.task_id AND l.sort_key = 10),
			(SELECT max((SELECT l.created_at FROM tasker.workflow_step_transition_log l
					WHERE l.workflow_step_id = p.workflow_step_id AND l.sort_key = p.sort_key))
				FROM tasker.named_step_edges e
				CROSS JOIN LATERAL (SELECT p.workflow_step_id, p.sort_key FROM tasker.workflow_steps p
					WHERE p.task_id = s.task_id AND p.named_step_id = e.from_named_step_id OFFSET 0) p
				WHERE e.named_task_id = s.named_task_id AND e.to_named_step_id = s.named_step_id))
		END
	FROM (
		SELECT s.task_id, s.named_step_id, (SELECT t.named_task_id FROM tasker.tasks t WHERE t.task_id = s.task_id) AS named_task_id
		FROM tasker.workflow_steps s
		WHERE s.workflow_step_id = step_id
	) s;
END;
COMMENT ON FUNCTION tasker.ready_since(bigint, integer) IS
'When a step had become ready before the claim with this number: the release, retry or resumption that made it pending, the end of its last parent, or the creation of its task. No row where there is no such step. Read by the analytics.';

CREATE FUNCTION tasker.step_of_template(step_id bigint, namespace text, task_name text, version text)
RETURNS TABLE (task_id bigint, attempts integer, retryable boolean, step_name text, task_name text, namespace_name text, version text)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
	SELECT s.task_id, s.attempts, s.retryable, step.name, t.name, n.name, t.version
	FROM tasker.workflow_steps s
	CROSS JOIN LATERAL (SELECT t.named_task_id FROM tasker.tasks t WHERE t.task_id = s.task_id OFFSET 0) run
	JOIN tasker.named_tasks t ON t.named_task_id = run.named_task_id
	JOIN tasker.task_namespaces n ON n.task_namespace_id = t.task_namespace_id
	JOIN tasker.named_steps step ON step.named_step_id = s.named_step_id
	WHERE s.workflow_step_id = step_id
		AND (step_of_template.namespace IS NULL OR n.name = step_of_template.namespace)
		AND (step_of_template.task_name IS NULL OR t.name = step_of_template.task_name)
		AND (step_of_template.version IS NULL OR t.version = step_of_template.version)
	OFFSET 0;
END;
COMMENT ON FUNCTION tasker.step_of_template(bigint, text, text, text) IS
'A step with its names, if it is of the namespace, template name and version given (NULL: any). Read by the analytics.';

CREATE FUNCTION tasker.analytics_metrics(since timestamptz DEFAULT tasker.now() - interval '1 hour')
RETURNS TABLE (
	active_tasks_count bigint, total_namespaces_count bigint, unique_task_types_count bigint,
	system_health_score numeric, task_throughput bigint, completion_count bigint, error_count bigint,
	completion_rate numeric, error_rate numeric,
	avg_task_duration numeric, p50_task_duration numeric, p95_task_duration numeric, p99_task_duration numeric,
	step_throughput bigint, step_failure_count bigint,
	avg_step_duration numeric, p50_step_duration numeric, p95_step_duration numeric, p99_step_duration numeric,
	avg_queue_wait numeric, p50_queue_wait numeric, p95_queue_wait numeric, p99_queue_wait numeric,
	analysis_period_start timestamptz, calculated_at timestamptz)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
SET jit = off
BEGIN ATOMIC
	WITH attempt AS MATERIALIZED (
		SELECT a.workflow_step_id, a.sort_key - 10 AS claim, a.state, a.started_at,
			extract(epoch FROM a.ended_at - a.started_at)::double precision AS seconds,
			row_number() OVER () AS number, count(*) OVER () AS attempts
		FROM tasker.ended_attempts(since) a
	), wait AS (
		SELECT greatest(extract(epoch FROM a.started_at - r.ready_at)::double precision, 0) AS seconds
		FROM attempt a
		CROSS JOIN LATERAL tasker.ready_since(a.workflow_step_id, a.claim) r
		WHERE a.number % (1 + (a.attempts - 1) / 10000) = 0
	), used AS (
		SELECT n.task_namespace_id, n.name
		FROM tasker.named_tasks n
		WHERE EXISTS (SELECT FROM tasker.tasks t WHERE t.named_task_id = n.named_task_id OFFSET 0)
	)
	SELECT (SELECT count(*) FROM tasker.tasks t WHERE t.state IN ('pending', 'in_progress')),
		(SELECT count(DISTINCT u.task_namespace_id) FROM used u),
		(SELECT count(DISTINCT (u.task_namespace_id, u.name)) FROM used u),
		coalesce(round(task.completed::numeric / nullif(task.completed + task.failed, 0), 3), 1.000),
		task.created, task.completed, task.failed,
		coalesce(round(task.completed * 100.0 / nullif(task.ended, 0), 2), 0.00),
		coalesce(round(task.failed * 100.0 / nullif(task.ended, 0), 2), 0.00),
		round(task.mean::numeric, 6), round(task.percentiles[1]::numeric, 6), round(task.percentiles[2]::numeric, 6), round(task.percentiles[3]::numeric, 6),
		step.completed, step.failed,
		round(step.mean::numeric, 6), round(step.percentiles[1]::numeric, 6), round(step.percentiles[2]::numeric, 6), round(step.percentiles[3]::numeric, 6),
		round(waits.mean::numeric, 6), round(waits.percentiles[1]::numeric, 6), round(waits.percentiles[2]::numeric, 6), round(waits.percentiles[3]::numeric, 6),
		since, tasker.now()
	FROM (
		SELECT count(*) FILTER (WHERE t.created_at >= coalesce(since, '-infinity')) AS created, count(t.ended_at) AS ended,
			count(*) FILTER (WHERE t.ended_as = 'complete') AS completed,
			count(*) FILTER (WHERE t.ended_as = 'error') AS failed,
			avg(t.seconds) FILTER (WHERE t.ended_as = 'complete') AS mean,
			percentile_cont('{0.5,0.95,0.99}'::double precision[]) WITHIN GROUP (ORDER BY t.seconds) FILTER (WHERE t.ended_as = 'complete') AS percentiles
		FROM (SELECT r.*, extract(epoch FROM r.ended_at - r.created_at)::double precision AS seconds FROM tasker.recent_tasks(since) r) t
	) task
	CROSS JOIN (
		SELECT count(*) FILTER (WHERE a.state = 'complete') AS completed,
			count(*) FILTER (WHERE a.state = 'error') AS failed,
			avg(a.seconds) FILTER (WHERE a.state = 'complete') AS mean,
			percentile_cont('{0.5,0.95,0.99}'::double precision[]) WITHIN GROUP (ORDER BY a.seconds) FILTER (WHERE a.state = 'complete') AS percentiles
		FROM attempt a
	) step
	CROSS JOIN (
		SELECT avg(w.seconds) AS mean, percentile_cont('{0.5,0.95,0.99}'::double precision[]) WITHIN GROUP (ORDER BY w.seconds) AS percentiles
		FROM wait w
	) waits;
END;
COMMENT ON FUNCTION tasker.analytics_metrics(timestamptz) IS
'What has happened since then (NULL: ever), in one row. Counts: active_tasks_count open tasks now; total_namespaces_count and unique_task_types_count of those that have tasks; task_throughput tasks created; completion_count and error_count tasks by their last end in the period; step_throughput and step_failure_count attempts completed and failed. Rates: completion_rate and error_rate are per cent of the tasks that ended, system_health_score completed to completed and failed, 1 where there is none. Seconds, average and percentiles, NULL where there is nothing to measure: task_duration of completed tasks from creation to end; step_duration of completed steps from claim to completion; queue_wait from a step being ready to its claim, of every attempt that ended, or of about 10000 evenly chosen ones. Costs one pass over the tasks and, by the period, the rows of the logs written since.';

CREATE FUNCTION tasker.slowest_steps(since timestamptz DEFAULT tasker.now() - interval '24 hours', max integer DEFAULT 10,
	namespace text DEFAULT NULL, task_name text DEFAULT NULL, version text DEFAULT NULL)
RETURNS TABLE (workflow_step_id bigint, task_id bigint, step_name text, task_name text, namespace_name text, version text,
	duration_seconds numeric, waiting_seconds numeric, attempts integer, created_at timestamptz, ready_at timestamptz,
	started_at timestamptz, completed_at timestamptz, retryable boolean, step_status tasker.state)
LANGUAGE sql STABLE PARALLEL SAFE
SET jit = off
BEGIN ATOMIC
	SELECT slow.workflow_step_id, slow.task_id, slow.step_name, slow.task_name, slow.namespace_name, slow.version,
		round(extract(epoch FROM slow.duration), 6),
		round(greatest(extract(epoch FROM slow.started_at - ready.ready_at), 0), 6), slow.attempts,
		(SELECT l.created_at FROM tasker.task_transition_log l WHERE l.task_id = slow.task_id AND l.sort_key = 10),
		ready.ready_at, slow.started_at, slow.ended_at, slow.retryable, slow.state
	FROM (
		SELECT a.*, s.*
		FROM (
			SELECT a.workflow_step_id, a.sort_key, a.state, a.started_at, a.ended_at, a.ended_at - a.started_at AS duration
			FROM tasker.ended_attempts(slowest_steps.since) a
			WHERE a.state = 'complete'
			ORDER BY duration DESC, a.workflow_step_id
		) a
		CROSS JOIN LATERAL tasker.step_of_template(a.workflow_step_id, slowest_steps.namespace, slowest_steps.task_name, slowest_steps.version) s
		ORDER BY a.duration DESC, a.workflow_step_id
		LIMIT max
	) slow
	CROSS JOIN LATERAL tasker.ready_since(slow.workflow_step_id, slow.sort_key - 10) ready
	ORDER BY slow.duration DESC, slow.workflow_step_id;
END;
COMMENT ON FUNCTION tasker.slowest_steps(timestamptz, integer, text, text, text) IS
'The steps completed since then (NULL: ever) whose successful attempt took longest, at most so many (NULL: all), of the namespace, template name and version given (NULL: any). duration_seconds from claim to completion, waiting_seconds from being ready to that claim; created_at is the creation of the task. Error: 2201W negative max.';

CREATE FUNCTION tasker.slowest_tasks(since timestamptz DEFAULT tasker.now() - interval '24 hours', max integer DEFAULT 10,
	namespace text DEFAULT NULL, task_name text DEFAULT NULL, version text DEFAULT NULL)
RETURNS TABLE (task_id bigint, task_name text, namespace_name text, version text, status tasker.state,
	duration_seconds numeric, execution_seconds numeric, waiting_seconds numeric,
	step_count bigint, completed_steps bigint, error_steps bigint,
	created_at timestamptz, completed_at timestamptz, initiator text, source_system text)
LANGUAGE sql STABLE PARALLEL SAFE
SET jit = off
BEGIN ATOMIC
	SELECT slow.task_id, slow.task_name, slow.namespace_name, slow.version, slow.ended_as,
		round(extract(epoch FROM slow.duration), 6), round(busy.seconds, 6), round(extract(epoch FROM slow.duration) - busy.seconds, 6),
		step.total, step.completed, step.failed, slow.created_at, slow.ended_at, slow.initiator, slow.source_system
	FROM (
		SELECT r.*, t.*
		FROM (
			SELECT r.task_id, r.created_at, r.ended_at, r.ended_as, r.ended_at - r.created_at AS duration
			FROM tasker.recent_tasks(slowest_tasks.since) r
			WHERE r.ended_as IN ('complete', 'error')
			ORDER BY duration DESC, r.task_id
		) r
		CROSS JOIN LATERAL (
			SELECT n.name AS task_name, s.name AS namespace_name, n.version, t.initiator, t.source_system
			FROM tasker.tasks t
			JOIN tasker.named_tasks n ON n.named_task_id = t.named_task_id
			JOIN tasker.task_namespaces s ON s.task_namespace_id = n.task_namespace_id
			WHERE t.task_id = r.task_id
				AND (slowest_tasks.namespace IS NULL OR s.name = slowest_tasks.namespace)
				AND (slowest_tasks.task_name IS NULL OR n.name = slowest_tasks.task_name)
				AND (slowest_tasks.version IS NULL OR n.version = slowest_tasks.version)
			OFFSET 0
		) t
		ORDER BY r.duration DESC, r.task_id
		LIMIT max
	) slow
	CROSS JOIN LATERAL (
		SELECT count(*) AS total,
			count(*) FILTER (WHERE s.state IN ('complete', 'resolved_manually')) AS completed,
			count(*) FILTER (WHERE s.state = 'error') AS failed
		FROM tasker.workflow_steps s
		WHERE s.task_id = slow.task_id
	) step
	-- Attempts overlap: what counts is the time in which at least one ran.
	CROSS JOIN LATERAL (
		SELECT coalesce(sum(extract(epoch FROM upper(run) - lower(run))), 0) AS seconds
		FROM unnest((
			SELECT range_agg(tstzrange(claim.created_at, greatest(claim.created_at, claim.ended_at)))
			FROM tasker.workflow_steps s
			CROSS JOIN LATERAL (
				SELECT l.to_state, l.created_at, lead(l.created_at) OVER (ORDER BY l.sort_key) AS ended_at
				FROM tasker.workflow_step_transition_log l
				WHERE l.workflow_step_id = s.workflow_step_id
				OFFSET 0
			) claim
			WHERE s.task_id = slow.task_id AND claim.to_state = 'in_progress' AND claim.created_at < slow.ended_at
		)) AS run
		WHERE NOT isempty(run)
	) busy
	ORDER BY slow.duration DESC, slow.task_id;
END;
COMMENT ON FUNCTION tasker.slowest_tasks(timestamptz, integer, text, text, text) IS
'The tasks that ended since then (NULL: ever) as complete or in error and took longest from creation to end, at most so many (NULL: all), of the namespace, template name and version given (NULL: any). execution_seconds is the time in which at least one of its steps was with an executor, waiting_seconds the rest. status is how it ended then. Error: 2201W negative max.';

CREATE FUNCTION tasker.error_patterns(since timestamptz DEFAULT tasker.now() - interval '24 hours', max integer DEFAULT 10,
	namespace text DEFAULT NULL, task_name text DEFAULT NULL, version text DEFAULT NULL)
RETURNS TABLE (error_class text, error_pattern text, occurrences bigint, steps bigint, tasks bigint, step_names text[],
	first_seen_at timestamptz, last_seen_at timestamptz, last_step_id bigint)
LANGUAGE sql STABLE PARALLEL SAFE
SET jit = off
BEGIN ATOMIC
	SELECT e.error_class, e.pattern, count(*), count(DISTINCT e.workflow_step_id), count(DISTINCT e.task_id),
		array_agg(DISTINCT e.step_name ORDER BY e.step_name), min(e.ended_at), max(e.ended_at),
		(array_agg(e.workflow_step_id ORDER BY e.ended_at DESC, e.workflow_step_id DESC))[1]
	FROM (
		SELECT a.metadata ->> 'error_class' AS error_class, regexp_replace(a.metadata ->> 'error_message', '\d+', '#', 'g') AS pattern,
			a.workflow_step_id, a.ended_at, s.task_id, s.step_name
		FROM tasker.ended_attempts(error_patterns.since) a
		CROSS JOIN LATERAL tasker.step_of_template(a.workflow_step_id, error_patterns.namespace, error_patterns.task_name, error_patterns.version) s
		WHERE a.state = 'error'
	) e
	GROUP BY e.error_class, e.pattern
	ORDER BY count(*) DESC, max(e.ended_at) DESC, e.error_class, e.pattern
	LIMIT max;
END;
COMMENT ON FUNCTION tasker.error_patterns(timestamptz, integer, text, text, text) IS
'What failed attempts since then (NULL: ever) had in common, the most frequent first, at most so many (NULL: all), of the namespace, template name and version given (NULL: any). error_pattern is the message with each number written as #; lost executors and timeouts have the classes executor_lost and timeout. Error: 2201W negative max.';

CREATE FUNCTION tasker.step_duration_statistics(since timestamptz DEFAULT tasker.now() - interval '24 hours', max integer DEFAULT 10,
	namespace text DEFAULT NULL, task_name text DEFAULT NULL, version text DEFAULT NULL)
RETURNS TABLE (namespace_name text, task_name text, version text, step_name text,
	completions bigint, failures bigint, total_duration numeric, avg_duration numeric,
	p50_duration numeric, p95_duration numeric, p99_duration numeric, max_duration numeric, avg_queue_wait numeric)
LANGUAGE sql STABLE PARALLEL SAFE
SET jit = off
BEGIN ATOMIC
	SELECT n.name, t.name, t.version, step.name, g.completions, g.failures,
		round(g.total::numeric, 6), round(g.mean::numeric, 6), round(g.percentiles[1]::numeric, 6), round(g.percentiles[2]::numeric, 6),
		round(g.percentiles[3]::numeric, 6), round(g.longest::numeric, 6), round(g.wait::numeric, 6)
	FROM (
		SELECT run.named_task_id, s.named_step_id,
			count(*) FILTER (WHERE a.state = 'complete') AS completions,
			count(*) FILTER (WHERE a.state = 'error') AS failures,
			sum(a.seconds) AS total,
			avg(a.seconds) FILTER (WHERE a.state = 'complete') AS mean,
			percentile_cont('{0.5,0.95,0.99}'::double precision[]) WITHIN GROUP (ORDER BY a.seconds) FILTER (WHERE a.state = 'complete') AS percentiles,
			max(a.seconds) FILTER (WHERE a.state = 'complete') AS longest,
			avg(greatest(extract(epoch FROM a.started_at - w.ready_at)::double precision, 0)) FILTER (WHERE w.ready_at IS NOT NULL) AS wait
		FROM (
			SELECT a.workflow_step_id, a.sort_key - 10 AS claim, a.state, a.started_at,
				extract(epoch FROM a.ended_at - a.started_at)::double precision AS seconds,
				row_number() OVER () AS number, count(*) OVER () AS attempts
			FROM tasker.ended_attempts(step_duration_statistics.since) a
		) a
		CROSS JOIN LATERAL (SELECT s.named_step_id, s.task_id FROM tasker.workflow_steps s WHERE s.workflow_step_id = a.workflow_step_id OFFSET 0) s
		CROSS JOIN LATERAL (SELECT t.named_task_id FROM tasker.tasks t WHERE t.task_id = s.task_id OFFSET 0) run
		LEFT JOIN LATERAL tasker.ready_since(CASE WHEN a.number % (1 + (a.attempts - 1) / 10000) = 0 THEN a.workflow_step_id END, a.claim) w ON true
		GROUP BY run.named_task_id, s.named_step_id
	) g
	JOIN tasker.named_tasks t ON t.named_task_id = g.named_task_id
	JOIN tasker.task_namespaces n ON n.task_namespace_id = t.task_namespace_id
	JOIN tasker.named_steps step ON step.named_step_id = g.named_step_id
	WHERE (step_duration_statistics.namespace IS NULL OR n.name = step_duration_statistics.namespace)
		AND (step_duration_statistics.task_name IS NULL OR t.name = step_duration_statistics.task_name)
		AND (step_duration_statistics.version IS NULL OR t.version = step_duration_statistics.version)
	ORDER BY g.total DESC, n.name, t.name, t.version_numbers, step.name
	LIMIT max;
END;
COMMENT ON FUNCTION tasker.step_duration_statistics(timestamptz, integer, text, text, text) IS
'Where the time of executors goes: for each step of each template the attempts that ended since then (NULL: ever), those that took most time in all first, at most so many rows (NULL: all), of the namespace, template name and version given (NULL: any). total_duration is of all attempts, the failed included; avg, p50, p95, p99 and max of the completed ones, from claim to completion; avg_queue_wait from being ready to the claim, by about 10000 evenly chosen attempts where there are more. Error: 2201W negative max.';
-- The health of everything in this database, for a probe.

CREATE FUNCTION tasker.system_health_counts()
RETURNS TABLE (
	total_tasks bigint, pending_tasks bigint, in_progress_tasks bigint, complete_tasks bigint, error_tasks bigint,
	cancelled_tasks bigint, resolved_manually_tasks bigint,
	total_steps bigint, pending_steps bigint, in_progress_steps bigint, complete_steps bigint, error_steps bigint,
	cancelled_steps bigint, resolved_manually_steps bigint,
	retryable_error_steps bigint, exhausted_retry_steps bigint, in_backoff_steps bigint,
	active_connections bigint, connections bigint, max_connections integer,
	status text, reasons text[])
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
	SELECT counted.*, CASE WHEN cardinality(verdict.reasons) = 0 THEN 'healthy' ELSE 'unhealthy' END, verdict.reasons
	FROM (
		SELECT task.*, step.*, connection.*, current_setting('max_connections')::integer AS max_connections
		FROM (
			SELECT count(*) AS total_tasks,
				count(*) FILTER (WHERE t.state = 'pending'),
				count(*) FILTER (WHERE t.state = 'in_progress'),
				count(*) FILTER (WHERE t.state = 'complete'),
				count(*) FILTER (WHERE t.state = 'error') AS error_tasks,
				count(*) FILTER (WHERE t.state = 'cancelled'),
				count(*) FILTER (WHERE t.state = 'resolved_manually')
			FROM tasker.tasks t
		) task
		CROSS JOIN (
			SELECT count(*) AS total_steps,
				count(*) FILTER (WHERE s.state = 'pending'),
				count(*) FILTER (WHERE s.state = 'in_progress'),
				count(*) FILTER (WHERE s.state = 'complete'),
				count(*) FILTER (WHERE s.state = 'error') AS error_steps,
				count(*) FILTER (WHERE s.state = 'cancelled'),
				count(*) FILTER (WHERE s.state = 'resolved_manually'),
				count(*) FILTER (WHERE s.state = 'error' AND s.next_retry_at IS NOT NULL),
				count(*) FILTER (WHERE s.state = 'error' AND s.next_retry_at IS NULL),
				count(*) FILTER (WHERE s.state = 'error' AND s.next_retry_at > tasker.now())
			FROM tasker.workflow_steps s
		) step
		CROSS JOIN (
			SELECT count(*) FILTER (WHERE a.state = 'active' AND a.datname = current_database()), count(*) AS connections
			FROM pg_stat_activity a
			-- What kind of session another role's is, not everybody may see.
			WHERE a.datid IS NOT NULL AND coalesce(a.backend_type, 'client backend') = 'client backend'
		) connection
	) counted
	CROSS JOIN LATERAL (
		SELECT ARRAY(SELECT r.reason FROM (VALUES
			(counted.connections > counted.max_connections * 0.9, 'connections above 90 percent'),
			(counted.error_tasks > counted.total_tasks * 0.5, 'task errors above 50 percent'),
			(counted.error_steps > counted.total_steps * 0.5, 'step errors above 50 percent')) r (holds, reason)
			WHERE r.holds) AS reasons
	) verdict;
END;
COMMENT ON FUNCTION tasker.system_health_counts() IS
'All tasks and steps by state; a step that nothing has happened to is pending. retryable_error_steps have another attempt, in_backoff_steps are those of them whose time has not come; exhausted_retry_steps have none (at the limit, not retryable, or failed permanently). active_connections run a statement in this database (of other roles only with pg_read_all_stats), connections are the clients of the whole server. status is healthy or unhealthy, reasons says why. Reads all tasks and steps, one pass each: 0.2 s for a million steps in memory, so ask every minute, not every second.';
-- What a step depends on, what depends on it, and who stands beside it.

CREATE FUNCTION tasker.step_transitive_dependencies(step_id bigint)
RETURNS TABLE (workflow_step_id bigint, step_name text, state tasker.state, distance integer, results jsonb)
LANGUAGE c STABLE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'tasker_step_transitive_dependencies';
COMMENT ON FUNCTION tasker.step_transitive_dependencies(bigint) IS
'Every step that this one depends on, directly or not, once, with its results: nearest first, distance (1 for a parent) along the shortest way. For executors that need results from further up than dependency_results; needs no privilege on tables. Costs what it returns. Error: 42704 unknown step.';

CREATE FUNCTION tasker.step_transitive_dependents(step_id bigint)
RETURNS TABLE (workflow_step_id bigint, step_name text, state tasker.state, distance integer, results jsonb)
LANGUAGE c STABLE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'tasker_step_transitive_dependents';
COMMENT ON FUNCTION tasker.step_transitive_dependents(bigint) IS
'Every step that depends on this one, directly or not, once: what it holds up while it is not finished. As step_transitive_dependencies.';

CREATE FUNCTION tasker.step_siblings(step_id bigint)
RETURNS TABLE (workflow_step_id bigint, step_name text, state tasker.state)
LANGUAGE c STABLE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'tasker_step_siblings';
COMMENT ON FUNCTION tasker.step_siblings(bigint) IS
'The other steps of the task that have exactly the same parents, in the order of their ids; none for a root, which has no parents to share. Error: 42704 unknown step.';
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
-- What the graph of a task says of how it goes: what it waits for, what a failure
-- costs, where it could go faster. Computed when asked for, never stored.

CREATE FUNCTION tasker.graph_weights(
	-- points of a path
	OUT path_step double precision, OUT path_completed double precision, OUT path_blocked double precision,
	OUT path_error double precision, OUT path_retry double precision, OUT path_minute double precision,
	OUT unhealthy_factor double precision, OUT completion_discount double precision,
	-- points of a step that others wait for
	OUT downstream double precision, OUT blocked double precision, OUT attempt double precision,
	OUT not_retryable double precision, OUT exhausted double precision,
	OUT error_factor double precision, OUT exhausted_factor double precision, OUT waiting_factor double precision,
	-- from how many points on
	OUT critical double precision, OUT high double precision, OUT medium double precision,
	-- seconds that a step takes of which nothing is known; how much is looked at to know more
	OUT base_seconds double precision, OUT error_seconds double precision, OUT retry_seconds double precision,
	OUT sampled_tasks integer, OUT sampled_steps integer)
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
	SELECT 10, -15, 25, 30, 10, 2, 1.5, 0.3,
		5, 15, 3, 10, 20, 2.0, 0.5, 1.2,
		100, 50, 20,
		30, 60, 30, 20, 10000;
END;
COMMENT ON FUNCTION tasker.graph_weights() IS
'The weights by which critical_paths(), bottlenecks() and error_chains() score, and what they assume of durations: the one place that says so.';

CREATE FUNCTION tasker.severity(score double precision) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
	SELECT CASE WHEN score >= w.critical THEN 'Critical' WHEN score >= w.high THEN 'High' WHEN score >= w.medium THEN 'Medium' ELSE 'Low' END
	FROM tasker.graph_weights() w;
END;
COMMENT ON FUNCTION tasker.severity(double precision) IS 'What a score of the graph analysis means: Critical, High, Medium or Low.';

CREATE VIEW tasker.step_durations AS
SELECT s.workflow_step_id, s.task_id, s.named_step_id,
	(SELECT l.created_at FROM tasker.workflow_step_transition_log l
		WHERE l.workflow_step_id = s.workflow_step_id AND l.sort_key = s.sort_key)
	- (SELECT l.created_at FROM tasker.workflow_step_transition_log l
		WHERE l.workflow_step_id = s.workflow_step_id AND l.sort_key = s.sort_key - 10) AS duration
FROM tasker.workflow_steps s
WHERE s.state = 'complete';
COMMENT ON VIEW tasker.step_durations IS
'How long the attempt took that completed a step, from its claim to its completion; only steps that are complete. Ask by task_id or workflow_step_id.';

-- What is not measured is expected to take what it took in the tasks that came
-- before, a bounded number of them. Averages meet steps in a hash join.
CREATE FUNCTION tasker.expected_durations(task_id bigint)
RETURNS TABLE (workflow_step_id bigint, seconds double precision, measured boolean)
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
SET enable_nestloop = off
SET enable_seqscan = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
	weight record := tasker.graph_weights();
	template integer := (SELECT t.named_task_id FROM tasker.tasks t WHERE t.task_id = expected_durations.task_id);
	steps bigint := (SELECT count(*) FROM tasker.workflow_steps s WHERE s.task_id = expected_durations.task_id);
	earlier bigint[] := ARRAY(
		SELECT t.task_id FROM tasker.tasks t
		WHERE t.named_task_id = template AND t.task_id < expected_durations.task_id
		ORDER BY t.named_task_id DESC, t.task_id DESC
		LIMIT least(weight.sampled_tasks, weight.sampled_steps / greatest(steps, 1)));
BEGIN
	RETURN QUERY
	WITH average AS MATERIALIZED (
		SELECT d.named_step_id, avg(extract(epoch FROM d.duration))::double precision AS seconds
		FROM unnest(earlier) e (task_id)
		CROSS JOIN LATERAL (SELECT d.* FROM tasker.step_durations d WHERE d.task_id = e.task_id OFFSET 0) d
		WHERE d.duration IS NOT NULL
		GROUP BY d.named_step_id
	), own AS MATERIALIZED (
		SELECT s.workflow_step_id, s.named_step_id, s.state, s.attempts,
			CASE s.state
				WHEN 'complete' THEN
					(SELECT extract(epoch FROM d.duration)::double precision FROM tasker.step_durations d WHERE d.workflow_step_id = s.workflow_step_id)
				WHEN 'resolved_manually' THEN 0
				WHEN 'cancelled' THEN 0
			END AS seconds
		FROM tasker.workflow_steps s
		WHERE s.task_id = expected_durations.task_id
	)
	SELECT own.workflow_step_id,
		coalesce(own.seconds, coalesce(average.seconds, weight.base_seconds)
			+ CASE own.state WHEN 'error' THEN weight.error_seconds ELSE 0 END
			+ weight.retry_seconds * greatest(own.attempts - 1, 0)),
		own.seconds IS NOT NULL
	FROM own
	LEFT JOIN average ON average.named_step_id = own.named_step_id
	ORDER BY own.workflow_step_id + 0;
END
$$;
COMMENT ON FUNCTION tasker.expected_durations(bigint) IS
'How many seconds each step of a task took (measured: complete ones, from claim to completion; nothing for those resolved or cancelled), or may take: the average of this step in up to 20 earlier tasks of the template, 30 s where none has completed it; 60 s more in error and 30 s more for each attempt after the first. No row where there is no such task.';

-- Columns come as arrays in the order of the step ids and are laid side by side, so
-- that nothing is joined.
CREATE FUNCTION tasker.graph_steps(task_id bigint)
RETURNS TABLE (place integer, workflow_step_id bigint, step_name text, state tasker.state,
	attempts integer, retry_limit integer, retry_eligible boolean, next_retry_at timestamptz,
	level integer, ready boolean, blocked boolean, downstream_steps integer, blocked_steps integer,
	seconds double precision, measured boolean)
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
	edge record := tasker.task_edges(task_id);
	step record;
	reach record;
BEGIN
	IF edge.step_ids = '{}' THEN
		RETURN;
	END IF;
	SELECT array_agg(r.name) AS names, array_agg(r.current_state) AS states, array_agg(r.attempts) AS attempts,
		array_agg(r.retry_limit) AS retry_limits, array_agg(r.retry_eligible) AS eligible, array_agg(r.next_retry_at) AS retries,
		array_agg(r.ready_for_execution) AS ready,
		array_agg(r.current_state IN ('pending', 'error') AND NOT r.dependencies_satisfied) AS blocked
	INTO step
	FROM (
		SELECT r.* FROM tasker.step_readiness_statuses r
		WHERE r.task_id = graph_steps.task_id
		ORDER BY r.workflow_step_id + 0
	) r;
	reach := tasker.graph_reach(edge.sources, edge.targets, step.blocked);

	RETURN QUERY
	SELECT s.place::integer, s.id, s.name, s.state, s.attempts, s.retry_limit, s.eligible, s.retry,
		s.level, s.ready, s.blocked, s.reachable, s.reachable_blocked, s.seconds, s.measured
	FROM ROWS FROM (unnest(edge.step_ids, step.names, step.states, step.attempts, step.retry_limits, step.eligible, step.retries,
			(tasker.graph_depths(cardinality(edge.step_ids), edge.sources, edge.targets)).longest,
			step.ready, step.blocked, reach.reachable, reach.reachable_marked),
		tasker.expected_durations(graph_steps.task_id)) WITH ORDINALITY
		AS s (id, name, state, attempts, retry_limit, eligible, retry, level, ready, blocked, reachable, reachable_blocked,
			same_id, seconds, measured, place);
END
$$;
COMMENT ON FUNCTION tasker.graph_steps(bigint) IS
'Each step of a task with its place in the graph, in the order of the ids: level (longest path from a root), ready (may run now), blocked (pending or in error behind parents that are not finished), downstream_steps (how many others depend on it, directly or not), blocked_steps (how many of those are blocked), seconds (measured, or expected: see expected_durations). What the other functions of the analysis read. No row where there is no such task.';

CREATE FUNCTION tasker.critical_paths(task_id bigint, max integer DEFAULT 5)
RETURNS TABLE (rank bigint, step_ids bigint[], step_names text[], length bigint,
	completed_steps bigint, ready_steps bigint, blocked_steps bigint, error_steps bigint, retried_steps bigint,
	estimated_duration interval, remaining_duration interval, completion_percentage numeric, criticality_score numeric,
	failed_step_names text[])
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
SET enable_nestloop = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
	weight record := tasker.graph_weights();
	edge record := tasker.task_edges(task_id);
	step record;
BEGIN
	SELECT array_agg(s.workflow_step_id) AS ids, array_agg(s.step_name) AS names, array_agg(s.completed) AS completed,
		array_agg(s.ready) AS ready, array_agg(s.blocked) AS blocked, array_agg(s.failed) AS failed, array_agg(s.retried) AS retried,
		array_agg(s.seconds) AS seconds, array_agg(s.ahead) AS ahead,
		array_agg(weight.path_step
			+ weight.path_completed * s.completed::integer
			+ weight.path_blocked * s.blocked::integer * s.factor
			+ weight.path_error * s.failed::integer * s.factor
			+ weight.path_retry * s.retried::integer
			+ weight.path_minute * s.ahead / 60) AS weights
	INTO step
	FROM (
		SELECT s.*, s.state IN ('complete', 'resolved_manually') AS completed, s.state = 'error' AS failed, s.attempts > 1 AS retried,
			CASE WHEN s.state IN ('complete', 'resolved_manually', 'cancelled') THEN 0 ELSE s.seconds END AS ahead,
			CASE WHEN bool_or(s.state = 'error') OVER () THEN weight.unhealthy_factor ELSE 1 END AS factor
		FROM tasker.graph_steps(task_id) s
		ORDER BY s.place
	) s;

	RETURN QUERY
	SELECT row_number() OVER (ORDER BY path.place), path.ids, path.names, path.length,
		path.completed, path.ready, path.blocked, path.failed, path.retried,
		make_interval(secs => path.seconds), make_interval(secs => path.ahead),
		round(100.0 * path.completed / path.length, 2),
		round(greatest(path.weight * (1 - weight.completion_discount * path.completed / path.length), 0)::numeric, 2),
		path.failed_names
	FROM (
		SELECT p.place, p.weight, count(*) AS length, array_agg(s.id ORDER BY v.place) AS ids, array_agg(s.name ORDER BY v.place) AS names,
			count(*) FILTER (WHERE s.completed) AS completed, count(*) FILTER (WHERE s.ready) AS ready,
			count(*) FILTER (WHERE s.blocked) AS blocked, count(*) FILTER (WHERE s.failed) AS failed,
			count(*) FILTER (WHERE s.retried) AS retried, sum(s.seconds) AS seconds, sum(s.ahead) AS ahead,
			coalesce(array_agg(s.name ORDER BY v.place) FILTER (WHERE s.failed), '{}') AS failed_names
		FROM tasker.graph_paths(edge.sources, edge.targets, step.weights, max) WITH ORDINALITY p (nodes, weight, place)
		CROSS JOIN LATERAL unnest(p.nodes) WITH ORDINALITY v (node, place)
		JOIN unnest(step.ids, step.names, step.completed, step.ready, step.blocked, step.failed, step.retried, step.seconds, step.ahead)
			WITH ORDINALITY s (id, name, completed, ready, blocked, failed, retried, seconds, ahead, place) ON s.place = v.node
		GROUP BY p.place, p.weight
	) path
	ORDER BY path.place;
END
$$;
COMMENT ON FUNCTION tasker.critical_paths(bigint, integer) IS
'The paths from a root to a leaf of a task that ask most for attention, at most max (1 to 100), worst first. Points: 10 for each step, -15 if it is finished, 25 if blocked, 30 if in error (both half as much again while any step of the task is in error), 10 if it needed more than one attempt, 2 for each minute that it may still take. Paths are ranked by the sum; criticality_score is the sum less up to 30 % for the part that is finished, never below 0. Linear in the edges, however many paths there are. No row where there is no such task. Error: 22023 bad max.';

CREATE FUNCTION tasker.bottlenecks(task_id bigint, max integer DEFAULT 10)
RETURNS TABLE (workflow_step_id bigint, step_name text, state tasker.state, downstream_steps integer, blocked_steps integer,
	attempts integer, retry_eligible boolean, bottleneck_score numeric, severity text)
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
	SELECT s.workflow_step_id, s.step_name, s.state, s.downstream_steps, s.blocked_steps, s.attempts, s.retry_eligible,
		round(point.score::numeric, 2), tasker.severity(point.score)
	FROM tasker.graph_weights() w
	CROSS JOIN tasker.graph_steps(task_id) s
	CROSS JOIN LATERAL (SELECT s.state = 'error' AND s.attempts >= s.retry_limit AS exhausted) retry
	CROSS JOIN LATERAL (
		SELECT (w.downstream * s.downstream_steps + w.blocked * s.blocked_steps)
			* CASE
				WHEN s.state = 'error' THEN w.error_factor + CASE WHEN retry.exhausted THEN w.exhausted_factor ELSE 0 END
				WHEN s.blocked THEN w.waiting_factor
				ELSE 1
			END
			+ w.attempt * s.attempts
			+ CASE WHEN s.retry_eligible THEN 0 ELSE w.not_retryable END
			+ CASE WHEN retry.exhausted THEN w.exhausted ELSE 0 END AS score
	) point
	WHERE s.state IN ('pending', 'in_progress', 'error') AND s.downstream_steps > 0
	ORDER BY point.score DESC, s.workflow_step_id
	LIMIT max;
END;
COMMENT ON FUNCTION tasker.bottlenecks(bigint, integer) IS
'The steps of a task that are pending, in progress or in error and that others depend on, worst first: (5 for each step downstream + 15 for each that is blocked) x (2 in error, 2.5 with all attempts used; 1.2 if itself blocked) + 3 for each attempt + 10 where no further attempt is allowed + 20 where a failed step has used all. severity: Critical from 100, High from 50, Medium from 20, else Low. max NULL: all.';

CREATE FUNCTION tasker.error_chains(task_id bigint)
RETURNS TABLE (workflow_step_id bigint, step_name text, error_message text, downstream_steps integer, blocked_steps integer,
	attempts integer, retry_limit integer, retry_eligible boolean, next_retry_at timestamptz,
	impact_score numeric, impact_level text, suggested_actions text[])
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
	SELECT s.workflow_step_id, s.step_name,
		(SELECT l.metadata ->> 'error_message' FROM tasker.workflow_steps f
			JOIN tasker.workflow_step_transition_log l ON l.workflow_step_id = f.workflow_step_id AND l.sort_key = f.sort_key
			WHERE f.workflow_step_id = s.workflow_step_id),
		s.downstream_steps, s.blocked_steps, s.attempts, s.retry_limit, s.retry_eligible, s.next_retry_at,
		round(point.score::numeric, 2), tasker.severity(point.score),
		CASE
			WHEN t.state IN ('cancelled', 'resolved_manually') THEN '{}'::text[]
			WHEN s.retry_eligible THEN ARRAY[
				'wait: it is retried after next_retry_at',
				format('retry now: SELECT tasker.retry_step(%s)', s.workflow_step_id)]
			ELSE ARRAY[
				format('remove the cause, then: SELECT tasker.retry_step(%s)', s.workflow_step_id),
				format('do its work by hand, then: SELECT tasker.resolve_step(%s)', s.workflow_step_id)]
				|| CASE WHEN s.blocked_steps > 0 THEN ARRAY[format('give up what depends on it: SELECT tasker.cancel_task(%s)', t.task_id)] ELSE '{}' END
		END
	FROM tasker.tasks t
	CROSS JOIN tasker.graph_weights() w
	CROSS JOIN tasker.graph_steps(t.task_id) s
	CROSS JOIN LATERAL (
		SELECT w.blocked * s.blocked_steps + w.downstream * s.downstream_steps + w.attempt * s.attempts
			+ CASE WHEN s.attempts >= s.retry_limit THEN w.exhausted ELSE 0 END AS score
	) point
	WHERE t.task_id = error_chains.task_id AND s.state = 'error'
	ORDER BY point.score DESC, s.workflow_step_id;
END;
COMMENT ON FUNCTION tasker.error_chains(bigint) IS
'The failed steps of a task, worst first, and what each of them costs: the steps downstream, how many of these are blocked, whether and when it is retried. impact_score: 15 for each blocked step + 5 for each downstream + 3 for each attempt + 20 where all are used; impact_level as in bottlenecks(). suggested_actions are statements for an operator; none in a task that is cancelled or resolved. Which steps: step_transitive_dependents().';

CREATE FUNCTION tasker.parallelism(task_id bigint)
RETURNS TABLE (level integer, total_steps bigint, ready_steps bigint, in_progress_steps bigint, blocked_steps bigint, error_steps bigint,
	completed_steps bigint, potential text, bottleneck_risk text)
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
	SELECT l.level, l.total, l.ready, l.in_progress, l.blocked, l.failed, l.completed,
		CASE WHEN l.ready > 1 THEN 'High' WHEN l.ready = 1 THEN 'Medium' ELSE 'Low' END,
		CASE WHEN l.blocked * 2 > l.total THEN 'High' ELSE 'Low' END
	FROM (
		SELECT s.level, count(*) AS total, count(*) FILTER (WHERE s.ready) AS ready,
			count(*) FILTER (WHERE s.state = 'in_progress') AS in_progress,
			count(*) FILTER (WHERE s.blocked) AS blocked, count(*) FILTER (WHERE s.state = 'error') AS failed,
			count(*) FILTER (WHERE s.state IN ('complete', 'resolved_manually')) AS completed
		FROM tasker.graph_steps(task_id) s
		GROUP BY s.level
	) l
	ORDER BY l.level;
END;
COMMENT ON FUNCTION tasker.parallelism(bigint) IS
'What could run side by side in a task, a row a level. potential: High if more than one step is ready, Medium if one, else Low. bottleneck_risk: High if more than half of the level is blocked, else Low.';

CREATE FUNCTION tasker.task_graph_analysis(task_id bigint) RETURNS jsonb
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	drawing jsonb := tasker.task_drawing(task_id);
BEGIN
	RETURN (SELECT jsonb_build_object(
		'task', drawing -> 'task',
		'dependency_graph', jsonb_build_object('nodes', drawing -> 'nodes', 'edges', drawing -> 'edges'),
		'critical_paths', (SELECT coalesce(jsonb_agg(to_jsonb(p) ORDER BY p.rank), '[]') FROM tasker.critical_paths(task_id) p),
		'bottlenecks', (SELECT coalesce(jsonb_agg(to_jsonb(b) ORDER BY b.bottleneck_score DESC, b.workflow_step_id), '[]') FROM tasker.bottlenecks(task_id) b),
		'error_chains', (SELECT coalesce(jsonb_agg(to_jsonb(e) ORDER BY e.impact_score DESC, e.workflow_step_id), '[]') FROM tasker.error_chains(task_id) e),
		'parallelism', (SELECT jsonb_build_object(
				'levels', coalesce(jsonb_agg(to_jsonb(l) ORDER BY l.level), '[]'),
				'efficiency_percentage', coalesce(round(100.0 * count(*) FILTER (WHERE l.ready_steps > 1) / nullif(count(*), 0), 2), 0))
			FROM tasker.parallelism(task_id) l)));
END
$$;
COMMENT ON FUNCTION tasker.task_graph_analysis(bigint) IS
'All that is said of the graph of a task in one document: task, dependency_graph (nodes and edges as in the json format of task_diagram), and the rows of critical_paths(), bottlenecks(), error_chains() and parallelism(), with the percentage of levels on which more than one step is ready. Error: 42704 unknown task.';
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

	IF find_tasks.namespace IS NOT NULL OR find_tasks.name IS NOT NULL OR find_tasks.version IS NOT NULL THEN
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
		WHEN find_tasks.annotation_type IS NOT NULL OR find_tasks.annotation IS NOT NULL THEN
			'(SELECT DISTINCT a.task_id FROM tasker.task_annotations a WHERE a.task_id < $1'
			|| CASE WHEN find_tasks.annotation_type IS NULL THEN '' ELSE ' AND a.annotation_type_id = $7' END
			|| CASE WHEN find_tasks.annotation IS NULL THEN '' ELSE ' AND a.annotation @> $8' END
			|| ' ORDER BY a.task_id DESC OFFSET 0) o CROSS JOIN LATERAL (SELECT * FROM tasker.tasks t WHERE t.task_id = o.task_id OFFSET 0)'
		WHEN cardinality(find_tasks.tags) > 0 THEN
			$w$(SELECT * FROM tasker.tasks t WHERE t.tags @> $5 AND t.tags <> '{}' OFFSET 0)$w$
		WHEN find_tasks.any_tags IS NOT NULL THEN
			$w$(SELECT * FROM tasker.tasks t WHERE t.tags && $6 AND t.tags <> '{}' OFFSET 0)$w$
		WHEN find_tasks.states <@ '{error,cancelled,resolved_manually}' THEN
			$w$(SELECT DISTINCT l.task_id FROM tasker.task_transition_log l
			WHERE l.to_state IN ('error', 'cancelled', 'resolved_manually') AND l.task_id < $1
			ORDER BY l.task_id DESC OFFSET 0) o CROSS JOIN LATERAL (SELECT * FROM tasker.tasks t WHERE t.task_id = o.task_id OFFSET 0)$w$
		WHEN find_tasks.requested_from IS NOT NULL THEN
			'(SELECT * FROM tasker.tasks t WHERE t.requested_at >= $11'
			|| CASE WHEN find_tasks.requested_before IS NULL THEN '' ELSE ' AND t.requested_at < $12' END || ' OFFSET 0)'
		WHEN find_tasks.namespace IS NOT NULL OR find_tasks.name IS NOT NULL OR find_tasks.version IS NOT NULL THEN
			-- Equality would do, but then the order could be had from the primary key, too.
			'unnest($3) template (id) CROSS JOIN LATERAL (SELECT * FROM tasker.tasks t
			WHERE t.named_task_id >= template.id AND t.named_task_id <= template.id AND t.task_id < $1 AND ' || wanted
			|| ' ORDER BY t.named_task_id DESC, t.task_id DESC LIMIT $2)'
		ELSE
			'(SELECT * FROM tasker.tasks t WHERE t.task_id < $1 AND ' || wanted || ' ORDER BY t.task_id DESC LIMIT $2)'
	END;
	namespace_ids := ARRAY(SELECT s.task_namespace_id FROM tasker.task_namespaces s);

	FOREACH source IN ARRAY CASE WHEN find_tasks.identity_key IS NULL THEN ARRAY[newest, source] ELSE ARRAY[source] END
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
'A page of tasks, newest first: up to max_tasks (1 to 1000) that fulfil all conditions given. tags: has all of them; any_tags: has at least one; annotation: one of this type, where that is given, contains this object, as does context. The next page is asked for with before_task_id, the last task_id of this one: tasks that are created meanwhile move no page. What is not among the newest 1000 tasks is found by an index where one of identity_key, annotation_type, annotation, tags, any_tags, states (of error, cancelled and resolved_manually only), requested_from, namespace, name or version is given, else by walking through all tasks. Runs with the rights of the caller, who needs SELECT on tasks, named_tasks, task_namespaces, task_summaries and, to search by them, on annotation_types, task_annotations and task_transition_log. Error: 22023 bad max_tasks.';
-- A task as one document, for those who show a task and all of its steps.

-- Steps with the same parents are many where a fan-out is wide, and each names
-- all others: beyond a thousand the list would outgrow everything else. The
-- fences (OFFSET 0) keep the order of the joins, whatever statistics say.
CREATE FUNCTION tasker.step_documents(task_id bigint) RETURNS TABLE (workflow_step_id bigint, document jsonb)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	SELECT s.workflow_step_id, jsonb_build_object(
		'task_id', s.task_id, 'workflow_step_id', s.workflow_step_id,
		'name', (SELECT n.name FROM tasker.named_steps n WHERE n.named_step_id = s.named_step_id), 'named_step_id', s.named_step_id,
		'status', s.state, 'attempts', s.attempts, 'skippable', s.skippable, 'retryable', s.retryable, 'retry_limit', s.retry_limit,
		'processed', s.state = 'complete',
		'processed_at', (SELECT l.created_at FROM tasker.workflow_step_transition_log l
			WHERE s.state = 'complete' AND l.workflow_step_id = s.workflow_step_id AND l.sort_key = s.sort_key),
		'in_process', s.state = 'in_progress',
		'backoff_request_seconds', s.backoff_request_seconds, 'last_attempted_at', s.last_attempted_at,
		'inputs', coalesce(s.inputs, '{}'), 'results', coalesce(s.results, '{}'),
		'parents_ids', place.parent_step_ids, 'children_ids', place.child_step_ids,
		'siblings_ids', CASE
			WHEN place.parent_count = 0 THEN '[]'
			WHEN count(*) OVER alike <= 1000 THEN to_jsonb(array_remove(array_agg(s.workflow_step_id) OVER alike, s.workflow_step_id))
		END)
	FROM (SELECT * FROM tasker.step_dag_relationships r WHERE r.task_id = step_documents.task_id OFFSET 0) place
	CROSS JOIN LATERAL (SELECT * FROM tasker.workflow_steps s WHERE s.workflow_step_id = place.workflow_step_id OFFSET 0) s
	WINDOW alike AS (PARTITION BY place.parent_step_ids ORDER BY s.workflow_step_id
		ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING);
END;
COMMENT ON FUNCTION tasker.step_documents(bigint) IS 'The steps of a task as task_document() shows them.';

CREATE FUNCTION tasker.task_document(task_id bigint, include_dependencies boolean DEFAULT false) RETURNS jsonb
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	SELECT jsonb_build_object(
		'task_id', t.task_id, 'name', t.name, 'namespace', t.namespace, 'version', t.version, 'full_name', t.full_name,
		'initiator', t.initiator, 'source_system', t.source_system, 'context', own.context, 'reason', t.reason,
		'bypass_steps', own.bypass_steps, 'tags', t.tags, 'requested_at', t.requested_at,
		'complete', t.state = 'complete', 'status', t.state,
		'workflow_steps', (SELECT coalesce(jsonb_agg(s.document ORDER BY s.workflow_step_id), '[]')
			FROM tasker.step_documents(t.task_id) s),
		'task_annotations', (SELECT coalesce(jsonb_agg(jsonb_build_object('task_annotation_id', a.task_annotation_id,
				'annotation_type', a.type, 'annotation', a.annotation, 'created_at', a.created_at, 'role', a.role)
				ORDER BY a.task_annotation_id), '[]')
			FROM tasker.annotations a WHERE a.task_id = t.task_id))
		|| CASE WHEN include_dependencies THEN jsonb_build_object('dependency_analysis', tasker.task_graph_analysis(t.task_id) - 'task')
		ELSE '{}' END
	FROM (SELECT * FROM tasker.tasks o WHERE o.task_id = task_document.task_id OFFSET 0) own
	CROSS JOIN LATERAL (SELECT * FROM tasker.task_summaries s WHERE s.task_id = own.task_id OFFSET 0) t;
END;
COMMENT ON FUNCTION tasker.task_document(bigint, boolean) IS
'A task with its steps, in the order of their ids, and its annotations as one JSON object; NULL where there is no such task. inputs of a step is what is laid over the context of the task. siblings_ids are the other steps with exactly the same parents: none for a root, null where there are more than 1000. With include_dependencies also dependency_analysis: what task_graph_analysis() says. Runs with the rights of the caller.';
-- What the finalizer decides, as a table.

CREATE FUNCTION tasker.finalization_decision(task_id bigint)
RETURNS TABLE (execution_status text, action text, reason text, delay interval)
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
	SELECT c.execution_status, decision.action,
		CASE decision.action WHEN 'error_task' THEN 'steps_in_error_state' WHEN 'reenqueue' THEN decision.reason END,
		CASE decision.action WHEN 'reenqueue' THEN decision.delay END
	FROM tasker.task_execution_contexts c
	CROSS JOIN LATERAL (
		SELECT
			CASE
				WHEN c.status NOT IN ('pending', 'in_progress') THEN 'none'
				WHEN c.execution_status = 'all_complete' THEN 'complete_task'
				WHEN c.execution_status = 'blocked_by_failures' THEN 'error_task'
				ELSE 'reenqueue'
			END AS action,
			CASE c.execution_status
				WHEN 'has_ready_steps' THEN 'ready_steps_available'
				WHEN 'processing' THEN 'steps_in_progress'
				WHEN 'waiting_for_dependencies' THEN 'awaiting_dependencies'
				ELSE 'continuing_workflow'
			END AS reason,
			CASE c.execution_status
				WHEN 'has_ready_steps' THEN interval '0'
				WHEN 'processing' THEN interval '10 s'
				WHEN 'waiting_for_dependencies' THEN coalesce((
					SELECT greatest(min(s.next_retry_at) - tasker.now(), interval '0')
					FROM tasker.workflow_steps s
					WHERE s.task_id = finalization_decision.task_id AND s.state = 'error'), interval '45 s')
				ELSE interval '30 s'
			END AS delay
	) decision
	WHERE c.task_id = finalization_decision.task_id;
END;
COMMENT ON FUNCTION tasker.finalization_decision(bigint) IS
'What is to be done with a task as it stands: action complete_task, error_task (reason steps_in_error_state), reenqueue (it goes on; reason and delay say why and when to look again at the latest: ready_steps_available 0, steps_in_progress 10 s, awaiting_dependencies until the first retry is due, else 45 s), or none (it has ended). The delays matter only where reenqueuer_strategy is delayed, or to a function that is told of them; the orchestrator does not wait for them. No row where there is no such task.';
CREATE FUNCTION tasker.orchestrator_status(
	OUT pid integer, OUT started_at timestamptz, OUT last_batch_at timestamptz, OUT batches bigint,
	OUT log_rows bigint, OUT claims bigint, OUT notifications bigint, OUT errors bigint,
	OUT last_error text, OUT status text)
LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'tasker_orchestrator_status';
COMMENT ON FUNCTION tasker.orchestrator_status() IS
'What shared memory says of this database''s orchestrator; see the view stat_orchestrator.';

CREATE VIEW tasker.stat_orchestrator AS
SELECT s.status, s.pid, s.started_at, s.last_batch_at, s.batches, s.log_rows, s.claims, s.notifications,
	s.errors, s.last_error, c.position, c.saved_at AS checkpoint_at,
	CASE WHEN c.system_identifier <> (SELECT system_identifier FROM pg_control_system()) THEN 'restored'
		WHEN c.paused_at IS NOT NULL THEN 'paused' END AS holds_dispatch
FROM tasker.orchestrator_status() s
LEFT JOIN tasker.orchestrator_checkpoint c ON true;
COMMENT ON VIEW tasker.stat_orchestrator IS
'One row: whether an orchestrator serves this database (running, starting, off, held by a utility command, not preloaded), what it has done since it started, and why nothing is dispatched, if so. Read by operators and monitoring.';
-- Who keeps dead rows from being removed.

CREATE VIEW tasker.stat_horizon AS
WITH culprit AS (
	SELECT CASE WHEN a.backend_type = 'walsender' THEN 'standby' ELSE 'session' END AS kind,
		a.pid, a.application_name AS name, a.usename::text AS role, a.state, a.xact_start AS since,
		greatest(age(a.backend_xmin), age(a.backend_xid)) AS age, a.query
	FROM pg_stat_activity a
	WHERE (a.datid IS NULL OR a.datid = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()))
		AND (a.backend_xmin IS NOT NULL OR a.backend_xid IS NOT NULL)
		AND a.pid <> pg_backend_pid() AND a.backend_type <> 'autovacuum worker'
	UNION ALL
	SELECT 'prepared transaction', NULL, p.gid, p.owner::text, NULL, p.prepared, age(p.transaction), NULL
	FROM pg_prepared_xacts p
	WHERE p.database = current_database()
	UNION ALL
	SELECT 'replication slot', s.active_pid, s.slot_name::text, NULL, CASE WHEN s.active THEN 'active' ELSE 'inactive' END, NULL, age(s.xmin), NULL
	FROM pg_replication_slots s
	WHERE s.xmin IS NOT NULL
)
SELECT c.kind, c.pid, c.name, c.role, c.state, c.since, c.age AS age_in_transactions, left(c.query, 200) AS query,
	(SELECT sum(t.n_dead_tup)::bigint FROM pg_stat_all_tables t WHERE t.schemaname = 'tasker') AS dead_rows
FROM culprit c
ORDER BY c.age DESC, c.since;
COMMENT ON VIEW tasker.stat_horizon IS
'Who keeps vacuum from removing dead rows in this database, the oldest first: sessions with an old snapshot or transaction, prepared transactions, replication slots, standbys that report what they read. The first row is the one to end. Details of other roles'' sessions need pg_read_all_stats. For operators.';
COMMENT ON COLUMN tasker.stat_horizon.name IS 'The application of a session, the name of a prepared transaction or of a slot.';
COMMENT ON COLUMN tasker.stat_horizon.age_in_transactions IS 'How many transactions have begun since the oldest one that it may still look at.';
COMMENT ON COLUMN tasker.stat_horizon.dead_rows IS 'Dead rows in the tables of tasker, by the statistics; the same in each row.';
-- What runs now.

-- Which steps are in flight is not indexed, because an index on a state would
-- make every change of state dearer. The checkpoint knows the steps that were
-- out when it was saved, and the log what was claimed since; each candidate is
-- then looked up by its key. The range of the log is closed at the top, though
-- nothing is above it: of a range the planner expects few rows and takes the
-- index, of a lower bound alone a third of the log.
CREATE VIEW tasker.stat_executors AS
WITH candidate AS (
	SELECT unnest(c.in_flight_steps) AS workflow_step_id
	FROM tasker.orchestrator_checkpoint c
	UNION
	SELECT l.workflow_step_id
	FROM tasker.workflow_step_transition_log l
	WHERE l.xact_id >= coalesce((SELECT pg_snapshot_xmax(c.position) FROM tasker.orchestrator_checkpoint c), '0')
		AND l.xact_id <= '18446744073709551615'
		AND l.to_state = 'in_progress'
	UNION
	SELECT l.workflow_step_id
	FROM tasker.workflow_step_transition_log l
	WHERE l.xact_id = ANY (ARRAY(SELECT pg_snapshot_xip(c.position) FROM tasker.orchestrator_checkpoint c))
		AND l.to_state = 'in_progress'
), holder AS MATERIALIZED (
	SELECT (SELECT s.executor_id FROM tasker.workflow_steps s
		WHERE s.workflow_step_id = candidate.workflow_step_id AND s.state = 'in_progress') AS executor_id
	FROM candidate
), in_flight AS (
	SELECT holder.executor_id, count(*) AS steps
	FROM holder
	WHERE holder.executor_id IS NOT NULL
	GROUP BY holder.executor_id
)
SELECT e.executor_id, e.name,
	ARRAY(SELECT h.name FROM tasker.handlers h WHERE h.handler_id = ANY (e.handlers) ORDER BY h.name) AS handlers,
	e.capacity, e.detached, e.lease, e.role, e.registered_at, e.last_heartbeat_at, e.ended_at, e.end_reason,
	coalesce(in_flight.steps, 0) AS in_flight
FROM tasker.executors e
LEFT JOIN in_flight ON in_flight.executor_id = e.executor_id;
COMMENT ON VIEW tasker.stat_executors IS
'Who runs steps, or ran them (ended_at), and how many steps each one has now. For operators and dashboards.';
COMMENT ON COLUMN tasker.stat_executors.handlers IS 'The names of what it can run.';
COMMENT ON COLUMN tasker.stat_executors.in_flight IS 'Steps in progress with this executor.';
-- check(): every invariant, amcheck-style. Nothing comes back when all is well.
--
-- The function is STABLE, so all its queries see the one snapshot of the query
-- that calls it. That is what keeps it free of false alarms while everything
-- runs: a state, its log row and what the orchestrator drew from them are seen
-- together or not at all. Consequences that are still due, because the log rows
-- that they follow from lie beyond the orchestrator's position, are told apart
-- by task: such a task is left out of the checks of consequences.
CREATE FUNCTION tasker.check()
RETURNS TABLE (problem text, owner text, owner_id bigint, detail text)
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
	checkpoint tasker.orchestrator_checkpoint;
BEGIN
	-- A task shows the state and sort_key of the latest row of its log.
	RETURN QUERY
	SELECT 'task_disagrees_with_log', 'task', t.task_id,
		format('the task is %s at sort_key %s, its log %s', t.state, t.sort_key,
			coalesce('says ' || l.to_state, 'has no such row'))
	FROM tasker.tasks t
	LEFT JOIN tasker.task_transition_log l ON l.task_id = t.task_id AND l.sort_key = t.sort_key
	WHERE l.to_state IS DISTINCT FROM t.state;

	RETURN QUERY
	SELECT 'log_is_ahead_of_task', 'task', t.task_id,
		format('the log has sort_key %s (%s), the task shows %s', l.sort_key, l.to_state, t.sort_key)
	FROM tasker.tasks t
	JOIN tasker.task_transition_log l ON l.task_id = t.task_id
	WHERE l.sort_key > t.sort_key;

	-- A step shows the state and sort_key of the latest row of its log; without
	-- a row it is pending at 0.
	RETURN QUERY
	SELECT 'step_disagrees_with_log', 'step', s.workflow_step_id,
		format('the step is %s at sort_key %s, its log %s', s.state, s.sort_key,
			coalesce('says ' || l.to_state, 'has no such row'))
	FROM tasker.workflow_steps s
	LEFT JOIN tasker.workflow_step_transition_log l
		ON l.workflow_step_id = s.workflow_step_id AND l.sort_key = s.sort_key
	WHERE l.to_state IS DISTINCT FROM s.state
		AND NOT (s.sort_key = 0 AND s.state = 'pending' AND l.to_state IS NULL);

	RETURN QUERY
	SELECT 'log_is_ahead_of_step', 'step', s.workflow_step_id,
		format('the log has sort_key %s (%s), the step shows %s', l.sort_key, l.to_state, s.sort_key)
	FROM tasker.workflow_steps s
	JOIN tasker.workflow_step_transition_log l ON l.workflow_step_id = s.workflow_step_id
	WHERE l.sort_key > s.sort_key;

	-- The log of a task runs 10, 20, 30 without a gap, and each row takes up
	-- the state in which the one before it left the task; the first comes from
	-- nothing.
	RETURN QUERY
	SELECT 'task_log_is_broken', 'task', l.task_id,
		format('sort_key %s from %s follows sort_key %s to %s', l.sort_key, coalesce(l.from_state::text, 'nothing'),
			coalesce(l.previous_key, 0), coalesce(l.previous_state::text, 'nothing'))
	FROM (
		SELECT task_id, sort_key, from_state, lag(sort_key) OVER w AS previous_key, lag(to_state) OVER w AS previous_state
		FROM tasker.task_transition_log
		WINDOW w AS (PARTITION BY task_id ORDER BY sort_key)
	) l
	WHERE l.sort_key <> coalesce(l.previous_key, 0) + 10
		OR l.from_state IS DISTINCT FROM l.previous_state;

	-- So does the log of a step, whose first row comes from pending.
	RETURN QUERY
	SELECT 'step_log_is_broken', 'step', l.workflow_step_id,
		format('sort_key %s from %s follows sort_key %s to %s', l.sort_key, l.from_state,
			coalesce(l.previous_key, 0), coalesce(l.previous_state, 'pending'))
	FROM (
		SELECT workflow_step_id, sort_key, from_state, lag(sort_key) OVER w AS previous_key, lag(to_state) OVER w AS previous_state
		FROM tasker.workflow_step_transition_log
		WINDOW w AS (PARTITION BY workflow_step_id ORDER BY sort_key)
	) l
	WHERE l.sort_key <> coalesce(l.previous_key, 0) + 10
		OR l.from_state <> coalesce(l.previous_state, 'pending');

	-- Every transition is a legal one.
	RETURN QUERY
	SELECT 'illegal_transition', 'task', l.task_id,
		format('sort_key %s goes from %s to %s', l.sort_key, coalesce(l.from_state::text, 'nothing'), l.to_state)
	FROM tasker.task_transition_log l
	WHERE NOT EXISTS (SELECT FROM tasker.allowed_transitions a
		WHERE a.owner = 'task' AND a.to_state = l.to_state
			AND coalesce(a.from_state::text, '') = coalesce(l.from_state::text, ''));

	RETURN QUERY
	SELECT 'illegal_transition', 'step', l.workflow_step_id,
		format('sort_key %s goes from %s to %s', l.sort_key, l.from_state, l.to_state)
	FROM tasker.workflow_step_transition_log l
	WHERE NOT EXISTS (SELECT FROM tasker.allowed_transitions a
		WHERE a.owner = 'step' AND a.to_state = l.to_state AND a.from_state = l.from_state);

	-- A log row has an owner. Where upkeep has left rows of pruned owners to the
	-- end of their partition, at least the task that they tell of had ended.
	RETURN QUERY
	SELECT 'log_without_owner', 'task', l.task_id, format('sort_key %s to %s', l.sort_key, l.to_state)
	FROM tasker.task_transition_log l
	WHERE NOT EXISTS (SELECT FROM tasker.tasks t WHERE t.task_id = l.task_id)
		AND NOT (tasker.history_period(l.task_id) = ANY (ARRAY(SELECT p.period FROM tasker.history_periods p WHERE p.keeps_task_rows))
			AND (SELECT k.to_state FROM tasker.task_transition_log k WHERE k.task_id = l.task_id ORDER BY k.sort_key DESC LIMIT 1)
				IN ('complete', 'cancelled', 'resolved_manually', 'error'));

	RETURN QUERY
	SELECT 'log_without_owner', 'step', l.workflow_step_id, format('sort_key %s to %s', l.sort_key, l.to_state)
	FROM tasker.workflow_step_transition_log l
	WHERE NOT EXISTS (SELECT FROM tasker.workflow_steps s WHERE s.workflow_step_id = l.workflow_step_id)
		AND NOT tasker.history_period(l.workflow_step_id) = ANY (ARRAY(SELECT p.period FROM tasker.history_periods p WHERE p.keeps_step_rows));

	-- A step belongs to a task.
	RETURN QUERY
	SELECT 'step_without_task', 'step', s.workflow_step_id, format('task %s does not exist', s.task_id)
	FROM tasker.workflow_steps s
	WHERE NOT EXISTS (SELECT FROM tasker.tasks t WHERE t.task_id = s.task_id);

	-- A task has exactly the steps of its template, and with them its edges.
	RETURN QUERY
	SELECT 'steps_disagree_with_template', 'task', coalesce(s.task_id, m.task_id),
		CASE WHEN m.task_id IS NULL THEN format('its step %s is not in the template', s.workflow_step_id)
			ELSE format('it has no step %s', (SELECT n.name FROM tasker.named_steps n WHERE n.named_step_id = m.named_step_id)) END
	FROM tasker.workflow_steps s
	FULL JOIN (
		SELECT t.task_id, ts.named_step_id
		FROM tasker.tasks t
		JOIN tasker.named_tasks_named_steps ts ON ts.named_task_id = t.named_task_id
	) m ON m.task_id = s.task_id AND m.named_step_id = s.named_step_id
	WHERE s.task_id IS NULL
		OR (m.task_id IS NULL AND EXISTS (SELECT FROM tasker.tasks t WHERE t.task_id = s.task_id));

	-- Step ids of a task grow in the order of the template's positions.
	RETURN QUERY
	SELECT 'step_ids_out_of_order', 'step', o.workflow_step_id, format('step %s comes before it in the template', o.before)
	FROM (
		SELECT s.workflow_step_id,
			lag(s.workflow_step_id) OVER (PARTITION BY s.task_id ORDER BY ts.position) AS before
		FROM tasker.workflow_steps s
		JOIN tasker.tasks t ON t.task_id = s.task_id
		JOIN tasker.named_tasks_named_steps ts ON ts.named_task_id = t.named_task_id AND ts.named_step_id = s.named_step_id
	) o
	WHERE o.before > o.workflow_step_id;

	-- An edge of a template leads to a later position.
	RETURN QUERY
	SELECT 'edge_leads_backwards', 'template', e.named_task_id::bigint, format('from position %s to %s', p.position, c.position)
	FROM tasker.named_step_edges e
	JOIN tasker.named_tasks_named_steps p ON p.named_task_id = e.named_task_id AND p.named_step_id = e.from_named_step_id
	JOIN tasker.named_tasks_named_steps c ON c.named_task_id = e.named_task_id AND c.named_step_id = e.to_named_step_id
	WHERE p.position >= c.position;

	-- A step is marked as root or leaf when no edge says otherwise.
	RETURN QUERY
	SELECT 'step_disagrees_with_edges', 'step', s.workflow_step_id,
		format('is_root is %s, is_leaf is %s', s.is_root, s.is_leaf)
	FROM tasker.workflow_steps s
	JOIN tasker.tasks t ON t.task_id = s.task_id
	LEFT JOIN (SELECT DISTINCT e.named_task_id, e.to_named_step_id FROM tasker.named_step_edges e) child
		ON child.named_task_id = t.named_task_id AND child.to_named_step_id = s.named_step_id
	LEFT JOIN (SELECT DISTINCT e.named_task_id, e.from_named_step_id FROM tasker.named_step_edges e) parent
		ON parent.named_task_id = t.named_task_id AND parent.from_named_step_id = s.named_step_id
	WHERE s.is_root <> (child.to_named_step_id IS NULL) OR s.is_leaf <> (parent.from_named_step_id IS NULL);

	-- A step runs only when all its parents are complete or resolved.
	RETURN QUERY
	SELECT 'step_ran_before_parent', 'step', c.workflow_step_id,
		format('it is %s, its parent %s is %s', c.state, p.workflow_step_id, p.state)
	FROM tasker.workflow_steps c
	JOIN tasker.tasks t ON t.task_id = c.task_id
	-- Edge by edge: joined as a whole, tasks times edges of a template look like too many or too few.
	CROSS JOIN LATERAL (
		SELECT e.from_named_step_id FROM tasker.named_step_edges e
		WHERE e.named_task_id = t.named_task_id AND e.to_named_step_id = c.named_step_id OFFSET 0
	) e
	JOIN tasker.workflow_steps p ON p.task_id = c.task_id AND p.named_step_id = e.from_named_step_id
	WHERE c.state IN ('in_progress', 'complete') AND p.state NOT IN ('complete', 'resolved_manually');

	-- A step is attempted within its limit; the first attempt is always allowed.
	RETURN QUERY
	SELECT 'too_many_attempts', 'step', s.workflow_step_id, format('%s attempts of %s', s.attempts, s.retry_limit)
	FROM tasker.workflow_steps s
	WHERE s.attempts > greatest(s.retry_limit, 1);

	-- Where one step of a task runs at a time, no second one does.
	RETURN QUERY
	SELECT 'more_than_one_step_in_progress', 'task', t.task_id, format('%s steps are in progress', count(*))
	FROM tasker.named_tasks template
	JOIN tasker.tasks t ON t.named_task_id = template.named_task_id
	JOIN tasker.workflow_steps s ON s.task_id = t.task_id AND s.state = 'in_progress'
	WHERE NOT template.concurrent
	GROUP BY t.task_id
	HAVING count(*) > 1;

	-- A complete task has complete or resolved steps only.
	RETURN QUERY
	SELECT 'task_complete_too_early', 'task', t.task_id, format('its step %s is %s', s.workflow_step_id, s.state)
	FROM tasker.tasks t
	JOIN tasker.workflow_steps s ON s.task_id = t.task_id
	WHERE t.state = 'complete' AND s.state NOT IN ('complete', 'resolved_manually');

	-- A row of the work queue stands for a step and agrees with it. One whose
	-- step is no longer ready is passed over by the claim and does no harm.
	RETURN QUERY
	SELECT 'queue_disagrees_with_step', 'step', q.workflow_step_id, CASE
			WHEN s.workflow_step_id IS NULL THEN 'it is queued and does not exist'
			ELSE format('it is queued under handler %s, rank %s and has handler %s, rank %s', q.handler_id, q.rank, s.handler_id, s.rank)
		END
	FROM tasker.work_queue q
	LEFT JOIN tasker.workflow_steps s ON s.workflow_step_id = q.workflow_step_id
	WHERE s.workflow_step_id IS NULL OR s.handler_id <> q.handler_id OR s.rank <> q.rank;

	-- What follows is about consequences, and those are drawn only where the
	-- orchestrator works: not before its first use, while all is paused, or
	-- on a restored or cloned database that nobody has adopted.
	SELECT c.* INTO checkpoint FROM tasker.orchestrator_checkpoint c;
	IF NOT FOUND OR checkpoint.paused_at IS NOT NULL
		OR checkpoint.system_identifier <> (SELECT system_identifier FROM pg_control_system()) THEN
		RETURN;
	END IF;

	RETURN QUERY
	WITH unread AS MATERIALIZED (
		SELECT l.task_id
		FROM tasker.task_transition_log l
		WHERE l.xact_id >= pg_snapshot_xmax(checkpoint.position)
			OR l.xact_id = ANY (ARRAY(SELECT pg_snapshot_xip(checkpoint.position)))
		UNION
		SELECT s.task_id
		FROM tasker.workflow_step_transition_log l
		JOIN tasker.workflow_steps s ON s.workflow_step_id = l.workflow_step_id
		WHERE l.xact_id >= pg_snapshot_xmax(checkpoint.position)
			OR l.xact_id = ANY (ARRAY(SELECT pg_snapshot_xip(checkpoint.position)))
	), task AS MATERIALIZED (
		SELECT t.task_id, t.state, t.named_task_id, template.concurrent, template.coordinator_strategy
		FROM tasker.tasks t
		JOIN tasker.named_tasks template ON template.named_task_id = t.named_task_id
		JOIN tasker.task_namespaces namespace ON namespace.task_namespace_id = t.task_namespace_id
		WHERE t.state IN ('pending', 'in_progress')
			AND template.paused_at IS NULL AND namespace.paused_at IS NULL
			AND NOT EXISTS (SELECT FROM unread WHERE unread.task_id = t.task_id)
	), waiting AS MATERIALIZED (
		-- As the readiness view has it, but for all open tasks at once.
		SELECT DISTINCT c.workflow_step_id
		FROM task
		JOIN tasker.workflow_steps c ON c.task_id = task.task_id
		CROSS JOIN LATERAL (
			SELECT e.from_named_step_id FROM tasker.named_step_edges e
			WHERE e.named_task_id = task.named_task_id AND e.to_named_step_id = c.named_step_id OFFSET 0
		) e
		JOIN tasker.workflow_steps p ON p.task_id = task.task_id AND p.named_step_id = e.from_named_step_id
		WHERE c.state IN ('pending', 'error') AND p.state NOT IN ('complete', 'resolved_manually')
	), step AS MATERIALIZED (
		SELECT s.task_id, s.workflow_step_id, s.state AS current_state, s.next_retry_at, s.sort_key, s.handler_id, s.rank, s.executor_id,
			s.state = 'pending' AND waiting.workflow_step_id IS NULL
				AND NOT EXISTS (SELECT FROM tasker.orchestrator_checkpoint c WHERE c.paused_at IS NOT NULL) AS ready,
			task.concurrent, task.coordinator_strategy,
			s.state = 'error' AND waiting.workflow_step_id IS NULL AND NOT s.failed_permanently
				AND (s.attempts = 0 OR (s.retryable AND s.attempts < s.retry_limit)) AS retrying
		FROM task
		JOIN tasker.workflow_steps s ON s.task_id = task.task_id
		LEFT JOIN waiting ON waiting.workflow_step_id = s.workflow_step_id
	), progress AS MATERIALIZED (
		SELECT task.task_id, task.state,
			coalesce(bool_and(step.current_state IN ('complete', 'resolved_manually')), true) AS done,
			coalesce(bool_or(step.current_state = 'in_progress' OR step.ready OR step.retrying), false) AS alive
		FROM task
		LEFT JOIN step ON step.task_id = task.task_id
		GROUP BY task.task_id, task.state
	)
	-- A ready step is in the work queue; where one step of a task runs at a
	-- time, one of them is, unless one is in progress. Steps of a coordinator
	-- never are.
	SELECT 'ready_step_is_not_queued', 'step', step.workflow_step_id, format('task %s, handler %s, rank %s', step.task_id, step.handler_id, step.rank)
	FROM step
	WHERE step.ready AND step.coordinator_strategy = 'orchestrator'
		AND NOT EXISTS (SELECT FROM tasker.work_queue q WHERE q.workflow_step_id = step.workflow_step_id)
		AND (step.concurrent OR NOT EXISTS (
			SELECT FROM tasker.workflow_steps o
			WHERE o.task_id = step.task_id AND (o.state = 'in_progress'
				OR EXISTS (SELECT FROM tasker.work_queue q
					WHERE q.handler_id = o.handler_id AND q.rank = o.rank AND q.workflow_step_id = o.workflow_step_id))))
	UNION ALL
	-- A step that will be tried again has the timer of its latest transition.
	SELECT 'retry_has_no_timer', 'step', step.workflow_step_id,
		format('task %s, next_retry_at %s', step.task_id, coalesce(step.next_retry_at::text, 'missing'))
	FROM step
	WHERE step.retrying
		AND NOT EXISTS (SELECT FROM tasker.timers i
			WHERE i.workflow_step_id = step.workflow_step_id AND i.sort_key = step.sort_key)
	UNION ALL
	-- An open task has something that runs, may run, or will.
	SELECT 'task_waits_for_nothing', 'task', progress.task_id,
		format('it is %s, and no step is in progress, ready or waiting for a retry', progress.state)
	FROM progress
	WHERE NOT progress.done AND NOT progress.alive
	UNION ALL
	-- A task whose steps are all complete or resolved is closed.
	SELECT 'task_is_not_finalized', 'task', progress.task_id,
		format('it is %s, and every step is complete or resolved', progress.state)
	FROM progress
	WHERE progress.done
	UNION ALL
	-- A step in progress is with an executor that lives. Ending an executor
	-- writes no log row, so its steps get a minute to be taken from it.
	SELECT 'step_is_with_ended_executor', 'step', step.workflow_step_id,
		format('executor %s ended at %s (%s)', x.executor_id, x.ended_at, x.end_reason)
	FROM step
	JOIN tasker.executors x ON x.executor_id = step.executor_id
	WHERE step.current_state = 'in_progress' AND x.ended_at < tasker.now() - interval '1 minute';
END
$$;
COMMENT ON FUNCTION tasker.check() IS
'Verifies every invariant and returns one row for each violation, none when all is well. Reads all tasks, steps and logs once; safe at any time, also while everything runs. For operators and tests. problem is a stable name; owner is ''task'', ''step'' or ''template'', owner_id its id.';
-- What pg_dump keeps: every durable table and sequence. The work queue and the
-- timers are accelerators and are rebuilt by resume() after a restore. Periods
-- of the logs that come later are no members of the extension and need no entry.
DO $$
DECLARE
	relation text;
BEGIN
	FOREACH relation IN ARRAY ARRAY['task_namespaces', 'named_tasks', 'dependent_systems', 'named_steps',
		'handlers', 'named_tasks_named_steps', 'named_step_edges', 'custom_events', 'named_step_events',
		'dependent_system_object_maps', 'dependent_system_object_maps_dependent_system_object_map_id_seq', 'tasks', 'workflow_steps',
		'annotation_types', 'task_annotations', 'annotation_types_annotation_type_id_seq', 'task_annotations_task_annotation_id_seq',
		'task_transition_log', 'workflow_step_transition_log',
		'task_transition_log_p0', 'task_transition_log_p1', 'workflow_step_transition_log_p0',
		'workflow_step_transition_log_p1', 'executors',
		'orchestrator_checkpoint', 'history_periods', 'task_reenqueues', 'task_namespaces_task_namespace_id_seq', 'named_tasks_named_task_id_seq',
		'dependent_systems_dependent_system_id_seq', 'named_steps_named_step_id_seq',
		'handlers_handler_id_seq', 'tasks_task_id_seq', 'workflow_steps_workflow_step_id_seq',
		'executors_executor_id_seq']
	LOOP
		PERFORM pg_extension_config_dump(format('tasker.%I', relation)::regclass, '');
	END LOOP;
END
$$;
-- Nothing is reachable by PUBLIC; an administrator grants what each role needs.
REVOKE ALL ON SCHEMA tasker FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA tasker FROM PUBLIC;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA tasker FROM PUBLIC;
REVOKE ALL ON ALL ROUTINES IN SCHEMA tasker FROM PUBLIC;
