# Where the fuzzing of the rules begins: seeds.pl FOLDER, from the top of the
# source, writes a corpus for each target of test/fuzz/rules.c and a dictionary
# of the words that the rules know, as they stand in the source.
use strict;
use warnings;
use JSON::PP;

my ($folder) = @ARGV;
my $json = JSON::PP->new->utf8->canonical->allow_nonref;
my $suite = $ENV{JSON_SCHEMA_SUITE} // '/usr/share/json-schema-test-suite';
my %count;

sub contents
{
	my ($file) = @_;
	local $/;
	open my $in, '<:raw', $file or die "cannot read $file: $!";
	return scalar <$in>;
}

sub seed
{
	my ($target, $contents) = @_;
	my $name = sprintf '%s/%s/%05d', $folder, $target, ++$count{$target};

	open my $out, '>:raw', $name or die "cannot write $name: $!";
	print $out $contents;
}

mkdir $folder;
mkdir "$folder/$_" foreach qw(yaml template schema graph small);

# Templates as people write them, and the documents of the tests.
foreach my $file (glob 'test/templates/*.yaml')
{
	seed($_, contents($file)) foreach qw(yaml template);
}
foreach my $file (qw(sql/yaml.sql sql/template.sql sql/environment.sql sql/event.sql sql/context_schema.sql))
{
	my $text = contents($file);

	# Whatever is quoted there over more than a word: documents, most of it.
	foreach ($text =~ /\$\w*\$(.*?)\$\w*\$/gs, $text =~ /E?'((?:[^']|'')*[:{\[-](?:[^']|'')*)'/g)
	{
		seed($_, s/''/'/gr) foreach qw(yaml template);
	}
}

# A schema and a value, with the character between them that no JSON has.
foreach my $file (glob "$suite/tests/draft{4,6,7}/*.json $suite/tests/draft7/optional/*.json")
{
	foreach my $group (@{ $json->decode(contents($file)) })
	{
		my $schema = $json->encode($group->{schema});
		my $n = 0;

		foreach my $test (@{ $group->{tests} })
		{
			seed('schema', "$schema\x1f" . $json->encode($test->{data})) if $n++ < 2;
		}
	}
}
seed('schema', qq({"properties": {"a": {"default": {"b": 1}, "properties": {"b": {"type": "string"}, "c": {"default": [1]}}}}}\x1f{}));

seed('graph', pack 'C*', @$_) foreach [1], [ 3, 0, 1, 1, 2 ], [ 4, 0, 1, 0, 2, 1, 3, 2, 3 ], [ 64, map { $_, $_ + 1 } 0 .. 62 ], [ 3, 0, 1, 1, 2, 2, 0 ];
seed('small', $_) foreach '1.0.0', '999999999.0.10', 'exponential', 'constant', 'resolved_manually', pack('d4', 1, 300, 0.1, 0.5);

my %words;
foreach my $file (glob 'src/rules/*.c src/rules/*.cpp src/define/template_document.c src/define/environment.c src/define/strategy.c')
{
	$words{$_} = 1 foreach contents($file) =~ /"([\w.:~!<=>%*&#\/-]{1,30})"/g;
}
open my $out, '>', "$folder/dictionary" or die "cannot write $folder/dictionary: $!";
printf $out "\"%s\"\n", s/([\\"])/\\$1/gr foreach sort keys %words;
print join(', ', map { "$count{$_} $_" } sort keys %count), ', ', scalar keys %words, " words\n";
