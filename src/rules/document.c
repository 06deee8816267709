/*
 * document.c
 *		Reading JSON objects by rules: which keys there are, of which type and
 *		range.
 */
#include "postgres.h"

#include <math.h>

#include "access/detoast.h"
#include "mb/pg_wchar.h"
#include "rules/document.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/numeric.h"

void
ComplainOf(const DocumentReader *reader, const char *problem)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 reader->part ?
			 errmsg("%s is invalid: %s: %s", reader->subject, reader->part, problem) :
			 errmsg("%s is invalid: %s", reader->subject, problem)));
}

JsonbValue *
Member(JsonbContainer *object, const char *key)
{
	return getKeyJsonValueFromContainer(object, key, strlen(key), NULL);
}

char *
StringOf(const JsonbValue *value)
{
	return pnstrdup(value->val.string.val, value->val.string.len);
}

Size
DocumentBytes(Datum jsonb)
{
	return toast_raw_datum_size(jsonb) - VARHDRSZ;
}

void
CheckDocumentSize(Datum jsonb, Size max, const char *what)
{
	if (DocumentBytes(jsonb) > max)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("%s must have at most %zu bytes, not %zu", what, max, DocumentBytes(jsonb)),
				 errhint("Keep what is large elsewhere, and pass on where it is.")));
}

/* The string under a key, or a copy of the default, which may be NULL. */
char *
StringMember(JsonbContainer *object, const char *key, const char *otherwise)
{
	JsonbValue *value = Member(object, key);

	if (value == NULL)
		return otherwise ? pstrdup(otherwise) : NULL;
	return StringOf(value);
}

bool
BooleanMember(JsonbContainer *object, const char *key, bool otherwise)
{
	JsonbValue *value = Member(object, key);

	return value ? value->val.boolean : otherwise;
}

static double
NumberOf(const JsonbValue *value)
{
	return DatumGetFloat8(DirectFunctionCall1(numeric_float8_no_overflow,
											  NumericGetDatum(value->val.numeric)));
}

double
NumberMember(JsonbContainer *object, const char *key, double otherwise)
{
	JsonbValue *value = Member(object, key);

	return value ? NumberOf(value) : otherwise;
}

static void
CheckString(const DocumentReader *reader, const MemberRule *rule, const JsonbValue *value)
{
	int			length;

	if (value->type != jbvString)
		ComplainOf(reader, psprintf(rule->type == MEMBER_STRINGS ?
								  "\"%s\" must be an array of strings" :
								  "\"%s\" must be a string", rule->key));
	length = pg_mbstrlen_with_len(value->val.string.val, value->val.string.len);
	if (length < rule->min || length > rule->max)
		ComplainOf(reader, psprintf("\"%s\" must have %.0f to %.0f characters, not %d",
								  rule->key, rule->min, rule->max, length));
}

static void
CheckNumber(const DocumentReader *reader, const MemberRule *rule, const JsonbValue *value)
{
	double		number;

	if (value->type != jbvNumeric)
		ComplainOf(reader, psprintf("\"%s\" must be a number", rule->key));
	number = NumberOf(value);
	if (rule->whole && number != floor(number))
		ComplainOf(reader, psprintf("\"%s\" must be a whole number", rule->key));
	if (number < rule->min || number > rule->max)
		ComplainOf(reader, psprintf("\"%s\" must be between %.15g and %.15g", rule->key,
								  rule->min, rule->max));
}

static void
CheckMember(const DocumentReader *reader, const MemberRule *rule, JsonbValue *value)
{
	bool		is_array = value->type == jbvBinary && JsonContainerIsArray(value->val.binary.data);
	bool		is_object = value->type == jbvBinary && JsonContainerIsObject(value->val.binary.data);

	switch (rule->type)
	{
		case MEMBER_STRING:
			CheckString(reader, rule, value);
			break;
		case MEMBER_STRINGS:
			if (!is_array)
				ComplainOf(reader, psprintf("\"%s\" must be an array of strings", rule->key));
			for (int i = 0; i < JsonContainerSize(value->val.binary.data); i++)
				CheckString(reader, rule,
							getIthJsonbValueFromContainer(value->val.binary.data, i));
			break;
		case MEMBER_BOOLEAN:
			if (value->type != jbvBool)
				ComplainOf(reader, psprintf("\"%s\" must be true or false", rule->key));
			break;
		case MEMBER_NUMBER:
			CheckNumber(reader, rule, value);
			break;
		case MEMBER_OBJECT:
			if (!is_object)
				ComplainOf(reader, psprintf("\"%s\" must be an object", rule->key));
			break;
		case MEMBER_ARRAY:
			if (!is_array)
				ComplainOf(reader, psprintf("\"%s\" must be an array", rule->key));
			break;
		case MEMBER_ANYTHING:
			break;
	}
}

/* Checks every member of an object against the rules: known, typed, required. */
void
CheckMembers(const DocumentReader *reader, JsonbContainer *object, const MemberRule *rules)
{
	JsonbIterator *iterator = JsonbIteratorInit(object);
	JsonbIteratorToken token;
	JsonbValue	value;

	for (const MemberRule *rule = rules; rule->key != NULL; rule++)
	{
		if (rule->required && Member(object, rule->key) == NULL)
			ComplainOf(reader, psprintf("\"%s\" is missing", rule->key));
	}
	(void) JsonbIteratorNext(&iterator, &value, false);
	while ((token = JsonbIteratorNext(&iterator, &value, true)) == WJB_KEY)
	{
		const MemberRule *rule = rules;
		char	   *key = StringOf(&value);

		while (rule->key != NULL && strcmp(rule->key, key) != 0)
			rule++;
		if (rule->key == NULL)
			ComplainOf(reader, psprintf("unknown key \"%s\"", key));
		(void) JsonbIteratorNext(&iterator, &value, true);
		CheckMember(reader, rule, &value);
	}
}
