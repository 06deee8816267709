/*
 * json_schema.cpp
 *		JSON Schema without PostgreSQL: documents, compiled schemas, problems.
 *
 * The library valijson reads a schema into its model of constraints, and
 * Checker, a visitor of that model, applies them.  The library's own visitor
 * is not used: it matches patterns with std::regex, which overflows its stack
 * on long strings and backtracks without bound, it recurses without bound,
 * cannot be cancelled, and compares numbers as double.
 *
 * References are resolved here and kept from the library (see SchemaObject):
 * its cache of them goes by path, "propertyNames" has the path of the schema
 * around it there, and a circle of references makes it recurse for ever.
 *
 * Numbers are compared as the decimals they are.  The library keeps the bounds
 * in a schema as double; it gets the place of the bound in a list instead.
 */
#define VALIJSON_USE_EXCEPTIONS 1	/* without it the library calls abort() */
#define PCRE2_CODE_UNIT_WIDTH 8

#include "rules/json_schema.h"

#include <arpa/inet.h>
#include <pcre2.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <iostream>
#include <limits>
#include <map>
#include <memory>
#include <new>
#include <optional>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

/*
 * The library's allocators ask operator new for nothing but a null pointer,
 * which the containers that use them do not expect.  They get an exception.
 */
struct RaiseWithoutMemory {};

inline void *
operator new(size_t size, const std::nothrow_t &, RaiseWithoutMemory)
{
	return ::operator new(size);
}

#define nothrow nothrow, RaiseWithoutMemory()
#include <valijson/internal/adapter.hpp>
#include <valijson/internal/basic_adapter.hpp>
#include <valijson/internal/frozen_value.hpp>
#include <valijson/schema.hpp>
#include <valijson/schema_parser.hpp>
#undef nothrow

using valijson::Subschema;

/* ---------- documents ---------- */

namespace
{

enum class Type { Null, Boolean, Number, String, Array, Object };

struct Value
{
	Type		type;
	bool		boolean;
	std::string text;			/* of a string; of a number, as it was written */
	std::string name;			/* in an object */
	size_t		position;		/* in an array */
	Value	   *parent;
	size_t		number;			/* in the order of the text; what was inserted comes last */
	std::vector<Value *> children;	/* those of an object are sorted by name */
};

struct Problem
{
	size_t		number;			/* of the value */
	std::string path;
	std::string problem;

	bool		operator<(const Problem &other) const
	{
		return number != other.number ? number < other.number : problem < other.problem;
	}

	bool		operator==(const Problem &other) const
	{
		return number == other.number && problem == other.problem;
	}
};

/* As jsonb sorts keys. */
bool
NameLess(const std::string &a, const std::string &b)
{
	if (a.size() != b.size())
		return a.size() < b.size();
	return a < b;
}

bool
ValueNameLess(const Value *a, const Value *b)
{
	return NameLess(a->name, b->name);
}

/* Where a member is, or would be. */
std::vector<Value *>::const_iterator
PlaceOf(const Value *object, const std::string &name)
{
	return std::lower_bound(object->children.begin(), object->children.end(), name,
							[](const Value *member, const std::string &wanted)
							{
								return NameLess(member->name, wanted);
							});
}

Value *
Find(const Value *object, const std::string &name)
{
	auto		place = PlaceOf(object, name);

	if (object->type != Type::Object || place == object->children.end() || (*place)->name != name)
		return nullptr;
	return *place;
}

/* The string under a key, or null. */
const std::string *
FindString(const Value *object, const std::string &name)
{
	const Value *member = Find(object, name);

	return member && member->type == Type::String ? &member->text : nullptr;
}

std::string
PointerTo(const Value *value)
{
	std::vector<const Value *> way;
	std::string pointer;

	for (; value->parent; value = value->parent)
		way.push_back(value);
	for (auto step = way.rbegin(); step != way.rend(); ++step)
	{
		pointer += '/';
		if ((*step)->parent->type == Type::Array)
		{
			pointer += std::to_string((*step)->position);
			continue;
		}
		for (char c : (*step)->name)
		{
			if (c == '~')
				pointer += "~0";
			else if (c == '/')
				pointer += "~1";
			else
				pointer += c;
		}
	}
	return pointer;
}

}								/* namespace */

struct JsonDocument
{
	std::deque<Value> values;	/* here, so that no destructor recurses */
	Value	   *root = nullptr;
	Value	   *open = nullptr;
	std::string key;
	std::vector<Problem> problems;
	size_t		inserted = 0;
	std::string with_defaults;

	Value	   *Add(Type type, Value *parent, const std::string &name)
	{
		values.push_back(Value{type, false, std::string(), name, parent ? parent->children.size() : 0,
							   parent, values.size(), {}});
		return &values.back();
	}
};

/* ---------- limits ---------- */

