/* SPDX-License-Identifier: MIT */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "proto/peft.h"
#include "registry/digest.h"
#include "registry/internal.h"

static int check_text(const char *what, const char *bytes, size_t len, struct lorica_error *err) {
    if (len > LORICA_TEXT_BYTES_MAX)
        return lorica_fail(err, LORICA_ELIMIT, "the %s has %zu bytes, at most %zu are taken", what,
                           len, LORICA_TEXT_BYTES_MAX);
    if (!bytes && len)
        return lorica_fail(err, LORICA_EBUG, "the %s has a length and no bytes", what);
    return 0;
}

static int check_publish(const struct lorica_publish *publish, const struct lorica_actor *actor,
                         struct lorica_error *err) {
    if (!lorica_name_valid(publish->name))
        return lorica_fail(err, LORICA_EINVAL,
                           "an adapter's name is [a-z0-9][a-z0-9._-]*, up to %d bytes, without "
                           "\"..\" and not \"base\"",
                           LORICA_NAME_MAX);
    if (publish->channel && !lorica_channel_valid(publish->channel))
        return lorica_fail(err, LORICA_EINVAL,
                           "a channel's name is [a-z0-9][a-z0-9._-]*, up to %d bytes",
                           LORICA_CHANNEL_MAX);
    int rc = check_text("config", publish->config, publish->config_len, err);
    if (!rc)
        rc = check_text("canonical config", publish->canonical, publish->canonical_len, err);
    if (!rc)
        rc = check_text("manifest", publish->manifest, publish->manifest_len, err);
    if (!rc && (!publish->config_len || !publish->canonical_len || !publish->weights_path))
        rc = lorica_fail(err, LORICA_EINVAL, "an adapter needs its config and its weights");
    return rc ? rc : lorica_actor_check(actor, err);
}

static int put_number(struct lorica_txn *txn, enum lorica_table table,
                      const struct lorica_record_key *key, uint64_t number,
                      struct lorica_error *err) {
    struct lorica_record record;
    int rc = lorica_record_encode_number(number, &record);
    if (rc)
        return lorica_fail(err, rc, "a number cannot be encoded");
    return lorica_store_put(txn, table, lorica_slice_key(key), lorica_slice_record(&record), err);
}

/* Number of the version that holds this content for this base; LORICA_ENOTFOUND, no sentence. */
static int find_identity(struct lorica_txn *txn, const struct lorica_record_key *key, uint64_t *ret,
                         struct lorica_error *err) {
    struct lorica_slice value;
    int rc = lorica_store_get(txn, LORICA_TABLE_IDENTITY, lorica_slice_key(key), &value, err);
    if (rc)
        return rc;
    rc = lorica_record_decode_number(value.data, value.len, ret);
    return rc ? lorica_damaged(err, rc, "an identity record") : 0;
}

/* Stores the content and fills what the version says of it. */
static int put_content(struct lorica_txn *txn, const struct lorica_publish *publish,
                       const struct lorica_blob_file *weights, struct lorica_version *version,
                       struct lorica_error *err) {
    int rc =
        lorica_blob_put(txn, publish->config, publish->config_len, &version->config_digest, err);
    if (!rc)
        rc = lorica_blob_put(txn, publish->canonical, publish->canonical_len,
                             &version->canonical_digest, err);
    if (!rc && publish->manifest_len)
        rc = lorica_blob_put(txn, publish->manifest, publish->manifest_len,
                             &version->manifest_digest, err);
    version->config_nbytes = publish->config_len;
    version->canonical_nbytes = publish->canonical_len;
    version->manifest_nbytes = publish->manifest_len;
    version->weights_nbytes = weights->nbytes;
    version->weights_digest = weights->digest;
    version->base_digest = publish->base_digest;
    version->base_stated = publish->base_stated;
    version->other_base = publish->other_base;
    version->trained_digest = publish->trained_digest;
    version->rank = publish->rank;
    return rc ? rc : lorica_blob_put_file(txn, weights, err);
}

