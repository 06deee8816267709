-- YAML as Ruby reads it: scalars, collections, anchors, merge keys, encodings,
-- and what is refused, with line and column.

CREATE FUNCTION pg_temp.yaml(document text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	RETURN tasker.yaml_to_jsonb(document)::text;
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE || ' ' || SQLERRM;
END
$$;

-- ---------- scalars ----------

-- Plain, each as the value of a mapping.
SELECT scalar, tasker.yaml_to_jsonb('v: ' || scalar) -> 'v' AS value
FROM unnest(ARRAY['', '~', 'null', 'Null', 'NULL', 'nil', '~ ~',
	'true', 'True', 'yes', 'On', 'YES', 'y', 'false', 'no', 'OFF', 'n', 'yes sir',
	'0', '1', '-1', '+12', '-0', '1_000', '1,000', '-1_000', '1_', '1__0', '1,', '08', '00', '1-1', '1a',
	'0x1F', '-0x1f', '0x_f', '0X1F', '0xg', '0x', '017', '0o17', '-0o7', '0o8', '0b101', '0b2', '0b',
	'99999999999999999999999999999999999999', '0xFFFFFFFFFFFFFFFFFFFFFFFF', '0.10000000000000000000000001',
	'1.5', '-1.5', '.5', '1.', '+.5', '0.', '1_000.5', '1,000.5', '1.50', '1.5_0', '.', '-.', '1.0.0', '1.2.3.4',
	'1.5e+3', '1.5E-3', '1.e+3', '.e+3', '1e3', '1.5e3', '1.5e+',
	'2024-01-31', '2024-01-31 12:30:00 +02:00', '12:30', '1:2:3',
	':name', ':''a b''', ':"a b"', '::a', ':1', E':a\n\n  b', 'a:b', 'a b  c', 'it''s', 'é', '日本', '🚀', '--', '+', '=']) scalar;

-- Quoted and block scalars are strings, whatever they look like.
SELECT scalar, tasker.yaml_to_jsonb('v: ' || scalar) -> 'v' AS value
FROM unnest(ARRAY['""', '''''', '"~"', '''yes''', '"1"', '":name"', '''it''''s''', '"a\tb\n\"\\\x41\u00e9\U0001F680"', '"\x3C%"',
	E'"a\n\n  b\\\n   c"', E'|\n  1\n   2\n', E'|-\n  ~\n', E'|+\n  a\n\n', E'>\n  a\n  b\n\n  c\n', E'>-\n  yes\n']) scalar;

-- A tag says what a scalar is.
SELECT scalar, pg_temp.yaml('v: ' || scalar)
FROM unnest(ARRAY['!!str 5', '! "5"', '!!str', '!!int "0x10"', '!!float "1.5"', '!!bool "yes"', '!!null ""', '!!seq [1]', '!!map {a: b}',
	'!!int x', '!!bool 1', '!!null x', '!!float ~', '!!seq {}', '!!map []', '!!binary aGk=', '!!set {a}', '!!timestamp 2024-01-01',
	'!ruby/object:Object {}', '!ruby/sym a', '!ruby/regexp /a/', '!own x', '!<tag:yaml.org,2002:int> 7']) scalar;

-- ---------- collections ----------

SELECT tasker.yaml_to_jsonb($$
# Block and flow, in each other.
name: order
:symbol: 1
:'quoted symbol': 2
"quoted": 3
1: one
1.50: text
yes: kept as it is written
~: too
? complex
: but a scalar
steps:
- name: a
  needs: []
- {name: b, needs: [a, "c d"], more: {}}
-
  - nested
  - - deeper
nothing:
last: x # a comment
$$);
SELECT tasker.yaml_to_jsonb('just text'), tasker.yaml_to_jsonb('[]'), tasker.yaml_to_jsonb('{}'), tasker.yaml_to_jsonb('--- ~'), tasker.yaml_to_jsonb('---');
SELECT tasker.yaml_to_jsonb(E'%YAML 1.1\n---\na: 1\n...\n');
SELECT tasker.yaml_to_jsonb('{"json": [1, -2.50, true, null, {"a": "b\u00e9"}]}');
SELECT tasker.yaml_to_jsonb(NULL) IS NULL AS nothing;

-- Line ends of other systems; a byte order mark.
SELECT tasker.yaml_to_jsonb(E'\uFEFFa: 1\r\nb: |\r\n  x\r\n  y\r\nc:\r  - d\r');

-- ---------- anchors, aliases, merge keys ----------

SELECT tasker.yaml_to_jsonb($$
defaults: &defaults {limit: 3, config: &config {url: x, deep: [1, 2]}}
limit: &limit 7
copy: *defaults
part: *config
other: {limit: *limit, list: [*limit, *limit]}
&key name: &value text
again: {*key : *value}
$$);
-- An anchor may be defined anew; an alias repeats the one that began last.
SELECT tasker.yaml_to_jsonb('[&a 1, *a, &a 2, *a, &b [&b 3, *b], *b]');
-- What stands in the mapping goes first, then what is merged first, wherever the merge stands.
SELECT tasker.yaml_to_jsonb($$
a: &a {x: 1, y: 1}
b: &b {<<: *a, y: 2, z: 2}
c: {x: 3, <<: *b}
d: {<<: *b, x: 3}
e: {<<: [*a, *b, {w: 9, z: 9}], v: 0}
f: {<<: {}}
g: {<<: []}
h: {'<<': kept}
i: <<
$$);
SELECT pg_temp.yaml(y) FROM unnest(ARRAY['a: *b', '*a', 'a: &a [*a]', 'a: &a {b: {c: *a}}', 'a: &a {<<: *a}', 'a: &a {*a : 1}', 
	'[&a [1], {*a : 1}]', '{<<: 1}', '{<<: ~}', '{<<: [{}, 1]}', '[&a [{}], {<<: [*a]}]', '{<<: {}, <<: {}}']) y;

-- Aliases of aliases: what they repeat is counted, not made.
CREATE FUNCTION pg_temp.laughs(levels integer, each integer) RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(format(E'a%s: &a%s [%s]\n', i, i, array_to_string(array_fill(CASE i WHEN 0 THEN 'x' ELSE '*a' || i - 1 END, ARRAY[each]), ', ')), '' ORDER BY i)
	FROM generate_series(0, levels) i
$$;
SELECT length(pg_temp.yaml(pg_temp.laughs(4, 10)));
SELECT pg_temp.yaml(pg_temp.laughs(9, 10));
SELECT pg_temp.yaml(pg_temp.laughs(40, 2));
SELECT pg_temp.yaml(E'- &a ' || repeat('x', 1000000) || E'\n' || repeat(E'- *a\n', 80));
-- The same by merging.
SELECT pg_temp.yaml(string_agg(format(E'm%s: &m%s {k%s: 0, <<: %s}\n', i, i, i, CASE i WHEN 0 THEN '{}' ELSE '*m' || i - 1 END), '' ORDER BY i))
FROM generate_series(0, 2000) i;
SELECT pg_temp.yaml('m: {' || repeat('<<: {', 900) || string_agg('k' || i || ': 0', ', ') || repeat('}', 901)) FROM generate_series(1, 2000) i;

-- ---------- what is refused ----------

SELECT pg_temp.yaml(y) FROM unnest(ARRAY['', ' ', E'# a comment\n', E'a: 1\n---\nb: 2', E'--- a\n--- b', E'%YAML 3.0\n---\na',
	E'a: 1\nb: 2\n:a: 3', E'{a: 1, "a": 1}', E'- x: 1\n  y: {z: 1,\n    z: 2}', '{1: a, "1": b}',
	'? [a]\n: b', E'? {a: b}\n: c', '{[a]: b}',
	'v: .inf', 'v: -.INF', 'v: +.inf', 'v: .NaN', 'v: 1.0e+5001', 'v: 1.0e-99999999999', 'v: ' || repeat('7', 5001),
	'v: "\0"', 'v: "\ud83d\ude80"', 'v: "\q"', E'v: "a\u0007b"', E'a: é\nb: "\u0001"',
	E'a: [1\nb: 2', 'a: ]', 'a: {b: c', E'a:\n\t- b', E'a: b: c', E'a: b\n  c: d', E'a: "b', E'  a: 1\n b: 2', '- a: @b', '`a`', 'a: %b', E'a: |x\n',
	'&' || repeat('a', 256) || ' b', E'a: 1\n b', repeat('[', 1001), repeat('- ', 1001),
	'%TAG ! tag:example.com,2000:' || E'\n--- !a b']) y;
SELECT length(pg_temp.yaml(repeat('[', 1000) || repeat(']', 1000)));
\set VERBOSITY default
\set SHOW_CONTEXT never
SELECT tasker.yaml_to_jsonb(E'# Ruby would run this.\nurl: "https://<%= host %>/"');

-- ---------- other encodings ----------

-- libyaml reads UTF-8: what it gets and gives is converted.
SELECT current_database() AS this \gset
CREATE DATABASE regress_tasker_latin1 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0;
\c regress_tasker_latin1
SET client_encoding = 'UTF8';
SET client_min_messages = warning;
CREATE EXTENSION tasker;
SELECT tasker.yaml_to_jsonb('{é: "ü\u00df", b: ß}'), octet_length(tasker.yaml_to_jsonb('é') #>> '{}');
\set VERBOSITY terse
SELECT tasker.yaml_to_jsonb('a: "\u65e5"');
SELECT tasker.yaml_to_jsonb('é: 1, é: [');
SELECT tasker.yaml_to_jsonb('{é: 1, é: 2}');
\c :this
DROP DATABASE regress_tasker_latin1;
