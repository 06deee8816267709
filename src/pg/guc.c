/*
 * guc.c
 *		Definition of the settings: meaning, unit, range and who may change them.
 *
 * Those of the orchestrator follow a reload at its next batch.  Per-database
 * values (ALTER DATABASE ... SET) count for the orchestrator of that database
 * from its next start, which the statement itself causes (see launcher.c).
 */
#include "postgres.h"

#include <limits.h>

#include "miscadmin.h"
#include "pg/guc.h"
#include "utils/guc.h"

bool		tasker_orchestrator = true;
int			tasker_clock_offset = 0;
int			tasker_backoff_base = 1000;
int			tasker_backoff_cap = 300000;
double		tasker_backoff_jitter = 0.1;
bool		tasker_direct_writes = true;
char	   *tasker_environment = NULL;
int			tasker_lease = 30000;
int			tasker_batch_size = 1000;
int			tasker_checkpoint_interval = 1000;
int			tasker_retention = 0;
int			tasker_consumer_grace = 604800;
int			tasker_max_executors = 1024;
int			tasker_max_databases = 64;

void
InitSettings(void)
{
	DefineCustomRealVariable("tasker.backoff_jitter",
							 "Share of a backoff that is random, in both directions.",
							 "For steps whose template does not say. 0 makes retry times exact.",
							 &tasker_backoff_jitter, 0.1, 0.0, 1.0,
							 PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("tasker.backoff_base",
							"Wait before the second attempt of a failed step; doubled for each further one.",
							"For steps whose template does not say.",
							&tasker_backoff_base, 1000, 0, INT_MAX,
							PGC_SUSET, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("tasker.backoff_cap",
							"Longest wait between two attempts of a step.",
							"For steps whose template does not say. A wait that the executor asks for is not capped.",
							&tasker_backoff_cap, 300000, 0, INT_MAX,
							PGC_SUSET, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("tasker.batch_size",
							"Most steps that the orchestrator takes on in one transaction.",
							NULL,
							&tasker_batch_size, 1000, 1, 100000,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("tasker.checkpoint_interval",
							"How often a busy orchestrator saves its position in the logs.",
							"After a crash it replays what the logs got since.",
							&tasker_checkpoint_interval, 1000, 1, 600000,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("tasker.consumer_grace",
							"How long retention waits for a consumer of events that does not read.",
							"What it has not read by then is removed when its time has come.",
							&tasker_consumer_grace, 604800, 0, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomIntVariable("tasker.clock_offset",
							"Moves tasker.now(), the clock of everything that tasker does.",
							"For tests: backoffs and leases pass without waiting.",
							&tasker_clock_offset, 0, INT_MIN, INT_MAX,
							PGC_SUSET, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomBoolVariable("tasker.direct_writes",
							 "Whether state changes are written past the SQL executor.",
							 "Off: by SQL statements, slower, with the same result. A table with a trigger is written by SQL in any case.",
							 &tasker_direct_writes, true,
							 PGC_SUSET, 0, NULL, NULL, NULL);
	/* Whoever may register a template may write into it what an environment would. */
	DefineCustomStringVariable("tasker.environment",
							   "Environment whose overrides a template gets when it is registered.",
							   "A key of the template's \"environments\". Empty: none. Counts for the session that registers.",
							   &tasker_environment, "",
							   PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("tasker.lease",
							"How long a detached executor keeps its steps without a heartbeat.",
							"For executors that do not ask for another lease at their registration.",
							&tasker_lease, 30000, 100, INT_MAX,
							PGC_SUSET, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomBoolVariable("tasker.orchestrator",
							 "Whether a background worker orchestrates.",
							 "Off for a database (ALTER DATABASE ... SET): nothing happens there but what tasker.orchestrate() does.",
							 &tasker_orchestrator, true,
							 PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("tasker.retention",
							"How long tasks are kept after they have ended well, with their history.",
							"Complete, cancelled and manually resolved tasks are then removed by the background worker. 0 keeps everything.",
							&tasker_retention, 0, 0, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
	/* Sizes of shared memory: a session that loads the library by itself has none. */
	if (process_shared_preload_libraries_in_progress)
	{
		DefineCustomIntVariable("tasker.max_databases",
								"How many databases of the server can have an orchestrator.",
								NULL,
								&tasker_max_databases, 64, 1, 10000,
								PGC_POSTMASTER, 0, NULL, NULL, NULL);
		DefineCustomIntVariable("tasker.max_executors",
								"How many detached executors can be alive at once on the server.",
								NULL,
								&tasker_max_executors, 1024, 1, 1000000,
								PGC_POSTMASTER, 0, NULL, NULL, NULL);
	}
	MarkGUCPrefixReserved("tasker");
}
