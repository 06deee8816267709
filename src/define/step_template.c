/*
 * step_template.c
 *		What a template says of one of its steps, cached: claims ask for it
 *		again and again.
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

typedef struct CachedStepTemplate
{
	int32		named_task_id;	/* hash key, with the next */
	int32		named_step_id;
	StepTemplate step;
} CachedStepTemplate;

static MemoryContext cache_context = NULL;
static HTAB *cache = NULL;
static uint64 cache_generation = 0;

static KeptQuery READ_STEP_TEMPLATE = {
	.sql =
	"SELECT nt.name, ns.name, h.name, ts.handler_config"
	"  FROM tasker.named_tasks_named_steps ts"
	"  JOIN tasker.named_tasks nt ON nt.named_task_id = ts.named_task_id"
	"  JOIN tasker.named_steps ns ON ns.named_step_id = ts.named_step_id"
	"  JOIN tasker.handlers h ON h.handler_id = ts.handler_id"
	" WHERE ts.named_task_id = $1 AND ts.named_step_id = $2",
	.nargs = 2,.types = {INT4OID, INT4OID}
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

static StepTemplate
ReadStepTemplate(int32 named_task_id, int32 named_step_id)
{
	Datum		args[2] = {Int32GetDatum(named_task_id), Int32GetDatum(named_step_id)};
	MemoryContext caller;
	StepTemplate step;

	if (RunQuery(&READ_STEP_TEMPLATE, args, NULL) == 0)
		elog(ERROR, "template step (%d, %d) is missing", named_task_id, named_step_id);
	caller = MemoryContextSwitchTo(cache_context);
	step = (StepTemplate)
	{
		.task_name = RowText(0, 1),
			.step_name = RowText(0, 2),
			.handler = RowText(0, 3),
			.handler_config = JsonbPGetDatum(DatumGetJsonbPCopy(RowDatum(0, 4, NULL))),
	};
	MemoryContextSwitchTo(caller);
	return step;
}

const StepTemplate *
GetStepTemplate(int32 named_task_id, int32 named_step_id)
{
	struct
	{
		int32		named_task_id;
		int32		named_step_id;
	}			key = {named_task_id, named_step_id};
	CachedStepTemplate *entry;
	StepTemplate step;

	if (cache == NULL)
	{
		HASHCTL		control = {.keysize = sizeof(key),.entrysize = sizeof(CachedStepTemplate),.hcxt = cache_context};

		cache = hash_create("tasker step templates", 256, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	entry = hash_search(cache, &key, HASH_FIND, NULL);
	if (entry == NULL)
	{
		step = ReadStepTemplate(named_task_id, named_step_id);
		entry = hash_search(cache, &key, HASH_ENTER, NULL);
		entry->step = step;
	}
	return &entry->step;
}
