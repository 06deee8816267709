-- check() finds each kind of corruption. The tables are broken by hand, as a
-- superuser, in transactions that are rolled back; the functions of tasker
-- cannot do any of this.
\set VERBOSITY terse
SELECT tasker.orchestrate() >= 0 AS settled;
SELECT executor_id AS executor FROM tasker.register_executor('check', '{check.H}', 0) \gset
SELECT test.template('check', 'a; b<-a; c<-b', '{"handler_class": "check.H", "backoff_base_seconds": 1000, "default_retry_limit": 2}') > 0 AS registered;
SELECT count(*) FROM tasker.check();

-- One task done, one in the middle of b, one whose b waits for its retry, one in the queue, one in error.
SELECT tasker.create_task('check', namespace => 'test') AS done \gset
SELECT test.run_all(:executor) AS runs;
SELECT tasker.create_task('check', namespace => 'test') AS running \gset
SELECT tasker.create_task('check', namespace => 'test') AS retrying \gset
SELECT tasker.create_task('check', namespace => 'test') AS failed \gset
SELECT tasker.orchestrate() > 0 AS orchestrated;
SELECT count(tasker.complete_step(workflow_step_id, claim)) FROM tasker.claim_steps(:executor, 3);
SELECT tasker.orchestrate() >= 0 AS orchestrated;
SELECT count(*) FROM tasker.claim_steps(:executor, 3);
SELECT tasker.fail_step(test.step(:retrying, 'b'), 10, 'later');
SELECT tasker.fail_step(test.step(:failed, 'b'), 10, 'never', retryable => false);
SELECT tasker.create_task('check', namespace => 'test') AS queued \gset
SELECT tasker.orchestrate() > 0 AS orchestrated;
-- what the last batch moved itself is read by the next one
SELECT tasker.orchestrate() AS moved;
SELECT format('%s: %s', what, (SELECT string_agg(step || ' ' || state, ', ') FROM test.steps(task))) AS steps
FROM (VALUES (1, 'done', :done), (2, 'running', :running), (3, 'retrying', :retrying), (4, 'failed', :failed), (5, 'queued', :queued)) t(n, what, task) ORDER BY n;
SELECT * FROM tasker.check();

-- What check() says now, with names instead of ids.
CREATE TEMPORARY TABLE thing (owner text, id bigint, name text);
INSERT INTO thing SELECT 'task', task, what
FROM (VALUES ('done', :done), ('running', :running), ('retrying', :retrying), ('failed', :failed), ('queued', :queued)) t(what, task);
INSERT INTO thing SELECT 'step', s.workflow_step_id, thing.name || '.' || n.name
FROM thing JOIN tasker.workflow_steps s ON s.task_id = thing.id JOIN tasker.named_steps n USING (named_step_id) WHERE owner = 'task';
-- Only of what is broken here: the owners above, and those that are made up.
CREATE FUNCTION pg_temp.problems() RETURNS TABLE (problem text, owner text, whose text, detail text) LANGUAGE plpgsql AS $$
DECLARE
	t thing;
	c record;
BEGIN
	FOR c IN SELECT k.problem, k.owner, k.owner_id, k.detail, g.name FROM tasker.check() k LEFT JOIN thing g ON g.owner = k.owner AND g.id = k.owner_id
		WHERE g.name IS NOT NULL OR k.owner = 'template' OR k.owner_id IN (-1, 9223372036854775807) ORDER BY k.problem COLLATE "C", g.name COLLATE "C", k.detail LOOP
		problem := c.problem;
		owner := c.owner;
		whose := coalesce(c.name, CASE c.owner WHEN 'template' THEN 'the template' ELSE 'unknown' END);
		detail := c.detail;
		FOR t IN SELECT * FROM thing ORDER BY id DESC LOOP
			detail := regexp_replace(detail, '(' || t.owner || CASE t.owner WHEN 'step' THEN '|parent' ELSE '' END || ') ' || t.id || '\M', '\1 ' || t.name);
		END LOOP;
		detail := regexp_replace(regexp_replace(detail, '(executor|handler) \d+', '\1 N', 'g'), '(ended at|next_retry_at) [^(]*[^( ]', '\1 TIME');
		RETURN NEXT;
	END LOOP;
END
$$;

---- the logs refuse to be changed ----
UPDATE tasker.task_transition_log SET to_state = 'error';
DELETE FROM tasker.workflow_step_transition_log;
TRUNCATE tasker.workflow_step_transition_log;

