/*
 * policy.c
 *		What a template says of the way its tasks run, cached.
 *
 * The orchestrator asks for every step that it looks at, and hardly any
 * template says anything: only those that do are remembered.
 */
#include "postgres.h"

#include "access/xact.h"
#include "define/policy.h"
#include "pg/catalog.h"
#include "pg/query.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

static MemoryContext cache_context = NULL;
static HTAB *cache = NULL;		/* NULL: nobody says anything */
static uint64 cache_generation = 0;

/* The built-ins that come first are the defaults, see strategy.c; the identity has no part in running. */
static KeptQuery READ_POLICIES = {
	.sql =
	"SELECT named_task_id, concurrent, owner, coordinator_strategy, reenqueuer_strategy, identity_strategy,"
	"       backoff_strategy"
	"  FROM tasker.named_tasks"
	" WHERE NOT concurrent OR coordinator_strategy <> 'orchestrator' OR reenqueuer_strategy <> 'event_driven'"
	"    OR backoff_strategy <> 'exponential'",
	.nargs = 0
};

void
RefreshPolicies(void)
{
	uint64		generation = DefinitionsGeneration();
	HASHCTL		control = {.keysize = sizeof(int32),.entrysize = sizeof(TaskPolicy)};
	HTAB	   *policies = NULL;
	uint64		n;
	MemoryContext caller;

	if (cache_generation == generation)
		return;
	cache = NULL;
	cache_generation = 0;
	if (cache_context == NULL)
		cache_context = AllocSetContextCreate(TopMemoryContext, "tasker policies", ALLOCSET_SMALL_SIZES);
	MemoryContextReset(cache_context);
	n = RunPlainQuery(&READ_POLICIES);
	caller = MemoryContextSwitchTo(cache_context);
	control.hcxt = cache_context;
	if (n > 0)
		policies = hash_create("tasker policies", (long) n, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	for (uint64 row = 0; row < n; row++)
	{
		int32		id = RowInt32(row, 1);
		TaskPolicy *policy = hash_search(policies, &id, HASH_ENTER, NULL);

		policy->concurrent = RowBool(row, 2);
		policy->owner = RowText(row, 3);
		for (StrategyRole role = 0; role < STRATEGY_ROLES; role++)
			policy->strategies[role] = RowText(row, 4 + role);
		policy->dispatched = strcmp(policy->strategies[STRATEGY_COORDINATOR],
									DefaultStrategy(STRATEGY_COORDINATOR)) == 0;
	}
	MemoryContextSwitchTo(caller);
	cache = policies;
	/* What an old snapshot sees must not be remembered beyond it. */
	cache_generation = IsolationUsesXactSnapshot() ? 0 : generation;
}

const TaskPolicy *
PolicyOf(int32 named_task_id)
{
	static TaskPolicy usual = {.concurrent = true,.dispatched = true};
	const TaskPolicy *policy = cache ? hash_search(cache, &named_task_id, HASH_FIND, NULL) : NULL;

	if (policy != NULL)
		return policy;
	if (usual.strategies[0] == NULL)
	{
		for (StrategyRole role = 0; role < STRATEGY_ROLES; role++)
			usual.strategies[role] = DefaultStrategy(role);
	}
	return &usual;
}

bool
AnyPolicy(void)
{
	return cache != NULL;
}
