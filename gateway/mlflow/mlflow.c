/* SPDX-License-Identifier: MIT */
#include "gateway/mlflow/mlflow.h"

#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "gateway/files.h"
#include "proto/http_fields.h"

#define API "/api/2.0/mlflow/"
#define ANSWER_MAX ((size_t)16 << 20)
#define BODY_MAX ((size_t)1 << 20) /* what MLflow takes */
#define CONNECT_SECONDS 5L
#define CALL_SECONDS 30L /* a request with JSON, unless the environment says otherwise */
#define CALL_SECONDS_MAX 600
#define UPLOAD_SECONDS 3600L

struct lorica_mlflow {
    CURL *curl;
    struct lorica_mlflow_url url;
    char *ca, *token;
    long call_seconds;
    bool (*stopped)(void *arg);
    void *arg;
    char why[CURL_ERROR_SIZE];
};

/* What a request sends besides its path. */
struct request {
    const char *method; /* NULL: GET, or POST with a body */
    const char *url;
    const struct lorica_buf *body;
    bool put;
    FILE *file;        /* to PUT, or NULL */
    const char *bytes; /* to PUT instead */
    uint64_t nbytes;   /* of file or bytes */
    uint64_t at;       /* how far bytes were read */
};

static const char *env(const char *name) {
    const char *text = getenv(name);
    return text && *text ? text : NULL;
}

/* Credentials of the environment, unless the address brought some. */
static int find_credentials(struct lorica_mlflow *m, struct lorica_error *err) {
    const char *user = env("MLFLOW_TRACKING_USERNAME"), *password = env("MLFLOW_TRACKING_PASSWORD");
    const char *token = env("MLFLOW_TRACKING_TOKEN");
    if (!m->url.user && user && password) {
        m->url.user = strdup(user);
        m->url.password = strdup(password);
        if (!m->url.user || !m->url.password)
            return lorica_fail(err, LORICA_ENOMEM, "out of memory");
    } else if (!m->url.user && token) {
        m->token = strdup(token);
        if (!m->token)
            return lorica_fail(err, LORICA_ENOMEM, "out of memory");
    }
    if ((m->url.user || m->token) && m->url.plain && !m->url.local)
        return lorica_fail(err, LORICA_EINVAL,
                           "%s: a password or token does not travel without encryption: use "
                           "https://, or a tunnel to this machine",
                           m->url.server);
    return 0;
}

/* How long an answer may take: MLFLOW_HTTP_REQUEST_TIMEOUT, in seconds. */
static int find_timeout(struct lorica_mlflow *m, struct lorica_error *err) {
    const char *text = env("MLFLOW_HTTP_REQUEST_TIMEOUT");
    char *end = NULL;
    m->call_seconds = text ? strtol(text, &end, 10) : CALL_SECONDS;
    if (text && (*end != '\0' || m->call_seconds < 1 || m->call_seconds > CALL_SECONDS_MAX))
        return lorica_fail(
            err, LORICA_EINVAL,
            "MLFLOW_HTTP_REQUEST_TIMEOUT must be seconds from 1 to %d, not \"%.40s\"",
            CALL_SECONDS_MAX, text);
    return 0;
}

static int find_ca(struct lorica_mlflow *m, const char *option, struct lorica_error *err) {
    const char *path = option ? option : env("MLFLOW_TRACKING_SERVER_CERT_PATH");
    if (!path)
        return 0;
    if (!lorica_path_exists(path))
        return lorica_fail(err, LORICA_EINVAL, "there is no file %s with MLflow's authority", path);
    m->ca = strdup(path);
    return m->ca ? 0 : lorica_fail(err, LORICA_ENOMEM, "out of memory");
}

