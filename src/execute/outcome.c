/*
 * outcome.c
 *		How a claimed step ended: complete, failed, released.
 *
 * A session that reports touches only its own steps' rows.  What follows from
 * it is the orchestrator's work, after the commit.
 */
#include "postgres.h"

#include <math.h>

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "common/pg_prng.h"
#include "define/policy.h"
#include "execute/executor.h"
#include "execute/outcome.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pg/clock.h"
#include "pg/fault.h"
#include "pg/guc.h"
#include "pg/measure.h"
#include "pg/query.h"
#include "rules/document.h"
#include "rules/retry.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/jsonb.h"

/*
 * Of an error, a backtrace included, the step's results keep this much, and
 * the log less.  What is longer is cut, not refused: who fails must be able to
 * say so.
 */
#define MAX_ERROR_BYTES 65536
#define LOGGED_ERROR_BYTES 1000
#define MAX_ERROR_CLASS_BYTES 512

/* The longest wait that a function can ask for: ten years. */
#define MAX_WAIT_SECONDS 315360000.0

#define MAX_REPORTED 100000

/* ---------- failing ---------- */

/* A text as it is kept: whole characters, and how long it was where that is not all. */
static const char *
Shortened(const char *text, int max)
{
	int			length = strlen(text);
	const char *mark;
	int			kept;

	if (length <= max)
		return text;
	mark = psprintf(" ... (%d bytes)", length);
	kept = pg_mbcliplen(text, length, max - (int) strlen(mark));
	return psprintf("%.*s%s", kept, text, mark);
}

static KeptQuery READ_RETRY_POLICIES = {
	.sql =
	"SELECT s.attempts, s.retry_limit, s.retryable,"
	"       coalesce(ts.backoff_base_seconds, -1), coalesce(ts.backoff_cap_seconds, -1),"
	"       coalesce(ts.backoff_jitter, -1), t.task_id, t.named_task_id"
	"  FROM (SELECT * FROM unnest($1) WITH ORDINALITY o(step_id, place) LIMIT cardinality($1)) u"
	"  LEFT JOIN LATERAL (SELECT * FROM tasker.workflow_steps s WHERE s.workflow_step_id = u.step_id LIMIT 1) s ON true"
	"  LEFT JOIN LATERAL (SELECT * FROM tasker.tasks t WHERE t.task_id = s.task_id LIMIT 1) t ON true"
	"  LEFT JOIN LATERAL (SELECT * FROM tasker.named_tasks_named_steps ts"
	"                      WHERE ts.named_task_id = t.named_task_id AND ts.named_step_id = s.named_step_id LIMIT 1) ts ON true"
	" ORDER BY u.place",
	.nargs = 1,.types = {INT8ARRAYOID}
};

/* What one failure comes to. */
typedef struct Verdict
{
	int64		task_id;
	int			attempt;
	int			retry_limit;
	bool		retry;
	const TaskPolicy *policy;
	BackoffPolicy backoff;
	const char *backoff_type;
	double		wait_seconds;	/* until the next attempt */
} Verdict;

/* What a strategy function is told of a failure. */
static Datum
DescribeFailure(const StepFailure *failure, const Verdict *verdict)
{
	StringInfoData json;

	initStringInfo(&json);
	appendStringInfo(&json, "{\"task_id\": " INT64_FORMAT ", \"workflow_step_id\": " INT64_FORMAT
					 ", \"attempt\": %d, \"retry_limit\": %d, \"base_seconds\": %g, \"cap_seconds\": %g, \"error_message\": ",
					 verdict->task_id, failure->step_id, verdict->attempt, verdict->retry_limit,
					 verdict->backoff.base_seconds, verdict->backoff.cap_seconds);
	escape_json(&json, Shortened(failure->error, MAX_ERROR_BYTES));
	appendStringInfoString(&json, ", \"error_class\": ");
	if (failure->error_class != NULL)
		escape_json(&json, Shortened(failure->error_class, MAX_ERROR_CLASS_BYTES));
	else
		appendStringInfoString(&json, "null");
	appendStringInfoChar(&json, '}');
	return JsonbOfText(json.data);
}

