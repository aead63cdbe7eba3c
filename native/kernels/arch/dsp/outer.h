/*
 * The body of the outer-product kernels: any convolution of codes and weights of few bits, by packed multiplication. Some pixels' codes at
 * one position under the kernel are the fields of one 32-bit number, two output channels' weights there those of another, so far apart that
 * UMLAL's 64-bit product has every code times every weight in a field of its own:
 *
 *   4 bits  2 pixels by 2 channels in fields of 14 bits: 4 multiply-accumulates an instruction
 *   2 bits  3 pixels by 2 channels in fields of 10 bits: 6
 *
 * Weights are packed as densely as they are wide, with 2^(n - 1) added; as many times the sum of the codes under the kernel is subtracted
 * at the end. A field holds only so many products: fields are added up in 32 bits behind blocks of so many steps.
 *
 * Scratch memory: the codes under the pixels of two words, two words a step; a row of bytes for each pixel where channels do not fill words.
 *
 * The file that includes this defines BITS, KERNEL and KERNEL_NAME.
 */
#include "outer_loop.h"
#include "pixels.h"
#include "store.h"

static int32_t offset_of(const kn_convolution *c) { return 1 << (c->weight_bits - 1); }
static int is_collected(const kn_convolution *c) { return kn_group_in(c) % 4 != 0; }

/* Codes of one pixel, rounded up to whole words. */
static int32_t row_of(const kn_convolution *c) { return kn_up(kn_row_weights(c), 4) * 4; }

/* Blocks of equal length, of whole words of weights, in which no field can overflow; together they may be longer than a row. */
static int32_t blocks_of(const kn_convolution *c) {
  const int32_t largest = ((1 << c->input_bits) - 1) * ((1 << c->weight_bits) - 1), limit = ((1 << FIELD) - 1) / largest / STEPS * STEPS;
  return kn_up(row_of(c), limit);
}
static int32_t block_steps(const kn_convolution *c) { return kn_up(row_of(c), blocks_of(c) * STEPS) * STEPS; }
static int32_t steps_of(const kn_convolution *c) { return blocks_of(c) * block_steps(c); }

static int supports(const kn_convolution *c) { return c->weight_bits <= BITS && c->input_bits <= BITS && kn_row_weights(c) <= 1 << 20; }

static int32_t quads_of(const kn_convolution *c) { return kn_up(kn_group_out(c), QUAD); }
static size_t quad_words(const kn_convolution *c) { return (size_t)steps_of(c) / WORD_STEPS; }

/* Loops that begin in the middle of a round load from before their weights. */
static size_t packed_bytes(const kn_convolution *c) { return FRONT_BYTES + (size_t)c->groups * quads_of(c) * quad_words(c) * 4; }

/* Weights of what does not exist are zero with all that is added to them, so that codes there do not matter. */
static void pack(const kn_convolution *c, void *packed) {
  const int32_t count = kn_group_out(c), row = kn_row_weights(c);
  memset(packed, 0, packed_bytes(c));
  for (int32_t o = 0; o < c->out_channels; o++) {
    const int32_t n = o % count, lane = n % QUAD;
    uint32_t *words = (uint32_t *)(void *)((uint8_t *)packed + FRONT_BYTES) + (size_t)(o / count * quads_of(c) + n / QUAD) * quad_words(c);
    for (int32_t i = 0; i < row; i++) {
      /* A pair's first channel is at the low end of a word, its second at the high end, both turned by how many pairs came before. */
      const int32_t turn = i % WORD_STEPS * 4 * BITS + lane / 2 * 2 * BITS, at = (turn + (lane % 2 == 0 ? 0 : 32 - BITS)) % 32;
      words[i / WORD_STEPS] |= (uint32_t)(kn_weight(c, o, i) + offset_of(c)) << at;
    }
  }
}

/* Scratch: codes, raw sums, rows of bytes, one tap outside the input. */
static size_t codes_bytes(const kn_convolution *c) { return (size_t)steps_of(c) * 8; }
static size_t rows_bytes(const kn_convolution *c) { return is_collected(c) ? PIXELS * (size_t)row_of(c) : 0; }
static size_t border_bytes(const kn_convolution *c) { return (size_t)kn_group_in(c) + 4; }

