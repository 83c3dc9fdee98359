/* SPDX-License-Identifier: MIT
 * What `lorica base inspect` shows, in both of its forms. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "proto/json.h"
#include "runtime/base.h"

/* Values of the first attention matrix that are shown, and the scales of so many blocks. */
#define SHOWN 64
#define SHOWN_BLOCKS 4

static const char shown_name[] = "model.layers.0.self_attn.q_proj";

/* Sums over the matrices of one format. */
struct format_sum {
    uint64_t tensors, weights, nbytes;
};

static uint64_t matrix_nbytes(const struct lorica_matrix *m) {
    const uint64_t weights = (uint64_t)m->n * m->k;
    const uint64_t blocks = (weights + LORICA_NF4_BLOCK - 1) / LORICA_NF4_BLOCK;
    switch (m->format) {
    case LORICA_FORMAT_NF4:
        if (m->absmax)
            return (weights + 1) / 2 + blocks * 4;
        return (weights + 1) / 2 + blocks +
               (blocks + LORICA_NF4_NESTED_BLOCK - 1) / LORICA_NF4_NESTED_BLOCK * 4;
    case LORICA_FORMAT_Q8:
        return weights + weights / LORICA_Q8_BLOCK * 2;
    default:
        return lorica_matrix_data_nbytes(m->format, m->n, m->k);
    }
}

static void add_matrix(struct format_sum sums[LORICA_FORMAT_COUNT], const struct lorica_matrix *m) {
    struct format_sum *sum = &sums[m->format];
    sum->tensors++;
    sum->weights += (uint64_t)m->n * m->k;
    sum->nbytes += matrix_nbytes(m);
}

static void sum_formats(const struct lorica_base *base,
                        struct format_sum sums[LORICA_FORMAT_COUNT]) {
    const uint32_t hidden = base->arch.hidden;
    add_matrix(sums, &base->embed);
    if (!base->arch.tied_head)
        add_matrix(sums, &base->head);
    for (uint32_t l = 0; l < base->arch.layers; l++)
        for (int m = 0; m < LORICA_MODULE_COUNT; m++)
            add_matrix(sums, &base->layers[l].modules[m]);
    struct format_sum *norms = &sums[LORICA_FORMAT_F32];
    norms->tensors += 2 * (uint64_t)base->arch.layers + 1;
    norms->weights += (2 * (uint64_t)base->arch.layers + 1) * hidden;
    norms->nbytes += (2 * (uint64_t)base->arch.layers + 1) * hidden * 4;
}

static double bits_per_weight(const struct format_sum *sum) {
    return sum->weights ? 8.0 * (double)sum->nbytes / (double)sum->weights : 0;
}

/* The first SHOWN raw codes: NF4 0..15, Q8 -127..127. False for a dense matrix, or no memory. */
static bool raw_codes(const struct lorica_matrix *m, size_t count, int codes[SHOWN]) {
    if (m->format == LORICA_FORMAT_NF4) {
        const uint32_t rows = m->n < LORICA_TILE_ROWS ? m->n : LORICA_TILE_ROWS;
        uint8_t *made = NULL;
        const uint8_t *flat = m->data;
        if (lorica_matrix_is_tiled(m)) {
            made = malloc((size_t)rows * m->k / 2);
            if (!made)
                return false;
            lorica_nf4_untile(made, m->data, rows, m->k);
            flat = made;
        }
        for (size_t i = 0; i < count; i++)
            codes[i] = flat[i / 2] >> (i % 2 == 0 ? 4 : 0) & 15;
        free(made);
        return true;
    }
    if (m->format != LORICA_FORMAT_Q8)
        return false;
    for (size_t i = 0; i < count; i++) /* row 0 of tile 0 */
        codes[i] =
            ((const int8_t *)m->data)[i / LORICA_Q8_BLOCK * LORICA_TILE_ROWS * LORICA_Q8_BLOCK +
                                      i % LORICA_Q8_BLOCK / 4 * 64 + i % 4];
    return true;
}

/* Scale of block `block` of row 0 (NF4: of the whole matrix). */
static float block_scale(const struct lorica_matrix *m, size_t block) {
    return m->format == LORICA_FORMAT_NF4 ? lorica_nf4_absmax(m, block)
                                          : lorica_f16_to_f32(m->scales[block * LORICA_TILE_ROWS]);
}

/* What is shown of the first attention matrix. */
struct sample {
    const struct lorica_matrix *m;
    size_t count, blocks; /* values and scales shown; no scales when dense */
    int codes[SHOWN];
    bool has_codes;
    float *values;
};

