-- Idempotency: what a handler returns, and does, when it is run again.

CREATE FUNCTION tasker_testing.claimed_step(step_id bigint) RETURNS tasker.claimed_step
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
	SELECT jsonb_populate_record(NULL::tasker.claimed_step, jsonb_build_object(
		'workflow_step_id', s.workflow_step_id,
		'claim', (SELECT l.sort_key FROM tasker.workflow_step_transition_log l
			WHERE l.workflow_step_id = s.workflow_step_id AND l.to_state = 'in_progress' ORDER BY l.sort_key DESC LIMIT 1),
		'attempt', s.attempts, 'task_id', s.task_id, 'task_name', t.name, 'step_name', n.name,
		'handler', h.name, 'handler_config', ts.handler_config,
		'inputs', r.context || coalesce(s.inputs, '{}'),
		'dependency_results', (SELECT coalesce(jsonb_object_agg(pn.name, p.results), '{}')
			FROM tasker.named_step_edges e
			JOIN tasker.workflow_steps p ON p.task_id = s.task_id AND p.named_step_id = e.from_named_step_id
			JOIN tasker.named_steps pn ON pn.named_step_id = p.named_step_id
			WHERE e.named_task_id = r.named_task_id AND e.to_named_step_id = s.named_step_id)))
	FROM tasker.workflow_steps s
	JOIN tasker.tasks r ON r.task_id = s.task_id
	JOIN tasker.named_tasks t ON t.named_task_id = r.named_task_id
	JOIN tasker.named_steps n ON n.named_step_id = s.named_step_id
	JOIN tasker.named_tasks_named_steps ts ON ts.named_task_id = r.named_task_id AND ts.named_step_id = s.named_step_id
	JOIN tasker.handlers h ON h.handler_id = s.handler_id
	WHERE s.workflow_step_id = step_id;
END;
COMMENT ON FUNCTION tasker_testing.claimed_step(bigint) IS
'What the executor of a step was given at its last claim, made again from the rows; for a step that was never claimed, claim is NULL. Also for calling one handler in a test of its own.';

CREATE FUNCTION tasker_testing.idempotency(step tasker.claimed_step) RETURNS jsonb
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	step_name text := coalesce(step.handler_config ->> 'step_name', step.step_name);
	stored jsonb := (SELECT s.results FROM tasker.workflow_steps s
		WHERE s.workflow_step_id = step.workflow_step_id AND s.state = 'complete');
BEGIN
	IF stored IS NOT NULL THEN
		RETURN stored || jsonb_build_object('idempotency_check', jsonb_build_object(
			'execution_count', 1 + greatest(1, (SELECT count(*) FROM tasker_testing.step_runs r
				WHERE r.workflow_step_id = step.workflow_step_id AND r.succeeded)),
			'first_executed_at', stored -> 'generated_at', 'is_repeat_execution', true));
	END IF;
	RETURN jsonb_build_object('success', true, 'step_name', step_name,
		'task_id', step.task_id, 'step_id', step.workflow_step_id, 'generated_at', tasker.now(),
		'checksum', md5(concat_ws('_', step.task_id, step.workflow_step_id, step_name)),
		'sequence_number', step.workflow_step_id % 1000);
END
$$;
COMMENT ON FUNCTION tasker_testing.idempotency(tasker.claimed_step) IS
'IdempotencyTestHandler: its first run makes a checksum of task, step and name, and a sequence_number; further runs return what the first has stored, with idempotency_check {execution_count, first_executed_at, is_repeat_execution}.';

CREATE FUNCTION tasker_testing.check_idempotency(task_id bigint, rounds integer DEFAULT 3, ignore text[] DEFAULT '{idempotency_check,processed_at}')
RETURNS TABLE (round integer, step_name text, violation text, expected jsonb, got jsonb)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
AS $$
#variable_conflict use_column
DECLARE
	step_id bigint;
	step tasker.claimed_step;
	state text;
	message text;
	details text;
BEGIN
	IF rounds IS NULL OR rounds < 1 THEN
		RAISE EXCEPTION 'rounds must be at least 1, not %', coalesce(rounds::text, 'NULL')
			USING ERRCODE = 'invalid_parameter_value';
	END IF;
	IF NOT tasker.task_in_any_state(task_id, '{complete,error,cancelled,resolved_manually}') THEN
		RAISE EXCEPTION 'task % has not ended', coalesce(task_id::text, 'NULL')
			USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Run it first: tasker_testing.run_task().';
	END IF;
	FOR round, step_id, expected IN
		SELECT i, s.workflow_step_id, s.results
		FROM generate_series(1, rounds) i
		CROSS JOIN tasker.workflow_steps s
		WHERE s.task_id = check_idempotency.task_id AND s.state = 'complete'
		ORDER BY i, s.workflow_step_id
	LOOP
		step := tasker_testing.claimed_step(step_id);
		step_name := step.step_name;
		state := NULL;
		got := NULL;
		message := NULL;
		details := NULL;
		BEGIN
			got := tasker_testing.call_handler(step);
		EXCEPTION WHEN OTHERS THEN
			GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, details = PG_EXCEPTION_DETAIL;
		END;
		PERFORM tasker_testing.note_run(step, NULL, got, state, message, details);
		violation := CASE
			WHEN state IS NOT NULL THEN 'raised: ' || message
			WHEN got -> 'checksum' IS DISTINCT FROM expected -> 'checksum' THEN 'checksum_mismatch'
			WHEN (got - ignore) IS DISTINCT FROM (expected - ignore) THEN 'results_mismatch'
		END;
		IF violation IS NOT NULL THEN
			RETURN NEXT;
		END IF;
	END LOOP;
END
$$;
COMMENT ON FUNCTION tasker_testing.check_idempotency(bigint, integer, text[]) IS
'Calls the handlers of the complete steps of a task that has ended so many more times, each with what its last claim gave it, and returns a row for each call that raised, or whose results differ from the stored ones but for the keys to ignore. The task does not change; what the handlers write stays, to be looked at. Errors: 55000 the task is open or unknown; 22023 bad rounds.';
