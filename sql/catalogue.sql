-- The catalogue of events against what is fired: by the five shapes of the
-- original with their failures, and by whatever else moves a task or a step.
-- Every event is in the catalogue, as the catalogue says, and nothing is there
-- that is never fired.
CREATE EXTENSION tasker_testing;
SELECT tasker.orchestrate() >= 0 AS settled;
SELECT tasker.create_event_consumer('catalogue');
SELECT tasker.register_event('catalogue.done', 'A step has its results'),
	tasker.set_event_schema('catalogue.done', '{"type": "object"}') AS first_version,
	tasker.set_event_schema('catalogue.done', '{"type": "object", "required": ["attempt"], "additionalProperties": false, "properties": {"attempt": {"type": "integer"}}}') AS second_version;

-- ---------- a driver whose attempts take an hour each ----------

CREATE FUNCTION pg_temp.later(by interval) RETURNS void LANGUAGE sql AS $$
	SELECT set_config('tasker.clock_offset', (setting::integer + extract(epoch FROM by)::integer * 1000)::text, false)
	FROM pg_settings WHERE name = 'tasker.clock_offset'
$$;
CREATE TEMPORARY TABLE claimed (workflow_step_id bigint, claim integer, attempt integer, fails boolean, reported boolean NOT NULL DEFAULT false);
CREATE TEMPORARY TABLE mended (task_id bigint);

-- Claims what there is. A step fails as often as its template says, or always where the context names it until that is mended.
CREATE FUNCTION pg_temp.claim(executor bigint) RETURNS integer LANGUAGE sql AS $$
	WITH c AS (
		INSERT INTO claimed
		SELECT c.workflow_step_id, c.claim, c.attempt, (c.inputs ->> 'hopeless' IS NOT DISTINCT FROM c.step_name AND c.task_id NOT IN (SELECT task_id FROM mended))
			OR c.attempt <= coalesce(c.handler_config ->> 'failure_count', c.handler_config ->> 'timeout_count', '0')::integer
		FROM tasker.claim_steps(executor, 1000) c
		RETURNING true)
	SELECT count(*) FROM c
$$;
-- Reports what was claimed, an event together with each completion.
CREATE FUNCTION pg_temp.report() RETURNS bigint LANGUAGE sql AS $$
	WITH r AS (UPDATE claimed SET reported = true WHERE NOT reported RETURNING *)
	SELECT count(CASE WHEN r.fails THEN tasker.fail_step(r.workflow_step_id, r.claim, 'failed as it should', 'Flaky')
		ELSE tasker.complete_step(r.workflow_step_id, r.claim, '{"done": true}')
			AND tasker.publish_event('catalogue.done', jsonb_build_object('attempt', r.attempt), step_id => r.workflow_step_id) > 0 END)
	FROM r
$$;
-- Each claim, each report and each batch is committed by itself.
CREATE PROCEDURE pg_temp.drive(executor bigint) LANGUAGE plpgsql AS $$
BEGIN
	LOOP
		PERFORM tasker.orchestrate();
		EXIT WHEN pg_temp.claim(executor) = 0;
		COMMIT;
		PERFORM pg_temp.later('1 hour');
		PERFORM pg_temp.report();
		COMMIT;
		PERFORM pg_temp.later('10 minutes');
	END LOOP;
END
$$;

-- ---------- the five shapes ----------

CREATE TEMPORARY TABLE run AS
SELECT shape, tasker_testing.create_workflow(shape) AS task_id FROM tasker_testing.shapes;
INSERT INTO run VALUES ('hopeless, retried', tasker_testing.create_workflow('linear', '{"hopeless": "process_data"}')),
	('hopeless, resolved', tasker_testing.create_workflow('tree', '{"hopeless": "branch_b_setup"}')),
	('hopeless, given up', tasker_testing.create_workflow('diamond', '{"hopeless": "merge_branches"}'));
