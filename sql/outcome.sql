-- How a claimed step ended: complete, failed, released; who may say so, and how often.
SELECT tasker.orchestrate() >= 0 AS settled;
SELECT executor_id AS executor FROM tasker.register_executor('outcome', '{outcome.H}', 0) \gset
SELECT executor_id AS another FROM tasker.register_executor('outcome another', '{outcome.H}', 0) \gset

-- What a statement is refused with; ids differ between runs and are masked.
CREATE FUNCTION pg_temp.refusal(statement text, VARIADIC ids bigint[] DEFAULT '{}') RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	message text;
	detail text;
	hint text;
BEGIN
	EXECUTE statement USING ids[1], ids[2], ids[3];
	RETURN 'accepted';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN regexp_replace(concat_ws(' | ', SQLSTATE || ' ' || message, nullif(detail, ''), nullif(hint, '')),
		'(step|task|executor) \d+', '\1 N', 'g');
END
$$;
-- A task of one step, claimed by an executor; returns the step. Its first claim is 10.
CREATE FUNCTION pg_temp.claimed(executor bigint) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	task bigint := tasker.create_task('outcome', namespace => 'test');
BEGIN
	PERFORM tasker.orchestrate();
	PERFORM tasker.claim_steps(executor, 10000);
	RETURN test.step(task, 'a');
END
$$;
CREATE FUNCTION pg_temp.moves(step bigint) RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(to_state::text, ' > ' ORDER BY sort_key) FROM tasker.workflow_step_transitions WHERE workflow_step_id = step
$$;
SELECT test.template('outcome', 'a', '{"handler_class": "outcome.H", "backoff_base_seconds": 1000}') > 0 AS registered;

---- the same report again changes nothing ----
SELECT pg_temp.claimed(:executor) AS step \gset
SELECT tasker.complete_step(:step, 10, '{"n": 1}') AS first_time, tasker.complete_step(:step, 10, '{"n": 2}') AS again;
SELECT tasker.complete_step(:step, 10, executor_id => :executor) AS with_executor;
SELECT pg_temp.moves(:step), results FROM tasker.workflow_steps WHERE workflow_step_id = :step;
SELECT tasker.complete_steps(ARRAY[:step], '{10}');
SELECT tasker.complete_steps(ARRAY[:step], '{10}', skip_stale => true);
SELECT pg_temp.claimed(:executor) AS step \gset
SELECT tasker.fail_step(:step, 10, 'one', retry_after_seconds => 50) AS first_time, tasker.fail_step(:step, 10, 'two') AS again;
SELECT pg_temp.moves(:step), results, attempts, backoff_request_seconds FROM tasker.workflow_steps WHERE workflow_step_id = :step;
SELECT tasker.fail_steps(ARRAY[:step], '{10}', '{three}');
SELECT pg_temp.claimed(:executor) AS step \gset
SELECT tasker.release_step(:step, 10) AS first_time, tasker.release_step(:step, 10) AS again;
SELECT tasker.release_steps(ARRAY[:step], '{10}');
-- the attempt is given back, the claim number is not
SELECT pg_temp.moves(:step), state, attempts, last_attempted_at IS NOT NULL AS was_attempted FROM tasker.workflow_steps WHERE workflow_step_id = :step;
SELECT tasker.orchestrate() >= 0 AS orchestrated;
SELECT claim, attempt FROM tasker.claim_steps(:another, 1);
-- also when it has been claimed again since
SELECT tasker.release_step(:step, 10) AS again;
SELECT pg_temp.refusal('SELECT tasker.complete_step($1, 10)', :step);
SELECT tasker.complete_step(:step, 30);
-- a step can be given back for ever
SELECT pg_temp.claimed(:executor) AS step \gset
DO $$
BEGIN
	FOR i IN 1..10 LOOP
		PERFORM tasker.release_step(workflow_step_id, claim)
		FROM tasker.stat_executors e, tasker.my_steps(e.executor_id) WHERE e.name = 'outcome';
		PERFORM tasker.orchestrate();
		PERFORM tasker.claim_steps(executor_id, 1) FROM tasker.stat_executors e WHERE e.name = 'outcome';
	END LOOP;
END
$$;
SELECT attempts, sort_key, state FROM tasker.workflow_steps WHERE workflow_step_id = :step;
SELECT tasker.complete_step(:step, 210);

