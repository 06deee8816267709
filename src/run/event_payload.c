/*
 * event_payload.c
 *		What is told of an event: whose it is, and its payload.
 *
 * The builder of payloads for those who read all events, straight from the
 * rows (pg/table.h) and from caches; a tenth of what the functions of
 * event_view.sql cost, which say the same in SQL for whoever looks at single
 * tasks with rights of their own.  A test compares the two.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "define/step_template.h"
#include "miscadmin.h"
#include "pg/catalog.h"
#include "pg/query.h"
#include "run/event_payload.h"
#include "run/row.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/hsearch.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/numeric.h"

/* What is longer as text is not told; see tasker.small_json. */
#define MAX_TOLD_BYTES 8000

/* So many steps in error are named. */
#define MAX_NAMED_STEPS 100

/* ---------- the keys of a payload ---------- */

/* In the order of jsonb, by length and then by letters: sorting them costs nothing then. */
typedef enum PayloadKey
{
	KEY_ROLE, KEY_REASON, KEY_STEP_ID, KEY_TASK_ID, KEY_TO_STATE, KEY_EVENT_KEY, KEY_NAMESPACE, KEY_STEP_NAME,
	KEY_TASK_NAME, KEY_TIMESTAMP, KEY_EVENT_TYPE, KEY_FROM_STATE, KEY_STARTED_AT, KEY_ERROR_STEPS, KEY_EXECUTOR_ID,
	KEY_RETRY_LIMIT, KEY_TOTAL_STEPS, KEY_BACKOFF_TYPE, KEY_COMPLETED_AT, KEY_FAILED_STEPS, KEY_REQUESTED_AT,
	KEY_STEP_RESULTS, KEY_TASK_CONTEXT, KEY_TASK_VERSION, KEY_ERROR_MESSAGE, KEY_EVENT_VERSION, KEY_ATTEMPT_NUMBER,
	KEY_BACKOFF_SECONDS, KEY_COMPLETED_STEPS, KEY_EXCEPTION_CLASS, KEY_RETRY_AVAILABLE, KEY_EXECUTION_DURATION, KEYS
} PayloadKey;

static const char *const key_names[KEYS] = {
	"role", "reason", "step_id", "task_id", "to_state", "event_key", "namespace", "step_name",
	"task_name", "timestamp", "event_type", "from_state", "started_at", "error_steps", "executor_id",
	"retry_limit", "total_steps", "backoff_type", "completed_at", "failed_steps", "requested_at",
	"step_results", "task_context", "task_version", "error_message", "event_version", "attempt_number",
	"backoff_seconds", "completed_steps", "exception_class", "retry_available", "execution_duration"
};

/* The keys that every event of a task or step has. */
static const PayloadKey common_keys[] = {
	KEY_ROLE, KEY_REASON, KEY_STEP_ID, KEY_TASK_ID, KEY_TO_STATE, KEY_EVENT_KEY, KEY_NAMESPACE, KEY_STEP_NAME,
	KEY_TASK_NAME, KEY_TIMESTAMP, KEY_EVENT_TYPE, KEY_FROM_STATE, KEY_STARTED_AT, KEY_EXECUTOR_ID,
	KEY_COMPLETED_AT, KEY_TASK_VERSION, KEY_ERROR_MESSAGE, KEY_EVENT_VERSION, KEY_ATTEMPT_NUMBER,
	KEY_EXCEPTION_CLASS, KEY_EXECUTION_DURATION
};

typedef struct Payload
{
	bool		has[KEYS];
	JsonbValue	values[KEYS];	/* jbvNull unless something was put */
} Payload;

static void
PutNull(Payload *payload, PayloadKey key)
{
	payload->has[key] = true;
	payload->values[key].type = jbvNull;
}

static void
PutText(Payload *payload, PayloadKey key, const char *text)
{
	payload->has[key] = true;
	payload->values[key].type = jbvString;
	payload->values[key].val.string.val = unconstify(char *, text);
	payload->values[key].val.string.len = strlen(text);
}

static void
PutNumeric(Payload *payload, PayloadKey key, Numeric number)
{
	payload->has[key] = true;
	payload->values[key].type = jbvNumeric;
	payload->values[key].val.numeric = number;
}

