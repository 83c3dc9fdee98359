/* SPDX-License-Identifier: MIT
 * Every thread runs the whole step; barriers stand where one thread reads what another wrote:
 *
 *   norm, quantise, shrink | q k v, expand | rope, cache | attention | quantise, shrink |
 *   o, expand, add | norm, quantise, shrink | gate up, expand, silu | quantise, shrink |
 *   down, expand, add |
 *
 * Products are split by tiles of output, each thread a contiguous range of the weights. With one
 * or two rows the norms and quantisations are done by every thread for itself: they cost less than
 * a barrier, which then falls away unless an adapter's shrink needs it. */
#include "runtime/forward.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/attend.h"

#define ALIGNMENT 64
/* Up to this many rows every thread prepares all rows for itself. */
#define PRIVATE_ROWS 2
/* Modules that one stage multiplies at most (q, k, v). */
#define STAGE_MODULES 3

struct lorica_forward {
    const struct lorica_model *model;
    struct lorica_kv *kv;
    struct lorica_pool *pool;
    uint32_t max_rows, max_logits, rank;
    /* Floats from one row to the next. */
    size_t x_ld, q_ld, kv_ld, mlp_ld, in_ld, logits_ld, angles_ld, t_ld;
    size_t xq_stride; /* bytes */
    float *x;         /* residual stream */
    float *q, *k, *v, *attn, *gate, *up, *y, *logits, *angles;
    float *t;    /* [row][STAGE_MODULES][rank]: shrunk activations */
    float *in;   /* normed rows: shared ones, then PRIVATE_ROWS for each thread */
    uint8_t *xq; /* quantised rows, likewise */
    struct lorica_attend *attend;
    uint32_t *wanted; /* rows that want logits */
    /* The present batch. */
    const struct lorica_row *rows;
    uint32_t count, wanted_count;
    bool adapted; /* some row has an adapter */
};

/* What the products of one stage read. */
struct input {
    const float *x;
    size_t ldx;
    const uint8_t *xq;
};

/* A thread's part in the step. */
struct worker {
    struct lorica_forward *fw;
    unsigned thread, threads;
    uint32_t layer;
};

/* The modules of one stage, which share their input. */
struct stage {
    enum lorica_module first;
    unsigned count;
};

static const struct stage stage_qkv = {LORICA_MODULE_Q, 3};
static const struct stage stage_o = {LORICA_MODULE_O, 1};
static const struct stage stage_mlp = {LORICA_MODULE_GATE, 2};
static const struct stage stage_down = {LORICA_MODULE_DOWN, 1};

static uint32_t padded(uint32_t n) {
    return (n + LORICA_TILE_ROWS - 1) / LORICA_TILE_ROWS * LORICA_TILE_ROWS;
}

static const struct lorica_linear *stage_module(const struct worker *w, const struct stage *stage,
                                                unsigned i) {
    return lorica_model_module(w->fw->model, w->layer, (enum lorica_module)(stage->first + i));
}

/* One row into the form that the products read. */
static void prepare_row(const struct lorica_forward *fw, const float *src, const float *norm,
                        uint32_t k, bool quantise, float *in, uint8_t *xq) {
    if (norm) {
        fw->model->vec.rmsnorm(in, src, norm, k, fw->model->base->arch.rms_eps);
        src = in;
    }
    if (quantise)
        fw->model->linear.act_quantise(xq, src, k);
}

/* A stage's input as prepare makes it. */
struct source {
    const float *x; /* rows [count] of k values, ldx apart */
    size_t ldx;
    uint32_t k;
    const float *norm;     /* weight of an RMS norm to apply, or NULL */
    const uint32_t *index; /* which rows, or NULL for all in order */
    uint32_t count;
    bool quantise;
};

