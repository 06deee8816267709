/*
 * json_schema_memory.cpp
 *		Every allocation of rules/json_schema.cpp fails once: no exception comes
 *		out, nothing is left behind, and the outcome says what happened.
 *
 * Built and run by test/t/014_json_schema.pl.
 */
#include "rules/json_schema.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>

static long allocations;	/* since the start of a run */
static long failing;		/* which of them fails; 0: none */
static long living;
static bool has_failed;

extern "C" void *__libc_malloc(size_t size);
extern "C" void __libc_free(void *pointer);

/* PCRE2 and operator new both come here. */
extern "C" void *
malloc(size_t size)
{
	if (++allocations == failing)
	{
		has_failed = true;
		return nullptr;
	}
	living++;
	return __libc_malloc(size);
}

extern "C" void
free(void *pointer)
{
	if (pointer)
		living--;
	__libc_free(pointer);
}

static bool
Never(void)
{
	return false;
}

static const JsonEnvironment environment = {Never, Never};

/* Builds a document from text with single quotes; enough for what is below. */
static bool
Build(JsonDocument *document, const char *c)
{
	bool		is_key = false;

	for (; *c; c++)
	{
		size_t		length = 1;
		bool		built = true;

		if (*c == '{')
			built = AddJson(document, JSON_OBJECT, "", 0);
		else if (*c == '[')
			built = AddJson(document, JSON_ARRAY, "", 0);
		else if (*c == '}' || *c == ']')
			built = AddJson(document, JSON_END, "", 0);
		else if (*c == 't')
			built = AddJson(document, JSON_TRUE, "", 0), c += 3;
		else if (*c == 'f')
			built = AddJson(document, JSON_FALSE, "", 0), c += 4;
		else if (*c == '\'')
		{
			length = strcspn(c + 1, "'");
			is_key = c[length + 2] == ':';
			built = AddJson(document, is_key ? JSON_KEY : JSON_STRING, c + 1, length);
			c += length + 1;
		}
		else if (strchr("-0123456789", *c))
		{
			length = strspn(c, "-.0123456789");
			built = AddJson(document, JSON_NUMBER, c, length);
			c += length - 1;
		}
		if (!built)
			return false;
	}
	return true;
}

/* Compiles, validates, frees; whether all of it succeeded. */
static bool
Run(const char *schema_text, const char *instance_text, JsonOutcome wanted)
{
	JsonDocument *document = NewJsonDocument();
	JsonDocument *instance = NewJsonDocument();
	JsonSchema *schema = nullptr;
	JsonOutcome outcome = JSON_NO_MEMORY;

	if (document && instance && Build(document, schema_text) && Build(instance, instance_text))
	{
		outcome = CompileJsonSchema(document, &environment, &schema);
		if (outcome == JSON_DONE)
		{
			document = nullptr;
			outcome = ValidateJson(schema, instance, true, &environment);
		}
	}
	FreeJsonDocument(document);
	FreeJsonDocument(instance);
	FreeJsonSchema(schema);
	if (outcome != wanted && outcome != JSON_NO_MEMORY)
	{
		printf("outcome %d when allocation %ld failed\n", outcome, failing);
		exit(1);
	}
	return outcome == wanted;
}

static void
FailEach(const char *schema, const char *instance, JsonOutcome wanted)
{
	long		before;
	long		succeeded = 0;

	failing = 0;
	/* What is kept for good is allocated by a first run. */
	if (!Run(schema, instance, wanted))
	{
		printf("does not run at all: %s\n", schema);
		exit(1);
	}
	before = living;
	do
	{
		allocations = 0;
		has_failed = false;
		failing++;
		succeeded += Run(schema, instance, wanted) && has_failed;
		/* The library forgets the value of an "enum" that it has no room for. */
		if (living - before > 1)
		{
			printf("%ld left behind when allocation %ld failed\n", living - before, failing);
			exit(1);
		}
		before = living;
	} while (has_failed);
	printf("%ld allocations failed, %ld could be done without\n", failing - 1, succeeded);
}

int
main(void)
{
	FailEach("{'type':'object','required':['a','a long name that is allocated on its own'],"
			 "'properties':{'a':{'type':['integer','null'],'minimum':1.5,'maximum':12345678901234567890,'multipleOf':0.1,'default':7},"
			 "'b':{'$ref':'#/definitions/d','default':{'x':[1,'a string that is long enough',true]}}},"
			 "'patternProperties':{'^x':{'enum':[1,'two',{'three':3}],'not':{'const':5}}},'additionalProperties':false,"
			 "'allOf':[{'minProperties':1,'maxProperties':30}],'anyOf':[{'minProperties':100},true],'oneOf':[{},false],"
			 "'if':{'required':['x1']},'then':{'propertyNames':{'maxLength':1,'minLength':0}},'else':false,"
			 "'dependencies':{'a':['z'],'b':{'required':['y']}},"
			 "'definitions':{'d':{'properties':{'x':{'items':[{},{'pattern':'^(a|b)+$'},{'format':'date'}],'additionalItems':false,"
			 "'uniqueItems':true,'contains':{'type':'string'},'minItems':1,'maxItems':2}}}}}",
			 "{'a':3.25,'c':[1,2],'x1':[{'a':1},{'a':1}],'x2':'two'}", JSON_DONE);
	FailEach("{'properties':{'a':{'pattern':'(unbalanced and long enough'}}}", "{}", JSON_REFUSED);
	FailEach("{'properties':{'a':{'type':'no type that is known'}}}", "{}", JSON_REFUSED);
	FailEach("{'pattern':'^(a+)+$'}", "'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab'", JSON_TOO_COSTLY);
	return 0;
}
