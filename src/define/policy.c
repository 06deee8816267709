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
static bool any_waits = false;
static uint64 cache_generation = 0;

/* The built-ins that come first are the defaults, see strategy.c; the identity has no part in running. */
#define POLICIES(waits) \
	"SELECT p.* FROM (" \
	"  SELECT nt.named_task_id, nt.concurrent, nt.owner, nt.coordinator_strategy, nt.reenqueuer_strategy," \
	"         nt.identity_strategy, nt.backoff_strategy, " waits " AS waits" \
	"    FROM tasker.named_tasks nt) p" \
	" WHERE NOT p.concurrent OR p.coordinator_strategy <> 'orchestrator' OR p.reenqueuer_strategy <> 'event_driven'" \
	"    OR p.backoff_strategy <> 'exponential' OR p.waits"

static KeptQuery READ_POLICIES = {
	.sql = POLICIES("EXISTS (SELECT 1 FROM tasker.named_tasks_named_steps ts"
					"         WHERE ts.named_task_id = nt.named_task_id AND ts.waits_for IS NOT NULL)"),
	.nargs = 0
};

/* In 1.0 no step waits. */
static KeptQuery READ_POLICIES_WITHOUT_WAITS = {.sql = POLICIES("false"),.nargs = 0};

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
	any_waits = false;
	cache_generation = 0;
	if (cache_context == NULL)
		cache_context = AllocSetContextCreate(TopMemoryContext, "tasker policies", ALLOCSET_SMALL_SIZES);
	MemoryContextReset(cache_context);
	n = RunPlainQuery(SchemaVersion() < 101 ? &READ_POLICIES_WITHOUT_WAITS : &READ_POLICIES);
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
		policy->waits = RowBool(row, 8);
		any_waits |= policy->waits;
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

bool
AnyWaits(void)
{
	return any_waits;
}
