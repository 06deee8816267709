-- Who keeps dead rows from being removed.

CREATE VIEW tasker.stat_horizon AS
WITH culprit AS (
	SELECT CASE WHEN a.backend_type = 'walsender' THEN 'standby' ELSE 'session' END AS kind,
		a.pid, a.application_name AS name, a.usename::text AS role, a.state, a.xact_start AS since,
		greatest(age(a.backend_xmin), age(a.backend_xid)) AS age, a.query
	FROM pg_stat_activity a
	WHERE (a.datid IS NULL OR a.datid = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()))
		AND (a.backend_xmin IS NOT NULL OR a.backend_xid IS NOT NULL)
		AND a.pid <> pg_backend_pid() AND a.backend_type <> 'autovacuum worker'
	UNION ALL
	SELECT 'prepared transaction', NULL, p.gid, p.owner::text, NULL, p.prepared, age(p.transaction), NULL
	FROM pg_prepared_xacts p
	WHERE p.database = current_database()
	UNION ALL
	SELECT 'replication slot', s.active_pid, s.slot_name::text, NULL, CASE WHEN s.active THEN 'active' ELSE 'inactive' END, NULL, age(s.xmin), NULL
	FROM pg_replication_slots s
	WHERE s.xmin IS NOT NULL
)
SELECT c.kind, c.pid, c.name, c.role, c.state, c.since, c.age AS age_in_transactions, left(c.query, 200) AS query,
	(SELECT sum(t.n_dead_tup)::bigint FROM pg_stat_all_tables t WHERE t.schemaname = 'tasker') AS dead_rows
FROM culprit c
ORDER BY c.age DESC, c.since;
COMMENT ON VIEW tasker.stat_horizon IS
'Who keeps vacuum from removing dead rows in this database, the oldest first: sessions with an old snapshot or transaction, prepared transactions, replication slots, standbys that report what they read. The first row is the one to end. Details of other roles'' sessions need pg_read_all_stats. For operators.';
COMMENT ON COLUMN tasker.stat_horizon.name IS 'The application of a session, the name of a prepared transaction or of a slot.';
COMMENT ON COLUMN tasker.stat_horizon.age_in_transactions IS 'How many transactions have begun since the oldest one that it may still look at.';
COMMENT ON COLUMN tasker.stat_horizon.dead_rows IS 'Dead rows in the tables of tasker, by the statistics; the same in each row.';
