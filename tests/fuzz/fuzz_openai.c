/* SPDX-License-Identifier: MIT
 * A request from any bytes, at both endpoints. What is accepted lies within the limits; what is
 * refused has a sentence, and leaves nothing behind. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "proto/openai.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void check(const struct lorica_openai_request *r) {
    const bool sane =
        r->model && *r->model && r->n >= 1 && r->n <= LORICA_OPENAI_MAX_N && r->temperature >= 0 &&
        r->temperature <= 2 && r->top_p >= 0 && r->top_p <= 1 && r->min_p >= 0 && r->min_p <= 1 &&
        r->stop_count <= LORICA_OPENAI_MAX_STOP && r->bias_count <= LORICA_OPENAI_MAX_BIAS &&
        r->message_count <= LORICA_OPENAI_MAX_MESSAGES && r->top_logprobs >= -1 &&
        r->top_logprobs <= LORICA_OPENAI_MAX_TOP_LOGPROBS;
    if (!sane || (r->endpoint == LORICA_OPENAI_CHAT) != (r->message_count > 0))
        abort();
    for (size_t i = 0; i < r->message_count; i++)
        if (!r->messages[i].role || !r->messages[i].content)
            abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len) {
    for (int endpoint = LORICA_OPENAI_CHAT; endpoint <= LORICA_OPENAI_COMPLETION; endpoint++) {
        struct lorica_openai_request request;
        struct lorica_openai_fault fault;
        const int rc = lorica_openai_parse((enum lorica_openai_endpoint)endpoint,
                                           (const char *)data, len, &request, &fault);
        if (rc == 0)
            check(&request);
        else if (fault.err.code != rc || !*fault.err.text || request.root)
            abort();
        lorica_openai_finish(&request);
    }
    return 0;
}
