/*
 * access.c
 *		What a role may do in which namespace.
 *
 * The grants are few and read whole, once a session and role, until a
 * definition or a membership changes.  They are read by a plain scan of the
 * table: row security asks from within any statement, in a query scope or not.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "define/access.h"
#include "miscadmin.h"
#include "pg/catalog.h"
#include "pg/measure.h"
#include "pg/query.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

/* What a role may do in one namespace, beside what it may everywhere. */
typedef struct NamespaceAccess
{
	int32		task_namespace_id;
	uint32		may;
	char	   *name;
} NamespaceAccess;

typedef struct Access
{
	Oid			role;
	bool		confined;
	uint32		everywhere;
	int			n;
	NamespaceAccess *namespaces;
	struct Access *next;
} Access;

static MemoryContext cache_context = NULL;
static Access *cache = NULL;	/* the one asked for last comes first */
static uint64 definitions_generation = 0;
static uint64 access_generation = 0;
static bool memberships_changed = false;

static void
NoteMembershipChange(Datum arg, int cacheid, uint32 hashvalue)
{
	memberships_changed = true;
}

static bool
CurrentRoleSeesEverything(void)
{
	return RoleMayEverywhere(GetUserId(), MAY_ANYTHING);
}

void
InitAccess(void)
{
	SeesAllMeasures = CurrentRoleSeesEverything;
	CacheRegisterSyscacheCallback(AUTHMEMROLEMEM, NoteMembershipChange, (Datum) 0);
	CacheRegisterSyscacheCallback(AUTHOID, NoteMembershipChange, (Datum) 0);
}

/* ---------- reading ---------- */

static uint32
CapabilityOfLabel(const char *label)
{
	static const struct
	{
		const char *label;
		uint32		may;
	}			labels[] = {
		{"observer", MAY_OBSERVE}, {"producer", MAY_PRODUCE}, {"executor", MAY_EXECUTE},
		{"operator", MAY_OPERATE}, {"admin", MAY_ADMINISTER}
	};

	for (int i = 0; i < lengthof(labels); i++)
	{
		if (strcmp(label, labels[i].label) == 0)
			return labels[i].may;
	}
	return 0;
}

bool
IsCapability(const char *label)
{
	return CapabilityOfLabel(label) != 0;
}

static NamespaceAccess *
NamespaceOf(const Access *access, int32 task_namespace_id)
{
	for (int i = 0; i < access->n; i++)
	{
		if (access->namespaces[i].task_namespace_id == task_namespace_id)
			return &access->namespaces[i];
	}
	return NULL;
}

static void
AddNamespace(Access *access, int32 task_namespace_id, uint32 may)
{
	NamespaceAccess *known = NamespaceOf(access, task_namespace_id);

	if (known == NULL)
	{
		access->namespaces = access->namespaces ?
			repalloc(access->namespaces, sizeof(NamespaceAccess) * (access->n + 1)) :
			palloc(sizeof(NamespaceAccess));
		known = &access->namespaces[access->n++];
		*known = (NamespaceAccess)
		{
			.task_namespace_id = task_namespace_id
		};
	}
	known->may |= may;
}

/* A column of a row of a plain scan by its name. */
static Datum
Column(Relation relation, HeapTuple row, const char *name, bool *is_null)
{
	return heap_getattr(row, get_attnum(RelationGetRelid(relation), name), RelationGetDescr(relation), is_null);
}

/* Adds what was granted to the role, and to the roles whose privileges it has. */
static void
ReadGrants(Access *access)
{
	Relation	grants = table_open(ExtensionRelation("capability_grants"), AccessShareLock);
	SysScanDesc scan = systable_beginscan(grants, InvalidOid, false, NULL, 0, NULL);
	HeapTuple	row;

	while ((row = systable_getnext(scan)) != NULL)
	{
		bool		is_null;
		char	   *role_name = TextDatumGetCString(Column(grants, row, "role_name", &is_null));
		Oid			role = get_role_oid(role_name, true);
		uint32		may;
		Datum		task_namespace_id;

		/* A role that is not there: after a restore on another server, say. */
		if (!OidIsValid(role) || !has_privs_of_role(access->role, role))
			continue;
		access->confined = true;
		may = CapabilityOfLabel(TextDatumGetCString(Column(grants, row, "capability", &is_null)));
		task_namespace_id = Column(grants, row, "task_namespace_id", &is_null);
		if (is_null)
			access->everywhere |= may;
		else
			AddNamespace(access, DatumGetInt32(task_namespace_id), may);
	}
	systable_endscan(scan);
	table_close(grants, AccessShareLock);
}

