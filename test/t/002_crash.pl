# Bad luck: processes are killed, the server stops at any moment, statements
# time out in the middle, rows stay locked, transactions commit days later.
# Nothing is lost, nothing happens twice, and the work goes on by itself.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Utils;
use Tasker;
use Test::More;
use Time::HiRes qw(time);

my $node = tasker_node('crash');
my ($admin, $session, $executor);
my $running = q(SELECT status = 'running' FROM tasker.stat_orchestrator);

# Opens the sessions again, once the server takes them.
sub reconnect
{
	$_->quit foreach grep { defined } ($executor, $session, $admin);
	$node->poll_query_until('app', $running) or die 'the server did not come back';
	$admin = Tasker::Session->new($node, 'postgres');
	$session = Tasker::Session->new($node, 'app');
	$executor = Tasker::Executor->new($node, 'app', capacity => 40);
}

sub worker_pid { return $session->query('SELECT pid FROM tasker.stat_orchestrator'); }

$node->safe_psql('postgres', 'CREATE DATABASE app');
$node->safe_psql('app', 'CREATE EXTENSION tasker');
reconnect();
$session->query(Tasker::template_sql('diamond', 'a; b<-a; c<-a; d<-b,c', { default_retry_limit => 1000 }));
$session->query(Tasker::template_sql('single', 'a', { default_retry_limit => 1000 }));
$session->query(Tasker::template_sql('other', 'a; b<-a', { handler_class => 'other' }));

# --- a client that dies ---------------------------------------------------------

# The steps of a session-bound executor go to another within a second.
foreach my $way ('kill -9 of the client', 'pg_terminate_backend() of its session', 'the end of its session')
{
	my $victim = Tasker::Executor->new($node, 'app', handlers => 'other', capacity => 5);
	my $heir = Tasker::Executor->new($node, 'app', handlers => 'other', capacity => 0);

	diamonds($session, 5, name => 'other');
	my @steps = $victim->expect(5);
	$session->query("UPDATE tasker.executors SET capacity = 5 WHERE executor_id = $heir->{id}; SELECT tasker.pause(); SELECT tasker.resume()");
	my $begin = time();
	if ($way =~ /kill/) { $victim->kill; }
	elsif ($way =~ /terminate/) { $admin->query("SELECT pg_terminate_backend($victim->{pid})"); }
	else { $victim->quit; }
	my @inherited = $heir->expect(5);
	my $took = time() - $begin;
	is_deeply([ sort map { $_->{workflow_step_id} } @inherited ], [ sort map { $_->{workflow_step_id} } @steps ],
		"after $way another executor gets its steps");
	cmp_ok($took, '<', 1, sprintf('within a second (%.0f ms)', 1000 * $took));
	is(scalar(grep { $_->{attempt} == 2 } @inherited), 5, 'as their second attempt');
	$heir->complete(@inherited);
	ok($heir->drain, 'and finishes them');
	$heir->quit;
}

# A detached executor is lost when its lease ends, not before, and not if it gives signs of life.
my $silent = Tasker::Executor->new($node, 'app', handlers => 'other', capacity => 3, detached => 1, lease => '600 ms');
my $registered = $session->query("SELECT extract(epoch FROM registered_at) FROM tasker.executors WHERE executor_id = $silent->{id}");
diamonds($session, 3, name => 'other');
my @steps = $silent->expect(3);
my $alive = Tasker::Executor->new($node, 'app', handlers => 'other', capacity => 3, detached => 1, lease => '600 ms');
my @inherited;
ok(Tasker::until_true(sub {
			$alive->query("SELECT tasker.heartbeat($alive->{id})");
			push @inherited, $alive->hear;
			@inherited >= 3;
		}), 'the steps of a silent detached executor go to one that gives signs of life');
