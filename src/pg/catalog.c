/*
 * catalog.c
 *		Where the extension is in this database, cached until it may change.
 *
 * The relation cache tells every session when tasker.named_tasks or the
 * schema's objects change: DROP EXTENSION invalidates its relations, and
 * whoever changes definitions invalidates named_tasks on purpose.  The
 * callback only notes this, it must not look at the catalog.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "pg/catalog.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

static struct
{
	bool		valid;
	Oid			named_tasks;
	Oid			owner;
	int			version;
}			cache;
static uint64 definitions_generation = 1;

static void
NoteRelationChange(Datum arg, Oid relation)
{
	if (relation == InvalidOid || relation == cache.named_tasks)
	{
		cache.valid = false;
		definitions_generation++;
	}
}

void
InitCatalog(void)
{
	CacheRegisterRelcacheCallback(NoteRelationChange, (Datum) 0);
}

/* A version as a number: 1.2 is 102. */
static int
VersionNumber(const char *version)
{
	int			major = 0;
	int			minor = 0;

	(void) sscanf(version, "%d.%d", &major, &minor);
	return major * 100 + minor;
}

/*
 * The version of the extension as a number.  Raises 55000 where it is later
 * than that of the library: what an old library does to tables that it does
 * not know cannot be told.
 */
static int
VersionOfExtension(Oid extension)
{
	Relation	extensions = table_open(ExtensionRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	char	   *version = NULL;

	ScanKeyInit(&key, Anum_pg_extension_oid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(extension));
	scan = systable_beginscan(extensions, ExtensionOidIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		bool		is_null;

		version = TextDatumGetCString(heap_getattr(tuple, Anum_pg_extension_extversion,
												   RelationGetDescr(extensions), &is_null));
	}
	systable_endscan(scan);
	table_close(extensions, AccessShareLock);
	if (version == NULL)
		return 0;
	if (VersionNumber(version) > VersionNumber(TASKER_VERSION))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("extension \"tasker\" has version %s in this database, but this server has loaded the library of version %s",
						version, TASKER_VERSION),
				 errhint("Install the files of tasker %s on this server and restart it.", version)));
	return VersionNumber(version);
}

/* Fills the cache; false where the extension is not installed. */
static bool
FindExtension(void)
{
	Oid			extension;
	Oid			schema;
	Oid			named_tasks;
	int			version;
	HeapTuple	tuple;

	if (cache.valid)
		return true;
	extension = get_extension_oid("tasker", true);
	if (!OidIsValid(extension))
		return false;
	schema = get_namespace_oid("tasker", true);
	named_tasks = OidIsValid(schema) ? get_relname_relid("named_tasks", schema) : InvalidOid;
	if (!OidIsValid(named_tasks))
		return false;
	version = VersionOfExtension(extension);
	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(named_tasks));
	if (!HeapTupleIsValid(tuple))
		return false;
	cache.version = version;
	cache.owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	cache.named_tasks = named_tasks;
	cache.valid = true;
	ReleaseSysCache(tuple);
	return true;
}

bool
ExtensionInstalled(void)
{
	AcceptInvalidationMessages();
	return FindExtension();
}

Oid
ExtensionOwner(void)
{
	if (!FindExtension())
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("extension \"tasker\" is not installed in this database"),
				 errhint("Run CREATE EXTENSION tasker.")));
	return cache.owner;
}

int
SchemaVersion(void)
{
	(void) ExtensionOwner();
	return cache.version;
}

uint64
DefinitionsGeneration(void)
{
	AcceptInvalidationMessages();
	return definitions_generation;
}

void
InvalidateDefinitions(void)
{
	(void) ExtensionOwner();
	CacheInvalidateRelcacheByRelid(cache.named_tasks);
	definitions_generation++;
}

Oid
ExtensionRelation(const char *name)
{
	Oid			relation;

	(void) ExtensionOwner();
	relation = get_relname_relid(name, get_namespace_oid("tasker", false));
	if (!OidIsValid(relation))
		elog(ERROR, "relation \"tasker.%s\" is missing", name);
	return relation;
}

Oid
ExtensionType(const char *name)
{
	Oid			type;

	(void) ExtensionOwner();
	type = GetSysCacheOid2(TYPENAMENSP, Anum_pg_type_oid, CStringGetDatum(name),
						   ObjectIdGetDatum(get_namespace_oid("tasker", false)));
	if (!OidIsValid(type))
		elog(ERROR, "type \"tasker.%s\" is missing", name);
	return type;
}
