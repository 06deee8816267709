-- The logs: what happened. Every change of state appends one row, in the
-- transaction that makes it; a row never changes afterwards.

CREATE TABLE tasker.task_transition_log (
	task_id bigint NOT NULL,
	sort_key integer NOT NULL,
	from_state tasker.state,
	to_state tasker.state NOT NULL,
	created_at timestamptz NOT NULL,
	xact_id xid8 NOT NULL DEFAULT pg_current_xact_id(),
	executor_id bigint,
	role text NOT NULL,
	metadata jsonb,
	PRIMARY KEY (task_id, sort_key)
) WITH (autovacuum_vacuum_insert_scale_factor = 0.05);
COMMENT ON TABLE tasker.task_transition_log IS
'Every change of state of every task, oldest first by sort_key (10, 20, ...). Insert-only. The first row of a task has no from_state: its creation.';
COMMENT ON COLUMN tasker.task_transition_log.xact_id IS 'The transaction that made the change: readers of the log resume from a snapshot of these.';
CREATE INDEX task_transition_log_by_transaction ON tasker.task_transition_log (xact_id);
COMMENT ON INDEX tasker.task_transition_log_by_transaction IS 'Serves the readers of the log: what is new since a position.';

CREATE TABLE tasker.workflow_step_transition_log (
	workflow_step_id bigint NOT NULL,
	sort_key integer NOT NULL,
	from_state tasker.state NOT NULL,
	to_state tasker.state NOT NULL,
	created_at timestamptz NOT NULL,
	xact_id xid8 NOT NULL DEFAULT pg_current_xact_id(),
	executor_id bigint,
	role text NOT NULL,
	metadata jsonb,
	PRIMARY KEY (workflow_step_id, sort_key)
) WITH (autovacuum_vacuum_insert_scale_factor = 0.05);
COMMENT ON TABLE tasker.workflow_step_transition_log IS
'Every change of state of every step, oldest first by sort_key (10, 20, ...). Insert-only. A step without a row is pending.';
COMMENT ON COLUMN tasker.workflow_step_transition_log.executor_id IS 'The executor that the step was claimed for, or that reported.';
CREATE INDEX workflow_step_transition_log_by_transaction ON tasker.workflow_step_transition_log (xact_id);
COMMENT ON INDEX tasker.workflow_step_transition_log_by_transaction IS 'Serves the readers of the log: what is new since a position.';

CREATE FUNCTION tasker.refuse_log_change() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RAISE EXCEPTION '% on tasker.% is not allowed', TG_OP, TG_TABLE_NAME
		USING ERRCODE = 'TK004',
			DETAIL = 'The transition logs are insert-only: they are the audit trail and the event bus.',
			HINT = 'To change a state, use the functions of tasker; history is removed by retention only.';
END
$$;
COMMENT ON FUNCTION tasker.refuse_log_change() IS 'Trigger that keeps the transition logs insert-only.';

CREATE TRIGGER insert_only BEFORE UPDATE OR DELETE OR TRUNCATE ON tasker.task_transition_log
	FOR EACH STATEMENT EXECUTE FUNCTION tasker.refuse_log_change();
CREATE TRIGGER insert_only BEFORE UPDATE OR DELETE OR TRUNCATE ON tasker.workflow_step_transition_log
	FOR EACH STATEMENT EXECUTE FUNCTION tasker.refuse_log_change();

CREATE VIEW tasker.task_transitions AS
SELECT l.task_id, l.sort_key, l.from_state, l.to_state, l.sort_key = t.sort_key AS most_recent,
	coalesce(l.metadata, '{}') AS metadata, l.created_at, l.xact_id, l.role, l.executor_id
FROM tasker.task_transition_log l
JOIN tasker.tasks t USING (task_id);
COMMENT ON VIEW tasker.task_transitions IS
'The log of the tasks. most_recent is true for exactly one row of each task, by construction: the row that tasks.sort_key names.';

CREATE VIEW tasker.workflow_step_transitions AS
SELECT l.workflow_step_id, l.sort_key, l.from_state, l.to_state, l.sort_key = s.sort_key AS most_recent,
	coalesce(l.metadata, '{}') AS metadata, l.created_at, l.xact_id, l.role, l.executor_id
