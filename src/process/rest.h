/*
 * rest.h
 *		What is done beside batches rests in between, so that it does not take
 *		their time.
 */
#ifndef TASKER_REST_H
#define TASKER_REST_H

#include "tasker.h"

#include "datatype/timestamp.h"

typedef struct Rest
{
	TimestampTz until;			/* 0: it does not rest */
} Rest;

/* Rests after what has begun then, so many times as long as that took, and 20 ms at most. */
extern void RestAfter(Rest *rest, TimestampTz begin, int times);

/* Milliseconds that are left of a rest; 0: none are, also where the clock was set back. */
extern long RestLeft(const Rest *rest);

/* The sooner one of two waits in milliseconds; the first may be -1, for ever. */
extern long SoonerOf(long wait, long pause);

#endif							/* TASKER_REST_H */
