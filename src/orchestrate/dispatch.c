/*
 * dispatch.c
 *		Giving ready steps to executors with free capacity and telling them.
 *
 * A step that is given out at once never enters the work queue.
 */
#include "postgres.h"

#include "access/detoast.h"
#include "commands/async.h"
#include "execute/claim.h"
#include "execute/claimed_step.h"
#include "orchestrate/advance.h"
#include "orchestrate/dispatch.h"
#include "orchestrate/roster.h"
#include "pg/clock.h"
#include "pg/fault.h"
#include "pg/measure.h"
#include "pg/query.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/jsonb.h"

/* NOTIFY refuses payloads of 8000 bytes. */
#define MAX_PAYLOAD 7900

/* A step whose entry in a payload would be longer is fetched by my_steps. */
#define MAX_PAYLOAD_ENTRY 6000

/* How long nothing is pushed when the queue of notifications is full, and up to which usage. */
#define QUIET_US	USECS_PER_SEC
#define QUEUE_USAGE_TO_GO_ON 0.5

/* Steps and who gets them. */
typedef struct Assignment
{
	int			n;
	int			room;
	ReadyStep  *steps;
	int		   *executors;		/* indexes of slots */
} Assignment;

/* The next executor of a handler that has free capacity, or -1. */
static int
FindFreeExecutor(Orchestrator *o, Handler *handler)
{
	for (int tried = 0; tried < handler->n; tried++)
	{
		int			e = handler->executors[handler->next];

		handler->next = (handler->next + 1) % handler->n;
		if (o->executors[e].in_flight < o->executors[e].executor.capacity)
			return e;
	}
	return -1;
}

/* Gives a step to an executor with free capacity; false where there is none. */
static bool
Assign(Batch *batch, Assignment *assignment, const ReadyStep *step)
{
	Handler    *handler = HandlerOf(batch->o, step->handler_id);
	int			e = FindFreeExecutor(batch->o, handler);

	if (e < 0)
		return false;
	if (assignment->n == assignment->room)
	{
		assignment->room = Max(64, 2 * assignment->room);
		assignment->steps = assignment->steps ?
			repalloc(assignment->steps, sizeof(ReadyStep) * assignment->room) :
			palloc(sizeof(ReadyStep) * assignment->room);
		assignment->executors = assignment->executors ?
			repalloc(assignment->executors, sizeof(int) * assignment->room) :
			palloc(sizeof(int) * assignment->room);
	}
	assignment->steps[assignment->n] = *step;
	assignment->executors[assignment->n++] = e;
	batch->o->executors[e].in_flight++;
	return true;
}

/*
 * Whether steps may be given out and told of.  Without room in the queue of
 * notifications they stay in the work queue, for those who claim.
 */
static bool
MayPush(Batch *batch)
{
	Orchestrator *o = batch->o;

	if (o->paused)
		return false;
	if (o->quiet_until == 0)
		return true;
	if (o->quiet_until <= batch->now &&
		DatumGetFloat8(DirectFunctionCall1(pg_notification_queue_usage, (Datum) 0)) < QUEUE_USAGE_TO_GO_ON)
	{
		o->quiet_until = 0;
		ereport(LOG, (errmsg("tasker: the queue of notifications has room again, steps are pushed")));
		return true;
	}
	if (o->quiet_until <= batch->now)
		o->quiet_until = batch->now + QUIET_US;
	batch->report.wake_at = Min(batch->report.wake_at, o->quiet_until);
	return false;
}

/*
 * New ready steps: given out at once where an executor is free and none of
 * the same handler waits already, else put into the queue.
 */
static void
AssignReady(Batch *batch, Assignment *assignment)
{
	Orchestrator *o = batch->o;
	int			waiting = 0;
	bool		may_push = MayPush(batch);

	qsort(batch->ready, batch->n_ready, sizeof(ReadyStep), CompareReadySteps);
	for (int i = 0; i < batch->n_ready; i++)
	{
		Handler    *handler;

		if (i > 0 && batch->ready[i].step_id == batch->ready[i - 1].step_id)
			continue;
		NoteReadyStep(batch->ready[i].step_id, batch->now);
		handler = HandlerOf(o, batch->ready[i].handler_id);
		if (may_push && !handler->may_wait && assignment->n < batch->batch_size &&
			Assign(batch, assignment, &batch->ready[i]))
			continue;
		handler->may_wait = true;
		batch->ready[waiting++] = batch->ready[i];
	}
	EnqueueSteps(batch->ready, waiting);
}

