# Two sessions, two operations, one object: for each pair of operations on a
# step, a task, an executor and a definition, one session does the first and
# stays in its transaction, another does the second. Whether it waits, and what
# it is told when the first commits, is in the tables of docs/concurrency.md:
# they are the expectation of this test, cell by cell. If the first is rolled
# back, the second must do as if it had been alone.
#
# After a change: TASKER_PAIRS=print prints the tables as they are.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use POSIX ();
use PostgreSQL::Test::Utils;
use Tasker;
use Test::More;
use Time::HiRes qw(usleep);

my $node = tasker_node('pairs', conf => "tasker.orchestrator = off\n");

$node->safe_psql('postgres', 'CREATE DATABASE model');
$node->safe_psql('model', 'CREATE EXTENSION tasker');
$node->safe_psql('model', <<'SQL');
CREATE SCHEMA pair;
CREATE SEQUENCE pair.number;

-- What a statement gives, or the SQLSTATE of its error.
CREATE FUNCTION pair.told(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	result text;
BEGIN
	EXECUTE statement INTO result;
	RETURN CASE result WHEN 'true' THEN 't' WHEN 'false' THEN 'f' ELSE coalesce(result, 'NULL') END;
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE;
END
$$;
CREATE FUNCTION pair.work(step tasker.claimed_step) RETURNS jsonb LANGUAGE sql AS $$ SELECT to_jsonb(step.step_name) $$;
CREATE FUNCTION pair.template(name text, version text DEFAULT '1.0.0', VARIADIC steps text[] DEFAULT '{a,b}') RETURNS integer LANGUAGE sql AS $$
	SELECT tasker.register_task_template(jsonb_build_object('name', name, 'namespace_name', 'pair', 'version', version, 'step_templates',
		(SELECT jsonb_agg(jsonb_build_object('name', s, 'handler_class', 'pair.work', 'timeout_seconds', 600, 'backoff_base_seconds', 0, 'backoff_jitter', 0)) FROM unnest(steps) s)))
$$;
SELECT pair.template('work', '1.0.0', 'a');

-- Puts away what the last pair left.
CREATE PROCEDURE pair.clean() LANGUAGE plpgsql AS $$
BEGIN
	PERFORM tasker.resume('pair');
	PERFORM tasker.unregister_executor(executor_id) FROM tasker.executors WHERE ended_at IS NULL;
	PERFORM tasker.cancel_task(task_id) FROM tasker.tasks WHERE state IN ('pending', 'in_progress') ORDER BY task_id;
	PERFORM tasker.resolve_task(task_id) FROM tasker.tasks WHERE state = 'error' ORDER BY task_id;
	PERFORM tasker.orchestrate();
	COMMIT;
	PERFORM tasker.prune_tasks(tasker.now() + interval '1 hour');
END
$$;

-- A task with one step; executors that pull and that are pushed to; a new number.
CREATE FUNCTION pair.make(OUT task bigint, OUT step bigint, OUT executor bigint, OUT number bigint) LANGUAGE plpgsql AS $$
BEGIN
	number := nextval('pair.number');
	task := tasker.create_task('work', namespace => 'pair', identity_key => 'key ' || number);
	step := workflow_step_id FROM tasker.workflow_steps WHERE task_id = task;
	executor := (tasker.register_executor('e', '{pair.work}', 0, true, '1 hour')).executor_id;
END
$$;
SQL

# --- the operations ------------------------------------------------------------------

# {task}, {step}, {executor}, {number}, {claim} and {note} stand for what the pair is about.
my $claimed = "SELECT tasker.orchestrate() >= 0; SELECT claim FROM tasker.claim_steps({executor}, 1)";
my $later = "set_config('tasker.clock_offset', '1000000', true)";
my %operation = (
	claim_steps => 'SELECT count(*) FROM tasker.claim_steps({executor}, 1)',
	claim_step => 'SELECT count(*) FROM tasker.claim_step({executor}, {step})',
	my_steps => 'SELECT count(*) FROM tasker.my_steps({executor})',
	execute_step => 'SELECT tasker.execute_step({step})',
	complete_step => 'SELECT tasker.complete_step({step}, {claim})',
	fail_step => q(SELECT tasker.fail_step({step}, {claim}, 'broken')),
	release_step => 'SELECT tasker.release_step({step}, {claim})',
	cancel_step => 'SELECT tasker.cancel_step({step})',
	retry_step => 'SELECT tasker.retry_step({step})',
	resolve_step => 'SELECT tasker.resolve_step({step})',
	update_step => 'SELECT tasker.update_step({step}, retry_limit => 9)',
	transition_step => q(SELECT tasker.safe_transition_step({step}, 'in_progress')),
	'transition_step to error' => q(SELECT tasker.safe_transition_step({step}, 'error')),
	'transition_step to pending' => q(SELECT tasker.safe_transition_step({step}, 'pending')),
	retry_due_steps => 'SELECT tasker.retry_due_steps({task})',
	orchestrate => 'SELECT tasker.orchestrate() > 0',
	timeout => "SELECT tasker.orchestrate() > 0 FROM $later",
	'executor lost' => 'SELECT tasker.orchestrate() > 0 FROM tasker.unregister_executor({executor})',
	cancel_task => 'SELECT tasker.cancel_task({task})',
	retry_task => 'SELECT tasker.retry_task({task})',
	resolve_task => 'SELECT tasker.resolve_task({task})',
	reenqueue_task => 'SELECT tasker.reenqueue_task({task})',
	're-enqueue later' => q(SELECT tasker.reenqueue_task({task}, '1 hour')),
	update_task => q(SELECT tasker.update_task({task}, 'pair {pid}')),
	annotate_task => q(SELECT tasker.annotate_task({task}, 'note', '{}') > 0),
	remove_annotation => 'SELECT tasker.remove_annotation({note})',
	finalize_task => 'SELECT tasker.finalize_task({task})',
	coordinate_task => 'SELECT state FROM tasker.coordinate_task({task})',
	'orchestrate(task)' => 'SELECT tasker.orchestrate({task}) >= 0',
	transition_task => q(SELECT tasker.safe_transition_task({task}, 'error')),
	prune_tasks => q(SELECT tasker.prune_tasks(tasker.now() + interval '1 hour', states => '{error}')),
	'create, same key' => q(SELECT CASE tasker.create_task('work', namespace => 'pair', identity_key => 'key {number}') WHEN {task} THEN 'first' ELSE 'new' END),
	register_executor => q(SELECT executor_id > 0 FROM tasker.register_executor('e', '{pair.work,h{number}}', 0, true, '1 hour')),
	unregister => 'SELECT tasker.unregister_executor({executor})',
	'unregister, release' => 'SELECT tasker.unregister_executor({executor}, true)',
	heartbeat => 'SELECT tasker.heartbeat({executor})',
	'lease end' => q(SELECT tasker.orchestrate() > 0 FROM set_config('tasker.clock_offset', '4000000', true)),
	'register, same' => q(SELECT pair.template('t{number}', '1.0.0', 'a', 'b') > 0),
	'register, other' => q(SELECT pair.template('t{number}', '1.0.0', 'b', 'n{number}', 'm{number}') > 0),
	'register, higher' => q(SELECT pair.template('t{number}', '1.1.0', 'm{number}', 'n{number}') > 0),
	deprecate => q(SELECT tasker.deprecate_task_template('t{number}', 'pair', '1.0.0')),
	create_task => q(SELECT tasker.create_task('t{number}', namespace => 'pair') > 0),
	'create, key' => q(SELECT tasker.create_task('t{number}', namespace => 'pair', identity_key => 't {number}') > 0),
	'pause namespace' => q(SELECT tasker.pause('pair') IS NOT NULL),
	'resume namespace' => q(SELECT tasker.resume('pair') IS NOT NULL),
	'pause template' => q(SELECT tasker.pause('pair', 't{number}') IS NOT NULL),
	describe_namespace => q(SELECT tasker.describe_namespace('pair', 'of {pid}') > 0));

# A table of the docs: how its object comes about, and what is done to it.
my @tables = (
	[ 'A step that is ready', q(SELECT tasker.orchestrate() >= 0; SELECT executor_id > 0 FROM tasker.register_executor('push', '{pair.work}', 1, true, '1 hour')),
		qw(claim_steps claim_step orchestrate execute_step coordinate_task transition_step update_step cancel_step resolve_step cancel_task) ],
	[ 'A step in progress', $claimed,
		qw(complete_step fail_step release_step cancel_step retry_step resolve_step update_step), 'transition_step to error', qw(timeout), 'executor lost', qw(orchestrate claim_step cancel_task) ],
	[ 'A step in error', "$claimed; SELECT tasker.fail_step({step}, 10, 'broken', retry_after_seconds => 0)",
		qw(retry_step orchestrate retry_due_steps), 'transition_step to pending', qw(execute_step coordinate_task resolve_step cancel_step update_step retry_task cancel_task) ],
	[ 'An open task', q(SELECT tasker.orchestrate() >= 0; SELECT tasker.annotate_task({task}, 'note', '{}')),
		'create, same key', qw(cancel_task retry_task resolve_task reenqueue_task), 're-enqueue later', qw(update_task annotate_task remove_annotation finalize_task transition_task), 'orchestrate(task)', qw(coordinate_task claim_steps) ],
	[ 'A task in error', "$claimed; SELECT tasker.fail_step({step}, 10, 'broken', retryable => false); SELECT tasker.orchestrate() >= 0; SELECT tasker.orchestrate() >= 0; SELECT tasker.annotate_task({task}, 'note', '{}')",
		'create, same key', qw(retry_task resolve_task cancel_task retry_step resolve_step reenqueue_task update_task annotate_task remove_annotation finalize_task orchestrate prune_tasks) ],
	[ 'An executor', "$claimed; SELECT tasker.create_task('work', namespace => 'pair') > 0; SELECT tasker.orchestrate() >= 0",
		qw(register_executor unregister), 'unregister, release', qw(heartbeat claim_steps my_steps complete_step orchestrate), 'lease end' ],
	[ 'A definition', q(SELECT pair.template('t' || {number}) > 0; SELECT tasker.orchestrate() >= 0),
		'register, same', 'register, other', 'register, higher', qw(deprecate create_task), 'create, key', 'pause namespace', 'resume namespace', 'pause template', qw(describe_namespace claim_steps orchestrate) ]);

my ($first, $second, $control);

# --- a pair ----------------------------------------------------------------------------

my %pair;

sub statement
{
	my ($name, $session) = @_;
	my $sql = $operation{$name};

	$sql =~ s/\{(task|step|executor|number|claim|note)\}/$pair{$1}/g;
	$sql =~ s/\{pid\}/$session->{pid}/g;
	return "SELECT pair.told(\$told\$$sql\$told\$)";
}

# Makes the object, each statement in a transaction of its own; asks for what it is.
sub prepare
{
	my ($preparation) = @_;
	my $made = $preparation =~ s/\{(\w+)\}/:$1/gr;
	my $note = $preparation =~ /annotate/ ? '(SELECT max(task_annotation_id) FROM tasker.task_annotations)' : 0;

	@pair{qw(task step executor number note)} = split /\|/,
	  (split /\n/, $control->query("CALL pair.clean();\nSELECT * FROM pair.make() \\gset\n$made;\nSELECT :task, :step, :executor, :number, $note"))[-1];
	$pair{claim} = 10;
}

# Waits until the second session has its answer or waits for the first; says which.
sub waits_for_first
{
	for (1 .. 20_000)
	{
		return 0 if $second->finished;
		return 1 if $control->query("SELECT $first->{pid} = ANY (pg_blocking_pids($second->{pid}))") eq 't';
		usleep(1_000);
	}
	die 'neither answer nor lock';
}

# What the second operation is told: whether it waits for the first, and then.
sub run_pair
{
	my ($preparation, $one, $two, $end) = @_;
	my ($waits, $told);

	prepare($preparation);
	$first->query('BEGIN;' . statement($one, $first));
	$second->send(statement($two, $second));
	$waits = waits_for_first();
	$first->query($end);
	($told) = $second->finish;
	return ($waits, $told);
}

# The same, with a snapshot of the second session from before the first.
sub run_with_old_snapshot
{
	my ($preparation, $one, $two, $level) = @_;
	my $told;

	prepare($preparation);
	$second->query("BEGIN ISOLATION LEVEL $level; SELECT count(*) FROM tasker.task_namespaces WHERE false");
	$first->query(statement($one, $first));
	$told = $second->query(statement($two, $second) . '; ROLLBACK');
	return $told;
}

my %alone;

sub run_alone
{
	my ($preparation, $name) = @_;

	return $alone{"$preparation $name"} //= do { prepare($preparation); $second->query(statement($name, $second)) };
}

# --- all of them -------------------------------------------------------------------------

# The cells of a table, with what contradicts itself.
sub run_table
{
	my ($title, $preparation, @names) = @_;
	my (@rows, @wrong);

	foreach my $one (@names)
	{
		my @cells = (run_alone($preparation, $one));

		foreach my $two (@names)
		{
			my ($waits, $told) = run_pair($preparation, $one, $two, 'COMMIT');
			my $old = run_with_old_snapshot($preparation, $one, $two, 'REPEATABLE READ');

			if ($waits)
			{
				my ($waits_again, $then) = run_pair($preparation, $one, $two, 'ROLLBACK');
				my $alone = run_alone($preparation, $two);

				push @wrong, "$one rolled back, $two: $then instead of $alone" if $then ne $alone;
			}
			if ($ENV{TASKER_PAIRS})
			{
				my $serializable = run_with_old_snapshot($preparation, $one, $two, 'SERIALIZABLE');

				push @wrong, "SERIALIZABLE: $one, $two: $serializable instead of $old" if $serializable ne $old;
			}
			push @cells, ($waits ? "w $told" : $told) . ($old ne $told ? " / $old" : '');
		}
		push @rows, [ $one, @cells ];
	}
	return (\@wrong, [ 'first \\ second', 'alone', @names ], @rows);
}

sub line_of { return '| ' . join(' | ', @{ $_[0] }) . ' |'; }

# Each table has a database and a process of its own.
my $dir = PostgreSQL::Test::Utils::tempdir();
my %process;

foreach my $t (0 .. $#tables)
{
	$node->safe_psql('postgres', "CREATE DATABASE pairs$t TEMPLATE model");
	$node->safe_psql("pairs$t", 'SELECT tasker.resume()');
	my $pid = fork() // die "cannot fork: $!";
	if ($pid)
	{
		$process{$t} = $pid;
		next;
	}
	($first, $second, $control) = map { Tasker::Session->new($node, "pairs$t") } 1 .. 3;
	$_->query('SET client_min_messages = error') foreach $first, $second, $control;
	my ($wrong, @rows) = eval { run_table(@{ $tables[$t] }) };
	append_to_file("$dir/$t", join("\n", $@ || @$wrong ? "wrong: $@ " . join('; ', @{ $wrong // [] }) : 'consistent', map { line_of($_) } @rows) . "\n");
	$_->quit foreach $first, $second, $control;
	POSIX::_exit(0);
}

my $docs = slurp_file('docs/concurrency.md');
my ($elsewhere) = $docs =~ /^What takes more than two calls.*?\n\n/ms ? $& : '';
is(join(' ', sort $elsewhere =~ /`(\w+)`/g), join(' ', sort map { m{(\w+)\.spec$} } glob 'test/isolation/specs/*.spec'),
	'the docs name every isolation spec, and no other');
my ($pairs, $waiting, $told_old) = (0, 0, 0);
foreach my $t (0 .. $#tables)
{
	my $title = $tables[$t][0];

	waitpid($process{$t}, 0);
	my ($verdict, @lines) = split /\n/, slurp_file("$dir/$t");
	my ($expected) = $docs =~ /^### \Q$title\E\n.*?^(\| first.*?)\n\n/ms;
	my @expected = grep { !/^\|-/ } split /\n/, $expected // '';
	my @cells = map { (split / \| /)[ 2 .. @lines ] } @lines[ 1 .. $#lines ];

	$pairs += @cells;
	$waiting += grep { /^w / } @cells;
	$told_old += grep { m{ / } } @cells;
	splice @lines, 1, 0, '|' . '---|' x (1 + @lines) if $ENV{TASKER_PAIRS};
	print "### $title\n\n", map { "$_\n" } @lines, '' if $ENV{TASKER_PAIRS};
	is($verdict, 'consistent', "$title: after a rollback each does as if it had been alone");
	is(join("\n", @lines), join("\n", @expected), "$title: what each is told is what the docs say") unless $ENV{TASKER_PAIRS};
}
diag("$pairs pairs, $waiting of them wait, in $told_old an old snapshot is told something else");
is($node->safe_psql('postgres', 'SELECT sum(deadlocks) FROM pg_stat_database'), '0', 'no deadlock');
is(join('', map { $node->safe_psql("pairs$_", 'SELECT * FROM tasker.check()') } 0 .. $#tables), '', 'check() finds nothing');
$node->stop;
done_testing();
