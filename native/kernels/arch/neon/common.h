/*
 * What the kernels for Arm share. All need NEON, which every 64-bit Arm processor has; a file whose kernels need the dot product defines
 * KN_DOT before, so that no compiler flag decides what runs, and the engine calls a kernel only on a machine that has its features.
 *
 * There is no product of unsigned codes and signed weights. Codes of up to 7 bits are signed numbers as they are; those of 8 bits are
 * made signed by flipping the top bit, which subtracts 128, and 128 times the sum of its weights is added to each channel's bias.
 */
#ifndef KN_NEON_COMMON_H
#define KN_NEON_COMMON_H

#include <arm_neon.h>

#include "../../shared/base.h"

/* g++ 12 schedules before it has given out registers, and then has to spill a quarter of what the inner loops hold. */
#if !defined(__clang__)
#pragma GCC optimize("no-schedule-insns")
#endif

#if defined(KN_DOT)
#define KN_TARGET __attribute__((target("arch=armv8.2-a+dotprod")))
#else
#define KN_TARGET
#endif
#define KN_CODE KN_TARGET
#define KN_INLINE static inline __attribute__((always_inline, unused)) KN_TARGET
#define KN_OUTLINE static __attribute__((noinline, unused)) KN_TARGET

static inline int32_t kn_is_flipped(const kn_convolution *c) { return c->input_bits > 7; }
/* To be combined with codes by exclusive or. */
KN_INLINE uint8x16_t kn_flip_of(const kn_convolution *c) { return vdupq_n_u8(kn_is_flipped(c) ? 0x80 : 0); }
KN_INLINE int8x16_t kn_signed(uint8x16_t codes, uint8x16_t flip) { return vreinterpretq_s8_u8(veorq_u8(codes, flip)); }

/* What flipping takes from a channel's sum; modulo 2^32, as sums are. */
static inline int32_t kn_flipped_part(const kn_convolution *c, int32_t channel) {
  const int32_t row = c->kernel_height * c->kernel_width * (c->in_channels / c->groups);
  uint32_t sum = 0;
  for (int32_t i = 0; i < row && kn_is_flipped(c); i++) sum += (uint32_t)kn_weight(c, channel, i);
  return (int32_t)(sum << 7);
}

#endif