/* The free capacity of a handler's executors. */
static int
FreeCapacity(Orchestrator *o, const Handler *handler)
{
	int			sum = 0;

	for (int i = 0; i < handler->n; i++)
	{
		const ExecutorSlot *slot = &o->executors[handler->executors[i]];

		sum += Max(0, slot->executor.capacity - slot->in_flight);
	}
	return sum;
}

/* Waiting steps for executors that still have free capacity. */
static void
AssignWaiting(Batch *batch, Assignment *assignment)
{
	Orchestrator *o = batch->o;
	int			room = batch->batch_size - assignment->n;
	int			n_handlers = 0;
	int			wanted = 0;
	int			taken;
	int			left = 0;
	int32	   *handler_ids = palloc(sizeof(int32) * Max(hash_get_num_entries(o->handlers), 1));
	HASH_SEQ_STATUS scan;
	Handler    *handler;
	ReadyStep  *steps;

	hash_seq_init(&scan, o->handlers);
	while ((handler = hash_seq_search(&scan)) != NULL)
	{
		int			free_capacity = handler->may_wait ? FreeCapacity(o, handler) : 0;

		if (free_capacity == 0)
			continue;
		handler_ids[n_handlers++] = handler->handler_id;
		wanted += free_capacity;
	}
	if (n_handlers == 0 || !MayPush(batch))
		return;
	if (room <= 0 || IsFull(batch))
	{
		batch->report.more = true;
		return;
	}
	wanted = Min(wanted, room);
	steps = TakeSteps(handler_ids, n_handlers, wanted, &taken);
	for (int i = 0; i < taken; i++)
	{
		if (batch->batch_size == 1)
			o->last.id = steps[i].step_id;
		if (!IsSetAside(steps[i].step_id, false) && !Assign(batch, assignment, &steps[i]))
			steps[left++] = steps[i];
	}
	EnqueueSteps(steps, left);
	if (taken == wanted && left < taken)
		batch->report.more = true;
	for (int h = 0; h < n_handlers && taken < wanted; h++)
	{
		handler = HandlerOf(o, handler_ids[h]);
		handler->may_wait = HasWaitingSteps(handler_ids[h]);
		/* Another session is taking them, or the mark is past them: look again soon. */
		if (handler->may_wait)
			batch->report.wake_at = Min(batch->report.wake_at, batch->now + USECS_PER_SEC);
	}
}

/* An entry of a payload: what an executor needs to start, or the word to fetch it. */
static void
AppendPayloadEntry(StringInfo entry, const ClaimedStep *step)
{
	static const char *const text_names[] = {"task_name", "step_name", "handler"};
	static const char *const object_names[] = {"handler_config", "inputs", "dependency_results"};
	const StepTemplate *step_template = step->step_template;
	const char *texts[] = {step_template->task_name, step_template->step_name, step_template->handler};
	Datum		objects[] = {step_template->handler_config, step->inputs, step->dependency_results};
	int			without_objects;

	resetStringInfo(entry);
	appendStringInfo(entry, "{\"workflow_step_id\":" INT64_FORMAT ",\"claim\":%d,\"attempt\":%d,\"task_id\":" INT64_FORMAT,
					 step->step_id, step->claim, step->attempt, step->task_id);
	for (int i = 0; i < lengthof(texts); i++)
	{
		appendStringInfo(entry, ",\"%s\":", text_names[i]);
		escape_json(entry, texts[i]);
	}
	if (step->traceparent != NULL)
		appendStringInfo(entry, ",\"traceparent\":\"%s\"", step->traceparent);
	without_objects = entry->len;
	for (int i = 0; i < lengthof(objects); i++)
	{
		/* Reading a large value only to drop it is not worth it. */
		if (entry->len <= MAX_PAYLOAD_ENTRY && objects[i] != 0 &&
			toast_raw_datum_size(objects[i]) <= MAX_PAYLOAD_ENTRY)
		{
			Jsonb	   *jsonb = DatumGetJsonbP(objects[i]);

			appendStringInfo(entry, ",\"%s\":", object_names[i]);
			(void) JsonbToCString(entry, &jsonb->root, VARSIZE(jsonb));
			continue;
		}
		entry->len = MAX_PAYLOAD_ENTRY + 1;
		break;
	}
	if (entry->len > MAX_PAYLOAD_ENTRY)
	{
		entry->len = without_objects;
		entry->data[entry->len] = '\0';
		appendStringInfoString(entry, ",\"fetch\":true");
	}
	appendStringInfoChar(entry, '}');
}

