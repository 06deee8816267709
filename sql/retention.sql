-- History can be removed: finished tasks one by one, periods of the logs as a
-- whole. In a database of its own, for everything here is about all tasks.
SELECT current_database() AS original \gset
CREATE DATABASE regress_tasker_retention;
SELECT format('ALTER DATABASE regress_tasker_retention SET %s', setting)
FROM unnest(ARRAY['tasker.orchestrator = off', 'client_min_messages = warning', 'TimeZone = ''UTC''']) setting \gexec
\c regress_tasker_retention
CREATE EXTENSION tasker;
SELECT tasker.register_task_template('{"name": "pair", "version": "1.0.0", "step_templates": [
	{"name": "a", "handler_class": "H"}, {"name": "b", "handler_class": "H", "depends_on_step": "a"}]}') > 0 AS registered;
SELECT tasker.register_task_template('{"name": "wait", "version": "1.0.0", "step_templates": [
	{"name": "a", "handler_class": "W"}, {"name": "b", "handler_class": "W", "depends_on_step": "a"}]}') > 0 AS registered;
SELECT executor_id AS executor FROM tasker.register_executor('r', '{H}', 0) \gset
SELECT executor_id AS later FROM tasker.register_executor('later', '{W}', 0) \gset

-- Creates tasks and runs them to their end, or some that wait, as the clock of the session has it.
CREATE FUNCTION pg_temp.make(n integer, finish boolean DEFAULT true) RETURNS SETOF bigint LANGUAGE plpgsql AS $$
DECLARE
	tasks bigint[] := ARRAY(SELECT tasker.create_tasks(array_agg(jsonb_build_object('name', CASE WHEN finish THEN 'pair' ELSE 'wait' END))) FROM generate_series(1, n));
	executor bigint := (SELECT executor_id FROM tasker.executors WHERE name = 'r');
BEGIN
	PERFORM tasker.orchestrate();
	WHILE finish LOOP
		PERFORM tasker.complete_step(workflow_step_id, claim) FROM tasker.claim_steps(executor, 1000);
		EXIT WHEN NOT FOUND;
		PERFORM tasker.orchestrate();
	END LOOP;
	RETURN QUERY SELECT unnest(tasks);
END
$$;
-- What is there of everything.
CREATE VIEW pg_temp.rows AS
SELECT (SELECT count(*) FROM tasker.tasks) AS tasks, (SELECT count(*) FROM tasker.workflow_steps) AS steps,
	(SELECT count(*) FROM tasker.workflow_step_edges) AS edges, (SELECT count(*) FROM tasker.work_queue) AS queued,
	(SELECT count(*) FROM tasker.task_transition_log) AS task_log, (SELECT count(*) FROM tasker.workflow_step_transition_log) AS step_log;
CREATE VIEW pg_temp.periods AS
SELECT log, period, tasker.history_period(first_id) = period AND tasker.history_period(last_id) = period AS bounds,
	began_at IS NOT NULL AS began, closed_at IS NOT NULL AS closed, owners, tasker.history_period(oldest_owner) = period AS oldest_is_inside,
	keeps_rows, held_by
FROM tasker.stat_history ORDER BY period, log;

-- ---------- prune_tasks ----------

SELECT count(*) AS old FROM pg_temp.make(5);
SELECT count(*) AS open FROM pg_temp.make(2, finish => false);
SELECT min(task_id) AS failed, max(task_id) AS resolved FROM pg_temp.make(2, finish => false) AS task_id \gset
SELECT tasker.transition_task(:failed, 'error') > 0, tasker.transition_task(:resolved, 'error') > 0, tasker.resolve_task(:resolved);
SELECT tasker.cancel_task(task_id) AS cancelled FROM pg_temp.make(1, finish => false) AS task_id;
SELECT tasker.orchestrate() >= 0 AS orchestrated;
SELECT * FROM pg_temp.rows;

