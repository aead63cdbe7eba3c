/*
 * vector16.dsp: products with one vector or two, where each weight is used once: eight output channels at a time, so that codes are read an
 * eighth as often as weights. Words of weights are as in direct16: two channels by a pair of codes, or in 4 bits by two.
 *
 * Scratch memory: the vector, in 16 bits a code, and its bytes.
 */
#include "pixels.h"
#include "store.h"

/* Output channels at a time. */
enum { CHANNELS = 8, MOST_PIXELS = 2 };

static int32_t weight_width(const kn_convolution *c) { return c->weight_bits <= 4 ? 4 : 8; }
static int32_t row_of(const kn_convolution *c) { return kn_up(kn_row_weights(c), 4) * 4; }
static size_t octet_bytes(const kn_convolution *c) { return (size_t)row_of(c) * CHANNELS * (size_t)weight_width(c) / 8; }

/* With 4 bits, 16 times a sum of products has to fit 32. */
static int supports(const kn_convolution *c) {
  return c->groups == 1 && kn_pixels_out(c) <= MOST_PIXELS && (weight_width(c) == 8 || kn_row_weights(c) <= 30000);
}

static size_t packed_bytes(const kn_convolution *c) { return (size_t)kn_up(c->out_channels, CHANNELS) * octet_bytes(c); }

/* [eight channels][four codes][pair of codes, if 8 bits][two channels] words. */
static void pack(const kn_convolution *c, void *packed) {
  const int32_t row = kn_row_weights(c), width = weight_width(c);
  memset(packed, 0, packed_bytes(c));
  for (int32_t o = 0; o < c->out_channels; o++) {
    uint8_t *octet = (uint8_t *)packed + (size_t)(o / CHANNELS) * octet_bytes(c);
    for (int32_t i = 0; i < row; i++) {
      const int32_t weight = kn_weight(c, o, i), word = o % CHANNELS / 2, half = i / 2 % 2;
      if (width == 8) octet[(i / 4 * 2 + i % 2) * 16 + word * 4 + half * 2 + o % 2] = (uint8_t)(o % 2 == 0 ? weight + 128 : weight);
      else octet[i / 4 * 16 + word * 4 + half * 2 + i % 2] |= (uint8_t)((weight + 8) << o % 2 * 4);
    }
  }
}

static size_t scratch_bytes(const kn_convolution *c) { return kn_aligned((size_t)row_of(c) * 3 + (size_t)c->in_channels); }

static int32_t tiles(const kn_convolution *c) {
  (void)c;
  return 1;
}

/* Of a pair of channels: the sum by weights as they lie, and by what is taken out of them. */
typedef struct {
  uint32_t whole, part;
} sums;

#if KN_DSP_CODE
#define EIGHT(WORD, WHOLE, PART) \
  "sxtb16 lr, " WORD ", ror #8\n smlad " WHOLE ", " WORD ", r12, " WHOLE "\n smlad " PART ", lr, r12, " PART "\n"
#define FOUR(WORD, TURN, WHOLE, PART)                                                                                  \
  "uxtb16 " WORD ", " WORD TURN "\n and lr, " WORD ", #0x000F000F\n smlad " WHOLE ", " WORD ", r12, " WHOLE "\n"       \
  "smlad " PART ", lr, r12, " PART "\n"

KN_ASSEMBLY void add_products_8(const uint32_t *codes, const void *weights, const uint32_t *end, sums *to) {
  __asm__ volatile("push {r2-r11, lr}\n ldm r3, {r4-r11}\n"
                   "1: .rept 2\n ldr r12, [r0], #4\n"
                   "ldrd r2, r3, [r1], #8\n" EIGHT("r2", "r4", "r5") EIGHT("r3", "r6", "r7")
                   "ldrd r2, r3, [r1], #8\n" EIGHT("r2", "r8", "r9") EIGHT("r3", "r10", "r11") ".endr\n"
                   "ldr r2, [sp]\n cmp r0, r2\n bne 1b\n ldr r3, [sp, #4]\n stm r3, {r4-r11}\n add sp, #8\n pop {r4-r11, pc}\n");
}

KN_ASSEMBLY void add_products_4(const uint32_t *codes, const void *weights, const uint32_t *end, sums *to) {
  __asm__ volatile("push {r2-r11, lr}\n ldm r3, {r4-r11}\n"
                   "1: ldr r12, [r0], #4\n"
                   "ldrd r2, r3, [r1]\n" FOUR("r2", "", "r4", "r5") FOUR("r3", "", "r6", "r7")
                   "ldrd r2, r3, [r1, #8]\n" FOUR("r2", "", "r8", "r9") FOUR("r3", "", "r10", "r11")
                   "ldr r12, [r0], #4\n"
                   "ldrd r2, r3, [r1], #8\n" FOUR("r2", ", ror #8", "r4", "r5") FOUR("r3", ", ror #8", "r6", "r7")
                   "ldrd r2, r3, [r1], #8\n" FOUR("r2", ", ror #8", "r8", "r9") FOUR("r3", ", ror #8", "r10", "r11")
                   "ldr r2, [sp]\n cmp r0, r2\n bne 1b\n ldr r3, [sp, #4]\n stm r3, {r4-r11}\n add sp, #8\n pop {r4-r11, pc}\n");
}
#else
static void add_products_8(const uint32_t *codes, const void *weights, const uint32_t *end, sums *to) {
  const uint8_t *from = weights;
  for (; codes < end; codes++) {
    for (int32_t k = 0; k < CHANNELS / 2; k++, from += 4) {
      const uint32_t word = kn_word(from);
      to[k].whole = kn_add_pair(to[k].whole, *codes, word);
      to[k].part = kn_add_pair(to[k].part, *codes, (uint16_t)(int8_t)from[1] | (uint32_t)(uint16_t)(int8_t)from[3] << 16);
    }
  }
}

