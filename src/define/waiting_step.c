/*
 * waiting_step.c
 *		Steps that wait instead of being run, as templates say, and which
 *		events are awaited by any of them.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "define/waiting_step.h"
#include "pg/catalog.h"
#include "pg/query.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* By more keys than that no event needs to be told. */
#define MAX_MATCH_KEYS 20

#define MAX_KEY_LENGTH 1000
#define MAX_SLEEP_DAYS (100 * 366)
#define MAX_TIMEOUT_SECONDS 315360000

static const MemberRule sleep_rules[] = {
	{"for", MEMBER_STRING, false, 1, 100},
	{"until_context", MEMBER_STRING, false, 1, MAX_KEY_LENGTH},
	{NULL}
};

static const MemberRule await_rules[] = {
	{"name", MEMBER_STRING, true, 1, 128},
	{"match", MEMBER_OBJECT, false},
	{"own_task", MEMBER_BOOLEAN, false},
	{"timeout_seconds", MEMBER_NUMBER, false, 1, MAX_TIMEOUT_SECONDS, true},
	{"default", MEMBER_OBJECT, false},
	{NULL}
};

static const MemberRule literal_rules[] = {
	{"value", MEMBER_ANYTHING, true},
	{NULL}
};

/* Keys of a step template that speak of executors and attempts, which a waiting step has none of. */
static const char *const meaningless[] = {
	"handler_class", "handler_config", "custom_events", "default_retryable", "default_retry_limit", "priority",
	"timeout_seconds", "backoff_base_seconds", "backoff_cap_seconds", "backoff_jitter"
};

/* ---------- reading ---------- */

