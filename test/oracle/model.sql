-- A model of readiness, retry eligibility, claims and task outcome.
--
-- It is written from the design (state machines, attempts, backoff, outcome)
-- and the comments of the public functions, in the plainest SQL that says it,
-- and shares nothing with the extension: own tables, own rules, own clock. The
-- driver (driver.sql) lets the same events happen here and there and compares.
--
-- Time is counted in whole minutes. The extension's clock is moved by minutes
-- too, so that what real time adds never decides anything.

CREATE SCHEMA oracle;

CREATE UNLOGGED TABLE oracle.clock (minute integer NOT NULL, paused boolean NOT NULL, template_paused boolean NOT NULL);

-- What the tasks of the current DAG are made from.
CREATE UNLOGGED TABLE oracle.template_step (
	place integer PRIMARY KEY,
	parents integer[] NOT NULL,		-- places
	handler text NOT NULL,
	priority integer NOT NULL,
	retryable boolean NOT NULL,
	retry_limit integer NOT NULL,
	skippable boolean NOT NULL,
	timeout integer,			-- minutes
	backoff_base integer NOT NULL,		-- minutes
	backoff_cap integer NOT NULL		-- minutes
);

CREATE UNLOGGED TABLE oracle.task (
	n integer PRIMARY KEY,
	task_id bigint NOT NULL,		-- what the extension calls it
	state text NOT NULL
);

CREATE UNLOGGED TABLE oracle.step (
	n integer PRIMARY KEY,
	step_id bigint NOT NULL,		-- what the extension calls it
	task integer NOT NULL,
	place integer NOT NULL,
	parents integer[] NOT NULL,		-- n of each
	rank integer NOT NULL,
	handler text NOT NULL,
	retryable boolean NOT NULL,
	retry_limit integer NOT NULL,
	skippable boolean NOT NULL,
	timeout integer,
	backoff_base integer NOT NULL,
	backoff_cap integer NOT NULL,
	state text NOT NULL DEFAULT 'pending',
	moves integer NOT NULL DEFAULT 0,	-- number of transitions
	attempts integer NOT NULL DEFAULT 0,
	permanent boolean NOT NULL DEFAULT false,
	due integer,				-- minute of the next attempt, while in error
	requested integer,			-- minutes that the executor asked for, while in error
	executor integer,
	claimed_at integer
);

-- Every transition of a step; executor: on whose behalf, NULL where nobody's.
CREATE UNLOGGED TABLE oracle.log (
	step integer NOT NULL,
	move integer NOT NULL,
	to_state text NOT NULL,
	executor integer,
	PRIMARY KEY (step, move)
);

CREATE UNLOGGED TABLE oracle.executor (
	n integer PRIMARY KEY,
	executor_id bigint NOT NULL,
	handlers text[] NOT NULL,
	capacity integer NOT NULL,
	lease integer,				-- minutes; NULL: bound to its session
	seen integer NOT NULL,
	ended boolean NOT NULL DEFAULT false
);

CREATE FUNCTION oracle.minute() RETURNS integer LANGUAGE sql AS 'SELECT minute FROM oracle.clock';

-- ---------- rules ----------

-- Another attempt is allowed: the first always, more while the step is
-- retryable and below its limit, none after a permanent failure.
CREATE FUNCTION oracle.eligible(s oracle.step) RETURNS boolean LANGUAGE sql AS $$
	SELECT NOT s.permanent AND (s.attempts = 0 OR (s.retryable AND s.attempts < s.retry_limit))
$$;

-- Every parent is complete or resolved.
CREATE FUNCTION oracle.satisfied(s oracle.step) RETURNS boolean LANGUAGE sql AS $$
	SELECT NOT EXISTS (SELECT FROM oracle.step p WHERE p.n = ANY (s.parents) AND p.state NOT IN ('complete', 'resolved_manually'))
$$;

-- A step may run now: pending (a retry that is due becomes pending), parents
-- finished, task open, nothing paused.
CREATE FUNCTION oracle.ready(s oracle.step) RETURNS boolean LANGUAGE sql AS $$
	SELECT (s.state = 'pending' OR (s.state = 'error' AND oracle.eligible(s) AND s.due <= c.minute))
		AND oracle.satisfied(s) AND t.state IN ('pending', 'in_progress') AND NOT c.paused AND NOT c.template_paused
	FROM oracle.clock c, oracle.task t WHERE t.n = s.task
$$;

-- ---------- moves ----------