int lorica_mlflow_create(const struct lorica_mlflow_options *options, struct lorica_mlflow **ret,
                         struct lorica_error *err) {
    struct lorica_mlflow *m = calloc(1, sizeof(*m));
    if (!m || curl_global_init(CURL_GLOBAL_DEFAULT) != 0) {
        free(m);
        return lorica_fail(err, LORICA_ENOMEM, "the client of MLflow could not be started");
    }
    m->stopped = options->stopped;
    m->arg = options->arg;
    m->curl = curl_easy_init();
    int rc = m->curl ? lorica_mlflow_url_parse(options->url, &m->url, err)
                     : lorica_fail(err, LORICA_ENOMEM, "out of memory");
    if (rc == 0)
        rc = find_credentials(m, err);
    if (rc == 0)
        rc = find_ca(m, options->ca, err);
    if (rc == 0)
        rc = find_timeout(m, err);
    if (rc == 0)
        *ret = m;
    else
        lorica_mlflow_destroy(m);
    return rc;
}

void lorica_mlflow_destroy(struct lorica_mlflow *m) {
    if (!m)
        return;
    curl_easy_cleanup(m->curl);
    curl_global_cleanup();
    lorica_mlflow_url_finish(&m->url);
    if (m->token)
        explicit_bzero(m->token, strlen(m->token));
    free(m->token);
    free(m->ca);
    free(m);
}

const char *lorica_mlflow_server(const struct lorica_mlflow *m) { return m->url.server; }

bool lorica_mlflow_may_pass(int code) {
    return code != LORICA_EINVAL && code != LORICA_ECONFLICT && code != LORICA_ENOTFOUND;
}

/* libcurl's callbacks. */

static size_t on_body(char *bytes, size_t size, size_t count, void *arg) {
    return lorica_buf_append(arg, bytes, size * count) == 0 ? size * count : CURL_WRITEFUNC_ERROR;
}

static size_t on_read(char *out, size_t size, size_t count, void *arg) {
    struct request *request = arg;
    size_t len = size * count;
    if (request->file)
        return fread(out, 1, len, request->file);
    if (len > request->nbytes - request->at)
        len = (size_t)(request->nbytes - request->at);
    if (len > 0)
        memcpy(out, request->bytes + request->at, len);
    request->at += len;
    return len;
}

/* A connection that was kept may turn out to be dead when the upload has begun. */
static int on_seek(void *arg, curl_off_t offset, int origin) {
    struct request *request = arg;
    if (origin != SEEK_SET || offset < 0 || (uint64_t)offset > request->nbytes)
        return CURL_SEEKFUNC_FAIL;
    request->at = (uint64_t)offset;
    return !request->file || fseeko(request->file, offset, SEEK_SET) == 0 ? CURL_SEEKFUNC_OK
                                                                          : CURL_SEEKFUNC_FAIL;
}

static int on_progress(void *arg, curl_off_t total_down, curl_off_t down, curl_off_t total_up,
                       curl_off_t up) {
    const struct lorica_mlflow *m = arg;
    return m->stopped && m->stopped(m->arg);
}

static void set_common(struct lorica_mlflow *m, struct lorica_buf *answer) {
    CURL *curl = m->curl;
    curl_easy_reset(curl);
    m->why[0] = '\0';
    (void)curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, m->why);
    (void)curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    (void)curl_easy_setopt(curl, CURLOPT_USERAGENT, "lorica/" LORICA_VERSION);
    (void)curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, m->url.plain ? "http" : "https");
    (void)curl_easy_setopt(curl, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    (void)curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, CONNECT_SECONDS);
    if (m->ca) {
        (void)curl_easy_setopt(curl, CURLOPT_CAINFO, m->ca);
        (void)curl_easy_setopt(curl, CURLOPT_CAPATH, NULL);
    }
    if (m->url.local)
        (void)curl_easy_setopt(curl, CURLOPT_PROXY, "");
    if (m->url.user) {
        (void)curl_easy_setopt(curl, CURLOPT_HTTPAUTH, (long)CURLAUTH_BASIC);
        (void)curl_easy_setopt(curl, CURLOPT_USERNAME, m->url.user);
        (void)curl_easy_setopt(curl, CURLOPT_PASSWORD, m->url.password);
    } else if (m->token) {
        (void)curl_easy_setopt(curl, CURLOPT_HTTPAUTH, (long)CURLAUTH_BEARER);
        (void)curl_easy_setopt(curl, CURLOPT_XOAUTH2_BEARER, m->token);
    }
    (void)curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_body);
    (void)curl_easy_setopt(curl, CURLOPT_WRITEDATA, answer);
    (void)curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
    (void)curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, on_progress);
    (void)curl_easy_setopt(curl, CURLOPT_XFERINFODATA, m);
}

