/* Output channels in panels: what requantizing them needs, as kernels read it. */
#ifndef KN_SHARED_PANEL_H
#define KN_SHARED_PANEL_H

#include "base.h"

/* What belongs to 16 output channels, as the kernels read it; channels beyond the last are zero. Part of packed weights. */
typedef struct {
  int32_t bias[KN_PANEL], multipliers[KN_PANEL], shifts[KN_PANEL];
  /* For accumulators that fit 16 bits: scale = 2^shift; multiplier = 2^16 high + low, or by the narrow rule the high part itself. */
  int16_t short_bias[KN_PANEL], short_scales[KN_PANEL], high_multipliers[KN_PANEL], low_multipliers[KN_PANEL];
  int32_t is_shifted; /* whether any shift is above 0 */
} __attribute__((aligned(KN_ALIGNMENT))) kn_panel;

static inline int64_t kn_high_multiplier(const kn_convolution *c, int32_t channel) {
  return ((int64_t)c->multipliers[channel] + (1 << 15)) >> 16;
}

/*
 * Whether an accumulator certainly fits 16 bits, also shifted, and its multiplier two of 16 bits, so that kn_scale_short serves the wide
 * rule too. By the narrow rule it fits in any case.
 */
static inline int kn_fits_short(const kn_convolution *c, int32_t channel) {
  if (c->rule != KN_WIDE) return c->rule == KN_NARROW;
  const int32_t row = c->kernel_height * c->kernel_width * (c->in_channels / c->groups), top = (1 << c->input_bits) - 1;
  int64_t low = c->bias[channel], high = low;
  for (int32_t i = 0; i < row; i++) {
    const int32_t weight = kn_weight(c, channel, i);
    *(weight < 0 ? &low : &high) += (int64_t)weight * top;
  }
  const int64_t scale = INT64_C(1) << c->shifts[channel];
  return high * scale <= INT16_MAX && low * scale >= INT16_MIN && kn_high_multiplier(c, channel) <= INT16_MAX;
}

static inline void kn_pack_panel(kn_panel *panel, const kn_convolution *c, int32_t first, int32_t count) {
  memset(panel, 0, sizeof *panel);
  for (int32_t i = 0; i < count; i++) {
    panel->bias[i] = c->bias[first + i];
    panel->short_bias[i] = (int16_t)c->bias[first + i];
    if (c->rule == KN_ACCUMULATORS) continue; /* nothing to read there */
    panel->multipliers[i] = c->multipliers[first + i];
    panel->low_multipliers[i] = (int16_t)(uint16_t)c->multipliers[first + i];
    panel->high_multipliers[i] = (int16_t)(c->rule == KN_NARROW ? c->multipliers[first + i] : kn_high_multiplier(c, first + i));
    panel->shifts[i] = c->shifts[first + i];
    panel->short_scales[i] = (int16_t)(uint16_t)(1u << c->shifts[first + i]);
    panel->is_shifted |= c->shifts[first + i] != 0;
  }
}

#endif
