# The processes at work: who starts when, what they push to executors and how
# fast, what they leave alone, and how they make way for those who need the
# database for themselves.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Utils;
use Tasker;
use Test::More;
use Time::HiRes qw(usleep);

my $node = tasker_node('main');
my $admin = Tasker::Session->new($node, 'postgres');

# How many orchestrators have come up in all, and who is there now.
sub starts { my @found = slurp_file($node->logfile) =~ /orchestrator started/g; return scalar @found; }
my $running = q(SELECT status = 'running' FROM tasker.stat_orchestrator);
my $orchestrators = q(SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'tasker orchestrator');

# --- where there is an extension there is an orchestrator ------------------------

ok($admin->poll(q(SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'tasker launcher'), '1'), 'a launcher runs');
$admin->query("CREATE DATABASE $_") foreach qw(app second);
my $session = Tasker::Session->new($node, 'app');
$session->query('BEGIN; CREATE EXTENSION tasker; ROLLBACK');
ok($admin->poll($orchestrators, '0'), 'without the extension no orchestrator stays');
is(starts(), 0, 'nor has one begun to work');
$session->query('CREATE EXTENSION tasker');
ok($session->poll($running), 'CREATE EXTENSION brings an orchestrator');
ok($admin->poll($orchestrators, '1'), 'in that database only');
my $second = Tasker::Session->new($node, 'second');
$second->query('CREATE EXTENSION tasker');
ok($second->poll($running), 'CREATE EXTENSION in a second database brings a second one');
isnt($session->query('SELECT pid FROM tasker.stat_orchestrator'), $second->query('SELECT pid FROM tasker.stat_orchestrator'),
	'each database has its own');
ok(Tasker::until_true(sub { starts() == 2 }), 'two in all');

my @templates = (
	Tasker::template_sql('diamond', 'a; b<-a; c<-a; d<-b,c'),
	Tasker::template_sql('single', 'a'),
	Tasker::template_sql('retry', 'a', { backoff_base_seconds => 0.2, backoff_jitter => 0 }),
	Tasker::template_sql('later', 'a', { backoff_base_seconds => 3600, backoff_cap_seconds => 3600 }),
	Tasker::template_sql('nobody', 'a', { handler_class => 'nobody' }));
$session->query($_) foreach @templates;

# --- push -------------------------------------------------------------------------

my $executor = Tasker::Executor->new($node, 'app', capacity => 500);
my ($task) = diamonds($session, 1);
my ($step) = $executor->expect(1);
is_deeply([ sort keys %$step ],
	[qw(attempt claim dependency_results handler handler_config inputs step_name task_id task_name workflow_step_id)],
	'a notification carries what an executor needs to start');
is("$step->{task_id} $step->{task_name} $step->{step_name} $step->{handler} $step->{attempt} $step->{inputs}{n}", "$task diamond a H 1 1",
	'and it is about the first step of the task');
$executor->query("SELECT tasker.complete_step($step->{workflow_step_id}, $step->{claim}, '{\"r\": 7}', $executor->{id})");
my @steps = $executor->expect(2);
is(join(',', sort map { "$_->{step_name} $_->{dependency_results}{a}{r}" } @steps), 'b 7,c 7', 'its children follow, with its results');
$executor->complete($steps[0]);
$executor->complete($steps[1]);
($step) = $executor->expect(1);
is($step->{step_name} . join(',', sort keys %{ $step->{dependency_results} }), 'db,c', 'the last one follows when both are done');
$executor->complete($step);
ok($session->poll("SELECT tasker.task_state($task)", 'complete'), 'the task is complete, and no one has called orchestrate()');
diamonds($session, 50);
ok($executor->drain, 'fifty diamonds run to their end');
is($session->query(q(SELECT state, count(*) FROM tasker.tasks GROUP BY 1)), 'complete|51', 'all complete');
is($session->query(<<'SQL'), '0', 'no step was claimed before the last of its parents was done');
SELECT count(*) FROM tasker.workflow_step_edges e
JOIN tasker.workflow_step_transition_log p ON p.workflow_step_id = e.from_step_id AND p.to_state = 'complete'
JOIN tasker.workflow_step_transition_log c ON c.workflow_step_id = e.to_step_id AND c.to_state = 'in_progress'
WHERE c.created_at < p.created_at
SQL

