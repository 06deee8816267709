/*
 * task_trigger.c
 *		Tasks that are started by events.
 *
 * A page of events is matched with all triggers by one query, which makes the
 * requests, too.  Those of one trigger are created together, some at a time, as
 * its owner; where that fails each alone, so that one that cannot be started
 * stops no other.
 *
 * The first row of a task's log names the triggers that led to it.  A trigger
 * passes over what came of itself: otherwise one that starts a task at the end
 * of any task would never end.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "define/access.h"
#include "define/follower.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pg/catalog.h"
#include "pg/clock.h"
#include "pg/query.h"
#include "pg/user_function.h"
#include "pg/wakeup.h"
#include "run/task_trigger.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"

#define MAX_TRIGGER_NAME 128
#define MAX_EVENT_BYTES 256
#define MAX_TRIGGERS 1000

/* Created together, well within the time that a call may take. */
#define TASKS_AT_ONCE "100"

/* Triggers, one after the other, that lead to a task. */
#define MAX_CHAIN 8

/* The function that creates tasks of a trigger, called as its owner. */
#define CREATE_TASKS "tasker.create_triggered_tasks"

/* ---------- triggers come and go ---------- */

static KeptQuery COUNT_TRIGGERS = {.sql = "SELECT count(*) FROM tasker.task_triggers",.nargs = 0};

static KeptQuery FIND_TRIGGER = {
	.sql = "SELECT 1 FROM tasker.task_triggers WHERE name = $1",
	.nargs = 1,.types = {TEXTOID}
};

static KeptQuery LOCK_TRIGGER = {
	.sql = "SELECT owner FROM tasker.task_triggers WHERE name = $1 FOR UPDATE",
	.nargs = 1,.types = {TEXTOID}
};

static KeptQuery SAVE_TRIGGER = {
	.sql =
	"INSERT INTO tasker.task_triggers AS t (name, event, request, match, context_from_payload, owner, created_at)"
	" VALUES ($1, $2, $3, $4, $5, $6, $7)"
	" ON CONFLICT (name) DO UPDATE SET event = excluded.event, request = excluded.request, match = excluded.match,"
	"    context_from_payload = excluded.context_from_payload"
	"  WHERE t.owner = excluded.owner"
	" RETURNING xmax = 0",
	.nargs = 7,.types = {TEXTOID, TEXTOID, JSONBOID, JSONBOID, JSONBOID, TEXTOID, TIMESTAMPTZOID}
};

static KeptQuery DELETE_TRIGGER = {
	.sql = "DELETE FROM tasker.task_triggers WHERE name = $1",
	.nargs = 1,.types = {TEXTOID}
};

/* Whether a trigger exists; raises 42501 if it is of a role that the caller may not act as. */
static bool
CheckOwnTrigger(const char *name, Oid caller)
{
	Datum		arg = CStringGetTextDatum(name);
	Oid			owner;

	if (RunQuery(&LOCK_TRIGGER, &arg, NULL) == 0)
		return false;
	owner = get_role_oid(RowText(0, 1), true);
	if (!superuser_arg(caller) && (!OidIsValid(owner) || !has_privs_of_role(caller, owner)))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("trigger \"%s\" belongs to another role", name)));
	return true;
}

static void
CheckRoomForTrigger(const char *name)
{
	(void) RunPlainQuery(&COUNT_TRIGGERS);
	if (RowInt64(0, 1) >= MAX_TRIGGERS)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("there is no room for trigger \"%s\"", name),
				 errdetail("There are %d triggers already.", MAX_TRIGGERS)));
}

static char *
TriggerName(FunctionCallInfo fcinfo)
{
	char	   *name;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the name of a trigger must not be null")));
	name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	if (*name == '\0' || pg_mbstrlen(name) > MAX_TRIGGER_NAME)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the name of a trigger must have 1 to %d characters", MAX_TRIGGER_NAME)));
	return name;
}

static void
CheckIsObject(const char *trigger, const char *what, Jsonb *value)
{
	if (!JB_ROOT_IS_OBJECT(value))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s of trigger \"%s\" must be a JSON object", what, trigger)));
}

