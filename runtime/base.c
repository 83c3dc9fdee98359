/* SPDX-License-Identifier: MIT
 * Opens a base file: everything is checked before anything is used, and nothing of the data read.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/base_file.h"

/** What base->owned points to. */
struct mapping {
    struct lorica_map map;
    const struct lorica_base_entry *table;
    const uint8_t *data;
};

static int damaged(struct lorica_error *err, const char *label, const char *what) {
    return lorica_fail(err, LORICA_EFORMAT,
                       "%s: %s; the file is damaged or cut short: import the model again", label,
                       what);
}

int lorica_map_open(const char *path, struct lorica_map *ret, struct lorica_error *err) {
    struct stat st;
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) || !S_ISREG(st.st_mode)) {
        const int code = fd < 0 ? errno : EINVAL;
        if (fd >= 0)
            (void)close(fd);
        return lorica_fail(err, code == ENOENT ? LORICA_ENOTFOUND : LORICA_EIO, "%s: %s", path,
                           code == EINVAL ? "not a regular file" : strerror(code));
    }
    struct lorica_map map = {.len = (size_t)st.st_size};
    if (map.len > 0) {
        void *p = mmap(NULL, map.len, PROT_READ, MAP_SHARED, fd, 0);
        if (p == MAP_FAILED) {
            (void)close(fd);
            return lorica_fail(err, LORICA_EIO, "%s: cannot map: %s", path, strerror(errno));
        }
        map.data = p;
    }
    (void)close(fd);
    *ret = map;
    return 0;
}

void lorica_map_close(struct lorica_map *map) {
    if (map->data)
        (void)munmap(map->data, map->len);
    *map = (struct lorica_map){0};
}

static bool range_ok(uint64_t offset, uint64_t len, uint64_t limit) {
    return offset <= limit && len <= limit - offset;
}

static int check_header(const uint8_t *file, uint64_t len, const char *label,
                        struct lorica_error *err) {
    const struct lorica_base_header *h = (const void *)file;
    if (len < sizeof(*h) || memcmp(h->magic, LORICA_BASE_MAGIC, sizeof(h->magic)) != 0)
        return lorica_fail(err, LORICA_EFORMAT,
                           "%s: not a lorica base file; make one with: lorica base import", label);
    if (h->version != LORICA_BASE_VERSION)
        return lorica_fail(err, LORICA_EUNSUPPORTED,
                           "%s: base file version %u, this lorica reads version %d: import the "
                           "model again",
                           label, h->version, LORICA_BASE_VERSION);
    if (h->file_len != len)
        return damaged(err, label, "its length is not what its header says");
    static const uint8_t zeros[32];
    if (h->zero || memcmp(h->reserved, zeros, sizeof(zeros)) != 0)
        return damaged(err, label, "reserved header bytes are not zero");
    if (!range_ok(h->metadata_offset, h->metadata_len, len - 1) ||
        file[h->metadata_offset + h->metadata_len] != 0)
        return damaged(err, label, "the metadata lies outside the file");
    if (h->table_count > 1u << 20 || h->table_offset % 8 ||
        !range_ok(h->table_offset, h->table_count * sizeof(struct lorica_base_entry), len))
        return damaged(err, label, "the tensor table lies outside the file");
    if (h->data_offset > len || h->data_offset % LORICA_BASE_PAGE)
        return damaged(err, label, "the data lies outside the file");
    return 0;
}

/* One entry against the architecture and the file. */
static int check_entry(const struct lorica_arch *arch, const struct lorica_base_entry *e,
                       uint64_t index, uint64_t data_len, const char *label,
                       struct lorica_error *err) {
    uint32_t layer = 0, n = 0, k = 0;
    char name[64];
    const enum lorica_slot slot = lorica_base_entry_slot(arch, index, &layer);
    lorica_slot_name(slot, layer, name);
    lorica_slot_shape(arch, slot, &n, &k);
    if (memcmp(name, e->name, sizeof(name)) != 0)
        return lorica_fail(err, LORICA_EFORMAT, "%s: tensor %llu is not %s as it must be", label,
                           (unsigned long long)index, name);
    if (e->n != n || e->k != k)
        return lorica_fail(err, LORICA_EFORMAT,
                           "%s: %s is [%u, %u], the architecture says [%u, %u]", label, name, e->n,
                           e->k, n, k);
    const bool vector = slot == LORICA_SLOT_ATTN_NORM || slot == LORICA_SLOT_MLP_NORM ||
                        slot == LORICA_SLOT_FINAL_NORM;
    const bool table = slot == LORICA_SLOT_EMBED || slot == LORICA_SLOT_HEAD;
    if (e->format >= LORICA_FORMAT_COUNT || (vector && e->format != LORICA_FORMAT_F32) ||
        (table && e->format == LORICA_FORMAT_NF4) ||
        (e->format == LORICA_FORMAT_Q8 && k % LORICA_Q8_BLOCK) ||
        e->source >= LORICA_FORMAT_COUNT || (e->flags & ~LORICA_ENTRY_NESTED) ||
        (e->flags && e->format != LORICA_FORMAT_NF4))
        return lorica_fail(err, LORICA_EFORMAT, "%s: %s has a format that it cannot have", label,
                           name);
    uint64_t sizes[LORICA_PART_COUNT];
    lorica_base_part_sizes(e, sizes);
    for (int i = 0; i < LORICA_PART_COUNT; i++)
        if (e->parts[i].len != sizes[i] || e->parts[i].offset % LORICA_BASE_ALIGN ||
            !range_ok(e->parts[i].offset, sizes[i], data_len))
            return lorica_fail(err, LORICA_EFORMAT,
                               "%s: part %d of %s lies outside the file; import the model again",
                               label, i, name);
    return 0;
}

