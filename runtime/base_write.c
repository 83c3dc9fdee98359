/* SPDX-License-Identifier: MIT
 * Writes a base file from a source, tensor by tensor and 64 rows at a time: memory use is that of
 * one matrix's scales, not of the model. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "runtime/base_file.h"
#include "runtime/chat.h"

/* Rows quantised at a time: whole tiles, and whole NF4 blocks whatever k is. */
#define CHUNK_ROWS 64

struct plan {
    struct lorica_source_tensor source;
    struct lorica_base_entry entry;
};

struct writer {
    int fd;
    const struct lorica_source *source;
    const struct lorica_import_options *options;
    struct lorica_error *err;
    struct plan *plans;
    uint64_t count;
    uint64_t offset, data_offset, total;
    /* The last nested map written: matrices share it when it is the same. */
    float last_map[256];
    uint64_t last_map_offset;
    bool has_map;
};

static int put(struct writer *w, const void *bytes, size_t len) {
    const char *p = bytes;
    while (len > 0) {
        const ssize_t n = write(w->fd, p, len < (64u << 20) ? len : (64u << 20));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return lorica_fail(w->err, errno == ENOSPC ? LORICA_ENOSPC : LORICA_EIO,
                               "writing the base file: %s", strerror(errno));
        p += n;
        len -= (size_t)n;
        w->offset += (uint64_t)n;
    }
    return 0;
}

static int put_zeros(struct writer *w, uint64_t align) {
    static const uint8_t zeros[LORICA_BASE_PAGE];
    const uint64_t rest = w->offset % align;
    return rest ? put(w, zeros, (size_t)(align - rest)) : 0;
}

static int begin_part(struct writer *w, struct plan *p, enum lorica_base_part part) {
    const int rc = put_zeros(w, LORICA_BASE_ALIGN);
    p->entry.parts[part].offset = w->offset - w->data_offset;
    return rc;
}

static void end_part(struct writer *w, struct plan *p, enum lorica_base_part part) {
    p->entry.parts[part].len = w->offset - w->data_offset - p->entry.parts[part].offset;
    if (w->options->progress)
        w->options->progress(w->options->progress_arg, "import", w->offset, w->total);
}

static int put_part(struct writer *w, struct plan *p, enum lorica_base_part part, const void *bytes,
                    size_t len) {
    int rc = begin_part(w, p, part);
    if (!rc)
        rc = put(w, bytes, len);
    end_part(w, p, part);
    return rc;
}

static uint32_t rows_at(const struct plan *p, uint32_t row) {
    const uint32_t left = p->entry.n - row;
    return left < CHUNK_ROWS ? left : CHUNK_ROWS;
}

static int no_memory(struct writer *w, const struct plan *p) {
    return lorica_fail(w->err, LORICA_ENOMEM, "%s: out of memory", p->entry.name);
}

static int check_finite(struct writer *w, const struct plan *p, const float *x, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (!isfinite(x[i]))
            return lorica_fail(w->err, LORICA_EFORMAT,
                               "%s holds a value that is not finite; the model is damaged",
                               p->entry.name);
    return 0;
}

/* What is finite in the source may be too large for the 16 bits it gets here. */
static int check_halves(struct writer *w, const struct plan *p, enum lorica_format format,
                        const uint16_t *halves, size_t count) {
    const uint16_t exponent = format == LORICA_FORMAT_BF16 ? 0x7f80 : 0x7c00;
    for (size_t i = 0; i < count; i++)
        if ((halves[i] & exponent) == exponent)
            return lorica_fail(w->err, LORICA_EFORMAT,
                               "%s holds a value that is too large for the format %s; choose "
                               "another with --format",
                               p->entry.name,
                               lorica_format_name((enum lorica_format)p->entry.format));
    return 0;
}

static size_t nf4_blocks(const struct plan *p) {
    return ((size_t)p->entry.n * p->entry.k + LORICA_NF4_BLOCK - 1) / LORICA_NF4_BLOCK;
}

/* A bitsandbytes matrix as the kernels see it. The caller frees all three. */
struct bnb {
    uint8_t *codes;
    float *scales, *nested; /* scales: floats, or uint8 codes */
    float map[256];
};

static void bnb_finish(struct bnb *b) {
    free(b->codes);
    free(b->scales);
    free(b->nested);
}

