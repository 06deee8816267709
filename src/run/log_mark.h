/*
 * log_mark.h
 *		Marks in the logs: positions that readers who are far behind go to one
 *		by one, instead of sorting all that has happened since.
 */
#ifndef TASKER_LOG_MARK_H
#define TASKER_LOG_MARK_H

#include "tasker.h"

/* A mark is worth a row after that many rows of the logs. */
#define ROWS_BETWEEN_MARKS 10000

/* Leaves a mark at a position of the orchestrator.  Needs an open query scope. */
extern void LeaveMark(const char *position);

#endif							/* TASKER_LOG_MARK_H */
