/*
 * waiting.c
 *		Beginning and ending the waits of steps that no executor runs.
 *
 * A wait is a row (run/step_wait.h), written in the transaction that moves the
 * step to in_progress, and where it has an end, a timer.  An event that comes
 * is noted in the row with a timer that is due at once.  So both survive
 * whatever ends this process, and the end of a wait is one look at a row.
 */
#include "postgres.h"

#include "access/xact.h"
#include "define/follower.h"
#include "define/policy.h"
#include "define/waiting_step.h"
#include "execute/claim.h"
#include "execute/outcome.h"
#include "execute/pause.h"
#include "orchestrate/waiting.h"
#include "pg/fault.h"
#include "run/step_wait.h"

/* How soon a wait that is over comes back whose step was locked. */
#define LOCKED_WAIT_US 50000

/* The end of the wait of one step: with results, or as a failure that no retry can mend. */
typedef struct Ending
{
	int64		step_id;
	int32		claim;
	char	   *problem;
	Datum		results;
} Ending;

/* Fails and completes steps, ascending by id; their waits are over. */
static void
EndSteps(Batch *batch, const Ending *endings, int n, const char *error_class)
{
	StepFailure *failures = palloc(sizeof(StepFailure) * Max(n, 1));
	int64	   *step_ids = palloc(sizeof(int64) * Max(n, 1));
	int32	   *claims = palloc(sizeof(int32) * Max(n, 1));
	Datum	   *results = palloc(sizeof(Datum) * Max(n, 1));
	StepMoves	moves = {
		.from = STATE_IN_PROGRESS,.to = STATE_COMPLETE,.step_ids = step_ids,.sort_keys = claims,.results = results
	};
	int			n_failures = 0;
	int			moved;

	for (int i = 0; i < n; i++)
	{
		if (endings[i].problem != NULL)
		{
			failures[n_failures++] = (StepFailure)
			{
				.step_id = endings[i].step_id,.claim = endings[i].claim,.error = endings[i].problem,
					.error_class = error_class,.retryable = false,.retry_after = RETRY_BY_BACKOFF
			};
			continue;
		}
		step_ids[moves.n] = endings[i].step_id;
		claims[moves.n] = endings[i].claim;
		results[moves.n++] = endings[i].results;
	}
	/* It was no attempt of an executor: the analytics go by this. */
	moves.metadata_of_all = JsonbOfText("{\"waited\": true}");
	(void) FailSteps(failures, n_failures, false, 0, &moved);
	batch->transitions += moved;
	(void) MoveSteps(&moves, &moved);
	batch->transitions += moved;
}

/* ---------- the beginning ---------- */

/* What becomes of a wait that has begun: its end at once, or a timer for later. */
static void
Settle(const NewWait *wait, int32 claim, Ending *endings, int *n_endings, Timer *timers, int *n_timers)
{
	if (wait->problem != NULL || wait->results != 0)
		endings[(*n_endings)++] = (Ending)
	{
		.step_id = wait->step_id,.claim = claim,.problem = wait->problem,.results = wait->results
	};
	else if (wait->has_end)
		timers[(*n_timers)++] = (Timer)
	{
		.due_at = wait->until,.step_id = wait->step_id,.sort_key = claim
	};
}

/*
 * Under the snapshot of a transaction that began before, an event may have
 * been delivered that is not to be seen yet: the next batch lets them begin.
 */
static bool
LeaveToOthers(Batch *batch, const int64 *step_ids, int n)
{
	if (!IsolationUsesXactSnapshot())
		return false;
	for (int i = 0; i < n; i++)
		Postpone(batch->o, WORK_CANDIDATES, step_ids[i], batch->now);
	return true;
}

/* Registration has seen to it; should somebody have deleted the row since, no event is missed that comes from now on. */
static void
FollowWhatIsAwaited(void)
{
	int			n;

	(void) AwaitedEvents(&n);
	if (n > 0)
		EnsureFollower();
}

