/*
 * graph.c
 *		Directed graphs over the nodes 0 .. n-1.
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "pg/query.h"
#include "port/pg_bitutils.h"
#include "rules/graph.h"
#include "utils/array.h"

/* How much of a CountReachable may be in memory at once. */
#define REACH_BYTES (16 * 1024 * 1024)

/* Of a graph given as arguments: more than any task has, and its arrays fit an allocation. */
#define MAX_NODES 10000000

/* Follows prerequisites that were never placed; that must run into a cycle. */
static int
NodeOnCycle(int n, const GraphEdge *edges, int edge_count, const int *open_prerequisites)
{
	int		   *prerequisite = palloc(sizeof(int) * n);
	int			node = -1;

	for (int e = 0; e < edge_count; e++)
	{
		if (open_prerequisites[edges[e].from] > 0 && open_prerequisites[edges[e].to] > 0)
		{
			prerequisite[edges[e].to] = edges[e].from;
			node = edges[e].to;
		}
	}
	/* After n moves backwards the walk has left every tail behind. */
	for (int moves = 0; moves < n; moves++)
		node = prerequisite[node];
	pfree(prerequisite);
	return node;
}

Dependents
ListDependents(int n, const GraphEdge *edges, int edge_count)
{
	Dependents	list = {
		.first = palloc0(sizeof(int) * (n + 1)),
		.nodes = palloc(sizeof(int) * Max(edge_count, 1))
	};

	for (int e = 0; e < edge_count; e++)
		list.first[edges[e].from + 1]++;
	for (int i = 0; i < n; i++)
		list.first[i + 1] += list.first[i];
	for (int e = edge_count - 1; e >= 0; e--)
		list.nodes[--list.first[edges[e].from + 1]] = edges[e].to;
	/* The loop above has moved each start one place up; move them back. */
	for (int i = 0; i < n; i++)
		list.first[i] = list.first[i + 1];
	list.first[n] = edge_count;
	return list;
}

int
TopologicalOrder(int n, const GraphEdge *edges, int edge_count, int *order)
{
	int		   *open_prerequisites = palloc0(sizeof(int) * Max(n, 1));
	Dependents	dependents = ListDependents(n, edges, edge_count);
	int			placed = 0;
	int			on_cycle = -1;

	for (int e = 0; e < edge_count; e++)
		open_prerequisites[edges[e].to]++;
	for (int i = 0; i < n; i++)
	{
		if (open_prerequisites[i] == 0)
			order[placed++] = i;
	}
	for (int head = 0; head < placed; head++)
	{
		int			node = order[head];

		for (int d = dependents.first[node]; d < dependents.first[node + 1]; d++)
		{
			if (--open_prerequisites[dependents.nodes[d]] == 0)
				order[placed++] = dependents.nodes[d];
		}
	}
	if (placed < n)
		on_cycle = NodeOnCycle(n, edges, edge_count, open_prerequisites);
	pfree(open_prerequisites);
	pfree(dependents.first);
	pfree(dependents.nodes);
	return on_cycle;
}

void
GraphDepths(const Graph *graph, int *shortest, int *longest)
{
	for (int i = 0; i < graph->n; i++)
		shortest[i] = longest[i] = 0;
	for (int i = 0; i < graph->n; i++)
	{
		int			node = graph->order[i];

		for (int d = graph->dependents.first[node]; d < graph->dependents.first[node + 1]; d++)
		{
			int			to = graph->dependents.nodes[d];

			/* Only a node without prerequisites stays at 0. */
			if (shortest[to] == 0 || shortest[to] > shortest[node] + 1)
				shortest[to] = shortest[node] + 1;
			longest[to] = Max(longest[to], longest[node] + 1);
		}
	}
}

/*
 * One block of columns of CountReachable: adds what of the places from begin
 * to before end each node reaches.  rows has room for words words a place;
 * marks says which of these places are marked.
 */
static void
CountReachableBlock(const Graph *graph, const int *place_of, int begin, int end,
					uint64 *rows, int words, const uint64 *marks, int32 *reachable, int32 *reachable_marked)
{
	memset(rows, 0, sizeof(uint64) * words * graph->n);
	/* Who stands at the end of the block or behind it reaches nothing of it. */
	for (int place = end - 2; place >= 0; place--)
	{
		int			node = graph->order[place];
		uint64	   *row = rows + (Size) place * words;

		for (int d = graph->dependents.first[node]; d < graph->dependents.first[node + 1]; d++)
		{
			int			to = place_of[graph->dependents.nodes[d]];
			const uint64 *other = rows + (Size) to * words;

			if (to >= end)
				continue;
			if (to >= begin)
				row[(to - begin) / 64] |= UINT64CONST(1) << ((to - begin) % 64);
			for (int w = 0; w < words; w++)
				row[w] |= other[w];
		}
		for (int w = 0; w < words; w++)
		{
			if (row[w] == 0)
				continue;
			reachable[node] += pg_popcount64(row[w]);
			reachable_marked[node] += pg_popcount64(row[w] & marks[w]);
		}
		CHECK_FOR_INTERRUPTS();
	}
}

