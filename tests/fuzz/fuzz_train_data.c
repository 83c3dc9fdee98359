/* SPDX-License-Identifier: MIT
 * A file of training data from any bytes behind the first, whose bits say how to read it. What is
 * read has something to learn and is no longer than allowed; what is refused has a sentence. */
#include "byte_tokenizer.h"

#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "runtime/train/data.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

#define MAX_LENGTH 64
enum { BIT_CSV = 1, BIT_WHOLE = 2, BIT_SKIP = 4, BIT_COLUMNS = 8 };

static void on_bad(void *arg, const char *path, uint32_t line, const char *what) {
    size_t *bad = arg;
    if (!path || line == 0 || !what[0])
        abort();
    (*bad)++;
}

static void check(const struct lorica_train_example *e) {
    uint32_t answers = 0;
    if (e->length == 0 || e->length > MAX_LENGTH || e->line == 0)
        abort();
    for (uint32_t i = 0; i < e->length; i++) {
        if (e->labels[i] != -100 && (i == 0 || e->labels[i] != e->ids[i]))
            abort();
        answers += e->labels[i] != -100;
    }
    if (answers == 0 || answers != e->answers)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len) {
    static struct lorica_tokenizer *tokenizer;
    static struct lorica_chat_template *chat;
    struct lorica_train_data read = {0};
    struct lorica_error err = {0};
    char path[64];
    if (!tokenizer)
        open_byte_tokenizer(&tokenizer, &chat);
    const int bits = len > 0 ? data[0] : 0;
    size_t bad = 0;
    const struct lorica_train_data_options options = {
        .tokenizer = tokenizer,
        .chat = chat,
        .max_length = MAX_LENGTH,
        .whole = bits & BIT_WHOLE,
        .format = bits & BIT_CSV ? LORICA_TRAIN_CSV : LORICA_TRAIN_JSONL,
        .columns = {bits & BIT_COLUMNS ? "q" : NULL, bits & BIT_COLUMNS ? "a" : NULL},
        .on_bad = bits & BIT_SKIP ? on_bad : NULL,
        .on_bad_arg = &bad};
    const int fd = memfd_create("data", MFD_CLOEXEC);
    if (fd < 0 || (len > 0 && write(fd, data + 1, len - 1) != (ssize_t)len - 1))
        abort();
    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    const char *const paths[] = {path};
    const int rc = lorica_train_data_load(paths, 1, &options, &read, &err);
    (void)close(fd);
    if (rc && (err.code != rc || !strstr(err.text, path)))
        abort();
    if (!rc && (read.count == 0 || read.bad != bad))
        abort();
    for (size_t i = 0; i < read.count; i++)
        check(&read.examples[i]);
    lorica_train_data_finish(&read);
    return 0;
}
