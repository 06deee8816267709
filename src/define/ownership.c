/*
 * ownership.c
 *		Which server a database belongs to.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "define/ownership.h"
#include "pg/clock.h"
#include "pg/query.h"

static KeptQuery ENSURE_CHECKPOINT = {
	.sql =
	"INSERT INTO tasker.orchestrator_checkpoint (system_identifier, position, saved_at)"
	" VALUES ($1, '3:3:', $2) ON CONFLICT DO NOTHING",
	.nargs = 2,.types = {INT8OID, TIMESTAMPTZOID}
};

void
EnsureCheckpoint(void)
{
	Datum		args[2] = {Int64GetDatum((int64) GetSystemIdentifier()),
	TimestampTzGetDatum(TaskerNow())};

	(void) RunQuery(&ENSURE_CHECKPOINT, args, NULL);
}
