-- What can be said of a graph: of plain arrays, of a template, of a task that runs.
\set SHOW_CONTEXT never
SELECT tasker.orchestrate() >= 0 AS settled;
SELECT executor_id AS executor FROM tasker.register_executor('graph', '{graph.H}', 0) \gset
CREATE FUNCTION pg_temp.advance(seconds integer) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM set_config('tasker.clock_offset', (setting::integer + seconds * 1000)::text, false)
	FROM pg_settings WHERE name = 'tasker.clock_offset';
END
$$;

---- plain arrays: 1 -> 2 -> 3 -> 5, 1 -> 4 -> 5, 1 -> 5, and 6 alone ----
SELECT * FROM tasker.graph_depths(6, '{1,2,3,1,4,1}', '{2,3,5,4,5,5}');
SELECT * FROM tasker.graph_reach('{1,2,3,1,4,1}', '{2,3,5,4,5,5}', '{f,f,t,f,t,t}');
SELECT * FROM tasker.graph_paths('{1,2,3,1,4,1}', '{2,3,5,4,5,5}', '{1,1,1,2.5,1,0}', 10);
SELECT * FROM tasker.graph_paths('{1,2,3,1,4,1}', '{2,3,5,4,5,5}', '{1,1,1,2.5,1,0}', 2);
-- weights may be negative: a path is still a whole one
SELECT * FROM tasker.graph_paths('{1,2}', '{2,3}', '{-1,-5,-1}', 5);
-- equal ones in the order of the nodes
SELECT * FROM tasker.graph_paths('{1,1,2,3}', '{2,3,4,4}', '{1,1,1,1}', 5);
SELECT * FROM tasker.graph_depths(0, '{}', '{}');
SELECT * FROM tasker.graph_reach('{}', '{}', '{}');
SELECT * FROM tasker.graph_paths('{}', '{}', '{}', 1);
SELECT tasker.graph_depths(-1, '{}', '{}');
SELECT tasker.graph_depths(2, '{1}', '{3}');
SELECT tasker.graph_depths(2, '{0}', '{1}');
SELECT tasker.graph_depths(2, '{1,2}', '{2}');
SELECT tasker.graph_depths(2, '{1,NULL}', '{2,1}');
SELECT tasker.graph_depths(2, '{{1},{1}}', '{{2},{2}}');
SELECT tasker.graph_reach('{1,2}', '{2,1}', '{t,t}');
SELECT tasker.graph_paths('{1}', '{1}', '{1}', 1);
SELECT tasker.graph_paths('{}', '{}', '{1}', 0);
SELECT tasker.graph_paths('{}', '{}', '{1}', 101);

-- Against plain SQL, on graphs of 40 nodes with edges by chance, each path walked.
CREATE FUNCTION pg_temp.agrees(seed integer, OUT edges integer, OUT paths bigint, OUT reach_agrees boolean, OUT best_agree boolean, OUT depths_agree boolean) LANGUAGE plpgsql AS $$
DECLARE
	sources integer[];
	targets integer[];
	marked boolean[];
	weights float8[];
