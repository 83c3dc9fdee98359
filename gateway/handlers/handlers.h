/* SPDX-License-Identifier: MIT
 * The handlers that routes.c lists. Each fills the request's response, or fails the request. */
#ifndef LORICA_GATEWAY_HANDLERS_HANDLERS_H
#define LORICA_GATEWAY_HANDLERS_HANDLERS_H

#include "gateway/server/request.h"
#include "gateway/server/upload.h"
#include "runtime/adapter.h"

int lorica_handle_livez(struct lorica_request *request);
int lorica_handle_readyz(struct lorica_request *request);
int lorica_handle_metrics(struct lorica_request *request);

int lorica_handle_models(struct lorica_request *request);
int lorica_handle_model(struct lorica_request *request);

/* Data plane: the first half prepares on a worker, generate.h has the second. */
int lorica_handle_chat(struct lorica_request *request);
int lorica_handle_completion(struct lorica_request *request);

int lorica_handle_adapters(struct lorica_request *request);
int lorica_handle_adapter(struct lorica_request *request);
int lorica_handle_versions(struct lorica_request *request);
int lorica_handle_version(struct lorica_request *request);
int lorica_handle_version_config(struct lorica_request *request);
int lorica_handle_version_weights(struct lorica_request *request);
int lorica_handle_version_manifest(struct lorica_request *request);
int lorica_handle_channels(struct lorica_request *request);
int lorica_handle_channel(struct lorica_request *request);

/* Publishing: judged on a worker, then written by the writer. */
extern const struct lorica_upload_form lorica_publish_form;
int lorica_handle_publish_check(struct lorica_request *request);
int lorica_handle_publish_write(struct lorica_request *request);
int lorica_handle_promote_check(struct lorica_request *request);
int lorica_handle_promote(struct lorica_request *request);
int lorica_handle_rollback(struct lorica_request *request);

/* What a channel demands of a promote, and who approved of one. */
int lorica_handle_policy(struct lorica_request *request);
int lorica_handle_policy_set(struct lorica_request *request);
int lorica_handle_approvals(struct lorica_request *request);
int lorica_handle_approve(struct lorica_request *request);

/* The share of stable's traffic that goes to a canary. */
int lorica_handle_split(struct lorica_request *request);
int lorica_handle_split_check(struct lorica_request *request);
int lorica_handle_split_set(struct lorica_request *request);
int lorica_handle_split_end(struct lorica_request *request);

/* Versions out of service. */
int lorica_handle_delete(struct lorica_request *request);
int lorica_handle_undelete(struct lorica_request *request);
int lorica_handle_retention(struct lorica_request *request);
int lorica_handle_retention_set(struct lorica_request *request);
/* One step of a sweep. */
int lorica_handle_sweep(struct lorica_request *request);

int lorica_handle_history(struct lorica_request *request);
int lorica_handle_audit(struct lorica_request *request);
int lorica_handle_checkpoint(struct lorica_request *request);

/* What a backup is made of. */
int lorica_handle_backup_snapshot(struct lorica_request *request);
int lorica_handle_backup_content(struct lorica_request *request);

/* Files to train on. */
extern const struct lorica_upload_form lorica_training_file_form;
int lorica_handle_file_create(struct lorica_request *request);
int lorica_handle_files(struct lorica_request *request);
int lorica_handle_file(struct lorica_request *request);
int lorica_handle_file_content(struct lorica_request *request);
int lorica_handle_file_delete(struct lorica_request *request);

/* Signatures of a version, and who is trusted to make them. */
int lorica_handle_signatures(struct lorica_request *request);
int lorica_handle_receipt_key(struct lorica_request *request);
int lorica_handle_signers(struct lorica_request *request);
int lorica_handle_signer_add(struct lorica_request *request);
int lorica_handle_signer_remove(struct lorica_request *request);

int lorica_handle_keys(struct lorica_request *request);
int lorica_handle_key_create(struct lorica_request *request);
int lorica_handle_key_revoke(struct lorica_request *request);

/* Fine-tuning jobs (jobs.h). Making one is judged on the judge's thread. */
int lorica_handle_job_create(struct lorica_request *request);
int lorica_handle_jobs(struct lorica_request *request);
int lorica_handle_job(struct lorica_request *request);
int lorica_handle_job_cancel(struct lorica_request *request);
int lorica_handle_job_pause(struct lorica_request *request);
int lorica_handle_job_resume(struct lorica_request *request);
int lorica_handle_job_checkpoints(struct lorica_request *request);
int lorica_handle_job_events(struct lorica_request *request);
/** Sends the list of events that the handler made, or streams them. Loop thread. */
void lorica_job_events_follow(struct lorica_request *request);

/* What handlers share (handler_adapters.c). Each fails the request when it returns an error. */

/** The first name of the path is that of an adapter. */
int lorica_handler_known_adapter(struct lorica_request *request) LORICA_MUSTCHECK;
/** Answers with content of the registry, read as it goes out (handler_backup.c). `checked`: one
 * that proves at its end not to have its digest is cut off before it is whole. */
int lorica_handler_content(struct lorica_request *request, const struct lorica_digest *digest,
                           bool checked) LORICA_MUSTCHECK;
/** And the second may be that of a channel. */
int lorica_handler_known_channel(struct lorica_request *request) LORICA_MUSTCHECK;
/** The second part of the path is the number of a version. */
int lorica_handler_version_number(struct lorica_request *request, uint64_t *ret) LORICA_MUSTCHECK;
/** The epoch in If-Match: one strong entity tag. */
int lorica_handler_epoch(struct lorica_request *request, uint64_t *ret) LORICA_MUSTCHECK;
/** Prepares the checks of a channel for the version that the body names (checks.h). */
int lorica_handler_check_version(struct lorica_request *request,
                                 const char *channel) LORICA_MUSTCHECK;
/** A version's adapter in fast form, from the cache or else loaded; a reference (handler_chat.c).
 */
int lorica_handler_adapter(struct lorica_request *request, const struct lorica_version *version,
                           struct lorica_adapter **ret) LORICA_MUSTCHECK;
/** An optional text member of a body, at most LORICA_MESSAGE_MAX bytes; *ret, borrowed from the
 * JSON, stays as it is where there is none. */
int lorica_handler_text(struct lorica_request *request, const struct lorica_json *root,
                        const char *name, const char **ret) LORICA_MUSTCHECK;
/** A body with no other `members` than those, of which `why` is such a text. *ret_root is borrowed
 * from the request. */
int lorica_handler_body(struct lorica_request *request, const char *const *members, const char *why,
                        const char **ret_why, const struct lorica_json **ret_root) LORICA_MUSTCHECK;
/** The version that a body names. */
int lorica_handler_named_version(struct lorica_request *request, const struct lorica_json *root,
                                 uint64_t *ret) LORICA_MUSTCHECK;
/** The text of a body that says why and nothing else, {"reason": TEXT}, and that may be absent. */
int lorica_handler_reason(struct lorica_request *request, const char **ret) LORICA_MUSTCHECK;

#endif
