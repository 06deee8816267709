# Everything that changes a row, from ten sessions at once, on a few tasks and
# steps, while the orchestrator works and history is removed: no deadlock, no
# error but those that the docs know, and afterwards every task reaches an end.
#
# Each turn is one operation, sometimes two that belong together, in a
# transaction that stays open for a moment. TASKER_HOT_SECONDS=N lets it run
# for so long.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Utils;
use Tasker;
use Test::More;

my $seconds = $ENV{TASKER_HOT_SECONDS} || 12;
$Tasker::patience = $seconds + 90;
my $node = tasker_node('hot', conf => <<'CONF');
tasker.retention = 2s
tasker.backoff_base = 20ms
tasker.backoff_cap = 100ms
tasker.checkpoint_interval = 200ms
log_lock_waits = on
autovacuum = on
CONF

$node->safe_psql('postgres', 'CREATE EXTENSION tasker');
$node->safe_psql('postgres', <<'SQL');
CREATE SCHEMA hot;
CREATE TABLE hot.told (operation text, told text, n bigint);
CREATE FUNCTION hot.dice(n integer) RETURNS integer LANGUAGE sql VOLATILE AS 'SELECT floor(random() * n)::integer';
CREATE FUNCTION hot.work(step tasker.claimed_step) RETURNS jsonb LANGUAGE sql AS $$ SELECT to_jsonb(step.step_name) FROM pg_sleep(0.002 * random()) $$;

-- Two versions of each template come and go with steps of changing names.
CREATE FUNCTION hot.template(name text, version text) RETURNS integer LANGUAGE sql VOLATILE AS $$
	SELECT tasker.register_task_template(jsonb_build_object('name', name, 'namespace_name', 'hot', 'version', version, 'step_templates',
		(SELECT jsonb_agg(jsonb_build_object('name', s, 'handler_class', 'hot.work', 'dependent_system', 'system ' || hot.dice(50), 'timeout_seconds', 1,
			'skippable', s = 'd', 'default_retry_limit', 2 + hot.dice(3),
			'depends_on_steps', CASE s WHEN 'c' THEN '["a", "b"]' WHEN 'd' THEN '["b"]' WHEN 'e' THEN '["c", "d"]' ELSE '[]' END::jsonb)
			ORDER BY random()) FROM unnest(ARRAY['a', 'b', 'c', 'd', 'e', 'x' || hot.dice(200), 'y' || hot.dice(200)]) s)))
$$;
SELECT hot.template('h', '1.0.0');

-- One of the newest tasks, one of their steps, one of the live executors.
CREATE FUNCTION hot.task() RETURNS bigint LANGUAGE sql VOLATILE AS $$
	SELECT task_id FROM (SELECT task_id FROM tasker.tasks ORDER BY task_id DESC LIMIT 6) t ORDER BY random() LIMIT 1
$$;
CREATE FUNCTION hot.step(wanted tasker.state DEFAULT NULL) RETURNS tasker.workflow_steps LANGUAGE sql VOLATILE AS $$
	SELECT s FROM (SELECT task_id FROM tasker.tasks ORDER BY task_id DESC LIMIT 6) t JOIN tasker.workflow_steps s USING (task_id)
	ORDER BY s.state IS DISTINCT FROM wanted, random() LIMIT 1
$$;
CREATE FUNCTION hot.executor() RETURNS bigint LANGUAGE sql VOLATILE AS $$
	SELECT executor_id FROM tasker.executors WHERE ended_at IS NULL ORDER BY random() LIMIT 1
$$;
-- Some running steps, in any order, for the batch forms.
CREATE FUNCTION hot.running(OUT ids bigint[], OUT claims integer[]) LANGUAGE sql VOLATILE AS $$
	SELECT array_agg(workflow_step_id), array_agg(sort_key)
	FROM (SELECT s.* FROM (SELECT task_id FROM tasker.tasks ORDER BY task_id DESC LIMIT 6) t JOIN tasker.workflow_steps s USING (task_id)
		WHERE s.state = 'in_progress' ORDER BY random() LIMIT 6) s
