-- Why a task does not move, with and without preloading: what does not depend on who orchestrates.
SELECT test.template('why', 'a; b<-a', '{"handler_class": "why"}') > 0 AS registered;
SELECT tasker.create_task('why', namespace => 'test') AS task \gset
SELECT tasker.orchestrate() > 0 AS orchestrated;
CREATE FUNCTION pg_temp.why(task bigint) RETURNS TABLE (about text, reason text, has_advice boolean) LANGUAGE sql AS $$
	SELECT about, regexp_replace(regexp_replace(reason, '\d{4}-\d\d-\d\d \d\d:\d\d:\d\d', 'TIME', 'g'), 'xecutor \d+', 'xecutor N', 'g'), advice IS NOT NULL
	FROM tasker.why(task) WHERE about <> 'orchestrator'
$$;
SELECT * FROM pg_temp.why(:task);
SELECT executor_id AS executor FROM tasker.register_executor('why', '{why}', 0) \gset
SELECT * FROM pg_temp.why(:task);
SELECT claim, workflow_step_id AS step FROM tasker.claim_steps(:executor) \gset
SELECT * FROM pg_temp.why(:task);
SELECT tasker.fail_step(:step, :claim, 'not today', retryable => false);
SELECT tasker.orchestrate() > 0 AS orchestrated;
SELECT * FROM pg_temp.why(:task);
SELECT tasker.resolve_task(:task);
SELECT * FROM pg_temp.why(:task);
SELECT * FROM tasker.why(NULL);
-- what is measured is there or it is not, all of it
SELECT (SELECT count(*) FROM tasker.stat_latencies) = CASE WHEN measured_since IS NULL THEN 0 ELSE 135 END AS agree FROM tasker.stat_orchestrator;
SELECT CASE WHEN o.measured_since IS NULL THEN e.claims IS NULL AND e.last_seen_at IS NULL
	ELSE e.claims = 1 AND e.failures = 1 AND e.last_error = 'not today' END AS agree
FROM tasker.stat_executors e, tasker.stat_orchestrator o WHERE e.executor_id = :executor;
SELECT tasker.reset_stats();
SELECT tasker.unregister_executor(:executor);
