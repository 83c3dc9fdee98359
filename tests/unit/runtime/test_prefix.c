/* SPDX-License-Identifier: MIT
 * Pages and the prefix cache against a model of it: every page that is found holds what its whole
 * text and its space say, whatever came and went before, and no page is lost or had twice. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "runtime/prefix.h"

#define PAGE LORICA_KV_PAGE
#define PAGES 40
#define TEXT (8 * PAGE)
#define TABLES 12

static const struct lorica_arch arch = {.layers = 1, .kv_heads = 1, .head_dim = 2};

static struct lorica_prefix_key key_of(uint8_t number) {
    struct lorica_prefix_key key = {.base = {{7}}, .adapted = number > 0};
    key.adapter.bytes[31] = number;
    return key;
}

struct fixture {
    struct lorica_kv kv;
    struct lorica_prefix prefix;
};

static void open_cache(struct fixture *f, uint32_t max_idle, bool collide) {
    assert_int_equal(lorica_kv_init(&f->kv, &arch, LORICA_KV_BF16, PAGES * PAGE, NULL), 0);
    assert_int_equal(lorica_prefix_init(&f->prefix, &f->kv, max_idle), 0);
    if (collide)
        f->prefix.hash_mask = 0;
}

static void close_cache(struct fixture *f) {
    assert_int_equal(lorica_prefix_available(&f->prefix), PAGES);
    lorica_prefix_finish(&f->prefix);
    assert_int_equal(f->kv.free_count, PAGES);
    lorica_kv_finish(&f->kv);
}

static uint64_t random_state;

static uint32_t random_below(uint32_t n) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((random_state >> 33) % n);
}

/* What a page was filled with: the space and the text up to its end. */
struct content {
    uint8_t space;
    uint32_t tokens;
    int32_t text[TEXT];
};

struct table {
    struct lorica_page_table pages;
    uint8_t space;
    uint32_t filled; /* tokens */
    int32_t text[TEXT];
    bool open;
};

static struct content contents[PAGES];

/* "Computes" tokens up to `filled`: only pages of its own may be written. */
static void fill(struct table *t, uint32_t filled) {
    for (; t->filled < filled; t->filled++) {
        const uint32_t index = t->filled / PAGE;
        assert_true(index >= t->pages.shared && index < t->pages.count);
        struct content *c = &contents[t->pages.pages[index]];
        c->space = t->space;
        c->tokens = t->filled + 1;
        memcpy(c->text, t->text, sizeof(c->text));
    }
}

/* Whatever the table has holds its own text. */
static void check_table(const struct table *t) {
    for (uint32_t i = 0; i * PAGE < t->filled; i++) {
        const struct content *c = &contents[t->pages.pages[i]];
        const uint32_t end = (i + 1) * PAGE < t->filled ? (i + 1) * PAGE : t->filled;
        assert_int_equal(c->space, t->space);
        assert_true(c->tokens >= end);
        assert_memory_equal(c->text, t->text, end * sizeof(int32_t));
    }
}

static void open_table(struct fixture *f, struct table *t) {
    const struct lorica_prefix_key key = key_of(t->space = (uint8_t)random_below(3));
    /* Texts that often begin alike: few tokens, changed at one place. */
    for (uint32_t i = 0; i < TEXT; i++)
        t->text[i] = (int32_t)(i % 3);
    t->text[random_below(TEXT)] = (int32_t)random_below(3);
    t->filled = 0;
    assert_int_equal(lorica_page_table_init(&t->pages, TEXT / PAGE), 0);
    lorica_prefix_bind(&f->prefix, &t->pages, &key);
    t->filled = PAGE * lorica_prefix_adopt(&f->prefix, &t->pages, t->text, TEXT / PAGE - 1);
    t->open = true;
}

static void close_table(struct fixture *f, struct table *t) {
    lorica_prefix_release(&f->prefix, &t->pages);
    assert_int_equal(t->pages.count, 0);
    lorica_page_table_finish(&t->pages);
    t->open = false;
}

static void grow_table(struct fixture *f, struct table *t) {
    const uint32_t filled = t->filled + 1 + random_below(PAGE);
    if (filled > TEXT ||
        lorica_prefix_reserve(&f->prefix, &t->pages, lorica_kv_pages(filled)) != 0) {
        close_table(f, t);
        return;
    }
    fill(t, filled);
    lorica_prefix_publish(&f->prefix, &t->pages, t->text, t->filled);
    if (t->filled % PAGE == 0)
        t->filled += PAGE * lorica_prefix_adopt(&f->prefix, &t->pages, t->text, TEXT / PAGE - 1);
}

static void run_history(uint32_t max_idle, bool collide, uint64_t seed) {
    struct table tables[TABLES] = {{.open = false}};
    struct fixture f;
    random_state = seed;
    open_cache(&f, max_idle, collide);
    for (int step = 0; step < 20000; step++) {
        struct table *t = &tables[random_below(TABLES)];
        if (!t->open)
            open_table(&f, t);
        else if (random_below(8) == 0)
            close_table(&f, t);
        else
            grow_table(&f, t);
        assert_true(f.prefix.idle <= PAGES);
        uint8_t owners[PAGES] = {0}, shared[PAGES] = {0};
        for (int i = 0; i < TABLES; i++) {
            if (!tables[i].open)
                continue;
            check_table(&tables[i]);
            for (uint32_t p = 0; p < tables[i].pages.count; p++) {
                owners[tables[i].pages.pages[p]]++;
                shared[tables[i].pages.pages[p]] += p < tables[i].pages.shared;
            }
        }
        uint32_t had = 0;
        for (int p = 0; p < PAGES; p++) {
            had += owners[p] > 0;
            assert_true(owners[p] <= 1 || owners[p] == shared[p]);
        }
        assert_int_equal(had + lorica_prefix_available(&f.prefix), PAGES);
    }
    for (int i = 0; i < TABLES; i++)
        if (tables[i].open)
            close_table(&f, &tables[i]);
    assert_true(f.prefix.idle <= max_idle);
    close_cache(&f);
}

