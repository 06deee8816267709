# The example exporter of traces, against a receiver of OTLP on the loopback
# interface that is strict about the format, away at first and once too slow.
# Every task that has ended arrives, whoever is killed when; and what an executor
# hands on is the span of its attempt.
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

my $node = tasker_node('traces', conf => "tasker.backoff_base = '10ms'\n");
$node->safe_psql('postgres', 'CREATE DATABASE app');
my $session = Tasker::Session->new($node, 'app');
$session->query('CREATE EXTENSION tasker');
# Looking is all that it takes.
$session->query(q(CREATE ROLE exporter LOGIN; SELECT tasker.grant_observer('exporter')));
my $dir = PostgreSQL::Test::Utils::tempdir();
my $trace = '4bf92f3577b34da6a3ce929d0e0e4736';
my $caller = '00f067aa0ba902b7';

# --- a receiver ---------------------------------------------------------------------
#
# It checks each request against the JSON of ExportTraceServiceRequest, which is
# that of protobuf but for ids, in hexadecimal digits: known keys only, 64-bit
# integers as strings, enums as numbers. Accepted spans are written to a file, and
# so are the requests, what it has against others, and each traceparent of a call of /work.
append_to_file("$dir/receiver.py", <<'PYTHON');
import http.server, json, os, re, sys, threading
folder, lock, away = sys.argv[1], threading.Lock(), [4]

def need(what, condition):
	if not condition:
		raise ValueError(what)

def members(what, value, required, optional=()):
	need(what + " is an object", isinstance(value, dict))
	need("%s has %s" % (what, sorted(value)), set(required) <= set(value) <= set(required) | set(optional))

def unsigned(what, value, bits):
	need("%s is a number: %r" % (what, value), type(value) is int and 0 <= value < 1 << bits)

def nanoseconds(what, value):
	need("%s is a string of digits: %r" % (what, value), isinstance(value, str) and re.fullmatch("[1-9][0-9]*", value) and int(value) < 1 << 63)
	return int(value)

def identifier(what, value, digits):
	need("%s is an id: %r" % (what, value), isinstance(value, str) and re.fullmatch("[0-9a-f]{%d}" % digits, value) and set(value) != {"0"})

def attributes(what, value):
	need(what + " are a list", isinstance(value, list))
	for pair in value:
		members(what, pair, ["key", "value"])
		need(what + ": key", isinstance(pair["key"], str) and pair["key"])
		need(what + ": one value", isinstance(pair["value"], dict) and len(pair["value"]) == 1)
		(kind, content), = pair["value"].items()
		need("%s: %s %r" % (what, kind, content), isinstance(content, str) and
			(kind == "stringValue" or kind == "intValue" and re.fullmatch("0|-?[1-9][0-9]*", content) and -1 << 63 <= int(content) < 1 << 63))
	need(what + " are unique", len({pair["key"] for pair in value}) == len(value))

def check_span(span):
	members("span", span, ["traceId", "spanId", "name", "kind", "startTimeUnixNano", "endTimeUnixNano", "flags", "attributes", "status"], ["parentSpanId", "events"])
	identifier("traceId", span["traceId"], 32)
	identifier("spanId", span["spanId"], 16)
	if "parentSpanId" in span:
		identifier("parentSpanId", span["parentSpanId"], 16)
	need("name", isinstance(span["name"], str) and span["name"])
	unsigned("kind", span["kind"], 3)
	need("kind", 1 <= span["kind"] <= 5)
	unsigned("flags", span["flags"], 10)
	begin, end = nanoseconds("start", span["startTimeUnixNano"]), nanoseconds("end", span["endTimeUnixNano"])
	need("start before end", begin <= end)
	attributes("attributes of a span", span["attributes"])
	need("events", isinstance(span.get("events", []), list))
	for event in span.get("events", []):
		members("event", event, ["timeUnixNano", "name", "attributes"])
		need("event in its span", begin <= nanoseconds("time", event["timeUnixNano"]) <= end)
		need("name of an event", isinstance(event["name"], str) and event["name"])
		attributes("attributes of an event", event["attributes"])
	members("status", span["status"], ["code"], ["message"])
	unsigned("code", span["status"]["code"], 2)
	need("message", isinstance(span["status"].get("message", ""), str))

