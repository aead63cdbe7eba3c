/*
 * The body of the Winograd kernels of ../../shared/winograd.h. Transformed codes of 8 bits are signed; only those that are never negative
 * and need all 8 bits are offset. A file includes this and names its kernels by WINOGRAD.
 */
#include "patches.h"
#include "products.h"
#include "store.h"

/* Bytes of a register. */
enum { REGISTER = 16 };

#include "../../shared/winograd.h"

/* What is added to transformed codes up to `top` at one position, so that they fit 8 bits. */
static inline int32_t offset_at(kind k, int32_t position, int32_t top) {
  int32_t below, above;
  reach(k, position, top, &below, &above);
  return below <= 128 && above <= 127 ? 0 : below - 128;
}

/* Whether transformed codes fit 8 bits, and weights too without -128, so that no loop need be careful. */
static inline int operands_fit(kind k, const kn_convolution *c) {
  const int32_t top = (1 << c->input_bits) - 1;
  for (int32_t i = 0; i < positions(k); i++) {
    int32_t below, above;
    reach(k, i, top, &below, &above);
    if (below + above > UINT8_MAX) return 0;
  }
  for (int32_t o = 0; o < c->out_channels; o++) {
    for (int32_t n = 0; n < c->in_channels; n++) {
      int32_t u[MAX_POSITIONS];
      transform_weights(k, c, o, n, u);
      for (int32_t i = 0; i < positions(k); i++) {
        if (u[i] < -INT8_MAX || u[i] > INT8_MAX) return 0;
      }
    }
  }
  return 1;
}

static inline int supports_4x4(const kn_convolution *c) { return is_3x3(c) && sums_fit(c, 25); }
static inline int supports_2x2(const kn_convolution *c) { return is_3x3(c) && c->input_bits <= 6 && sums_fit(c, 29) && operands_fit(K2X2, c); }
static inline int supports_4x2(const kn_convolution *c) { return is_3x3(c) && c->input_bits <= 3 && sums_fit(c, 27) && operands_fit(K4X2, c); }

/* Packed: panels; weights [panel][position], or as pack_late has them. */
static inline size_t weights_at(const plan *p) { return kn_aligned((size_t)p->panels * sizeof(panel)); }

static inline size_t packed_bytes(kind k, const kn_convolution *c) {
  const plan p = plan_of(k, c);
  return weights_at(&p) + (size_t)p.panels * p.weights_panel;
}

static inline void pack(kind k, const kn_convolution *c, void *packed) {
  const plan p = plan_of(k, c);
  const int32_t top = (1 << c->input_bits) - 1, step = codes_per_step(k);
  memset(packed, 0, packed_bytes(k, c));
  for (int32_t n = 0; n < p.panels; n++) {
    panel *to = (panel *)packed + n;
    uint8_t *weights = (uint8_t *)packed + weights_at(&p) + (size_t)n * p.weights_panel;
    const int32_t count = kn_min(KN_PANEL, c->out_channels - n * KN_PANEL);
    kn_pack_panel(&to->channels, c, n * KN_PANEL, count);
    for (int32_t o = 0; o < count; o++) {
      int32_t offsets[MAX_POSITIONS] = {0}, u[MAX_POSITIONS];
      for (int32_t i = 0; i < c->in_channels; i++) {
        if (is_late(k)) {
          pack_late(c, n * KN_PANEL + o, i, kn_place_16(o, i % step), (int8_t *)weights);
          continue;
        }
        transform_weights(k, c, n * KN_PANEL + o, i, u);
        for (int32_t xi = 0; xi < positions(k); xi++) {
          int8_t *at = (int8_t *)weights + (size_t)xi * p.weights_position + (size_t)(i / step) * KN_STEP_BYTES;
          at[kn_place_8(o, i % step)] = (int8_t)u[xi];
          offsets[xi] += offset_at(k, xi, top) * u[xi];
        }
      }
      pack_offsets(k, offsets, to, o);
    }
  }
}

/* Lanes of 8 or 16 bits. */
KN_INLINE uint8x16_t add(uint8x16_t a, uint8x16_t b, int32_t bytes) {
  return bytes == 1 ? vaddq_u8(a, b) : vreinterpretq_u8_u16(vaddq_u16(vreinterpretq_u16_u8(a), vreinterpretq_u16_u8(b)));
}
KN_INLINE uint8x16_t sub(uint8x16_t a, uint8x16_t b, int32_t bytes) {
  return bytes == 1 ? vsubq_u8(a, b) : vreinterpretq_u8_u16(vsubq_u16(vreinterpretq_u16_u8(a), vreinterpretq_u16_u8(b)));
}
KN_INLINE uint8x16_t times_4(uint8x16_t a, int32_t bytes) {
  return bytes == 1 ? vshlq_n_u8(a, 2) : vreinterpretq_u8_u16(vshlq_n_u16(vreinterpretq_u16_u8(a), 2));
}