/* The interval of a text; the complaint says what PostgreSQL has to say of it. */
static Interval *
ParseInterval(const DocumentReader *reader, const char *text)
{
	MemoryContext context = CurrentMemoryContext;
	Interval   *volatile interval = NULL;
	char	   *volatile problem = NULL;

	PG_TRY();
	{
		interval = DatumGetIntervalP(DirectFunctionCall3(interval_in, CStringGetDatum(text),
														 ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		problem = error->message;
	}
	PG_END_TRY();
	/* The transaction ends here in any case: nothing of it went on after the error. */
	if (problem != NULL)
		ComplainOf(reader, psprintf("\"for\" is no interval: %s", problem));
	return interval;
}

static void
CheckSleep(const DocumentReader *reader, JsonbContainer *sleep)
{
	char	   *length;
	Interval   *interval;
	double		days;

	CheckMembers(reader, sleep, sleep_rules);
	if ((Member(sleep, "for") == NULL) == (Member(sleep, "until_context") == NULL))
		ComplainOf(reader, "\"sleep\" must have either \"for\" or \"until_context\"");
	length = StringMember(sleep, "for", NULL);
	if (length == NULL)
		return;
	interval = ParseInterval(reader, length);
	days = interval->month * (double) DAYS_PER_MONTH + interval->day + (double) interval->time / USECS_PER_DAY;
	if (days < 0 || days > MAX_SLEEP_DAYS)
		ComplainOf(reader, psprintf("\"for\" must be between nothing and 100 years, not \"%s\"", length));
}

/* What a payload's key is compared with: a key of the context, or {"value": ...}. */
static void
CheckMatchValue(const DocumentReader *reader, const char *key, const JsonbValue *value)
{
	JsonbValue *literal;

	if (value->type == jbvString && value->val.string.len > 0 && value->val.string.len <= MAX_KEY_LENGTH)
		return;
	if (value->type != jbvBinary || !JsonContainerIsObject(value->val.binary.data))
		ComplainOf(reader, psprintf("\"match\" must have under \"%s\" the name of a key of the context, or {\"value\": ...}", key));
	CheckMembers(reader, value->val.binary.data, literal_rules);
	literal = Member(value->val.binary.data, "value");
	if (literal->type != jbvString && literal->type != jbvNumeric && literal->type != jbvBool)
		ComplainOf(reader, psprintf("\"match\" compares \"%s\" with what is neither string, number nor boolean", key));
}

static void
CheckAwait(const DocumentReader *reader, JsonbContainer *await)
{
	JsonbValue *match;
	JsonbIterator *iterator;
	JsonbValue	key;
	JsonbValue	value;

	CheckMembers(reader, await, await_rules);
	if (Member(await, "default") != NULL && Member(await, "timeout_seconds") == NULL)
		ComplainOf(reader, "\"default\" has no meaning without \"timeout_seconds\"");
	match = Member(await, "match");
	if (match == NULL)
		return;
	if (JsonContainerSize(match->val.binary.data) > MAX_MATCH_KEYS)
		ComplainOf(reader, psprintf("\"match\" has more than %d keys", MAX_MATCH_KEYS));
	iterator = JsonbIteratorInit(match->val.binary.data);
	(void) JsonbIteratorNext(&iterator, &key, true);
	while (JsonbIteratorNext(&iterator, &key, true) == WJB_KEY)
	{
		char	   *name = StringOf(&key);

		(void) JsonbIteratorNext(&iterator, &value, true);
		CheckMatchValue(reader, name, &value);
	}
}

Jsonb *
ReadWaitingStep(const DocumentReader *reader, JsonbContainer *step)
{
	JsonbValue *sleep = Member(step, "sleep");
	JsonbValue *await = Member(step, "await_event");
	const char *kind = sleep ? "sleep" : "await_event";
	JsonbParseState *state = NULL;
	JsonbValue	key = {.type = jbvString};

	if (sleep == NULL && await == NULL)
		return NULL;
	if (sleep != NULL && await != NULL)
		ComplainOf(reader, "it has both \"sleep\" and \"await_event\"");
	for (int i = 0; i < lengthof(meaningless); i++)
	{
		if (Member(step, meaningless[i]) != NULL)
			ComplainOf(reader, psprintf("\"%s\" has no meaning beside \"%s\": no executor runs the step", meaningless[i], kind));
	}
	if (sleep != NULL)
		CheckSleep(reader, sleep->val.binary.data);
	else
		CheckAwait(reader, await->val.binary.data);
	key.val.string.val = unconstify(char *, kind);
	key.val.string.len = strlen(kind);
	(void) pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	(void) pushJsonbValue(&state, WJB_KEY, &key);
	(void) pushJsonbValue(&state, WJB_VALUE, sleep ? sleep : await);
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

char *
WaitingHandler(Jsonb *waits_for)
{
	return pstrdup(Member(&waits_for->root, "sleep") ? SLEEP_HANDLER : AWAIT_HANDLER);
}

/* ---------- the catalogue of events ---------- */

/*
 * One row where the event exists: whether it is custom, whether it is told by
 * its task, and the first key of the match that events of the kind do not have
 * as their own.
 */
static KeptQuery FIND_AWAITED_EVENT = {
	.sql =
	"SELECT d.category = 'custom', coalesce($1 -> 'match' ? 'task_id', false),"
	"       (SELECT k FROM jsonb_object_keys(coalesce($1 -> 'match', '{}')) k"
	"         WHERE CASE d.category WHEN 'custom' THEN"
	"                 k IN ('event_type', 'event_key', 'event_version', 'timestamp', 'task_id', 'step_id', 'role')"
	"               ELSE NOT d.payload_schema -> 'properties' ? k END LIMIT 1)"
	"  FROM tasker.event_definitions d WHERE d.name = $1 ->> 'name'",
	.nargs = 1,.types = {JSONBOID}
};

bool
CheckAwaitedEvent(const DocumentReader *reader, Jsonb *waits_for)
{
	JsonbValue *await = Member(&waits_for->root, "await_event");
	Datum		arg;
	char	   *name;
	char	   *key;

	if (await == NULL)
		return false;
	arg = JsonbPGetDatum(JsonbValueToJsonb(await));
	name = StringMember(await->val.binary.data, "name", NULL);
	if (RunQuery(&FIND_AWAITED_EVENT, &arg, NULL) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("%s: %s: event \"%s\" is not in the catalogue", reader->subject, reader->part, name),
				 errhint("See tasker.event_definitions. Enter custom events with tasker.register_event(), or as custom_events of a step template.")));
	key = RowText(0, 3);
	if (RowBool(0, 1) && key != NULL)
		ComplainOf(reader, psprintf("\"match\" cannot be of \"%s\" of a custom event; \"own_task\": true takes events of the step's own task", key));
	if (key != NULL)
		ComplainOf(reader, psprintf("event \"%s\" has no \"%s\" to match", name, key));
	if (!RowBool(0, 1) && BooleanMember(await->val.binary.data, "own_task", false))
		ComplainOf(reader, psprintf("\"own_task\" is for custom events: \"%s\" is announced by the task that waits itself", name));
	if (!RowBool(0, 1) && !RowBool(0, 2))
		ComplainOf(reader, psprintf("\"match\" must say by \"task_id\" which task's event \"%s\" is awaited", name));
	return true;
}

/* ---------- what is awaited ---------- */

static MemoryContext cache_context = NULL;
static uint64 cache_generation = 0;
static AwaitedEvent *awaited = NULL;
static int	n_awaited = 0;

static KeptQuery READ_AWAITED_EVENTS = {
	.sql =
	"SELECT DISTINCT a.event ->> 'name', coalesce((a.event ->> 'own_task')::boolean, false),"
	"       to_jsonb(ARRAY(SELECT k FROM jsonb_object_keys(coalesce(a.event -> 'match', '{}')) k ORDER BY k))"
	"  FROM (SELECT ts.waits_for -> 'await_event' AS event"
	"          FROM tasker.named_tasks_named_steps ts WHERE ts.waits_for IS NOT NULL) a"
	" WHERE a.event IS NOT NULL"
	" ORDER BY 1",
	.nargs = 0
};

const AwaitedEvent *
AwaitedEvents(int *n)
{
	uint64		generation = DefinitionsGeneration();
	AwaitedEvent *events;
	int			rows;
	MemoryContext caller;

	if (cache_generation == generation)
	{
		*n = n_awaited;
		return awaited;
	}
	cache_generation = 0;
	n_awaited = 0;
	awaited = NULL;
	if (cache_context == NULL)
		cache_context = AllocSetContextCreate(TopMemoryContext, "tasker awaited events", ALLOCSET_SMALL_SIZES);
	MemoryContextReset(cache_context);
	rows = SchemaVersion() < 101 ? 0 : (int) RunPlainQuery(&READ_AWAITED_EVENTS);
	caller = MemoryContextSwitchTo(cache_context);
	events = palloc(sizeof(AwaitedEvent) * Max(rows, 1));
	for (int i = 0; i < rows; i++)
		events[i] = (AwaitedEvent)
	{
		.name = RowText(i, 1),
			.own_task = RowBool(i, 2),
			.keys = JsonbPGetDatum(DatumGetJsonbPCopy(RowDatum(i, 3, NULL))),
	};
	MemoryContextSwitchTo(caller);
	awaited = events;
	n_awaited = rows;
	/* What an old snapshot sees must not be remembered beyond it. */
	cache_generation = IsolationUsesXactSnapshot() ? 0 : generation;
	*n = n_awaited;
	return awaited;
}

bool
IsAwaitedEvent(const char *name)
{
	const AwaitedEvent *events;
	int			n;

	if (IsolationUsesXactSnapshot())
		return true;
	/* What has committed by now counts. */
	AcceptInvalidationMessages();
	events = AwaitedEvents(&n);
	for (int i = 0; i < n; i++)
	{
		if (strcmp(events[i].name, name) == 0)
			return true;
	}
	return false;
}
