/*
 * The body of the polynomial kernels: 3x3, stride 1, codes and weights of few bits, by packed multiplication. Pixels side by side are the
 * coefficients of one polynomial, the three taps of a row of the kernel those of another; a 32-bit number holds one, with X = 2^FIELD, and
 * UMLAL multiplies two into 64 bits and adds: every coefficient of the product is an output, or a part of two outputs at the seams.
 *
 *   4 bits  2 pixels by 3 taps in fields of 14 bits: 6 multiply-accumulates an instruction
 *   2 bits  4 pixels by 3 taps in fields of 10 bits: 12
 *
 * Weights of n bits have 2^(n - 1) added, so that all is unsigned; as many times the sum of the codes under the kernel is subtracted at the end. A
 * field holds only so many products before it could overflow: so many steps are a block, behind which fields are added up in 32 bits. How
 * many there must be is found from the weights when they are packed; there is memory for the worst. Pixels left of the input and right of it are no part of the
 * polynomials: where their code is not 0, what they make of a channel's sum is a constant, and packed with its weights.
 *
 * Scratch memory: three rows of the input as polynomials, of which each output row replaces one; a pair of channels' weights, unpacked for
 * a row of the output; sums of codes.
 *
 * The file that includes this defines BITS, KERNEL and KERNEL_NAME.
 */
#include "polynomial_loop.h"
#include "store.h"

/* Products that add up in a field in one step; steps whose taps a packed word has. */
#if BITS == 4
enum { FIELD_PRODUCTS = 2, WORD_STEPS = 1 };
#define TAPS_MASK 0xF003C00Fu
#else
enum { FIELD_PRODUCTS = 3, WORD_STEPS = 2 };
#define TAPS_MASK 0x00300C03u
#endif

/* What is added to weights. */
static int32_t offset_of(const kn_convolution *c) { return 1 << (c->weight_bits - 1); }

/* Channels rounded up to whole words of codes; what is beyond the last has weights that are zero even with what is added. */
static int32_t channels_of(const kn_convolution *c) { return kn_up(c->in_channels, 4) * 4; }
static int32_t strips_of(const kn_convolution *c) { return kn_up(c->in_width, STRIP); }

/* The least number of blocks of equal length in which no field of `most` products at the top can overflow. */
static int32_t most_blocks(const kn_convolution *c) {
  const int32_t steps = 3 * channels_of(c), largest = FIELD_PRODUCTS * ((1 << c->input_bits) - 1) * ((1 << c->weight_bits) - 1);
  int32_t blocks = kn_up(steps, ((1 << FIELD) - 1) / largest);
  while (steps % blocks != 0) blocks++;
  return blocks;
}

static int supports(const kn_convolution *c) {
  return c->kernel_height == 3 && c->kernel_width == 3 && c->stride_y == 1 && c->stride_x == 1 && c->dilation_y == 1 && c->dilation_x == 1 &&
         c->groups == 1 && c->weight_bits <= BITS && c->input_bits <= BITS && c->pad_left <= 1 && c->out_width <= c->in_width + c->pad_left - 1 &&
         c->in_channels <= 1024;
}

/*
 * Of two output channels: for each, the sums of the weights of the first and of the last column; how many blocks their products are summed
 * in; then words of taps.
 */
typedef struct {
  int16_t first_column[2], last_column[2];
  int32_t blocks;
} header;

static size_t row_words(const kn_convolution *c) { return (size_t)channels_of(c) / WORD_STEPS; }
static size_t pair_bytes(const kn_convolution *c) { return sizeof(header) + 3 * row_words(c) * 4; }
static size_t packed_bytes(const kn_convolution *c) { return (size_t)kn_up(c->out_channels, 2) * pair_bytes(c); }

/* One weight with what is added to it; 0 where there is no such channel. Steps are counted as the rows lie in scratch memory. */
static int32_t tap(const kn_convolution *c, int32_t o, int32_t step, int32_t first_row, int32_t x) {
  const int32_t channels = channels_of(c), y = (step / channels + first_row) % 3, channel = step % channels;
  return channel < c->in_channels ? kn_weight(c, o, (y * 3 + x) * c->in_channels + channel) + offset_of(c) : 0;
}

