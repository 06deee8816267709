/*
 * template_document.h
 *		A template as its author writes it: a jsonb document, checked whole.
 */
#ifndef TASKER_TEMPLATE_DOCUMENT_H
#define TASKER_TEMPLATE_DOCUMENT_H

#include "tasker.h"

#include "define/strategy.h"
#include "rules/graph.h"
#include "utils/jsonb.h"

/* A step template, with the defaults filled in. */
typedef struct DocumentStep
{
	char	   *name;
	char	   *description;
	char	   *dependent_system;
	char	   *handler_class;
	Jsonb	   *handler_config;
	bool		retryable;
	int32		retry_limit;
	bool		skippable;
	int16		priority;
	int32		timeout_seconds;	/* 0: none */
	double		backoff_base_seconds;	/* -1: the setting */
	double		backoff_cap_seconds;	/* -1: the setting */
	double		backoff_jitter; /* -1: the setting */
} DocumentStep;

typedef struct TemplateDocument
{
	char	   *namespace_name;
	char	   *name;
	char	   *version;
	char	   *full_name;		/* namespace.name@version */
	char	   *description;	/* NULL: none */
	bool		concurrent;		/* false: one step of a task at a time */
	char	   *strategies[STRATEGY_ROLES];
	int			step_count;
	DocumentStep *steps;		/* as written */
	int		   *order;			/* order[position]: index of the step */
	int			edge_count;
	GraphEdge  *edges;			/* between indexes of steps, each once */
} TemplateDocument;

/*
 * Reads and checks a document as a whole; raises 22023 with the template, the
 * step and the problem.  The result is allocated in the current context.
 */
extern TemplateDocument *ReadTemplateDocument(Jsonb *document);

#endif							/* TASKER_TEMPLATE_DOCUMENT_H */
