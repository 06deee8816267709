/*
 * retention.h
 *		Removing history: finished tasks one by one, the periods of the logs
 *		that nobody belongs to any more as a whole.
 */
#ifndef TASKER_RETENTION_H
#define TASKER_RETENTION_H

#include "tasker.h"

/* Where the search for tasks to prune stands; zero to begin with. */
typedef struct PruneCursor
{
	int64		after;			/* tasks up to this id have been looked at */
} PruneCursor;

/* What a round of upkeep came to. */
typedef struct UpkeepReport
{
	bool		busy;			/* somebody else is at it, or this is not (yet) an adopted database */
	int			pruned;
	int64		period_begun;	/* 0: none */
	char	   *partition_freed;	/* dropped or emptied; NULL: none */
	bool		locked;			/* a partition could not be dropped, somebody reads it */
	bool		more;			/* something is left to do now */
} UpkeepReport;

/*
 * Runs one round in the caller's transaction and open query scope: prunes at
 * most max_tasks tasks that were finished retention_seconds ago (0: none), or,
 * having gone through all of them, takes care of the periods.  A round that
 * frees a partition leaves the log locked until the end of the transaction.
 */
extern UpkeepReport RunUpkeep(PruneCursor *cursor, int64 retention_seconds, int max_tasks);

#endif							/* TASKER_RETENTION_H */
