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

#include "catalog/pg_collation.h"
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
#include "run/event_payload.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/memutils.h"

#define MAX_CONSUMER_NAME 128
#define MAX_PATTERNS 100
#define MAX_CONSUMERS 500
#define MAX_PATTERN_BYTES 256
#define MAX_EVENTS_READ 10000

#define MAX_KNOWN_NAMES 32

/* Bytes of events in one notification, which has less than 8000. */
#define MAX_ANNOUNCEMENT 7900

/*
 * A position that nothing was found on the way to is saved after that many
 * transactions, or that long after the last time: retention waits for it, and
 * not for ever for one that does not read.
 */
#define LAZY_TRANSACTIONS 1000
#define LAZY_MS 60000

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
				 errdetail("It is the orchestrator's own consumer, for triggers and for steps that wait.")));
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

#define READ_CONSUMER_ROW \
	"SELECT c.position::text, c.window_end::text, c.cursor_at, c.cursor_place, c.cursor_id, c.cursor_sort_key, c.patterns," \
	"       coalesce(c.read_at, c.created_at)" \
	"  FROM tasker.event_consumers c WHERE c.name = $1 AND (c.channel IS NOT NULL) = $2"

static KeptQuery LOCK_CONSUMER = {
	.sql = READ_CONSUMER_ROW " FOR NO KEY UPDATE",
	.nargs = 2,.types = {TEXTOID, BOOLOID}
};

static KeptQuery LOOK_AT_CONSUMER = {
	.sql = READ_CONSUMER_ROW,
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
	char	   *saved_position; /* as the row has it */
	bool		was_in_window;	/* so the row says */
	TimestampTz saved_at;
	char	   *window_end;		/* NULL: between two windows */
	Datum		cursor[4];		/* at, place, id, sort_key */
	bool		at_begin;		/* of the window: there is no cursor */
	ArrayType  *wanted;			/* patterns, as the consumer has them */
	int			n_patterns;
	Datum	   *patterns;		/* for LIKE */
	bool		kinds[EVENT_KINDS]; /* of the events that can match them */
	int			n_known;
	struct
	{
		const char *name;
		bool		matches;
	}			known[MAX_KNOWN_NAMES];	/* names of events that were compared with the patterns */
} Reader;

/* A pattern as LIKE wants it. */
static Datum
LikePattern(Datum pattern)
{
	StringInfoData like;

	initStringInfo(&like);
	for (const char *c = TextDatumGetCString(pattern); *c; c++)
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
	return CStringGetTextDatum(like.data);
}

static bool
MatchesAny(const Reader *reader, const char *name)
{
	Datum		text = CStringGetTextDatum(name);

	for (int i = 0; i < reader->n_patterns; i++)
	{
		if (DatumGetBool(DirectFunctionCall2Coll(textlike, DEFAULT_COLLATION_OID, text, reader->patterns[i])))
			return true;
	}
	return false;
}

/*
 * How far this session has looked from the positions that rows have, and
 * found nothing that was wanted: what is not worth to be written down is not
 * looked through again and again either.
 */
#define MAX_REACHES 8

typedef struct Reach
{
	MemoryContext context;		/* of the next ones; NULL: the place is free */
	char	   *begin;
	char	   *end;
	ArrayType  *wanted;
} Reach;

static Reach reaches[MAX_REACHES];
static int	oldest_reach = 0;

static Reach *
FindReach(const Reader *reader)
{
	for (int i = 0; i < MAX_REACHES; i++)
	{
		if (reaches[i].context != NULL && strcmp(reaches[i].begin, reader->saved_position) == 0 &&
			datumIsEqual(PointerGetDatum(reaches[i].wanted), PointerGetDatum(reader->wanted), false, -1))
			return &reaches[i];
	}
	return NULL;
}

static void
RememberReach(const Reader *reader)
{
	Reach	   *place = FindReach(reader);
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "tasker reach", ALLOCSET_SMALL_SIZES);
	Reach		reach = {
		.context = context,
		.begin = MemoryContextStrdup(context, reader->saved_position),
		.end = MemoryContextStrdup(context, reader->position),
		.wanted = MemoryContextAlloc(context, VARSIZE(reader->wanted))
	};

	memcpy(reach.wanted, reader->wanted, VARSIZE(reader->wanted));
	if (place == NULL)
	{
		place = &reaches[oldest_reach];
		oldest_reach = (oldest_reach + 1) % MAX_REACHES;
	}
	if (place->context != NULL)
		MemoryContextDelete(place->context);
	MemoryContextSetParent(context, TopMemoryContext);
	*place = reach;
}

