-- Tasks started by events; the worker reacts to them by itself.
SET TimeZone = 'UTC';
SELECT test.template('triggered', 'a') > 0 AS registered;
SELECT tasker.register_event('parcel.shipped');
SELECT tasker.register_event('parcel.lost');
CREATE VIEW pg_temp.started AS
SELECT regexp_replace(t.identity_key, '\d+', 'N', 'g') AS key, t.context - 'event' AS context, t.context -> 'event' ->> 'event_type' AS event,
	t.requested_at <= tasker.now() AS asked_for, l.role = session_user AS mine, l.metadata
FROM tasker.tasks t JOIN tasker.named_tasks n USING (named_task_id) JOIN tasker.task_transition_log l ON l.task_id = t.task_id AND l.sort_key = 10
WHERE n.name = 'triggered' ORDER BY t.task_id;
CREATE VIEW pg_temp.triggers AS
SELECT name, tasks_started AS started, last_task_id IS NOT NULL AS has_task, errors,
	regexp_replace(regexp_replace(last_error, '\d+', 'N', 'g'), 'role "[^"]*"', 'role ...') AS last_error
FROM tasker.task_triggers ORDER BY name COLLATE "C";

-- ---------- what is published from now on ----------

-- Nobody reacts, and nothing is read.
SELECT tasker.react_to_events();
SELECT tasker.publish_event('parcel.lost', '{"parcel": 0}') > 0 AS published;
SELECT tasker.start_task_on_event('search', 'parcel.lost', '{"name": "triggered", "namespace": "test", "context": {"kind": "search"}}');
SELECT tasker.react_to_events();
SELECT tasker.publish_event('parcel.lost', '{"parcel": 1}') > 0 AS published;
SELECT tasker.publish_event('parcel.shipped', '{"parcel": 2}') > 0 AS published;
SELECT tasker.react_to_events();
SELECT tasker.react_to_events();
SELECT * FROM pg_temp.started;
SELECT * FROM pg_temp.triggers;
SELECT name, patterns, events_behind, holds_history FROM tasker.stat_event_consumers WHERE name = 'tasker.reactor';
-- The first event of the task tells why.
SELECT name, payload ->> 'reason' AS reason FROM tasker.events WHERE task_id = (SELECT last_task_id FROM tasker.task_triggers);

-- ---------- some of them, and what the task gets ----------

SELECT tasker.start_task_on_event('heavy', 'parcel.*', '{"name": "triggered", "namespace": "test", "context": {"kind": "heavy", "parcel": "unknown"}}',
	'{"weight": {"class": "heavy"}}', '{"parcel": "parcel", "lacking": "lacking", "of": "weight"}');
SELECT tasker.publish_event('parcel.shipped', '{"parcel": 3, "weight": {"class": "heavy", "kg": 31}}') > 0 AS published;
SELECT tasker.publish_event('parcel.shipped', '{"parcel": 4, "weight": {"class": "light"}}') > 0 AS published;
SELECT tasker.publish_event('parcel.lost', '{"parcel": 5, "weight": {"class": "heavy"}}') > 0 AS published;
SELECT tasker.publish_event('parcel.lost', '{"weight": {"class": "heavy"}}') > 0 AS published;
SELECT patterns FROM tasker.stat_event_consumers WHERE name = 'tasker.reactor';
-- In pages, too.
SELECT tasker.react_to_events(2);
SELECT tasker.react_to_events(2);
SELECT tasker.react_to_events(2);
SELECT key, context, event FROM pg_temp.started OFFSET 1;
SELECT * FROM pg_temp.triggers;
SELECT patterns FROM tasker.stat_event_consumers WHERE name = 'tasker.reactor';
-- What comes to nothing starts nothing.
BEGIN;
SELECT tasker.publish_event('parcel.lost', '{"parcel": 6}') > 0 AS published;
ROLLBACK;
BEGIN;
SELECT tasker.publish_event('parcel.lost', '{"parcel": 7}') > 0 AS published;
SELECT tasker.react_to_events();
COMMIT;
BEGIN;
SELECT tasker.react_to_events();
SELECT count(*) FROM pg_temp.started WHERE context ->> 'kind' = 'search';
ROLLBACK;
SELECT tasker.react_to_events();
SELECT count(*) FROM pg_temp.started WHERE context ->> 'kind' = 'search';

-- ---------- no event twice ----------

-- As after a restore, everything is read again.
UPDATE tasker.event_consumers SET position = '3:3:' WHERE name = 'tasker.reactor';
SELECT tasker.react_to_events(100000) > 5 AS read_again;
SELECT count(*) FROM pg_temp.started;
SELECT * FROM pg_temp.triggers;
-- What happened before a trigger was made starts nothing; the clock decides.
SELECT set_config('tasker.clock_offset', (-3600000)::text, false) IS NOT NULL AS an_hour_ago;
SELECT tasker.publish_event('parcel.lost', '{"parcel": 8}') > 0 AS published;
RESET tasker.clock_offset;
SELECT tasker.react_to_events();
SELECT count(*) FROM pg_temp.started;

-- ---------- what fails is passed over ----------