static void
ReadNamespaceNames(Access *access)
{
	Relation	namespaces = table_open(ExtensionRelation("task_namespaces"), AccessShareLock);
	SysScanDesc scan = systable_beginscan(namespaces, InvalidOid, false, NULL, 0, NULL);
	HeapTuple	row;

	while ((row = systable_getnext(scan)) != NULL)
	{
		bool		is_null;
		NamespaceAccess *known = NamespaceOf(access, DatumGetInt32(Column(namespaces, row, "task_namespace_id", &is_null)));

		if (known != NULL)
			known->name = TextDatumGetCString(Column(namespaces, row, "name", &is_null));
	}
	systable_endscan(scan);
	table_close(namespaces, AccessShareLock);
}

static Access *
ReadAccess(Oid role)
{
	Access	   *access = palloc0(sizeof(Access));

	access->role = role;
	if (superuser_arg(role) || has_privs_of_role(role, ExtensionOwner()) || SchemaVersion() < 101)
		return access;
	ReadGrants(access);
	if (access->n > 0)
		ReadNamespaceNames(access);
	return access;
}

uint64
AccessGeneration(void)
{
	uint64		generation = DefinitionsGeneration();

	if (generation != definitions_generation || memberships_changed)
	{
		if (cache_context == NULL)
			cache_context = AllocSetContextCreate(TopMemoryContext, "tasker access", ALLOCSET_SMALL_SIZES);
		cache = NULL;
		MemoryContextReset(cache_context);
		definitions_generation = generation;
		memberships_changed = false;
		access_generation++;
	}
	return access_generation;
}

static const Access *
AccessOf(Oid role)
{
	MemoryContext caller;
	Access	   *access;

	(void) AccessGeneration();
	for (access = cache; access != NULL; access = access->next)
	{
		if (access->role == role)
			return access;
	}
	caller = MemoryContextSwitchTo(cache_context);
	access = ReadAccess(role);
	MemoryContextSwitchTo(caller);
	access->next = cache;
	cache = access;
	return access;
}

/* ---------- asking ---------- */

static bool
Allows(const Access *access, int32 task_namespace_id, uint32 any_of)
{
	const NamespaceAccess *known;

	if (!access->confined || (access->everywhere & any_of) != 0)
		return true;
	known = NamespaceOf(access, task_namespace_id);
	return known != NULL && (known->may & any_of) != 0;
}

bool
RoleIsConfined(Oid role)
{
	return AccessOf(role)->confined;
}

bool
RoleMay(Oid role, int32 task_namespace_id, uint32 any_of)
{
	return Allows(AccessOf(role), task_namespace_id, any_of);
}

bool
RoleMayEverywhere(Oid role, uint32 any_of)
{
	const Access *access = AccessOf(role);

	return !access->confined || (access->everywhere & any_of) != 0;
}

bool
RoleMayByName(Oid role, const char *namespace_name, uint32 any_of)
{
	const Access *access = AccessOf(role);

	if (!access->confined || (access->everywhere & any_of) != 0)
		return true;
	for (int i = 0; i < access->n; i++)
	{
		const NamespaceAccess *known = &access->namespaces[i];

		if (known->name != NULL && strcmp(known->name, namespace_name) == 0)
			return (known->may & any_of) != 0;
	}
	return false;
}

/* ---------- refusing ---------- */

/* What one needs to be, of a set of capabilities. */
static const char *
NameCapabilities(uint32 any_of)
{
	static const char *const names[] = {"observer", "producer", "executor", "operator", "admin"};
	StringInfoData text;

	initStringInfo(&text);
	for (int i = 0; i < lengthof(names); i++)
	{
		if (any_of & (1 << i))
			appendStringInfo(&text, "%s%s", text.len > 0 ? " or " : "", names[i]);
	}
	return text.data;
}