$$;
CREATE TABLE hot.operations (weight integer, name text, statement text);
INSERT INTO hot.operations VALUES
	(4, 'create_task', $$SELECT tasker.create_task('h', namespace => 'hot', priority => hot.dice(3))$$),
	(6, 'create_task, key', $$SELECT tasker.create_task('h', namespace => 'hot', identity_key => 'key ' || hot.dice(8))$$),
	(6, 'create_tasks, keys', $$SELECT count(*) FROM tasker.create_tasks(ARRAY(SELECT jsonb_build_object('name', 'h', 'namespace', 'hot', 'identity_key', 'key ' || k) FROM generate_series(1, 8) k ORDER BY random() LIMIT 4))$$),
	(30, 'claim_steps', $$SELECT count(*) FROM tasker.claim_steps(hot.executor(), 1 + hot.dice(6))$$),
	(6, 'claim_step', $$SELECT count(*) FROM tasker.claim_step(hot.executor(), (hot.step('pending')).workflow_step_id)$$),
	(20, 'complete_step', $$SELECT tasker.complete_step(s.workflow_step_id, s.sort_key) FROM hot.step('in_progress') s$$),
	(6, 'complete_step, annotate_task', $$SELECT tasker.complete_step(s.workflow_step_id, s.sort_key), tasker.annotate_task(s.task_id, 'type ' || hot.dice(40), '{}') FROM hot.step('in_progress') s$$),
	(10, 'complete_steps', $$SELECT tasker.complete_steps(ids, claims, skip_stale => true) FROM hot.running() WHERE ids IS NOT NULL$$),
	(8, 'fail_step', $$SELECT tasker.fail_step(s.workflow_step_id, s.sort_key, 'broken', retryable => hot.dice(4) > 0, retry_after_seconds => nullif(hot.dice(3), 2)) FROM hot.step('in_progress') s$$),
	(4, 'fail_steps', $$SELECT tasker.fail_steps(ids, claims, ARRAY(SELECT 'broken' FROM unnest(ids)), skip_stale => true) FROM hot.running() WHERE ids IS NOT NULL$$),
	(4, 'release_step', $$SELECT tasker.release_step(s.workflow_step_id, s.sort_key) FROM hot.step('in_progress') s$$),
	(4, 'release_steps', $$SELECT tasker.release_steps(ids, claims, skip_stale => true) FROM hot.running() WHERE ids IS NOT NULL$$),
	(4, 'cancel_step', $$SELECT tasker.cancel_step((hot.step()).workflow_step_id)$$),
	(4, 'retry_step', $$SELECT tasker.retry_step((hot.step('error')).workflow_step_id)$$),
	(4, 'resolve_step', $$SELECT tasker.resolve_step((hot.step('error')).workflow_step_id)$$),
	(4, 'update_step', $$SELECT tasker.update_step((hot.step()).workflow_step_id, 2 + hot.dice(6), CASE WHEN hot.dice(2) = 0 THEN jsonb_build_object('n', hot.dice(9)) END)$$),
	(3, 'transition_step', $$SELECT tasker.safe_transition_step((hot.step()).workflow_step_id, (ARRAY['pending', 'error', 'in_progress'])[1 + hot.dice(3)]::tasker.state)$$),
	(3, 'retry_due_steps', $$SELECT tasker.retry_due_steps()$$),
	(3, 'execute_step', $$SELECT tasker.execute_step((hot.step('pending')).workflow_step_id)$$),
	(5, 'coordinate_task', $$SELECT tasker.coordinate_task(hot.task(), 3)$$),
	(4, 'cancel_task', $$SELECT tasker.cancel_task(hot.task())$$),
	(4, 'retry_task', $$SELECT tasker.retry_task(hot.task())$$),
	(3, 'resolve_task', $$SELECT tasker.resolve_task(hot.task())$$),
	(4, 'reenqueue_task', $$SELECT tasker.reenqueue_task(hot.task())$$),
	(6, 're-enqueue later', $$SELECT tasker.reenqueue_task(hot.task(), 0.02 * (1 + hot.dice(5)) * interval '1 s')$$),
	(4, 'update_task', $$SELECT tasker.update_task(hot.task(), 'reason ' || hot.dice(9), ARRAY['tag ' || hot.dice(9)])$$),
	(4, 'annotate_task', $$SELECT tasker.annotate_task(hot.task(), 'type ' || hot.dice(40), '{}', CASE WHEN hot.dice(3) = 0 THEN 'of ' || hot.dice(9) END)$$),
	(3, 'remove_annotation', $$SELECT tasker.remove_annotation(task_annotation_id) FROM (SELECT task_annotation_id FROM tasker.task_annotations ORDER BY random() LIMIT 1) a$$),
	(4, 'finalize_task', $$SELECT tasker.finalize_task(hot.task())$$),
	(2, 'transition_task', $$SELECT tasker.safe_transition_task(hot.task(), (ARRAY['pending', 'in_progress', 'error'])[1 + hot.dice(3)]::tasker.state)$$),
	(6, 'orchestrate', $$SELECT tasker.orchestrate()$$),
	(6, 'orchestrate(task)', $$SELECT tasker.orchestrate(hot.task())$$),
	(4, 'prune_tasks', $$SELECT tasker.prune_tasks(tasker.now() - hot.dice(2) * interval '100 ms', states => '{complete,cancelled,resolved_manually,error}')$$),
	(6, 'register_executor', $$SELECT tasker.register_executor('e', ARRAY['hot.work', 'h' || hot.dice(100), 'h' || hot.dice(100)], hot.dice(2) * 4, hot.dice(3) > 0, '1 s')$$),
	(3, 'unregister_executor', $$SELECT tasker.unregister_executor(hot.executor(), hot.dice(2) = 0)$$),
	(6, 'heartbeat', $$SELECT tasker.heartbeat(hot.executor())$$),
	(4, 'my_steps', $$SELECT count(*) FROM tasker.my_steps(hot.executor())$$),
	(3, 'register_task_template', $$SELECT hot.template('t' || hot.dice(3), '1.' || hot.dice(3) || '.0')$$),
	(1, 'deprecate_task_template', $$SELECT tasker.deprecate_task_template('t' || hot.dice(3), 'hot')$$),
	(3, 'create_task of those', $$SELECT tasker.create_task('t' || hot.dice(3), namespace => 'hot')$$),
	(1, 'pause and resume', $$SELECT tasker.pause('hot'), tasker.resume('hot')$$),
	(1, 'pause template', $$SELECT tasker.pause('hot', 't' || hot.dice(3))$$),
	(1, 'resume template', $$SELECT tasker.resume('hot', 't' || hot.dice(3))$$),
	(2, 'map_objects', $$SELECT tasker.map_objects('system ' || hot.dice(50), 'a', 'system ' || hot.dice(50), 'b')$$),
	(2, 'register_event', $$SELECT tasker.register_event('hot.' || hot.dice(20), 'of ' || hot.dice(9))$$),
	(1, 'rebuild_accelerators', $$SELECT tasker.rebuild_accelerators()$$);

