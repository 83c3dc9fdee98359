/* SPDX-License-Identifier: MIT */
#include "gateway/mlflow/mlflow_send.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/files.h"
#include "gateway/cmd/model_dir.h"
#include "gateway/mlflow/mlflow_journal.h"

#define LINE_MAX_BYTES ((size_t)64 << 10)
#define LINE_METRICS_MAX 32 /* of one line; more than it has */
#define BODY_MAX ((size_t)1 << 20)
#define BODY_FULL ((size_t)800 << 10)
#define LOG_MAX ((size_t)512 << 20)

struct lorica_mlflow_send {
    char *dir;
    FILE *file;
    struct lorica_json *head, *end; /* first line; last line once it was read */
    off_t begin, at;                /* behind the head; behind what was sent */
    int64_t last_ms;                /* of the last line */
    bool known_run, params_sent;
    struct lorica_mlflow_run run;
    struct lorica_json *known; /* the run as the server had it when it was found */
    char link[LORICA_MLFLOW_URI_MAX];
    char note[300];
    char line[LINE_MAX_BYTES];
};

/* What is called how as an artifact. */
static const struct {
    const char *file, *name;
} artifacts[] = {
    {"adapter_model.safetensors", "adapter/adapter_model.safetensors"},
    {"adapter_config.json", "adapter/adapter_config.json"},
    {"manifest.json", "adapter/manifest.json"},
    {"loss.svg", "loss.svg"},
    {"samples.jsonl", "samples.jsonl"},
};
#define ARTIFACT_COUNT (sizeof(artifacts) / sizeof(artifacts[0]))

/* Reads the next whole line; *ret NULL: there is none (yet). The caller destroys *ret. */
static int read_line(struct lorica_mlflow_send *s, struct lorica_json **ret,
                     struct lorica_error *err) {
    *ret = NULL;
    if (!fgets(s->line, (int)sizeof(s->line), s->file))
        return 0;
    const size_t len = strlen(s->line);
    if (len == 0 || s->line[len - 1] != '\n')
        return len + 1 < sizeof(s->line) ? 0
                                         : lorica_fail(err, LORICA_EFORMAT,
                                                       "the journal in %s has a line that is too "
                                                       "long",
                                                       s->dir);
    const int rc = lorica_json_parse(s->line, len, ret, err);
    return rc ? lorica_fail_prefix(err, "the journal in %s", s->dir) : 0;
}

static const char *head_text(const struct lorica_mlflow_send *s, const char *key) {
    return lorica_json_string(lorica_json_get(s->head, key));
}

static int judge_head(struct lorica_mlflow_send *s, struct lorica_error *err) {
    if (!s->head || !head_text(s, "url") || !head_text(s, "experiment") || !head_text(s, "name") ||
        !lorica_mlflow_id(s->head, "run") ||
        lorica_mlflow_number(lorica_json_get(s->head, "start_ms")) < 0 ||
        lorica_json_type(lorica_json_get(s->head, "params")) != LORICA_JSON_OBJECT)
        return lorica_fail(err, LORICA_EFORMAT, "the journal in %s has no head", s->dir);
    s->begin = s->at = ftello(s->file);
    s->last_ms = lorica_mlflow_number(lorica_json_get(s->head, "start_ms"));
    return 0;
}

int lorica_mlflow_send_open(const char *dir, const char *name, struct lorica_mlflow_send **ret,
                            const char **ret_url, struct lorica_error *err) {
    struct lorica_mlflow_send *s = calloc(1, sizeof(*s));
    char *path = lorica_path_join(dir, name);
    int rc = 0;
    if (s)
        s->dir = strdup(dir);
    if (!s || !path || !s->dir)
        rc = lorica_fail(err, LORICA_ENOMEM, "no memory for a journal");
    else if (!(s->file = fopen(path, "re")))
        rc = lorica_fail_errno(err, path, "cannot be read");
    if (rc == 0)
        rc = read_line(s, &s->head, err);
    if (rc == 0)
        rc = judge_head(s, err);
    free(path);
    if (rc != 0) {
        lorica_mlflow_send_close(s);
        return rc;
    }
    if (ret_url)
        *ret_url = head_text(s, "url");
    *ret = s;
    return 0;
}

void lorica_mlflow_send_close(struct lorica_mlflow_send *s) {
    if (!s)
        return;
    if (s->file)
        (void)fclose(s->file);
    lorica_json_destroy(s->head);
    lorica_json_destroy(s->end);
    lorica_json_destroy(s->known);
    free(s->dir);
    free(s);
}

const char *lorica_mlflow_send_link(const struct lorica_mlflow_send *s) { return s->link; }
const char *lorica_mlflow_send_note(const struct lorica_mlflow_send *s) { return s->note; }

