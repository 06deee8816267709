-- Random DAGs and random schedules, lived through by the extension and by the
-- model (model.sql) side by side.
--
-- A DAG is made from a number alone (its seed); an event is a row of integers
-- that makes sense in any state, because the model predicts refusals too. So
-- a schedule can be replayed with events left out, and a mismatch is reduced
-- to the few events that cause it.

-- kind and up to four numbers; quiet: no orchestrate() before the next event.
CREATE TYPE oracle.event AS (kind text, a integer, b integer, c integer, d integer, quiet boolean);

CREATE UNLOGGED TABLE oracle.trace (n integer GENERATED ALWAYS AS IDENTITY, event oracle.event NOT NULL);
CREATE UNLOGGED TABLE oracle.problem (n integer GENERATED ALWAYS AS IDENTITY, what text NOT NULL);
CREATE UNLOGGED TABLE oracle.tally (kind text PRIMARY KEY, n bigint NOT NULL DEFAULT 0);
-- What check() said of earlier DAGs: only news count.
CREATE UNLOGGED TABLE oracle.known (problem text);

-- ---------- chance ----------

-- The generator of Park and Miller; its state is a setting of the session.
CREATE FUNCTION oracle.rand(n integer) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
	s bigint := current_setting('oracle.random')::bigint * 48271 % 2147483647;
BEGIN
	PERFORM set_config('oracle.random', s::text, false);
	RETURN (s / 64) % n;
END
$$;