void
BeginWaits(Batch *batch, const int64 *asked, int n_asked)
{
	int			n;
	NewWait    *waits;
	int64	   *step_ids;
	int32	   *sort_keys;
	Datum	   *metadata;
	Ending	   *endings;
	Timer	   *timers;
	MovedStep  *moved;
	StepMoves	moves = {.from = STATE_PENDING,.to = STATE_IN_PROGRESS,.at = batch->now,.attempt_change = 1};
	int			n_moved;
	int			n_endings = 0;
	int			n_timers = 0;

	if (n_asked == 0 || LeaveToOthers(batch, asked, n_asked))
		return;
	FollowWhatIsAwaited();
	waits = PrepareWaits(asked, n_asked, batch->now, &n);
	if (n == 0)
		return;
	step_ids = palloc(sizeof(int64) * n);
	sort_keys = palloc(sizeof(int32) * n);
	metadata = palloc(sizeof(Datum) * n);
	endings = palloc(sizeof(Ending) * n);
	timers = palloc(sizeof(Timer) * n);
	for (int i = 0; i < n; i++)
	{
		step_ids[i] = waits[i].step_id;
		sort_keys[i] = waits[i].sort_key;
		metadata[i] = waits[i].metadata;
	}
	moves.n = n;
	moves.step_ids = step_ids;
	moves.sort_keys = sort_keys;
	moves.metadata = metadata;
	FAULT_POINT("wait-begins");
	moved = MoveSteps(&moves, &n_moved);
	batch->transitions += n_moved;
	/* Those that somebody has moved meanwhile are left out; both are ascending. */
	for (int i = 0, m = 0; i < n && m < n_moved; i++)
	{
		if (moved[m].step_id == waits[i].step_id)
			Settle(&waits[i], moved[m++].sort_key, endings, &n_endings, timers, &n_timers);
	}
	if (n_moved < n)
		RemoveLeftWaits(step_ids, n);
	SetTimers(timers, n_timers);
	EndSteps(batch, endings, n_endings, "InvalidWait");
}

/* ---------- the end ---------- */

/* Leaves of the steps those that nobody holds; the others come back with a timer. */
static int
KeepFree(Batch *batch, EndedWait *waits, int n)
{
	int64	   *step_ids = palloc(sizeof(int64) * n);
	Timer	   *later = palloc(sizeof(Timer) * n);
	int			n_later = 0;
	int			kept = 0;
	int			available;

	for (int i = 0; i < n; i++)
		step_ids[i] = waits[i].step_id;
	available = LockAvailableSteps(step_ids, n);
	for (int i = 0, a = 0; i < n; i++)
	{
		if (a < available && RowInt64(a, 1) == waits[i].step_id)
		{
			waits[kept++] = waits[i];
			a++;
		}
		else
			later[n_later++] = (Timer)
		{
			.due_at = batch->now + LOCKED_WAIT_US,.step_id = waits[i].step_id,.sort_key = waits[i].claim
		};
	}
	SetTimers(later, n_later);
	if (n_later > 0)
		ComeBackSoon(batch->o, batch->now);
	return kept;
}

void
EndWaits(Batch *batch)
{
	int			n;
	int64	   *step_ids = TakeIds(&batch->waits_due, batch->waits_due.n, &n);
	EndedWait  *waits;
	Ending	   *endings;

	if (n == 0 || !AnyWaits())
		return;
	waits = FindEndedWaits(step_ids, n, batch->now, &n);
	if (n > 0 && AvoidsLockedRows(batch->o))
		n = KeepFree(batch, waits, n);
	if (n == 0)
		return;
	endings = palloc(sizeof(Ending) * n);
	for (int i = 0; i < n; i++)
	{
		step_ids[i] = waits[i].step_id;
		endings[i] = (Ending)
		{
			.step_id = waits[i].step_id,.claim = waits[i].claim,.problem = waits[i].problem,.results = waits[i].results
		};
	}
	FAULT_POINT("wait-ends");
	EndSteps(batch, endings, n, "EventTimeout");
	/* Whoever has moved one first has ended its wait, too. */
	RemoveWaits(step_ids, n);
}

void
ForgetLeftWaits(Batch *batch)
{
	int			n;
	int64	   *step_ids = TakeIds(&batch->left_waits, batch->left_waits.n, &n);

	if (AnyWaits())
		RemoveLeftWaits(step_ids, n);
}
