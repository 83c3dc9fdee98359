/* SPDX-License-Identifier: MIT
 * One table of keys: each is read by a function, or accepted only with values that change nothing.
 * A key that stands in neither is refused by its name. */
#include "proto/openai.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/buf.h"

struct parse {
    struct lorica_openai_request *request;
    struct lorica_openai_fault *fault;
    bool has_max_tokens;
    bool has_stream_options;
    int64_t best_of; /* 0: not given */
    bool logprobs;   /* chat */
    bool has_top;    /* chat: top_logprobs was given */
};

enum { CHAT = 1 << LORICA_OPENAI_CHAT, TEXT = 1 << LORICA_OPENAI_COMPLETION, BOTH = CHAT | TEXT };

static const char invalid_value[] = "invalid_value";
static const char invalid_type[] = "invalid_type";
static const char missing[] = "missing_required_parameter";
static const char unsupported[] = "unsupported_parameter";
static const char unsupported_value[] = "unsupported_value";
static const char unknown[] = "unknown_parameter";

/* Fills the fault. `param` may be what fault->param holds already. */
static int refuse(struct parse *p, int rc, const char *code, const char *param, const char *fmt,
                  ...) LORICA_PRINTF(5, 6);

static int refuse(struct parse *p, int rc, const char *code, const char *param, const char *fmt,
                  ...) {
    char sentence[300];
    va_list args;
    va_start(args, fmt);
    vsnprintf(sentence, sizeof(sentence), fmt, args);
    va_end(args);
    if (param != p->fault->param)
        snprintf(p->fault->param, sizeof(p->fault->param), "%s", param);
    p->fault->code = code;
    return lorica_fail(&p->fault->err, rc, "%s%s%s", p->fault->param, *p->fault->param ? ": " : "",
                       sentence);
}

enum { PATH = sizeof(((struct lorica_openai_fault *)0)->param) };

/* Where in the body something stands; cut short where a client's own key is long. */
static void path(char out[PATH], const char *fmt, ...) LORICA_PRINTF(2, 3);

static void path(char out[PATH], const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    vsnprintf(out, PATH, fmt, args);
    va_end(args);
}

static int no_memory(struct parse *p) {
    return refuse(p, LORICA_ENOMEM, NULL, "", "no memory for the request");
}

static int wrong_type(struct parse *p, const char *param, const char *wanted,
                      const struct lorica_json *value) {
    return refuse(p, LORICA_EINVAL, invalid_type, param, "must be %s, not %s", wanted,
                  lorica_json_type_name(lorica_json_type(value)));
}

/* Readers of one key each: the key's name and its value, which is not null. */

static int read_integer(struct parse *p, const char *key, const struct lorica_json *value,
                        int64_t min, int64_t max, int64_t *ret) {
    if (lorica_json_type(value) != LORICA_JSON_NUMBER)
        return wrong_type(p, key, "an integer", value);
    if (lorica_json_integer(value, min, max, ret))
        return refuse(p, LORICA_EINVAL, invalid_value, key, "must be an integer from %lld to %lld",
                      (long long)min, (long long)max);
    return 0;
}

static int read_number(struct parse *p, const char *key, const struct lorica_json *value,
                       double min, double max, double *ret) {
    if (lorica_json_type(value) != LORICA_JSON_NUMBER)
        return wrong_type(p, key, "a number", value);
    const double number = lorica_json_number(value, 0);
    if (!(number >= min && number <= max))
        return refuse(p, LORICA_EINVAL, invalid_value, key, "must be from %g to %g", min, max);
    *ret = number;
    return 0;
}

static int read_bool(struct parse *p, const char *key, const struct lorica_json *value, bool *ret) {
    if (lorica_json_type(value) != LORICA_JSON_BOOL)
        return wrong_type(p, key, "true or false", value);
    *ret = lorica_json_is_true(value);
    return 0;
}