namespace
{

struct TooDeep {};
struct Interrupted {};

struct Refused
{
	const Value *place;
	std::string problem;
};

struct TooCostly
{
	const Value *place;
	std::string problem;
};

/* Asks before each step whether there is room and time for it. */
void
Step(const JsonEnvironment *environment)
{
	if (environment->stack_is_too_deep())
		throw TooDeep();
	if (environment->is_interrupted())
		throw Interrupted();
}

/* The value the library looked at last: where its complaint is about. */
const Value *touched;

void
Report(JsonDocument *document, const Value *place, const char *problem)
{
	document->problems.assign(1, Problem{0, place ? PointerTo(place) : std::string(), problem});
}

/* A complaint of the library, as part of ours. */
std::string
Adapted(std::string text)
{
	if (text.size() > 1 && islower((unsigned char) text[1]))
		text[0] = (char) tolower((unsigned char) text[0]);
	if (!text.empty() && text.back() == '.')
		text.pop_back();
	return text;
}

/* Runs work so that no exception leaves it. */
template <typename Work>
JsonOutcome
Guarded(JsonDocument *document, Work work) noexcept
{
	try
	{
		document->problems.clear();
		touched = nullptr;
		try
		{
			work();
			return JSON_DONE;
		}
		catch (const Refused &refused)
		{
			Report(document, refused.place, refused.problem.c_str());
			return JSON_REFUSED;
		}
		catch (const TooCostly &costly)
		{
			Report(document, costly.place, costly.problem.c_str());
			return JSON_TOO_COSTLY;
		}
		catch (const TooDeep &)
		{
			return JSON_TOO_DEEP;
		}
		catch (const Interrupted &)
		{
			return JSON_INTERRUPTED;
		}
		catch (const std::bad_alloc &)
		{
			return JSON_NO_MEMORY;
		}
		catch (const std::exception &complaint)
		{
			Report(document, touched, Adapted(complaint.what()).c_str());
			return JSON_REFUSED;
		}
	}
	catch (...)
	{
		return JSON_NO_MEMORY;
	}
}

/* ---------- numbers ---------- */

/* 0.digits times ten to the exponent; no zeros at either end of the digits. */
struct Decimal
{
	bool		negative;
	std::string digits;			/* none: zero */
	long		exponent;
};

Decimal
DecimalOf(const std::string &text)
{
	Decimal		decimal{text[0] == '-', std::string(), 0};
	bool		fraction = false;
	size_t		zeros;

	for (char c : text)
	{
		if (c == '.')
			fraction = true;
		else if (c >= '0' && c <= '9')
		{
			decimal.digits += c;
			decimal.exponent += !fraction;
		}
	}
	zeros = std::min(decimal.digits.find_first_not_of('0'), decimal.digits.size());
	decimal.digits.erase(0, zeros);
	decimal.exponent -= (long) zeros;
	decimal.digits.erase(decimal.digits.find_last_not_of('0') + 1);
	if (decimal.digits.empty())
		decimal = Decimal{false, std::string(), 0};
	return decimal;
}

int
Compare(const Decimal &a, const Decimal &b)
{
	int			sign = a.negative ? -1 : 1;

	if (a.digits.empty() || b.digits.empty())
		return (b.digits.empty() ? 0 : b.negative ? 1 : -1) + (a.digits.empty() ? 0 : sign);
	if (a.negative != b.negative)
		return sign;
	if (a.exponent != b.exponent)
		return a.exponent < b.exponent ? -sign : sign;
	return sign * a.digits.compare(b.digits);
}

bool
IsWhole(const Decimal &number)
{
	return number.exponent >= (long) number.digits.size();
}

/* How many places the last digit is to the left of the decimal point. */
long
Scale(const Decimal &number)
{
	return number.exponent - (long) number.digits.size();
}

/* Whether a number is a multiple of a positive divisor of up to 18 digits. */
bool
IsMultiple(const Decimal &number, const Decimal &divisor)
{
	unsigned long long rest = 0;	/* below d, so ten times it fits */
	unsigned long long d = std::strtoull(divisor.digits.c_str(), nullptr, 10);

	if (number.digits.empty())
		return true;
	/* The last digit is not zero, so there is a remainder below the divisor's last place. */
	if (Scale(number) < Scale(divisor))
		return false;
	for (char c : number.digits)
		rest = (rest * 10 + (c - '0')) % d;
	for (long i = Scale(number) - Scale(divisor); i > 0 && rest != 0; i--)
		rest = rest * 10 % d;
	return rest == 0;
}

/* ---------- values ---------- */

/* A total order: equal are values that JSON Schema calls equal. */
int
Compare(const Value *a, const Value *b, const JsonEnvironment *environment)
{
	Step(environment);
	if (a->type != b->type)
		return a->type < b->type ? -1 : 1;
	switch (a->type)
	{
		case Type::Null:
			return 0;
		case Type::Boolean:
			return a->boolean - b->boolean;
		case Type::Number:
			return a->text == b->text ? 0 : Compare(DecimalOf(a->text), DecimalOf(b->text));
		case Type::String:
			return a->text.compare(b->text);
		case Type::Array:
		case Type::Object:
			break;
	}
	if (a->children.size() != b->children.size())
		return a->children.size() < b->children.size() ? -1 : 1;
	for (size_t i = 0; i < a->children.size(); i++)
	{
		int			order = a->children[i]->name.compare(b->children[i]->name);

		if (order == 0)
			order = Compare(a->children[i], b->children[i], environment);
		if (order != 0)
			return order;
	}
	return 0;
}

void
WriteString(const std::string &text, std::string &out)
{
	out += '"';
	for (char c : text)
	{
		if (c == '"' || c == '\\')
			(out += '\\') += c;
		else if ((unsigned char) c < 0x20)
		{
			char		escaped[8];

			snprintf(escaped, sizeof(escaped), "\\u%04x", c);
			out += escaped;
		}
		else
			out += c;
	}
	out += '"';
}

void
WriteValue(const Value *value, std::string &out, const JsonEnvironment *environment)
{
	const char *separator = "";

	Step(environment);
	switch (value->type)
	{
		case Type::Null:
			out += "null";
			return;
		case Type::Boolean:
			out += value->boolean ? "true" : "false";
			return;
		case Type::Number:
			out += value->text;
			return;
		case Type::String:
			WriteString(value->text, out);
			return;
		case Type::Array:
		case Type::Object:
			break;
	}
	out += value->type == Type::Array ? '[' : '{';
	for (const Value *child : value->children)
	{
		out += separator;
		separator = ", ";
		if (value->type == Type::Object)
		{
			WriteString(child->name, out);
			out += ": ";
		}
		WriteValue(child, out, environment);
	}
	out += value->type == Type::Array ? ']' : '}';
}

/* Cuts text for a message, not inside of a character. */
std::string
Shortened(const std::string &text)
{
	const size_t longest = 200;
	size_t		end = longest;

	if (text.size() <= longest)
		return text;
	while ((text[end] & 0xC0) == 0x80)
		end--;
	return text.substr(0, end) + "...";
}

std::string
Quoted(const std::string &text)
{
	return "\"" + Shortened(text) + "\"";
}

size_t
Characters(const std::string &text)
{
	return std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; });
}

const char *
TypeName(Type type)
{
	switch (type)
	{
		case Type::Null:
			return "null";
		case Type::Boolean:
			return "boolean";
		case Type::Number:
			return "number";
		case Type::String:
			return "string";
		case Type::Array:
			return "array";
		case Type::Object:
			return "object";
	}
	return "";
}

/* ---------- patterns ---------- */

/*
 * A regular expression in the dialect of ECMAScript, as far as PCRE2 knows it.
 * Matching does not use the stack, and gives up after so many steps: some tens
 * of milliseconds.
 */
class Pattern
{
public:
	Pattern(const std::string &pattern, const Value *place)
	{
		std::unique_ptr<pcre2_compile_context, decltype(&pcre2_compile_context_free)>
			context(pcre2_compile_context_create(nullptr), pcre2_compile_context_free);
		int			error;
		PCRE2_SIZE	offset;
		PCRE2_UCHAR message[256];

		if (!context)
			throw std::bad_alloc();
		pcre2_set_compile_extra_options(context.get(), PCRE2_EXTRA_ALT_BSUX);
		code.reset(pcre2_compile((PCRE2_SPTR) pattern.data(), pattern.size(),
								 PCRE2_UTF | PCRE2_ALLOW_EMPTY_CLASS | PCRE2_DOLLAR_ENDONLY |
								 PCRE2_MATCH_UNSET_BACKREF | PCRE2_NEVER_BACKSLASH_C,
								 &error, &offset, context.get()));
		if (!code && error == PCRE2_ERROR_HEAP_FAILED)
			throw std::bad_alloc();
		if (!code)
		{
			pcre2_get_error_message(error, message, sizeof(message));
			throw Refused{place, "pattern " + Quoted(pattern) + " cannot be compiled: " + (const char *) message};
		}
		data.reset(pcre2_match_data_create(1, nullptr));
		limits.reset(pcre2_match_context_create(nullptr));
		if (!data || !limits)
			throw std::bad_alloc();
		pcre2_set_match_limit(limits.get(), 1000000);
		pcre2_set_depth_limit(limits.get(), 1000000);
		pcre2_set_heap_limit(limits.get(), 20000);
	}

