-- What may be changed of a task and a step by hand. No state changes by it, so
-- it is no transition; each change is noted as an annotation of type update.

CREATE FUNCTION tasker.update_task(task_id bigint, reason text DEFAULT NULL, tags text[] DEFAULT NULL) RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_update_task';
COMMENT ON FUNCTION tasker.update_task(bigint, text, text[]) IS
'Changes the reason and the tags of a task in whatever state; NULL leaves one as it is. What changed, from and to, is kept as an annotation of type update. Its identity key stays, though it may have been made of the reason. True if anything changed. Locks the task row. Errors: 42704 unknown task; 22023 a reason of more than 128 characters; 22004 a null task_id or tag.';

CREATE FUNCTION tasker.update_step(step_id bigint, retry_limit integer DEFAULT NULL, inputs jsonb DEFAULT NULL) RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_update_step';
COMMENT ON FUNCTION tasker.update_step(bigint, integer, jsonb) IS
'Changes the retry limit of a step that is pending, in progress or waiting for its next attempt, and the inputs of one that is pending or in error: the next attempt has them. NULL leaves one as it is. inputs is a JSON object that is laid over the context of the task; an empty one means the context alone. What changed, from and to, is kept as an annotation of type update on its task. True if anything changed. A step in error that has no attempt left is not started by a higher limit: call retry_step, then this. Locks the task row FOR KEY SHARE, then the step. Errors: 42704 unknown step; 55000 the state of the step does not allow it; 22023 inputs not an object, retry_limit not from 0 to 10000 or less than the attempts already made allow; 22004 a null step_id.';