---- another report of the same claim is stale ----
SELECT pg_temp.claimed(:executor) AS complete \gset
SELECT tasker.complete_step(:complete, 10);
SELECT pg_temp.claimed(:executor) AS failed \gset
SELECT tasker.fail_step(:failed, 10, 'no');
SELECT pg_temp.claimed(:executor) AS released \gset
SELECT tasker.release_step(:released, 10);
SELECT what, pg_temp.refusal('SELECT tasker.complete_step($1, 10)', step) AS complete,
	pg_temp.refusal('SELECT tasker.fail_step($1, 10, ''no'')', step) AS fail, pg_temp.refusal('SELECT tasker.release_step($1, 10)', step) AS release
FROM (VALUES (1, 'complete', :complete), (2, 'failed', :failed), (3, 'released', :released)) v(n, what, step) ORDER BY n \gx
SELECT pg_temp.moves(:complete), pg_temp.moves(:failed), pg_temp.moves(:released);
SELECT tasker.resolve_step(:released);

---- stale for other reasons ----
SELECT pg_temp.claimed(:executor) AS step \gset
-- a claim that is not the step's
SELECT pg_temp.refusal('SELECT tasker.complete_step($1, 0)', :step);
SELECT pg_temp.refusal('SELECT tasker.complete_step($1, 20)', :step);
SELECT pg_temp.refusal('SELECT tasker.complete_step($1, -10)', :step);
SELECT pg_temp.refusal('SELECT tasker.complete_step($1, 2147483647)', :step);
-- somebody else's
SELECT pg_temp.refusal('SELECT tasker.complete_step($1, 10, executor_id => $2)', :step, :another);
SELECT pg_temp.refusal('SELECT tasker.fail_step($1, 10, ''no'', executor_id => $2)', :step, :another);
SELECT pg_temp.refusal('SELECT tasker.release_step($1, 10, $2)', :step, :another);
SELECT pg_temp.refusal('SELECT tasker.complete_step($1, 10, executor_id => -1)', :step);
SELECT tasker.complete_step(:step, 10, executor_id => :executor);
SELECT pg_temp.refusal('SELECT tasker.complete_step($1, 10, executor_id => $2)', :step, :another);
-- its step was cancelled, its task was
SELECT pg_temp.claimed(:executor) AS step \gset
SELECT tasker.cancel_step(:step);
SELECT pg_temp.refusal('SELECT tasker.complete_step($1, 10)', :step);
SELECT pg_temp.claimed(:executor) AS step \gset
SELECT count(tasker.cancel_task(task_id)) FROM tasker.workflow_steps WHERE workflow_step_id = :step;
SELECT pg_temp.refusal('SELECT tasker.complete_step($1, 10)', :step);
SELECT pg_temp.refusal('SELECT tasker.fail_step($1, 10, ''no'')', :step);
SELECT pg_temp.refusal('SELECT tasker.release_step($1, 10)', :step);
SELECT pg_temp.moves(:step);
-- it failed, was resolved, was tried again: each says what the step is now
SELECT pg_temp.claimed(:executor) AS step \gset
SELECT tasker.fail_step(:step, 10, 'no', retryable => false);
SELECT pg_temp.refusal('SELECT tasker.complete_step($1, 10)', :step);
SELECT tasker.retry_step(:step);
SELECT pg_temp.refusal('SELECT tasker.complete_step($1, 10)', :step);
SELECT tasker.orchestrate() >= 0 AS orchestrated;
SELECT claim, attempt FROM tasker.claim_steps(:another, 1);
SELECT pg_temp.refusal('SELECT tasker.complete_step($1, 10, executor_id => $2)', :step, :executor);
SELECT pg_temp.refusal('SELECT tasker.complete_step($1, 40, executor_id => $2)', :step, :executor);
SELECT tasker.fail_step(:step, 10, 'the same report as before, late') AS again;
SELECT tasker.fail_step(:step, 40, 'no', retryable => false);
SELECT tasker.resolve_step(:step);
SELECT pg_temp.refusal('SELECT tasker.complete_step($1, 40)', :step);
SELECT pg_temp.moves(:step);
-- a step that was never claimed
SELECT tasker.create_task('outcome', namespace => 'test') AS fresh \gset
SELECT pg_temp.refusal('SELECT tasker.complete_step($1, 0)', test.step(:fresh, 'a'));
SELECT pg_temp.refusal('SELECT tasker.complete_step($1, 10)', test.step(:fresh, 'a'));
SELECT tasker.cancel_task(:fresh);
-- unknown
SELECT pg_temp.refusal(s) FROM unnest(ARRAY['SELECT tasker.complete_step(-1, 10)', 'SELECT tasker.fail_step(-1, 10, ''no'')',
	'SELECT tasker.release_step(-1, 10)', 'SELECT tasker.complete_steps(''{-1}'', ''{10}'')',
	'SELECT tasker.complete_steps(''{-1}'', ''{10}'', skip_stale => true)', 'SELECT tasker.fail_steps(''{-1}'', ''{10}'', ''{no}'')',
	'SELECT tasker.release_steps(''{-1}'', ''{10}'')']) s;

