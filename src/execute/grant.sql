-- Capabilities: what each takes, and giving them to roles.

CREATE VIEW tasker.capability_privileges AS
WITH own (capability, privilege, everywhere, objects) AS (VALUES
	-- Looking: tables (row security shows of them what is the role's), views and functions that run with the caller's rights.
	('observer', 'SELECT', false, 'task_namespaces named_tasks named_tasks_named_steps named_step_edges named_step_events named_steps handlers
		custom_events published_events tasks workflow_steps task_transition_log workflow_step_transition_log task_annotations task_reenqueues step_waits capability_grants
		annotation_types(annotation_type_id,name,created_at) orchestrator_checkpoint
		executors(executor_id,name,handlers,capacity,detached,lease,role,registered_at,last_heartbeat_at,ended_at,end_reason)
		allowed_transitions annotations event_definitions events role_grants stat_executors stat_templates step_dag_relationships step_durations
		step_readiness_statuses task_execution_contexts task_summaries task_templates task_transitions task_workflow_summaries
		workflow_step_edges workflow_step_transitions waiting_steps capability_privileges home'),
	('observer', 'SELECT', true, 'annotation_types dependent_systems dependent_system_object_maps history_periods log_marks event_consumers task_schedules task_triggers timers work_queue tasks_task_id_seq workflow_steps_workflow_step_id_seq
		stat_history stat_horizon stat_orchestrator stat_latencies stat_event_consumers stat_tasks stat_handlers metrics state_metrics'),
	('observer', 'EXECUTE', false, 'now legal_transitions transition_event event_payload_keys event_payload_schema
		small_json task_event_payload step_event_payload custom_event_payload next_cron_time state_colours one_line mermaid_label dot_label dot_tooltip draw_mermaid draw_dot draw_text
		check_diagram_format draw graph_depths graph_reach graph_paths backoff_seconds json_schema_violations yaml_to_jsonb
		span_id trace_id trace_flags step_traceparent task_spans otlp_attributes unix_nanoseconds otlp_spans
		task_template validate_context find_template template_edges task_template_graph task_template_diagram
		step_documents task_document step_transitive_dependencies step_transitive_dependents step_siblings
		step_readiness_status step_readiness_statuses task_execution_context task_execution_contexts step_depths dependency_levels
		ended_attempts recent_tasks ready_since step_of_template analytics_metrics slowest_steps slowest_tasks error_patterns step_duration_statistics
		find_task find_tasks task_drawing task_diagram task_timeline task_edges task_state step_state task_in_any_state step_in_any_state
		graph_weights severity expected_durations graph_steps critical_paths bottlenecks error_chains parallelism task_graph_analysis
		finalization_decision find_viable_steps await_task system_health_counts executor_measures steps_in_flight'),
	('observer', 'EXECUTE', true, 'orchestrator_status orchestrator_measures latency_buckets transition_counts waiting_seconds handler_status metric_samples prometheus_metrics mapped_objects history_period current_period check
		position_read_by_consumers create_event_consumer drop_event_consumer read_events subscribe unsubscribe
		why why_nothing_moves why_locked why_steps live_executors time_of_day'),
	('producer', 'SELECT', false, 'task_namespaces named_tasks tasks task_transition_log task_annotations task_summaries annotations
		annotation_types(annotation_type_id,name,created_at) workflow_steps(workflow_step_id,task_id,state)'),
	('producer', 'EXECUTE', false, 'now create_task create_tasks find_task find_tasks task_is_new await_task annotate_task remove_annotation
		update_task update_step validate_context task_state step_state task_in_any_state step_in_any_state next_cron_time publish_event'),
	('producer', 'EXECUTE', true, 'map_objects create_requested_task schedule_task unschedule_task create_triggered_tasks start_task_on_event drop_task_trigger'),
	('executor', 'EXECUTE', false, 'now register_executor unregister_executor heartbeat claim_steps claim_step await_steps my_steps
		complete_step complete_steps fail_step fail_steps release_step release_steps execute_step coordinate_task find_viable_steps
		step_transitive_dependencies step_transitive_dependents step_siblings step_traceparent annotate_task backoff_seconds publish_event'),
	('executor', 'EXECUTE', true, 'map_objects'),
	('operator', 'EXECUTE', false, 'cancel_task retry_task resolve_task cancel_step retry_step resolve_step update_task update_step reenqueue_task
		transition_task transition_step safe_transition_task safe_transition_step conditional_transition_task conditional_transition_step
		pause resume finalize_task retry_due_steps annotate_task remove_annotation execute_step coordinate_task'),
	('operator', 'EXECUTE', true, 'orchestrate unregister_executor announce_events react_to_events start_scheduled_tasks'),
	('admin', 'EXECUTE', false, 'register_task_template register_task_template_yaml deprecate_task_template describe_namespace pause resume
		grant_observer grant_producer grant_executor grant_operator grant_admin revoke_role'),
	('admin', 'EXECUTE', true, 'describe_dependent_system register_event set_event_schema map_objects prune_tasks upkeep rebuild_accelerators reset_stats')
), included AS (
	SELECT * FROM own
	UNION ALL
	-- Who operates or administers looks as well.
	SELECT c.capability, own.privilege, own.everywhere, own.objects
	FROM own CROSS JOIN (VALUES ('operator'), ('admin')) c (capability)
	WHERE own.capability = 'observer'
)
SELECT i.capability, i.privilege, split_part(o.object, '(', 1) AS object,
	nullif(rtrim(split_part(o.object, '(', 2), ')'), '') AS columns, i.everywhere
FROM included i
CROSS JOIN LATERAL regexp_split_to_table(trim(i.objects), '\s+') o (object);
COMMENT ON VIEW tasker.capability_privileges IS
'What each capability takes: EXECUTE on functions and procedures of a name, SELECT on tables and views, some by columns (NULL: the whole). everywhere: only where it is granted for all namespaces. The grant functions, the documentation and the tests go by it; what is not here is for the owner of the extension.';

-- All that was ever given is taken, and what the rows say is given: both are
-- derived, so neither can be forgotten.
CREATE FUNCTION tasker.apply_grants(role_name text) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	item record;
	has_any boolean := false;
BEGIN
	FOR item IN
		WITH wanted AS (
			SELECT DISTINCT p.privilege, p.object, p.columns
			FROM tasker.capability_grants g
			JOIN tasker.capability_privileges p ON p.capability = g.capability AND (g.task_namespace_id IS NULL OR NOT p.everywhere)
			WHERE g.role_name = apply_grants.role_name
		), known AS (
			SELECT DISTINCT p.privilege, p.object, p.columns FROM tasker.capability_privileges p
		)
		SELECT k.privilege, k.columns, w.object IS NOT NULL AS given,
			CASE k.privilege WHEN 'EXECUTE' THEN 'ROUTINE ' ELSE 'TABLE ' END || string_agg(r.name, ', ') AS names
		FROM known k
		LEFT JOIN wanted w ON w.privilege = k.privilege AND w.object = k.object AND w.columns IS NOT DISTINCT FROM k.columns
		CROSS JOIN LATERAL (
			SELECT p.oid::regprocedure::text AS name FROM pg_proc p
			WHERE k.privilege = 'EXECUTE' AND p.pronamespace = 'tasker'::regnamespace AND p.proname = k.object
			UNION ALL
			SELECT format('tasker.%I', k.object) WHERE k.privilege = 'SELECT'
		) r
		-- Taking from a table takes from its columns, too.
		GROUP BY k.privilege, k.columns, given
		ORDER BY given, k.columns NULLS FIRST
	LOOP
		has_any := has_any OR item.given;
		EXECUTE format(CASE WHEN item.given THEN 'GRANT %s%s ON %s TO %I' ELSE 'REVOKE %s%s ON %s FROM %I' END,
			item.privilege, CASE WHEN item.columns IS NULL THEN '' ELSE (
				SELECT ' (' || string_agg(quote_ident(c), ', ') || ')' FROM string_to_table(item.columns, ',') c) END,
			item.names, role_name);
	END LOOP;
	EXECUTE format(CASE WHEN has_any THEN 'GRANT USAGE ON SCHEMA tasker TO %I' ELSE 'REVOKE USAGE ON SCHEMA tasker FROM %I' END, role_name);
END
$$;
COMMENT ON FUNCTION tasker.apply_grants(text) IS
'Gives a role the privileges that its rows in capability_grants take, and takes all others that a capability could give. For the grant functions.';

CREATE FUNCTION tasker.handlers_of_role(role_name text, names text[]) RETURNS integer[]
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	-- A role that may not even register serves nothing: its grants were revoked, or it is gone.
	spaces integer[] := CASE WHEN EXISTS (SELECT FROM pg_roles r WHERE r.rolname = role_name
			AND has_function_privilege(r.oid, 'tasker.register_executor(text, text[], integer, boolean, interval)', 'EXECUTE'))
		THEN tasker.namespaces_of_role(role_name, 'executor') ELSE '{}' END;
BEGIN
	-- Whoever makes the handlers of an isolated namespace waits, and then finds this executor.
	LOCK TABLE tasker.handlers IN ROW EXCLUSIVE MODE;
	INSERT INTO tasker.handlers (name, task_namespace_id)
	SELECT DISTINCT n.name, s.id
	FROM unnest(names) n (name)
	CROSS JOIN unnest(CASE WHEN spaces IS NULL THEN ARRAY[NULL]::integer[] ELSE spaces END) s (id)
	WHERE NOT EXISTS (SELECT FROM tasker.handlers h WHERE h.name = n.name AND h.task_namespace_id IS NOT DISTINCT FROM s.id)
	ORDER BY n.name, s.id
	ON CONFLICT DO NOTHING;
	RETURN ARRAY(SELECT h.handler_id FROM tasker.handlers h
		WHERE h.name = ANY (names) AND (spaces IS NULL OR h.task_namespace_id = ANY (spaces))
		ORDER BY h.handler_id);
END
$$;
COMMENT ON FUNCTION tasker.handlers_of_role(text, text[]) IS
'The handlers of these names that an executor of a role serves: those of the namespaces in which it is executor; if it is not confined, or executor everywhere, the shared ones and those of every isolated namespace. Makes what is missing. For register_executor().';

CREATE FUNCTION tasker.refresh_executors() RETURNS integer
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	changed integer;
BEGIN
	UPDATE tasker.executors e SET handlers = n.handlers
	FROM (SELECT l.executor_id, tasker.handlers_of_role(l.role,
			ARRAY(SELECT DISTINCT h.name FROM tasker.handlers h WHERE h.handler_id = ANY (l.handlers))) AS handlers
		FROM tasker.executors l WHERE l.ended_at IS NULL) n
	WHERE e.executor_id = n.executor_id AND e.ended_at IS NULL AND NOT (n.handlers @> e.handlers AND e.handlers @> n.handlers);
	GET DIAGNOSTICS changed = ROW_COUNT;
	RETURN changed;
END
$$;
COMMENT ON FUNCTION tasker.refresh_executors() IS
'Gives the executors that are there the handlers that their roles serve now, and returns how many had others. For the grant functions and register_task_template().';

CREATE FUNCTION tasker.ensure_template_handlers(named_task_id integer, names text[]) RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	scope integer := tasker.handler_scope(named_task_id);
	missing text[] := ARRAY(SELECT DISTINCT n FROM unnest(names) n
		WHERE NOT EXISTS (SELECT FROM tasker.handlers h WHERE h.name = n AND h.task_namespace_id IS NOT DISTINCT FROM scope)
		ORDER BY n);
BEGIN
	IF missing = '{}' THEN
		RETURN false;
	END IF;
	IF scope IS NOT NULL THEN
		LOCK TABLE tasker.handlers IN SHARE ROW EXCLUSIVE MODE;
	END IF;
	INSERT INTO tasker.handlers (name, task_namespace_id) SELECT n, scope FROM unnest(missing) n ON CONFLICT DO NOTHING;
	RETURN scope IS NOT NULL AND tasker.refresh_executors() > 0;
END
$$;
COMMENT ON FUNCTION tasker.ensure_template_handlers(integer, text[]) IS
'Makes the handlers that the steps of a template name, in the scope of its namespace, and says whether that has changed what executors serve. For register_task_template().';

-- Under the lock of orchestration: no batch gives anything out meanwhile. Whoever
-- creates tasks from what was in force before finds another revision.
CREATE FUNCTION tasker.isolate_namespace(namespace_id integer) RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM FROM tasker.task_namespaces s WHERE s.task_namespace_id = namespace_id AND s.isolated_at IS NULL FOR UPDATE;
	IF NOT FOUND THEN
		RETURN false;
	END IF;
	LOCK TABLE tasker.handlers IN SHARE ROW EXCLUSIVE MODE;
	UPDATE tasker.task_namespaces s SET isolated_at = tasker.now() WHERE s.task_namespace_id = namespace_id;
	PERFORM FROM tasker.named_tasks t WHERE t.task_namespace_id = namespace_id ORDER BY t.named_task_id FOR UPDATE;
	UPDATE tasker.named_tasks t SET revision = t.revision + 1 WHERE t.task_namespace_id = namespace_id;
	INSERT INTO tasker.handlers (name, task_namespace_id)
	SELECT DISTINCT h.name, namespace_id
	FROM tasker.named_tasks t
	JOIN tasker.named_tasks_named_steps ts ON ts.named_task_id = t.named_task_id
	JOIN tasker.handlers h ON h.handler_id = ts.handler_id
	WHERE t.task_namespace_id = namespace_id
	ON CONFLICT DO NOTHING;
	UPDATE tasker.named_tasks_named_steps ts SET handler_id = own.handler_id
	FROM tasker.named_tasks t, tasker.handlers shared, tasker.handlers own
	WHERE t.task_namespace_id = namespace_id AND ts.named_task_id = t.named_task_id
		AND shared.handler_id = ts.handler_id AND own.name = shared.name AND own.task_namespace_id = namespace_id;
	PERFORM FROM tasker.workflow_steps s JOIN tasker.tasks t ON t.task_id = s.task_id
	WHERE t.task_namespace_id = namespace_id AND s.state IN ('pending', 'in_progress', 'error')
	ORDER BY s.workflow_step_id FOR NO KEY UPDATE OF s;
	UPDATE tasker.workflow_steps s SET handler_id = own.handler_id
	FROM tasker.tasks t, tasker.handlers shared, tasker.handlers own
	WHERE t.task_namespace_id = namespace_id AND s.task_id = t.task_id AND s.state IN ('pending', 'in_progress', 'error')
		AND shared.handler_id = s.handler_id AND own.name = shared.name AND own.task_namespace_id = namespace_id;
	WITH waiting AS (
		DELETE FROM tasker.work_queue q
		USING tasker.workflow_steps s, tasker.tasks t
		WHERE s.workflow_step_id = q.workflow_step_id AND t.task_id = s.task_id AND t.task_namespace_id = namespace_id
		RETURNING s.handler_id, q.rank, q.workflow_step_id)
	INSERT INTO tasker.work_queue (handler_id, rank, workflow_step_id)
	SELECT w.handler_id, w.rank, w.workflow_step_id FROM waiting w;
	UPDATE tasker.orchestrator_checkpoint SET generation = generation + 1, reconcile = true;
	RETURN true;
END
$$;
COMMENT ON FUNCTION tasker.isolate_namespace(integer) IS
'Gives a namespace handlers of its own, and its templates, open steps and waiting steps with them; false if it has them already. For grant_executor().';

CREATE FUNCTION tasker.write_grant(role_name text, capability text, namespace text, granted_by text, may_make_namespace boolean) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
	namespace_id integer;
BEGIN
	IF namespace IS NOT NULL THEN
		IF may_make_namespace THEN
			INSERT INTO tasker.task_namespaces (name) VALUES (namespace) ON CONFLICT (name) DO NOTHING;
		END IF;
		SELECT s.task_namespace_id INTO namespace_id FROM tasker.task_namespaces s WHERE s.name = namespace;
		IF capability = 'executor' THEN
			PERFORM tasker.isolate_namespace(namespace_id);
		END IF;
	END IF;
	INSERT INTO tasker.capability_grants (role_name, capability, task_namespace_id, granted_by, granted_at)
	VALUES (role_name, capability, namespace_id, granted_by, tasker.now())
	ON CONFLICT DO NOTHING;
	PERFORM tasker.apply_grants(role_name);
END
$$;
COMMENT ON FUNCTION tasker.write_grant(text, text, text, text, boolean) IS 'What the grant functions do once it is known that the caller may. For tasker itself.';

CREATE FUNCTION tasker.write_revocation(role_name text, capability text, namespace text) RETURNS integer
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
	revoked integer;
BEGIN
	DELETE FROM tasker.capability_grants g
	WHERE g.role_name = role_name AND g.capability = coalesce(capability, g.capability)
		AND (namespace IS NULL OR g.task_namespace_id = (SELECT s.task_namespace_id FROM tasker.task_namespaces s WHERE s.name = namespace));
	GET DIAGNOSTICS revoked = ROW_COUNT;
	IF revoked > 0 AND EXISTS (SELECT FROM pg_roles r WHERE r.rolname = role_name) THEN
		PERFORM tasker.apply_grants(role_name);
	END IF;
	RETURN revoked;
END
$$;
COMMENT ON FUNCTION tasker.write_revocation(text, text, text) IS 'What revoke_role() does once it is known that the caller may. For tasker itself.';

CREATE FUNCTION tasker.would_confine(role_name text) RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	SELECT EXISTS (SELECT FROM pg_roles r JOIN pg_roles g ON g.rolname = $1
		WHERE pg_has_role(r.oid, g.oid, 'USAGE') AND NOT r.rolsuper AND has_schema_privilege(r.oid, 'tasker', 'USAGE')
			AND tasker.namespaces_of_role(r.rolname, '') IS NULL);
END;
COMMENT ON FUNCTION tasker.would_confine(text) IS
'Whether a first grant to a role would confine somebody who works with tasker unconfined: only the owner of the extension may do that. For the grant functions.';

CREATE FUNCTION tasker.grant_observer(role_name text, namespace text DEFAULT NULL) RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_grant_observer';
COMMENT ON FUNCTION tasker.grant_observer(text, text) IS
'Lets a role look at the templates, tasks, steps, logs and executors of a namespace (NULL: of all), with every view and every function that only looks. From its first grant on a role is confined to what it was granted, whatever privileges it has. May be called by superusers, the owner of the extension, and admins for their namespaces. Granting again changes nothing. A namespace that is not there is made, if the caller is no admin of single namespaces. Errors: 42704 unknown role or namespace; 42501 the caller may not, or the grant would confine a role that works unconfined; 22004 no role.';
CREATE FUNCTION tasker.grant_producer(role_name text, namespace text DEFAULT NULL) RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_grant_producer';
COMMENT ON FUNCTION tasker.grant_producer(text, text) IS
'Lets a role create, find, update, annotate and await tasks in a namespace (NULL: in all). Everything else as grant_observer().';
CREATE FUNCTION tasker.grant_executor(role_name text, namespace text DEFAULT NULL) RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_grant_executor';
COMMENT ON FUNCTION tasker.grant_executor(text, text) IS
'Lets a role register executors that run the steps of a namespace (NULL: of all). The namespace is isolated by it, for good: its steps get handlers of their own, so that this role gets no step of another namespace although it names the same handlers; executors of unconfined roles serve it as before. That takes the lock of orchestration and touches each open step of the namespace. Executors that are there follow at once. Sessions that create a task of the namespace meanwhile may get 40001. Everything else as grant_observer().';
CREATE FUNCTION tasker.grant_operator(role_name text, namespace text DEFAULT NULL) RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_grant_operator';
COMMENT ON FUNCTION tasker.grant_operator(text, text) IS
'Lets a role look as an observer does, and cancel, retry, resolve, update, re-enqueue, pause and resume what is in a namespace (NULL: in all). Everything else as grant_observer().';
CREATE FUNCTION tasker.grant_admin(role_name text, namespace text DEFAULT NULL) RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_grant_admin';
COMMENT ON FUNCTION tasker.grant_admin(text, text) IS
'Lets a role look as an observer does, register and deprecate templates in a namespace, pause it, and grant and revoke capabilities in it; NULL: in all namespaces, and prune, check and adopt the database besides. Everything else as grant_observer().';

CREATE FUNCTION tasker.revoke_role(role_name text, capability text DEFAULT NULL, namespace text DEFAULT NULL) RETURNS integer
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_revoke_role';
COMMENT ON FUNCTION tasker.revoke_role(text, text, text) IS
'Takes from a role what the grant functions gave it: a capability (NULL: all) in a namespace (NULL: in all, the grants for all namespaces included), and returns how many grants that were. Privileges of the role on objects of tasker that no grant is left for go, too, whoever gave them; without any grant it is a role like any other again. Executors that are there lose the handlers they may not serve any more; steps that they have they may finish. The role need not exist. Errors: 42501 the caller may not; 22023 unknown capability; 22004 no role.';
