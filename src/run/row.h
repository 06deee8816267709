/*
 * row.h
 *		The rows of tasks, steps, edges and logs as C sees them.
 *
 * For direct access (pg/table.h): which columns there are, what a step's row
 * says, and how a state is spelled in a row.
 */
#ifndef TASKER_ROW_H
#define TASKER_ROW_H

#include "tasker.h"

#include "pg/table.h"
#include "rules/state.h"

typedef enum StepColumn
{
	STEP_ID, STEP_TASK, STEP_EXECUTOR, STEP_LAST_ATTEMPTED_AT, STEP_NEXT_RETRY_AT, STEP_NAMED_STEP,
	STEP_HANDLER, STEP_SORT_KEY, STEP_ATTEMPTS, STEP_RETRY_LIMIT, STEP_TIMEOUT, STEP_BACKOFF_REQUEST,
	STEP_STATE, STEP_RANK, STEP_RETRYABLE, STEP_SKIPPABLE, STEP_IS_ROOT, STEP_IS_LEAF,
	STEP_FAILED_PERMANENTLY, STEP_INPUTS, STEP_RESULTS, STEP_COLUMNS
} StepColumn;

typedef enum TaskColumn
{
	TASK_ID, TASK_NAMED_TASK, TASK_NAMESPACE, TASK_SORT_KEY, TASK_STATE, TASK_PRIORITY, TASK_REQUESTED_AT,
	TASK_IDENTITY_KEY, TASK_INITIATOR, TASK_SOURCE_SYSTEM, TASK_REASON, TASK_TAGS, TASK_BYPASS_STEPS,
	TASK_CONTEXT, TASK_TRACEPARENT, TASK_COLUMNS
} TaskColumn;

/* Both logs have the same columns. */
typedef enum LogColumn
{
	LOG_OWNER, LOG_SORT_KEY, LOG_FROM_STATE, LOG_TO_STATE, LOG_CREATED_AT, LOG_XACT, LOG_EXECUTOR,
	LOG_ROLE, LOG_METADATA, LOG_COLUMNS
} LogColumn;

extern const TableShape STEPS;
extern const TableShape TASKS;
extern const TableShape STEP_LOG;
extern const TableShape TASK_LOG;

typedef struct StepRow
{
	int64		step_id;
	int64		task_id;
	int64		executor_id;	/* 0: none */
	bool		has_retry;
	TimestampTz next_retry_at;	/* where has_retry */
	TimestampTz last_attempted_at;	/* 0: never */
	int32		named_step_id;
	int32		handler_id;
	int32		sort_key;
	int32		attempts;
	int32		retry_limit;
	int32		timeout_seconds;	/* 0: none */
	TaskerState state;
	int16		rank;
	bool		skippable;
	bool		is_root;
	bool		is_leaf;
} StepRow;

typedef struct TaskRow
{
	int64		task_id;
	int32		named_task_id;
	int32		sort_key;
	TaskerState state;
	TimestampTz requested_at;
} TaskRow;

extern StepRow ReadStepRow(const Table *steps, TupleTableSlot *row);
extern TaskRow ReadTaskRow(const Table *tasks, TupleTableSlot *row);

/* Positions at a row by its id and reads it; false where there is none. */
extern bool FindStepRow(const Table *steps, Lookup *by_id, int64 step_id, StepRow *step);
extern bool FindTaskRow(const Table *tasks, Lookup *by_id, int64 task_id, TaskRow *task);

/* The way to a row by its id. */
extern Lookup *LookupById(Table *table);

/* The way to a step by its task and named step. */
extern Lookup *LookupByNamedStep(Table *steps);
extern bool FindStepOfTask(const Table *steps, Lookup *by_named_step, int64 task_id, int32 named_step_id,
						   StepRow *step);

/* A state as a value of a column of type tasker.state of this table, and back. */
extern Datum StateValue(const Table *table, int column, TaskerState state);
extern TaskerState StateOfValue(const Table *table, int column, Datum value);

#endif							/* TASKER_ROW_H */