/* Shrinks rows [row0, row1) of a stage, of all their (module, rank) items those in [begin, end). */
static void shrink_rows(const struct worker *w, const struct stage *stage, const struct input *in,
                        uint32_t row0, uint32_t row1, uint64_t begin, uint64_t end) {
    const struct lorica_forward *fw = w->fw;
    uint64_t at = 0;
    for (uint32_t r = row0; r < row1 && at < end; r++) {
        if (!fw->rows[r].adapter)
            continue;
        for (unsigned i = 0; i < stage->count; i++) {
            const struct lorica_adapter_pair *pair = lorica_adapter_pair(
                fw->rows[r].adapter, w->layer, (enum lorica_module)(stage->first + i));
            const uint64_t i0 = begin > at ? begin - at : 0, i1 = end > at ? end - at : 0;
            at += pair->rank;
            if (i0 >= pair->rank || i1 == 0)
                continue;
            const uint32_t k = stage_module(w, stage, i)->k;
            fw->model->lora.shrink(fw->t + r * fw->t_ld + (size_t)i * fw->rank, in->x + r * in->ldx,
                                   k, pair->a16, k, (uint32_t)i0,
                                   i1 < pair->rank ? (uint32_t)i1 : pair->rank);
        }
    }
}

/* Ranks of all rows and modules of a stage. */
static uint64_t shrink_total(const struct worker *w, const struct stage *stage) {
    uint64_t total = 0;
    for (uint32_t r = 0; r < w->fw->count; r++)
        for (unsigned i = 0; w->fw->rows[r].adapter && i < stage->count; i++)
            total += lorica_adapter_pair(w->fw->rows[r].adapter, w->layer,
                                         (enum lorica_module)(stage->first + i))
                         ->rank;
    return total;
}

/* Norms, quantises and shrinks a stage's rows; on return all of it may be read. `stage` may be
 * NULL: nothing to shrink. */
static struct input prepare(const struct worker *w, const struct source *s,
                            const struct stage *stage) {
    struct lorica_forward *fw = w->fw;
    const bool alone = s->count <= PRIVATE_ROWS, shrinks = stage && fw->adapted;
    const size_t first = alone ? fw->max_rows + (size_t)w->thread * PRIVATE_ROWS : 0;
    uint32_t row0 = 0, row1 = s->count;
    if (!alone)
        lorica_pool_range(s->count, w->thread, w->threads, &row0, &row1);
    float *in = fw->in + first * fw->in_ld;
    uint8_t *xq = fw->xq + first * fw->xq_stride;
    const struct input ret = {s->norm ? in : s->x, s->norm ? fw->in_ld : s->ldx, xq};
    for (uint32_t r = row0; r < row1; r++)
        prepare_row(fw, s->x + (s->index ? s->index[r] : r) * s->ldx, s->norm, s->k, s->quantise,
                    in + r * fw->in_ld, xq + r * fw->xq_stride);
    if (shrinks && alone) {
        const uint64_t total = shrink_total(w, stage);
        shrink_rows(w, stage, &ret, 0, s->count, total * w->thread / w->threads,
                    total * (w->thread + 1) / w->threads);
    } else if (shrinks) {
        shrink_rows(w, stage, &ret, row0, row1, 0, UINT64_MAX);
    }
    if (shrinks || (!alone && (s->norm || s->quantise)))
        lorica_pool_barrier(fw->pool);
    return ret;
}

/* True when a product of the stage takes quantised activations. */
static bool stage_quantises(const struct worker *w, const struct stage *stage) {
    for (unsigned i = 0; i < stage->count; i++)
        if (lorica_linear_is_tiled(stage_module(w, stage, i)))
            return true;
    return false;
}

/* Prepares all rows of a stage. */
static struct input prepare_stage(const struct worker *w, const struct stage *stage, const float *x,
                                  size_t ldx, const float *norm) {
    const struct source source = {.x = x,
                                  .ldx = ldx,
                                  .k = stage_module(w, stage, 0)->k,
                                  .norm = norm,
                                  .count = w->fw->count,
                                  .quantise = stage_quantises(w, stage)};
    return prepare(w, &source, stage);
}