/* Whether the actual weights of a channel stay within their fields, whichever row comes first. */
static int fits(const kn_convolution *c, int32_t o, int32_t blocks) {
  const int32_t steps = 3 * channels_of(c), block = steps / blocks, limit = ((1 << FIELD) - 1) / ((1 << c->input_bits) - 1);
  for (int32_t first_row = 0; first_row < 3; first_row++) {
    for (int32_t begin = 0; begin < steps; begin += block) {
      int32_t sums[3] = {0, 0, 0};
      for (int32_t i = begin; i < begin + block; i++) {
        for (int32_t x = 0; x < 3; x++) sums[x] += tap(c, o, i, first_row, x);
      }
      const int32_t most = FIELD_PRODUCTS == 3 ? sums[0] + sums[1] + sums[2] : sums[1] + kn_max(sums[0], sums[2]);
      if (most > limit) return 0;
    }
  }
  return 1;
}

static int32_t blocks_of(const kn_convolution *c, int32_t o, int32_t count) {
  const int32_t steps = 3 * channels_of(c), most = most_blocks(c);
  int32_t blocks = 1;
  while (blocks < most && (steps % blocks != 0 || !fits(c, o, blocks) || !fits(c, o + count - 1, blocks))) blocks++;
  return blocks;
}

static void pack(const kn_convolution *c, void *packed) {
  memset(packed, 0, packed_bytes(c));
  for (int32_t o = 0; o < c->out_channels; o++) {
    uint8_t *pair = (uint8_t *)packed + (size_t)(o / 2) * pair_bytes(c);
    header *h = (header *)(void *)pair;
    uint32_t *words = (uint32_t *)(void *)(pair + sizeof(header));
    if (o % 2 == 0) h->blocks = blocks_of(c, o, kn_min(2, c->out_channels - o));
    for (int32_t i = 0; i < 9 * c->in_channels; i++) {
      const int32_t channel = i % c->in_channels, x = i / c->in_channels % 3, y = i / c->in_channels / 3, weight = kn_weight(c, o, i);
      /* With 4 bits, the second channel's taps are the first's, turned by 8 bits; with 2, two steps of two channels lie beside each other. */
      const int32_t at = BITS == 4 ? (2 - x) * FIELD + o % 2 * 8 : (2 - x) * FIELD + channel % 2 * 4 + o % 2 * 2;
      words[(size_t)y * row_words(c) + (size_t)(channel / WORD_STEPS)] |= kn_rotated((uint32_t)(weight + offset_of(c)), (32 - at % 32) % 32);
      if (x == 0) h->first_column[o % 2] = (int16_t)(h->first_column[o % 2] + weight);
      if (x == 2) h->last_column[o % 2] = (int16_t)(h->last_column[o % 2] + weight);
    }
  }
}

/* Loops are entered by the number of blocks; whatever weights are, they only make nonsense. */
static int accepts(const kn_convolution *c, const void *packed) {
  const int32_t most = most_blocks(c), steps = 3 * channels_of(c);
  for (int32_t o = 0; o < c->out_channels; o += 2) {
    const int32_t blocks = ((const header *)(const void *)((const uint8_t *)packed + (size_t)(o / 2) * pair_bytes(c)))->blocks;
    if (blocks < 1 || blocks > most || steps % blocks != 0 || steps < 2 * blocks) return 0;
  }
  return 1;
}

/* Scratch: polynomials [strip][row][channel][2], weights [row][channel][2], sums of columns [row][x], corrections [x], raw sums, border, zeros. */
static size_t row_bytes(const kn_convolution *c) { return (size_t)channels_of(c) * 2 * 4; }
static int32_t sums_width(const kn_convolution *c) { return strips_of(c) * STRIP + 4; }

static size_t scratch_bytes(const kn_convolution *c) {
  return kn_aligned(3 * row_bytes(c) * (size_t)(strips_of(c) + 1) + 4 * (size_t)sums_width(c) * 4 + 32 * (size_t)most_blocks(c) +
                    2 * (size_t)channels_of(c));
}

