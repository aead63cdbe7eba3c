/*
 * depthwise.neon: one filter for each channel, 16 channels and up to 4 pixels of a row at a time. Products of 8 bits are summed in 16 bits
 * by SMLAL and SMLAL2, 16 products in two instructions, for as long as no channel's sum can leave 16 bits, which is certified from the
 * weights: for the whole kernel where weights are small, for two positions of it at least where no two weights of -128 meet. Then they
 * are added to sums of 32 bits.
 */
#if defined(__aarch64__) && !defined(KN_PORTABLE)
#include "common.h"
#include "store.h"

enum { PIXELS_AT_ONCE = 4, PARTS = 4 };

/* What belongs to 16 channels; behind it lie their weights, [position of the kernel][16], and then the lengths of runs, in 16 bits. */
typedef struct {
  kn_panel panel;
  int32_t run_count;
} __attribute__((aligned(KN_ALIGNMENT))) block;

/* Where the codes of one position of the kernel lie, for some pixel, and how far it is to the next pixel's: 0 outside the input. */
typedef struct {
  const uint8_t *at;
  size_t step;
} tap;

static int32_t taps_of(const kn_convolution *c) { return c->kernel_height * c->kernel_width; }
static int32_t blocks(const kn_convolution *c) { return kn_up(c->out_channels, KN_PANEL); }
static size_t runs_at(const kn_convolution *c) { return sizeof(block) + (size_t)taps_of(c) * KN_PANEL; }
static size_t block_bytes(const kn_convolution *c) { return kn_aligned(runs_at(c) + (size_t)taps_of(c) * sizeof(uint16_t)); }

static int supports(const kn_convolution *c) {
  return c->groups > 1 && c->groups == c->in_channels && c->groups == c->out_channels;
}

static size_t packed_bytes(const kn_convolution *c) { return (size_t)blocks(c) * block_bytes(c); }

/* Worst sums of a run, for codes as they are multiplied: from -128 to 127, or from 0 to `top`. */
typedef struct {
  int32_t low, high;
} reach;

static reach extended(reach r, int32_t weight, const kn_convolution *c) {
  const int32_t least = kn_is_flipped(c) ? -128 : 0, most = kn_is_flipped(c) ? 127 : (1 << c->input_bits) - 1;
  r.low += kn_min(weight * least, weight * most);
  r.high += kn_max(weight * least, weight * most);
  return r;
}

/* Lengths of runs whose sums fit 16 bits in all of `count` channels; returns how many there are. */
static int32_t find_runs(const kn_convolution *c, const int8_t *weights, int32_t count, uint16_t *runs) {
  reach sums[KN_PANEL] = {{0, 0}};
  int32_t found = 0, length = 0;
  for (int32_t k = 0; k < taps_of(c); k++, weights += KN_PANEL) {
    int fits = length < UINT16_MAX;
    for (int32_t i = 0; i < count; i++) {
      const reach r = extended(sums[i], weights[i], c);
      fits &= r.low >= INT16_MIN && r.high <= INT16_MAX;
    }
    if (!fits) {
      runs[found++] = (uint16_t)length;
      length = 0;
      memset(sums, 0, sizeof sums);
    }
    length++;
    for (int32_t i = 0; i < count; i++) sums[i] = extended(sums[i], weights[i], c);
  }
  runs[found++] = (uint16_t)length;
  return found;
}

static void pack(const kn_convolution *c, void *packed) {
  memset(packed, 0, packed_bytes(c));
  for (int32_t n = 0; n < blocks(c); n++) {
    uint8_t *at = (uint8_t *)packed + (size_t)n * block_bytes(c);
    block *b = (block *)(void *)at;
    int8_t *weights = (int8_t *)(b + 1);
    const int32_t first = n * KN_PANEL, count = kn_min(KN_PANEL, c->out_channels - first);
    kn_pack_panel(&b->panel, c, first, count);
    for (int32_t i = 0; i < count; i++) {
      b->panel.bias[i] = (int32_t)((uint32_t)b->panel.bias[i] + (uint32_t)kn_flipped_part(c, first + i));
      for (int32_t k = 0; k < taps_of(c); k++) weights[k * KN_PANEL + i] = (int8_t)kn_weight(c, first + i, k);
    }
    b->run_count = find_runs(c, weights, count, (uint16_t *)(void *)(at + runs_at(c)));
  }
}

