/* SPDX-License-Identifier: MIT
 * What a model name means: the rule of which adapter answers, in one place. */
#ifndef LORICA_GATEWAY_HANDLERS_MODELS_H
#define LORICA_GATEWAY_HANDLERS_MODELS_H

#include "gateway/server/request.h"
#include "registry/split.h"

/** What answers a request: a version of an adapter, or the base. */
struct lorica_model {
    bool is_base;
    struct lorica_version version;     /**< unless is_base */
    struct lorica_split_choice choice; /**< whether a split decided that it is this version */
};

/** Resolves a request's "model": the base's name or "base", "name", "name:channel", "name@3".
 * A split of the name is obeyed: `user` (the request's label of who asks; NULL or "": none, and the
 * key's name takes its place) always gets the same side of it. Anything else is a 404
 * model_not_found, never the base. 403 for what the key may not use; 409 for a version that was
 * published for another base. On a worker. Sets request->adapter. */
int lorica_model_resolve(struct lorica_request *request, const char *model, const char *user,
                         struct lorica_model *ret) LORICA_MUSTCHECK;

/** Adds the headers that say what answers. */
void lorica_model_headers(struct lorica_request *request, const struct lorica_model *model);

#endif
