/* SPDX-License-Identifier: MIT
 * lorica train --estimate: what full fine-tuning, LoRA and QLoRA of a model would need. */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "gateway/cmd/cmd.h"
#include "gateway/files.h"
#include "gateway/train/train.h"
#include "proto/json.h"
#include "registry/digest.h"
#include "runtime/train/estimate.h"

/* The shape in a config.json. */
static int read_config(const char *path, struct lorica_arch *ret, struct lorica_error *err) {
    char *text = NULL;
    size_t len = 0;
    int rc = lorica_file_read(path, LORICA_TRAIN_TEXT_MAX, &text, &len, err);
    if (rc)
        return rc;
    rc = lorica_hf_read_shape(text, len, ret, err);
    free(text);
    return rc ? lorica_fail_prefix(err, "%s", path) : 0;
}

static int read_base(const struct lorica_train_job *job, struct lorica_arch *ret,
                     double *ret_embed_bytes, struct lorica_error *err) {
    char *dir = lorica_data_dir(job->where.data), *path = NULL;
    struct lorica_base *base = NULL;
    if (!dir)
        return lorica_fail(err, LORICA_EINVAL, "there is no data directory");
    int rc = lorica_find_base(dir, job->estimate, &path, err);
    if (!rc)
        rc = lorica_base_open_any(path, &lorica_sha256_hasher, &base, err);
    if (!rc) {
        *ret = base->arch;
        *ret_embed_bytes = base->embed.format == LORICA_FORMAT_F32  ? 4
                           : base->embed.format == LORICA_FORMAT_Q8 ? 34.0 / 32
                                                                    : 2;
    }
    lorica_base_close(base);
    free(path);
    free(dir);
    return rc;
}

/* A config.json, a directory with one, or a base. */
static int read_shape(const struct lorica_train_job *job, struct lorica_arch *ret,
                      double *ret_embed_bytes, struct lorica_error *err) {
    const char *what = job->estimate;
    const size_t len = strlen(what);
    struct stat st;
    *ret_embed_bytes = 2;
    if (len > 5 && strcmp(what + len - 5, ".json") == 0)
        return read_config(what, ret, err);
    if (stat(what, &st) != 0 || !S_ISDIR(st.st_mode))
        return read_base(job, ret, ret_embed_bytes, err);
    char *path = lorica_path_join(what, "config.json");
    const int rc = path ? read_config(path, ret, err)
                        : lorica_fail(err, LORICA_ENOMEM, "no memory for a path");
    free(path);
    return rc;
}

static void print_json(const struct lorica_train_estimate *ways,
                       const struct lorica_train_estimate_options *options) {
    struct lorica_buf out;
    lorica_buf_init(&out, LORICA_TRAIN_TEXT_MAX);
    struct lorica_jsonw w = {.out = &out};
    lorica_jsonw_object(&w, NULL);
    lorica_jsonw_integer(&w, "parameters", (int64_t)ways[0].parameters);
    lorica_jsonw_integer(&w, "batch", options->batch);
    lorica_jsonw_integer(&w, "length", options->length);
    lorica_jsonw_integer(&w, "rank", options->spec.rank);
    lorica_jsonw_array(&w, "ways");
    for (int i = 0; i < LORICA_WAY_COUNT; i++) {
        lorica_jsonw_object(&w, NULL);
        lorica_jsonw_string(&w, "way", lorica_train_way_name((enum lorica_train_way)i));
        lorica_jsonw_integer(&w, "trained", (int64_t)ways[i].trained);
        lorica_jsonw_integer(&w, "weights_bytes", (int64_t)ways[i].weights);
        lorica_jsonw_integer(&w, "gradients_bytes", (int64_t)ways[i].gradients);
        lorica_jsonw_integer(&w, "optimizer_bytes", (int64_t)ways[i].optimizer);
        lorica_jsonw_integer(&w, "activations_bytes", (int64_t)ways[i].activations);
        lorica_jsonw_integer(&w, "total_bytes", (int64_t)ways[i].total);
        lorica_jsonw_integer(&w, "file_bytes", (int64_t)ways[i].file);
        lorica_jsonw_end_object(&w);
    }
    lorica_jsonw_end_array(&w);
    lorica_jsonw_end_object(&w);
    (void)lorica_buf_puts(&out, "\n");
    if (lorica_buf_status(&out) == 0)
        (void)fwrite(out.data, 1, out.len, stdout);
    lorica_buf_finish(&out);
}

/* A number of bytes as people write it: 14 GB is 14 * 10^9. */
static void put_bytes(struct lorica_table *table, uint64_t bytes) {
    if (bytes >= 1000000000)
        lorica_table_format(table, "%.1f GB", (double)bytes / 1e9);
    else
        lorica_table_format(table, "%.1f MB", (double)bytes / 1e6);
}

static bool print_table(const struct lorica_train_estimate *ways) {
    static const char *const headings[] = {"WAY",       "TRAINED",   "WEIGHTS",
                                           "GRADIENTS", "OPTIMIZER", "ACTIVATIONS",
                                           "TOTAL",     "FILE LEFT", NULL};
    struct lorica_table *table = lorica_table_create(headings);
    if (!table)
        return false;
    for (int i = 0; i < LORICA_WAY_COUNT; i++) {
        lorica_table_text(table, lorica_train_way_name((enum lorica_train_way)i));
        lorica_table_format(table, "%.1f M", (double)ways[i].trained / 1e6);
        put_bytes(table, ways[i].weights);
        put_bytes(table, ways[i].gradients);
        put_bytes(table, ways[i].optimizer);
        put_bytes(table, ways[i].activations);
        put_bytes(table, ways[i].total);
        put_bytes(table, ways[i].file);
    }
    const bool fine = lorica_table_print(table, stdout);
    lorica_table_destroy(table);
    return fine;
}

int lorica_train_estimate_job(const struct lorica_train_job *job) {
    const long cores = sysconf(_SC_NPROCESSORS_ONLN);
    struct lorica_train_estimate_options options = {
        .batch = job->options.batch,
        .length = job->max_length,
        .spec = job->spec,
        .threads = job->threads ? job->threads
                   : cores > 0  ? (unsigned)cores
                                : 1,
        .model = {.compute = job->options.compute,
                  .dropout = job->options.dropout > 0,
                  .keep_bytes = job->options.recompute ? 0 : LORICA_TRAIN_KEEP_BYTES}};
    struct lorica_train_estimate ways[LORICA_WAY_COUNT];
    struct lorica_arch arch;
    struct lorica_error err = {0};
    int rc = read_shape(job, &arch, &options.embed_bytes, &err);
    if (!rc)
        rc = lorica_train_spec_check(&job->spec, &arch, &err);
    if (!rc && options.length > arch.max_positions)
        options.length = arch.max_positions;
    if (!rc && (uint64_t)options.batch * options.length > UINT32_MAX)
        rc = lorica_fail(&err, LORICA_ELIMIT, "a batch of %u times %u tokens is too large",
                         options.batch, options.length);
    if (rc)
        return lorica_cmd_fail(&err);
    for (int i = 0; i < LORICA_WAY_COUNT; i++)
        lorica_train_estimate(&arch, (enum lorica_train_way)i, &options, &ways[i]);
    if (job->json) {
        print_json(ways, &options);
        return LORICA_EXIT_OK;
    }
    (void)printf("%.1f million parameters; batches of %u x %u tokens, rank %u\n",
                 (double)ways[0].parameters / 1e6, options.batch, options.length,
                 options.spec.rank);
    return print_table(ways) ? LORICA_EXIT_OK : LORICA_EXIT_FAILED;
}