/* Raises 22023 for a request that sets what the event sets, or has a context that nothing can be added to. */
static void
CheckRequest(const char *trigger, Jsonb *request)
{
	static const char *const ours[] = {"identity_key", "requested_at"};
	JsonbValue	value;

	CheckIsObject(trigger, "the request", request);
	for (int i = 0; i < lengthof(ours); i++)
	{
		if (getKeyJsonValueFromContainer(&request->root, ours[i], strlen(ours[i]), &value) != NULL)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("the request of trigger \"%s\" must not have \"%s\"", trigger, ours[i]),
					 errdetail("It is set for each task, by the event that starts it.")));
	}
	if (getKeyJsonValueFromContainer(&request->root, "context", strlen("context"), &value) != NULL &&
		(value.type != jbvBinary || !JsonContainerIsObject(value.val.binary.data)))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the context in the request of trigger \"%s\" must be a JSON object", trigger)));
}

/* Raises 22023 unless every key of the context has a key of the payload. */
static void
CheckContextFromPayload(const char *trigger, Jsonb *map)
{
	JsonbIterator *iterator;
	JsonbValue	value;
	JsonbIteratorToken token;

	CheckIsObject(trigger, "context_from_payload", map);
	iterator = JsonbIteratorInit(&map->root);
	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		if (token == WJB_VALUE && value.type != jbvString)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("context_from_payload of trigger \"%s\" must have strings as values", trigger),
					 errhint("A value is the name of a key of the payload, or * for the whole payload.")));
	}
}

static void
CheckEvent(const char *trigger, const char *event)
{
	if (*event == '\0' || strlen(event) > MAX_EVENT_BYTES)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the event of trigger \"%s\" is invalid: \"%s\"", trigger, event),
				 errhint("It is the name of an event of up to %d bytes, in which * stands for any characters.",
						 MAX_EVENT_BYTES)));
}

PG_FUNCTION_INFO_V1(tasker_start_task_on_event);

Datum
tasker_start_task_on_event(PG_FUNCTION_ARGS)
{
	char	   *name = TriggerName(fcinfo);
	Datum		args[7] = {PG_GETARG_DATUM(0)};
	QueryScope	scope;
	bool		is_new;

	for (int i = 1; i < 5; i++)
	{
		if (PG_ARGISNULL(i))
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("event, request, match and context_from_payload of trigger \"%s\" must not be null", name)));
		args[i] = PG_GETARG_DATUM(i);
	}
	CheckEvent(name, TextDatumGetCString(args[1]));
	CheckRequest(name, PG_GETARG_JSONB_P(2));
	CheckIsObject(name, "match", PG_GETARG_JSONB_P(3));
	CheckContextFromPayload(name, PG_GETARG_JSONB_P(4));
	(void) FindUserFunction(CREATE_TASKS, JSONBOID, INT8ARRAYOID, GetUserNameFromId(GetUserId(), false));

	OpenQueryScope(&scope);
	/* It starts tasks, and sees what happens everywhere. */
	RequireEverywhere(MAY_PRODUCE);
	RequireEverywhere(MAY_OBSERVE);
	FollowEvents();
	if (!CheckOwnTrigger(name, scope.caller))
		CheckRoomForTrigger(name);
	args[5] = QueryCallerName();
	args[6] = TimestampTzGetDatum(TaskerNow());
	if (RunQuery(&SAVE_TRIGGER, args, NULL) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("trigger \"%s\" belongs to another role", name),
				 errhint("End it with tasker.drop_task_trigger() first.")));
	is_new = RowBool(0, 1);
	InvalidateDefinitions();
	WakeOrchestratorAtCommit(0);
	CloseQueryScope(&scope);
	PG_RETURN_BOOL(is_new);
}

PG_FUNCTION_INFO_V1(tasker_drop_task_trigger);

