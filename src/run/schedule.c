/*
 * schedule.c
 *		Tasks that are started by time.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "define/access.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pg/catalog.h"
#include "pg/clock.h"
#include "pg/query.h"
#include "pg/user_function.h"
#include "pg/wakeup.h"
#include "run/schedule.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

/* 29 February comes after eight years at the latest. */
#define LONGEST_WAIT (INT64CONST(9) * 366 * USECS_PER_DAY)

#define MAX_SCHEDULE_NAME 128

/* What is later than this was missed. */
#define PUNCTUAL USECS_PER_MINUTE

/* The function that creates a task of a schedule, called as its owner. */
#define CREATE_TASK "tasker.create_requested_task"

/* How far back a change of the clocks is looked for. */
#define BEFORE_CHANGE (3 * USECS_PER_HOUR)

/* What the clocks of a zone show; *west are the seconds that they are behind UTC. */
static CronMinute
WallClock(TimestampTz at, pg_tz *zone, int *west)
{
	struct pg_tm tm;
	fsec_t		fsec;

	if (timestamp2tm(at, west, &tm, &fsec, NULL, zone) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("timestamp out of range")));
	return (CronMinute)
	{
		tm.tm_year, tm.tm_mon, tm.tm_mday, tm.tm_hour, tm.tm_min
	};
}

/* Whether the clocks have shown the same minute before, because they were put back since. */
static bool
IsRepeated(TimestampTz at, pg_tz *zone)
{
	int			west;
	int			west_before;
	int			west_then;
	TimestampTz first;

	(void) WallClock(at, zone, &west);
	(void) WallClock(at - BEFORE_CHANGE, zone, &west_before);
	first = at + (int64) (west_before - west) * USECS_PER_SEC;
	if (first >= at)
		return false;
	(void) WallClock(first, zone, &west_then);
	return west_then == west_before;
}

/* Whether something was meant for the minutes that the clocks have left out just before a time. */
static bool
MatchesLeftOut(const CronExpression *cron, TimestampTz at, pg_tz *zone)
{
	int			west;
	int			west_before;

	(void) WallClock(at, zone, &west);
	(void) WallClock(at - USECS_PER_MINUTE, zone, &west_before);
	/* The left out ones are those that clocks of before would show from now on. */
	for (int second = 0; second < west_before - west; second += SECS_PER_MINUTE)
	{
		TimestampTz as_utc = at + (int64) (second - west_before) * USECS_PER_SEC;
		CronMinute	minute = WallClock(as_utc, pg_tzset("GMT"), &(int) {0});

		if (CronMatches(cron, &minute))
			return true;
	}
	return false;
}

TimestampTz
NextCronTime(const CronExpression *cron, TimestampTz after, pg_tz *zone)
{
	/* Timestamps count from a full minute; older ones are negative. */
	TimestampTz at = after - (after % USECS_PER_MINUTE + USECS_PER_MINUTE) % USECS_PER_MINUTE + USECS_PER_MINUTE;

	while (at - after < LONGEST_WAIT)
	{
		int			west;
		CronMinute	minute = WallClock(at, zone, &west);
		bool		hour_matches = CronDayMatches(cron, &minute) && (cron->hours >> minute.hour & 1) != 0;

		if (!cron->any_hour && MatchesLeftOut(cron, at, zone))
			return at;
		if (CronMatches(cron, &minute) && (cron->any_hour || !IsRepeated(at, zone)))
			return at;
		/* Clocks change at full hours and half hours only, which are all looked at. */
		at += (hour_matches ? 1 : 30 - minute.minute % 30) * USECS_PER_MINUTE;
	}
	return DT_NOEND;
}

/* ---------- from SQL ---------- */

/* Raises 22023 for an expression that is none. */
static CronExpression
CronArgument(const char *text)
{
	CronExpression cron;
	const char *problem = ParseCron(text, &cron);

	if (problem != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("cron expression \"%s\" is invalid: %s", text, problem)));
	return cron;
}

static pg_tz *
ZoneArgument(const char *name)
{
	pg_tz	   *zone = pg_tzset(name);

	if (zone == NULL || !pg_tz_acceptable(zone))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("time zone \"%s\" is not known", name),
				 errhint("See pg_timezone_names.")));
	return zone;
}

PG_FUNCTION_INFO_V1(tasker_next_cron_time);

