-- The periods as operators see them, and the end of those that are over.

CREATE VIEW tasker.stat_history AS
WITH leaf AS (
	SELECT l.log, c.oid AS relation, p.period, p.period << 40 AS first_id, ((p.period + 1) << 40) - 1 AS last_id,
		c.reltuples, tasker.current_period() AS latest
	FROM (VALUES ('task', 'tasker.task_transition_log'::regclass), ('step', 'tasker.workflow_step_transition_log')) l (log, parent)
	JOIN pg_inherits i ON i.inhparent = l.parent
	JOIN pg_class c ON c.oid = i.inhrelid
	CROSS JOIN LATERAL (SELECT substring(c.relname FROM '_p(\d+)$')::bigint) p (period)
), checkpoint AS (
	SELECT c.position, c.system_identifier = (SELECT h.identifier FROM tasker.home h) AS owned
	FROM tasker.orchestrator_checkpoint c
), reader AS (
	SELECT r.name, pg_snapshot_xmax(r.position) AS next_xact, ARRAY(SELECT pg_snapshot_xip(r.position)) AS running
	FROM (SELECT 'orchestrator' AS name, c.position FROM checkpoint c
		UNION ALL SELECT 'consumers', tasker.position_read_by_consumers()) r
	WHERE r.position IS NOT NULL
), status AS (
	SELECT leaf.log, leaf.period, leaf.relation, leaf.first_id, leaf.last_id, h.began_at, h.closed_at,
		CASE leaf.log WHEN 'task' THEN h.keeps_task_rows ELSE h.keeps_step_rows END AS keeps_rows,
		nullif(leaf.reltuples, -1)::bigint AS rows, leaf.latest,
		CASE leaf.log
			WHEN 'task' THEN (SELECT min(t.task_id) FROM tasker.tasks t WHERE t.task_id >= leaf.first_id AND t.task_id <= leaf.last_id)
			ELSE (SELECT min(s.workflow_step_id) FROM tasker.workflow_steps s WHERE s.workflow_step_id >= leaf.first_id AND s.workflow_step_id <= leaf.last_id)
		END AS oldest_owner,
		h.closed_by IS NULL OR (h.closed_on = (SELECT system_identifier FROM pg_control_system())
			AND h.closed_by >= pg_snapshot_xmin(pg_current_snapshot())) AS is_closing,
		CASE
			WHEN NOT coalesce((SELECT owned FROM checkpoint), true) THEN 'orchestrator'
			WHEN leaf.log = 'task' THEN (SELECT r.name FROM reader r
				WHERE EXISTS (SELECT FROM tasker.task_transition_log l
					WHERE l.task_id >= leaf.first_id AND l.task_id <= leaf.last_id
						AND l.xact_id >= r.next_xact AND l.xact_id <= '18446744073709551615')
				OR EXISTS (SELECT FROM tasker.task_transition_log l
					WHERE l.task_id >= leaf.first_id AND l.task_id <= leaf.last_id
						AND l.xact_id = ANY (r.running::xid8[]))
				ORDER BY r.name DESC LIMIT 1)
			ELSE (SELECT r.name FROM reader r
				WHERE EXISTS (SELECT FROM tasker.workflow_step_transition_log l
					WHERE l.workflow_step_id >= leaf.first_id AND l.workflow_step_id <= leaf.last_id
						AND l.xact_id >= r.next_xact AND l.xact_id <= '18446744073709551615')
				OR EXISTS (SELECT FROM tasker.workflow_step_transition_log l
					WHERE l.workflow_step_id >= leaf.first_id AND l.workflow_step_id <= leaf.last_id
						AND l.xact_id = ANY (r.running::xid8[]))
				ORDER BY r.name DESC LIMIT 1)
		END AS unread_by
	FROM leaf
	LEFT JOIN tasker.history_periods h ON h.period = leaf.period
)
SELECT s.log, s.period, s.relation::regclass AS partition, s.first_id, s.last_id, s.began_at, s.closed_at,
	s.rows, pg_total_relation_size(s.relation) AS bytes,
	CASE
		WHEN s.oldest_owner IS NULL THEN 0
		WHEN s.log = 'task' THEN (SELECT count(*) FROM (SELECT FROM tasker.tasks t
			WHERE t.task_id >= s.oldest_owner AND t.task_id <= s.last_id LIMIT 10001) o)
		ELSE (SELECT count(*) FROM (SELECT FROM tasker.workflow_steps w
			WHERE w.workflow_step_id >= s.oldest_owner AND w.workflow_step_id <= s.last_id LIMIT 10001) o)
	END AS owners,
	s.oldest_owner, coalesce(s.keeps_rows, false) AS keeps_rows,
	CASE
		WHEN s.period > s.latest THEN 'not begun'
		WHEN s.period = s.latest THEN 'current'
		WHEN s.oldest_owner IS NOT NULL THEN 'owners'
		WHEN s.is_closing THEN 'transactions'
		ELSE s.unread_by
	END AS held_by
