-- Consequences, drawn from the log by one writer at a time.

CREATE TABLE tasker.orchestrator_checkpoint (
	only_one boolean NOT NULL DEFAULT true PRIMARY KEY CONSTRAINT one_checkpoint CHECK (only_one),
	system_identifier bigint NOT NULL,
	generation bigint NOT NULL DEFAULT 1,
	position pg_snapshot NOT NULL,
	in_flight_steps bigint[] NOT NULL DEFAULT '{}',
	in_flight_executors bigint[] NOT NULL DEFAULT '{}',
	reconcile boolean NOT NULL DEFAULT false,
	paused_at timestamptz,
	saved_at timestamptz NOT NULL,
	taken_over_at timestamptz
);
COMMENT ON TABLE tasker.orchestrator_checkpoint IS
'How far the orchestrator has read the logs and which steps were with which executor then, both from one snapshot; saved about once a second. After a crash the log is replayed from here. The row is made at the first use: a dump carries it, and the script must not collide with it.';
COMMENT ON COLUMN tasker.orchestrator_checkpoint.system_identifier IS 'The database that the position belongs to, as tasker.home names it. In any other (a restore, a clone) nothing is dispatched until tasker.resume(); in none, 0, that comes from a physical backup.';
COMMENT ON COLUMN tasker.orchestrator_checkpoint.generation IS 'Grows with each save: who remembers another one must read the row again.';
COMMENT ON COLUMN tasker.orchestrator_checkpoint.reconcile IS 'The next batch looks at every open task instead of only at what the log got since.';
COMMENT ON COLUMN tasker.orchestrator_checkpoint.paused_at IS 'Since when everything is paused; NULL while it runs.';
COMMENT ON COLUMN tasker.orchestrator_checkpoint.taken_over_at IS 'When the server was started that has taken the database over, by promotion or from a physical backup; NULL where none has.';

CREATE FUNCTION tasker.orchestrate(task_id bigint DEFAULT NULL) RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_orchestrate';
COMMENT ON FUNCTION tasker.orchestrate(bigint) IS
'Does in this session and transaction what the background worker does: discovers ready steps, promotes due retries, recovers steps of lost executors, finalizes tasks, dispatches. Runs until there is nothing left to do and returns how many transitions it made; a second call makes none. While others keep bringing news it leaves the rest of that to the next orchestrator. With a task_id that task is looked at from its rows as well, whatever the log has said. Waits for another orchestrator at work, and for locked rows until the transaction has moved something; those that others hold are passed over from then on, for the next call. Error: 42704 unknown task.';

CREATE FUNCTION tasker.retry_due_steps(task_id bigint DEFAULT NULL, max integer DEFAULT NULL) RETURNS integer
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_retry_due_steps';
COMMENT ON FUNCTION tasker.retry_due_steps(bigint, integer) IS
'The retry coordinator by hand: puts steps in error whose backoff is over back to pending, of one task or of all open ones, max at most, and returns how many; the orchestrator then gives them out. It does the same by itself when the time comes. Locks the step rows, by id. Error: 22023 max is not positive.';

CREATE FUNCTION tasker.find_viable_steps(task_id bigint) RETURNS SETOF bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_find_viable_steps';
COMMENT ON FUNCTION tasker.find_viable_steps(bigint) IS
'The steps of a task that may run now, by id: pending, every parent finished, in a task that is not paused, and steps in error whose backoff is over; of a task that runs one step at a time the one whose turn it is. Changes nothing. Error: 42704 unknown task.';