-- Turns until the time is over, each a transaction; notes what each kind was told.
CREATE PROCEDURE hot.run(until timestamptz) LANGUAGE plpgsql AS $$
DECLARE
	operation hot.operations;
	code text;
	told jsonb := '{}';
BEGIN
	WHILE clock_timestamp() < until LOOP
		SELECT o.* INTO operation FROM hot.operations o ORDER BY random() ^ (1.0 / o.weight) DESC LIMIT 1;
		BEGIN
			EXECUTE operation.statement;
			code := 'done';
			PERFORM pg_sleep(0.003 * random()) WHERE hot.dice(3) = 0;
		EXCEPTION WHEN OTHERS THEN
			code := SQLSTATE;
			-- Which statement it was: the test knows only those that the docs do.
			IF code NOT LIKE 'TK%' AND code NOT IN ('42704', '22004', '22023', '55000', '40001') THEN
				RAISE LOG 'hot: % was told % %', operation.name, SQLSTATE, SQLERRM;
			END IF;
		END;
		IF hot.dice(20) = 0 THEN
			ROLLBACK;
		ELSE
			COMMIT;
		END IF;
		told := jsonb_set(told, ARRAY[operation.name || '|' || code], to_jsonb(coalesce((told ->> (operation.name || '|' || code))::bigint, 0) + 1));
	END LOOP;
	INSERT INTO hot.told SELECT split_part(key, '|', 1), split_part(key, '|', 2), value::bigint FROM jsonb_each_text(told);
