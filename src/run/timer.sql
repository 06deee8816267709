CREATE TABLE tasker.timers (
	due_at timestamptz NOT NULL,
	workflow_step_id bigint NOT NULL,
	sort_key integer NOT NULL,
	PRIMARY KEY (due_at, workflow_step_id, sort_key)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
COMMENT ON TABLE tasker.timers IS
'A row only where something is due later: the end of a backoff (the transition named is the one to error) or of an attempt''s time (the transition named is the claim). A timer whose transition is no longer the step''s latest means nothing. Rebuilt from workflow_steps by tasker.rebuild_accelerators().';
COMMENT ON CONSTRAINT timers_pkey ON tasker.timers IS 'Serves the orchestrator: what is due, and when the next one is.';