static int read_string(struct parse *p, const char *key, const struct lorica_json *value,
                       size_t min, size_t max, const char **ret) {
    const char *text = lorica_json_string(value);
    if (!text)
        return wrong_type(p, key, "a string", value);
    if (strlen(text) < min || strlen(text) > max)
        return refuse(p, LORICA_EINVAL, invalid_value, key, "must be a string of %zu to %zu bytes",
                      min, max);
    *ret = text;
    return 0;
}

static int read_model(struct parse *p, const char *key, const struct lorica_json *value) {
    return read_string(p, key, value, 1, LORICA_OPENAI_MAX_MODEL_BYTES, &p->request->model);
}

static int read_user(struct parse *p, const char *key, const struct lorica_json *value) {
    return read_string(p, key, value, 0, LORICA_OPENAI_MAX_MODEL_BYTES, &p->request->user);
}

static int read_stream(struct parse *p, const char *key, const struct lorica_json *value) {
    return read_bool(p, key, value, &p->request->stream);
}

static int read_ignore_eos(struct parse *p, const char *key, const struct lorica_json *value) {
    return read_bool(p, key, value, &p->request->ignore_eos);
}

static int read_stream_options(struct parse *p, const char *key, const struct lorica_json *value) {
    if (lorica_json_type(value) != LORICA_JSON_OBJECT)
        return wrong_type(p, key, "an object", value);
    p->has_stream_options = true;
    for (const struct lorica_json *c = lorica_json_first(value); c; c = lorica_json_next(c)) {
        const char *name = lorica_json_key(c);
        char param[PATH];
        path(param, "%s.%s", key, name);
        if (lorica_json_type(c) == LORICA_JSON_NULL)
            continue;
        int rc = 0;
        if (strcmp(name, "include_usage") == 0)
            rc = read_bool(p, param, c, &p->request->include_usage);
        else if (strcmp(name, "include_obfuscation") != 0)
            rc = refuse(p, LORICA_EUNSUPPORTED, unknown, param, "is not known");
        else if (lorica_json_type(c) != LORICA_JSON_BOOL || lorica_json_is_true(c))
            rc = refuse(p, LORICA_EUNSUPPORTED, unsupported_value, param,
                        "is not supported, leave it out");
        if (rc)
            return rc;
    }
    return 0;
}

static int read_max_tokens(struct parse *p, const char *key, const struct lorica_json *value) {
    int64_t number = 0;
    const int rc = read_integer(p, key, value, 1, LORICA_OPENAI_MAX_TOKENS, &number);
    if (rc)
        return rc;
    if (p->has_max_tokens && p->request->max_tokens != (uint32_t)number)
        return refuse(p, LORICA_EINVAL, invalid_value, key,
                      "max_tokens and max_completion_tokens contradict each other");
    p->has_max_tokens = true;
    p->request->max_tokens = (uint32_t)number;
    return 0;
}

static int read_temperature(struct parse *p, const char *key, const struct lorica_json *value) {
    return read_number(p, key, value, 0, 2, &p->request->temperature);
}

static int read_top_p(struct parse *p, const char *key, const struct lorica_json *value) {
    return read_number(p, key, value, 0, 1, &p->request->top_p);
}

static int read_min_p(struct parse *p, const char *key, const struct lorica_json *value) {
    return read_number(p, key, value, 0, 1, &p->request->min_p);
}

static int read_presence(struct parse *p, const char *key, const struct lorica_json *value) {
    return read_number(p, key, value, -2, 2, &p->request->presence_penalty);
}

static int read_frequency(struct parse *p, const char *key, const struct lorica_json *value) {
    return read_number(p, key, value, -2, 2, &p->request->frequency_penalty);
}

static int read_top_k(struct parse *p, const char *key, const struct lorica_json *value) {
    int64_t number = 0;
    const int rc = read_integer(p, key, value, -1, INT32_MAX, &number);
    if (rc == 0)
        p->request->top_k = number < 0 ? 0 : (uint32_t)number;
    return rc;
}

