/*
 * yaml_document.h
 *		Reading YAML as Ruby reads it: text in, Jsonb out. Pure; every
 *		complaint says line and column.
 */
#ifndef TASKER_YAML_DOCUMENT_H
#define TASKER_YAML_DOCUMENT_H

#include "tasker.h"

#include "utils/jsonb.h"

/*
 * The one document of a YAML text.  Raises 22023 where it cannot be read,
 * 54000 where its aliases would blow it up.
 */
extern Jsonb *JsonbOfYaml(const text *yaml);

#endif							/* TASKER_YAML_DOCUMENT_H */
