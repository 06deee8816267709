-- Consumers of events: who reads on from where it was.
--
-- A position is a pg_snapshot: read are the rows of transactions that it shows
-- as past. Between two positions lies a window, which is read in the order of
-- time, page by page; the cursor says how far. The position moves when the
-- window is through. Nothing is missed and nothing read twice, whenever its
-- transaction began or was committed; and what followed from a commit is never
-- read before it.

CREATE TABLE tasker.event_consumers (
	name text PRIMARY KEY
		CONSTRAINT event_consumer_name_has_1_to_128_characters CHECK (length(name) BETWEEN 1 AND 128),
	patterns text[] NOT NULL
		CONSTRAINT event_consumer_has_1_to_100_patterns CHECK (cardinality(patterns) BETWEEN 1 AND 100 AND array_position(patterns, NULL) IS NULL),
	role text NOT NULL,
	position pg_snapshot NOT NULL,
	window_end pg_snapshot,
	cursor_at timestamptz,
	cursor_place integer,
	cursor_id bigint,
	cursor_sort_key integer,
	events_read bigint NOT NULL DEFAULT 0,
	created_at timestamptz NOT NULL,
	read_at timestamptz,
	channel text
		CONSTRAINT event_channel_has_1_to_63_bytes CHECK (octet_length(channel) BETWEEN 1 AND 63)
) WITH (fillfactor = 50);
COMMENT ON TABLE tasker.event_consumers IS 'Who reads events, which ones, and how far each has read. One row is changed by each read_events().';
COMMENT ON COLUMN tasker.event_consumers.patterns IS 'Names of events; * stands for any characters.';
COMMENT ON COLUMN tasker.event_consumers.position IS 'What it has read: the transactions that are past in this snapshot.';
COMMENT ON COLUMN tasker.event_consumers.window_end IS 'Where the window that it is reading ends; NULL between two windows.';
COMMENT ON COLUMN tasker.event_consumers.cursor_at IS 'How far in the window: the time, then cursor_place, cursor_id and cursor_sort_key, of the event last read.';
COMMENT ON COLUMN tasker.event_consumers.channel IS 'NULL: read by read_events(). Else the orchestrator reads, and notifies this channel; name is the same.';

CREATE FUNCTION tasker.create_event_consumer(name text, patterns text[] DEFAULT '{*}', from_beginning boolean DEFAULT false) RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_create_event_consumer';
COMMENT ON FUNCTION tasker.create_event_consumer(text, text[], boolean) IS
'Makes a consumer of the events whose names match one of the patterns (* stands for any characters: step.*, *.failed), from now on or from_beginning of the history. False if it is there already: then only its patterns change. Errors: 22023 bad argument; 22004 null argument; 54000 there are 500 consumers already.';

CREATE FUNCTION tasker.drop_event_consumer(name text) RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_drop_event_consumer';
COMMENT ON FUNCTION tasker.drop_event_consumer(text) IS 'Forgets a consumer: retention does not wait for it any more. False if there is none.';

CREATE FUNCTION tasker.read_events(consumer text, max integer DEFAULT 100)
RETURNS TABLE (event_key text, name text, category text, task_id bigint, step_id bigint, occurred_at timestamptz, payload jsonb)
LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 100 AS 'MODULE_PATHNAME', 'tasker_read_events';
COMMENT ON FUNCTION tasker.read_events(text, integer) IS
'The next events of a consumer, max at most, in the order in which they happened; no row where there is nothing new. The commit is the acknowledgement: work done in the same transaction is done exactly once for each event, work outside of it, done before the commit, at least once. If the transaction fails, the same events come again. What followed from an event comes after it. Sees what was committed before the call, not what its own transaction has done. A second call for the same consumer in another session waits for the first transaction to end: use several consumers to read side by side. Errors: 42704 unknown consumer; 22023 max is not between 1 and 10000; 55000 the database comes from another server and is not adopted.';

CREATE FUNCTION tasker.subscribe(patterns text[], channel text) RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_subscribe';
COMMENT ON FUNCTION tasker.subscribe(text[], text) IS
'From now on the orchestrator notifies a channel of the events whose names match one of the patterns, in their order, several in one message: {"events": [{"event_key", "name", "task_id", "step_id"}, ...]}. LISTEN to it in any session; the payload of an event is in the view events. A notification that nobody hears is gone: whoever must not miss any reads as a consumer, and takes the channel for a hint. Anybody who may connect can LISTEN to a channel whose name they know. False if the channel is subscribed to already: then only its patterns change. Errors: 22023 bad argument; 22004 null patterns; 42710 a consumer has that name; 54000 there are 500 consumers and channels already.';

