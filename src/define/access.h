/*
 * access.h
 *		What a role may do in which namespace.
 *
 * tasker.capability_grants says it by names; a role also has what was granted
 * to the roles whose privileges it has.  Superusers, the extension's owner and
 * roles to which no row applies are unconfined: privileges on functions and
 * tables are all that counts for them.  A role with any row is confined to its
 * rows.  What a confined role may nothing with does not exist for it: it is
 * refused in the words for what is unknown.
 */
#ifndef TASKER_ACCESS_H
#define TASKER_ACCESS_H

#include "tasker.h"

/* Capabilities, and sets of them. */
#define MAY_OBSERVE		0x01
#define MAY_PRODUCE		0x02
#define MAY_EXECUTE		0x04
#define MAY_OPERATE		0x08
#define MAY_ADMINISTER	0x10
#define MAY_ANYTHING	0x1f

/*
 * Counts what may change the answers below, as far as this session has seen it:
 * what was remembered under an older count is out of date.
 */
extern uint64 AccessGeneration(void);

/* Whether there is a capability of this name. */
extern bool IsCapability(const char *label);

/* Whether a role is confined to what was granted to it. */
extern bool RoleIsConfined(Oid role);

/* Whether a role may do any of these in a namespace; an unconfined one may do everything. */
extern bool RoleMay(Oid role, int32 task_namespace_id, uint32 any_of);

/* Whether a role may do any of these in all namespaces. */
extern bool RoleMayEverywhere(Oid role, uint32 any_of);

/* Whether a role may do any of these in the namespace of a name, which need not exist. */
extern bool RoleMayByName(Oid role, const char *namespace_name, uint32 any_of);

/* Refuses an id of which the caller must not, or cannot, know more: 42704. */
pg_noreturn extern void RefuseUnknown(const char *what, int64 id);

/*
 * Raises 42501 unless the caller of the open query scope may do any of these in
 * the namespace, which it may know of.
 */
extern void RequireInNamespace(int32 task_namespace_id, uint32 any_of);

/* The same, where what is done reaches beyond any namespace. */
extern void RequireEverywhere(uint32 any_of);

/* Whether the caller of the open query scope has anything to do with a namespace. */
extern bool CallerKnowsNamespace(const char *namespace_name);

/*
 * Raises the error for what is unknown (42704) unless the caller of the open
 * query scope has anything to do with the namespace of the task or step, and
 * 42501 unless it may do any of these there.  Locks nothing.
 */
extern void RequireForTask(int64 task_id, uint32 any_of);
extern void RequireForStep(int64 step_id, uint32 any_of);

/* Whether the caller of the open query scope may act as a role: as the one that registered an executor, say. */
extern bool CallerActsAs(const char *role_name);

extern void InitAccess(void);

#endif							/* TASKER_ACCESS_H */
