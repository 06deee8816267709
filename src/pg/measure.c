/*
 * measure.c
 *		What is counted and timed, in shared memory.
 *
 * A histogram has fixed buckets, 0.1 ms and doubled from there, so adding to
 * it is one atomic addition and nobody waits for anybody.  A rate is decayed:
 * what was a minute ago counts for 37 percent.  What a transaction does is
 * noted in its memory, added up and published after its commit.
 */
#include "postgres.h"

#include <math.h>

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pg/clock.h"
#include "pg/guc.h"
#include "pg/measure.h"
#include "pg/shmem.h"
#include "port/atomics.h"
#include "port/pg_bitutils.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "storage/spin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/float.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

/* Bucket k holds what took up to 100 us times 2 to the k, the last one everything else. */
#define BUCKETS 27
#define FIRST_BUCKET_US 100

#define RATE_SECONDS 60.0
#define SAMPLES 256

/* After that time a sample of a step that was never claimed makes way. */
#define SAMPLE_LIFE_US (3600 * USECS_PER_SEC)

#define ERROR_BYTES 256

/* Templates and handlers of all databases that are counted each for itself, the others of a database together. */
#define COUNTED_ROOM 2048

/* How long tasks and steps take: seconds matter here, and hours. */
static const int64 duration_bounds[] = {
	5000, 10000, 25000, 50000, 100000, 250000, 500000, 1000000, 2500000, 5000000, 10000000,
	30000000, 60000000, INT64CONST(300000000), INT64CONST(1800000000), INT64CONST(3600000000),
	INT64CONST(21600000000), INT64CONST(86400000000)
};
#define DURATION_BOUNDS lengthof(duration_bounds)

typedef struct Histogram
{
	pg_atomic_uint64 counts[BUCKETS];
	pg_atomic_uint64 microseconds;
} Histogram;

typedef struct Rate
{
	double		per_second;		/* as of at */
	TimestampTz at;
} Rate;

typedef enum DatabaseRate
{
	RATE_BATCHES, RATE_LOG_ROWS, RATE_CLAIMS, RATE_NOTIFICATIONS, RATES
} DatabaseRate;

/* A ready step that is timed until its claim. */
typedef struct Sample
{
	pg_atomic_uint64 step_id;	/* 0: the place is free; PG_UINT64_MAX: it is being written */
	pg_atomic_uint64 ready_at;
} Sample;

/* What has happened to the tasks of a template, or to the steps of a handler. */
typedef struct Counts
{
	pg_atomic_uint64 events[COUNTED_EVENTS];
	pg_atomic_uint64 durations[DURATION_BOUNDS + 1];	/* the last one: longer */
	pg_atomic_uint64 microseconds;
} Counts;

typedef struct CountedKey
{
	Oid			database;
	CountedKind kind;
	int32		id;
} CountedKey;

typedef struct Counted
{
	CountedKey	key;
	Counts		counts;
} Counted;

typedef struct Owner
{
	int64		id;
	bool		is_task;
} Owner;

typedef struct DatabaseMeasures
{
	Oid			database;		/* invalid: free; written under the lock */
	pg_atomic_uint64 since;		/* of the last reset, or of the first use */
	pg_atomic_uint64 unread_since;	/* 0: all is read */
	pg_atomic_uint64 unread_rows;
	Histogram	latencies[LATENCIES];
	Sample		samples[SAMPLES];
	Counts		others[COUNTED_KINDS];	/* of those who have found no room */
	slock_t		mutex;			/* of what follows */
	Rate		rates[RATES];
	Size		memory;
	int			error_code;
	TimestampTz error_at;
	int64		error_repeats;
	char		error[ERROR_BYTES];
	int			n_set_aside;
	Owner		set_aside[MAX_NAMED_ASIDE];
} DatabaseMeasures;

typedef struct ExecutorKey
{
	Oid			database;
	Oid			padding;
	int64		executor_id;
} ExecutorKey;

typedef struct ExecutorMeasures
{
	ExecutorKey key;
	slock_t		mutex;			/* of what follows */
	TimestampTz since;
	TimestampTz seen_at;
	TimestampTz ended_at;		/* 0: not that we know */
	uint64		counts[EXECUTOR_EVENTS];
	Rate		claims;
	Rate		completions;
	Histogram	execution;
	TimestampTz error_at;		/* 0: none */
	char		error[ERROR_BYTES];
} ExecutorMeasures;

typedef struct AllMeasures
{
	LWLock	   *lock;			/* of who has which place, here and in the tables beside it */
	int			n;
	DatabaseMeasures databases[FLEXIBLE_ARRAY_MEMBER];
} AllMeasures;

static AllMeasures *all = NULL;
static HTAB *executors = NULL;
static HTAB *counted = NULL;
static DatabaseMeasures *own = NULL;	/* of MyDatabaseId, which never changes */
static shmem_request_hook_type previous_request_hook = NULL;
static shmem_startup_hook_type previous_startup_hook = NULL;

/* ---------- shared memory ---------- */

static Size
MeasuresSize(void)
{
	return add_size(offsetof(AllMeasures, databases), mul_size(tasker_max_databases, sizeof(DatabaseMeasures)));
}

static void
RequestMeasures(void)
{
	if (previous_request_hook)
		previous_request_hook();
	RequestAddinShmemSpace(add_size(MeasuresSize(), hash_estimate_size(tasker_max_executors, sizeof(ExecutorMeasures))));
	RequestAddinShmemSpace(hash_estimate_size(COUNTED_ROOM, sizeof(Counted)));
	RequestNamedLWLockTranche("tasker_measures", 1);
}

static void
ClearHistogram(Histogram *histogram)
{
	for (int i = 0; i < BUCKETS; i++)
		pg_atomic_init_u64(&histogram->counts[i], 0);
	pg_atomic_init_u64(&histogram->microseconds, 0);
}

