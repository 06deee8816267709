-- Tasks that are started by time.

CREATE FUNCTION tasker.next_cron_time(cron text, after timestamptz, time_zone text DEFAULT 'UTC') RETURNS timestamptz
LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tasker_next_cron_time';
COMMENT ON FUNCTION tasker.next_cron_time(text, timestamptz, text) IS
'The first minute after a time that a cron expression names on the clocks of a time zone; NULL where there is none (30 February). The expression is "minute hour day month weekday" with lists, ranges, steps, English names of months and weekdays, or @hourly, @daily, @weekly, @monthly, @yearly; where both day fields are given one of them is enough. Where clocks are put forward, what was meant for the hour that is left out is due when it ends; where they are put back, what was meant for the hour that comes twice is due the first time; with * or a step from it in the hour field every match counts. Errors: 22023 invalid expression, unknown zone, infinite time.';

CREATE TABLE tasker.task_schedules (
	name text PRIMARY KEY
		CONSTRAINT schedule_name_has_1_to_128_characters CHECK (length(name) BETWEEN 1 AND 128),
	cron text NOT NULL,
	time_zone text NOT NULL,
	missed_runs text NOT NULL
		CONSTRAINT schedule_missed_runs_is_known CHECK (missed_runs IN ('skip', 'once', 'all')),
	request jsonb NOT NULL
		CONSTRAINT schedule_request_is_an_object CHECK (jsonb_typeof(request) = 'object'),
	owner text NOT NULL,
	due_at timestamptz,
	created_at timestamptz NOT NULL,
	last_due_at timestamptz,
	last_task_id bigint,
	last_error text,
	last_error_at timestamptz
) WITH (fillfactor = 70);
COMMENT ON TABLE tasker.task_schedules IS 'Tasks that are started by time, again and again.';
COMMENT ON COLUMN tasker.task_schedules.request IS 'What create_tasks() is given each time.';
COMMENT ON COLUMN tasker.task_schedules.owner IS 'The role that made it, in whose name the tasks are created.';
COMMENT ON COLUMN tasker.task_schedules.due_at IS 'When the next one is due; NULL: never again.';
COMMENT ON COLUMN tasker.task_schedules.last_due_at IS 'When the last one that was created was due.';
CREATE INDEX schedules_by_time ON tasker.task_schedules (due_at) WHERE due_at IS NOT NULL;
COMMENT ON INDEX tasker.schedules_by_time IS 'Serves the orchestrator: which schedules are due, and when the next one is.';

CREATE FUNCTION tasker.schedule_task(schedule text, cron text, request jsonb, time_zone text DEFAULT 'UTC', missed_runs text DEFAULT 'once') RETURNS timestamptz
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_schedule_task';
COMMENT ON FUNCTION tasker.schedule_task(text, text, jsonb, text, text) IS
'Creates a task whenever a cron expression says so on the clocks of a time zone (see next_cron_time), from a request as create_tasks takes them, in the name of the role that calls this; returns when the first one is due, NULL if never. The task''s requested_at is the time it was due, its identity_key schedule:NAME:SECONDS, so that no run is started twice. missed_runs says what becomes of runs whose time passed while nobody was there: skip none of those that are a minute late or later, once the last one, all each of them. An existing schedule of the name is replaced by its owner. Errors: 22023 bad argument; 22004 null argument; 42501 the schedule is another role''s, or the role may not call create_requested_task.';

CREATE FUNCTION tasker.unschedule_task(schedule text) RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_unschedule_task';
COMMENT ON FUNCTION tasker.unschedule_task(text) IS
'Ends a schedule; tasks that it has created stay. False if there is none. Error: 42501 it is another role''s.';

CREATE FUNCTION tasker.start_scheduled_tasks(max integer DEFAULT 100) RETURNS integer
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_start_scheduled_tasks';
COMMENT ON FUNCTION tasker.start_scheduled_tasks(integer) IS
'Creates the tasks whose schedules are due, max at most, and returns how many; the background worker does the same by itself when the time comes. A creation that fails is noted in task_schedules.last_error, with a WARNING, and not tried again until the next time. Schedules that another session works on are passed over. Error: 22023 max is not positive.';
