-- Assertions for tests in the style of pg_regress, or of pgTAP.
--
-- Each returns a line of text. With pgTAP in use that is the line of its ok(),
-- with what is wrong under it. Otherwise it is "ok", and what is wrong raises
-- assert_failure (P0004), which no WHEN OTHERS swallows.

CREATE FUNCTION tasker_testing.use_pgtap() RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	schema text;
BEGIN
	SELECT n.nspname INTO schema FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'pgtap';
	IF NOT FOUND THEN
		RAISE EXCEPTION 'extension pgtap is not installed' USING ERRCODE = 'undefined_object', HINT = 'CREATE EXTENSION pgtap;';
	END IF;
	PERFORM set_config('tasker_testing.pgtap_schema', schema, false);
END
$$;
COMMENT ON FUNCTION tasker_testing.use_pgtap() IS
'From now on in this session (or until the transaction is rolled back) the assertions are tests of pgTAP, counted in its plan. Error: 42704 pgtap is not installed.';

CREATE FUNCTION tasker_testing.verdict(problem text, description text) RETURNS text
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	schema text := nullif(current_setting('tasker_testing.pgtap_schema', true), '');
	line text;
BEGIN
	IF schema IS NOT NULL THEN
		-- pgTAP finds its own functions by the search_path.
		PERFORM set_config('search_path', format('pg_catalog, pg_temp, %I', schema), true);
		EXECUTE 'SELECT ok($1, $2)' INTO line USING problem IS NULL, description;
		RETURN line || coalesce(E'\n# ' || replace(problem, E'\n', E'\n# '), '');
	END IF;
	IF problem IS NOT NULL THEN
		RAISE EXCEPTION USING ERRCODE = 'assert_failure', MESSAGE = problem, DETAIL = format('Expected: %s.', description);
	END IF;
	RETURN 'ok';
END
$$;
COMMENT ON FUNCTION tasker_testing.verdict(text, text) IS
'The outcome of an assertion whose problem is NULL where it holds; assertions of your own may end with it too. Error: P0004 there is a problem, and pgTAP is not in use.';

-- ---------- what the assertions look at ----------

CREATE FUNCTION tasker_testing.step_id(task_id bigint, step_name text) RETURNS bigint
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	id bigint;
BEGIN
	SELECT s.workflow_step_id INTO id
	FROM tasker.workflow_steps s JOIN tasker.named_steps n USING (named_step_id)
	WHERE s.task_id = step_id.task_id AND n.name = step_id.step_name;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'task % has no step %', coalesce(task_id::text, 'NULL'), coalesce(quote_literal(step_name), 'NULL')
			USING ERRCODE = 'undefined_object',
				HINT = (SELECT 'Its steps: ' || string_agg(n.name, ', ' ORDER BY s.workflow_step_id) || '.'
					FROM tasker.workflow_steps s JOIN tasker.named_steps n USING (named_step_id)
					WHERE s.task_id = step_id.task_id);
	END IF;
	RETURN id;
END
$$;
COMMENT ON FUNCTION tasker_testing.step_id(bigint, text) IS 'The step of a task by its name. Error: 42704 unknown.';

CREATE FUNCTION tasker_testing.moves(states tasker.state[]) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
	SELECT coalesce(nullif(array_to_string(states, ' > '), ''), 'nothing');
END;
COMMENT ON FUNCTION tasker_testing.moves(tasker.state[]) IS 'A history in words, for the assertions.';

-- ---------- states ----------

CREATE FUNCTION tasker_testing.assert_task_state(task_id bigint, state tasker.state, description text DEFAULT NULL) RETURNS text
LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC
	SELECT tasker_testing.verdict(
		CASE WHEN tasker.task_state(assert_task_state.task_id) IS DISTINCT FROM state
			THEN format('task %s is %s', assert_task_state.task_id, coalesce(tasker.task_state(assert_task_state.task_id)::text, 'not there'))
				|| coalesce((SELECT '; ' || string_agg(format('%s is %s%s', n.name, s.state, ': ' || (s.results ->> 'error')), ', ' ORDER BY s.workflow_step_id)
					FROM tasker.workflow_steps s JOIN tasker.named_steps n USING (named_step_id)
					WHERE s.task_id = assert_task_state.task_id AND s.state <> 'complete'), '') END,
		coalesce(description, format('task %s is %s', assert_task_state.task_id, state)));
