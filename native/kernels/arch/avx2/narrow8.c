/*
 * narrow8.avx2: u8 codes by s8 weights where every accumulator is certified to fit 16 bits, by the narrow rule or from the weights: sums
 * stay in 16 bits to the end, however often they wrap around on the way, and are requantized there. A step is two codes by 32 channels.
 */
#if defined(__x86_64__) && !defined(KN_PORTABLE)
#include "patches.h"
#include "products.h"
#include "runs.h"
#include "store.h"

enum { STEP = 2, WIDTH = 2 * KN_PANEL };

static kn_product_plan plan_of(const kn_convolution *c) { return kn_plan_product(c, STEP, 1, WIDTH); }

/* Packed: the panels' channels, two kn_panel each; weights. */
static size_t weights_at(const kn_convolution *c, const kn_product_plan *p) {
  return (size_t)c->groups * p->panels * 2 * sizeof(kn_panel);
}

static size_t panel_bytes(const kn_product_plan *p) { return (size_t)p->steps * STEP * WIDTH; }

static int supports(const kn_convolution *c) {
  const kn_product_plan p = plan_of(c);
  const int32_t top = (1 << c->input_bits) - 1;
  if (c->rule == KN_ACCUMULATORS || (c->groups > 1 && p.group_in < 4)) return 0;
  for (int32_t o = 0; o < c->out_channels; o++) {
    if (!kn_fits_short(c, o)) return 0;
  }
  if (2 * top << (c->weight_bits - 1) <= INT16_MAX) return 1;
  for (int32_t o = 0; o < c->out_channels; o++) {
    for (int32_t i = 0; i < p.row; i += STEP) {
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
  int8_t *weights = (int8_t *)packed + weights_at(c, &p);
  memset(weights, 0, (size_t)c->groups * p.panels * panel_bytes(&p));
  for (int32_t n = 0; n < c->groups * p.panels; n++, panels += 2, weights += panel_bytes(&p)) {
    const int32_t within = n % p.panels * WIDTH, first = n / p.panels * p.group_out + within;
    const int32_t count = kn_min(WIDTH, p.group_out - within);
    kn_pack_panel(&panels[0], c, first, kn_min(count, KN_PANEL));
    kn_pack_panel(&panels[1], c, first + KN_PANEL, kn_max(0, count - KN_PANEL));
    for (int32_t o = 0; o < count; o++) {
      for (int32_t i = 0; i < p.row; i++) {
        weights[i / STEP * (STEP * WIDTH) + o * STEP + i % STEP] = (int8_t)kn_weight(c, first + o, i);
      }
    }
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
KN_INLINE void product(int32_t rows, int half, const kn_finish *f, const kn_product_plan *p, const uint8_t *codes, const int8_t *weights,
                       const kn_panel *panels, uint8_t *out, int32_t count) {
  __m256i sums[2 * KN_MAX_ROWS];
  kn_loop_narrow(rows, half, codes, p->stride, weights, p->steps, sums);
  KN_UNROLL for (int32_t r = 0; r < rows; r++, out += p->out_step) kn_store_short(f, panels, sums[2 * r], sums[2 * r + 1], out, count);
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
    const kn_panel *panels = (const kn_panel *)packed + 2 * at;
    const int8_t *weights = (const int8_t *)packed + weights_at(c, &p) + at * panel_bytes(&p);
    const int32_t count = kn_min(WIDTH, p.group_out - n * WIDTH);
    uint8_t *out = (uint8_t *)output + (size_t)t.pixel * c->out_channels + (size_t)t.group * p.group_out + (size_t)n * WIDTH;
    for (int32_t m = 0, rows; m < t.pixel_count; m += rows, out += (size_t)rows * c->out_channels) {
      rows = kn_next_rows(t.pixel_count - m);
      KN_FOR_ROWS(rows, count <= KN_PANEL, product, &f, &p, codes + (size_t)m * p.stride, weights, panels, out, count);
    }
  }
}

const kn_convolution_kernel kn_convolution_narrow8_avx2 = {
    .name = "narrow8.avx2",
    .features = KN_AVX2,
    .supports = supports,
    .packed_bytes = packed_bytes,
    .pack = pack,
    .scratch_bytes = scratch_bytes,
    .tiles = tiles,
    .run = run,
};

#endif
