/*
 * environment.h
 *		What a template says differently for one environment.
 */
#ifndef TASKER_ENVIRONMENT_H
#define TASKER_ENVIRONMENT_H

#include "tasker.h"

#include "rules/document.h"

/*
 * The document with the overrides of an environment merged in and without its
 * environments: objects are merged key by key, steps by their name, anything
 * else is replaced.  The document itself is valid; complaints about the
 * overrides go to the reader.  Whether the result is valid is not looked at.
 */
extern Jsonb *MergeEnvironment(const DocumentReader *reader, JsonbContainer *document,
							   JsonbContainer *overrides);

#endif							/* TASKER_ENVIRONMENT_H */
