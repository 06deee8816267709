-- Steps that wait for an event: one that comes, one that was there, one that
-- never comes.
CREATE TEMP TABLE executor AS SELECT (tasker.register_executor('await event', '{H}', 0)).executor_id AS id;
SELECT tasker.register_event('payment.received', 'Money came in'), tasker.register_event('shop.opened');

-- Registers namespace test, template NAME: a, then wait, which waits, then b.
CREATE FUNCTION pg_temp.waiter(name text, event jsonb, options jsonb DEFAULT '{}', whole jsonb DEFAULT '{}') RETURNS boolean LANGUAGE sql AS $$
	SELECT tasker.register_task_template(jsonb_build_object('name', name, 'namespace_name', 'test', 'version', '1.0.0', 'step_templates',
		jsonb_build_array('{"name": "a", "handler_class": "H"}'::jsonb,
			jsonb_build_object('name', 'wait', 'await_event', event, 'depends_on_step', 'a') || options,
			'{"name": "b", "handler_class": "H", "depends_on_step": "wait"}'::jsonb)) || whole) > 0
$$;
CREATE FUNCTION pg_temp.go() RETURNS integer LANGUAGE sql AS $$ SELECT test.run_all((SELECT id FROM executor)) $$;
-- What a step has got, without ids and times.
CREATE FUNCTION pg_temp.got(task bigint) RETURNS jsonb LANGUAGE sql AS $$
	SELECT (s.results - '{event_key,occurred_at}'::text[]) || CASE WHEN s.results ? 'payload' THEN
		jsonb_build_object('payload', (s.results -> 'payload') - '{event_key,timestamp,role,task_id,step_id,event_version,event_type}'::text[]) ELSE '{}' END
	FROM tasker.workflow_steps s WHERE s.workflow_step_id = test.step(task, 'wait')
$$;

-- ---------- an event that comes ----------

SELECT pg_temp.waiter('paid', '{"name": "payment.received", "match": {"order_id": "order", "currency": {"value": "EUR"}}}');
SELECT tasker.create_task('paid', '{"order": 1}', 'test') AS one \gset
SELECT tasker.create_task('paid', '{"order": 2}', 'test') AS two \gset
SELECT tasker.create_task('paid', '{"order": 2}', 'test') AS two_too \gset
SELECT pg_temp.go();
SELECT step_name, waits_for, until, event_name, match, own_task FROM tasker.waiting_steps ORDER BY workflow_step_id;
SELECT about, regexp_replace(reason, '\d{4}-\d\d-\d\d \d\d:\d\d:\d\d', 'TIME', 'g') AS reason FROM tasker.why(:one) WHERE about LIKE 'step%';
SELECT tasker.react_to_events();
SELECT tasker.publish_event('payment.received', '{"order_id": 2, "currency": "USD"}') > 0,
	tasker.publish_event('payment.received', '{"order_id": "2", "currency": "EUR"}') > 0,
	tasker.publish_event('payment.received', '{"currency": "EUR"}') > 0,
	tasker.publish_event('shop.opened', '{"order_id": 2, "currency": "EUR"}') > 0;
SELECT tasker.react_to_events(), tasker.orchestrate();
-- It ends all who wait for it, and the first that comes is the one.
SELECT tasker.publish_event('payment.received', '{"order_id": 2.0, "currency": "EUR", "amount": 10}') > 0;
SELECT tasker.publish_event('payment.received', '{"order_id": 2, "currency": "EUR", "amount": 11}') > 0;
SELECT tasker.react_to_events();
SELECT count(*) FROM tasker.step_waits WHERE event IS NOT NULL;
SELECT * FROM tasker.check();
SELECT pg_temp.go();
SELECT tasker.task_state(:one), tasker.task_state(:two), tasker.task_state(:two_too);
SELECT pg_temp.got(:two), pg_temp.got(:two_too);
SELECT results ->> 'event_key' ~ '^event:\d+$' AS has_key, (results ->> 'occurred_at')::timestamptz <= now() AS has_time
FROM tasker.workflow_steps WHERE workflow_step_id = test.step(:two, 'wait');
SELECT * FROM test.history(:two);
SELECT tasker.react_to_events();

-- ---------- an event that was there ----------