	bool		Matches(const std::string &text, const Value *place) const
	{
		int			result = pcre2_match(code.get(), (PCRE2_SPTR) text.data(), text.size(), 0, 0,
										 data.get(), limits.get());

		if (result == PCRE2_ERROR_NOMATCH)
			return false;
		if (result == PCRE2_ERROR_NOMEMORY)
			throw std::bad_alloc();
		if (result < 0)
		{
			PCRE2_UCHAR message[256];

			pcre2_get_error_message(result, message, sizeof(message));
			throw TooCostly{place, std::string("a pattern of the schema cannot be matched: ") + (const char *) message};
		}
		return true;
	}

private:
	template <typename T, void (*free) (T *)>
	struct Free
	{
		void		operator()(T *pointer) const { free(pointer); }
	};

	std::unique_ptr<pcre2_code, Free<pcre2_code, pcre2_code_free>> code;
	std::unique_ptr<pcre2_match_data, Free<pcre2_match_data, pcre2_match_data_free>> data;
	std::unique_ptr<pcre2_match_context, Free<pcre2_match_context, pcre2_match_context_free>> limits;
};

/* ---------- formats ---------- */

/* Reads exactly so many digits, as a number in a range. */
bool
ReadDigits(const char *&c, int digits, int min, int max, int *result)
{
	int			number = 0;

	for (int i = 0; i < digits; i++, c++)
	{
		if (*c < '0' || *c > '9')
			return false;
		number = number * 10 + (*c - '0');
	}
	*result = number;
	return number >= min && number <= max;
}

bool
ReadDate(const char *&c)
{
	static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
	int			year;
	int			month;
	int			day;

	if (!ReadDigits(c, 4, 0, 9999, &year) || *c++ != '-' || !ReadDigits(c, 2, 1, 12, &month) ||
		*c++ != '-' || !ReadDigits(c, 2, 1, 31, &day))
		return false;
	return day <= days[month - 1] +
		(month == 2 && year % 4 == 0 && (year % 100 != 0 || year % 400 == 0));
}

/* RFC 3339: an offset is part of a time. */
bool
ReadTime(const char *&c)
{
	int			hour;
	int			minute;
	int			second;
	int			offset_hour = 0;
	int			offset_minute = 0;
	int			sign = 1;

	if (!ReadDigits(c, 2, 0, 23, &hour) || *c++ != ':' || !ReadDigits(c, 2, 0, 59, &minute) ||
		*c++ != ':' || !ReadDigits(c, 2, 0, 60, &second))
		return false;
	if (*c == '.')
	{
		if (*++c < '0' || *c > '9')
			return false;
		while (*c >= '0' && *c <= '9')
			c++;
	}
	if (*c == 'Z' || *c == 'z')
		c++;
	else
	{
		if (*c != '+' && *c != '-')
			return false;
		sign = *c++ == '-' ? -1 : 1;
		if (!ReadDigits(c, 2, 0, 23, &offset_hour) || *c++ != ':' || !ReadDigits(c, 2, 0, 59, &offset_minute))
			return false;
	}
	/* A leap second is the last one of a day in UTC. */
	return second < 60 ||
		(hour * 60 + minute - sign * (offset_hour * 60 + offset_minute) + 2 * 1440) % 1440 == 1439;
}

/* Whether text has a format; formats not named here are remarks. */
bool
HasFormat(const std::string &text, const std::string &format)
{
	const char *c = text.c_str();
	unsigned char address[sizeof(struct in6_addr)];

	if (format == "date")
		return ReadDate(c) && *c == '\0';
	if (format == "time")
		return ReadTime(c) && *c == '\0';
	if (format == "date-time")
		return ReadDate(c) && (*c == 'T' || *c == 't') && ReadTime(++c) && *c == '\0';
	if (format == "ipv4")
		return inet_pton(AF_INET, c, address) == 1;
	if (format == "ipv6")
		return inet_pton(AF_INET6, c, address) == 1;
	return true;
}

/* ---------- a schema, as the library sees it ---------- */

/* Keys that hold a schema, an array of schemas, an object of schemas. */
const std::unordered_set<std::string> schema_keys = {
	"not", "if", "then", "else", "contains", "propertyNames", "additionalProperties",
	"additionalItems", "items"
};
const std::unordered_set<std::string> array_keys = {"allOf", "anyOf", "oneOf", "items"};
const std::unordered_set<std::string> object_keys = {
	"properties", "patternProperties", "definitions", "dependencies"
};

/* Keys of later drafts and of earlier ones are remarks. */
const std::unordered_set<std::string> since_draft_6 = {"const", "contains", "propertyNames"};
const std::unordered_set<std::string> since_draft_7 = {"if", "then", "else"};
const std::unordered_set<std::string> never = {"id", "$ref", "divisibleBy"};

/* Whether a draft knows a key; "id" and references are read by Compiler. */
bool
IsKey(const std::string &key, int draft)
{
	return never.count(key) == 0 && (draft >= 6 || since_draft_6.count(key) == 0) &&
		(draft >= 7 || since_draft_7.count(key) == 0);
}

/* Under this name the library finds a reference, and takes it for a key of ours. */
const char *const reference_key = "reference to a schema";

/* How the library is to read schemas; set while one is compiled. */
struct Reading
{
	const JsonEnvironment *environment;
	int			draft;
	std::vector<Decimal> *bounds;
};

const Reading *reading;

class SchemaAdapter;
typedef std::pair<std::string, SchemaAdapter> SchemaMember;

template <typename Element>
class SchemaIterator
{
public:
	typedef std::bidirectional_iterator_tag iterator_category;
	typedef Element value_type;
	typedef std::ptrdiff_t difference_type;
	typedef Element *pointer;
	typedef Element &reference;

	explicit SchemaIterator(std::vector<Value *>::const_iterator place) : place(place) { }

	Element		operator*() const;
	valijson::adapters::DerefProxy<Element> operator->() const
	{
		return valijson::adapters::DerefProxy<Element>(**this);
	}
	bool		operator==(const SchemaIterator &other) const { return place == other.place; }
	bool		operator!=(const SchemaIterator &other) const { return place != other.place; }
	SchemaIterator &operator++()
	{
		++place;
		return *this;
	}
	SchemaIterator operator++(int)
	{
		SchemaIterator before(*this);

		++place;
		return before;
	}
	SchemaIterator &operator--()
	{
		--place;
		return *this;
	}
	void		advance(std::ptrdiff_t n) { place += n; }

private:
	std::vector<Value *>::const_iterator place;
};

const Value no_value{Type::Null, false, std::string(), std::string(), 0, nullptr, 0, {}};

class SchemaArray
{
public:
	typedef SchemaIterator<SchemaAdapter> const_iterator;
	typedef const_iterator iterator;

	explicit SchemaArray(const Value *value = &no_value) : value(value) { }
	const_iterator begin() const { return const_iterator(value->children.begin()); }
	const_iterator end() const { return const_iterator(value->children.end()); }
	size_t		size() const { return value->children.size(); }

private:
	const Value *value;
};

