/*
 * update.c
 *		What may be changed of a task and a step by hand.
 *
 * No state changes by it, so the logs say nothing: each change leaves an
 * annotation instead, with the values before and after.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "pg/query.h"
#include "rules/document.h"
#include "run/annotation.h"
#include "run/request.h"
#include "run/transition.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"

#define UPDATE_ANNOTATION "update"

#define MAX_RETRY_LIMIT 10000

/* Runs an update that returns what it changed as a jsonb, and notes that; false where nothing changed. */
static bool
UpdateAndNote(KeptQuery *update, const Datum *args, const char *nulls, int64 task_id)
{
	if (RunQuery(update, args, nulls) == 0)
		return false;
	(void) AddAnnotation(task_id, UPDATE_ANNOTATION, PointerGetDatum(PG_DETOAST_DATUM_COPY(RowDatum(0, 1, NULL))), NULL);
	return true;
}

static void
RequireId(FunctionCallInfo fcinfo, const char *name)
{
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("%s must not be null", name)));
}

/* ---------- tasks ---------- */

static KeptQuery UPDATE_TASK = {
	.sql =
	"UPDATE tasker.tasks t SET reason = coalesce($2, t.reason), tags = coalesce($3, t.tags)"
	"  FROM tasker.tasks old"
	" WHERE old.task_id = $1 AND t.task_id = $1 AND (t.reason <> $2 OR t.tags <> $3)"
	" RETURNING CASE WHEN old.reason = t.reason THEN '{}'"
	"           ELSE jsonb_build_object('reason', jsonb_build_object('from', old.reason, 'to', t.reason)) END ||"
	"           CASE WHEN old.tags = t.tags THEN '{}'"
	"           ELSE jsonb_build_object('tags', jsonb_build_object('from', old.tags, 'to', t.tags)) END",
	.nargs = 3,.types = {INT8OID, TEXTOID, TEXTARRAYOID}
};

/* The same limits as at creation. */
static void
CheckTaskUpdate(FunctionCallInfo fcinfo)
{
	int			tag_count;

	if (!PG_ARGISNULL(1) && pg_mbstrlen(text_to_cstring(PG_GETARG_TEXT_PP(1))) > 128)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the reason of a task must have 0 to 128 characters, not %d",
						pg_mbstrlen(text_to_cstring(PG_GETARG_TEXT_PP(1))))));
	if (!PG_ARGISNULL(2))
		(void) TagsOfArray(PG_GETARG_ARRAYTYPE_P(2), &tag_count);
}

PG_FUNCTION_INFO_V1(tasker_update_task);

Datum
tasker_update_task(PG_FUNCTION_ARGS)
{
	int64		task_id;
	Datum		args[3];
	char		nulls[3];
	QueryScope	scope;
	bool		changed;

	RequireId(fcinfo, "task_id");
	CheckTaskUpdate(fcinfo);
	task_id = PG_GETARG_INT64(0);
	for (int i = 0; i < 3; i++)
	{
		args[i] = PG_GETARG_DATUM(i);
		nulls[i] = PG_ARGISNULL(i) ? 'n' : ' ';
	}
	OpenQueryScope(&scope);
	(void) LockTask(task_id);
	changed = UpdateAndNote(&UPDATE_TASK, args, nulls, task_id);
	CloseQueryScope(&scope);
	PG_RETURN_BOOL(changed);
}

/* ---------- steps ---------- */

static KeptQuery KEEP_TASK_OF_STEP = {
	.sql =
	"SELECT t.task_id FROM tasker.workflow_steps s JOIN tasker.tasks t ON t.task_id = s.task_id"
	" WHERE s.workflow_step_id = $1 FOR KEY SHARE OF t",
	.nargs = 1,.types = {INT8OID}
};

