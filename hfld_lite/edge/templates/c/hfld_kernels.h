/* What the networks in hfld_float32.c and hfld_int8.c are made of.

   An activation is an array [position][channel]. So the inputs of one output position, kernel x
   channels values, lie side by side, and a convolution is a sum over them. Padding is left out of
   the sum: it stands for zeros. A convolution's weights lie in blocks of four output channels,
   [block][kernel][channel][4]; the last block has as many as are left. */

#ifndef HFLD_KERNELS_H
#define HFLD_KERNELS_H

#include <stdint.h>

#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF /* the same bits on every processor */
#endif

#define HFLD_BLOCK 4 /* output channels that are summed at once */

#ifndef HFLD_TILE /* positions that are summed at once: as many as there are registers for */
#if defined(__arm__)
#define HFLD_TILE 1
#else
#define HFLD_TILE 4
#endif
#endif

typedef struct {
    int32_t channels, positions;         /* of the input */
    int32_t outputs, output_positions;   /* channels and positions of the output */
    int32_t kernel, stride, pad;
} hfld_shape;

/* The part of the kernel that lies inside the input, for one output position. */
static inline int32_t hfld_first_tap(const hfld_shape *s, int32_t position)
{
    int32_t before = s->pad - position * s->stride;
    return before > 0 ? before : 0;
}

static inline int32_t hfld_taps_end(const hfld_shape *s, int32_t position)
{
    int32_t inside = s->positions + s->pad - position * s->stride;
    return inside < s->kernel ? inside : s->kernel;
}

/* How many output positions from this one on are summed at once: HFLD_TILE, or one at the edges. */
static inline int32_t hfld_together(const hfld_shape *s, int32_t position)
{
    int32_t last = position + HFLD_TILE - 1;
    int inside = last < s->output_positions && hfld_first_tap(s, position) == 0 &&
                 hfld_taps_end(s, last) == s->kernel;
    return inside ? HFLD_TILE : 1;
}

#ifdef HFLD_INT8

/* ---- eight bits: x = scale (q - zero) ------------------------------------------------------- */

typedef struct {
    hfld_shape shape;
    int32_t zero_in, zero_out, low;      /* low: -128, or zero_out where ReLU follows */
    const int8_t *weights;
    const int32_t *bias;
    const int32_t *multiplier;           /* of each output channel; */
    const uint8_t *shift;                /* both NULL in the last layer, which gives logits: */
    const float *scale;                  /* of each output channel there, else NULL */
} hfld_conv;

static inline int8_t hfld_clip(int32_t value, int32_t low)
{
    return (int8_t)(value < low ? low : value > 127 ? 127 : value);
}

/* sum 2^-shift, rounded: half a unit is added, and the shift rounds down. */
static inline int32_t hfld_round(int64_t sum, int32_t shift)
{
    return (int32_t)((sum + ((int64_t)1 << (shift - 1))) >> shift);
}

/* Sums of `tile` positions times `wide` channels; the caller gives constants, so that the loops
   over them are unrolled. */
static inline void hfld_sums(const int8_t *in, int32_t step, int32_t taps, int32_t zero,
                             const int8_t *weights, const int32_t *bias, int32_t tile,
                             int32_t wide, int32_t sums[HFLD_TILE][HFLD_BLOCK])
{
    for (int32_t p = 0; p < tile; p++)
        for (int32_t c = 0; c < wide; c++)
            sums[p][c] = bias[c];
    for (int32_t i = 0; i < taps; i++, weights += wide)
        for (int32_t p = 0; p < tile; p++) {
            int32_t x = in[p * step + i] - zero;
            for (int32_t c = 0; c < wide; c++)
                sums[p][c] += x * weights[c];
        }
}

