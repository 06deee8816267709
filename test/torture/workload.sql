-- What the actors of the torture do, and what they write down of it. Torture.pm
-- registers the templates and fills shape, shape_step and shape_edge from the
-- same dice, so that the laws (Laws.pm) know them without asking the extension.

CREATE SCHEMA torture;

CREATE TABLE torture.shape (name text PRIMARY KEY, synchronous boolean NOT NULL, concurrent boolean NOT NULL);
-- Of those that wait: nobody runs them.
CREATE TABLE torture.shape_step (name text NOT NULL, step text NOT NULL, skippable boolean NOT NULL, attempts integer NOT NULL, waits boolean NOT NULL, PRIMARY KEY (name, step));
CREATE TABLE torture.shape_edge (name text NOT NULL, parent text NOT NULL, child text NOT NULL);

-- What the creator was promised, in the transaction that promised it.
CREATE TABLE torture.promised (task_id bigint PRIMARY KEY, name text NOT NULL);
-- What executors and handlers do in the name of the business, in the transaction that completes the step.
CREATE TABLE torture.business (step_id bigint NOT NULL, claim integer NOT NULL, task_id bigint NOT NULL);
CREATE INDEX ON torture.business (step_id);
CREATE INDEX ON torture.business (task_id);
-- What an operator has done, in the same transaction.
CREATE TABLE torture.operated (task_id bigint NOT NULL, what text NOT NULL);
CREATE INDEX ON torture.operated (task_id);
-- What was published, in the transaction that did.
CREATE TABLE torture.published (event_id bigint PRIMARY KEY);
-- A prepared transaction leaves its name when it is committed.
CREATE TABLE torture.prepared (gid text PRIMARY KEY);
CREATE SEQUENCE torture.gid;
-- What clients have noted after the server had said that it is done: loaded from their journals at the end.
CREATE TABLE torture.acknowledged (what text NOT NULL, id text NOT NULL, claim integer);

CREATE FUNCTION torture.dice(n integer) RETURNS integer LANGUAGE sql VOLATILE AS 'SELECT floor(random() * n)::integer';

-- ---------- executors ----------

