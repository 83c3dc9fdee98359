/* SPDX-License-Identifier: MIT
 * One request from its head to the end of its answer, and the answer.
 *
 * A request is shared by its connection and by whatever works on it (a pool thread, the writer, the
 * engine): each holds a reference. References are counted on the loop thread only; while a worker
 * or the writer runs `run`, it alone touches the fields marked W. A client that goes away leaves
 * `conn` NULL; the rest runs to its end and its answer is dropped. */
#ifndef LORICA_GATEWAY_SERVER_REQUEST_H
#define LORICA_GATEWAY_SERVER_REQUEST_H

#include <stdatomic.h>
#include <uv.h>

#include "gateway/server/metrics.h"
#include "gateway/server/route.h"
#include "gateway/server/lane.h"
#include "proto/json.h"
#include "registry/registry.h"

struct lorica_conn;
struct lorica_server;
struct lorica_upload;
struct lorica_check_run;

#define LORICA_REQUEST_ID_MAX 128
#define LORICA_BEARER_MAX 256

/** A body that is not held in memory: it is read piece by piece while it is sent. Part of an object
 * of the handler's own. */
struct lorica_body_source {
    uint64_t nbytes; /**< of the whole body */
    /** Reads `len` bytes at `offset`, on a worker; pieces are asked for in order, one at a time. A
     * failure cuts the answer off: the connection closes before the body is whole. */
    int (*read)(struct lorica_body_source *source, uint64_t offset, void *out, size_t len,
                struct lorica_error *err);
    void (*close)(struct lorica_body_source *source); /**< frees it; loop thread */
};
/** Bytes that are read from a source at once. */
#define LORICA_BODY_PIECE ((size_t)256 << 10)

/** The answer. */
struct lorica_response {
    int status;                /**< 0: none yet */
    const char *content_type;  /**< static; NULL: application/json */
    struct lorica_buf headers; /**< further "name: value\r\n" lines */
    struct lorica_buf body;
    void *blob; /**< instead of body, if not NULL: malloc'd, freed with the response */
    size_t blob_len;
    struct lorica_body_source *source; /**< instead of both, if not NULL; owned. `body` then holds
                                          one piece after the other */
    uint64_t source_read;              /**< private: bytes of it that were read */
};

struct lorica_request {
    struct lorica_server *server;
    struct lorica_conn *conn; /**< loop thread only */
    unsigned refs;            /**< private */
    uint64_t started_ns;
    char id[LORICA_REQUEST_ID_MAX + 1];
    enum lorica_method method;
    struct lorica_route_match match;
    char *query;                        /**< owned, without "?"; may be NULL */
    char bearer[LORICA_BEARER_MAX + 1]; /**< wiped once it was checked */
    bool has_bearer;
    char if_match[64];
    bool has_if_match;
    char *content_type; /**< of the body; owned, may be NULL */
    bool wants_receipt; /**< lorica-receipt: true */
    bool odd_receipt;   /**< lorica-receipt: neither true nor false, or several */

    struct lorica_key key;        /**< W: valid when keyed */
    bool keyed;                   /**< W */
    struct lorica_buf body;       /**< JSON; for an upload the bytes that came last */
    struct lorica_json *json;     /**< W: the body, once lorica_request_parse read it */
    struct lorica_buf piece;      /**< W: of an upload: the bytes before, while they are stored */
    uint64_t body_total;          /**< bytes of the body so far */
    struct lorica_upload *upload; /**< W: of an upload route */

    struct lorica_response response;    /**< W */
    struct lorica_error error;          /**< W: set when run failed */
    int error_status;                   /**< W: instead of the code's own; 0: that */
    char error_param[96];               /**< W: the key at fault, or "" */
    const char *error_code;             /**< W: static */
    char error_aside[400];              /**< W: more of it, for the client alone: neither logged nor
                                           recorded */
    struct lorica_check_run *checks;    /**< W: set by `run`: to be run before `write` (checks.h) */
    atomic_bool gone;                   /**< the client went away */
    char adapter[LORICA_NAME_MAX + 32]; /**< W: what answers: "cardiology@3", "base", or "" */