/* Tiles [tile0, tile1) of one product for all rows of the input. */
static void multiply(const struct lorica_forward *fw, float *y, size_t ldy, const struct input *in,
                     uint32_t rows, const struct lorica_linear *weights, uint32_t tile0,
                     uint32_t tile1) {
    const struct lorica_linear_kernels *kernels = &fw->model->linear;
    if (weights->format == LORICA_FORMAT_NF4)
        kernels->nf4(y, ldy, in->xq, fw->xq_stride, rows, weights, tile0, tile1);
    else if (weights->format == LORICA_FORMAT_Q8)
        kernels->q8(y, ldy, in->xq, fw->xq_stride, rows, weights, tile0, tile1);
    else
        kernels->dense(y, ldy, in->x, in->ldx, rows, weights, tile0, tile1);
}

/* The same for module i of a stage, with each row's adapter added. */
static void multiply_adapted(const struct worker *w, const struct stage *stage, unsigned i,
                             const struct input *in, float *y, size_t ldy, uint32_t tile0,
                             uint32_t tile1) {
    const struct lorica_forward *fw = w->fw;
    const struct lorica_linear *weights = stage_module(w, stage, i);
    const uint32_t n0 = tile0 * LORICA_TILE_ROWS;
    const uint32_t n1 =
        tile1 * LORICA_TILE_ROWS < weights->n ? tile1 * LORICA_TILE_ROWS : weights->n;
    if (tile0 >= tile1)
        return;
    multiply(fw, y, ldy, in, fw->count, weights, tile0, tile1);
    for (uint32_t r = 0; fw->adapted && r < fw->count; r++) {
        if (!fw->rows[r].adapter)
            continue;
        const struct lorica_adapter_pair *pair = lorica_adapter_pair(
            fw->rows[r].adapter, w->layer, (enum lorica_module)(stage->first + i));
        if (pair->rank > 0)
            fw->model->lora.expand(y + r * ldy, fw->t + r * fw->t_ld + (size_t)i * fw->rank,
                                   pair->rank, pair->bt16, padded(weights->n), n0, n1);
    }
}

static void project_qkv(const struct worker *w, const struct input *in) {
    struct lorica_forward *fw = w->fw;
    float *const outs[] = {fw->q, fw->k, fw->v};
    const size_t lds[] = {fw->q_ld, fw->kv_ld, fw->kv_ld};
    uint32_t total = 0, begin, end, at = 0;
    for (unsigned i = 0; i < 3; i++)
        total += lorica_linear_tiles(stage_module(w, &stage_qkv, i));
    lorica_pool_range(total, w->thread, w->threads, &begin, &end);
    for (unsigned i = 0; i < 3; i++) {
        const uint32_t tiles = lorica_linear_tiles(stage_module(w, &stage_qkv, i));
        const uint32_t t0 = begin > at ? begin - at : 0, t1 = end > at ? end - at : 0;
        multiply_adapted(w, &stage_qkv, i, in, outs[i], lds[i], t0, t1 < tiles ? t1 : tiles);
        at += tiles;
    }
}

/* Turns query and key heads [head0, head1) of a row, counted queries first, and puts the row's
 * keys and values into the cache. */
static void place_heads(const struct worker *w, uint32_t r, uint32_t head0, uint32_t head1) {
    struct lorica_forward *fw = w->fw;
    const struct lorica_arch *arch = &fw->model->base->arch;
    const struct lorica_vec_kernels *vec = &fw->model->vec;
    const uint32_t hd = arch->head_dim, position = fw->rows[r].position;
    const float *cs = fw->angles + r * fw->angles_ld, *sn = cs + hd / 2;
    if (head0 < arch->heads)
        vec->rope(fw->q + r * fw->q_ld + (size_t)head0 * hd,
                  (head1 < arch->heads ? head1 : arch->heads) - head0, hd, cs, sn);
    for (uint32_t h = head0 > arch->heads ? head0 : arch->heads; h < head1; h++) {
        const size_t head = h - arch->heads, at = r * fw->kv_ld + head * hd;
        vec->rope(fw->k + at, 1, hd, cs, sn);
        fw->model->attn.put[fw->kv->format](
            lorica_kv_at(fw->kv, w->layer, (uint32_t)head,
                         fw->rows[r].pages[position / LORICA_KV_PAGE]),
            position % LORICA_KV_PAGE, fw->k + at, fw->v + at, hd);
    }
}

