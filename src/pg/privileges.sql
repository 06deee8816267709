-- Nothing is reachable by PUBLIC; an administrator grants what each role needs.
REVOKE ALL ON SCHEMA tasker FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA tasker FROM PUBLIC;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA tasker FROM PUBLIC;
REVOKE ALL ON ALL ROUTINES IN SCHEMA tasker FROM PUBLIC;
-- But for what row security asks on behalf of whoever reads a table (access.sql).
GRANT EXECUTE ON FUNCTION tasker.sees_everything(), tasker.visible_namespaces(), tasker.sees_template(integer), tasker.sees_task(bigint),
	tasker.sees_step(bigint), tasker.sees_role(text), tasker.sees_name(text, integer), tasker.sees_event(text, text) TO PUBLIC;