static int take_sample(const struct lorica_matrix *m, struct sample *ret) {
    ret->m = m;
    ret->count = m->k < SHOWN ? m->k : SHOWN;
    ret->has_codes = raw_codes(m, ret->count, ret->codes);
    const size_t block = m->format == LORICA_FORMAT_NF4 ? LORICA_NF4_BLOCK : LORICA_Q8_BLOCK;
    const size_t blocks = m->k / block;
    ret->blocks = !ret->has_codes ? 0 : blocks < SHOWN_BLOCKS ? blocks : SHOWN_BLOCKS;
    ret->values = malloc(m->k * sizeof(*ret->values));
    if (!ret->values)
        return LORICA_ENOMEM;
    lorica_matrix_rows_f32(m, 0, 1, ret->values);
    return 0;
}

static void write_arch(struct lorica_jsonw *w, const struct lorica_arch *a) {
    static const char *const scalings[] = {"default", "linear", "llama3"};
    lorica_jsonw_object(w, "architecture");
    lorica_jsonw_string(w, "family", "llama");
    lorica_jsonw_integer(w, "vocab", a->vocab);
    lorica_jsonw_integer(w, "hidden", a->hidden);
    lorica_jsonw_integer(w, "layers", a->layers);
    lorica_jsonw_integer(w, "heads", a->heads);
    lorica_jsonw_integer(w, "kv_heads", a->kv_heads);
    lorica_jsonw_integer(w, "head_dim", a->head_dim);
    lorica_jsonw_integer(w, "intermediate", a->intermediate);
    lorica_jsonw_integer(w, "max_positions", a->max_positions);
    lorica_jsonw_number(w, "rms_eps", (double)a->rms_eps);
    lorica_jsonw_number(w, "rope_theta", a->rope_theta);
    lorica_jsonw_string(w, "rope_scaling", scalings[a->rope_scaling]);
    lorica_jsonw_bool(w, "tied_head", a->tied_head);
    lorica_jsonw_end_object(w);
}

static void write_formats(struct lorica_jsonw *w,
                          const struct format_sum sums[LORICA_FORMAT_COUNT]) {
    lorica_jsonw_array(w, "formats");
    for (int f = 0; f < LORICA_FORMAT_COUNT; f++) {
        if (sums[f].tensors == 0)
            continue;
        lorica_jsonw_object(w, NULL);
        lorica_jsonw_string(w, "format", lorica_format_name((enum lorica_format)f));
        lorica_jsonw_integer(w, "tensors", (int64_t)sums[f].tensors);
        lorica_jsonw_integer(w, "weights", (int64_t)sums[f].weights);
        lorica_jsonw_integer(w, "bytes", (int64_t)sums[f].nbytes);
        lorica_jsonw_number(w, "bits_per_weight", bits_per_weight(&sums[f]));
        lorica_jsonw_end_object(w);
    }
    lorica_jsonw_end_array(w);
}

static void write_sample(struct lorica_jsonw *w, const struct sample *s) {
    const struct lorica_matrix *m = s->m;
    lorica_jsonw_object(w, "first_attention_matrix");
    lorica_jsonw_string(w, "name", shown_name);
    lorica_jsonw_string(w, "format", lorica_format_name(m->format));
    lorica_jsonw_array(w, "shape");
    lorica_jsonw_integer(w, NULL, m->n);
    lorica_jsonw_integer(w, NULL, m->k);
    lorica_jsonw_end_array(w);
    lorica_jsonw_array(w, "codes");
    for (size_t i = 0; s->has_codes && i < s->count; i++)
        lorica_jsonw_integer(w, NULL, s->codes[i]);
    lorica_jsonw_end_array(w);
    lorica_jsonw_array(w, "scales");
    for (size_t b = 0; b < s->blocks; b++)
        lorica_jsonw_number(w, NULL, (double)block_scale(m, b));
    lorica_jsonw_end_array(w);
    if (m->format == LORICA_FORMAT_NF4 && !m->absmax) {
        lorica_jsonw_array(w, "scale_codes");
        for (size_t b = 0; b < s->blocks; b++)
            lorica_jsonw_integer(w, NULL, m->absmax_codes[b]);
        lorica_jsonw_end_array(w);
        lorica_jsonw_number(w, "nested_absmax", (double)m->nested_absmax[0]);
        lorica_jsonw_number(w, "nested_offset", (double)m->nested_offset);
    }
    lorica_jsonw_array(w, "values");
    for (size_t i = 0; i < s->count; i++)
        lorica_jsonw_number(w, NULL, (double)s->values[i]);
    lorica_jsonw_end_array(w);
    lorica_jsonw_end_object(w);
}

