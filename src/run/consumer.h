/*
 * consumer.h
 *		Who reads events: consumers by themselves, the orchestrator for the
 *		channels that are subscribed to.
 */
#ifndef TASKER_CONSUMER_H
#define TASKER_CONSUMER_H

#include "tasker.h"

#include "utils/array.h"

/*
 * A page of events in the order in which they happened, as arrays of n each:
 * text[], text[], timestamptz[], bigint[] (NULL: of no task, of no step) twice,
 * jsonb[].  Payloads are those of the view events.
 */
typedef struct EventPage
{
	int			n;
	Datum		names;
	Datum		event_keys;
	Datum		occurred_at;
	Datum		task_ids;
	Datum		step_ids;
	Datum		payloads;
} EventPage;

/*
 * Reads on as a consumer, max events at most of those that match a pattern
 * (as consumers have them, but any number), and moves its position with the
 * caller's transaction.  Returns how many were read: the page, in the memory
 * context given, lacks those whose owner retention has removed.  The row of the
 * consumer, which must exist, is locked from then on.  Needs an open query
 * scope.
 */
extern uint64 ReadEventPage(const char *consumer, ArrayType *patterns, int max, MemoryContext context, EventPage *page);

/*
 * Whether ReadEventPage() has something to do for a consumer: there are events
 * that match, or its position is worth to be moved, or it does not exist.
 * Changes and locks nothing.  Needs an open query scope.
 */
extern bool HasEvents(const char *consumer, ArrayType *patterns);

/*
 * Whether this database is at home; false in one that comes from another
 * server and is not adopted, where positions mean nothing.  Needs an open query
 * scope.
 */
extern bool IsAdopted(void);

/* Raises 55000 unless this database is at home, as above. */
extern void CheckAdopted(void);

/*
 * Notifies the channels that are subscribed to of what has happened since the
 * last time, max events each at most, in the caller's transaction.  Returns the
 * most that one channel got, and in *channels how many there are.  Opens a
 * query scope itself.
 */
extern uint64 AnnounceEvents(int64 max, int *channels);

#endif							/* TASKER_CONSUMER_H */