static int32_t tiles(const kn_convolution *c) { return c->batch; }

/* One image while it is convolved. */
typedef struct {
  const kn_convolution *c;
  kn_finish finish;
  polynomial_job job;
  int32_t channels;
  uint32_t *codes, *weights;
  /* Sums of columns begin two places before the first pixel; so do corrections, of the outputs that a strip completes. */
  int32_t *sums[3], *corrections;
  uint8_t *border, *zeros;
} work;

/* Four channels of the pixels of a word. */
KN_INLINE void pack_codes(const uint32_t *pixels, uint32_t *to) {
#if BITS == 4
  const uint32_t low = (pixels[0] & 0xFFFFu) | pixels[1] << FIELD, high = pixels[0] >> 16 | pixels[1] >> 16 << FIELD;
  to[0] = low & 0x3C00Fu, to[2] = low >> 8 & 0x3C00Fu, to[4] = high & 0x3C00Fu, to[6] = high >> 8 & 0x3C00Fu;
#else
  const uint32_t all = pixels[0] | kn_rotated(pixels[1], 22) | kn_rotated(pixels[2], 12) | kn_rotated(pixels[3], 2);
  to[0] = all & 0xC0300C03u, to[2] = kn_rotated(all, 8) & 0xC0300C03u;
  to[4] = kn_rotated(all, 16) & 0xC0300C03u, to[6] = kn_rotated(all, 24) & 0xC0300C03u;
#endif
}

/* The polynomials of half a strip: of as many pixels as a word holds. `to` and `sums` are of the first. */
KN_INLINE void pack_word(const work *w, const uint8_t *const *sources, uint32_t *to, int32_t *sums) {
  const int32_t whole = w->c->in_channels / 4 * 4;
  uint32_t totals[WORD_PIXELS], pixels[WORD_PIXELS];
  KN_UNROLL for (int32_t p = 0; p < WORD_PIXELS; p++) totals[p] = 0;
  for (int32_t i = 0; i < whole; i += 4, to += 8) {
    KN_UNROLL for (int32_t p = 0; p < WORD_PIXELS; p++) {
      pixels[p] = kn_word(sources[p] + i);
      totals[p] = kn_add_bytes(totals[p], pixels[p]);
    }
    pack_codes(pixels, to);
  }
  if (whole < w->channels) {
    KN_UNROLL for (int32_t p = 0; p < WORD_PIXELS; p++) {
      pixels[p] = kn_word(sources[p] + whole) & ((1u << 8 * (w->c->in_channels - whole)) - 1);
      totals[p] = kn_add_bytes(totals[p], pixels[p]);
    }
    pack_codes(pixels, to);
  }
  KN_UNROLL for (int32_t p = 0; p < WORD_PIXELS; p++) sums[p] = (int32_t)totals[p];
}

/*
 * One row of the input, or of its border, into its place among three. Where the last strip has room for it, the first pixel beyond the row
 * is part of it, which makes the right border right; the others are zero.
 */
KN_OUTLINE void pack_row(const work *w, const uint8_t *image, int32_t y) {
  const kn_convolution *c = w->c;
  const int32_t slot = (y + 3) % 3, inside = y >= 0 && y < c->in_height;
  const uint8_t *row = image + (inside ? (size_t)y * c->in_width * c->in_channels : 0);
  for (int32_t x = 0; x < strips_of(c) * STRIP; x += WORD_PIXELS) {
    const uint8_t *sources[WORD_PIXELS];
    for (int32_t p = 0; p < WORD_PIXELS; p++) {
      sources[p] = x + p > c->in_width                ? w->zeros
                   : inside && x + p < c->in_width    ? row + (size_t)(x + p) * c->in_channels
                                                      : w->border;
    }
    uint32_t *to = w->codes + ((size_t)(x / STRIP) * 3 + (size_t)slot) * w->channels * 2 + x % STRIP / WORD_PIXELS;
    pack_word(w, sources, to, w->sums[slot] + 2 + x);
  }
}

