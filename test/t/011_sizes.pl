# Sizes far beyond the usual ones, with the worker: many steps, wide fans, large
# and deep values, awkward names, many tasks. Everything must end right; how
# long it took is printed, not judged.
use strict;
use warnings;
use Encode qw(encode_utf8);
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Utils;
use Tasker;
use Test::More;

# A hundred thousand of anything take their time on a small machine.
$Tasker::patience = 180;

my $node = tasker_node('sizes', conf => "fsync = off\nmax_wal_size = 4GB\nautovacuum = on\nshared_buffers = 128MB\n");
$node->safe_psql('postgres', 'CREATE DATABASE app');
$node->safe_psql('app', 'CREATE EXTENSION tasker');
my $session = Tasker::Session->new($node, 'app');
ok($session->poll(q(SELECT status = 'running' FROM tasker.stat_orchestrator)), 'an orchestrator runs');

# Claims and completes, each in a transaction of its own, until no task is open.
$session->query(<<'SQL');
CREATE PROCEDURE drain(executor bigint, batch integer, seconds integer, INOUT done bigint) LANGUAGE plpgsql AS $$
DECLARE
	steps bigint[];
	claims integer[];
	bound timestamptz := clock_timestamp() + make_interval(secs => seconds);
BEGIN
	done := 0;
	LOOP
		SELECT array_agg(workflow_step_id), array_agg(claim) INTO steps, claims FROM tasker.claim_steps(executor, batch);
		COMMIT;
		IF steps IS NOT NULL THEN
			PERFORM tasker.complete_steps(steps, claims, NULL, executor);
			done := done + cardinality(steps);
			COMMIT;
		ELSE
			EXIT WHEN NOT EXISTS (SELECT FROM tasker.tasks WHERE state IN ('pending', 'in_progress')) OR clock_timestamp() > bound;
			PERFORM pg_sleep(0.002);
		END IF;
	END LOOP;
END
$$;
SQL
my $puller = Tasker::Executor->new($node, 'app', capacity => 0);

# Drains in batches; says how long it took, and checks that each of the n
# steps of a template ran once.
sub drains
{
	my ($what, $template, $n, $batch) = @_;
	my $done;
	my $took = timed(sub { $done = $puller->query("CALL drain($puller->{id}, $batch, 120, 0)") });

	is($done, $n, "$what: $n steps are given out");
	diag(sprintf '%s: %d steps drained in batches of %d in %.2f s, %.0f steps/s', $what, $n, $batch, $took, $n / $took);
	is($session->query(<<"SQL"), 't|t|0', "$what: all are complete after one attempt, none before its parents");
SELECT bool_and(t.state = 'complete'),
	(SELECT bool_and(s.state = 'complete' AND s.attempts = 1 AND s.sort_key = 20)
		FROM tasker.workflow_steps s JOIN tasker.tasks t USING (task_id) JOIN tasker.named_tasks n USING (named_task_id) WHERE n.name = '$template'),
	(SELECT count(*) FROM tasker.tasks t JOIN tasker.named_tasks n USING (named_task_id) JOIN tasker.workflow_steps p USING (task_id)
		JOIN tasker.workflow_step_edges e ON e.from_step_id = p.workflow_step_id
		JOIN tasker.workflow_step_transition_log d ON d.workflow_step_id = e.from_step_id AND d.sort_key = 20
		JOIN tasker.workflow_step_transition_log b ON b.workflow_step_id = e.to_step_id AND b.sort_key = 10
		WHERE n.name = '$template' AND (b.created_at < d.created_at OR b.xact_id <= d.xact_id))
FROM tasker.tasks t JOIN tasker.named_tasks n USING (named_task_id) WHERE n.name = '$template'
SQL
}

# --- many steps -------------------------------------------------------------------

# A hundred layers of fifty, each step after two of the layer before.
my $took = timed(sub { $session->query(<<'SQL') });
SELECT tasker.register_task_template(jsonb_build_object('name', 'layers', 'namespace_name', 't', 'version', '1.0.0', 'step_templates',
	(SELECT jsonb_agg(jsonb_build_object('name', 's' || i, 'handler_class', 'H')
		|| CASE WHEN i > 51 THEN jsonb_build_object('depends_on_steps', jsonb_build_array('s' || i - 50, 's' || i - 51)) ELSE '{}' END
		ORDER BY md5(i::text)) FROM generate_series(1, 5000) i)))
