-- Creating tasks: one or many, with everything that can be said about them.

-- What a query says, or the error it ends with; ids are not printed.
CREATE FUNCTION pg_temp.outcome(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	result text;
BEGIN
	EXECUTE query INTO result;
	RETURN result;
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE || ' ' || regexp_replace(SQLERRM, 'task \d+ of', 'task N of');
END
$$;

CREATE FUNCTION pg_temp.register(namespace text, name text, version text, steps jsonb) RETURNS boolean LANGUAGE sql AS $$
	SELECT tasker.register_task_template(jsonb_build_object('name', name, 'namespace_name', namespace, 'version', version,
		'step_templates', (SELECT jsonb_agg('{"handler_class": "task_test"}'::jsonb || s) FROM jsonb_array_elements(steps) s))) IS NOT NULL
$$;

CREATE VIEW pg_temp.tasks_seen AS
SELECT t.task_id, s.name || '.' || n.name || '@' || n.version AS template, t.state, t.sort_key, t.priority, t.identity_key, t.initiator,
	t.source_system, t.reason, t.tags, t.bypass_steps, t.context
FROM tasker.tasks t JOIN tasker.named_tasks n USING (named_task_id) JOIN tasker.task_namespaces s ON s.task_namespace_id = t.task_namespace_id;

-- A diamond, given against the order, with all that a step can differ in.
SELECT pg_temp.register('task_test', 'diamond', '1.0.0', '[
	{"name": "last", "depends_on_steps": ["left", "right"]},
	{"name": "right", "depends_on_step": "first", "skippable": true, "priority": 5},
	{"name": "left", "depends_on_step": "first", "skippable": true, "default_retryable": false, "default_retry_limit": 1},
	{"name": "first", "default_retry_limit": 7, "timeout_seconds": 90, "priority": -1000, "handler_class": "task_test first"}]');
SELECT pg_temp.register('default', 'task_test_single', '0.1.0', '[{"name": "only"}]');

-- ---------- without an orchestrator ----------

-- A preloaded server finds out at its own pace that this database wants none.
DO $$
BEGIN
	FOR i IN 1..1000 LOOP
		EXIT WHEN (SELECT status IN ('off', 'not preloaded') FROM tasker.stat_orchestrator);
		PERFORM pg_sleep(0.01);
	END LOOP;
END
$$;
-- Then the first creation of a session says so, and only that one.
SET client_min_messages = notice;
SELECT tasker.create_task('task_test_single') IS NOT NULL AS created;
SELECT tasker.create_task('task_test_single') IS NOT NULL AS created;
RESET client_min_messages;

-- ---------- one task ----------

-- Everything that can be said.
SELECT clock_timestamp() AS before \gset
SELECT tasker.create_task(name => 'diamond', context => '{"order": 17, "lines": [{"sku": "a\"b"}]}', namespace => 'task_test', version => '1.0.0',
	initiator => 'it''s me', source_system => 'shop', reason => 'a rush order', tags => ARRAY['plain', '', 'with "quotes", commas and {braces}', 'NULL'],
	bypass_steps => ARRAY['left', 'left'], identity_key => 'order 17', priority => -10000) AS task \gset
\x on
SELECT template, state, sort_key, priority, identity_key, initiator, source_system, reason, tags, bypass_steps, context FROM pg_temp.tasks_seen WHERE task_id = :task;
\x off
SELECT t.requested_at BETWEEN :'before' AND clock_timestamp() AS requested_now, t.requested_at = l.created_at AS logged_then,
	t.task_namespace_id = n.task_namespace_id AS namespace_is_that_of_the_template
FROM tasker.tasks t JOIN tasker.task_transitions l USING (task_id) JOIN tasker.named_tasks n USING (named_task_id) WHERE task_id = :task;

-- Its first transition, and that of the step that it bypasses.
SELECT sort_key, from_state, to_state, most_recent, metadata, role = current_user AS mine, executor_id FROM tasker.task_transitions WHERE task_id = :task;
SELECT n.name, l.sort_key, l.from_state, l.to_state, l.most_recent, l.metadata, l.role = current_user AS mine, l.executor_id
FROM tasker.workflow_step_transitions l JOIN tasker.workflow_steps s USING (workflow_step_id) JOIN tasker.named_steps n USING (named_step_id)
WHERE s.task_id = :task;

-- Its steps, by id: prerequisites come first.
\x on
SELECT n.name, s.state, s.sort_key, s.attempts, s.retry_limit, s.retryable, s.skippable, s.timeout_seconds, s.rank, s.is_root, s.is_leaf,
	h.name AS handler, s.executor_id, s.last_attempted_at, s.next_retry_at, s.backoff_request_seconds, s.failed_permanently, s.inputs, s.results
FROM tasker.workflow_steps s JOIN tasker.named_steps n USING (named_step_id) JOIN tasker.handlers h USING (handler_id)
WHERE s.task_id = :task ORDER BY s.workflow_step_id;
\x off
SELECT p.name AS parent, c.name AS child, e.from_step_id < e.to_step_id AS ascending
FROM tasker.workflow_step_edges e
JOIN tasker.workflow_steps f ON f.workflow_step_id = e.from_step_id JOIN tasker.named_steps p ON p.named_step_id = f.named_step_id
JOIN tasker.workflow_steps t ON t.workflow_step_id = e.to_step_id JOIN tasker.named_steps c ON c.named_step_id = t.named_step_id
WHERE f.task_id = :task AND t.task_id = :task ORDER BY e.from_step_id, e.to_step_id;

-- Nothing said but the name; and NULL for everything else, which is the same.
SELECT tasker.create_task('task_test_single') AS task1, tasker.create_task('task_test_single', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL) AS task2 \gset
\x on
SELECT template, state, sort_key, priority, identity_key, initiator, source_system, reason, tags, bypass_steps, context FROM pg_temp.tasks_seen WHERE task_id IN (:task1, :task2);
\x off

-- Any character of a text can be in a text of a task.
SELECT tasker.create_task('task_test_single', '{"🚀": "☃"}', initiator => E'☃ 🚀 \'"\\\n', tags => ARRAY['🚀', '☃'], identity_key => '🚀') AS task \gset
SELECT initiator = E'☃ 🚀 \'"\\\n' AND tags = ARRAY['🚀', '☃'] AND identity_key = '🚀' AND context = '{"🚀": "☃"}' AS kept FROM tasker.tasks WHERE task_id = :task;

-- The clock of tasker stamps what is written.
SET tasker.clock_offset = '-100h';
SELECT tasker.create_task('task_test_single') AS task \gset
RESET tasker.clock_offset;
SELECT round(extract(epoch FROM clock_timestamp() - requested_at) / 3600) AS requested_hours_ago, round(extract(epoch FROM clock_timestamp() - created_at) / 3600) AS logged_hours_ago
FROM tasker.tasks JOIN tasker.task_transitions USING (task_id) WHERE task_id = :task;

-- The creator may say when it was asked for; the log says when it was created.
SELECT tasker.create_task('task_test_single', requested_at => '2001-02-03 04:05:06.789Z') AS task \gset
SELECT requested_at = '2001-02-03 04:05:06.789Z' AS as_said, created_at > now() - interval '1 h' AS logged_now FROM tasker.tasks JOIN tasker.task_transitions USING (task_id) WHERE task_id = :task;
SELECT array_agg(id) AS tasks FROM tasker.create_tasks(ARRAY['{"name": "task_test_single", "requested_at": "2040-02-03T06:05:00+02:00"}', '{"name": "task_test_single", "requested_at": "2040-02-03 04:05Z", "identity_key": "requested"}']::jsonb[]) id \gset
SELECT array_agg(requested_at = '2040-02-03 04:05Z' AND requested_at > created_at) AS as_said FROM tasker.tasks JOIN tasker.task_transitions USING (task_id) WHERE task_id = ANY (:'tasks');

-- ---------- bad arguments ----------

SELECT arguments, pg_temp.outcome('SELECT tasker.create_task(' || arguments || ')')
FROM (VALUES ('NULL'), ($$''$$), ($$'nothing'$$), ($$'diamond'$$), ($$'diamond', namespace => 'nowhere'$$), ($$'diamond', namespace => 'task_test', version => '1.0.1'$$),
	($$'diamond', namespace => ''$$), ($$'Task_test_single'$$),
	($$'task_test_single', '[]'$$), ($$'task_test_single', '"text"'$$), ($$'task_test_single', '1'$$), ($$'task_test_single', 'null'$$), ($$'task_test_single', '[{}]'$$), ($$'task_test_single', '{"a'$$),
	($$'task_test_single', tags => ARRAY['a', NULL]$$), ($$'task_test_single', bypass_steps => ARRAY[NULL]$$),
	($$'task_test_single', bypass_steps => ARRAY['only']$$), ($$'task_test_single', bypass_steps => ARRAY['other']$$), ($$'task_test_single', bypass_steps => ARRAY['']$$),
	($$'task_test_single', requested_at => 'infinity'$$), ($$'task_test_single', requested_at => '-infinity'$$), ($$'task_test_single', priority => 10001$$), ($$'task_test_single', priority => -10001$$), ($$'task_test_single', priority => 2147483647$$), ($$'task_test_single', priority => -2147483648$$)) v (arguments);
-- Texts that are too long, or an empty key.
SELECT argument, length, left(pg_temp.outcome(format('SELECT tasker.create_task(''task_test_single'', %I => repeat(''é'', %s)) IS NOT NULL', argument, length)), 5) AS outcome
FROM (VALUES ('initiator', 128), ('initiator', 129), ('source_system', 128), ('source_system', 129), ('reason', 128), ('reason', 129),
	('identity_key', 512), ('identity_key', 513), ('identity_key', 0), ('initiator', 0)) v (argument, length);
-- In full.
SELECT tasker.create_task('nothing', namespace => 'nowhere', version => '1.2.3');
SELECT tasker.create_task('diamond', namespace => 'task_test', bypass_steps => ARRAY['left', 'first']);
SELECT tasker.create_task('diamond', namespace => 'task_test', bypass_steps => ARRAY['middle']);

-- ---------- bypassing and priorities ----------

SELECT tasker.create_task('diamond', namespace => 'task_test', bypass_steps => ARRAY['right', 'left'], priority => 10000) AS task \gset
SELECT * FROM test.steps(:task);
-- The priority of a task and that of a step add up; a smaller rank runs first.
SELECT n.name, s.rank FROM tasker.workflow_steps s JOIN tasker.named_steps n USING (named_step_id) WHERE s.task_id = :task ORDER BY s.workflow_step_id;
-- The empty array bypasses nothing.
SELECT tasker.create_task('diamond', namespace => 'task_test', bypass_steps => '{}') AS task \gset
SELECT * FROM test.steps(:task);

-- ---------- identity ----------

SELECT pg_temp.register('task_test', 'other', '1.0.0', '[{"name": "only"}]') AND pg_temp.register('task_test_elsewhere', 'diamond', '1.0.0', '[{"name": "only"}]')
	AND pg_temp.register('task_test', 'diamond', '1.1.0', '[{"name": "only"}]') AS registered;
SELECT task_id AS first FROM tasker.tasks WHERE identity_key = 'order 17' \gset
CREATE VIEW pg_temp.written AS
SELECT (SELECT count(*) FROM tasker.tasks) AS tasks, (SELECT count(*) FROM tasker.workflow_steps) AS steps, (SELECT count(*) FROM tasker.workflow_step_edges) AS edges,
	(SELECT count(*) FROM tasker.task_transition_log) AS task_log, (SELECT count(*) FROM tasker.workflow_step_transition_log) AS step_log;
SELECT * FROM pg_temp.written \gset before_
\set count_written 'SELECT tasks - :before_tasks AS tasks, steps - :before_steps AS steps, edges - :before_edges AS edges, task_log - :before_task_log AS task_log, step_log - :before_step_log AS step_log FROM pg_temp.written;'
-- A repeated creation gives the first task and changes nothing, whatever else it says.
SELECT tasker.create_task('diamond', namespace => 'task_test', version => '1.0.0', identity_key => 'order 17') = :first AS first;
SELECT tasker.create_task('diamond', '{"other": true}', namespace => 'task_test', identity_key => 'order 17', priority => 3, tags => '{x}') = :first AS first;
:count_written
SELECT template, priority, tags <> '{x}' AS tags_kept, context ? 'order' AS context_kept FROM pg_temp.tasks_seen WHERE task_id = :first;
-- It does so when the task has ended, too.
SELECT tasker.cancel_task(:first);
SELECT tasker.create_task('diamond', namespace => 'task_test', identity_key => 'order 17') = :first AS first;
-- A key belongs to its namespace, and there to one template.
SELECT tasker.create_task('diamond', namespace => 'task_test_elsewhere', identity_key => 'order 17') <> :first AS another;
SELECT tasker.create_task('diamond', namespace => 'task_test', identity_key => 'Order 17') <> :first AS another;
SELECT pg_temp.outcome($$SELECT tasker.create_task('other', namespace => 'task_test', identity_key => 'order 17')$$);
-- A request that is bad is refused before its key is looked up.
SELECT pg_temp.outcome($$SELECT tasker.create_task('diamond', namespace => 'task_test', identity_key => 'order 17', version => '9.9.9')$$);
-- Where the first creation is rolled back, the next one is the first.
BEGIN;
SELECT tasker.create_task('diamond', namespace => 'task_test', identity_key => 'order 18') AS rolled_back \gset
SELECT tasker.create_task('diamond', namespace => 'task_test', identity_key => 'order 18') = :rolled_back AS first;
SAVEPOINT s;
SELECT tasker.create_task('diamond', namespace => 'task_test', identity_key => 'order 19') AS rolled_back_too \gset
ROLLBACK TO s;
SELECT tasker.create_task('diamond', namespace => 'task_test', identity_key => 'order 19') <> :rolled_back_too AS another;
ROLLBACK;
SELECT tasker.create_task('diamond', namespace => 'task_test', identity_key => 'order 18') NOT IN (:rolled_back, :rolled_back_too) AS another;

-- ---------- many tasks ----------

-- The ids come in the order of the requests, of whatever template they are.
SELECT array_agg(task_id ORDER BY n) AS tasks FROM tasker.create_tasks(ARRAY[
	'{"name": "diamond", "namespace": "task_test", "version": "1.0.0", "context": {"n": 1}, "initiator": "i", "source_system": "s", "reason": "r",
		"tags": ["a", "b, c"], "bypass_steps": ["left"], "identity_key": "many", "priority": 7}',
	'{"name": "task_test_single"}',
	'{"name": "diamond", "namespace": "task_test_elsewhere", "context": {}, "tags": [], "bypass_steps": [], "initiator": ""}',
	'{"name": "task_test_single", "priority": -10000}']::jsonb[]) WITH ORDINALITY r (task_id, n) \gset