-- Nothing is old enough; then all that have ended well are, in order, no more than asked for.
SELECT tasker.prune_tasks(tasker.now() - interval '1 hour');
SET tasker.clock_offset = '1h';
SELECT count(*) AS young FROM pg_temp.make(2);
SELECT min(task_id) AS first FROM tasker.tasks \gset
SELECT tasker.prune_tasks(tasker.now() - interval '30 minutes', 3);
SELECT min(task_id) - :first AS gone FROM tasker.tasks;
SELECT tasker.prune_tasks(tasker.now() - interval '30 minutes');
SELECT tasker.prune_tasks(tasker.now() - interval '30 minutes');
SELECT state, count(*) FROM tasker.tasks GROUP BY 1 ORDER BY 1;
-- with everything of theirs: steps, edges, transitions, the queue row of the resolved task
SELECT * FROM pg_temp.rows;
SELECT * FROM tasker.check();
-- error only when asked for, and only that
SELECT tasker.prune_tasks(tasker.now() - interval '30 minutes', states => '{error}');
SELECT state, count(*) FROM tasker.tasks GROUP BY 1 ORDER BY 1;
SELECT * FROM tasker.check();

-- What the orchestrator has not read yet stays.
SELECT tasker.cancel_task(task_id) FROM pg_temp.make(1, finish => false) AS task_id;
SELECT tasker.prune_tasks(tasker.now() + interval '1 second', states => '{cancelled}');
SELECT tasker.orchestrate() >= 0 AS orchestrated;
SELECT tasker.prune_tasks(tasker.now() + interval '1 second', states => '{cancelled}');

-- An identity key becomes free.
SELECT tasker.create_task('pair', identity_key => 'k') AS first \gset
SELECT tasker.create_task('pair', identity_key => 'k') = :first AS same;
SELECT tasker.cancel_task(:first);
SELECT tasker.orchestrate() >= 0 AS orchestrated;
SELECT tasker.prune_tasks(tasker.now() + interval '1 second', states => '{cancelled}');
SELECT tasker.create_task('pair', identity_key => 'k') > :first AS another;
-- Late reports about what has gone.
\set VERBOSITY sqlstate
SELECT tasker.retry_task(:first);
-- arguments
SELECT tasker.prune_tasks(NULL);
SELECT tasker.prune_tasks(now(), 0);
SELECT tasker.prune_tasks(now(), NULL);
SELECT tasker.prune_tasks(now(), states => '{complete,pending}');
SELECT tasker.prune_tasks(now(), states => '{complete,in_progress}');
SELECT tasker.prune_tasks(now(), states => '{complete,NULL}');
SELECT tasker.prune_tasks(now(), states => NULL);
SELECT tasker.prune_tasks(now(), states => '{}');
SELECT tasker.upkeep('-1 day');
SELECT tasker.upkeep('100 years');
SELECT tasker.upkeep('1 day', 0);
-- a database that is another server's
BEGIN;
UPDATE tasker.orchestrator_checkpoint SET system_identifier = 1;
SELECT tasker.upkeep('1 day');
SELECT tasker.prune_tasks(now());
ROLLBACK;
-- everything is forbidden to those who were granted nothing
CREATE ROLE regress_tasker_retention;
SET ROLE regress_tasker_retention;
SELECT tasker.prune_tasks(now());
SELECT tasker.upkeep();
RESET ROLE;
-- and what is granted works with the owner's rights
GRANT USAGE ON SCHEMA tasker TO regress_tasker_retention;
GRANT EXECUTE ON FUNCTION tasker.prune_tasks TO regress_tasker_retention;
SET ROLE regress_tasker_retention;
SELECT tasker.prune_tasks('2000-01-01');
RESET ROLE;
\set VERBOSITY default
SELECT tasker.cancel_task(task_id) FROM tasker.tasks WHERE state IN ('pending', 'in_progress');
SELECT tasker.orchestrate() >= 0 AS orchestrated;
SELECT tasker.prune_tasks(tasker.now() + interval '1 second') AS the_rest;
SELECT * FROM pg_temp.rows;

-- ---------- periods ----------