static void
PutInteger(Payload *payload, PayloadKey key, int64 number)
{
	PutNumeric(payload, key, int64_to_numeric(number));
}

static void
PutTime(Payload *payload, PayloadKey key, TimestampTz at)
{
	PutText(payload, key, JsonEncodeDateTime(NULL, TimestampTzGetDatum(at), TIMESTAMPTZOID, NULL));
}

static void
PutJsonb(Payload *payload, PayloadKey key, Jsonb *jsonb)
{
	JsonbValue *value = &payload->values[key];

	payload->has[key] = true;
	if (JB_ROOT_IS_SCALAR(jsonb))
	{
		(void) JsonbExtractScalar(&jsonb->root, value);
		return;
	}
	value->type = jbvBinary;
	value->val.binary.data = &jsonb->root;
	value->val.binary.len = VARSIZE(jsonb) - VARHDRSZ;
}

/* Puts a jsonb where it is short enough as text, else null. */
static void
PutSmallJsonb(Payload *payload, PayloadKey key, Jsonb *jsonb)
{
	if (JB_ROOT_COUNT(jsonb) == 0 ||
		strlen(JsonbToCString(NULL, &jsonb->root, VARSIZE(jsonb) - VARHDRSZ)) <= MAX_TOLD_BYTES)
		PutJsonb(payload, key, jsonb);
	else
		PutNull(payload, key);
}

