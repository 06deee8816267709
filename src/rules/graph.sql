-- What can be said of a graph whose nodes are numbered from 1 and whose edges are
-- two arrays: the n-th edge leads from sources[n] to targets[n]. Pure: they read
-- no table, so that tasks and templates use the same ones.

CREATE FUNCTION tasker.graph_depths(n integer, sources integer[], targets integer[],
	OUT shortest integer[], OUT longest integer[])
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'tasker_graph_depths';
COMMENT ON FUNCTION tasker.graph_depths(integer, integer[], integer[]) IS
'For each node of a graph the length of the shortest and of the longest path to it from a root, 0 at the roots. Linear. Error: 22023 for arrays that do not fit together, or a cycle.';

CREATE FUNCTION tasker.graph_reach(sources integer[], targets integer[], marked boolean[],
	OUT reachable integer[], OUT reachable_marked integer[])
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'tasker_graph_reach';
COMMENT ON FUNCTION tasker.graph_reach(integer[], integer[], boolean[]) IS
'For each node of a graph, of which there are as many as marks: how many others can be reached from it, and how many of those are marked. Exact; takes one operation for each edge and 64 nodes, in 16 MB of memory. Error: 22023 for arrays that do not fit together, or a cycle.';

CREATE FUNCTION tasker.graph_paths(sources integer[], targets integer[], weights double precision[], max integer,
	OUT nodes integer[], OUT weight double precision)
RETURNS SETOF record
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'tasker_graph_paths';
COMMENT ON FUNCTION tasker.graph_paths(integer[], integer[], double precision[], integer) IS
'The heaviest paths from a root to a leaf, at most max (1 to 100), the heaviest first. The weight of a path is the sum of the weights of its nodes. Linear in the edges, however many paths there are. Error: 22023 for arrays that do not fit together, a cycle, or a bad max.';
