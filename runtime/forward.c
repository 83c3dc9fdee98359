/* SPDX-License-Identifier: MIT
 * Every thread runs the whole step; barriers stand where one thread reads what another wrote:
 *
 *   norm, quantise | q k v | rope, cache | attention | quantise | o, add | norm, quantise |
 *   gate up, silu | quantise | down, add |
 *
 * Of the last layer's rows only those that want logits go on behind their keys and values.
 *
 * Products are split by tiles of output, each thread a contiguous range of the weights. With one
 * or two rows the norms and quantisations are done by every thread for itself: they cost less than
 * a barrier, which then falls away.
 *
 * Adapters: rows are grouped by adapter, so that its weights are read once for all of them. Each
 * thread shrinks a share of the ranks before its products, and expands into its own outputs after
 * them: what the others shrunk is there by then, so nobody waits. */
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

/* Rows of the batch that have the same adapter: order[begin, begin + count). */
struct group {
    const struct lorica_adapter *adapter;
    uint32_t begin, count;
};

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
    bool narrows;            /* not all rows want logits */
    struct lorica_row *kept; /* those that do, once the batch is narrowed to them */
    struct group *groups;    /* of those with an adapter */
    uint32_t *order, *group_of;
    uint32_t group_count;
};

/* What the products of one stage read. */
struct input {
    const float *x;
    size_t ldx;
    const uint8_t *xq;
    bool shrunk;     /* some row is shrunk */
    uint32_t ticket; /* then: of the shrinks */
};

