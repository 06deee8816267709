/*
 * event.c
 *		The catalogue of custom events: what may be announced besides the
 *		changes of state, and which steps may announce it.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "define/access.h"
#include "define/event.h"
#include "mb/pg_wchar.h"
#include "pg/clock.h"
#include "pg/query.h"
#include "utils/array.h"
#include "utils/builtins.h"

#define MAX_EVENT_NAME 128

const char *
EventNameProblem(const char *name)
{
	/* The first segments of what tasker itself announces, now or later. */
	static const char *const reserved[] = {"task", "step", "workflow", "observability", "tasker", "test"};
	const char *dot = strchr(name, '.');

	if (pg_mbstrlen(name) > MAX_EVENT_NAME)
		return psprintf("it must have at most %d characters", MAX_EVENT_NAME);
	if (dot == NULL)
		return "it must have a dot, as in \"order.shipped\"";
	if (dot == name || strstr(name, "..") != NULL || name[strlen(name) - 1] == '.')
		return "something must stand before, between and after its dots";
	for (const char *c = name; *c; c++)
	{
		if ((unsigned char) *c <= ' ' || *c == 0x7f || *c == '*')
			return "it must not have spaces, control characters or \"*\"";
	}
	for (int i = 0; i < lengthof(reserved); i++)
	{
		if (strlen(reserved[i]) == dot - name && strncmp(name, reserved[i], dot - name) == 0)
			return psprintf("names that begin with \"%s.\" are reserved", reserved[i]);
	}
	return NULL;
}

/* Inserted in one order everywhere, so that registrations cannot deadlock. */
static KeptQuery ENSURE_EVENTS = {
	.sql =
	"INSERT INTO tasker.custom_events (name, description, registered_at)"
	" SELECT u.name, max(u.description), $3"
	"   FROM ROWS FROM (unnest($1), unnest($2)) u(name, description)"
	"  WHERE NOT EXISTS (SELECT 1 FROM tasker.custom_events e WHERE e.name = u.name)"
	"  GROUP BY u.name ORDER BY u.name"
	" ON CONFLICT (name) DO NOTHING",
	.nargs = 3,.types = {TEXTARRAYOID, TEXTARRAYOID, TIMESTAMPTZOID}
};

static KeptQuery LOCK_EVENT = {
	.sql = "SELECT description FROM tasker.custom_events WHERE name = $1 FOR NO KEY UPDATE",
	.nargs = 1,.types = {TEXTOID}
};

static KeptQuery DESCRIBE_EVENT = {
	.sql = "UPDATE tasker.custom_events SET description = $2 WHERE name = $1",
	.nargs = 2,.types = {TEXTOID, TEXTOID}
};

static KeptQuery INSERT_STEP_EVENTS = {
	.sql =
	"INSERT INTO tasker.named_step_events (named_task_id, named_step_id, name)"
	" SELECT DISTINCT $1, u.named_step_id, u.name FROM ROWS FROM (unnest($2), unnest($3)) u(named_step_id, name)",
	.nargs = 3,.types = {INT4OID, INT4ARRAYOID, TEXTARRAYOID}
};

static KeptQuery INSERT_EVENT = {
	.sql =
	"INSERT INTO tasker.custom_events (name, description, fired_by, registered_at) VALUES ($1, $2, $3, $4)"
	" ON CONFLICT (name) DO NOTHING",
	.nargs = 4,.types = {TEXTOID, TEXTOID, TEXTARRAYOID, TIMESTAMPTZOID}
};

static KeptQuery ADD_SOURCES = {
	.sql =
	"UPDATE tasker.custom_events e"
	"   SET fired_by = e.fired_by || ARRAY(SELECT DISTINCT f FROM unnest($2) f WHERE f <> ALL (e.fired_by) ORDER BY f)"
	" WHERE e.name = $1 AND NOT $2 <@ e.fired_by",
	.nargs = 2,.types = {TEXTOID, TEXTARRAYOID}
};

/* Gives an event that exists another description; whoever uses the old one is told. */
static void
DescribeEvent(const char *name, const char *description)
{
	Datum		args[2] = {CStringGetTextDatum(name), CStringGetTextDatum(description)};
	char	   *before;

	if (RunQuery(&LOCK_EVENT, args, NULL) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("event \"%s\" is being registered by another transaction", name),
				 errhint("Try the transaction again.")));
	before = RowText(0, 1);
	if (before != NULL && strcmp(before, description) == 0)
		return;
	/* An event is shared by all: whoever is confined gives it its first description only, and reads none. */
	if (before != NULL && RoleIsConfined(QueryCaller()))
		return;
	(void) RunQuery(&DESCRIBE_EVENT, args, NULL);
	if (before != NULL)
		ereport(NOTICE,
				(errmsg("event \"%s\" has another description now", name),
				 errdetail("It was: %s", before)));
}