/* Finds or makes the run, and asks what it has. */
static int find_run(struct lorica_mlflow_send *s, struct lorica_mlflow *mlflow,
                    struct lorica_error *err) {
    char experiment[LORICA_MLFLOW_ID_MAX + 1];
    int rc = lorica_mlflow_experiment(mlflow, head_text(s, "experiment"), experiment, err);
    if (rc != 0)
        return rc;
    const struct lorica_mlflow_new_run wanted = {
        .experiment = experiment,
        .name = head_text(s, "name"),
        .mark = lorica_mlflow_id(s->head, "run"),
        .start_ms = lorica_mlflow_number(lorica_json_get(s->head, "start_ms")),
    };
    rc = lorica_mlflow_run(mlflow, &wanted, &s->run, err);
    lorica_json_destroy(s->known);
    s->known = NULL;
    if (rc == 0)
        rc = lorica_mlflow_run_get(mlflow, s->run.id, &s->known, err);
    if (rc != 0)
        return rc;
    s->known_run = true;
    (void)snprintf(s->link, sizeof(s->link), "%s/#/experiments/%s/runs/%s",
                   lorica_mlflow_server(mlflow), experiment, s->run.id);
    return 0;
}

/* Logs the parameters. They never change, so that saying them again is no fault. */
static int send_params(struct lorica_mlflow_send *s, struct lorica_mlflow *mlflow,
                       struct lorica_error *err) {
    struct lorica_buf body;
    lorica_buf_init(&body, BODY_MAX);
    struct lorica_jsonw w = {.out = &body};
    size_t count = 0;
    lorica_jsonw_object(&w, NULL);
    lorica_jsonw_string(&w, "run_id", s->run.id);
    lorica_jsonw_array(&w, "params");
    const struct lorica_json *params = lorica_json_get(s->head, "params");
    for (const struct lorica_json *p = lorica_json_first(params);
         p && count < LORICA_MLFLOW_TEXTS_MAX; p = lorica_json_next(p), count++) {
        const char *value = lorica_json_string(p);
        lorica_mlflow_write_text(&w, lorica_json_key(p), value ? value : "",
                                 LORICA_MLFLOW_PARAM_MAX);
    }
    lorica_jsonw_end_array(&w);
    lorica_jsonw_end_object(&w);
    const int rc = lorica_mlflow_call(mlflow, "runs/log-batch", &body, NULL, err);
    lorica_buf_finish(&body);
    s->params_sent = rc == 0;
    return rc;
}

/* Writes the metrics of a line that the server does not have; how many. */
static size_t write_metrics(struct lorica_mlflow_send *s, struct lorica_jsonw *w,
                            const struct lorica_json *line) {
    const int64_t step = lorica_mlflow_number(lorica_json_get(line, "step"));
    const int64_t time_ms = lorica_mlflow_number(lorica_json_get(line, "time_ms"));
    const struct lorica_json *run = lorica_json_get(s->known, "run");
    size_t count = 0;
    if (time_ms > 0)
        s->last_ms = time_ms;
    if (step < 0)
        return 0;
    for (const struct lorica_json *m = lorica_json_first(line); m && count < LINE_METRICS_MAX;
         m = lorica_json_next(m)) {
        const char *key = lorica_json_key(m);
        if (lorica_json_type(m) != LORICA_JSON_NUMBER || strcmp(key, "step") == 0 ||
            strcmp(key, "time_ms") == 0 || step <= lorica_mlflow_last_step(run, key))
            continue;
        lorica_jsonw_object(w, NULL);
        lorica_jsonw_string(w, "key", key);
        lorica_jsonw_number(w, "value", lorica_json_number(m, 0));
        lorica_jsonw_integer(w, "timestamp", s->last_ms);
        lorica_jsonw_integer(w, "step", step);
        lorica_jsonw_end_object(w);
        count++;
    }
    return count;
}

/* Fills one batch from the lines behind s->at. *ret_more: there are further ones. */
static int fill_batch(struct lorica_mlflow_send *s, struct lorica_buf *body, size_t *ret_count,
                      bool *ret_more, struct lorica_error *err) {
    struct lorica_jsonw w = {.out = body};
    int rc = 0;
    size_t count = 0;
    *ret_more = true;
    lorica_jsonw_object(&w, NULL);
    lorica_jsonw_string(&w, "run_id", s->run.id);
    lorica_jsonw_array(&w, "metrics");
    while (count + LINE_METRICS_MAX <= LORICA_MLFLOW_METRICS_MAX && body->len < BODY_FULL) {
        struct lorica_json *line = NULL;
        const off_t before = ftello(s->file);
        rc = read_line(s, &line, err);
        if (rc != 0 || !line) {
            clearerr(s->file);
            if (fseeko(s->file, before, SEEK_SET) != 0 && rc == 0)
                rc = lorica_fail_errno(err, s->dir, "the journal cannot be read");
            *ret_more = false;
            break;
        }
        if (lorica_json_get(line, "end")) {
            s->end = line;
            *ret_more = false;
            break;
        }
        count += write_metrics(s, &w, line);
        lorica_json_destroy(line);
    }
    lorica_jsonw_end_array(&w);
    lorica_jsonw_end_object(&w);
    *ret_count = count;
    return rc;
}

