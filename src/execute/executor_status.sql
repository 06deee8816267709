-- What runs now.

-- Which steps are in flight is not indexed, because an index on a state would
-- make every change of state dearer. The checkpoint knows the steps that were
-- out when it was saved, and the log what was claimed since and has not gone
-- on; each candidate is then looked up by its key. The range of the log is
-- closed at the top, though nothing is above it: of a range the planner expects
-- few rows and takes the index, of a lower bound alone a third of the log.
CREATE FUNCTION tasker.steps_in_flight() RETURNS TABLE (executor_id bigint, steps bigint)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 20
SET jit = off
BEGIN ATOMIC
	WITH candidate AS (
		SELECT unnest(c.in_flight_steps) AS workflow_step_id
		FROM tasker.orchestrator_checkpoint c
		UNION
		SELECT l.workflow_step_id
		FROM tasker.workflow_step_transition_log l
		WHERE l.xact_id >= coalesce((SELECT pg_snapshot_xmax(c.position) FROM tasker.orchestrator_checkpoint c), '0')
			AND l.xact_id <= '18446744073709551615'
			AND (SELECT tasker.sees_everything())
		GROUP BY l.workflow_step_id
		HAVING max(l.sort_key) FILTER (WHERE l.to_state = 'in_progress') = max(l.sort_key)
		UNION
		SELECT l.workflow_step_id
		FROM tasker.workflow_step_transition_log l
		WHERE l.xact_id = ANY (ARRAY(SELECT pg_snapshot_xip(c.position) FROM tasker.orchestrator_checkpoint c))
			AND l.to_state = 'in_progress'
	), holder AS MATERIALIZED (
		SELECT (SELECT s.executor_id FROM tasker.workflow_steps s
			WHERE s.workflow_step_id = candidate.workflow_step_id AND s.state = 'in_progress') AS executor_id
		FROM candidate
	)
	SELECT holder.executor_id, count(*) AS steps
	FROM holder
	WHERE holder.executor_id IS NOT NULL
	GROUP BY holder.executor_id;
END;
COMMENT ON FUNCTION tasker.steps_in_flight() IS
'How many steps each executor has now. Read by stat_executors, and not compiled: that would take longer than to run it.';

CREATE VIEW tasker.stat_executors AS
SELECT e.executor_id, e.name,
	ARRAY(SELECT DISTINCT h.name FROM tasker.handlers h WHERE h.handler_id = ANY (e.handlers) ORDER BY h.name) AS handlers,
	e.capacity, e.detached, e.lease, e.role, e.registered_at, e.last_heartbeat_at, e.ended_at, e.end_reason,
	CASE WHEN tasker.sees_everything() THEN coalesce(in_flight.steps, 0) END AS in_flight,
	m.claims, m.completions, m.failures, m.releases, m.losses, m.claims_per_second, m.completions_per_second,
	m.execution_p50, m.execution_p99, m.last_error, m.last_error_at, m.last_seen_at
FROM tasker.executors e
LEFT JOIN tasker.steps_in_flight() in_flight ON in_flight.executor_id = e.executor_id
LEFT JOIN tasker.executor_measures() m ON m.executor_id = e.executor_id;
COMMENT ON VIEW tasker.stat_executors IS
'Who runs steps, or ran them (ended_at), how many steps each one has now, and what it has done since the server''s start or reset_stats(). What is measured begins with its first claim and is kept for tasker.max_executors of them on the server, those that have ended making way for others; it is NULL before, beyond that, and where tasker is not preloaded. For operators and dashboards.';
COMMENT ON COLUMN tasker.stat_executors.handlers IS 'The names of what it can run.';
COMMENT ON COLUMN tasker.stat_executors.in_flight IS 'Steps in progress with this executor; NULL for a role that is confined to namespaces, which may ask my_steps().';
COMMENT ON COLUMN tasker.stat_executors.losses IS 'Steps that were taken back: it was lost, or the attempt took longer than its timeout.';
COMMENT ON COLUMN tasker.stat_executors.execution_p50 IS 'Seconds from the claim to the report, of half of its steps at most.';
COMMENT ON COLUMN tasker.stat_executors.last_error IS 'The last failure that it reported, 255 bytes of it.';
COMMENT ON COLUMN tasker.stat_executors.last_seen_at IS 'Its last report or heartbeat.';
