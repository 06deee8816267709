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
-- It has no primary key: without this, revoking would fail where somebody publishes all tables.
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