/*
 * Asks the template's function how long to wait; false where it has no answer.
 * Its answer is not capped: it was told the cap.
 */
static bool
AskBackoffStrategy(const StepFailure *failure, Verdict *verdict)
{
	const char *strategy = verdict->policy->strategies[STRATEGY_BACKOFF];
	Datum		wait;
	bool		none;

	if (IsBuiltinStrategy(STRATEGY_BACKOFF, strategy) ||
		!TryStrategy(STRATEGY_BACKOFF, strategy, verdict->policy->owner, DescribeFailure(failure, verdict),
					 "The step waits as \"exponential\" has it.", &wait, &none) || none)
		return false;
	verdict->wait_seconds = Min(Max(IntervalSeconds(DatumGetIntervalP(wait)), 0), MAX_WAIT_SECONDS);
	return true;
}

/* How long to wait, and what decided it. */
static void
DecideWait(const StepFailure *failure, Verdict *verdict)
{
	const char *strategy = verdict->policy->strategies[STRATEGY_BACKOFF];

	if (failure->retry_after != RETRY_BY_BACKOFF)
	{
		verdict->wait_seconds = failure->retry_after;
		verdict->backoff_type = "server_requested";
	}
	else if (verdict->retry && AskBackoffStrategy(failure, verdict))
		verdict->backoff_type = strategy;
	else
	{
		verdict->backoff.growth = BackoffGrowthOf(strategy);
		verdict->backoff_type = IsBuiltinStrategy(STRATEGY_BACKOFF, strategy) ? strategy : "exponential";
		verdict->wait_seconds = BackoffSeconds(&verdict->backoff, Max(verdict->attempt, 1),
											   pg_prng_double(&pg_global_prng_state));
	}
}

static Verdict
JudgeFailure(const StepFailure *failure, uint64 row)
{
	bool		unknown;
	Verdict		verdict = {.attempt = DatumGetInt32(RowDatum(row, 1, &unknown))};
	BackoffPolicy *backoff = &verdict.backoff;

	/* Of a step that does not exist nothing will move. */
	verdict.policy = PolicyOf(0);
	if (unknown)
		return verdict;
	verdict.retry_limit = RowInt32(row, 2);
	verdict.task_id = RowInt64(row, 7);
	verdict.policy = PolicyOf(RowInt32(row, 8));
	verdict.retry = IsRetryEligible(RowBool(row, 3), !failure->retryable, verdict.attempt,
									RowInt32(row, 2));
	*backoff = (BackoffPolicy)
	{
		.base_seconds = DatumGetFloat8(RowDatum(row, 4, NULL)),
			.cap_seconds = DatumGetFloat8(RowDatum(row, 5, NULL)),
			.jitter = DatumGetFloat8(RowDatum(row, 6, NULL)),
	};
	if (backoff->base_seconds < 0)
		backoff->base_seconds = tasker_backoff_base / 1000.0;
	if (backoff->cap_seconds < 0)
		backoff->cap_seconds = tasker_backoff_cap / 1000.0;
	if (backoff->jitter < 0)
		backoff->jitter = tasker_backoff_jitter;
	return verdict;
}

/* What the log says of a failure. */
static Datum
FailureMetadata(const StepFailure *failure, const Verdict *verdict)
{
	StringInfoData json;

	initStringInfo(&json);
	appendStringInfo(&json, "{\"attempt_number\": %d, \"retry_available\": %s, \"error_message\": ",
					 verdict->attempt, verdict->retry ? "true" : "false");
	escape_json(&json, Shortened(failure->error, LOGGED_ERROR_BYTES));
	if (failure->error_class != NULL)
	{
		appendStringInfoString(&json, ", \"error_class\": ");
		escape_json(&json, Shortened(failure->error_class, MAX_ERROR_CLASS_BYTES));
	}
	if (verdict->retry)
	{
		appendStringInfo(&json, ", \"backoff_seconds\": %.3f, \"backoff_type\": ", verdict->wait_seconds);
		escape_json(&json, verdict->backoff_type);
	}
	appendStringInfoChar(&json, '}');
	return JsonbOfText(json.data);
}

