/*
 * Winograd's convolutions, exact in integers: 3x3, stride 1. Tiles of the input and the weights are transformed, multiplied position by
 * position, and transformed back: 36 products for 4x4 pixels instead of 144, 16 for 2x2 instead of 36, 24 for 4x2 instead of 72.
 *
 * The usual transforms divide. These are multiplied through instead, so that all is integer and the result is a known multiple of the
 * convolution, which the inverse transform divides exactly:
 *
 *   winograd16-4x4  16-bit operands, sums modulo 2^32. The result is 576 y = 9 * 64 y: times the inverse of 9 modulo 2^32, shifted by 6.
 *                   Exact if |y| < 2^25, whatever overflowed before; certified from the weights. Transformed weights would be 8 times as
 *                   large as weights, and on few pixels the time goes into reading them: so weights are packed as they are and
 *                   transformed when they run, some channels of a panel at a time, which costs a thirtieth on many pixels.
 *   winograd8-2x2   8-bit operands, result 4 y. Transformed codes span 4 times the codes' range, so up to 6 bits; transformed weights
 *                   must fit 8 bits, as those of 4 bits do and those of 5 nearly always.
 *   winograd8-4x2   the same, four pixels high, result 48 y: for codes of up to 3 bits.
 *
 * Transformed codes are signed; an offset makes those of 8 bits what the instruction set multiplies, and what it adds to the result is a
 * constant of the output channel and position in the tile. What lies outside the input holds its zero point, as codes do: nothing here
 * knows of it.
 *
 * Here is what needs no registers. The file of the instruction set defines before: KN_INLINE; KN_MAX_ROWS, tiles multiplied at a time; and
 * REGISTER, the bytes that transformed codes are rounded up to.
 */
#ifndef KN_SHARED_WINOGRAD_H
#define KN_SHARED_WINOGRAD_H

#include "panel.h"

/* A kind of tile; constant in each function's copies. */
typedef struct {
  int32_t out_height, out_width;
  int32_t code_bytes;
  int32_t shift;    /* of the result, after the multiplication by `inverse` */
  uint32_t inverse; /* modulo 2^32 */
} kind;

static const __attribute__((unused)) kind K4X4 = {4, 4, 2, 6, 0x38E38E39u};
static const __attribute__((unused)) kind K2X2 = {2, 2, 1, 2, 1u};
static const __attribute__((unused)) kind K4X2 = {4, 2, 1, 4, 0xAAAAAAABu};

/* Weights that are transformed when they run: steps at a time, bytes of a step packed, and bytes from one position to the next. */
enum { LATE_STEPS = 64, LATE_PACKED = 9 * 2 * KN_PANEL, LATE_POSITION = (LATE_STEPS + 1) * 64 };
static inline int32_t is_late(kind k) { return k.code_bytes == 2; }

enum { MAX_SIDE = 6, MAX_POSITIONS = 36, MAX_PIXELS = 16, SCRATCH_BYTES = 340000, MAX_BLOCK = 48, SUMS_BYTES = 4 * KN_PANEL / 2 };

static inline int32_t in_height(kind k) { return k.out_height + 2; }
static inline int32_t in_width(kind k) { return k.out_width + 2; }
static inline int32_t positions(kind k) { return in_height(k) * in_width(k); }
static inline int32_t codes_per_step(kind k) { return 4 / k.code_bytes; }

/* Rows of the weights' transform for 2 and for 4 pixels. */
static const __attribute__((unused)) int8_t WEIGHTS_2[4][3] = {{1, 0, 0}, {1, 1, 1}, {1, -1, 1}, {0, 0, 1}};
static const __attribute__((unused)) int8_t WEIGHTS_4[6][3] = {{1, 0, 0}, {1, 1, 1}, {1, -1, 1}, {1, 2, 4}, {1, -2, 4}, {0, 0, 1}};
/* Sums of the positive and of the negative factors in the rows of the codes' transform. */
static const __attribute__((unused)) int8_t POSITIVE_2[4] = {1, 2, 1, 1}, NEGATIVE_2[4] = {1, 0, 1, 1};
static const __attribute__((unused)) int8_t POSITIVE_4[6] = {5, 2, 5, 3, 3, 5}, NEGATIVE_4[6] = {5, 8, 5, 3, 3, 5};

static const __attribute__((unused)) int8_t *weight_row(int32_t pixels, int32_t i) { return pixels == 4 ? WEIGHTS_4[i] : WEIGHTS_2[i]; }

