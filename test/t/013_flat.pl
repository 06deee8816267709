# Flat cost: what an operation costs does not depend on how much there is beside
# it, whether it waits, is finished, or is dead behind an old snapshot, nor on
# what the planner believes. Cost is pages touched of tasker's tables, indexes
# and TOAST, counted in the session that does the work: exact, and the same on a
# busy machine. How long it took plays no part.
#
# The bound is twice the pages that the same operation touches in a small
# database with good statistics, and a few more. An index gets one level deeper
# each time its table grows about three hundredfold, so that a look-up of root and
# row comes to touch three or four pages instead of two; whoever passes over what
# is dead, or not its own, touches hundreds.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Utils;
use Tasker;
use Test::More;

# Pages beyond twice the small cost that are still flat: some batches save a
# checkpoint or extend a table, others do not.
my $slack = 12;

my $node = tasker_node('flat', conf => "fsync = off\nmax_wal_size = 4GB\nshared_buffers = 128MB\n");
$node->safe_psql('postgres', 'CREATE DATABASE app');
# No worker: what the orchestrator does is counted in the session.
$node->safe_psql('postgres', "ALTER DATABASE app SET tasker.orchestrator = off; ALTER DATABASE app SET client_min_messages = warning");
$node->safe_psql('app', 'CREATE EXTENSION tasker');
my $session = Tasker::Session->new($node, 'app');

# --- counting ---------------------------------------------------------------------------

$session->query(<<'SQL');
CREATE SCHEMA flat;
CREATE TABLE flat.claimed (step bigint, claim integer);

CREATE FUNCTION flat.relations() RETURNS SETOF oid LANGUAGE sql AS $$
	WITH ours AS (SELECT oid, reltoastrelid FROM pg_class WHERE relnamespace = 'tasker'::regnamespace AND relkind IN ('r', 'i'))
	SELECT oid FROM ours
	UNION ALL SELECT reltoastrelid FROM ours WHERE reltoastrelid <> 0
	UNION ALL SELECT indexrelid FROM ours JOIN pg_index ON indrelid = ours.reltoastrelid
$$;

-- The pages of each of tasker's relations that this session has touched and not
-- reported yet. Reports are made between commands: inside of one the difference
-- of two calls is what lies between.
CREATE FUNCTION flat.touched() RETURNS jsonb LANGUAGE sql AS $$
	SELECT jsonb_object_agg(relation::regclass, pg_stat_get_xact_blocks_fetched(relation)) FROM flat.relations() relation
$$;

CREATE TYPE flat.cost AS (pages bigint, by_relation text);
CREATE FUNCTION flat.difference(before jsonb, after jsonb) RETURNS flat.cost LANGUAGE sql AS $$
	SELECT coalesce(sum(pages), 0)::bigint, string_agg(relation || ' ' || pages, ', ' ORDER BY pages DESC)
	FROM (SELECT key AS relation, value::bigint - (before ->> key)::bigint AS pages FROM jsonb_each_text(after)) difference
	WHERE pages > 0
$$;

-- What a command costs, done so many times, each time after its preparations,
-- everything in transactions of its own: the median. A first run may fill a
-- cache, and the queue is looked at from its start now and then, by the clock.
-- The command is given what the last preparation has returned.
CREATE PROCEDURE flat.measure(preparations text[], command text, times integer, INOUT cost flat.cost) LANGUAGE plpgsql AS $$
DECLARE
	preparation text;
	subject bigint;
	before jsonb;
	costs flat.cost[];
BEGIN
	FOR i IN 1 .. times LOOP
		FOREACH preparation IN ARRAY preparations LOOP
			EXECUTE preparation INTO subject;
			COMMIT;
		END LOOP;
		before := flat.touched();
		EXECUTE command USING subject;
		costs := costs || flat.difference(before, flat.touched());
		COMMIT;
	END LOOP;
	SELECT u.pages, u.by_relation INTO cost FROM unnest(costs) u ORDER BY u.pages OFFSET (times - 1) / 2 LIMIT 1;
END
$$;

-- --- what executors do ---

-- Claims up to max steps and notes them for flat.complete() and flat.fail(). Those
-- that have ended meanwhile are refused, which is no error here.
CREATE FUNCTION flat.claim(executor bigint, max integer) RETURNS bigint LANGUAGE sql AS $$
	TRUNCATE flat.claimed;
	INSERT INTO flat.claimed SELECT workflow_step_id, claim FROM tasker.claim_steps(executor, max);
	SELECT count(*) FROM flat.claimed
