/*
 * yaml_document.c
 *		Reading YAML as Ruby reads it: text in, Jsonb out.
 *
 * libyaml turns the text into events; here they become a tree of JsonbValues,
 * from the leaves up.  A finished value never changes, so an alias shares the
 * value of its anchor.  That makes a small text that stands for a huge
 * document; what aliases repeat is counted before anything is copied.
 *
 * Plain scalars are read by the rules of Ruby's Psych, since the templates of
 * the original were written for it.  Differences: dates, times and sexagesimal
 * numbers (12:30) stay the text they are, 0o17 is octal, a key keeps the text
 * it is written with ("on" is no boolean there), and a mapping's own pairs go
 * before merged ones wherever the merge key stands, as YAML has it.
 *
 * libyaml allocates with malloc, so its parser and the current event live in
 * one struct that is given back on every way out.
 */
#include "postgres.h"

#include <ctype.h>
#include <yaml.h>

#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "rules/yaml_document.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/hsearch.h"
#include "utils/numeric.h"

/* What aliases and merge keys may repeat, in all. */
#define MAX_REPEATED_VALUES	1000000
#define MAX_REPEATED_BYTES	(64 * 1024 * 1024)

/* Digits of a number, and its exponent; numeric takes all of these. */
#define MAX_DIGITS			5000

/* Items of one sequence or mapping; an allocation holds them all. */
#define MAX_ITEMS			(8 * 1024 * 1024)

/* Collections in each other: what libyaml does for a token grows with them. */
#define MAX_DEPTH			1000

/* Bytes of the name of an anchor. */
#define MAX_ANCHOR_LENGTH	255

#define YAML_TAG(type)		"tag:yaml.org,2002:" type

/* A finished value, and what one more copy of it would add. */
typedef struct YamlNode
{
	JsonbValue	value;
	int64		values;
	int64		bytes;
} YamlNode;

/* A pair of a mapping, or an item of a sequence, which has no key. */
typedef struct YamlItem
{
	JsonbValue	key;
	JsonbValue	value;
	yaml_mark_t mark;			/* where the key stands */
	int			source;			/* 0: the mapping itself; else the number of the merged mapping */
	int			order;
} YamlItem;

typedef struct Anchor
{
	char		name[MAX_ANCHOR_LENGTH + 1];
	int			definition;		/* the latest of this name */
	bool		is_finished;
	YamlNode	node;
} Anchor;

/* A sequence or mapping whose end has not come yet. */
typedef struct Collection
{
	struct Collection *parent;
	int			depth;
	bool		is_mapping;
	bool		has_key;		/* a value must follow */
	bool		key_is_merge;
	YamlItem	pending;		/* the key */
	int			merged;			/* mappings merged so far */
	Anchor	   *anchor;			/* NULL: none */
	int			definition;		/* of that anchor */
	int			n;
	int			room;
	YamlItem   *items;
	int64		values;
	int64		bytes;
} Collection;

typedef struct YamlReader
{
	yaml_parser_t parser;
	yaml_event_t event;
	const char *input;			/* UTF-8 */
	Collection *open;			/* the innermost */
	HTAB	   *anchors;
	int			definitions;
	int64		repeated_values;
	int64		repeated_bytes;
	bool		is_read;
	YamlNode	root;
} YamlReader;

/* ---------- complaints ---------- */

pg_noreturn static void
ComplainAt(yaml_mark_t mark, const char *problem)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("YAML is invalid: line %d, column %d: %s",
					(int) mark.line + 1, (int) mark.column + 1, problem)));
}

/* Line and column of a byte of UTF-8 text. */
static yaml_mark_t
MarkOf(const char *input, size_t offset)
{
	yaml_mark_t mark = {0};

	for (size_t i = 0; i < offset; i++)
	{
		if (input[i] == '\n' || (input[i] == '\r' && input[i + 1] != '\n'))
		{
			mark.line++;
			mark.column = 0;
		}
		else if (!IS_HIGHBIT_SET(input[i]) || (input[i] & 0x40) != 0)
			mark.column++;
	}
	return mark;
}

