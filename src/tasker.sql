-- The install script is made of the .sql files under src/, in the order that
-- the Makefile names them; this one comes first.
\echo Use "CREATE EXTENSION tasker" to load this file. \quit

-- Every name below is spelled with its schema; operators and built-in types
-- can only mean PostgreSQL's own.
SET LOCAL search_path = pg_catalog, pg_temp;

-- Who owns the schema, or may create in it, or was there before, could put a
-- function beside ours that suits a call better: then nothing is installed.
DO $$
BEGIN
	IF EXISTS (SELECT FROM pg_namespace n
		WHERE n.nspname = 'tasker' AND (n.nspowner <> current_user::regrole
				AND NOT (SELECT r.rolsuper FROM pg_roles r WHERE r.oid = n.nspowner)
			OR EXISTS (SELECT FROM aclexplode(n.nspacl) a WHERE a.grantee <> n.nspowner AND a.privilege_type = 'CREATE')
			OR EXISTS (SELECT FROM pg_depend d WHERE d.refclassid = 'pg_namespace'::regclass AND d.refobjid = n.oid
				AND d.classid <> 'pg_extension'::regclass)))
	THEN
		RAISE EXCEPTION 'schema tasker is not ours alone' USING ERRCODE = 'object_not_in_prerequisite_state',
			DETAIL = 'It belongs to a role that is no superuser, others may create in it, or there is something in it.',
			HINT = 'Look who has made it, and drop it.';
	END IF;
END
$$;

COMMENT ON SCHEMA tasker IS
'Durable workflow orchestration: task templates, tasks, steps, their transition logs, and the functions that move them.';
