/* SPDX-License-Identifier: MIT
 * An adapter's config from any bytes. What parses must, written, parse again and serve alike. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "proto/peft.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void ask(const struct lorica_peft_config *config) {
    static const char *const modules[] = {"model.layers.3.self_attn.q_proj",
                                          "model.layers.11.mlp.down_proj"};
    for (size_t i = 0; i < sizeof(modules) / sizeof(modules[0]); i++) {
        uint32_t rank;
        double scale;
        bool targets;
        if (lorica_peft_module(config, modules[i], &rank, &scale, NULL) == 0 &&
            (rank < 1 || rank > 4096))
            abort();
        (void)!lorica_peft_targets(config, modules[i], &targets, NULL);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len) {
    struct lorica_peft_config first, second;
    struct lorica_buf text, a, b;
    if (lorica_peft_parse((const char *)data, len, &first, NULL) != 0)
        return 0;
    ask(&first);
    lorica_buf_init(&text, SIZE_MAX / 4);
    lorica_buf_init(&a, SIZE_MAX / 4);
    lorica_buf_init(&b, SIZE_MAX / 4);
    if (lorica_peft_write(&text, &first) != 0 ||
        lorica_peft_parse(text.data, text.len, &second, NULL) != 0)
        abort();
    if (lorica_peft_canonical(&a, &first) != 0 || lorica_peft_canonical(&b, &second) != 0 ||
        a.len != b.len || memcmp(a.data, b.data, a.len) != 0)
        abort();
    lorica_peft_finish(&first);
    lorica_peft_finish(&second);
    lorica_buf_finish(&text);
    lorica_buf_finish(&a);
    lorica_buf_finish(&b);
    return 0;
}
