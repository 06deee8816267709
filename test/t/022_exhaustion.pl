# What runs out: background workers, slots, connections, locks, disk. Whoever
# asks for more gets a clear error, the rest goes on, nothing is lost, and what
# waited comes back when there is room.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Utils;
use Tasker;
use Test::More;
use Time::HiRes qw(time usleep);

my $running = q(SELECT status = 'running' FROM tasker.stat_orchestrator);
my @provoked;

# Appends settings, restarts the server, and counts as provoked what the log says of these.
sub restart_with
{
	my ($node, $conf, @errors) = @_;

	$node->append_conf('postgresql.conf', $conf);
	$node->restart;
	push @provoked, @errors;
}

# The log since a position, and its length.
sub log_since { my ($node, $from) = @_; return substr(slurp_file($node->logfile), $from); }
sub log_length { my ($node) = @_; return length slurp_file($node->logfile); }

# Runs a diamond to its end without any orchestrator: by orchestrate() and claims.
sub works_by_hand
{
	my ($session, $what) = @_;
	my ($task) = diamonds($session, 1);
	my $executor = $session->query(q(SELECT executor_id FROM tasker.register_executor('hand', '{H}', 0)));

	foreach (1 .. 4)
	{
		$session->query('SELECT tasker.orchestrate()');
		$session->query("SELECT count(tasker.complete_step(workflow_step_id, claim)) FROM tasker.claim_steps($executor, 10)");
	}
	$session->query('SELECT tasker.orchestrate()');
	is($session->query("SELECT tasker.task_state($task)"), 'complete', "$what: everything works by orchestrate() and claims");
	$session->query("SELECT tasker.unregister_executor($executor)");
}

my $diamond = Tasker::template_sql('diamond', 'a; b<-a; c<-a; d<-b,c', { backoff_base_seconds => 0.01, default_retry_limit => 10 });
my $node = tasker_node('full', conf => <<'CONF');
max_worker_processes = 2
max_logical_replication_workers = 0
max_parallel_workers_per_gather = 0
CONF

# --- no background worker left ---------------------------------------------------

# One slot is the launcher's, one is for an orchestrator.
foreach my $database (qw(one two))
{
	$node->safe_psql('postgres', "CREATE DATABASE $database");
	$node->safe_psql($database, 'CREATE EXTENSION tasker');
	$node->poll_query_until($database, $running) or die if $database eq 'one';
}
my $one = Tasker::Session->new($node, 'one');
my $two = Tasker::Session->new($node, 'two');
$_->query($diamond) foreach $one, $two;
ok($two->poll(q(SELECT status = 'starting' AND last_error = 'there is no free slot of max_worker_processes' FROM tasker.stat_orchestrator)),
	'stat_orchestrator says what the orchestrator of the second database waits for');
like(slurp_file($node->logfile), qr/tasker: could not start the orchestrator of database "\w+".*\n.*HINT:  Increase max_worker_processes/, 'so does the log, with a hint');
works_by_hand($two, 'without a background worker');
$one->query('DROP EXTENSION tasker');
ok($two->poll($running), 'when a slot is free it comes up by itself');
is($two->query('SELECT last_error IS NULL FROM tasker.stat_orchestrator'), 't', 'and nothing is wrong any more');
$one->query('CREATE EXTENSION tasker');
$one->query($diamond);

# --- more databases than tasker.max_databases ----------------------------------------

$_->quit foreach $one, $two;
restart_with($node, "max_worker_processes = 16\ntasker.max_databases = 1\n");
# postgres and one of the two are looked at first, in whatever order.
my ($served, $waiting);
ok(Tasker::until_true(sub {
		($served) = grep { $node->safe_psql($_, $running) eq 't' } qw(one two);
		return defined $served;
	}), 'a database without the extension does not keep the only slot');
$waiting = $served eq 'one' ? 'two' : 'one';
like(slurp_file($node->logfile), qr/database "\w+" has to wait, 1 others may need an orchestrator\n.*HINT:  Increase tasker\.max_databases/, 'the log says who has to wait');
my $session = Tasker::Session->new($node, $waiting);
is($session->query('SELECT status, last_error FROM tasker.stat_orchestrator'), 'off|there is no free slot of tasker.max_databases', 'so does stat_orchestrator');
works_by_hand($session, 'without a slot');
$node->safe_psql($served, 'DROP EXTENSION tasker');
ok($session->poll($running), 'when the other needs it no more the slot is taken');
$session->quit;

