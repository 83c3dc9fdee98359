/* SPDX-License-Identifier: MIT */
#include "kernels/matrix.h"

#include <math.h>
#include <string.h>

/* Bytes of one 16-row tile block in both tiled layouts. */
#define TILE_BLOCK_BYTES 512

const char *lorica_format_name(enum lorica_format format) {
    static const char *const names[LORICA_FORMAT_COUNT] = {"f32", "f16", "bf16", "q8", "nf4"};
    return names[format];
}

bool lorica_matrix_is_tiled(const struct lorica_matrix *m) {
    return m->format == LORICA_FORMAT_NF4  ? m->k % LORICA_NF4_BLOCK == 0
           : m->format == LORICA_FORMAT_Q8 ? m->k % LORICA_Q8_BLOCK == 0
                                           : false;
}

size_t lorica_matrix_data_nbytes(enum lorica_format format, uint32_t n, uint32_t k) {
    const size_t padded = ((size_t)n + LORICA_TILE_ROWS - 1) / LORICA_TILE_ROWS * LORICA_TILE_ROWS;
    switch (format) {
    case LORICA_FORMAT_F32:
        return (size_t)n * k * 4;
    case LORICA_FORMAT_F16:
    case LORICA_FORMAT_BF16:
        return (size_t)n * k * 2;
    case LORICA_FORMAT_Q8:
        return padded * k;
    default:
        return k % LORICA_NF4_BLOCK == 0 ? padded * k / 2 : ((size_t)n * k + 1) / 2;
    }
}

float lorica_nf4_absmax(const struct lorica_matrix *m, size_t block) {
    if (m->absmax)
        return m->absmax[block];
    const float product =
        m->nested_map[m->absmax_codes[block]] * m->nested_absmax[block / LORICA_NF4_NESTED_BLOCK];
    return product + m->nested_offset;
}

/* Code of element (row, col) in the tiled layout: byte, and whether it is the high nibble. */
static size_t nf4_tiled_at(uint32_t row, uint32_t col, uint32_t k, unsigned *ret_shift) {
    const uint32_t in_block = col % LORICA_NF4_BLOCK;
    *ret_shift = in_block & 4 ? 4 : 0;
    return ((size_t)(row / LORICA_TILE_ROWS) * (k / LORICA_NF4_BLOCK) + col / LORICA_NF4_BLOCK) *
               TILE_BLOCK_BYTES +
           (in_block / 8) * 64 + (row % LORICA_TILE_ROWS) * 4 + in_block % 4;
}

static void nf4_row(const struct lorica_matrix *m, uint32_t row, float *dst) {
    const uint8_t *codes = m->data;
    const bool tiled = lorica_matrix_is_tiled(m);
    float absmax = 0;
    for (uint32_t col = 0; col < m->k; col++) {
        const size_t element = (size_t)row * m->k + col;
        if (col == 0 || element % LORICA_NF4_BLOCK == 0)
            absmax = lorica_nf4_absmax(m, element / LORICA_NF4_BLOCK);
        unsigned shift = element % 2 == 0 ? 4 : 0;
        const size_t at = tiled ? nf4_tiled_at(row, col, m->k, &shift) : element / 2;
        dst[col] = lorica_nf4_table[codes[at] >> shift & 15] * absmax;
    }
}

static void q8_row(const struct lorica_matrix *m, uint32_t row, float *dst) {
    const uint32_t blocks = m->k / LORICA_Q8_BLOCK;
    const size_t tile = row / LORICA_TILE_ROWS, r = row % LORICA_TILE_ROWS;
    for (uint32_t b = 0; b < blocks; b++) {
        const int8_t *q = (const int8_t *)m->data + (tile * blocks + b) * TILE_BLOCK_BYTES;
        const float scale =
            lorica_f16_to_f32(m->scales[(tile * blocks + b) * LORICA_TILE_ROWS + r]);
        for (uint32_t i = 0; i < LORICA_Q8_BLOCK; i++)
            dst[b * LORICA_Q8_BLOCK + i] = (float)q[i / 4 * 64 + r * 4 + i % 4] * scale;
    }
}

