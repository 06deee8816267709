/*
 * template.c
 *		Task templates: registered once, read from a cache of the session.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "define/access.h"
#include "define/event.h"
#include "define/ownership.h"
#include "define/follower.h"
#include "define/template.h"
#include "define/template_document.h"
#include "define/waiting_step.h"
#include "pg/catalog.h"
#include "pg/clock.h"
#include "pg/query.h"
#include "pg/table.h"
#include "pg/waiters.h"
#include "pg/wakeup.h"
#include "rules/version.h"
#include "rules/yaml_document.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/float.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

/* ---------- reading ---------- */

#define TEMPLATE_KEY_LENGTH 640

typedef struct CachedTemplate
{
	char		key[TEMPLATE_KEY_LENGTH];	/* namespace, name and version asked for */
	Template   *template;
} CachedTemplate;

static MemoryContext cache_context = NULL;
static HTAB *cache = NULL;
static uint64 cache_generation = 0;

static KeptQuery FIND_TEMPLATE = {
	.sql =
	"SELECT nt.named_task_id, nt.task_namespace_id, nt.revision, nt.deprecated_at IS NOT NULL,"
	"       ns.name || '.' || nt.name || '@' || nt.version, nt.owner, nt.identity_strategy"
	"  FROM tasker.task_namespaces ns"
	"  JOIN tasker.named_tasks nt ON nt.task_namespace_id = ns.task_namespace_id"
	" WHERE ns.name = $1 AND nt.name = $2"
	"   AND nt.version_numbers = string_to_array($3, '.')::integer[]",
	.nargs = 3,.types = {TEXTOID, TEXTOID, TEXTOID}
};

static KeptQuery FIND_LATEST_TEMPLATE = {
	.sql =
	"SELECT nt.named_task_id, nt.task_namespace_id, nt.revision, false,"
	"       ns.name || '.' || nt.name || '@' || nt.version, nt.owner, nt.identity_strategy"
	"  FROM tasker.task_namespaces ns"
	"  JOIN tasker.named_tasks nt ON nt.task_namespace_id = ns.task_namespace_id"
	" WHERE ns.name = $1 AND nt.name = $2 AND nt.deprecated_at IS NULL"
	" ORDER BY nt.version_numbers DESC"
	" LIMIT 1",
	.nargs = 2,.types = {TEXTOID, TEXTOID}
};

static KeptQuery READ_TEMPLATE_STEPS = {
	.sql =
	"SELECT ts.named_step_id, ts.handler_id, ts.default_retry_limit, coalesce(ts.timeout_seconds, 0),"
	"       ts.priority::integer, ts.default_retryable, ts.skippable, s.name"
	"  FROM tasker.named_tasks_named_steps ts"
	"  JOIN tasker.named_steps s ON s.named_step_id = ts.named_step_id"
	" WHERE ts.named_task_id = $1"
	" ORDER BY ts.position",
	.nargs = 1,.types = {INT4OID}
};

static KeptQuery READ_TEMPLATE_EDGES = {
	.sql =
	"SELECT from_named_step_id, to_named_step_id"
	"  FROM tasker.named_step_edges WHERE named_task_id = $1",
	.nargs = 1,.types = {INT4OID}
};

static KeptQuery READ_TEMPLATE_REVISION = {
	.sql = "SELECT revision FROM tasker.named_tasks WHERE named_task_id = $1",
	.nargs = 1,.types = {INT4OID}
};

void
RefreshTemplates(void)
{
	uint64		generation = DefinitionsGeneration();

	if (cache != NULL && cache_generation == generation)
		return;
	cache = NULL;
	if (cache_context == NULL)
		cache_context = AllocSetContextCreate(TopMemoryContext, "tasker templates",
											  ALLOCSET_DEFAULT_SIZES);
	MemoryContextReset(cache_context);
	cache_generation = generation;
}

typedef struct StepPosition
{
	int32		named_step_id;
	int			position;
} StepPosition;