void
RefuseUnknown(const char *what, int64 id)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("%s " INT64_FORMAT " does not exist", what, id)));
}

void
RequireInNamespace(int32 task_namespace_id, uint32 any_of)
{
	if (!RoleMay(QueryCaller(), task_namespace_id, any_of))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("role \"%s\" may not do this in the namespace", GetUserNameFromId(QueryCaller(), false)),
				 errdetail("It takes the capability %s.", NameCapabilities(any_of)),
				 errhint("See tasker.role_grants.")));
}

void
RequireEverywhere(uint32 any_of)
{
	if (!RoleMayEverywhere(QueryCaller(), any_of))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("role \"%s\" may not do this beyond its namespaces", GetUserNameFromId(QueryCaller(), false)),
				 errdetail("It takes the capability %s for all namespaces.", NameCapabilities(any_of)),
				 errhint("See tasker.role_grants.")));
}

bool
CallerKnowsNamespace(const char *namespace_name)
{
	return RoleMayByName(QueryCaller(), namespace_name, MAY_ANYTHING);
}

static KeptQuery FIND_NAMESPACE_OF_TASK = {
	.sql = "SELECT task_namespace_id FROM tasker.tasks WHERE task_id = $1",
	.nargs = 1,.types = {INT8OID}
};

static KeptQuery FIND_NAMESPACE_OF_STEP = {
	.sql =
	"SELECT t.task_namespace_id FROM tasker.workflow_steps s JOIN tasker.tasks t ON t.task_id = s.task_id"
	" WHERE s.workflow_step_id = $1",
	.nargs = 1,.types = {INT8OID}
};

static void
RequireFor(KeptQuery *find_namespace, const char *what, int64 id, uint32 any_of)
{
	Datum		arg = Int64GetDatum(id);

	if (!RoleIsConfined(QueryCaller()))
		return;
	if (RunQuery(find_namespace, &arg, NULL) == 0 ||
		!RoleMay(QueryCaller(), RowInt32(0, 1), MAY_ANYTHING))
		RefuseUnknown(what, id);
	RequireInNamespace(RowInt32(0, 1), any_of);
}

void
RequireForTask(int64 task_id, uint32 any_of)
{
	RequireFor(&FIND_NAMESPACE_OF_TASK, "task", task_id, any_of);
}

void
RequireForStep(int64 step_id, uint32 any_of)
{
	RequireFor(&FIND_NAMESPACE_OF_STEP, "step", step_id, any_of);
}

/* Whether one role may act as another, which may be gone. */
static bool
ActsAs(Oid role, const char *other_name)
{
	Oid			other = get_role_oid(other_name, true);

	return has_privs_of_role(role, ExtensionOwner()) || (OidIsValid(other) && has_privs_of_role(role, other));
}

bool
CallerActsAs(const char *role_name)
{
	return ActsAs(QueryCaller(), role_name);
}

/* ---------- row security ---------- */

/*
 * The namespaces of templates, tasks and steps never change and their numbers
 * never come back, so what was found is remembered until definitions change.
 */
typedef struct Remembered
{
	int64		id;
	int32		task_namespace_id;	/* 0: not found */
} Remembered;

#define REMEMBERED_ROWS 1024

typedef struct OwnerTable
{
	const char *relation;
	const char *index;			/* by id */
	const char *id;
	const char *refers_to;		/* column that leads on: a namespace, or an id of the next table */
	bool		is_int4;
	struct OwnerTable *next;	/* where it leads; NULL: to the namespace */
	uint64		generation;
	Remembered	rows[REMEMBERED_ROWS];
} OwnerTable;

static OwnerTable templates = {"named_tasks", "named_tasks_pkey", "named_task_id", "task_namespace_id", true, NULL};
static OwnerTable tasks = {"tasks", "tasks_pkey", "task_id", "task_namespace_id", false, NULL};
static OwnerTable steps = {"workflow_steps", "workflow_steps_pkey", "workflow_step_id", "task_id", false, &tasks};

