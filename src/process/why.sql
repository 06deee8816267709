-- Why a task does not move, in sentences.

CREATE FUNCTION tasker.time_of_day(t timestamptz) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
RETURN to_char(t, 'YYYY-MM-DD HH24:MI:SS');
COMMENT ON FUNCTION tasker.time_of_day(timestamptz) IS 'A time as why() writes it, in the time zone of the session.';

CREATE FUNCTION tasker.live_executors(handler integer)
RETURNS TABLE (executor_id bigint, name text, capacity integer, in_flight bigint)
LANGUAGE sql STABLE
BEGIN ATOMIC
	-- A session-bound one is there while its lock is held, see executor.c.
	SELECT e.executor_id, e.name, e.capacity, s.in_flight
	FROM tasker.executors e
	JOIN tasker.stat_executors s ON s.executor_id = e.executor_id
	WHERE e.ended_at IS NULL AND handler = ANY (e.handlers)
		AND CASE WHEN e.detached THEN greatest(e.last_heartbeat_at, s.last_seen_at) + e.lease > tasker.now()
			ELSE EXISTS (SELECT FROM pg_locks l
				WHERE l.locktype = 'advisory' AND l.objsubid = 1001 AND l.granted
					AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
					AND l.classid::bigint = e.executor_id >> 32 AND l.objid::bigint = e.executor_id & 4294967295) END;
END;
COMMENT ON FUNCTION tasker.live_executors(integer) IS
'The executors that are there for a handler, given by its id, with the steps they have. Read by why().';

-- What keeps all tasks, or all of a template.
CREATE FUNCTION tasker.why_nothing_moves(named_task integer)
RETURNS TABLE (about text, reason text, advice text)
LANGUAGE sql STABLE
BEGIN ATOMIC
	SELECT o.about, o.reason, o.advice
	FROM tasker.stat_orchestrator s
	LEFT JOIN tasker.orchestrator_checkpoint c ON true
	CROSS JOIN tasker.named_tasks n
	JOIN tasker.task_namespaces ns ON ns.task_namespace_id = n.task_namespace_id
	CROSS JOIN LATERAL (VALUES
		(pg_is_in_recovery(), 'server', 'This server is a standby: nothing moves here.',
			'Ask the primary, or promote this server.'),
		(s.holds_dispatch = 'restored', 'database', 'The database was restored or cloned from another server: no step is given out before somebody says so.',
			'SELECT tasker.resume();'),
		(c.paused_at IS NOT NULL AND s.holds_dispatch IS DISTINCT FROM 'restored', 'database', format('Everything is paused since %s.', tasker.time_of_day(c.paused_at)),
			'SELECT tasker.resume();'),
		(ns.paused_at IS NOT NULL, 'namespace', format('Namespace %s is paused since %s.', ns.name, tasker.time_of_day(ns.paused_at)),
			format('SELECT tasker.resume(%L);', ns.name)),
		(n.paused_at IS NOT NULL, 'template', format('Template %s %s is paused since %s.', n.name, n.version, tasker.time_of_day(n.paused_at)),
			format('SELECT tasker.resume(%L, %L, %L);', ns.name, n.name, n.version)),
		(s.status = 'not preloaded', 'orchestrator', 'No orchestrator runs: tasker is not preloaded.',
			'Add tasker to shared_preload_libraries and restart the server, or call tasker.orchestrate().'),
		(s.status = 'off' AND NOT pg_is_in_recovery(), 'orchestrator', 'No orchestrator runs in this database: tasker.orchestrator is off for it, or was when it looked.',
			format('ALTER DATABASE %I SET tasker.orchestrator = on;', current_database())),
		(s.status = 'starting', 'orchestrator', 'The orchestrator is being started.',
			'If that stays so, see the server log: max_worker_processes may be exhausted.'),
		(s.status = 'held by a utility command', 'orchestrator', 'The orchestrator makes way for a utility command that needs the database.',
			'It comes back when that has ended.'),
		(s.status = 'running' AND s.unread_seconds > 2, 'orchestrator', format('The orchestrator is %s s behind the logs.', round(s.unread_seconds)),
			'SELECT * FROM tasker.stat_orchestrator; see its last_error, and pg_stat_activity for what it is doing.'),
		(s.status = 'running' AND s.last_error_at > now() - interval '1 minute', 'orchestrator',
			format('A batch of the orchestrator has failed at %s: %s', tasker.time_of_day(s.last_error_at), s.last_error),
			'Mend the cause; it tries again by itself.')
	) o (holds, about, reason, advice)
	WHERE n.named_task_id = named_task AND o.holds
	UNION ALL
	-- See ORCHESTRATION_LOCK_CLASS in pause.c.
	SELECT 'orchestrator', format('Session %s orchestrates in a transaction that is open since %s; the worker waits for its end.', l.pid, tasker.time_of_day(a.xact_start)),
		format('End its transaction, or SELECT pg_terminate_backend(%s);', l.pid)
	FROM pg_locks l
	JOIN pg_stat_activity a ON a.pid = l.pid
	WHERE l.locktype = 'advisory' AND l.objsubid = 1002 AND l.granted AND a.backend_type = 'client backend' AND l.pid <> pg_backend_pid()
		AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database());