$$;
CREATE FUNCTION flat.complete(executor bigint) RETURNS bigint LANGUAGE sql AS $$
	SELECT cardinality(tasker.complete_steps(array_agg(step), array_agg(claim), NULL, executor, true)) FROM flat.claimed HAVING count(*) > 0
$$;
CREATE FUNCTION flat.fail() RETURNS bigint LANGUAGE sql AS $$
	SELECT tasker.fail_step(step, claim, 'broken', retry_after_seconds => 0)::integer FROM flat.claimed
$$;

-- Claims and completes n steps, with all that follows.
CREATE PROCEDURE flat.drain(executor bigint, n integer) LANGUAGE plpgsql AS $$
BEGIN
	FOR batch IN 1 .. n / 1000 LOOP
		PERFORM flat.claim(executor, 1000);
		COMMIT;
		PERFORM flat.complete(executor);
		COMMIT;
		PERFORM tasker.orchestrate();
		COMMIT;
	END LOOP;
END
$$;

-- Completes whatever the executor finds until it has claimed a last step.
CREATE FUNCTION flat.run_to_last(executor bigint) RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
	PERFORM tasker.orchestrate();
	LOOP
		EXIT WHEN flat.claim(executor, 1000) = 0;
		EXIT WHEN (SELECT bool_and((SELECT is_leaf FROM tasker.workflow_steps WHERE workflow_step_id = step)) FROM flat.claimed);
		PERFORM flat.complete(executor);
		PERFORM tasker.orchestrate();
	END LOOP;
	RETURN NULL;
END
$$;

CREATE FUNCTION flat.create(template text, n integer) RETURNS bigint LANGUAGE sql AS $$
	SELECT max(t) FROM tasker.create_tasks(array_fill(jsonb_build_object('name', template, 'namespace', 't'), ARRAY[n])) t
$$;

-- --- what the planner may believe ---

-- Puts the statistics aside, or back: they are only found under their relations.
CREATE FUNCTION flat.put_statistics_aside() RETURNS void LANGUAGE sql AS $$
	UPDATE pg_statistic SET starelid = (starelid::bigint + 2000000000)::oid WHERE starelid IN (SELECT flat.relations())
$$;
CREATE FUNCTION flat.believe_in_one_task() RETURNS void LANGUAGE sql AS $$
	DELETE FROM pg_statistic WHERE starelid IN (SELECT flat.relations());
	UPDATE pg_statistic SET starelid = (starelid::bigint - 2000000000)::oid
	WHERE starelid::bigint - 2000000000 IN (SELECT relation::bigint FROM flat.relations() relation)
$$;
-- As after ANALYZE of empty tables, which have been filled since; or, where they
-- kept their pages, after VACUUM: then no size of theirs tells the planner anything.
CREATE FUNCTION flat.believe_in_empty_tables(kept_pages integer) RETURNS void LANGUAGE sql AS $$
	DELETE FROM pg_statistic WHERE starelid IN (SELECT flat.relations());
	UPDATE pg_class SET relpages = kept_pages, reltuples = 0 WHERE oid IN (SELECT flat.relations())
$$;
SQL

my $diamond = 'a; b<-a; c<-a; d<-b,c';
# Hundreds of its steps fail: were they due again while something else is measured, that would pay for them.
$session->query(Tasker::template_sql('single', 'a', { handler_class => 'H', backoff_base_seconds => 86400, backoff_cap_seconds => 86400 }));
$session->query(Tasker::template_sql('timed', 'a', { handler_class => 'T', timeout_seconds => 60 }));
$session->query(Tasker::template_sql('fresh', 'a', { handler_class => 'N' }));
$session->query(Tasker::template_sql('failing', 'a', { handler_class => 'F' }));
$session->query(Tasker::template_sql('diamond', $diamond, { handler_class => 'D' }));
$session->query(Tasker::template_sql('idle', $diamond, { handler_class => 'I' }));
$session->query(Tasker::template_sql('subject', $diamond, { handler_class => 'S' }));
my %executor = map { $_ => $session->query("SELECT executor_id FROM tasker.register_executor('$_', '{$_}', 0)") } qw(H N T F D S);

# --- what is measured ----------------------------------------------------------------------

my $orchestrate = 'SELECT tasker.orchestrate()';

# A new system: what is known of its only task, a wide one, is kept for later.
$session->query(Tasker::template_sql('wide', join('; ', 'a', map { "m$_<-a" } 1 .. 500), { handler_class => 'I' }));
$session->query("SELECT tasker.create_task('wide', namespace => 't')");
$session->query($orchestrate);
$session->query('ANALYZE');
$session->query('SELECT flat.put_statistics_aside()');