static void set_request(struct lorica_mlflow *m, struct request *request) {
    CURL *curl = m->curl;
    (void)curl_easy_setopt(curl, CURLOPT_URL, request->url);
    if (request->put) {
        (void)curl_easy_setopt(curl, CURLOPT_UPLOAD, 1L);
        (void)curl_easy_setopt(curl, CURLOPT_READFUNCTION, on_read);
        (void)curl_easy_setopt(curl, CURLOPT_READDATA, request);
        (void)curl_easy_setopt(curl, CURLOPT_SEEKFUNCTION, on_seek);
        (void)curl_easy_setopt(curl, CURLOPT_SEEKDATA, request);
        (void)curl_easy_setopt(curl, CURLOPT_INFILESIZE_LARGE, (curl_off_t)request->nbytes);
        (void)curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
        (void)curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME, m->call_seconds);
    } else if (request->body) {
        (void)curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)request->body->len);
        (void)curl_easy_setopt(curl, CURLOPT_POSTFIELDS, request->body->data);
    }
    if (request->method)
        (void)curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, request->method);
    (void)curl_easy_setopt(curl, CURLOPT_TIMEOUT, request->put ? UPLOAD_SECONDS : m->call_seconds);
}

/* What went wrong before there was an answer. */
static int fail_curl(struct lorica_mlflow *m, CURLcode code, struct lorica_error *err) {
    const char *why = m->why[0] ? m->why : curl_easy_strerror(code);
    switch (code) {
    case CURLE_ABORTED_BY_CALLBACK:
        return lorica_fail(err, LORICA_ECANCELED, "the request to MLflow was broken off");
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
        return lorica_fail(err, LORICA_EIO,
                           "the certificate of MLflow at %s is not trusted: %s; name the file of "
                           "its authority",
                           m->url.server, why);
    case CURLE_OPERATION_TIMEDOUT:
        return lorica_fail(err, LORICA_ETIMEOUT, "MLflow at %s does not answer: %s", m->url.server,
                           why);
    case CURLE_WRITE_ERROR:
        return lorica_fail(err, LORICA_EFORMAT, "MLflow at %s answers more than %zu bytes",
                           m->url.server, ANSWER_MAX);
    case CURLE_OUT_OF_MEMORY:
        return lorica_fail(err, LORICA_ENOMEM, "out of memory");
    default:
        return lorica_fail(err, LORICA_EIO, "MLflow at %s cannot be reached: %s", m->url.server,
                           why);
    }
}

static int code_of(long status, const char *name) {
    if (name && strcmp(name, "RESOURCE_ALREADY_EXISTS") == 0)
        return LORICA_ECONFLICT;
    switch (status) {
    case 401:
        return LORICA_EAUTH;
    case 403:
        return LORICA_EPERM;
    case 404: /* from whatever else stands there: perhaps MLflow comes back */
        return name ? LORICA_ENOTFOUND : LORICA_EIO;
    case 408:
    case 429:
        return LORICA_EBUSY;
    default:
        return status >= 500 || status < 400 ? LORICA_EIO : LORICA_EINVAL;
    }
}