Datum
tasker_drop_task_trigger(PG_FUNCTION_ARGS)
{
	char	   *name = TriggerName(fcinfo);
	Datum		arg = PG_GETARG_DATUM(0);
	QueryScope	scope;
	bool		found;

	OpenQueryScope(&scope);
	RequireEverywhere(MAY_PRODUCE);
	found = RunQuery(&FIND_TRIGGER, &arg, NULL) > 0;
	/* Whoever reacts locks in this order, too, and does not see half of it. */
	if (found)
		FollowEvents();
	found = found && CheckOwnTrigger(name, scope.caller);
	if (found)
	{
		(void) RunQuery(&DELETE_TRIGGER, &arg, NULL);
		InvalidateDefinitions();
		WakeOrchestratorAtCommit(0);
	}
	CloseQueryScope(&scope);
	PG_RETURN_BOOL(found);
}

static KeptQuery READ_PATTERNS = {
	.sql = "SELECT DISTINCT t.event FROM tasker.task_triggers t ORDER BY t.event",
	.nargs = 0
};

ArrayBuildState *
AddTriggerPatterns(ArrayBuildState *patterns)
{
	uint64		n = RunPlainQuery(&READ_PATTERNS);

	for (uint64 i = 0; i < n; i++)
		patterns = accumArrayResult(patterns, RowDatum(i, 1, NULL), false, TEXTOID, CurrentMemoryContext);
	return patterns;
}

/* ---------- events start tasks ---------- */

/*
 * The tasks to start, as batches of one trigger and one chain of triggers
 * that led to the event.
 */
static KeptQuery MATCH_EVENTS = {
	.sql =
	"WITH happened AS MATERIALIZED ("
	" SELECT e.* FROM ROWS FROM (unnest($1), unnest($2), unnest($3), unnest($4), unnest($5)) WITH ORDINALITY"
	"        e(name, event_key, occurred_at, task_id, payload, place)"
	"), trigger AS MATERIALIZED ("
	" SELECT t.*, replace(replace(replace(replace(t.event, '!', '!!'), '%', '!%'), '_', '!_'), '*', '%') AS pattern"
	"   FROM tasker.task_triggers t"
	"), matched AS MATERIALIZED ("
	" SELECT t.name, t.owner, c.chain, e.event_key, e.place,"
	"        t.request || jsonb_build_object('requested_at', e.occurred_at,"
	"          'identity_key', format('trigger:%s:%s', t.name, e.event_key),"
	"          'context', coalesce(t.request -> 'context', '{}')"
	"           || (SELECT coalesce(jsonb_object_agg(k.key, CASE k.value WHEN '*' THEN e.payload ELSE e.payload -> k.value END), '{}')"
	"                 FROM jsonb_each_text(t.context_from_payload) k WHERE k.value = '*' OR e.payload ? k.value)) AS request"
	"   FROM happened e JOIN trigger t ON e.name LIKE t.pattern ESCAPE '!' AND e.payload @> t.match AND e.occurred_at >= t.created_at"
	"  CROSS JOIN LATERAL (SELECT coalesce((SELECT l.metadata -> 'triggers' FROM tasker.task_transition_log l"
	"                                        WHERE l.task_id = e.task_id AND l.sort_key = 10), '[]') AS chain OFFSET 0) c"
	"  WHERE NOT c.chain ? t.name"
	")"
	"SELECT m.name, m.owner, jsonb_array_length(m.chain), min(m.event_key),"
	"       jsonb_build_object('triggers', m.chain || jsonb_build_array(m.name), 'requests', jsonb_agg(m.request ORDER BY m.place)),"
	"       count(*)"
	"  FROM (SELECT x.*, (row_number() OVER (PARTITION BY x.name, x.chain ORDER BY x.place) - 1) / " TASKS_AT_ONCE " AS batch"
	"          FROM matched x) m"
	" GROUP BY m.name, m.owner, m.chain, m.batch"
	" ORDER BY m.name, min(m.place)",
	.nargs = 5,.types = {TEXTARRAYOID, TEXTARRAYOID, TIMESTAMPTZARRAYOID, INT8ARRAYOID, JSONBARRAYOID}
};

