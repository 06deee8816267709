/*
 * table.c
 *		Reading and writing our own tables without the executor.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/relscan.h"
#include "access/skey.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_am.h"
#include "catalog/pg_index.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "partitioning/partbounds.h"
#include "partitioning/partdesc.h"
#include "pg/catalog.h"
#include "pg/guc.h"
#include "pg/table.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/partcache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

/* Rows are appended in groups of at most this many. */
#define APPEND_GROUP 256

/* Of our tables, columns that others have added or that were dropped included. */
#define MAX_ATTRIBUTES 64

/* Indexes of one table that lookups go through. */
#define MAX_LOOKUP_INDEXES 4

struct Table
{
	const TableShape *shape;
	Relation	relation;
	const AttrNumber *numbers;	/* of the shape's columns */
	int			n_indexes;
	Relation	indexes[MAX_LOOKUP_INDEXES];
	ResultRelInfo *result;		/* NULL: no index entry was written yet */
	EState	   *estate;
	TupleTableSlot *new_version;
	int			n_parts;		/* opened so far */
	int			parts_room;
	Table	  **parts;
	Table	   *next;			/* of the scope's tables */
};

/* Of tables opened before in this session: which number each column has. */
typedef struct ColumnNumbers
{
	Oid			relation;		/* hash key */
	const TableShape *shape;
	int			natts;			/* of the relation when they were looked up */
	AttrNumber	numbers[TABLE_MAX_COLUMNS];
} ColumnNumbers;

static HTAB *column_numbers = NULL;

/* The tables of the open scope, parts included, and where they live. */
static Table *opened = NULL;
static MemoryContext opened_context = NULL;

/* ---------- opening ---------- */

/* The number of a column; 0 where there is none of the name and there need not be. */
static AttrNumber
FindColumn(Relation relation, const char *name, bool needed)
{
	TupleDesc	row_type = RelationGetDescr(relation);

	for (int i = 0; i < row_type->natts; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(row_type, i);

		if (!attribute->attisdropped && namestrcmp(&attribute->attname, name) == 0)
			return attribute->attnum;
	}
	if (!needed)
		return InvalidAttrNumber;
	elog(ERROR, "column \"%s\" of table \"tasker.%s\" is missing", name, RelationGetRelationName(relation));
}

/* The numbers of the shape's columns in a relation, looked up once a session. */
static const AttrNumber *
NumbersOf(Relation relation, const TableShape *shape)
{
	Oid			oid = RelationGetRelid(relation);
	ColumnNumbers *entry;
	bool		found;

	if (column_numbers == NULL)
	{
		HASHCTL		control = {.keysize = sizeof(Oid),.entrysize = sizeof(ColumnNumbers)};

		column_numbers = hash_create("tasker column numbers", 64, &control, HASH_ELEM | HASH_BLOBS);
	}
	entry = hash_search(column_numbers, &oid, HASH_ENTER, &found);
	if (found && entry->shape == shape && entry->natts == RelationGetNumberOfAttributes(relation))
		return entry->numbers;
	entry->shape = NULL;
	for (int i = 0; i < shape->n_columns; i++)
		entry->numbers[i] = FindColumn(relation, shape->columns[i], i < shape->n_columns - shape->n_later);
	entry->shape = shape;
	entry->natts = RelationGetNumberOfAttributes(relation);
	return entry->numbers;
}

/* On a standby nothing is written, and a stronger lock is not to be had. */
static Table *
OpenRelation(Oid oid, const TableShape *shape)
{
	MemoryContext caller;
	Table	   *table;

	if (opened_context == NULL)
		opened_context = AllocSetContextCreate(CurTransactionContext, "tasker tables", ALLOCSET_SMALL_SIZES);
	caller = MemoryContextSwitchTo(opened_context);
	table = palloc0(sizeof(Table));
	table->shape = shape;
	table->relation = table_open(oid, RecoveryInProgress() ? AccessShareLock : RowExclusiveLock);
	table->numbers = NumbersOf(table->relation, shape);
	table->next = opened;
	opened = table;
	MemoryContextSwitchTo(caller);
	return table;
}

