-- Pictures and lists for people.
\set SHOW_CONTEXT never
SELECT tasker.orchestrate() >= 0 AS settled;
SELECT executor_id AS executor FROM tasker.register_executor('see one', '{see.H}', 0) \gset
SELECT executor_id AS another FROM tasker.register_executor('see two', '{see.I,see.H}', 5, detached => true, lease => '1 hour') \gset

-- Ids differ between runs: names stand in their place.
CREATE FUNCTION pg_temp.picture(task bigint, format text DEFAULT 'text') RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	picture text := tasker.task_diagram(task, format);
	s record;
BEGIN
	FOR s IN SELECT workflow_step_id AS id, n.name FROM tasker.workflow_steps JOIN tasker.named_steps n USING (named_step_id)
		WHERE task_id = task ORDER BY workflow_step_id DESC LOOP
		picture := replace(picture, 'step_' || s.id, 'step_' || s.name);
	END LOOP;
	RETURN regexp_replace(picture, '(task_|task |Task |id )' || task || '\M', '\1N', 'g');
END
$$;

---- a task in each of its moments ----
SELECT tasker.register_task_template('{"name": "order", "namespace_name": "see", "version": "1.2.3", "step_templates": [
	{"name": "validate", "handler_class": "see.H"},
	{"name": "charge", "handler_class": "see.H", "depends_on_step": "validate", "backoff_base_seconds": 10},
	{"name": "reserve", "handler_class": "see.H", "depends_on_step": "validate", "default_retry_limit": 5},
	{"name": "ship", "handler_class": "see.H", "depends_on_steps": ["charge", "reserve"]},
	{"name": "survey", "handler_class": "see.H", "skippable": true, "depends_on_step": "ship"}]}') > 0 AS registered;
SELECT tasker.create_task('order', namespace => 'see', bypass_steps => '{survey}') AS task \gset
\pset format unaligned
\pset tuples_only on
SELECT pg_temp.picture(:task);
SELECT pg_temp.picture(:task, 'mermaid');
\pset tuples_only off
SELECT tasker.orchestrate() > 0 AS orchestrated;
SELECT count(*) FROM tasker.my_steps(:another);
-- pushed to the one with capacity
SELECT tasker.complete_step(workflow_step_id, claim, executor_id => :another) FROM tasker.my_steps(:another);
SELECT tasker.orchestrate() > 0 AS orchestrated;
\pset tuples_only on
SELECT pg_temp.picture(:task);
\pset tuples_only off
SELECT tasker.fail_step(test.step(:task, 'charge'), 10, E'card declined:\n insufficient funds on the account of this customer, please try again later', 'CardError');
SELECT tasker.release_step(test.step(:task, 'reserve'), 10);
SELECT tasker.unregister_executor(:another);
SELECT tasker.orchestrate() >= 0 AS orchestrated;
SELECT step_name FROM tasker.claim_steps(:executor, 10);
\pset tuples_only on
SELECT pg_temp.picture(:task);
SELECT pg_temp.picture(:task, 'mermaid');
\pset tuples_only off
SET tasker.clock_offset = 10000;
SELECT tasker.complete_step(test.step(:task, 'reserve'), test.claim(:task, 'reserve'));
SELECT tasker.orchestrate() > 0 AS orchestrated;
SELECT step_name FROM tasker.claim_steps(:executor, 10);
SELECT tasker.fail_step(test.step(:task, 'charge'), test.claim(:task, 'charge'), 'card is stolen', retryable => false);
SELECT tasker.orchestrate() > 0 AS orchestrated;
\pset tuples_only on
SELECT pg_temp.picture(:task);
\pset tuples_only off
SELECT tasker.resolve_step(test.step(:task, 'charge'), 'paid in cash');
SELECT tasker.orchestrate() > 0 AS orchestrated;
SELECT step_name FROM tasker.claim_steps(:executor, 10);
SELECT tasker.complete_step(test.step(:task, 'ship'), test.claim(:task, 'ship'));
SELECT tasker.orchestrate() > 0 AS orchestrated;
\pset tuples_only on
SELECT pg_temp.picture(:task);
SELECT pg_temp.picture(:task, 'mermaid');
\pset tuples_only off
\pset format aligned

