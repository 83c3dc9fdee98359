/* SPDX-License-Identifier: MIT
 * A client of the server's HTTPS API, for the commands that act on a running server. */
#ifndef LORICA_GATEWAY_CLIENT_CLIENT_H
#define LORICA_GATEWAY_CLIENT_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/err.h"
#include "proto/json.h"

/** One server, one key. Not thread-safe: one thread at a time. */
struct lorica_client;

/** Where and as whom; NULL fields take what design says: see each. All borrowed during create. */
struct lorica_client_options {
    const char *server; /**< "https://host[:port]"; else $LORICA_SERVER, https://127.0.0.1:8443 */
    const char *ca;     /**< PEM file; else DIR/tls/ca.pem where it exists, else the system's */
    const char *data;   /**< --data: DIR, see lorica_data_dir */
};

/** The three options of every command that is a client, for its table. */
#define LORICA_CLIENT_OPTIONS(o)                                                                   \
    {.name = "server", .value = &(o).server}, {.name = "ca", .value = &(o).ca}, {                  \
        .name = "data", .value = &(o).data                                                         \
    }
/** How they stand in a synopsis. */
#define LORICA_CLIENT_SYNOPSIS "[--server URL] [--ca FILE] [--data DIR]"
/** And in the help. */
#define LORICA_CLIENT_HELP                                                                         \
    "--server URL\tthe server; otherwise $LORICA_SERVER, or https://127.0.0.1:8443. The key is "   \
    "taken from $LORICA_API_KEY, or from DIR/admin.key where that is readable\n"                   \
    "--ca FILE\ttrust the authority in this PEM file; otherwise DIR/tls/ca.pem where it exists, "  \
    "or the system's authorities\n"                                                                \
    "--data DIR\tthe data directory DIR; otherwise $LORICA_DATA, or lorica in the user's data "    \
    "directory\n"

/** Finds server, key and authority; connects to nothing yet. LORICA_EINVAL for a server that is not
 * an https:// address. A missing key is no error here: the server says so when it wants one.
 * On success the caller owns *ret; destroy it. */
int lorica_client_create(const struct lorica_client_options *options, struct lorica_client **ret,
                         struct lorica_error *err) LORICA_MUSTCHECK;
/** Closes. NULL is accepted. */
void lorica_client_destroy(struct lorica_client *client);
/** Address of the server, without a slash at the end. Borrowed from the client. */
const char *lorica_client_server(const struct lorica_client *client);

/** One request. All borrowed during the call. */
struct lorica_client_request {
    const char *method;   /**< NULL: GET */
    const char *path;     /**< "/v1/...", already escaped (lorica_http_escape) */
    const char *body;     /**< JSON, or NULL */
    size_t body_len;      /**< bytes of it */
    const char *if_match; /**< the epoch that If-Match carries, or NULL */
    bool receipt;         /**< ask for a receipt of the answer */
};

/** Makes a request whose answer is JSON. A status of 400 or more becomes an error: the code is that
 * of the status (lorica_err_http_status backwards), the sentence is the server's. A server that is
 * not there, a certificate that is not trusted: LORICA_EIO, with what to do. *ret_status (may be
 * NULL) is set on success only. *ret (may be NULL) is NULL for an empty body; the caller frees it
 * with lorica_json_destroy. */
int lorica_client_call(struct lorica_client *client, const struct lorica_client_request *request,
                       int *ret_status, struct lorica_json **ret,
                       struct lorica_error *err) LORICA_MUSTCHECK;

/** The same with the JSON that was written to `body`, which is finished; `what` is named when it is
 * too long: "reason". */
int lorica_client_send(struct lorica_client *client, const struct lorica_client_request *request,
                       struct lorica_buf *body, const char *what, struct lorica_json **ret,
                       struct lorica_error *err) LORICA_MUSTCHECK;

/** Called for each item of a list, borrowed during the call. */
typedef void (*lorica_client_item_fn)(void *arg, const struct lorica_json *item);

/** Walks a list object of the API, page by page: `cursor` is the member of an item that the next
 * page begins after ("name", "seq") where the page itself does not tell; NULL for a list that comes
 * whole. `path` may have a query. */
int lorica_client_list(struct lorica_client *client, const char *path, const char *cursor,
                       lorica_client_item_fn fn, void *arg,
                       struct lorica_error *err) LORICA_MUSTCHECK;

/** What goes along with an adapter that is published; NULL: nothing. */
struct lorica_client_words {
    const char *channel, *message;
    const char *signature; /**< its text */
    bool other_base;       /**< it was trained on another base than the server's */
};

/** Uploads DIR/adapter_config.json and DIR/adapter_model.safetensors (streamed from the files) as a
 * version of `name`, with the digest of the weights; DIR/manifest.json goes along where it exists.
 * *ret is the version object of api.h (caller frees with lorica_json_destroy); *ret_existing: the
 * same content was there already. */
int lorica_client_publish(struct lorica_client *client, const char *name, const char *dir,
                          const struct lorica_client_words *words, struct lorica_json **ret,
                          bool *ret_existing, struct lorica_error *err) LORICA_MUSTCHECK;

/** Resolves NAME, NAME@V or NAME:CHANNEL to its version object (NAME: the channel `stable`, and
 * where that points nowhere yet LORICA_ENOTFOUND). Caller frees *ret with lorica_json_destroy. */
int lorica_client_resolve(struct lorica_client *client, const char *reference,
                          struct lorica_json **ret, struct lorica_error *err) LORICA_MUSTCHECK;

/** Downloads the two files of a version (an object of lorica_client_resolve) into DIR, which is
 * made when absent and must not hold them already; digests are checked, and nothing half-written is
 * left. */
int lorica_client_export(struct lorica_client *client, const struct lorica_json *version,
                         const char *dir, struct lorica_error *err) LORICA_MUSTCHECK;

/** Takes the next piece of a download; a non-zero return, with `err` filled, ends it. */
typedef int (*lorica_client_write_fn)(void *arg, const void *bytes, size_t len,
                                      struct lorica_error *err);

/** Gets what a path holds, as it comes; `fn` has had some of it when this fails. */
int lorica_client_download(struct lorica_client *client, const char *path,
                           lorica_client_write_fn fn, void *arg,
                           struct lorica_error *err) LORICA_MUSTCHECK;

/** Called for each data line of a stream; a non-zero return ends it and is returned. */
typedef int (*lorica_client_data_fn)(void *arg, const char *data, size_t len);

/** Posts and reads the server-sent events of the answer. `answered` (may be NULL) receives the
 * header `lorica-adapter`, NUL-terminated, or "". An error within the stream is an error here; so
 * is one that ends before its "[DONE]", which is not given to `fn`. */
int lorica_client_stream(struct lorica_client *client, const struct lorica_client_request *request,
                         lorica_client_data_fn fn, void *arg, char *answered, size_t answered_size,
                         struct lorica_error *err) LORICA_MUSTCHECK;

#endif