static struct lorica_matrix bnb_matrix(const struct plan *p, const struct bnb *b) {
    struct lorica_matrix m = {
        .format = LORICA_FORMAT_NF4, .n = p->source.n, .k = p->source.k, .data = b->codes};
    if (p->source.nested_absmax) {
        m.absmax_codes = (const uint8_t *)b->scales;
        m.nested_absmax = b->nested;
        m.nested_map = b->map;
        m.nested_offset = p->source.nested_offset;
    } else {
        m.absmax = b->scales;
    }
    return m;
}

static int bnb_load(struct writer *w, const struct plan *p, struct bnb *b) {
    const struct lorica_source_tensor *t = &p->source;
    const size_t blocks = nf4_blocks(p), flat = ((size_t)t->n * t->k + 1) / 2;
    const size_t nested = (blocks + LORICA_NF4_NESTED_BLOCK - 1) / LORICA_NF4_NESTED_BLOCK;
    const size_t scale_bytes = t->nested_absmax ? blocks : blocks * sizeof(float);
    b->codes = malloc(lorica_matrix_data_nbytes(LORICA_FORMAT_NF4, t->n, t->k));
    b->scales = malloc(scale_bytes + sizeof(float));
    b->nested = malloc(nested * sizeof(float));
    if (!b->codes || !b->scales || !b->nested)
        return no_memory(w, p);
    memcpy(b->scales, t->absmax, scale_bytes);
    if (t->nested_absmax) {
        memcpy(b->nested, t->nested_absmax, nested * sizeof(float));
        memcpy(b->map, t->nested_map, sizeof(b->map));
    }
    if (t->k % LORICA_NF4_BLOCK == 0)
        lorica_nf4_tile(b->codes, t->data, t->n, t->k);
    else
        memcpy(b->codes, t->data, flat);
    const struct lorica_matrix m = bnb_matrix(p, b);
    int rc = 0;
    for (size_t i = 0; i < blocks && !rc; i++) {
        const float absmax = lorica_nf4_absmax(&m, i);
        rc = check_finite(w, p, &absmax, 1);
    }
    return rc;
}

static int put_nested(struct writer *w, struct plan *p, const uint8_t *codes, size_t blocks,
                      const float *nested, const float *map) {
    const size_t count = (blocks + LORICA_NF4_NESTED_BLOCK - 1) / LORICA_NF4_NESTED_BLOCK;
    int rc = put_part(w, p, LORICA_PART_SCALES, codes, blocks);
    if (!rc)
        rc = put_part(w, p, LORICA_PART_NESTED_ABSMAX, nested, count * sizeof(*nested));
    if (rc)
        return rc;
    if (w->has_map && memcmp(w->last_map, map, sizeof(w->last_map)) == 0) {
        p->entry.parts[LORICA_PART_NESTED_MAP].offset = w->last_map_offset;
        p->entry.parts[LORICA_PART_NESTED_MAP].len = sizeof(w->last_map);
        return 0;
    }
    rc = put_part(w, p, LORICA_PART_NESTED_MAP, map, sizeof(w->last_map));
    memcpy(w->last_map, map, sizeof(w->last_map));
    w->last_map_offset = p->entry.parts[LORICA_PART_NESTED_MAP].offset;
    w->has_map = true;
    return rc;
}

static int write_bnb(struct writer *w, struct plan *p) {
    struct bnb b = {0};
    int rc = bnb_load(w, p, &b);
    if (!rc)
        rc = put_part(w, p, LORICA_PART_DATA, b.codes,
                      lorica_matrix_data_nbytes(LORICA_FORMAT_NF4, p->entry.n, p->entry.k));
    if (!rc && p->source.nested_absmax) {
        p->entry.nested_offset = p->source.nested_offset;
        rc = put_nested(w, p, (const uint8_t *)b.scales, nf4_blocks(p), b.nested, b.map);
    } else if (!rc) {
        rc = put_part(w, p, LORICA_PART_SCALES, b.scales, nf4_blocks(p) * sizeof(float));
    }
    bnb_finish(&b);
    return rc;
}

/** Exact rows of any source tensor, checked to be finite. */
struct reader {
    struct writer *w;
    const struct plan *p;
    struct bnb b;
    struct lorica_matrix matrix;
};