/*
 * Takes the patterns of a consumer, and with them how far it was looked for
 * them.  A log whose events all of them exclude is not read at all.
 */
static void
ReadPatterns(Reader *reader, ArrayType *patterns)
{
	const Reach *reach;

	reader->wanted = patterns;
	reach = reader->was_in_window ? NULL : FindReach(reader);
	reader->position = reach == NULL ? reader->saved_position : pstrdup(reach->end);
	deconstruct_array(patterns, TEXTOID, -1, false, TYPALIGN_INT, &reader->patterns, NULL, &reader->n_patterns);
	for (int i = 0; i < reader->n_patterns; i++)
		reader->patterns[i] = LikePattern(reader->patterns[i]);
	memset(reader->kinds, false, sizeof(reader->kinds));
	reader->kinds[EVENT_CUSTOM] = true;
	for (int i = 0; i < LegalTransitionCount; i++)
	{
		const LegalTransition *transition = &LegalTransitions[i];
		bool	   *wanted = &reader->kinds[transition->owner == OWNER_TASK ? EVENT_OF_TASK : EVENT_OF_STEP];

		*wanted = *wanted || MatchesAny(reader, transition->event);
	}
}

/* Whether a consumer wants an event.  The names of transitions are few and always the same strings. */
static bool
Wants(Reader *reader, const LoggedEvent *event)
{
	bool		matches;

	if (event->name == NULL)
		return false;
	for (int i = 0; i < reader->n_known; i++)
	{
		if (reader->known[i].name == event->name)
			return reader->known[i].matches;
	}
	matches = MatchesAny(reader, event->name);
	if (event->kind != EVENT_CUSTOM && reader->n_known < MAX_KNOWN_NAMES)
	{
		reader->known[reader->n_known].name = event->name;
		reader->known[reader->n_known++].matches = matches;
	}
	return matches;
}

/* Reads the row of a consumer, or of the subscription of a channel; false if there is none. */
static bool
ReadReader(KeptQuery *query, const char *name, bool is_subscription, Reader *reader)
{
	Datum		args[2] = {CStringGetTextDatum(name), BoolGetDatum(is_subscription)};

	if (RunQuery(query, args, NULL) == 0)
		return false;
	*reader = (Reader)
	{
		.name = args[0],.saved_position = RowText(0, 1),.window_end = RowText(0, 2)
	};
	reader->was_in_window = reader->window_end != NULL;
	reader->saved_at = DatumGetTimestampTz(RowDatum(0, 8, NULL));
	for (int i = 0; i < 4; i++)
		reader->cursor[i] = RowDatum(0, 3 + i, &reader->at_begin);
	ReadPatterns(reader, DatumGetArrayTypePCopy(RowDatum(0, 7, NULL)));
	return true;
}

/* The same, and locks it. */
static bool
LockReader(const char *name, bool is_subscription, Reader *reader)
{
	return ReadReader(&LOCK_CONSUMER, name, is_subscription, reader);
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
	ForgetEventWindow();
	reader->position = reader->window_end;
	reader->window_end = NULL;
	reader->at_begin = true;
}

/* The first event of a window beyond the reader's cursor, by halving. */
static int
PlaceInWindow(const Reader *reader, const EventWindow *window)
{
	int			low = 0;
	int			high = reader->at_begin ? 0 : window->n;

	while (low < high)
	{
		int			middle = (low + high) / 2;

		if (CompareEventTo(window->events[middle], DatumGetTimestampTz(reader->cursor[0]), DatumGetInt32(reader->cursor[1]),
						   DatumGetInt64(reader->cursor[2]), DatumGetInt32(reader->cursor[3])) > 0)
			high = middle;
		else
			low = middle + 1;
	}
	return low;
}

