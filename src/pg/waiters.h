/*
 * waiters.h
 *		Sessions that wait, outside of any snapshot, for steps or for the end of
 *		a task, and waking them after the commit that brings it.
 *
 * Every session can wait for one thing at a time and has a place of its own
 * in shared memory, so there is always room.  A place is not truth: who is
 * woken looks at the tables.  Where tasker is not preloaded nobody can be
 * woken, and whoever waits has to look again by itself.
 *
 * A waiter is woken for a number of steps of one handler and leaves the list
 * with that, so that the next step wakes the next waiter: one step never
 * wakes a thousand sessions.  What it was woken for and does not take (it is
 * cancelled, its session ends, it took others instead) it passes on.
 */
#ifndef TASKER_WAITERS_H
#define TASKER_WAITERS_H

#include "tasker.h"

/* Whether waiters are woken at all: not where tasker is not preloaded, and not on a standby. */
extern bool WaitersAreWoken(void);

/* ---------- waiting ---------- */

/*
 * Joins those who wait for up to max steps of these handlers, in the name of
 * an executor.  What the session was woken for before counts as settled.  The
 * caller looks for steps once more, with a snapshot taken after this, before
 * it sleeps.
 */
extern void JoinStepWaiters(int64 executor_id, const int32 *handler_ids, int n_handlers, int max);

/* Joins those who wait for the end of a task; as above. */
extern void JoinTaskWaiters(int64 task_id);

/*
 * Sleeps until this session is woken, or until a time (DT_NOEND: without
 * end); false if it was the time.  The caller is in a transaction without
 * snapshot.  Raises what cancels the statement or ends the session, a client
 * that has gone included.
 */
extern bool SleepUntilWoken(TimestampTz until, uint32 wait_event);

/*
 * Leaves after steps were taken, given by the handler of each; wants_more says
 * that the session could have taken more, so that nothing was left for it.
 * The end of the transaction by an error leaves, too, and passes everything on.
 */
extern void LeaveWaiters(const int32 *taken_of_handlers, int n_taken, bool wants_more);

/* ---------- waking ---------- */

/*
 * Notes of what the current transaction does; waiters are woken after its
 * commit.  Steps taken are for its abort: then they wait again.
 */
extern void NoteStepsWaiting(int32 handler_id, int n);
extern void NoteStepsTaken(int32 handler_id, int n);
extern void NoteTasksEnded(const int64 *task_ids, int n);
extern void NoteExecutorsEnded(const int64 *executor_ids, int n);
extern void NoteEveryoneLooksAgain(void);

/* Wakes every waiter of a database now. */
extern void WakeAllWaiters(Oid database);

extern void InitWaiters(void);

#endif							/* TASKER_WAITERS_H */