\x on
SELECT r.n, t.template, t.state, t.sort_key, t.priority, t.identity_key, t.initiator, t.source_system, t.reason, t.tags, t.bypass_steps, t.context,
	(SELECT string_agg(k.name || ' ' || s.state, ', ' ORDER BY s.workflow_step_id) FROM tasker.workflow_steps s JOIN tasker.named_steps k USING (named_step_id) WHERE s.task_id = t.task_id) AS steps
FROM unnest(:'tasks'::bigint[]) WITH ORDINALITY r (task_id, n) JOIN pg_temp.tasks_seen t USING (task_id) ORDER BY r.n;
\x off

-- A key that occurs twice in a batch, or was there before, is one task.
SELECT array_agg(task_id ORDER BY n) AS tasks FROM tasker.create_tasks(ARRAY[
	'{"name": "diamond", "namespace": "task_test", "version": "1.0.0", "identity_key": "many"}',
	'{"name": "other", "namespace": "task_test", "identity_key": "twice"}',
	'{"name": "task_test_single"}',
	'{"name": "other", "namespace": "task_test", "identity_key": "twice", "context": {"second": true}}',
	'{"name": "other", "namespace": "task_test", "identity_key": "once"}']::jsonb[]) WITH ORDINALITY r (task_id, n) \gset
