/*
 * Inner loops of matrix products: up to 4 rows (pixels) by a panel of 16 columns (output channels), in four registers of 4 sums each. A
 * step is 4 bytes of every row, and 64 of weights.
 *
 * With KN_DOT: SDOT, 16 products and their additions to 4 sums an instruction, exact for everything. Without: SMULL and SMLAL2 multiply 16
 * pairs into 8 sums of two, in 16 bits; SADALP adds neighbours of these to 4 sums in 32 bits: three instructions for 16 products, of which
 * processors without the dot product do multiplications and additions side by side. Two products of -128 by -128 do not fit 16 bits; where
 * they can meet, the loop must be `careful` and have an SADALP behind each multiplication.
 */
#ifndef KN_NEON_PRODUCTS_H
#define KN_NEON_PRODUCTS_H

#include "common.h"

enum { KN_PARTS = 4, KN_MAX_ROWS = 4, KN_STEP_BYTES = 4 * KN_PANEL };

/* Rows of the next tile of a product, so that none is done for little: 5 are 3 and 2, not 4 and 1. */
static inline int32_t kn_next_rows(int32_t left) { return left == 5 ? 3 : kn_min(left, KN_MAX_ROWS); }

#if defined(KN_DOT)

/* Where a channel's weight for one of a step's 4 codes lies in the step's weights. */
static inline int32_t kn_place_8(int32_t channel, int32_t code) { return channel * 4 + code; }

static inline int kn_needs_care(int32_t a, int32_t b) {
  (void)a, (void)b;
  return 0;
}

/* The codes of one step, as its products need them; the instruction takes one step of a register itself. */
typedef struct {
  int8x16_t all;
  int32_t step;
} kn_chosen;

KN_INLINE kn_chosen kn_choose(int8x16_t codes, int32_t n) {
  const kn_chosen c = {codes, n};
  return c;
}

KN_INLINE int32x4_t kn_add_products(int32x4_t sums, kn_chosen codes, int8x16_t weights, int careful) {
  (void)careful;
  switch (codes.step) {
    case 0: return vdotq_laneq_s32(sums, weights, codes.all, 0);
    case 1: return vdotq_laneq_s32(sums, weights, codes.all, 1);
    case 2: return vdotq_laneq_s32(sums, weights, codes.all, 2);
    default: return vdotq_laneq_s32(sums, weights, codes.all, 3);
  }
}

#else

/* A register's first 8 bytes are 4 channels by codes 0 and 1, the second by codes 2 and 3. */
static inline int32_t kn_place_8(int32_t channel, int32_t code) { return channel / 4 * 16 + code / 2 * 8 + channel % 4 * 2 + code % 2; }

/* Whether these weights, of codes 0 and 2 or 1 and 3 of a step, need the careful loop. */
static inline int kn_needs_care(int32_t a, int32_t b) { return a == -128 && b == -128; }

/* Codes 0 and 1 of a step, repeated, and 2 and 3. */
typedef struct {
  int8x16_t first, second;
} kn_chosen;

KN_INLINE int8x16_t kn_pair_of(int8x16_t codes, int32_t n) {
  const int16x8_t v = vreinterpretq_s16_s8(codes);
  int16x8_t pair;
  switch (n) {
    case 0: pair = vdupq_laneq_s16(v, 0); break;
    case 1: pair = vdupq_laneq_s16(v, 1); break;
    case 2: pair = vdupq_laneq_s16(v, 2); break;
    case 3: pair = vdupq_laneq_s16(v, 3); break;
    case 4: pair = vdupq_laneq_s16(v, 4); break;
    case 5: pair = vdupq_laneq_s16(v, 5); break;
    case 6: pair = vdupq_laneq_s16(v, 6); break;
    default: pair = vdupq_laneq_s16(v, 7);
  }
  return vreinterpretq_s8_s16(pair);
}

KN_INLINE kn_chosen kn_choose(int8x16_t codes, int32_t n) {
  const kn_chosen c = {kn_pair_of(codes, 2 * n), kn_pair_of(codes, 2 * n + 1)};
  return c;
}

KN_INLINE int32x4_t kn_add_products(int32x4_t sums, kn_chosen codes, int8x16_t weights, int careful) {
  const int16x8_t products = vmull_s8(vget_low_s8(weights), vget_low_s8(codes.first));
  if (careful) return vpadalq_s16(vpadalq_s16(sums, products), vmull_high_s8(weights, codes.second));
  return vpadalq_s16(sums, vmlal_high_s8(products, weights, codes.second));
}

#endif

/* One step of `rows` rows by the first `parts` registers: its codes are the n-th of the four that each row's register has. */
KN_INLINE void kn_step_8(int32_t rows, int32_t parts, int careful, const int8x16_t *codes, int32_t n, const int8_t *weights, int32x4_t *sums) {
  int8x16_t w[KN_PARTS];
  KN_UNROLL for (int32_t j = 0; j < parts; j++) w[j] = vld1q_s8(weights + 16 * j);
  KN_UNROLL for (int32_t r = 0; r < rows; r++) {
    const kn_chosen chosen = kn_choose(codes[r], n);
    KN_UNROLL for (int32_t j = 0; j < parts; j++) {
      sums[KN_PARTS * r + j] = kn_add_products(sums[KN_PARTS * r + j], chosen, w[j], careful);
    }
  }
}