static int32 FindNamespace(OwnerTable *owners, int64 id);

/* Looks a row up by its id, under the snapshot of the statement that asks. */
static int32
LookUpNamespace(const OwnerTable *owners, int64 id)
{
	Relation	relation = table_open(ExtensionRelation(owners->relation), AccessShareLock);
	SysScanDesc scan;
	ScanKeyData key;
	HeapTuple	row;
	bool		is_null;
	Datum		refers_to = 0;

	ScanKeyInit(&key, get_attnum(RelationGetRelid(relation), owners->id), BTEqualStrategyNumber,
				owners->is_int4 ? F_INT4EQ : F_INT8EQ,
				owners->is_int4 ? Int32GetDatum((int32) id) : Int64GetDatum(id));
	scan = systable_beginscan(relation, ExtensionRelation(owners->index), true, GetActiveSnapshot(), 1, &key);
	row = systable_getnext(scan);
	if (row != NULL)
		refers_to = Column(relation, row, owners->refers_to, &is_null);
	systable_endscan(scan);
	table_close(relation, AccessShareLock);
	if (row == NULL)
		return 0;
	return owners->next ? FindNamespace(owners->next, DatumGetInt64(refers_to)) : DatumGetInt32(refers_to);
}

/* The namespace of a template, task or step; 0 where it is not there. */
static int32
FindNamespace(OwnerTable *owners, int64 id)
{
	Remembered *row = &owners->rows[id & (REMEMBERED_ROWS - 1)];
	int32		task_namespace_id;

	if (owners->generation != access_generation)
		memset(owners->rows, 0, sizeof(owners->rows));
	owners->generation = access_generation;
	if (row->id == id && row->task_namespace_id != 0)
		return row->task_namespace_id;
	task_namespace_id = LookUpNamespace(owners, id);
	*row = (Remembered)
	{
		.id = id,.task_namespace_id = task_namespace_id
	};
	return task_namespace_id;
}

/* Whether the current role may look at what belongs to a template, task or step. */
static bool
Sees(OwnerTable *owners, int64 id)
{
	const Access *access = AccessOf(GetUserId());
	int32		task_namespace_id;

	if (!access->confined || access->everywhere != 0)
		return true;
	task_namespace_id = FindNamespace(owners, id);
	return task_namespace_id != 0 && Allows(access, task_namespace_id, MAY_ANYTHING);
}

PG_FUNCTION_INFO_V1(tasker_sees_everything);
PG_FUNCTION_INFO_V1(tasker_visible_namespaces);
PG_FUNCTION_INFO_V1(tasker_sees_template);
PG_FUNCTION_INFO_V1(tasker_sees_task);
PG_FUNCTION_INFO_V1(tasker_sees_step);
PG_FUNCTION_INFO_V1(tasker_sees_role);
PG_FUNCTION_INFO_V1(tasker_sees_name);

Datum
tasker_sees_everything(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(CurrentRoleSeesEverything());
}

Datum
tasker_visible_namespaces(PG_FUNCTION_ARGS)
{
	const Access *access = AccessOf(GetUserId());
	int32	   *ids = palloc(sizeof(int32) * Max(access->n, 1));

	for (int i = 0; i < access->n; i++)
		ids[i] = access->namespaces[i].task_namespace_id;
	PG_RETURN_DATUM(Int32Array(ids, access->n));
}

Datum
tasker_sees_template(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(Sees(&templates, PG_GETARG_INT32(0)));
}

Datum
tasker_sees_task(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(Sees(&tasks, PG_GETARG_INT64(0)));
}

Datum
tasker_sees_step(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(Sees(&steps, PG_GETARG_INT64(0)));
}

/* One may look at what roles have whose privileges one has, and at those confined to namespaces that one sees. */
Datum
tasker_sees_role(PG_FUNCTION_ARGS)
{
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	const Access *own = AccessOf(GetUserId());
	Oid			role = get_role_oid(name, true);
	const Access *others;

	if (!own->confined || own->everywhere != 0 || ActsAs(GetUserId(), name))
		PG_RETURN_BOOL(true);
	if (!OidIsValid(role))
		PG_RETURN_BOOL(false);
	others = AccessOf(role);
	if (!others->confined || others->everywhere != 0)
		PG_RETURN_BOOL(false);
	for (int i = 0; i < others->n; i++)
	{
		if (NamespaceOf(own, others->namespaces[i].task_namespace_id) == NULL)
			PG_RETURN_BOOL(false);
	}
	PG_RETURN_BOOL(true);
}

