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
static KeptQuery FOLLOW_EVENTS = {
	.sql =
	"INSERT INTO tasker.event_consumers AS c (name, patterns, role, position, created_at)"
	" VALUES ('" REACTOR "', '{*}', $1, $2::pg_snapshot, $3)"
	" ON CONFLICT (name) DO UPDATE SET role = c.role",
	.nargs = 3,.types = {TEXTOID, TEXTOID, TIMESTAMPTZOID}
};

void
FollowEvents(void)
{
	Datum		args[3] = {
		QueryCallerName(),
		CStringGetTextDatum(PositionOfSnapshot(CurrentMemoryContext, CurrentSnapshotText())),
		TimestampTzGetDatum(TaskerNow())
	};

	(void) RunQuery(&FOLLOW_EVENTS, args, NULL);
}
