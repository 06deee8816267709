-- What a step depends on, what depends on it, and who stands beside it.

CREATE FUNCTION tasker.step_transitive_dependencies(step_id bigint)
RETURNS TABLE (workflow_step_id bigint, step_name text, state tasker.state, distance integer, results jsonb)
LANGUAGE c STABLE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'tasker_step_transitive_dependencies';
COMMENT ON FUNCTION tasker.step_transitive_dependencies(bigint) IS
'Every step that this one depends on, directly or not, once, with its results: nearest first, distance (1 for a parent) along the shortest way. For executors that need results from further up than dependency_results; needs no privilege on tables. Costs what it returns. Error: 42704 unknown step.';

CREATE FUNCTION tasker.step_transitive_dependents(step_id bigint)
RETURNS TABLE (workflow_step_id bigint, step_name text, state tasker.state, distance integer, results jsonb)
LANGUAGE c STABLE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'tasker_step_transitive_dependents';
COMMENT ON FUNCTION tasker.step_transitive_dependents(bigint) IS
'Every step that depends on this one, directly or not, once: what it holds up while it is not finished. As step_transitive_dependencies.';

-- A sibling is a child of each parent, so the children of one parent are all
-- that come into question; of these, those with as many parents, all of them ours.
CREATE FUNCTION tasker.step_siblings(step_id bigint)
RETURNS TABLE (workflow_step_id bigint, step_name text, state tasker.state)
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
	SELECT s.workflow_step_id, n.name, s.state
	FROM (
		SELECT t.named_task_id, own.task_id, own.named_step_id,
			(SELECT count(*) FROM tasker.named_step_edges e
				WHERE e.named_task_id = t.named_task_id AND e.to_named_step_id = own.named_step_id) AS parents,
			(SELECT min(e.from_named_step_id) FROM tasker.named_step_edges e
				WHERE e.named_task_id = t.named_task_id AND e.to_named_step_id = own.named_step_id) AS parent
		FROM tasker.workflow_steps own
		JOIN tasker.tasks t ON t.task_id = own.task_id
		WHERE own.workflow_step_id = step_siblings.step_id
		OFFSET 0
	) own
	JOIN tasker.named_step_edges beside ON beside.named_task_id = own.named_task_id
		AND beside.from_named_step_id = own.parent AND beside.to_named_step_id <> own.named_step_id
	JOIN tasker.workflow_steps s ON s.task_id = own.task_id AND s.named_step_id = beside.to_named_step_id
	JOIN tasker.named_steps n ON n.named_step_id = s.named_step_id
	CROSS JOIN LATERAL (
		SELECT count(*) AS total, count(*) FILTER (WHERE EXISTS (
			SELECT FROM tasker.named_step_edges o
			WHERE o.named_task_id = own.named_task_id AND o.from_named_step_id = e.from_named_step_id
				AND o.to_named_step_id = own.named_step_id)) AS shared
		FROM tasker.named_step_edges e
		WHERE e.named_task_id = own.named_task_id AND e.to_named_step_id = beside.to_named_step_id
	) theirs
	WHERE theirs.total = own.parents AND theirs.shared = own.parents
	ORDER BY s.workflow_step_id;
END;
COMMENT ON FUNCTION tasker.step_siblings(bigint) IS
'The other steps of the task that have exactly the same parents, in the order of their ids; none for a root, which has no parents to share, and none where there is no such step.';
