/*
 * worker.c
 *		The orchestrator of one database, a background worker.
 *
 * One transaction per batch, one place that waits: for its latch, which
 * commits set, or for the next timer.  Idle it runs no query at all.
 *
 * It never waits long for rows that a session holds locked: after
 * LOCK_TIMEOUT_MS the batch is given up and run again leaving locked rows
 * alone.  So a forgotten transaction stops its own steps and nothing else,
 * and no deadlock with the orchestrator lives to be detected.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "commands/dbcommands.h"
#include "define/ownership.h"
#include "execute/pause.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "orchestrate/orchestrate.h"
#include "pg/arrival.h"
#include "pg/catalog.h"
#include "pg/clock.h"
#include "pg/complaint.h"
#include "pg/fault.h"
#include "pg/guc.h"
#include "pg/measure.h"
#include "pg/query.h"
#include "pg/shmem.h"
#include "pg/wait.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "process/announcer.h"
#include "process/reactor.h"
#include "process/timetable.h"
#include "process/upkeep.h"
#include "process/worker.h"
#include "storage/ipc.h"
#include "storage/proc.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#define LOCK_TIMEOUT "100ms"

/* While another session orchestrates. */
#define BUSY_WAIT_MS 20

/* After an error, doubled up to the last. */
#define FIRST_ERROR_WAIT_MS 100
#define LAST_ERROR_WAIT_MS 30000

/* For so long after an error batches do not grow before everything known is done: it may come again. */
#define CAREFUL_US (10 * USECS_PER_SEC)

/* A batch that takes longer is worth a line in the log. */
#define SLOW_BATCH_MS 5000

/* How often the memory held is counted. */
#define MEMORY_INTERVAL_MS 1000

typedef struct Worker
{
	DatabaseSlot *slot;
	Oid			database;
	Orchestrator *orchestrator; /* NULL: none yet, or thrown away */
	uint64		executors_seen; /* value of the slot's executors_changed */
	int			batch_size;
	int			error_wait;		/* milliseconds; 0: the last batch went well */
	TimestampTz not_before;		/* by the real clock: end of that wait */
	TimestampTz careful_until;	/* 0: batches may grow */
	TimestampTz memory_at;		/* when the memory was last counted */
	char		database_name[NAMEDATALEN];
} Worker;

static Worker worker;

/* ---------- the slot ---------- */

/* Says goodbye; the launcher decides what comes next. */
static void
LeaveSlot(int code, Datum arg)
{
	DatabaseSlot *slot;

	LWLockAcquire(Shared->lock, LW_EXCLUSIVE);
	slot = FindDatabaseSlot(worker.database, false);
	if (slot != NULL && (slot->pid == MyProcPid || slot->pid == 0))
	{
		slot->pid = 0;
		slot->latch = NULL;
		if (slot->status == DATABASE_STARTED)
		{
			slot->failures = code == 0 ? 0 : slot->failures + 1;
			slot->status = slot->held ? DATABASE_HELD :
				code == 0 && !slot->stop ? DATABASE_IDLE : DATABASE_WANTED;
			slot->start_at = code == 0 ? 0 :
				TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
											Min(60000, 1000 << Min(slot->failures - 1, 6)));
		}
		slot->stop = false;
		if (Shared->launcher != NULL)
			SetLatch(Shared->launcher);
	}
	LWLockRelease(Shared->lock);
}

/* Takes the slot of the database; false where it is not wanted any more. */
static bool
EnterSlot(Oid database)
{
	DatabaseSlot *slot;
	bool		welcome;

	worker.database = database;
	LWLockAcquire(Shared->lock, LW_EXCLUSIVE);
	slot = FindDatabaseSlot(database, false);
	welcome = slot != NULL && slot->status == DATABASE_STARTED && slot->pid == 0 && !slot->held;
	if (slot != NULL && slot->held && slot->pid == 0)
		slot->status = DATABASE_HELD;
	if (welcome)
	{
		slot->pid = MyProcPid;
		slot->latch = MyLatch;
		slot->started_at = GetCurrentTimestamp();
		slot->batches = slot->log_rows = slot->claims = slot->notifications = slot->errors = 0;
		slot->last_error[0] = '\0';
	}
	worker.slot = slot;
	LWLockRelease(Shared->lock);
	if (welcome)
		before_shmem_exit(LeaveSlot, (Datum) 0);
	return welcome;
}

