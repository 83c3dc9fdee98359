/* SPDX-License-Identifier: MIT
 * The HTTPS client on libcurl: one handle, kept connected between calls. Downloads, uploads and
 * streams of it are in client_transfer.c. */
#include "gateway/client/client_private.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/cmd/cmd.h"
#include "gateway/files.h"
#include "proto/http_fields.h"

#define DEFAULT_SERVER "https://127.0.0.1:8443"
#define KEY_MAX 200 /* bytes of a key */
#define CONNECT_TIMEOUT_S 10
#define STALL_TIMEOUT_S 300   /* without a byte in either direction */
#define ANSWER_MAX (64 << 20) /* bytes of a JSON answer */

static int check_server(const char *server, struct lorica_error *err) {
    if (strncmp(server, "https://", 8) != 0 || server[8] == '\0' || server[8] == '/')
        return lorica_fail(err, LORICA_EINVAL,
                           "the server must be https://HOST[:PORT], not \"%.200s\": keys never "
                           "travel without encryption",
                           server);
    if (strpbrk(server, " \t\r\n?#@"))
        return lorica_fail(err, LORICA_EINVAL,
                           "the server \"%.200s\" must be https://HOST[:PORT] and no more", server);
    return 0;
}

/* A key is one word of printable ASCII: anything else could not stand in a header. */
static int take_key(const char *text, const char *where, char **ret, struct lorica_error *err) {
    const size_t skip = strspn(text, " \t\r\n");
    const size_t len = strcspn(text + skip, " \t\r\n");
    const size_t rest = strspn(text + skip + len, " \t\r\n");
    bool printable = len > 0 && len <= KEY_MAX && text[skip + len + rest] == '\0';
    for (size_t i = 0; i < len; i++)
        printable = printable && text[skip + i] > 0x20 && text[skip + i] < 0x7f;
    if (!printable)
        return lorica_fail(err, LORICA_EINVAL, "%s holds no API key: one line of printable text",
                           where);
    *ret = strndup(text + skip, len);
    return *ret ? 0 : lorica_fail(err, LORICA_ENOMEM, "out of memory");
}

/* The key from the environment, else from DIR/admin.key, else none. */
static int find_key(const char *dir, char **ret, struct lorica_error *err) {
    const char *env = getenv("LORICA_API_KEY");
    if (env && *env)
        return take_key(env, "LORICA_API_KEY", ret, err);
    char *path = lorica_path_join(dir, "admin.key"), *text = NULL;
    size_t len = 0;
    if (!path)
        return lorica_fail(err, LORICA_ENOMEM, "out of memory");
    int rc = lorica_file_read(path, 4096, &text, &len, err);
    if (rc == 0)
        rc = take_key(text, path, ret, err);
    else if (rc == LORICA_ENOTFOUND || rc == LORICA_EPERM)
        rc = 0;
    if (text)
        explicit_bzero(text, len);
    free(text);
    free(path);
    return rc;
}

/* DIR/tls/ca.pem where it is there; NULL otherwise. */
static int find_ca(const char *dir, const char *option, char **ret, struct lorica_error *err) {
    char *path = option ? strdup(option) : lorica_path_join(dir, "tls/ca.pem");
    if (!path)
        return lorica_fail(err, LORICA_ENOMEM, "out of memory");
    if (!lorica_path_exists(path)) {
        const int rc =
            option ? lorica_fail(err, LORICA_ENOTFOUND, "--ca: there is no file %s", path) : 0;
        free(path);
        return rc;
    }
    *ret = path;
    return 0;
}

/* Finds key and authority. Where both are given there need be no data directory. */
static int find_trust(struct lorica_client *client, const struct lorica_client_options *options,
                      struct lorica_error *err) {
    const char *key = getenv("LORICA_API_KEY");
    const bool given = key && *key && options->ca;
    char *dir = given ? NULL : lorica_data_dir(options->data);
    if (!given && !dir)
        return lorica_fail(err, LORICA_EINVAL, "there is no place to look for the API key");
    int rc = find_key(dir, &client->key, err);
    if (rc == 0)
        rc = find_ca(dir, options->ca, &client->ca, err);
    free(dir);
    return rc;
}

