-- Which database this is.

CREATE VIEW tasker.home AS
SELECT hashint8extended(s.system_identifier, d.oid::bigint) AS identifier
FROM pg_control_system() s
JOIN pg_database d ON d.datname = current_database();
COMMENT ON VIEW tasker.home IS
'One row: what identifies this database among those of all servers. A dump, and a clone of the database, are in another one. A physical copy of the server has the same, see orchestrator_checkpoint.taken_over_at.';
