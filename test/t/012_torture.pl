# Everything at once, while anything is killed at any moment; afterwards rows
# and logs are read by laws of our own (test/torture/Laws.pm): nothing is lost,
# nothing has happened twice, every effect is there exactly with its step, and
# what a client was told is true.
#
# Here it is small. ./run torture makes it large, by these:
#   TASKER_TORTURE_KILLS=N     how many
#   TASKER_TORTURE_MINUTES=N   or how long, whichever comes first
#   TASKER_TORTURE_SEED=N      repeats templates and order of the strikes, not their moment
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin, "$FindBin::RealBin/../torture";
use Laws;
use Test::More;
use Time::HiRes qw(time);
use Torture;

my $large = exists $ENV{TASKER_TORTURE_KILLS} || exists $ENV{TASKER_TORTURE_MINUTES};
my $kills = $ENV{TASKER_TORTURE_KILLS} // ($large ? 1_000_000 : 100);
my $seconds = exists $ENV{TASKER_TORTURE_MINUTES} ? 60 * $ENV{TASKER_TORTURE_MINUTES} : $large ? 36_000 : 60;
my $torture = Torture->new('torture', seed => $ENV{TASKER_TORTURE_SEED} || int(time) % 1_000_000);

diag("TASKER_TORTURE_SEED=$torture->{seed}");
$torture->{pause} = $large ? 600_000 : 200_000;
$torture->{burst} = 3000 if $large;
ok($torture->begin, 'the work has begun');
my $begin = time();
my $told = $begin;
while ($torture->kills < $kills && time() - $begin < $seconds)
{
	$torture->strike;
	$torture->trouble unless int(rand(3));
	last if $torture->{stuck};
	next unless $large && time() - $told > 60;
	diag(sprintf '%d kills after %.0f min', $torture->kills, (time() - $begin) / 60);
	$told = time();
}
diag(sprintf 'took %.0f s', time() - $begin);
$torture->finish;

# --- that the laws would have seen it ---------------------------------------------------

is(join("\n", unseen_violations($torture->{node}, 'app')), '', 'every law sees its own violation');
foreach my $harm ('PANIC:  oh', 'TRAP: FailedAssertion("no")', 'ERROR:  deadlock detected', 'server process (PID 1) was terminated by signal 11: Segmentation fault',
	'LOG:  tasker: a batch of database "app" has failed: no',
	'LOG:  tasker: step 7 of database "app" cannot be processed and is set aside: no')
{
	is(scalar harm_in_log("2026-01-01 LOG:  all is well\n$harm\nserver process (PID 1) was terminated by signal 9: Killed\n"), 1, "the log is heard where it says $harm");
}
is(scalar harm_in_log("HINT:  It runs again in smaller parts until what fails is alone; that is then set aside.\n"), 0, 'a hint is no harm');

$torture->{node}->stop;
done_testing();