/* The same for one position and HFLD_BLOCK channels, in registers also where loops stay loops. */
static inline void hfld_sums_of_one(const int8_t *in, int32_t taps, int32_t zero,
                                    const int8_t *weights, const int32_t *bias, int32_t *sums)
{
    int32_t a = bias[0], b = bias[1], c = bias[2], d = bias[3];
    for (const int8_t *end = in + taps; in < end; in++, weights += HFLD_BLOCK) {
        int32_t x = *in - zero;
        a += x * weights[0];
        b += x * weights[1];
        c += x * weights[2];
        d += x * weights[3];
    }
    sums[0] = a, sums[1] = b, sums[2] = c, sums[3] = d;
}

static inline void hfld_block(const hfld_conv *v, const int8_t *in, int8_t *out, float *logits,
                              const int8_t *weights, int32_t channel, int32_t wide)
{
    const hfld_shape *s = &v->shape;
    int32_t sums[HFLD_TILE][HFLD_BLOCK], step = s->stride * s->channels, tile;
    for (int32_t t = 0; t < s->output_positions; t += tile) {
        int32_t first = hfld_first_tap(s, t), end = hfld_taps_end(s, t);
        const int8_t *x = in + (t * s->stride - s->pad + first) * s->channels;
        const int8_t *w = weights + first * s->channels * wide;
        int32_t taps = (end - first) * s->channels;
        tile = hfld_together(s, t);
        if (HFLD_TILE > 1 && tile == HFLD_TILE && wide == HFLD_BLOCK)
            hfld_sums(x, step, taps, v->zero_in, w, v->bias + channel, HFLD_TILE, HFLD_BLOCK, sums);
        else if (HFLD_TILE > 1 && wide == HFLD_BLOCK)
            hfld_sums(x, step, taps, v->zero_in, w, v->bias + channel, 1, HFLD_BLOCK, sums);
        else if (wide == HFLD_BLOCK)
            hfld_sums_of_one(x, taps, v->zero_in, w, v->bias + channel, sums[0]);
        else
            hfld_sums(x, step, taps, v->zero_in, w, v->bias + channel, tile, wide, sums);
        for (int32_t p = 0; p < tile; p++)
            for (int32_t c = 0; c < wide; c++) {
                int32_t k = channel + c, at = (t + p) * s->outputs + k;
                if (v->scale)
                    logits[at] = (float)sums[p][c] * v->scale[k];
                else
                    out[at] = hfld_clip(v->zero_out + hfld_round((int64_t)sums[p][c] *
                                        v->multiplier[k], v->shift[k]), v->low);
            }
    }
}

/* out, or logits in the last layer. */
static inline void hfld_convolve(const hfld_conv *v, const int8_t *in, int8_t *out, float *logits)
{
    int32_t all = v->shape.outputs, taps = v->shape.kernel * v->shape.channels, c = 0;
    for (; c + HFLD_BLOCK <= all; c += HFLD_BLOCK)
        hfld_block(v, in, out, logits, v->weights + c * taps, c, HFLD_BLOCK);
    if (c < all)
        hfld_block(v, in, out, logits, v->weights + c * taps, c, all - c);
}

/* Numbers of a sum, a mean or a gate. */
typedef struct {
    int32_t zero_a, zero_b, zero_out, low;
    int32_t multiplier_a, multiplier_b, shift;
} hfld_fixed;

static inline void hfld_add(const hfld_fixed *f, int32_t count, const int8_t *a, const int8_t *b,
                            int8_t *out)
{
    for (int32_t i = 0; i < count; i++) {
        int64_t sum = (int64_t)(a[i] - f->zero_a) * f->multiplier_a +
                      (int64_t)(b[i] - f->zero_b) * f->multiplier_b;
        out[i] = hfld_clip(f->zero_out + hfld_round(sum, f->shift), f->low);
    }
}

static inline void hfld_gate(const hfld_fixed *f, int32_t channels, int32_t positions,
                             const int8_t *x, const int8_t *gate, int8_t *out)
{
    for (int32_t t = 0; t < positions; t++)
        for (int32_t c = 0; c < channels; c++, x++, out++) {
            int64_t product = (int64_t)((*x - f->zero_a) * (gate[c] - f->zero_b)) * f->multiplier_a;
            *out = hfld_clip(f->zero_out + hfld_round(product, f->shift), f->low);
        }
}