static Jsonb *
FormPayload(Payload *payload)
{
	JsonbParseState *state = NULL;

	(void) pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	for (PayloadKey key = 0; key < KEYS; key++)
	{
		JsonbValue	name = {.type = jbvString};

		if (!payload->has[key])
			continue;
		name.val.string.val = unconstify(char *, key_names[key]);
		name.val.string.len = strlen(key_names[key]);
		(void) pushJsonbValue(&state, WJB_KEY, &name);
		(void) pushJsonbValue(&state, WJB_VALUE, &payload->values[key]);
	}
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

/* ---------- what metadata say ---------- */

/* A member of the metadata of a transition; NULL where there is none, or null. */
static JsonbValue *
MetadataMember(Jsonb *metadata, const char *key)
{
	JsonbValue *value;

	if (metadata == NULL || !JB_ROOT_IS_OBJECT(metadata))
		return NULL;
	value = getKeyJsonValueFromContainer(&metadata->root, key, strlen(key), NULL);
	return value == NULL || value->type == jbvNull ? NULL : value;
}

/* The text of a member, as the operator ->> has it; NULL where there is none. */
static char *
MetadataText(Jsonb *metadata, const char *key)
{
	JsonbValue *value = MetadataMember(metadata, key);
	Jsonb	   *jsonb;

	if (value == NULL)
		return NULL;
	if (value->type == jbvString)
		return pnstrdup(value->val.string.val, value->val.string.len);
	jsonb = JsonbValueToJsonb(value);
	return JsonbToCString(NULL, &jsonb->root, VARSIZE(jsonb) - VARHDRSZ);
}

static void
PutMetadataText(Payload *payload, PayloadKey key, Jsonb *metadata, const char *member)
{
	char	   *text = MetadataText(metadata, member);

	if (text != NULL)
		PutText(payload, key, text);
}

/* Puts a member as it is; null where there is none. */
static void
PutMetadataMember(Payload *payload, PayloadKey key, Jsonb *metadata, const char *member)
{
	JsonbValue *value = MetadataMember(metadata, member);

	PutNull(payload, key);
	if (value != NULL)
		payload->values[key] = *value;
}

/* ---------- names of templates ---------- */

typedef struct TemplateNames
{
	int32		named_task_id;	/* hash key */
	char	   *namespace_name;
	char	   *name;
	char	   *version;
} TemplateNames;

static KeptQuery READ_TEMPLATE_NAMES = {
	.sql =
	"SELECT ns.name, nt.name, nt.version FROM tasker.named_tasks nt"
	"  JOIN tasker.task_namespaces ns ON ns.task_namespace_id = nt.task_namespace_id"
	" WHERE nt.named_task_id = $1",
	.nargs = 1,.types = {INT4OID}
};

static MemoryContext names_context = NULL;
static HTAB *names = NULL;
static uint64 names_generation = 0;

static void
RefreshTemplateNames(void)
{
	HASHCTL		control = {.keysize = sizeof(int32),.entrysize = sizeof(TemplateNames)};

	if (names != NULL && names_generation == DefinitionsGeneration())
		return;
	if (names_context == NULL)
		names_context = AllocSetContextCreate(TopMemoryContext, "tasker template names", ALLOCSET_SMALL_SIZES);
	names = NULL;
	MemoryContextReset(names_context);
	control.hcxt = names_context;
	names = hash_create("tasker template names", 64, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	names_generation = DefinitionsGeneration();
}

/* The names of a template that has tasks; read first and entered then, as reading may fail. */
static const TemplateNames *
NamesOfTemplate(int32 named_task_id)
{
	TemplateNames *found = hash_search(names, &named_task_id, HASH_FIND, NULL);
	TemplateNames read = {.named_task_id = named_task_id};
	Datum		id = Int32GetDatum(named_task_id);
	MemoryContext caller;

	if (found != NULL)
		return found;
	if (RunQuery(&READ_TEMPLATE_NAMES, &id, NULL) == 0)
		elog(ERROR, "template %d is missing", named_task_id);
	caller = MemoryContextSwitchTo(names_context);
	read.namespace_name = RowText(0, 1);
	read.name = RowText(0, 2);
	read.version = RowText(0, 3);
	MemoryContextSwitchTo(caller);
	found = hash_search(names, &named_task_id, HASH_ENTER, NULL);
	*found = read;
	return found;
}

/* ---------- the describer ---------- */

/* The way to the log of an owner, in each part of it that was looked into. */
typedef struct LogReader
{
	Table	   *log;
	int			n;
	int			room;
	struct
	{
		Table	   *part;
		Lookup	   *by_owner;
	}		   *parts;
} LogReader;

/*
 * Places for what the describer has met, by number: several events of one step
 * or task come soon after each other.
 */
#define MET_ROWS 1024

/* Of a step, as of the access. */
typedef struct MetStep
{
	int64		step_id;		/* 0: the place is free */
	int64		task_id;
	int32		named_step_id;
	int32		retry_limit;
} MetStep;

typedef struct MetTask
{
	int64		task_id;		/* 0: the place is free */
	int32		named_task_id;
} MetTask;

struct EventDescriber
{
	Table	   *steps;
	Table	   *tasks;
	Table	   *published;
	Lookup	   *step_by_id;
	Lookup	   *step_by_task;
	Lookup	   *task_by_id;
	Lookup	   *published_by_id;
	LogReader	step_log;
	LogReader	task_log;
	MemoryContext context;
	MetStep		met_steps[MET_ROWS];
	MetTask		met_tasks[MET_ROWS];
};

EventDescriber *
BeginDescribing(void)
{
	static const int task_of_step[] = {STEP_TASK};
	EventDescriber *describer = palloc0(sizeof(EventDescriber));

	RefreshStepTemplates();
	RefreshTemplateNames();
	BeginAccess();
	describer->context = CurrentMemoryContext;
	describer->steps = OpenTable(&STEPS);
	describer->tasks = OpenTable(&TASKS);
	describer->published = OpenTable(&PUBLISHED_EVENTS);
	describer->step_by_id = LookupById(describer->steps);
	describer->step_by_task = BeginLookup(describer->steps, 1, task_of_step);
	describer->task_by_id = LookupById(describer->tasks);
	describer->published_by_id = LookupById(describer->published);
	describer->step_log.log = OpenTable(&STEP_LOG);
	describer->task_log.log = OpenTable(&TASK_LOG);
	return describer;
}

static void
EndLogReader(LogReader *reader)
{
	for (int i = 0; i < reader->n; i++)
		EndLookup(reader->parts[i].by_owner);
}

void
EndDescribing(EventDescriber *describer)
{
	EndLookup(describer->step_by_id);
	EndLookup(describer->step_by_task);
	EndLookup(describer->task_by_id);
	EndLookup(describer->published_by_id);
	EndLogReader(&describer->step_log);
	EndLogReader(&describer->task_log);
	EndAccess();
}

/* The part of a log that an owner's rows are in, positioned before the first of them; -1 where that part is gone. */
static int
LookForOwner(EventDescriber *describer, LogReader *reader, int64 id)
{
	static const int owner[] = {LOG_OWNER};
	Table	   *part = FindTablePart(reader->log, id);
	Datum		key = Int64GetDatum(id);
	MemoryContext caller;
	int			i = 0;

	if (part == NULL)
		return -1;
	while (i < reader->n && reader->parts[i].part != part)
		i++;
	if (i == reader->n)
	{
		caller = MemoryContextSwitchTo(describer->context);
		if (reader->n == reader->room)
		{
			reader->room = Max(4, 2 * reader->room);
			reader->parts = reader->parts ? repalloc(reader->parts, sizeof(*reader->parts) * reader->room) :
				palloc(sizeof(*reader->parts) * reader->room);
		}
		reader->parts[i].part = part;
		reader->parts[i].by_owner = BeginLookup(part, 1, owner);
		reader->n++;
		MemoryContextSwitchTo(caller);
	}
	LookFor(reader->parts[i].by_owner, 1, &key);
	return i;
}

static TupleTableSlot *
FindById(Lookup *by_id, int64 id)
{
	Datum		key = Int64GetDatum(id);

	LookFor(by_id, 1, &key);
	return NextRow(by_id);
}

static MetStep
MeetStep(const EventDescriber *describer, TupleTableSlot *row)
{
	return (MetStep)
	{
		.step_id = DatumGetInt64(RowColumn(describer->steps, row, STEP_ID, NULL)),
			.task_id = DatumGetInt64(RowColumn(describer->steps, row, STEP_TASK, NULL)),
			.named_step_id = DatumGetInt32(RowColumn(describer->steps, row, STEP_NAMED_STEP, NULL)),
			.retry_limit = DatumGetInt32(RowColumn(describer->steps, row, STEP_RETRY_LIMIT, NULL)),
	};
}

/* The step of an event; NULL where it is gone. */
static const MetStep *
FindStep(EventDescriber *describer, int64 step_id)
{
	MetStep    *met = &describer->met_steps[step_id & (MET_ROWS - 1)];
	TupleTableSlot *row;

	if (met->step_id == step_id)
		return met;
	row = FindById(describer->step_by_id, step_id);
	if (row == NULL)
		return NULL;
	*met = MeetStep(describer, row);
	return met;
}

/* The template of a task; 0 where the task is gone. */
static int32
FindTemplate(EventDescriber *describer, int64 task_id)
{
	MetTask    *met = &describer->met_tasks[task_id & (MET_ROWS - 1)];
	TaskRow		task;

	if (met->task_id == task_id)
		return met->named_task_id;
	if (!FindTaskRow(describer->tasks, describer->task_by_id, task_id, &task))
		return 0;
	*met = (MetTask)
	{
		.task_id = task_id,.named_task_id = task.named_task_id
	};
	return met->named_task_id;
}

/* ---------- a transition and what came before it ---------- */

static TaskerState
StateColumn(const Table *log, TupleTableSlot *row, int column)
{
	bool		is_null;
	Datum		value = RowColumn(log, row, column, &is_null);

	return is_null ? STATE_NONE : StateOfValue(log, column, value);
}

static Jsonb *
MetadataColumn(const Table *log, TupleTableSlot *row)
{
	bool		is_null;
	Datum		value = RowColumn(log, row, LOG_METADATA, &is_null);

	return is_null ? NULL : DatumGetJsonbPCopy(value);
}

/* Adds what one row of an owner's log says of attempts. */
static void
FollowRow(Happened *happened, EventKind kind, const Table *log, TupleTableSlot *row)
{
	TaskerState from = StateColumn(log, row, LOG_FROM_STATE);

	FollowAttempts(happened, kind, from, StateColumn(log, row, LOG_TO_STATE),
				   DatumGetTimestampTz(RowColumn(log, row, LOG_CREATED_AT, NULL)),
				   from == STATE_ERROR && MetadataText(MetadataColumn(log, row), "triggered_by") == NULL);
}

/* Reads an owner's log up to a row of it; false where the row is gone. */
static bool
ReadHappened(EventDescriber *describer, LogReader *reader, const LoggedEvent *event, Happened *happened)
{
	TupleTableSlot *row;
	int			i;

	*happened = event->happened;
	if (event->is_whole)
		return true;
	*happened = (Happened)
	{
		0
	};
	i = LookForOwner(describer, reader, event->id);
	if (i < 0)
		return false;
	while ((row = NextRow(reader->parts[i].by_owner)) != NULL)
	{
		const Table *log = reader->parts[i].part;
		int32		sort_key = DatumGetInt32(RowColumn(log, row, LOG_SORT_KEY, NULL));
		bool		no_executor;
		Datum		executor;

		if (sort_key > event->sort_key)
			break;
		FollowRow(happened, event->kind, log, row);
		if (sort_key < event->sort_key)
			continue;
		executor = RowColumn(log, row, LOG_EXECUTOR, &no_executor);
		happened->from = StateColumn(log, row, LOG_FROM_STATE);
		happened->to = StateColumn(log, row, LOG_TO_STATE);
		happened->at = DatumGetTimestampTz(RowColumn(log, row, LOG_CREATED_AT, NULL));
		happened->has_executor = !no_executor;
		happened->executor_id = no_executor ? 0 : DatumGetInt64(executor);
		happened->role = TextDatumGetCString(RowColumn(log, row, LOG_ROLE, NULL));
		happened->metadata = MetadataColumn(log, row);
		return true;
	}
	return false;
}

/* What every event of a task or a step says; what does not apply is null. */
static void
PutCommon(Payload *payload, const LoggedEvent *event, const Happened *happened)
{
	char	   *reason = MetadataText(happened->metadata, "reason");

	memset(payload->has, false, sizeof(payload->has));
	for (int i = 0; i < lengthof(common_keys); i++)
		PutNull(payload, common_keys[i]);
	if (reason == NULL)
		reason = MetadataText(happened->metadata, "triggered_by");
	if (reason != NULL)
		PutText(payload, KEY_REASON, reason);
	PutText(payload, KEY_EVENT_TYPE, event->name);
	PutText(payload, KEY_EVENT_KEY, EventKey(event));
	PutInteger(payload, KEY_EVENT_VERSION, 1);
	PutTime(payload, KEY_TIMESTAMP, happened->at);
	PutMetadataText(payload, KEY_ERROR_MESSAGE, happened->metadata, "error_message");
	PutMetadataText(payload, KEY_EXCEPTION_CLASS, happened->metadata, "error_class");
	if (happened->from != STATE_NONE)
		PutText(payload, KEY_FROM_STATE, StateLabel(happened->from));
	PutText(payload, KEY_TO_STATE, StateLabel(happened->to));
	if (happened->has_executor)
		PutInteger(payload, KEY_EXECUTOR_ID, happened->executor_id);
	PutText(payload, KEY_ROLE, happened->role);
}

/* When it began and ended, and how long it took; 0: not, or not yet. */
static void
PutTimes(Payload *payload, TimestampTz started_at, TimestampTz ended_at)
{
	if (started_at != 0)
		PutTime(payload, KEY_STARTED_AT, started_at);
	if (ended_at != 0)
		PutTime(payload, KEY_COMPLETED_AT, ended_at);
	if (started_at != 0 && ended_at != 0)
		PutNumeric(payload, KEY_EXECUTION_DURATION, int64_div_fast_to_numeric(ended_at - started_at, 6));
}

static void
PutTemplate(Payload *payload, int32 named_task_id)
{
	const TemplateNames *template = NamesOfTemplate(named_task_id);

	PutText(payload, KEY_NAMESPACE, template->namespace_name);
	PutText(payload, KEY_TASK_NAME, template->name);
	PutText(payload, KEY_TASK_VERSION, template->version);
}

/* ---------- events of steps ---------- */

/* Puts what a step has returned, where it is short enough. */
static void
PutResults(Payload *payload, EventDescriber *describer, int64 step_id)
{
	TupleTableSlot *row = FindById(describer->step_by_id, step_id);
	bool		none = true;
	Datum		results = row == NULL ? 0 : RowColumn(describer->steps, row, STEP_RESULTS, &none);

	PutNull(payload, KEY_STEP_RESULTS);
	if (!none)
		PutSmallJsonb(payload, KEY_STEP_RESULTS, DatumGetJsonbPCopy(results));
	if (row != NULL)
		describer->met_steps[step_id & (MET_ROWS - 1)] = MeetStep(describer, row);
}

/* What some events of steps say besides; step is NULL where it is gone. */
static void
PutStepExtras(Payload *payload, const Happened *happened, const MetStep *step)
{
	if (happened->to == STATE_IN_PROGRESS || happened->to == STATE_ERROR ||
		(happened->to == STATE_PENDING && happened->from == STATE_ERROR))
	{
		PutNull(payload, KEY_RETRY_LIMIT);
		if (step != NULL)
			PutInteger(payload, KEY_RETRY_LIMIT, step->retry_limit);
	}
	if (happened->to == STATE_ERROR)
	{
		PutMetadataMember(payload, KEY_RETRY_AVAILABLE, happened->metadata, "retry_available");
		PutMetadataMember(payload, KEY_BACKOFF_SECONDS, happened->metadata, "backoff_seconds");
		PutNull(payload, KEY_BACKOFF_TYPE);
		PutMetadataText(payload, KEY_BACKOFF_TYPE, happened->metadata, "backoff_type");
	}
}

static bool
DescribeStepEvent(EventDescriber *describer, const LoggedEvent *event, EventDetails *details)
{
	Payload		payload;
	Happened	happened;
	const MetStep *step;
	bool		given_back;

	if (!ReadHappened(describer, &describer->step_log, event, &happened))
		return false;
	PutCommon(&payload, event, &happened);
	PutInteger(&payload, KEY_STEP_ID, event->id);
	/* A release tells of the attempt that it gives back. */
	given_back = happened.from == STATE_IN_PROGRESS && happened.to == STATE_PENDING;
	PutInteger(&payload, KEY_ATTEMPT_NUMBER, Max(happened.attempt + given_back, 0));
	PutTimes(&payload,
			 happened.to == STATE_IN_PROGRESS || happened.from == STATE_IN_PROGRESS ? happened.started_at : 0,
			 happened.from == STATE_IN_PROGRESS ? happened.at : 0);
	if (happened.to == STATE_COMPLETE)
		PutResults(&payload, describer, event->id);
	step = FindStep(describer, event->id);
	*details = (EventDetails)
	{
		.owner.step_id = event->id,.occurred_at = happened.at
	};
	if (step != NULL)
	{
		int32		named_task_id = FindTemplate(describer, step->task_id);

		details->owner.task_id = step->task_id;
		PutInteger(&payload, KEY_TASK_ID, step->task_id);
		if (named_task_id != 0)
		{
			PutTemplate(&payload, named_task_id);
			PutText(&payload, KEY_STEP_NAME, GetStepTemplate(named_task_id, step->named_step_id)->step_name);
		}
	}
	PutStepExtras(&payload, &happened, step);
	details->payload = JsonbPGetDatum(FormPayload(&payload));
	return true;
}

/* ---------- events of tasks ---------- */

/* A step of a task when the task ended. */
typedef struct StepThen
{
	int64		step_id;
	int32		named_step_id;
	TaskerState state;
} StepThen;

static int
CompareStepsThen(const void *a, const void *b)
{
	int64		left = ((const StepThen *) a)->step_id;
	int64		right = ((const StepThen *) b)->step_id;

	return left < right ? -1 : left > right;
}

static StepThen *
ReadStepsOfTask(EventDescriber *describer, int64 task_id, int *n)
{
	int			room = 16;
	StepThen   *steps = palloc(sizeof(StepThen) * room);
	Datum		key = Int64GetDatum(task_id);
	TupleTableSlot *row;

	*n = 0;
	LookFor(describer->step_by_task, 1, &key);
	while ((row = NextRow(describer->step_by_task)) != NULL)
	{
		if (*n == room)
			steps = repalloc_huge(steps, sizeof(StepThen) * (room *= 2));
		steps[(*n)++] = (StepThen)
		{
			.step_id = DatumGetInt64(RowColumn(describer->steps, row, STEP_ID, NULL)),
				.named_step_id = DatumGetInt32(RowColumn(describer->steps, row, STEP_NAMED_STEP, NULL)),
				.state = StateOfValue(describer->steps, STEP_STATE, RowColumn(describer->steps, row, STEP_STATE, NULL)),
		};
	}
	qsort(steps, *n, sizeof(StepThen), CompareStepsThen);
	return steps;
}

/* The state that a step was in at a time. */
static TaskerState
StateAt(EventDescriber *describer, int64 step_id, TimestampTz at)
{
	int			i = LookForOwner(describer, &describer->step_log, step_id);
	TaskerState state = STATE_PENDING;
	TupleTableSlot *row;

	while (i >= 0 && (row = NextRow(describer->step_log.parts[i].by_owner)) != NULL)
	{
		const Table *log = describer->step_log.parts[i].part;

		CHECK_FOR_INTERRUPTS();
		if (DatumGetTimestampTz(RowColumn(log, row, LOG_CREATED_AT, NULL)) <= at)
			state = StateColumn(log, row, LOG_TO_STATE);
	}
	return state;
}

/* The names of the steps in error, the first ones. */
static Jsonb *
NamesOfFailed(const StepThen *steps, int n, int32 named_task_id)
{
	JsonbParseState *state = NULL;
	int			named = 0;

	(void) pushJsonbValue(&state, WJB_BEGIN_ARRAY, NULL);
	for (int i = 0; i < n && named < MAX_NAMED_STEPS; i++)
	{
		JsonbValue	name = {.type = jbvString};

		if (steps[i].state != STATE_ERROR)
			continue;
		name.val.string.val = unconstify(char *, GetStepTemplate(named_task_id, steps[i].named_step_id)->step_name);
		name.val.string.len = strlen(name.val.string.val);
		(void) pushJsonbValue(&state, WJB_ELEM, &name);
		named++;
	}
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_ARRAY, NULL));
}

