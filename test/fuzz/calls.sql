-- Hostile calls of every function and procedure of the extensions, as text.
-- fuzz.script(n) gives n of them, in all the circumstances in which somebody
-- might call them; what comes is decided by setseed(). Role fuzz_caller is there.
CREATE SCHEMA fuzz;

GRANT USAGE ON SCHEMA tasker, tasker_testing, fuzz TO fuzz_caller;
GRANT EXECUTE ON ALL ROUTINES IN SCHEMA tasker, tasker_testing TO fuzz_caller;

-- ---------- what there is to be hit ----------

CREATE FUNCTION fuzz.work(step tasker.claimed_step) RETURNS jsonb LANGUAGE sql AS $$ SELECT to_jsonb(step.attempt) $$;
CREATE FUNCTION fuzz.nonsense(step tasker.claimed_step) RETURNS jsonb LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION '%', repeat('no', 100000); END $$;
-- Functions of users that call back, from where they may and from where they may not.
CREATE FUNCTION fuzz.meddle(step tasker.claimed_step) RETURNS jsonb LANGUAGE sql AS $$
	SELECT to_jsonb(tasker.complete_step(step.workflow_step_id, step.claim, to_jsonb(tasker.create_task('fuzz one', '{}', 'fuzz')))) $$;
CREATE FUNCTION fuzz.wait(facts jsonb) RETURNS interval LANGUAGE sql AS $$ SELECT tasker.orchestrate() * interval '1 ms' $$;
CREATE FUNCTION fuzz.key(facts jsonb) RETURNS text LANGUAGE sql AS $$ SELECT tasker.create_task('fuzz one', '{}', 'fuzz')::text $$;

CREATE TABLE fuzz.template (template jsonb);
INSERT INTO fuzz.template
SELECT jsonb_build_object('name', 'fuzz ' || name, 'namespace_name', 'fuzz', 'version', '1.0.0') || more || jsonb_build_object('step_templates', steps)
FROM (VALUES
	('one', '{}'::jsonb, '[{"name": "a", "handler_class": "H", "default_retry_limit": 2, "backoff_base_seconds": 0}]'::jsonb),
	('diamond', '{}', '[{"name": "a", "handler_class": "H"}, {"name": "b", "handler_class": "H", "depends_on_step": "a"},
		{"name": "c", "handler_class": "fuzz.work", "depends_on_step": "a", "skippable": true}, {"name": "d", "handler_class": "H", "depends_on_steps": ["b", "c"], "timeout_seconds": 1}]'),
	('turns', '{"concurrent": false, "schema": {"properties": {"n": {"type": "integer", "default": 1}}}}',
		'[{"name": "a", "handler_class": "H"}, {"name": "b", "handler_class": "H"}]'),
	('session', '{"coordinator_strategy": "synchronous"}', '[{"name": "a", "handler_class": "fuzz.work"},
		{"name": "b", "handler_class": "fuzz.nonsense"}, {"name": "c", "handler_class": "fuzz.meddle", "depends_on_step": "a"}]'),
	('wait', '{"backoff_strategy": "fuzz.wait", "reenqueuer_strategy": "delayed"}', '[{"name": "a", "handler_class": "H", "default_retry_limit": 9}]'),
	('key', '{"identity_strategy": "fuzz.key"}', '[{"name": "a", "handler_class": "H"}]'),
	('hash', '{"identity_strategy": "hash"}', '[{"name": "a", "handler_class": "H"}]')) t(name, more, steps);
SELECT tasker.register_task_template(template) FROM fuzz.template;
SELECT tasker.create_task(template->>'name', '{}', 'fuzz') FROM fuzz.template, generate_series(1, 3)
WHERE template->>'identity_strategy' IS DISTINCT FROM 'fuzz.key';
SELECT tasker.register_executor('fuzz', '{H,fuzz.work}', 0, true, '1 h') FROM generate_series(1, 5);
SELECT tasker.orchestrate();

-- ---------- values ----------

