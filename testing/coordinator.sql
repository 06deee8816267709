-- The synchronous coordinator: runs tasks to their end in one session and
-- transaction, with the SQL functions of tasker_testing.handlers for executors.
--
-- It uses what any coordinator may use: find_viable_steps, claim_step, and the
-- reports of executors. A pass runs what is ready until nothing is; then the
-- pending delays are played at once, and the next pass begins.

CREATE TABLE tasker_testing.step_runs (
	run_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	task_id bigint NOT NULL,
	workflow_step_id bigint NOT NULL,
	step_name text NOT NULL,
	handler text NOT NULL,
	attempt integer NOT NULL,
	pass integer,
	succeeded boolean NOT NULL,
	results jsonb,
	sqlstate text,
	error text,
	detail text,
	ran_at timestamptz NOT NULL DEFAULT tasker.now()
);
COMMENT ON TABLE tasker_testing.step_runs IS
'Every call of a handler, in order of run_id. The test''s transaction rolls it back.';
COMMENT ON COLUMN tasker_testing.step_runs.pass IS 'Of its run_tasks(); NULL for a repetition by check_idempotency().';
COMMENT ON COLUMN tasker_testing.step_runs.detail IS 'The DETAIL of what the handler raised: the handlers of this kit say there what they know of the failure.';
CREATE INDEX runs_of_step ON tasker_testing.step_runs (workflow_step_id, run_id);
COMMENT ON INDEX tasker_testing.runs_of_step IS 'Serves the idempotency handler and the assertions: the runs of a step.';

CREATE TABLE tasker_testing.passes (
	pass_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	pass integer NOT NULL,
	max_passes integer NOT NULL,
	open_tasks integer NOT NULL,
	waited interval,
	first_run_id bigint NOT NULL,
	began_at timestamptz NOT NULL
);
COMMENT ON TABLE tasker_testing.passes IS 'Every pass of every run_tasks(), in order of pass_id.';
COMMENT ON COLUMN tasker_testing.passes.waited IS 'By how much the clock was moved before it; NULL for the first.';
COMMENT ON COLUMN tasker_testing.passes.first_run_id IS 'Its runs have this run_id or higher ones.';

CREATE VIEW tasker_testing.execution_log AS
SELECT row_number() OVER (ORDER BY l.place, l.kind, l.id) AS entry, l.at, l.message
FROM (
	SELECT p.first_run_id AS place, 1 AS kind, p.pass_id AS id, p.began_at AS at,
		format('pass %s of %s%s: %s open', p.pass, p.max_passes, ', after ' || p.waited,
			CASE p.open_tasks WHEN 1 THEN '1 task' ELSE p.open_tasks || ' tasks' END) AS message
	FROM tasker_testing.passes p
	UNION ALL
	SELECT r.run_id, 2, r.run_id, r.ran_at,
		format('%s of task %s, attempt %s: %s', r.step_name, r.task_id, r.attempt,
			CASE WHEN r.succeeded THEN 'succeeded' ELSE 'failed: ' || r.error END)
	FROM tasker_testing.step_runs r
) l;
COMMENT ON VIEW tasker_testing.execution_log IS 'What the coordinator did, in words; ORDER BY entry.';

CREATE VIEW tasker_testing.execution_stats AS
SELECT count(*) AS total_executions, count(*) FILTER (WHERE r.succeeded) AS succeeded,
	count(*) FILTER (WHERE NOT r.succeeded) AS failed, count(DISTINCT r.task_id) AS tasks,
	(SELECT count(*) FROM tasker_testing.failures) AS failures_configured,
	(SELECT count(*) FROM tasker_testing.pending_delays d
		WHERE d.task_id IN (SELECT q.task_id FROM tasker_testing.step_runs q)) AS pending_delays
FROM tasker_testing.step_runs r;
COMMENT ON VIEW tasker_testing.execution_stats IS 'The runs so far in numbers, and what the tasks that were run still wait for.';

CREATE FUNCTION tasker_testing.reset() RETURNS void
LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC
	DELETE FROM tasker_testing.handler_functions;
	DELETE FROM tasker_testing.failures;
	DELETE FROM tasker_testing.step_runs;
	DELETE FROM tasker_testing.passes;
