/*
 * follower.c
 *		The orchestrator's own place among the consumers of events.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "define/follower.h"
#include "pg/clock.h"
#include "pg/position.h"
#include "pg/query.h"
#include "utils/builtins.h"

/* Which events are of interest it finds out itself. */
#define TAKE_PLACE(conflict) \
	"INSERT INTO tasker.event_consumers AS c (name, patterns, role, position, created_at)" \
	" VALUES ('" REACTOR "', '{*}', $1, $2::pg_snapshot, $3)" \
	" ON CONFLICT (name) DO " conflict

static KeptQuery FOLLOW_EVENTS = {
	.sql = TAKE_PLACE("UPDATE SET role = c.role"),
	.nargs = 3,.types = {TEXTOID, TEXTOID, TIMESTAMPTZOID}
};

static KeptQuery ENSURE_FOLLOWER = {
	.sql = TAKE_PLACE("NOTHING"),
	.nargs = 3,.types = {TEXTOID, TEXTOID, TIMESTAMPTZOID}
};

/* Reading on does not mind this lock, giving up the place does. */
static KeptQuery HOLD_FOLLOWER = {
	.sql = "SELECT 1 FROM tasker.event_consumers WHERE name = '" REACTOR "' FOR KEY SHARE",
	.nargs = 0
};

static void
TakePlace(KeptQuery *query)
{
	Datum		args[3] = {
		QueryCallerName(),
		CStringGetTextDatum(PositionOfSnapshot(CurrentMemoryContext, CurrentSnapshotText())),
		TimestampTzGetDatum(TaskerNow())
	};

	(void) RunQuery(query, args, NULL);
}

void
FollowEvents(void)
{
	TakePlace(&FOLLOW_EVENTS);
}

void
EnsureFollower(void)
{
	while (RunPlainQuery(&HOLD_FOLLOWER) == 0)
		TakePlace(&ENSURE_FOLLOWER);
}
