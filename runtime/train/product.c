/* SPDX-License-Identifier: MIT
 * Products with frozen weights, decoded panel by panel or by serving's kernels, and with
 * activations. */
#include <string.h>

#include "runtime/train/pass.h"

#define NR LORICA_GEMM_NR
#define MIN_ROWS 48  /* rows for which a panel is worth decoding twice */
#define MAX_PARTS 16 /* of one product at a time */
#define MAX_GROUP 8  /* panels */
#define ROW_BLOCK 48 /* rows that go through a group of panels at a time */
#define SUM_ROWS LORICA_PASS_SUM_ROWS
#define SUM_COLS LORICA_PASS_SUM_COLS

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

/* Panels of one group: so many that they stay in the level 2 cache beside a block of rows. */
static uint32_t group_panels(const struct lorica_pass *pass, const struct lorica_term *terms,
                             size_t count) {
    size_t depth = 0;
    for (size_t i = 0; i < count; i++)
        depth += depth_of(&terms[i]) + 63u;
    if (depth > pass->panel_depth)
        depth = pass->panel_depth;
    const size_t fit = pass->panel_nbytes / lorica_gemm_panel_nbytes(&pass->gemm, depth);
    return fit < 1 ? 1 : fit > MAX_GROUP ? MAX_GROUP : (uint32_t)fit;
}

/* Where a task of a product stands: parts of a group of panels that are packed and not yet
 * multiplied. Rows are taken in blocks, and each block through all panels of the group, so that
 * what they read comes from far away once for the group and not for every panel. */
struct task {
    struct lorica_pass *pass;
    unsigned thread;
    void *out;
    size_t ldo;
    uint32_t row, rows, col, cols; /* cols: of all panels */
    enum lorica_gemm_out how;
    size_t size;                              /* of an element of `out` as it is asked for */
    struct lorica_gemm_part parts[MAX_PARTS]; /* of the first panel */
    size_t stride;                            /* bytes from one panel to the next */
    size_t count, depth;
};

static void flush(struct task *task) {
    const struct lorica_gemm_kernels *gemm = &task->pass->gemm;
    for (uint32_t r = 0; task->count > 0 && r < task->rows; r += ROW_BLOCK) {
        const uint32_t rows = task->rows - r < ROW_BLOCK ? task->rows - r : ROW_BLOCK;
        struct lorica_gemm_part parts[MAX_PARTS];
        for (size_t i = 0; i < task->count; i++) {
            parts[i] = task->parts[i];
            parts[i].a = lorica_operands_at(task->pass, parts[i].a, r * parts[i].lda);
        }
        for (uint32_t col = 0; col < task->cols; col += NR) {
            const uint32_t cols = task->cols - col < NR ? task->cols - col : NR;
            gemm->panel((char *)task->out + (r * task->ldo + col) * task->size, task->ldo, parts,
                        task->count, rows, cols, task->how);
            for (size_t i = 0; i < task->count; i++)
                parts[i].panel = (const char *)parts[i].panel + task->stride;
        }
    }
    if (task->count > 0)
        task->how = LORICA_GEMM_ADD;
    task->count = 0;
    task->depth = 0;
}

/* Packs a term, in pieces where it is deeper than what is left of the panels. */
static void add_term(struct task *task, const struct lorica_term *term) {
    struct lorica_pass *pass = task->pass;
    const uint32_t depth = depth_of(term);
    for (uint32_t p = 0; p < depth;) {
        const size_t room =
            task->stride / lorica_gemm_panel_nbytes(&pass->gemm, 2) * 2 - task->depth;
        if (task->count == MAX_PARTS || (room < 64 && room < depth - p)) {
            flush(task);
            continue;
        }
        const uint32_t piece = depth - p <= room ? depth - p : (uint32_t)(room / 64 * 64);
        char *panel =
            (char *)pass->panels[task->thread] + lorica_gemm_panel_nbytes(&pass->gemm, task->depth);
        for (uint32_t col = 0; col < task->cols; col += NR)
            pack(pass, term, panel + col / NR * task->stride, task->col + col,
                 task->cols - col < NR ? task->cols - col : NR, p, p + piece);
        task->parts[task->count++] = (struct lorica_gemm_part){
            .a = lorica_operands_at(pass, term->a, task->row * term->lda + p),
            .lda = term->lda,
            .panel = panel,
            .depth = piece};
        task->depth += piece + piece % 2;
        p += piece;
    }
}

/* -- frozen weights in tiles -- */

