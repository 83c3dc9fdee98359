/* SPDX-License-Identifier: MIT
 * Who may do what: keys, roles and the adapters a key may use. */
#ifndef LORICA_GATEWAY_SERVER_AUTH_H
#define LORICA_GATEWAY_SERVER_AUTH_H

#include "gateway/server/request.h"

/** Judges the request's key for its route: 401 without a valid one, 403 when its role or its
 * adapter globs do not reach. Reads the registry: on a worker. Sets the request's key; wipes the
 * key's text. */
int lorica_auth_check(struct lorica_request *request) LORICA_MUSTCHECK;

/** Judges it again, as it is now, where the change is written: 401 when the key was revoked since.
 * Writer thread, on which keys are revoked too. */
int lorica_auth_again(struct lorica_request *request) LORICA_MUSTCHECK;

/** Fails with 403 unless the request's key may use this adapter ("base" for the base). */
int lorica_auth_adapter(struct lorica_request *request, const char *name) LORICA_MUSTCHECK;

/** True when a key of `role` may do what asks for `needed`. */
bool lorica_auth_role(enum lorica_role role, enum lorica_role needed);

#endif
