/*
 * reaction.h
 *		What follows from events: whoever reacts to them gets each once.
 *
 * The orchestrator reads events as a consumer of its own, page by page, and in
 * the transaction that moves its position everybody who reacts does what is to
 * be done.  The reactions are a fixed list, see reaction.c.
 */
#ifndef TASKER_REACTION_H
#define TASKER_REACTION_H

#include "tasker.h"

/* What came of one call. */
typedef struct ReactionReport
{
	bool		wanted;			/* somebody reacts to some event */
	int			events;			/* read */
} ReactionReport;

/*
 * Reads the next page, max events at most, and has everybody react to it, in
 * the caller's transaction.  The caller holds the orchestration lock, so that a
 * step that begins to wait in a batch has either seen an event then or gets it
 * from a later page; there is no open query scope.  Where the database is not
 * adopted nothing is read.
 *
 * What fails for good is noted where it belongs, and passed over.  What may
 * succeed the next time (a lock, a deadlock, the server) is raised, and the page
 * is read again later; but who is impatient passes over rows that others lock.
 */
extern ReactionReport ReactToEvents(int max, bool impatient);

#endif							/* TASKER_REACTION_H */
