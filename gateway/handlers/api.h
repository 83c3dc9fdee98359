/* SPDX-License-Identifier: MIT
 * The objects of the control plane as they stand in JSON: the server writes them with the functions
 * here, the command line reads them. Times are Unix seconds, digests "sha256:<64 hex digits>".
 *
 * adapter version
 *   {"object":"adapter.version","name","version","digest","config_digest","weights_digest",
 *    "base_digest","base_stated":bool,"trained_on_other_base":bool,
 *    "trained_base_digest":digest or null,"rank","created","created_by","message",
 *    "config_bytes","weights_bytes","manifest_bytes","manifest_digest":digest or null,
 *    "deleted":seconds or null,"deleted_by":name or null,"swept":bool}
 *   deleted: it answers no more; swept: and its content is gone for good
 * channel
 *   {"object":"adapter.channel","name","channel","version","epoch","moved","moved_by"}
 *   version 0: points nowhere (epoch 0: never moved; moved 0, moved_by "")
 * adapter
 *   {"object":"adapter","name","latest","channels":[channel...],"retention_days",
 *    "deleted":[number...]}
 *   deleted: the versions that can be taken back
 * audit record
 *   {"object":"audit","seq","kind","time","time_ms","actor","name","channel","version","previous",
 *    "epoch","before","digest","message","detail"?,"hash"}
 *   epoch, before: as registry.h says, where the hash is explained
 *   detail: an object of what the kind needs besides; of a policy {"before","after"}; of a refused
 *   attempt {"attempt":"promote",...,"status","code","subject"?}, the message being why; of several
 *   that were only counted {"refused":count,"from","to"} (gateway/server/refusals.h)
 * policy of a channel
 *   {"object":"adapter.policy","name","channel","epoch","changed","changed_by",
 *    "policy":{"approvals","min_role","max_rank","max_bytes","eval_set","max_worse",
 *    "signed":bool}}
 *   epoch 0: never set; 0, "infer" and null demand nothing
 * retention of an adapter
 *   {"object":"adapter.retention","name","days","default":bool}
 * approval
 *   {"object":"adapter.approval","name","channel","version","epoch","given","given_by","message"}
 * split of an adapter
 *   {"object":"adapter.split","name","version","percent","window","min_requests","max_error_excess",
 *    "max_latency_ratio","stable","epoch","changed","changed_by","started"}
 *   version 0: there is none (percent and started 0; epoch 0: never was one); `percent` of the
 *   requests for what `stable` points to, the version "stable", go to the canary, "version".
 *   Of the requests of the last `window` seconds, at least min_requests on each side (on the
 *   canary's, where it gets all: then only failures are judged, by themselves): the split is
 *   ended by "auto" once max_error_excess percent more of them fail at the canary than at stable,
 *   or its median time to the first token, or for each further one, is over max_latency_ratio
 *   times stable's (0: never for that)
 * key
 *   {"object":"key","name","role","adapters":[glob...],"created","revoked":seconds or null}
 *   and "key":"lk_..." in the answer to its creation, never again
 * signature of a version
 *   {"object":"adapter.signature","key_id":DIGEST,"form":"statement" or "bundle","bound":bool,
 *    "signer":name or null,"trusted":bool,"added","added_by","signature":{...}}
 *   signature: as it was given (proto/envelope.h, proto/model_signing.h); signer: who is trusted
 *   with the key now; bound: it names the adapter, without which no policy counts it
 * signer
 *   {"object":"signer","name","key_id","algorithm","public_key":PEM,"added","added_by",
 *    "removed":seconds or null,"removed_by":name or null}
 * list
 *   {"object":"list","data":[...],"has_more":bool}
 * file to train on, as OpenAI's
 *   {"object":"file","id","bytes","created_at","expires_at":null,"filename","purpose",
 *    "status":"processed","status_details":null}
 * error
 *   {"error":{"message","type","param","code"}}
 *
 * GET    /v1/adapters                                  list of adapter  ?after=NAME&limit=N
 * GET    /v1/adapters/{name}                           adapter
 * GET    /v1/adapters/{name}/versions                  list of version, ascending
 * GET    /v1/adapters/{name}/versions/{v}              version
 * DELETE /v1/adapters/{name}/versions/{v}              {"reason"?} -> version, deleted; 409 while a
 *                                                      channel or split holds it, or a request
 *                                                      under way is answered with it
 * POST   /v1/adapters/{name}/versions/{v}/undelete     {"reason"?} -> version
 * GET    /v1/adapters/{name}/retention                 retention
 * PUT    /v1/adapters/{name}/retention                 {"days":30,"reason"?} -> retention
 * GET    /v1/adapters/{name}/versions/{v}/adapter_config.json, .../adapter_model.safetensors,
 *                                                      .../manifest.json (404 where it has none)
 * POST   /v1/adapters/{name}/versions                  multipart -> 201 or 200 (existing): version
 *        parts: config, weights, and optional manifest, channel, message, signature (an envelope
 *        or a bundle; 409 "invalid_signature" unless it holds), weights_digest (refused with
 *        "digest_mismatch" where the weights that came have another),
 *        trained_on_other_base ("true": takes an adapter whose config says that it was trained on
 *        another base, and records so; also for one whose config does not say it)
 * GET    /v1/adapters/{name}/versions/{v}/signatures   list of signature
 * GET    /v1/adapters/{name}/channels                  list of channel
 * GET    /v1/adapters/{name}/channels/{channel}        channel; never moved: version 0, epoch 0.
 *                                                      ETag: "<epoch>"
 * PUT    /v1/adapters/{name}/channels/{channel}        {"version":3,"message"?} with
 *                                                      If-Match: "<epoch>" -> channel
 * POST   /v1/adapters/{name}/channels/{channel}/rollback   {"reason"?} -> channel
 * GET    /v1/adapters/{name}/channels/{channel}/policy     policy. ETag: "<epoch of the policy>"
 * PUT    /v1/adapters/{name}/channels/{channel}/policy     {"approvals"?,"min_role"?,"max_rank"?,
 *                                                      "max_bytes"?,"eval_set"?,"max_worse"?,"signed"?,
 *                                                      "message"?} with If-Match -> policy; what
 *                                                      is left out is not demanded any more
 * GET    /v1/adapters/{name}/channels/{channel}/approvals  list of approval
 * POST   /v1/adapters/{name}/channels/{channel}/approvals  {"version":3,"reason"?} -> approval
 * GET    /v1/adapters/{name}/split                    split. ETag: "<epoch of the split>"
 * PUT    /v1/adapters/{name}/split                     {"version":3,"percent":5,"window"?,
 *                                                      "min_requests"?,"max_error_excess"?,
 *                                                      "max_latency_ratio"?,"message"?} with
 *                                                      If-Match -> split; percent: 0.01 to 100 in
 *                                                      steps of 0.01; otherwise 300 s, 50
 *                                                      requests, 2 percent, 1.5
 * DELETE /v1/adapters/{name}/split                     {"reason"?} with If-Match -> split
 * POST   /v1/sweep                                     one step: {"object":"sweep","versions",
 *                                                      "contents","bytes","has_more"}; repeat while
 *                                                      has_more
 * GET    /v1/adapters/{name}/history                   list of audit, see below
 * GET    /v1/audit                                     list of audit, see below
 * GET    /v1/backup/snapshot                           bytes: all records of one moment, as
 *                                                      registry/backup.h describes them
 * GET    /v1/backup/contents/{digest}                  bytes of content that a snapshot names; 404
 *                                                      once it was swept
 * GET    /v1/audit/checkpoint                          an envelope around what
 *                                                      registry/checkpoint.h describes
 * POST   /v1/files                                     multipart -> file; parts: file, with its
 *                                                      filename, and purpose, "fine-tune"
 * GET    /v1/files                                     list of file, with "first_id", "last_id";
 *                                                      ?purpose=P&order=asc|desc&after=ID&limit=N,
 *                                                      10,000 without; newest first without order
 * GET    /v1/files/{id}                                file; a key sees its own, ops and admin all;
 *                                                      "status":"error" where what is known of it
 *                                                      is damaged
 * GET    /v1/files/{id}/content                        bytes
 * DELETE /v1/files/{id}                                {"id","object":"file","deleted":true}; a
 *                                                      job goes on with what it began with
 * POST   /v1/keys                                      {"name","role","adapters":[...]?} -> 201 key
 * GET    /v1/keys                                      list of key
 * POST   /v1/fine_tuning/jobs                          {"model","training_file","suffix",
 *                                                      "validation_file"?,"method"? or
 *                                                      "hyperparameters"?,"seed"?,"metadata"?,
 *                                                      "lorica":{"rank","alpha","max_length"}?}
 *                                                      -> job, as OpenAI's; suffix is the adapter's
 *                                                      name. 400 names the file and line of
 * examples that are bad: they are read here, so that no job is ever "validating_files". 429: too
 * many jobs GET    /v1/fine_tuning/jobs                          list of job, the newest first
 *                                                      ?after=ID&limit=N&metadata[KEY]=VALUE
 * GET    /v1/fine_tuning/jobs/{id}                     job; once it succeeded, "result_files" has
 *                                                      the id of a CSV file of its updates' figures
 * POST   /v1/fine_tuning/jobs/{id}/cancel, .../pause, .../resume
 *                                                      job; 400 where it is over or so already, 409
 *                                                      while it is published
 * GET    /v1/fine_tuning/jobs/{id}/events              list of event, the newest first
 *                                                      ?after=ID&limit=N; with stream=true
 *                                                      server-sent events, from the first on, until
 *                                                      the job is over
 * GET    /v1/fine_tuning/jobs/{id}/checkpoints         list of what was published: one, or
 *                                                      none yet; with "first_id", "last_id"
 * GET    /v1/receipts/key                              {"object":"receipt.key","key_id",
 *                                                      "algorithm","public_key":PEM}: what verifies
 *                                                      receipts. A chat or completion with the
 *                                                      header "lorica-receipt: true" is answered
 *                                                      with the envelope of a receipt
 *                                                      (proto/receipt.h) in the header
 *                                                      lorica-receipt, or, streamed, as the member
 *                                                      "lorica_receipt" of a chunk without choices
 *                                                      behind the last token
 * GET    /v1/signers                                   list of signer
 * POST   /v1/signers                                   {"name","public_key":PEM,"message"?} -> 201
 *                                                      signer
 * DELETE /v1/signers/{name}                            signer, removed
 * DELETE /v1/keys/{name}                               key, revoked
 *
 * A promote, or a publish that names a channel, which the channel's policy does not let pass is a
 * 409 with the code "policy_not_met" and the figures (403 where the key's role does not suffice). A
 * rollback asks for no approval and passes no gate.
 *
 * Lists of audit records take after=SEQ, before=SEQ (both exclusive), limit=N, order=asc|desc,
 * actor=KEY, kind=KIND, since=TIME (inclusive), until=TIME (exclusive), and /v1/audit adapter=NAME.
 * A TIME is one of RFC 3339 ("2026-03-01T09:30:00Z"), a date, or Unix milliseconds. For one request
 * no more than 5000 records are looked at: a page may hold few items, or none, and yet say that
 * there is more, with "next":{"after":SEQ} (order=desc: {"before":SEQ}) where to go on.
 *
 * A list without `limit` holds up to 1000 items; has_more says that there are more behind the last.
 */
