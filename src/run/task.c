/*
 * task.c
 *		Creating tasks, and what an operator does to one.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "commands/sequence.h"
#include "define/context_schema.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "pg/catalog.h"
#include "pg/clock.h"
#include "pg/fault.h"
#include "pg/measure.h"
#include "pg/query.h"
#include "pg/table.h"
#include "pg/wakeup.h"
#include "rules/document.h"
#include "run/identity.h"
#include "run/move.h"
#include "run/request.h"
#include "run/row.h"
#include "run/step.h"
#include "run/transition.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"

/* ---------- creating ---------- */

/* Of one call of create_tasks. */
#define MAX_REQUESTS 1000000

/* Names of steps to bypass may repeat, within reason. */
#define BYPASS_NAMES_PER_STEP 10

/* Steps are written when this many have come together. */
#define STEPS_PER_INSERT 20000

/*
 * Requests whose identity key is taken insert nothing.  Keys are taken in one
 * order everywhere, so that two creations of many tasks cannot deadlock, each
 * waiting for a key that the other has taken already.  The foreign key
 * locks the named task: from then on the template cannot be replaced.
 */
#define INSERT_TASKS_WITH(column, value, values) \
	"WITH new AS (" \
	" INSERT INTO tasker.tasks (task_id, named_task_id, task_namespace_id, sort_key, requested_at," \
	"        priority, initiator, source_system, reason, identity_key, tags, bypass_steps, context" column ")" \
	" SELECT u.task_id, u.named_task_id, u.task_namespace_id, 10, u.requested_at, u.priority, u.initiator," \
	"        u.source_system, u.reason, u.identity_key, u.tags::text[], u.bypass_steps::text[], u.context" value \
	"   FROM ROWS FROM (unnest($3), unnest($4), unnest($5), unnest($6), unnest($7), unnest($8)," \
	"                   unnest($9), unnest($10), unnest($11), unnest($12), unnest($13), unnest($14)" values ")" \
	"        u(task_id, named_task_id, task_namespace_id, requested_at, priority, initiator, source_system, reason," \
	"          identity_key, tags, bypass_steps, context" column ")" \
	"  ORDER BY u.task_namespace_id, u.identity_key COLLATE \"C\", u.task_id" \
	" ON CONFLICT (task_namespace_id, identity_key) WHERE identity_key IS NOT NULL DO NOTHING" \
	" RETURNING task_id" \
	"), logged AS (" \
	" INSERT INTO tasker.task_transition_log (task_id, sort_key, to_state, created_at, role, metadata)" \
	" SELECT task_id, 10, 'pending', $1, $2, $15 FROM new" \
	")" \
	"SELECT task_id FROM new ORDER BY task_id"

static KeptQuery INSERT_TASKS = {
	.sql = INSERT_TASKS_WITH("", "", ""),
	.nargs = 15,.types = {TIMESTAMPTZOID, TEXTOID, INT8ARRAYOID, INT4ARRAYOID, INT4ARRAYOID, TIMESTAMPTZARRAYOID,
		INT4ARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID, JSONBARRAYOID, JSONBOID}
};

/* The same where any has a traceparent, which version 1.0 has no column for. */
static KeptQuery INSERT_TRACED_TASKS = {
	.sql = INSERT_TASKS_WITH(", traceparent", ", u.traceparent", ", unnest($16)"),
	.nargs = 16,.types = {TIMESTAMPTZOID, TEXTOID, INT8ARRAYOID, INT4ARRAYOID, INT4ARRAYOID, TIMESTAMPTZARRAYOID,
		INT4ARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID, JSONBARRAYOID,
	JSONBOID, TEXTARRAYOID}
};

static KeptQuery LOCK_TEMPLATE = {
	.sql = "SELECT 1 FROM tasker.named_tasks WHERE named_task_id = $1 FOR KEY SHARE",
	.nargs = 1,.types = {INT4OID}
};