SELECT test.template('doomed', 'a') > 0 AS registered;
SELECT tasker.start_task_on_event('doomed', 'parcel.shipped', '{"name": "doomed", "namespace": "test"}');
SELECT tasker.start_task_on_event('tight', 'parcel.shipped', '{"name": "tight", "namespace": "test"}', context_from_payload => '{"parcel": "parcel"}');
SELECT tasker.register_task_template('{"name": "tight", "namespace_name": "test", "version": "1.0.0",
	"schema": {"type": "object", "properties": {"parcel": {"type": "integer"}}, "additionalProperties": false},
	"step_templates": [{"name": "a", "handler_class": "H"}]}') > 0 AS registered;
SELECT tasker.deprecate_task_template('doomed', 'test') IS NOT NULL AS deprecated;
SELECT count(tasker.publish_event('parcel.shipped', jsonb_build_object('parcel', CASE WHEN i % 50 = 0 THEN '"none"' ELSE to_jsonb(i) END))) FROM generate_series(1, 150) i;
\set VERBOSITY terse
SET client_min_messages = error;
SELECT tasker.react_to_events();
RESET client_min_messages;
SELECT * FROM pg_temp.triggers;
SELECT count(*), count(*) FILTER (WHERE jsonb_typeof(context -> 'parcel') = 'number') AS numbers
FROM tasker.tasks JOIN tasker.named_tasks n USING (named_task_id) WHERE n.name = 'tight';
SELECT tasker.drop_task_trigger('doomed'), tasker.drop_task_trigger('doomed'), tasker.drop_task_trigger('tight');

-- ---------- what came of a trigger ----------

-- Works and reacts until nothing is left to do.
CREATE TEMP TABLE executor AS SELECT (tasker.register_executor('triggered', '{H}', 0)).executor_id AS id;
CREATE PROCEDURE pg_temp.live() LANGUAGE plpgsql AS $$
DECLARE
	moved bigint;
BEGIN
	LOOP
		PERFORM tasker.orchestrate();
		SELECT count(tasker.complete_step(s.workflow_step_id, s.claim)) INTO moved FROM tasker.claim_steps((SELECT id FROM executor), 1000) s;
		COMMIT;
		moved := moved + tasker.react_to_events();
		COMMIT;
		EXIT WHEN moved = 0;
	END LOOP;
END
$$;
CALL pg_temp.live();
SELECT tasker.start_task_on_event('audit', 'task.*', '{"name": "triggered", "namespace": "test"}', '{"to_state": "complete"}', '{}');
SELECT tasker.start_task_on_event('review', 'task.completed', '{"name": "triggered", "namespace": "test"}', '{"task_name": "triggered"}', '{}');
SELECT tasker.create_task('triggered', '{}', 'test') IS NOT NULL AS created;
CALL pg_temp.live();
SELECT metadata FROM pg_temp.started WHERE key ~ 'audit|review';
SELECT tasker.drop_task_trigger('audit'), tasker.drop_task_trigger('review');
-- A chain of others ends, too.
SELECT count(test.template('link' || i, 'a')) FROM generate_series(1, 11) i;
SELECT count(tasker.start_task_on_event('link ' || chr(64 + i), 'task.completed', jsonb_build_object('name', 'link' || i + 1, 'namespace', 'test'),
	jsonb_build_object('task_name', 'link' || i), '{}')) FROM generate_series(1, 10) i;
SELECT tasker.create_task('link1', '{}', 'test') IS NOT NULL AS created;
SET client_min_messages = error;
CALL pg_temp.live();
RESET client_min_messages;
SELECT * FROM pg_temp.triggers WHERE name LIKE 'link%';
SELECT count(tasker.drop_task_trigger(name)) FROM tasker.task_triggers WHERE name LIKE 'link%';

-- ---------- in the name of who made it ----------

