-- What may be changed of a task and a step by hand.

CREATE FUNCTION pg_temp.outcome(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	result text;
	detail text;
BEGIN
	EXECUTE query INTO result;
	RETURN result;
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
	RETURN SQLSTATE || ' ' || regexp_replace(SQLERRM, '(task|step) \d+', '\1 N') || coalesce(': ' || nullif(detail, ''), '');
END
$$;
SELECT test.template('update', 'a; b<-a; c<-a', '{"default_retry_limit": 2, "backoff_base_seconds": 10, "backoff_cap_seconds": 10}') > 0 AS registered;
SELECT tasker.create_task('update', '{"x": 1, "y": 2}', 'test', reason => 'first', tags => '{p,q}') AS task \gset

-- ---------- tasks ----------

SELECT tasker.update_task(:task, 'second', '{q}');
SELECT reason, tags FROM tasker.tasks WHERE task_id = :task;
-- What is NULL stays; what is the same is no change and leaves no note.
SELECT tasker.update_task(:task), tasker.update_task(:task, 'second'), tasker.update_task(:task, tags => '{q}'), tasker.update_task(:task, '', '{}');
SELECT reason, tags FROM tasker.tasks WHERE task_id = :task;
SELECT annotation, role = current_user AS mine FROM tasker.annotations WHERE task_id = :task AND type = 'update' ORDER BY task_annotation_id;
SELECT arguments, pg_temp.outcome(format('SELECT tasker.update_task(%s)', replace(arguments, 'T', :'task')))
FROM (VALUES ('-1'), ('NULL'), ($$T, tags => '{a,NULL}'$$), ($$T, repeat('é', 128)$$), ($$T, repeat('é', 129)$$)) v (arguments);
-- A task that has ended, too.
SELECT tasker.cancel_task(:task), tasker.update_task(:task, 'after all');
SELECT * FROM test.history(:task);

-- ---------- steps ----------

SELECT tasker.create_task('update', '{"x": 1, "y": 2}', 'test') AS task \gset
SELECT executor_id AS executor FROM tasker.register_executor('update', '{H}', 0) \gset
-- Pending: inputs are laid over the context, for this step alone.
SELECT tasker.update_step(test.step(:task, 'a'), inputs => '{"y": 3, "z": 4}'), tasker.update_step(test.step(:task, 'a'), 3);
SELECT tasker.update_step(test.step(:task, 'a')), tasker.update_step(test.step(:task, 'a'), 3, '{"z": 4, "y": 3}');
SELECT tasker.orchestrate() IS NOT NULL AS done;
SELECT step_name, inputs FROM tasker.claim_steps(:executor, 1);
-- In progress: its executor has the inputs, but the limit may change; never below the attempts made.
SELECT arguments, pg_temp.outcome(format('SELECT tasker.update_step(test.step(%s, ''a''), %s)', :'task', arguments))
FROM (VALUES ($$inputs => '{}'$$), ('0'), ('1'), ('2')) v (arguments);
SELECT tasker.fail_step(test.step(:task, 'a'), test.claim(:task, 'a'), 'once');
-- In error, with a retry to come: it has the new inputs, and its attempt is within the limit.
SELECT arguments, pg_temp.outcome(format('SELECT tasker.update_step(test.step(%s, ''a''), %s)', :'task', arguments))
FROM (VALUES ($$inputs => '{}'$$), ($$inputs => '{"y": 5}'$$), ('1'), ('2')) v (arguments);
SELECT retry_eligible, retry_limit, attempts FROM tasker.step_readiness_statuses WHERE workflow_step_id = test.step(:task, 'a');
SET tasker.clock_offset = '11s';
SELECT tasker.orchestrate() IS NOT NULL AS done;
SELECT step_name, attempt, inputs FROM tasker.claim_steps(:executor, 1);
SELECT tasker.fail_step(test.step(:task, 'a'), test.claim(:task, 'a'), 'twice');
RESET tasker.clock_offset;
SELECT tasker.orchestrate() IS NOT NULL AS done;
-- In error for good: a higher limit would start nothing. The inputs may change for an attempt to come.
SELECT tasker.task_state(:task);
SELECT pg_temp.outcome(format('SELECT tasker.update_step(test.step(%s, ''a''), 5)', :'task'));
SELECT tasker.update_step(test.step(:task, 'a'), inputs => '{"y": 6}');
SELECT tasker.retry_step(test.step(:task, 'a')), tasker.update_step(test.step(:task, 'a'), 5);
SELECT state, attempts, retry_limit, inputs FROM tasker.workflow_steps WHERE workflow_step_id = test.step(:task, 'a');
SELECT test.run_all(:executor);
-- Ended: nothing.
SELECT arguments, pg_temp.outcome(format('SELECT tasker.update_step(test.step(%s, ''a''), %s)', :'task', arguments)) FROM (VALUES ('7'), ($$inputs => '{}'$$)) v (arguments);
-- Bad arguments.
SELECT arguments, pg_temp.outcome(format('SELECT tasker.update_step(%s)', arguments))
FROM (VALUES ('-1'), ('NULL'), ('1, -1'), ('1, 10001'), ($$1, inputs => '[]'$$), ($$1, inputs => 'null'$$)) v (arguments);
-- All of it in order.
SELECT annotation - 'workflow_step_id' AS annotation, (annotation->>'workflow_step_id')::bigint = test.step(:task, 'a') AS of_a
FROM tasker.annotations WHERE task_id = :task AND type = 'update' ORDER BY task_annotation_id;
SELECT * FROM test.history(:task);
-- A step that failed permanently.
SELECT tasker.create_task('update', namespace => 'test') AS task \gset
SELECT tasker.orchestrate() IS NOT NULL AS done;
SELECT tasker.fail_step(workflow_step_id, claim, 'for good', retryable => false) FROM tasker.claim_steps(:executor, 1);
SELECT pg_temp.outcome(format('SELECT tasker.update_step(test.step(%s, ''a''), 5)', :'task'));
SELECT tasker.cancel_task(task_id) FROM tasker.tasks WHERE task_id = :task AND state IN ('pending', 'in_progress');

SELECT tasker.unregister_executor(:executor);
SELECT tasker.orchestrate() IS NOT NULL AS done;
SELECT * FROM tasker.check();
