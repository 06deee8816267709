-- From version 1.0 to 1.1 of tasker, in one transaction; see docs/upgrading.md.
\echo Use "ALTER EXTENSION tasker UPDATE" to load this file. \quit

SET LOCAL search_path = pg_catalog, pg_temp;

-- Who may create in the schema could put a function beside ours that suits a
-- call better, as in the install script.
DO $$
BEGIN
	IF EXISTS (SELECT FROM pg_namespace n
		WHERE n.nspname = 'tasker' AND (n.nspowner <> current_user::regrole
				AND NOT (SELECT r.rolsuper FROM pg_roles r WHERE r.oid = n.nspowner)
			OR EXISTS (SELECT FROM aclexplode(n.nspacl) a WHERE a.grantee <> n.nspowner AND a.privilege_type = 'CREATE')))
	THEN
		RAISE EXCEPTION 'schema tasker is not ours alone' USING ERRCODE = 'object_not_in_prerequisite_state',
			DETAIL = 'It belongs to a role that is no superuser, or others may create in it.',
			HINT = 'Revoke CREATE on the schema, look at what is in it, then run ALTER EXTENSION tasker UPDATE again.';
	END IF;
END
$$;

-- Every table gets row security, every view the rights of whoever asks, so all
-- of them are locked here, or given back. Views come first, as those who read
-- them lock them: altering one locks it alone, LOCK TABLE would go on to the
-- catalogs beneath. Nobody waits for this longer than 100 ms at a time, nor this
-- for anybody. Who looks for a deadlock is the one who waits, soon enough that
-- autovacuum makes way. No batch of the orchestrator is halfway through.
DO $$
DECLARE
	begun timestamptz;
	item record;
BEGIN
	SET LOCAL deadlock_timeout = '20ms';
	FOR attempt IN 1 .. 100 LOOP
		BEGIN
			begun := clock_timestamp();
			FOR item IN
				SELECT c.relname, c.relkind = 'v' AS is_view FROM pg_class c
				WHERE c.relnamespace = 'tasker'::regnamespace AND c.relkind IN ('v', 'r', 'p')
				ORDER BY c.relkind = 'v' DESC, c.relname
			LOOP
				PERFORM set_config('lock_timeout', greatest(1, 100 - 1000 * extract(epoch FROM clock_timestamp() - begun))::integer::text, true);
				EXECUTE format(CASE WHEN item.is_view THEN 'ALTER VIEW tasker.%I SET (security_invoker = true)'
					ELSE 'LOCK TABLE ONLY tasker.%I IN ACCESS EXCLUSIVE MODE' END, item.relname);
			END LOOP;
			SET LOCAL lock_timeout = '100ms';
			RETURN;
		EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
			PERFORM pg_sleep(0.1);
		END;
	END LOOP;
	RAISE lock_not_available USING MESSAGE = 'the tables of tasker are in use by others',
		DETAIL = 'Each of 100 attempts to lock them has waited for 100 ms.',
		HINT = 'pg_locks tells who uses them: a dump, a transaction that is prepared or forgotten. Then run ALTER EXTENSION tasker UPDATE again.';
END
$$;

CREATE FUNCTION tasker.transition_event(owner text, from_state tasker.state, to_state tasker.state) RETURNS text
LANGUAGE c IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'tasker_transition_event';

COMMENT ON FUNCTION tasker.transition_event(text, tasker.state, tasker.state) IS
'The event that a transition of owner ''task'' or ''step'' announces; NULL where it is not legal. from_state NULL is the creation.';

-- What is counted and timed in shared memory. Zero when the server starts, and
-- nothing at all where tasker is not preloaded.

CREATE FUNCTION tasker.orchestrator_measures(
	OUT batches_per_second double precision, OUT log_rows_per_second double precision,
	OUT claims_per_second double precision, OUT notifications_per_second double precision,
	OUT intake_p50 double precision, OUT intake_p99 double precision,
	OUT dispatch_p50 double precision, OUT dispatch_p99 double precision,
	OUT claim_p50 double precision, OUT claim_p99 double precision,
	OUT execution_p50 double precision, OUT execution_p99 double precision,
	OUT batch_p50 double precision, OUT batch_p99 double precision,
	OUT last_error_at timestamptz, OUT last_error_sqlstate text, OUT last_error_repeats bigint,
	OUT unread_rows bigint, OUT unread_seconds double precision, OUT memory_bytes bigint,
	OUT set_aside integer, OUT set_aside_owners text[], OUT measured_since timestamptz)
LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'tasker_orchestrator_measures';

COMMENT ON FUNCTION tasker.orchestrator_measures() IS
'What shared memory has measured of this database; see the view stat_orchestrator.';

CREATE FUNCTION tasker.executor_measures(
	OUT executor_id bigint, OUT claims bigint, OUT completions bigint, OUT failures bigint, OUT releases bigint, OUT losses bigint,
	OUT claims_per_second double precision, OUT completions_per_second double precision,
	OUT execution_p50 double precision, OUT execution_p99 double precision,
	OUT last_error text, OUT last_error_at timestamptz, OUT last_seen_at timestamptz)
RETURNS SETOF record
LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'tasker_executor_measures';

COMMENT ON FUNCTION tasker.executor_measures() IS
'What shared memory has measured of the executors of this database; see the view stat_executors. No row for a role that is confined to namespaces.';

CREATE FUNCTION tasker.latency_buckets(OUT name text, OUT upper_bound double precision, OUT count bigint, OUT seconds double precision)
RETURNS SETOF record
LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'tasker_latency_buckets';

COMMENT ON FUNCTION tasker.latency_buckets() IS 'The histograms of this database; see the view stat_latencies.';

CREATE VIEW tasker.stat_latencies AS
SELECT b.name, b.upper_bound, b.count, b.seconds FROM tasker.latency_buckets() b;

COMMENT ON VIEW tasker.stat_latencies IS
'How long things take in this database, as histograms since measured_since of stat_orchestrator: one row for each bucket, counts cumulative as Prometheus has them. name is intake (a commit with news, until the orchestrator has read it), dispatch (such a commit, until the batch that gave out steps has committed), claim (a step that is found ready, until it is claimed; a sample of up to 256 at a time), execution (a claim, until its outcome is reported), or batch (a batch of the orchestrator). No row where tasker is not preloaded. For operators and monitoring.';

COMMENT ON COLUMN tasker.stat_latencies.upper_bound IS 'Seconds, included; 0.0001, doubled from row to row, Infinity in the last one.';

COMMENT ON COLUMN tasker.stat_latencies.count IS 'How many took up to upper_bound.';

COMMENT ON COLUMN tasker.stat_latencies.seconds IS 'The sum of all of this name, the same in each row.';

CREATE FUNCTION tasker.transition_counts(
	OUT owner text, OUT id integer,
	OUT created bigint, OUT started bigint, OUT completed bigint, OUT failed bigint, OUT cancelled bigint, OUT resolved bigint,
	OUT retried bigint, OUT released bigint, OUT lost bigint,
	OUT bounds double precision[], OUT buckets bigint[], OUT seconds double precision, OUT timed bigint)
RETURNS SETOF record
LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'tasker_transition_counts';
COMMENT ON FUNCTION tasker.transition_counts() IS
'How many transitions of tasks (owner task: by the id of the template) and of steps (owner step: by that of the handler) were committed since the server''s start or reset_stats(), and how long they took; see the views stat_tasks and stat_handlers. 2048 templates and handlers of the whole server are counted each for itself, from their first transition on, the others of a database together: id is NULL then. Transactions that were prepared are not counted.';

CREATE FUNCTION tasker.reset_stats() RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_reset_stats';

COMMENT ON FUNCTION tasker.reset_stats() IS
'Puts the counters, rates, latencies and last errors of stat_orchestrator, stat_executors, stat_latencies, stat_tasks and stat_handlers of this database back to zero, as a restart of the server does. At once, whatever becomes of the transaction; waits for nobody. What is unread, set aside or held in memory stays: that is so. Does nothing where tasker is not preloaded.';

-- Which database this is.

CREATE VIEW tasker.home AS
SELECT hashint8extended(s.system_identifier, d.oid::bigint) AS identifier
FROM pg_control_system() s
JOIN pg_database d ON d.datname = current_database();

COMMENT ON VIEW tasker.home IS
'One row: what identifies this database among those of all servers. A dump, and a clone of the database, are in another one. A physical copy of the server has the same, see orchestrator_checkpoint.taken_over_at.';

ALTER TABLE tasker.task_namespaces
	ADD COLUMN isolated_at timestamptz;

COMMENT ON COLUMN tasker.task_namespaces.isolated_at IS 'Since when its steps have handlers of their own, so that an executor confined to it gets no step of another: since grant_executor() first named it. NULL: it shares handlers.';

-- The handlers that are there are shared ones, task_namespace_id NULL.
ALTER TABLE tasker.handlers
	ADD COLUMN task_namespace_id integer REFERENCES tasker.task_namespaces,
	DROP CONSTRAINT handler_name_is_unique,
	ADD CONSTRAINT handler_name_is_unique_in_its_scope UNIQUE NULLS NOT DISTINCT (name, task_namespace_id);

COMMENT ON COLUMN tasker.handlers.task_namespace_id IS 'The isolated namespace whose steps it is for; NULL: all namespaces that are not isolated share it.';

ALTER TABLE tasker.named_tasks_named_steps ADD COLUMN waits_for jsonb
	CONSTRAINT template_step_waits_for_time_or_event CHECK (waits_for ? 'sleep' OR waits_for ? 'await_event');

COMMENT ON COLUMN tasker.named_tasks_named_steps.waits_for IS 'The sleep or await_event of a step that no executor runs, under that key; handler_id is then tasker.sleep or tasker.await_event. NULL: an executor runs it.';

CREATE INDEX template_steps_that_wait ON tasker.named_tasks_named_steps (named_task_id) WHERE waits_for IS NOT NULL;
COMMENT ON INDEX tasker.template_steps_that_wait IS 'Serves whoever asks, once after each change of definitions, which templates wait for what.';

COMMENT ON FUNCTION tasker.register_task_template(jsonb) IS
'Registers a workflow definition and returns its named_task_id. Keys: name*, namespace_name (default), version (0.1.0), description, task_handler_class and module_namespace (for your information), default_dependent_system, named_steps (if given, every step is among them), schema (JSON Schema of the contexts of its tasks, draft 4, 6 or 7), environments (by name, each with keys to override: objects are merged key by key, step_templates by name; the one that tasker.environment names counts, all are checked), step_templates* of name*, handler_class* (or, for a step that waits, sleep or await_event: see docs/waiting.md), description, dependent_system, depends_on_step, depends_on_steps, default_retryable (true), default_retry_limit (3), skippable (false), handler_config, custom_events of name* and description (see register_event), priority (0), timeout_seconds, backoff_base_seconds, backoff_cap_seconds, backoff_jitter. A step that is not retryable gets one attempt, and a crash of its executor counts as one. The whole template is validated before anything is written. Equal content in the same environment under the same version is a no-op. Errors: 22023 invalid template; TK003 other content or environment under a version that already has tasks. Concurrent registrations of one version wait for each other.';

CREATE INDEX template_steps_by_named_step ON tasker.named_tasks_named_steps (named_step_id);

COMMENT ON INDEX tasker.template_steps_by_named_step IS 'Serves row security: does a template that a role sees use the step.';

CREATE INDEX template_steps_by_handler ON tasker.named_tasks_named_steps (handler_id);

COMMENT ON INDEX tasker.template_steps_by_handler IS 'Serves row security: does a template that a role sees use the handler.';

-- Who may do what in which namespace, and what row security asks.

CREATE TABLE tasker.capability_grants (
	role_name text NOT NULL
		CONSTRAINT grant_role_name_has_1_to_63_bytes CHECK (octet_length(role_name) BETWEEN 1 AND 63),
	capability text NOT NULL
		CONSTRAINT grant_capability_is_known CHECK (capability IN ('observer', 'producer', 'executor', 'operator', 'admin')),
	task_namespace_id integer REFERENCES tasker.task_namespaces,
	granted_by text NOT NULL,
	granted_at timestamptz NOT NULL,
	CONSTRAINT grant_is_unique UNIQUE NULLS NOT DISTINCT (role_name, capability, task_namespace_id)
);

COMMENT ON TABLE tasker.capability_grants IS
'What was granted to roles, by name: a role that does not exist, after a restore say, means nothing. Roles that a row applies to, by membership too, are confined to their rows; all others to nothing but PostgreSQL''s privileges. Written by grant_observer() and its like, and revoke_role(). See role_grants.';

COMMENT ON COLUMN tasker.capability_grants.task_namespace_id IS 'NULL: all namespaces.';

ALTER TABLE tasker.capability_grants REPLICA IDENTITY FULL;

CREATE VIEW tasker.role_grants AS
SELECT g.role_name, g.capability, n.name AS namespace, g.granted_by, g.granted_at,
	EXISTS (SELECT FROM pg_roles r WHERE r.rolname = g.role_name) AS role_exists
FROM tasker.capability_grants g
LEFT JOIN tasker.task_namespaces n ON n.task_namespace_id = g.task_namespace_id
WHERE g.task_namespace_id IS NULL OR n.task_namespace_id IS NOT NULL;

COMMENT ON VIEW tasker.role_grants IS
'Which role has which capability: observer, producer, executor, operator or admin. namespace NULL: in all of them. Whoever is confined sees its own, and those in its namespaces.';

-- Policies are checked against the privileges of whoever reads a table, so
-- PUBLIC may execute these (privileges.sql). They tell a role what it may see
-- itself, which it sees anyway, and cannot be named without USAGE on the schema.
CREATE FUNCTION tasker.sees_everything() RETURNS boolean
LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'tasker_sees_everything';

COMMENT ON FUNCTION tasker.sees_everything() IS 'Whether the current role is confined to no namespace. For row security.';

CREATE FUNCTION tasker.visible_namespaces() RETURNS integer[]
LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'tasker_visible_namespaces';

COMMENT ON FUNCTION tasker.visible_namespaces() IS 'The namespaces, by number, that the current role is confined to; empty where it sees everything. For row security.';

CREATE FUNCTION tasker.sees_template(named_task_id integer) RETURNS boolean
LANGUAGE c STABLE STRICT PARALLEL SAFE COST 20 AS 'MODULE_PATHNAME', 'tasker_sees_template';

COMMENT ON FUNCTION tasker.sees_template(integer) IS 'Whether a template is there and in a namespace that the current role sees. For row security.';

CREATE FUNCTION tasker.sees_task(task_id bigint) RETURNS boolean
LANGUAGE c STABLE STRICT PARALLEL SAFE COST 20 AS 'MODULE_PATHNAME', 'tasker_sees_task';

COMMENT ON FUNCTION tasker.sees_task(bigint) IS 'Whether a task is there and in a namespace that the current role sees. For row security.';

CREATE FUNCTION tasker.sees_step(step_id bigint) RETURNS boolean
LANGUAGE c STABLE STRICT PARALLEL SAFE COST 40 AS 'MODULE_PATHNAME', 'tasker_sees_step';

COMMENT ON FUNCTION tasker.sees_step(bigint) IS 'Whether a step is there and in a namespace that the current role sees. For row security.';

CREATE FUNCTION tasker.sees_role(role_name text) RETURNS boolean
LANGUAGE c STABLE STRICT PARALLEL SAFE COST 20 AS 'MODULE_PATHNAME', 'tasker_sees_role';

COMMENT ON FUNCTION tasker.sees_role(text) IS 'Whether the current role has the privileges of a role, or sees every namespace that the other is confined to. For row security.';

CREATE FUNCTION tasker.sees_name(kind text, id integer) RETURNS boolean
LANGUAGE c STABLE STRICT PARALLEL SAFE COST 100 AS 'MODULE_PATHNAME', 'tasker_sees_name';

COMMENT ON FUNCTION tasker.sees_name(text, integer) IS 'Whether anything that the current role sees uses a named_step, handler or annotation_type. For row security.';

CREATE FUNCTION tasker.sees_event(kind text, name text) RETURNS boolean
LANGUAGE c STABLE STRICT PARALLEL SAFE COST 100 AS 'MODULE_PATHNAME', 'tasker_sees_name';

COMMENT ON FUNCTION tasker.sees_event(text, text) IS 'Whether a template that the current role sees announces a custom event (kind: event). For row security.';

CREATE FUNCTION tasker.namespaces_of_role(role_name text, capability text) RETURNS integer[]
LANGUAGE c STABLE STRICT AS 'MODULE_PATHNAME', 'tasker_namespaces_of_role';

COMMENT ON FUNCTION tasker.namespaces_of_role(text, text) IS
'The namespaces, by number, in which a role has a capability, its memberships counted; NULL: in all of them, or it is not confined. Empty where there is no such role. For tasker itself.';

CREATE FUNCTION tasker.handler_scope(named_task_id integer) RETURNS integer
LANGUAGE sql STABLE
BEGIN ATOMIC
	SELECT s.task_namespace_id FROM tasker.named_tasks t
	JOIN tasker.task_namespaces s ON s.task_namespace_id = t.task_namespace_id
	WHERE t.named_task_id = $1 AND s.isolated_at IS NOT NULL;
END;

COMMENT ON FUNCTION tasker.handler_scope(integer) IS 'The isolated namespace of a template; NULL where it shares its handlers. For tasker itself.';

ALTER TABLE tasker.custom_events
	ADD COLUMN payload_schema jsonb
		CONSTRAINT custom_event_schema_is_an_object CHECK (jsonb_typeof(payload_schema) = 'object'),
	ADD COLUMN version integer NOT NULL DEFAULT 1;

COMMENT ON COLUMN tasker.custom_events.payload_schema IS 'JSON Schema of what publish_event() is given; NULL: any object.';

COMMENT ON COLUMN tasker.custom_events.version IS 'Of the payload: grows with each other schema.';

-- What the payloads of system events carry: every event the standard keys, and
-- some more. The one place that says so; the builder is held against it by a test.
CREATE FUNCTION tasker.event_payload_keys(OUT key text, OUT types text[], OUT events text[], OUT description text) RETURNS SETOF record
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
	SELECT k.key, string_to_array(k.types, ' '), string_to_array(k.events, ' '), k.description
	FROM (VALUES
		('event_type', 'string', NULL, 'Name of the event.'),
		('event_key', 'string', NULL, 'Names this event for ever: owner, id and sort_key. Whoever gets it twice can tell.'),
		('event_version', 'integer', NULL, 'Version of the payload.'),
		('timestamp', 'string', NULL, 'When it happened.'),
		('task_id', 'integer null', NULL, 'The task.'),
		('step_id', 'integer null', NULL, 'The step; null for events of a task.'),
		('namespace', 'string null', NULL, 'Namespace of the task''s template; null once the task is pruned, like all that is read from it.'),
		('task_name', 'string null', NULL, 'Name of the task''s template.'),
		('task_version', 'string null', NULL, 'Version of the task''s template.'),
		('step_name', 'string null', NULL, 'Name of the step.'),
		('attempt_number', 'integer null', NULL, 'Which attempt of the step it was, counted anew after an operator''s retry; 0 before the first one; null for events of a task.'),
		('started_at', 'string null', NULL, 'When the attempt was claimed, or the task started; null before.'),
		('completed_at', 'string null', NULL, 'When the attempt or the task ended; null before.'),
		('execution_duration', 'number null', NULL, 'Seconds from started_at to completed_at.'),
		('error_message', 'string null', NULL, 'What the executor said of a failure.'),
		('exception_class', 'string null', NULL, 'The error''s class, as the executor said.'),
		('from_state', 'string null', NULL, 'The state before; null for a creation.'),
		('to_state', 'string', NULL, 'The state since.'),
		('executor_id', 'integer null', NULL, 'The executor that the step was claimed for, or that reported.'),
		('role', 'string', NULL, 'The database role that made the transition.'),
		('reason', 'string null', NULL, 'Why, where the transition says so.'),
		('retry_limit', 'integer null', 'step.execution_requested step.failed step.retry_requested', 'Attempts allowed in all.'),
		('retry_available', 'boolean null', 'step.failed', 'Whether the step will run again by itself.'),
		('backoff_seconds', 'number null', 'step.failed', 'How long it waits for that.'),
		('backoff_type', 'string null', 'step.failed', 'What decided it: server_requested, a built-in strategy or a function.'),
		('step_results', 'object array string number boolean null', 'step.completed', 'What the step returned; null where that is longer than 8000 bytes: read workflow_steps.results.'),
		('task_context', 'object null', 'task.initialize_requested', 'The context; null where that is longer than 8000 bytes: read tasks.context.'),
		('requested_at', 'string null', 'task.initialize_requested', 'When the task was asked for.'),
		('total_steps', 'integer null', 'task.completed task.failed task.cancelled task.resolved_manually', 'Steps of the task.'),
		('completed_steps', 'integer null', 'task.completed task.failed task.cancelled task.resolved_manually', 'Those complete or resolved by then.'),
		('failed_steps', 'integer null', 'task.completed task.failed task.cancelled task.resolved_manually', 'Those in error then.'),
		('error_steps', 'array null', 'task.failed', 'Names of the first 100 of these.')
	) k(key, types, events, description);
END;

COMMENT ON FUNCTION tasker.event_payload_keys() IS
'The keys of the payloads of system events, with their JSON types. events NULL: all of them have it.';

CREATE FUNCTION tasker.event_payload_schema(event text) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
	SELECT jsonb_build_object('type', 'object', 'additionalProperties', false,
		'required', jsonb_agg(k.key ORDER BY k.key),
		'properties', jsonb_object_agg(k.key, jsonb_build_object('type', k.types, 'description', k.description)))
	FROM tasker.event_payload_keys() k
	WHERE k.events IS NULL OR event = ANY (k.events);
END;

COMMENT ON FUNCTION tasker.event_payload_schema(text) IS 'The JSON Schema of the payload of a system event.';

CREATE OR REPLACE VIEW tasker.event_definitions AS
SELECT l.event AS name, l.owner AS category,
	format('A %s goes from %s to %s.', l.owner,
		string_agg(coalesce(l.from_state::text, 'nothing'), ' or ' ORDER BY l.from_state NULLS FIRST), l.to_state) AS description,
	array_agg(coalesce(l.from_state::text, 'nothing') || ' -> ' || l.to_state ORDER BY l.from_state NULLS FIRST) AS fired_by,
	NULL::timestamptz AS registered_at,
	tasker.event_payload_schema(l.event) AS payload_schema, 1 AS version
