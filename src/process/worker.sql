CREATE FUNCTION tasker.orchestrator_status(
	OUT pid integer, OUT started_at timestamptz, OUT last_batch_at timestamptz, OUT batches bigint,
	OUT log_rows bigint, OUT claims bigint, OUT notifications bigint, OUT errors bigint,
	OUT last_error text, OUT status text)
LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'tasker_orchestrator_status';
COMMENT ON FUNCTION tasker.orchestrator_status() IS
'What shared memory says of this database''s orchestrator; see the view stat_orchestrator.';

CREATE VIEW tasker.stat_orchestrator AS
SELECT s.status, s.pid, s.started_at, s.last_batch_at, s.batches, s.log_rows, s.claims, s.notifications,
	s.errors, s.last_error, c.position, c.saved_at AS checkpoint_at,
	CASE WHEN c.system_identifier <> (SELECT h.identifier FROM tasker.home h) THEN 'restored'
		WHEN c.paused_at IS NOT NULL THEN 'paused' END AS holds_dispatch,
	m.batches_per_second, m.log_rows_per_second, m.claims_per_second, m.notifications_per_second,
	m.intake_p50, m.intake_p99, m.dispatch_p50, m.dispatch_p99, m.claim_p50, m.claim_p99,
	m.execution_p50, m.execution_p99, m.batch_p50, m.batch_p99,
	m.last_error_at, m.last_error_sqlstate, m.last_error_repeats, m.unread_rows, m.unread_seconds,
	extract(epoch FROM tasker.now() - c.saved_at)::double precision AS checkpoint_seconds,
	m.memory_bytes, m.set_aside, m.set_aside_owners, m.measured_since
FROM tasker.orchestrator_status() s
CROSS JOIN tasker.orchestrator_measures() m
LEFT JOIN tasker.orchestrator_checkpoint c ON true;
COMMENT ON VIEW tasker.stat_orchestrator IS
'One row: whether an orchestrator serves this database (running, starting, off, held by a utility command, not preloaded), what it has done since it started, and why nothing is dispatched, if so. Rates are decayed over a minute, percentiles are those of stat_latencies, in seconds; what comes from shared memory is NULL where tasker is not preloaded. Read by operators and monitoring.';
COMMENT ON COLUMN tasker.stat_orchestrator.last_error_repeats IS 'How often this very error has come in a row.';
COMMENT ON COLUMN tasker.stat_orchestrator.unread_rows IS 'Rows of the logs that were committed and no batch has read, as the sessions that wrote them counted; those of prepared transactions, and of the time before a crash, are not counted.';
COMMENT ON COLUMN tasker.stat_orchestrator.unread_seconds IS 'The lag behind the logs: for how long the oldest commit with news has been unread; 0: all is read.';
COMMENT ON COLUMN tasker.stat_orchestrator.checkpoint_seconds IS 'Since the last checkpoint. An idle orchestrator saves none.';
COMMENT ON COLUMN tasker.stat_orchestrator.memory_bytes IS 'What the orchestrator''s process has allocated, counted once a second while it works.';
COMMENT ON COLUMN tasker.stat_orchestrator.set_aside IS 'How many tasks and steps this orchestrator could not process and leaves alone until it is started again.';
COMMENT ON COLUMN tasker.stat_orchestrator.set_aside_owners IS 'The first 32 of them, as "task 7" or "step 9"; the server log has the error of each.';
COMMENT ON COLUMN tasker.stat_orchestrator.measured_since IS 'When the measuring began: at the first use since the server''s start, or at the last reset_stats().';