static int read_seed(struct parse *p, const char *key, const struct lorica_json *value) {
    const int64_t limit = INT64_C(1) << 53;
    int64_t number = 0;
    const int rc = read_integer(p, key, value, -limit, limit, &number);
    if (rc == 0) {
        p->request->has_seed = true;
        p->request->seed = (uint64_t)number;
    }
    return rc;
}

static int read_n(struct parse *p, const char *key, const struct lorica_json *value) {
    int64_t number = 0;
    const int rc = read_integer(p, key, value, 1, LORICA_OPENAI_MAX_N, &number);
    if (rc == 0)
        p->request->n = (uint32_t)number;
    return rc;
}

static int read_best_of(struct parse *p, const char *key, const struct lorica_json *value) {
    return read_integer(p, key, value, 1, LORICA_OPENAI_MAX_N, &p->best_of);
}

static int read_logprobs(struct parse *p, const char *key, const struct lorica_json *value) {
    if (p->request->endpoint == LORICA_OPENAI_CHAT)
        return read_bool(p, key, value, &p->logprobs);
    int64_t number = 0;
    const int rc = read_integer(p, key, value, 0, LORICA_OPENAI_MAX_TOP_LOGPROBS, &number);
    if (rc == 0)
        p->request->top_logprobs = (int)number;
    return rc;
}

static int read_top_logprobs(struct parse *p, const char *key, const struct lorica_json *value) {
    int64_t number = 0;
    const int rc = read_integer(p, key, value, 0, LORICA_OPENAI_MAX_TOP_LOGPROBS, &number);
    if (rc == 0) {
        p->has_top = true;
        p->request->top_logprobs = (int)number;
    }
    return rc;
}

static int read_stop(struct parse *p, const char *key, const struct lorica_json *value) {
    struct lorica_openai_request *request = p->request;
    if (lorica_json_type(value) == LORICA_JSON_STRING) {
        request->stop_count = 1;
        return read_string(p, key, value, 1, LORICA_OPENAI_MAX_STOP_BYTES, &request->stop[0]);
    }
    if (lorica_json_type(value) != LORICA_JSON_ARRAY)
        return wrong_type(p, key, "a string or an array of strings", value);
    for (const struct lorica_json *c = lorica_json_first(value); c; c = lorica_json_next(c)) {
        char param[PATH];
        path(param, "%s[%zu]", key, request->stop_count);
        if (request->stop_count == LORICA_OPENAI_MAX_STOP)
            return refuse(p, LORICA_ELIMIT, invalid_value, key, "holds more than %d strings",
                          LORICA_OPENAI_MAX_STOP);
        const int rc = read_string(p, param, c, 1, LORICA_OPENAI_MAX_STOP_BYTES,
                                   &request->stop[request->stop_count]);
        if (rc)
            return rc;
        request->stop_count++;
    }
    return 0;
}

/* A token id written as JSON keys have it: decimal, no sign, no leading zero. */
static bool read_id(const char *text, int32_t *ret) {
    const size_t digits = strspn(text, "0123456789");
    if (digits == 0 || digits > 10 || text[digits] || (text[0] == '0' && digits > 1))
        return false;
    int64_t number = 0;
    for (size_t i = 0; i < digits; i++)
        number = number * 10 + (text[i] - '0');
    *ret = (int32_t)number;
    return number <= INT32_MAX;
}

