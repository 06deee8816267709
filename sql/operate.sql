-- What an operator does: cancel, retry, resolve, from every state; pause and resume.
SELECT tasker.orchestrate() >= 0 AS settled;
SELECT executor_id AS executor FROM tasker.register_executor('operate', '{operate.H}', 0) \gset
SELECT test.template('operate', 'a; b<-a', '{"handler_class": "operate.H", "default_retry_limit": 2}') > 0 AS registered;

CREATE FUNCTION pg_temp.claim_all() RETURNS bigint LANGUAGE sql AS $$
	SELECT count(*) FROM tasker.claim_steps((SELECT max(executor_id) FROM tasker.executors WHERE name = 'operate' AND ended_at IS NULL), 10000)
$$;
-- A task whose first step a is in a state; the second one, b, waits for it.
-- Where the state of the task is asked for, the task is in it.
CREATE FUNCTION pg_temp.make(wanted tasker.state, of_task boolean) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	task bigint := tasker.create_task('operate', namespace => 'test');
	a bigint := test.step(task, 'a');
BEGIN
	IF wanted = 'pending' THEN
		RETURN task;
	ELSIF wanted = 'cancelled' THEN
		PERFORM CASE WHEN of_task THEN tasker.cancel_task(task) ELSE tasker.cancel_step(a) END;
		RETURN task;
	ELSIF wanted = 'resolved_manually' AND NOT of_task THEN
		PERFORM tasker.resolve_step(a);
		RETURN task;
	END IF;
	PERFORM tasker.orchestrate();
	PERFORM pg_temp.claim_all();
	IF wanted = 'in_progress' THEN
		RETURN task;
	ELSIF wanted = 'complete' THEN
		PERFORM tasker.complete_step(a, 10);
		IF of_task THEN
			PERFORM tasker.orchestrate();
			PERFORM pg_temp.claim_all();
			PERFORM tasker.complete_step(test.step(task, 'b'), 10);
			PERFORM tasker.orchestrate();
		END IF;
		RETURN task;
	END IF;
	PERFORM tasker.fail_step(a, 10, 'broken', retryable => false);
	IF of_task THEN
		PERFORM tasker.orchestrate();
	END IF;
	IF wanted = 'resolved_manually' THEN
		PERFORM tasker.resolve_task(task);
	END IF;
	RETURN task;
END
$$;
CREATE FUNCTION pg_temp.answer(statement text, id bigint) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	answer text;
	message text;
	detail text;
	hint text;
BEGIN
	EXECUTE statement INTO answer USING id;
	RETURN answer;
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN regexp_replace(concat_ws(' | ', SQLSTATE || ' ' || message, nullif(detail, ''), nullif(hint, '')), '(step|task) \d+', '\1 N', 'g');
END
$$;
CREATE FUNCTION pg_temp.states(task bigint) RETURNS text LANGUAGE sql AS $$
	SELECT format('task %s, %s', tasker.task_state(task), (SELECT string_agg(step || ' ' || state, ', ') FROM test.steps(task)))
$$;
-- Each operation on a fresh task, and again; what it left, and what came of that.
CREATE FUNCTION pg_temp.operate(of_task boolean) RETURNS TABLE (operation text, "from" tasker.state, answer text, again text, at_once text, then_ text)
LANGUAGE plpgsql AS $$
DECLARE
	task bigint;
	subject bigint;
BEGIN
	FOREACH operation IN ARRAY ARRAY['cancel', 'retry', 'resolve'] LOOP
		FOREACH "from" IN ARRAY enum_range(NULL::tasker.state) LOOP
			task := pg_temp.make("from", of_task);
			subject := CASE WHEN of_task THEN task ELSE test.step(task, 'a') END;
			IF "from" <> (CASE WHEN of_task THEN tasker.task_state(task) ELSE tasker.step_state(subject) END) THEN
				RAISE EXCEPTION 'it was not brought to %', "from";
			END IF;
			answer := pg_temp.answer(format('SELECT tasker.%s_%s($1)', operation, CASE WHEN of_task THEN 'task' ELSE 'step' END), subject);
			at_once := pg_temp.states(task);
			again := CASE WHEN answer = 'true' THEN
				pg_temp.answer(format('SELECT tasker.%s_%s($1)', operation, CASE WHEN of_task THEN 'task' ELSE 'step' END), subject) END;
			PERFORM tasker.orchestrate();
			then_ := nullif(pg_temp.states(task), at_once);
			RETURN NEXT;
		END LOOP;
	END LOOP;
END
$$;

