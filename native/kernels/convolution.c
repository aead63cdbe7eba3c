/* Convolution, the reference: as it is defined, one output at a time. */
#include "kernels.h"
#include "requantize.h"

size_t kn_weight_row_bytes(int32_t weights, int32_t storage_bits) {
  return ((size_t)weights * (size_t)storage_bits + 7) / 8;
}

int32_t kn_weight(const kn_convolution *c, int32_t out_channel, int32_t index) {
  const int32_t row = c->kernel_height * c->kernel_width * (c->in_channels / c->groups);
  const uint8_t *bytes = c->weights + kn_weight_row_bytes(row, c->storage_bits) * (size_t)out_channel;
  const int32_t bits = c->storage_bits;
  const int32_t code = (bytes[index * bits / 8] >> (index * bits % 8)) & ((1 << bits) - 1);
  return code - ((code >> (bits - 1)) << bits);
}

static int reference_supports(const kn_convolution *c) {
  (void)c;
  return 1;
}

static size_t reference_bytes(const kn_convolution *c) {
  (void)c;
  return 0;
}

static void reference_pack(const kn_convolution *c, void *packed) {
  (void)c;
  (void)packed;
}

static int32_t reference_tiles(const kn_convolution *c) { return c->batch * c->out_height; }

static int32_t accumulate(const kn_convolution *c, const uint8_t *image, int32_t y, int32_t x, int32_t o) {
  const int32_t group_channels = c->in_channels / c->groups;
  const int32_t first_channel = o / (c->out_channels / c->groups) * group_channels;
  int32_t sum = c->bias[o];
  int32_t index = 0;
  for (int32_t ky = 0; ky < c->kernel_height; ky++) {
    const int32_t iy = y * c->stride_y + ky * c->dilation_y - c->pad_top;
    for (int32_t kx = 0; kx < c->kernel_width; kx++) {
      const int32_t ix = x * c->stride_x + kx * c->dilation_x - c->pad_left;
      const int inside = iy >= 0 && iy < c->in_height && ix >= 0 && ix < c->in_width;
      const uint8_t *pixel = inside ? image + ((size_t)iy * c->in_width + ix) * c->in_channels + first_channel : NULL;
      for (int32_t i = 0; i < group_channels; i++) {
        const int32_t code = inside ? pixel[i] : c->input_zero;
        sum = kn_wrapping_add(sum, code * kn_weight(c, o, index++));
      }
    }
  }
  return sum;
}

static void reference_run(const kn_convolution *c, const void *packed, const uint8_t *input, void *output, void *scratch, int32_t tile) {
  (void)packed;
  (void)scratch;
  const int32_t y = tile % c->out_height;
  const uint8_t *image = input + (size_t)(tile / c->out_height) * c->in_height * c->in_width * c->in_channels;
  const size_t row = (size_t)tile * c->out_width * c->out_channels;
  for (int32_t x = 0; x < c->out_width; x++) {
    for (int32_t o = 0; o < c->out_channels; o++) {
      const size_t at = row + (size_t)x * c->out_channels + o;
      const int32_t sum = accumulate(c, image, y, x, o);
      if (c->rule == KN_ACCUMULATORS) {
        ((int32_t *)output)[at] = sum;
        continue;
      }
      const int32_t scaled = c->rule == KN_WIDE ? kn_scale_wide(sum, c->multipliers[o], c->shifts[o])
                                                : kn_scale_narrow(sum, c->multipliers[o], c->shifts[o]);
      ((uint8_t *)output)[at] = (uint8_t)kn_clamp(kn_wrapping_add(c->output_zero, scaled), c->output_low, c->output_high);
    }
  }
}

const kn_convolution_kernel kn_convolution_reference = {
    .name = "reference",
    .features = 0,
    .supports = reference_supports,
    .packed_bytes = reference_bytes,
    .pack = reference_pack,
    .scratch_bytes = reference_bytes,
    .tiles = reference_tiles,
    .run = reference_run,
};

const kn_convolution_kernel *const kn_convolution_kernels[] = {
#define KN_CONVOLUTION(symbol) &symbol,
#include "kernels.def"
#undef KN_CONVOLUTION
};
const int32_t kn_convolution_kernel_count = (int32_t)(sizeof(kn_convolution_kernels) / sizeof(kn_convolution_kernels[0]));
