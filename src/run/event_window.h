/*
 * event_window.h
 *		The events between two positions in the logs, in their order.
 */
#ifndef TASKER_EVENT_WINDOW_H
#define TASKER_EVENT_WINDOW_H

#include "tasker.h"

#include "datatype/timestamp.h"
#include "pg/table.h"
#include "rules/state.h"
#include "utils/jsonb.h"

typedef enum EventKind
{
	EVENT_OF_TASK,
	EVENT_OF_STEP,
	EVENT_CUSTOM,
	EVENT_KINDS
} EventKind;

typedef enum PublishedColumn
{
	PUBLISHED_ID, PUBLISHED_XACT, PUBLISHED_AT, PUBLISHED_NAME, PUBLISHED_TASK, PUBLISHED_STEP, PUBLISHED_ROLE,
	PUBLISHED_PAYLOAD, PUBLISHED_COLUMNS
} PublishedColumn;

extern const TableShape PUBLISHED_EVENTS;

/*
 * A transition, as its row says, and what its owner's log says up to there.
 */
typedef struct Happened
{
	TaskerState from;
	TaskerState to;
	TimestampTz at;
	TimestampTz started_at;		/* of the attempt, or of the task; 0: it has not */
	int			attempt;		/* claims that were not given back, since an operator last set them to zero */
	bool		has_executor;
	int64		executor_id;
	const char *role;
	Jsonb	   *metadata;		/* NULL: none */
} Happened;

typedef struct LoggedEvent
{
	TimestampTz at;				/* orders it, with the next three */
	int32		place;
	int32		sort_key;		/* 0 for custom events */
	int64		id;				/* of the task, the step or the published event */
	EventKind	kind;
	const char *name;			/* NULL: a transition that is none of ours */
	bool		is_whole;		/* the next is all that the log says: its owner's log began in the window */
	Happened	happened;
} LoggedEvent;

/* Adds one more row of an owner's log to what is known of its attempts. */
extern void FollowAttempts(Happened *happened, EventKind kind, TaskerState from, TaskerState to, TimestampTz at,
						   bool set_to_zero);

typedef struct EventWindow
{
	int			n;
	LoggedEvent **events;
} EventWindow;

/* "task", "step" or "custom". */
extern const char *EventCategory(EventKind kind);

/* Names an event for ever. */
extern char *EventKey(const LoggedEvent *event);

/* Less than, equal to or greater than zero, as an event comes before, at or after a place in the order. */
extern int	CompareEventTo(const LoggedEvent *event, TimestampTz at, int32 place, int64 id, int32 sort_key);

/*
 * The events of some kinds, of the transactions that had not ended at one
 * position and had at another one.  Good until the next call, or until
 * forgotten: who reads a window page by page finds it again.  Needs an open
 * query scope.
 */
extern const EventWindow *ReadEventWindow(const char *begin, const char *end, const bool kinds[EVENT_KINDS]);

/* The window is read. */
extern void ForgetEventWindow(void);

#endif							/* TASKER_EVENT_WINDOW_H */
