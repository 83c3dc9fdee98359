/* SPDX-License-Identifier: MIT
 * The table of routes: which method and path lead to which handler, who may use it, and what kind
 * of body it takes. */
#ifndef LORICA_GATEWAY_SERVER_ROUTE_H
#define LORICA_GATEWAY_SERVER_ROUTE_H

#include <stdbool.h>
#include <stddef.h>

#include "gateway/server/http.h"
#include "registry/registry.h"

struct lorica_request;
struct lorica_upload_form;

/** Where a handler's `run` runs. */
enum lorica_where {
    LORICA_ON_LOOP,   /**< at once, on the loop thread: reads counters only */
    LORICA_ON_WORKER, /**< on a thread of the pool: may read the registry and compute */
    LORICA_ON_JUDGE, /**< on the judge's thread: computes for long, gives way to those who answer */
    LORICA_ON_WRITER, /**< on the writer thread: may change the registry */
};

enum lorica_body_kind {
    LORICA_BODY_NONE,   /**< a body is refused */
    LORICA_BODY_JSON,   /**< collected in memory, LORICA_JSON_BODY_MAX at most */
    LORICA_BODY_UPLOAD, /**< multipart, one part of it streamed to a file */
};

/** Largest JSON body. */
#define LORICA_JSON_BODY_MAX ((size_t)1 << 20)
/** Parts of a path that a pattern leaves open, at most. */
#define LORICA_ROUTE_PARAMS 3
/** Longest such part, decoded. */
#define LORICA_ROUTE_PARAM_MAX 300

struct lorica_route {
    enum lorica_method method;
    const char *pattern; /**< "/v1/adapters/{}/versions/{}": {} stands for one part */
    bool open;           /**< no key is needed */
    enum lorica_role role;
    enum lorica_body_kind body;
    const struct lorica_upload_form *form; /**< of an upload: its parts (upload.h) */
    const char *change;       /**< what it changes: a refused attempt goes into the audit
                                   chain by this word (refusals.h); NULL: nothing */
    const char *const *query; /**< parameters that the query may hold, as
                                   lorica_http_query_unknown reads them; NULL: none */
    enum lorica_where where;
    bool in_turn; /**< waits its turn on the writer's thread, not run between another's parts
                   * (lane.h): it takes long, or takes back what another was allowed to do */
    /** Fills the response or returns a lorica error with the request's error set. Also runs for a
     * client that has gone, whose response is then dropped. */
    int (*run)(struct lorica_request *request);
    /** If not NULL: runs on the writer thread after `run` returned 0. */
    int (*write)(struct lorica_request *request);
    /** If not NULL: runs on the loop thread after those returned 0, and answers by itself. */
    void (*after)(struct lorica_request *request);
};

/** All routes, in the order in which they are tried; *ret_count of them. */
const struct lorica_route *lorica_routes(size_t *ret_count);

/** What a path came to. */
struct lorica_route_match {
    const struct lorica_route *route; /**< NULL: none */
    bool path_known;                  /**< without route: another method would have one */
    char allow[64];                   /**< without route: those methods, for the Allow header */
    char params[LORICA_ROUTE_PARAMS][LORICA_ROUTE_PARAM_MAX + 1]; /**< percent-decoded */
};

/** Finds the route of a method and a path (no query). HEAD finds GET's. LORICA_EINVAL for a path
 * whose open part is too long or is not what lorica_http_decode takes. */
int lorica_route_find(const struct lorica_route *routes, size_t count, enum lorica_method method,
                      const char *path, size_t len,
                      struct lorica_route_match *ret) LORICA_MUSTCHECK;

#endif
