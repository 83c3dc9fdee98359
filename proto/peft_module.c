/* SPDX-License-Identifier: MIT
 * What a config says of one module, and the two ways of writing a config. */
#include "proto/peft.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "proto/json.h"
#include "proto/pattern.h"

/* Value of the first pattern that matches, else `fallback`. */
static int pattern_value(const struct lorica_peft_pattern *patterns, size_t count,
                         const char *module, double fallback, double *ret,
                         struct lorica_error *err) {
    for (size_t i = 0; i < count; i++) {
        bool match;
        const int rc = lorica_pattern_match(patterns[i].key, module, true, &match, err);
        if (rc)
            return rc;
        if (match) {
            *ret = patterns[i].value;
            return 0;
        }
    }
    *ret = fallback;
    return 0;
}

int lorica_peft_module(const struct lorica_peft_config *config, const char *module,
                       uint32_t *ret_rank, double *ret_scale, struct lorica_error *err) {
    double rank, alpha;
    int rc = pattern_value(config->rank_pattern, config->rank_pattern_count, module, config->r,
                           &rank, err);
    if (!rc)
        rc = pattern_value(config->alpha_pattern, config->alpha_pattern_count, module,
                           config->alpha, &alpha, err);
    if (rc)
        return rc;
    *ret_rank = (uint32_t)rank;
    *ret_scale = alpha / (config->use_rslora ? sqrt(rank) : rank);
    return 0;
}

/* The layer number in "model.layers.7.mlp.up_proj", or -1. */
static long layer_of(const char *module) {
    for (const char *at = strchr(module, '.'); at; at = strchr(at + 1, '.')) {
        char *end;
        const long layer = at[1] >= '0' && at[1] <= '9' ? strtol(at + 1, &end, 10) : -1;
        if (layer >= 0 && *end == '.')
            return layer;
    }
    return -1;
}

static bool layer_listed(const struct lorica_peft_config *config, const char *module) {
    if (!config->layers_to_transform)
        return true;
    const long layer = layer_of(module);
    for (size_t i = 0; i < config->layers_count; i++)
        if (layer == (long)config->layers_to_transform[i])
            return true;
    return false;
}

/* PEFT: the name itself, or a suffix behind a dot. */
static bool name_listed(const struct lorica_peft_config *config, const char *module) {
    const size_t len = strlen(module);
    for (size_t i = 0; i < config->target_count; i++) {
        const char *target = config->target_modules[i];
        const size_t n = strlen(target);
        if (n <= len && strcmp(module + len - n, target) == 0 &&
            (n == len || module[len - n - 1] == '.'))
            return true;
    }
    return false;
}

int lorica_peft_targets(const struct lorica_peft_config *config, const char *module, bool *ret,
                        struct lorica_error *err) {
    bool named;
    if (!config->target_regex) {
        named = name_listed(config, module);
    } else if (strcmp(config->target_regex, "all-linear") == 0) {
        named = true;
    } else {
        const int rc = lorica_pattern_match(config->target_regex, module, false, &named, err);
        if (rc)
            return rc;
    }
    *ret = named && layer_listed(config, module);
    return 0;
}

bool lorica_peft_tensor_name(const char *name, char *module, size_t module_size, bool *ret_is_b) {
    static const char prefix[] = "base_model.model.";
    static const char *const suffixes[] = {".lora_A.weight", ".lora_B.weight"};
    const size_t start = sizeof(prefix) - 1, end = strlen(suffixes[0]), len = strlen(name);
    if (len <= start + end || strncmp(name, prefix, start) != 0)
        return false;
    for (int b = 0; b < 2; b++) {
        if (strcmp(name + len - end, suffixes[b]) != 0)
            continue;
        const size_t n = len - start - end;
        if (n >= module_size)
            return false;
        memcpy(module, name + start, n);
        module[n] = '\0';
        *ret_is_b = b == 1;
        return true;
    }
    return false;
}

