/*
 * shmem.c
 *		What the processes of one server share.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "pg/guc.h"
#include "pg/shmem.h"
#include "port/atomics.h"
#include "storage/ipc.h"
#include "storage/shmem.h"
#include "utils/hsearch.h"

typedef struct HeartbeatKey
{
	Oid			database;
	Oid			padding;
	int64		executor_id;
} HeartbeatKey;

typedef struct Heartbeat
{
	HeartbeatKey key;
	pg_atomic_uint64 seen_at;	/* a TimestampTz */
} Heartbeat;

SharedState *Shared = NULL;

static HTAB *heartbeats = NULL;
static shmem_request_hook_type previous_request_hook = NULL;
static shmem_startup_hook_type previous_startup_hook = NULL;

static Size
SharedStateSize(void)
{
	return add_size(offsetof(SharedState, databases),
					mul_size(tasker_max_databases, sizeof(DatabaseSlot)));
}

static void
RequestSharedMemory(void)
{
	if (previous_request_hook)
		previous_request_hook();
	RequestAddinShmemSpace(add_size(SharedStateSize(),
									hash_estimate_size(tasker_max_executors, sizeof(Heartbeat))));
	RequestNamedLWLockTranche("tasker", 1);
}

static void
StartSharedMemory(void)
{
	bool		found;
	HASHCTL		control = {.keysize = sizeof(HeartbeatKey), .entrysize = sizeof(Heartbeat)};

	if (previous_startup_hook)
		previous_startup_hook();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	Shared = ShmemInitStruct("tasker", SharedStateSize(), &found);
	if (!found)
	{
		memset(Shared, 0, SharedStateSize());
		Shared->lock = &(GetNamedLWLockTranche("tasker"))->lock;
		Shared->slots = tasker_max_databases;
	}
	heartbeats = ShmemInitHash("tasker heartbeats", tasker_max_executors, tasker_max_executors,
							   &control, HASH_ELEM | HASH_BLOBS | HASH_FIXED_SIZE);
	LWLockRelease(AddinShmemInitLock);
}

void
InitSharedMemory(void)
{
	previous_request_hook = shmem_request_hook;
	shmem_request_hook = RequestSharedMemory;
	previous_startup_hook = shmem_startup_hook;
	shmem_startup_hook = StartSharedMemory;
}

/* Whether nobody needs what a slot knows. */
static bool
IsSpare(const DatabaseSlot *slot)
{
	return slot->database == InvalidOid || (slot->status == DATABASE_IDLE && slot->pid == 0 && !slot->held);
}

bool
HasDatabaseRoom(void)
{
	for (int i = 0; i < Shared->slots; i++)
	{
		if (IsSpare(&Shared->databases[i]))
			return true;
	}
	return false;
}

/* An unused slot is taken rather than that of a database that wants no orchestrator. */
DatabaseSlot *
FindDatabaseSlot(Oid database, bool create)
{
	DatabaseSlot *free_slot = NULL;

	for (int i = 0; i < Shared->slots; i++)
	{
		DatabaseSlot *slot = &Shared->databases[i];

		if (slot->database == database)
			return slot;
		if (IsSpare(slot) && (free_slot == NULL || (free_slot->database != InvalidOid && slot->database == InvalidOid)))
			free_slot = slot;
	}
	if (!create || free_slot == NULL)
		return NULL;
	memset(free_slot, 0, sizeof(DatabaseSlot));
	free_slot->database = database;
	return free_slot;
}

static HeartbeatKey
HeartbeatKeyOf(int64 executor_id)
{
	HeartbeatKey key;

	memset(&key, 0, sizeof(key));
	key.database = MyDatabaseId;
	key.executor_id = executor_id;
	return key;
}

/*
 * Notes a sign of life.  False where the executor has no entry (and create
 * is not set), where there is no room for one, or without shared memory.
 */
bool
RecordHeartbeat(int64 executor_id, TimestampTz now, bool create)
{
	HeartbeatKey key = HeartbeatKeyOf(executor_id);
	Heartbeat  *entry;
	bool		found;

	if (Shared == NULL)
		return false;
	LWLockAcquire(Shared->lock, create ? LW_EXCLUSIVE : LW_SHARED);
	entry = hash_search(heartbeats, &key, create ? HASH_ENTER_NULL : HASH_FIND, &found);
	if (entry != NULL && !found)
		pg_atomic_init_u64(&entry->seen_at, (uint64) now);
	else if (entry != NULL)
		pg_atomic_write_u64(&entry->seen_at, (uint64) now);
	LWLockRelease(Shared->lock);
	return entry != NULL;
}

/* Gives the last sign of life; false where none is known. */
bool
LastHeartbeat(int64 executor_id, TimestampTz *seen_at)
{
	HeartbeatKey key = HeartbeatKeyOf(executor_id);
	Heartbeat  *entry;

	if (Shared == NULL)
		return false;
	LWLockAcquire(Shared->lock, LW_SHARED);
	entry = hash_search(heartbeats, &key, HASH_FIND, NULL);
	if (entry != NULL)
		*seen_at = (TimestampTz) pg_atomic_read_u64(&entry->seen_at);
	LWLockRelease(Shared->lock);
	return entry != NULL;
}

/* Makes room: the executor has ended. */
void
ForgetHeartbeat(int64 executor_id)
{
	HeartbeatKey key = HeartbeatKeyOf(executor_id);

	if (Shared == NULL)
		return;
	LWLockAcquire(Shared->lock, LW_EXCLUSIVE);
	(void) hash_search(heartbeats, &key, HASH_REMOVE, NULL);
	LWLockRelease(Shared->lock);
}
