/*
 * template_document.c
 *		A template as its author writes it: a jsonb document, checked whole.
 *
 * The keys are those of the original's YAML files, plus priority, timeout and
 * backoff of a step.  Unknown keys are refused: a mistyped "depend_on_step"
 * that is silently ignored would run steps out of order.
 */
#include "postgres.h"

#include "define/environment.h"
#include "define/event.h"
#include "define/template_document.h"
#include "define/waiting_step.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pg/guc.h"
#include "rules/document.h"
#include "rules/version.h"
#include "rules/violation.h"
#include "utils/hsearch.h"

#define MAX_STEPS 100000
#define MAX_EDGES 1000000
#define MAX_ENVIRONMENTS 100

/* Custom events of one step. */
#define MAX_EVENTS 1000

#define MAX_ENVIRONMENT_NAME 64

static const MemberRule template_rules[] = {
	{"name", MEMBER_STRING, true, 1, 64},
	{"namespace_name", MEMBER_STRING, false, 1, 64},
	{"version", MEMBER_STRING, false, 1, 32},
	{"description", MEMBER_STRING, false, 0, 10000},
	{"task_handler_class", MEMBER_STRING, false, 0, 256},
	{"module_namespace", MEMBER_STRING, false, 0, 256},
	{"concurrent", MEMBER_BOOLEAN, false},
	{"default_dependent_system", MEMBER_STRING, false, 1, 64},
	{"named_steps", MEMBER_STRINGS, false, 1, 128},
	{"schema", MEMBER_OBJECT, false},
	{"environments", MEMBER_OBJECT, false},
	{"coordinator_strategy", MEMBER_STRING, false, 1, 130},
	{"reenqueuer_strategy", MEMBER_STRING, false, 1, 130},
	{"identity_strategy", MEMBER_STRING, false, 1, 130},
	{"backoff_strategy", MEMBER_STRING, false, 1, 130},
	{"step_templates", MEMBER_ARRAY, true},
	{NULL}
};

static const MemberRule step_rules[] = {
	{"name", MEMBER_STRING, true, 1, 128},
	{"handler_class", MEMBER_STRING, false, 1, 256},
	{"sleep", MEMBER_OBJECT, false},
	{"await_event", MEMBER_OBJECT, false},
	{"description", MEMBER_STRING, false, 0, 10000},
	{"dependent_system", MEMBER_STRING, false, 1, 64},
	{"depends_on_step", MEMBER_STRING, false, 1, 128},
	{"depends_on_steps", MEMBER_STRINGS, false, 1, 128},
	{"default_retryable", MEMBER_BOOLEAN, false},
	{"default_retry_limit", MEMBER_NUMBER, false, 0, 10000, true},
	{"skippable", MEMBER_BOOLEAN, false},
	{"handler_config", MEMBER_OBJECT, false},
	{"custom_events", MEMBER_ARRAY, false},
	{"priority", MEMBER_NUMBER, false, -1000, 1000, true},
	{"timeout_seconds", MEMBER_NUMBER, false, 1, 31536000, true},
	{"backoff_base_seconds", MEMBER_NUMBER, false, 0, 31536000},
	{"backoff_cap_seconds", MEMBER_NUMBER, false, 0, 31536000},
	{"backoff_jitter", MEMBER_NUMBER, false, 0, 1},
	{NULL}
};

static const MemberRule event_rules[] = {
	{"name", MEMBER_STRING, true, 1, 1000},
	{"description", MEMBER_STRING, false, 0, 10000},
	{NULL}
};

/* Reads the "custom_events" of a step. */
static void
ReadEvents(DocumentReader *reader, JsonbContainer *array, DocumentStep *step)
{
	step->event_count = JsonContainerSize(array);
	if (step->event_count > MAX_EVENTS)
		ComplainOf(reader, psprintf("it has more than %d custom events", MAX_EVENTS));
	step->events = palloc0(sizeof(DocumentEvent) * Max(step->event_count, 1));
	for (int i = 0; i < step->event_count; i++)
	{
		JsonbValue *value = getIthJsonbValueFromContainer(array, i);
		DocumentEvent *event = &step->events[i];
		const char *problem;

		if (value->type != jbvBinary || !JsonContainerIsObject(value->val.binary.data))
			ComplainOf(reader, "each of \"custom_events\" must be an object");
		CheckMembers(reader, value->val.binary.data, event_rules);
		event->name = StringMember(value->val.binary.data, "name", NULL);
		event->description = StringMember(value->val.binary.data, "description", NULL);
		problem = EventNameProblem(event->name);
		if (problem != NULL)
			ComplainOf(reader, psprintf("event name \"%s\" is invalid: %s", event->name, problem));
		for (int other = 0; other < i; other++)
		{
			if (strcmp(step->events[other].name, event->name) == 0)
				ComplainOf(reader, psprintf("event \"%s\" is defined twice", event->name));
		}
	}
}

