-- Consumers of events: every event once, in the order of cause and effect,
-- with a payload that the catalogue describes.
CREATE TEMP TABLE executor AS SELECT (tasker.register_executor('consumer', '{H}', 0)).executor_id AS id;
SELECT test.template('eventful', 'a; b<-a; c<-a; d<-b,c') > 0 AS registered;

-- What the consumer gets, with names for the tasks and without times.
CREATE FUNCTION pg_temp.next(consumer text, max integer DEFAULT 100)
RETURNS TABLE (event text, step text, attempt text, error text, from_state text, to_state text) LANGUAGE sql AS $$
	SELECT e.name, e.payload ->> 'step_name', e.payload ->> 'attempt_number', e.payload ->> 'error_message', e.payload ->> 'from_state', e.payload ->> 'to_state'
	FROM tasker.read_events(consumer, max) WITH ORDINALITY e(event_key, name, category, task_id, step_id, occurred_at, payload, n) ORDER BY n
$$;

-- ---------- from now on ----------

SELECT tasker.create_event_consumer('all');
SELECT tasker.create_event_consumer('failures', '{*.failed,order.*}');
SELECT * FROM pg_temp.next('all');
SELECT tasker.create_task('eventful', '{"order": 1}', 'test') AS task \gset
SELECT * FROM pg_temp.next('all');
SELECT * FROM pg_temp.next('all');
SELECT tasker.orchestrate() > 0 AS started;
SELECT workflow_step_id AS a, claim FROM tasker.claim_steps((SELECT id FROM executor)) \gset
SELECT tasker.fail_step(:a, :claim, 'no luck', 'NetworkError', retry_after_seconds => 0);
SELECT tasker.orchestrate() > 0 AS promoted;
SELECT test.run_all((SELECT id FROM executor));
-- In pages, and in the end nothing more.
SELECT * FROM pg_temp.next('all', 3);
SELECT * FROM pg_temp.next('all', 3);
SELECT * FROM pg_temp.next('all', 100);
SELECT * FROM pg_temp.next('all');
-- Another consumer sees what it wants to see.
SELECT * FROM pg_temp.next('failures');
SELECT * FROM pg_temp.next('failures');

-- ---------- the commit is the acknowledgement ----------

SELECT tasker.register_event('order.shipped', 'It left the house');
SELECT tasker.set_event_schema('order.shipped', '{"required": ["carrier"], "properties": {"carrier": {"type": "string"}}}');
SELECT tasker.publish_event('order.shipped', '{"carrier": "donkey"}', step_id => :a) > 0 AS published;
BEGIN;
SELECT name, category, task_id = :task AS of_task, step_id = :a AS of_step, payload ->> 'carrier' AS carrier FROM tasker.read_events('failures');
SELECT count(*) FROM tasker.read_events('failures');
ROLLBACK;
SELECT name, payload ->> 'carrier' AS carrier FROM tasker.read_events('failures');
SELECT count(*) FROM tasker.read_events('failures');
-- What its own transaction does comes with a later one.
BEGIN;
SELECT tasker.publish_event('order.shipped', '{"carrier": "ox"}', :task) > 0 AS published;
SELECT count(*) FROM tasker.read_events('failures');
SELECT tasker.publish_event('order.shipped', '{"carrier": "mule"}') > 0 AS published;
COMMIT;
SELECT name, task_id = :task AS of_task, payload ->> 'carrier' AS carrier FROM tasker.read_events('failures');
-- What is rolled back is never read.
BEGIN;
SELECT tasker.publish_event('order.shipped', '{"carrier": "nobody"}') > 0 AS published;
ROLLBACK;
SELECT count(*) FROM tasker.read_events('failures');

-- ---------- from the beginning ----------

SELECT tasker.create_event_consumer('history', from_beginning => true);
CREATE TEMP TABLE history AS SELECT * FROM tasker.read_events('history', 10000);
SELECT count(*) = count(DISTINCT event_key) AS each_once,
	count(*) = (SELECT count(*) FROM tasker.task_transition_log) + (SELECT count(*) FROM tasker.workflow_step_transition_log)
		+ (SELECT count(*) FROM tasker.published_events) AS all_there