---- nulls and bounds ----
SELECT pg_temp.claimed(:executor) AS step \gset
SELECT pg_temp.refusal(s, :step) FROM unnest(ARRAY[
	'SELECT tasker.complete_step(NULL, 10)', 'SELECT tasker.complete_step($1, NULL)',
	'SELECT tasker.fail_step(NULL, 10, ''no'')', 'SELECT tasker.fail_step($1, NULL, ''no'')',
	'SELECT tasker.fail_step($1, 10, ''no'', retry_after_seconds => -1)',
	'SELECT tasker.release_step(NULL, 10)', 'SELECT tasker.release_step($1, NULL)',
	'SELECT tasker.complete_steps(NULL, ''{10}'')', 'SELECT tasker.complete_steps(ARRAY[$1], NULL)',
	'SELECT tasker.complete_steps(ARRAY[$1, NULL], ''{10,10}'')', 'SELECT tasker.complete_steps(ARRAY[$1], ''{NULL}'')',
	'SELECT tasker.fail_steps(ARRAY[$1], ''{10}'', NULL)', 'SELECT tasker.fail_steps(NULL, ''{10}'', ''{no}'')',
	'SELECT tasker.fail_steps(ARRAY[$1], ''{10}'', ''{no}'', retry_after_seconds => ''{-1}'')',
	'SELECT tasker.release_steps(NULL, ''{10}'')', 'SELECT tasker.release_steps(ARRAY[$1], NULL)',
	-- arrays of unequal length
	'SELECT tasker.complete_steps(ARRAY[$1], ''{10,20}'')', 'SELECT tasker.complete_steps(ARRAY[$1], ''{}'')',
	'SELECT tasker.complete_steps(ARRAY[$1], ''{10}'', ARRAY[''1'', ''2'']::jsonb[])', 'SELECT tasker.complete_steps(ARRAY[$1], ''{10}'', ''{}'')',
	'SELECT tasker.fail_steps(ARRAY[$1], ''{10}'', ''{no,no}'')', 'SELECT tasker.fail_steps(ARRAY[$1], ''{10}'', ''{no}'', error_classes => ''{a,b}'')',
	'SELECT tasker.fail_steps(ARRAY[$1], ''{10}'', ''{no}'', retryable => ''{t,f}'')',
	'SELECT tasker.fail_steps(ARRAY[$1], ''{10}'', ''{no}'', retry_after_seconds => ''{1,2}'')',
	'SELECT tasker.release_steps(ARRAY[$1], ''{10,20}'')']) WITH ORDINALITY u(s, n) ORDER BY n;
SELECT tasker.complete_steps('{}', '{}'), tasker.fail_steps('{}', '{}', '{}'), tasker.release_steps('{}', '{}');
SELECT pg_temp.moves(:step);
-- what may be null: the error, its class, whether it can be retried, the results
SELECT tasker.fail_step(:step, 10, NULL, NULL, NULL);
SELECT results, next_retry_at IS NOT NULL AS retries FROM tasker.workflow_steps WHERE workflow_step_id = :step;
SELECT pg_temp.claimed(:executor) AS one, pg_temp.claimed(:executor) AS two, pg_temp.claimed(:executor) AS three \gset
SELECT tasker.fail_steps(ARRAY[:one, :two, :three], '{10,10,10}', '{first,NULL,third}', '{E1,NULL,E3}', '{t,NULL,f}', '{5,NULL,6}');
SELECT results, failed_permanently, backoff_request_seconds, next_retry_at IS NOT NULL AS retries FROM tasker.workflow_steps
WHERE workflow_step_id IN (:one, :two, :three) ORDER BY workflow_step_id;

