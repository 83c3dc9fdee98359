/* SPDX-License-Identifier: MIT
 * Reading and judging. */
#include "proto/peft.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "proto/json.h"

#define MAX_RANK 4096
#define MAX_LIST 4096

/* Keys that change nothing about serving, whatever they say. */
static const char *const informing[] = {
    "auto_mapping",   "peft_version", "revision",          "inference_mode",
    "megatron_core",  "task_type",    "qalora_group_size", "ensure_weight_tying",
    "runtime_config", "loftq_config", "eva_config",
};

/* Keys that are read below. */
static const char *const reading[] = {
    "peft_type",          "bias",          "init_lora_weights",   "r",
    "lora_alpha",         "lora_dropout",  "use_rslora",          "target_modules",
    "rank_pattern",       "alpha_pattern", "layers_to_transform", "base_model_name_or_path",
    "lorica_base_digest",
};

static bool listed(const char *const *list, size_t count, const char *key) {
    for (size_t i = 0; i < count; i++)
        if (strcmp(list[i], key) == 0)
            return true;
    return false;
}

/* null, false, "", [] and {}: a variant that is off. */
static bool is_off(const struct lorica_json *value) {
    switch (lorica_json_type(value)) {
    case LORICA_JSON_NULL:
        return true;
    case LORICA_JSON_BOOL:
        return !lorica_json_is_true(value);
    case LORICA_JSON_STRING:
        return lorica_json_string(value)[0] == '\0';
    case LORICA_JSON_NUMBER:
        return false;
    default:
        return lorica_json_first(value) == NULL;
    }
}

static int refuse(struct lorica_error *err, const char *key) {
    return lorica_fail(err, LORICA_EUNSUPPORTED,
                       "adapter_config.json: \"%.100s\" has a value that lorica does not serve",
                       key);
}

static int malformed(struct lorica_error *err, const char *key, const char *expected) {
    return lorica_fail(err, LORICA_EFORMAT, "adapter_config.json: \"%.100s\" must be %s", key,
                       expected);
}

/* Every key is one that is read, one that only informs, or off. */
static int check_keys(const struct lorica_json *root, struct lorica_error *err) {
    for (const struct lorica_json *c = lorica_json_first(root); c; c = lorica_json_next(c)) {
        const char *key = lorica_json_key(c);
        if (!listed(reading, sizeof(reading) / sizeof(reading[0]), key) &&
            !listed(informing, sizeof(informing) / sizeof(informing[0]), key) && !is_off(c))
            return refuse(err, key);
    }
    return 0;
}

static int check_kind(const struct lorica_json *root, struct lorica_error *err) {
    const char *type = lorica_json_string(lorica_json_get(root, "peft_type"));
    if (!type || strcmp(type, "LORA") != 0)
        return refuse(err, "peft_type");
    const struct lorica_json *task = lorica_json_get(root, "task_type");
    if (!is_off(task) &&
        (!lorica_json_string(task) || strcmp(lorica_json_string(task), "CAUSAL_LM") != 0))
        return refuse(err, "task_type");
    const struct lorica_json *bias = lorica_json_get(root, "bias");
    if (!is_off(bias) &&
        (!lorica_json_string(bias) || strcmp(lorica_json_string(bias), "none") != 0))
        return refuse(err, "bias");
    static const char *const inits[] = {"gaussian", "orthogonal", "eva"};
    const struct lorica_json *init = lorica_json_get(root, "init_lora_weights");
    const char *name = lorica_json_string(init);
    if (name ? !listed(inits, 3, name)
             : lorica_json_type(init) != LORICA_JSON_BOOL &&
                   lorica_json_type(init) != LORICA_JSON_NULL)
        return refuse(err, "init_lora_weights");
    return 0;
}

