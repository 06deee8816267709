/*
 * roster.h
 *		Which executors are there, and what they can run.
 */
#ifndef TASKER_ROSTER_H
#define TASKER_ROSTER_H

#include "orchestrate/memory.h"

/*
 * Reads again who is there, if that may have changed; steps of those who are
 * gone become failures of the batch.  Needs an open query scope.
 */
extern void LookAtExecutors(Batch *batch);

/* The entry of a handler, made where there is none. */
extern Handler *HandlerOf(Orchestrator *o, int32 handler_id);

/* Adds a claimed step that failed without its executor saying so. */
extern void AddFailure(Batch *batch, int64 step_id, int32 claim, char *error,
					   const char *error_class, int32 retry_after);

#endif							/* TASKER_ROSTER_H */
