/* SPDX-License-Identifier: MIT */
#include "registry/refused.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "proto/json.h"
#include "proto/utf8.h"
#include "registry/internal.h"

/* Text that may stand in a record: cut to `max` bytes, without what is not printable. */
static void clean(char *out, size_t max, const char *text) {
    size_t len = text ? strnlen(text, max) : 0;
    if (len)
        memcpy(out, text, len);
    for (size_t cut = 1; cut <= 3 && cut <= len && !lorica_utf8_valid(out, len); cut++)
        if (lorica_utf8_valid(out, len - cut))
            len -= cut; /* a character that a cut went through */
    out[len] = '\0';
    const bool ascii_only = !lorica_utf8_valid(out, len);
    for (size_t i = 0; i < len; i++) {
        const unsigned char c = (unsigned char)out[i];
        if (c < 0x20 || c == 0x7F || (c >= 0x80 && ascii_only))
            out[i] = '?';
    }
}

static int append(struct lorica_registry *registry, const char *key_name,
                  struct lorica_audit *audit, const char *message, struct lorica_error *err) {
    const struct lorica_actor actor = {.key_name = key_name, .message = message};
    struct lorica_txn *txn = NULL;
    int rc = lorica_store_begin(registry->store, true, &txn, err);
    if (!rc)
        rc = lorica_audit_append(txn, &actor, audit, err);
    return lorica_store_end(txn, rc, err);
}

/* Takes the JSON of a detail over, which is short by its making. */
static int take_detail(struct lorica_buf *json, struct lorica_audit *audit,
                       struct lorica_error *err) {
    const int rc = lorica_buf_status(json);
    if (!rc)
        memcpy(audit->detail, json->data, json->len + 1);
    lorica_buf_finish(json);
    return rc ? lorica_fail(err, rc, "a refusal cannot be described") : 0;
}

int lorica_registry_refused(struct lorica_registry *registry, const struct lorica_refusal *refusal,
                            const char *key_name, struct lorica_error *err) {
    struct lorica_audit audit = {.kind = LORICA_AUDIT_REFUSED, .version = refusal->version};
    char why[LORICA_MESSAGE_MAX + 1], subject[LORICA_NAME_MAX + 1];
    struct lorica_buf json;
    clean(why, LORICA_MESSAGE_MAX, refusal->why);
    clean(subject, LORICA_NAME_MAX, refusal->subject);
    if (refusal->name && lorica_name_valid(refusal->name))
        memcpy(audit.name, refusal->name, strlen(refusal->name) + 1);
    if (refusal->channel && lorica_channel_valid(refusal->channel))
        memcpy(audit.channel, refusal->channel, strlen(refusal->channel) + 1);
    lorica_buf_init(&json, LORICA_DETAIL_MAX);
    struct lorica_jsonw w = {.out = &json};
    lorica_jsonw_object(&w, NULL);
    lorica_jsonw_string(&w, "attempt", refusal->attempt);
    lorica_jsonw_integer(&w, "status", refusal->status);
    lorica_jsonw_string(&w, "code", refusal->code);
    if (subject[0])
        lorica_jsonw_string(&w, "subject", subject);
    lorica_jsonw_end_object(&w);
    const int rc = take_detail(&json, &audit, err);
    return rc ? rc : append(registry, key_name, &audit, why, err);
}

int lorica_registry_refused_more(struct lorica_registry *registry, const char *key_name,
                                 uint64_t count, int64_t from_ms, int64_t to_ms,
                                 struct lorica_error *err) {
    struct lorica_audit audit = {.kind = LORICA_AUDIT_REFUSED};
    char message[100];
    struct lorica_buf json;
    lorica_buf_init(&json, LORICA_DETAIL_MAX);
    struct lorica_jsonw w = {.out = &json};
    lorica_jsonw_object(&w, NULL);
    lorica_jsonw_integer(&w, "refused", (int64_t)count);
    lorica_jsonw_integer(&w, "from", from_ms / 1000);
    lorica_jsonw_integer(&w, "to", to_ms / 1000);
    lorica_jsonw_end_object(&w);
    (void)snprintf(message, sizeof(message), "refused %" PRIu64 " more times", count);
    const int rc = take_detail(&json, &audit, err);
    return rc ? rc : append(registry, key_name, &audit, message, err);
}