# --- the size of notifications ------------------------------------------------------

diamonds($session, 500, name => 'single', context => q(jsonb_build_object('n', i, 'text', repeat('"é\\', 250))));
@steps = $executor->expect(500);
is(scalar(@steps), 500, 'five hundred steps with long contexts are pushed at once');
cmp_ok($executor->{largest}, '<', 8000, 'in notifications below the limit');
cmp_ok($executor->{largest}, '>', 4000, 'that are well filled');
is(scalar(grep { length $_->{inputs}{text} == 750 } @steps), 500, 'with their contexts unharmed');
$executor->complete(@steps);

# Around the limits every size must fit, in the notification or by my_steps.
diamonds($session, 120, name => 'single', context => q(jsonb_build_object('text', repeat('x', CASE WHEN i <= 60 THEN 5700 + 7 * i ELSE 7500 + 10 * (i - 60) END))));
diamonds($session, 1, name => 'single', context => q(jsonb_build_object('text', repeat('x', 1000000))));
@steps = $executor->expect(121);
cmp_ok($executor->{largest}, '<', 8000, 'contexts near the limit do not break it');
my @fetched = grep { $_->{fetch} } @steps;
my @carried = grep { !$_->{fetch} } @steps;
cmp_ok(scalar(@fetched), '>', 60, 'large inputs are to be fetched');
cmp_ok(scalar(@carried), '>', 5, 'others are carried');
is(scalar(grep { exists $_->{inputs} } @fetched), 0, 'what is to be fetched is not sent by half');
my %held = map { $_->{workflow_step_id} => $_ } $executor->my_steps;
is(scalar(keys %held), 121, 'my_steps() tells the same steps');
is((sort { $b <=> $a } map { length $_->{inputs}{text} } values %held)[0], 1000000, 'with the whole of their inputs, a megabyte included');
$executor->complete(@steps);
ok($executor->drain, 'and all are done');

# --- retries come when they are due, never before ---------------------------------------

diamonds($session, 20, name => 'retry');
my %due;
my $failed = 0;
ok($executor->work_with(sub {
		my @heard = @_;
		my @fail = grep { $_->{attempt} < 3 } @heard;

		# Each at a time of its own.
		foreach my $step (@fail)
		{
			my $due = $executor->query("BEGIN; SELECT tasker.fail_step($step->{workflow_step_id}, $step->{claim}, 'not yet') \\g /dev/null\n"
				  . "SELECT extract(epoch FROM next_retry_at) FROM tasker.workflow_steps WHERE workflow_step_id = $step->{workflow_step_id}; COMMIT");
			$due{"$step->{workflow_step_id} $step->{claim}"} = $due;
			$failed++;
		}
		$executor->complete(grep { $_->{attempt} == 3 } @heard);
	},
	sub { $session->query(q(SELECT count(*) FROM tasker.tasks WHERE state <> 'complete')) eq '0' }),
	'steps that fail twice succeed at their third attempt');
is($failed, 40, 'each has failed twice');
my ($early, $latest, $seen) = (0, 0, 0);
foreach my $row (split /\n/, $session->query(<<'SQL'))
SELECT p.workflow_step_id, p.sort_key - 20, extract(epoch FROM p.created_at)
FROM tasker.workflow_step_transition_log p WHERE p.from_state = 'error' AND p.to_state = 'pending'
SQL
{
	my ($step_id, $claim, $at) = split /\|/, $row;
	my $late = $at - $due{"$step_id $claim"};

	$seen++;
	$early++ if $late < 0;
	$latest = $late if $late > $latest;
}
is("$seen $early", '40 0', 'no retry came before it was due');
cmp_ok($latest, '<', 0.5, sprintf('and none late (the latest by %.1f ms)', 1000 * $latest));

