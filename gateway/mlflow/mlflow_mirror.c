/* SPDX-License-Identifier: MIT */
#include "gateway/mlflow/mlflow_mirror.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "gateway/files.h"
#include "gateway/mlflow/mlflow.h"
#include "proto/http_fields.h"
#include "registry/digest.h"

#define STATE_NAME "mlflow.json"
#define STATE_MAX 4096
#define BODY_MAX ((size_t)1 << 20)
#define PAGE 64 /* audit records at once */
#define RETRY_SECONDS_MIN 2
#define RETRY_SECONDS_MAX 300
#define LABEL_MAX (LORICA_NAME_MAX + 32)

/* What of an audit record matters here. */
struct record {
    uint64_t seq, version;
    enum lorica_audit_kind kind;
    char name[LORICA_NAME_MAX + 1];
    char channel[LORICA_CHANNEL_MAX + 1];
    struct lorica_digest hash;
};

struct lorica_mlflow_mirror {
    struct lorica_registry *registry;
    struct lorica_log *log;
    struct lorica_mlflow *mlflow;
    char *state_path, *experiment_name;
    char experiment[LORICA_MLFLOW_ID_MAX + 1]; /* "": not known yet */
    uint64_t seq;                              /* the thread's own */
    struct record records[PAGE];
    size_t count;

    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    bool nudged; /* under the mutex */
    atomic_bool stop;

    _Atomic uint64_t shown_seq, published, failures, refused;
    atomic_bool failing;
};

static bool stopped(void *arg) {
    const struct lorica_mlflow_mirror *m = arg;
    return atomic_load(&m->stop);
}

/* Where it stands. */

static int keep_record(void *arg, const struct lorica_audit *audit) {
    struct lorica_mlflow_mirror *m = arg;
    struct record *r = &m->records[m->count++];
    *r = (struct record){
        .seq = audit->seq, .version = audit->version, .kind = audit->kind, .hash = audit->hash};
    memcpy(r->name, audit->name, sizeof(r->name));
    memcpy(r->channel, audit->channel, sizeof(r->channel));
    return 0;
}

static int read_records(struct lorica_mlflow_mirror *m, uint64_t after, size_t limit,
                        struct lorica_error *err) {
    m->count = 0;
    return lorica_registry_audit(m->registry, NULL, after, limit, keep_record, m, err);
}

static void write_state(struct lorica_mlflow_mirror *m, const struct record *r) {
    struct lorica_buf out;
    struct lorica_error err = {0};
    char hash[LORICA_DIGEST_TEXT];
    lorica_buf_init(&out, STATE_MAX);
    struct lorica_jsonw w = {.out = &out};
    lorica_jsonw_object(&w, NULL);
    lorica_jsonw_string(&w, "url", lorica_mlflow_server(m->mlflow));
    lorica_jsonw_integer(&w, "seq", (int64_t)r->seq);
    lorica_jsonw_string(&w, "hash", lorica_digest_format(&r->hash, hash));
    lorica_jsonw_end_object(&w);
    (void)lorica_buf_puts(&out, "\n");
    if (lorica_buf_status(&out) != 0 ||
        lorica_file_replace(m->state_path, out.data, out.len, 0600, &err) != 0)
        lorica_log_line(m->log, "warning", "event=mlflow_state error=\"%s\"", err.text);
    lorica_buf_finish(&out);
}

/* True when the state is of this server and of this chain: its record has the hash that it had. */
static bool state_holds(struct lorica_mlflow_mirror *m, const struct lorica_json *state,
                        uint64_t *ret_seq) {
    struct lorica_error ignored;
    char hash[LORICA_DIGEST_TEXT];
    const char *url = lorica_json_string(lorica_json_get(state, "url"));
    const char *wanted = lorica_json_string(lorica_json_get(state, "hash"));
    const int64_t seq = lorica_mlflow_number(lorica_json_get(state, "seq"));
    if (!url || !wanted || seq < 1 || strcmp(url, lorica_mlflow_server(m->mlflow)) != 0 ||
        read_records(m, (uint64_t)seq - 1, 1, &ignored) != 0 || m->count != 1)
        return false;
    *ret_seq = (uint64_t)seq;
    return m->records[0].seq == (uint64_t)seq &&
           strcmp(lorica_digest_format(&m->records[0].hash, hash), wanted) == 0;
}

