/* SPDX-License-Identifier: MIT */
#include "registry/record.h"

#include <math.h>
#include <string.h>

#include "proto/utf8.h"

#define FORMAT 1         /* of every record that has had only one */
#define FORMAT_DETAIL 2  /* of an audit record with a detail */
#define FORMAT_OTHER 2   /* of a version that was trained on another base */
#define FORMAT_SIGNED 2  /* of a policy that demands a signature */
#define FORMAT_CHECKED 3 /* of a policy with checks */

enum { VERSION_BASE_STATED = 1 };

/* Writing: a record too long is remembered and reported once at the end. */

struct writer {
    struct lorica_record *record;
    bool failed;
};

static void put_bytes(struct writer *w, const void *bytes, size_t len) {
    if (len > sizeof(w->record->bytes) - w->record->len) {
        w->failed = true;
        return;
    }
    if (len)
        memcpy(w->record->bytes + w->record->len, bytes, len);
    w->record->len += len;
}

static void put_uint(struct writer *w, uint64_t number, size_t nbytes) {
    uint8_t bytes[8];
    for (size_t i = 0; i < nbytes; i++)
        bytes[i] = (uint8_t)(number >> (8 * (nbytes - 1 - i)));
    put_bytes(w, bytes, nbytes);
}

static void put_text(struct writer *w, const char *text, size_t max) {
    size_t len = strnlen(text, max + 1);
    if (len > max) {
        w->failed = true;
        return;
    }
    put_uint(w, len, 2);
    put_bytes(w, text, len);
}

static void put_digest(struct writer *w, const struct lorica_digest *digest) {
    put_bytes(w, digest->bytes, sizeof(digest->bytes));
}

static struct writer begin_write_as(struct lorica_record *record, unsigned format) {
    struct writer w = {.record = record};
    record->len = 0;
    put_uint(&w, format, 1);
    return w;
}

static struct writer begin_write(struct lorica_record *record) {
    return begin_write_as(record, FORMAT);
}

static int end_write(const struct writer *w) { return w->failed ? LORICA_EBUG : 0; }

/* Reading: after the first fault everything reads as zero, and the end reports it. */

struct reader {
    const uint8_t *at;
    size_t left;
    int failure;
};

static void read_fault(struct reader *r, int code) {
    if (!r->failure)
        r->failure = code;
    r->left = 0;
}

static void get_bytes(struct reader *r, void *out, size_t len) {
    if (r->failure || len > r->left) {
        read_fault(r, LORICA_EFORMAT);
        memset(out, 0, len);
        return;
    }
    if (len)
        memcpy(out, r->at, len);
    r->at += len;
    r->left -= len;
}

static uint64_t get_uint(struct reader *r, size_t nbytes) {
    uint8_t bytes[8];
    uint64_t number = 0;
    get_bytes(r, bytes, nbytes);
    for (size_t i = 0; i < nbytes; i++)
        number = number << 8 | bytes[i];
    return number;
}

/* `out` holds max + 1 bytes. */
static void get_text(struct reader *r, char *out, size_t max) {
    size_t len = (size_t)get_uint(r, 2);
    out[0] = '\0';
    if (len > max || len > r->left) {
        read_fault(r, LORICA_EFORMAT);
        return;
    }
    get_bytes(r, out, len);
    out[len] = '\0';
    if (memchr(out, '\0', len) || !lorica_utf8_valid(out, len))
        read_fault(r, LORICA_EFORMAT);
}

static void get_digest(struct reader *r, struct lorica_digest *out) {
    get_bytes(r, out->bytes, sizeof(out->bytes));
}

/* A time or other signed number of 64 bits. */
static int64_t get_signed(struct reader *r) {
    uint64_t number = get_uint(r, 8);
    int64_t value;
    memcpy(&value, &number, sizeof(value));
    return value;
}

