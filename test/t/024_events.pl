# Consumers of events with everything at work: killed a hundred times at any
# moment, they end with exactly the events of the log, in the order of cause
# and effect. Retention waits for them, for a while; a restore loses nothing.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use IPC::Run;
use PostgreSQL::Test::Utils;
use Tasker;
use Test::More;
use Time::HiRes qw(usleep);

my $kills = 100;
my $seed = $ENV{TASKER_EVENTS_SEED} || time % 1000000;
srand($seed);
diag("TASKER_EVENTS_SEED=$seed");

my $node = tasker_node('events', conf => "tasker.checkpoint_interval = 50ms\n");
my ($session, $executor, $other);

sub reconnect
{
	$_->quit foreach grep { defined } ($session, $executor, $other);
	$node->poll_query_until('app', q(SELECT status = 'running' FROM tasker.stat_orchestrator)) or die 'the server did not come back';
	$session = Tasker::Session->new($node, 'app');
	$other = Tasker::Session->new($node, 'app');
	$executor = Tasker::Executor->new($node, 'app', capacity => 50);
}

$node->safe_psql('postgres', 'CREATE DATABASE app');
$node->safe_psql('app', 'CREATE EXTENSION tasker');
reconnect();
$session->query(Tasker::template_sql('d', 'a; b<-a; c<-a; d<-b,c', { default_retry_limit => 1000 }));
$session->query(<<'SQL');
CREATE TABLE received (n bigint GENERATED ALWAYS AS IDENTITY, event_key text NOT NULL, name text NOT NULL, task_id bigint, step_id bigint);
SELECT tasker.create_event_consumer('exact');
SELECT tasker.create_event_consumer('outside');
SELECT tasker.register_event('business.done');
SQL

# --- a consumer whose work is in the database ---------------------------------------

my $dir = PostgreSQL::Test::Utils::tempdir();
my $turn = 'INSERT INTO received (event_key, name, task_id, step_id) SELECT event_key, name, task_id, step_id FROM tasker.read_events(\'exact\', 20);';
append_to_file("$dir/consumer.sql", "$turn\n" x 5000);
my $consumer;

sub begin_consumer
{
	$consumer = IPC::Run::start([ $node->installed_command('psql'), '-XqAt', '-d', $node->connstr('app') . ' application_name=consumer', '-f', "$dir/consumer.sql" ],
		'>', \my $out, '2>', \my $err, IPC::Run::timeout(120));
}

sub end_consumer
{
	$consumer->signal('KILL');
	eval { $consumer->finish };
}

# --- one whose work is outside: done before the commit -----------------------------------

my %effects;

# Half of the time the session ends between the work and the commit.
sub consume_outside
{
	my ($commit) = @_;
	my $reader = Tasker::Session->new($node, 'app');

	$effects{$_}++ foreach split /\n/, $reader->query(q(BEGIN; SELECT event_key FROM tasker.read_events('outside', 200)));
	$reader->query('COMMIT') if $commit;
	$commit ? $reader->quit : $reader->kill;
}

# --- a hundred kills -------------------------------------------------------------------------

my %killed = (client => 0, backend => 0, server => 0);

begin_consumer();
for my $n (1 .. $kills)
{
	# Transactions that stay open across the reads of others, and some that are rolled back.
	diamonds($session, 2, name => 'd') if $n % 2;
	$other->query(qq(BEGIN; SELECT tasker.publish_event('business.done', '{"n": $n}')));
	$executor->complete(grep { rand() < 0.8 } $executor->hear);
	usleep(rand 20_000);
	$other->query($n % 5 ? 'COMMIT' : 'ROLLBACK');
	consume_outside(rand() < 0.5) if $n % 3 == 0;
	if ($n % 25 == 0)
	{
		$killed{server}++;
		$node->stop('immediate');
		$node->start;
		end_consumer();
		reconnect();
	}
	elsif ($n % 3)
	{
		$killed{client}++;
		end_consumer();
	}
	else
	{
		$killed{backend}++;
		$session->query(q(SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'consumer'));
		end_consumer();
	}
	begin_consumer();
}
diag('killed: ' . join(', ', map { "$_ $killed{$_}" } sort keys %killed));
$executor->complete($executor->my_steps);
ok($executor->drain, 'all tasks come to their end');
my $complete = q(SELECT count(*) = (SELECT count(*) FROM tasker.events) FROM received);
ok($session->poll($complete), 'the consumer has caught up');
end_consumer();
cmp_ok($session->query('SELECT count(*) FROM received'), '>', 500, 'with hundreds of events');
is($session->query('SELECT count(*) - count(DISTINCT event_key) FROM received'), '0', 'each of them once');
is($session->query('SELECT count(*) FROM tasker.events e FULL JOIN received r USING (event_key) WHERE e.event_key IS NULL OR r.event_key IS NULL'), '0',
	'exactly the events of the log');