static void test_prefix_pages_hold_what_their_text_says(void **state) {
    run_history(PAGES, false, 1);
    run_history(5, false, 2);
    run_history(0, false, 3);
}

static void test_prefix_equal_hashes_are_told_apart(void **state) {
    run_history(PAGES, true, 4);
    run_history(5, true, 5);
}

/* A table of one text with its first pages filled and given back. */
static void keep(struct fixture *f, uint8_t space, const int32_t *text, uint32_t pages) {
    struct lorica_page_table table;
    const struct lorica_prefix_key key = key_of(space);
    assert_int_equal(lorica_page_table_init(&table, PAGES), 0);
    lorica_prefix_bind(&f->prefix, &table, &key);
    (void)lorica_prefix_adopt(&f->prefix, &table, text, pages);
    assert_int_equal(lorica_prefix_reserve(&f->prefix, &table, pages), 0);
    lorica_prefix_publish(&f->prefix, &table, text, pages * PAGE);
    lorica_prefix_release(&f->prefix, &table);
    lorica_page_table_finish(&table);
}

static uint32_t found(struct fixture *f, const struct lorica_prefix_key *key, const int32_t *text,
                      uint32_t pages) {
    struct lorica_page_table table;
    assert_int_equal(lorica_page_table_init(&table, PAGES), 0);
    lorica_prefix_bind(&f->prefix, &table, key);
    const uint32_t count = lorica_prefix_adopt(&f->prefix, &table, text, pages);
    lorica_prefix_release(&f->prefix, &table);
    lorica_page_table_finish(&table);
    return count;
}

static void test_prefix_of_another_space_is_never_found(void **state) {
    struct fixture f;
    int32_t text[TEXT];
    for (uint32_t i = 0; i < TEXT; i++)
        text[i] = (int32_t)i;
    open_cache(&f, PAGES, true);
    keep(&f, 1, text, 4);
    struct lorica_prefix_key key = key_of(1);
    assert_int_equal(found(&f, &key, text, 4), 4);
    assert_int_equal(found(&f, &key, text, 3), 3);
    assert_int_equal(found(&f, &key, text + PAGE, 3), 0); /* not at the beginning */
    key.base.bytes[0]++;
    assert_int_equal(found(&f, &key, text, 4), 0);
    key = key_of(2);
    assert_int_equal(found(&f, &key, text, 4), 0);
    key = key_of(1);
    key.adapted = false;
    assert_int_equal(found(&f, &key, text, 4), 0);
    key = key_of(1);
    text[2 * PAGE + 5]++;
    assert_int_equal(found(&f, &key, text, 4), 2);
    close_cache(&f);
}

static void test_prefix_idle_longest_goes_first(void **state) {
    struct fixture f;
    int32_t texts[3][TEXT];
    const struct lorica_prefix_key key = key_of(1);
    for (uint32_t i = 0; i < TEXT; i++)
        for (int t = 0; t < 3; t++)
            texts[t][i] = (int32_t)i + 1000 * t;
    open_cache(&f, 5, false);
    keep(&f, 1, texts[0], 2);
    keep(&f, 1, texts[1], 2);
    assert_int_equal(found(&f, &key, texts[0], 2), 2); /* used again: now the younger one */
    keep(&f, 1, texts[2], 2);
    assert_int_equal(f.prefix.idle, 5);
    assert_int_equal(found(&f, &key, texts[1], 2), 1); /* its end went, its beginning stays */
    assert_int_equal(found(&f, &key, texts[0], 2), 2);
    assert_int_equal(found(&f, &key, texts[2], 2), 2);
    assert_int_equal(f.prefix.evicted, 1);
    close_cache(&f);
}

static void test_prefix_reserve_beyond_all_takes_none(void **state) {
    struct fixture f;
    struct lorica_page_table table;
    int32_t text[TEXT] = {0};
    open_cache(&f, PAGES, false);
    keep(&f, 1, text, 6);
    assert_int_equal(lorica_page_table_init(&table, 2 * PAGES), 0);
    assert_int_equal(lorica_prefix_reserve(&f.prefix, &table, PAGES + 1), LORICA_EBUSY);
    assert_int_equal(table.count, 0);
    assert_int_equal(f.prefix.idle, 6);
    assert_int_equal(lorica_prefix_reserve(&f.prefix, &table, PAGES), 0);
    assert_int_equal(f.prefix.idle, 0);
    lorica_prefix_release(&f.prefix, &table);
    lorica_page_table_finish(&table);
    close_cache(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_prefix_pages_hold_what_their_text_says),
        cmocka_unit_test(test_prefix_equal_hashes_are_told_apart),
        cmocka_unit_test(test_prefix_of_another_space_is_never_found),
        cmocka_unit_test(test_prefix_idle_longest_goes_first),
        cmocka_unit_test(test_prefix_reserve_beyond_all_takes_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
