-- What the finalizer decides, as a table.

CREATE FUNCTION tasker.finalization_decision(task_id bigint)
RETURNS TABLE (execution_status text, action text, reason text, delay interval)
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
	SELECT c.execution_status, decision.action,
		CASE decision.action WHEN 'error_task' THEN 'steps_in_error_state' WHEN 'reenqueue' THEN decision.reason END,
		CASE decision.action WHEN 'reenqueue' THEN decision.delay END
	FROM tasker.task_execution_contexts c
	CROSS JOIN LATERAL (
		SELECT
			CASE
				WHEN c.status NOT IN ('pending', 'in_progress') THEN 'none'
				WHEN c.execution_status = 'all_complete' THEN 'complete_task'
				WHEN c.execution_status = 'blocked_by_failures' THEN 'error_task'
				ELSE 'reenqueue'
			END AS action,
			CASE c.execution_status
				WHEN 'has_ready_steps' THEN 'ready_steps_available'
				WHEN 'processing' THEN 'steps_in_progress'
				WHEN 'waiting_for_dependencies' THEN 'awaiting_dependencies'
				ELSE 'continuing_workflow'
			END AS reason,
			CASE c.execution_status
				WHEN 'has_ready_steps' THEN interval '0'
				WHEN 'processing' THEN interval '10 s'
				WHEN 'waiting_for_dependencies' THEN coalesce((
					SELECT greatest(min(s.next_retry_at) - tasker.now(), interval '0')
					FROM tasker.workflow_steps s
					WHERE s.task_id = finalization_decision.task_id AND s.state = 'error'), interval '45 s')
				ELSE interval '30 s'
			END AS delay
	) decision
	WHERE c.task_id = finalization_decision.task_id;
END;
COMMENT ON FUNCTION tasker.finalization_decision(bigint) IS
'What is to be done with a task as it stands: action complete_task, error_task (reason steps_in_error_state), reenqueue (it goes on; reason and delay say why and when to look again at the latest: ready_steps_available 0, steps_in_progress 10 s, awaiting_dependencies until the first retry is due, else 45 s), or none (it has ended). The delays matter only where reenqueuer_strategy is delayed, or to a function that is told of them; the orchestrator does not wait for them. No row where there is no such task.';
