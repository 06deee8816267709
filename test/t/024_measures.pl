# What is counted and timed: exact where it can be, for whom there is room,
# after a rollback, a reset and a crash; what processes are called and wait for;
# and the lines of the server log.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Utils;
use Tasker;
use Test::More;

my $node = tasker_node('measures', conf => "tasker.max_executors = 4\ntasker.backoff_base = 0\n");
$node->safe_psql('postgres', 'CREATE DATABASE app');
my $session = Tasker::Session->new($node, 'app');
$session->query('CREATE EXTENSION tasker');
$session->query($_) foreach Tasker::template_sql('diamond', 'a; b<-a; c<-a; d<-b,c'), Tasker::template_sql('single', 'a'),
	Tasker::template_sql('other', 'a', { handler_class => 'other' });
ok($session->poll(q(SELECT status = 'running' FROM tasker.stat_orchestrator)), 'an orchestrator runs');

# What is measured of an executor, as claims|completions|failures|releases|losses.
sub counts
{
	my ($id) = @_;
	return $session->query("SELECT claims, completions, failures, releases, losses FROM tasker.stat_executors WHERE executor_id = $id");
}

sub timed_in
{
	my ($name) = @_;
	return $session->query("SELECT max(count) FROM tasker.stat_latencies WHERE name = '$name'");
}

# ---------- histograms ----------

is($session->query(<<'SQL'), 'batch|27|0.0001|Infinity|t claim|27|0.0001|Infinity|t dispatch|27|0.0001|Infinity|t execution|27|0.0001|Infinity|t intake|27|0.0001|Infinity|t', 'every histogram has the same buckets, each twice the one before');
SELECT string_agg(concat_ws('|', name, n, lowest, highest, doubled), ' ' ORDER BY name) FROM (
	SELECT name, count(*) AS n, min(upper_bound) AS lowest, max(upper_bound) AS highest,
		bool_and(upper_bound = 'Infinity' OR before IS NULL OR abs(upper_bound / before - 2) < 1e-9) AS doubled
	FROM (SELECT *, lag(upper_bound) OVER (PARTITION BY name ORDER BY upper_bound) AS before FROM tasker.stat_latencies) b GROUP BY name) h
SQL
my $executor = Tasker::Executor->new($node, 'app', capacity => 5);
diamonds($session, 25);
ok($executor->drain, 'twenty-five diamonds run');
is(counts($executor->{id}), '100|100|0|0|0', 'a hundred steps were claimed and completed');
is(timed_in('execution'), '100', 'and their executions timed');
is($session->query(q(SELECT claims, last_error FROM tasker.stat_orchestrator)), '100|', 'by the orchestrator, which has seen no error');
cmp_ok(timed_in($_), '>', 0, "so were $_") foreach qw(intake dispatch claim batch);
cmp_ok(timed_in('claim'), '<=', 100, 'of claims no more than there are');
is($session->query(q(SELECT count(*) FROM (SELECT count - lag(count) OVER (PARTITION BY name ORDER BY upper_bound) AS more FROM tasker.stat_latencies) b WHERE more < 0)), '0', 'counts are cumulative');
is($session->query(<<'SQL'), 't|t|t|t|t|t|t', 'rates, percentiles, lag and memory make sense');
SELECT claims_per_second > 0 AND notifications_per_second > 0 AND log_rows_per_second > claims_per_second AND batches_per_second > 0,
	execution_p50 > 0 AND execution_p50 <= execution_p99, batch_p50 <= batch_p99 AND batch_p99 < 60, intake_p50 <= intake_p99 AND dispatch_p99 < 60,
	memory_bytes BETWEEN 100000 AND 1000000000, set_aside = 0 AND set_aside_owners = '{}', checkpoint_seconds >= 0 AND measured_since < now()
FROM tasker.stat_orchestrator
SQL
ok($session->poll(q(SELECT unread_rows = 0 AND unread_seconds = 0 FROM tasker.stat_orchestrator)), 'all is read');

# ---------- executors: what is rolled back did not happen ----------