static size_t scratch_bytes(const kn_convolution *c) {
  return kn_aligned(codes_bytes(c) + 32 * (size_t)blocks_of(c) + rows_bytes(c) + border_bytes(c));
}

static int32_t tiles(const kn_convolution *c) {
  (void)c;
  return 1;
}

/* One convolution while it runs. */
typedef struct {
  const kn_convolution *c;
  kn_finish finish;
  outer_job job;
  uint32_t *codes;
  uint8_t *rows, *border;
  const uint32_t *weights; /* of the group */
  void *output;
  int32_t group;
} work;

/* Four channels of the pixels of a word. */
KN_INLINE void pack_codes(const uint32_t *pixels, uint32_t *to) {
#if BITS == 4
  const uint32_t low = (pixels[0] & 0xFFFFu) | pixels[1] << FIELD, high = pixels[0] >> 16 | pixels[1] >> 16 << FIELD;
  to[0] = low & 0x3C00Fu, to[2] = low >> 8 & 0x3C00Fu, to[4] = high & 0x3C00Fu, to[6] = high >> 8 & 0x3C00Fu;
#else
  const uint32_t all = pixels[0] | kn_rotated(pixels[1], 22) | kn_rotated(pixels[2], 12), mask = 0x00300C03u;
  to[0] = all & mask, to[2] = kn_rotated(all, 8) & mask, to[4] = kn_rotated(all, 16) & mask, to[6] = kn_rotated(all, 24) & mask;
#endif
}

/* Where codes of the next run go, and each pixel's sum so far. */
typedef struct {
  uint32_t *to;
  uint32_t sums[PIXELS];
} layout;

/* Lays out a run for the pixels of one word, so that all that is needed stays in registers. */
KN_INLINE void take_half(layout *l, const uint8_t *const *sources, int32_t count, int32_t half) {
  const uint8_t *from[WORD_PIXELS], *end = sources[half * WORD_PIXELS] + count;
  uint32_t *to = l->to + half, sums[WORD_PIXELS], pixels[WORD_PIXELS];
  KN_UNROLL for (int32_t p = 0; p < WORD_PIXELS; p++) from[p] = sources[half * WORD_PIXELS + p], sums[p] = l->sums[half * WORD_PIXELS + p];
  do {
    KN_UNROLL for (int32_t p = 0; p < WORD_PIXELS; p++) {
      pixels[p] = kn_word(from[p]);
      from[p] += 4;
      sums[p] = kn_add_bytes(sums[p], pixels[p]);
    }
    pack_codes(pixels, to);
    to += 8;
  } while (from[0] != end);
  KN_UNROLL for (int32_t p = 0; p < WORD_PIXELS; p++) l->sums[half * WORD_PIXELS + p] = sums[p];
}

KN_OUTLINE void take_run(layout *l, const uint8_t *const *sources, int32_t count) {
  take_half(l, sources, count, 0);
  take_half(l, sources, count, 1);
  l->to += 2 * count;
}

static void lay_out(work *w, const kn_place *places) {
  const kn_convolution *c = w->c;
  const int32_t row = row_of(c), weights = kn_row_weights(c);
  layout l = {.to = w->codes};
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
  for (int32_t p = 0; p < PIXELS; p++) w->job.offsets[p] = -offset_of(c) * (int32_t)l.sums[p];
}

/* The same of pixels that are read as they lie; of those, the last is repeated beyond `pixels`. */
static void lay_out_in_place(work *w, const uint8_t *from, int32_t pixels) {
  const uint8_t *sources[PIXELS];
  layout l = {.to = w->codes};
  for (int32_t i = 0; i < PIXELS; i++) sources[i] = from + (size_t)kn_min(i, pixels - 1) * w->c->in_channels;
  take_run(&l, sources, w->c->in_channels);
  for (int32_t p = 0; p < PIXELS; p++) w->job.offsets[p] = -offset_of(w->c) * (int32_t)l.sums[p];
}

