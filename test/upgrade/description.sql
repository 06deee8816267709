-- Everything that an extension consists of, one fact a line and in a fixed order,
-- so that two databases can be compared by a plain diff:
--
--     psql -XAtq -v extension=tasker -f test/upgrade/description.sql
--
-- Described is what is in the schema of the extension, members or not, and the
-- members that are elsewhere. Names stand for OIDs; what has the default says so in
-- the same words as what was set to it. Left out are the version, statistics, and
-- where a column of a table stands, since an upgrade can only append.
-- A member of a kind that this query does not know is a line "not described".
-- Compiling this takes longer than running it.
SET jit = off;
WITH extension AS (
	SELECT e.*, e.extnamespace::regnamespace::text AS schema FROM pg_extension e WHERE e.extname = :'extension'
), member AS (
	SELECT d.classid, d.objid, i.type, i.schema, i.identity
	FROM extension e
	JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.deptype = 'e'
	CROSS JOIN LATERAL pg_identify_object(d.classid, d.objid, d.objsubid) i
), relation AS (
	SELECT c.*, c.oid::regclass::text AS name,
		CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char" AS acl_kind
	FROM pg_class c
	WHERE c.relnamespace = (SELECT e.extnamespace FROM extension e)
		OR EXISTS (SELECT FROM member m WHERE m.classid = 'pg_class'::regclass AND m.objid = c.oid)
), routine AS (
	SELECT p.*, p.oid::regprocedure::text AS name FROM pg_proc p
	WHERE p.pronamespace = (SELECT e.extnamespace FROM extension e)
		OR EXISTS (SELECT FROM member m WHERE m.classid = 'pg_proc'::regclass AND m.objid = p.oid)
), type AS (
	SELECT t.*, format_type(t.oid, NULL) AS name FROM pg_type t
	WHERE (t.typnamespace = (SELECT e.extnamespace FROM extension e)
			OR EXISTS (SELECT FROM member m WHERE m.classid = 'pg_type'::regclass AND m.objid = t.oid))
		AND t.typelem = 0 AND (t.typrelid = 0 OR EXISTS (SELECT FROM pg_class c WHERE c.oid = t.typrelid AND c.relkind = 'c'))
), owned (kind, name, owner, acl) AS (
	SELECT 'schema', n.nspname::text, n.nspowner, coalesce(n.nspacl, acldefault('n', n.nspowner))
	FROM pg_namespace n WHERE n.oid = (SELECT e.extnamespace FROM extension e)
		OR EXISTS (SELECT FROM member m WHERE m.classid = 'pg_namespace'::regclass AND m.objid = n.oid)
	UNION ALL
	SELECT 'relation', r.name, r.relowner, CASE WHEN r.relkind NOT IN ('i', 'I', 'c') THEN coalesce(r.relacl, acldefault(r.acl_kind, r.relowner)) END
	FROM relation r
	UNION ALL
	SELECT 'routine', r.name, r.proowner, coalesce(r.proacl, acldefault('f', r.proowner)) FROM routine r
	UNION ALL
	SELECT 'type', t.name, t.typowner, coalesce(t.typacl, acldefault('T', t.typowner)) FROM type t
	UNION ALL
	SELECT 'operator', o.oid::regoperator::text, o.oprowner, NULL FROM pg_operator o WHERE o.oprnamespace = (SELECT e.extnamespace FROM extension e)
	UNION ALL
	SELECT 'event trigger', t.evtname, t.evtowner, NULL FROM pg_event_trigger t
	WHERE EXISTS (SELECT FROM member m WHERE m.classid = 'pg_event_trigger'::regclass AND m.objid = t.oid)
	UNION ALL
	SELECT 'statistics', s.stxname, s.stxowner, NULL FROM pg_statistic_ext s WHERE s.stxnamespace = (SELECT e.extnamespace FROM extension e)
), fact (object, property, value) AS (
	-- The extension itself.
	SELECT format('extension %s', e.extname), f.property, f.value
	FROM extension e, LATERAL (VALUES ('schema', e.schema), ('relocatable', e.extrelocatable::text)) f (property, value)
	UNION ALL
	SELECT format('extension %s', e.extname), 'dumps ' || c.relation::regclass, 'where ' || coalesce(nullif(c.condition, ''), 'true')
	FROM extension e, unnest(e.extconfig, e.extcondition) c (relation, condition)
	UNION ALL
	SELECT m.type || ' ' || m.identity, 'member', 'yes' FROM member m
	UNION ALL
	SELECT m.type || ' ' || m.identity, 'not described', 'add its kind to description.sql' FROM member m
	WHERE m.classid NOT IN ('pg_namespace'::regclass, 'pg_class'::regclass, 'pg_proc'::regclass, 'pg_type'::regclass,
		'pg_operator'::regclass, 'pg_cast'::regclass, 'pg_event_trigger'::regclass, 'pg_statistic_ext'::regclass, 'pg_opfamily'::regclass, 'pg_opclass'::regclass)

	-- Whose it is and who may use it.
	UNION ALL
	SELECT o.kind || ' ' || o.name, 'owner', CASE o.owner WHEN (SELECT e.extowner FROM extension e) THEN 'as the extension' ELSE o.owner::regrole::text END
	FROM owned o
	UNION ALL
	SELECT o.kind || ' ' || o.name, 'may be used by', a.item::text FROM owned o, unnest(o.acl) a (item)
	UNION ALL
	SELECT i.type || ' ' || i.identity, 'privileges from the script', a.item::text
	FROM pg_init_privs p
	CROSS JOIN LATERAL pg_identify_object(p.classoid, p.objoid, p.objsubid) i
	CROSS JOIN LATERAL unnest(p.initprivs) a (item)
	WHERE p.privtype = 'e' AND (i.schema = (SELECT e.schema FROM extension e) OR (i.type = 'schema' AND i.identity = (SELECT e.schema FROM extension e)))
	UNION ALL
	SELECT 'schema ' || (SELECT e.schema FROM extension e), 'default privileges of ' || d.defaclrole::regrole || ' for ' || d.defaclobjtype::text, a.item::text
	FROM pg_default_acl d, unnest(d.defaclacl) a (item) WHERE d.defaclnamespace = (SELECT e.extnamespace FROM extension e)

	-- What is said about it.
	UNION ALL
	SELECT i.type || ' ' || i.identity, 'comment', d.description
	FROM pg_description d
	CROSS JOIN LATERAL pg_identify_object(d.classoid, d.objoid, d.objsubid) i
	CROSS JOIN extension e
	WHERE i.schema = e.schema OR i.identity ~ (' on ' || e.schema || '\.')
		OR (d.classoid = 'pg_namespace'::regclass AND d.objoid = e.extnamespace)
		OR (d.classoid = 'pg_extension'::regclass AND d.objoid = e.oid)
		OR EXISTS (SELECT FROM member m WHERE m.classid = d.classoid AND m.objid = d.objoid)

	-- Relations.
	UNION ALL
	SELECT 'relation ' || r.name, f.property, f.value
	FROM relation r
	LEFT JOIN pg_class toast ON toast.oid = r.reltoastrelid
	LEFT JOIN pg_am am ON am.oid = r.relam
	LEFT JOIN pg_tablespace s ON s.oid = r.reltablespace
	CROSS JOIN LATERAL (VALUES
		('kind', r.relkind::text || r.relpersistence::text),
		('access method', am.amname),
		('tablespace', s.spcname),
		('options', (SELECT string_agg(o, ', ' ORDER BY o) FROM unnest(r.reloptions || (SELECT array_agg('toast.' || t) FROM unnest(toast.reloptions) t)) o)),
		('row security', concat_ws(', ', CASE WHEN r.relrowsecurity THEN 'enabled' END, CASE WHEN r.relforcerowsecurity THEN 'forced' END)),
		('replica identity', r.relreplident::text),
		('of type', CASE WHEN r.reloftype <> 0 THEN r.reloftype::regtype::text END),
		('partitioned by', CASE r.relkind WHEN 'p' THEN pg_get_partkeydef(r.oid) END),
		('bound', pg_get_expr(r.relpartbound, r.oid)),
		('parents', (SELECT string_agg(i.inhparent::regclass::text, ', ' ORDER BY i.inhseqno) FROM pg_inherits i WHERE i.inhrelid = r.oid)),
		('definition', CASE WHEN r.relkind IN ('v', 'm') THEN pg_get_viewdef(r.oid) END),
		('serves', (SELECT string_agg(pg_describe_object(d.refclassid, d.refobjid, d.refobjsubid) || ' ' || d.deptype::text, ', ')
			FROM pg_depend d WHERE r.relkind = 'S' AND d.classid = 'pg_class'::regclass AND d.objid = r.oid AND d.deptype IN ('a', 'i')))) f (property, value)
	UNION ALL
	SELECT 'relation ' || r.name, 'sequence', format('%s from %s by %s in %s to %s, cache %s%s', q.seqtypid::regtype, q.seqstart, q.seqincrement,
		q.seqmin, q.seqmax, q.seqcache, CASE WHEN q.seqcycle THEN ', cycles' END)
	FROM relation r JOIN pg_sequence q ON q.seqrelid = r.oid
	UNION ALL
	SELECT 'relation ' || r.name, 'columns in order', string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum)
	FROM relation r JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped
	WHERE r.relkind NOT IN ('r', 'p', 'i', 'I') GROUP BY r.name
	UNION ALL
	SELECT 'relation ' || r.name, 'column ' || quote_ident(a.attname), concat_ws(', ', format_type(a.atttypid, a.atttypmod),
		CASE WHEN a.attcollation NOT IN (0, 100) THEN 'collation ' || a.attcollation::regcollation END,
		CASE WHEN a.attnotnull THEN 'not null' END,
		CASE a.attgenerated WHEN '' THEN 'default ' ELSE 'generated ' || a.attgenerated::text || ' ' END || pg_get_expr(d.adbin, d.adrelid),
		'identity ' || nullif(a.attidentity::text, ''), 'storage ' || a.attstorage::text, 'compression ' || nullif(a.attcompression::text, ''),
		'statistics ' || nullif(a.attstattarget, -1),
		-- Not an option but a number that some servers keep there.
		(SELECT string_agg(o, ' ' ORDER BY o) FROM unnest(a.attoptions) o WHERE o !~ '^pg_attver='), 'privileges ' || a.attacl::text,
		CASE WHEN NOT a.attislocal THEN 'not local' END, CASE WHEN a.attinhcount > 0 THEN 'inherited' END)
	FROM relation r
	JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped
	LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
	UNION ALL
	SELECT 'relation ' || r.name, 'index', concat_ws(', ', pg_get_indexdef(i.indexrelid), CASE WHEN i.indisprimary THEN 'primary' END,
		CASE WHEN NOT i.indimmediate THEN 'deferred' END, CASE WHEN i.indisclustered THEN 'clustered' END,
		CASE WHEN NOT i.indisvalid THEN 'invalid' END, CASE WHEN i.indisreplident THEN 'identity' END)
	FROM relation r JOIN pg_index i ON i.indexrelid = r.oid
	UNION ALL
	SELECT CASE WHEN c.conrelid <> 0 THEN 'relation ' || c.conrelid::regclass ELSE 'type ' || c.contypid::regtype END,
		'constraint ' || quote_ident(c.conname), concat_ws(', ', pg_get_constraintdef(c.oid), CASE WHEN NOT c.convalidated THEN 'not valid' END,
		CASE WHEN NOT c.conislocal THEN 'not local' END, CASE WHEN c.coninhcount > 0 THEN 'inherited' END, CASE WHEN c.connoinherit THEN 'not inherited' END)
	FROM pg_constraint c
	WHERE EXISTS (SELECT FROM relation r WHERE r.oid = c.conrelid) OR EXISTS (SELECT FROM type t WHERE t.oid = c.contypid)
	UNION ALL
	SELECT 'relation ' || r.name, 'trigger ' || quote_ident(t.tgname), pg_get_triggerdef(t.oid) || ', enabled ' || t.tgenabled::text
	FROM relation r JOIN pg_trigger t ON t.tgrelid = r.oid AND NOT t.tgisinternal
	UNION ALL
	SELECT 'relation ' || r.name, 'rule ' || quote_ident(w.rulename), pg_get_ruledef(w.oid) || ' enabled ' || w.ev_enabled::text
	FROM relation r JOIN pg_rewrite w ON w.ev_class = r.oid AND w.rulename <> '_RETURN'
	UNION ALL
	SELECT 'relation ' || r.name, 'policy ' || quote_ident(p.polname), concat_ws(', ', CASE WHEN p.polpermissive THEN 'permissive' ELSE 'restrictive' END,
		'for ' || p.polcmd::text, 'to ' || (SELECT string_agg(CASE o WHEN 0 THEN 'public' ELSE o::regrole::text END, ' ' ORDER BY o::regrole::text) FROM unnest(p.polroles) o),
		'using ' || pg_get_expr(p.polqual, p.polrelid), 'check ' || pg_get_expr(p.polwithcheck, p.polrelid))
	FROM relation r JOIN pg_policy p ON p.polrelid = r.oid
	UNION ALL
	SELECT 'statistics ' || s.stxname, 'definition', pg_get_statisticsobjdef(s.oid)
	FROM pg_statistic_ext s WHERE EXISTS (SELECT FROM relation r WHERE r.oid = s.stxrelid)
	UNION ALL
	-- What the script itself has put in.
	SELECT 'relation ' || r.name, 'row', unnest(xpath('//t/text()', query_to_xml(format('SELECT t FROM %s t', r.name), false, false, '')))::text
	FROM relation r WHERE r.relkind = 'r' AND NOT r.relispartition

	-- Routines.
	UNION ALL
	SELECT 'routine ' || r.name, 'definition', pg_get_functiondef(r.oid) FROM routine r WHERE r.prokind <> 'a'
	UNION ALL
	SELECT 'routine ' || r.name, 'aggregate', (to_jsonb(a) || jsonb_build_object('aggtranstype', a.aggtranstype::regtype,
		'aggmtranstype', a.aggmtranstype::regtype, 'aggsortop', a.aggsortop::regoperator, 'parallel', r.proparallel))::text
	FROM routine r JOIN pg_aggregate a ON a.aggfnoid = r.oid
	UNION ALL
	SELECT 'routine ' || r.name, 'depends on extension', x.extname
	FROM routine r JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = r.oid AND d.deptype = 'x' JOIN pg_extension x ON x.oid = d.refobjid

	-- Types, operators and what else there may be.
	UNION ALL
	SELECT 'type ' || t.name, 'definition', concat_ws(', ', t.typtype::text || t.typcategory::text, 'length ' || t.typlen, 'storage ' || t.typstorage::text,
		CASE t.typtype WHEN 'd' THEN 'domain of ' || format_type(t.typbasetype, t.typtypmod) END, CASE WHEN t.typnotnull THEN 'not null' END,
		'default ' || t.typdefault, CASE WHEN t.typcollation NOT IN (0, 100) THEN 'collation ' || t.typcollation::regcollation END,
		CASE t.typtype WHEN 'b' THEN format('%s %s %s %s', t.typinput, t.typoutput, t.typreceive, t.typsend) END,
		(SELECT format('range of %s', g.rngsubtype::regtype) FROM pg_range g WHERE g.rngtypid = t.oid))
	FROM type t
	UNION ALL
	SELECT 'type ' || t.name, 'labels', string_agg(quote_literal(l.enumlabel), ', ' ORDER BY l.enumsortorder)
	FROM type t JOIN pg_enum l ON l.enumtypid = t.oid GROUP BY t.name
	UNION ALL
	SELECT 'operator ' || o.oid::regoperator, 'definition', format('%s returns %s, commutator %s, negator %s, restrict %s, join %s%s%s', o.oprcode, o.oprresult::regtype,
		o.oprcom::regoperator, o.oprnegate::regoperator, o.oprrest, o.oprjoin, CASE WHEN o.oprcanmerge THEN ', merges' END, CASE WHEN o.oprcanhash THEN ', hashes' END)
	FROM pg_operator o WHERE o.oprnamespace = (SELECT e.extnamespace FROM extension e)
	UNION ALL
	SELECT m.type || ' ' || m.identity, 'definition', format('%s %s %s', c.castfunc::regprocedure, c.castcontext, c.castmethod)
	FROM member m JOIN pg_cast c ON m.classid = 'pg_cast'::regclass AND c.oid = m.objid
	UNION ALL
	SELECT m.type || ' ' || m.identity, 'operators and functions', pg_describe_object(d.classid, d.objid, 0)
	FROM member m JOIN pg_depend d ON d.refclassid = m.classid AND d.refobjid = m.objid AND d.classid IN ('pg_amop'::regclass, 'pg_amproc'::regclass)
	WHERE m.classid IN ('pg_opfamily'::regclass, 'pg_opclass'::regclass)
	UNION ALL
	SELECT m.type || ' ' || m.identity, 'definition', format('on %s %s call %s, enabled %s', t.evtevent, t.evttags, t.evtfoid, t.evtenabled)
	FROM member m JOIN pg_event_trigger t ON m.classid = 'pg_event_trigger'::regclass AND t.oid = m.objid
)
SELECT f.object || ' | ' || f.property || ' | ' || l.line
FROM fact f CROSS JOIN LATERAL regexp_split_to_table(f.value, '\n') WITH ORDINALITY l (line, number)
WHERE f.value <> ''
ORDER BY f.object COLLATE "C", f.property COLLATE "C", f.value COLLATE "C", l.number;