FROM history;
-- The order of each owner's log, and no step before its parents.
SELECT count(*) AS out_of_order
FROM (SELECT h.n, lag(h.n) OVER (PARTITION BY e.category, e.owner_id ORDER BY e.sort_key) AS before
	FROM (SELECT event_key, row_number() OVER () AS n FROM history) h JOIN tasker.events e USING (event_key)
	WHERE e.category <> 'custom') o
WHERE before > n;
WITH h AS (SELECT *, row_number() OVER () AS n FROM history)
SELECT count(*) AS before_its_parent
FROM h child JOIN tasker.workflow_step_edges e ON e.to_step_id = child.step_id
WHERE child.name = 'step.execution_requested' AND child.task_id = :task
	AND NOT EXISTS (SELECT FROM h parent WHERE parent.step_id = e.from_step_id AND parent.name = 'step.completed' AND parent.n < child.n);

-- ---------- marks ----------

-- Who is far behind reads from mark to mark; the outcome is the same.
INSERT INTO tasker.log_marks (position, left_at)
SELECT DISTINCT ON (xact) format('%s:%1$s:', xact::text::bigint + 1)::pg_snapshot, now()
FROM (SELECT xact_id AS xact FROM tasker.workflow_step_transition_log ORDER BY xact_id) l ORDER BY xact;
SELECT tasker.create_event_consumer('marked', from_beginning => true);
CREATE FUNCTION pg_temp.read_all(consumer text, page integer) RETURNS TABLE (event_key text, payload jsonb) LANGUAGE plpgsql AS $$
BEGIN
	LOOP
		RETURN QUERY SELECT e.event_key, e.payload FROM tasker.read_events(consumer, page) e;
		EXIT WHEN NOT FOUND;
	END LOOP;
END
$$;
SELECT count(*) = count(DISTINCT event_key) AND bool_and(h.payload IS NOT DISTINCT FROM m.payload) AS the_same
FROM history h FULL JOIN pg_temp.read_all('marked', 7) m USING (event_key);
DELETE FROM tasker.log_marks;

-- ---------- patterns ----------

-- Whoever wants some gets those of the whole, in its order, whichever logs have to be read for them.
CREATE FUNCTION pg_temp.differences(patterns text[]) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	differences bigint;
BEGIN
	PERFORM tasker.create_event_consumer('choosy', patterns, true);
	WITH given AS MATERIALIZED (SELECT event_key, row_number() OVER () AS n FROM pg_temp.read_all('choosy', 7)),
	wanted AS (
		SELECT w.event_key, row_number() OVER (ORDER BY w.n) AS n
		FROM (SELECT h.event_key, h.name, row_number() OVER () AS n FROM history h) w
		WHERE w.name LIKE ANY (SELECT replace(p, '*', '%') FROM unnest(patterns) p))
	SELECT count(*) INTO differences
	FROM given FULL JOIN wanted USING (event_key, n) WHERE given.event_key IS NULL OR wanted.event_key IS NULL;
	PERFORM tasker.drop_event_consumer('choosy');
	RETURN differences;
END
$$;
SELECT patterns, pg_temp.differences(patterns::text[])
FROM unnest('{"{*}","{task.*}","{task.completed}","{step.*}","{step.failed}","{*.failed}","{order.*}","{task.completed,order.*}","{nothing.of.this}"}'::text[]) patterns;

-- ---------- payloads ----------

-- Each event that was fired is as the catalogue says.
SELECT h.name, v.path, v.problem
FROM history h JOIN tasker.event_definitions d ON d.name = h.name
CROSS JOIN LATERAL tasker.json_schema_violations(d.payload_schema, h.payload) v
WHERE d.category <> 'custom'
ORDER BY 1, 2, 3;
-- The view, in SQL and with the rights of whoever asks, says the same.
SELECT h.name, e.name, h.payload, e.payload
FROM history h FULL JOIN tasker.events e USING (event_key)
WHERE (h.name, h.category, h.task_id, h.step_id, h.occurred_at, h.payload)
	IS DISTINCT FROM (e.name, e.category, e.task_id, e.step_id, e.occurred_at, e.payload)
