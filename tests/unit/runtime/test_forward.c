/* SPDX-License-Identifier: MIT
 * A row's logits are the same bits however its past was computed: in which chunks, beside whom, and
 * by how many threads, also where threads share one row's past. */
#include "model_fixture.h"

#include "runtime/forward.h"

#define LENGTH 500
#define LONG_CHUNK 128
/* From here on rows come as decoding has them. */
#define DECODE_FROM 450

static struct lorica_base *base;
static struct lorica_model model;

static int32_t token_at(uint32_t sequence, uint32_t position) {
    return (int32_t)((sequence * 7919u + position * 31u + 5) % base->arch.vocab);
}

struct way {
    unsigned threads;
    uint32_t chunk, decode; /* rows of a step before DECODE_FROM, and from there on */
    uint32_t sequences;     /* side by side */
};

/* Logits of the positions from DECODE_FROM on of sequence 0: [position][vocab]; caller frees. */
static float *run(const struct way *way, enum lorica_kv_format format) {
    const uint32_t each = lorica_kv_pages(LENGTH), vocab = base->arch.vocab;
    float *ret = calloc((size_t)(LENGTH - DECODE_FROM) * vocab, sizeof(*ret));
    uint32_t *pages = calloc((size_t)each * way->sequences, sizeof(*pages));
    struct lorica_row rows[2 * LONG_CHUNK];
    struct lorica_kv kv;
    struct lorica_pool *pool;
    struct lorica_forward *forward;
    struct lorica_error err = {0};
    assert_int_equal(
        lorica_kv_init(&kv, &base->arch, format, each * way->sequences * LORICA_KV_PAGE, &err), 0);
    assert_int_equal(lorica_pool_create(way->threads, &pool, &err), 0);
    assert_int_equal(
        lorica_forward_create(&model, &kv, pool, 2 * LONG_CHUNK, 2 * LONG_CHUNK, &forward, &err),
        0);
    assert_int_equal(lorica_kv_take(&kv, pages, each * way->sequences), 0);
    for (uint32_t at = 0, step; at < LENGTH; at += step) {
        const uint32_t wanted = at < DECODE_FROM ? way->chunk : way->decode;
        const uint32_t limit = at < DECODE_FROM ? DECODE_FROM : LENGTH;
        uint32_t count = 0;
        step = limit - at < wanted ? limit - at : wanted;
        for (uint32_t s = way->sequences; s-- > 0;) /* sequence 0 stands last */
            for (uint32_t i = 0; i < step; i++)
                rows[count++] = (struct lorica_row){.token = token_at(s, at + i),
                                                    .position = at + i,
                                                    .pages = pages + (size_t)s * each,
                                                    .wants_logits = s == 0 && at >= DECODE_FROM};
        lorica_forward_run(forward, rows, count);
        for (uint32_t i = 0; at >= DECODE_FROM && i < step; i++)
            memcpy(ret + (size_t)(at + i - DECODE_FROM) * vocab, lorica_forward_logits(forward, i),
                   vocab * sizeof(*ret));
    }
    lorica_forward_destroy(forward);
    lorica_pool_destroy(pool);
    lorica_kv_finish(&kv);
    free(pages);
    return ret;
}

static void compare_ways(const char *name, enum lorica_kv_format format) {
    static const struct way ways[] = {{1, 1, 1, 1},  {1, 7, 2, 2},   {2, 100, 1, 1}, {2, 128, 2, 1},
                                      {3, 64, 1, 1}, {3, 128, 1, 2}, {3, 128, 3, 1}, {4, 16, 2, 1}};
    static const struct way plain = {1, LONG_CHUNK, LENGTH - DECODE_FROM, 1};
    struct lorica_error err = {0};
    base = open_golden(name);
    assert_int_equal(lorica_model_init(&model, base, &err), 0);
    float *want = run(&plain, format);
    for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
        float *got = run(&ways[i], format);
        if (memcmp(got, want, (size_t)(LENGTH - DECODE_FROM) * base->arch.vocab * sizeof(*got)))
            fail_msg("%s: other logits with %u threads, %u then %u rows of %u sequences", name,
                     ways[i].threads, ways[i].chunk, ways[i].decode, ways[i].sequences);
        free(got);
    }
    free(want);
    lorica_model_finish(&model);
    lorica_base_close(base);
}

static void test_forward_in_any_way_gives_the_same_bits(void **state) {
    compare_ways("tiny-nf4", LORICA_KV_BF16);
}

static void test_forward_of_odd_sizes_in_any_way_gives_the_same_bits(void **state) {
    compare_ways("tiny-odd-nf4", LORICA_KV_BF16);
}

static void test_forward_with_an_int8_cache_gives_the_same_bits(void **state) {
    compare_ways("tiny-nf4", LORICA_KV_INT8);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forward_in_any_way_gives_the_same_bits),
        cmocka_unit_test(test_forward_of_odd_sizes_in_any_way_gives_the_same_bits),
        cmocka_unit_test(test_forward_with_an_int8_cache_gives_the_same_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