int lorica_client_create(const struct lorica_client_options *options, struct lorica_client **ret,
                         struct lorica_error *err) {
    const char *env = getenv("LORICA_SERVER");
    const char *server = options->server ? options->server : env && *env ? env : DEFAULT_SERVER;
    int rc = check_server(server, err);
    if (rc != 0)
        return rc;
    struct lorica_client *client = calloc(1, sizeof(*client));
    if (!client || curl_global_init(CURL_GLOBAL_DEFAULT) != 0) {
        free(client);
        return lorica_fail(err, LORICA_ENOMEM, "the HTTPS client could not be started");
    }
    client->curl = curl_easy_init();
    client->server = strdup(server);
    if (!client->curl || !client->server)
        rc = lorica_fail(err, LORICA_ENOMEM, "out of memory");
    if (rc == 0)
        rc = find_trust(client, options, err);
    if (rc != 0) {
        lorica_client_destroy(client);
        return rc;
    }
    for (size_t len = strlen(client->server); client->server[len - 1] == '/'; len--)
        client->server[len - 1] = '\0';
    *ret = client;
    return 0;
}

void lorica_client_destroy(struct lorica_client *client) {
    if (!client)
        return;
    curl_easy_cleanup(client->curl);
    curl_global_cleanup();
    if (client->key)
        explicit_bzero(client->key, strlen(client->key));
    free(client->key);
    free(client->server);
    free(client->ca);
    free(client);
}

const char *lorica_client_server(const struct lorica_client *client) { return client->server; }

/* True for an address of this machine: no proxy stands before it. */
static bool is_local(const char *server) {
    static const char *const hosts[] = {"localhost", "127.", "[::1]"};
    for (size_t i = 0; i < sizeof(hosts) / sizeof(hosts[0]); i++)
        if (strncmp(server + 8, hosts[i], strlen(hosts[i])) == 0)
            return true;
    return false;
}

static int add_header(struct curl_slist **headers, const char *name, const char *value,
                      struct lorica_error *err) {
    char *line = NULL;
    if (asprintf(&line, "%s: %s", name, value) < 0)
        return lorica_fail(err, LORICA_ENOMEM, "out of memory");
    struct curl_slist *longer = curl_slist_append(*headers, line);
    explicit_bzero(line, strlen(line));
    free(line);
    if (!longer)
        return lorica_fail(err, LORICA_ENOMEM, "out of memory");
    *headers = longer;
    return 0;
}

static int set_headers(struct lorica_client *client, const struct lorica_client_request *request,
                       struct curl_slist **headers, struct lorica_error *err) {
    char text[KEY_MAX + 16];
    int rc = 0;
    if (client->key) {
        (void)snprintf(text, sizeof(text), "Bearer %s", client->key);
        rc = add_header(headers, "Authorization", text, err);
        explicit_bzero(text, sizeof(text));
    }
    if (rc == 0 && request->body)
        rc = add_header(headers, "Content-Type", "application/json", err);
    if (rc == 0 && request->receipt)
        rc = add_header(headers, "lorica-receipt", "true", err);
    if (rc == 0 && request->if_match) {
        (void)snprintf(text, sizeof(text), "\"%.64s\"", request->if_match);
        rc = add_header(headers, "If-Match", text, err);
    }
    return rc;
}

/* What went wrong before there was an answer. */
static int fail_curl(struct lorica_client *client, CURLcode code, struct lorica_error *err) {
    const char *why = client->why[0] ? client->why : curl_easy_strerror(code);
    switch (code) {
    case CURLE_COULDNT_CONNECT:
    case CURLE_COULDNT_RESOLVE_HOST:
        return lorica_fail(err, LORICA_EIO,
                           "the server at %s cannot be reached: %s. Is lorica serve running? "
                           "--server or LORICA_SERVER names another one",
                           client->server, why);
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
        return lorica_fail(err, LORICA_EIO,
                           "the certificate of %s is not trusted: %s. --ca names the file of its "
                           "authority (tls/ca.pem in the server's data directory)",
                           client->server, why);
    case CURLE_OPERATION_TIMEDOUT:
        return lorica_fail(err, LORICA_ETIMEOUT, "the server at %s does not answer: %s",
                           client->server, why);
    case CURLE_OUT_OF_MEMORY:
        return lorica_fail(err, LORICA_ENOMEM, "out of memory");
    default:
        return lorica_fail(err, LORICA_EIO, "the connection to %s failed: %s", client->server, why);
    }
}

/* The code whose status this is, else the nearest. */
static int code_of_status(long status) {
    for (int i = 0; i < (int)LORICA_ERR_COUNT; i++)
        if (lorica_err_http_status(-1 - i) == status)
            return -1 - i;
    return status == 429 ? LORICA_EBUSY : status < 500 ? LORICA_EINVAL : LORICA_EIO;
}

