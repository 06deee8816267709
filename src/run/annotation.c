/*
 * annotation.c
 *		What is noted about a task.
 *
 * An executor annotates in the transaction that completes its step, so it may
 * lock the task after the step, against the usual order.  Nothing comes of
 * it: FOR KEY SHARE only waits for the pruning of the task, and that waits for
 * nobody's step.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "pg/clock.h"
#include "pg/query.h"
#include "rules/document.h"
#include "run/annotation.h"
#include "run/transition.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"

#define MAX_TYPE_LENGTH 64
#define MAX_DESCRIPTION_LENGTH 10000

/* The foreign key would do the same, but raise 23503 where the task is gone. */
static KeptQuery KEEP_TASK = {
	.sql = "SELECT 1 FROM tasker.tasks WHERE task_id = $1 FOR KEY SHARE",
	.nargs = 1,.types = {INT8OID}
};

static KeptQuery FIND_TYPE = {
	.sql =
	"SELECT annotation_type_id FROM tasker.annotation_types"
	" WHERE name = $1 AND ($2 IS NULL OR description = $2)",
	.nargs = 2,.types = {TEXTOID, TEXTOID}
};

static KeptQuery MAKE_OR_DESCRIBE_TYPE = {
	.sql =
	"INSERT INTO tasker.annotation_types AS t (name, description) VALUES ($1, $2)"
	" ON CONFLICT (name) DO UPDATE SET description = coalesce(excluded.description, t.description)"
	" RETURNING annotation_type_id",
	.nargs = 2,.types = {TEXTOID, TEXTOID}
};

static KeptQuery INSERT_ANNOTATION = {
	.sql =
	"INSERT INTO tasker.task_annotations (task_id, annotation_type_id, annotation, created_at, role)"
	" VALUES ($1, $2, $3, $4, $5) RETURNING task_annotation_id",
	.nargs = 5,.types = {INT8OID, INT4OID, JSONBOID, TIMESTAMPTZOID, TEXTOID}
};

/* Prune passes over a task that is held; it must not wait for an annotation. */
static KeptQuery KEEP_TASK_OF_ANNOTATION = {
	.sql =
	"SELECT 1 FROM tasker.task_annotations a JOIN tasker.tasks t ON t.task_id = a.task_id"
	" WHERE a.task_annotation_id = $1 FOR KEY SHARE OF t",
	.nargs = 1,.types = {INT8OID}
};

static KeptQuery FIND_TASK_OF_ANNOTATION = {
	.sql =
	"SELECT t.task_namespace_id FROM tasker.task_annotations a JOIN tasker.tasks t ON t.task_id = a.task_id"
	" WHERE a.task_annotation_id = $1",
	.nargs = 1,.types = {INT8OID}
};

static KeptQuery DELETE_ANNOTATION = {
	.sql = "DELETE FROM tasker.task_annotations WHERE task_annotation_id = $1",
	.nargs = 1,.types = {INT8OID}
};

int64
AddAnnotation(int64 task_id, const char *type, Datum annotation, const char *description)
{
	Datum		type_args[] = {CStringGetTextDatum(type), description ? CStringGetTextDatum(description) : 0};
	const char *type_nulls = description ? NULL : " n";
	Datum		args[5] = {Int64GetDatum(task_id)};

	if (RunQuery(&KEEP_TASK, args, NULL) == 0)
		RefuseUnknown("task", task_id);
	/* A type is shared by all: whoever is confined gives it its first description only. */
	if (description != NULL && RoleIsConfined(QueryCaller()) && RunQuery(&FIND_TYPE, type_args, " n") > 0)
		type_nulls = " n";
	if (RunQuery(&FIND_TYPE, type_args, type_nulls) == 0)
		(void) RunQuery(&MAKE_OR_DESCRIBE_TYPE, type_args, type_nulls);
	args[1] = Int32GetDatum(RowInt32(0, 1));
	args[2] = annotation;
	args[3] = TimestampTzGetDatum(TaskerNow());
	args[4] = QueryCallerName();
	(void) RunQuery(&INSERT_ANNOTATION, args, NULL);
	return RowInt64(0, 1);
}

/* Raises an error unless the arguments of annotate_task make an annotation. */
static void
CheckAnnotation(FunctionCallInfo fcinfo)
{
	static const char *const names[] = {"task_id", "type", "annotation"};
	int			length;

	for (int i = 0; i < lengthof(names); i++)
	{
		if (PG_ARGISNULL(i))
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("%s must not be null", names[i])));
	}
	length = pg_mbstrlen(text_to_cstring(PG_GETARG_TEXT_PP(1)));
	if (length < 1 || length > MAX_TYPE_LENGTH)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the type of an annotation must have 1 to %d characters, not %d", MAX_TYPE_LENGTH, length)));
	if (!JB_ROOT_IS_OBJECT(PG_GETARG_JSONB_P(2)))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("an annotation must be a JSON object")));
	/* An index reads all of it. */
	CheckDocumentSize(PG_GETARG_DATUM(2), MAX_METADATA_BYTES, "an annotation");
	if (!PG_ARGISNULL(3) && pg_mbstrlen(text_to_cstring(PG_GETARG_TEXT_PP(3))) > MAX_DESCRIPTION_LENGTH)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the description of a type of annotations must have at most %d characters", MAX_DESCRIPTION_LENGTH)));
}

PG_FUNCTION_INFO_V1(tasker_annotate_task);
PG_FUNCTION_INFO_V1(tasker_remove_annotation);

Datum
tasker_annotate_task(PG_FUNCTION_ARGS)
{
	QueryScope	scope;
	int64		id;

	CheckAnnotation(fcinfo);
	OpenQueryScope(&scope);
	RequireForTask(PG_GETARG_INT64(0), MAY_PRODUCE | MAY_EXECUTE | MAY_OPERATE);
	id = AddAnnotation(PG_GETARG_INT64(0), text_to_cstring(PG_GETARG_TEXT_PP(1)), PG_GETARG_DATUM(2),
					   PG_ARGISNULL(3) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(3)));
	CloseQueryScope(&scope);
	PG_RETURN_INT64(id);
}

Datum
tasker_remove_annotation(PG_FUNCTION_ARGS)
{
	Datum		id = PG_GETARG_DATUM(0);
	QueryScope	scope;
	bool		known = true;
	bool		removed;

	OpenQueryScope(&scope);
	if (RoleIsConfined(QueryCaller()))
	{
		known = RunQuery(&FIND_TASK_OF_ANNOTATION, &id, NULL) == 1 &&
			RoleMay(QueryCaller(), RowInt32(0, 1), MAY_ANYTHING);
		if (known)
			RequireInNamespace(RowInt32(0, 1), MAY_PRODUCE | MAY_OPERATE);
	}
	removed = known && RunQuery(&KEEP_TASK_OF_ANNOTATION, &id, NULL) > 0 && RunQuery(&DELETE_ANNOTATION, &id, NULL) > 0;
	CloseQueryScope(&scope);
	PG_RETURN_BOOL(removed);
}