-- A kind says how steps come (pull, push, await) and whether the executor lives on a lease.
CREATE FUNCTION torture.begin_executor(kind text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	id bigint := (tasker.register_executor(kind, '{A,B}', CASE WHEN kind LIKE 'push%' THEN 8 ELSE 0 END, kind LIKE '%leased', '1 s')).executor_id;
BEGIN
	PERFORM set_config('torture.executor', id::text, false), set_config('torture.kind', kind, false), set_config('torture.steps', '[]', false);
END
$$;

-- Registers again if the executor has ended.
CREATE FUNCTION torture.revive() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF NOT tasker.heartbeat(current_setting('torture.executor')::bigint) THEN
		PERFORM torture.begin_executor(current_setting('torture.kind'));
	END IF;
END
$$;

-- One turn of an executor that asks: what it has, or claims now ...
CREATE FUNCTION torture.take() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	executor bigint;
	taken jsonb;
BEGIN
	IF current_setting('torture.kind') LIKE '%leased' THEN
		PERFORM torture.revive();
	END IF;
	executor := current_setting('torture.executor');
	IF current_setting('torture.kind') NOT LIKE 'push%' THEN
		SELECT jsonb_agg(to_jsonb(c)) INTO taken FROM tasker.claim_steps(executor, 1 + torture.dice(8)) c;
	END IF;
	IF taken IS NULL THEN
		SELECT jsonb_agg(to_jsonb(c)) INTO taken FROM tasker.my_steps(executor) c;
	END IF;
	PERFORM set_config('torture.steps', coalesce(taken, '[]')::text, false);
	IF taken IS NULL THEN
		PERFORM pg_sleep(0.02);
	END IF;
END
$$;

-- ... or has been given by await_steps; where nothing came, what it forgot before.
CREATE FUNCTION torture.remember(steps jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF steps IS NULL OR jsonb_array_length(steps) = 0 THEN
		SELECT coalesce(jsonb_agg(to_jsonb(c)), '[]') INTO steps FROM tasker.my_steps(current_setting('torture.executor')::bigint) c;
	END IF;
	PERFORM set_config('torture.steps', steps::text, false);
END
$$;

-- ... and, in the next transaction, how it went; returns what is to be noted
-- once it is committed. Sometimes all of it is rolled back.
CREATE FUNCTION torture.report() RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	executor bigint := current_setting('torture.executor');
	given jsonb := current_setting('torture.steps');
	refused bigint[];
	s record;
	die integer;
BEGIN
	PERFORM set_config('torture.steps', '[]', false);
	PERFORM pg_sleep(0.001 * torture.dice(8));
	IF torture.dice(8) = 0 AND given <> '[]' THEN
		SELECT tasker.complete_steps(array_agg(g.workflow_step_id), array_agg(g.claim), NULL, executor, true) INTO refused
		FROM jsonb_to_recordset(given) g(workflow_step_id bigint, claim integer);
		RETURN QUERY WITH done AS (
			INSERT INTO torture.business SELECT g.workflow_step_id, g.claim, g.task_id
			FROM jsonb_to_recordset(given) g(workflow_step_id bigint, claim integer, task_id bigint)
			WHERE g.workflow_step_id <> ALL (refused) AND NOT EXISTS (SELECT FROM torture.business b WHERE b.step_id = g.workflow_step_id AND b.claim = g.claim)
			RETURNING step_id, claim)
		SELECT format('c %s %s', done.step_id, done.claim) FROM done;
		given := '[]';
	END IF;
	-- In the order of the ids: so all who report several steps lock them.
	FOR s IN SELECT * FROM jsonb_to_recordset(given) g(workflow_step_id bigint, claim integer, task_id bigint) ORDER BY 1 LOOP
		die := torture.dice(100);
		BEGIN
			IF die < 80 THEN
				INSERT INTO torture.business VALUES (s.workflow_step_id, s.claim, s.task_id);
				IF NOT tasker.complete_step(s.workflow_step_id, s.claim, jsonb_build_object('by', executor), executor) THEN
					-- Reported before, by this executor, with its row: the echo adds none.
					RAISE EXCEPTION 'step % was reported before', s.workflow_step_id USING ERRCODE = 'TK001';
				END IF;
				-- Said twice, heard once.
				IF die < 5 AND tasker.complete_step(s.workflow_step_id, s.claim, '{"by": "echo"}', executor) THEN
					RAISE EXCEPTION 'step % was completed twice', s.workflow_step_id;
				END IF;
				RETURN NEXT format('c %s %s', s.workflow_step_id, s.claim);
			ELSIF die < 93 THEN
				PERFORM tasker.fail_step(s.workflow_step_id, s.claim, 'no luck', retryable => die < 92,
					retry_after_seconds => CASE WHEN die < 82 THEN 0 END, executor_id => executor);
			ELSIF die < 97 THEN
				PERFORM tasker.release_step(s.workflow_step_id, s.claim, executor);
			END IF;
			-- The rest is forgotten until my_steps tells of it.
		EXCEPTION WHEN SQLSTATE 'TK001' THEN
			NULL;
		END;
	END LOOP;
	IF torture.dice(50) = 0 THEN
		RAISE EXCEPTION 'a rollback';
	END IF;
END
$$;

-- ---------- sessions that run steps themselves ----------

CREATE FUNCTION torture.handle(step tasker.claimed_step) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
	die integer := floor(random() * 100);
BEGIN
	INSERT INTO torture.business VALUES (step.workflow_step_id, step.claim, step.task_id);
	IF die < 2 THEN
		RAISE EXCEPTION 'never' USING ERRCODE = 'TK005';
	ELSIF die < 8 THEN
		RAISE EXCEPTION 'not now' USING ERRCODE = 'TK006', DETAIL = '0';
	ELSIF die < 18 THEN
		RAISE EXCEPTION 'no luck';
	END IF;
	RETURN '{"by": "handler"}';
END
$$;

CREATE FUNCTION torture.coordinate() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	id bigint;
BEGIN
	SELECT t.task_id INTO id FROM tasker.tasks t JOIN tasker.named_tasks n USING (named_task_id) JOIN torture.shape s USING (name)
	WHERE s.synchronous AND t.state IN ('pending', 'in_progress') ORDER BY random() LIMIT 1;
	IF id IS NULL THEN
		PERFORM pg_sleep(0.1);
	ELSIF torture.dice(3) = 0 THEN
		PERFORM tasker.execute_step(v) FROM tasker.find_viable_steps(id) v LIMIT 1;
	ELSE
		PERFORM tasker.coordinate_task(id, 1 + torture.dice(20));
	END IF;
	IF torture.dice(20) = 0 THEN
		RAISE EXCEPTION 'a rollback';
	END IF;
END
$$;

-- A task of its own, from its creation to wherever it comes, in one transaction.
CREATE FUNCTION torture.coordinate_new() RETURNS void LANGUAGE sql AS $$
	WITH one AS MATERIALIZED (SELECT s.name FROM torture.shape s WHERE s.synchronous ORDER BY random() LIMIT 1),
	made AS (INSERT INTO torture.promised SELECT tasker.create_task(one.name, '{}', 't'), one.name FROM one RETURNING task_id)
	SELECT tasker.coordinate_task(made.task_id) FROM made
$$;

-- ---------- the creator ----------

-- Tasks of random shapes; sometimes some of their skippable steps are bypassed.
CREATE FUNCTION torture.promise(n integer) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
	RETURN QUERY WITH request AS MATERIALIZED (
		SELECT (SELECT s.name FROM torture.shape s WHERE i > 0 ORDER BY s.synchronous AND torture.dice(3) > 0, random() LIMIT 1) AS name, torture.dice(5) - 2 AS priority, torture.dice(4) = 0 AS bypasses
		FROM generate_series(1, n) i
	), made AS (
		INSERT INTO torture.promised SELECT tasker.create_task(name, '{}', 't', priority => priority,
			bypass_steps => CASE WHEN bypasses THEN ARRAY(SELECT d.step FROM torture.shape_step d WHERE d.name = request.name AND d.skippable) ELSE '{}' END), name FROM request
		RETURNING task_id
	) SELECT 't ' || made.task_id FROM made;
END
$$;

-- Many at once, all of one shape.
CREATE FUNCTION torture.burst(n integer) RETURNS SETOF text LANGUAGE sql AS $$
	WITH one AS MATERIALIZED (SELECT s.name FROM torture.shape s WHERE NOT s.synchronous ORDER BY random() LIMIT 1),
	requests AS MATERIALIZED (SELECT one.name, array_agg(jsonb_build_object('name', one.name, 'namespace', 't')) AS all FROM one, generate_series(1, n) GROUP BY 1),
	made AS (INSERT INTO torture.promised SELECT c, r.name FROM requests r, LATERAL tasker.create_tasks(r.all) c RETURNING task_id)
	SELECT 't ' || task_id FROM made
$$;

-- Creates as fast as the others can follow.
CREATE FUNCTION torture.create_some() RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
	PERFORM pg_sleep(0.02);
	IF (SELECT count(*) FROM (SELECT t.state FROM tasker.tasks t ORDER BY t.task_id DESC LIMIT 1000) q WHERE state IN ('pending', 'in_progress')) < 300 THEN
		RETURN QUERY SELECT torture.promise(1 + torture.dice(6));
	END IF;
	IF torture.dice(20) = 0 THEN
		RAISE EXCEPTION 'a rollback';
	END IF;
END
$$;

-- ---------- who publishes what steps wait for ----------

CREATE FUNCTION torture.publish() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM pg_sleep(0.1 * random());
	INSERT INTO torture.published SELECT tasker.publish_event('torture.ping', jsonb_build_object('n', torture.dice(4)), CASE WHEN torture.dice(2) = 0 THEN w.task_id END)
	FROM (SELECT s.task_id FROM tasker.step_waits w JOIN tasker.workflow_steps s USING (workflow_step_id) LIMIT 50) w ORDER BY random() LIMIT 1 + torture.dice(3);
	IF torture.dice(10) = 0 THEN
		RAISE EXCEPTION 'a rollback';
	END IF;
END
$$;

-- ---------- operators ----------

-- Does one thing to one task, to a step of it, or to all.
CREATE FUNCTION torture.operate() RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	die integer := torture.dice(40);
	task bigint;
	step bigint;
	what text;
	done boolean;
BEGIN
	PERFORM pg_sleep(0.02 + 0.05 * random());
	IF die < 24 THEN
		SELECT p.task_id INTO task FROM (SELECT q.task_id FROM torture.promised q ORDER BY q.task_id DESC LIMIT 200) p ORDER BY random() LIMIT 1;
	ELSE
		SELECT l.task_id INTO task FROM (SELECT t.task_id FROM tasker.tasks t WHERE t.state = 'error' LIMIT 50) l ORDER BY random() LIMIT 1;
	END IF;
	SELECT s.workflow_step_id INTO step FROM tasker.workflow_steps s WHERE s.task_id = task
	ORDER BY s.state = 'error' DESC, random() LIMIT 1;
	what := CASE WHEN die < 2 THEN 'cancel_task' WHEN die < 4 THEN 'cancel_step' WHEN die < 12 THEN 'retry_step'
		WHEN die < 14 THEN 'resolve_step' WHEN die < 17 THEN 'reenqueue_task' WHEN die < 19 THEN 'finalize_task' WHEN die < 22 THEN 'retry_due_steps' WHEN die < 24 THEN 'retry_task'
		WHEN die < 32 THEN 'retry_task' WHEN die < 36 THEN 'resolve_task' WHEN die < 38 THEN 'cancel_step' ELSE 'resolve_step' END;
	IF task IS NULL OR (step IS NULL AND what LIKE '%\_step') THEN
		RETURN;
	END IF;
	IF what IN ('reenqueue_task', 'finalize_task', 'retry_due_steps') THEN
		EXECUTE format('SELECT tasker.%I($1)', what) USING task;
		RETURN;
	END IF;
	EXECUTE format('SELECT tasker.%I($1, $2)', what) INTO done USING CASE WHEN what LIKE '%\_step' THEN step ELSE task END, 'torture'::text;
	IF done THEN
		INSERT INTO torture.operated VALUES (task, what);
		RETURN NEXT format('o %s %s', task, what);
	END IF;
EXCEPTION WHEN SQLSTATE 'TK002' OR undefined_object THEN
	NULL;
END
$$;

-- Settles what is old, so that retention may take it.
CREATE PROCEDURE torture.retire() LANGUAGE plpgsql AS $$
DECLARE
	t record;
	what text;
BEGIN
	FOR t IN SELECT task_id, state FROM tasker.tasks WHERE requested_at < tasker.now() - interval '2 hours' AND state IN ('error', 'pending', 'in_progress') LOOP
		BEGIN
			what := CASE t.state WHEN 'error' THEN 'resolve_task' ELSE 'cancel_task' END;
			INSERT INTO torture.operated VALUES (t.task_id, what);
			EXECUTE format('SELECT tasker.%I($1, $2)', what) USING t.task_id, 'torture'::text;
		EXCEPTION WHEN SQLSTATE 'TK002' OR undefined_object THEN
			NULL;
		END;
		COMMIT;
	END LOOP;
END
$$;

-- Something that concerns everything, as a statement to run by itself.
CREATE FUNCTION torture.govern() RETURNS text LANGUAGE sql AS $$
	SELECT (ARRAY['SELECT tasker.rebuild_accelerators()', 'SELECT tasker.pause()', 'SELECT tasker.pause(''t'')', 'SELECT tasker.resume()', 'SELECT tasker.resume(''t'')',
		(SELECT format('SELECT tasker.pause(''t'', %L)', s.name) FROM torture.shape s ORDER BY random() LIMIT 1),
		'SELECT tasker.upkeep(''20 s'', 100)', 'SELECT tasker.prune_tasks(tasker.now() - interval ''20 s'', 100)', 'SELECT tasker.retry_due_steps()'])[1 + torture.dice(9)]
$$;

-- Ends all pauses; each of them may be one that was left when its operator was killed.
CREATE FUNCTION torture.resume() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM tasker.resume('t', s.name) FROM torture.shape s;
	PERFORM tasker.resume('t');
	PERFORM tasker.resume();
END
$$;

-- Statements that settle prepared transactions that somebody has left behind.
CREATE FUNCTION torture.settle(older_than interval) RETURNS SETOF text LANGUAGE sql AS $$
	SELECT format('%s PREPARED %L', (ARRAY['COMMIT', 'ROLLBACK'])[1 + torture.dice(2)], gid) FROM pg_prepared_xacts
	WHERE database = current_database() AND prepared < now() - older_than
$$;

-- ---------- who keeps the house, and who is in the way ----------

CREATE FUNCTION torture.chores() RETURNS SETOF text LANGUAGE sql AS $$
	SELECT format('DROP INDEX CONCURRENTLY IF EXISTS tasker.%I', c.relname) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
	WHERE NOT i.indisvalid AND c.relnamespace = 'tasker'::regnamespace AND c.relname ~ '_cc(new|old)\d*$'
		-- One that is being built is nobody's leftover, and to wait for who builds it would be a deadlock.
		AND NOT EXISTS (SELECT FROM pg_stat_activity a WHERE a.state = 'active' AND a.query LIKE 'REINDEX%')
	UNION ALL
	SELECT format((ARRAY['VACUUM tasker.%I', 'VACUUM tasker.%I', 'VACUUM (FREEZE) tasker.%I', 'ANALYZE tasker.%I',
		'REINDEX TABLE CONCURRENTLY tasker.%I', 'REINDEX TABLE CONCURRENTLY tasker.%I', 'CHECKPOINT --%I'])[1 + torture.dice(7)], r.relname)
	FROM (SELECT relname FROM pg_class WHERE relnamespace = 'tasker'::regnamespace AND relkind = 'r'
		AND (relname IN ('tasks', 'workflow_steps', 'work_queue', 'timers', 'orchestrator_checkpoint', 'executors') OR relname ~ '_log_p\d+$') ORDER BY random() LIMIT 1) r
$$;

-- Holds some steps of a task for a while, without a word.
CREATE FUNCTION torture.hold() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM FROM tasker.workflow_steps s WHERE s.task_id = (SELECT t.task_id FROM tasker.tasks t WHERE t.state IN ('pending', 'in_progress') LIMIT 1)
	ORDER BY s.workflow_step_id FOR UPDATE;
	PERFORM pg_sleep(0.5 * random());
END
$$;