static void
ClearCounts(Counts *counts)
{
	for (int i = 0; i < COUNTED_EVENTS; i++)
		pg_atomic_init_u64(&counts->events[i], 0);
	for (int i = 0; i <= DURATION_BOUNDS; i++)
		pg_atomic_init_u64(&counts->durations[i], 0);
	pg_atomic_init_u64(&counts->microseconds, 0);
}

/* Makes a place of a database free. */
static void
EmptyDatabase(DatabaseMeasures *measures)
{
	memset(measures, 0, sizeof(DatabaseMeasures));
	SpinLockInit(&measures->mutex);
	pg_atomic_init_u64(&measures->since, 0);
	pg_atomic_init_u64(&measures->unread_since, 0);
	pg_atomic_init_u64(&measures->unread_rows, 0);
	for (int i = 0; i < SAMPLES; i++)
	{
		pg_atomic_init_u64(&measures->samples[i].step_id, 0);
		pg_atomic_init_u64(&measures->samples[i].ready_at, 0);
	}
}

/* Makes the measures of a database begin now. */
static void
ClearDatabase(DatabaseMeasures *measures, TimestampTz now)
{
	for (int i = 0; i < LATENCIES; i++)
		ClearHistogram(&measures->latencies[i]);
	for (int i = 0; i < COUNTED_KINDS; i++)
		ClearCounts(&measures->others[i]);
	pg_atomic_write_u64(&measures->since, (uint64) now);
	SpinLockAcquire(&measures->mutex);
	memset(measures->rates, 0, sizeof(measures->rates));
	SpinLockRelease(&measures->mutex);
}

/* Makes the measures of an executor begin now. */
static void
ClearExecutor(ExecutorMeasures *measures, TimestampTz now)
{
	ClearHistogram(&measures->execution);
	measures->since = now;
	memset(measures->counts, 0, sizeof(measures->counts));
	measures->claims = measures->completions = (Rate)
	{
		0
	};
	measures->error_at = 0;
}

static void
StartMeasures(void)
{
	HASHCTL		control = {.keysize = sizeof(ExecutorKey),.entrysize = sizeof(ExecutorMeasures)};
	HASHCTL		counted_control = {.keysize = sizeof(CountedKey),.entrysize = sizeof(Counted)};
	bool		found;

	if (previous_startup_hook)
		previous_startup_hook();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	all = ShmemInitStruct("tasker measures", MeasuresSize(), &found);
	if (!found)
	{
		memset(all, 0, MeasuresSize());
		all->lock = &(GetNamedLWLockTranche("tasker_measures"))->lock;
		all->n = tasker_max_databases;
		for (int i = 0; i < all->n; i++)
			EmptyDatabase(&all->databases[i]);
	}
	executors = ShmemInitHash("tasker executors", tasker_max_executors, tasker_max_executors, &control,
							  HASH_ELEM | HASH_BLOBS | HASH_FIXED_SIZE);
	counted = ShmemInitHash("tasker counts", COUNTED_ROOM, COUNTED_ROOM, &counted_control,
							HASH_ELEM | HASH_BLOBS | HASH_FIXED_SIZE);
	LWLockRelease(AddinShmemInitLock);
}

void
InitSharedMeasures(void)
{
	previous_request_hook = shmem_request_hook;
	shmem_request_hook = RequestMeasures;
	previous_startup_hook = shmem_startup_hook;
	shmem_startup_hook = StartMeasures;
}

/* The measures of this database; NULL where nothing is measured. */
static DatabaseMeasures *
Own(void)
{
	DatabaseMeasures *free_place = NULL;

	if (own != NULL || all == NULL || !OidIsValid(MyDatabaseId))
		return own;
	LWLockAcquire(all->lock, LW_EXCLUSIVE);
	for (int i = 0; i < all->n && own == NULL; i++)
	{
		DatabaseMeasures *measures = &all->databases[i];

		if (measures->database == MyDatabaseId)
			own = measures;
		else if (free_place == NULL && measures->database == InvalidOid)
			free_place = measures;
	}
	if (own == NULL && free_place != NULL)
	{
		own = free_place;
		ClearDatabase(own, GetCurrentTimestamp());
		own->database = MyDatabaseId;
	}
	LWLockRelease(all->lock);
	return own;
}

static ExecutorKey
ExecutorKeyOf(int64 executor_id)
{
	ExecutorKey key;

	memset(&key, 0, sizeof(key));
	key.database = MyDatabaseId;
	key.executor_id = executor_id;
	return key;
}

/* Frees the place of the executor that ended first, if any has.  The caller holds the lock. */
static void
MakeRoom(void)
{
	HASH_SEQ_STATUS scan;
	ExecutorMeasures *measures;
	ExecutorMeasures *first = NULL;

	hash_seq_init(&scan, executors);
	while ((measures = hash_seq_search(&scan)) != NULL)
	{
		if (measures->ended_at != 0 && (first == NULL || measures->ended_at < first->ended_at))
			first = measures;
	}
	if (first != NULL)
		(void) hash_search(executors, &first->key, HASH_REMOVE, NULL);
}

/* The place of an executor, made if need be; NULL where there is no room.  The caller holds the lock. */
static ExecutorMeasures *
FindExecutor(int64 executor_id, bool create, TimestampTz now)
{
	ExecutorKey key = ExecutorKeyOf(executor_id);
	ExecutorMeasures *measures;
	bool		found;

	measures = hash_search(executors, &key, HASH_FIND, &found);
	if (measures != NULL || !create)
		return measures;
	if (hash_get_num_entries(executors) >= tasker_max_executors)
		MakeRoom();
	measures = hash_search(executors, &key, HASH_ENTER_NULL, &found);
	if (measures == NULL)
		return NULL;
	SpinLockInit(&measures->mutex);
	ClearExecutor(measures, now);
	measures->seen_at = measures->ended_at = 0;
	return measures;
}

