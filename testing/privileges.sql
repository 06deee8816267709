-- As in tasker itself nothing is open to PUBLIC; these functions have the
-- rights of their caller.
REVOKE ALL ON SCHEMA tasker_testing FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA tasker_testing FROM PUBLIC;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA tasker_testing FROM PUBLIC;
REVOKE ALL ON ALL ROUTINES IN SCHEMA tasker_testing FROM PUBLIC;
