/* SPDX-License-Identifier: MIT */
#include "runtime/train/checkpoint.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/safetensors.h"

#define FORMAT "lorica checkpoint 2"
#define STATE_WORDS (sizeof(struct lorica_checkpoint_state) / 8)

_Static_assert(sizeof(size_t) == 8 && sizeof(struct lorica_checkpoint_state) == 13 * 8,
               "the file has 64-bit words");

enum part { WEIGHTS, BEST, MOMENTS, ORDER, ENDS, STATE, NOTES, PARTS };
static const char *const part_names[PARTS] = {"weights", "best",  "moments", "order",
                                              "ends",    "state", "notes"};

static size_t weights_nbytes(const struct lorica_checkpoint *c) {
    size_t sum = 0;
    for (size_t i = 0; i < c->weights_count; i++)
        sum += c->weights[i].iov_len;
    return sum;
}

/* Digest of the facts as they stand, and of the parts. */
static int digest_of(const struct lorica_hasher *hasher, const struct lorica_checkpoint *c,
                     const struct iovec *parts, size_t count, char text[LORICA_DIGEST_TEXT]) {
    struct lorica_digest digest;
    void *stream = hasher->create();
    if (!stream)
        return LORICA_ENOMEM;
    int rc = 0;
    for (size_t i = 0; i < c->fact_count && !rc; i++) {
        const struct lorica_checkpoint_fact *fact = &c->facts[i];
        rc = hasher->update(stream, fact->name, strlen(fact->name) + 1);
        if (!rc)
            rc = hasher->update(stream, fact->value, strlen(fact->value) + 1);
    }
    for (size_t i = 0; i < count && !rc; i++)
        rc = hasher->update(stream, parts[i].iov_base, parts[i].iov_len);
    if (rc) {
        (void)hasher->finish(stream, NULL);
        return rc;
    }
    rc = hasher->finish(stream, &digest);
    if (!rc)
        (void)lorica_digest_format(&digest, text);
    return rc;
}

static void describe(const struct lorica_checkpoint *c, struct lorica_tensor tensors[PARTS]) {
    const uint64_t counts[PARTS] = {weights_nbytes(c) / sizeof(float),
                                    c->best_count,
                                    c->moments_nbytes,
                                    c->order_count,
                                    c->ends_count,
                                    STATE_WORDS,
                                    c->notes.iov_len};
    static const enum lorica_dtype dtypes[PARTS] = {
        LORICA_DTYPE_F32, LORICA_DTYPE_F32, LORICA_DTYPE_U8, LORICA_DTYPE_I64,
        LORICA_DTYPE_I64, LORICA_DTYPE_I64, LORICA_DTYPE_U8};
    for (int i = 0; i < PARTS; i++)
        tensors[i] = (struct lorica_tensor){
            .name = part_names[i], .dtype = dtypes[i], .ndim = 1, .shape = {counts[i]}};
}

static int put_front(const struct lorica_checkpoint *c, const char *digest,
                     struct lorica_buf *front) {
    struct lorica_tensor tensors[PARTS];
    const char **metadata = calloc(2 * c->fact_count + 4, sizeof(*metadata));
    size_t count = 0;
    if (!metadata)
        return LORICA_ENOMEM;
    metadata[count++] = "format";
    metadata[count++] = FORMAT;
    metadata[count++] = "sha256";
    metadata[count++] = digest;
    for (size_t i = 0; i < c->fact_count; i++) {
        metadata[count++] = c->facts[i].name;
        metadata[count++] = c->facts[i].value;
    }
    describe(c, tensors);
    const int rc = lorica_safetensors_write_header(front, tensors, PARTS, metadata, count / 2);
    free(metadata);
    return rc ? rc : lorica_buf_status(front);
}

int lorica_checkpoint_encode(const struct lorica_checkpoint *c, const struct lorica_hasher *hasher,
                             struct lorica_buf *front, struct iovec **ret, size_t *ret_count,
                             struct lorica_error *err) {
    char digest[LORICA_DIGEST_TEXT];
    struct iovec *parts = malloc((c->weights_count + PARTS + 1) * sizeof(*parts));
    if (!parts)
        return lorica_fail(err, LORICA_ENOMEM, "no memory for a checkpoint");
    size_t used = 1;
    for (size_t i = 0; i < c->weights_count; i++)
        parts[used++] = c->weights[i];
    parts[used++] = (struct iovec){c->best, c->best_count * sizeof(*c->best)};
    parts[used++] = (struct iovec){c->moments, c->moments_nbytes};
    parts[used++] = (struct iovec){c->order, c->order_count * sizeof(*c->order)};
    parts[used++] = (struct iovec){c->ends, c->ends_count * sizeof(*c->ends)};
    parts[used++] = (struct iovec){c->state, sizeof(*c->state)};
    parts[used++] = c->notes;
    int rc = digest_of(hasher, c, parts + 1, used - 1, digest);
    if (!rc)
        rc = put_front(c, digest, front);
    if (rc) {
        free(parts);
        return lorica_fail(err, rc, "a checkpoint cannot be made: %s", lorica_err_text(rc));
    }
    parts[0] = (struct iovec){front->data, front->len};
    *ret = parts;
    *ret_count = used;
    return 0;
}