CREATE TEMPORARY TABLE operated AS
SELECT 'task' AS owner, * FROM pg_temp.operate(true) UNION ALL SELECT 'step', * FROM pg_temp.operate(false);
---- tasks ----
SELECT operation, "from", split_part(answer, ' | ', 1) AS answer, again, at_once, then_ FROM operated WHERE owner = 'task';
---- steps ----
SELECT operation, "from", split_part(answer, ' | ', 1) AS answer, again, at_once, then_ FROM operated WHERE owner = 'step';
-- a refusal says what is allowed instead, and not the very thing that it refuses
SELECT owner, operation, "from", answer FROM operated
WHERE answer LIKE 'TK002%' AND (answer NOT LIKE '% | %'
	OR split_part(answer, ' | ', 2) LIKE '%' || CASE operation WHEN 'cancel' THEN '"cancelled"' WHEN 'retry' THEN '"pending"' ELSE '"resolved_manually"' END || '%');
SELECT DISTINCT owner, "from", split_part(answer, ' | ', 2) AS detail FROM operated
WHERE answer LIKE 'TK002%' AND operation <> 'retry' ORDER BY 1, 2;
SELECT pg_temp.answer('SELECT tasker.' || f || '(' || coalesce(id, 'NULL') || ')', 0)
FROM unnest('{cancel_task,retry_task,resolve_task,cancel_step,retry_step,resolve_step}'::text[]) WITH ORDINALITY u(f, n), unnest('{-1,NULL}'::text[]) id ORDER BY n, id;

---- why is in the log ----
SELECT pg_temp.make('pending', true) AS task \gset
SELECT tasker.cancel_task(:task, 'the customer said "no" 🚫');
SELECT metadata FROM tasker.task_transitions WHERE task_id = :task AND most_recent;
SELECT DISTINCT metadata FROM tasker.workflow_step_transitions JOIN tasker.workflow_steps USING (workflow_step_id) WHERE task_id = :task AND most_recent;
SELECT pg_temp.make('error', true) AS task \gset
SELECT tasker.resolve_step(test.step(:task, 'a'), 'by phone', '{"paid": true}');
SELECT metadata, results FROM tasker.workflow_step_transitions JOIN tasker.workflow_steps USING (workflow_step_id)
WHERE workflow_step_id = test.step(:task, 'a') AND most_recent;
-- results that are not given leave what the failure said
SELECT pg_temp.make('error', true) AS task \gset
SELECT tasker.resolve_step(test.step(:task, 'a'));
SELECT metadata, results FROM tasker.workflow_step_transitions JOIN tasker.workflow_steps USING (workflow_step_id)
WHERE workflow_step_id = test.step(:task, 'a') AND most_recent;

---- with work under way ----
-- cancelled under an executor's hands: its result is refused, and nothing follows
SELECT pg_temp.make('in_progress', true) AS task \gset
SELECT tasker.cancel_task(:task);
SELECT pg_temp.answer('SELECT tasker.complete_step($1, 10)', test.step(:task, 'a'));
SELECT tasker.orchestrate() >= 0 AS orchestrated;
SELECT * FROM test.history(:task);
-- queued: the claim passes over it
SELECT pg_temp.make('pending', true) AS task \gset
SELECT pg_temp.make('pending', true) AS next \gset
SELECT tasker.orchestrate() > 0 AS orchestrated;
SELECT tasker.cancel_task(:task);
SELECT task_id = :next AS next FROM tasker.claim_steps(:executor, 1) WHERE task_id IN (:task, :next);
SELECT pg_temp.claim_all() >= 0 AS claimed;
SELECT pg_temp.states(:task), pg_temp.states(:next);
-- waiting for its retry: it is not tried again
SELECT pg_temp.make('in_progress', true) AS task \gset
SELECT tasker.fail_step(test.step(:task, 'a'), 10, 'once', retry_after_seconds => 5);
SELECT tasker.orchestrate() >= 0 AS orchestrated;
SELECT tasker.cancel_task(:task);
SET tasker.clock_offset = 10000;
SELECT tasker.orchestrate() >= 0 AS orchestrated;
SELECT * FROM test.history(:task);
-- a retry by hand does not wait for the backoff, and counts from the start
SELECT pg_temp.make('in_progress', true) AS task \gset
SELECT tasker.fail_step(test.step(:task, 'a'), 10, 'once', retry_after_seconds => 5000);
SELECT tasker.retry_step(test.step(:task, 'a'));
SELECT tasker.orchestrate() >= 0 AS orchestrated;
SELECT claim, attempt FROM tasker.claim_steps(:executor, 10000) WHERE task_id = :task;
SELECT tasker.fail_step(test.step(:task, 'a'), 40, 'twice', retry_after_seconds => 0);
SELECT tasker.orchestrate() > 0 AS orchestrated;
SELECT claim, attempt FROM tasker.claim_steps(:executor, 10000) WHERE task_id = :task;
SELECT tasker.fail_step(test.step(:task, 'a'), 70, 'thrice');
SELECT tasker.orchestrate() > 0 AS orchestrated;
SELECT * FROM test.history(:task);
-- a permanent failure can be tried again by hand
SELECT pg_temp.make('error', true) AS task \gset
SELECT tasker.retry_step(test.step(:task, 'a'));
SELECT test.run_all(:executor) >= 2 AS ran;
SELECT * FROM test.history(:task);
-- a resolved task does not come back through its steps
SELECT pg_temp.make('resolved_manually', true) AS task \gset
\set VERBOSITY sqlstate
SELECT tasker.retry_step(test.step(:task, 'a'));
\set VERBOSITY default
SELECT tasker.orchestrate() >= 0 AS orchestrated;
SELECT pg_temp.states(:task), count(q) AS queued FROM tasker.workflow_steps LEFT JOIN tasker.work_queue q USING (workflow_step_id) WHERE task_id = :task;