-- Expressions of a type that nobody expects.
CREATE TABLE fuzz.hostile (type regtype, expression text);
INSERT INTO fuzz.hostile VALUES
	('bigint', '0'), ('bigint', '-1'), ('bigint', '9223372036854775807'), ('bigint', '(-9223372036854775808)'), ('bigint', '1099511627776'),
	('integer', '0'), ('integer', '1'), ('integer', '-1'), ('integer', '10'), ('integer', '20'), ('integer', '2147483647'), ('integer', '(-2147483648)'), ('integer', '10001'),
	('boolean', 'true'), ('boolean', 'false'),
	('double precision', '0'), ('double precision', '-0.5'), ('double precision', '''NaN'''), ('double precision', '''Infinity'''),
	('double precision', '''-Infinity'''), ('double precision', '1e308'), ('double precision', '5e-324'),
	('numeric', '0'), ('numeric', '''NaN'''), ('numeric', '''Infinity'''), ('numeric', '-1e100'), ('numeric', '1e-100'),
	('interval', '''0'''), ('interval', '''1 s'''), ('interval', '''-1 s'''), ('interval', '''178000000 years'''), ('interval', '''-178000000 years'''),
	('interval', '''2147483647 days'''), ('interval', '''1 mon -30 days'''), ('interval', '''2562047788:00:54.775807'''), ('interval', '''infinity'''), ('interval', '''1 us'''),
	('timestamptz', 'now()'), ('timestamptz', '''infinity'''), ('timestamptz', '''-infinity'''), ('timestamptz', '''epoch'''),
	('timestamptz', '''294276-12-31 23:59:59+00'''), ('timestamptz', '''4714-11-24 00:00:00+00 BC'''),
	('text', ''''''), ('text', ''' '''), ('text', 'E''\x01'''), ('text', 'E''\n\r\t'''), ('text', '''x'''), ('text', 'repeat(''x'', 64)'), ('text', 'repeat(''x'', 65)'),
	('text', 'repeat(''ä'', 128)'), ('text', 'repeat(''ä'', 129)'), ('text', 'repeat(''long '', 100000)'), ('text', '''"; DROP SCHEMA tasker CASCADE; --'''),
	('text', E'''\\''''; DROP SCHEMA tasker CASCADE; --'''), ('text', '''%s%n%d%1$s'''), ('text', '''$1 $$ :x'''), ('text', 'E''\\\\'''), ('text', '''{}'''), ('text', '''{"a": 1}'''),
	('text', '''null'''), ('text', '''NaN'''), ('text', '''1.0.0'''), ('text', 'U&''\202e\FEFF\+01F600'''), ('text', 'chr(1114111)'), ('text', '''a.b'''), ('text', '''pg_catalog.now'''),
	('text', '''tasker.tasks'''), ('text', '''public'''), ('text', 'repeat(''('', 10000)'), ('text', 'repeat(''[ '', 900)'), ('text', E'''a: &a [*a]\n'''), ('text', E'''a: &a [x,x,x]\nb: [*a, *a]\n<<: *a\n'''),
	('jsonb', '''null'''), ('jsonb', '''{}'''), ('jsonb', '''[]'''), ('jsonb', '''1'''), ('jsonb', '''"x"'''), ('jsonb', '''true'''), ('jsonb', '''{"a": 1, "": null}'''),
	('jsonb', '(repeat(''['', 1000) || repeat('']'', 1000))::jsonb'), ('jsonb', '(repeat(''{"a":'', 1000) || ''1'' || repeat(''}'', 1000))::jsonb'),
	('jsonb', '(SELECT jsonb_object_agg(i, i) FROM generate_series(1, 5000) i)'), ('jsonb', 'jsonb_build_object(''a'', repeat(''long '', 100000))'),
	('jsonb', '''{"$ref": "#"}'''), ('jsonb', '''{"$ref": "#/definitions/a", "definitions": {"a": {"$ref": "#"}}}'''), ('jsonb', '''{"pattern": "^(a+)+$"}'''),
	('jsonb', '''{"type": "object", "properties": {"a": {"default": 1, "type": "string"}}}'''), ('jsonb', '''{"a": 1e1000, "b": -1e-1000}'''),
	('jsonb', '''{"name": "fuzz one", "namespace": "fuzz"}'''), ('jsonb', '''{"name": "fuzz diamond", "namespace": "fuzz", "tags": ["a", ""], "bypass_steps": ["c"], "requested_at": "infinity"}'''),
	('jsonb', '''{"name": "fuzz one", "namespace": "fuzz", "requested_at": "now", "identity_key": "k", "priority": 1e300}'''),
	('regprocedure', '''fuzz.work(tasker.claimed_step)'''), ('regprocedure', '''pg_catalog.now()'''), ('regprocedure', '4294967295'), ('regprocedure', '0'),
	('regprocedure', '''tasker.complete_step(bigint,integer,jsonb,bigint)'''), ('regprocedure', '''pg_catalog.count(*)'''),
	('tasker.claimed_step', '(SELECT s FROM tasker.my_steps(1) s LIMIT 1)'), ('tasker.claimed_step', 'ROW(1, 10, 1, 1, ''a'', ''a'', ''H'', ''{}'', ''{}'', ''{}'')'),
	-- Each of these is an array of any type.
	('anyarray', '''{}'''), ('anyarray', '''{NULL}'''), ('anyarray', '''[5:6]={NULL,NULL}'''), ('anyarray', '''{{NULL},{NULL}}'''),
	('anyarray', 'array_fill(NULL::{type}, ARRAY[2, 2], ARRAY[-3, 0])'), ('anyarray', 'array_fill({value}::{type}, ARRAY[2, 3])'),
	('anyarray', 'array_fill({value}::{type}, ARRAY[3], ARRAY[2147483640])'), ('anyarray', 'array_fill({value}::{type}, ARRAY[3000])'),
	('anyarray', 'ARRAY[{value}, NULL, {value}]::{type}[]'), ('anyarray', 'ARRAY[{value}]::{type}[]'), ('anyarray', 'ARRAY[{value}, {value}, {value}]::{type}[]');
