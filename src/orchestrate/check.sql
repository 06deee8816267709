-- check(): every invariant, amcheck-style. Nothing comes back when all is well.
--
-- The function is STABLE, so all its queries see the one snapshot of the query
-- that calls it. That is what keeps it free of false alarms while everything
-- runs: a state, its log row and what the orchestrator drew from them are seen
-- together or not at all. Consequences that are still due, because the log rows
-- that they follow from lie beyond the orchestrator's position, are told apart
-- by task: such a task is left out of the checks of consequences.
CREATE FUNCTION tasker.check()
RETURNS TABLE (problem text, owner text, owner_id bigint, detail text)
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
	checkpoint tasker.orchestrator_checkpoint;
BEGIN
	-- A task shows the state and sort_key of the latest row of its log.
	RETURN QUERY
	SELECT 'task_disagrees_with_log', 'task', t.task_id,
		format('the task is %s at sort_key %s, its log %s', t.state, t.sort_key,
			coalesce('says ' || l.to_state, 'has no such row'))
	FROM tasker.tasks t
	LEFT JOIN tasker.task_transition_log l ON l.task_id = t.task_id AND l.sort_key = t.sort_key
	WHERE l.to_state IS DISTINCT FROM t.state;

	RETURN QUERY
	SELECT 'log_is_ahead_of_task', 'task', t.task_id,
		format('the log has sort_key %s (%s), the task shows %s', l.sort_key, l.to_state, t.sort_key)
	FROM tasker.tasks t
	JOIN tasker.task_transition_log l ON l.task_id = t.task_id
	WHERE l.sort_key > t.sort_key;

	-- A step shows the state and sort_key of the latest row of its log; without
	-- a row it is pending at 0.
	RETURN QUERY
	SELECT 'step_disagrees_with_log', 'step', s.workflow_step_id,
		format('the step is %s at sort_key %s, its log %s', s.state, s.sort_key,
			coalesce('says ' || l.to_state, 'has no such row'))
	FROM tasker.workflow_steps s
	LEFT JOIN tasker.workflow_step_transition_log l
		ON l.workflow_step_id = s.workflow_step_id AND l.sort_key = s.sort_key
	WHERE l.to_state IS DISTINCT FROM s.state
		AND NOT (s.sort_key = 0 AND s.state = 'pending' AND l.to_state IS NULL);

	RETURN QUERY
	SELECT 'log_is_ahead_of_step', 'step', s.workflow_step_id,
		format('the log has sort_key %s (%s), the step shows %s', l.sort_key, l.to_state, s.sort_key)
	FROM tasker.workflow_steps s
	JOIN tasker.workflow_step_transition_log l ON l.workflow_step_id = s.workflow_step_id
	WHERE l.sort_key > s.sort_key;

	-- The log of a task runs 10, 20, 30 without a gap, and each row takes up
	-- the state in which the one before it left the task; the first comes from
	-- nothing.
	RETURN QUERY
	SELECT 'task_log_is_broken', 'task', l.task_id,
		format('sort_key %s from %s follows sort_key %s to %s', l.sort_key, coalesce(l.from_state::text, 'nothing'),
			coalesce(l.previous_key, 0), coalesce(l.previous_state::text, 'nothing'))
	FROM (
		SELECT task_id, sort_key, from_state, lag(sort_key) OVER w AS previous_key, lag(to_state) OVER w AS previous_state
		FROM tasker.task_transition_log
		WINDOW w AS (PARTITION BY task_id ORDER BY sort_key)
	) l
	WHERE l.sort_key <> coalesce(l.previous_key, 0) + 10
		OR l.from_state IS DISTINCT FROM l.previous_state;

	-- So does the log of a step, whose first row comes from pending.
	RETURN QUERY
	SELECT 'step_log_is_broken', 'step', l.workflow_step_id,
		format('sort_key %s from %s follows sort_key %s to %s', l.sort_key, l.from_state,
			coalesce(l.previous_key, 0), coalesce(l.previous_state, 'pending'))
	FROM (
		SELECT workflow_step_id, sort_key, from_state, lag(sort_key) OVER w AS previous_key, lag(to_state) OVER w AS previous_state
		FROM tasker.workflow_step_transition_log
		WINDOW w AS (PARTITION BY workflow_step_id ORDER BY sort_key)
	) l
	WHERE l.sort_key <> coalesce(l.previous_key, 0) + 10
		OR l.from_state <> coalesce(l.previous_state, 'pending');

	-- Every transition is a legal one.
	RETURN QUERY
	SELECT 'illegal_transition', 'task', l.task_id,
		format('sort_key %s goes from %s to %s', l.sort_key, coalesce(l.from_state::text, 'nothing'), l.to_state)
	FROM tasker.task_transition_log l
	WHERE NOT EXISTS (SELECT FROM tasker.allowed_transitions a
		WHERE a.owner = 'task' AND a.to_state = l.to_state
			AND coalesce(a.from_state::text, '') = coalesce(l.from_state::text, ''));

	RETURN QUERY
	SELECT 'illegal_transition', 'step', l.workflow_step_id,
		format('sort_key %s goes from %s to %s', l.sort_key, l.from_state, l.to_state)
	FROM tasker.workflow_step_transition_log l
	WHERE NOT EXISTS (SELECT FROM tasker.allowed_transitions a
		WHERE a.owner = 'step' AND a.to_state = l.to_state AND a.from_state = l.from_state);

	-- A log row has an owner. Where upkeep has left rows of pruned owners to the
	-- end of their partition, at least the task that they tell of had ended.
	RETURN QUERY
	SELECT 'log_without_owner', 'task', l.task_id, format('sort_key %s to %s', l.sort_key, l.to_state)
	FROM tasker.task_transition_log l
	WHERE NOT EXISTS (SELECT FROM tasker.tasks t WHERE t.task_id = l.task_id)
		AND NOT (tasker.history_period(l.task_id) = ANY (ARRAY(SELECT p.period FROM tasker.history_periods p WHERE p.keeps_task_rows))
			AND (SELECT k.to_state FROM tasker.task_transition_log k WHERE k.task_id = l.task_id ORDER BY k.sort_key DESC LIMIT 1)
				IN ('complete', 'cancelled', 'resolved_manually', 'error'));

	RETURN QUERY
	SELECT 'log_without_owner', 'step', l.workflow_step_id, format('sort_key %s to %s', l.sort_key, l.to_state)
	FROM tasker.workflow_step_transition_log l
	WHERE NOT EXISTS (SELECT FROM tasker.workflow_steps s WHERE s.workflow_step_id = l.workflow_step_id)
		AND NOT tasker.history_period(l.workflow_step_id) = ANY (ARRAY(SELECT p.period FROM tasker.history_periods p WHERE p.keeps_step_rows));

	-- A step belongs to a task.
	RETURN QUERY
	SELECT 'step_without_task', 'step', s.workflow_step_id, format('task %s does not exist', s.task_id)
	FROM tasker.workflow_steps s
	WHERE NOT EXISTS (SELECT FROM tasker.tasks t WHERE t.task_id = s.task_id);

	-- A task has exactly the steps of its template, and with them its edges.
	RETURN QUERY
	SELECT 'steps_disagree_with_template', 'task', coalesce(s.task_id, m.task_id),
		CASE WHEN m.task_id IS NULL THEN format('its step %s is not in the template', s.workflow_step_id)
			ELSE format('it has no step %s', (SELECT n.name FROM tasker.named_steps n WHERE n.named_step_id = m.named_step_id)) END
	FROM tasker.workflow_steps s
	FULL JOIN (
		SELECT t.task_id, ts.named_step_id
		FROM tasker.tasks t
		JOIN tasker.named_tasks_named_steps ts ON ts.named_task_id = t.named_task_id
	) m ON m.task_id = s.task_id AND m.named_step_id = s.named_step_id
	WHERE s.task_id IS NULL
		OR (m.task_id IS NULL AND EXISTS (SELECT FROM tasker.tasks t WHERE t.task_id = s.task_id));

	-- Step ids of a task grow in the order of the template's positions.
	RETURN QUERY
	SELECT 'step_ids_out_of_order', 'step', o.workflow_step_id, format('step %s comes before it in the template', o.before)
	FROM (
		SELECT s.workflow_step_id,
			lag(s.workflow_step_id) OVER (PARTITION BY s.task_id ORDER BY ts.position) AS before
		FROM tasker.workflow_steps s
		JOIN tasker.tasks t ON t.task_id = s.task_id
		JOIN tasker.named_tasks_named_steps ts ON ts.named_task_id = t.named_task_id AND ts.named_step_id = s.named_step_id
	) o
	WHERE o.before > o.workflow_step_id;

	-- An edge of a template leads to a later position.
	RETURN QUERY
	SELECT 'edge_leads_backwards', 'template', e.named_task_id::bigint, format('from position %s to %s', p.position, c.position)
	FROM tasker.named_step_edges e
	JOIN tasker.named_tasks_named_steps p ON p.named_task_id = e.named_task_id AND p.named_step_id = e.from_named_step_id
	JOIN tasker.named_tasks_named_steps c ON c.named_task_id = e.named_task_id AND c.named_step_id = e.to_named_step_id
	WHERE p.position >= c.position;

	-- A step is marked as root or leaf when no edge says otherwise.
	RETURN QUERY
	SELECT 'step_disagrees_with_edges', 'step', s.workflow_step_id,
		format('is_root is %s, is_leaf is %s', s.is_root, s.is_leaf)
	FROM tasker.workflow_steps s
	JOIN tasker.tasks t ON t.task_id = s.task_id
	LEFT JOIN (SELECT DISTINCT e.named_task_id, e.to_named_step_id FROM tasker.named_step_edges e) child
		ON child.named_task_id = t.named_task_id AND child.to_named_step_id = s.named_step_id
	LEFT JOIN (SELECT DISTINCT e.named_task_id, e.from_named_step_id FROM tasker.named_step_edges e) parent
		ON parent.named_task_id = t.named_task_id AND parent.from_named_step_id = s.named_step_id
	WHERE s.is_root <> (child.to_named_step_id IS NULL) OR s.is_leaf <> (parent.from_named_step_id IS NULL);

	-- A step runs only when all its parents are complete or resolved.
	RETURN QUERY
	SELECT 'step_ran_before_parent', 'step', c.workflow_step_id,
		format('it is %s, its parent %s is %s', c.state, p.workflow_step_id, p.state)
	FROM tasker.workflow_steps c
	JOIN tasker.tasks t ON t.task_id = c.task_id
	-- Edge by edge: joined as a whole, tasks times edges of a template look like too many or too few.
	CROSS JOIN LATERAL (
		SELECT e.from_named_step_id FROM tasker.named_step_edges e
		WHERE e.named_task_id = t.named_task_id AND e.to_named_step_id = c.named_step_id OFFSET 0
	) e
	JOIN tasker.workflow_steps p ON p.task_id = c.task_id AND p.named_step_id = e.from_named_step_id
	WHERE c.state IN ('in_progress', 'complete') AND p.state NOT IN ('complete', 'resolved_manually');

	-- A step is attempted within its limit; the first attempt is always allowed.
	RETURN QUERY
	SELECT 'too_many_attempts', 'step', s.workflow_step_id, format('%s attempts of %s', s.attempts, s.retry_limit)
	FROM tasker.workflow_steps s
	WHERE s.attempts > greatest(s.retry_limit, 1);

	-- Where one step of a task runs at a time, no second one does.
	RETURN QUERY
	SELECT 'more_than_one_step_in_progress', 'task', t.task_id, format('%s steps are in progress', count(*))
	FROM tasker.named_tasks template
	JOIN tasker.tasks t ON t.named_task_id = template.named_task_id
	JOIN tasker.workflow_steps s ON s.task_id = t.task_id AND s.state = 'in_progress'
	WHERE NOT template.concurrent
	GROUP BY t.task_id
	HAVING count(*) > 1;

	-- A complete task has complete or resolved steps only.
	RETURN QUERY
	SELECT 'task_complete_too_early', 'task', t.task_id, format('its step %s is %s', s.workflow_step_id, s.state)
	FROM tasker.tasks t
	JOIN tasker.workflow_steps s ON s.task_id = t.task_id
	WHERE t.state = 'complete' AND s.state NOT IN ('complete', 'resolved_manually');

	-- A row of the work queue stands for a step and agrees with it. One whose
	-- step is no longer ready is passed over by the claim and does no harm.
	RETURN QUERY
	SELECT 'queue_disagrees_with_step', 'step', q.workflow_step_id, CASE
			WHEN s.workflow_step_id IS NULL THEN 'it is queued and does not exist'
			ELSE format('it is queued under handler %s, rank %s and has handler %s, rank %s', q.handler_id, q.rank, s.handler_id, s.rank)
		END
	FROM tasker.work_queue q
	LEFT JOIN tasker.workflow_steps s ON s.workflow_step_id = q.workflow_step_id
	WHERE s.workflow_step_id IS NULL OR s.handler_id <> q.handler_id OR s.rank <> q.rank;

	-- What follows is about consequences, and those are drawn only where the
	-- orchestrator works: not before its first use, while all is paused, or
	-- on a restored or cloned database that nobody has adopted.
	SELECT c.* INTO checkpoint FROM tasker.orchestrator_checkpoint c;
	IF NOT FOUND OR checkpoint.paused_at IS NOT NULL
		OR checkpoint.system_identifier <> (SELECT h.identifier FROM tasker.home h) THEN
		RETURN;
	END IF;

	RETURN QUERY
	WITH unread AS MATERIALIZED (
		SELECT l.task_id
		FROM tasker.task_transition_log l
		WHERE l.xact_id >= pg_snapshot_xmax(checkpoint.position)
			OR l.xact_id = ANY (ARRAY(SELECT pg_snapshot_xip(checkpoint.position)))
		UNION
		SELECT s.task_id
		FROM tasker.workflow_step_transition_log l
		JOIN tasker.workflow_steps s ON s.workflow_step_id = l.workflow_step_id
		WHERE l.xact_id >= pg_snapshot_xmax(checkpoint.position)
			OR l.xact_id = ANY (ARRAY(SELECT pg_snapshot_xip(checkpoint.position)))
	), task AS MATERIALIZED (
		SELECT t.task_id, t.state, t.named_task_id, template.concurrent, template.coordinator_strategy
		FROM tasker.tasks t
		JOIN tasker.named_tasks template ON template.named_task_id = t.named_task_id
		JOIN tasker.task_namespaces namespace ON namespace.task_namespace_id = t.task_namespace_id
		WHERE t.state IN ('pending', 'in_progress')
			AND template.paused_at IS NULL AND namespace.paused_at IS NULL
			AND NOT EXISTS (SELECT FROM unread WHERE unread.task_id = t.task_id)
	), waiting AS MATERIALIZED (
		-- As the readiness view has it, but for all open tasks at once.
		SELECT DISTINCT c.workflow_step_id
		FROM task
		JOIN tasker.workflow_steps c ON c.task_id = task.task_id
		CROSS JOIN LATERAL (
			SELECT e.from_named_step_id FROM tasker.named_step_edges e
			WHERE e.named_task_id = task.named_task_id AND e.to_named_step_id = c.named_step_id OFFSET 0
		) e
		JOIN tasker.workflow_steps p ON p.task_id = task.task_id AND p.named_step_id = e.from_named_step_id
		WHERE c.state IN ('pending', 'error') AND p.state NOT IN ('complete', 'resolved_manually')
	), step AS MATERIALIZED (
		SELECT s.task_id, s.workflow_step_id, s.state AS current_state, s.next_retry_at, s.sort_key, s.handler_id, s.rank, s.executor_id,
			s.state = 'pending' AND waiting.workflow_step_id IS NULL
				AND NOT EXISTS (SELECT FROM tasker.orchestrator_checkpoint c WHERE c.paused_at IS NOT NULL) AS ready,
			task.concurrent, task.coordinator_strategy,
			EXISTS (SELECT FROM tasker.named_tasks_named_steps ts
				WHERE ts.named_task_id = task.named_task_id AND ts.named_step_id = s.named_step_id AND ts.waits_for IS NOT NULL) AS waits,
			s.state = 'error' AND waiting.workflow_step_id IS NULL AND NOT s.failed_permanently
				AND (s.attempts = 0 OR (s.retryable AND s.attempts < s.retry_limit)) AS retrying
		FROM task
		JOIN tasker.workflow_steps s ON s.task_id = task.task_id
		LEFT JOIN waiting ON waiting.workflow_step_id = s.workflow_step_id
	), progress AS MATERIALIZED (
		SELECT task.task_id, task.state,
			coalesce(bool_and(step.current_state IN ('complete', 'resolved_manually')), true) AS done,
			coalesce(bool_or(step.current_state = 'in_progress' OR step.ready OR step.retrying), false) AS alive
		FROM task
		LEFT JOIN step ON step.task_id = task.task_id
		GROUP BY task.task_id, task.state
	)
	-- A ready step is in the work queue; where one step of a task runs at a
	-- time, one of them is, unless one is in progress. Steps of a coordinator
	-- never are.
	SELECT 'ready_step_is_not_queued', 'step', step.workflow_step_id, format('task %s, handler %s, rank %s', step.task_id, step.handler_id, step.rank)
	FROM step
	WHERE step.ready AND step.coordinator_strategy = 'orchestrator'
		AND NOT EXISTS (SELECT FROM tasker.work_queue q WHERE q.workflow_step_id = step.workflow_step_id)
		AND (step.concurrent OR NOT EXISTS (
			SELECT FROM tasker.workflow_steps o
			WHERE o.task_id = step.task_id AND (o.state = 'in_progress'
				OR EXISTS (SELECT FROM tasker.work_queue q
					WHERE q.handler_id = o.handler_id AND q.rank = o.rank AND q.workflow_step_id = o.workflow_step_id))))
	UNION ALL
	-- A step that will be tried again has the timer of its latest transition.
	SELECT 'retry_has_no_timer', 'step', step.workflow_step_id,
		format('task %s, next_retry_at %s', step.task_id, coalesce(step.next_retry_at::text, 'missing'))
	FROM step
	WHERE step.retrying
		AND NOT EXISTS (SELECT FROM tasker.timers i
			WHERE i.workflow_step_id = step.workflow_step_id AND i.sort_key = step.sort_key)
	UNION ALL
	-- An open task has something that runs, may run, or will.
	SELECT 'task_waits_for_nothing', 'task', progress.task_id,
		format('it is %s, and no step is in progress, ready or waiting for a retry', progress.state)
	FROM progress
	WHERE NOT progress.done AND NOT progress.alive
	UNION ALL
	-- A task whose steps are all complete or resolved is closed.
	SELECT 'task_is_not_finalized', 'task', progress.task_id,
		format('it is %s, and every step is complete or resolved', progress.state)
	FROM progress
	WHERE progress.done
	UNION ALL
	-- A step that waits has its row, and a timer where its wait has an end or is over.
	SELECT 'wait_is_missing', 'step', step.workflow_step_id, format('task %s, in progress at sort_key %s', step.task_id, step.sort_key)
	FROM step
	WHERE step.current_state = 'in_progress' AND step.waits
		AND NOT EXISTS (SELECT FROM tasker.step_waits w WHERE w.workflow_step_id = step.workflow_step_id AND w.sort_key = step.sort_key)
	UNION ALL
	SELECT 'wait_has_no_timer', 'step', step.workflow_step_id,
		format('task %s, %s', step.task_id, CASE WHEN w.event IS NOT NULL THEN 'its event has come' ELSE 'until ' || w.until END)
	FROM step
	JOIN tasker.step_waits w ON w.workflow_step_id = step.workflow_step_id AND w.sort_key = step.sort_key
	WHERE (w.event IS NOT NULL OR w.until IS NOT NULL)
		AND NOT EXISTS (SELECT FROM tasker.timers i WHERE i.workflow_step_id = w.workflow_step_id AND i.sort_key = w.sort_key)
	UNION ALL
	-- The row of a wait goes when the step does.
	SELECT 'wait_of_step_that_does_not_wait', 'step', w.workflow_step_id,
		CASE WHEN s.workflow_step_id IS NULL THEN 'the step does not exist'
			ELSE format('the step is %s at sort_key %s, the wait began at %s', s.state, s.sort_key, w.sort_key) END
	FROM tasker.step_waits w
	LEFT JOIN tasker.workflow_steps s ON s.workflow_step_id = w.workflow_step_id
	WHERE (s.state IS DISTINCT FROM 'in_progress' OR s.sort_key <> w.sort_key)
		AND NOT EXISTS (SELECT FROM unread WHERE unread.task_id = s.task_id)
	UNION ALL
	-- A step in progress is with an executor that lives. Ending an executor
	-- writes no log row, so its steps get a minute to be taken from it.
	SELECT 'step_is_with_ended_executor', 'step', step.workflow_step_id,
		format('executor %s ended at %s (%s)', x.executor_id, x.ended_at, x.end_reason)
	FROM step
	JOIN tasker.executors x ON x.executor_id = step.executor_id
	WHERE step.current_state = 'in_progress' AND x.ended_at < tasker.now() - interval '1 minute';
END
$$;
COMMENT ON FUNCTION tasker.check() IS
'Verifies every invariant and returns one row for each violation, none when all is well. Reads all tasks, steps and logs once; safe at any time, also while everything runs. For operators and tests. problem is a stable name; owner is ''task'', ''step'' or ''template'', owner_id its id.';
