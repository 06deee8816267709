/*
 * position.h
 *		Positions in the logs: a pg_snapshot, as text.
 *
 * A reader at a position has seen what transactions did that were past then.
 * A transaction is not in its own snapshot: rows that it writes later would
 * count as seen.  So its number is added to those still running, and its
 * rows are read again rather than never.
 */
#ifndef TASKER_POSITION_H
#define TASKER_POSITION_H

#include "tasker.h"

/* The position of a reader who has seen nothing. */
#define NOTHING_READ "3:3:"

/* The position of a snapshot taken by this transaction, allocated in a context. */
extern char *PositionOfSnapshot(MemoryContext context, const char *snapshot);

/* The active snapshot, as text, in the current memory context. */
extern const char *CurrentSnapshotText(void);

/* The first transaction that had not begun at a position. */
extern uint64 PositionXmax(const char *position);

/*
 * The transactions that were running at a position, one by one: false after
 * the last.  *running begins as PositionRunning and is moved.
 */
extern const char *PositionRunning(const char *position);
extern bool NextRunning(const char **running, uint64 *transaction);

#endif							/* TASKER_POSITION_H */
