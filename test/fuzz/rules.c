/*
 * rules.c
 *		The pure rules under libFuzzer, inside of a backend.
 *
 * They stand on jsonb, numeric and memory contexts, so the backend itself is
 * the harness: ./run fuzz --rules builds the library with this file in it, and
 * a single-user server calls tasker_fuzz_rules(target, arguments of libFuzzer).
 * An input may be refused, by an error that is meant for users; whatever else
 * happens is a finding: an internal error, a crash, a report of a sanitizer, a
 * wrong answer, an input that takes longer than SLOW_SECONDS.
 */
#include "postgres.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "define/template_document.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "portability/instr_time.h"
#include "rules/path.h"
#include "rules/retry.h"
#include "rules/state.h"
#include "rules/version.h"
#include "rules/violation.h"
#include "rules/yaml_document.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"

/* With the sanitizers in force. */
#define SLOW_SECONDS 20

/* What separates a schema from a value: no JSON text has it. */
#define SEPARATOR '\x1f'

extern int	LLVMFuzzerRunDriver(int *argc, char ***argv, int (*callback) (const uint8 *data, size_t size));

static MemoryContext input_context;
static void (*run_target) (const char *data, size_t size);

/* Ends the process in the way that makes libFuzzer keep the input. */
#define REQUIRE(condition) \
	do { \
		if (!(condition)) \
		{ \
			fprintf(stderr, "FINDING: %s does not hold (line %d)\n", #condition, __LINE__); \
			abort(); \
		} \
	} while (0)

static Jsonb *
JsonbOf(const char *data, size_t size)
{
	return DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(pnstrdup(data, size))));
}

/* ---------- documents ---------- */

/* What is read from YAML is a jsonb like any other: its text means the same. */
static void
RunYaml(const char *data, size_t size)
{
	Jsonb	   *value = JsonbOfYaml(cstring_to_text_with_len(data, size));
	char	   *text = JsonbToCString(NULL, &value->root, VARSIZE(value));

	REQUIRE(compareJsonbContainers(&value->root, &JsonbOf(text, strlen(text))->root) == 0);
}

static void
RunTemplate(const char *data, size_t size)
{
	TemplateDocument *document = ReadTemplateDocument(JsonbOfYaml(cstring_to_text_with_len(data, size)));
	int		   *place = palloc(sizeof(int) * Max(document->step_count, 1));

	memset(place, -1, sizeof(int) * document->step_count);
	for (int i = 0; i < document->step_count; i++)
		place[document->order[i]] = i;
	for (int i = 0; i < document->step_count; i++)
		REQUIRE(place[i] >= 0);
	for (int e = 0; e < document->edge_count; e++)
		REQUIRE(place[document->edges[e].from] < place[document->edges[e].to]);
}

/* A schema, a separator, a value; defaults are inserted once, not twice. */
static void
RunSchema(const char *data, size_t size)
{
	const char *separator = memchr(data, SEPARATOR, size);
	Violation	refusal;
	JsonSchema *schema;
	Jsonb	   *value;
	Violations *violations;

	if (separator == NULL)
		return;
	schema = CompileSchema(JsonbOf(data, separator - data), input_context, &refusal);
	value = JsonbOf(separator + 1, data + size - separator - 1);
	if (schema == NULL)
		return;
	violations = FindViolations(schema, value, false);
	REQUIRE(violations->with_defaults == NULL);
	REQUIRE(FindViolations(schema, value, false)->n == violations->n);
	violations = FindViolations(schema, value, true);
	if (violations->with_defaults != NULL && violations->n < JSON_MAX_PROBLEMS)
		REQUIRE(FindViolations(schema, violations->with_defaults, false)->n == violations->n);
}

/* ---------- graphs ---------- */

#define MAX_NODES 64

/*
 * The first byte is the number of nodes, each two that follow are an edge.
 * The simplest algorithms there are say what is right.
 */