Datum
tasker_next_cron_time(PG_FUNCTION_ARGS)
{
	CronExpression cron = CronArgument(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	TimestampTz after = PG_GETARG_TIMESTAMPTZ(1);
	pg_tz	   *zone = ZoneArgument(text_to_cstring(PG_GETARG_TEXT_PP(2)));
	TimestampTz next;

	if (TIMESTAMP_NOT_FINITE(after))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the time after which to look must be finite")));
	next = NextCronTime(&cron, after, zone);
	if (next == DT_NOEND)
		PG_RETURN_NULL();
	PG_RETURN_TIMESTAMPTZ(next);
}

/* ---------- schedules come and go ---------- */

static KeptQuery LOCK_SCHEDULE = {
	.sql = "SELECT owner FROM tasker.task_schedules WHERE name = $1 FOR UPDATE",
	.nargs = 1,.types = {TEXTOID}
};

static KeptQuery SAVE_SCHEDULE = {
	.sql =
	"INSERT INTO tasker.task_schedules AS s (name, cron, time_zone, missed_runs, request, owner, due_at, created_at)"
	" VALUES ($1, $2, $3, $4, $5, $6, $7, $8)"
	" ON CONFLICT (name) DO UPDATE SET cron = excluded.cron, time_zone = excluded.time_zone,"
	"    missed_runs = excluded.missed_runs, request = excluded.request, due_at = excluded.due_at"
	"  WHERE s.owner = excluded.owner",
	.nargs = 8,.types = {TEXTOID, TEXTOID, TEXTOID, TEXTOID, JSONBOID, TEXTOID, TIMESTAMPTZOID, TIMESTAMPTZOID}
};

static KeptQuery DELETE_SCHEDULE = {
	.sql = "DELETE FROM tasker.task_schedules WHERE name = $1",
	.nargs = 1,.types = {TEXTOID}
};

/* Whether a schedule exists; raises 42501 if it is of a role that the caller may not act as. */
static bool
CheckOwnSchedule(const char *name, Oid caller)
{
	Datum		arg = CStringGetTextDatum(name);
	Oid			owner;

	if (RunQuery(&LOCK_SCHEDULE, &arg, NULL) == 0)
		return false;
	owner = get_role_oid(RowText(0, 1), true);
	if (!superuser_arg(caller) && (!OidIsValid(owner) || !has_privs_of_role(caller, owner)))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("schedule \"%s\" belongs to another role", name)));
	return true;
}

static char *
ScheduleName(FunctionCallInfo fcinfo)
{
	char	   *name;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the name of a schedule must not be null")));
	name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	if (*name == '\0' || pg_mbstrlen(name) > MAX_SCHEDULE_NAME)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the name of a schedule must have 1 to %d characters", MAX_SCHEDULE_NAME)));
	return name;
}

/* Raises 22023 for a request that sets what the schedule sets. */
static void
CheckScheduledRequest(const char *schedule, Jsonb *request)
{
	static const char *const ours[] = {"identity_key", "requested_at"};

	if (!JB_ROOT_IS_OBJECT(request))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the request of schedule \"%s\" must be an object as create_tasks() takes them", schedule)));
	for (int i = 0; i < lengthof(ours); i++)
	{
		JsonbValue	value;

		if (getKeyJsonValueFromContainer(&request->root, ours[i], strlen(ours[i]), &value) != NULL)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("the request of schedule \"%s\" must not have \"%s\"", schedule, ours[i]),
					 errdetail("It is set for each run, by the time that it is due.")));
	}
}

PG_FUNCTION_INFO_V1(tasker_schedule_task);

Datum
tasker_schedule_task(PG_FUNCTION_ARGS)
{
	char	   *name = ScheduleName(fcinfo);
	CronExpression cron;
	TimestampTz next;
	char	   *missed_runs;
	Datum		args[8];
	char		nulls[9] = "        ";
	QueryScope	scope;

	for (int i = 1; i < 5; i++)
	{
		if (PG_ARGISNULL(i))
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("cron, request, time_zone and missed_runs of schedule \"%s\" must not be null", name)));
		args[i] = PG_GETARG_DATUM(i);
	}
	cron = CronArgument(text_to_cstring(PG_GETARG_TEXT_PP(1)));
	CheckScheduledRequest(name, PG_GETARG_JSONB_P(2));
	next = NextCronTime(&cron, TaskerNow(), ZoneArgument(text_to_cstring(PG_GETARG_TEXT_PP(3))));
	missed_runs = text_to_cstring(PG_GETARG_TEXT_PP(4));
	if (strcmp(missed_runs, "skip") != 0 && strcmp(missed_runs, "once") != 0 && strcmp(missed_runs, "all") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("missed_runs of schedule \"%s\" must be skip, once or all, not \"%s\"", name, missed_runs)));
	(void) FindUserFunction(CREATE_TASK, JSONBOID, INT8OID, GetUserNameFromId(GetUserId(), false));

	OpenQueryScope(&scope);
	RequireEverywhere(MAY_PRODUCE);
	(void) CheckOwnSchedule(name, scope.caller);
	args[0] = PG_GETARG_DATUM(0);
	args[2] = PG_GETARG_DATUM(3);
	args[3] = PG_GETARG_DATUM(4);
	args[4] = PG_GETARG_DATUM(2);
	args[5] = QueryCallerName();
	args[6] = TimestampTzGetDatum(next);
	nulls[6] = next == DT_NOEND ? 'n' : ' ';
	args[7] = TimestampTzGetDatum(TaskerNow());
	if (RunQuery(&SAVE_SCHEDULE, args, nulls) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("schedule \"%s\" belongs to another role", name),
				 errhint("End it with tasker.unschedule_task() first.")));
	InvalidateDefinitions();
	WakeOrchestratorAtCommit(0);
	CloseQueryScope(&scope);
	if (next == DT_NOEND)
		PG_RETURN_NULL();
	PG_RETURN_TIMESTAMPTZ(next);
}

