-- Objects of one system that are objects of another.

SELECT tasker.map_objects('shop', 'order 1', 'ledger', 'A-77') AS map \gset
-- The same pair, whichever way round.
SELECT tasker.map_objects('shop', 'order 1', 'ledger', 'A-77') = :map AS same, tasker.map_objects('ledger', 'A-77', 'shop', 'order 1') = :map AS same_reversed;
-- The same ids the other way about are other objects.
SELECT tasker.map_objects('shop', 'A-77', 'ledger', 'order 1') <> :map AS differ;
-- One object in more systems, and two of one system.
SELECT tasker.map_objects('carrier', 'P9', 'shop', 'order 1') IS NOT NULL AS mapped, tasker.map_objects('shop', 'order 1', 'shop', 'order 1b') IS NOT NULL AS mapped,
	tasker.map_objects('shop', 'order 0', 'shop', 'order 1') IS NOT NULL AS mapped;

SELECT dependent_system, mapped_remote_id FROM tasker.mapped_objects('shop', 'order 1') ORDER BY 1, 2;
SELECT dependent_system, mapped_remote_id, dependent_system_object_map_id = :map AS the_first FROM tasker.mapped_objects('ledger', 'A-77');
SELECT dependent_system, mapped_remote_id FROM tasker.mapped_objects('shop', 'order 1b');
SELECT count(*) FROM tasker.mapped_objects('shop', 'order 2');
SELECT count(*) FROM tasker.mapped_objects('nobody', 'order 1');
SELECT one.name, remote_id_one, two.name, remote_id_two
FROM tasker.dependent_system_object_maps
JOIN tasker.dependent_systems one ON one.dependent_system_id = dependent_system_one_id
JOIN tasker.dependent_systems two ON two.dependent_system_id = dependent_system_two_id
WHERE one.name IN ('shop', 'ledger', 'carrier') ORDER BY dependent_system_object_map_id;

-- Limits, in characters.
SELECT tasker.map_objects(repeat('é', 64), repeat('ü', 128), 'shop', 'x') IS NOT NULL AS mapped;

-- What is refused leaves no system behind.
CREATE FUNCTION pg_temp.outcome(system_one text, remote_one text, system_two text, remote_two text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	RETURN tasker.map_objects(system_one, remote_one, system_two, remote_two);
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE || ' ' || SQLERRM;
END
$$;
SELECT pg_temp.outcome(a, b, c, d) FROM (VALUES
	(NULL, 'x', 'new system', 'y'), ('new system', NULL, 'shop', 'y'), ('new system', 'x', NULL, 'y'), ('new system', 'x', 'shop', NULL),
	('', 'x', 'new system', 'y'), (repeat('s', 65), 'x', 'new system', 'y'), ('new system', '', 'shop', 'y'), ('new system', 'x', 'shop', repeat('r', 129)),
	('new system', 'x', 'new system', 'x')) v (a, b, c, d);
SELECT count(*) FROM tasker.dependent_systems WHERE name IN ('new system', '');

-- The table itself takes neither a pair twice nor one the wrong way round.
\set VERBOSITY terse
INSERT INTO tasker.dependent_system_object_maps (dependent_system_one_id, remote_id_one, dependent_system_two_id, remote_id_two)
SELECT dependent_system_one_id, remote_id_one, dependent_system_two_id, remote_id_two FROM tasker.dependent_system_object_maps WHERE dependent_system_object_map_id = :map;
INSERT INTO tasker.dependent_system_object_maps (dependent_system_one_id, remote_id_one, dependent_system_two_id, remote_id_two)
SELECT dependent_system_two_id, remote_id_two, dependent_system_one_id, remote_id_one FROM tasker.dependent_system_object_maps WHERE dependent_system_object_map_id = :map;
\set VERBOSITY default

-- Both sides are found by index, among many.
SELECT count(tasker.map_objects('shop', 'many ' || i, 'ledger', 'of ' || i)) FROM generate_series(1, 500) i;
ANALYZE tasker.dependent_system_object_maps;
SET enable_seqscan = off;
SET enable_bitmapscan = off;
CREATE FUNCTION pg_temp.scans(query text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	line text;
BEGIN
	FOR line IN EXECUTE 'EXPLAIN (COSTS OFF) ' || query LOOP
		IF line ~ 'dependent_system_object_maps|object_map' THEN
			RETURN NEXT regexp_replace(line, '^[ >-]+', '');
		END IF;
	END LOOP;
END
$$;
SELECT * FROM pg_temp.scans($$SELECT * FROM tasker.mapped_objects('shop', 'many 7')$$) WHERE scans ~ 'Scan';
RESET enable_seqscan;
RESET enable_bitmapscan;

-- A role needs no more than the function.
CREATE ROLE regress_tasker_map;
GRANT USAGE ON SCHEMA tasker TO regress_tasker_map;
GRANT EXECUTE ON FUNCTION tasker.map_objects TO regress_tasker_map;
SET ROLE regress_tasker_map;
SELECT tasker.map_objects('ledger', 'A-77', 'shop', 'order 1') = :map AS same, tasker.map_objects('system of a role', '1', 'shop', '1') IS NOT NULL AS mapped;
RESET ROLE;
DROP OWNED BY regress_tasker_map;
DROP ROLE regress_tasker_map;