SQL
diag(sprintf 'a template of 5000 steps registered in %.2f s', $took);
$took = timed(sub { $session->query("SELECT tasker.create_task('layers', namespace => 't')") });
diag(sprintf 'a task of it created in %.2f s', $took);
drains('5000 steps', 'layers', 5000, 100);

# --- wide fans --------------------------------------------------------------------

$took = timed(sub { $session->query(<<'SQL') });
SELECT tasker.register_task_template(jsonb_build_object('name', 'fan', 'namespace_name', 't', 'version', '1.0.0', 'step_templates',
	jsonb_build_array('{"name": "first", "handler_class": "H"}'::jsonb)
	|| (SELECT jsonb_agg(jsonb_build_object('name', 'm' || i, 'handler_class', 'H', 'depends_on_step', 'first')) FROM generate_series(1, 10000) i)
	|| jsonb_build_object('name', 'last', 'handler_class', 'H', 'depends_on_steps', (SELECT jsonb_agg('m' || i) FROM generate_series(1, 10000) i))))
SQL
diag(sprintf 'a template of 1 -> 10000 -> 1 registered in %.2f s', $took);
$session->query("SELECT tasker.create_task('fan', namespace => 't')");
drains('1 -> 10000 -> 1', 'fan', 10002, 100);

# --- large and deep values ------------------------------------------------------------

$session->query(Tasker::template_sql('chain', 'a; b<-a; c<-b', { handler_class => 'V' }));
my ($task) = $session->query("SELECT tasker.create_task('chain', namespace => 't')");
my $runner = Tasker::Executor->new($node, 'app', handlers => 'V', capacity => 1);
my ($step) = $runner->expect(1);
# One megabyte that does not compress, sixty times; the limit is 64.
my $large = q(repeat((SELECT string_agg(md5(i::text), '') FROM generate_series(1, 32768) i), 60));
$took = timed(sub {
	$runner->query("SELECT tasker.complete_step($step->{workflow_step_id}, $step->{claim}, jsonb_build_object('large', $large), $runner->{id})");
});
($step) = $runner->expect(1);
diag(sprintf 'results of 60 MB completed in %.2f s', $took);
ok($step->{fetch} && !exists $step->{dependency_results}, 'the notification of the child says that there is something to fetch');
$took = timed(sub {
	is($runner->query("SELECT step_name, length(dependency_results->'a'->>'large'), md5(dependency_results->'a'->>'large') = md5($large) FROM tasker.my_steps($runner->{id})"),
		'b|62914560|t', 'my_steps gives all of the 60 MB to the child');
});
diag(sprintf 'read back twice in %.2f s', $took);

# A string beyond what a notification can hold, and one that just fits, among others.
$runner->query("SELECT tasker.complete_step($step->{workflow_step_id}, $step->{claim}, jsonb_build_object('x', repeat('\x{1}\"', 2000)), $runner->{id})");
($step) = $runner->expect(1);
is($runner->query("SELECT dependency_results->'b'->>'x' = repeat('\x{1}\"', 2000) FROM tasker.my_steps($runner->{id})"), 't',
	'control characters and quotes come back as they were');
$runner->complete($step);
ok($session->poll("SELECT tasker.task_state($task)", 'complete'), 'the task with large results is complete');
$runner->quit;

my $deep = q((repeat('[', 1000) || '"bottom"' || repeat(']', 1000))::jsonb);
my $bottom = q((array_fill('0'::text, ARRAY[1000])));
$task = $session->query("SELECT tasker.create_task('chain', jsonb_build_object('deep', $deep), 't')");
my $diver = Tasker::Executor->new($node, 'app', handlers => 'V', capacity => 0);
foreach my $name (qw(a b c))
{
	my $claimed;
	ok(Tasker::until_true(sub {
			($claimed = $diver->query("SELECT workflow_step_id, claim, step_name, inputs->'deep' #>> $bottom, coalesce(dependency_results #> '{a}', dependency_results #> '{b}') #>> $bottom FROM tasker.claim_steps($diver->{id})")) ne '';
		}), "step $name comes");
	my @column = split /\|/, $claimed, -1;
	is("@column[2 .. 4]", "$name bottom " . ($name eq 'a' ? '' : 'bottom'), 'with a context, and results of its parent, of 1000 levels');
	$diver->query("SELECT tasker.complete_step($column[0], $column[1], $deep, $diver->{id})");
}
ok($session->poll("SELECT tasker.task_state($task)", 'complete'), 'the deep task is complete');
is($session->query("SELECT tasker.create_tasks(ARRAY[jsonb_build_object('name', 'chain', 'namespace', 't', 'context', jsonb_build_object('deep', $deep))]) > 0"), 't',
	'create_tasks takes deep contexts too');
