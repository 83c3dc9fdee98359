/* SPDX-License-Identifier: MIT
 * libuv's errors as lorica's: the one place where they are translated. */
#ifndef LORICA_GATEWAY_SERVER_UVERR_H
#define LORICA_GATEWAY_SERVER_UVERR_H

#include "proto/err.h"

/** Fails with the code and sentence that fit a negative libuv result: "what: sentence". */
int lorica_uv_fail(struct lorica_error *err, int uv_rc, const char *what);

#endif
