-- The graph of a task as arrays, for the functions of rules/graph.sql.

-- Step ids grow in topological order. The template is asked for by its number and
-- scans and nested loops are off, so that steps and edges come by their keys and
-- meet in hash or merge joins even where the planner believes that the tables are
-- empty. It then likes to walk all steps by id, too, where it may save a sort: + 0
-- says that it may not. jit would only see the price of a forbidden plan and
-- compile for it.
CREATE FUNCTION tasker.task_edges(task_id bigint, OUT step_ids bigint[], OUT sources integer[], OUT targets integer[])
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
SET enable_nestloop = off
SET enable_seqscan = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
	template integer := (SELECT t.named_task_id FROM tasker.tasks t WHERE t.task_id = task_edges.task_id);
BEGIN
	SELECT coalesce(array_agg(s.workflow_step_id ORDER BY s.workflow_step_id + 0), '{}') INTO step_ids
	FROM tasker.workflow_steps s
	WHERE s.task_id = task_edges.task_id;

	WITH step AS MATERIALIZED (
		SELECT s.named_step_id, row_number() OVER (ORDER BY s.workflow_step_id + 0)::integer AS place
		FROM tasker.workflow_steps s
		WHERE s.task_id = task_edges.task_id
	)
	SELECT coalesce(array_agg(p.place), '{}'), coalesce(array_agg(c.place), '{}') INTO sources, targets
	FROM tasker.named_step_edges e
	JOIN step c ON c.named_step_id = e.to_named_step_id
	JOIN step p ON p.named_step_id = e.from_named_step_id
	WHERE e.named_task_id = template;
END
$$;
COMMENT ON FUNCTION tasker.task_edges(bigint) IS
'The steps of a task by id, and its edges as the places of their ends among these: the n-th edge leads from step_ids[sources[n]] to step_ids[targets[n]]. Empty where there is no such task.';
