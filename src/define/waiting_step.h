/*
 * waiting_step.h
 *		Steps that wait instead of being run: for a time or for an event, as
 *		their template says.
 *
 * A waiting step has no executor: the orchestrator begins it and ends it.
 */
#ifndef TASKER_WAITING_STEP_H
#define TASKER_WAITING_STEP_H

#include "tasker.h"

#include "rules/document.h"

/* What stands for the handler of a waiting step wherever handlers are named. */
#define SLEEP_HANDLER "tasker.sleep"
#define AWAIT_HANDLER "tasker.await_event"

/*
 * What a step template waits for, as {"sleep": ...} or {"await_event": ...};
 * NULL where it has a handler.  Raises what is wrong with it.
 */
extern Jsonb *ReadWaitingStep(const DocumentReader *reader, JsonbContainer *step);

/* Which of the two handlers stands for what ReadWaitingStep has returned. */
extern char *WaitingHandler(Jsonb *waits_for);

/*
 * Raises an error unless the event that a step waits for is in the catalogue,
 * and the keys that it is told by belong to its payload.  False where it waits
 * for none, but sleeps.  Needs an open query scope.
 */
extern bool CheckAwaitedEvent(const DocumentReader *reader, Jsonb *waits_for);

/*
 * How steps of some template tell the events of a name that are theirs: by
 * these keys of the payload, and by the task of the event, or not.
 */
typedef struct AwaitedEvent
{
	const char *name;
	Datum		keys;			/* jsonb: an array of the keys, sorted */
	bool		own_task;		/* the event is of the waiting step's own task */
} AwaitedEvent;

/*
 * All ways in which events are awaited, in the order of their names, and their
 * number; good until the next call.  Needs an open query scope.
 */
extern const AwaitedEvent *AwaitedEvents(int *n);

/*
 * Whether any template has a step that waits for events of this name.  Where
 * the caller's snapshot is old, what is newer counts as awaited.
 */
extern bool IsAwaitedEvent(const char *name);

#endif							/* TASKER_WAITING_STEP_H */
