/*
 * depthwise.dsp: each channel by its own kernel, of any size, stride and dilation: four channels of two pixels side by side at a time, by
 * SMLABB and SMLATT, which multiply halves of registers; bytes become halves four at a time. Weights of up to 4 bits take 4.
 *
 * Scratch memory: the addresses of what lies under the kernel for two pixels; one pixel outside the input.
 */
#include "store.h"

/* Pixels and channels at a time. */
enum { PIXELS = 2, CHANNELS = 4 };

static int32_t taps_of(const kn_convolution *c) { return c->kernel_height * c->kernel_width; }
static int32_t weight_width(const kn_convolution *c) { return c->weight_bits <= 4 ? 4 : 8; }
/* Words of weights of four channels. */
static size_t words_of(const kn_convolution *c) { return (size_t)(weight_width(c) == 8 ? taps_of(c) : kn_up(taps_of(c), 2)); }

static int supports(const kn_convolution *c) {
  return c->groups > 1 && c->groups == c->in_channels && c->groups == c->out_channels && taps_of(c) <= 1024;
}

static size_t packed_bytes(const kn_convolution *c) { return (size_t)kn_up(c->out_channels, CHANNELS) * words_of(c) * 4; }

/* A word has a tap's weights of four channels; with 4 bits, those of two taps, 8 added to each, the first in low halves of bytes. */
static void pack(const kn_convolution *c, void *packed) {
  memset(packed, 0, packed_bytes(c));
  for (int32_t o = 0; o < c->out_channels; o++) {
    uint8_t *to = (uint8_t *)packed + (size_t)(o / CHANNELS) * words_of(c) * 4 + o % CHANNELS;
    for (int32_t i = 0; i < taps_of(c); i++) {
      if (weight_width(c) == 8) to[4 * i] = (uint8_t)kn_weight(c, o, i);
      else to[i / 2 * 4] |= (uint8_t)((kn_weight(c, o, i) + 8) << i % 2 * 4);
    }
  }
}

typedef struct {
  const uint8_t *at[PIXELS];
} tap;

static size_t border_bytes(const kn_convolution *c) { return (size_t)c->in_channels + 4; }
static size_t scratch_bytes(const kn_convolution *c) { return kn_aligned((size_t)taps_of(c) * sizeof(tap) + border_bytes(c)); }

static int32_t tiles(const kn_convolution *c) { return c->batch * c->out_height; }

/* Bytes 0 and 2, or 1 and 3, as signed numbers of 16 bits. */
KN_INLINE uint32_t signed_even(uint32_t word) {
#if KN_DSP_CODE
  uint32_t halves;
  __asm__("sxtb16 %0, %1" : "=r"(halves) : "r"(word));
  return halves;
#else
  return (uint16_t)(int8_t)word | (uint32_t)(uint16_t)(int8_t)(word >> 16) << 16;
#endif
}
KN_INLINE uint32_t signed_odd(uint32_t word) {
#if KN_DSP_CODE
  uint32_t halves;
  __asm__("sxtb16 %0, %1, ror #8" : "=r"(halves) : "r"(word));
  return halves;
#else
  return signed_even(word >> 8);
#endif
}

/* Four bytes, each less 8. */
KN_INLINE uint32_t less_8(uint32_t word) {
#if KN_DSP_CODE
  uint32_t bytes;
  __asm__("ssub8 %0, %1, %2" : "=r"(bytes) : "r"(word), "r"(0x08080808));
  return bytes;
#else
  return ((word | 0x80808080u) - 0x08080808u) ^ 0x80808080u;
#endif
}

/* Low and high halves multiplied. */
KN_INLINE int32_t add_low(int32_t sum, uint32_t a, uint32_t b) {
#if KN_DSP_CODE
  __asm__("smlabb %0, %1, %2, %0" : "+r"(sum) : "r"(a), "r"(b));
  return sum;
#else
  return kn_wrapping_add(sum, (int16_t)a * (int16_t)b);
#endif
}
KN_INLINE int32_t add_high(int32_t sum, uint32_t a, uint32_t b) {
#if KN_DSP_CODE
  __asm__("smlatt %0, %1, %2, %0" : "+r"(sum) : "r"(a), "r"(b));
  return sum;
#else
  return kn_wrapping_add(sum, (int16_t)(a >> 16) * (int16_t)(b >> 16));
#endif
}

KN_INLINE void add_tap(const tap *t, size_t channel, uint32_t weights, int32_t sums[PIXELS][CHANNELS]) {
  const uint32_t a = kn_word(t->at[0] + channel), b = kn_word(t->at[1] + channel);
  const uint32_t even = signed_even(weights), odd = signed_odd(weights);
  const uint32_t a_even = kn_even_bytes(a), a_odd = kn_odd_bytes(a), b_even = kn_even_bytes(b), b_odd = kn_odd_bytes(b);
  sums[0][0] = add_low(sums[0][0], a_even, even), sums[0][2] = add_high(sums[0][2], a_even, even);
  sums[0][1] = add_low(sums[0][1], a_odd, odd), sums[0][3] = add_high(sums[0][3], a_odd, odd);
  sums[1][0] = add_low(sums[1][0], b_even, even), sums[1][2] = add_high(sums[1][2], b_even, even);
  sums[1][1] = add_low(sums[1][1], b_odd, odd), sums[1][3] = add_high(sums[1][3], b_odd, odd);
}

