# The house: each wing of src/ includes only wings below it, and no circle of
# includes exists. The order is the one in docs/architecture.md.
use strict;
use warnings FATAL => 'all';
use File::Find;
use Test::More;

my @wings = qw(pg rules define run execute orchestrate process);
my %floor = map { $wings[$_] => $_ } 0 .. $#wings;
my %includes;    # file => the headers of ours that it includes

find(
	{
		no_chdir => 1,
		wanted => sub {
			return unless /\.(?:[ch]|cpp)$/;
			my $file = $_ =~ s{^src/}{}r;
			open my $in, '<', $_ or die "cannot read $_: $!";
			$includes{$file} = [];
			while (<$in>)
			{
				next unless /^#include "(.+)"/;
				push @{ $includes{$file} }, $1 if -e "src/$1";
			}
		}
	},
	'src');
cmp_ok(scalar keys %includes, '>', 40, 'the sources are there');

# A wing and what lies below it; files at the top of src belong to no wing.
my @upwards;
for my $file (sort keys %includes)
{
	my ($wing) = $file =~ m{^(\w+)/} or next;
	for my $header (@{ $includes{$file} })
	{
		my ($other) = $header =~ m{^(\w+)/} or next;
		push @upwards, "$file includes $header" if $floor{$other} > $floor{$wing};
	}
}
is(join("\n", @upwards), '', 'no wing includes one above it');

# A concept is its .c or .cpp and its .h: an arrow leads from concept to concept.
my %arrows;
for my $file (keys %includes)
{
	my $concept = $file =~ s/\.(?:[ch]|cpp)$//r;
	for my $header (@{ $includes{$file} })
	{
		my $other = $header =~ s/\.h$//r;
		$arrows{$concept}{$other} = 1 if $other ne $concept;
	}
}

# Takes away concepts that include nothing that is left; a circle stays.
my %left = map { $_ => 1 } keys %arrows;
while (my @free = grep { my $c = $_; !grep { $left{$_} } keys %{ $arrows{$c} } } keys %left)
{
	delete @left{@free};
}
is(join(' ', sort keys %left), '', 'no circle of includes');

# One name, one place: every statement of SQL for install is built in.
my @missing;
open my $makefile, '<', 'Makefile' or die "cannot read Makefile: $!";
my $list = join '', <$makefile>;
find({ no_chdir => 1, wanted => sub { push @missing, $_ if /\.sql$/ && index($list, $_) < 0 } }, 'src', 'testing');
is(join(' ', @missing), '', 'every .sql file is part of an install script');

# The test kit goes with the version that it tests, and is no part of it.
my %version;
foreach my $extension (qw(tasker tasker_testing))
{
	open my $control, '<', "$extension.control" or die "cannot read $extension.control: $!";
	($version{$extension}) = map { /^default_version = '(.+)'/ ? $1 : () } <$control>;
}
is($version{tasker_testing}, $version{tasker}, 'the test kit has the version of tasker');
open my $header, '<', 'src/pg/catalog.h' or die "cannot read src/pg/catalog.h: $!";
is((map { /^#define TASKER_VERSION "(.+)"/ ? $1 : () } <$header>)[0], $version{tasker}, 'and so has the library');
my @mentions;
find({ no_chdir => 1, wanted => sub {
	return unless /\.(?:[ch]|sql)$/;
	open my $in, '<', $_ or die "cannot read $_: $!";
	push @mentions, $_ if grep { /tasker_testing/ } <$in>;
} }, 'src');
is(join(' ', @mentions), '', 'nothing in production knows the test kit');

done_testing();