SELECT dense_rank() OVER (ORDER BY r.task_id) AS task, t.identity_key, t.context,
	(SELECT count(*) FROM tasker.workflow_steps s WHERE s.task_id = t.task_id) AS steps,
	(SELECT count(*) FROM tasker.task_transitions l WHERE l.task_id = t.task_id) AS transitions
FROM unnest(:'tasks'::bigint[]) WITH ORDINALITY r (task_id, n) JOIN tasker.tasks t USING (task_id) ORDER BY r.n;

-- Also in the list of what is selected.
SELECT count(DISTINCT task) FROM (SELECT tasker.create_tasks(array_fill('{"name": "task_test_single"}'::jsonb, ARRAY[300])) AS task) t;
-- Of nothing comes nothing.
SELECT count(*) FROM tasker.create_tasks('{}');
SELECT count(*) FROM tasker.create_tasks(NULL);

-- One bad request refuses all; the message counts from 1.
SELECT * FROM pg_temp.written \gset before_
SELECT pg_temp.outcome(format('SELECT tasker.create_tasks(ARRAY[%L, %L]::jsonb[])', '{"name": "task_test_single"}', request))
FROM (VALUES (NULL), ('[]'), ('"task_test_single"'), ('{}'), ('{"name": null}'), ('{"name": ""}'), ('{"name": 1}'), ('{"name": "nothing"}'),
	('{"name": "task_test_single", "namespace": "nowhere"}'), ('{"name": "task_test_single", "version": "9.9.9"}'), ('{"name": "task_test_single", "version": "newest"}'),
	('{"name": "task_test_single", "context": []}'), ('{"name": "task_test_single", "context": null}'), ('{"name": "task_test_single", "contexts": {}}'),
	('{"name": "task_test_single", "namespace_name": "default"}'), ('{"name": "task_test_single", "tags": "a"}'), ('{"name": "task_test_single", "tags": [1]}'),
	('{"name": "task_test_single", "bypass_steps": ["only"]}'), ('{"name": "task_test_single", "bypass_steps": [null]}'),
	('{"name": "task_test_single", "requested_at": "yesterday at tea time"}'), ('{"name": "task_test_single", "requested_at": "2001-02-30"}'), ('{"name": "task_test_single", "requested_at": 5}'), ('{"name": "task_test_single", "requested_at": "infinity"}'),
	('{"name": "task_test_single", "priority": 10001}'), ('{"name": "task_test_single", "priority": 0.5}'), ('{"name": "task_test_single", "priority": "1"}'),
	('{"name": "task_test_single", "identity_key": ""}'), ('{"name": "task_test_single", "initiator": 5}'),
	('{"name": "diamond", "namespace": "task_test", "identity_key": "twice"}')) v (request);
