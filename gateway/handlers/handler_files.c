/* SPDX-License-Identifier: MIT
 * Files to train on: OpenAI's /v1/files. A key sees its own files; ops and admin see all. What a
 * file holds is judged when a job is to train on it. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "gateway/handlers/api.h"
#include "gateway/files.h"
#include "gateway/handlers/handlers.h"
#include "gateway/server/server.h"
#include "gateway/jobs/training_files.h"

#define PURPOSE LORICA_TRAINING_FILE_EXAMPLES
#define LIST_MAX 10000 /* OpenAI's */

const struct lorica_upload_form lorica_training_file_form = {
    .parts =
        {
            {"file", .file = true, .required = true},
            {"purpose", 64, .required = true},
        },
    .note = "what to train on, and \"" PURPOSE "\"",
    .limit_name = "training-file-mb",
    .limit_mb = offsetof(struct lorica_config, training_file_mb),
};

static void write_file(struct lorica_jsonw *w, const struct lorica_training_file *file) {
    lorica_jsonw_object(w, NULL);
    lorica_jsonw_string(w, "id", file->id);
    lorica_jsonw_string(w, "object", "file");
    lorica_jsonw_integer(w, "bytes", (int64_t)file->nbytes);
    lorica_jsonw_integer(w, "created_at", file->created_s);
    lorica_jsonw_null(w, "expires_at");
    lorica_jsonw_string(w, "filename", file->filename);
    lorica_jsonw_string(w, "purpose", file->purpose);
    lorica_jsonw_string(w, "status", file->damaged ? "error" : "processed");
    lorica_jsonw_string(w, "status_details",
                        file->damaged ? "what is known of the file is damaged; delete it" : NULL);
    lorica_jsonw_end_object(w);
}

static int judge_upload(struct lorica_request *request) {
    size_t len = 0;
    const char *purpose = lorica_upload_text(request->upload, "purpose", &len);
    if (strcmp(purpose, PURPOSE) != 0)
        return lorica_request_fail(request, LORICA_EINVAL, "purpose", NULL,
                                   "the purpose \"%s\" is not supported; files are taken for "
                                   "\"" PURPOSE "\" alone",
                                   purpose);
    if (lorica_upload_filename(request->upload)[0] == '\0')
        return lorica_request_fail(request, LORICA_EINVAL, "file", NULL,
                                   "the part \"file\" has no filename");
    if (lorica_upload_nbytes(request->upload) == 0)
        return lorica_request_fail(request, LORICA_EINVAL, "file", NULL, "the file is empty");
    return 0;
}

int lorica_handle_file_create(struct lorica_request *request) {
    struct lorica_training_file file = {.purpose = PURPOSE};
    struct lorica_error err = {0};
    int rc = judge_upload(request);
    if (rc != 0)
        return rc;
    (void)snprintf(file.filename, sizeof(file.filename), "%s",
                   lorica_upload_filename(request->upload));
    (void)snprintf(file.owner, sizeof(file.owner), "%s", request->key.name);
    file.nbytes = lorica_upload_nbytes(request->upload);
    file.digest = *lorica_upload_digest(request->upload);
    rc = lorica_training_file_store(request->server->parts.data_dir,
                                    lorica_upload_file(request->upload), &file, &err);
    if (rc != 0)
        return lorica_request_fail(
            request, rc, NULL, rc == LORICA_ECONFLICT ? "too_many_files" : NULL, "%s", err.text);
    struct lorica_jsonw w = lorica_request_json(request, 200);
    write_file(&w, &file);
    return 0;
}

/* The file that the path names. */
static int find(struct lorica_request *request, struct lorica_training_file *ret) {
    struct lorica_error err = {0};
    const int rc = lorica_training_file_find(request->server->parts.data_dir, &request->key,
                                             request->match.params[0], ret, &err);
    return rc == 0 ? 0 : lorica_request_fail(request, rc, NULL, NULL, "%s", err.text);
}

int lorica_handle_file(struct lorica_request *request) {
    struct lorica_training_file file;
    const int rc = find(request, &file);
    if (rc != 0)
        return rc;
    struct lorica_jsonw w = lorica_request_json(request, 200);
    write_file(&w, &file);
    return 0;
}

int lorica_handle_file_delete(struct lorica_request *request) {
    struct lorica_training_file file;
    struct lorica_error err = {0};
    int rc = find(request, &file);
    if (rc != 0)
        return rc;
    rc = lorica_training_file_remove(request->server->parts.data_dir, &file, &err);
    if (rc != 0)
        return lorica_request_fail(request, rc, NULL, NULL, "%s", err.text);
    struct lorica_jsonw w = lorica_request_json(request, 200);
    lorica_jsonw_object(&w, NULL);
    lorica_jsonw_string(&w, "id", file.id);
    lorica_jsonw_string(&w, "object", "file");
    lorica_jsonw_bool(&w, "deleted", true);
    lorica_jsonw_end_object(&w);
    return 0;
}

struct content {
    struct lorica_body_source source;
    int fd;
};

