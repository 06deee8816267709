/*
 * consumer.c
 *		Reading events on and on.
 *
 * The next window of a consumer ends at the first mark beyond its position,
 * or now where there is none: marks are former positions of the orchestrator,
 * so that one who is far behind reads windows of some ten thousand rows.
 * Any snapshot taken later contains all earlier ones, and what followed from
 * a commit was written after it.  So going from snapshot to snapshot, and by
 * time within a window, keeps the order of cause and effect.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "commands/async.h"
#include "define/access.h"
#include "define/follower.h"
#include "define/ownership.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pg/catalog.h"
#include "pg/clock.h"
#include "pg/position.h"
#include "pg/query.h"
#include "pg/wakeup.h"
#include "run/consumer.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/memutils.h"

#define MAX_CONSUMER_NAME 128
#define MAX_PATTERNS 100
#define MAX_CONSUMERS 500
#define MAX_PATTERN_BYTES 256
#define MAX_EVENTS_READ 10000

/* Bytes of events in one notification, which has less than 8000. */
#define MAX_ANNOUNCEMENT 7900

/* A position that nothing was found on the way to is saved after that many transactions. */
#define LAZY_TRANSACTIONS 1000

/* ---------- consumers come and go ---------- */

static KeptQuery CREATE_CONSUMER = {
	.sql =
	"INSERT INTO tasker.event_consumers (name, patterns, role, position, created_at)"
	" VALUES ($1, $2, $3, $4::pg_snapshot, $5)"
	" ON CONFLICT (name) DO NOTHING",
	.nargs = 5,.types = {TEXTOID, TEXTARRAYOID, TEXTOID, TEXTOID, TIMESTAMPTZOID}
};

static KeptQuery COUNT_CONSUMERS = {.sql = "SELECT count(*) FROM tasker.event_consumers",.nargs = 0};

static KeptQuery CHANGE_PATTERNS = {
	.sql = "UPDATE tasker.event_consumers SET patterns = $2 WHERE name = $1 AND channel IS NULL",
	.nargs = 2,.types = {TEXTOID, TEXTARRAYOID}
};

static KeptQuery DROP_CONSUMER = {
	.sql = "DELETE FROM tasker.event_consumers WHERE name = $1 AND channel IS NULL",
	.nargs = 1,.types = {TEXTOID}
};

/* Raises 22023 unless every pattern can match something. */
static void
CheckPatterns(const char *consumer, ArrayType *patterns)
{
	Datum	   *elements;
	bool	   *nulls;
	int			n;

	deconstruct_array(patterns, TEXTOID, -1, false, TYPALIGN_INT, &elements, &nulls, &n);
	if (n == 0 || n > MAX_PATTERNS || ARR_NDIM(patterns) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("consumer \"%s\" needs 1 to %d patterns", consumer, MAX_PATTERNS)));
	for (int i = 0; i < n; i++)
	{
		char	   *pattern = nulls[i] ? "" : TextDatumGetCString(elements[i]);

		if (*pattern == '\0' || strlen(pattern) > MAX_PATTERN_BYTES)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("a pattern of consumer \"%s\" is invalid: \"%s\"", consumer, pattern),
					 errhint("A pattern is the name of an event of up to %d bytes, in which * stands for any characters.",
							 MAX_PATTERN_BYTES)));
	}
}

/* Each reads for itself, and adoption of a restored database tells them apart by small numbers. */
static void
CheckRoomForConsumer(const char *name)
{
	(void) RunPlainQuery(&COUNT_CONSUMERS);
	if (RowInt64(0, 1) >= MAX_CONSUMERS)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("there is no room for consumer \"%s\"", name),
				 errdetail("There are %d consumers of events already.", MAX_CONSUMERS),
				 errhint("Drop those that are not used any more; see tasker.stat_event_consumers.")));
}

/* Raises 42939 for the name under which the orchestrator itself reads. */
static void
CheckNotReserved(const char *name)
{
	if (strcmp(name, REACTOR) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_RESERVED_NAME),
				 errmsg("the name \"%s\" is reserved", name),
				 errdetail("It is the orchestrator's own consumer, which starts the tasks of triggers.")));
}