static void
ReadSteps(Template *template)
{
	HASHCTL		control = {.keysize = sizeof(int32),.entrysize = sizeof(StepPosition),.hcxt = CurrentMemoryContext};
	HTAB	   *positions;
	Datum		id = Int32GetDatum(template->named_task_id);

	template->step_count = (int) RunQuery(&READ_TEMPLATE_STEPS, &id, NULL);
	template->steps = palloc0(sizeof(TemplateStep) * Max(template->step_count, 1));
	for (int i = 0; i < template->step_count; i++)
	{
		template->steps[i] = (TemplateStep)
		{
			.named_step_id = RowInt32(i, 1),
			.handler_id = RowInt32(i, 2),
			.retry_limit = RowInt32(i, 3),
			.timeout_seconds = RowInt32(i, 4),
			.priority = (int16) RowInt32(i, 5),
			.retryable = RowBool(i, 6),
			.skippable = RowBool(i, 7),
			.is_root = true,
			.is_leaf = true,
			.name = RowText(i, 8),
		};
	}
	/* Positions are found here: a join can be planned to read all steps for each edge. */
	positions = hash_create("positions of steps", template->step_count, &control,
							HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	for (int i = 0; i < template->step_count; i++)
	{
		StepPosition *entry = hash_search(positions, &template->steps[i].named_step_id, HASH_ENTER, NULL);

		entry->position = i;
	}
	template->edge_count = (int) RunQuery(&READ_TEMPLATE_EDGES, &id, NULL);
	template->edges = palloc(sizeof(GraphEdge) * Max(template->edge_count, 1));
	for (int e = 0; e < template->edge_count; e++)
	{
		int32		from = RowInt32(e, 1);
		int32		to = RowInt32(e, 2);

		template->edges[e] = (GraphEdge)
		{
			.from = ((StepPosition *) hash_search(positions, &from, HASH_FIND, NULL))->position,
			.to = ((StepPosition *) hash_search(positions, &to, HASH_FIND, NULL))->position
		};
		template->steps[template->edges[e].from].is_leaf = false;
		template->steps[template->edges[e].to].is_root = false;
	}
	hash_destroy(positions);
}

/* Reads a template into the current memory context; NULL where there is none. */
static Template *
ReadTemplate(const char *namespace_name, const char *name, const char *version)
{
	Template   *template;
	Datum		args[3] = {CStringGetTextDatum(namespace_name), CStringGetTextDatum(name)};
	uint64		found;

	if (version != NULL)
	{
		args[2] = CStringGetTextDatum(version);
		found = RunQuery(&FIND_TEMPLATE, args, NULL);
	}
	else
		found = RunQuery(&FIND_LATEST_TEMPLATE, args, NULL);
	if (found == 0)
		return NULL;
	template = palloc0(sizeof(Template));
	template->named_task_id = RowInt32(0, 1);
	template->task_namespace_id = RowInt32(0, 2);
	template->revision = RowInt32(0, 3);
	template->deprecated = RowBool(0, 4);
	template->full_name = RowText(0, 5);
	template->owner = RowText(0, 6);
	template->identity_strategy = RowText(0, 7);
	ReadSteps(template);
	return template;
}

const Template *
FindTemplate(const char *namespace_name, const char *name, const char *version)
{
	HASHCTL		control = {.keysize = TEMPLATE_KEY_LENGTH,.entrysize = sizeof(CachedTemplate)};
	char		key[TEMPLATE_KEY_LENGTH];
	CachedTemplate *entry;
	Template   *template;
	MemoryContext caller;

	if (version != NULL && strcmp(version, LATEST_VERSION) == 0)
		version = NULL;
	/* The cast of the lookup must not fail. */
	if (version != NULL && !IsVersion(version))
		return NULL;
	/* Names that do not fit cannot have been registered. */
	if (snprintf(key, sizeof(key), "%zu %zu %s%s%s", strlen(namespace_name), strlen(name), namespace_name, name,
				 version ? version : LATEST_VERSION) >= sizeof(key))
		return NULL;
	if (cache == NULL)
	{
		control.hcxt = cache_context;
		cache = hash_create("tasker templates", 64, &control,
							HASH_ELEM | HASH_STRINGS | HASH_CONTEXT);
	}
	entry = hash_search(cache, key, HASH_FIND, NULL);
	if (entry != NULL)
		return entry->template;

	/* What an old snapshot sees must not be remembered beyond it. */
	if (IsolationUsesXactSnapshot())
		return ReadTemplate(namespace_name, name, version);

	caller = MemoryContextSwitchTo(cache_context);
	template = ReadTemplate(namespace_name, name, version);
	MemoryContextSwitchTo(caller);
	if (template != NULL)
	{
		entry = hash_search(cache, key, HASH_ENTER, NULL);
		entry->template = template;
	}
	return template;
}

const Template *
GetTemplate(const char *namespace_name, const char *name, const char *version)
{
	/* Whoever has nothing to do with the namespace learns nothing from how long the search takes. */
	const Template *template = CallerKnowsNamespace(namespace_name) ? FindTemplate(namespace_name, name, version) : NULL;

	if (template == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 version ?
				 errmsg("template \"%s.%s@%s\" does not exist", namespace_name, name, version) :
				 errmsg("template \"%s.%s\" does not exist", namespace_name, name),
				 errhint("Register it with tasker.register_task_template().")));
	return template;
}

