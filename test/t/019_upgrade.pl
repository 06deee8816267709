# From one version of the SQL to the next: the update leads to exactly what a
# fresh installation has, in the midst of work, or changes nothing. The new
# library serves the old SQL until then. The former version is the last frozen
# one under upgrade/.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Utils;
use Tasker;
use Test::More;

my ($to) = slurp_file('tasker.control') =~ /^default_version = '(.+)'/m;
my ($from) = reverse sort map { m{/tasker--([\d.]+)\.sql$} } glob 'upgrade/*.sql';
my $node = tasker_node('upgrade');
my $extensions = $node->config_data('--sharedir') . '/extension';

sub database
{
	my ($name, $version, $extension) = @_;

	$node->safe_psql('postgres', "CREATE DATABASE $name");
	# Nothing acts on its own where nothing is to be run.
	$node->safe_psql('postgres', "ALTER DATABASE $name SET tasker.orchestrator = off") unless $name eq 'app';
	$node->safe_psql($name, "CREATE EXTENSION $_ VERSION '$version'") foreach 'tasker', $extension // ();
}

# All that there is to an extension, after some statements that are rolled back.
sub description
{
	my ($database, $extension, $statements) = @_;

	return $node->safe_psql($database, 'BEGIN;' . ($statements // '') . slurp_file('test/upgrade/description.sql') . 'ROLLBACK',
		extra_params => [ '-v', "extension=$extension" ]);
}

# What differs, as a diff says it: - is the one, + the other.
sub difference
{
	my @files = map { my ($handle, $file) = File::Temp::tempfile(UNLINK => 1); print $handle "$_\n"; close $handle; $file } @_;

	return join '', grep { !/^(?:---|\+\+\+|@@)/ } `diff -U0 @files`;
}

# --- the same as a fresh installation -----------------------------------------------

database('fresh', $to, 'tasker_testing');
database('updated', $from, 'tasker_testing');
# Periods that are no members of the extension, from before and after.
$node->safe_psql('updated', 'SELECT tasker.make_period(2)');
my $former = description('updated', 'tasker');
# One who sees the orchestrator and nothing else.
my @of_monitor = ('USAGE ON SCHEMA tasker', 'SELECT ON tasker.stat_orchestrator, tasker.orchestrator_checkpoint', 'EXECUTE ON FUNCTION tasker.orchestrator_status()');
$node->safe_psql('updated', join '; ', 'CREATE ROLE monitor', map { "GRANT $_ TO monitor" } @of_monitor);
$node->safe_psql('updated', "ALTER EXTENSION $_ UPDATE") foreach qw(tasker tasker_testing);
is($node->safe_psql('updated', 'SET ROLE monitor; SELECT count(*) FROM tasker.stat_orchestrator'), '1', 'who could see the orchestrator sees it with what is new');
# What the update has granted can be revoked, and then nothing is left of the role.
$node->safe_psql('updated', join '; ', (map { "REVOKE $_ FROM monitor" } @of_monitor, 'SELECT ON tasker.home', 'EXECUTE ON FUNCTION tasker.orchestrator_measures(), tasker.latency_buckets()'), 'DROP ROLE monitor');
$node->safe_psql('updated', 'SELECT tasker.make_period(3)');
$node->safe_psql('fresh', 'SELECT tasker.make_period(2), tasker.make_period(3)');
my %fresh = map { $_ => description('fresh', $_) } qw(tasker tasker_testing);
foreach my $extension (qw(tasker tasker_testing))
{
	is($node->safe_psql('updated', "SELECT extversion FROM pg_extension WHERE extname = '$extension'"), $to, "$extension is of version $to");
	is(difference($fresh{$extension}, description('updated', $extension)), '', "$extension updated from $from is what a fresh one is");
	unlike($fresh{$extension}, qr/ \| not described \| /, 'every kind of member is described');
}
cmp_ok(scalar(split /\n/, $former), '>', 5000, 'the description says a lot');

# Columns stand where they stood, what is new comes after them.
my $columns = q(SELECT a.attrelid::regclass::text, a.attname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
	WHERE c.relnamespace = 'tasker'::regnamespace AND c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped ORDER BY 1, a.attnum);
is($node->safe_psql('fresh', $columns), $node->safe_psql('updated', $columns), 'columns of tables have the same order');

# Whatever is forgotten shows.
foreach (
	[ 'a column', 'ALTER TABLE tasker.handlers ADD COLUMN note text' ],
	[ 'a default', 'ALTER TABLE tasker.annotation_types ALTER COLUMN created_at SET DEFAULT now()' ],
	[ 'a not-null', 'ALTER TABLE tasker.executors ALTER COLUMN channel DROP NOT NULL' ],
	[ 'a storage option', 'ALTER TABLE tasker.tasks SET (fillfactor = 99)' ],
	[ 'an option of a partition', 'ALTER TABLE tasker.task_transition_log_p2 SET (fillfactor = 99)' ],
	[ 'a constraint', q(ALTER TABLE tasker.handlers ADD CONSTRAINT named CHECK (name <> '')) ],
	[ 'an index', 'CREATE INDEX ON tasker.handlers (name)' ],
	[ 'an index of a partition', 'DROP INDEX tasker.task_transition_log_p2_by_time' ],
	[ 'volatility', 'ALTER FUNCTION tasker.now() VOLATILE' ],
	[ 'a setting of a function', q(ALTER FUNCTION tasker.make_period(bigint) SET search_path = public) ],
	[ 'a body', q(CREATE OR REPLACE FUNCTION tasker.history_period(owner_id bigint) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN 1) ],
	[ 'a privilege', 'GRANT EXECUTE ON FUNCTION tasker.check() TO PUBLIC' ],
	[ 'a privilege of a schema', 'GRANT USAGE ON SCHEMA tasker TO PUBLIC' ],
	[ 'a default privilege', 'ALTER DEFAULT PRIVILEGES IN SCHEMA tasker GRANT SELECT ON TABLES TO PUBLIC' ],
	[ 'a comment', 'COMMENT ON FUNCTION tasker.now() IS NULL' ],
	[ 'a comment of a column', q(COMMENT ON COLUMN tasker.handlers.name IS 'x') ],
	[ 'a comment of a constraint', q(COMMENT ON CONSTRAINT handlers_pkey ON tasker.handlers IS 'x') ],
	[ 'the definition of a view', 'CREATE OR REPLACE VIEW tasker.task_transitions AS SELECT task_id, sort_key, from_state, to_state, NULL::boolean AS most_recent, metadata, created_at, xact_id, role, executor_id FROM tasker.task_transition_log' ],
	[ 'a trigger', 'ALTER TABLE tasker.task_transition_log_p0 DISABLE TRIGGER insert_only' ],
	[ 'a rule', 'CREATE RULE nothing AS ON DELETE TO tasker.handlers DO INSTEAD NOTHING' ],
	[ 'row security', 'ALTER TABLE tasker.tasks DISABLE ROW LEVEL SECURITY' ],
	[ 'forced row security', 'ALTER TABLE tasker.tasks FORCE ROW LEVEL SECURITY' ],
	[ 'a policy', 'CREATE POLICY mine ON tasker.tasks FOR SELECT USING (true)' ],
	[ 'a sequence', 'ALTER SEQUENCE tasker.tasks_task_id_seq CACHE 7' ],
	[ 'a label', q(ALTER TYPE tasker.state ADD VALUE 'lost') ],
	[ 'a type', 'CREATE TYPE tasker.pair AS (a integer, b integer)' ],
	[ 'an operator', 'CREATE OPERATOR tasker.=== (FUNCTION = int4eq, LEFTARG = integer, RIGHTARG = integer)' ],
	[ 'a member', 'ALTER EXTENSION tasker DROP FUNCTION tasker.now()' ],
	[ 'a member elsewhere', 'CREATE FUNCTION public.f() RETURNS integer LANGUAGE sql RETURN 1; ALTER EXTENSION tasker ADD FUNCTION public.f()' ],
	[ 'a member of an unknown kind', 'CREATE FOREIGN DATA WRAPPER w; ALTER EXTENSION tasker ADD FOREIGN DATA WRAPPER w' ],
	[ 'what a dump holds', q(UPDATE pg_extension SET extcondition[1] = 'WHERE false' WHERE extname = 'tasker') ],
	[ 'an owner', 'CREATE ROLE someone; ALTER TABLE tasker.handlers OWNER TO someone' ],
	[ 'a row', q(INSERT INTO tasker.handlers (name) VALUES ('h')) ])
{
	my ($what, $statement) = @$_;

	isnt(difference($fresh{tasker}, description('fresh', 'tasker', "$statement;")), '', "$what shows");
}

# --- one way ----------------------------------------------------------------------------

my (undef, undef, $error) = $node->psql('updated', "ALTER EXTENSION tasker UPDATE TO '$from'");
like($error, qr/has no update path from version "\Q$to\E" to version "\Q$from\E"/, 'there is no way back but a backup');

# A library that is older than the SQL: a replica, or a server whose files were put back.
my $session = Tasker::Session->new($node, 'fresh');
$session->query(q(SELECT tasker.pause()));
$node->safe_psql('fresh', q(UPDATE pg_extension SET extversion = '99.3' WHERE extname = 'tasker'; ALTER TABLE tasker.named_tasks ALTER COLUMN name SET STATISTICS -1));
(undef, $error) = $session->try("\\set VERBOSITY verbose\nSELECT tasker.resume()");
like($error, qr/ERROR:  55000: extension "tasker" has version 99.3 in this database, but this server has loaded the library of version \Q$to\E\nHINT:  Install the files of tasker 99.3/,
	'a session that ran before refuses to work on SQL of a later version');
(undef, undef, $error) = $node->psql('fresh', 'SELECT tasker.resume()');
like($error, qr/has version 99.3/, 'and so does a new one');
$node->safe_psql('fresh', qq(UPDATE pg_extension SET extversion = '$to' WHERE extname = 'tasker'; ALTER TABLE tasker.named_tasks ALTER COLUMN name SET STATISTICS -1));
$session->query('SELECT tasker.resume()');
pass('with the library that belongs to it the work goes on');
$session->quit;

# --- the draft ------------------------------------------------------------------------------

# A version is made up that differs in all the ways that the draft is to know.
# What it drafts, less the marks for people, leads there.
SKIP:
{
	skip 'the folder of extensions cannot be written to', 6 unless -w $extensions;
	my $script = slurp_file("upgrade/tasker--$from.sql");
	my $made_up = "$from.3";
	foreach (
		# A column and a constraint of a table, and a partition's parent left alone.
		[ qr/(CREATE TABLE tasker\.handlers \(.*?)\n\);/s, sub { "$1,\n\tnote text NOT NULL DEFAULT 'none; yet' CONSTRAINT noted CHECK (note <> ''),\n\tfound_at timestamptz\n);\nCOMMENT ON COLUMN tasker.handlers.note IS 'New.';" } ],
		# Another result: a view stands on the function.
		[ qr/OUT last_error text, OUT status text\)/, sub { 'OUT last_error text, OUT status text, OUT mood text)' } ],
		# More columns of a view.
		[ qr/(l\.xact_id, l\.role, l\.executor_id)(\nFROM tasker\.task_transition_log l)/, sub { "$1, l.sort_key / 10 AS number$2" } ],
		# Another body, other words.
		[ qr/SELECT CASE WHEN owner_id < 0 THEN 0 ELSE owner_id >> 40 END/, sub { 'SELECT greatest(owner_id, 0) >> 40' } ],
		[ qr/'What shared memory says of this/, sub { "'What the shared memory says of this" } ],
		# An index with other columns.
		[ qr/(CREATE INDEX tasks_by_request ON tasker\.tasks \()requested_at\)/, sub { "$1requested_at, task_id)" } ],
		# New things.
		[ qr/(?=CREATE FUNCTION tasker\.history_period)/, sub { <<'SQL' } ],
CREATE TABLE tasker.moods (
	mood_id integer GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
	handler_id integer NOT NULL REFERENCES tasker.handlers
) WITH (fillfactor = 50);
COMMENT ON TABLE tasker.moods IS 'What handlers are in; it''s new.';
CREATE INDEX moods_of_handler ON tasker.moods (handler_id);
CREATE TYPE tasker.colour AS ENUM ('red', 'blue');
-- Says something.
CREATE FUNCTION tasker.mood(colour tasker.colour DEFAULT 'red') RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
	SELECT CASE colour WHEN 'red' THEN 'good' ELSE 'bad; or so' END;
END;
CREATE VIEW tasker.all_moods AS SELECT m.*, tasker.mood() AS mood FROM tasker.moods m;
CREATE FUNCTION tasker.refuse_mood() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	RAISE 'no; never';
END
$$;
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON tasker.moods FOR EACH STATEMENT EXECUTE FUNCTION tasker.refuse_mood();
SQL
		[ qr/(?<='handlers', )(?='named_tasks_named_steps')/, sub { "'moods', 'moods_mood_id_seq', " } ],
		# Something less.
		[ qr/^CREATE FUNCTION tasker\.rebuild_accelerators\(.*?;\nCOMMENT ON FUNCTION tasker\.rebuild_accelerators.*?;\n/ms, sub { '' } ])
	{
		my ($what, $by) = @$_;
		$script =~ s/$what/$by->()/e or die "nothing like $what in the old script";
	}
	append_to_file("$extensions/tasker--$made_up.sql", $script);
	database('made_up', $made_up);
	database('drafted', $from);
	my $drafted = do {
		local ($ENV{PGHOST}, $ENV{PGPORT}) = ($node->host, $node->port);
		local $ENV{PATH} = $node->config_data('--bindir') . ":$ENV{PATH}";
		`upgrade/draft.pl tasker drafted upgrade/tasker--$from.sql made_up "$extensions/tasker--$made_up.sql"`;
	};
	is($?, 0, 'a draft is made');
	like($drafted, qr/^-- BY HAND: table tasker\.handlers differs.*\nALTER TABLE tasker\.handlers\n\tADD COLUMN note/m, 'which leaves changes of tables to people');
	like($drafted, qr/^-- BY HAND: it is no more.*\nDROP ROUTINE tasker\.rebuild_accelerators/m, 'and what is dropped');
	append_to_file("$extensions/tasker--$from--$made_up.sql", $drafted);
	$node->safe_psql('drafted', q(CREATE ROLE reader; GRANT EXECUTE ON FUNCTION tasker.orchestrator_status() TO reader WITH GRANT OPTION;
		GRANT SELECT ON tasker.stat_orchestrator, tasker.task_transitions TO reader;
		CREATE VIEW public.mine AS SELECT o.status, t.* FROM tasker.stat_orchestrator o, tasker.task_transitions t));
	$node->safe_psql('drafted', "ALTER EXTENSION tasker UPDATE TO '$made_up'");
	is($node->safe_psql('drafted', q(SELECT has_function_privilege('reader', 'tasker.orchestrator_status()', 'EXECUTE WITH GRANT OPTION'),
		has_table_privilege('reader', 'tasker.stat_orchestrator', 'SELECT'), has_table_privilege('reader', 'tasker.task_transitions', 'SELECT'))), 't|t|t', 'what was granted is granted');
	like($node->safe_psql('drafted', q(SELECT pg_get_viewdef('public.mine'::regclass))), qr/stat_orchestrator/, 'what users have built still stands');
	$node->safe_psql("drafted", "REVOKE ALL ON FUNCTION tasker.orchestrator_status() FROM reader; REVOKE ALL ON tasker.stat_orchestrator, tasker.task_transitions FROM reader; DROP ROLE reader");
	is(difference(map { description($_, 'tasker') } qw(made_up drafted)), '', 'and the draft leads to what was made up');
	unlink glob "$extensions/tasker--*$made_up.sql";
}

# --- the old SQL with the new library ------------------------------------------------------

database('app', $from);
$session = Tasker::Session->new($node, 'app');
$session->query(Tasker::template_sql('diamond', 'a; b<-a; c<-a; d<-b,c'));
$session->query(Tasker::template_sql('other', 'a', { handler_class => 'nobody' }));
$session->query(Tasker::template_sql('flaky', 'a; b<-a', { backoff_base_seconds => 0, default_retry_limit => 3 }));
$session->query(Tasker::template_sql('patient', 'a', { backoff_base_seconds => 3600, backoff_cap_seconds => 3600, handler_class => 'P' }));
$session->query(q(CREATE SCHEMA shop; CREATE FUNCTION shop.price(step tasker.claimed_step) RETURNS jsonb LANGUAGE sql RETURN '{"total": 3}'::jsonb));
$session->query(Tasker::template_sql('priced', 'a; b<-a', { handler_class => 'shop.price' }));
my $executor = Tasker::Executor->new($node, 'app', capacity => 50);
my $patient = Tasker::Executor->new($node, 'app', capacity => 50, handlers => 'P', name => 'p');

diamonds($session, 20);
ok($executor->drain, 'diamonds run at the old version');
diamonds($session, 3, name => 'flaky');
my %failed;
ok($executor->work_with(
		sub {
			foreach my $step (@_)
			{
				if ($failed{ $step->{workflow_step_id} }++) { $executor->complete($step); }
				else { $executor->query("SELECT tasker.fail_step($step->{workflow_step_id}, $step->{claim}, 'once')"); }
			}
		},
		sub { $session->query(q(SELECT count(*) FROM tasker.tasks WHERE state IN ('pending', 'in_progress'))) eq '0' }),
	'what fails once is tried again');
is($session->query(q(SELECT count(*) FROM tasker.workflow_steps WHERE attempts = 2 AND state = 'complete')), '6', 'each step of it');
my ($cancelled) = diamonds($session, 1, name => 'other');
$session->query("SELECT tasker.cancel_task($cancelled, 'not needed')");
my ($priced) = diamonds($session, 1, name => 'priced');
$session->query("SELECT * FROM tasker.coordinate_task($priced)");
is($session->query(qq(SELECT string_agg(tasker.task_state(t)::text, ',') FROM unnest('{$cancelled,$priced}'::bigint[]) t)), 'cancelled,complete',
	'one is cancelled, one run by a session');
ok($session->all_is_read, 'the orchestrator has read everything');
$session->query(q(SELECT tasker.keep_periods('1 day'), tasker.upkeep('10 days')));
is($session->query('SELECT tasker.prune_tasks(tasker.now(), max_tasks => 5)'), '5', 'the oldest are pruned');
%{ $executor->{ledger} } = ();
is($session->query(q(SELECT errors FROM tasker.stat_orchestrator)), '0', 'the orchestrator has met no error');
is($session->query('SELECT * FROM tasker.check()'), '', 'check() finds nothing');
is($session->query(q(SELECT extversion FROM pg_extension WHERE extname = 'tasker')), $from, 'and all of it at the old version');

# --- in the midst of work ------------------------------------------------------------------

# What users have granted and built.
$session->query(q(CREATE ROLE observer; GRANT USAGE ON SCHEMA tasker TO observer; GRANT SELECT ON ALL TABLES IN SCHEMA tasker TO observer; GRANT SELECT ON ALL SEQUENCES IN SCHEMA tasker TO observer;
	GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA tasker TO observer WITH GRANT OPTION));
$session->query("CREATE VIEW public.on_$_ AS SELECT * FROM tasker.$_") foreach my @views =
  split /\n/, $session->query(q(SELECT relname FROM pg_class WHERE relnamespace = 'tasker'::regnamespace AND relkind = 'v' ORDER BY 1));
my $granted = q(SELECT 'f', p.oid::regprocedure::text, a.privilege_type, a.is_grantable FROM pg_proc p, aclexplode(proacl) a WHERE a.grantee = 'observer'::regrole
	UNION ALL SELECT 'r', c.oid::regclass::text, a.privilege_type, a.is_grantable FROM pg_class c, aclexplode(relacl) a WHERE a.grantee = 'observer'::regrole ORDER BY 1, 2, 3);
my %granted = map { $_ => 1 } split /\n/, $session->query($granted);
# Who may do everything, and who was given one view.
sub reads
{
	my ($role, @names) = @_;

	return join ' ', grep { ($session->try("SET ROLE $role; SELECT * FROM tasker.$_ LIMIT 1; RESET ROLE"))[1] =~ /ERROR/ } @names;
}
is(reads('observer', @views), '', 'who may read everything reads every view');
$session->query('CREATE ROLE dashboard; GRANT USAGE ON SCHEMA tasker TO dashboard; GRANT SELECT ON tasker.task_summaries TO dashboard');
is(reads('dashboard', 'task_summaries'), '', 'and a view can be read by whom it alone was granted');

my @claimed = do { diamonds($session, 4); $executor->expect(4) };
diamonds($session, 2, name => 'other');
diamonds($session, 2, name => 'patient');
$patient->query("SELECT tasker.fail_step($_->{workflow_step_id}, $_->{claim}, 'later')") foreach $patient->expect(2);
$session->query('SELECT tasker.make_period(2)');
my ($delayed) = diamonds($session, 1, name => 'other');
$session->query("SELECT tasker.reenqueue_task($delayed, '1 hour')");
ok($session->all_is_read, 'the orchestrator has nothing to do');

# Everything that is durable, but for what the orchestrator moves by itself.
my $rows = join(' UNION ALL ', map { "SELECT '$_->[0]', count(*), md5(string_agg(($_->[1])::text, E'\\n' ORDER BY ($_->[1])::text)) FROM tasker.$_->[0] t" }
	[ 'named_tasks', 't.name, t.version, t.configuration' ], [ 'tasks', 't.task_id, t.state' ], [ 'workflow_steps', 't.workflow_step_id, t.state, t.sort_key, t.attempts, t.executor_id' ],
	[ 'task_transition_log', 't.task_id, t.sort_key, t.to_state' ], [ 'workflow_step_transition_log', 't.workflow_step_id, t.sort_key, t.to_state' ], [ 'executors', 't.executor_id, t.name' ]) ;
my $before = $session->query($rows);

my $dumps = PostgreSQL::Test::Utils::tempdir();
my @server = ('-h', $node->host, '-p', $node->port);
$node->command_ok([ 'pg_dump', @server, '-f', "$dumps/old.sql", 'app' ], 'a dump is taken at the old version');

# An update that fails in the middle, and one that is killed there.
SKIP:
{
	skip 'the folder of extensions cannot be written to', 9 unless -w $extensions;
	my $script = slurp_file("upgrade/tasker--$from--$to.sql");
	my $at_the_old = difference($former, '') && description('app', 'tasker');
	append_to_file("$extensions/tasker--$from--$from.1.sql", "$script\nSELECT 1 / 0;\n");
	(undef, $error) = $session->try("ALTER EXTENSION tasker UPDATE TO '$from.1'");
	like($error, qr/division by zero/, 'an update fails in the middle');
	is(difference($at_the_old, description('app', 'tasker')), '', 'which has changed nothing');
	is($session->query($rows), $before, 'and moved nothing');

	append_to_file("$extensions/tasker--$from--$from.2.sql", "$script\nSELECT pg_sleep(600);\n");
	my $victim = Tasker::Session->new($node, 'app');
	$victim->send("ALTER EXTENSION tasker UPDATE TO '$from.2'");
	ok($session->poll("SELECT wait_event = 'PgSleep' FROM pg_stat_activity WHERE pid = $victim->{pid} AND EXISTS (SELECT FROM pg_locks WHERE pid = $victim->{pid} AND mode = 'AccessExclusiveLock' AND relation = 'tasker.orchestrator_checkpoint'::regclass)"),
		'another has done everything');
	kill 'KILL', $victim->{pid};
	ok($node->poll_query_until('app', 'SELECT true'), 'and is killed: the server restarts');
	$victim->kill;
	$_->kill foreach $session, $executor, $patient;
	$session = Tasker::Session->new($node, 'app');
	is(difference(map { join "\n", grep { !/ \| row \| / } split /\n/ } $at_the_old, description('app', 'tasker')), '', 'nothing is left of the update');
	ok($session->poll(q(SELECT status = 'running' FROM tasker.stat_orchestrator)), 'the orchestrator is back');
	$executor = Tasker::Executor->new($node, 'app', capacity => 50);
	$patient = Tasker::Executor->new($node, 'app', capacity => 50, handlers => 'P', name => 'p');
	# The sessions of those who had claimed steps are gone: they are given out again.
	@claimed = $executor->expect(4);
	is(scalar @claimed, 4, 'what was in progress is in progress again');
	is($session->query('SELECT * FROM tasker.check()'), '', 'check() finds nothing');
	unlink glob "$extensions/tasker--$from--$from.?.sql";
}

# A completion that is prepared, unless tables are altered that it has locked.
my $prepares = slurp_file("upgrade/tasker--$from--$to.sql") !~ /^ALTER TABLE tasker\.(?!named_tasks)/m;
my $prepared = shift @claimed;
$session->query("BEGIN; SELECT tasker.complete_step($prepared->{workflow_step_id}, $prepared->{claim}, NULL); PREPARE TRANSACTION 'open'");
$session->query("COMMIT PREPARED 'open'") unless $prepares;
# Someone who has plans.
$session->query(q(PREPARE open_tasks AS SELECT count(*) FROM tasker.tasks WHERE state IN ('pending', 'in_progress'); EXECUTE open_tasks));
ok($session->all_is_read, 'the orchestrator has nothing to do');
$before = $session->query($rows);

my $took = timed(sub { $session->query('ALTER EXTENSION tasker UPDATE') });
diag(sprintf 'the update took %.0f ms', 1000 * $took);
is($session->query(q(SELECT extversion FROM pg_extension WHERE extname = 'tasker')), $to, 'the update goes through in the midst of it');
is($session->query($rows), $before, 'it moves nothing');
is($session->query('SELECT * FROM tasker.check()'), '', 'check() finds nothing');
my %kept = map { $_ => 1 } split /\n/, $session->query($granted);
# create_task() has one more parameter, and is the same function.
%granted = map { s/(create_task\(.*timestamp with time zone)\)/$1,text)/r => 1 } keys %granted;
is(join("\n", grep { !$kept{$_} } sort keys %granted), '', 'what was granted stays granted');
is(join("\n", grep { !$granted{$_} } sort keys %kept), join("\n",
		'f|tasker.event_payload_keys()|EXECUTE|f', 'f|tasker.event_payload_schema(text)|EXECUTE|f', 'f|tasker.executor_measures()|EXECUTE|f',
		'f|tasker.latency_buckets()|EXECUTE|t', 'f|tasker.orchestrator_measures()|EXECUTE|t', 'f|tasker.position_read_by_consumers()|EXECUTE|f', 'f|tasker.steps_in_flight()|EXECUTE|f',
		'r|tasker.event_consumers|SELECT|f', 'r|tasker.home|SELECT|t', 'r|tasker.step_waits|SELECT|t'), 'and what is new beneath it, nothing more');
is(reads('observer', @views), '', 'who may read everything reads every view still');
is(reads('dashboard', 'task_summaries'), 'task_summaries', 'a view alone is not enough any more');
is($session->query(q(SELECT coalesce(holds_dispatch, 'nothing') FROM tasker.stat_orchestrator)), 'nothing', 'the database is still at home');
is($session->query('SELECT count(*) FROM tasker.handlers WHERE task_namespace_id IS NOT NULL'), '0', 'handlers are shared ones');
foreach my $view (@views)
{
	$session->query("SELECT * FROM public.on_$view LIMIT 1");
}
pass('the views of users answer');
$node->command_ok([ 'pg_dump', @server, '-f', "$dumps/new.sql", 'app' ], 'a dump is taken at the new version');

$session->query(q(SELECT tasker.grant_observer('dashboard')));
is(reads('dashboard', 'task_summaries'), '', 'but the capability is');

# Sessions from before go on.
is($session->query('EXECUTE open_tasks'), 9, 'a prepared statement works');
is(scalar($executor->complete(@claimed)), 0, 'steps that were claimed before are completed');
$session->query("COMMIT PREPARED 'open'") if $prepares;
ok($executor->work(sub { $session->query(q(SELECT count(*) FROM tasker.tasks t JOIN tasker.named_tasks n USING (named_task_id) WHERE n.name = 'diamond' AND t.state <> 'complete')) eq '0' }),
	'the tasks that were under way come to their end');
$session->query(q(ALTER SYSTEM SET tasker.clock_offset = '2h'));
$session->query('SELECT pg_reload_conf()');
ok($patient->work(sub { $session->query(q(SELECT count(*) FROM tasker.tasks t JOIN tasker.named_tasks n USING (named_task_id) WHERE n.name = 'patient' AND t.state <> 'complete')) eq '0' }),
	'those that waited for their backoff are tried again in time');
my $nobody = Tasker::Executor->new($node, 'app', capacity => 10, handlers => 'nobody', name => 'somebody');
ok($nobody->drain, 'and those that waited for an executor get one');
diamonds($session, 3);
ok($executor->drain, 'new ones run as well');
is($session->query(q(SELECT errors FROM tasker.stat_orchestrator)), '0', 'the orchestrator has met no error');
$session->query('ALTER SYSTEM RESET tasker.clock_offset; SELECT pg_reload_conf()');

# --- dumps -----------------------------------------------------------------------------------

# As docs/upgrading.md says: a dump of the old version names create_task() by the parameters that it had.
my ($cure) = slurp_file('docs/upgrading.md') =~ /^ +(sed .*) old\.sql$/m;
is(system("cd $dumps && $cure old.sql"), 0, 'what was granted on create_task() is given its new parameter in the dump');
foreach my $dump (qw(old new))
{
	$node->safe_psql('postgres', "CREATE DATABASE restored_$dump");
	$node->safe_psql('postgres', "ALTER DATABASE restored_$dump SET tasker.orchestrator = off");
	$node->command_ok([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', @server, '-d', "restored_$dump", '-f', "$dumps/$dump.sql" ], "the dump of the $dump version is restored");
	is($node->safe_psql("restored_$dump", q(SELECT extversion FROM pg_extension WHERE extname = 'tasker')), $to, 'into the new version');
	is($node->safe_psql("restored_$dump", 'SELECT holds_dispatch FROM tasker.stat_orchestrator'), 'restored', 'which is not its home');
	$node->safe_psql("restored_$dump", 'SELECT tasker.resume(), tasker.orchestrate()');
	is($node->safe_psql("restored_$dump", q(SELECT count(*), count(*) FILTER (WHERE c.relrowsecurity AND EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid))
		FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent IN ('tasker.task_transition_log'::regclass, 'tasker.workflow_step_transition_log'::regclass))),
		'6|6', 'every partition has row security');
	is($node->safe_psql("restored_$dump", 'SELECT * FROM tasker.check()'), '', 'check() finds nothing');
	isnt($node->safe_psql("restored_$dump", 'SELECT count(*) FROM tasker.tasks'), '0', 'the tasks are there');
	# Rows, grants of our role and the extra period of the other database apart, it is what a fresh one is.
	$node->safe_psql("restored_$dump", 'SELECT tasker.make_period(3)');
	is($node->safe_psql("restored_$dump", q(SELECT has_function_privilege('observer', 'tasker.orchestrator_measures()', 'EXECUTE'), has_table_privilege('observer', 'tasker.home', 'SELECT'))),
		$dump eq 'new' ? 't|t' : 'f|f', 'a dump has what the update has granted');
	is($node->safe_psql("restored_$dump", q(SELECT has_function_privilege('observer', oid, 'EXECUTE') FROM pg_proc WHERE pronamespace = 'tasker'::regnamespace AND proname = 'create_task')),
		't', 'who could create tasks can');
	$node->safe_psql("restored_$dump", 'DROP OWNED BY observer, dashboard');
	is(difference($fresh{tasker}, join "\n", grep { !/ \| row \| / } split /\n/, description("restored_$dump", 'tasker')), '', 'everything is as in a fresh installation');
}

$_->quit foreach $session, $executor, $patient, $nobody;
ends_well($node, [qw(app restored_new)], qr/permission denied for table tasks|canceling autovacuum task|division by zero|99\.3|no update path|terminated by signal 9|terminating connection because of crash|terminating background worker|the database system is (?:in recovery|not yet accepting)/);
done_testing();
