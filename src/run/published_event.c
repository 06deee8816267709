/*
 * published_event.c
 *		Publishing custom events.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "define/access.h"
#include "define/event.h"
#include "define/waiting_step.h"
#include "pg/clock.h"
#include "pg/query.h"
#include "pg/wakeup.h"
#include "run/transition.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"

#define MAX_PAYLOAD_BYTES 65536

/* An event of no task is everybody's. */
#define MAY_PUBLISH (MAY_PRODUCE | MAY_EXECUTE | MAY_OPERATE)

static KeptQuery TASK_OF_STEP = {
	.sql = "SELECT s.task_id FROM tasker.workflow_steps s WHERE s.workflow_step_id = $1",
	.nargs = 1,.types = {INT8OID}
};

static KeptQuery FIND_TASK = {
	.sql = "SELECT 1 FROM tasker.tasks t WHERE t.task_id = $1",
	.nargs = 1,.types = {INT8OID}
};

static KeptQuery INSERT_EVENT = {
	.sql =
	"INSERT INTO tasker.published_events (name, task_id, workflow_step_id, created_at, role, payload, awaited)"
	" VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING event_id",
	.nargs = 7,.types = {TEXTOID, INT8OID, INT8OID, TIMESTAMPTZOID, TEXTOID, JSONBOID, BOOLOID}
};

/* The task of a step; raises 42704. */
static int64
TaskOfStep(int64 step_id)
{
	Datum		arg = Int64GetDatum(step_id);

	if (RunQuery(&TASK_OF_STEP, &arg, NULL) == 0)
		RefuseUnknown("step", step_id);
	return RowInt64(0, 1);
}

static void
CheckTask(int64 task_id)
{
	Datum		arg = Int64GetDatum(task_id);

	if (RunQuery(&FIND_TASK, &arg, NULL) == 0)
		RefuseUnknown("task", task_id);
}

static void
CheckPayload(const char *name, Jsonb *payload)
{
	if (!JB_ROOT_IS_OBJECT(payload))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the payload of event \"%s\" must be a JSON object", name)));
	if (VARSIZE(payload) > MAX_PAYLOAD_BYTES)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the payload of event \"%s\" is too large", name),
				 errdetail("It has %d bytes; the limit is %d.", (int) VARSIZE(payload), MAX_PAYLOAD_BYTES),
				 errhint("Store the data elsewhere and publish a reference to it.")));
	CheckEventPayload(name, JsonbPGetDatum(payload));
}

PG_FUNCTION_INFO_V1(tasker_publish_event);

Datum
tasker_publish_event(PG_FUNCTION_ARGS)
{
	char	   *name;
	char		nulls[8] = "       ";
	Datum		args[7];
	QueryScope	scope;
	int64		event_id;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the name and the payload of an event must not be null")));
	name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	OpenQueryScope(&scope);
	if (!PG_ARGISNULL(3))
		RequireForStep(PG_GETARG_INT64(3), MAY_PUBLISH);
	else if (!PG_ARGISNULL(2))
		RequireForTask(PG_GETARG_INT64(2), MAY_PUBLISH);
	else
		RequireEverywhere(MAY_PUBLISH);
	CheckPayload(name, PG_GETARG_JSONB_P(1));
	nulls[1] = PG_ARGISNULL(2) && PG_ARGISNULL(3) ? 'n' : ' ';
	nulls[2] = PG_ARGISNULL(3) ? 'n' : ' ';
	if (!PG_ARGISNULL(3))
	{
		int64		task_id = TaskOfStep(PG_GETARG_INT64(3));

		if (!PG_ARGISNULL(2) && task_id != PG_GETARG_INT64(2))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("step " INT64_FORMAT " is not of task " INT64_FORMAT, PG_GETARG_INT64(3), PG_GETARG_INT64(2))));
		args[1] = Int64GetDatum(task_id);
		args[2] = PG_GETARG_DATUM(3);
	}
	else if (!PG_ARGISNULL(2))
	{
		CheckTask(PG_GETARG_INT64(2));
		args[1] = PG_GETARG_DATUM(2);
	}
	args[0] = CStringGetTextDatum(name);
	args[3] = TimestampTzGetDatum(TaskerNow());
	args[4] = QueryCallerName();
	args[5] = PG_GETARG_DATUM(1);
	/* After the time: whoever awaits it and has not committed by now has tasks that are younger than the event. */
	args[6] = BoolGetDatum(IsAwaitedEvent(name));
	(void) RunQuery(&INSERT_EVENT, args, nulls);
	event_id = RowInt64(0, 1);
	WakeOrchestratorAtCommit(0);
	CloseQueryScope(&scope);
	PG_RETURN_INT64(event_id);
}
