# Everything at once, while anything is killed at any moment: executors that
# pull, are pushed to, or live on a lease; a creator of random diamonds; and
# signal 9 for clients, their backends, the orchestrator and the whole server.
# Afterwards the logs are read by SQL of our own: nothing is lost, nothing has
# happened twice, every effect is there exactly with its step.
#
# TASKER_TORTURE_SEED=N repeats the order of the kills, though not their moment.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Tasker;
use Test::More;
use Time::HiRes qw(time usleep);

my $kills = 30;
my $seed = $ENV{TASKER_TORTURE_SEED} || time % 1000000;
srand($seed);
diag("TASKER_TORTURE_SEED=" . int($seed));

my $node = tasker_node('torture', conf => <<'CONF');
autovacuum = on
autovacuum_naptime = 2s
tasker.backoff_base = 20ms
tasker.backoff_cap = 200ms
tasker.backoff_jitter = 0.5
tasker.checkpoint_interval = 200ms
CONF
my $dir = PostgreSQL::Test::Utils::tempdir();
my $psql = $node->installed_command('psql');

$node->safe_psql('postgres', 'CREATE DATABASE app');
$node->safe_psql('app', 'CREATE EXTENSION tasker');
$node->safe_psql('app', <<'SQL');
-- What the executors do in the name of the business, in the transaction that completes the step.
CREATE TABLE business (step_id bigint NOT NULL, claim integer NOT NULL);
-- What the creator was promised.
CREATE TABLE promised (task_id bigint NOT NULL, name text NOT NULL);

CREATE FUNCTION dice(n integer) RETURNS integer LANGUAGE sql VOLATILE AS 'SELECT floor(random() * n)::integer';

-- Diamonds of different width and length, patient and impatient ones.
SELECT tasker.register_task_template(jsonb_build_object('name', 'd' || n, 'namespace_name', 't', 'version', '1.0.0', 'step_templates',
	jsonb_build_array(jsonb_build_object('name', 'top', 'handler_class', 'A') || o)
	|| (SELECT jsonb_agg(jsonb_build_object('name', 'side' || s, 'handler_class', (ARRAY['A', 'B'])[1 + s % 2], 'depends_on_step', 'top') || o) FROM generate_series(1, n) s)
	|| (jsonb_build_object('name', 'bottom', 'handler_class', 'B', 'depends_on_steps', (SELECT jsonb_agg('side' || s) FROM generate_series(1, n) s)) || o)
	|| (jsonb_build_object('name', 'tail', 'handler_class', 'A', 'skippable', n % 2 = 0, 'depends_on_step', 'bottom') || o)))
FROM generate_series(1, 6) n, LATERAL (SELECT jsonb_build_object('default_retry_limit', CASE WHEN n % 3 = 0 THEN 3 ELSE 100 END) AS o) options;

