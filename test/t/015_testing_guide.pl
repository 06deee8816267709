# docs/testing-workflows.md: every block of SQL runs, in order, and prints what
# the page says that it prints; whoever was granted what the page says can do it;
# and nothing is left when the tests have rolled back.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Utils;
use Tasker;
use Test::More;

my $node = tasker_node('guide', conf => "tasker.orchestrator = off\n");

$node->safe_psql('postgres', 'CREATE DATABASE app');

# The page: SQL, and the text that follows it where something does.
my @blocks;
my $page = slurp_file('docs/testing-workflows.md');
push @blocks, { sql => $1, text => $2 } while $page =~ /^```sql\n(.*?)^```\n(?:```text\n(.*?)^```$)?/msg;
cmp_ok(scalar @blocks, '>=', 9, 'the page has its blocks');

# What psql prints of a block, and whether it ended well.
sub run_block
{
	my ($sql, @options) = @_;
	my ($out, $err) = ('', '');
	my @psql = ($node->installed_command('psql'), '-Xq', @options, '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('app'));

	local $ENV{PGOPTIONS} = '-c client_min_messages=warning';
	IPC::Run::run(\@psql, '<', \$sql, '>', \$out, '2>', \$err);
	return ($out, $err);
}

# All that a test could leave: rows of tasker and of the kit.
sub rows
{
	return $node->safe_psql('app', <<'SQL');
SELECT c.oid::regclass, (xpath('//n/text()', query_to_xml(format('SELECT count(*) AS n FROM %s', c.oid::regclass), true, true, '')))[1]
FROM pg_class c WHERE c.relnamespace IN ('tasker'::regnamespace, 'tasker_testing'::regnamespace) AND c.relkind IN ('r', 'p') ORDER BY 1
SQL
}

my ($pgtap) = $node->safe_psql('app', q(SELECT 1 FROM pg_available_extensions WHERE name = 'pgtap'));
my $before;
foreach my $i (0 .. $#blocks)
{
	my ($sql, $text) = @{ $blocks[$i] }{qw(sql text)};
	my ($title) = $sql =~ /^(?!BEGIN|SET)(.*)$/m;
	my $is_tap = $sql =~ /use_pgtap/;

	SKIP:
	{
		skip 'pgtap is not installed', 2 if $is_tap && !$pgtap;
		my ($out, $err) = run_block($sql, $is_tap ? '-At' : ());

		is($err, '', "block $i runs: $title");
		is($out, $text // '', "and prints what the page says");
	}
	# After the blocks that set up, and after all others.
	$before = rows() if $i == 2;
	is(rows(), $before, 'and leaves no row') if $i > 2;
}

# ---------- pgTAP: what fails is a failed test with a diagnosis, not the end ----------

SKIP:
{
	skip 'pgtap is not installed', 2 unless $pgtap;
	my ($out, $err) = run_block(<<'SQL', '-At');
BEGIN;
CREATE SCHEMA tap;
CREATE EXTENSION pgtap SCHEMA tap;
SET LOCAL search_path = tap, public;
SELECT plan(3);
SELECT tasker_testing.use_pgtap();
SELECT tasker_testing.configure_failure('charge', 9, 'no');
SELECT tasker.create_task('fulfil_order', '{}', 'shop') AS task \gset
SELECT pass(state::text) FROM tasker_testing.run_task(:task);
SELECT regexp_replace(tasker_testing.assert_task_state(:task, 'complete', 'all is well'), 'task \d+', 'task N', 'g');
SELECT tasker_testing.assert_never_ran(:task, 'ship');
SELECT * FROM finish();
ROLLBACK;
SQL
	is($err, '', 'an assertion that fails does not end the session');
	is($out, <<'TAP', 'it is a failed test of the plan');
1..3


ok 1 - error
not ok 2 - all is well
# Failed test 2: "all is well"
# task N is error; charge is error: no, ship is pending
ok 3 - step ship never runs
# Looks like you failed 1 test of 3
TAP
	is(rows(), $before, 'nothing is left of it');
}

# ---------- a role with what the page grants ----------

my ($out, $err) = run_block(<<'SQL', '-At');
BEGIN;
SET ROLE workflow_developer;
SELECT tasker_testing.configure_failure('process_data', 2);
SELECT * FROM tasker_testing.run_task(tasker_testing.create_workflow('linear'));
SELECT count(*) FROM tasker_testing.check_idempotency((SELECT max(task_id) FROM tasker.tasks), 1);
SELECT tasker_testing.assert_consistent();
RESET ROLE;
REVOKE SET ON PARAMETER tasker.clock_offset FROM workflow_developer;
SET ROLE workflow_developer;
SELECT tasker_testing.advance_clock('1 second');
SQL
is($out, "\ncomplete|3|8|2|00:00:06|ended\n0\nok\n", 'a role with these privileges tests');
like($err, qr/permission denied to set parameter "tasker.clock_offset"/, 'without them it cannot move the clock');

# ---------- five thousand tasks ----------

# In one transaction that is rolled back like any test; asserted are sums, no times.
($out, $err) = run_block(<<'SQL', '-At');
BEGIN;
CREATE TEMPORARY TABLE mix ON COMMIT DROP AS SELECT * FROM tasker_testing.create_state_mix(5000);
ANALYZE mix, tasker.tasks, tasker.workflow_steps;
SELECT state, count(*) FROM mix GROUP BY state ORDER BY state;
SELECT count(*), count(*) FILTER (WHERE c.total_steps = c.pending_steps + c.in_progress_steps + c.completed_steps + c.failed_steps + c.cancelled_steps
		AND abs(c.completion_percentage - 100.0 * c.completed_steps / c.total_steps) <= 0.1
		AND c.execution_status = CASE mix.state WHEN 'complete' THEN 'all_complete' WHEN 'error' THEN 'blocked_by_failures' ELSE 'has_ready_steps' END),
	sum(c.total_steps) = (SELECT count(*) FROM tasker.workflow_steps),
	sum(c.failed_steps), sum(c.ready_steps)
FROM mix CROSS JOIN LATERAL tasker.task_execution_context(mix.task_id) c;
SELECT count(*) FILTER (WHERE r.ready_for_execution), count(*) FILTER (WHERE r.ready_for_execution AND r.total_parents > 0)
FROM mix CROSS JOIN LATERAL tasker.step_readiness_status(mix.task_id) r;
SELECT count(*) FROM tasker.check();
ROLLBACK;
SQL
is($err, '', 'five thousand tasks');
# Pending are 900 linear tasks with one root, 750 diamonds with one, 600 parallel merges with four, 450 trees with one, 300 mixed with two.
is($out, <<'OUT', 'add up in the views');
pending|3000
complete|1500
error|500
5000|5000|t|1500|5100
5100|0
0
OUT
is(rows(), $before, 'and are gone');
is($node->safe_psql('app', 'SHOW tasker.clock_offset'), '0', 'the clock is where it was');

# ---------- beside a worker ----------

# The run keeps the worker of the database waiting, and what is rolled back is
# nothing to it: it goes on with what has come meanwhile.
$node->safe_psql('postgres', 'CREATE DATABASE live');
$node->safe_psql('postgres', 'ALTER DATABASE live SET tasker.orchestrator = on');
$node->safe_psql('live', 'CREATE EXTENSION tasker_testing CASCADE');
$node->safe_psql('live', Tasker::template_sql('single', 'a'));
my $executor = Tasker::Executor->new($node, 'live');
my $tester = Tasker::Session->new($node, 'live');
ok($tester->poll("SELECT status = 'running' FROM tasker.stat_orchestrator"), 'a worker runs');
$tester->query('BEGIN');
is($tester->query("SELECT state, step_runs FROM tasker_testing.run_task(tasker_testing.create_workflow('linear'))"), 'complete|7', 'a task is run beside it');
my ($task) = diamonds($executor, 1, name => 'single');
is($executor->query("SELECT tasker.task_state($task)"), 'pending', 'what others do waits');
$tester->query('ROLLBACK');
ok($executor->drain, 'until the test is rolled back');
is($executor->query("SELECT tasker.task_state($task), count(*) FROM tasker.tasks"), 'complete|1', 'and then goes on');
$_->quit foreach $executor, $tester;

ends_well($node, ['app', 'live'], qr/permission denied to set parameter/);
$node->stop;
done_testing();
