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

/* A custom event that a step announces. */
typedef struct DocumentEvent
{
	char	   *name;
	char	   *description;	/* NULL: none */
} DocumentEvent;

/* A step template, with the defaults filled in. */
typedef struct DocumentStep
{
	char	   *name;
	char	   *description;
	char	   *dependent_system;
	char	   *handler_class;
	Jsonb	   *waits_for;		/* see waiting_step.h; NULL: nothing */
	Jsonb	   *handler_config;
	bool		retryable;
	int32		retry_limit;
	bool		skippable;
	int16		priority;
	int32		timeout_seconds;	/* 0: none */
	double		backoff_base_seconds;	/* -1: the setting */
	double		backoff_cap_seconds;	/* -1: the setting */
	double		backoff_jitter; /* -1: the setting */
	int			event_count;
	DocumentEvent *events;
} DocumentStep;

typedef struct TemplateDocument
{
	char	   *namespace_name;
	char	   *name;
	char	   *version;
	char	   *full_name;		/* namespace.name@version */
	char	   *environment;	/* whose overrides are merged in; NULL: none */
	Jsonb	   *content;		/* the document with these overrides */
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
 * Reads and checks a document as a whole, as it stands and in each of its
 * environments; raises 22023 with the template, the environment, the step and
 * the problem.  The result is what the document says in the environment in
 * force, allocated in the current context.
 */
extern TemplateDocument *ReadTemplateDocument(Jsonb *document);

#endif							/* TASKER_TEMPLATE_DOCUMENT_H */
