# The laws that hold whatever was killed, and how to see that each of them can
# be broken.
#
# Nothing of the extension is asked: no function, no view, not its table of
# transitions and not its idea of readiness. The laws read the rows, the logs,
# the commit times that the server keeps, and what the actors have written down
# (workload.sql). Each is a query that gives a row for every violation, and
# comes with a statement that violates it, whatever the dice have left there.
package Laws;

use strict;
use warnings;
use Exporter 'import';
use PostgreSQL::Test::Utils;

our @EXPORT = qw(broken_laws unseen_violations harm_in_log);

# How the steps of the torture are called, and when what happened was committed.
my $views = <<'SQL';
SET jit = off; SET work_mem = '64MB'; SET client_min_messages = warning;
CREATE TEMP VIEW task AS
	SELECT t.*, n.name FROM tasker.tasks t JOIN tasker.named_tasks n USING (named_task_id);
CREATE TEMP VIEW step AS
	SELECT s.*, task.name, n.name AS step, task.state AS task_state
	FROM tasker.workflow_steps s JOIN task USING (task_id) JOIN tasker.named_steps n USING (named_step_id);
CREATE TEMP VIEW step_log AS
	SELECT l.*, pg_xact_commit_timestamp(l.xact_id::text::xid) AS committed_at FROM tasker.workflow_step_transition_log l;
CREATE TEMP VIEW edge AS
	SELECT p.workflow_step_id AS parent_id, c.workflow_step_id AS child_id, p.state AS parent_state, c.task_id
	FROM torture.shape_edge e JOIN step p ON p.name = e.name AND p.step = e.parent JOIN step c ON c.task_id = p.task_id AND c.step = e.child;
-- What a step may still do: it runs, can run, or will be tried again.
CREATE TEMP VIEW alive AS
	SELECT s.workflow_step_id, s.task_id FROM step s JOIN torture.shape_step d USING (name, step)
	WHERE s.state = 'in_progress'
		OR (s.state = 'pending' AND s.workflow_step_id NOT IN (SELECT child_id FROM edge WHERE parent_state NOT IN ('complete', 'resolved_manually')))
		OR (s.state = 'error' AND (d.skippable OR (s.attempts < d.attempts AND NOT s.failed_permanently)));
SQL

my $victim = 'SELECT workflow_step_id FROM tasker.workflow_steps';
# One that somebody has run, not one that has waited.
my $done = "$victim WHERE state = 'complete' AND workflow_step_id IN (SELECT step_id FROM torture.business)";
my $waiting = 'SELECT s.workflow_step_id FROM step s JOIN torture.shape_step d USING (name, step) WHERE d.waits';
my $not_operated = 'SELECT min(t.task_id) FROM tasker.tasks t JOIN torture.promised p USING (task_id)
	WHERE NOT EXISTS (SELECT FROM torture.operated o WHERE o.task_id = t.task_id) AND EXISTS (SELECT FROM torture.shape_step d WHERE d.name = p.name AND NOT d.skippable AND NOT d.waits)';

# Takes a step out of the reach of one law only, where the violation moves it by hand.
sub move_step
{
	my ($which, $from, $to) = @_;

	return <<"SQL";
INSERT INTO tasker.workflow_step_transition_log (workflow_step_id, sort_key, from_state, to_state, created_at, role)
	SELECT workflow_step_id, sort_key + 10, '$from', '$to', now(), 'x' FROM tasker.workflow_steps WHERE workflow_step_id = ($which);
UPDATE tasker.workflow_steps SET state = '$to', sort_key = sort_key + 10 WHERE workflow_step_id = ($which)
SQL
}