/* What offset weights add too much, of each output: those that x pixels from the left begin to touch are at x + 2. */
KN_OUTLINE void correct(const work *w) {
  const int32_t *a = w->sums[0], *b = w->sums[1], *c = w->sums[2];
  const int32_t less = -offset_of(w->c);
  int32_t before = 0, last = 0;
  for (int32_t x = 2; x < sums_width(w->c); x++) {
    const int32_t next = a[x] + b[x] + c[x];
    w->corrections[x - 2] = less * (before + last + next);
    before = last, last = next;
  }
}

/* Unpacks two channels' taps for an output row whose first input row is in the place `first`. */
KN_OUTLINE void unpack(const work *w, const uint32_t *from, int32_t first) {
  const uint32_t mask = TAPS_MASK;
  for (int32_t ky = 0; ky < 3; ky++) {
    const int32_t slot = first + ky < 3 ? first + ky : first + ky - 3;
    uint32_t *to = w->weights + (size_t)slot * w->channels * 2;
    const uint32_t *end = to + (size_t)w->channels * 2;
    for (; to != end; to += 8) {
#if BITS == 4
      const uint32_t a = from[0], b = from[1], c = from[2], d = from[3];
      from += 4;
      to[0] = a & mask, to[1] = kn_rotated(a, 8) & mask, to[2] = b & mask, to[3] = kn_rotated(b, 8) & mask;
      to[4] = c & mask, to[5] = kn_rotated(c, 8) & mask, to[6] = d & mask, to[7] = kn_rotated(d, 8) & mask;
#else
      const uint32_t a = from[0], b = from[1];
      from += 2;
      to[0] = a & mask, to[1] = a >> 2 & mask, to[2] = a >> 4 & mask, to[3] = a >> 6 & mask;
      to[4] = b & mask, to[5] = b >> 2 & mask, to[6] = b >> 4 & mask, to[7] = b >> 6 & mask;
#endif
    }
  }
}

/* One strip of which not every code is wanted as it comes: through memory of its own. Stores what lies in the output. */
KN_OUTLINE void one_strip(const work *w, polynomial_job *job, int32_t o, int32_t count, int32_t x, void *output, size_t row) {
  uint8_t codes[2 * STRIP];
  job->output = codes;
  job->step = 2;
  job->strips = 1;
  job->skips_first = 0;
  polynomial_strips(job);
  for (int32_t p = kn_max(0, -x); p < STRIP && x + p < w->c->out_width; p++) {
    const size_t at = row + (size_t)(x + p) * w->c->out_channels + (size_t)o;
    for (int32_t k = 0; k < count; k++) {
      if (kn_is_unshifted(&w->finish)) ((uint8_t *)output)[at + (size_t)k] = codes[2 * p + k];
      else kn_store_one(&w->finish, o + k, job->sums[k][p], output, at + (size_t)k);
    }
  }
}

/* The last output of a row that fills its last strip: it is left in what is carried, and its last column lies outside. */
KN_OUTLINE void last_output(const work *w, const polynomial_job *job, const header *h, int32_t o, int32_t count, void *output, size_t at) {
  int32_t sums[2] = {0, 0};
  for (int32_t k = 0; k < count; k++) {
    const uint32_t border = (uint32_t)(w->c->input_zero * h->last_column[k]);
    sums[k] = (int32_t)(job->channels[k].carried[0] + (uint32_t)*job->corrections + (uint32_t)job->channels[k].bias + border);
  }
  if (kn_is_unshifted(&w->finish) && count == 2) {
    kn_put_two((uint8_t *)output + at, kn_two_codes(&w->finish, sums[0], sums[1], job->channels[0].multiplier, job->channels[1].multiplier));
  } else {
    for (int32_t k = 0; k < count; k++) kn_store_one(&w->finish, o + k, sums[k], output, at + (size_t)k);
  }
}

