/*
 * timetable.h
 *		Scheduled tasks in the background, between the batches of the
 *		orchestrator.
 */
#ifndef TASKER_TIMETABLE_H
#define TASKER_TIMETABLE_H

#include "tasker.h"

/*
 * Called by the orchestrator when it would wait so many milliseconds, -1 for
 * news only, 0 not at all.  Creates tasks whose schedules are due, in a
 * transaction of its own, and returns for how long to wait at most.
 */
extern long KeepTimetable(long wait);

#endif							/* TASKER_TIMETABLE_H */
