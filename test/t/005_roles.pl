# The roles of a workflow with the background worker at work: tasks that run
# one step at a time, strategies that are functions of users, tasks that come
# back by time, tasks that a session coordinates.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Utils;
use Tasker;
use Test::More;

my $node = tasker_node('roles', conf => "tasker.backoff_base = '10ms'\n");
$node->safe_psql('postgres', 'CREATE DATABASE app');
my $session = Tasker::Session->new($node, 'app');
$session->query('CREATE EXTENSION tasker');
ok($session->poll(q(SELECT status = 'running' FROM tasker.stat_orchestrator)), 'the orchestrator runs');

# A template in namespace t of steps that do not depend on each other.
sub register
{
	my ($name, $steps, $keys, $step_keys) = @_;

	$session->query(qq(SELECT tasker.register_task_template('$keys'::jsonb || jsonb_build_object('name', '$name', 'namespace_name', 't', 'version', '1.0.0',
		'step_templates', (SELECT jsonb_agg(jsonb_build_object('name', 's' || i, 'handler_class', 'H') || '$step_keys') FROM generate_series(1, $steps) i)))));
}

# --- one step at a time -------------------------------------------------------------

register('in turn', 5, '{"concurrent": false}', '{}');
my @executors = map { Tasker::Executor->new($node, 'app', name => "e$_", capacity => 50) } 1 .. 2;
diamonds($session, 20, name => 'in turn');
my $failed = 0;
ok(Tasker::until_true(sub {
			foreach my $executor (@executors)
			{
				foreach my $step ($executor->hear)
				{
					if ($step->{attempt} == 1 && $step->{workflow_step_id} % 4 == 0)
					{
						$failed++;
						$executor->query("SELECT tasker.fail_step($step->{workflow_step_id}, $step->{claim}, 'once')");
					}
					else { $executor->complete($step); }
				}
			}
			$session->query(q(SELECT count(*) FROM tasker.tasks WHERE state IN ('pending', 'in_progress'))) eq '0';
		}), 'twenty tasks run to their end, pushed to two executors');
is($failed, 25, 'every fourth step failed once');
is($session->query(<<'SQL'), '0', 'never were two steps of a task in progress: each claim comes after the end of the one before');
SELECT count(*) FROM (
	SELECT s.task_id, l.created_at, l.to_state, lag(l.to_state) OVER (PARTITION BY s.task_id ORDER BY l.created_at, l.to_state = 'in_progress') AS before
	FROM tasker.workflow_step_transitions l JOIN tasker.workflow_steps s USING (workflow_step_id)
	WHERE l.to_state = 'in_progress' OR l.from_state = 'in_progress') o
WHERE to_state = 'in_progress' AND before = 'in_progress'
SQL
# An executor dies with a step in its hands: the other takes over, in turn.
my ($task) = diamonds($session, 1, name => 'in turn');
my ($holder, @held);
ok(Tasker::until_true(sub { foreach my $e (@executors) { @held = $e->hear; $holder = $e, last if @held; } @held > 0 }), 'somebody has the first step');
is(scalar @held, 1, 'and no other');
my ($survivor) = grep { $_ != $holder } @executors;
$holder->kill;
ok($survivor->drain, 'the survivor runs the task to its end');
is($session->query("SELECT tasker.task_state($task)"), 'complete', 'which is complete');

# --- strategies in the worker -----------------------------------------------------------

# A function that never returns keeps the worker for a second, not for ever, and
# runs as the owner of the template, which is not the worker's role.
$session->query(<<'SQL');
CREATE ROLE owner LOGIN;
GRANT USAGE ON SCHEMA tasker TO owner;
GRANT EXECUTE ON FUNCTION tasker.register_task_template TO owner;
GRANT CREATE ON DATABASE app TO owner;
SET ROLE owner;
CREATE SCHEMA strategy;
CREATE TABLE strategy.told (role text, what jsonb);
CREATE FUNCTION strategy.endless(failure jsonb) RETURNS interval LANGUAGE plpgsql AS $$ BEGIN LOOP PERFORM pg_sleep(0.01); END LOOP; END $$;
CREATE FUNCTION strategy.soon(decision jsonb) RETURNS interval LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO strategy.told VALUES (current_user, decision);
	RETURN '1 s';
