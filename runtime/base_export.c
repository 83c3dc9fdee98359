/* SPDX-License-Identifier: MIT
 * A base as a Hugging Face directory: NF4 layers in bitsandbytes' bytes, the rest as dense tensors,
 * the source's own tokenizer files. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/json.h"
#include "proto/safetensors.h"
#include "runtime/base_file.h"

/* Parts of an exported tensor: the weight itself, and what goes with an NF4 one. */
#define MAX_PARTS 6
#define NAME_MAX_LEN 160
#define TEXT_MAX (64u << 20)
#define CHUNK_ROWS 256

/* The tensors to be written, in order, and the matrix and part that each shows. */
struct plan {
    const struct lorica_base *base;
    lorica_base_values_fn values; /* NULL: the base's own */
    const void *values_arg;
    struct lorica_tensor *tensors;
    char (*names)[NAME_MAX_LEN];
    struct part {
        uint64_t entry;
        enum { PART_WEIGHT, PART_ABSMAX, PART_MAP, PART_NESTED, PART_NESTED_MAP, PART_STATE } kind;
    } * parts;
    size_t count;
};

static const char *dtype_name(uint32_t format) {
    return format == LORICA_FORMAT_BF16  ? "bfloat16"
           : format == LORICA_FORMAT_F16 ? "float16"
                                         : "float32";
}

/* bitsandbytes' quant_state, in its own spelling: ", " and ": " between. */
static int write_state(const struct lorica_matrix *m, uint32_t source, struct lorica_buf *out) {
    (void)lorica_buf_printf(out,
                            "{\"quant_type\": \"nf4\", \"blocksize\": 64, \"dtype\": \"%s\", "
                            "\"shape\": [%u, %u]",
                            dtype_name(source), m->n, m->k);
    if (!m->absmax) {
        (void)lorica_buf_puts(out, ", \"nested_blocksize\": 256, \"nested_dtype\": \"float32\", "
                                   "\"nested_offset\": ");
        struct lorica_jsonw w = {.out = out};
        lorica_jsonw_number(&w, NULL, (double)m->nested_offset);
    }
    return lorica_buf_puts(out, "}");
}

/* What is written of entry `index`. */
static const struct lorica_matrix *matrix_at(const struct plan *plan, uint64_t index,
                                             struct lorica_matrix *scratch) {
    const struct lorica_matrix *m = lorica_base_matrix(plan->base, index, scratch);
    if (plan->values)
        *scratch = (struct lorica_matrix){.format = LORICA_FORMAT_F32,
                                          .n = m->n,
                                          .k = m->k,
                                          .data = plan->values(plan->values_arg, index)};
    return plan->values ? scratch : m;
}

static void plan_part(struct plan *plan, uint64_t entry, int kind, const char *suffix,
                      enum lorica_dtype dtype, uint64_t rows, uint64_t columns) {
    uint64_t count;
    const struct lorica_base_entry *e = &lorica_base_table(plan->base, &count)[entry];
    struct lorica_tensor *t = &plan->tensors[plan->count];
    (void)snprintf(plan->names[plan->count], NAME_MAX_LEN, "%.64s%s", e->name, suffix);
    *t = (struct lorica_tensor){.name = plan->names[plan->count],
                                .dtype = dtype,
                                .ndim = columns ? 2 : 1,
                                .shape = {rows, columns}};
    plan->parts[plan->count].entry = entry;
    plan->parts[plan->count].kind = kind;
    plan->count++;
}

