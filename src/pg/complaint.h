/*
 * complaint.h
 *		Saying the same thing in the server log once a minute, not a thousand
 *		times a second.
 */
#ifndef TASKER_COMPLAINT_H
#define TASKER_COMPLAINT_H

#include "tasker.h"

/*
 * Whether this process shall log a line now: the first time, and then once a
 * minute.  *suppressed is how often it was not logged since.
 */
extern bool MayComplain(const char *line, int64 *suppressed);

/* " (N times more since the last such line)", or nothing; in the current memory context. */
extern const char *SuppressedText(int64 suppressed);

#endif							/* TASKER_COMPLAINT_H */