---- tasks ----
BEGIN;
UPDATE tasker.tasks SET state = 'error' WHERE task_id = :done;
SELECT * FROM pg_temp.problems();
ROLLBACK;
BEGIN;
UPDATE tasker.tasks SET sort_key = sort_key + 10 WHERE task_id = :done;
SELECT * FROM pg_temp.problems();
ROLLBACK;
-- the change of state took place in the log alone
BEGIN;
UPDATE tasker.tasks SET sort_key = 20, state = 'in_progress' WHERE task_id = :done;
SELECT * FROM pg_temp.problems();
ROLLBACK;
-- a step that is not done in a task that is
BEGIN;
SET LOCAL session_replication_role = replica;
UPDATE tasker.workflow_steps SET state = 'in_progress', sort_key = 10 WHERE workflow_step_id = test.step(:done, 'c');
DELETE FROM tasker.workflow_step_transition_log WHERE workflow_step_id = test.step(:done, 'c') AND sort_key = 20;
SELECT * FROM pg_temp.problems();
ROLLBACK;

---- steps ----
BEGIN;
UPDATE tasker.workflow_steps SET state = 'pending' WHERE workflow_step_id = test.step(:done, 'c');
SELECT * FROM pg_temp.problems();
ROLLBACK;
BEGIN;
UPDATE tasker.workflow_steps SET state = 'pending', sort_key = 0 WHERE workflow_step_id = test.step(:done, 'c');
SELECT * FROM pg_temp.problems();
ROLLBACK;
BEGIN;
UPDATE tasker.workflow_steps SET sort_key = 10 WHERE workflow_step_id = test.step(:queued, 'b');
SELECT * FROM pg_temp.problems();
ROLLBACK;
-- attempts: the table itself refuses them first
UPDATE tasker.workflow_steps SET attempts = 3 WHERE workflow_step_id = test.step(:retrying, 'a');
BEGIN;
ALTER TABLE tasker.workflow_steps DROP CONSTRAINT step_attempts_within_limit;
UPDATE tasker.workflow_steps SET attempts = 3 WHERE workflow_step_id = test.step(:retrying, 'a');
SELECT * FROM pg_temp.problems();
ROLLBACK;
-- a step ran before its parent: the log is in order, the graph is not
BEGIN;
SET LOCAL session_replication_role = replica;
DELETE FROM tasker.workflow_step_transition_log WHERE workflow_step_id = test.step(:running, 'a');
UPDATE tasker.workflow_steps SET state = 'pending', sort_key = 0, attempts = 0 WHERE workflow_step_id = test.step(:running, 'a');
INSERT INTO tasker.work_queue SELECT handler_id, rank, workflow_step_id FROM tasker.workflow_steps WHERE workflow_step_id = test.step(:running, 'a');
SELECT * FROM pg_temp.problems();
ROLLBACK;

---- the logs ----
BEGIN;
SET LOCAL session_replication_role = replica;
DELETE FROM tasker.task_transition_log WHERE task_id = :done AND sort_key = 20;
SELECT * FROM pg_temp.problems();
ROLLBACK;
BEGIN;
SET LOCAL session_replication_role = replica;
UPDATE tasker.task_transition_log SET from_state = 'pending' WHERE task_id = :done AND sort_key = 10;
SELECT * FROM pg_temp.problems();
ROLLBACK;
BEGIN;
SET LOCAL session_replication_role = replica;
UPDATE tasker.task_transition_log SET to_state = 'complete' WHERE task_id = :done AND sort_key = 20;
UPDATE tasker.task_transition_log SET from_state = 'complete' WHERE task_id = :done AND sort_key = 30;
SELECT * FROM pg_temp.problems();
ROLLBACK;
BEGIN;
SET LOCAL session_replication_role = replica;
DELETE FROM tasker.workflow_step_transition_log WHERE workflow_step_id = test.step(:done, 'b') AND sort_key = 10;
SELECT * FROM pg_temp.problems();
ROLLBACK;
BEGIN;
SET LOCAL session_replication_role = replica;
UPDATE tasker.workflow_step_transition_log SET to_state = 'error' WHERE workflow_step_id = test.step(:done, 'b') AND sort_key = 10;
UPDATE tasker.workflow_step_transition_log SET from_state = 'error' WHERE workflow_step_id = test.step(:done, 'b') AND sort_key = 20;
SELECT * FROM pg_temp.problems();
ROLLBACK;
BEGIN;
INSERT INTO tasker.task_transition_log (task_id, sort_key, to_state, created_at, role) VALUES (-1, 10, 'pending', now(), 'x');
INSERT INTO tasker.workflow_step_transition_log (workflow_step_id, sort_key, from_state, to_state, created_at, role) VALUES (-1, 10, 'pending', 'in_progress', now(), 'x');
SELECT * FROM pg_temp.problems();
ROLLBACK;
-- the log has gone on without its owner
BEGIN;
INSERT INTO tasker.workflow_step_transition_log (workflow_step_id, sort_key, from_state, to_state, created_at, role)
VALUES (test.step(:running, 'b'), 20, 'in_progress', 'complete', now(), 'x');
SELECT * FROM pg_temp.problems();
ROLLBACK;