static int compare_text(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static int compare_layers(const void *a, const void *b) {
    const uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static void write_number(struct lorica_jsonw *w, const char *key, double number) {
    if (number == floor(number) && fabs(number) < 1e15)
        lorica_jsonw_integer(w, key, (int64_t)number);
    else
        lorica_jsonw_number(w, key, number);
}

static void write_pattern(struct lorica_jsonw *w, const char *key,
                          const struct lorica_peft_pattern *patterns, size_t count) {
    lorica_jsonw_object(w, key);
    for (size_t i = 0; i < count; i++)
        write_number(w, patterns[i].key, patterns[i].value);
    lorica_jsonw_end_object(w);
}

/* Targets, sorted: their order means nothing. */
static int write_targets(struct lorica_jsonw *w, const struct lorica_peft_config *config) {
    if (config->target_regex) {
        lorica_jsonw_string(w, "target_modules", config->target_regex);
        return 0;
    }
    char **sorted = malloc((config->target_count + 1) * sizeof(*sorted));
    if (!sorted)
        return LORICA_ENOMEM;
    if (config->target_count > 0)
        memcpy(sorted, config->target_modules, config->target_count * sizeof(*sorted));
    qsort(sorted, config->target_count, sizeof(*sorted), compare_text);
    lorica_jsonw_array(w, "target_modules");
    for (size_t i = 0; i < config->target_count; i++)
        lorica_jsonw_string(w, NULL, sorted[i]);
    lorica_jsonw_end_array(w);
    free(sorted);
    return 0;
}

static int write_layers(struct lorica_jsonw *w, const struct lorica_peft_config *config) {
    if (!config->layers_to_transform) {
        lorica_jsonw_null(w, "layers_to_transform");
        return 0;
    }
    uint32_t *sorted = malloc((config->layers_count + 1) * sizeof(*sorted));
    if (!sorted)
        return LORICA_ENOMEM;
    memcpy(sorted, config->layers_to_transform, config->layers_count * sizeof(*sorted));
    qsort(sorted, config->layers_count, sizeof(*sorted), compare_layers);
    lorica_jsonw_array(w, "layers_to_transform");
    for (size_t i = 0; i < config->layers_count; i++)
        lorica_jsonw_integer(w, NULL, sorted[i]);
    lorica_jsonw_end_array(w);
    free(sorted);
    return 0;
}

int lorica_peft_write(struct lorica_buf *out, const struct lorica_peft_config *config) {
    struct lorica_jsonw w = {.out = out};
    lorica_jsonw_object(&w, NULL);
    lorica_jsonw_string(&w, "task_type", "CAUSAL_LM");
    lorica_jsonw_string(&w, "peft_type", "LORA");
    lorica_jsonw_string(&w, "base_model_name_or_path", config->base_model);
    lorica_jsonw_bool(&w, "inference_mode", true);
    lorica_jsonw_integer(&w, "r", config->r);
    int rc = write_targets(&w, config);
    write_number(&w, "lora_alpha", config->alpha);
    lorica_jsonw_number(&w, "lora_dropout", config->dropout);
    lorica_jsonw_bool(&w, "fan_in_fan_out", false);
    lorica_jsonw_string(&w, "bias", "none");
    lorica_jsonw_bool(&w, "use_rslora", config->use_rslora);
    lorica_jsonw_null(&w, "modules_to_save");
    lorica_jsonw_bool(&w, "init_lora_weights", true);
    if (!rc)
        rc = write_layers(&w, config);
    write_pattern(&w, "rank_pattern", config->rank_pattern, config->rank_pattern_count);
    write_pattern(&w, "alpha_pattern", config->alpha_pattern, config->alpha_pattern_count);
    lorica_jsonw_bool(&w, "use_dora", false);
    if (config->base_digest)
        lorica_jsonw_string(&w, "lorica_base_digest", config->base_digest);
    lorica_jsonw_end_object(&w);
    (void)lorica_buf_puts(out, "\n");
    return rc ? rc : lorica_buf_status(out);
}

int lorica_peft_canonical(struct lorica_buf *out, const struct lorica_peft_config *config) {
    struct lorica_jsonw w = {.out = out};
    lorica_jsonw_object(&w, NULL);
    lorica_jsonw_integer(&w, "r", config->r);
    write_number(&w, "lora_alpha", config->alpha);
    lorica_jsonw_bool(&w, "use_rslora", config->use_rslora);
    int rc = write_targets(&w, config);
    if (!rc)
        rc = write_layers(&w, config);
    write_pattern(&w, "rank_pattern", config->rank_pattern, config->rank_pattern_count);
    write_pattern(&w, "alpha_pattern", config->alpha_pattern, config->alpha_pattern_count);
    lorica_jsonw_end_object(&w);
    return rc ? rc : lorica_buf_status(out);
}
