/*
 * fault.h
 *		Named places in the code where a test may strike.
 *
 * FAULT_POINT("name") is nothing in a release.  Built with FAULT_POINTS=1, the
 * setting tasker.fault (see fault.c) lets a process that comes by kill itself,
 * raise an error or wait.  On a server with injection points it is one of
 * these as well, "tasker-" before its name.
 *
 * test/t/012_fault_points.pl takes the names from the sources and strikes at
 * each of them: a new one needs nothing but a workload that comes by.
 */
#ifndef TASKER_FAULT_H
#define TASKER_FAULT_H

#include "tasker.h"

#ifdef TASKER_FAULT_POINTS
extern void InitFaults(void);
extern void ReachFaultPoint(const char *name);
#else
#define InitFaults() ((void) 0)
#define ReachFaultPoint(name) ((void) 0)
#endif

#ifdef USE_INJECTION_POINTS
#define FAULT_POINT(name) do { ReachFaultPoint(name); INJECTION_POINT("tasker-" name, NULL); } while (0)
#else
#define FAULT_POINT(name) ReachFaultPoint(name)
#endif

#endif							/* TASKER_FAULT_H */
