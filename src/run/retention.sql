-- Retention: what is finished and old enough goes.

CREATE FUNCTION tasker.prune_tasks(finished_before timestamptz, max_tasks integer DEFAULT 10000,
	states tasker.state[] DEFAULT '{complete,cancelled,resolved_manually}')
RETURNS integer
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_prune_tasks';
COMMENT ON FUNCTION tasker.prune_tasks(timestamptz, integer, tasker.state[]) IS
'Removes up to max_tasks tasks that are in one of the states since before the time given, oldest first, with their steps, edges, annotations and transitions, and returns how many. Call it again until it returns less. A task that another session has locked, a step of which is locked or in progress, or whose transitions the orchestrator has not read yet is left for later. Its identity key becomes free. Where tasker.retention is on, transitions of a closed period go with their partition. states may be complete, cancelled, resolved_manually and error. Locks task rows, then their step rows; other pruning waits. Errors: 22023 bad argument; 55000 the database was restored or cloned and is not adopted; 40001 under repeatable read, when a task has changed meanwhile (try again).';

CREATE FUNCTION tasker.upkeep(retention interval DEFAULT NULL, max_tasks integer DEFAULT 10000,
	OUT pruned integer, OUT period_begun bigint, OUT partition_freed text, OUT more boolean)
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_upkeep';
COMMENT ON FUNCTION tasker.upkeep(interval, integer) IS
'Does one round of what the background worker does for tasker.retention, for servers where none runs: prunes up to max_tasks tasks that have been complete, cancelled or resolved for that long, begins a new period of the logs when it is time, and drops or empties at most one partition. retention NULL means the setting; 0 or an unset setting prunes nothing. more: call it again, in another transaction. Run it as a statement of its own: a dropped partition keeps the log locked until the end of the transaction. Does nothing while another session is at it.';