static int read_logit_bias(struct parse *p, const char *key, const struct lorica_json *value) {
    if (lorica_json_type(value) != LORICA_JSON_OBJECT)
        return wrong_type(p, key, "an object", value);
    const size_t count = lorica_json_count(value);
    if (count > LORICA_OPENAI_MAX_BIAS)
        return refuse(p, LORICA_ELIMIT, invalid_value, key, "holds more than %d tokens",
                      LORICA_OPENAI_MAX_BIAS);
    p->request->bias = calloc(count + 1, sizeof(*p->request->bias));
    if (!p->request->bias)
        return no_memory(p);
    for (const struct lorica_json *c = lorica_json_first(value); c; c = lorica_json_next(c)) {
        struct lorica_openai_bias *bias = &p->request->bias[p->request->bias_count++];
        double number = 0;
        char param[PATH];
        path(param, "%s.%s", key, lorica_json_key(c));
        if (!read_id(lorica_json_key(c), &bias->id))
            return refuse(p, LORICA_EINVAL, invalid_value, param, "the key must be a token id");
        const int rc = read_number(p, param, c, -100, 100, &number);
        if (rc)
            return rc;
        bias->bias = (float)number;
    }
    return 0;
}

static int read_prompt_ids(struct parse *p, const char *key, const struct lorica_json *value) {
    const size_t count = lorica_json_count(value);
    p->request->prompt_ids = calloc(count, sizeof(*p->request->prompt_ids));
    if (!p->request->prompt_ids)
        return no_memory(p);
    for (const struct lorica_json *c = lorica_json_first(value); c; c = lorica_json_next(c)) {
        int64_t id = 0;
        char param[PATH];
        path(param, "%s[%zu]", key, p->request->prompt_id_count);
        const int rc = read_integer(p, param, c, 0, INT32_MAX, &id);
        if (rc)
            return rc;
        p->request->prompt_ids[p->request->prompt_id_count++] = (int32_t)id;
    }
    return 0;
}

static int read_prompt(struct parse *p, const char *key, const struct lorica_json *value) {
    const struct lorica_json *first = lorica_json_first(value);
    switch (lorica_json_type(value)) {
    case LORICA_JSON_STRING:
        p->request->prompt = lorica_json_string(value);
        return 0;
    case LORICA_JSON_ARRAY:
        if (!first)
            return refuse(p, LORICA_EINVAL, invalid_value, key, "must not be empty");
        if (lorica_json_type(first) == LORICA_JSON_NUMBER)
            return read_prompt_ids(p, key, value);
        if (lorica_json_next(first) || lorica_json_type(first) != LORICA_JSON_STRING)
            return refuse(p, LORICA_EUNSUPPORTED, unsupported_value, key,
                          "must be one string, an array of one string, or an array of token ids; "
                          "send one request per prompt");
        p->request->prompt = lorica_json_string(first);
        return 0;
    default:
        return wrong_type(p, key, "a string or an array", value);
    }
}

/* One part of a content array: {"type":"text","text":...}, and nothing else. */
static int read_part(struct parse *p, const char *param, const struct lorica_json *part,
                     const char **ret) {
    char where[PATH];
    if (lorica_json_type(part) != LORICA_JSON_OBJECT)
        return wrong_type(p, param, "an object", part);
    const char *type = lorica_json_string(lorica_json_get(part, "type"));
    if (!type || strcmp(type, "text") != 0) {
        path(where, "%s.type", param);
        return refuse(p, LORICA_EUNSUPPORTED, unsupported_value, where,
                      "only parts of the type \"text\" are supported");
    }
    for (const struct lorica_json *c = lorica_json_first(part); c; c = lorica_json_next(c)) {
        const char *name = lorica_json_key(c);
        if (strcmp(name, "type") == 0 || strcmp(name, "text") == 0)
            continue;
        path(where, "%s.%s", param, name);
        return refuse(p, LORICA_EUNSUPPORTED, unknown, where, "is not known");
    }
    *ret = lorica_json_string(lorica_json_get(part, "text"));
    if (*ret)
        return 0;
    path(where, "%s.text", param);
    return refuse(p, LORICA_EINVAL, missing, where, "must be a string");
}

