/*
 * cron.c
 *		Cron expressions.
 */
#include "postgres.h"

#include "rules/cron.h"

/* A field of an expression: its values, and how they may be called. */
typedef struct CronField
{
	const char *name;
	int			first;
	int			last;
	const char *const *names;	/* of the values from first on, three letters each; NULL: none */
} CronField;

static const char *const month_names[] = {"jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec", NULL};
static const char *const weekday_names[] = {"sun", "mon", "tue", "wed", "thu", "fri", "sat", NULL};

static const CronField fields[] = {
	{"minute", 0, 59, NULL},
	{"hour", 0, 23, NULL},
	{"day of the month", 1, 31, NULL},
	{"month", 1, 12, month_names},
	{"weekday", 0, 7, weekday_names},
};

static const struct
{
	const char *name;
	const char *expression;
}			shorthands[] = {
	{"@hourly", "0 * * * *"},
	{"@daily", "0 0 * * *"},
	{"@midnight", "0 0 * * *"},
	{"@weekly", "0 0 * * 0"},
	{"@monthly", "0 0 1 * *"},
	{"@yearly", "0 0 1 1 *"},
	{"@annually", "0 0 1 1 *"},
};

static const char *
Problem(const CronField *field, const char *problem)
{
	return psprintf("its %s %s", field->name, problem);
}

/* Reads a number; -1 where there is none, or one that is far too large. */
static int
ReadNumber(const char **c)
{
	int			number = -1;

	while (**c >= '0' && **c <= '9')
	{
		number = Max(number, 0) * 10 + (**c - '0');
		if (number > 1000)
			return -1;
		(*c)++;
	}
	return number;
}

/* Reads a value of a field, a number or a name; -1 where there is none. */
static int
ReadValue(const CronField *field, const char **c)
{
	for (int i = 0; field->names != NULL && field->names[i] != NULL; i++)
	{
		if (pg_strncasecmp(*c, field->names[i], 3) == 0)
		{
			*c += 3;
			return field->first + i;
		}
	}
	return ReadNumber(c);
}

/* Reads "*", "a" or "a-b", each with an optional "/step", and adds its values to a set. */
static const char *
ReadPart(const CronField *field, const char **c, uint64 *set)
{
	int			from = field->first;
	int			to = field->last;
	int			step = 1;
	bool		open = **c == '*';

	if (open)
		(*c)++;
	else
	{
		from = to = ReadValue(field, c);
		if (**c == '-')
		{
			(*c)++;
			to = ReadValue(field, c);
		}
		if (from < field->first || to < field->first || from > field->last || to > field->last)
			return Problem(field, psprintf("must lie between %d and %d", field->first, field->last));
		if (from > to)
			return Problem(field, "has a range that goes backwards");
	}
	if (**c == '/')
	{
		(*c)++;
		step = ReadNumber(c);
		if (step < 1)
			return Problem(field, "has a step that is not a positive number");
		/* "5/10" begins at 5 and goes on to the end. */
		if (!open && from == to)
			to = field->last;
	}
	for (int value = from; value <= to; value += step)
		*set |= UINT64CONST(1) << value;
	return NULL;
}

/* Reads a field, a list of parts, up to the next blank. */
static const char *
ReadField(const CronField *field, const char **c, uint64 *set)
{
	*set = 0;
	for (;;)
	{
		const char *problem = ReadPart(field, c, set);

		if (problem != NULL)
			return problem;
		if (**c != ',')
			break;
		(*c)++;
	}
	return **c == ' ' || **c == '\t' || **c == '\0' ? NULL : Problem(field, psprintf("has something strange at \"%.20s\"", *c));
}

const char *
ParseCron(const char *text, CronExpression *cron)
{
	uint64		sets[lengthof(fields)];
	char		begins[lengthof(fields)];
	bool		is_star[lengthof(fields)];
	const char *c = text;

	for (int i = 0; i < lengthof(shorthands); i++)
	{
		if (pg_strcasecmp(text, shorthands[i].name) == 0)
			c = shorthands[i].expression;
	}
	for (int i = 0; i < lengthof(fields); i++)
	{
		const char *problem;
		const char *begin;

		c += strspn(c, " \t");
		if (*c == '\0')
			return "it must have five fields: minute, hour, day of the month, month, weekday";
		begin = c;
		problem = ReadField(&fields[i], &c, &sets[i]);
		if (problem != NULL)
			return problem;
		begins[i] = *begin;
		is_star[i] = *begin == '*' && c == begin + 1;
	}
	c += strspn(c, " \t");
	if (*c != '\0')
		return "it must have no more than five fields";
	*cron = (CronExpression)
	{
		.minutes = sets[0],.hours = (uint32) sets[1],.days = (uint32) sets[2],.months = (uint32) sets[3],
		/* Sunday is 7, too. */
			.weekdays = (uint32) ((sets[4] | sets[4] >> 7) & 0x7f),
			.any_day = is_star[2],.any_weekday = is_star[4],.any_hour = begins[1] == '*'
	};
	return NULL;
}

/* Sunday is 0; by Sakamoto's rule. */
static int
Weekday(int year, int month, int day)
{
	static const int shift[] = {0, 3, 2, 5, 0, 3, 5, 1, 4, 6, 2, 4};

	if (month < 3)
		year--;
	return (year + year / 4 - year / 100 + year / 400 + shift[month - 1] + day) % 7;
}

bool
CronDayMatches(const CronExpression *cron, const CronMinute *minute)
{
	bool		day = (cron->days >> minute->day & 1) != 0;
	bool		weekday = (cron->weekdays >> Weekday(minute->year, minute->month, minute->day) & 1) != 0;

	if ((cron->months >> minute->month & 1) == 0)
		return false;
	return cron->any_day || cron->any_weekday ? day && weekday : day || weekday;
}

bool
CronMatches(const CronExpression *cron, const CronMinute *minute)
{
	return CronDayMatches(cron, minute) && (cron->hours >> minute->hour & 1) != 0 && (cron->minutes >> minute->minute & 1) != 0;
}