SELECT pg_temp.outcome(format('SELECT tasker.create_tasks(ARRAY[%L]::jsonb[])', jsonb_build_object('name', 'task_test_single', key, repeat('é', length + 1))))
FROM (VALUES ('namespace', 64), ('version', 32), ('initiator', 128), ('source_system', 128), ('reason', 128), ('identity_key', 512)) v (key, length);
:count_written

-- ---------- within the caller's transaction ----------

BEGIN;
CREATE TEMP TABLE orders (task bigint);
INSERT INTO orders SELECT tasker.create_task('diamond', namespace => 'task_test', version => '1.0.0', bypass_steps => '{left}');
SAVEPOINT s;
INSERT INTO orders SELECT tasker.create_tasks(array_fill('{"name": "diamond", "namespace": "task_test", "version": "1.0.0"}'::jsonb, ARRAY[10]));
:count_written
ROLLBACK TO s;
:count_written
SELECT count(*) AS orders, count(*) FILTER (WHERE tasker.task_state(task) = 'pending') AS pending FROM orders;
ROLLBACK;
:count_written

-- An error after it takes it back.
BEGIN;
SELECT tasker.create_task('task_test_single') IS NOT NULL AS created;
SELECT 1 / 0;
COMMIT;
:count_written

-- From a trigger of the application's own table.
CREATE TEMP TABLE customer_orders (id integer PRIMARY KEY, task_id bigint);
CREATE FUNCTION pg_temp.start_task() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	NEW.task_id := tasker.create_task('task_test_single', jsonb_build_object('order', NEW.id), identity_key => 'trigger ' || NEW.id);
	RETURN NEW;
