/*
 * dispatch.h
 *		Giving ready steps to executors with free capacity and telling them.
 */
#ifndef TASKER_DISPATCH_H
#define TASKER_DISPATCH_H

#include "orchestrate/memory.h"

/*
 * Claims what the batch found ready, and what waits in the queue, for
 * executors that have room, and notifies them; the rest goes to the queue.
 * Needs an open query scope.
 */
extern void Dispatch(Batch *batch);

#endif							/* TASKER_DISPATCH_H */
