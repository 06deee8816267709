/*
 * event_wait.h
 *		Events for the steps that wait for them.
 *
 * All functions need an open query scope.
 */
#ifndef TASKER_EVENT_WAIT_H
#define TASKER_EVENT_WAIT_H

#include "tasker.h"

/*
 * A page of events in the order in which they happened, as arrays of one
 * length: text[], text[], timestamptz[], bigint[] (NULL: of no task), jsonb[].
 * Payloads are those of consumers (the view events).
 */
typedef struct EventPage
{
	Datum		names;
	Datum		event_keys;
	Datum		occurred_at;
	Datum		task_ids;
	Datum		payloads;
} EventPage;

/*
 * The names of the events that steps of some template wait for, each once, and
 * their number; good until the next call.  Of events of other names nothing
 * needs to be delivered.
 */
extern const char *const *AwaitedEventNames(int *n);

/*
 * Gives each waiting step the first event of a page that it waits for; the
 * next batch completes it.  Returns how many steps have got one.  The caller
 * holds the orchestration lock, and brings every event once that was not
 * there yet when the last batch before began: what was there, the steps that
 * begin to wait in that batch have looked at themselves.  An event that comes
 * twice does no harm.
 */
extern int64 DeliverEvents(const EventPage *page);

#endif							/* TASKER_EVENT_WAIT_H */