void lorica_matrix_rows_f32(const struct lorica_matrix *m, uint32_t row, uint32_t rows,
                            float *dst) {
    for (uint32_t i = 0; i < rows; i++, dst += m->k) {
        const size_t first = (size_t)(row + i) * m->k;
        switch (m->format) {
        case LORICA_FORMAT_F32:
            memcpy(dst, (const float *)m->data + first, m->k * sizeof(*dst));
            break;
        case LORICA_FORMAT_F16:
            for (uint32_t j = 0; j < m->k; j++)
                dst[j] = lorica_f16_to_f32(((const uint16_t *)m->data)[first + j]);
            break;
        case LORICA_FORMAT_BF16:
            for (uint32_t j = 0; j < m->k; j++)
                dst[j] = lorica_bf16_to_f32(((const uint16_t *)m->data)[first + j]);
            break;
        case LORICA_FORMAT_Q8:
            q8_row(m, row + i, dst);
            break;
        default:
            nf4_row(m, row + i, dst);
        }
    }
}

void lorica_nf4_tile(uint8_t *tiled, const uint8_t *flat, uint32_t n, uint32_t k) {
    /* Rows past n keep code 7, the zero. */
    memset(tiled, 0x77, lorica_matrix_data_nbytes(LORICA_FORMAT_NF4, n, k));
    for (uint32_t row = 0; row < n; row++) {
        for (uint32_t col = 0; col < k; col++) {
            const size_t element = (size_t)row * k + col;
            const unsigned code = flat[element / 2] >> (element % 2 == 0 ? 4 : 0) & 15;
            unsigned shift;
            uint8_t *at = &tiled[nf4_tiled_at(row, col, k, &shift)];
            *at = (uint8_t)((*at & ~(15u << shift)) | code << shift);
        }
    }
}

void lorica_nf4_untile(uint8_t *flat, const uint8_t *tiled, uint32_t n, uint32_t k) {
    for (uint32_t row = 0; row < n; row++) {
        for (uint32_t col = 0; col < k; col += 2) {
            unsigned high, low;
            const size_t a = nf4_tiled_at(row, col, k, &high);
            const size_t b = nf4_tiled_at(row, col + 1, k, &low);
            flat[((size_t)row * k + col) / 2] =
                (uint8_t)((tiled[a] >> high & 15) << 4 | (tiled[b] >> low & 15));
        }
    }
}

/* f32 midpoints between neighbouring codes: as many as lie strictly below x is x's code. */
static const float nf4_thresholds[15] = {
    -0x1.b239b0p-1f, -0x1.38a4e0p-1f, -0x1.d70900p-2f, -0x1.5bd4ecp-2f, -0x1.e079d8p-3f,
    -0x1.1a7178p-3f, -0x1.74f0e2p-5f, 0x1.45f5fep-5f,  0x1.ec90c4p-4f,  0x1.a0cfc0p-3f,
    0x1.2b05a8p-2f,  0x1.8ea7f2p-2f,  0x1.00da08p-1f,  0x1.491b5ep-1f,  0x1.b913b4p-1f,
};

static uint8_t nf4_code(float x) {
    unsigned code = 0;
    for (int i = 0; i < 15; i++)
        code += x > nf4_thresholds[i];
    return (uint8_t)code;
}

void lorica_nf4_quantise(const float *x, size_t count, uint8_t *codes, float *absmax) {
    memset(codes, 0, (count + 1) / 2);
    if (count % 2)
        codes[count / 2] = 7; /* the zero that bitsandbytes pads with */
    for (size_t begin = 0; begin < count; begin += LORICA_NF4_BLOCK) {
        const bool whole = count - begin >= LORICA_NF4_BLOCK;
        const size_t end = whole ? begin + LORICA_NF4_BLOCK : count;
        float top = 0;
        for (size_t i = begin; i < end; i++)
            top = fabsf(x[i]) > top ? fabsf(x[i]) : top;
        /* A whole block keeps the scale as it is, a partial one is kept above 1e-38. */
        const float divisor = top < 1e-38f ? 1e-38f : top;
        absmax[begin / LORICA_NF4_BLOCK] = whole ? top : divisor;
        const float inverse = 1.0f / divisor;
        for (size_t i = begin; i < end; i++) {
            float scaled = whole ? x[i] * inverse : x[i] / divisor;
            scaled = scaled < -1 ? -1 : scaled > 1 ? 1 : scaled;
            codes[i / 2] |= (uint8_t)(nf4_code(scaled) << (i % 2 == 0 ? 4 : 0));
        }
    }
}

/* Nearest entry of the dynamic map; a tie goes down. */
static uint8_t dynamic_code(float x) {
    unsigned low = 0, high = 255; /* the answer is in [low, high] */
    while (low < high) {
        const unsigned mid = (low + high) / 2;
        if (x > (lorica_dynamic_map[mid] + lorica_dynamic_map[mid + 1]) / 2)
            low = mid + 1;
        else
            high = mid;
    }
    return (uint8_t)low;
}

