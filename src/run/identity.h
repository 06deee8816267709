/*
 * identity.h
 *		Which requests mean the same task.
 */
#ifndef TASKER_IDENTITY_H
#define TASKER_IDENTITY_H

#include "tasker.h"

#include "run/request.h"

/*
 * Gives identity keys to the requests that have none, as the identity_strategy
 * of their template says; template and requested_at are set.  Needs an open
 * query scope.
 */
extern void IdentifyRequests(TaskRequest *requests, int n);

#endif							/* TASKER_IDENTITY_H */
