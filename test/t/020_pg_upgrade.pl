# pg_upgrade in the midst of work: what the tasks and steps are comes over, the
# new server runs nothing of it until an operator says resume(), and then each
# step is completed once. TASKER_OLDER names a folder with the trees of earlier
# versions (./run test sees to that): the way leads through all of them. Without
# it the cluster is upgraded to another one of the same version.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Utils;
use Tasker;
use Test::More;

my @trees = sort { ($a =~ /(\d+)$/)[0] <=> ($b =~ /(\d+)$/)[0] } map { glob "$_/*" } $ENV{TASKER_OLDER} // ();
# Libraries that this release does not have are beside those of the older server.
$ENV{LD_LIBRARY_PATH} = join ':', (map { "$_/lib" } reverse @trees), $ENV{LD_LIBRARY_PATH} // ();
my @clusters = map { { name => "on_" . ($_ =~ /(\d+)$/)[0], tree => $_ } } @trees;
push @clusters, { name => 'here' } unless @clusters;
push @clusters, { name => 'last' };

# A cluster of one of the versions.
sub cluster
{
	my ($cluster, $start) = @_;
	my @path = $cluster->{tree} ? (install_path => $cluster->{tree}) : ();

	$cluster->{node} = tasker_node($cluster->{name}, start => $start, path => \@path, initdb => ['--data-checksums'],
		conf => "tasker.retention = '3d'\nautovacuum = on\n");
	$cluster->{bin} = $cluster->{tree} ? "$cluster->{tree}/bin" : $cluster->{node}->config_data('--bindir');
	return $cluster->{node};
}

my $node = cluster($clusters[0], 1);
$node->safe_psql('postgres', 'CREATE DATABASE app');
$node->safe_psql('app', 'CREATE EXTENSION tasker');
my $session = Tasker::Session->new($node, 'app');
$session->query(Tasker::template_sql('diamond', 'a; b<-a; c<-a; d<-b,c'));
$session->query(Tasker::template_sql('other', 'a', { handler_class => 'nobody' }));
$session->query(Tasker::template_sql('patient', 'a', { backoff_base_seconds => 36000, backoff_cap_seconds => 36000, handler_class => 'P' }));

# Moves the clock of the server.
sub move_clock
{
	$session->query("ALTER SYSTEM SET tasker.clock_offset = '$_[0]'");
	$session->query('SELECT pg_reload_conf()');
	$session->poll("SELECT current_setting('tasker.clock_offset')::interval = '$_[0]'::interval") or die 'the clock does not follow';
}

# --- periods that come and go, then work in every state ----------------------------------------

my $executor = Tasker::Executor->new($node, 'app', capacity => 100);
diamonds($session, 10);
ok($executor->drain, 'ten tasks are done');
ok($session->poll('SELECT count(*) > 0 FROM tasker.history_periods'), 'upkeep has begun');
my $days = 0;
foreach my $period (1 .. 3)
{
	move_clock(++$days . 'd');
	ok($session->poll('SELECT tasker.current_period()', $period), "period $period begins");
	diamonds($session, 3);
	$executor->drain or die;
}
move_clock(($days += 2) . 'd');
ok($session->poll(q(SELECT count(*) FROM pg_class WHERE relname ~ '_transition_log_p0$'), '0'), 'the first period, a member of the extension, is gone');
ok($session->poll(q(SELECT count(*) > 0 FROM pg_class WHERE relname = 'workflow_step_transition_log_p3')), 'there are others, which are no members');

# A batch of steps in progress, waiting, and in their backoff; more of them at each
# server, where those of the former ones are due again and fail again.
my $patients = 0;
sub begin_work
{
	my $patient = Tasker::Executor->new($node, 'app', capacity => 100, handlers => 'P', name => 'p');

	diamonds($session, 4);
	$executor->expect(4);
	diamonds($session, 3, name => 'other');
	diamonds($session, 2, name => 'patient');
	$patients += 2;
	$patient->query("SELECT tasker.fail_step($_->{workflow_step_id}, $_->{claim}, 'later')") foreach $patient->expect($patients);
	# The worker is idle, and what it has read is written down.
	$session->all_is_read
	  or die 'the orchestrator does not keep up';
	$patient->quit;
}
begin_work();

