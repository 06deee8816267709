/*
 * launcher.c
 *		Keeps one orchestrator per database that has the extension.
 *
 * The launcher connects to no database.  It cannot see where the extension
 * is, so at its start it has every database looked at; an orchestrator that
 * finds no extension exits and its slot becomes idle.  From then on utility
 * statements tell: CREATE EXTENSION wants one, DROP DATABASE and its likes
 * hold the slot until they are done, COMMIT PREPARED wakes it.
 *
 * A slot goes unknown -> wanted -> started -> (idle | wanted again after a
 * failure, each time later).  Held stops whatever there is.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "pg/complaint.h"
#include "pg/fault.h"
#include "pg/guc.h"
#include "pg/low_water.h"
#include "pg/measure.h"
#include "pg/shmem.h"
#include "pg/wait.h"
#include "pg/waiters.h"
#include "pg/wakeup.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "process/launcher.h"
#include "storage/ipc.h"
#include "storage/proc.h"
#include "tcop/tcopprot.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#define FIRST_RETRY_MS 1000
#define LAST_RETRY_MS 60000

/* Within which an orchestrator that was started has come. */
#define ATTACH_TIMEOUT_MS 30000

/* How long a utility statement waits for the orchestrator to leave. */
#define LEAVE_TIMEOUT_MS 5000

static ProcessUtility_hook_type previous_utility_hook = NULL;

/* ---------- the loop ---------- */

/* Templates and closed databases have no orchestrator. */
static bool
IsServed(Form_pg_database database)
{
	return database->datallowconn && !database->datistemplate;
}

/* Databases that were wanted, and those that the log says to be waiting for a slot. */
static List *looked_at = NIL;
static List *left_out = NIL;

/* Notes a database; false where it was noted before. */
static bool
NoteOnce(List **list, Oid database)
{
	MemoryContext caller;

	if (list_member_oid(*list, database))
		return false;
	caller = MemoryContextSwitchTo(TopMemoryContext);
	*list = lappend_oid(*list, database);
	MemoryContextSwitchTo(caller);
	return true;
}

/*
 * Has every database looked at that can be connected to.  Those for which
 * there is no slot wait until one turns out to have no extension.
 */
static void
WantAllDatabases(void)
{
	Relation	relation;
	TableScanDesc scan;
	HeapTuple	tuple;

	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	relation = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(relation, 0, NULL);
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		Form_pg_database database = (Form_pg_database) GETSTRUCT(tuple);
		DatabaseSlot *slot;

		if (!IsServed(database) || list_member_oid(looked_at, database->oid))
			continue;
		LWLockAcquire(Shared->lock, LW_EXCLUSIVE);
		slot = FindDatabaseSlot(database->oid, true);
		if (slot != NULL && slot->status == DATABASE_UNKNOWN)
			slot->status = DATABASE_WANTED;
		LWLockRelease(Shared->lock);
		if (slot != NULL)
		{
			(void) NoteOnce(&looked_at, database->oid);
			left_out = list_delete_oid(left_out, database->oid);
		}
		else if (NoteOnce(&left_out, database->oid))
			ereport(LOG,
					(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
					 errmsg("tasker: database \"%s\" has to wait, %d others may need an orchestrator",
							NameStr(database->datname), Shared->slots),
					 errhint("Increase tasker.max_databases, and restart the server.")));
	}
	table_endscan(scan);
	table_close(relation, AccessShareLock);
	CommitTransactionCommand();
}

/* Has those looked at that were left out, once there is room. */
static void
WantLeftOutDatabases(void)
{
	bool		room;

	if (left_out == NIL)
		return;
	LWLockAcquire(Shared->lock, LW_SHARED);
	room = HasDatabaseRoom();
	LWLockRelease(Shared->lock);
	if (room)
		WantAllDatabases();
}

/* Whether a database is still there, and one that is served; then its name, of NAMEDATALEN bytes. */
static bool
IsServedDatabase(Oid database, char *name)
{
	HeapTuple	tuple;
	bool		served;

	StartTransactionCommand();
	tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(database));
	served = HeapTupleIsValid(tuple) && IsServed((Form_pg_database) GETSTRUCT(tuple));
	if (served)
		strlcpy(name, NameStr(((Form_pg_database) GETSTRUCT(tuple))->datname), NAMEDATALEN);
	if (HeapTupleIsValid(tuple))
		ReleaseSysCache(tuple);
	CommitTransactionCommand();
	return served;
}