static void add_products_4(const uint32_t *codes, const void *weights, const uint32_t *end, sums *to) {
  const uint8_t *from = weights;
  for (; codes < end; codes += 2) {
    for (int32_t k = 0; k < CHANNELS / 2; k++, from += 4) {
      const uint32_t first = kn_even_bytes(kn_word(from)), second = kn_odd_bytes(kn_word(from));
      to[k].whole = kn_add_pair(kn_add_pair(to[k].whole, codes[0], first), codes[1], second);
      to[k].part = kn_add_pair(kn_add_pair(to[k].part, codes[0], first & 0x000F000Fu), codes[1], second & 0x000F000Fu);
    }
  }
}
#endif

/* Widens the codes of one pixel; answers their sum. */
static uint32_t lay_out(const uint8_t *bytes, int32_t row, uint32_t *codes) {
  uint32_t sum = 0;
  for (int32_t i = 0; i < row; i += 4) {
    const uint32_t word = kn_word(bytes + i);
    *codes++ = kn_even_bytes(word);
    *codes++ = kn_odd_bytes(word);
    sum = kn_add_bytes(sum, word);
  }
  return sum;
}

/* Eight output channels of a pixel from what the loop summed; `sum` is that of the codes. Element `at` of the output is the first's. */
KN_INLINE void store(int32_t width, const kn_finish *f, const sums *s, uint32_t sum, int32_t o, void *output, size_t at) {
  const kn_convolution *c = f->c;
  const int32_t count = kn_min(CHANNELS, c->out_channels - o);
  int32_t accumulators[CHANNELS];
  KN_UNROLL for (int32_t k = 0; k < CHANNELS; k++) {
    const uint32_t whole = s[k / 2].whole, part = s[k / 2].part, bias = k < count ? (uint32_t)c->bias[o + k] : 0;
    if (width == 8) accumulators[k] = (int32_t)(bias + (k % 2 == 0 ? whole - (part << 8) - (sum << 7) : part));
    else accumulators[k] = (int32_t)(bias + (k % 2 == 0 ? part : (whole - part) >> 4) - (sum << 3));
  }
  if (f->is_plain && count == CHANNELS) {
    for (int32_t k = 0; k < CHANNELS; k += 4) kn_store_four(f, o + k, accumulators + k, (uint8_t *)output + at + k);
  } else {
    for (int32_t k = 0; k < count; k++) kn_store_one(f, o + k, accumulators[k], output, at + (size_t)k);
  }
}

KN_OUTLINE void all_channels_8(const kn_finish *f, const uint8_t *weights, const uint32_t *codes, const uint32_t *end, uint32_t sum, void *output,
                               size_t at) {
  const size_t step = octet_bytes(f->c);
  for (int32_t o = 0; o < f->c->out_channels; o += CHANNELS, weights += step, at += CHANNELS) {
    sums s[CHANNELS / 2] = {{0, 0}};
    add_products_8(codes, weights, end, s);
    store(8, f, s, sum, o, output, at);
  }
}

KN_OUTLINE void all_channels_4(const kn_finish *f, const uint8_t *weights, const uint32_t *codes, const uint32_t *end, uint32_t sum, void *output,
                               size_t at) {
  const size_t step = octet_bytes(f->c);
  for (int32_t o = 0; o < f->c->out_channels; o += CHANNELS, weights += step, at += CHANNELS) {
    sums s[CHANNELS / 2] = {{0, 0}};
    add_products_4(codes, weights, end, s);
    store(4, f, s, sum, o, output, at);
  }
}

static void run(const kn_convolution *c, const void *packed, const uint8_t *input, void *output, void *scratch, int32_t tile) {
  const int32_t row = row_of(c), weights = kn_row_weights(c);
  const kn_finish finish = kn_finish_of(c);
  uint32_t *codes = scratch;
  uint8_t *bytes = (uint8_t *)(codes + row / 2), *border = bytes + row;
  (void)tile;
  memset(border, c->input_zero, (size_t)c->in_channels);
  for (int32_t pixel = 0; pixel < kn_pixels_out(c); pixel++) {
    const kn_place place = kn_place_of(c, input, pixel, 0);
    kn_collect(c, &place, border, bytes);
    memset(bytes + weights, 0, (size_t)(row - weights));
    const uint32_t sum = lay_out(bytes, row, codes);
    (weight_width(c) == 8 ? all_channels_8 : all_channels_4)(&finish, packed, codes, codes + row / 2, sum, output, (size_t)pixel * c->out_channels);
  }
}

const kn_convolution_kernel kn_convolution_vector16_dsp = {
    .name = "vector16.dsp",
    .features = KN_DSP,
    .supports = supports,
    .packed_bytes = packed_bytes,
    .pack = pack,
    .scratch_bytes = scratch_bytes,
    .tiles = tiles,
    .run = run,
    .layout = 1,
};
