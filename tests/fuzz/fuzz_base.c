/* SPDX-License-Identifier: MIT
 * A base file from any bytes. All values of one that opens are read, so that a sanitizer sees what
 * lies outside. */
#include "base_input.h"

#include "runtime/chat.h"
#include "runtime/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void read_values(const struct lorica_base *base) {
    uint64_t count;
    (void)lorica_base_table(base, &count);
    for (uint64_t i = 0; i < count; i++) {
        struct lorica_matrix scratch;
        const struct lorica_matrix *m = lorica_base_matrix(base, i, &scratch);
        float *row = malloc(m->k * sizeof(*row));
        for (uint32_t r = 0; row && r < m->n; r++)
            lorica_matrix_rows_f32(m, r, 1, row);
        free(row);
    }
}

static void use(const struct lorica_base *base) {
    struct lorica_tokenizer *tokenizer = NULL;
    struct lorica_chat_template *chat = NULL;
    struct lorica_error err = {0};
    struct lorica_buf out;
    lorica_buf_init(&out, 1u << 24);
    read_values(base);
    for (int json = 0; json < 2; json++)
        (void)!lorica_base_inspect(base, json, &out);
    lorica_buf_finish(&out);
    const int sound = lorica_base_verify(base, &fnv_hasher, &err);
    if (sound)
        expect_sentence(sound, &err);
    if (lorica_tokenizer_create(base->metadata, base->metadata_len, &tokenizer, NULL) == 0)
        lorica_tokenizer_destroy(tokenizer);
    if (lorica_chat_create(base->metadata, base->metadata_len, &chat, NULL) == 0)
        lorica_chat_destroy(chat);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len) {
    struct lorica_base *base = NULL;
    struct lorica_error err = {0};
    const int fd = file_of(data, len);
    const int rc = lorica_base_open_fd(fd, "input", &base, &err);
    (void)close(fd);
    if (rc) {
        expect_sentence(rc, &err);
        return 0;
    }
    use(base);
    lorica_base_close(base);
    return 0;
}
