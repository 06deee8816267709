-- Waiting without polling and without LISTEN, outside of any snapshot.

CREATE PROCEDURE tasker.await_steps(executor_id bigint, max integer DEFAULT 1, timeout interval DEFAULT NULL,
	INOUT steps jsonb DEFAULT NULL)
LANGUAGE c AS 'MODULE_PATHNAME', 'tasker_await_steps';
COMMENT ON PROCEDURE tasker.await_steps(bigint, integer, interval, jsonb) IS
'Blocking pull: claims up to max ready steps for an executor, as claim_steps does, and waits for some if there are none. steps: an array of objects with the columns of tasker.claimed_step, and traceparent where the task has one (see step_traceparent), empty after the timeout (NULL: waits without end, 0: does not wait). Woken by the commit that brings steps; while waiting it holds no snapshot, no lock and no row, and it counts as the heartbeat of a detached executor. Where tasker is not preloaded it looks again by itself, after 10 ms at first and then ever later, at least each second. Register the executor with capacity 0 if it only pulls. Must be called outside of a transaction block. Errors: 25001 in a transaction block or from a function; 42704 unknown executor; 55000 the executor has ended, also while it waits; 22023 max is not 1 to 10000.';

CREATE PROCEDURE tasker.await_task(task_id bigint, timeout interval DEFAULT NULL, INOUT state tasker.state DEFAULT NULL)
LANGUAGE c AS 'MODULE_PATHNAME', 'tasker_await_task';
COMMENT ON PROCEDURE tasker.await_task(bigint, interval, tasker.state) IS
'Waits until a task has come to an end and gives its state: complete, error, cancelled or resolved_manually; NULL after the timeout (NULL: waits without end, 0: does not wait). Waits as await_steps does, on a standby by looking again as without preload. Must be called outside of a transaction block. Errors: 25001 in a transaction block or from a function; 42704 unknown task.';
