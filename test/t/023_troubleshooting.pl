# docs/troubleshooting.md: each trouble is made, each query of its chapter is
# asked as the page has it, and the answer is the one that the page promises.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Utils;
use Tasker;
use Test::More;

my $page = slurp_file('docs/troubleshooting.md');
my (%chapters, %asked);
$chapters{$1} = $2 while $page =~ /^## (.+?)\n(.*?)(?=^## |\z)/msg;

# The n-th query of a chapter; 42 and 7 stand for ids.
sub query_of
{
	my ($chapter, $n, $id) = @_;
	my @queries = ($chapters{$chapter} // die "no chapter $chapter") =~ /^```sql\n(.*?)^```$/msg;
	my $query = $queries[$n] // die "no query $n in $chapter";

	$asked{$chapter}{$n} = 1;
	$query =~ s/\b(?:42|7)\b/$id/ if defined $id;
	return $query;
}

# A query of a chapter answers, as the page says in these words; and like this.
sub answers
{
	my ($session, $chapter, $n, $id, $words, $like) = @_;
	my $answer = '';
	my $query = query_of($chapter, $n, $id);

	ok(index($chapters{$chapter}, $_) >= 0, "\"$chapter\" speaks of \"$_\"") foreach @$words;
	ok(Tasker::until_true(sub { $answer = $session->query($query); $answer =~ $like }, 20), "and the query answers so")
	  or diag("$query$answer");
	return $answer;
}

my $node = tasker_node('trouble', streaming => 1, conf => "tasker.backoff_base = 1h\ntasker.backoff_cap = 1h\n");
$node->safe_psql('postgres', 'CREATE DATABASE app');
my $session = Tasker::Session->new($node, 'app');
my $other = Tasker::Session->new($node, 'app');
$session->query('CREATE EXTENSION tasker');
$session->query($_) foreach
	Tasker::template_sql('diamond', 'a; b<-a; c<-a; d<-b,c'),
	Tasker::template_sql('nobody', 'a', { handler_class => 'nobody' }),
	Tasker::template_sql('pulled', 'a', { handler_class => 'pulled' }),
	Tasker::template_sql('poison', 'a', { handler_class => 'poison' }),
	Tasker::template_sql('timed', 'a', { handler_class => 'pulled', timeout_seconds => 3600 });
$session->query(q(SELECT tasker.register_task_template('{"name": "in turn", "namespace_name": "t", "version": "1.0.0", "concurrent": false,
	"step_templates": [{"name": "one", "handler_class": "pulled"}, {"name": "two", "handler_class": "pulled"}]}')));
$session->query(q(SELECT tasker.register_task_template('{"name": "by hand", "namespace_name": "t", "version": "1.0.0", "coordinator_strategy": "synchronous",
	"step_templates": [{"name": "one", "handler_class": "app.f"}]}')));
ok($session->poll(q(SELECT status = 'running' FROM tasker.stat_orchestrator)), 'an orchestrator runs');

# ---------- a task does not move ----------

my $stuck = 'A task does not move';
my ($nobody) = diamonds($session, 1, name => 'nobody');
answers($session, $stuck, 0, $nobody, ['no executor that is there runs its handler'],
	qr/^step a\|It is ready, and no executor that is there runs its handler nobody\.\|Start a program that calls tasker.register_executor\(\.\.\., '\{nobody\}'\)\.$/);

my $executor = Tasker::Executor->new($node, 'app', capacity => 1);
my ($task) = diamonds($session, 1);
my ($step) = $executor->expect(1);
my ($second) = diamonds($session, 1);
answers($session, $stuck, 0, $task, ['has it since', '`other steps`'],
	qr/^step a\|Executor \d+ \(e\) has it since [\d :-]+, attempt 1, without a timeout\.\|Look at that program\. To take the step back: SELECT tasker\.unregister_executor\(\d+\);\nother steps\|3 wait for the ones before them\.\|$/);
answers($session, $stuck, 0, $second, ['have all the steps that they take at once'],
	qr/^step a\|It is ready, and the 1 executors of handler H have all the steps that they take at once: 1 of 1; 0 steps are before it in the queue\.\|Start more executors/);
my $busy = answers($session, 'Steps are ready but nobody gets them', 0, undef, ['`in_flight` equals `capacity`'], qr/^H\|1\|1\|0\|1\|1$/m);
like($busy, qr/^nobody\|1\|0\|0\|0\|0$/m, 'and so about the handler that nobody runs');

my $puller = Tasker::Executor->new($node, 'app', name => 'puller', handlers => 'pulled', capacity => 0);
my ($pulled) = diamonds($session, 1, name => 'pulled');
answers($session, $stuck, 0, $pulled, ['to ask for steps'],
	qr/^step a\|It is ready and waits for one of 1 executors of handler pulled to ask for steps; 0 steps are before it in the queue\./);
my ($held) = split /\|/, $puller->query("SELECT workflow_step_id, claim FROM tasker.claim_steps($puller->{id})");
my ($timed) = diamonds($session, 1, name => 'timed');
ok($session->poll("SELECT count(*) FROM tasker.work_queue JOIN tasker.workflow_steps USING (workflow_step_id) WHERE task_id = $timed", '1'), 'a step with a timeout waits');
my ($late, $late_claim) = split /\|/, $puller->query("SELECT workflow_step_id, claim FROM tasker.claim_steps($puller->{id})");
answers($session, $stuck, 0, $timed, ['`timeout_seconds`'], qr/attempt 1; it times out at [\d :-]+\./);

$executor->query("SELECT tasker.fail_step($step->{workflow_step_id}, $step->{claim}, 'the card is expired')");
answers($session, $stuck, 0, $task, ['and is tried again at'],
	qr/^step a\|It has failed \(attempt 1 of 3: the card is expired\) and is tried again at [\d :-]+\.\|Not to wait: SELECT tasker\.retry_step\($step->{workflow_step_id}\);\nother/);
($step) = $executor->expect(1);
$executor->query("SELECT tasker.fail_step($step->{workflow_step_id}, $step->{claim}, 'no such account', retryable => false)");
answers($session, $stuck, 0, $second, ['It is in error'],
	qr/^task\|It is in error: nothing of it can run any more\.\|SELECT tasker\.retry_task\($second\); or tasker\.resolve_task\($second\)\nstep a\|It has failed for good, by the word of its executor, after 1 of 3 attempts: no such account\|SELECT tasker\.retry_step/);
$session->query("SELECT tasker.resolve_task($second)");
answers($session, $stuck, 0, $second, ['It has ended'], qr/^task\|It has ended: it is resolved_manually since [\d :-]+\.\|$/);

my ($in_turn) = diamonds($session, 1, name => 'in turn');
ok(Tasker::until_true(sub { $puller->query("SELECT step_name FROM tasker.claim_steps($puller->{id})") eq 'one' }), 'the first of two steps that go in turn runs');
answers($session, $stuck, 0, $in_turn, ['It waits for its turn'],
	qr/\nstep two\|It waits for its turn: the template runs one step at a time, and one is in progress\.\|$/);
my ($by_hand) = diamonds($session, 1, name => 'by hand');
answers($session, $stuck, 0, $by_hand, ['The template is synchronous'],
	qr/^step one\|It is ready\. The template is synchronous: only a session that calls coordinate_task runs its steps\.\|SELECT \* FROM tasker\.coordinate_task\($by_hand\);$/);

$session->query("SELECT tasker.pause('t')");
answers($session, $stuck, 0, $nobody, ['is paused since'], qr/^namespace\|Namespace t is paused since [\d :-]+\.\|SELECT tasker\.resume\('t'\);$/);
$session->query("SELECT tasker.resume('t'); SELECT tasker.pause('t', 'nobody')");
answers($session, $stuck, 0, $nobody, [], qr/^template\|Template nobody 1\.0\.0 is paused since [\d :-]+\.\|SELECT tasker\.resume\('t', 'nobody', '1\.0\.0'\);$/);
$session->query("SELECT tasker.resume('t', 'nobody'); SELECT tasker.pause()");
answers($session, $stuck, 0, $nobody, [], qr/^database\|Everything is paused since [\d :-]+\.\|SELECT tasker\.resume\(\);$/);
$session->query("SELECT tasker.resume()");

$other->query("BEGIN; SELECT FROM tasker.workflow_steps WHERE task_id = $nobody FOR UPDATE");
answers($session, $stuck, 0, $nobody, ['has changed or locked it'],
	qr/^step a\|Session $other->{pid} \(\w+(?:-\w+)*, idle in transaction\) has changed or locked it in a transaction that is open since [\d :-]+\.\|End its transaction, or SELECT pg_terminate_backend\($other->{pid}\);\n/);
$other->query("PREPARE TRANSACTION 'forgotten'");
answers($session, $stuck, 0, $nobody, [], qr/^step a\|Prepared transaction forgotten has changed or locked it since [\d :-]+\.\|COMMIT PREPARED 'forgotten'; or ROLLBACK PREPARED 'forgotten';\n/);
$other->query("ROLLBACK PREPARED 'forgotten'");

is(($session->try('SELECT * FROM tasker.why(-1)'))[1] =~ /ERROR:  unknown task -1/, 1, 'of an unknown task there is nothing to say');

# ---------- lock waits ----------

$other->query("BEGIN; SELECT FROM tasker.workflow_steps WHERE workflow_step_id = $held FOR UPDATE");
$puller->send("SELECT tasker.release_step($held, 10)");
answers($session, 'Deadlocks and lock waits', 0, undef, ['`idle in transaction`'],
	qr/^$puller->{pid}\|Lock\|transactionid\|SELECT tasker\.release_step\(\d+, 10\)[^|]*\|$other->{pid}\|idle in transaction\|/m);
$other->query('ROLLBACK');
$puller->finish;

# ---------- stale claims, and the same step twice ----------

$puller->quit;
answers($session, 'TK001 again and again', 0, $late, ['`executor_lost`'], qr/^10\|in_progress\|[^\n]*\|$puller->{id}\|\n20\|error\|[^\n]*\|executor_lost$/m);
like(($session->try("SELECT tasker.complete_step($late, $late_claim)"))[1], qr/claim $late_claim of step $late is stale/, 'what it reports is refused');
$puller = Tasker::Executor->new($node, 'app', name => 'puller', handlers => 'pulled', capacity => 0);
ok(Tasker::until_true(sub { $puller->query("SELECT count(*) FROM tasker.claim_steps($puller->{id}, 10)"); $puller->query("SELECT count(*) FROM tasker.my_steps($puller->{id}) WHERE workflow_step_id = $late") eq '1' }), 'another gets the step');
answers($session, 'An executor gets the same step twice', 0, $late, ['With a higher claim'],
	qr/^10\|in_progress\|\d+\|\n20\|error\|\d*\|executor_lost\n30\|pending\|\|\n40\|in_progress\|$puller->{id}\|$/m);

# ---------- slow, and a queue that grows ----------

ok($session->poll(q(SELECT unread_seconds = 0 AND unread_rows = 0 FROM tasker.stat_orchestrator)), 'the orchestrator has read everything');
$other->query('BEGIN; SELECT tasker.orchestrate()');
diamonds($session, 3);
answers($session, 'Everything is slow', 0, undef, ['`unread_seconds`', '`batch_p99`', '`dispatch_p99`', '`claim_p99`', '`execution_p99`'],
	qr/^(?:2|3|4)[\d.]*\|3\|[\d.]+\|[\d.]+\|[\d.]+\|[\d.]+\|[\d.]+\|[\d.]+\|[\d.]+\|$/);
answers($session, $stuck, 0, $nobody, ['is behind the logs'],
	qr/^orchestrator\|The orchestrator is \d+ s behind the logs\.\|.*\norchestrator\|Session $other->{pid} orchestrates in a transaction that is open since [\d :-]+; the worker waits for its end\.\|/);
$other->query('COMMIT');
answers($session, 'The queue grows', 0, undef, ['`completions_per_second`'], qr/^e\|1\|1\|[\d.]+\|[\d.]+\|2\|0\|[\d.e-]+$/m);

# ---------- the orchestrator ----------

my $not_running = 'The orchestrator is not running';
answers($session, $not_running, 0, undef, ['`running`'], qr/^running\|\d+\|\|\|0$/);
$session->query('ALTER DATABASE app SET tasker.orchestrator = off');
answers($session, $not_running, 0, undef, ['`off`'], qr/^off\|\|\|\|/);
answers($session, $stuck, 0, $nobody, ['No orchestrator runs'], qr/^orchestrator\|No orchestrator runs in this database: .*\|ALTER DATABASE app SET tasker\.orchestrator = on;\n/);
$session->query('ALTER DATABASE app RESET tasker.orchestrator');
answers($session, $not_running, 0, undef, [], qr/^running\|/);
like(slurp_file($node->logfile), qr/tasker: the orchestrator of database "app" stops: extensions or settings of the database have changed; it starts again if it is wanted/, 'the log says why it stopped');
answers($session, 'CPU at 100 %', 0, undef, ['`TaskerOrchestratorMain`', '`Extension`'], qr/^tasker orchestrator\|\d+\|idle\|(?:TaskerOrchestratorMain|Extension)\|tasker: /m);

# What it cannot process: a step whose claim fails.
$session->query(<<'SQL');
CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no room in the drawer'; END $$;
CREATE TRIGGER refuse BEFORE UPDATE ON tasker.workflow_steps FOR EACH ROW
WHEN (NEW.state = 'in_progress' AND NEW.handler_id = (0)) EXECUTE FUNCTION public.refuse();
SQL
my $poisoner = Tasker::Executor->new($node, 'app', name => 'poisoner', handlers => 'poison', capacity => 100);
my $handler = $session->query("SELECT handler_id FROM tasker.handlers WHERE name = 'poison'");
$session->query(<<"SQL");
DROP TRIGGER refuse ON tasker.workflow_steps;
CREATE TRIGGER refuse BEFORE UPDATE ON tasker.workflow_steps FOR EACH ROW
WHEN (NEW.state = 'in_progress' AND NEW.handler_id = $handler AND NEW.workflow_step_id % 7 = 0) EXECUTE FUNCTION public.refuse();
SQL
my @poisoned = diamonds($session, 14, name => 'poison');
ok(Tasker::until_true(sub { $poisoner->complete($poisoner->hear); $session->query("SELECT count(*) FROM tasker.tasks WHERE task_id IN (" . join(',', @poisoned) . ") AND state = 'complete'") eq '12' }),
	'twelve of fourteen tasks run to their end although two cannot');
my @aside = split /\n/, $session->query("SELECT 'step ' || workflow_step_id FROM tasker.workflow_steps WHERE task_id IN (" . join(',', @poisoned) . ") AND state <> 'complete' ORDER BY 1");
my $restarts = 'The orchestrator restarts again and again';
ok($session->poll("SELECT (SELECT array_agg(o ORDER BY o) FROM unnest(set_aside_owners) o) FROM tasker.stat_orchestrator", '{' . join(',', map { qq("$_") } @aside) . '}'), 'just these are set aside');
answers($session, $restarts, 0, undef, ['`set_aside_owners`', 'cannot be processed and is set'],
	qr/\|no room in the drawer\|P0001\|\d+\|\{"step \d+","step \d+"\}$/);
my ($poisoned) = $session->query("SELECT task_id FROM tasker.workflow_steps WHERE 'step ' || workflow_step_id = '$aside[0]'");
answers($session, $stuck, 0, $poisoned, ['has set it aside'], qr/^$aside[0]\|The orchestrator could not process it and has set it aside; the server log has the error\.\|Mend the cause, then SELECT pg_terminate_backend\(\d+\)/m);
my $log = slurp_file($node->logfile);
like($log, qr/LOG:  tasker: $_ of database "app" cannot be processed and is set aside: no room in the drawer\n.*HINT:  Mend the cause, then end the orchestrator with pg_terminate_backend/, "the log names $_") foreach @aside;
my @lines = $log =~ /tasker: a batch of database "app" has failed: no room in the drawer/g;
is(scalar @lines, 1, 'that batches fail it says once a minute');
$session->query('DROP TRIGGER refuse ON tasker.workflow_steps');
$session->query('SELECT pg_terminate_backend(pid) FROM tasker.stat_orchestrator');
ok(Tasker::until_true(sub { $poisoner->complete($poisoner->hear); $session->query("SELECT count(*) FROM tasker.tasks WHERE task_id IN (" . join(',', @poisoned) . ") AND state = 'complete'") eq '14' }),
	'the next one tries again, as the page says');

# ---------- the disk ----------

$other->query('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM tasker.tasks');
my ($history, $horizon) = query_of('The disk fills up', 0) =~ /^(.*?;)\n(.*;)$/s;
like($session->query($history), qr/^tasker\.\w+_log_p0\|\d+ kB\|\d+\|current$/m, 'the history is held by what is current');
like($chapters{'The disk fills up'}, qr/`held_by` `current`/, 'as the page says');
like($session->query($horizon), qr/^session\|$other->{pid}\|/m, 'the horizon is held by the open transaction');
$other->query('ROLLBACK');

# ---------- a restore, a standby ----------

$session->query('UPDATE tasker.orchestrator_checkpoint SET system_identifier = 1');
answers($session, 'After a restore nothing runs', 0, undef, ['`restored`'], qr/^restored$/);
answers($session, $stuck, 0, $nobody, [], qr/^database\|The database was restored or cloned from another server: no step is given out before somebody says so\.\|SELECT tasker\.resume\(\);\n/);
$session->query('SELECT tasker.resume()');
answers($session, 'After a restore nothing runs', 0, undef, [], qr/^$/);

$node->backup('b');
my $standby = PostgreSQL::Test::Cluster->new('trouble_standby');
$standby->init_from_backup($node, 'b', has_streaming => 1);
$standby->start;
$node->wait_for_catchup($standby, 'replay', $node->lsn('write'));
my $reader = Tasker::Session->new($standby, 'app');
my $promoted = 'A standby was promoted and nothing happens';
answers($reader, $promoted, 0, undef, ['`pg_is_in_recovery` true'], qr/^t\|(?:off|starting)\|/);
answers($reader, $stuck, 0, $nobody, [], qr/^server\|This server is a standby: nothing moves here\.\|Ask the primary, or promote this server\.\n/);
$node->stop('immediate');
$standby->promote;
answers($reader, $promoted, 0, undef, ['executors have to connect to the'], qr/^f\|running\|/);
$reader->quit;
$standby->stop;

# ---------- every query was asked ----------

my @unasked;
foreach my $chapter (keys %chapters)
{
	my @queries = $chapters{$chapter} =~ /^```sql\n/mg;
	push @unasked, map { "query $_ of $chapter" } grep { !$asked{$chapter}{$_} } 0 .. $#queries;
}
is(join(', ', @unasked), '', 'every query of the page was asked');
cmp_ok(scalar keys %asked, '>=', 13, 'of all its chapters');
done_testing();
