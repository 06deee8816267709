/*
 * position.c
 *		Positions in the logs.
 */
#include "postgres.h"

#include "access/xact.h"
#include "lib/stringinfo.h"
#include "pg/position.h"
#include "utils/memutils.h"

char *
PositionOfSnapshot(MemoryContext context, const char *snapshot)
{
	FullTransactionId own = GetTopFullTransactionIdIfAny();
	uint64		xmin;
	uint64		xmax;
	const char *running = strrchr(snapshot, ':') + 1;
	StringInfoData position;
	char	   *rest;
	bool		placed = false;

	xmin = strtou64(snapshot, &rest, 10);
	xmax = strtou64(rest + 1, NULL, 10);
	if (!FullTransactionIdIsValid(own) || U64FromFullTransactionId(own) >= xmax)
		return MemoryContextStrdup(context, snapshot);

	/* The list is in ascending order. */
	initStringInfo(&position);
	appendStringInfo(&position, UINT64_FORMAT ":" UINT64_FORMAT ":",
					 Min(xmin, U64FromFullTransactionId(own)), xmax);
	for (const char *c = running; *c != '\0' || !placed;)
	{
		uint64		xid = *c != '\0' ? strtou64(c, &rest, 10) : PG_UINT64_MAX;

		if (!placed && xid > U64FromFullTransactionId(own))
		{
			appendStringInfo(&position, "%s" UINT64_FORMAT, position.data[position.len - 1] == ':' ? "" : ",",
							 U64FromFullTransactionId(own));
			placed = true;
			continue;
		}
		appendStringInfo(&position, "%s" UINT64_FORMAT, position.data[position.len - 1] == ':' ? "" : ",", xid);
		c = *rest == ',' ? rest + 1 : rest;
	}
	return MemoryContextStrdup(context, position.data);
}