static inline void hfld_mean(const hfld_fixed *f, int32_t channels, int32_t positions,
                             int32_t outputs, const int8_t *in, int8_t *out)
{
    for (int32_t i = 0; i < outputs; i++) {
        int32_t begin = i * positions / outputs;
        int32_t end = ((i + 1) * positions + outputs - 1) / outputs;
        int32_t multiplier = f->multiplier_a / (end - begin);
        for (int32_t c = 0; c < channels; c++) {
            int32_t sum = 0;
            for (int32_t t = begin; t < end; t++)
                sum += in[t * channels + c] - f->zero_a;
            out[i * channels + c] = hfld_clip(
                f->zero_out + hfld_round((int64_t)sum * multiplier, f->shift), f->low);
        }
    }
}

static inline void hfld_max_pool(const hfld_shape *s, const int8_t *in, int8_t *out)
{
    for (int32_t t = 0; t < s->output_positions; t++) {
        int32_t first = t * s->stride - s->pad + hfld_first_tap(s, t);
        int32_t end = t * s->stride - s->pad + hfld_taps_end(s, t);
        for (int32_t c = 0; c < s->channels; c++, out++) {
            *out = in[first * s->channels + c];
            for (int32_t i = first + 1; i < end; i++)
                *out = in[i * s->channels + c] > *out ? in[i * s->channels + c] : *out;
        }
    }
}

static inline void hfld_relu(int32_t zero, int32_t count, const int8_t *in, int8_t *out)
{
    for (int32_t i = 0; i < count; i++)
        out[i] = hfld_clip(in[i], zero);
}

/* A table of 256 results, for q = -128 ... 127. */
static inline void hfld_sigmoid(const int8_t *table, int32_t count, const int8_t *in, int8_t *out)
{
    for (int32_t i = 0; i < count; i++)
        out[i] = table[in[i] + 128];
}

/* What the network reads, in eight bits in the place of the floats: q = round(x / scale) + zero.
   A byte is written where no float is still to be read. */
static inline void hfld_quantise(float inverse_scale, int32_t zero, int32_t count, const float *in,
                                 int8_t *out)
{
    float offset = (float)(zero + 128) + 0.5f;
    for (int32_t i = 0; i < count; i++) {
        float x = in[i] * inverse_scale;
        x = x + offset;
        x = x < 0.0f ? 0.0f : x > 255.0f ? 255.0f : x;
        out[i] = (int8_t)((int32_t)x - 128);
    }
}

#else

/* ---- float32 -------------------------------------------------------------------------------- */

typedef struct {
    hfld_shape shape;
    int32_t relu;
    const float *weights;
    const float *bias;
} hfld_conv;

static inline void hfld_sums(const float *in, int32_t step, int32_t taps, const float *weights,
                             const float *bias, int32_t tile, int32_t wide,
                             float sums[HFLD_TILE][HFLD_BLOCK])
{
    for (int32_t p = 0; p < tile; p++)
        for (int32_t c = 0; c < wide; c++)
            sums[p][c] = bias[c];
    for (int32_t i = 0; i < taps; i++, weights += wide)
        for (int32_t p = 0; p < tile; p++) {
            float x = in[p * step + i];
            for (int32_t c = 0; c < wide; c++)
                sums[p][c] += x * weights[c];
        }
}

static inline void hfld_sums_of_one(const float *in, int32_t taps, const float *weights,
                                    const float *bias, float *sums)
{
    float a = bias[0], b = bias[1], c = bias[2], d = bias[3];
    for (const float *end = in + taps; in < end; in++, weights += HFLD_BLOCK) {
        float x = *in;
        a += x * weights[0];
        b += x * weights[1];
        c += x * weights[2];
        d += x * weights[3];
    }
    sums[0] = a, sums[1] = b, sums[2] = c, sums[3] = d;
}

