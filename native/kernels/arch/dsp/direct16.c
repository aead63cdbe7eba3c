/*
 * direct16.dsp: four pixels by two output channels, 16-bit products of two at a time, for weights of any width. Those of up to 4 bits
 * take 4 bits of flash, others 8. The sum of a pixel's codes, which offset weights need, is made while codes are laid out.
 *
 * Scratch memory: the codes under four pixels, in 16 bits each; where taps lie side by side, those of six columns.
 */
#include "direct16_loops.h"
#include "pixels.h"
#include "store.h"

static int32_t weight_width(const kn_convolution *c) { return c->weight_bits <= 4 ? 4 : 8; }

/* Whether taps lie side by side in codes that need no collecting. */
static int is_sliding(const kn_convolution *c) {
  return c->kernel_width == TAPS && c->stride_x == 1 && c->dilation_x == 1 && kn_group_in(c) % 4 == 0;
}

static int is_collected(const kn_convolution *c) { return kn_group_in(c) % 4 != 0; }

/* Codes of one pixel, rounded up to whole words. */
static int32_t row_of(const kn_convolution *c) { return kn_up(kn_row_weights(c), 4) * 4; }
static int32_t pairs_of(const kn_convolution *c) { return kn_up(kn_group_out(c), 2); }
/* Words of packed weights of two output channels. */
static size_t pair_words(const kn_convolution *c) { return (size_t)row_of(c) * (size_t)weight_width(c) / 16; }

/* With 4 bits, 16 times an accumulator has to fit 32. */
static int supports(const kn_convolution *c) {
  const int64_t most = INT64_C(1) << 27, products = (int64_t)kn_row_weights(c) * 255 * 8;
  for (int32_t o = 0; weight_width(c) == 4 && o < c->out_channels; o++) {
    if (products + c->bias[o] >= most || products - c->bias[o] >= most) return 0;
  }
  return 1;
}

static size_t packed_bytes(const kn_convolution *c) { return (size_t)c->groups * pairs_of(c) * pair_words(c) * 4; }

/* Where the code of a weight is, as loops go: its pair, and which of the pair it is. Bytes 0 and 2 of a word come first, then 1 and 3. */
static int32_t pair_of(int32_t index, int32_t *half) {
  *half = index / 2 % 2;
  return index / 4 * 2 + index % 2;
}

/* Puts the weights of two channels for one code in their place; `tap` is 0 and `taps` 1 where taps are not side by side. */
static void pack_code(const kn_convolution *c, uint8_t *to, int32_t index, int32_t tap, int32_t taps, int32_t first, int32_t second) {
  int32_t half;
  const int32_t pair = pair_of(index, &half);
  if (weight_width(c) == 8) {
    uint8_t *word = to + 4 * (pair * taps + tap);
    word[2 * half] = (uint8_t)(first + 128);
    word[2 * half + 1] = (uint8_t)second;
  } else {
    to[4 * (pair / 2 * taps + tap) + 2 * half + pair % 2] = (uint8_t)((first + 8) | (second + 8) << 4);
  }
}

static void pack(const kn_convolution *c, void *packed) {
  const int32_t group_in = kn_group_in(c), group_out = kn_group_out(c), row = kn_row_weights(c), taps = is_sliding(c) ? TAPS : 1;
  uint8_t *to = packed;
  for (int32_t g = 0; g < c->groups; g++) {
    for (int32_t n = 0; n < group_out; n += 2, to += pair_words(c) * 4) {
      const int32_t o = g * group_out + n;
      for (int32_t i = 0; i < row_of(c); i++) {
        const int32_t first = i < row ? kn_weight(c, o, i) : 0, second = i < row && n + 1 < group_out ? kn_weight(c, o + 1, i) : 0;
        const int32_t tap = i / group_in % taps;
        const int32_t index = taps == 1 ? i : i / group_in / taps * group_in + i % group_in;
        pack_code(c, to, index, tap, taps, first, second);
      }
    }
  }
}

/* Scratch: codes; one tap outside the input; where they are collected, four rows of bytes. */
static size_t codes_bytes(const kn_convolution *c) {
  return is_sliding(c) ? (size_t)c->kernel_height * kn_group_in(c) / 2 * COLUMNS * 4 : (size_t)row_of(c) / 2 * PIXELS * 4;
}
static size_t border_bytes(const kn_convolution *c) { return (size_t)kn_group_in(c) + 4; }

static size_t scratch_bytes(const kn_convolution *c) {
  const size_t rows = is_collected(c) ? PIXELS * (size_t)row_of(c) : 0;
  return kn_aligned(codes_bytes(c) + rows + border_bytes(c));
}