static void place_rows(const struct worker *w) {
    const struct lorica_forward *fw = w->fw;
    const uint32_t heads = fw->model->base->arch.heads + fw->model->base->arch.kv_heads;
    uint32_t begin, end;
    lorica_pool_range(fw->count * heads, w->thread, w->threads, &begin, &end);
    while (begin < end) {
        const uint32_t r = begin / heads, h0 = begin % heads;
        const uint32_t h1 = end - begin < heads - h0 ? h0 + (end - begin) : heads;
        place_heads(w, r, h0, h1);
        begin += h1 - h0;
    }
}

static void attend_rows(const struct worker *w) {
    const struct lorica_forward *fw = w->fw;
    const struct lorica_attend_rows io = {fw->q, fw->attn, fw->q_ld};
    lorica_attend_run(fw->attend, &io, w->layer, w->thread, w->threads);
}

/* A product whose result is added to the residual stream. */
static void project_residual(const struct worker *w, const struct stage *stage,
                             const struct input *in) {
    struct lorica_forward *fw = w->fw;
    uint32_t tile0, tile1;
    lorica_pool_range(lorica_linear_tiles(stage_module(w, stage, 0)), w->thread, w->threads, &tile0,
                      &tile1);
    multiply_adapted(w, stage, 0, in, fw->y, fw->x_ld, tile0, tile1);
    const size_t n0 = (size_t)tile0 * LORICA_TILE_ROWS;
    for (uint32_t r = 0; r < fw->count && tile0 < tile1; r++)
        fw->model->vec.add(fw->x + r * fw->x_ld + n0, fw->y + r * fw->x_ld + n0,
                           (tile1 - tile0) * LORICA_TILE_ROWS);
}

static void project_mlp(const struct worker *w, const struct input *in) {
    struct lorica_forward *fw = w->fw;
    uint32_t tile0, tile1;
    lorica_pool_range(lorica_linear_tiles(stage_module(w, &stage_mlp, 0)), w->thread, w->threads,
                      &tile0, &tile1);
    multiply_adapted(w, &stage_mlp, 0, in, fw->gate, fw->mlp_ld, tile0, tile1);
    multiply_adapted(w, &stage_mlp, 1, in, fw->up, fw->mlp_ld, tile0, tile1);
    const size_t n0 = (size_t)tile0 * LORICA_TILE_ROWS;
    for (uint32_t r = 0; r < fw->count && tile0 < tile1; r++) {
        float *gate = fw->gate + r * fw->mlp_ld + n0;
        fw->model->vec.silu_mul(gate, gate, fw->up + r * fw->mlp_ld + n0,
                                (tile1 - tile0) * LORICA_TILE_ROWS);
    }
}

static void run_layer(const struct worker *w) {
    struct lorica_forward *fw = w->fw;
    const struct lorica_layer *layer = &fw->model->base->layers[w->layer];
    struct input in = prepare_stage(w, &stage_qkv, fw->x, fw->x_ld, layer->attn_norm);
    project_qkv(w, &in);
    lorica_pool_barrier(fw->pool);
    place_rows(w);
    lorica_pool_barrier(fw->pool);
    attend_rows(w);
    lorica_pool_barrier(fw->pool);
    in = prepare_stage(w, &stage_o, fw->attn, fw->q_ld, NULL);
    project_residual(w, &stage_o, &in);
    lorica_pool_barrier(fw->pool);
    in = prepare_stage(w, &stage_mlp, fw->x, fw->x_ld, layer->mlp_norm);
    project_mlp(w, &in);
    lorica_pool_barrier(fw->pool);
    in = prepare_stage(w, &stage_down, fw->gate, fw->mlp_ld, NULL);
    project_residual(w, &stage_down, &in);
    lorica_pool_barrier(fw->pool);
}

