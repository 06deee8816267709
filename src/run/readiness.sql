-- Readiness: may a step run now, and if not, what is it waiting for. One row a
-- step and one row a task, computed from the rows of truth, never stored.
--
-- These views are written to be asked for one task among a million. A condition
-- on task_id or on workflow_step_id reaches the scan of workflow_steps, and what
-- hangs on a step is fetched by subplans with all key columns, which no wrong
-- statistics can turn into a scan of a whole table.

CREATE VIEW tasker.step_readiness_statuses AS
SELECT s.workflow_step_id, s.task_id, s.named_step_id, n.name, s.state AS current_state,
	rule.dependencies_satisfied, rule.retry_eligible, verdict.ready AS ready_for_execution,
	(SELECT l.created_at FROM tasker.workflow_step_transition_log l
		WHERE s.state = 'error' AND l.workflow_step_id = s.workflow_step_id AND l.sort_key = s.sort_key) AS last_failure_at,
	s.next_retry_at,
	parent.total AS total_parents, parent.completed AS completed_parents,
	s.attempts, s.retry_limit, s.backoff_request_seconds, s.last_attempted_at,
	CASE
		WHEN verdict.ready THEN NULL
		WHEN NOT rule.dependencies_satisfied THEN 'dependencies_not_satisfied'
		WHEN s.state = 'error' AND NOT rule.retry_eligible THEN 'retry_not_eligible'
		WHEN s.state NOT IN ('pending', 'error') OR t.state NOT IN ('pending', 'in_progress') THEN 'invalid_state'
		ELSE 'unknown'
	END AS blocking_reason,
	CASE
		WHEN verdict.ready THEN 0
		ELSE greatest(extract(epoch FROM s.next_retry_at - tasker.now())::double precision,
			CASE WHEN s.next_retry_at IS NOT NULL THEN 0 END)
	END AS time_until_ready,
	CASE
		WHEN parent.total = 0 THEN 'no_dependencies'
		WHEN rule.dependencies_satisfied THEN 'all_satisfied'
		ELSE parent.completed || '/' || parent.total || '_satisfied'
	END AS dependency_status,
	CASE
		WHEN NOT rule.retry_eligible THEN 'max_retries_reached'
		WHEN s.state = 'error' AND s.next_retry_at > tasker.now() THEN 'waiting_for_backoff'
		ELSE 'retry_eligible'
	END AS retry_status,
	CASE
		WHEN s.backoff_request_seconds IS NOT NULL AND s.last_attempted_at IS NOT NULL THEN 'explicit_backoff'
		WHEN s.state = 'error' THEN 'exponential_backoff'
		ELSE 'no_backoff'
	END AS backoff_type