static void
CountMemory(TimestampTz now)
{
	if (!TimestampDifferenceExceeds(worker.memory_at, now, MEMORY_INTERVAL_MS))
		return;
	MeasureMemory(MemoryContextMemAllocated(TopMemoryContext, true));
	worker.memory_at = now;
}

static void
ReportSlowBatch(const BatchReport *report, TimestampTz begun_at, TimestampTz now)
{
	int64		suppressed;

	if (TimestampDifferenceExceeds(begun_at, now, SLOW_BATCH_MS) && MayComplain("slow batch", &suppressed))
		ereport(LOG,
				(errmsg("tasker: a batch of database \"%s\" took %.1f s%s", worker.database_name,
						(now - begun_at) / (double) USECS_PER_SEC, SuppressedText(suppressed)),
				 errdetail("It read " INT64_FORMAT " rows of the logs, made " INT64_FORMAT " transitions and claimed "
						   INT64_FORMAT " steps.", report->log_rows, report->transitions, report->claims),
				 errhint("Where it had little to do, look for what held it up: locks, disk, an old snapshot (tasker.stat_horizon).")));
}

static void
CountBatch(const BatchReport *report)
{
	DatabaseSlot *slot = worker.slot;
	BatchMeasure measure = {
		.begun_at = GetCurrentStatementStartTimestamp(),.ended_at = GetCurrentTimestamp(),
		.news_since = report->news_since,.log_rows = report->log_rows,
		.claims = report->claims,.notifications = report->notifications
	};

	MeasureBatch(&measure);
	CountMemory(measure.ended_at);
	ReportSlowBatch(report, measure.begun_at, measure.ended_at);
	LWLockAcquire(Shared->lock, LW_EXCLUSIVE);
	slot->last_batch_at = measure.ended_at;
	slot->batches++;
	slot->log_rows += report->log_rows;
	slot->claims += report->claims;
	slot->notifications += report->notifications;
	slot->failures = 0;
	LWLockRelease(Shared->lock);
}

static void
CountError(const ErrorData *error)
{
	(void) MeasureError(error->sqlerrcode, error->message, GetCurrentTimestamp());
	LWLockAcquire(Shared->lock, LW_EXCLUSIVE);
	worker.slot->errors++;
	strlcpy(worker.slot->last_error, error->message, sizeof(worker.slot->last_error));
	LWLockRelease(Shared->lock);
}

/* Ends the process, with a line that says why. */
pg_noreturn static void Leave(const char *reason);

static void
Leave(const char *reason)
{
	ereport(LOG, (errmsg("tasker: the orchestrator of database \"%s\" stops: %s", worker.database_name, reason)));
	proc_exit(0);
}

/* Why this process shall leave, NULL: it shall not; and whether it shall look at executors again. */
static const char *
IsAskedToStop(bool *executors_changed)
{
	DatabaseSlot *slot = worker.slot;
	const char *stop = NULL;

	LWLockAcquire(Shared->lock, LW_SHARED);
	if (slot->database != worker.database)
		stop = "the database is gone";
	else if (slot->held)
		stop = "a utility command needs the database; it starts again afterwards";
	else if (slot->stop)
		stop = "extensions or settings of the database have changed; it starts again if it is wanted";
	*executors_changed = slot->executors_changed != worker.executors_seen;
	worker.executors_seen = slot->executors_changed;
	LWLockRelease(Shared->lock);
	return stop;
}

/* ---------- batches ---------- */

/* What came with the server belongs to somebody, also where nobody orchestrates. */
static void
TakeOverDatabase(void)
{
	QueryScope	scope;
	TimestampTz arrived_at;

	if (ServerArrival(&arrived_at) == ARRIVAL_NONE)
		return;
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	if (!RecoveryInProgress() && ExtensionInstalled() && TryLockOrchestration())
	{
		OpenQueryScope(&scope);
		TakeOver();
		CloseQueryScope(&scope);
	}
	PopActiveSnapshot();
	CommitTransactionCommand();
}

