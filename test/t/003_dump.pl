# A database is copied in the middle of work, in every way there is: dumped and
# restored, cloned, restored from a physical backup, carried into another version.
# Everything is there, nothing moves until an operator says resume(), executors
# of the original can do no harm, and then the work goes on to its end.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Utils;
use Tasker;
use Test::More;

my $source = tasker_node('source', streaming => 1, archiving => 1);
my $target = tasker_node('target');

# Everything that a dump must carry, with the number of its rows and a digest
# of them. The checkpoint is compared apart: its row is this server's own.
my @tables = map { "tasker.$_" } qw(task_namespaces named_tasks dependent_systems named_steps handlers
  named_tasks_named_steps named_step_edges custom_events named_step_events dependent_system_object_maps tasks workflow_steps workflow_step_edges annotation_types task_annotations task_transition_log
  workflow_step_transition_log executors);
my $digest = join(' UNION ALL ', map { "SELECT '$_', count(*), md5(coalesce(string_agg(t::text, E'\\n' ORDER BY t::text), '')) FROM $_ t" } @tables);
my $partitions = q(SELECT c.relname, pg_get_expr(c.relpartbound, c.oid), c.relowner::regrole, c.relacl, c.reloptions,
	(SELECT string_agg(pg_get_indexdef(i.indexrelid), ', ' ORDER BY pg_get_indexdef(i.indexrelid)) FROM pg_index i WHERE i.indrelid = c.oid),
	(SELECT string_agg(pg_get_triggerdef(t.oid), ', ' ORDER BY pg_get_triggerdef(t.oid)) FROM pg_trigger t WHERE t.tgrelid = c.oid),
	obj_description(c.oid)
FROM pg_class c WHERE c.relispartition AND c.relkind = 'r' ORDER BY 1);
my $sequences = q(SELECT sequencename, last_value FROM pg_sequences WHERE schemaname = 'tasker' ORDER BY 1);

# --- the source: tasks in every state ---------------------------------------

