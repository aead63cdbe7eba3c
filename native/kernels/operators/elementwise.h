/* Sums, products and tables of codes. Included by the builds of operators, one for each instruction set. */
#include "../kernels.h"
#include "../requantize.h"

static void add(const kn_sum *s, const uint8_t *first, const uint8_t *second, uint8_t *output, int32_t begin, int32_t end) {
  const kn_sum k = *s;
  for (int32_t outer = begin; outer < end; outer++) {
    const uint8_t *a = first + (size_t)outer * k.inner;
    const uint8_t *b = k.second_is_repeated ? second : second + (size_t)outer * k.inner;
    uint8_t *out = output + (size_t)outer * k.inner;
    for (int32_t i = 0; i < k.inner; i++) {
      const int32_t sum = kn_wrapping_add(a[i] * k.first_multiplier + b[i] * k.second_multiplier, k.offset);
      out[i] = (uint8_t)kn_clamp(kn_wrapping_add(k.output_zero, sum >> k.shift), k.output_low, k.output_high);
    }
  }
}

static void multiply(const kn_product *p, const uint8_t *first, const uint8_t *second, uint8_t *output, int32_t begin, int32_t end) {
  const kn_product k = *p;
  for (int32_t outer = begin; outer < end; outer++) {
    const uint8_t *a = first + (size_t)outer * k.inner;
    const uint8_t *b = k.second_is_repeated ? second : second + (size_t)outer * k.inner;
    uint8_t *out = output + (size_t)outer * k.inner;
    for (int32_t i = 0; i < k.inner; i++) {
      const int32_t product = (a[i] - k.first_zero) * (b[i] - k.second_zero);
      const int32_t scaled = kn_scale_wide(product, k.multiplier, k.shift);
      out[i] = (uint8_t)kn_clamp(kn_wrapping_add(k.output_zero, scaled), k.output_low, k.output_high);
    }
  }
}

#ifndef KN_OWN_TABLE
static void table(const uint8_t *table, const uint8_t *input, uint8_t *output, int32_t count) {
  for (int32_t i = 0; i < count; i++) output[i] = table[input[i]];
}
#endif