/*
 * What the end of a task says of its steps.  Where all of a complete task's
 * steps are closed now, as ever if nobody has touched it since, they were so
 * then: no log needs to be looked into.
 */
static void
PutEnd(Payload *payload, EventDescriber *describer, int64 task_id, const Happened *happened, const TaskRow *task)
{
	int			n;
	StepThen   *steps = ReadStepsOfTask(describer, task_id, &n);
	bool		all_closed = happened->to == STATE_COMPLETE;
	int			completed = 0;
	int			failed = 0;

	for (int i = 0; i < n && all_closed; i++)
		all_closed = SatisfiesDependents(steps[i].state);
	for (int i = 0; i < n; i++)
	{
		if (!all_closed)
			steps[i].state = StateAt(describer, steps[i].step_id, happened->at);
		completed += SatisfiesDependents(steps[i].state);
		failed += steps[i].state == STATE_ERROR;
	}
	PutNull(payload, KEY_TOTAL_STEPS);
	if (n > 0)
		PutInteger(payload, KEY_TOTAL_STEPS, n);
	PutInteger(payload, KEY_COMPLETED_STEPS, completed);
	PutInteger(payload, KEY_FAILED_STEPS, failed);
	if (happened->to != STATE_ERROR)
		return;
	PutNull(payload, KEY_ERROR_STEPS);
	if (failed > 0 && task != NULL)
		PutJsonb(payload, KEY_ERROR_STEPS, NamesOfFailed(steps, n, task->named_task_id));
}

