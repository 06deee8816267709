/*
 * intake.h
 *		What came in: new rows of the logs, timers that are due, rows.
 *
 * All need an open query scope and turn what they find into work.
 */
#ifndef TASKER_INTAKE_H
#define TASKER_INTAKE_H

#include "orchestrate/memory.h"

/*
 * Reads what is new in both logs.  Starts again from the checkpoint if
 * somebody else has moved it.  False, and nothing read, where the database
 * does not belong to this server (see ownership.h).
 */
extern bool ReadLog(Batch *batch);

/* Everything that could follow from the rows of all open tasks. */
extern void LookAtOpenTasks(Orchestrator *o);

/*
 * Looks at one task from its rows, whatever the log has said, in the next
 * batch; the memory must have run one before.  Needs an open query scope; raises 42704 where there is no such task.
 */
extern void LookAtTask(Orchestrator *o, int64 task_id);

/* Takes the timers that are due: retries, and attempts whose time is over. */
extern void TakeTimers(Batch *batch);

#endif							/* TASKER_INTAKE_H */
