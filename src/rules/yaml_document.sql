-- YAML, in which the original's templates are written.

CREATE FUNCTION tasker.yaml_to_jsonb(document text) RETURNS jsonb
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'tasker_yaml_to_jsonb';
COMMENT ON FUNCTION tasker.yaml_to_jsonb(text) IS
'A YAML document as jsonb. Plain scalars mean what they mean to Ruby: null, ~ and nothing; yes/no, on/off, true/false in any case; integers with _ or , between digits, 0x, 0b, 0o and leading 0; floats need a point (1.5, 1.0e+3); :name is "name". Dates, times and 12:30 stay strings, as does everything quoted. Numbers keep all their digits. Keys are text as written. Anchors, aliases and merge keys (<<) are resolved; what stands in a mapping itself goes before what is merged into it. Errors: 22023 with line and column: not YAML, more than one document, a key twice, .inf and .nan, an alias to nothing or to what it is part of, other tags than !!str, !!int, !!float, !!bool, !!null, !!map, !!seq, ERB (<%); 54000 aliases and merge keys that repeat more than 1000000 values or 64 MB, more than 1000 levels; 22P05 a character that the database cannot store.';
