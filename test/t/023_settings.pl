# Whatever an administrator sets for all of a server or a database: a diamond
# with a failure runs to its end, pushed by the worker and claimed by a session,
# and the state is right. The worker depends on none of these settings, and no
# function of tasker does.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Utils;
use Tasker;
use Test::More;

# What each line sets for the database; and then everything at once. Where a
# session could not do its own work (create a task in a read-only transaction),
# the session, but not the worker, takes it back.
my @settings = (
	[ 'statement_timeout = 1; lock_timeout = 1; idle_in_transaction_session_timeout = 1; idle_session_timeout = 1; transaction_timeout = 1',
		'statement_timeout idle_in_transaction_session_timeout idle_session_timeout transaction_timeout' ],
	[ 'default_transaction_read_only = on', 'default_transaction_read_only' ],
	[ 'default_transaction_isolation = serializable' ],
	[ q(default_transaction_isolation = 'repeatable read'; default_transaction_deferrable = on; synchronous_commit = off) ],
	[ 'session_replication_role = replica; row_security = off' ],
	[ 'search_path = strange, pg_temp' ],
	[ q(search_path = ''; default_tablespace = nowhere; check_function_bodies = off; client_encoding = LATIN1) ],
	[ q(DateStyle = 'SQL, DMY'; IntervalStyle = iso_8601; TimeZone = 'Asia/Kathmandu'; bytea_output = escape; standard_conforming_strings = off; )
		  . 'extra_float_digits = -15; quote_all_identifiers = on; transform_null_equals = on; array_nulls = off; xmloption = document' ],
	[ q(DateStyle = 'German'; IntervalStyle = sql_standard; lc_messages = 'C'; client_min_messages = error) ],
	[ 'jit = on; jit_above_cost = 0; jit_inline_above_cost = 0; jit_optimize_above_cost = 0' ],
	[ join '; ', map { "enable_$_ = off" } qw(seqscan indexscan indexonlyscan bitmapscan tidscan sort nestloop hashjoin mergejoin hashagg material memoize) ],
	[ 'work_mem = 64; temp_file_limit = 64; maintenance_work_mem = 1024; plan_cache_mode = force_custom_plan' ],
	[ 'join_collapse_limit = 8; from_collapse_limit = 1; geqo_threshold = 2; plan_cache_mode = force_generic_plan; constraint_exclusion = on; enable_partition_pruning = off; '
		  . 'max_parallel_workers_per_gather = 8; parallel_setup_cost = 0; parallel_tuple_cost = 0; min_parallel_table_scan_size = 0' ]);

my $node = tasker_node('settings', conf => "wal_level = minimal\nmax_wal_senders = 0\n");
$node->safe_psql('postgres', $_) foreach 'CREATE DATABASE app', 'CREATE EXTENSION tasker';
$node->safe_psql('app', <<'SQL');
CREATE EXTENSION tasker;
-- What a search_path could lead to.
CREATE SCHEMA strange;
CREATE FUNCTION strange.now() RETURNS timestamptz LANGUAGE sql AS 'SELECT NULL::timestamptz';
CREATE TABLE strange.tasks (task_id text);
CREATE TABLE strange.unnest (u text);
SQL

# Whether this version knows a setting.
sub is_known
{
	my ($setting) = @_;
	my ($name) = $setting =~ /^(\w+)/;

	return $node->safe_psql('postgres', "SELECT count(*) FROM pg_settings WHERE lower(name) = lower('$name')") eq '1';
}

# Sets for the database what a line says; the worker begins anew with it.
sub set_for_database
{
	my ($line) = @_;
	my $before = $node->safe_psql('postgres', q(SELECT coalesce(string_agg(pid::text, ','), '') FROM pg_stat_activity WHERE backend_type = 'tasker orchestrator' AND datname = 'app'));

	$node->safe_psql('postgres', join(';', 'ALTER DATABASE app RESET ALL',
		map { "ALTER DATABASE app SET $_" } grep { is_known($_) } split /; /, $line));
	return $node->poll_query_until('postgres', sprintf q(SELECT count(*) = 1 FROM pg_stat_activity
		WHERE backend_type = 'tasker orchestrator' AND datname = 'app' AND wait_event IN ('TaskerOrchestratorMain', 'Extension') AND NOT pid::text = ANY (string_to_array('%s', ','))), $before);
}

