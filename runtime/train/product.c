/* SPDX-License-Identifier: MIT
 * Products with frozen weights, decoded panel by panel. */
#include "runtime/train/pass.h"

#define NR LORICA_GEMM_NR
#define MIN_ROWS 48 /* rows for which a panel is worth decoding twice */

/* Panels are dealt to the threads; where there are too few of them, rows are split too. */
static uint32_t row_parts(uint32_t panels, uint32_t rows, unsigned threads) {
    uint32_t parts = 1;
    while (parts < threads && panels * parts < 4 * threads && panels * parts % threads != 0 &&
           rows / (parts + 1) >= MIN_ROWS)
        parts++;
    return parts;
}

static void pack(const struct lorica_pass *pass, const struct lorica_term *term, float *panel,
                 uint32_t col, uint32_t cols, uint32_t p0, uint32_t p1) {
    if (term->by_rows)
        pass->gemm.pack_wt(panel, term->w, p0, p1, col, cols);
    else
        pass->gemm.pack_w(panel, term->w, col, cols, p0, p1);
    if (term->scale != 1.0f)
        for (size_t i = 0; i < (size_t)(p1 - p0) * NR; i++)
            panel[i] *= term->scale;
}

void lorica_pass_product(struct lorica_pass *pass, unsigned thread, float *out, size_t ldo,
                         uint32_t rows, uint32_t cols, const struct lorica_term *terms,
                         size_t count, bool accumulate) {
    const unsigned threads = lorica_pool_threads(pass->pool);
    const uint32_t panels = (cols + NR - 1) / NR, parts = row_parts(panels, rows, threads);
    uint32_t begin, end;
    lorica_pool_range(panels * parts, thread, threads, &begin, &end);
    for (uint32_t task = begin; task < end; task++) {
        const uint32_t col = task / parts * NR, width = cols - col < NR ? cols - col : NR;
        uint32_t r0, r1;
        bool more = accumulate;
        lorica_pool_range(rows, task % parts, parts, &r0, &r1);
        for (size_t t = 0; t < count; t++) {
            const uint32_t depth = terms[t].by_rows ? terms[t].w->n : terms[t].w->k;
            for (uint32_t p = 0; p < depth; p += LORICA_PASS_DEPTH) {
                const uint32_t end_p =
                    depth - p < LORICA_PASS_DEPTH ? depth : p + LORICA_PASS_DEPTH;
                pack(pass, &terms[t], pass->panels[thread], col, width, p, end_p);
                pass->gemm.panel(out + r0 * ldo + col, ldo, terms[t].a + r0 * terms[t].lda + p,
                                 terms[t].lda, pass->panels[thread], r1 - r0, end_p - p, width,
                                 more);
                more = true;
            }
        }
    }
}