/* Turns an answer of status 400 or more into an error. */
static int fail_status(struct lorica_client *client, long status, const struct lorica_buf *body,
                       struct lorica_error *err) {
    struct lorica_json *json = NULL;
    struct lorica_error ignored;
    const int code = code_of_status(status);
    const char *hint =
        status == 401 && !client->key
            ? " (no key was sent: set LORICA_API_KEY, or --data to where admin.key is)"
            : "";
    if (!body->data || lorica_json_parse(body->data, body->len, &json, &ignored) != 0)
        json = NULL;
    const char *message =
        lorica_json_string(lorica_json_get(lorica_json_get(json, "error"), "message"));
    if (message)
        (void)lorica_fail(err, code, "%s%s", message, hint);
    else
        (void)lorica_fail(err, code, "%s answered with status %ld and no sentence: is this lorica?",
                          client->server, status);
    lorica_json_destroy(json);
    return code;
}

static size_t on_body(char *bytes, size_t size, size_t count, void *arg) {
    struct lorica_client *client = arg;
    struct lorica_client_sink *sink = client->sink;
    const size_t len = size * count; /* size is 1 */
    long status = 0;
    (void)curl_easy_getinfo(client->curl, CURLINFO_RESPONSE_CODE, &status);
    if (status < 400 && sink->write)
        sink->rc = sink->write(sink->arg, bytes, len, sink->err);
    else if (lorica_buf_append(&sink->body, bytes, len) != 0)
        sink->rc =
            lorica_fail(sink->err, lorica_buf_status(&sink->body),
                        "the answer of %s is longer than %d bytes", client->server, ANSWER_MAX);
    return sink->rc == 0 ? len : CURL_WRITEFUNC_ERROR;
}

static void set_common(struct lorica_client *client) {
    CURL *curl = client->curl;
    curl_easy_reset(curl);
    client->why[0] = '\0';
    (void)curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, client->why);
    (void)curl_easy_setopt(curl, CURLOPT_USERAGENT, "lorica/" LORICA_VERSION);
    (void)curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "https");
    (void)curl_easy_setopt(curl, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    (void)curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, (long)CONNECT_TIMEOUT_S);
    (void)curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
    (void)curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME, (long)STALL_TIMEOUT_S);
    if (client->ca) {
        (void)curl_easy_setopt(curl, CURLOPT_CAINFO, client->ca);
        (void)curl_easy_setopt(curl, CURLOPT_CAPATH, NULL);
    }
    if (is_local(client->server))
        (void)curl_easy_setopt(curl, CURLOPT_PROXY, "");
    (void)curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_body);
    (void)curl_easy_setopt(curl, CURLOPT_WRITEDATA, client);
}

static void set_request(struct lorica_client *client, const struct lorica_client_request *request,
                        curl_mime *mime) {
    CURL *curl = client->curl;
    if (mime) {
        (void)curl_easy_setopt(curl, CURLOPT_MIMEPOST, mime);
    } else if (request->body) {
        (void)curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)request->body_len);
        (void)curl_easy_setopt(curl, CURLOPT_POSTFIELDS, request->body);
    }
    if (request->method && strcmp(request->method, "HEAD") == 0)
        (void)curl_easy_setopt(curl, CURLOPT_NOBODY, 1L);
    else if (request->method)
        (void)curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, request->method);
}

int lorica_client_perform(struct lorica_client *client, const struct lorica_client_request *request,
                          curl_mime *mime, struct lorica_client_sink *sink,
                          struct lorica_error *err) {
    struct curl_slist *headers = NULL;
    char *url = NULL;
    set_common(client);
    lorica_buf_init(&sink->body, ANSWER_MAX);
    sink->rc = 0;
    sink->err = err;
    client->sink = sink;
    int rc = set_headers(client, request, &headers, err);
    if (rc == 0 && asprintf(&url, "%s%s", client->server, request->path) < 0)
        rc = lorica_fail(err, LORICA_ENOMEM, "out of memory");
    if (rc == 0) {
        set_request(client, request, mime);
        (void)curl_easy_setopt(client->curl, CURLOPT_URL, url);
        (void)curl_easy_setopt(client->curl, CURLOPT_HTTPHEADER, headers);
        if (sink->header) {
            (void)curl_easy_setopt(client->curl, CURLOPT_HEADERFUNCTION, sink->header);
            (void)curl_easy_setopt(client->curl, CURLOPT_HEADERDATA, sink->arg);
        }
        const CURLcode code = curl_easy_perform(client->curl);
        (void)curl_easy_getinfo(client->curl, CURLINFO_RESPONSE_CODE, &sink->status);
        if (sink->rc != 0)
            rc = sink->rc;
        else if (sink->status >= 300) /* also when it came before the whole upload was sent */
            rc = fail_status(client, sink->status, &sink->body, err);
        else if (code != CURLE_OK)
            rc = fail_curl(client, code, err);
    }
    curl_easy_reset(client->curl); /* nothing borrowed stays behind; the connection does */
    client->sink = NULL;
    curl_slist_free_all(headers);
    free(url);
    if (rc != 0)
        lorica_buf_finish(&sink->body);
    return rc;
}

