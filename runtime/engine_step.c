/* SPDX-License-Identifier: MIT
 * One step of the batch:
 *
 *   pages for every sequence that generates, preempting where there are none | a row for each of
 *   these | rows of prompts, as many as the step has room for | forward | choose tokens | share the
 *   pages that were filled | events
 */
#include <string.h>

#include "runtime/engine_private.h"

/* Pages. */

/* The running sequence that gives way first. */
static struct lorica_sequence *first_to_yield(const struct lorica_engine *engine) {
    struct lorica_sequence *first = engine->running[0];
    for (uint32_t i = 1; i < engine->running_count; i++)
        if (lorica_sched_yields(engine->running[i], first))
            first = engine->running[i];
    return first;
}

/* Gives every generating sequence a page for its next token. There is always one for the sequence
 * that yields last: no sequence needs more than the whole cache. */
static void grow_all(struct lorica_engine *engine) {
    for (uint32_t i = 0; i < engine->running_count;) {
        struct lorica_sequence *s = engine->running[i];
        if (lorica_prefix_reserve(&engine->prefix, &s->pages, lorica_kv_pages(s->count)) == 0) {
            i++;
            continue;
        }
        struct lorica_sequence *yields = first_to_yield(engine);
        for (uint32_t j = 0; j < i; j++)
            if (engine->running[j] == yields)
                i--; /* what follows it moves up */
        lorica_engine_preempt(engine, yields);
    }
}

/* Rows. */

static void add_row(struct lorica_engine *engine, struct lorica_sequence *s, uint32_t position) {
    const bool last = position + 1 == s->count;
    engine->rows[engine->row_count++] = (struct lorica_row){.token = s->tokens[position],
                                                            .position = position,
                                                            .pages = s->pages.pages,
                                                            .adapter = s->adapter,
                                                            .wants_logits = last};
    if (last)
        engine->picks[engine->pick_count++].sequence = s;
    engine->figures.prompt_tokens += position < s->prompt_count;
}

/* True when another sequence computes in this very step the page that `s` needs next: it is there
 * to be shared after the step. */
static bool has_twin(const struct lorica_engine *engine, const struct lorica_sequence *s) {
    const struct lorica_page_table *table = &s->pages;
    const uint32_t begin = table->shared * LORICA_KV_PAGE, end = begin + LORICA_KV_PAGE;
    if (!table->space || end >= s->count)
        return false;
    for (uint32_t i = 0; i < engine->running_count; i++) {
        const struct lorica_sequence *r = engine->running[i];
        if (r != s && r->fed == engine->figures.steps && r->position > begin && r->count >= end &&
            lorica_page_table_alike(&r->pages, table) &&
            memcmp(r->tokens + begin, s->tokens + begin, LORICA_KV_PAGE * sizeof(*s->tokens)) == 0)
            return true;
    }
    return false;
}

/* Rows for at most `room` tokens of a sequence's prompt, or of what is computed again; how many. */
static uint32_t feed(struct lorica_engine *engine, struct lorica_sequence *s, uint32_t room) {
    if (s->position == s->pages.shared * LORICA_KV_PAGE) {
        if (lorica_engine_adopt(engine, s) > 0)
            lorica_engine_skip_shared(engine, s);
        if (has_twin(engine, s))
            return 0;
    }
    const uint32_t left = s->count - s->position, count = left < room ? left : room;
    for (uint32_t i = 0; i < count; i++)
        add_row(engine, s, s->position++);
    s->fed = engine->figures.steps;
    lorica_sched_charge(s, count * LORICA_COST_PROMPT);
    return count;
}

/* Those that have more than their last token to be fed, in the order in which they are served. */
static uint32_t sort_queue(struct lorica_engine *engine) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < engine->running_count; i++) {
        struct lorica_sequence *s = engine->running[i];
        uint32_t at = count;
        if (s->fed == engine->figures.steps)
            continue;
        for (; at > 0 && lorica_sched_before(s, engine->queue[at - 1]); at--)
            engine->queue[at] = engine->queue[at - 1];
        engine->queue[at] = s;
        count++;
    }
    return count;
}

static void build_batch(struct lorica_engine *engine) {
    engine->row_count = engine->pick_count = 0;
    engine->figures.steps++;
    grow_all(engine);
    for (uint32_t i = 0; i < engine->running_count; i++) {
        struct lorica_sequence *s = engine->running[i];
        if (!lorica_sequence_generates(s))
            continue;
        add_row(engine, s, s->position++);
        s->fed = engine->figures.steps;
    }
    uint32_t room = engine->options.prefill_chunk;
    const uint32_t waiting = sort_queue(engine);
    for (uint32_t i = 0; i < waiting && room > 0; i++)
        room -= feed(engine, engine->queue[i], room);
}

/* Tokens. */

static void choose_one(struct lorica_engine *engine, uint32_t i, unsigned thread) {
    struct lorica_pick *pick = &engine->picks[i];
    pick->failure = lorica_sampler_choose(
        &pick->sequence->sampler, &engine->model.vec, &engine->scratch[thread],
        lorica_forward_logits(engine->forward, i), engine->limits.arch->vocab, &pick->choice);
}

static void choose_all(void *arg, unsigned thread, unsigned threads) {
    struct lorica_engine *engine = arg;
    uint32_t begin, end;
    lorica_pool_range(engine->pick_count, thread, threads, &begin, &end);
    for (uint32_t i = begin; i < end; i++)
        choose_one(engine, i, thread);
}

/* Takes a choice in and says it. */
static void deliver(struct lorica_engine *engine, const struct lorica_pick *pick) {
    struct lorica_sequence *s = pick->sequence;
    bool has_token = false;
    const enum lorica_finish finish =
        pick->failure ? LORICA_FINISH_ERROR : lorica_sequence_accept(s, &pick->choice, &has_token);
    const struct lorica_choice *choice = has_token ? &pick->choice : NULL;
    if (has_token) {
        engine->figures.completion_tokens++;
        lorica_sched_charge(s, LORICA_COST_OUTPUT);
    }
    if (finish == LORICA_FINISH_NONE)
        lorica_sequence_emit(s, choice, finish);
    else
        lorica_engine_retire(engine, s, choice, finish);
}

void lorica_engine_step(struct lorica_engine *engine) {
    build_batch(engine);
    if (engine->row_count == 0)
        return;
    lorica_forward_run(engine->forward, engine->rows, engine->row_count);
    if (engine->pick_count > 1)
        lorica_pool_run(engine->pool, choose_all, engine);
    else if (engine->pick_count == 1)
        choose_one(engine, 0, 0);
    for (uint32_t i = 0; i < engine->running_count; i++)
        lorica_prefix_publish(&engine->prefix, &engine->running[i]->pages,
                              engine->running[i]->tokens, engine->running[i]->position);
    for (uint32_t i = 0; i < engine->pick_count; i++)
        deliver(engine, &engine->picks[i]);
    lorica_engine_show(engine);
}
