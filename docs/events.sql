-- Writes docs/events.md from the catalogue of a database with tasker:
-- psql -XAtq -f docs/events.sql > docs/events.md. A test compares the two.
SET client_min_messages = warning;
SELECT $$# Events

The log is the event bus: each transition of a task or a step is an event, and nothing else has to be written for it.
Besides, programs publish custom events. Everything that happened is in one view, `tasker.events`; consumers read it on and
on, each from where it was.

## Reading on

    SELECT tasker.create_event_consumer('mailer', '{task.completed,task.failed,order.*}');

    BEGIN;
    SELECT * FROM tasker.read_events('mailer', 100);
    -- ... the consumer's work ...
    COMMIT;

The commit is the acknowledgement. Work done in the same transaction (rows written in this database) is done **exactly
once** for each event; work outside of it (a mail, a request) **at least once**, if it is done before the commit. If the
transaction fails, or the process, or the server, the same events come again. Called with autocommit the events count as
read when they arrive: at most once.

* Every committed event comes, whenever its transaction began and however long it ran; none comes twice.
* What followed from an event comes after it: the transitions of a task or step in the order of its log, a step after those
  it depends on, the end of a task after the ends of its steps.
* In a pattern `*` stands for any characters. `create_event_consumer` for one that exists changes its patterns only.
  A log that no pattern can have events of is not read: who wants tasks only does not pay for the steps.
* A consumer reads for itself: a slow one holds up nobody. Two sessions that read for the same consumer take turns; to read
  side by side use two consumers with different patterns.
* One who is far behind reads in steps of some ten thousand rows, not all at once. A session keeps the order of those that it has
  not got to yet, so small pages cost no more than large ones.
* `tasker.retention` waits for consumers, unless one has not read for `tasker.consumer_grace` (7 days). See
  `tasker.stat_event_consumers`: how far behind each one is, and whether history waits for it.
* After a restore on another server, and `tasker.resume()`, each consumer goes on where the dump had it.

`event_key` (`step:4711:20`, `task:815:10`, `event:3`) names an event for ever: whoever acts outside of the database can
use it to notice a repetition.

## Live

    SELECT tasker.subscribe('{task.completed,*.failed}', 'live');   -- once
    LISTEN live;                                                    -- in any session

From then on the orchestrator notifies the channel after its batches, under load every few milliseconds (it rests nine times as long
as telling took, 20 ms at most), several events in one message, never from the transactions of applications: `{"events": [{"event_key": "task:815:40", "name": "task.completed", "task_id": 815,
"step_id": null}]}`. After a crash of the server it may tell the last ones once more. A notification is a hint: one that nobody heard is gone, and
anybody who may connect can LISTEN. Whoever must not miss any reads as a consumer and takes the channel for the sign that
there is something to read; payloads are in `tasker.events`. Without a channel nothing is done.

## A consumer

`examples/follow_events.py` is one to copy from: it makes a consumer and a channel, sleeps until it is notified, reads
until there is nothing more, and sleeps again. What it has to mind:

* LISTEN first, read then: what happens in between is read, or heard of.
* Read until `read_events` returns nothing; one notification may stand for many events, and many for one.
* After each reconnection read first: what was notified meanwhile is gone, what happened is not.
* Work in the transaction that reads. If it takes long, read few events at a time: nobody else waits, but an open
  transaction holds back vacuum.
* Look once a minute all the same.

Who is not a program with a connection takes the events from the write-ahead log:
[change-data-capture.md](change-data-capture.md).

## Publishing

    SELECT tasker.register_event('order.shipped', 'It left the house');
    SELECT tasker.set_event_schema('order.shipped', '{"required": ["carrier"]}');
    SELECT tasker.publish_event('order.shipped', '{"carrier": "donkey"}', step_id => 4711);

in the transaction that completes the step, for instance. Unknown names and payloads that violate the schema are refused.
`custom_events` of a step template enter the catalogue with the template. An event is readable with its commit, and stays
as long as its task, or as long as `tasker.retention` says.

## Payloads

Payloads of system events are objects with these keys, always all of them; what does not apply is null. Times are
measured: an attempt lasts from its claim to its report.
$$;
\echo '| key | type | meaning |'
\echo '|---|---|---|'
SELECT format('| `%s` | %s | %s |', key, array_to_string(types, ', '), description) FROM tasker.event_payload_keys() WHERE events IS NULL;
SELECT $$
Some events have more:
$$;
\echo '| key | type | of | meaning |'
\echo '|---|---|---|---|'
SELECT format('| `%s` | %s | %s | %s |', key, array_to_string(types, ', '), (SELECT string_agg(format('`%s`', e), ', ') FROM unnest(events) e), description)
FROM tasker.event_payload_keys() WHERE events IS NOT NULL;
SELECT $$
The payload of a custom event is what was published, and the keys event_type, event_key, event_version (which grows with
the schema), timestamp, task_id, step_id and role.

## System events

`payload_schema` in `tasker.event_definitions` is the JSON Schema of each.
$$;
\echo '| event | fired by | original name |'
\echo '|---|---|---|'
SELECT format('| `%s` | %s: %s | %s |', d.name, d.category, array_to_string(d.fired_by, ', '),
	coalesce((SELECT string_agg(format('`%s`', o.original), ', ' ORDER BY o.n) FROM (VALUES
		(1, 'task.initialize_requested', 'observability.task.enqueue'), (2, 'task.initialize_requested', 'workflow.task_reenqueue_requested'),
		(3, 'task.start_requested', 'workflow.task_started'), (4, 'task.start_requested', 'observability.task.handle'),
		(5, 'task.completed', 'workflow.task_completed'), (6, 'task.completed', 'workflow.task_finalization_completed'), (7, 'task.completed', 'observability.task.finalize'),
		(8, 'task.failed', 'workflow.task_failed'), (9, 'task.failed', 'workflow.task_finalization_completed'), (10, 'task.failed', 'observability.task.finalize'),
		(11, 'step.execution_requested', 'workflow.viable_steps_discovered'), (12, 'step.execution_requested', 'workflow.steps_execution_started'),
		(13, 'step.execution_requested', 'step.before_handle'), (14, 'step.execution_requested', 'step.handle'), (15, 'step.execution_requested', 'observability.step.handle'),
		(16, 'step.completed', 'workflow.step_completed'), (17, 'step.completed', 'workflow.steps_execution_completed'),
		(18, 'step.failed', 'workflow.step_failed'), (19, 'step.failed', 'workflow.step_execution_failed'), (20, 'step.failed', 'observability.step.backoff'),
		(21, 'step.failed', 'observability.step.max_retries_reached'),
		(22, 'step.resolved_manually', 'observability.step.skip')) o(n, event, original) WHERE o.event = d.name), ''))
FROM tasker.event_definitions d WHERE d.category <> 'custom' ORDER BY d.category DESC, d.name;
SELECT $$
The original fired up to three events for one thing, under the names in the last column, with other keys each, and some of
them never. Here one thing is one event: its name says what, `from_state`, `reason` and `retry_available` say the rest.
`step.initialize_requested`, `*.before_transition`, `workflow.no_viable_steps`, `workflow.task_state_unclear` and the events
of its export plugins and registries have no counterpart: nothing happens there.$$;
