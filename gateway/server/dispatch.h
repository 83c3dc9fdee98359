/* SPDX-License-Identifier: MIT
 * From a judged head to the handler and back: key check, body, run, answer. Loop thread. */
#ifndef LORICA_GATEWAY_SERVER_DISPATCH_H
#define LORICA_GATEWAY_SERVER_DISPATCH_H

#include "gateway/server/conn.h"

/** The head of a request was judged: finds its route and goes on, or answers. */
void lorica_dispatch_head(struct lorica_conn *conn);
/** HTTP itself failed (conn->http.status): answers and closes. */
void lorica_dispatch_http_failure(struct lorica_conn *conn);
/** Body bytes stand in conn->http.body: takes them. */
void lorica_dispatch_body(struct lorica_conn *conn);
/** What lorica_conn_pause waited for has come. */
void lorica_dispatch_paused(struct lorica_conn *conn);

#endif
