/*
 * event_window.c
 *		The events between two positions in the logs, in their order.
 *
 * Read directly (pg/table.h): a consumer of everything reads as many rows as
 * the orchestrator does.  What lies between two positions never changes but
 * by retention, so a window that is read in pages is read from the logs once.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "pg/position.h"
#include "run/event_window.h"
#include "run/row.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

/* A window with more events is read again for each page: that much memory a session may keep. */
#define MAX_KEPT_EVENTS 50000

/* The sort_key of the first transition, and the distance to each next one. */
#define FIRST_SORT_KEY 10

const TableShape PUBLISHED_EVENTS = {
	.name = "published_events",.n_columns = PUBLISHED_COLUMNS,
	.columns = {"event_id", "xact_id", "created_at", "name", "task_id", "workflow_step_id", "role", "payload"}
};

/* The window that was read last. */
static struct
{
	MemoryContext context;		/* NULL: there is none */
	char	   *begin;
	char	   *end;
	bool		kinds[EVENT_KINDS];
	EventWindow window;
}			kept;

/* Where the events of each kind are. */
static const struct
{
	const TableShape *table;
	int			xact_column;
}			sources[EVENT_KINDS] = {
	[EVENT_OF_TASK] = {&TASK_LOG, LOG_XACT},
	[EVENT_OF_STEP] = {&STEP_LOG, LOG_XACT},
	[EVENT_CUSTOM] = {&PUBLISHED_EVENTS, PUBLISHED_XACT}
};

typedef struct WindowReader
{
	int			n;
	int			room;
	LoggedEvent *events;
	const char *end;
	EventKind	kind;
	const char *role;			/* of the row before, most often of the next one, too */
} WindowReader;

const char *
EventCategory(EventKind kind)
{
	static const char *const categories[] = {"task", "step", "custom"};

	return categories[kind];
}

char *
EventKey(const LoggedEvent *event)
{
	char	   *key;
	char	   *end;

	if (event->kind == EVENT_CUSTOM)
		return psprintf("event:" INT64_FORMAT, event->id);
	key = palloc(sizeof("step::") + MAXINT8LEN + MAXINT8LEN);
	end = key + strlen(strcpy(key, EventCategory(event->kind)));
	*end++ = ':';
	end += pg_lltoa(event->id, end);
	*end++ = ':';
	(void) pg_ltoa(event->sort_key, end);
	return key;
}

int
CompareEventTo(const LoggedEvent *event, TimestampTz at, int32 place, int64 id, int32 sort_key)
{
	if (event->at != at)
		return event->at < at ? -1 : 1;
	if (event->place != place)
		return event->place < place ? -1 : 1;
	if (event->id != id)
		return event->id < id ? -1 : 1;
	return event->sort_key < sort_key ? -1 : event->sort_key > sort_key;
}

static int
CompareEvents(const void *a, const void *b)
{
	const LoggedEvent *other = *(LoggedEvent *const *) b;

	return CompareEventTo(*(LoggedEvent *const *) a, other->at, other->place, other->id, other->sort_key);
}

static int
CompareByOwner(const void *a, const void *b)
{
	const LoggedEvent *left = *(LoggedEvent *const *) a;
	const LoggedEvent *right = *(LoggedEvent *const *) b;

	if (left->kind != right->kind)
		return left->kind < right->kind ? -1 : 1;
	if (left->id != right->id)
		return left->id < right->id ? -1 : 1;
	return left->sort_key < right->sort_key ? -1 : left->sort_key > right->sort_key;
}

/* Whether a position has seen what a transaction did. */
static bool
HasSeen(const char *position, uint64 transaction)
{
	const char *running = PositionRunning(position);
	uint64		other;

	if (transaction >= PositionXmax(position))
		return false;
	while (NextRunning(&running, &other))
	{
		if (other == transaction)
			return false;
	}
	return true;
}

/* The event that a transition is; NULL where there is none. */
static const char *
NameOfTransition(EventKind kind, TaskerState from, TaskerState to)
{
	for (int i = 0; i < LegalTransitionCount; i++)
	{
		const LegalTransition *transition = &LegalTransitions[i];

		if (transition->owner == (kind == EVENT_OF_TASK ? OWNER_TASK : OWNER_STEP) &&
			transition->from == from && transition->to == to)
			return transition->event;
	}
	return NULL;
}

/* The role of a row, in the window's memory. */
static const char *
RoleOfRow(WindowReader *reader, const Table *log, TupleTableSlot *row)
{
	text	   *role = DatumGetTextPP(RowColumn(log, row, LOG_ROLE, NULL));
	int			length = VARSIZE_ANY_EXHDR(role);

	if (reader->role == NULL || strncmp(reader->role, VARDATA_ANY(role), length) != 0 || reader->role[length] != '\0')
		reader->role = text_to_cstring(role);
	return reader->role;
}