static const void *part_at(const struct mapping *m, const struct lorica_base_entry *e,
                           enum lorica_base_part part) {
    return m->data + e->parts[part].offset;
}

static struct lorica_matrix matrix_of(const struct mapping *m, const struct lorica_base_entry *e) {
    struct lorica_matrix x = {.format = (enum lorica_format)e->format, .n = e->n, .k = e->k};
    x.data = part_at(m, e, LORICA_PART_DATA);
    if (x.format == LORICA_FORMAT_Q8)
        x.scales = part_at(m, e, LORICA_PART_SCALES);
    if (x.format != LORICA_FORMAT_NF4)
        return x;
    if (e->flags & LORICA_ENTRY_NESTED) {
        x.absmax_codes = part_at(m, e, LORICA_PART_SCALES);
        x.nested_absmax = part_at(m, e, LORICA_PART_NESTED_ABSMAX);
        x.nested_map = part_at(m, e, LORICA_PART_NESTED_MAP);
        x.nested_offset = e->nested_offset;
    } else {
        x.absmax = part_at(m, e, LORICA_PART_SCALES);
    }
    return x;
}

static void place(struct lorica_base *base, const struct mapping *m, uint64_t index) {
    uint32_t layer = 0;
    const enum lorica_slot slot = lorica_base_entry_slot(&base->arch, index, &layer);
    const struct lorica_matrix x = matrix_of(m, &m->table[index]);
    switch (slot) {
    case LORICA_SLOT_EMBED:
        base->embed = base->head = x;
        break;
    case LORICA_SLOT_HEAD:
        base->head = x;
        break;
    case LORICA_SLOT_FINAL_NORM:
        base->final_norm = x.data;
        break;
    case LORICA_SLOT_ATTN_NORM:
        base->layers[layer].attn_norm = x.data;
        break;
    case LORICA_SLOT_MLP_NORM:
        base->layers[layer].mlp_norm = x.data;
        break;
    default:
        base->layers[layer].modules[slot] = x;
        break;
    }
}

static int read_metadata(struct lorica_base *base, const char *label, struct lorica_error *err) {
    struct lorica_json *json = NULL;
    int rc = lorica_json_parse(base->metadata, base->metadata_len, &json, err);
    if (!rc)
        rc = lorica_arch_read(lorica_json_get(json, "architecture"), &base->arch, err);
    if (rc) {
        lorica_json_destroy(json);
        return err ? lorica_fail_prefix(err, "%s: metadata", label) : rc;
    }
    const char *name =
        lorica_json_string(lorica_json_get(lorica_json_get(json, "provenance"), "name"));
    (void)snprintf(base->name, sizeof(base->name), "%s", name ? name : "base");
    lorica_json_destroy(json);
    return 0;
}

static int fill(struct lorica_base *base, struct mapping *m, const char *label,
                struct lorica_error *err) {
    const uint8_t *file = m->map.data;
    int rc = check_header(file, m->map.len, label, err);
    if (rc)
        return rc;
    const struct lorica_base_header *h = (const void *)file;
    m->table = (const void *)(file + h->table_offset);
    m->data = file + h->data_offset;
    base->digest = h->digest;
    base->metadata = (const char *)file + h->metadata_offset;
    base->metadata_len = (size_t)h->metadata_len;
    rc = read_metadata(base, label, err);
    if (rc)
        return rc;
    if (h->table_count != lorica_base_entry_count(&base->arch))
        return damaged(err, label, "the tensor table does not fit the architecture");
    base->layers = calloc(base->arch.layers, sizeof(*base->layers));
    if (!base->layers)
        return lorica_fail(err, LORICA_ENOMEM, "%s: out of memory", label);
    for (uint64_t i = 0; i < h->table_count; i++) {
        rc = check_entry(&base->arch, &m->table[i], i, m->map.len - h->data_offset, label, err);
        if (rc)
            return rc;
        place(base, m, i);
    }
    return 0;
}

