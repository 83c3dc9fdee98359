/* SPDX-License-Identifier: MIT
 * What the files of the client share; nobody else includes this. */
#ifndef LORICA_GATEWAY_CLIENT_CLIENT_PRIVATE_H
#define LORICA_GATEWAY_CLIENT_CLIENT_PRIVATE_H

#include <curl/curl.h>

#include "gateway/client/client.h"
#include "proto/buf.h"

/** Where an answer goes. */
struct lorica_client_sink {
    /** Takes the body of an answer below 400 as it comes; NULL: it is collected in `body`. A
     * non-zero return (with `err` filled) ends the request and is returned by perform. */
    int (*write)(void *arg, const char *bytes, size_t len, struct lorica_error *err);
    /** libcurl's header callback, or NULL. */
    size_t (*header)(char *bytes, size_t size, size_t count, void *arg);
    void *arg;                /**< of both */
    struct lorica_buf body;   /**< of an error, or where `write` is NULL */
    long status;              /**< of the answer */
    int rc;                   /**< private */
    struct lorica_error *err; /**< private */
};

struct lorica_client {
    CURL *curl;
    char *server; /**< no slash at the end */
    char *key;    /**< NULL: none */
    char *ca;     /**< NULL: the system's */
    char why[CURL_ERROR_SIZE];
    struct lorica_client_sink *sink; /**< of the request that runs */
};

/** Makes one request. On success the caller finishes sink->body; on failure nothing is left. */
int lorica_client_perform(struct lorica_client *client, const struct lorica_client_request *request,
                          curl_mime *mime, struct lorica_client_sink *sink,
                          struct lorica_error *err) LORICA_MUSTCHECK;

/** Parses and finishes sink->body. `ret` may be NULL. */
int lorica_client_take_json(struct lorica_client *client, struct lorica_client_sink *sink,
                            struct lorica_json **ret, struct lorica_error *err) LORICA_MUSTCHECK;

#endif
