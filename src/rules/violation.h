/*
 * violation.h
 *		What in a jsonb value violates a JSON Schema.
 */
#ifndef TASKER_VIOLATION_H
#define TASKER_VIOLATION_H

#include "tasker.h"

#include "rules/json_schema.h"
#include "utils/jsonb.h"

typedef struct Violation
{
	char	   *path;			/* a JSON pointer; empty: the whole value */
	char	   *problem;
} Violation;

typedef struct Violations
{
	int			n;				/* JSON_MAX_PROBLEMS: there may be more */
	Violation  *list;			/* in the order of the text */
	Jsonb	   *with_defaults;	/* the value with defaults inserted; NULL: nothing was missing */
} Violations;

/*
 * Compiles a schema; it is freed with the memory context.  NULL where it is
 * none: refusal then says where and why.
 */
extern JsonSchema *CompileSchema(Jsonb *schema, MemoryContext owner, Violation *refusal);

/*
 * Validates a value, with the defaults inserted first if so wanted; what the
 * caller gave stays as it is.  Raises 54001 where schema or value reach too
 * deep, 54000 where a pattern is too costly.
 */
extern Violations *FindViolations(JsonSchema *schema, Jsonb *value, bool insert_defaults);

/* Returns violations as the rows (path, problem) of the function that is running. */
extern void ReturnViolations(FunctionCallInfo fcinfo, const Violations *violations);

#endif							/* TASKER_VIOLATION_H */
