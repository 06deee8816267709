CREATE TABLE tasker.work_queue (
	handler_id integer NOT NULL,
	rank smallint NOT NULL,
	workflow_step_id bigint NOT NULL,
	PRIMARY KEY (handler_id, rank, workflow_step_id)
) WITH (fillfactor = 90, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
COMMENT ON TABLE tasker.work_queue IS
'A row only for a step that is ready and has no executor yet. handler and rank of a step never change, so the key is unique by step. An accelerator: rebuilt from workflow_steps by tasker.rebuild_accelerators().';
COMMENT ON CONSTRAINT work_queue_pkey ON tasker.work_queue IS 'Serves claims: the next steps of a handler by rank, oldest first.';
