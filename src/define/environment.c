/*
 * environment.c
 *		What a template says differently for one environment.
 */
#include "postgres.h"

#include "define/environment.h"
#include "miscadmin.h"

/* The overrides of one step. */
typedef struct StepOverride
{
	char	   *name;
	JsonbContainer *object;
	bool		used;
} StepOverride;

static JsonbContainer *
ObjectIn(const JsonbValue *value)
{
	if (value->type != jbvBinary || !JsonContainerIsObject(value->val.binary.data))
		return NULL;
	return value->val.binary.data;
}

static bool
IsAmong(const JsonbValue *key, const char *const *names)
{
	while (*names != NULL &&
		   (strlen(*names) != key->val.string.len || memcmp(*names, key->val.string.val, key->val.string.len) != 0))
		names++;
	return *names != NULL;
}

static const char *const no_keys[] = {NULL};

/* Pushes the members of an object with their overrides, but those of some keys. */
static void
PushMembers(JsonbParseState **state, JsonbContainer *object, JsonbContainer *overrides, const char *const *except)
{
	JsonbIterator *iterator = JsonbIteratorInit(object);
	JsonbValue	key;
	JsonbValue	value;

	check_stack_depth();
	(void) JsonbIteratorNext(&iterator, &key, true);
	while (JsonbIteratorNext(&iterator, &key, true) == WJB_KEY)
	{
		JsonbValue *override = getKeyJsonValueFromContainer(overrides, key.val.string.val, key.val.string.len, NULL);

		(void) JsonbIteratorNext(&iterator, &value, true);
		if (IsAmong(&key, except))
			continue;
		(void) pushJsonbValue(state, WJB_KEY, &key);
		if (override != NULL && ObjectIn(&value) != NULL && ObjectIn(override) != NULL)
		{
			(void) pushJsonbValue(state, WJB_BEGIN_OBJECT, NULL);
			PushMembers(state, ObjectIn(&value), ObjectIn(override), no_keys);
			(void) pushJsonbValue(state, WJB_END_OBJECT, NULL);
		}
		else
			(void) pushJsonbValue(state, WJB_VALUE, override ? override : &value);
	}
	iterator = JsonbIteratorInit(overrides);
	(void) JsonbIteratorNext(&iterator, &key, true);
	while (JsonbIteratorNext(&iterator, &key, true) == WJB_KEY)
	{
		(void) JsonbIteratorNext(&iterator, &value, true);
		if (IsAmong(&key, except) ||
			getKeyJsonValueFromContainer(object, key.val.string.val, key.val.string.len, NULL) != NULL)
			continue;
		(void) pushJsonbValue(state, WJB_KEY, &key);
		(void) pushJsonbValue(state, WJB_VALUE, &value);
	}
}

static int
CompareOverrides(const void *a, const void *b)
{
	return strcmp(((const StepOverride *) a)->name, ((const StepOverride *) b)->name);
}

/* The overrides of steps, by name. */
static StepOverride *
ReadStepOverrides(const DocumentReader *reader, JsonbContainer *overrides, int *n)
{
	JsonbValue *array = Member(overrides, "step_templates");
	StepOverride *steps;

	if (array->type != jbvBinary || !JsonContainerIsArray(array->val.binary.data))
		ComplainOf(reader, "\"step_templates\" must be an array");
	*n = JsonContainerSize(array->val.binary.data);
	steps = palloc0(sizeof(StepOverride) * Max(*n, 1));
	for (int i = 0; i < *n; i++)
	{
		JsonbContainer *object = ObjectIn(getIthJsonbValueFromContainer(array->val.binary.data, i));
		JsonbValue *name = object ? Member(object, "name") : NULL;

		if (name == NULL || name->type != jbvString)
			ComplainOf(reader, "each of \"step_templates\" must be an object with a \"name\"");
		steps[i].name = StringOf(name);
		steps[i].object = object;
	}
	qsort(steps, *n, sizeof(StepOverride), CompareOverrides);
	for (int i = 1; i < *n; i++)
	{
		if (strcmp(steps[i - 1].name, steps[i].name) == 0)
			ComplainOf(reader, psprintf("step \"%s\" is overridden twice", steps[i].name));
	}
	return steps;
}

/*
 * Pushes the steps of the document, each with its overrides.  One for a step
 * that does not exist is a mistyped name: ignored, as the original did, it
 * would leave production with the configuration of a laptop.
 */
static void
PushSteps(const DocumentReader *reader, JsonbParseState **state, JsonbContainer *document,
		  JsonbContainer *overrides)
{
	JsonbContainer *base = Member(document, "step_templates")->val.binary.data;
	int			n;
	StepOverride *steps = ReadStepOverrides(reader, overrides, &n);

	(void) pushJsonbValue(state, WJB_BEGIN_ARRAY, NULL);
	for (int i = 0; i < JsonContainerSize(base); i++)
	{
		JsonbValue *step = getIthJsonbValueFromContainer(base, i);
		StepOverride wanted = {.name = StringMember(step->val.binary.data, "name", NULL)};
		StepOverride *found = bsearch(&wanted, steps, n, sizeof(StepOverride), CompareOverrides);

		if (found == NULL)
		{
			(void) pushJsonbValue(state, WJB_ELEM, step);
			continue;
		}
		found->used = true;
		(void) pushJsonbValue(state, WJB_BEGIN_OBJECT, NULL);
		PushMembers(state, step->val.binary.data, found->object, no_keys);
		(void) pushJsonbValue(state, WJB_END_OBJECT, NULL);
	}
	(void) pushJsonbValue(state, WJB_END_ARRAY, NULL);
	for (int i = 0; i < n; i++)
	{
		if (!steps[i].used)
			ComplainOf(reader, psprintf("step \"%s\" does not exist", steps[i].name));
	}
}

Jsonb *
MergeEnvironment(const DocumentReader *reader, JsonbContainer *document, JsonbContainer *overrides)
{
	static const char *const identity[] = {"name", "namespace_name", "version", "environments", NULL};
	static const char *const apart[] = {"environments", "step_templates", NULL};
	JsonbParseState *state = NULL;
	JsonbValue	key = {.type = jbvString,.val.string = {strlen("step_templates"), "step_templates"}};

	for (const char *const *name = identity; *name != NULL; name++)
	{
		if (Member(overrides, *name) != NULL)
			ComplainOf(reader, psprintf("an environment cannot have \"%s\"", *name));
	}
	(void) pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	PushMembers(&state, document, overrides, apart);
	(void) pushJsonbValue(&state, WJB_KEY, &key);
	if (Member(overrides, "step_templates") != NULL)
		PushSteps(reader, &state, document, overrides);
	else
		(void) pushJsonbValue(&state, WJB_VALUE, Member(document, "step_templates"));
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}