/* Reports what libyaml has found; its messages are constants in English. */
pg_noreturn static void
ComplainOfParser(const YamlReader *reader)
{
	const yaml_parser_t *parser = &reader->parser;

	if (parser->error == YAML_MEMORY_ERROR)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory while reading YAML")));
	if (parser->error == YAML_READER_ERROR)
		ComplainAt(MarkOf(reader->input, parser->problem_offset), parser->problem);
	if (parser->context != NULL)
		ComplainAt(parser->problem_mark, psprintf("%s, %s from line %d on", parser->problem,
												  parser->context, (int) parser->context_mark.line + 1));
	ComplainAt(parser->problem_mark, parser->problem);
}

/*
 * ERB makes the text by running Ruby.  Read as it stands it would be a
 * template that nobody meant.
 */
static void
RefuseErb(const char *input)
{
	const char *erb = strstr(input, "<%");
	yaml_mark_t mark;

	if (erb == NULL)
		return;
	mark = MarkOf(input, erb - input);
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("YAML is invalid: line %d, column %d: ERB (\"<%%\") is not evaluated",
					(int) mark.line + 1, (int) mark.column + 1),
			 errhint("Register what ERB makes of the file. In double quotes \"\\x3C%%\" stands for the characters themselves.")));
}

/* ---------- scalars ---------- */

/* A scalar as a string in the encoding of the database. */
static JsonbValue
StringOfScalar(yaml_mark_t mark, const char *utf8, size_t length)
{
	JsonbValue	value = {.type = jbvString};
	char	   *copy;

	if (memchr(utf8, '\0', length) != NULL)
		ComplainAt(mark, "\"\\0\" cannot be stored");
	copy = pnstrdup(utf8, length);
	value.val.string.val = pg_any_to_server(copy, length, PG_UTF8);
	value.val.string.len = value.val.string.val == copy ? length : strlen(value.val.string.val);
	return value;
}

static Datum
NumericOfText(const char *digits)
{
	return DirectFunctionCall3(numeric_in, CStringGetDatum(digits), ObjectIdGetDatum(InvalidOid),
							   Int32GetDatum(-1));
}

/* The value of digits in base 2, 8 or 16. */
static Datum
NumericOfDigits(const char *digits, int base, bool negative)
{
	static const char *const hex = "0123456789abcdef";
	Datum		factor = DirectFunctionCall1(int4_numeric, Int32GetDatum(base));
	Datum		number = NumericOfText("0");

	for (const char *c = digits; *c; c++)
	{
		int			digit = strchr(hex, pg_ascii_tolower((unsigned char) *c)) - hex;

		number = DirectFunctionCall2(numeric_mul, number, factor);
		number = DirectFunctionCall2(numeric_add, number,
									 DirectFunctionCall1(int4_numeric, Int32GetDatum(digit)));
	}
	return negative ? DirectFunctionCall1(numeric_uminus, number) : number;
}

/*
 * Copies the digits of a base up to where something else comes and returns
 * that place.  Separators are left out.
 */
static const char *
TakeDigits(const char *c, int base, StringInfo digits)
{
	for (;; c++)
	{
		if (*c == '_' || *c == ',')
			continue;
		if (base == 16 ? !isxdigit((unsigned char) *c) : (*c < '0' || *c >= '0' + base))
			return c;
		appendStringInfoChar(digits, *c);
	}
}

/* Whether each separator stands between digits. */
static bool
IsSeparatedWell(const char *digits)
{
	for (const char *c = digits; *c; c++)
	{
		if ((*c == '_' || *c == ',') && !(c > digits && isdigit((unsigned char) c[-1]) && isdigit((unsigned char) c[1])))
			return false;
	}
	return true;
}

