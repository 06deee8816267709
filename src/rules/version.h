/*
 * version.h
 *		Versions of templates: three numbers that compare as numbers. Pure.
 */
#ifndef TASKER_VERSION_H
#define TASKER_VERSION_H

#include "tasker.h"

/* What a version may be called where one is asked for: the highest that is not deprecated. */
#define LATEST_VERSION "latest"

/* Whether a text is a version, "1.10.0": each number has one to nine digits and no leading zero. */
extern bool IsVersion(const char *text);

#endif							/* TASKER_VERSION_H */