# Runs a diamond whose step b fails once, by push or by claims; how it ended.
sub run_diamond
{
	my ($capacity) = @_;
	my $executor = Tasker::Executor->new($node, 'app', capacity => $capacity, handlers => $capacity ? 'pushed' : 'claimed');
	my ($task) = diamonds($executor, 1, name => $capacity ? 'pushed' : 'claimed', context => q(jsonb_build_object('n', i, 'at', '2026-01-02')));
	my $work = sub {
		foreach my $step (@_)
		{
			if ($step->{step_name} eq 'b' && $step->{attempt} == 1)
			{
				$executor->query("SELECT tasker.fail_step($step->{workflow_step_id}, $step->{claim}, 'no', 'Error')");
			}
			else { $executor->complete($step); }
		}
	};
	my $ended = sub { $executor->query("SELECT tasker.task_state($task)") eq 'complete' };
	my $done = $capacity ? $executor->work_with($work, $ended, 20) : Tasker::until_true(sub {
			$executor->query("SELECT count(*) FROM tasker.claim_steps($executor->{id}, 10)");
			$work->($executor->my_steps);
			$ended->();
		}, 20);
	my $found = $executor->query(<<"SQL");
SELECT string_agg(n.name || ' ' || s.state || ' ' || s.attempts, ', ' ORDER BY n.name)
FROM tasker.workflow_steps s JOIN tasker.named_steps n USING (named_step_id) WHERE s.task_id = $task
SQL
	my $views = $executor->query("SELECT count(*) FROM tasker.task_timeline($task)") . ' ' . $executor->query("SELECT count(*) FROM tasker.step_readiness_status($task)");

	$executor->query("SELECT tasker.unregister_executor($executor->{id})");
	$executor->quit;
	return "$found; $views";
}

foreach my $handler (qw(pushed claimed))
{
	$node->safe_psql('app', Tasker::template_sql($handler, 'a; b<-a; c<-a; d<-b,c',
		{ handler_class => $handler, backoff_base_seconds => 0.05, backoff_jitter => 0, timeout_seconds => 60 }));
}
my $expected = run_diamond(10);
like($expected, qr/^a complete 1, b complete 2, c complete 1, d complete 1; /, 'a diamond with a failure');
# What a session takes back, as options.
sub own_settings
{
	return join ' ', map { "-c $_=" . ($_ eq 'default_transaction_read_only' ? 'off' : 0) } grep { is_known($_) } map { split / /, $_->[1] // '' } @_;
}

foreach my $setting (@settings)
{
	my ($line) = @$setting;

	set_for_database($line) or die "the worker did not come back with $line";
	local $ENV{PGOPTIONS} = own_settings($setting);
	is(run_diamond(10), $expected, "pushed, $line");
	is(run_diamond(0), $expected, "claimed, $line");
}

# The same for the whole server and all at once, the later of two values; without
# what only a database or a session can have, and what the test reads the log with.
# A transaction_timeout of 1 ms for all lets nobody connect, options or not.
my $own = own_settings(@settings);
my @lines = map { split /; / } map { $_->[0] } @settings;
$node->safe_psql('postgres', 'ALTER DATABASE app RESET ALL');
$node->append_conf('postgresql.conf', join '', map { my ($name, $value) = /^(\w+) = '?(.*?)'?$/; "$name = '$value'\n" }
	grep { is_known($_) && !/nowhere|client_|temp_file|quote_all|xmloption|^transaction_timeout/ } @lines);
$node->restart;
{
	local $ENV{PGOPTIONS} = $own;
	$node->poll_query_until('postgres', q(SELECT count(*) = 2 FROM pg_stat_activity WHERE backend_type = 'tasker orchestrator')) or die;
	is(run_diamond(10), $expected, 'pushed, all of it for the whole server');
	is(run_diamond(0), $expected, 'claimed, all of it for the whole server');
	# From the worker's point of view nothing has gone wrong all the time.
	is($node->safe_psql('app', 'SELECT errors FROM tasker.stat_orchestrator'), '0', 'and the worker has met no error');
	ends_well($node, ['app'], qr/due to administrator command/);
}
$node->stop;
done_testing();
