/*
 * From accumulators to codes; the two rules that all kernels share. Half rounds up. Shifts of negative numbers to the right are
 * arithmetic, as on every compiler that this builds with.
 */
#ifndef KN_REQUANTIZE_H
#define KN_REQUANTIZE_H

#include <stdint.h>

/* Into low .. high, low at most high; as a maximum and a minimum, which compilers have instructions for. */
static inline int32_t kn_clamp(int32_t value, int32_t low, int32_t high) {
  const int32_t raised = value < low ? low : value;
  return raised > high ? high : raised;
}

/* Sums wrap around, so that a hostile model computes nonsense and no undefined behaviour. */
static inline int32_t kn_wrapping_add(int32_t a, int32_t b) { return (int32_t)((uint32_t)a + (uint32_t)b); }

/* acc * m / 2^32 with m = round(scale * 2^32) and the accumulator shifted left before, where the scale is at least a half. */
static inline int32_t kn_scale_wide(int32_t accumulator, int32_t multiplier, int32_t shift) {
  const int64_t product = (int64_t)(int32_t)((uint32_t)accumulator << shift) * multiplier;
  return (int32_t)((product + (INT64_C(1) << 31)) >> 32);
}

/* acc * m / 2^15; the accumulator, shifted left before, is certified to fit 16 bits. */
static inline int32_t kn_scale_narrow(int32_t accumulator, int32_t multiplier, int32_t shift) {
  const int32_t narrow = (int16_t)((uint32_t)accumulator << shift);
  return (narrow * multiplier + (1 << 14)) >> 15;
}

#endif
