/*
 * request.c
 *		What a creator asks for: the arguments of create_task, or one of the
 *		objects given to create_tasks.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "rules/document.h"
#include "rules/traceparent.h"
#include "run/move.h"
#include "run/request.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"

#define MAX_TASK_PRIORITY 10000
#define MAX_TAGS 1000
/* An entry of the index of tags has 2,704 bytes at most, a character up to 4. */
#define MAX_TAG_LENGTH 512

static const MemberRule request_rules[] = {
	{"name", MEMBER_STRING, true, 1, 64},
	{"context", MEMBER_OBJECT, false},
	{"namespace", MEMBER_STRING, false, 1, 64},
	{"version", MEMBER_STRING, false, 1, 32},
	{"initiator", MEMBER_STRING, false, 0, 128},
	{"source_system", MEMBER_STRING, false, 0, 128},
	{"reason", MEMBER_STRING, false, 0, 128},
	{"tags", MEMBER_STRINGS, false, 0, MAX_TAG_LENGTH},
	{"bypass_steps", MEMBER_STRINGS, false, 1, 128},
	{"identity_key", MEMBER_STRING, false, 1, 512},
	{"priority", MEMBER_NUMBER, false, -MAX_TASK_PRIORITY, MAX_TASK_PRIORITY, true},
	{"requested_at", MEMBER_STRING, false, 1, 64},
	{"traceparent", MEMBER_STRING, false, 0, 256},
	{NULL}
};

static char **
StringsOfArray(ArrayType *array, const char *what, int *n)
{
	Datum	   *elements;
	bool	   *nulls;
	char	  **strings;

	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &elements, &nulls, n);
	strings = palloc(sizeof(char *) * Max(*n, 1));
	for (int i = 0; i < *n; i++)
	{
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("%s of a task must not contain null", what)));
		strings[i] = TextDatumGetCString(elements[i]);
	}
	return strings;
}

static char **
StringsOfMember(JsonbContainer *object, const char *key, int *n)
{
	JsonbValue *value = Member(object, key);
	char	  **strings;

	*n = value ? JsonContainerSize(value->val.binary.data) : 0;
	strings = palloc(sizeof(char *) * Max(*n, 1));
	for (int i = 0; i < *n; i++)
		strings[i] = StringOf(getIthJsonbValueFromContainer(value->val.binary.data, i));
	return strings;
}

static void
CheckTagCount(int n)
{
	if (n > MAX_TAGS)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a task can have at most %d tags, not %d", MAX_TAGS, n)));
}

static void
CheckContext(Jsonb *context)
{
	CheckDocumentSize(JsonbPGetDatum(context), MAX_CONTENT_BYTES, "the context of a task");
	if (!JB_ROOT_IS_OBJECT(context))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the context of a task must be a JSON object")));
}

static char *
TextArgument(FunctionCallInfo fcinfo, int number, const char *otherwise)
{
	if (PG_ARGISNULL(number))
		return otherwise ? pstrdup(otherwise) : NULL;
	return text_to_cstring(PG_GETARG_TEXT_PP(number));
}

static void
CheckLength(const char *what, const char *value, int min, int max)
{
	int			length = pg_mbstrlen(value);

	if (length < min || length > max)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the %s of a task must have %d to %d characters, not %d", what, min, max, length)));
}

char **
TagsOfArray(ArrayType *array, int *n)
{
	char	  **tags = StringsOfArray(array, "tags", n);

	CheckTagCount(*n);
	for (int i = 0; i < *n; i++)
		CheckLength("tags", tags[i], 0, MAX_TAG_LENGTH);
	return tags;
}

static void
CheckRequestedAt(TimestampTz requested_at)
{
	if (TIMESTAMP_NOT_FINITE(requested_at))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the requested_at of a task must not be infinite")));
}

/* A traceparent as it is kept; refuses what is none.  NULL stays NULL. */
static char *
CheckedTraceparent(const char *given)
{
	char	   *traceparent = given ? ReadTraceparent(given) : NULL;

	if (given != NULL && traceparent == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the traceparent of a task is not one of W3C Trace Context"),
				 errhint("It looks like 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01, lower-case, and no id is all zeros. Leave out what you cannot vouch for.")));
	return traceparent;
}

