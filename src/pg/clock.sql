CREATE FUNCTION tasker.now() RETURNS timestamptz
LANGUAGE c STABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'tasker_now';
COMMENT ON FUNCTION tasker.now() IS
'The one clock of tasker: wall time at the moment of the call, moved by the setting tasker.clock_offset. All timestamps that tasker writes and all due times it compares come from here.';
