/* SPDX-License-Identifier: MIT */
#include "gateway/config.h"

#include <errno.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FILE_MAX ((size_t)64 << 10)
#define FIELD(f) offsetof(struct lorica_config, f)

static const struct lorica_setting settings[] = {
    {"listen", LORICA_SETTING_TEXT, FIELD(listen), 0, 0},
    {"base", LORICA_SETTING_TEXT, FIELD(base), 0, 0},
    {"threads", LORICA_SETTING_NUMBER, FIELD(threads), 0, 1024},
    {"kv", LORICA_SETTING_KV, FIELD(kv), 0, 0},
    {"kv-tokens", LORICA_SETTING_NUMBER, FIELD(kv_tokens), 256, 1 << 24},
    {"max-running", LORICA_SETTING_NUMBER, FIELD(max_running), 1, 4096},
    {"max-waiting", LORICA_SETTING_NUMBER, FIELD(max_waiting), 1, 65536},
    {"step-ms", LORICA_SETTING_NUMBER, FIELD(step_ms), 0, 60000},
    {"no-speculation", LORICA_SETTING_BOOL, FIELD(no_speculation), 0, 0},
    {"prefix-cache-mb", LORICA_SETTING_NUMBER, FIELD(prefix_cache_mb), 0, 1 << 20},
    {"adapter-cache-mb", LORICA_SETTING_NUMBER, FIELD(adapter_cache_mb), 1, 1 << 20},
    {"upload-limit-mb", LORICA_SETTING_NUMBER, FIELD(upload_limit_mb), 1, 1 << 16},
    {"training-file-mb", LORICA_SETTING_NUMBER, FIELD(training_file_mb), 1, 1 << 16},
    {"no-training", LORICA_SETTING_BOOL, FIELD(no_training), 0, 0},
    {"training-threads", LORICA_SETTING_NUMBER, FIELD(training_threads), 0, 256},
    {"training-memory-mb", LORICA_SETTING_NUMBER, FIELD(training_memory_mb), 0, 1 << 20},
    {"max-connections", LORICA_SETTING_NUMBER, FIELD(max_connections), 1, 65536},
    {"max-per-key", LORICA_SETTING_NUMBER, FIELD(max_per_key), 1, 65536},
    {"drain-seconds", LORICA_SETTING_NUMBER, FIELD(drain_seconds), 0, 3600},
    {"tls-certificate", LORICA_SETTING_TEXT, FIELD(tls_certificate), 0, 0},
    {"tls-key", LORICA_SETTING_TEXT, FIELD(tls_key), 0, 0},
    {"priority-high", LORICA_SETTING_TEXT, FIELD(priority_high), 0, 0},
    {"priority-low", LORICA_SETTING_TEXT, FIELD(priority_low), 0, 0},
    {"metrics-open", LORICA_SETTING_BOOL, FIELD(metrics_open), 0, 0},
    {"mlflow-url", LORICA_SETTING_TEXT, FIELD(mlflow_url), 0, 0},
    {"mlflow-ca", LORICA_SETTING_TEXT, FIELD(mlflow_ca), 0, 0},
    {"mlflow-experiment", LORICA_SETTING_TEXT, FIELD(mlflow_experiment), 0, 0},
};
#define SETTING_COUNT (sizeof(settings) / sizeof(settings[0]))

const struct lorica_setting *lorica_config_settings(size_t *ret_count) {
    *ret_count = SETTING_COUNT;
    return settings;
}

int lorica_config_init(struct lorica_config *config) {
    *config = (struct lorica_config){
        .listen = strdup("127.0.0.1:8443"),
        .kv = LORICA_KV_BF16,
        .kv_tokens = 32768,
        .max_running = 64,
        .max_waiting = 256,
        .step_ms = 40,
        .prefix_cache_mb = 128,
        .adapter_cache_mb = 512,
        .upload_limit_mb = 2048,
        .training_file_mb = 512,
        .training_memory_mb = 2048,
        .max_connections = 1024,
        .max_per_key = 64,
        .drain_seconds = 25,
        .mlflow_experiment = strdup("lorica-versions"),
    };
    return config->listen && config->mlflow_experiment ? 0 : LORICA_ENOMEM;
}

