# What Graphviz makes of our diagrams: it reads each one, and the names and errors
# in its picture are those of the task, whatever signs they are made of.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Utils;
use Tasker;
use Test::More;

my $dot = (grep { -x } map { "$_/dot" } split /:/, $ENV{PATH})[0];
plan skip_all => 'GRAPHVIZ IS MISSING: whether it reads our diagrams is not tested (install graphviz)' unless $dot;

my $node = tasker_node('graphviz', conf => "fsync = off\n");
$node->safe_psql('postgres', "CREATE DATABASE app ENCODING 'UTF8' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'");
$node->safe_psql('postgres', "ALTER DATABASE app SET tasker.orchestrator = off; ALTER DATABASE app SET client_min_messages = warning");
$node->safe_psql('app', 'CREATE EXTENSION tasker');
my $session = Tasker::Session->new($node, 'app');

# Every sign of ASCII that a name may hold, alone and twice, at the end and before
# a letter that could make an escape or an entity of it; and what lies beyond ASCII.
$session->query(<<'SQL');
CREATE TABLE hostile (place serial, name text);
INSERT INTO hostile (name)
SELECT chr(n) || ' ' || chr(n) || chr(n) || ' ' || chr(n) || 'n' || chr(n) || 'N ' || n || chr(n) FROM generate_series(1, 127) n
WHERE chr(n) !~ '[[:alnum:]]';
INSERT INTO hostile (name) VALUES
	('"]; } digraph {'), ('\" \\" \\\"'), ('\N \G \E \T \H \L \l \r \n'), ('&lt;b&gt; &amp;amp; &#65; &#x41; &nbsp'), ('<b>bold</b>'), ('<<table>>'),
	('// none'), ('/* none'), ('# none'), (E'one\ntwo\r\nthree\rfour'), ('Ünïcödé 日本語 🚀'), ('step_1 -> step_2'), (']]>'), ('<!--'), ('%s %1$s'), (repeat('\"', 60));
SELECT tasker.register_task_template(jsonb_build_object('name', 'hostile "\ & <b>', 'namespace_name', 'h', 'step_templates',
	(SELECT jsonb_agg(jsonb_build_object('name', name, 'handler_class', 'H', 'depends_on_steps', CASE place WHEN 1 THEN '[]' ELSE
		jsonb_build_array((SELECT name FROM hostile WHERE place = 1)) END) ORDER BY place) FROM hostile)));
SQL
my $task = $session->query(q(SELECT tasker.create_task('hostile "\ & <b>', namespace => 'h')));

# Each name is the error of its step, too.
$session->query('SELECT tasker.orchestrate()');
my $executor = $session->query("SELECT executor_id FROM tasker.register_executor('x', '{H}', 0)");
$session->query("SELECT count(tasker.complete_step(workflow_step_id, claim)) FROM tasker.claim_steps($executor, 1)");
$session->query('SELECT tasker.orchestrate()');
my $failed = $session->query("SELECT count(tasker.fail_step(workflow_step_id, claim, step_name, retryable => false)) FROM tasker.claim_steps($executor, 1000)");
is($failed, $session->query('SELECT count(*) - 1 FROM hostile'), 'all but the first step have failed');

# The picture of a statement's diagram, as Graphviz draws it.
sub picture
{
	my ($sql) = @_;
	my $file = "$PostgreSQL::Test::Utils::tmp_check/diagram.dot";
	my ($svg, $complaints);

	open my $out, '>:raw', $file or die $!;
	print $out $session->query($sql);
	close $out;
	ok(IPC::Run::run([ $dot, '-Tsvg', $file ], '>', \$svg, '2>', \$complaints), "Graphviz reads $sql");
	is($complaints, '', 'without complaint');
	return $svg;
}

# A text with every kind of space made a plain one.
sub spaced
{
	my ($text) = @_;

	$text =~ s/\xc2\xa0/ /g;
	$text =~ s/[\s\x00-\x1f\x7f]+/ /g;
	return $text =~ s/^ | $//gr;
}

# A text of the picture, with its entities read.
sub plain
{
	my ($text) = @_;
	my %entity = (lt => '<', gt => '>', quot => '"', apos => "'", amp => '&');
	my $sign = sub { my $sign = chr $_[0]; utf8::encode($sign) if $_[0] > 127; $sign };

	$text =~ s/&(?:#(\d+)|#x([0-9a-f]+)|(lt|gt|quot|apos|amp));/defined $1 ? $sign->($1) : defined $2 ? $sign->(hex $2) : $entity{$3}/gie;
	return spaced($text);
}

my @names = map { spaced($_) } split /\x1e/, $session->query(q(SELECT string_agg(replace(name, chr(30), ' '), chr(30)) FROM hostile));
my ($diagram, $template) = map { picture("SELECT tasker.$_") }
	"task_diagram($task, 'dot')", q(task_template_diagram('hostile "\ & <b>', 'h', format => 'dot'));
foreach my $svg ($diagram, $template)
{
	my %shown = map { plain($_) => 1 } $svg =~ m{<text[^>]*>(.*?)</text>}gs;
	is(join("\n", grep { !$shown{$_} } @names), '', 'every name is there as it is');
	is(scalar(() = $svg =~ /class="edge"/g), $#names + ($svg eq $diagram), 'and every edge');
	unlike($svg, qr/[\x00-\x08\x0b\x0c\x0e-\x1f]/, 'and nothing that XML does not allow');
}
my %tooltip = map { plain($_) => 1 } $diagram =~ /xlink:title="(.*?)"/gs;
is(join("\n", grep { !$tooltip{$_} } @names[ 1 .. $#names ]), '', 'every error is a tooltip, whole');

is(scalar(() = $diagram =~ /<(?:path|polygon)[^>]* fill="red"/g), $#names, 'failed steps are red');
is(scalar(() = $diagram =~ /<(?:path|polygon)[^>]* fill="green"/g), 1, 'the complete one is green');

$session->quit;
ends_well($node, ['app']);
$node->stop;
done_testing();
