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