INSERT INTO fuzz.hostile SELECT 'tasker.state', quote_literal(s) FROM unnest(enum_range(NULL::tasker.state)) s;

-- Expressions that suit a parameter by its name: what gets further.
CREATE TABLE fuzz.suiting (parameter text, expression text);
INSERT INTO fuzz.suiting
SELECT p, e FROM (VALUES
	('{name,task_name}', '{"''fuzz one''","''fuzz diamond''","''fuzz turns''","''fuzz session''","''fuzz wait''","''fuzz key''","''fuzz hash''"}'),
	('{namespace}', '{"''fuzz''"}'), ('{version}', '{NULL,"''1.0.0''"}'),
	('{task_id,owner_id,before_task_id}', '{"(SELECT max(task_id) FROM tasker.tasks)","(SELECT min(task_id) FROM tasker.tasks)"}'),
	('{step_id}', '{"(SELECT max(workflow_step_id) FROM tasker.workflow_steps)","(SELECT min(workflow_step_id) FROM tasker.workflow_steps WHERE state = ''in_progress'')"}'),
	('{step_ids}', '{"(SELECT array_agg(workflow_step_id) FROM tasker.workflow_steps WHERE state = ''in_progress'')"}'),
	('{claims}', '{"(SELECT array_agg(sort_key) FROM tasker.workflow_steps WHERE state = ''in_progress'')"}'),
	('{task_ids}', '{"(SELECT array_agg(task_id) FROM tasker.tasks)"}'),
	('{claim}', '{10,20,30,"(SELECT max(sort_key) FROM tasker.workflow_steps WHERE state = ''in_progress'')"}'),
	('{executor_id}', '{1,2,3,4,5,NULL}'), ('{max,max_steps,max_tasks,max_passes,capacity}', '{1,3,100}'), ('{step_name,words}', '{"''a''","''b''"}'),
	('{format}', '{"''text''","''mermaid''","''dot''","''json''"}'), ('{handlers}', '{"''{H}''","''{fuzz.work}''"}'),
	('{sources}', '{"''{1,1,2}''","''{1,2}''"}'), ('{targets}', '{"''{2,3,3}''","''{2,1}''"}'), ('{weights}', '{"''{1,2,3}''"}'), ('{n,length}', '{2,3}'),
	('{timeout,within,retention,lease}', '{"''0''","''1 ms''","''1 h''"}'), ('{strategy}', '{"''linear''","''exponential''"}'), ('{shape}', '{"''diamond''","''tree''"}'),
	('{states,allowed_from}', '{"enum_range(NULL::tasker.state)"}')) s(parameters, expressions),
	unnest(parameters::text[]) p, unnest(expressions::text[]) e;

