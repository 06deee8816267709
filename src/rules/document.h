/*
 * document.h
 *		Reading JSON objects by rules: which keys there are, of which type and
 *		range. Pure; every complaint is 22023 and says where it is.
 */
#ifndef TASKER_DOCUMENT_H
#define TASKER_DOCUMENT_H

#include "tasker.h"

#include "utils/jsonb.h"

typedef enum MemberType
{
	MEMBER_STRING,
	MEMBER_STRINGS,				/* an array of strings */
	MEMBER_BOOLEAN,
	MEMBER_NUMBER,
	MEMBER_OBJECT,
	MEMBER_ARRAY,
	MEMBER_ANYTHING
} MemberType;

typedef struct MemberRule
{
	const char *key;
	MemberType	type;
	bool		required;
	double		min;			/* of a number; characters of a string */
	double		max;
	bool		whole;			/* the number has no fraction */
} MemberRule;

/* Names what is being read, for complaints. */
typedef struct DocumentReader
{
	const char *subject;		/* "template \"x\"" */
	const char *part;			/* "step \"y\""; NULL outside of one */
} DocumentReader;

pg_noreturn extern void ComplainOf(const DocumentReader *reader, const char *problem);

/* Checks that every member of an object is known and as its rule says. */
extern void CheckMembers(const DocumentReader *reader, JsonbContainer *object,
						 const MemberRule *rules);

/* A member of an object that CheckMembers has passed; NULL or the default if absent. */
extern JsonbValue *Member(JsonbContainer *object, const char *key);
extern char *StringMember(JsonbContainer *object, const char *key, const char *otherwise);
extern bool BooleanMember(JsonbContainer *object, const char *key, bool otherwise);
extern double NumberMember(JsonbContainer *object, const char *key, double otherwise);

/* A copy of a string value. */
extern char *StringOf(const JsonbValue *value);

/*
 * How large documents may be, in bytes of jsonb. Everything that is handed to
 * one executor at once stays far below the gigabyte that a value can have,
 * as text, too.
 */
#define MAX_CONTENT_BYTES	(64 * 1024 * 1024)
#define MAX_METADATA_BYTES	(1024 * 1024)

/* The size of a jsonb, without reading it. */
extern Size DocumentBytes(Datum jsonb);

/* Raises 54000 where a jsonb is larger than that. */
extern void CheckDocumentSize(Datum jsonb, Size max, const char *what);

#endif							/* TASKER_DOCUMENT_H */