FROM tasker.workflow_steps s
JOIN tasker.tasks t ON t.task_id = s.task_id
LEFT JOIN tasker.named_steps n ON n.named_step_id = s.named_step_id
CROSS JOIN LATERAL (
	-- Whether anything of the task may run: asked once a task, not once a step.
	SELECT t.state IN ('pending', 'in_progress')
		AND NOT EXISTS (SELECT FROM tasker.orchestrator_checkpoint c WHERE c.paused_at IS NOT NULL)
		AND NOT EXISTS (SELECT FROM tasker.task_namespaces ns WHERE ns.task_namespace_id = t.task_namespace_id AND ns.paused_at IS NOT NULL)
		AND (SELECT nt.paused_at IS NULL
				AND (nt.concurrent OR NOT EXISTS (SELECT FROM tasker.workflow_steps o WHERE o.task_id = t.task_id AND o.state = 'in_progress'))
			FROM tasker.named_tasks nt WHERE nt.named_task_id = t.named_task_id) AS is_open
	OFFSET 0
) gate
CROSS JOIN LATERAL (
	SELECT count(*)::integer AS total,
		count(*) FILTER (WHERE (
			SELECT p.state FROM tasker.workflow_steps p
			WHERE p.task_id = s.task_id AND p.named_step_id = e.from_named_step_id
		) IN ('complete', 'resolved_manually'))::integer AS completed
	FROM tasker.named_step_edges e
	WHERE e.named_task_id = t.named_task_id AND e.to_named_step_id = s.named_step_id
) parent
CROSS JOIN LATERAL (
	SELECT parent.completed = parent.total AS dependencies_satisfied,
		NOT s.failed_permanently
			AND (s.attempts = 0 OR (s.retryable AND s.attempts < s.retry_limit)) AS retry_eligible
) rule
CROSS JOIN LATERAL (
	SELECT rule.dependencies_satisfied
		AND gate.is_open
		AND (s.state = 'pending'
			OR (s.state = 'error' AND rule.retry_eligible
				AND coalesce(s.next_retry_at <= tasker.now(), false))) AS ready
) verdict;
COMMENT ON VIEW tasker.step_readiness_statuses IS
'Whether each step may run now, and what it waits for. For people, dashboards and check(); ask by task_id or workflow_step_id.';
COMMENT ON COLUMN tasker.step_readiness_statuses.dependencies_satisfied IS 'Every parent is complete or resolved_manually.';
COMMENT ON COLUMN tasker.step_readiness_statuses.retry_eligible IS 'Another attempt is allowed: the first one always, further ones while the step is retryable and below its limit, none after a permanent failure.';
COMMENT ON COLUMN tasker.step_readiness_statuses.ready_for_execution IS 'The step may run now: dependencies satisfied, its task open and not paused, and the step pending or due for its retry.';
COMMENT ON COLUMN tasker.step_readiness_statuses.last_failure_at IS 'When the step failed, while error is its state.';
COMMENT ON COLUMN tasker.step_readiness_statuses.next_retry_at IS 'The one time that counts, requested by the executor or computed from the backoff.';
COMMENT ON COLUMN tasker.step_readiness_statuses.blocking_reason IS 'NULL where ready; dependencies_not_satisfied, retry_not_eligible, invalid_state (of the step or its task), or unknown: it waits for its backoff, for its turn where one step runs at a time, or is paused.';
COMMENT ON COLUMN tasker.step_readiness_statuses.time_until_ready IS 'Seconds; 0 where ready, NULL where no time will make it so.';
COMMENT ON COLUMN tasker.step_readiness_statuses.dependency_status IS 'no_dependencies, all_satisfied, or completed/total_satisfied.';
COMMENT ON COLUMN tasker.step_readiness_statuses.retry_status IS 'max_retries_reached (no attempt is left, for whatever reason), waiting_for_backoff, or retry_eligible.';
COMMENT ON COLUMN tasker.step_readiness_statuses.backoff_type IS 'explicit_backoff (the executor asked for it), exponential_backoff, or no_backoff.';

