/*
 * The body of the direct8 kernels: the convolution as a product of matrices. The file that includes this defines KERNEL, KERNEL_NAME and
 * KERNEL_FEATURES.
 */
#include "patches.h"
#include "products.h"
#include "store.h"

enum { STEP = 4 };

/* What belongs to a panel, at the beginning of its packed weights. */
typedef struct {
  kn_panel channels;
  int32_t is_careful;
} __attribute__((aligned(KN_ALIGNMENT))) panel;

static kn_product_plan plan_of(const kn_convolution *c) { return kn_plan_product(c, STEP, 1, KN_PANEL); }

static size_t panel_bytes(const kn_product_plan *p) { return sizeof(panel) + (size_t)p->steps * KN_STEP_BYTES; }

static int supports(const kn_convolution *c) { return c->groups == 1 || c->in_channels / c->groups >= STEP; }

static size_t packed_bytes(const kn_convolution *c) {
  const kn_product_plan p = plan_of(c);
  return (size_t)c->groups * p.panels * panel_bytes(&p);
}

static void pack(const kn_convolution *c, void *packed) {
  const kn_product_plan p = plan_of(c);
  memset(packed, 0, packed_bytes(c));
  for (int32_t n = 0; n < c->groups * p.panels; n++) {
    panel *to = (panel *)(void *)((uint8_t *)packed + (size_t)n * panel_bytes(&p));
    int8_t *weights = (int8_t *)(to + 1);
    const int32_t within = n % p.panels * KN_PANEL, first = n / p.panels * p.group_out + within;
    const int32_t count = kn_min(KN_PANEL, p.group_out - within);
    kn_pack_panel(&to->channels, c, first, count);
    for (int32_t o = 0; o < count; o++) {
      to->channels.bias[o] = (int32_t)((uint32_t)to->channels.bias[o] + (uint32_t)kn_flipped_part(c, first + o));
      for (int32_t i = 0; i < p.row; i++) {
        const int32_t weight = kn_weight(c, first + o, i);
        weights[i / STEP * KN_STEP_BYTES + kn_place_8(o, i % STEP)] = (int8_t)weight;
        if (i % STEP >= 2 && kn_is_flipped(c)) to->is_careful |= kn_needs_care(kn_weight(c, first + o, i - 2), weight);
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

/* `rows` pixels by the first 4 * `parts` channels of a panel, into the output. */
KN_INLINE void product(int32_t rows, int32_t parts, int careful, const kn_product_plan *p, const uint8_t *codes, uint8x16_t flip,
                       const panel *from, const kn_finish *f, void *output, size_t at, int32_t channels) {
  int32x4_t sums[KN_PARTS * KN_MAX_ROWS];
  KN_UNROLL for (int32_t j = 0; j < parts; j++) sums[j] = vld1q_s32(from->channels.bias + 4 * j);
  KN_UNROLL for (int32_t r = 1; r < rows; r++) {
    KN_UNROLL for (int32_t j = 0; j < parts; j++) sums[KN_PARTS * r + j] = sums[j];
  }
  kn_loop_8(rows, parts, careful, codes, p->stride, flip, (const int8_t *)(from + 1), p->steps, sums);
  KN_UNROLL for (int32_t r = 0; r < rows; r++) kn_store(parts, f, &from->channels, sums + KN_PARTS * r, output, at + (size_t)r * (size_t)p->out_step, channels);
}

KN_INLINE void panel_of_pixels(int32_t parts, int careful, const kn_product_plan *p, const uint8_t *codes, uint8x16_t flip, const panel *from,
                               const kn_finish *finish, void *output, size_t at, int32_t channels, int32_t pixels) {
  const kn_finish f = *finish; /* a copy that no byte stored to the output can change */
  for (int32_t m = 0, rows; m < pixels; m += rows, at += (size_t)rows * (size_t)p->out_step) {
    rows = kn_next_rows(pixels - m);
    KN_FOR_ROWS(rows, product, parts, careful, p, codes + (size_t)m * p->stride, flip, from, &f, output, at, channels);
  }
}

#define PANEL_OF_PIXELS(name, parts, careful)                                                                                             \
  KN_OUTLINE void name(const kn_product_plan *p, const uint8_t *codes, uint8x16_t flip, const panel *from, const kn_finish *f, void *output, \
                       size_t at, int32_t channels, int32_t pixels) {                                                                     \
    panel_of_pixels(parts, careful, p, codes, flip, from, f, output, at, channels, pixels);                                               \
  }
PANEL_OF_PIXELS(whole_panel, 4, 0)
PANEL_OF_PIXELS(half_panel, 2, 0)
#if defined(KN_DOT)
#define careful_panel whole_panel
#else
PANEL_OF_PIXELS(careful_panel, 4, 1)
#endif

KN_CODE static void run(const kn_convolution *c, const void *packed, const uint8_t *input, void *output, void *scratch, int32_t tile) {
  const kn_product_plan p = plan_of(c);
  const kn_product_tile t = kn_plan_tile(&p, tile);
  const kn_finish f = kn_finish_of(c);
  const uint8x16_t flip = kn_flip_of(c);
  const uint8_t *codes = scratch;
  if (p.in_place) {
    codes = input + (size_t)t.pixel * p.stride + (size_t)t.group * p.group_in;
  } else {
    kn_gather(c, &p, input, t.group, t.pixel, t.pixel_count, scratch, 0);
  }
  for (int32_t n = t.panel; n < t.panel_end; n++) {
    const panel *from = (const panel *)(const void *)((const uint8_t *)packed + ((size_t)t.group * p.panels + n) * panel_bytes(&p));
    const int32_t channels = kn_min(KN_PANEL, p.group_out - n * KN_PANEL);
    const size_t at = (size_t)t.pixel * c->out_channels + (size_t)t.group * p.group_out + (size_t)n * KN_PANEL;
    if (from->is_careful) careful_panel(&p, codes, flip, from, &f, output, at, channels, t.pixel_count);
    else if (channels <= KN_PANEL / 2) half_panel(&p, codes, flip, from, &f, output, at, channels, t.pixel_count);
    else whole_panel(&p, codes, flip, from, &f, output, at, channels, t.pixel_count);
  }
}

const kn_convolution_kernel KERNEL = {
    .name = KERNEL_NAME,
    .features = KERNEL_FEATURES,
    .supports = supports,
    .packed_bytes = packed_bytes,
    .pack = pack,
    .scratch_bytes = scratch_bytes,
    .tiles = tiles,
    .run = run,
};
