/*
 * launcher.h
 *		Keeps one orchestrator per database that has the extension.
 */
#ifndef TASKER_LAUNCHER_H
#define TASKER_LAUNCHER_H

#include "tasker.h"

/* Registers the launcher and its hooks; called while libraries are preloaded. */
extern void InitLauncher(void);

extern PGDLLEXPORT void TaskerLauncherMain(Datum arg);

#endif							/* TASKER_LAUNCHER_H */
