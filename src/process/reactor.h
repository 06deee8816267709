/*
 * reactor.h
 *		Reactions to events in the background, after the batches of the
 *		orchestrator.
 */
#ifndef TASKER_REACTOR_H
#define TASKER_REACTOR_H

#include "tasker.h"

/*
 * Called by the orchestrator when it would wait so many milliseconds, -1 for
 * news only, 0 not at all.  Has everybody react to a page of events, in a
 * transaction of its own, and returns for how long to wait at most: 0 where
 * there is more.
 */
extern long KeepReacting(long wait);

#endif							/* TASKER_REACTOR_H */
