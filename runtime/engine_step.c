/* SPDX-License-Identifier: MIT
 * One step of the batch:
 *
 *   pages for every sequence that generates, preempting where there are none | a row for each of
 *   these, and for what is guessed to follow | rows of prompts, as many as fit | forward |
 *   choose tokens | share the pages that were filled | events
 */
#include <math.h>
#include <string.h>

#include "runtime/engine_private.h"

/* Work that prompts get in every step, however long it takes: they must come forward too. */
#define LEAST_PROMPT 16
/* Far more than a row's work can be in rows. */
#define MOST_WORK 64

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

/* What a token costs at a position, in tokens at the beginning of a text. */
static double work_of(const struct lorica_engine *engine, uint32_t position) {
    return 1 + position * engine->position_work;
}

static void add_row(struct lorica_engine *engine, const struct lorica_sequence *s, int32_t token,
                    uint32_t position, bool wants_logits) {
    engine->rows[engine->row_count++] = (struct lorica_row){.token = token,
                                                            .position = position,
                                                            .pages = s->pages.pages,
                                                            .adapter = s->adapter,
                                                            .wants_logits = wants_logits};
    engine->logits_count += wants_logits;
    engine->work += work_of(engine, position);
    engine->figures.prompt_tokens += position < s->prompt_count;
}

