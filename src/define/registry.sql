-- What is registered, for people and programs that look, and what is said of
-- namespaces and systems besides their names.

CREATE VIEW tasker.task_templates AS
SELECT nt.named_task_id, ns.name AS namespace, nt.name, nt.version,
	ns.name || '.' || nt.name || '@' || nt.version AS full_name,
	nt.deprecated_at IS NULL AND nt.version_numbers = (
		SELECT l.version_numbers FROM tasker.named_tasks l
		WHERE l.task_namespace_id = nt.task_namespace_id AND l.name = nt.name AND l.deprecated_at IS NULL
		ORDER BY l.version_numbers DESC LIMIT 1) AS is_latest,
	nt.description,
	c.content ->> 'task_handler_class' AS task_handler_class,
	c.content ->> 'module_namespace' AS module_namespace,
	nt.environment, nt.owner, nt.revision,
	(SELECT count(*) FROM tasker.named_tasks_named_steps ts WHERE ts.named_task_id = nt.named_task_id)::integer AS step_count,
	nt.created_at AS registered_at, nt.deprecated_at, nt.paused_at
FROM tasker.named_tasks nt
JOIN tasker.task_namespaces ns ON ns.task_namespace_id = nt.task_namespace_id
CROSS JOIN LATERAL (SELECT coalesce(nt.effective_configuration, nt.configuration)) c (content);
COMMENT ON VIEW tasker.task_templates IS
'One row for each version of each template. is_latest: what create_task takes where no version is given, the highest number that is not deprecated. environment: whose overrides its steps were made with. revision grows while the content is replaced. paused_at is the pause of this version alone.';

CREATE VIEW tasker.stat_templates AS
SELECT ns.name AS namespace, ns.description,
	count(DISTINCT nt.name)::integer AS templates,
	count(nt.named_task_id)::integer AS versions,
	count(nt.deprecated_at)::integer AS deprecated_versions,
	(SELECT count(DISTINCT ts.handler_id)
		FROM tasker.named_tasks t JOIN tasker.named_tasks_named_steps ts ON ts.named_task_id = t.named_task_id
		WHERE t.task_namespace_id = ns.task_namespace_id)::integer AS handlers,
	max(nt.created_at) AS last_registered_at, ns.paused_at
FROM tasker.task_namespaces ns
LEFT JOIN tasker.named_tasks nt ON nt.task_namespace_id = ns.task_namespace_id
GROUP BY ns.task_namespace_id;
COMMENT ON VIEW tasker.stat_templates IS
'One row for each namespace: how many templates it has, how many versions of them, and how many different handlers their steps name.';

CREATE FUNCTION tasker.task_template(name text, namespace text DEFAULT 'default', version text DEFAULT NULL, effective boolean DEFAULT false)
RETURNS jsonb
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'tasker_task_template';
COMMENT ON FUNCTION tasker.task_template(text, text, text, boolean) IS
'A template as it was registered; with effective as it is in force, with the overrides of its environment. version NULL or ''latest'' is the highest that is not deprecated. Errors: 42704 unknown template; 22004 a null argument.';

CREATE FUNCTION tasker.describe_namespace(name text, description text) RETURNS integer
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_describe_namespace';
COMMENT ON FUNCTION tasker.describe_namespace(text, text) IS
'Says what a namespace is for, makes it if need be, and returns its task_namespace_id. NULL takes the description away. Errors: 23514 a name that is empty or has more than 64 characters; 23502 no name.';

CREATE FUNCTION tasker.describe_dependent_system(name text, description text) RETURNS integer
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tasker_describe_dependent_system';
COMMENT ON FUNCTION tasker.describe_dependent_system(text, text) IS
'Says what a dependent system is, makes it if need be, and returns its dependent_system_id. NULL takes the description away. Errors: 23514 a name that is empty or has more than 64 characters; 23502 no name.';
