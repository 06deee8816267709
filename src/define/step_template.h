/*
 * step_template.h
 *		What a template says of one of its steps, for those who run it.
 */
#ifndef TASKER_STEP_TEMPLATE_H
#define TASKER_STEP_TEMPLATE_H

#include "tasker.h"

typedef struct StepTemplate
{
	int32		named_step_id;
	const char *task_name;
	const char *owner;			/* of the template: whom its functions run as */
	const char *step_name;
	const char *handler;
	Datum		handler_config; /* jsonb */
	bool		waits;			/* no executor runs it, see waiting_step.h */
	int			n_parents;
	int32	   *parents;		/* named steps; the last in topological order first */
	int			n_children;
	int32	   *children;		/* named steps, in topological order */
} StepTemplate;

/*
 * Forgets what may have changed.  Pointers from GetStepTemplate are good until
 * the next call of this.
 */
extern void RefreshStepTemplates(void);

/* What is said of a step of a named task; both exist. Needs an open query scope. */
extern const StepTemplate *GetStepTemplate(int32 named_task_id, int32 named_step_id);

#endif							/* TASKER_STEP_TEMPLATE_H */
