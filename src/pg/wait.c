/*
 * wait.c
 *		What our processes and sessions wait for, by name.
 */
#include "postgres.h"

#include "pg/wait.h"
#include "utils/wait_event.h"

static const char *const names[WAIT_REASONS] = {
	[WAIT_ORCHESTRATOR_MAIN] = "TaskerOrchestratorMain",
	[WAIT_LAUNCHER_MAIN] = "TaskerLauncherMain",
	[WAIT_AWAIT_STEPS] = "TaskerAwaitSteps",
	[WAIT_AWAIT_TASK] = "TaskerAwaitTask",
	[WAIT_HOLD_DATABASE] = "TaskerHoldDatabase",
};

uint32
WaitEventOf(WaitReason reason)
{
	static uint32 events[WAIT_REASONS];

	if (events[reason] == 0)
		events[reason] = WaitEventExtensionNew(names[reason]);
	return events[reason];
}

void
NameWaitEvents(void)
{
	for (WaitReason reason = 0; reason < WAIT_REASONS; reason++)
		(void) WaitEventOf(reason);
}