SELECT executor_id AS executor FROM tasker.register_executor('catalogue', ARRAY(
	SELECT DISTINCT h.name FROM tasker.handlers h JOIN tasker.named_tasks_named_steps s USING (handler_id)
	JOIN tasker.named_tasks t USING (named_task_id) JOIN tasker.task_namespaces n ON n.task_namespace_id = t.task_namespace_id
	WHERE n.name = 'tasker_testing'), 0) \gset
CALL pg_temp.drive(:executor);
SELECT shape, state FROM run JOIN tasker.tasks USING (task_id) ORDER BY shape;

-- What has used up its attempts is taken up by hand.
INSERT INTO mended SELECT task_id FROM run WHERE shape = 'hopeless, retried';
SELECT tasker.retry_task(task_id, 'the cause is mended') FROM run WHERE shape = 'hopeless, retried';
SELECT tasker.resolve_step(test.step(task_id, 'branch_b_setup'), 'set up by hand') FROM run WHERE shape = 'hopeless, resolved';
SELECT tasker.resolve_task(task_id, 'delivered by hand') FROM run WHERE shape = 'hopeless, given up';
CALL pg_temp.drive(:executor);
SELECT shape, state FROM run JOIN tasker.tasks USING (task_id) ORDER BY shape;

-- ---------- whatever else happens ----------

SELECT tasker_testing.register_template('catalogue', 'a(h=Catalogue); b(h=Catalogue)<-a', '{"timeout_seconds": 5400, "skippable": true}') > 0 AS registered;
SELECT executor_id AS executor FROM tasker.register_executor('catalogue', '{Catalogue}', 0) \gset
CREATE FUNCTION pg_temp.task(bypassed text[] DEFAULT '{}') RETURNS bigint LANGUAGE sql AS $$
	SELECT tasker.create_task('catalogue', namespace => 'tasker_testing', bypass_steps => bypassed)
$$;
-- skipped; released; failed for good; timed out; lost with its executor
SELECT pg_temp.task('{b}') AS skipped \gset
SELECT pg_temp.task() AS released \gset
SELECT pg_temp.task() AS final \gset
SELECT pg_temp.task() AS overdue \gset
SELECT pg_temp.task() AS lost \gset
SELECT tasker.orchestrate() > 0 AS orchestrated, pg_temp.claim(:executor) AS claimed;
SELECT pg_temp.later('1 hour');
SELECT tasker.release_step(test.step(:released, 'a'), test.claim(:released, 'a')),
	tasker.fail_step(test.step(:final, 'a'), test.claim(:final, 'a'), 'no such order', 'NotFound', retryable => false),
	tasker.complete_step(test.step(:skipped, 'a'), test.claim(:skipped, 'a'));
SELECT pg_temp.later('1 hour');
SELECT tasker.orchestrate() > 0 AS timed_out;
SELECT pg_temp.later('10 minutes');
SELECT tasker.orchestrate() > 0 AS promoted, pg_temp.claim(:executor) AS claimed;
SELECT pg_temp.later('1 hour');
SELECT tasker.unregister_executor(:executor);
SELECT tasker.orchestrate() > 0 AS taken_back;
SELECT executor_id AS executor FROM tasker.register_executor('catalogue', '{Catalogue}', 0) \gset
UPDATE claimed SET reported = true;
CALL pg_temp.drive(:executor);
-- cancelled: pending, in progress, complete, resolved; put back
SELECT pg_temp.task() AS pending \gset
SELECT tasker.cancel_task(:pending, 'not wanted');
SELECT pg_temp.task() AS running \gset
SELECT tasker.orchestrate() > 0 AS orchestrated, pg_temp.claim(:executor) AS claimed;
SELECT pg_temp.later('1 hour');
SELECT tasker.cancel_task(:running, 'too late');
UPDATE claimed SET reported = true;
SELECT tasker.cancel_task(task_id, 'delivered, but sent back') FROM run WHERE shape IN ('linear', 'hopeless, given up') ORDER BY shape;
SELECT pg_temp.task() AS again \gset
SELECT tasker.orchestrate() > 0 AS orchestrated;
SELECT tasker.reenqueue_task(:again);
CALL pg_temp.drive(:executor);
-- what only somebody's own coordinator does
SELECT pg_temp.task() AS by_hand \gset
SELECT tasker.transition_step(test.step(:by_hand, 'a'), 'error', '{"error_message": "refused before it began"}') > 0 AS step_failed,
	tasker.transition_task(:by_hand, 'error', '{"reason": "refused"}') > 0 AS task_failed;
