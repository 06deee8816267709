# The logs as a stream of JSON: whoever reads a slot with wal2json has every
# event with its name, whatever is killed meanwhile and whatever retention
# drops (docs/change-data-capture.md). All tables are published besides, and
# nothing minds.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use IPC::Run;
use JSON::PP;
use PostgreSQL::Test::Utils;
use Tasker;
use Test::More;

my $document = slurp_file('docs/change-data-capture.md');
my $node = tasker_node('captured', conf => "wal_level = logical\nmax_wal_senders = 10\ntasker.checkpoint_interval = '100ms'\n");
plan skip_all => 'needs wal2json' unless -e $node->config_data('--pkglibdir') . '/wal2json.so';

# The n-th block of a language in a section of the document.
sub block
{
	my ($section, $language, $n) = @_;
	my ($text) = $document =~ /^## $section\n(.*?)(?=^## |\z)/ms or die "no section $section";

	return ($text =~ /^```$language\n(.*?)^```/msg)[ $n // 0 ];
}

$node->safe_psql('postgres', 'CREATE DATABASE app');
$node->safe_psql('app', 'CREATE EXTENSION tasker; CREATE ROLE somebody');
$node->safe_psql('app', 'ALTER SYSTEM SET output_plugin_libraries = pgoutput, test_decoding, wal2json')
  if $node->safe_psql('app', q(SELECT count(*) FROM pg_settings WHERE name = 'output_plugin_libraries'));
$node->restart;
my $session = Tasker::Session->new($node, 'app');

# ---------- what is published, and how ----------

is($session->query(<<'SQL'), '', 'every table tells its old rows apart, so that any may be published');
SELECT string_agg(c.relname, ', ') FROM pg_class c
WHERE relnamespace = 'tasker'::regnamespace AND relkind = 'r' AND relreplident <> 'f'
	AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary AND i.indimmediate)
SQL
$session->query('CREATE PUBLICATION everything FOR ALL TABLES; CREATE PUBLICATION the_schema FOR TABLES IN SCHEMA tasker');
$session->query(block('A publication', 'sql'));
my $dump = $node->safe_psql('app', 'SELECT 1') && do { run_log([ 'pg_dump', '-s', '-d', $node->connstr('app') ], '>', \my $out); $out };
like($dump, qr/CREATE PUBLICATION tasker_events/, 'a dump has the publication');
unlike($dump, qr/ALTER PUBLICATION tasker_events ADD/, 'that of 15 without the tables of the extension, as the document says') if $node->pg_version < 16;

# ---------- the slots ----------

my $make_slot = block('A slot', 'sql');
my $read = block('A slot', 'sql', 1);
$session->query($make_slot);
$session->query($make_slot =~ s/tasker_events/by_query/r);
$session->query($make_slot =~ s/tasker_events/unfiltered/r);
$session->query(q(SELECT pg_create_logical_replication_slot('by_protocol', 'pgoutput')));

my %event_of;
$event_of{"$1 $2 $3"} = $4
  while $document =~ /^\| `(\w+_log)` \| `?(\w+)`? \| `(\w+)` \| `([\w.]+)` \|$/mg;
is(join("\n", map { "$_ $event_of{$_}" } sort keys %event_of), $session->query(<<'SQL'), 'the table of the document is the one of the state machines');
SELECT string_agg(l, E'\n' ORDER BY l COLLATE "C") FROM (
	SELECT concat_ws(' ', CASE owner WHEN 'task' THEN 'task_transition_log' ELSE 'workflow_step_transition_log' END,
		coalesce(from_state::text, 'null'), to_state, event) AS l FROM tasker.allowed_transitions) a
SQL

