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