diamonds($session, 4, name => 'single');
my @steps = $executor->expect(4);
my $call = sub { my ($function, $step, $more) = @_; return "tasker.$function($step->{workflow_step_id}, $step->{claim}$more)" };
$executor->query('BEGIN; SELECT ' . $call->('complete_step', $steps[0], ", '{}'") . '; ROLLBACK');
$executor->query('BEGIN; SAVEPOINT s; SELECT ' . $call->('complete_step', $steps[0], ", '{}'") . "; ROLLBACK TO s;\nSELECT " . $call->('fail_step', $steps[1], ", 'first', retryable => false") . '; COMMIT');
is(counts($executor->{id}), '104|100|1|0|0', 'of a transaction counts what was not rolled back');
is($session->query("SELECT last_error, last_error_at <= now(), last_seen_at <= now(), claims_per_second > 0 FROM tasker.stat_executors WHERE executor_id = $executor->{id}"), 'first|t|t|t', 'with its last error');
my $long = 'ä' x 400;
$executor->query('SELECT ' . $call->('fail_step', $steps[2], ", '$long', retryable => false"));
is($session->query("SELECT last_error = repeat('ä', 127), octet_length(last_error) FROM tasker.stat_executors WHERE executor_id = $executor->{id}"), 't|254', 'of which it keeps 255 bytes, whole characters');
$executor->query('SELECT ' . $call->('release_step', $steps[3], ''));
ok($session->poll("SELECT claims, releases FROM tasker.stat_executors WHERE executor_id = $executor->{id}", '105|1'), 'what is given back is given out again');
is(counts($executor->{id}), '105|100|2|1|0', 'and so it counts');
$executor->kill;
ok($session->poll("SELECT losses, end_reason FROM tasker.stat_executors WHERE executor_id = $executor->{id}", '2|lost'), 'what it had when it was killed is lost');
like(slurp_file($node->logfile), qr/LOG:  tasker: executor $executor->{id} of database "app" was lost; steps taken back: 2\n.*DETAIL:  Its session has ended\./, 'the log has a line of it');

# ---------- room for four ----------

my @executors = map { Tasker::Executor->new($node, 'app', name => "o$_", handlers => 'other', capacity => 1) } 1 .. 5;
diamonds($session, 5, name => 'other');
$_->complete($_->expect(1)) foreach @executors;
is($session->query(q(SELECT count(*) FILTER (WHERE claims = 1 AND completions = 1), count(*) FILTER (WHERE claims IS NULL AND completions IS NULL) FROM tasker.stat_executors WHERE name LIKE 'o_')), '4|1', 'four have room, the fifth works all the same and is not measured');
is(counts($executor->{id}), '||||', 'the one that has ended made way');
$executors[0]->query("SELECT tasker.unregister_executor($executors[0]{id})");
my ($without) = $session->query(q(SELECT executor_id FROM tasker.stat_executors WHERE name LIKE 'o_' AND claims IS NULL));
diamonds($session, 4, name => 'other');
foreach my $e (@executors[1 .. 4]) { $e->complete($e->expect(1)); }
is(counts($without), '1|1|0|0|0', 'when another ends it gets the place');

# ---------- reset, and a crash ----------

$session->query('SELECT tasker.reset_stats()');
is(timed_in('execution') . '|' . counts($without), '0|0|0|0|0|0', 'reset_stats() puts everything back to zero');
is($session->query(q(SELECT claims, execution_p50, claims_per_second, measured_since > now() - interval '1 minute' FROM tasker.stat_orchestrator)), '0||0|t', 'of the orchestrator, too');
my $unprivileged = $session->query(q(SELECT has_function_privilege('pg_read_all_data', 'tasker.reset_stats()', 'EXECUTE')));
is($unprivileged, 'f', 'not everybody may');
$_->quit foreach @executors;

# ---------- names ----------

ok($session->poll(q(SELECT count(*) FROM pg_stat_activity
	WHERE backend_type = 'tasker orchestrator' AND application_name = 'tasker orchestrator' AND datname = 'app' AND wait_event_type = 'Extension'), '1'),
	'the orchestrator has names, and waits');