# --- more detached executors than tasker.max_executors -------------------------------

restart_with($node, "tasker.max_databases = 64\ntasker.max_executors = 2\n", qr/there is no room for another detached executor/);
$node->safe_psql($_, 'CREATE EXTENSION IF NOT EXISTS tasker') foreach qw(one two);
$session = Tasker::Session->new($node, 'two');
$session->query($diamond);
ok($session->poll($running), 'an orchestrator');
my $detach = q(SELECT executor_id FROM tasker.register_executor('e', '{H}', 0, true, '%s'));
# As many as there is room for; a hash table in shared memory may have a little more.
my @detached = ($session->query(sprintf $detach, '1 h'));
my ($out, $err) = $session->try(sprintf $detach, '1 h');
for (my $i = 0; $i < 1000 && $err eq ''; $i++)
{
	push @detached, $out;
	($out, $err) = $session->try("\\set VERBOSITY verbose\n" . sprintf $detach, '1 h');
}
like($err, qr/53000: there is no room for another detached executor\nHINT:  Increase tasker\.max_executors, or register it bound to its session\./, 'one too many gets 53000 and a hint');
is($session->query('SELECT count(*) FROM tasker.stat_executors WHERE ended_at IS NULL'), scalar @detached, 'and is not there');
my $bound = $session->query(q(SELECT executor_id FROM tasker.register_executor('bound', '{H}', 0)));
ok($bound, 'one that is bound to its session finds room');
$session->query("SELECT tasker.unregister_executor($detached[0])");
ok($session->query(sprintf $detach, '1 h'), 'so does another one when one has gone');
$session->query("SELECT tasker.unregister_executor(executor_id) FROM tasker.executors WHERE ended_at IS NULL");

