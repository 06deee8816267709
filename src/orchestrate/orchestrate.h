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

#endif							/* TASKER_ORCHESTRATE_H */