END;
COMMENT ON FUNCTION tasker_testing.reset() IS
'Forgets handlers, configured failures and the log of runs, for tests that commit. Tasks and the clock stay as they are.';

-- ---------- one handler ----------

-- Neither this function nor those that lead to it pin a search_path: handlers
-- are the caller's own and see the caller's.
CREATE FUNCTION tasker_testing.call_handler(step tasker.claimed_step) RETURNS jsonb
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
AS $$
DECLARE
	failure tasker_testing.failures;
	function text;
	results jsonb;
BEGIN
	SELECT f.* INTO failure FROM tasker_testing.failures f
	WHERE f.step_name = step.step_name AND step.attempt <= f.failure_count;
	IF FOUND THEN
		RAISE EXCEPTION USING ERRCODE = CASE WHEN failure.permanent THEN 'TK005' ELSE 'P0001' END,
			MESSAGE = failure.failure_message,
			DETAIL = jsonb_build_object('error', failure.failure_message, 'attempt', step.attempt,
				'max_failures', failure.failure_count, 'will_succeed_next', step.attempt = failure.failure_count);
	END IF;
	SELECT h.function INTO function FROM tasker_testing.handlers h WHERE h.handler = step.handler;
	-- A handler that is a SQL function in production, too, needs no other here.
	IF function IS NULL AND step.handler ~ '^[a-z_][a-z0-9_$]*\.[a-z_][a-z0-9_$]*$'
		AND to_regprocedure(step.handler || '(tasker.claimed_step)') IS NOT NULL
	THEN
		function := step.handler;
	END IF;
	EXECUTE format('SELECT %s($1)', coalesce(function, 'tasker_testing.succeed')) INTO results USING step;
	RETURN coalesce(results, '{}');
END
$$;
COMMENT ON FUNCTION tasker_testing.call_handler(tasker.claimed_step) IS
'Runs the handler of a step and returns its results; what it raises goes through. Failures that are configured for the step come first.';

CREATE FUNCTION tasker_testing.note_run(step tasker.claimed_step, pass integer, results jsonb,
	sqlstate text DEFAULT NULL, error text DEFAULT NULL, detail text DEFAULT NULL) RETURNS void
LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC
	INSERT INTO tasker_testing.step_runs (task_id, workflow_step_id, step_name, handler, attempt, pass,
		succeeded, results, sqlstate, error, detail)
	VALUES (step.task_id, step.workflow_step_id, step.step_name, step.handler, step.attempt, pass,
		sqlstate IS NULL, results, sqlstate, error, nullif(detail, ''));
END;
COMMENT ON FUNCTION tasker_testing.note_run(tasker.claimed_step, integer, jsonb, text, text, text) IS
'Appends to step_runs; without an sqlstate the run succeeded.';

CREATE FUNCTION tasker_testing.report_failure(step tasker.claimed_step, sqlstate text, error text, detail text)
RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	seconds integer;
BEGIN
	IF sqlstate = 'TK006' THEN
		IF detail ~ '^\d{1,9}$' THEN
			seconds := detail::integer;
		ELSE
			RAISE WARNING 'handler "%" of step % raised TK006 without whole seconds as DETAIL: "%"', step.handler, step.step_name, detail
				USING HINT = 'It is retried after its backoff.';
		END IF;
	END IF;
	PERFORM tasker.fail_step(step.workflow_step_id, step.claim, coalesce(error, ''), sqlstate, sqlstate <> 'TK005', seconds);
END
$$;
COMMENT ON FUNCTION tasker_testing.report_failure(tasker.claimed_step, text, text, text) IS
'Reports what a handler raised: TK005 is permanent, TK006 is to be retried after the seconds in the DETAIL, all else after the backoff.';

-- ---------- one step ----------

CREATE FUNCTION tasker_testing.run_step(step_id bigint, pass integer DEFAULT NULL) RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
AS $$
DECLARE
	step tasker.claimed_step;
	results jsonb;
	state text;
	error text;
	detail text;