my $lost = $session->query(q(SELECT extract(epoch FROM min(created_at)) FROM tasker.workflow_step_transition_log WHERE metadata->>'error_class' = 'executor_lost' AND workflow_step_id = ) . $steps[0]{workflow_step_id}) - $registered;
cmp_ok($lost, '>=', 0.6, 'not before its lease ended');
cmp_ok($lost, '<', 2, sprintf('and soon after (%.0f ms since its last sign of life)', 1000 * $lost));
is($silent->query("SELECT tasker.heartbeat($silent->{id})"), 'f', 'a heartbeat tells it');
is(scalar($silent->complete(@steps)), 3, 'its results are refused');
$alive->complete(@inherited);
ok(Tasker::until_true(sub {
			$alive->query("SELECT tasker.heartbeat($alive->{id})");
			$alive->complete($alive->hear);
			$session->query(q(SELECT count(*) FROM tasker.tasks WHERE state IN ('pending', 'in_progress'))) eq '0';
		}), 'the living one finishes the work');
$_->quit foreach $silent, $alive;
ok($session->poll(q(SELECT count(*) FROM tasker.executors WHERE detached AND ended_at IS NULL), '0'), 'its own lease ends too');

# --- processes of ours that are told to go ------------------------------------------

foreach my $who ('tasker orchestrator', 'tasker launcher')
{
	my $pid = $admin->query("SELECT pid FROM pg_stat_activity WHERE backend_type = '$who'");

	diamonds($session, 10);
	$admin->query("SELECT pg_terminate_backend($pid)");
	ok($admin->poll("SELECT count(*) FROM pg_stat_activity WHERE backend_type = '$who' AND pid <> $pid", '1'), "a terminated $who comes back");
	ok($executor->drain, 'and the work goes on');
}
my $cancelled = worker_pid();
$admin->query("SELECT pg_cancel_backend($cancelled)");
diamonds($session, 10);
ok($executor->drain, 'pg_cancel_backend() of the orchestrator does not stop the work');
is(worker_pid(), $cancelled, 'nor end it');

# While no launcher is there, CREATE EXTENSION is not forgotten.
$admin->query('CREATE DATABASE late');
$admin->query(q(SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'tasker launcher'));
my $late = Tasker::Session->new($node, 'late');
$late->query('CREATE EXTENSION tasker');
ok($late->poll($running), 'the next launcher serves who came while there was none');
$late->quit;

# --- rows that a session holds locked ---------------------------------------------------

foreach my $end (qw(COMMIT ROLLBACK))
{
	my $holder = Tasker::Session->new($node, 'app');
	my ($held) = diamonds($session, 1);
	my @first = $executor->expect(1);
	$holder->query("BEGIN; SELECT tasker.cancel_task($held)");
	# Another one whose next step is locked when its turn comes.
	my ($waiting) = diamonds($session, 1);
	my @second = $executor->expect(1);
	$holder->query("SELECT * FROM tasker.workflow_steps WHERE task_id = $waiting AND state = 'pending' ORDER BY 1 FOR UPDATE");
	$executor->complete(@second);
	diamonds($session, 20);
	ok($executor->work(sub { $session->query(q(SELECT count(*) FROM tasker.tasks WHERE state IN ('pending', 'in_progress'))) eq '2' }, 10),
		'a transaction that holds steps of two tasks does not stop twenty others');
	$holder->query($end);
	$executor->complete(@first) if $end eq 'ROLLBACK';
	ok($executor->drain(10), "after its $end they go on");
	is($session->query("SELECT tasker.task_state($held), tasker.task_state($waiting)"),
		$end eq 'COMMIT' ? 'cancelled|complete' : 'complete|complete', 'each to its own end');
	$holder->quit;
}

# --- statements that time out in the middle -----------------------------------------------

my $tasks = q(SELECT count(*) FROM tasker.tasks);
my $make = q(SELECT count(*) FROM tasker.create_tasks((SELECT array_agg(jsonb_build_object('name', 'other', 'namespace', 't')) FROM generate_series(1, 400))));
my $before = $session->query($tasks);
my ($made, $timeouts) = (0, 0);

