-- Steps that wait for a time or for an event: what the template says, resolved
-- against the context of the task when the wait begins.

CREATE TABLE tasker.step_waits (
	workflow_step_id bigint PRIMARY KEY,
	sort_key integer NOT NULL,
	since timestamptz NOT NULL,
	until timestamptz,
	event_name text,
	match jsonb,
	of_task bigint,
	events_since timestamptz,
	namespaces integer[],
	event jsonb,
	CONSTRAINT step_waits_for_time_or_event CHECK ((event_name IS NULL) = (match IS NULL) AND (event_name IS NOT NULL OR until IS NOT NULL))
) WITH (autovacuum_vacuum_scale_factor = 0.1, autovacuum_vacuum_cost_delay = 0);
COMMENT ON TABLE tasker.step_waits IS
'A row for each step that waits now. Written by the orchestrator in the transaction that moves the step to in_progress, and removed in the one that ends the wait; where somebody else has moved the step, by the batch that reads of it. See waiting_steps.';
COMMENT ON COLUMN tasker.step_waits.sort_key IS 'The transition to in_progress; once the step has another one, the row means nothing.';
COMMENT ON COLUMN tasker.step_waits.until IS 'When it ends: of a sleep its end, of an event the time limit. NULL: no limit.';
COMMENT ON COLUMN tasker.step_waits.event_name IS 'The event that is awaited; NULL: it sleeps.';
COMMENT ON COLUMN tasker.step_waits.match IS 'What the payload must have under these keys.';
COMMENT ON COLUMN tasker.step_waits.of_task IS 'The task that the event must be of (own_task); NULL: any.';
COMMENT ON COLUMN tasker.step_waits.events_since IS 'Earlier events do not count.';
COMMENT ON COLUMN tasker.step_waits.namespaces IS 'The event must be of a task in one of these; NULL: of any, or of none.';
COMMENT ON COLUMN tasker.step_waits.event IS 'The event that has come, until the orchestrator completes the step with it.';
CREATE INDEX step_waits_by_match ON tasker.step_waits (event_name, jsonb_hash_extended(match, coalesce(of_task, 0))) WHERE event_name IS NOT NULL;
COMMENT ON INDEX tasker.step_waits_by_match IS 'Serves react_to_events(): who waits for an event.';

CREATE VIEW tasker.waiting_steps AS
SELECT s.task_id, w.workflow_step_id, n.name AS step_name, w.sort_key AS claim,
	CASE WHEN w.event_name IS NULL THEN 'time' ELSE 'event' END AS waits_for,
	w.since, w.until, w.event_name, w.match, w.of_task IS NOT NULL AS own_task
FROM tasker.step_waits w
JOIN tasker.workflow_steps s ON s.workflow_step_id = w.workflow_step_id
JOIN tasker.named_steps n ON n.named_step_id = s.named_step_id
WHERE s.state = 'in_progress' AND s.sort_key = w.sort_key;
COMMENT ON VIEW tasker.waiting_steps IS
'What each waiting step waits for (time or event), since when, and until when: the end of its sleep or of its patience, NULL where it has none. Whoever must end a wait by hand has the claim for complete_step() here.';
COMMENT ON COLUMN tasker.waiting_steps.match IS 'What the payload of the event must have under these keys.';
COMMENT ON COLUMN tasker.waiting_steps.own_task IS 'Only events of the step''s own task count.';

-- Values come from contexts, which anybody may have written: whatever is wrong
-- with one is the result, not an error.
CREATE FUNCTION tasker.resolve_wait(waits_for jsonb, context jsonb, task_id bigint, at timestamptz,
	OUT until timestamptz, OUT event_name text, OUT match jsonb, OUT of_task bigint, OUT problem text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET timezone = 'UTC'
SET datestyle = 'ISO, YMD'
AS $$
DECLARE
	sleep jsonb := waits_for -> 'sleep';
	awaited jsonb := waits_for -> 'await_event';
	key text := sleep ->> 'until_context';
	pair record;
	value jsonb;
BEGIN
	IF sleep ? 'for' THEN
		until := at + (sleep ->> 'for')::interval;
		RETURN;
	ELSIF sleep IS NOT NULL THEN
		IF jsonb_typeof(context -> key) IS DISTINCT FROM 'string' THEN
			problem := format('the context has %s under "%s", not a time as a string', coalesce('a value of type ' || jsonb_typeof(context -> key), 'nothing'), key);
			RETURN;
		END IF;
		BEGIN
			until := (context ->> key)::timestamptz;
		EXCEPTION WHEN data_exception THEN
			problem := format('the context has no time under "%s": %s', key, SQLERRM);
			RETURN;
		END;
		IF NOT isfinite(until) THEN
			problem := format('the context has no time under "%s", but "%s"', key, until);
		END IF;
		RETURN;
	END IF;
	event_name := awaited ->> 'name';
	match := '{}';
	FOR pair IN SELECT m.key, m.value FROM jsonb_each(coalesce(awaited -> 'match', '{}')) m ORDER BY m.key LOOP
		IF jsonb_typeof(pair.value) = 'object' THEN
			value := pair.value -> 'value';
		ELSE
			key := pair.value #>> '{}';
			value := context -> key;
			IF coalesce(jsonb_typeof(value), 'null') NOT IN ('string', 'number', 'boolean') THEN
				problem := format('the context has %s under "%s", with which "%s" of event "%s" cannot be compared',
					coalesce('a value of type ' || jsonb_typeof(value), 'nothing'), key, pair.key, event_name);
				RETURN;
			END IF;
		END IF;
		IF pair.key = 'task_id' AND value::text !~ '^\d{1,18}$' THEN
			problem := format('%s is no number of a task, by which event "%s" could be told', value, event_name);
			RETURN;
		END IF;
		match := match || jsonb_build_object(pair.key, value);
	END LOOP;
	IF awaited -> 'own_task' = 'true' THEN
		of_task := task_id;
	END IF;
	IF awaited ? 'timeout_seconds' THEN
		until := at + make_interval(secs => (awaited ->> 'timeout_seconds')::double precision);
	END IF;
END
$$;
COMMENT ON FUNCTION tasker.resolve_wait(jsonb, jsonb, bigint, timestamptz) IS
'What a step waits for that begins to wait now: waits_for of its template with the values of the context. A time without a zone is of UTC. problem says what is wrong with a value; then nothing else counts. For the orchestrator.';