void
ComplainOfReplacement(const Template *template)
{
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("template \"%s\" was replaced while a task was created from it",
					template->full_name),
			 errhint("Try the transaction again.")));
}

void
CheckTemplateCurrent(const Template *template)
{
	Datum		id = Int32GetDatum(template->named_task_id);

	if (cache_generation == DefinitionsGeneration())
		return;
	if (RunQuery(&READ_TEMPLATE_REVISION, &id, NULL) != 1 || RowInt32(0, 1) != template->revision)
		ComplainOfReplacement(template);
}

/* ---------- registering ---------- */

static KeptQuery ENSURE_NAMESPACE = {
	.sql =
	"WITH new AS (INSERT INTO tasker.task_namespaces (name) VALUES ($1)"
	"             ON CONFLICT (name) DO NOTHING)"
	"SELECT 1",
	.nargs = 1,.types = {TEXTOID}
};

static KeptQuery INSERT_NAMED_TASK = {
	.sql =
	"INSERT INTO tasker.named_tasks (task_namespace_id, name, version, description, configuration,"
	"       environment, effective_configuration, owner, concurrent,"
	"       coordinator_strategy, reenqueuer_strategy, identity_strategy, backoff_strategy)"
	" SELECT task_namespace_id, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13"
	"   FROM tasker.task_namespaces WHERE name = $1"
	" ON CONFLICT (task_namespace_id, name, version_numbers) DO NOTHING"
	" RETURNING named_task_id",
	.nargs = 13,.types = {TEXTOID, TEXTOID, TEXTOID, TEXTOID, JSONBOID, TEXTOID, JSONBOID, TEXTOID,
	BOOLOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID}
};

/* Holding this lock no task can be created from the version: see CheckTemplateCurrent. */
static KeptQuery LOCK_NAMED_TASK = {
	.sql =
	"SELECT nt.named_task_id, nt.configuration = $4, coalesce(nt.environment, '')"
	"  FROM tasker.named_tasks nt"
	" WHERE nt.task_namespace_id = (SELECT task_namespace_id FROM tasker.task_namespaces WHERE name = $1)"
	"   AND nt.name = $2 AND nt.version_numbers = string_to_array($3, '.')::integer[]"
	"   FOR UPDATE",
	.nargs = 4,.types = {TEXTOID, TEXTOID, TEXTOID, JSONBOID}
};

static const TableShape TASKS_OF_TEMPLATE = {
	.name = "tasks",.n_columns = 1,
	.columns = {"named_task_id"}
};

/*
 * Whether a version has tasks as of this moment, in any isolation level: those
 * who create some have committed, for its row is locked.
 */
static bool
HasTasks(int32 named_task_id)
{
	static const int key[] = {0};
	Datum		id = Int32GetDatum(named_task_id);
	Lookup	   *tasks;
	bool		found;

	BeginAccess();
	tasks = BeginLatestLookup(OpenTable(&TASKS_OF_TEMPLATE), 1, key);
	LookFor(tasks, 1, &id);
	found = NextRow(tasks) != NULL;
	EndLookup(tasks);
	EndAccess();
	return found;
}