-- Retention of 20 days, so a period lasts two. Until now upkeep has never run.
SELECT * FROM pg_temp.periods;
SELECT * FROM tasker.upkeep('20 days');
SELECT * FROM pg_temp.periods;
-- An idle database begins no period.
SET tasker.clock_offset = '10 d';
SELECT period_begun FROM tasker.upkeep('20 days');
SELECT count(*) AS first_period FROM pg_temp.make(3);
SELECT period_begun FROM tasker.upkeep('20 days');
SELECT period_begun FROM tasker.upkeep('20 days');
SELECT * FROM pg_temp.periods;
-- New tasks and steps have ids of the new period, and so have all that follow.
SELECT count(*) AS second_period FROM pg_temp.make(3);
SELECT tasker.history_period(min(task_id)) AS of_tasks, tasker.history_period(min(workflow_step_id)) AS of_steps
FROM tasker.workflow_steps WHERE task_id > (SELECT min(task_id) + 2 FROM tasker.tasks);
SELECT min(task_id) AS keeper FROM pg_temp.make(1, finish => false) AS task_id \gset
SET tasker.clock_offset = '11 d';
SELECT period_begun FROM tasker.upkeep('20 days');
SET tasker.clock_offset = '12 d';
SELECT period_begun FROM tasker.upkeep('20 days');
SELECT count(*) AS third_period FROM pg_temp.make(3);
-- Moving the sequences is done at once and for ever, by a transaction that rolls back, too.
SET tasker.clock_offset = '14 d';
BEGIN;
SELECT period_begun FROM tasker.upkeep('20 days');
ROLLBACK;
SELECT tasker.current_period();
SELECT count(*) AS fourth_period FROM pg_temp.make(1);
SELECT period_begun FROM tasker.upkeep('20 days');
-- Without retention none begins, and what is open stays.
SET tasker.clock_offset = '16 d';
SELECT * FROM tasker.upkeep();
SELECT * FROM pg_temp.periods;
SELECT * FROM tasker.check();

-- ---------- the end of a period ----------

-- The open task of the second period keeps it; the others go, one partition a round.
SET tasker.clock_offset = '24 d';
SELECT * FROM tasker.upkeep('11 days');
SELECT * FROM tasker.upkeep('11 days');
SELECT * FROM tasker.upkeep('11 days');
SELECT * FROM tasker.upkeep('11 days');
SELECT * FROM tasker.upkeep('11 days');
SELECT * FROM tasker.upkeep('11 days');
SELECT * FROM pg_temp.periods;
-- The transitions of what was pruned there are still there, and that is in order,
SELECT count(*) AS orphans FROM tasker.task_transition_log l WHERE NOT EXISTS (SELECT FROM tasker.tasks t WHERE t.task_id = l.task_id);
SELECT * FROM tasker.check();
-- but not those of a task that had not ended,
BEGIN;
SET LOCAL session_replication_role = replica;
DELETE FROM tasker.task_transition_log l WHERE to_state = 'complete' AND NOT EXISTS (SELECT FROM tasker.tasks t WHERE t.task_id = l.task_id);
SELECT DISTINCT problem, detail FROM tasker.check() ORDER BY 1, 2;
ROLLBACK;
-- nor those of a period whose owners nobody has pruned.
BEGIN;
SET LOCAL session_replication_role = replica;
DELETE FROM tasker.workflow_steps WHERE task_id >= 3::bigint << 40;
DELETE FROM tasker.tasks WHERE task_id >= 3::bigint << 40;
SELECT problem, owner, count(*) FROM tasker.check() GROUP BY 1, 2 ORDER BY 1, 2;
ROLLBACK;
-- The rows of a period that is kept by few can be had without waiting for them.
BEGIN;
SET LOCAL session_replication_role = replica;
SELECT tasker.compact_history(tasker.now() - interval '11 days', 1000000);
SELECT tasker.compact_history(tasker.now() - interval '11 days', 0);
SELECT tasker.compact_history(tasker.now() - interval '11 days', 0);
SELECT tasker.compact_history(tasker.now() - interval '11 days', 0);
COMMIT;
SELECT count(DISTINCT task_id) AS tasks, max(task_id) = :keeper AS is_keeper FROM tasker.task_transition_log WHERE tasker.history_period(task_id) = 1;
SELECT sort_key, from_state, to_state, most_recent FROM tasker.task_transitions WHERE task_id = :keeper;
SELECT owner, from_state, to_state FROM tasker.task_timeline(:keeper);
SELECT * FROM pg_temp.periods WHERE period < 4;
SELECT * FROM tasker.check();
-- Its last task goes on where it was, and with it the period.
SELECT count(tasker.complete_step(workflow_step_id, claim)) FROM tasker.claim_steps(:later, 10);
SELECT tasker.orchestrate() >= 0 AS orchestrated;
SELECT count(tasker.complete_step(workflow_step_id, claim)) FROM tasker.claim_steps(:later, 10);
SELECT tasker.orchestrate() >= 0 AS orchestrated;
SELECT tasker.task_state(:keeper);
-- (the next round reads what the last one moved)
SELECT tasker.orchestrate() AS moved;
SET tasker.clock_offset = '24.5 d';
SELECT * FROM tasker.upkeep('1 h');
SELECT * FROM tasker.upkeep('1 h');
SELECT * FROM tasker.upkeep('1 h');
SELECT * FROM tasker.upkeep('1 h');
SELECT * FROM tasker.upkeep('1 h');
SELECT * FROM pg_temp.periods;
-- It begins again as if nothing had been.
SELECT count(*) AS fresh FROM pg_temp.make(2);
SELECT * FROM pg_temp.rows;
SELECT * FROM tasker.check();