def spans_of(request):
	members("request", request, ["resourceSpans"])
	for resource in request["resourceSpans"]:
		members("resourceSpans", resource, ["resource", "scopeSpans"])
		members("resource", resource["resource"], ["attributes"])
		attributes("resource", resource["resource"]["attributes"])
		need("service.name", {"key": "service.name", "value": {"stringValue": "tasker"}} in resource["resource"]["attributes"])
		for scope in resource["scopeSpans"]:
			members("scopeSpans", scope, ["scope", "spans"])
			members("scope", scope["scope"], ["name", "version"])
			need("spans", isinstance(scope["spans"], list) and 0 < len(scope["spans"]) <= 1000)
			for span in scope["spans"]:
				check_span(span)
				yield span

def note(name, text):
	with lock, open(os.path.join(folder, name), "a") as file:
		file.write(text + "\n")

def unique(pairs):
	need("no key twice", len(dict(pairs)) == len(pairs))
	return dict(pairs)

class Receiver(http.server.BaseHTTPRequestHandler):
	def do_GET(self):
		note("called", self.headers["traceparent"] or "none")
		self.reply(200, "{}")
	def do_POST(self):
		body = self.rfile.read(int(self.headers["Content-Length"])).decode()
		with lock:
			away[0] -= 1
			is_away = away[0] >= 0
		if is_away:
			note("sent_away", self.path)
			return self.reply(429 if away[0] % 2 else 503, "later")
		try:
			need("path and type", (self.path, self.headers["Content-Type"]) == ("/v1/traces", "application/json"))
			spans = list(spans_of(json.loads(body, object_pairs_hook=unique)))
		except ValueError as problem:
			note("refused", "%s: %s" % (problem, body))
			return self.reply(400, str(problem))
		slow = '"held"' in body and not os.path.exists(os.path.join(folder, "held"))
		note("requests", body)
		for span in spans:
			note("accepted", json.dumps(span, sort_keys=True))
		if slow:
			# Accepted, but nobody will be told.
			note("held", "once")
			self.rfile.read(1)
			return
		self.reply(200, '{"partialSuccess": {}}')
	def reply(self, status, text):
		self.send_response(status)
		if status in (429, 503):
			self.send_header("Retry-After", "0")
		self.end_headers()
		self.wfile.write(text.encode())
	def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
server.daemon_threads = True
print(server.server_port, flush=True)
server.serve_forever()
PYTHON
my $out = '';
my $receiver = IPC::Run::start([ $python, "$dir/receiver.py", $dir ], '>', \$out, IPC::Run::timeout(300));
$receiver->pump until $out =~ /^(\d+)\n/;
my $port = $1;

sub lines
{
	my ($name) = @_;

	return -e "$dir/$name" ? split /\n/, slurp_file("$dir/$name") : ();
}

sub spans { return map { Tasker::Session::json()->decode($_) } lines('accepted'); }

sub attribute
{
	my ($span, $key) = @_;
	my ($found) = grep { $_->{key} eq $key } @{ $span->{attributes} };

	return $found && (values %{ $found->{value} })[0];
}

# The tasks whose end has arrived.
sub arrived { return map { attribute($_, 'tasker.task_id') => 1 } grep { $_->{name} eq 'tasker.task.execution' } spans(); }

# --- an exporter ----------------------------------------------------------------------

$ENV{PGHOST} = $node->host;
$ENV{PGPORT} = $node->port;
$ENV{PGDATABASE} = 'app';
my $said = '';

sub start_exporter
{
	local $ENV{PGUSER} = 'exporter';

	return IPC::Run::start([ $python, "$FindBin::RealBin/../../examples/trace_exporter.py", "http://127.0.0.1:$port/v1/traces" ],
		'>&', \$said, IPC::Run::timeout(300));
}

my $exporter = start_exporter();
ok(until_true(sub { $exporter->pump_nb; $said =~ /ready/ }), 'the exporter is there') or diag($said);

$session->query(Tasker::template_sql('d', 'a; b<-a; c<-a; d<-b,c', { default_retry_limit => 2 }));
$session->query(Tasker::template_sql('held', 'a'));
my $executor = Tasker::Executor->new($node, 'app', capacity => 50);

