# History goes by itself: the worker prunes what is old enough, begins periods
# and drops those that are over; nobody waits for that; and a database some of
# whose periods have come and gone is dumped and restored like any other.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Utils;
use Tasker;
use Test::More;

my $node = tasker_node('retention');

$node->safe_psql('postgres', 'CREATE DATABASE app');
$node->safe_psql('app', 'CREATE EXTENSION tasker');
my $session = Tasker::Session->new($node, 'app');
$session->query(Tasker::template_sql('diamond', 'a; b<-a; c<-a; d<-b,c'));
$session->query(Tasker::template_sql('other', 'a', { handler_class => 'nobody' }));

# Sets settings of the server; the clock of a session that runs follows, too.
sub configure
{
	my (%settings) = @_;

	foreach my $name (sort keys %settings)
	{
		$session->query("ALTER SYSTEM SET tasker.$name = '$settings{$name}'");
	}
	$session->query('SELECT pg_reload_conf()');
	foreach my $name (sort keys %settings)
	{
		$session->poll("SELECT current_setting('tasker.$name')::interval = '$settings{$name}'::interval")
		  or die "tasker.$name does not follow";
	}
}

# Waits until the orchestrator has read all that has happened, and saved that.
sub all_is_read
{
	return $session->poll(q(SELECT NOT EXISTS (SELECT FROM tasker.task_transition_log l, tasker.orchestrator_checkpoint c WHERE l.xact_id >= pg_snapshot_xmax(c.position))));
}

sub partitions
{
	return $session->query(q(SELECT string_agg(log || ' ' || period, ', ' ORDER BY period, log) FROM tasker.stat_history));
}

# --- the worker, by itself ------------------------------------------------------

my $executor = Tasker::Executor->new($node, 'app', capacity => 50);
diamonds($session, 30);
ok($executor->drain, 'thirty tasks are done');
my ($keeper) = diamonds($session, 1, name => 'other');
configure(retention => '10d');
ok($session->poll('SELECT count(*) > 0 FROM tasker.history_periods'), 'upkeep has begun');
is($session->query('SELECT count(*) FROM tasker.tasks'), '31', 'nothing is old enough');

configure(clock_offset => '2d');
ok($session->poll('SELECT tasker.current_period()', '1'), 'a day later a period begins');
diamonds($session, 10);
ok($executor->drain_but('other'), 'tasks of the new period run');
is($session->query('SELECT count(*) FROM tasker.tasks WHERE tasker.history_period(task_id) = 1'), '10', 'and have ids of it');

configure(clock_offset => '11d');
ok($session->poll('SELECT count(*) FROM tasker.tasks WHERE tasker.history_period(task_id) = 0', '1'),
	'those of the first period are pruned when their time has come, but for the one that is open');
is($session->query('SELECT count(*) FROM tasker.tasks WHERE tasker.history_period(task_id) = 1'), '10', 'the others are not');
ok($session->poll('SELECT tasker.current_period()', '2'), 'another period has begun');
is($session->query(q(SELECT string_agg(DISTINCT held_by, ',') FROM tasker.stat_history WHERE period = 0)), 'owners', 'the open task keeps its period');
is($session->query('SELECT * FROM tasker.check()'), '', 'check() has nothing against what waits there');

$session->query("SELECT tasker.cancel_task($keeper)");
ok(all_is_read(), 'the open task is cancelled');
configure(clock_offset => '24d');
# Asked of the catalog: whoever reads the partitions again and again may keep them.
ok($session->poll(q(SELECT count(*) FROM pg_class WHERE relname ~ '_transition_log_p[01]$'), '0'), 'both periods go with their last owner');
is($session->query('SELECT count(*) FROM tasker.tasks'), '0', 'nothing is left');
is($session->query('SELECT count(*) FROM tasker.task_transition_log'), '0', 'nor in the logs');
diamonds($session, 2);
ok($executor->drain, 'the work goes on');
is($session->query('SELECT errors FROM tasker.stat_orchestrator'), '0', 'the orchestrator has met no error');

# --- nobody waits ---------------------------------------------------------------------