# What a reader makes of lines of JSON: events by key, and how many came again.
sub understand
{
	my ($reader, @lines) = @_;

	foreach my $change (map { JSON::PP->new->decode($_) } @lines)
	{
		my %row = map { $_->{name} => $_->{value} } @{ $change->{columns} };
		my $table = $change->{table} =~ s/_p\d+$//r;
		my ($key, $name) = $table eq 'published_events' ? ("event:$row{event_id}", $row{name})
		  : $table eq 'task_transition_log' ? "task:$row{task_id}:$row{sort_key}"
		  : $table eq 'workflow_step_transition_log' ? "step:$row{workflow_step_id}:$row{sort_key}"
		  : die "a row of $table has come";
		$name //= $event_of{ join ' ', $table, $row{from_state} // 'null', $row{to_state} };
		my $event = join '|', $name, map { $_ // '' } @row{qw(created_at xact_id executor_id role metadata payload)};

		die "$key has come in two forms" if exists $reader->{events}{$key} && $reader->{events}{$key} ne $event;
		die "$change->{action} of $key" if $change->{action} ne 'I';
		$reader->{again}++ if exists $reader->{events}{$key};
		$reader->{first}{$key} //= $reader->{n}++;
		$reader->{events}{$key} = $event;
	}
}

# The same from the tables.
my $events_of = sub {
	my ($which) = @_;
	return <<"SQL";
SELECT e.event_key, concat_ws('|', e.name, l.created_at, l.xact_id, coalesce(l.executor_id::text, ''), l.role, coalesce(l.metadata::text, ''), '')
FROM tasker.events e JOIN tasker.task_transition_log l ON l.task_id = e.owner_id AND l.sort_key = e.sort_key WHERE e.category = 'task' AND $which
UNION ALL SELECT e.event_key, concat_ws('|', e.name, l.created_at, l.xact_id, coalesce(l.executor_id::text, ''), l.role, coalesce(l.metadata::text, ''), '')
FROM tasker.events e JOIN tasker.workflow_step_transition_log l ON l.workflow_step_id = e.owner_id AND l.sort_key = e.sort_key WHERE e.category = 'step' AND $which
UNION ALL SELECT e.event_key, concat_ws('|', e.name, p.created_at, p.xact_id, '', p.role, '', p.payload)
FROM tasker.events e JOIN tasker.published_events p ON p.event_id = e.owner_id WHERE e.category = 'custom' AND $which
SQL
};

# ---------- a reader that streams, and is killed ----------

my $dir = PostgreSQL::Test::Utils::tempdir();
my $streaming = block('A slot', 'sh') =~ s/^pg_recvlogical/exec pg_recvlogical/mr;
my %stream = (events => {}, n => 0, again => 0);
my ($receiver, $runs) = (undef, 0);
$ENV{PGHOST} = $node->host;
$ENV{PGPORT} = $node->port;
local $ENV{PATH} = $node->config_data('--bindir') . ":$ENV{PATH}";

sub begin_stream
{
	$runs++;
	append_to_file("$dir/stream.$runs.sh", $streaming);
	$receiver = IPC::Run::start([ 'bash', "$dir/stream.$runs.sh" ], '>', "$dir/stream.$runs", '2>', "$dir/stream.$runs.err");
}

# Lines that are whole; a kill may leave half of one, which comes again.
sub end_stream
{
	my ($signal) = @_;

	$receiver->signal($signal);
	eval { $receiver->finish };
	my $text = -e "$dir/stream.$runs" ? slurp_file("$dir/stream.$runs") : '';
	understand(\%stream, $text =~ /^(.*)\n/mg);
}

# Whether the stream of this run has come to what has happened until now.
sub stream_arrives
{
	my $key = $session->query(q(SELECT event_key FROM tasker.events ORDER BY xact_id::text::bigint DESC, occurred_at DESC LIMIT 1));
	my ($table, $id, $sort_key) = $key =~ /^(task|step|event):(\d+)(?::(\d+))?/;
	my $pattern = $table eq 'event' ? qr/"published_events".*"event_id","value":$id\b/
	  : qr/"name":"(?:task_id|workflow_step_id)","value":$id\},\{"name":"sort_key","value":$sort_key\}/;

	return until_true(sub { -e "$dir/stream.$runs" && slurp_file("$dir/stream.$runs") =~ $pattern }) || diag(slurp_file("$dir/stream.$runs.err"));
}

# ---------- tasks of all fates ----------

my $executor;
$session->query(Tasker::template_sql('diamond', 'a; b<-a; c<-a; d<-b,c', { default_retry_limit => 3 }));
$session->query(Tasker::template_sql('other', 'a', { handler_class => 'nobody' }));
$session->query(q(SELECT tasker.register_event('parcel.sent')));

# Fails what it hears of first, gives some back, completes the rest, and publishes with it.
my %failed;
sub work
{
	my @done;

	foreach my $step (@_)
	{
		my ($id, $claim) = @$step{qw(workflow_step_id claim)};
		my $fate = $step->{step_name} eq 'a' ? $id % 3 : 2;

		if ($failed{$id}++ || $fate == 2) { push @done, $step }
		elsif ($fate == 1) { $executor->query("SELECT tasker.fail_step($id, $claim, 'no \"luck\"', 'Bad', retry_after_seconds => 0)") }
		else { $executor->query("SELECT tasker.release_step($id, $claim)") }
	}
	$executor->query("SELECT tasker.publish_event('parcel.sent', '{\"n\": 1}', step_id => $done[0]{workflow_step_id})") if @done;
	$executor->complete(@done);
}

