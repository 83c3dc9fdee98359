/* SPDX-License-Identifier: MIT
 * What a backup is made of: a snapshot of all records, and content by its digest. Both go out as
 * slowly as the client takes them without holding a read transaction: the snapshot is first
 * written to a file of the spool that has no name, content is read piece by piece. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "gateway/files.h"
#include "gateway/handlers/handlers.h"
#include "gateway/server/server.h"
#include "registry/backup.h"
#include "registry/digest.h"

#define SNAPSHOTS_MAX 2 /* that are read at once: each takes disk */

/* All of the registry, the keys' pepper included: not for a key that is held to some adapters. */
static int whole_key(struct lorica_request *request) {
    if (request->key.glob_count == 0)
        return 0;
    return lorica_request_fail(request, LORICA_EPERM, NULL, "adapter_not_allowed",
                               "the key \"%s\" is held to some adapters and may not back up all",
                               request->key.name);
}

struct snapshot {
    struct lorica_body_source source;
    struct lorica_server *server;
    int fd;
};

static struct snapshot *snapshot_of(struct lorica_body_source *source) {
    return (struct snapshot *)(void *)((char *)source - offsetof(struct snapshot, source));
}

static int snapshot_read(struct lorica_body_source *source, uint64_t offset, void *out, size_t len,
                         struct lorica_error *err) {
    return lorica_file_read_at(snapshot_of(source)->fd, offset, out, len, "a snapshot", err);
}

static void snapshot_close(struct lorica_body_source *source) {
    struct snapshot *snapshot = snapshot_of(source);
    if (snapshot->fd >= 0)
        (void)close(snapshot->fd);
    snapshot->server->snapshots--;
    free(snapshot);
}

static int snapshot_write(void *arg, const void *bytes, size_t len, struct lorica_error *err) {
    struct snapshot *snapshot = arg;
    const char *at = bytes;
    snapshot->source.nbytes += len;
    while (len > 0) {
        const ssize_t n = write(snapshot->fd, at, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return lorica_fail(err, errno == ENOSPC || errno == EDQUOT ? LORICA_ENOSPC : LORICA_EIO,
                               "a snapshot could not be written to the spool: %s", strerror(errno));
        at += n;
        len -= (size_t)n;
    }
    return 0;
}

/* A file that has lost its name: it goes when it is closed, however that comes. */
static int open_nameless(const char *dir, int *ret_fd, struct lorica_error *err) {
    char *path = NULL;
    if (asprintf(&path, "%s/upload-snapshot-XXXXXX", dir) < 0)
        return lorica_fail(err, LORICA_ENOMEM, "out of memory");
    const int fd = mkostemp(path, O_CLOEXEC);
    const int rc = fd < 0 ? lorica_fail_errno(err, path, "cannot be made") : 0;
    if (fd >= 0)
        (void)unlink(path);
    free(path);
    if (rc == 0)
        *ret_fd = fd;
    return rc;
}

int lorica_handle_backup_snapshot(struct lorica_request *request) {
    struct lorica_server *server = request->server;
    struct lorica_error err = {0};
    int rc = whole_key(request);
    if (rc != 0)
        return rc;
    struct snapshot *snapshot = calloc(1, sizeof(*snapshot));
    if (!snapshot)
        return lorica_request_fail(request, LORICA_ENOMEM, NULL, NULL, "out of memory");
    *snapshot = (struct snapshot){
        .source = {.read = snapshot_read, .close = snapshot_close}, .server = server, .fd = -1};
    if (++server->snapshots > SNAPSHOTS_MAX) {
        snapshot_close(&snapshot->source);
        return lorica_request_fail(request, LORICA_EBUSY, NULL, "server_busy",
                                   "%d backups are being begun already; try again", SNAPSHOTS_MAX);
    }
    rc = open_nameless(server->parts.spool_dir, &snapshot->fd, &err);
    if (rc == 0)
        rc = lorica_backup_snapshot(server->parts.registry, snapshot_write, snapshot, &err);
    if (rc != 0) {
        snapshot_close(&snapshot->source);
        return lorica_request_fail(request, rc, NULL, NULL, "%s", err.text);
    }
    request->response.status = 200;
    request->response.content_type = "application/octet-stream";
    request->response.source = &snapshot->source;
    return 0;
}

/* Content of the registry as a body. */
struct content {
    struct lorica_body_source source;
    struct lorica_registry *registry;
    struct lorica_digest digest;
    void *stream; /* hash of what goes out; NULL: none, or done */
};

static struct content *content_of(struct lorica_body_source *source) {
    return (struct content *)(void *)((char *)source - offsetof(struct content, source));
}

static int content_end(struct content *content, struct lorica_error *err) {
    struct lorica_digest found;
    void *stream = content->stream;
    content->stream = NULL;
    if (lorica_sha256_hasher.finish(stream, &found) != 0)
        return lorica_fail(err, LORICA_EBUG, "content cannot be hashed");
    return lorica_digest_equal(&found, &content->digest)
               ? 0
               : lorica_fail(err, LORICA_EFORMAT, "content does not have its digest");
}

static int content_read(struct lorica_body_source *source, uint64_t offset, void *out, size_t len,
                        struct lorica_error *err) {
    struct content *content = content_of(source);
    const int rc = lorica_backup_content_at(content->registry, &content->digest, source->nbytes,
                                            offset, out, len, err);
    if (rc != 0)
        return rc;
    if (!content->stream)
        return 0;
    if (lorica_sha256_hasher.update(content->stream, out, len) != 0)
        return lorica_fail(err, LORICA_EBUG, "content cannot be hashed");
    return offset + len == source->nbytes ? content_end(content, err) : 0;
}

static void content_close(struct lorica_body_source *source) {
    struct content *content = content_of(source);
    if (content->stream)
        (void)lorica_sha256_hasher.finish(content->stream, NULL);
    free(content);
}

int lorica_handler_content(struct lorica_request *request, const struct lorica_digest *digest,
                           bool checked) {
    struct lorica_registry *registry = request->server->parts.registry;
    struct lorica_error err = {0};
    uint64_t nbytes = 0;
    const int rc = lorica_backup_content_size(registry, digest, &nbytes, &err);
    if (rc != 0)
        return rc == LORICA_EFORMAT
                   ? lorica_request_fail_status(request, 500, "registry_damaged", "%s", err.text)
                   : lorica_request_fail(request, rc, NULL, NULL, "%s", err.text);
    struct content *content = calloc(1, sizeof(*content));
    void *stream = content && checked ? lorica_sha256_hasher.create() : NULL;
    if (!content || (checked && !stream)) {
        free(content);
        return lorica_request_fail(request, LORICA_ENOMEM, NULL, NULL, "out of memory");
    }
    *content =
        (struct content){.source = {.nbytes = nbytes, .read = content_read, .close = content_close},
                         .registry = registry,
                         .digest = *digest,
                         .stream = stream};
    request->response.status = 200;
    request->response.content_type = "application/octet-stream";
    request->response.source = &content->source;
    return 0;
}

int lorica_handle_backup_content(struct lorica_request *request) {
    const char *text = request->match.params[0];
    struct lorica_digest digest;
    const int rc = whole_key(request);
    if (rc != 0)
        return rc;
    if (lorica_digest_parse(text, strlen(text), &digest) != 0)
        return lorica_request_fail(request, LORICA_EINVAL, NULL, NULL,
                                   "\"%.80s\" is no digest: sha256: and 64 hex digits", text);
    return lorica_handler_content(request, &digest, false); /* the one who restores compares */
}
