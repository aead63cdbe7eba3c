/*
 * vector8.avx2: products of a matrix with one vector, where each weight is used once and the time goes into reading them. Weights of 2 or
 * 4 bits stay packed in memory and are unpacked between loading and vpmaddubsw, which takes less time than loading twice as many bytes.
 *
 * Unpacked weights are unsigned, for want of an instruction that extends their sign: 2^(bits - 1) too large. That many times the codes is
 * summed beside them, once for all channels, and subtracted before sums are widened. Sums are modulo 2^16, so it is the true ones
 * that have to fit.
 */
#if defined(__x86_64__) && !defined(KN_PORTABLE)
#include "patches.h"
#include "runs.h"
#include "store.h"

/* Codes of a step; channels of a panel, and of a register of unpacked weights. */
enum { STEP = 4, WIDTH = 64, LANE_CHANNELS = 8, MAX_PARTS = WIDTH / LANE_CHANNELS };

/* The kernel covers the whole input, so that its codes are the vector as they lie. */
static int is_vector(const kn_convolution *c) {
  return c->batch == 1 && c->groups == 1 && c->out_height == 1 && c->out_width == 1 && c->pad_top == 0 && c->pad_left == 0 &&
         c->dilation_y == 1 && c->dilation_x == 1 && c->kernel_height == c->in_height && c->kernel_width == c->in_width;
}

static int supports(const kn_convolution *c) { return c->weight_bits <= 4 && is_vector(c); }

static kn_product_plan plan_of(const kn_convolution *c) { return kn_plan_product(c, STEP, 1, WIDTH); }
static int32_t bits_of(const kn_convolution *c) { return c->weight_bits <= 2 ? 2 : 4; }

typedef struct {
  kn_panel channels[WIDTH / KN_PANEL];
  int32_t run_count;
} panel;

/*
 * Packed: panels; weights of all panels, [step][register][8 channels][4 codes] bytes; lengths of runs. A byte's lowest weight is of the
 * register's first 8 channels, the next one of the next 8.
 */
static size_t step_bytes(const kn_convolution *c) { return (size_t)WIDTH * STEP * (size_t)bits_of(c) / 8; }
static size_t weights_at(const kn_product_plan *p) { return (size_t)p->panels * sizeof(panel); }
static size_t runs_at(const kn_convolution *c, const kn_product_plan *p) {
  return weights_at(p) + (size_t)p->panels * p->steps * step_bytes(c);
}

static size_t packed_bytes(const kn_convolution *c) {
  const kn_product_plan p = plan_of(c);
  return kn_aligned(runs_at(c, &p) + (size_t)p.panels * p.steps * sizeof(uint16_t));
}

static void pack(const kn_convolution *c, void *packed) {
  const kn_product_plan p = plan_of(c);
  const int32_t bits = bits_of(c), parts = 8 / bits, mask = (1 << bits) - 1;
  panel *to = packed;
  uint8_t *weights = (uint8_t *)packed + weights_at(&p);
  uint16_t *runs = (uint16_t *)((uint8_t *)packed + runs_at(c, &p));
  memset(packed, 0, packed_bytes(c));
  /* Zero is 2^(bits - 1) here; flipping that bit adds it. */
  memset(weights, bits == 4 ? 0x88 : 0xAA, (size_t)p.panels * p.steps * step_bytes(c));
  for (int32_t n = 0; n < p.panels; n++, to++, weights += (size_t)p.steps * step_bytes(c), runs += p.steps) {
    const int32_t first = n * WIDTH, count = kn_min(WIDTH, c->out_channels - first);
    for (int32_t i = 0; i < WIDTH; i += KN_PANEL) {
      kn_pack_panel(&to->channels[i / KN_PANEL], c, first + i, kn_max(0, kn_min(KN_PANEL, count - i)));
    }
    to->run_count = kn_find_channel_runs(c, first, count, STEP, INT16_MAX, runs);
    for (int32_t o = 0; o < count; o++) {
      const int32_t part = o / LANE_CHANNELS;
      uint8_t *lane = weights + part / parts * 32 + o % LANE_CHANNELS * STEP;
      for (int32_t i = 0; i < p.row; i++) {
        lane[i / STEP * step_bytes(c) + i % STEP] ^= (uint8_t)((kn_weight(c, first + o, i) & mask) << part % parts * bits);
      }
    }
  }
}

static size_t scratch_bytes(const kn_convolution *c) {
  (void)c;
  return 0;
}

