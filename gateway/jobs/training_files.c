/* SPDX-License-Identifier: MIT */
#include "gateway/jobs/training_files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "gateway/server/auth.h"
#include "gateway/files.h"
#include "proto/json.h"

#define PREFIX "file-"
#define FACTS ".json"
#define FACTS_MAX ((size_t)4096) /* of a .json: names of 255 and 128 bytes, escaped, at most */

/* Bytes of an id at the beginning of a name; 0: there is none. */
static size_t id_len(const char *name) {
    const size_t prefix = sizeof(PREFIX) - 1, len = LORICA_TRAINING_FILE_ID - 1;
    if (strncmp(name, PREFIX, prefix) != 0 ||
        strspn(name + prefix, "0123456789abcdef") != len - prefix)
        return 0;
    return len;
}

static bool is_id(const char *text) {
    const size_t len = id_len(text);
    return len > 0 && text[len] == '\0';
}

/* DIR/train/files/ID and what follows it; NULL: out of memory. */
static char *path_of(const char *data_dir, const char *id, const char *end) {
    char *path = NULL;
    return asprintf(&path, "%s/train/files/%s%s", data_dir, id, end) < 0 ? NULL : path;
}

/* What a file's .json says. */
static int write_facts(const struct lorica_training_file *file, struct lorica_buf *out) {
    char digest[LORICA_DIGEST_TEXT];
    struct lorica_jsonw w = {.out = out};
    lorica_jsonw_object(&w, NULL);
    lorica_jsonw_string(&w, "filename", file->filename);
    lorica_jsonw_string(&w, "purpose", file->purpose);
    lorica_jsonw_string(&w, "owner", file->owner);
    lorica_jsonw_integer(&w, "bytes", (int64_t)file->nbytes);
    lorica_jsonw_integer(&w, "created", file->created_s);
    lorica_jsonw_string(&w, "digest", lorica_digest_format(&file->digest, digest));
    lorica_jsonw_end_object(&w);
    return lorica_buf_status(out);
}

static bool take_text(const struct lorica_json *root, const char *name, char *out, size_t size) {
    const char *text = lorica_json_string(lorica_json_get(root, name));
    return text && (size_t)snprintf(out, size, "%s", text) < size;
}

static bool take_facts(const struct lorica_json *root, struct lorica_training_file *file) {
    const int64_t max = (int64_t)1 << 53;
    int64_t nbytes = 0;
    const char *digest = lorica_json_string(lorica_json_get(root, "digest"));
    if (!digest || lorica_digest_parse(digest, strlen(digest), &file->digest) != 0 ||
        lorica_json_integer(lorica_json_get(root, "bytes"), 0, max, &nbytes) != 0 ||
        lorica_json_integer(lorica_json_get(root, "created"), 0, max, &file->created_s) != 0)
        return false;
    file->nbytes = (uint64_t)nbytes;
    return take_text(root, "filename", file->filename, sizeof(file->filename)) &&
           take_text(root, "purpose", file->purpose, sizeof(file->purpose)) &&
           take_text(root, "owner", file->owner, sizeof(file->owner));
}

/* What can be told of a file whose .json cannot be read. */
static void note_damage(const char *path, struct lorica_training_file *file) {
    struct stat st;
    const struct lorica_training_file nothing = {.damaged = true};
    char id[LORICA_TRAINING_FILE_ID];
    memcpy(id, file->id, sizeof(id));
    *file = nothing;
    memcpy(file->id, id, sizeof(id));
    if (stat(path, &st) == 0)
        file->created_s = (int64_t)st.st_mtim.tv_sec;
}

