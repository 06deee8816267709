-- The install script is made of the .sql files under src/, in the order that
-- the Makefile names them; this one comes first.
\echo Use "CREATE EXTENSION tasker" to load this file. \quit

-- Every name below is spelled with its schema; operators and built-in types
-- can only mean PostgreSQL's own.
SET LOCAL search_path = pg_catalog, pg_temp;

COMMENT ON SCHEMA tasker IS
'Durable workflow orchestration: task templates, tasks, steps, their transition logs, and the functions that move them.';