class SchemaObject
{
public:
	typedef SchemaIterator<SchemaMember> const_iterator;
	typedef const_iterator iterator;

	explicit SchemaObject(const Value *value = &no_value) : value(value) { }
	const_iterator begin() const { return const_iterator(value->children.begin()); }
	const_iterator end() const { return const_iterator(value->children.end()); }
	size_t		size() const { return value->children.size(); }

	/* By iterating the library reads objects whose keys are names, by find() schemas. */
	const_iterator find(const std::string &key) const
	{
		const Value *reference = Find(value, "$ref");
		bool		is_reference = reference && reference->type == Type::String;
		const Value *member = key == reference_key ? (is_reference ? reference : nullptr) : Find(value, key);

		touched = value;
		if (!member || !IsKey(key, reading->draft) || (is_reference && key != reference_key && key != "default"))
			return end();
		return const_iterator(PlaceOf(value, member->name));
	}

private:
	const Value *value;
};

class SchemaFrozenValue : public valijson::adapters::FrozenValue
{
public:
	explicit SchemaFrozenValue(const Value *value) : value(value) { }
	FrozenValue *clone() const override { return new SchemaFrozenValue(value); }

	/* Checker compares values itself. */
	bool		equalTo(const valijson::adapters::Adapter &, bool) const override { return false; }

	const Value *const value;
};

class SchemaValue
{
public:
	explicit SchemaValue(const Value *value = &no_value) : value(value) { }

	valijson::adapters::FrozenValue *freeze() const { return new SchemaFrozenValue(value); }

	std::optional<SchemaArray> getArrayOptional() const
	{
		if (!isArray())
			return {};
		return SchemaArray(value);
	}

	bool		getArraySize(size_t &result) const
	{
		result = value->children.size();
		return isArray();
	}

	bool		getBool(bool &result) const
	{
		result = value->boolean;
		return isBool();
	}

	/* Not asked for: see SchemaAdapter::asDouble. */
	bool		getDouble(double &) const { return false; }

	bool		getInteger(int64_t &result) const
	{
		if (!isInteger())
			return false;
		result = std::strtoll(value->text.c_str(), nullptr, 10);
		return true;
	}

	std::optional<SchemaObject> getObjectOptional() const
	{
		if (!isObject())
			return {};
		return SchemaObject(value);
	}

	bool		getObjectSize(size_t &result) const
	{
		result = value->children.size();
		return isObject();
	}

	bool		getString(std::string &result) const
	{
		if (!isString())
			return false;
		result = value->text;
		return true;
	}

	static bool hasStrictTypes() { return true; }
	bool		isArray() const { return Is(Type::Array); }
	bool		isBool() const { return Is(Type::Boolean); }
	bool		isDouble() const { return Is(Type::Number) && !isInteger(); }

	/* Whole numbers of up to 18 digits. */
	bool		isInteger() const
	{
		Decimal		number;

		if (!Is(Type::Number))
			return false;
		number = DecimalOf(value->text);
		return IsWhole(number) && number.exponent <= 18;
	}

	bool		isNull() const { return Is(Type::Null); }
	bool		isNumber() const { return Is(Type::Number); }
	bool		isObject() const { return Is(Type::Object); }
	bool		isString() const { return Is(Type::String); }

private:
	bool		Is(Type type) const
	{
		Step(reading->environment);
		touched = value;
		return value->type == type;
	}

	const Value *value;
};

/* A schema's types are what they are: the string "5" is no number. */
class SchemaAdapter :
	public valijson::adapters::BasicAdapter<SchemaAdapter, SchemaArray, SchemaMember, SchemaObject, SchemaValue>
{
public:
	SchemaAdapter() : value(&no_value) { }
	explicit SchemaAdapter(const Value *value) : BasicAdapter(SchemaValue(value)), value(value) { }
	explicit SchemaAdapter(const Value &value) : SchemaAdapter(&value) { }

	/* Where the number is in the list of bounds; the library asks for nothing else as double. */
	double		asDouble() const override
	{
		reading->bounds->push_back(DecimalOf(value->text));
		return (double) reading->bounds->size();
	}

	bool		maybeArray() const override { return isArray(); }
	bool		maybeBool() const override { return isBool(); }
	bool		maybeDouble() const override { return isNumber(); }
	bool		maybeInteger() const override { return isInteger(); }
	bool		maybeNull() const override { return isNull(); }
	bool		maybeObject() const override { return isObject(); }
	bool		maybeString() const override { return isString(); }

	const Value *value;
};

template <>
SchemaAdapter
SchemaIterator<SchemaAdapter>::operator*() const
{
	return SchemaAdapter(*place);
}

template <>
SchemaMember
SchemaIterator<SchemaMember>::operator*() const
{
	return SchemaMember((*place)->name, SchemaAdapter(*place));
}

}								/* namespace */

namespace valijson
{
namespace adapters
{
template <>
struct AdapterTraits<SchemaAdapter>
{
	typedef Value DocumentType;
	static std::string adapterName() { return "SchemaAdapter"; }
};
}
}

/* ---------- compiling ---------- */

struct JsonSchema
{
	std::unique_ptr<JsonDocument> document;
	int			draft = 7;
	bool		has_defaults = false;
	std::vector<Decimal> bounds;	/* the library has their places, from 1 on */
	/* The root, and what references lead to. */
	std::unordered_map<const Value *, std::unique_ptr<valijson::Schema>> schemas;
	std::unordered_map<std::string, std::unique_ptr<Pattern>> patterns;
};

namespace
{

class Checker;

/* What the library does not keep of a schema: its default, or where it refers to. */
template <typename Derived>
class OurConstraint : public valijson::constraints::Constraint
{
public:
	explicit OurConstraint(const Value *value) : value(value) { }
	bool		accept(valijson::constraints::ConstraintVisitor &visitor) const override;
	OwningPointer clone(CustomAlloc allocate, CustomFree release) const override
	{
		return OwningPointer(new (allocate(sizeof(Derived))) Derived(value), release);
	}

	const Value *const value;
};

class DefaultConstraint : public OurConstraint<DefaultConstraint>
{
	using OurConstraint::OurConstraint;
};

class ReferenceConstraint : public OurConstraint<ReferenceConstraint>
{
	using OurConstraint::OurConstraint;
};

void *
Allocate(size_t size)
{
	return ::operator new(size);
}

void
Release(void *pointer)
{
	::operator delete(pointer);
}

class Compiler
{
public:
	Compiler(JsonSchema *schema, const JsonEnvironment *environment) :
		schema(schema), environment(environment) { }

	void		Compile(Value *root)
	{
		Reading		now{environment, 7, &schema->bounds};

		schema->draft = now.draft = DraftOf(root);
		reading = &now;
		documents[""] = root;
		Walk(root, "");
		Require(root);
		while (!required.empty())
		{
			Value	   *value = required.back();

			required.pop_back();
			CompileOne(value);
		}
	}