/* The place of a template or handler, made if need be; NULL where there is no room.  The caller holds the lock. */
static Counted *
FindCounted(CountedKind kind, int32 id, bool create)
{
	CountedKey	key = {.database = MyDatabaseId,.kind = kind,.id = id};
	Counted    *place;
	bool		found;

	place = hash_search(counted, &key, HASH_FIND, &found);
	if (place != NULL || !create || hash_get_num_entries(counted) >= COUNTED_ROOM)
		return place;
	place = hash_search(counted, &key, HASH_ENTER_NULL, &found);
	if (place != NULL && !found)
		ClearCounts(&place->counts);
	return place;
}

void
ForgetMeasures(Oid database)
{
	HASH_SEQ_STATUS scan;
	ExecutorMeasures *measures;
	Counted    *place;

	LWLockAcquire(all->lock, LW_EXCLUSIVE);
	for (int i = 0; i < all->n; i++)
	{
		if (all->databases[i].database == database)
			EmptyDatabase(&all->databases[i]);
	}
	hash_seq_init(&scan, executors);
	while ((measures = hash_seq_search(&scan)) != NULL)
	{
		if (measures->key.database == database)
			(void) hash_search(executors, &measures->key, HASH_REMOVE, NULL);
	}
	hash_seq_init(&scan, counted);
	while ((place = hash_seq_search(&scan)) != NULL)
	{
		if (place->key.database == database)
			(void) hash_search(counted, &place->key, HASH_REMOVE, NULL);
	}
	LWLockRelease(all->lock);
}

/* ---------- histograms and rates ---------- */

static double
BucketBound(int bucket)
{
	return bucket == BUCKETS - 1 ? get_float8_infinity() :
		FIRST_BUCKET_US / (double) USECS_PER_SEC * (UINT64CONST(1) << bucket);
}

/* Times that are added up before they are published. */
typedef struct Times
{
	uint32		counts[BUCKETS];
	int64		microseconds;
} Times;

static void
AddTime(Times *times, int64 microseconds)
{
	int			bucket = 0;

	microseconds = Max(microseconds, 0);
	if (microseconds > FIRST_BUCKET_US)
		bucket = Min(BUCKETS - 1, pg_leftmost_one_pos64((microseconds - 1) / FIRST_BUCKET_US) + 1);
	times->counts[bucket]++;
	times->microseconds += microseconds;
}

static void
AddTimes(Histogram *histogram, const Times *times)
{
	for (int i = 0; i < BUCKETS; i++)
	{
		if (times->counts[i] > 0)
			pg_atomic_fetch_add_u64(&histogram->counts[i], times->counts[i]);
	}
	if (times->microseconds > 0)
		pg_atomic_fetch_add_u64(&histogram->microseconds, times->microseconds);
}

static void
AddToHistogram(Histogram *histogram, int64 microseconds)
{
	Times		times = {0};

	AddTime(&times, microseconds);
	AddTimes(histogram, &times);
}

/*
 * The time in seconds that a share of what was timed did not exceed: somewhere
 * in its bucket, as if that was filled evenly.  Negative where nothing was.
 */
static double
Quantile(Histogram *histogram, double share)
{
	uint64		counts[BUCKETS];
	uint64		total = 0;
	double		rank;

	for (int i = 0; i < BUCKETS; i++)
		total += counts[i] = pg_atomic_read_u64(&histogram->counts[i]);
	rank = share * total;
	for (int i = 0; i < BUCKETS && total > 0; i++)
	{
		double		low = i == 0 ? 0 : BucketBound(i - 1);

		if (counts[i] >= rank && counts[i] > 0)
			return i == BUCKETS - 1 ? low : low + (BucketBound(i) - low) * rank / counts[i];
		rank -= counts[i];
	}
	return -1;
}

static void
AddToRate(Rate *rate, double n, TimestampTz now)
{
	double		elapsed = Max(now - rate->at, 0) / (double) USECS_PER_SEC;

	rate->per_second = rate->per_second * exp(-elapsed / RATE_SECONDS) + n / RATE_SECONDS;
	rate->at = now;
}

/* What a rate is now; of one that has just begun as if it had been the same before. */
static double
CurrentRate(const Rate *rate, TimestampTz since, TimestampTz now)
{
	double		elapsed = Max(now - rate->at, 0) / (double) USECS_PER_SEC;
	double		age = Max((now - since) / (double) USECS_PER_SEC, 1);

	return rate->per_second * exp(-elapsed / RATE_SECONDS) / (1 - exp(-age / RATE_SECONDS));
}

/* ---------- what a transaction does ---------- */

typedef struct Note
{
	int64		executor_id;
	int64		microseconds;
	ExecutorEvent event;
	int			level;			/* of the subtransaction, as long as that is open */
} Note;

/* What a transaction did to the tasks of a template, or to the steps of a handler. */
typedef struct Tally
{
	CountedKind kind;
	int32		id;
	int			level;			/* of the subtransaction, as long as that is open */
	uint32		events[COUNTED_EVENTS];
	uint32		durations[DURATION_BOUNDS + 1];
	int64		microseconds;
} Tally;

/* So many of the latest tallies are looked at before another one is begun. */
#define TALLIES_LOOKED_AT 16

/* What an executor has done, added up. */
typedef struct ExecutorSum
{
	uint64		counts[EXECUTOR_EVENTS];
	Times		execution;
} ExecutorSum;

/* All of it is in the memory of the transaction and ends with that. */
static struct
{
	int			tallies;
	int			tally_room;
	Tally	   *tally;
	int			n;
	int			room;
	Note	   *notes;
	int64		failed_executor;
	char	   *error;
	bool		reading;
	TimestampTz read_at;
	TimestampTz unread_since;
	uint64		unread_rows;
	uint64		own_rows;		/* that it has written itself */
}			noted;