---- what happened ----
SELECT owner, step_name, attempt, from_state, to_state, executor, detail FROM tasker.task_timeline(:task);
SELECT bool_and(since_start >= '0') AS after_start, min(since_start) AS first, bool_and(at >= lag) AS in_order
FROM (SELECT since_start, at, coalesce(lag(at) OVER (), at) AS lag FROM tasker.task_timeline(:task)) t;
SELECT count(*) FROM tasker.task_timeline(-1);
SELECT count(*) FROM tasker.task_timeline(NULL);

---- a cancelled one, and names that a picture must survive ----
SELECT tasker.register_task_template('{"name": "odd \"names\" & <b>", "namespace_name": "see", "step_templates": [
	{"name": "quote \" and `tick`", "handler_class": "see.H"},
	{"name": "[brackets] (and) {braces}", "handler_class": "see.H", "depends_on_step": "quote \" and `tick`"},
	{"name": "Ünï 🚀 #semi; %% end", "handler_class": "see.H", "depends_on_step": "quote \" and `tick`"},
	{"name": "two\nlines", "handler_class": "see.H", "depends_on_steps": ["[brackets] (and) {braces}", "Ünï 🚀 #semi; %% end"]}]}') > 0 AS registered;
SELECT tasker.create_task('odd "names" & <b>', namespace => 'see') AS odd \gset
SELECT tasker.orchestrate() > 0 AS orchestrated;
SELECT count(*) FROM tasker.claim_steps(:executor, 1);
SELECT tasker.fail_step(test.step(:odd, 'quote " and `tick`'), 10, E'a "quoted" <error>\twith `everything`; and more', retryable => false);
SELECT tasker.cancel_step(test.step(:odd, 'two
lines'));
SELECT tasker.orchestrate() > 0 AS orchestrated;
\pset format unaligned
\pset tuples_only on
SELECT pg_temp.picture(:odd);
-- here the ids are numbered: the names stand in the labels
SELECT regexp_replace(regexp_replace(tasker.task_diagram(:odd, 'mermaid'), '(task_|Task |id )' || :odd || '\M', '\1N', 'g'), 'step_\d+', 'step', 'g');
\pset tuples_only off
\pset format aligned

---- a fan-in too wide for a line ----
SELECT test.template('see wide', (SELECT string_agg('p' || n, '; ') FROM generate_series(1, 12) n) || '; last<-' || (SELECT string_agg('p' || n, ',') FROM generate_series(1, 12) n),
	'{"handler_class": "see.H"}') > 0 AS registered;
SELECT tasker.create_task('see wide', namespace => 'test') AS wide \gset
\pset format unaligned
\pset tuples_only on
SELECT line FROM regexp_split_to_table(pg_temp.picture(:wide), '\n') line WHERE line LIKE 'level%' OR line LIKE '%last%';
\pset tuples_only off
\pset format aligned

---- refused ----
SELECT tasker.task_diagram(:task, 'svg');
SELECT tasker.task_diagram(:task, NULL);
SELECT tasker.task_diagram(-1);
SELECT tasker.task_diagram(NULL);

---- executors ----
SELECT tasker.cancel_task(:wide);
SELECT tasker.create_task('order', namespace => 'see') AS last \gset
SELECT tasker.orchestrate() > 0 AS orchestrated;
SELECT count(*) FROM tasker.claim_steps(:executor, 10);
SELECT name, handlers, capacity, detached, lease, role = current_user AS own_role, registered_at <= tasker.now() AS registered,
	ended_at IS NOT NULL AS ended, end_reason, in_flight
FROM tasker.stat_executors WHERE executor_id IN (:executor, :another) ORDER BY executor_id;
-- also right after the position has moved past the claim
SELECT tasker.orchestrate() AS moved, tasker.orchestrate() AS moved_again;
SELECT name, in_flight FROM tasker.stat_executors WHERE executor_id IN (:executor, :another) ORDER BY executor_id;
BEGIN;
SELECT tasker.complete_step(test.step(:last, 'validate'), test.claim(:last, 'validate'));
SELECT name, in_flight FROM tasker.stat_executors WHERE executor_id = :executor;
ROLLBACK;
SELECT name, in_flight FROM tasker.stat_executors WHERE executor_id = :executor;
SELECT tasker.cancel_task(:last);
SELECT name, in_flight FROM tasker.stat_executors WHERE executor_id = :executor;

-- one row, whether or not a worker runs; this database has it switched off
SELECT count(*), min(pid) AS pid, min(holds_dispatch) AS holds_dispatch FROM tasker.stat_orchestrator;

SELECT tasker.unregister_executor(:executor);
SELECT tasker.orchestrate() >= 0 AS orchestrated;
SELECT * FROM tasker.check();
