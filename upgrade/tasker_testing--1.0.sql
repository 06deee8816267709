-- The install script of the test kit is made of the .sql files under testing/,
-- in the order that the Makefile names them; this one comes first.
\echo Use "CREATE EXTENSION tasker_testing" to load this file. \quit

SET LOCAL search_path = pg_catalog, pg_temp;

COMMENT ON SCHEMA tasker_testing IS
'For those who write workflows: run and test them inside one transaction that is rolled back. Never needed in production.';
-- Workflows to test with: any graph from a short text, the shapes of the
-- original's own tests, and whole populations of tasks.

CREATE FUNCTION tasker_testing.step_template(step text, options jsonb DEFAULT '{}') RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	part text[] := regexp_match(step, '^\s*([^\s()<,]+)\s*(\(([^()]*)\))?\s*(<-([^()<]*))?$');
	handler text := 'ConfigurableFailureHandler';
	config jsonb := '{"failure_count": 0}';
	parents jsonb;
	mark text;
	word text[];
BEGIN
	IF part IS NULL THEN
		RAISE EXCEPTION 'a step cannot be read: "%"', trim(step)
			USING ERRCODE = 'invalid_parameter_value',
				DETAIL = 'Steps are separated by semicolons; each is a name, marks in parentheses, and <- with the names of its parents.',
				HINT = 'Like: "a; b(f=2)<-a; c(h=Charge)<-a,b".';
	END IF;
	FOREACH mark IN ARRAY coalesce(string_to_array(part[3], ','), '{}') LOOP
		word := regexp_match(mark, '^\s*(?:([ft])=(\d{1,4})|(i)|h=(\S+))\s*$');
		IF word IS NULL THEN
			RAISE EXCEPTION 'a mark of step "%" cannot be read: "%"', part[1], trim(mark)
				USING ERRCODE = 'invalid_parameter_value',
					HINT = 'Marks are f=N (fails N times), t=N (times out N times), i (idempotency), h=NAME (another handler).';
		END IF;
		CASE
			WHEN word[1] = 'f' THEN
				config := jsonb_build_object('failure_count', word[2]::integer);
			WHEN word[1] = 't' THEN
				handler := 'NetworkTimeoutHandler';
				config := jsonb_build_object('timeout_count', word[2]::integer);
			WHEN word[3] = 'i' THEN
				handler := 'IdempotencyTestHandler';
				config := '{}';
			ELSE
				handler := word[4];
				config := '{}';
		END CASE;
	END LOOP;
	SELECT jsonb_agg(trim(p)) INTO parents FROM unnest(string_to_array(part[5], ',')) p;
	RETURN jsonb_build_object('name', part[1], 'handler_class', handler, 'handler_config', config)
		|| CASE WHEN parents IS NULL THEN '{}' ELSE jsonb_build_object('depends_on_steps', parents) END
		|| coalesce(options, '{}');
END
$$;
COMMENT ON FUNCTION tasker_testing.step_template(text, jsonb) IS
'A step template from "name(marks)<-parents"; options are merged into it. For template().';

CREATE FUNCTION tasker_testing.template(
	name text, steps text, options jsonb DEFAULT '{}', namespace text DEFAULT 'tasker_testing', version text DEFAULT '1.0.0')
RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
	SELECT jsonb_build_object('name', template.name, 'namespace_name', namespace, 'version', version,
		'step_templates', coalesce(jsonb_agg(tasker_testing.step_template(s.step, options) ORDER BY s.place)
			FILTER (WHERE s.step ~ '\S'), '[]'))
	FROM unnest(string_to_array(steps, ';')) WITH ORDINALITY s (step, place);
END;
COMMENT ON FUNCTION tasker_testing.template(text, text, jsonb, text, text) IS
'A template for tasker.register_task_template() from a short text: "a; b<-a; c(f=2)<-a,b". Marks in parentheses: f=N fails N times (ConfigurableFailureHandler, also the default, with none), t=N times out N times (NetworkTimeoutHandler), i (IdempotencyTestHandler), h=NAME any other handler. options are merged into every step template. Error: 22023 a step or mark that cannot be read.';

CREATE FUNCTION tasker_testing.register_template(
	name text, steps text, options jsonb DEFAULT '{}', namespace text DEFAULT 'tasker_testing', version text DEFAULT '1.0.0')
RETURNS integer
LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC
	SELECT tasker.register_task_template(tasker_testing.template(name, steps, options, namespace, version));
END;
COMMENT ON FUNCTION tasker_testing.register_template(text, text, jsonb, text, text) IS
'Registers what template() makes of the same arguments and returns its named_task_id. Errors as of both.';

-- ---------- the shapes ----------

