/*
 * measure.h
 *		What is counted and timed, in shared memory: of each database how long
 *		things take, of each executor what it does.
 *
 * Sessions note what they do while they do it; it counts when their
 * transaction commits.  Nothing here is truth: all of it starts at zero when
 * the server starts, it is forgotten where there is no room, and where tasker
 * is not preloaded nothing is measured at all.
 */
#ifndef TASKER_MEASURE_H
#define TASKER_MEASURE_H

#include "tasker.h"

/* What is timed, each in a histogram of its own. */
typedef enum Latency
{
	LATENCY_INTAKE,				/* a commit with news, until the orchestrator has read it */
	LATENCY_DISPATCH,			/* such a commit, until the batch that gave out steps has committed */
	LATENCY_CLAIM,				/* a step that is found ready, until it is claimed */
	LATENCY_EXECUTION,			/* a claim, until its outcome is reported */
	LATENCY_BATCH,				/* a batch of the orchestrator */
	LATENCIES
} Latency;

/* What an executor does, or what happens to its steps. */
typedef enum ExecutorEvent
{
	EXECUTOR_CLAIMS,
	EXECUTOR_COMPLETIONS,
	EXECUTOR_FAILURES,
	EXECUTOR_RELEASES,
	EXECUTOR_LOSSES,			/* taken back: lost with the executor, or out of time */
	EXECUTOR_EVENTS
} ExecutorEvent;

#define UNTIMED (-1)

/* Notes one step of an executor (0: of none); microseconds of its execution, or UNTIMED. */
extern void NoteExecutorStep(int64 executor_id, ExecutorEvent event, int64 microseconds);

/* What is counted of the tasks of a template, and of the steps of a handler. */
typedef enum CountedKind
{
	COUNTED_TASKS, COUNTED_STEPS, COUNTED_KINDS
} CountedKind;

typedef enum CountedEvent
{
	COUNTED_CREATED,			/* tasks only */
	COUNTED_STARTED,
	COUNTED_COMPLETED,
	COUNTED_FAILED,
	COUNTED_CANCELLED,
	COUNTED_RESOLVED,
	COUNTED_RETRIED,			/* from error to pending */
	COUNTED_RELEASED,			/* steps only: from in progress to pending */
	COUNTED_LOST,				/* steps only: failed, but not by an executor's word */
	COUNTED_EVENTS
} CountedEvent;

/* Notes one event of a template or handler; microseconds of how long it took, or UNTIMED. */
extern void NoteEvent(CountedKind kind, int32 id, CountedEvent event, int64 microseconds);

/* Notes what an executor has reported of its last failure. */
extern void NoteExecutorError(int64 executor_id, const char *error);

/* Executors that have ended make room for others. */
extern void NoteExecutorsGone(const int64 *executor_ids, int n);

/* A sample of the ready steps is timed: those with a free place. */
extern void NoteReadyStep(int64 step_id, TimestampTz now);
extern void NoteClaimOfStep(int64 step_id, TimestampTz now);

/*
 * Says, while a transaction commits, that it has written so many rows of the
 * logs, which nobody has read.
 */
extern void AddUnread(int64 rows);

/* Says that the transaction reads what is new; since when there was something, 0 where nothing was. */
extern TimestampTz BeginIntake(void);

/* ---------- of the orchestrator ---------- */

typedef struct BatchMeasure
{
	TimestampTz begun_at;
	TimestampTz ended_at;
	TimestampTz news_since;		/* 0: it found none */
	int64		log_rows;
	int64		claims;
	int64		notifications;
} BatchMeasure;

extern void MeasureBatch(const BatchMeasure *batch);
extern void MeasureMemory(Size bytes);

/* Says that a batch has failed; returns how often this very error has come in a row. */
extern int64 MeasureError(int code, const char *message, TimestampTz now);

/* Of the owners that are set aside so many are named. */
#define MAX_NAMED_ASIDE 32
extern void MeasureSetAside(int64 owner_id, bool is_task);

/* A new orchestrator has neither errors nor anything set aside. */
extern void BeginMeasures(void);

/* The database is gone. */
extern void ForgetMeasures(Oid database);

/*
 * Whether the current role may see the measures of all executors; set by who
 * knows roles.  Without it everybody with the privilege may.
 */
extern bool (*SeesAllMeasures) (void);

extern void InitMeasures(void);
extern void InitSharedMeasures(void);

#endif							/* TASKER_MEASURE_H */
