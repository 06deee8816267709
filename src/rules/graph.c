/*
 * graph.c
 *		Directed graphs over the nodes 0 .. n-1.
 */
#include "postgres.h"

#include "rules/graph.h"

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

int
TopologicalOrder(int n, const GraphEdge *edges, int edge_count, int *order)
{
	int		   *open_prerequisites = palloc0(sizeof(int) * Max(n, 1));
	int		   *first = palloc0(sizeof(int) * (n + 1));
	int		   *dependents = palloc(sizeof(int) * Max(edge_count, 1));
	int			placed = 0;
	int			on_cycle = -1;

	/* The dependents of node i become dependents[first[i] .. first[i + 1] - 1]. */
	for (int e = 0; e < edge_count; e++)
	{
		open_prerequisites[edges[e].to]++;
		first[edges[e].from + 1]++;
	}
	for (int i = 0; i < n; i++)
		first[i + 1] += first[i];
	for (int e = edge_count - 1; e >= 0; e--)
		dependents[--first[edges[e].from + 1]] = edges[e].to;
	/* The loop above has moved each start one place up; move them back. */
	for (int i = 0; i < n; i++)
		first[i] = first[i + 1];
	first[n] = edge_count;

	for (int i = 0; i < n; i++)
	{
		if (open_prerequisites[i] == 0)
			order[placed++] = i;
	}
	for (int head = 0; head < placed; head++)
	{
		int			node = order[head];

		for (int d = first[node]; d < first[node + 1]; d++)
		{
			if (--open_prerequisites[dependents[d]] == 0)
				order[placed++] = dependents[d];
		}
	}
	if (placed < n)
		on_cycle = NodeOnCycle(n, edges, edge_count, open_prerequisites);
	pfree(open_prerequisites);
	pfree(first);
	pfree(dependents);
	return on_cycle;
}
