/* SPDX-License-Identifier: MIT */
#include "gateway/server/upload.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "gateway/files.h"
#include "gateway/cmd/model_dir.h"
#include "gateway/server/server.h"
#include "registry/digest.h"

struct lorica_upload {
    const struct lorica_upload_form *form;
    struct lorica_multipart reader;
    struct lorica_buf texts[LORICA_UPLOAD_PARTS]; /* by the form's parts; the file's is empty */
    bool seen[LORICA_UPLOAD_PARTS];
    int part;             /* being read */
    const char *at_fault; /* name of the part that was refused; NULL: none */
    char unknown[LORICA_MULTIPART_MAX_NAME + 1];
    char filename[LORICA_MULTIPART_MAX_FILENAME + 1];
    char *path;
    int fd;
    uint64_t nbytes; /* of the file */
    void *stream;    /* hash of the file as it comes; NULL once it is done */
    void *sealing;   /* likewise */
    struct lorica_digest digest;
    struct lorica_seal seal;
    bool sealed;
};

/* Index of a part, or -1. */
static int find_part(const struct lorica_upload_form *form, const char *name) {
    for (int i = 0; i < LORICA_UPLOAD_PARTS && form->parts[i].name; i++)
        if (strcmp(form->parts[i].name, name) == 0)
            return i;
    return -1;
}

/* "a, b and c" of the form's parts: all, or those that are required. */
static void list_parts(const struct lorica_upload_form *form, bool required, char *out,
                       size_t size) {
    const char *names[LORICA_UPLOAD_PARTS];
    size_t count = 0, used = 0;
    for (int i = 0; i < LORICA_UPLOAD_PARTS && form->parts[i].name; i++)
        if (form->parts[i].required || !required)
            names[count++] = form->parts[i].name;
    out[0] = '\0';
    for (size_t i = 0; i < count && used < size; i++)
        used += (size_t)snprintf(out + used, size - used, "%s%s",
                                 i == 0           ? ""
                                 : i + 1 == count ? " and "
                                                  : ", ",
                                 names[i]);
}

static int on_part(void *user, const char *name, const char *filename, struct lorica_error *err) {
    struct lorica_upload *upload = user;
    const int part = find_part(upload->form, name);
    if (part < 0) {
        char known[256];
        list_parts(upload->form, false, known, sizeof(known));
        (void)snprintf(upload->unknown, sizeof(upload->unknown), "%s", name);
        upload->at_fault = upload->unknown;
        return lorica_fail(err, LORICA_EINVAL, "the part \"%.100s\" is not known; there are %s",
                           name, known);
    }
    upload->part = part;
    if (upload->seen[part]) {
        upload->at_fault = upload->form->parts[part].name;
        return lorica_fail(err, LORICA_EINVAL, "the part \"%s\" stands there twice", name);
    }
    upload->seen[part] = true;
    if (upload->form->parts[part].file && filename)
        (void)snprintf(upload->filename, sizeof(upload->filename), "%s", filename);
    return 0;
}