END
$$;
CREATE TRIGGER start_task BEFORE INSERT ON customer_orders FOR EACH ROW EXECUTE FUNCTION pg_temp.start_task();
INSERT INTO customer_orders SELECT n FROM generate_series(1, 50) n;
SELECT count(*), bool_and(t.context = jsonb_build_object('order', o.id)) AS with_its_context FROM customer_orders o JOIN tasker.tasks t USING (task_id);

-- What the functions pin for their own statements is as it was, after errors too.
SELECT current_setting('enable_seqscan') AS seqscan, current_setting('enable_hashjoin') AS hashjoin, current_setting('search_path') AS search_path, current_user = session_user AS self;

-- ---------- size ----------

-- 5 000 steps in layers of 100, each step with up to three parents. The
-- statistics say that templates have one step; a plan that believes them and
-- reads all steps for each edge takes minutes instead of a second.
ANALYZE tasker.named_tasks, tasker.named_steps, tasker.named_tasks_named_steps, tasker.named_step_edges, tasker.handlers, tasker.dependent_systems;
SET statement_timeout = '15s';
SELECT pg_temp.register('task_test', 'large', '1.0.0', jsonb_agg(jsonb_build_object('name', 'step ' || n, 'skippable', n % 1000 = 0, 'depends_on_steps',
	(SELECT coalesce(jsonb_agg('step ' || p), '[]') FROM unnest(ARRAY[n - 100, n - 101, n - 150]) p WHERE p > 0)) ORDER BY n DESC))