BEGIN
	SELECT array_agg(a ORDER BY a, b), array_agg(b ORDER BY a, b) INTO sources, targets
	FROM generate_series(1, 40) a, generate_series(1, 40) b
	WHERE a < b AND abs(hashint8(seed * 10000 + a * 100 + b)) % 13 = 0;
	SELECT array_agg(abs(hashint8(seed * 7919 + n)) % 2 = 0 ORDER BY n), array_agg((abs(hashint8(seed * 104729 + n)) % 1000 - 300)::float8 ORDER BY n)
	INTO marked, weights FROM generate_series(1, 40) n;
	CREATE TEMPORARY TABLE walked ON COMMIT DROP AS
	WITH RECURSIVE walk AS (
		SELECT n AS node, ARRAY[n] AS path, weights[n] AS weight FROM generate_series(1, 40) n
		UNION ALL
		SELECT e.b, walk.path || e.b, walk.weight + weights[e.b] FROM walk JOIN unnest(sources, targets) e (a, b) ON e.a = walk.node
	) SELECT * FROM walk;
	edges := cardinality(sources);
	SELECT bool_and(r.reachable = (SELECT count(DISTINCT node) FROM walked WHERE path[1] = r.n AND node <> r.n)
			AND r.reachable_marked = (SELECT count(DISTINCT node) FROM walked WHERE path[1] = r.n AND node <> r.n AND marked[node]))
	INTO reach_agrees
	FROM tasker.graph_reach(sources, targets, marked) g, unnest(g.reachable, g.reachable_marked) WITH ORDINALITY r (reachable, reachable_marked, n);
	DELETE FROM walked WHERE path[1] = ANY (targets);
	SELECT bool_and(d.shortest = (SELECT min(cardinality(path)) - 1 FROM walked WHERE node = d.n) AND d.longest = (SELECT max(cardinality(path)) - 1 FROM walked WHERE node = d.n))
	INTO depths_agree
	FROM tasker.graph_depths(40, sources, targets) g, unnest(g.shortest, g.longest) WITH ORDINALITY d (shortest, longest, n);
	DELETE FROM walked WHERE node = ANY (sources);
	paths := (SELECT count(*) FROM walked);
	best_agree := (SELECT array_agg(weight ORDER BY weight DESC) FROM tasker.graph_paths(sources, targets, weights, 20))
		= ARRAY(SELECT weight FROM walked ORDER BY weight DESC LIMIT 20)
		AND (SELECT count(*) FROM tasker.graph_paths(sources, targets, weights, 20) p JOIN walked w ON w.path = p.nodes AND w.weight = p.weight) = least(20, paths);
	DROP TABLE walked;
END
$$;
SELECT count(*) AS graphs, min(edges) > 30 AS with_edges, min(paths) > 20 AS with_paths, bool_and(reach_agrees) AS reach_agrees, bool_and(best_agree) AS best_agree, bool_and(depths_agree) AS depths_agree
FROM generate_series(1, 20) seed, pg_temp.agrees(seed);
-- more than one block of columns: a chain of 70,000
SELECT count(*) FROM tasker.graph_reach(ARRAY(SELECT generate_series(1, 69999)), ARRAY(SELECT generate_series(2, 70000)), ARRAY(SELECT n % 2 = 0 FROM generate_series(1, 70000) n)) g,
	unnest(g.reachable, g.reachable_marked) WITH ORDINALITY r (reachable, reachable_marked, n)
WHERE r.reachable <> 70000 - n OR r.reachable_marked <> (70000 - n + 1) / 2;

---- a template ----
SELECT tasker.register_task_template('{"name": "graph mixed", "namespace_name": "test", "version": "1.0.0", "step_templates": [
	{"name": "init_auth", "handler_class": "graph.H"},
	{"name": "init_config", "handler_class": "graph.H"},
	{"name": "validate_permissions", "handler_class": "graph.H", "depends_on_step": "init_auth"},
	{"name": "setup_environment", "handler_class": "graph.H", "depends_on_step": "init_config"},
	{"name": "begin_processing", "handler_class": "graph.H", "depends_on_steps": ["validate_permissions", "setup_environment"]},
	{"name": "process_critical_data", "handler_class": "graph.H", "depends_on_step": "begin_processing", "default_retry_limit": 2, "backoff_base_seconds": 100},
	{"name": "process_optional_data", "handler_class": "graph.H", "depends_on_step": "begin_processing", "skippable": true},
	{"name": "cleanup_temp_files", "handler_class": "graph.H", "depends_on_step": "setup_environment", "default_retryable": false},
	{"name": "finalize_and_report", "handler_class": "graph.H", "depends_on_steps": ["process_critical_data", "cleanup_temp_files"]}]}') > 0 AS registered;
\pset format unaligned
\pset tuples_only on
SELECT jsonb_pretty(tasker.task_template_graph('graph mixed', 'test') - 'nodes' - 'edges');
SELECT node FROM jsonb_array_elements(tasker.task_template_graph('graph mixed', 'test') -> 'nodes') node;
SELECT edge FROM jsonb_array_elements(tasker.task_template_graph('graph mixed', 'test') -> 'edges') edge;
\pset tuples_only off
\pset format aligned
-- cycles are refused, not reported
SELECT test.template('graph cycle', 'a<-c; b<-a; c<-b');
SELECT tasker.task_template_graph('graph cycle', 'test');
SELECT tasker.task_template_graph(NULL);