	/* Where a reference leads to; it will be compiled. */
	const Value *Follow(const Value *reference)
	{
		std::string uri = Resolve(bases.at(reference->parent), reference->text);
		size_t		hash = uri.find('#');
		std::string fragment = hash == std::string::npos ? "" : Unescaped(uri.substr(hash + 1));
		auto		found = documents.find(uri.substr(0, hash));
		Value	   *target;

		if (found == documents.end())
			throw Refused{reference, "reference " + Quoted(reference->text) +
				" leads outside of the schema, and such references are not fetched"};
		if (fragment.empty() || fragment[0] == '/')
			target = Locate(found->second, fragment);
		else
		{
			auto		anchor = documents.find(uri);

			target = anchor == documents.end() ? nullptr : anchor->second;
		}
		if (!target)
			throw Refused{reference, "reference " + Quoted(reference->text) + " leads nowhere"};
		/* A reference may lead to where no key says that it is a schema. */
		if (walked.count(target) == 0)
			Walk(target, bases.at(reference->parent));
		Require(target);
		return target;
	}

private:
	/* Makes our constraints of keys of a schema. */
	template <typename Constraint>
	struct Builder : valijson::ConstraintBuilder
	{
		explicit Builder(Compiler *compiler) : compiler(compiler) { }
		valijson::constraints::Constraint *make(const valijson::adapters::Adapter &adapter) const override
		{
			const Value *value = static_cast<const SchemaAdapter &>(adapter).value;

			return new Constraint(compiler->ValueFor(value, static_cast<const Constraint *>(nullptr)));
		}

		Compiler   *const compiler;
	};

	const Value *ValueFor(const Value *value, const DefaultConstraint *)
	{
		schema->has_defaults = true;
		return value;
	}

	const Value *ValueFor(const Value *value, const ReferenceConstraint *)
	{
		return Follow(value);
	}

	static int	DraftOf(const Value *root)
	{
		const Value *named = Find(root, "$schema");
		std::string uri;

		if (!named)
			return 7;
		if (named->type != Type::String)
			throw Refused{named, "\"$schema\" must be a string"};
		uri = named->text;
		if (!uri.empty() && uri.back() == '#')
			uri.pop_back();
		if (uri.compare(0, 8, "https://") == 0)
			uri.erase(4, 1);
		for (int draft : {4, 6, 7})
		{
			if (uri == "http://json-schema.org/draft-0" + std::to_string(draft) + "/schema")
				return draft;
		}
		throw Refused{named, "\"$schema\" " + Quoted(named->text) +
			" is not supported: drafts 4, 6 and 7 are"};
	}

	/* An URI relative to another one, as far as identifiers of schemas go. */
	static std::string Resolve(const std::string &base, const std::string &uri)
	{
		size_t		scheme = uri.find(':');
		size_t		authority = base.find("://");
		size_t		slash;

		if (uri.empty() || uri[0] == '#')
			return base + uri;
		if (scheme != std::string::npos && scheme < uri.find_first_of("/?#"))
			return uri;
		authority = authority == std::string::npos ? 0 : authority + 3;
		if (uri[0] == '/')
			slash = base.find('/', authority);
		else
		{
			slash = base.rfind('/');
			if (slash != std::string::npos && slash < authority)
				return base + '/' + uri;
			slash = slash == std::string::npos ? 0 : slash + 1;
		}
		return base.substr(0, slash) + uri;
	}

	/* Takes the percent signs of an URI away. */
	static std::string Unescaped(const std::string &text)
	{
		std::string result;

		for (size_t i = 0; i < text.size(); i++)
		{
			if (text[i] == '%' && i + 2 < text.size() && isxdigit(text[i + 1]) && isxdigit(text[i + 2]))
			{
				result += (char) std::strtol(text.substr(i + 1, 2).c_str(), nullptr, 16);
				i += 2;
			}
			else
				result += text[i];
		}
		return result;
	}

	/* The value that a JSON pointer leads to, or null. */
	static Value *Locate(Value *value, const std::string &pointer)
	{
		for (size_t start = 1, end; value && start <= pointer.size(); start = end + 1)
		{
			std::string name;

			end = std::min(pointer.find('/', start), pointer.size());
			for (size_t i = start; i < end; i++)
			{
				if (pointer[i] == '~' && i + 1 < end)
					name += pointer[++i] == '1' ? '/' : '~';
				else
					name += pointer[i];
			}
			if (value->type == Type::Array)
			{
				size_t		number = std::strtoul(name.c_str(), nullptr, 10);

				value = std::to_string(number) == name && number < value->children.size() ?
					value->children[number] : nullptr;
			}
			else
				value = Find(value, name);
		}
		return value;
	}

	/* Sees to it that a schema gets compiled. */
	void		Require(Value *value)
	{
		if (schema->schemas.emplace(value, nullptr).second)
			required.push_back(value);
	}

	/* Notes the identifiers and patterns of a schema and those in it, and checks what the library does not. */
	void		Walk(Value *value, std::string base)
	{
		const std::string *id = FindString(value, schema->draft == 4 ? "id" : "$id");
		const Value *reference = Find(value, "$ref");
		bool		is_reference = reference != nullptr;

		Step(environment);
		walked.insert(value);
		if (value->type == Type::Boolean && schema->draft >= 6)
			return;
		if (value->type != Type::Object)
			throw Refused{value, std::string("a schema must be an object") +
				(schema->draft >= 6 ? ", true or false" : "")};
		if (reference && reference->type != Type::String)
			throw Refused{reference, "\"$ref\" must be a string"};
		if (id && !is_reference)
		{
			std::string uri = Resolve(base, *id);
			size_t		hash = uri.find('#');

			if (hash != std::string::npos && hash + 1 < uri.size())
				documents.emplace(uri, value);
			if (hash != 0 && (*id)[0] != '#')
			{
				base = uri.substr(0, hash);
				documents.emplace(base, value);
			}
		}
		bases[value] = base;
		for (Value *member : value->children)
		{
			if (!IsKey(member->name, schema->draft) || (is_reference && member->name != "definitions"))
				continue;
			if (member->name == "pattern" && member->type == Type::String)
				AddPattern(member->text, member);
			else if (member->name == "multipleOf" && member->type == Type::Number)
				CheckDivisor(member);
			else if (member->type == Type::Array && array_keys.count(member->name) != 0)
			{
				for (Value *child : member->children)
					Walk(child, base);
			}
			else if (member->type == Type::Object && object_keys.count(member->name) != 0)
			{
				for (Value *child : member->children)
				{
					/* A dependency may be a list of names. */
					if (child->type != Type::Array || member->name != "dependencies")
						Walk(child, base);
					if (member->name == "patternProperties")
						AddPattern(child->name, child);
					else if (member->name == "definitions")
						Require(child);
				}
			}
			else if (schema_keys.count(member->name) != 0 && member->type != Type::Boolean)
				Walk(member, base);
		}
	}

	void		AddPattern(const std::string &pattern, const Value *place)
	{
		std::unique_ptr<Pattern> &slot = schema->patterns[pattern];

		if (!slot)
			slot.reset(new Pattern(pattern, place));
	}