static KeptQuery FIND_TASK_BY_IDENTITY = {
	.sql =
	"SELECT t.task_id, nt.name FROM tasker.tasks t"
	"  JOIN tasker.named_tasks nt ON nt.named_task_id = t.named_task_id"
	" WHERE t.task_namespace_id = $1 AND t.identity_key = $2",
	.nargs = 2,.types = {INT4OID, TEXTOID}
};

static KeptQuery FIND_TASK_OF_KEY = {
	.sql =
	"SELECT t.task_id FROM tasker.tasks t"
	" WHERE t.task_namespace_id = (SELECT s.task_namespace_id FROM tasker.task_namespaces s WHERE s.name = $2)"
	"   AND t.identity_key = $1",
	.nargs = 2,.types = {TEXTOID, TEXTOID}
};

static KeptQuery INSERT_STEPS = {
	.sql =
	"INSERT INTO tasker.workflow_steps (workflow_step_id, task_id, named_step_id, handler_id, rank,"
	"       retry_limit, timeout_seconds, retryable, skippable, is_root, is_leaf)"
	" SELECT u.step_id, u.task_id, u.named_step_id, u.handler_id, u.rank, u.retry_limit,"
	"        nullif(u.timeout_seconds, 0), u.flags & 1 <> 0, u.flags & 2 <> 0, u.flags & 4 <> 0, u.flags & 8 <> 0"
	"   FROM ROWS FROM (unnest($1), unnest($2), unnest($3), unnest($4), unnest($5), unnest($6),"
	"                   unnest($7), unnest($8))"
	"        u(step_id, task_id, named_step_id, handler_id, rank, retry_limit, timeout_seconds, flags)",
	.nargs = 8,.types = {INT8ARRAYOID, INT8ARRAYOID, INT4ARRAYOID, INT4ARRAYOID, INT4ARRAYOID,
	INT4ARRAYOID, INT4ARRAYOID, INT4ARRAYOID}
};

#define FLAG_RETRYABLE	1
#define FLAG_SKIPPABLE	2
#define FLAG_ROOT		4
#define FLAG_LEAF		8

/* The position of a step in a template by its name, or -1. */
static int
FindTemplateStep(const Template *template, const char *name)
{
	for (int i = 0; i < template->step_count; i++)
	{
		if (strcmp(template->steps[i].name, name) == 0)
			return i;
	}
	return -1;
}

/* Finds the template of a request and checks what depends on it; completes the context. */
static void
ResolveTemplate(TaskRequest *request)
{
	const Template *template = GetTemplate(request->namespace_name, request->name, request->version);

	request->template = template;
	RequireInNamespace(template->task_namespace_id, MAY_PRODUCE);
	if (template->deprecated)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("template \"%s\" is deprecated", template->full_name),
				 errhint("Create the task from a later version.")));
	if (request->bypass_count > template->step_count * BYPASS_NAMES_PER_STEP)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("template \"%s\" has %d steps, %d names are too many to be bypassed",
						template->full_name, template->step_count, request->bypass_count)));
	for (int i = 0; i < request->bypass_count; i++)
	{
		int			position = FindTemplateStep(template, request->bypass_steps[i]);

		CHECK_FOR_INTERRUPTS();
		if (position < 0 || !template->steps[position].skippable)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("step \"%s\" of template \"%s\" cannot be bypassed",
							request->bypass_steps[i], template->full_name),
					 position < 0 ? errdetail("The template has no such step.") :
					 errdetail("The step is not skippable.")));
	}
	request->context = ConformContext(template, request->context, request->number);
}

static Datum
TextArray(char **values, int n)
{
	Datum	   *datums = palloc(sizeof(Datum) * Max(n, 1));

	for (int i = 0; i < n; i++)
		datums[i] = CStringGetTextDatum(values[i]);
	return PointerGetDatum(construct_array(datums, n, TEXTOID, -1, false, TYPALIGN_INT));
}

/* A text[] as the text that the cast in INSERT_TASKS reads. */
static Datum
TextArrayLiteral(char **values, int n)
{
	if (n == 0)
		return CStringGetTextDatum("{}");
	return CStringGetTextDatum(OidOutputFunctionCall(F_ARRAY_OUT, TextArray(values, n)));
}