/* Turns an answer of 300 or more into an error. */
static int fail_status(struct lorica_mlflow *m, long status, const struct lorica_buf *body,
                       struct lorica_error *err) {
    struct lorica_json *json = NULL;
    struct lorica_error ignored;
    if (!body->data || lorica_json_parse(body->data, body->len, &json, &ignored) != 0)
        json = NULL;
    const char *message = lorica_json_string(lorica_json_get(json, "message"));
    const int code = code_of(status, lorica_json_string(lorica_json_get(json, "error_code")));
    const char *hint = code == LORICA_EAUTH
                           ? ": set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
                             "MLFLOW_TRACKING_TOKEN"
                           : "";
    (void)lorica_fail(err, code, "MLflow at %s answered %ld%s%.300s%s", m->url.server, status,
                      message ? ": " : "", message ? message : "", hint);
    lorica_json_destroy(json);
    return code;
}

/* Makes one request; on success the caller finishes `answer`. */
static int perform(struct lorica_mlflow *m, struct request *request, struct lorica_buf *answer,
                   struct lorica_error *err) {
    long status = 0;
    lorica_buf_init(answer, ANSWER_MAX);
    set_common(m, answer);
    /* Nothing waits for "100 Continue", and a body is JSON whatever curl assumes. */
    struct curl_slist *headers = curl_slist_append(NULL, "Expect:");
    struct curl_slist *more =
        headers ? curl_slist_append(headers, request->put ? "Content-Type: application/octet-stream"
                                                          : "Content-Type: application/json")
                : NULL;
    int rc = more ? 0 : lorica_fail(err, LORICA_ENOMEM, "out of memory");
    if (rc == 0) {
        (void)curl_easy_setopt(m->curl, CURLOPT_HTTPHEADER, more);
        set_request(m, request);
        const CURLcode code = curl_easy_perform(m->curl);
        (void)curl_easy_getinfo(m->curl, CURLINFO_RESPONSE_CODE, &status);
        if (status >= 300) /* also when it came before the whole upload was sent */
            rc = fail_status(m, status, answer, err);
        else if (code != CURLE_OK)
            rc = fail_curl(m, code, err);
    }
    curl_easy_reset(m->curl); /* nothing borrowed stays behind; the connection does */
    curl_slist_free_all(headers);
    if (rc != 0)
        lorica_buf_finish(answer);
    return rc;
}

/* One request with JSON. */
static int call(struct lorica_mlflow *m, struct request *request, const char *path,
                struct lorica_json **ret, struct lorica_error *err) {
    struct lorica_buf answer;
    char *url = NULL;
    if (request->body && lorica_buf_status(request->body) != 0)
        return lorica_fail(err, lorica_buf_status(request->body), "a request to MLflow: %s",
                           lorica_err_text(lorica_buf_status(request->body)));
    if (asprintf(&url, "%s" API "%s", m->url.server, path) < 0)
        return lorica_fail(err, LORICA_ENOMEM, "out of memory");
    request->url = url;
    int rc = perform(m, request, &answer, err);
    free(url);
    if (rc != 0)
        return rc;
    struct lorica_json *json = NULL;
    rc = lorica_json_parse(answer.data ? answer.data : "", answer.len, &json, err);
    if (rc != 0) {
        err->code = rc = LORICA_EIO; /* whoever it is now, it may be MLflow again */
        (void)lorica_fail_prefix(err, "the answer of %s (is it MLflow?)", m->url.server);
    }
    lorica_buf_finish(&answer);
    if (rc == 0 && ret)
        *ret = json;
    else
        lorica_json_destroy(json);
    return rc;
}

int lorica_mlflow_call(struct lorica_mlflow *m, const char *path, const struct lorica_buf *body,
                       struct lorica_json **ret, struct lorica_error *err) {
    struct request request = {.body = body};
    return call(m, &request, path, ret, err);
}

int lorica_mlflow_send(struct lorica_mlflow *m, const char *method, const char *path,
                       const struct lorica_buf *body, struct lorica_error *err) {
    struct request request = {.method = method, .body = body};
    return call(m, &request, path, NULL, err);
}

/* Experiments and runs. */