/* Reads an integer or a float; false where the text is neither. */
static bool
ReadNumber(yaml_mark_t mark, const char *text, Numeric *number)
{
	bool		negative = *text == '-';
	const char *first = text + (*text == '-' || *text == '+');
	const char *c = first;
	int			base = 10;
	bool		has_digits;
	StringInfoData digits;

	if (!isdigit((unsigned char) *c) && *c != '.')
		return false;
	if (c[0] == '0' && (c[1] == 'x' || c[1] == 'o' || c[1] == 'b'))
	{
		base = c[1] == 'x' ? 16 : c[1] == 'o' ? 8 : 2;
		c += 2;
	}
	else if (c[0] == '0' && c[1] != '\0' && strchr(c, '.') == NULL)
		base = 8;
	initStringInfo(&digits);
	if (negative && base == 10)
		appendStringInfoChar(&digits, '-');
	c = TakeDigits(c, base, &digits);
	has_digits = digits.len > (negative && base == 10);
	if (base != 10 || *c == '\0')
	{
		if (*c != '\0' || !has_digits || (base == 10 && !IsSeparatedWell(first)))
			return false;
	}
	else
	{
		if (*c != '.')
			return false;
		appendStringInfoChar(&digits, *c++);
		for (; isdigit((unsigned char) *c); c++, has_digits = true)
			appendStringInfoChar(&digits, *c);
		if (!has_digits)
			return false;
		if ((*c == 'e' || *c == 'E') && (c[1] == '+' || c[1] == '-') && isdigit((unsigned char) c[2]))
		{
			int			exponent = 0;

			appendBinaryStringInfo(&digits, c, 2);
			for (c += 2; isdigit((unsigned char) *c); c++)
			{
				exponent = Min(exponent * 10 + *c - '0', MAX_DIGITS + 1);
				appendStringInfoChar(&digits, *c);
			}
			if (exponent > MAX_DIGITS)
				ComplainAt(mark, psprintf("the exponent of a number must be at most %d", MAX_DIGITS));
		}
		if (*c != '\0')
			return false;
	}
	if (digits.len > MAX_DIGITS)
		ComplainAt(mark, psprintf("a number must have at most %d digits", MAX_DIGITS));
	*number = DatumGetNumeric(base == 10 ? NumericOfText(digits.data) :
							  NumericOfDigits(digits.data, base, negative));
	return true;
}

static bool
IsOneOf(const char *text, const char *const *words)
{
	while (*words != NULL && pg_strcasecmp(text, *words) != 0)
		words++;
	return *words != NULL;
}

/* ":name" as the text of the symbol that Ruby makes of it. */
static const char *
SkipSymbolColon(const char *text, size_t *length)
{
	if (text[0] != ':' || *length < 2 || strchr(text, '\n') != NULL)
		return text;
	text++;
	(*length)--;
	if ((text[0] == '"' || text[0] == '\'') && *length >= 2 && text[*length - 1] == text[0])
	{
		text++;
		*length -= 2;
	}
	return text;
}

/* What a scalar without quotes and tag means. */
static JsonbValue
ResolvePlain(yaml_mark_t mark, const char *text, size_t length)
{
	static const char *const nulls[] = {"", "~", "null", NULL};
	static const char *const trues[] = {"true", "yes", "on", NULL};
	static const char *const falses[] = {"false", "no", "off", NULL};
	static const char *const not_finite[] = {".inf", "+.inf", "-.inf", ".nan", NULL};
	JsonbValue	value;

	if (IsOneOf(text, nulls))
		value.type = jbvNull;
	else if (IsOneOf(text, trues) || IsOneOf(text, falses))
	{
		value.type = jbvBool;
		value.val.boolean = IsOneOf(text, trues);
	}
	else if (IsOneOf(text, not_finite))
		ComplainAt(mark, psprintf("JSON has no number %s", text));
	else if (ReadNumber(mark, text, &value.val.numeric))
		value.type = jbvNumeric;
	else
	{
		text = SkipSymbolColon(text, &length);
		value = StringOfScalar(mark, text, length);
	}
	return value;
}