static int reader_open(struct reader *r) {
    if (r->p->source.kind != LORICA_SOURCE_BNB)
        return 0;
    const int rc = bnb_load(r->w, r->p, &r->b);
    r->matrix = bnb_matrix(r->p, &r->b);
    return rc;
}

static int reader_rows(struct reader *r, uint32_t row, uint32_t rows, float *dst) {
    if (r->p->source.kind == LORICA_SOURCE_BNB)
        lorica_matrix_rows_f32(&r->matrix, row, rows, dst);
    else
        lorica_source_rows(&r->p->source, row, rows, dst);
    return check_finite(r->w, r->p, dst, (size_t)rows * r->p->entry.k);
}

static void to_format(enum lorica_format format, const float *x, size_t count, void *dst) {
    uint16_t *half = dst;
    if (format == LORICA_FORMAT_F32)
        memcpy(dst, x, count * sizeof(*x));
    else if (format == LORICA_FORMAT_F16)
        for (size_t i = 0; i < count; i++)
            half[i] = lorica_f32_to_f16(x[i]);
    else
        for (size_t i = 0; i < count; i++)
            half[i] = lorica_f32_to_bf16(x[i]);
}

static int write_dense(struct writer *w, struct plan *p, struct reader *r, float *x) {
    const size_t k = p->entry.k;
    const enum lorica_format format = (enum lorica_format)p->entry.format;
    void *out = malloc(CHUNK_ROWS * k * sizeof(float));
    int rc = out ? begin_part(w, p, LORICA_PART_DATA) : no_memory(w, p);
    for (uint32_t row = 0; !rc && row < p->entry.n; row += CHUNK_ROWS) {
        const uint32_t rows = rows_at(p, row);
        rc = reader_rows(r, row, rows, x);
        if (rc)
            break;
        to_format(format, x, rows * k, out);
        if (format != LORICA_FORMAT_F32)
            rc = check_halves(w, p, format, out, rows * k);
        if (!rc)
            rc = put(w, out, rows * k * (format == LORICA_FORMAT_F32 ? 4 : 2));
    }
    if (!rc)
        end_part(w, p, LORICA_PART_DATA);
    free(out);
    return rc;
}

static int write_nf4_codes(struct writer *w, struct plan *p, struct reader *r, float *x,
                           float *absmax) {
    const size_t k = p->entry.k;
    const bool tiled = k % LORICA_NF4_BLOCK == 0;
    uint8_t *flat = malloc(CHUNK_ROWS * k / 2 + 1), *tiles = malloc(CHUNK_ROWS * k / 2 + 1);
    int rc = flat && tiles ? begin_part(w, p, LORICA_PART_DATA) : no_memory(w, p);
    for (uint32_t row = 0; !rc && row < p->entry.n; row += CHUNK_ROWS) {
        const uint32_t rows = rows_at(p, row);
        rc = reader_rows(r, row, rows, x);
        if (rc)
            break;
        lorica_nf4_quantise(x, rows * k, flat, absmax + row * k / LORICA_NF4_BLOCK);
        if (tiled)
            lorica_nf4_tile(tiles, flat, rows, (uint32_t)k);
        rc = put(w, tiled ? tiles : flat,
                 lorica_matrix_data_nbytes(LORICA_FORMAT_NF4, rows, (uint32_t)k));
    }
    if (!rc)
        end_part(w, p, LORICA_PART_DATA);
    free(flat);
    free(tiles);
    return rc;
}

static int write_nf4(struct writer *w, struct plan *p, struct reader *r, float *x) {
    const size_t blocks = nf4_blocks(p);
    float *absmax = malloc(blocks * sizeof(*absmax));
    uint8_t *codes = malloc(blocks);
    float *nested = malloc((blocks / LORICA_NF4_NESTED_BLOCK + 1) * sizeof(*nested));
    int rc = absmax && codes && nested ? write_nf4_codes(w, p, r, x, absmax) : no_memory(w, p);
    if (!rc) {
        lorica_nf4_quantise_absmax(absmax, blocks, codes, nested, &p->entry.nested_offset);
        rc = put_nested(w, p, codes, blocks, nested, lorica_dynamic_map);
    }
    free(absmax);
    free(codes);
    free(nested);
    return rc;
}

static uint32_t source_row(const struct lorica_source_tensor *t, uint32_t row) {
    if (!t->permuted_heads)
        return row;
    const uint32_t size = t->n / t->permuted_heads, head = row / size, rest = row % size;
    return head * size + rest % (size / 2) * 2 + rest / (size / 2);
}

