# The example executor that calls HTTP interfaces, against a server on the
# loopback interface that answers as the path asks it to.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use IPC::Run;
use PostgreSQL::Test::Utils;
use Tasker;
use Test::More;

my $python = '/usr/bin/python3';
plan skip_all => 'needs python3 with psycopg' if system("$python -c 'import psycopg' 2>/dev/null") != 0;

my $node = tasker_node('http', conf => "tasker.backoff_base = '10ms'\n");
$node->safe_psql('postgres', 'CREATE DATABASE app');
my $session = Tasker::Session->new($node, 'app');
$session->query('CREATE EXTENSION tasker');

# /STATUS/TIMES/RETRY-AFTER answers with a status so often, then with success.
my $server_file = PostgreSQL::Test::Utils::tempdir() . '/server.py';
append_to_file($server_file, <<'PYTHON');
import collections, email.utils, http.server, json, time
calls = collections.Counter()
class Handler(http.server.BaseHTTPRequestHandler):
	def answer(self):
		_, status, times, after = self.path.split("?")[0].split("/")[:4]
		key = self.headers["Idempotency-Key"]
		calls[key] += 1
		body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
		failed = calls[key] <= int(times)
		self.send_response(int(status) if failed else 200)
		if failed and after == "date":
			self.send_header("Retry-After", email.utils.formatdate(time.time() + 2, usegmt=True))
		elif failed and after != "none":
			self.send_header("Retry-After", after)
		self.end_headers()
		self.wfile.write(json.dumps({"call": calls[key], "method": self.command, "path": self.path, "sent": body}).encode())
	do_GET = do_POST = answer
	def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
PYTHON
my $out = '';
my $server = IPC::Run::start([ $python, $server_file ], '>', \$out, IPC::Run::timeout(60));
$server->pump until $out =~ /^(\d+)\n/;
my $port = $1;

sub task
{
	my ($name, $path, $config, $context) = @_;

	$session->query(qq{SELECT tasker.register_task_template(jsonb_build_object('name', '$name', 'namespace_name', 't', 'version', '1.0.0', 'step_templates',
		jsonb_build_array(jsonb_build_object('name', 's', 'handler_class', 'http', 'default_retry_limit', 4,
			'handler_config', jsonb_build_object('url', 'http://127.0.0.1:$port$path') || '$config'::jsonb))))});
	return $session->query("SELECT tasker.create_task('$name', '" . ($context // '{}') . "', 't')");
}
my %task = (
	fine => task('fine', '/500/0/none/{id}', '{"params": {"q": "ä b"}}', '{"id": "a/b"}'),
	posts => task('posts', '/500/0/none', '{"method": "post"}', '{"n": 7}'),
	broken => task('broken', '/500/2/none', '{}'),
	missing => task('missing', '/404/9/none', '{}'),
	busy => task('busy', '/503/1/1', '{}'),
	dated => task('dated', '/429/1/date', '{}'),
	rude => task('rude', '/503/1/-5', '{}'),
	odd => task('odd', '/429/1/soon', '{}'),
	unnamed => task('unnamed', '/200/0/none/{who}', '{}'),
	file => task('file', '', '{"url": "file:///etc/passwd"}'));
$task{deaf} = task('deaf', '', '{"url": "http://127.0.0.1:1/"}');

$ENV{PGHOST} = $node->host;
$ENV{PGPORT} = $node->port;
$ENV{PGDATABASE} = 'app';
my $said = '';
my $executor = IPC::Run::start([ $python, "$FindBin::RealBin/../../examples/http_executor.py", 'caller' ], '>&', \$said, IPC::Run::timeout(120));
ok($session->poll(q(SELECT count(*) FROM tasker.tasks WHERE state IN ('pending', 'in_progress')), '0'), 'all tasks come to an end') or diag($said);

sub outcome
{
	my ($name) = @_;

	return $session->query("SELECT state || ' ' || attempts FROM tasker.workflow_steps WHERE task_id = $task{$name}");
}
sub failures
{
	my ($name) = @_;

	return $session->query(qq{SELECT string_agg(concat_ws(' ', metadata ->> 'error_class', metadata ->> 'backoff_type', metadata ->> 'backoff_seconds'), ', ' ORDER BY l.sort_key)
		FROM tasker.workflow_step_transitions l JOIN tasker.workflow_steps s USING (workflow_step_id) WHERE task_id = $task{$name} AND to_state = 'error'});
}
is(outcome('fine'), 'complete 1', '200 is a success');
is($session->query("SELECT results #>> '{body,path}' FROM tasker.workflow_steps WHERE task_id = $task{fine}"), '/500/0/none/a%2Fb?q=%C3%A4+b', 'inputs and parameters are in the url, quoted');
is(outcome('posts'), 'complete 1', 'so is a POST');
is($session->query("SELECT results #>> '{body,sent}' FROM tasker.workflow_steps WHERE task_id = $task{posts}"), '{"inputs": {"n": 7}, "dependency_results": {}}', 'which sends the inputs');
is(outcome('broken') . ': ' . failures('broken'), 'complete 3: HTTP_500 exponential 0.010, HTTP_500 exponential 0.020', '500 is retried by the backoff of the step');
is(outcome('missing') . ': ' . failures('missing'), 'error 1: HTTP_404', '404 fails for good');
is(outcome('busy') . ': ' . failures('busy'), 'complete 2: HTTP_503 server_requested 1.000', '503 waits for as long as the server asks');
like(outcome('dated') . ': ' . failures('dated'), qr/^complete 2: HTTP_429 server_requested [12]\.000$/, 'or until its date');
is(outcome('rude') . ': ' . failures('rude'), 'complete 2: HTTP_503 server_requested 0.000', 'not before now');
is(outcome('odd') . ': ' . failures('odd'), 'complete 2: HTTP_429 exponential 0.010', 'what cannot be read is no wish');
is(outcome('unnamed') . ': ' . failures('unnamed'), 'error 1: bad_configuration', 'an input that is missing is no matter of retries');
is(outcome('file') . ': ' . failures('file'), 'error 1: bad_configuration', 'nor is a file');
like(outcome('deaf') . ': ' . failures('deaf'), qr/^error 4: no_answer exponential/, 'no answer is retried until no attempt is left');

$executor->signal('TERM');
$executor->finish;
$server->kill_kill;
$session->quit;
ends_well($node, ['app']);
$node->stop;
done_testing();