void
NoteExecutorStep(int64 executor_id, ExecutorEvent event, int64 microseconds)
{
	if (all == NULL)
		return;
	if (noted.n == noted.room)
	{
		noted.room = Max(16, 2 * noted.room);
		noted.notes = noted.notes ? repalloc_huge(noted.notes, sizeof(Note) * noted.room) :
			MemoryContextAlloc(TopTransactionContext, sizeof(Note) * noted.room);
	}
	noted.notes[noted.n++] = (Note)
	{
		.executor_id = executor_id,.microseconds = microseconds,.event = event,.level = GetCurrentTransactionNestLevel()
	};
}

/* The tally of this subtransaction for a template or handler; later ones stand behind, and so do deeper ones. */
static Tally *
FindTally(CountedKind kind, int32 id)
{
	int			level = GetCurrentTransactionNestLevel();

	for (int i = noted.tallies - 1; i >= Max(noted.tallies - TALLIES_LOOKED_AT, 0) && noted.tally[i].level == level; i--)
	{
		if (noted.tally[i].id == id && noted.tally[i].kind == kind)
			return &noted.tally[i];
	}
	if (noted.tallies == noted.tally_room)
	{
		noted.tally_room = Max(8, 2 * noted.tally_room);
		noted.tally = noted.tally ? repalloc_huge(noted.tally, sizeof(Tally) * noted.tally_room) :
			MemoryContextAlloc(TopTransactionContext, sizeof(Tally) * noted.tally_room);
	}
	noted.tally[noted.tallies] = (Tally)
	{
		.kind = kind,.id = id,.level = level
	};
	return &noted.tally[noted.tallies++];
}

void
NoteEvent(CountedKind kind, int32 id, CountedEvent event, int64 microseconds)
{
	Tally	   *tally;
	int			bucket = 0;

	if (all == NULL)
		return;
	tally = FindTally(kind, id);
	tally->events[event]++;
	if (microseconds == UNTIMED)
		return;
	while (bucket < DURATION_BOUNDS && microseconds > duration_bounds[bucket])
		bucket++;
	tally->durations[bucket]++;
	tally->microseconds += microseconds;
}

void
NoteExecutorError(int64 executor_id, const char *error)
{
	int			length = strlen(error);

	if (all == NULL || executor_id == 0)
		return;
	noted.failed_executor = executor_id;
	noted.error = MemoryContextAllocZero(TopTransactionContext, ERROR_BYTES);
	memcpy(noted.error, error, pg_mbcliplen(error, length, Min(length, ERROR_BYTES - 1)));
}

/* Adds what was counted for one executor; the caller holds the lock. */
static void
PublishSum(ExecutorMeasures *measures, const ExecutorSum *sum, TimestampTz now)
{
	bool		is_alive = false;

	SpinLockAcquire(&measures->mutex);
	for (int event = 0; event < EXECUTOR_EVENTS; event++)
	{
		measures->counts[event] += sum->counts[event];
		/* A loss is no sign of life; a claim may be the orchestrator's. */
		is_alive |= event != EXECUTOR_LOSSES && event != EXECUTOR_CLAIMS && sum->counts[event] > 0;
	}
	if (sum->counts[EXECUTOR_CLAIMS] > 0)
		AddToRate(&measures->claims, sum->counts[EXECUTOR_CLAIMS], now);
	if (sum->counts[EXECUTOR_COMPLETIONS] > 0)
		AddToRate(&measures->completions, sum->counts[EXECUTOR_COMPLETIONS], now);
	if (is_alive)
		measures->seen_at = now;
	SpinLockRelease(&measures->mutex);
	AddTimes(&measures->execution, &sum->execution);
}

/* Adds what a transaction did to what all have done. */
static void
PublishTally(Counts *counts, const Tally *tally)
{
	for (int i = 0; i < COUNTED_EVENTS; i++)
	{
		if (tally->events[i] > 0)
			pg_atomic_fetch_add_u64(&counts->events[i], tally->events[i]);
	}
	for (int i = 0; i <= DURATION_BOUNDS; i++)
	{
		if (tally->durations[i] > 0)
			pg_atomic_fetch_add_u64(&counts->durations[i], tally->durations[i]);
	}
	if (tally->microseconds > 0)
		pg_atomic_fetch_add_u64(&counts->microseconds, tally->microseconds);
}

static void
PublishTallies(DatabaseMeasures *measures)
{
	bool		exclusive = false;

	LWLockAcquire(all->lock, LW_SHARED);
	for (int i = 0; i < noted.tallies; i++)
	{
		const Tally *tally = &noted.tally[i];
		Counted    *place = FindCounted(tally->kind, tally->id, exclusive);

		if (place == NULL && !exclusive && hash_get_num_entries(counted) < COUNTED_ROOM)
		{
			exclusive = true;
			LWLockRelease(all->lock);
			LWLockAcquire(all->lock, LW_EXCLUSIVE);
			place = FindCounted(tally->kind, tally->id, true);
		}
		if (place != NULL)
			PublishTally(&place->counts, tally);
		else if (measures != NULL)
			PublishTally(&measures->others[tally->kind], tally);
	}
	LWLockRelease(all->lock);
}

/* The place of an executor that has done something; where it must be made, the lock becomes an exclusive one. */
static ExecutorMeasures *
PlaceOfExecutor(int64 executor_id, bool *exclusive, TimestampTz now)
{
	ExecutorMeasures *measures = FindExecutor(executor_id, *exclusive, now);

	if (measures == NULL && !*exclusive)
	{
		*exclusive = true;
		LWLockRelease(all->lock);
		LWLockAcquire(all->lock, LW_EXCLUSIVE);
		measures = FindExecutor(executor_id, true, now);
	}
	return measures;
}