/* ggml's 8-bit and symmetric 4-bit blocks in the tiled layout: same integers, same scales. */
static void retile(const struct lorica_source_tensor *t, uint32_t row, uint32_t rows, int8_t *tiled,
                   uint16_t *scales) {
    const uint32_t blocks = t->k / 32;
    const size_t block_bytes = t->kind == LORICA_SOURCE_Q8_0 ? 34 : 18;
    memset(tiled, 0, lorica_matrix_data_nbytes(LORICA_FORMAT_Q8, rows, t->k));
    memset(scales, 0, (size_t)(rows + 15) / 16 * 16 * blocks * sizeof(*scales));
    for (uint32_t i = 0; i < rows; i++) {
        const uint8_t *src = t->data + source_row(t, row + i) * block_bytes * blocks;
        for (uint32_t b = 0; b < blocks; b++, src += block_bytes) {
            int8_t *dst = tiled + ((size_t)(i / 16) * blocks + b) * 512 + 4 * (i % 16);
            memcpy(&scales[((size_t)(i / 16) * blocks + b) * 16 + i % 16], src, 2);
            for (uint32_t j = 0; j < 32; j++) {
                const int q = t->kind == LORICA_SOURCE_Q8_0
                                  ? (int8_t)src[2 + j]
                                  : (j < 16 ? src[2 + j] & 15 : src[2 + j - 16] >> 4) - 8;
                dst[j / 4 * 64 + j % 4] = (int8_t)q;
            }
        }
    }
}

static int write_q8(struct writer *w, struct plan *p, struct reader *r, float *x) {
    const struct lorica_source_tensor *t = &p->source;
    const bool lossless = t->kind == LORICA_SOURCE_Q8_0 || t->kind == LORICA_SOURCE_Q4_0;
    const size_t k = p->entry.k;
    uint64_t sizes[LORICA_PART_COUNT];
    lorica_base_part_sizes(&p->entry, sizes);
    int8_t *tiled = malloc(CHUNK_ROWS * k);
    uint16_t *scales = malloc(sizes[LORICA_PART_SCALES]);
    int rc = tiled && scales ? begin_part(w, p, LORICA_PART_DATA) : no_memory(w, p);
    for (uint32_t row = 0; !rc && row < p->entry.n; row += CHUNK_ROWS) {
        const uint32_t rows = rows_at(p, row);
        uint16_t *chunk_scales = scales + row * (k / LORICA_Q8_BLOCK);
        rc = reader_rows(r, row, rows, x);
        if (rc)
            break;
        if (lossless)
            retile(t, row, rows, tiled, chunk_scales);
        else
            lorica_q8_quantise(x, rows, (uint32_t)k, tiled, chunk_scales);
        rc = check_halves(w, p, LORICA_FORMAT_F16, chunk_scales,
                          (size_t)(rows + 15) / 16 * 16 * (k / LORICA_Q8_BLOCK));
        if (!rc)
            rc = put(w, tiled, lorica_matrix_data_nbytes(LORICA_FORMAT_Q8, rows, (uint32_t)k));
    }
    if (!rc) {
        end_part(w, p, LORICA_PART_DATA);
        rc = put_part(w, p, LORICA_PART_SCALES, scales, sizes[LORICA_PART_SCALES]);
    }
    free(tiled);
    free(scales);
    return rc;
}

static int write_tensor(struct writer *w, struct plan *p) {
    if (p->source.kind == LORICA_SOURCE_BNB && p->entry.format == LORICA_FORMAT_NF4)
        return write_bnb(w, p);
    struct reader r = {.w = w, .p = p};
    float *x = malloc(CHUNK_ROWS * (size_t)p->entry.k * sizeof(*x));
    int rc = x ? reader_open(&r) : no_memory(w, p);
    if (!rc && p->entry.format == LORICA_FORMAT_NF4)
        rc = write_nf4(w, p, &r, x);
    else if (!rc && p->entry.format == LORICA_FORMAT_Q8)
        rc = write_q8(w, p, &r, x);
    else if (!rc)
        rc = write_dense(w, p, &r, x);
    bnb_finish(&r.b);
    free(x);
    return rc;
}

