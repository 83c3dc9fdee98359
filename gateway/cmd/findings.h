/* SPDX-License-Identifier: MIT
 * What a command that verifies something found, a line each. */
#ifndef LORICA_GATEWAY_CMD_FINDINGS_H
#define LORICA_GATEWAY_CMD_FINDINGS_H

#include <stdint.h>

#include "proto/buf.h"

struct lorica_findings {
    struct lorica_buf report; /**< the lines; its owner may append some and count them */
    uint64_t count;
};

/** Nothing found yet. Finish the report when done. */
void lorica_findings_init(struct lorica_findings *findings);

/** Adds the line "NAME: WHAT". */
void lorica_findings_add(struct lorica_findings *findings, const char *what, const char *name);

/** Prints {"object":"verification","clean":bool,"findings":[line...]}. Fails where there are too
 * many to be held. */
int lorica_findings_print_json(const struct lorica_findings *findings,
                               struct lorica_error *err) LORICA_MUSTCHECK;

#endif
