/* From accumulators to the output, for 16 channels of one pixel: the rules of requantize.h. */
#ifndef KN_AVX2_STORE_H
#define KN_AVX2_STORE_H

#include "../../shared/panel.h"
#include "common.h"

/* The first `count` bytes, below 16, and no more: what follows may belong to a tile that runs at the same time. */
KN_INLINE void kn_save_bytes(uint8_t *out, __m128i v, int32_t count) {
  if (count & 8) {
    _mm_storel_epi64((__m128i *)out, v);
    v = _mm_srli_si128(v, 8), out += 8;
  }
  if (count & 4) {
    const int32_t four = _mm_cvtsi128_si32(v);
    memcpy(out, &four, 4);
    v = _mm_srli_si128(v, 4), out += 4;
  }
  if (count & 2) {
    const int16_t two = (int16_t)_mm_cvtsi128_si32(v);
    memcpy(out, &two, 2);
    v = _mm_srli_si128(v, 2), out += 2;
  }
  if (count & 1) *out = (uint8_t)_mm_cvtsi128_si32(v);
}

/*
 * What all channels share, in a local variable of the function that stores: a compiler must expect that every byte stored to the output
 * changes whatever it has a pointer to.
 */
typedef struct {
  kn_rule rule;
  __m256i zero;
  __m128i low, high;
} kn_finish;

KN_INLINE kn_finish kn_finish_of(const kn_convolution *c) {
  const kn_finish f = {c->rule, _mm256_set1_epi16((int16_t)c->output_zero), _mm_set1_epi8((char)c->output_low),
                       _mm_set1_epi8((char)c->output_high)};
  return f;
}

/* 16-bit results, saturated where they do not fit, to codes. Codes and zero points are below 256, so that saturation changes nothing. */
KN_INLINE __m128i kn_codes(const kn_finish *f, __m256i scaled) {
  const __m256i q = _mm256_adds_epi16(scaled, f->zero);
  const __m128i codes = _mm_packus_epi16(_mm256_castsi256_si128(q), _mm256_extracti128_si256(q, 1));
  return _mm_min_epu8(_mm_max_epu8(codes, f->low), f->high);
}

/*
 * (a * m + 2^31) >> 32 of eight: the products of even lanes are taken from there, those of odd lanes by a look one lane further. That
 * is why multipliers are read from memory: `m + 1` is the odd ones, already in place.
 */
KN_INLINE __m256i kn_scale_wide_8(__m256i a, const int32_t *m) {
  const __m256i half = _mm256_set1_epi64x(INT64_C(1) << 31);
  const __m256i even = _mm256_add_epi64(_mm256_mul_epi32(a, kn_load(m)), half);
  const __m256i odd = _mm256_add_epi64(_mm256_mul_epi32(_mm256_srli_epi64(a, 32), kn_load(m + 1)), half);
  return _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xAA);
}

/*
 * Sixteen 16-bit sums of a panel, without their bias, by the narrow rule or the wide one; kn_fits_short has certified them.
 *
 * The wide rule, (a m + 2^31) >> 32 with m = 2^16 high + low, is (a high + ((a low) >> 16) + 2^15) >> 16, because all but a low is a
 * multiple of 2^16. The upper half of a high plus the carry out of the lower half is the result. There is a carry where adding with
 * saturation differs from adding.
 */
KN_INLINE __m256i kn_scale_short(kn_rule rule, const kn_panel *panel, __m256i sums) {
  __m256i a = _mm256_add_epi16(sums, kn_load(panel->short_bias));
  if (panel->is_shifted) a = _mm256_mullo_epi16(a, kn_load(panel->short_scales));
  const __m256i multipliers = kn_load(panel->high_multipliers);
  if (rule == KN_NARROW) return _mm256_mulhrs_epi16(a, multipliers);
  const __m256i lower = _mm256_mullo_epi16(a, multipliers);
  const __m256i more = _mm256_xor_si256(_mm256_mulhi_epi16(a, kn_load(panel->low_multipliers)), _mm256_set1_epi16(INT16_MIN));
  const __m256i no_carry = _mm256_cmpeq_epi16(_mm256_add_epi16(lower, more), _mm256_adds_epu16(lower, more));
  const __m256i upper = _mm256_sub_epi16(_mm256_mulhi_epi16(a, multipliers), _mm256_set1_epi16(-1));
  return _mm256_add_epi16(upper, no_carry);
}

