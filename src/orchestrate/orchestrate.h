/*
 * orchestrate.h
 *		Consequences, drawn from the log: discovery, retries, recovery,
 *		dispatch.  Batches are idempotent.
 */
#ifndef TASKER_ORCHESTRATE_H
#define TASKER_ORCHESTRATE_H

#include "tasker.h"

#include "orchestrate/orchestrator.h"

/*
 * Runs one batch of at most batch_size steps of each kind.  The caller holds
 * the orchestration lock (LockOrchestration) and an open query scope, and
 * commits or throws the memory away.  in_session: batches follow each other in
 * one transaction.  Its own rows count as new in each of them, so they are
 * read only when everything known is done; and the checkpoint is saved then.
 */
extern BatchReport RunBatch(Orchestrator *orchestrator, int batch_size, bool in_session);

/*
 * Draws from the rows of one task what follows from them: starts it, promotes
 * retries that are due, skips, cancels, finalizes; gives out no step.  Needs
 * no orchestration lock: everything moves by compare-and-set, and whoever else
 * draws the same conclusion finds it drawn.  Needs an open query scope; raises
 * 42704 where there is no such task.
 */
extern void AdvanceTask(int64 task_id);

/*
 * The steps of a task that may run now, those that wait in the queue and those
 * of a coordinator included, ascending, in the current memory context.
 * Changes nothing.  As above.
 */
extern int64 *FindViableSteps(int64 task_id, int *n);

#endif							/* TASKER_ORCHESTRATE_H */
