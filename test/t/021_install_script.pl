# What an install or upgrade script, run by a superuser, could do for somebody
# else. First by rules over the text and the catalogue: those of pgspot, made
# anew, plus dynamic SQL. Then by an attack: a role that may create in public
# and in the database prepares functions, operators and a schema, and a session
# with the worst of all search paths installs, upgrades and works.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Utils;
use Tasker;
use Test::More;

# Findings that are there for a reason.
my %known = (
	'EXECUTE of text put together: RETURN QUERY EXECUTE \'SELECT s.* FROM (SELECT t.task_id FROM \' || source' =>
	  'find_tasks: source, newest and wanted are put together from constants; values are parameters',
	'EXECUTE of text put together: EXECUTE \'SELECT (SELECT min(t.task_id) FROM \' || newest' => 'the same',
	'%s in dynamic SQL: EXECUTE format(\'SELECT %s($1)\', coalesce(function, \'tasker_testing.succeed\'))' =>
	  'the test kit: a regprocedure written as text, or a name that a pattern has let through',
	'%s in dynamic SQL: EXECUTE format(\'REVOKE ALL ON tasker.%I FROM %s\', leaf, grantee.name)' => 'a regrole as text, which is quoted, or PUBLIC',
	'%s in dynamic SQL: EXECUTE format(\'CREATE POLICY tenants ON tasker.%I' => 'constants, from the list that it goes through',
	'name without schema: UPDATE pg_catalog.pg_proc p SET pronargs = n.pronargs, pronargdefaults = n.pronargdefaults' =>
	  'create_task gets a parameter and keeps its number, grants and dependents; the schema is that of the catalogue',
	'grants something: GRANT EXECUTE ON FUNCTION tasker.sees_everything(), tasker.visible_namespaces(), tasker.se' =>
	  'what row security asks of everybody who reads a table; it says what they see anyway',
	'%s in dynamic SQL: EXECUTE format(\'ALTER TABLE tasker.%I ATTACH PARTITION tasker.%I FOR VALUES FROM (%s) TO (%s)\', log.parent, leaf,' => 'two bigints',
	'%s in dynamic SQL: EXECUTE format(\'CREATE POLICY tenants ON tasker.%I' => 'conditions that are constants of the script, and sees_task or sees_step',
	'grants something: GRANT EXECUTE ON FUNCTION tasker.sees_everything(), tasker.visible_namespaces(), tasker.se' =>
	  'policies call these as whoever reads; they tell a role only of itself, and schema tasker is closed',
	map { ("%s in dynamic SQL: $_" => 'names of partitions that are a regclass as text, which is quoted') }
	  'EXECUTE format(\'LOCK TABLE %s IN ACCESS EXCLUSIVE MODE NOWAIT\', leaf)', 'EXECUTE format(\'LOCK TABLE ONLY %s IN ACCESS EXCLUSIVE MODE\', parent)',
	'EXECUTE format(\'ALTER EXTENSION tasker DROP TABLE %s\', leaf)', 'EXECUTE format(\'ALTER TABLE %s DETACH PARTITION %s\', parent, leaf)',
	'EXECUTE format(\'DROP TABLE %s\', leaf)', 'EXECUTE format(\'TRUNCATE %s\', leaf)', 'EXECUTE format(\'SELECT array_agg(l)::text FROM %s o CROSS JOIN LATERAL',
	'EXECUTE format(\'INSERT');
my %met;

# ---------- reading scripts ----------

