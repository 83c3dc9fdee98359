/* SPDX-License-Identifier: MIT
 * Products with frozen weights, decoded panel by panel, and with activations. */
#include "runtime/train/pass.h"

#define NR LORICA_GEMM_NR
#define MIN_ROWS 48  /* rows for which a panel is worth decoding twice */
#define MAX_PARTS 16 /* of one product at a time */

/* Panels are dealt to the threads; where there are too few of them, rows are split too. */
static uint32_t row_parts(uint32_t panels, uint32_t rows, unsigned threads) {
    uint32_t parts = 1;
    while (parts < threads && panels * parts < 4 * threads && panels * parts % threads != 0 &&
           rows / (parts + 1) >= MIN_ROWS)
        parts++;
    return parts;
}

static void pack(const struct lorica_pass *pass, const struct lorica_term *term, void *panel,
                 uint32_t col, uint32_t cols, uint32_t p0, uint32_t p1) {
    if (!term->w)
        pass->gemm.pack_rows(panel, lorica_operands_at(pass, term->x, p0 * term->ldx + col),
                             term->ldx, p1 - p0, cols);
    else if (term->by_rows)
        pass->gemm.pack_wt(panel, term->w, p0, p1, col, cols, term->scale);
    else
        pass->gemm.pack_w(panel, term->w, col, cols, p0, p1, term->scale);
}

static uint32_t depth_of(const struct lorica_term *term) {
    return !term->w ? term->depth : term->by_rows ? term->w->n : term->w->k;
}

/* Where a task of a product stands: parts that are packed and not yet multiplied. */
struct task {
    struct lorica_pass *pass;
    unsigned thread;
    void *out;
    size_t ldo;
    uint32_t row, rows, col, cols;
    enum lorica_gemm_out how;
    struct lorica_gemm_part parts[MAX_PARTS];
    size_t count, depth;
};

static void flush(struct task *task) {
    if (task->count == 0)
        return;
    task->pass->gemm.panel(task->out, task->ldo, task->parts, task->count, task->rows, task->cols,
                           task->how);
    task->count = 0;
    task->depth = 0;
    task->how = LORICA_GEMM_ADD;
}

/* Packs a term, in pieces where it is deeper than what is left of the panel. */
static void add_term(struct task *task, const struct lorica_term *term) {
    struct lorica_pass *pass = task->pass;
    const uint32_t depth = depth_of(term);
    for (uint32_t p = 0; p < depth;) {
        const size_t room = pass->panel_depth - task->depth;
        if (task->count == MAX_PARTS || (room < 64 && room < depth - p)) {
            flush(task);
            continue;
        }
        const uint32_t piece = depth - p <= room ? depth - p : (uint32_t)(room / 64 * 64);
        char *panel =
            (char *)pass->panels[task->thread] + lorica_gemm_panel_nbytes(&pass->gemm, task->depth);
        pack(pass, term, panel, task->col, task->cols, p, p + piece);
        task->parts[task->count++] = (struct lorica_gemm_part){
            .a = lorica_operands_at(pass, term->a, task->row * term->lda + p),
            .lda = term->lda,
            .panel = panel,
            .depth = piece};
        task->depth += piece + piece % 2;
        p += piece;
    }
}

void lorica_pass_product(struct lorica_pass *pass, unsigned thread, void *out, size_t ldo,
                         uint32_t rows, uint32_t cols, const struct lorica_term *terms,
                         size_t count, enum lorica_gemm_out how) {
    const unsigned threads = lorica_pool_threads(pass->pool);
    const uint32_t panels = (cols + NR - 1) / NR, parts = row_parts(panels, rows, threads);
    const size_t size = how == LORICA_GEMM_OPERAND ? pass->gemm.operand_nbytes : sizeof(float);
    uint32_t begin, end;
    lorica_pool_range(panels * parts, thread, threads, &begin, &end);
    for (uint32_t number = begin; number < end; number++) {
        const uint32_t col = number / parts * NR;
        uint32_t r0, r1;
        lorica_pool_range(rows, number % parts, parts, &r0, &r1);
        struct task task = {.pass = pass,
                            .thread = thread,
                            .out = (char *)out + (r0 * ldo + col) * size,
                            .ldo = ldo,
                            .row = r0,
                            .rows = r1 - r0,
                            .col = col,
                            .cols = cols - col < NR ? cols - col : NR,
                            .how = how};
        for (size_t t = 0; t < count; t++)
            add_term(&task, &terms[t]);
        flush(&task);
    }
}
