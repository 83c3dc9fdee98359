/* SPDX-License-Identifier: MIT */
#include "gateway/upload.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "gateway/files.h"
#include "gateway/server.h"
#include "proto/multipart.h"
#include "registry/digest.h"
#include "registry/sign.h"

static const char *const part_names[LORICA_UPLOAD_PARTS] = {
    [LORICA_UPLOAD_CONFIG] = "config",
    [LORICA_UPLOAD_MANIFEST] = "manifest",
    [LORICA_UPLOAD_CHANNEL] = "channel",
    [LORICA_UPLOAD_MESSAGE] = "message",
    [LORICA_UPLOAD_SIGNATURE] = "signature",
    [LORICA_UPLOAD_OTHER_BASE] = "trained_on_other_base",
    [LORICA_UPLOAD_WEIGHTS_DIGEST] = "weights_digest",
    [LORICA_UPLOAD_WEIGHTS] = "weights",
};
static const size_t part_limits[LORICA_UPLOAD_TEXT_PARTS] = {
    [LORICA_UPLOAD_CONFIG] = LORICA_UPLOAD_PART_MAX,
    [LORICA_UPLOAD_MANIFEST] = LORICA_UPLOAD_PART_MAX,
    [LORICA_UPLOAD_CHANNEL] = LORICA_CHANNEL_MAX,
    [LORICA_UPLOAD_MESSAGE] = LORICA_MESSAGE_MAX,
    [LORICA_UPLOAD_SIGNATURE] = LORICA_SIGNATURE_BYTES_MAX,
    [LORICA_UPLOAD_OTHER_BASE] = 8,
    [LORICA_UPLOAD_WEIGHTS_DIGEST] = LORICA_DIGEST_TEXT,
};

struct lorica_upload {
    struct lorica_multipart reader;
    struct lorica_buf texts[LORICA_UPLOAD_TEXT_PARTS];
    bool seen[LORICA_UPLOAD_PARTS];
    int part; /* being read */
    char *path;
    int fd;
    void *stream; /* hash of the weights as they come; NULL once it is done */
    struct lorica_digest digest;
};

static int on_part(void *user, const char *name, const char *filename, struct lorica_error *err) {
    struct lorica_upload *upload = user;
    for (int i = 0; i < LORICA_UPLOAD_PARTS; i++) {
        if (strcmp(part_names[i], name) != 0)
            continue;
        if (upload->seen[i])
            return lorica_fail(err, LORICA_EINVAL, "the part \"%s\" stands there twice", name);
        upload->seen[i] = true;
        upload->part = i;
        return 0;
    }
    return lorica_fail(err, LORICA_EINVAL,
                       "the part \"%.100s\" is not known; there are config, weights, manifest, "
                       "channel, message, signature, weights_digest and "
                       "trained_on_other_base",
                       name);
}

