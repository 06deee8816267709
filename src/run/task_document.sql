-- A task as one document, for those who show a task and all of its steps.

-- Steps with the same parents are many where a fan-out is wide, and each names
-- all others: beyond a thousand the list would outgrow everything else.
CREATE FUNCTION tasker.step_documents(task_id bigint) RETURNS TABLE (workflow_step_id bigint, document jsonb)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	SELECT s.workflow_step_id, jsonb_build_object(
		'task_id', s.task_id, 'workflow_step_id', s.workflow_step_id, 'name', n.name, 'named_step_id', s.named_step_id,
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
	FROM tasker.step_dag_relationships place
	JOIN tasker.workflow_steps s ON s.task_id = place.task_id AND s.workflow_step_id = place.workflow_step_id
	JOIN tasker.named_steps n ON n.named_step_id = s.named_step_id
	WHERE place.task_id = step_documents.task_id
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
		|| CASE WHEN include_dependencies THEN jsonb_build_object('dependency_analysis', jsonb_build_object(
			'dependency_levels', (SELECT jsonb_object_agg(d.workflow_step_id, d.dependency_level) FROM tasker.dependency_levels(t.task_id) d)))
		ELSE '{}' END
	FROM tasker.task_summaries t
	JOIN tasker.tasks own ON own.task_id = t.task_id
	WHERE t.task_id = task_document.task_id;
END;
COMMENT ON FUNCTION tasker.task_document(bigint, boolean) IS
'A task with its steps, in the order of their ids, and its annotations as one JSON object; NULL where there is no such task. inputs of a step is what is laid over the context of the task. siblings_ids are the other steps with exactly the same parents: none for a root, null where there are more than 1000. With include_dependencies also dependency_analysis: dependency_levels by step id. Runs with the rights of the caller.';