static void dense_row(const struct lorica_source_tensor *t, const uint8_t *src, float *dst) {
    for (uint32_t i = 0; i < t->k; i++) {
        uint16_t half;
        if (t->dense == LORICA_FORMAT_F32) {
            memcpy(&dst[i], src + 4 * (size_t)i, 4);
            continue;
        }
        memcpy(&half, src + 2 * (size_t)i, 2);
        dst[i] = t->dense == LORICA_FORMAT_F16 ? lorica_f16_to_f32(half) : lorica_bf16_to_f32(half);
    }
}

static void ggml_row(const struct lorica_source_tensor *t, const uint8_t *src, float *dst) {
    const size_t block_bytes = t->kind == LORICA_SOURCE_Q8_0   ? 34
                               : t->kind == LORICA_SOURCE_Q4_0 ? 18
                                                               : 20;
    for (uint32_t b = 0; b < t->k / 32; b++, src += block_bytes, dst += 32) {
        uint16_t half[2];
        memcpy(half, src, sizeof(half));
        const float d = lorica_f16_to_f32(half[0]);
        const float m = t->kind == LORICA_SOURCE_Q4_1 ? lorica_f16_to_f32(half[1]) : 0;
        const uint8_t *q = src + (t->kind == LORICA_SOURCE_Q4_1 ? 4 : 2);
        for (uint32_t j = 0; j < 32; j++) {
            const int nibble = j < 16 ? q[j] & 15 : q[j - 16] >> 4;
            if (t->kind == LORICA_SOURCE_Q8_0)
                dst[j] = (float)(int8_t)q[j] * d;
            else if (t->kind == LORICA_SOURCE_Q4_0)
                dst[j] = (float)(nibble - 8) * d;
            else
                dst[j] = (float)nibble * d + m;
        }
    }
}

void lorica_source_rows(const struct lorica_source_tensor *t, uint32_t row, uint32_t rows,
                        float *dst) {
    for (uint32_t i = 0; i < rows; i++, dst += t->k) {
        const size_t at = source_row(t, row + i);
        if (t->kind == LORICA_SOURCE_DENSE)
            dense_row(t, t->data + at * t->k * (t->dense == LORICA_FORMAT_F32 ? 4 : 2), dst);
        else
            ggml_row(t,
                     t->data + at * (t->k / 32) *
                                   (t->kind == LORICA_SOURCE_Q8_0   ? 34
                                    : t->kind == LORICA_SOURCE_Q4_0 ? 18
                                                                    : 20),
                     dst);
    }
}

/* The format in which a tensor is stored. */
static enum lorica_format choose_format(const struct writer *w, enum lorica_slot slot,
                                        const struct lorica_source_tensor *t) {
    const enum lorica_format as_is = t->kind == LORICA_SOURCE_DENSE ? t->dense : LORICA_FORMAT_F32;
    if (slot == LORICA_SLOT_ATTN_NORM || slot == LORICA_SLOT_MLP_NORM ||
        slot == LORICA_SLOT_FINAL_NORM)
        return LORICA_FORMAT_F32;
    if (slot == LORICA_SLOT_EMBED || slot == LORICA_SLOT_HEAD)
        return t->kind == LORICA_SOURCE_Q8_0 || t->kind == LORICA_SOURCE_Q4_0 ? LORICA_FORMAT_Q8
                                                                              : as_is;
    if (w->options->keep_source_precision || w->options->format == LORICA_FORMAT_NF4) {
        if (t->kind == LORICA_SOURCE_BNB)
            return LORICA_FORMAT_NF4;
        if (w->options->keep_source_precision || w->source->prequantised)
            return as_is;
    }
    if (w->options->format == LORICA_FORMAT_Q8 && t->k % LORICA_Q8_BLOCK)
        return LORICA_FORMAT_F32;
    return w->options->format;
}