CREATE VIEW tasker_testing.shapes AS
SELECT s.shape, s.shape || '_workflow_task' AS name, s.task_handler_class, s.share, s.steps
FROM (VALUES
	('linear', 'LinearWorkflowTask', 30,
		'initialize_data; validate_input<-initialize_data; process_data(f=1)<-validate_input; transform_results<-process_data;
		validate_output<-transform_results; finalize_workflow<-validate_output'),
	('diamond', 'DiamondWorkflowTask', 25,
		'start_workflow; branch_one_process(f=1)<-start_workflow; branch_one_validate<-branch_one_process;
		branch_two_process(t=1)<-start_workflow; branch_two_validate<-branch_two_process;
		merge_branches<-branch_one_validate,branch_two_validate; end_workflow<-merge_branches'),
	('parallel_merge', 'ParallelMergeWorkflowTask', 20,
		'fetch_user_data; fetch_order_data(f=1); fetch_inventory_data(t=1); fetch_pricing_data;
		process_user_data<-fetch_user_data; process_order_data<-fetch_order_data;
		merge_all_data(f=1)<-process_user_data,process_order_data,fetch_inventory_data,fetch_pricing_data'),
	('tree', 'TreeWorkflowTask', 15,
		'root_initialization; branch_a_setup<-root_initialization; branch_b_setup(f=1)<-root_initialization;
		branch_a_task_one<-branch_a_setup; branch_a_task_two(t=1)<-branch_a_setup;
		branch_b_task_one<-branch_b_setup; branch_b_task_two(f=1)<-branch_b_setup;
		aggregate_results<-branch_a_task_one,branch_a_task_two,branch_b_task_one,branch_b_task_two'),
	('mixed', 'MixedWorkflowTask', 10,
		'init_auth; init_config; validate_permissions(f=1)<-init_auth; setup_environment(t=1)<-init_config;
		begin_processing<-validate_permissions,setup_environment; process_critical_data(f=2)<-begin_processing;
		process_optional_data<-begin_processing; cleanup_temp_files<-setup_environment;
		finalize_and_report(i)<-process_critical_data,cleanup_temp_files'),
	('configurable_failure', 'ConfigurableFailureTask', 0,
		'reliable_step; flaky_step(f=2)<-reliable_step; timeout_step(t=1)<-flaky_step; idempotent_step(i)<-timeout_step')
) s (shape, task_handler_class, share, steps);
COMMENT ON VIEW tasker_testing.shapes IS
'The workflow shapes that register_workflow() and create_workflow() know, in the notation of template(). Three attempts a step; backoff 2, 4, 8 ... 30 s without jitter.';
COMMENT ON COLUMN tasker_testing.shapes.share IS 'Percent of a dataset.';

CREATE FUNCTION tasker_testing.ensure_shape(shape text) RETURNS tasker_testing.shapes
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	found_shape tasker_testing.shapes;
BEGIN
	SELECT s.* INTO found_shape FROM tasker_testing.shapes s WHERE s.shape = ensure_shape.shape;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'unknown workflow shape: %', coalesce(quote_literal(ensure_shape.shape), 'NULL')
			USING ERRCODE = 'invalid_parameter_value',
				HINT = format('Shapes are %s; any other graph: tasker_testing.register_template().',
					(SELECT string_agg(s.shape, ', ' ORDER BY s.share DESC) FROM tasker_testing.shapes s));
	END IF;
	RETURN found_shape;
END
$$;
COMMENT ON FUNCTION tasker_testing.ensure_shape(text) IS 'The row of tasker_testing.shapes. Error: 22023 unknown shape.';

CREATE FUNCTION tasker_testing.register_workflow(shape text) RETURNS integer
LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC
	SELECT tasker.register_task_template(
		tasker_testing.template(s.name, s.steps,
			'{"default_retry_limit": 3, "backoff_base_seconds": 2, "backoff_cap_seconds": 30, "backoff_jitter": 0}')
		|| jsonb_build_object('task_handler_class', s.task_handler_class)
		|| '{"schema": {"type": "object", "required": ["workflow_type", "batch_id"],
			"properties": {"workflow_type": {"type": "string"}, "batch_id": {"type": "string"}}}}')
	FROM tasker_testing.ensure_shape(register_workflow.shape) s;
END;
COMMENT ON FUNCTION tasker_testing.register_workflow(text) IS
'Registers a shape in namespace tasker_testing, version 1.0.0, and returns its named_task_id; a no-op where it is registered. Its context must have workflow_type and batch_id, both texts, which create_workflow() gives. Error: 22023 unknown shape.';

CREATE FUNCTION tasker_testing.create_workflow(shape text, context jsonb DEFAULT '{}') RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM tasker_testing.register_workflow(shape);
	RETURN tasker.create_task(s.name, jsonb_build_object('workflow_type', s.shape, 'batch_id', 'batch') || coalesce(context, '{}'),
		'tasker_testing', '1.0.0')
	FROM tasker_testing.ensure_shape(shape) s;
END
$$;
COMMENT ON FUNCTION tasker_testing.create_workflow(text, jsonb) IS
'Creates a task of a shape, registering that if need be, and returns its task_id. The context is laid over {"workflow_type": shape, "batch_id": "batch"}. Error: 22023 unknown shape.';

-- ---------- populations ----------

CREATE FUNCTION tasker_testing.create_dataset(tasks integer DEFAULT 30, context jsonb DEFAULT '{}')
RETURNS TABLE (shape text, task_id bigint)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
	IF tasks IS NULL OR tasks NOT BETWEEN 1 AND 1000000 THEN
		RAISE EXCEPTION 'the number of tasks must be between 1 and 1000000, not %', coalesce(tasks::text, 'NULL')
			USING ERRCODE = 'invalid_parameter_value';
	END IF;
	PERFORM tasker_testing.register_workflow(s.shape) FROM tasker_testing.shapes s WHERE s.share > 0;
	RETURN QUERY
	WITH part AS (
		SELECT s.shape, s.name, s.share, tasks * s.share / 100 AS n FROM tasker_testing.shapes s WHERE s.share > 0
	), request AS (
		SELECT p.shape, p.share, jsonb_build_object('name', p.name, 'namespace', 'tasker_testing', 'version', '1.0.0',
			'context', jsonb_build_object('workflow_type', p.shape, 'batch_id', 'batch') || coalesce(context, '{}')) AS body
		FROM part p
		CROSS JOIN LATERAL generate_series(1,
			p.n + CASE p.shape WHEN 'linear' THEN tasks - (SELECT sum(q.n) FROM part q) ELSE 0 END)
	), ordered AS MATERIALIZED (
		SELECT array_agg(r.shape ORDER BY r.share DESC) AS shapes, array_agg(r.body ORDER BY r.share DESC) AS bodies
		FROM request r
	)
	SELECT o.shapes[c.place], c.id
	FROM ordered o
	CROSS JOIN LATERAL tasker.create_tasks(o.bodies) WITH ORDINALITY c (id, place);
END
$$;
COMMENT ON FUNCTION tasker_testing.create_dataset(integer, jsonb) IS
'Creates tasks of all shapes: linear 30 %, diamond 25 %, parallel_merge 20 %, tree 15 %, mixed 10 %, what rounding leaves is linear. Returns them in order of creation. Error: 22023 bad number.';

CREATE FUNCTION tasker_testing.create_state_mix(tasks integer DEFAULT 100)
RETURNS TABLE (task_id bigint, state tasker.state)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	step_names constant text[] := '{fetch_user_data,fetch_order_data,fetch_inventory_data}';
	clock text;
	finished bigint[];
	failed bigint[];
	pending bigint[];
BEGIN
	IF tasks IS NULL OR tasks NOT BETWEEN 10 AND 1000000 THEN
		RAISE EXCEPTION 'the number of tasks must be between 10 and 1000000, not %', coalesce(tasks::text, 'NULL')
			USING ERRCODE = 'invalid_parameter_value';
	END IF;
	PERFORM tasker.now();
	clock := current_setting('tasker.clock_offset');
	finished := ARRAY(SELECT d.task_id FROM tasker_testing.create_dataset(tasks * 30 / 100) d);
	PERFORM tasker_testing.run_tasks(finished);

	-- Only a step that may run can fail, so half of the steps can only do so
	-- where half of them are roots.
	failed := ARRAY(SELECT tasker_testing.create_workflow('parallel_merge') FROM generate_series(1, tasks * 10 / 100));
	PERFORM tasker_testing.configure_failure(s, 1, 'Test failure', true) FROM unnest(step_names) s;
	PERFORM tasker_testing.run_tasks(failed);
	PERFORM tasker_testing.clear_failures(s) FROM unnest(step_names) s;

	pending := ARRAY(SELECT d.task_id FROM tasker_testing.create_dataset(tasks - cardinality(finished) - cardinality(failed)) d);
	PERFORM set_config('tasker.clock_offset', clock, true);
	RETURN QUERY SELECT u.id, tasker.task_state(u.id) FROM unnest(finished || failed || pending) u (id);
END
$$;
COMMENT ON FUNCTION tasker_testing.create_state_mix(integer) IS
'Creates tasks as a database in use has them, for views and benchmarks: 30 % complete (all shapes, with their failures and retries), 10 % in error with three of seven steps failed for good, 60 % pending. Returns them with their states. The clock is as before; what was configured for the first three steps of parallel_merge is cleared. Error: 22023 bad number.';
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
'backoff (computed for the failed step), requested (by its handler), timeout (the end of an attempt''s time), or reenqueue (of the task; no step, and no began_at).';

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
-- As in tasker itself nothing is open to PUBLIC; these functions have the
-- rights of their caller.
REVOKE ALL ON SCHEMA tasker_testing FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA tasker_testing FROM PUBLIC;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA tasker_testing FROM PUBLIC;
REVOKE ALL ON ALL ROUTINES IN SCHEMA tasker_testing FROM PUBLIC;