/* Reads what is known of a file; `id` has its form. */
static int read_facts(const char *data_dir, const char *id, struct lorica_training_file *ret,
                      struct lorica_error *err) {
    struct lorica_training_file file = {.nbytes = 0};
    struct lorica_json *root = NULL;
    char *path = path_of(data_dir, id, FACTS), *text = NULL;
    size_t len = 0;
    if (!path)
        return lorica_fail(err, LORICA_ENOMEM, "out of memory");
    (void)snprintf(file.id, sizeof(file.id), "%s", id);
    int rc = lorica_file_read(path, FACTS_MAX, &text, &len, err);
    if (rc == 0)
        rc = lorica_json_parse(text, len, &root, err);
    if ((rc == 0 && !take_facts(root, &file)) ||
        (rc != 0 && rc != LORICA_ENOTFOUND && rc != LORICA_ENOMEM)) {
        note_damage(path, &file);
        rc = 0;
    }
    lorica_json_destroy(root);
    free(text);
    free(path);
    if (rc == 0)
        *ret = file;
    return rc;
}

static bool may_see(const struct lorica_key *key, const struct lorica_training_file *file) {
    return !key || lorica_auth_role(key->role, LORICA_ROLE_OPS) ||
           strcmp(key->name, file->owner) == 0;
}

int lorica_training_file_find(const char *data_dir, const struct lorica_key *key, const char *id,
                              struct lorica_training_file *ret, struct lorica_error *err) {
    struct lorica_training_file file;
    int rc = is_id(id) ? read_facts(data_dir, id, &file, err) : LORICA_ENOTFOUND;
    if (rc == 0 && !may_see(key, &file))
        rc = LORICA_ENOTFOUND;
    if (rc == LORICA_ENOTFOUND)
        return lorica_fail(err, rc, "there is no file \"%.100s\"", id);
    if (rc == 0)
        *ret = file;
    return rc;
}

int lorica_training_file_link(const char *data_dir, const struct lorica_training_file *file,
                              const char *path, struct lorica_error *err) {
    char *from = path_of(data_dir, file->id, "");
    int rc = from ? 0 : lorica_fail(err, LORICA_ENOMEM, "out of memory");
    if (rc == 0 && link(from, path) != 0)
        rc = lorica_fail_errno(err, path, "the file to train on cannot be kept there");
    free(from);
    return rc;
}

int lorica_training_file_read(const char *data_dir, const struct lorica_training_file *file,
                              int *ret_fd, struct lorica_error *err) {
    struct stat st;
    if (file->damaged)
        return lorica_fail(
            err, LORICA_EIO,
            "what is known of the file %s is damaged; delete it, and upload it again", file->id);
    char *path = path_of(data_dir, file->id, "");
    if (!path)
        return lorica_fail(err, LORICA_ENOMEM, "out of memory");
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    int rc = 0;
    if (fd < 0 || fstat(fd, &st) != 0)
        rc = lorica_fail_errno(err, path, "cannot be opened");
    else if ((uint64_t)st.st_size != file->nbytes)
        rc = lorica_fail(err, LORICA_EIO, "%s: damaged: it has another length than when it came",
                         path);
    free(path);
    if (rc == 0)
        *ret_fd = fd;
    else if (fd >= 0)
        (void)close(fd);
    return rc;
}

int lorica_training_file_remove(const char *data_dir, const struct lorica_training_file *file,
                                struct lorica_error *err) {
    char *bytes = path_of(data_dir, file->id, ""), *facts = path_of(data_dir, file->id, FACTS);
    int rc = bytes && facts ? 0 : lorica_fail(err, LORICA_ENOMEM, "out of memory");
    if (rc == 0 && unlink(facts) != 0) /* first: bytes alone are removed at start */
        rc = lorica_fail_errno(err, facts, "cannot be removed");
    if (rc == 0 && unlink(bytes) != 0 && errno != ENOENT)
        rc = lorica_fail_errno(err, bytes, "cannot be removed");
    if (rc == 0)
        rc = lorica_path_sync(bytes, err);
    free(bytes);
    free(facts);
    return rc;
}

