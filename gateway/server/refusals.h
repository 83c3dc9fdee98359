/* SPDX-License-Identifier: MIT
 * Refused attempts at changes, on their way into the audit chain.
 *
 * An attempt is refused when a key asks for a change (a route with a `change` word) that its role
 * or its adapters do not allow (403), that was revoked while the request was under way (401), that
 * a gate, a policy, a signature, another base or what is in use forbids (409), whose epoch is stale
 * (412), or whose adapter does not fit the base ("invalid_adapter") or is not what its publisher
 * says it is ("digest_mismatch"). What is malformed, names nothing, or fails for want of room is
 * none. Each is one record of kind "refused", made before the attempt is answered.
 *
 * So that no key can fill the disk, each has a bucket of LORICA_REFUSALS_BURST records that gains
 * one every LORICA_REFUSALS_EVERY_MS. What comes while it is empty is counted, and told by one
 * summarising record as soon as the bucket allows for it, and at the server's end. Attempts without
 * a valid key are counted in the metrics only. All on the loop thread. */
#ifndef LORICA_GATEWAY_SERVER_REFUSALS_H
#define LORICA_GATEWAY_SERVER_REFUSALS_H

#include <uv.h>

#include "gateway/server/request.h"

#define LORICA_REFUSALS_BURST 100
#define LORICA_REFUSALS_EVERY_MS 30000

struct lorica_refusals;

/** Starts; uses the server's loop and writer. */
int lorica_refusals_create(struct lorica_server *server, struct lorica_refusals **ret,
                           struct lorica_error *err) LORICA_MUSTCHECK;
/** Has the writer record what was only counted; before the writer is destroyed. NULL is accepted.
 */
void lorica_refusals_flush(struct lorica_refusals *refusals);
/** Frees, when the loop has closed its handles. NULL is accepted. */
void lorica_refusals_destroy(struct lorica_refusals *refusals);

/** Whether a request that failed is such an attempt; counts it. */
bool lorica_refusals_is_one(struct lorica_request *request);
/** Takes a record out of the bucket of the request's key; false: it was counted instead. */
bool lorica_refusals_take(struct lorica_refusals *refusals, const struct lorica_request *request);
/** Gives it back as counted, since it could not be recorded. */
void lorica_refusals_missed(struct lorica_refusals *refusals, const struct lorica_request *request);
/** Records the request's refusal. Writer thread. */
int lorica_refusals_record(struct lorica_request *request,
                           struct lorica_error *err) LORICA_MUSTCHECK;

/* The bucket, apart from the server: */

struct lorica_refusal_bucket {
    char key_name[LORICA_NAME_MAX + 1];
    double tokens;
    uint64_t filled_ms;        /**< when `tokens` was right */
    uint64_t missed;           /**< attempts that were only counted */
    int64_t first_ms, last_ms; /**< Unix times of the first and the last of them */
};

/** A full bucket. */
void lorica_refusal_bucket_init(struct lorica_refusal_bucket *bucket, const char *key_name,
                                uint64_t now_ms);
/** Takes a token, unless some are missed: they come first. `unix_ms`: the time of day. */
bool lorica_refusal_bucket_take(struct lorica_refusal_bucket *bucket, uint64_t now_ms,
                                int64_t unix_ms);
/** Takes a token for the summary of what was missed; false: nothing was, or there is none. */
bool lorica_refusal_bucket_summary(struct lorica_refusal_bucket *bucket, uint64_t now_ms);
/** True when the bucket is as a new one: it may be forgotten. */
bool lorica_refusal_bucket_idle(struct lorica_refusal_bucket *bucket, uint64_t now_ms);

#endif