SELECT tasker.orchestrate() >= 0 AS orchestrated;

-- ---------- what was fired ----------

CREATE TEMPORARY TABLE fired AS
SELECT row_number() OVER () AS n, e.* FROM tasker.read_events('catalogue', 10000) e;
SELECT count(*) > 500 AS hundreds, count(*) = count(DISTINCT event_key) AS each_once, count(*) = count(DISTINCT payload ->> 'event_key') AS by_payload_too FROM fired;
-- nothing that the catalogue does not know, nothing in it that was not fired
SELECT DISTINCT name, category FROM fired f WHERE NOT EXISTS (SELECT FROM tasker.event_definitions d WHERE d.name = f.name AND d.category = f.category);
SELECT name FROM tasker.event_definitions d WHERE category <> 'custom' AND NOT EXISTS (SELECT FROM fired f WHERE f.name = d.name);
SELECT owner, from_state, to_state FROM tasker.allowed_transitions t
WHERE NOT EXISTS (SELECT FROM fired f WHERE f.category = t.owner
	AND f.payload -> 'from_state' IS NOT DISTINCT FROM coalesce(to_jsonb(t.from_state), 'null') AND f.payload -> 'to_state' = to_jsonb(t.to_state));
-- payloads are as the catalogue says, key by key
SELECT f.name, v.path, v.problem FROM fired f JOIN tasker.event_definitions d USING (name)
CROSS JOIN LATERAL tasker.json_schema_violations(d.payload_schema,
	CASE d.category WHEN 'custom' THEN f.payload - '{event_type,event_key,event_version,timestamp,task_id,step_id,role}'::text[] ELSE f.payload END) v;
SELECT DISTINCT f.name, k.key FROM fired f JOIN tasker.event_definitions d USING (name)
CROSS JOIN LATERAL (
	(SELECT jsonb_object_keys(f.payload) EXCEPT SELECT jsonb_object_keys(d.payload_schema -> 'properties'))
	UNION ALL (SELECT jsonb_object_keys(d.payload_schema -> 'properties') EXCEPT SELECT jsonb_object_keys(f.payload))) k (key)
WHERE d.category <> 'custom';
-- no key that is null wherever it is documented
SELECT string_agg(k.key, ', ' ORDER BY k.key) AS never_filled FROM tasker.event_payload_keys() k
WHERE NOT EXISTS (SELECT FROM fired f WHERE f.category <> 'custom' AND jsonb_typeof(f.payload -> k.key) <> 'null');
SELECT k.events, k.key FROM tasker.event_payload_keys() k, unnest(k.events) e (name)
WHERE NOT EXISTS (SELECT FROM fired f WHERE f.name = e.name AND jsonb_typeof(f.payload -> k.key) <> 'null');
-- versions, times and owners: in the payload as beside it
SELECT f.name FROM fired f JOIN tasker.event_definitions d USING (name)
WHERE f.payload ->> 'event_type' <> f.name OR f.payload ->> 'event_key' <> f.event_key OR (f.payload ->> 'event_version')::integer <> d.version
	OR (f.payload ->> 'timestamp')::timestamptz <> f.occurred_at OR (f.payload ->> 'task_id')::bigint IS DISTINCT FROM f.task_id OR (f.payload ->> 'step_id')::bigint IS DISTINCT FROM f.step_id;
