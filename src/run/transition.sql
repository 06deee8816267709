-- The logs: what happened. Every change of state appends one row, in the
-- transaction that makes it; a row never changes afterwards.
--
-- Both logs are partitioned by their owner's id into periods: period k holds the
-- rows of the owners with ids from k * 2^40 up to (k + 1) * 2^40. A new period
-- begins when the sequences of task and step ids are moved to its first id, so
-- that ids, and with them the rows of one time, lie together: a period none of
-- whose owners exists any more is dropped as a whole, without deleting a row.
--
-- The parents have no index, each partition has its own. Indexes of a parent
-- would be made anew when a restore attaches a partition to the parent that
-- CREATE EXTENSION has made, and the partition's indexes in the dump would then
-- collide with them. Nothing is lost: owners of two partitions are never the
-- same, so what is unique in each partition is unique in all.

CREATE TABLE tasker.task_transition_log (
	task_id bigint NOT NULL,
	sort_key integer NOT NULL,
	from_state tasker.state,
	to_state tasker.state NOT NULL,
	created_at timestamptz NOT NULL,
	xact_id xid8 NOT NULL DEFAULT pg_current_xact_id(),
	executor_id bigint,
	role text NOT NULL,
	metadata jsonb
) PARTITION BY RANGE (task_id);
COMMENT ON TABLE tasker.task_transition_log IS
'Every change of state of every task, oldest first by sort_key (10, 20, ...). Insert-only. The first row of a task has no from_state: its creation. Each partition is one period (see tasker.stat_history).';
COMMENT ON COLUMN tasker.task_transition_log.xact_id IS 'The transaction that made the change: readers of the log resume from a snapshot of these.';

CREATE TABLE tasker.workflow_step_transition_log (
	workflow_step_id bigint NOT NULL,
	sort_key integer NOT NULL,
	from_state tasker.state NOT NULL,
	to_state tasker.state NOT NULL,
	created_at timestamptz NOT NULL,
	xact_id xid8 NOT NULL DEFAULT pg_current_xact_id(),
	executor_id bigint,
	role text NOT NULL,
	metadata jsonb
) PARTITION BY RANGE (workflow_step_id);
COMMENT ON TABLE tasker.workflow_step_transition_log IS
'Every change of state of every step, oldest first by sort_key (10, 20, ...). Insert-only. A step without a row is pending. Each partition is one period (see tasker.stat_history).';
COMMENT ON COLUMN tasker.workflow_step_transition_log.executor_id IS 'The executor that the step was claimed for, or that reported.';

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

-- As the parent has it, for whoever is let to a partition by name. Those that
-- come from a dump of version 1.0 have none: resume() calls this.
CREATE FUNCTION tasker.secure_partitions() RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	leaf record;
BEGIN
	FOR leaf IN
		SELECT c.relname, i.inhparent = 'tasker.task_transition_log'::regclass AS is_of_tasks
		FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
		WHERE i.inhparent IN ('tasker.task_transition_log'::regclass, 'tasker.workflow_step_transition_log'::regclass)
			AND NOT EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid)
	LOOP
		EXECUTE format('ALTER TABLE tasker.%I ENABLE ROW LEVEL SECURITY', leaf.relname);
		EXECUTE format(CASE WHEN leaf.is_of_tasks
				THEN 'CREATE POLICY tenants ON tasker.%I USING ((SELECT tasker.sees_everything()) OR tasker.sees_task(task_id))'
				ELSE 'CREATE POLICY tenants ON tasker.%I USING ((SELECT tasker.sees_everything()) OR tasker.sees_step(workflow_step_id))' END,
			leaf.relname);
	END LOOP;
END
$$;
COMMENT ON FUNCTION tasker.secure_partitions() IS 'Gives the partitions of the logs that have none the row security of their parent. For tasker itself.';

