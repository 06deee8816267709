-- Whether and when a failed step may run again.

CREATE FUNCTION tasker.backoff_seconds(attempts integer, strategy text DEFAULT 'exponential',
	base_seconds double precision DEFAULT NULL, cap_seconds double precision DEFAULT NULL, jitter double precision DEFAULT NULL)
RETURNS double precision
LANGUAGE c VOLATILE PARALLEL SAFE AS 'MODULE_PATHNAME', 'tasker_backoff_seconds';
COMMENT ON FUNCTION tasker.backoff_seconds(integer, text, double precision, double precision, double precision) IS
'The wait that follows so many attempts (1 and up): exponential (base doubled for each attempt after the first), linear (base times attempts) or constant; at most the cap, moved by a random share of it, up to jitter (0 to 1) in both directions, and never above the cap. NULL: the settings tasker.backoff_base, .backoff_cap, .backoff_jitter. What fail_step does, for strategies of one''s own to build on. Errors: 22023 an argument out of range.';