CREATE VIEW tasker.task_execution_contexts AS
SELECT t.task_id, t.named_task_id, t.state AS status,
	step.total AS total_steps, step.pending AS pending_steps, step.in_progress AS in_progress_steps,
	step.completed AS completed_steps, step.failed AS failed_steps, step.ready AS ready_steps,
	verdict.execution_status, verdict.recommended_action,
	CASE WHEN step.total = 0 THEN 0.0
		ELSE round(step.completed * 100.0 / step.total, 2)
	END AS completion_percentage,
	verdict.health_status, step.cancelled AS cancelled_steps,
	verdict.execution_status IN ('has_ready_steps', 'processing') AS has_work_to_do,
	t.state IN ('pending', 'in_progress')
		AND verdict.execution_status IN ('processing', 'waiting_for_dependencies') AS should_reenqueue,
	verdict.needs_intervention,
	CASE
		WHEN t.state IN ('complete', 'cancelled', 'resolved_manually') THEN
			jsonb '{"action": "none", "description": "The task has ended.", "urgency": "none", "can_proceed": false}'
		WHEN t.state = 'error' OR verdict.recommended_action = 'handle_failures' THEN
			jsonb '{"action": "handle_failures", "description": "Nothing more can run: retry or resolve the steps that failed.", "urgency": "critical", "can_proceed": false}'
		WHEN verdict.recommended_action = 'execute_ready_steps' THEN
			jsonb '{"action": "execute_ready_steps", "description": "Steps are ready for an executor.", "urgency": "high", "can_proceed": true}'
		WHEN verdict.recommended_action = 'wait_for_completion' THEN
			jsonb '{"action": "wait_for_completion", "description": "Executors are at work.", "urgency": "low", "can_proceed": false}'
		WHEN verdict.recommended_action = 'finalize_task' THEN
			jsonb '{"action": "finalize_task", "description": "All steps are done: the orchestrator closes the task.", "urgency": "medium", "can_proceed": true}'
		ELSE
			jsonb '{"action": "wait_for_dependencies", "description": "Steps wait for a retry, or until something is resumed.", "urgency": "low", "can_proceed": false}'
	END AS next_action_details,
	jsonb_build_object('completed_ratio', step.completed || '/' || step.total,
		'percentage', CASE WHEN step.total = 0 THEN 0.0 ELSE round(step.completed * 100.0 / step.total, 2) END || '%',
		'remaining_steps', step.total - step.completed,
		'failed_steps', step.failed, 'ready_steps', step.ready) AS progress_details
FROM tasker.tasks t
CROSS JOIN LATERAL (
	SELECT count(*) AS total,
		count(*) FILTER (WHERE r.current_state = 'pending') AS pending,
		count(*) FILTER (WHERE r.current_state = 'in_progress') AS in_progress,
		count(*) FILTER (WHERE r.current_state IN ('complete', 'resolved_manually')) AS completed,
		count(*) FILTER (WHERE r.current_state = 'error') AS failed,
		count(*) FILTER (WHERE r.current_state = 'cancelled') AS cancelled,
		count(*) FILTER (WHERE r.ready_for_execution) AS ready,
		count(*) FILTER (WHERE r.current_state = 'error' AND NOT r.retry_eligible) AS permanently_blocked
	FROM tasker.step_readiness_statuses r
	WHERE r.task_id = t.task_id
) step
CROSS JOIN LATERAL (
	-- Failures come after work that can still be done, but before waiting: a
	-- step that failed for good or was cancelled leaves nothing to wait for
	-- unless another one is in its backoff.
	SELECT CASE
		WHEN step.ready > 0 THEN 'has_ready_steps'
		WHEN step.in_progress > 0 THEN 'processing'
		WHEN step.completed = step.total AND step.total > 0 THEN 'all_complete'
		WHEN step.permanently_blocked + step.cancelled > 0 AND step.failed = step.permanently_blocked THEN 'blocked_by_failures'
		ELSE 'waiting_for_dependencies'
	END AS execution_status,
	CASE
		WHEN step.failed = 0 THEN 'healthy'
		WHEN step.ready > 0 THEN 'recovering'
		WHEN step.permanently_blocked > 0 THEN 'blocked'
		ELSE 'recovering'
	END AS health_status
) status
CROSS JOIN LATERAL (
	SELECT status.*,
		CASE status.execution_status
			WHEN 'has_ready_steps' THEN 'execute_ready_steps'
			WHEN 'processing' THEN 'wait_for_completion'
			WHEN 'all_complete' THEN 'finalize_task'
			WHEN 'blocked_by_failures' THEN 'handle_failures'
			ELSE 'wait_for_dependencies'
		END AS recommended_action,
		t.state = 'error' OR (t.state IN ('pending', 'in_progress')
			AND (status.execution_status = 'blocked_by_failures' OR status.health_status = 'blocked')) AS needs_intervention
) verdict;
COMMENT ON VIEW tasker.task_execution_contexts IS
'How far each task has come and what it needs next. For people and dashboards; ask by task_id.';
COMMENT ON COLUMN tasker.task_execution_contexts.completed_steps IS 'Complete or resolved_manually.';
COMMENT ON COLUMN tasker.task_execution_contexts.failed_steps IS 'In error, those that will run again included.';
COMMENT ON COLUMN tasker.task_execution_contexts.execution_status IS 'The first that holds: has_ready_steps, processing, all_complete, blocked_by_failures (a step failed for good or was cancelled, and none waits for its backoff), waiting_for_dependencies.';
COMMENT ON COLUMN tasker.task_execution_contexts.health_status IS 'healthy (no step in error), recovering, or blocked (a step failed for good and none is ready).';
COMMENT ON COLUMN tasker.task_execution_contexts.has_work_to_do IS 'Steps are ready or in progress.';
COMMENT ON COLUMN tasker.task_execution_contexts.should_reenqueue IS 'The task is open and worth another look later: steps are in progress, or wait for a retry or for what is paused.';
COMMENT ON COLUMN tasker.task_execution_contexts.needs_intervention IS 'A person is needed: the task is in error, or it is open, a step of it failed for good or was cancelled, and no other one is ready.';
COMMENT ON COLUMN tasker.task_execution_contexts.next_action_details IS 'action (recommended_action, but handle_failures for every task in error and none for one that has ended), description, urgency (critical, high, medium, low, none) and can_proceed (something can be done without waiting).';
COMMENT ON COLUMN tasker.task_execution_contexts.progress_details IS 'completed_ratio (text, completed/total), percentage (text), remaining_steps, failed_steps, ready_steps.';

