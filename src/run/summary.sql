-- A task in one row, for a dashboard: its execution context, which steps make it
-- up, which may run, which may not and why, and how parallel it can be.

CREATE VIEW tasker.task_workflow_summaries AS
SELECT c.*, step.root_step_ids, step.root_step_count, step.ready_step_ids,
	nullif(step.ready_step_ids, '[]') AS next_executable_step_ids,
	step.blocked_step_ids, step.blocking_reasons,
	graph.max_dependency_depth, graph.parallel_branches,
	plan.processing_strategy, plan.recommended_batch_size,
	jsonb_build_object('strategy', plan.processing_strategy, 'step_ids', step.ready_step_ids,
		'parallel_safe', c.ready_steps > 1, 'batch_size', plan.recommended_batch_size) AS processing_recommendation,
	CASE
		WHEN c.ready_steps > 0 AND c.failed_steps = 0 THEN 'optimal'
		WHEN c.ready_steps > 0 THEN 'recovering'
		WHEN c.in_progress_steps > 0 THEN 'processing'
		WHEN c.execution_status = 'all_complete' THEN 'complete'
		WHEN c.execution_status = 'blocked_by_failures' THEN 'blocked'
		ELSE 'waiting'
	END AS workflow_efficiency,
	CASE
		WHEN c.ready_steps > 5 THEN 'high_parallelism'
		WHEN c.ready_steps > 1 THEN 'moderate_parallelism'
		WHEN c.ready_steps = 1 THEN 'sequential_only'
		ELSE 'no_ready_work'
	END AS parallelism_potential
FROM tasker.task_execution_contexts c
CROSS JOIN LATERAL (
	SELECT count(*) FILTER (WHERE r.total_parents = 0) AS root_step_count,
		coalesce(jsonb_agg(r.workflow_step_id ORDER BY r.workflow_step_id) FILTER (WHERE r.total_parents = 0), '[]') AS root_step_ids,
		coalesce(jsonb_agg(r.workflow_step_id ORDER BY r.workflow_step_id) FILTER (WHERE r.ready_for_execution), '[]') AS ready_step_ids,
		coalesce(jsonb_agg(r.workflow_step_id ORDER BY r.workflow_step_id) FILTER (WHERE NOT r.ready_for_execution AND r.current_state IN ('pending', 'error')), '[]') AS blocked_step_ids,
		coalesce(jsonb_agg(r.blocking_reason ORDER BY r.workflow_step_id) FILTER (WHERE NOT r.ready_for_execution AND r.current_state IN ('pending', 'error')), '[]') AS blocking_reasons
	-- The function keeps to the keys where statistics would have the view read all steps.
	FROM tasker.step_readiness_statuses(ARRAY[c.task_id]) r
) step
CROSS JOIN LATERAL (
	SELECT max(level.depth) AS max_dependency_depth, max(level.width) AS parallel_branches
	FROM (SELECT d.longest AS depth, count(*) AS width FROM tasker.step_depths(c.task_id) d GROUP BY d.longest) level
) graph
CROSS JOIN LATERAL (
	SELECT CASE
		WHEN c.ready_steps > 5 THEN 'batch_parallel'
		WHEN c.ready_steps > 1 THEN 'small_parallel'
		WHEN c.ready_steps = 1 THEN 'sequential'
		ELSE 'waiting'
	END AS processing_strategy,
	CASE
		WHEN c.ready_steps > 5 THEN 10
		WHEN c.ready_steps > 1 THEN 3
		ELSE c.ready_steps::integer
	END AS recommended_batch_size
) plan;
COMMENT ON VIEW tasker.task_workflow_summaries IS
'Each task in one row: the columns of task_execution_contexts, its roots, what may run and what may not, and its shape. For dashboards and batch tools; ask by task_id.';
COMMENT ON COLUMN tasker.task_workflow_summaries.ready_step_ids IS 'The steps that may run now, ascending; [] where there is none.';
COMMENT ON COLUMN tasker.task_workflow_summaries.next_executable_step_ids IS 'The same, but NULL where there is none.';
COMMENT ON COLUMN tasker.task_workflow_summaries.blocked_step_ids IS 'The steps, pending or in error, that may not run now, ascending. What is in progress or has ended is not blocked.';
COMMENT ON COLUMN tasker.task_workflow_summaries.blocking_reasons IS 'For each of blocked_step_ids, at the same place, its blocking_reason as in step_readiness_statuses.';
COMMENT ON COLUMN tasker.task_workflow_summaries.max_dependency_depth IS 'Edges on the longest path from a root; NULL for a task without steps.';
COMMENT ON COLUMN tasker.task_workflow_summaries.parallel_branches IS 'Steps on the widest level, which is as many as can run at once if levels go together; NULL for a task without steps.';
COMMENT ON COLUMN tasker.task_workflow_summaries.processing_strategy IS 'By the number of ready steps: batch_parallel (more than 5), small_parallel, sequential (1), waiting.';
COMMENT ON COLUMN tasker.task_workflow_summaries.recommended_batch_size IS 'How many steps to claim at once: 10, 3, 1 or 0 by processing_strategy.';
COMMENT ON COLUMN tasker.task_workflow_summaries.processing_recommendation IS 'strategy, step_ids (the ready ones), parallel_safe (there are several, and ready steps never depend on each other), batch_size.';
COMMENT ON COLUMN tasker.task_workflow_summaries.workflow_efficiency IS 'optimal (steps are ready, none is in error), recovering (ready ones and failed ones), processing, complete, blocked (a step failed for good or was cancelled and nothing is left to run), waiting (also for a backoff).';
COMMENT ON COLUMN tasker.task_workflow_summaries.parallelism_potential IS 'By the number of ready steps: high_parallelism (more than 5), moderate_parallelism, sequential_only (1), no_ready_work.';