# The task that is looked at: a step is complete, one has failed, one is in progress.
my $subject = $session->query("SELECT tasker.create_task('subject', namespace => 't')");
my $step = $session->query("SELECT max(workflow_step_id) FROM tasker.workflow_steps WHERE task_id = $subject");
$session->query($orchestrate);
$session->query("CALL flat.drain($executor{S}, 1000)");
$session->query("SELECT flat.claim($executor{S}, 2)");
$session->query("SELECT tasker.fail_step(step, claim, 'broken', retry_after_seconds => 86400) FROM flat.claimed ORDER BY step LIMIT 1");
$session->query($orchestrate);

my $new_idle = "SELECT tasker.create_task('idle', namespace => 't')";
my $new_diamond = "SELECT tasker.create_task('diamond', namespace => 't')";
my $first_step = 'SELECT min(workflow_step_id) FROM tasker.workflow_steps WHERE task_id = (SELECT max(task_id) FROM tasker.tasks)';

# Each has a name, a command, and its preparations where there are any. Views of
# tasks and steps are found by their columns: a new one is measured too.
my @operations = (
	[ 'create_task()', $new_idle, 'SELECT 1' ],
	[ 'create_tasks() of 100', "SELECT flat.create('idle', 100)", 'SELECT 1' ],
	[ 'claim_steps() of 100', "SELECT flat.claim($executor{H}, 100)", "SELECT flat.complete($executor{H})" ],
	[ 'fail_steps() of 100', 'SELECT tasker.fail_steps(array_agg(step), array_agg(claim), array_fill(\'broken\'::text, ARRAY[100])) FROM flat.claimed', "SELECT flat.claim($executor{H}, 100)" ],
	[ 'complete_steps() of 100', "SELECT flat.complete($executor{H})", "SELECT flat.claim($executor{H}, 100)" ],
	[ 'orchestrate() of nothing', $orchestrate, $orchestrate ],
	[ 'orchestrate() of a new task', $orchestrate, $orchestrate, $new_diamond ],
	[ 'orchestrate() of a last step', $orchestrate, "SELECT flat.run_to_last($executor{D})", "SELECT flat.complete($executor{D})",
		$new_diamond, "SELECT flat.run_to_last($executor{D})", "SELECT flat.complete($executor{D})" ],
	[ 'orchestrate() of a failed step', $orchestrate, "SELECT tasker.create_task('failing', namespace => 't')", $orchestrate,
		"SELECT flat.claim($executor{F}, 1)", 'SELECT flat.fail()' ],
	[ 'orchestrate() of a cancelled step', $orchestrate, $new_idle, $orchestrate, "SELECT tasker.cancel_step(($first_step))::integer" ],
	[ 'cancel_task()', 'SELECT tasker.cancel_task($1)', $new_idle ],
	[ 'finalize_task()', 'SELECT tasker.finalize_task($1)', $new_idle ],
	[ 'find_viable_steps()', 'SELECT tasker.find_viable_steps($1)', $new_idle ],
	[ 'my_steps()', "SELECT * FROM tasker.my_steps($executor{S})" ],
	(map {
			my ($view, $column) = split /\|/;
			[ "$view of a $column", "SELECT * FROM tasker.$view WHERE $column = " . ($column eq 'task_id' ? $subject : $step) ]
		} split /\n/, $session->query(<<'SQL')),
SELECT relname, attname FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid
WHERE relnamespace = 'tasker'::regnamespace AND relkind = 'v' AND attname IN ('task_id', 'workflow_step_id') ORDER BY 1, 2
SQL
	(map { [ "$_()", "SELECT * FROM tasker.$_($subject)" ] }
		qw(step_readiness_status task_execution_context task_timeline step_depths dependency_levels task_document)),
	(map { [ "task_diagram() as $_", "SELECT tasker.task_diagram($subject, '$_')" ] } qw(text mermaid dot json)),
	(map { [ "$_()", "SELECT * FROM tasker.$_($subject)" ] } qw(graph_steps critical_paths bottlenecks error_chains parallelism task_graph_analysis expected_durations)),
	(map { [ "$_()", "SELECT * FROM tasker.$_($step)" ] } qw(step_transitive_dependencies step_siblings)),
	[ 'step_transitive_dependents()', "SELECT * FROM tasker.step_transitive_dependents($step - 3)" ],
	[ 'task_template_graph()', "SELECT tasker.task_template_graph('subject', 't')" ],
	(map { [ "$_() of two tasks", "SELECT * FROM tasker.$_(ARRAY[$subject, $subject + 1])" ] } qw(step_readiness_statuses task_execution_contexts)),
	[ 'parents of a step', "SELECT * FROM tasker.workflow_step_edges WHERE to_step_id = $step" ],
	[ 'children of a step', "SELECT * FROM tasker.workflow_step_edges WHERE from_step_id = $step - 3" ],
	[ 'edges of a task', "SELECT e.* FROM tasker.workflow_step_edges e JOIN tasker.workflow_steps s ON s.workflow_step_id = e.to_step_id WHERE s.task_id = $subject" ],
	[ 'transitions of the steps of a task', "SELECT l.* FROM tasker.workflow_step_transitions l JOIN tasker.workflow_steps s USING (workflow_step_id) WHERE s.task_id = $subject" ],
);

