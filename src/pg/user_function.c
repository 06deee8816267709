/*
 * user_function.c
 *		Calling the SQL functions of users, each as a role of its own.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_proc.h"
#include "miscadmin.h"
#include "parser/parse_func.h"
#include "pg/user_function.h"
#include "storage/proc.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timeout.h"

/* How long a function may keep a background worker from its work. */
#define WORKER_PATIENCE_MS 1000

/* ---------- finding ---------- */

/* Raises 42809 unless it is a plain function that returns one value of the type. */
static void
CheckReturns(Oid function, const char *name, Oid result_type)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	Form_pg_proc form;
	bool		fits;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", function);
	form = (Form_pg_proc) GETSTRUCT(tuple);
	fits = form->prokind == PROKIND_FUNCTION && !form->proretset && form->prorettype == result_type;
	ReleaseSysCache(tuple);
	if (!fits)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("%s must be a function that returns one %s", name, format_type_be(result_type))));
}

static void
CheckMayExecute(Oid function, const char *role)
{
	if (object_aclcheck(ProcedureRelationId, function, get_role_oid(role, false), ACL_EXECUTE) != ACLCHECK_OK)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("role \"%s\" may not execute function %s", role, format_procedure(function))));
}

Oid
FindUserFunction(const char *name, Oid argument_type, Oid result_type, const char *role)
{
	List	   *names = stringToQualifiedNameList(name, NULL);
	Oid			caller;
	int			security_context;
	Oid			function;

	if (list_length(names) != 2)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" does not name a function with its schema", name),
				 errhint("Write it as schema.function, without arguments.")));
	/* Who is not let into a schema does not learn what is there. */
	GetUserIdAndSecContext(&caller, &security_context);
	SetUserIdAndSecContext(get_role_oid(role, false), security_context | SECURITY_LOCAL_USERID_CHANGE);
	function = LookupFuncName(names, 1, &argument_type, true);
	SetUserIdAndSecContext(caller, security_context);
	if (!OidIsValid(function))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("function %s(%s) does not exist", name, format_type_be(argument_type))));
	CheckReturns(function, name, result_type);
	CheckMayExecute(function, role);
	return function;
}

/* ---------- calling ---------- */

/* The value that the function returns, in its own memory context. */
static Datum
Call(Oid function, Datum argument, bool *is_null)
{
	LOCAL_FCINFO(fcinfo, 1);
	FmgrInfo	info;
	Datum		result;

	fmgr_info(function, &info);
	InitFunctionCallInfoData(*fcinfo, &info, 1, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = argument;
	fcinfo->args[0].isnull = false;
	result = FunctionCallInvoke(fcinfo);
	*is_null = fcinfo->isnull;
	return result;
}

Datum
CallUserFunction(Oid function, const char *role, Datum argument, bool *is_null)
{
	Oid			role_id = get_role_oid(role, false);
	Oid			caller;
	int			security_context;
	int			guc_level;
	Datum		result;

	GetUserIdAndSecContext(&caller, &security_context);
	/* What it leaves behind for later, a trigger or a cursor, would run as somebody else. */
	SetUserIdAndSecContext(role_id, security_context | SECURITY_LOCAL_USERID_CHANGE |
						   (role_id == caller ? 0 : SECURITY_RESTRICTED_OPERATION));
	guc_level = NewGUCNestLevel();
	(void) set_config_option("search_path", "pg_catalog, pg_temp",
							 PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	result = Call(function, argument, is_null);
	AtEOXact_GUC(true, guc_level);
	SetUserIdAndSecContext(caller, security_context);
	return result;
}

static bool
IsCancellation(const ErrorData *error)
{
	return error->sqlerrcode == ERRCODE_QUERY_CANCELED || error->sqlerrcode == ERRCODE_ADMIN_SHUTDOWN ||
		error->sqlerrcode == ERRCODE_CRASH_SHUTDOWN;
}

bool
TryUserFunction(const char *name, Oid argument_type, Oid result_type, const char *role,
				Datum argument, Datum *result, bool *is_null, ErrorData **error)
{
	MemoryContext caller = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	bool		limited = MyBackendType == B_BG_WORKER && !get_timeout_active(STATEMENT_TIMEOUT);
	volatile bool done = false;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(caller);
	PG_TRY();
	{
		bool		pushed = !ActiveSnapshotSet();

		if (pushed)
			PushActiveSnapshot(GetTransactionSnapshot());
		if (limited)
			enable_timeout_after(STATEMENT_TIMEOUT, WORKER_PATIENCE_MS);
		*result = CallUserFunction(FindUserFunction(name, argument_type, result_type, role), role, argument, is_null);
		if (limited)
			disable_timeout(STATEMENT_TIMEOUT, false);
		if (pushed)
			PopActiveSnapshot();
		ReleaseCurrentSubTransaction();
		done = true;
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(caller);
		*error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	if (limited)
		disable_timeout(STATEMENT_TIMEOUT, false);
	MemoryContextSwitchTo(caller);
	CurrentResourceOwner = owner;
	if (!done && IsCancellation(*error) && !(limited && (*error)->sqlerrcode == ERRCODE_QUERY_CANCELED))
		ReThrowError(*error);
	return done;
}
