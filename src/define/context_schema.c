/*
 * context_schema.c
 *		The JSON Schema that a template demands of the contexts of its tasks,
 *		compiled once a session.
 *
 * A revision of a template never changes, so that what was read under any
 * snapshot may be kept; the definitions' generation drops what is outdated.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "define/context_schema.h"
#include "lib/stringinfo.h"
#include "pg/catalog.h"
#include "pg/query.h"
#include "rules/violation.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

/* A message names that many violations. */
#define VIOLATIONS_TOLD 10

typedef struct SchemaKey
{
	int32		named_task_id;
	int32		revision;
} SchemaKey;

typedef struct CachedSchema
{
	SchemaKey	key;
	JsonSchema *schema;			/* NULL: the template has none */
} CachedSchema;

static MemoryContext cache_context = NULL;
static HTAB *cache = NULL;
static uint64 cache_generation = 0;

static KeptQuery READ_CONTEXT_SCHEMA = {
	.sql =
	"SELECT coalesce(effective_configuration, configuration) -> 'schema'"
	"  FROM tasker.named_tasks WHERE named_task_id = $1 AND revision = $2",
	.nargs = 2,.types = {INT4OID, INT4OID}
};

/* Empties the cache if definitions have changed. */
static void
RefreshContextSchemas(void)
{
	HASHCTL		control = {.keysize = sizeof(SchemaKey),.entrysize = sizeof(CachedSchema)};
	uint64		generation = DefinitionsGeneration();

	if (cache != NULL && cache_generation == generation)
		return;
	cache = NULL;
	if (cache_context == NULL)
		cache_context = AllocSetContextCreate(TopMemoryContext, "tasker context schemas",
											  ALLOCSET_DEFAULT_SIZES);
	MemoryContextReset(cache_context);
	control.hcxt = cache_context;
	cache = hash_create("tasker context schemas", 64, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	cache_generation = generation;
}

/* Reads and compiles the schema of a template; NULL where it has none. */
static JsonSchema *
ReadContextSchema(const Template *template)
{
	Datum		args[2] = {Int32GetDatum(template->named_task_id), Int32GetDatum(template->revision)};
	Violation	refusal;
	JsonSchema *schema;
	Datum		document;
	bool		is_null;

	if (RunQuery(&READ_CONTEXT_SCHEMA, args, NULL) == 0)
		ComplainOfReplacement(template);
	document = RowDatum(0, 1, &is_null);
	if (is_null)
		return NULL;
	schema = CompileSchema(DatumGetJsonbP(document), cache_context, &refusal);
	if (schema == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("schema of template \"%s\" is invalid: %s", template->full_name, refusal.problem),
				 refusal.path[0] ? errdetail("At %s.", refusal.path) : 0,
				 errhint("Register the template under a higher version with a valid schema.")));
	return schema;
}

/* The compiled schema of a template, or NULL; good until definitions change. */
static JsonSchema *
FindContextSchema(const Template *template)
{
	SchemaKey	key = {template->named_task_id, template->revision};
	CachedSchema *entry;
	JsonSchema *schema;

	RefreshContextSchemas();
	entry = hash_search(cache, &key, HASH_FIND, NULL);
	if (entry != NULL)
		return entry->schema;
	schema = ReadContextSchema(template);
	entry = hash_search(cache, &key, HASH_ENTER, NULL);
	entry->schema = schema;
	return schema;
}

/* The violations as lines of a message. */
static char *
TellViolations(const Violations *violations)
{
	StringInfoData text;

	initStringInfo(&text);
	for (int i = 0; i < Min(violations->n, VIOLATIONS_TOLD); i++)
	{
		const Violation *violation = &violations->list[i];

		if (i > 0)
			appendStringInfoChar(&text, '\n');
		if (violation->path[0] != '\0')
			appendStringInfo(&text, "%s: ", violation->path);
		appendStringInfoString(&text, violation->problem);
	}
	if (violations->n > VIOLATIONS_TOLD)
		appendStringInfo(&text, "\nand %s%d more", violations->n >= JSON_MAX_PROBLEMS ? "at least " : "",
						 violations->n - VIOLATIONS_TOLD);
	return text.data;
}

Jsonb *
ConformContext(const Template *template, Jsonb *context, int number)
{
	JsonSchema *schema = FindContextSchema(template);
	Violations *violations;

	if (schema == NULL)
		return context;
	violations = FindViolations(schema, context, true);
	if (violations->n > 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 number > 0 ?
				 errmsg("context of task request %d does not match the schema of template \"%s\"",
						number, template->full_name) :
				 errmsg("context does not match the schema of template \"%s\"", template->full_name),
				 errdetail("%s", TellViolations(violations)),
				 errhint("tasker.validate_context() tries a context without creating a task.")));
	return violations->with_defaults ? violations->with_defaults : context;
}

PG_FUNCTION_INFO_V1(tasker_validate_context);

Datum
tasker_validate_context(PG_FUNCTION_ARGS)
{
	Violations	none = {0};
	QueryScope	scope;
	const Template *template;
	JsonSchema *schema;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1) || PG_ARGISNULL(2))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("name and namespace of a template and the context must not be null")));
	if (!JB_ROOT_IS_OBJECT(PG_GETARG_JSONB_P(1)))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the context of a task must be a JSON object")));
	OpenReadingScope(&scope);
	RefreshTemplates();
	template = GetTemplate(text_to_cstring(PG_GETARG_TEXT_PP(2)), text_to_cstring(PG_GETARG_TEXT_PP(0)),
						   PG_ARGISNULL(3) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(3)));
	schema = FindContextSchema(template);
	ReturnViolations(fcinfo, schema ? FindViolations(schema, PG_GETARG_JSONB_P(1), true) : &none);
	CloseQueryScope(&scope);
	return (Datum) 0;
}
