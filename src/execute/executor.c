/*
 * executor.c
 *		The clients that run steps: who is there, and who is gone.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "execute/executor.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "nodes/pg_list.h"
#include "pg/clock.h"
#include "pg/fault.h"
#include "pg/guc.h"
#include "pg/measure.h"
#include "pg/query.h"
#include "pg/shmem.h"
#include "pg/waiters.h"
#include "pg/wakeup.h"
#include "run/transition.h"
#include "storage/ipc.h"
#include "storage/lock.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/memutils.h"

#define MAX_CAPACITY 10000
/* Each claim looks at the queue of every handler. */
#define MAX_HANDLERS 1000
#define MIN_LEASE INT64CONST(100000)
#define MAX_LEASE (365 * USECS_PER_DAY)

/*
 * The fourth field of an advisory lock tag says who made the key: 1 and 2 are
 * the users' functions.  Ours can never collide with theirs.
 */
#define EXECUTOR_LOCK_CLASS 1001

/*
 * Executors that this session has registered: it must not test its own locks.
 * A session lock does not end with a transaction, so what a transaction does
 * is noted by its nesting level until it commits or is rolled back.
 */
typedef struct OwnExecutor
{
	int64		executor_id;
	bool		detached;		/* only until its registration is committed */
	int			born_at;		/* level of the transaction that registers it; 0: committed */
	int			ended_at;		/* level of the transaction that unregisters it; 0: none */
} OwnExecutor;

static List *own_executors = NIL;

/* ---------- liveness ---------- */

static LOCKTAG
ExecutorLockTag(int64 executor_id)
{
	LOCKTAG		tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, (uint32) (executor_id >> 32), (uint32) executor_id,
						 EXECUTOR_LOCK_CLASS);
	return tag;
}

static bool
IsOwnExecutor(int64 executor_id)
{
	ListCell   *cell;

	foreach(cell, own_executors)
	{
		OwnExecutor *own = lfirst(cell);

		if (own->executor_id == executor_id && !own->detached)
			return true;
	}
	return false;
}

/* The session that holds the lock is gone when the lock can be had. */
static bool
SessionIsAlive(int64 executor_id)
{
	LOCKTAG		tag = ExecutorLockTag(executor_id);

	if (IsOwnExecutor(executor_id))
		return true;
	if (LockAcquire(&tag, ExclusiveLock, true, true) == LOCKACQUIRE_NOT_AVAIL)
		return true;
	LockRelease(&tag, ExclusiveLock, true);
	return false;
}

/* Locks are gone by now, so that the orchestrator finds them free. */
static void
ReportSessionEnd(int code, Datum arg)
{
	if (own_executors != NIL)
		WakeOrchestratorNow(true);
}

/* Follows the transaction of a level: its executors go up one level, or are as before. */
static void
FollowOwnExecutors(int level, bool commit)
{
	ListCell   *cell;

	foreach(cell, own_executors)
	{
		OwnExecutor *own = lfirst(cell);
		bool		release = own->detached && commit && level == 1;

		if (own->born_at >= level)
		{
			release |= !commit;
			if (own->detached && !commit)
				ForgetHeartbeat(own->executor_id);
			own->born_at = level - 1;
		}
		if (own->ended_at >= level)
		{
			release |= commit && level == 1;
			own->ended_at = commit ? level - 1 : 0;
		}
		if (release)
		{
			LOCKTAG		tag = ExecutorLockTag(own->executor_id);
			bool		detached = own->detached;

			own_executors = foreach_delete_current(own_executors, cell);
			pfree(own);
			if (!detached)
				LockRelease(&tag, ExclusiveLock, true);
		}
	}
}

static void
FollowTransaction(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
		FollowOwnExecutors(1, event != XACT_EVENT_ABORT);
}

