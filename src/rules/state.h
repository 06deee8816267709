/*
 * state.h
 *		The states of tasks and steps and which may follow which. Pure.
 *
 * Source of the tables: the state machines of the original Tasker engine,
 * with the differences that docs/architecture.md lists.
 */
#ifndef TASKER_STATE_H
#define TASKER_STATE_H

#include "tasker.h"

/* In the order of the labels of the SQL type tasker.state. */
typedef enum TaskerState
{
	STATE_NONE,					/* before the creation of a task */
	STATE_PENDING,
	STATE_IN_PROGRESS,
	STATE_COMPLETE,
	STATE_ERROR,
	STATE_CANCELLED,
	STATE_RESOLVED_MANUALLY
} TaskerState;

typedef enum StateOwner
{
	OWNER_TASK,
	OWNER_STEP
} StateOwner;

typedef struct LegalTransition
{
	StateOwner	owner;
	TaskerState from;
	TaskerState to;
	const char *event;			/* what it announces */
} LegalTransition;

extern const LegalTransition LegalTransitions[];
extern const int LegalTransitionCount;

/* The label of a state in SQL and messages; "none" for STATE_NONE. */
extern const char *StateLabel(TaskerState state);

/* The state of a label; STATE_NONE where there is no such label. */
extern TaskerState StateOfLabel(const char *label);

/* "task" or "step". */
extern const char *OwnerLabel(StateOwner owner);

extern bool IsLegalTransition(StateOwner owner, TaskerState from, TaskerState to);

/* Whether a task in this state runs no more, unless someone intervenes. */
extern bool EndsTask(TaskerState state);

/* Whether a step in this state lets its dependents run. */
extern bool SatisfiesDependents(TaskerState state);

/* The states that may follow, as "a, b or c"; "none" where it is final. */
extern char *NextStates(StateOwner owner, TaskerState from);

#endif							/* TASKER_STATE_H */