int lorica_base_open_fd(int fd, const char *label, struct lorica_base **ret,
                        struct lorica_error *err) {
    struct stat st;
    if (fstat(fd, &st) || !S_ISREG(st.st_mode))
        return lorica_fail(err, LORICA_EIO, "%s: not a regular file", label);
    if (st.st_size < (off_t)sizeof(struct lorica_base_header))
        return damaged(err, label, "shorter than a base file's header");
    struct lorica_base *base = calloc(1, sizeof(*base));
    struct mapping *m = calloc(1, sizeof(*m));
    if (!base || !m) {
        free(base);
        free(m);
        return lorica_fail(err, LORICA_ENOMEM, "%s: out of memory", label);
    }
    base->owned = m;
    m->map.len = (size_t)st.st_size;
    void *p = mmap(NULL, m->map.len, PROT_READ, MAP_SHARED, fd, 0);
    int rc = 0;
    if (p == MAP_FAILED)
        rc = lorica_fail(err, LORICA_EIO, "%s: cannot map: %s", label, strerror(errno));
    else
        m->map.data = p;
    if (!rc)
        rc = fill(base, m, label, err);
    if (rc)
        lorica_base_close(base);
    else
        *ret = base;
    return rc;
}

int lorica_base_open(const char *path, struct lorica_base **ret, struct lorica_error *err) {
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return lorica_fail(err, errno == ENOENT ? LORICA_ENOTFOUND : LORICA_EIO, "%s: %s", path,
                           strerror(errno));
    const int rc = lorica_base_open_fd(fd, path, ret, err);
    (void)close(fd);
    return rc;
}

void lorica_base_close(struct lorica_base *base) {
    if (!base)
        return;
    struct mapping *m = base->owned;
    lorica_map_close(&m->map);
    free(m);
    free(base->layers);
    free(base);
}

const struct lorica_base_entry *lorica_base_table(const struct lorica_base *base,
                                                  uint64_t *ret_count) {
    const struct mapping *m = base->owned;
    *ret_count = lorica_base_entry_count(&base->arch);
    return m->table;
}

const struct lorica_matrix *lorica_base_matrix(const struct lorica_base *base, uint64_t index,
                                               struct lorica_matrix *scratch) {
    const struct mapping *m = base->owned;
    *scratch = matrix_of(m, &m->table[index]);
    return scratch;
}

/* The metadata without what only says where it came from, in one spelling. */
static int canonical_metadata(const char *text, size_t len, struct lorica_buf *out,
                              struct lorica_error *err) {
    struct lorica_json *json = NULL;
    const int rc = lorica_json_parse(text, len, &json, err);
    if (rc)
        return rc;
    struct lorica_jsonw w = {.out = out};
    lorica_jsonw_object(&w, NULL);
    for (const struct lorica_json *j = lorica_json_first(json); j; j = lorica_json_next(j))
        if (strcmp(lorica_json_key(j), "provenance") != 0)
            lorica_jsonw_value(&w, lorica_json_key(j), j);
    lorica_jsonw_end_object(&w);
    lorica_json_destroy(json);
    return lorica_buf_status(out);
}

#define HASH_STEP (8u << 20)

int lorica_base_compute_digest(const uint8_t *file, const struct lorica_hasher *hasher,
                               lorica_progress_fn progress, void *progress_arg,
                               struct lorica_digest *ret, struct lorica_error *err) {
    const struct lorica_base_header *h = (const void *)file;
    struct lorica_buf metadata;
    lorica_buf_init(&metadata, (size_t)1 << 30);
    int rc = canonical_metadata((const char *)file + h->metadata_offset, h->metadata_len, &metadata,
                                err);
    void *stream = rc ? NULL : hasher->create();
    if (!rc && !stream)
        rc = LORICA_ENOMEM;
    if (!rc)
        rc = hasher->update(stream, "lorica base 1", 14);
    if (!rc)
        rc = hasher->update(stream, metadata.data, metadata.len + 1);
    lorica_buf_finish(&metadata);
    if (!rc)
        rc = hasher->update(stream, file + h->table_offset,
                            h->table_count * sizeof(struct lorica_base_entry));
    for (uint64_t at = h->data_offset; !rc && at < h->file_len; at += HASH_STEP) {
        const uint64_t left = h->file_len - at;
        rc = hasher->update(stream, file + at, left < HASH_STEP ? left : HASH_STEP);
        if (progress)
            progress(progress_arg, "digest", at - h->data_offset, h->file_len - h->data_offset);
    }
    if (stream) {
        const int end = hasher->finish(stream, rc ? NULL : ret);
        rc = rc ? rc : end;
    }
    return rc && !(err && err->code) ? lorica_fail(err, rc, "digest: %s", lorica_err_text(rc)) : rc;
}

int lorica_base_verify(const struct lorica_base *base, const struct lorica_hasher *hasher,
                       struct lorica_error *err) {
    const struct mapping *m = base->owned;
    struct lorica_digest digest;
    const int rc = lorica_base_compute_digest(m->map.data, hasher, NULL, NULL, &digest, err);
    if (rc)
        return rc;
    if (!lorica_digest_equal(&digest, &base->digest))
        return lorica_fail(err, LORICA_EFORMAT,
                           "base %s: the content is not what its digest says; import it again",
                           base->name);
    return 0;
}
