/*
 * event_payload.h
 *		What is told of an event: whose it is, and its payload.
 */
#ifndef TASKER_EVENT_PAYLOAD_H
#define TASKER_EVENT_PAYLOAD_H

#include "tasker.h"

#include "run/event_window.h"

/* Whose event it is; 0: nobody's. */
typedef struct EventOwner
{
	int64		task_id;
	int64		step_id;
} EventOwner;

typedef struct EventDetails
{
	EventOwner	owner;
	TimestampTz occurred_at;
	Datum		payload;		/* jsonb */
} EventDetails;

typedef struct EventDescriber EventDescriber;

/* Prepares descriptions; begins an access (see table.h), and ends it. */
extern EventDescriber *BeginDescribing(void);
extern void EndDescribing(EventDescriber *describer);

/* Whose event it is; without its task, or publisher, where retention has removed that. */
extern void FindEventOwner(EventDescriber *describer, const LoggedEvent *event, EventOwner *owner);

/*
 * An event with its payload, the same as the view tasker.events has; false
 * where retention has removed it.  What it needs is allocated in the current
 * memory context.
 */
extern bool DescribeEvent(EventDescriber *describer, const LoggedEvent *event, EventDetails *details);

#endif							/* TASKER_EVENT_PAYLOAD_H */
