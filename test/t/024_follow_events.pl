# The example program that follows events, begun with the commands of the
# README, killed and begun again: what it records with its reading it has once,
# what it prints at least once. The consumer, the channel and the view agree.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use IPC::Run;
use PostgreSQL::Test::Utils;
use Tasker;
use Test::More;
use Time::HiRes qw(usleep);

my $python = '/usr/bin/python3';
plan skip_all => 'needs python3 with psycopg' if system("$python -c 'import psycopg' 2>/dev/null") != 0;

my $kills = 20;
my $seed = $ENV{TASKER_EVENTS_SEED} || time % 1000000;
srand($seed);
diag("TASKER_EVENTS_SEED=$seed");

my $node = tasker_node('follow', conf => "tasker.checkpoint_interval = 50ms\n");
my $dir = PostgreSQL::Test::Utils::tempdir();
$ENV{PGHOST} = $node->host;
$ENV{PGPORT} = $node->port;
$ENV{PGDATABASE} = 'app';
local $ENV{PATH} = $node->config_data('--bindir') . ":$ENV{PATH}";

# ---------- from nothing to a stream ----------

my ($commands) = slurp_file('README.md') =~ /^## A live stream of events\n.*?^```sh\n(.*?)^```/ms or die 'README.md has no commands';
$commands =~ s/ &$/ >"$dir\/stream" 2>"$dir\/problems" & echo \$! >"$dir\/pid"/m or die 'nothing in the background';
is(system('bash', '-e', '-c', "exec >'$dir/commands' 2>&1; : >'$dir/stream'; $commands"), 0, 'the commands of the README run') or diag(slurp_file("$dir/commands"));
my $pid = slurp_file("$dir/pid") + 0;
my @expected = qw(task.initialize_requested task.start_requested step.execution_requested step.completed step.execution_requested step.completed task.completed);
ok(until_true(sub { slurp_file("$dir/stream") =~ /task\.completed/ }), 'events are streamed') or diag(slurp_file("$dir/problems"));
is(join(' ', slurp_file("$dir/stream") =~ /^\S+ (\S+) \S+ \{.*\}$/mg), "@expected", 'all of the task, in their order');

my $session = Tasker::Session->new($node, 'app');
kill 'TERM', $pid;
ok($session->poll(q(SELECT count(*) FROM pg_stat_activity WHERE application_name = 'audit'), '0'), 'told to stop, it stops');
my $task = $session->query(q(SELECT tasker.create_task('greeting')));
is($session->query("SELECT state FROM tasker.coordinate_task($task)"), 'complete', 'nobody follows meanwhile');
# What is looked into is there before who runs in the background opens it.
system('bash', '-c', ": >'$dir/stream2'; PGDATABASE=app examples/follow_events.py audit >'$dir/stream2' 2>'$dir/problems' & echo \$! >'$dir/pid'");
ok(until_true(sub { slurp_file("$dir/stream2") =~ /task\.completed/ }), 'begun again, it goes on') or diag(slurp_file("$dir/problems"));
is(join(' ', slurp_file("$dir/stream2") =~ /^\S+ (\S+) \S+ \{.*\}$/mg), "@expected", 'where it was');
kill 'TERM', slurp_file("$dir/pid") + 0;

# ---------- killed again and again ----------

$session->query('CREATE TABLE public.seen (event jsonb, n bigint GENERATED ALWAYS AS IDENTITY)');
$session->query(Tasker::template_sql('d', 'a; b<-a; c<-a; d<-b,c', { default_retry_limit => 1000 }));
$session->query(q(SELECT tasker.register_event('parcel.sent')));
my $executor = Tasker::Executor->new($node, 'app', capacity => 50);
my ($follower, $runs) = (undef, 0);
my %printed;

sub begin_following
{
	$runs++;
	$follower = IPC::Run::start([ $python, 'examples/follow_events.py', 'exact', '--into', 'public.seen' ], '>', "$dir/run.$runs", '2>', "$dir/run.$runs.err");
}

sub end_following
{
	my ($signal) = @_;
	$follower->signal($signal);
	eval { $follower->finish };
	# The last line may be half of one.
	$printed{$_}++ foreach slurp_file("$dir/run.$runs") =~ /^\S+ \S+ (\S+) \{.*\}$/mg;
}

# What a session hears that only listens.
$session->query(q(SELECT tasker.subscribe('{*}', 'heard'); LISTEN heard));
$session->query('CREATE TABLE public.earlier AS SELECT event_key FROM tasker.events');
my $since = $session->query(q(SELECT count(*) FROM public.earlier));
for my $n (1 .. $kills)
{
	begin_following();
	# Killed anywhere: before it listens, while it reads, while it waits.
	until_true(sub { slurp_file("$dir/run.$runs") ne '' }, 5) if $n % 2;
	diamonds($session, 2, name => 'd');
	$session->query(qq(SELECT tasker.publish_event('parcel.sent', '{"n": $n}')));
	$executor->complete($executor->hear);
	usleep(rand 50_000);
	if ($n % 7 == 0)
	{
		$session->query(q(SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'exact'));
	}
	end_following('KILL');
}
begin_following();
ok($executor->drain, 'all tasks come to their end');
ok($session->poll('SELECT count(*) = (SELECT count(*) FROM tasker.events) FROM public.seen'), 'the follower has caught up') or diag(slurp_file("$dir/run.$runs.err"));
end_following('TERM');
is($session->query(q(SELECT count(*) - count(DISTINCT event ->> 'event_key') FROM public.seen)), '0', 'what it records is there once');
is($session->query(q(SELECT count(*) FROM tasker.events e FULL JOIN public.seen s ON s.event ->> 'event_key' = e.event_key WHERE e.payload IS DISTINCT FROM s.event)), '0',
	'exactly the events of the view');
my $all = $session->query(q(SELECT string_agg(event_key, ',' ORDER BY event_key COLLATE "C") FROM tasker.events));
is(join(',', sort keys %printed), $all, 'what it prints is there at least once');
is($session->query(<<'SQL'), '0', 'in the order of each log');
SELECT count(*) FROM (SELECT s.n, lag(s.n) OVER (PARTITION BY e.category, e.owner_id ORDER BY e.sort_key) AS before
	FROM public.seen s JOIN tasker.events e ON e.event_key = s.event ->> 'event_key' WHERE e.category <> 'custom') o WHERE before > n
SQL

# ---------- the channel ----------

my %heard;
ok(until_true(sub {
	$session->query('SELECT WHERE false');
	foreach my $note (splice @{ $session->{notes} })
	{
		$heard{"$_->{event_key} $_->{name}"}++ foreach @{ Tasker::Session::json()->decode($note->{payload})->{events} };
	}
	return keys %heard == $session->query('SELECT count(*) FROM tasker.events') - $since;
}), 'as many are announced as have happened since');
is(join(',', grep { $heard{$_} != 1 } sort keys %heard), '', 'each once');
is(join("\n", sort keys %heard), $session->query(<<'SQL'), 'the same that were read, by key and name');
SELECT string_agg(k, E'\n' ORDER BY k COLLATE "C")
FROM (SELECT concat_ws(' ', event ->> 'event_key', event ->> 'event_type') AS k FROM public.seen
	WHERE event ->> 'event_key' NOT IN (SELECT event_key FROM public.earlier)) s
SQL

$_->quit foreach $executor, $session;
ends_well($node, ['app'], qr/terminating connection|connection to client lost|could not (?:send|receive) data/);
$node->stop;
done_testing();
