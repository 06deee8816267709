-- Tasks started by time, on a moved clock; the worker does the same by itself.
SET TimeZone = 'UTC';
SELECT test.template('timed', 'a') > 0 AS registered;
-- Moves the clock of the session.
CREATE FUNCTION pg_temp.set_clock(at timestamptz) RETURNS void LANGUAGE sql AS $$
	SELECT set_config('tasker.clock_offset', (extract(epoch FROM at - clock_timestamp()) * 1000)::bigint::text, false)
$$;
CREATE TEMP TABLE someday AS SELECT date_trunc('day', now()) + interval '10 days' AS day;
SELECT day FROM someday \gset
SELECT pg_temp.set_clock(:'day'::timestamptz + interval '8 hours 59 minutes 30 seconds');
CREATE VIEW pg_temp.runs AS
SELECT t.identity_key ~ '^schedule:[a-z ]+:[0-9]+$' AS has_key, t.requested_at - (SELECT day FROM someday) AS due, t.context, t.state, l.role = current_user AS mine
FROM tasker.tasks t JOIN tasker.named_tasks n USING (named_task_id) JOIN tasker.task_transition_log l ON l.task_id = t.task_id AND l.sort_key = 10
WHERE n.name = 'timed' ORDER BY t.task_id;

SELECT tasker.schedule_task('reports', '0 9-17 * * *', '{"name": "timed", "namespace": "test", "context": {"kind": "report"}}') - :'day'::timestamptz AS due;
SELECT tasker.start_scheduled_tasks();
SELECT pg_temp.set_clock(:'day'::timestamptz + interval '9 hours 1 second');
SELECT tasker.start_scheduled_tasks();
SELECT tasker.start_scheduled_tasks();
SELECT * FROM pg_temp.runs;
SELECT name, due_at - :'day'::timestamptz AS due, last_due_at - :'day'::timestamptz AS last_due, last_task_id IS NOT NULL AS has_task, last_error FROM tasker.task_schedules;

-- ---------- nobody was there for four hours ----------

SELECT tasker.schedule_task('skips', '0 * * * *', '{"name": "timed", "namespace": "test", "context": {"kind": "skip"}}', missed_runs => 'skip') - :'day'::timestamptz AS due;
SELECT tasker.schedule_task('all', '0 * * * *', '{"name": "timed", "namespace": "test", "context": {"kind": "all"}}', missed_runs => 'all') - :'day'::timestamptz AS due;
SELECT pg_temp.set_clock(:'day'::timestamptz + interval '13 hours 10 minutes');
SELECT tasker.start_scheduled_tasks(2);
SELECT tasker.start_scheduled_tasks();
SELECT tasker.start_scheduled_tasks();
SELECT due, context FROM pg_temp.runs OFFSET 1;
SELECT name, due_at - :'day'::timestamptz AS due, last_due_at - :'day'::timestamptz AS last_due FROM tasker.task_schedules ORDER BY name;
-- On time it runs.
SELECT pg_temp.set_clock(:'day'::timestamptz + interval '14 hours 30 seconds');
SELECT tasker.start_scheduled_tasks();
SELECT due, context FROM pg_temp.runs OFFSET 6;

-- ---------- no run twice ----------

UPDATE tasker.task_schedules SET due_at = last_due_at;
SELECT tasker.start_scheduled_tasks();
SELECT count(*) FROM pg_temp.runs;

-- ---------- in the name of who made it ----------

CREATE ROLE regress_tasker_timer;
GRANT USAGE ON SCHEMA tasker TO regress_tasker_timer;
GRANT EXECUTE ON FUNCTION tasker.schedule_task, tasker.unschedule_task TO regress_tasker_timer;
SET ROLE regress_tasker_timer;
\set VERBOSITY terse
SELECT tasker.schedule_task('theirs', '* * * * *', '{"name": "timed", "namespace": "test"}');
RESET ROLE;
GRANT EXECUTE ON FUNCTION tasker.create_requested_task TO regress_tasker_timer;
SET ROLE regress_tasker_timer;
SELECT tasker.schedule_task('theirs', '15 14 * * *', '{"name": "timed", "namespace": "test", "context": {"kind": "theirs"}}') - :'day'::timestamptz AS due;
SELECT tasker.schedule_task('all', '* * * * *', '{}');
SELECT tasker.unschedule_task('all');
RESET ROLE;
SELECT tasker.schedule_task('theirs', '* * * * *', '{"name": "timed", "namespace": "test"}');
SELECT pg_temp.set_clock(:'day'::timestamptz + interval '14 hours 15 minutes 1 second');
SELECT tasker.start_scheduled_tasks();
SELECT due, context, mine FROM pg_temp.runs OFFSET 8;
-- Who lost the right, or the role, starts nothing; the others run.
REVOKE EXECUTE ON FUNCTION tasker.create_requested_task FROM regress_tasker_timer;
UPDATE tasker.task_schedules SET due_at = :'day'::timestamptz + interval '14 hours 16 minutes', cron = '16 14 * * *' WHERE name IN ('theirs', 'reports');
SELECT pg_temp.set_clock(:'day'::timestamptz + interval '14 hours 16 minutes 1 second');
SET client_min_messages = error;
SELECT tasker.start_scheduled_tasks();
RESET client_min_messages;
SELECT name, due_at - :'day'::timestamptz AS due, last_error, last_error_at IS NOT NULL AS told FROM tasker.task_schedules WHERE name IN ('theirs', 'reports') ORDER BY name;
SELECT tasker.unschedule_task('theirs'), tasker.unschedule_task('theirs');
DROP OWNED BY regress_tasker_timer;
DROP ROLE regress_tasker_timer;
-- A request that cannot be met is told when it is due.
SELECT tasker.schedule_task('broken', '17 14 * * *', '{"name": "nothing"}') IS NOT NULL AS scheduled;
SELECT pg_temp.set_clock(:'day'::timestamptz + interval '14 hours 17 minutes 1 second');
SET client_min_messages = error;
SELECT tasker.start_scheduled_tasks();
RESET client_min_messages;
SELECT last_error FROM tasker.task_schedules WHERE name = 'broken';

-- ---------- what is refused ----------

SELECT tasker.schedule_task(NULL, '* * * * *', '{}');
SELECT tasker.schedule_task('', '* * * * *', '{}');
SELECT tasker.schedule_task(repeat('x', 129), '* * * * *', '{}');
SELECT tasker.schedule_task('x', NULL, '{}');
SELECT tasker.schedule_task('x', 'never', '{}');
SELECT tasker.schedule_task('x', '* * * * *', '[]');
SELECT tasker.schedule_task('x', '* * * * *', '{"name": "timed", "identity_key": "k"}');
SELECT tasker.schedule_task('x', '* * * * *', '{"name": "timed", "requested_at": "2020-01-01"}');
SELECT tasker.schedule_task('x', '* * * * *', '{"name": "timed"}', 'Nowhere');
SELECT tasker.schedule_task('x', '* * * * *', '{"name": "timed"}', missed_runs => 'some');
SELECT tasker.start_scheduled_tasks(0);
SELECT tasker.schedule_task('leap', '0 0 30 2 *', '{"name": "timed"}') IS NULL AS never_due;
SELECT tasker.unschedule_task(name) FROM tasker.task_schedules ORDER BY name;
RESET tasker.clock_offset;
SELECT tasker.cancel_task(task_id) AS cancelled FROM tasker.tasks JOIN tasker.named_tasks n USING (named_task_id) WHERE n.name = 'timed';
SELECT tasker.orchestrate() >= 0 AS orchestrated;
SELECT * FROM tasker.check();
