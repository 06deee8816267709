-- What must not be dispatched now.

CREATE FUNCTION tasker.pause(namespace text DEFAULT NULL, task_name text DEFAULT NULL, version text DEFAULT NULL) RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_pause';
COMMENT ON FUNCTION tasker.pause(text, text, text) IS
'Stops the dispatch of steps: of everything, of a namespace, of a named task, or of one version of it. Steps in progress go on and may report. Error: 42704 no such namespace or template.';
CREATE FUNCTION tasker.resume(namespace text DEFAULT NULL, task_name text DEFAULT NULL, version text DEFAULT NULL) RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_resume';
COMMENT ON FUNCTION tasker.resume(text, text, text) IS
'Ends the pause of the same scope; a pause of everything or of the namespace stays when a template is resumed, and the other way round. A template''s pause is a mark on each of its versions. Without arguments, on a restored or cloned database, it also adopts the database: accelerators are rebuilt and dispatch begins. Error: 42704 no such namespace or template.';

CREATE FUNCTION tasker.rebuild_accelerators() RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_rebuild_accelerators';
COMMENT ON FUNCTION tasker.rebuild_accelerators() IS
'Throws away the work queue, the timers and the checkpoint and makes them again from tasks and steps. Waits for the orchestrator''s batch; changes no state.';