static KeptQuery REPLACE_NAMED_TASK = {
	.sql =
	"WITH edges AS (DELETE FROM tasker.named_step_edges WHERE named_task_id = $1),"
	"     events AS (DELETE FROM tasker.named_step_events WHERE named_task_id = $1)"
	"UPDATE tasker.named_tasks SET description = $2, configuration = $3, environment = $4,"
	"       effective_configuration = $5, owner = $6, concurrent = $7,"
	"       coordinator_strategy = $8, reenqueuer_strategy = $9, identity_strategy = $10, backoff_strategy = $11,"
	"       revision = revision + 1"
	" WHERE named_task_id = $1",
	.nargs = 11,.types = {INT4OID, TEXTOID, JSONBOID, TEXTOID, JSONBOID, TEXTOID, BOOLOID,
	TEXTOID, TEXTOID, TEXTOID, TEXTOID}
};

static KeptQuery DELETE_TEMPLATE_STEPS = {
	.sql = "DELETE FROM tasker.named_tasks_named_steps WHERE named_task_id = $1",
	.nargs = 1,.types = {INT4OID}
};

/* Names are inserted in one order everywhere, so that registrations cannot deadlock. */
static KeptQuery ENSURE_SYSTEMS = {
	.sql =
	"INSERT INTO tasker.dependent_systems (name)"
	" SELECT DISTINCT n FROM unnest($1) n"
	"  WHERE NOT EXISTS (SELECT 1 FROM tasker.dependent_systems d WHERE d.name = n)"
	"  ORDER BY n"
	" ON CONFLICT (name) DO NOTHING",
	.nargs = 1,.types = {TEXTARRAYOID}
};

static KeptQuery ENSURE_HANDLERS = {
	.sql =
	"INSERT INTO tasker.handlers (name)"
	" SELECT DISTINCT n FROM unnest($1) n"
	"  WHERE NOT EXISTS (SELECT 1 FROM tasker.handlers h WHERE h.name = n)"
	"  ORDER BY n"
	" ON CONFLICT (name) DO NOTHING",
	.nargs = 1,.types = {TEXTARRAYOID}
};

/* The templates of an isolated namespace have handlers of their own; executors that may run them are told. */
static KeptQuery ENSURE_SCOPED_HANDLERS = {
	.sql = "SELECT tasker.ensure_template_handlers($1, $2)",
	.nargs = 2,.types = {INT4OID, TEXTARRAYOID}
};

static KeptQuery ENSURE_NAMED_STEPS = {
	.sql =
	"INSERT INTO tasker.named_steps (dependent_system_id, name, description)"
	" SELECT v.system_id, v.name, v.description"
	"   FROM (SELECT (SELECT d.dependent_system_id FROM tasker.dependent_systems d WHERE d.name = u.system),"
	"                u.name, u.description"
	"           FROM ROWS FROM (unnest($1), unnest($2), unnest($3)) u(system, name, description)"
	"         OFFSET 0) v(system_id, name, description)"
	"  WHERE (SELECT s.named_step_id FROM tasker.named_steps s"
	"          WHERE s.dependent_system_id = v.system_id AND s.name = v.name) IS NULL"
	"  ORDER BY 1, 2"
	" ON CONFLICT (dependent_system_id, name) DO NOTHING",
	.nargs = 3,.types = {TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID}
};

/* How the handler of a step is found, and that none may wait, is all that 1.0 does differently. */
#define INSERT_TEMPLATE_STEPS_BY(handler, more_columns, more_values, more_arrays, more_names) \
	"INSERT INTO tasker.named_tasks_named_steps (named_task_id, named_step_id, position, handler_id," \
	"       handler_config, default_retryable, default_retry_limit, skippable, priority," \
	"       timeout_seconds, backoff_base_seconds, backoff_cap_seconds, backoff_jitter" more_columns ")" \
	" SELECT $1, u.named_step_id, u.ordinality - 1, u.handler_id, coalesce(u.config, '{}')," \
	"        u.retryable, u.retry_limit, u.skippable, u.priority, nullif(u.timeout, 0)," \
	"        nullif(u.base, -1), nullif(u.cap, -1), nullif(u.jitter, -1)" more_values \
	"   FROM (SELECT u.*, (" handler ") AS handler_id," \
	"                (SELECT s.named_step_id FROM tasker.named_steps s WHERE s.name = u.name AND s.dependent_system_id =" \
	"                 (SELECT d.dependent_system_id FROM tasker.dependent_systems d WHERE d.name = u.system)) AS named_step_id" \
	"   FROM ROWS FROM (unnest($2), unnest($3), unnest($4), unnest($5), unnest($6), unnest($7)," \
	"                   unnest($8), unnest($9), unnest($10), unnest($11), unnest($12), unnest($13)" more_arrays ")" \
	"        WITH ORDINALITY u(system, name, handler, config, retryable, retry_limit, skippable," \
	"                          priority, timeout, base, cap, jitter, " more_names "ordinality)" \
	"   OFFSET 0) u WHERE u.named_step_id IS NOT NULL AND u.handler_id IS NOT NULL" \
	" RETURNING position, named_step_id"

