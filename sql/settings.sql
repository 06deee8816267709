-- The settings: unit, range, who may change them, and what is refused.
-- The first call loads the library where the server did not.
SELECT tasker.now() IS NOT NULL AS loaded;

SELECT name, vartype, unit, min_val, max_val, boot_val, context
FROM pg_settings
WHERE name LIKE 'tasker.%' AND context <> 'postmaster'
ORDER BY name;

-- Those of the shared memory exist only where the library is preloaded.
SELECT s.name, (p.name IS NOT NULL) = (current_setting('shared_preload_libraries') ~ '\mtasker\M') AS as_expected
FROM (VALUES ('tasker.max_databases', '1', '10000', '64'), ('tasker.max_executors', '1', '1000000', '1024')) s (name, min_val, max_val, boot_val)
LEFT JOIN pg_settings p ON p.name = s.name AND p.vartype = 'integer' AND p.unit IS NULL AND p.context = 'postmaster'
	AND p.min_val = s.min_val AND p.max_val = s.max_val AND p.boot_val = s.boot_val
ORDER BY 1;

-- Undocumented: none.
SELECT name FROM pg_settings WHERE name LIKE 'tasker.%' AND coalesce(length(short_desc), 0) < 20;

-- ---------- values ----------

-- Sets a value and says what became of it: the value shown, or the SQLSTATE.
CREATE FUNCTION pg_temp.try_set(name text, value text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	RETURN set_config(name, value, true);
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE;
END
$$;

SELECT name, value, pg_temp.try_set('tasker.' || name, value) AS outcome
FROM (VALUES
	('backoff_base', '0'), ('backoff_base', '1500'), ('backoff_base', '2min'), ('backoff_base', '2147483647'),
	('backoff_base', '-1'), ('backoff_base', '2147483648'), ('backoff_base', '1 parsec'), ('backoff_base', '8kB'), ('backoff_base', 'soon'), ('backoff_base', ''),
	('backoff_cap', '0'), ('backoff_cap', '1d'), ('backoff_cap', '-1ms'), ('backoff_cap', '30d'),
	('backoff_jitter', '0'), ('backoff_jitter', '0.25'), ('backoff_jitter', '1'),
	('backoff_jitter', '-0.1'), ('backoff_jitter', '1.1'), ('backoff_jitter', 'NaN'), ('backoff_jitter', 'Infinity'), ('backoff_jitter', '1s'), ('backoff_jitter', ''),
	('clock_offset', '-2147483648'), ('clock_offset', '2147483647'), ('clock_offset', '-1h'), ('clock_offset', '0'),
	('clock_offset', '-2147483649'), ('clock_offset', 'yesterday'),
	('lease', '100'), ('lease', '0.2s'), ('lease', '5min'),
	('lease', '99'), ('lease', '0'), ('lease', '-30s'), ('lease', 'forever'),
	('orchestrator', 'off'), ('orchestrator', 'true'), ('orchestrator', 'maybe'), ('orchestrator', '2'),
	('batch_size', '100'), ('checkpoint_interval', '1s'),
	('environment', 'production'), ('environment', 'Größe & "x"'), ('environment', ''),
	('no_such_setting', '1'), ('orchestrators', 'on')) v (name, value);

-- Those of the orchestrator belong to the configuration file.
\set VERBOSITY sqlstate
ALTER SYSTEM SET tasker.batch_size = 0;
ALTER SYSTEM SET tasker.batch_size = 100001;
ALTER SYSTEM SET tasker.batch_size = '1kB';
ALTER SYSTEM SET tasker.checkpoint_interval = 0;
ALTER SYSTEM SET tasker.checkpoint_interval = '11min';
ALTER SYSTEM SET tasker.checkpoint_interval = 'often';
SET tasker.no_such_setting = 1;
SHOW tasker.no_such_setting;
\set VERBOSITY default

-- The environment is for everyone: it counts for what this session registers,
-- which may say anything anyway. None of the others is: they decide about the work of all.
CREATE ROLE regress_tasker_settings;
SET ROLE regress_tasker_settings;
SELECT name, pg_temp.try_set(name, setting) AS outcome
FROM pg_settings WHERE name LIKE 'tasker.%' AND context <> 'postmaster' ORDER BY name;
RESET ROLE;
DROP ROLE regress_tasker_settings;

-- ---------- the clock ----------

-- Wall time at the moment of the call, not at the start of the transaction.
BEGIN;
SELECT clock_timestamp() AS before \gset
SELECT tasker.now() >= :'before' AS goes_on, tasker.now() <= clock_timestamp() AS not_ahead;
COMMIT;

-- Moved by the setting, which a rollback takes back.
CREATE FUNCTION pg_temp.clock_is_off_by(OUT hours numeric) LANGUAGE sql AS $$
	SELECT round(extract(epoch FROM tasker.now() - clock_timestamp())::numeric / 3600, 2)
$$;
SET tasker.clock_offset = '36h';
SELECT pg_temp.clock_is_off_by();
SET tasker.clock_offset = -1800000;
SELECT pg_temp.clock_is_off_by();
BEGIN;
SET tasker.clock_offset = 2147483647;
SELECT pg_temp.clock_is_off_by();
SAVEPOINT s;
SET LOCAL tasker.clock_offset = -2147483648;
SELECT pg_temp.clock_is_off_by();
ROLLBACK TO s;
SELECT pg_temp.clock_is_off_by();
ROLLBACK;
SELECT pg_temp.clock_is_off_by();
RESET tasker.clock_offset;
SELECT pg_temp.clock_is_off_by();

SELECT * FROM tasker.check();
