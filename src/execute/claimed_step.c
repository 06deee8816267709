/*
 * claimed_step.c
 *		What an executor needs to run a step that it has claimed.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "define/ownership.h"
#include "execute/claimed_step.h"
#include "pg/table.h"
#include "rules/document.h"
#include "rules/traceparent.h"
#include "run/move.h"
#include "run/row.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"

/* What reading needs, and the task it met last: steps of one task often come together. */
typedef struct Reader
{
	Table	   *steps;
	Table	   *tasks;
	Lookup	   *step_by_id;
	Lookup	   *parent_by_named_step;
	Lookup	   *task_by_id;
	int64		task_id;		/* 0: none yet */
	int32		named_task_id;
	Datum		context;
	char	   *traceparent;	/* NULL: none */
} Reader;

static Reader
OpenReader(void)
{
	Reader		reader = {.steps = OpenTable(&STEPS),.tasks = OpenTable(&TASKS)};

	reader.step_by_id = LookupById(reader.steps);
	reader.parent_by_named_step = LookupByNamedStep(reader.steps);
	reader.task_by_id = LookupById(reader.tasks);
	return reader;
}

static void
CloseReader(Reader *reader)
{
	EndLookup(reader->step_by_id);
	EndLookup(reader->parent_by_named_step);
	EndLookup(reader->task_by_id);
}

/* The row with an id that must exist. */
static TupleTableSlot *
RowOfId(Lookup *by_id, const char *what, int64 id)
{
	Datum		key = Int64GetDatum(id);
	TupleTableSlot *row;

	LookFor(by_id, 1, &key);
	row = NextRow(by_id);
	if (row == NULL)
		elog(ERROR, "%s " INT64_FORMAT " is missing", what, id);
	return row;
}

static void
ReadTaskOf(Reader *reader, int64 task_id)
{
	TupleTableSlot *row;
	bool		untraced = true;
	Datum		traceparent = 0;

	if (reader->task_id == task_id)
		return;
	row = RowOfId(reader->task_by_id, "task", task_id);
	reader->named_task_id = ReadTaskRow(reader->tasks, row).named_task_id;
	reader->context = datumCopy(RowColumn(reader->tasks, row, TASK_CONTEXT, NULL), false, -1);
	if (HasColumn(reader->tasks, TASK_TRACEPARENT))
		traceparent = RowColumn(reader->tasks, row, TASK_TRACEPARENT, &untraced);
	reader->traceparent = untraced ? NULL : TextDatumGetCString(traceparent);
	reader->task_id = task_id;
}

static void
PushText(JsonbParseState **state, JsonbIteratorToken token, const char *text, JsonbValue **result)
{
	JsonbValue	value = {.type = jbvString};

	value.val.string.val = unconstify(char *, text);
	value.val.string.len = strlen(text);
	*result = pushJsonbValue(state, token, &value);
}

/* Pushes a jsonb, or null, as the value of the key pushed before. */
static void
PushJsonb(JsonbParseState **state, Jsonb *jsonb, JsonbValue **result)
{
	JsonbValue	value = {.type = jbvNull};

	if (jsonb != NULL && JB_ROOT_IS_SCALAR(jsonb))
		(void) JsonbExtractScalar(&jsonb->root, &value);
	else if (jsonb != NULL)
	{
		value.type = jbvBinary;
		value.val.binary.data = &jsonb->root;
		value.val.binary.len = VARSIZE(jsonb) - VARHDRSZ;
	}
	*result = pushJsonbValue(state, WJB_VALUE, &value);
}

/* {"parent": results, ...} of the direct parents; 0 where they are larger than that. */
static Datum
DependencyResults(Reader *reader, const StepTemplate *step_template, Size max_results)
{
	Size		bytes = 0;
	JsonbParseState *state = NULL;
	JsonbValue *object = pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);

	for (int p = 0; p < step_template->n_parents; p++)
	{
		int32		parent = step_template->parents[p];
		Datum		key[] = {Int64GetDatum(reader->task_id), Int32GetDatum(parent)};
		TupleTableSlot *row;
		bool		none;
		Datum		results;

		LookFor(reader->parent_by_named_step, 2, key);
		row = NextRow(reader->parent_by_named_step);
		if (row == NULL)
			continue;
		results = RowColumn(reader->steps, row, STEP_RESULTS, &none);
		bytes += none ? 0 : DocumentBytes(results);
		if (bytes > max_results)
			return 0;
		PushText(&state, WJB_KEY, GetStepTemplate(reader->named_task_id, parent)->step_name, &object);
		/* A copy: what is pushed is read at the end, when the row is gone. */
		PushJsonb(&state, none ? NULL : DatumGetJsonbPCopy(results), &object);
	}
	object = pushJsonbValue(&state, WJB_END_OBJECT, NULL);
	return JsonbPGetDatum(JsonbValueToJsonb(object));
}

static ClaimedStep
ReadClaimedStep(Reader *reader, int64 step_id, Datum no_parents, Size max_results)
{
	TupleTableSlot *row = RowOfId(reader->step_by_id, "step", step_id);
	StepRow		step = ReadStepRow(reader->steps, row);
	const StepTemplate *step_template;
	bool		no_inputs;
	Datum		inputs = RowColumn(reader->steps, row, STEP_INPUTS, &no_inputs);

	ReadTaskOf(reader, step.task_id);
	step_template = GetStepTemplate(reader->named_task_id, step.named_step_id);
	return (ClaimedStep)
	{
		.step_id = step_id,
			.claim = step.sort_key,
			.attempt = step.attempts,
			.task_id = step.task_id,
			.executor_id = step.executor_id,
			.step_template = step_template,
			.inputs = no_inputs ? reader->context :
			DirectFunctionCall2(jsonb_concat, reader->context, inputs),
			.dependency_results = step.is_root ? no_parents :
			DependencyResults(reader, step_template, max_results),
			.traceparent = reader->traceparent == NULL ? NULL :
			ExecutionTraceparent(reader->traceparent, HomeIdentifier(), step_id, step.sort_key),
	};
}

ClaimedStep *
ReadClaimedSteps(const int64 *step_ids, int n, Size max_results)
{
	ClaimedStep *steps = palloc(sizeof(ClaimedStep) * Max(n, 1));
	Datum		no_parents;
	Reader		reader;

	if (n == 0)
		return steps;
	no_parents = JsonbOfText("{}");
	RefreshStepTemplates();
	BeginAccess();
	reader = OpenReader();
	for (int i = 0; i < n; i++)
		steps[i] = ReadClaimedStep(&reader, step_ids[i], no_parents, max_results);
	CloseReader(&reader);
	EndAccess();
	return steps;
}

HeapTuple
FormClaimedStep(TupleDesc row_type, const ClaimedStep *step)
{
	const StepTemplate *step_template = step->step_template;
	bool		nulls[10] = {[9] = step->dependency_results == 0};
	Datum		values[10] = {
		Int64GetDatum(step->step_id), Int32GetDatum(step->claim),
		Int32GetDatum(step->attempt), Int64GetDatum(step->task_id),
		CStringGetTextDatum(step_template->task_name), CStringGetTextDatum(step_template->step_name),
		CStringGetTextDatum(step_template->handler), step_template->handler_config,
		step->inputs, step->dependency_results
	};

	return heap_form_tuple(row_type, values, nulls);
}