/* Writes the task rows and their first transitions, with metadata or 0; marks those created. */
static void
InsertTasksBySql(TaskRequest *requests, int n, TimestampTz now, Datum metadata)
{
	enum
	{
		NOW, ROLE, TASK, NAMED_TASK, NAMESPACE, REQUESTED, PRIORITY, INITIATOR, SOURCE, REASON, IDENTITY,
		TAGS, BYPASS, CONTEXT, METADATA, TRACEPARENT, ARGS
	};
	static const Oid types[ARGS] = {
		0, 0, INT8OID, INT4OID, INT4OID, TIMESTAMPTZOID, INT4OID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, JSONBOID,
		0, TEXTOID
	};
	Datum	   *columns[ARGS];
	bool	   *no_key = palloc(sizeof(bool) * n);
	bool	   *no_trace = palloc(sizeof(bool) * n);
	bool		traced = false;
	Datum		args[ARGS];
	char		nulls[ARGS + 1] = "                ";
	uint64		created;

	for (int c = TASK; c < ARGS; c++)
		columns[c] = palloc(sizeof(Datum) * n);
	for (int i = 0; i < n; i++)
	{
		TaskRequest *request = &requests[i];

		no_key[i] = request->identity_key == NULL;
		columns[TASK][i] = Int64GetDatum(request->task_id);
		columns[NAMED_TASK][i] = Int32GetDatum(request->template->named_task_id);
		columns[NAMESPACE][i] = Int32GetDatum(request->template->task_namespace_id);
		columns[REQUESTED][i] = TimestampTzGetDatum(request->requested_at);
		columns[PRIORITY][i] = Int32GetDatum(request->priority);
		columns[INITIATOR][i] = CStringGetTextDatum(request->initiator);
		columns[SOURCE][i] = CStringGetTextDatum(request->source_system);
		columns[REASON][i] = CStringGetTextDatum(request->reason);
		columns[IDENTITY][i] = no_key[i] ? 0 : CStringGetTextDatum(request->identity_key);
		columns[TAGS][i] = TextArrayLiteral(request->tags, request->tag_count);
		columns[BYPASS][i] = TextArrayLiteral(request->bypass_steps, request->bypass_count);
		columns[CONTEXT][i] = JsonbPGetDatum(request->context);
		no_trace[i] = request->traceparent == NULL;
		columns[TRACEPARENT][i] = no_trace[i] ? 0 : CStringGetTextDatum(request->traceparent);
		traced |= !no_trace[i];
	}
	args[NOW] = TimestampTzGetDatum(now);
	args[ROLE] = QueryCallerName();
	for (int c = TASK; c < ARGS; c++)
	{
		if (c != METADATA)
			args[c] = NullableArray(columns[c], c == IDENTITY ? no_key : c == TRACEPARENT ? no_trace : NULL, n, types[c]);
	}
	args[METADATA] = metadata;
	nulls[METADATA] = metadata == 0 ? 'n' : ' ';
	created = RunQuery(traced ? &INSERT_TRACED_TASKS : &INSERT_TASKS, args, nulls);
	/* Both are in ascending order of task_id. */
	for (int i = 0, row = 0; i < n && row < created; i++)
	{
		requests[i].created = RowInt64(row, 1) == requests[i].task_id;
		row += requests[i].created;
	}
}

/* Locks the templates of the requests as the foreign key would: from then on they cannot be replaced. */
static void
LockTemplates(const TaskRequest *requests, int n)
{
	int32		last = 0;

	for (int i = 0; i < n; i++)
	{
		Datum		id = Int32GetDatum(requests[i].template->named_task_id);

		if (DatumGetInt32(id) != last && RunQuery(&LOCK_TEMPLATE, &id, NULL) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
					 errmsg("template \"%s\" is gone", requests[i].template->full_name)));
		last = DatumGetInt32(id);
	}
}

