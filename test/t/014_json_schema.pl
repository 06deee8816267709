# The official JSON Schema test suite, in the drafts that are supported: what
# fails is what test/json_schema_suite.txt lists with a reason, no case more and
# none less, and docs/json-schema.md has the counts.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Utils;
use Tasker;
use Test::More;

my $suite = $ENV{JSON_SCHEMA_SUITE} // '/usr/share/json-schema-test-suite';
plan skip_all => "THE OFFICIAL JSON SCHEMA TEST SUITE IS NOT IN $suite: install json-schema-test-suite"
  unless -d "$suite/tests";

# The cases that are known to fail: "draft | file | group | test".
my %known;
foreach (split /\n/, slurp_file("$FindBin::RealBin/../json_schema_suite.txt"))
{
	next if /^\s*(#|$)/;
	my ($drafts, $case) = /^([467 ]+?) \| (.+)$/ or die "cannot read: $_";
	$known{"$_ | $case"} = 1 foreach split / /, $drafts;
}

my $node = tasker_node('json_schema');
$node->safe_psql('postgres', <<'SQL');
CREATE EXTENSION tasker;
CREATE TABLE cases (draft text, file text, schemas text, test text, valid boolean, verdict text);
CREATE FUNCTION verdict(schema jsonb, instance jsonb) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	RETURN NOT EXISTS (SELECT FROM tasker.json_schema_violations(schema, instance));
EXCEPTION WHEN invalid_parameter_value THEN
	RETURN 'refused: ' || SQLERRM;
END
$$;
SQL

# Schemas that are objects say which draft they are of.
foreach my $draft (4, 6, 7)
{
	foreach my $path (sort glob("$suite/tests/draft$draft/*.json $suite/tests/draft$draft/optional/*.json $suite/tests/draft$draft/optional/*/*.json"))
	{
		my $file = $path =~ s{^\Q$suite\E/tests/draft$draft/}{}r;
		my $text = slurp_file($path);

		$node->safe_psql('postgres', <<"SQL");
INSERT INTO cases
SELECT '$draft', '$file', s->>'description', t->>'description', (t->>'valid')::boolean, verdict(
	CASE jsonb_typeof(s->'schema') WHEN 'object'
		THEN jsonb_build_object('\$schema', 'http://json-schema.org/draft-0$draft/schema#') || (s->'schema')
		ELSE s->'schema' END, t->'data')
FROM jsonb_array_elements(\$suite\$$text\$suite\$) s, jsonb_array_elements(s->'tests') t
SQL
	}
}

my %failed = map { $_ => 1 } split /\n/, $node->safe_psql('postgres',
	q(SELECT concat_ws(' | ', draft, file, schemas, test) FROM cases WHERE verdict <> valid::text));
is(join("\n", sort grep { !$known{$_} } keys %failed), '', 'no case fails that should pass');
is(join("\n", sort grep { !$failed{$_} } keys %known), '', 'no case passes that should fail');

# A schema may be refused, but nothing invalid is let in silently for want of a feature of the draft.
is( $node->safe_psql('postgres',
		q(SELECT draft, file, schemas, test FROM cases WHERE verdict = 'true' AND NOT valid AND file NOT LIKE 'optional/%')),
	'', 'nothing invalid passes where the draft requires otherwise');

my $docs = slurp_file("$FindBin::RealBin/../../docs/json-schema.md");
foreach (split /\n/, $node->safe_psql('postgres', <<'SQL'))
SELECT format('| %s | %s of %s | %s of %s |', draft,
	count(*) FILTER (WHERE NOT optional AND passed), count(*) FILTER (WHERE NOT optional),
	count(*) FILTER (WHERE optional AND passed), count(*) FILTER (WHERE optional))
FROM cases, LATERAL (SELECT file LIKE 'optional/%' AS optional, verdict = valid::text AS passed) c
GROUP BY draft ORDER BY draft
SQL
{
	ok(index($docs, $_) >= 0, "the docs say: $_");
}

# Without memory: see the program.
my $root = "$FindBin::RealBin/../..";
my $program = PostgreSQL::Test::Utils::tempdir() . '/json_schema_memory';
my @include = $ENV{VALIJSON} ? ('-isystem', $ENV{VALIJSON}) : ();
command_ok([ qw(g++ -std=gnu++17 -O0), "-I$root/src", @include, '-o', $program,
		"$root/test/json_schema_memory.cpp", "$root/src/rules/json_schema.cpp", '-lpcre2-8' ],
	'the program that runs out of memory is built');
my ($out, $err) = run_command([$program]);
is($err, '', 'it complains of nothing');
like($out, qr/^(?:\d+ allocations failed, \d+ could be done without\n?){4}$/, 'every allocation failed once');
note($out);

done_testing();