static void
RunGraph(const char *data, size_t size)
{
	Graph		graph = {.n = size > 0 ? (unsigned char) data[0] % (MAX_NODES + 1) : 0};
	int			n = graph.n;
	GraphEdge  *edges = palloc(sizeof(GraphEdge) * Max(size, 1));
	bool		reaches[MAX_NODES][MAX_NODES] = {{false}};
	bool		marked[MAX_NODES];
	double		weights[MAX_NODES];
	int32		reachable[MAX_NODES];
	int32		reachable_marked[MAX_NODES];
	int			shortest[MAX_NODES];
	int			longest[MAX_NODES];
	int			place[MAX_NODES];
	Path		paths[3];
	int			on_cycle;
	int			found;

	for (size_t i = 1; n > 0 && i + 1 < size; i += 2)
		edges[graph.edge_count++] = (GraphEdge)
	{
		(unsigned char) data[i] % n, (unsigned char) data[i + 1] % n
	};
	for (int e = 0; e < graph.edge_count; e++)
		reaches[edges[e].from][edges[e].to] = true;
	for (int k = 0; k < n; k++)
		for (int i = 0; i < n; i++)
			for (int j = 0; j < n; j++)
				reaches[i][j] |= reaches[i][k] && reaches[k][j];
	for (int i = 0; i < n; i++)
	{
		marked[i] = i % 3 == 0;
		weights[i] = 1 + i % 5;
	}

	graph.order = palloc(sizeof(int) * Max(n, 1));
	on_cycle = TopologicalOrder(n, edges, graph.edge_count, graph.order);
	if (on_cycle >= 0)
	{
		REQUIRE(on_cycle < n && reaches[on_cycle][on_cycle]);
		return;
	}
	for (int i = 0; i < n; i++)
	{
		REQUIRE(!reaches[i][i]);
		place[graph.order[i]] = i;
	}
	graph.dependents = ListDependents(n, edges, graph.edge_count);
	GraphDepths(&graph, shortest, longest);
	CountReachable(&graph, marked, reachable, reachable_marked);
	for (int e = 0; e < graph.edge_count; e++)
	{
		REQUIRE(place[edges[e].from] < place[edges[e].to]);
		REQUIRE(longest[edges[e].to] > longest[edges[e].from]);
		REQUIRE(shortest[edges[e].to] <= shortest[edges[e].from] + 1);
	}
	for (int i = 0; i < n; i++)
	{
		int			count = 0;
		int			count_marked = 0;

		for (int j = 0; j < n; j++)
		{
			count += reaches[i][j];
			count_marked += reaches[i][j] && marked[j];
		}
		REQUIRE(reachable[i] == count && reachable_marked[i] == count_marked);
	}
	found = HeaviestPaths(&graph, weights, lengthof(paths), paths);
	REQUIRE(n == 0 ? found == 0 : found >= 1);
	for (int p = 0; p < found; p++)
	{
		double		weight = 0;

		REQUIRE(p == 0 || paths[p].weight <= paths[p - 1].weight);
		for (int i = 0; i < paths[p].length; i++)
		{
			weight += weights[paths[p].nodes[i]];
			REQUIRE(i == 0 || reaches[paths[p].nodes[i - 1]][paths[p].nodes[i]]);
		}
		REQUIRE(weight == paths[p].weight);
	}
}

/* ---------- what is small ---------- */

/* Versions, labels of states, names of growths, backoffs. */
static void
RunSmall(const char *data, size_t size)
{
	char	   *text = pnstrdup(data, size);
	int			part[3];
	int			end = 0;
	double		numbers[4] = {0};
	BackoffPolicy policy = {.growth = BackoffGrowthOf(text)};
	TaskerState state = StateOfLabel(text);

	if (IsVersion(text))
	{
		REQUIRE(sscanf(text, "%d.%d.%d%n", &part[0], &part[1], &part[2], &end) == 3);
		REQUIRE(end == strlen(text) && strcmp(psprintf("%d.%d.%d", part[0], part[1], part[2]), text) == 0);
	}
	REQUIRE(state == STATE_NONE || strcmp(StateLabel(state), text) == 0);

	/* As a template can have them: not negative, up to a year, jitter up to 1. */
	memcpy(numbers, data, Min(size, sizeof(numbers)));
	for (int i = 0; i < lengthof(numbers); i++)
		numbers[i] = isfinite(numbers[i]) ? fmod(fabs(numbers[i]), i < 2 ? 31536000 : 1) : 31536000;
	policy.base_seconds = numbers[0];
	policy.cap_seconds = numbers[1];
	policy.jitter = Min(numbers[2], 1);
	for (int attempts = 1; attempts < 10000; attempts *= 3)
	{
		double		wait = BackoffSeconds(&policy, attempts, Min(numbers[3], 0.999));

		REQUIRE(wait >= 0 && wait <= policy.cap_seconds);
	}
}