void lorica_config_finish(struct lorica_config *config) {
    free(config->listen);
    free(config->base);
    free(config->tls_certificate);
    free(config->tls_key);
    free(config->priority_high);
    free(config->priority_low);
    free(config->mlflow_url);
    free(config->mlflow_ca);
    free(config->mlflow_experiment);
    *config = (struct lorica_config){0};
}

static const struct lorica_setting *find(const char *name) {
    for (size_t i = 0; i < SETTING_COUNT; i++)
        if (strcmp(settings[i].name, name) == 0)
            return &settings[i];
    return NULL;
}

static int set_number(const struct lorica_setting *s, const char *value, long long *field,
                      struct lorica_error *err) {
    char *end = NULL;
    errno = 0;
    const long long n = strtoll(value, &end, 10);
    if (errno != 0 || end == value || *end != '\0' || n < s->min || n > s->max)
        return lorica_fail(err, LORICA_EINVAL,
                           "%s must be a whole number from %lld to %lld, not \"%s\"", s->name,
                           s->min, s->max, value);
    *field = n;
    return 0;
}

static int set_kv(const struct lorica_setting *s, const char *value, long long *field,
                  struct lorica_error *err) {
    enum lorica_kv_format format;
    if (!lorica_kv_format_find(value, &format))
        return lorica_fail(err, LORICA_EINVAL, "%s must be bf16 or int8, not \"%s\"", s->name,
                           value);
    *field = format;
    return 0;
}

int lorica_config_set(struct lorica_config *config, const char *name, const char *value,
                      struct lorica_error *err) {
    const struct lorica_setting *s = find(name);
    if (!s)
        return lorica_fail(err, LORICA_EINVAL, "there is no setting \"%s\"", name);
    char *field = (char *)config + s->offset;
    if (s->type == LORICA_SETTING_NUMBER)
        return set_number(s, value, (long long *)(void *)field, err);
    if (s->type == LORICA_SETTING_KV)
        return set_kv(s, value, (long long *)(void *)field, err);
    if (s->type == LORICA_SETTING_BOOL) {
        if (strcmp(value, "true") != 0 && strcmp(value, "false") != 0)
            return lorica_fail(err, LORICA_EINVAL, "%s must be true or false, not \"%s\"", name,
                               value);
        *(bool *)(void *)field = strcmp(value, "true") == 0;
        return 0;
    }
    if (value[0] == '\0')
        return lorica_fail(err, LORICA_EINVAL, "%s must not be empty", name);
    char *copy = strdup(value);
    if (!copy)
        return lorica_fail(err, LORICA_ENOMEM, "%s: out of memory", name);
    free(*(char **)(void *)field);
    *(char **)(void *)field = copy;
    return 0;
}

/* Cuts blanks off both ends, in place. */
static char *trim(char *text) {
    while (*text == ' ' || *text == '\t')
        text++;
    size_t len = strlen(text);
    while (len > 0 && strchr(" \t\r", text[len - 1]))
        text[--len] = '\0';
    return text;
}

static int parse_line(struct lorica_config *config, char *line, bool *seen,
                      struct lorica_error *err) {
    line = trim(line);
    if (line[0] == '\0' || line[0] == '#')
        return 0;
    char *equals = strchr(line, '=');
    if (!equals)
        return lorica_fail(err, LORICA_EINVAL, "a line reads \"name = value\"");
    *equals = '\0';
    const char *name = trim(line), *value = trim(equals + 1);
    const struct lorica_setting *s = find(name);
    if (s && seen[s - settings])
        return lorica_fail(err, LORICA_EINVAL, "%s stands here a second time", name);
    if (s)
        seen[s - settings] = true;
    return lorica_config_set(config, name, value, err);
}