static int write_file(struct lorica_upload *upload, const char *bytes, size_t len,
                      struct lorica_error *err) {
    if (lorica_sha256_hasher.update(upload->stream, bytes, len) != 0 ||
        lorica_seal_update(upload->sealing, bytes, len) != 0)
        return lorica_fail(err, LORICA_EBUG, "the upload could not be hashed");
    upload->nbytes += len;
    while (len > 0) {
        const ssize_t n = write(upload->fd, bytes, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return lorica_fail(err, errno == ENOSPC || errno == EDQUOT ? LORICA_ENOSPC : LORICA_EIO,
                               "the upload could not be stored, and nothing of it is kept: %s",
                               strerror(errno));
        bytes += n;
        len -= (size_t)n;
    }
    return 0;
}

static int on_data(void *user, const void *bytes, size_t len, struct lorica_error *err) {
    struct lorica_upload *upload = user;
    const struct lorica_upload_part *part = &upload->form->parts[upload->part];
    if (part->file)
        return write_file(upload, bytes, len, err);
    const int rc = lorica_buf_append(&upload->texts[upload->part], bytes, len);
    if (rc == LORICA_ELIMIT) {
        upload->at_fault = part->name;
        return lorica_fail(err, rc, "the part \"%s\" is longer than %zu bytes", part->name,
                           part->max);
    }
    return rc == 0 ? 0 : lorica_fail(err, rc, "out of memory");
}

static int on_part_end(void *user, struct lorica_error *err) {
    struct lorica_upload *upload = user;
    const struct lorica_buf *text = &upload->texts[upload->part]; /* empty: of the file */
    if (text->len == 0 || !memchr(text->data, '\0', text->len))
        return 0;
    upload->at_fault = upload->form->parts[upload->part].name;
    return lorica_fail(err, LORICA_EFORMAT, "the part \"%s\" holds a NUL byte", upload->at_fault);
}

uint64_t lorica_upload_limit(const struct lorica_request *request) {
    const char *config = (const char *)request->server->parts.config;
    const size_t field = request->match.route->form->limit_mb;
    return (uint64_t) * (const long long *)(const void *)(config + field) << 20;
}

int lorica_upload_create(struct lorica_request *request) {
    struct lorica_upload *upload = calloc(1, sizeof(*upload));
    struct lorica_error err = {0};
    if (!upload)
        return lorica_request_fail(request, LORICA_ENOMEM, NULL, NULL, "out of memory");
    upload->fd = -1;
    upload->form = request->match.route->form;
    for (int i = 0; i < LORICA_UPLOAD_PARTS; i++)
        lorica_buf_init(&upload->texts[i], upload->form->parts[i].max);
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
    if (lorica_seal_draw(&upload->seal) == 0)
        upload->sealing = lorica_seal_create(&upload->seal);
    if (!upload->stream || !upload->sealing)
        return lorica_request_fail(request, LORICA_ENOMEM, NULL, NULL, "out of memory");
    if (asprintf(&upload->path, "%s/upload-%zu", request->server->parts.spool_dir,
                 ++request->server->upload_serial) < 0) {
        upload->path = NULL;
        return lorica_request_fail(request, LORICA_ENOMEM, NULL, NULL, "out of memory");
    }
    return 0;
}

int lorica_upload_create_own(struct lorica_request *request, const char *path) {
    struct lorica_upload *upload = calloc(1, sizeof(*upload));
    struct lorica_error err = {0};
    char *copy = strdup(path);
    if (!upload || !copy) {
        free(upload);
        free(copy);
        return lorica_request_fail(request, LORICA_ENOMEM, NULL, NULL, "out of memory");
    }
    upload->form = request->match.route->form;
    for (int i = 0; i < LORICA_UPLOAD_PARTS; i++)
        lorica_buf_init(&upload->texts[i], upload->form->parts[i].max);
    upload->path = copy;
    upload->fd = -1; /* nothing that destroy would remove */
    request->upload = upload;
    const int rc = lorica_file_digest(path, &upload->digest, &err);
    return rc == 0 ? 0 : lorica_request_fail(request, rc, NULL, NULL, "%s", err.text);
}

int lorica_upload_put(struct lorica_request *request, const char *name, const char *text,
                      size_t len) {
    struct lorica_upload *upload = request->upload;
    const int part = find_part(upload->form, name);
    const int rc = part < 0 ? LORICA_EBUG : lorica_buf_append(&upload->texts[part], text, len);
    if (rc != 0)
        return lorica_request_fail(request, rc, name, NULL, "%s: %s", name, lorica_err_text(rc));
    upload->seen[part] = true;
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
    void *stream = upload->stream, *sealing = upload->sealing;
    upload->stream = upload->sealing = NULL;
    upload->sealed = lorica_seal_finish(sealing, &upload->seal) == 0;
    if (lorica_sha256_hasher.finish(stream, &upload->digest) != 0)
        return lorica_fail(err, LORICA_EBUG, "the upload could not be hashed");
    upload->fd = -2; /* made, and closed */
    if (fd >= 0 && close(fd) != 0)
        return lorica_fail_errno(err, upload->path, "cannot be written");
    return 0;
}

static int check_complete(const struct lorica_upload *upload, const char **ret_param,
                          struct lorica_error *err) {
    const struct lorica_upload_form *form = upload->form;
    for (int i = 0; i < LORICA_UPLOAD_PARTS && form->parts[i].name; i++) {
        char needed[256];
        if (upload->seen[i] || !form->parts[i].required)
            continue;
        list_parts(form, true, needed, sizeof(needed));
        *ret_param = form->parts[i].name;
        return lorica_fail(err, LORICA_EINVAL, "the part \"%s\" is missing; %s are required%s%s",
                           form->parts[i].name, needed, form->note ? ": " : "",
                           form->note ? form->note : "");
    }
    return 0;
}

int lorica_upload_feed(struct lorica_upload *upload, const struct lorica_buf *bytes, bool last,
                       const char **ret_param, struct lorica_error *err) {
    int rc = open_file(upload, err);
    if (rc == 0)
        rc =
            lorica_multipart_feed(&upload->reader, bytes->data ? bytes->data : "", bytes->len, err);
    if (rc == 0 && last)
        rc = lorica_multipart_end(&upload->reader, err);
    if (rc == 0 && last)
        rc = close_file(upload, err);
    if (rc != 0)
        *ret_param = upload->at_fault;
    return rc == 0 && last ? check_complete(upload, ret_param, err) : rc;
}

static void on_unlinked(uv_fs_t *req) {
    uv_fs_req_cleanup(req);
    free(req);
}

/* Freeing a large file's pages takes milliseconds: not the loop's. */
static void remove_file(const char *path, uv_loop_t *loop) {
    uv_fs_t *req = malloc(sizeof(*req));
    if (req && uv_fs_unlink(loop, req, path, on_unlinked) == 0)
        return;
    free(req);
    (void)unlink(path);
}

void lorica_upload_destroy(struct lorica_upload *upload, uv_loop_t *loop) {
    if (!upload)
        return;
    if (upload->stream)
        (void)lorica_sha256_hasher.finish(upload->stream, NULL);
    if (upload->sealing)
        (void)!lorica_seal_finish(upload->sealing, NULL);
    if (upload->fd >= 0)
        (void)close(upload->fd);
    if (upload->fd != -1)
        remove_file(upload->path, loop);
    for (int i = 0; i < LORICA_UPLOAD_PARTS; i++)
        lorica_buf_finish(&upload->texts[i]);
    free(upload->path);
    free(upload);
}

const char *lorica_upload_text(const struct lorica_upload *upload, const char *name,
                               size_t *ret_len) {
    const int part = find_part(upload->form, name);
    if (part < 0 || upload->form->parts[part].file || !upload->seen[part])
        return NULL;
    *ret_len = upload->texts[part].len;
    return upload->texts[part].data ? upload->texts[part].data : "";
}

const char *lorica_upload_file(const struct lorica_upload *upload) { return upload->path; }

const char *lorica_upload_filename(const struct lorica_upload *upload) { return upload->filename; }

uint64_t lorica_upload_nbytes(const struct lorica_upload *upload) { return upload->nbytes; }

const struct lorica_digest *lorica_upload_digest(const struct lorica_upload *upload) {
    return &upload->digest;
}

const struct lorica_seal *lorica_upload_seal(const struct lorica_upload *upload) {
    return upload->sealed ? &upload->seal : NULL;
}
