/* From accumulators to the output, for the channels of a panel: the rules of requantize.h. */
#ifndef KN_NEON_STORE_H
#define KN_NEON_STORE_H

#include "../../shared/panel.h"
#include "common.h"

/* What all channels share, in a local variable of the function that stores; see AVX2's. */
typedef struct {
  kn_rule rule;
  int16x8_t zero;
  uint8x8_t low, high;
} kn_finish;

KN_INLINE kn_finish kn_finish_of(const kn_convolution *c) {
  const kn_finish f = {c->rule, vdupq_n_s16((int16_t)c->output_zero), vdup_n_u8((uint8_t)c->output_low), vdup_n_u8((uint8_t)c->output_high)};
  return f;
}

/* (a * m + 2^31) >> 32: rounding and narrowing are one instruction. The result is below 2^30 in size. */
KN_INLINE int32x4_t kn_scale_wide_4(int32x4_t a, int32x4_t m) {
  const int64x2_t low = vmull_s32(vget_low_s32(a), vget_low_s32(m)), high = vmull_high_s32(a, m);
  return vrshrn_high_n_s64(vrshrn_n_s64(low, 32), high, 32);
}

/*
 * Eight accumulators, from channel `first` of a panel on, to codes. By the narrow rule (a m + 2^14) >> 15 is one instruction, which
 * saturates only for two factors of -32768, and multipliers are not negative. Codes and zero points are below 256, so that saturating
 * to 16 bits changes nothing.
 */
KN_INLINE uint8x8_t kn_codes_8(const kn_finish *f, const kn_panel *panel, int32_t first, int32x4_t a, int32x4_t b) {
  if (panel->is_shifted) {
    a = vshlq_s32(a, vld1q_s32(panel->shifts + first));
    b = vshlq_s32(b, vld1q_s32(panel->shifts + first + 4));
  }
  int16x8_t scaled;
  if (f->rule == KN_WIDE) {
    a = kn_scale_wide_4(a, vld1q_s32(panel->multipliers + first));
    b = kn_scale_wide_4(b, vld1q_s32(panel->multipliers + first + 4));
    scaled = vqmovn_high_s32(vqmovn_s32(a), b);
  } else {
    scaled = vqrdmulhq_s16(vmovn_high_s32(vmovn_s32(a), b), vld1q_s16(panel->high_multipliers + first));
  }
  const uint8x8_t codes = vqmovun_s16(vqaddq_s16(scaled, f->zero));
  return vmin_u8(vmax_u8(codes, f->low), f->high);
}

/* The first `count` bytes, up to 8, and no more: what follows may belong to a tile that runs at the same time. */
KN_INLINE void kn_save_8(uint8_t *out, uint8x8_t v, int32_t count) {
  if (__builtin_expect(count >= 8, 1)) {
    vst1_u8(out, v);
    return;
  }
  uint64_t bytes = vget_lane_u64(vreinterpret_u64_u8(v), 0);
  if (count & 4) {
    memcpy(out, &bytes, 4);
    bytes >>= 32, out += 4;
  }
  if (count & 2) {
    memcpy(out, &bytes, 2);
    bytes >>= 16, out += 2;
  }
  if (count & 1) *out = (uint8_t)bytes;
}

/*
 * The accumulators of one pixel, bias included, to element `at` of the output: 4 * `parts` channels of a panel, of which `count` exist.
 * `parts` is even; where it is constant the sums stay in registers.
 */
KN_INLINE void kn_store(int32_t parts, const kn_finish *f, const kn_panel *panel, const int32x4_t *sums, void *output, size_t at, int32_t count) {
  if (f->rule == KN_ACCUMULATORS) {
    int32_t all[KN_PANEL];
    KN_UNROLL for (int32_t j = 0; j < parts; j++) vst1q_s32(all + 4 * j, sums[j]);
    memcpy((int32_t *)output + at, all, (size_t)count * 4);
    return;
  }
  uint8_t *out = (uint8_t *)output + at;
  KN_UNROLL for (int32_t j = 0; j < parts; j += 2) {
    const int32_t left = count - 4 * j;
    if (left > 0) kn_save_8(out + 4 * j, kn_codes_8(f, panel, 4 * j, sums[j], sums[j + 1]), left);
  }
}

#endif