# --- who gets what -------------------------------------------------------------------------

$executor->quit;
my $one = Tasker::Executor->new($node, 'app', capacity => 1);
$session->query(<<'SQL');
SELECT tasker.create_tasks(array_agg(jsonb_build_object('name', 'single', 'namespace', 't', 'priority', p) ORDER BY place))
FROM unnest('{0,5,-3,10,5,0,-1000,1000}'::integer[]) WITH ORDINALITY u(p, place)
SQL
my @order;
ok($one->work_with(sub { push @order, @_; $one->complete(@_) }, sub { @order == 8 }), 'eight tasks with priorities, one at a time');
is($session->query('SELECT string_agg(priority::text, \',\' ORDER BY place) FROM unnest(\'{' . join(',', map { $_->{task_id} } @order)
		. '}\'::bigint[]) WITH ORDINALITY u(id, place) JOIN tasker.tasks ON task_id = id'),
	'1000,10,5,5,0,0,-3,-1000', 'they run by priority');
ok((join(' ', map { $_->{task_id} } @order[ 2, 3 ]) eq join(' ', sort { $a <=> $b } map { $_->{task_id} } @order[ 2, 3 ])),
	'and of equals the older first');
$one->quit;

my @crowd = map { Tasker::Executor->new($node, 'app', name => "of $_", capacity => $_) } (3, 5, 0);
my %bags = map { $_->{id} => [] } @crowd;
diamonds($session, 60);
my $turn = 0;
ok(Tasker::until_true(sub {
		foreach my $executor (@crowd)
		{
			my $bag = $bags{ $executor->{id} };

			push @$bag, $executor->hear;
			next unless @$bag;
			# Some of what it has, in other ways each time.
			my $step = shift @$bag;
			if ($turn++ % 7 == 3 && $step->{attempt} == 1) { $executor->query("SELECT tasker.fail_step($step->{workflow_step_id}, $step->{claim}, 'x', NULL, true, 0)"); }
			elsif ($turn % 7 == 5) { $executor->query("SELECT tasker.release_step($step->{workflow_step_id}, $step->{claim})"); }
			else { $executor->complete($step, splice @$bag, 0, $turn % 3); }
		}
		$session->query(q(SELECT count(*) FROM tasker.tasks WHERE state IN ('pending', 'in_progress'))) eq '0';
	}), 'two executors share the work, failing and releasing some');
is($session->query(<<'SQL'), "of 0|\nof 3|3\nof 5|5", 'neither has ever had more than its capacity, and who has none is left in peace');
SELECT e.name, max(flight.n) FROM tasker.executors e LEFT JOIN (
	SELECT executor_id, sum(d) OVER (PARTITION BY executor_id ORDER BY at, d) AS n
	FROM (
		SELECT executor_id, created_at AS at, 1 AS d FROM tasker.workflow_step_transition_log WHERE to_state = 'in_progress'
		UNION ALL
		SELECT c.executor_id, l.created_at, -1 FROM tasker.workflow_step_transition_log l
		JOIN tasker.workflow_step_transition_log c ON c.workflow_step_id = l.workflow_step_id AND c.sort_key = l.sort_key - 10
		WHERE l.from_state = 'in_progress') moves
	) flight USING (executor_id)
WHERE e.name LIKE 'of %' GROUP BY 1 ORDER BY 1
SQL
$_->quit foreach @crowd;

# --- idle means idle -------------------------------------------------------------------------