ORDER BY event_key LIMIT 5;
SELECT count(*) AS unknown FROM history h WHERE NOT EXISTS (SELECT FROM tasker.event_definitions d WHERE d.name = h.name);
-- True values.
SELECT jsonb_pretty(payload - '{event_key,timestamp,task_id,step_id,started_at,completed_at,execution_duration,executor_id,role,backoff_seconds}'::text[]) AS failed
FROM tasker.events WHERE task_id = :task AND name = 'step.failed';
SELECT jsonb_pretty(payload - '{event_key,timestamp,task_id,step_id,started_at,completed_at,execution_duration,executor_id,role}'::text[]) AS completed
FROM tasker.events WHERE task_id = :task AND name = 'task.completed';
SELECT name, payload ->> 'step_name' AS step, payload ->> 'attempt_number' AS attempt,
	(payload ->> 'execution_duration')::numeric = extract(epoch FROM (payload ->> 'completed_at')::timestamptz - (payload ->> 'started_at')::timestamptz) AS measured,
	(payload ->> 'execution_duration')::numeric > 0 AS positive
FROM tasker.events WHERE task_id = :task AND name IN ('step.failed', 'step.completed', 'task.completed') ORDER BY occurred_at;
SELECT payload -> 'task_context' AS context FROM tasker.events WHERE task_id = :task AND name = 'task.initialize_requested';
SELECT payload -> 'step_results' AS results FROM tasker.events WHERE task_id = :task AND payload ->> 'step_name' = 'd' AND name = 'step.completed';

-- ---------- consumers ----------

SELECT name, patterns, events_behind, holds_history FROM tasker.stat_event_consumers WHERE name IN ('all', 'failures') ORDER BY name;
-- Created again: the patterns change, the position stays.
SELECT tasker.create_event_consumer('all', '{task.*}', true);
SELECT count(*) FROM tasker.read_events('all');
SELECT tasker.drop_event_consumer('marked'), tasker.drop_event_consumer('marked');
SELECT tasker.drop_event_consumer(name) FROM tasker.event_consumers;

-- Who has found nothing goes on from there; not so who wants something else now, nor who began in the same place.
SELECT tasker.create_event_consumer('choosy', '{nothing.*}'), tasker.create_event_consumer('twin', '{nothing.*,order.*}'),
	tasker.create_event_consumer('double', '{order.*}');
SELECT tasker.publish_event('order.shipped', '{"carrier": "mule"}') > 0 AS published;
SELECT count(*) FROM tasker.read_events('choosy');
SELECT count(*) FROM tasker.read_events('choosy');
SELECT count(*) FROM tasker.read_events('twin');
SELECT tasker.publish_event('order.shipped', '{"carrier": "horse"}') > 0 AS published;
SELECT tasker.create_event_consumer('choosy', '{order.*}');
SELECT payload ->> 'carrier' AS carrier FROM tasker.read_events('choosy', 1);
SELECT payload ->> 'carrier' AS carrier FROM tasker.read_events('choosy', 1);
SELECT count(*) FROM tasker.read_events('choosy', 1);
SELECT payload ->> 'carrier' AS carrier FROM tasker.read_events('double');
SELECT payload ->> 'carrier' AS carrier FROM tasker.read_events('twin');
SELECT count(*) FROM tasker.read_events('twin');
SELECT tasker.publish_event('order.shipped', '{"carrier": "camel"}') > 0 AS published;
SELECT payload ->> 'carrier' AS carrier FROM tasker.read_events('choosy');
SELECT payload ->> 'carrier' AS carrier FROM tasker.read_events('twin');
-- Who looks for long without finding anything still counts as one who reads, and moves on.
SELECT tasker.create_event_consumer('choosy', '{nothing.*}');
SELECT count(*) FROM tasker.read_events('choosy');
SELECT read_at AS before, position AS at FROM tasker.event_consumers WHERE name = 'choosy' \gset
SELECT count(*) FROM tasker.read_events('choosy');
SELECT read_at = :'before' AS not_written_down FROM tasker.event_consumers WHERE name = 'choosy';
SET tasker.clock_offset = '2min';
SELECT count(*) FROM tasker.read_events('choosy');
SELECT read_at > :'before' AS written_down, pg_snapshot_xmax(position) > pg_snapshot_xmax(:'at') AS further FROM tasker.event_consumers WHERE name = 'choosy';
RESET tasker.clock_offset;
SELECT tasker.drop_event_consumer(name) FROM unnest('{choosy,twin,double}'::text[]) name;