/* Formats count from 1 up to `newest`; which one it is goes to *ret_format. */
static struct reader begin_read_upto(const void *bytes, size_t len, unsigned newest,
                                     uint64_t *ret_format) {
    struct reader r = {.at = bytes, .left = len};
    *ret_format = get_uint(&r, 1);
    if (*ret_format > newest)
        read_fault(&r, LORICA_EUNSUPPORTED);
    else if (*ret_format == 0)
        read_fault(&r, LORICA_EFORMAT);
    return r;
}

static struct reader begin_read(const void *bytes, size_t len) {
    uint64_t format;
    return begin_read_upto(bytes, len, FORMAT, &format);
}

static int end_read(const struct reader *r) {
    if (r->failure)
        return r->failure;
    return r->left ? LORICA_EFORMAT : 0;
}

int lorica_record_encode_number(uint64_t number, struct lorica_record *ret) {
    struct writer w = begin_write(ret);
    put_uint(&w, number, 8);
    return end_write(&w);
}

int lorica_record_decode_number(const void *bytes, size_t len, uint64_t *ret) {
    struct reader r = begin_read(bytes, len);
    *ret = get_uint(&r, 8);
    return end_read(&r);
}

int lorica_record_encode_name(const char *name, struct lorica_record *ret) {
    struct writer w = begin_write(ret);
    put_text(&w, name, LORICA_NAME_MAX);
    return end_write(&w);
}

int lorica_record_decode_name(const void *bytes, size_t len, char ret[LORICA_NAME_MAX + 1]) {
    struct reader r = begin_read(bytes, len);
    get_text(&r, ret, LORICA_NAME_MAX);
    return end_read(&r);
}

int lorica_record_encode_version(const struct lorica_version *version, struct lorica_record *ret) {
    struct writer w = begin_write_as(ret, version->other_base ? FORMAT_OTHER : FORMAT);
    put_uint(&w, version->seq, 8);
    put_digest(&w, &version->digest);
    put_digest(&w, &version->config_digest);
    put_digest(&w, &version->canonical_digest);
    put_digest(&w, &version->weights_digest);
    put_digest(&w, &version->base_digest);
    put_digest(&w, &version->manifest_digest);
    put_uint(&w, version->config_nbytes, 8);
    put_uint(&w, version->canonical_nbytes, 8);
    put_uint(&w, version->weights_nbytes, 8);
    put_uint(&w, version->manifest_nbytes, 8);
    put_uint(&w, version->rank, 4);
    put_uint(&w, version->base_stated ? VERSION_BASE_STATED : 0, 1);
    if (version->other_base)
        put_digest(&w, &version->trained_digest);
    return end_write(&w);
}

int lorica_record_decode_version(const void *bytes, size_t len, struct lorica_version *ret) {
    uint64_t format;
    struct reader r = begin_read_upto(bytes, len, FORMAT_OTHER, &format);
    memset(ret, 0, sizeof(*ret));
    ret->seq = get_uint(&r, 8);
    get_digest(&r, &ret->digest);
    get_digest(&r, &ret->config_digest);
    get_digest(&r, &ret->canonical_digest);
    get_digest(&r, &ret->weights_digest);
    get_digest(&r, &ret->base_digest);
    get_digest(&r, &ret->manifest_digest);
    ret->config_nbytes = get_uint(&r, 8);
    ret->canonical_nbytes = get_uint(&r, 8);
    ret->weights_nbytes = get_uint(&r, 8);
    ret->manifest_nbytes = get_uint(&r, 8);
    ret->rank = (uint32_t)get_uint(&r, 4);
    uint64_t flags = get_uint(&r, 1);
    if (flags & ~(uint64_t)VERSION_BASE_STATED)
        read_fault(&r, LORICA_EFORMAT);
    ret->base_stated = flags & VERSION_BASE_STATED;
    ret->other_base = format == FORMAT_OTHER;
    if (ret->other_base)
        get_digest(&r, &ret->trained_digest);
    return end_read(&r);
}

