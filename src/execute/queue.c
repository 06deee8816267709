/*
 * queue.c
 *		The work queue: steps that are ready and have no executor yet.
 *
 * The queue is nearly empty whenever statistics look at it, so no statement
 * here leaves the planner a choice: probes with the whole key, scans bounded
 * by LIMIT inside LATERAL, deletes by ctid.
 *
 * Dead entries at the front of the index cost about 60 ns each until the
 * oldest snapshot lets them go.  So each session remembers per handler how
 * far it has taken (the low-water mark) and goes on from there; about once a
 * second, and after a rollback, it looks from the start again.
 */
#include "postgres.h"

#include <limits.h>

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "execute/queue.h"
#include "pg/query.h"
#include "pg/waiters.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#define RESCAN_INTERVAL_MS 1000

typedef struct LowWaterMark
{
	int32		handler_id;		/* hash key */
	int16		rank;
	int64		step_id;
	TimestampTz rescanned_at;
} LowWaterMark;

static HTAB *marks = NULL;
static bool forget_marks = false;

static KeptQuery ENQUEUE_STEPS = {
	.sql =
	"INSERT INTO tasker.work_queue (handler_id, rank, workflow_step_id)"
	" SELECT u.handler_id, u.rank, u.step_id"
	"   FROM ROWS FROM (unnest($1), unnest($2), unnest($3)) u(handler_id, rank, step_id)"
	" ON CONFLICT DO NOTHING",
	.nargs = 3,.types = {INT4ARRAYOID, INT4ARRAYOID, INT8ARRAYOID}
};

static KeptQuery TAKE_STEPS = {
	.sql =
	"DELETE FROM tasker.work_queue WHERE ctid = ANY (ARRAY("
	" SELECT q.ctid"
	"   FROM ROWS FROM (unnest($1), unnest($2), unnest($3)) h(handler_id, rank, step_id)"
	"  CROSS JOIN LATERAL ("
	"   SELECT w.ctid, w.rank, w.workflow_step_id FROM tasker.work_queue w"
	"    WHERE w.handler_id = h.handler_id"
	"      AND (w.rank, w.workflow_step_id) > (h.rank::smallint, h.step_id)"
	"    ORDER BY w.rank, w.workflow_step_id LIMIT $4 FOR UPDATE SKIP LOCKED) q"
	"  ORDER BY q.rank, q.workflow_step_id LIMIT $4))"
	" RETURNING handler_id, rank::integer, workflow_step_id",
	.nargs = 4,.types = {INT4ARRAYOID, INT4ARRAYOID, INT8ARRAYOID, INT8OID}
};

static KeptQuery HAS_WAITING_STEPS = {
	.sql = "SELECT 1 FROM tasker.work_queue WHERE handler_id = $1 LIMIT 1",
	.nargs = 1,.types = {INT4OID}
};

static KeptQuery DEQUEUE_STEPS = {
	.sql =
	"DELETE FROM tasker.work_queue WHERE ctid = ANY (ARRAY("
	" SELECT (SELECT q.ctid FROM tasker.work_queue q"
	"          WHERE q.handler_id = s.handler_id AND q.rank = s.rank"
	"            AND q.workflow_step_id = s.workflow_step_id)"
	"   FROM (SELECT unnest($1) AS u LIMIT cardinality($1)) batch JOIN tasker.workflow_steps s ON s.workflow_step_id = u))",
	.nargs = 1,.types = {INT8ARRAYOID}
};

/* A step put back in front of the mark must be found: the mark gives way. */
static void
LowerMarks(const ReadyStep *steps, int n)
{
	for (int i = 0; i < n && marks != NULL; i++)
	{
		LowWaterMark *mark = hash_search(marks, &steps[i].handler_id, HASH_FIND, NULL);

		if (mark == NULL || steps[i].rank > mark->rank ||
			(steps[i].rank == mark->rank && steps[i].step_id > mark->step_id))
			continue;
		mark->rank = steps[i].rank;
		mark->step_id = steps[i].step_id - 1;
	}
}

void
EnqueueSteps(const ReadyStep *steps, int n)
{
	int32	   *handlers = palloc(sizeof(int32) * Max(n, 1));
	int32	   *ranks = palloc(sizeof(int32) * Max(n, 1));
	int64	   *step_ids = palloc(sizeof(int64) * Max(n, 1));
	Datum		args[3];

	if (n == 0)
		return;
	for (int i = 0; i < n; i++)
	{
		handlers[i] = steps[i].handler_id;
		ranks[i] = steps[i].rank;
		step_ids[i] = steps[i].step_id;
		NoteStepsWaiting(steps[i].handler_id, 1);
	}
	args[0] = Int32Array(handlers, n);
	args[1] = Int32Array(ranks, n);
	args[2] = Int64Array(step_ids, n);
	(void) RunQuery(&ENQUEUE_STEPS, args, NULL);
	LowerMarks(steps, n);
}

