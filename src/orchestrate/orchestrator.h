/*
 * orchestrator.h
 *		The memory of whoever runs batches, as others see it: how far the logs
 *		are read, what is left to do, who has which step.  It can be thrown
 *		away at any moment and opened again.  See memory.h for its inside.
 */
#ifndef TASKER_ORCHESTRATOR_H
#define TASKER_ORCHESTRATOR_H

#include "tasker.h"

typedef struct Orchestrator Orchestrator;

/* What a batch came to. */
typedef struct BatchReport
{
	int64		transitions;	/* made */
	int64		log_rows;		/* read */
	bool		others;			/* some of them are of other transactions */
	int64		claims;
	int64		notifications;
	TimestampTz news_since;		/* the oldest commit with news that was read; 0: none, or unknown */
	bool		more;			/* something is left to do now */
	TimestampTz wake_at;		/* tasker.now() when there will be; DT_NOEND: not before news */
} BatchReport;

/* Opens a memory that lives in a child of the context given. */
extern Orchestrator *OpenOrchestrator(MemoryContext parent);
extern void CloseOrchestrator(Orchestrator *orchestrator);

/* Looks again which executors there are in the next batch. */
extern void RefreshExecutors(Orchestrator *orchestrator);

/*
 * From now on leaves alone rows that another transaction holds locked, and
 * comes back to them a little later, instead of waiting for them.
 */
extern void AvoidLockedRows(Orchestrator *orchestrator);

/*
 * From now on notifies nobody, after NOTIFY has found its queue full: steps
 * stay in the work queue, where executors claim them, until there is room.
 */
extern void StopPushing(Orchestrator *orchestrator);

/* Whether the last batch still met locked rows. */
extern bool MetLockedRows(const Orchestrator *orchestrator);

/*
 * After a batch of size one has failed: what it took, a task or a step, is
 * left alone by this process from now on.  False where it had taken nothing.
 */
extern bool SetAsideLast(Orchestrator *orchestrator, int64 *id, bool *is_task);

#endif							/* TASKER_ORCHESTRATOR_H */