END
$$;
SQL
register('endless', 1, '{"backoff_strategy": "strategy.endless"}', '{"timeout_seconds": 1, "default_retry_limit": 2}');
register('looked at', 1, '{"reenqueuer_strategy": "strategy.soon"}', '{"handler_class": "nobody"}');
$session->query('RESET ROLE');
register('plain', 1, '{}', '{}');
($task) = diamonds($session, 1, name => 'endless');
my ($step) = $survivor->expect(1);
# The attempt takes longer than allowed; the worker asks the function how long to wait.
ok($session->poll("SELECT state = 'error' OR attempts > 1 FROM tasker.workflow_steps WHERE task_id = $task"), 'the attempt has timed out');
my ($again) = $survivor->expect(1);
is("$again->{workflow_step_id} $again->{attempt}", "$step->{workflow_step_id} 2", 'and is made again, as the built-in backoff has it');
$survivor->complete($again);
like(slurp_file($node->logfile), qr/WARNING: +"backoff_strategy" strategy.endless failed: canceling statement due to statement timeout/,
	'the server log says why');
diamonds($session, 1, name => 'plain');
ok($survivor->drain, 'the orchestrator goes on');

# --- tasks that come back by time ----------------------------------------------------------

($task) = diamonds($session, 1, name => 'looked at');
$session->query("SELECT tasker.orchestrate($task)");
ok($session->poll("SELECT count(*) >= 2 FROM tasker.task_transitions WHERE task_id = $task AND to_state = 'pending' AND from_state = 'in_progress'"),
	'the task is looked at again and again by time');
is($session->query(q(SELECT string_agg(DISTINCT role || ' ' || (what ->> 'reason'), ', ') FROM strategy.told)), 'owner ready_steps_available',
	'as the function of its owner says, who runs it');
cmp_ok($session->query("SELECT min(next - created_at) >= interval '1 s' FROM (SELECT created_at, lead(created_at) OVER (ORDER BY sort_key) AS next FROM tasker.task_transitions WHERE task_id = $task AND to_state = 'pending') l WHERE next IS NOT NULL"),
	'eq', 't', 'never sooner than a second');
$session->query("SELECT tasker.cancel_task($task)");
ok($session->poll('SELECT count(*) = 0 FROM tasker.task_reenqueues'), 'nothing stays scheduled after its end');
($task) = diamonds($session, 1, name => 'plain');
is($session->query("SELECT tasker.reenqueue_task($task, '100 ms') IN ('scheduled', 'already_scheduled')"), 't', 'one is scheduled by hand');
ok($session->poll("SELECT count(*) = 0 FROM tasker.task_reenqueues"), 'and taken up when its time has come');
ok($survivor->drain, 'all tasks come to their end');

# --- a session that coordinates, the worker beside it -------------------------------------------

$session->query(<<'SQL');
CREATE FUNCTION public.work(step tasker.claimed_step) RETURNS jsonb LANGUAGE sql AS $$ SELECT to_jsonb(step.attempt) $$;
SQL
register('by hand', 6, '{"coordinator_strategy": "synchronous"}', '{"handler_class": "public.work"}');
my @tasks = diamonds($session, 30, name => 'by hand');
my @coordinators = map { Tasker::Session->new($node, 'app') } 1 .. 3;
my @all = @tasks;
while (@all)
{
	$_->send('SELECT state FROM tasker.coordinate_task(' . shift(@all) . ')') foreach grep { @all } @coordinators;
	$_->finish foreach @coordinators;
}
is($session->query("SELECT count(*) FROM tasker.tasks WHERE state = 'complete' AND task_id BETWEEN $tasks[0] AND $tasks[-1]"), '30',
	'three sessions run thirty tasks, and nobody runs a step twice');
$_->quit foreach @coordinators, $survivor, $session;
ends_well($node, ['app']);
$node->stop;
done_testing();