/* Adds to sums [row][part] the products of `steps` steps, 8-bit codes by weights; `flip`: kn_signed. */
KN_INLINE void kn_loop_8(int32_t rows, int32_t parts, int careful, const uint8_t *codes, size_t stride, uint8x16_t flip, const int8_t *weights,
                         int32_t steps, int32x4_t *sums) {
  int8x16_t v[KN_MAX_ROWS];
  for (; steps >= 4; steps -= 4, codes += 16, weights += 4 * KN_STEP_BYTES) {
    KN_UNROLL for (int32_t r = 0; r < rows; r++) {
      v[r] = kn_signed(vld1q_u8(codes + (size_t)r * stride), flip);
      __asm__("" : "+w"(v[r])); /* or g++ 12 reads pairs of codes from memory one by one, through other registers */
    }
    KN_UNROLL for (int32_t n = 0; n < 4; n++) kn_step_8(rows, parts, careful, v, n, weights + n * KN_STEP_BYTES, sums);
  }
  for (; steps > 0; steps--, codes += 4, weights += KN_STEP_BYTES) {
    KN_UNROLL for (int32_t r = 0; r < rows; r++) {
      uint32_t word;
      memcpy(&word, codes + (size_t)r * stride, sizeof word);
      v[r] = kn_signed(vreinterpretq_u8_u32(vdupq_n_u32(word)), flip);
    }
    kn_step_8(rows, parts, careful, v, 0, weights, sums);
  }
}

/* The same for 16-bit codes and weights, two codes a step, modulo 2^32; weights are [code][channel]. */
static inline int32_t kn_place_16(int32_t channel, int32_t code) { return code * KN_PANEL + channel; }

KN_INLINE int32x4_t kn_add_low(int32x4_t sums, int16x8_t weights, int16x8_t codes, int32_t n) {
  switch (n) {
    case 0: return vmlal_laneq_s16(sums, vget_low_s16(weights), codes, 0);
    case 1: return vmlal_laneq_s16(sums, vget_low_s16(weights), codes, 1);
    case 2: return vmlal_laneq_s16(sums, vget_low_s16(weights), codes, 2);
    case 3: return vmlal_laneq_s16(sums, vget_low_s16(weights), codes, 3);
    case 4: return vmlal_laneq_s16(sums, vget_low_s16(weights), codes, 4);
    case 5: return vmlal_laneq_s16(sums, vget_low_s16(weights), codes, 5);
    case 6: return vmlal_laneq_s16(sums, vget_low_s16(weights), codes, 6);
    default: return vmlal_laneq_s16(sums, vget_low_s16(weights), codes, 7);
  }
}

KN_INLINE int32x4_t kn_add_high(int32x4_t sums, int16x8_t weights, int16x8_t codes, int32_t n) {
  switch (n) {
    case 0: return vmlal_high_laneq_s16(sums, weights, codes, 0);
    case 1: return vmlal_high_laneq_s16(sums, weights, codes, 1);
    case 2: return vmlal_high_laneq_s16(sums, weights, codes, 2);
    case 3: return vmlal_high_laneq_s16(sums, weights, codes, 3);
    case 4: return vmlal_high_laneq_s16(sums, weights, codes, 4);
    case 5: return vmlal_high_laneq_s16(sums, weights, codes, 5);
    case 6: return vmlal_high_laneq_s16(sums, weights, codes, 6);
    default: return vmlal_high_laneq_s16(sums, weights, codes, 7);
  }
}

KN_INLINE void kn_code_16(int32_t rows, const int16x8_t *codes, int32_t n, const int16_t *weights, int32x4_t *sums) {
  const int16x8_t low = vld1q_s16(weights), high = vld1q_s16(weights + 8);
  KN_UNROLL for (int32_t r = 0; r < rows; r++) {
    int32x4_t *s = sums + KN_PARTS * r;
    s[0] = kn_add_low(s[0], low, codes[r], n);
    s[1] = kn_add_high(s[1], low, codes[r], n);
    s[2] = kn_add_low(s[2], high, codes[r], n);
    s[3] = kn_add_high(s[3], high, codes[r], n);
  }
}

KN_INLINE void kn_loop_16(int32_t rows, const uint8_t *codes, size_t stride, const int16_t *weights, int32_t steps, int32x4_t *sums) {
  int16x8_t v[KN_MAX_ROWS];
  for (; steps >= 4; steps -= 4, codes += 16, weights += 8 * KN_PANEL) {
    KN_UNROLL for (int32_t r = 0; r < rows; r++) v[r] = vreinterpretq_s16_u8(vld1q_u8(codes + (size_t)r * stride));
    KN_UNROLL for (int32_t n = 0; n < 8; n++) kn_code_16(rows, v, n, weights + n * KN_PANEL, sums);
  }
  for (; steps > 0; steps--, codes += 4, weights += 2 * KN_PANEL) {
    KN_UNROLL for (int32_t r = 0; r < rows; r++) {
      uint32_t word;
      memcpy(&word, codes + (size_t)r * stride, sizeof word);
      v[r] = vreinterpretq_s16_u32(vdupq_n_u32(word));
    }
    KN_UNROLL for (int32_t n = 0; n < 2; n++) kn_code_16(rows, v, n, weights + n * KN_PANEL, sums);
  }
}

/* Calls function(rows, ...) with a constant, so that it is inlined and its arrays become registers. */
#define KN_FOR_ROWS(rows, function, ...)      \
  switch (rows) {                             \
    case 1: function(1, __VA_ARGS__); break;  \
    case 2: function(2, __VA_ARGS__); break;  \
    case 3: function(3, __VA_ARGS__); break;  \
    default: function(4, __VA_ARGS__);        \
  }

#endif
