/* SPDX-License-Identifier: MIT */
#include "gateway/cmd/model_dir.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "gateway/files.h"
#include "proto/peft.h"
#include "proto/statement.h"
#include "proto/utf8.h"
#include "registry/digest.h"
#include "registry/sign.h"

#define DEPTH_MAX 32
#define CONFIG_MAX ((size_t)1 << 20)
#define PIECE 65536

const char *const lorica_model_ignored[] = {".git", ".gitignore", ".gitattributes", ".github",
                                            NULL};
/* What a signature says it leaves out: the bundle itself too. */
static const char *const left_out[] = {LORICA_MODEL_SIG, ".git", ".gitattributes", ".github",
                                       ".gitignore"};

/* Digests. */

static int digest_fd(int fd, const char *path, struct lorica_digest *ret,
                     struct lorica_error *err) {
    char piece[PIECE];
    ssize_t n = 1;
    void *stream = lorica_sha256_hasher.create();
    int rc = stream ? 0 : lorica_fail(err, LORICA_ENOMEM, "out of memory");
    while (!rc && (n = read(fd, piece, sizeof(piece))) > 0)
        if (lorica_sha256_hasher.update(stream, piece, (size_t)n))
            rc = lorica_fail(err, LORICA_EBUG, "%s cannot be hashed", path);
    if (!rc && n < 0)
        rc = lorica_fail_errno(err, path, "cannot be read");
    if (stream && lorica_sha256_hasher.finish(stream, rc ? NULL : ret) && !rc)
        rc = lorica_fail(err, LORICA_EBUG, "%s cannot be hashed", path);
    return rc;
}

int lorica_file_digest(const char *path, struct lorica_digest *ret, struct lorica_error *err) {
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return lorica_fail_errno(err, path, "cannot be read");
    const int rc = digest_fd(fd, path, ret, err);
    (void)close(fd);
    return rc;
}

/* The walk. */

struct walk {
    const char *root;
    char *const *ignored;
    size_t ignored_count;
    const struct stat *skip;
    struct lorica_model_manifest *ret;
    size_t room;
    struct lorica_error *err;
};

static bool is_ignored(const struct walk *w, const char *name) {
    for (size_t i = 0; lorica_model_ignored[i]; i++)
        if (strcmp(name, lorica_model_ignored[i]) == 0)
            return true;
    for (size_t i = 0; i < w->ignored_count; i++)
        if (strcmp(name, w->ignored[i]) == 0)
            return true;
    return false;
}

static int add_file(struct walk *w, int dir, const char *entry, const char *name) {
    struct lorica_model_manifest *m = w->ret;
    if (m->file_count == LORICA_MODEL_FILES_MAX)
        return lorica_fail(w->err, LORICA_ELIMIT, "%s holds over %d files", w->root,
                           LORICA_MODEL_FILES_MAX);
    if (m->file_count == w->room) {
        const size_t more = w->room ? w->room * 2 : 16;
        struct lorica_model_file *files = realloc(m->files, more * sizeof(*files));
        if (!files)
            return lorica_fail(w->err, LORICA_ENOMEM, "out of memory");
        m->files = files;
        w->room = more;
    }
    struct lorica_model_file *file = &m->files[m->file_count];
    const int fd = openat(dir, entry, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return lorica_fail_errno(w->err, name, "cannot be read");
    int rc = digest_fd(fd, name, &file->digest, w->err);
    (void)close(fd);
    if (!rc && !(file->name = strdup(name)))
        rc = lorica_fail(w->err, LORICA_ENOMEM, "out of memory");
    m->file_count += !rc;
    return rc;
}

static int walk_dir(struct walk *w, int fd, const char *prefix, unsigned depth);

static int walk_entry(struct walk *w, int dir, const char *entry, const char *prefix,
                      unsigned depth) {
    struct stat st;
    char *name = NULL;
    int rc = 0;
    if (asprintf(&name, "%s%s%s", prefix, *prefix ? "/" : "", entry) < 0)
        return lorica_fail(w->err, LORICA_ENOMEM, "out of memory");
    if (is_ignored(w, name)) {
        free(name);
        return 0;
    }
    if (!lorica_utf8_valid(name, strlen(name)) || !lorica_model_name_valid(name))
        rc = lorica_fail(w->err, LORICA_EINVAL,
                         "%s holds a file whose path is no UTF-8 or is over "
                         "%d bytes long",
                         w->root, LORICA_MODEL_NAME_MAX);
    else if (fstatat(dir, entry, &st, AT_SYMLINK_NOFOLLOW) != 0)
        rc = lorica_fail_errno(w->err, name, "cannot be read");
    else if (S_ISDIR(st.st_mode))
        rc = walk_dir(w, openat(dir, entry, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC), name,
                      depth + 1);
    else if (!S_ISREG(st.st_mode))
        rc = lorica_fail(w->err, LORICA_EINVAL, "%s/%s is a %s: only plain files are signed",
                         w->root, name, S_ISLNK(st.st_mode) ? "symbolic link" : "special file");
    else if (!w->skip || st.st_dev != w->skip->st_dev || st.st_ino != w->skip->st_ino)
        rc = add_file(w, dir, entry, name);
    free(name);
    return rc;
}

static int walk_dir(struct walk *w, int fd, const char *prefix, unsigned depth) {
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    int rc = 0;
    if (!dir) {
        rc = lorica_fail_errno(w->err, *prefix ? prefix : w->root, "cannot be listed");
        if (fd >= 0)
            (void)close(fd);
        return rc;
    }
    if (depth > DEPTH_MAX)
        rc = lorica_fail(w->err, LORICA_ELIMIT, "%s: directories stand more than %d deep", w->root,
                         DEPTH_MAX);
    for (const struct dirent *e; !rc && (e = readdir(dir));)
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            rc = walk_entry(w, fd, e->d_name, prefix, depth);
    (void)closedir(dir);
    return rc;
}

int lorica_model_dir_read(const char *dir, char *const *ignored, size_t ignored_count,
                          const struct stat *skip, struct lorica_model_manifest *ret,
                          struct lorica_error *err) {
    struct lorica_model_manifest m = {.subject = NULL};
    struct walk w = {.root = dir,
                     .ignored = ignored,
                     .ignored_count = ignored_count,
                     .skip = skip,
                     .ret = &m,
                     .err = err};
    const int rc = walk_dir(&w, open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC), "", 0);
    if (rc) {
        lorica_model_manifest_finish(&m);
        return rc;
    }
    lorica_model_files_sort(m.files, m.file_count);
    *ret = m;
    return 0;
}