# Ends so many tasks; the attempts of some steps fail, some of them for good. Every second task has a trace to be part of.
sub end_tasks
{
	my ($n, $name) = @_;

	$session->query(qq(SELECT count(tasker.create_task('$name', jsonb_build_object('n', i), 't', traceparent => CASE WHEN i % 2 = 0 THEN '00-$trace-$caller-01' END))
		FROM generate_series(1, $n) i));
	ok($executor->work_with(sub {
				foreach my $step (@_)
				{
					my $fails = $step->{step_name} eq 'b' && $step->{inputs}{n} % 3 == 0 && ($step->{attempt} == 1 || $step->{inputs}{n} % 9 == 0);

					$fails ? $session->query("SELECT tasker.fail_step($step->{workflow_step_id}, $step->{claim}, 'out of paper', 'PrinterError')") : $executor->complete($step);
				}
			}, sub { $session->query(q(SELECT count(*) FROM tasker.tasks WHERE state IN ('pending', 'in_progress'))) eq '0' }), "$n tasks come to their end");
}

end_tasks(20, 'd');
ok(until_true(sub { $exporter->pump_nb; my %tasks = arrived(); keys %tasks == 20 }), 'all have arrived') or diag($said);
is(scalar(lines('sent_away')), 4, 'although the receiver was away at first');

# Killed when the receiver has the spans, and it does not know yet.
end_tasks(1, 'held');
ok(until_true(sub { lines('held') }), 'the receiver keeps it waiting');
$exporter->signal('KILL');
eval { $exporter->finish };
# What ends meanwhile waits for the next one.
my $cancelled = $session->query(q(SELECT tasker.create_task('d', '{"n": 1}', 't')));
$session->query("SELECT tasker.cancel_task($cancelled, 'nobody wants it')");
my $unsampled = $session->query(qq(SELECT tasker.create_task('held', '{"n": 1}', 't', traceparent => '00-$trace-$caller-00')));
end_tasks(10, 'd');

$exporter = start_exporter();
my $expected = $session->query('SELECT count(*) FROM tasker.tasks') - 1;
ok(until_true(sub { $exporter->pump_nb; my %tasks = arrived(); keys %tasks == $expected }), 'the next one sends the rest') or diag($said);
$exporter->signal('TERM');
ok(eval { $exporter->finish }, 'and stops when told to') or diag($said);
like($said, qr/stopped\n\z/, 'and says so');

# --- what has arrived ----------------------------------------------------------------------

