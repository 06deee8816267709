-- Handlers: SQL functions that stand in for what executors run elsewhere.
--
-- A handler takes the claimed step and returns its results. What it raises is a
-- failed attempt: with SQLSTATE TK005 for good, with TK006 and whole seconds in
-- the DETAIL to be retried after these, with any other to be retried after the
-- step's backoff. Which attempt it is says the claim, so that a handler needs no
-- memory that the rollback of a failed attempt would take.

CREATE TABLE tasker_testing.handler_functions (
	handler text PRIMARY KEY,
	function text NOT NULL
);
COMMENT ON TABLE tasker_testing.handler_functions IS
'What use_handler() has said. The function by its schema-qualified name; the test''s transaction rolls it back.';

CREATE TABLE tasker_testing.failures (
	step_name text PRIMARY KEY,
	failure_count integer NOT NULL
		CONSTRAINT failure_count_is_not_negative CHECK (failure_count >= 0),
	failure_message text NOT NULL,
	permanent boolean NOT NULL
);
COMMENT ON TABLE tasker_testing.failures IS
'What configure_failure() has said: steps of this name fail so many times, whatever their handler.';

-- ---------- which function stands in ----------

CREATE VIEW tasker_testing.handlers AS
SELECT coalesce(u.handler, b.handler) AS handler, coalesce(u.function, b.function) AS function
FROM (VALUES
	('ConfigurableFailureHandler', 'tasker_testing.configurable_failure'),
	('RandomFailureHandler', 'tasker_testing.random_failure'),
	('NetworkTimeoutHandler', 'tasker_testing.network_timeout'),
	('IdempotencyTestHandler', 'tasker_testing.idempotency'),
	('CompositeTestHandler', 'tasker_testing.composite')
) b (handler, function)
FULL JOIN tasker_testing.handler_functions u USING (handler);
COMMENT ON VIEW tasker_testing.handlers IS
'Which SQL function runs the steps of a handler here; of all others tasker_testing.succeed does.';

CREATE FUNCTION tasker_testing.use_handler(handler_name text, function regprocedure) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	routine record;
BEGIN
	IF handler_name IS NULL THEN
		RAISE EXCEPTION 'handler_name must not be null' USING ERRCODE = 'null_value_not_allowed';
	END IF;
	SELECT format('%I.%I', n.nspname, p.proname) AS name,
		p.prokind = 'f' AND p.prorettype = 'jsonb'::regtype AND NOT p.proretset
			AND p.proargtypes[0] = 'tasker.claimed_step'::regtype AND p.pronargs = 1 AS fits
	INTO routine
	FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE p.oid = function;
	IF NOT coalesce(routine.fits, false) THEN
		RAISE EXCEPTION 'function % cannot be a handler', coalesce(function::text, 'NULL')
			USING ERRCODE = 'invalid_parameter_value',
				DETAIL = 'A handler is a function (step tasker.claimed_step) RETURNS jsonb.';
	END IF;
	INSERT INTO tasker_testing.handler_functions AS h VALUES (handler_name, routine.name)
	ON CONFLICT (handler) DO UPDATE SET function = excluded.function;
END
$$;
COMMENT ON FUNCTION tasker_testing.use_handler(text, regprocedure) IS
'From now on this function runs the steps whose template names this handler_class. It is called with the search_path of whoever runs the task. Errors: 22023 not a function (step tasker.claimed_step) RETURNS jsonb; 22004 no name.';

CREATE FUNCTION tasker_testing.succeed(step tasker.claimed_step) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
	SELECT '{}'::jsonb;
END;
COMMENT ON FUNCTION tasker_testing.succeed(tasker.claimed_step) IS 'The handler of steps for which use_handler() names none: it returns {}.';

-- ---------- failures from outside ----------

CREATE FUNCTION tasker_testing.configure_failure(
	step_name text, failure_count integer DEFAULT 2, failure_message text DEFAULT 'Test failure', permanent boolean DEFAULT false)
RETURNS void
LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC
	INSERT INTO tasker_testing.failures AS f VALUES (step_name, failure_count, failure_message, permanent)
	ON CONFLICT (step_name) DO UPDATE
	SET failure_count = excluded.failure_count, failure_message = excluded.failure_message, permanent = excluded.permanent;