-- There are never more than two dozen.
UPDATE tasker.history_periods SET began_at = began_at - interval '2 days' WHERE period = 4;
BEGIN;
SELECT count(tasker.make_period(k)) FROM generate_series(6, 27) k;
SELECT period_begun FROM tasker.upkeep('10 days');
ROLLBACK;
SELECT period_begun FROM tasker.upkeep('10 days');

-- ---------- consumers of events ----------

-- What a consumer has not read stays, until it has not read for tasker.consumer_grace.
SELECT tasker.create_event_consumer('slow'), tasker.create_event_consumer('gone'), tasker.register_event('history.written');
SELECT count(*) AS unread FROM pg_temp.make(2);
SELECT count(tasker.publish_event('history.written', task_id => t.task_id)) AS published FROM (SELECT task_id FROM tasker.tasks ORDER BY task_id DESC LIMIT 2) t;
SELECT tasker.publish_event('history.written') > 0 AS published;
SELECT tasker.orchestrate() >= 0 AS orchestrated;
SET tasker.clock_offset = '24.7d';
SELECT tasker.prune_tasks(tasker.now() - interval '1 hour') AS those_that_were_read;
SELECT tasker.prune_tasks(tasker.now() - interval '1 hour');
SELECT count(*) AS events FROM tasker.read_events('slow');
SELECT tasker.prune_tasks(tasker.now() - interval '1 hour');
SELECT name, events_behind, holds_history FROM tasker.stat_event_consumers ORDER BY name;
SELECT tasker.drop_event_consumer('gone');
SELECT tasker.prune_tasks(tasker.now() - interval '1 hour');
-- Custom events go with their task, others by their age.
SELECT count(*) AS events, count(task_id) AS of_tasks FROM tasker.published_events;
SELECT * FROM tasker.upkeep('1 h');
SELECT count(*) AS events FROM tasker.published_events;
SELECT count(*) AS fresh FROM pg_temp.make(1);
SELECT tasker.orchestrate() >= 0 AS orchestrated;
UPDATE tasker.event_consumers SET read_at = read_at - interval '8 days';
SET tasker.clock_offset = '24.8d';
SELECT name, events_behind, holds_history FROM tasker.stat_event_consumers;
SELECT tasker.prune_tasks(tasker.now() - interval '1 hour');
SELECT tasker.drop_event_consumer('slow');

-- ---------- who holds back vacuum ----------

SELECT * FROM tasker.stat_horizon WHERE name = 'regress_tasker_retention';
BEGIN;
INSERT INTO tasker.dependent_systems (name) VALUES ('nobody');
PREPARE TRANSACTION 'regress_tasker_retention';
SELECT kind, pid, name, role = current_user AS mine, state, since <= now() AS before_now, age_in_transactions > 0 AS old, query, dead_rows >= 0 AS dead
FROM tasker.stat_horizon WHERE name = 'regress_tasker_retention';
ROLLBACK PREPARED 'regress_tasker_retention';

-- ---------- without a trace ----------

DROP VIEW pg_temp.rows, pg_temp.periods;
DROP EXTENSION tasker;
SELECT count(*) FROM pg_class WHERE relname LIKE '%transition_log%';
\c :original
DROP DATABASE regress_tasker_retention;
DROP ROLE regress_tasker_retention;
SELECT * FROM tasker.check();
