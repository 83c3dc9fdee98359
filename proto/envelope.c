/* SPDX-License-Identifier: MIT */
#include "proto/envelope.h"

#include <stdlib.h>
#include <string.h>

#include "proto/base64.h"

int lorica_envelope_pae(struct lorica_buf *out, const char *payload_type, const void *payload,
                        size_t payload_len) {
    (void)lorica_buf_printf(out, "DSSEv1 %zu %s %zu ", strlen(payload_type), payload_type,
                            payload_len);
    return lorica_buf_append(out, payload, payload_len);
}

void lorica_envelope_finish(struct lorica_envelope *envelope) {
    free(envelope->payload_type);
    free(envelope->payload);
    free(envelope->sig);
    free(envelope->keyid);
    free(envelope->public_key);
    *envelope = (struct lorica_envelope){0};
}

/* Refuses members other than those listed. */
static int only(const struct lorica_json *object, const char *what, const char *const *names,
                struct lorica_error *err) {
    for (const struct lorica_json *m = lorica_json_first(object); m; m = lorica_json_next(m)) {
        size_t i = 0;
        while (names[i] && strcmp(names[i], lorica_json_key(m)) != 0)
            i++;
        if (!names[i])
            return lorica_fail(err, LORICA_EFORMAT, "%s: \"%.60s\" is not known", what,
                               lorica_json_key(m));
    }
    return 0;
}

/* A text member; NULL for an absent one or null where it is not needed. */
static int take_text(const struct lorica_json *object, const char *what, const char *name,
                     bool needed, char **ret, struct lorica_error *err) {
    const struct lorica_json *value = lorica_json_get(object, name);
    const char *text = lorica_json_string(value);
    *ret = NULL;
    if (!text && (needed || lorica_json_type(value) != LORICA_JSON_NULL))
        return lorica_fail(err, LORICA_EFORMAT, "%s: %s must be text", what, name);
    if (text && !(*ret = strdup(text)))
        return lorica_fail(err, LORICA_ENOMEM, "out of memory");
    return 0;
}

static int take_bytes(const struct lorica_json *object, const char *what, const char *name,
                      uint8_t **ret, size_t *ret_len, struct lorica_error *err) {
    const char *text = lorica_json_string(lorica_json_get(object, name));
    if (!text || !*text)
        return lorica_fail(err, LORICA_EFORMAT, "%s: %s must be base64", what, name);
    const int rc = lorica_base64_decode(text, strlen(text), ret, ret_len);
    if (rc == LORICA_ENOMEM)
        return lorica_fail(err, rc, "out of memory");
    return rc ? lorica_fail(err, rc, "%s: %s is no base64, or it was cut off", what, name) : 0;
}

static int read_signature(const struct lorica_json *list, struct lorica_envelope *ret,
                          struct lorica_error *err) {
    static const char *const members[] = {"sig", "keyid", NULL};
    static const char what[] = "the envelope's signature";
    if (lorica_json_type(list) != LORICA_JSON_ARRAY || lorica_json_count(list) != 1)
        return lorica_fail(err, LORICA_EFORMAT, "the envelope must hold exactly one signature");
    const struct lorica_json *signature = lorica_json_first(list);
    if (lorica_json_type(signature) != LORICA_JSON_OBJECT)
        return lorica_fail(err, LORICA_EFORMAT, "%s must be an object", what);
    int rc = only(signature, what, members, err);
    if (!rc)
        rc = take_bytes(signature, what, "sig", &ret->sig, &ret->sig_len, err);
    return rc ? rc : take_text(signature, what, "keyid", false, &ret->keyid, err);
}

int lorica_envelope_read(const struct lorica_json *object, struct lorica_envelope *ret,
                         struct lorica_error *err) {
    static const char *const members[] = {"payload", "payloadType", "signatures", "publicKey",
                                          NULL};
    static const char what[] = "the envelope";
    struct lorica_envelope e = {0};
    if (lorica_json_type(object) != LORICA_JSON_OBJECT)
        return lorica_fail(err, LORICA_EFORMAT, "the envelope must be a JSON object");
    int rc = only(object, what, members, err);
    if (!rc)
        rc = take_text(object, what, "payloadType", true, &e.payload_type, err);
    if (!rc)
        rc = take_bytes(object, what, "payload", &e.payload, &e.payload_len, err);
    if (!rc)
        rc = take_text(object, what, "publicKey", false, &e.public_key, err);
    if (!rc)
        rc = read_signature(lorica_json_get(object, "signatures"), &e, err);
    if (rc)
        lorica_envelope_finish(&e);
    else
        *ret = e;
    return rc;
}

int lorica_envelope_parse(const char *text, size_t len, struct lorica_envelope *ret,
                          struct lorica_error *err) {
    struct lorica_json *root = NULL;
    if (len > LORICA_ENVELOPE_MAX)
        return lorica_fail(err, LORICA_ELIMIT, "the envelope has %zu bytes, at most %zu are taken",
                           len, LORICA_ENVELOPE_MAX);
    int rc = lorica_json_parse(text, len, &root, err);
    if (!rc)
        rc = lorica_envelope_read(root, ret, err);
    lorica_json_destroy(root);
    return rc;
}

static void write_bytes(struct lorica_jsonw *w, const char *key, const void *bytes, size_t len) {
    struct lorica_buf text;
    lorica_buf_init(&text, 2 * LORICA_ENVELOPE_MAX);
    const int rc = lorica_base64_encode(&text, bytes, len);
    if (rc)
        lorica_buf_fail(w->out, rc);
    else
        lorica_jsonw_bytes(w, key, text.data ? text.data : "", text.len);
    lorica_buf_finish(&text);
}

void lorica_envelope_write(struct lorica_jsonw *w, const char *key,
                           const struct lorica_envelope *envelope) {
    lorica_jsonw_object(w, key);
    write_bytes(w, "payload", envelope->payload, envelope->payload_len);
    lorica_jsonw_string(w, "payloadType", envelope->payload_type);
    lorica_jsonw_array(w, "signatures");
    lorica_jsonw_object(w, NULL);
    write_bytes(w, "sig", envelope->sig, envelope->sig_len);
    if (envelope->keyid)
        lorica_jsonw_string(w, "keyid", envelope->keyid);
    lorica_jsonw_end_object(w);
    lorica_jsonw_end_array(w);
    if (envelope->public_key)
        lorica_jsonw_string(w, "publicKey", envelope->public_key);
    lorica_jsonw_end_object(w);
}
