/* SPDX-License-Identifier: MIT */
#include "gateway/bench/bench_kernels.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "gateway/cmd/cmd.h"
#include "gateway/cmd/table.h"
#include "kernels/attn.h"
#include "kernels/cpu.h"
#include "kernels/linear.h"
#include "kernels/lora.h"
#include "proto/json.h"

/* A matrix of this shape fits no first- or second-level cache. */
#define N 8192u
#define K 1024u
#define RANK 16u
#define MAX_ROWS 64u
#define HEADS 4u
#define HEAD_DIM 64u
#define LENGTH 1024u
#define PAGES (LENGTH / LORICA_KV_PAGE)
#define PAGE_NBYTES lorica_kv_page_nbytes(LORICA_KV_BF16, HEAD_DIM)
#define QUERIES (16 * HEADS)
#define MIN_SECONDS 0.15

/* Made-up operands, all from one block. */
struct data {
    struct lorica_linear_kernels linear;
    struct lorica_lora_kernels lora;
    struct lorica_attn_kernels attn;
    uint8_t *codes, *xq, *cells;
    uint16_t *scales;
    int8_t *lora_a, *lora_b;
    float *x, *y, *t, *q, *out, *states, *lora_scales;
    uint32_t pages[PAGES], index[MAX_ROWS];
    size_t xq_stride;
    void *owned[16];
    size_t owned_count;
};

/* One line of the table. */
struct entry {
    const char *name;
    void (*run)(struct data *data, uint32_t rows);
    uint32_t rows;
    double nbytes; /* of weights or cache read in one call */
    double macs;   /* multiplications with addition in one call */
};

static void *take(struct data *data, size_t nbytes) {
    void *bytes = aligned_alloc(64, (nbytes + 63) / 64 * 64);
    if (bytes) {
        memset(bytes, 0, (nbytes + 63) / 64 * 64);
        data->owned[data->owned_count++] = bytes;
    }
    return bytes;
}

static void run_nf4(struct data *d, uint32_t rows) {
    const struct lorica_linear w = {LORICA_FORMAT_NF4, N, K, d->codes, d->scales};
    d->linear.nf4(d->y, N, d->xq, d->xq_stride, rows, &w, 0, N / LORICA_TILE_ROWS);
}

static void run_q8(struct data *d, uint32_t rows) {
    const struct lorica_linear w = {LORICA_FORMAT_Q8, N, K, d->codes, d->scales};
    d->linear.q8(d->y, N, d->xq, d->xq_stride, rows, &w, 0, N / LORICA_TILE_ROWS);
}

static void run_quantise(struct data *d, uint32_t rows) {
    for (uint32_t r = 0; r < rows; r++)
        d->linear.act_quantise(d->xq + r * d->xq_stride, d->x + (size_t)r * K, K);
}

static void run_shrink(struct data *d, uint32_t rows) {
    const struct lorica_lora_rows some = {d->index, rows, d->t, RANK};
    d->lora.shrink(&some, d->x, K, K, d->lora_a, d->lora_scales, 0, RANK);
}

static void run_expand(struct data *d, uint32_t rows) {
    const struct lorica_lora_rows some = {d->index, rows, d->t, RANK};
    d->lora.expand(&some, d->y, N, RANK, d->lora_b, 0, N / LORICA_TILE_ROWS);
}

static void run_attend(struct data *d, uint32_t rows) {
    const struct lorica_kv_view kv = {d->cells, PAGE_NBYTES, d->pages, HEAD_DIM};
    const struct lorica_attn_queries queries = {d->q,  HEADS * HEAD_DIM, rows,
                                                HEADS, LENGTH - rows,    0.125f};
    d->attn.attend[LORICA_KV_BF16](d->states, true, &queries, &kv, 0,
                                   lorica_attn_spans(LENGTH - 1));
    d->attn.finish(d->out, d->states, &queries, HEAD_DIM);
}

static const struct entry entries[] = {
    {"nf4 x 1 row", run_nf4, 1, N *K / 2.0, (double)N *K},
    {"nf4 x 4 rows", run_nf4, 4, N *K / 2.0, 4.0 * N *K},
    {"nf4 x 16 rows", run_nf4, 16, N *K / 2.0, 16.0 * N *K},
    {"nf4 x 64 rows", run_nf4, 64, N *K / 2.0, 64.0 * N *K},
    {"q8 x 1 row", run_q8, 1, (double)N *K, (double)N *K},
    {"q8 x 16 rows", run_q8, 16, (double)N *K, 16.0 * N *K},
    {"quantise activations", run_quantise, 1, K * 4.0, 0},
    {"lora shrink, rank 16 x 1 row", run_shrink, 1, (double)RANK *K, (double)RANK *K},
    {"lora shrink, rank 16 x 16 rows", run_shrink, 16, (double)RANK *K, 16.0 * RANK *K},
    {"lora expand, rank 16 x 1 row", run_expand, 1, (double)RANK *N, (double)RANK *N},
    {"lora expand, rank 16 x 16 rows", run_expand, 16, (double)RANK *N, 16.0 * RANK *N},
    {"attention x 1 row, 1024 tokens", run_attend, 1, 4.0 * LENGTH *HEAD_DIM,
     2.0 * LENGTH *HEAD_DIM *HEADS},
    {"attention x 16 rows, 1024 tokens", run_attend, 16, 4.0 * LENGTH *HEAD_DIM,
     32.0 * LENGTH *HEAD_DIM *HEADS},
};