int lorica_record_encode_channel(const struct lorica_channel_record *channel,
                                 struct lorica_record *ret) {
    struct writer w = begin_write(ret);
    put_uint(&w, channel->version, 8);
    put_uint(&w, channel->epoch, 8);
    put_uint(&w, channel->seq, 8);
    return end_write(&w);
}

int lorica_record_decode_channel(const void *bytes, size_t len, struct lorica_channel_record *ret) {
    struct reader r = begin_read(bytes, len);
    ret->version = get_uint(&r, 8);
    ret->epoch = get_uint(&r, 8);
    ret->seq = get_uint(&r, 8);
    return end_read(&r);
}

int lorica_record_encode_tombstone(const struct lorica_tombstone_record *tombstone,
                                   struct lorica_record *ret) {
    struct writer w = begin_write(ret);
    put_uint(&w, tombstone->seq, 8);
    put_uint(&w, tombstone->swept_seq, 8);
    return end_write(&w);
}

int lorica_record_decode_tombstone(const void *bytes, size_t len,
                                   struct lorica_tombstone_record *ret) {
    struct reader r = begin_read(bytes, len);
    ret->seq = get_uint(&r, 8);
    ret->swept_seq = get_uint(&r, 8);
    return end_read(&r);
}

int lorica_record_encode_retention(const struct lorica_retention_record *retention,
                                   struct lorica_record *ret) {
    struct writer w = begin_write(ret);
    put_uint(&w, retention->days, 4);
    put_uint(&w, retention->seq, 8);
    return end_write(&w);
}

int lorica_record_decode_retention(const void *bytes, size_t len,
                                   struct lorica_retention_record *ret) {
    struct reader r = begin_read(bytes, len);
    ret->days = (uint32_t)get_uint(&r, 4);
    ret->seq = get_uint(&r, 8);
    return end_read(&r);
}

int lorica_record_encode_audit(const struct lorica_audit *audit, struct lorica_record *ret) {
    struct writer w = begin_write_as(ret, audit->detail[0] ? FORMAT_DETAIL : FORMAT);
    put_uint(&w, audit->seq, 8);
    put_uint(&w, audit->kind, 1);
    put_uint(&w, (uint64_t)audit->time_ms, 8);
    put_text(&w, audit->actor, LORICA_NAME_MAX);
    put_text(&w, audit->name, LORICA_NAME_MAX);
    put_text(&w, audit->channel, LORICA_CHANNEL_MAX);
    put_uint(&w, audit->version, 8);
    put_uint(&w, audit->previous, 8);
    put_uint(&w, audit->epoch, 8);
    put_uint(&w, audit->before, 8);
    put_digest(&w, &audit->digest);
    put_text(&w, audit->message, LORICA_MESSAGE_MAX);
    if (audit->detail[0])
        put_text(&w, audit->detail, LORICA_DETAIL_MAX);
    return end_write(&w);
}

int lorica_record_decode_audit(const void *bytes, size_t len, struct lorica_audit *ret) {
    uint64_t format;
    struct reader r = begin_read_upto(bytes, len, FORMAT_DETAIL, &format);
    memset(ret, 0, sizeof(*ret));
    ret->seq = get_uint(&r, 8);
    uint64_t kind = get_uint(&r, 1);
    if (kind >= LORICA_AUDIT_COUNT)
        read_fault(&r, LORICA_EFORMAT);
    else
        ret->kind = (enum lorica_audit_kind)kind;
    ret->time_ms = get_signed(&r);
    get_text(&r, ret->actor, LORICA_NAME_MAX);
    get_text(&r, ret->name, LORICA_NAME_MAX);
    get_text(&r, ret->channel, LORICA_CHANNEL_MAX);
    ret->version = get_uint(&r, 8);
    ret->previous = get_uint(&r, 8);
    ret->epoch = get_uint(&r, 8);
    ret->before = get_uint(&r, 8);
    get_digest(&r, &ret->digest);
    get_text(&r, ret->message, LORICA_MESSAGE_MAX);
    if (format == FORMAT_DETAIL) {
        get_text(&r, ret->detail, LORICA_DETAIL_MAX);
        if (!ret->detail[0])
            read_fault(&r, LORICA_EFORMAT);
    }
    get_digest(&r, &ret->hash);
    return end_read(&r);
}