pg_noreturn static void
ComplainOfTag(yaml_mark_t mark, const char *tag)
{
	ComplainAt(mark, psprintf("tag \"%s\" is not supported", pg_any_to_server(tag, strlen(tag), PG_UTF8)));
}

/* The value of the scalar that is the current event. */
static JsonbValue
ValueOfScalar(const YamlReader *reader)
{
	static const struct
	{
		const char *tag;
		enum jbvType type;
	}			typed[] = {
		{YAML_TAG("null"), jbvNull}, {YAML_TAG("bool"), jbvBool},
		{YAML_TAG("int"), jbvNumeric}, {YAML_TAG("float"), jbvNumeric}
	};
	const yaml_event_t *event = &reader->event;
	const char *text = (const char *) event->data.scalar.value;
	size_t		length = event->data.scalar.length;
	const char *tag = (const char *) event->data.scalar.tag;

	if (tag == NULL && event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE)
		return ResolvePlain(event->start_mark, text, length);
	if (tag == NULL || strcmp(tag, "!") == 0 || strcmp(tag, YAML_TAG("str")) == 0)
		return StringOfScalar(event->start_mark, text, length);
	for (int i = 0; i < lengthof(typed); i++)
	{
		JsonbValue	value;

		if (strcmp(tag, typed[i].tag) != 0)
			continue;
		value = ResolvePlain(event->start_mark, text, length);
		if (value.type != typed[i].type)
			ComplainAt(event->start_mark, psprintf("this is not of type \"%s\"", tag + strlen(YAML_TAG(""))));
		return value;
	}
	ComplainOfTag(event->start_mark, tag);
}

/* ---------- anchors ---------- */

/* Begins the definition of an anchor; NULL where the node has none. */
static Anchor *
BeginAnchor(YamlReader *reader, const yaml_char_t *name)
{
	Anchor	   *anchor;

	if (name == NULL)
		return NULL;
	if (strlen((const char *) name) > MAX_ANCHOR_LENGTH)
		ComplainAt(reader->event.start_mark, psprintf("the name of an anchor must have at most %d bytes", MAX_ANCHOR_LENGTH));
	if (reader->anchors == NULL)
	{
		HASHCTL		control = {.keysize = sizeof(anchor->name),.entrysize = sizeof(Anchor),
			.hcxt = CurrentMemoryContext};

		reader->anchors = hash_create("anchors of a YAML document", 16, &control,
									  HASH_ELEM | HASH_STRINGS | HASH_CONTEXT);
	}
	anchor = hash_search(reader->anchors, name, HASH_ENTER, NULL);
	anchor->definition = ++reader->definitions;
	anchor->is_finished = false;
	return anchor;
}

/* Ends a definition, unless a later one inside of the node took the name. */
static void
EndAnchor(Anchor *anchor, int definition, const YamlNode *node)
{
	if (anchor == NULL || anchor->definition != definition)
		return;
	anchor->node = *node;
	anchor->is_finished = true;
}

/* Counts what is repeated, before anything is copied. */
static void
CountRepeated(YamlReader *reader, int64 values, int64 bytes)
{
	yaml_mark_t mark = reader->event.start_mark;

	reader->repeated_values += values;
	reader->repeated_bytes += bytes;
	if (reader->repeated_values > MAX_REPEATED_VALUES || reader->repeated_bytes > MAX_REPEATED_BYTES)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("YAML is too large: line %d, column %d: aliases and merge keys repeat more than %d values or %d MB",
						(int) mark.line + 1, (int) mark.column + 1, MAX_REPEATED_VALUES,
						MAX_REPEATED_BYTES / (1024 * 1024))));
}

