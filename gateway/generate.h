/* SPDX-License-Identifier: MIT
 * The second half of a chat or completion request, on the loop thread: hands it to the engine,
 * carries the engine's events from its thread to the loop, and makes the answer of them. */
#ifndef LORICA_GATEWAY_GENERATE_H
#define LORICA_GATEWAY_GENERATE_H

#include <uv.h>

#include "gateway/request.h"

/** The way of events from the engine's thread to the loop's; one for a server. */
struct lorica_hub;
int lorica_hub_create(uv_loop_t *loop, struct lorica_hub **ret,
                      struct lorica_error *err) LORICA_MUSTCHECK;
/** Closes; the loop frees it. No generation may live. NULL is accepted. */
void lorica_hub_destroy(struct lorica_hub *hub);

/** Starts what lorica_handle_chat or lorica_handle_completion prepared. */
void lorica_generate_start(struct lorica_request *request);
/** Breaks a stream off with an error frame. */
void lorica_generate_cut(struct lorica_request *request, const char *why);

#endif