our @laws = (
	'what was promised exists, or had ended before it was removed' => q(
		SELECT p.task_id, p.name FROM torture.promised p
		WHERE NOT EXISTS (SELECT FROM task WHERE task.task_id = p.task_id AND task.name = p.name)
			AND NOT EXISTS (SELECT FROM torture.operated o WHERE o.task_id = p.task_id AND o.what IN ('cancel_task', 'resolve_task', 'cancel_step'))
			AND (SELECT count(*) FROM torture.business b WHERE b.task_id = p.task_id)
				< (SELECT count(*) FROM torture.shape_step d WHERE d.name = p.name AND NOT d.skippable AND NOT d.waits)
				- (SELECT count(*) FROM torture.operated o WHERE o.task_id = p.task_id AND o.what = 'resolve_step')),
	"DELETE FROM torture.business WHERE task_id = ($not_operated); DELETE FROM tasker.tasks WHERE task_id = ($not_operated)",

	'nothing exists that was not promised' => q(
		SELECT task_id FROM tasker.tasks t WHERE NOT EXISTS (SELECT FROM torture.promised p WHERE p.task_id = t.task_id)),
	q(DELETE FROM torture.promised WHERE task_id = (SELECT max(task_id) FROM tasker.tasks)),

	'every task has the steps of its template, and none else' => q(
		SELECT coalesce(s.task_id, d.task_id), coalesce(s.step, d.step) FROM (SELECT task_id, step FROM step) s
		FULL JOIN (SELECT task.task_id, d.step FROM task JOIN torture.shape_step d USING (name)) d ON d.task_id = s.task_id AND d.step = s.step
		WHERE s.task_id IS NULL OR d.task_id IS NULL),
	"DELETE FROM tasker.workflow_steps WHERE workflow_step_id = ($done LIMIT 1)",

	'every step belongs to a task' => q(
		SELECT workflow_step_id FROM tasker.workflow_steps s WHERE NOT EXISTS (SELECT FROM tasker.tasks t WHERE t.task_id = s.task_id)),
	q(DELETE FROM tasker.tasks WHERE task_id = (SELECT min(task_id) FROM tasker.tasks)),

	'no step was completed twice' => q(
		SELECT workflow_step_id FROM tasker.workflow_step_transition_log WHERE to_state = 'complete' GROUP BY 1 HAVING count(*) > 1),
	"INSERT INTO tasker.workflow_step_transition_log (workflow_step_id, sort_key, from_state, to_state, created_at, role)
		SELECT workflow_step_id, sort_key + 20, 'in_progress', 'complete', now(), 'x' FROM tasker.workflow_steps WHERE workflow_step_id = ($done LIMIT 1)",

	# Of one that was removed with its task the log tells no more than that no executor had it, as none has a wait.
	'for every completion the row of its business is there, unless it was a wait' => "
		SELECT l.workflow_step_id, l.sort_key FROM tasker.workflow_step_transition_log l
		WHERE l.to_state = 'complete' AND NOT EXISTS (SELECT FROM torture.business b WHERE b.step_id = l.workflow_step_id AND b.claim + 10 = l.sort_key)
			AND l.workflow_step_id NOT IN ($waiting)
			AND (l.executor_id IS NOT NULL OR EXISTS (SELECT FROM tasker.workflow_steps s WHERE s.workflow_step_id = l.workflow_step_id))",
	"DELETE FROM torture.business WHERE step_id = ($done LIMIT 1)",

	'for every row of the business the completion is there' => q(
		SELECT b.step_id, b.claim FROM torture.business b
		WHERE EXISTS (SELECT FROM tasker.workflow_steps s WHERE s.workflow_step_id = b.step_id)
			AND NOT EXISTS (SELECT FROM tasker.workflow_step_transition_log l
				WHERE l.workflow_step_id = b.step_id AND l.sort_key = b.claim + 10 AND l.to_state = 'complete')),
	"DELETE FROM tasker.workflow_step_transition_log WHERE to_state = 'complete' AND workflow_step_id = ($done LIMIT 1)",

	'nobody has run a step that waits' => "SELECT step_id FROM torture.business WHERE step_id IN ($waiting)",
	"INSERT INTO torture.business SELECT workflow_step_id, 10, 0 FROM ($waiting LIMIT 1) w",

	'no step was told of an event that was never published' => "
		SELECT s.workflow_step_id, s.results ->> 'event_key' FROM tasker.workflow_steps s
		WHERE s.workflow_step_id IN ($waiting) AND s.results ->> 'event_key' NOT IN (SELECT 'event:' || event_id FROM torture.published)",
	"UPDATE tasker.workflow_steps SET results = '{\"event_key\": \"event:1000000000\"}' WHERE workflow_step_id = ($waiting LIMIT 1)",

	'no wait is left when nobody waits' => 'SELECT workflow_step_id FROM tasker.step_waits',
	'INSERT INTO tasker.step_waits (workflow_step_id, sort_key, since, until) SELECT max(workflow_step_id), 10, now(), now() FROM tasker.workflow_steps',

	'no row of the business is there twice' => 'SELECT step_id FROM torture.business GROUP BY 1 HAVING count(*) > 1',
	'INSERT INTO torture.business SELECT * FROM torture.business LIMIT 1',

	'the log of a step is contiguous' => q(
		SELECT * FROM (SELECT workflow_step_id, sort_key, from_state, row_number() OVER w * 10 AS expected, coalesce(lag(to_state) OVER w, 'pending') AS before
			FROM tasker.workflow_step_transition_log WINDOW w AS (PARTITION BY workflow_step_id ORDER BY sort_key)) l
		WHERE sort_key <> expected OR from_state <> before),
	"DELETE FROM tasker.workflow_step_transition_log WHERE sort_key = 10 AND workflow_step_id = ($done LIMIT 1)",

	'the transitions of steps are legal' => q(
		SELECT workflow_step_id, sort_key, from_state, to_state FROM tasker.workflow_step_transition_log
		WHERE (from_state::text, to_state::text) NOT IN (('pending', 'in_progress'), ('pending', 'cancelled'), ('pending', 'resolved_manually'),
			('in_progress', 'complete'), ('in_progress', 'error'), ('in_progress', 'pending'), ('in_progress', 'cancelled'), ('error', 'pending'), ('error', 'resolved_manually'))),
	move_step("$done ORDER BY 1 LIMIT 1", 'complete', 'pending'),

	'the log of a task is contiguous' => q(
		SELECT * FROM (SELECT task_id, sort_key, from_state, row_number() OVER w * 10 AS expected, lag(to_state) OVER w AS before
			FROM tasker.task_transition_log WINDOW w AS (PARTITION BY task_id ORDER BY sort_key)) l
		WHERE sort_key <> expected OR from_state IS DISTINCT FROM before),
	q(DELETE FROM tasker.task_transition_log WHERE sort_key = 20 AND task_id = (SELECT max(task_id) FROM tasker.tasks WHERE sort_key > 20)),

	'the transitions of tasks are legal' => q(
		SELECT task_id, sort_key, from_state, to_state FROM tasker.task_transition_log
		WHERE (coalesce(from_state::text, 'none'), to_state::text) NOT IN (('none', 'pending'), ('pending', 'in_progress'), ('pending', 'cancelled'),
			('in_progress', 'complete'), ('in_progress', 'error'), ('in_progress', 'cancelled'), ('in_progress', 'pending'),
			('error', 'pending'), ('error', 'resolved_manually'), ('complete', 'cancelled'), ('resolved_manually', 'cancelled'))),
	q(INSERT INTO tasker.task_transition_log (task_id, sort_key, from_state, to_state, created_at, role)
		SELECT task_id, sort_key + 10, 'complete', 'pending', now(), 'x' FROM tasker.tasks WHERE state = 'complete' LIMIT 1),

	'a row shows what its log says last' => q(
		SELECT 'step', s.workflow_step_id FROM tasker.workflow_steps s LEFT JOIN LATERAL (SELECT sort_key, to_state FROM tasker.workflow_step_transition_log l
			WHERE l.workflow_step_id = s.workflow_step_id ORDER BY sort_key DESC LIMIT 1) l ON true
		WHERE (s.state, s.sort_key) IS DISTINCT FROM (coalesce(l.to_state, 'pending'), coalesce(l.sort_key, 0))
		UNION ALL
		SELECT 'task', t.task_id FROM tasker.tasks t LEFT JOIN LATERAL (SELECT sort_key, to_state FROM tasker.task_transition_log l
			WHERE l.task_id = t.task_id ORDER BY sort_key DESC LIMIT 1) l ON true
		WHERE (t.state, t.sort_key) IS DISTINCT FROM (l.to_state, l.sort_key)),
	"UPDATE tasker.workflow_steps SET state = 'pending' WHERE workflow_step_id = ($done LIMIT 1)",

	'exactly one row of a log is the most recent of its owner' => q(
		SELECT 'step', s.workflow_step_id FROM tasker.workflow_steps s
		WHERE (SELECT count(*) FROM tasker.workflow_step_transition_log l WHERE l.workflow_step_id = s.workflow_step_id AND l.sort_key = s.sort_key) <> (s.sort_key > 0)::integer
		UNION ALL
		SELECT 'task', t.task_id FROM tasker.tasks t
		WHERE (SELECT count(*) FROM tasker.task_transition_log l WHERE l.task_id = t.task_id AND l.sort_key = t.sort_key) <> 1),
	"UPDATE tasker.workflow_steps SET sort_key = sort_key + 10 WHERE workflow_step_id = ($done LIMIT 1)",

	'a log has no owner that nobody was promised' => q(
		SELECT DISTINCT l.task_id FROM tasker.task_transition_log l WHERE NOT EXISTS (SELECT FROM torture.promised p WHERE p.task_id = l.task_id)),
	q(INSERT INTO tasker.task_transition_log (task_id, sort_key, to_state, created_at, role) VALUES (1000000000, 10, 'pending', now(), 'x')),

	# By the server's own times of commits: the clock of tasker was moved.
	'no step began before its parents had ended' => q(
		SELECT e.parent_id, e.child_id FROM edge e JOIN step_log c ON c.workflow_step_id = e.child_id AND c.to_state = 'in_progress'
		WHERE NOT EXISTS (SELECT FROM step_log p WHERE p.workflow_step_id = e.parent_id AND p.to_state IN ('complete', 'resolved_manually')
			AND (p.xact_id = c.xact_id OR p.committed_at <= c.committed_at))),
	q(UPDATE tasker.workflow_step_transition_log SET xact_id = (SELECT max(xact_id) FROM tasker.workflow_step_transition_log)
		WHERE to_state = 'complete' AND workflow_step_id = (SELECT parent_id FROM edge JOIN step_log c ON c.workflow_step_id = child_id
			WHERE parent_state = 'complete' AND c.to_state = 'in_progress' ORDER BY c.xact_id LIMIT 1)),

	'where steps run one at a time no two did' => q(
		SELECT a.workflow_step_id, b.workflow_step_id FROM step a JOIN torture.shape d ON d.name = a.name AND NOT d.concurrent
		JOIN step_log began ON began.workflow_step_id = a.workflow_step_id AND began.to_state = 'in_progress'
		LEFT JOIN step_log ended ON ended.workflow_step_id = a.workflow_step_id AND ended.sort_key = began.sort_key + 10
		JOIN step b ON b.task_id = a.task_id AND b.workflow_step_id <> a.workflow_step_id
		JOIN step_log other ON other.workflow_step_id = b.workflow_step_id AND other.to_state = 'in_progress'
		WHERE other.committed_at > began.committed_at AND (ended.xact_id IS NULL OR (other.committed_at < ended.committed_at AND other.xact_id <> ended.xact_id))),
	q(UPDATE torture.shape SET concurrent = false;
		UPDATE tasker.workflow_step_transition_log l SET xact_id = (SELECT max(xact_id) FROM tasker.workflow_step_transition_log)
		WHERE (l.workflow_step_id, l.sort_key) = (SELECT c.workflow_step_id, c.sort_key + 10 FROM step_log c JOIN step s USING (workflow_step_id)
			WHERE c.to_state = 'in_progress' AND EXISTS (SELECT FROM step_log o JOIN step x USING (workflow_step_id)
				WHERE x.task_id = s.task_id AND x.workflow_step_id <> s.workflow_step_id AND o.to_state = 'in_progress' AND o.committed_at > c.committed_at)
			ORDER BY c.xact_id LIMIT 1)),

	'attempts are claims less releases since an operator gave new ones' => q(
		SELECT s.workflow_step_id, s.attempts, l.n FROM tasker.workflow_steps s
		CROSS JOIN LATERAL (SELECT coalesce(max(sort_key), 0) AS fresh FROM tasker.workflow_step_transition_log l
			WHERE l.workflow_step_id = s.workflow_step_id AND from_state = 'error' AND to_state = 'pending' AND metadata->>'reason' = 'torture') f
		CROSS JOIN LATERAL (SELECT count(*) FILTER (WHERE to_state = 'in_progress') - count(*) FILTER (WHERE from_state = 'in_progress' AND to_state = 'pending') AS n
			FROM tasker.workflow_step_transition_log l WHERE l.workflow_step_id = s.workflow_step_id AND l.sort_key > fresh) l
		WHERE s.attempts <> l.n),
	"UPDATE tasker.workflow_steps SET attempts = attempts - 1 WHERE workflow_step_id = ($done LIMIT 1)",

	'no step was tried more often than its template allows' => q(
		SELECT s.workflow_step_id, s.attempts FROM step s JOIN torture.shape_step d USING (name, step) WHERE s.attempts > d.attempts),
	"UPDATE torture.shape_step SET attempts = 0",

	'a complete task has complete or resolved steps, a task in error one that is not' => q(
		SELECT t.task_id, t.state FROM tasker.tasks t
		WHERE t.state IN ('complete', 'error') AND (t.state = 'complete') <> (SELECT bool_and(s.state IN ('complete', 'resolved_manually')) FROM tasker.workflow_steps s WHERE s.task_id = t.task_id)),
	"UPDATE tasker.workflow_steps SET state = 'error' WHERE workflow_step_id = ($victim JOIN tasker.tasks t USING (task_id) WHERE t.state = 'complete' LIMIT 1)",

	'nothing of a task in error could have run' => q(
		SELECT t.task_id, a.workflow_step_id FROM tasker.tasks t JOIN alive a USING (task_id) WHERE t.state = 'error'),
	"UPDATE tasker.workflow_steps SET state = 'in_progress' WHERE workflow_step_id = ($done ORDER BY 1 LIMIT 1);
		UPDATE tasker.tasks SET state = 'error' WHERE task_id = (SELECT task_id FROM tasker.workflow_steps WHERE state = 'in_progress' ORDER BY workflow_step_id LIMIT 1)",

	'no open task waits for nothing' => q(
		SELECT t.task_id, t.state FROM tasker.tasks t WHERE t.state IN ('pending', 'in_progress') AND NOT EXISTS (SELECT FROM alive a WHERE a.task_id = t.task_id)),
	q(UPDATE tasker.tasks SET state = 'in_progress' WHERE task_id = (SELECT task_id FROM tasker.tasks WHERE state = 'complete' LIMIT 1)),

	'no step is in progress when nobody is there' => q(
		SELECT workflow_step_id FROM step WHERE state = 'in_progress' AND task_state NOT IN ('pending', 'in_progress')),
	"UPDATE tasker.workflow_steps SET state = 'in_progress' WHERE workflow_step_id = ($done LIMIT 1)",

	'a claim names an executor that was registered' => q(
		SELECT l.workflow_step_id, l.executor_id FROM tasker.workflow_step_transition_log l
		WHERE l.executor_id IS NOT NULL AND NOT EXISTS (SELECT FROM tasker.executors x WHERE x.executor_id = l.executor_id)),
	"UPDATE tasker.workflow_step_transition_log SET executor_id = 1000000000 WHERE to_state = 'in_progress' AND workflow_step_id = ($done LIMIT 1)",

	'a client was told of no completion that is not there' => q(
		SELECT a.id, a.claim FROM torture.acknowledged a WHERE a.what = 'c' AND NOT EXISTS (SELECT FROM torture.business b WHERE b.step_id = a.id::bigint AND b.claim = a.claim)),
	q(INSERT INTO torture.acknowledged VALUES ('c', '1000000000', 10)),

	'a client was told of no task that is not there' => q(
		SELECT a.id FROM torture.acknowledged a WHERE a.what = 't' AND NOT EXISTS (SELECT FROM torture.promised p WHERE p.task_id = a.id::bigint)),
	q(INSERT INTO torture.acknowledged VALUES ('t', '1000000000')),

	'an operator was told of nothing that is not there' => q(
		SELECT a.id FROM torture.acknowledged a WHERE a.what = 'o' AND NOT EXISTS (SELECT FROM torture.operated o WHERE o.task_id = a.id::bigint)),
	q(INSERT INTO torture.acknowledged VALUES ('o', '1000000000')),

	'what an operator did to a task stands in its log' => q(
		SELECT o.task_id, o.what FROM torture.operated o JOIN tasker.tasks t USING (task_id)
		WHERE o.what IN ('cancel_task', 'resolve_task') AND NOT EXISTS (SELECT FROM tasker.task_transition_log l
			WHERE l.task_id = o.task_id AND l.to_state = CASE o.what WHEN 'cancel_task' THEN 'cancelled' ELSE 'resolved_manually' END::tasker.state)),
	q(INSERT INTO torture.operated SELECT task_id, 'cancel_task' FROM tasker.tasks WHERE state = 'complete' LIMIT 1),

	'no client was told of a prepared commit that is not there' => q(
		SELECT a.id FROM torture.acknowledged a WHERE a.what = 'p' AND NOT EXISTS (SELECT FROM torture.prepared p WHERE p.gid = a.id)),
	q(INSERT INTO torture.acknowledged VALUES ('p', 'p1000000000')));

