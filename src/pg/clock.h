/*
 * clock.h
 *		The one clock: all times that tasker writes or compares come from here.
 */
#ifndef TASKER_CLOCK_H
#define TASKER_CLOCK_H

#include "tasker.h"

/* Gives the wall time of this moment, moved by tasker.clock_offset. */
extern TimestampTz TaskerNow(void);

/* The length of an interval; a month counts as 30 days. */
extern double IntervalSeconds(const Interval *interval);

#endif							/* TASKER_CLOCK_H */