	static void CheckDivisor(const Value *value)
	{
		Decimal		divisor = DecimalOf(value->text);

		if (divisor.negative || divisor.digits.empty())
			throw Refused{value, "\"multipleOf\" must be greater than 0"};
		if (divisor.digits.size() > 18)
			throw Refused{value, "\"multipleOf\" has more than 18 digits"};
	}

	void		CompileOne(Value *value)
	{
		std::unique_ptr<valijson::Schema> compiled(new valijson::Schema(Allocate, Release));
		valijson::SchemaParser parser(schema->draft == 4 ? valijson::SchemaParser::kDraft4 :
									  valijson::SchemaParser::kDraft7);

		AddBuilder<DefaultConstraint>(parser, "default");
		AddBuilder<ReferenceConstraint>(parser, reference_key);
		parser.populateSchema(SchemaAdapter(value), *compiled);
		schema->schemas[value] = std::move(compiled);
	}

	template <typename Constraint>
	void		AddBuilder(valijson::SchemaParser &parser, const char *key)
	{
		std::unique_ptr<valijson::ConstraintBuilder> builder(new Builder<Constraint>(this));

		parser.addConstraintBuilder(key, builder.get());
		(void) builder.release();
	}

	JsonSchema *const schema;
	const JsonEnvironment *const environment;
	std::unordered_map<std::string, Value *> documents;	/* by URI, with a fragment or without */
	std::unordered_map<const Value *, std::string> bases;	/* of each schema */
	std::unordered_set<const Value *> walked;
	std::vector<Value *> required;
};

/* ---------- validating ---------- */

/* Defaults beyond this many are taken for an endless number. */
const size_t max_inserted = 100000;

class Checker : public valijson::constraints::ConstraintVisitor
{
public:
	Checker(const JsonSchema *schema, JsonDocument *document, const JsonEnvironment *environment) :
		schema(schema), document(document), environment(environment) { }

	void		InsertDefaults()
	{
		inserting = silent = true;
		Check(Root(), document->root);
		inserting = silent = false;
	}

	void		Validate()
	{
		(void) Check(Root(), document->root);
		/* The order of the library's constraints is its own affair. */
		std::sort(document->problems.begin(), document->problems.end());
		document->problems.erase(std::unique(document->problems.begin(), document->problems.end()),
								 document->problems.end());
	}

	bool		Visit(const DefaultConstraint &) { return true; }

	bool		Visit(const ReferenceConstraint &constraint)
	{
		return Check(*schema->schemas.at(constraint.value), target);
	}

	bool		visit(const AllOfConstraint &constraint) override
	{
		bool		valid = true;

		constraint.applyToSubschemas([&](unsigned int, const Subschema *subschema)
		{
			valid &= Check(*subschema, target);
			return true;
		});
		return valid;
	}

	bool		visit(const AnyOfConstraint &constraint) override
	{
		bool		valid = inserting;

		constraint.applyToSubschemas([&](unsigned int, const Subschema *subschema)
		{
			valid = valid || Holds(*subschema, target);
			return !valid;
		});
		return valid || Complain("does not match any schema of \"anyOf\"");
	}

	bool		visit(const ConditionalConstraint &constraint) override
	{
		const Subschema *consequence;

		if (inserting)
			return true;
		consequence = Holds(*constraint.getIfSubschema(), target) ?
			constraint.getThenSubschema() : constraint.getElseSubschema();
		return consequence == nullptr || Check(*consequence, target);
	}

	bool		visit(const ConstConstraint &constraint) override
	{
		if (inserting || Equals(*constraint.getValue()))
			return true;
		return Complain("must be " + Text(*constraint.getValue()));
	}

	bool		visit(const ContainsConstraint &constraint) override
	{
		if (inserting || target->type != Type::Array)
			return true;
		for (Value *item : target->children)
		{
			if (Holds(*constraint.getSubschema(), item))
				return true;
		}
		return Complain("must contain an item that matches \"contains\"");
	}

	bool		visit(const DependenciesConstraint &constraint) override
	{
		bool		valid = true;

		if (inserting || target->type != Type::Object)
			return true;
		constraint.applyToPropertyDependencies([&](const auto &name, const auto &names)
		{
			if (!Find(target, name.c_str()))
				return true;
			for (const auto &other : names)
			{
				if (!Find(target, other.c_str()))
					valid = Complain("property " + Quoted(name.c_str()) + " requires property " +
									 Quoted(other.c_str()));
			}
			return true;
		});
		constraint.applyToSchemaDependencies([&](const auto &name, const Subschema *subschema)
		{
			if (Find(target, name.c_str()))
				valid &= Check(*subschema, target);
			return true;
		});
		return valid;
	}

	bool		visit(const EnumConstraint &constraint) override
	{
		bool		found = inserting;
		std::string values;

		constraint.applyToValues([&](const valijson::adapters::FrozenValue &value)
		{
			found = found || Equals(value);
			return !found;
		});
		if (found || silent)
			return found;
		constraint.applyToValues([&](const valijson::adapters::FrozenValue &value)
		{
			values += (values.empty() ? "" : ", ") + Text(value);
			return values.size() < 200;
		});
		return Complain("must be one of " + Shortened(values));
	}

	bool		visit(const FormatConstraint &constraint) override
	{
		return inserting || target->type != Type::String || HasFormat(target->text, constraint.getFormat()) ||
			Complain("must have the format " + Quoted(constraint.getFormat()));
	}

	bool		visit(const LinearItemsConstraint &constraint) override
	{
		const Subschema *additional = constraint.getAdditionalItemsSubschema();
		size_t		described = constraint.getItemSubschemaCount();
		bool		valid = true;

		if (target->type != Type::Array)
			return true;
		constraint.applyToItemSubschemas([&](unsigned int number, const Subschema *subschema)
		{
			if (number < target->children.size())
				valid &= Check(*subschema, target->children[number]);
			return true;
		});
		for (size_t i = described; i < target->children.size(); i++)
			valid &= additional ? Check(*additional, target->children[i]) :
				Complain(target->children[i], "item is not allowed");
		return valid;
	}

	bool		visit(const MaximumConstraint &constraint) override
	{
		const Decimal &bound = Bound(constraint.getMaximum());
		bool		exclusive = constraint.getExclusiveMaximum();

		return inserting || target->type != Type::Number ||
			Compare(DecimalOf(target->text), bound) < (exclusive ? 0 : 1) ||
			Complain((exclusive ? "must be less than " : "must be at most ") + Text(bound));
	}

	bool		visit(const MinimumConstraint &constraint) override
	{
		const Decimal &bound = Bound(constraint.getMinimum());
		bool		exclusive = constraint.getExclusiveMinimum();

		return inserting || target->type != Type::Number ||
			Compare(DecimalOf(target->text), bound) > (exclusive ? 0 : -1) ||
			Complain((exclusive ? "must be greater than " : "must be at least ") + Text(bound));
	}

	bool		visit(const MultipleOfDoubleConstraint &constraint) override
	{
		return CheckMultiple(Bound(constraint.getDivisor()));
	}

	bool		visit(const MultipleOfIntConstraint &constraint) override
	{
		return CheckMultiple(DecimalOf(std::to_string(constraint.getDivisor())));
	}