void
CountReachable(const Graph *graph, const bool *marked, int32 *reachable, int32 *reachable_marked)
{
	int			n = graph->n;
	int			words = Min((n + 63) / 64, Max(8, REACH_BYTES / (int) sizeof(uint64) / Max(n, 1)));
	uint64	   *rows = palloc(sizeof(uint64) * Max((Size) words * n, 1));
	uint64	   *marks = palloc(sizeof(uint64) * Max(words, 1));
	int		   *place_of = palloc(sizeof(int) * Max(n, 1));

	memset(reachable, 0, sizeof(int32) * n);
	memset(reachable_marked, 0, sizeof(int32) * n);
	for (int place = 0; place < n; place++)
		place_of[graph->order[place]] = place;
	for (int begin = 0; begin < n; begin += words * 64)
	{
		int			end = Min(n, begin + words * 64);

		memset(marks, 0, sizeof(uint64) * words);
		for (int place = begin; place < end; place++)
		{
			if (marked[graph->order[place]])
				marks[(place - begin) / 64] |= UINT64CONST(1) << ((place - begin) % 64);
		}
		CountReachableBlock(graph, place_of, begin, end, rows, words, marks, reachable, reachable_marked);
	}
	pfree(rows);
	pfree(marks);
	pfree(place_of);
}

/* ---------- for SQL: nodes are numbered from 1 ---------- */

pg_noreturn static void
RefuseGraph(const char *problem)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid graph: %s", problem)));
}

void *
ArrayOfArgument(FunctionCallInfo fcinfo, int argument, int *n)
{
	ArrayType  *array = PG_GETARG_ARRAYTYPE_P(argument);

	if (ARR_NDIM(array) > 1 || array_contains_nulls(array))
		RefuseGraph("an array has nulls or more than one dimension");
	*n = ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array));
	return ARR_DATA_PTR(array);
}

Graph
GraphOfArguments(FunctionCallInfo fcinfo, int n, int first_argument)
{
	Graph		graph = {.n = n};
	int			n_targets;
	const int32 *sources = ArrayOfArgument(fcinfo, first_argument, &graph.edge_count);
	const int32 *targets = ArrayOfArgument(fcinfo, first_argument + 1, &n_targets);
	GraphEdge  *edges = palloc(sizeof(GraphEdge) * Max(graph.edge_count, 1));

	if (n < 0)
		RefuseGraph("it has less than no nodes");
	if (n > MAX_NODES)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("a graph must have at most %d nodes, not %d", MAX_NODES, n)));
	if (n_targets != graph.edge_count)
		RefuseGraph("sources and targets differ in number");
	for (int e = 0; e < n_targets; e++)
	{
		if (sources[e] < 1 || sources[e] > n || targets[e] < 1 || targets[e] > n)
			RefuseGraph("an edge leads out of it");
		edges[e] = (GraphEdge)
		{
			.from = sources[e] - 1,.to = targets[e] - 1
		};
	}
	graph.order = palloc(sizeof(int) * Max(n, 1));
	if (TopologicalOrder(n, edges, graph.edge_count, graph.order) >= 0)
		RefuseGraph("it has a cycle");
	graph.dependents = ListDependents(n, edges, graph.edge_count);
	pfree(edges);
	return graph;
}

/* A row of two arrays, as both functions below return it. */
static Datum
TwoArrays(FunctionCallInfo fcinfo, const int32 *first, const int32 *second, int n)
{
	TupleDesc	row;
	Datum		values[2] = {Int32Array(first, n), Int32Array(second, n)};
	bool		nulls[2] = {false, false};

	if (get_call_result_type(fcinfo, NULL, &row) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(row), values, nulls));
}

PG_FUNCTION_INFO_V1(tasker_graph_depths);
PG_FUNCTION_INFO_V1(tasker_graph_reach);

Datum
tasker_graph_depths(PG_FUNCTION_ARGS)
{
	Graph		graph = GraphOfArguments(fcinfo, PG_GETARG_INT32(0), 1);
	int		   *shortest = palloc(sizeof(int) * Max(graph.n, 1));
	int		   *longest = palloc(sizeof(int) * Max(graph.n, 1));

	GraphDepths(&graph, shortest, longest);
	return TwoArrays(fcinfo, shortest, longest, graph.n);
}

Datum
tasker_graph_reach(PG_FUNCTION_ARGS)
{
	int			n;
	const bool *marked = ArrayOfArgument(fcinfo, 2, &n);
	Graph		graph = GraphOfArguments(fcinfo, n, 0);
	int32	   *reachable = palloc(sizeof(int32) * Max(n, 1));
	int32	   *reachable_marked = palloc(sizeof(int32) * Max(n, 1));

	CountReachable(&graph, marked, reachable, reachable_marked);
	return TwoArrays(fcinfo, reachable, reachable_marked, n);
}
