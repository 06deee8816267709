/*
 * graph.h
 *		Directed graphs over the nodes 0 .. n-1. Pure: arrays in, arrays out.
 */
#ifndef TASKER_GRAPH_H
#define TASKER_GRAPH_H

#include "tasker.h"

#include "fmgr.h"

typedef struct GraphEdge
{
	int			from;			/* prerequisite */
	int			to;				/* dependent */
} GraphEdge;

/* The dependents of node i are nodes[first[i] .. first[i + 1] - 1]. */
typedef struct Dependents
{
	int		   *first;
	int		   *nodes;
} Dependents;

typedef struct Graph
{
	int			n;
	int			edge_count;
	int		   *order;			/* a topological order: order[position] is the node */
	Dependents	dependents;
} Graph;

/*
 * Puts the nodes into a topological order, a node as early as its
 * prerequisites allow and otherwise in the given order: order[position] is
 * the node.  Returns -1, or a node on a cycle where there is one (order is
 * then not complete).  Time and memory are linear.  order has room for n.
 */
extern int	TopologicalOrder(int n, const GraphEdge *edges, int edge_count, int *order);

extern Dependents ListDependents(int n, const GraphEdge *edges, int edge_count);

/* The length of the shortest and of the longest path to each node from one without prerequisites; linear. */
extern void GraphDepths(const Graph *graph, int *shortest, int *longest);

/*
 * For each node how many others can be reached from it, and how many of these
 * are marked.  Each edge costs one operation for 64 nodes; memory is bounded
 * however many nodes there are, since only a block of columns of the relation
 * is held at a time.  Can be interrupted.
 */
extern void CountReachable(const Graph *graph, const bool *marked, int32 *reachable, int32 *reachable_marked);

/*
 * The graph of n nodes whose edges are two arrays of integers, sources and
 * targets, in the arguments from first_argument on; SQL numbers nodes from 1.
 * Errors: 22023 for arrays that are none, a node out of range, or a cycle.
 */
extern Graph GraphOfArguments(FunctionCallInfo fcinfo, int n, int first_argument);

/* The elements of an array argument of a fixed-length type, none of them NULL; else 22023. */
extern void *ArrayOfArgument(FunctionCallInfo fcinfo, int argument, int *n);

#endif							/* TASKER_GRAPH_H */