---- a task: nothing has happened ----
-- Seconds are rounded to multiples of 5 where the clock has a part in them.
CREATE FUNCTION pg_temp.steps(task bigint, OUT step text, OUT state tasker.state, OUT level integer, OUT ready boolean, OUT blocked boolean,
	OUT downstream integer, OUT blocked_steps integer, OUT seconds double precision, OUT measured boolean) RETURNS SETOF record LANGUAGE sql AS $$
	SELECT s.step_name, s.state, s.level, s.ready, s.blocked, s.downstream_steps, s.blocked_steps, round(s.seconds / 5) * 5, s.measured
	FROM tasker.graph_steps(task) s ORDER BY s.place
$$;
SELECT tasker.create_task('graph mixed', namespace => 'test') AS task \gset
SELECT * FROM pg_temp.steps(:task);
SELECT rank, step_names, length, blocked_steps AS blocked, estimated_duration, completion_percentage AS percent, criticality_score AS score FROM tasker.critical_paths(:task);
SELECT step_name, downstream_steps, blocked_steps, bottleneck_score, severity FROM tasker.bottlenecks(:task);
SELECT * FROM tasker.parallelism(:task);
SELECT count(*) FROM tasker.error_chains(:task);

---- it runs: 90 s a root, a failure that is retried, one that is not ----
SELECT tasker.orchestrate() > 0 AS orchestrated;
SELECT count(*) FROM tasker.claim_steps(:executor, 2);
SELECT pg_temp.advance(90);
SELECT tasker.complete_step(test.step(:task, step), test.claim(:task, step)) FROM unnest('{init_auth,init_config}'::text[]) step;
SELECT tasker.orchestrate() > 0 AS orchestrated;
SELECT step_name FROM tasker.claim_steps(:executor, 2);
SELECT pg_temp.advance(45);
SELECT tasker.complete_step(test.step(:task, step), test.claim(:task, step)) FROM unnest('{validate_permissions,setup_environment}'::text[]) step;
SELECT tasker.orchestrate() > 0 AS orchestrated;
SELECT step_name FROM tasker.claim_steps(:executor, 2);
SELECT tasker.fail_step(test.step(:task, 'begin_processing'), test.claim(:task, 'begin_processing'), 'busy', retry_after_seconds => 60);
SELECT tasker.fail_step(test.step(:task, 'cleanup_temp_files'), test.claim(:task, 'cleanup_temp_files'), 'disk is gone');
SELECT tasker.orchestrate() >= 0 AS orchestrated;
SELECT * FROM pg_temp.steps(:task);
SELECT rank, step_names, completed_steps AS completed, ready_steps AS ready, blocked_steps AS blocked, error_steps AS error, retried_steps AS retried,
	date_bin('15 seconds', '2000-01-01'::timestamp + estimated_duration, '2000-01-01') - '2000-01-01' AS estimated, remaining_duration AS remaining,
	completion_percentage AS percent, criticality_score AS score, failed_step_names
FROM tasker.critical_paths(:task, 3);
SELECT step_name, state, downstream_steps, blocked_steps, attempts, retry_eligible, bottleneck_score, severity FROM tasker.bottlenecks(:task);
SELECT step_name, bottleneck_score FROM tasker.bottlenecks(:task, 1);
SELECT step_name, error_message, downstream_steps AS downstream, blocked_steps AS blocked, attempts || '/' || retry_limit AS attempts, retry_eligible AS eligible,
	round(extract(epoch FROM next_retry_at - tasker.now()) / 10) * 10 AS retry_in, impact_score, impact_level,
	replace(replace(suggested_actions::text, workflow_step_id::text, 'N'), :'task', 'T') AS suggested_actions
FROM tasker.error_chains(:task);
SELECT * FROM tasker.parallelism(:task);