CREATE FUNCTION begin_executor(kind text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	id bigint := (tasker.register_executor(kind, '{A,B}', CASE WHEN kind LIKE 'push%' THEN 8 ELSE 0 END, kind LIKE '%leased', '1 s')).executor_id;
BEGIN
	PERFORM set_config('torture.executor', id::text, false), set_config('torture.kind', kind, false);
END
$$;

-- One turn of an executor: what it has, or claims now ...
CREATE FUNCTION take_steps() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	executor bigint := current_setting('torture.executor');
	kind text := current_setting('torture.kind');
	taken jsonb;
BEGIN
	IF kind LIKE '%leased' AND NOT tasker.heartbeat(executor) THEN
		PERFORM begin_executor(kind);
		executor := current_setting('torture.executor');
	END IF;
	IF kind LIKE 'push%' THEN
		SELECT jsonb_agg(jsonb_build_object('s', workflow_step_id, 'c', claim)) INTO taken FROM tasker.my_steps(executor);
	ELSE
		SELECT jsonb_agg(jsonb_build_object('s', workflow_step_id, 'c', claim)) INTO taken FROM tasker.claim_steps(executor, 1 + dice(8));
	END IF;
	PERFORM set_config('torture.steps', coalesce(taken, '[]')::text, false);
	IF taken IS NULL THEN
		PERFORM pg_sleep(0.005);
	END IF;
END
$$;

-- ... and, in the next transaction, how it went. Sometimes all of it is rolled back.
CREATE FUNCTION report_steps() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	executor bigint := current_setting('torture.executor');
	step bigint;
	claim integer;
	die integer;
BEGIN
	PERFORM pg_sleep(0.001 * dice(8));
	FOR step, claim IN SELECT t.s, t.c FROM jsonb_to_recordset(current_setting('torture.steps')::jsonb) t(s bigint, c integer) LOOP
		die := dice(100);
		BEGIN
			IF die < 82 THEN
				INSERT INTO business VALUES (step, claim);
				PERFORM tasker.complete_step(step, claim, jsonb_build_object('by', executor), executor);
				-- Said twice, heard once.
				IF die < 5 AND tasker.complete_step(step, claim, '{"by": "echo"}', executor) THEN
					RAISE EXCEPTION 'step % was completed twice', step;
				END IF;
			ELSIF die < 93 THEN
				PERFORM tasker.fail_step(step, claim, 'no luck', retryable => die < 92, executor_id => executor);
			ELSIF die < 97 THEN
				PERFORM tasker.release_step(step, claim, executor);
			END IF;
			-- The rest is forgotten: push executors find it in my_steps, others lose it with their session.
		EXCEPTION WHEN SQLSTATE 'TK001' THEN
			NULL;
		END;
	END LOOP;
	IF dice(50) = 0 THEN
		RAISE EXCEPTION 'a rollback of %', current_setting('torture.steps');
	END IF;
END
$$;

CREATE FUNCTION create_some() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1..1 + dice(6) LOOP
		WITH kind AS MATERIALIZED (SELECT 'd' || 1 + dice(6) AS name)
		INSERT INTO promised SELECT tasker.create_task(name, jsonb_build_object('i', i), 't', priority => dice(5) - 2), name FROM kind;
	END LOOP;
	IF dice(20) = 0 THEN
		RAISE EXCEPTION 'a rollback';
	END IF;
	PERFORM pg_sleep(0.02);
END
$$;
SQL

# --- the actors ---------------------------------------------------------------------

# A client in a process of its own, begun again whenever it or its server dies.
sub actor
{
	my ($name, $begin, @turns) = @_;
	my $script = "$dir/$name.sql";
	my $actor = { name => $name, stop => "$dir/$name.stop", pid => "$dir/$name.pid" };

	append_to_file($script, "$begin;\n" . join('', map { "$_;\n" } @turns) x 2000);
	$actor->{harness} = IPC::Run::start(
		[ 'sh', '-c', 'while [ ! -e "$1" ]; do "$3" -XqAt -d "$4" -f "$5" >/dev/null 2>>"$5.err" & echo $! >"$2"; wait $!; rm -f "$2"; sleep 0.05; done; touch "$1.done"',
			'sh', $actor->{stop}, $actor->{pid}, $psql, $node->connstr('app') . " application_name=$name", $script ],
		IPC::Run::timeout(300));
	return $actor;
}

# The process of an actor's psql, if there is one now.
sub pid_of
{
	my ($actor) = @_;
	my $pid = eval { slurp_file($actor->{pid}) } // '';

	return $pid =~ /^(\d+)$/ ? $1 : 0;
}

sub end_actor
{
	my ($actor) = @_;

	append_to_file($actor->{stop}, '');
	until_true(sub { my $pid = pid_of($actor); kill 'KILL', $pid if $pid; return -e "$actor->{stop}.done"; }) or diag("$actor->{name} does not end");
	$actor->{harness}->finish;
}

my @turns = ('SELECT take_steps()', 'SELECT report_steps()');
my @executors = map { actor($_, "SELECT begin_executor('$_')", @turns) } qw(pull push pull_leased push_leased);
my $creator = actor('creator', 'SELECT 1', 'SELECT create_some()');

# --- the killer -----------------------------------------------------------------------

# A question to the server, with no answer while it is not there.
sub ask
{
	my ($sql) = @_;
	my ($rc, $out) = eval { $node->psql('app', $sql, timeout => 20) };

	return defined $rc && $rc == 0 ? $out : undef;
}

my $completed = q(SELECT count(*) FROM tasker.workflow_step_transition_log WHERE to_state = 'complete');
my %way = (
	client => sub { my $pid = pid_of($executors[ rand @executors ]); return $pid && kill 'KILL', $pid; },
	backend => sub { my $name = $executors[ rand @executors ]{name}; my $pid = ask("SELECT pid FROM pg_stat_activity WHERE application_name = '$name'"); return $pid && kill 'KILL', $pid; },
	terminate => sub { return (ask(q(SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name LIKE 'pu%' OR backend_type LIKE 'tasker%')) // 0) > 0; },
	orchestrator => sub { my $pid = ask('SELECT pid FROM tasker.stat_orchestrator'); return $pid && kill 'KILL', $pid; },
	server => sub { $node->stop('immediate'); $node->start; return 1; });
my @ways = ((qw(client) x 3), (qw(backend) x 2), 'terminate', (qw(orchestrator) x 2), (qw(server) x 2));
my %count;
my $begin = time();
my $before = 0;
my $stuck = 0;

ok(until_true(sub { (ask($completed) // 0) > 50 }), 'the work has begun');
for (my $n = 0; $n < $kills && time() - $begin < 60;)
{
	my $way = $ways[ rand @ways ];

	usleep(rand 700_000);
	next unless $way{$way}->();
	$n++;
	$count{$way}++;
	# Between two kills something must get done, else nothing would be tried.
	my $now;
	$stuck++ unless until_true(sub { $now = ask($completed); defined $now && $now > $before }, 15);
	$before = $now // $before;
}
diag(sprintf 'killed in %.0f s: %s', time() - $begin, join(', ', map { "$_ $count{$_}" } sort keys %count));
is($stuck, 0, 'after every kill the work went on by itself');

# --- the end ------------------------------------------------------------------------------

end_actor($creator);
my $open = q(SELECT count(*) FROM tasker.tasks WHERE state IN ('pending', 'in_progress'));
ok(until_true(sub { (ask($open) // 1) eq '0' }, 60), 'every task reaches its end');
end_actor($_) foreach @executors;
ok($node->poll_query_until('app', q(SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name LIKE 'pu%')), 'the actors are gone');
diag('tasks and steps: ' . ask(q(SELECT string_agg(format('%s %s %s', n, what, state), ', ' ORDER BY what DESC, n DESC) FROM (
	SELECT 'tasks' AS what, state, count(*) AS n FROM tasker.tasks GROUP BY 2 UNION ALL SELECT 'steps', state, count(*) FROM tasker.workflow_steps GROUP BY 2) c)));
diag('failures: ' . ask(q(SELECT string_agg(n || ' ' || class, ', ') FROM (SELECT coalesce(metadata->>'error_class', 'reported') AS class, count(*) AS n
	FROM tasker.workflow_step_transition_log WHERE to_state = 'error' GROUP BY 1) c)));

# --- what the logs say -------------------------------------------------------------------

# Each query gives a line for every violation.
my @laws = (
	'what was promised exists, and nothing else' => q(
		SELECT coalesce(p.task_id, t.task_id) FROM promised p FULL JOIN (SELECT task_id, n.name FROM tasker.tasks JOIN tasker.named_tasks n USING (named_task_id)) t
			ON t.task_id = p.task_id AND t.name = p.name WHERE p.task_id IS NULL OR t.task_id IS NULL),
	'every task has the steps and edges of its template' => q(
		SELECT t.task_id FROM tasker.tasks t JOIN tasker.named_tasks n USING (named_task_id)
		CROSS JOIN LATERAL (SELECT substr(n.name, 2)::integer AS width) w
		WHERE (SELECT count(*) FROM tasker.workflow_steps s WHERE s.task_id = t.task_id) <> width + 3
			OR (SELECT count(*) FROM tasker.workflow_steps s JOIN tasker.workflow_step_edges e ON e.to_step_id = s.workflow_step_id WHERE s.task_id = t.task_id) <> 2 * width + 1),
	'no step was completed twice' => q(
		SELECT workflow_step_id FROM tasker.workflow_step_transition_log WHERE to_state = 'complete' GROUP BY 1 HAVING count(*) > 1),
	'business rows are there exactly for completions' => q(
		SELECT coalesce(b.step_id, l.workflow_step_id), b.claim, l.sort_key FROM business b
		FULL JOIN (SELECT * FROM tasker.workflow_step_transition_log WHERE to_state = 'complete') l ON l.workflow_step_id = b.step_id AND l.sort_key = b.claim + 10
		WHERE b.step_id IS NULL OR l.workflow_step_id IS NULL),
	'no business row is there twice' => q(SELECT step_id FROM business GROUP BY 1 HAVING count(*) > 1),
	'the logs of steps are contiguous' => q(
		SELECT * FROM (SELECT workflow_step_id, sort_key, from_state, row_number() OVER w * 10 AS expected, coalesce(lag(to_state) OVER w, 'pending') AS before
			FROM tasker.workflow_step_transition_log WINDOW w AS (PARTITION BY workflow_step_id ORDER BY sort_key)) l
		WHERE sort_key <> expected OR from_state <> before),
	'the transitions of steps are legal' => q(
		SELECT workflow_step_id, sort_key, from_state, to_state FROM tasker.workflow_step_transition_log
		WHERE (from_state::text, to_state::text) NOT IN (('pending', 'in_progress'), ('in_progress', 'complete'), ('in_progress', 'error'),
			('in_progress', 'pending'), ('error', 'pending'), ('error', 'resolved_manually'))),
	'the logs of tasks are contiguous and legal' => q(
		SELECT * FROM (SELECT task_id, sort_key, from_state, to_state, row_number() OVER w * 10 AS expected, lag(to_state) OVER w AS before
			FROM tasker.task_transition_log WINDOW w AS (PARTITION BY task_id ORDER BY sort_key)) l
		WHERE sort_key <> expected OR from_state IS DISTINCT FROM before
			OR (coalesce(from_state::text, 'none'), to_state::text) NOT IN (('none', 'pending'), ('pending', 'in_progress'), ('in_progress', 'complete'), ('in_progress', 'error'))),
	'rows show what their logs say last' => q(
		SELECT 'step', s.workflow_step_id FROM tasker.workflow_steps s LEFT JOIN LATERAL (SELECT sort_key, to_state FROM tasker.workflow_step_transition_log l
			WHERE l.workflow_step_id = s.workflow_step_id ORDER BY sort_key DESC LIMIT 1) l ON true
		WHERE (s.state, s.sort_key) IS DISTINCT FROM (coalesce(l.to_state, 'pending'), coalesce(l.sort_key, 0))
		UNION ALL
		SELECT 'task', t.task_id FROM tasker.tasks t LEFT JOIN LATERAL (SELECT sort_key, to_state FROM tasker.task_transition_log l
			WHERE l.task_id = t.task_id ORDER BY sort_key DESC LIMIT 1) l ON true
		WHERE (t.state, t.sort_key) IS DISTINCT FROM (l.to_state, l.sort_key)),
	'no step began before its parents had ended' => q(
		SELECT e.from_step_id, e.to_step_id FROM tasker.workflow_step_edges e
		JOIN tasker.workflow_step_transition_log c ON c.workflow_step_id = e.to_step_id AND c.to_state = 'in_progress'
		WHERE NOT EXISTS (SELECT FROM tasker.workflow_step_transition_log p WHERE p.workflow_step_id = e.from_step_id
			AND p.to_state IN ('complete', 'resolved_manually') AND p.created_at <= c.created_at)),
	'attempts are claims less releases, within the limit' => q(
		SELECT s.workflow_step_id, s.attempts, l.n FROM tasker.workflow_steps s
		CROSS JOIN LATERAL (SELECT count(*) FILTER (WHERE to_state = 'in_progress') - count(*) FILTER (WHERE from_state = 'in_progress' AND to_state = 'pending') AS n
			FROM tasker.workflow_step_transition_log l WHERE l.workflow_step_id = s.workflow_step_id) l
		WHERE s.attempts <> l.n OR s.attempts > s.retry_limit),
	'a task is complete when all its steps are, and in error when one failed for good' => q(
		SELECT t.task_id, t.state FROM tasker.tasks t
		CROSS JOIN LATERAL (SELECT bool_and(state IN ('complete', 'resolved_manually')) AS done, bool_or(state = 'in_progress') AS running,
				bool_or(state = 'error' AND (attempts >= retry_limit OR failed_permanently) AND NOT skippable) AS failed
			FROM tasker.workflow_steps s WHERE s.task_id = t.task_id) s
		WHERE t.state::text <> CASE WHEN done THEN 'complete' WHEN failed AND NOT running THEN 'error' ELSE 'nothing' END),
	'check() finds nothing' => 'SELECT * FROM tasker.check()');

while (my ($law, $query) = splice @laws, 0, 2)
{
	is($node->safe_psql('app', "SET jit = off; $query"), '', $law);
}

# Only what we did ourselves may have hurt a process, and the orchestrator has no errors to report.
my @hurt = grep { /PANIC:|TRAP:|stuck spinlock|terminated by signal (?!9\b)|tasker \w+ (?:ERROR|WARNING):|was completed twice/ } split /\n/, slurp_file($node->logfile);
splice @hurt, 10 if @hurt > 10;
is(join("\n", @hurt), '', 'the log of the server tells of no other harm');

$node->stop;
done_testing();