ok($session->poll(q(SELECT count(*) FROM tasker.work_queue), '1'), 'its first step waits');
$session->query(q(SELECT tasker.cancel_task(task_id) FROM tasker.tasks WHERE state IN ('pending', 'in_progress')));
$diver->quit;

# --- names ----------------------------------------------------------------------------

my $awkward = qq(it's "n\xc3\xa4me" \xf0\x9f\x90\x98 \\ {}, \$1 %s);
my $twin = qq("\xf0\x9f\x91\xa9\xe2\x80\x8d\xf0\x9f\x91\xa9\xe2\x80\x8d\xf0\x9f\x91\xa7" ' \\" );
my $long = "\xf0\x9f\x90\x98" x 64;
$session->query(<<"SQL");
SELECT tasker.register_task_template(jsonb_build_object('name', \$q\$$awkward\$q\$, 'namespace_name', \$q\$$long\$q\$, 'version', '1.0.0',
	'step_templates', jsonb_build_array(
		jsonb_build_object('name', \$q\$$awkward\$q\$, 'handler_class', \$q\$$twin\$q\$),
		jsonb_build_object('name', \$q\$$twin\$q\$, 'handler_class', \$q\$$twin\$q\$, 'depends_on_step', \$q\$$awkward\$q\$, 'handler_config', jsonb_build_object(\$q\$$twin\$q\$, \$q\$$awkward\$q\$)))))
SQL
$task = $session->query("SELECT tasker.create_task(\$q\$$awkward\$q\$, jsonb_build_object(\$q\$$awkward\$q\$, \$q\$$twin\$q\$), \$q\$$long\$q\$)");
# As an element of an array inside of a literal.
(my $element = $twin) =~ s/(["\\])/\\$1/g;
$element =~ s/'/''/g;
my $linguist = Tasker::Executor->new($node, 'app', handlers => qq("$element"), capacity => 2, name => 'x');
($step) = $linguist->expect(1);
is(encode_utf8($step->{task_name}), $awkward, 'a notification carries the name of the task');
is(encode_utf8($step->{step_name}), $awkward, 'and that of the step');
is(encode_utf8($step->{handler}), $twin, 'and that of the handler');
is(encode_utf8(join ' ', %{ $step->{inputs} }), "$awkward $twin", 'and the context');
$linguist->query("SELECT tasker.complete_step($step->{workflow_step_id}, $step->{claim}, jsonb_build_object(\$q\$$twin\$q\$, \$q\$$awkward\$q\$), $linguist->{id})");
($step) = $linguist->expect(1);
is(encode_utf8($step->{step_name}), $twin, 'so does the one of its child');
is(encode_utf8(join ' ', map { ($_, %{ $step->{dependency_results}{$_} }) } keys %{ $step->{dependency_results} }), "$awkward $twin $awkward", 'with the results of the parent by its name');
is(encode_utf8(join ' ', %{ $step->{handler_config} }), "$twin $awkward", 'and the configuration of the handler');
$linguist->complete($step);
ok($session->poll("SELECT tasker.task_state($task)", 'complete'), 'the task of awkward names is complete');
$linguist->quit;

# --- many tasks -------------------------------------------------------------------------

$session->query(Tasker::template_sql('single', 'a'));
$took = timed(sub { diamonds($session, 5000, name => 'single') foreach 1 .. 20 });
diag(sprintf '100000 tasks created in chunks of 5000 in %.2f s', $took);
drains('100000 tasks', 'single', 100000, 1000);
is($session->query('SELECT count(*) FROM tasker.work_queue'), '0', 'nothing is left in the queue');

$took = timed(sub { is($session->query('SELECT count(*) FROM tasker.check()'), '0', 'check() finds nothing among all this') });
diag(sprintf 'check() took %.2f s', $took);
$_->quit foreach $puller, $session;
ends_well($node, ['app']);
$node->stop;
done_testing();