/* Records the publishing, which gives the version its number's place in history. */
static int put_audit(struct lorica_txn *txn, const struct lorica_actor *actor,
                     struct lorica_version *version, struct lorica_error *err) {
    struct lorica_audit audit = {
        .kind = LORICA_AUDIT_PUBLISH, .version = version->version, .digest = version->digest};
    memcpy(audit.name, version->name, sizeof(audit.name));
    lorica_version_detail(version, audit.detail);
    int rc = lorica_audit_append(txn, actor, &audit, err);
    if (rc)
        return rc;
    version->seq = audit.seq;
    version->created_ms = audit.time_ms;
    memcpy(version->created_by, audit.actor, sizeof(version->created_by));
    memcpy(version->message, audit.message, sizeof(version->message));
    return 0;
}

static int put_version(struct lorica_txn *txn, const struct lorica_record_key *identity,
                       const struct lorica_version *version, struct lorica_error *err) {
    struct lorica_record_key key;
    struct lorica_record record;
    int rc = lorica_record_encode_version(version, &record);
    if (rc)
        return lorica_fail(err, rc, "%s@%" PRIu64 " cannot be encoded", version->name,
                           version->version);
    lorica_record_key_numbered(version->name, version->version, &key);
    rc = lorica_store_put(txn, LORICA_TABLE_VERSION, lorica_slice_key(&key),
                          lorica_slice_record(&record), err);
    if (!rc)
        rc = put_number(txn, LORICA_TABLE_IDENTITY, identity, version->version, err);
    lorica_record_key_name(version->name, &key);
    return rc ? rc : put_number(txn, LORICA_TABLE_ADAPTER, &key, version->version, err);
}

static int make_version(struct lorica_txn *txn, const struct lorica_publish *publish,
                        const struct lorica_blob_file *weights, const struct lorica_actor *actor,
                        const struct lorica_record_key *identity, struct lorica_version *version,
                        struct lorica_error *err) {
    uint64_t latest = 0;
    int rc = lorica_latest_get(txn, publish->name, &latest, err);
    if (rc && rc != LORICA_ENOTFOUND)
        return rc;
    memcpy(version->name, publish->name, strlen(publish->name) + 1);
    version->version = latest + 1;
    rc = put_content(txn, publish, weights, version, err);
    if (!rc)
        rc = put_audit(txn, actor, version, err);
    return rc ? rc : put_version(txn, identity, version, err);
}

static int point_channel(struct lorica_txn *txn, const struct lorica_version *version,
                         const char *channel, const struct lorica_actor *actor, bool *ret_moved,
                         struct lorica_error *err) {
    struct lorica_channel_record now;
    struct lorica_channel moved;
    int rc = lorica_channel_get(txn, version->name, channel, &now, err);
    if (rc || now.version == version->version)
        return rc;
    rc = lorica_channel_promote(txn, version, channel, &now, actor, &moved, err);
    if (!rc)
        *ret_moved = true;
    return rc;
}

/* What is stated of the base must be what the version says that holds the content already. */
static int check_statement(const struct lorica_publish *publish,
                           const struct lorica_version *version, struct lorica_error *err) {
    if (!publish->other_base ||
        (version->other_base &&
         lorica_digest_equal(&version->trained_digest, &publish->trained_digest)))
        return 0;
    return lorica_fail(err, LORICA_ECONFLICT,
                       "%s@%" PRIu64
                       " holds this very content, and says otherwise on which base it "
                       "was trained; versions are not rewritten: publish it under another name, or "
                       "delete that version first",
                       version->name, version->version);
}