static int find_experiment(struct lorica_mlflow *m, const char *name,
                           char ret[LORICA_MLFLOW_ID_MAX + 1], struct lorica_error *err) {
    struct lorica_buf path;
    struct lorica_json *json = NULL;
    lorica_buf_init(&path, 8192);
    (void)lorica_buf_puts(&path, "experiments/get-by-name?experiment_name=");
    lorica_http_escape(&path, name, strlen(name));
    int rc = lorica_buf_status(&path);
    rc = rc ? lorica_fail(err, rc, "the experiment's name is too long")
            : lorica_mlflow_call(m, path.data, NULL, &json, err);
    lorica_buf_finish(&path);
    if (rc != 0)
        return rc;
    const struct lorica_json *experiment = lorica_json_get(json, "experiment");
    const char *id = lorica_mlflow_id(experiment, "experiment_id");
    const char *stage = lorica_json_string(lorica_json_get(experiment, "lifecycle_stage"));
    if (!id)
        rc = lorica_fail(err, LORICA_EFORMAT, "MLflow answered with an experiment without an id");
    else if (stage && strcmp(stage, "deleted") == 0)
        rc = lorica_fail(err, LORICA_EINVAL,
                         "MLflow's experiment \"%.200s\" was deleted: restore it or name another",
                         name);
    else
        memcpy(ret, id, strlen(id) + 1);
    lorica_json_destroy(json);
    return rc;
}

int lorica_mlflow_experiment(struct lorica_mlflow *m, const char *name,
                             char ret[LORICA_MLFLOW_ID_MAX + 1], struct lorica_error *err) {
    int rc = find_experiment(m, name, ret, err);
    if (rc != LORICA_ENOTFOUND)
        return rc;
    struct lorica_buf body;
    lorica_buf_init(&body, BODY_MAX);
    struct lorica_jsonw w = {.out = &body};
    lorica_jsonw_object(&w, NULL);
    lorica_jsonw_string(&w, "name", name);
    lorica_jsonw_end_object(&w);
    rc = lorica_mlflow_call(m, "experiments/create", &body, NULL, err);
    lorica_buf_finish(&body);
    /* Somebody else may have been faster: what counts is that it is there. */
    return rc == 0 || rc == LORICA_ECONFLICT ? find_experiment(m, name, ret, err) : rc;
}

static void write_tag(struct lorica_jsonw *w, const char *key, const char *value) {
    lorica_mlflow_write_text(w, key, value, LORICA_MLFLOW_TAG_MAX);
}

static int search_run(struct lorica_mlflow *m, const struct lorica_mlflow_new_run *wanted,
                      struct lorica_json **ret, struct lorica_error *err) {
    struct lorica_buf body;
    char filter[LORICA_MLFLOW_ID_MAX + 40];
    (void)snprintf(filter, sizeof(filter), "tags.`lorica.run` = '%.*s'", LORICA_MLFLOW_ID_MAX,
                   wanted->mark);
    lorica_buf_init(&body, BODY_MAX);
    struct lorica_jsonw w = {.out = &body};
    lorica_jsonw_object(&w, NULL);
    lorica_jsonw_array(&w, "experiment_ids");
    lorica_jsonw_string(&w, NULL, wanted->experiment);
    lorica_jsonw_end_array(&w);
    lorica_jsonw_string(&w, "filter", filter);
    lorica_jsonw_integer(&w, "max_results", 1);
    lorica_jsonw_end_object(&w);
    const int rc = lorica_mlflow_call(m, "runs/search", &body, ret, err);
    lorica_buf_finish(&body);
    return rc;
}

static int create_run(struct lorica_mlflow *m, const struct lorica_mlflow_new_run *wanted,
                      struct lorica_json **ret, struct lorica_error *err) {
    struct lorica_buf body;
    lorica_buf_init(&body, BODY_MAX);
    struct lorica_jsonw w = {.out = &body};
    lorica_jsonw_object(&w, NULL);
    lorica_jsonw_string(&w, "experiment_id", wanted->experiment);
    lorica_jsonw_string(&w, "run_name", wanted->name);
    lorica_jsonw_integer(&w, "start_time", wanted->start_ms);
    lorica_jsonw_array(&w, "tags");
    write_tag(&w, "lorica.run", wanted->mark);
    write_tag(&w, "mlflow.source.name", "lorica " LORICA_VERSION);
    lorica_jsonw_end_array(&w);
    lorica_jsonw_end_object(&w);
    const int rc = lorica_mlflow_call(m, "runs/create", &body, ret, err);
    lorica_buf_finish(&body);
    return rc;
}

