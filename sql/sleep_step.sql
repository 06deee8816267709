-- Steps that sleep: no executor runs them, the orchestrator begins and ends
-- them, by a clock that is moved here.
CREATE TEMP TABLE executor AS SELECT (tasker.register_executor('sleep', '{H}', 0)).executor_id AS id;

-- Registers namespace test, template NAME: a, then nap, which sleeps, then b.
CREATE FUNCTION pg_temp.sleeper(name text, sleep jsonb, options jsonb DEFAULT '{}', whole jsonb DEFAULT '{}') RETURNS boolean LANGUAGE sql AS $$
	SELECT tasker.register_task_template(jsonb_build_object('name', name, 'namespace_name', 'test', 'version', '1.0.0', 'step_templates',
		jsonb_build_array('{"name": "a", "handler_class": "H"}'::jsonb,
			jsonb_build_object('name', 'nap', 'sleep', sleep, 'depends_on_step', 'a') || options,
			'{"name": "b", "handler_class": "H", "depends_on_step": "nap"}'::jsonb)) || whole) > 0
$$;
-- What waits, with times as seconds from now.
CREATE FUNCTION pg_temp.waits(task bigint, OUT step text, OUT waits_for text, OUT since_s numeric, OUT until_s numeric) RETURNS SETOF record LANGUAGE sql AS $$
	SELECT w.step_name, w.waits_for, round(extract(epoch FROM w.since - tasker.now()), -1), round(extract(epoch FROM w.until - tasker.now()), -1)
	FROM tasker.waiting_steps w WHERE w.task_id = task ORDER BY w.workflow_step_id
$$;
-- Runs what can run now: completes whatever is ready, draws the consequences.
CREATE FUNCTION pg_temp.go() RETURNS integer LANGUAGE sql AS $$ SELECT test.run_all((SELECT id FROM executor)) $$;

-- ---------- for a while ----------