static int read_parts(struct parse *p, const char *param, const struct lorica_json *value,
                      char **ret) {
    struct lorica_buf text;
    size_t index = 0;
    lorica_buf_init(&text, SIZE_MAX / 4);
    if (!lorica_json_first(value))
        return refuse(p, LORICA_EINVAL, invalid_value, param, "must not be empty");
    lorica_buf_append(&text, "", 0);
    for (const struct lorica_json *c = lorica_json_first(value); c; c = lorica_json_next(c)) {
        const char *part = NULL;
        char where[PATH];
        path(where, "%s[%zu]", param, index);
        const int rc = read_part(p, where, c, &part);
        if (rc) {
            lorica_buf_finish(&text);
            return rc;
        }
        if (index++)
            lorica_buf_puts(&text, "\n");
        lorica_buf_puts(&text, part);
    }
    *ret =
        lorica_buf_status(&text) == 0 && text.len == 0 ? strdup("") : lorica_buf_take(&text, NULL);
    lorica_buf_finish(&text);
    return *ret ? 0 : no_memory(p);
}

static int read_role(struct parse *p, const char *param, const struct lorica_json *value,
                     const char **ret) {
    static const char *const roles[][2] = {
        {"system", "system"},
        {"developer", "system"},
        {"user", "user"},
        {"assistant", "assistant"},
    };
    char where[PATH];
    path(where, "%s.role", param);
    const char *role = lorica_json_string(value);
    if (!role)
        return refuse(p, LORICA_EINVAL, missing, where, "must be a string");
    for (size_t i = 0; i < sizeof(roles) / sizeof(roles[0]); i++) {
        if (strcmp(role, roles[i][0]) == 0) {
            *ret = roles[i][1];
            return 0;
        }
    }
    return refuse(p, LORICA_EUNSUPPORTED, unsupported_value, where,
                  "must be system, developer, user or assistant");
}

/* The keys of a message beside role and content. An answer's message sent back as it came holds
 * empty ones. */
static int check_message_keys(struct parse *p, const char *param,
                              const struct lorica_json *message) {
    static const char *const empty[] = {
        "name",        "refusal",          "audio", "tool_calls", "function_call",
        "annotations", "reasoning_content"};
    for (const struct lorica_json *c = lorica_json_first(message); c; c = lorica_json_next(c)) {
        const char *name = lorica_json_key(c);
        if (strcmp(name, "role") == 0 || strcmp(name, "content") == 0)
            continue;
        bool known = false;
        for (size_t i = 0; i < sizeof(empty) / sizeof(empty[0]); i++)
            known = known || strcmp(name, empty[i]) == 0;
        const bool is_empty = lorica_json_type(c) == LORICA_JSON_NULL ||
                              (lorica_json_type(c) == LORICA_JSON_ARRAY && !lorica_json_first(c));
        if (known && is_empty)
            continue;
        char where[PATH];
        path(where, "%s.%s", param, name);
        return refuse(p, LORICA_EUNSUPPORTED, known ? unsupported : unknown, where, "%s",
                      known ? "is not supported, leave it out" : "is not known");
    }
    return 0;
}

static int read_message(struct parse *p, const char *param, const struct lorica_json *value,
                        struct lorica_openai_message *ret) {
    if (lorica_json_type(value) != LORICA_JSON_OBJECT)
        return wrong_type(p, param, "an object", value);
    int rc = read_role(p, param, lorica_json_get(value, "role"), &ret->role);
    if (rc == 0)
        rc = check_message_keys(p, param, value);
    if (rc)
        return rc;
    const struct lorica_json *content = lorica_json_get(value, "content");
    char where[PATH];
    path(where, "%s.content", param);
    switch (lorica_json_type(content)) {
    case LORICA_JSON_STRING:
        ret->content = strdup(lorica_json_string(content));
        return ret->content ? 0 : no_memory(p);
    case LORICA_JSON_ARRAY:
        return read_parts(p, where, content, &ret->content);
    case LORICA_JSON_NULL:
        return refuse(p, LORICA_EINVAL, missing, where, "must be a string");
    default:
        return wrong_type(p, where, "a string or an array of text parts", content);
    }
}