/* The transform of codes along one side. */
KN_INLINE void forth(int32_t pixels, const uint8x16_t *d, uint8x16_t *out, int32_t n) {
  if (pixels == 4) {
    const uint8x16_t d42 = sub(d[4], d[2], n), d31 = sub(d[3], d[1], n), twice31 = add(d31, d31, n);
    const uint8x16_t even = sub(d[4], times_4(d[2], n), n), odd = sub(d[3], times_4(d[1], n), n);
    out[0] = add(times_4(sub(d[0], d[2], n), n), d42, n);
    out[1] = add(even, odd, n);
    out[2] = sub(even, odd, n);
    out[3] = add(d42, twice31, n);
    out[4] = sub(d42, twice31, n);
    out[5] = sub(sub(d[5], d[3], n), times_4(d31, n), n);
  } else {
    out[0] = sub(d[0], d[2], n);
    out[1] = add(d[1], d[2], n);
    out[2] = sub(d[2], d[1], n);
    out[3] = sub(d[1], d[3], n);
  }
}

/* Transforms the codes of one tile: `at` are the pixels under it, `codes` its place at position 0. */
KN_INLINE void transform_codes(kind k, const plan *p, const uint8_t *const *at, const uint8_t *offsets, uint8_t *codes) {
  const int32_t n = k.code_bytes;
  for (size_t channel = 0; channel * n < p->row_bytes; channel += REGISTER / n) {
    uint8x16_t rows[MAX_SIDE][MAX_SIDE];
    KN_UNROLL for (int32_t x = 0; x < in_width(k); x++) {
      uint8x16_t d[MAX_SIDE], out[MAX_SIDE];
      KN_UNROLL for (int32_t y = 0; y < in_height(k); y++) {
        const uint8_t *from = at[y * in_width(k) + x] + channel;
        d[y] = n == 1 ? vld1q_u8(from) : vreinterpretq_u8_u16(vmovl_u8(vld1_u8(from)));
      }
      forth(k.out_height, d, out, n);
      KN_UNROLL for (int32_t y = 0; y < in_height(k); y++) rows[y][x] = out[y];
    }
    uint8_t *to = codes + channel * n;
    KN_UNROLL for (int32_t y = 0; y < in_height(k); y++) {
      uint8x16_t out[MAX_SIDE];
      forth(k.out_width, rows[y], out, n);
      KN_UNROLL for (int32_t x = 0; x < in_width(k); x++, to += p->codes_position) {
        vst1q_u8(to, n == 1 ? vaddq_u8(out[x], vdupq_n_u8(offsets[y * in_width(k) + x])) : out[x]);
      }
    }
  }
}

/* The transform of weights along one side. */
KN_INLINE void spread(int32_t pixels, const uint8x16_t *g, uint8x16_t *out) {
  const uint8x16_t even = add(g[0], g[2], 2);
  out[0] = g[0];
  out[1] = add(even, g[1], 2);
  out[2] = sub(even, g[1], 2);
  if (pixels == 4) {
    const uint8x16_t wide = add(g[0], times_4(g[2], 2), 2), odd = add(g[1], g[1], 2);
    out[3] = add(wide, odd, 2);
    out[4] = sub(wide, odd, 2);
  }
  out[pixels + 1] = g[2];
}

/* Transforms the weights of some steps, eight at a time. */
KN_INLINE void transform_late(kind k, const int8_t *weights, int32_t steps, uint8_t *to) {
  for (int32_t part = 0; part < 4 * steps; part++, weights += part % 4 ? 8 : LATE_PACKED - 24, to += 16) {
    uint8x16_t rows[MAX_SIDE][3];
    KN_UNROLL for (int32_t x = 0; x < 3; x++) {
      uint8x16_t g[3], out[MAX_SIDE];
      KN_UNROLL for (int32_t y = 0; y < 3; y++) g[y] = vreinterpretq_u8_s16(vmovl_s8(vld1_s8(weights + (y * 3 + x) * 2 * KN_PANEL)));
      spread(k.out_height, g, out);
      KN_UNROLL for (int32_t y = 0; y < in_height(k); y++) rows[y][x] = out[y];
    }
    KN_UNROLL for (int32_t y = 0; y < in_height(k); y++) {
      uint8x16_t out[MAX_SIDE];
      spread(k.out_width, rows[y], out);
      KN_UNROLL for (int32_t x = 0; x < in_width(k); x++) vst1q_u8(to + (y * in_width(k) + x) * LATE_POSITION, out[x]);
    }
  }
}

