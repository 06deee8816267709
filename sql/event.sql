-- The catalogue of events: what is built in, what templates announce, what is
-- entered by hand.

-- What is built in follows from the transitions.
SELECT name, category, description, fired_by FROM tasker.event_definitions WHERE category <> 'custom' ORDER BY 1;
SELECT count(*) AS missing FROM tasker.allowed_transitions t
WHERE NOT EXISTS (SELECT FROM tasker.event_definitions d WHERE d.name = t.event AND d.category = t.owner
	AND coalesce(t.from_state::text, 'nothing') || ' -> ' || t.to_state = ANY (d.fired_by));

-- ---------- of templates ----------

CREATE FUNCTION pg_temp.register(version text, events jsonb, name text DEFAULT 'shipping') RETURNS boolean LANGUAGE sql AS $$
	SELECT tasker.register_task_template(jsonb_build_object('name', name, 'namespace_name', 'events', 'version', version,
		'step_templates', (SELECT jsonb_agg(jsonb_build_object('name', key, 'handler_class', 'H', 'custom_events', value) ORDER BY key) FROM jsonb_each(events)))) IS NOT NULL
$$;
CREATE VIEW pg_temp.catalogue AS
SELECT name, description, fired_by, registered_at IS NOT NULL AS registered FROM tasker.event_definitions
WHERE category = 'custom' AND name LIKE 'parcel.%' ORDER BY name;
SET client_min_messages = notice;

SELECT pg_temp.register('1.0.0', '{"pack": [{"name": "parcel.packed", "description": "In the box"}],
	"send": [{"name": "parcel.sent"}, {"name": "parcel.packed"}]}');
SELECT * FROM pg_temp.catalogue;
-- Again: nothing. Another version, another template: more who announce it, each once.
SELECT pg_temp.register('1.0.0', '{"pack": [{"name": "parcel.packed", "description": "In the box"}],
	"send": [{"name": "parcel.sent"}, {"name": "parcel.packed"}]}');
SELECT pg_temp.register('1.1.0', '{"pack": [{"name": "parcel.packed", "description": "In the box"}], "send": []}');
SELECT pg_temp.register('1.0.0', '{"return": [{"name": "parcel.packed"}, {"name": "parcel.sent", "description": "On its way"}]}', 'returns');
SELECT * FROM pg_temp.catalogue;
-- The last description counts, and the change is told; no description changes nothing.
SELECT pg_temp.register('1.2.0', '{"send": [{"name": "parcel.sent", "description": "Handed over"}]}');
SELECT pg_temp.register('1.3.0', '{"send": [{"name": "parcel.sent"}]}');
SELECT * FROM pg_temp.catalogue;
-- Replaced content takes back who announces, not that there is such an event.
SELECT pg_temp.register('1.0.0', '{"pack": [{"name": "parcel.weighed"}]}', 'scales');
SELECT pg_temp.register('1.0.0', '{"pack": []}', 'scales');
SELECT * FROM pg_temp.catalogue WHERE name = 'parcel.weighed';
-- Rolled back with its registration.
BEGIN;
SELECT pg_temp.register('1.0.0', '{"a": [{"name": "parcel.lost"}]}', 'lost');
ROLLBACK;
SELECT * FROM pg_temp.catalogue WHERE name = 'parcel.lost';

-- ---------- by hand ----------

SELECT tasker.register_event('parcel.delivered');
SELECT tasker.register_event('parcel.delivered', 'At the door', '{courier,"locker app"}');
SELECT tasker.register_event('parcel.delivered', 'At the door', '{courier,drone}');
SELECT tasker.register_event('parcel.delivered', 'In the hands of someone');
SELECT tasker.register_event('parcel.sent', fired_by => '{depot}');
SELECT tasker.register_event('größe.geändert', 'Any letters will do');
SELECT * FROM pg_temp.catalogue;
SELECT name, description FROM tasker.event_definitions WHERE category = 'custom' AND description ILIKE '%letters%';

-- ---------- what is refused ----------

CREATE FUNCTION pg_temp.outcome(name text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	RETURN tasker.register_event(name);
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE || ' ' || SQLERRM;
END
$$;
SELECT pg_temp.outcome(name) FROM unnest(ARRAY[NULL, '', 'delivered', '.', '..', '.a', 'a.', 'a..b', 'a. b', E'a.\tb', 'a.*',
	'task.completed', 'task.mine', 'step.x', 'workflow.x', 'observability.x', 'tasker.x', 'test.x', repeat('a', 126) || '.bc', 'Task.x', 'tasks.x', 'my.task.x']) name;
\set VERBOSITY terse
SELECT tasker.register_event('parcel.x', fired_by => '{{a},{b}}');
SELECT tasker.register_event('parcel.x', fired_by => '{a,NULL}');
SELECT pg_temp.register('9.0.0', '{"a": [{"name": "task.completed"}]}');
SELECT pg_temp.register('9.0.0', '{"a": [{"name": "nodot"}]}');
SELECT pg_temp.register('9.0.0', '{"a": [{"description": "x"}]}');
SELECT pg_temp.register('9.0.0', '{"a": ["parcel.x"]}');
SELECT pg_temp.register('9.0.0', '{"a": [{"name": "parcel.x", "payload": {}}]}');
SELECT pg_temp.register('9.0.0', '{"a": [{"name": "parcel.x"}, {"name": "parcel.y"}, {"name": "parcel.x"}]}');
SELECT pg_temp.register('9.0.0', jsonb_build_object('a', (SELECT jsonb_agg('{"name": "parcel.x"}'::jsonb) FROM generate_series(1, 1001))));
SELECT count(*) FROM tasker.custom_events WHERE name IN ('parcel.x', 'parcel.y');

-- A role needs no more than the function.
CREATE ROLE regress_tasker_event;
GRANT USAGE ON SCHEMA tasker TO regress_tasker_event;
GRANT EXECUTE ON FUNCTION tasker.register_event TO regress_tasker_event;
SET ROLE regress_tasker_event;
SELECT tasker.register_event('parcel.by_role');
RESET ROLE;
DROP OWNED BY regress_tasker_event;
DROP ROLE regress_tasker_event;
