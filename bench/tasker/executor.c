/*
 * The least that an executor of tasker can be: libpq, one connection, LISTEN.
 * It shows the limit that the server sets, not what a client should look like.
 *
 * usage: executor CONNECTION HANDLER CAPACITY
 *
 * Completes all steps that have arrived since its last call in one call.
 * Prints "ready", then after each call how many steps it has completed. Gives
 * back what it has not begun and ends when its input is closed.
 */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libpq-fe.h"

typedef struct Text
{
	char	   *data;
	size_t		length;
	size_t		room;
} Text;

/* The steps that have arrived: two array literals that grow side by side. */
static Text ids;
static Text claims;
static int	arrived = 0;

static void
die(const char *what, PGconn *connection)
{
	fprintf(stderr, "executor: %s: %s\n", what, PQerrorMessage(connection));
	exit(1);
}

static void
append(Text *text, const char *data, size_t length)
{
	if (text->length + length + 1 > text->room)
	{
		text->room = (text->length + length + 1) * 2;
		text->data = realloc(text->data, text->room);
		if (text->data == NULL)
			exit(1);
	}
	memcpy(text->data + text->length, data, length);
	text->length += length;
	text->data[text->length] = '\0';
}

static void
forget_steps(void)
{
	ids.length = claims.length = 0;
	append(&ids, "{", 1);
	append(&claims, "{", 1);
	arrived = 0;
}

/* Appends the number that follows a key, and says where it ends. */
static const char *
take_number(const char *payload, const char *key, Text *text)
{
	const char *number = strstr(payload, key);
	size_t		length;

	if (number == NULL)
		return NULL;
	number += strlen(key);
	number += strspn(number, " ");
	length = strspn(number, "0123456789");
	if (arrived > 0)
		append(text, ",", 1);
	append(text, number, length);
	return number + length;
}

/*
 * Notes the steps of a message. The ids come first in each step of the payload
 * and the inputs of these workloads do not use the two keys, so that a search
 * for them is parser enough.
 */
static void
take_steps(const char *payload)
{
	while ((payload = take_number(payload, "\"workflow_step_id\":", &ids)) != NULL)
	{
		payload = take_number(payload, "\"claim\":", &claims);
		if (payload == NULL)
			exit(1);
		arrived++;
	}
}

static void
read_messages(PGconn *connection)
{
	PGnotify   *message;

	while ((message = PQnotifies(connection)) != NULL)
	{
		take_steps(message->extra);
		PQfreemem(message);
	}
}

static PGresult *
run(PGconn *connection, PGresult *result, ExecStatusType expected)
{
	if (PQresultStatus(result) != expected)
		die("query", connection);
	return result;
}

/* Registers and listens in one transaction; gives the executor's id as text. */
static char *
enlist(PGconn *connection, const char *handler, const char *capacity)
{
	const char *values[] = {handler, capacity};
	char		listen[128];
	char	   *id;
	PGresult   *result;

	PQclear(run(connection, PQexec(connection, "BEGIN"), PGRES_COMMAND_OK));
	result = run(connection, PQexecParams(connection,
										  "SELECT executor_id, channel FROM tasker.register_executor('bench', ARRAY[$1], $2::integer)",
										  2, NULL, values, NULL, NULL, 0), PGRES_TUPLES_OK);
	id = strdup(PQgetvalue(result, 0, 0));
	snprintf(listen, sizeof(listen), "LISTEN \"%s\"", PQgetvalue(result, 0, 1));
	PQclear(result);
	PQclear(run(connection, PQexec(connection, listen), PGRES_COMMAND_OK));
	PQclear(run(connection, PQexec(connection, "COMMIT"), PGRES_COMMAND_OK));
	PQclear(run(connection, PQprepare(connection, "complete",
									  "SELECT tasker.complete_steps($1, $2, NULL, $3)", 3, NULL), PGRES_COMMAND_OK));
	return id;
}

static void
complete(PGconn *connection, const char *id)
{
	const char *values[3];
	int			count = arrived;

	append(&ids, "}", 1);
	append(&claims, "}", 1);
	values[0] = ids.data;
	values[1] = claims.data;
	values[2] = id;
	PQclear(run(connection, PQexecPrepared(connection, "complete", 3, values, NULL, NULL, 0), PGRES_TUPLES_OK));
	forget_steps();
	printf("%d\n", count);
	fflush(stdout);
}

int
main(int argc, char **argv)
{
	PGconn	   *connection;
	char	   *id;
	const char *values[1];

	if (argc != 4)
		return 2;
	connection = PQconnectdb(argv[1]);
	if (PQstatus(connection) != CONNECTION_OK)
		die("connection", connection);
	forget_steps();
	id = enlist(connection, argv[2], argv[3]);
	puts("ready");
	fflush(stdout);
	for (;;)
	{
		struct pollfd waits[] = {{.fd = PQsocket(connection), .events = POLLIN}, {.fd = 0, .events = POLLIN}};

		read_messages(connection);
		if (poll(waits, 2, arrived > 0 ? 0 : -1) > 0 && waits[1].revents)
			break;
		if (arrived > 0)
			complete(connection, id);
		else if (!PQconsumeInput(connection))
			die("connection", connection);
	}
	values[0] = id;
	PQclear(run(connection, PQexecParams(connection, "SELECT tasker.unregister_executor($1, true)",
										 1, NULL, values, NULL, NULL, 0), PGRES_TUPLES_OK));
	PQfinish(connection);
	return 0;
}