FROM tasker.workflow_step_transition_log l
JOIN tasker.workflow_steps s USING (workflow_step_id);
COMMENT ON VIEW tasker.workflow_step_transitions IS
'The log of the steps. most_recent is true for exactly one row of each step that has any, by construction: the row that workflow_steps.sort_key names.';

CREATE FUNCTION tasker.transition_task(task_id bigint, to_state tasker.state, metadata jsonb DEFAULT '{}') RETURNS integer
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_transition_task';
COMMENT ON FUNCTION tasker.transition_task(bigint, tasker.state, jsonb) IS
'Moves a task to a state and returns the sort_key of the transition. Errors: 42704 unknown task; TK002 the transition is not legal, the task is in that state already, or a guard refuses (complete needs every step complete or resolved).';
CREATE FUNCTION tasker.transition_step(step_id bigint, to_state tasker.state, metadata jsonb DEFAULT '{}') RETURNS integer
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_transition_step';
COMMENT ON FUNCTION tasker.transition_step(bigint, tasker.state, jsonb) IS
'Moves a step to a state and returns the sort_key of the transition, which for in_progress is the claim number. Errors: 42704 unknown step; TK002 the transition is not legal, the step is in that state already, or a guard refuses (in_progress needs every parent complete or resolved and an attempt left).';

CREATE FUNCTION tasker.safe_transition_task(task_id bigint, to_state tasker.state, metadata jsonb DEFAULT '{}') RETURNS text
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_safe_transition_task';
COMMENT ON FUNCTION tasker.safe_transition_task(bigint, tasker.state, jsonb) IS
'Like transition_task, but says ''transitioned'', ''already_in_state'' or ''not_allowed'' instead of raising TK002.';
CREATE FUNCTION tasker.safe_transition_step(step_id bigint, to_state tasker.state, metadata jsonb DEFAULT '{}') RETURNS text
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_safe_transition_step';
COMMENT ON FUNCTION tasker.safe_transition_step(bigint, tasker.state, jsonb) IS
'Like transition_step, but says ''transitioned'', ''already_in_state'' or ''not_allowed'' instead of raising TK002.';

CREATE FUNCTION tasker.conditional_transition_task(task_id bigint, to_state tasker.state, allowed_from tasker.state[], metadata jsonb DEFAULT '{}') RETURNS text
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_conditional_transition_task';
COMMENT ON FUNCTION tasker.conditional_transition_task(bigint, tasker.state, tasker.state[], jsonb) IS
'Like safe_transition_task, but moves only from one of the states given: ''not_allowed'' from any other.';
CREATE FUNCTION tasker.conditional_transition_step(step_id bigint, to_state tasker.state, allowed_from tasker.state[], metadata jsonb DEFAULT '{}') RETURNS text
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_conditional_transition_step';
COMMENT ON FUNCTION tasker.conditional_transition_step(bigint, tasker.state, tasker.state[], jsonb) IS
'Like safe_transition_step, but moves only from one of the states given: ''not_allowed'' from any other.';

CREATE FUNCTION tasker.task_state(task_id bigint) RETURNS tasker.state
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
	SELECT t.state FROM tasker.tasks t WHERE t.task_id = task_state.task_id;
END;
COMMENT ON FUNCTION tasker.task_state(bigint) IS 'The state of a task; NULL where there is no such task.';
CREATE FUNCTION tasker.step_state(step_id bigint) RETURNS tasker.state
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
	SELECT s.state FROM tasker.workflow_steps s WHERE s.workflow_step_id = step_id;
END;
COMMENT ON FUNCTION tasker.step_state(bigint) IS 'The state of a step; NULL where there is no such step.';
CREATE FUNCTION tasker.task_in_any_state(task_id bigint, states tasker.state[]) RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
	SELECT coalesce(tasker.task_state(task_id) = ANY (states), false);
END;
COMMENT ON FUNCTION tasker.task_in_any_state(bigint, tasker.state[]) IS 'Whether a task is in one of the states; false where there is no such task.';
CREATE FUNCTION tasker.step_in_any_state(step_id bigint, states tasker.state[]) RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
	SELECT coalesce(tasker.step_state(step_id) = ANY (states), false);
END;
COMMENT ON FUNCTION tasker.step_in_any_state(bigint, tasker.state[]) IS 'Whether a step is in one of the states; false where there is no such step.';