static int32_t tiles(const kn_convolution *c) {
  (void)c;
  return 1;
}

/* One convolution while it runs. */
typedef struct {
  const kn_convolution *c;
  kn_finish finish;
  direct16_job job;
  uint32_t *codes;
  uint8_t *rows, *border;
  void *output;
  void (*loop)(direct16_job *);
  int32_t width, group; /* bits of weights; which group it is */
  int32_t sums[PIXELS]; /* of each pixel's codes */
} work;

/* Lays out the codes of six columns from x on, [row][pair][column]. */
static void lay_out_columns(work *w, const uint8_t *image, int32_t y, int32_t x) {
  const kn_convolution *c = w->c;
  const int32_t channels = kn_group_in(c);
  uint32_t sums[COLUMNS];
  for (int32_t column = 0; column < COLUMNS; column++) {
    uint32_t sum = 0;
    uint32_t *to = w->codes + column;
    for (int32_t ky = 0; ky < c->kernel_height; ky++) {
      const uint8_t *from = kn_pixel_at(c, image, y + ky * c->dilation_y, x + column, w->border);
      const uint8_t *end = from + channels;
      do {
        const uint32_t word = kn_word(from);
        from += 4;
        to[0] = kn_even_bytes(word);
        to[COLUMNS] = kn_odd_bytes(word);
        to += 2 * COLUMNS;
        sum = kn_add_bytes(sum, word);
      } while (from != end);
    }
    sums[column] = sum;
  }
  for (int32_t p = 0; p < PIXELS; p++) w->sums[p] = (int32_t)(sums[p] + sums[p + 1] + sums[p + 2]);
}

/* Where codes of the next run go, and each pixel's sum so far. */
typedef struct {
  uint32_t *to;
  uint32_t sums[PIXELS];
} layout;

KN_OUTLINE void take_run(layout *l, const uint8_t *const *sources, int32_t count) {
  const uint8_t *a = sources[0], *b = sources[1], *c = sources[2], *d = sources[3], *end = a + count;
  uint32_t *to = l->to, s0 = l->sums[0], s1 = l->sums[1], s2 = l->sums[2], s3 = l->sums[3];
  do {
    const uint32_t wa = kn_word(a), wb = kn_word(b), wc = kn_word(c), wd = kn_word(d);
    a += 4, b += 4, c += 4, d += 4;
    to[0] = kn_even_bytes(wa), to[1] = kn_even_bytes(wb), to[2] = kn_even_bytes(wc), to[3] = kn_even_bytes(wd);
    to[4] = kn_odd_bytes(wa), to[5] = kn_odd_bytes(wb), to[6] = kn_odd_bytes(wc), to[7] = kn_odd_bytes(wd);
    to += 2 * PIXELS;
    s0 = kn_add_bytes(s0, wa), s1 = kn_add_bytes(s1, wb), s2 = kn_add_bytes(s2, wc), s3 = kn_add_bytes(s3, wd);
  } while (a != end);
  l->to = to, l->sums[0] = s0, l->sums[1] = s1, l->sums[2] = s2, l->sums[3] = s3;
}

/* Lays out the codes under four output pixels, [pair][pixel]. */
static void lay_out_pixels(work *w, const kn_place *places) {
  const kn_convolution *c = w->c;
  const int32_t row = row_of(c), weights = kn_row_weights(c);
  layout l = {w->codes, {0, 0, 0, 0}};
  if (is_collected(c)) {
    const uint8_t *sources[PIXELS];
    for (int32_t p = 0; p < PIXELS; p++) {
      uint8_t *to = w->rows + (size_t)p * (size_t)row;
      kn_collect(c, &places[p], w->border, to);
      memset(to + weights, 0, (size_t)(row - weights));
      sources[p] = to;
    }
    take_run(&l, sources, row);
  } else {
    KN_FOR_RUNS(c, places, PIXELS, w->border, take_run, &l);
  }
  for (int32_t p = 0; p < PIXELS; p++) w->sums[p] = (int32_t)l.sums[p];
}

/* The same of pixels that are read as they lie; of those, the last is repeated beyond `pixels`. */
static void lay_out_in_place(work *w, const uint8_t *from, int32_t pixels) {
  const uint8_t *sources[PIXELS];
  layout l = {w->codes, {0, 0, 0, 0}};
  for (int32_t i = 0; i < PIXELS; i++) sources[i] = from + (size_t)kn_min(i, pixels - 1) * w->c->in_channels;
  take_run(&l, sources, w->c->in_channels);
  for (int32_t p = 0; p < PIXELS; p++) w->sums[p] = (int32_t)l.sums[p];
}

