/*
 * ownership.c
 *		Which database the orchestrator's rows belong to.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "define/ownership.h"
#include "miscadmin.h"
#include "pg/arrival.h"
#include "pg/catalog.h"
#include "pg/clock.h"
#include "pg/query.h"
#include "utils/fmgrprotos.h"

/* Whether this session has seen that nothing is to be taken over any more. */
static bool taken_over = false;

int64
HomeIdentifier(void)
{
	Datum		server = Int64GetDatum((int64) GetSystemIdentifier());

	/* Version 1.0 could not tell two databases of one server. */
	if (SchemaVersion() < 101)
		return DatumGetInt64(server);
	return DatumGetInt64(DirectFunctionCall2(hashint8extended, server, Int64GetDatum((int64) MyDatabaseId)));
}

/* Whether rows can tell when they were taken over, and there is something to tell. */
static Arrival
ArrivalToFollow(TimestampTz *at)
{
	Arrival		arrival = ServerArrival(at);

	return taken_over || arrival == ARRIVAL_NONE || SchemaVersion() < 101 ? ARRIVAL_NONE : arrival;
}

static KeptQuery ENSURE_CHECKPOINT = {
	.sql =
	"INSERT INTO tasker.orchestrator_checkpoint (system_identifier, position, saved_at)"
	" VALUES ($1, '3:3:', $2) ON CONFLICT DO NOTHING",
	.nargs = 2,.types = {INT8OID, TIMESTAMPTZOID}
};

/* One that was made here was not taken over from elsewhere. */
static KeptQuery NOTE_ARRIVAL = {
	.sql = "UPDATE tasker.orchestrator_checkpoint SET taken_over_at = $1",
	.nargs = 1,.types = {TIMESTAMPTZOID}
};

void
EnsureCheckpoint(void)
{
	TimestampTz arrived_at;
	Datum		args[2] = {Int64GetDatum(HomeIdentifier()), TimestampTzGetDatum(TaskerNow())};

	if (RunQuery(&ENSURE_CHECKPOINT, args, NULL) == 0 || ArrivalToFollow(&arrived_at) == ARRIVAL_NONE)
		return;
	args[0] = TimestampTzGetDatum(arrived_at);
	(void) RunQuery(&NOTE_ARRIVAL, args, NULL);
}

static KeptQuery TAKE_OVER = {
	.sql =
	"UPDATE tasker.orchestrator_checkpoint"
	"   SET taken_over_at = $1, generation = generation + 1,"
	"       system_identifier = CASE WHEN $2 THEN 0 ELSE system_identifier END"
	" WHERE taken_over_at IS DISTINCT FROM $1",
	.nargs = 2,.types = {TIMESTAMPTZOID, BOOLOID}
};

/*
 * Others may have got ids that this server has never heard of: from the former
 * primary, of what was not replicated any more, or from the original of the
 * backup.  Such an id must not come to mean something else.  A billion of them
 * is more than a primary gives out in hours, and a thousandth of a period.
 */
static KeptQuery PASS_OVER_IDS = {
	.sql =
	"SELECT setval('tasker.tasks_task_id_seq', (SELECT last_value FROM tasker.tasks_task_id_seq) + (1 << 30)),"
	" setval('tasker.workflow_steps_workflow_step_id_seq',"
	"        (SELECT last_value FROM tasker.workflow_steps_workflow_step_id_seq) + (1 << 30)),"
	" setval('tasker.executors_executor_id_seq', (SELECT last_value FROM tasker.executors_executor_id_seq) + (1 << 30))",
	.nargs = 0
};

void
TakeOver(void)
{
	TimestampTz arrived_at;
	Arrival		arrival = ArrivalToFollow(&arrived_at);
	Datum		args[2] = {TimestampTzGetDatum(arrived_at), BoolGetDatum(arrival == ARRIVAL_RESTORED)};

	if (arrival == ARRIVAL_NONE)
		return;
	/* Only what was done before is sure to stay: this transaction may be rolled back. */
	if (RunQuery(&TAKE_OVER, args, NULL) == 0)
		taken_over = true;
	else
		(void) RunPlainQuery(&PASS_OVER_IDS);
}

static KeptQuery AWAITS_TAKE_OVER = {
	.sql = "SELECT 1 FROM tasker.orchestrator_checkpoint WHERE taken_over_at IS DISTINCT FROM $1",
	.nargs = 1,.types = {TIMESTAMPTZOID}
};

bool
AwaitsTakeOver(void)
{
	TimestampTz arrived_at;
	Datum		arg;

	if (ArrivalToFollow(&arrived_at) != ARRIVAL_RESTORED)
		return false;
	arg = TimestampTzGetDatum(arrived_at);
	return RunQuery(&AWAITS_TAKE_OVER, &arg, NULL) > 0;
}