/* Two times eight 32-bit values to sixteen 16-bit ones, in order. */
KN_INLINE __m256i kn_join(__m256i low, __m256i high) {
  return _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), _MM_SHUFFLE(3, 1, 2, 0));
}

/* Sixteen-bit sums of two panels, without their bias, that kn_fits_short has certified: `count` channels' codes. */
KN_INLINE void kn_store_short(const kn_finish *f, const kn_panel *panels, __m256i first, __m256i second, uint8_t *out, int32_t count) {
  const __m256i x = _mm256_adds_epi16(kn_scale_short(f->rule, &panels[0], first), f->zero);
  const __m256i y = _mm256_adds_epi16(kn_scale_short(f->rule, &panels[1], second), f->zero);
  const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi16(x, y), _MM_SHUFFLE(3, 1, 2, 0));
  const __m256i low = _mm256_broadcastsi128_si256(f->low), high = _mm256_broadcastsi128_si256(f->high);
  const __m256i codes = _mm256_min_epu8(_mm256_max_epu8(packed, low), high);
  if (count == 2 * KN_PANEL) {
    kn_save(out, codes);
    return;
  }
  __m128i rest = _mm256_castsi256_si128(codes);
  if (count >= KN_PANEL) {
    kn_save_half(out, rest);
    rest = _mm256_extracti128_si256(codes, 1);
  }
  kn_save_bytes(out + (count & KN_PANEL), rest, count & (KN_PANEL - 1));
}

KN_INLINE void kn_save_codes(uint8_t *out, __m128i codes, int32_t count) {
  if (__builtin_expect(count == KN_PANEL, 1)) {
    kn_save_half(out, codes);
  } else {
    kn_save_bytes(out, codes, count);
  }
}

/*
 * The accumulators of `rows` pixels, for each channels 0 to 7 and 8 to 15 of a panel, bias included, to element `at` of the output and
 * every `step` elements further; `count` channels exist. With a constant `rows` the sums stay in registers.
 */
KN_INLINE void kn_store(int32_t rows, const kn_finish *f, const kn_panel *panel, __m256i *sums, void *output, size_t at, size_t step,
                        int32_t count) {
  if (f->rule == KN_ACCUMULATORS) {
    for (int32_t r = 0; r < rows; r++) memcpy((int32_t *)output + at + step * (size_t)r, &sums[2 * r], (size_t)count * 4);
    return;
  }
  if (panel->is_shifted) {
    KN_UNROLL for (int32_t r = 0; r < rows; r++) {
      sums[2 * r] = _mm256_sllv_epi32(sums[2 * r], kn_load(panel->shifts));
      sums[2 * r + 1] = _mm256_sllv_epi32(sums[2 * r + 1], kn_load(panel->shifts + 8));
    }
  }
  uint8_t *out = (uint8_t *)output + at;
  if (f->rule == KN_WIDE) {
    KN_UNROLL for (int32_t r = 0; r < rows; r++, out += step) {
      const __m256i low = kn_scale_wide_8(sums[2 * r], panel->multipliers);
      kn_save_codes(out, kn_codes(f, kn_join(low, kn_scale_wide_8(sums[2 * r + 1], panel->multipliers + 8))), count);
    }
  } else {
    KN_UNROLL for (int32_t r = 0; r < rows; r++, out += step) {
      const __m256i joined = kn_join(sums[2 * r], sums[2 * r + 1]);
      kn_save_codes(out, kn_codes(f, _mm256_mulhrs_epi16(joined, kn_load(panel->high_multipliers))), count);
    }
  }
}

#endif