sub run_tasks
{
	my ($n) = @_;
	$executor //= Tasker::Executor->new($node, 'app', capacity => 50);
	diamonds($session, $n);
	my ($cancelled) = diamonds($session, 1, name => 'other');
	my ($resolved) = diamonds($session, 1, name => 'other');
	$session->query("SELECT tasker.cancel_task($cancelled); BEGIN; SELECT tasker.publish_event('parcel.sent'); ROLLBACK");
	# What one session does in one transaction, prepared.
	$session->query("BEGIN; SELECT tasker.publish_event('parcel.sent', '{\"text\": \"ä \\\\ \\\" ''\"}', $resolved); PREPARE TRANSACTION 'p'; COMMIT PREPARED 'p'");
	$session->query("SELECT tasker.resolve_step(workflow_step_id) FROM tasker.workflow_steps WHERE task_id = $resolved");
	return $executor->work_with(\&work, sub { $session->query(q(SELECT count(*) FROM tasker.tasks WHERE state IN ('pending', 'in_progress'))) eq '0' });
}

begin_stream();
ok(run_tasks(20), 'tasks run');
ok(stream_arrives(), 'and are streamed');
end_stream('KILL');
ok(run_tasks(10), 'nobody streams meanwhile');
begin_stream();
ok(run_tasks(10), 'tasks run');
ok(stream_arrives(), 'a reader that was killed goes on');

# The slots have been read to here by a query, but no checkpoint knows of it.
my %query = (events => {}, n => 0, again => 0);
my $by_query = ($read =~ s/tasker_events/by_query/r) =~ s/SELECT lsn, data/SELECT data/r;
understand(\%query, split /\n/, $session->query($by_query));
$_->quit foreach $executor, $session;
$executor = undef;
$node->stop('immediate');
end_stream('TERM');
$node->start;
$session = Tasker::Session->new($node, 'app');
begin_stream();
ok(run_tasks(10), 'after a crash of the server tasks run');
ok(stream_arrives(), 'and are streamed');

# ---------- all that writes, with everything published ----------

$session->query($_) foreach (
	q(SELECT tasker.grant_executor('somebody', 't')),
	q(SELECT tasker.grant_observer('somebody')),
	q(SELECT tasker.revoke_role('somebody')),
	q(SELECT tasker.schedule_task('daily', '0 0 * * *', '{"name": "diamond", "namespace": "t"}'); SELECT tasker.unschedule_task('daily')),
	q(SELECT tasker.create_event_consumer('c', from_beginning => true); SELECT count(*) FROM tasker.read_events('c', 10); SELECT tasker.drop_event_consumer('c')),
	q(SELECT tasker.annotate_task(task_id, 'note', '{"a": 1}') FROM tasker.tasks LIMIT 1),
	q(SELECT tasker.remove_annotation(task_annotation_id) FROM tasker.task_annotations),
	q(SELECT tasker.rebuild_accelerators()));
my ($pruned) = diamonds($session, 1, name => 'other');
$session->query("SELECT tasker.cancel_task($pruned)");
ok($session->all_is_read, 'all is read');
my %here = map { split /\|/, $_, 2 } split /\n/, $session->query($events_of->('true'));
my $logged = q(SELECT (SELECT count(*) FROM tasker.task_transition_log) + (SELECT count(*) FROM tasker.workflow_step_transition_log));
my $before = $session->query($logged);
ok($session->poll(q(SELECT tasker.prune_tasks(tasker.now() + '1 s', 1)), '1'), 'a task is pruned, row by row');
my $deleted = $before - $session->query($logged);
cmp_ok($deleted, '>', 2, 'of which there were some');

# ---------- retention ----------

$session->query(q(ALTER SYSTEM SET tasker.retention = '10d'; SELECT pg_reload_conf()));
foreach my $day (2, 4)
{
	$session->query("ALTER SYSTEM SET tasker.clock_offset = '${day}d'; SELECT pg_reload_conf()");
	ok($session->poll('SELECT tasker.current_period()', $day / 2), "a period begins on day $day");
	ok(run_tasks(5), 'tasks run in it');
}
%here = (%here, map { split /\|/, $_, 2 } split /\n/, $session->query($events_of->('true')));
ok(stream_arrives(), 'they are streamed');
$session->query(q(ALTER SYSTEM SET tasker.clock_offset = '20d'; SELECT pg_reload_conf()));
ok($session->poll(q(SELECT count(*) FROM pg_class WHERE relname ~ '_transition_log_p[01]$'), '0'), 'retention drops partitions');
ok(run_tasks(2), 'tasks run');
%here = (%here, map { split /\|/, $_, 2 } split /\n/, $session->query($events_of->('true')));
ok(stream_arrives(), 'they are streamed');