static inline void hfld_block(const hfld_conv *v, const float *in, float *out,
                              const float *weights, int32_t channel, int32_t wide)
{
    const hfld_shape *s = &v->shape;
    float sums[HFLD_TILE][HFLD_BLOCK];
    int32_t step = s->stride * s->channels, tile;
    for (int32_t t = 0; t < s->output_positions; t += tile) {
        int32_t first = hfld_first_tap(s, t), end = hfld_taps_end(s, t);
        const float *x = in + (t * s->stride - s->pad + first) * s->channels;
        const float *w = weights + first * s->channels * wide;
        int32_t taps = (end - first) * s->channels;
        tile = hfld_together(s, t);
        if (HFLD_TILE > 1 && tile == HFLD_TILE && wide == HFLD_BLOCK)
            hfld_sums(x, step, taps, w, v->bias + channel, HFLD_TILE, HFLD_BLOCK, sums);
        else if (HFLD_TILE > 1 && wide == HFLD_BLOCK)
            hfld_sums(x, step, taps, w, v->bias + channel, 1, HFLD_BLOCK, sums);
        else if (wide == HFLD_BLOCK)
            hfld_sums_of_one(x, taps, w, v->bias + channel, sums[0]);
        else
            hfld_sums(x, step, taps, w, v->bias + channel, tile, wide, sums);
        for (int32_t p = 0; p < tile; p++)
            for (int32_t c = 0; c < wide; c++) {
                float y = sums[p][c];
                out[(t + p) * s->outputs + channel + c] = v->relu && y < 0.0f ? 0.0f : y;
            }
    }
}

static inline void hfld_convolve(const hfld_conv *v, const float *in, float *out)
{
    int32_t all = v->shape.outputs, taps = v->shape.kernel * v->shape.channels, c = 0;
    for (; c + HFLD_BLOCK <= all; c += HFLD_BLOCK)
        hfld_block(v, in, out, v->weights + c * taps, c, HFLD_BLOCK);
    if (c < all)
        hfld_block(v, in, out, v->weights + c * taps, c, all - c);
}

static inline void hfld_add(int32_t relu, int32_t count, const float *a, const float *b,
                            float *out)
{
    for (int32_t i = 0; i < count; i++) {
        float sum = a[i] + b[i];
        out[i] = relu && sum < 0.0f ? 0.0f : sum;
    }
}

static inline void hfld_gate(int32_t channels, int32_t positions, const float *x,
                             const float *gate, float *out)
{
    for (int32_t t = 0; t < positions; t++)
        for (int32_t c = 0; c < channels; c++, x++, out++)
            *out = *x * gate[c];
}

static inline void hfld_mean(int32_t channels, int32_t positions, int32_t outputs,
                             const float *in, float *out)
{
    for (int32_t i = 0; i < outputs; i++) {
        int32_t begin = i * positions / outputs;
        int32_t end = ((i + 1) * positions + outputs - 1) / outputs;
        for (int32_t c = 0; c < channels; c++) {
            float sum = 0.0f;
            for (int32_t t = begin; t < end; t++)
                sum += in[t * channels + c];
            out[i * channels + c] = sum / (float)(end - begin);
        }
    }
}

static inline void hfld_max_pool(const hfld_shape *s, const float *in, float *out)
{
    for (int32_t t = 0; t < s->output_positions; t++) {
        int32_t first = t * s->stride - s->pad + hfld_first_tap(s, t);
        int32_t end = t * s->stride - s->pad + hfld_taps_end(s, t);
        for (int32_t c = 0; c < s->channels; c++, out++) {
            *out = in[first * s->channels + c];
            for (int32_t i = first + 1; i < end; i++)
                *out = in[i * s->channels + c] > *out ? in[i * s->channels + c] : *out;
        }
    }
}

static inline void hfld_relu(int32_t count, const float *in, float *out)
{
    for (int32_t i = 0; i < count; i++)
        out[i] = in[i] < 0.0f ? 0.0f : in[i];
}

static inline void hfld_sigmoid(int32_t count, const float *in, float *out)
{
    for (int32_t i = 0; i < count; i++)
        out[i] = 1.0f / (1.0f + hfld_exp(-in[i]));
}

#endif
#endif
