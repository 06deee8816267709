/*
 * fault.c
 *		Named places in the code where a test may strike; empty in a release.
 *
 * The setting tasker.fault, "name:action" or "name:action:n", tells which
 * point strikes, and the how manieth time that a process reaches it.  Actions
 * are kill (signal 9 for the process itself), error, and wait.
 *
 * A strike makes the file tasker_fault.NAME in the data directory, and while
 * that is there the point does not strike again: of many processes only one
 * does, and a server that recovers from it does not die of it again.  wait
 * waits until somebody removes the file.
 */
#include "postgres.h"

#include "pg/fault.h"

#ifdef TASKER_FAULT_POINTS

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include "access/xact.h"
#include "common/file_perm.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/guc.h"

typedef struct Fault
{
	char		name[64];		/* empty: none */
	char		action[8];
	int			nth;
} Fault;

static char *fault_setting = NULL;
static Fault fault;
static int	reached = 0;

static bool
ParseFault(const char *text, Fault *parsed)
{
	char		rest;
	int			fields;

	memset(parsed, 0, sizeof(Fault));
	parsed->nth = 1;
	if (text[0] == '\0')
		return true;
	fields = sscanf(text, "%63[a-z-]:%7[a-z]:%d%c", parsed->name, parsed->action, &parsed->nth, &rest);
	return (fields == 3 || (fields == 2 && strlen(parsed->name) + 1 + strlen(parsed->action) == strlen(text))) &&
		parsed->nth > 0 &&
		(strcmp(parsed->action, "kill") == 0 || strcmp(parsed->action, "error") == 0 || strcmp(parsed->action, "wait") == 0);
}

static bool
CheckFault(char **text, void **extra, GucSource source)
{
	Fault		parsed;

	if (ParseFault(*text, &parsed))
		return true;
	GUC_check_errdetail("It must be \"name:action\" or \"name:action:n\", and the action kill, error or wait.");
	return false;
}

/* Every reload assigns; it counts from the start only where the fault is another one. */
static void
AssignFault(const char *text, void *extra)
{
	Fault		parsed;

	(void) ParseFault(text, &parsed);
	if (memcmp(&parsed, &fault, sizeof(Fault)) == 0)
		return;
	fault = parsed;
	reached = 0;
}

void
InitFaults(void)
{
	DefineCustomStringVariable("tasker.fault",
							   "Where this process strikes, and how.",
							   "For tests; only builds with FAULT_POINTS=1 have it.",
							   &fault_setting, "",
							   PGC_SUSET, 0, CheckFault, AssignFault, NULL);
}

/* Whether this process is the one that strikes: it has made the file. */
static bool
ClaimStrike(const char *path)
{
	int			file = open(path, O_CREAT | O_EXCL | O_WRONLY, pg_file_create_mode);

	return file >= 0 && close(file) == 0;
}

void
ReachFaultPoint(const char *name)
{
	char		path[MAXPGPATH];
	bool		is_error;

	if (fault.name[0] == '\0' || strcmp(fault.name, name) != 0 || ++reached < fault.nth)
		return;
	/* After the commit no error can be raised. */
	is_error = strcmp(fault.action, "error") == 0;
	if (is_error && (!IsTransactionState() || InterruptHoldoffCount > 0))
		return;
	snprintf(path, sizeof(path), "%s/tasker_fault.%s", DataDir, name);
	if (!ClaimStrike(path))
		return;
	if (is_error)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR), errmsg("tasker.fault strikes at \"%s\"", name)));
	if (strcmp(fault.action, "kill") == 0)
		(void) kill(MyProcPid, SIGKILL);
	while (access(path, F_OK) == 0)
	{
		CHECK_FOR_INTERRUPTS();
		pg_usleep(10000L);
	}
}

#endif							/* TASKER_FAULT_POINTS */