END;
COMMENT ON FUNCTION tasker_testing.assert_task_state(bigint, tasker.state, text) IS
'The task is in this state; otherwise says which steps are not complete, and why. Error: P0004 it is not.';

CREATE FUNCTION tasker_testing.assert_step_state(task_id bigint, step_name text, state tasker.state, description text DEFAULT NULL) RETURNS text
LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC
	SELECT tasker_testing.verdict(
		CASE WHEN s.state <> assert_step_state.state
			THEN format('step %s of task %s is %s%s', assert_step_state.step_name, assert_step_state.task_id, s.state, ': ' || (s.results ->> 'error')) END,
		coalesce(description, format('step %s is %s', assert_step_state.step_name, assert_step_state.state)))
	FROM tasker.workflow_steps s WHERE s.workflow_step_id = tasker_testing.step_id(assert_step_state.task_id, assert_step_state.step_name);
END;
COMMENT ON FUNCTION tasker_testing.assert_step_state(bigint, text, tasker.state, text) IS
'The step is in this state. Errors: P0004 it is not; 42704 unknown step.';

CREATE FUNCTION tasker_testing.assert_step_states(task_id bigint, states jsonb, description text DEFAULT NULL) RETURNS text
LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC
	SELECT tasker_testing.verdict(
		string_agg(format('step %s of task %s is %s, not %s', e.key, assert_step_states.task_id, s.state, e.value), E'\n' ORDER BY e.key)
			FILTER (WHERE s.state <> e.value::tasker.state),
		coalesce(description, format('the steps of task %s are %s', assert_step_states.task_id, states)))
	FROM jsonb_each_text(states) e
	LEFT JOIN tasker.workflow_steps s ON s.workflow_step_id = tasker_testing.step_id(assert_step_states.task_id, e.key);
END;
COMMENT ON FUNCTION tasker_testing.assert_step_states(bigint, jsonb, text) IS
'The steps named are in the states given: {"a": "complete", "b": "pending"}. Errors: P0004 one is not; 42704 unknown step; 22P02 unknown state.';

-- ---------- what happened ----------

CREATE FUNCTION tasker_testing.assert_attempts(task_id bigint, step_name text, attempts integer, description text DEFAULT NULL) RETURNS text
LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC
	SELECT tasker_testing.verdict(
		CASE WHEN s.attempts IS DISTINCT FROM assert_attempts.attempts
			THEN format('step %s of task %s has %s of %s attempts', assert_attempts.step_name, assert_attempts.task_id, s.attempts, s.retry_limit) END,
		coalesce(description, format('attempts of step %s: %s', assert_attempts.step_name, assert_attempts.attempts)))
	FROM tasker.workflow_steps s WHERE s.workflow_step_id = tasker_testing.step_id(assert_attempts.task_id, assert_attempts.step_name);
END;
COMMENT ON FUNCTION tasker_testing.assert_attempts(bigint, text, integer, text) IS
'So many attempts of the step count. Errors: P0004 they do not; 42704 unknown step.';

CREATE FUNCTION tasker_testing.assert_task_history(task_id bigint, states tasker.state[], description text DEFAULT NULL) RETURNS text
LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC
	SELECT tasker_testing.verdict(
		CASE WHEN coalesce(array_agg(l.to_state ORDER BY l.sort_key), '{}') IS DISTINCT FROM states
			THEN format('task %s went %s', assert_task_history.task_id, tasker_testing.moves(array_agg(l.to_state ORDER BY l.sort_key))) END,
		coalesce(description, format('task %s goes %s', assert_task_history.task_id, tasker_testing.moves(states))))
	FROM tasker.task_transition_log l WHERE l.task_id = assert_task_history.task_id;
END;
COMMENT ON FUNCTION tasker_testing.assert_task_history(bigint, tasker.state[], text) IS
'The task went through exactly these states, creation (pending) first. Error: P0004 it did not.';

