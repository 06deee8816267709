-- What executors and people note about a task.

CREATE FUNCTION pg_temp.outcome(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	result text;
BEGIN
	EXECUTE query INTO result;
	RETURN result;
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE || ' ' || regexp_replace(SQLERRM, 'task \d+', 'task N');
END
$$;
SELECT test.template('annotation', 'a; b<-a') > 0 AS registered;
SELECT tasker.create_task('annotation', namespace => 'test') AS task \gset

-- ---------- adding ----------

SET tasker.clock_offset = '100h';
SELECT tasker.annotate_task(:task, 'annotation note', '{"weight": 3, "by": {"name": "é"}}') > 0 AS noted;
RESET tasker.clock_offset;
SELECT type, annotation, role = current_user AS mine, round(extract(epoch FROM created_at - clock_timestamp()) / 3600) AS hours_ahead FROM tasker.annotations WHERE task_id = :task;
-- A type is made by its first annotation; a description is that of the type, and stays until there is another.
SELECT tasker.annotate_task(:task, 'annotation note', '{}', 'A note') > 0 AS noted;
SELECT tasker.annotate_task(:task, 'annotation note', '{}') > 0 AS noted;
SELECT tasker.annotate_task(:task, 'annotation warning', '{}', 'A warning') > 0 AS noted;
SELECT name, description FROM tasker.annotation_types WHERE name LIKE 'annotation %' ORDER BY name;
SELECT count(*) AS annotations, count(DISTINCT annotation_type_id) AS types FROM tasker.task_annotations WHERE task_id = :task;
-- No state changes, and the orchestrator has nothing to do with it.
SELECT * FROM test.history(:task);

-- ---------- bad arguments ----------

SELECT arguments, pg_temp.outcome(format('SELECT tasker.annotate_task(%s) > 0', replace(arguments, 'T', :'task')))
FROM (VALUES ($$-1, 'x', '{}'$$), ($$NULL, 'x', '{}'$$), ($$T, NULL, '{}'$$), ($$T, 'x', NULL$$), ($$T, '', '{}'$$), ($$T, 'x', '[]'$$), ($$T, 'x', '"x"'$$), ($$T, 'x', 'null'$$)) v (arguments);
SELECT length, left(pg_temp.outcome(format('SELECT tasker.annotate_task(%s, repeat(''é'', %s), ''{}'') > 0', :'task', length)), 5) FROM unnest(ARRAY[64, 65]) length;
-- What is noted has an end; just below it, it is kept.
SELECT size, left(pg_temp.outcome(format('SELECT tasker.annotate_task(%s, ''annotation note'', jsonb_build_object(''a'', repeat(''x'', %s))) > 0', :'task', size)), 200) FROM unnest(ARRAY[1048000, 1048577]) size;
SELECT length, left(pg_temp.outcome(format('SELECT tasker.annotate_task(%s, ''annotation note'', ''{}'', repeat(''é'', %s)) > 0', :'task', length)), 5) FROM unnest(ARRAY[10001]) length;
SELECT count(*) AS types FROM tasker.annotation_types WHERE name = 'x';

-- ---------- removing ----------

SELECT task_annotation_id AS id FROM tasker.annotations WHERE task_id = :task AND type = 'annotation warning' \gset
SELECT tasker.remove_annotation(:id), tasker.remove_annotation(:id), tasker.remove_annotation(NULL);
SELECT count(*) AS warnings FROM tasker.annotations WHERE task_id = :task AND type = 'annotation warning';

-- ---------- by an executor ----------

-- It notes what it knows with the step that it completes: both are there, or neither.
SELECT executor_id AS executor FROM tasker.register_executor('annotation', '{H}', 0) \gset
SELECT tasker.orchestrate() IS NOT NULL AS done;
SELECT count(*) FROM tasker.claim_steps(:executor, 1);
BEGIN;
SELECT tasker.complete_step(test.step(:task, 'a'), test.claim(:task, 'a')) AS completed, tasker.annotate_task(:task, 'annotation result', '{"rows": 17}') > 0 AS noted;
ROLLBACK;
SELECT tasker.step_state(test.step(:task, 'a')) AS state, count(*) AS results FROM tasker.annotations WHERE task_id = :task AND type = 'annotation result';
BEGIN;
SELECT tasker.complete_step(test.step(:task, 'a'), test.claim(:task, 'a')) AS completed, tasker.annotate_task(:task, 'annotation result', '{"rows": 17}') > 0 AS noted;
COMMIT;
SELECT tasker.step_state(test.step(:task, 'a')) AS state, annotation FROM tasker.annotations WHERE task_id = :task AND type = 'annotation result';
-- A stale report takes its note back with it.
DO $$
BEGIN
	PERFORM tasker.annotate_task((SELECT max(task_id) FROM tasker.tasks), 'annotation result', '{"stale": true}');
	PERFORM tasker.complete_step(test.step((SELECT max(task_id) FROM tasker.tasks), 'b'), 10);
EXCEPTION WHEN SQLSTATE 'TK001' THEN
	RAISE WARNING 'stale';
END
$$;
SELECT count(*) AS results FROM tasker.annotations WHERE task_id = :task AND type = 'annotation result';
-- A task that has ended can be annotated, too.
SELECT test.run_all(:executor);
SELECT tasker.task_state(:task), tasker.annotate_task(:task, 'annotation result', '{"rows": 18}') > 0 AS noted;

-- A role needs EXECUTE and nothing else; the annotation has its name.
CREATE ROLE regress_tasker_annotation;
GRANT USAGE ON SCHEMA tasker TO regress_tasker_annotation;
GRANT EXECUTE ON FUNCTION tasker.annotate_task TO regress_tasker_annotation;
SET ROLE regress_tasker_annotation;
SELECT tasker.annotate_task(:task, 'annotation by role', '{}') > 0 AS noted;
RESET ROLE;
DROP OWNED BY regress_tasker_annotation;
DROP ROLE regress_tasker_annotation;
SELECT role FROM tasker.annotations WHERE task_id = :task AND type = 'annotation by role';

-- ---------- the end ----------

-- They leave with their task.
SELECT tasker.orchestrate() IS NOT NULL AS done;
SELECT tasker.prune_tasks(tasker.now() + interval '1 s', 100000) > 0 AS pruned;
SELECT count(*) AS tasks FROM tasker.tasks WHERE task_id = :task;
SELECT count(*) AS annotations FROM tasker.task_annotations WHERE task_id = :task;
SELECT tasker.unregister_executor(:executor);
SELECT tasker.orchestrate() IS NOT NULL AS done;
SELECT * FROM tasker.check();