static int publish_inside(struct lorica_txn *txn, const struct lorica_publish *publish,
                          const struct lorica_blob_file *weights, const struct lorica_actor *actor,
                          struct lorica_version *version, bool *ret_existing, bool *ret_changed,
                          struct lorica_error *err) {
    struct lorica_record_key identity;
    struct lorica_digest digest = version->digest;
    uint64_t number = 0;
    lorica_record_key_identity(publish->name, &digest, &publish->base_digest, &identity);
    int rc = find_identity(txn, &identity, &number, err);
    if (rc && rc != LORICA_ENOTFOUND)
        return rc;
    *ret_existing = rc == 0;
    *ret_changed = !*ret_existing;
    if (*ret_existing) {
        rc = lorica_version_get(txn, publish->name, number, version, err);
        if (rc == LORICA_ENOTFOUND)
            rc = lorica_damaged(err, LORICA_EFORMAT, "%s@%" PRIu64 " is gone", publish->name,
                                number);
        if (!rc)
            rc = check_statement(publish, version, err);
    } else {
        rc = make_version(txn, publish, weights, actor, &identity, version, err);
    }
    if (!rc && publish->signature_len)
        rc = lorica_signature_add(txn, version, publish->signature, publish->signature_len, actor,
                                  ret_changed, err);
    if (!rc && publish->channel)
        rc = point_channel(txn, version, publish->channel, actor, ret_changed, err);
    return rc;
}

/* The transactions of a publish; the caller holds `publishing`. */
static int publish_locked(struct lorica_registry *registry, const struct lorica_publish *publish,
                          struct lorica_blob_file *weights, const struct lorica_actor *actor,
                          struct lorica_version *version, bool *ret_existing,
                          struct lorica_error *err) {
    struct lorica_txn *txn = NULL;
    bool changed = false;
    int rc = lorica_blob_stage(registry, weights, publish->give_way, publish->give_way_arg, err);
    if (rc)
        return rc;
    rc = lorica_store_begin(registry->store, true, &txn, err);
    if (!rc)
        rc = publish_inside(txn, publish, weights, actor, version, ret_existing, &changed, err);
    if (!rc && changed)
        rc = lorica_store_commit(txn, err);
    else
        lorica_store_abort(txn);
    if (rc)
        lorica_blob_unstage(registry, weights);
    return rc;
}

int lorica_registry_publish(struct lorica_registry *registry, const struct lorica_publish *publish,
                            const struct lorica_actor *actor, struct lorica_version *ret,
                            bool *ret_existing, struct lorica_error *err) {
    struct lorica_blob_file weights;
    struct lorica_digest canonical;
    struct lorica_version version = {0};
    bool existing = false;
    int rc = check_publish(publish, actor, err);
    if (!rc)
        rc = lorica_blob_file_open(publish->weights_path, publish->weights_digest, &weights, err);
    if (rc)
        return rc;
    weights.seal = publish->weights_digest ? publish->weights_seal : NULL;
    if (lorica_sha256(publish->canonical, publish->canonical_len, &canonical) ||
        lorica_version_digest(&canonical, &weights.digest, &version.digest)) {
        rc = lorica_fail(err, LORICA_ENOMEM, "out of memory");
    } else {
        pthread_mutex_lock(&registry->publishing);
        rc = publish_locked(registry, publish, &weights, actor, &version, &existing, err);
        pthread_mutex_unlock(&registry->publishing);
    }
    lorica_blob_file_close(&weights);
    if (rc)
        return rc;
    *ret = version;
    *ret_existing = existing;
    return 0;
}

/* Content into memory of its size. */
struct into {
    uint8_t *bytes;
    size_t len, size;
};

static int into_piece(void *arg, const void *bytes, size_t len) {
    struct into *into = arg;
    if (len > into->size - into->len)
        return LORICA_EBUG;
    memcpy(into->bytes + into->len, bytes, len);
    into->len += len;
    return 0;
}