BEGIN
	PERFORM tasker_testing.hold_clock();
	SELECT c.* INTO step FROM tasker.claim_step(NULL, step_id) c;
	IF NOT FOUND THEN
		RETURN NULL;
	END IF;
	-- The work of a failed attempt is rolled back, as an executor would, and so
	-- is that of one whose claim has become stale while it ran.
	BEGIN
		results := tasker_testing.call_handler(step);
		PERFORM tasker_testing.hold_clock();
		PERFORM tasker.complete_step(step.workflow_step_id, step.claim, results);
	EXCEPTION WHEN OTHERS THEN
		GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, error = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL;
	END;
	IF state IS NOT NULL THEN
		results := NULL;
		PERFORM tasker_testing.hold_clock();
		PERFORM tasker_testing.report_failure(step, state, error, detail);
	END IF;
	PERFORM tasker_testing.note_run(step, pass, results, state, error, detail);
	RETURN state IS NULL;
END
$$;
COMMENT ON FUNCTION tasker_testing.run_step(bigint, integer) IS
'Claims a step, runs its handler in a subtransaction, and reports. True if it succeeded, false if it failed, NULL if the step could not be claimed. An assertion that fails inside of a handler (P0004) is not a failed attempt: it goes through.';

-- ---------- whole tasks ----------

CREATE TYPE tasker_testing.run_result AS (
	tasks integer, succeeded_tasks integer, failed_tasks integer, open_tasks integer,
	passes integer, step_runs integer, failed_runs integer, waited interval, stopped text, took interval);
COMMENT ON TYPE tasker_testing.run_result IS
'What run_tasks() did. Tasks: succeeded (complete or resolved_manually), failed (error or cancelled), open. waited: by how much it moved the clock. stopped: ended (all tasks have), max_passes, or nothing_due (what is open waits for something that no time brings). took: wall time, for people.';

CREATE FUNCTION tasker_testing.check_run(task_ids bigint[], max_passes integer) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	missing bigint;
BEGIN
	IF max_passes IS NULL OR max_passes < 1 THEN
		RAISE EXCEPTION 'max_passes must be at least 1, not %', coalesce(max_passes::text, 'NULL')
			USING ERRCODE = 'invalid_parameter_value';
	END IF;
	IF coalesce(cardinality(task_ids), 0) = 0 THEN
		RAISE EXCEPTION 'there is no task to run' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	SELECT coalesce(u.id, 0) INTO missing FROM unnest(task_ids) u (id) WHERE tasker.task_state(u.id) IS NULL LIMIT 1;
	IF FOUND THEN
		RAISE EXCEPTION 'task % does not exist', nullif(missing, 0) USING ERRCODE = 'undefined_object';
	END IF;
END
$$;
COMMENT ON FUNCTION tasker_testing.check_run(bigint[], integer) IS
'Refuses bad arguments of run_tasks().';

CREATE FUNCTION tasker_testing.begin_pass(task_ids bigint[], pass integer, max_passes integer, waited interval) RETURNS timestamptz
LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC
	INSERT INTO tasker_testing.passes (pass, max_passes, open_tasks, waited, first_run_id, began_at)
	SELECT pass, max_passes, count(*) FILTER (WHERE t.state IN ('pending', 'in_progress')), waited,
		coalesce((SELECT r.run_id FROM tasker_testing.step_runs r ORDER BY r.run_id DESC LIMIT 1), 0) + 1, tasker.now()
	FROM tasker.tasks t WHERE t.task_id = ANY (task_ids)
	RETURNING began_at;
END;
COMMENT ON FUNCTION tasker_testing.begin_pass(bigint[], integer, integer, interval) IS 'Notes a pass and returns when it began.';

CREATE FUNCTION tasker_testing.run_pass(task_ids bigint[], pass integer) RETURNS integer
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
AS $$
DECLARE
	step_id bigint;
	runs integer := 0;
	before integer;
