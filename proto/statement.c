/* SPDX-License-Identifier: MIT */
#include "proto/statement.h"

#include <inttypes.h>
#include <string.h>

#include "proto/json.h"

#define TYPE "lorica.adapter.v1"
#define CREATED_MAX (INT64_C(1) << 53)
#define TEXT_MAX 1024 /* bytes of a statement */

static bool name_plain(const char *name) {
    const size_t len = strnlen(name, LORICA_STATEMENT_NAME_MAX + 1);
    return len > 0 && len <= LORICA_STATEMENT_NAME_MAX &&
           strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789._-") == len;
}

static void write_digest(struct lorica_jsonw *w, const char *key,
                         const struct lorica_digest *digest) {
    char text[LORICA_DIGEST_TEXT];
    lorica_jsonw_string(w, key, lorica_digest_format(digest, text));
}

int lorica_statement_write(struct lorica_buf *out, const struct lorica_statement *s) {
    struct lorica_jsonw w = {.out = out};
    if (!name_plain(s->name) || s->created < 0 || s->created > CREATED_MAX)
        return LORICA_EINVAL;
    lorica_jsonw_object(&w, NULL);
    lorica_jsonw_string(&w, "type", TYPE);
    lorica_jsonw_string(&w, "name", s->name);
    write_digest(&w, "digest", &s->digest);
    write_digest(&w, "base_digest", &s->base_digest);
    write_digest(&w, "config_digest", &s->config_digest);
    write_digest(&w, "weights_digest", &s->weights_digest);
    if (s->has_manifest)
        write_digest(&w, "manifest_digest", &s->manifest_digest);
    else
        lorica_jsonw_null(&w, "manifest_digest");
    lorica_jsonw_integer(&w, "created", s->created);
    lorica_jsonw_end_object(&w);
    return lorica_buf_status(out);
}

static int read_digest(const struct lorica_json *root, const char *key, struct lorica_digest *ret,
                       struct lorica_error *err) {
    const char *text = lorica_json_string(lorica_json_get(root, key));
    if (!text || lorica_digest_parse(text, strlen(text), ret) != 0)
        return lorica_fail(err, LORICA_EFORMAT, "the statement: %s is no digest", key);
    return 0;
}

static int read_members(const struct lorica_json *root, struct lorica_statement *s,
                        struct lorica_error *err) {
    const char *type = lorica_json_string(lorica_json_get(root, "type"));
    const char *name = lorica_json_string(lorica_json_get(root, "name"));
    const struct lorica_json *manifest = lorica_json_get(root, "manifest_digest");
    if (!type || strcmp(type, TYPE) != 0)
        return lorica_fail(err, LORICA_EFORMAT, "the statement is not of the type " TYPE);
    if (!name || !name_plain(name))
        return lorica_fail(err, LORICA_EFORMAT, "the statement names no adapter");
    memcpy(s->name, name, strlen(name) + 1);
    int rc = read_digest(root, "digest", &s->digest, err);
    if (!rc)
        rc = read_digest(root, "base_digest", &s->base_digest, err);
    if (!rc)
        rc = read_digest(root, "config_digest", &s->config_digest, err);
    if (!rc)
        rc = read_digest(root, "weights_digest", &s->weights_digest, err);
    s->has_manifest = lorica_json_type(manifest) != LORICA_JSON_NULL;
    if (!rc && s->has_manifest)
        rc = read_digest(root, "manifest_digest", &s->manifest_digest, err);
    if (!rc && lorica_json_integer(lorica_json_get(root, "created"), 0, CREATED_MAX, &s->created))
        rc = lorica_fail(err, LORICA_EFORMAT, "the statement: created is no time");
    return rc;
}

int lorica_statement_parse(const char *text, size_t len, struct lorica_statement *ret,
                           struct lorica_error *err) {
    struct lorica_statement s = {{0}};
    struct lorica_json *root = NULL;
    struct lorica_buf again;
    int rc = lorica_json_parse(text, len, &root, err);
    if (!rc)
        rc = read_members(root, &s, err);
    lorica_json_destroy(root);
    if (rc)
        return rc;
    lorica_buf_init(&again, TEXT_MAX);
    rc = lorica_statement_write(&again, &s);
    if (rc)
        rc = lorica_fail(err, rc, "the statement: %s", lorica_err_text(rc));
    else if (again.len != len || memcmp(again.data, text, len) != 0)
        rc = lorica_fail(err, LORICA_EFORMAT,
                         "the statement is not spelled as statements are: other members, another "
                         "order or blanks");
    lorica_buf_finish(&again);
    if (!rc)
        *ret = s;
    return rc;
}

const char *lorica_statement_differ(const struct lorica_statement *a,
                                    const struct lorica_statement *b) {
    if (strcmp(a->name, b->name) != 0)
        return "name";
    if (!lorica_digest_equal(&a->base_digest, &b->base_digest))
        return "base_digest";
    if (!lorica_digest_equal(&a->config_digest, &b->config_digest))
        return "config_digest";
    if (!lorica_digest_equal(&a->weights_digest, &b->weights_digest))
        return "weights_digest";
    if (a->has_manifest != b->has_manifest ||
        (a->has_manifest && !lorica_digest_equal(&a->manifest_digest, &b->manifest_digest)))
        return "manifest_digest";
    return lorica_digest_equal(&a->digest, &b->digest) ? NULL : "digest";
}
