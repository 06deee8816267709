CREATE FUNCTION tasker.finalize_task(task_id bigint) RETURNS tasker.state
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_finalize_task';
COMMENT ON FUNCTION tasker.finalize_task(bigint) IS
'Decides a task''s outcome now and returns its state: complete when every step is complete or resolved, error when nothing of it can run any more, unchanged otherwise. The orchestrator does this by itself. Error: 42704 unknown task.';
