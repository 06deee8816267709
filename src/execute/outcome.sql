-- How a claimed step ended. Each function touches only the steps it is given
-- and their log, so that outcomes never wait for each other. The claim number
-- is the fencing token; with executor_id the step must also be that
-- executor's. Reporting the same outcome again is a success that changes
-- nothing.

CREATE FUNCTION tasker.complete_step(step_id bigint, claim integer, results jsonb DEFAULT '{}', executor_id bigint DEFAULT NULL) RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_complete_step';
COMMENT ON FUNCTION tasker.complete_step(bigint, integer, jsonb, bigint) IS
'Reports that the attempt made under this claim has succeeded. True if this call completed the step, false if the same claim completed it before. Errors: 42704 unknown step; TK001 the claim is stale: the step was given to another, cancelled or settled meanwhile, and nothing changes; 54000 results of more than 64 MB.';

CREATE FUNCTION tasker.complete_steps(step_ids bigint[], claims integer[], results jsonb[] DEFAULT NULL, executor_id bigint DEFAULT NULL, skip_stale boolean DEFAULT false) RETURNS bigint[]
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_complete_steps';
COMMENT ON FUNCTION tasker.complete_steps(bigint[], integer[], jsonb[], bigint, boolean) IS
'complete_step for arrays of equal length, of 100 000 steps at most. One stale claim refuses all (TK001), unless skip_stale: then the ids that were refused are returned, an empty array where none was.';

CREATE FUNCTION tasker.fail_step(step_id bigint, claim integer, error text, error_class text DEFAULT NULL, retryable boolean DEFAULT true, retry_after_seconds integer DEFAULT NULL, executor_id bigint DEFAULT NULL) RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_fail_step';
COMMENT ON FUNCTION tasker.fail_step(bigint, integer, text, text, boolean, integer, bigint) IS
'Reports that the attempt made under this claim has failed. Where attempts remain the step runs again after retry_after_seconds if given, else after its backoff; retryable false makes the failure final. Of an error (a backtrace, say) 64 kB are kept in the results and 1 kB in the log, of its class 512 bytes; what is longer is cut and says so. True and false as for complete_step. Errors: 42704, TK001 as for complete_step; 22023 bad argument.';

CREATE FUNCTION tasker.fail_steps(step_ids bigint[], claims integer[], errors text[], error_classes text[] DEFAULT NULL, retryable boolean[] DEFAULT NULL, retry_after_seconds integer[] DEFAULT NULL, executor_id bigint DEFAULT NULL, skip_stale boolean DEFAULT false) RETURNS bigint[]
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_fail_steps';
COMMENT ON FUNCTION tasker.fail_steps(bigint[], integer[], text[], text[], boolean[], integer[], bigint, boolean) IS
'fail_step for arrays of equal length; stale claims as in complete_steps.';

CREATE FUNCTION tasker.release_step(step_id bigint, claim integer, executor_id bigint DEFAULT NULL) RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_release_step';
COMMENT ON FUNCTION tasker.release_step(bigint, integer, bigint) IS
'Gives a claimed step back unstarted: it goes to pending and the attempt does not count. True and false, and errors, as for complete_step.';

CREATE FUNCTION tasker.release_steps(step_ids bigint[], claims integer[], executor_id bigint DEFAULT NULL, skip_stale boolean DEFAULT false) RETURNS bigint[]
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_release_steps';
COMMENT ON FUNCTION tasker.release_steps(bigint[], integer[], bigint, boolean) IS
'release_step for arrays of equal length; stale claims as in complete_steps.';