/* The node that the alias of the current event repeats. */
static YamlNode
NodeOfAlias(YamlReader *reader)
{
	const char *name = (const char *) reader->event.data.alias.anchor;
	yaml_mark_t mark = reader->event.start_mark;
	Anchor	   *anchor = NULL;

	if (reader->anchors != NULL && strlen(name) <= MAX_ANCHOR_LENGTH)
		anchor = hash_search(reader->anchors, name, HASH_FIND, NULL);
	if (anchor == NULL)
		ComplainAt(mark, psprintf("alias \"*%s\" refers to nothing that stands before it", name));
	if (!anchor->is_finished)
		ComplainAt(mark, psprintf("alias \"*%s\" refers to what it is part of", name));
	CountRepeated(reader, anchor->node.values, anchor->node.bytes);
	return anchor->node;
}

/* ---------- sequences and mappings ---------- */

static void
AddItem(Collection *collection, YamlItem item)
{
	if (collection->n == MAX_ITEMS)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("YAML is too large: a sequence or mapping has more than %d items", MAX_ITEMS)));
	if (collection->n == collection->room)
	{
		collection->room = collection->room ? collection->room * 2 : 8;
		collection->items = collection->items ?
			repalloc(collection->items, sizeof(YamlItem) * collection->room) :
			palloc(sizeof(YamlItem) * collection->room);
	}
	item.order = collection->n;
	collection->items[collection->n++] = item;
}

static void
MergeMapping(YamlReader *reader, const JsonbValue *mapping)
{
	Collection *collection = reader->open;

	if (mapping->type != jbvObject)
		ComplainAt(collection->pending.mark, "\"<<\" must be followed by a mapping or a sequence of mappings");
	CountRepeated(reader, mapping->val.object.nPairs, 0);
	collection->merged++;
	for (int i = 0; i < mapping->val.object.nPairs; i++)
		AddItem(collection, (YamlItem)
				{
					.key = mapping->val.object.pairs[i].key,
					.value = mapping->val.object.pairs[i].value,
					.source = collection->merged
				});
}

/* Gives a finished node to the collection that it is in, or to the document. */
static void
TakeNode(YamlReader *reader, const YamlNode *node)
{
	Collection *collection = reader->open;

	if (collection == NULL)
	{
		reader->root = *node;
		return;
	}
	collection->values += node->values;
	collection->bytes += node->bytes;
	if (collection->is_mapping && collection->key_is_merge && node->value.type == jbvArray)
	{
		for (int i = 0; i < node->value.val.array.nElems; i++)
			MergeMapping(reader, &node->value.val.array.elems[i]);
	}
	else if (collection->is_mapping && collection->key_is_merge)
		MergeMapping(reader, &node->value);
	else
	{
		collection->pending.value = node->value;
		AddItem(collection, collection->pending);
	}
	collection->has_key = false;
}

static bool
ExpectsKey(const YamlReader *reader)
{
	return reader->open != NULL && reader->open->is_mapping && !reader->open->has_key;
}

/* Takes the scalar, or the alias of one, that is the current event as a key. */
static void
TakeKey(YamlReader *reader, const YamlNode *node)
{
	Collection *collection = reader->open;
	const yaml_event_t *event = &reader->event;
	bool		is_plain = event->type == YAML_SCALAR_EVENT && event->data.scalar.tag == NULL &&
		event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;

	collection->pending.mark = event->start_mark;
	collection->key_is_merge = is_plain && strcmp((const char *) event->data.scalar.value, "<<") == 0;
	if (collection->key_is_merge && collection->merged > 0)
		ComplainAt(event->start_mark, "\"<<\" stands twice in one mapping; merge a sequence of mappings instead");
	if (event->type == YAML_SCALAR_EVENT)
	{
		const char *text = (const char *) event->data.scalar.value;
		size_t		length = event->data.scalar.length;

		if (is_plain)
			text = SkipSymbolColon(text, &length);
		collection->pending.key = StringOfScalar(event->start_mark, text, length);
	}
	else if (node->value.type == jbvString)
		collection->pending.key = node->value;
	else
		ComplainAt(event->start_mark, "a key must be a string");
	collection->bytes += collection->pending.key.val.string.len;
	collection->has_key = true;
}

