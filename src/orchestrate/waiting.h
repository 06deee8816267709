/*
 * waiting.h
 *		Beginning and ending the waits of steps that no executor runs.
 */
#ifndef TASKER_WAITING_H
#define TASKER_WAITING_H

#include "orchestrate/memory.h"

/*
 * Lets steps that may run begin to wait: their rows are held or free, ids
 * ascending.  Those whose wait is over at once are completed, or fail.
 */
extern void BeginWaits(Batch *batch, const int64 *step_ids, int n);

/* Ends the waits whose timers were due, by an event or by time. */
extern void EndWaits(Batch *batch);

/* Forgets the waits of steps that somebody else has moved on. */
extern void ForgetLeftWaits(Batch *batch);

#endif							/* TASKER_WAITING_H */