# The statements of a script, without comments: each [what psql would send, the
# same with strings and bodies emptied, its bodies].
sub statements
{
	my ($script) = @_;
	my (@statements, @bodies);
	my ($text, $bare, $atomic) = ('', '', 0);

	while ($script =~ /\G(?:(--[^\n]*\n|\\echo[^\n]*\n)|(E?'(?:[^']|'')*')|("(?:[^"]|"")*")|(\$(\w*)\$(.*?)\$\5\$)|([A-Za-z_][\w.]*)|(.))/gs)
	{
		next if defined $1;
		if (defined $2) { $text .= $2; $bare .= "''"; next; }
		if (defined $4) { $text .= $4; $bare .= "''"; push @bodies, $6; next; }
		my $token = $3 // $7 // $8;
		if (defined $7)
		{
			# CASE ends with END, too.
			$atomic++ if $atomic ? $token =~ /^case$/i : $bare =~ /\bBEGIN\s+$/i && $token =~ /^atomic$/i;
			$atomic-- if $atomic && $token =~ /^end$/i;
		}
		if ($token eq ';' && !$atomic)
		{
			push @statements, [ $text =~ s/^\s+//r, $bare =~ s/^\s+//r, [ splice @bodies ] ];
			($text, $bare) = ('', '');
			next;
		}
		$text .= $token;
		$bare .= $token;
	}
	die "a statement does not end: $bare" if $bare =~ /\S/;
	return @statements;
}

# ---------- rules over the text ----------

my $object = qr/(?:TABLE|VIEW|FUNCTION|PROCEDURE|ROUTINE|TYPE|SEQUENCE|AGGREGATE|DOMAIN|MATERIALIZED VIEW|STATISTICS|CONSTRAINT|INDEX|TRIGGER|COLUMN)/;

# What is wrong with the statements of a script, whose objects are all in a schema.
sub objections
{
	my ($schema, $is_upgrade, @statements) = @_;
	my @found;

	push @found, 'the search_path is not pinned first'
	  unless $statements[0][0] =~ /^SET LOCAL search_path = pg_catalog, pg_temp$/;
	foreach my $statement (@statements[1 .. $#statements])
	{
		my ($text, $bare, $bodies) = @$statement;
		my $begin = substr($bare =~ s/\s+/ /gr, 0, 90);

		push @found, "search_path changed: $begin" if $bare =~ /\bsearch_path\b/ && $bare !~ /^CREATE (?:OR REPLACE )?(?:FUNCTION|PROCEDURE)/;
		push @found, "IF NOT EXISTS takes what somebody else has made: $begin" if $bare =~ /\bIF\s+NOT\s+EXISTS\b/i && $bare !~ /^DO\b/;
		# Since 15.4 PostgreSQL refuses to replace what is not the extension's own.
		push @found, "OR REPLACE takes what somebody else has made: $begin"
		  if $bare =~ /^CREATE\s+OR\s+REPLACE/i && !($is_upgrade && $bare =~ /^CREATE OR REPLACE (?:FUNCTION|PROCEDURE|VIEW|TRIGGER) /);
		push @found, "reaches beyond the extension: $begin"
		  if $bare =~ /^(?:CREATE|ALTER|DROP)\s+(?:OR REPLACE\s+)?(?:CAST|OPERATOR|RULE|EVENT TRIGGER|TRANSFORM|EXTENSION|LANGUAGE|SERVER|FOREIGN|PUBLICATION|SUBSCRIPTION|ROLE|USER|GROUP|DATABASE|TABLESPACE|SCHEMA|SYSTEM|DEFAULT PRIVILEGES|ACCESS METHOD|COLLATION|CONVERSION|TEXT SEARCH)\b/i
		  || $bare =~ /^(?:SECURITY LABEL|COPY|LOAD|SET ROLE|SET SESSION|RESET|VACUUM|CLUSTER|LOCK)\b/i;
		# A new object goes into the first schema of the search_path, which is pg_catalog.
		push @found, "name without schema: $begin"
		  if $bare =~ /^(?:CREATE|ALTER|DROP|COMMENT ON)\s+(?:OR REPLACE )?(?:UNIQUE )?($object)\s+(?:IF EXISTS |ONLY )?([\w."]+)/
		  && $2 !~ /^\Q$schema\E\./ && !($1 =~ /INDEX|TRIGGER|CONSTRAINT/ && $bare =~ /\bON\s+(?:ONLY\s+)?\Q$schema\E\./);
		push @found, "name without schema: $begin" if $bare =~ /^(?:INSERT INTO|UPDATE|DELETE FROM|TRUNCATE(?: TABLE)?)\s+(?:ONLY )?([\w."]+)/ && $1 !~ /^\Q$schema\E\./;
		push @found, "grants something: $begin" if $bare =~ /^GRANT\b/;
		push @found, dynamic($_) foreach @$bodies;
	}
	return @found;
}

# Dynamic SQL in a body: identifiers are quoted, values are parameters.
sub dynamic
{
	my ($body) = @_;
	my @found;

	$body =~ s/--[^\n]*//g;
	while ($body =~ /((?:RETURN QUERY )?\bEXECUTE\s+(?!FUNCTION|ON\b)((?:[^;']|'(?:[^']|'')*')*?));/gs)
	{
		my ($statement, $what) = ($1, $2);
		$statement =~ s/\s+/ /g;
		my $short = $statement =~ s/^(.*?) (?:INTO|USING) .*$/$1/r;

		push @found, "EXECUTE of text put together: " . ($short =~ s/^(.*? \|\| \w+).*/$1/r)
		  if ($what =~ s/'(?:[^']|'')*'//gr) =~ /\|\|/ && $what !~ /^format\(/;
		push @found, "EXECUTE of a variable: $short" if $what =~ /^\w+\s*(?:INTO|USING|$)/;
		push @found, "%s in dynamic SQL: " . ($short =~ /^(EXECUTE format\('SELECT array_agg\(l\)::text FROM %s o CROSS JOIN LATERAL)/ ? $1 : $short =~ /^(.*?, leaf,) CASE/ ? $1 : $short)
		  if $what =~ /^format\(\s*'(?:[^']|'')*%(?:\d+\$)?s/;
	}
	return @found;
}

# Takes away the findings that are known, and remembers that they were met.
sub unknown
{
	my (@found) = @_;

	$met{$_} = 1 foreach grep { $known{$_} } @found;
	return join("\n", grep { !$known{$_} } @found);
}

my %scripts;
foreach my $extension (qw(tasker tasker_testing))
{
	my ($version) = slurp_file("$extension.control") =~ /^default_version = '(.+)'/m or die "$extension has no version";

	$scripts{"$extension--$version.sql"} = $extension;
	$scripts{ $_ =~ s{^upgrade/}{}r } = $extension foreach glob "upgrade/$extension--*.sql";
}
foreach my $script (sort keys %scripts)
{
	my $text = slurp_file(-e $script ? $script : "upgrade/$script");
	my @statements = statements($text);

	cmp_ok(scalar @statements, '>', $script =~ /--.*--/ ? 0 : 20, "$script has statements");
	is(unknown(objections($scripts{$script}, scalar($script =~ /--.*--/), @statements)), '', "$script lets nobody in");
	like($text, qr/^\\echo Use ".*" to load this file\. \\quit$/m, "$script does not run outside of its command");
}
is(join("\n", grep { !$met{$_} } sort keys %known), '', 'no finding is known that is gone');

# The rules themselves: each of these is found.
foreach my $bad ('CREATE TABLE tasker.a (b integer)', 'SET LOCAL search_path = pg_catalog, pg_temp; SET search_path = public',
	'SET LOCAL search_path = pg_catalog, pg_temp; CREATE TABLE IF NOT EXISTS tasker.a (b integer)',
	'SET LOCAL search_path = pg_catalog, pg_temp; CREATE OR REPLACE VIEW tasker.a AS SELECT 1',
	'SET LOCAL search_path = pg_catalog, pg_temp; CREATE TABLE a (b integer)', 'SET LOCAL search_path = pg_catalog, pg_temp; CREATE INDEX a ON b (c)',
	'SET LOCAL search_path = pg_catalog, pg_temp; CREATE CAST (a AS b) WITHOUT FUNCTION', 'SET LOCAL search_path = pg_catalog, pg_temp; INSERT INTO a VALUES (1)',
	'SET LOCAL search_path = pg_catalog, pg_temp; GRANT SELECT ON tasker.tasks TO PUBLIC', 'SET LOCAL search_path = pg_catalog, pg_temp; CREATE SCHEMA IF NOT EXISTS tasker',
	q(SET LOCAL search_path = pg_catalog, pg_temp; DO $$ BEGIN EXECUTE 'DROP TABLE ' || name; END $$),
	q(SET LOCAL search_path = pg_catalog, pg_temp; DO $$ BEGIN EXECUTE statement; END $$),
	q(SET LOCAL search_path = pg_catalog, pg_temp; DO $$ BEGIN EXECUTE format('DROP TABLE %s', name); END $$))
{
	isnt(join('', objections('tasker', 0, statements("$bad;"))), '', "found: $bad");
}

# ---------- rules over the catalogue ----------

my $node = tasker_node('install_script');
$node->safe_psql('postgres', 'CREATE EXTENSION tasker; CREATE EXTENSION tasker_testing');
my $schemas = q(IN ('tasker'::regnamespace, 'tasker_testing'::regnamespace));
# The way to a handler in the test kit runs in the search_path of the caller, as the handler shall.
my $caller = q(('tasker_testing.call_handler'::regproc, 'tasker_testing.run_step'::regproc, 'tasker_testing.run_pass'::regproc, 'tasker_testing.run_tasks'::regproc,
	'tasker_testing.run_task'::regproc, 'tasker_testing.check_idempotency'::regproc, 'tasker_testing.assert_idempotent'::regproc));
is($node->safe_psql('postgres', <<"SQL"), '', 'a body of text, or the rights of the owner, go with a pinned search_path');
SELECT p.oid::regprocedure FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
WHERE p.pronamespace $schemas AND (p.prosecdef OR l.lanname NOT IN ('c', 'internal') AND p.prosqlbody IS NULL)
	AND (p.prosecdef OR p.oid NOT IN $caller)
	AND NOT coalesce(p.proconfig \@> '{"search_path=pg_catalog, pg_temp"}', false)
SQL
is($node->safe_psql('postgres', <<"SQL"), '', 'nothing is a member that others could use without naming the schema');
SELECT i.type, i.identity FROM pg_depend d JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
CROSS JOIN LATERAL pg_identify_object(d.classid, d.objid, d.objsubid) i
WHERE d.deptype = 'e' AND e.extname IN ('tasker', 'tasker_testing')
	AND d.classid NOT IN ('pg_class'::regclass, 'pg_proc'::regclass, 'pg_type'::regclass)
SQL
# The planner would move conditions with leaky functions below a view's own.
is($node->safe_psql('postgres', <<"SQL"), '', 'no function of ours claims to be leakproof, or is in a language of its own');
SELECT p.oid::regprocedure FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
WHERE p.pronamespace $schemas AND (p.proleakproof OR l.lanname NOT IN ('c', 'sql', 'plpgsql') OR p.prolang = 0)
SQL
# Unqualified, such a name would be found in pg_temp, where anybody may put something.
my @relations = split /\n/, $node->safe_psql('postgres', "SELECT DISTINCT relname FROM pg_class WHERE relnamespace $schemas AND relkind IN ('r', 'p', 'v') ORDER BY 1");
my @routines = split /\n/, $node->safe_psql('postgres', <<"SQL");
SELECT DISTINCT proname FROM pg_proc p WHERE pronamespace $schemas AND NOT EXISTS (SELECT FROM pg_proc c WHERE c.proname = p.proname AND c.pronamespace = 'pg_catalog'::regnamespace) ORDER BY 1
SQL
my ($relation, $routine) = map { join '|', @$_ } \@relations, \@routines;
my @unqualified;
foreach my $row (split /\x02/, $node->safe_psql('postgres', "SELECT string_agg(p.oid::regprocedure || E'\\x01' || p.prosrc, E'\\x02') FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang WHERE p.pronamespace $schemas AND l.lanname = 'plpgsql'"))
{
	my ($name, $body) = split /\x01/, $row;

	$body =~ s/--[^\n]*|'(?:[^']|'')*'//g;
	my %with = map { $_ => 1 } $body =~ /(?:\bWITH\s+(?:RECURSIVE\s+)?|,\s*)(\w+)\s*(?:\([^)]*\)\s*)?AS\s+(?:NOT\s+)?(?:MATERIALIZED\s+)?\(/g;
	push @unqualified, map { "$name: $_" } grep { !$with{$_} } $body =~ /\b(?:FROM|JOIN|INSERT INTO|UPDATE|DELETE FROM)\s+(?:ONLY\s+)?($relation)\b(?!\.|\s*\()/g;
	push @unqualified, map { "$name: $_()" } grep { !$with{$_} } $body =~ /(?<![.\w])($routine)\s*\(/g;
}
is(join("\n", @unqualified), '', 'no body names a relation or a function of ours without its schema');

# ---------- the attack ----------

# In public: a twin of each function and operator of PostgreSQL that our scripts
# name, and twins that take any argument. Each leaves a trace.
my $words = join(' ', map { slurp_file(-e $_ ? $_ : "upgrade/$_") } keys %scripts);
my %word = map { lc $_ => 1 } $words =~ /\b([a-z_]\w+)\s*\(/gi;
my $named = join(',', map { "'$_'" } sort grep { /^\w+$/ } keys %word);
my $traps = <<"SQL";
CREATE SEQUENCE public.loot;
GRANT ALL ON SEQUENCE public.loot TO PUBLIC;
CREATE FUNCTION public.steal() RETURNS void LANGUAGE plpgsql AS \$\$ BEGIN
	PERFORM pg_catalog.nextval('public.loot'); RAISE WARNING 'STOLEN from % by %', current_user, (SELECT pg_catalog.left(q, 100) FROM (SELECT pg_catalog.current_query()) c(q)); END \$\$;
DO \$traps\$
DECLARE
	f record;
	done integer := 0;
BEGIN
	FOR f IN SELECT p.proname AS name, pg_get_function_identity_arguments(p.oid) AS arguments, format_type(p.prorettype, NULL) AS result, p.proretset AS is_set
		FROM pg_proc p WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.prokind = 'f' AND p.proname IN ($named)
			AND 'internal'::regtype <> ALL (p.proargtypes::oid[]) AND p.prorettype NOT IN ('internal'::regtype, 'trigger'::regtype, 'record'::regtype)
			AND (p.prorettype NOT IN (SELECT oid FROM pg_type WHERE typtype = 'p') OR p.prorettype = 'void'::regtype)
			AND NOT EXISTS (SELECT FROM pg_type t WHERE t.oid = ANY (p.proargtypes::oid[]) AND t.typtype = 'p' AND t.typname !~ '^any(element|array|compatible|compatiblearray|enum)\$') AND p.proargmodes IS NULL
		UNION SELECT name, a, 'text', false FROM unnest(ARRAY[$named]) name, unnest('{anyelement,"anyelement, anyelement","text, anyelement",text,"text, text",bigint,jsonb,regclass}'::text[]) a
	LOOP
		BEGIN
			EXECUTE format('CREATE FUNCTION public.%I(%s) RETURNS %s %s LANGUAGE plpgsql AS \$f\$ BEGIN PERFORM public.steal(); %s END \$f\$',
				f.name, f.arguments, CASE WHEN f.is_set THEN 'SETOF' ELSE '' END, f.result, CASE WHEN f.is_set OR f.result = 'void' THEN '' ELSE 'RETURN NULL;' END);
			done := done + 1;
		EXCEPTION WHEN OTHERS THEN NULL;
		END;
	END LOOP;
	FOR f IN SELECT o.oprname AS name, format_type(o.oprleft, NULL) AS l, format_type(o.oprright, NULL) AS r, format_type(o.oprresult, NULL) AS result
		FROM pg_operator o WHERE o.oprleft <> 0 AND o.oprnamespace = 'pg_catalog'::regnamespace
			AND (o.oprleft IN ('int4'::regtype, 'int8'::regtype, 'text'::regtype, 'oid'::regtype, 'name'::regtype, 'jsonb'::regtype, 'timestamptz'::regtype, 'bool'::regtype, 'interval'::regtype, 'anyarray'::regtype, 'anyenum'::regtype))
	LOOP
		BEGIN
			EXECUTE format('CREATE OR REPLACE FUNCTION public.trap(%s, %s) RETURNS %s LANGUAGE plpgsql AS \$f\$ BEGIN PERFORM public.steal(); RETURN NULL; END \$f\$', f.l, f.r, f.result);
			EXECUTE format('CREATE OPERATOR public.%s (FUNCTION = public.trap, LEFTARG = %s, RIGHTARG = %s)', f.name, f.l, f.r);
			done := done + 1;
		EXCEPTION WHEN OTHERS THEN NULL;
		END;
	END LOOP;
	RAISE NOTICE '% traps', done;
END
\$traps\$;
SQL
# What shadows without pg_catalog in front, in the session that installs.
my $worst = <<'SQL';
CREATE TEMP TABLE tasks (task_id bigint); CREATE TEMP TABLE pg_namespace (nspname name); CREATE TYPE pg_temp.state AS ENUM ('x');
CREATE DOMAIN pg_temp.text AS pg_catalog.int4; CREATE DOMAIN pg_temp.jsonb AS pg_catalog.int4;
SET search_path = pg_temp, public, pg_catalog;
SQL
# A day in the life of the extension.
my $work = <<'SQL';
SELECT tasker.register_task_template('{"name": "n", "namespace_name": "s", "version": "1.0.0", "schema": {"properties": {"a": {"default": 1}}},
	"step_templates": [{"name": "a", "handler_class": "H"}, {"name": "b", "handler_class": "H", "depends_on_step": "a"}]}');
SELECT tasker.create_task('n', '{}', 's', tags => '{x}');
SELECT executor_id FROM tasker.register_executor('e', '{H}', 0, true) \gset
SELECT tasker.orchestrate();
SELECT tasker.complete_step(workflow_step_id, claim, '{"a": 1}') FROM tasker.claim_steps(:executor_id, 5);
SELECT tasker.annotate_task(1, 'note', '{"a": 1}');
SELECT * FROM tasker.upkeep('30 days');
SELECT tasker.cancel_task(1), tasker.find_task('x', 's');
SELECT * FROM tasker.check();
SQL
my $looks = <<'SQL';
SELECT * FROM tasker.find_tasks(tags => '{x}'); SELECT tasker.task_document(1); SELECT tasker.task_diagram(1); SELECT * FROM tasker.error_chains(1);
SELECT * FROM tasker.bottlenecks(1); SELECT * FROM tasker.step_readiness_statuses; SELECT * FROM tasker.task_execution_contexts; SELECT * FROM tasker.task_timeline(1);
SELECT tasker.analytics_metrics(); SELECT tasker.system_health_counts(); SELECT * FROM tasker.slowest_steps(); SELECT * FROM tasker.stat_history; SELECT * FROM tasker.stat_horizon;
SQL

$node->safe_psql('postgres', 'CREATE ROLE mallory LOGIN');
my $update = $node->safe_psql('postgres', q(SELECT max(path) FROM pg_extension_update_paths('tasker') WHERE source = '1.0' AND target = (SELECT default_version FROM pg_available_extensions WHERE name = 'tasker')));
note(($update eq '' ? 'there is no way' : 'the way is ' . $update) . ' from version 1.0');
foreach my $case ([ 'the newest', 'CREATE EXTENSION tasker; CREATE EXTENSION tasker_testing;', 1 ],
	[ '1.0', q(CREATE EXTENSION tasker VERSION '1.0'; CREATE EXTENSION tasker_testing VERSION '1.0';) . ($update eq '' ? '' : 'ALTER EXTENSION tasker UPDATE;'), $update ne '' ])
{
	my ($version, $install, $is_newest) = @$case;
	my $database = "attacked_$version" =~ s/\W/_/gr;

	$node->safe_psql('postgres', "CREATE DATABASE $database; GRANT CREATE ON DATABASE $database TO mallory");
	$node->safe_psql($database, "GRANT CREATE ON SCHEMA public TO mallory");
	my ($out, $err) = ('', '');
	$node->psql($database, $traps, stderr => \$err, extra_params => [ '-U', 'mallory' ], connstr => $node->connstr($database) . ' user=mallory');
	my ($count) = $err =~ /(\d+) traps/;
	cmp_ok($count // 0, '>', 500, "traps are laid for version $version");
	is($node->safe_psql($database, "SET client_min_messages = error; SET search_path = public, pg_catalog; SELECT length('x') IS NULL; SELECT is_called FROM public.loot"),
		"t\nt", 'and they work');
	$node->safe_psql($database, q(SELECT setval('public.loot', 1, false)));

	my $rc = $node->psql($database, "$worst$install", stdout => \$out, stderr => \$err, on_error_stop => 1);
	is($rc, 0, "version $version is installed all the same") or diag($err);
	my ($rc_work, $err_work);
	$rc_work = $node->psql($database, "$worst$work", stdout => \$out, stderr => \$err_work, on_error_stop => 1);
	is($rc_work, 0, 'and works') or diag($err_work);
	my $rc_looks = $node->psql($database, "$worst$looks", stdout => \$out, stderr => \$err_work, on_error_stop => 1);
	is($rc_looks, 0, 'and shows what happens') or diag($err_work);
	is($node->safe_psql($database, 'SELECT is_called FROM public.loot'), 'f', 'nothing of the attacker ran') or diag(join "\n", grep { /STOLEN/ } split /\n/, slurp_file($node->logfile));
	is($node->safe_psql($database, "SELECT i.identity FROM pg_depend d JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
		CROSS JOIN LATERAL pg_identify_object(d.classid, d.objid, d.objsubid) i WHERE d.deptype = 'e' AND e.extname LIKE 'tasker%' AND i.schema NOT IN ('tasker', 'tasker_testing')"), '', 'nothing got into another schema');
}

# Whoever may create in the schema has what is put into it: no update is.
$node->safe_psql('postgres', 'CREATE DATABASE opened');
$node->safe_psql('opened', q(CREATE EXTENSION tasker VERSION '1.0'; GRANT CREATE ON SCHEMA tasker TO mallory));
my $refusal = '';
isnt($node->psql('opened', "\\set VERBOSITY sqlstate\nALTER EXTENSION tasker UPDATE", stderr => \$refusal), 0, 'a schema that lets the attacker create gets no update');
like($refusal, qr/55000/, 'as it should be');
is($node->psql('opened', 'REVOKE CREATE ON SCHEMA tasker FROM mallory; ALTER EXTENSION tasker UPDATE'), 0, 'until that is taken back');

# Whoever has the schema has what is put into it: nothing is.
foreach my $extension (qw(tasker tasker_testing))
{
	foreach my $case ([ 'is the attacker\'s', "CREATE SCHEMA $extension AUTHORIZATION mallory" ],
		[ 'lets the attacker create', "CREATE SCHEMA $extension; GRANT CREATE ON SCHEMA $extension TO mallory" ],
		[ 'has something in it', "CREATE SCHEMA $extension; CREATE FUNCTION $extension.complete_step(integer, integer) RETURNS text LANGUAGE sql AS 'SELECT 1'" ])
	{
		my ($what, $prepare) = @$case;
		my $err = '';

		$node->safe_psql('postgres', 'DROP DATABASE IF EXISTS prepared WITH (FORCE)');
		$node->safe_psql('postgres', 'CREATE DATABASE prepared');
		$node->safe_psql('prepared', ($extension eq 'tasker' ? '' : 'CREATE EXTENSION tasker; ') . $prepare);
		isnt($node->psql('prepared', "\\set VERBOSITY sqlstate\nCREATE EXTENSION $extension", stderr => \$err), 0, "a schema $extension that $what is refused");
		like($err, qr/55000/, 'as it should be');
	}
	# As in a dump that is restored.
	$node->safe_psql('postgres', 'DROP DATABASE IF EXISTS prepared WITH (FORCE)');
	$node->safe_psql('postgres', 'CREATE DATABASE prepared');
	is($node->psql('prepared', ($extension eq 'tasker' ? '' : 'CREATE EXTENSION tasker; ') . "CREATE SCHEMA $extension; CREATE EXTENSION $extension"), 0, "an empty schema $extension is taken");
}
$node->stop;
done_testing();
