/*
 * announcer.c
 *		Notifications of events in the background.
 *
 * Whether there is a channel at all is remembered until definitions change
 * (see catalog.h): without one, an orchestrator does nothing here.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "pg/catalog.h"
#include "process/announcer.h"
#include "process/rest.h"
#include "run/consumer.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

/* Events of one transaction, for each channel. */
#define EVENTS_AT_ONCE 5000

/*
 * Whether it has told something or not the announcer rests then, so many times
 * as long as that took: under load many batches are told of in one transaction.
 */
#define REST_TIMES 9

/* After an error, say a queue of notifications that is full. */
#define ERROR_PAUSE_MS 1000

static struct
{
	uint64		generation;		/* of the definitions when channels were counted */
	int			channels;
	TimestampTz not_before;		/* after an error */
	Rest		rest;
}			announcer;

/*
 * Has the current transaction end without waiting for the disk or a standby:
 * the next batch would wait with it, and what a crash takes back is told once
 * more.
 */
static void
CommitWithoutWaiting(void)
{
	(void) set_config_option("synchronous_commit", "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
}

/* Tells what there is to tell, in a transaction of its own; whether there may be more. */
static bool
Announce(void)
{
	TimestampTz begin = GetCurrentTimestamp();
	uint64		announced = 0;

	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	CommitWithoutWaiting();
	PushActiveSnapshot(GetTransactionSnapshot());
	announcer.generation = DefinitionsGeneration();
	announcer.channels = 0;
	if (ExtensionInstalled() && SchemaVersion() >= 101)
		announced = AnnounceEvents(EVENTS_AT_ONCE, &announcer.channels);
	PopActiveSnapshot();
	CommitTransactionCommand();
	if (announced >= EVENTS_AT_ONCE)
		return true;
	RestAfter(&announcer.rest, begin, REST_TIMES);
	return false;
}

/* Nothing is lost: what could not be told is told the next time. */
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
				 errmsg("tasker: events could not be announced: %s", error->message),
				 errhint("They are announced later; consumers that read are not concerned.")));
	FreeErrorData(error);
	MemoryContextSwitchTo(context);
	announcer.channels = 1;
	announcer.not_before = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ERROR_PAUSE_MS);
}

static pg_noinline bool
TryAnnounce(void)
{
	volatile bool more = false;

	PG_TRY();
	{
		more = Announce();
	}
	PG_CATCH();
	{
		NoteFailure();
	}
	PG_END_TRY();
	return more;
}

long
KeepAnnouncing(long wait)
{
	long		rest;

	if (announcer.generation == DefinitionsGeneration() && announcer.channels == 0)
		return wait;
	rest = RestLeft(&announcer.rest);
	if (rest > 0)
		return SoonerOf(wait, rest);
	if (announcer.not_before <= GetCurrentTimestamp())
	{
		if (TryAnnounce())
			return 0;
		if (announcer.not_before <= GetCurrentTimestamp())
			return wait;
	}
	return SoonerOf(wait, ERROR_PAUSE_MS);
}
