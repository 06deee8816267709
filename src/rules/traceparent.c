/*
 * traceparent.c
 *		The header of W3C Trace Context that says which trace a call belongs to,
 *		and which span of it has made it.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "rules/traceparent.h"

#define VERSION_DIGITS 2
#define TRACE_ID_DIGITS 32
#define SPAN_ID_DIGITS 16
#define FLAG_DIGITS 2
#define SPAN_ID_AT 36			/* where it begins */
#define FLAGS_AT 53
#define SAMPLED 1
#define KNOWN_FLAGS 3			/* sampled, random: others must not be passed on */

/* Moves past so many lower-case hexadecimal digits and one of the ends; false where they are not there. */
static bool
PassDigits(const char **c, int digits, const char *ends, bool may_end)
{
	char		end;

	if (strspn(*c, "0123456789abcdef") != digits)
		return false;
	end = (*c)[digits];
	if (end == '\0' ? !may_end : strchr(ends, end) == NULL)
		return false;
	*c += digits + 1;
	return true;
}

/* As PassDigits, of an id: all zeros are none. */
static bool
PassId(const char **c, int digits)
{
	bool		none = strspn(*c, "0") >= digits;

	return PassDigits(c, digits, "-", false) && !none;
}

/*
 * What is said of version 00 is true of the beginning of each later one, which
 * may go on behind it; of their flags only "sampled" is known.
 */
char *
ReadTraceparent(const char *text)
{
	const char *c = text;
	bool		known = strncmp(text, "00", VERSION_DIGITS) == 0;

	if (strncmp(text, "ff", VERSION_DIGITS) == 0 || !PassDigits(&c, VERSION_DIGITS, "-", false) ||
		!PassId(&c, TRACE_ID_DIGITS) || !PassId(&c, SPAN_ID_DIGITS) || !PassDigits(&c, FLAG_DIGITS, known ? "" : "-", true))
		return NULL;
	if (known)
		return pstrdup(text);
	return psprintf("00%.*s%02x", FLAGS_AT - VERSION_DIGITS, text + VERSION_DIGITS,
					(int) strtol(text + FLAGS_AT, NULL, 16) & SAMPLED);
}

/* The id of the span, as tasker.span_id() derives it. */
static uint64
DeriveExecutionId(int64 home, int64 step_id, int32 claim)
{
	char		name[80];
	int			length = snprintf(name, sizeof(name), INT64_FORMAT ":execution:" INT64_FORMAT ":%d", home, step_id, claim);

	return hash_bytes_extended((const unsigned char *) name, length, 0);
}

char *
ExecutionTraceparent(const char *of_task, int64 home, int64 step_id, int32 claim)
{
	int			flags = strtol(of_task + FLAGS_AT, NULL, 16) & KNOWN_FLAGS;

	return psprintf("%.*s%016llx-%02x", SPAN_ID_AT, of_task, (unsigned long long) DeriveExecutionId(home, step_id, claim), flags);
}