/* Keys. */

static int key_file(const char *path, bool secret, struct lorica_signkey **ret,
                    struct lorica_error *err) {
    char *pem = NULL;
    size_t len = 0;
    int rc = lorica_file_read(path, LORICA_PEM_MAX, &pem, &len, err);
    if (rc)
        return rc;
    rc = secret ? lorica_signkey_private(pem, len, ret, err)
                : lorica_signkey_public(pem, len, ret, err);
    explicit_bzero(pem, len);
    free(pem);
    return rc ? lorica_fail_prefix(err, "%s", path) : 0;
}

int lorica_key_file_private(const char *path, struct lorica_signkey **ret,
                            struct lorica_error *err) {
    return key_file(path, true, ret, err);
}

int lorica_key_file_public(const char *path, struct lorica_signkey **ret,
                           struct lorica_error *err) {
    return key_file(path, false, ret, err);
}

/* Signing a directory. */

/* The last part of a directory's real path. */
static char *subject_of(const char *dir) {
    char *real = realpath(dir, NULL);
    const char *slash = real ? strrchr(real, '/') : NULL;
    char *name = strdup(slash && slash[1] ? slash + 1 : "model");
    free(real);
    if (name && !lorica_utf8_valid(name, strlen(name))) {
        free(name);
        name = strdup("model");
    }
    return name;
}

static int seal(const struct lorica_signkey *key, const struct lorica_model_manifest *m,
                struct lorica_buf *out, struct lorica_error *err) {
    struct lorica_envelope envelope = {0};
    struct lorica_buf payload;
    lorica_buf_init(&payload, LORICA_BUNDLE_MAX / 2);
    int rc = lorica_model_manifest_write(&payload, m, &lorica_sha256_hasher);
    if (rc)
        rc = lorica_fail(err, rc, "the list of files cannot be written: %s", lorica_err_text(rc));
    else
        rc = lorica_signkey_sign(key, LORICA_PAYLOAD_INTOTO, payload.data, payload.len, false,
                                 &envelope, err);
    lorica_buf_finish(&payload);
    if (rc)
        return rc;
    rc = lorica_bundle_write(out, &envelope);
    if (!rc)
        rc = lorica_buf_puts(out, "\n");
    lorica_envelope_finish(&envelope);
    return rc ? lorica_fail(err, rc, "the bundle cannot be written: %s", lorica_err_text(rc)) : 0;
}

int lorica_model_dir_sign(const char *dir, const struct lorica_signkey *key,
                          struct lorica_error *err) {
    struct lorica_model_manifest m = {.subject = NULL};
    struct lorica_buf out;
    char *path = lorica_path_join(dir, LORICA_MODEL_SIG);
    if (!path)
        return lorica_fail(err, LORICA_ENOMEM, "out of memory");
    lorica_buf_init(&out, LORICA_BUNDLE_MAX);
    int rc = lorica_path_exists(path)
                 ? lorica_fail(err, LORICA_ECONFLICT, "%s is there already", path)
                 : lorica_model_dir_read(dir, NULL, 0, NULL, &m, err);
    if (!rc && m.file_count == 0)
        rc = lorica_fail(err, LORICA_EINVAL, "%s holds no file to sign", dir);
    if (!rc && !(m.subject = subject_of(dir)))
        rc = lorica_fail(err, LORICA_ENOMEM, "out of memory");
    if (!rc) {
        m.ignored = (char **)(uintptr_t)left_out; /* borrowed, and only read */
        m.ignored_count = sizeof(left_out) / sizeof(left_out[0]);
        rc = seal(key, &m, &out, err);
        m.ignored = NULL;
        m.ignored_count = 0;
    }
    if (!rc)
        rc = lorica_file_replace(path, out.data, out.len, 0644, err);
    lorica_model_manifest_finish(&m);
    lorica_buf_finish(&out);
    free(path);
    return rc;
}

