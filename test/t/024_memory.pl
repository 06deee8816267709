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

# Does some work again and again until it costs no more memory. PostgreSQL's own
# caches grow by doubling, and a plan is made when it is needed first: that
# happens once. What grows with the work never stops.
sub becomes_flat
{
	my ($what, $work) = @_;
	my ($tries, $growth, %before) = (0, '', measure());

	while ($tries++ < 5)
	{
		$work->();
		my %after = measure();
		my %grown = map { $_ => $after{$_} - $before{$_} } grep { $after{$_} - $before{$_} > $slack } keys %after;
		$growth .= join('', map { " $_ $grown{$_}" } sort keys %grown) . ';';
		%before = %after;
		last unless %grown;
	}
	cmp_ok($tries, '<=', 5, "$what: memory is flat") or diag("bytes more, each time:$growth");
	return $tries;
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
my $times = becomes_flat('30,000 steps more', sub { $session->query('CALL work(7500)') });
is($admin->query(q(SELECT count(*) FROM tasker.workflow_steps WHERE state = 'complete')), 10_000 + 30_000 * $times, 'which have all run');

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
my $minor = 0;
$session->query(sprintf $replace, 100, ++$minor);
becomes_flat('400 versions of a template more', sub { $session->query(sprintf $replace, 400, ++$minor) });

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
becomes_flat("a task of $steps steps", sub {
	$session->query(q(SELECT tasker.create_task('huge', '{}', 't')));
	$session->query('CALL work(0)');
	$session->query(sprintf $replace, 1, ++$minor);
	$session->query('CALL work(100)');
});

$_->quit foreach $session, $admin;
ends_well($node, ['postgres']);
$node->stop;
done_testing();
