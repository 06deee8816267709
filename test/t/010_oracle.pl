# Random DAGs and random schedules, lived through by the extension and by a
# model in plain SQL that shares no code with it (test/oracle). They must agree
# after every event on states, attempts, readiness, claims, viable steps and
# outcomes, and check() must find nothing. No background worker acts here.
#
# A mismatch prints its seed, the DAG, and the schedule cut down to the events
# that cause it. TASKER_ORACLE_SEED=N runs that seed alone, TASKER_ORACLE_SEED=clock
# a new one; TASKER_ORACLE_DAGS=N sets the number of DAGs of each seed. The seeds
# of a plain run are fixed: it fails when something changed, not by luck.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use File::Basename;
use IPC::Run;

my $dags = $ENV{TASKER_ORACLE_DAGS} || 35;
my $oracle = File::Spec->rel2abs(dirname(__FILE__) . '/../oracle');

my $node = PostgreSQL::Test::Cluster->new('oracle');
$node->init;
$node->append_conf('postgresql.conf', <<'CONF');
fsync = off
jit = off
autovacuum_naptime = 1s
max_worker_processes = 16
tasker.orchestrator = off
tasker.backoff_jitter = 0
CONF
$node->start;

# A database of its own for each seed, so that none is slowed by the others'
# history.
sub begin_seed
{
	my ($seed, $events) = @_;
	my ($out, $err) = ('', '');
	$node->safe_psql('postgres', "CREATE DATABASE seed_$seed");
	$node->safe_psql("seed_$seed", 'SET client_min_messages = warning; CREATE EXTENSION tasker');
	$node->command_ok(
		[ 'psql', '-XqAt', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr("seed_$seed"),
			'-f', "$oracle/model.sql", '-f', "$oracle/driver.sql" ],
		"seed $seed: the model is in place");
	my $run = { seed => $seed, out => \$out, err => \$err, timer => IPC::Run::timeout(240) };
	$run->{harness} = IPC::Run::start(
		[ 'psql', '-XqAt', '-v', 'ON_ERROR_STOP=1', '-v', 'VERBOSITY=terse', '-d', $node->connstr("seed_$seed"),
			'-c', 'SET client_min_messages = warning',
			'-c', "CALL oracle.run($seed, $dags, $events)" ],
		'<', \undef, '>', \$out, '2>', \$err, $run->{timer});
	return $run;
}

sub end_seed
{
	my ($run) = @_;
	my $seed = $run->{seed};
	my $agreed = $run->{harness}->finish;
	ok($agreed, "seed $seed: the extension and the model agree on $dags DAGs");
	diag("TASKER_ORACLE_SEED=$seed TASKER_ORACLE_DAGS=$dags\n" . ${ $run->{err} }) if !$agreed;
	is($node->safe_psql("seed_$seed", 'SELECT * FROM tasker.check()'), '', "seed $seed: check() finds nothing");
	note("seed $seed: " . $node->safe_psql("seed_$seed",
		q{SELECT sum(n) || ' events (' || string_agg(kind || ' ' || n, ', ' ORDER BY n DESC) || ')' FROM oracle.tally}));
}

# Two seeds at a time. Another number of events gives another mix of early and
# late states.
sub live_through
{
	my @seeds = @_;
	my $events = 25;
	my @runs = map { begin_seed($_, $events += 10) } @seeds;
	end_seed($_) foreach @runs;
}

my $seed = $ENV{TASKER_ORACLE_SEED};
$seed = 1000 + time % 1000000 if $seed && $seed eq 'clock';

# Without preloading: no shared memory, heartbeats in rows.
live_through($seed ? $seed : (1, 3));

# Preloaded, and in batches so small that every boundary is met.
if (!$seed)
{
	$node->append_conf('postgresql.conf', "shared_preload_libraries = 'tasker'\ntasker.batch_size = 2\n");
	$node->restart;
	live_through(2, 4);
}

$node->stop;
done_testing();
