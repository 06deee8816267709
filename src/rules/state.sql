-- States and the transitions between them. The table of legal transitions is
-- the constant in state.c; everything here is generated from it.

CREATE TYPE tasker.state AS ENUM (
	'pending', 'in_progress', 'complete', 'error', 'cancelled', 'resolved_manually');
COMMENT ON TYPE tasker.state IS
'State of a task or of a step. The order of the labels is the order of TaskerState in state.h.';

CREATE FUNCTION tasker.legal_transitions(
	OUT owner text, OUT from_state tasker.state, OUT to_state tasker.state, OUT event text)
RETURNS SETOF record
LANGUAGE c STABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'tasker_legal_transitions';
COMMENT ON FUNCTION tasker.legal_transitions() IS
'One row for each transition that a task or a step may make, read from the constant tables that enforce them. from_state is NULL for the transition that a creation makes.';

CREATE VIEW tasker.allowed_transitions AS
SELECT owner, from_state, to_state, event FROM tasker.legal_transitions();
COMMENT ON VIEW tasker.allowed_transitions IS
'Which state changes are legal, for owner ''task'' and ''step'', and the event that each one announces.';

CREATE FUNCTION tasker.transition_event(owner text, from_state tasker.state, to_state tasker.state) RETURNS text
LANGUAGE c IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'tasker_transition_event';
COMMENT ON FUNCTION tasker.transition_event(text, tasker.state, tasker.state) IS
'The event that a transition of owner ''task'' or ''step'' announces; NULL where it is not legal. from_state NULL is the creation.';
