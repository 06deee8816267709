-- Time passes by moving the one clock of tasker, for this transaction only:
-- no test sleeps.

CREATE FUNCTION tasker_testing.set_clock(moment timestamptz) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM set_config('tasker.clock_offset', ceil(extract(epoch FROM moment - clock_timestamp()) * 1000)::text, true);
END
$$;
COMMENT ON FUNCTION tasker_testing.set_clock(timestamptz) IS
'Makes it this moment, or up to a millisecond later, on tasker.now() until the end of the transaction. For the functions of this file.';

CREATE FUNCTION tasker_testing.advance_clock(by interval) RETURNS timestamptz
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	held text := nullif(current_setting('tasker_testing.clock_held_at', true), '');
BEGIN
	IF by IS NULL OR by < '0' THEN
		RAISE EXCEPTION 'the clock moves forward only, not by %', coalesce(by::text, 'NULL')
			USING ERRCODE = 'invalid_parameter_value';
	END IF;
	PERFORM tasker_testing.set_clock(tasker.now() + by);
	PERFORM set_config('tasker_testing.clock_held_at', (held::timestamptz + by)::text, true) WHERE held IS NOT NULL;
	RETURN tasker.now();
END
$$;
COMMENT ON FUNCTION tasker_testing.advance_clock(interval) IS
'Moves tasker.now() forward until the end of the transaction, up to 24 days in all, and returns it. What has become due happens at the next tasker.orchestrate(), which every run of this kit calls. Errors: 42501 the caller may not set tasker.clock_offset; 22023 not forward, or too far.';

-- While tasks are run the wall clock goes on, and on a busy machine far enough
-- for a backoff to end by itself; what happens would then depend on the machine.
-- So a pass takes a tenth of a second at most: at its end the clock is held.
CREATE FUNCTION tasker_testing.hold_clock(at timestamptz DEFAULT NULL) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	held timestamptz := coalesce(at, nullif(current_setting('tasker_testing.clock_held_at', true), '')::timestamptz);
BEGIN
	IF at IS NOT NULL THEN
		PERFORM set_config('tasker_testing.clock_held_at', at::text, true);
	END IF;
	IF tasker.now() > held THEN
		PERFORM tasker_testing.set_clock(held);
	END IF;
END
$$;
COMMENT ON FUNCTION tasker_testing.hold_clock(timestamptz) IS
'Turns the clock back to the moment at which it is held, if it has passed that; with an argument that is the moment, until release_clock(). advance_clock() moves it along. For run_tasks().';

CREATE FUNCTION tasker_testing.release_clock() RETURNS void
LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC
	SELECT set_config('tasker_testing.clock_held_at', '', true);
END;
COMMENT ON FUNCTION tasker_testing.release_clock() IS 'Lets the clock run on. For run_tasks().';

-- Computed from the rows of truth, not from the timers.
CREATE VIEW tasker_testing.pending_delays AS
SELECT s.task_id, s.workflow_step_id, n.name AS step_name, delay.began_at, delay.due_at, delay.reason
FROM tasker.tasks t
JOIN tasker.workflow_steps s ON s.task_id = t.task_id
JOIN tasker.named_steps n ON n.named_step_id = s.named_step_id
CROSS JOIN LATERAL (
	SELECT (SELECT l.created_at FROM tasker.workflow_step_transition_log l
			WHERE l.workflow_step_id = s.workflow_step_id AND l.sort_key = s.sort_key) AS began_at,
		s.next_retry_at AS due_at,
		CASE WHEN s.backoff_request_seconds IS NULL THEN 'backoff' ELSE 'requested' END AS reason
	WHERE s.state = 'error' AND s.next_retry_at IS NOT NULL
	UNION ALL
	SELECT s.last_attempted_at, s.last_attempted_at + make_interval(secs => s.timeout_seconds), 'timeout'
	WHERE s.state = 'in_progress' AND s.timeout_seconds IS NOT NULL
	UNION ALL
	SELECT w.since, w.until, 'wait' FROM tasker.waiting_steps w
	WHERE s.state = 'in_progress' AND w.workflow_step_id = s.workflow_step_id AND w.until IS NOT NULL
) delay
WHERE t.state IN ('pending', 'in_progress')
UNION ALL
SELECT q.task_id, NULL, NULL, NULL, q.due_at, 'reenqueue'
FROM tasker.task_reenqueues q
JOIN tasker.tasks t USING (task_id)
WHERE t.state IN ('pending', 'in_progress');
COMMENT ON VIEW tasker_testing.pending_delays IS
'What open tasks wait for by the clock; play_next_delay() plays the first. Ask by task_id.';
COMMENT ON COLUMN tasker_testing.pending_delays.reason IS
'backoff (computed for the failed step), requested (by its handler), timeout (the end of an attempt''s time), wait (the end of a sleep, or of the patience with which a step waits for an event), or reenqueue (of the task; no step, and no began_at).';

CREATE FUNCTION tasker_testing.play_delays(task_ids bigint[], within interval, since timestamptz DEFAULT NULL) RETURNS interval
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	advance interval;
BEGIN
	-- A delay that began after since counts in full: what the clock moves by
	-- depends on the delays alone, not on how long the steps took.
	SELECT max(greatest(CASE WHEN since IS NOT NULL THEN d.due_at - greatest(d.began_at, since) END, d.due_at - tasker.now(), '0')) FILTER (WHERE d.due_at <= d.first + within OR within IS NULL)
	INTO advance
	FROM (
		SELECT p.due_at, p.began_at, min(p.due_at) OVER () AS first
		FROM tasker_testing.pending_delays p
		WHERE task_ids IS NULL OR p.task_id = ANY (task_ids)
	) d;
	IF advance IS NOT NULL THEN
		PERFORM tasker_testing.advance_clock(advance);
		PERFORM tasker.orchestrate();
	END IF;
	RETURN advance;
END
$$;
COMMENT ON FUNCTION tasker_testing.play_delays(bigint[], interval, timestamptz) IS
'Moves the clock past the first pending delay of these tasks (NULL: of all), and past those due within so long after it (NULL: past all); orchestrates, and returns by how much the clock moved, NULL where nothing was pending. For the functions below and run_tasks().';

CREATE FUNCTION tasker_testing.play_next_delay(task_ids bigint[] DEFAULT NULL) RETURNS interval
LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC
	SELECT tasker_testing.play_delays(task_ids, '1 second');
END;
COMMENT ON FUNCTION tasker_testing.play_next_delay(bigint[]) IS
'The test''s re-enqueuer: moves the clock to the first pending delay of these tasks (NULL: of all), and to those that end within a second of it, for delays of one length end a little apart; orchestrates, so that their steps are pending again, or their attempts have timed out. Returns by how much the clock moved, NULL where nothing is pending. Waits for another orchestrator at work.';

CREATE FUNCTION tasker_testing.play_all_delays(task_ids bigint[] DEFAULT NULL) RETURNS interval
LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC
	SELECT tasker_testing.play_delays(task_ids, NULL);
END;
COMMENT ON FUNCTION tasker_testing.play_all_delays(bigint[]) IS
'As play_next_delay(), to the last of the delays that are pending now. Delays that follow from these are not played.';
