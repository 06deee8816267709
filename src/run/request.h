/*
 * request.h
 *		What a creator asks for: the arguments of create_task, or one of the
 *		objects given to create_tasks.
 */
#ifndef TASKER_REQUEST_H
#define TASKER_REQUEST_H

#include "tasker.h"

#include "define/template.h"
#include "utils/array.h"
#include "utils/jsonb.h"

typedef struct TaskRequest
{
	char	   *name;
	char	   *namespace_name;
	char	   *version;		/* NULL: the latest */
	int			number;			/* in a batch; 0: alone */
	Jsonb	   *context;
	char	   *initiator;
	char	   *source_system;
	char	   *reason;
	char	   *identity_key;	/* NULL: none */
	int			priority;
	int			tag_count;
	char	  **tags;
	int			bypass_count;
	char	  **bypass_steps;
	bool		has_requested_at;
	TimestampTz requested_at;
	char	   *traceparent;	/* NULL: none */

	const Template *template;
	int64		task_id;
	bool		created;		/* false: the identity key had a task already */
} TaskRequest;

/* Read and check a request; raise 22004 and 22023 (22007 and 22008 for requested_at) where it is bad. */
extern TaskRequest TaskRequestOfArguments(FunctionCallInfo fcinfo);
extern TaskRequest TaskRequestOfDocument(Jsonb *document, int number);

/* The tags in an array; raises 22004 and 22023 where they cannot be those of a task. */
extern char **TagsOfArray(ArrayType *array, int *n);

#endif							/* TASKER_REQUEST_H */
