/*
 * graph.h
 *		Directed graphs over the nodes 0 .. n-1. Pure: arrays in, arrays out.
 */
#ifndef TASKER_GRAPH_H
#define TASKER_GRAPH_H

#include "tasker.h"

typedef struct GraphEdge
{
	int			from;			/* prerequisite */
	int			to;				/* dependent */
} GraphEdge;

/*
 * Puts the nodes into a topological order, a node as early as its
 * prerequisites allow and otherwise in the given order: order[position] is
 * the node.  Returns -1, or a node on a cycle where there is one (order is
 * then not complete).  Time and memory are linear.  order has room for n.
 */
extern int	TopologicalOrder(int n, const GraphEdge *edges, int edge_count, int *order);

#endif							/* TASKER_GRAPH_H */
