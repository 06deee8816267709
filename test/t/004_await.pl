# Waiting without polling: who is woken, by what, and that no wake-up is lost.
# Everything that must come "at once" is asked for in less time than the
# waiters' own look around takes (a second while others take, a minute else).
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use Tasker;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = tasker_node('await', conf => "max_connections = 90\n");
my $at_once = 0.9;

$node->safe_psql('postgres', 'CREATE DATABASE w');
$node->safe_psql('w', 'CREATE EXTENSION tasker');

my $control = Tasker::Session->new($node, 'w');
my $other = Tasker::Session->new($node, 'w');

$control->query(Tasker::template_sql('one', 'a'));
$control->query(Tasker::template_sql('other handler', 'a', { handler_class => 'G' }));
$control->poll(q(SELECT status = 'running' FROM tasker.stat_orchestrator));

# A session with an executor that only pulls.
sub executor
{
	my ($handlers, @more) = @_;
	my $session = Tasker::Session->new($node, 'w');

	$session->{executor} = $session->query("SELECT executor_id FROM tasker.register_executor('e', '{$handlers}', 0"
		. (@more ? ", true, '$more[0]'" : '') . ')');
	return $session;
}

# Lets a session wait, and returns when it sleeps.
sub begin_wait
{
	my ($session, $call) = @_;

	$session->send($call // "CALL tasker.await_steps($session->{executor}, 1)");
	until_true(sub { sleeps($session) }) or die 'a session does not sleep';
	return $session;
}

sub sleeps
{
	my ($session) = @_;

	return $control->query("SELECT state = 'active' AND wait_event_type = 'Extension' FROM pg_stat_activity WHERE pid = $session->{pid}") eq 't';
}

# Whether a wait ends at once; the steps, the state or the error are in ->{got}.
sub ends_at_once
{
	my ($session) = @_;
	my $ended = until_true(sub { $session->finished }, $at_once);

	my ($out, $err) = $session->finish;

	$session->{got} = $out ne '' ? $out : $err;
	return $ended;
}

sub steps_of
{
	my ($session) = @_;

	return $session->{got} =~ /^\[/ ? @{ Tasker::Session::json()->decode($session->{got}) } : ();
}

# Whether a wait gives so many steps at once; they are completed.
sub gets
{
	my ($session, $n) = @_;

	return 0 unless ends_at_once($session);
	my @steps = steps_of($session);

	$control->query("SELECT tasker.complete_step($_->{workflow_step_id}, $_->{claim})") foreach @steps;
	return @steps == $n;
}

sub create
{
	my ($name, $n, $session) = @_;

	return diamonds($session // $control, $n // 1, name => $name // 'one');
}

# ---------- steps ----------

my $a = executor('H');
my $b = executor('H');

begin_wait($a);
is($control->query("SELECT backend_xid IS NULL AND backend_xmin IS NULL FROM pg_stat_activity WHERE pid = $a->{pid}"), 't',
	'who waits holds back neither vacuum nor anything else');
is($control->query("SELECT count(*) FROM pg_locks WHERE pid = $a->{pid} AND locktype NOT IN ('virtualxid', 'advisory')"), '0', 'and no lock');
create();
ok(gets($a, 1), 'a new step wakes');

begin_wait($a);
begin_wait($b);
create();
ok(gets($a, 1), 'the first who came is woken first');
ok(sleeps($b) && !$b->finished, 'one step wakes one');
create();
ok(gets($b, 1), 'the next step wakes the next');

$b->send("CALL tasker.await_steps($b->{executor}, 1, '200 ms')");
is(($b->finish)[0], '[]', 'after the timeout there are none');

begin_wait($a, "CALL tasker.await_steps($a->{executor}, 10)");
$other->query('BEGIN');
create('one', 3, $other);
$other->query('ROLLBACK');
ok(sleeps($a) && !$a->finished, 'a rollback brings nothing');
create('one', 3);
ok(gets($a, 3), 'who wants ten gets the three that are there');

# ---------- fifty ----------

{
	my @waiters = map { executor('H') } 1 .. 50;
	my %seen;

	begin_wait($_) foreach @waiters;
	create('one', 50);
	is(scalar(grep { ends_at_once($_) } @waiters), 50, 'fifty steps wake fifty waiters');
	foreach my $step (map { steps_of($_) } @waiters)
	{
		$seen{ $step->{workflow_step_id} }++;
		$control->query("SELECT tasker.complete_step($step->{workflow_step_id}, $step->{claim})");
	}
	is(keys %seen, 50, 'each step went to somebody');
	is(scalar(grep { $_ > 1 } values %seen), 0, 'and none to two');
	$_->quit foreach @waiters;
}

# ---------- no wake-up is lost ----------

# What another session has taken and gives back.
create();
$control->poll('SELECT count(*) = 1 FROM tasker.work_queue');
$other->query('BEGIN');
$other->query("SELECT count(*) FROM tasker.claim_steps($b->{executor}, 10)");
begin_wait($a);
$other->query('ROLLBACK');
ok(gets($a, 1), 'a claim that is rolled back wakes');

create();
$control->poll('SELECT count(*) = 1 FROM tasker.work_queue');
$other->query('BEGIN; SAVEPOINT s');
$other->query("SELECT count(*) FROM tasker.claim_steps($b->{executor}, 10)");
begin_wait($a);
$other->query('ROLLBACK TO s');
ok(gets($a, 1), 'so does one of a savepoint');
$other->query('ROLLBACK');

# A session is woken and ends before it claims: the lock stops it in between.
foreach my $end (qw(pg_cancel_backend pg_terminate_backend))
{
	my $victim = executor('H');

	begin_wait($victim);
	begin_wait($b);
	$other->query('BEGIN; LOCK TABLE tasker.executors IN ACCESS EXCLUSIVE MODE');
	create();
	ok($control->poll("SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = $victim->{pid}"), 'one is woken');
	$control->query("SELECT $end($victim->{pid})");
	ok($control->poll("SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = $b->{pid}"), "after $end it wakes another");
	$other->query('COMMIT');
	ok(gets($b, 1), 'who gets the step');
	$victim->finish if $end eq 'pg_cancel_backend';
	$victim->quit;
}

# A session that was woken for one handler takes a more urgent step of another.
{
	my $both = executor('H,G');

	begin_wait($both);
	begin_wait($b);
	$other->query('BEGIN; LOCK TABLE tasker.executors IN ACCESS EXCLUSIVE MODE');
	create();
	ok($control->poll("SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = $both->{pid}"), 'one is woken for a handler');
	$control->query("SELECT tasker.create_task('other handler', namespace => 't', priority => 10)");
	$control->poll('SELECT count(*) = 2 FROM tasker.work_queue');
	$other->query('COMMIT');
	ok(gets($both, 1), 'it takes what is more urgent');
	ok(gets($b, 1), 'and passes on what it was woken for');
	$both->quit;
}

# A step of lower id than those taken before: behind the low-water mark.
{
	my ($early) = create();
	ok($control->poll("SELECT count(*) = 1 FROM tasker.work_queue"), 'a step waits');
	$control->query("SELECT tasker.pause('t')");
	create();
	$control->query("SELECT tasker.resume('t')");
	$control->poll('SELECT count(*) = 2 FROM tasker.work_queue');
	$a->send("CALL tasker.await_steps($a->{executor}, 2)");
	ends_at_once($a);
	my @steps = steps_of($a);
	is(@steps, 2, 'what waits already is given at once');
	begin_wait($a);
	$control->query("SELECT tasker.release_step($steps[0]{workflow_step_id}, $steps[0]{claim})");
	ok(gets($a, 1), 'a step that is given back wakes, wherever it stands in the queue');
	$control->query("SELECT tasker.complete_step($steps[1]{workflow_step_id}, $steps[1]{claim})");
}

# ---------- pause ----------

foreach my $scope ('', q('t'))
{
	$control->query("SELECT tasker.pause($scope)");
	create();
	begin_wait($a);
	$control->query("SELECT tasker.resume($scope)");
	ok(gets($a, 1), "resume($scope) wakes");
}

# ---------- ways out ----------

begin_wait($a);
$control->query("SELECT pg_cancel_backend($a->{pid})");
ok(ends_at_once($a), 'a cancel ends the wait');
like($a->{got}, qr/canceling statement due to user request/, 'with its error');
$a->query('SET statement_timeout = 100');
like(join('', $a->try("CALL tasker.await_steps($a->{executor}, 1)")), qr/statement timeout/, 'so does a statement timeout');
$a->query('RESET statement_timeout');
begin_wait($a);
create();
ok(gets($a, 1), 'the session can wait again');

begin_wait($a);
$control->query("SELECT tasker.unregister_executor($a->{executor})");
ok(ends_at_once($a), 'the end of the executor ends the wait');
like($a->{got}, qr/executor \d+ has ended/, 'with an error');
$a->quit;

begin_wait($b);
$b->kill;
ok($control->poll("SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $b->{pid}", 't', $at_once), 'a session whose client has gone ends');
ok($control->poll("SELECT end_reason = 'lost' FROM tasker.executors WHERE executor_id = $b->{executor}", 't', $at_once), 'and its executor with it');
create();

$a = executor('H', '400 ms');
ok(gets($a->send("CALL tasker.await_steps($a->{executor}, 1)"), 1), 'no step went to the client that had gone');
begin_wait($a, "CALL tasker.await_steps($a->{executor}, 1, '1500 ms')");
is(($a->finish)[0], '[]', 'a detached executor may wait longer than its lease');
is($control->query("SELECT ended_at IS NULL FROM tasker.executors WHERE executor_id = $a->{executor}"), 't', 'and lives');
$a->quit;

# ---------- tasks ----------

$a = Tasker::Session->new($node, 'w');
$b = executor('H');

my ($task) = create();
begin_wait($a, "CALL tasker.await_task($task)");
is($control->query("SELECT backend_xid IS NULL AND backend_xmin IS NULL FROM pg_stat_activity WHERE pid = $a->{pid}"), 't', 'who waits for a task holds nothing back');
$other->query("BEGIN; SELECT tasker.cancel_task($task); ROLLBACK");
ok(sleeps($a) && !$a->finished, 'a rolled back end is none');
ok(gets($b->send("CALL tasker.await_steps($b->{executor}, 1)"), 1), 'the step is run');
ok(ends_at_once($a), 'the end of the task wakes');
is($a->{got}, 'complete', 'with its state');

foreach my $how ('BEGIN; SELECT tasker.cancel_task(%d); COMMIT', "BEGIN; SELECT tasker.cancel_task(%d); PREPARE TRANSACTION 'p'; COMMIT PREPARED 'p'")
{
	($task) = create();
	begin_wait($a, "CALL tasker.await_task($task)");
	$other->query(sprintf $how, $task);
	ok(ends_at_once($a), "woken by $how");
	is($a->{got}, 'cancelled', 'which is its end');
}
is($a->query("CALL tasker.await_task(@{[ create() ]}, '100 ms')"), '', 'after the timeout the state is NULL');
$control->query('SELECT tasker.cancel_task(task_id) FROM tasker.tasks WHERE state IN (\'pending\', \'in_progress\')');

# ---------- a crash ----------

($task) = create();
$control->poll('SELECT count(*) = 1 FROM tasker.work_queue');
$other->query('BEGIN; LOCK TABLE tasker.executors IN ACCESS EXCLUSIVE MODE');
$b->send("CALL tasker.await_steps($b->{executor}, 1)");
$control->poll("SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = $b->{pid}");
kill 'KILL', $b->{pid};
$_->quit foreach ($a, $b, $other, $control);
ok(until_true(sub { ($node->psql('w', 'SELECT 1'))[0] == 0 }), 'the server comes back after a kill -9');
$control = Tasker::Session->new($node, 'w');
$a = executor('H');
ok(gets($a->send("CALL tasker.await_steps($a->{executor}, 1)"), 1), 'what the killed session was about to claim goes to another');

# ---------- the extension goes ----------

is($control->query('SELECT * FROM tasker.check()'), '', 'check() finds nothing');
begin_wait($a);
$control->query('DROP EXTENSION tasker CASCADE');
ok(ends_at_once($a), 'DROP EXTENSION ends the wait');
like($a->{got}, qr/ERROR/, 'with an error');
$control->query('CREATE EXTENSION tasker');
$_->quit foreach ($a, $control);

ends_well($node, ['w'], qr/canceling statement|terminating connection|has ended|connection to client lost|is not installed|does not exist|was terminated by signal 9|terminating background worker|could not (?:send|receive) data|recovery mode|starting up|not yet accepting/);
$node->stop;
done_testing();
