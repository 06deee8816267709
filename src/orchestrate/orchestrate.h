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
 * commits or throws the memory away.  save: write the checkpoint even if it
 * is not due.
 */
extern BatchReport RunBatch(Orchestrator *orchestrator, int batch_size, bool save);

#endif							/* TASKER_ORCHESTRATE_H */