---- pause and resume ----
CREATE FUNCTION pg_temp.try_to_run() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	PERFORM tasker.orchestrate();
	RETURN coalesce((SELECT string_agg(task_name || '.' || step_name, ', ' ORDER BY task_id, workflow_step_id)
		FROM tasker.claim_steps((SELECT max(executor_id) FROM tasker.executors WHERE name = 'operate' AND ended_at IS NULL), 10000)), 'nothing');
END
$$;
-- whatever the states above left open goes first
DO $$
BEGIN
	PERFORM tasker.cancel_task(task_id) FROM tasker.tasks JOIN tasker.named_tasks n USING (named_task_id)
	WHERE n.name = 'operate' AND tasks.state IN ('pending', 'in_progress');
	PERFORM pg_temp.try_to_run();
END
$$;
SELECT tasker.register_task_template('{"name": "operate elsewhere", "namespace_name": "operate", "version": "1.0.0",
	"step_templates": [{"name": "a", "handler_class": "operate.H"}]}') > 0 AS registered;
SELECT test.template('operate versions', 'a; b<-a', '{"handler_class": "operate.H"}', '1.0.0') > 0 AS registered;
SELECT test.template('operate versions', 'a; c<-a', '{"handler_class": "operate.H"}', '2.0.0') > 0 AS registered;

-- everything: what is in progress may finish, nothing new is given out
SELECT tasker.create_task('operate versions', namespace => 'test', version => '1.0.0') AS one \gset
SELECT pg_temp.try_to_run();
SELECT tasker.pause();
SELECT tasker.pause();
SELECT holds_dispatch FROM tasker.stat_orchestrator;
SELECT tasker.create_task('operate elsewhere', namespace => 'operate') AS elsewhere \gset
SELECT tasker.complete_step(test.step(:one, 'a'), 10);
SELECT pg_temp.try_to_run();
SELECT executor_id AS pushed FROM tasker.register_executor('operate pushed', '{operate.H}', 10) \gset
SELECT pg_temp.try_to_run();
SELECT count(*) FROM tasker.my_steps(:pushed);
SELECT tasker.unregister_executor(:pushed);
SELECT tasker.resume();
SELECT tasker.resume();
SELECT holds_dispatch FROM tasker.stat_orchestrator;
-- what became ready meanwhile is picked up
SELECT pg_temp.try_to_run();
SELECT count(tasker.complete_step(workflow_step_id, claim)) FROM tasker.my_steps(:executor) WHERE task_id IN (:one, :elsewhere);

-- a namespace
SELECT tasker.create_task('operate elsewhere', namespace => 'operate') AS before_pause \gset
SELECT tasker.orchestrate() > 0 AS orchestrated;
SELECT tasker.pause('operate');
SELECT tasker.create_task('operate elsewhere', namespace => 'operate') AS in_pause \gset
SELECT tasker.create_task('operate versions', namespace => 'test') AS other \gset
SELECT pg_temp.try_to_run();
SELECT task_id IN (:before_pause, :in_pause) AS held, pg_temp.states(task_id) FROM unnest(ARRAY[:before_pause, :in_pause]::bigint[]) task_id;
SELECT tasker.resume('operate');
SELECT pg_temp.try_to_run();
SELECT count(tasker.complete_step(workflow_step_id, claim)) FROM tasker.my_steps(:executor);

