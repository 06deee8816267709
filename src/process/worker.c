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
#include "define/ownership.h"
#include "execute/pause.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "orchestrate/orchestrate.h"
#include "pg/arrival.h"
#include "pg/catalog.h"
#include "pg/clock.h"
#include "pg/guc.h"
#include "pg/query.h"
#include "pg/shmem.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "process/announcer.h"
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

typedef struct Worker
{
	DatabaseSlot *slot;
	Oid			database;
	Orchestrator *orchestrator; /* NULL: none yet, or thrown away */
	uint64		executors_seen; /* value of the slot's executors_changed */
	int			batch_size;
	int			error_wait;		/* milliseconds; 0: the last batch went well */
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
CountBatch(const BatchReport *report)
{
	DatabaseSlot *slot = worker.slot;

	LWLockAcquire(Shared->lock, LW_EXCLUSIVE);
	slot->last_batch_at = GetCurrentTimestamp();
	slot->batches++;
	slot->log_rows += report->log_rows;
	slot->claims += report->claims;
	slot->notifications += report->notifications;
	slot->failures = 0;
	LWLockRelease(Shared->lock);
}

static void
CountError(const char *message)
{
	LWLockAcquire(Shared->lock, LW_EXCLUSIVE);
	worker.slot->errors++;
	strlcpy(worker.slot->last_error, message, sizeof(worker.slot->last_error));
	LWLockRelease(Shared->lock);
}

/* Whether someone wants this process to leave, or look at executors again. */
static bool
IsAskedToStop(bool *executors_changed)
{
	DatabaseSlot *slot = worker.slot;
	bool		stop;

	LWLockAcquire(Shared->lock, LW_SHARED);
	stop = slot->stop || slot->database != worker.database;
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
			proc_exit(0);
		PushActiveSnapshot(GetTransactionSnapshot());
		OpenQueryScope(&scope);
		*report = RunBatch(worker.orchestrator, worker.batch_size, false);
		CloseQueryScope(&scope);
		PopActiveSnapshot();
	}
	CommitTransactionCommand();
	return locked;
}

/*
 * After an error: the memory is thrown away and the next batch is smaller.
 * One that fails alone is set aside, and the orchestrator goes on.
 */
static void
RecoverFromError(void)
{
	MemoryContext context = MemoryContextSwitchTo(TopMemoryContext);
	ErrorData  *error = CopyErrorData();
	bool		locked_rows = error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE ||
		error->sqlerrcode == ERRCODE_T_R_DEADLOCK_DETECTED;

	HOLD_INTERRUPTS();
	AbortCurrentTransaction();
	FlushErrorState();
	RESUME_INTERRUPTS();
	/* DROP EXTENSION came in between: that is no error. */
	if (error->sqlerrcode == ERRCODE_UNDEFINED_TABLE && !IsWanted())
		proc_exit(0);
	if (!locked_rows)
		ereport(LOG,
				(errcode(error->sqlerrcode),
				 errmsg("tasker: a batch has failed: %s", error->message),
				 error->detail ? errdetail_internal("%s", error->detail) : 0,
				 error->context ? errcontext_msg("%s", error->context) : 0));
	if (!locked_rows)
	{
		CountError(error->message);
		if (worker.batch_size == 1)
			ereport(LOG,
					(errmsg("tasker: what the orchestrator cannot process is set aside: %d tasks or steps",
							SetAsideLast(worker.orchestrator)),
					 errhint("They are tried again when the orchestrator restarts.")));
		worker.batch_size = Max(1, worker.batch_size / 8);
		worker.error_wait = worker.error_wait == 0 ? FIRST_ERROR_WAIT_MS :
			Min(LAST_ERROR_WAIT_MS, 2 * worker.error_wait);
	}
	CloseOrchestrator(worker.orchestrator);
	worker.orchestrator = OpenOrchestrator(TopMemoryContext);
	if (locked_rows)
		AvoidLockedRows(worker.orchestrator);
	FreeErrorData(error);
	MemoryContextSwitchTo(context);
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
	worker.batch_size = Min(tasker_batch_size, 2 * worker.batch_size);
	if (report.more)
		return 0;
	if (report.wake_at == DT_NOEND)
		return -1;
	now = TaskerNow();
	return report.wake_at <= now ? 0 : (long) Min((report.wake_at - now + 999) / 1000, INT_MAX);
}

void
TaskerOrchestratorMain(Datum arg)
{
	uint32		wait_event;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	if (Shared == NULL || !EnterSlot(DatumGetObjectId(arg)))
		proc_exit(0);
	BackgroundWorkerInitializeConnectionByOid(worker.database, InvalidOid, 0);
	SetConfigOption("lock_timeout", LOCK_TIMEOUT, PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("statement_timeout", "0", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("idle_in_transaction_session_timeout", "0", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("default_transaction_isolation", "read committed", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("default_transaction_read_only", "off", PGC_SUSET, PGC_S_OVERRIDE);
	TakeOverDatabase();
	if (!IsWanted())
		proc_exit(0);
	wait_event = WaitEventExtensionNew("TaskerOrchestratorMain");
	worker.batch_size = tasker_batch_size;
	worker.orchestrator = OpenOrchestrator(TopMemoryContext);
	ereport(LOG, (errmsg("tasker: orchestrator started")));
	for (;;)
	{
		bool		executors_changed;
		long		wait;

		/* Before the batch: what comes during it sets the latch again. */
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if (IsAskedToStop(&executors_changed))
			proc_exit(0);
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
			if (!tasker_orchestrator)
				proc_exit(0);
		}
		if (executors_changed)
			RefreshExecutors(worker.orchestrator);
		pgstat_report_activity(STATE_RUNNING, "orchestrating");
		wait = KeepAnnouncing(KeepTimetable(KeepUp(Orchestrate())));
		if (wait == 0)
			continue;
		pgstat_report_stat(true);
		pgstat_report_activity(STATE_IDLE, NULL);
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_EXIT_ON_PM_DEATH | (wait > 0 ? WL_TIMEOUT : 0),
						 wait, wait_event);
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