/* As InsertTasksBySql, for requests without an identity key: nothing can be in their way. */
static void
InsertTasksDirectly(TaskRequest *requests, int n, TimestampTz now, Table *table, Table *log)
{
	Datum		values[TASK_COLUMNS] = {0};
	bool		nulls[TASK_COLUMNS] = {false};
	int64	   *task_ids = palloc(sizeof(int64) * n);
	Appender   *appender;

	LockTemplates(requests, n);
	BeginAccess();
	appender = BeginAppend(table);
	nulls[TASK_IDENTITY_KEY] = true;
	values[TASK_SORT_KEY] = Int32GetDatum(10);
	values[TASK_STATE] = StateValue(table, TASK_STATE, STATE_PENDING);
	for (int i = 0; i < n; i++)
	{
		TaskRequest *request = &requests[i];

		values[TASK_ID] = Int64GetDatum(request->task_id);
		values[TASK_NAMED_TASK] = Int32GetDatum(request->template->named_task_id);
		values[TASK_NAMESPACE] = Int32GetDatum(request->template->task_namespace_id);
		values[TASK_REQUESTED_AT] = TimestampTzGetDatum(request->requested_at);
		values[TASK_PRIORITY] = Int16GetDatum((int16) request->priority);
		values[TASK_INITIATOR] = CStringGetTextDatum(request->initiator);
		values[TASK_SOURCE_SYSTEM] = CStringGetTextDatum(request->source_system);
		values[TASK_REASON] = CStringGetTextDatum(request->reason);
		values[TASK_TAGS] = TextArray(request->tags, request->tag_count);
		values[TASK_BYPASS_STEPS] = TextArray(request->bypass_steps, request->bypass_count);
		values[TASK_CONTEXT] = JsonbPGetDatum(request->context);
		nulls[TASK_TRACEPARENT] = request->traceparent == NULL;
		if (request->traceparent != NULL)
			values[TASK_TRACEPARENT] = CStringGetTextDatum(request->traceparent);
		AppendRow(appender, request->task_id, values, nulls);
		task_ids[i] = request->task_id;
		request->created = true;
	}
	EndAppend(appender);
	EndAccess();
	FAULT_POINT("tasks-written");
	LogCreations(log, task_ids, n, now);
	FAULT_POINT("creations-logged");
}

/* Gives the requests their ids and writes the tasks; marks those created. */
static void
InsertTasks(TaskRequest *requests, int n, TimestampTz now, Datum metadata)
{
	Oid			sequence = ExtensionRelation("tasks_task_id_seq");
	Table	   *table = OpenTable(&TASKS);
	Table	   *log = OpenTable(&TASK_LOG);
	bool		directly = metadata == 0 && TakesDirectWrites(table, true) && TakesDirectWrites(log, true);

	for (int i = 0; i < n; i++)
	{
		requests[i].task_id = nextval_internal(sequence, false);
		directly &= requests[i].identity_key == NULL;
	}
	if (directly)
		InsertTasksDirectly(requests, n, now, table, log);
	else
		InsertTasksBySql(requests, n, now, metadata);
}

/* Gives a request whose identity key was taken the task that has it. */
static void
AdoptFirstTask(TaskRequest *request)
{
	Datum		args[2] = {Int32GetDatum(request->template->task_namespace_id),
	CStringGetTextDatum(request->identity_key)};

	if (RunQuery(&FIND_TASK_BY_IDENTITY, args, NULL) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("the task with identity key \"%s\" is being created or removed by another transaction",
						request->identity_key),
				 errhint("Try the transaction again.")));
	if (strcmp(RowText(0, 2), request->name) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("identity key \"%s\" belongs to task " INT64_FORMAT " of template \"%s\"",
						request->identity_key, RowInt64(0, 1), RowText(0, 2)),
				 errhint("Use a key that no other kind of task in the namespace uses.")));
	request->task_id = RowInt64(0, 1);
}