CREATE FUNCTION fuzz.pick(choices text[]) RETURNS text LANGUAGE sql VOLATILE AS $$
	SELECT choices[1 + floor(random() * cardinality(choices))::integer]
$$;

-- A template with something put where it does not belong, or as it should be.
CREATE FUNCTION fuzz.some_template() RETURNS jsonb LANGUAGE plpgsql VOLATILE AS $$
DECLARE
	template jsonb := fuzz.pick(ARRAY(SELECT t.template::text FROM fuzz.template t ORDER BY 1));
	place text := fuzz.pick('{name,version,step_templates,"step_templates,0","step_templates,0,name","step_templates,0,depends_on_steps",
		"step_templates,0,default_retry_limit","step_templates,0,handler_config","step_templates,0,custom_events",schema,environments,
		backoff_strategy,identity_strategy,reenqueuer_strategy,concurrent,unknown,namespace_name}');
	value jsonb := fuzz.pick('{null,true,0,-1,1e300,"\"\"","\"fuzz.wait\"","\"2.0.0\"","\"a\"",[],"[\"a\"]","[\"b\",\"b\"]","[1,null]","{}",
		"{\"production\":{\"x\":1}}","{\"type\":\"object\",\"required\":[\"q\"]}","[{\"name\":\"x.y\"}]"}');
BEGIN
	IF random() < 0.2 THEN
		RETURN template || jsonb_build_object('version', format('%s.0.0', 2 + floor(random() * 5)));
	END IF;
	RETURN jsonb_set(template, string_to_array(place, ','), value);
END
$$;

-- An expression for a parameter.
CREATE FUNCTION fuzz.argument(parameter text, parameter_type regtype) RETURNS text LANGUAGE plpgsql VOLATILE AS $$
DECLARE
	element regtype := (SELECT typelem FROM pg_type WHERE oid = parameter_type AND typelem <> 0 AND typlen = -1);
	dice float8 := random();
	suiting text[] := ARRAY(SELECT expression FROM fuzz.suiting s WHERE s.parameter = argument.parameter ORDER BY 1);
BEGIN
	IF dice < 0.05 THEN
		RETURN 'NULL';
	ELSIF dice < 0.65 AND suiting <> '{}' THEN
		RETURN fuzz.pick(suiting);
	ELSIF parameter = 'template' AND dice < 0.8 THEN
		RETURN quote_literal(fuzz.some_template());
	ELSIF parameter_type = 'bigint'::regtype AND dice < 0.8 THEN
		RETURN 1 + floor(random() * 60)::integer;
	ELSIF element IS NOT NULL THEN
		RETURN replace(replace(fuzz.pick(ARRAY(SELECT expression FROM fuzz.hostile WHERE type = 'anyarray'::regtype ORDER BY 1)),
			'{value}', fuzz.argument('', element)), '{type}', element::text);
	END IF;
	RETURN coalesce(fuzz.pick(ARRAY(SELECT expression FROM fuzz.hostile WHERE type = parameter_type ORDER BY 1)), 'NULL');
END
$$;

CREATE TABLE fuzz.routine AS
SELECT row_number() OVER (ORDER BY p.oid::regprocedure::text)::integer AS number, p.oid::regproc::text AS name, p.prokind AS kind, p.proretset AS is_set,
	p.pronargdefaults AS defaults, p.proargnames AS names,
	ARRAY(SELECT t::regtype FROM unnest(p.proargtypes::oid[]) WITH ORDINALITY u(t, n) ORDER BY n) AS types
FROM pg_proc p
WHERE p.pronamespace IN ('tasker'::regnamespace, 'tasker_testing'::regnamespace) AND p.prorettype <> 'trigger'::regtype;

-- A call of a routine, without SELECT or CALL before it.
CREATE FUNCTION fuzz.call_of(r fuzz.routine) RETURNS text LANGUAGE plpgsql VOLATILE AS $$
DECLARE
	arguments text[] := '{}';
BEGIN
	FOR i IN 1 .. cardinality(r.types) LOOP
		CONTINUE WHEN i > cardinality(r.types) - r.defaults AND r.names IS NOT NULL AND random() < 0.4 AND r.kind = 'f';
		arguments := arguments || (CASE WHEN r.names IS NULL THEN '' ELSE quote_ident(r.names[i]) || ' => ' END
			|| '(' || fuzz.argument(coalesce(r.names[i], ''), r.types[i]) || ')::' || r.types[i]);
	END LOOP;
	RETURN format('%s(%s)', r.name, array_to_string(arguments, ', '));
