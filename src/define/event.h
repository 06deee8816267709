/*
 * event.h
 *		The catalogue of custom events: what may be announced besides the
 *		changes of state, and which steps may announce it.
 */
#ifndef TASKER_EVENT_H
#define TASKER_EVENT_H

#include "tasker.h"

/* What is wrong with the name of a custom event; NULL where nothing is. */
extern const char *EventNameProblem(const char *name);

/* A custom event that a step of a template may announce. */
typedef struct StepEvent
{
	int32		named_step_id;
	const char *name;
	const char *description;	/* NULL: says nothing of it */
} StepEvent;

/*
 * Enters the events of a template's steps, which are there already; it has no
 * others yet.  A description replaces another one.  Needs an open query scope.
 */
extern void WriteStepEvents(int32 named_task_id, const StepEvent *events, int n);

/*
 * Raises 42704 unless the event is in the catalogue, and 22023 unless the
 * payload, a jsonb, is valid by its schema.  Needs an open query scope.
 */
extern void CheckEventPayload(const char *name, Datum payload);

#endif							/* TASKER_EVENT_H */