static char *
ConsumerName(FunctionCallInfo fcinfo)
{
	char	   *name;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the name of a consumer must not be null")));
	name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	if (*name == '\0' || pg_mbstrlen(name) > MAX_CONSUMER_NAME)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the name of a consumer must have 1 to %d characters", MAX_CONSUMER_NAME)));
	CheckNotReserved(name);
	return name;
}

PG_FUNCTION_INFO_V1(tasker_create_event_consumer);

Datum
tasker_create_event_consumer(PG_FUNCTION_ARGS)
{
	char	   *name = ConsumerName(fcinfo);
	Datum		args[5] = {PG_GETARG_DATUM(0)};
	QueryScope	scope;
	bool		is_new;

	if (PG_ARGISNULL(1) || PG_ARGISNULL(2))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("patterns and from_beginning must not be null")));
	CheckPatterns(name, PG_GETARG_ARRAYTYPE_P(1));
	OpenQueryScope(&scope);
	RequireEverywhere(MAY_OBSERVE);
	CheckRoomForConsumer(name);
	args[1] = PG_GETARG_DATUM(1);
	args[2] = QueryCallerName();
	args[3] = CStringGetTextDatum(PG_GETARG_BOOL(2) ? NOTHING_READ :
								  PositionOfSnapshot(CurrentMemoryContext, CurrentSnapshotText()));
	args[4] = TimestampTzGetDatum(TaskerNow());
	is_new = RunQuery(&CREATE_CONSUMER, args, NULL) == 1;
	if (!is_new && RunQuery(&CHANGE_PATTERNS, args, NULL) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("\"%s\" is a channel that is subscribed to", name),
				 errhint("Choose another name.")));
	CloseQueryScope(&scope);
	PG_RETURN_BOOL(is_new);
}

PG_FUNCTION_INFO_V1(tasker_drop_event_consumer);

Datum
tasker_drop_event_consumer(PG_FUNCTION_ARGS)
{
	Datum		name = CStringGetTextDatum(ConsumerName(fcinfo));
	QueryScope	scope;
	bool		dropped;

	OpenQueryScope(&scope);
	RequireEverywhere(MAY_OBSERVE);
	dropped = RunQuery(&DROP_CONSUMER, &name, NULL) == 1;
	CloseQueryScope(&scope);
	PG_RETURN_BOOL(dropped);
}

/* ---------- reading ---------- */

/* Whose positions are meant: on another server they are void until somebody adopts the database. */
static KeptQuery IS_ADOPTED = {
	.sql = "SELECT c.system_identifier = $1 FROM tasker.orchestrator_checkpoint c",
	.nargs = 1,.types = {INT8OID}
};

static KeptQuery LOCK_CONSUMER = {
	.sql =
	"SELECT c.position::text, c.window_end::text, c.cursor_at, c.cursor_place, c.cursor_id, c.cursor_sort_key, c.patterns"
	"  FROM tasker.event_consumers c WHERE c.name = $1 AND (c.channel IS NOT NULL) = $2 FOR NO KEY UPDATE",
	.nargs = 2,.types = {TEXTOID, BOOLOID}
};

/* Not the snapshot that the caller's statement began with: it may have waited for the consumer's row since. */
static KeptQuery READ_SNAPSHOT = {.sql = "SELECT pg_current_snapshot()::text",.nargs = 0};

static KeptQuery NEXT_MARK = {
	.sql =
	"SELECT m.position::text FROM tasker.log_marks m"
	" WHERE pg_snapshot_xmax(m.position) > pg_snapshot_xmax($1::pg_snapshot)"
	"   AND NOT EXISTS (SELECT 1 FROM pg_snapshot_xip(m.position) x"
	"                    WHERE x < pg_snapshot_xmax($1::pg_snapshot) AND pg_visible_in_snapshot(x, $1::pg_snapshot))"
	" ORDER BY m.mark_id LIMIT 1",
	.nargs = 1,.types = {TEXTOID}
};

/*
 * The next page of a window.  A row that waited for the lock of the one
 * before it may carry an earlier time than that: within a step or task the
 * later of the two counts.  In one moment creations and starts of tasks come
 * before what happens to steps, and ends of tasks after it.
 */