PG_FUNCTION_INFO_V1(tasker_unschedule_task);

Datum
tasker_unschedule_task(PG_FUNCTION_ARGS)
{
	char	   *name = ScheduleName(fcinfo);
	Datum		arg = PG_GETARG_DATUM(0);
	QueryScope	scope;
	bool		found;

	OpenQueryScope(&scope);
	RequireEverywhere(MAY_PRODUCE);
	found = CheckOwnSchedule(name, scope.caller);
	if (found)
		(void) RunQuery(&DELETE_SCHEDULE, &arg, NULL);
	CloseQueryScope(&scope);
	PG_RETURN_BOOL(found);
}

/* ---------- runs ---------- */

static KeptQuery LOCK_DUE_SCHEDULE = {
	.sql =
	"SELECT s.name, s.cron, s.time_zone, s.missed_runs, s.owner, s.due_at, s.request"
	"  FROM tasker.task_schedules s WHERE s.due_at <= $1"
	" ORDER BY s.due_at LIMIT 1 FOR UPDATE SKIP LOCKED",
	.nargs = 1,.types = {TIMESTAMPTZOID}
};

static KeptQuery REQUEST_OF_RUN = {
	.sql =
	"SELECT $1 || jsonb_build_object('requested_at', $2,"
	"        'identity_key', format('schedule:%s:%s', $3, extract(epoch FROM $2)::bigint))",
	.nargs = 3,.types = {JSONBOID, TIMESTAMPTZOID, TEXTOID}
};

static KeptQuery NOTE_RUN = {
	.sql =
	"UPDATE tasker.task_schedules"
	"   SET due_at = $2, last_due_at = coalesce($3, last_due_at), last_task_id = coalesce($4, last_task_id),"
	"       last_error = coalesce($5, last_error), last_error_at = CASE WHEN $5 IS NULL THEN last_error_at ELSE $6 END"
	" WHERE name = $1",
	.nargs = 6,.types = {TEXTOID, TIMESTAMPTZOID, TIMESTAMPTZOID, INT8OID, TEXTOID, TIMESTAMPTZOID}
};

static KeptQuery NEXT_DUE = {
	.sql = "SELECT min(s.due_at) FROM tasker.task_schedules s WHERE s.due_at IS NOT NULL",
	.nargs = 0
};

/* A schedule that is due. */
typedef struct DueSchedule
{
	char	   *name;
	CronExpression cron;
	pg_tz	   *zone;
	char	   *missed_runs;
	char	   *owner;
	TimestampTz due_at;
	Datum		request;
} DueSchedule;

/* Locks a schedule that is due and reads it; false if there is none. */
static bool
LockDueSchedule(TimestampTz now, MemoryContext context, DueSchedule *due)
{
	Datum		arg = TimestampTzGetDatum(now);
	MemoryContext caller;

	if (RunQuery(&LOCK_DUE_SCHEDULE, &arg, NULL) == 0)
		return false;
	caller = MemoryContextSwitchTo(context);
	*due = (DueSchedule)
	{
		.name = RowText(0, 1),
			.cron = CronArgument(RowText(0, 2)),
			.zone = ZoneArgument(RowText(0, 3)),
			.missed_runs = RowText(0, 4),
			.owner = RowText(0, 5),
			.due_at = DatumGetTimestampTz(RowDatum(0, 6, NULL)),
			.request = PointerGetDatum(PG_DETOAST_DATUM_COPY(RowDatum(0, 7, NULL))),
	};
	MemoryContextSwitchTo(caller);
	return true;
}

