# A standby: whoever looks gets an answer, whoever would write gets a clear
# refusal, and nothing is done by half. Then it is promoted in the middle of
# work: what was in flight goes on, and nobody of before can do harm.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Utils;
use Tasker;
use Test::More;
use Time::HiRes qw(time usleep);

my $node = tasker_node('primary', streaming => 1, conf => "wal_log_hints = on\nwal_keep_size = 128MB\n");
my $running = q(SELECT status = 'running' FROM tasker.stat_orchestrator);

$node->safe_psql('postgres', 'CREATE DATABASE app');
$node->safe_psql('app', 'CREATE EXTENSION tasker');
my $session = Tasker::Session->new($node, 'app');
$session->query(Tasker::template_sql('diamond', 'a; b<-a; c<-a; d<-b,c'));
$session->query(Tasker::template_sql('single', 'a'));
$session->query(Tasker::template_sql('solo', 'a', { handler_class => 'solo' }));
$session->query(Tasker::template_sql('brief', 'a', { handler_class => 'K' }));
$session->query(q(SELECT tasker.register_task_template('{"name": "turns", "namespace_name": "t", "version": "1.0.0", "concurrent": false,
	"step_templates": [{"name": "a", "handler_class": "nobody"}, {"name": "b", "handler_class": "nobody"}]}')));
$session->query(q(SELECT tasker.map_objects('here', '1', 'there', 'A')));
my ($turns) = diamonds($session, 1, name => 'turns');

# At the promotion some steps are with session-bound executors of the old
# server, others with a detached one, and others wait.
my $bound = Tasker::Executor->new($node, 'app', name => 'bound', capacity => 6);
my ($first) = diamonds($session, 20);
my @bound_steps = $bound->expect(6);
$bound->complete(shift @bound_steps);

$node->backup('standby');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'standby', has_streaming => 1);
$standby->start;
my ($last) = diamonds($session, 1, context => q('{"made": "after the backup"}'::jsonb));
$session->query("SELECT tasker.annotate_task($last, 'note', '{\"why\": \"to look at\"}', 'A note')");
# Until here everybody has what he can have: from here on nothing moves.
ok($session->poll('SELECT NOT EXISTS (SELECT FROM tasker.workflow_step_transition_log l, tasker.orchestrator_checkpoint c WHERE l.xact_id >= pg_snapshot_xmax(c.position))'),
	'all is quiet');
$node->wait_for_catchup($standby);
my $there = Tasker::Session->new($standby, 'app');
is($there->query(q(SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'tasker%')), '0', 'a standby has no process of tasker');
is($there->query("SELECT context->>'made' FROM tasker.tasks WHERE task_id = $last"), 'after the backup', 'it follows');

# --- looking -----------------------------------------------------------------------

# Every view and table, from the catalogue: row by row the same answer. What shared memory
# says, and who holds back vacuum, is each server's own.
my @relations = split /\n/, $session->query(
	q(SELECT relname FROM pg_class WHERE relnamespace = 'tasker'::regnamespace AND relkind IN ('r', 'p', 'v') ORDER BY 1));
my %own_answer = map { $_ => 1 } qw(stat_orchestrator stat_executors stat_latencies stat_horizon stat_tasks stat_handlers metrics);
my $digest = 'SELECT count(*), md5(string_agg(r::text, E\'\n\' ORDER BY r::text)) FROM %s r';
foreach my $relation (@relations)
{
	my $sql = sprintf $digest, "tasker.$relation";
	my $answer = $there->query($own_answer{$relation} ? "SELECT count(*) >= 0 FROM tasker.$relation" : $sql);

	is($answer, $own_answer{$relation} ? 't' : $session->query($sql), "$relation answers on the standby");
}
is($there->query('SELECT status, pid IS NULL FROM tasker.stat_orchestrator'), 'off|t', 'stat_orchestrator says that none runs');
is($there->query('SELECT * FROM tasker.check()'), '', 'check() runs there and finds nothing');

# Every function, from the catalogue. One that is not volatile must answer; of the volatile
# ones these look, too, and all others write.
my %looks = map { $_ => 1 } qw(backoff_seconds validate_context task_template my_steps find_viable_steps await_task orchestrator_status
	orchestrator_measures executor_measures latency_buckets transition_counts prometheus_metrics handler_status metric_samples reset_stats);
my ($step) = split /\n/, $session->query("SELECT min(workflow_step_id) FROM tasker.workflow_steps WHERE task_id = $first");
my $claim = $session->query("SELECT sort_key FROM tasker.workflow_steps WHERE workflow_step_id = $step");

# Arguments, by function and name, by name, and by type.
my %argument = (
	'backoff_seconds.strategy' => q('linear'), n => 2, targets => q('{2}'), marked => q('{true,true}'), weights => q('{1,1}'),
	cron => q('* * * * *'), time_zone => q('UTC'), missed_runs => q('once'), capability => q('observer'),
	request => q('{"name": "diamond", "namespace": "t"}'),
	traceparent => q('00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01'),
	'create_tasks.requests' => q(ARRAY['{"name": "diamond", "namespace": "t"}'::jsonb]),
	task_id => $first, step_id => $step, executor_id => $bound->{id}, claim => $claim,
	step_ids => "ARRAY[$step]::bigint[]", claims => "ARRAY[$claim]", name => q('diamond'), namespace => q('t'),
	handlers => q('{H}'), format => q('text'), document => q('a: 1'),
	template => q('{"name": "new", "step_templates": [{"name": "a", "handler_class": "H"}]}'),
	to_state => q('cancelled'), states => q('{complete}'), allowed_from => q('{in_progress}'), fired_by => q('{task}'),
	errors => q(ARRAY['x']), system => q('unknown'), dependent_system => q('unknown'), schema => q('{}'), period => 5,
	max_steps => 1, timeout => q('0 s'), retention => q('1 s'), delay => q('1 s'), system_one => q('here'), system_two => q('there'),
	finished_before => 'now()', version => 'NULL', task_version => 'NULL', namespace_name => 'NULL', task_name => 'NULL', results => 'NULL',
	'create_triggered_tasks.batch' => q('{"triggers": ["x"], "requests": []}'), context_from_payload => q('{}'),
	'register_event.name' => q('order.shipped'), 'register_task_template_yaml.document' => q('{name: y, step_templates: [{name: a, handler_class: H}]}'));
my %argument_of_type = (bigint => 1, integer => 1, text => q('x'), jsonb => q('{}'), boolean => 'false', interval => q('1 hour'),
	'double precision' => 1, 'timestamp with time zone' => q((now() - interval '1 day')), 'text[]' => q('{x}'), 'integer[]' => q('{1}'),
	'bigint[]' => q('{1}'), 'jsonb[]' => q('{}'), 'boolean[]' => q('{true}'), 'double precision[]' => q('{1}'), 'tasker.state' => q('pending'),
	'tasker.state[]' => q('{pending}'));
my @functions = map { [ split /\|/ ] } split /\n/, $session->query(<<'SQL');
SELECT p.proname, p.provolatile, p.prokind,
	coalesce(array_to_string(p.proargnames[1:p.pronargs], ','), ''),
	array_to_string(ARRAY(SELECT format_type(t, NULL) FROM unnest(p.proargtypes) WITH ORDINALITY u(t, o) ORDER BY o), ',')
FROM pg_proc p WHERE p.pronamespace = 'tasker'::regnamespace AND p.prorettype <> 'trigger'::regtype
	-- These are upkeep's, for the owner of the extension, and have nothing to do here.
	AND p.proname NOT IN ('drop_history', 'compact_history', 'secure_partitions')
ORDER BY p.proname, p.oid::regprocedure::text
SQL

# A call of a function with what its arguments need, all of them.
sub call
{
	my ($name, $kind, $names, $types) = @_;
	my @names = split /,/, $names;
	my @arguments = map {
		my $argument = shift @names // '';
		my $value = $argument{"$name.$argument"} // $argument{$argument} // $argument_of_type{$_} // 'NULL';
		"${value}::$_"
	} split /,/, $types;

	return "CALL tasker.$name(" . join(', ', @arguments) . ')' if $kind eq 'p';
	return "SELECT * FROM tasker.$name(" . join(', ', @arguments) . ')';
}

# The SQLSTATE, the message and the hint of an error.
sub refusal
{
	my ($session, $sql) = @_;
	my (undef, $error) = $session->try("\\set VERBOSITY verbose\n$sql\n;\n\\set VERBOSITY default");

	return join('|', ($error =~ /(?:ERROR|FATAL|PANIC):  (\w{5}): (.*)/)[ 0, 1 ], $error =~ /HINT:  (.*)/) if $error ne '';
	return 'no error';
}

# What a writer would leave behind.
my $state = sprintf $digest, q((SELECT 1 AS one, t.task_id AS id, t.sort_key FROM tasker.tasks t UNION ALL SELECT 2, workflow_step_id, sort_key FROM tasker.workflow_steps
	UNION ALL SELECT 3, executor_id, 0 FROM tasker.executors WHERE ended_at IS NULL UNION ALL SELECT 4, workflow_step_id, 0 FROM tasker.work_queue));
my $before = $session->query($state);
my $forgetful = Tasker::Session->new($node, 'app');
$forgetful->query('SET default_transaction_read_only = on');
my (@mute, @wrong, @on_standby, @read_only);
my $writers = 0;
foreach my $function (@functions)
{
	my ($name, $volatile, $kind, $names, $types) = @$function;
	my $sql = call($name, $kind, $names, $types // '');

	if ($volatile ne 'v' || $looks{$name})
	{
		my (undef, $here) = $session->try($sql);
		my (undef, $error) = $there->try($sql);

		push @mute, "$sql: $error" if $error ne $here;
		push @wrong, "$sql: $here" if $here ne '';
		next;
	}
	$writers++;
	# The C functions say it in our words, the SQL ones in those of PostgreSQL.
	my $said = refusal($there, $sql);
	push @on_standby, "$sql: $said"
	  unless $said =~ /^25006\|(?:tasker changes nothing on a standby\|Call the function on the primary server\.$|cannot (?:execute|assign) .*(?:read-only|recovery))/;
	$said = refusal($forgetful, $sql);
	push @read_only, "$sql: $said"
	  unless $said =~ /^25006\|(?:tasker changes nothing in a read-only transaction\|Begin the transaction READ WRITE\.$|cannot (?:execute|assign) .*(?:read-only))/;
}
is(join("\n", @wrong), '', 'every function that looks is called as it should be');
is(join("\n", @mute), '', 'and answers on the standby as on the primary');
cmp_ok($writers, '>', 45, 'many functions write');
is(join("\n", @on_standby), '', 'each of them is refused on the standby with 25006');
is(join("\n", @read_only), '', 'and in a read-only transaction of the primary');
$forgetful->quit;
is($session->query($state), $before, 'none has changed anything there');
is($there->query('SELECT count(*) FROM pg_locks WHERE locktype = \'advisory\''), '0', 'or has left a lock behind');

# Who waits for a task hears of its end from the standby.
my ($awaited) = diamonds($session, 1, name => 'solo');
$node->wait_for_catchup($standby);
my $patient = Tasker::Session->new($standby, 'app')->send("CALL tasker.await_task($awaited, '1 minute')");
$session->query("SELECT tasker.cancel_task($awaited)");
is(($patient->finish)[0], 'cancelled', 'await_task waits on the standby, too');

# --- promotion in the middle of work --------------------------------------------------

# What is acknowledged with synchronous replication is on the standby.
$node->safe_psql('postgres', q(ALTER SYSTEM SET synchronous_standby_names = '*'; SELECT pg_reload_conf()));
ok($session->poll(q(SELECT sync_state = 'sync' FROM pg_stat_replication)), 'replication is synchronous');
my $detached = Tasker::Executor->new($node, 'app', name => 'detached', capacity => 60, detached => 1, lease => '1 minute', handlers => 'H');
my $brief = Tasker::Executor->new($node, 'app', name => 'brief', capacity => 4, detached => 1, lease => '2 s', handlers => 'K');
my @detached_steps = $detached->expect(8);
$detached->complete(splice @detached_steps, 0, 3);
$detached->expect(3);
diamonds($session, 4, name => 'brief');
my @brief_steps = $brief->expect(4);
$brief->complete(pop @brief_steps);
@bound_steps = $bound->my_steps;
@detached_steps = $detached->my_steps;
is(scalar @bound_steps, 6, 'the session-bound executor has six steps');
cmp_ok(scalar @detached_steps, '>', 8, 'the detached one has all others, and room for more');
my ($solo) = diamonds($session, 1, name => 'solo');
ok($session->poll("SELECT count(*) FROM tasker.work_queue q JOIN tasker.workflow_steps USING (workflow_step_id) WHERE task_id = $solo", '1'),
	'one waits for an executor that nobody is');

# The last that the primary does is not replicated any more: a claim, tasks and their
# steps, an executor.
$node->safe_psql('postgres', q(ALTER SYSTEM RESET synchronous_standby_names; SELECT pg_reload_conf()));
ok($session->poll(q(SELECT sync_state = 'async' FROM pg_stat_replication)), 'replication is asynchronous');
$node->wait_for_catchup($standby);
$standby->safe_psql('postgres', q(ALTER SYSTEM SET primary_conninfo = ''; SELECT pg_reload_conf()));
ok($session->poll('SELECT count(*) FROM pg_stat_replication', '0'), 'the standby hears no more');
my $stray = Tasker::Executor->new($node, 'app', name => 'stray', capacity => 0, detached => 1, lease => '1 hour', handlers => 'solo');
my ($lost_claim) = map { [ split /\|/ ] } split /\n/, $session->query("SELECT workflow_step_id, claim FROM tasker.claim_steps($stray->{id}, 1)");
my (@lost_tasks) = diamonds($session, 50, name => 'solo');
my $lost_step;
ok(Tasker::until_true(sub {
			($lost_step) = map { [ split /\|/ ] } split /\n/, $session->query("SELECT workflow_step_id, claim FROM tasker.claim_steps($stray->{id}, 1)");
		}), 'work goes on there for a while');
$_->quit foreach $bound, $brief, $detached, $stray, $session;
$node->stop('immediate');

# One waits there for the end of a task, another has a transaction open.
$patient->send("CALL tasker.await_task($last, '1 minute')");
my $late = Tasker::Session->new($standby, 'app');
$late->query('BEGIN; SELECT tasker.task_state(1)');

my $promoted_at = time();
$standby->promote;
ok($there->poll($running), 'promotion brings the orchestrator');
ok($there->poll(sprintf q(SELECT count(*) > 0 FROM tasker.workflow_step_transition_log WHERE to_state = 'in_progress' AND created_at > to_timestamp(%f)), $promoted_at),
	'which takes steps of lost executors and gives them to one that may still be there');
my $delay = $there->query(sprintf q(SELECT extract(epoch FROM min(created_at)) - %f FROM tasker.workflow_step_transition_log
	WHERE to_state = 'in_progress' AND created_at > to_timestamp(%f)), $promoted_at, $promoted_at);
cmp_ok($delay, '<', 5, sprintf 'the first one %.0f ms after the order to promote', 1000 * $delay);

like(refusal($late, q(SELECT tasker.create_task('solo', namespace => 't'))), qr/^25006\|tasker changes nothing in a read-only transaction/,
	'a transaction that began on the standby stays read-only');
$late->query('ROLLBACK');
like($late->query(q(SELECT tasker.create_task('solo', namespace => 't'))), qr/^\d+$/, 'the next one is like any other');

# What was acknowledged is there.
my $claims = join ',', map { "($_)" } keys %{ $Tasker::ledger{primary}{app} };
is($there->query(<<"SQL"), '0', 'nothing that the primary had acknowledged is lost');
SELECT count(*) FROM (VALUES $claims) ledger(step_id, claim)
WHERE NOT EXISTS (SELECT FROM tasker.workflow_step_transition_log l
	WHERE l.workflow_step_id = step_id AND l.sort_key = claim + 10 AND l.to_state = 'complete')
SQL

# Session-bound executors of before are gone with their sessions.
ok($there->poll("SELECT end_reason FROM tasker.executors WHERE executor_id = $bound->{id}", 'lost'), 'a session-bound executor of before is lost');
like(refusal($there, "SELECT tasker.complete_step($_->{workflow_step_id}, $_->{claim}, '{}', $bound->{id})"), qr/^TK001\|/, 'its claim is stale')
  foreach $bound_steps[0], $bound_steps[5];
is($there->query("SELECT count(*) FROM tasker.workflow_step_transition_log WHERE metadata->>'error_message' = 'executor $bound->{id} was lost'"),
	'6', 'the log says that its six steps were');

# A detached one is within its lease, which begins anew, or it is not.
is($there->query(sprintf q(SELECT array_length(tasker.complete_steps('{%s}', '{%s}', NULL, %d, true), 1)),
		join(',', map { $_->{workflow_step_id} } @detached_steps), join(',', map { $_->{claim} } @detached_steps), $detached->{id}), '',
	'a detached executor completes on the new primary what it had from the old one');
is($there->query("SELECT tasker.heartbeat($detached->{id})"), 't', 'and goes on');
ok($there->poll("SELECT end_reason FROM tasker.executors WHERE executor_id = $brief->{id}", 'lost'), 'one that nobody hears of is lost after its lease');
like(refusal($there, "SELECT tasker.complete_step($brief_steps[0]{workflow_step_id}, $brief_steps[0]{claim}, '{}', $brief->{id})"), qr/^TK001\|/, 'and its claim is stale');

# What was lost with the old primary is unknown here, and its ids mean nothing else.
my $step_of_nobody = "tasker.complete_step($lost_claim->[0], $lost_claim->[1], '{}', $stray->{id})";
like(refusal($there, "SELECT $step_of_nobody"), qr/^TK001\|/, 'a claim that never arrived is stale');
like(refusal($there, "SELECT tasker.complete_step($lost_step->[0], $lost_step->[1], '{}', $stray->{id})"), qr/^42704\|/, 'a step that never arrived is unknown');
like(refusal($there, "SELECT * FROM tasker.claim_steps($stray->{id}, 1)"), qr/^42704\|/, 'so is an executor');
my $heir = Tasker::Executor->new($standby, 'app', name => 'heir', capacity => 5, handlers => 'solo');
my ($again) = $heir->expect(1);
is("$again->{workflow_step_id} $again->{claim}", "@$lost_claim", 'another one gets the step, under a claim of the same number');
cmp_ok($heir->{id}, '>', $stray->{id}, 'but is not taken for the one of before');
like(refusal($there, "SELECT $step_of_nobody"), qr/^TK001\|/, 'who is refused still');
is(join(',', $heir->complete($again)), '', 'and it alone completes it');
my ($new) = diamonds($there, 1, name => 'solo');
cmp_ok($new, '>', $lost_tasks[-1], 'new tasks have numbers that none of the lost ones had');
cmp_ok($there->query("SELECT min(workflow_step_id) FROM tasker.workflow_steps WHERE task_id = $new"), '>', $lost_step->[0], 'and so have steps');

# All of it comes to its end, once.
my $worker = Tasker::Executor->new($standby, 'app', name => 'worker', capacity => 20, handlers => 'H,K,solo');
$there->query("SELECT tasker.unregister_executor($detached->{id}, true)");
$heir->quit;
ok($worker->drain_but('turns'), 'and work goes on to its end');
is(($patient->finish)[0], 'complete', 'who has waited since before the promotion hears of it');
is($there->query("SELECT string_agg(DISTINCT tasker.task_state(t)::text, ',') FROM generate_series($first, $last) t"), 'complete', 'the last task included');

# A second server that is restarted takes nothing over again.
my $taken_over = 'SELECT taken_over_at, (SELECT last_value FROM tasker.tasks_task_id_seq) FROM tasker.orchestrator_checkpoint';
$before = $there->query($taken_over);
$_->quit foreach $worker, $there, $patient, $late;
$standby->restart;
$there = Tasker::Session->new($standby, 'app');
ok($there->poll($running), 'after a restart the orchestrator is there');
is($there->query($taken_over), $before, 'and the database is taken over once only');

# --- the old primary comes back -------------------------------------------------------

# Rewound it is a standby like any other.
command_ok([ 'pg_rewind', '--target-pgdata', $node->data_dir, '--source-server', $standby->connstr('postgres'), '-R', '--no-sync' ], 'pg_rewind of the old primary');
$node->append_conf('postgresql.conf', sprintf "port = %d\nunix_socket_directories = '%s'\n", $node->port, $node->host);
$node->start;
my ($after) = diamonds($there, 1, name => 'solo');
my $back = Tasker::Session->new($node, 'app');
my $end = $there->query('SELECT pg_current_wal_lsn()');
ok($back->poll("SELECT pg_last_wal_replay_lsn() >= '$end'"), 'the old primary catches up');
is($back->query('SELECT pg_is_in_recovery()'), 't', 'it is a standby now');
is($back->query("SELECT task_id FROM tasker.tasks WHERE task_id = $after"), $after, 'that follows');
is($back->query(q(SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'tasker%')), '0', 'and does nothing of its own');
$_->quit foreach $there, $back;
ends_well($standby, ['app'], qr/ walreceiver FATAL|changes nothing on a standby|during recovery|in a read-only transaction|is stale|does not exist|has ended|administrator command/);
done_testing();
