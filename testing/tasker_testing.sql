-- The install script of the test kit is made of the .sql files under testing/,
-- in the order that the Makefile names them; this one comes first.
\echo Use "CREATE EXTENSION tasker_testing" to load this file. \quit

SET LOCAL search_path = pg_catalog, pg_temp;

COMMENT ON SCHEMA tasker_testing IS
'For those who write workflows: run and test them inside one transaction that is rolled back. Never needed in production.';