/*
 * Adds up the notes of each executor, which come one after the other most
 * often, and publishes the sums: a batch of a hundred steps costs shared
 * memory what one costs.
 */
static void
PublishNotes(DatabaseMeasures *measures, TimestampTz now)
{
	ExecutorMeasures *executor = NULL;
	bool		exclusive = false;

	LWLockAcquire(all->lock, LW_SHARED);
	for (int i = 0; i < noted.n;)
	{
		int64		executor_id = noted.notes[i].executor_id;
		ExecutorSum sum = {0};

		for (; i < noted.n && noted.notes[i].executor_id == executor_id; i++)
		{
			sum.counts[noted.notes[i].event]++;
			if (noted.notes[i].microseconds != UNTIMED)
				AddTime(&sum.execution, noted.notes[i].microseconds);
		}
		if (measures != NULL)
			AddTimes(&measures->latencies[LATENCY_EXECUTION], &sum.execution);
		if (executor_id != 0 && (executor = PlaceOfExecutor(executor_id, &exclusive, now)) != NULL)
			PublishSum(executor, &sum, now);
	}
	if (noted.error != NULL && (executor = FindExecutor(noted.failed_executor, false, now)) != NULL)
	{
		SpinLockAcquire(&executor->mutex);
		executor->error_at = now;
		memcpy(executor->error, noted.error, ERROR_BYTES);
		SpinLockRelease(&executor->mutex);
	}
	LWLockRelease(all->lock);
}

/* What was unread when this transaction read is read now.  What it has written itself is no news. */
static void
SettleIntake(DatabaseMeasures *measures)
{
	uint64		left = pg_atomic_sub_fetch_u64(&measures->unread_rows, noted.unread_rows) - noted.own_rows;
	uint64		since = (uint64) noted.unread_since;

	if (noted.unread_since != 0)
		AddToHistogram(&measures->latencies[LATENCY_INTAKE], noted.read_at - noted.unread_since);
	(void) pg_atomic_compare_exchange_u64(&measures->unread_since, &since, left > 0 ? (uint64) noted.read_at : 0);
}

static void
FollowTransaction(XactEvent event, void *arg)
{
	if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT && event != XACT_EVENT_PREPARE)
		return;
	if (event == XACT_EVENT_COMMIT && (noted.n > 0 || noted.tallies > 0 || noted.reading))
	{
		DatabaseMeasures *measures = Own();

		if (noted.tallies > 0)
			PublishTallies(measures);
		if (noted.n > 0)
			PublishNotes(measures, GetCurrentTransactionStopTimestamp());
		if (noted.reading && measures != NULL)
			SettleIntake(measures);
	}
	memset(&noted, 0, sizeof(noted));
}

/* What a subtransaction did that is rolled back did not happen. */
static void
FollowSubtransaction(SubXactEvent event, SubTransactionId mine, SubTransactionId parent, void *arg)
{
	int			level = GetCurrentTransactionNestLevel();

	if (event != SUBXACT_EVENT_COMMIT_SUB && event != SUBXACT_EVENT_ABORT_SUB)
		return;
	if (event == SUBXACT_EVENT_ABORT_SUB)
	{
		while (noted.n > 0 && noted.notes[noted.n - 1].level >= level)
			noted.n--;
		while (noted.tallies > 0 && noted.tally[noted.tallies - 1].level >= level)
			noted.tallies--;
		noted.error = NULL;
	}
	for (int i = noted.n - 1; i >= 0 && noted.notes[i].level >= level; i--)
		noted.notes[i].level = level - 1;
	for (int i = noted.tallies - 1; i >= 0 && noted.tally[i].level >= level; i--)
		noted.tally[i].level = level - 1;
}

void
InitMeasures(void)
{
	RegisterXactCallback(FollowTransaction, NULL);
	RegisterSubXactCallback(FollowSubtransaction, NULL);
}

void
NoteExecutorsGone(const int64 *executor_ids, int n)
{
	TimestampTz now = GetCurrentTimestamp();

	if (all == NULL || n == 0)
		return;
	LWLockAcquire(all->lock, LW_SHARED);
	for (int i = 0; i < n; i++)
	{
		ExecutorMeasures *measures = FindExecutor(executor_ids[i], false, now);

		if (measures == NULL)
			continue;
		SpinLockAcquire(&measures->mutex);
		measures->ended_at = now;
		SpinLockRelease(&measures->mutex);
	}
	LWLockRelease(all->lock);
}

/* ---------- ready steps ---------- */

void
NoteReadyStep(int64 step_id, TimestampTz now)
{
	DatabaseMeasures *measures = Own();
	Sample	   *sample;
	uint64		before;

	if (measures == NULL)
		return;
	sample = &measures->samples[step_id % SAMPLES];
	before = pg_atomic_read_u64(&sample->step_id);
	if (before == PG_UINT64_MAX ||
		(before != 0 && (TimestampTz) pg_atomic_read_u64(&sample->ready_at) > now - SAMPLE_LIFE_US) ||
		!pg_atomic_compare_exchange_u64(&sample->step_id, &before, PG_UINT64_MAX))
		return;
	pg_atomic_write_u64(&sample->ready_at, (uint64) now);
	pg_write_barrier();
	pg_atomic_write_u64(&sample->step_id, (uint64) step_id);
}

void
NoteClaimOfStep(int64 step_id, TimestampTz now)
{
	DatabaseMeasures *measures = Own();
	Sample	   *sample;
	uint64		expected = (uint64) step_id;
	TimestampTz ready_at;

	if (measures == NULL)
		return;
	sample = &measures->samples[step_id % SAMPLES];
	if (pg_atomic_read_u64(&sample->step_id) != expected)
		return;
	pg_read_barrier();
	ready_at = (TimestampTz) pg_atomic_read_u64(&sample->ready_at);
	if (pg_atomic_compare_exchange_u64(&sample->step_id, &expected, 0))
		AddToHistogram(&measures->latencies[LATENCY_CLAIM], now - ready_at);
}