#ifndef LORICA_GATEWAY_HANDLERS_API_H
#define LORICA_GATEWAY_HANDLERS_API_H

#include <stddef.h>

#include "proto/json.h"
#include "registry/registry.h"

/** Items of a list where no limit is given, and the largest limit. */
#define LORICA_API_LIST_DEFAULT 1000
#define LORICA_API_LIST_MAX 1000

/** Each writes one object; `key` is NULL at the root and in arrays. */
void lorica_api_write_version(struct lorica_jsonw *w, const char *key,
                              const struct lorica_version *version);
void lorica_api_write_channel(struct lorica_jsonw *w, const char *key, const char *name,
                              const struct lorica_channel *channel);
void lorica_api_write_audit(struct lorica_jsonw *w, const char *key,
                            const struct lorica_audit *record);
/** `text`: the secret, at creation only; NULL otherwise. */
void lorica_api_write_key(struct lorica_jsonw *w, const char *key, const struct lorica_key *record,
                          const char *text);

/** Opens {"object":"list","data":[ ... */
void lorica_api_open_list(struct lorica_jsonw *w);
/** ... and closes it: ],"has_more":...}. */
void lorica_api_close_list(struct lorica_jsonw *w, bool has_more);
/** Closes a page of which the next begins at a number that its last item need not tell:
 * ],"has_more":true,"next":{"after":7}}; without `next` where there is no more. */
void lorica_api_close_page(struct lorica_jsonw *w, bool has_more, const char *parameter,
                           uint64_t number);

#endif
