/*
 * log_mark.c
 *		Leaving marks, and thinning them out.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "pg/catalog.h"
#include "pg/clock.h"
#include "pg/query.h"
#include "run/log_mark.h"
#include "utils/builtins.h"

/* So many marks that every second one of the older half may go. */
#define MANY_MARKS 2000
#define MARKS_BETWEEN_THINNING 100

static KeptQuery LEAVE_MARK = {
	.sql = "INSERT INTO tasker.log_marks (position, left_at) VALUES ($1::pg_snapshot, $2) RETURNING mark_id",
	.nargs = 2,.types = {TEXTOID, TIMESTAMPTZOID}
};

static KeptQuery THIN_MARKS = {
	.sql =
	"DELETE FROM tasker.log_marks WHERE ctid = ANY (ARRAY("
	" SELECT m.ctid FROM (SELECT l.ctid, row_number() OVER (ORDER BY l.mark_id) AS place, count(*) OVER () AS marks"
	"                       FROM tasker.log_marks l) m"
	"  WHERE m.marks > $1 AND m.place <= $1 / 2 AND m.place % 2 = 0))",
	.nargs = 1,.types = {INT8OID}
};

void
LeaveMark(const char *position)
{
	Datum		args[2] = {CStringGetTextDatum(position), TimestampTzGetDatum(TaskerNow())};
	Datum		many = Int64GetDatum(MANY_MARKS);

	if (SchemaVersion() < 101)
		return;
	(void) RunQuery(&LEAVE_MARK, args, NULL);
	if (RowInt64(0, 1) % MARKS_BETWEEN_THINNING == 0)
		(void) RunQuery(&THIN_MARKS, &many, NULL);
}
