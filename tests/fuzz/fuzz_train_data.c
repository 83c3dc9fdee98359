/* SPDX-License-Identifier: MIT
 * A file of training data from any bytes. What is read has something to learn and is no longer than
 * allowed; what is refused has a sentence. */
#include "byte_tokenizer.h"

#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "runtime/train/data.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

#define MAX_LENGTH 64

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
    const int fd = memfd_create("data", MFD_CLOEXEC);
    if (fd < 0 || write(fd, data, len) != (ssize_t)len)
        abort();
    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    const int rc = lorica_train_data_load(path, tokenizer, chat, MAX_LENGTH, &read, &err);
    (void)close(fd);
    if (rc && (err.code != rc || !strstr(err.text, path)))
        abort();
    if (!rc && read.count == 0)
        abort();
    for (size_t i = 0; i < read.count; i++)
        check(&read.examples[i]);
    lorica_train_data_finish(&read);
    return 0;
}
