/*
 * timetable.c
 *		Scheduled tasks in the background.
 *
 * When the next one is due is remembered, and asked again after a change of
 * schedules (they are definitions, see catalog.h) or of the clock.  So
 * schedules cost an orchestrator nothing until they are due.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "pg/catalog.h"
#include "pg/clock.h"
#include "pg/guc.h"
#include "process/rest.h"
#include "process/timetable.h"
#include "run/schedule.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

/* Tasks of one transaction. */
#define TASKS_AT_ONCE 100

/* After an error of the timetable itself. */
#define ERROR_PAUSE (60 * USECS_PER_SEC)

/* A latch waits for so long at most; then it is asked again. */
#define LONGEST_SLEEP_MS 86400000

static struct
{
	uint64		generation;		/* of the definitions that next_due_at comes from */
	int			clock_offset;
	TimestampTz next_due_at;	/* DT_NOEND: never */
}			timetable;

/* Starts what is due, in a transaction of its own. */
static void
StartDueTasks(void)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	timetable.generation = DefinitionsGeneration();
	timetable.clock_offset = tasker_clock_offset;
	timetable.next_due_at = DT_NOEND;
	if (ExtensionInstalled() && SchemaVersion() >= 101)
		(void) StartScheduledTasks(TASKS_AT_ONCE, &timetable.next_due_at);
	PopActiveSnapshot();
	CommitTransactionCommand();
}

/* A creation that fails is the schedule's own affair; this is all else. */
static void
NoteFailure(void)
{
	MemoryContext context = MemoryContextSwitchTo(TopMemoryContext);
	ErrorData  *error = CopyErrorData();

	HOLD_INTERRUPTS();
	AbortCurrentTransaction();
	FlushErrorState();
	RESUME_INTERRUPTS();
	ereport(LOG,
			(errcode(error->sqlerrcode),
			 errmsg("tasker: scheduled tasks could not be started: %s", error->message),
			 errhint("They are tried again in a minute.")));
	FreeErrorData(error);
	MemoryContextSwitchTo(context);
	timetable.next_due_at = TaskerNow() + ERROR_PAUSE;
}

static pg_noinline void
TryStartDueTasks(void)
{
	PG_TRY();
	{
		StartDueTasks();
	}
	PG_CATCH();
	{
		NoteFailure();
	}
	PG_END_TRY();
}

long
KeepTimetable(long wait)
{
	long		pause;

	if (timetable.generation != DefinitionsGeneration() || timetable.clock_offset != tasker_clock_offset ||
		timetable.next_due_at <= TaskerNow())
		TryStartDueTasks();
	if (timetable.next_due_at == DT_NOEND)
		return wait;
	pause = Min(LONGEST_SLEEP_MS, TimestampDifferenceMilliseconds(TaskerNow(), timetable.next_due_at));
	return SoonerOf(wait, pause);
}
