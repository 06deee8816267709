/*
 * position.c
 *		Positions in the logs.
 */
#include "postgres.h"

#include "access/xact.h"
#include "lib/stringinfo.h"
#include "pg/position.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"

const char *
CurrentSnapshotText(void)
{
	LOCAL_FCINFO(fcinfo, 0);
	Datum		snapshot;

	InitFunctionCallInfoData(*fcinfo, NULL, 0, InvalidOid, NULL, NULL);
	snapshot = pg_current_snapshot(fcinfo);
	return DatumGetCString(DirectFunctionCall1(pg_snapshot_out, snapshot));
}

uint64
PositionXmax(const char *position)
{
	return strtou64(strchr(position, ':') + 1, NULL, 10);
}

const char *
PositionRunning(const char *position)
{
	return strrchr(position, ':') + 1;
}

bool
NextRunning(const char **running, uint64 *transaction)
{
	char	   *rest;

	if (**running == '\0')
		return false;
	*transaction = strtou64(*running, &rest, 10);
	*running = *rest == ',' ? rest + 1 : rest;
	return true;
}

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