/* Where the outputs of one module go, and this thread's tiles of it. */
struct output {
    float *y;
    size_t ldy;
    uint32_t tile0, tile1;
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

/* A group's pair for module i of a stage. */
static const struct lorica_adapter_pair *stage_pair(const struct worker *w,
                                                    const struct stage *stage, unsigned i,
                                                    const struct group *group) {
    return lorica_adapter_pair(group->adapter, w->layer, (enum lorica_module)(stage->first + i));
}

static struct lorica_lora_rows group_rows(const struct lorica_forward *fw,
                                          const struct group *group, unsigned i) {
    return (struct lorica_lora_rows){fw->order + group->begin, group->count,
                                     fw->t + (size_t)i * fw->rank, fw->t_ld};
}

/* What one rank of a group costs: reading its row of A, and multiplying it by the rows. */
static uint64_t rank_cost(const struct group *group) { return group->count + 4; }

/* How many of `count` items, which cost `each` and begin at `at`, start before `limit`. */
static uint32_t items_before(uint64_t limit, uint64_t at, uint64_t each, uint32_t count) {
    const uint64_t before = limit > at ? (limit - at + each - 1) / each : 0;
    return before < count ? (uint32_t)before : count;
}

/* What all shrinks of a stage cost. */
static uint64_t shrink_cost(const struct worker *w, const struct stage *stage) {
    uint64_t total = 0;
    for (uint32_t g = 0; g < w->fw->group_count; g++)
        for (unsigned i = 0; i < stage->count; i++)
            total +=
                stage_pair(w, stage, i, &w->fw->groups[g])->rank * rank_cost(&w->fw->groups[g]);
    return total;
}

/* This thread's share of the shrinks of a stage, which all threads divide by cost. */
static void shrink_share(const struct worker *w, const struct stage *stage, const struct input *in,
                         uint64_t total) {
    const struct lorica_forward *fw = w->fw;
    uint64_t at = 0;
    const uint64_t begin = total * w->thread / w->threads;
    const uint64_t end = total * (w->thread + 1) / w->threads;
    for (uint32_t g = 0; g < fw->group_count && at < end; g++) {
        const struct group *group = &fw->groups[g];
        for (unsigned i = 0; i < stage->count; i++) {
            const struct lorica_adapter_pair *pair = stage_pair(w, stage, i, group);
            const struct lorica_lora_rows rows = group_rows(fw, group, i);
            const uint32_t i0 = items_before(begin, at, rank_cost(group), pair->rank);
            const uint32_t i1 = items_before(end, at, rank_cost(group), pair->rank);
            if (i0 < i1)
                fw->model->lora.shrink(&rows, in->x, in->ldx, stage_module(w, stage, i)->k,
                                       pair->a8, pair->scales, i0, i1);
            at += pair->rank * rank_cost(group);
        }
    }
}

/* Norms and quantises a stage's rows; on return all of them may be read. */
static struct input prepare(const struct worker *w, const struct source *s) {
    struct lorica_forward *fw = w->fw;
    const bool alone = s->count <= PRIVATE_ROWS;
    const size_t first = alone ? fw->max_rows + (size_t)w->thread * PRIVATE_ROWS : 0;
    uint32_t row0 = 0, row1 = s->count;
    if (!alone)
        lorica_pool_range(s->count, w->thread, w->threads, &row0, &row1);
    float *in = fw->in + first * fw->in_ld;
    uint8_t *xq = fw->xq + first * fw->xq_stride;
    for (uint32_t r = row0; r < row1; r++)
        prepare_row(fw, s->x + (s->index ? s->index[r] : r) * s->ldx, s->norm, s->k, s->quantise,
                    in + r * fw->in_ld, xq + r * fw->xq_stride);
    if (!alone && (s->norm || s->quantise))
        lorica_pool_barrier(fw->pool);
    return (struct input){.x = s->norm ? in : s->x, .ldx = s->norm ? fw->in_ld : s->ldx, .xq = xq};
}

/* True when a product of the stage takes quantised activations. */
static bool stage_quantises(const struct worker *w, const struct stage *stage) {
    for (unsigned i = 0; i < stage->count; i++)
        if (lorica_linear_is_tiled(stage_module(w, stage, i)))
            return true;
    return false;
}

/* Prepares all rows of a stage, and begins their shrinks. */
static struct input prepare_stage(const struct worker *w, const struct stage *stage, const float *x,
                                  size_t ldx, const float *norm) {
    const struct source source = {.x = x,
                                  .ldx = ldx,
                                  .k = stage_module(w, stage, 0)->k,
                                  .norm = norm,
                                  .count = w->fw->count,
                                  .quantise = stage_quantises(w, stage)};
    struct input in = prepare(w, &source);
    const uint64_t cost = shrink_cost(w, stage);
    if (cost > 0) {
        shrink_share(w, stage, &in, cost);
        in.shrunk = true;
        in.ticket = lorica_pool_arrive(w->fw->pool);
    }
    return in;
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

/* Adds the adapters to this thread's outputs of module i. */
static void expand_groups(const struct worker *w, const struct stage *stage, unsigned i,
                          const struct output *out) {
    const struct lorica_forward *fw = w->fw;
    for (uint32_t g = 0; g < fw->group_count; g++) {
        const struct lorica_adapter_pair *pair = stage_pair(w, stage, i, &fw->groups[g]);
        const struct lorica_lora_rows rows = group_rows(fw, &fw->groups[g], i);
        if (pair->rank > 0)
            fw->model->lora.expand(&rows, out->y, out->ldy, pair->rank, pair->b8, out->tile0,
                                   out->tile1);
    }
}

/* This thread's part of all products of a stage, adapters included: outs[stage->count]. */
static void project(const struct worker *w, const struct stage *stage, const struct input *in,
                    const struct output *outs) {
    for (unsigned i = 0; i < stage->count; i++)
        if (outs[i].tile0 < outs[i].tile1)
            multiply(w->fw, outs[i].y, outs[i].ldy, in, w->fw->count, stage_module(w, stage, i),
                     outs[i].tile0, outs[i].tile1);
    if (!in->shrunk)
        return;
    lorica_pool_wait(w->fw->pool, in->ticket);
    for (unsigned i = 0; i < stage->count; i++)
        if (outs[i].tile0 < outs[i].tile1)
            expand_groups(w, stage, i, &outs[i]);
}

/* This thread's tiles of module i. */
static struct output own_tiles(const struct worker *w, const struct stage *stage, unsigned i,
                               float *y, size_t ldy) {
    struct output out = {.y = y, .ldy = ldy};
    lorica_pool_range(lorica_linear_tiles(stage_module(w, stage, i)), w->thread, w->threads,
                      &out.tile0, &out.tile1);
    return out;
}

static void project_qkv(const struct worker *w, const struct input *in) {
    struct lorica_forward *fw = w->fw;
    struct output outs[] = {
        {fw->q, fw->q_ld, 0, 0}, {fw->k, fw->kv_ld, 0, 0}, {fw->v, fw->kv_ld, 0, 0}};
    uint32_t total = 0, begin, end, at = 0;
    for (unsigned i = 0; i < 3; i++)
        total += lorica_linear_tiles(stage_module(w, &stage_qkv, i));
    lorica_pool_range(total, w->thread, w->threads, &begin, &end);
    for (unsigned i = 0; i < 3; i++) {
        const uint32_t tiles = lorica_linear_tiles(stage_module(w, &stage_qkv, i));
        outs[i].tile0 = begin > at ? begin - at : 0;
        outs[i].tile1 = end > at ? (end - at < tiles ? end - at : tiles) : 0;
        at += tiles;
    }
    project(w, &stage_qkv, in, outs);
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
    const struct output out = own_tiles(w, stage, 0, fw->y, fw->x_ld);
    const size_t n0 = (size_t)out.tile0 * LORICA_TILE_ROWS;
    project(w, stage, in, &out);
    for (uint32_t r = 0; r < fw->count && out.tile0 < out.tile1; r++)
        fw->model->vec.add(fw->x + r * fw->x_ld + n0, fw->y + r * fw->x_ld + n0,
                           (out.tile1 - out.tile0) * LORICA_TILE_ROWS);
}

static void project_mlp(const struct worker *w, const struct input *in) {
    struct lorica_forward *fw = w->fw;
    const struct output outs[] = {own_tiles(w, &stage_mlp, 0, fw->gate, fw->mlp_ld),
                                  own_tiles(w, &stage_mlp, 1, fw->up, fw->mlp_ld)};
    const size_t n0 = (size_t)outs[0].tile0 * LORICA_TILE_ROWS;
    project(w, &stage_mlp, in, outs);
    for (uint32_t r = 0; r < fw->count && outs[0].tile0 < outs[0].tile1; r++) {
        float *gate = fw->gate + r * fw->mlp_ld + n0;
        fw->model->vec.silu_mul(gate, gate, fw->up + r * fw->mlp_ld + n0,
                                (outs[0].tile1 - outs[0].tile0) * LORICA_TILE_ROWS);
    }
}

/* The group of a row's adapter, a new one if there is none yet; neighbours often have the same. */
static uint32_t find_group(struct lorica_forward *fw, const struct lorica_adapter *adapter) {
    for (uint32_t g = fw->group_count; g-- > 0;)
        if (fw->groups[g].adapter == adapter)
            return g;
    fw->groups[fw->group_count] = (struct group){.adapter = adapter};
    return fw->group_count++;
}

/* Fills groups and order. */
static void group_batch(struct lorica_forward *fw) {
    uint32_t at = 0;
    fw->group_count = 0;
    for (uint32_t r = 0; r < fw->count; r++)
        if (fw->rows[r].adapter) {
            fw->group_of[r] = r > 0 && fw->rows[r].adapter == fw->rows[r - 1].adapter
                                  ? fw->group_of[r - 1]
                                  : find_group(fw, fw->rows[r].adapter);
            fw->groups[fw->group_of[r]].count++;
        }
    for (uint32_t g = 0; g < fw->group_count; g++) {
        fw->groups[g].begin = at;
        at += fw->groups[g].count;
        fw->groups[g].count = 0;
    }
    for (uint32_t r = 0; r < fw->count; r++)
        if (fw->rows[r].adapter) {
            struct group *group = &fw->groups[fw->group_of[r]];
            fw->order[group->begin + group->count++] = r;
        }
}

/* Makes these rows the batch. */
static void set_batch(struct lorica_forward *fw, const struct lorica_row *rows, uint32_t count) {
    fw->rows = rows;
    fw->count = count;
    group_batch(fw);
    lorica_attend_plan(fw->attend, rows, count);
}

/* Narrows the batch to the rows that want logits, before they attend. */
static void narrow(struct lorica_forward *fw) {
    for (uint32_t i = 0; i < fw->wanted_count; i++) {
        const uint32_t r = fw->wanted[i];
        memmove(fw->x + i * fw->x_ld, fw->x + r * fw->x_ld, fw->x_ld * sizeof(*fw->x));
        memmove(fw->q + i * fw->q_ld, fw->q + r * fw->q_ld, fw->q_ld * sizeof(*fw->q));
        fw->kept[i] = fw->rows[r];
        fw->wanted[i] = i;
    }
    set_batch(fw, fw->kept, fw->wanted_count);
}

/* What a layer does behind its keys and values. */
static void finish_layer(const struct worker *w, const struct lorica_layer *layer) {
    struct lorica_forward *fw = w->fw;
    attend_rows(w);
    lorica_pool_barrier(fw->pool);
    struct input in = prepare_stage(w, &stage_o, fw->attn, fw->q_ld, NULL);
    project_residual(w, &stage_o, &in);
    lorica_pool_barrier(fw->pool);
    in = prepare_stage(w, &stage_mlp, fw->x, fw->x_ld, layer->mlp_norm);
    project_mlp(w, &in);
    lorica_pool_barrier(fw->pool);
    in = prepare_stage(w, &stage_down, fw->gate, fw->mlp_ld, NULL);
    project_residual(w, &stage_down, &in);
    lorica_pool_barrier(fw->pool);
}

static void run_layer(const struct worker *w) {
    struct lorica_forward *fw = w->fw;
    const bool last = w->layer + 1 == fw->model->base->arch.layers;
    const struct lorica_layer *layer = &fw->model->base->layers[w->layer];
    const struct input in = prepare_stage(w, &stage_qkv, fw->x, fw->x_ld, layer->attn_norm);
    project_qkv(w, &in);
    lorica_pool_barrier(fw->pool);
    place_rows(w);
    lorica_pool_barrier(fw->pool);
    if (last && fw->narrows) {
        if (w->thread == 0)
            narrow(fw);
        lorica_pool_barrier(fw->pool);
    }
    if (fw->count > 0)
        finish_layer(w, layer);
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
    const struct input in = prepare(w, &source);
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
    fw->wanted_count = 0;
    for (uint32_t r = 0; r < count; r++)
        if (rows[r].wants_logits)
            fw->wanted[fw->wanted_count++] = r;
    fw->narrows = fw->wanted_count < count;
    set_batch(fw, rows, count);
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
           (fw->kept = take(rows, sizeof(struct lorica_row))) &&
           (fw->order = take(rows, sizeof(uint32_t))) &&
           (fw->group_of = take(rows, sizeof(uint32_t))) &&
           (fw->groups = take(rows, sizeof(struct group))) &&
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
    void *const buffers[] = {fw->x,    fw->y,      fw->q,      fw->k,     fw->v,        fw->attn,
                             fw->gate, fw->up,     fw->angles, fw->in,    fw->logits,   fw->xq,
                             fw->t,    fw->wanted, fw->kept,   fw->order, fw->group_of, fw->groups};
    for (size_t i = 0; i < sizeof(buffers) / sizeof(buffers[0]); i++)
        free(buffers[i]);
    lorica_attend_destroy(fw->attend);
    free(fw);
}