static void read_state(struct lorica_mlflow_mirror *m) {
    char *text = NULL;
    size_t len = 0;
    struct lorica_json *json = NULL;
    struct lorica_error ignored;
    uint64_t seq = 0;
    if (lorica_file_read(m->state_path, STATE_MAX, &text, &len, &ignored) == 0 &&
        lorica_json_parse(text, len, &json, &ignored) == 0 && state_holds(m, json, &seq))
        m->seq = seq;
    lorica_json_destroy(json);
    free(text);
    atomic_store(&m->shown_seq, m->seq);
}

/* Model versions. */

static void write_tag(struct lorica_jsonw *w, const char *key, const char *value) {
    lorica_mlflow_write_text(w, key, value, LORICA_MLFLOW_TAG_MAX);
}

static void label_of(const struct lorica_version *v, char out[LABEL_MAX]) {
    (void)snprintf(out, LABEL_MAX, "%s@%" PRIu64, v->name, v->version);
}

/* The model version that carries this version's tags; "" when there is none. */
static int find_model_version(struct lorica_mlflow_mirror *m, const struct lorica_version *v,
                              char ret[LORICA_MLFLOW_ID_MAX + 1], struct lorica_error *err) {
    struct lorica_buf path;
    struct lorica_json *json = NULL;
    char filter[1024], digest[LORICA_DIGEST_TEXT];
    (void)snprintf(filter, sizeof(filter),
                   "name = '%s' and tags.`lorica.version` = '%" PRIu64
                   "' and tags.`lorica.digest` = '%s'",
                   v->name, v->version, lorica_digest_format(&v->digest, digest));
    lorica_buf_init(&path, 8192);
    (void)lorica_buf_puts(&path, "model-versions/search?max_results=1&filter=");
    lorica_http_escape(&path, filter, strlen(filter));
    ret[0] = '\0';
    int rc = lorica_buf_status(&path);
    rc = rc ? lorica_fail(err, rc, "a search for %s: out of memory", v->name)
            : lorica_mlflow_call(m->mlflow, path.data, NULL, &json, err);
    const struct lorica_json *list = lorica_json_get(json, "model_versions");
    const char *version = rc == 0 && lorica_json_type(list) == LORICA_JSON_ARRAY
                              ? lorica_mlflow_id(lorica_json_first(list), "version")
                              : NULL;
    if (version)
        memcpy(ret, version, strlen(version) + 1);
    lorica_json_destroy(json);
    lorica_buf_finish(&path);
    return rc;
}

static int make_model(struct lorica_mlflow_mirror *m, const char *name, struct lorica_error *err) {
    struct lorica_buf body;
    lorica_buf_init(&body, BODY_MAX);
    struct lorica_jsonw w = {.out = &body};
    lorica_jsonw_object(&w, NULL);
    lorica_jsonw_string(&w, "name", name);
    lorica_jsonw_end_object(&w);
    const int rc = lorica_mlflow_call(m->mlflow, "registered-models/create", &body, NULL, err);
    lorica_buf_finish(&body);
    return rc == LORICA_ECONFLICT ? 0 : rc;
}

/* The run that holds a version's files. Its mark follows from the version, so that a second attempt
 * finds the run of the first. */
static int find_run(struct lorica_mlflow_mirror *m, const struct lorica_version *v,
                    struct lorica_mlflow_run *ret, struct lorica_error *err) {
    char label[LABEL_MAX], mark[LORICA_DIGEST_TEXT], text[LABEL_MAX + LORICA_DIGEST_TEXT + 2];
    struct lorica_digest digest;
    if (!m->experiment[0]) {
        const int rc = lorica_mlflow_experiment(m->mlflow, m->experiment_name, m->experiment, err);
        if (rc != 0)
            return rc;
    }
    label_of(v, label);
    (void)snprintf(text, sizeof(text), "%s %s", label, lorica_digest_format(&v->digest, mark));
    if (lorica_sha256(text, strlen(text), &digest) != 0)
        return lorica_fail(err, LORICA_ENOMEM, "%s: out of memory", label);
    const struct lorica_mlflow_new_run wanted = {
        .experiment = m->experiment,
        .name = label,
        .mark = lorica_digest_format(&digest, mark) + sizeof("sha256:") - 1,
        .start_ms = v->created_ms,
    };
    return lorica_mlflow_run(m->mlflow, &wanted, ret, err);
}