	bool		visit(const MaxItemsConstraint &constraint) override
	{
		return CheckMost(Type::Array, target->children.size(), constraint.getMaxItems(), "item", "items");
	}

	bool		visit(const MinItemsConstraint &constraint) override
	{
		return CheckLeast(Type::Array, target->children.size(), constraint.getMinItems(), "item", "items");
	}

	bool		visit(const MaxLengthConstraint &constraint) override
	{
		return CheckMost(Type::String, Characters(target->text), constraint.getMaxLength(), "character", "characters");
	}

	bool		visit(const MinLengthConstraint &constraint) override
	{
		return CheckLeast(Type::String, Characters(target->text), constraint.getMinLength(), "character", "characters");
	}

	bool		visit(const MaxPropertiesConstraint &constraint) override
	{
		return CheckMost(Type::Object, target->children.size(), constraint.getMaxProperties(),
						 "property", "properties");
	}

	bool		visit(const MinPropertiesConstraint &constraint) override
	{
		return CheckLeast(Type::Object, target->children.size(), constraint.getMinProperties(),
						  "property", "properties");
	}

	bool		visit(const NotConstraint &constraint) override
	{
		return inserting || !Holds(*constraint.getSubschema(), target) ||
			Complain("must not match the schema of \"not\"");
	}

	bool		visit(const OneOfConstraint &constraint) override
	{
		int			matches = inserting;

		constraint.applyToSubschemas([&](unsigned int, const Subschema *subschema)
		{
			matches += !inserting && Holds(*subschema, target);
			return matches < 2;
		});
		return matches == 1 ||
			Complain(matches == 0 ? "does not match any schema of \"oneOf\"" :
					 "matches more than one schema of \"oneOf\"");
	}

	bool		visit(const PatternConstraint &constraint) override
	{
		std::string pattern = constraint.getPattern<std::allocator<char>>();

		return inserting || target->type != Type::String || Matches(pattern, target->text, target) ||
			Complain("must match the pattern " + Quoted(pattern));
	}

	/* None is made by the library. */
	bool		visit(const PolyConstraint &) override { return true; }

	bool		visit(const PropertiesConstraint &constraint) override
	{
		const Subschema *additional = constraint.getAdditionalPropertiesSubschema();
		std::unordered_set<const Value *> described;
		bool		valid = true;

		if (target->type != Type::Object)
			return true;
		constraint.applyToProperties([&](const auto &name, const Subschema *subschema)
		{
			Value	   *member = Find(target, name.c_str());

			if (!member && inserting)
				member = InsertDefault(*subschema, name.c_str());
			if (member)
			{
				described.insert(member);
				valid &= Check(*subschema, member);
			}
			return true;
		});
		constraint.applyToPatternProperties([&](const auto &pattern, const Subschema *subschema)
		{
			for (Value *member : target->children)
			{
				if (Matches(pattern.c_str(), member->name, member))
				{
					described.insert(member);
					valid &= Check(*subschema, member);
				}
			}
			return true;
		});
		for (Value *member : target->children)
		{
			if (described.count(member) == 0)
				valid &= additional ? Check(*additional, member) :
					Complain(member, "property is not allowed");
		}
		return valid;
	}

	bool		visit(const PropertyNamesConstraint &constraint) override
	{
		bool		valid = true;

		if (inserting || target->type != Type::Object)
			return true;
		for (Value *member : target->children)
		{
			Value		name{Type::String, false, member->name, member->name, 0, target, 0, {}};

			if (!Holds(*constraint.getSubschema(), &name))
				valid = Complain(member, "name of the property does not match \"propertyNames\"");
		}
		return valid;
	}

	bool		visit(const RequiredConstraint &constraint) override
	{
		bool		valid = true;

		if (inserting || target->type != Type::Object)
			return true;
		constraint.applyToRequiredProperties([&](const auto &name)
		{
			if (!Find(target, name.c_str()))
				valid = Complain("required property " + Quoted(name.c_str()) + " is missing");
			return true;
		});
		return valid;
	}

	bool		visit(const SingularItemsConstraint &constraint) override
	{
		bool		valid = true;

		if (target->type != Type::Array)
			return true;
		for (Value *item : target->children)
			valid &= Check(*constraint.getItemsSubschema(), item);
		return valid;
	}

	bool		visit(const TypeConstraint &constraint) override
	{
		bool		found = inserting;
		std::string names;

		constraint.applyToNamedTypes([&](TypeConstraint::JsonType type)
		{
			static const char *const type_names[] = {
				"any", "array", "boolean", "integer", "null", "number", "object", "string"
			};

			found = found || IsOfType(type);
			(names += names.empty() ? "" : " or ") += type_names[type];
			return !found;
		});
		return found || Complain("must be of type " + names + ", not " + TypeName(target->type));
	}

	bool		visit(const UniqueItemsConstraint &) override
	{
		std::vector<Value *> items = target->children;

		if (inserting || target->type != Type::Array)
			return true;
		std::stable_sort(items.begin(), items.end(), [&](const Value *a, const Value *b)
		{
			return Compare(a, b, environment) < 0;
		});
		for (size_t i = 1; i < items.size(); i++)
		{
			if (Compare(items[i - 1], items[i], environment) == 0)
				return Complain("items " + std::to_string(items[i - 1]->position) + " and " +
								std::to_string(items[i]->position) + " are equal");
		}
		return true;
	}

private:
	const Subschema &Root() const { return *schema->schemas.at(schema->document->root); }

	/* Whether a value is valid against a schema; complains if not. */
	bool		Check(const Subschema &subschema, Value *value)
	{
		Subschema::ApplyFunction visit_it = [this](const valijson::constraints::Constraint &constraint)
		{
			return constraint.accept(*this);
		};
		Value	   *outer = target;
		bool		valid;

		Step(environment);
		target = value;
		if (subschema.getAlwaysInvalid())
			valid = inserting || Complain("nothing is allowed here");
		else
			valid = silent && !inserting ? subschema.applyStrict(visit_it) : subschema.apply(visit_it);
		target = outer;
		return valid;
	}

	/* Whether a value is valid against a schema; tells nobody else. */
	bool		Holds(const Subschema &subschema, Value *value)
	{
		bool		before = silent;
		bool		valid;

		silent = true;
		valid = Check(subschema, value);
		silent = before;
		return valid;
	}

	bool		Complain(const Value *place, const std::string &problem)
	{
		if (!silent)
		{
			document->problems.push_back(Problem{place->number, PointerTo(place), problem});
			silent = document->problems.size() >= JSON_MAX_PROBLEMS;
		}
		return false;
	}

	bool		Complain(const std::string &problem) { return Complain(target, problem); }

	const Value *ValueOf(const valijson::adapters::FrozenValue &frozen) const
	{
		return static_cast<const SchemaFrozenValue &>(frozen).value;
	}

	bool		Equals(const valijson::adapters::FrozenValue &frozen) const
	{
		return Compare(target, ValueOf(frozen), environment) == 0;
	}

