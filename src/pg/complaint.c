/*
 * complaint.c
 *		Saying the same thing in the server log once a minute.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "pg/complaint.h"

#define SILENCE_US (60 * USECS_PER_SEC)

/* So many different lines are remembered, the latest ones. */
#define REMEMBERED 32

typedef struct Complaint
{
	uint64		line;			/* its hash; 0: none */
	TimestampTz logged_at;
	int64		suppressed;
} Complaint;

static Complaint complaints[REMEMBERED];

bool
MayComplain(const char *line, int64 *suppressed)
{
	uint64		hash = hash_bytes_extended((const unsigned char *) line, strlen(line), 0) | 1;
	TimestampTz now = GetCurrentTimestamp();
	Complaint  *complaint = &complaints[0];

	for (int i = 0; i < REMEMBERED; i++)
	{
		if (complaints[i].line == hash)
		{
			complaint = &complaints[i];
			break;
		}
		if (complaints[i].logged_at < complaint->logged_at)
			complaint = &complaints[i];
	}
	if (complaint->line == hash && now - complaint->logged_at < SILENCE_US)
	{
		complaint->suppressed++;
		return false;
	}
	*suppressed = complaint->line == hash ? complaint->suppressed : 0;
	*complaint = (Complaint)
	{
		.line = hash,.logged_at = now
	};
	return true;
}

const char *
SuppressedText(int64 suppressed)
{
	return suppressed == 0 ? "" : psprintf(" (" INT64_FORMAT " times more since the last such line)", suppressed);
}