/* Names that templates share, and where it is said who uses them. */
typedef struct SharedName
{
	const char *kind;
	const char *relation;
	const char *index;
	const char *column;
	Oid			type;
	RegProcedure equals;
	const char *owner;
	OwnerTable *owners;
} SharedName;

static const SharedName shared_names[] = {
	{"named_step", "named_tasks_named_steps", "template_steps_by_named_step", "named_step_id", INT4OID, F_INT4EQ, "named_task_id", &templates},
	{"handler", "named_tasks_named_steps", "template_steps_by_handler", "handler_id", INT4OID, F_INT4EQ, "named_task_id", &templates},
	{"event", "named_step_events", "steps_of_custom_event", "name", TEXTOID, F_TEXTEQ, "named_task_id", &templates},
	{"annotation_type", "task_annotations", "annotations_of_type", "annotation_type_id", INT4OID, F_INT4EQ, "task_id", &tasks},
};

/* Whether anything that the current role sees uses a name that templates or tasks share. */
static bool
SeesUseOf(const SharedName *shared, Datum value)
{
	Relation	relation = table_open(ExtensionRelation(shared->relation), AccessShareLock);
	SysScanDesc scan;
	ScanKeyData key;
	HeapTuple	row;
	bool		sees = false;

	ScanKeyEntryInitialize(&key, 0, get_attnum(RelationGetRelid(relation), shared->column), BTEqualStrategyNumber,
						   InvalidOid, shared->type == TEXTOID ? DEFAULT_COLLATION_OID : InvalidOid, shared->equals, value);
	scan = systable_beginscan(relation, ExtensionRelation(shared->index), true, GetActiveSnapshot(), 1, &key);
	while (!sees && (row = systable_getnext(scan)) != NULL)
	{
		bool		is_null;
		Datum		owner = Column(relation, row, shared->owner, &is_null);

		CHECK_FOR_INTERRUPTS();
		sees = Sees(shared->owners, shared->owners == &templates ? DatumGetInt32(owner) : DatumGetInt64(owner));
	}
	systable_endscan(scan);
	table_close(relation, AccessShareLock);
	return sees;
}

/* The second argument is an integer or a text, as the name's table has it. */
Datum
tasker_sees_name(PG_FUNCTION_ARGS)
{
	char	   *kind = text_to_cstring(PG_GETARG_TEXT_PP(0));

	if (RoleMayEverywhere(GetUserId(), MAY_ANYTHING))
		PG_RETURN_BOOL(true);
	for (int i = 0; i < lengthof(shared_names); i++)
	{
		if (strcmp(kind, shared_names[i].kind) == 0)
			PG_RETURN_BOOL(SeesUseOf(&shared_names[i], PG_GETARG_DATUM(1)));
	}
	PG_RETURN_BOOL(false);
}

PG_FUNCTION_INFO_V1(tasker_namespaces_of_role);

Datum
tasker_namespaces_of_role(PG_FUNCTION_ARGS)
{
	Oid			role = get_role_oid(text_to_cstring(PG_GETARG_TEXT_PP(0)), true);
	uint32		may = CapabilityOfLabel(text_to_cstring(PG_GETARG_TEXT_PP(1)));
	const Access *access;
	int32	   *ids;
	int			n = 0;

	if (!OidIsValid(role))
		PG_RETURN_DATUM(Int32Array(NULL, 0));
	if (RoleMayEverywhere(role, may))
		PG_RETURN_NULL();
	access = AccessOf(role);
	ids = palloc(sizeof(int32) * Max(access->n, 1));
	for (int i = 0; i < access->n; i++)
	{
		if (access->namespaces[i].may & may)
			ids[n++] = access->namespaces[i].task_namespace_id;
	}
	PG_RETURN_DATUM(Int32Array(ids, n));
}