/*
 * In one moment creations and starts of tasks come before what happens to
 * steps, and ends of tasks after it.
 */
static LoggedEvent
EventOfLogRow(WindowReader *reader, const Table *log, TupleTableSlot *row)
{
	EventKind	kind = reader->kind;
	bool		is_first;
	bool		no_executor;
	bool		no_metadata;
	Datum		from_value = RowColumn(log, row, LOG_FROM_STATE, &is_first);
	Datum		executor = RowColumn(log, row, LOG_EXECUTOR, &no_executor);
	Happened	happened = {
		.from = is_first ? STATE_NONE : StateOfValue(log, LOG_FROM_STATE, from_value),
		.to = StateOfValue(log, LOG_TO_STATE, RowColumn(log, row, LOG_TO_STATE, NULL)),
		.at = DatumGetTimestampTz(RowColumn(log, row, LOG_CREATED_AT, NULL)),
		.has_executor = !no_executor,.executor_id = no_executor ? 0 : DatumGetInt64(executor),
		.role = RoleOfRow(reader, log, row),
	};

	(void) RowColumn(log, row, LOG_METADATA, &no_metadata);
	return (LoggedEvent)
	{
		.kind = kind,.id = DatumGetInt64(RowColumn(log, row, LOG_OWNER, NULL)),
			.sort_key = DatumGetInt32(RowColumn(log, row, LOG_SORT_KEY, NULL)),
			.at = happened.at,
			.place = kind == EVENT_OF_STEP ? 2 : EndsTask(happened.to) ? 3 : 0,
			.name = NameOfTransition(kind, happened.from, happened.to),
			.is_whole = no_metadata,.happened = happened,
	};
}

static LoggedEvent
EventOfPublishedRow(const Table *table, TupleTableSlot *row)
{
	return (LoggedEvent)
	{
		.kind = EVENT_CUSTOM,.id = DatumGetInt64(RowColumn(table, row, PUBLISHED_ID, NULL)),
			.at = DatumGetTimestampTz(RowColumn(table, row, PUBLISHED_AT, NULL)),.place = 1,
			.name = TextDatumGetCString(RowColumn(table, row, PUBLISHED_NAME, NULL)),
	};
}

static void
TakeRow(WindowReader *reader, const Table *table, TupleTableSlot *row)
{
	if (reader->n == reader->room)
	{
		reader->room = Max(256, 2 * reader->room);
		reader->events = reader->events ? repalloc_huge(reader->events, sizeof(LoggedEvent) * reader->room) :
			palloc(sizeof(LoggedEvent) * reader->room);
	}
	reader->events[reader->n++] = reader->kind == EVENT_CUSTOM ? EventOfPublishedRow(table, row) :
		EventOfLogRow(reader, table, row);
}

/* Takes the rows of transactions that began after one position and that the end has seen. */
static void
ReadYoungerRows(WindowReader *reader, Lookup *by_transaction, const Table *table, int xact_column, uint64 first)
{
	bool		runs_any = *PositionRunning(reader->end) != '\0';
	uint64		beyond = PositionXmax(reader->end);
	Datum		key = UInt64GetDatum(first);
	TupleTableSlot *row;

	LookFrom(by_transaction, 1, &key);
	while ((row = NextRow(by_transaction)) != NULL)
	{
		uint64		transaction = DatumGetUInt64(RowColumn(table, row, xact_column, NULL));

		CHECK_FOR_INTERRUPTS();
		if (transaction >= beyond)
			break;
		if (!runs_any || HasSeen(reader->end, transaction))
			TakeRow(reader, table, row);
	}
}

static void
ReadRowsOf(WindowReader *reader, EventKind kind, const char *begin)
{
	int			xact_column = sources[kind].xact_column;
	int			n_parts;
	Table	  **parts = TableParts(OpenTable(sources[kind].table), &n_parts);

	reader->kind = kind;
	reader->role = NULL;
	for (int i = 0; i < n_parts; i++)
	{
		Lookup	   *by_transaction = BeginLookup(parts[i], 1, &xact_column);
		const char *running = PositionRunning(begin);
		uint64		transaction;
		TupleTableSlot *row;

		ReadYoungerRows(reader, by_transaction, parts[i], xact_column, PositionXmax(begin));
		while (NextRunning(&running, &transaction))
		{
			Datum		key = UInt64GetDatum(transaction);

			if (!HasSeen(reader->end, transaction))
				continue;
			LookFor(by_transaction, 1, &key);
			while ((row = NextRow(by_transaction)) != NULL)
				TakeRow(reader, parts[i], row);
		}
		EndLookup(by_transaction);
	}
}

