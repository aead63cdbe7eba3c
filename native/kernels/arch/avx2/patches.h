/* Patches of ../../shared/patches.h, copied in registers of 32 bytes. */
#ifndef KN_AVX2_PATCHES_H
#define KN_AVX2_PATCHES_H

#include "common.h"

/* Pixels of the largest tile of a product. */
enum { KN_MAX_ROWS = 6 };

/* Rows of the next tile of a product, so that none is done for nothing: 7 are 4 and 3, not 6 and 1. */
static inline int32_t kn_next_rows(int32_t left) {
  if (left >= 10 || left == 6) return 6;
  if (left < 6) return left;
  return left == 9 ? 5 : 4;
}

/* Codes that one register takes, as they are and widened. */
enum { KN_ONCE = 32, KN_ONCE_WIDE = 16 };

KN_INLINE void kn_take_once(uint8_t *to, const uint8_t *from, int wide) {
  kn_save(to, wide ? _mm256_cvtepu8_epi16(kn_load_half(from)) : kn_load(from));
}

/* Copies, in whole registers: up to 31 bytes more are read and up to 32 more are written than asked for. Returns the end of the copy. */
KN_INLINE uint8_t *kn_take(uint8_t *to, const uint8_t *from, int32_t count, int wide) {
  if (wide) {
    for (int32_t i = 0; i < count; i += 16) kn_save(to + 2 * (size_t)i, _mm256_cvtepu8_epi16(kn_load_half(from + i)));
    return to + 2 * (size_t)count;
  }
  for (int32_t i = 0; i < count; i += 32) kn_save(to + i, kn_load(from + i));
  return to + count;
}

KN_INLINE uint8_t *kn_fill(uint8_t *to, int32_t code, int32_t count, int wide) {
  const __m256i v = wide ? _mm256_set1_epi16((int16_t)code) : _mm256_set1_epi8((char)code);
  const int32_t bytes = wide ? 2 * count : count;
  for (int32_t i = 0; i < bytes; i += 32) kn_save(to + i, v);
  return to + bytes;
}

#include "../../shared/patches.h"

#endif
