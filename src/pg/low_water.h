/*
 * low_water.h
 *		How far the work queue is worked off, for each handler, known to all
 *		sessions.
 *
 * No live row of the queue lies below the mark of its handler: that is where
 * a look begins.  Dead entries at the front of the index, which cost about
 * 60 ns each until the oldest snapshot lets them go, are so walked once and
 * not by every claim.  Without shared memory a look begins at the start.
 *
 * A look that begins at the mark finds the first live row and may raise the
 * mark to it, unless a row has come in meanwhile: then the version differs.
 * Rows that an open transaction has taken are still seen by the others and
 * hold the mark; if it rolls back nothing needs to be done.
 */
#ifndef TASKER_LOW_WATER_H
#define TASKER_LOW_WATER_H

#include "tasker.h"

typedef struct LowWaterMark
{
	int16		rank;
	int64		step_id;
	uint64		version;
	bool		shared;			/* false: there is no shared mark, this is the start */
} LowWaterMark;

/*
 * The mark of a handler, or lower where the current transaction has put a row
 * in.  To be read before the snapshot of the look is taken.
 */
extern LowWaterMark GetLowWaterMark(int32 handler_id);

/*
 * Raises the mark to the first live row that a look from it has found.  The
 * look must not have been under an older snapshot than the mark, and its
 * transaction must not have removed rows before.
 */
extern void RaiseLowWaterMark(int32 handler_id, const LowWaterMark *from, int16 rank, int64 step_id);

/* The current transaction has put a row into the queue: after its commit the mark is no higher. */
extern void LowerLowWaterMarkAtCommit(int32 handler_id, int16 rank, int64 step_id);

/* The current transaction has filled the queue by other means. */
extern void ResetLowWaterMarksAtCommit(void);

/* Sets all marks of a database to the start, now: a prepared transaction has come to its end. */
extern void ResetLowWaterMarks(Oid database);

/* Reserves the shared memory; called from _PG_init while libraries are preloaded. */
extern void InitSharedLowWaterMarks(void);
extern void InitLowWaterMarks(void);

#endif							/* TASKER_LOW_WATER_H */
