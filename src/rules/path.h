/*
 * path.h
 *		The heaviest paths through a graph. Pure: arrays in, arrays out.
 */
#ifndef TASKER_PATH_H
#define TASKER_PATH_H

#include "tasker.h"

#include "rules/graph.h"

typedef struct Path
{
	double		weight;			/* the sum of the weights of its nodes */
	int			length;
	int32	   *nodes;			/* from a root to a leaf */
} Path;

/*
 * Finds the max heaviest of all paths that lead from a node without
 * prerequisites to one without dependents, the heaviest first; of equal ones
 * the one that comes earlier in the order of the graph.  Returns how many
 * there are.  Each node keeps the max best ways to it, so that the time is
 * linear in the edges, however many paths there are.  Can be interrupted.
 */
extern int	HeaviestPaths(const Graph *graph, const double *weights, int max, Path *paths);

#endif							/* TASKER_PATH_H */
