/*
 * tasker.h
 *		The vocabulary of tasker and what every file shares.
 *
 * A *namespace* groups task definitions.  A *named task* is one version of a
 * workflow definition: *named steps* and the edges between them.  A *task* is
 * one run of it, with a *context*.  A *workflow step* (step) is one node of a
 * task; an *edge* goes from a prerequisite (parent) to a dependent (child).
 * A *transition* is one change of *state*; it is appended to a log and its
 * *sort_key* (10, 20, ...) numbers it within its owner.  An *attempt* is one
 * run of a step, counted at its *claim*; the claim's number is the sort_key of
 * the transition to in_progress that made it, so it never repeats for a step.
 * An *executor* is a client that runs steps; a *handler* the name of what it
 * can run; its *capacity* how many steps it takes at once; its *lease* for how
 * long it holds them without sign of life.  To *dispatch* is to tell it.  To
 * *finalize* is to decide a task's outcome.
 *
 * Lock order, for whoever takes more than one: the orchestrator's advisory
 * lock, then a task row, then its step rows by id.  Sessions that report the
 * outcome of steps take step rows only, by id.  Who cannot keep to it does not
 * wait.  docs/concurrency.md says it of everyone.
 *
 * Files include only what lies below them: pg and rules stand on nothing of
 * ours; then define, run, execute, orchestrate, process; init.c is on top.
 */
#ifndef TASKER_H
#define TASKER_H

#include "postgres.h"

#include "fmgr.h"
#include "utils/timestamp.h"

#include "pg/compat.h"

/* Error codes of our own; everything else uses PostgreSQL's. */
#define ERRCODE_TASKER_STALE_CLAIM				MAKE_SQLSTATE('T', 'K', '0', '0', '1')
#define ERRCODE_TASKER_TRANSITION_NOT_ALLOWED	MAKE_SQLSTATE('T', 'K', '0', '0', '2')
#define ERRCODE_TASKER_TEMPLATE_IN_USE			MAKE_SQLSTATE('T', 'K', '0', '0', '3')
/* What a handler that is a SQL function raises to say more than that it has failed. */
#define ERRCODE_TASKER_PERMANENT_FAILURE		MAKE_SQLSTATE('T', 'K', '0', '0', '5')
#define ERRCODE_TASKER_RETRY_AFTER				MAKE_SQLSTATE('T', 'K', '0', '0', '6')
/* TK004, a change of a log refused, is raised in transition.sql. */

#endif							/* TASKER_H */