int lorica_record_encode_key(const struct lorica_key_record *key, struct lorica_record *ret) {
    struct writer w = begin_write(ret);
    if (key->key.glob_count > LORICA_KEY_GLOBS)
        return LORICA_EBUG;
    put_digest(&w, &key->secret);
    put_text(&w, key->key.name, LORICA_NAME_MAX);
    put_uint(&w, key->key.role, 1);
    put_uint(&w, (uint64_t)key->key.created_ms, 8);
    put_uint(&w, (uint64_t)key->key.revoked_ms, 8);
    put_uint(&w, key->key.glob_count, 1);
    for (size_t i = 0; i < key->key.glob_count; i++)
        put_text(&w, key->key.globs[i], LORICA_NAME_MAX);
    return end_write(&w);
}

int lorica_record_decode_key(const void *bytes, size_t len, struct lorica_key_record *ret) {
    struct reader r = begin_read(bytes, len);
    memset(ret, 0, sizeof(*ret));
    get_digest(&r, &ret->secret);
    get_text(&r, ret->key.name, LORICA_NAME_MAX);
    uint64_t role = get_uint(&r, 1);
    if (role > LORICA_ROLE_ADMIN)
        read_fault(&r, LORICA_EFORMAT);
    else
        ret->key.role = (enum lorica_role)role;
    ret->key.created_ms = get_signed(&r);
    ret->key.revoked_ms = get_signed(&r);
    uint64_t count = get_uint(&r, 1);
    if (count > LORICA_KEY_GLOBS) {
        read_fault(&r, LORICA_EFORMAT);
        count = 0;
    }
    ret->key.glob_count = (size_t)count;
    for (size_t i = 0; i < ret->key.glob_count; i++)
        get_text(&r, ret->key.globs[i], LORICA_NAME_MAX);
    return end_read(&r);
}

int lorica_record_encode_split(const struct lorica_split_record *split, struct lorica_record *ret) {
    struct writer w = begin_write(ret);
    put_uint(&w, split->terms.version, 8);
    put_uint(&w, split->terms.share, 4);
    put_uint(&w, split->terms.window_s, 4);
    put_uint(&w, split->terms.min_requests, 4);
    put_uint(&w, split->terms.max_error_excess, 4);
    put_uint(&w, split->terms.max_latency_ratio, 4);
    put_uint(&w, split->epoch, 8);
    put_uint(&w, split->seq, 8);
    put_uint(&w, split->first, 8);
    return end_write(&w);
}

int lorica_record_decode_split(const void *bytes, size_t len, struct lorica_split_record *ret) {
    struct reader r = begin_read(bytes, len);
    memset(ret, 0, sizeof(*ret));
    ret->terms.version = get_uint(&r, 8);
    ret->terms.share = (uint32_t)get_uint(&r, 4);
    ret->terms.window_s = (uint32_t)get_uint(&r, 4);
    ret->terms.min_requests = (uint32_t)get_uint(&r, 4);
    ret->terms.max_error_excess = (uint32_t)get_uint(&r, 4);
    ret->terms.max_latency_ratio = (uint32_t)get_uint(&r, 4);
    ret->epoch = get_uint(&r, 8);
    ret->seq = get_uint(&r, 8);
    ret->first = get_uint(&r, 8);
    const struct lorica_split_terms *t = &ret->terms;
    const bool ended = t->version == 0;
    const bool rule = t->window_s || t->min_requests || t->max_error_excess || t->max_latency_ratio;
    if (ended != (ret->first == 0) || ended != (t->share == 0) || t->share > LORICA_SPLIT_WHOLE ||
        (ended && rule))
        read_fault(&r, LORICA_EFORMAT);
    return end_read(&r);
}