/* ---------- the logs ---------- */

void
AddUnread(int64 rows)
{
	DatabaseMeasures *measures = Own();
	uint64		none = 0;

	if (measures == NULL)
		return;
	pg_atomic_fetch_add_u64(&measures->unread_rows, rows);
	if (noted.reading)
		noted.own_rows += rows;
	else if (pg_atomic_read_u64(&measures->unread_since) == 0)
		(void) pg_atomic_compare_exchange_u64(&measures->unread_since, &none, (uint64) GetCurrentTransactionStopTimestamp());
}

TimestampTz
BeginIntake(void)
{
	DatabaseMeasures *measures = Own();

	if (measures == NULL)
		return 0;
	if (!noted.reading)
	{
		noted.reading = true;
		noted.read_at = GetCurrentTimestamp();
		noted.unread_since = (TimestampTz) pg_atomic_read_u64(&measures->unread_since);
	}
	noted.unread_rows = pg_atomic_read_u64(&measures->unread_rows);
	return noted.unread_since;
}

/* ---------- of the orchestrator ---------- */

void
MeasureBatch(const BatchMeasure *batch)
{
	DatabaseMeasures *measures = Own();
	int64		counts[RATES] = {1, batch->log_rows, batch->claims, batch->notifications};

	if (measures == NULL)
		return;
	AddToHistogram(&measures->latencies[LATENCY_BATCH], batch->ended_at - batch->begun_at);
	if (batch->claims > 0 && batch->news_since != 0)
		AddToHistogram(&measures->latencies[LATENCY_DISPATCH], batch->ended_at - batch->news_since);
	SpinLockAcquire(&measures->mutex);
	for (int i = 0; i < RATES; i++)
	{
		if (counts[i] > 0)
			AddToRate(&measures->rates[i], counts[i], batch->ended_at);
	}
	SpinLockRelease(&measures->mutex);
}

void
MeasureMemory(Size bytes)
{
	DatabaseMeasures *measures = Own();

	if (measures != NULL)
		measures->memory = bytes;
}

int64
MeasureError(int code, const char *message, TimestampTz now)
{
	DatabaseMeasures *measures = Own();
	char		clipped[ERROR_BYTES] = {0};
	int			length = strlen(message);
	bool		same;
	int64		repeats;

	if (measures == NULL)
		return 1;
	memcpy(clipped, message, pg_mbcliplen(message, length, Min(length, ERROR_BYTES - 1)));
	SpinLockAcquire(&measures->mutex);
	same = measures->error_code == code && strcmp(measures->error, clipped) == 0;
	measures->error_code = code;
	measures->error_at = now;
	memcpy(measures->error, clipped, ERROR_BYTES);
	repeats = measures->error_repeats = same ? measures->error_repeats + 1 : 1;
	SpinLockRelease(&measures->mutex);
	return repeats;
}

void
MeasureSetAside(int64 owner_id, bool is_task)
{
	DatabaseMeasures *measures = Own();

	if (measures == NULL)
		return;
	SpinLockAcquire(&measures->mutex);
	if (measures->n_set_aside < MAX_NAMED_ASIDE)
	{
		measures->set_aside[measures->n_set_aside].id = owner_id;
		measures->set_aside[measures->n_set_aside].is_task = is_task;
	}
	measures->n_set_aside++;
	SpinLockRelease(&measures->mutex);
}

void
BeginMeasures(void)
{
	DatabaseMeasures *measures = Own();

	if (measures == NULL)
		return;
	SpinLockAcquire(&measures->mutex);
	measures->error_code = 0;
	measures->error_repeats = 0;
	measures->error_at = 0;
	measures->error[0] = '\0';
	measures->n_set_aside = 0;
	SpinLockRelease(&measures->mutex);
}

/* ---------- SQL functions ---------- */

static const char *const latency_names[LATENCIES] = {"intake", "dispatch", "claim", "execution", "batch"};

static void
SetFloat(Datum *value, bool *is_null, double seconds)
{
	*is_null = seconds < 0;
	*value = Float8GetDatum(seconds);
}

/* The owners that are set aside, as "task 7" and "step 9". */
static Datum
NamesOfSetAside(const DatabaseMeasures *measures)
{
	Datum		names[MAX_NAMED_ASIDE];
	int			n = Min(measures->n_set_aside, MAX_NAMED_ASIDE);

	for (int i = 0; i < n; i++)
		names[i] = CStringGetTextDatum(psprintf("%s " INT64_FORMAT, measures->set_aside[i].is_task ? "task" : "step",
												measures->set_aside[i].id));
	return PointerGetDatum(construct_array(names, n, TEXTOID, -1, false, TYPALIGN_INT));
}

PG_FUNCTION_INFO_V1(tasker_orchestrator_measures);

