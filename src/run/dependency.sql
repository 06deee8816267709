-- What a step depends on, what depends on it, and who stands beside it.

CREATE FUNCTION tasker.step_transitive_dependencies(step_id bigint)
RETURNS TABLE (workflow_step_id bigint, step_name text, state tasker.state, distance integer, results jsonb)
LANGUAGE c STABLE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'tasker_step_transitive_dependencies';
COMMENT ON FUNCTION tasker.step_transitive_dependencies(bigint) IS
'Every step that this one depends on, directly or not, once, with its results: nearest first, distance (1 for a parent) along the shortest way. For executors that need results from further up than dependency_results; needs no privilege on tables. Costs what it returns. Error: 42704 unknown step.';

CREATE FUNCTION tasker.step_transitive_dependents(step_id bigint)
RETURNS TABLE (workflow_step_id bigint, step_name text, state tasker.state, distance integer, results jsonb)
LANGUAGE c STABLE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'tasker_step_transitive_dependents';
COMMENT ON FUNCTION tasker.step_transitive_dependents(bigint) IS
'Every step that depends on this one, directly or not, once: what it holds up while it is not finished. As step_transitive_dependencies.';

CREATE FUNCTION tasker.step_siblings(step_id bigint)
RETURNS TABLE (workflow_step_id bigint, step_name text, state tasker.state)
LANGUAGE c STABLE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'tasker_step_siblings';
COMMENT ON FUNCTION tasker.step_siblings(bigint) IS
'The other steps of the task that have exactly the same parents, in the order of their ids; none for a root, which has no parents to share. Error: 42704 unknown step.';