/* Whether this database wants an orchestrator at all. */
static bool
IsWanted(void)
{
	bool		wanted;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	wanted = tasker_orchestrator && !RecoveryInProgress() && ExtensionInstalled();
	PopActiveSnapshot();
	CommitTransactionCommand();
	return wanted;
}

/*
 * Runs a batch in a transaction of its own.  False where another session is
 * orchestrating.
 */
static bool
RunTransaction(BatchReport *report)
{
	QueryScope	scope;
	bool		locked;

	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	locked = TryLockOrchestration();
	if (locked)
	{
		if (!ExtensionInstalled())
			Leave("the extension was dropped");
		PushActiveSnapshot(GetTransactionSnapshot());
		OpenQueryScope(&scope);
		*report = RunBatch(worker.orchestrator, worker.batch_size, false);
		CloseQueryScope(&scope);
		PopActiveSnapshot();
	}
	FAULT_POINT("batch-done");
	CommitTransactionCommand();
	FAULT_POINT("batch-committed");
	return locked;
}

/* Whether an error comes from a file of PostgreSQL: what it raises with the code of any limit. */
static bool
IsLimitOf(const ErrorData *error, const char *file)
{
	return error->sqlerrcode == ERRCODE_PROGRAM_LIMIT_EXCEEDED && error->filename != NULL &&
		strcmp(error->filename, file) == 0;
}

/*
 * Whether an error says something of the server (full disk, no memory, no
 * transaction id left, no permission to write) and not of what was processed.
 */
static bool
IsTroubleOfServer(const ErrorData *error)
{
	switch (ERRCODE_TO_CATEGORY(error->sqlerrcode))
	{
		case ERRCODE_INSUFFICIENT_RESOURCES:
		case ERRCODE_OPERATOR_INTERVENTION:
		case ERRCODE_SYSTEM_ERROR:
		case ERRCODE_TRANSACTION_ROLLBACK:
			return true;
		default:
			return error->sqlerrcode == ERRCODE_READ_ONLY_SQL_TRANSACTION || IsLimitOf(error, "varsup.c");
	}
}

/* What failed alone is set aside. */
static void
SetAside(const ErrorData *error)
{
	int64		id;
	bool		is_task;

	if (!SetAsideLast(worker.orchestrator, &id, &is_task))
		return;
	MeasureSetAside(id, is_task);
	worker.careful_until = 0;
	ereport(LOG,
			(errcode(error->sqlerrcode),
			 errmsg("tasker: %s " INT64_FORMAT " of database \"%s\" cannot be processed and is set aside: %s",
					is_task ? "task" : "step", id, worker.database_name, error->message),
			 errhint("Mend the cause, then end the orchestrator with pg_terminate_backend(%d): the one that follows tries again.",
					 MyProcPid)));
}

/* Says that a batch has failed and what happens next; the same error once a minute. */
static void
ReportError(const ErrorData *error, bool full_queue, bool trouble)
{
	int64		suppressed;

	if (!MayComplain(error->message, &suppressed))
		return;
	ereport(LOG,
			(errcode(error->sqlerrcode),
			 errmsg("tasker: a batch of database \"%s\" has failed%s: %s", worker.database_name,
					SuppressedText(suppressed), error->message),
			 error->detail ? errdetail_internal("%s", error->detail) : 0,
			 error->context ? errcontext_msg("%s", error->context) : 0,
			 full_queue ? errhint("Steps stay in the work queue, where executors can claim them, until there is room. "
								  "End the session that listens and has a transaction open.") :
			 trouble ? errhint("Nothing is lost; it is tried again in at most %d s.", LAST_ERROR_WAIT_MS / 1000) :
			 errhint("It runs again in smaller parts until what fails is alone; that is then set aside.")));
}