/* ---------- libFuzzer ---------- */

/* Whether an error is meant for users: bad input, a limit, too deep a value. */
static bool
IsRefusal(int sqlerrcode)
{
	int			category = ERRCODE_TO_CATEGORY(sqlerrcode);

	return category == ERRCODE_DATA_EXCEPTION || category == ERRCODE_PROGRAM_LIMIT_EXCEEDED ||
		sqlerrcode == ERRCODE_UNTRANSLATABLE_CHARACTER || sqlerrcode == ERRCODE_INVALID_NAME;
}

static int
RunInput(const uint8 *data, size_t size)
{
	volatile bool refused = false;
	instr_time	begin;
	instr_time	duration;

	/* No other bytes are ever passed to a function as text. */
	if (run_target != RunGraph && run_target != RunSmall &&
		(!pg_verify_mbstr(PG_UTF8, (const char *) data, size, true) || memchr(data, '\0', size) != NULL))
		return -1;
	INSTR_TIME_SET_CURRENT(begin);
	MemoryContextReset(input_context);
	MemoryContextSwitchTo(input_context);
	PG_TRY();
	{
		run_target((const char *) data, size);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(input_context);
		error = CopyErrorData();
		FlushErrorState();
		refused = true;
		if (!IsRefusal(error->sqlerrcode))
		{
			fprintf(stderr, "FINDING: %s: %s\n", unpack_sql_state(error->sqlerrcode), error->message);
			abort();
		}
	}
	PG_END_TRY();
	INSTR_TIME_SET_CURRENT(duration);
	INSTR_TIME_SUBTRACT(duration, begin);
	REQUIRE(INSTR_TIME_GET_DOUBLE(duration) < SLOW_SECONDS);
	MemoryContextReset(input_context);
	return 0;
}

PG_FUNCTION_INFO_V1(tasker_fuzz_rules);

Datum
tasker_fuzz_rules(PG_FUNCTION_ARGS)
{
	static const struct
	{
		const char *name;
		void		(*run) (const char *data, size_t size);
	}			targets[] = {
		{"yaml", RunYaml}, {"template", RunTemplate}, {"schema", RunSchema}, {"graph", RunGraph}, {"small", RunSmall}
	};
	const char *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	Datum	   *arguments;
	int			argc;
	char	  **argv;

	deconstruct_array(PG_GETARG_ARRAYTYPE_P(1), TEXTOID, -1, false, TYPALIGN_INT, &arguments, NULL, &argc);
	argv = palloc0(sizeof(char *) * (argc + 2));
	argv[0] = "rules";
	for (int i = 0; i < argc; i++)
		argv[i + 1] = TextDatumGetCString(arguments[i]);
	argc++;
	for (int i = 0; i < lengthof(targets); i++)
	{
		if (strcmp(targets[i].name, name) == 0)
			run_target = targets[i].run;
	}
	if (run_target == NULL)
		elog(ERROR, "no target %s", name);
	/* A single-user server has none, and without it no stack is ever too deep. */
	(void) set_stack_base();
	input_context = AllocSetContextCreate(TopMemoryContext, "fuzz input", ALLOCSET_DEFAULT_SIZES);
	LLVMFuzzerRunDriver(&argc, &argv, RunInput);
	PG_RETURN_VOID();
}
