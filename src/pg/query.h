/*
 * query.h
 *		Running our own SQL: kept generic plans under pinned circumstances.
 *
 * A scope is opened around all statements of one SQL-callable function (or
 * one batch of the orchestrator).  Inside it statements run as the owner of
 * the extension, with a search_path that only knows pg_catalog, and with the
 * planner held to index scans and nested loops: our tables are small or
 * probed by key, and their statistics are misleading (the work queue is empty
 * whenever anyone looks).  Arrays of a batch are joined as
 * (SELECT unnest($1) LIMIT cardinality($1)): the planner then takes them for
 * few rows and looks our rows up by key, instead of walking a table that it
 * believes to be small.
 */
#ifndef TASKER_QUERY_H
#define TASKER_QUERY_H

#include "tasker.h"

#include "executor/spi.h"

#define QUERY_MAX_ARGS 16

typedef struct KeptQuery
{
	const char *sql;			/* one statement, fully qualified */
	int			nargs;
	Oid			types[QUERY_MAX_ARGS];
	SPIPlanPtr	plan;			/* made at first use, kept for the session */
} KeptQuery;

typedef struct QueryScope
{
	Oid			caller;			/* the role that called us */
	int			security_context;
	int			guc_level;
	MemoryContext context;		/* where results that outlive the scope go */
} QueryScope;

/*
 * Opens a scope.  The caller must be in a transaction; scopes do not nest.
 * Raises 25006 on a standby and in a read-only transaction.
 */
extern void OpenQueryScope(QueryScope *scope);

/* The same for functions that only look, which a standby answers, too. */
extern void OpenReadingScope(QueryScope *scope);

/*
 * Closes the scope and frees what was allocated in it, query results
 * included.  After an error the end of the (sub)transaction does the same.
 */
extern void CloseQueryScope(QueryScope *scope);

/* The name of the role that called us, for the log; needs an open scope. */
extern Datum QueryCallerName(void);

/*
 * Runs a statement and returns the number of rows, which are in
 * SPI_tuptable until the next call.  nulls may be NULL; else one char per
 * argument, 'n' for NULL.  Errors of the statement are raised.
 */
extern uint64 RunQuery(KeptQuery *query, const Datum *values, const char *nulls);

/* As RunQuery, for a statement without arguments. */
extern uint64 RunPlainQuery(KeptQuery *query);

/*
 * Appends the rows of the last statement to the result set of the
 * set-returning function that is running (InitMaterializedSRF was called);
 * the columns must match.
 */
extern void ReturnQueryRows(FunctionCallInfo fcinfo);

/* Columns of a row of the last statement; is_null may be NULL if NULL is impossible. */
extern Datum RowDatum(uint64 row, int column, bool *is_null);
extern int64 RowInt64(uint64 row, int column);
extern int32 RowInt32(uint64 row, int column);
extern bool RowBool(uint64 row, int column);

/* Text of a column as a C string in the current context; NULL for NULL. */
extern char *RowText(uint64 row, int column);

/* Arrays for statement arguments, allocated in the current context. */
extern Datum Int64Array(const int64 *values, int n);
extern Datum Int32Array(const int32 *values, int n);
extern Datum NullableArray(const Datum *values, const bool *nulls, int n, Oid type);

/* Hooks the restoring of the planner's settings to the ends of transactions. */
extern void InitQueries(void);

#endif							/* TASKER_QUERY_H */