/* Sums of `rows` tiles at one position, [tile][part]: those of the first steps, or more of them. */
KN_INLINE void product(int32_t rows, kind k, const plan *p, const uint8_t *codes, const uint8_t *weights, int32_t steps, int32_t is_first,
                       uint32_t *out) {
  int32x4_t sums[KN_PARTS * KN_MAX_ROWS];
  KN_UNROLL for (int32_t i = 0; i < KN_PARTS * rows; i++) {
    sums[i] = is_first ? vdupq_n_s32(0) : vreinterpretq_s32_u32(vld1q_u32(out + 4 * i));
  }
  if (k.code_bytes == 1) {
    kn_loop_8(rows, KN_PARTS, 0, codes, p->row_bytes, vdupq_n_u8(0), (const int8_t *)weights, steps, sums);
  } else {
    kn_loop_16(rows, codes, p->row_bytes, (const int16_t *)(const void *)weights, steps, sums);
  }
  KN_UNROLL for (int32_t i = 0; i < KN_PARTS * rows; i++) vst1q_u32(out + 4 * i, vreinterpretq_u32_s32(sums[i]));
}

/* Sums are unsigned here, as they may overflow. */
KN_INLINE uint32x4_t plus(uint32x4_t a, uint32x4_t b) { return vaddq_u32(a, b); }
KN_INLINE uint32x4_t minus(uint32x4_t a, uint32x4_t b) { return vsubq_u32(a, b); }
KN_INLINE uint32x4_t shifted(uint32x4_t a, int32_t by) { return a << by; }

/* The inverse transform of sums along one side; `back` is the same for numbers. */
KN_INLINE void inverse(int32_t pixels, const uint32x4_t *m, uint32x4_t *out) {
  if (pixels == 4) {
    const uint32x4_t p = plus(m[1], m[2]), q = minus(m[1], m[2]), r = plus(m[3], m[4]), s = minus(m[3], m[4]);
    const uint32x4_t p4 = shifted(p, 2), q4 = shifted(q, 2);
    out[0] = plus(minus(plus(shifted(m[0], 2), shifted(m[0], 1)), p4), r);
    out[1] = minus(shifted(s, 1), q4);
    out[2] = minus(shifted(r, 2), p4);
    out[3] = plus(minus(shifted(s, 3), q4), plus(shifted(m[5], 4), shifted(m[5], 3)));
  } else {
    out[0] = plus(shifted(m[0], 1), plus(m[1], m[2]));
    out[1] = minus(minus(m[1], m[2]), shifted(m[3], 1));
  }
}

/* Sums of one tile of a panel to the accumulators of its pixels: [pixel][part]. */
KN_INLINE void transform_sums(kind k, const plan *p, const panel *from, const uint32_t *sums, int32x4_t *pixels) {
  for (int32_t j = 0; j < KN_PARTS; j++) {
    const int32x4_t bias = vld1q_s32(from->channels.bias + 4 * j);
    uint32x4_t rows[4][MAX_SIDE];
    KN_UNROLL for (int32_t x = 0; x < in_width(k); x++) {
      uint32x4_t m[MAX_SIDE], out[4];
      KN_UNROLL for (int32_t y = 0; y < in_height(k); y++) {
        m[y] = vld1q_u32(sums + (size_t)(y * in_width(k) + x) * p->sums_position * (KN_PANEL / 2) + 4 * j);
      }
      inverse(k.out_height, m, out);
      KN_UNROLL for (int32_t y = 0; y < k.out_height; y++) rows[y][x] = out[y];
    }
    KN_UNROLL for (int32_t y = 0; y < k.out_height; y++) {
      uint32x4_t out[4];
      inverse(k.out_width, rows[y], out);
      KN_UNROLL for (int32_t x = 0; x < k.out_width; x++) {
        const int32_t pixel = y * k.out_width + x;
        uint32x4_t v = out[x];
        if (k.code_bytes == 1) v = plus(v, vreinterpretq_u32_s32(vld1q_s32(from->offsets[pixel] + 4 * j)));
        if (k.inverse != 1) v = vmulq_u32(v, vdupq_n_u32(k.inverse));
        const int32x4_t quotient = vreinterpretq_s32_u32(v) >> k.shift;
        pixels[KN_PARTS * pixel + j] = vreinterpretq_s32_u32(plus(vreinterpretq_u32_s32(quotient), vreinterpretq_u32_s32(bias)));
      }
    }
  }
}

KN_INLINE void store_tile(kind k, const kn_convolution *c, const kn_finish *f, const panel *from, int32_t first, place t,
                          const int32x4_t *pixels, void *output) {
  const int32_t height = kn_min(k.out_height, c->out_height - t.y), width = kn_min(k.out_width, c->out_width - t.x);
  const int32_t count = kn_min(KN_PANEL, c->out_channels - first);
  for (int32_t i = 0; i < height; i++) {
    const size_t row = (((size_t)t.batch * c->out_height + t.y + i) * c->out_width + t.x) * c->out_channels + first;
    for (int32_t j = 0; j < width; j++) {
      kn_store(KN_PARTS, f, &from->channels, pixels + KN_PARTS * (i * k.out_width + j), output, row + (size_t)j * c->out_channels, count);
    }
  }
}

