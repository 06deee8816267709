/*
 * compat.h
 *		Differences between the PostgreSQL versions that we support, spelled
 *		as in the newest; no other file asks for the version.
 */
#ifndef TASKER_COMPAT_H
#define TASKER_COMPAT_H

#include "postgres.h"

#if PG_VERSION_NUM < 150000
#error "tasker needs PostgreSQL 15 or later"
#endif

/* 18 lets a module say its name and version. */
#if PG_VERSION_NUM >= 180000
#define TASKER_MODULE_MAGIC PG_MODULE_MAGIC_EXT(.name = "tasker", .version = "1.1")
#else
#define TASKER_MODULE_MAGIC PG_MODULE_MAGIC
#endif

/* 18 spells this as a prefix that C11 knows. */
#if PG_VERSION_NUM < 180000
#define pg_noreturn pg_attribute_noreturn()
#endif

/* 17 has named wait events of extensions; before, all show as "Extension". */
#if PG_VERSION_NUM < 170000
#include "utils/wait_event.h"
#define WaitEventExtensionNew(name) ((void) (name), PG_WAIT_EXTENSION)
#endif

/* 16 has one check of privileges for all kinds of objects (ours are functions), and errors of its parsers can be caught. */
#if PG_VERSION_NUM < 160000
#include "utils/acl.h"
#include "utils/regproc.h"
#define object_aclcheck(class, object, role, mode) pg_proc_aclcheck(object, role, mode)
#define stringToQualifiedNameList(string, escontext) stringToQualifiedNameList(string)
#endif

/* 16 moved the varlena macros to a header of their own. */
#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

/* 17 has injection points, 18 hands them an argument. */
#ifdef USE_INJECTION_POINTS
#include "utils/injection_point.h"
#if PG_VERSION_NUM < 180000
#undef INJECTION_POINT
#define INJECTION_POINT(name, arg) InjectionPointRun(name)
#endif
#endif

/*
 * 16 distinguishes which indexes an update must touch, 18 counts index scans
 * for EXPLAIN.  The headers come first: the macros must not meet their
 * declarations.
 */
#include "access/genam.h"
#include "access/tableam.h"
#include "executor/executor.h"
#if PG_VERSION_NUM < 160000
typedef bool TU_UpdateIndexes;
#define TU_None false
#define TU_All true
#define TU_Summarizing 2
#define ExecInsertIndexTuples(relation, slot, estate, update, no_error, conflict, arbiters, summarizing) \
	ExecInsertIndexTuples(relation, slot, estate, update, no_error, conflict, arbiters)
#endif
#if PG_VERSION_NUM < 180000
#define index_beginscan(heap, index, snapshot, instrument, keys, orderbys) \
	index_beginscan(heap, index, snapshot, keys, orderbys)
#endif

#endif							/* TASKER_COMPAT_H */