static int put_files(struct lorica_mlflow_mirror *m, const struct lorica_version *v,
                     const struct lorica_mlflow_run *run, struct lorica_error *err) {
    char *config = NULL, *manifest = NULL;
    void *weights = NULL;
    size_t config_len = 0, weights_len = 0, manifest_len = 0;
    int rc = lorica_registry_config(m->registry, v, &config, &config_len, err);
    if (rc == 0)
        rc = lorica_mlflow_put(m->mlflow, run, "adapter/adapter_config.json", config, config_len,
                               err);
    if (rc == 0 && v->manifest_nbytes > 0)
        rc = lorica_registry_manifest(m->registry, v, &manifest, &manifest_len, err);
    if (rc == 0 && manifest)
        rc =
            lorica_mlflow_put(m->mlflow, run, "adapter/manifest.json", manifest, manifest_len, err);
    if (rc == 0)
        rc = lorica_registry_weights(m->registry, v, &weights, &weights_len, err);
    if (rc == 0)
        rc = lorica_mlflow_put(m->mlflow, run, "adapter/adapter_model.safetensors", weights,
                               weights_len, err);
    free(config);
    free(manifest);
    free(weights);
    return rc;
}

static void write_tags(struct lorica_jsonw *w, const struct lorica_version *v) {
    char text[LABEL_MAX > LORICA_DIGEST_TEXT ? LABEL_MAX : LORICA_DIGEST_TEXT];
    lorica_jsonw_array(w, "tags");
    label_of(v, text);
    write_tag(w, "lorica.adapter", text);
    (void)snprintf(text, sizeof(text), "%" PRIu64, v->version);
    write_tag(w, "lorica.version", text);
    write_tag(w, "lorica.digest", lorica_digest_format(&v->digest, text));
    write_tag(w, "lorica.base_digest", lorica_digest_format(&v->base_digest, text));
    write_tag(w, "lorica.config_digest", lorica_digest_format(&v->config_digest, text));
    write_tag(w, "lorica.weights_digest", lorica_digest_format(&v->weights_digest, text));
    lorica_jsonw_end_array(w);
}

static int make_model_version(struct lorica_mlflow_mirror *m, const struct lorica_version *v,
                              const struct lorica_mlflow_run *run,
                              char ret[LORICA_MLFLOW_ID_MAX + 1], struct lorica_error *err) {
    struct lorica_buf body;
    struct lorica_json *json = NULL;
    char source[LORICA_MLFLOW_URI_MAX + 16];
    (void)snprintf(source, sizeof(source), "%s/adapter", run->artifacts);
    lorica_buf_init(&body, BODY_MAX);
    struct lorica_jsonw w = {.out = &body};
    lorica_jsonw_object(&w, NULL);
    lorica_jsonw_string(&w, "name", v->name);
    lorica_jsonw_string(&w, "source", source);
    lorica_jsonw_string(&w, "run_id", run->id);
    lorica_jsonw_string(&w, "description", v->message);
    write_tags(&w, v);
    lorica_jsonw_end_object(&w);
    int rc = lorica_mlflow_call(m->mlflow, "model-versions/create", &body, &json, err);
    const char *version =
        rc == 0 ? lorica_mlflow_id(lorica_json_get(json, "model_version"), "version") : NULL;
    if (rc == 0 && !version)
        rc = lorica_fail(err, LORICA_EFORMAT, "MLflow answered with a model version without one");
    if (version)
        memcpy(ret, version, strlen(version) + 1);
    lorica_json_destroy(json);
    lorica_buf_finish(&body);
    return rc;
}

/* Makes the model version of a version where it is not there; *ret: its number at MLflow, "" when
 * the version itself is no more. */
static int ensure_version(struct lorica_mlflow_mirror *m, const char *name, uint64_t version,
                          char ret[LORICA_MLFLOW_ID_MAX + 1], struct lorica_error *err) {
    struct lorica_version v;
    struct lorica_mlflow_run run;
    ret[0] = '\0';
    int rc = lorica_registry_version(m->registry, name, version, &v, err);
    if (rc == LORICA_ENOTFOUND || (rc == 0 && v.deleted_ms))
        return 0;
    if (rc == 0)
        rc = find_model_version(m, &v, ret, err);
    if (rc != 0 || ret[0])
        return rc;
    rc = make_model(m, v.name, err);
    if (rc == 0)
        rc = find_run(m, &v, &run, err);
    if (rc == 0)
        rc = put_files(m, &v, &run, err);
    if (rc == 0)
        rc = lorica_mlflow_run_end(m->mlflow, run.id, "FINISHED", v.created_ms, err);
    if (rc == 0)
        rc = make_model_version(m, &v, &run, ret, err);
    if (rc != 0)
        return rc;
    atomic_fetch_add(&m->published, 1);
    lorica_log_line(m->log, "info",
                    "event=mlflow_published adapter=%s@%" PRIu64 " model_version=%s", v.name,
                    v.version, ret);
    return 0;
}