/* What the step's results say of a failure. */
static Datum
FailureResults(const StepFailure *failure)
{
	StringInfoData json;

	initStringInfo(&json);
	appendStringInfoString(&json, "{\"error\": ");
	escape_json(&json, Shortened(failure->error, MAX_ERROR_BYTES));
	if (failure->error_class != NULL)
	{
		appendStringInfoString(&json, ", \"error_class\": ");
		escape_json(&json, Shortened(failure->error_class, MAX_ERROR_CLASS_BYTES));
	}
	appendStringInfoChar(&json, '}');
	return JsonbOfText(json.data);
}

/* What an executor has reported of the last step that failed. */
static void
NoteLastError(const StepFailure *failures, const MovedStep *last)
{
	while (failures->step_id != last->step_id)
		failures++;
	NoteExecutorError(last->executor_id, failures->error);
}

MovedStep *
FailSteps(const StepFailure *failures, int n, bool by_executor, int64 of_executor, int *moved)
{
	int64	   *step_ids = palloc(sizeof(int64) * Max(n, 1));
	int32	   *claims = palloc(sizeof(int32) * Max(n, 1));
	Datum	   *metadata = palloc(sizeof(Datum) * Max(n, 1));
	Datum	   *results = palloc(sizeof(Datum) * Max(n, 1));
	TimestampTz *retry_at = palloc0(sizeof(TimestampTz) * Max(n, 1));
	bool	   *no_retry = palloc(sizeof(bool) * Max(n, 1));
	bool	   *permanent = palloc(sizeof(bool) * Max(n, 1));
	int32	   *backoff = palloc(sizeof(int32) * Max(n, 1));
	Verdict    *verdicts = palloc(sizeof(Verdict) * Max(n, 1));
	TimestampTz now = TaskerNow();
	MovedStep  *steps;
	Datum		arg;
	StepMoves	moves = {
		.from = STATE_IN_PROGRESS,.to = STATE_ERROR,.at = now,.n = n,
		.step_ids = step_ids,.sort_keys = claims,.of_executor = of_executor,
		.by_executor = by_executor,.results = results,.metadata = metadata,
		.retry_at = retry_at,.no_retry = no_retry,.backoff_seconds = backoff,.permanent = permanent
	};

	*moved = 0;
	if (n == 0)
		return NULL;
	for (int i = 0; i < n; i++)
		step_ids[i] = failures[i].step_id;
	arg = Int64Array(step_ids, n);
	RefreshPolicies();
	(void) RunQuery(&READ_RETRY_POLICIES, &arg, NULL);
	/* Functions that are asked run statements of their own: read all rows first. */
	for (int i = 0; i < n; i++)
		verdicts[i] = JudgeFailure(&failures[i], i);
	for (int i = 0; i < n; i++)
	{
		const StepFailure *failure = &failures[i];
		Verdict    *verdict = &verdicts[i];

		DecideWait(failure, verdict);
		claims[i] = failure->claim;
		metadata[i] = FailureMetadata(failure, verdict);
		results[i] = FailureResults(failure);
		no_retry[i] = !verdict->retry;
		retry_at[i] = now + (int64) rint(verdict->wait_seconds * USECS_PER_SEC);
		permanent[i] = !failure->retryable;
		backoff[i] = failure->retry_after;
	}
	steps = MoveSteps(&moves, moved);
	if (by_executor && *moved > 0)
		NoteLastError(failures, &steps[*moved - 1]);
	return steps;
}

/* ---------- reports of executors ---------- */

/* What an executor reports of several steps at once, in order of their ids. */
typedef struct Report
{
	TaskerState to;
	int			n;
	int64	   *step_ids;
	int32	   *claims;
	int64		of_executor;	/* 0: any */
	Datum	   *results;		/* for complete; NULL: none given */
	bool	   *no_results;
	StepFailure *failures;		/* for error */
} Report;

static MovedStep *
MoveReported(const Report *report, int *moved)
{
	StepMoves	moves = {
		.from = STATE_IN_PROGRESS,.to = report->to,.n = report->n,
		.step_ids = report->step_ids,.sort_keys = report->claims,
		.of_executor = report->of_executor,.by_executor = true,
		.attempt_change = report->to == STATE_PENDING ? -1 : 0,
		.results = report->results,.no_results = report->no_results
	};

	if (report->to == STATE_ERROR)
		return FailSteps(report->failures, report->n, true, report->of_executor, moved);
	return MoveSteps(&moves, moved);
}

