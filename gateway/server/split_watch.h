/* SPDX-License-Identifier: MIT
 * Watches splits: how both sides of each one fare, and whether the canary is taken off for it.
 *
 * The figures are those of the requests that a split decided since its last change, within its
 * window, of each side the last LORICA_SPLIT_REQUESTS_MAX. Once a second each split that had new
 * requests is judged; one whose canary does worse by its terms is ended by the writer, with the
 * actor "auto" and the figures as the reason. They begin anew when the server starts.
 * Loop thread only. */
#ifndef LORICA_GATEWAY_SERVER_SPLIT_WATCH_H
#define LORICA_GATEWAY_SERVER_SPLIT_WATCH_H

#include "registry/split.h"

/** Who ends a split by its own terms, in the audit; no key has this name. */
#define LORICA_SPLIT_ACTOR "auto"
/** Splits watched at once; above it the one that had no requests for longest is forgotten. */
#define LORICA_SPLIT_WATCHES 64

/** One request that came to its end. */
struct lorica_split_sample {
    uint64_t at_ms; /**< when; any clock that does not go back */
    bool failed;    /**< by no fault of the client or for want of room */
    float first;    /**< seconds to the first token; below 0: none came */
    float each;     /**< seconds for each token behind it; below 0: there was none */
};

/** One side of a split. */
struct lorica_split_figures {
    uint32_t requests, failed;
    uint32_t firsts, eachs;           /**< requests that have such a time */
    double first_median, each_median; /**< seconds; 0 where there are none */
};

/** Sums up the samples not older than `since_ms`. `samples` may be in any order; `scratch` holds
 * count floats. */
struct lorica_split_figures lorica_split_sum(const struct lorica_split_sample *samples,
                                             size_t count, uint64_t since_ms, float *scratch);

/** Whether the canary does worse than its terms allow. Neither side is judged by fewer than
 * min_requests requests, nor by a time that fewer of them have; where the canary gets all, stable
 * has none, and the canary's failures are judged as if none of stable's had failed. On true
 * `reason` says so with the figures. */
bool lorica_split_worse(const struct lorica_split_terms *terms, uint64_t stable_version,
                        const struct lorica_split_figures *stable,
                        const struct lorica_split_figures *canary, char *reason, size_t size);

struct lorica_server;
struct lorica_split_watcher;

/** Starts the clock. On success the caller owns *ret. */
int lorica_split_watcher_create(struct lorica_server *server, struct lorica_split_watcher **ret,
                                struct lorica_error *err) LORICA_MUSTCHECK;
/** Frees. The server's loop has closed the clock and the writer has finished. NULL is accepted. */
void lorica_split_watcher_destroy(struct lorica_split_watcher *watcher);

/** Takes note of a request for `name` that a split decided. */
void lorica_split_note(struct lorica_split_watcher *watcher, const char *name,
                       const struct lorica_split_choice *choice,
                       const struct lorica_split_sample *sample);

#endif
