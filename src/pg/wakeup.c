/*
 * wakeup.c
 *		Telling the orchestrator, after the commit, that there is news.
 *
 * Application transactions never NOTIFY: NOTIFY holds a lock of the whole
 * cluster until the commit is flushed.  Setting a latch after the commit
 * costs a microsecond, and nothing is lost if it does not happen: only a
 * crash of the server comes between, and then the orchestrator reads the log
 * anyway.  A prepared transaction commits in another session; the launcher's
 * utility hook wakes for that.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "pg/fault.h"
#include "pg/measure.h"
#include "pg/shmem.h"
#include "pg/wakeup.h"

static bool wake_at_commit = false;
static bool executors_at_commit = false;
static int64 rows_at_commit = 0;

/*
 * A database whose orchestrator is not there yet is the launcher's business:
 * it starts one, unless it knows that none is wanted.
 */
void
WakeOrchestratorNow(bool executors_changed)
{
	DatabaseSlot *slot;

	if (Shared == NULL || !OidIsValid(MyDatabaseId))
		return;
	LWLockAcquire(Shared->lock, executors_changed ? LW_EXCLUSIVE : LW_SHARED);
	slot = FindDatabaseSlot(MyDatabaseId, false);
	if (slot != NULL && executors_changed)
		slot->executors_changed++;
	if (slot != NULL && slot->latch != NULL)
		SetLatch(slot->latch);
	else if (slot == NULL)
	{
		/* The first commit since CREATE EXTENSION, or since a restart. */
		LWLockRelease(Shared->lock);
		LWLockAcquire(Shared->lock, LW_EXCLUSIVE);
		slot = FindDatabaseSlot(MyDatabaseId, true);
		if (slot != NULL && slot->status == DATABASE_UNKNOWN)
			slot->status = DATABASE_WANTED;
		if (slot != NULL && executors_changed)
			slot->executors_changed++;
		if (Shared->launcher != NULL)
			SetLatch(Shared->launcher);
	}
	LWLockRelease(Shared->lock);
}

static void
WakeAtTransactionEnd(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_PRE_COMMIT && wake_at_commit)
		FAULT_POINT("committing");
	if (event == XACT_EVENT_PREPARE && wake_at_commit)
		FAULT_POINT("prepared");
	if (event == XACT_EVENT_COMMIT && wake_at_commit)
	{
		FAULT_POINT("committed");
		if (rows_at_commit > 0)
			AddUnread(rows_at_commit);
		WakeOrchestratorNow(executors_at_commit);
		FAULT_POINT("woken");
	}
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
	{
		wake_at_commit = executors_at_commit = false;
		rows_at_commit = 0;
	}
}

void
WakeOrchestratorAtCommit(int64 rows)
{
	wake_at_commit = true;
	rows_at_commit += rows;
}

void
WakeForExecutorsAtCommit(void)
{
	wake_at_commit = executors_at_commit = true;
}

bool
TransactionHasNews(void)
{
	return wake_at_commit;
}

bool
OrchestratorRunning(void)
{
	DatabaseSlot *slot;
	bool		running;

	if (Shared == NULL)
		return false;
	LWLockAcquire(Shared->lock, LW_SHARED);
	slot = FindDatabaseSlot(MyDatabaseId, false);
	running = slot != NULL &&
		(slot->latch != NULL || slot->status == DATABASE_WANTED || slot->status == DATABASE_STARTED);
	LWLockRelease(Shared->lock);
	return running;
}

void
InitWakeup(void)
{
	RegisterXactCallback(WakeAtTransactionEnd, NULL);
}