/* The most that a transformed code can be below zero, and above, at one position, for codes up to `top`. */
static inline void reach(kind k, int32_t position, int32_t top, int32_t *below, int32_t *above) {
  const int32_t i = position / in_width(k), j = position % in_width(k);
  const int32_t pi = k.out_height == 4 ? POSITIVE_4[i] : POSITIVE_2[i], ni = k.out_height == 4 ? NEGATIVE_4[i] : NEGATIVE_2[i];
  const int32_t pj = k.out_width == 4 ? POSITIVE_4[j] : POSITIVE_2[j], nj = k.out_width == 4 ? NEGATIVE_4[j] : NEGATIVE_2[j];
  *above = (pi * pj + ni * nj) * top;
  *below = (pi * nj + ni * pj) * top;
}

/* The transformed weights of one pair of channels, by position. */
static inline void transform_weights(kind k, const kn_convolution *c, int32_t out_channel, int32_t in_channel, int32_t *u) {
  int32_t rows[MAX_SIDE][3];
  int32_t w[9];
  for (int32_t i = 0; i < 9; i++) w[i] = kn_weight(c, out_channel, i * c->in_channels + in_channel);
  for (int32_t i = 0; i < in_height(k); i++) {
    const int8_t *g = weight_row(k.out_height, i);
    for (int32_t x = 0; x < 3; x++) rows[i][x] = g[0] * w[x] + g[1] * w[3 + x] + g[2] * w[6 + x];
  }
  for (int32_t i = 0; i < in_height(k); i++) {
    for (int32_t j = 0; j < in_width(k); j++) {
      const int8_t *g = weight_row(k.out_width, j);
      u[i * in_width(k) + j] = g[0] * rows[i][0] + g[1] * rows[i][1] + g[2] * rows[i][2];
    }
  }
}

/* Too few channels leave the transforms without work that pays for them. */
static inline int is_3x3(const kn_convolution *c) {
  return c->kernel_height == 3 && c->kernel_width == 3 && c->stride_y == 1 && c->stride_x == 1 && c->dilation_y == 1 &&
         c->dilation_x == 1 && c->groups == 1 && c->in_channels >= 8 && c->out_channels >= 8;
}

/* Whether every sum is below 2^bits. */
static inline int sums_fit(const kn_convolution *c, int32_t bits) {
  const int32_t top = (1 << c->input_bits) - 1;
  const int64_t limit = INT64_C(1) << bits;
  if ((int64_t)9 * c->in_channels * top * (1 << (c->weight_bits - 1)) < limit) return 1;
  for (int32_t o = 0; o < c->out_channels; o++) {
    int64_t low = 0, high = 0;
    for (int32_t i = 0; i < 9 * c->in_channels; i++) {
      const int32_t w = kn_weight(c, o, i);
      *(w < 0 ? &low : &high) += (int64_t)w * top;
    }
    if (high >= limit || low <= -limit) return 0;
  }
  return 1;
}

/* Sizes of a convolution, and how it is cut into parts. */
typedef struct {
  int32_t tiles_high, tiles_wide, tiles, block, blocks;
  int32_t panels, block_panels, channel_blocks;
  int32_t steps;
  size_t row_bytes;       /* one tile's transformed codes at one position */
  size_t codes_position;  /* bytes from one position's codes to the next's */
  size_t sums_position;   /* halves of a panel from one position's sums to the next's */
  size_t weights_position, runs_position;
  size_t weights_panel; /* bytes of packed weights */
  int32_t late_steps;   /* transformed at a time */
} plan;

static inline plan plan_of(kind k, const kn_convolution *c) {
  plan p;
  p.tiles_high = kn_up(c->out_height, k.out_height);
  p.tiles_wide = kn_up(c->out_width, k.out_width);
  p.tiles = c->batch * p.tiles_high * p.tiles_wide;
  p.panels = kn_up(c->out_channels, KN_PANEL);
  p.steps = kn_up(c->in_channels, codes_per_step(k));
  p.row_bytes = (size_t)kn_up(c->in_channels * k.code_bytes, REGISTER) * REGISTER;
  const size_t fitting = SCRATCH_BYTES / ((size_t)positions(k) * (p.row_bytes + 4 * KN_PANEL));
  p.blocks = kn_up(p.tiles, kn_max(KN_MAX_ROWS, kn_min(MAX_BLOCK, (int32_t)fitting)));
  const int32_t wanted = (int64_t)p.tiles * positions(k) * c->in_channels * c->out_channels > 1000000 ? 4 : 1;
  p.block = kn_up(p.tiles, p.blocks);
  p.blocks = kn_up(p.tiles, p.block);
  p.block_panels = kn_max(1, p.panels / kn_up(wanted, p.blocks));
  p.channel_blocks = kn_up(p.panels, p.block_panels);
  /* An odd number of cache lines between positions: powers of two would let them evict each other. */
  p.codes_position = (((size_t)p.block * p.row_bytes + 63) / 64 | 1) * 64;
  p.sums_position = 2 * ((size_t)p.block | 1);
  p.weights_position = (size_t)p.steps * 64;
  p.runs_position = (size_t)p.steps + 1;
  p.weights_panel = is_late(k) ? (size_t)p.steps * LATE_PACKED : (size_t)positions(k) * p.weights_position;
  p.late_steps = kn_up(p.steps, kn_up(p.steps, LATE_STEPS));
  return p;
}

