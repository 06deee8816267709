/*
 * deliverer.c
 *		Events for steps that wait, in the background.
 *
 * Which events are awaited at all is remembered until definitions change (see
 * catalog.h): where none is, an orchestrator does nothing here.
 */
#include "postgres.h"

#include "access/xact.h"
#include "execute/pause.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "pg/catalog.h"
#include "pg/fault.h"
#include "pg/query.h"
#include "process/deliverer.h"
#include "run/event_wait.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

/* Events of one page. */
#define EVENTS_AT_ONCE "1000"

/* After an error, or where another session orchestrates. */
#define ERROR_PAUSE_MS 1000

static struct
{
	uint64		generation;		/* of the definitions when this was found */
	bool		any_awaited;	/* some template waits for an event */
	TimestampTz not_before;		/* after an error */
}			deliverer;

/* Some template may have steps that wait for an event. */
static bool
AnyAwaited(void)
{
	QueryScope	scope;
	int			n;

	OpenQueryScope(&scope);
	(void) AwaitedEventNames(&n);
	CloseQueryScope(&scope);
	return n > 0;
}

/* Runs the SQL function, which reads and delivers; returns how many steps have got an event. */
static int64
RunDelivery(void)
{
	bool		none;
	int64		delivered;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (SPI_execute("SELECT tasker.deliver_events(" EVENTS_AT_ONCE ")", false, 1) != SPI_OK_SELECT || SPI_processed != 1)
		elog(ERROR, "tasker.deliver_events() returned nothing");
	delivered = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &none));
	SPI_finish();
	return delivered;
}

/*
 * Delivers what has come, in a transaction of its own, and never while another
 * session orchestrates; whether a step has got something, for the next batch.
 */
static bool
Deliver(void)
{
	int64		delivered = 0;

	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	deliverer.generation = DefinitionsGeneration();
	deliverer.any_awaited = ExtensionInstalled() && SchemaVersion() >= 101 && AnyAwaited();
	if (deliverer.any_awaited)
	{
		if (TryLockOrchestration())
			delivered = RunDelivery();
		else
			deliverer.not_before = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ERROR_PAUSE_MS);
	}
	PopActiveSnapshot();
	CommitTransactionCommand();
	FAULT_POINT("events-delivered");
	return delivered > 0;
}

/* Nothing is lost: what could not be delivered is read again the next time. */
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
				 errmsg("tasker: events could not be delivered to the steps that wait for them: %s", error->message),
				 errhint("They are delivered later.")));
	FreeErrorData(error);
	MemoryContextSwitchTo(context);
	deliverer.any_awaited = true;
	deliverer.not_before = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ERROR_PAUSE_MS);
}

static pg_noinline bool
TryDeliver(void)
{
	volatile bool more = false;

	PG_TRY();
	{
		more = Deliver();
	}
	PG_CATCH();
	{
		NoteFailure();
	}
	PG_END_TRY();
	return more;
}

long
KeepDelivering(long wait)
{
	if (deliverer.generation == DefinitionsGeneration() && !deliverer.any_awaited)
		return wait;
	if (deliverer.not_before <= GetCurrentTimestamp())
	{
		if (TryDeliver())
			return 0;
		if (deliverer.not_before <= GetCurrentTimestamp())
			return wait;
	}
	return wait == -1 ? ERROR_PAUSE_MS : Min(wait, ERROR_PAUSE_MS);
}
