/*
 * rest.c
 *		What is done beside batches rests in between.
 */
#include "postgres.h"

#include "process/rest.h"
#include "utils/timestamp.h"

#define LONGEST_REST_US 20000

void
RestAfter(Rest *rest, TimestampTz begin, int times)
{
	TimestampTz end = GetCurrentTimestamp();

	rest->until = end + Min(times * (end - begin), LONGEST_REST_US);
}

long
RestLeft(const Rest *rest)
{
	TimestampTz left = rest->until - GetCurrentTimestamp();

	return left > 0 && left <= LONGEST_REST_US ? (left + 999) / 1000 : 0;
}

long
SoonerOf(long wait, long pause)
{
	return wait == -1 ? pause : Min(wait, pause);
}