Table *
OpenTable(const TableShape *shape)
{
	/* A part has its parent's shape, but the parent was opened first: the last match is it. */
	Table	   *found = NULL;

	for (Table *table = opened; table != NULL; table = table->next)
	{
		if (table->shape == shape)
			found = table;
	}
	return found ? found : OpenRelation(ExtensionRelation(shape->name), shape);
}

Relation
TableRelation(const Table *table)
{
	return table->relation;
}

static void
CloseTable(Table *table)
{
	if (table->new_version != NULL)
		ExecDropSingleTupleTableSlot(table->new_version);
	if (table->result != NULL)
	{
		ExecCloseIndices(table->result);
		FreeExecutorState(table->estate);
	}
	for (int i = 0; i < table->n_indexes; i++)
		index_close(table->indexes[i], NoLock);
	table_close(table->relation, NoLock);
}

void
CloseTables(void)
{
	for (Table *table = opened; table != NULL; table = table->next)
		CloseTable(table);
	if (opened_context != NULL)
		MemoryContextDelete(opened_context);
	ForgetTables();
}

void
ForgetTables(void)
{
	opened = NULL;
	opened_context = NULL;
}

/* ---------- parts ---------- */

static bool
IsPartitioned(const Table *table)
{
	return table->relation->rd_rel->relkind == RELKIND_PARTITIONED_TABLE;
}

static Table *
OpenPart(Table *table, Oid oid)
{
	for (int i = 0; i < table->n_parts; i++)
	{
		if (RelationGetRelid(table->parts[i]->relation) == oid)
			return table->parts[i];
	}
	if (table->n_parts == table->parts_room)
	{
		table->parts_room = Max(8, 2 * table->parts_room);
		table->parts = table->parts ? repalloc(table->parts, sizeof(Table *) * table->parts_room) :
			MemoryContextAlloc(opened_context, sizeof(Table *) * table->parts_room);
	}
	table->parts[table->n_parts] = OpenRelation(oid, table->shape);
	return table->parts[table->n_parts++];
}

Table *
FindTablePart(Table *table, int64 id)
{
	PartitionDesc parts;
	PartitionKey key;
	Datum		value = Int64GetDatum(id);
	bool		equal;
	int			bound;
	int			part = -1;

	if (!IsPartitioned(table))
		return table;
	parts = RelationGetPartitionDesc(table->relation, true);
	key = RelationGetPartitionKey(table->relation);
	if (parts->nparts > 0 && key->strategy == PARTITION_STRATEGY_RANGE)
	{
		bound = partition_range_datum_bsearch(key->partsupfunc, key->partcollation, parts->boundinfo,
											  1, &value, &equal);
		part = parts->boundinfo->indexes[bound + 1];
	}
	return part < 0 ? NULL : OpenPart(table, parts->oids[part]);
}

Table *
TablePart(Table *table, int64 id)
{
	Table	   *part = FindTablePart(table, id);

	if (part == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CHECK_VIOLATION),
				 errmsg("no partition of tasker.%s is for id " INT64_FORMAT, table->shape->name, id),
				 errhint("Call tasker.upkeep().")));
	return part;
}

Table **
TableParts(Table *table, int *n)
{
	PartitionDesc parts;

	if (!IsPartitioned(table))
	{
		Table	  **only = palloc(sizeof(Table *));

		*n = 1;
		*only = table;
		return only;
	}
	parts = RelationGetPartitionDesc(table->relation, true);
	for (int i = 0; i < parts->nparts; i++)
		(void) OpenPart(table, parts->oids[i]);
	*n = table->n_parts;
	return table->parts;
}

/* ---------- accesses ---------- */

