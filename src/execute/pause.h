/*
 * pause.h
 *		What must not be dispatched now.
 *
 * Everything can be paused (the checkpoint says so), a namespace or a named
 * task.  A database that was restored or cloned counts as paused until it is
 * adopted by resume().  All functions need an open query scope.
 */
#ifndef TASKER_PAUSE_H
#define TASKER_PAUSE_H

#include "tasker.h"

/* Whether nothing at all may be dispatched in this database. */
extern bool DispatchIsPaused(void);

/* Reads which named tasks are paused, if that may have changed. */
extern void RefreshPauses(void);

/* Whether a named task is paused, by itself or with its namespace, as of the last RefreshPauses. */
extern bool NamedTaskIsPaused(int32 named_task_id);

/*
 * Waits for the batch of another orchestrator and keeps others from running
 * one until the end of the transaction.
 */
extern void LockOrchestration(void);

/* As above without waiting; false where another is at work. */
extern bool TryLockOrchestration(void);

#endif							/* TASKER_PAUSE_H */