static bool
StartOrchestrator(Oid database, const char *name)
{
	BackgroundWorker worker = {
		.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION,
		.bgw_start_time = BgWorkerStart_RecoveryFinished,
		.bgw_restart_time = BGW_NEVER_RESTART,
		.bgw_main_arg = ObjectIdGetDatum(database),
		.bgw_notify_pid = MyProcPid,
	};

	snprintf(worker.bgw_name, BGW_MAXLEN, "tasker orchestrator of %s", name);
	snprintf(worker.bgw_type, BGW_MAXLEN, "tasker orchestrator");
	snprintf(worker.bgw_library_name, sizeof(worker.bgw_library_name), "tasker");
	snprintf(worker.bgw_function_name, sizeof(worker.bgw_function_name), "TaskerOrchestratorMain");
	return RegisterDynamicBackgroundWorker(&worker, NULL);
}

/* How long a slot that has failed this often waits. */
static int
RetryDelay(int failures)
{
	return failures == 0 ? 0 : Min(LAST_RETRY_MS, FIRST_RETRY_MS << Min(failures - 1, 10));
}

/* The shorter of two waits, of which -1 is endless. */
static long
EarlierWait(long wait, long other)
{
	return wait < 0 ? other : Min(wait, other);
}

/*
 * Starts what is wanted and due.  Returns after how many milliseconds to look
 * again, -1 for not before someone sets the latch.
 */
static long
StartWanted(void)
{
	TimestampTz now = GetCurrentTimestamp();
	long		wait = -1;

	for (int i = 0; i < Shared->slots; i++)
	{
		DatabaseSlot *slot = &Shared->databases[i];
		Oid			database = InvalidOid;
		bool		failed = false;
		bool		late = false;
		char		name[NAMEDATALEN];
		int64		suppressed;

		LWLockAcquire(Shared->lock, LW_EXCLUSIVE);
		/* One that was started and never came: it could not even begin. */
		if (slot->status == DATABASE_STARTED && slot->pid == 0 && slot->start_at <= now)
		{
			slot->failures++;
			slot->status = DATABASE_WANTED;
			late = true;
		}
		else if (slot->status == DATABASE_STARTED && slot->pid == 0)
			wait = EarlierWait(wait, TimestampDifferenceMilliseconds(now, slot->start_at));
		if (slot->status == DATABASE_WANTED)
		{
			if (slot->start_at <= now)
			{
				database = slot->database;
				slot->status = DATABASE_STARTED;
				slot->start_at = TimestampTzPlusMilliseconds(now, ATTACH_TIMEOUT_MS);
				wait = EarlierWait(wait, ATTACH_TIMEOUT_MS);
			}
			else
				wait = EarlierWait(wait, TimestampDifferenceMilliseconds(now, slot->start_at));
		}
		LWLockRelease(Shared->lock);
		if (!OidIsValid(database))
			continue;
		if (late && MayComplain("late", &suppressed))
			ereport(LOG,
					(errmsg("tasker: the orchestrator of database %u was started and has not come in %d seconds%s; it is started again",
							database, ATTACH_TIMEOUT_MS / 1000, SuppressedText(suppressed))));
		if (!IsServedDatabase(database, name))
			failed = false;
		else if (StartOrchestrator(database, name))
		{
			FAULT_POINT("orchestrator-asked-for");
			continue;
		}
		else
		{
			failed = true;
			ereport(LOG,
					(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
					 errmsg("tasker: could not start the orchestrator of database \"%s\"; trying again in %d seconds",
							name, RetryDelay(slot->failures + 1) / 1000),
					 errhint("Increase max_worker_processes, which is %d, and restart the server.", max_worker_processes)));
		}
		LWLockAcquire(Shared->lock, LW_EXCLUSIVE);
		if (failed)
		{
			strlcpy(slot->last_error, "there is no free slot of max_worker_processes", sizeof(slot->last_error));
			slot->failures++;
			slot->status = DATABASE_WANTED;
			slot->start_at = TimestampTzPlusMilliseconds(now, RetryDelay(slot->failures));
			wait = EarlierWait(wait, RetryDelay(slot->failures));
		}
		else
			memset(slot, 0, sizeof(DatabaseSlot));
		LWLockRelease(Shared->lock);
		if (!failed)
			ForgetMeasures(database);
	}
	return wait;
}