SELECT pg_temp.sleeper('sleepy', '{"for": "3 days"}');
SELECT tasker.create_task('sleepy', '{}', 'test') AS task \gset
SELECT pg_temp.go();
SELECT * FROM test.steps(:task);
SELECT * FROM pg_temp.waits(:task);
SELECT about, regexp_replace(reason, '\d{4}-\d\d-\d\d \d\d:\d\d:\d\d', 'TIME', 'g') AS reason, regexp_replace(advice, '\(\d+, \d+', '(STEP, CLAIM') AS advice
FROM tasker.why(:task) WHERE about LIKE 'step%';
SELECT dependencies_satisfied, ready_for_execution, blocking_reason FROM tasker.step_readiness_statuses WHERE workflow_step_id = test.step(:task, 'nap');
SELECT execution_status, in_progress_steps, needs_intervention FROM tasker.task_execution_contexts WHERE task_id = :task;
SELECT executor_id, to_state, metadata - 'until' AS metadata FROM tasker.workflow_step_transitions WHERE workflow_step_id = test.step(:task, 'nap');
SELECT * FROM tasker.check();
-- Nobody is given it, and nobody can take it.
SELECT count(*) FROM tasker.find_viable_steps(:task);
SELECT count(*) FROM tasker.claim_step((SELECT id FROM executor), test.step(:task, 'nap'));
SELECT count(*) FROM tasker.my_steps((SELECT id FROM executor));
SELECT tasker.orchestrate();
SET tasker.clock_offset = '71h';
SELECT tasker.orchestrate();
SELECT * FROM pg_temp.waits(:task);
SET tasker.clock_offset = '73h';
SELECT pg_temp.go();
SELECT * FROM test.history(:task);
SELECT r.key, round(extract(epoch FROM (r.value #>> '{}')::timestamptz - tasker.now()) / 3600) AS hours
FROM tasker.workflow_steps s, jsonb_each(s.results) r WHERE s.workflow_step_id = test.step(:task, 'nap');
SELECT * FROM pg_temp.waits(:task);
SELECT count(*) FROM tasker.step_waits;
RESET tasker.clock_offset;

-- ---------- until a time of the context ----------

SELECT pg_temp.sleeper('until', '{"until_context": "deliver_at"}');
SELECT tasker.create_task('until', jsonb_build_object('deliver_at', now() + interval '1 hour'), 'test') AS task \gset
SELECT pg_temp.go();
SELECT * FROM pg_temp.waits(:task);
SET tasker.clock_offset = '61min';
SELECT pg_temp.go();
SELECT tasker.task_state(:task);
RESET tasker.clock_offset;
-- What is past is over at once; without a zone it is UTC.
SELECT tasker.create_task('until', '{"deliver_at": "2001-02-03 04:05:06"}', 'test') AS task \gset
SELECT pg_temp.go();
SELECT * FROM test.history(:task);
SELECT (results ->> 'slept_until')::timestamptz FROM tasker.workflow_steps WHERE workflow_step_id = test.step(:task, 'nap');
-- What is no time fails for good, and says so.
SELECT tasker.create_tasks(ARRAY[
	'{"name": "until", "namespace": "test", "context": {}}', '{"name": "until", "namespace": "test", "context": {"deliver_at": 7}}',
	'{"name": "until", "namespace": "test", "context": {"deliver_at": "whenever"}}',
	'{"name": "until", "namespace": "test", "context": {"deliver_at": "2001-02-30"}}',
	'{"name": "until", "namespace": "test", "context": {"deliver_at": "infinity"}}']::jsonb[]) IS NOT NULL AS created;
SELECT pg_temp.go();
SELECT t.context, t.state, s.results
FROM tasker.tasks t JOIN tasker.workflow_steps s USING (task_id) JOIN tasker.named_steps n USING (named_step_id)
WHERE t.state = 'error' AND n.name = 'nap' ORDER BY t.task_id;
SELECT count(*) FROM tasker.step_waits;
SELECT * FROM tasker.check();

-- ---------- operators ----------

-- A wait that failed begins again, when somebody has mended what was wrong.
SELECT max(task_id) AS task FROM tasker.tasks \gset
UPDATE tasker.tasks SET context = jsonb_build_object('deliver_at', now() + interval '1 hour') WHERE task_id = :task;
SELECT tasker.retry_step(test.step(:task, 'nap'));
SELECT pg_temp.go();
SELECT * FROM test.steps(:task);
SELECT * FROM pg_temp.waits(:task);
-- It is not begun by hand, nor resolved, but ended with its claim, as anything in progress.
SELECT tasker.safe_transition_step(test.step(:task, 'nap'), 'pending');
\set VERBOSITY terse
SELECT regexp_replace(m, '\d+', 'N') FROM (SELECT tasker.safe_transition_step(test.step(:task, 'nap'), 'in_progress') m) r;
SELECT tasker.orchestrate() > 0 AS begun_again;
SELECT count(*) FROM pg_temp.waits(:task);
SELECT tasker.complete_step(workflow_step_id, claim, '{"woken": true}') FROM tasker.waiting_steps WHERE task_id = :task;
SELECT pg_temp.go();
SELECT tasker.task_state(:task), (SELECT count(*) FROM tasker.step_waits);
-- Cancelled, step or task, it is forgotten.
SELECT tasker.create_task('sleepy', '{}', 'test') AS task \gset
SELECT tasker.create_task('sleepy', '{}', 'test') AS other \gset
SELECT pg_temp.go();
SELECT tasker.cancel_step(test.step(:task, 'nap')), tasker.cancel_task(:other);
SELECT count(*) FROM tasker.waiting_steps;
SELECT tasker.orchestrate() > 0 AS moved;
SELECT tasker.task_state(:task), tasker.task_state(:other), (SELECT count(*) FROM tasker.step_waits);
SET tasker.clock_offset = '73h';
SELECT tasker.orchestrate();
RESET tasker.clock_offset;
-- Its timer can be made again from its row.
SELECT tasker.create_task('sleepy', '{}', 'test') AS task \gset
SELECT pg_temp.go();
SELECT tasker.orchestrate();
DELETE FROM tasker.timers;
SELECT problem, owner_id = test.step(:task, 'nap') AS nap FROM tasker.check();
SELECT tasker.rebuild_accelerators();
SELECT tasker.orchestrate();
SELECT * FROM tasker.check();
SET tasker.clock_offset = '73h';
SELECT pg_temp.go();
SELECT tasker.task_state(:task);
RESET tasker.clock_offset;

-- ---------- pauses ----------

-- While its template is paused no wait begins; one that has begun ends in time.
SELECT tasker.create_task('sleepy', '{}', 'test') AS sleeping \gset
SELECT pg_temp.go();
SELECT tasker.create_task('sleepy', '{}', 'test') AS task \gset
SELECT tasker.orchestrate() > 0 AS started;
SELECT workflow_step_id AS a, claim FROM tasker.claim_steps((SELECT id FROM executor)) \gset
SELECT tasker.pause('test', 'sleepy');
SELECT tasker.complete_step(:a, :claim, '{}');
SELECT tasker.orchestrate();
SELECT count(*) FROM pg_temp.waits(:task);
SET tasker.clock_offset = '73h';
SELECT tasker.orchestrate() > 0 AS ended;
SELECT tasker.step_state(test.step(:sleeping, 'nap'));
SELECT tasker.resume('test', 'sleepy');
SELECT count(*) FROM tasker.work_queue WHERE workflow_step_id = test.step(:task, 'nap');
SELECT tasker.orchestrate() > 0 AS begun;
SELECT * FROM pg_temp.waits(:task);
SELECT * FROM tasker.check();
SET tasker.clock_offset = '146h';
SELECT pg_temp.go();
SELECT tasker.task_state(:task), tasker.task_state(:sleeping);
RESET tasker.clock_offset;

-- ---------- one at a time, skipped, first of all ----------

-- Who sleeps has the turn.
SELECT tasker.register_task_template('{"name": "waits in turn", "namespace_name": "test", "version": "1.0.0", "concurrent": false, "step_templates": [
	{"name": "nap", "sleep": {"for": "1 hour"}}, {"name": "a", "handler_class": "H", "priority": -1}, {"name": "nap too", "sleep": {"for": "1 hour"}}]}') > 0 AS registered;
SELECT tasker.create_task('waits in turn', '{}', 'test') AS task \gset
SELECT pg_temp.go();
SELECT * FROM test.steps(:task);
SELECT count(*) FROM tasker.find_viable_steps(:task);
SET tasker.clock_offset = '61min';
SELECT pg_temp.go();
SELECT * FROM test.steps(:task);
SET tasker.clock_offset = '122min';
SELECT pg_temp.go();
SELECT tasker.task_state(:task);
SELECT * FROM tasker.check();
RESET tasker.clock_offset;
SELECT pg_temp.sleeper('skipped', '{"until_context": "nothing"}', '{"skippable": true}');
SELECT tasker.create_task('skipped', '{}', 'test') AS task \gset
SELECT pg_temp.go();
SELECT * FROM test.steps(:task);
-- The way of plain SQL comes to the same.
SET tasker.direct_writes = off;
SELECT tasker.create_task('sleepy', '{}', 'test') AS task \gset
SELECT pg_temp.go();
SET tasker.clock_offset = '73h';
SELECT pg_temp.go();
SELECT * FROM test.history(:task);
RESET tasker.clock_offset;
RESET tasker.direct_writes;

-- ---------- a wait that was left is forgotten, whoever finds it out ----------

-- A task with a step that waits.
CREATE FUNCTION pg_temp.asleep(template text DEFAULT 'sleepy') RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	task bigint := tasker.create_task(template, '{}', 'test');
BEGIN
	PERFORM pg_temp.go();
	RETURN task;
END
$$;
-- What is left of a task's waits, and what check() says of that.
CREATE FUNCTION pg_temp.left_of(task bigint, OUT waits bigint, OUT problems bigint) LANGUAGE sql AS $$
	SELECT (SELECT count(*) FROM tasker.step_waits w JOIN tasker.workflow_steps s USING (workflow_step_id) WHERE s.task_id = task),
		(SELECT count(*) FROM tasker.check())
$$;
-- By who rebuilds, and does not read of it any more.
SELECT pg_temp.asleep() AS task \gset
SELECT tasker.cancel_task(:task);
SELECT tasker.rebuild_accelerators();
SELECT tasker.orchestrate() >= 0 AS done;
SELECT * FROM pg_temp.left_of(:task);
-- Failed by hand, and its task is over before anybody reads of that.
SELECT pg_temp.asleep() AS task \gset
SELECT tasker.fail_step(workflow_step_id, claim, 'not any more'), tasker.cancel_task(:task) FROM tasker.waiting_steps WHERE task_id = :task;
SELECT tasker.orchestrate() >= 0 AS done;
SELECT * FROM pg_temp.left_of(:task);
-- Given back while it cannot begin anew.
SELECT pg_temp.asleep() AS task \gset
SELECT tasker.pause('test', 'sleepy');
SELECT tasker.release_step(workflow_step_id, claim) FROM tasker.waiting_steps WHERE task_id = :task;
SELECT tasker.orchestrate() >= 0 AS done;
SELECT * FROM pg_temp.left_of(:task);
SELECT tasker.resume('test', 'sleepy');
SELECT pg_temp.go();
SELECT * FROM pg_temp.left_of(:task);
SELECT tasker.cancel_task(:task);
SELECT tasker.orchestrate() >= 0 AS done;

-- ---------- nobody reads events for it ----------

-- That would keep history for a reader who is not needed.
BEGIN;
DELETE FROM tasker.event_consumers WHERE name = 'tasker.reactor';
SELECT pg_temp.sleeper('asleep', '{"for": "3 days"}');
SELECT count(*) FROM tasker.event_consumers WHERE name = 'tasker.reactor';
ROLLBACK;

-- ---------- what is refused ----------

SELECT pg_temp.sleeper('bad', '{}');
SELECT pg_temp.sleeper('bad', '{"for": "1 day", "until_context": "x"}');
SELECT pg_temp.sleeper('bad', '{"for": "soon"}');
SELECT pg_temp.sleeper('bad', '{"for": "-1 day"}');
SELECT pg_temp.sleeper('bad', '{"for": "1000 years"}');
SELECT pg_temp.sleeper('bad', '{"for": 60}');
SELECT pg_temp.sleeper('bad', '{"for": "1 day"}', '{"handler_class": "H"}');
SELECT pg_temp.sleeper('bad', '{"for": "1 day"}', '{"default_retry_limit": 3}');
SELECT pg_temp.sleeper('bad', '{"for": "1 day"}', '{"timeout_seconds": 3}');
SELECT pg_temp.sleeper('bad', '{"for": "1 day"}', '{"await_event": {"name": "order.paid"}}');
SELECT pg_temp.sleeper('bad', '{"for": "1 day"}', '{}', '{"coordinator_strategy": "synchronous"}');
\set VERBOSITY default

-- ---------- in the test kit ----------

BEGIN;
CREATE EXTENSION tasker_testing;
SELECT tasker.create_task('sleepy', '{}', 'test') AS task \gset
SELECT tasker.create_task('waits in turn', '{}', 'test') AS other \gset
SELECT tasker.orchestrate() > 0 AS begun;
SELECT step_name, reason, round(extract(epoch FROM due_at - began_at)) AS seconds FROM tasker_testing.pending_delays WHERE task_id = :other;
SELECT succeeded_tasks, step_runs, passes, waited >= '3 days' AS has_waited, stopped FROM tasker_testing.run_tasks(ARRAY[:task]);
ROLLBACK;
SELECT tasker.unregister_executor((SELECT id FROM executor));
