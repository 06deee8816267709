/*
 * roster.c
 *		Which executors are there, what they can run, and what those who are
 *		gone have left behind.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "commands/dbcommands.h"
#include "miscadmin.h"
#include "orchestrate/roster.h"
#include "pg/query.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/memutils.h"

Handler *
HandlerOf(Orchestrator *o, int32 handler_id)
{
	bool		found;
	Handler    *handler = hash_search(o->handlers, &handler_id, HASH_ENTER, &found);

	if (!found)
	{
		handler->may_wait = true;
		handler->n = handler->next = 0;
		handler->executors = NULL;
	}
	return handler;
}

/* Lists for each handler the executors that steps are pushed to. */
static void
ListHandlers(Orchestrator *o)
{
	o->handlers = MakeHash(o->executor_context, "tasker handlers", sizeof(int32), sizeof(Handler));
	for (int e = 0; e < o->executor_count; e++)
	{
		const Executor *executor = &o->executors[e].executor;

		for (int h = 0; h < executor->handler_count && executor->capacity > 0; h++)
		{
			Handler    *handler = HandlerOf(o, executor->handler_ids[h]);

			if ((handler->n & (handler->n + 1)) == 0)
				handler->executors = handler->executors ?
					repalloc(handler->executors, sizeof(int) * (2 * handler->n + 2)) :
					palloc(sizeof(int) * 2);
			handler->executors[handler->n++] = e;
		}
	}
}

static void
CountFlights(Orchestrator *o)
{
	HASH_SEQ_STATUS scan;
	InFlight   *flight;

	hash_seq_init(&scan, o->in_flight);
	while ((flight = hash_seq_search(&scan)) != NULL)
	{
		ExecutorSlot *slot = FindExecutorSlot(o, flight->executor_id);

		if (slot != NULL)
			slot->in_flight++;
	}
}

/* Of so many lost executors at once the log has a line each. */
#define MAX_LOST_LINES 10

/* Says in the server log who was lost and left steps behind. */
static void
ReportLost(const Orchestrator *o, const Executor **gone, int n)
{
	const char *database = get_database_name(MyDatabaseId);
	int			lines = 0;

	for (int i = 0; i < n; i++)
	{
		HASH_SEQ_STATUS scan;
		InFlight   *flight;
		int			steps = 0;

		hash_seq_init(&scan, o->in_flight);
		while ((flight = hash_seq_search(&scan)) != NULL)
			steps += flight->executor_id == gone[i]->executor_id;
		if (steps > 0 && lines++ < MAX_LOST_LINES)
			ereport(LOG,
					(errmsg("tasker: executor " INT64_FORMAT " of database \"%s\" was lost; steps taken back: %d",
							gone[i]->executor_id, database, steps),
					 gone[i]->detached ? errdetail("No heartbeat came within its lease.") :
					 errdetail("Its session has ended.")));
	}
	if (lines > MAX_LOST_LINES)
		ereport(LOG,
				(errmsg("tasker: %d more executors of database \"%s\" were lost with steps", lines - MAX_LOST_LINES, database),
				 errhint("tasker.stat_executors shows them.")));
}

/* Leaves of the executors those that are among the ids; returns how many. */
static int
KeepOnly(const Executor **executors, int n, const int64 *ids, int n_ids)
{
	int			kept = 0;

	for (int i = 0; i < n; i++)
	{
		for (int k = 0; k < n_ids; k++)
		{
			if (executors[i]->executor_id == ids[k])
			{
				executors[kept++] = executors[i];
				break;
			}
		}
	}
	return kept;
}