/* The schema of the contexts must be one: nobody wants to learn it from the first task. */
static void
CheckContextSchema(DocumentReader *reader, JsonbContainer *root)
{
	JsonbValue *schema = Member(root, "schema");
	Violation	refusal;

	if (schema == NULL || CompileSchema(JsonbValueToJsonb(schema), CurrentMemoryContext, &refusal) != NULL)
		return;
	reader->part = psprintf("schema%s%s", refusal.path[0] ? " at " : "", refusal.path);
	ComplainOf(reader, refusal.problem);
}

static void
ReadStep(DocumentReader *reader, JsonbValue *value, const char *default_system, DocumentStep *step)
{
	JsonbContainer *object;
	JsonbValue *config;

	if (value->type != jbvBinary || !JsonContainerIsObject(value->val.binary.data))
		ComplainOf(reader, "each of \"step_templates\" must be an object");
	object = value->val.binary.data;
	if (Member(object, "name") == NULL || Member(object, "name")->type != jbvString)
		ComplainOf(reader, "each of \"step_templates\" must have a \"name\"");
	step->name = StringMember(object, "name", NULL);
	reader->part = psprintf("step \"%s\"", step->name);
	CheckMembers(reader, object, step_rules);

	step->description = StringMember(object, "description", step->name);
	step->dependent_system = StringMember(object, "dependent_system", default_system);
	step->waits_for = ReadWaitingStep(reader, object);
	if (step->waits_for == NULL && Member(object, "handler_class") == NULL)
		ComplainOf(reader, "\"handler_class\" is missing");
	step->handler_class = step->waits_for ? WaitingHandler(step->waits_for) : StringMember(object, "handler_class", NULL);
	step->retryable = BooleanMember(object, "default_retryable", step->waits_for == NULL);
	step->retry_limit = (int32) NumberMember(object, "default_retry_limit", step->waits_for ? 1 : 3);
	step->skippable = BooleanMember(object, "skippable", false);
	step->priority = (int16) NumberMember(object, "priority", 0);
	step->timeout_seconds = (int32) NumberMember(object, "timeout_seconds", 0);
	step->backoff_base_seconds = NumberMember(object, "backoff_base_seconds", -1);
	step->backoff_cap_seconds = NumberMember(object, "backoff_cap_seconds", -1);
	step->backoff_jitter = NumberMember(object, "backoff_jitter", -1);
	config = Member(object, "handler_config");
	step->handler_config = config ? JsonbValueToJsonb(config) : NULL;
	if (Member(object, "custom_events") != NULL)
		ReadEvents(reader, Member(object, "custom_events")->val.binary.data, step);
	reader->part = NULL;
}

typedef struct StepIndex
{
	char		name[128 * MAX_MULTIBYTE_CHAR_LEN + 1];
	int			index;
} StepIndex;

/* Steps by name; two of one name are refused. */
static HTAB *
IndexSteps(DocumentReader *reader, const TemplateDocument *document)
{
	HASHCTL		control = {.keysize = sizeof(((StepIndex *) NULL)->name),
		.entrysize = sizeof(StepIndex), .hcxt = CurrentMemoryContext};
	HTAB	   *by_name = hash_create("steps of a template", document->step_count, &control,
									  HASH_ELEM | HASH_STRINGS | HASH_CONTEXT);

	for (int i = 0; i < document->step_count; i++)
	{
		bool		found;
		StepIndex  *entry = hash_search(by_name, document->steps[i].name, HASH_ENTER, &found);

		if (found)
			ComplainOf(reader, psprintf("step \"%s\" is defined twice", document->steps[i].name));
		entry->index = i;
	}
	return by_name;
}