my $counts = q(SELECT string_agg(format('%s %s %s', what, state, n), ', ' ORDER BY what, state) FROM (
	SELECT 'task' AS what, state, count(*) AS n FROM tasker.tasks GROUP BY 2 UNION ALL SELECT 'step', state, count(*) FROM tasker.workflow_steps GROUP BY 2) c);
my $digest = q(SELECT md5(string_agg(t::text, E'\n' ORDER BY task_id)) FROM tasker.tasks t UNION ALL
	SELECT md5(string_agg(s::text, E'\n' ORDER BY workflow_step_id)) FROM tasker.workflow_steps s UNION ALL
	SELECT md5(string_agg(l::text, E'\n' ORDER BY task_id, sort_key)) FROM tasker.task_transition_log l UNION ALL
	SELECT md5(string_agg(l::text, E'\n' ORDER BY workflow_step_id, sort_key)) FROM tasker.workflow_step_transition_log l UNION ALL
	SELECT md5(string_agg(p::text, E'\n' ORDER BY period)) FROM tasker.history_periods p UNION ALL
	SELECT string_agg(sequencename || ' ' || last_value, ', ' ORDER BY sequencename) FROM pg_sequences WHERE schemaname = 'tasker' AND sequencename NOT LIKE 'executors%' UNION ALL
	SELECT string_agg(l.log || l.period, ', ' ORDER BY l.log, l.period) FROM tasker.stat_history l);

# --- from server to server -------------------------------------------------------------------------

