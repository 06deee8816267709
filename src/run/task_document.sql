-- A task as one document, for those who show a task and all of its steps.

-- Steps with the same parents are many where a fan-out is wide, and each names
-- all others: beyond a thousand the list would outgrow everything else. The
-- fences (OFFSET 0) keep the order of the joins, whatever statistics say.
CREATE FUNCTION tasker.step_documents(task_id bigint) RETURNS TABLE (workflow_step_id bigint, document jsonb)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	SELECT s.workflow_step_id, jsonb_build_object(
		'task_id', s.task_id, 'workflow_step_id', s.workflow_step_id,
		'name', (SELECT n.name FROM tasker.named_steps n WHERE n.named_step_id = s.named_step_id), 'named_step_id', s.named_step_id,
		'status', s.state, 'attempts', s.attempts, 'skippable', s.skippable, 'retryable', s.retryable, 'retry_limit', s.retry_limit,
		'processed', s.state = 'complete',
		'processed_at', (SELECT l.created_at FROM tasker.workflow_step_transition_log l
			WHERE s.state = 'complete' AND l.workflow_step_id = s.workflow_step_id AND l.sort_key = s.sort_key),
		'in_process', s.state = 'in_progress',
		'backoff_request_seconds', s.backoff_request_seconds, 'last_attempted_at', s.last_attempted_at,
		'inputs', coalesce(s.inputs, '{}'), 'results', coalesce(s.results, '{}'),
		'parents_ids', place.parent_step_ids, 'children_ids', place.child_step_ids,
		'siblings_ids', CASE
			WHEN place.parent_count = 0 THEN '[]'
			WHEN count(*) OVER alike <= 1000 THEN to_jsonb(array_remove(array_agg(s.workflow_step_id) OVER alike, s.workflow_step_id))
		END)
	FROM (SELECT * FROM tasker.step_dag_relationships r WHERE r.task_id = step_documents.task_id OFFSET 0) place
	CROSS JOIN LATERAL (SELECT * FROM tasker.workflow_steps s WHERE s.workflow_step_id = place.workflow_step_id OFFSET 0) s
	WINDOW alike AS (PARTITION BY place.parent_step_ids ORDER BY s.workflow_step_id
		ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING);
END;
COMMENT ON FUNCTION tasker.step_documents(bigint) IS 'The steps of a task as task_document() shows them.';

CREATE FUNCTION tasker.task_document(task_id bigint, include_dependencies boolean DEFAULT false) RETURNS jsonb
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	SELECT jsonb_build_object(
		'task_id', t.task_id, 'name', t.name, 'namespace', t.namespace, 'version', t.version, 'full_name', t.full_name,
		'initiator', t.initiator, 'source_system', t.source_system, 'context', own.context, 'reason', t.reason,
		'bypass_steps', own.bypass_steps, 'tags', t.tags, 'requested_at', t.requested_at,
		'complete', t.state = 'complete', 'status', t.state,
		'workflow_steps', (SELECT coalesce(jsonb_agg(s.document ORDER BY s.workflow_step_id), '[]')
			FROM tasker.step_documents(t.task_id) s),
		'task_annotations', (SELECT coalesce(jsonb_agg(jsonb_build_object('task_annotation_id', a.task_annotation_id,
				'annotation_type', a.type, 'annotation', a.annotation, 'created_at', a.created_at, 'role', a.role)
				ORDER BY a.task_annotation_id), '[]')
			FROM tasker.annotations a WHERE a.task_id = t.task_id))
		|| CASE WHEN include_dependencies THEN jsonb_build_object('dependency_analysis', tasker.task_graph_analysis(t.task_id) - 'task')
		ELSE '{}' END
	FROM (SELECT o.task_id, o.context, o.bypass_steps FROM tasker.tasks o WHERE o.task_id = task_document.task_id OFFSET 0) own
	CROSS JOIN LATERAL (SELECT * FROM tasker.task_summaries s WHERE s.task_id = own.task_id OFFSET 0) t;
END;
COMMENT ON FUNCTION tasker.task_document(bigint, boolean) IS
'A task with its steps, in the order of their ids, and its annotations as one JSON object; NULL where there is no such task. inputs of a step is what is laid over the context of the task. siblings_ids are the other steps with exactly the same parents: none for a root, null where there are more than 1000. With include_dependencies also dependency_analysis: what task_graph_analysis() says. Runs with the rights of the caller.';
