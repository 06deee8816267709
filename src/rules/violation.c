/*
 * violation.c
 *		What in a jsonb value violates a JSON Schema: the side of PostgreSQL.
 */
#include "postgres.h"

#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "rules/violation.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"

/* Whether CHECK_FOR_INTERRUPTS() would raise, as far as can be told. */
static bool
IsInterrupted(void)
{
	return (QueryCancelPending || ProcDiePending) && INTERRUPTS_CAN_BE_PROCESSED();
}

static const JsonEnvironment environment = {stack_is_too_deep, IsInterrupted};

pg_noreturn static void
RaiseNoMemory(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_OUT_OF_MEMORY),
			 errmsg("out of memory"),
			 errdetail("Failed while validating JSON.")));
}

/* Raises what an outcome means, unless the work was done or is to be done again. */
static void
CheckOutcome(JsonOutcome outcome, const JsonDocument *document)
{
	switch (outcome)
	{
		case JSON_DONE:
			break;
		case JSON_INTERRUPTED:
			CHECK_FOR_INTERRUPTS();
			break;
		case JSON_NO_MEMORY:
			RaiseNoMemory();
			break;
		case JSON_TOO_DEEP:
			ereport(ERROR,
					(errcode(ERRCODE_STATEMENT_TOO_COMPLEX),
					 errmsg("validation against a JSON Schema reaches too deep"),
					 errdetail("The value is nested too deeply, or the schema refers to itself without end."),
					 errhint("max_stack_depth bounds it.")));
			break;
		case JSON_TOO_COSTLY:
			ereport(ERROR,
					(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
					 errmsg("validation against a JSON Schema is too costly"),
					 errdetail("%s%s%s", JsonProblemPath(document, 0), JsonProblemPath(document, 0)[0] ? ": " : "",
							   JsonProblem(document, 0))));
			break;
		case JSON_REFUSED:
			elog(ERROR, "validation against a JSON Schema failed: %s: %s",
				 JsonProblemPath(document, 0), JsonProblem(document, 0));
			break;
	}
}

/* ---------- from jsonb and back ---------- */

static void
Add(JsonDocument *document, JsonEvent event, const char *text, int length)
{
	char	   *utf8 = text && length > 0 ? pg_server_to_any(text, length, PG_UTF8) : NULL;

	if (utf8 != NULL && utf8 != text)
		length = strlen(utf8);
	if (!AddJson(document, event, utf8 ? utf8 : "", length))
		RaiseNoMemory();
	if (utf8 != NULL && utf8 != text)
		pfree(utf8);
}

static void
AddScalar(JsonDocument *document, const JsonbValue *value)
{
	char	   *number;

	switch (value->type)
	{
		case jbvString:
			Add(document, JSON_STRING, value->val.string.val, value->val.string.len);
			break;
		case jbvNumeric:
			number = DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(value->val.numeric)));
			Add(document, JSON_NUMBER, number, strlen(number));
			pfree(number);
			break;
		case jbvBool:
			Add(document, value->val.boolean ? JSON_TRUE : JSON_FALSE, NULL, 0);
			break;
		default:
			Add(document, JSON_NULL, NULL, 0);
			break;
	}
}

static void
AddValue(JsonDocument *document, Jsonb *jsonb)
{
	JsonbIterator *iterator = JsonbIteratorInit(&jsonb->root);
	bool		is_scalar = JB_ROOT_IS_SCALAR(jsonb);
	JsonbIteratorToken token;
	JsonbValue	value;

	while ((token = JsonbIteratorNext(&iterator, &value, false)) != WJB_DONE)
	{
		switch (token)
		{
			case WJB_BEGIN_OBJECT:
				Add(document, JSON_OBJECT, NULL, 0);
				break;
			case WJB_BEGIN_ARRAY:
				if (!is_scalar)
					Add(document, JSON_ARRAY, NULL, 0);
				break;
			case WJB_KEY:
				Add(document, JSON_KEY, value.val.string.val, value.val.string.len);
				break;
			case WJB_VALUE:
			case WJB_ELEM:
				AddScalar(document, &value);
				break;
			default:
				if (!is_scalar)
					Add(document, JSON_END, NULL, 0);
				break;
		}
	}
}

static char *
ServerText(const char *utf8)
{
	char	   *text = pg_any_to_server(utf8, strlen(utf8), PG_UTF8);

	return text == utf8 ? pstrdup(utf8) : text;
}

static Violation
ViolationOf(const JsonDocument *document, size_t number)
{
	return (Violation)
	{
		.path = ServerText(JsonProblemPath(document, number)),
			.problem = ServerText(JsonProblem(document, number)),
	};
}