void lorica_nf4_quantise_absmax(const float *absmax, size_t blocks, uint8_t *codes,
                                float *nested_absmax, float *ret_offset) {
    double sum = 0;
    for (size_t i = 0; i < blocks; i++)
        sum += (double)absmax[i];
    const float offset = blocks ? (float)(sum / (double)blocks) : 0;
    for (size_t begin = 0; begin < blocks; begin += LORICA_NF4_NESTED_BLOCK) {
        const size_t end =
            blocks - begin < LORICA_NF4_NESTED_BLOCK ? blocks : begin + LORICA_NF4_NESTED_BLOCK;
        float top = 0;
        for (size_t i = begin; i < end; i++)
            top = fabsf(absmax[i] - offset) > top ? fabsf(absmax[i] - offset) : top;
        nested_absmax[begin / LORICA_NF4_NESTED_BLOCK] = top;
        const float inverse = top > 0 ? 1.0f / top : 0;
        for (size_t i = begin; i < end; i++) /* all alike: any code gives the offset */
            codes[i] = top > 0 ? dynamic_code((absmax[i] - offset) * inverse) : 0;
    }
    *ret_offset = offset;
}

void lorica_q8_quantise(const float *x, uint32_t n, uint32_t k, int8_t *tiled, uint16_t *scales) {
    const uint32_t blocks = k / LORICA_Q8_BLOCK;
    memset(tiled, 0, lorica_matrix_data_nbytes(LORICA_FORMAT_Q8, n, k));
    memset(scales, 0,
           ((size_t)n + LORICA_TILE_ROWS - 1) / LORICA_TILE_ROWS * LORICA_TILE_ROWS * blocks * 2);
    for (uint32_t row = 0; row < n; row++) {
        const size_t tile = row / LORICA_TILE_ROWS, r = row % LORICA_TILE_ROWS;
        for (uint32_t b = 0; b < blocks; b++) {
            const float *values = x + (size_t)row * k + (size_t)b * LORICA_Q8_BLOCK;
            float top = 0;
            for (uint32_t i = 0; i < LORICA_Q8_BLOCK; i++)
                top = fabsf(values[i]) > top ? fabsf(values[i]) : top;
            const size_t block = tile * blocks + b;
            const uint16_t scale = lorica_f32_to_f16(top / 127);
            scales[block * LORICA_TILE_ROWS + r] = scale;
            const float step = lorica_f16_to_f32(scale);
            for (uint32_t i = 0; i < LORICA_Q8_BLOCK; i++) {
                const float q = step > 0 ? rintf(values[i] / step) : 0;
                tiled[block * TILE_BLOCK_BYTES + i / 4 * 64 + r * 4 + i % 4] =
                    (int8_t)(q > 127    ? 127
                             : q < -127 ? -127
                                        : q);
            }
        }
    }
}

static float bits_to_float(uint32_t bits) {
    float f;
    memcpy(&f, &bits, sizeof(f));
    return f;
}

static uint32_t float_to_bits(float f) {
    uint32_t bits;
    memcpy(&bits, &f, sizeof(bits));
    return bits;
}

float lorica_bf16_to_f32(uint16_t h) { return bits_to_float((uint32_t)h << 16); }

uint16_t lorica_f32_to_bf16(float f) {
    const uint32_t bits = float_to_bits(f);
    if ((bits & 0x7fffffff) > 0x7f800000)
        return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

float lorica_f16_to_f32(uint16_t h) {
    const uint32_t sign = (uint32_t)(h & 0x8000) << 16, magnitude = h & 0x7fff;
    if (magnitude >= 0x7c00)
        return bits_to_float(sign | 0x7f800000 | (magnitude & 0x3ff) << 13);
    if (magnitude < 0x400) { /* subnormal: exact in float32 */
        const float value = (float)magnitude * 0x1p-24f;
        return sign ? -value : value;
    }
    return bits_to_float(sign | ((magnitude << 13) + 0x38000000));
}

uint16_t lorica_f32_to_f16(float f) {
    const uint32_t bits = float_to_bits(f), magnitude = bits & 0x7fffffff;
    const uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    if (magnitude > 0x7f800000)
        return sign | 0x7e00;
    if (magnitude >= 0x477ff000) /* rounds to infinity from 65520 on */
        return sign | 0x7c00;
    if (magnitude < 0x38800000) { /* subnormal: let float32 addition round at 2^-24 */
        const float shifted = bits_to_float(magnitude) + 0.5f;
        return (uint16_t)(sign | (float_to_bits(shifted) - 0x3f000000));
    }
    return (uint16_t)(sign | ((magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13));
}