-- a template and one version of it; failures during the pause are tried again after it
SELECT tasker.create_task('operate versions', namespace => 'test', version => '1.0.0') AS one \gset
SELECT tasker.create_task('operate versions', namespace => 'test', version => '2.0.0') AS two \gset
SELECT pg_temp.try_to_run();
SELECT tasker.pause('test', 'operate versions', '1.0.0');
SELECT tasker.complete_step(test.step(:one, 'a'), 10), tasker.complete_step(test.step(:two, 'a'), 10);
SELECT pg_temp.try_to_run();
SELECT tasker.resume('test', 'operate versions', '1.0.0');
SELECT tasker.pause('test', 'operate versions');
SELECT tasker.fail_step(test.step(:two, 'c'), 10, 'during the pause', retry_after_seconds => 0);
SELECT pg_temp.try_to_run();
SELECT * FROM test.history(:two);
SELECT tasker.resume('test', 'operate versions');
SELECT pg_temp.try_to_run();
SELECT count(tasker.complete_step(workflow_step_id, claim)) FROM tasker.my_steps(:executor);
SELECT pg_temp.try_to_run();
SELECT pg_temp.states(:one), pg_temp.states(:two);

-- pauses of different scopes add up
SELECT tasker.create_task('operate elsewhere', namespace => 'operate') AS held \gset
SELECT tasker.pause('operate'), tasker.pause('operate', 'operate elsewhere');
SELECT tasker.resume('operate');
SELECT pg_temp.try_to_run();
SELECT tasker.pause('operate');
SELECT tasker.resume('operate', 'operate elsewhere');
SELECT pg_temp.try_to_run();
SELECT tasker.pause();
SELECT tasker.resume('operate');
SELECT pg_temp.try_to_run();
SELECT tasker.resume();
SELECT pg_temp.try_to_run();
SELECT tasker.complete_step(test.step(:held, 'a'), 10);

-- a pause that is rolled back was none
SELECT tasker.create_task('operate elsewhere', namespace => 'operate') AS held \gset
BEGIN;
SELECT tasker.pause('operate');
SELECT pg_temp.try_to_run();
ROLLBACK;
SELECT pg_temp.try_to_run();
SELECT tasker.complete_step(test.step(:held, 'a'), 10);

-- a paused task may be operated on
SELECT tasker.pause('operate');
SELECT tasker.create_task('operate elsewhere', namespace => 'operate') AS held \gset
SELECT tasker.create_task('operate elsewhere', namespace => 'operate') AS resolved \gset
SELECT tasker.cancel_task(:held), tasker.resolve_step(test.step(:resolved, 'a'));
SELECT pg_temp.try_to_run();
SELECT pg_temp.states(:held), pg_temp.states(:resolved);
SELECT tasker.resume('operate');
SELECT pg_temp.try_to_run();

-- unknown scopes
SELECT pg_temp.answer('SELECT tasker.' || f || a, 0)
FROM unnest('{pause,resume}'::text[]) WITH ORDINALITY u(f, n),
	unnest(ARRAY['(''nowhere'')', '(''test'', ''nothing'')', '(''test'', ''operate versions'', ''9.9.9'')', '(task_name => ''operate'')',
		'(version => ''1.0.0'')', '(''test'', version => ''1.0.0'')', '('''')']) WITH ORDINALITY w(a, m) ORDER BY n, m;

-- what an operator has settled of a task in error follows also where accelerators are rebuilt before anybody has read of it
SELECT pg_temp.make('error', true) AS retried \gset
SELECT pg_temp.make('error', true) AS resolved \gset
SELECT tasker.retry_step(test.step(:retried, 'a')), tasker.resolve_step(test.step(:resolved, 'a'));
SELECT tasker.rebuild_accelerators();
SELECT tasker.orchestrate() > 0 AS revived;
SELECT tasker.task_state(:retried) AS retried, tasker.task_state(:resolved) AS resolved, pg_temp.claim_all() AS ready;

-- leave nothing open behind
SELECT count(tasker.cancel_task(task_id)) >= 0 AS cleared FROM tasker.tasks JOIN tasker.named_tasks n USING (named_task_id)
WHERE n.name LIKE 'operate%' AND tasks.state IN ('pending', 'in_progress');
SELECT tasker.unregister_executor(:executor);
SELECT tasker.orchestrate() >= 0 AS orchestrated;
SELECT * FROM tasker.check();