void
BeginAccess(void)
{
	CommandCounterIncrement();
	PushActiveSnapshot(GetTransactionSnapshot());
}

void
EndAccess(void)
{
	PopActiveSnapshot();
	CommandCounterIncrement();
}

/* ---------- reading by key ---------- */

struct Lookup
{
	Table	   *table;
	Relation	index;
	IndexScanDesc scan;
	MemoryContext context;		/* of the scan: the index allocates there whenever it likes */
	TupleTableSlot *row;
	ScanKeyData keys[LOOKUP_MAX_KEYS];
};

/* Whether the first columns of an index are those of the shape asked for, and all its rows are in it. */
static bool
ServesLookup(Relation index, const Table *table, int n_keys, const int *columns)
{
	Form_pg_index form = index->rd_index;

	if (!form->indisvalid || form->indnkeyatts < n_keys || index->rd_rel->relam != BTREE_AM_OID ||
		!heap_attisnull(index->rd_indextuple, Anum_pg_index_indpred, NULL))
		return false;
	for (int i = 0; i < n_keys; i++)
	{
		if (form->indkey.values[i] != table->numbers[columns[i]])
			return false;
	}
	return true;
}

static Relation
IndexFor(Table *table, int n_keys, const int *columns)
{
	List	   *oids;
	ListCell   *cell;

	for (int i = 0; i < table->n_indexes; i++)
	{
		if (ServesLookup(table->indexes[i], table, n_keys, columns))
			return table->indexes[i];
	}
	if (table->n_indexes == MAX_LOOKUP_INDEXES)
		elog(ERROR, "too many indexes of tasker.%s in use", table->shape->name);
	oids = RelationGetIndexList(table->relation);
	foreach(cell, oids)
	{
		Relation	index = index_open(lfirst_oid(cell), AccessShareLock);

		if (ServesLookup(index, table, n_keys, columns))
		{
			table->indexes[table->n_indexes++] = index;
			list_free(oids);
			return index;
		}
		index_close(index, AccessShareLock);
	}
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("an index of tasker.%s on column \"%s\" is missing", RelationGetRelationName(table->relation),
					table->shape->columns[columns[0]]),
			 errhint("Restore the indexes that the extension has created.")));
}

/* The comparison of a column's type for a strategy of a btree. */
static RegProcedure
Comparison(Oid type, StrategyNumber strategy)
{
	static const struct
	{
		Oid			type;
		RegProcedure equal;
		RegProcedure from;
		RegProcedure beyond;
	}			comparisons[] =
	{
		{INT8OID, F_INT8EQ, F_INT8GE, F_INT8GT},
		{INT4OID, F_INT4EQ, F_INT4GE, F_INT4GT},
		{INT2OID, F_INT2EQ, F_INT2GE, F_INT2GT},
		{XID8OID, F_XID8EQ, F_XID8GE, F_XID8GT},
		{TIMESTAMPTZOID, F_TIMESTAMPTZ_EQ, F_TIMESTAMPTZ_GE, F_TIMESTAMPTZ_GT},
	};

	for (int i = 0; i < lengthof(comparisons); i++)
	{
		if (comparisons[i].type == type)
			return strategy == BTEqualStrategyNumber ? comparisons[i].equal :
				strategy == BTGreaterEqualStrategyNumber ? comparisons[i].from : comparisons[i].beyond;
	}
	elog(ERROR, "type %u is not looked up by", type);
}

static Lookup *
BeginLookupAsOf(Snapshot snapshot, Table *table, int n_keys, const int *columns)
{
	Lookup	   *lookup = palloc0(sizeof(Lookup));

	Assert(n_keys <= LOOKUP_MAX_KEYS);
	lookup->table = table;
	lookup->context = CurrentMemoryContext;
	lookup->index = IndexFor(table, n_keys, columns);
	lookup->row = table_slot_create(table->relation, NULL);
	for (int i = 0; i < n_keys; i++)
		ScanKeyInit(&lookup->keys[i], i + 1, BTEqualStrategyNumber,
					Comparison(lookup->index->rd_opcintype[i], BTEqualStrategyNumber), 0);
	lookup->scan = index_beginscan(table->relation, lookup->index, snapshot, NULL, n_keys, 0);
	return lookup;
}