int lorica_config_parse(struct lorica_config *config, const char *path, const char *text,
                        size_t len, struct lorica_error *err) {
    bool seen[SETTING_COUNT] = {false};
    size_t i = 0;
    int rc = 0;
    for (unsigned number = 1; i < len && rc == 0; number++) {
        const char *end = memchr(text + i, '\n', len - i);
        const size_t line_len = end ? (size_t)(end - text) - i : len - i;
        char *line = strndup(text + i, line_len);
        if (!line)
            return lorica_fail(err, LORICA_ENOMEM, "%s: out of memory", path);
        struct lorica_error local = {0};
        rc = strlen(line) == line_len ? parse_line(config, line, seen, &local)
                                      : lorica_fail(&local, LORICA_EINVAL, "a NUL byte");
        if (rc != 0)
            (void)lorica_fail(err, rc, "%s, line %u: %s", path, number, local.text);
        free(line);
        i += line_len + 1;
    }
    return rc;
}

int lorica_config_read(struct lorica_config *config, const char *path, struct lorica_error *err) {
    FILE *file = fopen(path, "re");
    if (!file)
        return errno == ENOENT ? 0 : lorica_fail(err, LORICA_EIO, "%s: %s", path, strerror(errno));
    char *text = malloc(FILE_MAX + 1);
    int rc = LORICA_ENOMEM;
    if (!text)
        (void)lorica_fail(err, rc, "%s: out of memory", path);
    else {
        const size_t len = fread(text, 1, FILE_MAX + 1, file);
        if (ferror(file))
            rc = lorica_fail(err, LORICA_EIO, "%s: could not be read", path);
        else if (len > FILE_MAX)
            rc = lorica_fail(err, LORICA_ELIMIT, "%s: longer than %zu bytes", path, FILE_MAX);
        else
            rc = lorica_config_parse(config, path, text, len, err);
    }
    free(text);
    (void)fclose(file);
    return rc;
}

/* True when one of the patterns, separated by commas and blanks, is that of the name. */
static bool is_listed(const char *list, const char *name) {
    static const char gaps[] = ", \t";
    for (const char *at = list; at && *(at += strspn(at, gaps));) {
        char pattern[256];
        const size_t len = strcspn(at, gaps);
        if (len < sizeof(pattern)) {
            memcpy(pattern, at, len);
            pattern[len] = '\0';
            if (fnmatch(pattern, name, FNM_NOESCAPE) == 0)
                return true;
        }
        at += len;
    }
    return false;
}

enum lorica_priority lorica_config_priority(const struct lorica_config *config, const char *key) {
    return is_listed(config->priority_high, key)  ? LORICA_PRIORITY_HIGH
           : is_listed(config->priority_low, key) ? LORICA_PRIORITY_LOW
                                                  : LORICA_PRIORITY_NORMAL;
}

int lorica_config_listen(const char *listen, char *host, size_t host_size, int *ret_port,
                         struct lorica_error *err) {
    const char *colon = strrchr(listen, ':');
    const char *begin = listen, *end = colon;
    if (colon && listen[0] == '[' && colon > listen + 1 && colon[-1] == ']') {
        begin = listen + 1;
        end = colon - 1;
    }
    char *rest = NULL;
    const long port =
        colon && colon[1] >= '0' && colon[1] <= '9' ? strtol(colon + 1, &rest, 10) : -1;
    const size_t len = colon ? (size_t)(end - begin) : 0;
    if (!colon || len == 0 || len >= host_size || port < 0 || port > 65535 || *rest != '\0' ||
        (begin == listen && memchr(begin, ':', len)))
        return lorica_fail(err, LORICA_EINVAL,
                           "listen must be ADDRESS:PORT such as 127.0.0.1:8443 or [::1]:8443, not "
                           "\"%s\"",
                           listen);
    memcpy(host, begin, len);
    host[len] = '\0';
    if (strcmp(host, "localhost") == 0)
        (void)snprintf(host, host_size, "127.0.0.1");
    *ret_port = (int)port;
    return 0;
}
