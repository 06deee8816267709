/*
 * queue.c
 *		The work queue: steps that are ready and have no executor yet.
 *
 * The queue is nearly empty whenever statistics look at it, and any plan made
 * for an empty table goes wrong when it is full.  So nothing is planned here:
 * rows are reached through their index directly.
 *
 * Dead entries at the front of the index cost about 60 ns each until the
 * oldest snapshot lets them go.  So each session remembers per handler how
 * far it has taken (the low-water mark) and goes on from there.  What lies
 * behind the mark nevertheless, because a claim was rolled back or an older
 * step came back, is found by looking from the start again now and then: once
 * a second, or less often where that look takes long.
 */
#include "postgres.h"

#include "access/xact.h"
#include "execute/queue.h"
#include "pg/query.h"
#include "pg/table.h"
#include "pg/waiters.h"
#include "portability/instr_time.h"
#include "run/row.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#define RESCAN_INTERVAL_MS 1000

/* Looking from the start takes at most one part in so many of the time, */
#define RESCAN_SHARE 50

/* and costs nothing to speak of up to so many microseconds. */
#define CHEAP_LOOK_US 200

typedef struct LowWaterMark
{
	int32		handler_id;		/* hash key */
	int16		rank;
	int64		step_id;		/* 0: at the start */
	TimestampTz rescan_at;		/* when to look from the start again */
	int64		look_us;		/* how long that has taken the last time */
} LowWaterMark;

static HTAB *marks = NULL;
static bool forget_marks = false;

typedef enum QueueColumn
{
	QUEUE_HANDLER, QUEUE_RANK, QUEUE_STEP, QUEUE_COLUMNS
} QueueColumn;

static const TableShape QUEUE = {
	.name = "work_queue",.n_columns = QUEUE_COLUMNS,
	.columns = {"handler_id", "rank", "workflow_step_id"}
};

static const int queue_key[] = {QUEUE_HANDLER, QUEUE_RANK, QUEUE_STEP};

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

/* Whether the queue has the row already, as far as anyone can say. */
static bool
IsQueued(Lookup *by_key, const ReadyStep *step)
{
	Datum		key[] = {Int32GetDatum(step->handler_id), Int16GetDatum(step->rank), Int64GetDatum(step->step_id)};

	LookFor(by_key, 3, key);
	return NextRow(by_key) != NULL;
}

static int
CompareByKey(const void *a, const void *b)
{
	const ReadyStep *left = a;
	const ReadyStep *right = b;

	if (left->handler_id != right->handler_id)
		return left->handler_id < right->handler_id ? -1 : 1;
	return CompareReadySteps(a, b);
}

/*
 * Only who holds the orchestration lock writes here, so that a row that the
 * latest look does not find cannot come from someone else meanwhile.
 */