#define ENTRIES (sizeof(entries) / sizeof(entries[0]))

static double now(void) {
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Seconds of one call: the best of growing bunches. */
static double time_entry(const struct entry *entry, struct data *data) {
    double best = 1e9;
    const double start = now();
    for (unsigned bunch = 1; now() - start < MIN_SECONDS; bunch = bunch < 1024 ? bunch * 2 : 1024) {
        const double begin = now();
        for (unsigned i = 0; i < bunch; i++)
            entry->run(data, entry->rows);
        const double each = (now() - begin) / bunch;
        best = each < best ? each : best;
    }
    return best;
}

static bool prepare(struct data *d) {
    lorica_linear_kernels_init(&d->linear);
    lorica_lora_kernels_init(&d->lora);
    lorica_attn_kernels_init(&d->attn);
    d->xq_stride = d->linear.act_nbytes(K);
    if (!(d->codes = take(d, (size_t)N * K)) || !(d->xq = take(d, MAX_ROWS * d->xq_stride)) ||
        !(d->scales = take(d, (size_t)N * K / 32 * 2)) ||
        !(d->lora_a = take(d, (size_t)RANK * K)) || !(d->lora_b = take(d, (size_t)RANK * N)) ||
        !(d->lora_scales = take(d, RANK * 4)) || !(d->cells = take(d, PAGES * PAGE_NBYTES)) ||
        !(d->x = take(d, (size_t)MAX_ROWS * K * 4)) ||
        !(d->y = take(d, (size_t)MAX_ROWS * N * 4)) ||
        !(d->t = take(d, (size_t)MAX_ROWS * RANK * 4)) ||
        !(d->q = take(d, (size_t)QUERIES * HEAD_DIM * 4)) ||
        !(d->out = take(d, (size_t)QUERIES * HEAD_DIM * 4)) ||
        !(d->states = take(d, QUERIES * lorica_attn_state_count(HEAD_DIM) * 4)))
        return false;
    for (size_t i = 0; i < (size_t)N * K; i++)
        d->codes[i] = (uint8_t)(i * 167 >> 3);
    for (size_t i = 0; i < (size_t)N * K / 32; i++)
        d->scales[i] = 0x2000; /* a half of about 0.008 */
    for (size_t i = 0; i < (size_t)MAX_ROWS * K; i++)
        d->x[i] = (float)(i * 31 % 101) * 0.01f - 0.5f;
    for (uint32_t i = 0; i < PAGES; i++)
        d->pages[i] = i;
    for (uint32_t i = 0; i < MAX_ROWS; i++)
        d->index[i] = i;
    run_quantise(d, MAX_ROWS);
    return true;
}

static bool print_table(const double *seconds) {
    static const char *const headings[] = {"kernel", "us", "GB/s", "GMAC/s", NULL};
    struct lorica_table *table = lorica_table_create(headings);
    for (size_t i = 0; i < ENTRIES; i++) {
        lorica_table_text(table, entries[i].name);
        lorica_table_format(table, "%.2f", seconds[i] * 1e6);
        lorica_table_format(table, "%.1f", entries[i].nbytes / seconds[i] * 1e-9);
        lorica_table_format(table, "%.1f", entries[i].macs / seconds[i] * 1e-9);
    }
    const bool printed = lorica_table_print(table, stdout);
    lorica_table_destroy(table);
    return printed;
}

static bool print_json(const double *seconds) {
    struct lorica_buf out;
    struct lorica_jsonw w = {.out = &out};
    lorica_buf_init(&out, 1u << 16);
    lorica_jsonw_object(&w, NULL);
    lorica_jsonw_string(&w, "cpu", lorica_cpu_brand());
    lorica_jsonw_string(&w, "level", lorica_cpu_level_name(lorica_cpu_level()));
    lorica_jsonw_array(&w, "kernels");
    for (size_t i = 0; i < ENTRIES; i++) {
        lorica_jsonw_object(&w, NULL);
        lorica_jsonw_string(&w, "kernel", entries[i].name);
        lorica_jsonw_number(&w, "seconds", seconds[i]);
        lorica_jsonw_number(&w, "gb_per_second", entries[i].nbytes / seconds[i] * 1e-9);
        lorica_jsonw_number(&w, "gmac_per_second", entries[i].macs / seconds[i] * 1e-9);
        lorica_jsonw_end_object(&w);
    }
    lorica_jsonw_end_array(&w);
    lorica_jsonw_end_object(&w);
    const bool whole = lorica_buf_status(&out) == 0;
    if (whole)
        (void)printf("%s\n", out.data);
    lorica_buf_finish(&out);
    return whole;
}

int lorica_bench_kernels(bool json) {
    struct data data = {.owned_count = 0};
    double seconds[ENTRIES];
    struct lorica_error err = {0};
    bool done = prepare(&data);
    if (done) {
        if (!json)
            (void)printf("%s, level %s, one thread\n", lorica_cpu_brand(),
                         lorica_cpu_level_name(lorica_cpu_level()));
        for (size_t i = 0; i < ENTRIES; i++)
            seconds[i] = time_entry(&entries[i], &data);
        done = json ? print_json(seconds) : print_table(seconds);
    }
    for (size_t i = 0; i < data.owned_count; i++)
        free(data.owned[i]);
    if (done)
        return LORICA_EXIT_OK;
    (void)lorica_fail(&err, LORICA_ENOMEM, "no memory for the kernels' data");
    return lorica_cmd_fail(&err);
}