/* What was added to the weights is taken from the sums, as the loops keep them. */
static void set_offsets(work *w) {
  for (int32_t p = 0; p < PIXELS; p++) {
    const uint32_t sum = (uint32_t)w->sums[p];
    w->job.offsets[0][p] = w->width == 8 ? sum * -128u : sum * (-8u * 17);
    w->job.offsets[1][p] = w->width == 8 ? 0 : sum * -8u;
  }
}

/* The group's output channels of up to four pixels; the first of these is the output's pixel `pixel`. */
static void all_channels(work *w, const uint32_t *weights, int32_t pixel, int32_t pixels) {
  const kn_convolution *c = w->c;
  const int32_t count = kn_group_out(c), first = w->group * count;
  direct16_job *job = &w->job;
  int32_t n = 0;
  set_offsets(w);
  job->weights = weights;
  job->bias = c->bias + first;
  if (w->finish.is_plain && pixels == PIXELS && count >= 2) {
    job->only_sums = 0;
    job->multipliers = c->multipliers + first;
    job->shifts = w->finish.shifts == NULL ? NULL : w->finish.shifts + first;
    job->output = (uint8_t *)w->output + (size_t)pixel * c->out_channels + first;
    job->pairs = count / 2;
    w->loop(job);
    n = count / 2 * 2;
  }
  for (job->only_sums = 1; n < count; n += 2) {
    const int32_t channels = kn_min(2, count - n), last[2] = {c->bias[first + n], 0};
    if (channels == 1) job->bias = last;
    w->loop(job);
    kn_store_some(&w->finish, first + n, channels, &job->sums[0][0], pixels, w->output, (size_t)pixel * c->out_channels + (size_t)(first + n));
  }
}

static void set_up(work *w, const kn_convolution *c, void *scratch) {
  const int32_t sliding = is_sliding(c), pairs = row_of(c) / 2;
  w->finish = kn_finish_of(c);
  w->width = weight_width(c);
  w->loop = sliding ? w->width == 8 ? direct16_slide_8 : direct16_slide_4 : w->width == 8 ? direct16_plain_8 : direct16_plain_4;
  w->codes = scratch;
  w->border = (uint8_t *)scratch + codes_bytes(c);
  w->rows = w->border + border_bytes(c);
  memset(w->border, c->input_zero, border_bytes(c));
  w->job = (direct16_job){.codes = w->codes,
                          .codes_end = w->codes + codes_bytes(c) / sizeof(uint32_t),
                          .step = (size_t)c->out_channels,
                          .zero = w->finish.zero,
                          .multiplier_shift = w->finish.multiplier_shift,
                          .low = w->finish.low,
                          .above = w->finish.above,
                          .more_shift = w->finish.more_shift,
                          .entry = direct16_entry(pairs, w->width)};
}

/* Four pixels at a time: those of a row where taps lie side by side, else of all. The last ones are repeated to make up four. */
static void run(const kn_convolution *c, const void *packed, const uint8_t *input, void *output, void *scratch, int32_t tile) {
  const int32_t all = kn_pixels_out(c), sliding = is_sliding(c), pointwise = kn_is_pointwise(c);
  const uint32_t *weights = packed;
  work w = {.c = c, .output = output};
  (void)tile;
  set_up(&w, c, scratch);
  for (; w.group < c->groups; w.group++, weights += pairs_of(c) * pair_words(c)) {
    for (int32_t pixel = 0, count; pixel < all; pixel += count) {
      count = kn_min(PIXELS, sliding ? c->out_width - pixel % c->out_width : all - pixel);
      if (pointwise) {
        lay_out_in_place(&w, input + (size_t)pixel * c->in_channels, count);
      } else if (sliding) {
        const kn_place p = kn_place_of(c, input, pixel, w.group * kn_group_in(c));
        lay_out_columns(&w, p.image, p.y, p.x);
      } else {
        kn_place places[PIXELS];
        for (int32_t i = 0; i < PIXELS; i++) places[i] = kn_place_of(c, input, kn_min(pixel + i, all - 1), w.group * kn_group_in(c));
        lay_out_pixels(&w, places);
      }
      all_channels(&w, weights, pixel, count);
    }
  }
}

const kn_convolution_kernel kn_convolution_direct16_dsp = {
    .name = "direct16.dsp",
    .features = KN_DSP,
    .supports = supports,
    .packed_bytes = packed_bytes,
    .pack = pack,
    .scratch_bytes = scratch_bytes,
    .tiles = tiles,
    .run = run,
    .layout = 1,
};
