/*
 * event_wait.h
 *		Events for the steps that wait for them.
 */
#ifndef TASKER_EVENT_WAIT_H
#define TASKER_EVENT_WAIT_H

#include "tasker.h"

#include "run/consumer.h"
#include "utils/array.h"

/*
 * Appends the names of the events that steps of some template wait for, as
 * text.  Needs an open query scope.
 */
extern ArrayBuildState *AddAwaitedNames(ArrayBuildState *patterns);

/*
 * Gives each waiting step the first event of a page that it waits for; the
 * next batch completes it.  The caller holds the orchestration lock, and
 * brings every event once that was not there yet when the last batch before
 * began: what was there, the steps that begin to wait in that batch have
 * looked at themselves.  An event that comes twice does no harm.  Nobody
 * holds the rows of waits for long, so there is nothing to be impatient of.
 * Opens a query scope itself.
 */
extern void DeliverEvents(const EventPage *page, bool impatient);

#endif							/* TASKER_EVENT_WAIT_H */