/*
 * Of a step that did not move: was this very outcome reported before?  Then
 * the log shows the claim, and the outcome right after it.
 */
static KeptQuery EXPLAIN_UNMOVED_STEP = {
	.sql =
	"SELECT s.state::text, s.sort_key, s.executor_id,"
	"       EXISTS (SELECT 1 FROM tasker.workflow_step_transition_log c"
	"                 JOIN tasker.workflow_step_transition_log o"
	"                   ON o.workflow_step_id = c.workflow_step_id AND o.sort_key = c.sort_key + 10"
	"                WHERE c.workflow_step_id = $1 AND c.sort_key = $2 AND c.to_state = 'in_progress'"
	"                  AND o.to_state = $3::tasker.state AND o.from_state = 'in_progress'"
	"                  AND o.executor_id IS NOT DISTINCT FROM c.executor_id"
	"                  AND ($4 IS NULL OR c.executor_id = $4)),"
	"       (SELECT coalesce(c.executor_id, 0) FROM tasker.workflow_step_transition_log c"
	"         WHERE c.workflow_step_id = $1 AND c.sort_key = $2 AND c.to_state = 'in_progress')"
	"  FROM tasker.workflow_steps s WHERE s.workflow_step_id = $1",
	.nargs = 4,.types = {INT8OID, INT4OID, TEXTOID, INT8OID}
};

static void
RefuseStaleClaim(const Report *report, int i)
{
	char	   *state = RowText(0, 1);
	int32		sort_key = RowInt32(0, 2);
	bool		no_executor;
	int64		executor = DatumGetInt64(RowDatum(0, 3, &no_executor));
	bool		other_claim = strcmp(state, "in_progress") == 0 && sort_key != report->claims[i];

	ereport(ERROR,
			(errcode(ERRCODE_TASKER_STALE_CLAIM),
			 errmsg("claim %d of step " INT64_FORMAT " is stale", report->claims[i],
					report->step_ids[i]),
			 other_claim ? errdetail("The step is in progress under claim %d.", sort_key) :
			 strcmp(state, "in_progress") == 0 && !no_executor ?
			 errdetail("The step is with executor " INT64_FORMAT ".", executor) :
			 errdetail("The step is \"%s\".", state),
			 errhint("Drop the result and roll back what was done for it.")));
}

/*
 * Raises an error unless the caller may report of the claim: it was made for an
 * executor of its own.  Of a claim of the session itself (0) whoever may execute
 * in the namespace may report, as nobody else sees it before it is reported.  A
 * step of which the caller must not know is unknown.
 */
static void
RequireClaim(int64 step_id, int32 claim, int64 executor_id)
{
	if (executor_id != 0 && CallerActsForExecutor(executor_id))
		return;
	RequireForStep(step_id, executor_id != 0 ? MAY_ANYTHING : MAY_EXECUTE | MAY_OPERATE);
	if (executor_id != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("claim %d of step " INT64_FORMAT " is not one of role \"%s\"", claim, step_id,
						GetUserNameFromId(QueryCaller(), false)),
				 errdetail("It was made for an executor that another role has registered.")));
}

/* Requires all claims of a report: those of one executor, most often of all steps, are asked for once. */
static void
RequireClaims(const MovedStep *steps, int n)
{
	int64		required = 0;

	for (int i = 0; i < n; i++)
	{
		if (required != 0 && steps[i].executor_id == required)
			continue;
		RequireClaim(steps[i].step_id, steps[i].sort_key - 10, steps[i].executor_id);
		required = steps[i].executor_id;
	}
}