/* -- reading -- */

static int check_facts(const struct lorica_checkpoint *c, const struct lorica_safetensors *file,
                       struct lorica_error *err) {
    const char *format = lorica_safetensors_metadata(file, "format");
    if (!format || strcmp(format, FORMAT) != 0)
        return lorica_fail(err, LORICA_EFORMAT, "this is no checkpoint that this version wrote");
    for (size_t i = 0; i < c->fact_count; i++) {
        const char *then = lorica_safetensors_metadata(file, c->facts[i].name);
        if (!then || strcmp(then, c->facts[i].value) != 0)
            return lorica_fail(err, LORICA_ECONFLICT,
                               "%s was %.80s when the checkpoint was written, and is %s now",
                               c->facts[i].name, then ? then : "unknown", c->facts[i].value);
    }
    return 0;
}

/* Finds the parts, of the sizes that are expected. */
static int find_parts(const struct lorica_checkpoint *c, const struct lorica_safetensors *file,
                      const char *bytes, struct iovec found[PARTS], struct lorica_error *err) {
    struct lorica_tensor wanted[PARTS];
    describe(c, wanted);
    for (int i = 0; i < PARTS; i++) {
        const struct lorica_tensor *t = lorica_safetensors_find(file, part_names[i]);
        if (!t || t->dtype != wanted[i].dtype || t->ndim != 1)
            return lorica_fail(err, LORICA_EFORMAT, "there are no %s in it", part_names[i]);
        if (t->shape[0] != wanted[i].shape[0])
            return lorica_fail(
                err, LORICA_ECONFLICT,
                "it has %llu %s, where this run has %llu: something else has changed",
                (unsigned long long)t->shape[0], part_names[i],
                (unsigned long long)wanted[i].shape[0]);
        found[i] = (struct iovec){(char *)(uintptr_t)bytes + t->offset, (size_t)t->nbytes};
    }
    return 0;
}

static size_t word_at(const struct iovec *part, size_t i) {
    size_t word;
    memcpy(&word, (const char *)part->iov_base + i * sizeof(word), sizeof(word));
    return word;
}

/* What no run writes must not come from a file either: orders and passes index arrays. */
static int check_values(const struct lorica_checkpoint *c, const struct iovec found[PARTS],
                        struct lorica_checkpoint_state *ret, struct lorica_error *err) {
    bool fine = true;
    size_t end = 0;
    memcpy(ret, found[STATE].iov_base, sizeof(*ret));
    for (size_t i = 0; i < c->order_count && fine; i++)
        fine = word_at(&found[ORDER], i) < c->order_count;
    for (size_t i = 0; i < c->ends_count && fine; i++) {
        const size_t next = word_at(&found[ENDS], i);
        fine = next >= end && next - end <= c->max_rows;
        end = next;
    }
    if (!fine || end != c->order_count || ret->pass > c->ends_count || ret->step == 0)
        return lorica_fail(err, LORICA_EFORMAT, "its order of examples is damaged");
    return 0;
}

static int check_digest(const struct lorica_checkpoint *c, const struct lorica_safetensors *file,
                        const struct lorica_hasher *hasher, const struct iovec found[PARTS],
                        struct lorica_error *err) {
    const char *then = lorica_safetensors_metadata(file, "sha256");
    char now[LORICA_DIGEST_TEXT];
    const int rc = digest_of(hasher, c, found, PARTS, now);
    if (rc)
        return lorica_fail(err, rc, "it cannot be checked: %s", lorica_err_text(rc));
    return then && strcmp(then, now) == 0
               ? 0
               : lorica_fail(err, LORICA_EFORMAT, "it is damaged: its digest does not hold");
}

int lorica_checkpoint_decode(const void *bytes, size_t len, const struct lorica_hasher *hasher,
                             const struct lorica_checkpoint *c, struct lorica_error *err) {
    struct lorica_safetensors file = {0};
    struct lorica_checkpoint_state state;
    struct iovec found[PARTS];
    int rc = lorica_safetensors_parse(bytes, len, len, &file, err);
    if (!rc)
        rc = check_facts(c, &file, err);
    if (!rc)
        rc = find_parts(c, &file, bytes, found, err);
    if (!rc)
        rc = check_values(c, found, &state, err);
    if (!rc)
        rc = check_digest(c, &file, hasher, found, err);
    lorica_safetensors_finish(&file);
    if (rc)
        return rc;
    const char *at = found[WEIGHTS].iov_base;
    for (size_t i = 0; i < c->weights_count; at += c->weights[i++].iov_len)
        memcpy(c->weights[i].iov_base, at, c->weights[i].iov_len);
    void *const places[PARTS] = {[BEST] = c->best,
                                 [MOMENTS] = c->moments,
                                 [ORDER] = c->order,
                                 [ENDS] = c->ends,
                                 [NOTES] = c->notes.iov_base};
    for (int i = 0; i < PARTS; i++)
        if (places[i] && found[i].iov_len > 0)
            memcpy(places[i], found[i].iov_base, found[i].iov_len);
    *c->state = state;
    return 0;
}