# From here on rounds are run by hand.
configure(retention => '0');
my $operator = Tasker::Session->new($node, 'app');
my $reader = Tasker::Session->new($node, 'app');
my $latest = $session->query('SELECT tasker.current_period()');
diamonds($session, 5, name => 'other');
$session->query(q(SELECT tasker.cancel_task(task_id) FROM tasker.tasks WHERE state IN ('pending', 'in_progress')));
ok(all_is_read(), 'the orchestrator has read everything');
$session->query("UPDATE tasker.history_periods SET began_at = began_at - interval '2 days' WHERE period = $latest");
is($operator->query(q(SELECT period_begun FROM tasker.upkeep('10 days'))), $latest + 1, 'a period begins');
is($operator->query('SELECT tasker.prune_tasks(tasker.now())'), '7', 'the one before it is over');

# Two kinds of readers: of the whole log, and of a task in the current period only.
my ($new) = diamonds($session, 1, name => 'other');
my $slowest = 0;
foreach my $query ('SELECT count(*) FROM tasker.task_transition_log', "SELECT count(*) FROM tasker.task_transition_log WHERE task_id = $new")
{
	my $before = partitions();

	$reader->query("BEGIN; $query; SELECT count(*) FROM tasker.workflow_step_transition_log" . ($query =~ /WHERE/ ? " WHERE workflow_step_id >= $new" : ''));
	$operator->query(q(SELECT * FROM tasker.upkeep('20 days')));
	for (1 .. 20)
	{
		$operator->send(q(SELECT * FROM tasker.upkeep('20 days')));
		for (1 .. 5)
		{
			my $took = timed(sub { diamonds($session, 1, name => 'other') });

			$slowest = $took if $took > $slowest;
		}
		$operator->finish;
	}
	is(partitions(), $before, 'under an open reader no partition goes');
	$reader->query('COMMIT');
}
note(sprintf 'the slowest of 200 creations took %.0f ms', 1000 * $slowest);
cmp_ok($slowest, '<', 1, 'and no application waited for long');
ok(until_true(sub {
		$operator->query(q(SELECT * FROM tasker.upkeep('20 days')));
		$session->query("SELECT count(*) FROM tasker.stat_history WHERE period <= $latest") eq '0';
	}), 'when the reader has gone, they go');
$_->quit foreach ($reader, $operator);

# --- dump and restore -----------------------------------------------------------------

my $dump = PostgreSQL::Test::Utils::tempdir() . '/dump';
my $digest = q(SELECT count(*), md5(string_agg(l::text, ',' ORDER BY l::text)) FROM tasker.task_transition_log l
	UNION ALL SELECT count(*), md5(string_agg(l::text, ',' ORDER BY l::text)) FROM tasker.workflow_step_transition_log l
	UNION ALL SELECT count(*), md5(string_agg(l::text, ',' ORDER BY l::text)) FROM tasker.history_periods l);
my $target = tasker_node('target');
my $before = $session->query($digest);

$node->command_ok([ 'pg_dump', '-h', $node->host, '-p', $node->port, '-Fc', '-f', $dump, 'app' ], 'pg_dump');
$target->safe_psql('postgres', 'CREATE DATABASE app');
$target->command_ok([ 'pg_restore', '--exit-on-error', '-h', $target->host, '-p', $target->port, '-d', 'app', $dump ], 'pg_restore');
my $restored = Tasker::Session->new($target, 'app');
is($restored->query($digest), $before, 'all transitions are there, and what is known of the periods');
is($restored->query('SELECT tasker.current_period()'), $session->query('SELECT tasker.current_period()'), 'the current period is the same');
is($restored->query(q(SELECT pruned FROM tasker.upkeep('1 s'))), '0', 'nothing is pruned before it is adopted');
$restored->query('SELECT tasker.resume()');
$restored->query('SELECT tasker.cancel_task(task_id) FROM tasker.tasks WHERE state IN (\'pending\', \'in_progress\')');
$restored->query(q(SET tasker.clock_offset = '24d'));
ok($restored->poll(q(SELECT count(*) FROM tasker.upkeep('1 s'), tasker.tasks), '0'), 'then it is like any other');
ok($restored->poll(q(SELECT more FROM tasker.upkeep('1 s')), 'f'), 'its old periods go');
is($restored->query(q(SELECT string_agg(DISTINCT held_by, ',' ORDER BY held_by) FROM tasker.stat_history)), 'current,not begun', 'but for those that it needs');
$restored->quit;

$executor->quit;
$session->quit;
# What was acknowledged is gone, for it was pruned.
%Tasker::ledger = ();
ends_well($node, ['app']);
ends_well($target, ['app']);

done_testing();