-- Periods 0 and 1 are made here and are members of the extension; all others
-- are made by whoever owns it and are not, so that pg_dump writes them out as
-- the ordinary tables that they are. Attaching locks the parent SHARE UPDATE
-- EXCLUSIVE: nobody who reads or writes waits.
CREATE FUNCTION tasker.make_period(period bigint) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	log record;
	leaf text;
	grantee record;
BEGIN
	FOR log IN SELECT * FROM (VALUES
		('task_transition_log', 'task_id', 'tasks'),
		('workflow_step_transition_log', 'workflow_step_id', 'steps')) l(parent, owner_id, owners)
	LOOP
		leaf := log.parent || '_p' || period;
		CONTINUE WHEN to_regclass('tasker.' || leaf) IS NOT NULL;
		EXECUTE format('CREATE TABLE tasker.%I (LIKE tasker.%I INCLUDING DEFAULTS INCLUDING COMMENTS, PRIMARY KEY (%I, sort_key))
			WITH (autovacuum_vacuum_insert_scale_factor = 0.05)', leaf, log.parent, log.owner_id);
		EXECUTE format('COMMENT ON TABLE tasker.%I IS %L', leaf, format('The transitions of the %s of period %s.', log.owners, period));
		EXECUTE format('CREATE INDEX %I ON tasker.%I (xact_id)', leaf || '_by_transaction', leaf);
		EXECUTE format('COMMENT ON INDEX tasker.%I IS %L', leaf || '_by_transaction',
			'Serves the readers of the log: what is new since a position.');
		EXECUTE format('CREATE INDEX %I ON tasker.%I USING brin (created_at) WITH (autosummarize = on)', leaf || '_by_time', leaf);
		EXECUTE format('COMMENT ON INDEX tasker.%I IS %L', leaf || '_by_time',
			'Serves the analytics: what happened since a time.');
		IF log.owners = 'tasks' THEN
			EXECUTE format('CREATE INDEX %I ON tasker.%I (task_id) WHERE to_state IN (''error'', ''cancelled'', ''resolved_manually'')',
				leaf || '_rare_states', leaf);
			EXECUTE format('COMMENT ON INDEX tasker.%I IS %L', leaf || '_rare_states',
				'Serves find_tasks: the newest tasks in a state that few tasks come into. The row of a task cannot be indexed by its state, which changes.');
		END IF;
		EXECUTE format('CREATE TRIGGER insert_only BEFORE UPDATE OR DELETE OR TRUNCATE ON tasker.%I
			FOR EACH STATEMENT EXECUTE FUNCTION tasker.refuse_log_change()', leaf);
		-- Default privileges must not open what is closed.
		FOR grantee IN
			SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END AS name
			FROM pg_class c, aclexplode(c.relacl) a
			WHERE c.oid = to_regclass('tasker.' || leaf) AND a.grantee <> c.relowner
		LOOP
			EXECUTE format('REVOKE ALL ON tasker.%I FROM %s', leaf, grantee.name);
		END LOOP;
		EXECUTE format('ALTER TABLE tasker.%I ATTACH PARTITION tasker.%I FOR VALUES FROM (%s) TO (%s)', log.parent, leaf,
			CASE period WHEN 0 THEN 'MINVALUE' ELSE (period << 40)::text END, (period + 1) << 40);
	END LOOP;
	PERFORM tasker.secure_partitions();
END
$$;
COMMENT ON FUNCTION tasker.make_period(bigint) IS
'Makes the partitions of both logs for a period, where they are missing. For tasker itself; only the owner of the extension can.';

SELECT tasker.make_period(0);
SELECT tasker.make_period(1);

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

CREATE FUNCTION tasker.task_is_new(task_id bigint) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	SELECT EXISTS (SELECT FROM tasker.task_transition_log l
		WHERE l.task_id = task_is_new.task_id AND l.sort_key = 10 AND l.xact_id = pg_current_xact_id_if_assigned());
END;
COMMENT ON FUNCTION tasker.task_is_new(bigint) IS
'Whether this transaction has created the task: false where create_task has returned one that was there before. Runs as the owner of the extension, like create_task.';
