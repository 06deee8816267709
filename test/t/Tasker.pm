# What the TAP tests share: a server with tasker, sessions that stay open and
# hear notifications, executors that speak plain LISTEN plus SQL, and the
# questions that each test asks at its end.
#
# psql prints the notifications that arrived after each command, so a session
# that wants to hear something runs a harmless command now and then. Nothing
# here sleeps for luck: every wait asks for a condition and has a bound.
package Tasker;

use strict;
use warnings;
use Exporter 'import';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

our @EXPORT = qw(tasker_node diamonds until_true timed ends_well);

# How long a condition may take to become true: far more than it should.
our $patience = 60;

# What the server has acknowledged as complete, by server and database: keys
# are "step,claim".
our %ledger;

# A server with tasker preloaded that restarts after a crash, as any real one.
sub tasker_node
{
	my ($name, %options) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name, @{ $options{path} // [] });

	$node->init(allows_streaming => $options{streaming} ? 1 : 0, has_archiving => $options{archiving} ? 1 : 0, extra => [ '-E', 'UTF8', '--no-locale', @{ $options{initdb} // [] } ]);
	$node->append_conf('postgresql.conf', <<'CONF' . ($options{conf} // ''));
shared_preload_libraries = 'tasker'
max_worker_processes = 16
max_prepared_transactions = 10
max_connections = 40
shared_buffers = 16MB
restart_after_crash = on
autovacuum = off
log_statement = none
log_line_prefix = '%m [%p] %b '
tasker.backoff_jitter = 0
CONF
	$node->start if $options{start} // 1;
	return $node;
}

# A template in namespace t: "a; b<-a" with handler H, and options for each step.
sub template_sql
{
	my ($name, $steps, $options) = @_;
	my @steps;

	foreach my $step (split /\s*;\s*/, $steps)
	{
		my ($step_name, $parents) = split /\s*<-\s*/, $step;
		my %step = (name => $step_name, handler_class => 'H', %{ $options // {} });

		$step{depends_on_steps} = [ split /\s*,\s*/, $parents ] if defined $parents;
		push @steps, \%step;
	}
	my $template = Tasker::Session::json()
	  ->encode({ name => $name, namespace_name => 't', version => '1.0.0', step_templates => \@steps });
	return "SELECT tasker.register_task_template(\$json\$$template\$json\$)";
}

# Creates n tasks of a template at once; diamond where none is named. Returns their ids.
sub diamonds
{
	my ($session, $n, %options) = @_;
	my $name = $options{name} // 'diamond';
	my $context = $options{context} // q(jsonb_build_object('n', i));

	return split /\n/, $session->query(
		"SELECT tasker.create_tasks(array_agg(jsonb_build_object('name', '$name', 'namespace', 't', 'context', $context))) FROM generate_series(1, $n) i");
}

# Waits for a condition, given as a function, and says whether it came true.
sub until_true
{
	my ($condition, $bound) = @_;
	my $end = time() + ($bound // $patience);

	while (1)
	{
		return 1 if $condition->();
		return 0 if time() > $end;
		usleep(5_000);
	}
}

# Runs a function; returns how many seconds it took.
sub timed
{
	my ($function) = @_;
	my $begin = time();

	$function->();
	return time() - $begin;
}

# What holds after every test: no violated invariant, no step completed twice,
# nothing in the server's log but the errors that the test has provoked.
sub ends_well
{
	my ($node, $databases, $expected_errors) = @_;
	my $log = slurp_file($node->logfile);
	my @errors;

	foreach my $database (@$databases)
	{
		is($node->safe_psql($database, 'SELECT * FROM tasker.check()'), '', "check() finds nothing in $database");
		is($node->safe_psql($database, <<'SQL'), '0|0', "in $database no step was completed twice, or without a log");
SELECT count(*) FILTER (WHERE n > 1), count(*) FILTER (WHERE state = 'complete' AND n <> 1)
FROM (SELECT s.state, (SELECT count(*) FROM tasker.workflow_step_transition_log l
		WHERE l.workflow_step_id = s.workflow_step_id AND l.to_state = 'complete') AS n
	FROM tasker.workflow_steps s) counted
SQL
	}
	foreach my $database (@$databases)
	{
		my $claims = join(',', map { "($_)" } keys %{ $ledger{ $node->name }{$database} // {} });

		next if $claims eq '';
		is($node->safe_psql($database, <<"SQL"), '0', "in $database nothing that was acknowledged is lost");
SELECT count(*) FROM (VALUES $claims) ledger(step_id, claim)
WHERE NOT EXISTS (SELECT FROM tasker.workflow_step_transition_log l
	WHERE l.workflow_step_id = step_id AND l.sort_key = claim + 10 AND l.to_state = 'complete')
SQL
	}
	foreach my $line (split /\n/, $log)
	{
		next unless $line =~ /(?:PANIC|FATAL|ERROR):  |TRAP: |terminated by signal|stuck spinlock/;
		# A client of ours that has left before all was said.
		next if $line =~ /FATAL:  connection to client lost/;
		push @errors, $line unless defined $expected_errors && $line =~ $expected_errors;
	}
	is(join("\n", @errors), '', 'the log of server ' . $node->name . ' has only errors that were provoked');
}

# A psql that stays open.
package Tasker::Session;

use strict;
use warnings;
use IPC::Run;
use JSON::PP;
use Time::HiRes qw(time usleep);

sub json { return JSON::PP->new->utf8->canonical; }

sub new
{
	my ($class, $node, $database) = @_;
	my $self = bless { in => '', out => '', err => '', count => 0, notes => [] }, $class;

	$self->{psql} = IPC::Run::start(
		[ $node->installed_command('psql'), '-XAtq', '-d', $node->connstr($database) ],
		'<', \$self->{in}, '>', \$self->{out}, '2>', \$self->{err},
		$self->{timer} = IPC::Run::timeout($Tasker::patience));
	$self->{pid} = $self->query('SELECT pg_backend_pid()');
	return $self;
}

# Sends commands without waiting for their end; finish() does that.
sub send
{
	my ($self, $sql) = @_;

	$self->{count}++;
	$self->{in} .= "$sql\n;\n\\echo done $self->{count}\n\\warn done $self->{count}\n";
	$self->{psql}->pump_nb;
	return $self;
}

# Whether what was sent has ended.
sub finished
{
	my ($self) = @_;

	$self->{psql}->pump_nb if $self->{psql}->pumpable;
	return 1 unless $self->{psql}->pumpable;
	return $self->{out} =~ /^done $self->{count}\n/m && $self->{err} =~ /^done $self->{count}\n/m;
}

# Waits for the end of what was sent. Returns output and errors; none of
# either where psql has gone. Notifications are kept aside.
sub finish
{
	my ($self) = @_;
	my ($out, $err);

	$self->{timer}->start($Tasker::patience);
	until ($self->finished) { $self->{psql}->pump; }
	($out, $err) = ($self->{out}, $self->{err});
	$self->{out} = $self->{err} = '';
	$out =~ s/^done $self->{count}\n//m;
	$err =~ s/^done $self->{count}\n//m;
	push @{ $self->{notes} }, { channel => $1, payload => $2 }
	  while $out =~ s/^Asynchronous notification "([^"]*)"(?: with payload "(.*)")? received from server process with PID \d+\.\n//m;
	$out =~ s/\n\z//;
	return ($out, $err);
}

# Runs commands; returns output and errors.
sub try
{
	my ($self, $sql) = @_;

	return $self->send($sql)->finish;
}

# Runs commands that must succeed; returns their output.
sub query
{
	my ($self, $sql) = @_;
	my ($out, $err) = $self->try($sql);

	die "$sql\n$err" if $err =~ /^(?:psql:.*)?(?:ERROR|FATAL|PANIC):/m || !$self->{psql}->pumpable;
	return $out;
}

# Waits until a query gives a result, "t" where none is named; whether it did.
sub poll
{
	my ($self, $sql, $expected, $bound) = @_;
	my $out;

	$expected //= 't';
	return 1 if Tasker::until_true(sub { ($out) = $self->try($sql); $out eq $expected }, $bound);
	Test::More::diag("waited in vain for \"$expected\", got \"$out\": $sql");
	return 0;
}

# Waits until the orchestrator has read all that has happened, its own moves included, and saved that.
sub all_is_read
{
	my ($self) = @_;

	return $self->poll(q(SELECT NOT EXISTS (SELECT xact_id FROM tasker.task_transition_log WHERE xact_id >= pg_snapshot_xmax(position)
		UNION ALL SELECT xact_id FROM tasker.workflow_step_transition_log WHERE xact_id >= pg_snapshot_xmax(position)) FROM tasker.orchestrator_checkpoint));
}

# Kills psql with signal 9.
sub kill
{
	my ($self) = @_;

	$self->{psql}->signal('KILL');
	eval { $self->{psql}->finish };
}

sub quit
{
	my ($self) = @_;

	return unless $self->{psql};
	eval { $self->{in} .= "\\q\n"; $self->{timer}->start($Tasker::patience); $self->{psql}->finish };
	delete $self->{psql};
}

# A registered executor in a session of its own.
package Tasker::Executor;

use strict;
use warnings;
use Time::HiRes qw(time usleep);
our @ISA = ('Tasker::Session');

sub new
{
	my ($class, $node, $database, %options) = @_;
	my $self = Tasker::Session::new($class, $node, $database);
	my $lease = $options{lease} ? "'$options{lease}'" : 'NULL';

	$self->{seen} = {};
	$self->{ledger} = $Tasker::ledger{ $node->name }{$database} //= {};
	$self->{largest} = 0;
	($self->{id}, $self->{channel}) = split /\|/, $self->query(sprintf(
		q(SELECT * FROM tasker.register_executor('%s', '{%s}', %d, %s, %s)),
		$options{name} // 'e', $options{handlers} // 'H', $options{capacity} // 10,
		$options{detached} ? 'true' : 'false', $lease));
	# Steps that came before LISTEN did are found by my_steps().
	$self->query("LISTEN $self->{channel}");
	$self->{inbox} = [ $self->my_steps ];
	return $self;
}

# What it has according to the database, which is in the words of the notifications.
sub my_steps
{
	my ($self) = @_;

	return @{ Tasker::Session::json()->decode($self->query("SELECT coalesce(json_agg(s), '[]') FROM tasker.my_steps($self->{id}) s")) };
}

# Hears what has arrived: returns the steps that were not returned before.
sub hear
{
	my ($self) = @_;
	my @steps = splice @{ $self->{inbox} };

	$self->query('SELECT WHERE false');
	foreach my $note (splice @{ $self->{notes} })
	{
		next unless $note->{channel} eq $self->{channel};
		$self->{largest} = length $note->{payload} if length $note->{payload} > $self->{largest};
		push @steps, @{ Tasker::Session::json()->decode($note->{payload})->{steps} };
	}
	return grep { !$self->{seen}{"$_->{workflow_step_id} $_->{claim}"}++ } @steps;
}

# Hears at least n steps, or dies.
sub expect
{
	my ($self, $n) = @_;
	my @steps;

	Tasker::until_true(sub { push @steps, $self->hear; @steps >= $n })
	  or die "heard of " . @steps . " steps instead of $n";
	return @steps;
}

# Completes steps in one call; the ids of those that were refused.
sub complete
{
	my ($self, @steps) = @_;

	return unless @steps;
	my @refused = split /,/, $self->query(sprintf(
		q(SELECT array_to_string(tasker.complete_steps('{%s}', '{%s}', NULL, %d, true), ',')),
		join(',', map { $_->{workflow_step_id} } @steps), join(',', map { $_->{claim} } @steps), $self->{id}));
	my %refused = map { $_ => 1 } @refused;
	$self->{ledger}{"$_->{workflow_step_id},$_->{claim}"} = 1 foreach grep { !$refused{ $_->{workflow_step_id} } } @steps;
	return @refused;
}

# Does something with whatever it hears of until a condition holds; whether it came true.
sub work_with
{
	my ($self, $what, $condition, $bound) = @_;

	return Tasker::until_true(sub { my @steps = $self->hear; $what->(@steps) if @steps; $condition->() }, $bound) || $self->explain;
}

# Completes whatever it hears of until a condition holds; whether it came true.
sub work
{
	my ($self, $condition, $bound) = @_;

	return $self->work_with(sub { $self->complete(@_) }, $condition, $bound);
}

# What is there, for whoever has waited in vain.
sub explain
{
	my ($self) = @_;

	foreach my $sql ('SELECT * FROM tasker.stat_orchestrator', 'SELECT * FROM tasker.orchestrator_checkpoint',
		'SELECT state, count(*) FROM tasker.tasks GROUP BY 1', 'SELECT state, executor_id, count(*) FROM tasker.workflow_steps GROUP BY 1, 2',
		'SELECT * FROM tasker.stat_executors', 'SELECT count(*) FROM tasker.work_queue', 'SELECT * FROM tasker.check() LIMIT 20')
	{
		Test::More::diag("$sql:\n" . join('', $self->try($sql)));
	}
	return 0;
}

# As work, until no task is open.
sub drain
{
	my ($self, $bound) = @_;

	return $self->drain_but('', $bound);
}

# As work, until no task is open but those of one template.
sub drain_but
{
	my ($self, $name, $bound) = @_;

	return $self->work(sub {
			$self->query("SELECT count(*) FROM tasker.tasks JOIN tasker.named_tasks n USING (named_task_id) WHERE state IN ('pending', 'in_progress') AND n.name <> '$name'") eq '0';
		}, $bound);
}

1;