static void write_json(const struct lorica_base *base, const char *digest,
                       const struct format_sum *sums, const struct format_sum *total,
                       const struct sample *sample, struct lorica_buf *out) {
    struct lorica_jsonw w = {.out = out};
    lorica_jsonw_object(&w, NULL);
    lorica_jsonw_string(&w, "object", "base");
    lorica_jsonw_string(&w, "name", base->name);
    lorica_jsonw_string(&w, "digest", digest);
    write_arch(&w, &base->arch);
    write_formats(&w, sums);
    lorica_jsonw_integer(&w, "weights", (int64_t)total->weights);
    lorica_jsonw_integer(&w, "bytes", (int64_t)total->nbytes);
    lorica_jsonw_number(&w, "bits_per_weight", bits_per_weight(total));
    write_sample(&w, sample);
    lorica_jsonw_end_object(&w);
    (void)lorica_buf_puts(out, "\n");
}

static void print_sample(const struct sample *s, struct lorica_buf *out) {
    const struct lorica_matrix *m = s->m;
    (void)lorica_buf_printf(out, "\n%s, %s, %u x %u, first row:\n", shown_name,
                            lorica_format_name(m->format), m->n, m->k);
    for (size_t i = 0; s->has_codes && i < s->count; i++)
        (void)lorica_buf_printf(out, "%s%d", i == 0 ? "codes   " : " ", s->codes[i]);
    for (size_t b = 0; b < s->blocks; b++)
        (void)lorica_buf_printf(out, "%s%.9g", b == 0 ? "\nscales  " : " ",
                                (double)block_scale(m, b));
    if (m->format == LORICA_FORMAT_NF4 && !m->absmax) {
        for (size_t b = 0; b < s->blocks; b++)
            (void)lorica_buf_printf(out, "%s%u", b == 0 ? "\n  their codes " : " ",
                                    m->absmax_codes[b]);
        (void)lorica_buf_printf(out, ", times %.9g, plus %.9g", (double)m->nested_absmax[0],
                                (double)m->nested_offset);
    }
    for (size_t i = 0; i < s->count; i++)
        (void)lorica_buf_printf(out, "%s%.9g",
                                i == 0       ? "\nvalues  "
                                : i % 8 == 0 ? "\n        "
                                             : " ",
                                (double)s->values[i]);
    (void)lorica_buf_puts(out, "\n");
}

static void print_text(const struct lorica_base *base, const char *digest,
                       const struct format_sum *sums, const struct format_sum *total,
                       const struct sample *sample, struct lorica_buf *out) {
    const struct lorica_arch *a = &base->arch;
    (void)lorica_buf_printf(out, "name          %s\ndigest        %s\n", base->name, digest);
    (void)lorica_buf_printf(out,
                            "architecture  llama: %u layers, hidden %u, %u heads (%u for keys and "
                            "values) of %u, intermediate %u, vocabulary %u, %u positions%s\n",
                            a->layers, a->hidden, a->heads, a->kv_heads, a->head_dim,
                            a->intermediate, a->vocab, a->max_positions,
                            a->tied_head ? ", tied head" : "");
    (void)lorica_buf_puts(out, "\nformat  tensors      weights        bytes  bits/weight\n");
    for (int f = 0; f < LORICA_FORMAT_COUNT; f++)
        if (sums[f].tensors > 0)
            (void)lorica_buf_printf(
                out, "%-6s %8llu %12llu %12llu %12.3f\n", lorica_format_name((enum lorica_format)f),
                (unsigned long long)sums[f].tensors, (unsigned long long)sums[f].weights,
                (unsigned long long)sums[f].nbytes, bits_per_weight(&sums[f]));
    (void)lorica_buf_printf(out, "%-6s %8llu %12llu %12llu %12.3f\n", "all",
                            (unsigned long long)total->tensors, (unsigned long long)total->weights,
                            (unsigned long long)total->nbytes, bits_per_weight(total));
    print_sample(sample, out);
}

int lorica_base_inspect(const struct lorica_base *base, bool json, struct lorica_buf *out) {
    struct format_sum sums[LORICA_FORMAT_COUNT] = {0}, total = {0};
    struct sample sample;
    char digest[LORICA_DIGEST_TEXT];
    const int rc = take_sample(&base->layers[0].modules[LORICA_MODULE_Q], &sample);
    if (rc)
        return rc;
    (void)lorica_digest_format(&base->digest, digest);
    sum_formats(base, sums);
    for (int f = 0; f < LORICA_FORMAT_COUNT; f++) {
        total.tensors += sums[f].tensors;
        total.weights += sums[f].weights;
        total.nbytes += sums[f].nbytes;
    }
    if (json)
        write_json(base, digest, sums, &total, &sample, out);
    else
        print_text(base, digest, sums, &total, &sample, out);
    free(sample.values);
    return lorica_buf_status(out);
}