Lookup *
BeginLookup(Table *table, int n_keys, const int *columns)
{
	return BeginLookupAsOf(GetActiveSnapshot(), table, n_keys, columns);
}

Lookup *
BeginLatestLookup(Table *table, int n_keys, const int *columns)
{
	return BeginLookupAsOf(SnapshotSelf, table, n_keys, columns);
}

void
EndLookup(Lookup *lookup)
{
	index_endscan(lookup->scan);
	ExecDropSingleTupleTableSlot(lookup->row);
	pfree(lookup);
}

static void
StartScan(Lookup *lookup, int n_keys, const Datum *keys, StrategyNumber last)
{
	MemoryContext caller = MemoryContextSwitchTo(lookup->context);

	Assert(n_keys == lookup->scan->numberOfKeys);
	for (int i = 0; i < n_keys; i++)
	{
		StrategyNumber strategy = i == n_keys - 1 ? last : BTEqualStrategyNumber;

		lookup->keys[i].sk_argument = keys[i];
		if (lookup->keys[i].sk_strategy == strategy)
			continue;
		lookup->keys[i].sk_strategy = strategy;
		fmgr_info(Comparison(lookup->index->rd_opcintype[i], strategy), &lookup->keys[i].sk_func);
	}
	index_rescan(lookup->scan, lookup->keys, n_keys, NULL, 0);
	MemoryContextSwitchTo(caller);
}

void
LookFor(Lookup *lookup, int n_keys, const Datum *keys)
{
	StartScan(lookup, n_keys, keys, BTEqualStrategyNumber);
}

void
LookFrom(Lookup *lookup, int n_keys, const Datum *keys)
{
	StartScan(lookup, n_keys, keys, BTGreaterEqualStrategyNumber);
}

void
LookBeyond(Lookup *lookup, int n_keys, const Datum *keys)
{
	StartScan(lookup, n_keys, keys, BTGreaterStrategyNumber);
}

/* The caller's memory may be gone before the next row: a btree notes dead entries in whose it is called. */
static TupleTableSlot *
StepTo(Lookup *lookup, ScanDirection direction)
{
	MemoryContext caller = MemoryContextSwitchTo(lookup->context);
	bool		found = index_getnext_slot(lookup->scan, direction, lookup->row);

	MemoryContextSwitchTo(caller);
	return found ? lookup->row : NULL;
}

TupleTableSlot *
NextRow(Lookup *lookup)
{
	return StepTo(lookup, ForwardScanDirection);
}

TupleTableSlot *
PreviousRow(Lookup *lookup)
{
	return StepTo(lookup, BackwardScanDirection);
}

Oid
ColumnType(const Table *table, int column)
{
	return TupleDescAttr(RelationGetDescr(table->relation), table->numbers[column] - 1)->atttypid;
}

Datum
RowColumn(const Table *table, TupleTableSlot *row, int column, bool *is_null)
{
	bool		null;
	Datum		value = slot_getattr(row, table->numbers[column], &null);

	if (is_null != NULL)
		*is_null = null;
	else if (null)
		elog(ERROR, "unexpected null in column \"%s\" of tasker.%s", table->shape->columns[column],
			 table->shape->name);
	return value;
}

bool
HasColumn(const Table *table, int column)
{
	return table->numbers[column] != InvalidAttrNumber;
}

/* ---------- writing ---------- */