static void put_double(struct writer *w, double number) {
    uint64_t bits;
    memcpy(&bits, &number, sizeof(bits));
    put_uint(w, bits, 8);
}

static double get_double(struct reader *r) {
    uint64_t bits = get_uint(r, 8);
    double number;
    memcpy(&number, &bits, sizeof(number));
    return number;
}

int lorica_record_encode_policy(const struct lorica_policy_record *policy,
                                struct lorica_record *ret) {
    const struct lorica_policy *p = &policy->policy;
    struct writer w = begin_write_as(ret, p->checks              ? FORMAT_CHECKED
                                          : p->trusted_signature ? FORMAT_SIGNED
                                                                 : FORMAT);
    put_uint(&w, p->epoch, 8);
    put_uint(&w, policy->seq, 8);
    put_uint(&w, p->approvals, 4);
    put_uint(&w, p->min_role, 1);
    put_uint(&w, p->max_rank, 4);
    put_uint(&w, p->max_nbytes, 8);
    put_text(&w, p->eval_set, LORICA_EVAL_SET_MAX);
    put_double(&w, p->max_worse);
    if (p->trusted_signature || p->checks)
        put_uint(&w, p->trusted_signature, 1);
    if (p->checks) {
        put_uint(&w, p->checks, 4);
        put_digest(&w, &p->checks_digest);
    }
    return end_write(&w);
}

int lorica_record_decode_policy(const void *bytes, size_t len, struct lorica_policy_record *ret) {
    uint64_t format;
    struct reader r = begin_read_upto(bytes, len, FORMAT_CHECKED, &format);
    struct lorica_policy *p = &ret->policy;
    memset(ret, 0, sizeof(*ret));
    p->epoch = get_uint(&r, 8);
    ret->seq = get_uint(&r, 8);
    p->approvals = (uint32_t)get_uint(&r, 4);
    uint64_t role = get_uint(&r, 1);
    if (role > LORICA_ROLE_ADMIN)
        read_fault(&r, LORICA_EFORMAT);
    else
        p->min_role = (enum lorica_role)role;
    p->max_rank = (uint32_t)get_uint(&r, 4);
    p->max_nbytes = get_uint(&r, 8);
    get_text(&r, p->eval_set, LORICA_EVAL_SET_MAX);
    p->max_worse = get_double(&r);
    if (!r.failure && !isfinite(p->max_worse))
        read_fault(&r, LORICA_EFORMAT);
    const uint64_t is_signed = format >= FORMAT_SIGNED ? get_uint(&r, 1) : 0;
    p->trusted_signature = is_signed == 1;
    if (is_signed > 1 || (format == FORMAT_SIGNED && is_signed == 0))
        read_fault(&r, LORICA_EFORMAT);
    if (format == FORMAT_CHECKED) {
        p->checks = (uint32_t)get_uint(&r, 4);
        get_digest(&r, &p->checks_digest);
        if (p->checks == 0)
            read_fault(&r, LORICA_EFORMAT);
    }
    return end_read(&r);
}

int lorica_record_encode_approval(const struct lorica_approval_record *approval,
                                  struct lorica_record *ret) {
    struct writer w = begin_write(ret);
    put_uint(&w, approval->epoch, 8);
    put_uint(&w, approval->seq, 8);
    return end_write(&w);
}

int lorica_record_decode_approval(const void *bytes, size_t len,
                                  struct lorica_approval_record *ret) {
    struct reader r = begin_read(bytes, len);
    ret->epoch = get_uint(&r, 8);
    ret->seq = get_uint(&r, 8);
    return end_read(&r);
}

