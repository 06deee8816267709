# The torture: actors that create, run, operate, keep house and stand in the
# way, each a client of its own that comes back whatever happens to it, while
# processes are killed. test/t/012_torture.pl runs it small or, as ./run torture
# asks, large; test/t/012_fault_points.pl strikes at named places of the code.
#
# The seed repeats the templates and the order of the strikes, not their moment.
package Torture;

use strict;
use warnings;
use Cwd qw(abs_path);
use File::Basename;
use IPC::Run;
use JSON::PP;
use Laws;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Tasker;
use Test::More;
use Time::HiRes qw(time usleep);

my $here = dirname(abs_path(__FILE__));

# How long something may take to go on after a strike.
my $patience = 60;

sub new
{
	my ($class, $name, %options) = @_;
	my $self = bless { seed => $options{seed}, kills => {}, troubles => {}, stuck => 0, clock => 0, retention => 0, actors => {} }, $class;

	srand($self->{seed});
	$self->{node} = tasker_node($name, path => $options{install_path} ? [ install_path => $options{install_path} ] : [], conf => <<'CONF' . ($options{conf} // ''));
autovacuum = on
autovacuum_naptime = 2s
track_commit_timestamp = on
log_min_error_statement = panic
wal_writer_delay = 10s
tasker.backoff_base = 20ms
tasker.backoff_cap = 200ms
tasker.backoff_jitter = 0.5
tasker.checkpoint_interval = 200ms
CONF
	$self->{dir} = PostgreSQL::Test::Utils::tempdir();
	append_to_file("$self->{dir}/journal.pl", q(use IO::Handle; open my $journal, '>>', $ARGV[0] or die; while (my $line = <STDIN>) { next unless $line =~ /^[ctop] \d/; print $journal $line; $journal->flush; $journal->sync; }));
	$self->{node}->safe_psql('postgres', 'CREATE DATABASE app');
	$self->{node}->safe_psql('app', 'CREATE EXTENSION tasker');
	$self->{node}->safe_psql('app', slurp_file("$here/workload.sql"));
	$self->register_shapes($options{shapes} // 24);
	return $self;
}

# --- templates ----------------------------------------------------------------------

sub dice { my ($n) = @_; return int(rand($n)); }

# The parents of a step, by their numbers: chains, fans, layers, forests, thickets.
sub random_parents
{
	my ($shape, $p, $size, $width) = @_;

	return () if $p == 0;
	return $p - 1 if $shape == 0;
	return $p == $size - 1 && $p > 1 ? (1 .. $p - 1) : 0 if $shape == 1;
	return grep { dice(3) } $width * (int($p / $width) - 1) < 0 ? () : ($width * (int($p / $width) - 1) .. $width * int($p / $width) - 1) if $shape == 2;
	return dice(5) ? dice($p) : () if $shape == 3;
	return grep { !dice(3) } (0 .. $p - 1);
}

# What a step of an executor, or of a synchronous task, has in its template.
sub random_work
{
	my ($synchronous, $limit) = @_;

	return (handler_class => $synchronous ? 'torture.handle' : ('A', 'B')[ dice(2) ], default_retry_limit => $limit, priority => dice(5) - 2,
		dice(6) ? () : (timeout_seconds => 1 + dice(3)), dice(10) ? () : (default_retryable => JSON::PP::false));
}

# A wait, for a time or for an event; one in four fails if none comes.
sub random_wait
{
	return (sleep => { for => 100 * (1 + dice(10)) . ' ms' }) if dice(3) == 0;
	return (await_event => { name => 'torture.ping', timeout_seconds => 1 + dice(3),
		dice(4) ? (default => { none => 'came' }) : (), dice(2) ? (match => { n => { value => dice(4) } }) : (), dice(3) ? () : (own_task => JSON::PP::true) });
}

sub register_shapes
{
	my ($self, $n) = @_;
	my $json = JSON::PP->new->canonical;
	my $sql = "SELECT tasker.register_event('torture.ping');\n";

	for my $i (1 .. $n)
	{
		my ($size, $shape, $width) = (1 + dice(dice(4) ? 8 : 25), dice(5), 1 + dice(4));
		my ($synchronous, $concurrent) = ($i % 6 == 0, $i % 5 != 0);
		my @steps;

		for my $p (0 .. $size - 1)
		{
			my @parents = map { "s$_" } random_parents($shape, $p, $size, $width);
			my $waits = !$synchronous && !dice(8);
			my $limit = dice(3) ? 2 + dice(4) : dice(2);
			my %step = (name => "s$p", skippable => dice(5) ? JSON::PP::false : JSON::PP::true, $waits ? random_wait() : random_work($synchronous, $limit));

			$step{depends_on_steps} = \@parents if @parents;
			push @steps, \%step;
			$sql .= sprintf("INSERT INTO torture.shape_step VALUES ('r%d', 's%d', %s, %d, %s);\n", $i, $p, $step{skippable} ? 'true' : 'false',
				$waits || exists $step{default_retryable} || $limit < 1 ? 1 : $limit, $waits ? 'true' : 'false');
			$sql .= "INSERT INTO torture.shape_edge VALUES ('r$i', '$_', 's$p');\n" foreach @parents;
		}
		my %template = (name => "r$i", namespace_name => 't', version => '1.0.0', step_templates => \@steps,
			concurrent => $concurrent ? JSON::PP::true : JSON::PP::false,
			coordinator_strategy => $synchronous ? 'synchronous' : 'orchestrator',
			reenqueuer_strategy => $i % 7 == 0 ? 'delayed' : 'event_driven');
		$sql .= sprintf("INSERT INTO torture.shape VALUES ('r%d', %s, %s);\nSELECT tasker.register_task_template(\$j\$%s\$j\$);\n",
			$i, $synchronous ? 'true' : 'false', $concurrent ? 'true' : 'false', $json->encode(\%template));
	}
	$self->{node}->safe_psql('app', $sql);
}

# --- actors ---------------------------------------------------------------------------

# A client in a process of its own, begun again whenever it or its server dies.
# What it says to be noted goes to its journal, which is on disk before it goes on to wait.
sub start_actor
{
	my ($self, $name, $begin, @turns) = @_;
	my $base = "$self->{dir}/$name";
	my $connection = $self->{node}->connstr('app') . " application_name=$name options='-c lock_timeout=2s -c jit=off'";

	append_to_file("$base.sql", "$begin;\n" . join('', map { "$_\n" } @turns) x 200);
	$self->{actors}{$name} = { name => $name, base => $base, harness => IPC::Run::start(
		[ 'sh', '-c', '(while [ ! -e "$1.stop" ]; do "$2" -XqAt -d "$3" -f "$1.sql" 2>>"$1.err" </dev/null & echo $! >"$1.pid"; wait $!; rm -f "$1.pid"; sleep 0.05; done) | perl "$4" "$1.journal"',
			'sh', $base, $self->{node}->installed_command('psql'), $connection, "$self->{dir}/journal.pl" ]) };
}

# The process of an actor's psql, if there is one now.
sub pid_of
{
	my ($actor) = @_;
	my $pid = eval { slurp_file("$actor->{base}.pid") } // '';

	return $pid =~ /^(\d+)$/ ? $1 : 0;
}

sub end_actors
{
	my ($self, @names) = @_;

	append_to_file("$self->{actors}{$_}{base}.stop", '') foreach @names;
	foreach my $actor (delete @{ $self->{actors} }{@names})
	{
		until_true(sub {
			my $pid = pid_of($actor);
			kill 'KILL', $pid if $pid;
			return !$actor->{harness}->pumpable;
		}) or diag("$actor->{name} does not end");
		$actor->{harness}->finish;
	}
}

my @executors = qw(pull push pull_leased push_leased await await_leased);

sub begin
{
	my ($self) = @_;
	my $settle = 'SELECT torture.settle(\'2 s\') \gexec';

	foreach my $kind (@executors)
	{
		my @take = $kind =~ /await/
		  ? ('SELECT torture.revive();', q(SELECT '[]' AS steps \gset), q(CALL tasker.await_steps(current_setting('torture.executor')::bigint, 8, '300 ms') \gset), q(SELECT torture.remember(:'steps');))
		  : ('SELECT torture.take();');
		$self->start_actor($kind, "SELECT torture.begin_executor('$kind')", @take, 'SELECT torture.report();');
	}
	$self->start_actor('coordinator', 'SELECT 1', 'SELECT torture.coordinate();');
	$self->start_actor('creator', 'SELECT 1', 'SELECT torture.create_some();');
	$self->start_actor('publisher', 'SELECT 1', 'SELECT torture.publish();');
	$self->start_actor('operator', 'SELECT torture.resume()', ('SELECT torture.operate();') x 5, 'SELECT torture.govern() \gexec', 'SELECT pg_sleep(0.05);', 'SELECT torture.resume();');
	$self->start_actor('preparer', "SELECT torture.begin_executor('prepared_leased')", $settle, 'SELECT torture.take();',
		q(SELECT 'p' || nextval('torture.gid') AS gid, torture.dice(3) = 0 AS creates, torture.dice(3) > 0 AS commits \gset), 'BEGIN;',
		q(INSERT INTO torture.prepared VALUES (:'gid');), '\o /dev/null', '\if :creates', 'SELECT torture.promise(1);', '\else', 'SELECT torture.report();', '\endif', '\o',
		q(PREPARE TRANSACTION :'gid';), 'SELECT pg_sleep(random());',
		'\if :commits', q(COMMIT PREPARED :'gid';), '\else', q(ROLLBACK PREPARED :'gid';), '\endif',
		# Only who sees its own row was told so.
		q(SELECT 'p ' || substr(gid, 2) FROM torture.prepared WHERE gid = :'gid';));
	$self->start_actor('housekeeper', 'SELECT 1', 'SELECT torture.chores() \gexec', 'SELECT pg_sleep(0.2);');
	$self->start_actor('holder', 'SELECT 1', 'BEGIN ISOLATION LEVEL REPEATABLE READ;', 'SELECT count(*) FROM torture.operated;', 'SELECT pg_sleep(3 * random());', 'COMMIT;',
		'SELECT torture.hold();');
	return until_true(sub { defined $self->mark && $self->has_progressed($self->mark) });
}

# --- questions --------------------------------------------------------------------------

# A question to the server, with no answer while it is not there.
sub ask
{
	my ($self, $sql) = @_;
	my ($rc, $out) = eval { $self->{node}->psql('app', $sql, timeout => 20) };

	return defined $rc && $rc == 0 ? $out : undef;
}

# A moment, and whether since then a step was completed.
sub mark
{
	my ($self) = @_;

	return $self->ask('SELECT pg_snapshot_xmax(pg_current_snapshot())');
}

sub has_progressed
{
	my ($self, $mark) = @_;

	return ($self->ask("SELECT EXISTS (SELECT FROM tasker.workflow_step_transition_log WHERE to_state = 'complete' AND xact_id >= '$mark')") // '') eq 't';
}

# --- strikes ------------------------------------------------------------------------------

# Sends signal 9; whether there was anybody.
sub strike_at
{
	my (@pids) = @_;

	return kill('KILL', grep { $_ } @pids) > 0;
}

sub any_actor
{
	my ($self) = @_;
	my @names = sort keys %{ $self->{actors} };

	return $self->{actors}{ $names[ dice(scalar @names) ] };
}

sub pids_where
{
	my ($self, $condition) = @_;

	return split /\n/, $self->ask("SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND $condition") // '';
}

# The processes that a postmaster has started; none where there is no /proc.
sub children_of
{
	my ($postmaster) = @_;
	my @children;

	foreach my $file (glob '/proc/[0-9]*/stat')
	{
		open(my $stat, '<', $file) or next;
		my ($pid, $parent) = (<$stat> // '') =~ /^(\d+) \(.*\) \S (\d+) /;
		push @children, $pid if defined $parent && $parent == $postmaster;
	}
	return @children;
}

# Kills the postmaster, and all others with it when the power fails, and starts the server as soon as they have left.
# One that was forgotten then, a worker of autovacuum that has just begun, might wait for a lock of a dead one for ever.
sub crash
{
	my ($self, %options) = @_;
	my $node = $self->{node};
	my ($postmaster) = slurp_file($node->data_dir . '/postmaster.pid') =~ /^(\d+)/;
	my @others = $self->pids_where('true');

	kill 'STOP', $postmaster;
	push @others, children_of($postmaster);
	$node->kill9;
	strike_at(@others) if $options{power_fails};
	until_true(sub { !kill(0, $postmaster, @others) }, $patience);
	# One that has begun meanwhile may still be on its way out.
	return until_true(sub { $node->start(fail_ok => 1) });
}

my %way = (
	client => sub { my ($self) = @_; return strike_at(pid_of($self->any_actor)); },
	backend => sub { my ($self) = @_; return strike_at($self->pids_where("application_name = '" . $self->any_actor->{name} . "' LIMIT 1")); },
	connections => sub { my ($self) = @_; return ($self->ask(q(SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND (datname = 'app' OR backend_type LIKE 'tasker%'))) // 0) > 0; },
	orchestrator => sub { my ($self) = @_; return strike_at($self->pids_where("backend_type = 'tasker orchestrator'")); },
	launcher => sub { my ($self) = @_; return strike_at($self->pids_where("backend_type = 'tasker launcher'")); },
	postmaster => sub { my ($self) = @_; return $self->crash; },
	'immediate stop' => sub { my ($self) = @_; $self->{node}->stop('immediate'); $self->{node}->start; return 1; },
	'power cut' => sub { my ($self) = @_; return $self->crash(power_fails => 1); });
my @ways = ((('client') x 20), (('backend') x 6), (('connections') x 6), (('orchestrator') x 6), (('launcher') x 2), (('immediate stop') x 2), 'postmaster', 'power cut');

# Waits until the work goes on, or notes that it does not.
sub expect_progress
{
	my ($self, $after) = @_;
	my $mark;

	return if until_true(sub { defined($mark //= $self->mark) && $self->has_progressed($mark) }, $patience);
	$self->{stuck}++;
	diag("nothing was completed within $patience s after $after: " . ($self->ask(q(SELECT format('%s; open tasks: %s; queued: %s; in progress: %s; executors: %s', o,
		(SELECT count(*) FROM tasker.tasks WHERE state IN ('pending', 'in_progress')), (SELECT count(*) FROM tasker.work_queue),
		(SELECT count(*) FROM tasker.workflow_steps WHERE state = 'in_progress'), (SELECT count(*) FROM tasker.executors WHERE ended_at IS NULL)) FROM tasker.stat_orchestrator o)) // 'no server'));
}

# One strike of a random kind, after which the work has to go on.
sub strike
{
	my ($self) = @_;
	my $way;

	usleep(rand($self->{pause} // 300_000));
	my $begin = time();
	do { $way = $ways[ dice(scalar @ways) ] } until $way{$way}->($self);
	my $done = time();
	$self->{kills}{$way}++;
	$self->expect_progress($way);
	note(sprintf '%s: done after %.2f s, and the work went on after %.2f s', $way, $done - $begin, time() - $done);
}

sub kills
{
	my ($self) = @_;
	my $n = 0;

	$n += $_ foreach values %{ $self->{kills} };
	return $n;
}

# --- other troubles --------------------------------------------------------------------------

# Changes a setting of the running server; whether that was possible.
sub set
{
	my ($self, $setting, $value) = @_;

	return ($self->ask("ALTER SYSTEM SET $setting = '$value';\nSELECT pg_reload_conf()") // '') eq 't';
}

# Moves the clock of tasker, forwards or a little backwards. It goes no farther than its setting can.
sub move_clock
{
	my ($self, $ms) = @_;

	return 0 if $self->{clock} + $ms > 2_000_000_000;
	$self->{clock} += $ms;
	return $self->set('tasker.clock_offset', $self->{clock});
}

my $day = 25 * 3_600_000;
my %trouble = (
	'clock moved' => sub { my ($self) = @_; return $self->move_clock(dice(4) ? dice(3000) : -dice(2000)); },
	'a day passed' => sub { my ($self) = @_; return $self->move_clock($day); },
	retention => sub { my ($self) = @_; return $self->set('tasker.retention', $self->{retention} = $self->{retention} ? 0 : '1h'); },
	burst => sub { my ($self) = @_; return defined $self->ask('SELECT count(*) FROM torture.burst(' . ($self->{burst} // 300) . ')'); },
	'statements cancelled' => sub { my ($self) = @_; return ($self->ask(q(SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = 'app')) // 0) > 0; });
my @troubles = ((('clock moved') x 6), (('statements cancelled') x 4), 'burst', 'retention', 'a day passed');

# A trouble of a random kind, or of the one named; nobody has to survive it.
sub trouble
{
	my ($self, $which) = @_;

	$which //= $troubles[ dice(scalar @troubles) ];
	$self->{troubles}{$which}++ if $trouble{$which}->($self);
}

# --- the end -------------------------------------------------------------------------------------

# Lets everything come to its end; whether it did.
sub drain
{
	my ($self) = @_;
	my $node = $self->{node};
	my $open = q(SELECT count(*) FROM tasker.tasks WHERE state IN ('pending', 'in_progress'));
	my ($left, $before) = (-1);

	$self->set('tasker.retention', 0);
	$self->end_actors(grep { exists $self->{actors}{$_} } qw(creator publisher operator preparer housekeeper holder));
	$node->safe_psql('app', $_) foreach split /\n/, $node->safe_psql('app', q(SELECT torture.settle('0')));
	$node->safe_psql('app', 'SELECT torture.resume()');
	# As long as some end, the rest is waited for.
	do
	{
		$before = $left;
		until_true(sub { $left = $self->ask($open) // $left; $left == 0 }, $patience);
	} until ($left == 0 || $left == $before);
	$self->{node}->poll_query_until('app', q(SELECT NOT EXISTS (SELECT FROM tasker.workflow_step_transition_log l, tasker.orchestrator_checkpoint c WHERE l.xact_id >= pg_snapshot_xmax(c.position))));
	$self->end_actors(keys %{ $self->{actors} });
	$node->poll_query_until('app', q(SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name <> '' AND backend_type = 'client backend' AND pid <> pg_backend_pid()));
	$self->load_journals;
	return $left == 0;
}

sub load_journals
{
	my ($self) = @_;
	my $file = "$self->{dir}/acknowledged";
	my $rows = '';

	foreach my $line (map { split /\n/, slurp_file($_) } glob("$self->{dir}/*.journal"))
	{
		# The last line of a client that was killed may be a part of one.
		$rows .= "c\t$1\t$2\n" if $line =~ /^c (\d+) (\d+)$/;
		$rows .= "$1\t$2\t\\N\n" if $line =~ /^([to]) (\d+)/;
		$rows .= "p\tp$1\t\\N\n" if $line =~ /^p (\d+)$/;
	}
	append_to_file($file, $rows);
	$self->{node}->safe_psql('app', "COPY torture.acknowledged FROM '$file'; ANALYZE");
}

# What it came to, in some lines.
sub summary
{
	my ($self) = @_;
	my $list = sub { my ($n) = @_; return join(', ', map { "$_ $n->{$_}" } sort { $n->{$b} <=> $n->{$a} || $a cmp $b } keys %$n); };

	return sprintf("seed %d\n%d kills: %s\ntroubles: %s\n%s", $self->{seed}, $self->kills, $list->($self->{kills}), $list->($self->{troubles}), $self->ask(q(
		SELECT format(E'%s tasks promised, %s steps completed, %s outcomes acknowledged and noted, %s prepared transactions committed\nwaits that ended: %s by an event, %s by time\nleft of them: %s\nfailures left in the log: %s',
			(SELECT count(*) FROM torture.promised), (SELECT count(*) FROM torture.business), (SELECT count(*) FROM torture.acknowledged), (SELECT count(*) FROM torture.prepared),
			(SELECT count(*) FROM tasker.workflow_steps WHERE state = 'complete' AND results ? 'event_key'),
			(SELECT count(*) FROM tasker.workflow_steps WHERE state = 'complete' AND results ?| ARRAY['slept_until', 'none']),
			(SELECT string_agg(format('%s %s %s', n, what, state), ', ' ORDER BY what DESC, n DESC) FROM (
				SELECT 'tasks' AS what, state, count(*) AS n FROM tasker.tasks GROUP BY 2 UNION ALL SELECT 'steps', state, count(*) FROM tasker.workflow_steps GROUP BY 2) c),
			(SELECT string_agg(n || ' ' || class, ', ' ORDER BY n DESC) FROM (SELECT coalesce(metadata->>'error_class', 'reported') AS class, count(*) AS n
				FROM tasker.workflow_step_transition_log WHERE to_state = 'error' GROUP BY 1) c))) ) // 'no server');
}

# Lets it end, and tests that nothing is wrong but, in the log of the server, what was provoked.
sub finish
{
	my ($self, $provoked) = @_;

	is($self->{stuck}, 0, 'after every strike the work went on by itself');
	ok($self->drain, 'every task reaches its end');
	diag($self->summary);
	is($_->[1], '', $_->[0]) foreach broken_laws($self->{node}, 'app');
	is($self->{node}->safe_psql('app', 'SELECT * FROM tasker.check()'), '', 'check() finds nothing either');
	my @harm = grep { !defined $provoked || !/$provoked/ } harm_in_log(slurp_file($self->{node}->logfile));
	splice @harm, 10 if @harm > 10;
	is(join("\n", @harm), '', 'the log of the server tells of no harm but ours');
}

1;
