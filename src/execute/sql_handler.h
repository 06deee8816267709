/*
 * sql_handler.h
 *		Steps whose handler is a SQL function, run in the session.
 *
 * handler_class of such a step is the function's name with its schema; it
 * takes a tasker.claimed_step, returns the results as jsonb, and runs as the
 * owner of the template.  What it raises is the failure of the attempt: TK005
 * says that no retry can help, TK006 with a number of seconds as its detail
 * when to try again.
 */
#ifndef TASKER_SQL_HANDLER_H
#define TASKER_SQL_HANDLER_H

#include "tasker.h"

#include "rules/state.h"

/*
 * Claims a step, runs its handler and reports the outcome, which is returned:
 * complete or error; STATE_NONE where the step may not run now.  The effects
 * of a handler that fails are undone.  Raises 22023 where the handler is no
 * such function, and what cancels the session.  The caller has no query scope open:
 * the handler may call functions of tasker.
 */
extern TaskerState ExecuteStep(int64 step_id);

#endif							/* TASKER_SQL_HANDLER_H */