    void *state;                                     /**< W: the handler's own */
    void (*finish)(struct lorica_request *request);  /**< frees `state`; may be NULL */
    void (*on_gone)(struct lorica_request *request); /**< loop: the client went away; may be NULL */

    int run_rc;                      /**< private: what run returned */
    uv_work_t work;                  /**< private */
    struct lorica_lane_job job;      /**< private */
    int store_rc;                    /**< private: what storing a piece returned, */
    const char *store_param;         /**< private: the part at fault, */
    struct lorica_error store_error; /**< private: and why */
    bool storing;                    /**< private: a worker has `piece` */
    bool body_done;                  /**< private: `piece` is an upload's last */
    bool refused;                    /**< private: to be answered once the worker is back */
    bool logged;                     /**< private */
};

/** A new request of a connection whose HTTP head was judged; one reference. NULL: out of memory. */
struct lorica_request *lorica_request_create(struct lorica_conn *conn);
struct lorica_request *lorica_request_ref(struct lorica_request *request);
/** Gives a reference back; the last frees. Loop thread. */
void lorica_request_unref(struct lorica_request *request);

/** A request of the server's own in the name of a key, with the route of method and path: what a
 * handler needs, without client or connection; it is not shared, counted or logged. Any thread.
 * NULL: out of memory. */
struct lorica_request *lorica_request_create_own(struct lorica_server *server,
                                                 enum lorica_method method, const char *path,
                                                 const struct lorica_key *key);
/** Frees it. NULL is accepted. */
void lorica_request_destroy_own(struct lorica_request *request);

/** Writes the log line and counts the request, once. `status` 499: the client went away. */
void lorica_request_log(struct lorica_request *request, int status, const char *why);

/** Sets status 200-299 and begins a JSON body. */
struct lorica_jsonw lorica_request_json(struct lorica_request *request, int status);
/** Adds a header line. `value` holds no control characters. */
void lorica_request_header(struct lorica_request *request, const char *name, const char *value);

/** Fails with a lorica error and returns its code. `param` and `code` (may be NULL) go into the
 * error object. */
int lorica_request_fail(struct lorica_request *request, int rc, const char *param, const char *code,
                        const char *fmt, ...) LORICA_PRINTF(5, 6);
/** Fails likewise with an HTTP status that no lorica error has (405, 415, 429, ...). */
int lorica_request_fail_status(struct lorica_request *request, int status, const char *code,
                               const char *fmt, ...) LORICA_PRINTF(4, 5);
/** Turns the request's error into its response. */
void lorica_request_error_response(struct lorica_request *request);
/** Writes {"error":{...}} for a request's error. Returns the HTTP status. */
int lorica_request_error_json(struct lorica_request *request, struct lorica_buf *out);

/** Parses the body, once, as a JSON object, which the request keeps; else fails the request. */
int lorica_request_parse(struct lorica_request *request,
                         const struct lorica_json **ret) LORICA_MUSTCHECK;
/** Refuses members of an object other than those listed (NULL-terminated). */
int lorica_request_only(struct lorica_request *request, const struct lorica_json *object,
                        const char *const *names) LORICA_MUSTCHECK;
/** Fails with 400 when the query holds a parameter that is none of `names`, which NULL ends: what
 * is misspelt must not be taken for what was meant. */
int lorica_request_query_only(struct lorica_request *request,
                              const char *const *names) LORICA_MUSTCHECK;
/** Reads an optional whole number of the query: digits alone, in [min, max], given once. */
int lorica_request_query_number(struct lorica_request *request, const char *name, long long min,
                                long long max, long long *ret) LORICA_MUSTCHECK;
/** Reads an optional text of the query, of 1 to `size` - 1 bytes, given once, into `text`, to which
 * *ret then points; where it is absent *ret stays as it is. */
int lorica_request_query_text(struct lorica_request *request, const char *name, char *text,
                              size_t size, const char **ret) LORICA_MUSTCHECK;

#endif