void
FollowAttempts(Happened *happened, EventKind kind, TaskerState from, TaskerState to, TimestampTz at, bool set_to_zero)
{
	if (to == STATE_IN_PROGRESS)
	{
		happened->attempt++;
		happened->started_at = Max(happened->started_at, at);
	}
	else if (from == STATE_IN_PROGRESS && to == STATE_PENDING)
		happened->attempt--;
	else if (kind == EVENT_OF_STEP && from == STATE_ERROR && to == STATE_PENDING && set_to_zero)
	{
		happened->attempt = 0;
		happened->started_at = 0;
	}
}

/*
 * Follows the attempts of the owners whose logs begin in the window; before is
 * the same owner's event before, or NULL.  Events with metadata, and those
 * after a return from error, whose metadata count, are left to who reads the log.
 */
static void
FollowInWindow(LoggedEvent *event, const LoggedEvent *before)
{
	Happened   *happened = &event->happened;

	if (before == NULL)
		event->is_whole &= event->sort_key == FIRST_SORT_KEY;
	else
	{
		event->is_whole &= before->is_whole && before->sort_key + FIRST_SORT_KEY == event->sort_key;
		happened->started_at = before->happened.started_at;
		happened->attempt = before->happened.attempt;
	}
	event->is_whole &= happened->from != STATE_ERROR;
	FollowAttempts(happened, event->kind, happened->from, happened->to, happened->at, false);
}

/*
 * A row that waited for the lock of the one before it may carry an earlier
 * time than that: within a step or task the later of the two counts.
 */
static EventWindow
PutInOrder(const WindowReader *reader)
{
	EventWindow window = {.n = reader->n,.events = MemoryContextAllocHuge(CurrentMemoryContext, sizeof(LoggedEvent *) * Max(reader->n, 1))};
	LoggedEvent **events = window.events;

	for (int i = 0; i < window.n; i++)
		events[i] = &reader->events[i];
	qsort(events, window.n, sizeof(LoggedEvent *), CompareByOwner);
	for (int i = 0; i < window.n; i++)
	{
		bool		follows = i > 0 && events[i]->kind == events[i - 1]->kind && events[i]->id == events[i - 1]->id;

		if (follows)
			events[i]->at = Max(events[i]->at, events[i - 1]->at);
		if (events[i]->kind != EVENT_CUSTOM)
			FollowInWindow(events[i], follows ? events[i - 1] : NULL);
	}
	qsort(events, window.n, sizeof(LoggedEvent *), CompareEvents);
	return window;
}

void
ForgetEventWindow(void)
{
	if (kept.context != NULL)
		MemoryContextDelete(kept.context);
	kept.context = NULL;
}

/* Keeps a window beyond the statement, if it is not too large. */
static const EventWindow *
KeepWindow(MemoryContext context, const EventWindow *window, const char *begin, const char *end, const bool kinds[EVENT_KINDS])
{
	if (window->n > MAX_KEPT_EVENTS)
		return window;
	kept.begin = MemoryContextStrdup(context, begin);
	kept.end = MemoryContextStrdup(context, end);
	memcpy(kept.kinds, kinds, sizeof(kept.kinds));
	kept.window = *window;
	MemoryContextSetParent(context, TopMemoryContext);
	kept.context = context;
	return &kept.window;
}

const EventWindow *
ReadEventWindow(const char *begin, const char *end, const bool kinds[EVENT_KINDS])
{
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext context;
	EventWindow *window;
	WindowReader reader = {.end = end};

	if (kept.context != NULL && strcmp(kept.begin, begin) == 0 && strcmp(kept.end, end) == 0 &&
		memcmp(kept.kinds, kinds, sizeof(kept.kinds)) == 0)
		return &kept.window;
	ForgetEventWindow();
	context = AllocSetContextCreate(caller, "tasker event window", ALLOCSET_DEFAULT_SIZES);
	BeginAccess();
	MemoryContextSwitchTo(context);
	for (EventKind kind = 0; kind < EVENT_KINDS; kind++)
	{
		if (kinds[kind])
			ReadRowsOf(&reader, kind, begin);
	}
	window = palloc(sizeof(EventWindow));
	*window = PutInOrder(&reader);
	MemoryContextSwitchTo(caller);
	EndAccess();
	return KeepWindow(context, window, begin, end, kinds);
}
