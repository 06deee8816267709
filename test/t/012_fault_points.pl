# Death at named places of the code (src/pg/fault.h): between a row and its log,
# between the parts of a commit, before a claim is told, in the middle of a
# checkpoint. The names are taken from the sources, so that none is forgotten;
# the workload is that of the torture, and so are the laws that hold afterwards.
#
# The library that is tested otherwise has none of them. One that does is built
# here, beside it, from the same sources and objects.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin, "$FindBin::RealBin/../torture";
use Cwd;
use Laws;
use PostgreSQL::Test::Utils;
use Tasker;
use Test::More;
use Torture;

# --- the names, and the library without them ----------------------------------------

my @sources = glob('src/*.c src/*/*.c');
my %points;
foreach my $file (@sources)
{
	$points{$_} .= " $file" foreach slurp_file($file) =~ /\bFAULT_POINT\("([^"]+)"\)/g;
}
my @names = sort keys %points;
cmp_ok(scalar @names, '>', 30, scalar(@names) . ' points in the sources');
is(join(', ', map { "$_:$points{$_}" } grep { $points{$_} =~ / .* / } @names), '', 'each has a name of its own');

chomp(my $lib = `pg_config --pkglibdir`);
chomp(my $bin = `pg_config --bindir`);
my $released = slurp_file("$lib/tasker.so");
is(join(' ', grep { index($released, $_) >= 0 } 'tasker.fault', 'tasker_fault', 'FaultPoint', map { "tasker-$_" } @names), '', 'the library has nothing of them');

# --- the library with them ------------------------------------------------------------

my $place = PostgreSQL::Test::Utils::tempdir();
my $tree = "$place$bin";
my ($share) = map { chomp; $_ } `pg_config --sharedir`;
my $build = "$place/source";
my $log = "$place/build.log";
my $found_in = join ' ', grep { slurp_file($_) =~ /fault\.h"/ } @sources;

# The tree of programs and files as they lie to each other, with another tasker.so.
sub copy_tree
{
	my ($from) = @_;
	my $to = "$place/pg$from";

	return system('sh', '-c', 'mkdir -p "$(dirname "$2")" && cp -a "$1" "$2"', 'sh', $from, $to) == 0;
}
(my $home = $bin) =~ s{/bin$}{};
ok(copy_tree($home) && ($share =~ m{^\Q$home\E/} || copy_tree($share)) && ($lib =~ m{^\Q$home\E/} || copy_tree($lib)), 'a copy of the programs is made');
is(system('sh', '-c', 'mkdir "$1" && cp -a src Makefile *.control sql upgrade testing test "$1" && cp tasker--*.sql tasker_testing--*.sql "$1"; cd "$1" && touch $3 && make tasker.so FAULT_POINTS=1 >"$2" 2>&1 && cp tasker.so "$4"',
		'sh', $build, $log, $found_in, "$place/pg$lib/tasker.so"), 0, 'a library with fault points is built') or diag(slurp_file($log));
my $library = slurp_file("$place/pg$lib/tasker.so");
is(join(' ', grep { index($library, $_) < 0 } 'tasker.fault', @names), '', 'it has all of them');

# --- the strikes --------------------------------------------------------------------------

my $torture = Torture->new('faults', seed => 1, shapes => 12, install_path => "$place/pg$home");
my $node = $torture->{node};
is($node->psql('app', "SET tasker.fault = 'nowhere'"), 3, 'a setting that says nothing is refused');
ok($torture->begin, 'the work has begun');

# Steps that wait and tasks that events start have no executor, and no row of
# business: they have a database of their own, beside the laws.
$node->safe_psql('postgres', 'CREATE DATABASE orders');
$node->safe_psql('orders', <<'SQL');
CREATE EXTENSION tasker;
CREATE SEQUENCE public.numbers;
SELECT tasker.register_event('order.placed'), tasker.register_event('order.paid');
SELECT tasker.register_task_template('{"name": "order", "namespace_name": "orders", "version": "1.0.0", "step_templates": [
	{"name": "breathe", "sleep": {"for": "10 milliseconds"}},
	{"name": "payment", "await_event": {"name": "order.paid", "match": {"number": "number"}}, "depends_on_step": "breathe"}]}');