/* Where two pixels' codes lie; the second is the first again where there is none. */
static void find_taps(const kn_convolution *c, const uint8_t *image, int32_t y, const int32_t *x, const uint8_t *border, tap *taps) {
  for (int32_t ky = 0; ky < c->kernel_height; ky++, y += c->dilation_y) {
    const int32_t row_inside = y >= 0 && y < c->in_height;
    const uint8_t *row = image + (row_inside ? (size_t)y * c->in_width * c->in_channels : 0);
    for (int32_t kx = 0; kx < c->kernel_width; kx++, taps++) {
      for (int32_t p = 0; p < PIXELS; p++) {
        const int32_t at = x[p] + kx * c->dilation_x;
        taps->at[p] = row_inside && (uint32_t)at < (uint32_t)c->in_width ? row + (size_t)at * c->in_channels : border;
      }
    }
  }
}

/* All channels of one pixel or two; element `at` of the output is the first's. */
KN_INLINE void all_channels(int32_t width, const kn_finish *finish, const void *packed, const tap *taps, int32_t pixels, void *output, size_t at) {
  const kn_finish f = *finish; /* no byte stored to the output can change it */
  const kn_convolution *c = f.c;
  const uint8_t *weights = packed;
  const tap *end = taps + taps_of(c);
  for (int32_t channel = 0; channel < c->out_channels; channel += CHANNELS) {
    const int32_t count = kn_min(CHANNELS, c->out_channels - channel);
    int32_t sums[PIXELS][CHANNELS];
    KN_UNROLL for (int32_t k = 0; k < CHANNELS; k++) sums[0][k] = sums[1][k] = k < count ? c->bias[channel + k] : 0;
    const tap *t = taps;
    if (width == 8) {
      for (; t < end; t++, weights += 4) add_tap(t, (size_t)channel, kn_word(weights), sums);
    } else {
      for (; t + 1 < end; t += 2, weights += 4) {
        const uint32_t two = kn_word(weights);
        add_tap(t, (size_t)channel, less_8(two & 0x0F0F0F0Fu), sums);
        add_tap(t + 1, (size_t)channel, less_8(two >> 4 & 0x0F0F0F0Fu), sums);
      }
      if (t < end) add_tap(t, (size_t)channel, less_8(kn_word(weights) & 0x0F0F0F0Fu), sums), weights += 4;
    }
    for (int32_t p = 0; p < pixels; p++) {
      const size_t to = at + (size_t)p * c->out_channels + (size_t)channel;
      if (f.is_plain && count == CHANNELS) {
        kn_store_four(&f, channel, sums[p], (uint8_t *)output + to);
      } else {
        for (int32_t k = 0; k < count; k++) kn_store_one(&f, channel + k, sums[p][k], output, to + (size_t)k);
      }
    }
  }
}

KN_OUTLINE void all_channels_8(const kn_finish *f, const void *packed, const tap *taps, int32_t pixels, void *output, size_t at) {
  all_channels(8, f, packed, taps, pixels, output, at);
}
KN_OUTLINE void all_channels_4(const kn_finish *f, const void *packed, const tap *taps, int32_t pixels, void *output, size_t at) {
  all_channels(4, f, packed, taps, pixels, output, at);
}

/* One row of output pixels. */
static void run(const kn_convolution *c, const void *packed, const uint8_t *input, void *output, void *scratch, int32_t tile) {
  const kn_finish finish = kn_finish_of(c);
  const uint8_t *image = input + (size_t)(tile / c->out_height) * c->in_height * c->in_width * c->in_channels;
  const int32_t y = tile % c->out_height * c->stride_y - c->pad_top;
  tap *taps = scratch;
  uint8_t *border = (uint8_t *)(taps + taps_of(c));
  memset(border, c->input_zero, border_bytes(c));
  for (int32_t x = 0; x < c->out_width; x += PIXELS) {
    const int32_t pixels = kn_min(PIXELS, c->out_width - x), first = x * c->stride_x - c->pad_left;
    const int32_t from[PIXELS] = {first, pixels == 2 ? first + c->stride_x : first};
    const size_t at = ((size_t)tile * c->out_width + (size_t)x) * c->out_channels;
    find_taps(c, image, y, from, border, taps);
    (weight_width(c) == 8 ? all_channels_8 : all_channels_4)(&finish, packed, taps, pixels, output, at);
  }
}

const kn_convolution_kernel kn_convolution_depthwise_dsp = {
    .name = "depthwise.dsp",
    .features = KN_DSP,
    .supports = supports,
    .packed_bytes = packed_bytes,
    .pack = pack,
    .scratch_bytes = scratch_bytes,
    .tiles = tiles,
    .run = run,
};
