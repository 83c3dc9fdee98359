/* SPDX-License-Identifier: MIT
 * What /metrics shows. Counted on the loop thread only, so nothing here locks. */
#ifndef LORICA_GATEWAY_SERVER_METRICS_H
#define LORICA_GATEWAY_SERVER_METRICS_H

#include <stddef.h>
#include <stdint.h>

#include "proto/buf.h"

struct lorica_server;

#define LORICA_METRICS_BUCKETS 14
/** Different adapter versions that have a line of their own; the rest counts as "other". */
#define LORICA_METRICS_ADAPTERS 200
/** Different (route, status) pairs. */
#define LORICA_METRICS_ROUTES 256

struct lorica_histogram {
    uint64_t buckets[LORICA_METRICS_BUCKETS + 1]; /**< not cumulative; the last: above all */
    double sum;
    uint64_t count;
};

struct lorica_metrics {
    struct lorica_metrics_route {
        const char *route; /**< pattern, static storage */
        int status;
        uint64_t count;
    } routes[LORICA_METRICS_ROUTES];
    size_t route_count;
    struct lorica_histogram duration, first_token;
    struct lorica_metrics_adapter {
        char name[160];
        uint64_t prompt_tokens, completion_tokens, requests, errors;
    } adapters[LORICA_METRICS_ADAPTERS + 1]; /**< the last: "other" */
    size_t adapter_count;
    uint64_t connections_total, handshake_failures, cancelled, slow_readers;
    uint64_t bytes_in, bytes_out;
    uint64_t refused, unauthenticated; /**< attempts at changes (refusals.h) */
};

void lorica_metrics_request(struct lorica_metrics *metrics, const char *route, int status,
                            double seconds);
void lorica_metrics_first_token(struct lorica_metrics *metrics, double seconds);
/** Counts one request and its tokens for what answered ("cardiology@3" or "base"). */
void lorica_metrics_tokens(struct lorica_metrics *metrics, const char *adapter, uint64_t prompt,
                           uint64_t completion);
/** Counts that one of these requests failed, and not for want of room or of the client. */
void lorica_metrics_failed(struct lorica_metrics *metrics, const char *adapter);
/** Writes the Prometheus text of a server. Loop thread. */
void lorica_metrics_write(struct lorica_server *server, struct lorica_buf *out);

#endif
