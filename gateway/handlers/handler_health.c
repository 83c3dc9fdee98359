/* SPDX-License-Identifier: MIT
 * Is the server alive, is it ready, what has it done. */
#include "gateway/handlers/handlers.h"
#include "gateway/server/server.h"

static int say(struct lorica_request *request, const char *text) {
    request->response.status = 200;
    request->response.content_type = "text/plain; charset=utf-8";
    lorica_buf_puts(&request->response.body, text);
    return 0;
}

int lorica_handle_livez(struct lorica_request *request) { return say(request, "alive\n"); }

int lorica_handle_readyz(struct lorica_request *request) {
    if (request->server->phase != LORICA_SERVER_RUNNING)
        return lorica_request_fail(request, LORICA_EBUSY, NULL, "draining",
                                   "the server ends: it takes no new work");
    return say(request, "ready\n");
}

int lorica_handle_metrics(struct lorica_request *request) {
    request->response.status = 200;
    request->response.content_type = "text/plain; version=0.0.4; charset=utf-8";
    lorica_metrics_write(request->server, &request->response.body);
    return 0;
}