# A row that has no entry in shared memory: registered before the setting was lowered.
my $mute = $session->query(sprintf $detach, '300 ms');
my $alive = $session->query(sprintf $detach, '1 h');
$session->query(sprintf $detach, '1 h') foreach 1 .. @detached - 2;
$session->query("INSERT INTO tasker.executors (name, handlers, capacity, detached, lease, channel, role, registered_at, last_heartbeat_at)
	SELECT 'without entry', handlers, 0, true, '300 ms', 'c', role, registered_at, now() FROM tasker.executors WHERE executor_id = $alive");
my $without = $session->query(q(SELECT max(executor_id) FROM tasker.executors));
# The entry of the mute one is taken by nobody else meanwhile.
$session->query("UPDATE tasker.executors SET lease = '1 h' WHERE executor_id = $mute; SELECT tasker.pause(); SELECT tasker.resume()");
is($session->query("SELECT tasker.heartbeat($without)"), 't', 'without an entry a heartbeat is kept in the row');
ok($session->poll("SELECT end_reason = 'lost' FROM tasker.executors WHERE executor_id = $without"), 'and without heartbeats its lease runs out all the same');
$session->query("SELECT tasker.unregister_executor(executor_id) FROM tasker.executors WHERE ended_at IS NULL");

# --- no connection left ---------------------------------------------------------------

$session->quit;
restart_with($node, "max_connections = 8\nsuperuser_reserved_connections = 0\ntasker.max_executors = 1024\n", qr/FATAL:  sorry, too many clients already/);
$node->poll_query_until('two', $running) or die;
my $executor = Tasker::Executor->new($node, 'two');
my @sessions = map { Tasker::Session->new($node, 'two') } 1 .. 7;
isnt($node->psql('two', 'SELECT 1'), 0, 'when there are no connections left');
my ($task) = diamonds($sessions[0], 1);
ok($executor->work(sub { $sessions[0]->query("SELECT tasker.task_state($task)") eq 'complete' }), 'those who are connected are served as ever');
$_->quit foreach @sessions, $executor;

# --- no shared memory for locks ----------------------------------------------------------

restart_with($node, "max_connections = 10\nmax_locks_per_transaction = 10\nmax_prepared_transactions = 0\n", qr/out of shared memory/);
$node->poll_query_until('two', $running) or die;
$session = Tasker::Session->new($node, 'two');
$executor = Tasker::Executor->new($node, 'two', capacity => 10);
($task) = diamonds($session, 1);
my ($step) = $executor->expect(1);
# Each holds a lock for as long as its session lives.
my $hoarder = Tasker::Session->new($node, 'two');
my $hoarded = 0;
while (1)
{
	($out, $err) = $hoarder->try(q(SELECT count(tasker.register_executor('hoarder', '{nobody}', 0)) FROM generate_series(1, 20)));
	last if $err =~ /ERROR/ || $hoarded > 20000;
	$hoarded += 20;
}
like($err, qr/ERROR:  out of shared memory\nHINT:  You might need to increase "?max_locks_per_transaction/, "the lock that is one too many, after $hoarded, gets PostgreSQL's error and hint");
unlike($err, qr/WARNING/, 'and nothing else');
is(($hoarder->try("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() AND objsubid = 1001"))[0], $hoarded, 'who was refused holds nothing');
my $position = log_length($node);
$hoarder->quit;
$executor->complete($step);
ok($executor->drain, 'when the session has gone all goes on');
$executor->quit;
$session->quit;
restart_with($node, "max_locks_per_transaction = 64\nmax_connections = 40\n");
$node->poll_query_until('two', $running) or die;

# --- no room for notifications --------------------------------------------------------------

SKIP:
{
	skip 'BEFORE POSTGRESQL 17 THE QUEUE OF NOTIFICATIONS HAS 8 GB, WHICH A TEST DOES NOT FILL', 7
	  if $node->pg_version < 17;

	restart_with($node, "max_notify_queue_pages = 64\n", qr/too many notifications in the NOTIFY queue/);
	$node->poll_query_until('two', $running) or die;
	$session = Tasker::Session->new($node, 'two');
	$executor = Tasker::Executor->new($node, 'two', capacity => 1000);
	my $blocker = Tasker::Session->new($node, 'two');
	$blocker->query('LISTEN anything');
	$blocker->query('BEGIN');
	$blocker->query('SELECT 1');
	my $filled = 0;
	while (1)
	{
		($out, $err) = $session->try(q(SELECT pg_notify('anything', repeat('x', 7000)) FROM generate_series(1, 5)));
		last if $err =~ /ERROR/ || $filled++ > 1000;
	}
	like($err, qr/too many notifications in the NOTIFY queue/, 'a listener with an open transaction fills the queue');
	$position = log_length($node);
	my @tasks = diamonds($session, 300);
	my $puller = $session->query(q(SELECT executor_id FROM tasker.register_executor('puller', '{H}', 0)));
	my $pulled = 0;
	ok(Tasker::until_true(sub {
			$pulled += $session->query("WITH c AS MATERIALIZED (SELECT * FROM tasker.claim_steps($puller, 100))
				SELECT count(tasker.complete_step(workflow_step_id, claim)) FROM c");
			return $session->query("SELECT count(*) FROM tasker.tasks WHERE state IN ('pending', 'in_progress')") eq '0';
		}), 'orchestrating goes on, and who claims gets the steps');
	is($pulled, 1200, 'all of them');
	my $log = log_since($node, $position);
	like($log, qr/tasker: a batch of database "\w+" has failed.*: too many notifications in the NOTIFY queue\n.*HINT:  Steps stay in the work queue/, 'the log says what to do');
	cmp_ok(scalar(() = $log =~ /a batch of database "\w+" has failed/g), '<=', 3, 'and not again and again');
	unlike($log, qr/set aside/, 'no step is set aside for it');
	$blocker->query('COMMIT');
	$blocker->query('SELECT 1');
	($task) = diamonds($session, 1);
	ok($executor->work(sub { $session->query("SELECT tasker.task_state($task)") eq 'complete' }), 'with room in the queue steps are pushed again');
	$_->quit foreach $blocker, $executor, $session;
}
ends_well($node, ['two'], qr/@{[ join '|', 'due to administrator command', @provoked ]}/);
$node->stop;

# --- no room on the disk ---------------------------------------------------------------------

my $library = PostgreSQL::Test::Utils::tempdir() . '/disk_full.so';
my $flag = PostgreSQL::Test::Utils::tempdir() . '/full';
command_ok([ qw(gcc -shared -fPIC -O2 -o), $library, "$FindBin::RealBin/../disk_full.c", '-ldl' ], 'a disk that can be full');
sub fill { my ($kind) = @_; append_to_file("$flag.$kind", ''); }
sub clear { my ($kind) = @_; unlink "$flag.$kind"; }

{
	local $ENV{LD_PRELOAD} = $library;
	local $ENV{DISK_FULL} = $flag;
	$node = tasker_node('disk', conf => "wal_recycle = off\nmin_wal_size = 32MB\nmax_wal_size = 64MB\n");
}
$node->safe_psql('postgres', 'CREATE DATABASE app');
$node->safe_psql('app', 'CREATE EXTENSION tasker');
$node->poll_query_until('app', $running) or die;
$session = Tasker::Session->new($node, 'app');
$session->query($diamond);
$session->query(Tasker::template_sql('single', 'a'));
$executor = Tasker::Executor->new($node, 'app', capacity => 1000);
diamonds($session, 50);
my @steps = $executor->expect(50);
$session->query('SELECT tasker.pause()');
diamonds($session, 2000, name => 'single');

$position = log_length($node);
fill('data');
my $created = 0;
ok(Tasker::until_true(sub {
		($out, $err) = $session->try(q(SELECT count(tasker.create_task('single', jsonb_build_object('filler', repeat(md5(i::text), 20)), 't')) FROM generate_series(1, 20) i));
		$created += 20 if $err eq '';
		return $err =~ /ERROR/;
	}), 'with a full disk creations are refused');
like($err, qr/could not extend file .*: No space left on device\nHINT:  Check free disk space\./, 'with the error that everybody knows');
$session->query('SELECT tasker.resume()');
ok(Tasker::until_true(sub { log_since($node, $position) =~ /tasker: a batch of database "app" has failed.*: could not extend file.*\n.*HINT/ }), 'the orchestrator waits');
# Each of these wakes it.
$session->query('SELECT tasker.resume()') foreach 1 .. 200;
ok(log_since($node, $position) =~ /tasker: a batch of database "app" has failed.*: could not extend file.*\n.*HINT:  Nothing is lost; it is tried again in at most 30 s\./, 'the log says so');
my $failures = () = log_since($node, $position) =~ /tasker: a batch of database "\w+" has failed/g;
cmp_ok($failures, '<=', 12, 'not with every commit');
ok(log_since($node, $position) !~ /set aside/, 'no step is set aside for it');
like($session->query('SELECT last_error FROM tasker.stat_orchestrator'), qr/No space left on device/, 'and stat_orchestrator');
is($session->query('SELECT count(*) FROM tasker.check()'), '0', 'nothing is wrong meanwhile');
clear('data');
$executor->complete(@steps);
ok($executor->drain, 'when there is room again all goes on');
is($session->query(q(SELECT count(*) FILTER (WHERE n.name = 'diamond'), count(*) FILTER (WHERE n.name = 'single') FROM tasker.tasks t JOIN tasker.named_tasks n USING (named_task_id) WHERE t.state = 'complete')),
	'50|' . (2000 + $created), 'every task is complete that was created, and no other is there');

# A full disk for the write-ahead log ends the server, as PostgreSQL has it; what was
# committed is there when it comes back.
$executor->quit;
my @committed = diamonds($session, 200);
fill('wal');
my @known;
Tasker::until_true(sub {
		my @ids = eval { diamonds($session, 50) };
		push @known, @ids;
		return !@ids;
	}) or die 'the log was never full';
$session->quit;
clear('wal');
# It comes back by itself, unless its recovery needed room, too.
Tasker::until_true(sub {
		return 1 if $node->psql('app', 'SELECT 1') == 0;
		return 0 if -e $node->data_dir . '/postmaster.pid';
		local $ENV{LD_PRELOAD} = $library;
		local $ENV{DISK_FULL} = $flag;
		$node->_update_pid(0);
		$node->start(fail_ok => 1);
		return 0;
	}) or die 'the server did not come back';
ok($node->poll_query_until('app', $running), 'after a full disk of the write-ahead log the server is back, and the orchestrator');
$session = Tasker::Session->new($node, 'app');
is($session->query(sprintf 'SELECT count(*) FROM tasker.tasks WHERE task_id IN (%s)', join ',', @committed, @known), scalar(@committed) + @known, 'with every task whose creation was committed');
$executor = Tasker::Executor->new($node, 'app', capacity => 1000);
ok($executor->drain, 'and they are worked off');
$_->quit foreach $executor, $session;
ends_well($node, ['app'], qr/No space left on device|terminated by signal|terminating connection because of crash|FATAL:  the database system is|FATAL:  could not receive data/);
$node->stop;
done_testing();