/* Embedding and rotary angles of this thread's rows. */
static void begin_rows(const struct worker *w) {
    struct lorica_forward *fw = w->fw;
    const uint32_t half = fw->model->base->arch.head_dim / 2;
    uint32_t row0, row1;
    lorica_pool_range(fw->count, w->thread, w->threads, &row0, &row1);
    for (uint32_t r = row0; r < row1; r++) {
        float *angles = fw->angles + r * fw->angles_ld;
        lorica_matrix_rows_f32(&fw->model->base->embed, (uint32_t)fw->rows[r].token, 1,
                               fw->x + r * fw->x_ld);
        for (uint32_t i = 0; i < half; i++) {
            const float angle = (float)fw->rows[r].position * fw->model->inv_freq[i];
            angles[i] = cosf(angle);
            angles[half + i] = sinf(angle);
        }
    }
}

static void project_logits(const struct worker *w) {
    struct lorica_forward *fw = w->fw;
    const struct lorica_linear *head = &fw->model->head;
    const struct source source = {.x = fw->x,
                                  .ldx = fw->x_ld,
                                  .k = head->k,
                                  .norm = fw->model->base->final_norm,
                                  .index = fw->wanted,
                                  .count = fw->wanted_count,
                                  .quantise = lorica_linear_is_tiled(head)};
    uint32_t tile0, tile1;
    if (fw->wanted_count == 0)
        return;
    const struct input in = prepare(w, &source, NULL);
    lorica_pool_range(lorica_linear_tiles(head), w->thread, w->threads, &tile0, &tile1);
    if (tile0 < tile1)
        multiply(fw, fw->logits, fw->logits_ld, &in, fw->wanted_count, head, tile0, tile1);
}

static void run_step(void *arg, unsigned thread, unsigned threads) {
    struct lorica_forward *fw = arg;
    struct worker w = {.fw = fw, .thread = thread, .threads = threads};
    begin_rows(&w);
    lorica_pool_barrier(fw->pool);
    for (; w.layer < fw->model->base->arch.layers; w.layer++)
        run_layer(&w);
    project_logits(&w);
}

void lorica_forward_run(struct lorica_forward *fw, const struct lorica_row *rows, uint32_t count) {
    fw->rows = rows;
    fw->count = count;
    fw->wanted_count = 0;
    fw->adapted = false;
    for (uint32_t r = 0; r < count; r++) {
        fw->adapted = fw->adapted || rows[r].adapter;
        if (rows[r].wants_logits)
            fw->wanted[fw->wanted_count++] = r;
    }
    lorica_attend_plan(fw->attend, rows, count);
    lorica_pool_run(fw->pool, run_step, fw);
}

float *lorica_forward_logits(struct lorica_forward *fw, uint32_t index) {
    return fw->logits + index * fw->logits_ld;
}

/* Zeroed, aligned memory of count * size bytes; NULL when that overflows or there is none. */
static void *take(size_t count, size_t size) {
    size_t nbytes;
    if (__builtin_mul_overflow(count, size, &nbytes) || nbytes > SIZE_MAX - ALIGNMENT)
        return NULL;
    nbytes = (nbytes / ALIGNMENT + 1) * ALIGNMENT;
    void *bytes = aligned_alloc(ALIGNMENT, nbytes);
    if (bytes)
        memset(bytes, 0, nbytes);
    return bytes;
}