$source->safe_psql('postgres', 'CREATE DATABASE app');
$source->safe_psql('app', 'CREATE EXTENSION tasker');
my $session = Tasker::Session->new($source, 'app');
$session->query(Tasker::template_sql('diamond', 'a; b<-a; c<-a; d<-b,c'));
$session->query(Tasker::template_sql('flaky', 'a; b<-a', { backoff_base_seconds => 3600, backoff_cap_seconds => 3600 }));
$session->query(Tasker::template_sql('other', 'a', { handler_class => 'nobody' }));
$session->query(Tasker::template_sql('remote', 'a', { handler_class => 'R' }));
# What is said besides: an environment, custom events, descriptions, objects of other systems.
$session->query(q(SET tasker.environment = 'production'));
$session->query(q(SELECT tasker.register_task_template_yaml('
name: staged
namespace_name: test
step_templates: [{name: s, handler_class: H, custom_events: [{name: dump.taken, description: by a step}]}]
environments: {production: {step_templates: [{name: s, handler_config: {url: there}}]}}')));
$session->query(q(SELECT tasker.register_event('dump.restored', fired_by => '{operator}'), tasker.describe_namespace('test', 'of the test'),
	tasker.map_objects('here', '1', 'there', 'A'), tasker.map_objects('there', 'B', 'here', '2')));
diamonds($session, 10);
my $executor = Tasker::Executor->new($source, 'app', capacity => 20);
ok($executor->drain, 'ten tasks are done before the dump');

# From here on in the next period of the logs, and then in one that is no member
# of the extension.
sub begin_period
{
	my ($period) = @_;
	$session->query("SELECT setval(format('tasker.%s_seq', s), (${period}::bigint << 40) + 1, false) FROM unnest(ARRAY['tasks_task_id', 'workflow_steps_workflow_step_id']) s");
}
begin_period(1);
diamonds($session, 3, name => 'other');
$session->query('SELECT tasker.make_period(2)');
begin_period(2);
my ($cancelled) = diamonds($session, 1, name => 'other');
$session->query("SELECT tasker.cancel_task($cancelled, 'not needed')");
$session->query("SELECT tasker.annotate_task($cancelled, 'note', '{\"why\": \"not needed\"}', 'A note')");
my @flaky = diamonds($session, 2, name => 'flaky');
my @steps = $executor->expect(2);
$executor->query("SELECT tasker.fail_step($steps[0]{workflow_step_id}, $steps[0]{claim}, 'out of luck')");
$executor->query("SELECT tasker.fail_step($steps[1]{workflow_step_id}, $steps[1]{claim}, 'hopeless', NULL, false)");
ok($session->poll("SELECT string_agg(state::text, ',' ORDER BY state) FROM tasker.tasks WHERE task_id IN ($flaky[0], $flaky[1])",
	'in_progress,error'), 'a task waits for its retry, another has failed');
diamonds($session, 8);
@steps = $executor->expect(8);
$executor->complete(@steps[0 .. 3]);
$executor->expect(8);
# One step is with an executor that the copy knows as one that may live for an hour.
my $remote = Tasker::Executor->new($source, 'app', capacity => 1, handlers => 'R', detached => 1, lease => '1 hour');
diamonds($session, 1, name => 'remote');
my ($held) = $remote->expect(1);
is($session->query(q(SELECT count(*) FROM tasker.workflow_steps WHERE state = 'in_progress')), '13', 'steps are in flight');
# A row that no snapshot position of another server may hide.
$session->query('BEGIN; SELECT txid_current()');
my %before = map { $_ => $source->safe_psql('app', $_) } ($digest, $sequences, $partitions);

# --- dump and restore -----------------------------------------------------------

my $dumps = PostgreSQL::Test::Utils::tempdir();
my @environment = ('-h', $source->host, '-p', $source->port);
my @there = ('-h', $target->host, '-p', $target->port);
$source->command_ok([ 'pg_dump', @environment, '-f', "$dumps/plain.sql", 'app' ], 'pg_dump, plain');
$source->command_ok([ 'pg_dump', @environment, '-Fc', '-f', "$dumps/custom", 'app' ], 'pg_dump, custom');
$source->command_ok([ 'pg_dump', @environment, '-Fd', '-j', '2', '-f', "$dumps/directory", 'app' ], 'pg_dump, directory');
$source->command_ok([ 'pg_dump', @environment, '-s', '-f', "$dumps/schema.sql", 'app' ], 'pg_dump, the schema only');
# Whoever may read everything may dump it.
$source->safe_psql('postgres', 'CREATE ROLE archivist LOGIN BYPASSRLS; GRANT pg_read_all_data TO archivist');
$source->command_ok([ 'pg_dump', @environment, '-U', 'archivist', '-f', "$dumps/archivist.sql", 'app' ], 'pg_dump by a role that is no superuser');
my %lines;
$lines{$_}++ foreach split /\n/, slurp_file("$dumps/plain.sql");
$lines{$_}-- foreach split /\n/, slurp_file("$dumps/archivist.sql");
# But for what says that they are two, and the checkpoint, which goes on.
is(join("\n", grep { $lines{$_} && !/^\\(?:un)?restrict |^t\t-?\d+\t/ } keys %lines), '', 'says the same');
$source->backup('copy');
$source->safe_psql('app', q(SELECT pg_create_restore_point('here'), pg_switch_wal()));
$session->query('ROLLBACK');
is($source->safe_psql('app', $digest), $before{$digest}, 'the dumps have changed nothing');

# Another version that runs after this one gets the dump with what it must find in it.
my ($version) = $source->safe_psql('postgres', 'SHOW server_version') =~ /^(\d+)/;
my $carry = $ENV{TASKER_CARRY};
my @carried = defined $carry ? grep { !/\/$version\./ } glob "$carry/*.dump" : ();
if (defined $carry)
{
	append_to_file("$carry/$version.dump", slurp_file("$dumps/custom"));
	append_to_file("$carry/$version.expected", Tasker::Session::json()->encode(\%before));
}

$target->safe_psql('postgres', "CREATE DATABASE $_") foreach qw(plain custom directory data_only schema_only);
$target->command_ok([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', @there, '-d', 'plain', '-f', "$dumps/plain.sql" ],
	'psql restores the plain dump');
# The orchestrator comes up as soon as the extension is there, which is long
# before the rows are.
$target->command_ok([ 'pg_restore', '--exit-on-error', '--section=pre-data', @there, '-d', 'custom', "$dumps/custom" ],
	'pg_restore restores the extension from the custom dump');
ok($target->poll_query_until('custom', q(SELECT status = 'running' FROM tasker.orchestrator_status())), 'the orchestrator runs already');
$target->command_ok([ 'pg_restore', '--exit-on-error', '--section=data', '--section=post-data', @there, '-d', 'custom', "$dumps/custom" ],
	'pg_restore then restores the rows');
{
	# Parallel workers load tables in any order: foreign keys must not look (docs/operations.md).
	local $ENV{PGOPTIONS} = '-c session_replication_role=replica';
	$target->command_ok([ 'pg_restore', '--exit-on-error', @there, '-d', 'directory', '-j', '2', "$dumps/directory" ],
		'pg_restore -j restores the directory dump');
}

# Rows alone, into a database that has the extension already; the periods after the
# first two are there only if somebody makes them.
$target->safe_psql('data_only', 'CREATE EXTENSION tasker; SELECT tasker.make_period(2)');
$target->command_ok([ 'pg_restore', '--exit-on-error', '--data-only', '--disable-triggers', '-j', '2', @there, '-d', 'data_only', "$dumps/directory" ],
	'pg_restore --data-only -j restores the rows');

# A schema without rows is a new installation.
$target->command_ok([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', @there, '-d', 'schema_only', '-f', "$dumps/schema.sql" ], 'psql restores the schema');
{
	my $empty = Tasker::Session->new($target, 'schema_only');

	is($empty->query('SELECT (SELECT count(*) FROM tasker.tasks), (SELECT count(*) FROM tasker.named_tasks), (SELECT count(*) FROM tasker.orchestrator_checkpoint)'), '0|0|0',
		'schema only: nothing is there');
	$empty->query(Tasker::template_sql('single', 'a'));
	my $executor = Tasker::Executor->new($target, 'schema_only');
	diamonds($empty, 2, name => 'single');
	ok($executor->drain, 'schema only: it works like any other');
	is($empty->query('SELECT * FROM tasker.check()'), '', 'schema only: check() finds nothing');
	$_->quit foreach $executor, $empty;
}

# Physical copies have the system identifier of their original.
my $copy = PostgreSQL::Test::Cluster->new('copy');
$copy->init_from_backup($source, 'copy');
$copy->append_conf('postgresql.conf', 'archive_mode = off');
$copy->start;
my $past = PostgreSQL::Test::Cluster->new('past');
$past->init_from_backup($source, 'copy', has_restoring => 1, standby => 0);
$past->append_conf('postgresql.conf', "archive_mode = off\nrecovery_target_name = 'here'\nrecovery_target_action = 'promote'\n");
$past->start;
ok($past->poll_query_until('app', 'SELECT NOT pg_is_in_recovery()'), 'a server has recovered to a point in time');

# A clone on the same server. Nobody is connected to the original meanwhile, so its session-bound executor is lost.
$_->quit foreach $executor, $session, $remote;
ok($source->poll_query_until('app', q(SELECT count(*) = 1 FROM tasker.workflow_steps WHERE state = 'in_progress')), 'the detached executor has its step still');
# The digest of a clone that moves between two looks would not be the same.
ok($source->poll_query_until('app', 'SELECT NOT EXISTS (SELECT FROM tasker.workflow_step_transition_log l, tasker.orchestrator_checkpoint c WHERE l.xact_id >= pg_snapshot_xmax(c.position))'),
	'all is quiet at the original');
my %after = map { $_ => $source->safe_psql('app', $_) } ($digest, $sequences, $partitions);
$source->safe_psql('postgres', 'CREATE DATABASE clone TEMPLATE app');

# Dumps of other versions.
my %expected_of;
foreach my $dump (@carried)
{
	my ($other) = $dump =~ /(\d+)\.dump$/;

	$target->safe_psql('postgres', "CREATE DATABASE from_$other");
	$target->command_ok([ 'pg_restore', '--exit-on-error', '--no-owner', @there, '-d', "from_$other", $dump ], "pg_restore restores a dump of version $other");
	$expected_of{"from_$other"} = Tasker::Session::json()->decode(slurp_file("$carry/$other.expected"));
}

# Each copy, and what it must have.
my @copies = ((map { [ $target, $_, \%before, 13 ] } qw(plain custom directory data_only)),
	[ $copy, 'app', \%before, 13 ], [ $past, 'app', \%before, 13 ], [ $source, 'clone', \%after, 1 ],
	map { [ $target, $_, $expected_of{$_}, 13 ] } sort keys %expected_of);

foreach my $case (@copies)
{
	my ($server, $name, $expected, $in_flight) = @$case;
	my %before = %$expected;
	my $database = $server == $target ? $name : $server->name . ' ' . $name;
	my $restored = Tasker::Session->new($server, $name);

	ok($restored->poll(q(SELECT status = 'running' FROM tasker.stat_orchestrator)), "$database: an orchestrator runs");
	is($restored->query(q(SELECT holds_dispatch FROM tasker.stat_orchestrator)), 'restored', "$database: it says that it is restored");
	# Where ids could have been given out after the backup, they are passed over.
	my $passed_over = $server == $copy || $server == $past ? 2**30 : 0;
	is($restored->query($sequences), $before{$sequences} =~ s/^(tasks_task|workflow_steps_workflow_step|executors_executor)(_id_seq\|)(\d+)$/$1 . $2 . ($3 + $passed_over)/egmr,
		"$database: the sequences are where they were");

	# Who owns them, and what an owner may, is another matter in another version.
	my ($has, $had) = map { $expected_of{$name} ? s/^(\w+\|[^|]*\|)[^|]*\|[^|]*\|/$1/gmr : $_ } $restored->query($partitions), $before{$partitions};
	is($has, $had, "$database: the logs have their partitions");
	is($restored->query(q(SELECT tasker.task_template('staged', 'test', effective => true) #>> '{step_templates,0,handler_config,url}')), 'there',
		"$database: a template is in force as it was");

	# An executor comes, which wakes the orchestrator, and gets nothing.
	my $executor = Tasker::Executor->new($server, $name, capacity => 1000, handlers => 'H,nobody,R');
	ok($restored->poll('SELECT batches > 0 FROM tasker.stat_orchestrator'), "$database: the orchestrator has looked");
	is($executor->query("SELECT count(*) FROM tasker.claim_steps($executor->{id}, 100)"), '0', "$database: nothing can be claimed");
	is(scalar($executor->hear), 0, "$database: nothing is dispatched");
	is($restored->query($digest =~ s/FROM tasker\.executors t/FROM (SELECT * FROM tasker.executors WHERE executor_id <> $executor->{id}) t/r),
		$before{$digest}, "$database: all rows are there, and unchanged");
	is($restored->query('SELECT * FROM tasker.check()'), '', "$database: check() finds nothing");
	is($restored->query(q(SELECT count(*) FROM tasker.workflow_step_transitions WHERE most_recent)),
		$restored->query(q(SELECT count(*) FROM tasker.workflow_steps WHERE sort_key > 0)), "$database: the logs are readable");
	$executor->quit;
	is($restored->query(q(SELECT count(*) FROM tasker.workflow_steps WHERE state = 'in_progress')), $in_flight, "$database: what was in flight still is");

	# The operator adopts it.
	$restored->query('SELECT tasker.resume()');
	ok($restored->poll(q(SELECT count(*) FROM tasker.workflow_steps WHERE state = 'in_progress'), '0'),
		"$database: steps that were in flight are taken from executors of the original");
	like(($restored->try("SELECT tasker.complete_step($held->{workflow_step_id}, $held->{claim}, '{}', $remote->{id})"))[1], qr/claim 10 of step \d+ is stale/,
		"$database: who reports under a claim of before is refused");
	$executor = Tasker::Executor->new($server, $name, capacity => 20, handlers => 'H,nobody,R');
	my $begin = $restored->query('SELECT max(task_id) FROM tasker.tasks');
	my ($new) = diamonds($restored, 1);
	cmp_ok($new, '>', $begin, "$database: new tasks get new numbers");
	my $open = q(SELECT string_agg(DISTINCT n.name, ',') FROM tasker.tasks JOIN tasker.named_tasks n USING (named_task_id) WHERE state IN ('pending', 'in_progress'));
	ok($executor->work(sub { $restored->query($open) eq 'flaky' }), "$database: all tasks end but the one that waits for its retry");
	is($restored->query(q(SELECT count(*) FROM tasker.timers)), '1', "$database: that one has its timer");
	is($restored->query(q(SELECT string_agg(state || ' ' || n, ', ' ORDER BY state) FROM (SELECT state, count(*) n FROM tasker.tasks GROUP BY 1) c)),
		'in_progress 1, complete 23, error 1, cancelled 1', "$database: and all are what they should be");
	is($restored->query(q(SELECT count(*) FROM tasker.workflow_step_transition_log WHERE to_state = 'error' AND metadata->>'error_class' = 'executor_lost')),
		'13', "$database: the log says which steps were lost");
	$restored->query('SELECT tasker.resume()');
	is($restored->query('SELECT holds_dispatch IS NULL FROM tasker.stat_orchestrator'), 't', "$database: it is this server's own");
	$executor->quit;

	# What came with the server is looked at once, not after each crash again.
	if ($server == $copy)
	{
		Tasker::Session->new($server, $name)->query('SELECT 1');
		$restored->send('SELECT pg_sleep(600)');
		ok($server->poll_query_until('postgres', q(SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)%' AND wait_event = 'PgSleep')), "$database: a session is busy");
		kill 'KILL', $restored->{pid};
		eval { $restored->finish };
		ok($server->poll_query_until('app', q(SELECT status = 'running' AND holds_dispatch IS NULL FROM tasker.stat_orchestrator)),
			"$database: after a crash it is this server's own still");
	}
	$restored->quit;
}

# What was made later goes with the extension, too.
$target->safe_psql('plain', 'DROP EXTENSION tasker');
is($target->safe_psql('plain', q(SELECT count(*) FROM pg_class WHERE relname LIKE '%transition_log%')), '0', 'DROP EXTENSION removes every partition');
ends_well($source, [qw(app clone)], qr/is stale/);
ends_well($target, [qw(custom directory data_only schema_only), sort keys %expected_of], qr/is stale/);
ends_well($copy, ['app'], qr/is stale|terminated by signal 9|administrator command|recovery mode|not yet accepting/);
ends_well($past, ['app'], qr/is stale/);

done_testing();