/* In version 1.0 create_task has no traceparent. */
TaskRequest
TaskRequestOfArguments(FunctionCallInfo fcinfo)
{
	TaskRequest request = {
		.name = TextArgument(fcinfo, 0, NULL),
		.namespace_name = TextArgument(fcinfo, 2, "default"),
		.version = TextArgument(fcinfo, 3, NULL),
		.initiator = TextArgument(fcinfo, 4, "unknown"),
		.source_system = TextArgument(fcinfo, 5, "unknown"),
		.reason = TextArgument(fcinfo, 6, "unknown"),
		.identity_key = TextArgument(fcinfo, 9, NULL),
		.priority = PG_ARGISNULL(10) ? 0 : PG_GETARG_INT32(10),
		.has_requested_at = !PG_ARGISNULL(11),
		.traceparent = CheckedTraceparent(PG_NARGS() > 12 ? TextArgument(fcinfo, 12, NULL) : NULL),
	};

	if (request.name == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the name of the template must not be null")));
	request.context = PG_ARGISNULL(1) ? DatumGetJsonbP(JsonbOfText("{}")) : PG_GETARG_JSONB_P(1);
	CheckContext(request.context);
	if (!PG_ARGISNULL(7))
		request.tags = TagsOfArray(PG_GETARG_ARRAYTYPE_P(7), &request.tag_count);
	if (!PG_ARGISNULL(8))
		request.bypass_steps = StringsOfArray(PG_GETARG_ARRAYTYPE_P(8), "bypass_steps",
											  &request.bypass_count);
	if (request.priority < -MAX_TASK_PRIORITY || request.priority > MAX_TASK_PRIORITY)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the priority of a task must be between %d and %d",
						-MAX_TASK_PRIORITY, MAX_TASK_PRIORITY)));
	CheckLength("initiator", request.initiator, 0, 128);
	CheckLength("source_system", request.source_system, 0, 128);
	CheckLength("reason", request.reason, 0, 128);
	if (request.identity_key)
		CheckLength("identity_key", request.identity_key, 1, 512);
	if (request.has_requested_at)
	{
		request.requested_at = PG_GETARG_TIMESTAMPTZ(11);
		CheckRequestedAt(request.requested_at);
	}
	return request;
}

/* Names the request in what timestamptz_in complains of. */
static void
TellRequestedAt(void *number)
{
	errcontext("requested_at of task request %d", *(int *) number);
}

static TimestampTz
TimestampOfText(const char *text, int number)
{
	ErrorContextCallback context = {.callback = TellRequestedAt,.arg = &number,.previous = error_context_stack};
	TimestampTz value;

	error_context_stack = &context;
	value = DatumGetTimestampTz(DirectFunctionCall3(timestamptz_in, CStringGetDatum(text),
													ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
	CheckRequestedAt(value);
	error_context_stack = context.previous;
	return value;
}

TaskRequest
TaskRequestOfDocument(Jsonb *document, int number)
{
	DocumentReader reader = {.subject = psprintf("task request %d", number)};
	JsonbContainer *object = &document->root;
	JsonbValue *context;
	char	   *requested_at;
	TaskRequest request;

	if (!JB_ROOT_IS_OBJECT(document))
		ComplainOf(&reader, "it must be an object");
	CheckMembers(&reader, object, request_rules);
	context = Member(object, "context");
	requested_at = StringMember(object, "requested_at", NULL);
	request = (TaskRequest)
	{
		.name = StringMember(object, "name", NULL),
			.number = number,
			.namespace_name = StringMember(object, "namespace", "default"),
			.version = StringMember(object, "version", NULL),
			.context = context ? JsonbValueToJsonb(context) : DatumGetJsonbP(JsonbOfText("{}")),
			.initiator = StringMember(object, "initiator", "unknown"),
			.source_system = StringMember(object, "source_system", "unknown"),
			.reason = StringMember(object, "reason", "unknown"),
			.identity_key = StringMember(object, "identity_key", NULL),
			.priority = (int) NumberMember(object, "priority", 0),
			.has_requested_at = requested_at != NULL,
			.requested_at = requested_at ? TimestampOfText(requested_at, number) : 0,
			.traceparent = CheckedTraceparent(StringMember(object, "traceparent", NULL)),
	};
	CheckContext(request.context);
	request.tags = StringsOfMember(object, "tags", &request.tag_count);
	CheckTagCount(request.tag_count);
	request.bypass_steps = StringsOfMember(object, "bypass_steps", &request.bypass_count);
	return request;
}
