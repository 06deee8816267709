# The logs leave the server by logical replication: every transition arrives
# once and in order, whatever happens to the partitions on this side, and what
# retention drops here stays there (docs/replication.md).
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Utils;
use Tasker;
use Test::More;

my $node = tasker_node('publisher', streaming => 1, conf => "wal_level = logical\ntasker.checkpoint_interval = '100ms'\n");
my $archive = tasker_node('archive');
my $document = slurp_file('docs/replication.md');

# The statements of a section of the document, as they stand there.
sub statements
{
	my ($section) = @_;
	my ($text) = $document =~ /^### $section\n(.*?)(?=^##|\z)/ms or die "docs/replication.md has no section $section";

	return join "\n", $text =~ /^```sql\n(.*?)^```/msg;
}

$node->safe_psql('postgres', 'CREATE DATABASE app');
$node->safe_psql('app', 'CREATE EXTENSION tasker');
$archive->safe_psql('postgres', 'CREATE DATABASE history');
my $session = Tasker::Session->new($node, 'app');
my $reader = Tasker::Session->new($archive, 'history');
$session->query(Tasker::template_sql('diamond', 'a; b<-a; c<-a; d<-b,c'));
$session->query(Tasker::template_sql('other', 'a', { handler_class => 'nobody' }));
my $executor = Tasker::Executor->new($node, 'app', capacity => 50);
diamonds($session, 10);
ok($executor->drain, 'ten tasks are done before anybody subscribes');

my $here = $node->connstr('app');
$session->query(statements('On the primary'));
$reader->query(statements('On the subscriber') =~ s/CONNECTION '[^']*'/"CONNECTION '" . ($here =~ s{'}{''}gr) . "'"/er);

# In order: of each owner the transitions have come as they are numbered. The archive counts what comes.
$reader->query("ALTER TABLE tasker.$_ ADD COLUMN IF NOT EXISTS arrived bigint GENERATED ALWAYS AS IDENTITY") foreach qw(task_transition_log workflow_step_transition_log);
my $columns = q(sort_key, from_state::text, to_state::text, created_at, xact_id::text, executor_id, role, metadata);
sub digest { my ($where) = @_; return join ' UNION ALL ', map { my ($log, $owner) = @$_;
	"SELECT '$log', count(*), md5(string_agg(r::text, ',' ORDER BY r::text)) FROM (SELECT $owner, $columns FROM tasker.$log $where) r" }
	[ 'task_transition_log', 'task_id' ], [ 'workflow_step_transition_log', 'workflow_step_id' ] }
my $disorder = join ' UNION ALL ', map { my ($log, $owner) = @$_;
	"SELECT '$log', $owner, sort_key FROM (SELECT $owner, sort_key, lag(sort_key) OVER (PARTITION BY $owner ORDER BY arrived) AS before FROM tasker.$log) r WHERE sort_key <= before" }
	[ 'task_transition_log', 'task_id' ], [ 'workflow_step_transition_log', 'workflow_step_id' ];

# Waits until the archive has what the primary has, then compares.
sub arrives
{
	my ($what) = @_;
	my $all = digest('');
	my $expected = $session->query($all);

	ok($reader->poll($all, $expected), "$what: every transition arrives");
	is($reader->query($disorder), '', "$what: in order");
	return $expected;
}

arrives('what was there before');
diamonds($session, 20);
ok($executor->drain, 'twenty tasks run meanwhile');
arrives('what happens now');

# --- a new period -----------------------------------------------------------------

sub settled { return $session->poll(q(SELECT NOT EXISTS (SELECT FROM tasker.workflow_step_transition_log l, tasker.orchestrator_checkpoint c WHERE l.xact_id >= pg_snapshot_xmax(c.position)))); }
$session->query(q(ALTER SYSTEM SET tasker.retention = '10d'; SELECT pg_reload_conf()));
my ($keeper) = diamonds($session, 1, name => 'other');
foreach my $day (2, 4, 6)
{
	$session->query("ALTER SYSTEM SET tasker.clock_offset = '${day}d'; SELECT pg_reload_conf()");
	my $period = $day / 2;
	ok($session->poll('SELECT tasker.current_period()', $period), "period $period begins");
	diamonds($session, 10);
	ok($executor->drain_but('other'), 'tasks run in it');
	arrives("period $period");
}
is($reader->query(q(SELECT string_agg(DISTINCT (task_id >> 40)::text, ',' ORDER BY (task_id >> 40)::text) FROM tasker.task_transition_log)), '0,1,2,3', 'the archive has four periods in one table');

# --- a restart of either side --------------------------------------------------------

$_->quit foreach $executor, $session;
$node->stop('immediate');
$node->start;
$session = Tasker::Session->new($node, 'app');
$executor = Tasker::Executor->new($node, 'app', capacity => 50);
diamonds($session, 10);
ok($executor->drain_but('other'), 'after a crash of the primary work goes on');
arrives('after a crash of the primary');
$reader->quit;
$archive->stop('immediate');
$archive->start;
diamonds($session, 10);
ok($executor->drain_but('other'), 'the primary does not mind that the archive restarts');
$reader = Tasker::Session->new($archive, 'history');
my $whole = arrives('after a crash of the archive');

# --- history that is put in order here ------------------------------------------------

# A partition that one open task keeps is emptied and gets the rows of that one back: they
# are sent again, and the archive has them already.
$session->query(q(ALTER SYSTEM SET tasker.clock_offset = '24d'; SELECT pg_reload_conf()));
ok($session->poll('SELECT count(*) FROM tasker.tasks', '1'), 'all tasks but the open one are pruned');
ok(settled(), 'and everything is read');
$session->query(q(SET session_replication_role = replica));
# The worker looks at it, too, and neither waits for the other.
ok($session->poll(q(SELECT tasker.compact_history(tasker.now(), 0) LIKE '%\_p0')), 'a partition is emptied and its rows put back');
$session->query('RESET session_replication_role');
$session->query("SELECT tasker.cancel_task($keeper)");
ok($session->poll(q(SELECT tasker.prune_tasks(tasker.now() + '1 s')), '1'), 'the last task is cancelled and pruned');
ok($session->poll(q(SELECT count(*) FROM pg_class WHERE relname ~ '_transition_log_p0$'), '0'), 'then it is dropped');
ok($reader->poll("SELECT count(*) FROM tasker.task_transition_log WHERE task_id = $keeper AND to_state = 'cancelled'", '1'), 'the archive goes on');
is($session->query('SELECT count(*) FROM tasker.tasks'), '0', 'nothing is left on the primary');
is($reader->query(digest(q(WHERE created_at <= now() + '7 days'))), $whole, 'the archive has all of it');
is($reader->query($disorder), '', 'in order');
my $claims = join ',', map { "($_)" } keys %{ $Tasker::ledger{publisher}{app} };
is($reader->query(<<"SQL"), '0', 'it knows of everything that the primary has acknowledged');
SELECT count(*) FROM (VALUES $claims) ledger(step_id, claim)
WHERE NOT EXISTS (SELECT FROM tasker.workflow_step_transition_log l
	WHERE l.workflow_step_id = step_id AND l.sort_key = claim + 10 AND l.to_state = 'complete')
SQL
%Tasker::ledger = ();

$_->quit foreach $executor, $session, $reader;
ends_well($node, ['app'], qr/administrator command|terminating|shutting down|starting up|not yet accepting/);
ends_well($archive, [], qr/logical replication (?:apply )?worker (?:ERROR|FATAL):  (?:could not|terminating|error reading|apply worker for subscription "\w+" could not connect)|shutting down|administrator command/);
done_testing();
