-- Cron expressions: when something is due again, on the clocks of a zone.
SET TimeZone = 'UTC';
CREATE FUNCTION pg_temp.next(cron text, after timestamptz, zone text, n integer) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	times text[];
BEGIN
	FOR i IN 1..n LOOP
		after := tasker.next_cron_time(cron, after, zone);
		times := times || to_char(after AT TIME ZONE zone, 'Dy YYYY-MM-DD HH24:MI');
		EXIT WHEN after IS NULL;
	END LOOP;
	RETURN array_to_string(times, ', ', 'never');
END
$$;
SELECT cron, pg_temp.next(cron, '2026-11-28 20:15:30+00', 'UTC', 3)
FROM unnest(ARRAY['* * * * *', '*/20 * * * *', '5 4 * * *', '15 20 * * *', '16 20 * * *', '0 0 1 * *', '30 9 * * mon-fri', '0 12 * * 7', '0 12 * * 0,6',
	'0 0 13 * 5', '0 0 */10 * *', '0 22 31 dec *', '0 0 29 2 *', '0 0 30 2 *', '59 23 31 * *', '0,30 8-10/2 * * *', '5/25 * * * *',
	'@hourly', '@daily', '@weekly', '@Monthly', '@yearly', '  0	0  1 Jan,JUL * ']) cron;
-- The day fields: both given, one is enough; with a * in one, both count.
SELECT pg_temp.next('0 0 1,15 * 3', '2026-01-01 00:00+00', 'UTC', 4), pg_temp.next('0 0 */2 * 3', '2026-01-01 00:00+00', 'UTC', 3);
-- Where clocks are put forward (02:00 to 03:00), and put back (03:00 to 02:00).
SELECT cron, pg_temp.next(cron, '2026-03-28 12:00+00', 'Europe/Berlin', 3), pg_temp.next(cron, '2026-10-24 12:00+00', 'Europe/Berlin', 3)
FROM unnest(ARRAY['30 2 * * *', '0 3 * * *', '30 1 * * *', '0 2 * * *']) cron;
SELECT tasker.next_cron_time('30 2 * * *', '2026-10-25 00:00+00', 'Europe/Berlin') AS the_first_of_two,
	tasker.next_cron_time('30 2 * * *', '2026-10-25 00:30+00', 'Europe/Berlin') AS not_the_second;
SELECT string_agg(to_char(t, 'HH24:MI'), ' ') AS every_half_hour_of_elapsed_time
FROM (WITH RECURSIVE due(t) AS (
	SELECT tasker.next_cron_time('*/30 * * * *', '2026-10-24 23:59+00', 'Europe/Berlin')
	UNION ALL SELECT tasker.next_cron_time('*/30 * * * *', t, 'Europe/Berlin') FROM due WHERE t < '2026-10-25 03:00+00') SELECT t FROM due) d;
-- Half an hour of summer time, and a zone with a half hour.
SELECT pg_temp.next('15 2 * * *', '2026-10-03 00:00+00', 'Australia/Lord_Howe', 2), pg_temp.next('0 9 * * *', '2026-01-01 00:00+00', 'Asia/Kolkata', 2);
-- Each is later than the one before, in every zone, for a year.
SELECT count(*) AS stuck FROM unnest(ARRAY['Europe/Berlin', 'America/New_York', 'Australia/Lord_Howe', 'Pacific/Apia', 'America/Sao_Paulo']) zone,
	unnest(ARRAY['30 2 * * *', '*/15 1-3 * * *', '0 0 * * *']) cron, generate_series('2026-01-01'::timestamptz, '2026-12-31', '5 days 1 hour') after
WHERE tasker.next_cron_time(cron, after, zone) <= after OR tasker.next_cron_time(cron, after, zone) > after + interval '2 days';
\set VERBOSITY terse
CREATE FUNCTION pg_temp.problem(cron text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	RETURN tasker.next_cron_time(cron, '2026-01-01');
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE || ' ' || SQLERRM;
END
$$;
SELECT pg_temp.problem(cron) FROM unnest(ARRAY['', '*', '* * * *', '* * * * * *', '60 * * * *', '* 24 * * *', '* * 0 * *', '* * * 13 *', '* * * * 8', 'a * * * *',
	'5-1 * * * *', '*/0 * * * *', '*/x * * * *', '1,, * * * *', '1- * * * *', '* * * january *', '99999999999 * * * *', '@never', '-1 * * * *', '*5 * * * *', '1;DROP * * * *']) cron;
SELECT tasker.next_cron_time('* * * * *', 'infinity');
SELECT tasker.next_cron_time('* * * * *', now(), 'Middle/Earth');