#define NEW_ROWS(log, columns) \
	"SELECT " columns ", l.created_at, l.from_state, l.to_state FROM tasker." log " l" \
	" WHERE l.xact_id >= pg_snapshot_xmax(w.lower) AND l.xact_id < pg_snapshot_xmax(w.upper)" \
	"   AND pg_visible_in_snapshot(l.xact_id, w.upper)" \
	" UNION ALL " \
	"SELECT " columns ", l.created_at, l.from_state, l.to_state FROM tasker." log " l" \
	" WHERE l.xact_id = ANY (ARRAY(SELECT pg_snapshot_xip(w.lower))::xid8[])" \
	"   AND pg_visible_in_snapshot(l.xact_id, w.upper)"

#define PAGE \
	"WITH page AS MATERIALIZED (" \
	"SELECT k.* FROM (SELECT $1::pg_snapshot AS lower, $2::pg_snapshot AS upper) w" \
	" CROSS JOIN LATERAL (" \
	"  SELECT 'task' AS category, t.id, t.sort_key," \
	"         max(t.created_at) OVER (PARTITION BY t.id ORDER BY t.sort_key) AS at," \
	"         CASE WHEN t.to_state IN ('pending', 'in_progress') THEN 0 ELSE 3 END AS place," \
	"         tasker.transition_event('task', t.from_state, t.to_state) AS name" \
	"    FROM (" NEW_ROWS("task_transition_log", "l.task_id AS id, l.sort_key") ") t" \
	"  UNION ALL" \
	"  SELECT 'step', s.id, s.sort_key, max(s.created_at) OVER (PARTITION BY s.id ORDER BY s.sort_key), 2," \
	"         tasker.transition_event('step', s.from_state, s.to_state)" \
	"    FROM (" NEW_ROWS("workflow_step_transition_log", "l.workflow_step_id AS id, l.sort_key") ") s" \
	"  UNION ALL" \
	"  SELECT 'custom', l.event_id, 0, l.created_at, 1, l.name FROM tasker.published_events l" \
	"   WHERE l.xact_id >= pg_snapshot_xmax(w.lower) AND l.xact_id < pg_snapshot_xmax(w.upper)" \
	"     AND pg_visible_in_snapshot(l.xact_id, w.upper)" \
	"  UNION ALL" \
	"  SELECT 'custom', l.event_id, 0, l.created_at, 1, l.name FROM tasker.published_events l" \
	"   WHERE l.xact_id = ANY (ARRAY(SELECT pg_snapshot_xip(w.lower))::xid8[])" \
	"     AND pg_visible_in_snapshot(l.xact_id, w.upper)" \
	" ) k" \
	" WHERE (($4::timestamptz) IS NULL OR (k.at, k.place, k.id, k.sort_key) > ($4, $5, $6, $7))" \
	"   AND k.name LIKE ANY ($3)" \
	" ORDER BY k.at, k.place, k.id, k.sort_key LIMIT $8) "

#define PAGE_TYPES {TEXTOID, TEXTOID, TEXTARRAYOID, TIMESTAMPTZOID, INT4OID, INT8OID, INT4OID, INT8OID}

static KeptQuery READ_PAGE = {
	.sql = PAGE
	"SELECT p.at, p.place, p.id, p.sort_key, e.payload ->> 'event_key', p.name, p.category,"
	"       (e.payload ->> 'task_id')::bigint, (e.payload ->> 'step_id')::bigint, (e.payload ->> 'timestamp')::timestamptz, e.payload"
	"  FROM page p"
	" CROSS JOIN LATERAL (SELECT CASE p.category"
	"   WHEN 'step' THEN (SELECT tasker.step_event_payload(l) FROM tasker.workflow_step_transition_log l"
	"                      WHERE l.workflow_step_id = p.id AND l.sort_key = p.sort_key)"
	"   WHEN 'task' THEN (SELECT tasker.task_event_payload(l) FROM tasker.task_transition_log l"
	"                      WHERE l.task_id = p.id AND l.sort_key = p.sort_key)"
	"   ELSE (SELECT tasker.custom_event_payload(l) FROM tasker.published_events l WHERE l.event_id = p.id)"
	"   END AS payload OFFSET 0) e"
	" ORDER BY p.at, p.place, p.id, p.sort_key",
	.nargs = 8,.types = PAGE_TYPES
};