CREATE ROLE regress_tasker_trigger;
GRANT USAGE ON SCHEMA tasker TO regress_tasker_trigger;
GRANT EXECUTE ON FUNCTION tasker.start_task_on_event, tasker.drop_task_trigger TO regress_tasker_trigger;
SET ROLE regress_tasker_trigger;
SELECT tasker.start_task_on_event('theirs', 'parcel.lost', '{"name": "triggered", "namespace": "test"}');
RESET ROLE;
GRANT EXECUTE ON FUNCTION tasker.create_triggered_tasks TO regress_tasker_trigger;
SET ROLE regress_tasker_trigger;
SELECT tasker.start_task_on_event('theirs', 'parcel.lost', '{"name": "triggered", "namespace": "test", "context": {"kind": "theirs"}}');
SELECT tasker.start_task_on_event('search', 'parcel.lost', '{}');
SELECT tasker.drop_task_trigger('search');
RESET ROLE;
SELECT tasker.start_task_on_event('theirs', 'parcel.lost', '{"name": "triggered", "namespace": "test"}');
SELECT tasker.publish_event('parcel.lost', '{"parcel": 9}') > 0 AS published;
SELECT tasker.react_to_events();
SELECT mine, context, event FROM pg_temp.started WHERE context ->> 'kind' = 'theirs';
REVOKE EXECUTE ON FUNCTION tasker.create_triggered_tasks FROM regress_tasker_trigger;
SELECT tasker.publish_event('parcel.lost', '{"parcel": 10}') > 0 AS published;
SET client_min_messages = error;
SELECT tasker.react_to_events();
-- Confined to a namespace it does not see any more what happens in others.
GRANT EXECUTE ON FUNCTION tasker.create_triggered_tasks TO regress_tasker_trigger;
SELECT tasker.grant_producer('regress_tasker_trigger', 'test');
SELECT tasker.publish_event('parcel.lost', '{"parcel": 11}') > 0 AS published;
SELECT tasker.react_to_events();
SELECT * FROM pg_temp.triggers WHERE name IN ('search', 'theirs');
SET ROLE regress_tasker_trigger;
SELECT tasker.start_task_on_event('more', 'parcel.lost', '{"name": "triggered", "namespace": "test"}');
RESET ROLE;
SELECT tasker.drop_task_trigger('theirs');
SELECT tasker.revoke_role('regress_tasker_trigger', 'producer', 'test');
GRANT USAGE ON SCHEMA tasker TO regress_tasker_trigger;
GRANT EXECUTE ON FUNCTION tasker.start_task_on_event, tasker.create_triggered_tasks TO regress_tasker_trigger;
-- Whose owner is gone.
SET ROLE regress_tasker_trigger;
SELECT tasker.start_task_on_event('orphan', 'parcel.lost', '{"name": "triggered", "namespace": "test"}');
RESET ROLE;
DROP OWNED BY regress_tasker_trigger;
DROP ROLE regress_tasker_trigger;
SELECT tasker.publish_event('parcel.lost', '{"parcel": 12}') > 0 AS published;
SELECT tasker.react_to_events();
RESET client_min_messages;
SELECT * FROM pg_temp.triggers WHERE name IN ('search', 'orphan');

-- ---------- a database from elsewhere ----------

CREATE TEMP TABLE home AS SELECT system_identifier AS id FROM tasker.orchestrator_checkpoint;
UPDATE tasker.orchestrator_checkpoint SET system_identifier = 1;
SELECT tasker.publish_event('parcel.lost', '{"parcel": 13}') > 0 AS published;
SELECT tasker.react_to_events();
UPDATE tasker.orchestrator_checkpoint SET system_identifier = (SELECT id FROM home);
SELECT tasker.drop_task_trigger('orphan');
SELECT tasker.react_to_events();

-- ---------- what is refused ----------

SELECT tasker.start_task_on_event(NULL, 'a', '{}');
SELECT tasker.start_task_on_event('', 'a', '{}');
SELECT tasker.start_task_on_event(repeat('x', 129), 'a', '{}');
SELECT tasker.start_task_on_event('x', NULL, '{}');
SELECT tasker.start_task_on_event('x', '', '{}');
SELECT tasker.start_task_on_event('x', repeat('a', 257), '{}');
SELECT tasker.start_task_on_event('x', 'a', '[]');
SELECT tasker.start_task_on_event('x', 'a', '{"identity_key": "mine"}');
SELECT tasker.start_task_on_event('x', 'a', '{"context": []}');
SELECT tasker.start_task_on_event('x', 'a', '{}', '[]');
SELECT tasker.start_task_on_event('x', 'a', '{}', context_from_payload => '"a"');
SELECT tasker.start_task_on_event('x', 'a', '{}', context_from_payload => '{"a": {"b": "c"}}');
SELECT tasker.react_to_events(0);
SELECT tasker.react_to_events(NULL);
SELECT tasker.create_triggered_tasks('[]');
SELECT tasker.create_triggered_tasks('{"requests": []}');
SELECT tasker.create_triggered_tasks('{"requests": [1], "triggers": ["x"]}');
SELECT tasker.create_event_consumer('tasker.reactor');
SELECT tasker.drop_event_consumer('tasker.reactor');
SELECT tasker.read_events('tasker.reactor');
SELECT tasker.subscribe('{*}', 'tasker.reactor');

-- ---------- side by side, and nobody any more ----------

SELECT tasker.create_event_consumer('beside', '{parcel.*}');
SELECT tasker.subscribe('{parcel.*}', 'parcels');
SELECT tasker.publish_event('parcel.lost', '{"parcel": 14}') > 0 AS published;
SELECT tasker.react_to_events(), (SELECT count(*) FROM tasker.read_events('beside')), tasker.announce_events();
SELECT name, events_behind FROM tasker.stat_event_consumers WHERE name IN ('tasker.reactor', 'beside', 'parcels') ORDER BY name COLLATE "C";
SELECT tasker.unsubscribe('parcels'), tasker.drop_event_consumer('beside');
SELECT tasker.drop_task_trigger(name) FROM tasker.task_triggers;
-- What nobody waits for holds no history.
SELECT count(*) FROM tasker.event_consumers WHERE name = 'tasker.reactor';
SELECT tasker.react_to_events();
SELECT count(*) FROM tasker.event_consumers WHERE name = 'tasker.reactor';
CALL pg_temp.live();
SELECT tasker.unregister_executor((SELECT id FROM executor)) IS NOT NULL AS gone;
