-- The health of everything in this database, for a probe.

CREATE FUNCTION tasker.system_health_counts()
RETURNS TABLE (
	total_tasks bigint, pending_tasks bigint, in_progress_tasks bigint, complete_tasks bigint, error_tasks bigint,
	cancelled_tasks bigint, resolved_manually_tasks bigint,
	total_steps bigint, pending_steps bigint, in_progress_steps bigint, complete_steps bigint, error_steps bigint,
	cancelled_steps bigint, resolved_manually_steps bigint,
	retryable_error_steps bigint, exhausted_retry_steps bigint, in_backoff_steps bigint,
	active_connections bigint, connections bigint, max_connections integer,
	status text, reasons text[])
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
	SELECT counted.*, CASE WHEN cardinality(verdict.reasons) = 0 THEN 'healthy' ELSE 'unhealthy' END, verdict.reasons
	FROM (
		SELECT task.*, step.*, connection.*, current_setting('max_connections')::integer AS max_connections
		FROM (
			SELECT count(*) AS total_tasks,
				count(*) FILTER (WHERE t.state = 'pending'),
				count(*) FILTER (WHERE t.state = 'in_progress'),
				count(*) FILTER (WHERE t.state = 'complete'),
				count(*) FILTER (WHERE t.state = 'error') AS error_tasks,
				count(*) FILTER (WHERE t.state = 'cancelled'),
				count(*) FILTER (WHERE t.state = 'resolved_manually')
			FROM tasker.tasks t
		) task
		CROSS JOIN (
			SELECT count(*) AS total_steps,
				count(*) FILTER (WHERE s.state = 'pending'),
				count(*) FILTER (WHERE s.state = 'in_progress'),
				count(*) FILTER (WHERE s.state = 'complete'),
				count(*) FILTER (WHERE s.state = 'error') AS error_steps,
				count(*) FILTER (WHERE s.state = 'cancelled'),
				count(*) FILTER (WHERE s.state = 'resolved_manually'),
				count(*) FILTER (WHERE s.state = 'error' AND s.next_retry_at IS NOT NULL),
				count(*) FILTER (WHERE s.state = 'error' AND s.next_retry_at IS NULL),
				count(*) FILTER (WHERE s.state = 'error' AND s.next_retry_at > tasker.now())
			FROM tasker.workflow_steps s
		) step
		CROSS JOIN (
			SELECT count(*) FILTER (WHERE a.state = 'active' AND a.datname = current_database()), count(*) AS connections
			FROM pg_stat_activity a
			-- What kind of session another role's is, not everybody may see.
			WHERE a.datid IS NOT NULL AND coalesce(a.backend_type, 'client backend') = 'client backend'
		) connection
	) counted
	CROSS JOIN LATERAL (
		SELECT ARRAY(SELECT r.reason FROM (VALUES
			(counted.connections > counted.max_connections * 0.9, 'connections above 90 percent'),
			(counted.error_tasks > counted.total_tasks * 0.5, 'task errors above 50 percent'),
			(counted.error_steps > counted.total_steps * 0.5, 'step errors above 50 percent')) r (holds, reason)
			WHERE r.holds) AS reasons
	) verdict;
END;
COMMENT ON FUNCTION tasker.system_health_counts() IS
'All tasks and steps by state; a step that nothing has happened to is pending. retryable_error_steps have another attempt, in_backoff_steps are those of them whose time has not come; exhausted_retry_steps have none (at the limit, not retryable, or failed permanently). active_connections run a statement in this database (of other roles only with pg_read_all_stats), connections are the clients of the whole server. status is healthy or unhealthy, reasons says why. Reads all tasks and steps, one pass each: 0.2 s for a million steps in memory, so ask every minute, not every second.';
