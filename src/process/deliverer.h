/*
 * deliverer.h
 *		Events for steps that wait, in the background, after the batches of the
 *		orchestrator.
 */
#ifndef TASKER_DELIVERER_H
#define TASKER_DELIVERER_H

#include "tasker.h"

/*
 * Called by the orchestrator when it would wait so many milliseconds, -1 for
 * news only, 0 not at all.  Gives events that have come to the steps that wait
 * for them, in a transaction of its own, and returns for how long to wait at
 * most: 0 where a batch has something to end.
 */
extern long KeepDelivering(long wait);

#endif							/* TASKER_DELIVERER_H */