static int read_numbers(const struct lorica_json *root, struct lorica_peft_config *config,
                        struct lorica_error *err) {
    int64_t r = 8;
    const struct lorica_json *value = lorica_json_get(root, "r");
    if (value && lorica_json_integer(value, 1, MAX_RANK, &r) != 0)
        return malformed(err, "r", "a whole number from 1 to 4096");
    config->r = (uint32_t)r;
    config->alpha = lorica_json_number(lorica_json_get(root, "lora_alpha"), 8);
    value = lorica_json_get(root, "lora_alpha");
    if (value && lorica_json_type(value) != LORICA_JSON_NUMBER)
        return malformed(err, "lora_alpha", "a number");
    config->dropout = lorica_json_number(lorica_json_get(root, "lora_dropout"), 0);
    if (config->dropout < 0 || config->dropout >= 1)
        return malformed(err, "lora_dropout", "from 0 to below 1");
    value = lorica_json_get(root, "use_rslora");
    if (value && lorica_json_type(value) != LORICA_JSON_BOOL &&
        lorica_json_type(value) != LORICA_JSON_NULL)
        return malformed(err, "use_rslora", "true or false");
    config->use_rslora = lorica_json_is_true(value);
    return 0;
}

static int copy_string(const struct lorica_json *root, const char *key, char **ret,
                       struct lorica_error *err) {
    const struct lorica_json *value = lorica_json_get(root, key);
    if (lorica_json_type(value) == LORICA_JSON_NULL)
        return 0;
    if (!lorica_json_string(value))
        return malformed(err, key, "a string");
    *ret = strdup(lorica_json_string(value));
    return *ret ? 0 : lorica_fail(err, LORICA_ENOMEM, "no memory for an adapter config");
}

static int read_targets(const struct lorica_json *root, struct lorica_peft_config *config,
                        struct lorica_error *err) {
    const struct lorica_json *targets = lorica_json_get(root, "target_modules");
    if (lorica_json_type(targets) == LORICA_JSON_STRING)
        return copy_string(root, "target_modules", &config->target_regex, err);
    const size_t count = lorica_json_count(targets);
    if (lorica_json_type(targets) != LORICA_JSON_ARRAY || count == 0 || count > MAX_LIST)
        return malformed(err, "target_modules", "a string or a list of module names");
    config->target_modules = calloc(count, sizeof(*config->target_modules));
    if (!config->target_modules)
        return lorica_fail(err, LORICA_ENOMEM, "no memory for an adapter config");
    for (const struct lorica_json *c = lorica_json_first(targets); c; c = lorica_json_next(c)) {
        const char *name = lorica_json_string(c);
        if (!name || !name[0])
            return malformed(err, "target_modules", "a list of module names");
        char *copy = strdup(name);
        if (!copy)
            return lorica_fail(err, LORICA_ENOMEM, "no memory for an adapter config");
        config->target_modules[config->target_count++] = copy;
    }
    return 0;
}

static int read_pattern(const struct lorica_json *root, const char *key,
                        struct lorica_peft_pattern **ret, size_t *ret_count,
                        struct lorica_error *err) {
    const struct lorica_json *object = lorica_json_get(root, key);
    const size_t count = lorica_json_count(object);
    if (is_off(object))
        return 0;
    if (lorica_json_type(object) != LORICA_JSON_OBJECT || count > MAX_LIST)
        return malformed(err, key, "an object of module patterns and numbers");
    *ret = calloc(count, sizeof(**ret));
    if (!*ret)
        return lorica_fail(err, LORICA_ENOMEM, "no memory for an adapter config");
    for (const struct lorica_json *c = lorica_json_first(object); c; c = lorica_json_next(c)) {
        const double value = lorica_json_number(c, NAN);
        const bool rank = key[0] == 'r';
        if (!(isfinite(value)) ||
            (rank && (value < 1 || value > MAX_RANK || value != floor(value))))
            return malformed(err, key, rank ? "ranks from 1 to 4096" : "numbers");
        struct lorica_peft_pattern *pattern = &(*ret)[(*ret_count)++];
        pattern->value = value;
        pattern->key = strdup(lorica_json_key(c));
        if (!pattern->key)
            return lorica_fail(err, LORICA_ENOMEM, "no memory for an adapter config");
    }
    return 0;
}

