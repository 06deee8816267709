# Steps that wait, with the background worker: events before, during and after
# the wait, time limits, the server killed while they wait, and many at once.
# The example of docs/waiting.md runs as it stands there.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Utils;
use Tasker;
use Test::More;
use Time::HiRes qw(time);

my $node = tasker_node('waits', conf => "tasker.checkpoint_interval = 50ms\n");
my ($session, $executor);

sub reconnect
{
	$_->quit foreach grep { defined } ($session, $executor);
	$node->poll_query_until('app', q(SELECT status = 'running' FROM tasker.stat_orchestrator)) or die 'the server did not come back';
	$session = Tasker::Session->new($node, 'app');
	$executor = Tasker::Executor->new($node, 'app', capacity => 100);
}

# Kills everything at once; the server comes back by itself.
sub crash
{
	$node->stop('immediate');
	$node->start;
	reconnect();
}

sub waiting { return $session->query('SELECT count(*) FROM tasker.waiting_steps') }
sub state_of { return $session->query("SELECT tasker.task_state($_[0])") }

# Creates a task of a template that waits for an order, and publishes that it is paid.
sub order { return $session->query("SELECT tasker.create_task('$_[0]', '{\"order\": $_[1]}', 't')") }
sub pay { return $session->query("SELECT tasker.publish_event('order.paid', jsonb_build_object('order_id', $_[0]))") }

$node->safe_psql('postgres', 'CREATE DATABASE app');
$node->safe_psql('app', 'CREATE EXTENSION tasker');
reconnect();
$session->query(<<'SQL');
SELECT tasker.register_event('order.paid');
SELECT tasker.register_task_template(jsonb_build_object('name', t.name, 'namespace_name', 't', 'version', '1.0.0', 'step_templates', jsonb_build_array(
	'{"name": "a", "handler_class": "H"}'::jsonb, jsonb_build_object('name', 'wait', 'depends_on_step', 'a') || t.wait,
	'{"name": "b", "handler_class": "H", "depends_on_step": "wait"}'::jsonb)))
FROM (VALUES ('order', '{"await_event": {"name": "order.paid", "match": {"order_id": "order"}}}'::jsonb),
	('hasty', '{"await_event": {"name": "order.paid", "match": {"order_id": "order"}, "timeout_seconds": 1, "default": {"paid": false}}}'),
	('strict', '{"await_event": {"name": "order.paid", "match": {"order_id": "order"}, "timeout_seconds": 1}}'),
	('nap', '{"sleep": {"for": "1 second"}}'), ('rest', '{"sleep": {"for": "1 hour"}}')) t (name, wait);
SQL

# --- before, during, after --------------------------------------------------------------

my $early = order('order', 1);
pay(1);
ok($executor->drain, 'an event that came before the wait is found');
is(state_of($early), 'complete', 'and ends it');
my $late = order('order', 2);
ok($executor->work(sub { waiting() eq '1' }), 'a step waits');
pay(3);
pay(2);
ok($executor->drain, 'an event that comes while it waits ends it');
is($session->query("SELECT s.results -> 'payload' -> 'order_id' FROM tasker.workflow_steps s JOIN tasker.named_steps n USING (named_step_id) WHERE s.task_id = $late AND n.name = 'wait'"),
	'2', 'and is its result');
pay(2);
my $begun = time;
my ($hasty, $strict, $nap) = (order('hasty', 4), order('strict', 5), order('nap', 6));
ok($executor->drain, 'time limits and sleeps end by themselves');
cmp_ok(time - $begun, '>=', 1, 'not too early');
is(join(' ', map { state_of($_) } ($hasty, $strict, $nap)), 'complete error complete', 'as the templates say');

# --- killed -----------------------------------------------------------------------------

my ($one, $two, $rest) = (order('order', 10), order('order', 11), order('rest', 12));
ok($executor->work(sub { waiting() eq '3' }), 'steps wait');
crash();
is(waiting(), '3', 'they still do when the server was killed');
pay(10);
$node->stop('immediate');
$node->append_conf('postgresql.conf', "tasker.clock_offset = '61min'");
$node->start;
reconnect();
ok($executor->work(sub { state_of($one) eq 'complete' && state_of($rest) eq 'complete' }), 'what was published before it was killed again is delivered, and a sleep ends whose time came meanwhile');
is(state_of($two), 'in_progress', 'the other one waits on');
# A published event whose transaction was begun before the wait and commits in it.
my $slow = Tasker::Session->new($node, 'app');
$slow->query(q(BEGIN; SELECT tasker.publish_event('order.paid', '{"order_id": 11}')));
pay(9999);
$slow->query('COMMIT');
$slow->quit;
ok($executor->drain, 'an event that was committed late is delivered, too');
is(state_of($two), 'complete', 'to whom it belongs');

# --- many -------------------------------------------------------------------------------

my $n = 1000;
$session->query(qq(SELECT count(*) FROM tasker.create_tasks(ARRAY(SELECT jsonb_build_object('name', 'order', 'namespace', 't',
	'context', jsonb_build_object('order', 100000 + i)) FROM generate_series(1, $n) i))));
ok($executor->work(sub { waiting() eq $n }), "$n steps wait");
$begun = time;
$session->query(qq(SELECT count(tasker.publish_event('order.paid', jsonb_build_object('order_id', 100000 + i))) FROM generate_series(1, $n) i));
ok($session->poll('SELECT count(*) = 0 FROM tasker.waiting_steps'), 'each gets its event');
diag(sprintf('%d events were delivered to %d of %d waiting steps in %.2f s', $n, $n, $n, time - $begun));
crash();
ok($executor->drain, 'all go on');
is($session->query(q(SELECT count(*) FROM tasker.tasks t JOIN tasker.workflow_steps s USING (task_id)
	WHERE s.results ? 'payload' AND s.results -> 'payload' -> 'order_id' <> t.context -> 'order')), '0', 'each with its own');
is($session->query('SELECT count(*) FROM tasker.step_waits'), '0', 'nothing is left of them');

# --- the document -----------------------------------------------------------------------

my ($example) = slurp_file('docs/waiting.md') =~ /^```sql\n(.*?)^```/ms or die 'docs/waiting.md has no example';
my $writer = Tasker::Executor->new($node, 'app', name => 'shop', handlers => 'Invoice,Ship,Survey', capacity => 10);
my $task = ($session->query($example) =~ /^task (\d+)$/m)[0] // die 'the example creates no task';
ok($writer->work(sub { $session->query("SELECT count(*) FROM tasker.waiting_steps WHERE task_id = $task AND step_name = 'let them try'") eq '1' }), 'the example comes to its sleep');
is($session->query("SELECT count(*) FROM tasker.why($task) WHERE reason LIKE 'It sleeps since%'"), '1', 'and says so');

ok($session->all_is_read, 'all is read');
is($session->query('SELECT * FROM tasker.check()'), '', 'and every invariant holds');
$_->quit foreach ($session, $executor, $writer);
$node->stop;
done_testing();