int lorica_record_encode_signer(const struct lorica_signer_record *signer,
                                struct lorica_record *ret) {
    struct writer w = begin_write(ret);
    put_text(&w, signer->public_pem, LORICA_PUBLIC_PEM_MAX - 1);
    put_uint(&w, signer->seq, 8);
    put_uint(&w, signer->removed_seq, 8);
    return end_write(&w);
}

int lorica_record_decode_signer(const void *bytes, size_t len, struct lorica_signer_record *ret) {
    struct reader r = begin_read(bytes, len);
    get_text(&r, ret->public_pem, LORICA_PUBLIC_PEM_MAX - 1);
    ret->seq = get_uint(&r, 8);
    ret->removed_seq = get_uint(&r, 8);
    return end_read(&r);
}

int lorica_record_encode_signature(const struct lorica_signature_record *signature,
                                   struct lorica_record *ret) {
    struct writer w = begin_write(ret);
    put_uint(&w, signature->form, 1);
    put_uint(&w, signature->bound, 1);
    put_uint(&w, signature->seq, 8);
    put_uint(&w, signature->text_len, 4);
    if (signature->text_len == 0 || signature->text_len > LORICA_SIGNATURE_BYTES_MAX)
        return LORICA_EBUG;
    return end_write(&w);
}

int lorica_record_decode_signature(const void *bytes, size_t len,
                                   struct lorica_signature_record *ret) {
    struct reader r = begin_read(bytes, len);
    const uint64_t form = get_uint(&r, 1), bound = get_uint(&r, 1);
    ret->seq = get_uint(&r, 8);
    ret->text_len = (size_t)get_uint(&r, 4);
    if (form >= LORICA_SIGNATURE_COUNT || bound > 1 || ret->text_len == 0 ||
        ret->text_len > LORICA_SIGNATURE_BYTES_MAX || r.left != ret->text_len)
        read_fault(&r, LORICA_EFORMAT);
    ret->form = (enum lorica_signature_form)form;
    ret->bound = bound;
    ret->text = (const char *)r.at;
    return r.failure;
}

/* Keys. Names are checked before they come here; a longer text is cut, which only makes a key that
 * no record has. */

static void key_bytes(struct lorica_record_key *key, const void *bytes, size_t len) {
    size_t room = sizeof(key->bytes) - key->len;
    if (len > room)
        len = room;
    if (len)
        memcpy(key->bytes + key->len, bytes, len);
    key->len += len;
}

static void key_number(struct lorica_record_key *key, uint64_t number, size_t nbytes) {
    uint8_t bytes[8];
    for (size_t i = 0; i < nbytes; i++)
        bytes[i] = (uint8_t)(number >> (8 * (nbytes - 1 - i)));
    key_bytes(key, bytes, nbytes);
}

void lorica_record_key_name(const char *name, struct lorica_record_key *ret) {
    ret->len = 0;
    key_bytes(ret, name, strlen(name));
}

void lorica_record_key_numbered(const char *name, uint64_t number, struct lorica_record_key *ret) {
    ret->len = 0;
    key_bytes(ret, name, strlen(name) + 1);
    key_number(ret, number, 8);
}

void lorica_record_key_channel(const char *name, const char *channel,
                               struct lorica_record_key *ret) {
    ret->len = 0;
    key_bytes(ret, name, strlen(name) + 1);
    key_bytes(ret, channel, strlen(channel));
}

void lorica_record_key_approval(const char *name, const char *channel, uint64_t number,
                                const char *key_name, struct lorica_record_key *ret) {
    ret->len = 0;
    key_bytes(ret, name, strlen(name) + 1);
    key_bytes(ret, channel, strlen(channel) + 1);
    if (number)
        key_number(ret, number, 8);
    if (key_name)
        key_bytes(ret, key_name, strlen(key_name));
}

