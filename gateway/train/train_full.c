/* SPDX-License-Identifier: MIT
 * lorica train --full: every weight is trained, so that what that costs and brings can be seen
 * beside an adapter. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "gateway/cmd/cmd.h"
#include "gateway/files.h"
#include "gateway/train/train.h"
#include "gateway/train/train_log.h"
#include "proto/json.h"
#include "runtime/train/estimate.h"
#include "runtime/train/full.h"

/* What is compared. NaN and 0: not known. */
struct figures {
    uint64_t trained;
    double memory_mb, file_mb, train_loss, eval_loss;
};

static double file_mb(const char *dir, const char *name) {
    struct stat st;
    char *path = lorica_path_join(dir, name);
    const bool there = path && stat(path, &st) == 0;
    free(path);
    return there ? (double)st.st_size / 1e6 : (double)NAN;
}

/* Of the adapter that was trained under the same name; false: there is none. */
static bool read_adapter(const char *dir, struct figures *ret) {
    struct lorica_json *manifest = NULL;
    char *path = lorica_path_join(dir, "manifest.json"), *text = NULL;
    size_t len = 0;
    const bool there = path &&
                       lorica_file_read(path, LORICA_TRAIN_TEXT_MAX, &text, &len, NULL) == 0 &&
                       lorica_json_parse(text, len, &manifest, NULL) == 0;
    if (there)
        *ret = (struct figures){
            .trained =
                (uint64_t)lorica_json_number(lorica_json_get(manifest, "trained_parameters"), 0),
            .memory_mb = lorica_json_number(lorica_json_get(manifest, "memory_mb"), (double)NAN),
            .file_mb = file_mb(dir, "adapter_model.safetensors"),
            .train_loss = lorica_json_number(lorica_json_get(manifest, "train_loss"), (double)NAN),
            .eval_loss = lorica_json_number(lorica_json_get(manifest, "eval_loss"), (double)NAN)};
    lorica_json_destroy(manifest);
    free(text);
    free(path);
    return there;
}

static void put(struct lorica_table *table, const char *format, double number) {
    if (!isfinite(number))
        lorica_table_text(table, "-");
    else if (format[0] == '0')
        lorica_table_format(table, "%.0f", number);
    else
        lorica_table_format(table, "%.3f", number);
}

static void print_row(struct lorica_table *table, const char *name, const struct figures *f) {
    lorica_table_text(table, name);
    put(table, "0", f->trained > 0 ? (double)f->trained : (double)NAN);
    put(table, "0", f->memory_mb);
    put(table, "3", f->file_mb);
    put(table, "3", f->train_loss);
    put(table, "3", f->eval_loss);
}

static void print_comparison(const struct figures *full, const struct figures *adapter) {
    static const char *const headings[] = {
        "", "PARAMETERS", "MEMORY MB", "FILE MB", "TRAINING LOSS", "HELD APART", NULL};
    struct lorica_table *table = lorica_table_create(headings);
    if (!table)
        return;
    print_row(table, "full", full);
    if (adapter)
        print_row(table, "adapter", adapter);
    (void)lorica_table_print(table, stdout);
    lorica_table_destroy(table);
}

void lorica_train_full_compare(const struct lorica_train_job *job, const char *dir,
                               const struct lorica_base *base,
                               const struct lorica_trainer_result *r) {
    const struct figures full = {.trained = lorica_arch_parameters(&base->arch),
                                 .memory_mb = lorica_train_memory_mb(),
                                 .file_mb = file_mb(dir, "model.safetensors"),
                                 .train_loss = r->loss,
                                 .eval_loss = r->best_step > 0 ? r->eval_loss : (double)NAN};
    struct figures adapter;
    char *data = lorica_data_dir(job->where.data),
         *all = data ? lorica_path_join(data, "train") : NULL,
         *beside = all ? lorica_path_join(all, job->name) : NULL;
    const bool there = beside && read_adapter(beside, &adapter);
    print_comparison(&full, there ? &adapter : NULL);
    if (!there)
        (void)printf("an adapter trained as %s on the same data, without --full, would stand "
                     "beside it\n",
                     job->name);
    free(beside);
    free(all);
    free(data);
}

bool lorica_train_full_has_tokenizer(const char *dir) {
    char *path = lorica_path_join(dir, "tokenizer.json");
    const bool there = path && lorica_path_exists(path);
    free(path);
    return there;
}

int lorica_train_full_ready(const struct lorica_base *base, const char *dir,
                            struct lorica_error *err) {
    const uint64_t needed = lorica_arch_parameters(&base->arch) * sizeof(float);
    static const char *const names[] = {"config.json", "model.safetensors"};
    int rc = 0;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]) && !rc; i++) {
        char *path = lorica_path_join(dir, names[i]);
        if (!path)
            rc = lorica_fail(err, LORICA_ENOMEM, "no memory for a path");
        else if (lorica_path_exists(path))
            rc = lorica_fail(err, LORICA_ECONFLICT, "%s is there already: choose another --out",
                             path);
        free(path);
    }
    return rc ? rc : lorica_train_check_room(dir, needed, err);
}

int lorica_train_full_replay(struct lorica_train_session *s, const struct lorica_train_job *job,
                             const struct lorica_replay *trace, float *curves,
                             struct lorica_error *err) {
    struct lorica_full *full = NULL;
    struct lorica_trainer_options options = job->options;
    int rc = lorica_train_full_ready(s->base, job->out, err);
    if (!rc)
        rc = lorica_full_create(s->base, &full, err);
    options.full = full;
    if (!rc)
        rc = lorica_trainer_replay(&full->base, s->pool, trace, &options, NULL, curves,
                                   curves + trace->steps, err);
    if (!rc)
        rc = lorica_full_export(full, job->out, err);
    lorica_full_destroy(full);
    return rc;
}