static bool
DescribeTaskEvent(EventDescriber *describer, const LoggedEvent *event, EventDetails *details)
{
	Payload		payload;
	Happened	happened;
	TupleTableSlot *row;
	TaskRow		task;
	bool		is_over;

	if (!ReadHappened(describer, &describer->task_log, event, &happened))
		return false;
	is_over = EndsTask(happened.to);
	PutCommon(&payload, event, &happened);
	PutInteger(&payload, KEY_TASK_ID, event->id);
	/* A task that has gone back to pending has not started again yet. */
	PutTimes(&payload, happened.to == STATE_PENDING ? 0 : happened.started_at, is_over ? happened.at : 0);
	row = FindById(describer->task_by_id, event->id);
	if (row != NULL)
	{
		task = ReadTaskRow(describer->tasks, row);
		PutTemplate(&payload, task.named_task_id);
	}
	if (happened.to == STATE_PENDING && happened.from != STATE_ERROR)
	{
		PutNull(&payload, KEY_TASK_CONTEXT);
		PutNull(&payload, KEY_REQUESTED_AT);
		if (row != NULL)
		{
			PutSmallJsonb(&payload, KEY_TASK_CONTEXT, DatumGetJsonbPCopy(RowColumn(describer->tasks, row, TASK_CONTEXT, NULL)));
			PutTime(&payload, KEY_REQUESTED_AT,
					DatumGetTimestampTz(RowColumn(describer->tasks, row, TASK_REQUESTED_AT, NULL)));
		}
	}
	if (is_over)
		PutEnd(&payload, describer, event->id, &happened, row != NULL ? &task : NULL);
	*details = (EventDetails)
	{
		.owner.task_id = event->id,.occurred_at = happened.at,.payload = JsonbPGetDatum(FormPayload(&payload))
	};
	return true;
}