is($session->query(<<'SQL'), '0', 'in the order of each log');
SELECT count(*) FROM (SELECT r.n, lag(r.n) OVER (PARTITION BY e.category, e.owner_id ORDER BY e.sort_key) AS before
	FROM received r JOIN tasker.events e USING (event_key) WHERE e.category <> 'custom') o WHERE before > n
SQL
is($session->query(<<'SQL'), '0', 'no step before those that it depends on');
SELECT count(*) FROM received c JOIN tasker.workflow_step_edges e ON e.to_step_id = c.step_id
WHERE c.name = 'step.execution_requested'
	AND NOT EXISTS (SELECT FROM received p WHERE p.step_id = e.from_step_id AND p.name = 'step.completed' AND p.n < c.n)
SQL
is($session->query(<<'SQL'), '0', 'no end of a task before the ends of its steps');
SELECT count(*) FROM received t JOIN received s USING (task_id) WHERE t.name = 'task.completed' AND s.step_id IS NOT NULL AND s.name LIKE 'step.%' AND s.n > t.n
SQL
consume_outside(1) until $session->query(q(SELECT events_behind = 0 FROM tasker.stat_event_consumers WHERE name = 'outside')) eq 't';
my $log = join ',', sort split /\n/, $session->query('SELECT event_key FROM tasker.events');
is(join(',', sort keys %effects), $log, 'whose work is outside gets each event at least once');
cmp_ok((grep { $_ > 1 } values %effects), '>', 0, 'and some again, after a kill');

# --- a busy consumer does not hold up anybody ------------------------------------------------------

$other->query(q(BEGIN; SELECT count(*) FROM tasker.read_events('exact')));
diamonds($session, 5, name => 'd');
ok($executor->drain, 'tasks run while a consumer keeps its transaction open');
$other->query('ROLLBACK');

# --- far behind: from mark to mark ---------------------------------------------------------------------

$session->query(q(SELECT tasker.create_event_consumer('late')));
diamonds($session, 1000, name => 'd');
ok($executor->drain, 'a thousand tasks more');
ok($session->poll('SELECT count(*) > 0 FROM tasker.log_marks'), 'the orchestrator leaves marks');
$session->query('TRUNCATE received');
$session->query(q(INSERT INTO received (event_key, name, task_id, step_id) SELECT event_key, name, task_id, step_id FROM tasker.read_events('late', 5000)))
  foreach 1 .. 5;
is($session->query('SELECT count(*), count(DISTINCT event_key) FROM received'),
	$session->query('SELECT 3000 + 8000, 3000 + 8000'), 'one that was far behind gets each event once');
is($session->query(<<'SQL'), '0', 'causes before effects');
SELECT count(*) FROM received c JOIN tasker.workflow_step_edges e ON e.to_step_id = c.step_id
WHERE c.name = 'step.execution_requested'
	AND NOT EXISTS (SELECT FROM received p WHERE p.step_id = e.from_step_id AND p.name = 'step.completed' AND p.n < c.n)
SQL

# --- a restore --------------------------------------------------------------------------------------------

diamonds($session, 3, name => 'd');
ok($executor->drain, 'three tasks that nobody has read of');
my $unread = $session->query(q(BEGIN; SELECT string_agg(event_key, ',' ORDER BY event_key) FROM tasker.read_events('late', 1000) \g)); $session->query('ROLLBACK');
my $target = tasker_node('restored');
$target->safe_psql('postgres', 'CREATE DATABASE app');
my $dump = "$dir/dump";
$node->command_ok([ 'pg_dump', '-Fc', '-f', $dump, '-d', $node->connstr('app') ], 'the database is dumped');
$target->command_ok([ 'pg_restore', '-d', $target->connstr('app'), $dump ], 'and restored on another server');
my $restored = Tasker::Session->new($target, 'app');
like(($restored->try(q(SELECT count(*) FROM tasker.read_events('late'))))[1], qr/comes from another server/, 'where nothing is read before it is adopted');
$restored->query('SELECT tasker.resume()');
my $again = $restored->query(q(SELECT string_agg(event_key, ',' ORDER BY event_key) FROM tasker.read_events('late', 10000)));
is($again, $unread, 'then what was not read before comes, and nothing else');
is($restored->query(q(SELECT count(*) FROM tasker.read_events('late'))), '0', 'once');
is($restored->query(q(SELECT count(*) FROM tasker.read_events('exact', 10000))), 10000, 'another consumer goes on from where it was');
$restored->query('SELECT tasker.create_task(\'d\', \'{}\', \'t\')');
is($restored->query(q(SELECT count(*) FROM tasker.read_events('late', 10000) WHERE name = 'task.initialize_requested')), '1', 'and what happens here follows');
$restored->quit;
$target->stop;

