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

#endif							/* TASKER_FOLLOWER_H */