CREATE FUNCTION tasker_testing.assert_step_history(task_id bigint, step_name text, states tasker.state[], description text DEFAULT NULL) RETURNS text
LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC
	SELECT tasker_testing.verdict(
		CASE WHEN coalesce(array_agg(l.to_state ORDER BY l.sort_key), '{}') IS DISTINCT FROM states
			THEN format('step %s of task %s went %s', assert_step_history.step_name, assert_step_history.task_id, tasker_testing.moves(array_agg(l.to_state ORDER BY l.sort_key))) END,
		coalesce(description, format('step %s goes %s', assert_step_history.step_name, tasker_testing.moves(states))))
	FROM tasker.workflow_step_transition_log l WHERE l.workflow_step_id = tasker_testing.step_id(assert_step_history.task_id, assert_step_history.step_name);
END;
COMMENT ON FUNCTION tasker_testing.assert_step_history(bigint, text, tasker.state[], text) IS
'The step went through exactly these states: {} for one to which nothing has happened, {in_progress,complete} for one that succeeded at once. Errors: P0004 it did not; 42704 unknown step.';

CREATE FUNCTION tasker_testing.assert_step_runs(task_id bigint, step_runs integer, description text DEFAULT NULL) RETURNS text
LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC
	SELECT tasker_testing.verdict(
		CASE WHEN count(*) <> assert_step_runs.step_runs THEN format('the steps of task %s ran %s times', assert_step_runs.task_id, count(*)) END,
		coalesce(description, format('the steps of task %s run %s times', assert_step_runs.task_id, assert_step_runs.step_runs)))
	FROM tasker.workflow_steps s JOIN tasker.workflow_step_transition_log l USING (workflow_step_id)
	WHERE s.task_id = assert_step_runs.task_id AND l.to_state = 'in_progress';
END;
COMMENT ON FUNCTION tasker_testing.assert_step_runs(bigint, integer, text) IS
'All steps of the task together were claimed so many times. Error: P0004 they were not.';

CREATE FUNCTION tasker_testing.assert_ran_in_order(task_id bigint, step_names text[], description text DEFAULT NULL) RETURNS text
LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC
	SELECT tasker_testing.verdict(
		string_agg(
			CASE WHEN o.first_run IS NULL THEN format('step %s of task %s never ran', o.step_name, assert_ran_in_order.task_id)
				WHEN o.first_run < o.previous_run THEN format('step %s of task %s ran before %s had ended', o.step_name, assert_ran_in_order.task_id, o.previous) END,
			E'\n' ORDER BY o.place),
		coalesce(description, array_to_string(step_names, ' runs before ')))
	FROM (
		SELECT w.place, w.step_name, min(r.run_id) AS first_run,
			lag(w.step_name) OVER (ORDER BY w.place) AS previous, lag(max(r.run_id)) OVER (ORDER BY w.place) AS previous_run
		FROM unnest(step_names) WITH ORDINALITY w (step_name, place)
		LEFT JOIN tasker_testing.step_runs r ON r.workflow_step_id = tasker_testing.step_id(assert_ran_in_order.task_id, w.step_name) AND r.pass IS NOT NULL
		GROUP BY w.place, w.step_name
	) o;
END;
COMMENT ON FUNCTION tasker_testing.assert_ran_in_order(bigint, text[], text) IS
'In the runs of run_tasks() each of these steps began after the last attempt of the one before it. Errors: P0004 one did not; 42704 unknown step.';

CREATE FUNCTION tasker_testing.assert_never_ran(task_id bigint, step_name text, description text DEFAULT NULL) RETURNS text
LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC
	SELECT tasker_testing.verdict(
		CASE WHEN count(*) > 0 THEN format('step %s of task %s ran %s times', assert_never_ran.step_name, assert_never_ran.task_id, count(*)) END,
		coalesce(description, format('step %s never runs', assert_never_ran.step_name)))
	FROM tasker.workflow_step_transition_log l
	WHERE l.workflow_step_id = tasker_testing.step_id(assert_never_ran.task_id, assert_never_ran.step_name) AND l.to_state = 'in_progress';
END;
COMMENT ON FUNCTION tasker_testing.assert_never_ran(bigint, text, text) IS
'The step was never claimed. Errors: P0004 it was; 42704 unknown step.';