/* One request of a batch, as a batch of its own. */
static KeptQuery SINGLE_OUT = {
	.sql = "SELECT jsonb_set($1, '{requests}', jsonb_build_array($1 -> 'requests' -> $2)), $1 -> 'requests' -> $2 ->> 'identity_key'",
	.nargs = 2,.types = {JSONBOID, INT4OID}
};

static KeptQuery NOTE_STARTS = {
	.sql =
	"UPDATE tasker.task_triggers"
	"   SET tasks_started = tasks_started + $2, last_task_id = coalesce($3, last_task_id),"
	"       last_started_at = CASE WHEN $2 > 0 THEN $6 ELSE last_started_at END, errors = errors + $4,"
	"       last_error = coalesce($5, last_error), last_error_at = CASE WHEN $4 > 0 THEN $6 ELSE last_error_at END"
	" WHERE name = $1",
	.nargs = 6,.types = {TEXTOID, INT8OID, INT8OID, INT8OID, TEXTOID, TIMESTAMPTZOID}
};

/* Tasks of one trigger that are created together. */
typedef struct Batch
{
	const char *trigger;
	const char *owner;
	int			chain;			/* triggers that led to the events */
	Datum		requests;		/* with the chain, as create_triggered_tasks takes them */
	int			n;
} Batch;

/* What has become of the tasks of one trigger. */
typedef struct Outcome
{
	int64		started;
	int64		last_task_id;	/* 0: none */
	int64		failed;
	const char *error;			/* of the last one that failed */
	int			code;
} Outcome;

/* The batches of a page, in the current memory context. */
static Batch *
MatchEvents(const EventPage *page, int *n)
{
	Datum		args[5] = {page->names, page->event_keys, page->occurred_at, page->task_ids, page->payloads};
	MemoryContext context = CurrentMemoryContext;
	QueryScope	scope;
	Batch	   *batches;

	OpenQueryScope(&scope);
	*n = (int) RunQuery(&MATCH_EVENTS, args, NULL);
	MemoryContextSwitchTo(context);
	batches = palloc(sizeof(Batch) * Max(*n, 1));
	for (int i = 0; i < *n; i++)
	{
		batches[i] = (Batch)
		{
			.trigger = RowText(i, 1),.owner = RowText(i, 2),.chain = RowInt32(i, 3),
				.requests = PointerGetDatum(PG_DETOAST_DATUM_COPY(RowDatum(i, 5, NULL))),.n = (int) RowInt64(i, 6)
		};
	}
	CloseQueryScope(&scope);
	return batches;
}

/* Whether the same may succeed the next time, whatever the trigger says. */
static bool
IsPassing(int code, bool impatient)
{
	switch (ERRCODE_TO_CATEGORY(code))
	{
		case ERRCODE_INSUFFICIENT_RESOURCES:
		case ERRCODE_SYSTEM_ERROR:
			return true;
		case ERRCODE_TRANSACTION_ROLLBACK:
			return !impatient;
		default:
			return code == ERRCODE_READ_ONLY_SQL_TRANSACTION || (code == ERRCODE_LOCK_NOT_AVAILABLE && !impatient);
	}
}

static void
NoteError(Outcome *outcome, int failed, int code, const char *error)
{
	outcome->failed += failed;
	outcome->code = code;
	outcome->error = error;
}

/* Creates tasks as the owner of the trigger; false where they cannot be created, and then *error says why. */
static bool
TryCreate(const char *owner, Datum requests, bool impatient, Outcome *outcome, ErrorData **error)
{
	Datum		result;
	bool		is_null;
	Datum	   *ids;
	int			n;

	if (!TryUserFunction(CREATE_TASKS, JSONBOID, INT8ARRAYOID, owner, requests, &result, &is_null, error))
	{
		if (IsPassing((*error)->sqlerrcode, impatient))
			ReThrowError(*error);
		return false;
	}
	deconstruct_array(DatumGetArrayTypeP(result), INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE, &ids, NULL, &n);
	outcome->started += n;
	if (n > 0)
		outcome->last_task_id = DatumGetInt64(ids[n - 1]);
	return true;
}