static int make_plans(struct writer *w) {
    const struct lorica_arch *arch = &w->source->arch;
    w->count = lorica_base_entry_count(arch);
    w->plans = calloc(w->count, sizeof(*w->plans));
    if (!w->plans)
        return lorica_fail(w->err, LORICA_ENOMEM, "out of memory");
    for (uint64_t i = 0; i < w->count; i++) {
        struct plan *p = &w->plans[i];
        struct lorica_base_entry *e = &p->entry;
        uint32_t layer = 0;
        const enum lorica_slot slot = lorica_base_entry_slot(arch, i, &layer);
        const int rc = w->source->tensor(w->source, slot, layer, &p->source, w->err);
        if (rc)
            return rc;
        lorica_slot_name(slot, layer, e->name);
        e->format = choose_format(w, slot, &p->source);
        e->n = p->source.n;
        e->k = p->source.k;
        if (e->format == LORICA_FORMAT_NF4) {
            const bool bnb = p->source.kind == LORICA_SOURCE_BNB;
            e->flags = !bnb || p->source.nested_absmax ? LORICA_ENTRY_NESTED : 0;
            e->source =
                bnb || p->source.kind == LORICA_SOURCE_DENSE ? p->source.dense : LORICA_FORMAT_F32;
        }
        uint64_t sizes[LORICA_PART_COUNT];
        lorica_base_part_sizes(e, sizes);
        for (int part = 0; part < LORICA_PART_COUNT; part++)
            w->total += sizes[part] + LORICA_BASE_ALIGN;
    }
    return 0;
}

static void write_chat(struct writer *w, const char *name, const char *default_system,
                       struct lorica_jsonw *j) {
    if (!name) {
        lorica_jsonw_null(j, "chat");
        return;
    }
    lorica_jsonw_object(j, "chat");
    lorica_jsonw_string(j, "template", name);
    lorica_jsonw_string(j, "default_system", default_system);
    lorica_jsonw_end_object(j);
}

static int make_metadata(struct writer *w, struct lorica_buf *out) {
    const struct lorica_source *s = w->source;
    const char *template_name = w->options->template_name;
    struct lorica_buf system;
    lorica_buf_init(&system, 4096);
    if (!template_name && s->jinja.len > 0)
        template_name = lorica_chat_recognise(s->jinja.data, s->jinja.len, &system);
    else if (template_name && s->jinja.len > 0)
        (void)lorica_chat_recognise(s->jinja.data, s->jinja.len, &system);
    if ((!template_name && s->jinja.len > 0 && !w->options->keep_source_precision) ||
        (template_name && !lorica_chat_known(template_name))) {
        lorica_buf_finish(&system);
        return lorica_fail(w->err, LORICA_EUNSUPPORTED,
                           template_name
                               ? "there is no chat template \"%s\"; known: %s"
                               : "the model's chat template is none that lorica knows%s; name the "
                                 "one to use with --template (known: %s)",
                           template_name ? template_name : "", lorica_chat_names());
    }
    struct lorica_jsonw j = {.out = out};
    lorica_jsonw_object(&j, NULL);
    lorica_jsonw_string(&j, "format", "lorica-base");
    lorica_arch_write(&s->arch, &j);
    if (s->tokenizer.len > 0)
        lorica_jsonw_raw(&j, "tokenizer", s->tokenizer.data, s->tokenizer.len);
    else
        lorica_jsonw_null(&j, "tokenizer");
    write_chat(w, template_name, system.len ? system.data : "", &j);
    lorica_jsonw_object(&j, "provenance");
    lorica_jsonw_string(&j, "name", w->options->name ? w->options->name : s->name);
    lorica_jsonw_string(&j, "source", s->kind);
    lorica_jsonw_string(&j, "linear",
                        w->options->keep_source_precision ? "as in the source"
                                                          : lorica_format_name(w->options->format));
    lorica_jsonw_string(&j, "version", LORICA_VERSION);
    lorica_jsonw_bytes(&j, "chat_template", s->jinja.data ? s->jinja.data : "", s->jinja.len);
    if (s->files.len > 0)
        lorica_jsonw_raw(&j, "files", s->files.data, s->files.len);
    lorica_jsonw_end_object(&j);
    lorica_jsonw_end_object(&j);
    lorica_buf_finish(&system);
    const int rc = lorica_buf_status(out);
    return rc ? lorica_fail(w->err, rc, "metadata: %s", lorica_err_text(rc)) : 0;
}

/* The tokenizer must be one that can be used, and fit the embedding. */
static int check_tokenizer(struct writer *w, const struct lorica_buf *metadata) {
    struct lorica_tokenizer *tokenizer = NULL;
    if (w->source->tokenizer.len == 0)
        return 0; /* a model for numbers alone: what needs a tokenizer says so */
    const int rc = lorica_tokenizer_create(metadata->data, metadata->len, &tokenizer, w->err);
    if (rc)
        return rc;
    const uint32_t vocab = lorica_tokenizer_vocab(tokenizer);
    lorica_tokenizer_destroy(tokenizer);
    if (vocab > w->source->arch.vocab)
        return lorica_fail(w->err, LORICA_EFORMAT,
                           "the tokenizer has %u ids, the embedding only %u rows", vocab,
                           w->source->arch.vocab);
    return 0;
}

