/* SPDX-License-Identifier: MIT
 * Running a channel's checks on a version before the channel points to it.
 *
 * `run` of a route that moves a channel calls lorica_checks_prepare: where the channel's policy
 * holds checks, it hangs them on the request, and dispatch runs them on the checker's thread before
 * `write`. They are asked of the engine like anyone's requests, at low priority, so they hold up
 * neither the loop nor the writer nor running streams; a client that goes away ends them. What was
 * found goes with the change to the registry, which takes it for that content, list and policy
 * alone. Prompts and answers go to the client that asked, never into log or audit. */
#ifndef LORICA_GATEWAY_HANDLERS_CHECKS_H
#define LORICA_GATEWAY_HANDLERS_CHECKS_H

#include "gateway/server/request.h"
#include "proto/checks.h"
#include "registry/registry.h"
#include "runtime/adapter.h"

/** The checks of a request, and what was found. */
struct lorica_check_run {
    struct lorica_checks checks;
    struct lorica_adapter *adapter; /**< a reference */
    struct lorica_checked found;
    char failure[400]; /**< the first failure, for whoever asked; "" for none */
};

/** Reads the channel's checks, if any, for a version whose content is `content`; takes a reference
 * of `adapter`. On failure the request has failed. On a worker. */
int lorica_checks_prepare(struct lorica_request *request, const char *name, const char *channel,
                          const struct lorica_digest *content,
                          struct lorica_adapter *adapter) LORICA_MUSTCHECK;
/** Likewise for a version in the registry; one that is not there has nothing to be asked. */
int lorica_checks_prepare_version(struct lorica_request *request, const char *name,
                                  const char *channel, uint64_t version) LORICA_MUSTCHECK;

/** Runs them, blocking: on the checker's thread. Fails the request when they cannot be run; a
 * version that fails them is for the registry to refuse. */
int lorica_checks_run(struct lorica_request *request) LORICA_MUSTCHECK;
/** What was found, for struct lorica_actor; NULL: there was nothing to run. */
const struct lorica_checked *lorica_checks_found(const struct lorica_request *request);
/** Adds to the request's error which check failed and how, where the checks were what it was
 * refused for. */
void lorica_checks_explain(struct lorica_request *request);

/** Frees request->checks. */
void lorica_checks_free(struct lorica_request *request);

#endif
