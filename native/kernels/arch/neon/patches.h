/* Patches of ../../shared/patches.h, copied in registers of 16 bytes. */
#ifndef KN_NEON_PATCHES_H
#define KN_NEON_PATCHES_H

#include "products.h"

/* Copies: up to 15 bytes more are read and up to 31 more are written than asked for. Returns the end of the copy. */
KN_INLINE uint8_t *kn_take(uint8_t *to, const uint8_t *from, int32_t count, int wide) {
  if (wide) {
    for (int32_t i = 0; i < count; i += 16) {
      const uint8x16_t codes = vld1q_u8(from + i);
      vst1q_u16((uint16_t *)(void *)(to + 2 * (size_t)i), vmovl_u8(vget_low_u8(codes)));
      vst1q_u16((uint16_t *)(void *)(to + 2 * (size_t)i + 16), vmovl_high_u8(codes));
    }
    return to + 2 * (size_t)count;
  }
  for (int32_t i = 0; i < count; i += 16) vst1q_u8(to + i, vld1q_u8(from + i));
  return to + count;
}

KN_INLINE uint8_t *kn_fill(uint8_t *to, int32_t code, int32_t count, int wide) {
  const uint8x16_t v = wide ? vreinterpretq_u8_u16(vdupq_n_u16((uint16_t)code)) : vdupq_n_u8((uint8_t)code);
  const int32_t bytes = wide ? 2 * count : count;
  for (int32_t i = 0; i < bytes; i += 16) vst1q_u8(to + i, v);
  return to + bytes;
}

/* Codes that are copied in one go, as they are and widened. */
enum { KN_ONCE = 16, KN_ONCE_WIDE = 16 };

KN_INLINE void kn_take_once(uint8_t *to, const uint8_t *from, int wide) { kn_take(to, from, 16, wide); }

#include "../../shared/patches.h"

#endif
