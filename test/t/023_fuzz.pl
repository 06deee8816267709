# Every function and procedure with hostile values of every type, in all
# circumstances: test/fuzz/calls.sql makes the statements, sessions side by side
# run them. Whatever they raise must be meant for users; the server stays up,
# forgets nothing and holds nothing.
#
# In ./run test this is a short run from a fixed seed; ./run fuzz sets how long
# (TASKER_FUZZ_MINUTES) and from where (TASKER_FUZZ_SEED), and then gives half
# of the time to sqlsmith, which asks the views whatever SQL can ask.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Utils;
use Tasker;
use Test::More;
use Time::HiRes qw(time);

my $minutes = $ENV{TASKER_FUZZ_MINUTES};
my $seed = $ENV{TASKER_FUZZ_SEED} // 1;
my $sessions = 3;

# A session may wait for another, but not for long, and not for ever for itself.
my $bounds = '-c statement_timeout=2s -c lock_timeout=1s';
my $node = tasker_node('fuzz', conf => <<'CONF');
log_min_messages = warning
log_line_prefix = '%m [%p] %b %e '
temp_file_limit = 1GB
CONF
my $log_read = 0;
my %codes;
my $errors = 0;

# A database of its own for each round, so that a round can be repeated.
sub make_database
{
	my ($name) = @_;

	$node->safe_psql('postgres', "CREATE DATABASE $name");
	$node->safe_psql($name, 'CREATE EXTENSION tasker; CREATE EXTENSION tasker_testing');
	$node->safe_psql($name, q(DO $$ BEGIN CREATE ROLE fuzz_caller; EXCEPTION WHEN duplicate_object THEN NULL; END $$));
	$node->safe_psql($name, slurp_file("$FindBin::RealBin/../fuzz/calls.sql"));
}

# Lines of the log since last time that no input may cause: internal errors,
# corruption, crashes, and what the server says of leaks; but for what is known.
sub findings
{
	my ($known) = @_;
	my $log = slurp_file($node->logfile, $log_read);
	my @findings;
	my $bad = '';

	$log_read += length $log;
	foreach (split /\n/, $log)
	{
		if (/^\d{4}-\d\d-\d\d \S+ \S+ \[\d+\] .*? ([0-9A-Z]{5}) (ERROR|WARNING|FATAL|PANIC|LOG):  (.*)/)
		{
			$codes{$1}++, $errors++ if $2 eq 'ERROR';
			$bad = $2 eq 'PANIC' || $1 =~ /^XX/ || /terminated by signal|leak|still referenced|not owned|don't own|snapshot.*(?:active|pushed)|not closed/i;
			$bad = '' if $bad && $known && /$known/;
			push @findings, $_ if $bad;
		}
		elsif (/TRAP:|runtime error:|AddressSanitizer|stuck spinlock/) { push @findings, $_; }
		elsif ($bad && /STATEMENT:  /) { push @findings, substr($_, 0, 1000); $bad = ''; }
	}
	return join("\n", @findings);
}

# What has to be true of a database that is at rest.
sub at_rest
{
	my ($database, $what) = @_;

	is($node->safe_psql($database, 'SELECT * FROM tasker.check()'), '', "$what: check() finds nothing");
	is($node->safe_psql($database, <<'SQL'), '0', "$what: no session holds a lock or a prepared transaction");
SELECT (SELECT count(*) FROM pg_prepared_xacts) + (SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid)
	WHERE a.backend_type = 'client backend' AND a.pid <> pg_backend_pid())
SQL
}

# One round: scripts of n statements for all sessions, which run side by side.
sub burst
{
	my ($database, $round_seed, $n) = @_;
	my $folder = PostgreSQL::Test::Utils::tempdir();
	my @running;

	foreach my $i (1 .. $sessions)
	{
		my $script = "$folder/$i.sql";
		my $text = $node->safe_psql($database, sprintf("SELECT setseed(%.9f); SELECT fuzz.script($n)", (($round_seed * $sessions + $i) % 1000003) / 1000003));

		open my $out, '>:raw', $script or die "cannot write $script: $!";
		# Prepared transactions have names of their own.
		print $out $text =~ s/'fuzz (\d+)'/'fuzz $i $1'/gr, "\nROLLBACK;\n";
		close $out;
		local $ENV{PGOPTIONS} = $bounds;
		push @running, IPC::Run::start([ $node->installed_command('psql'), '-Xq', '-d', $node->connstr($database), '-f', $script ],
			'>', File::Spec->devnull, '2>', File::Spec->devnull, IPC::Run::timeout(600));
	}
	# psql complains of errors, not of an end that came too early: the server's log does.
	$_->finish foreach @running;
	# A statement that failed may have left its prepared transaction behind.
	$node->psql($database, "SELECT format('ROLLBACK PREPARED %L', gid) FROM pg_prepared_xacts WHERE database = current_database() \\gexec");
	my $found = findings();
	is($found, '', "seed $round_seed: nothing but refusals");
	diag("to run it again: ./run fuzz --seed $round_seed") if $found ne '';
}

my $begin = time();
my $postmaster = slurp_file($node->data_dir . '/postmaster.pid') =~ s/\n.*//sr;
if (!$minutes)
{
	make_database('app');
	burst('app', $seed, 150);
	at_rest('app', 'after the burst');
}
else
{
	my $end = $begin + 30 * $minutes;

	for (my $round = 0; time() < $end; $round++)
	{
		make_database("round_$round");
		burst("round_$round", $seed + $round, 400);
		at_rest("round_$round", "after seed " . ($seed + $round));
		$node->safe_psql('postgres', "DROP DATABASE round_$round WITH (FORCE)");
	}
}
cmp_ok($errors, '>', 100, "$errors statements were refused");
note(join(', ', map { "$_ $codes{$_}" } sort { $codes{$b} <=> $codes{$a} || $a cmp $b } keys %codes));
cmp_ok(scalar keys %codes, '>', 10, 'for many reasons');

SKIP:
{
	skip 'sqlsmith runs in ./run fuzz', 1 unless $minutes;
	my $sqlsmith = (grep { -x } '/usr/bin/sqlsmith', '/usr/games/sqlsmith')[0] // skip 'SQLSMITH IS NOT INSTALLED', 1;
	my ($seconds, $err) = (30 * $minutes, '');

	make_database('smith');
	$node->safe_psql('smith', 'SELECT tasker_testing.create_state_mix(200)');
	my $smith = IPC::Run::start([ $sqlsmith, '--target=' . $node->connstr('smith') . " options='$bounds'", "--seed=$seed", '--verbose' ],
		'>', File::Spec->devnull, '2>', \$err, IPC::Run::timeout($seconds + 60));
	my $stop = time() + $seconds;
	Tasker::until_true(sub { $smith->pump_nb; time() > $stop || !$smith->pumpable }, $seconds + 30);
	$smith->kill_kill;
	my ($queries) = reverse $err =~ /queries: (\d+)/g;
	note('sqlsmith ran ' . ($queries // 'an unknown number of') . ' queries');
	# What functions of PostgreSQL itself say to arguments that nobody gives them.
	is(findings(qr/XX000 ERROR:  (?:invalid INTERVAL typmod|cannot advance OID counter anymore)/), '', 'sqlsmith finds nothing');
	at_rest('smith', 'after sqlsmith');
}
is(slurp_file($node->data_dir . '/postmaster.pid') =~ s/\n.*//sr, $postmaster, 'the server is the one that was started');
note(sprintf('took %.0f s', time() - $begin));
$node->stop;
done_testing();