# Everything waits: for a retry in an hour, for an executor that no one is,
# for news; a session-bound and a detached executor are there.
$executor = Tasker::Executor->new($node, 'app', capacity => 10);
my $detached = Tasker::Executor->new($node, 'app', capacity => 10, detached => 1, lease => '1 hour', handlers => 'X');
diamonds($session, 5, name => 'nobody');
diamonds($session, 1, name => 'later');
($step) = $executor->expect(1);
$executor->query("SELECT tasker.fail_step($step->{workflow_step_id}, $step->{claim}, 'later')");
# The checkpoint follows about a second after the last news.
ok($session->poll('SELECT NOT EXISTS (SELECT FROM tasker.workflow_step_transition_log l, tasker.orchestrator_checkpoint c WHERE l.xact_id >= pg_snapshot_xmax(c.position))'),
	'the checkpoint follows');
$session->poll(q(SELECT state = 'idle' FROM pg_stat_activity WHERE backend_type = 'tasker orchestrator' AND datname = 'app')) or die 'the orchestrator is not idle';
my $commits = q(SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = 'app');
foreach my $open ($executor, $detached, $session) { $open->query('SELECT pg_stat_force_next_flush()'); }
my ($batches) = $session->query('SELECT batches FROM tasker.orchestrator_status(), pg_stat_force_next_flush()');
my $before = $admin->query($commits);
usleep(1_200_000);    # what is measured: a second in which nothing happens
is($admin->query($commits), $before, 'a second of idleness: no transaction in the database');
is($session->query('SELECT batches FROM tasker.orchestrator_status()'), $batches, 'and no batch');

# --- making way for statements that need the database ---------------------------------------------

my $prompt = 3;    # seconds
$second->query($_) foreach @templates;
my $busy = Tasker::Executor->new($node, 'second', capacity => 1000);
diamonds($second, 300);
cmp_ok(timed(sub { $second->query('DROP EXTENSION tasker CASCADE') }), '<', $prompt, 'DROP EXTENSION in the middle of work is prompt');
ok($admin->poll($orchestrators, '1'), 'its orchestrator leaves');
$busy->quit;
$second->query('CREATE EXTENSION tasker');
ok($second->poll($running), 'it comes back with the extension');
$second->query('DROP EXTENSION tasker; CREATE EXTENSION tasker');
ok($second->poll($running), 'also if both happen at once');
is($second->query('SELECT errors FROM tasker.stat_orchestrator'), '0', 'without an error');
$second->query($_) foreach @templates;
diamonds($second, 3, name => 'nobody');
$second->quit;

cmp_ok(timed(sub { $admin->query('CREATE DATABASE clone TEMPLATE second') }), '<', $prompt,
	'CREATE DATABASE with it as the template is prompt');
foreach my $database (qw(second clone))
{
	my $session = Tasker::Session->new($node, $database);

	ok($session->poll($running), "an orchestrator serves $database then");
	is($session->query('SELECT count(*) FROM tasker.tasks'), '3', "$database has the tasks");
	$session->quit;
}
cmp_ok(timed(sub { $admin->query('ALTER DATABASE clone RENAME TO renamed') }), '<', $prompt, 'ALTER DATABASE RENAME is prompt');
my $renamed = Tasker::Session->new($node, 'renamed');
ok($renamed->poll($running), 'its orchestrator comes back');
$renamed->query('SELECT tasker.resume()');
diamonds($renamed, 2);
$busy = Tasker::Executor->new($node, 'renamed', handlers => 'H,nobody');
ok($busy->drain, 'and works');
is($renamed->query('SELECT * FROM tasker.check()'), '', 'check() finds nothing there');
$busy->quit;
$renamed->quit;
cmp_ok(timed(sub { $admin->query('DROP DATABASE renamed') }), '<', $prompt, 'DROP DATABASE is prompt');
ok($admin->poll($orchestrators, '2'), 'and leaves the other orchestrators alone');

# DROP DATABASE that fails gives the database back; it takes its time to fail.
$second = Tasker::Session->new($node, 'second');
my $dropping = Tasker::Session->new($node, 'postgres')->send('DROP DATABASE second');

