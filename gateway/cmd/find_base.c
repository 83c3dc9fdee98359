/* SPDX-License-Identifier: MIT
 * Which base file a word of the command line means. */
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/cmd/cmd.h"
#include "gateway/files.h"
#include "runtime/base.h"

#define NAMES_MAX 4096 /* bytes of names in a message */

/* A walk over DIR/bases. */
struct search {
    const char *word; /* NULL: any */
    char *found;      /* path of the last that matches */
    size_t matches;
    struct lorica_buf names; /* of all that there are, for messages */
};

/* True when the word is the base's name, or its digest with or without "sha256:". */
static bool matches(const char *word, const struct lorica_base *base) {
    char digest[LORICA_DIGEST_TEXT];
    (void)lorica_digest_format(&base->digest, digest);
    return !word || strcmp(word, base->name) == 0 || strcmp(word, digest) == 0 ||
           strcmp(word, digest + strlen("sha256:")) == 0;
}

/* Looks at one file; the path is taken over. A file that cannot be opened is none of the bases, but
 * is named in messages. */
static int examine(struct search *search, char *path) {
    struct lorica_base *base = NULL;
    struct lorica_error why = {0};
    const char *separator = search->names.len > 0 ? ", " : "";
    const int rc = lorica_base_open(path, &base, &why);
    if (rc == LORICA_ENOMEM) {
        free(path);
        return rc;
    }
    if (rc != 0) {
        (void)lorica_buf_printf(&search->names, "%s(unreadable: %s)", separator, why.text);
        free(path);
        return 0;
    }
    (void)lorica_buf_printf(&search->names, "%s%s", separator, base->name);
    if (matches(search->word, base)) {
        search->matches++;
        free(search->found);
        search->found = path;
    } else {
        free(path);
    }
    lorica_base_close(base);
    return 0;
}

static int walk(struct search *search, const char *dir_path, struct lorica_error *err) {
    DIR *dir = opendir(dir_path);
    const struct dirent *entry;
    int rc = 0;
    if (!dir && errno != ENOENT)
        return lorica_fail_errno(err, dir_path, "cannot be listed");
    while (dir && rc == 0 && (entry = readdir(dir))) {
        const char *end = strrchr(entry->d_name, '.');
        if (!end || entry->d_name[0] == '.' || strcmp(end, ".lorica") != 0)
            continue;
        char *path = lorica_path_join(dir_path, entry->d_name);
        rc = path ? examine(search, path) : LORICA_ENOMEM;
    }
    if (dir)
        (void)closedir(dir);
    return rc == 0 ? 0 : lorica_fail(err, rc, "out of memory");
}

/* Turns the outcome of a walk into a path or an error. */
static int conclude(const struct search *search, const char *dir, struct lorica_error *err) {
    const char *names = search->names.data ? search->names.data : "";
    if (search->names.len == 0)
        return lorica_fail(err, LORICA_ENOTFOUND,
                           "%s holds no base model; lorica base import FILE makes one", dir);
    if (search->matches == 0 && search->word)
        return lorica_fail(err, LORICA_ENOTFOUND,
                           "there is no base model \"%.200s\", nor a file of that name; there are: "
                           "%.200s",
                           search->word, names);
    if (search->matches == 0)
        return lorica_fail(err, LORICA_EFORMAT, "%s holds no base model that can be read: %.300s",
                           dir, names);
    if (search->matches > 1)
        return lorica_fail(
            err, LORICA_ECONFLICT,
            "%zu base models %s%.200s; name one%s (lorica base list tells them)", search->matches,
            search->word ? "are called " : "are there: ", search->word ? search->word : names,
            search->word ? " by its digest" : "");
    return 0;
}

int lorica_find_base(const char *data_dir, const char *word, char **ret, struct lorica_error *err) {
    if (word && lorica_path_exists(word)) {
        char *path = strdup(word);
        if (!path)
            return lorica_fail(err, LORICA_ENOMEM, "out of memory");
        *ret = path;
        return 0;
    }
    struct search search = {.word = word};
    char *dir = lorica_path_join(data_dir, "bases");
    if (!dir)
        return lorica_fail(err, LORICA_ENOMEM, "out of memory");
    lorica_buf_init(&search.names, NAMES_MAX);
    int rc = walk(&search, dir, err);
    if (rc == 0)
        rc = conclude(&search, dir, err);
    if (rc == 0)
        *ret = search.found;
    else
        free(search.found);
    lorica_buf_finish(&search.names);
    free(dir);
    return rc;
}
