-- The install script of the test kit is made of the .sql files under testing/,
-- in the order that the Makefile names them; this one comes first.
\echo Use "CREATE EXTENSION tasker_testing" to load this file. \quit

SET LOCAL search_path = pg_catalog, pg_temp;

-- As in tasker itself.
DO $$
BEGIN
	IF EXISTS (SELECT FROM pg_namespace n
		WHERE n.nspname = 'tasker_testing' AND (n.nspowner <> current_user::regrole
				AND NOT (SELECT r.rolsuper FROM pg_roles r WHERE r.oid = n.nspowner)
			OR EXISTS (SELECT FROM aclexplode(n.nspacl) a WHERE a.grantee <> n.nspowner AND a.privilege_type = 'CREATE')
			OR EXISTS (SELECT FROM pg_depend d WHERE d.refclassid = 'pg_namespace'::regclass AND d.refobjid = n.oid
				AND d.classid <> 'pg_extension'::regclass)))
	THEN
		RAISE EXCEPTION 'schema tasker_testing is not ours alone' USING ERRCODE = 'object_not_in_prerequisite_state',
			DETAIL = 'It belongs to a role that is no superuser, others may create in it, or there is something in it.',
			HINT = 'Look who has made it, and drop it.';
	END IF;
END
$$;

COMMENT ON SCHEMA tasker_testing IS
'For those who write workflows: run and test them inside one transaction that is rolled back. Never needed in production.';