bool
TakesDirectWrites(Table *table, bool inserts)
{
	TriggerDesc *triggers = table->relation->trigdesc;

	if (!tasker_direct_writes || table->relation->rd_rel->relforcerowsecurity)
		return false;
	for (int i = 0; triggers != NULL && i < triggers->numtriggers; i++)
	{
		const Trigger *trigger = &triggers->triggers[i];

		if (RI_FKey_trigger_type(trigger->tgfoid) == RI_TRIGGER_NONE &&
			(inserts ? TRIGGER_FOR_INSERT(trigger->tgtype) : TRIGGER_FOR_UPDATE(trigger->tgtype)))
			return false;
	}
	return true;
}

/* Index entries are written as the executor does it, whatever indexes somebody has added. */
static void
InsertIndexEntries(Table *table, TupleTableSlot *row, bool update, TU_UpdateIndexes which)
{
	MemoryContext caller;

	if (table->result == NULL)
	{
		caller = MemoryContextSwitchTo(opened_context);
		table->estate = CreateExecutorState();
		table->result = makeNode(ResultRelInfo);
		InitResultRelInfo(table->result, table->relation, 0, NULL, 0);
		ExecOpenIndices(table->result, false);
		MemoryContextSwitchTo(caller);
	}
	if (table->result->ri_NumIndices == 0)
		return;
	(void) ExecInsertIndexTuples(table->result, row, table->estate, update, false, NULL, NIL,
								 which == TU_Summarizing);
	ResetPerTupleExprContext(table->estate);
}

void
ChangeColumn(Change *change, int column, Datum value)
{
	change->columns[change->n] = column;
	change->nulls[change->n] = false;
	change->values[change->n++] = value;
}

void
ChangeToNull(Change *change, int column)
{
	change->columns[change->n] = column;
	change->nulls[change->n++] = true;
}

static void
RefuseConcurrentChange(void)
{
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("could not serialize access due to concurrent update")));
}

/* Reads and locks the latest version of a row that another transaction has changed. */
static WriteOutcome
LockLatestVersion(Table *table, TupleTableSlot *row)
{
	ItemPointerData tid = row->tts_tid;
	TM_FailureData failure;
	TM_Result	result;

	RefuseConcurrentChange();
	result = table_tuple_lock(table->relation, &tid, GetActiveSnapshot(), row, GetCurrentCommandId(false),
							  LockTupleNoKeyExclusive, LockWaitBlock,
							  TUPLE_LOCK_FLAG_FIND_LAST_VERSION, &failure);
	if (result == TM_Ok)
		return WRITE_CHANGED;
	return WRITE_GONE;
}

/* The row with its changes, as a tuple. */
static HeapTuple
ChangedTuple(Table *table, TupleTableSlot *row, const Change *change)
{
	TupleDesc	row_type = RelationGetDescr(table->relation);
	Datum		values[MAX_ATTRIBUTES];
	bool		nulls[MAX_ATTRIBUTES];
	bool		replace[MAX_ATTRIBUTES] = {false};
	bool		free_old;
	HeapTuple	old = ExecFetchSlotHeapTuple(row, false, &free_old);
	HeapTuple	new;

	if (row_type->natts > MAX_ATTRIBUTES)
		elog(ERROR, "table \"tasker.%s\" has too many columns", table->shape->name);
	for (int i = 0; i < change->n; i++)
	{
		int			a = table->numbers[change->columns[i]] - 1;

		values[a] = change->values[i];
		nulls[a] = change->nulls[i];
		replace[a] = true;
	}
	new = heap_modify_tuple(old, row_type, values, nulls, replace);
	if (free_old)
		heap_freetuple(old);
	return new;
}

