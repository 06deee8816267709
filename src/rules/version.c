/*
 * version.c
 *		Versions of templates: three numbers that compare as numbers.
 */
#include "postgres.h"

#include "rules/version.h"

bool
IsVersion(const char *text)
{
	const char *c = text;

	for (int part = 0; part < 3; part++)
	{
		int			digits = strspn(c, "0123456789");

		if (digits < 1 || digits > 9 || (digits > 1 && *c == '0') || c[digits] != (part < 2 ? '.' : '\0'))
			return false;
		c += digits + 1;
	}
	return true;
}