FROM status s;
COMMENT ON VIEW tasker.stat_history IS
'The partitions of the logs, one row each: which ids they are for, how large they are, and what keeps a partition from being dropped by upkeep. For operators.';
COMMENT ON COLUMN tasker.stat_history.rows IS 'The estimate of the last vacuum or analyze.';
COMMENT ON COLUMN tasker.stat_history.owners IS 'Tasks or steps of the period that exist; 10001 stands for more than 10000.';
COMMENT ON COLUMN tasker.stat_history.oldest_owner IS 'The task or step of the period with the smallest id.';
COMMENT ON COLUMN tasker.stat_history.keeps_rows IS 'Transitions of pruned owners wait here for the end of the partition.';
COMMENT ON COLUMN tasker.stat_history.held_by IS
'Why the partition stays: not begun, current, owners (some exist), transactions (one that ran at the end of the period still does), orchestrator (it has not read all rows, or this database is not adopted), consumers (one of events has not, see tasker.consumer_grace). NULL: the next round of upkeep drops it, unless somebody reads it.';

-- Locks: the partition first, without waiting; it has no owner, so only who
-- reads the whole log can have it. Then the parent, for which everybody who
-- reads or writes the log waits in turn: hence the short timeout, and nothing
-- else in the transaction after that.
CREATE FUNCTION tasker.drop_history(OUT dropped text, OUT is_locked boolean)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '50ms'
AS $$
DECLARE
	leaf text;
	parent text;
	over bigint;
BEGIN
	is_locked := false;
	FOREACH leaf IN ARRAY ARRAY(SELECT h.partition::text FROM tasker.stat_history h WHERE h.held_by IS NULL ORDER BY h.period, h.log DESC)
	LOOP
		parent := regexp_replace(leaf, '_p\d+$', '');
		over := substring(leaf FROM '_p(\d+)$');
		BEGIN
			EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE NOWAIT', leaf);
			EXECUTE format('LOCK TABLE ONLY %s IN ACCESS EXCLUSIVE MODE', parent);
			IF EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = leaf::regclass AND d.deptype = 'e') THEN
				EXECUTE format('ALTER EXTENSION tasker DROP TABLE %s', leaf);
			END IF;
			EXECUTE format('ALTER TABLE %s DETACH PARTITION %s', parent, leaf);
			EXECUTE format('DROP TABLE %s', leaf);
		EXCEPTION WHEN lock_not_available THEN
			is_locked := true;
			CONTINUE;
		END;
		DELETE FROM tasker.history_periods p
		WHERE p.period = over
			AND to_regclass('tasker.task_transition_log_p' || over) IS NULL
			AND to_regclass('tasker.workflow_step_transition_log_p' || over) IS NULL;
		dropped := leaf;
		RETURN;
	END LOOP;
END
$$;
COMMENT ON FUNCTION tasker.drop_history() IS
'Drops one partition that nothing holds, if it is to be had at once, and gives its name; else says whether there was one that somebody had locked. For upkeep.';

-- A period that a few owners keep, a task in error for weeks, say, would keep
-- the rows of all others, too. So the partition is emptied and gets back the
-- rows of those who are still there. That locks this partition alone; its few
-- owners, and who reads the whole log, wait for as long as those rows take.
CREATE FUNCTION tasker.compact_history(closed_before timestamptz, smallest bigint) RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	leaf text;
	steps boolean;
	over bigint;
	kept text;
BEGIN
	FOREACH leaf IN ARRAY ARRAY(SELECT h.partition::text FROM tasker.stat_history h
		WHERE h.held_by = 'owners' AND h.keeps_rows AND h.owners <= 10000
			AND h.closed_at < closed_before AND h.bytes >= smallest
		ORDER BY h.period, h.log DESC)
	LOOP
		BEGIN
			EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE NOWAIT', leaf);
		EXCEPTION WHEN lock_not_available THEN
			CONTINUE;
		END;
		steps := leaf LIKE '%step%';
		over := substring(leaf FROM '_p(\d+)$');
		EXECUTE format('SELECT array_agg(l)::text FROM %s o CROSS JOIN LATERAL
				(SELECT l.* FROM %s l WHERE l.%I = o.%3$I OFFSET 0) l
			WHERE o.%3$I >= $1 AND o.%3$I < $2',
			CASE WHEN steps THEN 'tasker.workflow_steps' ELSE 'tasker.tasks' END, leaf,
			CASE WHEN steps THEN 'workflow_step_id' ELSE 'task_id' END)
		INTO kept USING over << 40, (over + 1) << 40;
		EXECUTE format('TRUNCATE %s', leaf);
		EXECUTE format('INSERT INTO %s SELECT l.* FROM unnest($1::%1$s[]) l', leaf) USING kept;
		UPDATE tasker.history_periods p
		SET keeps_task_rows = p.keeps_task_rows AND steps, keeps_step_rows = p.keeps_step_rows AND NOT steps
		WHERE p.period = over;
		RETURN leaf;
	END LOOP;
	RETURN NULL;
END
$$;
COMMENT ON FUNCTION tasker.compact_history(timestamptz, bigint) IS
'Takes the rows of pruned owners out of one partition of a period that was closed before the time given, is at least that many bytes large and is kept by no more than 10000 owners; returns its name. For upkeep, with the triggers of the logs off.';