# ---------- what has come ----------

end_stream('TERM');
understand(\%query, split /\n/, $session->query($by_query));
sub listing { my ($events) = @_; return join "\n", map { "$_ $events->{$_}" } sort keys %$events; }
foreach ([ 'streamed', \%stream ], [ 'asked for', \%query ])
{
	my ($how, $reader) = @$_;
	my %first = %{ $reader->{first} };
	my @owners = grep { /^(?:task|step):\d+:/ } keys %first;

	is(listing($reader->{events}), listing(\%here), "$how: exactly the events of the logs, by name and in full");
	is(scalar(grep { my ($owner, $sort_key) = /^(\w+:\d+):(\d+)$/; $sort_key > 10 && !($first{ "$owner:" . ($sort_key - 10) } < $first{$_}) } @owners), 0,
		"$how: each owner's in their order");
}
note("came again: streamed $stream{again}, asked for $query{again}");
cmp_ok(scalar(grep { /step.failed/ } values %here), '>', 3, 'failures were among them');
cmp_ok(scalar(grep { /parcel.sent/ } values %here), '>', 10, 'and custom events');
is(scalar(grep { my ($id, $claim) = split /,/; ($stream{events}{ "step:$id:" . ($claim + 10) } // '') !~ /^step\.completed/ } keys %{ $Tasker::ledger{captured}{app} }), 0,
	'nothing that was acknowledged is missing');
%Tasker::ledger = ();
my %fired = map { (split /\|/)[0] => 1 } values %here;
is(join(' ', grep { !$fired{$_} } qw(task.initialize_requested task.start_requested task.completed task.cancelled step.execution_requested step.completed
	step.failed step.retry_requested step.released step.cancelled step.resolved_manually parcel.sent)), '', 'all kinds of them');

# Of the partitions that were dropped, and of a later one, which is still open.
my %seen;
my $unfiltered = $session->query(q(SELECT data FROM pg_logical_slot_get_changes('unfiltered', NULL, NULL, 'format-version', '2', 'include-transaction', 'false')));
$seen{ $2 < 2 ? $1 : "$1 open" }++ while $unfiltered =~ /^\{"action":"(\w)","schema":"tasker","table":"\w+?_transition_log_p(\d+)"/mg;
is(join(' ', sort grep { !/open/ } keys %seen), 'D I', 'unfiltered, there are deletes');
is($seen{D}, $deleted, 'but only those of prune_tasks: a partition goes without any');

# Of pgoutput the kinds of messages, and the names of relations that rows are of, are enough.
my ($kinds, $relations, $inserted) = split /\|/, $session->query(<<'SQL');
WITH message AS (SELECT chr(get_byte(data, 0)) AS kind, substr(data, 2, 4) AS relation, split_part(encode(substr(data, 6), 'escape'), '\000', 2) AS name
	FROM pg_logical_slot_get_binary_changes('by_protocol', NULL, NULL, 'proto_version', '1', 'publication_names', 'tasker_events'))
SELECT string_agg(DISTINCT kind, '' ORDER BY kind),
	(SELECT string_agg(DISTINCT r.name, ' ' ORDER BY r.name) FROM message r WHERE kind = 'R' AND relation IN (SELECT relation FROM message WHERE kind <> 'R')),
	count(*) FILTER (WHERE kind = 'I')
FROM message
SQL
is($relations, 'published_events task_transition_log workflow_step_transition_log', 'by the publication rows are of the logs themselves');
is($kinds, 'BCIRY', 'and there are inserts only');
is($inserted, scalar(keys %here), 'as many as there are events');

$session->query(qq(SELECT pg_drop_replication_slot('$_'))) foreach qw(by_query unfiltered by_protocol);
ok($session->poll(q(SELECT count(*) FROM pg_replication_slots WHERE active), '0'), 'nobody reads any more');
$session->query(q(SELECT pg_drop_replication_slot('tasker_events')));
$_->quit foreach $executor, $session;
ends_well($node, ['app'], qr/shutting down|terminating|recovery mode/);
$node->stop;
done_testing();