-- The one place where a step's state changes.
CREATE FUNCTION oracle.move(which integer, target text, on_behalf_of integer DEFAULT NULL) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	UPDATE oracle.step s SET state = target, moves = s.moves + 1, due = NULL, requested = NULL, permanent = false
	WHERE s.n = which;
	INSERT INTO oracle.log SELECT s.n, s.moves, target, on_behalf_of FROM oracle.step s WHERE s.n = which;
END
$$;

CREATE FUNCTION oracle.claim(which integer, by_executor integer) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM oracle.move(which, 'in_progress', by_executor);
	UPDATE oracle.step s SET attempts = s.attempts + 1, executor = by_executor, claimed_at = oracle.minute() WHERE s.n = which;
END
$$;

-- An attempt fails. wait: minutes that were asked for; NULL: the backoff.
CREATE FUNCTION oracle.fail(which integer, final boolean, wait integer, on_behalf_of integer DEFAULT NULL) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	again boolean := (SELECT s.retryable AND s.attempts < s.retry_limit AND NOT final FROM oracle.step s WHERE s.n = which);
BEGIN
	PERFORM oracle.move(which, 'error', on_behalf_of);
	UPDATE oracle.step s SET permanent = final, requested = wait,
		due = CASE WHEN again THEN oracle.minute() + coalesce(wait, least(s.backoff_cap, s.backoff_base * (2 ^ least(s.attempts - 1, 20))::integer)) END
	WHERE s.n = which;
END
$$;

-- A report under a claim: what complete_step, fail_step and release_step answer.
CREATE FUNCTION oracle.report(which integer, claim integer, of_executor integer, target text, final boolean DEFAULT false, wait integer DEFAULT NULL)
RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	s oracle.step;
BEGIN
	SELECT * INTO s FROM oracle.step WHERE n = which;
	IF s.state = 'in_progress' AND s.moves * 10 = claim AND (of_executor IS NULL OR of_executor IS NOT DISTINCT FROM s.executor) THEN
		IF target = 'error' THEN
			PERFORM oracle.fail(which, final, wait, s.executor);
		ELSE
			PERFORM oracle.move(which, target, s.executor);
			-- Given back unstarted: the attempt does not count.
			UPDATE oracle.step x SET attempts = x.attempts - 1 WHERE x.n = which AND target = 'pending';
		END IF;
		RETURN 'true';
	END IF;
	-- The same outcome of the same claim, again: a success that changes nothing.
	IF EXISTS (SELECT FROM oracle.log c JOIN oracle.log o ON o.step = c.step AND o.move = c.move + 1
			WHERE c.step = which AND c.move * 10 = claim AND c.to_state = 'in_progress' AND o.to_state = target
				AND o.executor IS NOT DISTINCT FROM c.executor AND (of_executor IS NULL OR of_executor IS NOT DISTINCT FROM c.executor)) THEN
		RETURN 'false';
	END IF;
	RETURN 'TK001';
END
$$;

