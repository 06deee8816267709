/*
 * wait.h
 *		What our processes and sessions wait for, by name.
 */
#ifndef TASKER_WAIT_H
#define TASKER_WAIT_H

#include "tasker.h"

typedef enum WaitReason
{
	WAIT_ORCHESTRATOR_MAIN,		/* the orchestrator, for news or the next timer */
	WAIT_LAUNCHER_MAIN,			/* the launcher, for something to start */
	WAIT_AWAIT_STEPS,			/* a session, for steps */
	WAIT_AWAIT_TASK,			/* a session, for the end of a task */
	WAIT_HOLD_DATABASE,			/* a utility command, for the orchestrator to leave */
	WAIT_REASONS
} WaitReason;

/* The wait event; before PostgreSQL 17 all are "Extension". */
extern uint32 WaitEventOf(WaitReason reason);

/* Makes all of them known to the server, so that pg_wait_events has them from the start. */
extern void NameWaitEvents(void);

#endif							/* TASKER_WAIT_H */