static void
BeginCollection(YamlReader *reader, bool is_mapping, const yaml_char_t *anchor, const yaml_char_t *tag)
{
	Collection *collection;
	const char *name = (const char *) tag;

	if (ExpectsKey(reader))
		ComplainAt(reader->event.start_mark, "a key must be a string");
	if (name != NULL && strcmp(name, "!") != 0 &&
		strcmp(name, is_mapping ? YAML_TAG("map") : YAML_TAG("seq")) != 0)
		ComplainOfTag(reader->event.start_mark, name);
	collection = palloc0(sizeof(Collection));
	collection->parent = reader->open;
	collection->depth = reader->open ? reader->open->depth + 1 : 1;
	if (collection->depth > MAX_DEPTH)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("YAML is too large: line %d, column %d: it is nested more than %d deep",
						(int) reader->event.start_mark.line + 1, (int) reader->event.start_mark.column + 1, MAX_DEPTH)));
	collection->is_mapping = is_mapping;
	collection->anchor = BeginAnchor(reader, anchor);
	collection->definition = reader->definitions;
	reader->open = collection;
}

/* The order of keys in a jsonb; of one key, the pair that counts comes first. */
static int
CompareItems(const void *a, const void *b)
{
	const YamlItem *left = a;
	const YamlItem *right = b;
	int			result;

	if (left->key.val.string.len != right->key.val.string.len)
		return left->key.val.string.len < right->key.val.string.len ? -1 : 1;
	result = memcmp(left->key.val.string.val, right->key.val.string.val, left->key.val.string.len);
	if (result != 0)
		return result;
	if (left->source != right->source)
		return left->source < right->source ? -1 : 1;
	return left->order < right->order ? -1 : left->order > right->order;
}

static bool
HaveSameKey(const YamlItem *left, const YamlItem *right)
{
	return left->key.val.string.len == right->key.val.string.len &&
		memcmp(left->key.val.string.val, right->key.val.string.val, left->key.val.string.len) == 0;
}

/* An object of the items of a mapping: each key once, sorted as jsonb wants it. */
static JsonbValue
ObjectOfItems(Collection *collection)
{
	JsonbValue	value = {.type = jbvObject};
	JsonbPair  *pairs = palloc(sizeof(JsonbPair) * Max(collection->n, 1));
	YamlItem   *items = collection->items;
	int			n = 0;

	if (collection->n > 1)
		qsort(items, collection->n, sizeof(YamlItem), CompareItems);
	for (int i = 0; i < collection->n; i++)
	{
		if (i > 0 && HaveSameKey(&items[i - 1], &items[i]))
		{
			if (items[i].source == 0)
				ComplainAt(items[i].mark, psprintf("key \"%s\" stands twice in one mapping",
												   pnstrdup(items[i].key.val.string.val, items[i].key.val.string.len)));
			continue;
		}
		pairs[n++] = (JsonbPair)
		{
			.key = items[i].key,.value = items[i].value
		};
	}
	value.val.object.nPairs = n;
	value.val.object.pairs = pairs;
	return value;
}

static JsonbValue
ArrayOfItems(const Collection *collection)
{
	JsonbValue	value = {.type = jbvArray};

	value.val.array.nElems = collection->n;
	value.val.array.elems = palloc(sizeof(JsonbValue) * Max(collection->n, 1));
	for (int i = 0; i < collection->n; i++)
		value.val.array.elems[i] = collection->items[i].value;
	return value;
}

static void
EndCollection(YamlReader *reader)
{
	Collection *collection = reader->open;
	YamlNode	node = {
		.value = collection->is_mapping ? ObjectOfItems(collection) : ArrayOfItems(collection),
		.values = collection->values + 1,
		.bytes = collection->bytes
	};

	reader->open = collection->parent;
	EndAnchor(collection->anchor, collection->definition, &node);
	if (collection->items != NULL)
		pfree(collection->items);
	pfree(collection);
	TakeNode(reader, &node);
}

