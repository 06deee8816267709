-- The catalogue of events. What tasker announces itself follows from the
-- transitions; custom events are entered with the templates whose steps announce
-- them, or by hand.

CREATE TABLE tasker.custom_events (
	name text PRIMARY KEY
		CONSTRAINT custom_event_name_has_3_to_128_characters CHECK (length(name) BETWEEN 3 AND 128),
	description text,
	fired_by text[] NOT NULL DEFAULT '{}',
	registered_at timestamptz NOT NULL,
	payload_schema jsonb
		CONSTRAINT custom_event_schema_is_an_object CHECK (jsonb_typeof(payload_schema) = 'object'),
	version integer NOT NULL DEFAULT 1
);
COMMENT ON TABLE tasker.custom_events IS 'Events that are announced by handlers. Written by register_task_template() and register_event().';
COMMENT ON COLUMN tasker.custom_events.fired_by IS 'Who else announces it, as register_event() was told; steps are in named_step_events.';
COMMENT ON COLUMN tasker.custom_events.registered_at IS 'When it was entered first.';
COMMENT ON COLUMN tasker.custom_events.payload_schema IS 'JSON Schema of what publish_event() is given; NULL: any object.';
COMMENT ON COLUMN tasker.custom_events.version IS 'Of the payload: grows with each other schema.';

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

-- What the payloads of system events carry: every event the standard keys, and
-- some more. The one place that says so; the builder is held against it by a test.
CREATE FUNCTION tasker.event_payload_keys(OUT key text, OUT types text[], OUT events text[], OUT description text) RETURNS SETOF record
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
	SELECT k.key, string_to_array(k.types, ' '), string_to_array(k.events, ' '), k.description
	FROM (VALUES
		('event_type', 'string', NULL, 'Name of the event.'),
		('event_key', 'string', NULL, 'Names this event for ever: owner, id and sort_key. Whoever gets it twice can tell.'),
		('event_version', 'integer', NULL, 'Version of the payload.'),
		('timestamp', 'string', NULL, 'When it happened.'),
		('task_id', 'integer null', NULL, 'The task.'),
		('step_id', 'integer null', NULL, 'The step; null for events of a task.'),
		('namespace', 'string null', NULL, 'Namespace of the task''s template; null once the task is pruned, like all that is read from it.'),
		('task_name', 'string null', NULL, 'Name of the task''s template.'),
		('task_version', 'string null', NULL, 'Version of the task''s template.'),
		('step_name', 'string null', NULL, 'Name of the step.'),
		('attempt_number', 'integer null', NULL, 'Which attempt of the step it was, counted anew after an operator''s retry; 0 before the first one; null for events of a task.'),
		('started_at', 'string null', NULL, 'When the attempt was claimed, or the task started; null before.'),
		('completed_at', 'string null', NULL, 'When the attempt or the task ended; null before.'),
		('execution_duration', 'number null', NULL, 'Seconds from started_at to completed_at.'),
		('error_message', 'string null', NULL, 'What the executor said of a failure.'),
		('exception_class', 'string null', NULL, 'The error''s class, as the executor said.'),
		('from_state', 'string null', NULL, 'The state before; null for a creation.'),
		('to_state', 'string', NULL, 'The state since.'),
		('executor_id', 'integer null', NULL, 'The executor that the step was claimed for, or that reported.'),
		('role', 'string', NULL, 'The database role that made the transition.'),
		('reason', 'string null', NULL, 'Why, where the transition says so.'),
		('retry_limit', 'integer null', 'step.execution_requested step.failed step.retry_requested', 'Attempts allowed in all.'),
		('retry_available', 'boolean null', 'step.failed', 'Whether the step will run again by itself.'),
		('backoff_seconds', 'number null', 'step.failed', 'How long it waits for that.'),
		('backoff_type', 'string null', 'step.failed', 'What decided it: server_requested, a built-in strategy or a function.'),
		('step_results', 'object array string number boolean null', 'step.completed', 'What the step returned; null where that is longer than 8000 bytes: read workflow_steps.results.'),
		('task_context', 'object null', 'task.initialize_requested', 'The context; null where that is longer than 8000 bytes: read tasks.context.'),
		('requested_at', 'string null', 'task.initialize_requested', 'When the task was asked for.'),
		('total_steps', 'integer null', 'task.completed task.failed task.cancelled task.resolved_manually', 'Steps of the task.'),
		('completed_steps', 'integer null', 'task.completed task.failed task.cancelled task.resolved_manually', 'Those complete or resolved by then.'),
		('failed_steps', 'integer null', 'task.completed task.failed task.cancelled task.resolved_manually', 'Those in error then.'),
		('error_steps', 'array null', 'task.failed', 'Names of the first 100 of these.')
	) k(key, types, events, description);
