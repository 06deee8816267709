/*
 * query.c
 *		Running our own SQL: kept generic plans under pinned circumstances.
 *
 * The planner's switches are plain variables that are saved and overwritten
 * for the time of a scope.  Setting them through the GUC machinery would cost
 * more than some of the statements; what that machinery gives, the way back
 * after an error, two transaction callbacks give here.  They must be in force
 * at each execution, not only when a plan is made: analyze of a table makes
 * the plan cache plan again.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "jit/jit.h"
#include "miscadmin.h"
#include "optimizer/cost.h"
#include "optimizer/paths.h"
#include "optimizer/planmain.h"
#include "pg/catalog.h"
#include "pg/query.h"
#include "pg/table.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"

typedef struct PlannerSettings
{
	bool		seqscan;
	bool		indexscan;
	bool		indexonlyscan;
	bool		nestloop;
	bool		bitmapscan;
	bool		hashjoin;
	bool		mergejoin;
	bool		material;
	bool		memoize;
	bool		hashagg;
	bool		jit;
	int			join_collapse_limit;
} PlannerSettings;

static PlannerSettings saved_settings;
static bool settings_pinned = false;
static int	pinned_at_level = 0;
static Oid	scope_caller = InvalidOid;

static void
PinPlanner(void)
{
	saved_settings = (PlannerSettings)
	{
		.seqscan = enable_seqscan,
		.indexscan = enable_indexscan,
		.indexonlyscan = enable_indexonlyscan,
		.nestloop = enable_nestloop,
		.bitmapscan = enable_bitmapscan,
		.hashjoin = enable_hashjoin,
		.mergejoin = enable_mergejoin,
		.material = enable_material,
		.memoize = enable_memoize,
		.hashagg = enable_hashagg,
		.jit = jit_enabled,
		.join_collapse_limit = join_collapse_limit,
	};
	enable_indexscan = enable_indexonlyscan = enable_nestloop = true;
	enable_seqscan = enable_bitmapscan = false;
	enable_hashjoin = enable_mergejoin = false;
	enable_material = enable_memoize = enable_hashagg = false;
	jit_enabled = false;
	join_collapse_limit = 1;	/* joins are written in the order to run them */
	settings_pinned = true;
	pinned_at_level = GetCurrentTransactionNestLevel();
}

static void
UnpinPlanner(void)
{
	if (!settings_pinned)
		return;
	enable_seqscan = saved_settings.seqscan;
	enable_indexscan = saved_settings.indexscan;
	enable_indexonlyscan = saved_settings.indexonlyscan;
	enable_nestloop = saved_settings.nestloop;
	enable_bitmapscan = saved_settings.bitmapscan;
	enable_hashjoin = saved_settings.hashjoin;
	enable_mergejoin = saved_settings.mergejoin;
	enable_material = saved_settings.material;
	enable_memoize = saved_settings.memoize;
	enable_hashagg = saved_settings.hashagg;
	jit_enabled = saved_settings.jit;
	join_collapse_limit = saved_settings.join_collapse_limit;
	settings_pinned = false;
	ForgetTables();
}

static void
UnpinAtTransactionEnd(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_ABORT || event == XACT_EVENT_COMMIT)
		UnpinPlanner();
}

static void
UnpinAtSubtransactionAbort(SubXactEvent event, SubTransactionId mine,
						   SubTransactionId parent, void *arg)
{
	/* A subtransaction inside the scope (a trigger's) leaves the scope open. */
	if (event == SUBXACT_EVENT_ABORT_SUB && settings_pinned &&
		GetCurrentTransactionNestLevel() <= pinned_at_level)
		UnpinPlanner();
}

void
InitQueries(void)
{
	RegisterXactCallback(UnpinAtTransactionEnd, NULL);
	RegisterSubXactCallback(UnpinAtSubtransactionAbort, NULL);
}

/* At the door, whatever the function would have come to: some would find nothing to write. */
static void
RefuseReadOnly(void)
{
	if (!XactReadOnly)
		return;
	if (RecoveryInProgress())
		ereport(ERROR,
				(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
				 errmsg("tasker changes nothing on a standby"),
				 errhint("Call the function on the primary server.")));
	ereport(ERROR,
			(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
			 errmsg("tasker changes nothing in a read-only transaction"),
			 errhint("Begin the transaction READ WRITE.")));
}

void
OpenQueryScope(QueryScope *scope)
{
	RefuseReadOnly();
	OpenReadingScope(scope);
}

