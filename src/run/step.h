/*
 * step.h
 *		What an operator's decision about a task means for its steps.
 *
 * The caller holds the task's row lock and an open query scope.
 */
#ifndef TASKER_STEP_H
#define TASKER_STEP_H

#include "tasker.h"

/* Cancels the steps that are pending or in progress; metadata is a jsonb or 0. */
extern void CancelStepsOfTask(int64 task_id, Datum metadata);

/* Puts the failed steps back to pending with a fresh set of attempts. */
extern void RetryStepsOfTask(int64 task_id, Datum metadata);

#endif							/* TASKER_STEP_H */