static size_t scratch_bytes(const kn_convolution *c) { return (size_t)taps_of(c) * sizeof(tap); }

static int32_t tiles(const kn_convolution *c) { return c->batch * c->out_height; }

/* Some channels of one row of output pixels. */
typedef struct {
  const kn_convolution *c;
  const block *from;
  const int8_t *weights;
  const uint16_t *runs;
  int32_t count; /* channels that exist */
  const uint8_t *image;
  int32_t y; /* of the kernel's first row */
  void *output;
  size_t at; /* element of the row's first pixel */
  kn_finish finish;
  uint8x16_t flip;
  uint8_t border[16];
} strip;

/* Sums in 16 bits: channels 0 to 7 and 8 to 15. */
typedef struct {
  int16x8_t low, high;
} pair;

KN_INLINE pair multiply(int8x16_t codes, int8x16_t weights) {
  const pair p = {vmull_s8(vget_low_s8(codes), vget_low_s8(weights)), vmull_high_s8(codes, weights)};
  return p;
}

KN_INLINE pair multiply_add(pair sum, int8x16_t codes, int8x16_t weights) {
  sum.low = vmlal_s8(sum.low, vget_low_s8(codes), vget_low_s8(weights));
  sum.high = vmlal_high_s8(sum.high, codes, weights);
  return sum;
}

/* `pixels` output pixels from x on, side by side, the `further`th and following of those whose codes lie at `taps`. */
KN_INLINE void pixels_of(int32_t pixels, const strip *s, const tap *taps, int32_t further, int32_t x) {
  const kn_panel *panel = &s->from->panel;
  const int8_t *w = s->weights;
  int32x4_t sums[PIXELS_AT_ONCE * PARTS];
  KN_UNROLL for (int32_t j = 0; j < PARTS; j++) {
    const int32x4_t bias = vld1q_s32(panel->bias + 4 * j);
    KN_UNROLL for (int32_t i = 0; i < pixels; i++) sums[PARTS * i + j] = bias;
  }
  for (int32_t n = 0; n < s->from->run_count; n++) {
    const tap *end = taps + s->runs[n];
    pair part[PIXELS_AT_ONCE];
    const uint8_t *at = taps->at + (size_t)further * taps->step;
    int8x16_t weights = vld1q_s8(w);
    KN_UNROLL for (int32_t i = 0; i < pixels; i++) part[i] = multiply(kn_signed(vld1q_u8(at + (size_t)i * taps->step), s->flip), weights);
    for (taps++, w += KN_PANEL; taps < end; taps++, w += KN_PANEL) {
      at = taps->at + (size_t)further * taps->step;
      weights = vld1q_s8(w);
      KN_UNROLL for (int32_t i = 0; i < pixels; i++) {
        part[i] = multiply_add(part[i], kn_signed(vld1q_u8(at + (size_t)i * taps->step), s->flip), weights);
      }
    }
    KN_UNROLL for (int32_t i = 0; i < pixels; i++) {
      sums[PARTS * i] = vaddw_s16(sums[PARTS * i], vget_low_s16(part[i].low));
      sums[PARTS * i + 1] = vaddw_high_s16(sums[PARTS * i + 1], part[i].low);
      sums[PARTS * i + 2] = vaddw_s16(sums[PARTS * i + 2], vget_low_s16(part[i].high));
      sums[PARTS * i + 3] = vaddw_high_s16(sums[PARTS * i + 3], part[i].high);
    }
  }
  const size_t step = (size_t)s->c->out_channels;
  KN_UNROLL for (int32_t i = 0; i < pixels; i++) {
    kn_store(PARTS, &s->finish, panel, sums + PARTS * i, s->output, s->at + (size_t)(x + i) * step, s->count);
  }
}

