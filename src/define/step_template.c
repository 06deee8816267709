/*
 * step_template.c
 *		What a template says of one of its steps, cached: whoever runs steps
 *		asks for it again and again.
 *
 * A template is read as a whole.  It does not change while it has tasks.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "define/step_template.h"
#include "pg/catalog.h"
#include "pg/query.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"

typedef struct CachedTemplate
{
	int32		named_task_id;	/* hash key */
	int			n;
	StepTemplate *steps;		/* by named_step_id, ascending */
} CachedTemplate;

static MemoryContext cache_context = NULL;
static HTAB *cache = NULL;
static uint64 cache_generation = 0;

#define STEP_TEMPLATES(waits) \
	"SELECT ts.named_step_id, nt.name, ns.name, h.name, ts.handler_config, nt.owner, " waits \
	"  FROM tasker.named_tasks_named_steps ts" \
	"  JOIN tasker.named_tasks nt ON nt.named_task_id = ts.named_task_id" \
	"  JOIN tasker.named_steps ns ON ns.named_step_id = ts.named_step_id" \
	"  JOIN tasker.handlers h ON h.handler_id = ts.handler_id" \
	" WHERE ts.named_task_id = $1" \
	" ORDER BY ts.named_step_id"

static KeptQuery READ_STEP_TEMPLATES = {
	.sql = STEP_TEMPLATES("ts.waits_for IS NOT NULL"),
	.nargs = 1,.types = {INT4OID}
};

/* In 1.0 no step waits. */
static KeptQuery READ_RUN_STEP_TEMPLATES = {
	.sql = STEP_TEMPLATES("false"),
	.nargs = 1,.types = {INT4OID}
};

static KeptQuery READ_EDGES = {
	.sql =
	"SELECT e.from_named_step_id, e.to_named_step_id,"
	"       (SELECT p.position FROM tasker.named_tasks_named_steps p"
	"         WHERE p.named_task_id = e.named_task_id AND p.named_step_id = e.from_named_step_id),"
	"       (SELECT c.position FROM tasker.named_tasks_named_steps c"
	"         WHERE c.named_task_id = e.named_task_id AND c.named_step_id = e.to_named_step_id)"
	"  FROM tasker.named_step_edges e WHERE e.named_task_id = $1",
	.nargs = 1,.types = {INT4OID}
};

void
RefreshStepTemplates(void)
{
	uint64		generation = DefinitionsGeneration();

	if (cache != NULL && cache_generation == generation)
		return;
	cache = NULL;
	if (cache_context == NULL)
		cache_context = AllocSetContextCreate(TopMemoryContext, "tasker step templates",
											  ALLOCSET_DEFAULT_SIZES);
	MemoryContextReset(cache_context);
	cache_generation = generation;
}

static void
ReadSteps(CachedTemplate *template)
{
	Datum		id = Int32GetDatum(template->named_task_id);

	template->n = (int) RunQuery(SchemaVersion() < 101 ? &READ_RUN_STEP_TEMPLATES : &READ_STEP_TEMPLATES, &id, NULL);
	template->steps = palloc0(sizeof(StepTemplate) * Max(template->n, 1));
	for (int i = 0; i < template->n; i++)
		template->steps[i] = (StepTemplate)
	{
		.named_step_id = RowInt32(i, 1),
			.task_name = i == 0 ? RowText(i, 2) : template->steps[0].task_name,
			.owner = i == 0 ? RowText(i, 6) : template->steps[0].owner,
			.step_name = RowText(i, 3),
			.handler = RowText(i, 4),
			.handler_config = JsonbPGetDatum(DatumGetJsonbPCopy(RowDatum(i, 5, NULL))),
			.waits = RowBool(i, 7),
	};
}

