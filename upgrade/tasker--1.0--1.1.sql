-- From version 1.0 to 1.1 of tasker, in one transaction; see docs/upgrading.md.
\echo Use "ALTER EXTENSION tasker UPDATE" to load this file. \quit

SET LOCAL search_path = pg_catalog, pg_temp;

-- Locks of tables are taken here or given back. Nobody waits for this longer
-- than 100 ms at a time, nor this for anybody, which is too short for a
-- deadlock. No batch of the orchestrator is halfway through.
DO $$
BEGIN
	FOR attempt IN 1 .. 100 LOOP
		BEGIN
			SET LOCAL lock_timeout = '100ms';
			LOCK TABLE tasker.orchestrator_checkpoint IN ACCESS EXCLUSIVE MODE;
			LOCK TABLE tasker.named_tasks IN SHARE UPDATE EXCLUSIVE MODE;
			RETURN;
		EXCEPTION WHEN lock_not_available THEN
			PERFORM pg_sleep(0.1);
		END;
	END LOOP;
	RAISE lock_not_available USING MESSAGE = 'the tables of tasker are in use by others',
		DETAIL = 'Each of 100 attempts to lock them has waited for 100 ms.',
		HINT = 'pg_locks tells who uses them: a dump, a transaction that is prepared or forgotten. Then run ALTER EXTENSION tasker UPDATE again.';
END
$$;

-- Every session notices: it looks up the version and its plans again.
ALTER TABLE tasker.named_tasks ALTER COLUMN name SET STATISTICS -1;
