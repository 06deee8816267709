/*
 * state.c
 *		The constant tables of states and transitions.
 */
#include "postgres.h"

#include "catalog/pg_enum.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "rules/state.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"

static const char *const state_labels[] = {
	[STATE_NONE] = "none",
	[STATE_PENDING] = "pending",
	[STATE_IN_PROGRESS] = "in_progress",
	[STATE_COMPLETE] = "complete",
	[STATE_ERROR] = "error",
	[STATE_CANCELLED] = "cancelled",
	[STATE_RESOLVED_MANUALLY] = "resolved_manually",
};

const LegalTransition LegalTransitions[] = {
	{OWNER_TASK, STATE_NONE, STATE_PENDING, "task.initialize_requested"},
	{OWNER_TASK, STATE_PENDING, STATE_IN_PROGRESS, "task.start_requested"},
	{OWNER_TASK, STATE_PENDING, STATE_CANCELLED, "task.cancelled"},
	{OWNER_TASK, STATE_PENDING, STATE_ERROR, "task.failed"},
	{OWNER_TASK, STATE_IN_PROGRESS, STATE_COMPLETE, "task.completed"},
	{OWNER_TASK, STATE_IN_PROGRESS, STATE_ERROR, "task.failed"},
	{OWNER_TASK, STATE_IN_PROGRESS, STATE_CANCELLED, "task.cancelled"},
	{OWNER_TASK, STATE_IN_PROGRESS, STATE_PENDING, "task.initialize_requested"},
	{OWNER_TASK, STATE_ERROR, STATE_PENDING, "task.retry_requested"},
	{OWNER_TASK, STATE_ERROR, STATE_RESOLVED_MANUALLY, "task.resolved_manually"},
	{OWNER_TASK, STATE_COMPLETE, STATE_CANCELLED, "task.cancelled"},
	{OWNER_TASK, STATE_RESOLVED_MANUALLY, STATE_CANCELLED, "task.cancelled"},

	{OWNER_STEP, STATE_PENDING, STATE_IN_PROGRESS, "step.execution_requested"},
	{OWNER_STEP, STATE_PENDING, STATE_ERROR, "step.failed"},
	{OWNER_STEP, STATE_PENDING, STATE_CANCELLED, "step.cancelled"},
	{OWNER_STEP, STATE_PENDING, STATE_RESOLVED_MANUALLY, "step.resolved_manually"},
	{OWNER_STEP, STATE_IN_PROGRESS, STATE_COMPLETE, "step.completed"},
	{OWNER_STEP, STATE_IN_PROGRESS, STATE_ERROR, "step.failed"},
	{OWNER_STEP, STATE_IN_PROGRESS, STATE_CANCELLED, "step.cancelled"},
	{OWNER_STEP, STATE_IN_PROGRESS, STATE_PENDING, "step.released"},
	{OWNER_STEP, STATE_ERROR, STATE_PENDING, "step.retry_requested"},
	{OWNER_STEP, STATE_ERROR, STATE_RESOLVED_MANUALLY, "step.resolved_manually"},
};

const int	LegalTransitionCount = lengthof(LegalTransitions);

const char *
StateLabel(TaskerState state)
{
	return state_labels[state];
}

TaskerState
StateOfLabel(const char *label)
{
	for (int state = STATE_PENDING; state < lengthof(state_labels); state++)
	{
		if (strcmp(label, state_labels[state]) == 0)
			return state;
	}
	return STATE_NONE;
}

const char *
OwnerLabel(StateOwner owner)
{
	return owner == OWNER_TASK ? "task" : "step";
}

bool
IsLegalTransition(StateOwner owner, TaskerState from, TaskerState to)
{
	for (int i = 0; i < LegalTransitionCount; i++)
	{
		const LegalTransition *legal = &LegalTransitions[i];

		if (legal->owner == owner && legal->from == from && legal->to == to)
			return true;
	}
	return false;
}

bool
EndsTask(TaskerState state)
{
	return state != STATE_NONE && state != STATE_PENDING && state != STATE_IN_PROGRESS;
}

bool
SatisfiesDependents(TaskerState state)
{
	return state == STATE_COMPLETE || state == STATE_RESOLVED_MANUALLY;
}

char *
NextStates(StateOwner owner, TaskerState from)
{
	StringInfoData list;

	initStringInfo(&list);
	for (int i = 0; i < LegalTransitionCount; i++)
	{
		if (LegalTransitions[i].owner == owner && LegalTransitions[i].from == from)
			appendStringInfo(&list, "%s\"%s\"", list.len > 0 ? ", " : "",
							 StateLabel(LegalTransitions[i].to));
	}
	return list.len > 0 ? list.data : pstrdup("none");
}

PG_FUNCTION_INFO_V1(tasker_legal_transitions);

Datum
tasker_legal_transitions(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	Oid			state_type;

	InitMaterializedSRF(fcinfo, 0);
	state_type = TupleDescAttr(result->setDesc, 1)->atttypid;
	for (int i = 0; i < LegalTransitionCount; i++)
	{
		const LegalTransition *legal = &LegalTransitions[i];
		Datum		values[4] = {0};
		bool		nulls[4] = {false};

		values[0] = CStringGetTextDatum(OwnerLabel(legal->owner));
		if (legal->from == STATE_NONE)
			nulls[1] = true;
		else
			values[1] = DirectFunctionCall2(enum_in, CStringGetDatum(StateLabel(legal->from)),
											ObjectIdGetDatum(state_type));
		values[2] = DirectFunctionCall2(enum_in, CStringGetDatum(StateLabel(legal->to)),
										ObjectIdGetDatum(state_type));
		values[3] = CStringGetTextDatum(legal->event);
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* The state of an enum argument; STATE_NONE for NULL. */
static TaskerState
StateArgument(FunctionCallInfo fcinfo, int number)
{
	if (PG_ARGISNULL(number))
		return STATE_NONE;
	return StateOfLabel(DatumGetCString(DirectFunctionCall1(enum_out, PG_GETARG_DATUM(number))));
}

PG_FUNCTION_INFO_V1(tasker_transition_event);

Datum
tasker_transition_event(PG_FUNCTION_ARGS)
{
	TaskerState from = StateArgument(fcinfo, 1);
	TaskerState to = StateArgument(fcinfo, 2);
	char	   *owner = PG_ARGISNULL(0) ? "" : text_to_cstring(PG_GETARG_TEXT_PP(0));

	for (int i = 0; i < LegalTransitionCount; i++)
	{
		const LegalTransition *legal = &LegalTransitions[i];

		if (legal->from == from && legal->to == to && strcmp(OwnerLabel(legal->owner), owner) == 0)
			PG_RETURN_TEXT_P(cstring_to_text(legal->event));
	}
	PG_RETURN_NULL();
}
