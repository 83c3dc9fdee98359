/* SPDX-License-Identifier: MIT
 * lorica train --check: what the data is like, and whether a run would take it. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "gateway/cmd/cmd.h"
#include "gateway/train/train.h"
#include "proto/json.h"
#include "runtime/train/check.h"

#define REPORT_MAX ((size_t)1 << 30)
#define PLACES_SHOWN 10 /* for people; --json lists all */
#define ANSWER_SHOWN 60 /* bytes */

/* A bad line. */
struct fault {
    const char *path; /* borrowed */
    char *what;       /* owned */
    uint32_t line;
};

struct report {
    const struct lorica_train_job *job;
    struct lorica_tokenizer *tokenizer;
    struct lorica_chat_template *chat;
    uint32_t max_length;
    struct lorica_train_data data;
    struct lorica_train_check check;
    struct fault *faults;
    size_t fault_count;
    bool no_memory;
    uint64_t learnt;     /* tokens in the loss of a run */
    size_t cut, dropped; /* examples longer than allowed; those of them with no answer left */
    size_t first;        /* the first example that a run would use; data.count: none */
    const char *useless; /* a file without a usable example, or NULL */
    struct lorica_error failed; /* why nothing could be read; code 0: it could */
};

static void keep_fault(void *arg, const char *path, uint32_t line, const char *what) {
    struct report *r = arg;
    struct fault *longer = reallocarray(r->faults, r->fault_count + 1, sizeof(*longer));
    char *copy = strdup(what);
    if (longer)
        r->faults = longer;
    if (!longer || !copy) {
        free(copy);
        r->no_memory = true;
        return;
    }
    r->faults[r->fault_count++] = (struct fault){.path = path, .what = copy, .line = line};
}

static void finish(struct report *r) {
    for (size_t i = 0; i < r->fault_count; i++)
        free(r->faults[i].what);
    free(r->faults);
    lorica_train_check_finish(&r->check);
    lorica_train_data_finish(&r->data);
    lorica_chat_destroy(r->chat);
    lorica_tokenizer_destroy(r->tokenizer);
}

/* -- what a run would make of it -- */

static bool is_learnt(const struct report *r, const struct lorica_train_example *e, uint32_t i) {
    return i > 0 && i < r->max_length && (r->job->whole || e->labels[i] != -100);
}

static uint32_t count_learnt(const struct report *r, const struct lorica_train_example *e) {
    uint32_t sum = 0;
    for (uint32_t i = 0; i < e->length; i++)
        sum += is_learnt(r, e, i);
    return sum;
}

static const char *path_of(const struct report *r, const struct lorica_train_example *e) {
    return r->job->data_paths[e->file];
}

static void foresee(struct report *r) {
    size_t file = 0;
    bool used = false;
    r->first = r->data.count;
    for (size_t i = 0; i < r->data.count; i++) {
        const struct lorica_train_example *e = &r->data.examples[i];
        const uint32_t learnt = count_learnt(r, e);
        if (e->file != file && !used && !r->useless)
            r->useless = r->job->data_paths[file];
        used = (used && e->file == file) || learnt > 0;
        file = e->file;
        r->learnt += learnt;
        r->cut += e->length > r->max_length;
        r->dropped += learnt == 0;
        if (learnt > 0 && i < r->first)
            r->first = i;
    }
    if (!used && !r->useless)
        r->useless = r->job->data_paths[file];
}

static bool stops(const struct report *r) {
    return r->failed.code != 0 || r->useless || (r->fault_count > 0 && !r->job->skip_bad);
}