/* Finds the next page of the window, of the events that are wanted; returns their number. */
static int
ReadPage(Reader *reader, const LoggedEvent **page, int max)
{
	const EventWindow *window = ReadEventWindow(reader->position, reader->window_end, reader->kinds);
	int			n = 0;

	for (int i = PlaceInWindow(reader, window); i < window->n && n < max; i++)
	{
		if (Wants(reader, window->events[i]))
			page[n++] = window->events[i];
	}
	return n;
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

/* Does something with the events of a page. */
typedef void (*TakePage) (const LoggedEvent *const *page, int n, void *target);

static void
MoveCursor(Reader *reader, const LoggedEvent *event)
{
	reader->cursor[0] = TimestampTzGetDatum(event->at);
	reader->cursor[1] = Int32GetDatum(event->place);
	reader->cursor[2] = Int64GetDatum(event->id);
	reader->cursor[3] = Int32GetDatum(event->sort_key);
	reader->at_begin = false;
}

/* Goes on, max events at most; returns how many there were. */
static int
GoOn(Reader *reader, int max, TakePage take, void *target)
{
	const LoggedEvent **page = palloc(sizeof(LoggedEvent *) * max);
	int			events = 0;
	bool		is_last = false;

	while (events < max && !(is_last && reader->window_end == NULL))
	{
		int			n;

		CHECK_FOR_INTERRUPTS();
		if (reader->window_end == NULL)
			is_last = OpenWindow(reader);
		n = ReadPage(reader, page, max - events);
		if (n > 0)
		{
			MoveCursor(reader, page[n - 1]);
			if (take != NULL)
				take(page, n, target);
		}
		events += n;
		if (events < max)
			CloseWindow(reader);
	}
	return events;
}

/* Who finds nothing again and again shall not write again and again; but a window that is through is left. */
static bool
IsWorthSaving(const Reader *reader)
{
	return reader->was_in_window ||
		PositionXmax(reader->position) - PositionXmax(reader->saved_position) > LAZY_TRANSACTIONS ||
		TimestampDifferenceExceeds(reader->saved_at, TaskerNow(), LAZY_MS);
}

/*
 * Reads on, max events at most, and writes down how far; returns how many
 * events there were.
 */
static uint64
ReadOn(Reader *reader, int max, TakePage take, void *target)
{
	int			events = GoOn(reader, max, take, target);

	if (events > 0 || IsWorthSaving(reader))
		SaveReader(reader, events);
	else
		RememberReach(reader);
	return events;
}

/* Appends a page to the result of read_events. */
static void
ReturnPage(const LoggedEvent *const *page, int n, void *target)
{
	ReturnSetInfo *result = target;
	EventDescriber *describer = BeginDescribing();
	MemoryContext each = AllocSetContextCreate(CurrentMemoryContext, "tasker event", ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(each);

	for (int i = 0; i < n; i++)
	{
		EventDetails event;

		MemoryContextReset(each);
		if (DescribeEvent(describer, page[i], &event))
		{
			Datum		values[7] = {
				CStringGetTextDatum(EventKey(page[i])), CStringGetTextDatum(page[i]->name),
				CStringGetTextDatum(EventCategory(page[i]->kind)), Int64GetDatum(event.owner.task_id),
				Int64GetDatum(event.owner.step_id), TimestampTzGetDatum(event.occurred_at), event.payload
			};
			bool		nulls[7] = {[3] = event.owner.task_id == 0,[4] = event.owner.step_id == 0};

			tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
		}
	}
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(each);
	EndDescribing(describer);
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
	(void) ReadOn(&reader, (int) max, ReturnPage, fcinfo->resultinfo);
	CloseQueryScope(&scope);
	return (Datum) 0;
}

/* ---------- pages for the orchestrator itself ---------- */

/* A page that is put together, column by column. */
typedef struct PageBuilder
{
	int			n;
	Datum	   *names;
	Datum	   *event_keys;
	Datum	   *occurred_at;
	Datum	   *task_ids;
	bool	   *no_task;
	Datum	   *step_ids;
	bool	   *no_step;
	Datum	   *payloads;
} PageBuilder;

/* Appends a page to one that is put together, which has room for it. */
static void
GatherPage(const LoggedEvent *const *page, int n, void *target)
{
	PageBuilder *builder = target;
	EventDescriber *describer = BeginDescribing();

	for (int i = 0; i < n; i++)
	{
		EventDetails event;
		int			place = builder->n;

		if (!DescribeEvent(describer, page[i], &event))
			continue;
		builder->names[place] = CStringGetTextDatum(page[i]->name);
		builder->event_keys[place] = CStringGetTextDatum(EventKey(page[i]));
		builder->occurred_at[place] = TimestampTzGetDatum(event.occurred_at);
		builder->task_ids[place] = Int64GetDatum(event.owner.task_id);
		builder->no_task[place] = event.owner.task_id == 0;
		builder->step_ids[place] = Int64GetDatum(event.owner.step_id);
		builder->no_step[place] = event.owner.step_id == 0;
		builder->payloads[place] = event.payload;
		builder->n++;
	}
	EndDescribing(describer);
}

/* The page as arrays, in the current memory context. */
static EventPage
FinishPage(const PageBuilder *builder)
{
	return (EventPage)
	{
		.n = builder->n,
			.names = NullableArray(builder->names, NULL, builder->n, TEXTOID),
			.event_keys = NullableArray(builder->event_keys, NULL, builder->n, TEXTOID),
			.occurred_at = NullableArray(builder->occurred_at, NULL, builder->n, TIMESTAMPTZOID),
			.task_ids = NullableArray(builder->task_ids, builder->no_task, builder->n, INT8OID),
			.step_ids = NullableArray(builder->step_ids, builder->no_step, builder->n, INT8OID),
			.payloads = NullableArray(builder->payloads, NULL, builder->n, JSONBOID),
	};
}

bool
HasEvents(const char *consumer, ArrayType *patterns)
{
	Reader		reader;

	if (!ReadReader(&LOOK_AT_CONSUMER, consumer, false, &reader))
		return true;
	ReadPatterns(&reader, patterns);
	if (GoOn(&reader, 1, NULL, NULL) > 0 || IsWorthSaving(&reader))
		return true;
	RememberReach(&reader);
	return false;
}

uint64
ReadEventPage(const char *consumer, ArrayType *patterns, int max, MemoryContext context, EventPage *page)
{
	PageBuilder builder = {
		.names = palloc(sizeof(Datum) * max),.event_keys = palloc(sizeof(Datum) * max),
		.occurred_at = palloc(sizeof(Datum) * max),.payloads = palloc(sizeof(Datum) * max),
		.task_ids = palloc(sizeof(Datum) * max),.no_task = palloc(sizeof(bool) * max),
		.step_ids = palloc(sizeof(Datum) * max),.no_step = palloc(sizeof(bool) * max)
	};
	Reader		reader;
	MemoryContext caller;
	uint64		events;

	if (!LockReader(consumer, false, &reader))
		elog(ERROR, "consumer \"%s\" does not exist", consumer);
	ReadPatterns(&reader, patterns);
	events = ReadOn(&reader, max, GatherPage, &builder);
	caller = MemoryContextSwitchTo(context);
	*page = FinishPage(&builder);
	MemoryContextSwitchTo(caller);
	return events;
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

/* Appends a number to a JSON object after a key, as it is to be there; or null. */
static void
AppendId(StringInfo json, const char *key, int64 id)
{
	char		number[MAXINT8LEN + 1] = "null";

	if (id != 0)
		(void) pg_lltoa(id, number);
	appendStringInfoString(json, key);
	appendStringInfoString(json, number);
}

/* Adds a page to the messages of a channel, as many as fit into each. */
static void
AnnouncePage(const LoggedEvent *const *page, int n, void *target)
{
	Announcement *announcement = target;
	EventDescriber *describer = BeginDescribing();
	StringInfoData event;

	initStringInfo(&event);
	for (int i = 0; i < n; i++)
	{
		EventOwner	owner;

		FindEventOwner(describer, page[i], &owner);
		resetStringInfo(&event);
		appendStringInfoString(&event, "{\"name\": ");
		escape_json(&event, page[i]->name);
		AppendId(&event, ", \"step_id\": ", owner.step_id);
		AppendId(&event, ", \"task_id\": ", owner.task_id);
		appendStringInfoString(&event, ", \"event_key\": \"");
		appendStringInfoString(&event, EventKey(page[i]));
		appendStringInfoString(&event, "\"}");
		if (announcement->events.len + event.len > MAX_ANNOUNCEMENT)
			SendAnnouncement(announcement);
		if (announcement->events.len > 0)
			appendStringInfoChar(&announcement->events, ',');
		appendBinaryStringInfo(&announcement->events, event.data, event.len);
	}
	EndDescribing(describer);
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
		events = ReadOn(&reader, (int) max, AnnouncePage, &announcement);
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