static int32_t tiles(const kn_convolution *c) {
  const kn_product_plan p = plan_of(c);
  return kn_plan_tiles(c, &p);
}

/* The vector by the first `registers` registers of a panel, into the output. */
KN_INLINE void product(int32_t bits, int32_t registers, const kn_finish *f, const uint8_t *codes, const panel *from,
                       const uint8_t *weights, const uint16_t *runs, void *output, size_t at, int32_t count) {
  const int32_t parts = 8 / bits, step = WIDTH * STEP * bits / 8;
  const __m256i mask = _mm256_set1_epi8((char)((1 << bits) - 1)), excess = _mm256_set1_epi8((char)(1 << (bits - 1)));
  const __m256i ones = _mm256_set1_epi16(1);
  __m256i sums[MAX_PARTS];
  KN_UNROLL for (int32_t i = 0; i < registers * parts; i++) sums[i] = kn_load(from->channels[i / 2].bias + i % 2 * LANE_CHANNELS);
  for (int32_t n = 0; n < from->run_count; n++) {
    __m256i part[MAX_PARTS], beside = _mm256_setzero_si256();
    KN_UNROLL for (int32_t i = 0; i < registers * parts; i++) part[i] = _mm256_setzero_si256();
    for (int32_t k = 0; k < runs[n]; k++, codes += STEP, weights += step) {
      int32_t word;
      memcpy(&word, codes, sizeof word);
      const __m256i v = _mm256_set1_epi32(word);
      beside = _mm256_add_epi16(beside, _mm256_maddubs_epi16(v, excess));
      KN_UNROLL for (int32_t r = 0; r < registers; r++) {
        const __m256i loaded = kn_load(weights + 32 * r);
        KN_UNROLL for (int32_t j = 0; j < parts; j++) {
          const __m256i w = _mm256_and_si256(j ? _mm256_srli_epi16(loaded, j * bits) : loaded, mask);
          part[r * parts + j] = _mm256_add_epi16(part[r * parts + j], _mm256_maddubs_epi16(v, w));
        }
      }
    }
    KN_UNROLL for (int32_t i = 0; i < registers * parts; i++) {
      sums[i] = _mm256_add_epi32(sums[i], _mm256_madd_epi16(_mm256_sub_epi16(part[i], beside), ones));
    }
  }
  for (int32_t o = 0; o < count; o += KN_PANEL) {
    kn_store(1, f, &from->channels[o / KN_PANEL], sums + o / LANE_CHANNELS, output, at + o, 0, kn_min(KN_PANEL, count - o));
  }
}

KN_CODE static void run(const kn_convolution *c, const void *packed, const uint8_t *input, void *output, void *scratch, int32_t tile) {
  const kn_product_plan p = plan_of(c);
  const kn_product_tile t = kn_plan_tile(&p, tile);
  const kn_finish f = kn_finish_of(c);
  const int32_t bits = bits_of(c), register_channels = LANE_CHANNELS * 8 / bits;
  (void)scratch;
  for (int32_t n = t.panel; n < t.panel_end; n++) {
    const panel *from = (const panel *)packed + n;
    const uint8_t *weights = (const uint8_t *)packed + weights_at(&p) + (size_t)n * p.steps * step_bytes(c);
    const uint16_t *runs = (const uint16_t *)((const uint8_t *)packed + runs_at(c, &p)) + (size_t)n * p.steps;
    const int32_t count = kn_min(WIDTH, c->out_channels - n * WIDTH), registers = kn_up(count, register_channels);
    const size_t at = (size_t)n * WIDTH;
    switch (bits * 8 + registers) {
      case 2 * 8 + 1: product(2, 1, &f, input, from, weights, runs, output, at, count); break;
      case 2 * 8 + 2: product(2, 2, &f, input, from, weights, runs, output, at, count); break;
      case 4 * 8 + 1: product(4, 1, &f, input, from, weights, runs, output, at, count); break;
      case 4 * 8 + 2: product(4, 2, &f, input, from, weights, runs, output, at, count); break;
      case 4 * 8 + 3: product(4, 3, &f, input, from, weights, runs, output, at, count); break;
      default: product(4, 4, &f, input, from, weights, runs, output, at, count);
    }
  }
}

const kn_convolution_kernel kn_convolution_vector8_avx2 = {
    .name = "vector8.avx2",
    .features = KN_AVX2,
    .supports = supports,
    .packed_bytes = packed_bytes,
    .pack = pack,
    .scratch_bytes = scratch_bytes,
    .tiles = tiles,
    .run = run,
};

#endif
