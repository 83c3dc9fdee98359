/* SPDX-License-Identifier: MIT
 * What the client moves besides JSON: adapters up and down, and streams of events. */
#include "gateway/client/client_private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "gateway/files.h"
#include "registry/digest.h"
#include "registry/registry.h"

#define PATH_MAX_BYTES 4096
#define LINE_MAX_BYTES (1 << 20) /* one line of a stream */

static const char config_name[] = "adapter_config.json";
static const char weights_name[] = "adapter_model.safetensors";

/* Publishing. */

/* Adds a file as a part; it is read while it is sent. */
static int add_file(curl_mime *mime, const char *part_name, const char *type, const char *dir,
                    const char *file, bool needed, struct lorica_error *err) {
    char *path = lorica_path_join(dir, file);
    int rc = 0;
    struct stat st;
    if (!path)
        return lorica_fail(err, LORICA_ENOMEM, "out of memory");
    if (stat(path, &st) != 0 || access(path, R_OK) != 0) {
        if (needed || errno != ENOENT)
            rc = lorica_fail_errno(err, path, "cannot be read");
    } else if (!S_ISREG(st.st_mode)) {
        rc = lorica_fail(err, LORICA_EINVAL, "%s is not a file", path);
    } else {
        curl_mimepart *part = curl_mime_addpart(mime);
        if (!part || curl_mime_name(part, part_name) != CURLE_OK ||
            curl_mime_type(part, type) != CURLE_OK || curl_mime_filedata(part, path) != CURLE_OK)
            rc = lorica_fail(err, LORICA_ENOMEM, "%s cannot be prepared for sending", path);
    }
    free(path);
    return rc;
}

static int add_text(curl_mime *mime, const char *part_name, const char *text,
                    struct lorica_error *err) {
    if (!text)
        return 0;
    curl_mimepart *part = curl_mime_addpart(mime);
    if (!part || curl_mime_name(part, part_name) != CURLE_OK ||
        curl_mime_data(part, text, CURL_ZERO_TERMINATED) != CURLE_OK)
        return lorica_fail(err, LORICA_ENOMEM, "out of memory");
    return 0;
}

/* Digest of the weights in a file. */
static int file_digest(const char *dir, struct lorica_digest *ret, struct lorica_error *err) {
    char *path = lorica_path_join(dir, weights_name), piece[65536];
    FILE *file = path ? fopen(path, "re") : NULL;
    void *stream = file ? lorica_sha256_hasher.create() : NULL;
    int rc = 0;
    if (!path || (file && !stream))
        rc = lorica_fail(err, LORICA_ENOMEM, "out of memory");
    else if (!file)
        rc = lorica_fail_errno(err, path, "cannot be read");
    for (size_t n; rc == 0 && (n = fread(piece, 1, sizeof(piece), file)) > 0;)
        rc = lorica_sha256_hasher.update(stream, piece, n);
    if (rc == 0 && ferror(file))
        rc = lorica_fail_errno(err, path, "cannot be read");
    if (stream && lorica_sha256_hasher.finish(stream, rc == 0 ? ret : NULL) != 0 && rc == 0)
        rc = lorica_fail(err, LORICA_EBUG, "%s: the digest cannot be computed", path);
    if (file)
        (void)fclose(file);
    free(path);
    return rc;
}

static int fill_form(curl_mime *mime, const char *dir, const struct lorica_client_words *words,
                     struct lorica_error *err) {
    struct lorica_digest digest;
    char text[LORICA_DIGEST_TEXT];
    int rc = add_text(mime, "channel", words->channel, err);
    if (rc == 0)
        rc = add_text(mime, "message", words->message, err);
    if (rc == 0)
        rc = add_text(mime, "trained_on_other_base", words->other_base ? "true" : NULL, err);
    if (rc == 0)
        rc = add_text(mime, "signature", words->signature, err);
    if (rc == 0)
        rc = add_file(mime, "config", "application/json", dir, config_name, true, err);
    if (rc == 0)
        rc = add_file(mime, "manifest", "application/json", dir, "manifest.json", false, err);
    if (rc == 0)
        rc = add_file(mime, "weights", "application/octet-stream", dir, weights_name, true, err);
    if (rc == 0)
        rc = file_digest(dir, &digest, err);
    return rc == 0 ? add_text(mime, "weights_digest", lorica_digest_format(&digest, text), err)
                   : rc;
}

