-- The JSON Schema of a template: which contexts a task may have, what is
-- inserted into them, how refusals read, and what cannot bring the server down.

-- Registers a template of namespace test with a schema.
CREATE FUNCTION pg_temp.schema(schema jsonb, version text DEFAULT '1.0.0', name text DEFAULT 's') RETURNS void LANGUAGE sql AS $$
	SELECT tasker.register_task_template(jsonb_build_object('name', name, 'namespace_name', 'test', 'version', version,
		'step_templates', '[{"name": "a", "handler_class": "Conforming"}]'::jsonb)
		|| CASE WHEN schema IS NULL THEN '{}' ELSE jsonb_build_object('schema', schema) END);
$$;

-- Says what a statement complains of, with its detail, or that it does not.
CREATE FUNCTION pg_temp.complaint(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	detail text;
	hint text;
BEGIN
	EXECUTE statement;
	RETURN 'fine';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN concat_ws(E'\n  ', SQLSTATE || ' ' || SQLERRM, nullif(detail, ''), nullif(hint, ''));
END
$$;

-- Violations of a schema, in one line each.
CREATE FUNCTION pg_temp.violations(schema jsonb, instance jsonb) RETURNS text LANGUAGE sql AS $$
	SELECT coalesce(string_agg(path || ': ' || problem, '; '), 'valid') FROM tasker.json_schema_violations(schema, instance)
$$;

-- The tasks of these templates, and the context of the newest.
CREATE VIEW pg_temp.tasks AS SELECT t.* FROM tasker.tasks t WHERE EXISTS (
	SELECT FROM tasker.workflow_steps s JOIN tasker.handlers h USING (handler_id) WHERE s.task_id = t.task_id AND h.name = 'Conforming');
CREATE VIEW pg_temp.context AS SELECT context FROM pg_temp.tasks ORDER BY task_id DESC LIMIT 1;

\pset format unaligned
\pset tuples_only on

-- ---------- a template demands ----------

SELECT pg_temp.schema($${
	"type": "object",
	"required": ["order_id", "customer"],
	"properties": {
		"order_id": {"type": "integer", "minimum": 1},
		"customer": {
			"type": "object",
			"required": ["email"],
			"properties": {
				"email": {"type": "string", "pattern": "^[^@ ]+@[^@ ]+$", "maxLength": 64},
				"country": {"type": "string", "enum": ["DE", "AT", "CH"], "default": "DE"},
				"address": {"type": "object", "default": {}, "properties": {"floor": {"type": "integer", "default": 0}}}
			},
			"additionalProperties": false
		},
		"items": {
			"type": "array", "minItems": 1, "uniqueItems": true, "default": [{"sku": "none"}],
			"items": {"$ref": "#/definitions/item"}
		},
		"payment": {"oneOf": [
			{"required": ["card"], "properties": {"card": {"type": "string"}}},
			{"required": ["iban"], "properties": {"iban": {"type": "string"}}}
		]},
		"amount": {"type": "number", "multipleOf": 0.01}
	},
	"definitions": {
		"item": {
			"type": "object",
			"required": ["sku"],
			"properties": {"sku": {"type": "string", "minLength": 1}, "pieces": {"type": "integer", "default": 1}}
		}
	}
}$$);

SELECT tasker.create_task('s', '{"order_id": 1, "customer": {"email": "a@b.example", "country": "AT"}, "items": [{"sku": "x", "pieces": 2}, {"sku": "y"}]}', 'test') IS NOT NULL;
SELECT context FROM pg_temp.context;

-- The whole array is a default, in which defaults are inserted.
SELECT tasker.create_task('s', '{"order_id": 2, "customer": {"email": "ä@ö.example"}}', 'test') IS NOT NULL;
SELECT context FROM pg_temp.context;

-- What keeps a context from being accepted: all at once.
SELECT count(*) FROM pg_temp.tasks;
SELECT tasker.create_task('s', '{"order_id": 0, "customer": {"email": "nobody", "country": "FR", "fax": 1}, "items": [{"sku": ""}, {}, {"pieces": 1.5, "sku": 5}], "payment": {"card": 1}, "amount": 0.005}', 'test');
SELECT tasker.create_task('s', '{}', 'test');
SELECT tasker.create_task('s', NULL, 'test');
SELECT tasker.create_task('s', '{"order_id": "1", "customer": null, "items": [{"sku": "x"}, {"sku": "x", "pieces": 1}], "payment": {"card": "1", "iban": "2"}}', 'test');
SELECT count(*) FROM pg_temp.tasks;

-- An identity key does not excuse it.
SELECT pg_temp.complaint($$SELECT tasker.create_task('s', '{}', 'test', identity_key => 'k')$$);

-- A batch with one bad request creates nothing; and says which it was.
SELECT pg_temp.complaint($$SELECT tasker.create_tasks(ARRAY[
	'{"name": "s", "namespace": "test", "context": {"order_id": 3, "customer": {"email": "a@b"}}}',
	'{"name": "s", "namespace": "test", "context": {"order_id": 4, "customer": {"email": "a b"}}}']::jsonb[])$$);
SELECT count(*) FROM pg_temp.tasks;
SELECT count(*) FROM tasker.create_tasks(ARRAY[
	'{"name": "s", "namespace": "test", "context": {"order_id": 3, "customer": {"email": "a@b"}}}',
	'{"name": "s", "namespace": "test", "context": {"order_id": 4, "customer": {"email": "a@b"}, "items": [{"sku": "z"}]}}']::jsonb[]);
SELECT context FROM pg_temp.tasks ORDER BY task_id DESC LIMIT 2;

-- Through the executor of SQL the same is written.
SET tasker.direct_writes = off;
SELECT tasker.create_task('s', '{"order_id": 5, "customer": {"email": "a@b"}}', 'test') IS NOT NULL;
RESET tasker.direct_writes;
SELECT context FROM pg_temp.context;

-- Many problems: ten are told.
SELECT pg_temp.complaint(format('SELECT tasker.create_task(''s'', %L, ''test'')', jsonb_build_object('order_id', 1,
	'customer', '{"email": "a@b"}'::jsonb, 'items', (SELECT jsonb_agg(jsonb_build_object('sku', i)) FROM generate_series(1, 12) i))));

-- ---------- trying a context ----------

SELECT * FROM tasker.validate_context('s', '{"order_id": 6, "customer": {"email": "a@b"}}', 'test');
SELECT * FROM tasker.validate_context('s', '{"order_id": 6.5, "customer": {"email": "a@b", "a/b~c": 1}}', 'test');
SELECT * FROM tasker.validate_context('s', '{}', 'test', '1.0.0');
SELECT pg_temp.complaint(s) FROM unnest(ARRAY[
	$$SELECT tasker.validate_context('s', '{}', 'test', '9.0.0')$$,
	$$SELECT tasker.validate_context('s', '{}')$$,
	$$SELECT tasker.validate_context('s', '[]', 'test')$$,
	$$SELECT tasker.validate_context(NULL, '{}')$$,
	$$SELECT tasker.validate_context('s', NULL)$$]) s;

-- A template without a schema accepts every object.
SELECT pg_temp.schema(NULL, name => 'free');
SELECT * FROM tasker.validate_context('free', '{"a": [1, "x", null]}', 'test');
SELECT tasker.create_task('free', '{"a": [1, "x", null]}', 'test') IS NOT NULL;

-- ---------- versions, replacement ----------

SELECT pg_temp.schema('{"required": ["a"]}', name => 'v');
SELECT pg_temp.complaint($$SELECT tasker.create_task('v', '{"b": 1}', 'test')$$);
-- As long as it has no tasks, another schema can take its place.
SELECT pg_temp.schema('{"required": ["b"]}', name => 'v');
SELECT pg_temp.complaint($$SELECT tasker.create_task('v', '{"a": 1}', 'test')$$);
SELECT tasker.create_task('v', '{"b": 1}', 'test') IS NOT NULL;
SELECT pg_temp.complaint($$SELECT pg_temp.schema('{"required": ["c"]}', name => 'v')$$);
SELECT pg_temp.schema('{"required": ["c"]}', '1.1.0', name => 'v');
SELECT pg_temp.complaint($$SELECT tasker.create_task('v', '{"b": 1}', 'test')$$);
SELECT tasker.create_task('v', '{"b": 1}', 'test', '1.0.0') IS NOT NULL;
-- One that was taken back is forgotten.
BEGIN;
SELECT pg_temp.schema('{"required": ["d"]}', '1.1.0', name => 'v');
SELECT pg_temp.complaint($$SELECT tasker.create_task('v', '{"c": 1}', 'test')$$);
ROLLBACK;
SELECT tasker.create_task('v', '{"c": 1}', 'test') IS NOT NULL;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT pg_temp.complaint($$SELECT tasker.create_task('v', '{}', 'test')$$);
COMMIT;

-- The schema of the environment in force is the one that counts.
SET tasker.environment = 'strict';
SELECT tasker.register_task_template('{"name": "e", "namespace_name": "test", "schema": {"required": ["a"]},
	"environments": {"strict": {"schema": {"required": ["b"]}}}, "step_templates": [{"name": "a", "handler_class": "Conforming"}]}') IS NOT NULL;
RESET tasker.environment;
SELECT * FROM tasker.validate_context('e', '{"a": 1}', 'test');
SELECT pg_temp.complaint($$SELECT tasker.register_task_template('{"name": "e2", "namespace_name": "test",
	"environments": {"strict": {"schema": {"required": "b"}}}, "step_templates": [{"name": "a", "handler_class": "Conforming"}]}')$$);

-- ---------- defaults ----------

-- At every depth, also through references, allOf and patterns; where a branch
-- decides what counts, nothing is inserted. What is there stays, null too.
SELECT pg_temp.schema($${
	"properties": {
		"a": {"default": 1}, "b": {"$ref": "#/definitions/b"}, "c": {"$ref": "#/definitions/b", "default": {}},
		"d": {"anyOf": [{"properties": {"x": {"default": 1}}}]}, "e": {"properties": {"f": {"default": 1}}},
		"list": {"items": [{"properties": {"first": {"default": true}}}], "additionalItems": {"properties": {"more": {"default": false}}}},
		"map": {"patternProperties": {"^x": {"properties": {"p": {"default": "p"}}}}, "additionalProperties": {"properties": {"q": {"default": "q"}}}}
	},
	"allOf": [{"properties": {"g": {"default": {"h": [1.50, "ü"]}}}}],
	"if": {"required": ["a"]}, "then": {"properties": {"i": {"default": 1}}},
	"required": ["a", "g"],
	"definitions": {"b": {"properties": {"deep": {"properties": {"deeper": {"default": "yes"}}, "default": {}}}}}
}$$, name => 'd');
SELECT tasker.create_task('d', '{"b": {}, "d": {}, "list": [{}, {}, 1], "map": {"x1": {}, "y": {}}}', 'test') IS NOT NULL;
SELECT context FROM pg_temp.context;
SELECT tasker.create_task('d', '{"a": null, "g": 0, "c": {"deep": {"deeper": "no"}}}', 'test') IS NOT NULL;
SELECT context FROM pg_temp.context;

-- A default that is itself invalid does not help.
SELECT pg_temp.schema('{"properties": {"a": {"type": "string", "default": 1}}}', name => 'd2');
SELECT pg_temp.complaint($$SELECT tasker.create_task('d2', '{}', 'test')$$);

-- Numbers come out as they went in.
SELECT tasker.create_task('d', '{"n": [1.10, 9007199254740993, 123456789012345678901234567890.12345678901234567890, 1e400, -0.0, 1E-200]}', 'test') IS NOT NULL;
SELECT context -> 'n' = '[1.10, 9007199254740993, 123456789012345678901234567890.12345678901234567890, 1e400, -0.0, 1E-200]'
	AND context ->> 'n' LIKE '[1.10, 9007199254740993, 123456789012345678901234567890.12345678901234567890, 1000%' FROM pg_temp.context;

-- ---------- what a schema can say ----------

-- The first instance is valid, the second is not.
SELECT schema || E'\n  ' || string_agg(instance::text || ' => ' || pg_temp.violations(schema::jsonb, instance), E'\n  ' ORDER BY n) FROM (VALUES
	('{"type": "integer"}', '1.0', '1.5'), ('{"type": ["string", "null"]}', 'null', '[]'),
	('{"type": "number"}', '1e40', '"1"'), ('{"type": "boolean"}', 'false', '0'),
	('{"enum": [1, "a", {"b": [null]}]}', '{"b": [null]}', '{"b": []}'), ('{"const": {"a": [1, 2]}}', '{"a": [1.0, 2]}', '{"a": [2, 1]}'),
	('{"minimum": 9007199254740993}', '9007199254740993', '9007199254740992'),
	('{"maximum": 0.1}', '0.1', '0.10000000000000000000000000000001'), ('{"exclusiveMinimum": 5}', '5.0000000000000000000001', '5'),
	('{"exclusiveMaximum": -1.25e50}', '-1.3e50', '-1.25e50'), ('{"multipleOf": 0.01}', '12345678901234567890.12', '12345678901234567890.123'),
	('{"multipleOf": 3}', '-999999999999999999999999999999', '1000000000000000000000000000000'),
	('{"minLength": 2, "maxLength": 3}', '"𝒳é"', '"é"'), ('{"maxLength": 3}', '"äöü"', '"äöüß"'),
	('{"pattern": "^\\d{3}(-[a-z]+)?$"}', '"123-abc"', '"123\n"'), ('{"pattern": "^(?=.*\\d)(?=.*[a-z]).{4,}$"}', '"abc1"', '"abcd"'),
	('{"pattern": "^\\u00fc[^]$"}', '"ü\n"', '"u"'),
	('{"items": {"type": "string"}}', '["a"]', '["a", 1, 2]'), ('{"items": [{"type": "string"}], "additionalItems": false}', '["a"]', '["a", 1]'),
	('{"minItems": 1, "maxItems": 2}', '[1]', '[]'), ('{"uniqueItems": true}', '[1, "1", [1], {"a": 1}, true]', '[{"a": 1, "b": [2]}, 7, {"b": [2.0], "a": 1.0}]'),
	('{"contains": {"const": 5}}', '[1, 5]', '[1, 2]'), ('{"required": ["a", "é"]}', '{"a": 1, "é": 2}', '{}'),
	('{"minProperties": 1, "maxProperties": 1}', '{"a": 1}', '{"a": 1, "b": 2}'),
	('{"properties": {"a": {}}, "patternProperties": {"^x_": {"type": "string"}}, "additionalProperties": false}', '{"a": 1, "x_1": "s"}', '{"b": 1, "x_1": 1}'),
	('{"additionalProperties": {"type": "integer"}}', '{"a": 1}', '{"a": "1"}'), ('{"propertyNames": {"maxLength": 2}}', '{"ab": 1}', '{"abc": 1}'),
	('{"dependencies": {"a": ["b"], "c": {"required": ["d"]}}}', '{"a": 1, "b": 2}', '{"a": 1, "c": 2}'),
	('{"allOf": [{"type": "integer"}, {"minimum": 3}]}', '3', '2.5'), ('{"anyOf": [{"type": "integer"}, {"minimum": 3}]}', '2', '2.5'),
	('{"oneOf": [{"type": "integer"}, {"minimum": 3}]}', '3.5', '3'), ('{"not": {"type": "integer"}}', '"a"', '1'),
	('{"if": {"type": "string"}, "then": {"minLength": 2}, "else": {"type": "null"}}', 'null', '"a"'),
	('{"if": {"type": "string"}, "then": {"minLength": 2}, "else": {"type": "null"}, "title": "other"}', '"aa"', '1'),
	('{"$ref": "#/definitions/a~1b%25", "definitions": {"a/b%": {"type": "string"}}, "minLength": 100}', '"a"', '1'),
	('{"items": {"$ref": "#"}, "type": ["array", "null"]}', '[[null], []]', '[[[1]]]'),
	('{"$id": "http://example.com/root", "properties": {"a": {"$ref": "other#named"}}, "definitions": {"x": {"$id": "other", "definitions": {"y": {"$id": "#named", "type": "null"}}}}}', '{"a": null}', '{"a": 1}'),
	('{"format": "date"}', '"2024-02-29"', '"2023-02-29"'), ('{"format": "time"}', '"23:59:60Z"', '"24:00:00Z"'),
	('{"format": "date-time"}', '"2024-12-31T12:00:00.5+01:00"', '"2024-12-31 12:00:00"'),
	('{"format": "ipv4"}', '"127.0.0.1"', '"127.0.0.256"'), ('{"format": "ipv6"}', '"::1"', '"::g"'),
	('{"properties": {"a": false}}', '{}', '{"a": 1}'),
	('{"$schema": "http://json-schema.org/draft-04/schema#", "maximum": 3, "exclusiveMaximum": true, "const": 1, "if": {"not": {}}, "then": false}', '2', '3')
	) v (schema, valid, invalid), LATERAL (VALUES (1, valid::jsonb), (2, invalid::jsonb)) i (n, instance)
GROUP BY schema ORDER BY schema COLLATE "C";

-- Formats that are not known, and keys that are not, are remarks.
SELECT pg_temp.violations('{"format": "email", "colour": "red", "$comment": "x"}', '"no address"');

-- ---------- what is no schema ----------

SELECT pg_temp.complaint(format('SELECT pg_temp.schema(%L, name => ''bad'')', schema)) FROM (VALUES
	('{"type": "strng"}'), ('{"properties": {"a": {"type": ["string", "nil"]}}}'), ('{"properties": {"a": 5}}'), ('{"items": [1]}'),
	('{"required": "a"}'), ('{"required": ["a", 1]}'), ('{"minimum": "5"}'), ('{"minLength": -1}'), ('{"maxItems": 1.5}'),
	('{"multipleOf": 0}'), ('{"multipleOf": 0.1234567890123456789}'), ('{"enum": 1}'), ('{"pattern": 1}'), ('{"allOf": {}}'),
	('{"properties": {"a": {"pattern": "(a"}}}'), ('{"patternProperties": {"[": {}}}'), ('{"pattern": "\\C"}'),
	('{"exclusiveMinimum": true, "minimum": 1}'), ('{"$schema": "http://json-schema.org/draft-04/schema#", "exclusiveMinimum": 1}'),
	('{"$schema": "http://json-schema.org/draft-04/schema#", "properties": {"a": true}}'),
	('{"$schema": "http://json-schema.org/draft-03/schema#"}'), ('{"$schema": "https://json-schema.org/draft/2020-12/schema"}'), ('{"$schema": 7}'),
	('{"$ref": "http://example.com/schema.json"}'), ('{"properties": {"a": {"$ref": "other.json#/a"}}}'), ('{"properties": {"a": {"$ref": "file:///etc/passwd"}}}'),
	('{"properties": {"a": {"$ref": "#/definitions/b"}}}'), ('{"items": {"$ref": "#named"}}'), ('{"$ref": 1}'),
	('{"definitions": {"unused": {"type": "strng"}}}'),
	-- Circles.
	('{"$ref": "#"}'), ('{"allOf": [{"$ref": "#"}]}'), ('{"anyOf": [{"$ref": "#"}, {}]}'), ('{"not": {"$ref": "#"}}'),
	('{"$ref": "#/definitions/a", "definitions": {"a": {"$ref": "#/definitions/b"}, "b": {"allOf": [{"$ref": "#/definitions/a"}]}}}'),
	('{"properties": {"a": {"default": {}, "$ref": "#"}}}'),
	('true'), ('[]')) v (schema);

-- ---------- what cannot bring the server down ----------

-- A circle that only some contexts enter, deep values, deep schemas, deep values in schemas.
SELECT pg_temp.complaint($$SELECT pg_temp.violations('{"properties": {"a": {"$ref": "#/properties/a"}}}', '{"a": 1}')$$);
CREATE TEMP TABLE deep AS SELECT (repeat('[', 6000) || repeat(']', 6000))::jsonb AS value;
SET max_stack_depth = '400kB';
SELECT pg_temp.complaint($$SELECT pg_temp.violations('{"properties": {"a": {"$ref": "#"}}, "items": {"$ref": "#"}}', value) FROM deep$$) ~ '^54001';
RESET max_stack_depth;
SELECT pg_temp.complaint($$SELECT pg_temp.violations(('{"enum": [' || repeat('[', 6000) || repeat(']', 6000) || ']}')::jsonb, (repeat('[', 6000) || repeat(']', 6000))::jsonb)$$) ~ '^fine|^54001';
SELECT pg_temp.complaint($$SELECT pg_temp.violations((repeat('{"not": ', 4000) || '{}' || repeat('}', 4000))::jsonb, '1')$$) ~ '^54001';
SELECT pg_temp.violations('{"items": {"$ref": "#"}}', (repeat('[', 300) || repeat(']', 300))::jsonb);
SET max_stack_depth = '100kB';
SELECT pg_temp.complaint($$SELECT pg_temp.violations('{"items": {"$ref": "#"}}', (repeat('[', 300) || repeat(']', 300))::jsonb)$$);
RESET max_stack_depth;

-- Patterns that backtrack without end; also where the answer would be turned around.
SELECT pg_temp.complaint($$SELECT pg_temp.violations('{"properties": {"a": {"pattern": "^(a+)+$"}}}', jsonb_build_object('a', repeat('a', 50) || 'b'))$$);
SELECT pg_temp.complaint($$SELECT pg_temp.violations('{"not": {"pattern": "^(a+)+$"}}', to_jsonb(repeat('a', 50) || 'b'))$$);
SELECT pg_temp.complaint($$SELECT pg_temp.violations('{"patternProperties": {"^(a+)+$": {}}}', jsonb_build_object(repeat('a', 50) || 'b', 1))$$);
SELECT pg_temp.violations('{"pattern": "^[a-z]*$"}', to_jsonb(repeat('a', 1000000)));
SELECT pg_temp.violations('{"pattern": "^(a|b)*$"}', to_jsonb(repeat('ab', 1000)));

-- Combinations without end are ended by a timeout.
SET statement_timeout = '200ms';
SELECT count(*) FROM tasker.json_schema_violations('{"oneOf": [{"items": {"$ref": "#"}}, {"items": {"$ref": "#"}}, {"type": "null"}]}', (repeat('[', 80) || repeat(']', 80))::jsonb);
RESET statement_timeout;

-- Defaults by the million are refused when the template is registered.
SELECT pg_temp.complaint(format('SELECT pg_temp.schema(%L, name => ''bad'')', jsonb_build_object('$ref', '#/definitions/d20', 'definitions',
	(SELECT jsonb_object_agg('d' || i, CASE i WHEN 0 THEN '{}'::jsonb ELSE format('{"properties": {"a": {"$ref": "#/definitions/d%1$s", "default": {}}, "b": {"$ref": "#/definitions/d%1$s", "default": {}}}}', i - 1)::jsonb END)
		FROM generate_series(0, 20) i))));

-- Large contexts: 2,000 properties, each with a subschema of its own.
SELECT pg_temp.schema(jsonb_build_object('additionalProperties', false,
	'required', (SELECT jsonb_agg('p' || i) FROM generate_series(1, 2000) i),
	'properties', (SELECT jsonb_object_agg('p' || i, jsonb_build_object('type', 'integer', 'minimum', i, 'default', i)) FROM generate_series(1, 2000) i)), name => 'large');
SELECT tasker.create_task('large', '{"p7": 8}', 'test') IS NOT NULL;
SELECT count(*), sum(value::integer) FROM pg_temp.context, jsonb_each_text(context);
SELECT count(*), min(path), min(problem) FROM tasker.validate_context('large', (SELECT jsonb_object_agg('p' || i, i - 1) FROM generate_series(1, 2000) i), 'test');
SELECT pg_temp.complaint(format('SELECT tasker.create_task(''large'', %L, ''test'')', (SELECT jsonb_object_agg('q' || i, i) FROM generate_series(1, 2000) i)));

-- The schemas of a function's argument are not kept, those of templates are.
SELECT count(*) FROM generate_series(1, 200) i, LATERAL tasker.json_schema_violations(jsonb_build_object('minimum', i), to_jsonb(100));

-- Nothing is left for the tests that follow.
SELECT count(*), bool_and(cancelled) FROM (SELECT tasker.cancel_task(task_id) AS cancelled FROM pg_temp.tasks) c;
