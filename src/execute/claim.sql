-- Giving ready steps to executors.

CREATE TYPE tasker.claimed_step AS (
	workflow_step_id bigint, claim integer, attempt integer, task_id bigint,
	task_name text, step_name text, handler text, handler_config jsonb,
	inputs jsonb, dependency_results jsonb);
COMMENT ON TYPE tasker.claimed_step IS
'What an executor needs to run a step: the claim number it reports with, the task''s context with the step''s own inputs over it, and the results of the direct parents by step name: NULL where they have more than 64 MB together, then step_transitive_dependencies() gives them.';

CREATE FUNCTION tasker.claim_steps(executor_id bigint, max integer DEFAULT 1) RETURNS SETOF tasker.claimed_step
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_claim_steps';
COMMENT ON FUNCTION tasker.claim_steps(bigint, integer) IS
'Claims up to max ready steps for an executor, by priority, then oldest first; none waiting gives no row. Never waits for another claimer. Errors: 42704 unknown executor; 55000 the executor has ended; 22023 max is not 1 to 10000.';

CREATE FUNCTION tasker.claim_step(executor_id bigint, step_id bigint) RETURNS SETOF tasker.claimed_step
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_claim_step';
COMMENT ON FUNCTION tasker.claim_step(bigint, bigint) IS
'Claims one step, whatever its handler, if it may run now: pending, its parents finished, its task open and not paused, and its turn where the task runs one step at a time; else gives no row. For coordinators, which find the steps of a task by find_viable_steps. executor_id NULL: the claim is the session''s own; only report its outcome in the same transaction, for nobody notices if that does not happen. Waits for whoever holds the step''s row, and the task''s where a coordinator runs it one step at a time. Errors: 42704 unknown step or executor; 55000 the executor has ended.';

CREATE FUNCTION tasker.my_steps(executor_id bigint) RETURNS SETOF tasker.claimed_step
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_my_steps';
COMMENT ON FUNCTION tasker.my_steps(bigint) IS
'The steps that an executor has now: what a missed notification said is found again here. Error: 42704 unknown executor.';