static void
FollowSubtransaction(SubXactEvent event, SubTransactionId mine, SubTransactionId parent, void *arg)
{
	if (event == SUBXACT_EVENT_COMMIT_SUB || event == SUBXACT_EVENT_ABORT_SUB)
		FollowOwnExecutors(GetCurrentTransactionNestLevel(), event == SUBXACT_EVENT_COMMIT_SUB);
}

/* Follows the registration's transaction; a session-bound executor lives as long as its lock. */
static void
BindToSession(int64 executor_id, bool detached)
{
	static bool exit_hooked = false;
	LOCKTAG		tag = ExecutorLockTag(executor_id);
	MemoryContext caller;
	OwnExecutor *own;

	/* First: for want of shared memory it may fail. */
	if (!detached)
		(void) LockAcquire(&tag, ExclusiveLock, true, false);
	caller = MemoryContextSwitchTo(TopMemoryContext);
	own = palloc0(sizeof(OwnExecutor));
	own->executor_id = executor_id;
	own->detached = detached;
	own->born_at = GetCurrentTransactionNestLevel();
	own_executors = lappend(own_executors, own);
	MemoryContextSwitchTo(caller);
	if (!exit_hooked)
	{
		on_shmem_exit(ReportSessionEnd, (Datum) 0);
		RegisterXactCallback(FollowTransaction, NULL);
		RegisterSubXactCallback(FollowSubtransaction, NULL);
	}
	exit_hooked = true;
}

static void
ReleaseFromSession(int64 executor_id)
{
	ListCell   *cell;

	foreach(cell, own_executors)
	{
		OwnExecutor *own = lfirst(cell);

		if (own->executor_id == executor_id && own->ended_at == 0)
			own->ended_at = GetCurrentTransactionNestLevel();
	}
}

bool
ExecutorIsAlive(const Executor *executor, TimestampTz now, TimestampTz *good_until)
{
	TimestampTz seen_at = executor->seen_at;

	*good_until = DT_NOEND;
	if (!executor->detached)
		return SessionIsAlive(executor->executor_id);
	if (Shared != NULL && !LastHeartbeat(executor->executor_id, &seen_at))
	{
		/*
		 * The server has restarted since: it gets a whole lease to be heard.
		 * Without room for an entry its row says when it was.
		 */
		seen_at = RecordHeartbeat(executor->executor_id, now, true) ? now :
			Max(seen_at, PgStartTime + (now - GetCurrentTimestamp()));
	}
	*good_until = seen_at + executor->lease;
	return *good_until > now;
}

/* ---------- rows ---------- */

static KeptQuery READ_LIVE_EXECUTORS = {
	.sql =
	"SELECT executor_id, capacity, detached, (extract(epoch FROM lease) * 1000000)::bigint,"
	"       last_heartbeat_at, channel, handlers"
	"  FROM tasker.executors WHERE ended_at IS NULL ORDER BY executor_id",
	.nargs = 0
};

static KeptQuery END_EXECUTORS = {
	.sql =
	"UPDATE tasker.executors e SET ended_at = $2, end_reason = $3"
	"  FROM (SELECT unnest($1) AS u LIMIT cardinality($1)) batch WHERE e.executor_id = u AND e.ended_at IS NULL"
	" RETURNING e.executor_id",
	.nargs = 3,.types = {INT8ARRAYOID, TIMESTAMPTZOID, TEXTOID}
};

static KeptQuery LOCK_LIVE_EXECUTORS = {
	.sql =
	"SELECT executor_id FROM tasker.executors WHERE executor_id = ANY ($1) AND ended_at IS NULL"
	" ORDER BY executor_id FOR NO KEY UPDATE SKIP LOCKED",
	.nargs = 1,.types = {INT8ARRAYOID}
};

static KeptQuery READ_EXECUTOR = {
	.sql =
	"SELECT ended_at IS NULL, detached, handlers, (extract(epoch FROM lease) * 1000000)::bigint"
	"  FROM tasker.executors WHERE executor_id = $1",
	.nargs = 1,.types = {INT8OID}
};