is(join("\n", lines('refused')), '', 'nothing was wrong in the eyes of the receiver');
my (%spans, @changed);
foreach my $span (spans())
{
	my $text = Tasker::Session::json()->encode($span);

	push @changed, $text if ($spans{"$span->{traceId} $span->{spanId}"} //= $text) ne $text;
}
is("@changed", '', 'what came again was the same');
my @held = grep { attribute($_, 'tasker.task_name') eq 'held' && $_->{name} eq 'tasker.task.execution' } spans();
cmp_ok(scalar(@held), '>', 1, 'the task whose acknowledgement was lost came again');
my %there = map { $_ => 1 } split /\n/, $session->query(
	"SELECT s.trace_id || ' ' || s.span_id FROM tasker.tasks t CROSS JOIN LATERAL tasker.task_spans(t.task_id) s WHERE t.task_id <> $unsampled");
is_deeply([ sort keys %spans ], [ sort keys %there ], 'every span of every task that has ended has arrived, and no other');
my %tasks = arrived();
ok(!$tasks{$unsampled}, 'what is not sampled is not sent');
my %ids = map { $_->{spanId} => 1 } spans();
is(scalar(grep { defined $_->{parentSpanId} && !$ids{ $_->{parentSpanId} } && $_->{parentSpanId} ne $caller } spans()), 0, 'every parent is there, but for the caller of a task');
my %given = map { $_ => 1 } split /\n/, $session->query('SELECT task_id FROM tasker.tasks WHERE traceparent IS NOT NULL');
is(scalar(grep { $_->{traceId} eq $trace xor $given{ attribute($_, 'tasker.task_id') } } spans()), 0, 'tasks are in the trace that they were given, or in one of their own');
my %named;
$named{ $_->{name} }++ foreach spans();
is(join(' ', sort keys %named), 'tasker.step.execution tasker.step.queued tasker.step.retry tasker.task.execution', 'there are all kinds of spans');
my ($failed) = grep { $_->{name} eq 'tasker.step.execution' && $_->{status}{code} == 2 } spans();
is(attribute($failed, 'error.type') . ", $failed->{status}{message}", 'PrinterError, out of paper', 'a failure says what it was');

SKIP:
{
	my $definitions = $ENV{OTLP_DEFINITIONS};

	skip 'needs node, and npm to get the definitions of OpenTelemetry', 2 unless defined $definitions && -x '/usr/bin/node';
	my ($decoded, $complaint) = ('', '');
	ok(IPC::Run::run([ '/usr/bin/node', "$FindBin::RealBin/../otlp/decode.js", $definitions ], '<', "$dir/requests", '>', \$decoded, '2>', \$complaint),
		'by the definitions of OpenTelemetry every request means what it says') or diag($complaint);
	my %decoded = map { $_ => 1 } split /\n/, $decoded;
	is_deeply([ sort keys %decoded ], [ sort keys %spans ], 'and has these spans');
}

# --- what an executor hands on ---------------------------------------------------------------

$session->query(qq{SELECT tasker.register_task_template(jsonb_build_object('name', 'call', 'namespace_name', 't', 'version', '1.0.0', 'step_templates',
	jsonb_build_array(jsonb_build_object('name', 's', 'handler_class', 'http', 'handler_config', jsonb_build_object('url', 'http://127.0.0.1:$port/work')))))});
my $caller_said = '';
my $http = IPC::Run::start([ $python, "$FindBin::RealBin/../../examples/http_executor.py", 'caller' ], '>&', \$caller_said, IPC::Run::timeout(120));
my $call = $session->query(qq(SELECT tasker.create_task('call', '{}', 't', traceparent => '00-$trace-$caller-01')));
ok($session->poll(q(SELECT count(*) FROM tasker.tasks WHERE state IN ('pending', 'in_progress')), '0'), 'a step calls an HTTP interface') or diag($caller_said);
$http->signal('TERM');
ok(eval { $http->finish }, 'its executor ends') or diag($caller_said);
is(join(' ', lines('called')), "00-$trace-" . $session->query("SELECT span_id FROM tasker.task_spans($call) WHERE name = 'tasker.step.execution'") . '-01',
	'and says in which trace, and below which span');

# Pushed or awaited, a step says it itself, and where the task has none, nothing.
$session->query(qq(SELECT tasker.create_task('held', '{"n": 2}', 't', traceparent => '00-$trace-$caller-01'), tasker.create_task('held', '{"n": 3}', 't')));
my ($traced, $untraced) = sort { $a->{inputs}{n} <=> $b->{inputs}{n} } $executor->expect(2);
is($traced->{traceparent}, $session->query("SELECT tasker.step_traceparent($traced->{workflow_step_id}, $traced->{claim})"), 'a payload has the traceparent');
ok(!exists $untraced->{traceparent}, 'of a task that has one');
$session->query("SELECT tasker.unregister_executor($executor->{id}, release => true)");
my $awaiting = $session->query(q(SELECT executor_id FROM tasker.register_executor('awaiting', '{H}', 0)));
($traced, $untraced) = sort { $a->{inputs}{n} <=> $b->{inputs}{n} } @{ Tasker::Session::json()->decode($session->query("CALL tasker.await_steps($awaiting, 2, '1 min')")) };
is($traced->{traceparent}, $session->query("SELECT tasker.step_traceparent($traced->{workflow_step_id}, $traced->{claim})"), 'and so has what was awaited');
ok(!exists $untraced->{traceparent}, 'of the same task only');
$session->query("SELECT tasker.complete_step($_->{workflow_step_id}, $_->{claim})") foreach $traced, $untraced;

$receiver->signal('KILL');
eval { $receiver->finish };
$executor->quit;
$session->quit;
ends_well($node, ['app']);
$node->stop;
done_testing();