SELECT name, version FROM tasker.event_definitions WHERE name = 'catalogue.done';
-- the view says the same
SELECT count(*) AS differing FROM (
	(SELECT event_key, name, category, task_id, step_id, occurred_at, payload FROM fired EXCEPT SELECT event_key, name, category, task_id, step_id, occurred_at, payload FROM tasker.events)
	UNION ALL
	(SELECT event_key, name, category, task_id, step_id, occurred_at, payload FROM tasker.events WHERE task_id IN (SELECT task_id FROM run)
	EXCEPT SELECT event_key, name, category, task_id, step_id, occurred_at, payload FROM fired)) d;

-- ---------- true durations ----------

-- Of every attempt, to the microsecond what lies between claim and end in the log; by the clock that was moved, hours.
SELECT f.name, f.payload ->> 'reason' AS reason, f.payload ->> 'exception_class' AS exception_class, round((f.payload ->> 'execution_duration')::numeric / 60) AS minutes, count(*),
	bool_and((f.payload ->> 'started_at')::timestamptz = c.created_at AND (f.payload ->> 'completed_at')::timestamptz = f.occurred_at
		AND (f.payload ->> 'execution_duration')::numeric = extract(epoch FROM f.occurred_at - c.created_at)) AS exact,
	bool_and((f.payload ->> 'attempt_number')::integer = k.attempt) AS attempts_as_claimed
FROM fired f
JOIN claimed k ON k.workflow_step_id = f.step_id AND k.claim = split_part(f.event_key, ':', 3)::integer - 10
JOIN tasker.workflow_step_transition_log c ON c.workflow_step_id = f.step_id AND c.sort_key = k.claim
WHERE f.payload ->> 'from_state' = 'in_progress'
GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4;
SELECT count(*) = (SELECT count(*) FROM claimed) AS every_claim,
	bool_and((payload ->> 'attempt_number')::integer = k.attempt AND payload -> 'execution_duration' = 'null' AND (payload ->> 'started_at')::timestamptz = occurred_at) AS begun
FROM fired f JOIN claimed k ON k.workflow_step_id = f.step_id AND k.claim = split_part(f.event_key, ':', 3)::integer
WHERE f.name = 'step.execution_requested';
-- An hour for each level and each retry on the longest way, ten minutes between two.
SELECT shape, f.name, round((payload ->> 'execution_duration')::numeric / 60) AS minutes,
	(payload ->> 'execution_duration')::numeric = extract(epoch FROM f.occurred_at - (SELECT max(l.created_at) FROM tasker.task_transition_log l
		WHERE l.task_id = f.task_id AND l.to_state = 'in_progress' AND l.created_at <= f.occurred_at)) AS exact,
	payload ->> 'total_steps' AS steps, payload ->> 'completed_steps' AS completed, payload ->> 'failed_steps' AS failed, payload -> 'error_steps' AS error_steps
FROM run JOIN fired f USING (task_id)
WHERE f.name IN ('task.completed', 'task.failed', 'task.resolved_manually', 'task.cancelled') ORDER BY shape, f.n;
-- nothing that is not over has lasted
SELECT DISTINCT name FROM fired
WHERE category <> 'custom' AND (payload -> 'execution_duration' = 'null') <> (payload -> 'completed_at' = 'null' OR payload -> 'started_at' = 'null');
SELECT count(*) AS out_of_order FROM fired c JOIN tasker.workflow_step_edges e ON e.to_step_id = c.step_id
WHERE c.name = 'step.execution_requested'
	AND NOT EXISTS (SELECT FROM fired p WHERE p.step_id = e.from_step_id AND p.name IN ('step.completed', 'step.resolved_manually') AND p.n < c.n);

SELECT tasker.drop_event_consumer('catalogue');
RESET tasker.clock_offset;
SELECT * FROM tasker.check();
DROP EXTENSION tasker_testing;