# Runs statements in a session of their own and returns what they print.
sub ask
{
	my ($node, $database, $sql) = @_;
	my ($rc, $out, $err) = $node->psql($database, $views . $sql, on_error_stop => 1, timeout => 1800);

	die "$sql\n$err" if $rc != 0;
	return $out;
}

# Calls a function with the name, the query and the violation of each law.
sub each_law
{
	my ($function) = @_;

	for (my $i = 0; $i < @laws; $i += 3)
	{
		$function->(@laws[ $i .. $i + 2 ]);
	}
}

# What was found against each law, in the order of the laws: pairs of its name and some lines.
sub broken_laws
{
	my ($node, $database) = @_;
	my @found;

	each_law(sub { my ($law, $query) = @_; push @found, [ $law, ask($node, $database, "SELECT * FROM ($query) violation LIMIT 10") ]; });
	return @found;
}

# Violates each law in a transaction that is rolled back: the laws whose violation was not seen.
sub unseen_violations
{
	my ($node, $database) = @_;
	my @unseen;

	each_law(sub {
		my ($law, $query, $violation) = @_;
		my $seen = eval { ask($node, $database, "BEGIN; SET LOCAL session_replication_role = replica; $violation; SELECT count(*) > 0 FROM ($query) violation; ROLLBACK") };

		push @unseen, "$law: " . ($seen // $@) unless defined $seen && $seen eq 't';
	});
	return @unseen;
}

# The lines of a server log that tell of harm which no signal of ours explains.
sub harm_in_log
{
	my ($log) = @_;

	return grep { !/a batch of database "\w+" has failed.*: canceling statement due to user request/ and
		/PANIC:|TRAP:|stuck spinlock|deadlock detected|terminated by signal (?!9\b)|tasker \w+ (?:ERROR|WARNING):|a batch of database "\w+" has failed|is set aside:|was completed twice|invalid page|could not read block|could not access status/
	} split /\n/, $log;
}

1;
