/*
 * init.c
 *		Entry point of the library: calls the others' Init, nothing else.
 */
#include "postgres.h"

#include "execute/queue.h"
#include "miscadmin.h"
#include "pg/arrival.h"
#include "pg/catalog.h"
#include "pg/fault.h"
#include "pg/guc.h"
#include "pg/low_water.h"
#include "pg/measure.h"
#include "pg/query.h"
#include "pg/shmem.h"
#include "pg/waiters.h"
#include "pg/wakeup.h"
#include "process/launcher.h"
#include "tasker.h"

TASKER_MODULE_MAGIC;

void		_PG_init(void);

void
_PG_init(void)
{
	InitFaults();
	InitSettings();
	InitCatalog();
	InitQueries();
	InitQueue();
	InitMeasures();
	InitWakeup();
	InitWaiters();
	InitLowWaterMarks();
	if (process_shared_preload_libraries_in_progress && !IsBinaryUpgrade)
	{
		InitArrival();
		InitSharedMemory();
		InitSharedLowWaterMarks();
		InitSharedMeasures();
		InitLauncher();
	}
}
