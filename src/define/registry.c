/*
 * registry.c
 *		What is registered, for those who look.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "define/access.h"
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

static KeptQuery DESCRIBE_NAMESPACE = {
	.sql =
	"INSERT INTO tasker.task_namespaces AS n (name, description) VALUES ($1, $2)"
	" ON CONFLICT (name) DO UPDATE SET description = EXCLUDED.description"
	" RETURNING n.task_namespace_id",
	.nargs = 2,.types = {TEXTOID, TEXTOID}
};

static KeptQuery DESCRIBE_SYSTEM = {
	.sql =
	"INSERT INTO tasker.dependent_systems AS d (name, description) VALUES ($1, $2)"
	" ON CONFLICT (name) DO UPDATE SET description = EXCLUDED.description"
	" RETURNING d.dependent_system_id",
	.nargs = 2,.types = {TEXTOID, TEXTOID}
};

static KeptQuery WRITE_OBJECT_MAP = {
	.sql = "SELECT tasker.write_object_map($1, $2, $3, $4)",
	.nargs = 4,.types = {TEXTOID, TEXTOID, TEXTOID, TEXTOID}
};

/* Runs a statement on text arguments, NULL or not; gives the number that it returns. */
static Datum
WriteByArguments(FunctionCallInfo fcinfo, KeptQuery *query)
{
	Datum		args[4];
	char		nulls[4];

	for (int i = 0; i < query->nargs; i++)
	{
		args[i] = PG_GETARG_DATUM(i);
		nulls[i] = PG_ARGISNULL(i) ? 'n' : ' ';
	}
	(void) RunQuery(query, args, nulls);
	return RowDatum(0, 1, NULL);
}

PG_FUNCTION_INFO_V1(tasker_describe_namespace);
PG_FUNCTION_INFO_V1(tasker_describe_dependent_system);
PG_FUNCTION_INFO_V1(tasker_map_objects);

Datum
tasker_describe_namespace(PG_FUNCTION_ARGS)
{
	QueryScope	scope;
	Datum		id;

	OpenQueryScope(&scope);
	if (PG_ARGISNULL(0) || !RoleMayByName(QueryCaller(), text_to_cstring(PG_GETARG_TEXT_PP(0)), MAY_ADMINISTER))
		RequireEverywhere(MAY_ADMINISTER);
	id = WriteByArguments(fcinfo, &DESCRIBE_NAMESPACE);
	CloseQueryScope(&scope);
	return id;
}

/* Systems, and maps of their objects, belong to no namespace. */
Datum
tasker_describe_dependent_system(PG_FUNCTION_ARGS)
{
	QueryScope	scope;
	Datum		id;

	OpenQueryScope(&scope);
	RequireEverywhere(MAY_ADMINISTER);
	id = WriteByArguments(fcinfo, &DESCRIBE_SYSTEM);
	CloseQueryScope(&scope);
	return id;
}

Datum
tasker_map_objects(PG_FUNCTION_ARGS)
{
	QueryScope	scope;
	Datum		map;

	OpenQueryScope(&scope);
	RequireEverywhere(MAY_PRODUCE | MAY_EXECUTE | MAY_ADMINISTER);
	map = Int64GetDatum(DatumGetInt64(WriteByArguments(fcinfo, &WRITE_OBJECT_MAP)));
	CloseQueryScope(&scope);
	return map;
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
