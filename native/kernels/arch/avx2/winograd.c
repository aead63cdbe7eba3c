/*
 * Winograd's convolutions, exact in integers: 3x3, stride 1. Tiles of the input and the weights are transformed, multiplied position by
 * position, and transformed back: 36 products for 4x4 pixels instead of 144, 16 for 2x2 instead of 36, 24 for 4x2 instead of 72.
 *
 * The usual transforms divide. These are multiplied through instead, so that all is integer and the result is a known multiple of the
 * convolution, which the inverse transform divides exactly:
 *
 *   winograd16-4x4  16-bit operands, sums modulo 2^32. The result is 576 y = 9 * 64 y: times the inverse of 9 modulo 2^32, shifted by 6.
 *                   Exact if |y| < 2^25, whatever overflowed before; certified from the weights.
 *   winograd8-2x2   8-bit operands, result 4 y. Transformed codes span 4 times the codes' range, so up to 6 bits; transformed weights
 *                   must fit 8 bits, as those of 4 bits do and those of 5 nearly always.
 *   winograd8-4x2   the same, four pixels high, result 48 y: for codes of up to 3 bits.
 *
 * Transformed codes are signed; for 8-bit operands an offset makes them unsigned, and what it adds to the result is a constant of the
 * output channel and position in the tile. What lies outside the input holds its zero point, as codes do: nothing here knows of it.
 */
#if defined(__x86_64__) && !defined(KN_PORTABLE)
#include "common.h"
#include "patches.h"
#include "products.h"
#include "runs.h"
#include "store.h"

/* A kind of tile; constant in each function's copies. */
typedef struct {
  int32_t out_height, out_width;
  int32_t code_bytes;
  int32_t shift;    /* of the result, after the multiplication by `inverse` */
  uint32_t inverse; /* modulo 2^32 */
} kind;

static const kind K4X4 = {4, 4, 2, 6, 0x38E38E39u};
static const kind K2X2 = {2, 2, 1, 2, 1u};
static const kind K4X2 = {4, 2, 1, 4, 0xAAAAAAABu};

enum { MAX_SIDE = 6, MAX_POSITIONS = 36, MAX_PIXELS = 16, SCRATCH_BYTES = 340000, MAX_BLOCK = 48 };

static inline int32_t in_height(kind k) { return k.out_height + 2; }
static inline int32_t in_width(kind k) { return k.out_width + 2; }
static inline int32_t positions(kind k) { return in_height(k) * in_width(k); }
static inline int32_t codes_per_step(kind k) { return 4 / k.code_bytes; }

/* Rows of the weights' transform for 2 and for 4 pixels. */
static const int8_t WEIGHTS_2[4][3] = {{1, 0, 0}, {1, 1, 1}, {1, -1, 1}, {0, 0, 1}};
static const int8_t WEIGHTS_4[6][3] = {{1, 0, 0}, {1, 1, 1}, {1, -1, 1}, {1, 2, 4}, {1, -2, 4}, {0, 0, 1}};
/* Sums of the positive and of the negative factors in the rows of the codes' transform. */
static const int8_t POSITIVE_2[4] = {1, 2, 1, 1}, NEGATIVE_2[4] = {1, 0, 1, 1};
static const int8_t POSITIVE_4[6] = {5, 2, 5, 3, 3, 5}, NEGATIVE_4[6] = {5, 8, 5, 3, 3, 5};

static const int8_t *weight_row(int32_t pixels, int32_t i) { return pixels == 4 ? WEIGHTS_4[i] : WEIGHTS_2[i]; }

/* The most that a transformed code can be below zero, and above, at one position, for codes up to `top`. */
static void reach(kind k, int32_t position, int32_t top, int32_t *below, int32_t *above) {
  const int32_t i = position / in_width(k), j = position % in_width(k);
  const int32_t pi = k.out_height == 4 ? POSITIVE_4[i] : POSITIVE_2[i], ni = k.out_height == 4 ? NEGATIVE_4[i] : NEGATIVE_2[i];
  const int32_t pj = k.out_width == 4 ? POSITIVE_4[j] : POSITIVE_2[j], nj = k.out_width == 4 ? NEGATIVE_4[j] : NEGATIVE_2[j];
  *above = (pi * pj + ni * nj) * top;
  *below = (pi * nj + ni * pj) * top;
}