# --- settings ---------------------------------------------------------------------------------------

my $off = q(SELECT status = 'off' FROM tasker.stat_orchestrator);
$session->query('ALTER DATABASE app SET tasker.orchestrator = off');
ok($session->poll($off), 'tasker.orchestrator = off for a database stops its orchestrator');
($task) = diamonds($session, 1);
$session->query('ALTER DATABASE app RESET tasker.orchestrator');
ok($session->poll($running), 'without the setting it starts');
ok($executor->work(sub { $session->query("SELECT tasker.task_state($task)") eq 'complete' }), 'and takes up what came meanwhile');
$admin->query('ALTER DATABASE app SET tasker.orchestrator = off');
ok($session->poll($off), 'a session of another database can stop it');
$admin->query('ALTER DATABASE app SET tasker.orchestrator = on');
ok($session->poll($running), 'and start it');
$admin->query('ALTER DATABASE app RESET ALL');
ok($session->poll($running), 'RESET ALL leaves it running');
$admin->query('ALTER SYSTEM SET tasker.orchestrator = off; SELECT pg_reload_conf()');
ok($session->poll($off), 'a reload can switch off all');
$admin->query('ALTER SYSTEM RESET tasker.orchestrator; SELECT pg_reload_conf()');
ok($session->poll($running), 'and on');
# One that is just being started hears of it, too, at whatever moment it comes.
my $deaf = 0;
foreach my $moment (0 .. 30)
{
	$admin->query('ALTER DATABASE app RESET ALL');
	$admin->query(sprintf 'SELECT pg_sleep(%g)', $moment / 1000);
	$admin->query('ALTER SYSTEM SET tasker.orchestrator = off; SELECT pg_reload_conf()');
	$session->poll($off, undef, 10) or $deaf++;
	$admin->query('ALTER SYSTEM RESET tasker.orchestrator; SELECT pg_reload_conf()');
	$session->poll($running) or die 'it does not start';
}
is($deaf, 0, 'an orchestrator that is just being started does not miss a reload');

# A batch takes as many tasks as it is told to, once the worker has heard.
$admin->query('ALTER SYSTEM SET tasker.batch_size = 7; SELECT pg_reload_conf()');
ok(Tasker::until_true(sub {
			my $begin = $session->query('SELECT batches FROM tasker.stat_orchestrator');
			my ($first) = diamonds($session, 70, name => 'nobody');

			$session->poll("SELECT count(*) FROM tasker.tasks WHERE task_id >= $first AND state = 'pending'", '0')
			  && $session->query('SELECT batches FROM tasker.stat_orchestrator') - $begin >= 10;
		}), 'tasker.batch_size is reloaded: seventy tasks are started in batches of seven');
$admin->query('ALTER SYSTEM RESET tasker.batch_size; SELECT pg_reload_conf()');

# The clock of the orchestrator moves, and the retry of an hour later comes.
is($session->query(q(SELECT count(*) FROM tasker.timers)), '1', 'one step waits for its retry');
$admin->query(q(ALTER SYSTEM SET tasker.clock_offset = '2h'; SELECT pg_reload_conf()));
ok($executor->work(sub { $session->query(q(SELECT count(*) FROM tasker.timers)) eq '0' }), 'its time comes as the clock moves');
$admin->query('ALTER SYSTEM RESET tasker.clock_offset; SELECT pg_reload_conf()');
ok($session->poll('SHOW tasker.clock_offset', '0'), 'the clock is right again');

my (undef, $refused) = $dropping->finish;
like($refused, qr/being accessed by other users/, 'a database with a session cannot be dropped');
ok($second->poll($running), 'and its orchestrator comes back');
$second->quit;
$dropping->quit;

ok($executor->drain_but('nobody'), 'all work is done');
$_->quit foreach $executor, $detached, $session, $admin;
ends_well($node, [qw(app second)], qr/being accessed by other users/);

done_testing();