/* Whether a step that did not move was moved by the same report before; raises otherwise, or says false. */
static bool
WasReportedBefore(const Report *report, int i, bool skip_stale)
{
	Datum		args[4] = {Int64GetDatum(report->step_ids[i]), Int32GetDatum(report->claims[i]),
	CStringGetTextDatum(StateLabel(report->to)), Int64GetDatum(report->of_executor)};
	char		nulls[5] = {' ', ' ', ' ', report->of_executor ? ' ' : 'n', '\0'};
	bool		no_claim;
	int64		holder;

	if (RunQuery(&EXPLAIN_UNMOVED_STEP, args, nulls) == 0)
		RefuseUnknown("step", report->step_ids[i]);
	holder = DatumGetInt64(RowDatum(0, 5, &no_claim));
	RequireClaim(report->step_ids[i], report->claims[i], no_claim ? 0 : holder);
	/* Asked again, for that has asked something else; it may have been pruned meanwhile. */
	if (RunQuery(&EXPLAIN_UNMOVED_STEP, args, nulls) == 0)
		RefuseUnknown("step", report->step_ids[i]);
	if (RowBool(0, 4))
		return true;
	if (IsolationUsesXactSnapshot() && RowInt32(0, 2) < report->claims[i])
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("claim %d of step " INT64_FORMAT " is younger than the transaction's snapshot",
						report->claims[i], report->step_ids[i]),
				 errhint("Try the transaction again.")));
	if (!skip_stale)
		RefuseStaleClaim(report, i);
	return false;
}

static int
CompareMovedSteps(const void *a, const void *b)
{
	int64		left = ((const MovedStep *) a)->step_id;
	int64		right = ((const MovedStep *) b)->step_id;

	return left < right ? -1 : left > right;
}

/*
 * Makes a report.  Returns the number of steps that moved now; the ids of
 * those refused as stale go to *refused, allocated in the caller's context.
 */
static int
MakeReport(const Report *report, bool skip_stale, int64 **refused, int *n_refused)
{
	QueryScope	scope;
	MovedStep  *steps;
	bool	   *has_moved = palloc0(sizeof(bool) * Max(report->n, 1));
	int			moved;

	*refused = palloc(sizeof(int64) * Max(report->n, 1));
	*n_refused = 0;
	OpenQueryScope(&scope);
	steps = MoveReported(report, &moved);
	RequireClaims(steps, moved);
	FAULT_POINT("reported");
	if (moved < report->n)
	{
		qsort(steps, moved, sizeof(MovedStep), CompareMovedSteps);
		for (int i = 0; i < report->n; i++)
		{
			MovedStep	wanted = {.step_id = report->step_ids[i]};
			MovedStep  *found = moved > 0 ? bsearch(&wanted, steps, moved, sizeof(MovedStep), CompareMovedSteps) : NULL;

			has_moved[i] = found != NULL && report->claims[i] + 10 == found->sort_key;
		}
		for (int i = 0; i < report->n; i++)
		{
			if (!has_moved[i] && !WasReportedBefore(report, i, skip_stale))
				(*refused)[(*n_refused)++] = report->step_ids[i];
		}
	}
	CloseQueryScope(&scope);
	return moved;
}

/* ---------- arguments ---------- */

static void
CheckNotNull(FunctionCallInfo fcinfo, int number, const char *name)
{
	if (PG_ARGISNULL(number))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("%s must not be null", name)));
}

static int64
OfExecutor(FunctionCallInfo fcinfo, int number)
{
	return PG_ARGISNULL(number) ? 0 : PG_GETARG_INT64(number);
}

static void
CheckRetryAfter(int32 seconds)
{
	if (seconds < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("retry_after_seconds must not be negative, but is %d", seconds)));
}

/* A report of one step: its first two arguments, checked. */
static Report
ReportOfOne(FunctionCallInfo fcinfo, TaskerState to, int executor_argument)
{
	Report		report = {.to = to,.n = 1};

	CheckNotNull(fcinfo, 0, "step_id");
	CheckNotNull(fcinfo, 1, "claim");
	report.step_ids = palloc(sizeof(int64));
	report.claims = palloc(sizeof(int32));
	report.step_ids[0] = PG_GETARG_INT64(0);
	report.claims[0] = PG_GETARG_INT32(1);
	report.of_executor = OfExecutor(fcinfo, executor_argument);
	return report;
}

static Datum
MakeReportOfOne(const Report *report)
{
	int64	   *refused;
	int			n_refused;

	return BoolGetDatum(MakeReport(report, false, &refused, &n_refused) > 0);
}