int lorica_mlflow_run(struct lorica_mlflow *m, const struct lorica_mlflow_new_run *wanted,
                      struct lorica_mlflow_run *ret, struct lorica_error *err) {
    struct lorica_json *json = NULL;
    int rc = search_run(m, wanted, &json, err);
    const struct lorica_json *list = lorica_json_get(json, "runs");
    const struct lorica_json *run =
        lorica_json_type(list) == LORICA_JSON_ARRAY ? lorica_json_first(list) : NULL;
    if (rc == 0 && !run) {
        lorica_json_destroy(json);
        json = NULL;
        rc = create_run(m, wanted, &json, err);
        run = lorica_json_get(json, "run");
    }
    if (rc == 0)
        rc = lorica_mlflow_run_read(run, ret, err);
    lorica_json_destroy(json);
    return rc;
}

int lorica_mlflow_run_get(struct lorica_mlflow *m, const char *run_id, struct lorica_json **ret,
                          struct lorica_error *err) {
    char path[LORICA_MLFLOW_ID_MAX + 32];
    (void)snprintf(path, sizeof(path), "runs/get?run_id=%.*s", LORICA_MLFLOW_ID_MAX, run_id);
    return lorica_mlflow_call(m, path, NULL, ret, err);
}

int lorica_mlflow_run_end(struct lorica_mlflow *m, const char *run_id, const char *status,
                          int64_t end_ms, struct lorica_error *err) {
    struct lorica_buf body;
    lorica_buf_init(&body, BODY_MAX);
    struct lorica_jsonw w = {.out = &body};
    lorica_jsonw_object(&w, NULL);
    lorica_jsonw_string(&w, "run_id", run_id);
    lorica_jsonw_string(&w, "status", status);
    lorica_jsonw_integer(&w, "end_time", end_ms);
    lorica_jsonw_end_object(&w);
    const int rc = lorica_mlflow_call(m, "runs/update", &body, NULL, err);
    lorica_buf_finish(&body);
    return rc;
}

/* Artifacts. */

static int put(struct lorica_mlflow *m, const struct lorica_mlflow_run *run, const char *name,
               struct request *request, struct lorica_error *err) {
    struct lorica_buf url, answer;
    lorica_buf_init(&url, 16384);
    (void)lorica_buf_puts(&url, m->url.server);
    int rc = lorica_mlflow_artifact_path(run->artifacts, name, &url, err);
    request->put = true;
    request->url = url.data;
    if (rc == 0)
        rc = perform(m, request, &answer, err);
    if (rc == 0)
        lorica_buf_finish(&answer);
    lorica_buf_finish(&url);
    return rc;
}

int lorica_mlflow_put(struct lorica_mlflow *m, const struct lorica_mlflow_run *run,
                      const char *name, const void *bytes, size_t len, struct lorica_error *err) {
    struct request request = {.bytes = bytes, .nbytes = len};
    return put(m, run, name, &request, err);
}

int lorica_mlflow_put_file(struct lorica_mlflow *m, const struct lorica_mlflow_run *run,
                           const char *name, const char *path, struct lorica_error *err) {
    struct stat st;
    FILE *file = fopen(path, "rbe");
    if (!file || fstat(fileno(file), &st) != 0) {
        const int rc = lorica_fail_errno(err, path, "cannot be read");
        if (file)
            (void)fclose(file);
        return rc;
    }
    struct request request = {.file = file, .nbytes = (uint64_t)st.st_size};
    const int rc = put(m, run, name, &request, err);
    (void)fclose(file);
    return rc;
}