static struct content *content_of(struct lorica_body_source *source) {
    return (struct content *)(void *)((char *)source - offsetof(struct content, source));
}

static int content_read(struct lorica_body_source *source, uint64_t offset, void *out, size_t len,
                        struct lorica_error *err) {
    return lorica_file_read_at(content_of(source)->fd, offset, out, len, "a file", err);
}

static void content_close(struct lorica_body_source *source) {
    (void)close(content_of(source)->fd);
    free(content_of(source));
}

int lorica_handle_file_content(struct lorica_request *request) {
    struct lorica_training_file file;
    struct lorica_error err = {0};
    int fd = -1;
    int rc = find(request, &file);
    if (rc != 0)
        return rc;
    rc = lorica_training_file_read(request->server->parts.data_dir, &file, &fd, &err);
    if (rc != 0)
        return lorica_request_fail(request, rc, NULL, NULL, "%s", err.text);
    struct content *content = calloc(1, sizeof(*content));
    if (!content) {
        (void)close(fd);
        return lorica_request_fail(request, LORICA_ENOMEM, NULL, NULL, "out of memory");
    }
    content->source = (struct lorica_body_source){
        .nbytes = file.nbytes, .read = content_read, .close = content_close};
    content->fd = fd;
    request->response.status = 200;
    request->response.content_type = "application/octet-stream";
    request->response.source = &content->source;
    return 0;
}

/* What a list is to hold. */
struct asked {
    const char *purpose, *after; /* NULL: of any; from the first on */
    bool ascending;
    long long limit;
    char purpose_text[64], after_text[LORICA_TRAINING_FILE_ID];
};

static int ask(struct lorica_request *request, struct asked *asked) {
    char order[8];
    const char *given = "desc";
    asked->limit = LIST_MAX;
    int rc = lorica_request_query_number(request, "limit", 1, LIST_MAX, &asked->limit);
    if (rc == 0)
        rc = lorica_request_query_text(request, "purpose", asked->purpose_text,
                                       sizeof(asked->purpose_text), &asked->purpose);
    if (rc == 0)
        rc = lorica_request_query_text(request, "after", asked->after_text,
                                       sizeof(asked->after_text), &asked->after);
    if (rc == 0)
        rc = lorica_request_query_text(request, "order", order, sizeof(order), &given);
    asked->ascending = strcmp(given, "asc") == 0;
    if (rc == 0 && !asked->ascending && strcmp(given, "desc") != 0)
        rc =
            lorica_request_fail(request, LORICA_EINVAL, "order", NULL, "order must be asc or desc");
    return rc;
}

/* The list's i-th file in the order that is asked for. */
static const struct lorica_training_file *at(const struct lorica_training_file_list *list,
                                             const struct asked *asked, size_t i) {
    return &list->items[asked->ascending ? i : list->count - 1 - i];
}

/* Where a list begins: behind the file that `after` names. */
static int find_begin(struct lorica_request *request, const struct lorica_training_file_list *list,
                      const struct asked *asked, size_t *ret) {
    if (!asked->after)
        return 0;
    for (size_t i = 0; i < list->count; i++) {
        if (strcmp(at(list, asked, i)->id, asked->after) == 0) {
            *ret = i + 1;
            return 0;
        }
    }
    return lorica_request_fail(request, LORICA_ENOTFOUND, "after", NULL, "there is no file \"%s\"",
                               asked->after);
}

static void write_list(struct lorica_request *request, const struct lorica_training_file_list *list,
                       const struct asked *asked, size_t begin) {
    const struct lorica_training_file *first = NULL, *last = NULL;
    bool more = false;
    long long count = 0;
    struct lorica_jsonw w = lorica_request_json(request, 200);
    lorica_api_open_list(&w);
    for (size_t i = begin; i < list->count; i++) {
        const struct lorica_training_file *file = at(list, asked, i);
        if (asked->purpose && strcmp(file->purpose, asked->purpose) != 0)
            continue;
        more = count++ == asked->limit;
        if (more)
            break;
        write_file(&w, file);
        first = first ? first : file;
        last = file;
    }
    lorica_jsonw_end_array(&w);
    lorica_jsonw_string(&w, "first_id", first ? first->id : NULL);
    lorica_jsonw_string(&w, "last_id", last ? last->id : NULL);
    lorica_jsonw_bool(&w, "has_more", more);
    lorica_jsonw_end_object(&w);
}

int lorica_handle_files(struct lorica_request *request) {
    struct lorica_training_file_list list = {NULL, 0};
    struct lorica_error err = {0};
    struct asked asked = {.limit = 0};
    size_t begin = 0;
    int rc = ask(request, &asked);
    if (rc != 0)
        return rc;
    rc = lorica_training_files_list(request->server->parts.data_dir, &request->key, &list, &err);
    if (rc != 0)
        return lorica_request_fail(request, rc, NULL, NULL, "%s", err.text);
    rc = find_begin(request, &list, &asked, &begin);
    if (rc == 0)
        write_list(request, &list, &asked, begin);
    lorica_training_files_finish(&list);
    return rc;
}