/* One row of two output channels, the second of which may not exist. */
KN_OUTLINE void row_of_channels(work *w, const header *h, int32_t o, void *output, size_t row) {
  const kn_convolution *c = w->c;
  const int32_t count = kn_min(2, c->out_channels - o), strips = strips_of(c), is_direct = kn_is_unshifted(&w->finish) && count == 2;
  polynomial_job *job = &w->job;
  job->codes = w->codes;
  job->corrections = w->corrections;
  job->blocks = h->blocks;
  job->block_bytes = job->strip_bytes / (uint32_t)h->blocks;
  job->entry = polynomial_entry(job->block_bytes / 8);
  for (int32_t k = 0; k < count; k++) {
    polynomial_channel *ch = &job->channels[k];
    ch->bias = c->bias[o + k];
    ch->multiplier = kn_is_unshifted(&w->finish) ? kn_multiplier(&w->finish, o + k) : 0;
    ch->carried[0] = 0;
    ch->carried[1] = c->pad_left == 1 ? (uint32_t)(c->input_zero * h->first_column[k]) : 0;
  }
  int32_t x = c->pad_left - 2;
  for (int32_t s = 0, whole; s < strips; s += whole, x += whole * STRIP) {
    /* As many as lie in the output, but for the pixel before its first. */
    whole = is_direct && x >= -1 ? (c->out_width - x) / STRIP : 0;
    if (whole > 0) {
      whole = kn_min(whole, strips - s);
      job->output = (uint8_t *)output + row + (ptrdiff_t)x * c->out_channels + o;
      job->step = (size_t)c->out_channels;
      job->strips = whole;
      job->skips_first = x < 0;
      polynomial_strips(job);
    } else {
      whole = 1;
      one_strip(w, job, o, count, x, output, row);
    }
  }
  if (x < c->out_width) last_output(w, job, h, o, count, output, row + (size_t)x * c->out_channels + (size_t)o);
}

static void set_up(work *w, const kn_convolution *c, void *scratch) {
  const size_t width = (size_t)sums_width(c);
  w->c = c;
  w->finish = kn_finish_of(c);
  w->channels = channels_of(c);
  w->codes = scratch;
  w->weights = w->codes + (size_t)strips_of(c) * w->channels * 6;
  w->sums[0] = (int32_t *)(void *)(w->weights + (size_t)w->channels * 6);
  w->sums[1] = w->sums[0] + width;
  w->sums[2] = w->sums[1] + width;
  w->corrections = w->sums[2] + width;
  uint32_t *raw = (uint32_t *)(void *)(w->corrections + width);
  w->border = (uint8_t *)(raw + 8 * most_blocks(c));
  w->zeros = w->border + w->channels;
  w->job = (polynomial_job){.weights = w->weights, .strip_bytes = (uint32_t)w->channels * 24, .zero = w->finish.zero, .low = w->finish.low,
                            .above = w->finish.above, .raw = raw};
  memset(w->sums[0], 0, 3 * width * sizeof(int32_t));
  memset(w->border, c->input_zero, (size_t)w->channels);
  memset(w->zeros, 0, (size_t)w->channels);
}

/* One image. */
static void run(const kn_convolution *c, const void *packed, const uint8_t *input, void *output, void *scratch, int32_t tile) {
  const uint8_t *image = input + (size_t)tile * c->in_height * c->in_width * c->in_channels;
  work w;
  set_up(&w, c, scratch);
  for (int32_t y = 0, next = -c->pad_top; y < c->out_height; y++) {
    for (; next <= y - c->pad_top + 2; next++) pack_row(&w, image, kn_max(next, -3));
    correct(&w);
    const size_t row = ((size_t)tile * c->out_height + (size_t)y) * c->out_width * c->out_channels;
    for (int32_t o = 0; o < c->out_channels; o += 2) {
      const uint8_t *pair = (const uint8_t *)packed + (size_t)(o / 2) * pair_bytes(c);
      unpack(&w, (const uint32_t *)(const void *)(pair + sizeof(header)), (y - c->pad_top + 3) % 3);
      row_of_channels(&w, (const header *)(const void *)pair, o, output, row);
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
    .accepts = accepts,
};