/* What an announcement says of an event. */
static KeptQuery READ_ANNOUNCEMENTS = {
	.sql = PAGE
	"SELECT p.at, p.place, p.id, p.sort_key,"
	"       jsonb_build_object('event_key', CASE p.category WHEN 'custom' THEN 'event:' || p.id"
	"                                       ELSE concat_ws(':', p.category, p.id, p.sort_key) END,"
	"         'name', p.name,"
	"         'task_id', CASE p.category WHEN 'task' THEN p.id"
	"                    WHEN 'step' THEN (SELECT s.task_id FROM tasker.workflow_steps s WHERE s.workflow_step_id = p.id)"
	"                    ELSE (SELECT e.task_id FROM tasker.published_events e WHERE e.event_id = p.id) END,"
	"         'step_id', CASE p.category WHEN 'step' THEN p.id"
	"                    WHEN 'custom' THEN (SELECT e.workflow_step_id FROM tasker.published_events e WHERE e.event_id = p.id) END)::text"
	"  FROM page p ORDER BY p.at, p.place, p.id, p.sort_key",
	.nargs = 8,.types = PAGE_TYPES
};

static KeptQuery MOVE_CONSUMER = {
	.sql =
	"UPDATE tasker.event_consumers"
	"   SET position = $2::pg_snapshot, window_end = $3::pg_snapshot, cursor_at = $4, cursor_place = $5, cursor_id = $6,"
	"       cursor_sort_key = $7, events_read = events_read + $8, read_at = $9"
	" WHERE name = $1",
	.nargs = 9,.types = {TEXTOID, TEXTOID, TEXTOID, TIMESTAMPTZOID, INT4OID, INT8OID, INT4OID, INT8OID, TIMESTAMPTZOID}
};

/* How far a consumer has read, as the columns of its row say. */
typedef struct Reader
{
	Datum		name;
	char	   *position;
	char	   *window_end;		/* NULL: between two windows */
	Datum		cursor[4];		/* at, place, id, sort_key */
	bool		at_begin;		/* of the window: there is no cursor */
	Datum		patterns;		/* for LIKE */
} Reader;

/* The patterns of a consumer as LIKE wants them. */
static Datum
LikePatterns(ArrayType *patterns)
{
	Datum	   *elements;
	int			n;

	deconstruct_array(patterns, TEXTOID, -1, false, TYPALIGN_INT, &elements, NULL, &n);
	for (int i = 0; i < n; i++)
	{
		StringInfoData like;

		initStringInfo(&like);
		for (const char *c = TextDatumGetCString(elements[i]); *c; c++)
		{
			if (*c == '*')
				appendStringInfoChar(&like, '%');
			else
			{
				if (*c == '%' || *c == '_' || *c == '\\')
					appendStringInfoChar(&like, '\\');
				appendStringInfoChar(&like, *c);
			}
		}
		elements[i] = CStringGetTextDatum(like.data);
	}
	return PointerGetDatum(construct_array(elements, n, TEXTOID, -1, false, TYPALIGN_INT));
}

/* Locks the row of a consumer, or of the subscription of a channel, and reads it; false if there is none. */
static bool
LockReader(const char *name, bool is_subscription, Reader *reader)
{
	Datum		args[2] = {CStringGetTextDatum(name), BoolGetDatum(is_subscription)};

	if (RunQuery(&LOCK_CONSUMER, args, NULL) == 0)
		return false;
	*reader = (Reader)
	{
		.name = args[0],.position = RowText(0, 1),.window_end = RowText(0, 2)
	};
	for (int i = 0; i < 4; i++)
		reader->cursor[i] = RowDatum(0, 3 + i, &reader->at_begin);
	reader->patterns = LikePatterns(DatumGetArrayTypeP(RowDatum(0, 7, NULL)));
	return true;
}

bool
IsAdopted(void)
{
	Datum		system = Int64GetDatum(HomeIdentifier());

	return RunQuery(&IS_ADOPTED, &system, NULL) == 0 || RowBool(0, 1);
}

void
CheckAdopted(void)
{
	if (!IsAdopted())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this database comes from another server and is not adopted yet"),
				 errhint("Call tasker.resume() first.")));
}

/* Opens the next window; true if it ends now, with nothing beyond. */
static bool
OpenWindow(Reader *reader)
{
	Datum		position = CStringGetTextDatum(reader->position);
	bool		is_last = RunQuery(&NEXT_MARK, &position, NULL) == 0;

	if (is_last)
		(void) RunPlainQuery(&READ_SNAPSHOT);
	reader->at_begin = true;
	reader->window_end = is_last ? PositionOfSnapshot(CurrentMemoryContext, RowText(0, 1)) : RowText(0, 1);
	return is_last;
}

