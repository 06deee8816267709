/*
 * upkeep.h
 *		Retention in the background, between the batches of the orchestrator.
 */
#ifndef TASKER_UPKEEP_H
#define TASKER_UPKEEP_H

#include "tasker.h"

/*
 * Called by the orchestrator when it would wait so many milliseconds, -1 for
 * news only, 0 not at all.  Does a small round of upkeep if one is due, in a
 * transaction of its own, and returns for how long to wait at most.
 */
extern long KeepUp(long wait);

#endif							/* TASKER_UPKEEP_H */