/* The columns that stat_orchestrator has from here. */
Datum
tasker_orchestrator_measures(PG_FUNCTION_ARGS)
{
	enum
	{
		QUANTILES = RATES,
		ERROR_AT = QUANTILES + 2 * LATENCIES,
		ERROR_CODE, ERROR_REPEATS, UNREAD_ROWS, UNREAD_SECONDS, MEMORY, SET_ASIDE, SET_ASIDE_OWNERS, SINCE, COLUMNS
	};
	TupleDesc	row_type;
	Datum		values[COLUMNS];
	bool		nulls[COLUMNS];
	DatabaseMeasures *measures = Own();
	TimestampTz now = GetCurrentTimestamp();

	if (get_call_result_type(fcinfo, NULL, &row_type) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	memset(nulls, true, sizeof(nulls));
	if (measures != NULL)
	{
		DatabaseMeasures copy;
		TimestampTz since = (TimestampTz) pg_atomic_read_u64(&measures->since);
		TimestampTz unread_since = (TimestampTz) pg_atomic_read_u64(&measures->unread_since);

		memset(nulls, false, sizeof(nulls));
		SpinLockAcquire(&measures->mutex);
		memcpy(&copy, measures, sizeof(copy));
		SpinLockRelease(&measures->mutex);
		for (int i = 0; i < RATES; i++)
			values[i] = Float8GetDatum(CurrentRate(&copy.rates[i], since, now));
		for (int i = 0; i < LATENCIES; i++)
		{
			int			column = QUANTILES + 2 * i;

			SetFloat(&values[column], &nulls[column], Quantile(&measures->latencies[i], 0.5));
			SetFloat(&values[column + 1], &nulls[column + 1], Quantile(&measures->latencies[i], 0.99));
		}
		nulls[ERROR_AT] = nulls[ERROR_CODE] = copy.error_at == 0;
		values[ERROR_AT] = TimestampTzGetDatum(copy.error_at);
		values[ERROR_CODE] = CStringGetTextDatum(unpack_sql_state(copy.error_code));
		values[ERROR_REPEATS] = Int64GetDatum(copy.error_repeats);
		values[UNREAD_ROWS] = Int64GetDatum((int64) pg_atomic_read_u64(&measures->unread_rows));
		values[UNREAD_SECONDS] = Float8GetDatum(unread_since == 0 ? 0 : Max(now - unread_since, 0) / (double) USECS_PER_SEC);
		values[MEMORY] = Int64GetDatum((int64) copy.memory);
		values[SET_ASIDE] = Int32GetDatum(copy.n_set_aside);
		values[SET_ASIDE_OWNERS] = NamesOfSetAside(&copy);
		values[SINCE] = TimestampTzGetDatum(since);
	}
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(row_type), values, nulls)));
}

PG_FUNCTION_INFO_V1(tasker_latency_buckets);

/* The rows of stat_latencies. */
Datum
tasker_latency_buckets(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	DatabaseMeasures *measures = Own();

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	for (int latency = 0; latency < LATENCIES && measures != NULL; latency++)
	{
		Histogram  *histogram = &measures->latencies[latency];
		uint64		count = 0;

		for (int i = 0; i < BUCKETS; i++)
		{
			Datum		values[4];
			bool		nulls[4] = {false};

			count += pg_atomic_read_u64(&histogram->counts[i]);
			values[0] = CStringGetTextDatum(latency_names[latency]);
			values[1] = Float8GetDatum(BucketBound(i));
			values[2] = Int64GetDatum((int64) count);
			values[3] = Float8GetDatum(pg_atomic_read_u64(&histogram->microseconds) / (double) USECS_PER_SEC);
			tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
		}
	}
	return (Datum) 0;
}