/* Creates the tasks of a batch one by one. */
static void
CreateOneByOne(const Batch *batch, bool impatient, Outcome *outcome)
{
	MemoryContext context = CurrentMemoryContext;

	for (int i = 0; i < batch->n; i++)
	{
		Datum		args[2] = {batch->requests, Int32GetDatum(i)};
		QueryScope	scope;
		Datum		single;
		char	   *key;
		ErrorData  *error;

		CHECK_FOR_INTERRUPTS();
		OpenQueryScope(&scope);
		(void) RunQuery(&SINGLE_OUT, args, NULL);
		MemoryContextSwitchTo(context);
		single = PointerGetDatum(PG_DETOAST_DATUM_COPY(RowDatum(0, 1, NULL)));
		key = RowText(0, 2);
		CloseQueryScope(&scope);
		if (!TryCreate(batch->owner, single, impatient, outcome, &error))
			NoteError(outcome, 1, error->sqlerrcode, psprintf("%s: %s", key, error->message));
	}
}

/* Whether the owner of a trigger may still see what happens everywhere. */
static bool
OwnerMayObserve(const char *owner)
{
	QueryScope	scope;
	Oid			role = get_role_oid(owner, true);
	bool		may;

	OpenQueryScope(&scope);
	/* Of a role that is gone the creation complains. */
	may = !OidIsValid(role) || RoleMayEverywhere(role, MAY_OBSERVE);
	CloseQueryScope(&scope);
	return may;
}

static void
StartBatch(const Batch *batch, bool impatient, Outcome *outcome)
{
	ErrorData  *error;

	if (batch->chain >= MAX_CHAIN)
		NoteError(outcome, batch->n, ERRCODE_PROGRAM_LIMIT_EXCEEDED,
				  psprintf("the event comes of a chain of %d triggers, which is the limit", MAX_CHAIN));
	else if (!OwnerMayObserve(batch->owner))
		NoteError(outcome, batch->n, ERRCODE_INSUFFICIENT_PRIVILEGE,
				  psprintf("role \"%s\" may not observe all namespaces any more", batch->owner));
	else if (!TryCreate(batch->owner, batch->requests, impatient, outcome, &error))
		CreateOneByOne(batch, impatient, outcome);
}

/* Writes down, and says, what has become of the tasks of one trigger. */
static void
NoteOutcome(const char *trigger, const Outcome *outcome)
{
	Datum		args[6] = {
		CStringGetTextDatum(trigger), Int64GetDatum(outcome->started), Int64GetDatum(outcome->last_task_id),
		Int64GetDatum(outcome->failed), outcome->error != NULL ? CStringGetTextDatum(outcome->error) : 0,
		TimestampTzGetDatum(TaskerNow())
	};
	char		nulls[7] = {' ', ' ', outcome->last_task_id == 0 ? 'n' : ' ', ' ', outcome->error == NULL ? 'n' : ' ', ' ', '\0'};
	QueryScope	scope;

	OpenQueryScope(&scope);
	(void) RunQuery(&NOTE_STARTS, args, nulls);
	CloseQueryScope(&scope);
	if (outcome->failed > 0)
		ereport(WARNING,
				(errcode(outcome->code),
				 errmsg("tasker: trigger \"%s\" could not start " INT64_FORMAT " of its tasks: %s",
						trigger, outcome->failed, outcome->error),
				 errhint("These events are passed over; see tasker.task_triggers.")));
}

void
StartTriggeredTasks(const EventPage *page, bool impatient)
{
	int			n;
	Batch	   *batches = MatchEvents(page, &n);
	Outcome		outcome = {0};

	for (int i = 0; i < n; i++)
	{
		StartBatch(&batches[i], impatient, &outcome);
		if (i + 1 == n || strcmp(batches[i].trigger, batches[i + 1].trigger) != 0)
		{
			NoteOutcome(batches[i].trigger, &outcome);
			outcome = (Outcome)
			{
				0
			};
		}
	}
}