const struct lorica_linear *lorica_pass_tiled(const struct lorica_pass *pass, uint32_t layer,
                                              enum lorica_module module) {
    if (!pass->served)
        return NULL;
    const struct lorica_linear *w = lorica_model_module(pass->served, layer, module);
    return lorica_linear_is_tiled(w) ? w : NULL;
}

size_t lorica_pass_quantised(const struct lorica_linear_kernels *linear, uint32_t k, bool by_rows) {
    size_t nbytes = 0;
    for (uint32_t i = 0; by_rows && i < k; i += LORICA_PASS_PIECE)
        nbytes += linear->act_nbytes(lorica_turned_piece(k, i));
    return by_rows ? nbytes : linear->act_nbytes(k);
}

/* A row of gradients, piece by piece. */
static void quantise_pieces(const struct lorica_pass *pass, char *to, const float *x, uint32_t k,
                            float *line) {
    const struct lorica_linear_kernels *linear = &pass->served->linear;
    for (uint32_t i = 0; i < k; i += LORICA_PASS_PIECE) {
        const uint32_t depth = lorica_turned_piece(k, i);
        const float *piece = x + i;
        if (depth > k - i) {
            memcpy(line, piece, (k - i) * sizeof(*line));
            memset(line + k - i, 0, (depth - (k - i)) * sizeof(*line));
            piece = line;
        }
        linear->act_quantise(to, piece, depth);
        to += linear->act_nbytes(depth);
    }
}

void lorica_pass_quantise(struct lorica_pass *pass, unsigned thread, void *to, const void *x,
                          uint32_t rows, uint32_t k, bool by_rows) {
    const size_t stride = lorica_pass_quantised(&pass->served->linear, k, by_rows);
    float *line = pass->lines[thread];
    uint32_t begin, end;
    lorica_pool_range(rows, thread, lorica_pool_threads(pass->pool), &begin, &end);
    for (size_t i = begin; i < end; i++) {
        const float *row = lorica_pass_read(pass, lorica_operands_at(pass, x, i * k), k, line);
        if (by_rows)
            quantise_pieces(pass, (char *)to + i * stride, row, k, line + pass->widest);
        else
            pass->served->linear.act_quantise((char *)to + i * stride, row, k);
    }
}

/* Panels of a group, so that what is turned for it at a time stays in the level 2 cache. */
static uint32_t tiled_panels(const struct lorica_pass *pass, const struct lorica_term *terms,
                             size_t count) {
    uint32_t depth = 0;
    for (size_t i = 0; i < count && terms[i].tiled; i++)
        if (terms[i].by_rows && terms[i].tiled->n > depth)
            depth = terms[i].tiled->n;
    depth = lorica_turned_depth(depth < LORICA_PASS_PIECE ? depth : LORICA_PASS_PIECE);
    const size_t most = SUM_COLS / NR;
    const size_t fit = depth > 0 ? LORICA_PASS_TURNED / lorica_turned_nbytes(depth) : most;
    return (uint32_t)(fit < most ? fit : most);
}

/* A task on columns of out that become (+)= A W: W is turned piece by piece. */
static void add_turned(struct task *task, const struct lorica_term *term) {
    const struct lorica_linear_kernels *linear = &task->pass->served->linear;
    const uint32_t tile = task->col / LORICA_TILE_ROWS, tiles = task->cols / LORICA_TILE_ROWS;
    const char *x = (const char *)term->quantised + task->row * term->quantised_stride;
    int8_t *codes = task->pass->turned[task->thread];
    for (uint32_t i = 0; i < term->tiled->n; i += LORICA_PASS_PIECE) {
        const uint32_t depth = lorica_turned_piece(term->tiled->n, i);
        uint16_t *scales = (uint16_t *)(void *)(codes + (size_t)task->cols * depth);
        const struct lorica_linear w = {LORICA_FORMAT_Q8, task->cols, depth, codes, scales};
        lorica_linear_turn(linear, codes, scales, term->tiled, term->by, i, depth, tile,
                           tile + tiles);
        for (uint32_t r = 0; r < task->rows; r += SUM_ROWS)
            linear->turned((float *)task->out + r * task->ldo, task->ldo,
                           x + r * term->quantised_stride, term->quantised_stride,
                           task->rows - r < SUM_ROWS ? task->rows - r : SUM_ROWS, &w,
                           task->how == LORICA_GEMM_ADD);
        task->how = LORICA_GEMM_ADD;
        x += linear->act_nbytes(depth);
    }
}