END;
COMMENT ON FUNCTION tasker_testing.configure_failure(text, integer, text, boolean) IS
'The first failure_count attempts of every step of this name fail with the message before its handler is called; permanent: no retry can help. It also replaces the failures that ConfigurableFailureHandler and NetworkTimeoutHandler have for the step: 0 means none. Errors: 23514 negative count, 23502 null.';

CREATE FUNCTION tasker_testing.clear_failures(step_name text DEFAULT NULL) RETURNS integer
LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC
	WITH gone AS (
		DELETE FROM tasker_testing.failures f
		WHERE clear_failures.step_name IS NULL OR f.step_name = clear_failures.step_name
		RETURNING 1
	)
	SELECT count(*)::integer FROM gone;
END;
COMMENT ON FUNCTION tasker_testing.clear_failures(text) IS
'Takes back what configure_failure() said of this step, or of all; returns of how many.';

CREATE FUNCTION tasker_testing.fail_until(step tasker.claimed_step, failures integer, message text, facts jsonb) RETURNS void
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF step.attempt <= failures
		AND NOT EXISTS (SELECT FROM tasker_testing.failures f WHERE f.step_name = step.step_name)
	THEN
		RAISE EXCEPTION USING ERRCODE = 'raise_exception', MESSAGE = message,
			DETAIL = jsonb_build_object('error', message, 'attempt', step.attempt) || facts;
	END IF;
END
$$;
COMMENT ON FUNCTION tasker_testing.fail_until(tasker.claimed_step, integer, text, jsonb) IS
'Raises the message while the attempt is one of so many failures, with the facts as DETAIL; not where configure_failure() has taken over. For the handlers here.';

-- ---------- the handlers of the original's tests ----------

CREATE FUNCTION tasker_testing.configurable_failure(step tasker.claimed_step) RETURNS jsonb
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	failures integer := coalesce((step.handler_config ->> 'failure_count')::integer, 2);
BEGIN
	PERFORM tasker_testing.fail_until(step, failures, coalesce(step.handler_config ->> 'failure_message', 'Test failure'),
		jsonb_build_object('max_failures', failures, 'will_succeed_next', step.attempt = failures));
	RETURN jsonb_build_object('success', true,
		'step_name', coalesce(step.handler_config ->> 'step_name', step.step_name),
		'total_attempts', step.attempt, 'failed_attempts', step.attempt - 1, 'processed_at', tasker.now(),
		'task_context_sample', jsonb_build_object('batch_id', step.inputs -> 'batch_id', 'workflow_type', step.inputs -> 'workflow_type'));
END
$$;
COMMENT ON FUNCTION tasker_testing.configurable_failure(tasker.claimed_step) IS
'ConfigurableFailureHandler: fails failure_count times (2) with failure_message (''Test failure''), then succeeds.';

-- From 0 up to 1, the same for the same words on every server.
CREATE FUNCTION tasker_testing.chance(VARIADIC words text[]) RETURNS double precision
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
	SELECT ('x' || left(md5(array_to_string(words, '/', '')), 8))::bit(32)::bigint / 4294967296.0;
END;
COMMENT ON FUNCTION tasker_testing.chance(text[]) IS 'A number from 0 up to 1 that depends on nothing but the words.';

CREATE FUNCTION tasker_testing.random_failure(step tasker.claimed_step) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	probability double precision := coalesce((step.handler_config ->> 'failure_probability')::double precision, 0.3);
	number double precision := tasker_testing.chance(coalesce(step.inputs ->> 'seed', step.handler_config ->> 'seed', '0'),
		step.step_name, step.attempt::text);
BEGIN
	IF number < probability THEN
		RAISE EXCEPTION USING ERRCODE = 'raise_exception', MESSAGE = 'Random failure',
			DETAIL = jsonb_build_object('error', 'Random failure', 'attempt', step.attempt, 'failure_probability', probability);
	END IF;
	RETURN jsonb_build_object('success', true, 'step_name', step.step_name, 'total_attempts', step.attempt);
