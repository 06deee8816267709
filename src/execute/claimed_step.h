/*
 * claimed_step.h
 *		What an executor needs to run a step that it has claimed.
 */
#ifndef TASKER_CLAIMED_STEP_H
#define TASKER_CLAIMED_STEP_H

#include "tasker.h"

#include "access/htup.h"
#include "access/tupdesc.h"
#include "define/step_template.h"

typedef struct ClaimedStep
{
	int64		step_id;
	int32		claim;
	int32		attempt;
	int64		task_id;
	int64		executor_id;	/* 0: none */
	const StepTemplate *step_template;
	Datum		inputs;			/* jsonb: the task's context with the step's own inputs over it */
	Datum		dependency_results; /* jsonb: results of the direct parents by step name; 0: too large */
	const char *traceparent;	/* to hand on to those that it calls; NULL: the task has none */
} ClaimedStep;

/*
 * Reads these steps, which exist and were claimed in this transaction or
 * before.  Returns as many, in the same order, in the current memory context;
 * step templates are good until the next call.  The results of a step's
 * parents that have more than max_results bytes together are left out.  Needs
 * an open query scope.
 */
extern ClaimedStep *ReadClaimedSteps(const int64 *step_ids, int n, Size max_results);

/* The step as a row of tasker.claimed_step, in the current memory context. */
extern HeapTuple FormClaimedStep(TupleDesc row_type, const ClaimedStep *step);

#endif							/* TASKER_CLAIMED_STEP_H */
