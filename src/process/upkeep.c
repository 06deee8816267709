/*
 * upkeep.c
 *		Retention in the background, between the batches of the orchestrator.
 *
 * A round is as small as takes ROUND_MS, and after it the orchestrator has
 * nine times as long for itself: retention takes a tenth of its time at most
 * and delays a dispatch by a few milliseconds at worst.  When all is done it
 * looks again after a share of the retention.  A partition that somebody
 * reads is asked for again after a second, then less and less often, because
 * asking for it makes writers wait for some milliseconds.  Without retention it looks
 * once, at the start, whether the partitions of the next period are there,
 * and again when it is awake anyway: it never wakes an idle orchestrator.
 */
#include "postgres.h"

#include "access/xact.h"
#include "commands/dbcommands.h"
#include "miscadmin.h"
#include "pg/catalog.h"
#include "pg/complaint.h"
#include "pg/guc.h"
#include "pg/query.h"
#include "pgstat.h"
#include "portability/instr_time.h"
#include "process/rest.h"
#include "process/upkeep.h"
#include "run/retention.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#define ROUND_MS 5
#define REST_FOR_ROUND 9

/* Tasks of a round: to begin with, and at most. */
#define FIRST_ROUND_TASKS 20
#define LARGEST_ROUND_TASKS 1000

/* Between looking for what has become old enough, in milliseconds. */
#define SHORTEST_PAUSE_MS 1000
#define LONGEST_PAUSE_MS 60000

/* While somebody else keeps up, or the orchestrator has not begun yet. */
#define BUSY_PAUSE_MS 5000

/* Without retention, and after an error. */
#define LONG_PAUSE_MS 3600000
#define ERROR_PAUSE_MS 60000

static struct
{
	PruneCursor cursor;
	int			round_tasks;
	int			retention;		/* the setting as of the last round */
	int			clock_offset;	/* and this one */
	int			locked_out;		/* times in a row that a partition could not be dropped */
	TimestampTz due_at;			/* of the next round; 0: at once */
	UpkeepReport report;		/* of the last round */
}			upkeep = {.round_tasks = FIRST_ROUND_TASKS,.retention = -1};

/* Runs a round in a transaction of its own. */
static void
RunRound(UpkeepReport *report)
{
	QueryScope	scope;

	*report = (UpkeepReport)
	{
		0
	};
	SetCurrentStatementStartTimestamp();
	pgstat_report_activity(STATE_RUNNING, "tasker: upkeep of the history");
	StartTransactionCommand();
	if (ExtensionInstalled())
	{
		PushActiveSnapshot(GetTransactionSnapshot());
		OpenQueryScope(&scope);
		*report = RunUpkeep(&upkeep.cursor, tasker_retention, upkeep.round_tasks);
		if (report->period_begun != 0)
			ereport(LOG, (errmsg("tasker: period " INT64_FORMAT " of the logs of database \"%s\" has begun", report->period_begun,
								 get_database_name(MyDatabaseId))));
		if (report->partition_freed != NULL)
			ereport(LOG, (errmsg("tasker: partition %s of database \"%s\" held nothing that is needed any more and is gone",
								 report->partition_freed, get_database_name(MyDatabaseId))));
		CloseQueryScope(&scope);
		PopActiveSnapshot();
	}
	CommitTransactionCommand();
}

/*
 * What could not be done now is tried again later.  A lock that was not to be
 * had is no error.
 */
static void
NoteFailure(void)
{
	MemoryContext context = MemoryContextSwitchTo(TopMemoryContext);
	ErrorData  *error = CopyErrorData();
	int64		suppressed;

	HOLD_INTERRUPTS();
	AbortCurrentTransaction();
	FlushErrorState();
	RESUME_INTERRUPTS();
	if (error->sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE && error->sqlerrcode != ERRCODE_UNDEFINED_TABLE &&
		MayComplain(error->message, &suppressed))
		ereport(LOG,
				(errcode(error->sqlerrcode),
				 errmsg("tasker: upkeep of the history has failed%s: %s", SuppressedText(suppressed), error->message),
				 error->detail ? errdetail_internal("%s", error->detail) : 0,
				 error->context ? errcontext_msg("%s", error->context) : 0,
				 errhint("It is tried again in %d seconds; until then the history grows.", ERROR_PAUSE_MS / 1000)));
	FreeErrorData(error);
	MemoryContextSwitchTo(context);
}

/* How long until the next round, in milliseconds, after one that took that long. */
static long
PauseAfter(const UpkeepReport *report, double took_ms)
{
	if (report->more)
		return Max(1, (long) (took_ms * REST_FOR_ROUND));
	if (report->busy)
		return BUSY_PAUSE_MS;
	if (report->period_begun != 0)
		return SHORTEST_PAUSE_MS;
	upkeep.locked_out = report->locked ? Min(upkeep.locked_out + 1, 16) : 0;
	if (report->locked)
		return Min(LONGEST_PAUSE_MS, SHORTEST_PAUSE_MS << (upkeep.locked_out - 1));
	if (tasker_retention == 0)
		return LONG_PAUSE_MS;
	return Max(SHORTEST_PAUSE_MS, Min(LONGEST_PAUSE_MS, (int64) tasker_retention * 1000 / 100));
}

/* The next round is larger or smaller, so that it takes what a round may take. */
static void
AdaptRound(const UpkeepReport *report, double took_ms)
{
	if (took_ms > ROUND_MS)
		upkeep.round_tasks = Max(1, upkeep.round_tasks / 2);
	else if (report->more && took_ms < ROUND_MS / 2)
		upkeep.round_tasks = Min(LARGEST_ROUND_TASKS, 2 * upkeep.round_tasks);
}

/* Whether a round went well. */
static pg_noinline bool
TryRound(void)
{
	volatile bool done = false;

	PG_TRY();
	{
		RunRound(&upkeep.report);
		done = true;
	}
	PG_CATCH();
	{
		NoteFailure();
	}
	PG_END_TRY();
	return done;
}

/* Runs a round and decides when the next one is due. */
static void
RunDueRound(void)
{
	instr_time	begin;
	instr_time	took;
	long		pause = ERROR_PAUSE_MS;

	INSTR_TIME_SET_CURRENT(begin);
	if (TryRound())
	{
		INSTR_TIME_SET_CURRENT(took);
		INSTR_TIME_SUBTRACT(took, begin);
		pause = PauseAfter(&upkeep.report, INSTR_TIME_GET_MILLISEC(took));
		AdaptRound(&upkeep.report, INSTR_TIME_GET_MILLISEC(took));
	}
	upkeep.due_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), pause);
}

long
KeepUp(long wait)
{
	long		pause;

	if (upkeep.retention != tasker_retention || upkeep.clock_offset != tasker_clock_offset)
	{
		upkeep.retention = tasker_retention;
		upkeep.clock_offset = tasker_clock_offset;
		upkeep.due_at = 0;
	}
	if (upkeep.due_at <= GetCurrentTimestamp())
		RunDueRound();
	if (tasker_retention == 0)
		return wait;
	pause = Max(1, TimestampDifferenceMilliseconds(GetCurrentTimestamp(), upkeep.due_at));
	return SoonerOf(wait, pause);
}
