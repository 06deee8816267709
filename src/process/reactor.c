/*
 * reactor.c
 *		Reactions to events in the background.
 *
 * Whether anybody reacts at all is remembered until definitions change (see
 * catalog.h): where nobody does, an orchestrator does nothing here.
 */
#include "postgres.h"

#include "access/xact.h"
#include "execute/pause.h"
#include "miscadmin.h"
#include "orchestrate/reaction.h"
#include "pg/catalog.h"
#include "pg/fault.h"
#include "process/reactor.h"
#include "process/rest.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

/* Events of one transaction. */
#define EVENTS_AT_ONCE 1000

/*
 * After it has looked and found nothing the reactor rests, so many times as
 * long as that took: under load to look takes a twentieth of the
 * orchestrator's time.
 */
#define REST_TIMES 19

/* While another session orchestrates. */
#define BUSY_PAUSE_MS 20

/* After an error, and how many in a row are waited for where somebody else's lock may be the cause. */
#define ERROR_PAUSE_MS 1000
#define PATIENCE 10

static struct
{
	uint64		generation;		/* of the definitions when this was found */
	bool		wanted;			/* somebody reacts */
	int			failures;		/* in a row */
	TimestampTz not_before;		/* after an error */
	Rest		rest;
}			reactor;

static void
PauseFor(int milliseconds)
{
	reactor.not_before = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), milliseconds);
}

/* Reacts to a page in a transaction of its own; whether there may be more. */
static bool
React(void)
{
	ReactionReport report = {0};
	TimestampTz begin = GetCurrentTimestamp();

	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	reactor.generation = DefinitionsGeneration();
	if (ExtensionInstalled() && SchemaVersion() >= 101)
	{
		report.wanted = true;
		if (TryLockOrchestration())
			report = ReactToEvents(EVENTS_AT_ONCE, reactor.failures >= PATIENCE);
		else
			PauseFor(BUSY_PAUSE_MS);
	}
	PopActiveSnapshot();
	FAULT_POINT("events-reacted");
	CommitTransactionCommand();
	FAULT_POINT("reactions-committed");
	reactor.wanted = report.wanted;
	reactor.failures = 0;
	if (report.events == 0)
		RestAfter(&reactor.rest, begin, REST_TIMES);
	return report.events >= EVENTS_AT_ONCE;
}

/* Nothing is lost: the page is read again. */
static void
NoteFailure(void)
{
	MemoryContext context = MemoryContextSwitchTo(TopMemoryContext);
	ErrorData  *error = CopyErrorData();

	HOLD_INTERRUPTS();
	AbortCurrentTransaction();
	FlushErrorState();
	RESUME_INTERRUPTS();
	if (error->sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE)
		ereport(LOG,
				(errcode(error->sqlerrcode),
				 errmsg("tasker: nobody could react to events: %s", error->message),
				 errhint("They are read again in a second.")));
	FreeErrorData(error);
	MemoryContextSwitchTo(context);
	reactor.wanted = true;
	reactor.failures++;
	PauseFor(ERROR_PAUSE_MS);
}

static pg_noinline bool
TryReact(void)
{
	volatile bool more = false;

	PG_TRY();
	{
		more = React();
	}
	PG_CATCH();
	{
		NoteFailure();
	}
	PG_END_TRY();
	return more;
}

long
KeepReacting(long wait)
{
	TimestampTz now;
	long		pause;

	if (reactor.generation == DefinitionsGeneration() && !reactor.wanted)
		return wait;
	pause = RestLeft(&reactor.rest);
	if (pause > 0)
		return SoonerOf(wait, pause);
	if (reactor.not_before <= GetCurrentTimestamp() && TryReact())
		return 0;
	now = GetCurrentTimestamp();
	if (reactor.not_before <= now)
		return wait;
	pause = Min(ERROR_PAUSE_MS, TimestampDifferenceMilliseconds(now, reactor.not_before));
	return SoonerOf(wait, pause);
}
