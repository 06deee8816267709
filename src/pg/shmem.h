/*
 * shmem.h
 *		What the processes of one server share: who orchestrates which
 *		database, and the heartbeats of detached executors.
 *
 * Nothing here is truth: after a crash it starts empty, and where tasker is
 * not preloaded it does not exist.
 */
#ifndef TASKER_SHMEM_H
#define TASKER_SHMEM_H

#include "tasker.h"

#include "storage/latch.h"
#include "storage/lwlock.h"

typedef enum DatabaseStatus
{
	DATABASE_UNKNOWN,			/* slot not in use */
	DATABASE_WANTED,			/* the launcher shall start an orchestrator */
	DATABASE_STARTED,			/* an orchestrator was started, or is running */
	DATABASE_IDLE,				/* no extension there, or switched off */
	DATABASE_HELD				/* a utility command needs the database for itself */
} DatabaseStatus;

typedef struct DatabaseSlot
{
	Oid			database;
	DatabaseStatus status;
	pid_t		pid;			/* of the orchestrator; 0 where none is attached */
	Latch	   *latch;			/* its latch while attached */
	bool		stop;			/* it shall exit */
	bool		held;			/* and none shall start until the utility command is done */
	int			failures;		/* in a row, for the launcher's backoff */
	TimestampTz start_at;		/* not before this time */
	uint64		executors_changed;	/* grows when an executor comes or goes */
	/* What the orchestrator has done since it started, for stat_orchestrator. */
	TimestampTz started_at;
	TimestampTz last_batch_at;
	uint64		batches;
	uint64		log_rows;
	uint64		claims;
	uint64		notifications;
	uint64		errors;
	char		last_error[256];
} DatabaseSlot;

typedef struct SharedState
{
	LWLock	   *lock;			/* protects everything here but *_seen_at */
	Latch	   *launcher;		/* the launcher's latch while it lives */
	int			slots;
	DatabaseSlot databases[FLEXIBLE_ARRAY_MEMBER];
} SharedState;

/* NULL where tasker is not in shared_preload_libraries. */
extern SharedState *Shared;

/* Reserves the memory; called from _PG_init while libraries are preloaded. */
extern void InitSharedMemory(void);

/*
 * The slot of a database; makes one if create, in place of one that is idle if
 * need be.  NULL where there is none or no room.  The caller must hold
 * Shared->lock, exclusively to create.
 */
extern DatabaseSlot *FindDatabaseSlot(Oid database, bool create);

/* Whether a slot could be made.  As above. */
extern bool HasDatabaseRoom(void);

/*
 * Heartbeats of detached executors.  Each call takes the lock by itself and
 * does nothing without shared memory.
 */
extern bool RecordHeartbeat(int64 executor_id, TimestampTz now, bool create);
extern bool LastHeartbeat(int64 executor_id, TimestampTz *seen_at);
extern void ForgetHeartbeat(int64 executor_id);

#endif							/* TASKER_SHMEM_H */