static KeptQuery NOTE_HEARTBEAT = {
	.sql = "UPDATE tasker.executors SET last_heartbeat_at = $2 WHERE executor_id = $1",
	.nargs = 2,.types = {INT8OID, TIMESTAMPTZOID}
};

static KeptQuery ENSURE_HANDLER_NAMES = {
	.sql =
	"INSERT INTO tasker.handlers (name)"
	" SELECT DISTINCT n FROM unnest($1) n"
	"  WHERE NOT EXISTS (SELECT 1 FROM tasker.handlers h WHERE h.name = n)"
	"  ORDER BY n"
	" ON CONFLICT (name) DO NOTHING",
	.nargs = 1,.types = {TEXTARRAYOID}
};

static KeptQuery INSERT_EXECUTOR = {
	.sql =
	"INSERT INTO tasker.executors (name, handlers, capacity, detached, lease, channel, role,"
	"       registered_at, last_heartbeat_at)"
	" SELECT $1, ARRAY(SELECT DISTINCT h.handler_id FROM unnest($2) n JOIN tasker.handlers h ON h.name = n),"
	"        $3, $4, $5, $6, $7, $8, $8"
	" RETURNING executor_id",
	.nargs = 8,.types = {TEXTOID, TEXTARRAYOID, INT4OID, BOOLOID, INTERVALOID, TEXTOID, TEXTOID,
	TIMESTAMPTZOID}
};

static int32 *
Int32sOfArray(Datum datum, int *n)
{
	ArrayType  *array = DatumGetArrayTypeP(datum);
	int32	   *values;

	*n = ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array));
	values = palloc(sizeof(int32) * Max(*n, 1));
	memcpy(values, ARR_DATA_PTR(array), sizeof(int32) * *n);
	return values;
}

Executor *
ReadLiveExecutors(int *n)
{
	Executor   *executors;

	*n = (int) RunPlainQuery(&READ_LIVE_EXECUTORS);
	executors = palloc(sizeof(Executor) * Max(*n, 1));
	for (int i = 0; i < *n; i++)
	{
		executors[i] = (Executor)
		{
			.executor_id = RowInt64(i, 1),
				.capacity = RowInt32(i, 2),
				.detached = RowBool(i, 3),
				.lease = RowInt64(i, 4),
				.seen_at = DatumGetTimestampTz(RowDatum(i, 5, NULL)),
				.channel = RowText(i, 6),
		};
		executors[i].handler_ids = Int32sOfArray(RowDatum(i, 7, NULL), &executors[i].handler_count);
	}
	return executors;
}

void
EndExecutors(const int64 *executor_ids, int n, const char *reason)
{
	Datum		args[3] = {Int64Array(executor_ids, n), TimestampTzGetDatum(TaskerNow()),
	CStringGetTextDatum(reason)};

	if (n == 0)
		return;
	(void) RunQuery(&END_EXECUTORS, args, NULL);
	FAULT_POINT("executors-ended");
	NoteExecutorsEnded(executor_ids, n);
	NoteExecutorsGone(executor_ids, n);
	for (int i = 0; i < n; i++)
		ForgetHeartbeat(executor_ids[i]);
}

int
LockLiveExecutors(int64 *executor_ids, int n)
{
	Datum		arg = Int64Array(executor_ids, n);

	if (n == 0)
		return 0;
	n = (int) RunQuery(&LOCK_LIVE_EXECUTORS, &arg, NULL);
	for (int i = 0; i < n; i++)
		executor_ids[i] = RowInt64(i, 1);
	return n;
}

int32 *
HandlersOfExecutor(int64 executor_id, bool must_live, int *n)
{
	Datum		arg = Int64GetDatum(executor_id);

	if (RunQuery(&READ_EXECUTOR, &arg, NULL) == 0)
		RefuseUnknown("executor", executor_id);
	if (must_live && !RowBool(0, 1))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("executor " INT64_FORMAT " has ended", executor_id),
				 errdetail("Its steps were given to others."),
				 errhint("Register again with tasker.register_executor().")));
	return Int32sOfArray(RowDatum(0, 3, NULL), n);
}

