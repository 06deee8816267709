/*
 * guc.h
 *		The settings of tasker, named as in SQL with an underscore for the dot.
 */
#ifndef TASKER_GUC_H
#define TASKER_GUC_H

#include "tasker.h"

extern bool tasker_orchestrator;
extern int	tasker_clock_offset;	/* milliseconds */
extern int	tasker_backoff_base;	/* milliseconds */
extern int	tasker_backoff_cap;		/* milliseconds */
extern double tasker_backoff_jitter;	/* 0 to 1 */
extern bool tasker_direct_writes;
extern char *tasker_environment;	/* empty: none */
extern int	tasker_lease;			/* milliseconds */
extern int	tasker_batch_size;		/* steps a transaction */
extern int	tasker_checkpoint_interval; /* milliseconds */
extern int	tasker_retention;
extern int	tasker_consumer_grace;	/* seconds; 0: off */
extern int	tasker_max_executors;
extern int	tasker_max_databases;

/* Defines all settings; called once from _PG_init. */
extern void InitSettings(void);

#endif							/* TASKER_GUC_H */
