/*
 * identity.c
 *		Which requests mean the same task.
 *
 * A request has the identity key that its creator gave it, or one that the
 * template's strategy makes of what is asked for; under a key that the
 * namespace has seen, create_task returns the first task.
 *
 * The strategy "hash" makes it of the request and the minute of its
 * requested_at.  The unique index decides between equal requests of one
 * minute.  Those of neighbouring minutes are looked for as well: a task that
 * was requested less than a minute before or after is taken for the same, so
 * the request gets the key of that one.  Only two transactions that are both
 * open, astride the turn of a minute, do not see each other.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "define/strategy.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pg/query.h"
#include "run/identity.h"
#include "run/move.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/fmgrprotos.h"
#include "utils/hsearch.h"
#include "utils/json.h"

#define MAX_KEY_LENGTH 512

/* ---------- what is asked for, as JSON ---------- */

static void
AppendText(StringInfo json, const char *key, const char *text)
{
	appendStringInfo(json, "%s\"%s\": ", json->len > 1 ? ", " : "", key);
	if (text == NULL)
		appendStringInfoString(json, "null");
	else
		escape_json(json, text);
}

static void
AppendTexts(StringInfo json, const char *key, char **texts, int n)
{
	appendStringInfo(json, ", \"%s\": [", key);
	for (int i = 0; i < n; i++)
	{
		if (i > 0)
			appendStringInfoString(json, ", ");
		escape_json(json, texts[i]);
	}
	appendStringInfoChar(json, ']');
}

/* Begins an object with the members that both kinds of strategies look at. */
static void
BeginDescription(StringInfo json, const TaskRequest *request)
{
	initStringInfo(json);
	appendStringInfoChar(json, '{');
	AppendText(json, "name", request->name);
	AppendText(json, "namespace", request->namespace_name);
	AppendText(json, "version", request->version);
	AppendText(json, "initiator", request->initiator);
	AppendText(json, "source_system", request->source_system);
	AppendText(json, "reason", request->reason);
	appendStringInfoString(json, ", \"context\": ");
	(void) JsonbToCString(json, &request->context->root, VARSIZE(request->context));
}

/* What an identity function is told. */
static Datum
DescribeRequest(const TaskRequest *request)
{
	StringInfoData json;
	char		requested_at[MAXDATELEN + 1];

	BeginDescription(&json, request);
	AppendTexts(&json, "tags", request->tags, request->tag_count);
	AppendTexts(&json, "bypass_steps", request->bypass_steps, request->bypass_count);
	appendStringInfo(&json, ", \"priority\": %d", request->priority);
	AppendText(&json, "requested_at", JsonEncodeDateTime(requested_at, TimestampTzGetDatum(request->requested_at),
														 TIMESTAMPTZOID, NULL));
	AppendText(&json, "full_name", request->template->full_name);
	appendStringInfoChar(&json, '}');
	return JsonbOfText(json.data);
}

/* ---------- the strategy hash ---------- */

#define HASH_LENGTH (2 * 32)

typedef struct HashKey
{
	char		text[HASH_LENGTH + 1];
} HashKey;

/* The minutes that are looked at: the request's own first. */
static const int minutes[] = {0, -1, 1};

#define N_MINUTES lengthof(minutes)

static int64
MinuteOf(TimestampTz time)
{
	return time / USECS_PER_MINUTE - (time % USECS_PER_MINUTE < 0);
}

/*
 * The hash of what is asked for in each of the minutes.  As jsonb the order of
 * keys and white space do not count; the names of bypassed steps are made keys
 * so that neither their order nor repetitions do.
 */
static void
HashRequest(const TaskRequest *request, HashKey keys[N_MINUTES])
{
	StringInfoData json;
	Jsonb	   *canonical;

	BeginDescription(&json, request);
	appendStringInfoString(&json, ", \"bypass_steps\": {");
	for (int i = 0; i < request->bypass_count; i++)
	{
		appendStringInfoString(&json, i > 0 ? ", " : "");
		escape_json(&json, request->bypass_steps[i]);
		appendStringInfoString(&json, ": true");
	}
	appendStringInfoString(&json, "}}");
	canonical = DatumGetJsonbP(JsonbOfText(json.data));
	for (int m = 0; m < N_MINUTES; m++)
	{
		bytea	   *hash;

		resetStringInfo(&json);
		(void) JsonbToCString(&json, &canonical->root, VARSIZE(canonical));
		appendStringInfo(&json, " " INT64_FORMAT, MinuteOf(request->requested_at) + minutes[m]);
		hash = DatumGetByteaPP(DirectFunctionCall1(sha256_bytea, CStringGetTextDatum(json.data)));
		keys[m].text[hex_encode(VARDATA_ANY(hash), VARSIZE_ANY_EXHDR(hash), keys[m].text)] = '\0';
	}
}

static KeptQuery FIND_NEIGHBOURS = {
	.sql =
	"SELECT u.place, u.key FROM"
	"  (SELECT * FROM ROWS FROM (unnest($1), unnest($2), unnest($3), unnest($4)) u(place, namespace_id, key, requested_at)"
	"   LIMIT cardinality($1)) u"
	"  JOIN tasker.tasks t ON t.task_namespace_id = u.namespace_id AND t.identity_key = u.key"
	"       AND abs(extract(epoch FROM t.requested_at - u.requested_at)) < 60",
	.nargs = 4,.types = {INT4ARRAYOID, INT4ARRAYOID, TEXTARRAYOID, TIMESTAMPTZARRAYOID}
};