BEGIN
	LOOP
		before := runs;
		PERFORM tasker_testing.hold_clock();
		PERFORM tasker.orchestrate();
		FOR step_id IN
			SELECT v.id FROM tasker.tasks t CROSS JOIN LATERAL tasker.find_viable_steps(t.task_id) v (id)
			JOIN tasker.workflow_steps s ON s.workflow_step_id = v.id
			WHERE t.task_id = ANY (task_ids) AND t.state IN ('pending', 'in_progress')
			ORDER BY s.rank, v.id
		LOOP
			IF tasker_testing.run_step(step_id, pass) IS NOT NULL THEN
				runs := runs + 1;
			END IF;
		END LOOP;
		EXIT WHEN runs = before;
	END LOOP;
	RETURN runs;
END
$$;
COMMENT ON FUNCTION tasker_testing.run_pass(bigint[], integer) IS
'Runs the steps of these tasks that are ready, by priority, then oldest first, until none is; returns how many runs that took.';

CREATE FUNCTION tasker_testing.run_tasks(task_ids bigint[], max_passes integer DEFAULT 5) RETURNS tasker_testing.run_result
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
AS $$
DECLARE
	result tasker_testing.run_result;
	began timestamptz := clock_timestamp();
	pass_began timestamptz;
	played interval;
	runs bigint := (SELECT max(r.run_id) FROM tasker_testing.step_runs r);
BEGIN
	PERFORM tasker_testing.check_run(task_ids, max_passes);
	result.passes := 0;
	result.step_runs := 0;
	result.waited := '0';
	LOOP
		result.passes := result.passes + 1;
		pass_began := tasker_testing.begin_pass(task_ids, result.passes, max_passes, played);
		PERFORM tasker_testing.hold_clock(pass_began + '0.1 second');
		result.step_runs := result.step_runs + tasker_testing.run_pass(task_ids, result.passes);
		SELECT count(*), count(*) FILTER (WHERE tasker.task_in_any_state(t.task_id, '{complete,resolved_manually}')),
			count(*) FILTER (WHERE tasker.task_in_any_state(t.task_id, '{error,cancelled}'))
		INTO result.tasks, result.succeeded_tasks, result.failed_tasks
		FROM tasker.tasks t WHERE t.task_id = ANY (task_ids);
		result.open_tasks := result.tasks - result.succeeded_tasks - result.failed_tasks;
		IF result.open_tasks = 0 THEN
			result.stopped := 'ended';
		ELSIF result.passes >= max_passes THEN
			result.stopped := 'max_passes';
		ELSE
			-- Delays of one length end a little apart, by when they began.
			played := tasker_testing.play_delays(task_ids, '1 second', pass_began);
			IF played IS NULL THEN
				result.stopped := 'nothing_due';
			END IF;
		END IF;
		EXIT WHEN result.stopped IS NOT NULL;
		result.waited := result.waited + played;
	END LOOP;
	PERFORM tasker_testing.release_clock();
	result.failed_runs := (SELECT count(*) FROM tasker_testing.step_runs r
		WHERE r.run_id > coalesce(runs, 0) AND NOT r.succeeded);
	result.took := clock_timestamp() - began;
	RETURN result;
END
$$;
COMMENT ON FUNCTION tasker_testing.run_tasks(bigint[], integer) IS
'Runs tasks to their end in this session and transaction, with SQL functions for handlers (use_handler). A pass runs what is ready until nothing is; then the clock is moved to the next pending delay, and the next pass begins, up to max_passes. The clock stays moved until the end of the transaction. Calls tasker.orchestrate(), so it waits for another orchestrator at work and keeps the orchestrator of the database waiting until the transaction ends. Errors: 42704 unknown task; 22023 no task, bad max_passes; 42501 the caller may not move the clock.';

CREATE FUNCTION tasker_testing.run_task(task_id bigint, max_passes integer DEFAULT 5,
	OUT state tasker.state, OUT passes integer, OUT step_runs integer, OUT failed_runs integer, OUT waited interval, OUT stopped text)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
AS $$
DECLARE
	result tasker_testing.run_result := tasker_testing.run_tasks(ARRAY[task_id], max_passes);
BEGIN
	state := tasker.task_state(task_id);
	passes := result.passes;
	step_runs := result.step_runs;
	failed_runs := result.failed_runs;
	waited := result.waited;
	stopped := result.stopped;
END
$$;
COMMENT ON FUNCTION tasker_testing.run_task(bigint, integer) IS 'As run_tasks() of one task, with the state that it has come to.';
