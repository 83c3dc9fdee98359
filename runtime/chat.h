/* SPDX-License-Identifier: MIT
 * Chat templates: from messages to the ids that the model was trained to see. Text of a message is
 * always encoded with special tokens off, so nothing a client writes becomes one. */
#ifndef LORICA_RUNTIME_CHAT_H
#define LORICA_RUNTIME_CHAT_H

#include <stdbool.h>
#include <stddef.h>

#include "proto/buf.h"
#include "proto/err.h"
#include "runtime/tokenizer.h"

struct lorica_chat_message {
    const char *role;    /**< "system", "user", "assistant"; borrowed */
    const char *content; /**< UTF-8, borrowed */
    bool given;          /**< an assistant's message that answer_mask leaves out */
};

/** A template as recognised at import and kept in the metadata ("chat" member): a name and its
 * default system message. */
struct lorica_chat_template;

/** Decides from a Jinja template text which known template it is: the name in static storage
 * ("chatml"), and in `default_system` (max 2000 bytes) the default system message that it
 * contains, or "". NULL when unknown, and when prompts would come out in another way than the
 * template's: it trims, splits or replaces what it is given, or holds several default system
 * messages. `default_system` is filled then too, for one who names the template himself. */
const char *lorica_chat_recognise(const char *jinja, size_t len, struct lorica_buf *default_system);

/** True for a name that lorica knows; the list for messages is lorica_chat_names. */
bool lorica_chat_known(const char *name);
/** Comma-separated names of the known templates. */
const char *lorica_chat_names(void);

/** Builds from a base's metadata JSON. The caller owns *ret. */
int lorica_chat_create(const char *metadata, size_t len, struct lorica_chat_template **ret,
                       struct lorica_error *err) LORICA_MUSTCHECK;
void lorica_chat_destroy(struct lorica_chat_template *chat);

/** Appends the prompt's ids: the default system message when the first is no system message, every
 * message, and, with `generation_prompt`, the opening of the assistant's turn. `text`, if not NULL,
 * receives the same prompt as text. `answer_mask`, if not NULL, receives one byte per id appended:
 * 1 for the content of assistant messages and the token that ends it (what training learns), those
 * that are `given` left out.
 * LORICA_EINVAL for an unknown role or no message. */
int lorica_chat_render(const struct lorica_chat_template *chat,
                       const struct lorica_tokenizer *tokenizer,
                       const struct lorica_chat_message *messages, size_t count,
                       bool generation_prompt, struct lorica_tokens *ids, struct lorica_buf *text,
                       struct lorica_buf *answer_mask, struct lorica_error *err) LORICA_MUSTCHECK;

#endif