/* ---------- compiling ---------- */

static void
FreeCompiled(void *schema)
{
	FreeJsonSchema(schema);
}

/*
 * A schema that leads in a circle does so for nearly every value.  It is
 * tried, as nothing else tells.  NULL where it has an end.
 */
static const char *
TryOut(JsonSchema *schema, JsonDocument *empty)
{
	JsonOutcome outcome;

	Add(empty, JSON_OBJECT, NULL, 0);
	Add(empty, JSON_END, NULL, 0);
	do
	{
		outcome = ValidateJson(schema, empty, true, &environment);
		if (outcome != JSON_TOO_DEEP && outcome != JSON_TOO_COSTLY)
			CheckOutcome(outcome, empty);
	} while (outcome == JSON_INTERRUPTED);
	if (outcome == JSON_TOO_DEEP)
		return "it leads in a circle without end";
	return outcome == JSON_TOO_COSTLY ? JsonProblem(empty, 0) : NULL;
}

JsonSchema *
CompileSchema(Jsonb *jsonb, MemoryContext owner, Violation *refusal)
{
	MemoryContextCallback *callback = MemoryContextAllocZero(owner, sizeof(MemoryContextCallback));
	JsonDocument *volatile document = NewJsonDocument();
	JsonDocument *volatile empty = NewJsonDocument();
	JsonSchema *schema = NULL;
	JsonSchema *volatile result = NULL;
	const char *objection;
	JsonOutcome outcome;

	PG_TRY();
	{
		if (document == NULL || empty == NULL)
			RaiseNoMemory();
		AddValue(document, jsonb);
		do
		{
			outcome = CompileJsonSchema(document, &environment, &schema);
			if (outcome != JSON_REFUSED)
				CheckOutcome(outcome, document);
		} while (outcome == JSON_INTERRUPTED);
		if (outcome == JSON_DONE)
		{
			document = NULL;
			callback->func = FreeCompiled;
			callback->arg = schema;
			MemoryContextRegisterResetCallback(owner, callback);
			objection = TryOut(schema, empty);
			if (objection == NULL)
				result = schema;
			else
				*refusal = (Violation)
			{
				.path = "",.problem = ServerText(objection)
			};
		}
		else
			*refusal = ViolationOf(document, 0);
	}
	PG_FINALLY();
	{
		FreeJsonDocument(document);
		FreeJsonDocument(empty);
	}
	PG_END_TRY();
	return result;
}

/* ---------- validating ---------- */

Violations *
FindViolations(JsonSchema *schema, Jsonb *value, bool insert_defaults)
{
	JsonDocument *document = NewJsonDocument();
	Violations *violations = palloc0(sizeof(Violations));
	JsonOutcome outcome;

	PG_TRY();
	{
		if (document == NULL)
			RaiseNoMemory();
		AddValue(document, value);
		do
		{
			outcome = ValidateJson(schema, document, insert_defaults, &environment);
			CheckOutcome(outcome, document);
		} while (outcome == JSON_INTERRUPTED);
		violations->n = (int) JsonProblems(document);
		violations->list = palloc(sizeof(Violation) * Max(violations->n, 1));
		for (int i = 0; i < violations->n; i++)
			violations->list[i] = ViolationOf(document, i);
		if (JsonWithDefaults(document) != NULL)
			violations->with_defaults =
				DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(ServerText(JsonWithDefaults(document)))));
	}
	PG_FINALLY();
	{
		FreeJsonDocument(document);
	}
	PG_END_TRY();
	return violations;
}

/* ---------- in SQL ---------- */

void
ReturnViolations(FunctionCallInfo fcinfo, const Violations *violations)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;

	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < violations->n; i++)
	{
		Datum		values[2] = {
			CStringGetTextDatum(violations->list[i].path), CStringGetTextDatum(violations->list[i].problem)
		};
		bool		nulls[2] = {false, false};

		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
}

PG_FUNCTION_INFO_V1(tasker_json_schema_violations);

Datum
tasker_json_schema_violations(PG_FUNCTION_ARGS)
{
	Violation	refusal;
	JsonSchema *schema = CompileSchema(PG_GETARG_JSONB_P(0), CurrentMemoryContext, &refusal);

	if (schema == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("JSON Schema is invalid: %s", refusal.problem),
				 refusal.path[0] ? errdetail("At %s.", refusal.path) : 0));
	ReturnViolations(fcinfo, FindViolations(schema, PG_GETARG_JSONB_P(1), false));
	return (Datum) 0;
}
