/*
 * direct8.neon: codes by weights in 8 bits without the dot product. SMULL and SMLAL2 multiply 16 pairs into 8 sums of two, in 16 bits;
 * SADALP adds neighbours of these to 4 sums in 32 bits: three instructions for 16 products, of which processors without the dot product
 * do multiplications and additions side by side.
 *
 * Two products of -128 by -128 do not fit 16 bits. Where two weights of -128 meet, which symmetric quantization never makes, the panel
 * is computed carefully: with an SADALP behind each multiplication.
 */
#if defined(__aarch64__) && !defined(KN_PORTABLE)
#include "common.h"

/* A register's first 8 bytes are 4 channels by codes 0 and 1, the second by codes 2 and 3. */
static inline int32_t place_in_step(int32_t channel, int32_t code) { return code / 2 * 8 + channel * 2 + code % 2; }
static inline int needs_care(int32_t a, int32_t b) { return a == -128 && b == -128; }

/* Codes 0 and 1 of a step, repeated, and 2 and 3. */
typedef struct {
  int8x16_t first, second;
} chosen;

KN_INLINE int8x16_t pair_of(int8x16_t codes, int32_t n) {
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

KN_INLINE chosen choose(int8x16_t codes, int32_t n) {
  const chosen c = {pair_of(codes, 2 * n), pair_of(codes, 2 * n + 1)};
  return c;
}

KN_INLINE int32x4_t add_products(int32x4_t sums, chosen codes, int8x16_t weights, int careful) {
  const int16x8_t products = vmull_s8(vget_low_s8(weights), vget_low_s8(codes.first));
  if (careful) return vpadalq_s16(vpadalq_s16(sums, products), vmull_high_s8(weights, codes.second));
  return vpadalq_s16(sums, vmlal_high_s8(products, weights, codes.second));
}

#define KERNEL kn_convolution_direct8_neon
#define KERNEL_NAME "direct8.neon"
#define KERNEL_FEATURES KN_NEON
#include "direct8.h"
#endif