/* An array argument as datums; n must match, -1 for the first. NULL where the argument is NULL. */
static Datum *
ArrayArgument(FunctionCallInfo fcinfo, int number, const char *name, Oid type, bool **nulls, int *n)
{
	Datum	   *values;
	int16		length = type == INT8OID ? 8 : type == INT4OID ? 4 : type == BOOLOID ? 1 : -1;
	char		align = type == INT8OID ? TYPALIGN_DOUBLE : type == BOOLOID ? TYPALIGN_CHAR : TYPALIGN_INT;
	int			found;

	if (PG_ARGISNULL(number))
		return NULL;
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(number), type, length, length > 0, align,
					  &values, nulls, &found);
	if (*n >= 0 && found != *n)
		ereport(ERROR,
				(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
				 errmsg("%s has %d elements instead of %d, one for each step", name, found, *n)));
	*n = found;
	return values;
}

/* The order of a batch by step id, and how to bring other arrays into it. */
static const int64 *sort_ids;

static int
CompareBySortIds(const void *a, const void *b)
{
	int			left = *(const int *) a;
	int			right = *(const int *) b;

	if (sort_ids[left] != sort_ids[right])
		return sort_ids[left] < sort_ids[right] ? -1 : 1;
	return left < right ? -1 : left > right;
}

/* A report of many: ids and claims, sorted by id; order[i] is the argument's index. */
static Report
ReportOfMany(FunctionCallInfo fcinfo, TaskerState to, int executor_argument, int **order)
{
	Report		report = {.to = to,.n = -1};
	bool	   *null_ids;
	bool	   *null_claims;
	Datum	   *ids;
	Datum	   *claims;
	int64	   *unsorted;

	CheckNotNull(fcinfo, 0, "step_ids");
	CheckNotNull(fcinfo, 1, "claims");
	ids = ArrayArgument(fcinfo, 0, "step_ids", INT8OID, &null_ids, &report.n);
	claims = ArrayArgument(fcinfo, 1, "claims", INT4OID, &null_claims, &report.n);
	if (report.n > MAX_REPORTED)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("at most %d steps can be reported at once, not %d", MAX_REPORTED, report.n),
				 errhint("Report them in several calls; in one transaction, if need be.")));
	unsorted = palloc(sizeof(int64) * Max(report.n, 1));
	*order = palloc(sizeof(int) * Max(report.n, 1));
	report.step_ids = palloc(sizeof(int64) * Max(report.n, 1));
	report.claims = palloc(sizeof(int32) * Max(report.n, 1));
	for (int i = 0; i < report.n; i++)
	{
		if (null_ids[i] || null_claims[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("step_ids and claims must not contain null")));
		unsorted[i] = DatumGetInt64(ids[i]);
		(*order)[i] = i;
	}
	sort_ids = unsorted;
	qsort(*order, report.n, sizeof(int), CompareBySortIds);
	for (int i = 0; i < report.n; i++)
	{
		report.step_ids[i] = unsorted[(*order)[i]];
		report.claims[i] = DatumGetInt32(claims[(*order)[i]]);
	}
	report.of_executor = OfExecutor(fcinfo, executor_argument);
	return report;
}

static Datum
MakeReportOfMany(FunctionCallInfo fcinfo, const Report *report, int skip_argument)
{
	bool		skip_stale = !PG_ARGISNULL(skip_argument) && PG_GETARG_BOOL(skip_argument);
	int64	   *refused;
	int			n_refused;

	(void) MakeReport(report, skip_stale, &refused, &n_refused);
	return Int64Array(refused, n_refused);
}

/* ---------- SQL functions ---------- */

PG_FUNCTION_INFO_V1(tasker_complete_step);
PG_FUNCTION_INFO_V1(tasker_complete_steps);
PG_FUNCTION_INFO_V1(tasker_fail_step);
PG_FUNCTION_INFO_V1(tasker_fail_steps);
PG_FUNCTION_INFO_V1(tasker_release_step);
PG_FUNCTION_INFO_V1(tasker_release_steps);