int lorica_client_publish(struct lorica_client *client, const char *name, const char *dir,
                          const struct lorica_client_words *words, struct lorica_json **ret,
                          bool *ret_existing, struct lorica_error *err) {
    if (!lorica_name_valid(name))
        return lorica_fail(err, LORICA_EINVAL,
                           "\"%.150s\" is no adapter name: lower-case letters, digits, \".\", "
                           "\"_\" and \"-\", up to %d, not \"base\"",
                           name, LORICA_NAME_MAX);
    char path[PATH_MAX_BYTES];
    struct lorica_client_sink sink = {0};
    struct lorica_client_request request = {.path = path};
    struct lorica_json *version = NULL;
    curl_mime *mime = curl_mime_init(client->curl);
    if (!mime)
        return lorica_fail(err, LORICA_ENOMEM, "out of memory");
    (void)snprintf(path, sizeof(path), "/v1/adapters/%s/versions", name);
    int rc = fill_form(mime, dir, words, err);
    if (rc == 0)
        rc = lorica_client_perform(client, &request, mime, &sink, err);
    curl_mime_free(mime);
    if (rc == 0)
        rc = lorica_client_take_json(client, &sink, &version, err);
    if (rc != 0)
        return rc;
    *ret = version;
    *ret_existing = sink.status == 200;
    return 0;
}

/* Resolving. */

struct reference {
    char name[LORICA_NAME_MAX + 1];
    char channel[LORICA_CHANNEL_MAX + 1]; /* "" where a version is given */
    long long version;
};

static int parse_reference(const char *text, struct reference *ret, struct lorica_error *err) {
    const size_t len = strcspn(text, "@:");
    struct reference ref = {.channel = LORICA_CHANNEL_STABLE};
    bool valid = len < sizeof(ref.name);
    if (valid) {
        memcpy(ref.name, text, len);
        valid = lorica_name_valid(ref.name);
    }
    if (valid && text[len] == ':') {
        valid = lorica_channel_valid(text + len + 1);
        if (valid)
            (void)snprintf(ref.channel, sizeof(ref.channel), "%s", text + len + 1);
    } else if (valid && text[len] == '@') {
        char *end = NULL;
        errno = 0;
        ref.version = strtoll(text + len + 1, &end, 10);
        ref.channel[0] = '\0';
        valid = text[len + 1] >= '1' && text[len + 1] <= '9' && *end == '\0' && errno == 0;
    }
    if (!valid)
        return lorica_fail(err, LORICA_EINVAL,
                           "\"%.200s\" is neither NAME nor NAME@VERSION nor NAME:CHANNEL", text);
    *ret = ref;
    return 0;
}

static int call(struct lorica_client *client, const char *path, struct lorica_json **ret,
                struct lorica_error *err) {
    const struct lorica_client_request request = {.path = path};
    int rc = lorica_client_call(client, &request, NULL, ret, err);
    if (rc == 0 && !*ret)
        rc = lorica_fail(err, LORICA_EFORMAT, "%s answered without a body to %s", client->server,
                         path);
    return rc;
}

/* Finds where the reference's channel points to. */
static int find_channel(struct lorica_client *client, struct reference *ref,
                        struct lorica_error *err) {
    char path[PATH_MAX_BYTES];
    struct lorica_json *list = NULL;
    int64_t version = 0;
    (void)snprintf(path, sizeof(path), "/v1/adapters/%s/channels", ref->name);
    const int rc = call(client, path, &list, err);
    if (rc != 0)
        return rc;
    const struct lorica_json *item = lorica_json_first(lorica_json_get(list, "data"));
    for (; item && version == 0; item = lorica_json_next(item)) {
        const char *channel = lorica_json_string(lorica_json_get(item, "channel"));
        if (!channel || strcmp(channel, ref->channel) != 0 ||
            lorica_json_integer(lorica_json_get(item, "version"), 0, INT64_MAX, &version) != 0)
            version = 0;
    }
    lorica_json_destroy(list);
    if (version == 0)
        return lorica_fail(err, LORICA_ENOTFOUND,
                           "channel \"%s\" of %s points to no version yet; name one (%s@1), or "
                           "promote one first",
                           ref->channel, ref->name, ref->name);
    ref->version = version;
    return 0;
}

int lorica_client_resolve(struct lorica_client *client, const char *reference,
                          struct lorica_json **ret, struct lorica_error *err) {
    struct reference ref;
    char path[PATH_MAX_BYTES];
    int rc = parse_reference(reference, &ref, err);
    if (rc == 0 && ref.channel[0])
        rc = find_channel(client, &ref, err);
    if (rc != 0)
        return rc;
    (void)snprintf(path, sizeof(path), "/v1/adapters/%s/versions/%lld", ref.name, ref.version);
    return call(client, path, ret, err);
}

/* Downloading. */

struct any_download {
    lorica_client_write_fn fn;
    void *arg;
};

static int any_write(void *arg, const char *bytes, size_t len, struct lorica_error *err) {
    const struct any_download *download = arg;
    return download->fn(download->arg, bytes, len, err);
}

