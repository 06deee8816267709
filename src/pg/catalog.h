/*
 * catalog.h
 *		Where the extension is in this database.
 */
#ifndef TASKER_CATALOG_H
#define TASKER_CATALOG_H

#include "tasker.h"

/* The version of the SQL that this library is of; tasker.control has it, too. */
#define TASKER_VERSION "1.1"

/*
 * Everything here raises 55000 where the SQL of the extension is of a later
 * version than this library.
 */

/*
 * Whether the extension is installed in this database.  The caller must be
 * in a transaction.
 */
extern bool ExtensionInstalled(void);

/* The owner of the extension; raises 42704 where it is not installed. */
extern Oid	ExtensionOwner(void);

/*
 * The version of the extension's SQL in this database, 1.2 as 102; raises
 * 42704 where it is not installed.  A new library meets the SQL of earlier
 * versions until somebody runs ALTER EXTENSION tasker UPDATE, and works with
 * it: whoever needs an object that came later asks here first.  Upgrade
 * scripts end with a change of tasker.named_tasks, so that every session
 * notices.
 */
extern int	SchemaVersion(void);

/*
 * Counts the changes of definitions (templates, pauses) that this session has
 * seen; what was read under an older count may be out of date.
 */
extern uint64 DefinitionsGeneration(void);

/* Makes every session see a change of definitions when this transaction commits. */
extern void InvalidateDefinitions(void);

/* A relation of the extension by its name; it must exist. */
extern Oid	ExtensionRelation(const char *name);

/* A type of the extension by its name; it must exist. */
extern Oid	ExtensionType(const char *name);

extern void InitCatalog(void);

#endif							/* TASKER_CATALOG_H */