/* Adds an edge unless this dependent has it already (last_dependent says so). */
static void
AddEdge(DocumentReader *reader, TemplateDocument *document, HTAB *by_name, int *room,
		int *last_dependent, const JsonbValue *parent, int dependent)
{
	char	   *name = StringOf(parent);
	StepIndex  *entry = hash_search(by_name, name, HASH_FIND, NULL);

	reader->part = psprintf("step \"%s\"", document->steps[dependent].name);
	if (entry == NULL)
		ComplainOf(reader, psprintf("it depends on step \"%s\", which does not exist", name));
	if (entry->index == dependent)
		ComplainOf(reader, "it depends on itself");
	reader->part = NULL;
	if (last_dependent[entry->index] == dependent)
		return;
	last_dependent[entry->index] = dependent;
	if (document->edge_count == MAX_EDGES)
		ComplainOf(reader, psprintf("it has more than %d dependencies", MAX_EDGES));
	if (document->edge_count == *room)
	{
		*room *= 2;
		document->edges = repalloc_huge(document->edges, sizeof(GraphEdge) * *room);
	}
	document->edges[document->edge_count++] = (GraphEdge)
	{
		.from = entry->index,.to = dependent
	};
}

static void
ReadEdges(DocumentReader *reader, TemplateDocument *document, JsonbContainer *step_templates, HTAB *by_name)
{
	int			room = document->step_count + 1;
	int		   *last_dependent = palloc(sizeof(int) * document->step_count);

	memset(last_dependent, -1, sizeof(int) * document->step_count);
	document->edges = palloc(sizeof(GraphEdge) * room);
	for (int i = 0; i < document->step_count; i++)
	{
		JsonbContainer *object = getIthJsonbValueFromContainer(step_templates, i)->val.binary.data;
		JsonbValue *one = Member(object, "depends_on_step");
		JsonbValue *many = Member(object, "depends_on_steps");

		if (one != NULL)
			AddEdge(reader, document, by_name, &room, last_dependent, one, i);
		for (int p = 0; many != NULL && p < JsonContainerSize(many->val.binary.data); p++)
			AddEdge(reader, document, by_name, &room, last_dependent,
					getIthJsonbValueFromContainer(many->val.binary.data, p), i);
	}
}

/* Where "named_steps" is given, every step must be in it. */
static void
CheckNamedSteps(DocumentReader *reader, TemplateDocument *document, JsonbContainer *root)
{
	JsonbValue *named_steps = Member(root, "named_steps");

	if (named_steps == NULL)
		return;
	for (int i = 0; i < document->step_count; i++)
	{
		JsonbValue	name = {.type = jbvString};

		CHECK_FOR_INTERRUPTS();
		name.val.string.val = document->steps[i].name;
		name.val.string.len = strlen(document->steps[i].name);
		if (findJsonbValueFromContainer(named_steps->val.binary.data, JB_FARRAY, &name) == NULL)
			ComplainOf(reader, psprintf("step \"%s\" is not in \"named_steps\"",
									  document->steps[i].name));
	}
}

/* Steps that wait are begun and ended by the orchestrator: nobody else does it. */
static void
CheckWaitingSteps(DocumentReader *reader, const TemplateDocument *document)
{
	const char *coordinator = document->strategies[STRATEGY_COORDINATOR];

	for (int i = 0; i < document->step_count; i++)
	{
		if (document->steps[i].waits_for == NULL ||
			strcmp(coordinator, DefaultStrategy(STRATEGY_COORDINATOR)) == 0)
			continue;
		reader->part = psprintf("step \"%s\"", document->steps[i].name);
		ComplainOf(reader, psprintf("it waits, which only the orchestrator can have it do, not coordinator \"%s\"", coordinator));
	}
}

/* Names a template, and the environment if its overrides are in it. */
static const char *
SubjectOf(const char *name, const char *environment)
{
	return environment ? psprintf("template \"%s\" in environment \"%s\"", name, environment) :
		psprintf("template \"%s\"", name);
}