static int plan_entry(struct plan *plan, uint64_t index, const struct lorica_base_entry *e) {
    struct lorica_matrix scratch;
    const struct lorica_matrix *m = matrix_at(plan, index, &scratch);
    const uint64_t weights = (uint64_t)e->n * e->k;
    const uint64_t blocks = (weights + LORICA_NF4_BLOCK - 1) / LORICA_NF4_BLOCK;
    if (m->format != LORICA_FORMAT_NF4) {
        const enum lorica_dtype dtype = m->format == LORICA_FORMAT_BF16  ? LORICA_DTYPE_BF16
                                        : m->format == LORICA_FORMAT_F16 ? LORICA_DTYPE_F16
                                                                         : LORICA_DTYPE_F32;
        const bool vector = strstr(e->name, "norm") != NULL;
        plan_part(plan, index, PART_WEIGHT, "", dtype, vector ? e->k : e->n, vector ? 0 : e->k);
        return 0;
    }
    struct lorica_buf state;
    lorica_buf_init(&state, 1000);
    const int rc = write_state(m, e->source, &state);
    const uint64_t state_len = state.len;
    lorica_buf_finish(&state);
    plan_part(plan, index, PART_WEIGHT, "", LORICA_DTYPE_U8, (weights + 1) / 2, 1);
    plan_part(plan, index, PART_ABSMAX, ".absmax", m->absmax ? LORICA_DTYPE_F32 : LORICA_DTYPE_U8,
              blocks, 0);
    plan_part(plan, index, PART_MAP, ".quant_map", LORICA_DTYPE_F32, 16, 0);
    if (!m->absmax) {
        plan_part(plan, index, PART_NESTED, ".nested_absmax", LORICA_DTYPE_F32,
                  (blocks + LORICA_NF4_NESTED_BLOCK - 1) / LORICA_NF4_NESTED_BLOCK, 0);
        plan_part(plan, index, PART_NESTED_MAP, ".nested_quant_map", LORICA_DTYPE_F32, 256, 0);
    }
    plan_part(plan, index, PART_STATE, ".quant_state.bitsandbytes__nf4", LORICA_DTYPE_U8, state_len,
              0);
    return rc;
}

static int put(FILE *file, const void *bytes, size_t len) {
    return fwrite(bytes, 1, len, file) == len ? 0 : LORICA_EIO;
}

/* The codes as bitsandbytes packs them. */
static int put_codes(FILE *file, const struct lorica_matrix *m) {
    const size_t nbytes = ((size_t)m->n * m->k + 1) / 2;
    if (!lorica_matrix_is_tiled(m))
        return put(file, m->data, nbytes);
    uint8_t *flat = malloc(nbytes);
    if (!flat)
        return LORICA_ENOMEM;
    lorica_nf4_untile(flat, m->data, m->n, m->k);
    const int rc = put(file, flat, nbytes);
    free(flat);
    return rc;
}

/* A Q8 matrix becomes float32, which holds it exactly; the other dense ones go as they are. */
static int put_dense(FILE *file, const struct lorica_matrix *m) {
    if (m->format != LORICA_FORMAT_Q8)
        return put(file, m->data, lorica_matrix_data_nbytes(m->format, m->n, m->k));
    float *rows = malloc(sizeof(*rows) * CHUNK_ROWS * m->k);
    int rc = rows ? 0 : LORICA_ENOMEM;
    for (uint32_t row = 0; row < m->n && !rc; row += CHUNK_ROWS) {
        const uint32_t count = m->n - row < CHUNK_ROWS ? m->n - row : CHUNK_ROWS;
        lorica_matrix_rows_f32(m, row, count, rows);
        rc = put(file, rows, sizeof(*rows) * count * m->k);
    }
    free(rows);
    return rc;
}

static int put_part(FILE *file, const struct plan *plan, size_t i) {
    uint64_t count;
    const struct part *part = &plan->parts[i];
    const struct lorica_base_entry *e = &lorica_base_table(plan->base, &count)[part->entry];
    struct lorica_matrix scratch;
    const struct lorica_matrix *m = matrix_at(plan, part->entry, &scratch);
    const size_t nbytes = (size_t)plan->tensors[i].nbytes;
    struct lorica_buf state;
    int rc;
    switch (part->kind) {
    case PART_WEIGHT:
        return m->format == LORICA_FORMAT_NF4 ? put_codes(file, m) : put_dense(file, m);
    case PART_ABSMAX:
        return put(file, m->absmax ? (const void *)m->absmax : m->absmax_codes, nbytes);
    case PART_MAP:
        return put(file, lorica_nf4_table, nbytes);
    case PART_NESTED:
        return put(file, m->nested_absmax, nbytes);
    case PART_NESTED_MAP:
        return put(file, m->nested_map, nbytes);
    default:
        lorica_buf_init(&state, 1000);
        rc = write_state(m, e->source, &state);
        if (!rc)
            rc = put(file, state.data, state.len);
        lorica_buf_finish(&state);
        return rc;
    }
}

