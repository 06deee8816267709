/*
 * grant.c
 *		Giving capabilities to roles, and taking them.
 *
 * Who may is decided here, where the caller is known; the rest is SQL that
 * runs as the owner of the extension.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "define/access.h"
#include "define/ownership.h"
#include "execute/pause.h"
#include "miscadmin.h"
#include "pg/catalog.h"
#include "pg/low_water.h"
#include "pg/query.h"
#include "pg/waiters.h"
#include "pg/wakeup.h"
#include "utils/acl.h"
#include "utils/builtins.h"

static KeptQuery WOULD_CONFINE = {
	.sql = "SELECT tasker.would_confine($1)",
	.nargs = 1,.types = {TEXTOID}
};

static KeptQuery WRITE_GRANT = {
	.sql = "SELECT tasker.write_grant($1, $2, $3, $4, $5)",
	.nargs = 5,.types = {TEXTOID, TEXTOID, TEXTOID, TEXTOID, BOOLOID}
};

static KeptQuery WRITE_REVOCATION = {
	.sql = "SELECT tasker.write_revocation($1, $2, $3)",
	.nargs = 3,.types = {TEXTOID, TEXTOID, TEXTOID}
};

static KeptQuery REFRESH_EXECUTORS = {.sql = "SELECT tasker.refresh_executors()",.nargs = 0};

static bool
CallerOwnsExtension(void)
{
	return has_privs_of_role(QueryCaller(), ExtensionOwner());
}

/* Raises 42501 unless the caller may give and take in the namespace; NULL: in all of them. */
static void
RequireGrantor(const char *namespace_name)
{
	if (CallerOwnsExtension())
		return;
	if (RoleIsConfined(QueryCaller()) &&
		(namespace_name ? RoleMayByName(QueryCaller(), namespace_name, MAY_ADMINISTER) :
		 RoleMayEverywhere(QueryCaller(), MAY_ADMINISTER)))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 namespace_name ?
			 errmsg("role \"%s\" may not grant or revoke in namespace \"%s\"",
					GetUserNameFromId(QueryCaller(), false), namespace_name) :
			 errmsg("role \"%s\" may not grant or revoke in all namespaces", GetUserNameFromId(QueryCaller(), false)),
			 errhint("The owner of the extension may, and admins in their namespaces.")));
}

/* A first grant confines: whoever is no owner could lock others out by it. */
static void
CheckGrantee(const char *role_name)
{
	Datum		arg = CStringGetTextDatum(role_name);

	(void) get_role_oid(role_name, false);
	if (CallerOwnsExtension())
		return;
	(void) RunQuery(&WOULD_CONFINE, &arg, NULL);
	if (RowBool(0, 1))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("only the owner of the extension may confine role \"%s\"", role_name),
				 errdetail("It, or a member of it, works with tasker and is not confined yet.")));
}

static char *
TextOrNull(FunctionCallInfo fcinfo, int number)
{
	return PG_NARGS() <= number || PG_ARGISNULL(number) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(number));
}

static char *
RoleArgument(FunctionCallInfo fcinfo)
{
	char	   *role_name = TextOrNull(fcinfo, 0);

	if (role_name == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("role_name must not be null")));
	return role_name;
}

/* Every session sees the change, and executors serve what they may now. */
static void
FollowGrants(void)
{
	InvalidateDefinitions();
	(void) RunPlainQuery(&REFRESH_EXECUTORS);
	ResetLowWaterMarksAtCommit();
}

static Datum
Grant(FunctionCallInfo fcinfo, const char *capability)
{
	char	   *role_name = RoleArgument(fcinfo);
	char	   *namespace_name = TextOrNull(fcinfo, 1);
	QueryScope	scope;
	Datum		args[5] = {CStringGetTextDatum(role_name), CStringGetTextDatum(capability),
	namespace_name ? CStringGetTextDatum(namespace_name) : 0};
	char		nulls[6] = {' ', ' ', namespace_name ? ' ' : 'n', ' ', ' ', '\0'};

	OpenQueryScope(&scope);
	RequireGrantor(namespace_name);
	CheckGrantee(role_name);
	args[3] = QueryCallerName();
	args[4] = BoolGetDatum(CallerOwnsExtension() || RoleMayEverywhere(QueryCaller(), MAY_ADMINISTER));
	LockOrchestration();
	EnsureCheckpoint();
	(void) RunQuery(&WRITE_GRANT, args, nulls);
	FollowGrants();
	CloseQueryScope(&scope);
	WakeForExecutorsAtCommit();
	NoteEveryoneLooksAgain();
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(tasker_grant_observer);
PG_FUNCTION_INFO_V1(tasker_grant_producer);
PG_FUNCTION_INFO_V1(tasker_grant_executor);
PG_FUNCTION_INFO_V1(tasker_grant_operator);
PG_FUNCTION_INFO_V1(tasker_grant_admin);
PG_FUNCTION_INFO_V1(tasker_revoke_role);

Datum
tasker_grant_observer(PG_FUNCTION_ARGS)
{
	return Grant(fcinfo, "observer");
}

Datum
tasker_grant_producer(PG_FUNCTION_ARGS)
{
	return Grant(fcinfo, "producer");
}

Datum
tasker_grant_executor(PG_FUNCTION_ARGS)
{
	return Grant(fcinfo, "executor");
}

Datum
tasker_grant_operator(PG_FUNCTION_ARGS)
{
	return Grant(fcinfo, "operator");
}

Datum
tasker_grant_admin(PG_FUNCTION_ARGS)
{
	return Grant(fcinfo, "admin");
}

Datum
tasker_revoke_role(PG_FUNCTION_ARGS)
{
	char	   *role_name = RoleArgument(fcinfo);
	char	   *capability = TextOrNull(fcinfo, 1);
	char	   *namespace_name = TextOrNull(fcinfo, 2);
	QueryScope	scope;
	Datum		args[3] = {CStringGetTextDatum(role_name), capability ? CStringGetTextDatum(capability) : 0,
	namespace_name ? CStringGetTextDatum(namespace_name) : 0};
	char		nulls[4] = {' ', capability ? ' ' : 'n', namespace_name ? ' ' : 'n', '\0'};
	int32		revoked;

	if (capability != NULL && !IsCapability(capability))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("capability \"%s\" is unknown", capability),
				 errhint("There are observer, producer, executor, operator and admin.")));
	OpenQueryScope(&scope);
	RequireGrantor(namespace_name);
	LockOrchestration();
	(void) RunQuery(&WRITE_REVOCATION, args, nulls);
	revoked = RowInt32(0, 1);
	FollowGrants();
	CloseQueryScope(&scope);
	WakeForExecutorsAtCommit();
	NoteEveryoneLooksAgain();
	PG_RETURN_INT32(revoked);
}
