# What the docs name is there: every function, view, setting, key and file of
# the README's table and of the one for those who come from Tasker for Rails.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Utils;
use Tasker;
use Test::More;

my $node = tasker_node('docs');
$node->safe_psql('postgres', 'CREATE EXTENSION tasker; CREATE EXTENSION tasker_testing');

# Names as the docs write them.
my %known = map { $_ => 1 } split /\n/, $node->safe_psql('postgres', <<'SQL');
SELECT proname FROM pg_proc WHERE pronamespace IN ('tasker'::regnamespace, 'tasker_testing'::regnamespace)
UNION SELECT relname FROM pg_class WHERE relnamespace IN ('tasker'::regnamespace, 'tasker_testing'::regnamespace)
UNION SELECT attname FROM pg_attribute JOIN pg_class c ON c.oid = attrelid WHERE relnamespace = 'tasker'::regnamespace AND attnum > 0
UNION SELECT unnest(proargnames) FROM pg_proc WHERE pronamespace = 'tasker'::regnamespace
UNION SELECT name FROM pg_settings WHERE name LIKE 'tasker.%'
UNION SELECT extname FROM pg_extension
UNION SELECT unnest(enum_range(NULL::tasker.state))::text
SQL

# Keys of templates, built-in strategies, and what functions answer.
foreach my $file (qw(define/template_document.c define/strategy.c rules/version.h run/transition.c run/reenqueue.c))
{
	my $source = slurp_file("src/$file");

	$known{$_} = 1 foreach $source =~ /"([a-z_]+)"/g;
}

# Whether something in backticks is there: a name, "name(...)", "name(s)", "name_*", "key: value", "name => value", a file.
sub is_there
{
	my ($word) = @_;

	return 1 if -e $word || -e "docs/$word";
	return is_there($1) && is_there("$1s") if $word =~ /^(\w+)\(s\)$/;
	return scalar grep { /^$1/ } keys %known if $word =~ /^(\w+_)\*$/;
	return is_there($1) if $word =~ /^([\w.]+)\(.*\)$/;
	return !grep { !is_there($_) } map { /^([\w]+):/ ? $1 : $_ } split /, /, $word if $word =~ /^\w+: /;
	return is_there($1) if $word =~ /^(\w+) => /;
	return $known{$word};
}

my @words;
my $readme = slurp_file('README.md');
my ($functions) = $readme =~ /^## Functions and views\n(.*?)^A task does not move\?/ms or die 'README.md has no table of functions';
push @words, $functions =~ /`([^`]+)`/g;
@words = grep { !/^(?:\\|[A-Z]+$)/ } @words;	# psql and SQL itself
cmp_ok(scalar @words, '>', 80, 'the README has a table of functions');
is(join(', ', grep { !is_there($_) } @words), '', 'and all of them are there');

# The second column says what is here.
my @rows = grep { /^\| / && !/^\| original/ } split /\n/, slurp_file('docs/coming-from-tasker.md');
cmp_ok(scalar @rows, '>', 70, 'the table of the original has its rows');
@words = map { (split /(?<!\\)\|/)[2] =~ /`'?([^`']+)'?`/g } @rows;
cmp_ok(scalar @words, '>', 120, 'which name what is here');
is(join(', ', grep { !is_there($_) } @words), '', 'and it is here');
is(join("\n", grep { (split /(?<!\\)\|/)[3] !~ /^ (?:same|better|different)\b|^ *$/ } @rows), '', 'each row says how the two compare');

# Nobody can call a function that no document explains.
is($node->safe_psql('postgres', <<'SQL'), '', 'every function, view and table has a comment');
SELECT string_agg(p.oid::regprocedure::text, ', ') FROM pg_proc p
WHERE pronamespace IN ('tasker'::regnamespace, 'tasker_testing'::regnamespace) AND obj_description(p.oid, 'pg_proc') IS NULL
SQL
is($node->safe_psql('postgres', <<'SQL'), '', 'and so has every relation');
SELECT string_agg(c.oid::regclass::text, ', ') FROM pg_class c
WHERE relnamespace IN ('tasker'::regnamespace, 'tasker_testing'::regnamespace) AND relkind IN ('r', 'v', 'p') AND obj_description(c.oid, 'pg_class') IS NULL
SQL
is($node->safe_psql('postgres', <<'SQL'), '', 'nothing is executable by PUBLIC but what row security asks');
SELECT string_agg(p.oid::regprocedure::text, ', ') FROM pg_proc p, aclexplode(coalesce(proacl, acldefault('f', proowner))) a
WHERE pronamespace IN ('tasker'::regnamespace, 'tasker_testing'::regnamespace) AND a.grantee = 0
	AND p.oid NOT IN (SELECT d.refobjid FROM pg_depend d WHERE d.classid = 'pg_policy'::regclass AND d.refclassid = 'pg_proc'::regclass)
SQL
$node->stop;
done_testing();
