/*
 * consumer.h
 *		Who reads events: consumers by themselves, the orchestrator for the
 *		channels that are subscribed to.
 */
#ifndef TASKER_CONSUMER_H
#define TASKER_CONSUMER_H

#include "tasker.h"

/*
 * Notifies the channels that are subscribed to of what has happened since the
 * last time, max events each at most, in the caller's transaction.  Returns the
 * most that one channel got, and in *channels how many there are.  Opens a
 * query scope itself.
 */
extern uint64 AnnounceEvents(int64 max, int *channels);

#endif							/* TASKER_CONSUMER_H */
