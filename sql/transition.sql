-- The state machines: which state may follow which, under which guards, and
-- what the log says of it.

SELECT test.template('transition_single', 'a', '{"handler_class": "transition_test"}') IS NOT NULL AS single,
	test.template('transition_chain', 'a; b<-a; c<-a,b', '{"handler_class": "transition_test", "default_retry_limit": 2}') IS NOT NULL AS chain,
	test.template('transition_once', 'a', '{"handler_class": "transition_test", "default_retryable": false, "default_retry_limit": 5}') IS NOT NULL AS once,
	test.template('transition_zero', 'a', '{"handler_class": "transition_test", "default_retry_limit": 0}') IS NOT NULL AS zero;

CREATE FUNCTION pg_temp.new_task(name text DEFAULT 'transition_single') RETURNS bigint LANGUAGE sql AS $$
	SELECT tasker.create_task(name, namespace => 'test')
$$;

-- What a query says, or the error it ends with; ids are not printed.
CREATE FUNCTION pg_temp.outcome(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	result text;
	detail text;
	hint text;
BEGIN
	EXECUTE query INTO result;
	RETURN result;
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN SQLSTATE || ' ' || regexp_replace(SQLERRM, '(task|step) \d+ ', '\1 N ') || coalesce(' | ' || nullif(detail, ''), '') || coalesce(' | ' || nullif(hint, ''), '');
END
$$;

-- ---------- every state to every state ----------

-- A legal path to each state.
CREATE TABLE pg_temp.paths AS
SELECT owner, state::tasker.state, path::tasker.state[]
FROM (VALUES
	('task', 'pending', '{}'), ('task', 'in_progress', '{in_progress}'), ('task', 'complete', '{in_progress,complete}'),
	('task', 'error', '{in_progress,error}'), ('task', 'cancelled', '{cancelled}'), ('task', 'resolved_manually', '{error,resolved_manually}'),
	('step', 'pending', '{}'), ('step', 'in_progress', '{in_progress}'), ('step', 'complete', '{in_progress,complete}'),
	('step', 'error', '{in_progress,error}'), ('step', 'cancelled', '{cancelled}'), ('step', 'resolved_manually', '{resolved_manually}')) p (owner, state, path);

-- Makes a task (its step is settled, so that no guard is in the way) or a step,
-- brings it to a state, asks for another one in one of four ways, and
-- takes all of it back. Says what came of it, and whether state and log agree.
CREATE FUNCTION pg_temp.attempt(way text, owner text, path tasker.state[], target tasker.state) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	task bigint;
	id bigint;
	said text;
	origin tasker.state;
	shown tasker.state;
BEGIN
	task := pg_temp.new_task();
	id := CASE owner WHEN 'task' THEN task ELSE test.step(task, 'a') END;
	IF owner = 'task' THEN
		PERFORM tasker.transition_step(test.step(task, 'a'), 'resolved_manually');
	END IF;
	FOR i IN 1..cardinality(path) LOOP
		EXECUTE format('SELECT tasker.transition_%s($1, $2)', owner) USING id, path[i];
	END LOOP;
	EXECUTE format('SELECT tasker.%s_state($1)', owner) INTO origin USING id;
	BEGIN
		EXECUTE format(CASE way
			WHEN 'raise' THEN 'SELECT tasker.transition_%s($1, $2)'
			WHEN 'safe' THEN 'SELECT tasker.safe_transition_%s($1, $2)'
			WHEN 'from pending' THEN 'SELECT tasker.conditional_transition_%s($1, $2, ''{pending}'')'
			WHEN 'from any' THEN 'SELECT tasker.conditional_transition_%s($1, $2, enum_range(NULL::tasker.state))' END, owner)
		INTO said USING id, target;
	EXCEPTION WHEN OTHERS THEN
		said := SQLSTATE;
	END;
	EXECUTE format('SELECT tasker.%s_state($1)', owner) INTO shown USING id;
	IF shown <> (CASE WHEN said IN ('TK002', 'not_allowed') THEN origin ELSE target END) OR EXISTS (SELECT FROM tasker.check()) THEN
		said := said || ', but it is ' || shown;
	END IF;
	RAISE EXCEPTION USING ERRCODE = 'XX999';
EXCEPTION WHEN SQLSTATE 'XX999' THEN
	RETURN said;
END
$$;
CREATE VIEW pg_temp.attempts AS
SELECT owner, way, p.state AS "from", target, pg_temp.attempt(way, owner, path, target) AS outcome
FROM pg_temp.paths p, unnest(enum_range(NULL::tasker.state)) target, unnest(ARRAY['raise', 'safe', 'from pending', 'from any']) way;

-- A number is the sort_key of the transition that was made.
SELECT "from", target, outcome FROM pg_temp.attempts WHERE owner = 'task' AND way = 'raise' ORDER BY "from", target \crosstabview
SELECT "from", target, outcome FROM pg_temp.attempts WHERE owner = 'step' AND way = 'raise' ORDER BY "from", target \crosstabview
SELECT "from", target, outcome FROM pg_temp.attempts WHERE owner = 'task' AND way = 'safe' ORDER BY "from", target \crosstabview
SELECT "from", target, outcome FROM pg_temp.attempts WHERE owner = 'step' AND way = 'safe' ORDER BY "from", target \crosstabview
SELECT "from", target, outcome FROM pg_temp.attempts WHERE owner = 'task' AND way = 'from pending' ORDER BY "from", target \crosstabview
SELECT "from", target, outcome FROM pg_temp.attempts WHERE owner = 'step' AND way = 'from pending' ORDER BY "from", target \crosstabview

-- The table that the view shows is the one that decides, and every state allowed is no condition.
SELECT a.owner, a."from", a.target, a.outcome
FROM pg_temp.attempts a
LEFT JOIN tasker.allowed_transitions l ON l.owner = a.owner AND l.from_state = a."from" AND l.to_state = a.target
WHERE a.way = 'from any'
	AND a.outcome <> CASE WHEN a."from" = a.target THEN 'already_in_state' WHEN l.event IS NULL THEN 'not_allowed' ELSE 'transitioned' END;

-- ---------- what is written ----------

-- A long way through the states, one transition each.
SELECT pg_temp.new_task('transition_chain') AS task \gset
SELECT test.step(:task, 'a') AS a, test.step(:task, 'b') AS b, test.step(:task, 'c') AS c \gset
SELECT count(*) AS transitions FROM tasker.workflow_step_transitions WHERE workflow_step_id = :a;
SELECT pg_current_xact_id() AS before \gset
SELECT clock_timestamp() AS since \gset
-- What the row of a step says after a transition to the state.
CREATE FUNCTION pg_temp.walk(step bigint, target tasker.state, metadata jsonb DEFAULT '{}',
	OUT state tasker.state, OUT transition integer, OUT sort_key integer, OUT attempts integer, OUT retry text, OUT attempted boolean, OUT executor_id bigint)
LANGUAGE plpgsql AS $$
BEGIN
	transition := tasker.transition_step(step, target, metadata);
	SELECT s.state, s.sort_key, s.attempts, CASE WHEN s.next_retry_at <= tasker.now() THEN 'now' WHEN s.next_retry_at IS NOT NULL THEN 'later' END,
		s.last_attempted_at IS NOT NULL, s.executor_id
	INTO walk.state, walk.sort_key, walk.attempts, retry, attempted, walk.executor_id
	FROM tasker.workflow_steps s WHERE s.workflow_step_id = step;
END
$$;
SELECT * FROM pg_temp.walk(:a, 'in_progress');
SELECT * FROM pg_temp.walk(:a, 'pending', '{"why": "given back"}');
SELECT * FROM pg_temp.walk(:a, 'in_progress', NULL);
SELECT * FROM pg_temp.walk(:a, 'error', '{"nested": {"list": [1, null, "\u00e9 \"quoted\""]}}');
SELECT * FROM pg_temp.walk(:a, 'pending');
SELECT * FROM pg_temp.walk(:a, 'in_progress');
SELECT * FROM pg_temp.walk(:a, 'error');
SELECT * FROM pg_temp.walk(:a, 'pending');
SELECT * FROM pg_temp.walk(:a, 'error');
SELECT * FROM pg_temp.walk(:a, 'pending');
SELECT * FROM pg_temp.walk(:a, 'in_progress');
SELECT * FROM pg_temp.walk(:a, 'complete');
SELECT sort_key, from_state, to_state, most_recent, metadata, role = current_user AS mine, executor_id,
	created_at BETWEEN :'since' AND clock_timestamp() AS created_now, created_at >= lag(created_at, 1, created_at) OVER w AS in_order,
	xact_id > :'before'::xid8 AND xact_id > lag(xact_id, 1, :'before'::xid8) OVER w AS own_transaction
FROM tasker.workflow_step_transitions WHERE workflow_step_id = :a WINDOW w AS (ORDER BY sort_key) ORDER BY sort_key;
-- An empty object is not stored.
SELECT count(*) AS transitions, count(metadata) AS with_metadata FROM tasker.workflow_step_transition_log WHERE workflow_step_id = :a;

-- The same for a task: the first transition is its creation.
SELECT tasker.transition_task(:task, 'in_progress', '{"n": 1}'), tasker.transition_task(:task, 'pending'), tasker.transition_task(:task, 'error'), tasker.transition_task(:task, 'pending'),
	tasker.transition_task(:task, 'in_progress'), tasker.transition_task(:task, 'error', NULL), tasker.transition_task(:task, 'resolved_manually', '{"by": "hand"}'), tasker.transition_task(:task, 'cancelled');
SELECT sort_key, from_state, to_state, most_recent, metadata, role = current_user AS mine, executor_id,
	created_at BETWEEN :'since'::timestamptz - interval '1 min' AND clock_timestamp() AS created_now, created_at >= lag(created_at, 1, created_at) OVER w AS in_order
FROM tasker.task_transitions WHERE task_id = :task WINDOW w AS (ORDER BY sort_key) ORDER BY sort_key;
SELECT state, sort_key FROM tasker.tasks WHERE task_id = :task;

-- The clock of tasker stamps it.
SELECT pg_temp.new_task() AS task \gset
SET tasker.clock_offset = '50h';
SELECT tasker.transition_task(:task, 'in_progress');
RESET tasker.clock_offset;
SELECT sort_key, round(extract(epoch FROM created_at - clock_timestamp()) / 3600) AS hours_ahead FROM tasker.task_transitions WHERE task_id = :task ORDER BY 1;

-- Taken back, it never was; the next one has the same number.
BEGIN;
SELECT tasker.transition_task(:task, 'error');
SAVEPOINT s;
SELECT tasker.transition_task(:task, 'resolved_manually');
ROLLBACK TO s;
SELECT tasker.transition_task(:task, 'pending');
SELECT sort_key, to_state, most_recent FROM tasker.task_transitions WHERE task_id = :task ORDER BY 1;
ROLLBACK;
SELECT tasker.transition_task(:task, 'pending');
SELECT sort_key, to_state, most_recent FROM tasker.task_transitions WHERE task_id = :task ORDER BY 1;

-- ---------- guards ----------

-- A step starts when all it depends on is complete or resolved, and not before.
SELECT pg_temp.new_task('transition_chain') AS task \gset
SELECT test.step(:task, 'a') AS a, test.step(:task, 'b') AS b, test.step(:task, 'c') AS c \gset
SELECT pg_temp.outcome(format('SELECT tasker.transition_step(%s, ''in_progress'')', :b));
SELECT tasker.safe_transition_step(:b, 'in_progress') AS b, tasker.conditional_transition_step(:c, 'in_progress', '{pending}') AS c;
SELECT tasker.transition_step(:a, 'in_progress');
SELECT tasker.safe_transition_step(:b, 'in_progress') AS parent_in_progress;
SELECT tasker.transition_step(:a, 'error');
SELECT tasker.safe_transition_step(:b, 'in_progress') AS parent_in_error;
SELECT tasker.transition_step(:a, 'resolved_manually');
SELECT tasker.safe_transition_step(:c, 'in_progress') AS one_parent_of_two;
SELECT tasker.transition_step(:b, 'in_progress');
SELECT tasker.transition_step(:b, 'complete');
SELECT tasker.safe_transition_step(:c, 'in_progress') AS both_parents;
-- A cancelled one satisfies nobody. What is no start has no such guard.
SELECT pg_temp.new_task('transition_chain') AS task2 \gset
SELECT tasker.transition_step(test.step(:task2, 'a'), 'cancelled');
SELECT tasker.safe_transition_step(test.step(:task2, 'b'), 'in_progress') AS parent_cancelled, tasker.safe_transition_step(test.step(:task2, 'b'), 'resolved_manually') AS resolved,
	tasker.safe_transition_step(test.step(:task2, 'c'), 'error') AS failed;

-- A task completes when all its steps are complete or resolved.
SELECT tasker.transition_task(:task, 'in_progress');
SELECT pg_temp.outcome(format('SELECT tasker.transition_task(%s, ''complete'')', :task));
SELECT tasker.safe_transition_task(:task, 'complete') AS step_in_progress;
SELECT tasker.transition_step(:c, 'complete');
SELECT tasker.safe_transition_task(:task, 'complete') AS all_settled;
SELECT tasker.transition_task(:task2, 'in_progress');
SELECT tasker.safe_transition_task(:task2, 'complete') AS steps_cancelled_and_failed;

-- A step has its attempts, counted when it starts, and no more: here two.
SELECT pg_temp.new_task('transition_chain') AS task \gset
SELECT test.step(:task, 'a') AS a \gset
CREATE FUNCTION pg_temp.fail(step bigint) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	PERFORM tasker.transition_step(step, 'in_progress');
	PERFORM tasker.transition_step(step, 'error', '{"reason": "test"}');
	RETURN (SELECT format('attempt %s of %s, may retry: %s', attempts, retry_limit, next_retry_at IS NOT NULL) FROM tasker.workflow_steps WHERE workflow_step_id = step);
END
$$;
SELECT pg_temp.fail(:a);
-- A retry by hand counts from the beginning.
SELECT tasker.transition_step(:a, 'pending');
SELECT pg_temp.fail(:a);
-- The one of the orchestrator does not.
SELECT tasker.orchestrate() > 0 AS promoted;
SELECT state, attempts FROM tasker.workflow_steps WHERE workflow_step_id = :a;
SELECT pg_temp.fail(:a);
-- The task has ended in error: nothing of it can run any more.
SELECT tasker.orchestrate() > 0 AS finalized;
SELECT tasker.task_state(:task);
-- The first attempt is always allowed, also of a step that must not be retried.
SELECT pg_temp.fail(test.step(pg_temp.new_task('transition_once'), 'a')) AS once, pg_temp.fail(test.step(pg_temp.new_task('transition_zero'), 'a')) AS zero;
-- A step in error that never ran may still have its first attempt.
SELECT pg_temp.new_task('transition_once') AS task \gset
SELECT * FROM pg_temp.walk(test.step(:task, 'a'), 'error');

-- ---------- three outcomes, and errors in full ----------

SELECT pg_temp.new_task() AS task \gset
SELECT test.step(:task, 'a') AS a \gset
SELECT tasker.safe_transition_task(:task, 'in_progress'), tasker.safe_transition_task(:task, 'in_progress', '{"again": true}'), tasker.safe_transition_task(:task, 'resolved_manually');
-- Already there comes before everything else, from whatever states it may come.
SELECT tasker.conditional_transition_task(:task, 'error', '{pending,complete}') AS other, tasker.conditional_transition_task(:task, 'error', '{}') AS none,
	tasker.conditional_transition_task(:task, 'error', ARRAY[NULL]::tasker.state[]) AS unknown, tasker.conditional_transition_task(:task, 'in_progress', '{}') AS already,
	tasker.conditional_transition_task(:task, 'error', '{in_progress,pending}') AS one_of_them;
SELECT tasker.conditional_transition_step(:a, 'in_progress', '{error}') AS other, tasker.conditional_transition_step(:a, 'in_progress', '{pending}', '{"m": 1}') AS one_of_them,
	tasker.conditional_transition_step(:a, 'in_progress', '{error}') AS already, tasker.conditional_transition_step(:a, 'resolved_manually', '{in_progress}') AS illegal;
-- Nothing is written where nothing moved.
SELECT * FROM test.history(:task);
SELECT metadata FROM tasker.workflow_step_transitions WHERE workflow_step_id = :a;

SELECT pg_temp.outcome(format(query, :task, :a)) FROM (VALUES
	('SELECT tasker.transition_task(%1$s, ''error'')'),
	('SELECT tasker.transition_task(%1$s, ''complete'')'),
	('SELECT tasker.transition_step(%2$s, ''in_progress'')'),
	('SELECT tasker.transition_step(%2$s, ''resolved_manually'')'),
	('SELECT tasker.transition_step(%2$s, ''cancelled'')'),
	('SELECT tasker.transition_step(%2$s, ''pending'')'),
	('SELECT tasker.transition_task(-1, ''error'')'),
	('SELECT tasker.transition_step(-1, ''error'')'),
	('SELECT tasker.safe_transition_task(0, ''error'')'),
	('SELECT tasker.safe_transition_step(0, ''error'')'),
	('SELECT tasker.conditional_transition_task(9223372036854775807, ''error'', ''{pending}'')'),
	('SELECT tasker.conditional_transition_step(9223372036854775807, ''error'', ''{}'')'),
	('SELECT tasker.transition_task(NULL, ''error'')'),
	('SELECT tasker.transition_task(%1$s, NULL)'),
	('SELECT tasker.transition_step(NULL, NULL)'),
	('SELECT tasker.safe_transition_task(NULL, ''error'')'),
	('SELECT tasker.safe_transition_step(%2$s, NULL)'),
	('SELECT tasker.conditional_transition_task(%1$s, ''pending'', NULL)'),
	('SELECT tasker.conditional_transition_step(NULL, ''pending'', ''{error}'')'),
	('SELECT tasker.transition_task(%1$s, ''pending'', ''[]'')'),
	('SELECT tasker.transition_task(%1$s, ''pending'', ''"text"'')'),
	('SELECT tasker.transition_step(%2$s, ''pending'', ''1'')'),
	('SELECT tasker.safe_transition_step(%2$s, ''pending'', ''null'')'),
	('SELECT tasker.conditional_transition_task(%1$s, ''pending'', ''{error}'', ''[{}]'')'),
	('SELECT tasker.transition_task(%1$s, ''finished'')')) v (query);
-- What ends a task for good says so.
SELECT tasker.cancel_task(pg_temp.new_task()) AS cancelled;
SELECT pg_temp.outcome(format('SELECT tasker.transition_task(%s, ''pending'')', max(task_id))) FROM tasker.tasks WHERE state = 'cancelled';
-- After all these errors the session is as it was.
SELECT current_setting('enable_seqscan') AS seqscan, current_setting('enable_hashjoin') AS hashjoin, current_setting('search_path') AS search_path, current_user = session_user AS self;

-- ---------- asking ----------

SELECT tasker.task_state(:task), tasker.step_state(:a), tasker.task_state(-1) AS no_task, tasker.step_state(-1) AS no_step, tasker.task_state(NULL) AS null_task, tasker.step_state(NULL) AS null_step;
SELECT tasker.task_in_any_state(:task, '{pending,error}') AS "in", tasker.task_in_any_state(:task, '{pending,complete}') AS other, tasker.task_in_any_state(:task, '{}') AS none,
	tasker.task_in_any_state(-1, enum_range(NULL::tasker.state)) AS no_task, tasker.task_in_any_state(NULL, '{error}') AS null_task, tasker.task_in_any_state(:task, NULL) AS null_states;
SELECT tasker.step_in_any_state(:a, '{pending,cancelled}') AS "in", tasker.step_in_any_state(:a, '{pending,complete}') AS other, tasker.step_in_any_state(:a, '{}') AS none,
	tasker.step_in_any_state(-1, enum_range(NULL::tasker.state)) AS no_step, tasker.step_in_any_state(NULL, '{cancelled}') AS null_step, tasker.step_in_any_state(:a, NULL) AS null_states;

-- ---------- who ----------

-- The log names the role that called, not the one that owns the tables; an
-- operator needs no rights on the tables.
CREATE ROLE regress_tasker_transition;
GRANT USAGE ON SCHEMA tasker TO regress_tasker_transition;
GRANT EXECUTE ON FUNCTION tasker.create_task, tasker.transition_task, tasker.transition_step TO regress_tasker_transition;
SET ROLE regress_tasker_transition;
SELECT tasker.create_task('transition_single', namespace => 'test') AS task \gset
SELECT tasker.transition_task(:task, 'in_progress');
\set VERBOSITY terse
SELECT count(*) FROM tasker.tasks;
SELECT tasker.safe_transition_task(:task, 'error');
\set VERBOSITY default
RESET ROLE;
SELECT test.step(:task, 'a') AS a \gset
SET ROLE regress_tasker_transition;
SELECT tasker.transition_step(:a, 'resolved_manually');
RESET ROLE;
SELECT tasker.transition_task(:task, 'complete');
SELECT to_state, CASE role WHEN current_user THEN 'myself' ELSE role END AS role, executor_id FROM tasker.task_transitions WHERE task_id = :task ORDER BY sort_key;
SELECT to_state, role, executor_id FROM tasker.workflow_step_transitions WHERE workflow_step_id = :a;

DROP OWNED BY regress_tasker_transition;
DROP ROLE regress_tasker_transition;

-- An executor is named where it got the step and where it reports.
SELECT pg_temp.new_task() AS task \gset
SELECT test.step(:task, 'a') AS a \gset
SELECT tasker.orchestrate() > 0 AS queued;
SELECT executor_id AS executor FROM tasker.register_executor('transition test', '{transition_test}', 0) \gset
-- Other tasks of this file have waited longer.
SELECT count(*) > 0 AS claimed FROM tasker.claim_steps(:executor, 100);
SELECT tasker.complete_step(:a, test.claim(:task, 'a'), '{}', :executor);
SELECT sort_key, from_state, to_state, most_recent, role = current_user AS mine, executor_id = :executor AS by_executor FROM tasker.workflow_step_transitions WHERE workflow_step_id = :a ORDER BY sort_key;
SELECT tasker.unregister_executor(:executor);

-- ---------- over all ----------

-- Exactly one transition of each owner is its most recent, and the row agrees with it.
SELECT count(*) FROM (SELECT task_id FROM tasker.tasks LEFT JOIN tasker.task_transitions USING (task_id) GROUP BY task_id HAVING count(*) FILTER (WHERE most_recent) <> 1) t;
SELECT count(*) FROM (SELECT workflow_step_id FROM tasker.workflow_step_transitions GROUP BY 1 HAVING count(*) FILTER (WHERE most_recent) <> 1) t;
SELECT count(*) FROM tasker.workflow_steps s LEFT JOIN tasker.workflow_step_transitions l ON l.workflow_step_id = s.workflow_step_id AND l.most_recent
WHERE s.state <> coalesce(l.to_state, 'pending') OR s.sort_key <> coalesce(l.sort_key, 0);
-- Numbers are 10, 20, 30, ... and each transition starts where the one before it ended.
SELECT count(*) FROM (SELECT sort_key - lag(sort_key, 1, 0) OVER w <> 10 OR from_state IS DISTINCT FROM lag(to_state) OVER w AS broken
	FROM tasker.task_transitions WINDOW w AS (PARTITION BY task_id ORDER BY sort_key)) t WHERE broken;
SELECT count(*) FROM (SELECT sort_key - lag(sort_key, 1, 0) OVER w <> 10 OR from_state IS DISTINCT FROM lag(to_state, 1, 'pending') OVER w AS broken
	FROM tasker.workflow_step_transitions WINDOW w AS (PARTITION BY workflow_step_id ORDER BY sort_key)) t WHERE broken;

-- Nothing of this waits for work that will never come.
SELECT count(*) FILTER (WHERE NOT tasker.cancel_task(task_id)) AS not_cancelled
FROM tasker.tasks JOIN tasker.named_tasks USING (named_task_id) WHERE name ~ '^transition_' AND state IN ('pending', 'in_progress');
SELECT tasker.orchestrate() IS NOT NULL AS done;
SELECT * FROM tasker.check();
