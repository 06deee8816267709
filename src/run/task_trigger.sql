-- Tasks that are started by events.

CREATE TABLE tasker.task_triggers (
	name text PRIMARY KEY
		CONSTRAINT trigger_name_has_1_to_128_characters CHECK (length(name) BETWEEN 1 AND 128),
	event text NOT NULL
		CONSTRAINT trigger_event_has_1_to_256_bytes CHECK (octet_length(event) BETWEEN 1 AND 256),
	match jsonb NOT NULL
		CONSTRAINT trigger_match_is_an_object CHECK (jsonb_typeof(match) = 'object'),
	request jsonb NOT NULL
		CONSTRAINT trigger_request_is_an_object CHECK (jsonb_typeof(request) = 'object'),
	context_from_payload jsonb NOT NULL
		CONSTRAINT trigger_context_from_payload_is_an_object CHECK (jsonb_typeof(context_from_payload) = 'object'),
	owner text NOT NULL,
	created_at timestamptz NOT NULL,
	tasks_started bigint NOT NULL DEFAULT 0,
	last_task_id bigint,
	last_started_at timestamptz,
	errors bigint NOT NULL DEFAULT 0,
	last_error text,
	last_error_at timestamptz
) WITH (fillfactor = 70);
COMMENT ON TABLE tasker.task_triggers IS 'Which events start which tasks. A row changes with each page of events that starts some.';
COMMENT ON COLUMN tasker.task_triggers.event IS 'The name of the event; * stands for any characters.';
COMMENT ON COLUMN tasker.task_triggers.match IS 'What the payload of the event must contain.';
COMMENT ON COLUMN tasker.task_triggers.request IS 'What create_tasks() is given each time, but for what the event sets.';
COMMENT ON COLUMN tasker.task_triggers.context_from_payload IS 'Keys of the context of the task, each with the key of the payload whose value it gets; * is the whole payload.';
COMMENT ON COLUMN tasker.task_triggers.owner IS 'The role that made it, in whose name the tasks are created.';
COMMENT ON COLUMN tasker.task_triggers.created_at IS 'Events that happened earlier start nothing.';
COMMENT ON COLUMN tasker.task_triggers.errors IS 'Events whose task could not be started.';

CREATE FUNCTION tasker.start_task_on_event(trigger text, event text, request jsonb, match jsonb DEFAULT '{}', context_from_payload jsonb DEFAULT '{"event": "*"}') RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_start_task_on_event';
COMMENT ON FUNCTION tasker.start_task_on_event(text, text, jsonb, jsonb, jsonb) IS
'From now on each event of a name (* stands for any characters) whose payload contains match (@>) starts a task, from a request as create_tasks takes them, in the name of the role that calls this. To the context of the request comes what context_from_payload says: keys of the context, each with the key of the payload whose value it gets, "*" for the whole payload; what the payload lacks is left out. The task''s requested_at is the time of the event, its identity_key trigger:NAME:EVENT_KEY, so that no event starts two. What came of a trigger starts nothing by it again: events of tasks that it has started, itself or through others, are passed over; and no chain has more than eight triggers. An existing trigger of the name is replaced by its owner, and what has not been read yet is judged by the new one. True if it is new. Until the transaction ends nobody reacts to events. Errors: 22023 bad argument; 22004 null argument; 42501 the trigger is another role''s, or the role may not call create_triggered_tasks, or is confined to namespaces; 54000 there are 1000 triggers already.';

CREATE FUNCTION tasker.drop_task_trigger(trigger text) RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_drop_task_trigger';
COMMENT ON FUNCTION tasker.drop_task_trigger(text) IS
'Ends a trigger, also for events that nobody has read yet; tasks that it has started stay. False if there is none. Error: 42501 it is another role''s.';

CREATE FUNCTION tasker.create_triggered_tasks(batch jsonb) RETURNS bigint[]
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_create_triggered_tasks';
COMMENT ON FUNCTION tasker.create_triggered_tasks(jsonb) IS
'create_tasks for the array "requests" of an object, whose other key "triggers" names the triggers that led to it, the last one last: the first rows of the log say so. Returns the ids of those that did not exist before. What triggers call, as the role that made them. Errors as create_tasks; 22023 where the object is none of these.';
