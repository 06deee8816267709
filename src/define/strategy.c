/*
 * strategy.c
 *		What a template may replace of the engine.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "define/strategy.h"
#include "pg/user_function.h"
#include "utils/builtins.h"

#define MAX_BUILTINS 4

typedef struct RoleOfStrategy
{
	const char *key;
	Oid			result_type;
	const char *builtins[MAX_BUILTINS]; /* the default first; NULL: no more */
} RoleOfStrategy;

static const RoleOfStrategy roles[STRATEGY_ROLES] = {
	[STRATEGY_COORDINATOR] = {"coordinator_strategy", VOIDOID, {"orchestrator", "synchronous"}},
	[STRATEGY_REENQUEUER] = {"reenqueuer_strategy", INTERVALOID, {"event_driven", "delayed"}},
	[STRATEGY_IDENTITY] = {"identity_strategy", TEXTOID, {"default", "hash"}},
	[STRATEGY_BACKOFF] = {"backoff_strategy", INTERVALOID, {"exponential", "linear", "constant"}},
};

const char *
StrategyKey(StrategyRole role)
{
	return roles[role].key;
}

const char *
DefaultStrategy(StrategyRole role)
{
	return roles[role].builtins[0];
}

bool
IsBuiltinStrategy(StrategyRole role, const char *strategy)
{
	for (int i = 0; i < MAX_BUILTINS && roles[role].builtins[i] != NULL; i++)
	{
		if (strcmp(roles[role].builtins[i], strategy) == 0)
			return true;
	}
	return false;
}

static char *
ListBuiltins(StrategyRole role)
{
	char	   *list = psprintf("\"%s\"", roles[role].builtins[0]);

	for (int i = 1; i < MAX_BUILTINS && roles[role].builtins[i] != NULL; i++)
		list = psprintf("%s, \"%s\"", list, roles[role].builtins[i]);
	return list;
}

void
CheckStrategy(StrategyRole role, const char *strategy, const char *owner, const char *template_name)
{
	if (IsBuiltinStrategy(role, strategy))
		return;
	if (strchr(strategy, '.') == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("template \"%s\" is invalid: there is no \"%s\" of the name \"%s\"",
						template_name, roles[role].key, strategy),
				 errhint("Built in are %s; a function is named with its schema, takes a jsonb and returns %s.",
						 ListBuiltins(role), format_type_be(roles[role].result_type))));
	(void) FindUserFunction(strategy, JSONBOID, roles[role].result_type, owner);
}

Datum
CallStrategy(StrategyRole role, const char *strategy, const char *owner, Datum argument, bool *is_null)
{
	return CallUserFunction(FindUserFunction(strategy, JSONBOID, roles[role].result_type, owner),
							owner, argument, is_null);
}

bool
TryStrategy(StrategyRole role, const char *strategy, const char *owner, Datum argument,
			const char *instead, Datum *result, bool *is_null)
{
	ErrorData  *error;

	if (TryUserFunction(strategy, JSONBOID, roles[role].result_type, owner, argument, result, is_null, &error))
		return true;
	ereport(WARNING,
			(errcode(error->sqlerrcode),
			 errmsg("\"%s\" %s failed: %s", roles[role].key, strategy, error->message),
			 errdetail("It ran as role \"%s\". %s", owner, instead)));
	FreeErrorData(error);
	return false;
}