int64
LeaseOfExecutor(int64 executor_id)
{
	Datum		arg = Int64GetDatum(executor_id);

	if (RunQuery(&READ_EXECUTOR, &arg, NULL) == 0)
		RefuseUnknown("executor", executor_id);
	return RowBool(0, 2) ? RowInt64(0, 4) : 0;
}

/* ---------- SQL functions ---------- */

typedef struct Registration
{
	text	   *name;
	ArrayType  *handlers;
	int32		capacity;
	bool		detached;
	Interval   *lease;
} Registration;

static void
CheckHandlerNames(ArrayType *handlers)
{
	Datum	   *names;
	int			n;

	deconstruct_array(handlers, TEXTOID, -1, false, TYPALIGN_INT, &names, NULL, &n);
	if (n > MAX_HANDLERS)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("an executor can have at most %d handlers, not %d", MAX_HANDLERS, n),
				 errhint("Register several executors.")));
	for (int i = 0; i < n; i++)
	{
		text	   *name = DatumGetTextPP(names[i]);
		int			length = pg_mbstrlen_with_len(VARDATA_ANY(name), VARSIZE_ANY_EXHDR(name));

		if (length < 1 || length > 256)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("the name of a handler must have 1 to 256 characters, not %d", length)));
	}
}

/* In doubles first: so many days are more than an integer counts in microseconds. */
static void
CheckLease(const Interval *lease)
{
	double		microseconds = (double) lease->time + (double) lease->day * USECS_PER_DAY;

	if (lease->month != 0 || microseconds < MIN_LEASE || microseconds > MAX_LEASE)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the lease of an executor must be at least 100 ms and at most 365 days, in days or less")));
}

static void
CheckRegistration(const Registration *registration)
{
	int			name_length = pg_mbstrlen_with_len(VARDATA_ANY(registration->name),
												   VARSIZE_ANY_EXHDR(registration->name));

	if (name_length < 1 || name_length > 128)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the name of an executor must have 1 to 128 characters, not %d", name_length)));
	if (registration->capacity < 0 || registration->capacity > MAX_CAPACITY)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the capacity of an executor must be between 0 and %d, not %d",
						MAX_CAPACITY, registration->capacity)));
	if (ARR_NDIM(registration->handlers) != 1 || array_contains_nulls(registration->handlers))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the handlers of an executor must be a list of names without null"),
				 errhint("Name at least one handler_class that it can run.")));
	CheckHandlerNames(registration->handlers);
	CheckLease(registration->lease);
}

/* Nobody can guess the channel of an executor from its id. */
static char *
NewChannel(void)
{
	uint8		random[10];
	char		hex[2 * sizeof(random) + 1];

	if (!pg_strong_random(random, sizeof(random)))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate a random channel name")));
	for (int i = 0; i < sizeof(random); i++)
		snprintf(hex + 2 * i, 3, "%02x", random[i]);
	return psprintf("tasker_%s", hex);
}

/* Registers an executor; returns its id. */
static int64
RegisterExecutor(const Registration *registration, const char *channel)
{
	QueryScope	scope;
	TimestampTz now = TaskerNow();
	int64		executor_id;
	Datum		args[8] = {
		PointerGetDatum(registration->name), PointerGetDatum(registration->handlers),
		Int32GetDatum(registration->capacity), BoolGetDatum(registration->detached),
		IntervalPGetDatum(registration->lease), CStringGetTextDatum(channel), 0,
		TimestampTzGetDatum(now)
	};

	OpenQueryScope(&scope);
	args[6] = QueryCallerName();
	(void) RunQuery(&ENSURE_HANDLER_NAMES, &args[1], NULL);
	(void) RunQuery(&INSERT_EXECUTOR, args, NULL);
	executor_id = RowInt64(0, 1);
	CloseQueryScope(&scope);
	FAULT_POINT("executor-written");
	BindToSession(executor_id, registration->detached);
	if (registration->detached && Shared != NULL && !RecordHeartbeat(executor_id, now, true))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("there is no room for another detached executor"),
				 errhint("Increase tasker.max_executors, or register it bound to its session.")));
	WakeForExecutorsAtCommit();
	return executor_id;
}

