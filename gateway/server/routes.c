/* SPDX-License-Identifier: MIT
 * All routes of the API. */
#include "gateway/handlers/generate.h"
#include "gateway/handlers/handlers.h"
#include "gateway/server/route.h"

#define GET LORICA_METHOD_GET
#define POST LORICA_METHOD_POST
#define PUT LORICA_METHOD_PUT
#define DELETE LORICA_METHOD_DELETE
#define INFER .role = LORICA_ROLE_INFER
#define PUBLISH .role = LORICA_ROLE_PUBLISH
#define OPS .role = LORICA_ROLE_OPS
#define ADMIN .role = LORICA_ROLE_ADMIN
#define OPEN .open = true
#define JSON .body = LORICA_BODY_JSON
#define UPLOAD(parts) .body = LORICA_BODY_UPLOAD, .form = &(parts)
#define CHANGE(word) .change = word
#define QUERY(...)                                                                                 \
    .query = (const char *const[]) { __VA_ARGS__, NULL }
#define PAGES QUERY("limit", "after")
/* What the chain is asked for, and an adapter's part of it. */
#define RECORDS "limit", "after", "before", "order", "actor", "kind", "since", "until"
#define LOOP .where = LORICA_ON_LOOP
#define WORKER .where = LORICA_ON_WORKER
#define JUDGE .where = LORICA_ON_JUDGE
#define WRITER .where = LORICA_ON_WRITER