-- ---------- subscriptions ----------

SELECT tasker.subscribe('{task.*,order.*}', 'regress_tasker_events');
SELECT tasker.subscribe('{task.completed,order.*}', 'regress_tasker_events');
SELECT tasker.announce_events();
SELECT tasker.create_task('eventful', namespace => 'test') AS task \gset
SELECT test.run_all((SELECT id FROM executor));
SELECT tasker.publish_event('order.shipped', '{"carrier": "donkey"}', :task) > 0 AS published;
SELECT tasker.announce_events();
SELECT tasker.announce_events();
-- It is read by nobody else.
SELECT name = channel AS subscription, patterns, events_behind FROM tasker.stat_event_consumers;
\set VERBOSITY terse
SELECT * FROM tasker.read_events('regress_tasker_events');
SELECT tasker.create_event_consumer('regress_tasker_events');
SELECT tasker.drop_event_consumer('regress_tasker_events');
SELECT tasker.subscribe('{a}', '');
SELECT tasker.subscribe('{a}', repeat('x', 64));
SELECT tasker.subscribe('{}', 'x');
SELECT tasker.subscribe(NULL, 'x');
SELECT tasker.create_event_consumer('taken'), tasker.announce_events(0);
SELECT tasker.create_event_consumer('taken');
SELECT tasker.subscribe('{a}', 'taken');
SELECT tasker.unsubscribe('regress_tasker_events'), tasker.unsubscribe('regress_tasker_events'), tasker.unsubscribe('taken');
SELECT tasker.announce_events();
SELECT tasker.drop_event_consumer('taken');

-- ---------- what is refused ----------

\set VERBOSITY terse
SELECT * FROM tasker.read_events('marked');
SELECT * FROM tasker.read_events(NULL);
SELECT * FROM tasker.read_events('x', 0);
SELECT * FROM tasker.read_events('x', 10001);
SELECT tasker.create_event_consumer('');
SELECT tasker.create_event_consumer(repeat('x', 129));
SELECT tasker.create_event_consumer('x', '{}');
SELECT tasker.create_event_consumer('x', '{a,NULL}');
SELECT tasker.create_event_consumer('x', '{""}');
SELECT tasker.create_event_consumer('x', NULL);
SELECT tasker.publish_event(NULL);
SELECT tasker.publish_event('order.unheard');
SELECT tasker.publish_event('task.completed');
SELECT tasker.publish_event('order.shipped', '[]');
SELECT tasker.publish_event('order.shipped', '{}');
SELECT tasker.publish_event('order.shipped', '{"carrier": 1}');
SELECT tasker.publish_event('order.shipped', jsonb_build_object('carrier', repeat('x', 70000)));
SELECT tasker.publish_event('order.shipped', '{"carrier": "x"}', -1);
SELECT tasker.publish_event('order.shipped', '{"carrier": "x"}', step_id => -1);
SELECT tasker.set_event_schema('order.unheard', '{}');
SELECT tasker.set_event_schema('order.shipped', '{"type": 1}');
\set VERBOSITY default
SELECT tasker.set_event_schema('order.shipped', NULL), tasker.set_event_schema('order.shipped', NULL);
SELECT tasker.publish_event('order.shipped') > 0 AS published;
SELECT version, payload_schema FROM tasker.event_definitions WHERE name = 'order.shipped';
SELECT tasker.unregister_executor(id) FROM executor;
SELECT * FROM tasker.check();