/*
 * After an error: the memory is thrown away and the next batch is smaller.
 * One that fails alone is set aside, and the orchestrator goes on.  Trouble of
 * the server is nobody's fault: it is only waited for.
 */
static void
RecoverFromError(void)
{
	MemoryContext context = MemoryContextSwitchTo(TopMemoryContext);
	ErrorData  *error = CopyErrorData();
	bool		locked_rows = error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE ||
		error->sqlerrcode == ERRCODE_T_R_DEADLOCK_DETECTED;
	bool		full_queue = IsLimitOf(error, "async.c");
	bool		trouble = full_queue || IsTroubleOfServer(error);

	HOLD_INTERRUPTS();
	AbortCurrentTransaction();
	FlushErrorState();
	RESUME_INTERRUPTS();
	/* DROP EXTENSION came in between: that is no error. */
	if (error->sqlerrcode == ERRCODE_UNDEFINED_TABLE && !IsWanted())
		Leave("the extension was dropped");
	if (!locked_rows)
	{
		ReportError(error, full_queue, trouble);
		CountError(error);
		worker.careful_until = GetCurrentTimestamp() + CAREFUL_US;
		if (worker.batch_size == 1 && !trouble)
			SetAside(error);
		worker.batch_size = Max(1, worker.batch_size / 8);
		worker.error_wait = worker.error_wait == 0 ? FIRST_ERROR_WAIT_MS :
			Min(LAST_ERROR_WAIT_MS, 2 * worker.error_wait);
		worker.not_before = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), worker.error_wait);
	}
	CloseOrchestrator(worker.orchestrator);
	worker.orchestrator = OpenOrchestrator(TopMemoryContext);
	if (locked_rows)
		AvoidLockedRows(worker.orchestrator);
	if (full_queue)
		StopPushing(worker.orchestrator);
	FreeErrorData(error);
	MemoryContextSwitchTo(context);
}

/* After a batch that went well the next one may be larger, unless what has failed may still be to come. */
static void
GrowBatches(bool more)
{
	if (more && worker.careful_until > GetCurrentTimestamp())
		return;
	worker.careful_until = 0;
	worker.batch_size = Min(tasker_batch_size, 2 * worker.batch_size);
}

/* Runs a batch; returns for how many milliseconds to wait then, -1 for news. */
static long
Orchestrate(void)
{
	BatchReport report = {0};
	volatile bool ran = false;
	volatile bool failed = false;
	TimestampTz now;

	PG_TRY();
	{
		ran = RunTransaction(&report);
	}
	PG_CATCH();
	{
		RecoverFromError();
		failed = true;
	}
	PG_END_TRY();
	if (failed)
		return worker.error_wait;
	if (!ran)
		return BUSY_WAIT_MS;

	CountBatch(&report);
	worker.error_wait = 0;
	if (worker.batch_size < tasker_batch_size)
		GrowBatches(report.more);
	worker.batch_size = Min(tasker_batch_size, worker.batch_size);
	if (report.more)
		return 0;
	if (report.wake_at == DT_NOEND)
		return -1;
	now = TaskerNow();
	return report.wake_at <= now ? 0 : (long) Min((report.wake_at - now + 999) / 1000, INT_MAX);
}

/* What the process is called, here and in pg_stat_activity. */
static void
NameProcess(void)
{
	char	   *name;

	StartTransactionCommand();
	name = get_database_name(worker.database);
	strlcpy(worker.database_name, name != NULL ? name : "?", NAMEDATALEN);
	CommitTransactionCommand();
	SetConfigOption("application_name", "tasker orchestrator", PGC_USERSET, PGC_S_OVERRIDE);
}