int lorica_client_take_json(struct lorica_client *client, struct lorica_client_sink *sink,
                            struct lorica_json **ret, struct lorica_error *err) {
    int rc = 0;
    struct lorica_json *json = NULL;
    if (sink->body.len > 0) {
        rc = lorica_json_parse(sink->body.data, sink->body.len, &json, err);
        if (rc != 0)
            rc = lorica_fail_prefix(err, "the answer of %s", client->server);
    }
    lorica_buf_finish(&sink->body);
    if (rc == 0 && ret)
        *ret = json;
    else
        lorica_json_destroy(json);
    return rc;
}

int lorica_client_call(struct lorica_client *client, const struct lorica_client_request *request,
                       int *ret_status, struct lorica_json **ret, struct lorica_error *err) {
    struct lorica_client_sink sink = {0};
    int rc = lorica_client_perform(client, request, NULL, &sink, err);
    if (rc == 0)
        rc = lorica_client_take_json(client, &sink, ret, err);
    if (rc == 0 && ret_status)
        *ret_status = (int)sink.status;
    return rc;
}

int lorica_client_send(struct lorica_client *client, const struct lorica_client_request *request,
                       struct lorica_buf *body, const char *what, struct lorica_json **ret,
                       struct lorica_error *err) {
    struct lorica_client_request with_body = *request;
    with_body.body = body->data;
    with_body.body_len = body->len;
    int rc = lorica_buf_status(body);
    rc = rc == 0 ? lorica_client_call(client, &with_body, NULL, ret, err)
                 : lorica_fail(err, rc, "the %s is too long", what);
    lorica_buf_finish(body);
    return rc;
}

/* Text of a cursor's value: a string, or a whole number. False when it is neither. */
static bool cursor_value(const struct lorica_json *value, struct lorica_buf *out) {
    const char *text = lorica_json_string(value);
    int64_t number = 0;
    lorica_buf_clear(out);
    if (text)
        lorica_http_escape(out, text, strlen(text));
    else if (lorica_json_integer(value, 0, INT64_MAX, &number) == 0)
        (void)lorica_buf_printf(out, "%lld", (long long)number);
    return out->len > 0 && lorica_buf_status(out) == 0;
}

/* Gets one page; *ret_more tells whether `after` now names where another one begins. */
static int list_page(struct lorica_client *client, const char *path, const char *cursor,
                     struct lorica_buf *after, lorica_client_item_fn fn, void *arg, bool *ret_more,
                     struct lorica_error *err) {
    char *full = NULL;
    struct lorica_json *page = NULL;
    const char *glue = strchr(path, '?') ? "&after=" : "?after=";
    if (asprintf(&full, "%s%s%s", path, after->len > 0 ? glue : "",
                 after->len > 0 ? after->data : "") < 0)
        return lorica_fail(err, LORICA_ENOMEM, "out of memory");
    const struct lorica_client_request request = {.path = full};
    int rc = lorica_client_call(client, &request, NULL, &page, err);
    const struct lorica_json *data = lorica_json_get(page, "data"), *last = NULL;
    if (rc == 0 && lorica_json_type(data) != LORICA_JSON_ARRAY)
        rc = lorica_fail(err, LORICA_EFORMAT, "%s answered %s with no list", client->server, path);
    for (const struct lorica_json *item = rc == 0 ? lorica_json_first(data) : NULL; item;
         item = lorica_json_next(item)) {
        fn(arg, item);
        last = item;
    }
    *ret_more = rc == 0 && lorica_json_is_true(lorica_json_get(page, "has_more"));
    const struct lorica_json *next =
        lorica_json_get(lorica_json_get(page, "next"), "after"); /* else the last item tells */
    if (!next && cursor && last)
        next = lorica_json_get(last, cursor);
    if (*ret_more && !(next && cursor_value(next, after)))
        rc = lorica_fail(err, LORICA_EFORMAT, "%s says that %s has more, but not from where",
                         client->server, path);
    lorica_json_destroy(page);
    free(full);
    return rc;
}

int lorica_client_list(struct lorica_client *client, const char *path, const char *cursor,
                       lorica_client_item_fn fn, void *arg, struct lorica_error *err) {
    struct lorica_buf after;
    bool more = true;
    int rc = 0;
    lorica_buf_init(&after, 4096);
    while (rc == 0 && more)
        rc = list_page(client, path, cursor, &after, fn, arg, &more, err);
    lorica_buf_finish(&after);
    return rc;
}
