/*
 * arrival.h
 *		How this server has come to its data.
 *
 * Rows say which server they were made on, but copies of files say the same:
 * a standby, a restored backup and their original have one system identifier.
 * What the files in the data directory tell at the start is the difference.
 */
#ifndef TASKER_ARRIVAL_H
#define TASKER_ARRIVAL_H

#include "tasker.h"

typedef enum Arrival
{
	ARRIVAL_NONE,				/* the data was here before, or tasker is not preloaded */
	ARRIVAL_PROMOTED,			/* started as a standby */
	ARRIVAL_RESTORED			/* started from a physical backup */
} Arrival;

/*
 * How the server has come to its data since it was started; *at, which tells
 * this arrival from all others, is when that was.
 */
extern Arrival ServerArrival(TimestampTz *at);

/* Looks at the data directory; for the postmaster, before recovery. */
extern void InitArrival(void);

#endif							/* TASKER_ARRIVAL_H */