static KeptQuery INSERT_TEMPLATE_STEPS = {
	.sql = INSERT_TEMPLATE_STEPS_BY("SELECT h.handler_id FROM tasker.handlers h WHERE h.name = u.handler", "", "", "", ""),
	.nargs = 13,.types = {INT4OID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID, JSONBARRAYOID,
	BOOLARRAYOID, INT4ARRAYOID, BOOLARRAYOID, INT4ARRAYOID, INT4ARRAYOID, FLOAT8ARRAYOID,
	FLOAT8ARRAYOID, FLOAT8ARRAYOID}
};

static KeptQuery INSERT_SCOPED_TEMPLATE_STEPS = {
	.sql = INSERT_TEMPLATE_STEPS_BY("SELECT h.handler_id FROM tasker.handlers h"
									" WHERE h.name = u.handler AND h.task_namespace_id IS NOT DISTINCT FROM tasker.handler_scope($1)",
									", waits_for", ", u.waits_for", ", unnest($14)", "waits_for, "),
	.nargs = 14,.types = {INT4OID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID, JSONBARRAYOID,
	BOOLARRAYOID, INT4ARRAYOID, BOOLARRAYOID, INT4ARRAYOID, INT4ARRAYOID, FLOAT8ARRAYOID,
	FLOAT8ARRAYOID, FLOAT8ARRAYOID, JSONBARRAYOID}
};

static KeptQuery INSERT_TEMPLATE_EDGES = {
	.sql =
	"INSERT INTO tasker.named_step_edges (named_task_id, from_named_step_id, to_named_step_id)"
	" SELECT $1, u.from_id, u.to_id FROM ROWS FROM (unnest($2), unnest($3)) u(from_id, to_id)",
	.nargs = 3,.types = {INT4OID, INT4ARRAYOID, INT4ARRAYOID}
};

static Datum
TextOrNull(const char *text, char *null)
{
	*null = text ? ' ' : 'n';
	return text ? CStringGetTextDatum(text) : (Datum) 0;
}

static const char *
NameEnvironment(const char *environment)
{
	return environment[0] == '\0' ? "no environment" : psprintf("environment \"%s\"", environment);
}

/*
 * Writes the named task itself.  True where its steps are to be written:
 * it is new, or it is replaced; false where equal content is there already.
 */
static bool
WriteNamedTask(const TemplateDocument *document, Jsonb *configuration, int32 *named_task_id)
{
	/* What a version has beside its name: a replacement takes over all of it. */
	enum
	{
		DESCRIPTION = 3, CONTENT, ENVIRONMENT, EFFECTIVE, OWNER, CONCURRENT, STRATEGIES, ARGS = STRATEGIES + STRATEGY_ROLES
	};
	const char *environment = document->environment ? document->environment : "";
	char		nulls[ARGS + 1] = "             ";
	Datum		insert_args[ARGS] = {
		CStringGetTextDatum(document->namespace_name), CStringGetTextDatum(document->name),
		CStringGetTextDatum(document->version), TextOrNull(document->description, &nulls[DESCRIPTION]),
		JsonbPGetDatum(configuration), TextOrNull(document->environment, &nulls[ENVIRONMENT]),
		JsonbPGetDatum(document->content), QueryCallerName(), BoolGetDatum(document->concurrent)
	};
	Datum		lock_args[4] = {insert_args[0], insert_args[1], insert_args[2], insert_args[CONTENT]};
	Datum	   *replace_args = &insert_args[DESCRIPTION - 1];
	char	   *replace_nulls = &nulls[DESCRIPTION - 1];
	bool		same_content;
	char	   *registered_for;

	nulls[EFFECTIVE] = nulls[ENVIRONMENT];
	for (StrategyRole role = 0; role < STRATEGY_ROLES; role++)
		insert_args[STRATEGIES + role] = CStringGetTextDatum(document->strategies[role]);
	(void) RunQuery(&ENSURE_NAMESPACE, insert_args, NULL);
	if (RunQuery(&INSERT_NAMED_TASK, insert_args, nulls) == 1)
	{
		*named_task_id = RowInt32(0, 1);
		return true;
	}
	if (RunQuery(&LOCK_NAMED_TASK, lock_args, NULL) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("template \"%s\" is being registered by another transaction",
						document->full_name),
				 errhint("Try the transaction again.")));
	*named_task_id = RowInt32(0, 1);
	same_content = RowBool(0, 2);
	registered_for = RowText(0, 3);
	if (same_content && strcmp(registered_for, environment) == 0)
		return false;

	replace_args[0] = Int32GetDatum(*named_task_id);
	if (HasTasks(*named_task_id))
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_TEMPLATE_IN_USE),
				 errmsg("template \"%s\" has tasks and cannot be changed", document->full_name),
				 same_content ?
				 errdetail("The content is the same, but it is registered for %s and was read for %s now.",
						   NameEnvironment(registered_for), NameEnvironment(environment)) :
				 errdetail("The content differs from what is registered under this version."),
				 errhint("Register the new content under a higher version.")));
	(void) RunQuery(&REPLACE_NAMED_TASK, replace_args, replace_nulls);
	(void) RunQuery(&DELETE_TEMPLATE_STEPS, replace_args, NULL);
	return true;
}