SELECT tasker.start_task_on_event('orders', 'order.placed', '{"name": "order", "namespace": "orders"}', context_from_payload => '{"number": "number"}');
SQL

sub ask_orders
{
	my ($sql) = @_;
	my ($rc, $out) = eval { $node->psql('orders', $sql, timeout => 20) };

	return defined $rc && $rc == 0 ? $out : undef;
}

sub place_order { return ask_orders(q(SELECT tasker.publish_event('order.placed', jsonb_build_object('number', nextval('public.numbers'))))); }

sub pay_orders { return ask_orders(q(SELECT count(tasker.publish_event('order.paid', t.context)) FROM tasker.tasks t WHERE t.state = 'in_progress')); }

# Where periods come and go; what is in them has to be removed first.
my $of_periods = qr/^(?:period|partition|log-pruned)/;

# What brings somebody by where the actors do so seldom, in the words of a query.
sub prod
{
	my ($name) = @_;

	if ($name =~ $of_periods)
	{
		$torture->ask('CALL torture.retire()') if $name =~ /^partition/;
		$torture->ask(q(SELECT tasker.upkeep('1 hour', 1000)));
	}
	elsif ($name =~ /^orchestrator/) { $torture->ask(q(SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'tasker orchestrator')); }
	# Where rows are always locked by somebody, the worker saves no checkpoint.
	elsif ($name =~ /^checkpoint/) { $torture->ask('SELECT tasker.orchestrate()'); }
	elsif ($name =~ /^accelerators/) { $torture->ask('SELECT tasker.rebuild_accelerators()'); }
	elsif ($name =~ /^attempt|^coordinated/) { $torture->ask('SELECT torture.coordinate_new()'); }
	elsif ($name =~ /^(?:wait|events|reactions)-/)
	{
		pay_orders();
		place_order();
	}
}

# Strikes at a point as soon as somebody comes by; whether somebody did.
sub strike_at_point
{
	my ($name, $action) = @_;
	my $file = $node->data_dir . "/tasker_fault.$name";
	my ($begin, $days) = (time(), 0);

	until_true(sub { $torture->set('tasker.fault', "$name:$action") }) or return 0;
	return 0 unless until_true(sub {
		return 1 if -e $file;
		# The clock of tasker can be moved by 24 days in all.
		$torture->trouble('a day passed') if $name =~ $of_periods && $days <= (time() - $begin) / 30 && ++$days;
		prod($name);
		return -e $file;
	}, $name =~ $of_periods ? 240 : undef);
	$torture->{kills}{"$action at a fault point"}++;
	$torture->expect_progress("$action at $name");
	return 1;
}

my @actions = exists $ENV{TASKER_TORTURE_SEED} || exists $ENV{TASKER_TORTURE_KILLS} || exists $ENV{TASKER_TORTURE_MINUTES} ? qw(error kill) : qw(kill);
until_true(sub { $torture->set('tasker.retention', '1h') });
foreach my $action (@actions)
{
	# After a commit, and outside of a transaction, no error can be raised.
	my @struck = grep { $action eq 'kill' || !/^(?:committed|woken|prepared|prepared-settled|orchestrator-.*|batch-committed|reactions-committed)$/ } @names;

	is(join(' ', grep { !strike_at_point($_, $action) } @struck), '', "$action at every point");
	until_true(sub { $torture->set('tasker.fault', '') });
	unlink glob($node->data_dir . '/tasker_fault.*');
}
# Days have passed, and what had ended then is gone; of what is there nothing may be stuck, or there twice.
until_true(sub { defined place_order() });
ok(until_true(sub { pay_orders(); return (ask_orders(q(SELECT count(*) FILTER (WHERE state = 'complete') > 0 AND bool_and(state = 'complete') FROM tasker.tasks)) // '') eq 't'; }),
	'every order that was placed is paid');
is(ask_orders(q(SELECT context FROM tasker.tasks GROUP BY 1 HAVING count(*) > 1)), '', 'none was started twice');
is(ask_orders('SELECT * FROM tasker.check()'), '', 'check() finds nothing in the orders');
$torture->finish($actions[0] eq 'error' ? qr/tasker\.fault strikes/ : undef);
$node->stop;
done_testing();