/* The directory, and what has been written into it. */
struct target {
    const char *dir;
    bool made;
    struct lorica_buf names; /* each with its NUL */
};

static int path_in(const char *dir, const char *name, char path[4096], struct lorica_error *err) {
    const int n = snprintf(path, 4096, "%s/%s", dir, name);
    return n < 0 || n >= 4096 ? lorica_fail(err, LORICA_EINVAL, "%s: the path is too long", dir)
                              : 0;
}

/* Each file is written as NAME.part, and has its name once all of them are on disk. */
static int part_in(const char *dir, const char *name, char path[4096], struct lorica_error *err) {
    char part[256];
    const int n = snprintf(part, sizeof(part), "%s.part", name);
    return n < 0 || n >= (int)sizeof(part)
               ? lorica_fail(err, LORICA_EINVAL, "%s: the name is too long", name)
               : path_in(dir, part, path, err);
}

/* Takes back what has been written. */
static void discard(struct target *target) {
    char path[4096];
    for (size_t at = 0; at < target->names.len; at += strlen(target->names.data + at) + 1)
        if (part_in(target->dir, target->names.data + at, path, NULL) == 0)
            (void)unlink(path);
    if (target->made)
        (void)rmdir(target->dir);
}

static int sync_dir(const char *dir, struct lorica_error *err) {
    const int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    const int rc =
        fd < 0 || fsync(fd) != 0
            ? lorica_fail(err, LORICA_EIO, "%s: cannot be synced: %s", dir, strerror(errno))
            : 0;
    if (fd >= 0)
        (void)close(fd);
    return rc;
}

/* Gives all files their names, the weights the last. */
static int put_in_place(const struct target *target, struct lorica_error *err) {
    char part[4096], path[4096];
    int rc = 0;
    for (size_t at = 0; at < target->names.len && !rc; at += strlen(target->names.data + at) + 1) {
        const char *name = target->names.data + at;
        rc = part_in(target->dir, name, part, err);
        if (!rc)
            rc = path_in(target->dir, name, path, err);
        if (!rc && rename(part, path) != 0)
            rc = lorica_fail(err, LORICA_EIO, "%s: cannot be put in place: %s", path,
                             strerror(errno));
    }
    return rc ? rc : sync_dir(target->dir, err);
}

/* Writes a file through `fill`, synced; an existing one is refused. What a run left that was killed
 * is written over. */
static int write_file(struct target *target, const char *name, int (*fill)(FILE *, const void *),
                      const void *arg, struct lorica_error *err) {
    char path[4096];
    struct stat st;
    int rc = path_in(target->dir, name, path, err);
    if (!rc && lstat(path, &st) == 0)
        rc = lorica_fail(err, LORICA_ECONFLICT, "%s: is there already", path);
    if (!rc)
        rc = part_in(target->dir, name, path, err);
    if (!rc && lorica_buf_append(&target->names, name, strlen(name) + 1))
        rc = lorica_fail(err, LORICA_ENOMEM, "out of memory");
    if (rc)
        return rc;
    const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0644);
    FILE *file = fd < 0 ? NULL : fdopen(fd, "wb");
    if (!file) {
        rc = lorica_fail(err, LORICA_EIO, "%s: %s", path, strerror(errno));
        if (fd >= 0)
            (void)close(fd);
        return rc;
    }
    rc = fill(file, arg);
    if (fflush(file) != 0 || fsync(fd) != 0 || rc)
        rc = lorica_fail(err,
                         rc == LORICA_ENOMEM ? rc
                         : errno == ENOSPC   ? LORICA_ENOSPC
                                             : LORICA_EIO,
                         "%s: cannot be written: %s", path,
                         rc == LORICA_ENOMEM ? "out of memory" : strerror(errno));
    (void)fclose(file);
    return rc;
}

struct weights {
    const struct plan *plan;
    const struct lorica_buf *header;
};

static int fill_weights(FILE *file, const void *arg) {
    const struct weights *w = arg;
    int rc = put(file, w->header->data, w->header->len);
    for (size_t i = 0; i < w->plan->count && !rc; i++)
        rc = put_part(file, w->plan, i);
    return rc;
}

static int fill_text(FILE *file, const void *arg) {
    const struct lorica_buf *text = arg;
    return put(file, text->data, text->len);
}