-- What was published before the task was created is not its event.
SELECT tasker.publish_event('payment.received', '{"order_id": 3, "currency": "EUR", "amount": "too early"}') > 0;
SELECT tasker.create_task('paid', '{"order": 3}', 'test') AS task \gset
SELECT tasker.publish_event('payment.received', '{"order_id": 4, "currency": "EUR", "amount": "of another"}') > 0;
SELECT tasker.publish_event('payment.received', '{"order_id": 3, "currency": "EUR", "amount": "early"}') > 0;
SELECT tasker.publish_event('payment.received', '{"order_id": 3, "currency": "EUR", "amount": "later"}') > 0;
SELECT pg_temp.go();
SELECT tasker.task_state(:task), pg_temp.got(:task);
-- Delivered late, it is not its event either.
SELECT tasker.publish_event('payment.received', '{"order_id": 5, "currency": "EUR"}') > 0;
SELECT tasker.create_task('paid', '{"order": 5}', 'test') AS task \gset
SELECT pg_temp.go();
SELECT tasker.react_to_events();
SELECT tasker.step_state(test.step(:task, 'wait'));
SELECT tasker.cancel_task(:task);

-- ---------- of any, of the own task ----------

SELECT pg_temp.waiter('any', '{"name": "shop.opened"}');
SELECT pg_temp.waiter('own', '{"name": "shop.opened", "own_task": true, "match": {"door": {"value": "front"}}}');
SELECT tasker.create_task('any', '{}', 'test') AS any_early \gset
SELECT tasker.create_task('own', '{}', 'test') AS own \gset
SELECT tasker.create_task('own', '{}', 'test') AS own_early \gset
SELECT tasker.publish_event('shop.opened', '{"door": "front"}') > 0, tasker.publish_event('shop.opened', '{"door": "front"}', :own_early) > 0,
	tasker.publish_event('shop.opened', '{"door": "back"}', :own) > 0;
SELECT pg_temp.go();
SELECT pg_temp.got(:any_early), pg_temp.got(:own_early);
SELECT step_name, own_task, match FROM tasker.waiting_steps WHERE task_id = :own;
SELECT tasker.create_task('any', '{}', 'test') AS any_one \gset
SELECT pg_temp.go();
SELECT tasker.react_to_events();
SELECT tasker.publish_event('shop.opened', '{"door": "front", "n": 1}', :any_one) > 0;
SELECT tasker.react_to_events();
SELECT tasker.publish_event('shop.opened', '{"door": "front", "n": 2}', :own) > 0;
SELECT tasker.react_to_events();
SELECT pg_temp.go();
SELECT pg_temp.got(:any_one), pg_temp.got(:own);

-- ---------- an event of tasker ----------

SELECT pg_temp.waiter('child', '{"name": "task.completed", "match": {"task_id": "child", "completed_steps": {"value": 3}}}');
SELECT tasker.create_task('child', jsonb_build_object('child', :any_one), 'test') AS late \gset
SELECT pg_temp.go();
SELECT tasker.task_state(:late), pg_temp.got(:late) -> 'payload' ->> 'task_name' AS of;
SELECT tasker.create_task('any', '{}', 'test') AS child \gset
SELECT tasker.create_task('child', jsonb_build_object('child', :child), 'test') AS parent \gset
SELECT tasker.create_task('child', '{"child": "seven"}', 'test') AS wrong \gset
SELECT pg_temp.go();
SELECT pg_temp.got(:wrong);
SELECT tasker.react_to_events();
SELECT tasker.publish_event('shop.opened') > 0;
SELECT tasker.react_to_events();
SELECT pg_temp.go();
SELECT tasker.react_to_events();
SELECT pg_temp.go();
SELECT tasker.task_state(:child), tasker.task_state(:parent);

-- ---------- an event that never comes ----------

