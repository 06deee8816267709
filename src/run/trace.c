/*
 * trace.c
 *		What an executor tells those that it calls: the trace of the task, and
 *		the span of the attempt.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "define/access.h"
#include "fmgr.h"
#include "pg/query.h"
#include "utils/builtins.h"

static KeptQuery READ_TRACEPARENT = {
	.sql =
	"SELECT format('00-%s-%s-%s', tasker.trace_id(h.identifier, t.task_id, t.traceparent),"
	"              tasker.span_id(h.identifier, 'execution', $1, $2),"
	"              lpad(to_hex(tasker.trace_flags(t.traceparent)), 2, '0'))"
	"  FROM tasker.workflow_steps s"
	"  JOIN tasker.tasks t ON t.task_id = s.task_id"
	" CROSS JOIN tasker.home h"
	" WHERE s.workflow_step_id = $1",
	.nargs = 2,.types = {INT8OID, INT4OID}
};

PG_FUNCTION_INFO_V1(tasker_step_traceparent);

Datum
tasker_step_traceparent(PG_FUNCTION_ARGS)
{
	Datum		args[2] = {PG_GETARG_DATUM(0), PG_GETARG_DATUM(1)};
	int64		step_id = PG_GETARG_INT64(0);
	QueryScope	scope;
	char	   *traceparent;

	OpenReadingScope(&scope);
	RequireForStep(step_id, MAY_ANYTHING);
	if (RunQuery(&READ_TRACEPARENT, args, NULL) == 0)
		RefuseUnknown("step", step_id);
	traceparent = MemoryContextStrdup(scope.context, RowText(0, 1));
	CloseQueryScope(&scope);
	PG_RETURN_TEXT_P(cstring_to_text(traceparent));
}
