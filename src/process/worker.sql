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
		WHEN c.paused_at IS NOT NULL THEN 'paused' END AS holds_dispatch
FROM tasker.orchestrator_status() s
LEFT JOIN tasker.orchestrator_checkpoint c ON true;
COMMENT ON VIEW tasker.stat_orchestrator IS
'One row: whether an orchestrator serves this database (running, starting, off, held by a utility command, not preloaded), what it has done since it started, and why nothing is dispatched, if so. Read by operators and monitoring.';