/* Opens DIR/train/files for a walk. */
static int open_dir(const char *data_dir, DIR **ret, struct lorica_error *err) {
    char *path = path_of(data_dir, "", "");
    if (!path)
        return lorica_fail(err, LORICA_ENOMEM, "out of memory");
    *ret = opendir(path);
    const int rc = *ret ? 0 : lorica_fail_errno(err, path, "cannot be listed");
    free(path);
    return rc;
}

/* True for a name that stands for nothing: bytes without their .json, or one being written. */
static bool is_half_made(int dir, const char *name) {
    char facts[LORICA_TRAINING_FILE_ID + sizeof(FACTS)];
    const size_t len = id_len(name);
    if (len == 0)
        return false;
    if (name[len] != '\0')
        return strncmp(name + len, FACTS ".", sizeof(FACTS)) == 0;
    memcpy(facts, name, len);
    memcpy(facts + len, FACTS, sizeof(FACTS));
    return faccessat(dir, facts, F_OK, 0) != 0 && errno == ENOENT;
}

int lorica_training_files_open(const char *data_dir, struct lorica_error *err) {
    DIR *dir = NULL;
    char *path = path_of(data_dir, "", "");
    if (!path)
        return lorica_fail(err, LORICA_ENOMEM, "out of memory");
    path[strlen(path) - 1] = '\0'; /* the slash */
    int rc = lorica_dirs_make(path, 0700, err);
    free(path);
    if (rc == 0)
        rc = open_dir(data_dir, &dir, err);
    if (rc != 0)
        return rc;
    for (const struct dirent *entry; (entry = readdir(dir));)
        if (is_half_made(dirfd(dir), entry->d_name))
            (void)unlinkat(dirfd(dir), entry->d_name, 0);
    (void)closedir(dir);
    return 0;
}

/* Adds one to a list that has room for `*room`. */
static int add(struct lorica_training_file_list *list, size_t *room,
               const struct lorica_training_file *file, struct lorica_error *err) {
    if (list->count == *room) {
        const size_t more = *room ? *room * 2 : 16;
        struct lorica_training_file *items = reallocarray(list->items, more, sizeof(*items));
        if (!items)
            return lorica_fail(err, LORICA_ENOMEM, "out of memory");
        list->items = items;
        *room = more;
    }
    list->items[list->count++] = *file;
    return 0;
}

/* The id of a .json's name; false for any other name. */
static bool id_of(const char *name, char id[LORICA_TRAINING_FILE_ID]) {
    const size_t len = id_len(name);
    if (len == 0 || strcmp(name + len, FACTS) != 0)
        return false;
    memcpy(id, name, len);
    id[len] = '\0';
    return true;
}

static int by_age(const void *a, const void *b) {
    const struct lorica_training_file *x = a, *y = b;
    if (x->created_s != y->created_s)
        return x->created_s < y->created_s ? -1 : 1;
    return strcmp(x->id, y->id);
}

int lorica_training_files_list(const char *data_dir, const struct lorica_key *key,
                               struct lorica_training_file_list *ret, struct lorica_error *err) {
    struct lorica_training_file_list list = {NULL, 0};
    struct lorica_training_file file;
    size_t room = 0;
    DIR *dir = NULL;
    int rc = open_dir(data_dir, &dir, err);
    if (rc != 0)
        return rc;
    for (const struct dirent *entry; rc == 0 && (entry = readdir(dir));) {
        char id[LORICA_TRAINING_FILE_ID];
        if (!id_of(entry->d_name, id))
            continue;
        rc = read_facts(data_dir, id, &file, err);
        if (rc == 0 && may_see(key, &file))
            rc = add(&list, &room, &file, err);
        else if (rc == LORICA_ENOTFOUND) /* it was deleted in between */
            rc = 0;
    }
    (void)closedir(dir);
    if (rc != 0) {
        lorica_training_files_finish(&list);
        return rc;
    }
    if (list.count > 0)
        qsort(list.items, list.count, sizeof(list.items[0]), by_age);
    *ret = list;
    return 0;
}