/* Rows of steps that wait to be written together. */
typedef struct StepRows
{
	MemoryContext context;
	int			steps;
	int			steps_room;
	int64	   *step_id;
	int64	   *task_id;
	int32	   *named_step_id;
	int32	   *handler_id;
	int32	   *rank;
	int32	   *retry_limit;
	int32	   *timeout_seconds;
	int32	   *flags;
	int			bypassed;
	int64	   *bypassed_id;
} StepRows;

#define ROOM_FOR(array, type, room) \
	((array) = (array) ? repalloc_huge(array, sizeof(type) * (room)) : \
	 MemoryContextAllocHuge(rows->context, sizeof(type) * (room)))

static void
MakeRoom(StepRows *rows, int more_steps)
{
	if (rows->steps + more_steps > rows->steps_room)
	{
		int			room = rows->steps_room = Max(2 * rows->steps_room, rows->steps + more_steps);

		ROOM_FOR(rows->step_id, int64, room);
		ROOM_FOR(rows->task_id, int64, room);
		ROOM_FOR(rows->named_step_id, int32, room);
		ROOM_FOR(rows->handler_id, int32, room);
		ROOM_FOR(rows->rank, int32, room);
		ROOM_FOR(rows->retry_limit, int32, room);
		ROOM_FOR(rows->timeout_seconds, int32, room);
		ROOM_FOR(rows->flags, int32, room);
		ROOM_FOR(rows->bypassed_id, int64, room);
	}
}

static void
InsertStepsBySql(StepRows *rows)
{
	Datum		args[8] = {
		Int64Array(rows->step_id, rows->steps), Int64Array(rows->task_id, rows->steps),
		Int32Array(rows->named_step_id, rows->steps), Int32Array(rows->handler_id, rows->steps),
		Int32Array(rows->rank, rows->steps), Int32Array(rows->retry_limit, rows->steps),
		Int32Array(rows->timeout_seconds, rows->steps), Int32Array(rows->flags, rows->steps)
	};

	(void) RunQuery(&INSERT_STEPS, args, NULL);
}

/* The foreign key to the task is not checked: this transaction has just written it. */
static void
InsertStepsDirectly(StepRows *rows, Table *table)
{
	Datum		values[STEP_COLUMNS] = {0};
	bool		nulls[STEP_COLUMNS] = {false};
	Appender   *appender;

	nulls[STEP_EXECUTOR] = nulls[STEP_LAST_ATTEMPTED_AT] = nulls[STEP_NEXT_RETRY_AT] = true;
	nulls[STEP_BACKOFF_REQUEST] = nulls[STEP_INPUTS] = nulls[STEP_RESULTS] = true;
	BeginAccess();
	values[STEP_STATE] = StateValue(table, STEP_STATE, STATE_PENDING);
	appender = BeginAppend(table);
	for (int i = 0; i < rows->steps; i++)
	{
		values[STEP_ID] = Int64GetDatum(rows->step_id[i]);
		values[STEP_TASK] = Int64GetDatum(rows->task_id[i]);
		values[STEP_NAMED_STEP] = Int32GetDatum(rows->named_step_id[i]);
		values[STEP_HANDLER] = Int32GetDatum(rows->handler_id[i]);
		values[STEP_RANK] = Int16GetDatum((int16) rows->rank[i]);
		values[STEP_RETRY_LIMIT] = Int32GetDatum(rows->retry_limit[i]);
		values[STEP_TIMEOUT] = Int32GetDatum(rows->timeout_seconds[i]);
		nulls[STEP_TIMEOUT] = rows->timeout_seconds[i] == 0;
		values[STEP_RETRYABLE] = BoolGetDatum((rows->flags[i] & FLAG_RETRYABLE) != 0);
		values[STEP_SKIPPABLE] = BoolGetDatum((rows->flags[i] & FLAG_SKIPPABLE) != 0);
		values[STEP_IS_ROOT] = BoolGetDatum((rows->flags[i] & FLAG_ROOT) != 0);
		values[STEP_IS_LEAF] = BoolGetDatum((rows->flags[i] & FLAG_LEAF) != 0);
		AppendRow(appender, rows->step_id[i], values, nulls);
	}
	EndAppend(appender);
	EndAccess();
}

