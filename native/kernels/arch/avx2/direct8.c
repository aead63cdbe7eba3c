/*
 * direct8.avx2: u8 codes by s8 weights with vpmaddubsw, 32 products an instruction, summed in 16 bits for as long as the weights permit.
 * Exact: where a pair of weights could saturate the instruction, the kernel does not serve the convolution.
 */
#include "patches.h"
#include "products.h"
#include "runs.h"
#include "store.h"

enum { STEP = 4 };

/* Below this mean length of runs, it is faster to widen at every step. */
enum { SHORTEST_RUN = 3 };

static kn_product_plan plan_of(const kn_convolution *c) { return kn_plan_product(c, STEP, 1, KN_PANEL); }

/* Packed: the panels' channels; for each panel the number of its runs (0: widen at every step) and their lengths; weights. */
static size_t runs_stride(const kn_product_plan *p) { return (size_t)p->steps + 1; }

static size_t runs_at(const kn_convolution *c, const kn_product_plan *p) { return (size_t)c->groups * p->panels * sizeof(kn_panel); }

static size_t weights_at(const kn_convolution *c, const kn_product_plan *p) {
  return kn_aligned(runs_at(c, p) + (size_t)c->groups * p->panels * runs_stride(p) * sizeof(uint16_t));
}

static size_t panel_bytes(const kn_product_plan *p) { return (size_t)p->steps * STEP * KN_PANEL; }

static int supports(const kn_convolution *c) {
  const kn_product_plan p = plan_of(c);
  const int32_t top = (1 << c->input_bits) - 1;
  if (c->groups > 1 && p.group_in < STEP) return 0;
  if (2 * top << (c->weight_bits - 1) <= INT16_MAX) return 1;
  for (int32_t o = 0; o < c->out_channels; o++) {
    for (int32_t i = 0; i < p.row; i += 2) {
      if (!kn_pair_fits(kn_weight(c, o, i), i + 1 < p.row ? kn_weight(c, o, i + 1) : 0, top)) return 0;
    }
  }
  return 1;
}

static size_t packed_bytes(const kn_convolution *c) {
  const kn_product_plan p = plan_of(c);
  return weights_at(c, &p) + (size_t)c->groups * p.panels * panel_bytes(&p);
}

static void pack(const kn_convolution *c, void *packed) {
  const kn_product_plan p = plan_of(c);
  kn_panel *panels = packed;
  uint16_t *runs = (uint16_t *)((uint8_t *)packed + runs_at(c, &p));
  int8_t *weights = (int8_t *)packed + weights_at(c, &p);
  memset(runs, 0, weights_at(c, &p) - runs_at(c, &p));
  memset(weights, 0, (size_t)c->groups * p.panels * panel_bytes(&p));
  for (int32_t n = 0; n < c->groups * p.panels; n++) {
    const int32_t within = n % p.panels * KN_PANEL, first = n / p.panels * p.group_out + within;
    const int32_t count = kn_min(KN_PANEL, p.group_out - within);
    kn_pack_panel(&panels[n], c, first, count);
    for (int32_t o = 0; o < count; o++) {
      for (int32_t i = 0; i < p.row; i++) {
        weights[i / STEP * (STEP * KN_PANEL) + o * STEP + i % STEP] = (int8_t)kn_weight(c, first + o, i);
      }
    }
    const int32_t found = kn_find_runs(weights, p.steps, (1 << c->input_bits) - 1, runs + 1);
    runs[0] = (uint16_t)(p.steps / found >= SHORTEST_RUN || found == 1 ? found : 0);
    runs += runs_stride(&p);
    weights += panel_bytes(&p);
  }
}

static size_t scratch_bytes(const kn_convolution *c) {
  const kn_product_plan p = plan_of(c);
  return kn_plan_scratch(&p);
}

static int32_t tiles(const kn_convolution *c) {
  const kn_product_plan p = plan_of(c);
  return kn_plan_tiles(c, &p);
}

/* Adds to 32-bit sums what a run has summed in 16 bits. */
KN_INLINE void widen(int32_t rows, __m256i *sums, const __m256i *part) {
  const __m256i ones = _mm256_set1_epi16(1);
  KN_UNROLL for (int32_t i = 0; i < 2 * rows; i++) sums[i] = _mm256_add_epi32(sums[i], _mm256_madd_epi16(part[i], ones));
}

/* `rows` pixels by a panel, into the output. */
KN_INLINE void product(int32_t rows, int half, const kn_finish *f, const kn_product_plan *p, const uint8_t *codes, const int8_t *weights,
                       const uint16_t *runs, const kn_panel *panel, void *output, size_t at, int32_t channels) {
  const __m256i low = kn_load(panel->bias), high = kn_load(panel->bias + 8);
  __m256i sums[2 * KN_MAX_ROWS], part[2 * KN_MAX_ROWS];
  if (runs[0] == 0) {
    kn_loop_widening(rows, half, codes, p->stride, weights, p->steps, part);
    KN_UNROLL for (int32_t i = 0; i < 2 * rows; i++) sums[i] = _mm256_add_epi32(part[i], i & 1 ? high : low);
  } else {
    KN_UNROLL for (int32_t i = 0; i < 2 * rows; i++) sums[i] = i & 1 ? high : low;
    for (int32_t n = 1; n <= runs[0]; n++) {
      kn_loop_short(rows, half, codes, p->stride, weights, runs[n], part);
      codes += STEP * runs[n];
      weights += STEP * KN_PANEL * (size_t)runs[n];
      widen(rows, sums, part);
    }
  }
  kn_store(rows, f, panel, sums, output, at, (size_t)p->out_step, channels);
}

KN_CODE static void run(const kn_convolution *c, const void *packed, const uint8_t *input, void *output, void *scratch, int32_t tile) {
  const kn_product_plan p = plan_of(c);
  const kn_product_tile t = kn_plan_tile(&p, tile);
  const kn_finish f = kn_finish_of(c);
  const uint8_t *codes = scratch;
  if (p.in_place) {
    codes = input + (size_t)t.pixel * p.stride + (size_t)t.group * p.group_in;
  } else {
    kn_gather(c, &p, input, t.group, t.pixel, t.pixel_count, scratch, 0);
  }
  for (int32_t n = t.panel; n < t.panel_end; n++) {
    const size_t at = (size_t)t.group * p.panels + n;
    const kn_panel *panel = (const kn_panel *)packed + at;
    const uint16_t *runs = (const uint16_t *)((const uint8_t *)packed + runs_at(c, &p)) + at * runs_stride(&p);
    const int8_t *weights = (const int8_t *)packed + weights_at(c, &p) + at * panel_bytes(&p);
    const int32_t channels = kn_min(KN_PANEL, p.group_out - n * KN_PANEL);
    size_t out = (size_t)t.pixel * c->out_channels + (size_t)t.group * p.group_out + (size_t)n * KN_PANEL;
    for (int32_t m = 0, rows; m < t.pixel_count; m += rows) {
      rows = kn_next_rows(t.pixel_count - m);
      KN_FOR_ROWS(rows, channels <= KN_PANEL / 2, product, &f, &p, codes + (size_t)m * p.stride, weights, runs, panel, output, out, channels);
      out += (size_t)rows * c->out_channels;
    }
  }
}

const kn_convolution_kernel kn_convolution_direct8_avx2 = {
    .name = "direct8.avx2",
    .features = KN_AVX2,
    .supports = supports,
    .packed_bytes = packed_bytes,
    .pack = pack,
    .scratch_bytes = scratch_bytes,
    .tiles = tiles,
    .run = run,
};