static void
SendPayload(Batch *batch, ExecutorSlot *slot)
{
	appendStringInfoString(slot->payload, "]}");
	Async_Notify(slot->executor.channel, slot->payload->data);
	slot->payload = NULL;
	batch->report.notifications++;
}

/* Tells each executor about its steps, in as few messages as their size allows. */
static void
NotifyExecutors(Batch *batch, const ClaimedStep *steps, int n)
{
	Orchestrator *o = batch->o;
	StringInfoData entry;

	initStringInfo(&entry);
	for (int i = 0; i < n; i++)
	{
		ExecutorSlot *slot = FindExecutorSlot(o, steps[i].executor_id);

		NoteFlight(o, steps[i].step_id, steps[i].executor_id);
		AppendPayloadEntry(&entry, &steps[i]);
		if (slot->payload != NULL && slot->payload->len + entry.len + 3 > MAX_PAYLOAD)
			SendPayload(batch, slot);
		if (slot->payload == NULL)
		{
			slot->payload = makeStringInfo();
			appendStringInfoString(slot->payload, "{\"steps\":[");
		}
		else
			appendStringInfoChar(slot->payload, ',');
		appendBinaryStringInfo(slot->payload, entry.data, entry.len);
	}
	for (int e = 0; e < o->executor_count; e++)
	{
		if (o->executors[e].payload != NULL)
			SendPayload(batch, &o->executors[e]);
	}
}

typedef struct Claim
{
	int64		step_id;
	int64		executor_id;
} Claim;

/* Steps that are locked go back to the queue. */
static int
KeepAvailableClaims(Batch *batch, Claim *claims, int n)
{
	int64	   *ids = palloc(sizeof(int64) * n);
	int			available;
	int			kept = 0;

	for (int i = 0; i < n; i++)
		ids[i] = claims[i].step_id;
	available = LockAvailableSteps(ids, n);
	for (int i = 0, a = 0; i < n; i++)
	{
		if (a < available && RowInt64(a, 1) == claims[i].step_id)
		{
			claims[kept++] = claims[i];
			a++;
		}
		else
			Postpone(batch->o, WORK_CANDIDATES, claims[i].step_id, batch->now);
	}
	return kept;
}

static void
ClaimAssigned(Batch *batch, const Assignment *assignment)
{
	Orchestrator *o = batch->o;
	int			n = assignment->n;
	Claim	   *claims = palloc(sizeof(Claim) * n);
	int64	   *step_ids = palloc(sizeof(int64) * n);
	int64	   *executors = palloc(sizeof(int64) * n);
	MovedStep  *moved;
	int			claimed;

	for (int i = 0; i < n; i++)
	{
		ExecutorSlot *slot = &o->executors[assignment->executors[i]];

		claims[i] = (Claim)
		{
			.step_id = assignment->steps[i].step_id,.executor_id = slot->executor.executor_id
		};
		/* It counts if the claim succeeds. */
		slot->in_flight--;
	}
	qsort(claims, n, sizeof(Claim), CompareIds);
	if (AvoidsLockedRows(o))
		n = KeepAvailableClaims(batch, claims, n);
	for (int i = 0; i < n; i++)
	{
		step_ids[i] = claims[i].step_id;
		executors[i] = claims[i].executor_id;
	}
	moved = ClaimSteps(step_ids, executors, n, &claimed);
	batch->transitions += claimed;
	batch->report.claims += claimed;
	for (int i = 0; i < claimed; i++)
		step_ids[i] = moved[i].step_id;
	qsort(step_ids, claimed, sizeof(int64), CompareIds);
	FAULT_POINT("dispatched");
	NotifyExecutors(batch, ReadClaimedSteps(step_ids, claimed, MAX_PAYLOAD_ENTRY), claimed);
}

void
StopPushing(Orchestrator *o)
{
	o->quiet_until = TaskerNow() + QUIET_US;
}

void
Dispatch(Batch *batch)
{
	Assignment	assignment = {0};

	AssignReady(batch, &assignment);
	AssignWaiting(batch, &assignment);
	if (assignment.n > 0)
		ClaimAssigned(batch, &assignment);
}
