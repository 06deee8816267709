# Memory that does not grow: of the worker and of a session that creates, claims
# and completes, of templates that come and go, and what a huge task leaves
# behind. PostgreSQL itself says what a process has allocated in its contexts,
# in the server log; bench/soak looks at the same from outside, for an hour.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Utils;
use Tasker;
use Test::More;

# What may be more after four times as much work: rounding of the allocator.
my $slack = 32 * 1024;

my $node = tasker_node('memory');
$node->safe_psql('postgres', 'CREATE EXTENSION tasker');
$node->poll_query_until('postgres', q(SELECT status = 'running' FROM tasker.stat_orchestrator)) or die;
my $admin = Tasker::Session->new($node, 'postgres');
my $session = Tasker::Session->new($node, 'postgres');
my $worker = $admin->query('SELECT pid FROM tasker.stat_orchestrator');

# The bytes that a process has allocated in its memory contexts.
sub allocated
{
	my ($pid) = @_;
	my $position = length slurp_file($node->logfile);
	my $bytes;

	$admin->query("SELECT pg_log_backend_memory_contexts($pid)");
	# A session looks when it runs something.
	$session->query('SELECT WHERE false') if $pid == $session->{pid};
	Tasker::until_true(sub { ($bytes) = substr(slurp_file($node->logfile), $position) =~ /\[$pid\] .*Grand total: (\d+) bytes/; defined $bytes }) or die 'the log says nothing';
	return $bytes;
}

# Waits until the worker has nothing left to do, then measures both.
sub measure
{
	$admin->poll("SELECT count(*) FROM tasker.tasks WHERE state IN ('pending', 'in_progress')", '0') or die 'tasks are open';
	# The first mark in the logs comes with plans that stay.
	$admin->poll('SELECT count(*) > 0 FROM tasker.log_marks') or die 'there is no mark';
	return (worker => allocated($worker), session => allocated($session->{pid}));
}

sub stays_flat
{
	my ($what, $before, $after) = @_;

	foreach my $process (sort keys %$before)
	{
		my $growth = $after->{$process} - $before->{$process};
		cmp_ok($growth, '<=', $slack, "$what: memory of the $process is flat ($before->{$process} bytes, then $growth more)");
	}
}

$admin->query(Tasker::template_sql('diamond', 'a; b<-a; c<-a; d<-b,c', { default_retry_limit => 1000, backoff_base_seconds => 0, timeout_seconds => 60 }));
$admin->query(<<'SQL');
-- So many diamonds, from creation to end; one step in ten fails once.
CREATE PROCEDURE work(diamonds integer) LANGUAGE plpgsql AS $$
DECLARE
	executor bigint := (SELECT executor_id FROM tasker.register_executor('memory', '{H}', 0));
	left_over integer := diamonds;
BEGIN
	COMMIT;
	LOOP
		IF left_over > 0 THEN
			PERFORM tasker.create_tasks(array_fill('{"name": "diamond", "namespace": "t", "context": {"n": 1}}'::jsonb, ARRAY[least(left_over, 250)]));
			left_over := left_over - 250;
			COMMIT;
		END IF;
		FOR i IN 1 .. 4 LOOP
			PERFORM CASE WHEN c.workflow_step_id % 10 = 0 AND c.attempt = 1 THEN tasker.fail_step(c.workflow_step_id, c.claim, 'no')
				ELSE tasker.complete_step(c.workflow_step_id, c.claim, '{"ok": true}') END
			FROM tasker.claim_steps(executor, 250) c;
			COMMIT;
			PERFORM pg_sleep(0.001);
			COMMIT;
		END LOOP;
		EXIT WHEN left_over <= 0 AND NOT EXISTS (SELECT FROM tasker.tasks WHERE state IN ('pending', 'in_progress'));
	END LOOP;
	PERFORM tasker.unregister_executor(executor);
END
$$;
SQL

# --- work: 10,000 steps, then 40,000 in all ---------------------------------------

$session->query('CALL work(2500)');
my %before = measure();
$session->query('CALL work(7500)');
my %after = measure();
stays_flat('40,000 steps instead of 10,000', \%before, \%after);
is($admin->query(q(SELECT count(*) FROM tasker.workflow_steps WHERE state = 'complete')), '40000', 'which have all run');

# --- templates come and go ----------------------------------------------------------

# Registered, used by whoever creates and whoever orchestrates, and replaced by a new version.
my $replace = <<'SQL';
DO $$
BEGIN
	FOR i IN 1 .. %d LOOP
		PERFORM tasker.register_task_template(jsonb_build_object('name', 'passing', 'namespace_name', 't', 'version', '1.%s.' || i,
			'schema', '{"type": "object", "properties": {"n": {"type": "integer", "pattern": "^a+$"}}}'::jsonb,
			'step_templates', (SELECT jsonb_agg(jsonb_build_object('name', 's' || s, 'handler_class', 'passing')) FROM generate_series(1, 20) s)));
		PERFORM tasker.cancel_task(tasker.create_task('passing', '{"n": 1}', 't'));
		COMMIT;
	END LOOP;
END
$$
SQL
$session->query(sprintf $replace, 100, 1);
%before = measure();
$session->query(sprintf $replace, 400, 2);
%after = measure();
stays_flat('500 versions of a template instead of 100', \%before, \%after);

# --- a huge task ----------------------------------------------------------------------

# What is known of its template goes when definitions change; what stays are lists
# and tables of the worker as large as its largest batch: some bytes a step.
my $steps = 10_000;
$session->query(<<"SQL");
SELECT tasker.register_task_template(jsonb_build_object('name', 'huge', 'namespace_name', 't', 'version', '1.0.0', 'step_templates',
	'[{"name": "first", "handler_class": "H"}]'::jsonb
	|| (SELECT jsonb_agg(jsonb_build_object('name', 's' || i, 'handler_class', 'H', 'depends_on_step', 'first')) FROM generate_series(1, $steps) i)
	|| jsonb_build_array(jsonb_build_object('name', 'last', 'handler_class', 'H', 'depends_on_steps', (SELECT jsonb_agg('s' || i) FROM generate_series(1, $steps) i)))))
SQL
my @rounds;
foreach my $round (3 .. 5)
{
	$session->query(q(SELECT tasker.create_task('huge', '{}', 't')));
	$session->query('CALL work(0)');
	my %huge = measure();
	note("with a task of $steps steps the worker has $huge{worker} bytes, the session $huge{session}");
	$session->query(sprintf $replace, 1, $round);
	$session->query('CALL work(100)');
	push @rounds, { measure() };
}
# The first one still finds plans that are not made yet.
shift @rounds;
foreach my $process (sort keys %before)
{
	my $kept = $rounds[0]{$process} - $before{$process};
	cmp_ok($kept, '<=', $slack + 32 * $steps, "a task of $steps steps leaves few bytes a step to the $process: $kept");
}
stays_flat('the second one', @rounds);

$_->quit foreach $session, $admin;
ends_well($node, ['postgres']);
$node->stop;
done_testing();