END
$$;
COMMENT ON FUNCTION tasker_testing.random_failure(tasker.claimed_step) IS
'RandomFailureHandler: fails with failure_probability (0.3). The same for the same seed (of the task''s context, else of handler_config, else 0), step name and attempt: a test can be repeated.';

CREATE FUNCTION tasker_testing.network_timeout(step tasker.claimed_step) RETURNS jsonb
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	timeouts integer := coalesce((step.handler_config ->> 'timeout_count')::integer, 2);
BEGIN
	PERFORM tasker_testing.fail_until(step, timeouts, coalesce(step.handler_config ->> 'timeout_message', 'Network timeout'),
		jsonb_build_object('timeout_simulation', true, 'retry_recommended', true, 'max_timeouts', timeouts));
	RETURN jsonb_build_object('success', true,
		'step_name', coalesce(step.handler_config ->> 'step_name', step.step_name),
		'total_attempts', step.attempt, 'failed_attempts', step.attempt - 1,
		'network_response', jsonb_build_object('status', 200,
			'response_time_ms', 100 + floor(401 * tasker_testing.chance(step.step_name, step.attempt::text))));
END
$$;
COMMENT ON FUNCTION tasker_testing.network_timeout(tasker.claimed_step) IS
'NetworkTimeoutHandler: fails timeout_count times (2) with timeout_message (''Network timeout''), then succeeds with a network_response of 100 to 500 ms.';

CREATE FUNCTION tasker_testing.composite(step tasker.claimed_step) RETURNS jsonb
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	pattern jsonb;
	applies boolean;
	delayed double precision := 0;
BEGIN
	FOR pattern IN SELECT p FROM jsonb_array_elements(coalesce(step.handler_config -> 'patterns', '[]')) p LOOP
		CASE pattern ->> 'type'
			WHEN 'execution_range' THEN
				applies := step.attempt BETWEEN coalesce((pattern ->> 'min')::integer, 1)
					AND coalesce((pattern ->> 'max')::integer, step.attempt);
			WHEN 'probability' THEN
				applies := tasker_testing.chance(coalesce(step.inputs ->> 'seed', step.handler_config ->> 'seed', '0'),
					step.step_name, step.attempt::text) < (pattern ->> 'probability')::double precision;
			WHEN 'always' THEN
				applies := true;
			ELSE
				RAISE EXCEPTION 'unknown type of a pattern: %', coalesce(pattern ->> 'type', 'NULL')
					USING ERRCODE = 'TK005', HINT = 'Types are execution_range, probability and always.';
		END CASE;
		CONTINUE WHEN NOT applies;
		CASE pattern ->> 'action'
			WHEN 'fail' THEN
				RAISE EXCEPTION USING ERRCODE = 'raise_exception', MESSAGE = coalesce(pattern ->> 'message', 'Composite failure'),
					DETAIL = jsonb_build_object('attempt', step.attempt, 'pattern', pattern);
			WHEN 'delay' THEN
				delayed := delayed + coalesce((pattern ->> 'delay_seconds')::double precision, 0.1);
				PERFORM tasker_testing.advance_clock(make_interval(secs => coalesce((pattern ->> 'delay_seconds')::double precision, 0.1)));
			WHEN 'succeed' THEN
				EXIT;
			ELSE
				RAISE EXCEPTION 'unknown action of a pattern: %', coalesce(pattern ->> 'action', 'NULL')
					USING ERRCODE = 'TK005', HINT = 'Actions are fail, delay and succeed.';
		END CASE;
	END LOOP;
	RETURN jsonb_build_object('success', true, 'step_name', step.step_name, 'total_attempts', step.attempt, 'delayed_seconds', delayed);
END
$$;
COMMENT ON FUNCTION tasker_testing.composite(tasker.claimed_step) IS
'CompositeTestHandler: handler_config.patterns is a list of {type, action}. Types: execution_range (min and max attempt), probability (seeded as RandomFailureHandler), always. Actions, in order: fail (message) and succeed end the attempt, delay (delay_seconds 0.1) moves the clock and goes on, also back if the attempt fails. Without a pattern that applies it succeeds. An unknown type or action is a permanent failure.';
