/*
 * depthwise.dsp: each channel by its own kernel, of any size, stride and dilation, four channels of two pixels at a time. Weights of up to 4
 * bits take 4.
 *
 * Kernels of 3x3, of stride 1 or 2 along a row, go through an image once for every four channels: three rows of their codes wait in 16
 * bits, as the products need them, and each row of the input replaces one. Any other kernel takes codes from where they lie.
 *
 * Scratch memory: three rows of four channels and their weights, 8 bytes a pixel; or the addresses of what lies under the kernel for two
 * pixels, and one pixel outside the input.
 */
#include "depthwise_loop.h"
#include "store.h"

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

static int is_3x3(const kn_convolution *c) {
  return c->kernel_height == 3 && c->kernel_width == 3 && c->dilation_y == 1 && c->dilation_x == 1 && (c->stride_x == 1 || c->stride_x == 2) &&
         c->pad_left <= 2 && c->pad_top <= 2;
}

/* Pixels of a widened row: all of the input and its borders that any pair of outputs needs. */
static int32_t row_pixels(const kn_convolution *c) {
  return kn_max(c->pad_left + c->in_width, kn_up(c->out_width, PIXELS) * PIXELS * c->stride_x + 3);
}
/* The rows of the kernel, and the first two again: three from anywhere are in the order of the rows in scratch memory. */
enum { WEIGHT_ROWS = 5 };

static size_t scratch_bytes(const kn_convolution *c) {
  if (is_3x3(c)) return kn_aligned((size_t)(3 * row_pixels(c) + 3 * WEIGHT_ROWS) * 8);
  return kn_aligned((size_t)taps_of(c) * sizeof(tap) + border_bytes(c));
}

static int32_t tiles(const kn_convolution *c) { return is_3x3(c) ? c->batch : c->batch * c->out_height; }

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

/* One row of output pixels, whatever the kernel. */
static void run_row(const kn_convolution *c, const void *packed, const uint8_t *input, void *output, void *scratch, int32_t tile) {
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

/* Four channels while they are convolved. */
typedef struct {
  const kn_convolution *c;
  kn_finish finish;
  depthwise_job job;
  uint32_t *rows, *weights;
  uint32_t border; /* two codes of what is outside */
} strip;

/* The weights of four channels in 16 bits each, all rows of the kernel and the first two again. */
static void widen_weights(const strip *s, const uint8_t *packed) {
  uint32_t *to = s->weights;
  for (int32_t i = 0; i < 3 * WEIGHT_ROWS; i++, to += 2) {
    const int32_t tap = i % 9;
    const uint32_t bytes = weight_width(s->c) == 8 ? kn_word(packed + 4 * tap)
                                                   : less_8(kn_word(packed + tap / 2 * 4) >> tap % 2 * 4 & 0x0F0F0F0Fu);
    to[0] = signed_even(bytes);
    to[1] = signed_odd(bytes);
  }
}

/* One row of the input, or of what is outside, into its place among three; borders beside it are there already. */
KN_OUTLINE void widen_row(const strip *s, const uint8_t *image, int32_t y) {
  const kn_convolution *c = s->c;
  const size_t step = (size_t)c->in_channels;
  uint32_t *to = s->rows + ((size_t)((y + 3) % 3) * (size_t)row_pixels(c) + (size_t)c->pad_left) * 2, *end = to + 2 * c->in_width;
  if (y < 0 || y >= c->in_height) {
    while (to != end) *to++ = s->border;
    return;
  }
  for (const uint8_t *from = image + (size_t)y * c->in_width * step; to != end; to += 2, from += step) {
    const uint32_t word = kn_word(from);
    to[0] = kn_even_bytes(word);
    to[1] = kn_odd_bytes(word);
  }
}

/* One row of output pixels of four channels, of which `count` exist; element `at` of the output is its first. */
KN_OUTLINE void row_of_strip(strip *s, int32_t channel, int32_t count, int32_t first_row, void *output, size_t at) {
  const kn_convolution *c = s->c;
  depthwise_job *job = &s->job;
  void (*const loop)(depthwise_job *) = c->stride_x == 1 ? depthwise_stride_1 : depthwise_stride_2;
  const size_t step = (size_t)c->out_channels;
  int32_t x = 0;
  job->codes = s->rows;
  /* The row that is in the first place belongs to this row of the kernel. */
  job->weights = s->weights + (3 - first_row) % 3 * 3 * 2;
  if (s->finish.is_plain && count == CHANNELS && c->out_width >= PIXELS) {
    job->output = (uint8_t *)output + at;
    job->step = step;
    job->pairs = c->out_width / PIXELS;
    loop(job);
    x = c->out_width / PIXELS * PIXELS;
  }
  for (; x < c->out_width; x += PIXELS) {
    uint8_t codes[PIXELS * CHANNELS];
    job->output = codes;
    job->step = CHANNELS;
    job->pairs = 1;
    loop(job);
    for (int32_t p = 0; p < PIXELS && x + p < c->out_width; p++) {
      for (int32_t k = 0; k < count; k++) {
        kn_store_one(&s->finish, channel + k, job->sums[p][k], output, at + (size_t)(x + p) * step + (size_t)k);
      }
    }
  }
}

/* One image by a kernel of 3x3. */
static void run_image(const kn_convolution *c, const void *packed, const uint8_t *input, void *output, void *scratch, int32_t tile) {
  const size_t in_row = (size_t)c->in_width * c->in_channels, out_row = (size_t)c->out_width * c->out_channels;
  const uint8_t *image = input + (size_t)tile * c->in_height * in_row, *weights = packed;
  const size_t pixels = (size_t)row_pixels(c);
  strip s = {.c = c, .finish = kn_finish_of(c), .rows = scratch, .border = (uint32_t)c->input_zero * 0x00010001u};
  s.weights = s.rows + 3 * pixels * 2;
  s.job = (depthwise_job){.row_bytes = pixels * 8 - 24, .zero = s.finish.zero, .low = s.finish.low, .above = s.finish.above,
                          .is_shifted = s.finish.shifts != NULL};
  for (size_t i = 0; i < 3 * pixels * 2; i++) s.rows[i] = s.border;
  for (int32_t channel = 0; channel < c->out_channels; channel += CHANNELS, weights += words_of(c) * 4) {
    const int32_t count = kn_min(CHANNELS, c->out_channels - channel);
    for (int32_t k = 0; k < CHANNELS; k++) {
      s.job.bias[k] = k < count ? c->bias[channel + k] : 0;
      s.job.multipliers[k] = k < count && s.finish.is_plain ? kn_multiplier(&s.finish, channel + k) : 0;
      s.job.shifts[k] = k < count ? kn_shift(&s.finish, channel + k) : 0;
    }
    widen_weights(&s, weights);
    for (int32_t y = 0, next = -c->pad_top; y < c->out_height; y++) {
      const int32_t top = y * c->stride_y - c->pad_top;
      for (next = kn_max(next, top); next < top + 3; next++) widen_row(&s, image + channel, next);
      row_of_strip(&s, channel, count, (top + 3) % 3, output, ((size_t)tile * c->out_height + (size_t)y) * out_row + (size_t)channel);
    }
  }
}

static void run(const kn_convolution *c, const void *packed, const uint8_t *input, void *output, void *scratch, int32_t tile) {
  (is_3x3(c) ? run_image : run_row)(c, packed, input, output, scratch, tile);
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
    .layout = 1,
};