static int look(struct report *r, const struct lorica_base *b, struct lorica_error *err) {
    const struct lorica_train_job *job = r->job;
    int rc = lorica_tokenizer_create(b->metadata, b->metadata_len, &r->tokenizer, err);
    if (!rc)
        rc = lorica_chat_create(b->metadata, b->metadata_len, &r->chat, err);
    if (rc)
        return rc;
    const struct lorica_train_data_options options = {.tokenizer = r->tokenizer,
                                                      .chat = r->chat,
                                                      .max_length = UINT32_MAX,
                                                      .columns = {job->columns[0], job->columns[1]},
                                                      .on_bad = keep_fault,
                                                      .on_bad_arg = r};
    r->max_length =
        job->max_length < b->arch.max_positions ? job->max_length : b->arch.max_positions;
    rc = lorica_train_spec_check(&job->spec, &b->arch, err);
    if (!rc && lorica_train_data_load(job->data_paths, job->data_count, &options, &r->data,
                                      &r->failed) != 0)
        return r->failed.code == LORICA_ENOMEM
                   ? lorica_fail(err, LORICA_ENOMEM, "%s", r->failed.text)
                   : 0;
    if (!rc && r->no_memory)
        rc = lorica_fail(err, LORICA_ENOMEM, "no memory for the list of bad lines");
    if (!rc)
        rc = lorica_train_check(&r->data, r->tokenizer, &r->check, err);
    if (!rc)
        foresee(r);
    return rc;
}

/* Text of tokens [from, to), special ones too; "" when memory is short. For free(). */
static char *text_of(const struct report *r, const struct lorica_train_example *e, uint32_t from,
                     uint32_t to, bool special, size_t *ret_len) {
    struct lorica_buf text;
    lorica_buf_init(&text, REPORT_MAX);
    for (uint32_t i = from; i < to; i++)
        (void)lorica_tokenizer_decode(r->tokenizer, e->ids[i], special, &text);
    (void)lorica_buf_puts(&text, "");
    return lorica_buf_take(&text, ret_len);
}

/* -- for programs -- */

static void put_place(struct lorica_jsonw *w, const char *key, const struct report *r,
                      const struct lorica_train_example *e) {
    lorica_jsonw_object(w, key);
    lorica_jsonw_string(w, "file", path_of(r, e));
    lorica_jsonw_integer(w, "line", e->line);
    lorica_jsonw_integer(w, "tokens", e->length);
    lorica_jsonw_end_object(w);
}

static void put_twins(struct lorica_jsonw *w, const char *key, const struct report *r,
                      const struct lorica_train_twin *twins, size_t count) {
    lorica_jsonw_array(w, key);
    for (size_t i = 0; i < count; i++) {
        lorica_jsonw_object(w, NULL);
        put_place(w, "earlier", r, &r->data.examples[twins[i].earlier]);
        put_place(w, "later", r, &r->data.examples[twins[i].later]);
        lorica_jsonw_end_object(w);
    }
    lorica_jsonw_end_array(w);
}

static void put_lengths(struct lorica_jsonw *w, const struct report *r) {
    lorica_jsonw_object(w, "lengths");
    lorica_jsonw_integer(w, "min", r->check.min);
    lorica_jsonw_integer(w, "median", r->check.median);
    lorica_jsonw_integer(w, "p95", r->check.p95);
    lorica_jsonw_integer(w, "max", r->check.max);
    lorica_jsonw_end_object(w);
    lorica_jsonw_integer(w, "max_length", r->max_length);
    lorica_jsonw_object(w, "over_long");
    lorica_jsonw_integer(w, "cut", (int64_t)(r->cut - r->dropped));
    lorica_jsonw_integer(w, "dropped", (int64_t)r->dropped);
    lorica_jsonw_array(w, "examples");
    for (size_t i = 0; i < r->data.count; i++)
        if (r->data.examples[i].length > r->max_length)
            put_place(w, NULL, r, &r->data.examples[i]);
    lorica_jsonw_end_array(w);
    lorica_jsonw_end_object(w);
}

static void put_first(struct lorica_jsonw *w, const struct report *r) {
    const struct lorica_train_example *e = &r->data.examples[r->first];
    const uint32_t length = e->length < r->max_length ? e->length : r->max_length;
    size_t len = 0;
    char *text = text_of(r, e, 0, length, true, &len);
    lorica_jsonw_object(w, "first");
    lorica_jsonw_string(w, "file", path_of(r, e));
    lorica_jsonw_integer(w, "line", e->line);
    lorica_jsonw_bytes(w, "text", text ? text : "", len);
    free(text);
    lorica_jsonw_array(w, "tokens");
    for (uint32_t i = 0; i < length; i++) {
        text = text_of(r, e, i, i + 1, true, &len);
        lorica_jsonw_object(w, NULL);
        lorica_jsonw_integer(w, "id", e->ids[i]);
        lorica_jsonw_bytes(w, "text", text ? text : "", text ? len : 0);
        lorica_jsonw_bool(w, "loss", is_learnt(r, e, i));
        lorica_jsonw_end_object(w);
        free(text);
    }
    lorica_jsonw_end_array(w);
    lorica_jsonw_end_object(w);
}