/* The window is through: its end is the position now. */
static void
CloseWindow(Reader *reader)
{
	reader->position = reader->window_end;
	reader->window_end = NULL;
	reader->at_begin = true;
}

/* Reads a page of the window into SPI's rows; returns their number. */
static uint64
ReadPage(KeptQuery *page, const Reader *reader, int64 max)
{
	Datum		args[8] = {CStringGetTextDatum(reader->position), CStringGetTextDatum(reader->window_end), reader->patterns};
	char		nulls[9] = "        ";

	for (int i = 0; i < 4; i++)
	{
		args[3 + i] = reader->cursor[i];
		nulls[3 + i] = reader->at_begin ? 'n' : ' ';
	}
	args[7] = Int64GetDatum(max);
	return RunQuery(page, args, nulls);
}

/* Writes down how far the reader has come. */
static void
SaveReader(const Reader *reader, uint64 events)
{
	Datum		args[9] = {reader->name, CStringGetTextDatum(reader->position)};
	char		nulls[10] = "         ";

	nulls[2] = reader->window_end == NULL ? 'n' : ' ';
	if (reader->window_end != NULL)
		args[2] = CStringGetTextDatum(reader->window_end);
	for (int i = 0; i < 4; i++)
	{
		args[3 + i] = reader->cursor[i];
		nulls[3 + i] = reader->at_begin ? 'n' : ' ';
	}
	args[7] = Int64GetDatum((int64) events);
	args[8] = TimestampTzGetDatum(TaskerNow());
	(void) RunQuery(&MOVE_CONSUMER, args, nulls);
}

/* Does something with the rows of a page, whose first four columns are the cursor. */
typedef void (*TakePage) (uint64 rows, void *target);

/*
 * Reads on, max events at most, and writes down how far; returns how many
 * events there were.
 */
static uint64
ReadOn(Reader *reader, KeptQuery *page, int64 max, TakePage take, void *target)
{
	const char *begin = reader->position;
	uint64		events = 0;
	bool		is_last = false;

	while (events < max && !(is_last && reader->window_end == NULL))
	{
		uint64		rows;

		CHECK_FOR_INTERRUPTS();
		if (reader->window_end == NULL)
			is_last = OpenWindow(reader);
		rows = ReadPage(page, reader, max - events);
		for (int i = 0; i < 4 && rows > 0; i++)
			reader->cursor[i] = RowDatum(rows - 1, 1 + i, NULL);
		reader->at_begin &= rows == 0;
		if (rows > 0)
			take(rows, target);
		events += rows;
		if (events < max)
			CloseWindow(reader);
	}
	/* Who finds nothing again and again shall not write again and again. */
	if (events > 0 || PositionXmax(reader->position) - PositionXmax(begin) > LAZY_TRANSACTIONS)
		SaveReader(reader, events);
	return events;
}

/* Appends a page to the result of read_events. */
static void
ReturnPage(uint64 rows, void *target)
{
	ReturnSetInfo *result = target;

	for (uint64 row = 0; row < rows; row++)
	{
		Datum		values[7];
		bool		nulls[7];

		for (int i = 0; i < 7; i++)
			values[i] = RowDatum(row, 5 + i, &nulls[i]);
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
}

PG_FUNCTION_INFO_V1(tasker_read_events);

Datum
tasker_read_events(PG_FUNCTION_ARGS)
{
	char	   *name = ConsumerName(fcinfo);
	int64		max = PG_ARGISNULL(1) ? 0 : PG_GETARG_INT32(1);
	QueryScope	scope;
	Reader		reader;

	if (max < 1 || max > MAX_EVENTS_READ)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max must be between 1 and %d", MAX_EVENTS_READ)));
	InitMaterializedSRF(fcinfo, 0);
	OpenQueryScope(&scope);
	RequireEverywhere(MAY_OBSERVE);
	CheckAdopted();
	if (!LockReader(name, false, &reader))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("consumer \"%s\" does not exist", name),
				 errhint("Make it with tasker.create_event_consumer().")));
	(void) ReadOn(&reader, &READ_PAGE, max, ReturnPage, fcinfo->resultinfo);
	CloseQueryScope(&scope);
	return (Datum) 0;
}