static int read_messages(struct parse *p, const char *key, const struct lorica_json *value) {
    if (lorica_json_type(value) != LORICA_JSON_ARRAY)
        return wrong_type(p, key, "an array", value);
    const size_t count = lorica_json_count(value);
    if (count == 0)
        return refuse(p, LORICA_EINVAL, invalid_value, key, "must not be empty");
    if (count > LORICA_OPENAI_MAX_MESSAGES)
        return refuse(p, LORICA_ELIMIT, invalid_value, key, "holds more than %d messages",
                      LORICA_OPENAI_MAX_MESSAGES);
    p->request->messages = calloc(count, sizeof(*p->request->messages));
    if (!p->request->messages)
        return no_memory(p);
    for (const struct lorica_json *c = lorica_json_first(value); c; c = lorica_json_next(c)) {
        const size_t index = p->request->message_count++;
        char param[PATH];
        path(param, "%s[%zu]", key, index);
        const int rc = read_message(p, param, c, &p->request->messages[index]);
        if (rc)
            return rc;
    }
    return 0;
}

/* What lorica does. */
static const struct {
    const char *key;
    unsigned endpoints;
    int (*read)(struct parse *p, const char *key, const struct lorica_json *value);
} readers[] = {
    {"model", BOTH, read_model},
    {"messages", CHAT, read_messages},
    {"prompt", TEXT, read_prompt},
    {"stream", BOTH, read_stream},
    {"stream_options", BOTH, read_stream_options},
    {"max_tokens", BOTH, read_max_tokens},
    {"max_completion_tokens", CHAT, read_max_tokens},
    {"temperature", BOTH, read_temperature},
    {"top_p", BOTH, read_top_p},
    {"top_k", BOTH, read_top_k},
    {"min_p", BOTH, read_min_p},
    {"seed", BOTH, read_seed},
    {"stop", BOTH, read_stop},
    {"n", BOTH, read_n},
    {"best_of", TEXT, read_best_of},
    {"logprobs", BOTH, read_logprobs},
    {"top_logprobs", CHAT, read_top_logprobs},
    {"presence_penalty", BOTH, read_presence},
    {"frequency_penalty", BOTH, read_frequency},
    {"logit_bias", BOTH, read_logit_bias},
    {"ignore_eos", BOTH, read_ignore_eos},
    {"user", BOTH, read_user},
};

/* What lorica does not do, with the values (null aside) that ask for nothing: compact JSON, or a
 * type's name from lorica_json_type_name for a label that never changes an answer. */
static const struct {
    const char *key;
    unsigned endpoints;
    const char *harmless[2];
} others[] = {
    {"audio", CHAT, {NULL}},
    {"echo", TEXT, {"false"}},
    {"function_call", CHAT, {"\"none\"", "\"auto\""}},
    {"functions", CHAT, {"[]"}},
    {"metadata", CHAT, {"an object"}},
    {"modalities", CHAT, {"[\"text\"]"}},
    {"parallel_tool_calls", CHAT, {"true or false"}},
    {"prediction", CHAT, {NULL}},
    {"prompt_cache_key", CHAT, {"a string"}},
    {"prompt_cache_retention", CHAT, {NULL}},
    {"reasoning_effort", CHAT, {"\"none\""}},
    {"repetition_penalty", BOTH, {"1", "1.0"}},
    {"response_format", CHAT, {"{\"type\":\"text\"}"}},
    {"safety_identifier", CHAT, {"a string"}},
    {"service_tier", CHAT, {"\"auto\"", "\"default\""}},
    {"store", CHAT, {"false"}},
    {"suffix", TEXT, {NULL}},
    {"tool_choice", CHAT, {"\"none\"", "\"auto\""}},
    {"tools", CHAT, {"[]"}},
    {"verbosity", CHAT, {NULL}},
    {"web_search_options", CHAT, {NULL}},
};

