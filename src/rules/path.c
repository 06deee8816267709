/*
 * path.c
 *		The heaviest paths through a graph.
 */
#include "postgres.h"

#include "funcapi.h"
#include "miscadmin.h"
#include "pg/query.h"
#include "rules/path.h"

#define MAX_PATHS 100

/* A way to a node: over which way of which node before it. */
typedef struct Way
{
	double		weight;
	int			from;			/* -1: it begins here */
	int			rank;			/* place in the list of from */
} Way;

/* The best ways to one node, the heaviest first. */
typedef struct WayList
{
	int			n;
	Way		   *ways;
} WayList;

/* Puts a way behind those that are as heavy; false if max others are. */
static bool
OfferWay(WayList *list, int max, Way way)
{
	int			place = list->n;

	if (list->n == max && list->ways[max - 1].weight >= way.weight)
		return false;
	if (list->ways == NULL)
		list->ways = palloc(sizeof(Way) * max);
	if (list->n < max)
		list->n++;
	else
		place--;
	while (place > 0 && list->ways[place - 1].weight < way.weight)
	{
		list->ways[place] = list->ways[place - 1];
		place--;
	}
	list->ways[place] = way;
	return true;
}

/* Offers all ways that lead to a node to one after it. */
static void
OfferWaysOver(const WayList *lists, int node, WayList *next, int max)
{
	for (int rank = 0; rank < lists[node].n; rank++)
	{
		Way			way = {.weight = lists[node].ways[rank].weight,.from = node,.rank = rank};

		/* Those that follow are lighter. */
		if (!OfferWay(next, max, way))
			break;
	}
}

/* Follows a way back to where it begins. */
static Path
PathOfWay(const WayList *lists, Way end)
{
	Path		path = {.weight = end.weight};
	Way			way = end;

	for (int node = way.from; node >= 0; node = way.from)
	{
		way = lists[node].ways[way.rank];
		path.length++;
	}
	path.nodes = palloc(sizeof(int32) * path.length);
	way = end;
	for (int place = path.length - 1; place >= 0; place--)
	{
		path.nodes[place] = way.from;
		way = lists[way.from].ways[way.rank];
	}
	return path;
}

int
HeaviestPaths(const Graph *graph, const double *weights, int max, Path *paths)
{
	WayList    *lists = palloc_extended(sizeof(WayList) * Max(graph->n, 1), MCXT_ALLOC_ZERO | MCXT_ALLOC_HUGE);
	WayList		ends = {0};

	for (int i = 0; i < graph->n; i++)
	{
		int			node = graph->order[i];
		int			begin = graph->dependents.first[node];
		int			end = graph->dependents.first[node + 1];

		if (lists[node].n == 0)
			(void) OfferWay(&lists[node], 1, (Way)
							{
								.from = -1
							});
		for (int rank = 0; rank < lists[node].n; rank++)
			lists[node].ways[rank].weight += weights[node];
		for (int d = begin; d < end; d++)
			OfferWaysOver(lists, node, &lists[graph->dependents.nodes[d]], max);
		if (begin == end)
			OfferWaysOver(lists, node, &ends, max);
		CHECK_FOR_INTERRUPTS();
	}
	for (int p = 0; p < ends.n; p++)
		paths[p] = PathOfWay(lists, ends.ways[p]);
	return ends.n;
}

PG_FUNCTION_INFO_V1(tasker_graph_paths);

Datum
tasker_graph_paths(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	Path		paths[MAX_PATHS];
	int			n;
	const double *weights = ArrayOfArgument(fcinfo, 2, &n);
	Graph		graph = GraphOfArguments(fcinfo, n, 0);
	int			max = PG_GETARG_INT32(3);
	int			found;

	if (max < 1 || max > MAX_PATHS)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the number of paths must be 1 to %d", MAX_PATHS)));
	InitMaterializedSRF(fcinfo, 0);
	found = HeaviestPaths(&graph, weights, max, paths);
	for (int p = 0; p < found; p++)
	{
		Datum		values[2];
		bool		nulls[2] = {false, false};

		for (int i = 0; i < paths[p].length; i++)
			paths[p].nodes[i]++;	/* SQL counts from 1 */
		values[0] = Int32Array(paths[p].nodes, paths[p].length);
		values[1] = Float8GetDatum(paths[p].weight);
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	return (Datum) 0;
}