/* The alias of a channel's name points to where the channel points now. */
static int ensure_alias(struct lorica_mlflow_mirror *m, const struct record *r,
                        struct lorica_error *err) {
    struct lorica_channel channel;
    char version[LORICA_MLFLOW_ID_MAX + 1];
    if (!lorica_mlflow_alias_valid(r->channel))
        return 0;
    int rc = lorica_registry_channel(m->registry, r->name, r->channel, &channel, err);
    if (rc != 0 || channel.version == 0)
        return rc == LORICA_ENOTFOUND ? 0 : rc;
    rc = ensure_version(m, r->name, channel.version, version, err);
    if (rc != 0 || !version[0])
        return rc;
    struct lorica_buf body;
    lorica_buf_init(&body, BODY_MAX);
    struct lorica_jsonw w = {.out = &body};
    lorica_jsonw_object(&w, NULL);
    lorica_jsonw_string(&w, "name", r->name);
    lorica_jsonw_string(&w, "alias", r->channel);
    lorica_jsonw_string(&w, "version", version);
    lorica_jsonw_end_object(&w);
    rc = lorica_mlflow_call(m->mlflow, "registered-models/alias", &body, NULL, err);
    lorica_buf_finish(&body);
    return rc;
}

/* A model version says whether its version was deleted; the files stay, as MLflow's own affair. */
static int ensure_deleted_tag(struct lorica_mlflow_mirror *m, const struct record *r,
                              struct lorica_error *err) {
    struct lorica_version v;
    char version[LORICA_MLFLOW_ID_MAX + 1];
    int rc = lorica_registry_version(m->registry, r->name, r->version, &v, err);
    if (rc != 0)
        return rc == LORICA_ENOTFOUND ? 0 : rc;
    rc = find_model_version(m, &v, version, err);
    if (rc == 0 && !version[0] && !v.deleted_ms)
        rc = ensure_version(m, r->name, r->version, version, err);
    if (rc != 0 || !version[0])
        return rc;
    struct lorica_buf body;
    lorica_buf_init(&body, BODY_MAX);
    struct lorica_jsonw w = {.out = &body};
    lorica_jsonw_object(&w, NULL);
    lorica_jsonw_string(&w, "name", r->name);
    lorica_jsonw_string(&w, "version", version);
    lorica_jsonw_string(&w, "key", "lorica.deleted");
    lorica_jsonw_string(&w, "value", v.deleted_ms ? "true" : "false");
    lorica_jsonw_end_object(&w);
    rc = lorica_mlflow_call(m->mlflow, "model-versions/set-tag", &body, NULL, err);
    lorica_buf_finish(&body);
    return rc;
}

/* The thread. */

/* *ret_asked: MLflow had something to do with it. */
static int follow(struct lorica_mlflow_mirror *m, const struct record *r, bool *ret_asked,
                  struct lorica_error *err) {
    char version[LORICA_MLFLOW_ID_MAX + 1];
    *ret_asked = true;
    switch (r->kind) {
    case LORICA_AUDIT_PUBLISH:
        return ensure_version(m, r->name, r->version, version, err);
    case LORICA_AUDIT_PROMOTE:
    case LORICA_AUDIT_ROLLBACK:
        return ensure_alias(m, r, err);
    case LORICA_AUDIT_DELETE:
    case LORICA_AUDIT_UNDELETE:
        return ensure_deleted_tag(m, r, err);
    default:
        *ret_asked = false;
        return 0;
    }
}

static void advance(struct lorica_mlflow_mirror *m, const struct record *r, bool asked) {
    m->seq = r->seq;
    atomic_store(&m->shown_seq, r->seq);
    if (asked || r == &m->records[m->count - 1])
        write_state(m, r);
}

/* Follows the records that are there. 0: all of them; else why it has to be tried again. */
static int catch_up(struct lorica_mlflow_mirror *m, struct lorica_error *err) {
    int rc;
    while ((rc = read_records(m, m->seq, PAGE, err)) == 0 && m->count > 0) {
        for (size_t i = 0; i < m->count; i++) {
            const struct record *r = &m->records[i];
            bool asked = false;
            rc = atomic_load(&m->stop) ? LORICA_ECANCELED : follow(m, r, &asked, err);
            if (rc != 0 && lorica_mlflow_may_pass(rc)) {
                m->experiment[0] = '\0'; /* it may be another server's by then */
                return rc;
            }
            if (rc != 0) {
                atomic_fetch_add(&m->refused, 1);
                lorica_log_line(m->log, "error",
                                "event=mlflow_refused adapter=%s seq=%" PRIu64 " error=\"%s\"",
                                r->name, r->seq, err->text);
            }
            advance(m, r, asked);
        }
    }
    return rc;
}