static int export_planned(struct plan *plan, struct target *target, struct lorica_error *err) {
    uint64_t count;
    const struct lorica_base_entry *table = lorica_base_table(plan->base, &count);
    int rc = 0;
    for (uint64_t i = 0; i < count && !rc; i++)
        rc = plan_entry(plan, i, &table[i]);
    static const char *const metadata[] = {"format", "pt"};
    struct lorica_buf header;
    lorica_buf_init(&header, LORICA_SAFETENSORS_MAX_HEADER);
    if (!rc)
        rc = lorica_safetensors_write_header(&header, plan->tensors, plan->count, metadata, 1);
    if (rc)
        rc = lorica_fail(err, rc, "model.safetensors: %s", lorica_err_text(rc));
    const struct weights weights = {plan, &header};
    if (!rc)
        rc = write_file(target, "model.safetensors", fill_weights, &weights, err);
    lorica_buf_finish(&header);
    return rc;
}

static int export_weights(const struct lorica_base *base, lorica_base_values_fn values,
                          const void *arg, struct target *target, struct lorica_error *err) {
    uint64_t count;
    (void)lorica_base_table(base, &count);
    struct plan plan = {.base = base,
                        .values = values,
                        .values_arg = arg,
                        .tensors = calloc(count * MAX_PARTS, sizeof(*plan.tensors)),
                        .names = calloc(count * MAX_PARTS, sizeof(*plan.names)),
                        .parts = calloc(count * MAX_PARTS, sizeof(*plan.parts))};
    const int rc = plan.tensors && plan.names && plan.parts
                       ? export_planned(&plan, target, err)
                       : lorica_fail(err, LORICA_ENOMEM, "no memory for an export");
    free(plan.tensors);
    free(plan.names);
    free(plan.parts);
    return rc;
}

static void write_rope(struct lorica_jsonw *w, const struct lorica_arch *a) {
    lorica_jsonw_number(w, "rope_theta", a->rope_theta);
    if (a->rope_scaling == LORICA_ROPE_DEFAULT) {
        lorica_jsonw_null(w, "rope_scaling");
        return;
    }
    lorica_jsonw_object(w, "rope_scaling");
    lorica_jsonw_string(w, "rope_type",
                        a->rope_scaling == LORICA_ROPE_LINEAR ? "linear" : "llama3");
    lorica_jsonw_number(w, "factor", a->rope_factor);
    if (a->rope_scaling == LORICA_ROPE_LLAMA3) {
        lorica_jsonw_number(w, "low_freq_factor", a->rope_low_freq);
        lorica_jsonw_number(w, "high_freq_factor", a->rope_high_freq);
        lorica_jsonw_integer(w, "original_max_position_embeddings", a->rope_original_positions);
    }
    lorica_jsonw_end_object(w);
}

/* `dense`: the weights are written as float32. */
static void write_quantization(struct lorica_jsonw *w, const struct lorica_base *base, bool dense) {
    const struct lorica_matrix *first = &base->layers[0].modules[0];
    uint64_t count;
    const struct lorica_base_entry *table = lorica_base_table(base, &count);
    uint32_t source = LORICA_FORMAT_F32;
    for (uint64_t i = 0; i < count; i++)
        if (table[i].format == LORICA_FORMAT_NF4 && !dense)
            source = table[i].source;
    lorica_jsonw_string(w, "dtype", dtype_name(source));
    if (first->format != LORICA_FORMAT_NF4 || dense)
        return;
    lorica_jsonw_object(w, "quantization_config");
    lorica_jsonw_string(w, "quant_method", "bitsandbytes");
    lorica_jsonw_bool(w, "load_in_4bit", true);
    lorica_jsonw_bool(w, "load_in_8bit", false);
    lorica_jsonw_string(w, "bnb_4bit_quant_type", "nf4");
    lorica_jsonw_bool(w, "bnb_4bit_use_double_quant", first->absmax == NULL);
    lorica_jsonw_string(w, "bnb_4bit_compute_dtype", dtype_name(source));
    lorica_jsonw_string(w, "bnb_4bit_quant_storage", "uint8");
    lorica_jsonw_null(w, "llm_int8_skip_modules");
    lorica_jsonw_end_object(w);
}

