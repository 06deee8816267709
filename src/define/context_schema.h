/*
 * context_schema.h
 *		The JSON Schema that a template demands of the contexts of its tasks.
 */
#ifndef TASKER_CONTEXT_SCHEMA_H
#define TASKER_CONTEXT_SCHEMA_H

#include "tasker.h"

#include "define/template.h"
#include "utils/jsonb.h"

/*
 * The context with the defaults of the schema inserted; raises 22023 if it is
 * not valid.  The number tells requests of a batch apart, 0 if it is none.
 * Needs an open query scope.
 */
extern Jsonb *ConformContext(const Template *template, Jsonb *context, int number);

#endif							/* TASKER_CONTEXT_SCHEMA_H */
