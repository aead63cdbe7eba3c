/* Sums, products and tables of codes. */
#include "kernels.h"
#include "requantize.h"

void kn_add(const kn_sum *s, const uint8_t *first, const uint8_t *second, uint8_t *output, int32_t begin, int32_t end) {
  for (int32_t outer = begin; outer < end; outer++) {
    const uint8_t *a = first + (size_t)outer * s->inner;
    const uint8_t *b = s->second_is_repeated ? second : second + (size_t)outer * s->inner;
    uint8_t *out = output + (size_t)outer * s->inner;
    for (int32_t i = 0; i < s->inner; i++) {
      const int32_t sum = kn_wrapping_add(a[i] * s->first_multiplier + b[i] * s->second_multiplier, s->offset);
      out[i] = (uint8_t)kn_clamp(kn_wrapping_add(s->output_zero, sum >> s->shift), s->output_low, s->output_high);
    }
  }
}

void kn_multiply(const kn_product *p, const uint8_t *first, const uint8_t *second, uint8_t *output, int32_t begin, int32_t end) {
  for (int32_t outer = begin; outer < end; outer++) {
    const uint8_t *a = first + (size_t)outer * p->inner;
    const uint8_t *b = p->second_is_repeated ? second : second + (size_t)outer * p->inner;
    uint8_t *out = output + (size_t)outer * p->inner;
    for (int32_t i = 0; i < p->inner; i++) {
      const int32_t product = (a[i] - p->first_zero) * (b[i] - p->second_zero);
      const int32_t scaled = kn_scale_wide(product, p->multiplier, p->shift);
      out[i] = (uint8_t)kn_clamp(kn_wrapping_add(p->output_zero, scaled), p->output_low, p->output_high);
    }
  }
}

void kn_table(const uint8_t *table, const uint8_t *input, uint8_t *output, int32_t count) {
  for (int32_t i = 0; i < count; i++) output[i] = table[input[i]];
}
