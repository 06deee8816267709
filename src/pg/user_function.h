/*
 * user_function.h
 *		Calling the SQL functions of users, each as a role of its own.
 *
 * Such a function is named with its schema, takes one argument and returns one
 * value.  It runs with the privileges of the role alone and with search_path =
 * pg_catalog, pg_temp, so that nothing of the session that happens to call it
 * changes what it means.
 */
#ifndef TASKER_USER_FUNCTION_H
#define TASKER_USER_FUNCTION_H

#include "tasker.h"

/*
 * The function "schema.name" of this signature, as a role finds it.  Raises
 * 22023 where the name has no schema, 42883 where there is no such function,
 * 42809 where it does not return one value of the type, 42501 where the role
 * may not execute it, and 42704 where there is no such role any more.
 */
extern Oid	FindUserFunction(const char *name, Oid argument_type, Oid result_type, const char *role);

/*
 * Calls what FindUserFunction has found for the role; the result is in the
 * current memory context.  Raises what the function raises.
 */
extern Datum CallUserFunction(Oid function, const char *role, Datum argument, bool *is_null);

/*
 * Finds and calls a function in a subtransaction.  False after an error, of
 * which a copy goes to *error; everything that the function did is undone
 * then.  What cancels the statement or ends the session is raised all the
 * same; but in a background worker, where nobody cancels, a function that runs
 * for longer than a second has failed.
 */
extern bool TryUserFunction(const char *name, Oid argument_type, Oid result_type, const char *role,
							Datum argument, Datum *result, bool *is_null, ErrorData **error);

#endif							/* TASKER_USER_FUNCTION_H */