WriteOutcome
WriteRow(Table *table, TupleTableSlot *row, const Change *change)
{
	TM_FailureData failure;
	LockTupleMode mode;
	TU_UpdateIndexes indexes;
	TM_Result	result;

	PreventCommandIfReadOnly("UPDATE");
	if (table->new_version == NULL)
	{
		MemoryContext caller = MemoryContextSwitchTo(opened_context);

		table->new_version = MakeSingleTupleTableSlot(RelationGetDescr(table->relation), &TTSOpsHeapTuple);
		MemoryContextSwitchTo(caller);
	}
	ExecStoreHeapTuple(ChangedTuple(table, row, change), table->new_version, true);
	result = table_tuple_update(table->relation, &row->tts_tid, table->new_version, GetCurrentCommandId(true),
								GetActiveSnapshot(), InvalidSnapshot, true, &failure, &mode, &indexes);
	if (result == TM_Ok && indexes != TU_None)
		InsertIndexEntries(table, table->new_version, true, indexes);
	/* The tuple lives in the caller's memory, which may end before the scope does. */
	ExecClearTuple(table->new_version);
	switch (result)
	{
		case TM_Ok:
			return WRITE_DONE;
		case TM_Updated:
			return LockLatestVersion(table, row);
		case TM_Deleted:
			RefuseConcurrentChange();
			return WRITE_GONE;
		case TM_SelfModified:
			return WRITE_GONE;
		default:
			elog(ERROR, "unexpected result %d of an update of tasker.%s", result, table->shape->name);
	}
}

bool
RemoveRowNoWait(Table *table, TupleTableSlot *row)
{
	TM_FailureData failure;

	PreventCommandIfReadOnly("DELETE");
	return table_tuple_delete(table->relation, &row->tts_tid, GetCurrentCommandId(true), GetActiveSnapshot(),
							  InvalidSnapshot, false, &failure, false) == TM_Ok;
}

/* ---------- appending ---------- */

struct Appender
{
	Table	   *table;
	Table	   *part;			/* that the collected rows belong to */
	int			n;
	int			slots;			/* made so far */
	TupleTableSlot *rows[APPEND_GROUP];
};

Appender *
BeginAppend(Table *table)
{
	Appender   *appender = palloc0(sizeof(Appender));

	PreventCommandIfReadOnly("INSERT");
	appender->table = table;
	return appender;
}

static void
WriteCollected(Appender *appender)
{
	Table	   *part = appender->part;

	if (appender->n == 1)
		table_tuple_insert(part->relation, appender->rows[0], GetCurrentCommandId(true), 0, NULL);
	else if (appender->n > 1)
		table_multi_insert(part->relation, appender->rows, appender->n, GetCurrentCommandId(true), 0, NULL);
	for (int i = 0; i < appender->n; i++)
		InsertIndexEntries(part, appender->rows[i], false, TU_All);
	appender->n = 0;
}

static void
DropSlots(Appender *appender)
{
	for (int i = 0; i < appender->slots; i++)
		ExecDropSingleTupleTableSlot(appender->rows[i]);
	appender->slots = 0;
}

void
AppendRow(Appender *appender, int64 part_of, const Datum *values, const bool *nulls)
{
	Table	   *part = TablePart(appender->table, part_of);
	const TableShape *shape = part->shape;
	TupleTableSlot *row;

	if (appender->n == APPEND_GROUP || part != appender->part)
		WriteCollected(appender);
	if (part != appender->part)
		DropSlots(appender);
	appender->part = part;
	if (appender->n == appender->slots)
		appender->rows[appender->slots++] = table_slot_create(part->relation, NULL);
	row = appender->rows[appender->n++];
	ExecClearTuple(row);
	memset(row->tts_isnull, true, RelationGetNumberOfAttributes(part->relation));
	for (int i = 0; i < shape->n_columns; i++)
	{
		int			a = part->numbers[i] - 1;

		if (a < 0)
			continue;
		row->tts_values[a] = values[i];
		row->tts_isnull[a] = nulls[i];
	}
	ExecStoreVirtualTuple(row);
}

void
EndAppend(Appender *appender)
{
	WriteCollected(appender);
	DropSlots(appender);
	pfree(appender);
}
