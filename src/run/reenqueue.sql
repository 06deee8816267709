-- Scheduling a task to be looked at again.

CREATE TABLE tasker.task_reenqueues (
	task_id bigint PRIMARY KEY,
	due_at timestamptz NOT NULL,
	reason text NOT NULL
		CONSTRAINT reenqueue_reason_has_1_to_128_characters CHECK (length(reason) BETWEEN 1 AND 128),
	role text NOT NULL
);
COMMENT ON TABLE tasker.task_reenqueues IS
'Tasks that are to be looked at again later, whatever the logs say meanwhile: one row a task at most, the earlier of two. The row goes when it is due; of a task that has ended it means nothing.';
COMMENT ON COLUMN tasker.task_reenqueues.role IS 'Who asked for it.';
CREATE INDEX reenqueues_by_time ON tasker.task_reenqueues (due_at);
COMMENT ON INDEX tasker.reenqueues_by_time IS 'Serves the orchestrator: which are due, and when the next one is.';

CREATE FUNCTION tasker.reenqueue_task(task_id bigint, delay interval DEFAULT NULL, reason text DEFAULT NULL) RETURNS text
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_reenqueue_task';
COMMENT ON FUNCTION tasker.reenqueue_task(bigint, interval, text) IS
'Has an open task looked at again from its rows, at once or after a delay. At once (delay NULL or 0): it goes back to pending with the reason (default pending_steps_remaining) in the log, and the orchestrator starts it again: ''reenqueued'', or ''already_pending''. Later (default reason retry_backoff): ''scheduled'', or ''already_scheduled'' where an earlier time stands, which stays. Steps are not touched. Nothing needs it in normal operation: the logs and timers bring every task back. Locks the task row. Errors: 42704 unknown task; TK002 the task has ended; 22023 bad delay or reason.';