---- batches ----
SELECT pg_temp.claimed(:executor) AS one, pg_temp.claimed(:executor) AS two, pg_temp.claimed(:executor) AS three \gset
-- in any order, each with its own results
SELECT tasker.complete_steps(ARRAY[:three, :one, :two], '{10,10,10}', ARRAY['{"n": 3}', NULL, '{"n": 2}']::jsonb[]);
SELECT results FROM tasker.workflow_steps WHERE workflow_step_id IN (:one, :two, :three) ORDER BY workflow_step_id;
SELECT pg_temp.claimed(:executor) AS one, pg_temp.claimed(:executor) AS two, pg_temp.claimed(:executor) AS three \gset
-- one stale claim refuses all
SELECT pg_temp.refusal('SELECT tasker.complete_steps(ARRAY[$1, $2, $3], ''{10,20,10}'')', :one, :two, :three);
SELECT pg_temp.refusal('SELECT tasker.complete_steps(ARRAY[$1, $2, -1], ''{10,10,10}'')', :one, :two);
SELECT pg_temp.moves(:one), pg_temp.moves(:two), pg_temp.moves(:three);
-- unless they are skipped: then they are named
SELECT r = :two AS two_was_refused FROM unnest(tasker.complete_steps(ARRAY[:one, :two, :three], '{10,20,10}', skip_stale => true)) r;
SELECT pg_temp.moves(:one), pg_temp.moves(:two), pg_temp.moves(:three);
-- somebody else's are stale as well
SELECT cardinality(tasker.complete_steps(ARRAY[:one, :two, :three], '{10,10,10}', executor_id => :another, skip_stale => true)) AS refused;
SELECT tasker.complete_steps(ARRAY[:one, :two, :three], '{10,10,10}', executor_id => :executor);
-- the same step twice in a batch: once is enough, with two claims one is stale
SELECT pg_temp.claimed(:executor) AS one, pg_temp.claimed(:executor) AS two \gset
SELECT pg_temp.refusal('SELECT tasker.complete_steps(ARRAY[$1, $1], ''{10,20}'')', :one);
SELECT r = :one AS refused FROM unnest(tasker.fail_steps(ARRAY[:one, :one], '{20,10}', '{stale,good}', skip_stale => true)) r;
SELECT results FROM tasker.workflow_steps WHERE workflow_step_id = :one;
SELECT tasker.complete_steps(ARRAY[:two, :two], '{10,10}', ARRAY['1', '1']::jsonb[]);
SELECT pg_temp.moves(:one), pg_temp.moves(:two);
-- fail and release
SELECT pg_temp.claimed(:executor) AS one, pg_temp.claimed(:executor) AS two \gset
SELECT cardinality(tasker.release_steps(ARRAY[:one, :two], '{10,20}', skip_stale => true)) AS refused;
SELECT cardinality(tasker.release_steps(ARRAY[:one, :two], '{10,10}', :another, true)) AS refused;
SELECT tasker.release_steps(ARRAY[:one, :two], '{10,10}', :executor);
SELECT pg_temp.moves(:one), pg_temp.moves(:two);
SELECT count(tasker.resolve_step(s)) FROM unnest(ARRAY[:one, :two]::bigint[]) s;
-- many
SELECT count(*) FROM tasker.create_tasks(ARRAY(SELECT '{"name": "outcome", "namespace": "test"}'::jsonb FROM generate_series(1, 400)));
SELECT tasker.orchestrate() > 0 AS orchestrated;
SELECT cardinality(tasker.complete_steps(array_agg(workflow_step_id), array_agg(claim), array_agg('{}'::jsonb), :executor)) AS refused
FROM tasker.claim_steps(:executor, 10000);
SELECT tasker.orchestrate() AS finished;

---- with the caller's work, or not at all ----
CREATE TEMPORARY TABLE ledger (step bigint, amount integer);
SELECT pg_temp.claimed(:executor) AS step \gset
BEGIN;
INSERT INTO ledger VALUES (:step, 1);
SELECT tasker.complete_step(:step, 10);
ROLLBACK;
SELECT pg_temp.moves(:step), (SELECT count(*) FROM ledger) AS booked;
BEGIN;
INSERT INTO ledger VALUES (:step, 1);
SAVEPOINT attempt;
SELECT tasker.fail_step(:step, 10, 'changed my mind');
ROLLBACK TO attempt;
SELECT tasker.complete_step(:step, 10) AS first_time;
COMMIT;
SELECT pg_temp.moves(:step), (SELECT count(*) FROM ledger) AS booked;
-- the repeat after a lost answer: false, so nothing is booked twice
BEGIN;
INSERT INTO ledger VALUES (:step, 1);
SELECT tasker.complete_step(:step, 10) AS first_time \gset
\if :first_time
COMMIT;
\else
ROLLBACK;
\endif
SELECT pg_temp.moves(:step), (SELECT count(*) FROM ledger) AS booked;
-- the executor that was too slow books nothing
SELECT pg_temp.claimed(:executor) AS step \gset
SELECT tasker.fail_step(:step, 10, 'slow', retry_after_seconds => 0);
SELECT tasker.orchestrate() > 0 AS orchestrated;
SELECT claim FROM tasker.claim_steps(:another, 1);
BEGIN;
INSERT INTO ledger VALUES (:step, 1);
\set VERBOSITY sqlstate
SELECT tasker.complete_step(:step, 10);
COMMIT;
\set VERBOSITY default
SELECT count(*) AS booked FROM ledger WHERE step = :step;
BEGIN;
INSERT INTO ledger VALUES (:step, 1);
SELECT tasker.complete_step(:step, 40);
COMMIT;
SELECT count(*) AS booked FROM ledger WHERE step = :step;
-- in stricter isolation
SELECT pg_temp.claimed(:executor) AS one, pg_temp.claimed(:executor) AS two \gset
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT tasker.complete_step(:one, 10);
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT tasker.complete_step(:two, 10);
COMMIT;
-- a function of the caller's may report
CREATE FUNCTION pg_temp.report(step bigint) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	BEGIN
		PERFORM tasker.complete_step(step, 20);
	EXCEPTION WHEN SQLSTATE 'TK001' THEN
		RETURN tasker.complete_step(step, 10);
	END;