-- the document is made of the same rows
SELECT analysis -> 'task' ->> 'state' AS state,
	jsonb_array_length(analysis -> 'dependency_graph' -> 'nodes') AS nodes, jsonb_array_length(analysis -> 'dependency_graph' -> 'edges') AS edges,
	(analysis -> 'critical_paths') = (SELECT jsonb_agg(to_jsonb(p)) FROM tasker.critical_paths(:task) p) AS paths,
	(analysis -> 'bottlenecks') = (SELECT jsonb_agg(to_jsonb(b)) FROM tasker.bottlenecks(:task) b) AS bottlenecks,
	(analysis -> 'error_chains') = (SELECT jsonb_agg(to_jsonb(e)) FROM tasker.error_chains(:task) e) AS error_chains,
	(analysis -> 'parallelism' -> 'levels') = (SELECT jsonb_agg(to_jsonb(l)) FROM tasker.parallelism(:task) l) AS levels,
	analysis -> 'parallelism' -> 'efficiency_percentage' AS efficiency
FROM tasker.task_graph_analysis(:task) analysis;

-- the attempts of a step are used up: what waits for it is worse off
SELECT pg_temp.advance(60);
SELECT tasker.orchestrate() > 0 AS orchestrated;
SELECT tasker.complete_step(workflow_step_id, claim) FROM tasker.claim_steps(:executor, 1);
SELECT tasker.orchestrate() > 0 AS orchestrated;
SELECT tasker.fail_step(workflow_step_id, claim, 'no luck', retry_after_seconds => 0) FROM tasker.claim_steps(:executor, 2) WHERE step_name = 'process_critical_data';
SELECT tasker.orchestrate() > 0 AS orchestrated;
SELECT tasker.fail_step(workflow_step_id, claim, 'no luck') FROM tasker.claim_steps(:executor, 1);
SELECT tasker.orchestrate() >= 0 AS orchestrated;
SELECT step_name, state, bottleneck_score, severity FROM tasker.bottlenecks(:task);
SELECT step_name, attempts || '/' || retry_limit AS attempts, retry_eligible AS eligible, impact_score, impact_level FROM tasker.error_chains(:task);

-- a task of which all is finished has no bottleneck and nothing ahead
SELECT tasker.resolve_step(test.step(:task, step)) FROM unnest('{process_critical_data,cleanup_temp_files}'::text[]) step;
SELECT tasker.complete_step(workflow_step_id, sort_key) FROM tasker.workflow_steps WHERE task_id = :task AND state = 'in_progress';
SELECT test.run_all(:executor);
SELECT tasker.task_state(:task);
SELECT rank, step_names[1] AS first, step_names[length] AS last, remaining_duration, completion_percentage, criticality_score FROM tasker.critical_paths(:task);
SELECT count(*) FROM tasker.bottlenecks(:task);

-- the next task expects what was measured, 30 s where nothing was
SELECT tasker.create_task('graph mixed', namespace => 'test') AS next \gset
SELECT step, seconds, measured FROM pg_temp.steps(:next);
SELECT round(extract(epoch FROM duration) / 5) * 5 AS seconds FROM tasker.step_durations WHERE workflow_step_id = test.step(:task, 'init_auth');
SELECT count(*) FROM tasker.step_durations WHERE task_id = :next;
SELECT tasker.cancel_task(:next);
SELECT step, state, seconds, measured FROM pg_temp.steps(:next) LIMIT 1;
RESET tasker.clock_offset;

---- around a step ----
SELECT step_name, distance, state, results FROM tasker.step_transitive_dependencies(test.step(:task, 'finalize_and_report'));
SELECT step_name, distance, state FROM tasker.step_transitive_dependents(test.step(:task, 'init_config'));
SELECT count(*) FROM tasker.step_transitive_dependencies(test.step(:task, 'init_auth'));
SELECT count(*) FROM tasker.step_transitive_dependents(test.step(:task, 'finalize_and_report'));
SELECT tasker.step_transitive_dependencies(-1);
SELECT count(*) FROM tasker.step_transitive_dependencies(NULL);
-- an executor's role needs nothing but the function
CREATE ROLE regress_graph_executor;
GRANT USAGE ON SCHEMA tasker TO regress_graph_executor;
GRANT EXECUTE ON FUNCTION tasker.step_transitive_dependencies(bigint) TO regress_graph_executor;
SELECT test.step(:task, 'begin_processing') AS begin_step \gset
SET ROLE regress_graph_executor;
SELECT step_name, distance FROM tasker.step_transitive_dependencies(:begin_step);
SELECT step_name FROM tasker.step_transitive_dependents(:begin_step);
RESET ROLE;
REVOKE ALL ON FUNCTION tasker.step_transitive_dependencies(bigint) FROM regress_graph_executor;
REVOKE ALL ON SCHEMA tasker FROM regress_graph_executor;
DROP ROLE regress_graph_executor;

