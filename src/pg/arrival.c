/*
 * arrival.c
 *		How this server has come to its data.
 *
 * The postmaster looks while it loads libraries: it is in the data directory,
 * and recovery, which takes the files away, has not begun.  Its children
 * inherit what it saw, those after a crash as well.
 */
#include "postgres.h"

#include <sys/stat.h>

#include "access/xlog.h"
#include "pg/arrival.h"

static Arrival arrival = ARRIVAL_NONE;

static bool
IsThere(const char *file)
{
	struct stat status;

	return stat(file, &status) == 0;
}

/* A base backup carries a label until the first recovery; a standby made of one has both files. */
void
InitArrival(void)
{
	if (IsThere(STANDBY_SIGNAL_FILE))
		arrival = ARRIVAL_PROMOTED;
	else if (IsThere(RECOVERY_SIGNAL_FILE) || IsThere(BACKUP_LABEL_FILE))
		arrival = ARRIVAL_RESTORED;
}

Arrival
ServerArrival(TimestampTz *at)
{
	*at = PgStartTime;
	return arrival;
}
