-- From version 1.0 to 1.1 of tasker_testing, in one transaction; see docs/upgrading.md.
\echo Use "ALTER EXTENSION tasker_testing UPDATE" to load this file. \quit

SET LOCAL search_path = pg_catalog, pg_temp;