FROM generate_series(1, 5000) n;
SELECT tasker.create_task('large', namespace => 'task_test', bypass_steps => ARRAY['step 1000', 'step 5000']) AS task \gset
SELECT count(*) AS steps, count(DISTINCT named_step_id) AS kinds, count(*) FILTER (WHERE is_root) AS roots, count(*) FILTER (WHERE is_leaf) AS leaves,
	count(*) FILTER (WHERE state = 'resolved_manually') AS resolved, count(*) FILTER (WHERE state = 'pending') AS pending
FROM tasker.workflow_steps WHERE task_id = :task;
-- So many edges are joined by hash, in the order that is written: what the statistics say of them is not what this is about.
SET enable_nestloop = off;
SET join_collapse_limit = 1;
SET from_collapse_limit = 1;
SELECT count(*) AS edges, bool_and(e.from_step_id < e.to_step_id) AS topological,
	bool_and(substr(c.name, 6)::integer - substr(p.name, 6)::integer IN (100, 101, 150)) AS as_written
FROM tasker.workflow_step_edges e
JOIN tasker.workflow_steps f ON f.workflow_step_id = e.from_step_id JOIN tasker.named_steps p ON p.named_step_id = f.named_step_id
JOIN tasker.workflow_steps t ON t.workflow_step_id = e.to_step_id JOIN tasker.named_steps c ON c.named_step_id = t.named_step_id
WHERE t.task_id = :task;
-- Five more at once are written in more than one portion.
ANALYZE tasker.tasks, tasker.workflow_steps, tasker.named_step_edges;
SELECT * FROM pg_temp.written \gset before_
RESET enable_nestloop;
RESET join_collapse_limit;
RESET from_collapse_limit;
BEGIN;
SET LOCAL enable_nestloop = off;
SELECT count(*) FROM tasker.create_tasks(array_fill('{"name": "large", "namespace": "task_test", "bypass_steps": ["step 3000"]}'::jsonb, ARRAY[5]));
:count_written
ROLLBACK;
RESET statement_timeout;
-- A context of a few megabytes comes back as it was.
SELECT tasker.create_task('task_test_single', jsonb_build_object('text', repeat('0123456789abcdef', 200000))) AS task \gset
SELECT length(context->>'text') FROM tasker.tasks WHERE task_id = :task;

-- Nothing of this waits for work that will never come.
SELECT count(*) FILTER (WHERE NOT tasker.cancel_task(task_id)) AS not_cancelled
FROM pg_temp.tasks_seen WHERE template ~ 'task_test' AND state IN ('pending', 'in_progress');
SELECT tasker.orchestrate() IS NOT NULL AS done;
SELECT * FROM tasker.check();
