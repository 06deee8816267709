/*
 * strategy.h
 *		What a template may replace of the engine: a built-in by its name, or a
 *		SQL function of the template's owner.
 *
 * A strategy function takes one jsonb, which says what is to be decided, and
 * returns the type of its role.  It is named with its schema and runs as the
 * role that registered the template, see pg/user_function.h.  A built-in has
 * no schema in its name, so the two cannot be mixed up.
 */
#ifndef TASKER_STRATEGY_H
#define TASKER_STRATEGY_H

#include "tasker.h"

typedef enum StrategyRole
{
	STRATEGY_COORDINATOR,		/* void: runs the steps of a task */
	STRATEGY_REENQUEUER,		/* interval: when to look at a task again; NULL: not by time */
	STRATEGY_IDENTITY,			/* text: the identity key of a request; NULL: none */
	STRATEGY_BACKOFF			/* interval: until the next attempt; NULL: as the built-in has it */
} StrategyRole;

#define STRATEGY_ROLES 4

/* The key of a template that names the strategy; the column has the same name. */
extern const char *StrategyKey(StrategyRole role);

/* The built-in that is meant where a template names none. */
extern const char *DefaultStrategy(StrategyRole role);

extern bool IsBuiltinStrategy(StrategyRole role, const char *strategy);

/*
 * Raises 22023 unless the strategy has the name of a built-in or of a
 * function; of a function also what FindUserFunction raises for the owner.
 */
extern void CheckStrategy(StrategyRole role, const char *strategy, const char *owner, const char *template_name);

/*
 * Calls a strategy function as the owner of the template.  argument is a
 * jsonb; the result is in the current memory context.  Raises what
 * FindUserFunction and CallUserFunction raise.
 */
extern Datum CallStrategy(StrategyRole role, const char *strategy, const char *owner,
						  Datum argument, bool *is_null);

/*
 * As CallStrategy; but false after an error, of which a WARNING tells and says
 * what happens instead.
 */
extern bool TryStrategy(StrategyRole role, const char *strategy, const char *owner, Datum argument,
						const char *instead, Datum *result, bool *is_null);

#endif							/* TASKER_STRATEGY_H */
