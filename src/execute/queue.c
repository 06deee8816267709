/*
 * queue.c
 *		The work queue: steps that are ready and have no executor yet.
 *
 * The queue is nearly empty whenever statistics look at it, and any plan made
 * for an empty table goes wrong when it is full.  So nothing is planned here:
 * rows are reached through their index directly.
 *
 * A look begins at the low-water mark of its handler, see pg/low_water.h.
 */
#include "postgres.h"

#include "access/xact.h"
#include "execute/queue.h"
#include "pg/fault.h"
#include "pg/low_water.h"
#include "pg/query.h"
#include "pg/table.h"
#include "pg/waiters.h"
#include "run/row.h"

/*
 * Whether this transaction has taken rows: what it looks past then would come
 * to life again if it rolled back.
 */
static bool has_taken = false;

typedef enum QueueColumn
{
	QUEUE_HANDLER, QUEUE_RANK, QUEUE_STEP, QUEUE_COLUMNS
} QueueColumn;

static const TableShape QUEUE = {
	.name = "work_queue",.n_columns = QUEUE_COLUMNS,
	.columns = {"handler_id", "rank", "workflow_step_id"}
};

static const int queue_key[] = {QUEUE_HANDLER, QUEUE_RANK, QUEUE_STEP};

/* Whether the queue has the row already, as far as anyone can say. */
static bool
IsQueued(Lookup *by_key, const ReadyStep *step)
{
	Datum		key[] = {Int32GetDatum(step->handler_id), Int16GetDatum(step->rank), Int64GetDatum(step->step_id)};

	LookFor(by_key, 3, key);
	return NextRow(by_key) != NULL;
}

bool
IsWaiting(const ReadyStep *step)
{
	Lookup	   *by_key = BeginLookup(OpenTable(&QUEUE), 3, queue_key);
	bool		found = IsQueued(by_key, step);

	EndLookup(by_key);
	return found;
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
		LowerLowWaterMarkAtCommit(sorted[i].handler_id, sorted[i].rank, sorted[i].step_id);
		NoteStepsWaiting(sorted[i].handler_id, 1);
	}
	EndAppend(appender);
	FAULT_POINT("enqueued");
	EndLookup(by_key);
	EndAccess();
	pfree(sorted);
}

static void
ForgetTaking(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
		has_taken = false;
}

void
InitQueue(void)
{
	RegisterXactCallback(ForgetTaking, NULL);
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
	LowWaterMark mark;
	Lookup	   *same_rank;		/* of the mark's rank; NULL: done with */
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
 * Begins at the mark, which was read before the snapshot was taken.  The first
 * row found is the first live one, and the mark may go there; not so under a
 * snapshot of the whole transaction, which may be older than the mark.
 */
static void
OpenCursor(Table *queue, Cursor *cursor)
{
	LowWaterMark *mark = &cursor->mark;
	Datum		key[] = {Int32GetDatum(cursor->handler_id), Int16GetDatum(mark->rank), Int64GetDatum(mark->step_id)};

	cursor->same_rank = BeginLookup(queue, 3, queue_key);
	cursor->later_ranks = BeginLookup(queue, 2, queue_key);
	LookFrom(cursor->same_rank, 3, key);
	LookBeyond(cursor->later_ranks, 2, key);
	AdvanceCursor(queue, cursor);
	if (cursor->row != NULL && !has_taken && !IsolationUsesXactSnapshot())
		RaiseLowWaterMark(cursor->handler_id, mark, cursor->step.rank, cursor->step.step_id);
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
	for (int h = 0; h < n_handlers; h++)
		cursors[h] = (Cursor)
	{
		.handler_id = handler_ids[h],.mark = GetLowWaterMark(handler_ids[h])
	};
	BeginAccess();
	queue = OpenTable(&QUEUE);
	for (int h = 0; h < n_handlers; h++)
		OpenCursor(queue, &cursors[h]);
	while (*taken < max && (cursor = FirstCursor(cursors, n_handlers)) != NULL)
	{
		if (RemoveRowNoWait(queue, cursor->row))
		{
			has_taken = true;
			FAULT_POINT("dequeued");
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
TakeStep(const ReadyStep *step)
{
	Datum		key[] = {Int32GetDatum(step->handler_id), Int16GetDatum(step->rank), Int64GetDatum(step->step_id)};
	Table	   *queue;
	Lookup	   *by_key;
	TupleTableSlot *row;
	bool		taken;

	BeginAccess();
	queue = OpenTable(&QUEUE);
	by_key = BeginLookup(queue, 3, queue_key);
	LookFor(by_key, 3, key);
	row = NextRow(by_key);
	taken = row != NULL && RemoveRowNoWait(queue, row);
	if (taken)
	{
		has_taken = true;
		NoteStepsTaken(step->handler_id, 1);
	}
	EndLookup(by_key);
	EndAccess();
	return taken;
}

bool
HasWaitingSteps(int32 handler_id)
{
	Cursor		cursor = {.handler_id = handler_id,.mark = GetLowWaterMark(handler_id)};
	Table	   *queue;
	bool		found;

	BeginAccess();
	queue = OpenTable(&QUEUE);
	OpenCursor(queue, &cursor);
	found = cursor.row != NULL;
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
			has_taken |= RemoveRowNoWait(queue, row);
	}
	EndLookup(by_key);
	EndLookup(by_id);
	EndAccess();
}