/* Writes what has come together; bypassed steps are resolved at once. */
static void
FlushStepRows(StepRows *rows)
{
	StepMoves	bypass = {
		.from = STATE_PENDING,.to = STATE_RESOLVED_MANUALLY,
		.n = rows->bypassed,.step_ids = rows->bypassed_id
	};
	Table	   *table = OpenTable(&STEPS);
	int			moved;

	if (rows->steps > 0 && TakesDirectWrites(table, true))
		InsertStepsDirectly(rows, table);
	else if (rows->steps > 0)
		InsertStepsBySql(rows);
	if (rows->bypassed > 0)
	{
		bypass.metadata_of_all = ReasonMetadata("bypassed at creation");
		(void) MoveSteps(&bypass, &moved);
	}
	rows->steps = rows->bypassed = 0;
}

/* Adds the steps of a task; ids grow in topological order. */
static void
AddStepRows(StepRows *rows, const TaskRequest *request, Oid sequence)
{
	const Template *template = request->template;
	int			first = rows->steps;

	MakeRoom(rows, template->step_count);
	for (int p = 0; p < template->step_count; p++)
	{
		const TemplateStep *step = &template->steps[p];
		int			i = rows->steps++;

		rows->step_id[i] = nextval_internal(sequence, false);
		rows->task_id[i] = request->task_id;
		rows->named_step_id[i] = step->named_step_id;
		rows->handler_id[i] = step->handler_id;
		rows->rank[i] = -(request->priority + step->priority);
		rows->retry_limit[i] = step->retry_limit;
		rows->timeout_seconds[i] = step->timeout_seconds;
		rows->flags[i] = (step->retryable ? FLAG_RETRYABLE : 0) | (step->skippable ? FLAG_SKIPPABLE : 0) |
			(step->is_root ? FLAG_ROOT : 0) | (step->is_leaf ? FLAG_LEAF : 0);
	}
	for (int p = 0; p < template->step_count && request->bypass_count > 0; p++)
	{
		CHECK_FOR_INTERRUPTS();
		for (int b = 0; b < request->bypass_count; b++)
		{
			if (strcmp(template->steps[p].name, request->bypass_steps[b]) == 0)
			{
				rows->bypassed_id[rows->bypassed++] = rows->step_id[first + p];
				break;
			}
		}
	}
}

/* Tells once a session that nobody will work off what it creates. */
static void
NoticeMissingOrchestrator(void)
{
	static bool told = false;

	if (told || OrchestratorRunning())
		return;
	told = true;
	ereport(NOTICE,
			(errmsg("no orchestrator runs for this database"),
			 errhint("Add tasker to shared_preload_libraries, or call tasker.orchestrate() and claim steps with tasker.claim_steps().")));
}

/* Refuses a traceparent while the SQL is of version 1.0, whose tasks have none. */
static void
RequireRoomForTrace(const TaskRequest *request)
{
	if (request->traceparent != NULL && SchemaVersion() < 101)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("tasks have no traceparent before version 1.1 of tasker"),
				 errhint("Run ALTER EXTENSION tasker UPDATE.")));
}

/* Creates the tasks requested and fills in their ids; what the log says of the creations is metadata, or 0. */
static void
CreateTasks(TaskRequest *requests, int n, Datum metadata)
{
	QueryScope	scope;
	StepRows	rows = {0};
	TimestampTz now = TaskerNow();
	Oid			sequence;
	int			created = 0;

	OpenQueryScope(&scope);
	rows.context = CurrentMemoryContext;
	sequence = ExtensionRelation("workflow_steps_workflow_step_id_seq");
	RefreshTemplates();
	for (int i = 0; i < n; i++)
	{
		if (!requests[i].has_requested_at)
			requests[i].requested_at = now;
		RequireRoomForTrace(&requests[i]);
		ResolveTemplate(&requests[i]);
	}
	IdentifyRequests(requests, n);
	InsertTasks(requests, n, now, metadata);
	for (int i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		CheckTemplateCurrent(requests[i].template);
		if (!requests[i].created)
		{
			AdoptFirstTask(&requests[i]);
			continue;
		}
		created++;
		NoteEvent(COUNTED_TASKS, requests[i].template->named_task_id, COUNTED_CREATED, UNTIMED);
		AddStepRows(&rows, &requests[i], sequence);
		if (rows.steps >= STEPS_PER_INSERT)
			FlushStepRows(&rows);
	}
	FlushStepRows(&rows);
	FAULT_POINT("tasks-created");
	WakeOrchestratorAtCommit(created);
	CloseQueryScope(&scope);
	NoticeMissingOrchestrator();
}

