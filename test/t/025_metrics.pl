# Metrics: what Prometheus has scraped from the exporter of Debian, and what the
# text of prometheus_metrics() says, is what the tables and logs say, to the last
# unit; every alert and every panel of the dashboard is answered by a real
# Prometheus. Exporter and Prometheus run as children, on ports of loopback.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use HTTP::Tiny;
use IPC::Run;
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Tasker;
use Test::More;

my $programs = $ENV{MONITORING} // '/usr/bin';
my $json = JSON::PP->new->utf8->canonical;
my $folder = PostgreSQL::Test::Utils::tempdir();
my %children;

# Starts a program that serves HTTP; what it says goes into a file.
sub start_child
{
	my ($name, $environment, @command) = @_;
	local @ENV{ keys %$environment } = values %$environment;

	$children{$name} = IPC::Run::start([ "$programs/$command[0]", @command[ 1 .. $#command ] ], '<', \undef, '>', "$folder/$name.log", '2>&1');
}

sub stop_child
{
	my ($name) = @_;
	my $child = delete $children{$name} or return;

	$child->signal('TERM');
	eval { $child->finish };
}

END
{
	my $status = $?;

	stop_child($_) foreach keys %children;
	$? = $status;
}

# What a page says; dies where there is none.
sub page
{
	my ($url, %form) = @_;
	my $http = HTTP::Tiny->new(timeout => $Tasker::patience);
	my $answer = %form ? $http->post_form($url, \%form) : $http->get($url);

	die "$url: $answer->{status} $answer->{content}" unless $answer->{success};
	return $answer->{content};
}

# The samples of a text in the format of Prometheus, as a hash of name and labels
# (canonical JSON) to value. The exporter says of which server, too.
sub samples
{
	my ($text) = @_;
	my %sample;

	foreach my $line (split /\n/, $text)
	{
		next if $line =~ /^(?:#|$)/ || $line !~ /^tasker/;
		my ($name, $labels, $value) = $line =~ /^(\w+)(?:\{(.*)\})? (\S+)$/ or die "cannot read: $line";
		my %label;
		while (defined $labels && $labels =~ /\G,?(\w+)="((?:[^"\\]|\\.)*)"/gc)
		{
			my ($key, $text_of_label) = ($1, $2);
			$text_of_label =~ s/\\(.)/$1 eq 'n' ? "\n" : $1/ge;
			utf8::decode($text_of_label);
			$label{$key} = $text_of_label;
		}
		$sample{ key_of($name, %label) } = $value;
	}
	return %sample;
}

# Numbers as Perl writes them, so that 1e+06 is 1000000.
sub key_of
{
	my ($name, %label) = @_;

	delete @label{qw(server instance job __name__)};
	$label{le} = 0 + $label{le} if defined $label{le} && $label{le} ne '+Inf';
	return "$name " . $json->encode({ map { $_ => "$label{$_}" } grep { $label{$_} ne '' } keys %label });
}

# Differences of two sets of samples, those of a name that time changes left out.
sub differences
{
	my ($one, $other) = @_;
	my @names = grep { !/^tasker_(?:handler_waiting_seconds|consumer_read_seconds|history_oldest_seconds|history_bytes|orchestrator_memory_bytes|orchestrator_batches_total|latency_seconds\w*) / } keys %{ { %$one, %$other } };

	return join "\n", map { "$_: " . ($one->{$_} // 'none') . ' and ' . ($other->{$_} // 'none') }
	  grep { !defined $one->{$_} || !defined $other->{$_} || $one->{$_} != $other->{$_} } sort @names;
}

my $node = tasker_node('metrics', conf => "tasker.backoff_base = 0\n");
$node->safe_psql('postgres', 'CREATE DATABASE app');
my $session = Tasker::Session->new($node, 'app');
$session->query('CREATE EXTENSION tasker; CREATE ROLE monitor LOGIN; SELECT tasker.grant_observer($$monitor$$)');
$session->query($_) foreach Tasker::template_sql('diamond', 'a; b<-a; c<-a; d<-b,c'), Tasker::template_sql('single', 'a', { handler_class => 'S' }),
	Tasker::template_sql('unheard', 'a', { handler_class => 'Nobody "runs" this \\ ä' }), Tasker::template_sql('loses', 'a', { handler_class => 'L' });
ok($session->poll(q(SELECT status = 'running' FROM tasker.stat_orchestrator)), 'an orchestrator runs');

# ---------- what is counted ----------

my $call = sub { my ($function, $step, $more) = @_; return "SELECT tasker.$function($step->{workflow_step_id}, $step->{claim}$more)" };
my $diamonds = Tasker::Executor->new($node, 'app', name => 'diamonds', handlers => 'H', capacity => 10);
my $singles = Tasker::Executor->new($node, 'app', name => 'singles', handlers => 'S', capacity => 10);

# Everything that can happen: completion, failure, retry, release, loss, cancellation, resolution.
sub work_a_round
{
	my ($n) = @_;
	my $loser = Tasker::Executor->new($node, 'app', name => 'loser', handlers => 'L', capacity => 1);

	diamonds($session, $n);
	diamonds($session, 5, name => 'single');
	my @unheard = diamonds($session, 3, name => 'unheard');
	diamonds($session, 1, name => 'loses');
	my @steps = $singles->expect(5);
	$singles->complete($steps[0]);
	$singles->query($call->('fail_step', $steps[1], ", 'for good', retryable => false"));
	$singles->query($call->('fail_step', $steps[2], ", 'once'"));
	$singles->query($call->('release_step', $steps[3], ''));
	$singles->query('BEGIN; SAVEPOINT s; ' . $call->('complete_step', $steps[4], ", '{}'") . '; ROLLBACK TO s; ' . $call->('fail_step', $steps[4], ", 'for good', retryable => false") . '; COMMIT');
	$singles->query('BEGIN; SELECT tasker.create_task($$single$$, namespace => $$t$$); ROLLBACK');
	$singles->complete($singles->expect(2));
	my @failed = map { $_->{task_id} } @steps[1, 4];
	ok($session->poll("SELECT count(*) FROM tasker.tasks WHERE task_id IN ($failed[0], $failed[1]) AND state = 'error'", '2'), 'two tasks have failed');
	$session->query("SELECT tasker.cancel_task($unheard[0]); SELECT tasker.resolve_task($failed[0]); SELECT tasker.retry_task($failed[1])");
	$singles->complete($singles->expect(1));
	$loser->expect(1);
	$loser->kill;
	ok($session->poll(q(SELECT state = 'pending' AND s.attempts = 1 FROM tasker.workflow_steps s JOIN tasker.handlers h USING (handler_id) WHERE h.name = 'L' ORDER BY workflow_step_id DESC LIMIT 1)),
		'what is lost with its executor is to be run again');
	my $finder = Tasker::Executor->new($node, 'app', name => 'finder', handlers => 'L', capacity => 1);
	$finder->complete($finder->expect(1));
	$finder->query("SELECT tasker.unregister_executor($finder->{id})");
	$finder->quit;
	ok($diamonds->drain_but('unheard'), 'the round ends');
	ok($session->all_is_read, 'and is read');
}

# What the logs say, as name, labels and value of each counter, one each row.
my $of_logs = <<'SQL';
WITH task AS (
	SELECT jsonb_build_object('datname', current_database(), 'namespace', ns.name, 'task', n.name, 'version', n.version) AS labels, l.from_state, l.to_state
	FROM tasker.task_transition_log l JOIN tasker.tasks t USING (task_id) JOIN tasker.named_tasks n USING (named_task_id)
	JOIN tasker.task_namespaces ns ON ns.task_namespace_id = n.task_namespace_id
), step AS (
	SELECT jsonb_build_object('datname', current_database(), 'handler', h.name) AS labels, l.from_state, l.to_state, l.executor_id
	FROM tasker.workflow_step_transition_log l JOIN tasker.workflow_steps s USING (workflow_step_id) JOIN tasker.handlers h USING (handler_id)
)
SELECT 'tasker_task_' || e.event AS name, t.labels, count(*) FILTER (WHERE e.counts) AS value
FROM task t CROSS JOIN LATERAL (VALUES
	('created_total', t.from_state IS NULL), ('started_total', t.to_state = 'in_progress'), ('completed_total', t.to_state = 'complete'),
	('failed_total', t.to_state = 'error'), ('cancelled_total', t.to_state = 'cancelled'), ('resolved_total', t.to_state = 'resolved_manually'),
	('retried_total', t.from_state = 'error' AND t.to_state = 'pending'), ('duration_seconds_count', t.to_state = 'complete')) e (event, counts)
GROUP BY 1, 2
UNION ALL
SELECT 'tasker_step_' || e.event, s.labels, count(*) FILTER (WHERE e.counts)
FROM step s CROSS JOIN LATERAL (VALUES
	('started_total', s.to_state = 'in_progress'), ('completed_total', s.to_state = 'complete'), ('failed_total', s.to_state = 'error'),
	('cancelled_total', s.to_state = 'cancelled'), ('resolved_total', s.to_state = 'resolved_manually'),
	('retried_total', s.from_state = 'error' AND s.to_state = 'pending'), ('released_total', s.from_state = 'in_progress' AND s.to_state = 'pending'),
	('lost_total', s.to_state = 'error' AND s.executor_id IS NULL),
	('duration_seconds_count', s.from_state = 'in_progress' AND s.to_state IN ('complete', 'error') AND s.executor_id IS NOT NULL)) e (event, counts)
GROUP BY 1, 2
UNION ALL
SELECT 'tasker_tasks', jsonb_build_object('datname', current_database(), 'state', s), (SELECT count(*) FROM tasker.tasks t WHERE t.state = s)
FROM unnest(enum_range(NULL::tasker.state)) s
UNION ALL
SELECT 'tasker_handler_waiting_steps', jsonb_build_object('datname', current_database(), 'handler', h.name), (SELECT count(*) FROM tasker.work_queue q WHERE q.handler_id = h.handler_id)
FROM tasker.handlers h
SQL

sub expected
{
	my $rows = $json->decode($session->query("SELECT coalesce(json_agg(r), '[]') FROM ($of_logs) r"));

	return map { key_of($_->{name}, %{ $_->{labels} }) => $_->{value} } @$rows;
}

# What of the expected is something else in these samples.
sub wrong
{
	my ($expected, $found) = @_;

	return join "\n", map { "$_: " . ($found->{$_} // 'none') . " instead of $expected->{$_}" }
	  grep { !defined $found->{$_} || $found->{$_} != $expected->{$_} } sort keys %$expected;
}

work_a_round(6);
$session->query(q(SELECT tasker.create_event_consumer('audit', from_beginning => true); SELECT count(*) FROM tasker.read_events('audit', 7)));
my $observer = sub { return $node->safe_psql('app', $_[0], extra_params => [ '-U', 'monitor' ]) };
my %expected = expected();
cmp_ok(scalar keys %expected, '>', 60, 'the logs say much');
is($expected{ key_of('tasker_step_lost_total', datname => 'app', handler => 'L') }, 1, 'a step was lost');
my $text = $observer->('SELECT tasker.prometheus_metrics(true)');
my %own = samples($text);
is(wrong(\%expected, \%own), '', 'prometheus_metrics() says what the logs say, to whoever may look');
is($session->query(q(SELECT count(*) FROM (SELECT name, labels FROM (SELECT * FROM tasker.metrics UNION ALL SELECT * FROM tasker.state_metrics) m GROUP BY 1, 2 HAVING count(*) > 1) d)), '0', 'no sample comes twice');

# The script that puts it on HTTP.
my ($answer, $said) = ('', '');
{
	local @ENV{qw(PGHOST PGPORT PGUSER PGDATABASE)} = ($node->host, $node->port, 'monitor', 'app');

	ok(IPC::Run::run([ 'monitoring/answer.sh' ], '<', \"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n", '>', \$answer, '2>', \$said), 'answer.sh answers') or diag($said);
	like($answer, qr{\AHTTP/1\.0 200 OK\r\nContent-Type: text/plain; version=0\.0\.4; charset=utf-8\r\n\r\n# HELP tasker}, 'in HTTP');
	is(differences({ samples($answer) }, { samples($observer->('SELECT tasker.prometheus_metrics()')) }), '', 'the same');
	$ENV{PGDATABASE} = 'nowhere';
	IPC::Run::run([ 'monitoring/answer.sh' ], '<', \"GET / HTTP/1.0\r\n\r\n", '>', \$answer, '2>', \$said);
	is($answer, "HTTP/1.0 503 Service Unavailable\r\n\r\n", 'where there is no database it says so');
}

# ---------- the documentation and the files ----------

# Whatever is measured has its row, and each row is measured.
my $families = $session->query(<<'SQL');
SELECT DISTINCT format('| `%s` | %s | %s | %s |', family, type, labels, help) FROM (
	SELECT CASE type WHEN 'histogram' THEN regexp_replace(name, '_(bucket|sum|count)$', '') ELSE name END AS family, type, help,
		(SELECT coalesce(string_agg(k, ', ' ORDER BY k), '') FROM jsonb_object_keys(labels - 'le' - 'datname') k) AS labels
	FROM (SELECT * FROM tasker.metrics UNION ALL SELECT * FROM tasker.state_metrics) m) f ORDER BY 1
SQL
my @documented = sort grep { /^\| `tasker_/ } split /\n/, slurp_file("docs/monitoring.md");
is(join("\n", @documented), join("\n", sort split /\n/, $families), 'docs/monitoring.md has each metric');

# The queries of a dashboard, its variables filled in.
sub panels_of
{
	my ($file) = @_;
	my $dashboard = $json->decode(slurp_file($file));

	return map { my $panel = $_; map { [ "$panel->{title}: $_->{legendFormat}", $_->{expr} ] } @{ $panel->{targets} // [] } } @{ $dashboard->{panels} };
}
my @panels = panels_of("monitoring/grafana-dashboard.json");
my %family = map { /`(\w+)`/ ? ($1 => 1) : () } @documented;
my @named = map { $_->[1] =~ /\b(tasker_\w+)/g } @panels;
push @named, slurp_file("monitoring/alerts.yaml") =~ /\b(tasker_\w+)/g;
cmp_ok(scalar @named, '>', 50, 'alerts and panels name metrics');
is(join(' ', grep { my $name = s/_(?:bucket|sum|count)$//r; !$family{$_} && !$family{$name} } @named), '', 'all of them are there');

SKIP:
{
	my $why = "PROMETHEUS AND ITS EXPORTER ARE NOT IN $programs: install prometheus and prometheus-postgres-exporter";

	skip $why, 1 if grep { !-x "$programs/$_" } qw(prometheus promtool prometheus-postgres-exporter);
	watch();
}

# What holds with the real exporter and the real Prometheus.
sub watch
{
	# promtool judges the files and the text.
	$node->command_ok([ "$programs/promtool", 'check', 'rules', "monitoring/alerts.yaml" ], 'the rules are rules');
	$node->command_ok([ "$programs/promtool", 'test', 'rules', "monitoring/alerts_test.yaml" ], 'each alert fires when it should, and only then');
	$node->command_ok([ "$programs/promtool", 'check', 'config', "monitoring/prometheus.yaml" ], 'the example is a configuration');
	my ($out, $err) = ('', '');
	ok(IPC::Run::run([ "$programs/promtool", 'check', 'metrics' ], '<', \"$text\n", '>', \$out, '2>', \$err) && "$out$err" eq '', 'the text is in the format, and the names follow the customs') or diag("$out$err");

	# As documented, but for how often tasks are counted.
	my ($exporter, $prometheus) = map { PostgreSQL::Test::Cluster::get_free_port() } 1 .. 2;
	my $queries = slurp_file("monitoring/postgres_exporter.yaml");
	my $kept = $queries =~ s/^  cache_seconds: 60$/  cache_seconds: 1/mg;
	is($kept, 1, 'tasks and steps are counted once a minute');
	append_to_file("$folder/queries.yaml", $queries);
	start_child('exporter', { DATA_SOURCE_NAME => 'host=' . $node->host . ' port=' . $node->port . ' user=monitor dbname=app sslmode=disable' },
		'prometheus-postgres-exporter', "--extend.query-path=$folder/queries.yaml", '--disable-default-metrics', '--disable-settings-metrics',
		"--web.listen-address=127.0.0.1:$exporter");
	my %exported;
	ok(until_true(sub { %exported = eval { samples(page("http://127.0.0.1:$exporter/metrics")) }; %exported > 0 }), 'the exporter of Debian answers')
	  or diag(slurp_file("$folder/exporter.log"));
	is(differences(\%exported, { samples($observer->('SELECT tasker.prometheus_metrics(true)')) }), '', 'and says what prometheus_metrics() says');
	is(wrong(\%expected, \%exported), '', 'which is what the logs say');
	my @headers = grep { /^# (?:HELP|TYPE) tasker/ } split /\n/, page("http://127.0.0.1:$exporter/metrics");
	is(join("\n", sort @headers), join("\n", sort grep { /^# / } split /\n/, $text), 'types and texts are the same');

	my $configuration = slurp_file("monitoring/prometheus.yaml");
	$configuration =~ s/: 15s$/: 250ms/mg;
	$configuration =~ s{127\.0\.0\.1:9187}{127.0.0.1:$exporter};
	append_to_file("$folder/prometheus.yaml", $configuration);
	append_to_file("$folder/alerts.yaml", slurp_file("monitoring/alerts.yaml"));
	start_child('prometheus', {}, 'prometheus', "--config.file=$folder/prometheus.yaml", "--storage.tsdb.path=$folder/tsdb", "--web.listen-address=127.0.0.1:$prometheus");
	my $api = "http://127.0.0.1:$prometheus/api/v1";
	my $ask = sub {
		my ($expression) = @_;
		my $answer = $json->decode(page("$api/query", query => $expression));

		return @{ $answer->{data}{result} };
	};
	my $stored = sub { return map { key_of($_->{metric}{__name__}, %{ $_->{metric} }) => $_->{value}[1] } $ask->('{__name__=~"tasker.*"}') };
	my %stored;
	ok(until_true(sub { eval { %stored = $stored->(); wrong(\%expected, \%stored) eq '' } }), 'Prometheus has what the logs say')
	  or diag(wrong(\%expected, \%stored), slurp_file("$folder/prometheus.log"));
	is(differences(\%stored, \%exported), '', 'and everything else that the exporter says');

	# More happens, written by SQL this time; it sees that, too.
	$_->query('SET tasker.direct_writes = off') foreach $session, $singles;
	my $completed = q(SELECT count(*) FROM tasker.workflow_step_transition_log WHERE to_state = 'complete');
	my $before = $session->query($completed);
	work_a_round(9);
	%expected = expected();
	ok(until_true(sub { %stored = $stored->(); wrong(\%expected, \%stored) eq '' }), 'what goes on is followed')
	  or diag(wrong(\%expected, \%stored));
	my ($increase) = $ask->('sum(max_over_time(tasker_step_completed_total[5m]) - min_over_time(tasker_step_completed_total[5m]))');
	is($increase->{value}[1], $session->query($completed) - $before, 'the increase is that of the second round');
	my ($median) = $ask->('histogram_quantile(0.5, sum by (le) (tasker_task_duration_seconds_bucket))');
	cmp_ok($median->{value}[1], '>', 0, 'tasks take time');

	# Every panel has data, and none an error.
	foreach my $panel (@panels)
	{
		my ($title, $expression) = @$panel;
		my @result;

		$expression =~ s/\$datname/.*/g;
		$expression =~ s/\$__rate_interval/5m/g;
		ok(until_true(sub { @result = $ask->($expression); scalar grep { $_->{value}[1] ne 'NaN' } @result }), "$title has data") or diag($expression);
	}

	# Every rule is evaluated.
	my @rules;
	ok(until_true(sub {
		@rules = map { @{ $_->{rules} } } @{ $json->decode(page("$api/rules"))->{data}{groups} };
		!grep { $_->{health} eq 'unknown' } @rules }), 'the rules are evaluated');
	is(scalar @rules, scalar(() = slurp_file("monitoring/alerts.yaml") =~ /- alert: /g), 'all of them');
	is(join("\n", map { "$_->{name}: $_->{lastError}" } grep { $_->{health} ne 'ok' } @rules), '', 'without an error');
	my $states = sub {
		my %state = map { $_->{name} => $_->{state} } map { @{ $_->{rules} } } @{ $json->decode(page("$api/rules"))->{data}{groups} };

		return join ' ', map { "$_=$state{$_}" } @_;
	};
	my $loud;
	ok(until_true(sub { $loud = $states->(qw(TaskerTasksFail TaskerExecutorsLost TaskerNoExecutor));
		$loud =~ /^TaskerTasksFail=firing TaskerExecutorsLost=firing TaskerNoExecutor=(?:pending|firing)$/ }), 'those say something that should') or diag($loud);
	is($states->(qw(TaskerMetricsMissing TaskerNoOrchestrator TaskerSetAside TaskerTasksInError TaskerHistoryStays)),
		'TaskerMetricsMissing=inactive TaskerNoOrchestrator=inactive TaskerSetAside=inactive TaskerTasksInError=inactive TaskerHistoryStays=inactive', 'the others do not');

	# A restart of the server is a reset that Prometheus knows.
	$_->quit foreach $diamonds, $singles, $session;
	$node->restart;
	$session = Tasker::Session->new($node, 'app');
	$diamonds = Tasker::Executor->new($node, 'app', name => 'diamonds', handlers => 'H', capacity => 10);
	diamonds($session, 2);
	ok($diamonds->drain_but('unheard'), 'after a restart work goes on');
	ok(until_true(sub { my ($n) = $ask->('tasker_step_completed_total{handler="H"}'); $n && $n->{value}[1] == 8 }), 'and is counted from zero');
	my ($resets) = $ask->('resets(tasker_step_completed_total{handler="H"}[5m])');
	is($resets->{value}[1], 1, 'of which Prometheus knows');
	stop_child($_) foreach qw(prometheus exporter);
}

# ---------- who finds no room ----------

# A template or handler more than there is room for.
$session->query(<<'SQL');
DO $$
BEGIN
	FOR i IN 1 .. 2100 LOOP
		PERFORM tasker.register_task_template(jsonb_build_object('name', 'many ' || i, 'namespace_name', 'many', 'version', '1.0.0',
			'step_templates', jsonb_build_array(jsonb_build_object('name', 'a', 'handler_class', 'M'))));
	END LOOP;
END
$$;
SQL
my $before = $session->query('SELECT sum(created) FROM tasker.stat_tasks');
$session->query(q(SELECT tasker.create_tasks(array_agg(jsonb_build_object('name', 'many ' || i, 'namespace', 'many'))) FROM generate_series(1, 2100) i));
is($session->query('SELECT sum(created) FROM tasker.stat_tasks') - $before, 2100, 'every task of 2100 templates is counted');
is($session->query(q(SELECT count(*) <= 2048, max(created) FILTER (WHERE task = 'other') BETWEEN 52 AND 60, count(*) FILTER (WHERE task = 'other') FROM tasker.stat_tasks)), 't|t|1', 'those that find no room together');
is($session->query(q(SELECT max(value) FILTER (WHERE labels ->> 'task' = 'other') = (SELECT created FROM tasker.stat_tasks WHERE task = 'other') FROM tasker.metrics WHERE name = 'tasker_task_created_total')), 't', 'as a task of its own');
$session->query('SELECT tasker.reset_stats()');
is($session->query(q(SELECT sum(created), sum(completed), sum(timed), count(*) FILTER (WHERE task = 'other') FROM tasker.stat_tasks)), '0|0|0|0', 'reset_stats() puts all of it back to zero');
$_->quit foreach $diamonds, $singles, $session;
$node->stop;
done_testing();