/* Rows for the next `count` tokens of a sequence; its last one brings a choice. */
static void add_rows(struct lorica_engine *engine, struct lorica_sequence *s, uint32_t count) {
    for (uint32_t i = 0; i < count; i++, s->position++) {
        const bool last = s->position + 1 == s->count;
        if (last)
            engine->picks[engine->pick_count++] =
                (struct lorica_pick){.sequence = s, .first = engine->logits_count, .count = 1};
        add_row(engine, s, s->tokens[s->position], s->position, last);
    }
    s->fed = engine->figures.steps;
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
    const uint32_t left = s->count - s->position, most = left < room ? left : room;
    uint32_t count = 0;
    for (double work = engine->work; count < most && work < engine->work_limit; count++)
        work += work_of(engine, s->position + count);
    add_rows(engine, s, count);
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

/* How many of the guesses for a sequence pay: those that bring the batch the most tokens in the
 * time. `rows` the step has already, which bring `expected` tokens; raised by what is added. */
static uint32_t worthwhile(const struct lorica_engine *engine, const struct lorica_sequence *s,
                           uint32_t most, uint32_t rows, double *expected) {
    double tokens = *expected, right = 1,
           best = lorica_pace_seconds(&engine->decode_pace, rows) / tokens;
    uint32_t count = 0;
    for (uint32_t k = 1; k <= most; k++) {
        right *= (double)s->acceptance;
        tokens += right;
        const double cost = lorica_pace_seconds(&engine->decode_pace, rows + k) / tokens;
        if (cost < best) {
            best = cost;
            count = k;
            *expected = tokens;
        }
    }
    return count;
}

/* Adds rows for guesses behind the last token of a sequence that generates. Their keys and values
 * are written where the next tokens' will be, and written over if they are wrong. */
static void guess(struct lorica_engine *engine, struct lorica_sequence *s, uint32_t generating,
                  uint32_t drafts, double *expected) {
    struct lorica_pick *pick = &engine->picks[engine->pick_count - 1];
    uint32_t most = s->sampling.max_tokens - lorica_sequence_completion(s) - 1;
    most = most < LORICA_DRAFT_MAX ? most : LORICA_DRAFT_MAX;
    most = most < LORICA_ENGINE_DRAFTS - drafts ? most : LORICA_ENGINE_DRAFTS - drafts;
    most = lorica_draft_lookup(s->tokens, s->count, most, pick->draft);
    const uint32_t count = most == 0 || engine->options.speculation == LORICA_SPECULATE_ALWAYS
                               ? most
                               : worthwhile(engine, s, most, generating + drafts, expected);
    /* Without trying, what is known of it fades. */
    if (count == 0)
        s->acceptance += 0.01f * (0.5f - s->acceptance);
    const uint32_t pages = lorica_kv_pages(s->count + count);
    if (count == 0 ||
        (pages > s->pages.count &&
         lorica_prefix_available(&engine->prefix) < engine->running_count + 1) ||
        lorica_prefix_reserve(&engine->prefix, &s->pages, pages) != 0)
        return;
    for (uint32_t i = 0; i < count; i++)
        add_row(engine, s, pick->draft[i], s->count + i, true);
    pick->count += count;
    engine->figures.drafted_tokens += count;
}

/* A row for each sequence that generates, and their guesses. */
static void build_generating(struct lorica_engine *engine) {
    uint32_t generating = 0;
    for (uint32_t i = 0; i < engine->running_count; i++)
        generating += lorica_sequence_generates(engine->running[i]);
    double expected = generating;
    for (uint32_t i = 0; i < engine->running_count; i++) {
        struct lorica_sequence *s = engine->running[i];
        if (!lorica_sequence_generates(s))
            continue;
        add_rows(engine, s, 1);
        if (engine->options.speculation != LORICA_SPECULATE_NEVER &&
            lorica_sequence_completion(s) > 0)
            guess(engine, s, generating, engine->row_count - engine->pick_count, &expected);
    }
}

/* Sets how much work prompts may make the step: beside answers, as much as its time allows. */
static void limit_work(struct lorica_engine *engine) {
    const uint32_t work = (uint32_t)engine->work, chunk = engine->options.prefill_chunk;
    engine->work_limit = INFINITY;
    if (engine->pick_count > 0 && engine->options.step_seconds > 0)
        engine->work_limit = lorica_pace_rows(&engine->pace, engine->options.step_seconds,
                                              work + LEAST_PROMPT, work + MOST_WORK * chunk);
}

static void build_batch(struct lorica_engine *engine) {
    engine->row_count = engine->pick_count = engine->logits_count = 0;
    engine->work = 0;
    engine->figures.steps++;
    grow_all(engine);
    build_generating(engine);
    uint32_t room = engine->options.prefill_chunk;
    limit_work(engine);
    const uint32_t waiting = sort_queue(engine);
    for (uint32_t i = 0; i < waiting && room > 0; i++)
        room -= feed(engine, engine->queue[i], room);
}

/* Tokens. */

/* Chooses from the logits behind a sequence's last token, and as long as the choice is what was
 * guessed, from those behind the guess: the tokens are those that would be chosen one by one. */
static void choose_one(struct lorica_engine *engine, uint32_t i, unsigned thread) {
    struct lorica_pick *pick = &engine->picks[i];
    while (pick->chosen < pick->count) {
        const uint32_t at = pick->first + pick->chosen;
        pick->failure = lorica_sampler_choose(&pick->sequence->sampler, &engine->model.vec,
                                              &engine->scratch[thread],
                                              lorica_forward_logits(engine->forward, at),
                                              engine->limits.arch->vocab, &engine->choices[at]);
        if (pick->failure)
            return;
        pick->chosen++;
        if (pick->chosen < pick->count && engine->choices[at].id != pick->draft[pick->chosen - 1])
            return;
    }
}

static void choose_all(void *arg, unsigned thread, unsigned threads) {
    struct lorica_engine *engine = arg;
    uint32_t begin, end;
    lorica_pool_range(engine->pick_count, thread, threads, &begin, &end);
    for (uint32_t i = begin; i < end; i++)
        choose_one(engine, i, thread);
}

/* Takes a choice in and says it. False when the sequence has ended with it. */
static bool deliver(struct lorica_engine *engine, struct lorica_sequence *s,
                    const struct lorica_choice *choice, double now) {
    bool has_token = false;
    const enum lorica_finish finish = lorica_sequence_accept(s, choice, &has_token);
    if (has_token) {
        engine->figures.completion_tokens++;
        lorica_sched_charge(s, LORICA_COST_OUTPUT);
        if (s->last_token > 0)
            lorica_engine_time(&engine->figures.between, now - s->last_token);
        s->last_token = now;
    }
    if (finish == LORICA_FINISH_NONE)
        lorica_sequence_emit(s, has_token ? choice : NULL, finish);
    else
        lorica_engine_retire(engine, s, has_token ? choice : NULL, finish);
    return finish == LORICA_FINISH_NONE;
}

static void deliver_all(struct lorica_engine *engine, const struct lorica_pick *pick, double now) {
    struct lorica_sequence *s = pick->sequence;
    const uint32_t right = pick->chosen > 0 ? pick->chosen - 1 : 0;
    engine->figures.accepted_tokens += right;
    for (uint32_t i = 0; i + 1 < pick->count && i <= right; i++)
        s->acceptance += 0.125f * ((i < right ? 1.0f : 0.0f) - s->acceptance);
    for (uint32_t i = 0; i < pick->chosen; i++)
        if (!deliver(engine, s, &engine->choices[pick->first + i], now))
            return;
    if (pick->failure)
        lorica_engine_retire(engine, s, NULL, LORICA_FINISH_ERROR);
    else
        s->position = s->count - 1;
}

void lorica_engine_step(struct lorica_engine *engine) {
    const double begin = lorica_engine_now();
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
    const double now = lorica_engine_now();
    lorica_pace_note(&engine->pace, (uint32_t)engine->work, now - begin);
    if (engine->work >= engine->work_limit)
        lorica_pace_judge(&engine->pace, now - begin > engine->options.step_seconds);
    if (engine->row_count == engine->logits_count)
        lorica_pace_note(&engine->decode_pace, engine->row_count, now - begin);
    lorica_engine_time(&engine->figures.step, now - begin);
    for (uint32_t i = 0; i < engine->pick_count; i++)
        deliver_all(engine, &engine->picks[i], now);
    lorica_engine_show(engine);
}