static void print_json(const struct report *r) {
    struct lorica_buf out;
    lorica_buf_init(&out, REPORT_MAX);
    struct lorica_jsonw w = {.out = &out};
    lorica_jsonw_object(&w, NULL);
    lorica_jsonw_bool(&w, "trains", !stops(r));
    if (r->failed.code)
        lorica_jsonw_string(&w, "error", r->failed.text);
    lorica_jsonw_integer(&w, "examples", (int64_t)r->data.count);
    lorica_jsonw_integer(&w, "tokens", (int64_t)r->check.tokens);
    lorica_jsonw_integer(&w, "loss_tokens", (int64_t)r->learnt);
    put_lengths(&w, r);
    put_twins(&w, "duplicates", r, r->check.duplicate, r->check.duplicates);
    put_twins(&w, "contradictions", r, r->check.contradiction, r->check.contradictions);
    lorica_jsonw_array(&w, "bad");
    for (size_t i = 0; i < r->fault_count; i++) {
        lorica_jsonw_object(&w, NULL);
        lorica_jsonw_string(&w, "file", r->faults[i].path);
        lorica_jsonw_integer(&w, "line", r->faults[i].line);
        lorica_jsonw_string(&w, "what", r->faults[i].what);
        lorica_jsonw_end_object(&w);
    }
    lorica_jsonw_end_array(&w);
    if (r->first < r->data.count)
        put_first(&w, r);
    lorica_jsonw_end_object(&w);
    (void)lorica_buf_puts(&out, "\n");
    if (lorica_buf_status(&out) == 0)
        (void)fwrite(out.data, 1, out.len, stdout);
    lorica_buf_finish(&out);
}

/* -- for people -- */

static void print_more(size_t count, const char *what) {
    if (count > PLACES_SHOWN)
        (void)printf("  and %zu more %s (--json lists all)\n", count - PLACES_SHOWN, what);
}

static void print_place(const struct report *r, const struct lorica_train_example *e) {
    (void)printf("%s:%u", path_of(r, e), e->line);
}

/* The beginning of an example's last answer, in quotes. */
static void print_answer(const struct report *r, const struct lorica_train_example *e) {
    size_t len = 0;
    char *text = text_of(r, e, lorica_train_answer_start(e), e->length, false, &len);
    while (text && len > 0 && strchr(" \n", text[len - 1]))
        len--;
    size_t shown = len > ANSWER_SHOWN ? ANSWER_SHOWN : len;
    while (text && shown < len && shown > 0 && ((unsigned char)text[shown] & 0xc0) == 0x80)
        shown--;
    (void)printf("\"");
    for (size_t i = 0; text && i < shown; i++)
        if (text[i] == '\n' || text[i] == '\t')
            text[i] = ' ';
    lorica_print_plain(stdout, text ? text : "", text ? shown : 0);
    (void)printf("%s\"", shown < len ? "..." : "");
    free(text);
}

static void print_twins(const struct report *r) {
    const struct lorica_train_check *c = &r->check;
    (void)printf("%zu duplicates\n", c->duplicates);
    for (size_t i = 0; i < c->duplicates && i < PLACES_SHOWN; i++) {
        (void)printf("  ");
        print_place(r, &r->data.examples[c->duplicate[i].later]);
        (void)printf(" repeats ");
        print_place(r, &r->data.examples[c->duplicate[i].earlier]);
        (void)printf("\n");
    }
    print_more(c->duplicates, "duplicates");
    (void)printf("%zu contradictory answers\n", c->contradictions);
    for (size_t i = 0; i < c->contradictions && i < PLACES_SHOWN; i++) {
        const struct lorica_train_example *later = &r->data.examples[c->contradiction[i].later];
        const struct lorica_train_example *earlier = &r->data.examples[c->contradiction[i].earlier];
        (void)printf("  ");
        print_place(r, later);
        (void)printf(" says ");
        print_answer(r, later);
        (void)printf(" where ");
        print_place(r, earlier);
        (void)printf(" says ");
        print_answer(r, earlier);
        (void)printf("\n");
    }
    print_more(c->contradictions, "contradictory answers");
}