FROM tasker.legal_transitions() l
GROUP BY l.event, l.owner, l.to_state
UNION ALL
SELECT e.name, 'custom', e.description,
	e.fired_by || ARRAY(
		SELECT DISTINCT concat_ws('.', ns.name, nt.name, s.name)
		FROM tasker.named_step_events se
		JOIN tasker.named_tasks nt ON nt.named_task_id = se.named_task_id
		JOIN tasker.task_namespaces ns ON ns.task_namespace_id = nt.task_namespace_id
		JOIN tasker.named_steps s ON s.named_step_id = se.named_step_id
		WHERE se.name = e.name
		ORDER BY 1),
	e.registered_at, coalesce(e.payload_schema, '{"type": "object"}'), e.version
FROM tasker.custom_events e;

COMMENT ON VIEW tasker.event_definitions IS
'Every event there is. category is task, step or custom (workflow and observability are reserved). description of the former says which change of state announces it, fired_by names the transitions. fired_by of a custom event names steps as namespace.template.step, and whatever register_event() was told. registered_at is NULL for what is built in. payload_schema is the JSON Schema of the payload in this version; of a custom event of what publish_event() is given. Search it with WHERE category = ... and name LIKE, description ILIKE.';

CREATE FUNCTION tasker.set_event_schema(name text, payload_schema jsonb) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	version integer;
BEGIN
	-- Raises for a schema that is none.
	PERFORM tasker.json_schema_violations(payload_schema, '{}');
	UPDATE tasker.custom_events e
	SET payload_schema = set_event_schema.payload_schema,
		version = e.version + (e.payload_schema IS DISTINCT FROM set_event_schema.payload_schema)::integer
	WHERE e.name = set_event_schema.name
	RETURNING e.version INTO version;
	IF version IS NULL THEN
		RAISE EXCEPTION 'custom event "%" is not in the catalogue', name
			USING ERRCODE = 'undefined_object', HINT = 'Enter it with tasker.register_event(), or as custom_events of a step template.';
	END IF;
	RETURN version;
END
$$;

COMMENT ON FUNCTION tasker.set_event_schema(text, jsonb) IS
'Says which payloads of a custom event are valid, by a JSON Schema of draft 4, 6 or 7; NULL: any object. Returns the version of the payload, which grows with each other schema. What was published before stays. Errors: 42704 unknown event; 22023 invalid schema.';

CREATE OR REPLACE FUNCTION tasker.describe_namespace(name text, description text) RETURNS integer
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_describe_namespace';

CREATE OR REPLACE FUNCTION tasker.describe_dependent_system(name text, description text) RETURNS integer
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_describe_dependent_system';

CREATE FUNCTION tasker.write_object_map(system_one text, remote_id_one text, system_two text, remote_id_two text) RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
	systems text[] := ARRAY[system_one, system_two];
	ids integer[];
	remotes text[] := ARRAY[remote_id_one, remote_id_two];
	map bigint;
BEGIN
	IF array_position(systems || remotes, NULL) IS NOT NULL THEN
		RAISE null_value_not_allowed USING MESSAGE = 'systems and remote ids must not be null';
	END IF;
	IF EXISTS (SELECT FROM unnest(systems) s WHERE length(s) NOT BETWEEN 1 AND 64) THEN
		RAISE invalid_parameter_value USING MESSAGE = 'the name of a dependent system must have 1 to 64 characters';
	END IF;
	IF EXISTS (SELECT FROM unnest(remotes) r WHERE length(r) NOT BETWEEN 1 AND 128) THEN
		RAISE invalid_parameter_value USING MESSAGE = 'a remote id must have 1 to 128 characters';
	END IF;
	IF system_one = system_two AND remote_id_one = remote_id_two THEN
		RAISE invalid_parameter_value
			USING MESSAGE = format('object "%s" of system "%s" cannot be mapped to itself', remote_id_one, system_one);
	END IF;

	-- In one order, as register_task_template() inserts them: two sessions cannot deadlock.
	INSERT INTO tasker.dependent_systems (name)
	SELECT DISTINCT s FROM unnest(systems) s
	WHERE NOT EXISTS (SELECT FROM tasker.dependent_systems d WHERE d.name = s)
	ORDER BY s
	ON CONFLICT (name) DO NOTHING;
	ids := ARRAY(SELECT d.dependent_system_id FROM unnest(systems) WITH ORDINALITY u (s, n)
		JOIN tasker.dependent_systems d ON d.name = u.s ORDER BY u.n);
	IF (ids[1], remotes[1] COLLATE "C") > (ids[2], remotes[2] COLLATE "C") THEN
		ids := ARRAY[ids[2], ids[1]];
		remotes := ARRAY[remotes[2], remotes[1]];
	END IF;
	INSERT INTO tasker.dependent_system_object_maps AS m
		(dependent_system_one_id, remote_id_one, dependent_system_two_id, remote_id_two)
	SELECT ids[1], remotes[1], ids[2], remotes[2]
	WHERE NOT EXISTS (SELECT FROM tasker.dependent_system_object_maps x
		WHERE x.dependent_system_one_id = ids[1] AND x.remote_id_one = remotes[1]
			AND x.dependent_system_two_id = ids[2] AND x.remote_id_two = remotes[2])
	ON CONFLICT DO NOTHING
	RETURNING m.dependent_system_object_map_id INTO map;
	IF map IS NULL THEN
		SELECT m.dependent_system_object_map_id INTO map FROM tasker.dependent_system_object_maps m
		WHERE m.dependent_system_one_id = ids[1] AND m.remote_id_one = remotes[1]
			AND m.dependent_system_two_id = ids[2] AND m.remote_id_two = remotes[2];
	END IF;
	-- It was there, and somebody has deleted it since.
	IF map IS NULL THEN
		RAISE serialization_failure USING MESSAGE = format('object "%s" of system "%s" is being mapped by another transaction',
			remote_id_one, system_one), HINT = 'Try the transaction again.';
	END IF;
	RETURN map;
END
$$;

COMMENT ON FUNCTION tasker.write_object_map(text, text, text, text) IS
'What map_objects() does once it is known that the caller may. For tasker itself.';

CREATE OR REPLACE FUNCTION tasker.map_objects(system_one text, remote_id_one text, system_two text, remote_id_two text) RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_map_objects';

CREATE FUNCTION tasker.create_requested_task(request jsonb) RETURNS bigint
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_create_requested_task';

COMMENT ON FUNCTION tasker.create_requested_task(jsonb) IS
'create_task for a request as create_tasks takes them. What schedules call, as the role that made them. Errors as create_task.';

CREATE OR REPLACE FUNCTION tasker.find_task(identity_key text, namespace text DEFAULT 'default') RETURNS bigint
LANGUAGE c STABLE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_find_task';

COMMENT ON FUNCTION tasker.annotate_task(bigint, text, jsonb, text) IS
'Adds an annotation, a JSON object, to a task in whatever state and returns its task_annotation_id. The type is made if it is new; a description replaces that of the type. Changes no state: an executor notes what it knows in the transaction that completes its step. Locks the task row FOR KEY SHARE, which waits for nobody but who prunes the task. Errors: 42704 unknown task; 22004 null; 22023 type not of 1 to 64 characters, description of more than 10000, annotation not an object; 54000 annotation of more than 1 MB.';

COMMENT ON FUNCTION tasker.remove_annotation(bigint) IS
'Removes an annotation. False if there is none of that id. Locks the task row FOR KEY SHARE, as annotate_task does.';

-- As the parent has it, for whoever is let to a partition by name. Those that
-- come from a dump of version 1.0 have none: resume() calls this.
CREATE FUNCTION tasker.secure_partitions() RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	leaf record;
BEGIN
	FOR leaf IN
		SELECT c.relname, i.inhparent = 'tasker.task_transition_log'::regclass AS is_of_tasks
		FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
		WHERE i.inhparent IN ('tasker.task_transition_log'::regclass, 'tasker.workflow_step_transition_log'::regclass)
			AND NOT EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid)
	LOOP
		EXECUTE format('ALTER TABLE tasker.%I ENABLE ROW LEVEL SECURITY', leaf.relname);
		EXECUTE format(CASE WHEN leaf.is_of_tasks
				THEN 'CREATE POLICY tenants ON tasker.%I USING ((SELECT tasker.sees_everything()) OR tasker.sees_task(task_id))'
				ELSE 'CREATE POLICY tenants ON tasker.%I USING ((SELECT tasker.sees_everything()) OR tasker.sees_step(workflow_step_id))' END,
			leaf.relname);
	END LOOP;
END
$$;

COMMENT ON FUNCTION tasker.secure_partitions() IS 'Gives the partitions of the logs that have none the row security of their parent. For tasker itself.';

-- Periods 0 and 1 are made here and are members of the extension; all others
-- are made by whoever owns it and are not, so that pg_dump writes them out as
-- the ordinary tables that they are. Attaching locks the parent SHARE UPDATE
-- EXCLUSIVE: nobody who reads or writes waits.
CREATE OR REPLACE FUNCTION tasker.make_period(period bigint) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	log record;
	leaf text;
	grantee record;