CREATE FUNCTION tasker.step_readiness_status(task_id bigint, step_ids bigint[] DEFAULT NULL)
RETURNS SETOF tasker.step_readiness_statuses
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
	SELECT r.* FROM tasker.step_readiness_statuses r
	WHERE r.task_id = step_readiness_status.task_id
		AND (step_ids IS NULL OR r.workflow_step_id = ANY (step_ids));
END;
COMMENT ON FUNCTION tasker.step_readiness_status(bigint, bigint[]) IS
'Readiness of the steps of a task, or of those given; no row where there is no such task.';

CREATE FUNCTION tasker.task_execution_context(task_id bigint)
RETURNS SETOF tasker.task_execution_contexts
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
	SELECT c.* FROM tasker.task_execution_contexts c
	WHERE c.task_id = task_execution_context.task_id;
END;
COMMENT ON FUNCTION tasker.task_execution_context(bigint) IS
'The execution context of one task; no row where there is no such task.';

-- Many tasks in one call: the views are asked for each one by its key, so that
-- what one costs is what many cost, whatever the planner believes of the tables.
-- Joined as a whole, it would have to guess how many steps they have.
CREATE FUNCTION tasker.step_readiness_statuses(task_ids bigint[])
RETURNS SETOF tasker.step_readiness_statuses
LANGUAGE sql STABLE PARALLEL SAFE ROWS 5000
SET enable_seqscan = off
SET jit = off
BEGIN ATOMIC
	SELECT r.*
	FROM (SELECT DISTINCT u.task_id FROM unnest(task_ids) u (task_id)) asked
	CROSS JOIN LATERAL (SELECT r.* FROM tasker.step_readiness_statuses r WHERE r.task_id = asked.task_id OFFSET 0) r;
END;
COMMENT ON FUNCTION tasker.step_readiness_statuses(bigint[]) IS
'step_readiness_status() of many tasks: the rows of the view of the same name, each task once however often it is named. No row for a task that does not exist.';

CREATE FUNCTION tasker.task_execution_contexts(task_ids bigint[])
RETURNS SETOF tasker.task_execution_contexts
LANGUAGE sql STABLE PARALLEL SAFE ROWS 500
SET enable_seqscan = off
SET jit = off
BEGIN ATOMIC
	SELECT c.*
	FROM (SELECT DISTINCT u.task_id FROM unnest(task_ids) u (task_id)) asked
	CROSS JOIN LATERAL (SELECT c.* FROM tasker.task_execution_contexts c WHERE c.task_id = asked.task_id OFFSET 0) c;