/* One row of transition_counts; id 0: of those who have found no room. */
static void
ReturnCounts(ReturnSetInfo *result, CountedKind kind, int32 id, Counts *counts)
{
	enum
	{
		KIND, ID, EVENTS, BOUNDS = EVENTS + COUNTED_EVENTS, BUCKETS_UP_TO, SECONDS, TIMED, COLUMNS
	};
	Datum		values[COLUMNS];
	bool		nulls[COLUMNS] = {false};
	Datum		bounds[DURATION_BOUNDS];
	Datum		up_to[DURATION_BOUNDS];
	uint64		timed = 0;

	values[KIND] = CStringGetTextDatum(kind == COUNTED_TASKS ? "task" : "step");
	values[ID] = Int32GetDatum(id);
	nulls[ID] = id == 0;
	for (int i = 0; i < COUNTED_EVENTS; i++)
		values[EVENTS + i] = Int64GetDatum((int64) pg_atomic_read_u64(&counts->events[i]));
	for (int i = 0; i < DURATION_BOUNDS; i++)
	{
		timed += pg_atomic_read_u64(&counts->durations[i]);
		bounds[i] = Float8GetDatum(duration_bounds[i] / (double) USECS_PER_SEC);
		up_to[i] = Int64GetDatum((int64) timed);
	}
	timed += pg_atomic_read_u64(&counts->durations[DURATION_BOUNDS]);
	values[BOUNDS] = PointerGetDatum(construct_array(bounds, DURATION_BOUNDS, FLOAT8OID, sizeof(float8),
													 FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	values[BUCKETS_UP_TO] = PointerGetDatum(construct_array(up_to, DURATION_BOUNDS, INT8OID, sizeof(int64),
															FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	values[SECONDS] = Float8GetDatum(pg_atomic_read_u64(&counts->microseconds) / (double) USECS_PER_SEC);
	values[TIMED] = Int64GetDatum((int64) timed);
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/* The places of this database, whose counts go on meanwhile. */
static Counted **
CountedHere(int *n)
{
	Counted   **places = palloc(sizeof(Counted *) * COUNTED_ROOM);
	HASH_SEQ_STATUS scan;
	Counted    *place;

	*n = 0;
	LWLockAcquire(all->lock, LW_SHARED);
	hash_seq_init(&scan, counted);
	while ((place = hash_seq_search(&scan)) != NULL)
	{
		if (place->key.database == MyDatabaseId)
			places[(*n)++] = place;
	}
	LWLockRelease(all->lock);
	return places;
}

/* Whether anybody had to be counted with the others. */
static bool
HasCounts(Counts *counts)
{
	for (int i = 0; i < COUNTED_EVENTS; i++)
	{
		if (pg_atomic_read_u64(&counts->events[i]) > 0)
			return true;
	}
	return false;
}

PG_FUNCTION_INFO_V1(tasker_transition_counts);

/* The places of a database that is in use stay where they are, so no lock is held while rows are made. */
Datum
tasker_transition_counts(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	DatabaseMeasures *measures = Own();
	Counted   **places;
	int			n;

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	if (all == NULL)
		return (Datum) 0;
	places = CountedHere(&n);
	for (int i = 0; i < n; i++)
		ReturnCounts(result, places[i]->key.kind, places[i]->key.id, &places[i]->counts);
	for (CountedKind kind = 0; kind < COUNTED_KINDS && measures != NULL; kind++)
	{
		if (HasCounts(&measures->others[kind]))
			ReturnCounts(result, kind, 0, &measures->others[kind]);
	}
	return (Datum) 0;
}

/* One row of executor_measures. */
static void
ReturnExecutor(ReturnSetInfo *result, ExecutorMeasures *measures, TimestampTz now)
{
	enum
	{
		EXECUTOR_ID, COUNTS, CLAIM_RATE = COUNTS + EXECUTOR_EVENTS, COMPLETION_RATE, P50, P99, LAST_ERROR, LAST_ERROR_AT, SEEN_AT, COLUMNS
	};
	Datum		values[COLUMNS];
	bool		nulls[COLUMNS] = {false};
	TimestampTz heartbeat;

	values[EXECUTOR_ID] = Int64GetDatum(measures->key.executor_id);
	for (int i = 0; i < EXECUTOR_EVENTS; i++)
		values[COUNTS + i] = Int64GetDatum((int64) measures->counts[i]);
	values[CLAIM_RATE] = Float8GetDatum(CurrentRate(&measures->claims, measures->since, now));
	values[COMPLETION_RATE] = Float8GetDatum(CurrentRate(&measures->completions, measures->since, now));
	SetFloat(&values[P50], &nulls[P50], Quantile(&measures->execution, 0.5));
	SetFloat(&values[P99], &nulls[P99], Quantile(&measures->execution, 0.99));
	nulls[LAST_ERROR] = nulls[LAST_ERROR_AT] = measures->error_at == 0;
	values[LAST_ERROR] = CStringGetTextDatum(measures->error_at == 0 ? "" : measures->error);
	values[LAST_ERROR_AT] = TimestampTzGetDatum(measures->error_at);
	if (LastHeartbeat(measures->key.executor_id, &heartbeat))
		measures->seen_at = Max(measures->seen_at, heartbeat);
	nulls[SEEN_AT] = measures->seen_at == 0;
	values[SEEN_AT] = TimestampTzGetDatum(measures->seen_at);
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/* Copies the measures of this database's executors, so that no lock is held while rows are made. */
static ExecutorMeasures *
CopyExecutors(int *n)
{
	ExecutorMeasures *copies = palloc(sizeof(ExecutorMeasures) * Max(tasker_max_executors, 1));
	HASH_SEQ_STATUS scan;
	ExecutorMeasures *measures;

	*n = 0;
	LWLockAcquire(all->lock, LW_SHARED);
	hash_seq_init(&scan, executors);
	while ((measures = hash_seq_search(&scan)) != NULL)
	{
		if (measures->key.database != MyDatabaseId)
			continue;
		SpinLockAcquire(&measures->mutex);
		memcpy(&copies[(*n)++], measures, sizeof(ExecutorMeasures));
		SpinLockRelease(&measures->mutex);
	}
	LWLockRelease(all->lock);
	return copies;
}

bool		(*SeesAllMeasures) (void) = NULL;

PG_FUNCTION_INFO_V1(tasker_executor_measures);

Datum
tasker_executor_measures(PG_FUNCTION_ARGS)
{
	ExecutorMeasures *copies;
	int			n;

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	if (all == NULL || (SeesAllMeasures != NULL && !SeesAllMeasures()))
		return (Datum) 0;
	copies = CopyExecutors(&n);
	for (int i = 0; i < n; i++)
		ReturnExecutor((ReturnSetInfo *) fcinfo->resultinfo, &copies[i], GetCurrentTimestamp());
	return (Datum) 0;
}

/* Puts the counters that the orchestrator keeps in its slot back to zero. */
static void
ClearSlot(void)
{
	DatabaseSlot *slot;

	LWLockAcquire(Shared->lock, LW_EXCLUSIVE);
	slot = FindDatabaseSlot(MyDatabaseId, false);
	if (slot != NULL)
	{
		slot->batches = slot->log_rows = slot->claims = slot->notifications = slot->errors = 0;
		slot->last_error[0] = '\0';
	}
	LWLockRelease(Shared->lock);
}

PG_FUNCTION_INFO_V1(tasker_reset_stats);

Datum
tasker_reset_stats(PG_FUNCTION_ARGS)
{
	DatabaseMeasures *measures = Own();
	TimestampTz now = GetCurrentTimestamp();
	HASH_SEQ_STATUS scan;
	ExecutorMeasures *executor;
	Counted   **places;
	int			n;

	if (all == NULL)
		PG_RETURN_VOID();
	ClearSlot();
	if (measures != NULL)
	{
		ClearDatabase(measures, now);
		SpinLockAcquire(&measures->mutex);
		measures->error_code = 0;
		measures->error_at = 0;
		measures->error_repeats = 0;
		measures->error[0] = '\0';
		SpinLockRelease(&measures->mutex);
	}
	LWLockAcquire(all->lock, LW_SHARED);
	hash_seq_init(&scan, executors);
	while ((executor = hash_seq_search(&scan)) != NULL)
	{
		if (executor->key.database != MyDatabaseId)
			continue;
		SpinLockAcquire(&executor->mutex);
		ClearExecutor(executor, now);
		SpinLockRelease(&executor->mutex);
	}
	LWLockRelease(all->lock);
	places = CountedHere(&n);
	for (int i = 0; i < n; i++)
		ClearCounts(&places[i]->counts);
	PG_RETURN_VOID();
}