SELECT pg_temp.waiter('patient', '{"name": "payment.received", "match": {"order_id": "order"}, "timeout_seconds": 3600}');
SELECT pg_temp.waiter('content', '{"name": "payment.received", "match": {"order_id": "order"}, "timeout_seconds": 3600, "default": {"paid": false}}');
SELECT tasker.create_task('patient', '{"order": 10}', 'test') AS patient \gset
SELECT tasker.create_task('content', '{"order": 11}', 'test') AS content \gset
SELECT tasker.create_task('patient', '{"order": 12}', 'test') AS lucky \gset
SELECT pg_temp.go();
SELECT round(extract(epoch FROM until - since)) FROM tasker.waiting_steps WHERE task_id = :patient;
SELECT tasker.publish_event('payment.received', '{"order_id": 12}') > 0;
SET tasker.clock_offset = '59min';
SELECT tasker.react_to_events();
-- It came before the end: that nobody looked until later does not matter.
SET tasker.clock_offset = '61min';
SELECT pg_temp.go();
SELECT tasker.task_state(:patient), tasker.task_state(:content), tasker.task_state(:lucky);
SELECT pg_temp.got(:patient), pg_temp.got(:content);
SELECT about, reason FROM tasker.why(:patient) WHERE about LIKE 'step%';
SELECT tasker.retry_step(test.step(:patient, 'wait'));
SELECT pg_temp.go();
SELECT count(*) FROM tasker.waiting_steps WHERE task_id = :patient;
SELECT tasker.publish_event('payment.received', '{"order_id": 10}') > 0;
SELECT tasker.react_to_events();
SELECT pg_temp.go();
SELECT tasker.task_state(:patient);
RESET tasker.clock_offset;

-- Published in time, and not delivered when the time is over: it counts.
SELECT tasker.create_task('patient', '{"order": 13}', 'test') AS late \gset
SELECT pg_temp.go();
SELECT tasker.publish_event('payment.received', '{"order_id": 13}') > 0;
SET tasker.clock_offset = '61min';
SELECT pg_temp.go();
SELECT tasker.task_state(:late);
RESET tasker.clock_offset;

-- ---------- in a transaction that began before ----------

SELECT tasker.create_task('patient', '{"order": 14}', 'test') AS task \gset
SELECT tasker.orchestrate() > 0;
SELECT workflow_step_id AS a, claim FROM tasker.claim_steps((SELECT id FROM executor)) \gset
SELECT tasker.complete_step(:a, :claim, '{}');
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT tasker.orchestrate() IS NOT NULL;
COMMIT;
SELECT count(*) FROM tasker.waiting_steps WHERE task_id = :task;
SELECT tasker.orchestrate() > 0;
SELECT count(*) FROM tasker.waiting_steps WHERE task_id = :task;

-- ---------- what the context does not have ----------

SELECT tasker.create_task('paid', '{}', 'test') AS none \gset
SELECT tasker.create_task('paid', '{"order": {"id": 1}}', 'test') AS object \gset
SELECT tasker.create_task('paid', '{"order": null}', 'test') AS nothing \gset
SELECT pg_temp.go();
SELECT pg_temp.got(:none), pg_temp.got(:object), pg_temp.got(:nothing);
SELECT count(*) FROM tasker.step_waits w WHERE NOT EXISTS (SELECT FROM tasker.waiting_steps v WHERE v.workflow_step_id = w.workflow_step_id);
SELECT * FROM tasker.check();

-- ---------- many ----------

CREATE TEMP TABLE many AS SELECT c AS task_id FROM tasker.create_tasks(ARRAY(SELECT jsonb_build_object('name', 'paid', 'namespace', 'test',
	'context', jsonb_build_object('order', 1000 + n)) FROM generate_series(1, 300) n)) c;
SELECT count(tasker.publish_event('payment.received', jsonb_build_object('order_id', 1000 + n, 'currency', 'EUR'))) FROM generate_series(1, 100) n;
SELECT pg_temp.go();
SELECT count(*) FROM tasker.waiting_steps w JOIN many USING (task_id);
SELECT count(tasker.publish_event('payment.received', jsonb_build_object('order_id', 1000 + n, 'currency', 'EUR'))) FROM generate_series(101, 300) n;
SELECT tasker.react_to_events(70), tasker.react_to_events(70), tasker.react_to_events();
SELECT pg_temp.go();
SELECT t.state, count(*), count(*) FILTER (WHERE s.results -> 'payload' ->> 'order_id' = t.context ->> 'order') AS with_their_own
FROM (SELECT task_id, test.step(task_id, 'wait') AS step FROM many OFFSET 0) m
JOIN tasker.tasks t USING (task_id) JOIN tasker.workflow_steps s ON s.workflow_step_id = m.step
GROUP BY t.state;
SELECT * FROM tasker.check();