static KeptQuery UPDATE_STEP = {
	.sql =
	"UPDATE tasker.workflow_steps s SET retry_limit = coalesce($2, s.retry_limit),"
	"       inputs = nullif(coalesce($3, s.inputs), '{}')"
	"  FROM tasker.workflow_steps old"
	" WHERE old.workflow_step_id = $1 AND s.workflow_step_id = $1"
	"   AND (s.retry_limit <> $2 OR nullif(coalesce($3, s.inputs), '{}') IS DISTINCT FROM s.inputs)"
	" RETURNING jsonb_build_object('workflow_step_id', s.workflow_step_id) ||"
	"           CASE WHEN old.retry_limit = s.retry_limit THEN '{}'"
	"           ELSE jsonb_build_object('retry_limit', jsonb_build_object('from', old.retry_limit, 'to', s.retry_limit)) END ||"
	"           CASE WHEN old.inputs IS NOT DISTINCT FROM s.inputs THEN '{}'"
	"           ELSE jsonb_build_object('inputs', jsonb_build_object('from', old.inputs, 'to', s.inputs)) END",
	.nargs = 3,.types = {INT8OID, INT4OID, JSONBOID}
};

/* What is wrong with updates in the state of a step; NULL: nothing. */
static const char *
ObjectionToUpdate(const LockedStep *step, bool to_limit, bool to_inputs)
{
	bool		attempt_left = !step->failed_permanently &&
		(step->attempts == 0 || (step->retryable && step->attempts < step->retry_limit));

	if (step->state != STATE_PENDING && step->state != STATE_IN_PROGRESS && step->state != STATE_ERROR)
		return "It has ended.";
	if (to_inputs && step->state == STATE_IN_PROGRESS)
		return "Its executor has the inputs already.";
	if (to_limit && step->state == STATE_ERROR && !attempt_left)
		return "It has no attempt left.";
	return NULL;
}

static void
CheckStepUpdate(const LockedStep *step, const int32 *retry_limit, bool to_inputs)
{
	const char *objection = ObjectionToUpdate(step, retry_limit != NULL, to_inputs);
	int			least = step->attempts == 0 || step->state == STATE_IN_PROGRESS ? step->attempts : step->attempts + 1;

	if (objection)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("step " INT64_FORMAT " cannot be updated while it is \"%s\"",
						step->step_id, StateLabel(step->state)),
				 errdetail("%s", objection),
				 step->state == STATE_ERROR ? errhint("Call tasker.retry_step() first.") : 0));
	/* An attempt that is made or scheduled stays within the limit. */
	if (retry_limit && *retry_limit < least)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the retry_limit of step " INT64_FORMAT " must not be less than %d", step->step_id, least),
				 errdetail("The step is \"%s\" after %d of %d attempts.",
						   StateLabel(step->state), step->attempts, step->retry_limit)));
}

PG_FUNCTION_INFO_V1(tasker_update_step);

Datum
tasker_update_step(PG_FUNCTION_ARGS)
{
	bool		to_limit = !PG_ARGISNULL(1);
	bool		to_inputs = !PG_ARGISNULL(2);
	int32		retry_limit = to_limit ? PG_GETARG_INT32(1) : 0;
	Datum		args[] = {PG_GETARG_DATUM(0), PG_GETARG_DATUM(1), PG_GETARG_DATUM(2)};
	char		nulls[] = {' ', to_limit ? ' ' : 'n', to_inputs ? ' ' : 'n'};
	QueryScope	scope;
	LockedStep	step;
	int64		task_id;
	bool		changed;

	RequireId(fcinfo, "step_id");
	if (retry_limit < 0 || retry_limit > MAX_RETRY_LIMIT)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the retry_limit of a step must be between 0 and %d", MAX_RETRY_LIMIT)));
	if (to_inputs && !JB_ROOT_IS_OBJECT(PG_GETARG_JSONB_P(2)))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("the inputs of a step must be a JSON object")));
	if (to_inputs)
		CheckDocumentSize(args[2], MAX_CONTENT_BYTES, "the inputs of a step");
	OpenQueryScope(&scope);
	if (RunQuery(&KEEP_TASK_OF_STEP, args, NULL) == 0)
		RefuseUnknown("step", PG_GETARG_INT64(0));
	task_id = RowInt64(0, 1);
	step = LockStep(PG_GETARG_INT64(0));
	CheckStepUpdate(&step, to_limit ? &retry_limit : NULL, to_inputs);
	changed = UpdateAndNote(&UPDATE_STEP, args, nulls, task_id);
	CloseQueryScope(&scope);
	PG_RETURN_BOOL(changed);
}
