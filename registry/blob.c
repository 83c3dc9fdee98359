/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "registry/digest.h"
#include "registry/internal.h"

/* Disk that must stay free for the store's own pages next to content. */
#define DISK_RESERVE (UINT64_C(8) << 20)

uint32_t lorica_blob_chunks(uint64_t nbytes) {
    return (uint32_t)((nbytes + LORICA_CHUNK_BYTES - 1) / LORICA_CHUNK_BYTES);
}

/* Reads until `len` bytes are there or the file ends. */
static int read_full(const struct lorica_blob_file *file, void *out, size_t len, size_t *ret_len,
                     struct lorica_error *err) {
    size_t done = 0;
    while (done < len) {
        ssize_t n = read(file->fd, (uint8_t *)out + done, len - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return lorica_fail(err, LORICA_EIO, "%s: %s", file->path, strerror(errno));
        if (n == 0)
            break;
        done += (size_t)n;
    }
    *ret_len = done;
    return 0;
}

static int check_length(const struct lorica_blob_file *file, struct lorica_error *err) {
    if (file->nbytes <= LORICA_WEIGHTS_BYTES_MAX)
        return 0;
    return lorica_fail(err, LORICA_ELIMIT, "%s: weights of more than %" PRIu64 " bytes", file->path,
                       LORICA_WEIGHTS_BYTES_MAX);
}

static int hash_file(struct lorica_blob_file *file, struct lorica_error *err) {
    uint8_t *buffer = malloc(LORICA_CHUNK_BYTES);
    void *stream = buffer ? lorica_sha256_hasher.create() : NULL;
    size_t len = 0;
    int rc = 0;
    if (!stream) {
        free(buffer);
        return lorica_fail(err, LORICA_ENOMEM, "%s: out of memory", file->path);
    }
    do {
        rc = read_full(file, buffer, LORICA_CHUNK_BYTES, &len, err);
        file->nbytes += rc ? 0 : len;
        if (!rc)
            rc = check_length(file, err);
        if (!rc && lorica_sha256_hasher.update(stream, buffer, len))
            rc = lorica_fail(err, LORICA_EBUG, "%s: cannot be hashed", file->path);
    } while (!rc && len == LORICA_CHUNK_BYTES);
    if (lorica_sha256_hasher.finish(stream, rc ? NULL : &file->digest) && !rc)
        rc = lorica_fail(err, LORICA_EBUG, "%s: cannot be hashed", file->path);
    free(buffer);
    return rc;
}

int lorica_blob_file_open(const char *path, const struct lorica_digest *known,
                          struct lorica_blob_file *ret, struct lorica_error *err) {
    struct lorica_blob_file file = {.path = path};
    struct stat st;
    file.fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (file.fd < 0)
        return lorica_fail(err, LORICA_EIO, "%s: %s", path, strerror(errno));
    int rc = 0;
    if (fstat(file.fd, &st) != 0 || !S_ISREG(st.st_mode))
        rc = lorica_fail(err, LORICA_EINVAL, "%s: weights must be a plain file", path);
    if (!rc && known) {
        file.digest = *known;
        file.nbytes = (uint64_t)st.st_size;
        rc = check_length(&file, err);
    } else if (!rc) {
        rc = hash_file(&file, err);
    }
    if (rc)
        close(file.fd);
    else
        *ret = file;
    return rc;
}

void lorica_blob_file_close(struct lorica_blob_file *file) { close(file->fd); }

int lorica_blob_size(struct lorica_txn *txn, const struct lorica_digest *digest, uint64_t *ret,
                     struct lorica_error *err) {
    struct lorica_record_key key;
    struct lorica_slice value;
    lorica_record_key_digest(digest, &key);
    int rc = lorica_store_get(txn, LORICA_TABLE_BLOB, lorica_slice_key(&key), &value, err);
    if (rc)
        return rc;
    rc = lorica_record_decode_number(value.data, value.len, ret);
    return rc ? lorica_damaged(err, rc, "the size of content %02x%02x%02x%02x...", digest->bytes[0],
                               digest->bytes[1], digest->bytes[2], digest->bytes[3])
              : 0;
}

static int put_number(struct lorica_txn *txn, enum lorica_table table,
                      const struct lorica_digest *digest, uint64_t number,
                      struct lorica_error *err) {
    struct lorica_record_key key;
    struct lorica_record record;
    lorica_record_key_digest(digest, &key);
    int rc = lorica_record_encode_number(number, &record);
    if (rc)
        return lorica_fail(err, rc, "a number cannot be encoded");
    return lorica_store_put(txn, table, lorica_slice_key(&key), lorica_slice_record(&record), err);
}

static int put_chunk(struct lorica_txn *txn, const struct lorica_digest *digest, uint32_t chunk,
                     const void *bytes, size_t len, struct lorica_error *err) {
    struct lorica_record_key key;
    lorica_record_key_chunk(digest, chunk, &key);
    return lorica_store_put(txn, LORICA_TABLE_CHUNK, lorica_slice_key(&key),
                            (struct lorica_slice){.data = bytes, .len = len}, err);
}

int lorica_blob_put(struct lorica_txn *txn, const void *bytes, size_t len,
                    struct lorica_digest *ret, struct lorica_error *err) {
    struct lorica_digest digest;
    uint64_t there;
    if (lorica_sha256(bytes, len, &digest))
        return lorica_fail(err, LORICA_ENOMEM, "out of memory");
    int rc = lorica_blob_size(txn, &digest, &there, err);
    if (rc == LORICA_ENOTFOUND) {
        rc = put_number(txn, LORICA_TABLE_BLOB, &digest, len, err);
        for (size_t at = 0; !rc && at < len; at += LORICA_CHUNK_BYTES) {
            size_t piece = len - at < LORICA_CHUNK_BYTES ? len - at : LORICA_CHUNK_BYTES;
            rc = put_chunk(txn, &digest, (uint32_t)(at / LORICA_CHUNK_BYTES),
                           (const uint8_t *)bytes + at, piece, err);
        }
    }
    if (!rc)
        *ret = digest;
    return rc;
}

/* Writing a file: a position in it that survives from transaction to transaction, and a second
 * hash or seal, since the file may change between the reading that named it and this one. */
struct file_writer {
    const struct lorica_blob_file *file;
    void *stream; /* of the hash, or of the seal where the file has one */
    uint8_t *buffer;
    uint32_t chunk; /* next */
};

static int writer_begin(struct file_writer *w, const struct lorica_blob_file *file,
                        struct lorica_error *err) {
    *w = (struct file_writer){.file = file};
    if (lseek(file->fd, 0, SEEK_SET) != 0)
        return lorica_fail(err, LORICA_EIO, "%s: %s", file->path, strerror(errno));
    w->buffer = malloc(LORICA_CHUNK_BYTES);
    if (w->buffer)
        w->stream = file->seal ? lorica_seal_create(file->seal) : lorica_sha256_hasher.create();
    if (w->stream)
        return 0;
    free(w->buffer);
    return lorica_fail(err, LORICA_ENOMEM, "%s: out of memory", file->path);
}

static int writer_changed(const struct file_writer *w, struct lorica_error *err) {
    return lorica_fail(err, LORICA_ECONFLICT,
                       "%s: changed while it was read; publish it when it is complete",
                       w->file->path);
}

static int writer_check(struct file_writer *w, size_t len) {
    return w->file->seal ? lorica_seal_update(w->stream, w->buffer, len)
                         : lorica_sha256_hasher.update(w->stream, w->buffer, len);
}

/* Writes at most `limit` pieces. */
static int writer_put(struct file_writer *w, struct lorica_txn *txn, uint32_t limit,
                      struct lorica_error *err) {
    uint32_t total = lorica_blob_chunks(w->file->nbytes);
    for (uint32_t i = 0; i < limit && w->chunk < total; i++, w->chunk++) {
        uint64_t left = w->file->nbytes - (uint64_t)w->chunk * LORICA_CHUNK_BYTES;
        size_t expected = left < LORICA_CHUNK_BYTES ? (size_t)left : LORICA_CHUNK_BYTES, len;
        int rc = read_full(w->file, w->buffer, expected, &len, err);
        if (rc)
            return rc;
        if (len != expected)
            return writer_changed(w, err);
        if (writer_check(w, len))
            return lorica_fail(err, LORICA_EBUG, "%s: cannot be hashed", w->file->path);
        rc = put_chunk(txn, &w->file->digest, w->chunk, w->buffer, len, err);
        if (rc)
            return rc;
    }
    return 0;
}

/* Ends the stream; *ret_same tells whether what it saw is what it should be. */
static int finish_check(struct file_writer *w, bool wanted, bool *ret_same) {
    const struct lorica_seal *first = w->file->seal;
    struct lorica_digest digest = {{0}};
    struct lorica_seal seal = {{0}, {0}};
    const int rc = first ? lorica_seal_finish(w->stream, wanted ? &seal : NULL)
                         : lorica_sha256_hasher.finish(w->stream, wanted ? &digest : NULL);
    *ret_same = first ? lorica_equal_secret(seal.tag, first->tag, sizeof(seal.tag))
                      : lorica_digest_equal(&digest, &w->file->digest);
    return rc;
}

/* Ends the writer; after success so far (`rc` 0) the second hash or seal must equal the first. */
static int writer_end(struct file_writer *w, int rc, struct lorica_error *err) {
    bool same = false;
    if (finish_check(w, rc == 0, &same) && !rc)
        rc = lorica_fail(err, LORICA_EBUG, "%s: cannot be hashed", w->file->path);
    if (!rc && !same)
        rc = writer_changed(w, err);
    free(w->buffer);
    return rc;
}

/* What the file can take without growing. */
static int reusable(struct lorica_store *store, uint64_t *ret, struct lorica_error *err) {
    struct lorica_txn *txn = NULL;
    int rc = lorica_store_begin(store, false, &txn, err);
    if (!rc)
        rc = lorica_store_reusable(txn, ret, err);
    lorica_store_abort(txn);
    return rc;
}

static int check_disk(const struct lorica_registry *registry, uint64_t nbytes,
                      struct lorica_error *err) {
    struct statvfs fs;
    uint64_t in_file = 0;
    if (statvfs(registry->dir, &fs) != 0)
        return lorica_fail(err, LORICA_EIO, "%s: %s", registry->dir, strerror(errno));
    const uint64_t free_bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
    if (free_bytes >= nbytes + DISK_RESERVE)
        return 0;
    const int rc = reusable(registry->store, &in_file, err);
    if (rc || free_bytes + in_file >= nbytes + DISK_RESERVE)
        return rc;
    return lorica_fail(err, LORICA_ENOSPC,
                       "%s: %" PRIu64 " bytes are free, %" PRIu64 " are needed; nothing was "
                       "changed; free some, or delete versions and sweep them, and try again",
                       registry->dir, free_bytes + in_file, nbytes + DISK_RESERVE);
}

/* Removes the first piece of content that is there. */
static int sweep_piece(struct lorica_txn *txn, const struct lorica_digest *digest, bool *ret_found,
                       struct lorica_error *err) {
    struct lorica_cursor *cursor = NULL;
    struct lorica_record_key key;
    struct lorica_slice found, value;
    lorica_record_key_chunk(digest, 0, &key);
    int rc = lorica_store_walk(txn, LORICA_TABLE_CHUNK, &cursor, err);
    if (rc)
        return rc;
    rc = lorica_cursor_seek(cursor, lorica_slice_key(&key), &found, &value, err);
    *ret_found = !rc && found.len == key.len && memcmp(found.data, digest->bytes, 32) == 0;
    if (*ret_found)
        memcpy(key.bytes, found.data, found.len);
    lorica_cursor_close(cursor);
    if (*ret_found)
        return lorica_store_delete(txn, LORICA_TABLE_CHUNK, lorica_slice_key(&key), err);
    return rc == LORICA_ENOTFOUND ? 0 : rc;
}

/* Removes a bounded number of pieces of staged content; when none is left, its mark. The mark goes
 * in a transaction of its own, since the store gives freed pages out again only from the second
 * transaction on: what comes after a sweep finds the room. */
static int sweep_some(struct lorica_txn *txn, const struct lorica_digest *digest, bool *ret_done,
                      struct lorica_error *err) {
    struct lorica_record_key key;
    uint64_t there;
    int rc = lorica_blob_size(txn, digest, &there, err);
    if (rc && rc != LORICA_ENOTFOUND)
        return rc;
    bool found = rc == LORICA_ENOTFOUND; /* else a version has it: only the mark goes */
    uint32_t removed = 0;
    for (rc = 0; !rc && found && removed < 4 * LORICA_BATCH_CHUNKS; removed += found)
        rc = sweep_piece(txn, digest, &found, err);
    if (rc || removed)
        return rc;
    *ret_done = true;
    lorica_record_key_digest(digest, &key);
    rc = lorica_store_delete(txn, LORICA_TABLE_STAGED, lorica_slice_key(&key), err);
    return rc == LORICA_ENOTFOUND ? 0 : rc;
}

static int sweep_once(struct lorica_store *store, const struct lorica_digest *digest,
                      bool *ret_done, struct lorica_error *err) {
    struct lorica_txn *txn = NULL;
    int rc = lorica_store_begin(store, true, &txn, err);
    if (!rc)
        rc = sweep_some(txn, digest, ret_done, err);
    return lorica_store_end(txn, rc, err);
}

static int sweep_digest(struct lorica_store *store, const struct lorica_digest *digest,
                        struct lorica_error *err) {
    bool done = false;
    int rc = 0;
    while (!rc && !done)
        rc = sweep_once(store, digest, &done, err);
    return rc;
}

static int first_staged(struct lorica_store *store, struct lorica_digest *ret,
                        struct lorica_error *err) {
    struct lorica_txn *txn = NULL;
    struct lorica_cursor *cursor = NULL;
    struct lorica_slice key, value;
    int rc = lorica_store_begin(store, false, &txn, err);
    if (!rc)
        rc = lorica_store_walk(txn, LORICA_TABLE_STAGED, &cursor, err);
    if (!rc)
        rc = lorica_cursor_seek(cursor, (struct lorica_slice){0}, &key, &value, err);
    if (!rc && key.len != sizeof(ret->bytes))
        rc = lorica_damaged(err, LORICA_EFORMAT, "the list of unfinished uploads");
    if (!rc)
        memcpy(ret->bytes, key.data, sizeof(ret->bytes));
    lorica_cursor_close(cursor);
    lorica_store_abort(txn);
    return rc;
}

int lorica_blob_sweep_step(struct lorica_store *store, bool *ret_more, struct lorica_error *err) {
    struct lorica_digest digest;
    bool done = false;
    int rc = first_staged(store, &digest, err);
    if (rc && rc != LORICA_ENOTFOUND)
        return rc;
    *ret_more = rc == 0;
    return *ret_more ? sweep_once(store, &digest, &done, err) : 0;
}

int lorica_blob_sweep(struct lorica_store *store, struct lorica_error *err) {
    bool more = true;
    int rc = 0;
    while (!rc && more)
        rc = lorica_blob_sweep_step(store, &more, err);
    return rc;
}

int lorica_blob_remove(struct lorica_txn *txn, const struct lorica_digest *digest, bool *ret_found,
                       struct lorica_error *err) {
    struct lorica_record_key key;
    uint64_t nbytes = 0;
    int rc = lorica_blob_size(txn, digest, &nbytes, err);
    *ret_found = rc == 0;
    if (rc)
        return rc == LORICA_ENOTFOUND ? 0 : rc;
    uint32_t chunks = lorica_blob_chunks(nbytes);
    lorica_record_key_digest(digest, &key);
    rc = lorica_store_delete(txn, LORICA_TABLE_BLOB, lorica_slice_key(&key), err);
    if (!rc && chunks > LORICA_BATCH_CHUNKS)
        return put_number(txn, LORICA_TABLE_STAGED, digest, nbytes, err);
    for (uint32_t i = 0; !rc && i < chunks; i++) {
        lorica_record_key_chunk(digest, i, &key);
        rc = lorica_store_delete(txn, LORICA_TABLE_CHUNK, lorica_slice_key(&key), err);
        if (rc == LORICA_ENOTFOUND)
            rc = 0; /* a piece that is lost already */
    }
    return rc;
}

/* How many pieces the next transaction may take. */
static uint32_t next_batch(bool (*give_way)(void *arg), void *arg) {
    return give_way && give_way(arg) ? LORICA_SPARING_CHUNKS : LORICA_BATCH_CHUNKS;
}

static int stage_batch(struct lorica_store *store, struct file_writer *w, uint32_t limit,
                       struct lorica_error *err) {
    struct lorica_txn *txn = NULL;
    const bool first = w->chunk == 0;
    int rc = lorica_store_begin(store, true, &txn, err);
    if (!rc && first)
        rc = put_number(txn, LORICA_TABLE_STAGED, &w->file->digest, w->file->nbytes, err);
    if (!rc)
        rc = writer_put(w, txn, limit, err);
    return lorica_store_end(txn, rc, err);
}

int lorica_blob_stage(struct lorica_registry *registry, struct lorica_blob_file *file,
                      bool (*give_way)(void *arg), void *arg, struct lorica_error *err) {
    const uint32_t total = lorica_blob_chunks(file->nbytes);
    struct lorica_txn *txn = NULL;
    struct file_writer w;
    uint64_t there;
    int rc = lorica_store_begin(registry->store, false, &txn, err);
    if (!rc)
        rc = lorica_blob_size(txn, &file->digest, &there, err);
    lorica_store_abort(txn);
    if (rc != LORICA_ENOTFOUND)
        return rc; /* 0: it is there */
    rc = check_disk(registry, file->nbytes, err);
    if (rc)
        return rc;
    uint32_t limit = next_batch(give_way, arg);
    if (total <= limit)
        return 0;
    rc = writer_begin(&w, file, err);
    if (rc)
        return rc;
    file->staged = true;
    while (!rc && w.chunk < total) {
        rc = stage_batch(registry->store, &w, limit, err);
        limit = next_batch(give_way, arg);
    }
    rc = writer_end(&w, rc, err);
    if (rc)
        lorica_blob_unstage(registry, file);
    return rc;
}

void lorica_blob_unstage(struct lorica_registry *registry, const struct lorica_blob_file *file) {
    struct lorica_error ignored;
    /* What cannot be swept now (a full disk) is swept when the registry is next opened. */
    if (file->staged)
        (void)!sweep_digest(registry->store, &file->digest, &ignored);
}

int lorica_blob_put_file(struct lorica_txn *txn, const struct lorica_blob_file *file,
                         struct lorica_error *err) {
    struct lorica_record_key key;
    struct file_writer w;
    uint64_t there;
    int rc = lorica_blob_size(txn, &file->digest, &there, err);
    if (rc != LORICA_ENOTFOUND)
        return rc;
    if (file->staged) {
        lorica_record_key_digest(&file->digest, &key);
        rc = lorica_store_delete(txn, LORICA_TABLE_STAGED, lorica_slice_key(&key), err);
        if (rc == LORICA_ENOTFOUND)
            rc = lorica_fail(err, LORICA_EBUG, "%s: was not staged", file->path);
    } else {
        rc = writer_begin(&w, file, err);
        if (!rc)
            rc = writer_end(&w, writer_put(&w, txn, LORICA_BATCH_CHUNKS, err), err);
    }
    return rc ? rc : put_number(txn, LORICA_TABLE_BLOB, &file->digest, file->nbytes, err);
}

/* One piece of content of a size, which must be as long as it should be. */
static int get_piece(struct lorica_txn *txn, const struct lorica_digest *digest, uint64_t nbytes,
                     uint32_t chunk, struct lorica_slice *ret, struct lorica_error *err) {
    const uint64_t left = nbytes - (uint64_t)chunk * LORICA_CHUNK_BYTES;
    struct lorica_record_key key;
    lorica_record_key_chunk(digest, chunk, &key);
    int rc = lorica_store_get(txn, LORICA_TABLE_CHUNK, lorica_slice_key(&key), ret, err);
    if (rc == LORICA_ENOTFOUND ||
        (!rc && ret->len != (left < LORICA_CHUNK_BYTES ? left : LORICA_CHUNK_BYTES)))
        rc = lorica_damaged(err, LORICA_EFORMAT, "piece %" PRIu32 " of content is wrong", chunk);
    return rc;
}

int lorica_blob_check_pieces(struct lorica_txn *txn, const struct lorica_digest *digest,
                             uint64_t nbytes, struct lorica_error *err) {
    struct lorica_slice piece;
    int rc = 0;
    for (uint32_t i = 0; !rc && i < lorica_blob_chunks(nbytes); i++)
        rc = get_piece(txn, digest, nbytes, i, &piece, err);
    return rc;
}

int lorica_blob_read_at(struct lorica_txn *txn, const struct lorica_digest *digest, uint64_t nbytes,
                        uint64_t offset, void *out, size_t len, struct lorica_error *err) {
    uint8_t *to = out;
    if (offset > nbytes || len > nbytes - offset)
        return lorica_fail(err, LORICA_EBUG, "content does not go on so far");
    while (len > 0) {
        const size_t skip = (size_t)(offset % LORICA_CHUNK_BYTES);
        struct lorica_slice piece;
        const int rc =
            get_piece(txn, digest, nbytes, (uint32_t)(offset / LORICA_CHUNK_BYTES), &piece, err);
        if (rc)
            return rc;
        const size_t part = piece.len - skip < len ? piece.len - skip : len;
        memcpy(to, (const uint8_t *)piece.data + skip, part);
        to += part;
        offset += part;
        len -= part;
    }
    return 0;
}

/* Hands over at most a batch of pieces from `*chunk` on, in one read transaction. */
static int read_batch(struct lorica_store *store, const struct lorica_digest *digest,
                      uint64_t nbytes, uint32_t *chunk, void *stream, lorica_piece_fn fn, void *arg,
                      struct lorica_error *err) {
    uint32_t total = lorica_blob_chunks(nbytes);
    struct lorica_txn *txn = NULL;
    int rc = lorica_store_begin(store, false, &txn, err);
    for (uint32_t i = 0; !rc && i < LORICA_BATCH_CHUNKS && *chunk < total; i++, (*chunk)++) {
        struct lorica_slice piece;
        rc = get_piece(txn, digest, nbytes, *chunk, &piece, err);
        if (!rc && lorica_sha256_hasher.update(stream, piece.data, piece.len))
            rc = lorica_fail(err, LORICA_EBUG, "content cannot be hashed");
        if (!rc && fn)
            rc = fn(arg, piece.data, piece.len);
    }
    lorica_store_abort(txn);
    return rc;
}

int lorica_blob_load(struct lorica_txn *txn, const struct lorica_digest *digest, uint64_t nbytes,
                     char **ret, struct lorica_error *err) {
    struct lorica_digest found;
    size_t at = 0;
    int rc = 0;
    if (nbytes > LORICA_TEXT_BYTES_MAX)
        return lorica_damaged(err, LORICA_EFORMAT, "a text of %" PRIu64 " bytes", nbytes);
    char *text = malloc((size_t)nbytes + 1);
    if (!text)
        return lorica_fail(err, LORICA_ENOMEM, "out of memory");
    for (uint32_t i = 0; !rc && i < lorica_blob_chunks(nbytes); i++) {
        struct lorica_record_key key;
        struct lorica_slice piece;
        lorica_record_key_chunk(digest, i, &key);
        rc = lorica_store_get(txn, LORICA_TABLE_CHUNK, lorica_slice_key(&key), &piece, err);
        if (rc == LORICA_ENOTFOUND || (!rc && piece.len > nbytes - at)) {
            rc = lorica_damaged(err, LORICA_EFORMAT, "piece %" PRIu32 " of content is wrong", i);
        } else if (!rc) {
            memcpy(text + at, piece.data, piece.len);
            at += piece.len;
        }
    }
    text[at] = '\0';
    if (!rc && lorica_sha256(text, at, &found))
        rc = lorica_fail(err, LORICA_ENOMEM, "out of memory");
    if (!rc && (at != nbytes || !lorica_digest_equal(&found, digest)))
        rc = lorica_damaged(err, LORICA_EFORMAT, "content does not have its digest");
    if (rc)
        free(text);
    else
        *ret = text;
    return rc;
}

int lorica_blob_read(struct lorica_store *store, const struct lorica_digest *digest,
                     uint64_t nbytes, lorica_piece_fn fn, void *arg, struct lorica_error *err) {
    struct lorica_digest found;
    uint32_t chunk = 0;
    int rc = 0;
    if (nbytes > LORICA_WEIGHTS_BYTES_MAX)
        return lorica_damaged(err, LORICA_EFORMAT, "content of %" PRIu64 " bytes", nbytes);
    void *stream = lorica_sha256_hasher.create();
    if (!stream)
        return lorica_fail(err, LORICA_ENOMEM, "out of memory");
    while (!rc && chunk < lorica_blob_chunks(nbytes))
        rc = read_batch(store, digest, nbytes, &chunk, stream, fn, arg, err);
    if (lorica_sha256_hasher.finish(stream, rc ? NULL : &found) && !rc)
        rc = lorica_fail(err, LORICA_EBUG, "content cannot be hashed");
    if (!rc && !lorica_digest_equal(&found, digest))
        rc = lorica_damaged(err, LORICA_EFORMAT, "content does not have its digest");
    return rc;
}

bool lorica_blob_gone(struct lorica_store *store, const struct lorica_digest *digest) {
    struct lorica_error ignored;
    struct lorica_txn *txn = NULL;
    uint64_t nbytes;
    int rc = lorica_store_begin(store, false, &txn, &ignored);
    const bool begun = rc == 0;
    if (begun)
        rc = lorica_blob_size(txn, digest, &nbytes, &ignored);
    lorica_store_abort(txn);
    return begun && rc == LORICA_ENOTFOUND;
}