static bool is_harmless(const struct lorica_json *value, const char *const harmless[2]) {
    struct lorica_buf text;
    bool is = false;
    lorica_buf_init(&text, 64);
    lorica_json_write(&text, value);
    for (int i = 0; i < 2 && harmless[i]; i++)
        is = is || strcmp(harmless[i], lorica_json_type_name(lorica_json_type(value))) == 0 ||
             (lorica_buf_status(&text) == 0 && strcmp(harmless[i], text.data) == 0);
    lorica_buf_finish(&text);
    return is;
}

static int read_key(struct parse *p, const char *key, const struct lorica_json *value) {
    const unsigned endpoint = 1u << p->request->endpoint;
    const bool null = lorica_json_type(value) == LORICA_JSON_NULL;
    for (size_t i = 0; i < sizeof(readers) / sizeof(readers[0]); i++)
        if ((readers[i].endpoints & endpoint) && strcmp(key, readers[i].key) == 0)
            return null ? 0 : readers[i].read(p, readers[i].key, value);
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
        if (!(others[i].endpoints & endpoint) || strcmp(key, others[i].key) != 0)
            continue;
        if (null || is_harmless(value, others[i].harmless))
            return 0;
        return refuse(p, LORICA_EUNSUPPORTED, unsupported, key,
                      "this value is not supported, leave it out");
    }
    return refuse(p, LORICA_EUNSUPPORTED, unknown, key, "is not a parameter of this endpoint");
}

/* What keys say together. */
static int check_whole(struct parse *p) {
    struct lorica_openai_request *request = p->request;
    const bool chat = request->endpoint == LORICA_OPENAI_CHAT;
    if (!request->model)
        return refuse(p, LORICA_EINVAL, missing, "model", "is missing");
    if (chat && !request->messages)
        return refuse(p, LORICA_EINVAL, missing, "messages", "is missing");
    if (!chat && !request->prompt && !request->prompt_ids)
        return refuse(p, LORICA_EINVAL, missing, "prompt", "is missing");
    if (p->has_stream_options && !request->stream)
        return refuse(p, LORICA_EINVAL, invalid_value, "stream_options",
                      "is allowed only when stream is true");
    if (p->best_of && p->best_of != (int64_t)request->n)
        return refuse(p, LORICA_EUNSUPPORTED, unsupported_value, "best_of",
                      "is not supported unless it equals n");
    if (chat && p->has_top && !p->logprobs)
        return refuse(p, LORICA_EINVAL, invalid_value, "top_logprobs",
                      "is allowed only when logprobs is true");
    if (p->logprobs && !p->has_top)
        request->top_logprobs = 0;
    if (!chat && request->max_tokens == 0)
        request->max_tokens = 16;
    return 0;
}

int lorica_openai_parse(enum lorica_openai_endpoint endpoint, const char *body, size_t len,
                        struct lorica_openai_request *ret, struct lorica_openai_fault *fault) {
    struct parse p = {.request = ret, .fault = fault};
    *ret = (struct lorica_openai_request){
        .endpoint = endpoint, .temperature = 1, .top_p = 1, .n = 1, .top_logprobs = -1};
    *fault = (struct lorica_openai_fault){0};
    int rc = lorica_json_parse(body, len, &ret->root, &fault->err);
    if (rc == 0 && lorica_json_type(ret->root) != LORICA_JSON_OBJECT)
        rc = lorica_fail(&fault->err, LORICA_EFORMAT, "the body must be a JSON object");
    const struct lorica_json *c = rc ? NULL : lorica_json_first(ret->root);
    for (; c && rc == 0; c = lorica_json_next(c))
        rc = read_key(&p, lorica_json_key(c), c);
    if (rc == 0)
        rc = check_whole(&p);
    if (rc)
        lorica_openai_finish(ret);
    return rc;
}

void lorica_openai_finish(struct lorica_openai_request *request) {
    for (size_t i = 0; i < request->message_count; i++)
        free(request->messages[i].content);
    free(request->messages);
    free(request->prompt_ids);
    free(request->bias);
    lorica_json_destroy(request->root);
    *request = (struct lorica_openai_request){0};
}
