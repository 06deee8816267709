-- Tasks that are started by time.

CREATE FUNCTION tasker.next_cron_time(cron text, after timestamptz, time_zone text DEFAULT 'UTC') RETURNS timestamptz
LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tasker_next_cron_time';
COMMENT ON FUNCTION tasker.next_cron_time(text, timestamptz, text) IS
'The first minute after a time that a cron expression names on the clocks of a time zone; NULL where there is none (30 February). The expression is "minute hour day month weekday" with lists, ranges, steps, English names of months and weekdays, or @hourly, @daily, @weekly, @monthly, @yearly; where both day fields are given one of them is enough. Where clocks are put forward, what was meant for the hour that is left out is due when it ends; where they are put back, what was meant for the hour that comes twice is due the first time; with * or a step from it in the hour field every match counts. Errors: 22023 invalid expression, unknown zone, infinite time.';
