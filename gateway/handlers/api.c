/* SPDX-License-Identifier: MIT */
#include "gateway/handlers/api.h"

#include <string.h>

static void write_digest(struct lorica_jsonw *w, const char *key,
                         const struct lorica_digest *digest) {
    char text[LORICA_DIGEST_TEXT];
    lorica_jsonw_string(w, key, lorica_digest_format(digest, text));
}

void lorica_api_write_version(struct lorica_jsonw *w, const char *key,
                              const struct lorica_version *version) {
    static const struct lorica_digest unknown = {{0}};
    lorica_jsonw_object(w, key);
    lorica_jsonw_string(w, "object", "adapter.version");
    lorica_jsonw_string(w, "name", version->name);
    lorica_jsonw_integer(w, "version", (int64_t)version->version);
    write_digest(w, "digest", &version->digest);
    write_digest(w, "config_digest", &version->config_digest);
    write_digest(w, "weights_digest", &version->weights_digest);
    write_digest(w, "base_digest", &version->base_digest);
    lorica_jsonw_bool(w, "base_stated", version->base_stated);
    lorica_jsonw_bool(w, "trained_on_other_base", version->other_base);
    if (version->other_base && !lorica_digest_equal(&version->trained_digest, &unknown))
        write_digest(w, "trained_base_digest", &version->trained_digest);
    else
        lorica_jsonw_null(w, "trained_base_digest");
    lorica_jsonw_integer(w, "rank", version->rank);
    lorica_jsonw_integer(w, "created", version->created_ms / 1000);
    lorica_jsonw_string(w, "created_by", version->created_by);
    lorica_jsonw_string(w, "message", version->message);
    lorica_jsonw_integer(w, "config_bytes", (int64_t)version->config_nbytes);
    lorica_jsonw_integer(w, "weights_bytes", (int64_t)version->weights_nbytes);
    lorica_jsonw_integer(w, "manifest_bytes", (int64_t)version->manifest_nbytes);
    if (version->manifest_nbytes)
        write_digest(w, "manifest_digest", &version->manifest_digest);
    else
        lorica_jsonw_null(w, "manifest_digest");
    if (version->deleted_ms)
        lorica_jsonw_integer(w, "deleted", version->deleted_ms / 1000);
    else
        lorica_jsonw_null(w, "deleted");
    lorica_jsonw_string(w, "deleted_by", version->deleted_ms ? version->deleted_by : NULL);
    lorica_jsonw_bool(w, "swept", version->swept);
    lorica_jsonw_end_object(w);
}

void lorica_api_write_channel(struct lorica_jsonw *w, const char *key, const char *name,
                              const struct lorica_channel *channel) {
    lorica_jsonw_object(w, key);
    lorica_jsonw_string(w, "object", "adapter.channel");
    lorica_jsonw_string(w, "name", name);
    lorica_jsonw_string(w, "channel", channel->channel);
    lorica_jsonw_integer(w, "version", (int64_t)channel->version);
    lorica_jsonw_integer(w, "epoch", (int64_t)channel->epoch);
    lorica_jsonw_integer(w, "moved", channel->moved_ms / 1000);
    lorica_jsonw_string(w, "moved_by", channel->moved_by);
    lorica_jsonw_end_object(w);
}

void lorica_api_write_audit(struct lorica_jsonw *w, const char *key,
                            const struct lorica_audit *record) {
    lorica_jsonw_object(w, key);
    lorica_jsonw_string(w, "object", "audit");
    lorica_jsonw_integer(w, "seq", (int64_t)record->seq);
    lorica_jsonw_string(w, "kind", lorica_audit_kind_name(record->kind));
    lorica_jsonw_integer(w, "time", record->time_ms / 1000);
    lorica_jsonw_integer(w, "time_ms", record->time_ms);
    lorica_jsonw_string(w, "actor", record->actor);
    lorica_jsonw_string(w, "name", record->name);
    lorica_jsonw_string(w, "channel", record->channel);
    lorica_jsonw_integer(w, "version", (int64_t)record->version);
    lorica_jsonw_integer(w, "previous", (int64_t)record->previous);
    lorica_jsonw_integer(w, "epoch", (int64_t)record->epoch);
    lorica_jsonw_integer(w, "before", (int64_t)record->before);
    write_digest(w, "digest", &record->digest);
    lorica_jsonw_string(w, "message", record->message);
    if (record->detail[0])
        lorica_jsonw_raw(w, "detail", record->detail, strlen(record->detail));
    write_digest(w, "hash", &record->hash);
    lorica_jsonw_end_object(w);
}

void lorica_api_write_key(struct lorica_jsonw *w, const char *key, const struct lorica_key *record,
                          const char *text) {
    lorica_jsonw_object(w, key);
    lorica_jsonw_string(w, "object", "key");
    lorica_jsonw_string(w, "name", record->name);
    lorica_jsonw_string(w, "role", lorica_role_name(record->role));
    lorica_jsonw_array(w, "adapters");
    for (size_t i = 0; i < record->glob_count; i++)
        lorica_jsonw_string(w, NULL, record->globs[i]);
    lorica_jsonw_end_array(w);
    lorica_jsonw_integer(w, "created", record->created_ms / 1000);
    if (record->revoked_ms)
        lorica_jsonw_integer(w, "revoked", record->revoked_ms / 1000);
    else
        lorica_jsonw_null(w, "revoked");
    if (text)
        lorica_jsonw_string(w, "key", text);
    lorica_jsonw_end_object(w);
}

void lorica_api_open_list(struct lorica_jsonw *w) {
    lorica_jsonw_object(w, NULL);
    lorica_jsonw_string(w, "object", "list");
    lorica_jsonw_array(w, "data");
}

void lorica_api_close_list(struct lorica_jsonw *w, bool has_more) {
    lorica_jsonw_end_array(w);
    lorica_jsonw_bool(w, "has_more", has_more);
    lorica_jsonw_end_object(w);
}

void lorica_api_close_page(struct lorica_jsonw *w, bool has_more, const char *parameter,
                           uint64_t number) {
    lorica_jsonw_end_array(w);
    lorica_jsonw_bool(w, "has_more", has_more);
    if (has_more) {
        lorica_jsonw_object(w, "next");
        lorica_jsonw_integer(w, parameter, (int64_t)number);
        lorica_jsonw_end_object(w);
    }
    lorica_jsonw_end_object(w);
}