---- the graph ----
-- foreign keys and triggers are off for a replica
BEGIN;
SET LOCAL session_replication_role = replica;
INSERT INTO tasker.workflow_steps (workflow_step_id, task_id, named_step_id, handler_id, retry_limit, retryable, skippable, is_root, is_leaf)
SELECT -1, -1, named_step_id, handler_id, 3, true, false, true, true FROM tasker.workflow_steps WHERE workflow_step_id = test.step(:done, 'a');
SELECT * FROM pg_temp.problems();
ROLLBACK;
-- the edges of a task are those of its template
BEGIN;
DELETE FROM tasker.named_step_edges e USING tasker.tasks t, tasker.workflow_steps c
WHERE t.task_id = :failed AND e.named_task_id = t.named_task_id
	AND c.workflow_step_id = test.step(:failed, 'c') AND e.to_named_step_id = c.named_step_id;
SELECT * FROM pg_temp.problems();
ROLLBACK;
BEGIN;
INSERT INTO tasker.named_step_edges
SELECT t.named_task_id, c.named_step_id, a.named_step_id
FROM tasker.tasks t
JOIN tasker.workflow_steps c ON c.workflow_step_id = test.step(t.task_id, 'c')
JOIN tasker.workflow_steps a ON a.workflow_step_id = test.step(t.task_id, 'a')
WHERE t.task_id = :done;
SELECT * FROM pg_temp.problems();
ROLLBACK;
BEGIN;
SET LOCAL session_replication_role = replica;
DELETE FROM tasker.workflow_step_transition_log WHERE workflow_step_id = test.step(:done, 'c');
DELETE FROM tasker.workflow_steps WHERE workflow_step_id = test.step(:done, 'c');
SELECT * FROM pg_temp.problems();
ROLLBACK;
BEGIN;
UPDATE tasker.named_tasks_named_steps ts SET position = ts.position + 10 FROM tasker.tasks t, tasker.workflow_steps a
WHERE t.task_id = :done AND ts.named_task_id = t.named_task_id
	AND a.workflow_step_id = test.step(:done, 'a') AND ts.named_step_id = a.named_step_id;
SELECT problem, owner, whose FROM pg_temp.problems() WHERE whose ~ 'done' OR owner = 'template';
ROLLBACK;
-- nobody writes edges of a task
INSERT INTO tasker.workflow_step_edges VALUES (test.step(:done, 'a'), test.step(:done, 'c'));

---- accelerators and consequences ----
BEGIN;
UPDATE tasker.work_queue SET rank = 7 WHERE workflow_step_id = test.step(:queued, 'a');
SELECT * FROM pg_temp.problems();
ROLLBACK;
BEGIN;
INSERT INTO tasker.work_queue VALUES ((SELECT min(handler_id) FROM tasker.handlers), 0, -1);
SELECT * FROM pg_temp.problems();
ROLLBACK;
BEGIN;
DELETE FROM tasker.work_queue;
SELECT * FROM pg_temp.problems();
ROLLBACK;
BEGIN;
DELETE FROM tasker.timers;
SELECT * FROM pg_temp.problems();
ROLLBACK;
-- nothing can run, and the task is open
BEGIN;
UPDATE tasker.tasks SET state = 'in_progress', sort_key = 20 WHERE task_id = :failed;
SET LOCAL session_replication_role = replica;
DELETE FROM tasker.task_transition_log WHERE task_id = :failed AND sort_key = 30;
SELECT * FROM pg_temp.problems();
ROLLBACK;
-- everything is done, and the task is open
BEGIN;
UPDATE tasker.tasks SET state = 'in_progress', sort_key = 20 WHERE task_id = :done;
SET LOCAL session_replication_role = replica;
DELETE FROM tasker.task_transition_log WHERE task_id = :done AND sort_key = 30;
SELECT * FROM pg_temp.problems();
ROLLBACK;
-- with somebody who is gone
BEGIN;
UPDATE tasker.executors SET ended_at = tasker.now() - interval '50 seconds', end_reason = 'by hand' WHERE executor_id = :executor;
SELECT * FROM pg_temp.problems();
UPDATE tasker.executors SET ended_at = tasker.now() - interval '70 seconds' WHERE executor_id = :executor;
SELECT * FROM pg_temp.problems();
ROLLBACK;
-- while a scope is paused nothing is due there
BEGIN;
SELECT tasker.pause('test');
DELETE FROM tasker.work_queue;
DELETE FROM tasker.timers;
SELECT * FROM pg_temp.problems();
ROLLBACK;
BEGIN;
SELECT tasker.pause();
DELETE FROM tasker.work_queue;
DELETE FROM tasker.timers;
SELECT * FROM pg_temp.problems();
ROLLBACK;
SELECT * FROM pg_temp.problems();