/* The sums of a panel at all positions: codes of `count` tiles by weights that are transformed, or not yet. */
KN_INLINE void multiply(kind k, const plan *p, int32_t count, const uint8_t *codes, const uint8_t *weights, uint8_t *late, uint32_t *sums) {
  for (int32_t step = 0, steps; step < p->steps; step += steps) {
    steps = is_late(k) ? kn_min(p->late_steps, p->steps - step) : p->steps;
    if (is_late(k)) transform_late(k, (const int8_t *)weights + (size_t)step * LATE_PACKED, steps, late);
    for (int32_t xi = 0; xi < positions(k); xi++) {
      const uint8_t *w = is_late(k) ? late + xi * LATE_POSITION : weights + (size_t)xi * p->weights_position;
      const uint8_t *v = codes + (size_t)xi * p->codes_position + 4 * (size_t)step;
      uint32_t *to = sums + (size_t)xi * p->sums_position * (KN_PANEL / 2);
      for (int32_t m = 0, rows; m < count; m += rows) {
        rows = kn_next_rows(count - m);
        KN_FOR_ROWS(rows, product, k, p, v + (size_t)m * p->row_bytes, w, steps, step == 0, to + (size_t)m * KN_PANEL);
      }
    }
  }
}

KN_INLINE void run(kind k, const kn_convolution *c, const void *packed, const uint8_t *input, void *output, void *scratch, int32_t tile) {
  const plan p = plan_of(k, c);
  const kn_finish finish = kn_finish_of(c);
  const int32_t first = tile % p.blocks * p.block, count = kn_min(p.block, p.tiles - first);
  const int32_t panel_begin = tile / p.blocks * p.block_panels, panel_end = kn_min(p.panels, panel_begin + p.block_panels);
  uint32_t *sums = scratch;
  uint8_t *codes = (uint8_t *)scratch + codes_at(k, &p), *border = (uint8_t *)scratch + border_at(k, &p);
  memset(border, c->input_zero, p.row_bytes);

  uint8_t offsets[MAX_POSITIONS];
  for (int32_t xi = 0; xi < positions(k); xi++) offsets[xi] = (uint8_t)offset_at(k, xi, (1 << c->input_bits) - 1);
  for (int32_t t = 0; t < count; t++) {
    const uint8_t *at[MAX_POSITIONS];
    pixels_under(k, c, place_of(k, &p, first + t), input, border, at);
    transform_codes(k, &p, at, offsets, codes + (size_t)t * p.row_bytes);
  }

  for (int32_t n = panel_begin; n < panel_end; n++) {
    const panel *from = (const panel *)packed + n;
    const uint8_t *weights = (const uint8_t *)packed + weights_at(&p) + (size_t)n * p.weights_panel;
    multiply(k, &p, count, codes, weights, (uint8_t *)scratch + late_at(k, &p), sums);
    for (int32_t t = 0; t < count; t++) {
      int32x4_t pixels[KN_PARTS * MAX_PIXELS];
      transform_sums(k, &p, from, sums + (size_t)t * KN_PANEL, pixels);
      store_tile(k, c, &finish, from, n * KN_PANEL, place_of(k, &p, first + t), pixels, output);
    }
  }
}

#define WINOGRAD(symbol, tag, kind_, name_, features_)                                                                               \
  static size_t packed_bytes_##tag(const kn_convolution *c) { return packed_bytes(kind_, c); }                                       \
  static void pack_##tag(const kn_convolution *c, void *packed) { pack(kind_, c, packed); }                                          \
  static size_t scratch_bytes_##tag(const kn_convolution *c) { return scratch_bytes(kind_, c); }                                     \
  static int32_t tiles_##tag(const kn_convolution *c) { return tiles(kind_, c); }                                                    \
  KN_CODE static void run_##tag(const kn_convolution *c, const void *packed, const uint8_t *input, void *output, void *scratch,      \
                                int32_t tile) {                                                                                      \
    run(kind_, c, packed, input, output, scratch, tile);                                                                             \
  }                                                                                                                                  \
  const kn_convolution_kernel symbol = {                                                                                             \
      .name = name_,                                                                                                                 \
      .features = features_,                                                                                                         \
      .supports = supports_##tag,                                                                                                    \
      .packed_bytes = packed_bytes_##tag,                                                                                            \
      .pack = pack_##tag,                                                                                                            \
      .scratch_bytes = scratch_bytes_##tag,                                                                                          \
      .tiles = tiles_##tag,                                                                                                          \
      .run = run_##tag,                                                                                                              \
  };