END;
COMMENT ON FUNCTION tasker.why_nothing_moves(integer) IS
'What keeps all tasks of a template, given by its id: standby, restore, pauses, no orchestrator, its lag and errors. Read by why().';

-- Who holds rows of the task: a row's xmax is the transaction that has locked
-- or changed it, if that has not ended.
CREATE FUNCTION tasker.why_locked(task_id bigint)
RETURNS TABLE (about text, reason text, advice text)
LANGUAGE sql STABLE
BEGIN ATOMIC
	SELECT held.about,
		CASE WHEN p.gid IS NOT NULL THEN format('Prepared transaction %s has changed or locked it since %s.', p.gid, tasker.time_of_day(p.prepared))
			ELSE format('Session %s (%s, %s) has changed or locked it in a transaction that is open since %s.',
				l.pid, coalesce(a.usename, 'of another role'), coalesce(a.state, a.backend_type, 'unknown'), tasker.time_of_day(a.xact_start)) END,
		CASE WHEN p.gid IS NOT NULL THEN format('COMMIT PREPARED %1$L; or ROLLBACK PREPARED %1$L;', p.gid)
			ELSE format('End its transaction, or SELECT pg_terminate_backend(%s);', l.pid) END
	FROM (
		SELECT 'task' AS about, t.xmax AS holder FROM tasker.tasks t WHERE t.task_id = why_locked.task_id
		UNION ALL
		SELECT 'step ' || n.name, s.xmax
		FROM tasker.workflow_steps s
		JOIN tasker.named_steps n ON n.named_step_id = s.named_step_id
		WHERE s.task_id = why_locked.task_id
	) held
	JOIN pg_locks l ON l.locktype = 'transactionid' AND l.granted AND l.mode = 'ExclusiveLock' AND l.transactionid = held.holder
	LEFT JOIN pg_stat_activity a ON a.pid = l.pid
	LEFT JOIN pg_prepared_xacts p ON l.pid IS NULL AND p.transaction = held.holder
	WHERE l.pid IS DISTINCT FROM pg_backend_pid()
		AND coalesce(a.backend_type, '') <> 'tasker orchestrator';
END;
COMMENT ON FUNCTION tasker.why_locked(bigint) IS
'Which sessions and prepared transactions hold rows of a task and its steps, except those that several share. Read by why().';

