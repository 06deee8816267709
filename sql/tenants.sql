-- Roles, and tenants that must not learn of each other.
SET client_min_messages = warning;
CREATE ROLE regress_observer; CREATE ROLE regress_producer; CREATE ROLE regress_executor;
CREATE ROLE regress_operator; CREATE ROLE regress_admin; CREATE ROLE regress_free;

-- ---------- what a capability takes ----------

-- Every object that it names exists,
SELECT object FROM tasker.capability_privileges p
WHERE NOT EXISTS (SELECT FROM pg_proc f WHERE f.pronamespace = 'tasker'::regnamespace AND f.proname = p.object AND p.privilege = 'EXECUTE')
	AND NOT EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = 'tasker'::regnamespace AND c.relname = p.object AND p.privilege = 'SELECT');
-- and every function is for a capability, or for the owner alone, or asked by row security.
SELECT DISTINCT f.proname FROM pg_proc f
WHERE f.pronamespace = 'tasker'::regnamespace
	AND NOT EXISTS (SELECT FROM tasker.capability_privileges p WHERE p.object = f.proname AND p.privilege = 'EXECUTE')
ORDER BY 1;
-- So is every table and view, but for the partitions of the logs.
SELECT c.relname FROM pg_class c
WHERE c.relnamespace = 'tasker'::regnamespace AND c.relkind IN ('r', 'p', 'v') AND NOT c.relispartition
	AND NOT EXISTS (SELECT FROM tasker.capability_privileges p WHERE p.object = c.relname AND p.privilege = 'SELECT');

SELECT tasker.grant_observer('regress_observer', 'shop'), tasker.grant_producer('regress_producer', 'shop'),
	tasker.grant_executor('regress_executor', 'shop'), tasker.grant_operator('regress_operator'), tasker.grant_admin('regress_admin');
SELECT role_name, capability, namespace, role_exists FROM tasker.role_grants ORDER BY role_name;

-- Each role may call and read exactly what its capability takes.
CREATE VIEW test.privileges_off AS
SELECT r.role_name, o.privilege, o.name, o.may
FROM (VALUES ('regress_observer', 'observer', false), ('regress_producer', 'producer', false), ('regress_executor', 'executor', false),
	('regress_operator', 'operator', true), ('regress_admin', 'admin', true), ('regress_free', NULL, false)) r (role_name, capability, everywhere)
CROSS JOIN LATERAL (
	SELECT 'EXECUTE' AS privilege, f.oid::regprocedure::text AS name, f.proname AS object, has_function_privilege(r.role_name, f.oid, 'EXECUTE') AS may
	FROM pg_proc f WHERE f.pronamespace = 'tasker'::regnamespace AND f.proname NOT LIKE 'sees\_%' AND f.proname <> 'visible_namespaces'
	UNION ALL
	SELECT 'SELECT', c.oid::regclass::text, c.relname, has_any_column_privilege(r.role_name, c.oid, 'SELECT')
	FROM pg_class c WHERE c.relnamespace = 'tasker'::regnamespace AND c.relkind IN ('r', 'p', 'v')) o
WHERE o.may IS DISTINCT FROM EXISTS (SELECT FROM tasker.capability_privileges p
	WHERE p.capability = r.capability AND p.privilege = o.privilege AND p.object = o.object AND (r.everywhere OR NOT p.everywhere));
SELECT * FROM test.privileges_off;
SELECT has_column_privilege('regress_observer', 'tasker.executors', 'channel', 'SELECT') AS sees_channels;

-- Only the owner, and admins, give.
SET ROLE regress_operator;
SELECT tasker.grant_observer('regress_free', 'shop');
SET ROLE regress_admin;
SELECT tasker.grant_observer('regress_free', 'shop');
SELECT tasker.revoke_role('regress_free', 'operator');
SELECT tasker.revoke_role('regress_free', 'boss');
SELECT tasker.revoke_role('regress_free');
RESET ROLE;
SELECT has_schema_privilege('regress_free', 'tasker', 'USAGE') AS still_there;
SELECT * FROM test.privileges_off;
SELECT tasker.grant_observer('regress_nobody');
SELECT tasker.grant_observer(NULL);

