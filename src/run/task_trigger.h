/*
 * task_trigger.h
 *		Tasks that are started by events.
 */
#ifndef TASKER_TASK_TRIGGER_H
#define TASKER_TASK_TRIGGER_H

#include "tasker.h"

#include "run/consumer.h"
#include "utils/array.h"

/*
 * Appends the patterns of the events that start tasks, as text.  Needs an open
 * query scope.
 */
extern ArrayBuildState *AddTriggerPatterns(ArrayBuildState *patterns);

/*
 * Starts the tasks that a page of events starts, each once, however often the
 * event comes.  A task that cannot be started is noted with its trigger and
 * passed over; what may succeed the next time is raised, unless the caller is
 * impatient and it is somebody else's lock.  Opens query scopes itself.
 */
extern void StartTriggeredTasks(const EventPage *page, bool impatient);

#endif							/* TASKER_TASK_TRIGGER_H */