static int send_metrics(struct lorica_mlflow_send *s, struct lorica_mlflow *mlflow,
                        struct lorica_error *err) {
    bool more = true;
    int rc = 0;
    clearerr(s->file);
    if (fseeko(s->file, s->at, SEEK_SET) != 0)
        return lorica_fail_errno(err, s->dir, "the journal cannot be read");
    while (rc == 0 && more && !s->end) {
        struct lorica_buf body;
        size_t count = 0;
        lorica_buf_init(&body, BODY_MAX);
        rc = fill_batch(s, &body, &count, &more, err);
        const off_t behind = ftello(s->file);
        if (rc == 0 && count > 0)
            rc = lorica_mlflow_call(mlflow, "runs/log-batch", &body, NULL, err);
        if (rc == 0)
            s->at = behind;
        lorica_buf_finish(&body);
    }
    if (rc != 0) { /* the end is found again */
        lorica_json_destroy(s->end);
        s->end = NULL;
    }
    return rc;
}

/* The lines of the updates, as one artifact: also where no --log was asked for. */
static int put_log(struct lorica_mlflow_send *s, struct lorica_mlflow *mlflow,
                   struct lorica_error *err) {
    struct lorica_buf log;
    struct lorica_json *line = NULL;
    lorica_buf_init(&log, LOG_MAX);
    clearerr(s->file);
    int rc = fseeko(s->file, s->begin, SEEK_SET) == 0
                 ? 0
                 : lorica_fail_errno(err, s->dir, "the journal cannot be read");
    while (rc == 0 && (rc = read_line(s, &line, err)) == 0 && line) {
        if (lorica_mlflow_number(lorica_json_get(line, "step")) > 0)
            (void)lorica_buf_puts(&log, s->line);
        lorica_json_destroy(line);
    }
    if (rc == 0 && lorica_buf_status(&log) != 0)
        rc = lorica_fail(err, lorica_buf_status(&log), "the log of the run is too long for memory");
    if (rc == 0 && log.len > 0)
        rc = lorica_mlflow_put(mlflow, &s->run, "metrics.jsonl", log.data, log.len, err);
    lorica_buf_finish(&log);
    return rc;
}

/* True when the adapter in the directory is the one that this run wrote. */
static bool adapter_is_ours(const struct lorica_mlflow_send *s) {
    const char *wanted = lorica_json_string(lorica_json_get(s->end, "weights"));
    struct lorica_digest digest;
    struct lorica_error ignored;
    char text[LORICA_DIGEST_TEXT];
    char *path = wanted ? lorica_path_join(s->dir, artifacts[0].file) : NULL;
    const bool same = path && lorica_file_digest(path, &digest, &ignored) == 0 &&
                      strcmp(lorica_digest_format(&digest, text), wanted) == 0;
    free(path);
    return same;
}

static int put_artifacts(struct lorica_mlflow_send *s, struct lorica_mlflow *mlflow,
                         struct lorica_error *err) {
    int rc = put_log(s, mlflow, err);
    if (rc != 0 || !s->end || !lorica_json_get(s->end, "weights"))
        return rc;
    if (!adapter_is_ours(s)) {
        (void)snprintf(s->note, sizeof(s->note),
                       "the adapter was not sent: what is in %.200s now is not from this run",
                       s->dir);
        return 0;
    }
    for (size_t i = 0; i < ARTIFACT_COUNT && rc == 0; i++) {
        char *path = lorica_path_join(s->dir, artifacts[i].file);
        if (!path)
            rc = lorica_fail(err, LORICA_ENOMEM, "no memory for a path");
        else if (lorica_path_exists(path))
            rc = lorica_mlflow_put_file(mlflow, &s->run, artifacts[i].name, path, err);
        free(path);
    }
    return rc;
}

/* Artifacts, then how it ended: a run that has ended there is complete. */
static int send_end(struct lorica_mlflow_send *s, struct lorica_mlflow *mlflow,
                    struct lorica_error *err) {
    const char *status = lorica_json_string(lorica_json_get(s->end, "end"));
    const int64_t at = lorica_mlflow_number(lorica_json_get(s->end, "time_ms"));
    int rc = put_artifacts(s, mlflow, err);
    if (rc == LORICA_EUNSUPPORTED) { /* this server takes no artifacts, now or later */
        (void)snprintf(s->note, sizeof(s->note), "%.290s", err->text);
        rc = 0;
    }
    return rc ? rc
              : lorica_mlflow_run_end(mlflow, s->run.id, status ? status : "KILLED",
                                      at > 0 ? at : s->last_ms, err);
}

int lorica_mlflow_send_some(struct lorica_mlflow_send *s, struct lorica_mlflow *mlflow, bool last,
                            bool *ret_all, struct lorica_error *err) {
    *ret_all = false;
    int rc = s->known_run ? 0 : find_run(s, mlflow, err);
    if (rc == 0 && s->run.ended) {
        *ret_all = true;
        return 0;
    }
    if (rc == 0 && !s->params_sent)
        rc = send_params(s, mlflow, err);
    if (rc == 0)
        rc = send_metrics(s, mlflow, err);
    if (rc == 0 && (s->end || last)) {
        rc = send_end(s, mlflow, err);
        *ret_all = rc == 0;
    }
    if (rc != 0)
        s->known_run = false; /* what of the last request arrived is not known: ask */
    return rc;
}
