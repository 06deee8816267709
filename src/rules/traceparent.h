/*
 * traceparent.h
 *		The header of W3C Trace Context that says which trace a call belongs to,
 *		and which span of it has made it. Pure.
 */
#ifndef TASKER_TRACEPARENT_H
#define TASKER_TRACEPARENT_H

#include "tasker.h"

/*
 * A text as a traceparent of version 00: trace id, span id and flags in
 * lower-case hexadecimal digits, neither id all zeros.  Of a later version, as
 * the standard wants it, what version 00 has, too.  NULL where it is none.
 */
extern char *ReadTraceparent(const char *text);

/*
 * What an executor hands on: of the traceparent of the task, the trace and the
 * flags; of the claim, the span.  home is the identifier of the database.
 */
extern char *ExecutionTraceparent(const char *of_task, int64 home, int64 step_id, int32 claim);

#endif							/* TASKER_TRACEPARENT_H */
