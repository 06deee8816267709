-- From version 1.0 to 1.1 of tasker_testing, in one transaction; see docs/upgrading.md.
\echo Use "ALTER EXTENSION tasker_testing UPDATE" to load this file. \quit

SET LOCAL search_path = pg_catalog, pg_temp;

CREATE OR REPLACE VIEW tasker_testing.pending_delays AS
SELECT s.task_id, s.workflow_step_id, n.name AS step_name, delay.began_at, delay.due_at, delay.reason
FROM tasker.tasks t
JOIN tasker.workflow_steps s ON s.task_id = t.task_id
JOIN tasker.named_steps n ON n.named_step_id = s.named_step_id
CROSS JOIN LATERAL (
	SELECT (SELECT l.created_at FROM tasker.workflow_step_transition_log l
			WHERE l.workflow_step_id = s.workflow_step_id AND l.sort_key = s.sort_key) AS began_at,
		s.next_retry_at AS due_at,
		CASE WHEN s.backoff_request_seconds IS NULL THEN 'backoff' ELSE 'requested' END AS reason
	WHERE s.state = 'error' AND s.next_retry_at IS NOT NULL
	UNION ALL
	SELECT s.last_attempted_at, s.last_attempted_at + make_interval(secs => s.timeout_seconds), 'timeout'
	WHERE s.state = 'in_progress' AND s.timeout_seconds IS NOT NULL
	UNION ALL
	SELECT w.since, w.until, 'wait' FROM tasker.waiting_steps w
	WHERE s.state = 'in_progress' AND w.workflow_step_id = s.workflow_step_id AND w.until IS NOT NULL
) delay
WHERE t.state IN ('pending', 'in_progress')
UNION ALL
SELECT q.task_id, NULL, NULL, NULL, q.due_at, 'reenqueue'
FROM tasker.task_reenqueues q
JOIN tasker.tasks t USING (task_id)
WHERE t.state IN ('pending', 'in_progress');

COMMENT ON COLUMN tasker_testing.pending_delays.reason IS
'backoff (computed for the failed step), requested (by its handler), timeout (the end of an attempt''s time), wait (the end of a sleep, or of the patience with which a step waits for an event), or reenqueue (of the task; no step, and no began_at).';