/* Where the codes of output pixel x lie; all columns are inside the input where `step` is what the next pixel is apart. */
KN_INLINE void find_taps(const strip *s, int32_t x, size_t step, tap *taps) {
  const kn_convolution *c = s->c;
  for (int32_t ky = 0; ky < c->kernel_height; ky++) {
    const int32_t y = s->y + ky * c->dilation_y;
    for (int32_t kx = 0; kx < c->kernel_width; kx++, taps++) {
      const int32_t column = x * c->stride_x - c->pad_left + kx * c->dilation_x;
      const int inside = y >= 0 && y < c->in_height && column >= 0 && column < c->in_width;
      taps->at = inside ? s->image + ((size_t)y * c->in_width + (size_t)column) * c->in_channels : s->border;
      taps->step = inside ? step : 0;
    }
  }
}

KN_OUTLINE void row_of_pixels(const strip *from, tap *taps) {
  const strip s = *from; /* a copy that no byte stored to the output can change, which a compiler must expect of others */
  const kn_convolution *c = s.c;
  /* Pixels from `inside` to before `end` have all their columns inside. */
  const int32_t last = c->in_width - 1 + c->pad_left - (c->kernel_width - 1) * c->dilation_x;
  const int32_t inside = kn_min(c->out_width, kn_up(c->pad_left, c->stride_x));
  const int32_t end = last < 0 ? inside : kn_max(inside, kn_min(c->out_width, last / c->stride_x + 1));
  int32_t x = 0;
  for (; x < inside; x++) {
    find_taps(&s, x, 0, taps);
    pixels_of(1, &s, taps, 0, x);
  }
  if (x < end) find_taps(&s, x, (size_t)c->stride_x * c->in_channels, taps);
  for (; x + PIXELS_AT_ONCE <= end; x += PIXELS_AT_ONCE) pixels_of(PIXELS_AT_ONCE, &s, taps, x - inside, x);
  for (; x < end; x++) pixels_of(1, &s, taps, x - inside, x);
  for (; x < c->out_width; x++) {
    find_taps(&s, x, 0, taps);
    pixels_of(1, &s, taps, 0, x);
  }
}

/* One row of output pixels. */
KN_CODE static void run(const kn_convolution *c, const void *packed, const uint8_t *input, void *output, void *scratch, int32_t tile) {
  const uint8_t *image = input + (size_t)(tile / c->out_height) * c->in_height * c->in_width * c->in_channels;
  strip s = {.c = c, .output = output, .finish = kn_finish_of(c), .flip = kn_flip_of(c)};
  s.y = tile % c->out_height * c->stride_y - c->pad_top;
  memset(s.border, c->input_zero, sizeof s.border);
  for (int32_t n = 0; n < blocks(c); n++) {
    const uint8_t *at = (const uint8_t *)packed + (size_t)n * block_bytes(c);
    const int32_t first = n * KN_PANEL;
    s.from = (const block *)(const void *)at;
    s.weights = (const int8_t *)(s.from + 1);
    s.runs = (const uint16_t *)(const void *)(at + runs_at(c));
    s.count = kn_min(KN_PANEL, c->out_channels - first);
    s.image = image + first;
    s.at = (size_t)tile * c->out_width * c->out_channels + (size_t)first;
    row_of_pixels(&s, scratch);
  }
}

const kn_convolution_kernel kn_convolution_depthwise_neon = {
    .name = "depthwise.neon",
    .features = KN_NEON,
    .supports = supports,
    .packed_bytes = packed_bytes,
    .pack = pack,
    .scratch_bytes = scratch_bytes,
    .tiles = tiles,
    .run = run,
};
#endif
