/*
 * What the kernels for Cortex-M4 and M7 share: their DSP instructions, each with the same in C beside it. All of this runs anywhere: a
 * gateway packs weights for its microcontrollers with these files, and the tests prove them there before an emulator confirms it.
 *
 * Codes are unsigned bytes in the arena. Weights are packed once, on the gateway, and executed where they lie in flash: a kernel's
 * `supports`, `packed_bytes` and `scratch_bytes` look at shapes and bits only, never at weights, so that a microcontroller can ask them
 * of weights that it does not have in any other form. Biases, multipliers and shifts are read where the image has them.
 */
#ifndef KN_DSP_COMMON_H
#define KN_DSP_COMMON_H

#include "../../requantize.h"
#include "../../shared/base.h"

#if defined(__ARM_FEATURE_DSP) && defined(__thumb2__)
#define KN_DSP_CODE 1
#else
#define KN_DSP_CODE 0
#endif

#define KN_INLINE static inline __attribute__((always_inline, unused))
#define KN_OUTLINE static __attribute__((noinline, unused))
/* A function in assembly, by the procedure call standard, which is how it knows its parameters. */
#define KN_ASSEMBLY static __attribute__((naked, noinline, unused))
#if KN_DSP_CODE
#pragma GCC diagnostic ignored "-Wunused-parameter"
#endif

KN_INLINE uint32_t kn_word(const void *from) {
  uint32_t word;
  memcpy(&word, from, sizeof word);
  return word;
}

KN_INLINE uint32_t kn_rotated(uint32_t word, int32_t right) { return right == 0 ? word : word >> right | word << (32 - right); }

/* Bytes 0 and 2 of four, each in 16 bits. */
KN_INLINE uint32_t kn_even_bytes(uint32_t word) { return word & 0x00FF00FFu; }

/* Bytes 1 and 3. */
KN_INLINE uint32_t kn_odd_bytes(uint32_t word) {
#if KN_DSP_CODE
  uint32_t bytes;
  __asm__("uxtb16 %0, %1, ror #8" : "=r"(bytes) : "r"(word));
  return bytes;
#else
  return word >> 8 & 0x00FF00FFu;
#endif
}

/* Adds the four bytes of a word. */
KN_INLINE uint32_t kn_add_bytes(uint32_t sum, uint32_t word) {
#if KN_DSP_CODE
  __asm__("usada8 %0, %1, %2, %0" : "+r"(sum) : "r"(word), "r"(0));
  return sum;
#else
  return sum + (word & 255) + (word >> 8 & 255) + (word >> 16 & 255) + (word >> 24);
#endif
}

/* zero + (accumulator * multiplier + 2^31) / 2^32: the wide rule in one instruction. */
KN_INLINE int32_t kn_scale(int32_t accumulator, int32_t multiplier, int32_t zero) {
#if KN_DSP_CODE
  int32_t scaled;
  __asm__("smmlar %0, %1, %2, %3" : "=r"(scaled) : "r"(accumulator), "r"(multiplier), "r"(zero));
  return scaled;
#else
  return kn_wrapping_add(zero, kn_scale_wide(accumulator, multiplier, 0));
#endif
}

/* Into 0 .. 255. */
KN_INLINE uint32_t kn_byte(int32_t value) {
#if KN_DSP_CODE
  uint32_t byte;
  __asm__("usat %0, #8, %1" : "=r"(byte) : "r"(value));
  return byte;
#else
  return (uint32_t)kn_clamp(value, 0, 255);
#endif
}

/* Four bytes, each added or subtracted and kept within 0 .. 255. */
KN_INLINE uint32_t kn_raise_bytes(uint32_t a, uint32_t b) {
#if KN_DSP_CODE
  uint32_t bytes;
  __asm__("uqadd8 %0, %1, %2" : "=r"(bytes) : "r"(a), "r"(b));
  return bytes;
#else
  uint32_t bytes = 0;
  for (int32_t i = 0; i < 32; i += 8) bytes |= (uint32_t)kn_min((int32_t)((a >> i & 255) + (b >> i & 255)), 255) << i;
  return bytes;
#endif
}

KN_INLINE uint32_t kn_lower_bytes(uint32_t a, uint32_t b) {
#if KN_DSP_CODE
  uint32_t bytes;
  __asm__("uqsub8 %0, %1, %2" : "=r"(bytes) : "r"(a), "r"(b));
  return bytes;
#else
  uint32_t bytes = 0;
  for (int32_t i = 0; i < 32; i += 8) bytes |= (uint32_t)kn_max((int32_t)(a >> i & 255) - (int32_t)(b >> i & 255), 0) << i;
  return bytes;
#endif
}

/* Four codes, none below those of `low`, and none above 255 less those of `above`. */
KN_INLINE uint32_t kn_clamped(uint32_t codes, uint32_t low, uint32_t above) {
  return kn_lower_bytes(kn_raise_bytes(kn_raise_bytes(kn_lower_bytes(codes, low), low), above), above);
}

/* sum + a.low * b.low + a.high * b.high, of signed halves, modulo 2^32; the C beside the inner loops uses it. */
KN_INLINE uint32_t kn_add_pair(uint32_t sum, uint32_t a, uint32_t b) {
  return sum + (uint32_t)((int16_t)a * (int16_t)b) + (uint32_t)((int16_t)(a >> 16) * (int16_t)(b >> 16));
}

static inline int32_t kn_pixels_out(const kn_convolution *c) { return c->batch * c->out_height * c->out_width; }
static inline int32_t kn_group_in(const kn_convolution *c) { return c->in_channels / c->groups; }
static inline int32_t kn_group_out(const kn_convolution *c) { return c->out_channels / c->groups; }
static inline int32_t kn_row_weights(const kn_convolution *c) { return c->kernel_height * c->kernel_width * kn_group_in(c); }

#endif
