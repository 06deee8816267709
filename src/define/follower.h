/*
 * follower.h
 *		The orchestrator's own place among the consumers of events.
 */
#ifndef TASKER_FOLLOWER_H
#define TASKER_FOLLOWER_H

#include "tasker.h"

/* Its name in event_consumers, which users cannot take. */
#define REACTOR "tasker.reactor"

/*
 * From now on the orchestrator follows events, for somebody whose definition
 * this transaction is about to write: it misses none that is published from
 * now on, whenever this transaction ends, because until then it reads no
 * further.  Needs an open query scope.
 */
extern void FollowEvents(void);

/*
 * The orchestrator follows events from now on, if it does not already, for
 * somebody who needs none that it reads before this transaction ends: it goes
 * on reading meanwhile.  Needs an open query scope.
 */
extern void EnsureFollower(void);

#endif							/* TASKER_FOLLOWER_H */