CREATE FUNCTION tasker.unsubscribe(channel text) RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_unsubscribe';
COMMENT ON FUNCTION tasker.unsubscribe(text) IS 'Ends the notifications of a channel. False if there are none.';

CREATE FUNCTION tasker.announce_events(max integer DEFAULT 1000) RETURNS integer
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_announce_events';
COMMENT ON FUNCTION tasker.announce_events(integer) IS
'Notifies the channels that are subscribed to of what has happened since the last time, max events each at most, with this transaction; returns the most that one of them got. The background worker does the same by itself after each batch. Error: 22023 max is not between 1 and 10000.';

CREATE FUNCTION tasker.position_read_by_consumers() RETURNS pg_snapshot
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	WITH waited_for AS (
		SELECT c.position FROM tasker.event_consumers c
		WHERE coalesce(c.read_at, c.created_at) > tasker.now() - current_setting('tasker.consumer_grace')::interval
	), limits AS (
		SELECT min(pg_snapshot_xmax(w.position)) AS xmax FROM waited_for w
	), running AS (
		SELECT DISTINCT x AS xact FROM waited_for w CROSS JOIN pg_snapshot_xip(w.position) x CROSS JOIN limits l WHERE x < l.xmax
	)
	SELECT format('%s:%s:%s', coalesce((SELECT min(r.xact) FROM running r), l.xmax), l.xmax,
		(SELECT string_agg(r.xact::text, ',' ORDER BY r.xact) FROM running r))::pg_snapshot
	FROM limits l
	WHERE l.xmax IS NOT NULL;
END;
COMMENT ON FUNCTION tasker.position_read_by_consumers() IS
'What every consumer of events has read, as a position; NULL where there is none. Consumers that have not read for longer than tasker.consumer_grace are not waited for. For retention.';

-- In order, for the index: what is new lies at the end of the table, where a scan of all of it comes last.
CREATE VIEW tasker.stat_event_consumers AS
SELECT c.name, c.patterns, c.role, c.created_at, c.read_at, c.events_read,
	pg_snapshot_xmax(pg_current_snapshot())::text::numeric - pg_snapshot_xmax(c.position)::text::numeric AS transactions_behind,
	(SELECT count(*) FROM (
		SELECT FROM tasker.task_transition_log l
		WHERE l.xact_id >= pg_snapshot_xmax(c.position) AND l.xact_id <= '18446744073709551615' ORDER BY l.xact_id LIMIT 10001) t)
	+ (SELECT count(*) FROM (
		SELECT FROM tasker.workflow_step_transition_log l
		WHERE l.xact_id >= pg_snapshot_xmax(c.position) AND l.xact_id <= '18446744073709551615' ORDER BY l.xact_id LIMIT 10001) s)
	+ (SELECT count(*) FROM (
		SELECT FROM tasker.published_events e
		WHERE e.xact_id >= pg_snapshot_xmax(c.position) AND e.xact_id <= '18446744073709551615' ORDER BY e.xact_id LIMIT 10001) e) AS events_behind,
	coalesce(c.cursor_at, (SELECT max(m.left_at) FROM tasker.log_marks m WHERE pg_snapshot_xmax(m.position) <= pg_snapshot_xmax(c.position))) AS read_until,
	coalesce(c.read_at, c.created_at) > tasker.now() - current_setting('tasker.consumer_grace')::interval AS holds_history,
	c.channel
FROM tasker.event_consumers c;
COMMENT ON VIEW tasker.stat_event_consumers IS
'Who reads events and how far behind each one is. For operators and monitoring.';
COMMENT ON COLUMN tasker.stat_event_consumers.transactions_behind IS 'Transactions of the whole server since its position, whatever they did.';
COMMENT ON COLUMN tasker.stat_event_consumers.events_behind IS 'Events since its position, of any name, those of a half-read window included; more than 10000 of a kind count as 10001.';
COMMENT ON COLUMN tasker.stat_event_consumers.read_until IS 'A time up to which it has read for sure; NULL where nothing tells.';
COMMENT ON COLUMN tasker.stat_event_consumers.channel IS 'The channel that the orchestrator notifies; NULL for who reads by read_events().';
COMMENT ON COLUMN tasker.stat_event_consumers.holds_history IS 'Whether retention waits for it; false once it has not read for tasker.consumer_grace.';
