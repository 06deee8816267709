#!/usr/bin/perl
# Drafts the script that leads from one version of an extension to the next:
#
#     upgrade/draft.pl EXTENSION OLD_DATABASE OLD.sql NEW_DATABASE NEW.sql > upgrade/EXTENSION--OLD--NEW.sql
#
# The two databases have the two versions of the extension, made by the two
# install scripts (./run upgrade-draft makes them). The catalogs say what
# differs, the new script says it in words: its statements that the old one
# does not have come in its order, as replacements where the object exists.
# Replacing keeps what was granted and what users have built upon an object.
# Where that is impossible, what was granted is carried over.
# Whatever a person must decide is marked with "BY HAND"; test/t/019_upgrade.pl
# fails until the result is right.
use strict;
use warnings;
use FindBin;
use JSON::PP;

die "usage: $0 EXTENSION OLD_DATABASE OLD.sql NEW_DATABASE NEW.sql\n" unless @ARGV == 5;
my ($extension, $old_database, $old_script, $new_database, $new_script) = @ARGV;

sub query
{
	my ($database, @arguments) = @_;

	open my $psql, '-|', 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-v', "extension=$extension", '-d', $database, @arguments
	  or die "cannot run psql: $!";
	my @lines = <$psql>;
	close $psql or die "psql has failed in $database\n";
	chomp @lines;
	return @lines;
}

sub rows
{
	my ($database, $sql) = @_;

	return @{ decode_json(join "\n", query($database, '-c', "SELECT coalesce(json_agg(r), '[]') FROM ($sql) r")) };
}

# The facts of test/upgrade/description.sql: object => property => text.
sub describe
{
	my %facts;

	foreach (query($_[0], '-f', "$FindBin::RealBin/../test/upgrade/description.sql"))
	{
		my ($object, $property, $line) = split / \| /, $_, 3;
		$facts{$object}{$property} .= ($line // '') . "\n";
	}
	return \%facts;
}

# Splits a script into statements, each with the comment lines before it.
sub statements
{
	my ($file) = @_;
	my ($statement, @statements) = ('');

	open my $in, '<', $file or die "cannot read $file: $!";
	my $text = join '', grep { !/^\\/ } <$in>;
	while ($text =~ /\G(?:
			(?<part> --[^\n]*\n? | \/\*.*?\*\/ | '(?:[^']|'')*' | "(?:[^"]|"")*" | (?<tag>\$\w*\$).*?\k<tag> |
				\bBEGIN\s+ATOMIC\b .*? ^END\b | [^;] ) |
			(?<end> ; ) )/xgsm)
	{
		if (defined $+{end})
		{
			push @statements, $statement =~ s/\A\s+//r . ';';
			$statement = '';
		}
		else
		{
			$statement .= $+{part};
		}
	}
	return @statements;
}

# A statement without comments before it, spaces made one.
sub plain
{
	my ($statement) = @_;

	$statement =~ s/\A(?:\s*--[^\n]*\n)*\s*//;
	return $statement =~ s/\s+/ /gr;
}