static void write_config(const struct lorica_base *base, bool dense, struct lorica_buf *out) {
    const struct lorica_arch *a = &base->arch;
    struct lorica_jsonw w = {.out = out};
    lorica_jsonw_object(&w, NULL);
    lorica_jsonw_array(&w, "architectures");
    lorica_jsonw_string(&w, NULL, "LlamaForCausalLM");
    lorica_jsonw_end_array(&w);
    lorica_jsonw_string(&w, "model_type", "llama");
    lorica_jsonw_integer(&w, "vocab_size", a->vocab);
    lorica_jsonw_integer(&w, "hidden_size", a->hidden);
    lorica_jsonw_integer(&w, "intermediate_size", a->intermediate);
    lorica_jsonw_integer(&w, "num_hidden_layers", a->layers);
    lorica_jsonw_integer(&w, "num_attention_heads", a->heads);
    lorica_jsonw_integer(&w, "num_key_value_heads", a->kv_heads);
    lorica_jsonw_integer(&w, "head_dim", a->head_dim);
    lorica_jsonw_string(&w, "hidden_act", "silu");
    lorica_jsonw_integer(&w, "max_position_embeddings", a->max_positions);
    lorica_jsonw_number(&w, "rms_norm_eps", (double)a->rms_eps);
    write_rope(&w, a);
    lorica_jsonw_bool(&w, "attention_bias", false);
    lorica_jsonw_bool(&w, "mlp_bias", false);
    lorica_jsonw_bool(&w, "tie_word_embeddings", a->tied_head);
    write_quantization(&w, base, dense);
    lorica_jsonw_end_object(&w);
    (void)lorica_buf_puts(out, "\n");
}

/* The tokenizer files that the import kept. */
static int export_files(const struct lorica_base *base, struct target *target,
                        struct lorica_error *err) {
    struct lorica_json *root;
    int rc = lorica_json_parse(base->metadata, base->metadata_len, &root, err);
    if (rc)
        return rc;
    const struct lorica_json *files = lorica_json_get(lorica_json_get(root, "provenance"), "files");
    for (const struct lorica_json *f = lorica_json_first(files); f && !rc;
         f = lorica_json_next(f)) {
        const char *name = lorica_json_key(f), *text = lorica_json_string(f);
        if (!text || strchr(name, '/') || strcmp(name, "config.json") == 0)
            continue;
        struct lorica_buf out;
        lorica_buf_init(&out, TEXT_MAX);
        rc = lorica_buf_puts(&out, text);
        rc = rc ? lorica_fail(err, rc, "%s: %s", name, lorica_err_text(rc))
                : write_file(target, name, fill_text, &out, err);
        lorica_buf_finish(&out);
    }
    lorica_json_destroy(root);
    return rc;
}

static int export_config(const struct lorica_base *base, bool dense, struct target *target,
                         struct lorica_error *err) {
    struct lorica_buf config;
    lorica_buf_init(&config, TEXT_MAX);
    write_config(base, dense, &config);
    int rc = lorica_buf_status(&config);
    rc = rc ? lorica_fail(err, rc, "config.json: %s", lorica_err_text(rc))
            : write_file(target, "config.json", fill_text, &config, err);
    lorica_buf_finish(&config);
    return rc;
}

int lorica_base_export_values(const struct lorica_base *base, lorica_base_values_fn values,
                              const void *arg, const char *dir, struct lorica_error *err) {
    struct target target = {.dir = dir, .made = mkdir(dir, 0755) == 0};
    if (!target.made && errno != EEXIST)
        return lorica_fail(err, LORICA_EIO, "%s: %s", dir, strerror(errno));
    lorica_buf_init(&target.names, TEXT_MAX);
    int rc = export_config(base, values != NULL, &target, err);
    if (!rc)
        rc = export_files(base, &target, err);
    if (!rc)
        rc = export_weights(base, values, arg, &target, err);
    if (!rc)
        rc = put_in_place(&target, err);
    if (rc)
        discard(&target);
    lorica_buf_finish(&target.names);
    return rc;
}

int lorica_base_export(const struct lorica_base *base, const char *dir, struct lorica_error *err) {
    return lorica_base_export_values(base, NULL, NULL, dir, err);
}