/* Four output channels of which not all codes are wanted as they come: through memory of its own. Stores those that exist. */
KN_OUTLINE void one_quad(work *w, int32_t o, int32_t channels, int32_t pixels, size_t at) {
  const kn_convolution *c = w->c;
  outer_job *job = &w->job;
  uint8_t codes[QUAD * PIXELS];
  int32_t bias[QUAD] = {0, 0, 0, 0}, multipliers[QUAD] = {0, 0, 0, 0};
  uint8_t shifts[QUAD] = {0, 0, 0, 0};
  for (int32_t k = 0; k < channels; k++) {
    bias[k] = c->bias[o + k];
    if (w->finish.is_plain) multipliers[k] = c->multipliers[o + k], shifts[k] = c->shifts[o + k];
  }
  job->bias = bias;
  job->multipliers = multipliers;
  job->shifts = w->finish.shifts == NULL ? NULL : shifts;
  job->output = codes;
  job->step = QUAD;
  job->quads = 1;
  outer_channels(job);
  for (int32_t p = 0; p < pixels; p++, at += (size_t)c->out_channels) {
    for (int32_t k = 0; k < channels; k++) {
      if (w->finish.is_plain) ((uint8_t *)w->output)[at + (size_t)k] = codes[QUAD * p + k];
      else kn_store_one(&w->finish, o + k, job->sums[k][p], w->output, at + (size_t)k);
    }
  }
}

/* The group's output channels of some pixels; the first of these is the output's pixel `pixel`. */
static void all_channels(work *w, int32_t pixel, int32_t pixels) {
  const kn_convolution *c = w->c;
  const int32_t count = kn_group_out(c), first = w->group * count;
  const size_t at = (size_t)pixel * c->out_channels + (size_t)first;
  outer_job *job = &w->job;
  int32_t n = 0;
  job->weights = w->weights;
  if (w->finish.is_plain && pixels == PIXELS && count >= QUAD) {
    job->bias = c->bias + first;
    job->multipliers = c->multipliers + first;
    job->shifts = w->finish.shifts == NULL ? NULL : w->finish.shifts + first;
    job->output = (uint8_t *)w->output + at;
    job->step = (size_t)c->out_channels;
    job->quads = count / QUAD;
    outer_channels(job);
    n = count / QUAD * QUAD;
  }
  for (; n < count; n += QUAD) one_quad(w, first + n, kn_min(QUAD, count - n), pixels, at + (size_t)n);
}

static void set_up(work *w, const kn_convolution *c, void *scratch) {
  w->finish = kn_finish_of(c);
  w->codes = scratch;
  w->job = (outer_job){.codes = w->codes, .block_bytes = (uint32_t)block_steps(c) * 8, .all_bytes = (uint32_t)codes_bytes(c),
                       .blocks = blocks_of(c), .multiplier_shift = w->finish.multiplier_shift, .more_shift = w->finish.more_shift, .zero = w->finish.zero, .low = w->finish.low,
                       .above = w->finish.above, .raw = w->codes + codes_bytes(c) / 4};
  outer_enter(&w->job);
  w->rows = (uint8_t *)(w->job.raw + 8 * blocks_of(c));
  w->border = w->rows + rows_bytes(c);
  memset(w->border, c->input_zero, border_bytes(c));
  memset(w->codes, 0, codes_bytes(c));
}

static void run(const kn_convolution *c, const void *packed, const uint8_t *input, void *output, void *scratch, int32_t tile) {
  const int32_t all = kn_pixels_out(c), pointwise = kn_is_pointwise(c);
  work w = {.c = c, .output = output, .weights = (const uint32_t *)(const void *)((const uint8_t *)packed + FRONT_BYTES)};
  (void)tile;
  set_up(&w, c, scratch);
  for (; w.group < c->groups; w.group++, w.weights += quads_of(c) * quad_words(c)) {
    for (int32_t pixel = 0; pixel < all; pixel += PIXELS) {
      const int32_t count = kn_min(PIXELS, all - pixel);
      if (pointwise) {
        lay_out_in_place(&w, input + (size_t)pixel * c->in_channels, count);
      } else {
        kn_place places[PIXELS];
        for (int32_t i = 0; i < PIXELS; i++) places[i] = kn_place_of(c, input, kn_min(pixel + i, all - 1), w.group * kn_group_in(c));
        lay_out(&w, places);
      }
      all_channels(&w, pixel, count);
    }
  }
}

const kn_convolution_kernel KERNEL = {
    .name = KERNEL_NAME,
    .features = KN_DSP,
    .supports = supports,
    .packed_bytes = packed_bytes,
    .pack = pack,
    .scratch_bytes = scratch_bytes,
    .tiles = tiles,
    .run = run,
    .layout = 1,
};