# --- live ---------------------------------------------------------------------------------------------------

my $listener = Tasker::Session->new($node, 'app');
$listener->query('LISTEN live');
$session->query(q(SELECT tasker.subscribe('{step.completed,task.*}', 'live')));
my %heard;
my $hear = sub {
	$listener->query('SELECT');
	foreach my $note (splice @{ $listener->{notes} })
	{
		cmp_ok(length $note->{payload}, '<', 8000, 'a notification is no longer than it may be') if length $note->{payload} >= 7000;
		$heard{ $_->{event_key} }++ foreach @{ Tasker::Session::json()->decode($note->{payload})->{events} };
	}
	return keys %heard;
};
my $floor = $session->query('SELECT max(task_id) FROM tasker.tasks');
diamonds($session, 300, name => 'd');
ok($executor->drain, 'three hundred tasks');
my $expected = qq(SELECT event_key FROM tasker.events WHERE task_id > $floor AND (name = 'step.completed' OR name LIKE 'task.%') ORDER BY 1);
ok(Tasker::until_true(sub { $hear->() >= 300 * 7 }), 'a listener hears of them');
is(join("\n", sort keys %heard), join("\n", sort split /\n/, $session->query($expected)), 'of each event that it wanted to hear of');
is((scalar grep { $_ > 1 } values %heard), 0, 'once');
$node->stop('immediate');
$node->start;
reconnect();
$listener = Tasker::Session->new($node, 'app');
$listener->query('LISTEN live');
%heard = ();
my $after = $session->query(q(SELECT tasker.create_task('d', '{}', 't')));
$session->query("SELECT tasker.cancel_task($after)");
# What was told just before the crash may be told once more; that is not meant.
ok(Tasker::until_true(sub { $hear->(); return $heard{"task:$after:10"} && $heard{"task:$after:20"} }), 'after a crash it goes on');
$session->query(q(SELECT tasker.unsubscribe('live')));
$listener->quit;

# --- by the clock ---------------------------------------------------------------------------------------------

$session->query(q(SELECT tasker.schedule_task('minutely', '* * * * *', '{"name": "d", "namespace": "t"}')));
my $runs = q(SELECT count(*) FROM tasker.tasks WHERE identity_key LIKE 'schedule:minutely:%');
is($session->query($runs), '0', 'a schedule starts nothing before its time');
foreach my $minutes (1, 2)
{
	$node->append_conf('postgresql.conf', "tasker.clock_offset = '${minutes}min'");
	$node->reload;
	ok($session->poll($runs, $minutes), 'then the worker creates a task' . ($minutes > 1 ? ', and the next time another' : ''));
}
ok($session->poll(q(SELECT due_at > tasker.now() FROM tasker.task_schedules)), 'and sleeps until the next one is due');
$session->query(q(SELECT tasker.unschedule_task('minutely')));
ok($executor->drain, 'they run like any other');
$node->append_conf('postgresql.conf', 'tasker.clock_offset = 0');
$node->reload;

# --- the page ---------------------------------------------------------------------------------------------

$node->safe_psql('postgres', 'CREATE DATABASE fresh');
$node->safe_psql('fresh', 'CREATE EXTENSION tasker');
my ($page, $problems) = ('', '');
IPC::Run::run([ $node->installed_command('psql'), '-XAtq', '-d', $node->connstr('fresh'), '-f', 'docs/events.sql' ], '>', \$page, '2>', \$problems);
is($problems, '', 'docs/events.sql runs');
is($page, slurp_file('docs/events.md'), 'docs/events.md is what the catalogue says');

$_->quit foreach $executor, $other, $session;
ends_well($node, ['app'], qr/terminating connection due to administrator command|database system is|connection to client lost|FATAL:  terminating/);
$node->stop;
done_testing();
