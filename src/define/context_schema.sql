-- The JSON Schema that a template demands of the contexts of its tasks.

CREATE FUNCTION tasker.validate_context(
	name text, context jsonb, namespace text DEFAULT 'default', version text DEFAULT NULL)
RETURNS TABLE (path text, problem text)
LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 1
AS 'MODULE_PATHNAME', 'tasker_validate_context';
COMMENT ON FUNCTION tasker.validate_context(text, jsonb, text, text) IS
'What would keep create_task() from accepting a context: one row for each violation of the template''s schema, up to 1000, with its JSON pointer, which is empty for the context as a whole; no row if it is accepted, or the template has no schema. Missing properties count with their defaults. version NULL is the latest by number. Writes nothing. Errors: 42704 unknown template; 22004 a null argument; 22023 the context is not an object; 54001 schema or context reach too deep for max_stack_depth; 54000 a pattern takes too many steps.';