	std::string Text(const valijson::adapters::FrozenValue &frozen) const
	{
		std::string text;

		WriteValue(ValueOf(frozen), text, environment);
		return Shortened(text);
	}

	const Decimal &Bound(double place) const { return schema->bounds[(size_t) place - 1]; }

	static std::string Text(const Decimal &number)
	{
		std::string text = number.digits;

		if (text.empty())
			return "0";
		if (number.exponent > 40 || number.exponent < -40)
			text.insert(1, text.size() > 1 ? "." : "") += "e" + std::to_string(number.exponent - 1);
		else if (IsWhole(number))
			text.append(number.exponent - text.size(), '0');
		else if (number.exponent > 0)
			text.insert(number.exponent, ".");
		else
			text = "0." + std::string(-number.exponent, '0') + text;
		return (number.negative ? "-" : "") + text;
	}

	bool		Matches(const std::string &pattern, const std::string &text, const Value *place) const
	{
		Step(environment);
		return schema->patterns.at(pattern)->Matches(text, place);
	}

	bool		CheckMultiple(const Decimal &divisor)
	{
		return inserting || target->type != Type::Number || IsMultiple(DecimalOf(target->text), divisor) ||
			Complain("must be a multiple of " + Text(divisor));
	}

	bool		CheckMost(Type type, uint64_t count, uint64_t bound, const char *one, const char *many)
	{
		return inserting || target->type != type || count <= bound ||
			Complain("must have at most " + std::to_string(bound) + " " + (bound == 1 ? one : many) +
					 ", not " + std::to_string(count));
	}

	bool		CheckLeast(Type type, uint64_t count, uint64_t bound, const char *one, const char *many)
	{
		return inserting || target->type != type || count >= bound ||
			Complain("must have at least " + std::to_string(bound) + " " + (bound == 1 ? one : many) +
					 ", not " + std::to_string(count));
	}

	bool		IsOfType(valijson::constraints::TypeConstraint::JsonType type) const
	{
		switch (type)
		{
			case TypeConstraint::kAny:
				return true;
			case TypeConstraint::kArray:
				return target->type == Type::Array;
			case TypeConstraint::kBoolean:
				return target->type == Type::Boolean;
			case TypeConstraint::kInteger:
				return target->type == Type::Number && IsWhole(DecimalOf(target->text));
			case TypeConstraint::kNull:
				return target->type == Type::Null;
			case TypeConstraint::kNumber:
				return target->type == Type::Number;
			case TypeConstraint::kObject:
				return target->type == Type::Object;
			case TypeConstraint::kString:
				return target->type == Type::String;
		}
		return false;
	}

	/* Inserts the default of a property that is missing, if it has one. */
	Value	   *InsertDefault(const Subschema &subschema, const std::string &name)
	{
		const Value *value = nullptr;
		Subschema::ApplyFunction find_it = [&](const valijson::constraints::Constraint &constraint)
		{
			const DefaultConstraint *found = dynamic_cast<const DefaultConstraint *>(&constraint);

			if (found)
				value = found->value;
			return true;
		};
		Value	   *copy;

		(void) subschema.apply(find_it);
		if (!value)
			return nullptr;
		copy = Copy(value, target, name);
		target->children.insert(PlaceOf(target, name), copy);
		return copy;
	}

	Value	   *Copy(const Value *value, Value *parent, const std::string &name)
	{
		Value	   *copy;

		Step(environment);
		if (++document->inserted > max_inserted)
			throw TooCostly{target, "more than " + std::to_string(max_inserted) + " values are to be inserted as defaults"};
		copy = document->Add(value->type, parent, name);
		copy->boolean = value->boolean;
		copy->text = value->text;
		for (const Value *child : value->children)
			copy->children.push_back(Copy(child, copy, child->name));
		return copy;
	}

	const JsonSchema *const schema;
	JsonDocument *const document;
	const JsonEnvironment *const environment;
	Value	   *target = nullptr;
	bool		silent = false;
	bool		inserting = false;
};

template <typename Derived>
bool
OurConstraint<Derived>::accept(valijson::constraints::ConstraintVisitor &visitor) const
{
	return static_cast<Checker &>(visitor).Visit(static_cast<const Derived &>(*this));
}

}								/* namespace */

/* ---------- the border ---------- */

JsonDocument *
NewJsonDocument(void)
{
	try
	{
		return new JsonDocument();
	}
	catch (...)
	{
		return nullptr;
	}
}

bool
AddJson(JsonDocument *document, JsonEvent event, const char *text, size_t length)
{
	static const Type types[] = {
		Type::Object, Type::Array, Type::Null, Type::Null, Type::String, Type::Number,
		Type::Boolean, Type::Boolean, Type::Null
	};

	try
	{
		Value	   *parent = document->open;
		Value	   *value;

		if (event == JSON_KEY)
		{
			document->key.assign(text, length);
			return true;
		}
		if (event == JSON_END)
		{
			if (parent->type == Type::Object &&
				!std::is_sorted(parent->children.begin(), parent->children.end(), ValueNameLess))
				std::sort(parent->children.begin(), parent->children.end(), ValueNameLess);
			document->open = parent->parent;
			return true;
		}
		value = document->Add(types[event], parent,
							  parent && parent->type == Type::Object ? document->key : std::string());
		value->boolean = event == JSON_TRUE;
		if (text)
			value->text.assign(text, length);
		if (parent)
			parent->children.push_back(value);
		else
			document->root = value;
		if (event == JSON_OBJECT || event == JSON_ARRAY)
			document->open = value;
		return true;
	}
	catch (...)
	{
		return false;
	}
}

void
FreeJsonDocument(JsonDocument *document)
{
	delete document;
}

JsonOutcome
CompileJsonSchema(JsonDocument *document, const JsonEnvironment *environment, JsonSchema **schema)
{
	return Guarded(document, [&]()
	{
		std::unique_ptr<JsonSchema> compiled(new JsonSchema());

		Compiler(compiled.get(), environment).Compile(document->root);
		compiled->document.reset(document);
		*schema = compiled.release();
	});
}

void
FreeJsonSchema(JsonSchema *schema)
{
	delete schema;
}

JsonOutcome
ValidateJson(JsonSchema *schema, JsonDocument *document, bool insert_defaults,
			 const JsonEnvironment *environment)
{
	return Guarded(document, [&]()
	{
		Checker		checker(schema, document, environment);

		if (insert_defaults && schema->has_defaults)
			checker.InsertDefaults();
		checker.Validate();
		if (document->inserted > 0)
		{
			document->with_defaults.clear();
			WriteValue(document->root, document->with_defaults, environment);
		}
	});
}

size_t
JsonProblems(const JsonDocument *document)
{
	return document->problems.size();
}

const char *
JsonProblemPath(const JsonDocument *document, size_t number)
{
	return document->problems[number].path.c_str();
}

const char *
JsonProblem(const JsonDocument *document, size_t number)
{
	return document->problems[number].problem.c_str();
}

const char *
JsonWithDefaults(const JsonDocument *document)
{
	return document->inserted > 0 ? document->with_defaults.c_str() : nullptr;
}