static int write_weights(struct lorica_upload *upload, const char *bytes, size_t len,
                         struct lorica_error *err) {
    if (lorica_sha256_hasher.update(upload->stream, bytes, len) != 0)
        return lorica_fail(err, LORICA_EBUG, "the upload could not be hashed");
    while (len > 0) {
        const ssize_t n = write(upload->fd, bytes, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return lorica_fail(err, errno == ENOSPC || errno == EDQUOT ? LORICA_ENOSPC : LORICA_EIO,
                               "the upload could not be stored: %s", strerror(errno));
        bytes += n;
        len -= (size_t)n;
    }
    return 0;
}

static int on_data(void *user, const void *bytes, size_t len, struct lorica_error *err) {
    struct lorica_upload *upload = user;
    if (upload->part == LORICA_UPLOAD_WEIGHTS)
        return write_weights(upload, bytes, len, err);
    const int rc = lorica_buf_append(&upload->texts[upload->part], bytes, len);
    if (rc == LORICA_ELIMIT)
        return lorica_fail(err, rc, "the part \"%s\" is longer than %zu bytes",
                           part_names[upload->part], part_limits[upload->part]);
    return rc == 0 ? 0 : lorica_fail(err, rc, "out of memory");
}

static int on_part_end(void *user, struct lorica_error *err) {
    const struct lorica_upload *upload = user;
    if (upload->part == LORICA_UPLOAD_WEIGHTS)
        return 0;
    const struct lorica_buf *text = &upload->texts[upload->part];
    if (text->len > 0 && memchr(text->data, '\0', text->len))
        return lorica_fail(err, LORICA_EFORMAT, "the part \"%s\" holds a NUL byte",
                           part_names[upload->part]);
    return 0;
}

int lorica_upload_create(struct lorica_request *request) {
    struct lorica_upload *upload = calloc(1, sizeof(*upload));
    struct lorica_error err = {0};
    if (!upload)
        return lorica_request_fail(request, LORICA_ENOMEM, NULL, NULL, "out of memory");
    upload->fd = -1;
    for (int i = 0; i < LORICA_UPLOAD_TEXT_PARTS; i++)
        lorica_buf_init(&upload->texts[i], part_limits[i]);
    const struct lorica_multipart_sink sink = {on_part, on_data, on_part_end, upload};
    const int rc = lorica_multipart_init(
        &upload->reader, request->content_type ? request->content_type : "", &sink, &err);
    if (rc != 0) {
        free(upload);
        if (rc == LORICA_EUNSUPPORTED)
            return lorica_request_fail_status(request, 415, NULL, "%s", err.text);
        return lorica_request_fail(request, rc, NULL, NULL, "%s", err.text);
    }
    request->upload = upload;
    upload->stream = lorica_sha256_hasher.create();
    if (!upload->stream)
        return lorica_request_fail(request, LORICA_ENOMEM, NULL, NULL, "out of memory");
    if (asprintf(&upload->path, "%s/upload-%zu", request->server->parts.spool_dir,
                 ++request->server->upload_serial) < 0) {
        upload->path = NULL;
        return lorica_request_fail(request, LORICA_ENOMEM, NULL, NULL, "out of memory");
    }
    return 0;
}

static int open_file(struct lorica_upload *upload, struct lorica_error *err) {
    if (upload->fd >= 0)
        return 0;
    upload->fd = open(upload->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    return upload->fd >= 0 ? 0 : lorica_fail_errno(err, upload->path, "cannot be made");
}

static int close_file(struct lorica_upload *upload, struct lorica_error *err) {
    const int fd = upload->fd;
    void *stream = upload->stream;
    upload->stream = NULL;
    if (lorica_sha256_hasher.finish(stream, &upload->digest) != 0)
        return lorica_fail(err, LORICA_EBUG, "the upload could not be hashed");
    upload->fd = -2; /* made, and closed */
    if (fd >= 0 && close(fd) != 0)
        return lorica_fail_errno(err, upload->path, "cannot be written");
    return 0;
}

int lorica_upload_feed(struct lorica_request *request, bool last) {
    struct lorica_upload *upload = request->upload;
    struct lorica_error err = {0};
    int rc = open_file(upload, &err);
    if (rc == 0)
        rc = lorica_multipart_feed(&upload->reader, request->body.data ? request->body.data : "",
                                   request->body.len, &err);
    if (rc == 0 && last)
        rc = lorica_multipart_end(&upload->reader, &err);
    if (rc == 0 && last)
        rc = close_file(upload, &err);
    if (rc != 0)
        return lorica_request_fail(request, rc, NULL, NULL, "%s", err.text);
    if (last && (!upload->seen[LORICA_UPLOAD_CONFIG] || !upload->seen[LORICA_UPLOAD_WEIGHTS]))
        return lorica_request_fail(
            request, LORICA_EINVAL, upload->seen[LORICA_UPLOAD_CONFIG] ? "weights" : "config", NULL,
            "the parts config (adapter_config.json) and weights (adapter_model.safetensors) are "
            "both required");
    return 0;
}

void lorica_upload_destroy(struct lorica_upload *upload) {
    if (!upload)
        return;
    if (upload->stream)
        (void)lorica_sha256_hasher.finish(upload->stream, NULL);
    if (upload->fd >= 0)
        (void)close(upload->fd);
    if (upload->fd != -1)
        (void)unlink(upload->path);
    for (int i = 0; i < LORICA_UPLOAD_TEXT_PARTS; i++)
        lorica_buf_finish(&upload->texts[i]);
    free(upload->path);
    free(upload);
}

const char *lorica_upload_text(const struct lorica_upload *upload, enum lorica_upload_part part,
                               size_t *ret_len) {
    if (part >= LORICA_UPLOAD_TEXT_PARTS || !upload->seen[part])
        return NULL;
    *ret_len = upload->texts[part].len;
    return upload->texts[part].data ? upload->texts[part].data : "";
}

const char *lorica_upload_weights(const struct lorica_upload *upload) { return upload->path; }

const struct lorica_digest *lorica_upload_digest(const struct lorica_upload *upload) {
    return &upload->digest;
}