END
$$;
SQL

my $control = Tasker::Session->new($node, 'postgres');
$control->poll(q(SELECT status = 'running' FROM tasker.stat_orchestrator));
my @sessions = map { Tasker::Session->new($node, 'postgres') } 1 .. 10;
$_->query('SET client_min_messages = error') foreach $control, @sessions;
$_->send("CALL hot.run(clock_timestamp() + interval '$seconds s')") foreach @sessions;
my @errors = map { my ($out, $err) = $_->finish; $err } @sessions;
is(join('', @errors), '', 'ten sessions have done what they could');

diag($control->query(q(SELECT string_agg(format('%s: %s', operation, n), ', ' ORDER BY operation)
	FROM (SELECT operation, sum(n) AS n FROM hot.told GROUP BY 1) o)));
diag($control->query(q(SELECT sum(n) || ' operations: ' || (SELECT string_agg(told || ' ' || n, ', ' ORDER BY n DESC) FROM (SELECT told, sum(n) AS n FROM hot.told GROUP BY 1) t) FROM hot.told)));
is($control->query(q(SELECT string_agg(name, ', ') FROM hot.operations o WHERE NOT EXISTS (SELECT FROM hot.told t WHERE t.operation = o.name AND t.told = 'done'))), '',
	'each operation has succeeded at least once');
# 22004: there was nothing to do it to. 22023: the limits of update_step, and an object mapped to itself.
is($control->query(q(SELECT string_agg(DISTINCT operation || ' ' || told, ', ') FROM hot.told
	WHERE told NOT IN ('done', 'TK001', 'TK002', 'TK003', '42704', '22004', '55000', '40001')
		AND NOT (told = '22023' AND operation IN ('update_step', 'map_objects')))), '', 'and was told nothing that the docs do not know');

# --- the end -----------------------------------------------------------------------------

$_->quit foreach @sessions;
$control->query(q(SELECT tasker.resume('hot'), count(tasker.resume('hot', name)) FROM (SELECT DISTINCT name FROM tasker.named_tasks) t));
$control->query('SELECT count(tasker.unregister_executor(executor_id)) FROM tasker.executors WHERE ended_at IS NULL');
my $last = Tasker::Executor->new($node, 'postgres', name => 'last', handlers => 'hot.work', capacity => 50);
my $open = q(SELECT count(*) FROM tasker.tasks WHERE state IN ('pending', 'in_progress'));
# Steps that were begun by hand belong to nobody: they end with their time limit.
ok($last->work(sub { $control->query($open) eq '0' }, 60), 'every task reaches its end');
is($control->query('SELECT * FROM tasker.check()'), '', 'check() finds nothing');
is($control->query('SELECT errors FROM tasker.stat_orchestrator'), '0', 'the orchestrator has met no error');
$last->quit;
$control->quit;
$node->stop;
my $log = slurp_file($node->logfile);
is(join("\n", grep { /deadlock detected|PANIC:|TRAP:|terminated by signal|hot: / } split /\n/, $log), '', 'the log of the server tells of no deadlock');
$node->start;
is($node->safe_psql('postgres', 'SELECT sum(deadlocks) FROM pg_stat_database'), '0', 'nor do its statistics');
$node->stop;
done_testing();