void
OpenReadingScope(QueryScope *scope)
{
	Oid			owner = ExtensionOwner();

	if (settings_pinned)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("tasker functions cannot be called from within each other"),
				 errhint("Strategies, and triggers on tables of tasker, may read; what they want done somebody must do afterwards.")));
	scope->context = CurrentMemoryContext;
	GetUserIdAndSecContext(&scope->caller, &scope->security_context);
	scope_caller = scope->caller;
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "could not connect to the SPI manager");
	SetUserIdAndSecContext(owner, scope->security_context | SECURITY_LOCAL_USERID_CHANGE);
	scope->guc_level = NewGUCNestLevel();
	(void) set_config_option("search_path", "pg_catalog, pg_temp",
							 PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	PinPlanner();
}

void
CloseQueryScope(QueryScope *scope)
{
	CloseTables();
	UnpinPlanner();
	AtEOXact_GUC(true, scope->guc_level);
	SetUserIdAndSecContext(scope->caller, scope->security_context);
	if (SPI_finish() != SPI_OK_FINISH)
		elog(ERROR, "could not disconnect from the SPI manager");
}

Oid
QueryCaller(void)
{
	return scope_caller;
}

Datum
QueryCallerName(void)
{
	return CStringGetTextDatum(GetUserNameFromId(scope_caller, false));
}

uint64
RunQuery(KeptQuery *query, const Datum *values, const char *nulls)
{
	MemoryContext caller = CurrentMemoryContext;
	int			result;

	if (query->plan == NULL)
	{
		SPIPlanPtr	plan = SPI_prepare_cursor(query->sql, query->nargs, query->types,
											  CURSOR_OPT_GENERIC_PLAN);

		if (plan == NULL)
			elog(ERROR, "could not prepare \"%s\": %s", query->sql,
				 SPI_result_code_string(SPI_result));
		if (SPI_keepplan(plan) != 0)
			elog(ERROR, "could not keep the plan of \"%s\"", query->sql);
		query->plan = plan;
	}
	if (SPI_tuptable != NULL)
		SPI_freetuptable(SPI_tuptable);
	result = SPI_execute_plan(query->plan, unconstify(Datum *, values), nulls, false, 0);
	/* SPI leaves its own context behind; the caller means the one it has chosen. */
	MemoryContextSwitchTo(caller);
	if (result < 0)
		elog(ERROR, "could not run \"%s\": %s", query->sql, SPI_result_code_string(result));
	return SPI_processed;
}

uint64
RunPlainQuery(KeptQuery *query)
{
	return RunQuery(query, NULL, NULL);
}

void
ReturnQueryRows(FunctionCallInfo fcinfo)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;

	for (uint64 row = 0; row < SPI_processed; row++)
		tuplestore_puttuple(result->setResult, SPI_tuptable->vals[row]);
}

Datum
RowDatum(uint64 row, int column, bool *is_null)
{
	bool		null;
	Datum		value;

	if (row >= SPI_processed)
		elog(ERROR, "row " UINT64_FORMAT " is missing from a query of tasker", row);
	value = SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column, &null);
	if (is_null != NULL)
		*is_null = null;
	else if (null)
		elog(ERROR, "unexpected null in column %d of a query of tasker", column);
	return value;
}

int64
RowInt64(uint64 row, int column)
{
	return DatumGetInt64(RowDatum(row, column, NULL));
}

int32
RowInt32(uint64 row, int column)
{
	return DatumGetInt32(RowDatum(row, column, NULL));
}

bool
RowBool(uint64 row, int column)
{
	return DatumGetBool(RowDatum(row, column, NULL));
}

char *
RowText(uint64 row, int column)
{
	bool		null;
	Datum		value = RowDatum(row, column, &null);

	return null ? NULL : TextDatumGetCString(value);
}

Datum
Int64Array(const int64 *values, int n)
{
	Datum	   *datums = palloc(sizeof(Datum) * Max(n, 1));

	for (int i = 0; i < n; i++)
		datums[i] = Int64GetDatum(values[i]);
	return PointerGetDatum(construct_array(datums, n, INT8OID, sizeof(int64),
										   FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

Datum
Int32Array(const int32 *values, int n)
{
	Datum	   *datums = palloc(sizeof(Datum) * Max(n, 1));

	for (int i = 0; i < n; i++)
		datums[i] = Int32GetDatum(values[i]);
	return PointerGetDatum(construct_array(datums, n, INT4OID, sizeof(int32), true, TYPALIGN_INT));
}

Datum
NullableArray(const Datum *values, const bool *nulls, int n, Oid type)
{
	int16		length;
	bool		by_value;
	char		align;
	int			lower_bound = 1;

	get_typlenbyvalalign(type, &length, &by_value, &align);
	return PointerGetDatum(construct_md_array(unconstify(Datum *, values),
											  unconstify(bool *, nulls), 1, &n, &lower_bound,
											  type, length, by_value, align));
}