# Longer and longer, until it succeeds.
foreach my $form ("$make", "BEGIN; SAVEPOINT s; $make")
{
	for (my $ms = 1; ; $ms = int($ms * 1.6) + 1)
	{
		my (undef, $error) = $session->try("SET statement_timeout = $ms;\n$form;\nSET statement_timeout = 0");

		$session->try("ROLLBACK TO s;\nSET statement_timeout = 0;\n\\echo") if $form =~ /SAVEPOINT/ && $error;
		is($session->query('SHOW enable_seqscan'), 'on', 'the planner is itself again') if $error && $timeouts++ < 2;
		$session->try('COMMIT') if $form =~ /SAVEPOINT/;
		$session->query('SET statement_timeout = 0');
		next if $error;
		$made += 400;
		last;
	}
}
cmp_ok($timeouts, '>', 0, "create_tasks() was stopped $timeouts times");
is($session->query($tasks) - $before, $made, 'and has made all or nothing each time');
$timeouts = 0;

# The worker rests; orchestrate() and complete_steps() are stopped at many points.
$session->query('ALTER DATABASE app SET tasker.orchestrator = off');
ok($session->poll(q(SELECT status = 'off' FROM tasker.stat_orchestrator)), 'the worker rests');
my $worker = Tasker::Executor->new($node, 'app', handlers => 'other', capacity => 1000);
for (my $ms = 1; ; $ms = int($ms * 1.4) + 1)
{
	my (undef, $error) = $session->try("SET statement_timeout = $ms;\nSELECT tasker.orchestrate();\nSET statement_timeout = 0");

	$session->query('SET statement_timeout = 0');
	last unless $error;
	$timeouts++;
}
@steps = $worker->expect($made);
for (my $ms = 1; ; $ms = int($ms * 1.4) + 1)
{
	$worker->query("SET statement_timeout = $ms");
	my $done = eval { $worker->complete(@steps); 1 };
	$worker->query('SET statement_timeout = 0');
	last if $done;
	$timeouts++;
}
cmp_ok($timeouts, '>', 0, "orchestrate() and complete_steps() were stopped $timeouts times");
is($session->query(q(SELECT s.state, count(*) FROM tasker.workflow_steps s JOIN tasker.tasks t USING (task_id) WHERE t.state = 'in_progress' AND s.is_root GROUP BY 1)),
	"complete|$made", 'and have done all or nothing each time');
$session->query('ALTER DATABASE app RESET tasker.orchestrator');
ok($worker->drain, 'the worker goes on from there');
$worker->quit;

# --- orchestrate() while others never stop ----------------------------------------------------

my $first_of_busy = $session->query('SELECT max(task_id) + 1 FROM tasker.tasks');
my @busy = map { Tasker::Session->new($node, 'app') } 1 .. 3;
$_->send(q(DO $$ BEGIN LOOP PERFORM tasker.create_task('single', namespace => 't'); COMMIT; PERFORM pg_sleep(0.001); END LOOP; END $$)) foreach @busy;
ok($session->poll("SELECT count(*) > 10 FROM tasker.tasks WHERE task_id >= $first_of_busy"), 'sessions create tasks without end');
# Where it has much of its own to look at, there are always news when it has looked.
my (undef, $no_end) = $session->try("SET statement_timeout = '20s';\nBEGIN;\n" . $make =~ s/400/5000/r . ";\nSELECT tasker.orchestrate() > 0;\nROLLBACK;\nRESET statement_timeout");
is($no_end, '', 'orchestrate() comes to an end all the same');
$admin->query("SELECT pg_terminate_backend($_->{pid})") foreach @busy;
$_->quit foreach @busy;
$session->query("SELECT count(tasker.cancel_task(task_id)) FROM tasker.tasks WHERE task_id >= $first_of_busy");
ok($executor->drain, 'and the rest is done without it');

# --- prepared transactions --------------------------------------------------------------------

diamonds($session, 2);
@steps = sort { $a->{task_id} <=> $b->{task_id} } $executor->expect(2);
$executor->query(<<"SQL");
BEGIN; SELECT tasker.complete_step($steps[0]{workflow_step_id}, $steps[0]{claim}); PREPARE TRANSACTION 'outcome';
BEGIN; SELECT tasker.complete_step($steps[1]{workflow_step_id}, $steps[1]{claim}); PREPARE TRANSACTION 'forgotten';
SQL
$session->query(q(BEGIN; SELECT tasker.create_task('single', namespace => 't'); PREPARE TRANSACTION 'creation'));
$node->restart;
reconnect();
diamonds($session, 5);
ok($executor->work(sub { $session->query(q(SELECT count(*) FROM tasker.tasks WHERE state IN ('pending', 'in_progress'))) eq '2' }),
	'after a restart prepared transactions hold only their own tasks');