/* Reads who is there; those who are gone are ended. */
static void
ReadExecutors(Batch *batch)
{
	Orchestrator *o = batch->o;
	int64	   *gone;
	const Executor **lost;
	Executor   *executors;
	MemoryContext caller;
	int			n;
	int			n_gone = 0;

	MemoryContextReset(o->executor_context);
	caller = MemoryContextSwitchTo(o->executor_context);
	executors = ReadLiveExecutors(&n);
	o->executors = palloc0(sizeof(ExecutorSlot) * Max(n, 1));
	o->executor_count = 0;
	o->executors_good_until = DT_NOEND;
	gone = palloc(sizeof(int64) * Max(n, 1));
	lost = palloc(sizeof(Executor *) * Max(n, 1));
	for (int i = 0; i < n; i++)
	{
		TimestampTz good_until;

		if (ExecutorIsAlive(&executors[i], batch->now, &good_until))
		{
			o->executors[o->executor_count++].executor = executors[i];
			o->executors_good_until = Min(o->executors_good_until, good_until);
		}
		else
		{
			lost[n_gone] = &executors[i];
			gone[n_gone++] = executors[i].executor_id;
		}
	}
	ListHandlers(o);
	MemoryContextSwitchTo(caller);
	CountFlights(o);
	/* Whoever has locked one unregisters it, and if that fails the next look finds it. */
	n = LockLiveExecutors(gone, n_gone);
	EndExecutors(gone, n, "lost");
	ReportLost(o, lost, KeepOnly(lost, n_gone, gone, n));
	o->refresh_executors = n < n_gone;
	if (n < n_gone)
		ComeBackSoon(o, batch->now);
}

/* Leases that would have run out may have been renewed since they were read. */
static void
CheckLeases(Batch *batch)
{
	Orchestrator *o = batch->o;
	TimestampTz first = DT_NOEND;

	for (int e = 0; e < o->executor_count; e++)
	{
		TimestampTz good_until;

		if (!o->executors[e].executor.detached)
			continue;
		if (!ExecutorIsAlive(&o->executors[e].executor, batch->now, &good_until))
			o->refresh_executors = true;
		first = Min(first, good_until);
	}
	o->executors_good_until = first;
}

/* Room for failures, which lost executors and timeouts add. */
void
AddFailure(Batch *batch, int64 step_id, int32 claim, char *error, const char *error_class, int32 retry_after)
{
	if (batch->failures == NULL)
		batch->failures = palloc(sizeof(StepFailure) * 16);
	else if (batch->n_failures >= 16 && (batch->n_failures & (batch->n_failures - 1)) == 0)
		batch->failures = repalloc(batch->failures, sizeof(StepFailure) * 2 * batch->n_failures);
	batch->failures[batch->n_failures++] = (StepFailure)
	{
		.step_id = step_id,.claim = claim,.error = error,.error_class = error_class,
			.retryable = true,.retry_after = retry_after
	};
}

static KeptQuery READ_CLAIMS = {
	.sql =
	"SELECT s.workflow_step_id, s.sort_key, s.executor_id, coalesce(e.end_reason = '" END_RELEASED "', false)"
	"  FROM (SELECT unnest($1) AS u LIMIT cardinality($1)) batch JOIN tasker.workflow_steps s ON s.workflow_step_id = u"
	"  LEFT JOIN tasker.executors e ON e.executor_id = s.executor_id"
	" WHERE s.state = 'in_progress' AND s.executor_id IS NOT NULL",
	.nargs = 1,.types = {INT8ARRAYOID}
};

/* Steps whose executor is not there any more fail, to be retried at once. */
static void
FindLostSteps(Batch *batch)
{
	Orchestrator *o = batch->o;
	IdList		lost = {0};
	HASH_SEQ_STATUS scan;
	InFlight   *flight;
	int			n;
	int64	   *step_ids;
	Datum		arg;
	uint64		rows;

	hash_seq_init(&scan, o->in_flight);
	while ((flight = hash_seq_search(&scan)) != NULL)
	{
		if (FindExecutorSlot(o, flight->executor_id) == NULL)
			AddId(CurrentMemoryContext, &lost, flight->step_id);
	}
	if (lost.n == 0)
		return;
	step_ids = TakeIds(&lost, lost.n, &n);
	arg = Int64Array(step_ids, n);
	rows = RunQuery(&READ_CLAIMS, &arg, NULL);
	for (uint64 row = 0; row < rows; row++)
	{
		if (RowBool(row, 4))
		{
			AddId(CurrentMemoryContext, &batch->release, RowInt64(row, 1));
			continue;
		}
		AddFailure(batch, RowInt64(row, 1), RowInt32(row, 2),
				   psprintf("executor " INT64_FORMAT " was lost", RowInt64(row, 3)), "executor_lost", 0);
	}
}

void
LookAtExecutors(Batch *batch)
{
	Orchestrator *o = batch->o;

	if (!o->refresh_executors && o->executors_good_until <= batch->now)
		CheckLeases(batch);
	if (!o->refresh_executors)
		return;
	ReadExecutors(batch);
	FindLostSteps(batch);
}
