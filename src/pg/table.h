/*
 * table.h
 *		Reading and writing our own tables without the executor.
 *
 * Probes by key, compare-and-set of rows, and appends, straight through the
 * table and index access methods.  What the executor would cost more than the
 * rows is left out, and no statistics can lead to a bad plan.  Left out as
 * well are triggers, constraints and row security: the caller answers for
 * what the constraints say, and TakesDirectWrites tells where a trigger asks
 * for SQL.
 *
 * Everything here needs an open query scope, which also closes what was
 * opened.  Columns are found by name, so that an upgraded table, whose columns
 * may have other numbers, is read right.
 */
#ifndef TASKER_TABLE_H
#define TASKER_TABLE_H

#include "tasker.h"

#include "access/genam.h"
#include "access/tableam.h"
#include "executor/tuptable.h"

#define TABLE_MAX_COLUMNS 24
#define LOOKUP_MAX_KEYS 3

/* What a file knows of a table: its name and the columns that it uses, in the order of its own enum. */
typedef struct TableShape
{
	const char *name;
	int			n_columns;
	int			n_later;		/* the last ones, which tables of earlier versions lack: lost there when appended */
	const char *columns[TABLE_MAX_COLUMNS];
} TableShape;

typedef struct Table Table;

/* Opens a table for writing, or finds it opened in this scope. */
extern Table *OpenTable(const TableShape *shape);

/* The relation itself. */
extern Relation TableRelation(const Table *table);

/*
 * Whether rows may be written past the executor: no trigger but those of
 * foreign keys is there, and the setting tasker.direct_writes is on.
 */
extern bool TakesDirectWrites(Table *table, bool inserts);

/*
 * The part of a partitioned table that holds an id; the table itself where it
 * is not partitioned.  Raises 23514 where no part does.
 */
extern Table *TablePart(Table *table, int64 id);

/* As TablePart, but NULL where no part does. */
extern Table *FindTablePart(Table *table, int64 id);

/* All parts of a table, at least itself. */
extern Table **TableParts(Table *table, int *n);

/* Closes all tables of the scope; after an error they are only to be forgotten. */
extern void CloseTables(void);
extern void ForgetTables(void);

/* ---------- the state of an access ---------- */

/*
 * Begins what would be one statement: sees what is committed by now (in READ
 * COMMITTED) and all that this transaction has done.  Accesses do not nest.
 */
extern void BeginAccess(void);
extern void EndAccess(void);

/* ---------- reading by key ---------- */

typedef struct Lookup Lookup;

/*
 * Prepares probes of a table through the index whose first columns are these
 * (numbers of the shape's enum).  Access must have begun; EndLookup
 * before it ends.
 */
extern Lookup *BeginLookup(Table *table, int n_keys, const int *columns);

/* As BeginLookup, but sees what is committed at each moment, whatever the isolation level. */
extern Lookup *BeginLatestLookup(Table *table, int n_keys, const int *columns);
extern void EndLookup(Lookup *lookup);

/* Positions before the rows whose first key columns have these values. */
extern void LookFor(Lookup *lookup, int n_keys, const Datum *keys);

/* As LookFor, but the last key only bounds from below. */
extern void LookFrom(Lookup *lookup, int n_keys, const Datum *keys);

/* As LookFrom, above the bound and in no way equal to it. */
extern void LookBeyond(Lookup *lookup, int n_keys, const Datum *keys);

/* The next row in the order of the index, backwards or forwards; NULL after the last one. */
extern TupleTableSlot *NextRow(Lookup *lookup);
extern TupleTableSlot *PreviousRow(Lookup *lookup);

/* The type of a column. */
extern Oid	ColumnType(const Table *table, int column);

/* Whether a column is there: not where it is a later one, in a table of an earlier version. */
extern bool HasColumn(const Table *table, int column);

/* A column of a row that came from this table. */
extern Datum RowColumn(const Table *table, TupleTableSlot *row, int column, bool *is_null);

/* ---------- writing ---------- */

/* New values of some columns. */
typedef struct Change
{
	int			n;
	int			columns[TABLE_MAX_COLUMNS];
	Datum		values[TABLE_MAX_COLUMNS];
	bool		nulls[TABLE_MAX_COLUMNS];
} Change;

extern void ChangeColumn(Change *change, int column, Datum value);
extern void ChangeToNull(Change *change, int column);

typedef enum WriteOutcome
{
	WRITE_DONE,
	WRITE_GONE,					/* the row was deleted, or written by this command before */
	WRITE_CHANGED				/* another transaction has changed it: the row now holds the latest version, locked */
} WriteOutcome;

/*
 * Writes a new version of a row that a lookup has found.  Waits for others
 * who hold it; raises 40001 where the isolation level asks for it.  After
 * WRITE_CHANGED the caller looks at the row again and may try once more.
 */
extern WriteOutcome WriteRow(Table *table, TupleTableSlot *row, const Change *change);

/* Removes a row; false where another transaction is at it, or was. */
extern bool RemoveRowNoWait(Table *table, TupleTableSlot *row);

/* Collects rows to append; each gets its values from the caller. */
typedef struct Appender Appender;

extern Appender *BeginAppend(Table *table);

/* Adds a row: one value for each column of the shape, the others NULL. */
extern void AppendRow(Appender *appender, int64 part_of, const Datum *values, const bool *nulls);

/* Writes what is left and ends. */
extern void EndAppend(Appender *appender);

#endif							/* TASKER_TABLE_H */
