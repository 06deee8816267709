/*
 * announcer.h
 *		Notifications of events in the background, after the batches of the
 *		orchestrator.
 */
#ifndef TASKER_ANNOUNCER_H
#define TASKER_ANNOUNCER_H

#include "tasker.h"

/*
 * Called by the orchestrator when it would wait so many milliseconds, -1 for
 * news only, 0 not at all.  Notifies the channels that are subscribed to, in a
 * transaction of its own, and returns for how long to wait at most: 0 where
 * there is more to tell.
 */
extern long KeepAnnouncing(long wait);

#endif							/* TASKER_ANNOUNCER_H */
