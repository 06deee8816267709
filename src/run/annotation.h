/*
 * annotation.h
 *		What is noted about a task.
 */
#ifndef TASKER_ANNOTATION_H
#define TASKER_ANNOTATION_H

#include "tasker.h"

/*
 * Adds an annotation, a jsonb that is an object, and returns its id; makes the
 * type if it is new.  description may be NULL.  Raises 42704 where there is no
 * such task.  Needs an open query scope.
 */
extern int64 AddAnnotation(int64 task_id, const char *type, Datum annotation, const char *description);

#endif							/* TASKER_ANNOTATION_H */