/* What sums are asked to become. */
static void put_sums(const struct task *task, const float *sums) {
    for (size_t i = 0; i < task->rows; i++, sums += SUM_COLS) {
        void *to = (char *)task->out + i * task->ldo * task->size;
        float *floats = to;
        if (task->how == LORICA_GEMM_OPERAND)
            task->pass->gemm.store(to, sums, task->cols);
        else if (task->how == LORICA_GEMM_SET)
            memcpy(to, sums, task->cols * sizeof(*sums));
        else
            for (uint32_t j = 0; j < task->cols; j++)
                floats[j] += sums[j];
    }
}

/* A task whose first term is A W^T, W as it is served: block by block of rows, in the thread's sums
 * where they cannot be made in their place. */
static void multiply_served(const struct task *whole, const struct lorica_term *terms,
                            size_t count) {
    const struct lorica_linear *of = terms[0].tiled;
    const struct lorica_linear w =
        lorica_linear_rows(of, whole->col / LORICA_TILE_ROWS, whole->cols);
    const struct lorica_linear_kernels *linear = &whole->pass->served->linear;
    const bool in_place = whole->how == LORICA_GEMM_SET && whole->cols % LORICA_TILE_ROWS == 0;
    float *sums = whole->pass->sums[whole->thread];
    for (uint32_t r = 0; r < whole->rows; r += SUM_ROWS) {
        struct task task = *whole;
        task.row += r;
        task.rows = whole->rows - r < SUM_ROWS ? whole->rows - r : SUM_ROWS;
        task.out = (char *)whole->out + r * whole->ldo * whole->size;
        struct task rest = task;
        rest.out = in_place ? task.out : sums;
        rest.ldo = in_place ? task.ldo : SUM_COLS;
        rest.size = sizeof(*sums);
        rest.how = LORICA_GEMM_ADD;
        (w.format == LORICA_FORMAT_NF4 ? linear->nf4 : linear->q8)(
            rest.out, rest.ldo,
            (const char *)terms[0].quantised + task.row * terms[0].quantised_stride,
            terms[0].quantised_stride, task.rows, &w, 0, lorica_linear_tiles(&w));
        for (size_t t = 1; t < count; t++)
            add_term(&rest, &terms[t]);
        flush(&rest);
        if (!in_place)
            put_sums(&task, sums);
    }
}

void lorica_pass_product(struct lorica_pass *pass, unsigned thread, void *out, size_t ldo,
                         uint32_t rows, uint32_t cols, const struct lorica_term *terms,
                         size_t count, enum lorica_gemm_out how) {
    const unsigned threads = lorica_pool_threads(pass->pool);
    if (how == LORICA_GEMM_OPERAND && pass->gemm.operand == LORICA_OPERAND_F32)
        how = LORICA_GEMM_SET;
    const bool tiled = terms[0].tiled != NULL;
    const uint32_t panels = (cols + NR - 1) / NR, parts = row_parts(panels, rows, threads);
    const uint32_t most = parts > 1 ? 1
                          : tiled   ? tiled_panels(pass, terms, count)
                                    : group_panels(pass, terms, count);
    const size_t size = how == LORICA_GEMM_OPERAND ? pass->gemm.operand_nbytes : sizeof(float);
    uint32_t begin, end;
    lorica_pool_range(panels * parts, thread, threads, &begin, &end);
    const uint32_t groups = (end - begin + most - 1) / most;
    for (uint32_t g = 0; g < groups; g++) {
        uint32_t first, last, r0, r1; /* groups of one size, nearly */
        lorica_pool_range(end - begin, g, groups, &first, &last);
        const uint32_t number = begin + first, col = number / parts * NR;
        const uint32_t width = (last - first) * NR;
        lorica_pool_range(rows, number % parts, parts, &r0, &r1);
        struct task task = {.pass = pass,
                            .thread = thread,
                            .out = (char *)out + (r0 * ldo + col) * size,
                            .ldo = ldo,
                            .row = r0,
                            .rows = r1 - r0,
                            .col = col,
                            .cols = cols - col < width ? cols - col : width,
                            .how = how,
                            .size = size,
                            .stride = pass->panel_nbytes / (last - first) / 256 * 256};
        if (tiled && !terms[0].by_rows) {
            multiply_served(&task, terms, count);
            continue;
        }
        for (size_t t = 0; t < count; t++)
            if (terms[t].tiled)
                add_turned(&task, &terms[t]);
            else
                add_term(&task, &terms[t]);
        flush(&task);
    }
}