/* Other settings may want what was not wanted before. */
static void
WantIdleDatabases(void)
{
	LWLockAcquire(Shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < Shared->slots; i++)
	{
		if (Shared->databases[i].status == DATABASE_IDLE)
			Shared->databases[i].status = DATABASE_WANTED;
	}
	LWLockRelease(Shared->lock);
}

static void
LeaveLauncher(int code, Datum arg)
{
	LWLockAcquire(Shared->lock, LW_EXCLUSIVE);
	if (Shared->launcher == MyLatch)
		Shared->launcher = NULL;
	LWLockRelease(Shared->lock);
}

void
TaskerLauncherMain(Datum arg)
{
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	/* Of a reload since the postmaster has forked this process nothing was heard: it ignored that signal. */
	ConfigReloadPending = true;
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);

	LWLockAcquire(Shared->lock, LW_EXCLUSIVE);
	Shared->launcher = MyLatch;
	LWLockRelease(Shared->lock);
	before_shmem_exit(LeaveLauncher, (Datum) 0);
	NameWaitEvents();
	ereport(LOG, (errmsg("tasker: launcher started")));
	WantAllDatabases();
	for (;;)
	{
		long		wait;

		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
			if (tasker_orchestrator)
				WantIdleDatabases();
		}
		WantLeftOutDatabases();
		wait = StartWanted();
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_EXIT_ON_PM_DEATH | (wait >= 0 ? WL_TIMEOUT : 0),
						 wait, WaitEventOf(WAIT_LAUNCHER_MAIN));
	}
}

/* ---------- utility statements ---------- */

/* Wants an orchestrator for a database: it may have the extension now, or other settings. */
static void
WantDatabase(Oid database)
{
	DatabaseSlot *slot;

	LWLockAcquire(Shared->lock, LW_EXCLUSIVE);
	slot = FindDatabaseSlot(database, true);
	if (slot != NULL && slot->latch != NULL)
	{
		/* It looks whether the extension is still there, or is started again. */
		slot->stop = true;
		SetLatch(slot->latch);
	}
	else if (slot != NULL && slot->status != DATABASE_STARTED && slot->status != DATABASE_HELD)
	{
		slot->status = DATABASE_WANTED;
		slot->failures = 0;
		slot->start_at = 0;
	}
	if (Shared->launcher != NULL)
		SetLatch(Shared->launcher);
	LWLockRelease(Shared->lock);
}

/* Lets nobody orchestrate a database, and waits until nobody does. */
static void
HoldDatabase(Oid database)
{
	for (int waited = 0; waited < LEAVE_TIMEOUT_MS; waited += 10)
	{
		DatabaseSlot *slot;
		bool		gone;

		LWLockAcquire(Shared->lock, LW_EXCLUSIVE);
		slot = FindDatabaseSlot(database, true);
		gone = slot == NULL || (slot->pid == 0 && slot->status != DATABASE_STARTED);
		if (slot != NULL)
		{
			slot->stop = slot->held = true;
			if (gone)
				slot->status = DATABASE_HELD;
			if (slot->latch != NULL)
				SetLatch(slot->latch);
		}
		LWLockRelease(Shared->lock);
		if (gone)
			return;
		CHECK_FOR_INTERRUPTS();
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_EXIT_ON_PM_DEATH | WL_TIMEOUT, 10, WaitEventOf(WAIT_HOLD_DATABASE));
		ResetLatch(MyLatch);
	}
}

/* After the statement: the database is looked at again, if it is still there. */
static void
ReleaseDatabase(Oid database)
{
	DatabaseSlot *slot;

	LWLockAcquire(Shared->lock, LW_EXCLUSIVE);
	slot = FindDatabaseSlot(database, false);
	if (slot != NULL)
	{
		slot->stop = slot->held = false;
		if (slot->pid == 0)
		{
			slot->status = DATABASE_WANTED;
			slot->failures = 0;
			slot->start_at = 0;
		}
	}
	if (Shared->launcher != NULL)
		SetLatch(Shared->launcher);
	LWLockRelease(Shared->lock);
}

/* What to do when the transaction is over: until then others do not see what it did. */
static Oid	wanted_at_commit = InvalidOid;
static Oid	held_until_end = InvalidOid;