/* ---------- custom events ---------- */

static KeptQuery READ_CUSTOM_VERSION = {
	.sql = "SELECT version FROM tasker.custom_events WHERE name = $1",
	.nargs = 1,.types = {TEXTOID}
};

/* The owner of a published event, from its row. */
static EventOwner
OwnerOfPublished(const Table *published, TupleTableSlot *row)
{
	bool		no_task;
	bool		no_step;
	Datum		task_id = RowColumn(published, row, PUBLISHED_TASK, &no_task);
	Datum		step_id = RowColumn(published, row, PUBLISHED_STEP, &no_step);

	return (EventOwner)
	{
		.task_id = no_task ? 0 : DatumGetInt64(task_id),.step_id = no_step ? 0 : DatumGetInt64(step_id)
	};
}

static bool
DescribeCustomEvent(EventDescriber *describer, const LoggedEvent *event, EventDetails *details)
{
	Table	   *published = describer->published;
	TupleTableSlot *row = FindById(describer->published_by_id, event->id);
	Datum		name = CStringGetTextDatum(event->name);
	Payload		payload;

	if (row == NULL)
		return false;
	memset(payload.has, false, sizeof(payload.has));
	details->owner = OwnerOfPublished(published, row);
	details->occurred_at = DatumGetTimestampTz(RowColumn(published, row, PUBLISHED_AT, NULL));
	PutText(&payload, KEY_EVENT_TYPE, event->name);
	PutText(&payload, KEY_EVENT_KEY, EventKey(event));
	PutTime(&payload, KEY_TIMESTAMP, details->occurred_at);
	PutNull(&payload, KEY_TASK_ID);
	PutNull(&payload, KEY_STEP_ID);
	if (details->owner.task_id != 0)
		PutInteger(&payload, KEY_TASK_ID, details->owner.task_id);
	if (details->owner.step_id != 0)
		PutInteger(&payload, KEY_STEP_ID, details->owner.step_id);
	PutText(&payload, KEY_ROLE, TextDatumGetCString(RowColumn(published, row, PUBLISHED_ROLE, NULL)));
	details->payload = JsonbPGetDatum(DatumGetJsonbPCopy(RowColumn(published, row, PUBLISHED_PAYLOAD, NULL)));
	PutInteger(&payload, KEY_EVENT_VERSION, RunQuery(&READ_CUSTOM_VERSION, &name, NULL) == 0 ? 1 : RowInt32(0, 1));
	details->payload = DirectFunctionCall2(jsonb_concat, details->payload, JsonbPGetDatum(FormPayload(&payload)));
	return true;
}

/* ---------- asking ---------- */

void
FindEventOwner(EventDescriber *describer, const LoggedEvent *event, EventOwner *owner)
{
	TupleTableSlot *row;

	*owner = (EventOwner)
	{
		.task_id = event->kind == EVENT_OF_TASK ? event->id : 0,.step_id = event->kind == EVENT_OF_STEP ? event->id : 0
	};
	if (event->kind == EVENT_OF_STEP)
	{
		const MetStep *step = FindStep(describer, event->id);

		owner->task_id = step == NULL ? 0 : step->task_id;
	}
	else if (event->kind == EVENT_CUSTOM)
	{
		row = FindById(describer->published_by_id, event->id);
		if (row != NULL)
			*owner = OwnerOfPublished(describer->published, row);
	}
}

bool
DescribeEvent(EventDescriber *describer, const LoggedEvent *event, EventDetails *details)
{
	switch (event->kind)
	{
		case EVENT_OF_TASK:
			return DescribeTaskEvent(describer, event, details);
		case EVENT_OF_STEP:
			return DescribeStepEvent(describer, event, details);
		default:
			return DescribeCustomEvent(describer, event, details);
	}
}