static const struct lorica_route routes[] = {
    {GET, "/livez", OPEN, LOOP, .run = lorica_handle_livez},
    {GET, "/readyz", OPEN, LOOP, .run = lorica_handle_readyz},
    {GET, "/metrics", INFER, LOOP, .run = lorica_handle_metrics},
    {GET, "/v1/models", INFER, WORKER, .run = lorica_handle_models},
    {GET, "/v1/models/{}", INFER, WORKER, .run = lorica_handle_model},
    {POST, "/v1/chat/completions", INFER, JSON, WORKER, .run = lorica_handle_chat,
     .after = lorica_generate_start},
    {POST, "/v1/completions", INFER, JSON, WORKER, .run = lorica_handle_completion,
     .after = lorica_generate_start},
    {GET, "/v1/adapters", PAGES, PUBLISH, WORKER, .run = lorica_handle_adapters},
    {GET, "/v1/adapters/{}", PUBLISH, WORKER, .run = lorica_handle_adapter},
    {GET, "/v1/adapters/{}/versions", PUBLISH, WORKER, .run = lorica_handle_versions},
    {POST, "/v1/adapters/{}/versions", CHANGE("publish"), PUBLISH, UPLOAD(lorica_publish_form),
     JUDGE, .in_turn = true, .run = lorica_handle_publish_check,
     .write = lorica_handle_publish_write},
    {GET, "/v1/adapters/{}/versions/{}", PUBLISH, WORKER, .run = lorica_handle_version},
    {DELETE, "/v1/adapters/{}/versions/{}", CHANGE("delete"), OPS, JSON, WRITER,
     .run = lorica_handle_delete},
    {POST, "/v1/adapters/{}/versions/{}/undelete", CHANGE("undelete"), OPS, JSON, WRITER,
     .run = lorica_handle_undelete},
    {GET, "/v1/adapters/{}/versions/{}/adapter_config.json", PUBLISH, WORKER,
     .run = lorica_handle_version_config},
    {GET, "/v1/adapters/{}/versions/{}/adapter_model.safetensors", PUBLISH, WORKER,
     .run = lorica_handle_version_weights},
    {GET, "/v1/adapters/{}/versions/{}/manifest.json", PUBLISH, WORKER,
     .run = lorica_handle_version_manifest},
    {GET, "/v1/adapters/{}/versions/{}/signatures", PUBLISH, WORKER,
     .run = lorica_handle_signatures},
    {GET, "/v1/adapters/{}/channels", PUBLISH, WORKER, .run = lorica_handle_channels},
    {GET, "/v1/adapters/{}/channels/{}", PUBLISH, WORKER, .run = lorica_handle_channel},
    {PUT, "/v1/adapters/{}/channels/{}", CHANGE("promote"), OPS, JSON, WORKER,
     .run = lorica_handle_promote_check, .write = lorica_handle_promote},
    {POST, "/v1/adapters/{}/channels/{}/rollback", CHANGE("rollback"), OPS, JSON, WRITER,
     .run = lorica_handle_rollback},
    {GET, "/v1/adapters/{}/channels/{}/policy", PUBLISH, WORKER, .run = lorica_handle_policy},
    {PUT, "/v1/adapters/{}/channels/{}/policy", CHANGE("policy"), ADMIN, JSON, WRITER,
     .run = lorica_handle_policy_set},
    {GET, "/v1/adapters/{}/channels/{}/approvals", PUBLISH, WORKER, .run = lorica_handle_approvals},
    {POST, "/v1/adapters/{}/channels/{}/approvals", CHANGE("approve"), OPS, JSON, WRITER,
     .run = lorica_handle_approve},
    {GET, "/v1/adapters/{}/split", PUBLISH, WORKER, .run = lorica_handle_split},
    {PUT, "/v1/adapters/{}/split", CHANGE("split"), OPS, JSON, WORKER,
     .run = lorica_handle_split_check, .write = lorica_handle_split_set},
    {DELETE, "/v1/adapters/{}/split", CHANGE("split-end"), OPS, JSON, WRITER,
     .run = lorica_handle_split_end},
    {GET, "/v1/adapters/{}/retention", PUBLISH, WORKER, .run = lorica_handle_retention},
    {PUT, "/v1/adapters/{}/retention", CHANGE("retention"), OPS, JSON, WRITER,
     .run = lorica_handle_retention_set},
    {POST, "/v1/sweep", CHANGE("sweep"), ADMIN, WRITER, .in_turn = true,
     .run = lorica_handle_sweep},
    {GET, "/v1/adapters/{}/history", QUERY(RECORDS), PUBLISH, WORKER, .run = lorica_handle_history},
    {GET, "/v1/audit/checkpoint", OPS, WORKER, .run = lorica_handle_checkpoint},
    {GET, "/v1/audit", QUERY(RECORDS, "adapter"), OPS, WORKER, .run = lorica_handle_audit},
    {GET, "/v1/backup/snapshot", OPS, WORKER, .run = lorica_handle_backup_snapshot},
    {GET, "/v1/backup/contents/{}", OPS, WORKER, .run = lorica_handle_backup_content},
    {POST, "/v1/files", CHANGE("file-upload"), PUBLISH, UPLOAD(lorica_training_file_form), JUDGE,
     .run = lorica_handle_file_create},
    {GET, "/v1/files", QUERY("limit", "after", "order", "purpose"), PUBLISH, WORKER,
     .run = lorica_handle_files},
    {GET, "/v1/files/{}", PUBLISH, WORKER, .run = lorica_handle_file},
    {GET, "/v1/files/{}/content", PUBLISH, WORKER, .run = lorica_handle_file_content},
    {DELETE, "/v1/files/{}", CHANGE("file-delete"), PUBLISH, WORKER,
     .run = lorica_handle_file_delete},
    {POST, "/v1/fine_tuning/jobs", CHANGE("job-create"), PUBLISH, JSON, JUDGE,
     .run = lorica_handle_job_create},
    {GET, "/v1/fine_tuning/jobs", QUERY("limit", "after", "metadata", "metadata["), PUBLISH, WORKER,
     .run = lorica_handle_jobs},
    {GET, "/v1/fine_tuning/jobs/{}", PUBLISH, WORKER, .run = lorica_handle_job},
    {POST, "/v1/fine_tuning/jobs/{}/cancel", CHANGE("job-cancel"), PUBLISH, JSON, WORKER,
     .run = lorica_handle_job_cancel},
    {POST, "/v1/fine_tuning/jobs/{}/pause", CHANGE("job-pause"), PUBLISH, JSON, WORKER,
     .run = lorica_handle_job_pause},
    {POST, "/v1/fine_tuning/jobs/{}/resume", CHANGE("job-resume"), PUBLISH, JSON, WORKER,
     .run = lorica_handle_job_resume},
    /* there is one at most, whatever page is asked for */
    {GET, "/v1/fine_tuning/jobs/{}/checkpoints", PAGES, PUBLISH, WORKER,
     .run = lorica_handle_job_checkpoints},
    {GET, "/v1/fine_tuning/jobs/{}/events", QUERY("limit", "after", "stream"), PUBLISH, WORKER,
     .run = lorica_handle_job_events, .after = lorica_job_events_follow},
    {GET, "/v1/receipts/key", INFER, WORKER, .run = lorica_handle_receipt_key},
    {GET, "/v1/signers", PUBLISH, WORKER, .run = lorica_handle_signers},
    {POST, "/v1/signers", CHANGE("signer-add"), ADMIN, JSON, WRITER,
     .run = lorica_handle_signer_add},
    {DELETE, "/v1/signers/{}", CHANGE("signer-remove"), ADMIN, WRITER,
     .run = lorica_handle_signer_remove},
    {GET, "/v1/keys", ADMIN, WORKER, .run = lorica_handle_keys},
    {POST, "/v1/keys", CHANGE("key-create"), ADMIN, JSON, WRITER, .run = lorica_handle_key_create},
    {DELETE, "/v1/keys/{}", CHANGE("key-revoke"), ADMIN, WRITER, .in_turn = true,
     .run = lorica_handle_key_revoke},
};

const struct lorica_route *lorica_routes(size_t *ret_count) {
    *ret_count = sizeof(routes) / sizeof(routes[0]);
    return routes;
}
