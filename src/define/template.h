/*
 * template.h
 *		Task templates: registered once, read from a cache of the session.
 */
#ifndef TASKER_TEMPLATE_H
#define TASKER_TEMPLATE_H

#include "tasker.h"

#include "rules/graph.h"

typedef struct TemplateStep
{
	int32		named_step_id;
	int32		handler_id;
	int32		retry_limit;
	int32		timeout_seconds;	/* 0: none */
	int16		priority;
	bool		retryable;
	bool		skippable;
	bool		is_root;
	bool		is_leaf;
	char	   *name;
} TemplateStep;

typedef struct Template
{
	int32		named_task_id;
	int32		task_namespace_id;
	int32		revision;
	bool		deprecated;
	char	   *owner;			/* the role that its functions run as */
	char	   *identity_strategy;
	char	   *full_name;		/* namespace.name@version, for messages */
	int			step_count;
	TemplateStep *steps;		/* in topological order: the index is the position */
	int			edge_count;
	GraphEdge  *edges;			/* between positions */
} Template;

/*
 * Forgets templates that may have changed.  Pointers from FindTemplate are
 * good until the next call of this.
 */
extern void RefreshTemplates(void);

/*
 * The template of a name; version NULL or "latest" means the latest
 * that is not deprecated.  NULL where there is none.  Needs an open query scope.
 */
extern const Template *FindTemplate(const char *namespace_name, const char *name,
									const char *version);

/* As above, but raises 42704 where there is none. */
extern const Template *GetTemplate(const char *namespace_name, const char *name,
								   const char *version);

/*
 * Raises 40001 if the template was replaced since it was read.  Called when
 * a task that uses it is written: from then on it cannot be replaced.
 */
extern void CheckTemplateCurrent(const Template *template);

/* Raises 40001: the template was replaced since it was read. */
pg_noreturn extern void ComplainOfReplacement(const Template *template);

#endif							/* TASKER_TEMPLATE_H */