END
$$;

-- A statement that calls some routine.
CREATE FUNCTION fuzz.statement() RETURNS text LANGUAGE plpgsql VOLATILE AS $$
DECLARE
	r fuzz.routine;
	call text;
	chosen integer := 1 + floor(random() * (SELECT count(*) FROM fuzz.routine));
BEGIN
	SELECT * INTO r FROM fuzz.routine f WHERE f.number = chosen;
	call := fuzz.call_of(r);
	RETURN CASE WHEN r.kind = 'p' THEN 'CALL ' || call
		WHEN r.is_set OR random() < 0.8 THEN 'SELECT * FROM ' || call
		ELSE 'SELECT ' || call || ' FROM generate_series(1, 3)' END;
END
$$;

-- Statements for psql, each with its circumstances, on a line or some lines.
CREATE FUNCTION fuzz.script(n integer) RETURNS SETOF text LANGUAGE plpgsql VOLATILE AS $$
DECLARE
	s text;
	t text;
BEGIN
	FOR i IN 1 .. n LOOP
		s := fuzz.statement();
		t := fuzz.statement();
		RETURN NEXT CASE floor(random() * 20)
			WHEN 0 THEN format('BEGIN; %s; %s; ROLLBACK;', s, t)
			WHEN 1 THEN format('BEGIN; %s; %s; COMMIT;', s, t)
			WHEN 2 THEN format('BEGIN; SAVEPOINT a; %s; ROLLBACK TO a; SAVEPOINT b; %s; RELEASE b; COMMIT;', s, t)
			WHEN 3 THEN format('BEGIN READ ONLY; SAVEPOINT a; %s; ROLLBACK TO a; %s; COMMIT;', s, t)
			WHEN 4 THEN format('BEGIN; SELECT 1/0; %s; %s; ROLLBACK;', s, t)
			WHEN 5 THEN format('BEGIN; DECLARE c SCROLL CURSOR FOR %s; FETCH 1 c; SAVEPOINT a; %s; ROLLBACK TO a; FETCH ALL c; FETCH BACKWARD 1 c; CLOSE c; COMMIT;', s, t)
			WHEN 6 THEN format('BEGIN; DECLARE c CURSOR WITH HOLD FOR %s; COMMIT; FETCH 1 c; %s; CLOSE c;', s, t)
			WHEN 7 THEN format('SET statement_timeout = %s; %s; %s; RESET statement_timeout;', 1 + floor(random() * 20), s, t)
			WHEN 8 THEN format('SET work_mem = ''64kB''; %s; %s; RESET work_mem;', s, t)
			WHEN 9 THEN format('BEGIN ISOLATION LEVEL SERIALIZABLE; %s; SAVEPOINT a; %s; COMMIT;', s, t)
			WHEN 10 THEN format('DO %L;', format('BEGIN %s; EXCEPTION WHEN OTHERS THEN %s; END', regexp_replace(s, '^SELECT', 'PERFORM'), regexp_replace(t, '^SELECT', 'PERFORM')))
			WHEN 11 THEN format('BEGIN; %s; PREPARE TRANSACTION ''fuzz %s''; COMMIT PREPARED ''fuzz %2$s'';', s, i)
			WHEN 12 THEN format('SET ROLE fuzz_caller; %s; %s; RESET ROLE;', s, t)
			WHEN 13 THEN format('EXPLAIN (ANALYZE, VERBOSE) %s;', s)
			WHEN 14 THEN format('BEGIN; SET LOCAL tasker.direct_writes = off; %s; %s; COMMIT;', s, t)
			WHEN 15 THEN format('SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0; %s; %s; RESET ALL;', s, t)
			WHEN 16 THEN format('BEGIN ISOLATION LEVEL REPEATABLE READ; %s; COMMIT; DISCARD ALL; %s;', s, t)
			WHEN 17 THEN format('SET search_path = ''''; SET bytea_output = escape; SET DateStyle = ''German''; SET IntervalStyle = iso_8601; SET extra_float_digits = -15; %s; %s; RESET ALL;', s, t)
			ELSE s || ';'
		END;
	END LOOP;
END
$$;
