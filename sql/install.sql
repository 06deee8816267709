-- What CREATE EXTENSION leaves in the database: documented, closed to the
-- public, complete for pg_dump, and nothing of it outside of the schema.
SELECT e.extname, n.nspname, e.extrelocatable, e.extversion = a.default_version AS newest
FROM pg_extension e
JOIN pg_namespace n ON n.oid = e.extnamespace
JOIN pg_available_extensions a ON a.name = e.extname
WHERE e.extname = 'tasker';

-- ---------- where things are ----------

-- Members of the extension outside of its schema: none.
SELECT i.type, i.identity
FROM pg_depend d
JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
CROSS JOIN LATERAL pg_identify_object(d.classid, d.objid, d.objsubid) i
WHERE d.deptype = 'e' AND e.extname = 'tasker'
	AND i.schema IS DISTINCT FROM 'tasker'
	AND NOT (d.classid = 'pg_namespace'::regclass AND i.name = 'tasker')
ORDER BY 1, 2;

-- Relations and routines in the schema that the extension does not own: none.
SELECT i.type, i.identity
FROM (
	SELECT 'pg_class'::regclass AS classid, oid AS objid FROM pg_class
	WHERE relnamespace = 'tasker'::regnamespace AND relkind IN ('r', 'v', 'm', 'p', 'f')
	UNION ALL
	SELECT 'pg_proc'::regclass, oid FROM pg_proc WHERE pronamespace = 'tasker'::regnamespace
) o
CROSS JOIN LATERAL pg_identify_object(o.classid, o.objid, 0) i
WHERE NOT EXISTS (SELECT FROM pg_depend d
	WHERE d.classid = o.classid AND d.objid = o.objid AND d.deptype = 'e')
ORDER BY 1, 2;

-- ---------- documentation ----------

-- Functions, tables, views and types without a comment: none. An index that
-- enforces nothing must say which query it is for.
SELECT what, name
FROM (
	SELECT CASE p.prokind WHEN 'p' THEN 'procedure' ELSE 'function' END AS what,
		p.oid::regprocedure::text AS name, obj_description(p.oid, 'pg_proc') AS comment
	FROM pg_proc p
	WHERE p.pronamespace = 'tasker'::regnamespace
	UNION ALL
	SELECT CASE c.relkind WHEN 'r' THEN 'table' WHEN 'v' THEN 'view' ELSE 'relation' END,
		c.oid::regclass::text, obj_description(c.oid, 'pg_class')
	FROM pg_class c
	WHERE c.relnamespace = 'tasker'::regnamespace AND c.relkind NOT IN ('i', 'I', 'S', 'c', 't')
	UNION ALL
	SELECT 'type', t.oid::regtype::text, obj_description(t.oid, 'pg_type')
	FROM pg_type t
	LEFT JOIN pg_class c ON c.oid = t.typrelid
	WHERE t.typnamespace = 'tasker'::regnamespace
		AND (t.typtype IN ('e', 'd', 'r') OR c.relkind = 'c' OR (t.typtype = 'b' AND t.typelem = 0))
	UNION ALL
	SELECT 'index', i.indexrelid::regclass::text, obj_description(i.indexrelid, 'pg_class')
	FROM pg_index i
	JOIN pg_class c ON c.oid = i.indexrelid
	WHERE c.relnamespace = 'tasker'::regnamespace
		AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid)
	UNION ALL
	SELECT 'schema', 'tasker', obj_description('tasker'::regnamespace, 'pg_namespace')
) o
WHERE coalesce(length(comment), 0) < 20
ORDER BY 1, 2;

-- ---------- who may do what ----------

-- What PUBLIC may touch: what row security asks on behalf of whoever reads a table, and nothing else.
SELECT what, name, privilege_type
FROM (
	SELECT 'schema' AS what, n.nspname::text AS name, coalesce(n.nspacl, acldefault('n', n.nspowner)) AS acl
	FROM pg_namespace n WHERE n.nspname = 'tasker'
	UNION ALL
	SELECT 'relation', c.oid::regclass::text,
		coalesce(c.relacl, acldefault(CASE c.relkind WHEN 'S' THEN 's'::"char" ELSE 'r' END, c.relowner))
	FROM pg_class c WHERE c.relnamespace = 'tasker'::regnamespace AND c.relkind IN ('r', 'v', 'm', 'p', 'f', 'S')
	UNION ALL
	SELECT 'column', a.attrelid::regclass || '.' || a.attname, a.attacl
	FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
	WHERE c.relnamespace = 'tasker'::regnamespace AND a.attacl IS NOT NULL
	UNION ALL
	SELECT 'routine', p.oid::regprocedure::text, coalesce(p.proacl, acldefault('f', p.proowner))
	FROM pg_proc p WHERE p.pronamespace = 'tasker'::regnamespace
) o
CROSS JOIN LATERAL aclexplode(o.acl) x
WHERE x.grantee = 0
ORDER BY 1, 2, 3;

