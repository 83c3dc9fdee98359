/* SPDX-License-Identifier: MIT
 * The handlers that routes.c lists. Each fills the request's response, or fails the request. */
#ifndef LORICA_GATEWAY_HANDLERS_H
#define LORICA_GATEWAY_HANDLERS_H

#include "gateway/request.h"

int lorica_handle_livez(struct lorica_request *request);
int lorica_handle_readyz(struct lorica_request *request);
int lorica_handle_metrics(struct lorica_request *request);

int lorica_handle_models(struct lorica_request *request);
int lorica_handle_model(struct lorica_request *request);

/* Data plane: the first half prepares on a worker, generate.h has the second. */
int lorica_handle_chat(struct lorica_request *request);
int lorica_handle_completion(struct lorica_request *request);

int lorica_handle_adapters(struct lorica_request *request);
int lorica_handle_adapter(struct lorica_request *request);
int lorica_handle_versions(struct lorica_request *request);
int lorica_handle_version(struct lorica_request *request);
int lorica_handle_version_config(struct lorica_request *request);
int lorica_handle_version_weights(struct lorica_request *request);
int lorica_handle_channels(struct lorica_request *request);
int lorica_handle_channel(struct lorica_request *request);

/* Publishing: judged on a worker, then written by the writer. */
int lorica_handle_publish_check(struct lorica_request *request);
int lorica_handle_publish_write(struct lorica_request *request);
int lorica_handle_promote(struct lorica_request *request);
int lorica_handle_rollback(struct lorica_request *request);

int lorica_handle_history(struct lorica_request *request);
int lorica_handle_audit(struct lorica_request *request);

int lorica_handle_keys(struct lorica_request *request);
int lorica_handle_key_create(struct lorica_request *request);
int lorica_handle_key_revoke(struct lorica_request *request);

#endif