-- Of an open task the steps that are the next to move, and what each waits for.
CREATE FUNCTION tasker.why_steps(task_id bigint)
RETURNS TABLE (about text, reason text, advice text)
LANGUAGE sql STABLE
BEGIN ATOMIC
	SELECT 'step ' || r.name, v.reason, v.advice
	FROM tasker.step_readiness_status(why_steps.task_id) r
	JOIN tasker.workflow_steps s ON s.workflow_step_id = r.workflow_step_id
	JOIN tasker.tasks t ON t.task_id = s.task_id
	JOIN tasker.named_tasks nt ON nt.named_task_id = t.named_task_id
	LEFT JOIN tasker.handlers h ON h.handler_id = s.handler_id
	LEFT JOIN tasker.waiting_steps wait ON s.state = 'in_progress' AND wait.workflow_step_id = s.workflow_step_id
	CROSS JOIN LATERAL (
		SELECT EXISTS (SELECT FROM tasker.named_tasks_named_steps ts
			WHERE ts.named_task_id = t.named_task_id AND ts.named_step_id = s.named_step_id AND ts.waits_for IS NOT NULL) AS waits
	) rule
	LEFT JOIN tasker.stat_executors e ON s.state = 'in_progress' AND e.executor_id = s.executor_id
	LEFT JOIN LATERAL (
		SELECT count(*) AS n, count(*) FILTER (WHERE x.capacity = 0) AS pulling,
			coalesce(sum(x.in_flight) FILTER (WHERE x.capacity > 0), 0) AS in_flight, coalesce(sum(x.capacity), 0) AS capacity
		FROM tasker.live_executors(s.handler_id) x
		WHERE r.current_state = 'pending' AND r.ready_for_execution
	) live ON true
	LEFT JOIN LATERAL (
		SELECT n.name AS taken_by
		FROM tasker.workflow_steps o
		JOIN tasker.named_steps n ON n.named_step_id = o.named_step_id
		WHERE NOT nt.concurrent AND o.task_id = s.task_id AND o.state = 'in_progress'
		LIMIT 1
	) turn ON true
	CROSS JOIN LATERAL (
		SELECT CASE
			WHEN wait.waits_for = 'time' AND wait.until <= tasker.now() THEN
				format('It has slept until %s: the orchestrator completes it with its next batch.', tasker.time_of_day(wait.until))
			WHEN wait.waits_for = 'time' THEN
				format('It sleeps since %s, until %s.', tasker.time_of_day(wait.since), tasker.time_of_day(wait.until))
			WHEN wait.waits_for = 'event' THEN
				format('It waits since %s for event %s%s%s, %s.', tasker.time_of_day(wait.since), wait.event_name,
					CASE WHEN wait.match = '{}' THEN '' ELSE ' with ' || left(wait.match::text, 200) END,
					CASE WHEN wait.own_task THEN ' of its own task' ELSE '' END,
					coalesce('until ' || tasker.time_of_day(wait.until), 'without a time limit'))
			WHEN r.ready_for_execution AND rule.waits THEN
				'It is about to begin its wait: the orchestrator lets it do so with its next batch.'
			WHEN s.state = 'in_progress' AND e.executor_id IS NULL THEN
				format('It is in progress since %s, with no executor: a session runs it, or somebody has moved it by hand.', tasker.time_of_day(s.last_attempted_at))
			WHEN s.state = 'in_progress' AND e.ended_at IS NOT NULL THEN
				format('It was with executor %s (%s), which has ended (%s): the orchestrator takes it back.', e.executor_id, e.name, e.end_reason)
			WHEN s.state = 'in_progress' THEN
				format('Executor %s (%s) has it since %s, attempt %s%s.', e.executor_id, e.name, tasker.time_of_day(s.last_attempted_at), s.attempts,
					CASE WHEN s.timeout_seconds IS NULL THEN ', without a timeout'
						ELSE format('; it times out at %s', tasker.time_of_day(s.last_attempted_at + make_interval(secs => s.timeout_seconds))) END)
			WHEN s.state = 'error' AND NOT r.retry_eligible THEN
				format('It has failed for good,%s after %s of %s attempts: %s', CASE WHEN s.failed_permanently AND NOT rule.waits THEN ' by the word of its executor,' ELSE '' END,
					s.attempts, greatest(s.retry_limit, 1), left(s.results ->> 'error', 200))
			WHEN s.state = 'error' AND s.next_retry_at > tasker.now() THEN
				format('It has failed (attempt %s of %s: %s) and is tried again at %s.', s.attempts, greatest(s.retry_limit, 1), left(s.results ->> 'error', 200),
					tasker.time_of_day(s.next_retry_at))
			WHEN s.state = 'error' THEN
				format('It has failed (attempt %s of %s: %s) and is due for the next one since %s.', s.attempts, greatest(s.retry_limit, 1),
					left(s.results ->> 'error', 200), tasker.time_of_day(s.next_retry_at))
			WHEN NOT r.ready_for_execution AND turn.taken_by IS NOT NULL THEN
				format('It waits for its turn: the template runs one step at a time, and %s is in progress.',
					turn.taken_by)
			WHEN nt.coordinator_strategy = 'synchronous' THEN
				'It is ready. The template is synchronous: only a session that calls coordinate_task runs its steps.'
			WHEN r.ready_for_execution AND live.n = 0 THEN
				format('It is ready, and no executor that is there runs its handler %s.', h.name)
			WHEN r.ready_for_execution AND live.pulling > 0 THEN
				format('It is ready and waits for one of %s executors of handler %s to ask for steps; %s.', live.pulling, h.name, queue.place)
			WHEN r.ready_for_execution AND live.in_flight >= live.capacity THEN
				format('It is ready, and the %s executors of handler %s have all the steps that they take at once: %s of %s; %s.',
					live.n, h.name, live.in_flight, live.capacity, queue.place)
			WHEN r.ready_for_execution THEN
				format('It is ready, and an executor of handler %s is free: the orchestrator gives it out with its next batch.', h.name)
			END AS reason,
			CASE
			WHEN wait.workflow_step_id IS NOT NULL THEN
				format('Not to wait: SELECT tasker.complete_step(%s, %s, %L);', s.workflow_step_id, wait.claim, '{}')
			WHEN rule.waits AND s.state = 'pending' THEN NULL
			WHEN s.state = 'in_progress' AND e.executor_id IS NULL THEN format('SELECT * FROM tasker.task_timeline(%s);', s.task_id)
			WHEN s.state = 'in_progress' AND e.ended_at IS NOT NULL THEN NULL
			WHEN s.state = 'in_progress' THEN format('Look at that program. To take the step back: SELECT tasker.unregister_executor(%s);', e.executor_id)
			WHEN s.state = 'error' AND NOT r.retry_eligible THEN
				format('SELECT tasker.retry_step(%1$s); or tasker.resolve_step(%1$s)', s.workflow_step_id)
			WHEN s.state = 'error' THEN format('Not to wait: SELECT tasker.retry_step(%s);', s.workflow_step_id)
			WHEN nt.coordinator_strategy = 'synchronous' THEN format('SELECT * FROM tasker.coordinate_task(%s);', s.task_id)
			WHEN r.ready_for_execution AND live.n = 0 THEN format('Start a program that calls tasker.register_executor(..., %L).', ARRAY[h.name])
			WHEN r.ready_for_execution AND live.pulling > 0 THEN 'See whether these programs call tasker.claim_steps() or tasker.await_steps().'
			WHEN r.ready_for_execution AND live.in_flight >= live.capacity THEN 'Start more executors, or register them with a higher capacity; SELECT * FROM tasker.stat_executors; shows what they are at.'
			END AS advice
		FROM (
			SELECT CASE
				WHEN NOT EXISTS (SELECT FROM tasker.work_queue q WHERE q.handler_id = s.handler_id AND q.rank = s.rank AND q.workflow_step_id = s.workflow_step_id)
					THEN 'it is not in the queue'
				ELSE format('%s steps are before it in the queue', (SELECT count(*) || CASE WHEN count(*) = 1000 THEN ' or more' ELSE '' END FROM (
					SELECT FROM tasker.work_queue q
					WHERE q.handler_id = s.handler_id AND (q.rank, q.workflow_step_id) < (s.rank, s.workflow_step_id) LIMIT 1000) b)) END AS place
		) queue
	) v
	WHERE s.state IN ('in_progress', 'error') OR (s.state = 'pending' AND r.dependencies_satisfied AND v.reason IS NOT NULL)
	ORDER BY s.workflow_step_id
	LIMIT 20;