/* The transformed weights of one pair of channels, by position. */
static void transform_weights(kind k, const kn_convolution *c, int32_t out_channel, int32_t in_channel, int32_t *u) {
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
static int is_3x3(const kn_convolution *c) {
  return c->kernel_height == 3 && c->kernel_width == 3 && c->stride_y == 1 && c->stride_x == 1 && c->dilation_y == 1 &&
         c->dilation_x == 1 && c->groups == 1 && c->in_channels >= 8 && c->out_channels >= 8;
}

/* Whether every sum is below 2^bits. */
static int sums_fit(const kn_convolution *c, int32_t bits) {
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

/* Whether transformed codes and weights fit 8 bits, and their products in pairs 16. */
static int operands_fit(kind k, const kn_convolution *c) {
  const int32_t top = (1 << c->input_bits) - 1;
  int32_t span[MAX_POSITIONS];
  for (int32_t i = 0; i < positions(k); i++) {
    int32_t below, above;
    reach(k, i, top, &below, &above);
    span[i] = below + above;
    if (span[i] > UINT8_MAX) return 0;
  }
  for (int32_t o = 0; o < c->out_channels; o++) {
    int32_t last[MAX_POSITIONS], u[MAX_POSITIONS];
    for (int32_t n = 0; n < c->in_channels; n++) {
      transform_weights(k, c, o, n, u);
      for (int32_t i = 0; i < positions(k); i++) {
        if (u[i] < INT8_MIN || u[i] > INT8_MAX || !kn_pair_fits(n % 2 ? last[i] : 0, u[i], span[i])) return 0;
        last[i] = u[i];
      }
    }
  }
  return 1;
}

static int supports_4x4(const kn_convolution *c) { return is_3x3(c) && sums_fit(c, 25); }
static int supports_2x2(const kn_convolution *c) { return is_3x3(c) && c->input_bits <= 6 && sums_fit(c, 29) && operands_fit(K2X2, c); }
static int supports_4x2(const kn_convolution *c) { return is_3x3(c) && c->input_bits <= 3 && sums_fit(c, 27) && operands_fit(K4X2, c); }

/* Sizes of a convolution, and how it is cut into parts. */
typedef struct {
  int32_t tiles_high, tiles_wide, tiles, block, blocks;
  int32_t panels, block_panels, channel_blocks;
  int32_t steps;
  size_t row_bytes;       /* one tile's transformed codes at one position */
  size_t codes_position;  /* bytes from one position's codes to the next's */
  size_t sums_position;   /* registers from one position's sums to the next's */
  size_t weights_position, runs_position;
} plan;

static inline plan plan_of(kind k, const kn_convolution *c) {
  plan p;
  p.tiles_high = kn_up(c->out_height, k.out_height);
  p.tiles_wide = kn_up(c->out_width, k.out_width);
  p.tiles = c->batch * p.tiles_high * p.tiles_wide;
  p.panels = kn_up(c->out_channels, KN_PANEL);
  p.steps = kn_up(c->in_channels, codes_per_step(k));
  p.row_bytes = (size_t)kn_up(c->in_channels * k.code_bytes, 32) * 32;
  /* One line more than needed between positions: powers of two would let them evict each other from the cache. */
  const size_t fitting = SCRATCH_BYTES / ((size_t)positions(k) * (p.row_bytes + 4 * KN_PANEL));
  p.blocks = kn_up(p.tiles, kn_max(KN_MAX_ROWS, kn_min(MAX_BLOCK, (int32_t)fitting)));
  const int32_t wanted = (int64_t)p.tiles * positions(k) * c->in_channels * c->out_channels > 1000000 ? 4 : 1;
  if (p.blocks == 3) p.blocks = 4;
  p.block = kn_up(p.tiles, p.blocks);
  p.blocks = kn_up(p.tiles, p.block);
  p.block_panels = kn_up(p.panels, kn_min(p.panels, kn_up(wanted, p.blocks)));
  p.channel_blocks = kn_up(p.panels, p.block_panels);
  p.codes_position = (size_t)p.block * p.row_bytes + 64;
  p.sums_position = (size_t)p.block * 2 + 2;
  p.weights_position = (size_t)p.steps * 64;
  p.runs_position = (size_t)p.steps + 1;
  return p;
}

/* Packed: for each panel its channels and what offsets add to its pixels; the runs of each position; weights [panel][position]. */
typedef struct {
  kn_panel channels;
  int32_t offsets[MAX_PIXELS][KN_PANEL];
} panel;

static size_t runs_at(const plan *p) { return (size_t)p->panels * sizeof(panel); }
static size_t weights_at(kind k, const plan *p) {
  return kn_aligned(runs_at(p) + (k.code_bytes == 1 ? (size_t)p->panels * positions(k) * p->runs_position * sizeof(uint16_t) : 0));
}

static size_t packed_bytes(kind k, const kn_convolution *c) {
  const plan p = plan_of(k, c);
  return weights_at(k, &p) + (size_t)p.panels * positions(k) * p.weights_position;
}

/* The inverse transform of numbers, along one side. */
static void back(int32_t pixels, const int32_t *m, int32_t step, int32_t *out) {
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
static void pack_offsets(kind k, const int32_t *at_positions, panel *to, int32_t o) {
  int32_t columns[MAX_SIDE][4], pixels[4];
  for (int32_t j = 0; j < in_width(k); j++) back(k.out_height, at_positions + j, in_width(k), columns[j]);
  for (int32_t y = 0; y < k.out_height; y++) {
    back(k.out_width, &columns[0][y], 4, pixels);
    for (int32_t x = 0; x < k.out_width; x++) to->offsets[y * k.out_width + x][o] = -pixels[x];
  }
}

static void pack(kind k, const kn_convolution *c, void *packed) {
  const plan p = plan_of(k, c);
  const int32_t top = (1 << c->input_bits) - 1, step = codes_per_step(k);
  memset(packed, 0, packed_bytes(k, c));
  for (int32_t n = 0; n < p.panels; n++) {
    panel *to = (panel *)packed + n;
    uint8_t *weights = (uint8_t *)packed + weights_at(k, &p) + (size_t)n * positions(k) * p.weights_position;
    const int32_t count = kn_min(KN_PANEL, c->out_channels - n * KN_PANEL);
    kn_pack_panel(&to->channels, c, n * KN_PANEL, count);
    for (int32_t o = 0; o < count; o++) {
      int32_t offsets[MAX_POSITIONS] = {0}, u[MAX_POSITIONS];
      for (int32_t i = 0; i < c->in_channels; i++) {
        transform_weights(k, c, n * KN_PANEL + o, i, u);
        for (int32_t xi = 0; xi < positions(k); xi++) {
          const int32_t at = i / step * (step * KN_PANEL) + o * step + i % step;
          uint8_t *position = weights + (size_t)xi * p.weights_position;
          if (k.code_bytes == 2) {
            ((int16_t *)position)[at] = (int16_t)u[xi];
          } else {
            int32_t below, above;
            reach(k, xi, top, &below, &above);
            ((int8_t *)position)[at] = (int8_t)u[xi];
            offsets[xi] += below * u[xi];
          }
        }
      }
      pack_offsets(k, offsets, to, o);
    }
    for (int32_t xi = 0; xi < positions(k) && k.code_bytes == 1; xi++) {
      uint16_t *runs = (uint16_t *)((uint8_t *)packed + runs_at(&p)) + ((size_t)n * positions(k) + xi) * p.runs_position;
      int32_t below, above;
      reach(k, xi, top, &below, &above);
      runs[0] = (uint16_t)kn_find_runs((const int8_t *)weights + (size_t)xi * p.weights_position, p.steps, below + above, runs + 1);
    }
  }
}

/* Scratch: sums [position][tile][16 channels], transformed codes [position][tile][channel], one pixel of the border. */
static size_t codes_at(kind k, const plan *p) { return (size_t)positions(k) * p->sums_position * sizeof(__m256i); }
static size_t border_at(kind k, const plan *p) { return codes_at(k, p) + (size_t)positions(k) * p->codes_position; }

static size_t scratch_bytes(kind k, const kn_convolution *c) {
  const plan p = plan_of(k, c);
  return kn_aligned(border_at(k, &p) + p.row_bytes);
}

static int32_t tiles(kind k, const kn_convolution *c) {
  const plan p = plan_of(k, c);
  return p.blocks * p.channel_blocks;
}

/* Lanes of 8 or 16 bits. */
KN_INLINE __m256i add(__m256i a, __m256i b, int32_t bytes) { return bytes == 1 ? _mm256_add_epi8(a, b) : _mm256_add_epi16(a, b); }
KN_INLINE __m256i sub(__m256i a, __m256i b, int32_t bytes) { return bytes == 1 ? _mm256_sub_epi8(a, b) : _mm256_sub_epi16(a, b); }
KN_INLINE __m256i twice(__m256i a, int32_t bytes) { return add(a, a, bytes); }
KN_INLINE __m256i four_times(__m256i a, int32_t bytes) {
  return bytes == 1 ? twice(twice(a, bytes), bytes) : _mm256_slli_epi16(a, 2);
}

/* The transform of codes along one side. */
KN_INLINE void forth(int32_t pixels, const __m256i *d, __m256i *out, int32_t n) {
  if (pixels == 4) {
    const __m256i d42 = sub(d[4], d[2], n), d31 = sub(d[3], d[1], n), twice31 = twice(d31, n);
    const __m256i even = sub(d[4], four_times(d[2], n), n), odd = sub(d[3], four_times(d[1], n), n);
    out[0] = add(four_times(sub(d[0], d[2], n), n), d42, n);
    out[1] = add(even, odd, n);
    out[2] = sub(even, odd, n);
    out[3] = add(d42, twice31, n);
    out[4] = sub(d42, twice31, n);
    out[5] = sub(sub(d[5], d[3], n), four_times(d31, n), n);
  } else {
    out[0] = sub(d[0], d[2], n);
    out[1] = add(d[1], d[2], n);
    out[2] = sub(d[2], d[1], n);
    out[3] = sub(d[1], d[3], n);
  }
}

/* Transforms the codes of one tile: `at` are the pixels under it, `codes` its place at position 0. */
KN_INLINE void transform_codes(kind k, const plan *p, const uint8_t *const *at, const __m256i *offsets, uint8_t *codes) {
  const int32_t n = k.code_bytes;
  for (size_t channel = 0; channel * n < p->row_bytes; channel += 32 / n) {
    __m256i rows[MAX_SIDE][MAX_SIDE];
    KN_UNROLL for (int32_t x = 0; x < in_width(k); x++) {
      __m256i d[MAX_SIDE], out[MAX_SIDE];
      KN_UNROLL for (int32_t y = 0; y < in_height(k); y++) {
        const uint8_t *from = at[y * in_width(k) + x] + channel;
        d[y] = n == 1 ? kn_load(from) : _mm256_cvtepu8_epi16(kn_load_half(from));
      }
      forth(k.out_height, d, out, n);
      KN_UNROLL for (int32_t y = 0; y < in_height(k); y++) rows[y][x] = out[y];
    }
    uint8_t *to = codes + channel * n;
    KN_UNROLL for (int32_t y = 0; y < in_height(k); y++) {
      __m256i out[MAX_SIDE];
      forth(k.out_width, rows[y], out, n);
      KN_UNROLL for (int32_t x = 0; x < in_width(k); x++, to += p->codes_position) {
        kn_save(to, n == 1 ? add(out[x], offsets[y * in_width(k) + x], 1) : out[x]);
      }
    }
  }
}

/* 32-bit sums of `rows` tiles at one position. */
KN_INLINE void product_exact(int32_t rows, int half, const plan *p, const uint8_t *codes, const uint8_t *weights, __m256i *sums) {
  kn_loop_exact(rows, half, codes, p->row_bytes, weights, p->steps, sums);
}

KN_INLINE void product_short(int32_t rows, int half, const plan *p, const uint8_t *codes, const uint8_t *weights, const uint16_t *runs,
                             __m256i *out) {
  const __m256i ones = _mm256_set1_epi16(1);
  __m256i part[2 * KN_MAX_ROWS];
  kn_loop_short(rows, half, codes, p->row_bytes, weights, runs[1], part);
  KN_UNROLL for (int32_t i = 0; i < 2 * rows; i++) out[i] = _mm256_madd_epi16(part[i], ones);
  for (int32_t n = 2; n <= runs[0]; n++) {
    codes += 4 * runs[n - 1];
    weights += 64 * (size_t)runs[n - 1];
    kn_loop_short(rows, half, codes, p->row_bytes, weights, runs[n], part);
    KN_UNROLL for (int32_t i = 0; i < 2 * rows; i++) out[i] = _mm256_add_epi32(out[i], _mm256_madd_epi16(part[i], ones));
  }
}

KN_INLINE __m256i plus(__m256i a, __m256i b) { return _mm256_add_epi32(a, b); }
KN_INLINE __m256i minus(__m256i a, __m256i b) { return _mm256_sub_epi32(a, b); }
KN_INLINE __m256i shifted(__m256i a, int32_t by) { return _mm256_slli_epi32(a, by); }

/* The inverse transform of sums along one side; `back` is the same for numbers. */
KN_INLINE void inverse(int32_t pixels, const __m256i *m, __m256i *out) {
  if (pixels == 4) {
    const __m256i p = plus(m[1], m[2]), q = minus(m[1], m[2]), r = plus(m[3], m[4]), s = minus(m[3], m[4]);
    const __m256i p4 = shifted(p, 2), q4 = shifted(q, 2);
    out[0] = plus(minus(plus(shifted(m[0], 2), shifted(m[0], 1)), p4), r);
    out[1] = minus(shifted(s, 1), q4);
    out[2] = minus(shifted(r, 2), p4);
    out[3] = plus(minus(shifted(s, 3), q4), plus(shifted(m[5], 4), shifted(m[5], 3)));
  } else {
    out[0] = plus(shifted(m[0], 1), plus(m[1], m[2]));
    out[1] = minus(minus(m[1], m[2]), shifted(m[3], 1));
  }
}

/* Sums of one tile of a panel to the accumulators of its pixels: [pixel][2]. */
KN_INLINE void transform_sums(kind k, const plan *p, const panel *from, const __m256i *sums, __m256i *pixels) {
  const __m256i factor = _mm256_set1_epi32((int32_t)k.inverse);
  for (int32_t half = 0; half < 2; half++) {
    const __m256i bias = kn_load(from->channels.bias + 8 * half);
    __m256i rows[4][MAX_SIDE];
    KN_UNROLL for (int32_t x = 0; x < in_width(k); x++) {
      __m256i m[MAX_SIDE], out[4];
      KN_UNROLL for (int32_t y = 0; y < in_height(k); y++) m[y] = sums[(size_t)(y * in_width(k) + x) * p->sums_position + half];
      inverse(k.out_height, m, out);
      KN_UNROLL for (int32_t y = 0; y < k.out_height; y++) rows[y][x] = out[y];
    }
    KN_UNROLL for (int32_t y = 0; y < k.out_height; y++) {
      __m256i out[4];
      inverse(k.out_width, rows[y], out);
      KN_UNROLL for (int32_t x = 0; x < k.out_width; x++) {
        __m256i v = out[x];
        if (k.code_bytes == 1) v = plus(v, kn_load(from->offsets[y * k.out_width + x] + 8 * half));
        if (k.inverse != 1) v = _mm256_mullo_epi32(v, factor);
        pixels[2 * (y * k.out_width + x) + half] = plus(_mm256_srai_epi32(v, k.shift), bias);
      }
    }
  }
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

KN_INLINE void store_tile(kind k, const kn_convolution *c, const kn_finish *f, const panel *from, int32_t first, place t, __m256i *pixels,
                          void *output) {
  const int32_t height = kn_min(k.out_height, c->out_height - t.y), width = kn_min(k.out_width, c->out_width - t.x);
  const int32_t count = kn_min(KN_PANEL, c->out_channels - first);
  const size_t step = (size_t)c->out_channels;
  for (int32_t i = 0; i < height; i++) {
    const size_t at = (((size_t)t.batch * c->out_height + t.y + i) * c->out_width + t.x) * step + first;
    __m256i *row = pixels + 2 * i * k.out_width;
    if (width == k.out_width) {
      kn_store(k.out_width, f, &from->channels, row, output, at, step, count);
    } else {
      for (int32_t j = 0; j < width; j++) kn_store(1, f, &from->channels, row + 2 * j, output, at + step * (size_t)j, step, count);
    }
  }
}

KN_INLINE void run(kind k, const kn_convolution *c, const void *packed, const uint8_t *input, void *output, void *scratch, int32_t tile) {
  const plan p = plan_of(k, c);
  const kn_finish finish = kn_finish_of(c);
  const int32_t first = tile % p.blocks * p.block, count = kn_min(p.block, p.tiles - first);
  const int32_t panel_begin = tile / p.blocks * p.block_panels, panel_end = kn_min(p.panels, panel_begin + p.block_panels);
  __m256i *sums = scratch;
  uint8_t *codes = (uint8_t *)scratch + codes_at(k, &p), *border = (uint8_t *)scratch + border_at(k, &p);
  memset(border, c->input_zero, p.row_bytes);

  __m256i offsets[MAX_POSITIONS];
  for (int32_t xi = 0; xi < positions(k); xi++) {
    int32_t below, above;
    reach(k, xi, (1 << c->input_bits) - 1, &below, &above);
    offsets[xi] = _mm256_set1_epi8((char)below);
  }
  for (int32_t t = 0; t < count; t++) {
    const uint8_t *at[MAX_POSITIONS];
    pixels_under(k, c, place_of(k, &p, first + t), input, border, at);
    transform_codes(k, &p, at, offsets, codes + (size_t)t * p.row_bytes);
  }

  for (int32_t n = panel_begin; n < panel_end; n++) {
    const panel *from = (const panel *)packed + n;
    for (int32_t xi = 0; xi < positions(k); xi++) {
      const size_t at = (size_t)n * positions(k) + xi;
      const uint8_t *w = (const uint8_t *)packed + weights_at(k, &p) + at * p.weights_position;
      const uint16_t *runs = (const uint16_t *)((const uint8_t *)packed + runs_at(&p)) + at * p.runs_position;
      for (int32_t m = 0, rows; m < count; m += rows) {
        rows = kn_next_rows(count - m);
        const uint8_t *v = codes + (size_t)xi * p.codes_position + (size_t)m * p.row_bytes;
        __m256i *to = sums + (size_t)xi * p.sums_position + 2 * (size_t)m;
        if (k.code_bytes == 2) {
          KN_FOR_ROWS(rows, 0, product_exact, &p, v, w, to);
        } else {
          KN_FOR_ROWS(rows, 0, product_short, &p, v, w, runs, to);
        }
      }
    }
    for (int32_t t = 0; t < count; t++) {
      __m256i pixels[2 * MAX_PIXELS];
      transform_sums(k, &p, from, sums + 2 * (size_t)t, pixels);
      store_tile(k, c, &finish, from, n * KN_PANEL, place_of(k, &p, first + t), pixels, output);
    }
  }
}

#define KERNEL(symbol, tag, kind_, name_)                                                                                            \
  static size_t packed_bytes_##tag(const kn_convolution *c) { return packed_bytes(kind_, c); }                                       \
  static void pack_##tag(const kn_convolution *c, void *packed) { pack(kind_, c, packed); }                                          \
  static size_t scratch_bytes_##tag(const kn_convolution *c) { return scratch_bytes(kind_, c); }                                     \
  static int32_t tiles_##tag(const kn_convolution *c) { return tiles(kind_, c); }                                                    \
  KN_CODE static void run_##tag(const kn_convolution *c, const void *packed, const uint8_t *input, void *output, void *scratch,      \
                                int32_t tile) {                                                                                      \
    run(kind_, c, packed, input, output, scratch, tile);                                                                             \
  }                                                                                                                                  \
  const kn_convolution_kernel symbol = {                                                                                             \
      .name = name_,                                                                                                                 \
      .features = KN_AVX2,                                                                                                           \
      .supports = supports_##tag,                                                                                                    \
      .packed_bytes = packed_bytes_##tag,                                                                                            \
      .pack = pack_##tag,                                                                                                            \
      .scratch_bytes = scratch_bytes_##tag,                                                                                          \
      .tiles = tiles_##tag,                                                                                                          \
      .run = run_##tag,                                                                                                              \
  };

KERNEL(kn_convolution_winograd8_4x2_avx2, 4x2, K4X2, "winograd8-4x2.avx2")
KERNEL(kn_convolution_winograd8_2x2_avx2, 2x2, K2X2, "winograd8-2x2.avx2")
KERNEL(kn_convolution_winograd16_4x4_avx2, 4x4, K4X4, "winograd16-4x4.avx2")
#endif
