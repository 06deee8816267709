/*
 * step_template.h
 *		What a template says of one of its steps: what its executor is told.
 */
#ifndef TASKER_STEP_TEMPLATE_H
#define TASKER_STEP_TEMPLATE_H

#include "tasker.h"

typedef struct StepTemplate
{
	const char *task_name;
	const char *step_name;
	const char *handler;
	Datum		handler_config; /* jsonb */
} StepTemplate;

/*
 * Forgets what may have changed.  Pointers from GetStepTemplate are good until
 * the next call of this.
 */
extern void RefreshStepTemplates(void);

/* What is said of a step of a named task; both exist. Needs an open query scope. */
extern const StepTemplate *GetStepTemplate(int32 named_task_id, int32 named_step_id);

#endif							/* TASKER_STEP_TEMPLATE_H */
