-- State changes are written past the SQL executor, or by SQL statements where a
-- table has triggers or tasker.direct_writes is off: with the same result.
SELECT tasker.orchestrate() >= 0 AS settled;
SELECT executor_id AS executor FROM tasker.register_executor('direct', '{direct.H}', 0) \gset
SELECT test.template('direct', 'a; b<-a; c<-a; d<-b,c; e', '{"handler_class": "direct.H", "backoff_base_seconds": 0, "default_retry_limit": 2, "skippable": true, "timeout_seconds": 1000}') > 0 AS registered;

-- One life with everything in it: claims, results, a release, failures of each
-- kind, a skip, a bypass, operators.
CREATE FUNCTION pg_temp.live(executor bigint) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	task bigint := tasker.create_task('direct', '{"n": 1}', 'test', tags => '{x,"y z"}', initiator => 'someone', bypass_steps => '{e}', priority => 3);
BEGIN
	PERFORM tasker.orchestrate();
	PERFORM tasker.claim_steps(executor, 100);
	PERFORM tasker.release_step(test.step(task, 'a'), test.claim(task, 'a'));
	PERFORM tasker.orchestrate();
	PERFORM tasker.claim_steps(executor, 100);
	PERFORM tasker.fail_step(test.step(task, 'a'), test.claim(task, 'a'), 'no luck', 'Bad', retry_after_seconds => 0);
	PERFORM tasker.orchestrate();
	PERFORM tasker.claim_steps(executor, 100);
	PERFORM tasker.complete_steps(ARRAY[test.step(task, 'a')], ARRAY[test.claim(task, 'a')], ARRAY['{"sum": 3}'::jsonb], executor);
	PERFORM tasker.orchestrate();
	PERFORM tasker.claim_steps(executor, 100);
	PERFORM tasker.fail_step(test.step(task, 'b'), test.claim(task, 'b'), 'never', retryable => false);
	PERFORM tasker.cancel_step(test.step(task, 'c'), 'not wanted');
	PERFORM tasker.orchestrate();
	RETURN task;
END
$$;
-- What is left of it: rows, logs, timers. Of times only whether they are there.
CREATE FUNCTION pg_temp.remains(task bigint) RETURNS TABLE (kind text, n text, what jsonb) LANGUAGE sql AS $$
	SELECT 'task', '', to_jsonb(t) - '{task_id,requested_at}'::text[] FROM tasker.tasks t WHERE task_id = task
	UNION ALL
	SELECT 'step', n.name, to_jsonb(s) - '{workflow_step_id,task_id}'::text[]
		|| jsonb_build_object('last_attempted_at', s.last_attempted_at IS NOT NULL, 'next_retry_at', s.next_retry_at IS NOT NULL)
	FROM tasker.workflow_steps s JOIN tasker.named_steps n USING (named_step_id) WHERE task_id = task
	UNION ALL
	SELECT 'task log', sort_key::text, to_jsonb(l) - '{task_id,created_at,xact_id}'::text[] FROM tasker.task_transition_log l WHERE task_id = task
	UNION ALL
	SELECT 'step log', n.name || ' ' || l.sort_key, to_jsonb(l) - '{workflow_step_id,created_at,xact_id}'::text[]
	FROM tasker.workflow_step_transition_log l JOIN tasker.workflow_steps s USING (workflow_step_id) JOIN tasker.named_steps n USING (named_step_id)
	WHERE s.task_id = task
	UNION ALL
	SELECT 'timer', n.name, to_jsonb(i.sort_key) FROM tasker.timers i JOIN tasker.workflow_steps s USING (workflow_step_id) JOIN tasker.named_steps n USING (named_step_id) WHERE s.task_id = task
$$;

SELECT pg_temp.live(:executor) AS directly \gset
SET tasker.direct_writes = off;
SELECT pg_temp.live(:executor) AS by_sql \gset
RESET tasker.direct_writes;
SELECT kind, count(*) FROM pg_temp.remains(:directly) GROUP BY 1 ORDER BY 1;
SELECT 'directly only' AS how, * FROM (SELECT * FROM pg_temp.remains(:directly) EXCEPT SELECT * FROM pg_temp.remains(:by_sql)) d
UNION ALL
SELECT 'by SQL only', * FROM (SELECT * FROM pg_temp.remains(:by_sql) EXCEPT SELECT * FROM pg_temp.remains(:directly)) s;
SELECT * FROM test.history(:directly);

-- A trigger fires for each change of state, whoever makes it.
CREATE TABLE pg_temp.fired (relation text, operation text, state text);
CREATE FUNCTION pg_temp.note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO pg_temp.fired VALUES (TG_TABLE_NAME, TG_OP, NEW.state);
	RETURN NEW;
END
$$;
CREATE TRIGGER note AFTER INSERT OR UPDATE ON tasker.tasks FOR EACH ROW EXECUTE FUNCTION pg_temp.note();
CREATE TRIGGER note AFTER INSERT OR UPDATE ON tasker.workflow_steps FOR EACH ROW EXECUTE FUNCTION pg_temp.note();
SELECT pg_temp.live(:executor) AS with_triggers \gset
DROP TRIGGER note ON tasker.tasks;
DROP TRIGGER note ON tasker.workflow_steps;
SELECT relation, operation, state, count(*) FROM pg_temp.fired GROUP BY 1, 2, 3 ORDER BY 1, 2, 3;
SELECT count(*) AS differences FROM (SELECT * FROM pg_temp.remains(:directly) EXCEPT SELECT * FROM pg_temp.remains(:with_triggers)) d;

-- Read-only transactions are refused either way.
BEGIN READ ONLY;
\set VERBOSITY sqlstate
SELECT tasker.cancel_task(:directly);
ROLLBACK;
SET tasker.direct_writes = off;
BEGIN READ ONLY;
SELECT tasker.cancel_task(:by_sql);
ROLLBACK;
\set VERBOSITY default
RESET tasker.direct_writes;

-- An index that somebody adds is kept, too.
CREATE INDEX added ON tasker.workflow_steps (state, (attempts + 1)) WHERE state <> 'complete';
SELECT pg_temp.live(:executor) AS indexed \gset
SET enable_seqscan = off;
SELECT n.name, s.state FROM tasker.workflow_steps s JOIN tasker.named_steps n USING (named_step_id)
WHERE s.state = 'cancelled' AND s.attempts + 1 > 0 AND s.state <> 'complete' AND s.task_id = :indexed ORDER BY 1;
RESET enable_seqscan;
DROP INDEX tasker.added;
SELECT tasker.unregister_executor(:executor) AS gone;
SELECT tasker.orchestrate() >= 0 AS settled;
SELECT * FROM tasker.check();