END;
COMMENT ON FUNCTION tasker.why_steps(bigint) IS
'What the steps of an open task wait for that are the next to move, the first twenty. Read by why().';

CREATE FUNCTION tasker.why(task_id bigint)
RETURNS TABLE (about text, reason text, advice text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	task tasker.tasks;
	waiting bigint;
BEGIN
	SELECT t.* INTO task FROM tasker.tasks t WHERE t.task_id = why.task_id;
	IF NOT FOUND THEN
		RAISE EXCEPTION USING ERRCODE = 'undefined_object', MESSAGE = format('unknown task %s', coalesce(why.task_id::text, 'null'));
	END IF;
	IF task.state = 'error' THEN
		RETURN QUERY SELECT 'task', 'It is in error: nothing of it can run any more.', format('SELECT tasker.retry_task(%1$s); or tasker.resolve_task(%1$s)', task.task_id);
		RETURN QUERY SELECT w.* FROM tasker.why_steps(task.task_id) w;
		RETURN;
	ELSIF task.state IN ('complete', 'cancelled', 'resolved_manually') THEN
		RETURN QUERY SELECT 'task', format('It has ended: it is %s since %s.', task.state, tasker.time_of_day(l.created_at)), NULL::text
			FROM tasker.task_transition_log l WHERE l.task_id = task.task_id AND l.sort_key = task.sort_key;
		RETURN;
	END IF;
	RETURN QUERY SELECT w.* FROM tasker.why_nothing_moves(task.named_task_id) w;
	RETURN QUERY
		SELECT o.owner, 'The orchestrator could not process it and has set it aside; the server log has the error.',
			format('Mend the cause, then SELECT pg_terminate_backend(%s); the orchestrator that follows tries again.', o.pid)
		FROM (SELECT s.pid, unnest(s.set_aside_owners) AS owner FROM tasker.stat_orchestrator s) o
		WHERE o.owner = 'task ' || task.task_id
			OR o.owner IN (SELECT 'step ' || s.workflow_step_id FROM tasker.workflow_steps s WHERE s.task_id = task.task_id);
	RETURN QUERY SELECT w.* FROM tasker.why_locked(task.task_id) w;
	RETURN QUERY SELECT w.* FROM tasker.why_steps(task.task_id) w;
	SELECT count(*) INTO waiting FROM tasker.step_readiness_status(task.task_id) r
		WHERE r.current_state = 'pending' AND NOT r.dependencies_satisfied;
	IF waiting > 0 THEN
		RETURN QUERY SELECT 'other steps', format('%s wait for the ones before them.', waiting), NULL::text;
	END IF;
	IF NOT EXISTS (SELECT FROM tasker.workflow_steps s WHERE s.task_id = task.task_id AND s.state NOT IN ('complete', 'resolved_manually')) THEN
		RETURN QUERY SELECT 'task', 'All its steps are done: the orchestrator closes it with its next batch.', format('SELECT tasker.reenqueue_task(%s);', task.task_id);
	END IF;
END
$$;
COMMENT ON FUNCTION tasker.why(bigint) IS
'Why a task does not move, in sentences: about what (server, database, namespace, template, orchestrator, task, a step by its name), the reason, and what to do, if anything, the widest reason first. Looks at one task and at who is there; changes and locks nothing. Of other roles'' sessions it shows the details only with pg_read_all_stats. Runs with the rights of the caller, who needs those of the views beneath. For people. Error: 42704 unknown task.';