-- Siblings have all parents in common: to share one is not enough.
SELECT test.template('graph siblings', 'a; b; c<-a; d<-a; e<-a,b; f<-b,a; g<-b; h<-a,b,c', '{"handler_class": "graph.H"}') > 0 AS registered;
SELECT tasker.create_task('graph siblings', namespace => 'test') AS family \gset
SELECT step, (SELECT string_agg(s.step_name, ', ') FROM tasker.step_siblings(test.step(:family, step)) s) AS siblings FROM test.steps(:family);
SELECT tasker.step_siblings(-1);

---- as wide as a page: 20 levels of 20 have 20 ^ 20 paths ----
SET statement_timeout = '20s';
SELECT tasker.register_task_template(jsonb_build_object('name', 'graph layers', 'namespace_name', 'test', 'step_templates', (
	SELECT jsonb_agg(jsonb_build_object('name', format('s%s.%s', level, n), 'handler_class', 'graph.H', 'depends_on_steps',
		CASE level WHEN 1 THEN '[]' ELSE (SELECT jsonb_agg(format('s%s.%s', level - 1, p)) FROM generate_series(1, 20) p) END) ORDER BY level, n)
	FROM generate_series(1, 20) level, generate_series(1, 20) n))) > 0 AS registered;
SELECT tasker.create_task('graph layers', namespace => 'test') AS layers \gset
SELECT level, count(*), min(downstream) AS downstream, max(blocked_steps) AS blocked FROM pg_temp.steps(:layers) GROUP BY level HAVING level IN (0, 18, 19) ORDER BY level;
SELECT rank, length, step_names[1:2] AS first, criticality_score FROM tasker.critical_paths(:layers, 3);
SELECT step_name, downstream_steps, bottleneck_score FROM tasker.bottlenecks(:layers, 2);
SELECT count(*) AS levels, count(*) FILTER (WHERE potential = 'High') AS high_potential, count(*) FILTER (WHERE bottleneck_risk = 'High') AS at_risk FROM tasker.parallelism(:layers);
SELECT jsonb_array_length(tasker.task_graph_analysis(:layers) -> 'dependency_graph' -> 'edges');
SELECT count(*), max(distance) FROM tasker.step_transitive_dependencies(test.step(:layers, 's20.20'));
SELECT count(*) FROM tasker.step_siblings(test.step(:layers, 's20.20'));
SELECT tasker.task_template_graph('graph layers', 'test') -> 'summary';
SELECT length(tasker.task_diagram(:layers, format)) > 1000 AS drawn FROM unnest('{text,mermaid,dot,json}'::text[]) format;
RESET statement_timeout;

---- no such task ----
SELECT count(*) FROM tasker.graph_steps(-1);
SELECT count(*) FROM tasker.critical_paths(-1);
SELECT count(*) FROM tasker.bottlenecks(NULL);
SELECT count(*) FROM tasker.error_chains(-1);
SELECT count(*) FROM tasker.parallelism(-1);
SELECT tasker.task_graph_analysis(-1);
SELECT * FROM tasker.critical_paths(:task, 0);
SELECT * FROM tasker.critical_paths(:task, 101);
SELECT * FROM tasker.bottlenecks(:task, -1);

SELECT tasker.cancel_task(:family), tasker.cancel_task(:layers);
SELECT tasker.orchestrate() >= 0 AS orchestrated;
SELECT tasker.unregister_executor(:executor);
SELECT * FROM tasker.check();
