/*
 * dependency.c
 *		What a step depends on, what depends on it, and who stands beside it.
 *
 * The way leads over the template's edges in the cache, by named steps, so it
 * costs what lies on it and not what the task has besides.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "define/step_template.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "pg/query.h"
#include "run/transition.h"
#include "utils/hsearch.h"

typedef enum Direction
{
	TO_PARENTS,
	TO_CHILDREN
} Direction;

/* The step that is asked about. */
typedef struct Center
{
	Datum		task_id;
	int32		named_task_id;
	int32		named_step_id;
} Center;

/* The named steps found, by distance; the first is the one that it starts from. */
typedef struct Surroundings
{
	int			n;
	int			room;
	int32	   *named_step_ids;
	int32	   *distances;
} Surroundings;

static KeptQuery READ_STEP = {
	.sql =
	"SELECT s.task_id, t.named_task_id, s.named_step_id FROM tasker.workflow_steps s"
	"  JOIN tasker.tasks t ON t.task_id = s.task_id WHERE s.workflow_step_id = $1",
	.nargs = 1,.types = {INT8OID}
};

static KeptQuery READ_STEPS_AT_DISTANCES = {
	.sql =
	"SELECT s.workflow_step_id, n.name, s.state, d.distance, s.results"
	"  FROM (SELECT unnest($2) AS named_step_id, unnest($3) AS distance LIMIT cardinality($2)) d"
	"  JOIN tasker.workflow_steps s ON s.task_id = $1 AND s.named_step_id = d.named_step_id"
	"  JOIN tasker.named_steps n ON n.named_step_id = s.named_step_id"
	" ORDER BY d.distance, s.workflow_step_id + 0",
	.nargs = 3,.types = {INT8OID, INT4ARRAYOID, INT4ARRAYOID}
};

static KeptQuery READ_STEPS_BESIDE = {
	.sql =
	"SELECT s.workflow_step_id, n.name, s.state"
	"  FROM (SELECT unnest($2) AS named_step_id LIMIT cardinality($2)) d"
	"  JOIN tasker.workflow_steps s ON s.task_id = $1 AND s.named_step_id = d.named_step_id"
	"  JOIN tasker.named_steps n ON n.named_step_id = s.named_step_id"
	" ORDER BY s.workflow_step_id + 0",
	.nargs = 2,.types = {INT8OID, INT4ARRAYOID}
};

/* The step of the argument, which must exist. */
static Center
ReadCenter(FunctionCallInfo fcinfo)
{
	Datum		step_id = PG_GETARG_DATUM(0);

	if (RunQuery(&READ_STEP, &step_id, NULL) == 0)
		RefuseUnknown("step", DatumGetInt64(step_id));
	RefreshStepTemplates();
	return (Center)
	{
		.task_id = Int64GetDatum(RowInt64(0, 1)),
			.named_task_id = RowInt32(0, 2),
			.named_step_id = RowInt32(0, 3),
	};
}

static void
AddNamedStep(Surroundings *found, int32 named_step_id, int32 distance)
{
	if (found->n == found->room)
	{
		found->room *= 2;
		found->named_step_ids = repalloc(found->named_step_ids, sizeof(int32) * found->room);
		found->distances = repalloc(found->distances, sizeof(int32) * found->room);
	}
	found->named_step_ids[found->n] = named_step_id;
	found->distances[found->n++] = distance;
}

/* Breadth first: each is met at its shortest distance, and each edge once. */
static Surroundings
Surround(Center center, Direction direction)
{
	Surroundings found = {
		.room = 16,
		.named_step_ids = palloc(sizeof(int32) * 16),
		.distances = palloc(sizeof(int32) * 16)
	};
	HASHCTL		control = {.keysize = sizeof(int32),.entrysize = sizeof(int32),.hcxt = CurrentMemoryContext};
	HTAB	   *met = hash_create("tasker steps met", 64, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);

	AddNamedStep(&found, center.named_step_id, 0);
	for (int i = 0; i < found.n; i++)
	{
		const StepTemplate *step = GetStepTemplate(center.named_task_id, found.named_step_ids[i]);
		int			n = direction == TO_PARENTS ? step->n_parents : step->n_children;
		const int32 *neighbours = direction == TO_PARENTS ? step->parents : step->children;

		for (int k = 0; k < n; k++)
		{
			bool		known;

			(void) hash_search(met, &neighbours[k], HASH_ENTER, &known);
			if (!known)
				AddNamedStep(&found, neighbours[k], found.distances[i] + 1);
		}
		CHECK_FOR_INTERRUPTS();
	}
	return found;
}

/* The rows of the steps around one, without itself. */
static void
ReturnSurroundings(FunctionCallInfo fcinfo, Direction direction)
{
	QueryScope	scope;
	Center		center;
	Surroundings found;
	Datum		values[3];

	InitMaterializedSRF(fcinfo, 0);
	OpenReadingScope(&scope);
	center = ReadCenter(fcinfo);
	found = Surround(center, direction);
	values[0] = center.task_id;
	values[1] = Int32Array(found.named_step_ids + 1, found.n - 1);
	values[2] = Int32Array(found.distances + 1, found.n - 1);
	(void) RunQuery(&READ_STEPS_AT_DISTANCES, values, NULL);
	ReturnQueryRows(fcinfo);
	CloseQueryScope(&scope);
}

/*
 * Siblings are children of each of their parents, so the children of one are
 * all that come into question.  Parents are listed in one order everywhere.
 */
static void
ReturnSiblings(FunctionCallInfo fcinfo)
{
	QueryScope	scope;
	Center		center;
	const StepTemplate *step;
	const StepTemplate *parent;
	int32	   *siblings;
	int			n = 0;
	Datum		values[2];

	InitMaterializedSRF(fcinfo, 0);
	OpenReadingScope(&scope);
	center = ReadCenter(fcinfo);
	step = GetStepTemplate(center.named_task_id, center.named_step_id);
	if (step->n_parents > 0)
	{
		parent = GetStepTemplate(center.named_task_id, step->parents[0]);
		siblings = palloc(sizeof(int32) * parent->n_children);
		for (int c = 0; c < parent->n_children; c++)
		{
			const StepTemplate *child = GetStepTemplate(center.named_task_id, parent->children[c]);

			if (child != step && child->n_parents == step->n_parents &&
				memcmp(child->parents, step->parents, sizeof(int32) * step->n_parents) == 0)
				siblings[n++] = child->named_step_id;
		}
		values[0] = center.task_id;
		values[1] = Int32Array(siblings, n);
		(void) RunQuery(&READ_STEPS_BESIDE, values, NULL);
		ReturnQueryRows(fcinfo);
	}
	CloseQueryScope(&scope);
}

PG_FUNCTION_INFO_V1(tasker_step_transitive_dependencies);
PG_FUNCTION_INFO_V1(tasker_step_transitive_dependents);
PG_FUNCTION_INFO_V1(tasker_step_siblings);

Datum
tasker_step_transitive_dependencies(PG_FUNCTION_ARGS)
{
	ReturnSurroundings(fcinfo, TO_PARENTS);
	return (Datum) 0;
}

Datum
tasker_step_transitive_dependents(PG_FUNCTION_ARGS)
{
	ReturnSurroundings(fcinfo, TO_CHILDREN);
	return (Datum) 0;
}

Datum
tasker_step_siblings(PG_FUNCTION_ARGS)
{
	ReturnSiblings(fcinfo);
	return (Datum) 0;
}