Datum
tasker_complete_step(PG_FUNCTION_ARGS)
{
	Report		report = ReportOfOne(fcinfo, STATE_COMPLETE, 3);
	Datum		results = PG_ARGISNULL(2) ? JsonbOfText("{}") : PG_GETARG_DATUM(2);

	CheckDocumentSize(results, MAX_CONTENT_BYTES, "the results of a step");
	report.results = &results;
	return MakeReportOfOne(&report);
}

Datum
tasker_complete_steps(PG_FUNCTION_ARGS)
{
	int		   *order;
	Report		report = ReportOfMany(fcinfo, STATE_COMPLETE, 3, &order);
	bool	   *nulls;
	Datum	   *results = ArrayArgument(fcinfo, 2, "results", JSONBOID, &nulls, &report.n);
	Datum		empty = JsonbOfText("{}");

	report.results = palloc(sizeof(Datum) * Max(report.n, 1));
	for (int i = 0; i < report.n; i++)
	{
		report.results[i] = results == NULL || nulls[order[i]] ? empty : results[order[i]];
		CheckDocumentSize(report.results[i], MAX_CONTENT_BYTES, "the results of a step");
	}
	return MakeReportOfMany(fcinfo, &report, 4);
}

Datum
tasker_fail_step(PG_FUNCTION_ARGS)
{
	Report		report = ReportOfOne(fcinfo, STATE_ERROR, 6);
	StepFailure failure = {
		.step_id = report.step_ids[0],.claim = report.claims[0],
		.error = PG_ARGISNULL(2) ? "unknown" : text_to_cstring(PG_GETARG_TEXT_PP(2)),
		.error_class = PG_ARGISNULL(3) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(3)),
		.retryable = PG_ARGISNULL(4) || PG_GETARG_BOOL(4),
		.retry_after = RETRY_BY_BACKOFF
	};

	if (!PG_ARGISNULL(5))
	{
		failure.retry_after = PG_GETARG_INT32(5);
		CheckRetryAfter(failure.retry_after);
	}
	report.failures = &failure;
	return MakeReportOfOne(&report);
}

Datum
tasker_fail_steps(PG_FUNCTION_ARGS)
{
	int		   *order;
	Report		report = ReportOfMany(fcinfo, STATE_ERROR, 6, &order);
	bool	   *no_error;
	bool	   *no_class;
	bool	   *no_retryable;
	bool	   *no_after;
	Datum	   *errors;
	Datum	   *classes = ArrayArgument(fcinfo, 3, "error_classes", TEXTOID, &no_class, &report.n);
	Datum	   *retryable = ArrayArgument(fcinfo, 4, "retryable", BOOLOID, &no_retryable, &report.n);
	Datum	   *after = ArrayArgument(fcinfo, 5, "retry_after_seconds", INT4OID, &no_after, &report.n);

	CheckNotNull(fcinfo, 2, "errors");
	errors = ArrayArgument(fcinfo, 2, "errors", TEXTOID, &no_error, &report.n);
	report.failures = palloc(sizeof(StepFailure) * Max(report.n, 1));
	for (int i = 0; i < report.n; i++)
	{
		int			from = order[i];

		report.failures[i] = (StepFailure)
		{
			.step_id = report.step_ids[i],.claim = report.claims[i],
				.error = no_error[from] ? "unknown" : TextDatumGetCString(errors[from]),
				.error_class = classes && !no_class[from] ? TextDatumGetCString(classes[from]) : NULL,
				.retryable = !retryable || no_retryable[from] || DatumGetBool(retryable[from]),
				.retry_after = after && !no_after[from] ? DatumGetInt32(after[from]) : RETRY_BY_BACKOFF,
		};
		if (after && !no_after[from])
			CheckRetryAfter(report.failures[i].retry_after);
	}
	return MakeReportOfMany(fcinfo, &report, 7);
}

Datum
tasker_release_step(PG_FUNCTION_ARGS)
{
	Report		report = ReportOfOne(fcinfo, STATE_PENDING, 2);

	return MakeReportOfOne(&report);
}

Datum
tasker_release_steps(PG_FUNCTION_ARGS)
{
	int		   *order;
	Report		report = ReportOfMany(fcinfo, STATE_PENDING, 2, &order);

	return MakeReportOfMany(fcinfo, &report, 3);
}