/*
 * What is to be run of a schedule that is due: *run is when it was due,
 * DT_NOEND for nothing.  Returns when the next one is due.
 */
static TimestampTz
PlanRun(const DueSchedule *due, TimestampTz now, TimestampTz *run)
{
	TimestampTz next = NextCronTime(&due->cron, due->due_at, due->zone);

	*run = due->due_at;
	if (strcmp(due->missed_runs, "all") == 0)
		return next;
	while (next <= now)
	{
		CHECK_FOR_INTERRUPTS();
		*run = next;
		next = NextCronTime(&due->cron, next, due->zone);
	}
	if (strcmp(due->missed_runs, "skip") == 0 && now - *run >= PUNCTUAL)
		*run = DT_NOEND;
	return next;
}

/* Writes down what has become of a run. */
static void
NoteRun(const DueSchedule *due, TimestampTz next, TimestampTz run, int64 task_id, const ErrorData *error)
{
	Datum		args[6] = {CStringGetTextDatum(due->name), TimestampTzGetDatum(next), TimestampTzGetDatum(run),
		Int64GetDatum(task_id), error != NULL ? CStringGetTextDatum(error->message) : 0, TimestampTzGetDatum(TaskerNow())
	};
	char		nulls[7] = {' ', next == DT_NOEND ? 'n' : ' ', task_id == 0 ? 'n' : ' ', task_id == 0 ? 'n' : ' ',
		error == NULL ? 'n' : ' ', ' ', '\0'
	};

	(void) RunQuery(&NOTE_RUN, args, nulls);
}

/* The request of one run. */
static Datum
RequestOfRun(const DueSchedule *due, TimestampTz run, MemoryContext context)
{
	Datum		args[3] = {due->request, TimestampTzGetDatum(run), CStringGetTextDatum(due->name)};
	MemoryContext caller;
	Datum		request;

	(void) RunQuery(&REQUEST_OF_RUN, args, NULL);
	caller = MemoryContextSwitchTo(context);
	request = PointerGetDatum(PG_DETOAST_DATUM_COPY(RowDatum(0, 1, NULL)));
	MemoryContextSwitchTo(caller);
	return request;
}

/*
 * Starts what is due of one schedule, if any is; false if none is.  *started
 * says whether a task was created.  The task is created between two query
 * scopes, as the owner of the schedule.
 */
static bool
StartDueSchedule(TimestampTz now, bool *started)
{
	MemoryContext context = CurrentMemoryContext;
	QueryScope	scope;
	DueSchedule due;
	TimestampTz run;
	TimestampTz next;
	Datum		request = 0;
	Datum		task_id = 0;
	bool		is_null;
	ErrorData  *error = NULL;

	*started = false;
	OpenQueryScope(&scope);
	if (!LockDueSchedule(now, context, &due))
	{
		CloseQueryScope(&scope);
		return false;
	}
	next = PlanRun(&due, now, &run);
	if (run != DT_NOEND)
		request = RequestOfRun(&due, run, context);
	CloseQueryScope(&scope);
	if (run != DT_NOEND)
	{
		*started = TryUserFunction(CREATE_TASK, JSONBOID, INT8OID, due.owner, request, &task_id, &is_null, &error);
		if (error != NULL)
			ereport(WARNING,
					(errcode(error->sqlerrcode),
					 errmsg("tasker: schedule \"%s\" could not start its task: %s", due.name, error->message),
					 errdetail("It was due at %s.", timestamptz_to_str(run)),
					 errhint("It is tried again the next time it is due.")));
	}
	OpenQueryScope(&scope);
	NoteRun(&due, next, run, *started ? DatumGetInt64(task_id) : 0, error);
	CloseQueryScope(&scope);
	return true;
}

int
StartScheduledTasks(int max, TimestampTz *due_at)
{
	TimestampTz now = TaskerNow();
	QueryScope	scope;
	int			started = 0;
	bool		one;
	bool		none;

	while (started < max && StartDueSchedule(now, &one))
		started += one;
	OpenQueryScope(&scope);
	(void) RunPlainQuery(&NEXT_DUE);
	*due_at = DatumGetTimestampTz(RowDatum(0, 1, &none));
	if (none)
		*due_at = DT_NOEND;
	CloseQueryScope(&scope);
	return started;
}

PG_FUNCTION_INFO_V1(tasker_start_scheduled_tasks);

Datum
tasker_start_scheduled_tasks(PG_FUNCTION_ARGS)
{
	int			max = PG_ARGISNULL(0) ? 0 : PG_GETARG_INT32(0);
	TimestampTz due_at;

	if (max < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max must be greater than zero")));
	PG_RETURN_INT32(StartScheduledTasks(max, &due_at));
}
