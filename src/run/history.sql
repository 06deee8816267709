-- History: the periods of the logs, how they begin and how they end.
--
-- The current period is where the sequences of task and step ids are. Its
-- partitions and those of the next one always exist, committed, before an id
-- of it does. That is why moving the sequences, which no rollback takes back,
-- is safe at any moment: whatever else a round of upkeep leaves undone, the
-- next one makes up for it.

CREATE TABLE tasker.history_periods (
	period bigint PRIMARY KEY,
	made_by xid8 NOT NULL,
	began_at timestamptz,
	closed_at timestamptz,
	closed_by xid8,
	closed_on bigint,
	keeps_task_rows boolean NOT NULL DEFAULT false,
	keeps_step_rows boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE tasker.history_periods IS
'What upkeep remembers of the periods of the logs. Rows come with the first round of upkeep: a dump carries them, and the script must not collide with them.';
COMMENT ON COLUMN tasker.history_periods.made_by IS 'The transaction that made its partitions; before its end no id of the period may be given out.';
COMMENT ON COLUMN tasker.history_periods.closed_by IS 'The transaction that began the next period: when it and all before it have ended, nobody brings an owner into this one any more.';
COMMENT ON COLUMN tasker.history_periods.closed_on IS 'The server that closed_by is a transaction of.';
COMMENT ON COLUMN tasker.history_periods.keeps_task_rows IS 'Tasks were pruned whose transitions are still there: they go with the partition.';
COMMENT ON COLUMN tasker.history_periods.keeps_step_rows IS 'The same for steps.';

CREATE FUNCTION tasker.history_period(owner_id bigint) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
	SELECT CASE WHEN owner_id < 0 THEN 0 ELSE owner_id >> 40 END;
END;
COMMENT ON FUNCTION tasker.history_period(bigint) IS 'The period that the transitions of a task or step belong to, by its id.';

CREATE FUNCTION tasker.current_period() RETURNS bigint
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
	SELECT greatest(tasker.history_period(t.last_value), tasker.history_period(s.last_value))
	FROM tasker.tasks_task_id_seq t, tasker.workflow_steps_workflow_step_id_seq s;
END;
COMMENT ON FUNCTION tasker.current_period() IS 'The period that new tasks and steps belong to.';

CREATE FUNCTION tasker.keep_periods(length interval) RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	now timestamptz := tasker.now();
	latest bigint := tasker.current_period();
	began_at timestamptz;
	started bigint;
BEGIN
	SELECT p.began_at INTO began_at FROM tasker.history_periods p WHERE p.period = latest;
	IF began_at IS NULL THEN
		began_at := coalesce((SELECT l.created_at FROM tasker.task_transition_log l
			WHERE l.task_id = (SELECT min(t.task_id) FROM tasker.tasks t WHERE t.task_id >= latest << 40) AND l.sort_key = 10), now);
		INSERT INTO tasker.history_periods AS p (period, made_by, began_at) VALUES (latest, pg_current_xact_id(), began_at)
		ON CONFLICT (period) DO UPDATE SET began_at = excluded.began_at WHERE p.began_at IS NULL;
	END IF;

	-- A period without a task goes on: an idle database makes none. Neither
	-- does one begin in the transaction that made it, nor when there are many:
	-- readers of the whole log look into each partition.
	IF began_at + length <= now
		AND EXISTS (SELECT FROM tasker.tasks t WHERE t.task_id >= latest << 40)
		AND to_regclass('tasker.task_transition_log_p' || latest + 1) IS NOT NULL
		AND to_regclass('tasker.workflow_step_transition_log_p' || latest + 1) IS NOT NULL
		AND (SELECT count(*) FROM pg_inherits i WHERE i.inhparent = 'tasker.task_transition_log'::regclass) < 24
		AND NOT EXISTS (SELECT FROM tasker.history_periods p
			WHERE p.period = latest + 1 AND p.made_by = pg_current_xact_id())
	THEN
		latest := latest + 1;
		started := latest;
		INSERT INTO tasker.history_periods AS p (period, made_by, began_at) VALUES (latest, pg_current_xact_id(), now)
		ON CONFLICT (period) DO UPDATE SET began_at = excluded.began_at;
	END IF;

	-- The sequences go together, and only forwards.
	PERFORM setval('tasker.tasks_task_id_seq', latest << 40, false)
	FROM tasker.tasks_task_id_seq s WHERE s.last_value < latest << 40;
	PERFORM setval('tasker.workflow_steps_workflow_step_id_seq', latest << 40, false)
	FROM tasker.workflow_steps_workflow_step_id_seq s WHERE s.last_value < latest << 40;
	INSERT INTO tasker.history_periods AS p (period, made_by, closed_at, closed_by, closed_on)
	SELECT DISTINCT over.period, pg_current_xact_id(), now, pg_current_xact_id(), (SELECT system_identifier FROM pg_control_system())
	FROM pg_inherits i
	JOIN pg_class c ON c.oid = i.inhrelid
	CROSS JOIN LATERAL (SELECT substring(c.relname FROM '_p(\d+)$')::bigint) over (period)
	LEFT JOIN tasker.history_periods h ON h.period = over.period
	WHERE i.inhparent IN ('tasker.task_transition_log'::regclass, 'tasker.workflow_step_transition_log'::regclass)
		AND over.period < latest AND h.closed_at IS NULL
	ON CONFLICT (period) DO UPDATE
	SET closed_at = excluded.closed_at, closed_by = excluded.closed_by, closed_on = excluded.closed_on;

	IF to_regclass('tasker.task_transition_log_p' || latest + 1) IS NULL
		OR to_regclass('tasker.workflow_step_transition_log_p' || latest + 1) IS NULL
	THEN
		PERFORM tasker.make_period(latest + 1);
		INSERT INTO tasker.history_periods (period, made_by) VALUES (latest + 1, pg_current_xact_id())
		ON CONFLICT (period) DO NOTHING;
	END IF;
	RETURN started;
END
$$;
COMMENT ON FUNCTION tasker.keep_periods(interval) IS
'Begins a new period when the current one is that old (NULL: never) and makes the partitions of the next one. Returns the period that began, else NULL. For upkeep, which holds its lock.';
