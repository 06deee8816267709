/*
 * json_schema.h
 *		JSON Schema without PostgreSQL: documents, compiled schemas, problems.
 *
 * The other side of this header is C++.  Nothing of PostgreSQL is called from
 * there and no exception comes out of it, so neither longjmp nor unwinding
 * ever crosses the border.  What it allocates it frees in the Free functions;
 * the caller must see to it that these are called after an error, too.
 *
 * Text is UTF-8.  A number stays as it was written.
 */
#ifndef TASKER_JSON_SCHEMA_H
#define TASKER_JSON_SCHEMA_H

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C"
{
#endif

typedef struct JsonDocument JsonDocument;
typedef struct JsonSchema JsonSchema;

/* What a document is built from, in the order of its text. */
typedef enum JsonEvent
{
	JSON_OBJECT,
	JSON_ARRAY,
	JSON_END,					/* of the object or array that is open */
	JSON_KEY,
	JSON_STRING,
	JSON_NUMBER,
	JSON_TRUE,
	JSON_FALSE,
	JSON_NULL
} JsonEvent;

typedef enum JsonOutcome
{
	JSON_DONE,
	JSON_REFUSED,				/* the document's only problem says why */
	JSON_TOO_COSTLY,			/* likewise; a limit was reached */
	JSON_TOO_DEEP,				/* the stack would have overflowed */
	JSON_INTERRUPTED,
	JSON_NO_MEMORY
} JsonOutcome;

/* How the server is asked, at every step of the work; neither may raise. */
typedef struct JsonEnvironment
{
	bool		(*stack_is_too_deep) (void);
	bool		(*is_interrupted) (void);
} JsonEnvironment;

/* NULL without memory. */
extern JsonDocument *NewJsonDocument(void);

/* Appends to a document; false without memory. */
extern bool AddJson(JsonDocument *document, JsonEvent event, const char *text, size_t length);

extern void FreeJsonDocument(JsonDocument *document);

/*
 * Compiles a schema, which owns the document from then on if the outcome is
 * JSON_DONE.  After JSON_INTERRUPTED it may be tried again.
 */
extern JsonOutcome CompileJsonSchema(JsonDocument *document, const JsonEnvironment *environment,
									 JsonSchema **schema);

extern void FreeJsonSchema(JsonSchema *schema);

/*
 * Validates a document; the outcome is JSON_DONE whether it is valid or not.
 * With insert_defaults, what is missing is inserted first.  After
 * JSON_INTERRUPTED it may be tried again.
 */
extern JsonOutcome ValidateJson(JsonSchema *schema, JsonDocument *document, bool insert_defaults,
								const JsonEnvironment *environment);

/* What is wrong with a document: where (a JSON pointer) and what. */
extern size_t JsonProblems(const JsonDocument *document);
extern const char *JsonProblemPath(const JsonDocument *document, size_t number);
extern const char *JsonProblem(const JsonDocument *document, size_t number);

/* The text of the document with its defaults; NULL if none was missing. */
extern const char *JsonWithDefaults(const JsonDocument *document);

/* Problems beyond this many are not looked for. */
#define JSON_MAX_PROBLEMS 1000

#ifdef __cplusplus
}
#endif

#endif							/* TASKER_JSON_SCHEMA_H */