/* ---------- the document ---------- */

static void
TakeScalar(YamlReader *reader)
{
	Anchor	   *anchor = BeginAnchor(reader, reader->event.data.scalar.anchor);
	bool		is_key = ExpectsKey(reader);
	YamlNode	node = {.values = 1};

	/* A key is its text; what it would be as a value matters to its anchor only. */
	if (!is_key || anchor != NULL || reader->event.data.scalar.tag != NULL)
		node.value = ValueOfScalar(reader);
	if (node.value.type == jbvString)
		node.bytes = node.value.val.string.len;
	EndAnchor(anchor, reader->definitions, &node);
	if (is_key)
		TakeKey(reader, &node);
	else
		TakeNode(reader, &node);
}

static void
TakeAlias(YamlReader *reader)
{
	YamlNode	node = NodeOfAlias(reader);

	if (ExpectsKey(reader))
		TakeKey(reader, &node);
	else
		TakeNode(reader, &node);
}

/* Reads all events; the document is in reader->root then. */
static void
ReadEvents(YamlReader *reader)
{
	for (;;)
	{
		const yaml_event_t *event = &reader->event;

		CHECK_FOR_INTERRUPTS();
		yaml_event_delete(&reader->event);
		if (!yaml_parser_parse(&reader->parser, &reader->event))
			ComplainOfParser(reader);
		switch (event->type)
		{
			case YAML_DOCUMENT_START_EVENT:
				if (reader->is_read)
					ComplainAt(event->start_mark, "there is more than one document");
				reader->is_read = true;
				break;
			case YAML_SCALAR_EVENT:
				TakeScalar(reader);
				break;
			case YAML_ALIAS_EVENT:
				TakeAlias(reader);
				break;
			case YAML_SEQUENCE_START_EVENT:
				BeginCollection(reader, false, event->data.sequence_start.anchor, event->data.sequence_start.tag);
				break;
			case YAML_MAPPING_START_EVENT:
				BeginCollection(reader, true, event->data.mapping_start.anchor, event->data.mapping_start.tag);
				break;
			case YAML_SEQUENCE_END_EVENT:
			case YAML_MAPPING_END_EVENT:
				EndCollection(reader);
				break;
			case YAML_STREAM_END_EVENT:
				if (!reader->is_read)
					ComplainAt(event->start_mark, "there is no document");
				return;
			default:
				break;
		}
	}
}

Jsonb *
JsonbOfYaml(const text *yaml)
{
	YamlReader *reader = palloc0(sizeof(YamlReader));
	char	   *input = text_to_cstring(yaml);

	input = pg_server_to_any(input, strlen(input), PG_UTF8);
	if (strncmp(input, "\xEF\xBB\xBF", 3) == 0)
		input += 3;
	RefuseErb(input);
	reader->input = input;
	if (!yaml_parser_initialize(&reader->parser))
		ComplainOfParser(reader);
	PG_TRY();
	{
		yaml_parser_set_encoding(&reader->parser, YAML_UTF8_ENCODING);
		yaml_parser_set_input_string(&reader->parser, (const unsigned char *) input, strlen(input));
		ReadEvents(reader);
	}
	PG_FINALLY();
	{
		yaml_event_delete(&reader->event);
		yaml_parser_delete(&reader->parser);
	}
	PG_END_TRY();
	return JsonbValueToJsonb(&reader->root.value);
}

PG_FUNCTION_INFO_V1(tasker_yaml_to_jsonb);

Datum
tasker_yaml_to_jsonb(PG_FUNCTION_ARGS)
{
	PG_RETURN_JSONB_P(JsonbOfYaml(PG_GETARG_TEXT_PP(0)));
}