static void
FollowTransactionEnd(XactEvent event, void *arg)
{
	if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT && event != XACT_EVENT_PREPARE)
		return;
	if (event == XACT_EVENT_COMMIT && OidIsValid(wanted_at_commit))
		WantDatabase(wanted_at_commit);
	if (OidIsValid(held_until_end))
		ReleaseDatabase(held_until_end);
	wanted_at_commit = held_until_end = InvalidOid;
}

/* The database that a statement needs for itself; invalid where it needs none. */
static Oid
DatabaseNeeded(Node *statement)
{
	if (IsA(statement, DropdbStmt))
		return get_database_oid(castNode(DropdbStmt, statement)->dbname, true);
	if (IsA(statement, RenameStmt) && castNode(RenameStmt, statement)->renameType == OBJECT_DATABASE)
		return get_database_oid(castNode(RenameStmt, statement)->subname, true);
	if (IsA(statement, AlterDatabaseStmt))
	{
		ListCell   *cell;

		foreach(cell, castNode(AlterDatabaseStmt, statement)->options)
		{
			if (strcmp(lfirst_node(DefElem, cell)->defname, "tablespace") == 0)
				return get_database_oid(castNode(AlterDatabaseStmt, statement)->dbname, true);
		}
	}
	if (IsA(statement, CreatedbStmt))
	{
		ListCell   *cell;

		foreach(cell, castNode(CreatedbStmt, statement)->options)
		{
			DefElem    *option = lfirst_node(DefElem, cell);

			if (strcmp(option->defname, "template") == 0 && option->arg != NULL)
				return get_database_oid(defGetString(option), true);
		}
	}
	return InvalidOid;
}

static void
FollowUtility(PlannedStmt *planned, const char *query, bool read_only_tree, ProcessUtilityContext context,
			  ParamListInfo params, QueryEnvironment *environment, DestReceiver *receiver,
			  QueryCompletion *completion)
{
	Node	   *statement = planned->utilityStmt;
	Oid			needed = Shared != NULL ? DatabaseNeeded(statement) : InvalidOid;
	bool		wakes = IsA(statement, TransactionStmt) &&
		(castNode(TransactionStmt, statement)->kind == TRANS_STMT_COMMIT_PREPARED ||
		 castNode(TransactionStmt, statement)->kind == TRANS_STMT_ROLLBACK_PREPARED);

	/* Of a transaction that takes several away only the first is held; the others wait for none. */
	if (OidIsValid(needed) && (!OidIsValid(held_until_end) || held_until_end == needed))
	{
		held_until_end = needed;
		HoldDatabase(needed);
	}
	if (previous_utility_hook)
		previous_utility_hook(planned, query, read_only_tree, context, params, environment,
							  receiver, completion);
	else
		standard_ProcessUtility(planned, query, read_only_tree, context, params, environment,
								receiver, completion);
	if (Shared == NULL)
		return;
	if (IsA(statement, CreateExtensionStmt) ||
		(IsA(statement, DropStmt) && castNode(DropStmt, statement)->removeType == OBJECT_EXTENSION))
	{
		wanted_at_commit = MyDatabaseId;
		NoteEveryoneLooksAgain();
	}
	else if (IsA(statement, AlterDatabaseSetStmt))
		wanted_at_commit = get_database_oid(castNode(AlterDatabaseSetStmt, statement)->dbname, true);
	else if (IsA(statement, CreatedbStmt))
		wanted_at_commit = get_database_oid(castNode(CreatedbStmt, statement)->dbname, true);
	if (wakes)
	{
		FAULT_POINT("prepared-settled");
		WakeOrchestratorNow(true);
		ResetLowWaterMarks(MyDatabaseId);
		WakeAllWaiters(MyDatabaseId);
	}
}

void
InitLauncher(void)
{
	BackgroundWorker worker = {
		.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION,
		.bgw_start_time = BgWorkerStart_RecoveryFinished,
		.bgw_restart_time = 1,
	};

	snprintf(worker.bgw_name, BGW_MAXLEN, "tasker launcher");
	snprintf(worker.bgw_type, BGW_MAXLEN, "tasker launcher");
	snprintf(worker.bgw_library_name, sizeof(worker.bgw_library_name), "tasker");
	snprintf(worker.bgw_function_name, sizeof(worker.bgw_function_name), "TaskerLauncherMain");
	RegisterBackgroundWorker(&worker);
	previous_utility_hook = ProcessUtility_hook;
	ProcessUtility_hook = FollowUtility;
	RegisterXactCallback(FollowTransactionEnd, NULL);
}