int lorica_client_download(struct lorica_client *client, const char *path,
                           lorica_client_write_fn fn, void *arg, struct lorica_error *err) {
    struct any_download download = {fn, arg};
    struct lorica_client_sink sink = {.write = any_write, .arg = &download};
    const struct lorica_client_request request = {.path = path};
    const int rc = lorica_client_perform(client, &request, NULL, &sink, err);
    if (rc == 0)
        lorica_buf_finish(&sink.body);
    return rc;
}

struct download {
    FILE *file;
    void *hash;
    const char *path;
};

static int download_write(void *arg, const char *bytes, size_t len, struct lorica_error *err) {
    struct download *download = arg;
    const int rc = lorica_sha256_hasher.update(download->hash, bytes, len);
    if (rc != 0)
        return lorica_fail(err, rc, "%s: the digest cannot be computed", download->path);
    if (fwrite(bytes, 1, len, download->file) != len)
        return lorica_fail_errno(err, download->path, "cannot be written");
    return 0;
}

/* Opens a file that must not be there yet. */
static FILE *create_new(const char *path) {
    const int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    FILE *file = fd < 0 ? NULL : fdopen(fd, "w");
    if (!file && fd >= 0)
        (void)close(fd);
    return file;
}

/* Downloads one file of a version to `path` and compares its digest. */
static int download_file(struct lorica_client *client, const char *url_path, const char *path,
                         const struct lorica_digest *expected, struct lorica_error *err) {
    struct download download = {.path = path, .file = create_new(path)};
    struct lorica_client_sink sink = {.write = download_write, .arg = &download};
    const struct lorica_client_request request = {.path = url_path};
    struct lorica_digest digest = {{0}};
    if (!download.file)
        return lorica_fail_errno(err, path, "cannot be made");
    download.hash = lorica_sha256_hasher.create();
    int rc = download.hash ? lorica_client_perform(client, &request, NULL, &sink, err)
                           : lorica_fail(err, LORICA_ENOMEM, "out of memory");
    if (rc == 0)
        lorica_buf_finish(&sink.body);
    if (download.hash) {
        const int hashed = lorica_sha256_hasher.finish(download.hash, &digest);
        if (rc == 0 && hashed != 0)
            rc = lorica_fail(err, hashed, "%s: the digest cannot be computed", path);
    }
    if (rc == 0 && !lorica_digest_equal(&digest, expected))
        rc =
            lorica_fail(err, LORICA_EFORMAT,
                        "%s: what came from %s does not have the digest of this version; try again",
                        path, client->server);
    const bool flushed = fflush(download.file) == 0 && fsync(fileno(download.file)) == 0;
    if (rc == 0 && !flushed)
        rc = lorica_fail_errno(err, path, "cannot be written");
    if (fclose(download.file) != 0 && rc == 0)
        rc = lorica_fail_errno(err, path, "cannot be written");
    if (rc != 0)
        (void)unlink(path);
    return rc;
}

static int version_digest(const struct lorica_json *version, const char *field,
                          struct lorica_digest *ret, struct lorica_error *err) {
    const char *text = lorica_json_string(lorica_json_get(version, field));
    if (!text || lorica_digest_parse(text, strlen(text), ret) != 0)
        return lorica_fail(err, LORICA_EFORMAT, "the server's version object has no %s", field);
    return 0;
}

int lorica_client_export(struct lorica_client *client, const struct lorica_json *version,
                         const char *dir, struct lorica_error *err) {
    struct lorica_digest config_digest, weights_digest;
    char url[PATH_MAX_BYTES];
    int64_t number = 0;
    const char *name = lorica_json_string(lorica_json_get(version, "name"));
    if (!name || !lorica_name_valid(name) ||
        lorica_json_integer(lorica_json_get(version, "version"), 1, INT64_MAX, &number) != 0)
        return lorica_fail(err, LORICA_EFORMAT,
                           "the server's version object has no name or number");
    int rc = version_digest(version, "config_digest", &config_digest, err);
    if (rc == 0)
        rc = version_digest(version, "weights_digest", &weights_digest, err);
    if (rc == 0)
        rc = lorica_dirs_make(dir, 0777, err);
    if (rc != 0)
        return rc;
    char *config = lorica_path_join(dir, config_name),
         *weights = lorica_path_join(dir, weights_name);
    if (!config || !weights)
        rc = lorica_fail(err, LORICA_ENOMEM, "out of memory");
    else if (lorica_path_exists(config) || lorica_path_exists(weights))
        rc = lorica_fail(err, LORICA_ECONFLICT,
                         "%s holds an adapter already; name another directory", dir);
    if (rc == 0) {
        (void)snprintf(url, sizeof(url), "/v1/adapters/%s/versions/%lld/%s", name,
                       (long long)number, config_name);
        rc = download_file(client, url, config, &config_digest, err);
    }
    if (rc == 0) {
        (void)snprintf(url, sizeof(url), "/v1/adapters/%s/versions/%lld/%s", name,
                       (long long)number, weights_name);
        rc = download_file(client, url, weights, &weights_digest, err);
        if (rc != 0)
            (void)unlink(config);
    }
    free(config);
    free(weights);
    return rc;
}