-- What cancel_step, retry_step and resolve_step answer.
CREATE FUNCTION oracle.operate_step(which integer, target text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	was text := (SELECT state FROM oracle.step WHERE n = which);
BEGIN
	-- In a task that is over for good nothing is tried again.
	IF target = 'pending' AND (SELECT t.state IN ('cancelled', 'resolved_manually') FROM oracle.step s JOIN oracle.task t ON t.n = s.task WHERE s.n = which) THEN
		RETURN 'TK002';
	END IF;
	IF was = target THEN
		RETURN 'false';
	END IF;
	IF (target = 'cancelled' AND was NOT IN ('pending', 'in_progress'))
		OR (target = 'pending' AND was <> 'error')
		OR (target = 'resolved_manually' AND was NOT IN ('pending', 'error')) THEN
		RETURN 'TK002';
	END IF;
	PERFORM oracle.move(which, target);
	UPDATE oracle.step s SET attempts = 0 WHERE s.n = which AND target = 'pending';
	RETURN 'true';
END
$$;

-- What transition_step answers: a state machine with two guards.
CREATE FUNCTION oracle.transition_step(which integer, target text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	s oracle.step;
BEGIN
	SELECT * INTO s FROM oracle.step WHERE n = which;
	IF NOT EXISTS (SELECT FROM (VALUES
			('pending', 'in_progress'), ('pending', 'error'), ('pending', 'cancelled'), ('pending', 'resolved_manually'),
			('in_progress', 'complete'), ('in_progress', 'error'), ('in_progress', 'cancelled'), ('in_progress', 'pending'),
			('error', 'pending'), ('error', 'resolved_manually')) legal (f, t) WHERE f = s.state AND t = target) THEN
		RETURN 'TK002';
	END IF;
	IF target = 'in_progress' THEN
		IF NOT oracle.satisfied(s) OR NOT oracle.eligible(s) THEN
			RETURN 'TK002';
		END IF;
		PERFORM oracle.claim(which, NULL);
	ELSE
		PERFORM oracle.move(which, target);
		-- By hand there is no backoff; a release gives one attempt back, a retry all.
		UPDATE oracle.step x SET due = CASE WHEN target = 'error' AND oracle.eligible(x) THEN oracle.minute() END,
			attempts = CASE WHEN target <> 'pending' THEN x.attempts WHEN s.state = 'error' THEN 0 ELSE x.attempts - 1 END
		WHERE x.n = which;
	END IF;
	RETURN ((s.moves + 1) * 10)::text;
END
$$;

-- What cancel_task, retry_task and resolve_task answer.
CREATE FUNCTION oracle.operate_task(which integer, target text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	was text := (SELECT state FROM oracle.task WHERE n = which);
BEGIN
	IF was = target OR (target = 'pending' AND was = 'in_progress') THEN
		RETURN 'false';
	END IF;
	IF (target = 'cancelled' AND was = 'error') OR (target IN ('pending', 'resolved_manually') AND was <> 'error') THEN
		RETURN 'TK002';
	END IF;
	UPDATE oracle.task SET state = target WHERE n = which;
	IF target = 'cancelled' THEN
		PERFORM oracle.move(n, 'cancelled') FROM oracle.step WHERE task = which AND state IN ('pending', 'in_progress');
	ELSIF target = 'pending' THEN
		PERFORM oracle.operate_step(n, 'pending') FROM oracle.step WHERE task = which AND state = 'error';
	END IF;
	RETURN 'true';
END
$$;

-- The outcome of a task: complete when every step is finished, error when
-- nothing of it can run any more, else it goes on. One in error goes on again
-- when something of it can run; cancelled and settled ones stay.
CREATE FUNCTION oracle.finalize(which integer) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
	was text := (SELECT state FROM oracle.task WHERE n = which);
	outcome text;
BEGIN
	IF was NOT IN ('pending', 'in_progress', 'error') THEN
		RETURN false;
	END IF;
	SELECT CASE
			WHEN bool_and(s.state IN ('complete', 'resolved_manually')) THEN 'complete'
			WHEN bool_or(s.state = 'in_progress'
				OR (s.state = 'error' AND s.due IS NULL AND s.skippable)
				OR (s.state = 'pending' OR s.due IS NOT NULL) AND oracle.satisfied(s)) THEN 'in_progress'
			ELSE 'error'
		END INTO outcome
	FROM oracle.step s WHERE s.task = which;
	UPDATE oracle.task SET state = outcome WHERE n = which;
	RETURN was <> outcome;
END
$$;

-- All consequences, until there are no more.
CREATE FUNCTION oracle.orchestrate() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	now integer := oracle.minute();
	changed boolean;
	s oracle.step;
BEGIN
	UPDATE oracle.executor SET ended = true WHERE NOT ended AND seen + lease <= now;
	LOOP
		changed := false;
		FOR s IN SELECT x.* FROM oracle.step x WHERE x.state IN ('pending', 'in_progress', 'error') ORDER BY x.n LOOP
			CASE s.state
			WHEN 'in_progress' THEN
				-- Its executor is gone: it runs again at once. It took too long: after the backoff.
				IF (SELECT e.ended FROM oracle.executor e WHERE e.n = s.executor) THEN
					PERFORM oracle.fail(s.n, false, 0);
					changed := true;
				ELSIF s.claimed_at + s.timeout <= now THEN
					PERFORM oracle.fail(s.n, false, NULL);
					changed := true;
				END IF;
			WHEN 'error' THEN
				-- Of an open task: due for its retry, or skipped where none is left.
				CONTINUE WHEN (SELECT t.state NOT IN ('pending', 'in_progress') FROM oracle.task t WHERE t.n = s.task);
				IF s.due <= now THEN
					PERFORM oracle.move(s.n, 'pending');
					changed := true;
				ELSIF s.due IS NULL AND s.skippable THEN
					PERFORM oracle.move(s.n, 'resolved_manually');
					changed := true;
				END IF;
			WHEN 'pending' THEN
				-- What depends on a cancelled step can never run.
				IF EXISTS (SELECT FROM oracle.step p WHERE p.n = ANY (s.parents) AND p.state = 'cancelled')
					AND (SELECT t.state <> 'cancelled' FROM oracle.task t WHERE t.n = s.task) THEN
					PERFORM oracle.move(s.n, 'cancelled');
					changed := true;
				END IF;
			END CASE;
		END LOOP;
		changed := (SELECT coalesce(bool_or(oracle.finalize(t.n)), false) FROM oracle.task t) OR changed;
		EXIT WHEN NOT changed;
	END LOOP;
END
$$;

-- ---------- what the views must show ----------

CREATE VIEW oracle.readiness AS
SELECT s.step_id, s.task, s.state,
	f.satisfied, f.eligible, f.ready, s.due, f.total, f.completed, s.attempts, s.retry_limit, s.requested * 60 AS requested,
	CASE WHEN f.ready THEN NULL
		WHEN NOT f.satisfied THEN 'dependencies_not_satisfied'
		WHEN s.state = 'error' AND NOT f.eligible THEN 'retry_not_eligible'
		WHEN s.state NOT IN ('pending', 'error') OR t.state NOT IN ('pending', 'in_progress') THEN 'invalid_state'
		ELSE 'unknown' END AS blocking_reason,
	CASE WHEN f.total = 0 THEN 'no_dependencies' WHEN f.satisfied THEN 'all_satisfied'
		ELSE format('%s/%s_satisfied', f.completed, f.total) END AS dependency_status,
	CASE WHEN NOT f.eligible THEN 'max_retries_reached' WHEN s.state = 'error' AND s.due > c.minute THEN 'waiting_for_backoff'
		ELSE 'retry_eligible' END AS retry_status,
	CASE WHEN s.requested IS NOT NULL AND s.claimed_at IS NOT NULL THEN 'explicit_backoff' WHEN s.state = 'error' THEN 'exponential_backoff'
		ELSE 'no_backoff' END AS backoff_type
FROM oracle.clock c, oracle.step s
JOIN oracle.task t ON t.n = s.task
CROSS JOIN LATERAL (SELECT oracle.satisfied(s) AS satisfied, oracle.eligible(s) AS eligible,
	coalesce(oracle.ready(s), false) AS ready, cardinality(s.parents) AS total,
	(SELECT count(*)::integer FROM oracle.step p WHERE p.n = ANY (s.parents) AND p.state IN ('complete', 'resolved_manually')) AS completed) f;

-- The same, held fast, since several comparisons need it.
CREATE UNLOGGED TABLE oracle.expected AS SELECT * FROM oracle.readiness;

CREATE VIEW oracle.context AS
SELECT f.*,
	CASE execution_status WHEN 'has_ready_steps' THEN 'execute_ready_steps' WHEN 'processing' THEN 'wait_for_completion'
		WHEN 'all_complete' THEN 'finalize_task' WHEN 'blocked_by_failures' THEN 'handle_failures'
		ELSE 'wait_for_dependencies' END AS recommended_action,
	CASE WHEN failed = 0 THEN 'healthy' WHEN ready > 0 THEN 'recovering' WHEN blocked > 0 THEN 'blocked' ELSE 'recovering' END AS health_status
FROM (
	SELECT c.*, CASE WHEN ready > 0 THEN 'has_ready_steps' WHEN in_progress > 0 THEN 'processing'
		WHEN completed = total THEN 'all_complete'
		WHEN failed = blocked AND blocked + cancelled > 0 THEN 'blocked_by_failures'
		ELSE 'waiting_for_dependencies' END AS execution_status
	FROM (
		SELECT t.task_id, t.state, count(*) AS total,
			count(*) FILTER (WHERE r.state = 'pending') AS pending,
			count(*) FILTER (WHERE r.state = 'in_progress') AS in_progress,
			count(*) FILTER (WHERE r.state IN ('complete', 'resolved_manually')) AS completed,
			count(*) FILTER (WHERE r.state = 'error') AS failed,
			count(*) FILTER (WHERE r.state = 'cancelled') AS cancelled,
			count(*) FILTER (WHERE r.ready) AS ready,
			count(*) FILTER (WHERE r.state = 'error' AND NOT r.eligible) AS blocked
		FROM oracle.task t JOIN oracle.expected r ON r.task = t.n GROUP BY t.task_id, t.state) c) f;