END
$$;
SELECT pg_temp.claimed(:executor) AS step \gset
SELECT pg_temp.report(:step);
SELECT tasker.step_state(:step);

---- large and odd values ----
SELECT pg_temp.claimed(:executor) AS step \gset
-- of a long error the results keep 64 kB, the log less, and both say so; no character is cut in two
SELECT tasker.fail_step(:step, 10, repeat('é', 500000), repeat('C', 1000));
SELECT octet_length(results ->> 'error') AS in_results, right(results ->> 'error', 22) AS mark, octet_length(results ->> 'error_class') AS class, right(results ->> 'error_class', 18) AS class_mark FROM tasker.workflow_steps WHERE workflow_step_id = :step;
SELECT octet_length(metadata ->> 'error_message') AS in_log, metadata ->> 'error_message' = repeat('é', 490) || ' ... (1000000 bytes)' AS whole_characters
FROM tasker.workflow_step_transitions WHERE workflow_step_id = :step AND to_state = 'error';
SELECT pg_temp.claimed(:executor) AS one, pg_temp.claimed(:executor) AS two, pg_temp.claimed(:executor) AS three, pg_temp.claimed(:executor) AS four \gset
SELECT tasker.complete_step(:one, 10, ('{"large": "' || repeat('x', 10000000) || '"}')::jsonb);
SELECT tasker.complete_step(:two, 10, (repeat('[', 1000) || '1' || repeat(']', 1000))::jsonb);
SELECT tasker.complete_step(:three, 10, 'null');
SELECT tasker.complete_step(:four, 10, '"Ünï \" '' \\ \n 🚀 \u00e9"');
SELECT left(results::text, 20) AS results, length(results::text) AS length FROM tasker.workflow_steps
WHERE workflow_step_id IN (:one, :two, :three, :four) ORDER BY workflow_step_id;
SELECT pg_temp.claimed(:executor) AS step \gset
SELECT tasker.fail_step(:step, 10, E'quote " and '' and \\ and \n newline, tab \t, 🚀, control \x01', 'Ünï::"Error"', retryable => false);
SELECT results, (SELECT metadata FROM tasker.workflow_step_transitions l WHERE l.workflow_step_id = s.workflow_step_id AND to_state = 'error') AS metadata
FROM tasker.workflow_steps s WHERE workflow_step_id = :step \gx
SELECT pg_temp.claimed(:executor) AS step \gset
SELECT tasker.fail_step(:step, 10, '', '');
SELECT results FROM tasker.workflow_steps WHERE workflow_step_id = :step;
SELECT pg_temp.claimed(:executor) AS step \gset
SELECT tasker.fail_step(:step, 10, 'far', retry_after_seconds => 2147483647);
SELECT next_retry_at > tasker.now() + interval '60 years' AS far FROM tasker.workflow_steps WHERE workflow_step_id = :step;

-- who reported is in the log, the executor or nobody
SELECT DISTINCT l.to_state, l.role = current_user AS role, x.name FROM tasker.workflow_step_transitions l
JOIN tasker.workflow_steps s USING (workflow_step_id) LEFT JOIN tasker.executors x ON x.executor_id = l.executor_id
WHERE s.handler_id = (SELECT handler_id FROM tasker.handlers WHERE name = 'outcome.H') ORDER BY 1, 3;

-- leave nothing open behind
SELECT count(tasker.cancel_task(task_id)) > 0 AS cleared FROM tasker.tasks JOIN tasker.named_tasks n USING (named_task_id)
WHERE n.name = 'outcome' AND tasks.state IN ('pending', 'in_progress');
SELECT tasker.unregister_executor(:executor), tasker.unregister_executor(:another);
SELECT tasker.orchestrate() >= 0 AS orchestrated;
SELECT * FROM tasker.check();