static void set_widths(struct lorica_forward *fw) {
    const struct lorica_arch *arch = &fw->model->base->arch;
    const uint32_t q = arch->heads * arch->head_dim, kv = arch->kv_heads * arch->head_dim;
    const uint32_t widest = arch->intermediate > q ? arch->intermediate : q;
    fw->x_ld = padded(arch->hidden);
    fw->q_ld = padded(q);
    fw->kv_ld = padded(kv);
    fw->mlp_ld = padded(arch->intermediate);
    fw->in_ld = fw->x_ld;
    fw->angles_ld = padded(arch->head_dim);
    fw->logits_ld = padded(arch->vocab);
    /* Quantised rows are whole blocks; widths that are not are never quantised. */
    fw->xq_stride = fw->model->linear.act_nbytes(
        ((widest > arch->hidden ? widest : arch->hidden) + 63) / 64 * 64);
}

static bool take_buffers(struct lorica_forward *fw) {
    const size_t rows = fw->max_rows, threads = lorica_pool_threads(fw->pool);
    const size_t prepared = rows + threads * PRIVATE_ROWS;
    return (fw->x = take(rows, fw->x_ld * sizeof(float))) &&
           (fw->y = take(rows, fw->x_ld * sizeof(float))) &&
           (fw->q = take(rows, fw->q_ld * sizeof(float))) &&
           (fw->k = take(rows, fw->kv_ld * sizeof(float))) &&
           (fw->v = take(rows, fw->kv_ld * sizeof(float))) &&
           (fw->attn = take(rows, fw->q_ld * sizeof(float))) &&
           (fw->gate = take(rows, fw->mlp_ld * sizeof(float))) &&
           (fw->up = take(rows, fw->mlp_ld * sizeof(float))) &&
           (fw->angles = take(rows, fw->angles_ld * sizeof(float))) &&
           (fw->in = take(prepared, fw->in_ld * sizeof(float))) &&
           (fw->xq = take(prepared, fw->xq_stride)) &&
           (fw->wanted = take(rows, sizeof(uint32_t))) &&
           (fw->logits = take(fw->max_logits, fw->logits_ld * sizeof(float)));
}

int lorica_forward_create(const struct lorica_model *model, struct lorica_kv *kv,
                          struct lorica_pool *pool, uint32_t max_rows, uint32_t max_logits,
                          struct lorica_forward **ret, struct lorica_error *err) {
    struct lorica_forward *fw = calloc(1, sizeof(*fw));
    if (!fw)
        return lorica_fail(err, LORICA_ENOMEM, "no memory for the forward pass");
    fw->model = model;
    fw->kv = kv;
    fw->pool = pool;
    fw->max_rows = max_rows;
    fw->max_logits = max_logits;
    set_widths(fw);
    if (!take_buffers(fw)) {
        lorica_forward_destroy(fw);
        return lorica_fail(err, LORICA_ENOMEM,
                           "no memory for batches of %u rows: ask for fewer running requests or "
                           "a smaller prefill chunk",
                           max_rows);
    }
    const int rc = lorica_attend_create(model, kv, pool, max_rows, &fw->attend, err);
    if (rc) {
        lorica_forward_destroy(fw);
        return rc;
    }
    *ret = fw;
    return 0;
}

int lorica_forward_reserve_rank(struct lorica_forward *fw, uint32_t rank,
                                struct lorica_error *err) {
    if (rank <= fw->rank)
        return 0;
    const uint32_t width = padded(rank);
    float *t = take((size_t)fw->max_rows * STAGE_MODULES, width * sizeof(float));
    if (!t)
        return lorica_fail(err, LORICA_ENOMEM, "no memory for adapters of rank %u", rank);
    free(fw->t);
    fw->t = t;
    fw->rank = width;
    fw->t_ld = (size_t)STAGE_MODULES * width;
    return 0;
}

void lorica_forward_destroy(struct lorica_forward *fw) {
    if (!fw)
        return;
    void *const buffers[] = {fw->x,  fw->y,      fw->q,  fw->k,      fw->v,  fw->attn, fw->gate,
                             fw->up, fw->angles, fw->in, fw->logits, fw->xq, fw->t,    fw->wanted};
    for (size_t i = 0; i < sizeof(buffers) / sizeof(buffers[0]); i++)
        free(buffers[i]);
    lorica_attend_destroy(fw->attend);
    free(fw);
}