SKIP:
{
	skip 'wait events have names from 17 on', 1 if $session->query('SHOW server_version_num') < 170000;
	is($session->query(q(SELECT string_agg(name, ' ' ORDER BY name) FROM pg_wait_events WHERE name LIKE 'Tasker%')),
		'TaskerAwaitSteps TaskerAwaitTask TaskerHoldDatabase TaskerLauncherMain TaskerOrchestratorMain', 'the wait events are known from the start');
}

# ---------- lines of the log ----------

# One error, many times: tasks whose start fails.
$session->query(<<'SQL');
CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not on a Sunday' USING ERRCODE = 'TK999'; END $$;
CREATE TRIGGER refuse BEFORE UPDATE ON tasker.tasks FOR EACH ROW WHEN (NEW.task_id % 2 = 0) EXECUTE FUNCTION public.refuse();
SQL
my @tasks = sort { $a <=> $b } diamonds($session, 6, name => 'other');
my @aside = map { "task $_" } grep { $_ % 2 == 0 } @tasks;
ok($session->poll('SELECT set_aside FROM tasker.stat_orchestrator', '3'), 'three of six tasks cannot be started');
ok($session->poll("SELECT count(*) FROM tasker.tasks WHERE task_id >= $tasks[0] AND state = 'in_progress'", '3'), 'the others are');
is($session->query(q(SELECT last_error, last_error_sqlstate, last_error_repeats = errors, errors >= 3 FROM tasker.stat_orchestrator)), 'not on a Sunday|TK999|t|t', 'the last error is known, and how often it came');
is($session->query(q(SELECT string_agg(o, ', ' ORDER BY o) FROM tasker.stat_orchestrator, unnest(set_aside_owners) o)), join(', ', @aside), 'tasks are not taken for steps of the same number');
my $log = slurp_file($node->logfile);
my @failed = $log =~ /LOG:  tasker: a batch of database "app" has failed: not on a Sunday/g;
is(scalar @failed, 1, 'the log says so once');
like($log, qr/LOG:  tasker: $_ of database "app" cannot be processed and is set aside: not on a Sunday/, "and names $_") foreach @aside;
$session->query('DROP TRIGGER refuse ON tasker.tasks');

$node->safe_psql('postgres', 'DROP DATABASE IF EXISTS none');
$session->quit;
$node->safe_psql('postgres', 'CREATE DATABASE copy TEMPLATE app');
$node->safe_psql('postgres', 'DROP DATABASE copy');
$session = Tasker::Session->new($node, 'app');
ok($session->poll(q(SELECT status = 'running' FROM tasker.stat_orchestrator)), 'after a copy the orchestrator is back');
ok($session->poll("SELECT count(*) FROM tasker.tasks WHERE task_id >= $tasks[0] AND state = 'in_progress'", '6'), 'and starts what was set aside');
$log = slurp_file($node->logfile);
like($log, qr/LOG:  tasker: launcher started\n/, 'the launcher says that it started');
like($log, qr/LOG:  tasker: orchestrator started for database "app"\n/, 'the orchestrator for which database');
like($log, qr/LOG:  tasker: the orchestrator of database "app" stops: a utility command needs the database; it starts again afterwards\n/, 'and why it stops');
is(scalar(() = $log =~ /orchestrator started for database "postgres"/g), 0, 'where there is no extension nothing is said');

$session->query('SELECT tasker.cancel_task(task_id) FROM tasker.tasks WHERE state = \'in_progress\'');
$session->poll(q(SELECT unread_rows = 0 FROM tasker.stat_orchestrator));
cmp_ok(timed_in('batch'), '>', 0, 'something is measured');
$session->quit;
$node->stop('immediate');
$node->start;
$session = Tasker::Session->new($node, 'app');
is(timed_in('execution') . '|' . $session->query('SELECT count(claims) FROM tasker.stat_executors'), '0|0', 'after a restart all begins at zero');
ends_well($node, ['app'], qr/terminating connection|connection to client lost|the database system is/);
$node->stop;
done_testing();
