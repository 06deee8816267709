-- What roles that are confined to namespaces see: row security on every table,
-- and views that look with the rights of whoever asks. The owner of the extension
-- is not subject to it, so nothing changes for functions that run as the owner.

DO $$
DECLARE
	item record;
BEGIN
	FOR item IN SELECT * FROM (VALUES
		('task_namespaces', 'task_namespace_id = ANY ((SELECT tasker.visible_namespaces())::integer[])'),
		('named_tasks', 'task_namespace_id = ANY ((SELECT tasker.visible_namespaces())::integer[])'),
		('tasks', 'task_namespace_id = ANY ((SELECT tasker.visible_namespaces())::integer[])'),
		('named_tasks_named_steps', 'tasker.sees_template(named_task_id)'),
		('named_step_edges', 'tasker.sees_template(named_task_id)'),
		('named_step_events', 'tasker.sees_template(named_task_id)'),
		('named_steps', $p$tasker.sees_name('named_step', named_step_id)$p$),
		('handlers', $p$tasker.sees_name('handler', handler_id)$p$),
		('custom_events', $p$tasker.sees_event('event', name)$p$),
		('annotation_types', $p$tasker.sees_name('annotation_type', annotation_type_id)$p$),
		('workflow_steps', 'tasker.sees_task(task_id)'),
		('task_annotations', 'tasker.sees_task(task_id)'),
		('task_reenqueues', 'tasker.sees_task(task_id)'),
		('task_transition_log', 'tasker.sees_task(task_id)'),
		('workflow_step_transition_log', 'tasker.sees_step(workflow_step_id)'),
		('work_queue', 'tasker.sees_step(workflow_step_id)'),
		('timers', 'tasker.sees_step(workflow_step_id)'),
		('step_waits', 'tasker.sees_step(workflow_step_id)'),
		('published_events', 'task_id IS NOT NULL AND tasker.sees_task(task_id)'),
		('executors', 'tasker.sees_role(role)'),
		('capability_grants', 'tasker.sees_role(role_name) OR task_namespace_id = ANY ((SELECT tasker.visible_namespaces())::integer[])'),
		-- These belong to no namespace.
		('dependent_systems', 'false'), ('dependent_system_object_maps', 'false'),
		('orchestrator_checkpoint', 'false'), ('history_periods', 'false'), ('log_marks', 'false'),
		('event_consumers', 'false'), ('task_schedules', 'false'), ('task_triggers', 'false')) p (relation, visible)
	LOOP
		EXECUTE format('ALTER TABLE tasker.%I ENABLE ROW LEVEL SECURITY', item.relation);
		EXECUTE format('CREATE POLICY tenants ON tasker.%I USING ((SELECT tasker.sees_everything()) OR %s)', item.relation, item.visible);
		EXECUTE format('COMMENT ON POLICY tenants ON tasker.%I IS %L', item.relation, 'Roles that are confined to namespaces see what is theirs; all others see everything.');
	END LOOP;
	FOR item IN
		SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'tasker'::regnamespace AND c.relkind = 'v'
	LOOP
		EXECUTE format('ALTER VIEW tasker.%I SET (security_invoker = true)', item.relname);
	END LOOP;
END
$$;
