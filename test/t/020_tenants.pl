# Two tenants beside each other with the worker at work: each hears of its own
# steps only, a grant and a revocation are felt in sessions that are open, and
# grants go through dump and restore.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Utils;
use Tasker;
use Test::More;

my $node = tasker_node('tenants');
$node->safe_psql('postgres', 'CREATE DATABASE app');
$node->safe_psql('app', 'CREATE EXTENSION tasker');
$node->safe_psql('app', "CREATE ROLE $_; SELECT tasker.grant_admin('$_', '$_ space'), tasker.grant_producer('$_', '$_ space'), tasker.grant_executor('$_', '$_ space'), tasker.grant_operator('$_', '$_ space')")
  foreach qw(acme beta);
my $owner = Tasker::Session->new($node, 'app');

# A session of a tenant with an executor that steps are pushed to.
sub tenant
{
	my ($role) = @_;
	my $session = Tasker::Session->new($node, 'app');
	$session->query("SET ROLE $role");
	$session->query(qq(SELECT tasker.register_task_template('{"name": "t", "namespace_name": "$role space", "version": "1.0.0",
		"step_templates": [{"name": "s", "handler_class": "H"}]}')));
	my ($id, $channel) = split /\|/, $session->query("SELECT executor_id, channel FROM tasker.register_executor('$role', '{H}', 100)");
	return { role => $role, session => $session, id => $id, channel => $channel };
}
my ($acme, $beta) = map { tenant($_) } qw(acme beta);

# --- push ---------------------------------------------------------------------------

$_->{session}->query("SELECT count(tasker.create_task('t', namespace => '$_->{role} space')) FROM generate_series(1, 20)") foreach $acme, $beta;
ok($owner->poll("SELECT count(*) FROM tasker.workflow_steps WHERE state = 'in_progress'", '40'), 'forty steps of one handler name are given out');
is($owner->query(q(SELECT count(*) FROM tasker.workflow_steps w JOIN tasker.tasks t USING (task_id)
	JOIN tasker.task_namespaces n USING (task_namespace_id) JOIN tasker.executors e USING (executor_id) WHERE n.name <> e.role || ' space')), '0',
	'each to the executor of its tenant');
is($acme->{session}->query("SELECT count(*) FROM tasker.my_steps($acme->{id})"), '20', 'one has its twenty');
like($acme->{session}->try("SELECT * FROM tasker.my_steps($beta->{id})"), qr/executor $beta->{id} does not exist/, 'and asks for those of the other in vain');

# A channel is known to its executor alone, and what is said on it by others is a hint and no more.
is($owner->query(qq(SELECT '$acme->{channel}' ~ '^tasker_[0-9a-f]{20}\$')), 't', 'a channel cannot be guessed');
like($beta->{session}->try('SELECT channel FROM tasker.executors'), qr/permission denied/, 'nor read');
$beta->{session}->query("NOTIFY $acme->{channel}, '{\"steps\": [{\"workflow_step_id\": 1, \"claim\": 10}]}'");
is($acme->{session}->query("SELECT count(*) FROM tasker.my_steps($acme->{id})"), '20', 'a forged notification changes nothing');

my ($foreign) = split /,/, $owner->query(q(SELECT string_agg(t.task_id::text, ',') FROM tasker.tasks t JOIN tasker.task_namespaces n USING (task_namespace_id) WHERE n.name = 'acme space'));
like($beta->{session}->try("CALL tasker.await_task($foreign, '0')"), qr/task $foreign does not exist/, 'nobody awaits the task of another');
like($beta->{session}->try("CALL tasker.await_task(999999, '0')"), qr/task 999999 does not exist/, 'it is as if it were not there');
like($beta->{session}->try("CALL tasker.await_steps($acme->{id}, 1, '0')"), qr/executor $acme->{id} does not exist/, 'nor steps for its executor');
is($acme->{session}->query("CALL tasker.await_task($foreign, '0')"), '', 'whose own waits');

# --- in open sessions -----------------------------------------------------------------

like($beta->{session}->try(q(SELECT tasker.create_task('t', namespace => 'acme space'))), qr/template "acme space.t" does not exist/, 'the other space is not there');
$owner->query(q(SELECT tasker.grant_producer('beta', 'acme space')));
like($beta->{session}->query(q(SELECT tasker.create_task('t', namespace => 'acme space'))), qr/^\d+$/, 'until it is granted');
$owner->query(q(SELECT tasker.revoke_role('beta', 'producer', 'acme space')));
like($beta->{session}->try(q(SELECT tasker.create_task('t', namespace => 'acme space'))), qr/template "acme space.t" does not exist/, 'and again when that is revoked');
is($beta->{session}->query('SELECT count(*) FROM tasker.tasks'), '20', 'it sees its own tasks');

# What a role has by membership goes with the membership.
$owner->query('CREATE ROLE guest; GRANT beta TO guest');
my $guest = Tasker::Session->new($node, 'app');
$guest->query('SET ROLE guest');
is($guest->query('SELECT count(*) FROM tasker.tasks'), '20', 'a member sees what its group sees');
$owner->query('REVOKE beta FROM guest');
like($guest->try('SELECT count(*) FROM tasker.tasks'), qr/permission denied/, 'as long as it is a member');

# An executor whose role is revoked is given nothing more, nobody's steps above all.
$owner->query(q(SELECT tasker.revoke_role('acme')));
is($owner->query("SELECT handlers FROM tasker.executors WHERE executor_id = $acme->{id}"), '{}', 'a revoked role serves no handler');

# --- dump and restore -------------------------------------------------------------------

my $grants = q(SELECT role_name, capability, namespace, granted_by FROM tasker.role_grants ORDER BY 1, 2, 3);
my $before = $owner->query($grants);
my $dumps = PostgreSQL::Test::Utils::tempdir();
my @there = ('-h', $node->host, '-p', $node->port);
$node->safe_psql('postgres', 'CREATE DATABASE copy');
$node->command_ok([ 'pg_dump', @there, '-f', "$dumps/app.sql", 'app' ], 'pg_dump');
$node->command_ok([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', @there, '-d', 'copy', '-f', "$dumps/app.sql" ], 'psql restores it');
my $copy = Tasker::Session->new($node, 'copy');
is($copy->query($grants), $before, 'the grants are there');
is($copy->query(q(SELECT count(*) FROM pg_policy WHERE polname = 'tenants')), $owner->query(q(SELECT count(*) FROM pg_policy WHERE polname = 'tenants')),
	'so is row security');
is($copy->query('SELECT isolated_at IS NOT NULL FROM tasker.task_namespaces WHERE name = \'beta space\''), 't', 'the namespaces are isolated');
$copy->query('SET ROLE beta');
is($copy->query('SELECT count(*) FROM tasker.tasks'), '20', 'and a tenant sees there what it saw here');
like($copy->try('SELECT tasker.prune_tasks(now())'), qr/permission denied/, 'and may do no more');
$copy->quit;

my $target = tasker_node('elsewhere');
$target->safe_psql('postgres', 'CREATE DATABASE app');
$node->command_ok([ 'pg_dump', @there, '--no-privileges', '-f', "$dumps/bare.sql", 'app' ], 'pg_dump for a server without the roles');
$target->command_ok([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-h', $target->host, '-p', $target->port, '-d', 'app', '-f', "$dumps/bare.sql" ], 'psql restores it there');
is($target->safe_psql('app', 'SELECT DISTINCT role_name, role_exists FROM tasker.role_grants'), 'beta|f', 'grants to roles that are not there do no harm');

$_->quit foreach $guest, $acme->{session}, $beta->{session}, $owner;
$target->stop;
$node->stop;
done_testing();