/* Waits for a nudge, or at most `seconds` (0: however long). */
static void wait_for_work(struct lorica_mlflow_mirror *m, int seconds) {
    struct timespec until;
    int rc = 0;
    (void)clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += seconds;
    pthread_mutex_lock(&m->mutex);
    /* While it waits to try again, new work changes nothing. */
    while (!atomic_load(&m->stop) && rc == 0 && (seconds > 0 || !m->nudged))
        rc = seconds > 0 ? pthread_cond_timedwait(&m->wake, &m->mutex, &until)
                         : pthread_cond_wait(&m->wake, &m->mutex);
    m->nudged = false;
    pthread_mutex_unlock(&m->mutex);
}

static void *run(void *arg) {
    struct lorica_mlflow_mirror *m = arg;
    int seconds = 0;
    read_state(m);
    while (!atomic_load(&m->stop)) {
        struct lorica_error err = {0};
        const int rc = catch_up(m, &err);
        if (atomic_load(&m->stop))
            break;
        atomic_store(&m->failing, rc != 0);
        if (rc == 0) {
            seconds = 0;
        } else {
            seconds = seconds == 0 ? RETRY_SECONDS_MIN : 2 * seconds;
            if (seconds > RETRY_SECONDS_MAX)
                seconds = RETRY_SECONDS_MAX;
            atomic_fetch_add(&m->failures, 1);
            lorica_log_line(m->log, "warning", "event=mlflow_failed retry_seconds=%d error=\"%s\"",
                            seconds, err.text);
        }
        wait_for_work(m, seconds);
    }
    return NULL;
}

/* Begin and end. */

static void free_mirror(struct lorica_mlflow_mirror *m) {
    lorica_mlflow_destroy(m->mlflow);
    free(m->state_path);
    free(m->experiment_name);
    free(m);
}

static int start_thread(struct lorica_mlflow_mirror *m, struct lorica_error *err) {
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&m->wake, &attr);
    pthread_condattr_destroy(&attr);
    pthread_mutex_init(&m->mutex, NULL);
    if (pthread_create(&m->thread, NULL, run, m) == 0)
        return 0;
    pthread_mutex_destroy(&m->mutex);
    pthread_cond_destroy(&m->wake);
    return lorica_fail(err, LORICA_ENOMEM, "no thread for MLflow could be started");
}

int lorica_mlflow_mirror_create(const struct lorica_mlflow_mirror_options *options,
                                struct lorica_mlflow_mirror **ret, struct lorica_error *err) {
    struct lorica_mlflow_mirror *m = calloc(1, sizeof(*m));
    if (!m)
        return lorica_fail(err, LORICA_ENOMEM, "MLflow: out of memory");
    m->registry = options->registry;
    m->log = options->log;
    m->state_path = lorica_path_join(options->data_dir, STATE_NAME);
    m->experiment_name = strdup(options->experiment);
    const struct lorica_mlflow_options server = {options->url, options->ca, stopped, m};
    int rc = m->state_path && m->experiment_name
                 ? lorica_mlflow_create(&server, &m->mlflow, err)
                 : lorica_fail(err, LORICA_ENOMEM, "MLflow: out of memory");
    if (rc == 0)
        rc = start_thread(m, err);
    if (rc == 0)
        *ret = m;
    else
        free_mirror(m);
    return rc;
}

void lorica_mlflow_mirror_destroy(struct lorica_mlflow_mirror *m) {
    if (!m)
        return;
    pthread_mutex_lock(&m->mutex);
    atomic_store(&m->stop, true);
    pthread_cond_signal(&m->wake);
    pthread_mutex_unlock(&m->mutex);
    pthread_join(m->thread, NULL);
    pthread_mutex_destroy(&m->mutex);
    pthread_cond_destroy(&m->wake);
    free_mirror(m);
}

void lorica_mlflow_mirror_nudge(struct lorica_mlflow_mirror *m) {
    if (!m)
        return;
    pthread_mutex_lock(&m->mutex);
    m->nudged = true;
    pthread_cond_signal(&m->wake);
    pthread_mutex_unlock(&m->mutex);
}

void lorica_mlflow_mirror_stats(const struct lorica_mlflow_mirror *m,
                                struct lorica_mlflow_mirror_stats *ret) {
    *ret = (struct lorica_mlflow_mirror_stats){
        .seq = atomic_load(&m->shown_seq),
        .published = atomic_load(&m->published),
        .failures = atomic_load(&m->failures),
        .refused = atomic_load(&m->refused),
        .failing = atomic_load(&m->failing),
    };
}