/* Makes the handlers of a template's steps where they are missing. */
static void
EnsureHandlers(Datum named_task_id, Datum names)
{
	Datum		args[2] = {named_task_id, names};

	if (SchemaVersion() < 101)
	{
		(void) RunQuery(&ENSURE_HANDLERS, &names, NULL);
		return;
	}
	(void) RunQuery(&ENSURE_SCOPED_HANDLERS, args, NULL);
	if (RowBool(0, 1))
	{
		WakeForExecutorsAtCommit();
		NoteEveryoneLooksAgain();
	}
}

/*
 * Writes the steps in topological order, and what they refer to by name.
 * Returns the named steps by position.  Names are looked up by subplan: a
 * join can be planned to try each name with each step.
 */
static int32 *
WriteSteps(const TemplateDocument *document, int32 named_task_id)
{
	int			n = document->step_count;
	enum
	{
		ID, SYSTEM, NAME, HANDLER, CONFIG, RETRYABLE, RETRY_LIMIT, SKIPPABLE, PRIORITY, TIMEOUT,
		BASE, CAP, JITTER, WAITS_FOR, DESCRIPTION, COLUMNS
	};
	static const Oid types[COLUMNS] = {
		InvalidOid, TEXTOID, TEXTOID, TEXTOID, JSONBOID, BOOLOID, INT4OID, BOOLOID, INT4OID, INT4OID,
		FLOAT8OID, FLOAT8OID, FLOAT8OID, JSONBOID, TEXTOID
	};
	Datum	   *columns[COLUMNS];
	bool	   *no_config = palloc0(sizeof(bool) * n);
	bool	   *waits_for_nothing = palloc0(sizeof(bool) * n);
	Datum		args[COLUMNS];
	Datum		named_step_args[3];
	int32	   *step_ids = palloc(sizeof(int32) * n);

	for (int c = 0; c < COLUMNS; c++)
		columns[c] = palloc0(sizeof(Datum) * n);
	for (int position = 0; position < n; position++)
	{
		const DocumentStep *step = &document->steps[document->order[position]];

		columns[SYSTEM][position] = CStringGetTextDatum(step->dependent_system);
		columns[NAME][position] = CStringGetTextDatum(step->name);
		columns[HANDLER][position] = CStringGetTextDatum(step->handler_class);
		columns[CONFIG][position] = JsonbPGetDatum(step->handler_config);
		no_config[position] = step->handler_config == NULL;
		columns[RETRYABLE][position] = BoolGetDatum(step->retryable);
		columns[RETRY_LIMIT][position] = Int32GetDatum(step->retry_limit);
		columns[SKIPPABLE][position] = BoolGetDatum(step->skippable);
		columns[PRIORITY][position] = Int32GetDatum(step->priority);
		columns[TIMEOUT][position] = Int32GetDatum(step->timeout_seconds);
		columns[BASE][position] = Float8GetDatum(step->backoff_base_seconds);
		columns[CAP][position] = Float8GetDatum(step->backoff_cap_seconds);
		columns[JITTER][position] = Float8GetDatum(step->backoff_jitter);
		columns[WAITS_FOR][position] = JsonbPGetDatum(step->waits_for);
		waits_for_nothing[position] = step->waits_for == NULL;
		columns[DESCRIPTION][position] = CStringGetTextDatum(step->description);
	}
	args[ID] = Int32GetDatum(named_task_id);
	for (int c = SYSTEM; c < COLUMNS; c++)
		args[c] = NullableArray(columns[c], c == CONFIG ? no_config : c == WAITS_FOR ? waits_for_nothing : NULL,
								n, types[c]);
	named_step_args[0] = args[SYSTEM];
	named_step_args[1] = args[NAME];
	named_step_args[2] = args[DESCRIPTION];

	(void) RunQuery(&ENSURE_SYSTEMS, &args[SYSTEM], NULL);
	EnsureHandlers(args[ID], args[HANDLER]);
	(void) RunQuery(&ENSURE_NAMED_STEPS, named_step_args, NULL);
	if (RunQuery(SchemaVersion() >= 101 ? &INSERT_SCOPED_TEMPLATE_STEPS : &INSERT_TEMPLATE_STEPS, args, NULL) != n)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("template \"%s\" could not be written: names it uses are being registered by another transaction",
						document->full_name),
				 errhint("Try the transaction again.")));
	for (int i = 0; i < n; i++)
		step_ids[RowInt32(i, 1)] = RowInt32(i, 2);
	return step_ids;
}