END;
COMMENT ON FUNCTION tasker.task_execution_contexts(bigint[]) IS
'task_execution_context() of many tasks: the rows of the view of the same name, each task once however often it is named. No row for a task that does not exist.';

-- What it claims to cost and to return is read by step_dag_relationships' planner.
CREATE FUNCTION tasker.step_depths(task_id bigint)
RETURNS TABLE (workflow_step_id bigint, shortest integer, longest integer)
LANGUAGE sql STABLE PARALLEL SAFE COST 10000 ROWS 1000
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	SELECT step.*
	FROM tasker.task_edges(step_depths.task_id) edge
	CROSS JOIN LATERAL tasker.graph_depths(cardinality(edge.step_ids), edge.sources, edge.targets) depth
	CROSS JOIN LATERAL unnest(edge.step_ids, depth.shortest, depth.longest) step;
END;
COMMENT ON FUNCTION tasker.step_depths(bigint) IS
'For each step of a task its shortest and longest distance from a root, 0 at the roots. Read by step_dag_relationships and dependency_levels.';

CREATE FUNCTION tasker.dependency_levels(task_id bigint)
RETURNS TABLE (workflow_step_id bigint, dependency_level integer)
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
	SELECT d.workflow_step_id, d.longest
	FROM tasker.step_depths(task_id) d
	ORDER BY d.longest, d.workflow_step_id;
END;
COMMENT ON FUNCTION tasker.dependency_levels(bigint) IS
'The level of each step of a task: its longest path from a root, 0 at the roots. Steps of one level do not depend on each other. No row where there is no such task.';

-- The distances of a task are computed once for all its steps: what step_depths
-- claims to cost and to return makes a hash join of both the cheapest plan even
-- where the planner expects a single step, and not one call for each step.
CREATE VIEW tasker.step_dag_relationships AS
SELECT s.workflow_step_id, s.task_id, s.named_step_id,
	parent.ids AS parent_step_ids, child.ids AS child_step_ids,
	parent.total AS parent_count, child.total AS child_count,
	parent.total = 0 AS is_root_step, child.total = 0 AS is_leaf_step,
	depth.shortest AS min_depth_from_root
FROM tasker.tasks t
CROSS JOIN LATERAL tasker.step_depths(t.task_id) depth
JOIN tasker.workflow_steps s ON s.task_id = t.task_id AND s.workflow_step_id = depth.workflow_step_id
CROSS JOIN LATERAL (
	SELECT count(*) AS total, coalesce(jsonb_agg(p.workflow_step_id ORDER BY p.workflow_step_id), '[]') AS ids
	FROM tasker.named_step_edges e
	JOIN tasker.workflow_steps p ON p.task_id = t.task_id AND p.named_step_id = e.from_named_step_id
	WHERE e.named_task_id = t.named_task_id AND e.to_named_step_id = s.named_step_id
) parent
CROSS JOIN LATERAL (
	SELECT count(*) AS total, coalesce(jsonb_agg(c.workflow_step_id ORDER BY c.workflow_step_id), '[]') AS ids
	FROM tasker.named_step_edges e
	JOIN tasker.workflow_steps c ON c.task_id = t.task_id AND c.named_step_id = e.to_named_step_id
	WHERE e.named_task_id = t.named_task_id AND e.from_named_step_id = s.named_step_id
) child;
COMMENT ON VIEW tasker.step_dag_relationships IS
'The place of each step in the graph of its task. For people and tools that draw; ask by task_id or workflow_step_id.';
COMMENT ON COLUMN tasker.step_dag_relationships.parent_step_ids IS 'The steps it waits for, ascending.';
COMMENT ON COLUMN tasker.step_dag_relationships.child_step_ids IS 'The steps that wait for it, ascending.';
COMMENT ON COLUMN tasker.step_dag_relationships.min_depth_from_root IS 'Length of the shortest path from a root, 0 at the roots; for the longest see dependency_levels().';