static int read_layers(const struct lorica_json *root, struct lorica_peft_config *config,
                       struct lorica_error *err) {
    const struct lorica_json *value = lorica_json_get(root, "layers_to_transform");
    if (lorica_json_type(value) == LORICA_JSON_NULL)
        return 0;
    const bool single = lorica_json_type(value) == LORICA_JSON_NUMBER;
    const size_t count = single ? 1 : lorica_json_count(value);
    if ((!single && lorica_json_type(value) != LORICA_JSON_ARRAY) || count == 0 || count > MAX_LIST)
        return malformed(err, "layers_to_transform", "a layer number or a list of them");
    config->layers_to_transform = calloc(count, sizeof(*config->layers_to_transform));
    if (!config->layers_to_transform)
        return lorica_fail(err, LORICA_ENOMEM, "no memory for an adapter config");
    for (const struct lorica_json *c = single ? value : lorica_json_first(value); c;
         c = single ? NULL : lorica_json_next(c)) {
        int64_t layer;
        if (lorica_json_integer(c, 0, 100000, &layer) != 0)
            return malformed(err, "layers_to_transform", "a layer number or a list of them");
        config->layers_to_transform[config->layers_count++] = (uint32_t)layer;
    }
    return 0;
}

static int read_config(const struct lorica_json *root, struct lorica_peft_config *config,
                       struct lorica_error *err) {
    if (lorica_json_type(root) != LORICA_JSON_OBJECT)
        return lorica_fail(err, LORICA_EFORMAT, "adapter_config.json is no JSON object");
    int rc = check_kind(root, err);
    if (!rc)
        rc = check_keys(root, err);
    if (!rc)
        rc = read_numbers(root, config, err);
    if (!rc)
        rc = read_targets(root, config, err);
    if (!rc)
        rc = read_pattern(root, "rank_pattern", &config->rank_pattern, &config->rank_pattern_count,
                          err);
    if (!rc)
        rc = read_pattern(root, "alpha_pattern", &config->alpha_pattern,
                          &config->alpha_pattern_count, err);
    if (!rc)
        rc = read_layers(root, config, err);
    if (!rc)
        rc = copy_string(root, "base_model_name_or_path", &config->base_model, err);
    if (!rc)
        rc = copy_string(root, "lorica_base_digest", &config->base_digest, err);
    return rc;
}

int lorica_peft_parse(const char *json, size_t len, struct lorica_peft_config *ret,
                      struct lorica_error *err) {
    struct lorica_json *root;
    struct lorica_error local;
    int rc = lorica_json_parse(json, len, &root, &local);
    if (rc)
        return lorica_fail(err, rc, "adapter_config.json: %s", local.text);
    struct lorica_peft_config config = {0};
    rc = read_config(root, &config, err);
    lorica_json_destroy(root);
    if (rc)
        lorica_peft_finish(&config);
    else
        *ret = config;
    return rc;
}

static void free_patterns(struct lorica_peft_pattern *patterns, size_t count) {
    for (size_t i = 0; i < count; i++)
        free(patterns[i].key);
    free(patterns);
}

void lorica_peft_finish(struct lorica_peft_config *config) {
    for (size_t i = 0; i < config->target_count; i++)
        free(config->target_modules[i]);
    free(config->target_modules);
    free(config->target_regex);
    free_patterns(config->rank_pattern, config->rank_pattern_count);
    free_patterns(config->alpha_pattern, config->alpha_pattern_count);
    free(config->layers_to_transform);
    free(config->base_model);
    free(config->base_digest);
    *config = (struct lorica_peft_config){0};
}
