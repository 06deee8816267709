/*
 * traceparent.c
 *		The header of W3C Trace Context that says which trace a call belongs to,
 *		and which span of it has made it.
 */
#include "postgres.h"

#include "rules/traceparent.h"

#define TRACE_ID_DIGITS 32
#define SPAN_ID_DIGITS 16
#define FLAG_DIGITS 2

/* Moves past so many lower-case hexadecimal digits and what ends them; false where they are not there. */
static bool
PassDigits(const char **c, int digits, char end)
{
	if (strspn(*c, "0123456789abcdef") != digits || (*c)[digits] != end)
		return false;
	*c += digits + 1;
	return true;
}

/* As PassDigits, of an id: all zeros are none. */
static bool
PassId(const char **c, int digits)
{
	bool		none = strspn(*c, "0") >= digits;

	return PassDigits(c, digits, '-') && !none;
}

bool
IsTraceparent(const char *text)
{
	const char *c = text + 3;

	return strncmp(text, "00-", 3) == 0 && PassId(&c, TRACE_ID_DIGITS) && PassId(&c, SPAN_ID_DIGITS) &&
		PassDigits(&c, FLAG_DIGITS, '\0');
}
