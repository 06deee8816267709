/*
 * worker.h
 *		The orchestrator of one database, a background worker.
 */
#ifndef TASKER_WORKER_H
#define TASKER_WORKER_H

#include "tasker.h"

extern PGDLLEXPORT void TaskerOrchestratorMain(Datum arg);

#endif							/* TASKER_WORKER_H */
