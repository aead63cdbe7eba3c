/*
 * direct16.avx2: codes and weights as 16-bit numbers with vpmaddwd, 16 products an instruction, summed in 32 bits. Exact for any weights
 * and activations of up to 8 bits.
 */
#if defined(__x86_64__) && !defined(KN_PORTABLE)
#include "patches.h"
#include "products.h"
#include "store.h"

enum { STEP = 2 };

static kn_product_plan plan_of(const kn_convolution *c) { return kn_plan_product(c, STEP, 2, KN_PANEL); }

/* Packed: the panels' channels; weights. */
static size_t weights_at(const kn_convolution *c, const kn_product_plan *p) {
  return kn_aligned((size_t)c->groups * p->panels * sizeof(kn_panel));
}

static size_t panel_weights(const kn_product_plan *p) { return (size_t)p->steps * STEP * KN_PANEL; }

static int supports(const kn_convolution *c) { return c->groups == 1 || c->in_channels / c->groups >= 4; }

static size_t packed_bytes(const kn_convolution *c) {
  const kn_product_plan p = plan_of(c);
  return weights_at(c, &p) + (size_t)c->groups * p.panels * panel_weights(&p) * sizeof(int16_t);
}

static void pack(const kn_convolution *c, void *packed) {
  const kn_product_plan p = plan_of(c);
  int16_t *weights = (int16_t *)((uint8_t *)packed + weights_at(c, &p));
  memset(weights, 0, (size_t)c->groups * p.panels * panel_weights(&p) * sizeof(int16_t));
  for (int32_t n = 0; n < c->groups * p.panels; n++) {
    const int32_t within = n % p.panels * KN_PANEL, first = n / p.panels * p.group_out + within;
    const int32_t count = kn_min(KN_PANEL, p.group_out - within);
    kn_pack_panel((kn_panel *)packed + n, c, first, count);
    for (int32_t o = 0; o < count; o++) {
      for (int32_t i = 0; i < p.row; i++) {
        weights[i / STEP * (STEP * KN_PANEL) + o * STEP + i % STEP] = (int16_t)kn_weight(c, first + o, i);
      }
    }
    weights += panel_weights(&p);
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

/* `rows` pixels by a panel, into the output. */
KN_INLINE void product(int32_t rows, int half, const kn_finish *f, const kn_product_plan *p, const void *codes, const int16_t *weights,
                       const kn_panel *panel, void *output, size_t at, int32_t channels) {
  const __m256i low = kn_load(panel->bias), high = kn_load(panel->bias + 8);
  __m256i sums[2 * KN_MAX_ROWS];
  kn_loop_exact(rows, half, codes, p->stride, weights, p->steps, sums);
  KN_UNROLL for (int32_t i = 0; i < 2 * rows; i++) sums[i] = _mm256_add_epi32(sums[i], i & 1 ? high : low);
  kn_store(rows, f, panel, sums, output, at, (size_t)p->out_step, channels);
}

KN_CODE static void run(const kn_convolution *c, const void *packed, const uint8_t *input, void *output, void *scratch, int32_t tile) {
  const kn_product_plan p = plan_of(c);
  const kn_product_tile t = kn_plan_tile(&p, tile);
  const kn_finish f = kn_finish_of(c);
  kn_gather(c, &p, input, t.group, t.pixel, t.pixel_count, scratch, 1);
  for (int32_t n = t.panel; n < t.panel_end; n++) {
    const size_t at = (size_t)t.group * p.panels + n;
    const kn_panel *panel = (const kn_panel *)packed + at;
    const int16_t *weights = (const int16_t *)((const uint8_t *)packed + weights_at(c, &p)) + at * panel_weights(&p);
    const int32_t channels = kn_min(KN_PANEL, p.group_out - n * KN_PANEL);
    size_t out = (size_t)t.pixel * c->out_channels + (size_t)t.group * p.group_out + (size_t)n * KN_PANEL;
    for (int32_t m = 0, rows; m < t.pixel_count; m += rows) {
      rows = kn_next_rows(t.pixel_count - m);
      KN_FOR_ROWS(rows, channels <= KN_PANEL / 2, product, &f, &p, (const uint8_t *)scratch + (size_t)m * p.stride, weights, panel, output, out, channels);
      out += (size_t)rows * c->out_channels;
    }
  }
}

const kn_convolution_kernel kn_convolution_direct16_avx2 = {
    .name = "direct16.avx2",
    .features = KN_AVX2,
    .supports = supports,
    .packed_bytes = packed_bytes,
    .pack = pack,
    .scratch_bytes = scratch_bytes,
    .tiles = tiles,
    .run = run,
};
#endif