static int read_content(struct lorica_registry *registry, const struct lorica_version *version,
                        const char *what, const struct lorica_digest *digest, uint64_t nbytes,
                        void **ret, size_t *ret_len, struct lorica_error *err) {
    struct lorica_error inner = {0};
    if (nbytes > LORICA_WEIGHTS_BYTES_MAX)
        return lorica_fail(err, LORICA_EINVAL, "%s of %s@%" PRIu64 ": no content is so long", what,
                           version->name, version->version);
    struct into into = {.bytes = malloc((size_t)nbytes + 1), .size = (size_t)nbytes};
    if (!into.bytes)
        return lorica_fail(err, LORICA_ENOMEM,
                           "%s of %s@%" PRIu64 ": no memory for %" PRIu64 " bytes", what,
                           version->name, version->version, nbytes);
    int rc = lorica_blob_read(registry->store, digest, nbytes, into_piece, &into, &inner);
    if (rc) {
        free(into.bytes);
        if (rc == LORICA_EFORMAT && lorica_blob_gone(registry->store, digest))
            return lorica_fail(err, LORICA_ENOTFOUND,
                               "%s of %s@%" PRIu64 " is gone: the version was deleted and its "
                               "content swept",
                               what, version->name, version->version);
        return lorica_fail(err, rc, "%s of %s@%" PRIu64 ": %.300s", what, version->name,
                           version->version, inner.text);
    }
    into.bytes[into.len] = 0;
    *ret = into.bytes;
    *ret_len = into.len;
    return 0;
}

/* Answers name a version by its digest: in a damaged record it may not be that of the weights which
 * the record names. */
static int check_identity(const struct lorica_version *version, struct lorica_error *err) {
    struct lorica_digest digest;
    if (lorica_version_digest(&version->canonical_digest, &version->weights_digest, &digest))
        return lorica_fail(err, LORICA_ENOMEM, "out of memory");
    if (lorica_digest_equal(&digest, &version->digest))
        return 0;
    return lorica_damaged(err, LORICA_EFORMAT,
                          "the record of %s@%" PRIu64 ", whose digest is not that of its content,",
                          version->name, version->version);
}

int lorica_config_check(const struct lorica_version *version, const char *text, size_t len,
                        struct lorica_error *err) {
    struct lorica_peft_config config = {0};
    struct lorica_error inner = {0};
    struct lorica_digest digest = {{0}};
    struct lorica_buf canonical;
    lorica_buf_init(&canonical, LORICA_TEXT_BYTES_MAX);
    int rc = lorica_peft_parse(text, len, &config, &inner);
    if (!rc && (lorica_peft_canonical(&canonical, &config) ||
                lorica_sha256(canonical.data, canonical.len, &digest)))
        rc = LORICA_ENOMEM;
    lorica_peft_finish(&config);
    lorica_buf_finish(&canonical);
    if (rc == LORICA_ENOMEM)
        return lorica_fail(err, rc, "out of memory");
    if (!rc && lorica_digest_equal(&digest, &version->canonical_digest))
        return 0;
    return lorica_damaged(err, LORICA_EFORMAT,
                          "the record of %s@%" PRIu64 ", whose config is not that of its digest,",
                          version->name, version->version);
}

int lorica_registry_config(struct lorica_registry *registry, const struct lorica_version *version,
                           char **ret, size_t *ret_len, struct lorica_error *err) {
    void *bytes;
    int rc = check_identity(version, err);
    if (!rc)
        rc = read_content(registry, version, "config", &version->config_digest,
                          version->config_nbytes, &bytes, ret_len, err);
    if (rc)
        return rc;
    rc = lorica_config_check(version, bytes, *ret_len, err);
    if (rc)
        free(bytes);
    else
        *ret = bytes;
    return rc;
}

int lorica_registry_weights(struct lorica_registry *registry, const struct lorica_version *version,
                            void **ret, size_t *ret_len, struct lorica_error *err) {
    const int rc = check_identity(version, err);
    if (rc)
        return rc;
    return read_content(registry, version, "weights", &version->weights_digest,
                        version->weights_nbytes, ret, ret_len, err);
}

int lorica_registry_manifest(struct lorica_registry *registry, const struct lorica_version *version,
                             char **ret, size_t *ret_len, struct lorica_error *err) {
    void *bytes;
    if (version->manifest_nbytes == 0)
        return lorica_fail(err, LORICA_ENOTFOUND, "%s@%" PRIu64 " was published without a manifest",
                           version->name, version->version);
    int rc = read_content(registry, version, "manifest", &version->manifest_digest,
                          version->manifest_nbytes, &bytes, ret_len, err);
    if (!rc)
        *ret = bytes;
    return rc;
}