/* Takes text of 1 to `max` bytes off the front of a key, up to its NUL or (`last`) its end. */
static bool key_text(const char **at, size_t *left, bool last, size_t max, char *out) {
    const size_t len = strnlen(*at, *left);
    if (len == 0 || len > max || (len == *left) != last)
        return false;
    memcpy(out, *at, len);
    out[len] = '\0';
    *at += len + !last;
    *left -= len + !last;
    return true;
}

bool lorica_record_key_split(const void *bytes, size_t len, char name[LORICA_NAME_MAX + 1],
                             char channel[LORICA_CHANNEL_MAX + 1], uint64_t *ret_number,
                             char key_name[LORICA_NAME_MAX + 1]) {
    const char *at = bytes;
    if (!key_text(&at, &len, false, LORICA_NAME_MAX, name) ||
        !key_text(&at, &len, !key_name, LORICA_CHANNEL_MAX, channel))
        return false;
    if (!key_name)
        return true;
    if (len < 8)
        return false;
    *ret_number = 0;
    for (size_t i = 0; i < 8; i++)
        *ret_number = *ret_number << 8 | (uint8_t)at[i];
    at += 8;
    len -= 8;
    return key_text(&at, &len, true, LORICA_NAME_MAX, key_name);
}

void lorica_record_key_signature(const char *name, uint64_t number,
                                 const struct lorica_digest *key_id,
                                 struct lorica_record_key *ret) {
    lorica_record_key_numbered(name, number, ret);
    if (key_id)
        key_bytes(ret, key_id->bytes, sizeof(key_id->bytes));
}

bool lorica_record_key_split_signature(const void *bytes, size_t len,
                                       char name[LORICA_NAME_MAX + 1], uint64_t *ret_number,
                                       struct lorica_digest *ret_key_id) {
    const size_t id_len = sizeof(ret_key_id->bytes);
    if (len <= id_len || !lorica_record_key_split_numbered(bytes, len - id_len, name, ret_number))
        return false;
    memcpy(ret_key_id->bytes, (const uint8_t *)bytes + len - id_len, id_len);
    return true;
}

void lorica_record_key_identity(const char *name, const struct lorica_digest *digest,
                                const struct lorica_digest *base, struct lorica_record_key *ret) {
    ret->len = 0;
    key_bytes(ret, name, strlen(name) + 1);
    key_bytes(ret, digest->bytes, sizeof(digest->bytes));
    key_bytes(ret, base->bytes, sizeof(base->bytes));
}

void lorica_record_key_number(uint64_t number, struct lorica_record_key *ret) {
    ret->len = 0;
    key_number(ret, number, 8);
}

void lorica_record_key_digest(const struct lorica_digest *digest, struct lorica_record_key *ret) {
    ret->len = 0;
    key_bytes(ret, digest->bytes, sizeof(digest->bytes));
}

void lorica_record_key_chunk(const struct lorica_digest *digest, uint32_t chunk,
                             struct lorica_record_key *ret) {
    lorica_record_key_digest(digest, ret);
    key_number(ret, chunk, 4);
}

bool lorica_record_key_of(const void *bytes, size_t len, const char *name, uint64_t *ret) {
    size_t name_len = strlen(name) + 1;
    if (len != name_len + 8 || memcmp(bytes, name, name_len) != 0)
        return false;
    const uint8_t *at = (const uint8_t *)bytes + name_len;
    uint64_t number = 0;
    for (size_t i = 0; i < 8; i++)
        number = number << 8 | at[i];
    *ret = number;
    return true;
}

bool lorica_record_key_split_numbered(const void *bytes, size_t len,
                                      char ret_name[LORICA_NAME_MAX + 1], uint64_t *ret) {
    size_t name_len = strnlen(bytes, len);
    if (name_len > LORICA_NAME_MAX || len != name_len + 9)
        return false;
    memcpy(ret_name, bytes, name_len + 1);
    return lorica_record_key_of(bytes, len, ret_name, ret);
}