void lorica_training_files_finish(struct lorica_training_file_list *list) {
    free(list->items);
    *list = (struct lorica_training_file_list){NULL, 0};
}

/* One more file may come. */
static int check_bounds(const char *data_dir, const char *owner, struct lorica_error *err) {
    struct lorica_training_file_list list = {NULL, 0};
    size_t own = 0, all = 0;
    int rc = lorica_training_files_list(data_dir, NULL, &list, err);
    if (rc != 0)
        return rc;
    for (size_t i = 0; i < list.count; i++) {
        const struct lorica_training_file *file = &list.items[i];
        const bool uploaded = strcmp(file->purpose, LORICA_TRAINING_FILE_RESULTS) != 0;
        all += uploaded;
        own += uploaded && strcmp(file->owner, owner) == 0;
    }
    if (own >= LORICA_TRAINING_FILES_PER_KEY)
        rc = lorica_fail(err, LORICA_ECONFLICT,
                         "the key \"%s\" has %d files, which is as many as one key may have; "
                         "delete those that are not needed any more",
                         owner, LORICA_TRAINING_FILES_PER_KEY);
    else if (all >= LORICA_TRAINING_FILES_MAX)
        rc = lorica_fail(err, LORICA_ECONFLICT,
                         "the server has %d files, which is as many as it keeps; delete those that "
                         "are not needed any more, or ask operations to",
                         LORICA_TRAINING_FILES_MAX);
    lorica_training_files_finish(&list);
    return rc;
}

static int make_id(char id[LORICA_TRAINING_FILE_ID], struct lorica_error *err) {
    unsigned char random[(LORICA_TRAINING_FILE_ID - sizeof(PREFIX)) / 2];
    if (lorica_random_bytes(random, sizeof(random)) != 0)
        return lorica_fail(err, LORICA_EBUG, "no random bytes are to be had");
    memcpy(id, PREFIX, sizeof(PREFIX));
    for (size_t i = 0; i < sizeof(random); i++)
        (void)snprintf(id + sizeof(PREFIX) - 1 + 2 * i, 3, "%02x", random[i]);
    return 0;
}

/* Puts bytes and .json in their places, in this order. */
static int put(const struct lorica_training_file *file, const char *from, const char *bytes,
               const char *facts, struct lorica_error *err) {
    struct lorica_buf text;
    lorica_buf_init(&text, FACTS_MAX);
    int rc = write_facts(file, &text);
    if (rc != 0)
        rc = lorica_fail(err, rc, "what is known of a file could not be written");
    if (rc == 0)
        rc = lorica_file_move(from, bytes, err);
    if (rc == 0)
        rc = lorica_file_replace(facts, text.data, text.len, 0600, err);
    if (rc != 0) {
        (void)unlink(facts);
        (void)unlink(bytes);
    }
    lorica_buf_finish(&text);
    return rc;
}

int lorica_training_file_keep(const char *data_dir, const char *path,
                              struct lorica_training_file *file, struct lorica_error *err) {
    char *bytes = path_of(data_dir, file->id, ""), *facts = path_of(data_dir, file->id, FACTS);
    file->created_s = (int64_t)time(NULL);
    const int rc = bytes && facts ? put(file, path, bytes, facts, err)
                                  : lorica_fail(err, LORICA_ENOMEM, "out of memory");
    free(bytes);
    free(facts);
    return rc;
}

int lorica_training_file_store(const char *data_dir, const char *path,
                               struct lorica_training_file *file, struct lorica_error *err) {
    struct lorica_training_file made = *file;
    int rc = check_bounds(data_dir, file->owner, err);
    if (rc == 0)
        rc = make_id(made.id, err);
    if (rc == 0)
        rc = lorica_training_file_keep(data_dir, path, &made, err);
    if (rc == 0)
        *file = made;
    return rc;
}
