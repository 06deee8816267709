/*
 * queue.h
 *		The work queue: steps that are ready and have no executor yet.
 *
 * A row is a hint: whoever takes it still has to move the step by
 * compare-and-set.  All functions need an open query scope.
 */
#ifndef TASKER_QUEUE_H
#define TASKER_QUEUE_H

#include "tasker.h"

typedef struct ReadyStep
{
	int64		step_id;
	int32		handler_id;
	int16		rank;			/* smaller runs first */
} ReadyStep;

/* For qsort: the order in which steps are given out. */
extern int	CompareReadySteps(const void *a, const void *b);

extern void InitQueue(void);

/* Puts steps into the queue; one that waits already stays. */
extern void EnqueueSteps(const ReadyStep *steps, int n);

/*
 * Takes up to max steps of these handlers out of the queue, by rank, then
 * oldest first; rows that another session is taking are passed over.
 * Returns them in the current memory context and their number.
 */
extern ReadyStep *TakeSteps(const int32 *handler_ids, int n_handlers, int max, int *taken);

/* Whether a step waits in the queue. Access must have begun. */
extern bool IsWaiting(const ReadyStep *step);

/* Takes one step out of the queue; false where it is not there, or somebody else is taking it. */
extern bool TakeStep(const ReadyStep *step);

/* Whether any row of a handler is there, those being taken included. */
extern bool HasWaitingSteps(int32 handler_id);

/* Removes the rows of steps that need no executor any more. */
extern void DequeueSteps(const int64 *step_ids, int n);

#endif							/* TASKER_QUEUE_H */