PG_FUNCTION_INFO_V1(tasker_find_task);

Datum
tasker_find_task(PG_FUNCTION_ARGS)
{
	Datum		args[2] = {PG_GETARG_DATUM(0), PG_GETARG_DATUM(1)};
	QueryScope	scope;
	bool		found = false;
	int64		task_id = 0;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		PG_RETURN_NULL();
	OpenReadingScope(&scope);
	if (CallerKnowsNamespace(text_to_cstring(PG_GETARG_TEXT_PP(1))) && RunQuery(&FIND_TASK_OF_KEY, args, NULL) > 0)
	{
		found = true;
		task_id = RowInt64(0, 1);
	}
	CloseQueryScope(&scope);
	if (!found)
		PG_RETURN_NULL();
	PG_RETURN_INT64(task_id);
}

PG_FUNCTION_INFO_V1(tasker_create_task);

Datum
tasker_create_task(PG_FUNCTION_ARGS)
{
	TaskRequest request = TaskRequestOfArguments(fcinfo);

	CreateTasks(&request, 1, 0);
	PG_RETURN_INT64(request.task_id);
}

PG_FUNCTION_INFO_V1(tasker_create_tasks);

Datum
tasker_create_tasks(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	TaskRequest *requests;
	Datum	   *documents;
	bool	   *nulls;
	int			n;

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(0), JSONBOID, -1, false, TYPALIGN_INT,
					  &documents, &nulls, &n);
	if (n > MAX_REQUESTS)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("at most %d tasks can be created at once, not %d", MAX_REQUESTS, n),
				 errhint("Call tasker.create_tasks() several times; in one transaction, if need be.")));
	requests = palloc(sizeof(TaskRequest) * Max(n, 1));
	for (int i = 0; i < n; i++)
	{
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("task request %d is null", i + 1)));
		requests[i] = TaskRequestOfDocument(DatumGetJsonbP(documents[i]), i + 1);
	}
	if (n > 0)
		CreateTasks(requests, n, 0);
	for (int i = 0; i < n; i++)
	{
		Datum		value = Int64GetDatum(requests[i].task_id);
		bool		null = false;

		tuplestore_putvalues(result->setResult, result->setDesc, &value, &null);
	}
	return (Datum) 0;
}

PG_FUNCTION_INFO_V1(tasker_create_requested_task);

Datum
tasker_create_requested_task(PG_FUNCTION_ARGS)
{
	TaskRequest request = TaskRequestOfDocument(PG_GETARG_JSONB_P(0), 1);

	CreateTasks(&request, 1, 0);
	PG_RETURN_INT64(request.task_id);
}

static const MemberRule batch_rules[] = {
	{"triggers", MEMBER_STRINGS, true, 1, 128},
	{"requests", MEMBER_ARRAY, true},
	{NULL}
};

/* The requests of a batch; raises 22023 where it is none. */
static TaskRequest *
RequestsOfBatch(JsonbContainer *batch, int *n)
{
	JsonbContainer *array;
	TaskRequest *requests;

	if (!JsonContainerIsObject(batch))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a batch of tasks must be an object")));
	CheckMembers(&(DocumentReader) {.subject = "a batch of tasks"}, batch, batch_rules);
	array = Member(batch, "requests")->val.binary.data;
	*n = JsonContainerSize(array);
	requests = palloc(sizeof(TaskRequest) * Max(*n, 1));
	for (int i = 0; i < *n; i++)
		requests[i] = TaskRequestOfDocument(JsonbValueToJsonb(getIthJsonbValueFromContainer(array, i)), i + 1);
	return requests;
}