static void
WriteEdges(const TemplateDocument *document, int32 named_task_id, const int32 *step_ids)
{
	int		   *position = palloc(sizeof(int) * document->step_count);
	int32	   *from = palloc(sizeof(int32) * Max(document->edge_count, 1));
	int32	   *to = palloc(sizeof(int32) * Max(document->edge_count, 1));
	Datum		args[3];

	for (int p = 0; p < document->step_count; p++)
		position[document->order[p]] = p;
	for (int e = 0; e < document->edge_count; e++)
	{
		from[e] = step_ids[position[document->edges[e].from]];
		to[e] = step_ids[position[document->edges[e].to]];
	}
	args[0] = Int32GetDatum(named_task_id);
	args[1] = Int32Array(from, document->edge_count);
	args[2] = Int32Array(to, document->edge_count);
	(void) RunQuery(&INSERT_TEMPLATE_EDGES, args, NULL);
}

/* Enters the custom events of the steps. */
static void
WriteEvents(const TemplateDocument *document, int32 named_task_id, const int32 *step_ids)
{
	StepEvent  *events;
	int			n = 0;

	for (int i = 0; i < document->step_count; i++)
		n += document->steps[i].event_count;
	events = palloc(sizeof(StepEvent) * Max(n, 1));
	n = 0;
	for (int position = 0; position < document->step_count; position++)
	{
		const DocumentStep *step = &document->steps[document->order[position]];

		for (int e = 0; e < step->event_count; e++)
			events[n++] = (StepEvent)
		{
			.named_step_id = step_ids[position],.name = step->events[e].name,.description = step->events[e].description
		};
	}
	WriteStepEvents(named_task_id, events, n);
}

/* Steps that wait need the SQL that knows of them. */
static void
RefuseToWait(const TemplateDocument *document)
{
	for (int i = 0; i < document->step_count; i++)
	{
		if (document->steps[i].waits_for != NULL)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("template \"%s\" has a step that waits, \"%s\", of which the SQL of the extension in this database knows nothing",
							document->full_name, document->steps[i].name),
					 errhint("Run ALTER EXTENSION tasker UPDATE.")));
	}
}

/* The events that steps wait for; those that the template announces itself are entered by now. */
static void
CheckAwaitedEvents(const TemplateDocument *document)
{
	bool		any = false;

	for (int i = 0; i < document->step_count; i++)
	{
		const DocumentStep *step = &document->steps[i];
		DocumentReader reader = {.subject = psprintf("template \"%s\"", document->full_name)};

		reader.part = psprintf("step \"%s\"", step->name);
		if (step->waits_for != NULL && CheckAwaitedEvent(&reader, step->waits_for))
			any = true;
	}
	if (any)
		EnsureFollower();
}

