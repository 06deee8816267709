# Tasks that are started by events, with the background worker: soon, each once,
# also when the server is killed in between. The example of
# docs/events-that-start-tasks.md runs as it stands there.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Utils;
use Tasker;
use Test::More;
use Time::HiRes qw(time);

my $node = tasker_node('triggers', conf => "tasker.checkpoint_interval = 50ms\n");
my $session;

sub reconnect
{
	$session->quit if defined $session;
	$node->poll_query_until('app', q(SELECT status = 'running' FROM tasker.stat_orchestrator)) or die 'the server did not come back';
	$session = Tasker::Session->new($node, 'app');
}

# Kills everything at once, and starts the server again.
sub crash
{
	$node->stop('immediate');
	$node->start;
	reconnect();
}

sub started { return $session->query(qq(SELECT count(*) FROM tasker.tasks WHERE identity_key LIKE 'trigger:$_[0]:%')) }
sub published { return $session->query(q(SELECT count(*) FROM tasker.published_events)) }

$node->safe_psql('postgres', 'CREATE DATABASE app');
$node->safe_psql('app', 'CREATE EXTENSION tasker');
reconnect();
$session->query(Tasker::template_sql('d', 'a'));
$session->query(q(SELECT tasker.register_event('thing.happened')));
$session->query(q(SELECT tasker.start_task_on_event('one', 'thing.*', '{"name": "d", "namespace": "t"}')));

# --- soon -------------------------------------------------------------------------------

my @delays;
foreach my $i (1 .. 50)
{
	my $begun = time;
	my $event = $session->query(qq(SELECT tasker.publish_event('thing.happened', '{"n": $i}')));

	ok($session->poll(qq(SELECT count(*) = 1 FROM tasker.tasks WHERE identity_key = 'trigger:one:event:$event')), "event $i starts a task")
	  or last;
	push @delays, time - $begun;
}
@delays = sort { $a <=> $b } @delays;
diag(sprintf('from the call of publish_event until the task is seen: median %.1f ms, slowest of %d %.1f ms', 1000 * $delays[@delays / 2], scalar @delays, 1000 * $delays[-1]));

# --- killed -----------------------------------------------------------------------------

# Published, and the server is killed at once: before, while or after the task is started.
foreach my $round (1 .. 5)
{
	$session->query(q(SELECT tasker.publish_event('thing.happened', '{}') FROM generate_series(1, 40)));
	crash();
}
ok($session->poll(q(SELECT (SELECT count(*) FROM tasker.tasks WHERE identity_key LIKE 'trigger:one:%') = (SELECT count(*) FROM tasker.published_events))),
	'no event is lost to a killed server');
is(published(), '250', 'all were published');
is($session->query(q(SELECT tasks_started, errors FROM tasker.task_triggers)), '250|0', 'and none is counted twice');

# --- many -------------------------------------------------------------------------------

my $n = 1000;
$session->query(q(SELECT tasker.start_task_on_event('two', 'thing.happened', '{"name": "d", "namespace": "t"}', '{"lot": true}', '{"n": "n"}')));
my $begun = time;
$session->query(qq(SELECT count(tasker.publish_event('thing.happened', jsonb_build_object('lot', true, 'n', i))) FROM generate_series(1, $n) i));
ok($session->poll(qq(SELECT tasks_started = $n FROM tasker.task_triggers WHERE name = 'two')), "$n events start $n tasks");
diag(sprintf('%d events have started %d tasks, by two triggers, in %.2f s', $n, 2 * $n, time - $begun));
is($session->query(q(SELECT count(*), count(DISTINCT context -> 'n') FROM tasker.tasks WHERE identity_key LIKE 'trigger:two:%')), "$n|$n", 'each its own');
is(started('one'), published(), 'beside the other trigger');

# --- side by side -----------------------------------------------------------------------

# A definition that is not committed yet holds up reactions; then it misses nothing.
my $slow = Tasker::Session->new($node, 'app');
$slow->query(q(BEGIN; SELECT tasker.start_task_on_event('three', 'thing.*', '{"name": "d", "namespace": "t"}')));
$session->query(q(SELECT tasker.publish_event('thing.happened', '{}')));
$slow->query('COMMIT');
$slow->quit;
ok($session->poll(q(SELECT tasks_started = 1 FROM tasker.task_triggers WHERE name = 'three')), 'what is published while a trigger is made starts its task');
ok($session->poll(q(SELECT count(*) = 0 FROM tasker.stat_event_consumers WHERE name = 'tasker.reactor' AND patterns <> '{thing.*,thing.happened}')), 'the reactor shows what it reads');
$session->query(q(SELECT tasker.drop_task_trigger(name) FROM tasker.task_triggers));
ok($session->poll(q(SELECT count(*) = 0 FROM tasker.event_consumers)), 'without triggers nobody reads, and nothing holds the history');

# --- the document -----------------------------------------------------------------------

my ($example) = slurp_file('docs/events-that-start-tasks.md') =~ /^```sql\n(.*?)^```/ms or die 'docs/events-that-start-tasks.md has no example';
$session->query($example);
ok($session->poll(q(SELECT tasks_started = 1 FROM tasker.task_triggers)), 'the example starts a task');
is($session->query(q(SELECT t.context = '{"urgent": true, "parcel_id": 4711}' FROM tasker.tasks t JOIN tasker.task_triggers g ON g.last_task_id = t.task_id)), 't', 'with the context that it says');

# --- a page -----------------------------------------------------------------------------

# Ten triggers and ten thousand events in one transaction by hand: what one page of them costs.
$session->query(q(SELECT tasker.drop_task_trigger(name) FROM tasker.task_triggers));
$session->query(q(ALTER DATABASE app SET tasker.orchestrator = off));
ok($session->poll(q(SELECT status = 'off' FROM tasker.stat_orchestrator)), 'the worker is gone');
$session->query(q(SELECT tasker.start_task_on_event('t' || i, 'thing.*', '{"name": "d", "namespace": "t"}', jsonb_build_object('for', i)) FROM generate_series(1, 10) i));
$session->query(q(SELECT count(tasker.publish_event('thing.happened', jsonb_build_object('for', i % 20 + 1))) FROM generate_series(1, 10000) i));
$begun = time;
is($session->query('SELECT tasker.react_to_events(10000)'), '10000', 'ten thousand events are read');
diag(sprintf('10000 events and 10 triggers: %.2f s, 5000 tasks started', time - $begun));
is($session->query(q(SELECT sum(tasks_started), sum(errors) FROM tasker.task_triggers)), '5000|0', 'and half of them start a task');

is($session->query('SELECT * FROM tasker.check()'), '', 'every invariant holds');
$session->quit;
$node->stop;
done_testing();