PG_FUNCTION_INFO_V1(tasker_register_executor);

Datum
tasker_register_executor(PG_FUNCTION_ARGS)
{
	Interval	default_lease = {.time = (int64) tasker_lease * 1000};
	Registration registration;
	char	   *channel = NewChannel();
	TupleDesc	row_type;
	Datum		values[2];
	bool		nulls[2] = {false, false};

	for (int i = 0; i < 4; i++)
	{
		if (PG_ARGISNULL(i))
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("name, handlers, capacity and detached of an executor must not be null")));
	}
	registration = (Registration)
	{
		.name = PG_GETARG_TEXT_PP(0),
			.handlers = PG_GETARG_ARRAYTYPE_P(1),
			.capacity = PG_GETARG_INT32(2),
			.detached = PG_GETARG_BOOL(3),
			.lease = PG_ARGISNULL(4) ? &default_lease : PG_GETARG_INTERVAL_P(4),
	};
	if (get_call_result_type(fcinfo, NULL, &row_type) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	CheckRegistration(&registration);
	values[0] = Int64GetDatum(RegisterExecutor(&registration, channel));
	values[1] = CStringGetTextDatum(channel);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(row_type), values, nulls)));
}

static int64
ExecutorArgument(FunctionCallInfo fcinfo)
{
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("executor_id must not be null")));
	return PG_GETARG_INT64(0);
}

PG_FUNCTION_INFO_V1(tasker_unregister_executor);

Datum
tasker_unregister_executor(PG_FUNCTION_ARGS)
{
	int64		executor_id = ExecutorArgument(fcinfo);
	Datum		arg = Int64GetDatum(executor_id);
	bool		release = !PG_ARGISNULL(1) && PG_GETARG_BOOL(1);
	QueryScope	scope;
	bool		lived;

	OpenQueryScope(&scope);
	if (RunQuery(&READ_EXECUTOR, &arg, NULL) == 0)
		RefuseUnknown("executor", executor_id);
	lived = RowBool(0, 1);
	if (lived)
		EndExecutors(&executor_id, 1, release ? END_RELEASED : "unregistered");
	CloseQueryScope(&scope);
	ReleaseFromSession(executor_id);
	WakeForExecutorsAtCommit();
	PG_RETURN_BOOL(lived);
}

/*
 * Notes a sign of life where shared memory has no entry: the first one after
 * a restart, of an executor that has ended, or without preloading.
 */
static bool
HeartbeatByRow(int64 executor_id, TimestampTz now)
{
	QueryScope	scope;
	Datum		args[2] = {Int64GetDatum(executor_id), TimestampTzGetDatum(now)};
	bool		alive;
	bool		detached;

	OpenQueryScope(&scope);
	if (RunQuery(&READ_EXECUTOR, args, NULL) == 0)
		RefuseUnknown("executor", executor_id);
	alive = RowBool(0, 1);
	detached = RowBool(0, 2);
	if (alive && detached && !RecordHeartbeat(executor_id, now, true))
		(void) RunQuery(&NOTE_HEARTBEAT, args, NULL);
	CloseQueryScope(&scope);
	return alive;
}

bool
NoteHeartbeat(int64 executor_id)
{
	TimestampTz now = TaskerNow();

	return RecordHeartbeat(executor_id, now, false) || HeartbeatByRow(executor_id, now);
}

PG_FUNCTION_INFO_V1(tasker_heartbeat);

Datum
tasker_heartbeat(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(NoteHeartbeat(ExecutorArgument(fcinfo)));
}