/* ---------- pages for the orchestrator itself ---------- */

/* Columns of READ_PAGE as an EventPage has them; the category is in the name. */
enum
{
	PAGE_KEY, PAGE_NAME, PAGE_CATEGORY, PAGE_TASK, PAGE_STEP, PAGE_TIME, PAGE_PAYLOAD, PAGE_COLUMNS
};

static const Oid page_types[PAGE_COLUMNS] = {TEXTOID, TEXTOID, TEXTOID, INT8OID, INT8OID, TIMESTAMPTZOID, JSONBOID};

/* A page that is put together, column by column. */
typedef struct PageBuilder
{
	int			n;
	Datum	   *values[PAGE_COLUMNS];
	bool	   *nulls[PAGE_COLUMNS];
} PageBuilder;

/* Appends a page to one that is put together, which has room for it. */
static void
GatherPage(uint64 rows, void *target)
{
	PageBuilder *builder = target;

	for (uint64 row = 0; row < rows; row++)
	{
		for (int c = 0; c < PAGE_COLUMNS; c++)
		{
			bool		is_null;
			Datum		value = RowDatum(row, 5 + c, &is_null);

			builder->nulls[c][builder->n] = is_null;
			builder->values[c][builder->n] = is_null ? 0 : page_types[c] == INT8OID || page_types[c] == TIMESTAMPTZOID ? value :
				datumCopy(value, false, -1);
		}
		builder->n++;
	}
}

void
ReadEventPage(const char *consumer, ArrayType *patterns, int64 max, MemoryContext context, EventPage *page)
{
	PageBuilder builder = {0};
	Reader		reader;
	MemoryContext caller;
	Datum		columns[PAGE_COLUMNS];

	if (!LockReader(consumer, false, &reader))
		elog(ERROR, "consumer \"%s\" does not exist", consumer);
	reader.patterns = LikePatterns(patterns);
	for (int c = 0; c < PAGE_COLUMNS; c++)
	{
		builder.values[c] = palloc(sizeof(Datum) * max);
		builder.nulls[c] = palloc(sizeof(bool) * max);
	}
	(void) ReadOn(&reader, &READ_PAGE, max, GatherPage, &builder);
	caller = MemoryContextSwitchTo(context);
	for (int c = 0; c < PAGE_COLUMNS; c++)
		columns[c] = NullableArray(builder.values[c], builder.nulls[c], builder.n, page_types[c]);
	MemoryContextSwitchTo(caller);
	*page = (EventPage)
	{
		.n = builder.n,.names = columns[PAGE_NAME],.event_keys = columns[PAGE_KEY],
			.occurred_at = columns[PAGE_TIME],.task_ids = columns[PAGE_TASK],.step_ids = columns[PAGE_STEP],
			.payloads = columns[PAGE_PAYLOAD]
	};
}

/* ---------- subscriptions: the orchestrator reads, and notifies ---------- */

static KeptQuery SUBSCRIBE = {
	.sql =
	"INSERT INTO tasker.event_consumers (name, channel, patterns, role, position, created_at)"
	" VALUES ($1, $1, $2, $3, $4::pg_snapshot, $5)"
	" ON CONFLICT (name) DO UPDATE SET patterns = excluded.patterns WHERE event_consumers.channel IS NOT NULL"
	" RETURNING xmax = 0",
	.nargs = 5,.types = {TEXTOID, TEXTARRAYOID, TEXTOID, TEXTOID, TIMESTAMPTZOID}
};

static KeptQuery UNSUBSCRIBE = {
	.sql = "DELETE FROM tasker.event_consumers WHERE name = $1 AND channel IS NOT NULL",
	.nargs = 1,.types = {TEXTOID}
};

static KeptQuery READ_CHANNELS = {
	.sql = "SELECT c.channel FROM tasker.event_consumers c WHERE c.channel IS NOT NULL ORDER BY c.channel",
	.nargs = 0
};

static char *
ChannelArgument(FunctionCallInfo fcinfo, int number)
{
	char	   *channel = PG_ARGISNULL(number) ? "" : text_to_cstring(PG_GETARG_TEXT_PP(number));

	if (*channel == '\0' || strlen(channel) >= NAMEDATALEN)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the name of a channel must have 1 to %d bytes", NAMEDATALEN - 1)));
	CheckNotReserved(channel);
	return channel;
}