---- accelerators can be rebuilt ----
SELECT test.template('check timeout', 'a', '{"handler_class": "check.H", "timeout_seconds": 100}') > 0 AS registered;
SELECT tasker.create_task('check timeout', namespace => 'test', priority => 5) AS timed \gset
SELECT tasker.orchestrate() > 0 AS orchestrated;
SELECT step_name, task_id = :timed AS timed FROM tasker.claim_steps(:executor, 1);
SELECT tasker.orchestrate() >= 0 AS orchestrated;
-- What the accelerators hold of the tasks here; due times to the second.
CREATE TEMPORARY VIEW accelerators AS
SELECT 'queue' AS kind, thing.name, q.rank::integer AS number, NULL::timestamptz AS due
FROM tasker.work_queue q JOIN thing ON thing.owner = 'step' AND thing.id = q.workflow_step_id
UNION ALL
SELECT 'timer', thing.name, i.sort_key, date_trunc('second', i.due_at + interval '0.5 seconds')
FROM tasker.timers i JOIN tasker.workflow_steps USING (workflow_step_id, sort_key) JOIN thing ON thing.owner = 'step' AND thing.id = i.workflow_step_id;
INSERT INTO thing SELECT 'step', test.step(:timed, 'a'), 'timed.a';
CREATE TEMPORARY TABLE before AS SELECT * FROM accelerators;
SELECT kind, name, number, due IS NOT NULL AS due FROM before ORDER BY kind, name;
-- emptied, with rubbish instead
DELETE FROM tasker.work_queue;
DELETE FROM tasker.timers;
INSERT INTO tasker.work_queue VALUES ((SELECT min(handler_id) FROM tasker.handlers), 0, -1);
INSERT INTO tasker.timers VALUES (tasker.now(), -1, 10), (tasker.now(), test.step(:retrying, 'b'), 10);
INSERT INTO tasker.step_waits (workflow_step_id, sort_key, since, until) VALUES (-1, 10, tasker.now(), tasker.now()), (test.step(:retrying, 'b'), 10, tasker.now(), tasker.now());
SELECT problem, owner, whose FROM pg_temp.problems();
SELECT detail FROM tasker.check() WHERE problem = 'wait_of_step_that_does_not_wait' ORDER BY owner_id;
SELECT tasker.rebuild_accelerators();
SELECT tasker.orchestrate() AS moved;
SELECT count(*) AS same, (SELECT count(*) FROM before) AS before, (SELECT count(*) FROM accelerators) AS now
FROM before b JOIN accelerators a USING (kind, name, number)
WHERE a.due IS NOT DISTINCT FROM b.due OR abs(extract(epoch FROM a.due - b.due)) <= 1;
SELECT * FROM pg_temp.problems();
-- nobody lost a step over it, and no attempt was spent
SELECT string_agg(thing.name, ', ' ORDER BY thing.name) AS still_running FROM tasker.my_steps(:executor) JOIN thing ON owner = 'step' AND id = workflow_step_id;
SELECT in_flight FROM tasker.stat_executors WHERE executor_id = :executor;
-- and everything ends as it would have
SET tasker.clock_offset = 2000000;
SELECT count(tasker.complete_step(workflow_step_id, claim)) FROM tasker.my_steps(:executor) WHERE task_id = :running;
SELECT test.run_all(:executor) AS runs;
SELECT name, tasker.task_state(id) FROM thing WHERE owner = 'task' ORDER BY id;
SELECT * FROM test.history(:timed);
SELECT tasker.rebuild_accelerators();
SELECT tasker.orchestrate() AS moved;

SELECT tasker.cancel_task(:timed);
SELECT tasker.unregister_executor(:executor);
SELECT * FROM tasker.check();