/*
 * Finds which of the keys of each of n requests have a task that was requested
 * within a minute.  Returns keys[N_MINUTES * i + m] as booleans.
 */
static bool *
FindNeighbours(TaskRequest **requests, const HashKey *keys, int n)
{
	int			n_keys = N_MINUTES * n;
	int32	   *places = palloc(sizeof(int32) * n_keys);
	int32	   *namespaces = palloc(sizeof(int32) * n_keys);
	Datum	   *texts = palloc(sizeof(Datum) * n_keys);
	Datum	   *times = palloc(sizeof(Datum) * n_keys);
	bool	   *found = palloc0(sizeof(bool) * n_keys);
	Datum		args[4];
	uint64		rows;

	for (int k = 0; k < n_keys; k++)
	{
		places[k] = k;
		namespaces[k] = requests[k / N_MINUTES]->template->task_namespace_id;
		texts[k] = CStringGetTextDatum(keys[k].text);
		times[k] = TimestampTzGetDatum(requests[k / N_MINUTES]->requested_at);
	}
	args[0] = Int32Array(places, n_keys);
	args[1] = Int32Array(namespaces, n_keys);
	args[2] = NullableArray(texts, NULL, n_keys, TEXTOID);
	args[3] = NullableArray(times, NULL, n_keys, TIMESTAMPTZOID);
	rows = RunQuery(&FIND_NEIGHBOURS, args, NULL);
	for (uint64 row = 0; row < rows; row++)
		found[RowInt32(row, 1)] = true;
	return found;
}

/* An entry of the table of the keys that this call has given out. */
typedef struct GivenKey
{
	HashKey		key;
	TimestampTz requested_at;
} GivenKey;

static HTAB *
MakeGivenKeys(int n)
{
	HASHCTL		control = {
		.keysize = sizeof(HashKey),.entrysize = sizeof(GivenKey),.hcxt = CurrentMemoryContext
	};

	return hash_create("tasker identity keys", n, &control, HASH_ELEM | HASH_STRINGS | HASH_CONTEXT);
}

/* Whether an earlier request of this call has the key, and was requested within a minute. */
static bool
IsGiven(HTAB *given, const HashKey *key, TimestampTz requested_at)
{
	GivenKey   *entry = hash_search(given, key, HASH_FIND, NULL);

	return entry != NULL && entry->requested_at - requested_at < USECS_PER_MINUTE &&
		requested_at - entry->requested_at < USECS_PER_MINUTE;
}

static void
IdentifyByHash(TaskRequest **requests, int n)
{
	HashKey    *keys = palloc(sizeof(HashKey) * N_MINUTES * n);
	HTAB	   *given = MakeGivenKeys(n);
	bool	   *found;

	for (int i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		HashRequest(requests[i], &keys[N_MINUTES * i]);
	}
	found = FindNeighbours(requests, keys, n);
	for (int i = 0; i < n; i++)
	{
		int			own = N_MINUTES * i;
		int			chosen = own;
		bool		known;
		GivenKey   *entry;

		for (int k = own; k < own + N_MINUTES; k++)
		{
			if (found[k] || IsGiven(given, &keys[k], requests[i]->requested_at))
			{
				chosen = k;
				break;
			}
		}
		requests[i]->identity_key = keys[chosen].text;
		entry = hash_search(given, &keys[chosen], HASH_ENTER, &known);
		if (!known)
			entry->requested_at = requests[i]->requested_at;
	}
}

/* ---------- strategies of the template's owner ---------- */

static char *
IdentityByFunction(const TaskRequest *request)
{
	const Template *template = request->template;
	bool		none;
	Datum		result = CallStrategy(STRATEGY_IDENTITY, template->identity_strategy, template->owner,
									  DescribeRequest(request), &none);
	char	   *key = none ? NULL : TextDatumGetCString(result);

	if (key != NULL && (key[0] == '\0' || pg_mbstrlen(key) > MAX_KEY_LENGTH))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the identity_strategy of template \"%s\" gives a key of %d characters",
						template->full_name, pg_mbstrlen(key)),
				 errhint("\"%s\" must return NULL or 1 to %d characters.", template->identity_strategy, MAX_KEY_LENGTH)));
	return key;
}

void
IdentifyRequests(TaskRequest *requests, int n)
{
	TaskRequest **hashed = palloc(sizeof(TaskRequest *) * n);
	int			n_hashed = 0;

	for (int i = 0; i < n; i++)
	{
		const char *strategy = requests[i].template->identity_strategy;

		if (requests[i].identity_key != NULL || strcmp(strategy, DefaultStrategy(STRATEGY_IDENTITY)) == 0)
			continue;
		if (IsBuiltinStrategy(STRATEGY_IDENTITY, strategy))
			hashed[n_hashed++] = &requests[i];
		else
			requests[i].identity_key = IdentityByFunction(&requests[i]);
	}
	if (n_hashed > 0)
		IdentifyByHash(hashed, n_hashed);
}
