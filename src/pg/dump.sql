-- What pg_dump keeps: every durable table and sequence. The work queue and the
-- timers are accelerators and are rebuilt by resume() after a restore. Periods
-- of the logs that come later are no members of the extension and need no entry.
DO $$
DECLARE
	relation text;
BEGIN
	FOREACH relation IN ARRAY ARRAY['task_namespaces', 'named_tasks', 'dependent_systems', 'named_steps',
		'handlers', 'capability_grants', 'named_tasks_named_steps', 'named_step_edges', 'custom_events', 'named_step_events',
		'dependent_system_object_maps', 'dependent_system_object_maps_dependent_system_object_map_id_seq', 'tasks', 'workflow_steps', 'step_waits',
		'annotation_types', 'task_annotations', 'annotation_types_annotation_type_id_seq', 'task_annotations_task_annotation_id_seq',
		'task_transition_log', 'workflow_step_transition_log',
		'task_transition_log_p0', 'task_transition_log_p1', 'workflow_step_transition_log_p0',
		'workflow_step_transition_log_p1', 'executors',
		'orchestrator_checkpoint', 'published_events', 'published_events_event_id_seq', 'event_consumers', 'task_schedules', 'task_triggers', 'history_periods', 'task_reenqueues', 'task_namespaces_task_namespace_id_seq', 'named_tasks_named_task_id_seq',
		'dependent_systems_dependent_system_id_seq', 'named_steps_named_step_id_seq',
		'handlers_handler_id_seq', 'tasks_task_id_seq', 'workflow_steps_workflow_step_id_seq',
		'executors_executor_id_seq']
	LOOP
		PERFORM pg_extension_config_dump(format('tasker.%I', relation)::regclass, '');
	END LOOP;
END
$$;
