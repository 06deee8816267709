-- Tasks that a session runs itself.

CREATE FUNCTION tasker.coordinate_task(task_id bigint, max_steps integer DEFAULT NULL,
	OUT state tasker.state, OUT step_runs integer, OUT failed_runs integer, OUT next_retry_at timestamptz)
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_coordinate_task';
COMMENT ON FUNCTION tasker.coordinate_task(bigint, integer) IS
'Runs a task here and now: draws what follows from its state, runs each step that may run by execute_step, and again, until nothing can run or max_steps have run. state: of the task then; step_runs and failed_runs: how many attempts were made here, and failed; next_retry_at: when a step may run again, so call it then. Where the template''s coordinator_strategy is a function f(jsonb) RETURNS void, that is called instead, with {"task_id": ...} and as the owner of the template, to find (find_viable_steps) and run (execute_step) the steps in its own way; the counts are NULL then. All in the caller''s transaction, which holds the row of the task and those of the steps it has run until its end; the orchestrator goes on with other tasks meanwhile. The handlers must be SQL functions, see execute_step. Errors: 42704 unknown task; those of execute_step.';
