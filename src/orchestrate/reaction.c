/*
 * reaction.c
 *		What follows from events: whoever reacts to them gets each once.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "define/access.h"
#include "define/follower.h"
#include "define/ownership.h"
#include "execute/pause.h"
#include "miscadmin.h"
#include "orchestrate/reaction.h"
#include "pg/query.h"
#include "run/consumer.h"
#include "run/event_wait.h"
#include "run/task_trigger.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/inval.h"

/* Events of one page: their payloads are in memory together. */
#define MAX_PAGE 1000

/* Of one call by hand. */
#define MAX_EVENTS 1000000

/* Patterns that the consumer's row can show; where there are more it shows *. */
#define MAX_SHOWN 100

/* ---------- who reacts ---------- */

typedef struct Reaction
{
	/* Appends the patterns of the events that are wanted, as text; in an open query scope. */
	ArrayBuildState *(*add_patterns) (ArrayBuildState *patterns);

	/*
	 * Does what is to be done for a page, which has events for others, too.
	 * Opens query scopes itself.  What fails for good it notes itself.
	 */
	void		(*react) (const EventPage *page, bool impatient);
} Reaction;

static const Reaction reactions[] = {
	{AddTriggerPatterns, StartTriggeredTasks},
	{AddAwaitedNames, DeliverEvents},
};

/* The patterns of all; NULL where nobody reacts to anything. */
static ArrayType *
WantedPatterns(void)
{
	ArrayBuildState *patterns = NULL;

	for (int i = 0; i < lengthof(reactions); i++)
		patterns = reactions[i].add_patterns(patterns);
	return patterns == NULL ? NULL : DatumGetArrayTypeP(makeArrayResult(patterns, CurrentMemoryContext));
}

/* ---------- reading ---------- */

static KeptQuery LOCK_REACTOR = {
	.sql = "SELECT 1 FROM tasker.event_consumers WHERE name = '" REACTOR "' FOR NO KEY UPDATE",
	.nargs = 0
};

static KeptQuery SHOW_PATTERNS = {
	.sql =
	"UPDATE tasker.event_consumers SET patterns = $1 WHERE name = '" REACTOR "' AND patterns <> $1",
	.nargs = 1,.types = {TEXTARRAYOID}
};

/* Nobody holds it who is about to need it. */
static KeptQuery LOCK_TO_DROP = {
	.sql = "SELECT 1 FROM tasker.event_consumers WHERE name = '" REACTOR "' FOR UPDATE SKIP LOCKED",
	.nargs = 0
};

static KeptQuery DROP_REACTOR = {
	.sql = "DELETE FROM tasker.event_consumers WHERE name = '" REACTOR "'",
	.nargs = 0
};

/* What nobody waits for shall not keep history; but who has come to wait until the row was locked, counts. */
static void
DropReactor(void)
{
	if (RunPlainQuery(&LOCK_TO_DROP) == 0)
		return;
	AcceptInvalidationMessages();
	if (WantedPatterns() == NULL)
		(void) RunPlainQuery(&DROP_REACTOR);
}

/*
 * Locks the reactor's place and then asks what is wanted: a trigger whose
 * transaction has not ended holds that lock, so none is overlooked.  NULL:
 * nobody reacts to anything.
 */
static ArrayType *
LockAndFindPatterns(void)
{
	bool		is_there = RunPlainQuery(&LOCK_REACTOR) > 0;
	ArrayType  *patterns;

	AcceptInvalidationMessages();
	patterns = WantedPatterns();
	if (patterns != NULL && !is_there)
	{
		FollowEvents();
		patterns = WantedPatterns();
	}
	if (patterns == NULL && is_there)
		DropReactor();
	return patterns;
}

/* Writes down what is read, for whoever looks. */
static void
ShowPatterns(ArrayType *patterns)
{
	Datum		all = CStringGetTextDatum("*");
	Datum		shown = PointerGetDatum(patterns);

	if (ArrayGetNItems(ARR_NDIM(patterns), ARR_DIMS(patterns)) > MAX_SHOWN)
		shown = PointerGetDatum(construct_array(&all, 1, TEXTOID, -1, false, TYPALIGN_INT));
	(void) RunQuery(&SHOW_PATTERNS, &shown, NULL);
}

/*
 * Whether nothing is to be done: somebody reacts, but not to what has happened.
 * Nothing is locked for that; who begins to react meanwhile is asked the next
 * time, from where the row says that all is read.
 */
static bool
MayRest(void)
{
	ArrayType  *patterns = WantedPatterns();

	return patterns != NULL && !HasEvents(REACTOR, patterns);
}

/* Reads the next page, which is in a memory context given. */
static ReactionReport
ReadPage(int max, MemoryContext context, EventPage *page)
{
	ReactionReport report = {.wanted = true};
	QueryScope	scope;
	ArrayType  *patterns;

	OpenQueryScope(&scope);
	TakeOver();
	if (IsAdopted() && !MayRest())
	{
		patterns = LockAndFindPatterns();
		report.wanted = patterns != NULL;
		if (report.wanted)
		{
			ShowPatterns(patterns);
			report.events = (int) ReadEventPage(REACTOR, patterns, Min(max, MAX_PAGE), context, page);
		}
	}
	CloseQueryScope(&scope);
	return report;
}

ReactionReport
ReactToEvents(int max, bool impatient)
{
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext context = AllocSetContextCreate(caller, "tasker page of events", ALLOCSET_DEFAULT_SIZES);
	EventPage	page;
	ReactionReport report = ReadPage(max, context, &page);

	MemoryContextSwitchTo(context);
	for (int i = 0; i < lengthof(reactions) && report.events > 0; i++)
		reactions[i].react(&page, impatient);
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(context);
	return report;
}

/* ---------- by hand ---------- */

/* Waits for the orchestrator and keeps it away until the transaction ends. */
static void
BeginReacting(void)
{
	QueryScope	scope;

	OpenQueryScope(&scope);
	RequireEverywhere(MAY_OPERATE);
	LockOrchestration();
	TakeOver();
	CheckAdopted();
	CloseQueryScope(&scope);
}

PG_FUNCTION_INFO_V1(tasker_react_to_events);

Datum
tasker_react_to_events(PG_FUNCTION_ARGS)
{
	int			max = PG_ARGISNULL(0) ? 0 : PG_GETARG_INT32(0);
	int			events = 0;
	int			page;

	if (max < 1 || max > MAX_EVENTS)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max must be between 1 and %d", MAX_EVENTS)));
	BeginReacting();
	do
	{
		CHECK_FOR_INTERRUPTS();
		page = ReactToEvents(max - events, false).events;
		events += page;
	} while (page > 0 && events < max);
	PG_RETURN_INT32(events);
}