foreach my $hop (1 .. $#clusters)
{
	my ($from, $to) = @clusters[ $hop - 1, $hop ];

	# Some minor versions keep a number among the options of each column, which
	# servers that do not know it refuse: it is taken off before.
	my $has_number = q(SELECT EXISTS (SELECT FROM pg_attribute WHERE array_to_string(attoptions, ',') LIKE '%pg_attver=%'));
	my $programs = $to->{tree} ? "$to->{tree}/bin" : PostgreSQL::Test::Cluster->new('probe')->config_data('--bindir');
	my $takes_off = $from->{tree} && $session->query($has_number) eq 't' && slurp_file("$programs/postgres") !~ /pg_attver/;

	# The sessions go first, as a server that shuts down makes them; what they had is lost with them.
	$session->query(q(ALTER SYSTEM SET tasker.orchestrator = off));
	$session->query('SELECT pg_reload_conf()');
	$session->poll(q(SELECT status = 'off' FROM tasker.orchestrator_status())) or die 'the orchestrator stays';
	is($session->query(q(SELECT count(*) FROM tasker.workflow_steps WHERE state = 'in_progress')), '4', "$from->{name}: steps are in progress");
	my %before = map { $_ => $session->query($_) } $counts, $digest;
	my $identity = $session->query('SELECT system_identifier FROM pg_control_system()');
	$_->quit foreach $session, $executor;
	if ($takes_off)
	{
		diag("pg_attver is taken off the columns before pg_upgrade from $from->{name} to $to->{name}");
		$node->safe_psql($_, q(UPDATE pg_attribute SET attoptions = nullif(ARRAY(SELECT o FROM unnest(attoptions) o WHERE o NOT LIKE 'pg_attver=%'), '{}')
			WHERE array_to_string(attoptions, ',') LIKE '%pg_attver=%'))
		  foreach split /\n/, $node->safe_psql('postgres', 'SELECT datname FROM pg_database WHERE datallowconn');
	}
	$node->stop;

	my $next = cluster($to, 0);
	$next->append_conf('postgresql.conf', "tasker.clock_offset = '${days}d'");
	my $directory = PostgreSQL::Test::Utils::tempdir();
	chdir $directory;
	my $upgraded = run_log([ "$to->{bin}/pg_upgrade", '--no-sync', '--retain', '-d', $node->data_dir, '-D', $next->data_dir, '-b', $from->{bin}, '-B', $to->{bin},
		'-s', $node->host, '-p', $node->port, '-P', $next->port, '-U', scalar getpwuid($<) ]);
	chdir $FindBin::RealBin . '/../..';
	ok($upgraded, "pg_upgrade from $from->{name} to $to->{name}") or BAIL_OUT('nothing to go on with');
	my $log = join '', map { slurp_file($_) } glob $next->data_dir . '/pg_upgrade_output.d/*/log/pg_upgrade_server.log';
	like($log, qr/database system is shut down/, 'which has started servers');
	unlike($log, qr/tasker (?:launcher|orchestrator)/, 'in which no worker of ours ran');

	$node = $next;
	$node->start;
	$session = Tasker::Session->new($node, 'app');
	isnt($session->query('SELECT system_identifier FROM pg_control_system()'), $identity, "$to->{name}: this is another server");
	ok($session->poll(q(SELECT status = 'running' FROM tasker.stat_orchestrator)), 'an orchestrator runs');
	is($session->query('SELECT holds_dispatch FROM tasker.stat_orchestrator'), 'restored', 'which says that the database comes from elsewhere');
	$executor = Tasker::Executor->new($node, 'app', capacity => 100, handlers => 'H,P,nobody');
	ok($session->poll('SELECT batches > 0 FROM tasker.stat_orchestrator'), 'it has looked');
	is($session->query($_), $before{$_}, 'nothing is changed, nothing moved') foreach $digest, $counts;
	is(scalar($executor->hear), 0, 'nothing is dispatched');
	is($session->query("SELECT count(*) FROM tasker.claim_steps($executor->{id}, 100)"), '0', 'nor can it be claimed');
	is($session->query('SELECT * FROM tasker.check()'), '', 'check() finds nothing');
	$executor->quit;
	# Transactions have gone on from where the former server was.
	is($session->query('SELECT count(*) FROM tasker.workflow_step_transition_log WHERE xact_id >= pg_snapshot_xmax(pg_current_snapshot())'), '0',
		'no row of the log comes from the future');

	$session->query('SELECT tasker.resume()');
	ok($session->poll(q(SELECT count(*) FROM tasker.workflow_steps WHERE state = 'in_progress'), '0'), 'steps of executors of the former server are lost');
	ok($session->poll(q(SELECT count(*) FROM tasker.timers), $patients), 'those in their backoff have their timers');
	is($session->query('SELECT * FROM tasker.check()'), '', 'check() finds nothing');
	$executor = Tasker::Executor->new($node, 'app', capacity => 100);
	ok($executor->work(sub { $session->query(q(SELECT count(*) FROM tasker.tasks t JOIN tasker.named_tasks n USING (named_task_id) WHERE n.name = 'diamond' AND t.state <> 'complete')) eq '0' }),
		'what was in progress comes to its end');
	my $period = $session->query('SELECT tasker.current_period()');
	move_clock(++$days . 'd');
	ok($session->poll('SELECT tasker.current_period()', $period + 1), 'periods go on beginning');
	is($session->query('SELECT errors FROM tasker.stat_orchestrator'), '0', 'the orchestrator has met no error');
	begin_work() if $hop < $#clusters;
}

# --- the end -----------------------------------------------------------------------------------------

$executor->quit;
my $everyone = Tasker::Executor->new($node, 'app', capacity => 100, handlers => 'H,nobody,P', name => 'everyone');
move_clock(++$days . 'd');
ok($everyone->drain, 'tasks that have waited on every server come to their end');
is($session->query(q(SELECT string_agg(DISTINCT state::text, ',') FROM tasker.tasks)), 'complete', 'all of them');
# Retention looks at once, then after a minute, and takes nothing that is unread; then the log tells of nothing any more.
ok($session->all_is_read, 'all of that is read');
ends_well($node, ['app']);
%Tasker::ledger = ();
move_clock(($days += 4) . 'd');
ok($session->poll('SELECT count(*) FROM tasker.tasks', '0'), 'and retention removes them');
ok($session->poll(q(SELECT count(*) FROM pg_class WHERE relname ~ '_transition_log_p[123]$'), '0'), 'with the periods of former servers');
$_->quit foreach $session, $executor, $everyone;
ends_well($node, ['app']);
done_testing();
