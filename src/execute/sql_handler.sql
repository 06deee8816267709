-- Steps whose handler is a SQL function.

CREATE FUNCTION tasker.execute_step(step_id bigint) RETURNS tasker.state
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_execute_step';
COMMENT ON FUNCTION tasker.execute_step(bigint) IS
'Claims a step whose handler_class is a SQL function, named with its schema, f(tasker.claimed_step) RETURNS jsonb; runs it here and now as the owner of the template, with search_path = pg_catalog, pg_temp; completes the step with what it returns, or fails it with what it raises, and gives the state. What a failing function has written is undone. It raises TK005 for a failure that no retry can help, TK006 with a number of seconds as DETAIL for a retry after these. NULL where the step may not run now (see claim_step). All in the caller''s transaction: the step is locked until its end. Errors: 42704 unknown step; 22023, 42883, 42809, 42501 the handler is not such a function, or not to be executed by the owner.';