void
EnqueueSteps(const ReadyStep *steps, int n)
{
	static const bool no_nulls[QUEUE_COLUMNS] = {false};
	ReadyStep  *sorted;
	Table	   *queue;
	Lookup	   *by_key;
	Appender   *appender;

	if (n == 0)
		return;
	sorted = palloc(sizeof(ReadyStep) * n);
	memcpy(sorted, steps, sizeof(ReadyStep) * n);
	qsort(sorted, n, sizeof(ReadyStep), CompareByKey);
	BeginAccess();
	queue = OpenTable(&QUEUE);
	by_key = BeginLatestLookup(queue, 3, queue_key);
	appender = BeginAppend(queue);
	for (int i = 0; i < n; i++)
	{
		Datum		values[] = {Int32GetDatum(sorted[i].handler_id), Int16GetDatum(sorted[i].rank), Int64GetDatum(sorted[i].step_id)};

		if ((i > 0 && sorted[i].step_id == sorted[i - 1].step_id) || IsQueued(by_key, &sorted[i]))
			continue;
		AppendRow(appender, sorted[i].step_id, values, no_nulls);
		NoteStepsWaiting(sorted[i].handler_id, 1);
	}
	EndAppend(appender);
	EndLookup(by_key);
	EndAccess();
	pfree(sorted);
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
		mark->rescan_at = 0;
		mark->look_us = 0;
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

/* ---------- taking ---------- */

/* The rows of one handler, from its mark on. */
typedef struct Cursor
{
	int32		handler_id;
	bool		from_start;
	Lookup	   *same_rank;		/* behind the mark, of the mark's rank; NULL: done with */
	Lookup	   *later_ranks;
	TupleTableSlot *row;		/* the next one; NULL: none */
	ReadyStep	step;			/* what the row says */
} Cursor;

static void
AdvanceCursor(Table *queue, Cursor *cursor)
{
	cursor->row = NULL;
	if (cursor->same_rank != NULL)
	{
		cursor->row = NextRow(cursor->same_rank);
		if (cursor->row == NULL)
		{
			EndLookup(cursor->same_rank);
			cursor->same_rank = NULL;
		}
	}
	if (cursor->row == NULL)
		cursor->row = NextRow(cursor->later_ranks);
	if (cursor->row == NULL)
		return;
	cursor->step = (ReadyStep)
	{
		.handler_id = cursor->handler_id,
			.rank = DatumGetInt16(RowColumn(queue, cursor->row, QUEUE_RANK, NULL)),
			.step_id = DatumGetInt64(RowColumn(queue, cursor->row, QUEUE_STEP, NULL)),
	};
}

/*
 * Begins at the start.  How long it takes to the first row says when to do
 * that again; the mark goes back to a row that was found behind it.
 */
static void
LookFromStart(Table *queue, Cursor *cursor, LowWaterMark *mark)
{
	Datum		key[] = {Int32GetDatum(cursor->handler_id), Int16GetDatum(PG_INT16_MIN)};
	ReadyStep	at_mark = {.rank = mark->rank,.step_id = mark->step_id};
	instr_time	begun;
	instr_time	took;

	INSTR_TIME_SET_CURRENT(begun);
	cursor->from_start = true;
	LookFrom(cursor->later_ranks, 2, key);
	AdvanceCursor(queue, cursor);
	INSTR_TIME_SET_CURRENT(took);
	INSTR_TIME_SUBTRACT(took, begun);
	mark->look_us = (int64) INSTR_TIME_GET_MICROSEC(took);
	mark->rescan_at = GetCurrentTimestamp() +
		Max(RESCAN_INTERVAL_MS * INT64CONST(1000), mark->look_us * RESCAN_SHARE);
	if (cursor->row != NULL && CompareReadySteps(&cursor->step, &at_mark) <= 0)
	{
		mark->rank = cursor->step.rank;
		mark->step_id = cursor->step.step_id - 1;
	}
}

/* Begins at the mark, or at the start where it is time to look there again. */
static void
OpenCursor(Table *queue, Cursor *cursor, int32 handler_id)
{
	LowWaterMark *mark = MarkOf(handler_id);
	Datum		key[] = {Int32GetDatum(handler_id), Int16GetDatum(mark->rank), Int64GetDatum(mark->step_id)};

	cursor->handler_id = handler_id;
	cursor->later_ranks = BeginLookup(queue, 2, queue_key);
	if (mark->step_id == 0 || mark->rescan_at <= GetCurrentTimestamp())
	{
		LookFromStart(queue, cursor, mark);
		return;
	}
	cursor->same_rank = BeginLookup(queue, 3, queue_key);
	LookBeyond(cursor->same_rank, 3, key);
	LookBeyond(cursor->later_ranks, 2, key);
	AdvanceCursor(queue, cursor);
}

static void
CloseCursor(Cursor *cursor)
{
	if (cursor->same_rank != NULL)
		EndLookup(cursor->same_rank);
	EndLookup(cursor->later_ranks);
}

/* The cursor whose row is to be given out first; NULL where no row is left. */
static Cursor *
FirstCursor(Cursor *cursors, int n)
{
	Cursor	   *first = NULL;

	for (int i = 0; i < n; i++)
	{
		if (cursors[i].row != NULL && (first == NULL || CompareReadySteps(&cursors[i].step, &first->step) < 0))
			first = &cursors[i];
	}
	return first;
}

ReadyStep *
TakeSteps(const int32 *handler_ids, int n_handlers, int max, int *taken)
{
	ReadyStep  *steps = palloc(sizeof(ReadyStep) * Max(max, 1));
	Cursor	   *cursors = palloc0(sizeof(Cursor) * Max(n_handlers, 1));
	Cursor	   *cursor;
	Table	   *queue;

	*taken = 0;
	if (n_handlers == 0 || max <= 0)
		return steps;
	if (forget_marks && marks != NULL)
	{
		hash_destroy(marks);
		marks = NULL;
	}
	forget_marks = false;
	BeginAccess();
	queue = OpenTable(&QUEUE);
	for (int h = 0; h < n_handlers; h++)
		OpenCursor(queue, &cursors[h], handler_ids[h]);
	while (*taken < max && (cursor = FirstCursor(cursors, n_handlers)) != NULL)
	{
		if (RemoveRowNoWait(queue, cursor->row))
		{
			LowWaterMark *mark = MarkOf(cursor->handler_id);

			mark->rank = cursor->step.rank;
			mark->step_id = cursor->step.step_id;
			steps[(*taken)++] = cursor->step;
			NoteStepsTaken(cursor->handler_id, 1);
		}
		AdvanceCursor(queue, cursor);
	}
	for (int h = 0; h < n_handlers; h++)
		CloseCursor(&cursors[h]);
	EndAccess();
	return steps;
}

bool
HasWaitingSteps(int32 handler_id)
{
	LowWaterMark *mark = MarkOf(handler_id);
	Table	   *queue;
	Cursor		cursor = {0};
	bool		found;

	BeginAccess();
	queue = OpenTable(&QUEUE);
	/* A cheap look from the start is always worth it; a dear one only when it is due. */
	if (mark->look_us <= CHEAP_LOOK_US)
		mark->rescan_at = 0;
	OpenCursor(queue, &cursor, handler_id);
	found = cursor.row != NULL || !cursor.from_start;
	CloseCursor(&cursor);
	EndAccess();
	return found;
}

void
DequeueSteps(const int64 *step_ids, int n)
{
	Table	   *queue;
	Table	   *steps;
	Lookup	   *by_id;
	Lookup	   *by_key;

	if (n == 0)
		return;
	BeginAccess();
	queue = OpenTable(&QUEUE);
	steps = OpenTable(&STEPS);
	by_id = LookupById(steps);
	by_key = BeginLookup(queue, 3, queue_key);
	for (int i = 0; i < n; i++)
	{
		StepRow		step;
		Datum		key[3];
		TupleTableSlot *row;

		if (!FindStepRow(steps, by_id, step_ids[i], &step))
			continue;
		key[0] = Int32GetDatum(step.handler_id);
		key[1] = Int16GetDatum(step.rank);
		key[2] = Int64GetDatum(step.step_id);
		LookFor(by_key, 3, key);
		row = NextRow(by_key);
		/* Who is just taking it will find the step settled. */
		if (row != NULL)
			(void) RemoveRowNoWait(queue, row);
	}
	EndLookup(by_key);
	EndLookup(by_id);
	EndAccess();
}
