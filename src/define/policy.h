/*
 * policy.h
 *		What a template says of the way its tasks run.
 */
#ifndef TASKER_POLICY_H
#define TASKER_POLICY_H

#include "tasker.h"

#include "define/strategy.h"

typedef struct TaskPolicy
{
	int32		named_task_id;	/* hash key */
	bool		concurrent;		/* false: one step of a task at a time */
	bool		dispatched;		/* its steps go to executors; false: to a coordinator */
	bool		waits;			/* it has steps that wait, see waiting_step.h */
	const char *owner;			/* whom its functions run as */
	const char *strategies[STRATEGY_ROLES];
} TaskPolicy;

/*
 * Reads again what may have changed.  Pointers from PolicyOf are good until
 * the next call of this.
 */
extern void RefreshPolicies(void);

/*
 * The policy of a named task, as of the last RefreshPolicies; one that says
 * nothing of the kind, as most, has the default.
 */
extern const TaskPolicy *PolicyOf(int32 named_task_id);

/* Whether there is any template whose policy is not the default. */
extern bool AnyPolicy(void);

/* Whether there is any template with steps that wait. */
extern bool AnyWaits(void);

#endif							/* TASKER_POLICY_H */