my ($old, $new) = (describe($old_database), describe($new_database));
my ($schema) = map { $new->{$_}{schema} // () } "extension $extension";
chomp $schema;
my %known = map { plain($_) => 1 } statements($old_script);
my @statements = statements($new_script);

# --- what cannot be replaced --------------------------------------------------------

my $routines = q(SELECT p.oid::regprocedure::text AS signature, p.proname AS name, concat(pg_get_function_result(p.oid),
		(SELECT string_agg(concat(' ', o.name, ' ', format_type(o.type, NULL)), ',' ORDER BY o.n) FROM unnest(p.proallargtypes, p.proargmodes, p.proargnames)
			WITH ORDINALITY o (type, mode, name, n) WHERE o.mode IN ('o', 'b', 't'))) AS result,
	array_to_json(p.proargnames) AS argument_names, p.pronargdefaults AS defaults, p.prokind AS kind, pg_get_functiondef(p.oid) AS definition
	FROM pg_proc p WHERE p.prokind <> 'a' AND p.pronamespace = ) . "'$schema'::regnamespace";
my $columns = q(SELECT c.oid::regclass::text AS relation, c.relkind AS kind, (SELECT json_agg(json_build_array(a.attname, format_type(a.atttypid, a.atttypmod)) ORDER BY a.attnum)
	FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) AS columns
	FROM pg_class c WHERE c.relkind IN ('r', 'p', 'v', 'm') AND NOT c.relispartition AND c.relnamespace = ) . "'$schema'::regnamespace";
# Views and routines that would have to go with an object.
my $dependents = q(SELECT DISTINCT pg_describe_object(d.refclassid, d.refobjid, 0) AS object,
	coalesce(w.ev_class::regclass::text, d.objid::regprocedure::text) AS dependent, CASE WHEN w.oid IS NULL THEN 'routine' ELSE 'relation' END AS kind,
	coalesce(p.oid::regprocedure::text, c.oid::regclass::text) AS on
	FROM pg_depend d LEFT JOIN pg_rewrite w ON d.classid = 'pg_rewrite'::regclass AND w.oid = d.objid AND w.ev_class <> d.refobjid
	LEFT JOIN pg_proc p ON d.refclassid = 'pg_proc'::regclass AND p.oid = d.refobjid LEFT JOIN pg_class c ON d.refclassid = 'pg_class'::regclass AND c.oid = d.refobjid
	WHERE d.deptype = 'n' AND (w.oid IS NOT NULL OR d.classid = 'pg_proc'::regclass)
	AND coalesce(p.pronamespace, c.relnamespace) = ) . "'$schema'::regnamespace";

my %old_routine = map { $_->{signature} => $_ } rows($old_database, $routines);
my %new_routine = map { $_->{signature} => $_ } rows($new_database, $routines);
my %old_columns = map { $_->{relation} => $_ } rows($old_database, $columns);
my %new_columns = map { $_->{relation} => $_ } rows($new_database, $columns);
my %needs;    # object => those that need it, as [kind, name]
push @{ $needs{ $_->{on} } }, [ $_->{kind}, $_->{dependent} ] foreach rows($old_database, $dependents);

# Whether CREATE OR REPLACE would refuse: another result, other names of arguments, fewer defaults.
sub routine_is_remade
{
	my ($was, $is) = map { $_->{ $_[0] } } \%old_routine, \%new_routine;

	return 0 unless $was && $is;
	return 1 if $was->{kind} ne $is->{kind} || ($was->{result} // '') ne ($is->{result} // '') || $was->{defaults} > $is->{defaults};
	my @was = @{ $was->{argument_names} // [] };
	my @is = @{ $is->{argument_names} // [] };
	return scalar grep { $was[$_] ne '' && $was[$_] ne ($is[$_] // '') } 0 .. $#was;
}

# Whether the columns of a view that was there are no longer its first ones.
sub view_is_remade
{
	my ($was, $is) = map { $_->{ $_[0] } } \%old_columns, \%new_columns;

	return 0 unless $was && $is && $was->{kind} eq 'v';
	return 1 if $is->{kind} ne 'v' || @{ $was->{columns} } > @{ $is->{columns} };
	return scalar grep { "@{ $was->{columns}[$_] }" ne "@{ $is->{columns}[$_] }" } 0 .. $#{ $was->{columns} };
}

my %remade = ((map { $_ => 'routine' } grep { routine_is_remade($_) } keys %old_routine),
	(map { $_ => 'relation' } grep { view_is_remade($_) } keys %old_columns));
# What a kept object is made of while what it needs is away, and that is put back afterwards.
my %kept_out;

sub keep_out
{
	foreach my $dependent (@{ $needs{ $_[0] } // [] })
	{
		my ($kind, $name) = @$dependent;
		next if $remade{$name} || $kept_out{$name} || !($kind eq 'routine' ? $old_routine{$name} : $old_columns{$name});
		$kept_out{$name} = $kind;
	}
}
keep_out($_) foreach sort keys %remade;

# --- writing ------------------------------------------------------------------------

my @script;
my %locked;    # tables that the script changes
sub emit { push @script, @_; }

sub quoted { return "'" . $_[0] =~ s/'/''/gr . "'"; }

sub keep_grants
{
	my ($kind, $name) = @_;
	my ($catalog, $type, $keyword) = $kind eq 'routine' ? qw(proc regprocedure ROUTINE) : qw(class regclass TABLE);
	my ($acl, $owner, $letter) = $kind eq 'routine' ? qw(proacl proowner f) : qw(relacl relowner r);
	my $setting = 'upgrade.' . (join '_', 'of', $name =~ /(\w+)/g);

	$setting =~ s/^(.{55}).*/$1/;
	return ("-- What was granted on it goes over to the new one.
SELECT pg_catalog.set_config('$setting', (SELECT coalesce(json_agg(a), '[]')::text FROM pg_catalog.pg_$catalog o,
	pg_catalog.aclexplode(o.$acl) a WHERE o.oid = " . quoted($name) . "::pg_catalog.$type AND a.grantee NOT IN (0, o.$owner)), true);",
	"REVOKE ALL ON $keyword $name FROM PUBLIC;
DO \$\$
DECLARE
	granted record;
	from_script aclitem[] := (SELECT i.initprivs FROM pg_catalog.pg_init_privs i
		WHERE i.classoid = 'pg_catalog.pg_$catalog'::pg_catalog.regclass AND i.objoid = " . quoted($name) . "::pg_catalog.$type AND i.objsubid = 0);
BEGIN
	FOR granted IN SELECT * FROM pg_catalog.json_to_recordset(pg_catalog.current_setting('$setting')::json) g(grantee oid, privilege_type text, is_grantable boolean)
	LOOP
		EXECUTE pg_catalog.format('GRANT %s ON $keyword %s TO %s%s', granted.privilege_type, " . quoted($name) . ",
			granted.grantee::pg_catalog.regrole, CASE WHEN granted.is_grantable THEN ' WITH GRANT OPTION' END);
	END LOOP;
	-- They are not the script's own: a dump must have them.
	UPDATE pg_catalog.pg_init_privs SET initprivs = from_script
	WHERE classoid = 'pg_catalog.pg_$catalog'::pg_catalog.regclass AND objoid = " . quoted($name) . "::pg_catalog.$type AND objsubid = 0;
	-- From PostgreSQL 17 on it is noted who is named there.
	DELETE FROM pg_catalog.pg_shdepend WHERE dbid = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
		AND classid = 'pg_catalog.pg_$catalog'::pg_catalog.regclass AND objid = " . quoted($name) . "::pg_catalog.$type AND deptype = 'i';
END
\$\$;");
}

sub stub
{
	my ($name, $kind) = @_;

	if ($kind eq 'relation')
	{
		return "CREATE OR REPLACE VIEW $name AS SELECT "
		  . join(', ', map { "NULL::$_->[1] AS \"$_->[0]\"" } @{ $old_columns{$name}{columns} }) . ' WHERE false;';
	}
	my $definition = $old_routine{$name}{definition};
	$definition =~ s/^\s*(?:BEGIN ATOMIC.*|RETURN .*)\z/AS '';/sm or return "-- BY HAND: $name needs what is about to be dropped.";
	return "SET LOCAL check_function_bodies = off;\n${definition}RESET check_function_bodies;";
}

my %new_grants;    # statements that put the grants back, by object

# Drops an object that cannot be replaced. Users' objects upon it make that fail, and the update with it.
sub make_way
{
	my ($name) = @_;
	my ($keep, $give_back) = keep_grants($remade{$name}, $name);

	emit(stub($_, $kept_out{$_})) foreach grep { $kept_out{$_} } map { $_->[1] } @{ $needs{$name} // [] };
	emit($keep, 'DROP ' . ($remade{$name} eq 'routine' ? 'ROUTINE' : 'VIEW') . " $name;");
	$new_grants{$name} = $give_back;
}

# A column or constraint that a table gets.
sub change_table
{
	my ($table) = @_;
	my ($was, $is) = map { $_->{"relation $table"} } $old, $new;
	my @changes;

	$locked{$table} = 1;

	foreach my $column (rows($new_database, "SELECT a.attname AS name, quote_ident(a.attname) || ' ' || format_type(a.atttypid, a.atttypmod)
			|| coalesce(' COLLATE ' || (SELECT format('%I.%I', n.nspname, c.collname) FROM pg_collation c JOIN pg_namespace n ON n.oid = c.collnamespace
				WHERE c.oid = a.attcollation AND a.attcollation NOT IN (0, 100)), '')
			|| CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END
			|| coalesce(CASE a.attgenerated WHEN '' THEN ' DEFAULT ' || pg_get_expr(d.adbin, d.adrelid)
				ELSE ' GENERATED ALWAYS AS (' || pg_get_expr(d.adbin, d.adrelid) || ') STORED' END, '')
			|| CASE a.attidentity WHEN 'd' THEN ' GENERATED BY DEFAULT AS IDENTITY' WHEN 'a' THEN ' GENERATED ALWAYS AS IDENTITY' ELSE '' END AS definition
		FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
		WHERE a.attrelid = '$table'::regclass AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum"))
	{
		push @changes, "ADD COLUMN $column->{definition}" unless $was->{"column $column->{name}"} // $was->{"column \"$column->{name}\""};
	}
	foreach my $property (sort keys %$is)
	{
		my ($constraint) = $property =~ /^constraint (.+)/ or next;
		my $definition = $is->{$property} =~ s/(?:, (?:not inherited|inherited))*\n\z//r;
		next if ($was->{$property} // '') eq $is->{$property} || $definition =~ /^NOT NULL/;
		push @changes, "DROP CONSTRAINT $constraint" if exists $was->{$property};
		push @changes, "ADD CONSTRAINT $constraint $definition";
	}
	push @changes, "DROP CONSTRAINT $_" foreach map { /^constraint (.+)/ && !exists $is->{$_} ? "$1" : () } sort keys %$was;
	emit("-- BY HAND: table $table differs; is this all, and how long does it hold its lock?\nALTER TABLE $table\n\t" . join(",\n\t", @changes) . ';') if @changes;
	emit("-- BY HAND: column $_ of table $table differs.") foreach map { /^column (.+)/ && ($was->{$_} // $is->{$_}) ne ($is->{$_} // '') ? "$1" : () } sort keys %$was;
	emit("-- BY HAND: $_ of table $table differs.") foreach grep { !/^(?:column|constraint|comment|row|may be|priv)/ && ($was->{$_} // '') ne ($is->{$_} // '') } sort keys %$is;
}

my %way_is_made;
my %made_anew;    # names whose comments have gone with the old object
foreach my $statement (@statements)
{
	my $plain = plain($statement);
	my ($kind, $name) = $plain =~ /^CREATE (?:OR REPLACE )?(?:UNIQUE )?(FUNCTION|PROCEDURE|VIEW|TABLE|INDEX|TYPE|SEQUENCE|TRIGGER|DOMAIN|OPERATOR|AGGREGATE)(?: CONCURRENTLY| ONLY)? ([\w.]+)/;
	my ($is_new, @signatures) = 1;

	if (!$kind)
	{
		my ($said_of) = $plain =~ /^COMMENT ON (?!CONSTRAINT|TRIGGER)\w+ ([\w.]+)/;
		$said_of =~ s/\.\w+$// if $plain =~ /^COMMENT ON COLUMN/;
		next if $known{$plain} && !$made_anew{ $said_of // '' };
		next if $plain =~ /pg_extension_config_dump/ || $plain =~ /^SET LOCAL search_path/;
		emit($plain =~ /^(?:COMMENT|ALTER|GRANT|REVOKE) / ? $statement : "-- BY HAND: the new script runs this, the old one did not.\n" . $statement =~ s/^/-- /gmr);
		next;
	}
	if ($kind eq 'FUNCTION' || $kind eq 'PROCEDURE')
	{
		my ($bare) = $name =~ /(\w+)$/;
		@signatures = grep { $new_routine{$_}{name} eq $bare } sort keys %new_routine;
		next if $known{$plain} && !grep { $remade{$_} || $kept_out{$_} } @signatures;
		$is_new = !grep { $_->{name} eq $bare } values %old_routine;
		foreach my $signature (grep { $remade{$_} && !$way_is_made{$_}++ } @signatures)
		{
			make_way($signature);
			$made_anew{$name} = 1;
		}
		$statement =~ s/^CREATE (?=FUNCTION|PROCEDURE)/CREATE OR REPLACE /m unless $is_new;
	}
	elsif ($kind eq 'VIEW')
	{
		next if $known{$plain} && !$remade{$name} && !$kept_out{$name};
		make_way($name) if $remade{$name};
		$made_anew{$name} = 1 if $remade{$name};
		@signatures = ($name);
		$statement =~ s/^CREATE VIEW/CREATE OR REPLACE VIEW/m if $old_columns{$name} && !$remade{$name};
	}
	elsif ($known{$plain}) { next; }
	elsif ($kind eq 'TABLE' && $old_columns{$name}) { change_table($name); next; }
	elsif ($kind eq 'INDEX' && $old->{"relation $schema.$name"}) { emit("DROP INDEX $schema.$name;"); $made_anew{"$schema.$name"} = 1; }
	elsif ($kind eq 'TYPE' && $old->{"type $name"}) { emit("-- BY HAND: type $name differs."); next; }
	emit($statement);
	emit(grep { defined } map { delete $new_grants{$_} } @signatures);
}

# --- what no statement says ---------------------------------------------------------

foreach my $object (sort keys %$old)
{
	next if $new->{$object} || $object !~ /^(routine|relation|type) (.+)/;
	my ($kind, $name) = ($1, $2);
	my $relkind = $old->{$object}{kind} // '';
	my $what = $kind eq 'routine' ? 'ROUTINE' : $kind eq 'type' ? 'TYPE' : $relkind =~ /^v/ ? 'VIEW' : $relkind =~ /^i/ ? 'INDEX' : $relkind =~ /^S/ ? 'SEQUENCE' : 'TABLE';
	$locked{$name} = 1 if $what eq 'TABLE';
	emit("-- BY HAND: it is no more; does nobody need it?\nDROP $what $name;");
}
foreach my $property (sort keys %{ $new->{"extension $extension"} })
{
	my ($relation) = $property =~ /^dumps (.+)/ or next;
	my ($was, $is) = map { $_->{"extension $extension"}{$property} // '' } $old, $new;
	my ($condition) = $is =~ /^where (.*)\n\z/s;
	emit(sprintf 'SELECT pg_catalog.pg_extension_config_dump(%s, %s);', quoted($relation), quoted($condition eq 'true' ? '' : $condition)) if $was ne $is;
}
# Nothing new is open to PUBLIC.
foreach my $object (sort keys %$new)
{
	my ($kind, $name) = $object =~ /^(routine|relation) (.+)/ or next;
	next if $old->{$object};
	my $relkind = $new->{$object}{kind} // '';
	next if $kind eq 'relation' && $relkind =~ /^[iIc]/;
	emit('REVOKE ALL ON ' . ($kind eq 'routine' ? 'ROUTINE' : $relkind =~ /^S/ ? 'SEQUENCE' : 'TABLE') . " $name FROM PUBLIC;");
}
foreach my $object (grep { $old->{$_} && !/^extension|^table|^function|^view/ } sort keys %$new)
{
	my @acl = map { $_->{$object}{'may be used by'} // '' } $old, $new;
	emit("-- BY HAND: privileges of $object differ.") if $acl[0] ne $acl[1];
}

# --- the frame -----------------------------------------------------------------------

my ($from, $to) = map { (query($_, '-c', "SELECT extversion FROM pg_extension WHERE extname = '$extension'"))[0] } $old_database, $new_database;
my @frame = (qq(-- From version $from to $to of $extension, in one transaction; see docs/upgrading.md.
\\echo Use "ALTER EXTENSION $extension UPDATE" to load this file. \\quit

SET LOCAL search_path = pg_catalog, pg_temp;));
my $is_tasker = $extension eq 'tasker';
$locked{'tasker.orchestrator_checkpoint'} = 1 if $is_tasker;
my $lock = join "\n\t\t\t", (map { "LOCK TABLE $_ IN ACCESS EXCLUSIVE MODE;" } join ', ', sort keys %locked),
  $is_tasker ? 'LOCK TABLE tasker.named_tasks IN SHARE UPDATE EXCLUSIVE MODE;' : ();

push @frame, <<"SQL" =~ s/\n\z//r if %locked;
-- Locks of tables are taken here or given back. Nobody waits for this longer
-- than 100 ms at a time, nor this for anybody, which is too short for a
-- deadlock. No batch of the orchestrator is halfway through.
DO \$\$
BEGIN
	FOR attempt IN 1 .. 100 LOOP
		BEGIN
			SET LOCAL lock_timeout = '100ms';
			$lock
			RETURN;
		EXCEPTION WHEN lock_not_available THEN
			PERFORM pg_sleep(0.1);
		END;
	END LOOP;
	RAISE lock_not_available USING MESSAGE = 'the tables of $extension are in use by others',
		DETAIL = 'Each of 100 attempts to lock them has waited for 100 ms.',
		HINT = 'pg_locks tells who uses them: a dump, a transaction that is prepared or forgotten. Then run ALTER EXTENSION $extension UPDATE again.';
END
\$\$;
SQL
unshift @script, @frame;
emit("-- Every session notices: it looks up the version and its plans again.\nALTER TABLE tasker.named_tasks ALTER COLUMN name SET STATISTICS -1;") if $is_tasker;
print join("\n\n", @script), "\n";