/* What the log says of tasks that a chain of triggers has led to; the last one has started them. */
static Datum
TriggerMetadata(JsonbContainer *batch)
{
	JsonbValue *triggers = Member(batch, "triggers");
	Jsonb	   *chain = JsonbValueToJsonb(triggers);
	int			length = JsonContainerSize(&chain->root);
	StringInfoData json;

	initStringInfo(&json);
	appendStringInfoString(&json, "{\"reason\": ");
	escape_json(&json, psprintf("trigger %s", length == 0 ? "" :
								StringOf(getIthJsonbValueFromContainer(&chain->root, length - 1))));
	appendStringInfo(&json, ", \"triggers\": %s}", JsonbToCString(NULL, &chain->root, VARSIZE(chain)));
	return JsonbOfText(json.data);
}

PG_FUNCTION_INFO_V1(tasker_create_triggered_tasks);

Datum
tasker_create_triggered_tasks(PG_FUNCTION_ARGS)
{
	JsonbContainer *batch = &PG_GETARG_JSONB_P(0)->root;
	int			n;
	TaskRequest *requests = RequestsOfBatch(batch, &n);
	Datum	   *created = palloc(sizeof(Datum) * Max(n, 1));
	int			n_created = 0;

	CreateTasks(requests, n, TriggerMetadata(batch));
	for (int i = 0; i < n; i++)
	{
		if (requests[i].created)
			created[n_created++] = Int64GetDatum(requests[i].task_id);
	}
	PG_RETURN_DATUM(NullableArray(created, NULL, n_created, INT8OID));
}

/* ---------- operating ---------- */

/*
 * What the three operator's functions share: under the task's row lock, move
 * it, and its steps with it.  False if it is in that state already.
 */
static bool
OperateOnTask(int64 task_id, TaskerState to, const char *reason)
{
	QueryScope	scope;
	TaskerState from;
	bool		already;

	OpenQueryScope(&scope);
	RequireForTask(task_id, MAY_OPERATE);
	from = LockTask(task_id);
	already = from == to || (to == STATE_PENDING && from == STATE_IN_PROGRESS);
	if (!already)
	{
		Datum		metadata = ReasonMetadata(reason);

		if (!IsLegalTransition(OWNER_TASK, from, to))
			RefuseTransition(OWNER_TASK, task_id, from, to, NULL);
		(void) MoveTasks(from, to, 1, &task_id, metadata);
		if (to == STATE_CANCELLED)
			CancelStepsOfTask(task_id, metadata);
		else if (to == STATE_PENDING)
			RetryStepsOfTask(task_id, metadata);
	}
	CloseQueryScope(&scope);
	return !already;
}

static Datum
OperateOnTaskArgument(FunctionCallInfo fcinfo, TaskerState to)
{
	char	   *reason = PG_ARGISNULL(1) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(1));

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("task_id must not be null")));
	return BoolGetDatum(OperateOnTask(PG_GETARG_INT64(0), to, reason));
}

PG_FUNCTION_INFO_V1(tasker_cancel_task);
PG_FUNCTION_INFO_V1(tasker_retry_task);
PG_FUNCTION_INFO_V1(tasker_resolve_task);

Datum
tasker_cancel_task(PG_FUNCTION_ARGS)
{
	return OperateOnTaskArgument(fcinfo, STATE_CANCELLED);
}

Datum
tasker_retry_task(PG_FUNCTION_ARGS)
{
	return OperateOnTaskArgument(fcinfo, STATE_PENDING);
}

Datum
tasker_resolve_task(PG_FUNCTION_ARGS)
{
	return OperateOnTaskArgument(fcinfo, STATE_RESOLVED_MANUALLY);
}
