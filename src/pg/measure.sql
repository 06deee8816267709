-- What is counted and timed in shared memory. Zero when the server starts, and
-- nothing at all where tasker is not preloaded.

CREATE FUNCTION tasker.orchestrator_measures(
	OUT batches_per_second double precision, OUT log_rows_per_second double precision,
	OUT claims_per_second double precision, OUT notifications_per_second double precision,
	OUT intake_p50 double precision, OUT intake_p99 double precision,
	OUT dispatch_p50 double precision, OUT dispatch_p99 double precision,
	OUT claim_p50 double precision, OUT claim_p99 double precision,
	OUT execution_p50 double precision, OUT execution_p99 double precision,
	OUT batch_p50 double precision, OUT batch_p99 double precision,
	OUT last_error_at timestamptz, OUT last_error_sqlstate text, OUT last_error_repeats bigint,
	OUT unread_rows bigint, OUT unread_seconds double precision, OUT memory_bytes bigint,
	OUT set_aside integer, OUT set_aside_owners text[], OUT measured_since timestamptz)
LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'tasker_orchestrator_measures';
COMMENT ON FUNCTION tasker.orchestrator_measures() IS
'What shared memory has measured of this database; see the view stat_orchestrator.';

CREATE FUNCTION tasker.executor_measures(
	OUT executor_id bigint, OUT claims bigint, OUT completions bigint, OUT failures bigint, OUT releases bigint, OUT losses bigint,
	OUT claims_per_second double precision, OUT completions_per_second double precision,
	OUT execution_p50 double precision, OUT execution_p99 double precision,
	OUT last_error text, OUT last_error_at timestamptz, OUT last_seen_at timestamptz)
RETURNS SETOF record
LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'tasker_executor_measures';
COMMENT ON FUNCTION tasker.executor_measures() IS
'What shared memory has measured of the executors of this database; see the view stat_executors. No row for a role that is confined to namespaces.';

CREATE FUNCTION tasker.latency_buckets(OUT name text, OUT upper_bound double precision, OUT count bigint, OUT seconds double precision)
RETURNS SETOF record
LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'tasker_latency_buckets';
COMMENT ON FUNCTION tasker.latency_buckets() IS 'The histograms of this database; see the view stat_latencies.';

CREATE VIEW tasker.stat_latencies AS
SELECT b.name, b.upper_bound, b.count, b.seconds FROM tasker.latency_buckets() b;
COMMENT ON VIEW tasker.stat_latencies IS
'How long things take in this database, as histograms since measured_since of stat_orchestrator: one row for each bucket, counts cumulative as Prometheus has them. name is intake (a commit with news, until the orchestrator has read it), dispatch (such a commit, until the batch that gave out steps has committed), claim (a step that is found ready, until it is claimed; a sample of up to 256 at a time), execution (a claim, until its outcome is reported), or batch (a batch of the orchestrator). No row where tasker is not preloaded. For operators and monitoring.';
COMMENT ON COLUMN tasker.stat_latencies.upper_bound IS 'Seconds, included; 0.0001, doubled from row to row, Infinity in the last one.';
COMMENT ON COLUMN tasker.stat_latencies.count IS 'How many took up to upper_bound.';
COMMENT ON COLUMN tasker.stat_latencies.seconds IS 'The sum of all of this name, the same in each row.';

CREATE FUNCTION tasker.transition_counts(
	OUT owner text, OUT id integer,
	OUT created bigint, OUT started bigint, OUT completed bigint, OUT failed bigint, OUT cancelled bigint, OUT resolved bigint,
	OUT retried bigint, OUT released bigint, OUT lost bigint,
	OUT bounds double precision[], OUT buckets bigint[], OUT seconds double precision, OUT timed bigint)
RETURNS SETOF record
LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'tasker_transition_counts';
COMMENT ON FUNCTION tasker.transition_counts() IS
'How many transitions of tasks (owner task: by the id of the template) and of steps (owner step: by that of the handler) were committed since the server''s start or reset_stats(), and how long they took; see the views stat_tasks and stat_handlers. 2048 templates and handlers of the whole server are counted each for itself, from their first transition on, the others of a database together: id is NULL then. Transactions that were prepared are not counted.';

CREATE FUNCTION tasker.reset_stats() RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_reset_stats';
COMMENT ON FUNCTION tasker.reset_stats() IS
'Puts the counters, rates, latencies and last errors of stat_orchestrator, stat_executors, stat_latencies, stat_tasks and stat_handlers of this database back to zero, as a restart of the server does. At once, whatever becomes of the transaction; waits for nobody. What is unread, set aside or held in memory stays: that is so. Does nothing where tasker is not preloaded.';
