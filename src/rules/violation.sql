-- What in a jsonb value violates a JSON Schema.

CREATE FUNCTION tasker.json_schema_violations(schema jsonb, instance jsonb)
RETURNS TABLE (path text, problem text)
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE ROWS 1
AS 'MODULE_PATHNAME', 'tasker_json_schema_violations';
COMMENT ON FUNCTION tasker.json_schema_violations(jsonb, jsonb) IS
'What in instance violates a JSON Schema of draft 4, 6 or 7 (its "$schema"; 7 if it names none): one row for each violation, up to 1000, with its JSON pointer, which is empty for the instance as a whole; no row if it is valid. Defaults are not inserted. Errors: 22023 invalid schema; 54001 schema or instance reach too deep for max_stack_depth; 54000 a pattern takes too many steps.';
