/* From accumulators to the output: the rules of requantize.h, two channels of a pixel at a time. */
#ifndef KN_DSP_STORE_H
#define KN_DSP_STORE_H

#include "common.h"

/*
 * What all channels share. An operator is plain if its codes are wanted: one instruction scales an accumulator, rounds and adds the zero
 * point, by either rule, since (a m + 2^14) / 2^15 is (a (m 2^17) + 2^31) / 2^32. Accumulators are shifted before where their channels are;
 * where multipliers of the narrow rule have no room for 17 bits more, they get 16, and accumulators, which have room, the other.
 */
typedef struct {
  const kn_convolution *c;
  int32_t zero, multiplier_shift;
  int32_t is_plain, is_clamped;
  const uint8_t *shifts; /* of each channel's accumulators, with `more_shift` on top; NULL where nothing is shifted */
  int32_t more_shift;
  uint32_t low, above; /* four times the least code, and 255 less the greatest */
} kn_finish;

static inline kn_finish kn_finish_of(const kn_convolution *c) {
  kn_finish f = {c, c->output_zero, c->rule == KN_NARROW ? 17 : 0, c->rule != KN_ACCUMULATORS, 0, NULL, 0, 0, 0};
  if (c->rule == KN_ACCUMULATORS) return f;
  f.is_clamped = c->output_low > 0 || c->output_high < 255;
  f.low = (uint32_t)c->output_low * 0x01010101u;
  f.above = (uint32_t)(255 - c->output_high) * 0x01010101u;
  for (int32_t o = 0; o < c->out_channels; o++) {
    if (c->rule == KN_NARROW && c->multipliers[o] >= 1 << 14) f.more_shift = 1;
    if (c->shifts[o] + f.more_shift != 0) f.shifts = c->shifts;
  }
  f.multiplier_shift -= f.more_shift;
  return f;
}

/* Of a plain operator: the multiplier of a channel. */
KN_INLINE int32_t kn_multiplier(const kn_finish *f, int32_t channel) {
  return (int32_t)((uint32_t)f->c->multipliers[channel] << f->multiplier_shift);
}

/* Of a channel's accumulators. */
KN_INLINE int32_t kn_shift(const kn_finish *f, int32_t channel) { return f->shifts == NULL ? 0 : f->shifts[channel] + f->more_shift; }

/* Whether an operator is plain and nothing is shifted before. */
KN_INLINE int kn_is_unshifted(const kn_finish *f) { return f->is_plain && f->shifts == NULL; }

KN_INLINE int32_t kn_shifted(int32_t accumulator, int32_t shift) { return (int32_t)((uint32_t)accumulator << shift); }

/* Of a plain operator without shifts: the codes of two accumulators, in the low bytes. */
KN_INLINE uint32_t kn_two_codes(const kn_finish *f, int32_t a, int32_t b, int32_t first_multiplier, int32_t second_multiplier) {
  const uint32_t codes = kn_byte(kn_scale(a, first_multiplier, f->zero)) | kn_byte(kn_scale(b, second_multiplier, f->zero)) << 8;
  return f->is_clamped ? kn_clamped(codes, f->low, f->above) : codes;
}

KN_INLINE void kn_put_two(uint8_t *to, uint32_t codes) {
  const uint16_t half = (uint16_t)codes;
  memcpy(to, &half, sizeof half);
}

/* Any rule: one accumulator of a channel to element `at` of the output. */
KN_OUTLINE void kn_store_one(const kn_finish *f, int32_t channel, int32_t accumulator, void *output, size_t at) {
  const kn_convolution *c = f->c;
  if (c->rule == KN_ACCUMULATORS) {
    ((int32_t *)output)[at] = accumulator;
    return;
  }
  const int32_t scaled = c->rule == KN_WIDE ? kn_scale_wide(accumulator, c->multipliers[channel], c->shifts[channel])
                                            : kn_scale_narrow(accumulator, c->multipliers[channel], c->shifts[channel]);
  ((uint8_t *)output)[at] = (uint8_t)kn_clamp(kn_wrapping_add(c->output_zero, scaled), c->output_low, c->output_high);
}

/* Accumulators of channels `channel` and the next, of four pixels side by side: [channel][pixel]; those that exist are stored. */
KN_OUTLINE void kn_store_some(const kn_finish *f, int32_t channel, int32_t channels, const int32_t *sums, int32_t pixels, void *output,
                              size_t at) {
  for (int32_t p = 0; p < pixels; p++) {
    for (int32_t o = 0; o < channels; o++) {
      kn_store_one(f, channel + o, sums[4 * o + p], output, at + (size_t)p * f->c->out_channels + (size_t)o);
    }
  }
}

/* Of a plain operator: the codes of four channels of a pixel. */
KN_INLINE void kn_store_four(const kn_finish *f, int32_t channel, const int32_t *sums, uint8_t *to) {
  uint32_t codes = 0;
  int32_t shifted[4];
  if (f->shifts != NULL) {
    KN_UNROLL for (int32_t k = 0; k < 4; k++) shifted[k] = kn_shifted(sums[k], kn_shift(f, channel + k));
    sums = shifted;
  }
  KN_UNROLL for (int32_t k = 0; k < 4; k++) codes |= kn_byte(kn_scale(sums[k], kn_multiplier(f, channel + k), f->zero)) << 8 * k;
  codes = kn_clamped(codes, f->low, f->above);
  memcpy(to, &codes, sizeof codes);
}

#endif