-- An admin of one namespace cannot lock out who works unconfined.
CREATE ROLE regress_shop_admin;
SELECT tasker.grant_admin('regress_shop_admin', 'shop');
GRANT USAGE ON SCHEMA tasker TO regress_free;
SET ROLE regress_shop_admin;
SELECT tasker.grant_observer('regress_free', 'shop');
SELECT tasker.grant_observer('regress_observer', 'bank');
SELECT tasker.grant_observer('regress_observer');
SELECT tasker.revoke_role('regress_observer');
RESET ROLE;
REVOKE USAGE ON SCHEMA tasker FROM regress_free;

-- ---------- two tenants ----------

CREATE ROLE regress_acme; CREATE ROLE regress_beta;
GRANT USAGE ON SCHEMA test TO regress_acme, regress_beta, regress_operator, regress_observer;
SELECT tasker.grant_admin(r.name, n.name), tasker.grant_producer(r.name, n.name), tasker.grant_executor(r.name, n.name), tasker.grant_operator(r.name, n.name)
FROM (VALUES ('regress_acme', 'acme space'), ('regress_beta', 'beta space')) x (role, space)
CROSS JOIN LATERAL (VALUES (x.role)) r (name) CROSS JOIN LATERAL (VALUES (x.space)) n (name);

-- Everything that one says has its name in it.
CREATE FUNCTION test.work_of(tenant text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	task bigint;
	executor bigint;
	c record;
BEGIN
	PERFORM tasker.register_task_template(jsonb_build_object('name', tenant || ' template', 'namespace_name', tenant || ' space', 'version', '1.0.0',
		'description', tenant || ' description', 'step_templates', jsonb_build_array(
		jsonb_build_object('name', tenant || ' first', 'handler_class', 'Bill', 'dependent_system', tenant || ' system',
			'custom_events', jsonb_build_array(jsonb_build_object('name', tenant || '.charged', 'description', tenant || ' charges'))),
		jsonb_build_object('name', tenant || ' second', 'handler_class', tenant || ' handler', 'depends_on_step', tenant || ' first'))));
	task := tasker.create_task(tenant || ' template', jsonb_build_object('who', tenant), tenant || ' space',
		reason => tenant || ' reason', tags => ARRAY[tenant || ' tag', 'common'], identity_key => 'the same key');
	PERFORM tasker.annotate_task(task, tenant || ' type', jsonb_build_object('note', tenant));
	PERFORM tasker.create_task(tenant || ' template', jsonb_build_object('who', tenant), tenant || ' space', reason => tenant || ' waits');
	RETURN task;
END
$$;
-- What of a table or view that the caller may read has a word in it.
CREATE FUNCTION test.sightings(word text) RETURNS TABLE (relation text, n bigint) LANGUAGE plpgsql AS $$
BEGIN
	FOR relation IN
		SELECT c.oid::regclass FROM pg_class c
		WHERE c.relnamespace = 'tasker'::regnamespace AND c.relkind IN ('r', 'p', 'v') AND has_table_privilege(c.oid, 'SELECT')
		ORDER BY c.relname
	LOOP
		EXECUTE format('SELECT count(*) FROM (SELECT * FROM %s) x WHERE to_jsonb(x)::text LIKE %L', relation, '%' || word || '%') INTO n;
		IF n > 0 THEN
			RETURN NEXT;
		END IF;
	END LOOP;
END
$$;
-- A function that tells on what it is shown.
CREATE FUNCTION test.tells(anyelement) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS $$
BEGIN
	IF to_jsonb($1)::text LIKE '%acme%' THEN
		RAISE EXCEPTION 'seen: %', $1;
	END IF;
	RETURN true;
END
$$;
SET ROLE regress_acme;
SELECT test.work_of('acme') AS acme_task \gset
SELECT executor_id AS acme_executor FROM tasker.register_executor('acme executor', '{Bill,acme handler}', 0, detached => true, lease => '1 day') \gset
SET ROLE regress_beta;
SELECT test.work_of('beta') AS beta_task \gset
SELECT executor_id AS beta_executor FROM tasker.register_executor('beta executor', '{Bill,beta handler}', 0, detached => true, lease => '1 day') \gset
SELECT :acme_task <> :beta_task AS same_key_different_task;
RESET ROLE;
SELECT tasker.orchestrate() > 0 AS orchestrated;

-- Both name the handler Bill, and each gets its own steps only.
SET ROLE regress_acme;
SELECT workflow_step_id AS acme_step, claim AS acme_claim FROM tasker.claim_steps(:acme_executor, 1) \gset
SELECT step_name FROM tasker.claim_steps(:acme_executor, 10);
SELECT step_name FROM tasker.claim_steps(:acme_executor, 10);
SET ROLE regress_beta;
SELECT step_name FROM tasker.claim_steps(:beta_executor, 10);

RESET ROLE;
-- The worst case: somebody has given it every privilege, and it is still confined.
GRANT SELECT ON ALL TABLES IN SCHEMA tasker TO regress_beta;
GRANT SELECT ON ALL SEQUENCES IN SCHEMA tasker TO regress_beta;
GRANT EXECUTE ON ALL ROUTINES IN SCHEMA tasker TO regress_beta;
SET ROLE regress_beta;
-- Whatever one tenant may look at holds nothing of the other.
SELECT count(*) > 15 AS of_ones_own FROM test.sightings('beta');
SELECT * FROM test.sightings('acme');
-- An operator of everything sees all, and no view lacks a privilege underneath.
SET ROLE regress_operator;
SELECT count(*) > 15 AS all_views_answer FROM test.sightings('acme');
SET ROLE regress_observer;
SELECT * FROM test.sightings('acme');
SET ROLE regress_beta;
SELECT (SELECT count(*) FROM tasker.executors) AS executors, (SELECT count(*) FROM tasker.orchestrator_checkpoint) AS checkpoints,
	(SELECT count(*) FROM tasker.work_queue) AS waiting, (SELECT count(*) FROM tasker.workflow_step_transition_log_p0) AS moves;
-- Nor do counts differ from what is one's own.
SELECT (SELECT count(*) FROM tasker.tasks) AS tasks, (SELECT count(*) FROM tasker.workflow_steps) AS steps,
	(SELECT count(*) FROM tasker.task_transition_log) AS moves, (SELECT count(*) FROM tasker.annotations) AS annotations,
	(SELECT count(*) FROM tasker.find_tasks()) AS found, (SELECT count(*) FROM tasker.find_tasks(tags => '{common}')) AS tagged,
	(SELECT count(*) FROM tasker.find_tasks(identity_key => 'the same key')) AS keyed,
	(SELECT count(*) FROM tasker.find_tasks(annotation => '{}')) AS annotated;
SELECT total_tasks, total_steps FROM tasker.system_health_counts();

-- The telling function is shown no row of the other.
SELECT count(*) FROM tasker.tasks t WHERE test.tells(t.reason) AND test.tells(t.context);
SELECT count(*) FROM tasker.task_summaries s WHERE test.tells(s);
SELECT count(*) FROM tasker.workflow_step_transitions s WHERE test.tells(s);
SELECT count(*) FROM tasker.stat_executors s WHERE test.tells(s);
RESET ROLE;

-- Every function that a tenant may call answers the same of what is another's and of what is not there.
CREATE FUNCTION test.answer(call text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	result text;
BEGIN
	EXECUTE call INTO result;
	RETURN coalesce(result, 'NULL');
EXCEPTION WHEN OTHERS THEN
	RETURN sqlstate || ' ' || sqlerrm;
END
$$;
CREATE FUNCTION test.argument(function text, parameter text, type text, task bigint, step bigint, executor bigint, annotation bigint, tenant text) RETURNS text
LANGUAGE sql AS $$
	SELECT CASE
		WHEN parameter = 'task_id' THEN task::text
		WHEN parameter = 'step_id' THEN step::text
		WHEN parameter = 'executor_id' THEN executor::text
		WHEN parameter = 'task_annotation_id' THEN annotation::text
		WHEN parameter = 'before_task_id' THEN (task + 1)::text
		WHEN type = 'bigint[]' THEN format('ARRAY[%s]::bigint[]', CASE parameter WHEN 'task_ids' THEN task ELSE step END)
		WHEN parameter = 'namespace' OR (parameter = 'name' AND function = 'describe_namespace') THEN quote_literal(tenant || ' space')
		WHEN parameter IN ('name', 'task_name') THEN quote_literal(tenant || ' template')
		WHEN parameter = 'version' THEN quote_literal('1.0.0')
		WHEN parameter = 'identity_key' THEN quote_literal('the same key')
		WHEN parameter = 'template' THEN format('%L::jsonb', jsonb_build_object('name', tenant || ' template', 'namespace_name', tenant || ' space',
			'step_templates', jsonb_build_array(jsonb_build_object('name', 's', 'handler_class', 'Bill'))))
		WHEN parameter = 'document' THEN quote_literal(format(E'name: %s template\nnamespace_name: %1$s space\nstep_templates: [{name: s, handler_class: Bill}]', tenant))
		WHEN parameter = 'requests' THEN format('ARRAY[%L]::jsonb[]', jsonb_build_object('name', tenant || ' template', 'namespace', tenant || ' space'))
		WHEN parameter = 'role_name' THEN quote_literal('regress_observer')
		WHEN parameter = 'claim' THEN '10'
		WHEN parameter = 'claims' THEN 'ARRAY[10]'
		WHEN parameter = 'errors' THEN $q$'{broken}'::text[]$q$
		WHEN parameter = 'to_state' THEN $q$'cancelled'::tasker.state$q$
		WHEN type = 'tasker.state[]' THEN $q$'{pending,in_progress}'::tasker.state[]$q$
		WHEN type = 'jsonb' THEN $q$'{}'::jsonb$q$
		WHEN parameter = 'type' THEN quote_literal('a type')
		WHEN parameter = 'format' THEN quote_literal('text')
		WHEN type = 'integer' THEN '1'
		WHEN type = 'boolean' THEN 'true'
		WHEN type = 'timestamp with time zone' THEN $q$'2000-01-01'::timestamptz$q$
		ELSE format('NULL::%s', type) END
$$;
CREATE VIEW test.calls AS
SELECT f.oid::regprocedure::text AS function, p.who,
	format('SELECT coalesce(string_agg(to_jsonb(r)::text, '',''), ''nothing'') FROM tasker.%I(%s) r', f.proname,
		(SELECT string_agg(format('%I => %s', a.name, test.argument(f.proname, a.name, a.type::regtype::text, p.task, p.step, p.executor, p.annotation, p.tenant)), ', ')
		FROM unnest(f.proargnames[1:f.pronargs], f.proargtypes::oid[]) a (name, type))) AS call
FROM pg_proc f
CROSS JOIN (
	SELECT 'foreign' AS who, min(t.task_id) AS task, min(s.workflow_step_id) AS step, 'acme' AS tenant,
		(SELECT e.executor_id FROM tasker.executors e WHERE e.name = 'acme executor') AS executor,
		(SELECT min(a.task_annotation_id) FROM tasker.task_annotations a WHERE a.task_id = min(t.task_id)) AS annotation
	FROM tasker.tasks t JOIN tasker.workflow_steps s USING (task_id) WHERE t.reason = 'acme reason'
	UNION ALL
	SELECT 'unknown', 999999, 999999, 'none', 999999, 999999) p
WHERE f.pronamespace = 'tasker'::regnamespace AND f.prokind = 'f' AND f.proargnames && ARRAY['task_id', 'task_ids', 'step_id', 'step_ids', 'executor_id',
		'task_annotation_id', 'namespace', 'template', 'document', 'requests', 'name']
	-- What is registered here is new, and has an id of its own.
	AND f.proname NOT IN ('register_executor', 'yaml_to_jsonb')
	AND has_function_privilege('regress_beta', f.oid, 'EXECUTE');
CREATE TABLE test.script AS SELECT function, who, call FROM test.calls;
GRANT SELECT ON test.script TO regress_beta;
SELECT count(*) > 80 AS many FROM test.script;
-- Without names and ids; an SQLSTATE, which comes first, stays.
CREATE FUNCTION test.unnamed(answer text) RETURNS text LANGUAGE sql AS $$
	SELECT regexp_replace(regexp_replace(answer, '"(acme|none) (space|template)|(acme|none) (space|template)|(acme|none)(?= space)', 'X', 'g'), '(?<=[^0-9A-Za-z])\d+\M(?! characters)', 'N', 'g')
$$;
CREATE FUNCTION test.told(call text) RETURNS text LANGUAGE sql AS $$ SELECT test.unnamed(test.answer(call)) $$;
CREATE TABLE test.answers (function text, who text, answer text);
GRANT INSERT, SELECT ON test.answers TO regress_beta;
SET ROLE regress_beta;
INSERT INTO test.answers SELECT function, who, test.answer(call) FROM test.script ORDER BY function, who;
RESET ROLE;
SELECT f.function, f.answer AS of_another, u.answer AS of_nothing
FROM test.answers f JOIN test.answers u USING (function)
WHERE f.who = 'foreign' AND u.who = 'unknown' AND test.unnamed(f.answer) <> test.unnamed(u.answer);
-- None of them wrote a thing, and most were refused.
SELECT count(*) FILTER (WHERE answer LIKE '42704%') > 30 AS unknown, count(*) FILTER (WHERE answer LIKE 'XX%' OR answer LIKE '42883%' OR answer LIKE '42601%') AS broken
FROM test.answers WHERE who = 'foreign';
SELECT t.state, t.reason, (SELECT count(*) FROM tasker.task_annotations a WHERE a.task_id = t.task_id) AS annotations FROM tasker.tasks t WHERE t.task_id = :acme_task;
SELECT paused_at IS NULL AS runs FROM tasker.task_namespaces WHERE name = 'acme space';

-- ---------- executors ----------

-- Nobody reports of a step that was given to another, whatever number is guessed.
SET ROLE regress_beta;
SELECT test.told('SELECT tasker.complete_step(' || :acme_step || ', ' || :acme_claim || ')');
SELECT test.told('SELECT tasker.complete_step(999999, ' || :acme_claim || ')');
SELECT test.told('SELECT tasker.fail_steps(ARRAY[' || :acme_step || ']::bigint[], ARRAY[' || :acme_claim || '], ''{no}'', skip_stale => true)');
SELECT test.told('SELECT tasker.heartbeat(' || :acme_executor || ')');
SELECT test.told('SELECT tasker.heartbeat(999999)');
SELECT test.told('SELECT tasker.my_steps(' || :acme_executor || ')');
SELECT test.told('SELECT tasker.unregister_executor(' || :acme_executor || ')');
RESET ROLE;
-- Not even in the same namespace, or unconfined.
CREATE ROLE regress_acme_2;
GRANT USAGE ON SCHEMA test TO regress_acme_2, regress_free;
SELECT tasker.grant_executor('regress_acme_2', 'acme space');
SET ROLE regress_acme_2;
SELECT test.told('SELECT tasker.complete_step(' || :acme_step || ', ' || :acme_claim || ')');
SELECT test.told('SELECT tasker.claim_steps(' || :acme_executor || ')');
RESET ROLE;
GRANT USAGE ON SCHEMA tasker TO regress_free;
GRANT EXECUTE ON FUNCTION tasker.complete_step, tasker.register_executor, tasker.claim_steps, tasker.create_task, tasker.register_task_template TO regress_free;
SET ROLE regress_free;
SELECT test.told('SELECT tasker.complete_step(' || :acme_step || ', ' || :acme_claim || ')');
RESET ROLE;
-- A member acts as its group.
GRANT regress_acme TO regress_acme_2;
SET ROLE regress_acme_2;
SELECT tasker.complete_step(:acme_step, :acme_claim);
RESET ROLE;
REVOKE regress_acme FROM regress_acme_2;

-- An executor of nobody in particular serves all, those that are isolated while it is there as well.
SET ROLE regress_free;
SELECT tasker.register_task_template('{"name": "old", "namespace_name": "old space", "version": "1.0.0", "step_templates": [{"name": "only", "handler_class": "Bill"}]}') > 0 AS registered;
SELECT count(tasker.create_task('old', namespace => 'old space')) FROM generate_series(1, 3);
SELECT executor_id AS free_executor FROM tasker.register_executor('free', '{Bill}', 0, detached => true, lease => '1 day') \gset
RESET ROLE;
SELECT tasker.orchestrate() > 0 AS orchestrated;
CREATE ROLE regress_old;
SELECT tasker.grant_executor('regress_old', 'old space');
SELECT h.name, s.name AS scope, (SELECT count(*) FROM tasker.work_queue q WHERE q.handler_id = h.handler_id) AS waiting,
	(SELECT count(*) FROM tasker.workflow_steps w WHERE w.handler_id = h.handler_id) AS steps, h.handler_id = ANY (e.handlers) AS served
FROM tasker.handlers h JOIN tasker.executors e ON e.executor_id = :free_executor LEFT JOIN tasker.task_namespaces s USING (task_namespace_id)
WHERE h.name = 'Bill' ORDER BY s.name NULLS FIRST;
SET ROLE regress_old;
SELECT executor_id AS old_executor FROM tasker.register_executor('old', '{Bill}', 0, detached => true, lease => '1 day') \gset
SELECT count(*) FROM tasker.claim_steps(:old_executor, 1);
SET ROLE regress_free;
SELECT count(*) FROM tasker.claim_steps(:free_executor, 10);
SELECT tasker.create_task('old', namespace => 'old space') > 0 AS created;
RESET ROLE;
SELECT tasker.orchestrate() > 0 AS orchestrated;
SELECT tasker.revoke_role('regress_old');
SELECT handlers FROM tasker.executors WHERE executor_id = :old_executor;
SELECT * FROM tasker.check();

-- ---------- keys reach the indexes ----------

CREATE FUNCTION test.index_conditions(query text) RETURNS SETOF text LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off AS $$
DECLARE
	line text;
BEGIN
	FOR line IN EXECUTE 'EXPLAIN (COSTS OFF) ' || query LOOP
		IF line LIKE '%Index Cond:%' THEN
			RETURN NEXT trim(line);
		END IF;
	END LOOP;
END
$$;
SET ROLE regress_beta;
SELECT * FROM test.index_conditions('SELECT * FROM tasker.tasks t WHERE t.task_id = 1');
SELECT * FROM test.index_conditions('SELECT * FROM tasker.workflow_steps s WHERE s.task_id = 1');
SELECT * FROM test.index_conditions($$SELECT * FROM tasker.tasks t WHERE t.task_namespace_id = 1 AND t.identity_key = 'k'$$);
RESET ROLE;

-- An unconfined role with SELECT on a table sees all of it, as ever.
GRANT SELECT ON tasker.tasks TO regress_free;
SET ROLE regress_free;
SELECT count(DISTINCT task_namespace_id) > 2 AS all_of_them FROM tasker.tasks;
RESET ROLE;
-- With a first grant it is confined, at once, in every session.
SELECT tasker.grant_observer('regress_free', 'beta space');
SET ROLE regress_free;
SELECT count(DISTINCT task_namespace_id) FROM tasker.tasks;
SELECT tasker.create_task('old', namespace => 'old space');
RESET ROLE;

SELECT r.rolname, tasker.revoke_role(r.rolname) > 0 AS had_some FROM pg_roles r WHERE r.rolname LIKE 'regress\_%' AND r.rolname IN (SELECT role_name FROM tasker.role_grants) ORDER BY 1;
DROP OWNED BY regress_observer, regress_producer, regress_executor, regress_operator, regress_admin, regress_free, regress_shop_admin,
	regress_acme, regress_beta, regress_acme_2, regress_old;
DROP ROLE regress_observer, regress_producer, regress_executor, regress_operator, regress_admin, regress_free, regress_shop_admin,
	regress_acme, regress_beta, regress_acme_2, regress_old;