void
ForgetLowWaterMarks(void)
{
	forget_marks = true;
}

/* What a transaction took that is rolled back lies behind the marks. */
static void
ForgetMarksAtAbort(XactEvent event, void *arg)
{
	forget_marks |= event == XACT_EVENT_ABORT;
}

static void
ForgetMarksAtSubtransactionAbort(SubXactEvent event, SubTransactionId mine,
								 SubTransactionId parent, void *arg)
{
	forget_marks |= event == SUBXACT_EVENT_ABORT_SUB;
}

void
InitQueue(void)
{
	RegisterXactCallback(ForgetMarksAtAbort, NULL);
	RegisterSubXactCallback(ForgetMarksAtSubtransactionAbort, NULL);
}

static LowWaterMark *
MarkOf(int32 handler_id)
{
	HASHCTL		control = {.keysize = sizeof(int32),.entrysize = sizeof(LowWaterMark)};
	LowWaterMark *mark;
	bool		found;

	if (marks == NULL)
		marks = hash_create("tasker low-water marks", 64, &control, HASH_ELEM | HASH_BLOBS);
	mark = hash_search(marks, &handler_id, HASH_ENTER, &found);
	if (!found)
	{
		mark->rank = PG_INT16_MIN;
		mark->step_id = 0;
		mark->rescanned_at = GetCurrentTimestamp();
	}
	return mark;
}

int
CompareReadySteps(const void *a, const void *b)
{
	const ReadyStep *left = a;
	const ReadyStep *right = b;

	if (left->rank != right->rank)
		return left->rank < right->rank ? -1 : 1;
	return left->step_id < right->step_id ? -1 : left->step_id > right->step_id;
}

/* Takes what lies beyond the marks, and moves them. */
static int
TakeBeyondMarks(const int32 *handler_ids, int n_handlers, int max, ReadyStep *steps)
{
	int32	   *ranks = palloc(sizeof(int32) * n_handlers);
	int64	   *step_ids = palloc(sizeof(int64) * n_handlers);
	Datum		args[4];
	int			n;

	for (int h = 0; h < n_handlers; h++)
	{
		ranks[h] = MarkOf(handler_ids[h])->rank;
		step_ids[h] = MarkOf(handler_ids[h])->step_id;
	}
	args[0] = Int32Array(handler_ids, n_handlers);
	args[1] = Int32Array(ranks, n_handlers);
	args[2] = Int64Array(step_ids, n_handlers);
	args[3] = Int64GetDatum(max);
	n = (int) RunQuery(&TAKE_STEPS, args, NULL);
	for (int i = 0; i < n; i++)
		steps[i] = (ReadyStep)
	{
		.handler_id = RowInt32(i, 1),.rank = (int16) RowInt32(i, 2),.step_id = RowInt64(i, 3)
	};
	qsort(steps, n, sizeof(ReadyStep), CompareReadySteps);
	for (int i = 0; i < n; i++)
	{
		LowWaterMark *mark = MarkOf(steps[i].handler_id);

		mark->rank = steps[i].rank;
		mark->step_id = steps[i].step_id;
	}
	return n;
}

/* Sets those marks back that were not looked behind for a second; true if any. */
static bool
ResetMarks(const int32 *handler_ids, int n_handlers)
{
	TimestampTz now = GetCurrentTimestamp();
	bool		any = false;

	for (int h = 0; h < n_handlers; h++)
	{
		LowWaterMark *mark = MarkOf(handler_ids[h]);

		if (mark->rank == PG_INT16_MIN && mark->step_id == 0)
			continue;
		if (!TimestampDifferenceExceeds(mark->rescanned_at, now, RESCAN_INTERVAL_MS))
			continue;
		mark->rank = PG_INT16_MIN;
		mark->step_id = 0;
		mark->rescanned_at = now;
		any = true;
	}
	return any;
}

ReadyStep *
TakeSteps(const int32 *handler_ids, int n_handlers, int max, int *taken)
{
	ReadyStep  *steps = palloc(sizeof(ReadyStep) * Max(max, 1));

	*taken = 0;
	if (n_handlers == 0 || max <= 0)
		return steps;
	if (forget_marks && marks != NULL)
	{
		hash_destroy(marks);
		marks = NULL;
	}
	forget_marks = false;
	(void) ResetMarks(handler_ids, n_handlers);
	*taken = TakeBeyondMarks(handler_ids, n_handlers, max, steps);
	for (int i = 0; i < *taken; i++)
		NoteStepsTaken(steps[i].handler_id, 1);
	return steps;
}

bool
HasWaitingSteps(int32 handler_id)
{
	Datum		arg = Int32GetDatum(handler_id);

	return RunQuery(&HAS_WAITING_STEPS, &arg, NULL) > 0;
}

void
DequeueSteps(const int64 *step_ids, int n)
{
	Datum		arg = Int64Array(step_ids, n);

	if (n > 0)
		(void) RunQuery(&DEQUEUE_STEPS, &arg, NULL);
}