/* Signing an adapter's statement. */

static int read_config(const char *dir, char **ret, size_t *ret_len,
                       struct lorica_peft_config *config, struct lorica_error *err) {
    char *path = lorica_path_join(dir, "adapter_config.json");
    if (!path)
        return lorica_fail(err, LORICA_ENOMEM, "out of memory");
    int rc = lorica_file_read(path, CONFIG_MAX, ret, ret_len, err);
    if (!rc && (rc = lorica_peft_parse(*ret, *ret_len, config, err))) {
        rc = lorica_fail_prefix(err, "%s", path);
        free(*ret);
    }
    free(path);
    return rc;
}

int lorica_adapter_base(const char *dir, struct lorica_digest *ret, struct lorica_error *err) {
    struct lorica_peft_config config = {0};
    char *text = NULL;
    size_t len = 0;
    int rc = read_config(dir, &text, &len, &config, err);
    if (rc)
        return rc;
    if (!config.base_digest)
        rc = LORICA_ENOTFOUND;
    else if (lorica_digest_parse(config.base_digest, strlen(config.base_digest), ret))
        rc = lorica_fail(err, LORICA_EFORMAT, "%s: lorica_base_digest is no digest", dir);
    lorica_peft_finish(&config);
    free(text);
    return rc;
}

static int digest_in(const char *dir, const char *file, struct lorica_digest *ret,
                     struct lorica_error *err) {
    char *path = lorica_path_join(dir, file);
    const int rc = path ? lorica_file_digest(path, ret, err)
                        : lorica_fail(err, LORICA_ENOMEM, "out of memory");
    free(path);
    return rc;
}

/* The facts of the three files. */
static int fill_statement(const char *dir, struct lorica_statement *s, struct lorica_error *err) {
    struct lorica_peft_config config = {0};
    struct lorica_digest canonical_digest;
    struct lorica_buf canonical;
    char *text = NULL;
    size_t len = 0;
    int rc = read_config(dir, &text, &len, &config, err);
    if (rc)
        return rc;
    lorica_buf_init(&canonical, CONFIG_MAX);
    if (lorica_peft_canonical(&canonical, &config) ||
        lorica_sha256(canonical.data, canonical.len, &canonical_digest) ||
        lorica_sha256(text, len, &s->config_digest))
        rc = lorica_fail(err, LORICA_ENOMEM, "out of memory");
    lorica_buf_finish(&canonical);
    lorica_peft_finish(&config);
    free(text);
    if (!rc)
        rc = digest_in(dir, "adapter_model.safetensors", &s->weights_digest, err);
    char *manifest = rc ? NULL : lorica_path_join(dir, "manifest.json");
    if (!rc && !manifest)
        rc = lorica_fail(err, LORICA_ENOMEM, "out of memory");
    s->has_manifest = manifest && lorica_path_exists(manifest);
    if (s->has_manifest)
        rc = lorica_file_digest(manifest, &s->manifest_digest, err);
    free(manifest);
    if (!rc && lorica_version_digest(&canonical_digest, &s->weights_digest, &s->digest))
        rc = lorica_fail(err, LORICA_ENOMEM, "out of memory");
    return rc;
}

int lorica_adapter_sign(const char *dir, const char *name, const struct lorica_digest *base,
                        const struct lorica_signkey *key, struct lorica_buf *out,
                        struct lorica_error *err) {
    struct lorica_statement s = {.base_digest = *base, .created = (int64_t)time(NULL)};
    struct lorica_envelope envelope = {0};
    struct lorica_buf payload;
    if (!lorica_signkey_is_ed25519(key))
        return lorica_fail(err, LORICA_EINVAL,
                           "a version is signed with an Ed25519 key, not with %s; `openssl genpkey "
                           "-algorithm ed25519 -out KEY` makes one",
                           lorica_signkey_algorithm(key));
    (void)snprintf(s.name, sizeof(s.name), "%s", name);
    int rc = fill_statement(dir, &s, err);
    if (rc)
        return rc;
    lorica_buf_init(&payload, 4096);
    rc = lorica_statement_write(&payload, &s);
    if (rc)
        rc = lorica_fail(err, rc, "the statement cannot be written: %s", lorica_err_text(rc));
    else
        rc = lorica_signkey_sign(key, LORICA_PAYLOAD_STATEMENT, payload.data, payload.len, true,
                                 &envelope, err);
    lorica_buf_finish(&payload);
    if (rc)
        return rc;
    struct lorica_jsonw w = {.out = out};
    lorica_envelope_write(&w, NULL, &envelope);
    lorica_envelope_finish(&envelope);
    rc = lorica_buf_status(out);
    return rc ? lorica_fail(err, rc, "the signature cannot be written") : 0;
}