/* Reads a document into which the overrides of an environment, if any, are merged. */
static TemplateDocument *
ReadMerged(Jsonb *jsonb, char *environment)
{
	JsonbContainer *root = &jsonb->root;
	TemplateDocument *document = palloc0(sizeof(TemplateDocument));
	DocumentReader reader = {.subject = "template"};
	JsonbContainer *step_templates;
	char	   *default_system;
	int			on_cycle;

	if (!JsonContainerIsObject(root) || JsonContainerIsScalar(root))
		ComplainOf(&reader, "it must be an object");
	if (Member(root, "name") != NULL && Member(root, "name")->type == jbvString)
		reader.subject = SubjectOf(StringMember(root, "name", NULL), environment);
	CheckMembers(&reader, root, template_rules);
	document->environment = environment;
	document->content = jsonb;
	document->name = StringMember(root, "name", NULL);
	document->namespace_name = StringMember(root, "namespace_name", "default");
	document->version = StringMember(root, "version", "0.1.0");
	document->description = StringMember(root, "description", NULL);
	document->full_name = psprintf("%s.%s@%s", document->namespace_name, document->name,
								   document->version);
	reader.subject = SubjectOf(document->full_name, environment);
	if (!IsVersion(document->version))
		ComplainOf(&reader, psprintf("\"version\" must be three numbers like \"1.0.0\", not \"%s\"",
								   document->version));
	CheckContextSchema(&reader, root);
	document->concurrent = BooleanMember(root, "concurrent", true);
	for (StrategyRole role = 0; role < STRATEGY_ROLES; role++)
		document->strategies[role] = StringMember(root, StrategyKey(role), DefaultStrategy(role));

	default_system = StringMember(root, "default_dependent_system", "unknown");
	step_templates = Member(root, "step_templates")->val.binary.data;
	document->step_count = JsonContainerSize(step_templates);
	if (document->step_count == 0)
		ComplainOf(&reader, "it has no steps");
	if (document->step_count > MAX_STEPS)
		ComplainOf(&reader, psprintf("it has more than %d steps", MAX_STEPS));
	document->steps = palloc0(sizeof(DocumentStep) * document->step_count);
	for (int i = 0; i < document->step_count; i++)
		ReadStep(&reader, getIthJsonbValueFromContainer(step_templates, i), default_system,
				 &document->steps[i]);
	CheckWaitingSteps(&reader, document);
	CheckNamedSteps(&reader, document, root);
	ReadEdges(&reader, document, step_templates, IndexSteps(&reader, document));

	document->order = palloc(sizeof(int) * document->step_count);
	on_cycle = TopologicalOrder(document->step_count, document->edges, document->edge_count,
								document->order);
	if (on_cycle >= 0)
	{
		reader.part = psprintf("step \"%s\"", document->steps[on_cycle].name);
		ComplainOf(&reader, "its dependencies lead in a circle back to itself");
	}
	return document;
}

TemplateDocument *
ReadTemplateDocument(Jsonb *jsonb)
{
	TemplateDocument *base = ReadMerged(jsonb, NULL);
	TemplateDocument *in_force = base;
	DocumentReader whole = {.subject = SubjectOf(base->full_name, NULL)};
	JsonbValue *environments = Member(&jsonb->root, "environments");
	JsonbIterator *iterator;
	JsonbValue	key;
	JsonbValue	overrides;

	if (environments == NULL)
		return base;
	if (JsonContainerSize(environments->val.binary.data) > MAX_ENVIRONMENTS)
		ComplainOf(&whole, psprintf("it has more than %d environments", MAX_ENVIRONMENTS));
	iterator = JsonbIteratorInit(environments->val.binary.data);
	(void) JsonbIteratorNext(&iterator, &key, true);
	while (JsonbIteratorNext(&iterator, &key, true) == WJB_KEY)
	{
		char	   *environment = StringOf(&key);
		DocumentReader reader = {.subject = SubjectOf(base->full_name, environment)};
		TemplateDocument *document;

		(void) JsonbIteratorNext(&iterator, &overrides, true);
		/* The empty name is the setting's for none. */
		if (environment[0] == '\0' || pg_mbstrlen(environment) > MAX_ENVIRONMENT_NAME)
			ComplainOf(&reader, psprintf("the name of an environment must have 1 to %d characters", MAX_ENVIRONMENT_NAME));
		/* An environment under which nothing is written says nothing. */
		if (overrides.type == jbvNull)
			continue;
		if (overrides.type != jbvBinary || !JsonContainerIsObject(overrides.val.binary.data))
			ComplainOf(&reader, "it must be an object");
		document = ReadMerged(MergeEnvironment(&reader, &jsonb->root, overrides.val.binary.data), environment);
		if (strcmp(environment, tasker_environment) == 0)
			in_force = document;
	}
	if (in_force == base && tasker_environment[0] != '\0')
		ereport(NOTICE,
				(errmsg("template \"%s\" says nothing of environment \"%s\": it is registered as it stands",
						base->full_name, tasker_environment)));
	return in_force;
}