PG_FUNCTION_INFO_V1(tasker_subscribe);

Datum
tasker_subscribe(PG_FUNCTION_ARGS)
{
	char	   *channel = ChannelArgument(fcinfo, 1);
	Datum		args[5] = {CStringGetTextDatum(channel)};
	QueryScope	scope;
	bool		is_new;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the patterns of channel \"%s\" must not be null", channel)));
	CheckPatterns(channel, PG_GETARG_ARRAYTYPE_P(0));
	OpenQueryScope(&scope);
	RequireEverywhere(MAY_OBSERVE);
	CheckRoomForConsumer(channel);
	args[1] = PG_GETARG_DATUM(0);
	args[2] = QueryCallerName();
	args[3] = CStringGetTextDatum(PositionOfSnapshot(CurrentMemoryContext, CurrentSnapshotText()));
	args[4] = TimestampTzGetDatum(TaskerNow());
	if (RunQuery(&SUBSCRIBE, args, NULL) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("channel \"%s\" has the name of a consumer of events", channel),
				 errhint("Choose another channel.")));
	is_new = RowBool(0, 1);
	InvalidateDefinitions();
	WakeOrchestratorAtCommit(0);
	CloseQueryScope(&scope);
	PG_RETURN_BOOL(is_new);
}

PG_FUNCTION_INFO_V1(tasker_unsubscribe);

Datum
tasker_unsubscribe(PG_FUNCTION_ARGS)
{
	Datum		channel = CStringGetTextDatum(ChannelArgument(fcinfo, 0));
	QueryScope	scope;
	bool		found;

	OpenQueryScope(&scope);
	RequireEverywhere(MAY_OBSERVE);
	found = RunQuery(&UNSUBSCRIBE, &channel, NULL) == 1;
	InvalidateDefinitions();
	CloseQueryScope(&scope);
	PG_RETURN_BOOL(found);
}

/* The message that is being put together for a channel. */
typedef struct Announcement
{
	const char *channel;
	StringInfoData events;
} Announcement;

static void
SendAnnouncement(Announcement *announcement)
{
	if (announcement->events.len > 0)
		Async_Notify(announcement->channel, psprintf("{\"events\":[%s]}", announcement->events.data));
	resetStringInfo(&announcement->events);
}

/* Adds a page to the messages of a channel, as many as fit into each. */
static void
AnnouncePage(uint64 rows, void *target)
{
	Announcement *announcement = target;

	for (uint64 row = 0; row < rows; row++)
	{
		char	   *event = RowText(row, 5);

		if (announcement->events.len + strlen(event) > MAX_ANNOUNCEMENT)
			SendAnnouncement(announcement);
		if (announcement->events.len > 0)
			appendStringInfoChar(&announcement->events, ',');
		appendStringInfoString(&announcement->events, event);
		pfree(event);
	}
}

uint64
AnnounceEvents(int64 max, int *channels)
{
	QueryScope	scope;
	uint64		announced = 0;
	uint64		n;
	char	  **names;

	OpenQueryScope(&scope);
	n = RunPlainQuery(&READ_CHANNELS);
	names = palloc(sizeof(char *) * Max(n, 1));
	for (uint64 i = 0; i < n; i++)
		names[i] = RowText(i, 1);
	*channels = (int) n;
	for (uint64 i = 0; i < n; i++)
	{
		Announcement announcement = {.channel = names[i]};
		Reader		reader;
		uint64		events;

		initStringInfo(&announcement.events);
		if (!LockReader(names[i], true, &reader))
			continue;
		events = ReadOn(&reader, &READ_ANNOUNCEMENTS, max, AnnouncePage, &announcement);
		announced = Max(announced, events);
		SendAnnouncement(&announcement);
	}
	CloseQueryScope(&scope);
	return announced;
}

PG_FUNCTION_INFO_V1(tasker_announce_events);

Datum
tasker_announce_events(PG_FUNCTION_ARGS)
{
	int			max = PG_ARGISNULL(0) ? 0 : PG_GETARG_INT32(0);
	int			channels;

	if (max < 1 || max > MAX_EVENTS_READ)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max must be between 1 and %d", MAX_EVENTS_READ)));
	PG_RETURN_INT32((int32) AnnounceEvents(max, &channels));
}