static int check_room(struct writer *w) {
    struct statvfs fs;
    if (fstatvfs(w->fd, &fs) || fs.f_blocks == 0)
        return 0; /* not every file system tells, nor has a limit */
    const uint64_t room = (uint64_t)fs.f_bavail * fs.f_frsize;
    if (room < w->total)
        return lorica_fail(w->err, LORICA_ENOSPC,
                           "the base file needs %llu MB and the disk has %llu MB left: free some "
                           "room or use another directory",
                           (unsigned long long)(w->total >> 20), (unsigned long long)(room >> 20));
    return 0;
}

static int write_front(struct writer *w, const struct lorica_buf *metadata,
                       struct lorica_base_header *h) {
    memcpy(h->magic, LORICA_BASE_MAGIC, sizeof(h->magic));
    h->version = LORICA_BASE_VERSION;
    int rc = put(w, h, sizeof(*h));
    h->metadata_offset = w->offset;
    h->metadata_len = metadata->len;
    if (!rc)
        rc = put(w, metadata->data, metadata->len + 1);
    if (!rc)
        rc = put_zeros(w, LORICA_BASE_ALIGN);
    h->table_offset = w->offset;
    h->table_count = w->count;
    for (uint64_t i = 0; !rc && i < w->count; i++)
        rc = put(w, &w->plans[i].entry, sizeof(w->plans[i].entry)); /* room: written again below */
    if (!rc)
        rc = put_zeros(w, LORICA_BASE_PAGE);
    h->data_offset = w->data_offset = w->offset;
    return rc;
}

static int put_at(struct writer *w, const void *bytes, size_t len, uint64_t offset) {
    const ssize_t n = pwrite(w->fd, bytes, len, (off_t)offset);
    if (n != (ssize_t)len)
        return lorica_fail(w->err, n < 0 && errno == ENOSPC ? LORICA_ENOSPC : LORICA_EIO,
                           "writing the base file: %s", n < 0 ? strerror(errno) : "short write");
    return 0;
}

/* Table and header, whose contents are known at the end only; then the digest over all. */
static int write_back(struct writer *w, struct lorica_base_header *h) {
    int rc = 0;
    h->file_len = w->offset;
    for (uint64_t i = 0; !rc && i < w->count; i++)
        rc = put_at(w, &w->plans[i].entry, sizeof(w->plans[i].entry),
                    h->table_offset + i * sizeof(w->plans[i].entry));
    if (!rc)
        rc = put_at(w, h, sizeof(*h), 0);
    if (rc)
        return rc;
    void *file = mmap(NULL, h->file_len, PROT_READ, MAP_SHARED, w->fd, 0);
    if (file == MAP_FAILED)
        return lorica_fail(w->err, LORICA_EIO, "cannot map the written file: %s", strerror(errno));
    rc = lorica_base_compute_digest(file, w->options->hasher, w->options->progress,
                                    w->options->progress_arg, &h->digest, w->err);
    (void)munmap(file, h->file_len);
    return rc ? rc : put_at(w, h, sizeof(*h), 0);
}

int lorica_base_write(int fd, const struct lorica_source *source,
                      const struct lorica_import_options *options, struct lorica_error *err) {
    struct writer w = {.fd = fd, .source = source, .options = options, .err = err};
    struct lorica_base_header header = {0};
    struct lorica_buf metadata;
    lorica_buf_init(&metadata, (size_t)1 << 30);
    int rc = make_metadata(&w, &metadata);
    if (!rc)
        rc = check_tokenizer(&w, &metadata);
    if (!rc)
        rc = make_plans(&w);
    w.total += metadata.len;
    if (!rc)
        rc = check_room(&w);
    if (!rc)
        rc = write_front(&w, &metadata, &header);
    for (uint64_t i = 0; !rc && i < w.count; i++)
        rc = write_tensor(&w, &w.plans[i]);
    if (!rc)
        rc = write_back(&w, &header);
    lorica_buf_finish(&metadata);
    free(w.plans);
    return rc;
}