/* Streams. */

struct stream {
    struct lorica_client *client;
    lorica_client_data_fn fn;
    void *arg;
    struct lorica_buf line;
    bool done;
    char *answered;
    size_t answered_size;
};

/* The value of a header line if it has this name (lower case), else NULL; *len without the end. */
static const char *header_value(const char *line, size_t size, const char *name, size_t *len) {
    const size_t n = strlen(name);
    if (size <= n || strncasecmp(line, name, n) != 0 || line[n] != ':')
        return NULL;
    size_t from = n + 1, to = size;
    while (from < to && (line[from] == ' ' || line[from] == '\t'))
        from++;
    while (to > from && (line[to - 1] == '\r' || line[to - 1] == '\n' || line[to - 1] == ' '))
        to--;
    *len = to - from;
    return line + from;
}

static size_t stream_on_header(char *bytes, size_t size, size_t count, void *arg) {
    struct stream *stream = arg;
    size_t len = 0;
    const char *value = header_value(bytes, size * count, "lorica-adapter", &len);
    if (value && stream->answered && len < stream->answered_size) {
        memcpy(stream->answered, value, len);
        stream->answered[len] = '\0';
    }
    return size * count;
}

static int stream_data(struct stream *stream, const char *data, size_t len,
                       struct lorica_error *err) {
    struct lorica_json *json = NULL;
    if (len == 6 && memcmp(data, "[DONE]", 6) == 0) {
        stream->done = true;
        return 0;
    }
    int rc = lorica_json_parse(data, len, &json, err);
    if (rc != 0)
        return lorica_fail_prefix(err, "an event from %s", stream->client->server);
    const char *message =
        lorica_json_string(lorica_json_get(lorica_json_get(json, "error"), "message"));
    if (message)
        rc = lorica_fail(err, LORICA_EIO, "%s", message);
    lorica_json_destroy(json);
    if (rc == 0)
        rc = stream->fn(stream->arg, data, len);
    if (rc != 0 && !message)
        (void)lorica_fail(err, rc, "the stream was ended: %s", lorica_err_text(rc));
    return rc;
}

/* Takes the lines that are whole; comments and fields other than data mean nothing here. */
static int stream_write(void *arg, const char *bytes, size_t len, struct lorica_error *err) {
    struct stream *stream = arg;
    int rc = lorica_buf_append(&stream->line, bytes, len);
    if (rc != 0)
        return lorica_fail(err, rc, "a line of the stream from %s is too long",
                           stream->client->server);
    size_t from = 0;
    const char *end;
    while (rc == 0 && from < stream->line.len &&
           (end = memchr(stream->line.data + from, '\n', stream->line.len - from))) {
        const char *line = stream->line.data + from;
        size_t n = (size_t)(end - line);
        from += n + 1;
        if (n > 0 && line[n - 1] == '\r')
            n--;
        if (n < 5 || memcmp(line, "data:", 5) != 0)
            continue;
        const size_t skip = n > 5 && line[5] == ' ' ? 6 : 5;
        rc = stream_data(stream, line + skip, n - skip, err);
    }
    lorica_buf_consume(&stream->line, from);
    return rc;
}

int lorica_client_stream(struct lorica_client *client, const struct lorica_client_request *request,
                         lorica_client_data_fn fn, void *arg, char *answered, size_t answered_size,
                         struct lorica_error *err) {
    struct stream stream = {.client = client,
                            .fn = fn,
                            .arg = arg,
                            .answered = answered,
                            .answered_size = answered_size};
    struct lorica_client_sink sink = {
        .write = stream_write, .header = stream_on_header, .arg = &stream};
    if (answered && answered_size > 0)
        answered[0] = '\0';
    lorica_buf_init(&stream.line, LINE_MAX_BYTES);
    int rc = lorica_client_perform(client, request, NULL, &sink, err);
    if (rc == 0) {
        lorica_buf_finish(&sink.body);
        if (!stream.done)
            rc = lorica_fail(err, LORICA_EIO, "%s ended its answer before it was whole",
                             client->server);
    }
    lorica_buf_finish(&stream.line);
    return rc;
}