is($session->query("SELECT count(*) FROM tasker.workflow_steps WHERE workflow_step_id IN ($steps[0]{workflow_step_id}, $steps[1]{workflow_step_id}) AND state = 'in_progress'"),
	'2', 'whose outcome is open');
my @heard;
my $took = timed(sub { $session->query(q(COMMIT PREPARED 'outcome')); @heard = $executor->expect(2); });
is(join(',', sort map { $_->{step_name} } @heard), 'b,c', 'COMMIT PREPARED of an outcome lets the dependents run');
cmp_ok($took, '<', 1, sprintf('at once (%.0f ms)', 1000 * $took));
$executor->complete(@heard);
$session->query(q(ROLLBACK PREPARED 'forgotten'));
ok($executor->drain, 'ROLLBACK PREPARED of one lets the step run again');
ok($session->poll('SELECT NOT EXISTS (SELECT FROM tasker.workflow_step_transition_log l, tasker.orchestrator_checkpoint c WHERE l.xact_id >= pg_snapshot_xmax(c.position))'),
	'the orchestrator rests');
$took = timed(sub { $session->query(q(COMMIT PREPARED 'creation')); @heard = $executor->expect(1); });
is($heard[0]{task_name}, 'single', 'COMMIT PREPARED of a creation starts the task');
cmp_ok($took, '<', 1, sprintf('at once (%.0f ms)', 1000 * $took));
$executor->complete(@heard);
ok($executor->drain, 'and all end');

# --- the server dies at any moment -------------------------------------------------------------------

# Work until steps have been completed, then leave statements running and strike.
sub strike
{
	my ($name, $how, $steps) = @_;

	diamonds($session, 15);
	my $done = 0;
	$executor->work_with(sub { $done += @_; $executor->complete(@_) }, sub { $done >= $steps }) or die 'no work';
	$session->send(q(SELECT count(*) FROM tasker.create_tasks((SELECT array_agg(jsonb_build_object('name', 'diamond', 'namespace', 't')) FROM generate_series(1, 30)))));
	my @held = $executor->hear;
	$executor->send(sprintf q(SELECT tasker.complete_steps('{%s}', '{%s}')), map { my $key = $_; join ',', map { $_->{$key} } @held } qw(workflow_step_id claim)) if @held;
	$how->();
	reconnect();
	ok($executor->drain, "after $name all work is done");
	is($session->query('SELECT * FROM tasker.check()'), '', 'and in order');
}

strike('kill -9 of the orchestrator', sub { kill 'KILL', $admin->query(q(SELECT pid FROM pg_stat_activity WHERE backend_type = 'tasker orchestrator' AND datname = 'app')) }, 20);
strike("kill -9 of an executor's backend", sub { kill 'KILL', $executor->{pid} }, 20);
strike('kill -9 of the launcher', sub { kill 'KILL', $admin->query(q(SELECT pid FROM pg_stat_activity WHERE backend_type = 'tasker launcher')) }, 20);
foreach my $round (1 .. 6)
{
	my $steps = int(rand(50));

	strike("an immediate stop after $steps steps or more", sub { Time::HiRes::usleep(rand(15_000)); $node->stop('immediate'); $node->start }, $steps);
}

is(scalar(my @killed = slurp_file($node->logfile) =~ /terminated by signal 9/g), 3, 'three processes were killed, and no other one died');
is($session->query(q(SELECT string_agg(DISTINCT state::text, ',' ORDER BY state::text) FROM tasker.tasks)), 'cancelled,complete', 'every task has come to its end');
$_->quit foreach $executor, $session, $admin;
ends_well($node, ['app'], qr/terminating (?:connection|background worker|autovacuum)|statement timeout|canceling statement due to user request|by signal 9: Killed|the database system is (?:starting up|in recovery mode|shutting down|not yet accepting)|current transaction is aborted|connection to client lost/);

done_testing();