static void print_over_long(const struct report *r) {
    size_t shown = 0;
    (void)printf("%zu longer than %u tokens", r->cut, r->max_length);
    if (r->cut > 0)
        (void)printf(": %zu would lose their end, %zu would be left out, with nothing of the "
                     "answer left; --max-length raises the limit",
                     r->cut - r->dropped, r->dropped);
    (void)printf("\n");
    for (size_t i = 0; i < r->data.count && shown < PLACES_SHOWN; i++) {
        const struct lorica_train_example *e = &r->data.examples[i];
        if (e->length <= r->max_length)
            continue;
        (void)printf("  ");
        print_place(r, e);
        (void)printf(": %u tokens%s\n", e->length, count_learnt(r, e) ? "" : ", left out");
        shown++;
    }
    print_more(r->cut, "over-long examples");
}

static void print_first(const struct report *r) {
    const struct lorica_train_example *e = &r->data.examples[r->first];
    const uint32_t length = e->length < r->max_length ? e->length : r->max_length;
    const bool terminal = isatty(STDOUT_FILENO) == 1;
    (void)printf("the first example (");
    print_place(r, e);
    (void)printf("), %u tokens; the %u in the loss stand in [[ ]]:\n\n", length,
                 count_learnt(r, e));
    for (uint32_t i = 0, end = 0; i < length; i = end) {
        const bool learnt = is_learnt(r, e, i);
        size_t len = 0;
        while (end < length && is_learnt(r, e, end) == learnt)
            end++;
        char *text = text_of(r, e, i, end, true, &len);
        (void)printf("%s", !learnt ? "" : terminal ? "\033[1;32m[[" : "[[");
        lorica_print_plain(stdout, text ? text : "", text ? len : 0);
        (void)printf("%s", !learnt ? "" : terminal ? "]]\033[0m" : "]]");
        free(text);
    }
    (void)printf("\n");
}

static void print_people(const struct report *r) {
    if (!r->failed.code) {
        (void)printf("%zu examples, %llu tokens, %llu of them in the loss\n", r->data.count,
                     (unsigned long long)r->check.tokens, (unsigned long long)r->learnt);
        (void)printf("tokens of an example: min %u, median %u, p95 %u, max %u\n", r->check.min,
                     r->check.median, r->check.p95, r->check.max);
        print_over_long(r);
        print_twins(r);
    }
    if (!r->failed.code || r->fault_count > 0)
        (void)printf("%zu bad lines\n", r->fault_count);
    for (size_t i = 0; i < r->fault_count; i++)
        (void)printf("  %s: line %u: %s\n", r->faults[i].path, r->faults[i].line,
                     r->faults[i].what);
    if (r->first < r->data.count)
        print_first(r);
    (void)fflush(stdout);
}

static void print_verdict(const struct report *r) {
    if (r->failed.code)
        (void)fprintf(stderr, "lorica: %s\n", r->failed.text);
    else if (r->useless)
        (void)fprintf(stderr,
                      "lorica: %s: no usable example: every answer lies behind the longest length; "
                      "allow longer ones (--max-length)\n",
                      r->useless);
    else if (stops(r))
        (void)fprintf(stderr,
                      "lorica: %zu bad lines would stop the training; correct them, or leave them "
                      "out (--skip-bad)\n",
                      r->fault_count);
}

int lorica_train_check_job(const struct lorica_train_job *job) {
    struct lorica_train_session s = {0};
    struct report r = {.job = job};
    struct lorica_error err = {0};
    int rc = lorica_train_open(&s, job, &err);
    if (!rc)
        rc = look(&r, s.base, &err);
    if (!rc && job->json)
        print_json(&r);
    else if (!rc)
        print_people(&r);
    if (!rc)
        print_verdict(&r);
    const int status = rc ? lorica_cmd_fail(&err) : stops(&r) ? LORICA_EXIT_FAILED : LORICA_EXIT_OK;
    finish(&r);
    lorica_train_close(&s);
    return status;
}