# What is known not to be flat: situation, operation, reason.
my @known = (
	[ qr/snapshot/, qr/^(?:orchestrate\(\)|my_steps|find_viable_steps|step_readiness|task_execution|task_workflow)/,
		'all versions of the checkpoint row, one for each second under the snapshot, are read; a session that orchestrates looks at all dead timers once' ],
	[ qr/one task/, qr/^(?:task_execution_contexts of|task_execution_context\(\)|task_workflow|children of a step)/, 'the planner believes that every step is of the task' ],
	[ qr/analyzed/, qr/^transitions of the steps/, 'the planner believes that one step in two hundred is of the task' ],
	[ qr/vacuumed/, qr/^(?:fail_steps|step_dag_relationships|task_document|parents|children|edges|transitions of the steps)/,
		'tables that look empty are joined in any order, without keys' ],
	[ qr/statistics/, qr/^orchestrate\(\) of a cancelled step/,
		'tasks are locked by their key, and of two indexes that look empty the planner may take tasks_of_named_task' ],
);

sub reason
{
	my ($situation, $name) = @_;

	foreach my $known (@known)
	{
		return $known->[2] if $situation =~ $known->[0] && $name =~ $known->[1];
	}
	return undef;
}

# The pages that an operation touches, and of which relations; it may take so long.
sub cost
{
	my ($operation, $patience) = @_;
	my ($name, $command, @preparations) = @$operation;
	my $times = @preparations ? 5 : 2;

	@preparations = ('SELECT 1') unless @preparations;
	$session->query("SET statement_timeout = '$patience'");
	my ($out, $err) = $session->try(sprintf 'CALL flat.measure(ARRAY[%s], $q$%s$q$, %d, NULL)',
		join(', ', map { "\$q\$$_\$q\$" } @preparations), $command, $times);
	$session->query('RESET statement_timeout');
	return $out =~ /^\((\d+),"?(.*?)"?\)$/ ? ($1, $2) : ('infinitely many', $err =~ s/\n.*//sr);
}

# The cost of each operation in a small database with good statistics.
my %small;

# Measures everything in a situation and compares it with the small database. What
# is known to join whole tables is not waited for.
sub stays_flat
{
	my ($situation, $belief) = @_;
	my %pages;

	# As autovacuum does; behind an old snapshot it has no effect.
	$session->query('VACUUM tasker.work_queue, tasker.timers, tasker.orchestrator_checkpoint');
	$session->query("SELECT flat.believe_in_$belief") if defined $belief;
	# Statistics that are put back do not make anybody plan again.
	$session->query('DISCARD PLANS');
	foreach my $operation (@operations)
	{
		my ($name) = @$operation;
		my $bound = 2 * $small{$name} + $slack;
		my $reason = reason($situation, $name);
		my ($pages, $of_what) = cost($operation, $reason && $situation =~ /vacuumed/ ? '300ms' : '60s');
		my $flat = $pages =~ /^\d+$/ && $pages <= $bound;

		$pages{$name} = $pages;
		TODO:
		{
			local $TODO = $reason;
			ok($flat, "$name is flat $situation: at most $bound pages") or diag("$pages pages: $of_what");
		}
	}
	# The analytics of what is recent do not read what is old: some ranges of the
	# BRIN index, 128 pages each, and the last pages, which no vacuum has summed up.
	$session->query('VACUUM tasker.task_transition_log, tasker.workflow_step_transition_log') unless defined $belief;
	foreach my $function (qw(slowest_steps slowest_tasks error_patterns step_duration_statistics))
	{
		my ($pages, $of_what) = cost([ $function, "SELECT * FROM tasker.$function(tasker.now() + interval '1 minute')" ], '60s');
		ok($pages =~ /^\d+$/ && $pages <= 400, "$function() of a moment reads the end of the logs $situation") or diag("$pages pages: $of_what");
	}
	return \%pages;
}

# The updates of a table so far, and those that were heap-only.
sub updates
{
	my ($table) = @_;

	$session->query('SELECT pg_stat_force_next_flush()');
	return split /\|/, $session->query("SELECT pg_stat_get_tuples_updated(t), pg_stat_get_tuples_hot_updated(t) FROM CAST('tasker.$table' AS regclass) t");
}

# Runs a function; returns which share of the updates of each table was heap-only.
sub heap_only
{
	my ($function) = @_;
	my %before = map { $_ => [ updates($_) ] } qw(tasks workflow_steps);
	my %share;

	$function->();
	foreach my $table (keys %before)
	{
		my ($updates, $hot) = updates($table);
		$share{$table} = 100 * ($hot - $before{$table}[1]) / ($updates - $before{$table}[0]);
	}
	return %share;
}

# --- small, then large ------------------------------------------------------------------------

$session->query("SELECT flat.create('single', 3000)");
$session->query($orchestrate);
$session->query("CALL flat.drain($executor{H}, 1000)");
$session->query('ANALYZE');
foreach my $operation (@operations)
{
	($small{ $operation->[0] }) = cost($operation, '60s');
}

# Twenty thousand are finished, a hundred thousand wait.
$session->query("SELECT flat.create('single', 20000)");
$session->query($orchestrate);
$session->query("CALL flat.drain($executor{H}, 20000)");
$session->query("SELECT flat.create('single', 20000)") foreach 1 .. 5;
$session->query($orchestrate);
cmp_ok($session->query('SELECT count(*) FROM tasker.work_queue'), '>', 100_000, 'a hundred thousand steps wait');

cmp_ok($session->query("SELECT sum(pg_relation_size(r)) / 8192 FROM flat.relations() r WHERE r::regclass::text LIKE '%transition_log_p0'"), '>', 1200, 'so do rows of the logs');

my %seen = (small => \%small);
$session->query('ANALYZE');
$seen{large} = stays_flat('in a large database');

# --- with wrong statistics ------------------------------------------------------------------------

$seen{one} = stays_flat('with the statistics of one task', 'one_task()');
$seen{analyzed} = stays_flat('with the statistics of tables analyzed when empty', 'empty_tables(0)');
$seen{vacuumed} = stays_flat('with the statistics of tables vacuumed when empty', 'empty_tables(1)');
$session->query('ANALYZE');
$session->query($orchestrate);

# --- behind an old snapshot -------------------------------------------------------------------------

$session->query("SELECT flat.create('fresh', 5000)");
$session->query($orchestrate);
my $old = Tasker::Session->new($node, 'app');
$old->query('BEGIN ISOLATION LEVEL REPEATABLE READ');
$old->query('SELECT count(*) FROM tasker.named_tasks');

my %share = heap_only(sub { $session->query("CALL flat.drain($executor{N}, 5000)") });
cmp_ok($share{workflow_steps}, '==', 100, 'claim and completion of steps are heap-only updates under an old snapshot');
cmp_ok($share{tasks}, '>=', 90, 'so are those of tasks');

# Then some forty thousand rows of the queue, ten thousand timers and hundreds of
# checkpoints are dead.
$session->query("CALL flat.drain($executor{H}, 30000)");
$session->query("SELECT flat.create('timed', 10000)");
%share = heap_only(sub { $session->query($orchestrate); $session->query("CALL flat.drain($executor{T}, 10000)") });
cmp_ok($share{tasks}, '>=', 90, 'and the updates of tasks that start and end under it');
$session->query('SET tasker.clock_offset = 100000');
$session->query($orchestrate);
$session->query($orchestrate) foreach 1 .. 200;
is($session->query('SELECT count(*) FROM tasker.timers WHERE due_at <= tasker.now()'), '0', 'no timer is left that was due');
$seen{held} = stays_flat('behind an old snapshot');
$old->query('COMMIT');
$session->query('RESET tasker.clock_offset');

my @situations = qw(small large one analyzed vacuumed held);
note(sprintf '%-45s' . ' %8s' x @situations, 'pages', @situations);
note(sprintf '%-45s' . ' %8.8s' x @situations, $_, do { my $name = $_; map { $seen{$_}{$name} } @situations }) foreach map { $_->[0] } @operations;

$session->query($orchestrate);
$_->quit foreach $old, $session;
ends_well($node, ['app'], qr/canceling statement due to statement timeout/);
$node->stop;
done_testing();