/* What belongs to a panel: its channels, and what offsets of the codes add to its pixels. */
typedef struct {
  kn_panel channels;
  int32_t offsets[MAX_PIXELS][KN_PANEL];
} panel;

/* The inverse transform of numbers, along one side. */
static inline void back(int32_t pixels, const int32_t *m, int32_t step, int32_t *out) {
  if (pixels == 4) {
    const int32_t p = m[step] + m[2 * step], q = m[step] - m[2 * step], r = m[3 * step] + m[4 * step], s = m[3 * step] - m[4 * step];
    out[0] = 6 * m[0] - 4 * p + r;
    out[1] = 2 * s - 4 * q;
    out[2] = 4 * r - 4 * p;
    out[3] = 8 * s - 4 * q + 24 * m[5 * step];
  } else {
    out[0] = 2 * m[0] + m[step] + m[2 * step];
    out[1] = m[step] - m[2 * step] - 2 * m[3 * step];
  }
}

/* What must be added to the results of a channel, by pixel, because codes were offset: less the offsets, transformed. */
static inline void pack_offsets(kind k, const int32_t *at_positions, panel *to, int32_t o) {
  int32_t columns[MAX_SIDE][4], pixels[4];
  for (int32_t j = 0; j < in_width(k); j++) back(k.out_height, at_positions + j, in_width(k), columns[j]);
  for (int32_t y = 0; y < k.out_height; y++) {
    back(k.out_width, &columns[0][y], 4, pixels);
    for (int32_t x = 0; x < k.out_width; x++) to->offsets[y * k.out_width + x][o] = -pixels[x];
  }
}

/* Weights of one pair of channels that are transformed when they run: [step][weight][16 channels of 2 codes, in the order of `at`]. */
static inline void pack_late(const kn_convolution *c, int32_t out_channel, int32_t in_channel, int32_t at, int8_t *weights) {
  for (int32_t i = 0; i < 9; i++) {
    weights[in_channel / 2 * LATE_PACKED + i * 2 * KN_PANEL + at] = (int8_t)kn_weight(c, out_channel, i * c->in_channels + in_channel);
  }
}

/* Scratch: sums [position][tile][16 channels], transformed codes [position][tile][channel], transformed weights, one pixel of the border. */
static inline size_t codes_at(kind k, const plan *p) { return (size_t)positions(k) * p->sums_position * SUMS_BYTES; }
static inline size_t late_at(kind k, const plan *p) { return codes_at(k, p) + (size_t)positions(k) * p->codes_position; }
static inline size_t border_at(kind k, const plan *p) { return late_at(k, p) + (is_late(k) ? (size_t)positions(k) * LATE_POSITION : 0); }

static inline size_t scratch_bytes(kind k, const kn_convolution *c) {
  const plan p = plan_of(k, c);
  return kn_aligned(border_at(k, &p) + p.row_bytes);
}

static inline int32_t tiles(kind k, const kn_convolution *c) {
  const plan p = plan_of(k, c);
  return p.blocks * p.channel_blocks;
}

/* Where a tile lies. */
typedef struct {
  int32_t batch, y, x;
} place;

KN_INLINE place place_of(kind k, const plan *p, int32_t tile) {
  const place t = {tile / p->tiles_wide / p->tiles_high, tile / p->tiles_wide % p->tiles_high * k.out_height,
                   tile % p->tiles_wide * k.out_width};
  return t;
}

/* The pixels under a tile; those outside the input are `border`. */
KN_INLINE void pixels_under(kind k, const kn_convolution *c, place t, const uint8_t *input, const uint8_t *border, const uint8_t **at) {
  const int32_t top = t.y - c->pad_top, left = t.x - c->pad_left;
  for (int32_t i = 0; i < in_height(k); i++) {
    const int32_t y = top + i;
    const uint8_t *row = input + ((size_t)t.batch * c->in_height + (size_t)kn_max(0, y)) * c->in_width * c->in_channels;
    for (int32_t j = 0; j < in_width(k); j++) {
      const int32_t x = left + j;
      const int inside = y >= 0 && y < c->in_height && x >= 0 && x < c->in_width;
      at[i * in_width(k) + j] = inside ? row + (size_t)x * c->in_channels : border;
    }
  }
}

#endif