END;
COMMENT ON FUNCTION tasker.event_payload_keys() IS
'The keys of the payloads of system events, with their JSON types. events NULL: all of them have it.';

CREATE FUNCTION tasker.event_payload_schema(event text) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
	SELECT jsonb_build_object('type', 'object', 'additionalProperties', false,
		'required', jsonb_agg(k.key ORDER BY k.key),
		'properties', jsonb_object_agg(k.key, jsonb_build_object('type', k.types, 'description', k.description)))
	FROM tasker.event_payload_keys() k
	WHERE k.events IS NULL OR event = ANY (k.events);
END;
COMMENT ON FUNCTION tasker.event_payload_schema(text) IS 'The JSON Schema of the payload of a system event.';

CREATE VIEW tasker.event_definitions AS
SELECT l.event AS name, l.owner AS category,
	format('A %s goes from %s to %s.', l.owner,
		string_agg(coalesce(l.from_state::text, 'nothing'), ' or ' ORDER BY l.from_state NULLS FIRST), l.to_state) AS description,
	array_agg(coalesce(l.from_state::text, 'nothing') || ' -> ' || l.to_state ORDER BY l.from_state NULLS FIRST) AS fired_by,
	NULL::timestamptz AS registered_at,
	tasker.event_payload_schema(l.event) AS payload_schema, 1 AS version
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
	e.registered_at, coalesce(e.payload_schema, '{"type": "object"}'), e.version
FROM tasker.custom_events e;
COMMENT ON VIEW tasker.event_definitions IS
'Every event there is. category is task, step or custom (workflow and observability are reserved). description of the former says which change of state announces it, fired_by names the transitions. fired_by of a custom event names steps as namespace.template.step, and whatever register_event() was told. registered_at is NULL for what is built in. payload_schema is the JSON Schema of the payload in this version; of a custom event of what publish_event() is given. Search it with WHERE category = ... and name LIKE, description ILIKE.';

CREATE FUNCTION tasker.register_event(name text, description text DEFAULT NULL, fired_by text[] DEFAULT '{}') RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'tasker_register_event';
COMMENT ON FUNCTION tasker.register_event(text, text, text[]) IS
'Enters a custom event into the catalogue: true if it is new; false if it was there, then fired_by is added to what is known and a description that is given replaces the old one, with a NOTICE. name has at least one dot with something around it, up to 128 characters, no spaces, control characters or *; it does not begin with task., step., workflow., observability., tasker. or test. Errors: 22023 invalid name or fired_by; 22004 no name.';

CREATE FUNCTION tasker.set_event_schema(name text, payload_schema jsonb) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	version integer;
BEGIN
	-- Raises for a schema that is none.
	PERFORM tasker.json_schema_violations(payload_schema, '{}');
	UPDATE tasker.custom_events e
	SET payload_schema = set_event_schema.payload_schema,
		version = e.version + (e.payload_schema IS DISTINCT FROM set_event_schema.payload_schema)::integer
	WHERE e.name = set_event_schema.name
	RETURNING e.version INTO version;
	IF version IS NULL THEN
		RAISE EXCEPTION 'custom event "%" is not in the catalogue', name
			USING ERRCODE = 'undefined_object', HINT = 'Enter it with tasker.register_event(), or as custom_events of a step template.';
	END IF;
	RETURN version;
END
$$;
COMMENT ON FUNCTION tasker.set_event_schema(text, jsonb) IS
'Says which payloads of a custom event are valid, by a JSON Schema of draft 4, 6 or 7; NULL: any object. Returns the version of the payload, which grows with each other schema. What was published before stays. Errors: 42704 unknown event; 22023 invalid schema.';