-- So a role that was granted nothing cannot even look.
CREATE ROLE regress_tasker_install;
\set VERBOSITY terse
SET ROLE regress_tasker_install;
SELECT tasker.now();
SELECT count(*) FROM tasker.tasks;
RESET ROLE;
DROP ROLE regress_tasker_install;

-- Routines with the rights of their owner, or with a body of text, whose names
-- would be looked up in the search_path of the caller: none.
SELECT p.oid::regprocedure AS routine, p.prosecdef
FROM pg_proc p
JOIN pg_language l ON l.oid = p.prolang
WHERE p.pronamespace = 'tasker'::regnamespace
	AND (p.prosecdef OR (l.lanname NOT IN ('c', 'internal') AND p.prosqlbody IS NULL))
	AND NOT EXISTS (SELECT FROM unnest(p.proconfig) setting WHERE setting LIKE 'search\_path=pg\_catalog%')
ORDER BY 1;

-- ---------- pg_dump ----------

-- Tables and sequences that a dump leaves out: only those that are rebuilt
-- from the others.
SELECT c.relname
FROM pg_class c
WHERE c.relnamespace = 'tasker'::regnamespace AND c.relkind IN ('r', 'p', 'S')
	AND NOT EXISTS (SELECT FROM pg_extension e WHERE e.extname = 'tasker' AND c.oid = ANY (e.extconfig))
ORDER BY 1;

-- Tables of which it leaves out rows: none.
SELECT config::regclass, condition
FROM pg_extension e
CROSS JOIN LATERAL ROWS FROM (unnest(e.extconfig), unnest(e.extcondition)) u (config, condition)
WHERE e.extname = 'tasker' AND condition <> ''
ORDER BY 1;

-- Columns that could name a process or an object of one server: none.
SELECT c.relname, a.attname, a.atttypid::regtype
FROM pg_attribute a
JOIN pg_class c ON c.oid = a.attrelid
WHERE c.relnamespace = 'tasker'::regnamespace AND c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped
	AND (a.atttypid = ANY ('{oid,regclass,regproc,regprocedure,regrole,regnamespace,regtype}'::regtype[])
		OR a.attname ~ '(^|_)(pid|oid)($|_)')
ORDER BY 1, 2;

-- ---------- states ----------

SELECT enum_range(NULL::tasker.state);
SELECT * FROM tasker.allowed_transitions ORDER BY owner, from_state NULLS FIRST, to_state;

-- ---------- the logs are insert-only ----------

-- Refused whether or not a row is concerned, and for the superuser, too.
\set VERBOSITY default
\set SHOW_CONTEXT never
UPDATE tasker.task_transition_log SET role = 'nobody' WHERE false;
\echo :LAST_ERROR_SQLSTATE
\set VERBOSITY terse
DELETE FROM tasker.task_transition_log;
\echo :LAST_ERROR_SQLSTATE
TRUNCATE tasker.task_transition_log;
\echo :LAST_ERROR_SQLSTATE
-- (uniqueness is the partitions')
INSERT INTO tasker.task_transition_log (task_id, sort_key, to_state, created_at, role)
VALUES (0, 10, 'pending', tasker.now(), 'nobody')
ON CONFLICT (task_id, sort_key) DO UPDATE SET role = 'nobody';
\echo :LAST_ERROR_SQLSTATE
INSERT INTO tasker.task_transition_log_p0 (task_id, sort_key, to_state, created_at, role)
VALUES (0, 10, 'pending', tasker.now(), 'nobody')
ON CONFLICT (task_id, sort_key) DO UPDATE SET role = 'nobody';
\echo :LAST_ERROR_SQLSTATE
UPDATE tasker.workflow_step_transition_log SET role = 'nobody' WHERE false;
\echo :LAST_ERROR_SQLSTATE
DELETE FROM tasker.workflow_step_transition_log;
\echo :LAST_ERROR_SQLSTATE
TRUNCATE tasker.workflow_step_transition_log;
\echo :LAST_ERROR_SQLSTATE
TRUNCATE tasker.tasks, tasker.workflow_steps, tasker.task_annotations, tasker.task_transition_log, tasker.workflow_step_transition_log;
\echo :LAST_ERROR_SQLSTATE
-- Nor by the back door: each partition refuses by itself.
UPDATE tasker.task_transition_log_p1 SET role = 'nobody' WHERE false;
\echo :LAST_ERROR_SQLSTATE
DELETE FROM tasker.workflow_step_transition_log_p0;
\echo :LAST_ERROR_SQLSTATE
TRUNCATE tasker.workflow_step_transition_log_p0;
\echo :LAST_ERROR_SQLSTATE

SELECT * FROM tasker.check();