CREATE FUNCTION tasker_testing.assert_results(task_id bigint, step_name text, contained jsonb, description text DEFAULT NULL) RETURNS text
LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC
	SELECT tasker_testing.verdict(
		CASE WHEN NOT coalesce(s.results @> contained, false)
			THEN format('the results of step %s of task %s are %s', assert_results.step_name, assert_results.task_id, coalesce(s.results::text, 'NULL')) END,
		coalesce(description, format('the results of step %s contain %s', assert_results.step_name, contained)))
	FROM tasker.workflow_steps s WHERE s.workflow_step_id = tasker_testing.step_id(assert_results.task_id, assert_results.step_name);
END;
COMMENT ON FUNCTION tasker_testing.assert_results(bigint, text, jsonb, text) IS
'The results of the step contain this (operator @>); of a failed one they are {"error": message, "error_class": SQLSTATE}. Errors: P0004 they do not; 42704 unknown step.';

-- ---------- what is to come ----------

CREATE FUNCTION tasker_testing.assert_waits(task_id bigint, step_name text, delay interval, description text DEFAULT NULL) RETURNS text
LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC
	SELECT tasker_testing.verdict(
		CASE WHEN min(d.due_at - d.began_at) IS DISTINCT FROM delay
			THEN format('step %s of task %s waits for %s', assert_waits.step_name, assert_waits.task_id, coalesce(min(d.due_at - d.began_at)::text, 'no delay')) END,
		coalesce(description, format('step %s waits for %s', assert_waits.step_name, delay)))
	FROM tasker_testing.pending_delays d
	WHERE d.task_id = assert_waits.task_id AND d.workflow_step_id = tasker_testing.step_id(assert_waits.task_id, assert_waits.step_name);
END;
COMMENT ON FUNCTION tasker_testing.assert_waits(bigint, text, interval, text) IS
'The step has a pending delay of exactly this length, from its failure or claim on, whatever of it is over. Errors: P0004 it has not; 42704 unknown step.';

CREATE FUNCTION tasker_testing.assert_nothing_ready(task_id bigint, description text DEFAULT NULL) RETURNS text
LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC
	SELECT tasker_testing.verdict(
		format('ready steps of task %s: ', assert_nothing_ready.task_id) || string_agg(r.name, ', ' ORDER BY r.workflow_step_id),
		coalesce(description, format('no step of task %s is ready', assert_nothing_ready.task_id)))
	FROM tasker.step_readiness_status(assert_nothing_ready.task_id) r WHERE r.ready_for_execution;
END;
COMMENT ON FUNCTION tasker_testing.assert_nothing_ready(bigint, text) IS
'No step of the task may run now. Error: P0004 one may.';

CREATE FUNCTION tasker_testing.assert_idempotent(task_id bigint, rounds integer DEFAULT 3,
	ignore text[] DEFAULT '{idempotency_check,processed_at}', description text DEFAULT NULL) RETURNS text
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
AS $$
DECLARE
	problem text;
BEGIN
	SELECT string_agg(format('round %s: step %s of task %s: %s, %s instead of %s', v.round, v.step_name, task_id,
		v.violation, coalesce(v.got::text, 'no results'), v.expected), E'\n')
	INTO problem
	FROM tasker_testing.check_idempotency(task_id, rounds, ignore) v;
	RETURN tasker_testing.verdict(problem, coalesce(description, format('the handlers of task %s are idempotent', task_id)));
END
$$;
COMMENT ON FUNCTION tasker_testing.assert_idempotent(bigint, integer, text[], text) IS
'check_idempotency() finds nothing. Errors: P0004 it does; 55000 the task has not ended.';

CREATE FUNCTION tasker_testing.assert_consistent(description text DEFAULT NULL) RETURNS text
LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC
	SELECT tasker_testing.verdict(
		string_agg(format('%s: %s %s: %s', c.problem, c.owner, c.owner_id, c.detail), E'\n'),
		coalesce(description, 'no invariant of tasker is violated'))
	FROM tasker.check() c;
END;
COMMENT ON FUNCTION tasker_testing.assert_consistent(text) IS
'tasker.check() finds nothing, in the whole database. Error: P0004 it does.';
