/* SPDX-License-Identifier: MIT */
#include "proto/model_signing.h"

#include <stdlib.h>
#include <string.h>

#define MEDIA_TYPE "application/vnd.dev.sigstore.bundle.v0.3+json"
#define STATEMENT_TYPE "https://in-toto.io/Statement/v1"
#define PREDICATE_TYPE "https://model_signing/signature/v1.0"
#define HEX_DIGITS 64

/* What a malformed text says. */
static int malformed(struct lorica_error *err, const char *what) {
    return lorica_fail(err, LORICA_EFORMAT, "%s", what);
}

/* Refuses members other than those listed. */
static int only(const struct lorica_json *object, const char *what, const char *const *names,
                struct lorica_error *err) {
    if (lorica_json_type(object) != LORICA_JSON_OBJECT)
        return lorica_fail(err, LORICA_EFORMAT, "%s must be an object", what);
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

static bool text_is(const struct lorica_json *object, const char *name, const char *expected) {
    const char *text = lorica_json_string(lorica_json_get(object, name));
    return text && strcmp(text, expected) == 0;
}

/* The bundle. */

void lorica_bundle_finish(struct lorica_bundle *bundle) {
    lorica_envelope_finish(&bundle->envelope);
    free(bundle->hint);
    *bundle = (struct lorica_bundle){0};
}

static int read_key(const struct lorica_json *material, char **ret_hint, struct lorica_error *err) {
    static const char *const members[] = {"publicKey", "tlogEntries", "timestampVerificationData",
                                          NULL};
    static const char *const of_key[] = {"hint", "rawBytes", "keyDetails", NULL};
    const struct lorica_json *key = lorica_json_get(material, "publicKey");
    if (lorica_json_get(material, "certificate") ||
        lorica_json_get(material, "x509CertificateChain"))
        return lorica_fail(err, LORICA_EUNSUPPORTED,
                           "the bundle is signed with a certificate; lorica verifies bundles that "
                           "are signed with a key");
    int rc = only(material, "the bundle's verificationMaterial", members, err);
    if (!rc)
        rc = only(key, "the bundle's publicKey", of_key, err);
    if (rc)
        return rc;
    const char *hint = lorica_json_string(lorica_json_get(key, "hint"));
    if (!hint && !lorica_json_string(lorica_json_get(key, "rawBytes")))
        return malformed(err, "the bundle's publicKey has no hint");
    if (hint && !(*ret_hint = strdup(hint)))
        return lorica_fail(err, LORICA_ENOMEM, "out of memory");
    return 0;
}

static int read_bundle(const struct lorica_json *root, struct lorica_bundle *b,
                       struct lorica_error *err) {
    static const char *const members[] = {"mediaType", "verificationMaterial", "dsseEnvelope",
                                          NULL};
    int rc = only(root, "the bundle", members, err);
    if (rc)
        return rc;
    if (!text_is(root, "mediaType", MEDIA_TYPE))
        return malformed(err, "the bundle's mediaType is not " MEDIA_TYPE);
    if (!lorica_json_get(root, "verificationMaterial"))
        return malformed(err, "the bundle has no verificationMaterial");
    if (!lorica_json_get(root, "dsseEnvelope"))
        return malformed(err, "the bundle has no dsseEnvelope");
    rc = read_key(lorica_json_get(root, "verificationMaterial"), &b->hint, err);
    if (!rc)
        rc = lorica_envelope_read(lorica_json_get(root, "dsseEnvelope"), &b->envelope, err);
    if (rc)
        return rc;
    if (strcmp(b->envelope.payload_type, LORICA_PAYLOAD_INTOTO) != 0)
        return lorica_fail(err, LORICA_EFORMAT,
                           "the envelope's payloadType is \"%.80s\", not " LORICA_PAYLOAD_INTOTO,
                           b->envelope.payload_type);
    return b->envelope.public_key ? malformed(err, "the envelope: \"publicKey\" is not known") : 0;
}

int lorica_bundle_parse(const char *text, size_t len, struct lorica_bundle *ret,
                        struct lorica_error *err) {
    struct lorica_bundle bundle = {.hint = NULL};
    struct lorica_json *root = NULL;
    if (len > LORICA_BUNDLE_MAX)
        return lorica_fail(err, LORICA_ELIMIT, "the bundle has %zu bytes, at most %zu are taken",
                           len, LORICA_BUNDLE_MAX);
    int rc = lorica_json_parse(text, len, &root, err);
    if (!rc)
        rc = read_bundle(root, &bundle, err);
    lorica_json_destroy(root);
    if (rc)
        lorica_bundle_finish(&bundle);
    else
        *ret = bundle;
    return rc;
}

int lorica_bundle_write(struct lorica_buf *out, const struct lorica_envelope *envelope) {
    struct lorica_envelope inner = *envelope;
    struct lorica_jsonw w = {.out = out};
    inner.keyid = NULL;
    inner.public_key = NULL;
    lorica_jsonw_object(&w, NULL);
    lorica_jsonw_string(&w, "mediaType", MEDIA_TYPE);
    lorica_jsonw_object(&w, "verificationMaterial");
    lorica_jsonw_object(&w, "publicKey");
    lorica_jsonw_string(&w, "hint", envelope->keyid);
    lorica_jsonw_end_object(&w);
    lorica_jsonw_array(&w, "tlogEntries");
    lorica_jsonw_end_array(&w);
    lorica_jsonw_end_object(&w);
    lorica_envelope_write(&w, "dsseEnvelope", &inner);
    lorica_jsonw_end_object(&w);
    return lorica_buf_status(out);
}

/* Names. */

bool lorica_model_name_valid(const char *name) {
    if (!*name || strnlen(name, LORICA_MODEL_NAME_MAX + 1) > LORICA_MODEL_NAME_MAX)
        return false;
    for (;;) {
        const size_t len = strcspn(name, "/");
        if (len == 0 || (len == 1 && name[0] == '.') || (len == 2 && memcmp(name, "..", 2) == 0))
            return false;
        if (name[len] == '\0')
            return true;
        name += len + 1;
    }
}

/* The order of UTF-8 bytes is that of code points. */
static int by_name(const void *a, const void *b) {
    return strcmp(((const struct lorica_model_file *)a)->name,
                  ((const struct lorica_model_file *)b)->name);
}

/* As model_signing of Python sorts: part by part, '/' before all else. */
static int by_parts(const void *a, const void *b) {
    const unsigned char *p = (const unsigned char *)((const struct lorica_model_file *)a)->name;
    const unsigned char *q = (const unsigned char *)((const struct lorica_model_file *)b)->name;
    while (*p && *p == *q) {
        p++;
        q++;
    }
    const int x = *p == '/' ? 1 : *p ? *p + 1 : 0, y = *q == '/' ? 1 : *q ? *q + 1 : 0;
    return x - y;
}

void lorica_model_files_sort(struct lorica_model_file *files, size_t count) {
    if (count)
        qsort(files, count, sizeof(*files), by_name);
}

const struct lorica_model_file *lorica_model_file_find(const struct lorica_model_file *files,
                                                       size_t count, const char *name) {
    for (size_t i = 0; i < count; i++)
        if (strcmp(files[i].name, name) == 0)
            return &files[i];
    return NULL;
}

/* The statement. */

void lorica_model_manifest_finish(struct lorica_model_manifest *m) {
    for (size_t i = 0; i < m->file_count; i++)
        free(m->files[i].name);
    for (size_t i = 0; i < m->ignored_count; i++)
        free(m->ignored[i]);
    free(m->files);
    free(m->ignored);
    free(m->subject);
    *m = (struct lorica_model_manifest){0};
}

static int hex_digest(const char *text, struct lorica_digest *ret) {
    char whole[LORICA_DIGEST_TEXT] = "sha256:";
    const size_t len = text ? strnlen(text, HEX_DIGITS + 1) : 0;
    if (len != HEX_DIGITS)
        return LORICA_EFORMAT;
    memcpy(whole + strlen("sha256:"), text, len + 1);
    return lorica_digest_parse(whole, strlen(whole), ret);
}

static int root_digest(const struct lorica_model_manifest *m, const struct lorica_hasher *hasher,
                       struct lorica_digest *ret) {
    void *stream = hasher->create();
    int rc = stream ? 0 : LORICA_ENOMEM;
    for (size_t i = 0; i < m->file_count && !rc; i++)
        rc = hasher->update(stream, m->files[i].digest.bytes, sizeof(m->files[i].digest.bytes));
    const int ended = stream ? hasher->finish(stream, rc ? NULL : ret) : 0;
    return rc ? rc : ended;
}

static int read_file(const struct lorica_json *item, struct lorica_model_file *file,
                     struct lorica_error *err) {
    const char *name = lorica_json_string(lorica_json_get(item, "name"));
    if (!name)
        return malformed(err, "a resource has no name");
    if (!lorica_model_name_valid(name))
        return lorica_fail(err, LORICA_EFORMAT,
                           "the resource \"%.200s\" is no path within the model: it is absolute, "
                           "too long, or has an empty part, \".\" or \"..\"",
                           name);
    if (!text_is(item, "algorithm", "sha256"))
        return lorica_fail(err, LORICA_EUNSUPPORTED,
                           "the resource \"%.200s\" is not hashed with "
                           "sha256",
                           name);
    if (hex_digest(lorica_json_string(lorica_json_get(item, "digest")), &file->digest))
        return lorica_fail(err, LORICA_EFORMAT,
                           "the resource \"%.200s\" has no digest of 64 "
                           "lower-case hexadecimal digits",
                           name);
    file->name = strdup(name);
    return file->name ? 0 : lorica_fail(err, LORICA_ENOMEM, "out of memory");
}

/* Each before the next, in the specification's order or in that of model_signing. */
static int check_order(const struct lorica_model_manifest *m, struct lorica_error *err) {
    bool names = true, parts = true;
    for (size_t i = 1; i < m->file_count; i++) {
        const struct lorica_model_file *a = &m->files[i - 1], *b = &m->files[i];
        if (strcmp(a->name, b->name) == 0)
            return lorica_fail(err, LORICA_EFORMAT, "the resource \"%.200s\" stands there twice",
                               a->name);
        names = names && by_name(a, b) < 0;
        parts = parts && by_parts(a, b) < 0;
        if (!names && !parts)
            return lorica_fail(err, LORICA_EFORMAT,
                               "the resources are not sorted: \"%.150s\" stands before \"%.150s\"",
                               a->name, b->name);
    }
    return 0;
}

static int read_files(const struct lorica_json *list, struct lorica_model_manifest *m,
                      struct lorica_error *err) {
    const size_t count = lorica_json_count(list);
    if (lorica_json_type(list) != LORICA_JSON_ARRAY || count == 0)
        return malformed(err, "the predicate lists no resources");
    if (count > LORICA_MODEL_FILES_MAX)
        return lorica_fail(err, LORICA_ELIMIT,
                           "the predicate lists %zu resources, at most %d are "
                           "taken",
                           count, LORICA_MODEL_FILES_MAX);
    m->files = calloc(count, sizeof(*m->files));
    if (!m->files)
        return lorica_fail(err, LORICA_ENOMEM, "out of memory");
    int rc = 0;
    for (const struct lorica_json *i = lorica_json_first(list); i && !rc; i = lorica_json_next(i)) {
        rc = read_file(i, &m->files[m->file_count], err);
        m->file_count += !rc;
    }
    return rc ? rc : check_order(m, err);
}

static int read_ignored(const struct lorica_json *list, struct lorica_model_manifest *m,
                        struct lorica_error *err) {
    const size_t count = lorica_json_count(list);
    if (lorica_json_type(list) == LORICA_JSON_NULL)
        return 0;
    if (lorica_json_type(list) != LORICA_JSON_ARRAY || count > LORICA_MODEL_FILES_MAX)
        return malformed(err, "ignore_paths must be a list");
    m->ignored = calloc(count + 1, sizeof(*m->ignored));
    if (!m->ignored)
        return lorica_fail(err, LORICA_ENOMEM, "out of memory");
    for (const struct lorica_json *i = lorica_json_first(list); i; i = lorica_json_next(i)) {
        const char *path = lorica_json_string(i);
        if (!path || !lorica_model_name_valid(path) || strpbrk(path, "*?["))
            return lorica_fail(err, LORICA_EFORMAT,
                               "ignore_paths: \"%.200s\" is no path within the model",
                               path ? path : "");
        if (!(m->ignored[m->ignored_count] = strdup(path)))
            return lorica_fail(err, LORICA_ENOMEM, "out of memory");
        m->ignored_count++;
    }
    return 0;
}

static int read_serialization(const struct lorica_json *object, struct lorica_model_manifest *m,
                              struct lorica_error *err) {
    static const char *const members[] = {"method",         "hash_type",    "shard_size",
                                          "allow_symlinks", "ignore_paths", NULL};
    const struct lorica_json *links = lorica_json_get(object, "allow_symlinks");
    int rc = only(object, "the predicate's serialization", members, err);
    if (rc)
        return rc;
    if (text_is(object, "method", "shards"))
        return lorica_fail(err, LORICA_EUNSUPPORTED,
                           "the files were hashed in shards, which is not supported; sign them "
                           "with the method \"files\"");
    if (!text_is(object, "method", "files"))
        return malformed(err, "the serialization's method is not \"files\"");
    if (lorica_json_get(object, "shard_size"))
        return malformed(err, "the method \"files\" has no shard_size");
    if (!text_is(object, "hash_type", "sha256"))
        return lorica_fail(err, LORICA_EUNSUPPORTED,
                           "the files were hashed with \"%.40s\"; sha256 is supported",
                           lorica_json_string(lorica_json_get(object, "hash_type"))
                               ? lorica_json_string(lorica_json_get(object, "hash_type"))
                               : "");
    if (lorica_json_type(links) != LORICA_JSON_BOOL)
        return malformed(err, "allow_symlinks must be true or false");
    m->symlinks = lorica_json_is_true(links);
    return read_ignored(lorica_json_get(object, "ignore_paths"), m, err);
}

static int read_subject(const struct lorica_json *list, struct lorica_model_manifest *m,
                        struct lorica_digest *ret_root, struct lorica_error *err) {
    const struct lorica_json *subject = lorica_json_first(list);
    const char *name = lorica_json_string(lorica_json_get(subject, "name"));
    if (lorica_json_type(list) != LORICA_JSON_ARRAY || lorica_json_count(list) != 1)
        return malformed(err, "the statement must have exactly one subject");
    if (!name || !*name)
        return malformed(err, "the statement's subject has no name");
    if (hex_digest(
            lorica_json_string(lorica_json_get(lorica_json_get(subject, "digest"), "sha256")),
            ret_root))
        return malformed(err, "the statement's subject has no sha256 digest");
    m->subject = strdup(name);
    return m->subject ? 0 : lorica_fail(err, LORICA_ENOMEM, "out of memory");
}

static int read_statement(const struct lorica_json *root, struct lorica_model_manifest *m,
                          struct lorica_digest *ret_root, struct lorica_error *err) {
    static const char *const members[] = {"_type", "subject", "predicateType", "predicate", NULL};
    static const char *const of_predicate[] = {"resources", "serialization", NULL};
    const struct lorica_json *predicate = lorica_json_get(root, "predicate");
    const char *type = lorica_json_string(lorica_json_get(root, "predicateType"));
    int rc = only(root, "the statement", members, err);
    if (rc)
        return rc;
    if (!text_is(root, "_type", STATEMENT_TYPE))
        return malformed(err, "the statement's _type is not " STATEMENT_TYPE);
    if (!type || strcmp(type, PREDICATE_TYPE) != 0)
        return lorica_fail(err, LORICA_EFORMAT,
                           "the statement's predicateType is \"%.100s\", not " PREDICATE_TYPE,
                           type ? type : "");
    rc = only(predicate, "the predicate", of_predicate, err);
    if (!rc)
        rc = read_subject(lorica_json_get(root, "subject"), m, ret_root, err);
    if (!rc)
        rc = read_serialization(lorica_json_get(predicate, "serialization"), m, err);
    return rc ? rc : read_files(lorica_json_get(predicate, "resources"), m, err);
}

int lorica_model_manifest_parse(const void *payload, size_t len, const struct lorica_hasher *hasher,
                                struct lorica_model_manifest *ret, struct lorica_error *err) {
    struct lorica_model_manifest m = {.subject = NULL};
    struct lorica_digest said, is;
    struct lorica_json *root = NULL;
    int rc = lorica_json_parse(payload, len, &root, err);
    if (!rc)
        rc = read_statement(root, &m, &said, err);
    lorica_json_destroy(root);
    if (!rc && (rc = root_digest(&m, hasher, &is)))
        rc = lorica_fail(err, rc, "out of memory");
    else if (!rc && !lorica_digest_equal(&said, &is))
        rc = malformed(err, "the subject's digest is not that of the resources");
    if (rc)
        lorica_model_manifest_finish(&m);
    else
        *ret = m;
    return rc;
}

static const char *hex_of(const struct lorica_digest *digest, char out[LORICA_DIGEST_TEXT]) {
    return lorica_digest_format(digest, out) + strlen("sha256:");
}

static void write_serialization(struct lorica_jsonw *w, const struct lorica_model_manifest *m) {
    lorica_jsonw_object(w, "serialization");
    lorica_jsonw_string(w, "method", "files");
    lorica_jsonw_string(w, "hash_type", "sha256");
    lorica_jsonw_bool(w, "allow_symlinks", m->symlinks);
    lorica_jsonw_array(w, "ignore_paths");
    for (size_t i = 0; i < m->ignored_count; i++)
        lorica_jsonw_string(w, NULL, m->ignored[i]);
    lorica_jsonw_end_array(w);
    lorica_jsonw_end_object(w);
}

int lorica_model_manifest_write(struct lorica_buf *out, const struct lorica_model_manifest *m,
                                const struct lorica_hasher *hasher) {
    struct lorica_jsonw w = {.out = out};
    char text[LORICA_DIGEST_TEXT];
    struct lorica_digest root;
    const int rc = root_digest(m, hasher, &root);
    if (rc)
        return rc;
    lorica_jsonw_object(&w, NULL);
    lorica_jsonw_string(&w, "_type", STATEMENT_TYPE);
    lorica_jsonw_array(&w, "subject");
    lorica_jsonw_object(&w, NULL);
    lorica_jsonw_string(&w, "name", m->subject);
    lorica_jsonw_object(&w, "digest");
    lorica_jsonw_string(&w, "sha256", hex_of(&root, text));
    lorica_jsonw_end_object(&w);
    lorica_jsonw_end_object(&w);
    lorica_jsonw_end_array(&w);
    lorica_jsonw_string(&w, "predicateType", PREDICATE_TYPE);
    lorica_jsonw_object(&w, "predicate");
    lorica_jsonw_array(&w, "resources");
    for (size_t i = 0; i < m->file_count; i++) {
        lorica_jsonw_object(&w, NULL);
        lorica_jsonw_string(&w, "name", m->files[i].name);
        lorica_jsonw_string(&w, "digest", hex_of(&m->files[i].digest, text));
        lorica_jsonw_string(&w, "algorithm", "sha256");
        lorica_jsonw_end_object(&w);
    }
    lorica_jsonw_end_array(&w);
    write_serialization(&w, m);
    lorica_jsonw_end_object(&w);
    lorica_jsonw_end_object(&w);
    return lorica_buf_status(out);
}
