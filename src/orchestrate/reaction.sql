-- What follows from events.

CREATE FUNCTION tasker.react_to_events(max integer DEFAULT 1000) RETURNS integer
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_react_to_events';
COMMENT ON FUNCTION tasker.react_to_events(integer) IS
'Does in this session and transaction what the background worker does by itself after each batch: reads the events that are new, max at most, as the consumer tasker.reactor, and starts the tasks that triggers say; returns how many were read. Position and effects are of one transaction: each event takes effect once. Sees what was committed before the call. A task that cannot be started is noted in task_triggers.last_error, with a WARNING, and passed over. Waits for a batch that is running, and keeps others from running one until the transaction ends. Errors: 22023 max is not between 1 and 1000000; 55000 the database comes from another server and is not adopted.';