BEGIN
	FOR log IN SELECT * FROM (VALUES
		('task_transition_log', 'task_id', 'tasks'),
		('workflow_step_transition_log', 'workflow_step_id', 'steps')) l(parent, owner_id, owners)
	LOOP
		leaf := log.parent || '_p' || period;
		CONTINUE WHEN to_regclass('tasker.' || leaf) IS NOT NULL;
		EXECUTE format('CREATE TABLE tasker.%I (LIKE tasker.%I INCLUDING DEFAULTS INCLUDING COMMENTS, PRIMARY KEY (%I, sort_key))
			WITH (autovacuum_vacuum_insert_scale_factor = 0.05)', leaf, log.parent, log.owner_id);
		EXECUTE format('COMMENT ON TABLE tasker.%I IS %L', leaf, format('The transitions of the %s of period %s.', log.owners, period));
		EXECUTE format('CREATE INDEX %I ON tasker.%I (xact_id)', leaf || '_by_transaction', leaf);
		EXECUTE format('COMMENT ON INDEX tasker.%I IS %L', leaf || '_by_transaction',
			'Serves the readers of the log: what is new since a position.');
		EXECUTE format('CREATE INDEX %I ON tasker.%I USING brin (created_at) WITH (autosummarize = on)', leaf || '_by_time', leaf);
		EXECUTE format('COMMENT ON INDEX tasker.%I IS %L', leaf || '_by_time',
			'Serves the analytics: what happened since a time.');
		IF log.owners = 'tasks' THEN
			EXECUTE format('CREATE INDEX %I ON tasker.%I (task_id) WHERE to_state IN (''error'', ''cancelled'', ''resolved_manually'')',
				leaf || '_rare_states', leaf);
			EXECUTE format('COMMENT ON INDEX tasker.%I IS %L', leaf || '_rare_states',
				'Serves find_tasks: the newest tasks in a state that few tasks come into. The row of a task cannot be indexed by its state, which changes.');
		END IF;
		EXECUTE format('CREATE TRIGGER insert_only BEFORE UPDATE OR DELETE OR TRUNCATE ON tasker.%I
			FOR EACH STATEMENT EXECUTE FUNCTION tasker.refuse_log_change()', leaf);
		-- Default privileges must not open what is closed.
		FOR grantee IN
			SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END AS name
			FROM pg_class c, aclexplode(c.relacl) a
			WHERE c.oid = to_regclass('tasker.' || leaf) AND a.grantee <> c.relowner
		LOOP
			EXECUTE format('REVOKE ALL ON tasker.%I FROM %s', leaf, grantee.name);
		END LOOP;
		EXECUTE format('ALTER TABLE tasker.%I ATTACH PARTITION tasker.%I FOR VALUES FROM (%s) TO (%s)', log.parent, leaf,
			CASE period WHEN 0 THEN 'MINVALUE' ELSE (period << 40)::text END, (period + 1) << 40);
	END LOOP;
	PERFORM tasker.secure_partitions();
END
$$;

-- Marks in the logs. A reader who is far behind goes from mark to mark: what
-- lies between two of them is little enough to be put in order for each page.

CREATE TABLE tasker.log_marks (
	mark_id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
	position pg_snapshot NOT NULL,
	left_at timestamptz NOT NULL
);

COMMENT ON TABLE tasker.log_marks IS
'Former positions of the orchestrator, about one each 10000 rows of the logs; of more than 2000 the older ones are thinned out. They only make read_events() faster for who is far behind: all of them may be deleted. Void on another server, and removed when it adopts the database.';

-- Custom events that somebody has published. What tasker announces itself is
-- not stored again: the transition logs are its events.

-- Steps that wait for a time or for an event: what the template says, resolved
-- against the context of the task when the wait begins.

CREATE TABLE tasker.step_waits (
	workflow_step_id bigint PRIMARY KEY,
	sort_key integer NOT NULL,
	since timestamptz NOT NULL,
	until timestamptz,
	event_name text,
	match jsonb,
	of_task bigint,
	events_since timestamptz,
	namespaces integer[],
	event jsonb,
	CONSTRAINT step_waits_for_time_or_event CHECK ((event_name IS NULL) = (match IS NULL) AND (event_name IS NOT NULL OR until IS NOT NULL))
) WITH (autovacuum_vacuum_scale_factor = 0.1, autovacuum_vacuum_cost_delay = 0);
COMMENT ON TABLE tasker.step_waits IS
'A row for each step that waits now. Written by the orchestrator in the transaction that moves the step to in_progress, and removed in the one that ends the wait; where somebody else has moved the step, by the batch that reads of it. See waiting_steps.';
COMMENT ON COLUMN tasker.step_waits.sort_key IS 'The transition to in_progress; once the step has another one, the row means nothing.';
COMMENT ON COLUMN tasker.step_waits.until IS 'When it ends: of a sleep its end, of an event the time limit. NULL: no limit.';
COMMENT ON COLUMN tasker.step_waits.event_name IS 'The event that is awaited; NULL: it sleeps.';
COMMENT ON COLUMN tasker.step_waits.match IS 'What the payload must have under these keys.';
COMMENT ON COLUMN tasker.step_waits.of_task IS 'The task that the event must be of (own_task); NULL: any.';
COMMENT ON COLUMN tasker.step_waits.events_since IS 'Earlier events do not count.';
COMMENT ON COLUMN tasker.step_waits.namespaces IS 'The event must be of a task in one of these; NULL: of any, or of none.';
COMMENT ON COLUMN tasker.step_waits.event IS 'The event that has come, until the orchestrator completes the step with it.';
CREATE INDEX step_waits_by_match ON tasker.step_waits (event_name, jsonb_hash_extended(match, coalesce(of_task, 0))) WHERE event_name IS NOT NULL;
COMMENT ON INDEX tasker.step_waits_by_match IS 'Serves react_to_events(): who waits for an event.';

CREATE VIEW tasker.waiting_steps AS
SELECT s.task_id, w.workflow_step_id, n.name AS step_name, w.sort_key AS claim,
	CASE WHEN w.event_name IS NULL THEN 'time' ELSE 'event' END AS waits_for,
	w.since, w.until, w.event_name, w.match, w.of_task IS NOT NULL AS own_task
FROM tasker.step_waits w
JOIN tasker.workflow_steps s ON s.workflow_step_id = w.workflow_step_id
JOIN tasker.named_steps n ON n.named_step_id = s.named_step_id
WHERE s.state = 'in_progress' AND s.sort_key = w.sort_key;
COMMENT ON VIEW tasker.waiting_steps IS
'What each waiting step waits for (time or event), since when, and until when: the end of its sleep or of its patience, NULL where it has none. Whoever must end a wait by hand has the claim for complete_step() here.';
COMMENT ON COLUMN tasker.waiting_steps.match IS 'What the payload of the event must have under these keys.';
COMMENT ON COLUMN tasker.waiting_steps.own_task IS 'Only events of the step''s own task count.';

-- Values come from contexts, which anybody may have written: whatever is wrong
-- with one is the result, not an error.
CREATE FUNCTION tasker.resolve_wait(waits_for jsonb, context jsonb, task_id bigint, at timestamptz,
	OUT until timestamptz, OUT event_name text, OUT match jsonb, OUT of_task bigint, OUT problem text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET timezone = 'UTC'
SET datestyle = 'ISO, YMD'
AS $$
DECLARE
	sleep jsonb := waits_for -> 'sleep';
	awaited jsonb := waits_for -> 'await_event';
	key text := sleep ->> 'until_context';
	pair record;
	value jsonb;
BEGIN
	IF sleep ? 'for' THEN
		until := at + (sleep ->> 'for')::interval;
		RETURN;
	ELSIF sleep IS NOT NULL THEN
		IF jsonb_typeof(context -> key) IS DISTINCT FROM 'string' THEN
			problem := format('the context has %s under "%s", not a time as a string', coalesce('a value of type ' || jsonb_typeof(context -> key), 'nothing'), key);
			RETURN;
		END IF;
		BEGIN
			until := (context ->> key)::timestamptz;
		EXCEPTION WHEN data_exception THEN
			problem := format('the context has no time under "%s": %s', key, SQLERRM);
			RETURN;
		END;
		IF NOT isfinite(until) THEN
			problem := format('the context has no time under "%s", but "%s"', key, until);
		END IF;
		RETURN;
	END IF;
	event_name := awaited ->> 'name';
	match := '{}';
	FOR pair IN SELECT m.key, m.value FROM jsonb_each(coalesce(awaited -> 'match', '{}')) m ORDER BY m.key LOOP
		IF jsonb_typeof(pair.value) = 'object' THEN
			value := pair.value -> 'value';
		ELSE
			key := pair.value #>> '{}';
			value := context -> key;
			IF coalesce(jsonb_typeof(value), 'null') NOT IN ('string', 'number', 'boolean') THEN
				problem := format('the context has %s under "%s", with which "%s" of event "%s" cannot be compared',
					coalesce('a value of type ' || jsonb_typeof(value), 'nothing'), key, pair.key, event_name);
				RETURN;
			END IF;
		END IF;
		IF pair.key = 'task_id' AND value::text !~ '^\d{1,18}$' THEN
			problem := format('%s is no number of a task, by which event "%s" could be told', value, event_name);
			RETURN;
		END IF;
		match := match || jsonb_build_object(pair.key, value);
	END LOOP;
	IF awaited -> 'own_task' = 'true' THEN
		of_task := task_id;
	END IF;
	IF awaited ? 'timeout_seconds' THEN
		until := at + make_interval(secs => (awaited ->> 'timeout_seconds')::double precision);
	END IF;
END
$$;
COMMENT ON FUNCTION tasker.resolve_wait(jsonb, jsonb, bigint, timestamptz) IS
'What a step waits for that begins to wait now: waits_for of its template with the values of the context. A time without a zone is of UTC. problem says what is wrong with a value; then nothing else counts. For the orchestrator.';

CREATE TABLE tasker.published_events (
	event_id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
	name text NOT NULL,
	task_id bigint,
	workflow_step_id bigint,
	created_at timestamptz NOT NULL,
	xact_id xid8 NOT NULL DEFAULT pg_current_xact_id(),
	role text NOT NULL,
	payload jsonb NOT NULL
		CONSTRAINT event_payload_is_an_object CHECK (jsonb_typeof(payload) = 'object'),
	awaited boolean NOT NULL DEFAULT false
);

COMMENT ON TABLE tasker.published_events IS 'Custom events as publish_event() was given them. Insert-only but for retention.';

COMMENT ON COLUMN tasker.published_events.xact_id IS 'The transaction that published it: consumers resume from a snapshot of these.';

COMMENT ON COLUMN tasker.published_events.awaited IS 'Steps of some template may wait for it: only such events are entered into the indexes that serve these.';

CREATE INDEX awaited_events_by_name ON tasker.published_events (name, created_at) WHERE awaited;
COMMENT ON INDEX tasker.awaited_events_by_name IS 'Serves steps that begin to wait for any event of a name: the first since their task was created.';
CREATE INDEX awaited_events_by_payload ON tasker.published_events USING gin (payload jsonb_path_ops) WITH (fastupdate = off) WHERE awaited;
COMMENT ON INDEX tasker.awaited_events_by_payload IS 'Serves steps that begin to wait for an event with values of their own: is it there already.';

CREATE INDEX published_events_by_transaction ON tasker.published_events (xact_id);

COMMENT ON INDEX tasker.published_events_by_transaction IS 'Serves read_events: what is new since a position.';

CREATE INDEX published_events_of_task ON tasker.published_events (task_id) WHERE task_id IS NOT NULL;

COMMENT ON INDEX tasker.published_events_of_task IS 'Serves the view events for one task, and retention.';

CREATE INDEX published_events_by_time ON tasker.published_events (created_at);

COMMENT ON INDEX tasker.published_events_by_time IS 'Serves retention: what is old enough to go.';

CREATE FUNCTION tasker.publish_event(name text, payload jsonb DEFAULT '{}', task_id bigint DEFAULT NULL, step_id bigint DEFAULT NULL) RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_publish_event';

COMMENT ON FUNCTION tasker.publish_event(text, jsonb, bigint, bigint) IS
'Publishes a custom event in the caller''s transaction and returns its event_id; consumers get it after the commit. The event must be in the catalogue (register_event, or custom_events of a template), and its payload, an object of up to 64 kB, must be valid by the schema of the event if it has one. task_id and step_id say whose event it is; the task of a step need not be given. Errors: 42704 unknown event, task or step; 22023 the payload is no object, too large, or violates the schema; 22004 no name.';

-- Consumers of events: who reads on from where it was.
--
-- A position is a pg_snapshot: read are the rows of transactions that it shows
-- as past. Between two positions lies a window, which is read in the order of
-- time, page by page; the cursor says how far. The position moves when the
-- window is through. Nothing is missed and nothing read twice, whenever its
-- transaction began or was committed; and what followed from a commit is never
-- read before it.

CREATE TABLE tasker.event_consumers (
	name text PRIMARY KEY
		CONSTRAINT event_consumer_name_has_1_to_128_characters CHECK (length(name) BETWEEN 1 AND 128),
	patterns text[] NOT NULL
		CONSTRAINT event_consumer_has_1_to_100_patterns CHECK (cardinality(patterns) BETWEEN 1 AND 100 AND array_position(patterns, NULL) IS NULL),
	role text NOT NULL,
	position pg_snapshot NOT NULL,
	window_end pg_snapshot,
	cursor_at timestamptz,
	cursor_place integer,
	cursor_id bigint,
	cursor_sort_key integer,
	events_read bigint NOT NULL DEFAULT 0,
	created_at timestamptz NOT NULL,
	read_at timestamptz,
	channel text
		CONSTRAINT event_channel_has_1_to_63_bytes CHECK (octet_length(channel) BETWEEN 1 AND 63)
) WITH (fillfactor = 50);

COMMENT ON TABLE tasker.event_consumers IS 'Who reads events, which ones, and how far each has read. One row is changed by each read_events().';

COMMENT ON COLUMN tasker.event_consumers.patterns IS 'Names of events; * stands for any characters.';

COMMENT ON COLUMN tasker.event_consumers.position IS 'What it has read: the transactions that are past in this snapshot.';

COMMENT ON COLUMN tasker.event_consumers.window_end IS 'Where the window that it is reading ends; NULL between two windows.';

COMMENT ON COLUMN tasker.event_consumers.cursor_at IS 'How far in the window: the time, then cursor_place, cursor_id and cursor_sort_key, of the event last read.';

COMMENT ON COLUMN tasker.event_consumers.channel IS 'NULL: read by read_events(). Else the orchestrator reads, and notifies this channel; name is the same.';

CREATE FUNCTION tasker.create_event_consumer(name text, patterns text[] DEFAULT '{*}', from_beginning boolean DEFAULT false) RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_create_event_consumer';

COMMENT ON FUNCTION tasker.create_event_consumer(text, text[], boolean) IS
'Makes a consumer of the events whose names match one of the patterns (* stands for any characters: step.*, *.failed), from now on or from_beginning of the history. False if it is there already: then only its patterns change. Errors: 22023 bad argument; 22004 null argument; 54000 there are 500 consumers already.';

CREATE FUNCTION tasker.drop_event_consumer(name text) RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_drop_event_consumer';

COMMENT ON FUNCTION tasker.drop_event_consumer(text) IS 'Forgets a consumer: retention does not wait for it any more. False if there is none.';

CREATE FUNCTION tasker.read_events(consumer text, max integer DEFAULT 100)
RETURNS TABLE (event_key text, name text, category text, task_id bigint, step_id bigint, occurred_at timestamptz, payload jsonb)
LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 100 AS 'MODULE_PATHNAME', 'tasker_read_events';

COMMENT ON FUNCTION tasker.read_events(text, integer) IS
'The next events of a consumer, max at most, in the order in which they happened; no row where there is nothing new. The commit is the acknowledgement: work done in the same transaction is done exactly once for each event, work outside of it, done before the commit, at least once. If the transaction fails, the same events come again. What followed from an event comes after it. Sees what was committed before the call, not what its own transaction has done. A second call for the same consumer in another session waits for the first transaction to end: use several consumers to read side by side. Errors: 42704 unknown consumer; 22023 max is not between 1 and 10000; 55000 the database comes from another server and is not adopted.';

CREATE FUNCTION tasker.subscribe(patterns text[], channel text) RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_subscribe';

COMMENT ON FUNCTION tasker.subscribe(text[], text) IS
'From now on the orchestrator notifies a channel of the events whose names match one of the patterns, in their order, several in one message: {"events": [{"event_key", "name", "task_id", "step_id"}, ...]}. LISTEN to it in any session; the payload of an event is in the view events. A notification that nobody hears is gone: whoever must not miss any reads as a consumer, and takes the channel for a hint. Anybody who may connect can LISTEN to a channel whose name they know. False if the channel is subscribed to already: then only its patterns change. Errors: 22023 bad argument; 22004 null patterns; 42710 a consumer has that name; 54000 there are 500 consumers and channels already.';

CREATE FUNCTION tasker.unsubscribe(channel text) RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_unsubscribe';

COMMENT ON FUNCTION tasker.unsubscribe(text) IS 'Ends the notifications of a channel. False if there are none.';

CREATE FUNCTION tasker.announce_events(max integer DEFAULT 1000) RETURNS integer
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_announce_events';

COMMENT ON FUNCTION tasker.announce_events(integer) IS
'Notifies the channels that are subscribed to of what has happened since the last time, max events each at most, with this transaction; returns the most that one of them got. The background worker does the same by itself after each batch. Error: 22023 max is not between 1 and 10000.';

CREATE FUNCTION tasker.position_read_by_consumers() RETURNS pg_snapshot
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	WITH waited_for AS (
		SELECT c.position FROM tasker.event_consumers c
		WHERE coalesce(c.read_at, c.created_at) > tasker.now() - current_setting('tasker.consumer_grace')::interval
	), limits AS (
		SELECT min(pg_snapshot_xmax(w.position)) AS xmax FROM waited_for w
	), running AS (
		SELECT DISTINCT x AS xact FROM waited_for w CROSS JOIN pg_snapshot_xip(w.position) x CROSS JOIN limits l WHERE x < l.xmax
	)
	SELECT format('%s:%s:%s', coalesce((SELECT min(r.xact) FROM running r), l.xmax), l.xmax,
		(SELECT string_agg(r.xact::text, ',' ORDER BY r.xact) FROM running r))::pg_snapshot
	FROM limits l
	WHERE l.xmax IS NOT NULL;
END;

COMMENT ON FUNCTION tasker.position_read_by_consumers() IS
'What every consumer of events has read, as a position; NULL where there is none. Consumers that have not read for longer than tasker.consumer_grace are not waited for. For retention.';

CREATE VIEW tasker.stat_event_consumers AS
SELECT c.name, c.patterns, c.role, c.created_at, c.read_at, c.events_read,
	pg_snapshot_xmax(pg_current_snapshot())::text::numeric - pg_snapshot_xmax(c.position)::text::numeric AS transactions_behind,
	(SELECT count(*) FROM (
		SELECT FROM tasker.task_transition_log l
		WHERE l.xact_id >= pg_snapshot_xmax(c.position) AND l.xact_id <= '18446744073709551615' ORDER BY l.xact_id LIMIT 10001) t)
	+ (SELECT count(*) FROM (
		SELECT FROM tasker.workflow_step_transition_log l
		WHERE l.xact_id >= pg_snapshot_xmax(c.position) AND l.xact_id <= '18446744073709551615' ORDER BY l.xact_id LIMIT 10001) s)
	+ (SELECT count(*) FROM (
		SELECT FROM tasker.published_events e
		WHERE e.xact_id >= pg_snapshot_xmax(c.position) AND e.xact_id <= '18446744073709551615' ORDER BY e.xact_id LIMIT 10001) e) AS events_behind,
	coalesce(c.cursor_at, (SELECT max(m.left_at) FROM tasker.log_marks m WHERE pg_snapshot_xmax(m.position) <= pg_snapshot_xmax(c.position))) AS read_until,
	coalesce(c.read_at, c.created_at) > tasker.now() - current_setting('tasker.consumer_grace')::interval AS holds_history,
	c.channel
FROM tasker.event_consumers c;

COMMENT ON VIEW tasker.stat_event_consumers IS
'Who reads events and how far behind each one is. For operators and monitoring.';

COMMENT ON COLUMN tasker.stat_event_consumers.transactions_behind IS 'Transactions of the whole server since its position, whatever they did.';

COMMENT ON COLUMN tasker.stat_event_consumers.events_behind IS 'Events since its position, of any name, those of a half-read window included; more than 10000 of a kind count as 10001.';

COMMENT ON COLUMN tasker.stat_event_consumers.read_until IS 'A time up to which it has read for sure; NULL where nothing tells.';

COMMENT ON COLUMN tasker.stat_event_consumers.channel IS 'The channel that the orchestrator notifies; NULL for who reads by read_events().';

COMMENT ON COLUMN tasker.stat_event_consumers.holds_history IS 'Whether retention waits for it; false once it has not read for tasker.consumer_grace.';

-- Tasks that are started by time.

CREATE FUNCTION tasker.next_cron_time(cron text, after timestamptz, time_zone text DEFAULT 'UTC') RETURNS timestamptz
LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tasker_next_cron_time';

COMMENT ON FUNCTION tasker.next_cron_time(text, timestamptz, text) IS
'The first minute after a time that a cron expression names on the clocks of a time zone; NULL where there is none (30 February). The expression is "minute hour day month weekday" with lists, ranges, steps, English names of months and weekdays, or @hourly, @daily, @weekly, @monthly, @yearly; where both day fields are given one of them is enough. Where clocks are put forward, what was meant for the hour that is left out is due when it ends; where they are put back, what was meant for the hour that comes twice is due the first time; with * or a step from it in the hour field every match counts. Errors: 22023 invalid expression, unknown zone, infinite time.';

CREATE TABLE tasker.task_schedules (
	name text PRIMARY KEY
		CONSTRAINT schedule_name_has_1_to_128_characters CHECK (length(name) BETWEEN 1 AND 128),
	cron text NOT NULL,
	time_zone text NOT NULL,
	missed_runs text NOT NULL
		CONSTRAINT schedule_missed_runs_is_known CHECK (missed_runs IN ('skip', 'once', 'all')),
	request jsonb NOT NULL
		CONSTRAINT schedule_request_is_an_object CHECK (jsonb_typeof(request) = 'object'),
	owner text NOT NULL,
	due_at timestamptz,
	created_at timestamptz NOT NULL,
	last_due_at timestamptz,
	last_task_id bigint,
	last_error text,
	last_error_at timestamptz
) WITH (fillfactor = 70);

COMMENT ON TABLE tasker.task_schedules IS 'Tasks that are started by time, again and again.';

COMMENT ON COLUMN tasker.task_schedules.request IS 'What create_tasks() is given each time.';

COMMENT ON COLUMN tasker.task_schedules.owner IS 'The role that made it, in whose name the tasks are created.';

COMMENT ON COLUMN tasker.task_schedules.due_at IS 'When the next one is due; NULL: never again.';

COMMENT ON COLUMN tasker.task_schedules.last_due_at IS 'When the last one that was created was due.';

CREATE INDEX schedules_by_time ON tasker.task_schedules (due_at) WHERE due_at IS NOT NULL;

COMMENT ON INDEX tasker.schedules_by_time IS 'Serves the orchestrator: which schedules are due, and when the next one is.';

CREATE FUNCTION tasker.schedule_task(schedule text, cron text, request jsonb, time_zone text DEFAULT 'UTC', missed_runs text DEFAULT 'once') RETURNS timestamptz
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_schedule_task';

COMMENT ON FUNCTION tasker.schedule_task(text, text, jsonb, text, text) IS
'Creates a task whenever a cron expression says so on the clocks of a time zone (see next_cron_time), from a request as create_tasks takes them, in the name of the role that calls this; returns when the first one is due, NULL if never. The task''s requested_at is the time it was due, its identity_key schedule:NAME:SECONDS, so that no run is started twice. missed_runs says what becomes of runs whose time passed while nobody was there: skip none of those that are a minute late or later, once the last one, all each of them. An existing schedule of the name is replaced by its owner. Errors: 22023 bad argument; 22004 null argument; 42501 the schedule is another role''s, or the role may not call create_requested_task.';

CREATE FUNCTION tasker.unschedule_task(schedule text) RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_unschedule_task';

COMMENT ON FUNCTION tasker.unschedule_task(text) IS
'Ends a schedule; tasks that it has created stay. False if there is none. Error: 42501 it is another role''s.';

CREATE FUNCTION tasker.start_scheduled_tasks(max integer DEFAULT 100) RETURNS integer
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_start_scheduled_tasks';

COMMENT ON FUNCTION tasker.start_scheduled_tasks(integer) IS
'Creates the tasks whose schedules are due, max at most, and returns how many; the background worker does the same by itself when the time comes. A creation that fails is noted in task_schedules.last_error, with a WARNING, and not tried again until the next time. Schedules that another session works on are passed over. Error: 22023 max is not positive.';

-- Tasks that are started by events.

CREATE TABLE tasker.task_triggers (
	name text PRIMARY KEY
		CONSTRAINT trigger_name_has_1_to_128_characters CHECK (length(name) BETWEEN 1 AND 128),
	event text NOT NULL
		CONSTRAINT trigger_event_has_1_to_256_bytes CHECK (octet_length(event) BETWEEN 1 AND 256),
	match jsonb NOT NULL
		CONSTRAINT trigger_match_is_an_object CHECK (jsonb_typeof(match) = 'object'),
	request jsonb NOT NULL
		CONSTRAINT trigger_request_is_an_object CHECK (jsonb_typeof(request) = 'object'),
	context_from_payload jsonb NOT NULL
		CONSTRAINT trigger_context_from_payload_is_an_object CHECK (jsonb_typeof(context_from_payload) = 'object'),
	owner text NOT NULL,
	created_at timestamptz NOT NULL,
	tasks_started bigint NOT NULL DEFAULT 0,
	last_task_id bigint,
	last_started_at timestamptz,
	errors bigint NOT NULL DEFAULT 0,
	last_error text,
	last_error_at timestamptz
) WITH (fillfactor = 70);

COMMENT ON TABLE tasker.task_triggers IS 'Which events start which tasks. A row changes with each page of events that starts some.';

COMMENT ON COLUMN tasker.task_triggers.event IS 'The name of the event; * stands for any characters.';

COMMENT ON COLUMN tasker.task_triggers.match IS 'What the payload of the event must contain.';

COMMENT ON COLUMN tasker.task_triggers.request IS 'What create_tasks() is given each time, but for what the event sets.';

COMMENT ON COLUMN tasker.task_triggers.context_from_payload IS 'Keys of the context of the task, each with the key of the payload whose value it gets; * is the whole payload.';

COMMENT ON COLUMN tasker.task_triggers.owner IS 'The role that made it, in whose name the tasks are created.';

COMMENT ON COLUMN tasker.task_triggers.created_at IS 'Events that happened earlier start nothing.';

COMMENT ON COLUMN tasker.task_triggers.errors IS 'Events whose task could not be started.';

CREATE FUNCTION tasker.start_task_on_event(trigger text, event text, request jsonb, match jsonb DEFAULT '{}', context_from_payload jsonb DEFAULT '{"event": "*"}') RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_start_task_on_event';

COMMENT ON FUNCTION tasker.start_task_on_event(text, text, jsonb, jsonb, jsonb) IS
'From now on each event of a name (* stands for any characters) whose payload contains match (@>) starts a task, from a request as create_tasks takes them, in the name of the role that calls this. To the context of the request comes what context_from_payload says: keys of the context, each with the key of the payload whose value it gets, "*" for the whole payload; what the payload lacks is left out. The task''s requested_at is the time of the event, its identity_key trigger:NAME:EVENT_KEY, so that no event starts two. What came of a trigger starts nothing by it again: events of tasks that it has started, itself or through others, are passed over; and no chain has more than eight triggers. An existing trigger of the name is replaced by its owner, and what has not been read yet is judged by the new one. True if it is new. Until the transaction ends nobody reacts to events. Errors: 22023 bad argument; 22004 null argument; 42501 the trigger is another role''s, or the role may not call create_triggered_tasks, or is confined to namespaces; 54000 there are 1000 triggers already.';

CREATE FUNCTION tasker.drop_task_trigger(trigger text) RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_drop_task_trigger';

COMMENT ON FUNCTION tasker.drop_task_trigger(text) IS
'Ends a trigger, also for events that nobody has read yet; tasks that it has started stay. False if there is none. Error: 42501 it is another role''s.';

CREATE FUNCTION tasker.create_triggered_tasks(batch jsonb) RETURNS bigint[]
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_create_triggered_tasks';

COMMENT ON FUNCTION tasker.create_triggered_tasks(jsonb) IS
'create_tasks for the array "requests" of an object, whose other key "triggers" names the triggers that led to it, the last one last: the first rows of the log say so. Returns the ids of those that did not exist before. What triggers call, as the role that made them. Errors as create_tasks; 22023 where the object is none of these.';

-- What follows from events.

CREATE FUNCTION tasker.react_to_events(max integer DEFAULT 1000) RETURNS integer
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_react_to_events';

COMMENT ON FUNCTION tasker.react_to_events(integer) IS
'Does in this session and transaction what the background worker does by itself after each batch: reads the events that are new, max at most, as the consumer tasker.reactor, and starts the tasks that triggers say; returns how many were read. Position and effects are of one transaction: each event takes effect once. Sees what was committed before the call. A task that cannot be started is noted in task_triggers.last_error, with a WARNING, and passed over. Waits for a batch that is running, and keeps others from running one until the transaction ends. Errors: 22023 max is not between 1 and 1000000; 55000 the database comes from another server and is not adopted.';

COMMENT ON FUNCTION tasker.prune_tasks(timestamptz, integer, tasker.state[]) IS
'Removes up to max_tasks tasks that are in one of the states since before the time given, oldest first, with their steps, edges, annotations and transitions, and returns how many. Call it again until it returns less. A task that another session has locked, a step of which is locked or in progress, or whose transitions the orchestrator has not read yet is left for later. Its identity key becomes free. Where tasker.retention is on, transitions of a closed period go with their partition. states may be complete, cancelled, resolved_manually and error. Locks task rows, then their step rows; other pruning waits. Errors: 22023 bad argument; 55000 the database was restored or cloned and is not adopted; 40001 under repeatable read, when a task has changed meanwhile (try again).';

COMMENT ON FUNCTION tasker.register_executor(text, text[], integer, boolean, interval) IS
'Registers the caller as one who runs steps of these handlers, up to capacity at once (0: pull only), and gives its id and the channel to LISTEN on. Session-bound by default: when the session ends, for whatever reason, its steps go to others at once. detached: it must call heartbeat() within the lease (100 ms to 365 days, default tasker.lease). A handler no template names yet is legal. Errors: 22023 bad argument; 53000 no room for another detached executor (tasker.max_executors).';

COMMENT ON TYPE tasker.claimed_step IS
'What an executor needs to run a step: the claim number it reports with, the task''s context with the step''s own inputs over it, and the results of the direct parents by step name: NULL where they have more than 64 MB together, then step_transitive_dependencies() gives them.';

COMMENT ON FUNCTION tasker.complete_step(bigint, integer, jsonb, bigint) IS
'Reports that the attempt made under this claim has succeeded. True if this call completed the step, false if the same claim completed it before. Errors: 42704 unknown step; TK001 the claim is stale: the step was given to another, cancelled or settled meanwhile, and nothing changes; 54000 results of more than 64 MB.';

COMMENT ON FUNCTION tasker.complete_steps(bigint[], integer[], jsonb[], bigint, boolean) IS
'complete_step for arrays of equal length, of 100 000 steps at most. One stale claim refuses all (TK001), unless skip_stale: then the ids that were refused are returned, an empty array where none was.';

COMMENT ON FUNCTION tasker.fail_step(bigint, integer, text, text, boolean, integer, bigint) IS
'Reports that the attempt made under this claim has failed. Where attempts remain the step runs again after retry_after_seconds if given, else after its backoff; retryable false makes the failure final. Of an error (a backtrace, say) 64 kB are kept in the results and 1 kB in the log, of its class 512 bytes; what is longer is cut and says so. True and false as for complete_step. Errors: 42704, TK001 as for complete_step; 22023 bad argument.';

-- A task remembers the span that asked for it.

ALTER TABLE tasker.tasks
	ADD COLUMN traceparent text;

COMMENT ON COLUMN tasker.tasks.traceparent IS 'The span that asked for the task, as W3C Trace Context spells it (00-TRACE-SPAN-FLAGS), checked by create_task; NULL where none was given, and then it costs nothing. See task_spans().';

-- create_task gets one more parameter. Replacing cannot do that, and dropping
-- would take along what was granted on it, and stop at whatever users have built
-- upon it. So the function that is there gets the parameters of one that is made
-- for it, as it is: nothing but constants of built-in types, which nothing has to
-- be noted about elsewhere. Stored calls leave the parameter out, which is what
-- its default is for.
CREATE FUNCTION tasker.create_traced_task(
	name text, context jsonb DEFAULT '{}', namespace text DEFAULT 'default', version text DEFAULT NULL,
	initiator text DEFAULT 'unknown', source_system text DEFAULT 'unknown', reason text DEFAULT 'unknown',
	tags text[] DEFAULT '{}', bypass_steps text[] DEFAULT '{}',
	identity_key text DEFAULT NULL, priority integer DEFAULT 0, requested_at timestamptz DEFAULT NULL,
	traceparent text DEFAULT NULL)
RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'tasker_create_task';

UPDATE pg_catalog.pg_proc p
SET pronargs = n.pronargs, pronargdefaults = n.pronargdefaults, proargtypes = n.proargtypes, proargnames = n.proargnames, proargdefaults = n.proargdefaults
FROM pg_catalog.pg_proc n
WHERE p.oid = 'tasker.create_task(text, jsonb, text, text, text, text, text, text[], text[], text, integer, timestamptz)'::regprocedure
	AND n.pronamespace = 'tasker'::regnamespace AND n.proname = 'create_traced_task';

DROP FUNCTION tasker.create_traced_task(text, jsonb, text, text, text, text, text, text[], text[], text, integer, timestamptz, text);

COMMENT ON FUNCTION tasker.create_task(text, jsonb, text, text, text, text, text, text[], text[], text, integer, timestamptz, text) IS
'Creates a task with its steps and edges in the caller''s transaction and returns its task_id; work starts after the commit. The context is validated against the template''s schema, if it has one, and stored with the defaults of properties that are missing; validate_context() tries it. version NULL is the latest by number. Under an identity_key that the namespace has seen, the first task is returned and nothing is created (task_is_new tells which). Where none is given, the identity_strategy of the template makes one: hash of name, namespace, version asked for, initiator, source_system, reason, context, bypass_steps and the minute of requested_at, tags and priority left out, and equal requests less than a minute apart are the same task also across the turn of a minute, unless both transactions are open; or a function, called with the request and its full_name. bypass_steps names skippable steps that are resolved at once. requested_at says when it was asked for, now where NULL; it delays nothing. traceparent (W3C Trace Context; of a version later than 00 what 00 has, too) is the span that asks for the task: its spans become part of that trace, see task_spans(); a second creation under an identity_key keeps that of the first. Errors: 42704 unknown template; 22023 bad argument, or the context violates the schema; 54001 and 54000 as validate_context(); 55000 deprecated version; 40001 the template changed meanwhile (try again).';

ALTER TABLE tasker.orchestrator_checkpoint
	ADD COLUMN taken_over_at timestamptz;

-- Version 1.0 knew servers, not databases: what is at home there is here, too.
UPDATE tasker.orchestrator_checkpoint SET system_identifier = (SELECT h.identifier FROM tasker.home h)
WHERE system_identifier = (SELECT s.system_identifier FROM pg_control_system() s);

COMMENT ON COLUMN tasker.orchestrator_checkpoint.system_identifier IS 'The database that the position belongs to, as tasker.home names it. In any other (a restore, a clone) nothing is dispatched until tasker.resume(); in none, 0, that comes from a physical backup.';

COMMENT ON COLUMN tasker.orchestrator_checkpoint.taken_over_at IS 'When the server was started that has taken the database over, by promotion or from a physical backup; NULL where none has.';

COMMENT ON FUNCTION tasker.orchestrate(bigint) IS
'Does in this session and transaction what the background worker does: discovers ready steps, promotes due retries, recovers steps of lost executors, finalizes tasks, dispatches. Runs until there is nothing left to do and returns how many transitions it made; a second call makes none. While others keep bringing news it leaves the rest of that to the next orchestrator. With a task_id that task is looked at from its rows as well, whatever the log has said. Waits for another orchestrator at work, and for locked rows until the transaction has moved something; those that others hold are passed over from then on, for the next call. Error: 42704 unknown task.';

COMMENT ON FUNCTION tasker.coordinate_task(bigint, integer) IS
'Runs a task here and now: draws what follows from its state, runs each step that may run by execute_step, and again, until nothing can run or max_steps have run. state: of the task then; step_runs and failed_runs: how many attempts were made here, and failed; next_retry_at: when a step may run again, so call it then. Where the template''s coordinator_strategy is a function f(jsonb) RETURNS void, that is called instead, with {"task_id": ...} and as the owner of the template, to find (find_viable_steps) and run (execute_step) the steps in its own way; the counts are NULL then. All in the caller''s transaction, which holds the row of the task and those of the steps it has run until its end; the orchestrator goes on with other tasks meanwhile. The handlers must be SQL functions, see execute_step. Errors: 42704 unknown task; those of execute_step.';

-- The periods as operators see them, and the end of those that are over.

CREATE OR REPLACE VIEW tasker.stat_history AS
WITH leaf AS (
	SELECT l.log, c.oid AS relation, p.period, p.period << 40 AS first_id, ((p.period + 1) << 40) - 1 AS last_id,
		c.reltuples, tasker.current_period() AS latest
	FROM (VALUES ('task', 'tasker.task_transition_log'::regclass), ('step', 'tasker.workflow_step_transition_log')) l (log, parent)
	JOIN pg_inherits i ON i.inhparent = l.parent
	JOIN pg_class c ON c.oid = i.inhrelid
	CROSS JOIN LATERAL (SELECT substring(c.relname FROM '_p(\d+)$')::bigint) p (period)
), checkpoint AS (
	SELECT c.position, c.system_identifier = (SELECT h.identifier FROM tasker.home h) AS owned
	FROM tasker.orchestrator_checkpoint c
), reader AS (
	SELECT r.name, pg_snapshot_xmax(r.position) AS next_xact, ARRAY(SELECT pg_snapshot_xip(r.position)) AS running
	FROM (SELECT 'orchestrator' AS name, c.position FROM checkpoint c
		UNION ALL SELECT 'consumers', tasker.position_read_by_consumers()) r
	WHERE r.position IS NOT NULL
), status AS (
	SELECT leaf.log, leaf.period, leaf.relation, leaf.first_id, leaf.last_id, h.began_at, h.closed_at,
		CASE leaf.log WHEN 'task' THEN h.keeps_task_rows ELSE h.keeps_step_rows END AS keeps_rows,
		nullif(leaf.reltuples, -1)::bigint AS rows, leaf.latest,
		CASE leaf.log
			WHEN 'task' THEN (SELECT min(t.task_id) FROM tasker.tasks t WHERE t.task_id >= leaf.first_id AND t.task_id <= leaf.last_id)
			ELSE (SELECT min(s.workflow_step_id) FROM tasker.workflow_steps s WHERE s.workflow_step_id >= leaf.first_id AND s.workflow_step_id <= leaf.last_id)
		END AS oldest_owner,
		h.closed_by IS NULL OR (h.closed_on = (SELECT system_identifier FROM pg_control_system())
			AND h.closed_by >= pg_snapshot_xmin(pg_current_snapshot())) AS is_closing,
		CASE
			WHEN NOT coalesce((SELECT owned FROM checkpoint), true) THEN 'orchestrator'
			WHEN leaf.log = 'task' THEN (SELECT r.name FROM reader r
				WHERE EXISTS (SELECT FROM tasker.task_transition_log l
					WHERE l.task_id >= leaf.first_id AND l.task_id <= leaf.last_id
						AND l.xact_id >= r.next_xact AND l.xact_id <= '18446744073709551615')
				OR EXISTS (SELECT FROM tasker.task_transition_log l
					WHERE l.task_id >= leaf.first_id AND l.task_id <= leaf.last_id
						AND l.xact_id = ANY (r.running::xid8[]))
				ORDER BY r.name DESC LIMIT 1)
			ELSE (SELECT r.name FROM reader r
				WHERE EXISTS (SELECT FROM tasker.workflow_step_transition_log l
					WHERE l.workflow_step_id >= leaf.first_id AND l.workflow_step_id <= leaf.last_id
						AND l.xact_id >= r.next_xact AND l.xact_id <= '18446744073709551615')
				OR EXISTS (SELECT FROM tasker.workflow_step_transition_log l
					WHERE l.workflow_step_id >= leaf.first_id AND l.workflow_step_id <= leaf.last_id
						AND l.xact_id = ANY (r.running::xid8[]))
				ORDER BY r.name DESC LIMIT 1)
		END AS unread_by
	FROM leaf
	LEFT JOIN tasker.history_periods h ON h.period = leaf.period
)
SELECT s.log, s.period, s.relation::regclass AS partition, s.first_id, s.last_id, s.began_at, s.closed_at,
	s.rows, pg_total_relation_size(s.relation) AS bytes,
	CASE
		WHEN s.oldest_owner IS NULL THEN 0
		WHEN s.log = 'task' THEN (SELECT count(*) FROM (SELECT FROM tasker.tasks t
			WHERE t.task_id >= s.oldest_owner AND t.task_id <= s.last_id LIMIT 10001) o)
		ELSE (SELECT count(*) FROM (SELECT FROM tasker.workflow_steps w
			WHERE w.workflow_step_id >= s.oldest_owner AND w.workflow_step_id <= s.last_id LIMIT 10001) o)
	END AS owners,
	s.oldest_owner, coalesce(s.keeps_rows, false) AS keeps_rows,
	CASE
		WHEN s.period > s.latest THEN 'not begun'
		WHEN s.period = s.latest THEN 'current'
		WHEN s.oldest_owner IS NOT NULL THEN 'owners'
		WHEN s.is_closing THEN 'transactions'
		ELSE s.unread_by
	END AS held_by
FROM status s;

COMMENT ON COLUMN tasker.stat_history.held_by IS
'Why the partition stays: not begun, current, owners (some exist), transactions (one that ran at the end of the period still does), orchestrator (it has not read all rows, or this database is not adopted), consumers (one of events has not, see tasker.consumer_grace). NULL: the next round of upkeep drops it, unless somebody reads it.';

-- The newest tasks are looked at first, whatever is asked for: what is common
-- is found among them. Only then an index is asked, one that is chosen here
-- and not by statistics. A fence (OFFSET 0) around what it is asked for keeps
-- the other conditions from leading to another one. Where several would do, it
-- is the one that likely has the fewest rows; each gives all that it has, to be
-- sorted, but for those that have the order of the ids.
CREATE OR REPLACE FUNCTION tasker.find_tasks(
	namespace text DEFAULT NULL, name text DEFAULT NULL, version text DEFAULT NULL, states tasker.state[] DEFAULT NULL,
	tags text[] DEFAULT NULL, any_tags text[] DEFAULT NULL, annotation_type text DEFAULT NULL, annotation jsonb DEFAULT NULL,
	initiator text DEFAULT NULL, source_system text DEFAULT NULL,
	requested_from timestamptz DEFAULT NULL, requested_before timestamptz DEFAULT NULL,
	identity_key text DEFAULT NULL, context jsonb DEFAULT NULL,
	before_task_id bigint DEFAULT NULL, max_tasks integer DEFAULT 20)
RETURNS SETOF tasker.task_summaries
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
	confined CONSTANT boolean := NOT tasker.sees_everything();
	newest CONSTANT text := '(SELECT * FROM tasker.tasks t WHERE t.task_id < $1 ORDER BY t.task_id DESC LIMIT 1000)';
	template_ids integer[];
	namespace_ids integer[];
	type_id integer;
	wanted text := 'true';
	source text;
	upper_end bigint := coalesce(before_task_id, 9223372036854775807);
	found bigint := 0;
BEGIN
	IF max_tasks IS NULL OR max_tasks NOT BETWEEN 1 AND 1000 THEN
		RAISE EXCEPTION 'max_tasks must be between 1 and 1000, not %', coalesce(max_tasks::text, 'NULL')
			USING ERRCODE = 'invalid_parameter_value', HINT = 'For the next page give before_task_id the last task_id of this one.';
	END IF;

	-- Among the tasks of all tenants those of one would be looked for in vain: by its templates they are found.
	IF confined OR find_tasks.namespace IS NOT NULL OR find_tasks.name IS NOT NULL OR find_tasks.version IS NOT NULL THEN
		SELECT array_agg(n.named_task_id) INTO template_ids
		FROM tasker.named_tasks n
		JOIN tasker.task_namespaces s ON s.task_namespace_id = n.task_namespace_id
		WHERE (find_tasks.namespace IS NULL OR s.name = find_tasks.namespace)
			AND (find_tasks.name IS NULL OR n.name = find_tasks.name)
			AND (find_tasks.version IS NULL OR n.version = find_tasks.version);
		wanted := wanted || ' AND t.named_task_id = ANY ($3)';
	END IF;
	IF find_tasks.states IS NOT NULL THEN
		wanted := wanted || ' AND t.state = ANY ($4)';
	END IF;
	IF cardinality(find_tasks.tags) > 0 THEN
		wanted := wanted || $w$ AND t.tags @> $5 AND t.tags <> '{}'$w$;
	END IF;
	IF find_tasks.any_tags IS NOT NULL THEN
		wanted := wanted || $w$ AND t.tags && $6 AND t.tags <> '{}'$w$;
	END IF;
	IF find_tasks.annotation_type IS NOT NULL OR find_tasks.annotation IS NOT NULL THEN
		SELECT y.annotation_type_id INTO type_id FROM tasker.annotation_types y WHERE y.name = find_tasks.annotation_type;
		wanted := wanted || ' AND EXISTS (SELECT FROM (SELECT * FROM tasker.task_annotations a WHERE a.task_id = t.task_id OFFSET 0) a WHERE true'
			|| CASE WHEN find_tasks.annotation_type IS NULL THEN '' ELSE ' AND a.annotation_type_id = $7' END
			|| CASE WHEN find_tasks.annotation IS NULL THEN '' ELSE ' AND a.annotation @> $8' END || ')';
	END IF;
	IF find_tasks.initiator IS NOT NULL THEN
		wanted := wanted || ' AND t.initiator = $9';
	END IF;
	IF find_tasks.source_system IS NOT NULL THEN
		wanted := wanted || ' AND t.source_system = $10';
	END IF;
	IF find_tasks.requested_from IS NOT NULL THEN
		wanted := wanted || ' AND t.requested_at >= $11';
	END IF;
	IF find_tasks.requested_before IS NOT NULL THEN
		wanted := wanted || ' AND t.requested_at < $12';
	END IF;
	IF find_tasks.identity_key IS NOT NULL THEN
		wanted := wanted || ' AND t.identity_key = $13';
	END IF;
	IF find_tasks.context IS NOT NULL THEN
		wanted := wanted || ' AND t.context @> $14';
	END IF;

	source := CASE
		WHEN find_tasks.identity_key IS NOT NULL THEN
			'(SELECT * FROM tasker.tasks t WHERE t.task_namespace_id = ANY ($15) AND t.identity_key = $13 OFFSET 0)'
		WHEN NOT confined AND (find_tasks.annotation_type IS NOT NULL OR find_tasks.annotation IS NOT NULL) THEN
			'(SELECT DISTINCT a.task_id FROM tasker.task_annotations a WHERE a.task_id < $1'
			|| CASE WHEN find_tasks.annotation_type IS NULL THEN '' ELSE ' AND a.annotation_type_id = $7' END
			|| CASE WHEN find_tasks.annotation IS NULL THEN '' ELSE ' AND a.annotation @> $8' END
			|| ' ORDER BY a.task_id DESC OFFSET 0) o CROSS JOIN LATERAL (SELECT * FROM tasker.tasks t WHERE t.task_id = o.task_id OFFSET 0)'
		WHEN NOT confined AND cardinality(find_tasks.tags) > 0 THEN
			$w$(SELECT * FROM tasker.tasks t WHERE t.tags @> $5 AND t.tags <> '{}' OFFSET 0)$w$
		WHEN NOT confined AND find_tasks.any_tags IS NOT NULL THEN
			$w$(SELECT * FROM tasker.tasks t WHERE t.tags && $6 AND t.tags <> '{}' OFFSET 0)$w$
		WHEN NOT confined AND find_tasks.states <@ '{error,cancelled,resolved_manually}' THEN
			$w$(SELECT DISTINCT l.task_id FROM tasker.task_transition_log l
			WHERE l.to_state IN ('error', 'cancelled', 'resolved_manually') AND l.task_id < $1
			ORDER BY l.task_id DESC OFFSET 0) o CROSS JOIN LATERAL (SELECT * FROM tasker.tasks t WHERE t.task_id = o.task_id OFFSET 0)$w$
		WHEN NOT confined AND find_tasks.requested_from IS NOT NULL THEN
			'(SELECT * FROM tasker.tasks t WHERE t.requested_at >= $11'
			|| CASE WHEN find_tasks.requested_before IS NULL THEN '' ELSE ' AND t.requested_at < $12' END || ' OFFSET 0)'
		WHEN confined OR find_tasks.namespace IS NOT NULL OR find_tasks.name IS NOT NULL OR find_tasks.version IS NOT NULL THEN
			-- Equality would do, but then the order could be had from the primary key, too.
			'unnest($3) template (id) CROSS JOIN LATERAL (SELECT * FROM tasker.tasks t
			WHERE t.named_task_id >= template.id AND t.named_task_id <= template.id AND t.task_id < $1 AND ' || wanted
			|| ' ORDER BY t.named_task_id DESC, t.task_id DESC LIMIT $2)'
		ELSE
			'(SELECT * FROM tasker.tasks t WHERE t.task_id < $1 AND ' || wanted || ' ORDER BY t.task_id DESC LIMIT $2)'
	END;
	namespace_ids := ARRAY(SELECT s.task_namespace_id FROM tasker.task_namespaces s);

	FOREACH source IN ARRAY CASE WHEN find_tasks.identity_key IS NULL AND NOT confined THEN ARRAY[newest, source] ELSE ARRAY[source] END
	LOOP
		RETURN QUERY EXECUTE
			'SELECT s.* FROM (SELECT t.task_id FROM ' || source || ' t WHERE t.task_id < $1 AND ' || wanted
			|| ' ORDER BY t.task_id DESC LIMIT $2) page
			CROSS JOIN LATERAL (SELECT * FROM tasker.task_summaries s WHERE s.task_id = page.task_id OFFSET 0) s
			ORDER BY page.task_id DESC'
		USING upper_end, max_tasks - found, template_ids, find_tasks.states, find_tasks.tags, find_tasks.any_tags,
			type_id, find_tasks.annotation, find_tasks.initiator, find_tasks.source_system,
			find_tasks.requested_from, find_tasks.requested_before, find_tasks.identity_key, find_tasks.context, namespace_ids;
		GET DIAGNOSTICS found = ROW_COUNT;
		EXIT WHEN found >= max_tasks OR source <> newest;
		-- Where there are no more than the newest, the bound is NULL and nothing lies below it.
		EXECUTE 'SELECT (SELECT min(t.task_id) FROM ' || newest || ' t HAVING count(*) = 1000)' INTO upper_end USING upper_end;
		EXIT WHEN upper_end IS NULL;
	END LOOP;
END
$$;

COMMENT ON FUNCTION tasker.find_tasks(text, text, text, tasker.state[], text[], text[], text, jsonb, text, text, timestamptz, timestamptz, text, jsonb, bigint, integer) IS
'A page of tasks, newest first: up to max_tasks (1 to 1000) that fulfil all conditions given. tags: has all of them; any_tags: has at least one; annotation: one of this type, where that is given, contains this object, as does context. The next page is asked for with before_task_id, the last task_id of this one: tasks that are created meanwhile move no page. What is not among the newest 1000 tasks is found by an index where one of identity_key, annotation_type, annotation, tags, any_tags, states (of error, cancelled and resolved_manually only), requested_from, namespace, name or version is given, else by walking through all tasks. A role that is confined to namespaces walks through its own tasks instead, unless identity_key is given. Runs with the rights of the caller, who needs SELECT on tasks, named_tasks, task_namespaces, task_transition_log, task_summaries and, to search by them, on annotation_types and task_annotations, as grant_producer() and grant_observer() give it. Error: 22023 bad max_tasks.';

-- What happened, as events: the one builder of payloads, a function for each
-- kind of owner. All is read by key from the row of a log on; what a pruned
-- task had is null.

CREATE FUNCTION tasker.small_json(value jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
	SELECT CASE WHEN octet_length(value::text) <= 8000 THEN value END;
END;

COMMENT ON FUNCTION tasker.small_json(jsonb) IS 'The value where it is short enough for the payload of an event, else NULL.';

CREATE FUNCTION tasker.task_event_payload(happened tasker.task_transition_log) RETURNS jsonb
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	SELECT jsonb_build_object('event_type', tasker.transition_event('task', l.from_state, l.to_state),
			'event_key', 'task:' || l.task_id || ':' || l.sort_key, 'event_version', 1, 'timestamp', l.created_at,
			'task_id', l.task_id, 'step_id', NULL, 'namespace', ns.name, 'task_name', nt.name, 'task_version', nt.version, 'step_name', NULL,
			'attempt_number', NULL, 'started_at', run.started_at,
			'completed_at', run.ended_at, 'execution_duration', extract(epoch FROM run.ended_at - run.started_at),
			'error_message', l.metadata ->> 'error_message', 'exception_class', l.metadata ->> 'error_class',
			'from_state', l.from_state, 'to_state', l.to_state, 'executor_id', l.executor_id, 'role', l.role,
			'reason', coalesce(l.metadata ->> 'reason', l.metadata ->> 'triggered_by'))
		|| CASE
			WHEN l.to_state = 'pending' AND (l.from_state IS NULL OR l.from_state = 'in_progress') THEN
				jsonb_build_object('task_context', tasker.small_json(t.context), 'requested_at', t.requested_at)
			WHEN l.to_state NOT IN ('pending', 'in_progress') THEN
				(SELECT jsonb_build_object('total_steps', nullif(count(*), 0),
						'completed_steps', count(*) FILTER (WHERE s.state IN ('complete', 'resolved_manually')),
						'failed_steps', count(*) FILTER (WHERE s.state = 'error'))
					|| CASE WHEN l.to_state = 'error' THEN
						jsonb_build_object('error_steps', to_jsonb((array_agg(s.name ORDER BY s.workflow_step_id) FILTER (WHERE s.state = 'error'))[1:100]))
					ELSE '{}' END
				FROM (
					SELECT w.workflow_step_id, (SELECT n.name FROM tasker.named_steps n WHERE n.named_step_id = w.named_step_id) AS name,
						coalesce((SELECT k.to_state FROM tasker.workflow_step_transition_log k
							WHERE k.workflow_step_id = w.workflow_step_id AND k.created_at <= l.created_at
							ORDER BY k.sort_key DESC LIMIT 1), 'pending') AS state
					FROM tasker.workflow_steps w
					WHERE w.task_id = l.task_id
				) s)
			ELSE '{}'
		END
	FROM (SELECT (happened).*) l
	LEFT JOIN tasker.tasks t ON t.task_id = l.task_id
	LEFT JOIN tasker.named_tasks nt ON nt.named_task_id = t.named_task_id
	LEFT JOIN tasker.task_namespaces ns ON ns.task_namespace_id = nt.task_namespace_id
	CROSS JOIN LATERAL (
		SELECT max(k.created_at) AS started_at,
			CASE WHEN l.to_state NOT IN ('pending', 'in_progress') THEN l.created_at END AS ended_at
		FROM tasker.task_transition_log k
		WHERE k.task_id = l.task_id AND k.sort_key <= l.sort_key AND k.to_state = 'in_progress'
			-- A task that has gone back to pending has not started again yet.
			AND l.to_state <> 'pending'
	) run;
END;

COMMENT ON FUNCTION tasker.task_event_payload(tasker.task_transition_log) IS 'The payload of the event that a row of the task log is.';

CREATE FUNCTION tasker.step_event_payload(happened tasker.workflow_step_transition_log) RETURNS jsonb
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	SELECT jsonb_build_object('event_type', tasker.transition_event('step', l.from_state, l.to_state),
			'event_key', 'step:' || l.workflow_step_id || ':' || l.sort_key, 'event_version', 1, 'timestamp', l.created_at,
			'task_id', s.task_id, 'step_id', l.workflow_step_id, 'namespace', ns.name, 'task_name', nt.name, 'task_version', nt.version,
			'step_name', (SELECT n.name FROM tasker.named_steps n WHERE n.named_step_id = s.named_step_id),
			'attempt_number', attempt.number, 'started_at', attempt.started_at,
			'completed_at', attempt.ended_at, 'execution_duration', extract(epoch FROM attempt.ended_at - attempt.started_at),
			'error_message', l.metadata ->> 'error_message', 'exception_class', l.metadata ->> 'error_class',
			'from_state', l.from_state, 'to_state', l.to_state, 'executor_id', l.executor_id, 'role', l.role,
			'reason', coalesce(l.metadata ->> 'reason', l.metadata ->> 'triggered_by'))
		|| CASE l.to_state
			WHEN 'complete' THEN jsonb_build_object('step_results', tasker.small_json(s.results))
			WHEN 'in_progress' THEN jsonb_build_object('retry_limit', s.retry_limit)
			WHEN 'error' THEN jsonb_build_object('retry_limit', s.retry_limit, 'retry_available', l.metadata -> 'retry_available',
				'backoff_seconds', l.metadata -> 'backoff_seconds', 'backoff_type', l.metadata ->> 'backoff_type')
			WHEN 'pending' THEN CASE WHEN l.from_state = 'error' THEN jsonb_build_object('retry_limit', s.retry_limit) ELSE '{}' END
			ELSE '{}'
		END
	FROM (SELECT (happened).*) l
	LEFT JOIN tasker.workflow_steps s ON s.workflow_step_id = l.workflow_step_id
	LEFT JOIN tasker.tasks t ON t.task_id = s.task_id
	LEFT JOIN tasker.named_tasks nt ON nt.named_task_id = t.named_task_id
	LEFT JOIN tasker.task_namespaces ns ON ns.task_namespace_id = nt.task_namespace_id
	CROSS JOIN LATERAL (
		-- Attempts are claims that were not given back before, since an operator last set them to zero.
		SELECT greatest(0, count(*) FILTER (WHERE k.to_state = 'in_progress')
				- count(*) FILTER (WHERE k.from_state = 'in_progress' AND k.to_state = 'pending' AND k.sort_key < l.sort_key)) AS number,
			CASE WHEN l.to_state = 'in_progress' OR l.from_state = 'in_progress'
				THEN max(k.created_at) FILTER (WHERE k.to_state = 'in_progress') END AS started_at,
			CASE WHEN l.from_state = 'in_progress' THEN l.created_at END AS ended_at
		FROM tasker.workflow_step_transition_log k
		WHERE k.workflow_step_id = l.workflow_step_id AND k.sort_key <= l.sort_key
			AND k.sort_key > coalesce((
				SELECT max(z.sort_key) FROM tasker.workflow_step_transition_log z
				WHERE z.workflow_step_id = l.workflow_step_id AND z.sort_key <= l.sort_key
					AND z.from_state = 'error' AND z.to_state = 'pending' AND z.metadata ->> 'triggered_by' IS NULL), 0)
	) attempt;
END;

COMMENT ON FUNCTION tasker.step_event_payload(tasker.workflow_step_transition_log) IS 'The payload of the event that a row of the step log is.';

CREATE FUNCTION tasker.custom_event_payload(published tasker.published_events) RETURNS jsonb
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	SELECT (published).payload || jsonb_build_object('event_type', (published).name, 'event_key', 'event:' || (published).event_id,
		'event_version', coalesce((SELECT d.version FROM tasker.custom_events d WHERE d.name = (published).name), 1),
		'timestamp', (published).created_at, 'task_id', (published).task_id, 'step_id', (published).workflow_step_id, 'role', (published).role);
END;

COMMENT ON FUNCTION tasker.custom_event_payload(tasker.published_events) IS 'The payload of a custom event, with the keys that tell what and whose it is.';

-- From the owners to their logs, row by row (OFFSET 0), whatever statistics say.
CREATE VIEW tasker.events AS
SELECT 'task:' || t.task_id || ':' || l.sort_key AS event_key, tasker.transition_event('task', l.from_state, l.to_state) AS name,
	'task' AS category, t.task_id, NULL::bigint AS step_id, l.created_at AS occurred_at, l.xact_id,
	t.task_id AS owner_id, l.sort_key, tasker.task_event_payload(l) AS payload
FROM tasker.tasks t
CROSS JOIN LATERAL (SELECT k.* FROM tasker.task_transition_log k WHERE k.task_id = t.task_id OFFSET 0) l
UNION ALL
SELECT 'step:' || s.workflow_step_id || ':' || l.sort_key, tasker.transition_event('step', l.from_state, l.to_state),
	'step', s.task_id, s.workflow_step_id, l.created_at, l.xact_id, s.workflow_step_id, l.sort_key, tasker.step_event_payload(l)
FROM tasker.workflow_steps s
CROSS JOIN LATERAL (SELECT k.* FROM tasker.workflow_step_transition_log k WHERE k.workflow_step_id = s.workflow_step_id OFFSET 0) l
UNION ALL
SELECT 'event:' || e.event_id, e.name, 'custom', e.task_id, e.workflow_step_id, e.created_at, e.xact_id, e.event_id, 0,
	tasker.custom_event_payload(e)
FROM tasker.published_events e;

COMMENT ON VIEW tasker.events IS
'Everything that happened to tasks that exist, as events with payloads: each transition of a task or a step, each custom event. Ask for one task (WHERE task_id = ...) or one owner (category and owner_id); the whole is as large as the history. event_key names an event for ever. For reading on and on use read_events(). The keys of payloads: event_definitions.payload_schema, docs/events.md. Runs with the rights of the caller.';

COMMENT ON COLUMN tasker.events.category IS 'task, step or custom.';

COMMENT ON COLUMN tasker.events.owner_id IS 'The task, step or published event that it belongs to, by category.';

COMMENT ON COLUMN tasker.events.sort_key IS 'Place in the owner''s log; 0 for custom events.';

-- Events for the steps that wait for them: those that came before the wait, and
-- those that come while it lasts.

CREATE FUNCTION tasker.has_all(payload jsonb, match jsonb) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
	SELECT NOT EXISTS (SELECT FROM jsonb_each(match) m WHERE payload -> m.key IS DISTINCT FROM m.value);
END;
COMMENT ON FUNCTION tasker.has_all(jsonb, jsonb) IS 'Whether a payload has equal values under all keys of the match.';

CREATE FUNCTION tasker.received_event(event_key text, name text, occurred_at timestamptz, payload jsonb) RETURNS jsonb
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
	SELECT jsonb_build_object('event_key', event_key, 'name', name, 'occurred_at', occurred_at, 'payload', payload);
END;
COMMENT ON FUNCTION tasker.received_event(text, text, timestamptz, jsonb) IS 'An event as the results of the step that has waited for it.';

-- Each kind of wait has its index, and the planner, held to plain index scans
-- elsewhere, may use the one that is no btree.
CREATE FUNCTION tasker.first_event(event_name text, match jsonb, of_task bigint, events_since timestamptz, namespaces integer[]) RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET enable_bitmapscan = on
SET enable_seqscan = off
SET jit = off
AS $$
#variable_conflict use_variable
DECLARE
	result jsonb;
BEGIN
	IF event_name ~ '^(task|step)\.' THEN
		SELECT tasker.received_event(v.event_key, v.name, v.occurred_at, v.payload) INTO result
		FROM tasker.events v
		WHERE v.task_id = (match ->> 'task_id')::bigint AND v.name = event_name AND v.category <> 'custom' AND tasker.has_all(v.payload, match)
			AND (namespaces IS NULL OR (SELECT t.task_namespace_id FROM tasker.tasks t WHERE t.task_id = v.task_id) = ANY (namespaces))
		ORDER BY v.occurred_at, v.owner_id, v.sort_key LIMIT 1;
	ELSIF of_task IS NOT NULL THEN
		SELECT tasker.received_event('event:' || e.event_id, e.name, e.created_at, tasker.custom_event_payload(e)) INTO result
		FROM tasker.published_events e
		WHERE e.task_id = of_task AND e.name = event_name AND e.created_at >= events_since AND tasker.has_all(e.payload, match)
		ORDER BY e.created_at, e.event_id LIMIT 1;
	ELSIF match = '{}' THEN
		SELECT tasker.received_event('event:' || e.event_id, e.name, e.created_at, tasker.custom_event_payload(e)) INTO result
		FROM tasker.published_events e
		WHERE e.awaited AND e.name = event_name AND e.created_at >= events_since
			AND (namespaces IS NULL OR (SELECT t.task_namespace_id FROM tasker.tasks t WHERE t.task_id = e.task_id) = ANY (namespaces))
		ORDER BY e.created_at, e.event_id LIMIT 1;
	ELSE
		WITH candidate AS MATERIALIZED (
			SELECT e.event_id, e.created_at, e.name, e.task_id, e.payload FROM tasker.published_events e
			WHERE e.awaited AND e.payload @> match
		)
		SELECT tasker.received_event('event:' || e.event_id, e.name, e.created_at, tasker.custom_event_payload(e)) INTO result
		FROM (
			SELECT c.event_id FROM candidate c
			WHERE c.name = event_name AND c.created_at >= events_since AND tasker.has_all(c.payload, match)
				AND (namespaces IS NULL OR (SELECT t.task_namespace_id FROM tasker.tasks t WHERE t.task_id = c.task_id) = ANY (namespaces))
			ORDER BY c.created_at, c.event_id LIMIT 1
		) first
		JOIN tasker.published_events e ON e.event_id = first.event_id;
	END IF;
	RETURN result;
END
$$;
COMMENT ON FUNCTION tasker.first_event(text, jsonb, bigint, timestamptz, integer[]) IS
'The oldest event that a step could have waited for, of those that are there already; NULL where there is none. Of system events all that the history of the task has count. For the orchestrator.';

CREATE OR REPLACE FUNCTION tasker.task_document(task_id bigint, include_dependencies boolean DEFAULT false) RETURNS jsonb
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	SELECT jsonb_build_object(
		'task_id', t.task_id, 'name', t.name, 'namespace', t.namespace, 'version', t.version, 'full_name', t.full_name,
		'initiator', t.initiator, 'source_system', t.source_system, 'context', own.context, 'reason', t.reason,
		'bypass_steps', own.bypass_steps, 'tags', t.tags, 'requested_at', t.requested_at,
		'complete', t.state = 'complete', 'status', t.state,
		'workflow_steps', (SELECT coalesce(jsonb_agg(s.document ORDER BY s.workflow_step_id), '[]')
			FROM tasker.step_documents(t.task_id) s),
		'task_annotations', (SELECT coalesce(jsonb_agg(jsonb_build_object('task_annotation_id', a.task_annotation_id,
				'annotation_type', a.type, 'annotation', a.annotation, 'created_at', a.created_at, 'role', a.role)
				ORDER BY a.task_annotation_id), '[]')
			FROM tasker.annotations a WHERE a.task_id = t.task_id))
		|| CASE WHEN include_dependencies THEN jsonb_build_object('dependency_analysis', tasker.task_graph_analysis(t.task_id) - 'task')
		ELSE '{}' END
	FROM (SELECT o.task_id, o.context, o.bypass_steps FROM tasker.tasks o WHERE o.task_id = task_document.task_id OFFSET 0) own
	CROSS JOIN LATERAL (SELECT * FROM tasker.task_summaries s WHERE s.task_id = own.task_id OFFSET 0) t;
END;

-- What happened to a task as spans of OpenTelemetry. All of it is read from the
-- logs, and ids are derived from what a span is of, so that nothing has to be
-- written for it, and whoever asks, whenever, gets the same.

CREATE FUNCTION tasker.span_id(home bigint, kind text, id bigint, number integer) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
	SELECT lpad(to_hex(hashtextextended(format('%s:%s:%s:%s', home, kind, id, number) COLLATE "C", 0)), 16, '0');
END;

COMMENT ON FUNCTION tasker.span_id(bigint, text, bigint, integer) IS
'The id of a span: of the database (see tasker.home), what it is of, and the sort_key of the transition that it begins or, if queued, ends with.';

CREATE FUNCTION tasker.trace_id(home bigint, of_task bigint, traceparent text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
	SELECT coalesce(substring(traceparent FROM 4 FOR 32),
		encode(substring(sha256(convert_to(format('%s:trace:%s', home, of_task), 'UTF8')) FOR 16), 'hex'));
END;

COMMENT ON FUNCTION tasker.trace_id(bigint, bigint, text) IS 'The trace of a task: that of its traceparent, or one of its own.';

-- Of the flags only sampled (1) and random (2) are known, and may be passed on.
CREATE FUNCTION tasker.trace_flags(traceparent text) RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
	SELECT coalesce(('x' || substring(traceparent FROM 54 FOR 2))::bit(8)::integer & 3, 1);
END;

COMMENT ON FUNCTION tasker.trace_flags(text) IS 'The flags of a traceparent: 1 sampled, 2 random; 1 where there is none.';

CREATE FUNCTION tasker.step_traceparent(step_id bigint, claim integer) RETURNS text
LANGUAGE c STABLE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'tasker_step_traceparent';

COMMENT ON FUNCTION tasker.step_traceparent(bigint, integer) IS
'What an executor hands on with the calls that it makes for a step: the traceparent (W3C Trace Context) whose span is the execution of the claim with this number. Derived, so it is the same before, during and after that; a number that was never given out has a span that never comes. Also where the task was created without a traceparent: then it has a trace of its own. Needs no privilege on tables. Error: 42704 unknown step.';

COMMENT ON PROCEDURE tasker.await_steps(bigint, integer, interval, jsonb) IS
'Blocking pull: claims up to max ready steps for an executor, as claim_steps does, and waits for some if there are none. steps: an array of objects with the columns of tasker.claimed_step, and traceparent where the task has one (see step_traceparent), empty after the timeout (NULL: waits without end, 0: does not wait). Woken by the commit that brings steps; while waiting it holds no snapshot, no lock and no row, and it counts as the heartbeat of a detached executor. Where tasker is not preloaded it looks again by itself, after 10 ms at first and then ever later, at least each second. Register the executor with capacity 0 if it only pulls. Must be called outside of a transaction block. Errors: 25001 in a transaction block or from a function; 42704 unknown executor; 55000 the executor has ended, also while it waits; 22023 max is not 1 to 10000.';

-- By key from the task on, row by row (OFFSET 0), whatever statistics say.
CREATE FUNCTION tasker.task_spans(task_id bigint)
RETURNS TABLE (trace_id text, span_id text, parent_span_id text, name text, kind text, started_at timestamptz, ended_at timestamptz,
	status text, status_message text, attributes jsonb, events jsonb)
LANGUAGE sql STABLE ROWS 20
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET jit = off
BEGIN ATOMIC
	WITH task AS MATERIALIZED (
		SELECT t.task_id, tasker.trace_id(h.identifier, t.task_id, t.traceparent) AS trace_id,
			substring(t.traceparent FROM 37 FOR 16) AS parent_span_id, h.identifier AS home, t.initiator, t.source_system,
			jsonb_build_object('tasker.task_id', t.task_id, 'tasker.task_name', n.name, 'tasker.namespace', s.name, 'tasker.version', n.version) AS attributes
		FROM tasker.tasks t
		JOIN tasker.named_tasks n ON n.named_task_id = t.named_task_id
		JOIN tasker.task_namespaces s ON s.task_namespace_id = n.task_namespace_id
		CROSS JOIN tasker.home h
		WHERE t.task_id = task_spans.task_id
	), run AS MATERIALIZED (
		-- From the creation, or from what took the task out of an end, to the first end after it.
		SELECT m.number, min(m.sort_key) AS first_key, min(m.created_at) AS started_at, min(m.sort_key) FILTER (WHERE m.is_end) AS end_key,
			tasker.span_id(m.home, 'task', m.task_id, min(m.sort_key)) AS span_id
		FROM (
			SELECT task.home, task.task_id, k.sort_key, k.created_at, k.to_state NOT IN ('pending', 'in_progress') AS is_end,
				count(*) FILTER (WHERE k.from_state IS NULL OR k.from_state NOT IN ('pending', 'in_progress') AND k.to_state IN ('pending', 'in_progress'))
					OVER (ORDER BY k.sort_key) AS number
			FROM task
			CROSS JOIN LATERAL (SELECT l.* FROM tasker.task_transition_log l WHERE l.task_id = task.task_id OFFSET 0) k
		) m
		GROUP BY m.home, m.task_id, m.number
	), move AS MATERIALIZED (
		SELECT m.*, sum(CASE WHEN m.to_state = 'in_progress' THEN 1 WHEN m.from_state = 'in_progress' AND m.to_state = 'pending' THEN -1 ELSE 0 END)
			OVER (PARTITION BY m.workflow_step_id, m.resets ORDER BY m.sort_key) AS attempt
		FROM (
			SELECT s.*, k.sort_key, k.from_state, k.to_state, k.created_at, k.executor_id, k.metadata,
				lead(k.created_at) OVER later AS next_at, lead(k.to_state) OVER later AS next_state, lead(k.metadata) OVER later AS next_metadata,
				-- An operator's retry starts from zero.
				count(*) FILTER (WHERE k.from_state = 'error' AND k.to_state = 'pending' AND k.metadata ->> 'triggered_by' IS NULL) OVER later AS resets
			FROM task
			CROSS JOIN LATERAL (
				SELECT w.workflow_step_id, h.name IN ('tasker.sleep', 'tasker.await_event') AS waits,
					task.attributes || jsonb_build_object('tasker.step_id', w.workflow_step_id, 'tasker.handler', h.name,
						'tasker.step_name', (SELECT n.name FROM tasker.named_steps n WHERE n.named_step_id = w.named_step_id)) AS attributes
				FROM tasker.workflow_steps w
				CROSS JOIN LATERAL (SELECT n.name FROM tasker.handlers n WHERE n.handler_id = w.handler_id OFFSET 0) h
				WHERE w.task_id = task.task_id
				OFFSET 0) s
			CROSS JOIN LATERAL (SELECT l.* FROM tasker.workflow_step_transition_log l WHERE l.workflow_step_id = s.workflow_step_id OFFSET 0) k
			WINDOW later AS (PARTITION BY s.workflow_step_id ORDER BY k.sort_key)
		) m
	), step_span AS (
		SELECT 'queued' AS kind, 'tasker.step.queued' AS name, m.workflow_step_id, m.sort_key, m.sort_key AS place, least(ready.ready_at, m.created_at) AS started_at, m.created_at AS ended_at,
			m.created_at AS belongs_at, NULL AS failure, m.attributes || jsonb_build_object('tasker.attempt', m.attempt) AS attributes
		FROM move m
		CROSS JOIN LATERAL (SELECT r.ready_at FROM tasker.ready_since(m.workflow_step_id, m.sort_key) r OFFSET 0) ready
		WHERE m.to_state = 'in_progress' AND NOT m.waits
		UNION ALL
		SELECT 'execution', CASE WHEN m.waits THEN 'tasker.step.waiting' ELSE 'tasker.step.execution' END, m.workflow_step_id, m.sort_key, m.sort_key + 1, m.created_at, m.next_at, m.created_at,
			CASE WHEN m.next_state = 'error' THEN coalesce(m.next_metadata, '{}') END,
			m.attributes || jsonb_strip_nulls(jsonb_build_object('tasker.attempt', m.attempt, 'tasker.claim', m.sort_key, 'tasker.executor_id', m.executor_id,
				'tasker.outcome', CASE m.next_state WHEN 'pending' THEN 'released' ELSE m.next_state::text END))
		FROM move m
		WHERE m.to_state = 'in_progress'
		UNION ALL
		SELECT 'retry', 'tasker.step.retry', m.workflow_step_id, m.sort_key, m.sort_key, m.created_at, m.next_at, coalesce(m.next_at, m.created_at), NULL,
			m.attributes || jsonb_strip_nulls(jsonb_build_object('tasker.attempt', m.attempt, 'tasker.backoff_type', m.metadata ->> 'backoff_type'))
		FROM move m
		WHERE m.to_state = 'error'
			AND (m.next_state = 'pending' AND m.next_metadata ->> 'triggered_by' IS NOT NULL
				OR m.next_state IS NULL AND (m.metadata ->> 'retry_available')::boolean)
	)
	SELECT task.trace_id, s.span_id, s.parent_span_id, s.name, CASE WHEN s.parent_span_id = task.parent_span_id THEN 'consumer' ELSE 'internal' END, s.started_at, s.ended_at, s.status, s.status_message, s.attributes, s.events
	FROM task
	CROSS JOIN LATERAL (
		SELECT 0::bigint AS step_id, r.first_key AS place, r.span_id,
			coalesce(task.parent_span_id, CASE WHEN r.number > 1 THEN (SELECT f.span_id FROM run f WHERE f.number = 1) END) AS parent_span_id,
			'tasker.task.execution' AS name, r.started_at, e.ended_at,
			CASE e.state WHEN 'error' THEN 'error' ELSE 'unset' END AS status,
			CASE e.state WHEN 'error' THEN 'steps in error: ' || (SELECT string_agg(n, ', ') FROM jsonb_array_elements_text(nullif(e.payload -> 'error_steps', 'null')) n) END AS status_message,
			task.attributes || jsonb_strip_nulls(jsonb_build_object('tasker.initiator', task.initiator, 'tasker.source_system', task.source_system,
				'tasker.outcome', e.state, 'tasker.total_steps', e.payload -> 'total_steps', 'tasker.completed_steps', e.payload -> 'completed_steps',
				'tasker.failed_steps', e.payload -> 'failed_steps', 'error.type', CASE e.state WHEN 'error' THEN '_OTHER' END)) AS attributes,
			(SELECT jsonb_agg(jsonb_build_object('name', tasker.transition_event('task', l.from_state, l.to_state), 'time', l.created_at,
					'attributes', jsonb_strip_nulls(jsonb_build_object('tasker.reason', coalesce(l.metadata ->> 'reason', l.metadata ->> 'triggered_by'))))
					ORDER BY l.sort_key)
				FROM tasker.task_transition_log l
				WHERE l.task_id = task.task_id AND l.sort_key BETWEEN r.first_key AND coalesce(r.end_key, 2147483647)) AS events
		FROM run r
		LEFT JOIN LATERAL (SELECT l.created_at AS ended_at, l.to_state AS state, tasker.task_event_payload(l) AS payload
			FROM tasker.task_transition_log l WHERE l.task_id = task.task_id AND l.sort_key = r.end_key OFFSET 0) e ON true
		UNION ALL
		SELECT s.workflow_step_id, s.place, tasker.span_id(task.home, s.kind, s.workflow_step_id, s.sort_key),
			-- The run that it was part of; clocks may have been set back.
			coalesce((SELECT r.span_id FROM run r WHERE r.started_at <= s.belongs_at ORDER BY r.number DESC LIMIT 1), (SELECT r.span_id FROM run r WHERE r.number = 1)),
			s.name, s.started_at, s.ended_at,
			CASE WHEN s.failure IS NULL THEN 'unset' ELSE 'error' END, s.failure ->> 'error_message',
			s.attributes || CASE WHEN s.failure IS NULL THEN '{}' ELSE jsonb_build_object('error.type', coalesce(s.failure ->> 'error_class', '_OTHER')) END,
			CASE WHEN s.failure IS NULL THEN '[]' ELSE jsonb_build_array(jsonb_build_object('name', 'exception', 'time', s.ended_at, 'attributes',
				jsonb_strip_nulls(jsonb_build_object('exception.type', s.failure ->> 'error_class', 'exception.message', s.failure ->> 'error_message')))) END
		FROM step_span s
	) s
	ORDER BY s.step_id, s.place;
END;

COMMENT ON FUNCTION tasker.task_spans(bigint) IS
'A task as spans of OpenTelemetry: tasker.task.execution from the creation to the end, one more for each time that an operator starts it again; below it, for each claim of a step, tasker.step.queued from when it was ready and tasker.step.execution to its outcome; tasker.step.waiting instead of both where a step sleeps or awaits an event; tasker.step.retry from a failure until the step is due again. ended_at is NULL for what is not over. trace_id and the parent of the task are those of its traceparent; where it has none, its trace is its own. Ids are derived: the same each time. A span that has ended changes no more. status is error or unset, kind is consumer for a task whose parent its traceparent says, else internal. Steps settled without being claimed have no span. No row for an unknown task. Runs with the rights of the caller.';

CREATE FUNCTION tasker.otlp_attributes(attributes jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
	SELECT coalesce(jsonb_agg(jsonb_build_object('key', a.key, 'value',
		CASE jsonb_typeof(a.value) WHEN 'number' THEN jsonb_build_object('intValue', a.value #>> '{}') ELSE jsonb_build_object('stringValue', a.value #>> '{}') END)
		ORDER BY a.key), '[]')
	FROM jsonb_each(attributes) a;
END;

COMMENT ON FUNCTION tasker.otlp_attributes(jsonb) IS 'Strings and whole numbers as attributes in the JSON of OTLP.';

CREATE FUNCTION tasker.unix_nanoseconds(instant timestamptz) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
	SELECT (extract(epoch FROM instant) * 1000000000)::bigint::text;
END;

COMMENT ON FUNCTION tasker.unix_nanoseconds(timestamptz) IS 'Nanoseconds since 1970 as the JSON of OTLP spells them.';

CREATE FUNCTION tasker.otlp_spans(task_ids bigint[]) RETURNS SETOF jsonb
LANGUAGE sql STABLE STRICT ROWS 1
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	SELECT jsonb_build_object('resourceSpans', jsonb_build_array(jsonb_build_object(
		'resource', jsonb_build_object('attributes', tasker.otlp_attributes(jsonb_build_object('service.name', 'tasker', 'service.version', e.extversion,
			'service.instance.id', to_hex(h.identifier), 'db.system.name', 'postgresql', 'db.namespace', current_database()))),
		'scopeSpans', jsonb_build_array(jsonb_build_object(
			'scope', jsonb_build_object('name', 'tasker', 'version', e.extversion),
			'spans', page.spans)))))
	FROM (
		SELECT numbered.page, jsonb_agg(numbered.span ORDER BY numbered.place) AS spans
		FROM (
			SELECT row_number() OVER () AS place, (row_number() OVER () - 1) / 1000 AS page,
				jsonb_strip_nulls(jsonb_build_object('traceId', s.trace_id, 'spanId', s.span_id, 'parentSpanId', s.parent_span_id,
					-- Bits 8 and 9: it is known whether the parent is remote, and it is.
					'flags', tasker.trace_flags(t.traceparent) | CASE WHEN s.parent_span_id = substring(t.traceparent FROM 37 FOR 16) THEN 768 ELSE 256 END,
					'name', s.name, 'kind', CASE s.kind WHEN 'consumer' THEN 5 ELSE 1 END, 'startTimeUnixNano', tasker.unix_nanoseconds(s.started_at), 'endTimeUnixNano', tasker.unix_nanoseconds(s.ended_at),
					'attributes', tasker.otlp_attributes(s.attributes),
					'events', (SELECT jsonb_agg(jsonb_build_object('timeUnixNano', tasker.unix_nanoseconds((o.value ->> 'time')::timestamptz),
							'name', o.value ->> 'name', 'attributes', tasker.otlp_attributes(o.value -> 'attributes')) ORDER BY o.ordinality)
						FROM jsonb_array_elements(s.events) WITH ORDINALITY o),
					'status', jsonb_build_object('code', CASE s.status WHEN 'error' THEN 2 ELSE 0 END, 'message', s.status_message))) AS span
			FROM (SELECT DISTINCT i.task_id FROM unnest(task_ids) i (task_id)) wanted
			CROSS JOIN LATERAL (SELECT o.* FROM tasker.tasks o WHERE o.task_id = wanted.task_id AND tasker.trace_flags(o.traceparent) & 1 = 1 OFFSET 0) t
			CROSS JOIN LATERAL tasker.task_spans(t.task_id) s
			WHERE s.ended_at IS NOT NULL
		) numbered
		GROUP BY numbered.page
	) page
	CROSS JOIN tasker.home h
	JOIN pg_extension e ON e.extname = 'tasker'
	ORDER BY page.page;
END;

COMMENT ON FUNCTION tasker.otlp_spans(bigint[]) IS
'The spans of tasks that have ended, as bodies for POST to /v1/traces of an OpenTelemetry collector (ExportTraceServiceRequest in the JSON of OTLP): one row for up to 1000 spans, none where there is nothing. Tasks whose traceparent says that the trace is not sampled are left out. Given twice it says the same twice, with the same ids. Runs with the rights of the caller.';

CREATE OR REPLACE VIEW tasker.stat_orchestrator AS
SELECT s.status, s.pid, s.started_at, s.last_batch_at, s.batches, s.log_rows, s.claims, s.notifications,
	s.errors, s.last_error, c.position, c.saved_at AS checkpoint_at,
	CASE WHEN c.system_identifier <> (SELECT h.identifier FROM tasker.home h) THEN 'restored'
		WHEN c.paused_at IS NOT NULL THEN 'paused' END AS holds_dispatch,
	m.batches_per_second, m.log_rows_per_second, m.claims_per_second, m.notifications_per_second,
	m.intake_p50, m.intake_p99, m.dispatch_p50, m.dispatch_p99, m.claim_p50, m.claim_p99,
	m.execution_p50, m.execution_p99, m.batch_p50, m.batch_p99,
	m.last_error_at, m.last_error_sqlstate, m.last_error_repeats, m.unread_rows, m.unread_seconds,
	extract(epoch FROM tasker.now() - c.saved_at)::double precision AS checkpoint_seconds,
	m.memory_bytes, m.set_aside, m.set_aside_owners, m.measured_since
FROM tasker.orchestrator_status() s
CROSS JOIN tasker.orchestrator_measures() m
LEFT JOIN tasker.orchestrator_checkpoint c ON true;

COMMENT ON VIEW tasker.stat_orchestrator IS
'One row: whether an orchestrator serves this database (running, starting, off, held by a utility command, not preloaded), what it has done since it started, and why nothing is dispatched, if so. Rates are decayed over a minute, percentiles are those of stat_latencies, in seconds; what comes from shared memory is NULL where tasker is not preloaded. Read by operators and monitoring.';

COMMENT ON COLUMN tasker.stat_orchestrator.last_error_repeats IS 'How often this very error has come in a row.';

COMMENT ON COLUMN tasker.stat_orchestrator.unread_rows IS 'Rows of the logs that were committed and no batch has read, as the sessions that wrote them counted; those of prepared transactions, and of the time before a crash, are not counted.';

COMMENT ON COLUMN tasker.stat_orchestrator.unread_seconds IS 'The lag behind the logs: for how long the oldest commit with news has been unread; 0: all is read.';

COMMENT ON COLUMN tasker.stat_orchestrator.checkpoint_seconds IS 'Since the last checkpoint. An idle orchestrator saves none.';

COMMENT ON COLUMN tasker.stat_orchestrator.memory_bytes IS 'What the orchestrator''s process has allocated, counted once a second while it works.';

COMMENT ON COLUMN tasker.stat_orchestrator.set_aside IS 'How many tasks and steps this orchestrator could not process and leaves alone until it is started again.';

COMMENT ON COLUMN tasker.stat_orchestrator.set_aside_owners IS 'The first 32 of them, as "task 7" or "step 9"; the server log has the error of each.';

COMMENT ON COLUMN tasker.stat_orchestrator.measured_since IS 'When the measuring began: at the first use since the server''s start, or at the last reset_stats().';

-- What runs now.

-- Which steps are in flight is not indexed, because an index on a state would
-- make every change of state dearer. The checkpoint knows the steps that were
-- out when it was saved, and the log what was claimed since and has not gone
-- on; each candidate is then looked up by its key. The range of the log is
-- closed at the top, though nothing is above it: of a range the planner expects
-- few rows and takes the index, of a lower bound alone a third of the log.
CREATE FUNCTION tasker.steps_in_flight() RETURNS TABLE (executor_id bigint, steps bigint)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 20
SET jit = off
BEGIN ATOMIC
	WITH candidate AS (
		SELECT unnest(c.in_flight_steps) AS workflow_step_id
		FROM tasker.orchestrator_checkpoint c
		UNION
		SELECT l.workflow_step_id
		FROM tasker.workflow_step_transition_log l
		WHERE l.xact_id >= coalesce((SELECT pg_snapshot_xmax(c.position) FROM tasker.orchestrator_checkpoint c), '0')
			AND l.xact_id <= '18446744073709551615'
			AND (SELECT tasker.sees_everything())
		GROUP BY l.workflow_step_id
		HAVING max(l.sort_key) FILTER (WHERE l.to_state = 'in_progress') = max(l.sort_key)
		UNION
		SELECT l.workflow_step_id
		FROM tasker.workflow_step_transition_log l
		WHERE l.xact_id = ANY (ARRAY(SELECT pg_snapshot_xip(c.position) FROM tasker.orchestrator_checkpoint c))
			AND l.to_state = 'in_progress'
	), holder AS MATERIALIZED (
		SELECT (SELECT s.executor_id FROM tasker.workflow_steps s
			WHERE s.workflow_step_id = candidate.workflow_step_id AND s.state = 'in_progress') AS executor_id
		FROM candidate
	)
	SELECT holder.executor_id, count(*) AS steps
	FROM holder
	WHERE holder.executor_id IS NOT NULL
	GROUP BY holder.executor_id;
END;
COMMENT ON FUNCTION tasker.steps_in_flight() IS
'How many steps each executor has now. Read by stat_executors, and not compiled: that would take longer than to run it.';

CREATE OR REPLACE VIEW tasker.stat_executors AS
SELECT e.executor_id, e.name,
	ARRAY(SELECT DISTINCT h.name FROM tasker.handlers h WHERE h.handler_id = ANY (e.handlers) ORDER BY h.name) AS handlers,
	e.capacity, e.detached, e.lease, e.role, e.registered_at, e.last_heartbeat_at, e.ended_at, e.end_reason,
	CASE WHEN tasker.sees_everything() THEN coalesce(in_flight.steps, 0) END AS in_flight,
	m.claims, m.completions, m.failures, m.releases, m.losses, m.claims_per_second, m.completions_per_second,
	m.execution_p50, m.execution_p99, m.last_error, m.last_error_at, m.last_seen_at
FROM tasker.executors e
LEFT JOIN tasker.steps_in_flight() in_flight ON in_flight.executor_id = e.executor_id
LEFT JOIN tasker.executor_measures() m ON m.executor_id = e.executor_id;

COMMENT ON VIEW tasker.stat_executors IS
'Who runs steps, or ran them (ended_at), how many steps each one has now, and what it has done since the server''s start or reset_stats(). What is measured begins with its first claim and is kept for tasker.max_executors of them on the server, those that have ended making way for others; it is NULL before, beyond that, and where tasker is not preloaded. For operators and dashboards.';

COMMENT ON COLUMN tasker.stat_executors.in_flight IS 'Steps in progress with this executor; NULL for a role that is confined to namespaces, which may ask my_steps().';

COMMENT ON COLUMN tasker.stat_executors.losses IS 'Steps that were taken back: it was lost, or the attempt took longer than its timeout.';

COMMENT ON COLUMN tasker.stat_executors.execution_p50 IS 'Seconds from the claim to the report, of half of its steps at most.';

COMMENT ON COLUMN tasker.stat_executors.last_error IS 'The last failure that it reported, 255 bytes of it.';

COMMENT ON COLUMN tasker.stat_executors.last_seen_at IS 'Its last report or heartbeat.';

-- Why a task does not move, in sentences.

CREATE FUNCTION tasker.time_of_day(t timestamptz) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
RETURN to_char(t, 'YYYY-MM-DD HH24:MI:SS');

COMMENT ON FUNCTION tasker.time_of_day(timestamptz) IS 'A time as why() writes it, in the time zone of the session.';

CREATE FUNCTION tasker.live_executors(handler integer)
RETURNS TABLE (executor_id bigint, name text, capacity integer, in_flight bigint)
LANGUAGE sql STABLE
BEGIN ATOMIC
	-- A session-bound one is there while its lock is held, see executor.c.
	SELECT e.executor_id, e.name, e.capacity, s.in_flight
	FROM tasker.executors e
	JOIN tasker.stat_executors s ON s.executor_id = e.executor_id
	WHERE e.ended_at IS NULL AND handler = ANY (e.handlers)
		AND CASE WHEN e.detached THEN greatest(e.last_heartbeat_at, s.last_seen_at) + e.lease > tasker.now()
			ELSE EXISTS (SELECT FROM pg_locks l
				WHERE l.locktype = 'advisory' AND l.objsubid = 1001 AND l.granted
					AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
					AND l.classid::bigint = e.executor_id >> 32 AND l.objid::bigint = e.executor_id & 4294967295) END;
END;

COMMENT ON FUNCTION tasker.live_executors(integer) IS
'The executors that are there for a handler, given by its id, with the steps they have. Read by why().';

-- What keeps all tasks, or all of a template.
CREATE FUNCTION tasker.why_nothing_moves(named_task integer)
RETURNS TABLE (about text, reason text, advice text)
LANGUAGE sql STABLE
BEGIN ATOMIC
	SELECT o.about, o.reason, o.advice
	FROM tasker.stat_orchestrator s
	LEFT JOIN tasker.orchestrator_checkpoint c ON true
	CROSS JOIN tasker.named_tasks n
	JOIN tasker.task_namespaces ns ON ns.task_namespace_id = n.task_namespace_id
	CROSS JOIN LATERAL (VALUES
		(pg_is_in_recovery(), 'server', 'This server is a standby: nothing moves here.',
			'Ask the primary, or promote this server.'),
		(s.holds_dispatch = 'restored', 'database', 'The database was restored or cloned from another server: no step is given out before somebody says so.',
			'SELECT tasker.resume();'),
		(c.paused_at IS NOT NULL AND s.holds_dispatch IS DISTINCT FROM 'restored', 'database', format('Everything is paused since %s.', tasker.time_of_day(c.paused_at)),
			'SELECT tasker.resume();'),
		(ns.paused_at IS NOT NULL, 'namespace', format('Namespace %s is paused since %s.', ns.name, tasker.time_of_day(ns.paused_at)),
			format('SELECT tasker.resume(%L);', ns.name)),
		(n.paused_at IS NOT NULL, 'template', format('Template %s %s is paused since %s.', n.name, n.version, tasker.time_of_day(n.paused_at)),
			format('SELECT tasker.resume(%L, %L, %L);', ns.name, n.name, n.version)),
		(s.status = 'not preloaded', 'orchestrator', 'No orchestrator runs: tasker is not preloaded.',
			'Add tasker to shared_preload_libraries and restart the server, or call tasker.orchestrate().'),
		(s.status = 'off' AND NOT pg_is_in_recovery(), 'orchestrator', 'No orchestrator runs in this database: tasker.orchestrator is off for it, or was when it looked.',
			format('ALTER DATABASE %I SET tasker.orchestrator = on;', current_database())),
		(s.status = 'starting', 'orchestrator', 'The orchestrator is being started.',
			'If that stays so, see the server log: max_worker_processes may be exhausted.'),
		(s.status = 'held by a utility command', 'orchestrator', 'The orchestrator makes way for a utility command that needs the database.',
			'It comes back when that has ended.'),
		(s.status = 'running' AND s.unread_seconds > 2, 'orchestrator', format('The orchestrator is %s s behind the logs.', round(s.unread_seconds)),
			'SELECT * FROM tasker.stat_orchestrator; see its last_error, and pg_stat_activity for what it is doing.'),
		(s.status = 'running' AND s.last_error_at > now() - interval '1 minute', 'orchestrator',
			format('A batch of the orchestrator has failed at %s: %s', tasker.time_of_day(s.last_error_at), s.last_error),
			'Mend the cause; it tries again by itself.')
	) o (holds, about, reason, advice)
	WHERE n.named_task_id = named_task AND o.holds
	UNION ALL
	-- See ORCHESTRATION_LOCK_CLASS in pause.c.
	SELECT 'orchestrator', format('Session %s orchestrates in a transaction that is open since %s; the worker waits for its end.', l.pid, tasker.time_of_day(a.xact_start)),
		format('End its transaction, or SELECT pg_terminate_backend(%s);', l.pid)
	FROM pg_locks l
	JOIN pg_stat_activity a ON a.pid = l.pid
	WHERE l.locktype = 'advisory' AND l.objsubid = 1002 AND l.granted AND a.backend_type = 'client backend' AND l.pid <> pg_backend_pid()
		AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database());
END;

COMMENT ON FUNCTION tasker.why_nothing_moves(integer) IS
'What keeps all tasks of a template, given by its id: standby, restore, pauses, no orchestrator, its lag and errors. Read by why().';

-- Who holds rows of the task: a row's xmax is the transaction that has locked
-- or changed it, if that has not ended.
CREATE FUNCTION tasker.why_locked(task_id bigint)
RETURNS TABLE (about text, reason text, advice text)
LANGUAGE sql STABLE
BEGIN ATOMIC
	SELECT held.about,
		CASE WHEN p.gid IS NOT NULL THEN format('Prepared transaction %s has changed or locked it since %s.', p.gid, tasker.time_of_day(p.prepared))
			ELSE format('Session %s (%s, %s) has changed or locked it in a transaction that is open since %s.',
				l.pid, coalesce(a.usename, 'of another role'), coalesce(a.state, a.backend_type, 'unknown'), tasker.time_of_day(a.xact_start)) END,
		CASE WHEN p.gid IS NOT NULL THEN format('COMMIT PREPARED %1$L; or ROLLBACK PREPARED %1$L;', p.gid)
			ELSE format('End its transaction, or SELECT pg_terminate_backend(%s);', l.pid) END
	FROM (
		SELECT 'task' AS about, t.xmax AS holder FROM tasker.tasks t WHERE t.task_id = why_locked.task_id
		UNION ALL
		SELECT 'step ' || n.name, s.xmax
		FROM tasker.workflow_steps s
		JOIN tasker.named_steps n ON n.named_step_id = s.named_step_id
		WHERE s.task_id = why_locked.task_id
	) held
	JOIN pg_locks l ON l.locktype = 'transactionid' AND l.granted AND l.mode = 'ExclusiveLock' AND l.transactionid = held.holder
	LEFT JOIN pg_stat_activity a ON a.pid = l.pid
	LEFT JOIN pg_prepared_xacts p ON l.pid IS NULL AND p.transaction = held.holder
	WHERE l.pid IS DISTINCT FROM pg_backend_pid()
		AND coalesce(a.backend_type, '') <> 'tasker orchestrator';
END;

COMMENT ON FUNCTION tasker.why_locked(bigint) IS
'Which sessions and prepared transactions hold rows of a task and its steps, except those that several share. Read by why().';

-- Of an open task the steps that are the next to move, and what each waits for.
CREATE FUNCTION tasker.why_steps(task_id bigint)
RETURNS TABLE (about text, reason text, advice text)
LANGUAGE sql STABLE
BEGIN ATOMIC
	SELECT 'step ' || r.name, v.reason, v.advice
	FROM tasker.step_readiness_status(why_steps.task_id) r
	JOIN tasker.workflow_steps s ON s.workflow_step_id = r.workflow_step_id
	JOIN tasker.tasks t ON t.task_id = s.task_id
	JOIN tasker.named_tasks nt ON nt.named_task_id = t.named_task_id
	LEFT JOIN tasker.handlers h ON h.handler_id = s.handler_id
	LEFT JOIN tasker.waiting_steps wait ON s.state = 'in_progress' AND wait.workflow_step_id = s.workflow_step_id
	CROSS JOIN LATERAL (
		SELECT EXISTS (SELECT FROM tasker.named_tasks_named_steps ts
			WHERE ts.named_task_id = t.named_task_id AND ts.named_step_id = s.named_step_id AND ts.waits_for IS NOT NULL) AS waits
	) rule
	LEFT JOIN tasker.stat_executors e ON s.state = 'in_progress' AND e.executor_id = s.executor_id
	LEFT JOIN LATERAL (
		SELECT count(*) AS n, count(*) FILTER (WHERE x.capacity = 0) AS pulling,
			coalesce(sum(x.in_flight) FILTER (WHERE x.capacity > 0), 0) AS in_flight, coalesce(sum(x.capacity), 0) AS capacity
		FROM tasker.live_executors(s.handler_id) x
		WHERE r.current_state = 'pending' AND r.ready_for_execution
	) live ON true
	LEFT JOIN LATERAL (
		SELECT n.name AS taken_by
		FROM tasker.workflow_steps o
		JOIN tasker.named_steps n ON n.named_step_id = o.named_step_id
		WHERE NOT nt.concurrent AND o.task_id = s.task_id AND o.state = 'in_progress'
		LIMIT 1
	) turn ON true
	CROSS JOIN LATERAL (
		SELECT CASE
			WHEN wait.waits_for = 'time' AND wait.until <= tasker.now() THEN
				format('It has slept until %s: the orchestrator completes it with its next batch.', tasker.time_of_day(wait.until))
			WHEN wait.waits_for = 'time' THEN
				format('It sleeps since %s, until %s.', tasker.time_of_day(wait.since), tasker.time_of_day(wait.until))
			WHEN wait.waits_for = 'event' THEN
				format('It waits since %s for event %s%s%s, %s.', tasker.time_of_day(wait.since), wait.event_name,
					CASE WHEN wait.match = '{}' THEN '' ELSE ' with ' || left(wait.match::text, 200) END,
					CASE WHEN wait.own_task THEN ' of its own task' ELSE '' END,
					coalesce('until ' || tasker.time_of_day(wait.until), 'without a time limit'))
			WHEN r.ready_for_execution AND rule.waits THEN
				'It is about to begin its wait: the orchestrator lets it do so with its next batch.'
			WHEN s.state = 'in_progress' AND e.executor_id IS NULL THEN
				format('It is in progress since %s, with no executor: a session runs it, or somebody has moved it by hand.', tasker.time_of_day(s.last_attempted_at))
			WHEN s.state = 'in_progress' AND e.ended_at IS NOT NULL THEN
				format('It was with executor %s (%s), which has ended (%s): the orchestrator takes it back.', e.executor_id, e.name, e.end_reason)
			WHEN s.state = 'in_progress' THEN
				format('Executor %s (%s) has it since %s, attempt %s%s.', e.executor_id, e.name, tasker.time_of_day(s.last_attempted_at), s.attempts,
					CASE WHEN s.timeout_seconds IS NULL THEN ', without a timeout'
						ELSE format('; it times out at %s', tasker.time_of_day(s.last_attempted_at + make_interval(secs => s.timeout_seconds))) END)
			WHEN s.state = 'error' AND NOT r.retry_eligible THEN
				format('It has failed for good,%s after %s of %s attempts: %s', CASE WHEN s.failed_permanently AND NOT rule.waits THEN ' by the word of its executor,' ELSE '' END,
					s.attempts, greatest(s.retry_limit, 1), left(s.results ->> 'error', 200))
			WHEN s.state = 'error' AND s.next_retry_at > tasker.now() THEN
				format('It has failed (attempt %s of %s: %s) and is tried again at %s.', s.attempts, greatest(s.retry_limit, 1), left(s.results ->> 'error', 200),
					tasker.time_of_day(s.next_retry_at))
			WHEN s.state = 'error' THEN
				format('It has failed (attempt %s of %s: %s) and is due for the next one since %s.', s.attempts, greatest(s.retry_limit, 1),
					left(s.results ->> 'error', 200), tasker.time_of_day(s.next_retry_at))
			WHEN NOT r.ready_for_execution AND turn.taken_by IS NOT NULL THEN
				format('It waits for its turn: the template runs one step at a time, and %s is in progress.',
					turn.taken_by)
			WHEN nt.coordinator_strategy = 'synchronous' THEN
				'It is ready. The template is synchronous: only a session that calls coordinate_task runs its steps.'
			WHEN r.ready_for_execution AND live.n = 0 THEN
				format('It is ready, and no executor that is there runs its handler %s.', h.name)
			WHEN r.ready_for_execution AND live.pulling > 0 THEN
				format('It is ready and waits for one of %s executors of handler %s to ask for steps; %s.', live.pulling, h.name, queue.place)
			WHEN r.ready_for_execution AND live.in_flight >= live.capacity THEN
				format('It is ready, and the %s executors of handler %s have all the steps that they take at once: %s of %s; %s.',
					live.n, h.name, live.in_flight, live.capacity, queue.place)
			WHEN r.ready_for_execution THEN
				format('It is ready, and an executor of handler %s is free: the orchestrator gives it out with its next batch.', h.name)
			END AS reason,
			CASE
			WHEN wait.workflow_step_id IS NOT NULL THEN
				format('Not to wait: SELECT tasker.complete_step(%s, %s, %L);', s.workflow_step_id, wait.claim, '{}')
			WHEN rule.waits AND s.state = 'pending' THEN NULL
			WHEN s.state = 'in_progress' AND e.executor_id IS NULL THEN format('SELECT * FROM tasker.task_timeline(%s);', s.task_id)
			WHEN s.state = 'in_progress' AND e.ended_at IS NOT NULL THEN NULL
			WHEN s.state = 'in_progress' THEN format('Look at that program. To take the step back: SELECT tasker.unregister_executor(%s);', e.executor_id)
			WHEN s.state = 'error' AND NOT r.retry_eligible THEN
				format('SELECT tasker.retry_step(%1$s); or tasker.resolve_step(%1$s)', s.workflow_step_id)
			WHEN s.state = 'error' THEN format('Not to wait: SELECT tasker.retry_step(%s);', s.workflow_step_id)
			WHEN nt.coordinator_strategy = 'synchronous' THEN format('SELECT * FROM tasker.coordinate_task(%s);', s.task_id)
			WHEN r.ready_for_execution AND live.n = 0 THEN format('Start a program that calls tasker.register_executor(..., %L).', ARRAY[h.name])
			WHEN r.ready_for_execution AND live.pulling > 0 THEN 'See whether these programs call tasker.claim_steps() or tasker.await_steps().'
			WHEN r.ready_for_execution AND live.in_flight >= live.capacity THEN 'Start more executors, or register them with a higher capacity; SELECT * FROM tasker.stat_executors; shows what they are at.'
			END AS advice
		FROM (
			SELECT CASE
				WHEN NOT EXISTS (SELECT FROM tasker.work_queue q WHERE q.handler_id = s.handler_id AND q.rank = s.rank AND q.workflow_step_id = s.workflow_step_id)
					THEN 'it is not in the queue'
				ELSE format('%s steps are before it in the queue', (SELECT count(*) || CASE WHEN count(*) = 1000 THEN ' or more' ELSE '' END FROM (
					SELECT FROM tasker.work_queue q
					WHERE q.handler_id = s.handler_id AND (q.rank, q.workflow_step_id) < (s.rank, s.workflow_step_id) LIMIT 1000) b)) END AS place
		) queue
	) v
	WHERE s.state IN ('in_progress', 'error') OR (s.state = 'pending' AND r.dependencies_satisfied AND v.reason IS NOT NULL)
	ORDER BY s.workflow_step_id
	LIMIT 20;
END;
COMMENT ON FUNCTION tasker.why_steps(bigint) IS
'What the steps of an open task wait for that are the next to move, the first twenty. Read by why().';

CREATE FUNCTION tasker.why(task_id bigint)
RETURNS TABLE (about text, reason text, advice text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	task tasker.tasks;
	waiting bigint;
BEGIN
	SELECT t.* INTO task FROM tasker.tasks t WHERE t.task_id = why.task_id;
	IF NOT FOUND THEN
		RAISE EXCEPTION USING ERRCODE = 'undefined_object', MESSAGE = format('unknown task %s', coalesce(why.task_id::text, 'null'));
	END IF;
	IF task.state = 'error' THEN
		RETURN QUERY SELECT 'task', 'It is in error: nothing of it can run any more.', format('SELECT tasker.retry_task(%1$s); or tasker.resolve_task(%1$s)', task.task_id);
		RETURN QUERY SELECT w.* FROM tasker.why_steps(task.task_id) w;
		RETURN;
	ELSIF task.state IN ('complete', 'cancelled', 'resolved_manually') THEN
		RETURN QUERY SELECT 'task', format('It has ended: it is %s since %s.', task.state, tasker.time_of_day(l.created_at)), NULL::text
			FROM tasker.task_transition_log l WHERE l.task_id = task.task_id AND l.sort_key = task.sort_key;
		RETURN;
	END IF;
	RETURN QUERY SELECT w.* FROM tasker.why_nothing_moves(task.named_task_id) w;
	RETURN QUERY
		SELECT o.owner, 'The orchestrator could not process it and has set it aside; the server log has the error.',
			format('Mend the cause, then SELECT pg_terminate_backend(%s); the orchestrator that follows tries again.', o.pid)
		FROM (SELECT s.pid, unnest(s.set_aside_owners) AS owner FROM tasker.stat_orchestrator s) o
		WHERE o.owner = 'task ' || task.task_id
			OR o.owner IN (SELECT 'step ' || s.workflow_step_id FROM tasker.workflow_steps s WHERE s.task_id = task.task_id);
	RETURN QUERY SELECT w.* FROM tasker.why_locked(task.task_id) w;
	RETURN QUERY SELECT w.* FROM tasker.why_steps(task.task_id) w;
	SELECT count(*) INTO waiting FROM tasker.step_readiness_status(task.task_id) r
		WHERE r.current_state = 'pending' AND NOT r.dependencies_satisfied;
	IF waiting > 0 THEN
		RETURN QUERY SELECT 'other steps', format('%s wait for the ones before them.', waiting), NULL::text;
	END IF;
	IF NOT EXISTS (SELECT FROM tasker.workflow_steps s WHERE s.task_id = task.task_id AND s.state NOT IN ('complete', 'resolved_manually')) THEN
		RETURN QUERY SELECT 'task', 'All its steps are done: the orchestrator closes it with its next batch.', format('SELECT tasker.reenqueue_task(%s);', task.task_id);
	END IF;
END
$$;

COMMENT ON FUNCTION tasker.why(bigint) IS
'Why a task does not move, in sentences: about what (server, database, namespace, template, orchestrator, task, a step by its name), the reason, and what to do, if anything, the widest reason first. Looks at one task and at who is there; changes and locks nothing. Of other roles'' sessions it shows the details only with pg_read_all_stats. Runs with the rights of the caller, who needs those of the views beneath. For people. Error: 42704 unknown task.';

CREATE VIEW tasker.stat_tasks AS
SELECT coalesce(s.name, '') AS namespace, coalesce(t.name, 'other') AS task, coalesce(t.version, '') AS version,
	c.created, c.started, c.completed, c.failed, c.cancelled, c.resolved, c.retried,
	c.bounds, c.buckets, c.seconds, c.timed
FROM tasker.transition_counts() c
LEFT JOIN tasker.named_tasks t ON t.named_task_id = c.id
LEFT JOIN tasker.task_namespaces s ON s.task_namespace_id = t.task_namespace_id
WHERE c.owner = 'task' AND (c.id IS NULL OR t.named_task_id IS NOT NULL);
COMMENT ON VIEW tasker.stat_tasks IS
'What happened to the tasks of each template since the server''s start or reset_stats(): transitions that were committed, from the template''s first one on. Templates that have found no room (2048 templates and handlers of the server have) are one row, other, of no namespace. No row where tasker is not preloaded. For operators and monitoring.';
COMMENT ON COLUMN tasker.stat_tasks.failed IS 'Transitions to error; a task that is retried may fail again.';
COMMENT ON COLUMN tasker.stat_tasks.resolved IS 'Transitions to resolved_manually.';
COMMENT ON COLUMN tasker.stat_tasks.retried IS 'Transitions from error to pending.';
COMMENT ON COLUMN tasker.stat_tasks.bounds IS 'Upper bounds of a histogram, in seconds: of tasks that are complete, from their requested_at on.';
COMMENT ON COLUMN tasker.stat_tasks.buckets IS 'How many took up to the bound of the same place; timed is how many there were, seconds how long they took together.';

-- From one priority to the next: each has one that is first in line.
CREATE FUNCTION tasker.waiting_seconds(handler integer) RETURNS double precision
LANGUAGE sql STABLE PARALLEL SAFE
SET jit = off
BEGIN ATOMIC
	WITH RECURSIVE first AS (
		(SELECT q.rank, q.workflow_step_id FROM tasker.work_queue q
		WHERE q.handler_id = handler ORDER BY q.rank, q.workflow_step_id LIMIT 1)
		UNION ALL
		SELECT q.rank, q.workflow_step_id FROM first f
		CROSS JOIN LATERAL (SELECT q.rank, q.workflow_step_id FROM tasker.work_queue q
			WHERE q.handler_id = handler AND q.rank > f.rank ORDER BY q.rank, q.workflow_step_id LIMIT 1) q
	)
	SELECT greatest(extract(epoch FROM tasker.now() - min(r.ready_at)), 0)
	FROM (SELECT f.workflow_step_id FROM first f LIMIT 100) f
	CROSS JOIN LATERAL (SELECT w.sort_key FROM tasker.workflow_steps w WHERE w.workflow_step_id = f.workflow_step_id OFFSET 0) w
	CROSS JOIN LATERAL tasker.ready_since(f.workflow_step_id, w.sort_key + 10) r;
END;
COMMENT ON FUNCTION tasker.waiting_seconds(integer) IS
'For how many seconds the step of a handler, given by its id, that has waited longest is ready, of those that are first in line of their priority; 0 where none waits. Read by stat_handlers.';

-- What is read at every scrape is asked by functions that can say so: to compile
-- it took ten times as long as to run it, and estimates of tables that change
-- by the second have the planner do that.
CREATE FUNCTION tasker.handler_status()
RETURNS TABLE (handler text, namespace text, started bigint, completed bigint, failed bigint, cancelled bigint, resolved bigint, retried bigint,
	released bigint, lost bigint, bounds double precision[], buckets bigint[], seconds double precision, timed bigint,
	waiting bigint, waiting_seconds double precision, executors bigint)
LANGUAGE sql VOLATILE PARALLEL RESTRICTED ROWS 20
SET jit = off
BEGIN ATOMIC
	SELECT h.name AS handler, coalesce(s.name, '') AS namespace,
		c.started, c.completed, c.failed, c.cancelled, c.resolved, c.retried, c.released, c.lost,
		c.bounds, c.buckets, c.seconds, c.timed,
		(SELECT count(*) FROM (SELECT FROM tasker.work_queue q WHERE q.handler_id = h.handler_id LIMIT 10001) q) AS waiting,
		tasker.waiting_seconds(h.handler_id) AS waiting_seconds,
		(SELECT count(*) FROM tasker.executors e WHERE e.ended_at IS NULL AND h.handler_id = ANY (e.handlers)) AS executors
	FROM tasker.handlers h
	LEFT JOIN tasker.task_namespaces s ON s.task_namespace_id = h.task_namespace_id
	LEFT JOIN (SELECT * FROM tasker.transition_counts() WHERE owner = 'step') c ON c.id = h.handler_id
	UNION ALL
	SELECT 'other', 'other', c.started, c.completed, c.failed, c.cancelled, c.resolved, c.retried, c.released, c.lost,
		c.bounds, c.buckets, c.seconds, c.timed, NULL, NULL, NULL
	FROM tasker.transition_counts() c
	WHERE c.owner = 'step' AND c.id IS NULL;
END;
COMMENT ON FUNCTION tasker.handler_status() IS 'The rows of stat_handlers.';

CREATE VIEW tasker.stat_handlers AS
SELECT handler, namespace, started, completed, failed, cancelled, resolved, retried, released, lost,
	bounds, buckets, seconds, timed, waiting, waiting_seconds, executors
FROM tasker.handler_status();
COMMENT ON VIEW tasker.stat_handlers IS
'What waits for each handler now, and what happened to its steps since the server''s start or reset_stats(): transitions that were committed, from the handler''s first one on; NULL before, and where tasker is not preloaded. Handlers that have found no room (2048 templates and handlers of the server have) are one more row, other. For operators and monitoring.';
COMMENT ON COLUMN tasker.stat_handlers.namespace IS 'The isolated namespace whose steps it is for; empty where the others share it.';
COMMENT ON COLUMN tasker.stat_handlers.started IS 'Claims, and starts by hand.';
COMMENT ON COLUMN tasker.stat_handlers.failed IS 'Transitions to error, those that are lost included.';
COMMENT ON COLUMN tasker.stat_handlers.resolved IS 'Transitions to resolved_manually.';
COMMENT ON COLUMN tasker.stat_handlers.retried IS 'Transitions from error to pending.';
COMMENT ON COLUMN tasker.stat_handlers.released IS 'Given back, unstarted or by hand: transitions from in_progress to pending.';
COMMENT ON COLUMN tasker.stat_handlers.lost IS 'Those of failed that no executor has reported: it was lost, or the attempt took longer than its timeout.';
COMMENT ON COLUMN tasker.stat_handlers.bounds IS 'Upper bounds of a histogram, in seconds: of attempts that an executor has reported complete or failed, from their claim on.';
COMMENT ON COLUMN tasker.stat_handlers.buckets IS 'How many took up to the bound of the same place; timed is how many there were, seconds how long they took together.';
COMMENT ON COLUMN tasker.stat_handlers.waiting IS 'Ready steps that no executor has; 10001 stands for more than 10000.';
COMMENT ON COLUMN tasker.stat_handlers.waiting_seconds IS 'For how long the one that has waited longest is ready, of those that are first in line of their priority; 0 where none waits.';
COMMENT ON COLUMN tasker.stat_handlers.executors IS 'Executors that can run it and have not ended.';

CREATE FUNCTION tasker.metric_samples() RETURNS TABLE (name text, type text, help text, labels jsonb, value double precision)
LANGUAGE sql VOLATILE PARALLEL RESTRICTED ROWS 500
SET jit = off
BEGIN ATOMIC
	WITH task AS MATERIALIZED (SELECT * FROM tasker.stat_tasks), handler AS MATERIALIZED (SELECT * FROM tasker.stat_handlers)
	SELECT s.family || s.suffix AS name, d.type, d.help, jsonb_build_object('datname', current_database()) || s.labels AS labels, s.value
	FROM (
		SELECT 'tasker_task_' || e.event || '_total' AS family, '' AS suffix,
			jsonb_build_object('namespace', t.namespace, 'task', t.task, 'version', t.version) AS labels, e.n::double precision AS value
		FROM task t
		CROSS JOIN LATERAL (VALUES ('created', t.created), ('started', t.started), ('completed', t.completed), ('failed', t.failed),
			('cancelled', t.cancelled), ('resolved', t.resolved), ('retried', t.retried)) e (event, n)
		UNION ALL
		SELECT 'tasker_step_' || e.event || '_total', '', jsonb_build_object('handler', h.handler, 'namespace', h.namespace), e.n
		FROM handler h
		CROSS JOIN LATERAL (VALUES ('started', h.started), ('completed', h.completed), ('failed', h.failed), ('cancelled', h.cancelled),
			('resolved', h.resolved), ('retried', h.retried), ('released', h.released), ('lost', h.lost)) e (event, n)
		WHERE h.started IS NOT NULL
		UNION ALL
		SELECT g.family, b.suffix, g.labels || b.labels, b.value
		FROM (
			SELECT 'tasker_task_duration_seconds' AS family, jsonb_build_object('namespace', t.namespace, 'task', t.task, 'version', t.version) AS labels,
				t.bounds, t.buckets, t.seconds, t.timed
			FROM task t
			UNION ALL
			SELECT 'tasker_step_duration_seconds', jsonb_build_object('handler', h.handler, 'namespace', h.namespace), h.bounds, h.buckets, h.seconds, h.timed
			FROM handler h
			WHERE h.started IS NOT NULL
			UNION ALL
			SELECT 'tasker_latency_seconds', jsonb_build_object('stage', l.name),
				array_agg(l.upper_bound ORDER BY l.upper_bound) FILTER (WHERE l.upper_bound < 'Infinity'),
				array_agg(l.count ORDER BY l.upper_bound) FILTER (WHERE l.upper_bound < 'Infinity'), max(l.seconds), max(l.count)
			FROM tasker.stat_latencies l
			GROUP BY l.name
		) g
		CROSS JOIN LATERAL (
			SELECT '_bucket' AS suffix, jsonb_build_object('le', u.bound::text) AS labels, u.n::double precision AS value
			FROM unnest(g.bounds, g.buckets) u (bound, n)
			UNION ALL VALUES ('_bucket', jsonb_build_object('le', '+Inf'), g.timed), ('_sum', '{}', g.seconds), ('_count', '{}', g.timed)
		) b
		UNION ALL
		SELECT 'tasker_handler_' || e.gauge, '', jsonb_build_object('handler', h.handler, 'namespace', h.namespace), e.value
		FROM handler h
		CROSS JOIN LATERAL (VALUES ('waiting_steps', h.waiting), ('waiting_seconds', h.waiting_seconds), ('executors', h.executors)) e (gauge, value)
		WHERE h.executors IS NOT NULL
		UNION ALL
		SELECT 'tasker_executors_' || v.gauge, '', '{}', v.value
		FROM (SELECT count(*) AS alive, coalesce(sum(e.capacity), 0) AS capacity, coalesce(sum(e.in_flight), 0) AS in_flight
			FROM tasker.stat_executors e WHERE e.ended_at IS NULL) e
		CROSS JOIN LATERAL (VALUES ('alive', e.alive), ('capacity', e.capacity), ('in_flight_steps', e.in_flight)) v (gauge, value)
		UNION ALL
		SELECT 'tasker_orchestrator_' || v.name, '', '{}', coalesce(v.value, 0)
		FROM tasker.stat_orchestrator o
		CROSS JOIN LATERAL (VALUES ('running', (o.status = 'running')::integer), ('holds_dispatch', (o.holds_dispatch IS NOT NULL)::integer),
			('batches_total', o.batches), ('log_rows_total', o.log_rows), ('claims_total', o.claims), ('notifications_total', o.notifications),
			('errors_total', o.errors), ('unread_rows', o.unread_rows), ('unread_seconds', o.unread_seconds), ('memory_bytes', o.memory_bytes),
			('set_aside', o.set_aside)) v (name, value)
		UNION ALL
		SELECT 'tasker_consumer_' || v.name, '', jsonb_build_object('consumer', c.name), v.value
		FROM tasker.stat_event_consumers c
		CROSS JOIN LATERAL (VALUES ('events_behind', c.events_behind), ('events_read_total', c.events_read),
			('read_seconds', greatest(extract(epoch FROM tasker.now() - coalesce(c.read_at, c.created_at)), 0)),
			('holds_history', c.holds_history::integer)) v (name, value)
		UNION ALL
		SELECT 'tasker_history_' || v.gauge, '', '{}', v.value
		FROM (SELECT count(*) AS partitions, sum(pg_total_relation_size(i.inhrelid)) AS bytes,
				(SELECT coalesce(max(extract(epoch FROM tasker.now() - p.closed_at)), 0) FROM tasker.history_periods p WHERE p.closed_at IS NOT NULL) AS oldest,
				extract(epoch FROM current_setting('tasker.retention')::interval) AS retention
			FROM pg_inherits i
			WHERE i.inhparent IN ('tasker.task_transition_log'::regclass, 'tasker.workflow_step_transition_log'::regclass)) h
		CROSS JOIN LATERAL (VALUES ('partitions', h.partitions), ('bytes', h.bytes), ('oldest_seconds', greatest(h.oldest, 0)),
			('retention_seconds', h.retention)) v (gauge, value)
	) s
	JOIN (VALUES
		('tasker_task_created_total', 'counter', 'Tasks created.'),
		('tasker_task_started_total', 'counter', 'Transitions of tasks to in_progress.'),
		('tasker_task_completed_total', 'counter', 'Transitions of tasks to complete.'),
		('tasker_task_failed_total', 'counter', 'Transitions of tasks to error.'),
		('tasker_task_cancelled_total', 'counter', 'Transitions of tasks to cancelled.'),
		('tasker_task_resolved_total', 'counter', 'Transitions of tasks to resolved_manually.'),
		('tasker_task_retried_total', 'counter', 'Transitions of tasks from error to pending.'),
		('tasker_task_duration_seconds', 'histogram', 'From the request of a task to its completion.'),
		('tasker_step_started_total', 'counter', 'Transitions of steps to in_progress: attempts.'),
		('tasker_step_completed_total', 'counter', 'Transitions of steps to complete.'),
		('tasker_step_failed_total', 'counter', 'Transitions of steps to error, lost attempts included.'),
		('tasker_step_cancelled_total', 'counter', 'Transitions of steps to cancelled.'),
		('tasker_step_resolved_total', 'counter', 'Transitions of steps to resolved_manually.'),
		('tasker_step_retried_total', 'counter', 'Transitions of steps from error to pending.'),
		('tasker_step_released_total', 'counter', 'Transitions of steps from in_progress to pending.'),
		('tasker_step_lost_total', 'counter', 'Attempts that ended without a report: the executor was lost, or time was out.'),
		('tasker_step_duration_seconds', 'histogram', 'From the claim of a step to the report of its executor.'),
		('tasker_latency_seconds', 'histogram', 'How long tasker itself takes, by stage: intake, dispatch, claim, execution, batch.'),
		('tasker_handler_waiting_steps', 'gauge', 'Ready steps that no executor has; 10001: more than 10000.'),
		('tasker_handler_waiting_seconds', 'gauge', 'For how long the one that has waited longest is ready, of those first in line.'),
		('tasker_handler_executors', 'gauge', 'Executors that can run the handler.'),
		('tasker_executors_alive', 'gauge', 'Executors that have not ended.'),
		('tasker_executors_capacity', 'gauge', 'Steps that can be pushed to them at once.'),
		('tasker_executors_in_flight_steps', 'gauge', 'Steps that they have.'),
		('tasker_orchestrator_running', 'gauge', 'Whether an orchestrator runs for the database.'),
		('tasker_orchestrator_holds_dispatch', 'gauge', 'Whether nothing is given out: everything is paused, or the database was restored.'),
		('tasker_orchestrator_batches_total', 'counter', 'Batches of the orchestrator.'),
		('tasker_orchestrator_log_rows_total', 'counter', 'Transitions that it has read.'),
		('tasker_orchestrator_claims_total', 'counter', 'Steps that it has given out.'),
		('tasker_orchestrator_notifications_total', 'counter', 'Notifications that it has sent.'),
		('tasker_orchestrator_errors_total', 'counter', 'Batches that have failed.'),
		('tasker_orchestrator_unread_rows', 'gauge', 'Committed transitions that no batch has read.'),
		('tasker_orchestrator_unread_seconds', 'gauge', 'For how long the oldest commit with news has been unread.'),
		('tasker_orchestrator_memory_bytes', 'gauge', 'What the process of the orchestrator has allocated.'),
		('tasker_orchestrator_set_aside', 'gauge', 'Tasks and steps that it could not process.'),
		('tasker_consumer_events_behind', 'gauge', 'Events that a consumer has not read; more than 10000 of a kind count as 10001.'),
		('tasker_consumer_events_read_total', 'counter', 'Events that a consumer has read.'),
		('tasker_consumer_read_seconds', 'gauge', 'Since a consumer has read for the last time.'),
		('tasker_consumer_holds_history', 'gauge', 'Whether retention waits for the consumer.'),
		('tasker_history_partitions', 'gauge', 'Partitions of the transition logs.'),
		('tasker_history_bytes', 'gauge', 'Size of the transition logs.'),
		('tasker_history_oldest_seconds', 'gauge', 'Since the end of the oldest period of the logs that is still there; 0: there is none but the current one.'),
		('tasker_history_retention_seconds', 'gauge', 'The setting tasker.retention; 0 keeps everything.')) d (family, type, help)
		ON d.family = s.family;
END;
COMMENT ON FUNCTION tasker.metric_samples() IS 'The rows of metrics.';

CREATE VIEW tasker.metrics AS
SELECT name, type, help, labels, value FROM tasker.metric_samples();
COMMENT ON VIEW tasker.metrics IS
'Metrics in the terms of Prometheus, one row for each sample. Counters and histograms are kept in shared memory and begin at zero when the server starts, or at reset_stats(), which rate() and increase() know how to take; they count what was committed. Costs what runs and waits now, not what the history holds. Without tasker in shared_preload_libraries only gauges tell something. For monitoring: grant_observer() without a namespace is enough.';
COMMENT ON COLUMN tasker.metrics.type IS 'counter, gauge or histogram.';
COMMENT ON COLUMN tasker.metrics.labels IS 'An object of strings: datname is the database, le the upper bound of a bucket.';

CREATE VIEW tasker.state_metrics AS
SELECT d.name, 'gauge' AS type, d.help, jsonb_build_object('datname', current_database(), 'state', d.state) AS labels, coalesce(n.value, 0)::double precision AS value
FROM (SELECT * FROM (VALUES ('tasker_tasks', 'Tasks by state.'), ('tasker_steps', 'Steps by state.')) m (name, help)
	CROSS JOIN unnest(enum_range(NULL::tasker.state)) s (state)) d
LEFT JOIN (
	SELECT 'tasker_tasks' AS name, t.state, count(*) AS value FROM tasker.tasks t GROUP BY t.state
	UNION ALL
	SELECT 'tasker_steps', w.state, count(*) FROM tasker.workflow_steps w GROUP BY w.state
) n ON n.name = d.name AND n.state = d.state;
COMMENT ON VIEW tasker.state_metrics IS
'Metrics as those of the view metrics: how many tasks and steps there are in each state. Reads all tasks and steps, one pass each, as system_health_counts() does, so not at every scrape.';

CREATE FUNCTION tasker.prometheus_metrics(with_states boolean DEFAULT false) RETURNS text
LANGUAGE sql VOLATILE PARALLEL RESTRICTED
SET extra_float_digits = 1
SET jit = off
BEGIN ATOMIC
	SELECT coalesce(string_agg(
		CASE WHEN s.place = 1 THEN format(E'# HELP %s %s\n# TYPE %1$s %3$s\n', s.family,
			replace(replace(s.help, '\', '\\'), E'\n', '\n'), s.type) ELSE '' END
		|| s.name || coalesce('{' || (
			SELECT string_agg(format('%s="%s"', l.key, replace(replace(replace(l.value, '\', '\\'), E'\n', '\n'), '"', '\"')), ',' ORDER BY l.key = 'le', l.key COLLATE "C")
			FROM jsonb_each_text(s.labels) l) || '}', '')
		|| ' ' || CASE s.value WHEN 'Infinity' THEN '+Inf' WHEN '-Infinity' THEN '-Inf' ELSE s.value::text END, E'\n'
		ORDER BY s.family COLLATE "C", s.place) || E'\n', '')
	FROM (
		SELECT m.*, row_number() OVER (PARTITION BY m.family
			ORDER BY (m.labels - 'le')::text COLLATE "C", m.name COLLATE "C" = m.family || '_count', m.name COLLATE "C" = m.family || '_sum',
				(m.labels ->> 'le')::double precision) AS place
		FROM (
			SELECT a.*, CASE a.type WHEN 'histogram' THEN regexp_replace(a.name, '_(bucket|sum|count)$', '') ELSE a.name END AS family
			FROM (SELECT * FROM tasker.metrics UNION ALL SELECT * FROM tasker.state_metrics WHERE with_states) a
		) m
	) s;
END;
COMMENT ON FUNCTION tasker.prometheus_metrics(boolean) IS
'The view metrics in the text format of Prometheus (version 0.0.4), to be served to a scrape as it is, in UTF-8; with_states: state_metrics as well, which reads all tasks and steps. Changes nothing. For monitoring: grant_observer() without a namespace is enough.';

CREATE OR REPLACE FUNCTION tasker.ended_attempts(since timestamptz)
RETURNS TABLE (workflow_step_id bigint, sort_key integer, state tasker.state, started_at timestamptz, ended_at timestamptz, metadata jsonb)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 10000
SET enable_seqscan = off
SET jit = off
BEGIN ATOMIC
	SELECT l.workflow_step_id, l.sort_key, l.to_state,
		(SELECT claim.created_at FROM tasker.workflow_step_transition_log claim
			WHERE claim.workflow_step_id = l.workflow_step_id AND claim.sort_key = l.sort_key - 10),
		l.created_at, CASE WHEN l.to_state = 'error' THEN l.metadata END
	FROM tasker.workflow_step_transition_log l
	WHERE l.created_at >= coalesce(since, '-infinity')
		AND l.from_state = 'in_progress' AND l.to_state IN ('complete', 'error')
		AND (l.metadata IS NULL OR NOT l.metadata ? 'waited');
END;
COMMENT ON FUNCTION tasker.ended_attempts(timestamptz) IS
'The attempts that were completed or failed since then (NULL: ever), with the time of their claim, and the metadata of those that failed; waits that have ended well are none. Read by the analytics.';

-- check(): every invariant, amcheck-style. Nothing comes back when all is well.
--
-- The function is STABLE, so all its queries see the one snapshot of the query
-- that calls it. That is what keeps it free of false alarms while everything
-- runs: a state, its log row and what the orchestrator drew from them are seen
-- together or not at all. Consequences that are still due, because the log rows
-- that they follow from lie beyond the orchestrator's position, are told apart
-- by task: such a task is left out of the checks of consequences.
CREATE OR REPLACE FUNCTION tasker.check()
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

-- What roles that are confined to namespaces see: row security on every table,
-- and views that look with the rights of whoever asks. The owner of the extension
-- is not subject to it, so nothing changes for functions that run as the owner.

DO $$
DECLARE
	item record;
BEGIN
	FOR item IN SELECT * FROM (VALUES
		('task_namespaces', 'task_namespace_id = ANY ((SELECT tasker.visible_namespaces())::integer[])'),
		('named_tasks', 'task_namespace_id = ANY ((SELECT tasker.visible_namespaces())::integer[])'),
		('tasks', 'task_namespace_id = ANY ((SELECT tasker.visible_namespaces())::integer[])'),
		('named_tasks_named_steps', 'tasker.sees_template(named_task_id)'),
		('named_step_edges', 'tasker.sees_template(named_task_id)'),
		('named_step_events', 'tasker.sees_template(named_task_id)'),
		('named_steps', $p$tasker.sees_name('named_step', named_step_id)$p$),
		('handlers', $p$tasker.sees_name('handler', handler_id)$p$),
		('custom_events', $p$tasker.sees_event('event', name)$p$),
		('annotation_types', $p$tasker.sees_name('annotation_type', annotation_type_id)$p$),
		('workflow_steps', 'tasker.sees_task(task_id)'),
		('task_annotations', 'tasker.sees_task(task_id)'),
		('task_reenqueues', 'tasker.sees_task(task_id)'),
		('task_transition_log', 'tasker.sees_task(task_id)'),
		('workflow_step_transition_log', 'tasker.sees_step(workflow_step_id)'),
		('work_queue', 'tasker.sees_step(workflow_step_id)'),
		('timers', 'tasker.sees_step(workflow_step_id)'),
		('step_waits', 'tasker.sees_step(workflow_step_id)'),
		('published_events', 'task_id IS NOT NULL AND tasker.sees_task(task_id)'),
		('executors', 'tasker.sees_role(role)'),
		('capability_grants', 'tasker.sees_role(role_name) OR task_namespace_id = ANY ((SELECT tasker.visible_namespaces())::integer[])'),
		-- These belong to no namespace.
		('dependent_systems', 'false'), ('dependent_system_object_maps', 'false'),
		('orchestrator_checkpoint', 'false'), ('history_periods', 'false'), ('log_marks', 'false'),
		('event_consumers', 'false'), ('task_schedules', 'false'), ('task_triggers', 'false')) p (relation, visible)
	LOOP
		EXECUTE format('ALTER TABLE tasker.%I ENABLE ROW LEVEL SECURITY', item.relation);
		EXECUTE format('CREATE POLICY tenants ON tasker.%I USING ((SELECT tasker.sees_everything()) OR %s)', item.relation, item.visible);
		EXECUTE format('COMMENT ON POLICY tenants ON tasker.%I IS %L', item.relation, 'Roles that are confined to namespaces see what is theirs; all others see everything.');
	END LOOP;
	PERFORM tasker.secure_partitions();
	FOR item IN
		SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'tasker'::regnamespace AND c.relkind = 'v'
	LOOP
		EXECUTE format('ALTER VIEW tasker.%I SET (security_invoker = true)', item.relname);
	END LOOP;
END
$$;

-- What pg_dump keeps, too; what is registered is left alone, retention may have dropped some of it.
SELECT pg_catalog.pg_extension_config_dump('tasker.capability_grants', '');
SELECT pg_catalog.pg_extension_config_dump('tasker.event_consumers', '');
SELECT pg_catalog.pg_extension_config_dump('tasker.published_events', '');
SELECT pg_catalog.pg_extension_config_dump('tasker.published_events_event_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('tasker.step_waits', '');
SELECT pg_catalog.pg_extension_config_dump('tasker.task_schedules', '');

SELECT pg_catalog.pg_extension_config_dump('tasker.task_triggers', '');

-- Nothing new is reachable by PUBLIC.
REVOKE ALL ON TABLE tasker.capability_grants, tasker.capability_privileges, tasker.event_consumers, tasker.events, tasker.home, tasker.log_marks,
	tasker.metrics, tasker.published_events, tasker.role_grants, tasker.stat_event_consumers, tasker.stat_handlers, tasker.stat_latencies,
	tasker.stat_tasks, tasker.state_metrics, tasker.task_schedules, tasker.task_triggers,
	tasker.step_waits, tasker.waiting_steps FROM PUBLIC;
REVOKE ALL ON SEQUENCE tasker.log_marks_mark_id_seq, tasker.published_events_event_id_seq FROM PUBLIC;
REVOKE ALL ON ROUTINE tasker.announce_events(integer), tasker.apply_grants(text), tasker.create_event_consumer(text, text[], boolean),
	tasker.create_requested_task(jsonb), tasker.create_triggered_tasks(jsonb), tasker.drop_task_trigger(text), tasker.react_to_events(integer),
	tasker.start_task_on_event(text, text, jsonb, jsonb, jsonb), tasker.custom_event_payload(tasker.published_events),
	tasker.drop_event_consumer(text), tasker.first_event(text, jsonb, bigint, timestamp with time zone, integer[]),
	tasker.has_all(jsonb, jsonb), tasker.received_event(text, text, timestamp with time zone, jsonb),
	tasker.resolve_wait(jsonb, jsonb, bigint, timestamp with time zone),
	tasker.handler_status(), tasker.metric_samples(), tasker.steps_in_flight(),
	tasker.ensure_template_handlers(integer, text[]), tasker.event_payload_keys(), tasker.event_payload_schema(text), tasker.executor_measures(),
	tasker.grant_admin(text, text), tasker.grant_executor(text, text), tasker.grant_observer(text, text), tasker.grant_operator(text, text),
	tasker.grant_producer(text, text), tasker.handler_scope(integer), tasker.handlers_of_role(text, text[]), tasker.isolate_namespace(integer),
	tasker.latency_buckets(), tasker.live_executors(integer), tasker.namespaces_of_role(text, text),
	tasker.next_cron_time(text, timestamp with time zone, text), tasker.orchestrator_measures(), tasker.otlp_attributes(jsonb), tasker.otlp_spans(bigint[]), tasker.position_read_by_consumers(),
	tasker.prometheus_metrics(boolean), tasker.publish_event(text, jsonb, bigint, bigint), tasker.read_events(text, integer), tasker.refresh_executors(), tasker.reset_stats(),
	tasker.revoke_role(text, text, text), tasker.schedule_task(text, text, jsonb, text, text), tasker.secure_partitions(),
	tasker.sees_event(text, text), tasker.sees_everything(), tasker.sees_name(text, integer), tasker.sees_role(text), tasker.sees_step(bigint),
	tasker.sees_task(bigint), tasker.sees_template(integer), tasker.set_event_schema(text, jsonb), tasker.small_json(jsonb), tasker.span_id(bigint, text, bigint, integer),
	tasker.start_scheduled_tasks(integer), tasker.step_event_payload(tasker.workflow_step_transition_log), tasker.step_traceparent(bigint, integer), tasker.subscribe(text[], text),
	tasker.task_event_payload(tasker.task_transition_log), tasker.task_spans(bigint), tasker.time_of_day(timestamp with time zone),
	tasker.trace_flags(text), tasker.trace_id(bigint, bigint, text), tasker.unix_nanoseconds(timestamptz),
	tasker.transition_counts(), tasker.transition_event(text, tasker.state, tasker.state), tasker.unschedule_task(text), tasker.unsubscribe(text), tasker.visible_namespaces(),
	tasker.waiting_seconds(integer), tasker.why(bigint), tasker.why_locked(bigint), tasker.why_nothing_moves(integer), tasker.why_steps(bigint), tasker.would_confine(text),
	tasker.write_grant(text, text, text, text, boolean), tasker.write_object_map(text, text, text, text),
	tasker.write_revocation(text, text, text) FROM PUBLIC;
-- But for what row security asks on behalf of whoever reads a table (access.sql).
GRANT EXECUTE ON FUNCTION tasker.sees_everything(), tasker.visible_namespaces(), tasker.sees_template(integer), tasker.sees_task(bigint),
	tasker.sees_step(bigint), tasker.sees_role(text), tasker.sees_name(text, integer), tasker.sees_event(text, text) TO PUBLIC;

-- What is new and read by a view or function that was there may be read by those
-- who may read that, so that whoever could go on before can now. A dump must
-- have these grants: they are not the script's own.
DO $$
DECLARE
	item record;
	granted record;
	from_script aclitem[];
BEGIN
	FOR item IN
		SELECT n.name, n.is_routine, CASE WHEN n.is_routine THEN 'pg_proc'::regclass ELSE 'pg_class'::regclass END AS catalog, o.oid, n.readers
		FROM (VALUES
			('orchestrator_measures', true, ARRAY['orchestrator_status']), ('latency_buckets', true, ARRAY['orchestrator_status']),
			('executor_measures', true, ARRAY['stat_executors']),
			('steps_in_flight', true, ARRAY['stat_executors']),
			('event_payload_schema', true, ARRAY['event_definitions']), ('event_payload_keys', true, ARRAY['event_definitions']),
			('position_read_by_consumers', true, ARRAY['stat_history']), ('event_consumers', false, ARRAY['stat_history']),
			('home', false, ARRAY['stat_orchestrator', 'stat_history', 'check']), ('step_waits', false, ARRAY['check'])) n (name, is_routine, readers)
		CROSS JOIN LATERAL (
			SELECT p.oid FROM pg_proc p WHERE n.is_routine AND p.pronamespace = 'tasker'::regnamespace AND p.proname = n.name
			UNION ALL
			SELECT c.oid FROM pg_class c WHERE NOT n.is_routine AND c.relnamespace = 'tasker'::regnamespace AND c.relname = n.name) o
	LOOP
		from_script := (SELECT i.initprivs FROM pg_init_privs i WHERE i.classoid = item.catalog AND i.objoid = item.oid AND i.objsubid = 0);
		FOR granted IN
			SELECT a.grantee, pg_get_userbyid(a.grantee) AS role_name, bool_or(a.is_grantable) AS is_grantable
			FROM (SELECT p.proname AS name, p.proowner AS owner, p.proacl AS acl FROM pg_proc p WHERE p.pronamespace = 'tasker'::regnamespace
				UNION ALL
				SELECT c.relname, c.relowner, c.relacl FROM pg_class c WHERE c.relnamespace = 'tasker'::regnamespace) r
			CROSS JOIN LATERAL aclexplode(r.acl) a
			WHERE r.name = ANY (item.readers) AND a.grantee <> r.owner AND a.privilege_type IN ('SELECT', 'EXECUTE')
			GROUP BY a.grantee
		LOOP
			EXECUTE format('GRANT ' || CASE WHEN item.is_routine THEN 'EXECUTE ON ROUTINE' ELSE 'SELECT ON TABLE' END || ' tasker.%I TO '
				|| CASE granted.grantee WHEN 0 THEN 'PUBLIC' ELSE '%I' END || CASE WHEN granted.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END,
				item.name, granted.role_name);
		END LOOP;
		UPDATE pg_init_privs SET initprivs = from_script WHERE classoid = item.catalog AND objoid = item.oid AND objsubid = 0;
		-- From PostgreSQL 17 on it is noted who is named there.
		DELETE FROM pg_shdepend WHERE dbid = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
			AND classid = item.catalog AND objid = item.oid AND deptype = 'i';
	END LOOP;
END
$$;

-- Every session notices: it looks up the version and its plans again.
ALTER TABLE tasker.named_tasks ALTER COLUMN name SET STATISTICS -1;
