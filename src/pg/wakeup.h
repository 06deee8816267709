/*
 * wakeup.h
 *		Telling the orchestrator, after the commit, that there is news.
 */
#ifndef TASKER_WAKEUP_H
#define TASKER_WAKEUP_H

#include "tasker.h"

/*
 * Asks that the orchestrator of this database be woken when the current
 * transaction commits, to read so many rows of the logs; nothing happens if
 * it aborts.  Costs nothing without shared memory.
 */
extern void WakeOrchestratorAtCommit(int64 rows);

/* As above; it shall also look again which executors there are. */
extern void WakeForExecutorsAtCommit(void);

/* Whether the current transaction has asked for that: it has moved something. */
extern bool TransactionHasNews(void);

/* Wakes the orchestrator of this database now.  Safe at process exit. */
extern void WakeOrchestratorNow(bool executors_changed);

/* Whether an orchestrator serves this database at this moment. */
extern bool OrchestratorRunning(void);

extern void InitWakeup(void);

#endif							/* TASKER_WAKEUP_H */