void
TaskerOrchestratorMain(Datum arg)
{
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	/* Of a reload since the postmaster has forked this process nothing was heard: it ignored that signal. */
	ConfigReloadPending = true;
	if (Shared == NULL || !EnterSlot(DatumGetObjectId(arg)))
		proc_exit(0);
	BackgroundWorkerInitializeConnectionByOid(worker.database, InvalidOid, 0);
	FAULT_POINT("orchestrator-connected");
	SetConfigOption("lock_timeout", LOCK_TIMEOUT, PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("statement_timeout", "0", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("idle_in_transaction_session_timeout", "0", PGC_SUSET, PGC_S_OVERRIDE);
	/* Since 17. */
	if (GetConfigOption("transaction_timeout", true, false) != NULL)
		SetConfigOption("transaction_timeout", "0", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("default_transaction_isolation", "read committed", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("default_transaction_read_only", "off", PGC_SUSET, PGC_S_OVERRIDE);
	TakeOverDatabase();
	if (!IsWanted())
		proc_exit(0);
	worker.batch_size = tasker_batch_size;
	worker.orchestrator = OpenOrchestrator(TopMemoryContext);
	NameProcess();
	BeginMeasures();
	ereport(LOG, (errmsg("tasker: orchestrator started for database \"%s\"", worker.database_name)));
	for (;;)
	{
		bool		executors_changed;
		const char *stop;
		long		wait;

		/* Before the batch: what comes during it sets the latch again. */
		ResetLatch(MyLatch);
		/* A cancel that came too late for a batch has nothing to cancel. */
		QueryCancelPending = false;
		CHECK_FOR_INTERRUPTS();
		if ((stop = IsAskedToStop(&executors_changed)) != NULL)
			Leave(stop);
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
			if (!tasker_orchestrator)
				Leave("tasker.orchestrator is off");
		}
		if (executors_changed)
			RefreshExecutors(worker.orchestrator);
		/* News do not shorten the wait after an error: they would only fail again. */
		wait = worker.error_wait == 0 ? 0 :
			TimestampDifferenceMilliseconds(GetCurrentTimestamp(), worker.not_before);
		if (wait == 0)
			wait = KeepAnnouncing(KeepReacting(KeepTimetable(KeepUp(Orchestrate()))));
		if (wait == 0)
			continue;
		pgstat_report_stat(true);
		pgstat_report_activity(STATE_IDLE, NULL);
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_EXIT_ON_PM_DEATH | (wait > 0 ? WL_TIMEOUT : 0),
						 wait, WaitEventOf(WAIT_ORCHESTRATOR_MAIN));
	}
}

/* ---------- what it has done ---------- */

PG_FUNCTION_INFO_V1(tasker_orchestrator_status);

Datum
tasker_orchestrator_status(PG_FUNCTION_ARGS)
{
	TupleDesc	row_type;
	Datum		values[10];
	bool		nulls[10] = {false};
	DatabaseSlot slot = {0};

	if (get_call_result_type(fcinfo, NULL, &row_type) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	if (Shared != NULL)
	{
		DatabaseSlot *found;

		LWLockAcquire(Shared->lock, LW_SHARED);
		found = FindDatabaseSlot(MyDatabaseId, false);
		if (found != NULL)
			slot = *found;
		else if (!HasDatabaseRoom())
			strlcpy(slot.last_error, "there is no free slot of tasker.max_databases", sizeof(slot.last_error));
		LWLockRelease(Shared->lock);
	}
	values[0] = Int32GetDatum(slot.pid);
	nulls[0] = slot.pid == 0;
	values[1] = TimestampTzGetDatum(slot.started_at);
	nulls[1] = slot.pid == 0;
	values[2] = TimestampTzGetDatum(slot.last_batch_at);
	nulls[2] = slot.last_batch_at == 0;
	values[3] = Int64GetDatum(slot.batches);
	values[4] = Int64GetDatum(slot.log_rows);
	values[5] = Int64GetDatum(slot.claims);
	values[6] = Int64GetDatum(slot.notifications);
	values[7] = Int64GetDatum(slot.errors);
	values[8] = CStringGetTextDatum(slot.last_error);
	nulls[8] = slot.last_error[0] == '\0';
	values[9] = CStringGetTextDatum(Shared == NULL ? "not preloaded" :
									slot.pid != 0 ? "running" :
									slot.status == DATABASE_WANTED || slot.status == DATABASE_STARTED ? "starting" :
									slot.status == DATABASE_HELD ? "held by a utility command" : "off");
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(row_type), values, nulls)));
}
