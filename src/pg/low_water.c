/*
 * low_water.c
 *		How far the work queue is worked off, for each handler.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "pg/low_water.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/hsearch.h"

/* Handlers of all databases that can have a mark; what is beyond looks from the start. */
#define MAX_MARKS 8192

typedef struct MarkKey
{
	Oid			database;
	int32		handler_id;
} MarkKey;

typedef struct SharedMark
{
	MarkKey		key;
	int16		rank;
	int64		step_id;
	uint64		version;		/* grows each time the mark is lowered */
} SharedMark;

/* The lowest row of a handler that the current transaction has put in. */
typedef struct PendingMark
{
	int32		handler_id;		/* hash key */
	int16		rank;
	int64		step_id;
} PendingMark;

static HTAB *marks = NULL;
static LWLock *marks_lock = NULL;
static HTAB *pending = NULL;
static bool reset_at_commit = false;
static shmem_request_hook_type previous_request_hook = NULL;
static shmem_startup_hook_type previous_startup_hook = NULL;

/* ---------- shared memory ---------- */

static void
RequestMarks(void)
{
	if (previous_request_hook)
		previous_request_hook();
	RequestAddinShmemSpace(hash_estimate_size(MAX_MARKS, sizeof(SharedMark)));
	RequestNamedLWLockTranche("tasker_low_water", 1);
}

static void
StartMarks(void)
{
	HASHCTL		control = {.keysize = sizeof(MarkKey),.entrysize = sizeof(SharedMark)};

	if (previous_startup_hook)
		previous_startup_hook();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	marks = ShmemInitHash("tasker low-water marks", 64, MAX_MARKS, &control, HASH_ELEM | HASH_BLOBS);
	marks_lock = &(GetNamedLWLockTranche("tasker_low_water"))->lock;
	LWLockRelease(AddinShmemInitLock);
}

void
InitSharedLowWaterMarks(void)
{
	previous_request_hook = shmem_request_hook;
	shmem_request_hook = RequestMarks;
	previous_startup_hook = shmem_startup_hook;
	shmem_startup_hook = StartMarks;
}

/* ---------- reading and raising ---------- */

static SharedMark *
FindMark(int32 handler_id, HASHACTION action)
{
	MarkKey		key = {MyDatabaseId, handler_id};
	bool		found;
	SharedMark *mark = hash_search(marks, &key, action, &found);

	if (mark != NULL && !found)
	{
		mark->rank = PG_INT16_MIN;
		mark->step_id = 0;
		mark->version = 0;
	}
	return mark;
}

/* What the current transaction has put in lower than the mark only it can see yet. */
static void
LowerToOwnRows(LowWaterMark *mark, int32 handler_id)
{
	PendingMark *own = pending ? hash_search(pending, &handler_id, HASH_FIND, NULL) : NULL;

	if (reset_at_commit)
		own = NULL;
	if (reset_at_commit || (own != NULL && (own->rank < mark->rank ||
											(own->rank == mark->rank && own->step_id < mark->step_id))))
	{
		mark->rank = own ? own->rank : PG_INT16_MIN;
		mark->step_id = own ? own->step_id : 0;
	}
}

LowWaterMark
GetLowWaterMark(int32 handler_id)
{
	LowWaterMark result = {.rank = PG_INT16_MIN};
	SharedMark *mark;

	/* On a standby rows come in by replay, which lowers no mark. */
	if (marks == NULL || RecoveryInProgress())
		return result;
	LWLockAcquire(marks_lock, LW_SHARED);
	mark = FindMark(handler_id, HASH_FIND);
	if (mark == NULL)
	{
		LWLockRelease(marks_lock);
		LWLockAcquire(marks_lock, LW_EXCLUSIVE);
		mark = FindMark(handler_id, HASH_ENTER_NULL);
	}
	if (mark != NULL)
		result = (LowWaterMark)
	{
		.rank = mark->rank,.step_id = mark->step_id,.version = mark->version,.shared = true
	};
	LWLockRelease(marks_lock);
	LowerToOwnRows(&result, handler_id);
	return result;
}

void
RaiseLowWaterMark(int32 handler_id, const LowWaterMark *from, int16 rank, int64 step_id)
{
	SharedMark *mark;

	if (!from->shared || (rank == from->rank && step_id == from->step_id))
		return;
	LWLockAcquire(marks_lock, LW_EXCLUSIVE);
	mark = FindMark(handler_id, HASH_FIND);
	if (mark != NULL && mark->version == from->version &&
		(mark->rank < rank || (mark->rank == rank && mark->step_id < step_id)))
	{
		mark->rank = rank;
		mark->step_id = step_id;
	}
	LWLockRelease(marks_lock);
}

/* ---------- lowering ---------- */

void
LowerLowWaterMarkAtCommit(int32 handler_id, int16 rank, int64 step_id)
{
	HASHCTL		control = {.keysize = sizeof(int32),.entrysize = sizeof(PendingMark)};
	PendingMark *mark;
	bool		found;

	if (marks == NULL)
		return;
	if (pending == NULL)
		pending = hash_create("tasker pending low-water marks", 16, &control, HASH_ELEM | HASH_BLOBS);
	mark = hash_search(pending, &handler_id, HASH_ENTER, &found);
	if (found && (mark->rank < rank || (mark->rank == rank && mark->step_id <= step_id)))
		return;
	mark->rank = rank;
	mark->step_id = step_id;
}

void
ResetLowWaterMarksAtCommit(void)
{
	reset_at_commit = true;
}

static void
LowerMark(SharedMark *mark, int16 rank, int64 step_id)
{
	mark->version++;
	if (mark->rank < rank || (mark->rank == rank && mark->step_id <= step_id))
		return;
	mark->rank = rank;
	mark->step_id = step_id;
}

/* A handler without a mark needs none: who makes one looks from the start. */
static void
LowerMarks(void)
{
	HASH_SEQ_STATUS scan;
	PendingMark *lowest;

	LWLockAcquire(marks_lock, LW_EXCLUSIVE);
	hash_seq_init(&scan, pending);
	while ((lowest = hash_seq_search(&scan)) != NULL)
	{
		SharedMark *mark = FindMark(lowest->handler_id, HASH_FIND);

		if (mark != NULL)
			LowerMark(mark, lowest->rank, lowest->step_id);
	}
	LWLockRelease(marks_lock);
}

void
ResetLowWaterMarks(Oid database)
{
	HASH_SEQ_STATUS scan;
	SharedMark *mark;

	if (marks == NULL)
		return;
	LWLockAcquire(marks_lock, LW_EXCLUSIVE);
	hash_seq_init(&scan, marks);
	while ((mark = hash_seq_search(&scan)) != NULL)
	{
		if (mark->key.database == database)
			LowerMark(mark, PG_INT16_MIN, 0);
	}
	LWLockRelease(marks_lock);
}

/* After the commit, when others see the rows.  A prepared transaction resets all marks at its end. */
static void
LowerMarksAtTransactionEnd(XactEvent event, void *arg)
{
	if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT && event != XACT_EVENT_PREPARE)
		return;
	if (event == XACT_EVENT_COMMIT && pending != NULL)
		LowerMarks();
	if (event == XACT_EVENT_COMMIT && reset_at_commit)
		ResetLowWaterMarks(MyDatabaseId);
	if (pending != NULL)
		hash_destroy(pending);
	pending = NULL;
	reset_at_commit = false;
}

void
InitLowWaterMarks(void)
{
	RegisterXactCallback(LowerMarksAtTransactionEnd, NULL);
}