static int
CompareEvents(const void *a, const void *b)
{
	return strcmp((*(const StepEvent *const *) a)->name, (*(const StepEvent *const *) b)->name);
}

void
WriteStepEvents(int32 named_task_id, const StepEvent *events, int n)
{
	const StepEvent **sorted = palloc(sizeof(StepEvent *) * Max(n, 1));
	Datum	   *names = palloc(sizeof(Datum) * Max(n, 1));
	Datum	   *descriptions = palloc(sizeof(Datum) * Max(n, 1));
	bool	   *nulls = palloc(sizeof(bool) * Max(n, 1));
	int32	   *steps = palloc(sizeof(int32) * Max(n, 1));
	Datum		args[3];

	if (n == 0)
		return;
	for (int i = 0; i < n; i++)
	{
		sorted[i] = &events[i];
		steps[i] = events[i].named_step_id;
		names[i] = CStringGetTextDatum(events[i].name);
		nulls[i] = events[i].description == NULL;
		descriptions[i] = nulls[i] ? (Datum) 0 : CStringGetTextDatum(events[i].description);
	}
	args[0] = NullableArray(names, NULL, n, TEXTOID);
	args[1] = NullableArray(descriptions, nulls, n, TEXTOID);
	args[2] = TimestampTzGetDatum(TaskerNow());
	(void) RunQuery(&ENSURE_EVENTS, args, NULL);

	qsort(sorted, n, sizeof(StepEvent *), CompareEvents);
	for (int i = 0; i < n; i++)
	{
		if (sorted[i]->description != NULL)
			DescribeEvent(sorted[i]->name, sorted[i]->description);
	}

	args[2] = args[0];
	args[1] = Int32Array(steps, n);
	args[0] = Int32GetDatum(named_task_id);
	(void) RunQuery(&INSERT_STEP_EVENTS, args, NULL);
}

/* ---------- payloads ---------- */

/* One row where the event exists: what is wrong with the payload, NULL where nothing is. */
static KeptQuery CHECK_PAYLOAD = {
	.sql =
	"SELECT (SELECT string_agg(concat_ws(': ', nullif(v.path, ''), v.problem), '; ')"
	"          FROM tasker.json_schema_violations(e.payload_schema, $2) v)"
	"  FROM tasker.custom_events e WHERE e.name = $1",
	.nargs = 2,.types = {TEXTOID, JSONBOID}
};

void
CheckEventPayload(const char *name, Datum payload)
{
	Datum		args[2] = {CStringGetTextDatum(name), payload};
	char	   *problems;

	if (RunQuery(&CHECK_PAYLOAD, args, NULL) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("custom event \"%s\" is not in the catalogue", name),
				 errhint("Enter it with tasker.register_event(), or as custom_events of a step template.")));
	problems = RowText(0, 1);
	if (problems != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the payload of event \"%s\" violates its schema", name),
				 errdetail("%s", problems),
				 errhint("See payload_schema in tasker.event_definitions.")));
}

/* ---------- registering by hand ---------- */

/* Enters an event; true if it is new, false if it was there and what is given here was added. */
static bool
RegisterEvent(const char *name, const char *description, Datum fired_by)
{
	const char *problem = EventNameProblem(name);
	char		nulls[5] = "    ";
	Datum		args[4] = {CStringGetTextDatum(name), 0, fired_by, TimestampTzGetDatum(TaskerNow())};
	QueryScope	scope;
	bool		is_new;

	if (problem != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("event name \"%s\" is invalid: %s", name, problem)));
	OpenQueryScope(&scope);
	RequireEverywhere(MAY_ADMINISTER);
	if (description != NULL)
		args[1] = CStringGetTextDatum(description);
	else
		nulls[1] = 'n';
	is_new = RunQuery(&INSERT_EVENT, args, nulls) == 1;
	if (!is_new)
	{
		args[1] = fired_by;
		(void) RunQuery(&ADD_SOURCES, args, NULL);
		if (description != NULL)
			DescribeEvent(name, description);
	}
	CloseQueryScope(&scope);
	return is_new;
}

PG_FUNCTION_INFO_V1(tasker_register_event);

Datum
tasker_register_event(PG_FUNCTION_ARGS)
{
	ArrayType  *fired_by = PG_ARGISNULL(2) ? construct_empty_array(TEXTOID) : PG_GETARG_ARRAYTYPE_P(2);

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the name of an event must not be null")));
	if (ARR_NDIM(fired_by) > 1 || array_contains_nulls(fired_by))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("fired_by of an event must be a plain array without nulls")));
	PG_RETURN_BOOL(RegisterEvent(text_to_cstring(PG_GETARG_TEXT_PP(0)),
								 PG_ARGISNULL(1) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(1)),
								 PointerGetDatum(fired_by)));
}
