/*
 * registry.c
 *		What is registered, for those who look.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "define/template.h"
#include "pg/query.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"

static KeptQuery READ_CONFIGURATION = {
	.sql =
	"SELECT configuration, coalesce(effective_configuration, configuration)"
	"  FROM tasker.named_tasks WHERE named_task_id = $1",
	.nargs = 1,.types = {INT4OID}
};

/* A template as registered, or as it is in force in its environment. */
static Jsonb *
ReadConfiguration(const char *namespace_name, const char *name, const char *version, bool effective)
{
	QueryScope	scope;
	MemoryContext in_scope;
	Jsonb	   *configuration;
	Datum		id;

	OpenReadingScope(&scope);
	RefreshTemplates();
	id = Int32GetDatum(GetTemplate(namespace_name, name, version)->named_task_id);
	if (RunQuery(&READ_CONFIGURATION, &id, NULL) != 1)
		elog(ERROR, "named task %d is missing", DatumGetInt32(id));
	in_scope = MemoryContextSwitchTo(scope.context);
	configuration = DatumGetJsonbPCopy(RowDatum(0, effective ? 2 : 1, NULL));
	MemoryContextSwitchTo(in_scope);
	CloseQueryScope(&scope);
	return configuration;
}

PG_FUNCTION_INFO_V1(tasker_task_template);

Datum
tasker_task_template(PG_FUNCTION_ARGS)
{
	if (PG_ARGISNULL(0) || PG_ARGISNULL(1) || PG_ARGISNULL(3))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("name and namespace of a template and effective must not be null")));
	PG_RETURN_JSONB_P(ReadConfiguration(text_to_cstring(PG_GETARG_TEXT_PP(1)),
										text_to_cstring(PG_GETARG_TEXT_PP(0)),
										PG_ARGISNULL(2) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(2)),
										PG_GETARG_BOOL(3)));
}
