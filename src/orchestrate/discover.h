/*
 * discover.h
 *		What follows from what came in.
 *
 * Each takes work of its kind and adds to the batch what is to be moved, or
 * more work.  All need an open query scope.
 */
#ifndef TASKER_DISCOVER_H
#define TASKER_DISCOVER_H

#include "orchestrate/memory.h"

/* A task that became pending: it starts, and its roots may be ready. */
extern void FollowStarted(Batch *batch);

/* A finished step: its children may be ready, its task may be done. */
extern void FollowClosed(Batch *batch);

/* A failed step: it waits for its retry, runs again now, is skipped, or stops its task. */
extern void FollowFailed(Batch *batch);

/* A cancelled step: what depends on it can never run. */
extern void FollowCancelled(Batch *batch);

/* Steps that may be ready: those whose parents are all finished are. */
extern void FollowCandidates(Batch *batch);

/* A task that runs one step at a time: the next one is ready, if it is its turn. */
extern void FollowTurns(Batch *batch);

/* Adds a step that can be given to an executor. */
extern void AddReady(Batch *batch, ReadyStep step);

#endif							/* TASKER_DISCOVER_H */