CREATE FUNCTION oracle.seed(seed bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM set_config('oracle.random', ((seed * 7919 + 12345) % 2147483646 + 1)::text, false);
	FOR i IN 1..5 LOOP
		PERFORM oracle.rand(2);
	END LOOP;
END
$$;

-- ---------- DAGs ----------

-- 1 to 30 steps, mostly few; chains, fans, layers, forests and thickets.
CREATE FUNCTION oracle.make_dag(seed bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	size integer;
	shape integer;
	width integer;
	density integer;
	parents integer[];
	retryable boolean;
BEGIN
	DELETE FROM oracle.template_step;
	DELETE FROM oracle.task;
	DELETE FROM oracle.step;
	DELETE FROM oracle.log;
	DELETE FROM oracle.executor;
	PERFORM oracle.seed(seed);
	size := CASE oracle.rand(10) WHEN 0 THEN 1 WHEN 1 THEN 10 + oracle.rand(21) WHEN 2 THEN 8 + oracle.rand(8) ELSE 2 + oracle.rand(7) END;
	shape := oracle.rand(6);
	width := 1 + oracle.rand(5);
	density := 5 + oracle.rand(60);
	FOR p IN 1..size LOOP
		parents := CASE shape
			WHEN 0 THEN ARRAY(SELECT q FROM generate_series(1, p - 1) q WHERE oracle.rand(100) < density ORDER BY q)
			WHEN 1 THEN ARRAY(SELECT q FROM generate_series(greatest(1, p - 1), p - 1) q)
			WHEN 2 THEN CASE WHEN p = 1 THEN '{}' WHEN p = size THEN ARRAY(SELECT q FROM generate_series(least(2, p - 1), p - 1) q) ELSE '{1}' END
			WHEN 3 THEN ARRAY(SELECT q FROM generate_series(greatest(1, ((p - 1) / width - 1) * width + 1), (p - 1) / width * width) q WHERE oracle.rand(100) < 70 ORDER BY q)
			WHEN 4 THEN CASE WHEN p = 1 OR oracle.rand(5) = 0 THEN '{}' ELSE ARRAY[1 + oracle.rand(p - 1)] END
			ELSE ARRAY(SELECT DISTINCT greatest(1, p - 1 - oracle.rand(3)) FROM generate_series(1, 2) WHERE p > 1 ORDER BY 1)
		END;
		retryable := oracle.rand(5) > 0;
		INSERT INTO oracle.template_step VALUES (p, parents, 'H' || least(2, oracle.rand(6)),
			oracle.rand(3) - 1, retryable, oracle.rand(4), oracle.rand(6) = 0,
			CASE WHEN oracle.rand(6) = 0 THEN 5 + oracle.rand(10) END, oracle.rand(3), 1 + oracle.rand(6));
	END LOOP;
	UPDATE oracle.clock SET paused = false, template_paused = false;
END
$$;

-- Registers the DAG under a name of its own, its steps in an order that only
-- the part of the name before the dot decides.
CREATE FUNCTION oracle.register(dag_name text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM tasker.register_task_template(jsonb_build_object('name', dag_name, 'namespace_name', 'oracle', 'version', '1.0.0',
		'step_templates', (SELECT jsonb_agg(jsonb_strip_nulls(jsonb_build_object(
				'name', 's' || place, 'handler_class', handler, 'priority', priority,
				'depends_on_steps', (SELECT jsonb_agg('s' || p) FROM unnest(parents) p),
				'default_retryable', retryable, 'default_retry_limit', retry_limit, 'skippable', skippable,
				'timeout_seconds', timeout * 60, 'backoff_base_seconds', backoff_base * 60, 'backoff_cap_seconds', backoff_cap * 60,
				'backoff_jitter', 0)) ORDER BY md5(place || split_part(dag_name, '.', 1))) FROM oracle.template_step)));
	PERFORM set_config('oracle.dag', dag_name, false);
END
$$;

-- ---------- events ----------

-- Creates a task here and there. Every bit of bypass asks to skip a step.
CREATE FUNCTION oracle.create_task(bypass integer, priority integer) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	t integer := (SELECT coalesce(max(n), 0) + 1 FROM oracle.task);
	skipped integer[] := ARRAY(SELECT place FROM oracle.template_step WHERE skippable AND bypass & (1 << (place % 16)) <> 0 ORDER BY place);
	id bigint;
	pace integer := (SELECT max(place) FROM oracle.template_step);
BEGIN
	id := tasker.create_task(current_setting('oracle.dag'), namespace => 'oracle', priority => priority,
		bypass_steps => ARRAY(SELECT 's' || p FROM unnest(skipped) p));
	INSERT INTO oracle.task VALUES (t, id, 'pending');
	INSERT INTO oracle.step (n, step_id, task, place, parents, rank, handler, retryable, retry_limit, skippable, timeout, backoff_base, backoff_cap)
	SELECT (t - 1) * pace + d.place, s.workflow_step_id, t, d.place, ARRAY(SELECT (t - 1) * pace + p FROM unnest(d.parents) p),
		-(d.priority + create_task.priority), d.handler, d.retryable, d.retry_limit, d.skippable, d.timeout, d.backoff_base, d.backoff_cap
	FROM oracle.template_step d
	JOIN tasker.named_steps n ON n.name = 's' || d.place
	JOIN tasker.workflow_steps s ON s.task_id = id AND s.named_step_id = n.named_step_id;
	PERFORM oracle.move(s.n, 'resolved_manually') FROM oracle.step s WHERE s.task = t AND s.place = ANY (skipped);
	RETURN CASE WHEN (SELECT count(*) FROM tasker.workflow_steps WHERE task_id = id) <> pace THEN 'the new task has other steps than its template' END;
END
$$;

-- Registers an executor here and there. A bit for each kind of handler; room
-- is its capacity, 0: it pulls; minutes is its lease, 0: bound to the session.
CREATE FUNCTION oracle.register_executor(kinds integer, room integer, minutes integer) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	names text[] := ARRAY(SELECT 'H' || h FROM generate_series(0, 2) h WHERE kinds & (1 << h) <> 0);
	id bigint;
BEGIN
	SELECT executor_id INTO id FROM tasker.register_executor('e', names, room, minutes > 0,
		CASE WHEN minutes > 0 THEN make_interval(mins => minutes) END);
	INSERT INTO oracle.executor SELECT coalesce(max(n), 0) + 1, id, names, room, nullif(minutes, 0), oracle.minute() FROM oracle.executor;
	RETURN NULL;
END
$$;

-- claim_steps against what the model says is ready, in its order. Without an
-- orchestrate() since the last event, what is found late may be missing.
CREATE FUNCTION oracle.act_claim(which integer, most integer, settled boolean) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	e oracle.executor;
	got bigint[];
	claims integer[];
	tries integer[];
	expected bigint[];
	one integer;
BEGIN
	SELECT * INTO e FROM oracle.executor WHERE n = which;
	IF e.lease IS NOT NULL AND tasker.heartbeat(e.executor_id) IS DISTINCT FROM NOT e.ended THEN
		RETURN format('heartbeat of executor %s is not %s', which, NOT e.ended);
	END IF;
	UPDATE oracle.executor SET seen = oracle.minute() WHERE n = which AND NOT ended;
	BEGIN
		SELECT array_agg(c.workflow_step_id ORDER BY c.workflow_step_id), array_agg(c.claim ORDER BY c.workflow_step_id),
			array_agg(c.attempt ORDER BY c.workflow_step_id) INTO got, claims, tries
		FROM tasker.claim_steps(e.executor_id, most) c;
	EXCEPTION WHEN object_not_in_prerequisite_state THEN
		RETURN CASE WHEN NOT e.ended THEN 'claim_steps: ' || SQLERRM END;
	END;
	IF e.ended THEN
		RETURN format('executor %s has ended and may still claim', which);
	END IF;
	expected := ARRAY(SELECT q.step_id FROM (SELECT s.step_id FROM oracle.step s
			WHERE oracle.ready(s) AND s.state = 'pending' AND s.handler = ANY (e.handlers)
			ORDER BY s.rank, s.step_id LIMIT CASE WHEN settled THEN most END) q ORDER BY 1);
	IF coalesce(got, '{}') <> expected AND (settled OR NOT got <@ expected) THEN
		RETURN format('claim_steps(%s, %s) gave %s instead of %s', which, most, oracle.names(got), oracle.names(expected));
	END IF;
	FOR i IN 1..coalesce(cardinality(got), 0) LOOP
		SELECT n INTO one FROM oracle.step WHERE step_id = got[i];
		PERFORM oracle.claim(one, which);
		IF NOT EXISTS (SELECT FROM oracle.step s WHERE s.n = one AND s.moves * 10 = claims[i] AND s.attempts = tries[i]) THEN
			RETURN format('claim %s, attempt %s of step %s are wrong', claims[i], tries[i], one);
		END IF;
	END LOOP;
	RETURN NULL;
END
$$;

CREATE FUNCTION oracle.names(ids bigint[]) RETURNS text LANGUAGE sql AS $$
	SELECT coalesce(string_agg(coalesce((SELECT 'step ' || s.n FROM oracle.step s WHERE s.step_id = u), 'unknown ' || u), ', '), 'nothing') FROM unnest(ids) u
$$;

-- Calls the extension; what it answers, or the SQLSTATE of its refusal.
CREATE FUNCTION oracle.ask(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	answer text;
BEGIN
	EXECUTE 'SELECT (' || statement || ')::text' INTO answer;
	RETURN answer;
EXCEPTION WHEN OTHERS THEN
	RETURN CASE WHEN SQLSTATE LIKE 'TK%' THEN SQLSTATE ELSE SQLSTATE || ' ' || SQLERRM END;
END
$$;

CREATE FUNCTION oracle.compare_answers(statement text, expected text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	answer text := oracle.ask(statement);
BEGIN
	RETURN CASE WHEN answer IS DISTINCT FROM expected THEN format('%s answers %s instead of %s', statement, answer, expected) END;
END
$$;

-- Lets an event happen on both sides; what they do not agree on.
CREATE FUNCTION oracle.act(e oracle.event, settled boolean) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	s oracle.step;
	x oracle.executor;
	t oracle.task;
	claim integer;
	of_executor bigint;
	statement text;
BEGIN
	SELECT * INTO s FROM oracle.step WHERE n = e.a;
	SELECT * INTO x FROM oracle.executor WHERE n = e.a;
	SELECT * INTO t FROM oracle.task WHERE n = e.a;
	CASE e.kind
	WHEN 'create' THEN
		RETURN oracle.create_task(e.a, e.b);
	WHEN 'executor' THEN
		RETURN oracle.register_executor(e.a, e.b, e.c);
	WHEN 'clock' THEN
		UPDATE oracle.clock SET minute = minute + e.a;
		PERFORM set_config('tasker.clock_offset', (oracle.minute() * 60000)::text, false);
		RETURN NULL;
	WHEN 'rebuild' THEN
		PERFORM tasker.rebuild_accelerators();
		RETURN NULL;
	WHEN 'pause' THEN
		PERFORM tasker.pause('oracle', current_setting('oracle.dag'));
		UPDATE oracle.clock SET template_paused = true;
		RETURN NULL;
	WHEN 'resume' THEN
		PERFORM tasker.resume('oracle', current_setting('oracle.dag'));
		UPDATE oracle.clock SET template_paused = false;
		RETURN NULL;
	WHEN 'pause all' THEN
		PERFORM tasker.pause();
		UPDATE oracle.clock SET paused = true;
		RETURN NULL;
	WHEN 'resume all' THEN
		PERFORM tasker.resume();
		UPDATE oracle.clock SET paused = false;
		RETURN NULL;
	WHEN 'claim' THEN
		RETURN CASE WHEN x.n IS NOT NULL THEN oracle.act_claim(x.n, e.b, settled) END;
	WHEN 'lose' THEN
		IF x.n IS NULL THEN
			RETURN NULL;
		END IF;
		statement := oracle.compare_answers(format('tasker.unregister_executor(%s)', x.executor_id), (NOT x.ended)::text);
		UPDATE oracle.executor SET ended = true WHERE n = x.n;
		RETURN statement;
	WHEN 'heartbeat' THEN
		IF x.lease IS NULL THEN
			RETURN NULL;
		END IF;
		UPDATE oracle.executor SET seen = oracle.minute() WHERE n = x.n AND NOT ended;
		RETURN oracle.compare_answers(format('tasker.heartbeat(%s)', x.executor_id), (NOT x.ended)::text);
	WHEN 'complete all' THEN
		-- The batch form, with a stale claim among the good ones.
		SELECT format('tasker.complete_steps(%L, %L, NULL, %s, true)', array_agg(y.step_id ORDER BY y.n DESC),
				array_agg(y.moves * 10 - CASE WHEN e.b > 0 AND y.n % e.b = 0 THEN 20 ELSE 0 END ORDER BY y.n DESC), x.executor_id)
			INTO statement
		FROM oracle.step y WHERE y.state = 'in_progress' AND y.executor = x.n;
		RETURN CASE WHEN EXISTS (SELECT FROM oracle.step y WHERE y.state = 'in_progress' AND y.executor = x.n) THEN oracle.compare_answers(statement, (
			SELECT coalesce(array_agg(r.step_id ORDER BY r.step_id) FILTER (WHERE r.answer = 'TK001'), '{}')::text FROM (
				SELECT y.step_id, oracle.report(y.n, y.moves * 10 - CASE WHEN e.b > 0 AND y.n % e.b = 0 THEN 20 ELSE 0 END, x.n, 'complete') AS answer
				FROM oracle.step y WHERE y.state = 'in_progress' AND y.executor = x.n) r)) END;
	WHEN 'cancel task', 'retry task', 'resolve task', 'reset task', 'finalize task', 'orchestrate task' THEN
		IF t.n IS NULL THEN
			RETURN NULL;
		END IF;
		statement := format('tasker.%s(%s)', replace(e.kind, ' ', '_'), t.task_id);
		CASE e.kind
		WHEN 'cancel task' THEN RETURN oracle.compare_answers(statement, oracle.operate_task(t.n, 'cancelled'));
		WHEN 'retry task' THEN RETURN oracle.compare_answers(statement, oracle.operate_task(t.n, 'pending'));
		WHEN 'resolve task' THEN RETURN oracle.compare_answers(statement, oracle.operate_task(t.n, 'resolved_manually'));
		WHEN 'finalize task' THEN
			PERFORM oracle.finalize(t.n);
			RETURN oracle.compare_answers(statement, (SELECT state FROM oracle.task WHERE n = t.n));
		WHEN 'orchestrate task' THEN
			statement := oracle.ask(format('tasker.orchestrate(%s)', t.task_id));
			RETURN CASE WHEN statement !~ '^\d+$' THEN statement END;
		WHEN 'reset task' THEN
			UPDATE oracle.task SET state = 'pending' WHERE n = t.n AND state = 'in_progress';
			RETURN oracle.compare_answers(format('tasker.conditional_transition_task(%s, ''pending'', ''{in_progress}'')', t.task_id),
				CASE t.state WHEN 'in_progress' THEN 'transitioned' WHEN 'pending' THEN 'already_in_state' ELSE 'not_allowed' END);
		END CASE;
	ELSE
		IF s.n IS NULL THEN
			RETURN NULL;
		END IF;
	END CASE;

	-- Events of a step. b: 0 the step's claim, else an older or newer one; c:
	-- 0 no executor named, 1 the right one, 2 another.
	claim := s.moves * 10 + e.b * 10;
	of_executor := CASE e.c WHEN 1 THEN s.executor WHEN 2 THEN (SELECT max(n) FROM oracle.executor y WHERE y.n IS DISTINCT FROM s.executor) END;
	statement := (SELECT coalesce(max(executor_id)::text, 'NULL') FROM oracle.executor y WHERE y.n = of_executor);
	CASE e.kind
	WHEN 'complete' THEN
		RETURN oracle.compare_answers(format('tasker.complete_step(%s, %s, ''{"by": "oracle"}'', %s)', s.step_id, claim, statement),
			oracle.report(s.n, claim, of_executor::integer, 'complete'));
	WHEN 'fail' THEN
		RETURN oracle.compare_answers(format('tasker.fail_step(%s, %s, ''no luck'', NULL, %L, %s, %s)', s.step_id, claim, e.d <> -2,
				coalesce((nullif(greatest(e.d, -1), -1) * 60)::text, 'NULL'), statement),
			oracle.report(s.n, claim, of_executor::integer, 'error', e.d = -2, nullif(greatest(e.d, -1), -1)));
	WHEN 'release' THEN
		RETURN oracle.compare_answers(format('tasker.release_step(%s, %s, %s)', s.step_id, claim, statement),
			oracle.report(s.n, claim, of_executor::integer, 'pending'));
	WHEN 'cancel step' THEN
		RETURN oracle.compare_answers(format('tasker.cancel_step(%s)', s.step_id), oracle.operate_step(s.n, 'cancelled'));
	WHEN 'retry step' THEN
		RETURN oracle.compare_answers(format('tasker.retry_step(%s)', s.step_id), oracle.operate_step(s.n, 'pending'));
	WHEN 'resolve step' THEN
		RETURN oracle.compare_answers(format('tasker.resolve_step(%s)', s.step_id), oracle.operate_step(s.n, 'resolved_manually'));
	WHEN 'start by hand' THEN
		RETURN oracle.compare_answers(format('tasker.transition_step(%s, ''in_progress'')', s.step_id), oracle.transition_step(s.n, 'in_progress'));
	WHEN 'fail by hand' THEN
		-- What it means for a task that has ended is nowhere said.
		IF (SELECT y.state NOT IN ('pending', 'in_progress') FROM oracle.task y WHERE y.n = s.task) THEN
			RETURN NULL;
		END IF;
		RETURN oracle.compare_answers(format('tasker.transition_step(%s, ''error'')', s.step_id), oracle.transition_step(s.n, 'error'));
	WHEN 'pend by hand' THEN
		RETURN oracle.compare_answers(format('tasker.transition_step(%s, ''pending'')', s.step_id), oracle.transition_step(s.n, 'pending'));
	END CASE;
END
$$;

-- ---------- consequences and comparison ----------

-- What the orchestrator pushed must have been ready, to an executor that had
-- room and can run it; and nothing waits where such an executor has room. Who
-- got what is then taken over from the extension.
CREATE FUNCTION oracle.adopt_pushed() RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	pushed record;
	s oracle.step;
	x oracle.executor;
BEGIN
	IF NOT EXISTS (SELECT FROM oracle.executor WHERE capacity > 0 AND NOT ended) THEN
		RETURN NULL;
	END IF;
	FOR pushed IN SELECT m.n, w.executor_id FROM oracle.step m JOIN tasker.workflow_steps w ON w.workflow_step_id = m.step_id
		WHERE m.state = 'pending' AND w.state = 'in_progress' ORDER BY w.sort_key, m.n
	LOOP
		SELECT * INTO s FROM oracle.step WHERE n = pushed.n;
		SELECT * INTO x FROM oracle.executor WHERE executor_id = pushed.executor_id;
		IF x.n IS NULL OR x.ended OR NOT x.handlers @> ARRAY[s.handler]
			OR (SELECT count(*) >= x.capacity FROM oracle.step WHERE state = 'in_progress' AND executor = x.n) THEN
			RETURN format('step %s was pushed to executor %s, which must not get it', s.n, x.n);
		ELSIF oracle.ready(s) IS NOT TRUE THEN
			RETURN format('step %s was pushed and is not ready', s.n);
		END IF;
		PERFORM oracle.claim(s.n, x.n);
	END LOOP;
	RETURN (SELECT format('step %s is ready, executor %s has room, and it was not pushed', m.n, e.n)
		FROM oracle.step m JOIN oracle.executor e ON NOT e.ended AND m.handler = ANY (e.handlers)
			AND e.capacity > (SELECT count(*) FROM oracle.step f WHERE f.state = 'in_progress' AND f.executor = e.n)
		WHERE m.state = 'pending' AND oracle.ready(m) LIMIT 1);
END
$$;

-- Everything that can be seen of the DAG's tasks, on both sides.
CREATE FUNCTION oracle.compare() RETURNS text LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
DECLARE
	found text;
	tasks bigint[] := ARRAY(SELECT task_id FROM oracle.task);
BEGIN
	SELECT string_agg(format('task %s is %s instead of %s', m.n, t.state, m.state), E'\n') INTO found
	FROM oracle.task m LEFT JOIN tasker.tasks t ON t.task_id = m.task_id
	WHERE t.state::text IS DISTINCT FROM m.state;
	IF found IS NOT NULL THEN
		RETURN found;
	END IF;

	SELECT string_agg(format('step %s is %s, sort_key %s, attempts %s instead of %s, %s, %s', m.n, s.state, s.sort_key, s.attempts, m.state, m.moves * 10, m.attempts), E'\n') INTO found
	FROM oracle.step m LEFT JOIN tasker.workflow_steps s ON s.workflow_step_id = m.step_id
	WHERE (s.state::text, s.sort_key, s.attempts) IS DISTINCT FROM (m.state, m.moves * 10, m.attempts)
		OR (m.state = 'in_progress' AND s.executor_id IS DISTINCT FROM (SELECT e.executor_id FROM oracle.executor e WHERE e.n = m.executor));
	IF found IS NOT NULL THEN
		RETURN found;
	END IF;

	DELETE FROM oracle.expected;
	INSERT INTO oracle.expected SELECT * FROM oracle.readiness;
	SELECT string_agg(format(E'readiness is  %s\ninstead of    %s', v, m), E'\n') INTO found
	FROM oracle.expected m
	LEFT JOIN (SELECT r.workflow_step_id AS step_id, r.current_state::text, r.dependencies_satisfied, r.retry_eligible, r.ready_for_execution,
			floor(extract(epoch FROM r.next_retry_at - current_setting('oracle.epoch')::timestamptz) / 60)::integer,
			r.total_parents, r.completed_parents, r.attempts, r.retry_limit, r.backoff_request_seconds,
			r.blocking_reason, r.dependency_status, r.retry_status, r.backoff_type
		FROM tasker.step_readiness_statuses r WHERE r.task_id = ANY (tasks)) v ON v.step_id = m.step_id
	WHERE v IS DISTINCT FROM ROW(m.step_id, m.state, m.satisfied, m.eligible, m.ready, m.due, m.total, m.completed, m.attempts,
		m.retry_limit, m.requested, m.blocking_reason, m.dependency_status, m.retry_status, m.backoff_type);
	IF found IS NOT NULL THEN
		RETURN found;
	END IF;

	SELECT string_agg(format(E'the context is  %s\ninstead of      %s', v, m), E'\n') INTO found
	FROM oracle.context m
	LEFT JOIN (SELECT c.task_id, c.status::text, c.total_steps, c.pending_steps, c.in_progress_steps, c.completed_steps, c.failed_steps,
			c.ready_steps, c.execution_status, c.recommended_action, c.health_status, c.cancelled_steps, c.completion_percentage
		FROM tasker.task_execution_contexts c WHERE c.task_id = ANY (tasks)) v ON v.task_id = m.task_id
	WHERE v IS DISTINCT FROM ROW(m.task_id, m.state, m.total, m.pending, m.in_progress, m.completed, m.failed,
		m.ready, m.execution_status, m.recommended_action, m.health_status, m.cancelled, round(m.completed * 100.0 / m.total, 2));
	IF found IS NOT NULL THEN
		RETURN found;
	END IF;

	SELECT string_agg(format('find_viable_steps(task %s) gives %s instead of %s', n, oracle.names(theirs), oracle.names(ours)), E'\n') INTO found
	FROM (SELECT t.n, ARRAY(SELECT f FROM tasker.find_viable_steps(t.task_id) f) AS theirs,
			ARRAY(SELECT r.step_id FROM oracle.expected r WHERE r.task = t.n AND r.ready ORDER BY 1) AS ours FROM oracle.task t) v
	WHERE theirs <> ours;
	IF found IS NOT NULL THEN
		RETURN found;
	END IF;

	SELECT string_agg(format('my_steps(executor %s) gives %s instead of %s', n, oracle.names(theirs), oracle.names(ours)), E'\n') INTO found
	FROM (SELECT e.n, ARRAY(SELECT m.workflow_step_id FROM tasker.my_steps(e.executor_id) m ORDER BY 1) AS theirs,
			ARRAY(SELECT s.step_id FROM oracle.step s WHERE s.state = 'in_progress' AND s.executor = e.n ORDER BY 1) AS ours FROM oracle.executor e) v
	WHERE theirs <> ours;
	RETURN found;
END
$$;

-- At the end of a DAG: the whole history of each step, and check().
CREATE FUNCTION oracle.compare_history() RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	found text;
BEGIN
	SELECT string_agg(format('the history of step %s is %s instead of %s', n, theirs, ours), E'\n') INTO found
	FROM (SELECT s.n,
			(SELECT string_agg(format('%s %s', l.sort_key, l.to_state), ', ' ORDER BY l.sort_key) FROM tasker.workflow_step_transitions l WHERE l.workflow_step_id = s.step_id) AS theirs,
			(SELECT string_agg(format('%s %s', l.move * 10, l.to_state), ', ' ORDER BY l.move) FROM oracle.log l WHERE l.step = s.n) AS ours
		FROM oracle.step s) h
	WHERE theirs IS DISTINCT FROM ours;
	RETURN found;
END
$$;

CREATE FUNCTION oracle.compare_check() RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	found text;
BEGIN
	WITH now AS (SELECT format('%s %s %s', problem, owner, owner_id) AS id, format('check(): %s, %s %s, %s', problem, owner,
			coalesce((SELECT s.n FROM oracle.step s WHERE owner = 'step' AND s.step_id = owner_id),
				(SELECT t.n FROM oracle.task t WHERE owner = 'task' AND t.task_id = owner_id)), detail) AS line FROM tasker.check())
	, news AS (INSERT INTO oracle.known SELECT id FROM now WHERE id NOT IN (SELECT k.problem FROM oracle.known k) RETURNING problem)
	SELECT string_agg(line, E'\n') INTO found FROM now WHERE id IN (SELECT problem FROM news);
	RETURN found;
END
$$;

-- Consequences on both sides, then the comparison. A second orchestrate()
-- must find nothing to do.
CREATE FUNCTION oracle.settle() RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	answer text := oracle.ask('tasker.orchestrate()');
	problem text;
BEGIN
	IF answer !~ '^\d+$' THEN
		RETURN 'orchestrate(): ' || answer;
	END IF;
	PERFORM oracle.orchestrate();
	problem := coalesce(oracle.adopt_pushed(), oracle.compare());
	IF problem IS NULL AND oracle.rand(4) = 0 THEN
		answer := oracle.ask('tasker.orchestrate()');
		RETURN CASE WHEN answer <> '0' THEN 'a second orchestrate() made transitions: ' || answer END;
	END IF;
	RETURN problem;
END
$$;

-- ---------- schedules ----------

-- A step, mostly one in the state given.
CREATE FUNCTION oracle.some_step(wanted text) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
	candidates integer[] := ARRAY(SELECT n FROM oracle.step WHERE state = wanted ORDER BY n);
BEGIN
	IF cardinality(candidates) > 0 AND oracle.rand(8) > 0 THEN
		RETURN candidates[1 + oracle.rand(cardinality(candidates))];
	END IF;
	RETURN 1 + oracle.rand((SELECT max(n) FROM oracle.step));
END
$$;

-- The next event, by chance. Some in a row may go without consequences drawn.
CREATE FUNCTION oracle.next_event() RETURNS oracle.event LANGUAGE plpgsql AS $$
DECLARE
	e oracle.event := ('', 0, 0, 0, 0, oracle.rand(5) = 0);
	r integer := oracle.rand(1000);
	executors integer := (SELECT count(*) FROM oracle.executor);
	tasks integer := (SELECT count(*) FROM oracle.task);
BEGIN
	e.kind := CASE
		WHEN tasks = 0 THEN 'create'
		WHEN NOT EXISTS (SELECT FROM oracle.executor WHERE NOT ended) AND r % 3 > 0 THEN 'executor'
		WHEN r < 20 AND tasks < 3 THEN 'create' WHEN r < 50 AND executors < 6 THEN 'executor'
		WHEN r < 310 THEN 'claim' WHEN r < 480 THEN 'complete' WHEN r < 520 THEN 'complete all'
		WHEN r < 680 THEN 'fail' WHEN r < 710 THEN 'release'
		WHEN r < 730 THEN 'cancel step' WHEN r < 760 THEN 'retry step' WHEN r < 780 THEN 'resolve step'
		WHEN r < 788 THEN 'cancel task' WHEN r < 808 THEN 'retry task' WHEN r < 818 THEN 'resolve task'
		WHEN r < 825 THEN 'reset task' WHEN r < 832 THEN 'finalize task' WHEN r < 842 THEN 'orchestrate task'
		WHEN r < 912 THEN 'clock' WHEN r < 930 THEN 'lose' WHEN r < 940 THEN 'heartbeat'
		WHEN r < 946 THEN 'pause' WHEN r < 958 THEN 'resume' WHEN r < 961 THEN 'pause all' WHEN r < 970 THEN 'resume all'
		WHEN r < 978 THEN 'rebuild' WHEN r < 985 THEN 'start by hand' WHEN r < 992 THEN 'fail by hand' ELSE 'pend by hand' END;
	CASE e.kind
	WHEN 'create' THEN
		e.a := CASE WHEN oracle.rand(3) = 0 THEN oracle.rand(65536) ELSE 0 END;
		e.b := oracle.rand(3) - 1;
	WHEN 'executor' THEN
		e.a := CASE WHEN oracle.rand(2) = 0 THEN 7 ELSE 1 + oracle.rand(7) END;
		e.b := CASE WHEN oracle.rand(4) = 0 THEN 1 + oracle.rand(4) ELSE 0 END;
		e.c := CASE WHEN oracle.rand(4) = 0 THEN 2 + oracle.rand(8) ELSE 0 END;
	WHEN 'claim' THEN
		e.a := 1 + oracle.rand(greatest(executors, 1));
		e.b := CASE WHEN oracle.rand(3) = 0 THEN 50 ELSE 1 + oracle.rand(3) END;
	WHEN 'complete', 'fail', 'release' THEN
		e.a := oracle.some_step('in_progress');
		e.b := CASE WHEN oracle.rand(12) = 0 THEN oracle.rand(4) - 2 ELSE 0 END;
		e.c := least(2, oracle.rand(12) / 5);
		e.d := CASE WHEN oracle.rand(10) = 0 THEN -2 WHEN oracle.rand(4) = 0 THEN oracle.rand(5) ELSE -1 END;
	WHEN 'complete all', 'lose', 'heartbeat' THEN
		e.a := 1 + oracle.rand(greatest(executors, 1));
		e.b := CASE WHEN oracle.rand(3) = 0 THEN 2 + oracle.rand(3) ELSE 0 END;
	WHEN 'cancel step', 'start by hand', 'fail by hand' THEN
		e.a := oracle.some_step(CASE WHEN oracle.rand(2) = 0 THEN 'pending' ELSE 'in_progress' END);
	WHEN 'retry step', 'resolve step', 'pend by hand' THEN
		e.a := oracle.some_step(CASE WHEN oracle.rand(4) = 0 THEN 'pending' ELSE 'error' END);
	WHEN 'clock' THEN
		e.a := CASE WHEN oracle.rand(6) = 0 THEN 5 + oracle.rand(15) ELSE 1 + oracle.rand(3) END;
	ELSE
		e.a := 1 + oracle.rand(greatest(tasks, 1));
	END CASE;
	RETURN e;
END
$$;

-- An event that leads on, for the end of a schedule: every open task must reach
-- an end within as many events as its steps can have attempts. NULL: it has.
CREATE FUNCTION oracle.closing_event() RETURNS oracle.event LANGUAGE plpgsql AS $$
DECLARE
	puller integer := (SELECT max(n) FROM oracle.executor WHERE NOT ended AND lease IS NULL AND capacity = 0 AND cardinality(handlers) = 3);
	running integer;
BEGIN
	IF NOT EXISTS (SELECT FROM oracle.task WHERE state IN ('pending', 'in_progress')) THEN
		RETURN NULL;
	ELSIF (SELECT paused FROM oracle.clock) THEN
		RETURN ('resume all', 0, 0, 0, 0, false)::oracle.event;
	ELSIF (SELECT template_paused FROM oracle.clock) THEN
		RETURN ('resume', 0, 0, 0, 0, false)::oracle.event;
	ELSIF puller IS NULL THEN
		RETURN ('executor', 7, 0, 0, 0, false)::oracle.event;
	END IF;
	SELECT n INTO running FROM oracle.step WHERE state = 'in_progress' ORDER BY n LIMIT 1;
	IF running IS NOT NULL THEN
		RETURN CASE WHEN oracle.rand(5) = 0 THEN ('fail', running, 0, 0, -1, false)::oracle.event ELSE ('complete', running, 0, 0, 0, false)::oracle.event END;
	ELSIF EXISTS (SELECT FROM oracle.step s WHERE oracle.ready(s)) THEN
		RETURN ('claim', puller, 50, 0, 0, false)::oracle.event;
	END IF;
	RETURN ('clock', 1, 0, 0, 0, false)::oracle.event;
END
$$;

-- Ends what a DAG leaves behind, so that the next one is alone.
CREATE PROCEDURE oracle.leave() LANGUAGE plpgsql AS $$
BEGIN
	PERFORM oracle.ask(format('tasker.unregister_executor(%s)', executor_id)) FROM tasker.executors WHERE ended_at IS NULL;
	PERFORM oracle.ask(format('tasker.cancel_task(%s)', task_id)) FROM tasker.tasks WHERE state IN ('pending', 'in_progress');
	PERFORM tasker.resume();
	PERFORM oracle.ask('tasker.orchestrate()');
	COMMIT;
END
$$;

-- Lives through one DAG: with the events given, or with events by chance that
-- are noted in oracle.trace. Problems are noted in oracle.problem. Most events
-- are transactions of their own; some share one.
CREATE PROCEDURE oracle.live(dag bigint, attempt integer, given oracle.event[], most integer) LANGUAGE plpgsql AS $$
DECLARE
	e oracle.event;
	problem text;
	settled boolean := true;
	i integer := 0;
BEGIN
	DELETE FROM oracle.problem;
	IF given IS NULL THEN
		DELETE FROM oracle.trace;
	END IF;
	PERFORM oracle.make_dag(dag);
	PERFORM oracle.register(format('dag %s.%s', dag, attempt));
	PERFORM set_config('oracle.epoch', (tasker.now() - make_interval(mins => oracle.minute()))::text, false);
	COMMIT;
	LOOP
		i := i + 1;
		IF given IS NOT NULL THEN
			EXIT WHEN i > cardinality(given);
			e := given[i];
		ELSE
			e := CASE WHEN i <= most THEN oracle.next_event() ELSE oracle.closing_event() END;
			EXIT WHEN e IS NULL;
			INSERT INTO oracle.trace (event) VALUES (e);
		END IF;
		problem := oracle.act(e, settled);
		settled := false;
		-- After orchestrate(task) the extension is ahead until the model follows.
		IF problem IS NULL AND (NOT e.quiet OR e.kind = 'orchestrate task') THEN
			problem := oracle.settle();
			settled := true;
		END IF;
		IF problem IS NULL AND i > most + 1000 THEN
			problem := 'a task does not reach its end';
		END IF;
		EXIT WHEN problem IS NOT NULL;
		INSERT INTO oracle.tally VALUES (e.kind, 1) ON CONFLICT (kind) DO UPDATE SET n = oracle.tally.n + 1;
		IF oracle.rand(5) > 0 THEN
			COMMIT;
		END IF;
	END LOOP;
	IF problem IS NULL THEN
		COMMIT;
		problem := coalesce(oracle.settle(), oracle.compare_history());
		COMMIT;
		problem := coalesce(problem, oracle.compare_check());
	END IF;
	IF problem IS NOT NULL THEN
		INSERT INTO oracle.problem (what) VALUES (problem);
	END IF;
	COMMIT;
	CALL oracle.leave();
END
$$;

-- Some hundred DAGs; stops at the first problem and reduces its trace.
CREATE PROCEDURE oracle.run(seed bigint, dags integer, most integer) LANGUAGE plpgsql AS $$
DECLARE
	events oracle.event[];
	without oracle.event[];
	problems text;
	attempt integer := 0;
	i integer;
	cut integer;
	deadline timestamptz;
BEGIN
	FOR dag IN seed * 1000..seed * 1000 + dags - 1 LOOP
		CALL oracle.live(dag, 0, NULL, most);
		IF NOT EXISTS (SELECT FROM oracle.problem) THEN
			CONTINUE;
		END IF;
		problems := (SELECT string_agg(what, E'\n' ORDER BY n) FROM oracle.problem);
		events := ARRAY(SELECT event FROM oracle.trace ORDER BY n);
		deadline := clock_timestamp() + interval '30 seconds';
		cut := greatest(cardinality(events) / 2, 1);
		WHILE cut >= 1 AND clock_timestamp() < deadline LOOP
			i := cardinality(events) - cut + 1;
			WHILE i > 1 - cut AND clock_timestamp() < deadline LOOP
				without := events[1:i - 1] || events[greatest(i, 1) + cut:];
				attempt := attempt + 1;
				CALL oracle.live(dag, attempt, without, most);
				-- Still the same kind of problem, not one that the cut made.
				IF EXISTS (SELECT FROM oracle.problem WHERE left(regexp_replace(what, '\d+', '', 'g'), 15) = left(regexp_replace(problems, '\d+', '', 'g'), 15)) THEN
					events := without;
					problems := (SELECT string_agg(what, E'\n' ORDER BY n) FROM oracle.problem);
				END IF;
				i := least(i - cut, cardinality(events) - cut + 1);
			END LOOP;
			cut := cut / 2;
		END LOOP;
		PERFORM oracle.make_dag(dag);
		RAISE EXCEPTION E'the extension and the model disagree, DAG %, % events:\n%', dag, most,
			(SELECT string_agg(line, E'\n') FROM (
				(SELECT format('step %s%s: %s%s%s%s, retry_limit %s, backoff %s to %s', place,
					CASE WHEN cardinality(parents) > 0 THEN ' after ' || array_to_string(parents, ', ') ELSE '' END, handler,
					CASE WHEN NOT retryable THEN ', not retryable' ELSE '' END, CASE WHEN skippable THEN ', skippable' ELSE '' END,
					', timeout ' || timeout, retry_limit, backoff_base, backoff_cap) AS line FROM oracle.template_step ORDER BY place)
				UNION ALL
				(SELECT format('%s. %s %s', n, (v).kind, format('%s %s %s %s%s', (v).a, (v).b, (v).c, (v).d,
					CASE WHEN (v).quiet THEN ', not orchestrated' ELSE '' END)) FROM unnest(events) WITH ORDINALITY u(kind, a, b, c, d, quiet, n),
					LATERAL (SELECT (u.kind, u.a, u.b, u.c, u.d, u.quiet)::oracle.event AS v) w ORDER BY n)
				UNION ALL
				SELECT problems) lines);
	END LOOP;
END
$$;

INSERT INTO oracle.clock VALUES (0, false, false);