static StepTemplate *
FindStep(const CachedTemplate *template, int32 named_step_id)
{
	int			low = 0;
	int			high = template->n - 1;

	while (low <= high)
	{
		int			middle = (low + high) / 2;

		if (template->steps[middle].named_step_id == named_step_id)
			return &template->steps[middle];
		if (template->steps[middle].named_step_id < named_step_id)
			low = middle + 1;
		else
			high = middle - 1;
	}
	return NULL;
}

typedef struct Edge
{
	int32		from;
	int32		to;
	int32		from_position;
	int32		to_position;
} Edge;

static int
CompareEdges(const void *a, const void *b)
{
	const Edge *left = a;
	const Edge *right = b;

	if (left->from_position != right->from_position)
		return left->from_position < right->from_position ? -1 : 1;
	return left->to_position < right->to_position ? -1 : left->to_position > right->to_position;
}

/* Gives each step its parents and children; edges are sorted by from, then to. */
static void
LinkSteps(CachedTemplate *template, const Edge *edges, int n)
{
	int32	   *parents = palloc(sizeof(int32) * Max(n, 1));
	int32	   *children = palloc(sizeof(int32) * Max(n, 1));

	for (int e = 0; e < n; e++)
	{
		FindStep(template, edges[e].from)->n_children++;
		FindStep(template, edges[e].to)->n_parents++;
	}
	for (int i = 0; i < template->n; i++)
	{
		StepTemplate *step = &template->steps[i];

		step->parents = parents;
		step->children = children;
		parents += step->n_parents;
		children += step->n_children;
		step->n_parents = step->n_children = 0;
	}
	for (int e = 0; e < n; e++)
	{
		StepTemplate *from = FindStep(template, edges[e].from);
		StepTemplate *to = FindStep(template, edges[n - 1 - e].to);

		from->children[from->n_children++] = edges[e].to;
		to->parents[to->n_parents++] = edges[n - 1 - e].from;
	}
}

static void
ReadEdges(CachedTemplate *template)
{
	Datum		id = Int32GetDatum(template->named_task_id);
	int			n = (int) RunQuery(&READ_EDGES, &id, NULL);
	Edge	   *edges = palloc(sizeof(Edge) * Max(n, 1));

	for (int e = 0; e < n; e++)
		edges[e] = (Edge)
	{
		.from = RowInt32(e, 1),.to = RowInt32(e, 2),.from_position = RowInt32(e, 3),.to_position = RowInt32(e, 4)
	};
	qsort(edges, n, sizeof(Edge), CompareEdges);
	LinkSteps(template, edges, n);
	pfree(edges);
}

/* Read first and entered then: an error must leave no half of it in the cache. */
static CachedTemplate *
ReadTemplate(int32 named_task_id)
{
	CachedTemplate template = {.named_task_id = named_task_id};
	CachedTemplate *entry;
	MemoryContext caller = MemoryContextSwitchTo(cache_context);

	ReadSteps(&template);
	ReadEdges(&template);
	MemoryContextSwitchTo(caller);
	entry = hash_search(cache, &named_task_id, HASH_ENTER, NULL);
	*entry = template;
	return entry;
}

const StepTemplate *
GetStepTemplate(int32 named_task_id, int32 named_step_id)
{
	static CachedTemplate *last = NULL;
	static HTAB *last_cache = NULL;
	CachedTemplate *found;
	StepTemplate *step;

	if (cache == NULL)
	{
		HASHCTL		control = {.keysize = sizeof(int32),.entrysize = sizeof(CachedTemplate),.hcxt = cache_context};

		cache = hash_create("tasker step templates", 64, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
		last = NULL;
	}
	if (last == NULL || last_cache != cache || last->named_task_id != named_task_id)
	{
		last = NULL;			/* reading may fail */
		found = hash_search(cache, &named_task_id, HASH_FIND, NULL);
		last = found ? found : ReadTemplate(named_task_id);
		last_cache = cache;
	}
	step = FindStep(last, named_step_id);
	if (step == NULL)
		elog(ERROR, "template step (%d, %d) is missing", named_task_id, named_step_id);
	return step;
}