/* Whoever is confined may not make a namespace either: the refusal is the same, be it there or not. */
static void
RefuseNamespace(const char *namespace_name)
{
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("role \"%s\" may not administer namespace \"%s\"",
					GetUserNameFromId(QueryCaller(), false), namespace_name),
			 errhint("See tasker.role_grants.")));
}

/* Registers a template and returns its named_task_id. */
static int32
RegisterTemplate(Jsonb *configuration)
{
	TemplateDocument *document = ReadTemplateDocument(configuration);
	QueryScope	scope;
	int32		named_task_id;

	OpenQueryScope(&scope);
	if (!RoleMayByName(QueryCaller(), document->namespace_name, MAY_ADMINISTER))
		RefuseNamespace(document->namespace_name);
	for (StrategyRole role = 0; role < STRATEGY_ROLES; role++)
		CheckStrategy(role, document->strategies[role], TextDatumGetCString(QueryCallerName()), document->full_name);
	if (SchemaVersion() < 101)
		RefuseToWait(document);
	EnsureCheckpoint();
	if (WriteNamedTask(document, configuration, &named_task_id))
	{
		int32	   *step_ids = WriteSteps(document, named_task_id);

		WriteEdges(document, named_task_id, step_ids);
		WriteEvents(document, named_task_id, step_ids);
		CheckAwaitedEvents(document);
		InvalidateDefinitions();
	}
	CloseQueryScope(&scope);
	return named_task_id;
}

PG_FUNCTION_INFO_V1(tasker_register_task_template);

Datum
tasker_register_task_template(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT32(RegisterTemplate(PG_GETARG_JSONB_P(0)));
}

PG_FUNCTION_INFO_V1(tasker_register_task_template_yaml);

Datum
tasker_register_task_template_yaml(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT32(RegisterTemplate(JsonbOfYaml(PG_GETARG_TEXT_PP(0))));
}

/* ---------- deprecating ---------- */

static KeptQuery DEPRECATE_TEMPLATE = {
	.sql =
	"UPDATE tasker.named_tasks nt SET deprecated_at = coalesce(nt.deprecated_at, $4)"
	" WHERE nt.task_namespace_id = (SELECT task_namespace_id FROM tasker.task_namespaces WHERE name = $1)"
	"   AND nt.name = $2 AND nt.version = coalesce($3, nt.version)",
	.nargs = 4,.types = {TEXTOID, TEXTOID, TEXTOID, TIMESTAMPTZOID}
};

/* Deprecates one version, or all where version is NULL; returns how many. */
static int32
DeprecateTemplate(const char *namespace_name, const char *name, const char *version)
{
	QueryScope	scope;
	char		nulls[5] = "    ";
	uint64		deprecated;
	Datum		args[4] = {
		CStringGetTextDatum(namespace_name), CStringGetTextDatum(name),
		TextOrNull(version, &nulls[2]), TimestampTzGetDatum(TaskerNow())
	};

	/* Called twice it would deprecate two. */
	if (version != NULL && strcmp(version, LATEST_VERSION) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the version of template \"%s.%s\" to deprecate must be given by its number", namespace_name, name),
				 errhint("NULL deprecates all versions.")));
	OpenQueryScope(&scope);
	if (CallerKnowsNamespace(namespace_name) && !RoleMayByName(QueryCaller(), namespace_name, MAY_ADMINISTER))
		RefuseNamespace(namespace_name);
	deprecated = !CallerKnowsNamespace(namespace_name) ? 0 : RunQuery(&DEPRECATE_TEMPLATE, args, nulls);
	if (deprecated == 0)
	{
		RefreshTemplates();
		(void) GetTemplate(namespace_name, name, version);
	}
	InvalidateDefinitions();
	CloseQueryScope(&scope);
	return (int32) deprecated;
}

PG_FUNCTION_INFO_V1(tasker_deprecate_task_template);

Datum
tasker_deprecate_task_template(PG_FUNCTION_ARGS)
{
	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("name and namespace of a template must not be null")));
	PG_RETURN_INT32(DeprecateTemplate(text_to_cstring(PG_GETARG_TEXT_PP(1)),
									  text_to_cstring(PG_GETARG_TEXT_PP(0)),
									  PG_ARGISNULL(2) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(2))));
}