-- ---------- whose events ----------

-- A role that is confined to a namespace awaits no events of others.
SET client_min_messages = error;
DROP ROLE IF EXISTS regress_awaiting;
CREATE ROLE regress_awaiting;
RESET client_min_messages;
SELECT tasker.describe_namespace('awaiting', 'Of its own') > 0;
SELECT tasker.grant_admin('regress_awaiting', 'awaiting');
SET ROLE regress_awaiting;
SELECT tasker.register_task_template('{"name": "spy", "namespace_name": "awaiting", "version": "1.0.0", "step_templates": [
	{"name": "wait", "await_event": {"name": "task.completed", "match": {"task_id": "other"}}},
	{"name": "wait for shop", "await_event": {"name": "shop.opened"}}]}') > 0;
RESET ROLE;
SELECT tasker.create_task('spy', jsonb_build_object('other', :child), 'awaiting') AS spy \gset
SELECT tasker.orchestrate() > 0;
SELECT tasker.publish_event('shop.opened', '{}', :content) > 0, tasker.publish_event('shop.opened', '{}') > 0;
SELECT tasker.react_to_events(), tasker.orchestrate();
SELECT * FROM test.steps(:spy);
SELECT tasker.publish_event('shop.opened', '{"for": "you"}', :spy) > 0;
SELECT tasker.react_to_events(), tasker.orchestrate() > 0;
SELECT * FROM test.steps(:spy);
SET ROLE regress_awaiting;
SELECT step_name, event_name FROM tasker.waiting_steps;
RESET ROLE;
SELECT tasker.cancel_task(:spy);
SELECT tasker.orchestrate() IS NOT NULL;
SELECT tasker.revoke_role('regress_awaiting') > 0;
DROP OWNED BY regress_awaiting;
DROP ROLE regress_awaiting;

-- ---------- what is refused ----------

\set VERBOSITY terse
SELECT pg_temp.waiter('bad', '{}');
SELECT pg_temp.waiter('bad', '{"name": "no.such"}');
SELECT pg_temp.waiter('bad', '{"name": "payment.received", "match": {"order_id": 7}}');
SELECT pg_temp.waiter('bad', '{"name": "payment.received", "match": {"order_id": {"value": [1]}}}');
SELECT pg_temp.waiter('bad', '{"name": "payment.received", "match": {"task_id": "x"}}');
SELECT pg_temp.waiter('bad', '{"name": "payment.received", "default": {}}');
SELECT pg_temp.waiter('bad', '{"name": "payment.received", "timeout_seconds": 0}');
SELECT pg_temp.waiter('bad', '{"name": "task.completed"}');
SELECT pg_temp.waiter('bad', '{"name": "task.completed", "own_task": true, "match": {"task_id": "x"}}');
SELECT pg_temp.waiter('bad', '{"name": "task.completed", "match": {"task_id": "x", "weather": {"value": "fine"}}}');
SELECT pg_temp.waiter('bad', '{"name": "payment.received"}', '{"handler_config": {}}');
SELECT pg_temp.waiter('bad', '{"name": "payment.received"}', '{}', '{"coordinator_strategy": "synchronous"}');
SELECT tasker.read_events('tasker.reactor');
-- An event that the template itself announces is there by then.
SELECT tasker.register_task_template('{"name": "both", "namespace_name": "test", "version": "1.0.0", "step_templates": [
	{"name": "a", "handler_class": "H", "custom_events": [{"name": "both.done"}]}, {"name": "wait", "await_event": {"name": "both.done"}}]}') > 0;
\set VERBOSITY default
SELECT tasker.cancel_task(task_id) FROM (SELECT DISTINCT task_id FROM tasker.waiting_steps) w;
SELECT tasker.orchestrate() IS NOT NULL;
SELECT count(*) FROM tasker.step_waits;
-- Retention waits for it, and nobody reads for it here any more.
DELETE FROM tasker.event_consumers WHERE name = 'tasker.reactor';
SELECT tasker.unregister_executor((SELECT id FROM executor));
