/*
 * The Winograd kernels of ../../shared/winograd.h. Transformed codes of 8 bits are offset to be unsigned, as vpmaddubsw takes them.
 */
#if defined(__x86_64__) && !defined(KN_PORTABLE)
#include "common.h"
#include "patches.h"
#include "products.h"
#include "runs.h"
#include "store.h"

/* Bytes of a register. */
enum { REGISTER = 32 };

#include "../../shared/winograd.h"

/* Whether transformed codes and weights fit 8 bits, and their products in pairs 16. */
static int operands_fit(kind k, const kn_convolution *c) {
  const int32_t top = (1 << c->input_bits) - 1;
  int32_t span[MAX_POSITIONS];
  for (int32_t i = 0; i < positions(k); i++) {
    int32_t below, above;
    reach(k, i, top, &below, &above);
    span[i] = below + above;
    if (span[i] > UINT8_MAX) return 0;
  }
  for (int32_t o = 0; o < c->out_channels; o++) {
    int32_t last[MAX_POSITIONS], u[MAX_POSITIONS];
    for (int32_t n = 0; n < c->in_channels; n++) {
      transform_weights(k, c, o, n, u);
      for (int32_t i = 0; i < positions(k); i++) {
        if (u[i] < INT8_MIN || u[i] > INT8_MAX || !kn_pair_fits(n % 2 ? last[i] : 0, u[i], span[i])) return 0;
        last[i] = u[i];
      }
    }
  }
  return 1;
}

static int supports_4x4(const kn_convolution *c) { return is_3x3(c) && sums_fit(c, 25); }
static int supports_2x2(const kn_convolution *c) { return is_3x3(c) && c->input_bits <= 6 && sums_fit(c, 29) && operands_fit(K2X2, c); }
static int supports_4x2(const kn_convolution *c) { return is_3x3(c) && c->input_bits <= 3 && sums_fit(c, 27) && operands_fit(K4X2, c); }

/* Packed: for each panel its channels and what offsets add to its pixels; the runs of each position; weights [panel][position], or as pack_late has them. */
static size_t runs_at(const plan *p) { return (size_t)p->panels * sizeof(panel); }
static size_t weights_at(kind k, const plan *p) {
  return kn_aligned(runs_at(p) + (k.code_bytes == 1 ? (size_t)p->panels * positions(k) * p->runs_position * sizeof(uint16_t) : 0));
}

static size_t packed_bytes(kind k, const kn_convolution *c) {
  const plan p = plan_of(k, c);
  return weights_at(k, &p) + (size_t)p.panels * p.weights_panel;
}

static void pack(kind k, const kn_convolution *c, void *packed) {
  const plan p = plan_of(k, c);
  const int32_t top = (1 << c->input_bits) - 1, step = codes_per_step(k);
  memset(packed, 0, packed_bytes(k, c));
  for (int32_t n = 0; n < p.panels; n++) {
    panel *to = (panel *)packed + n;
    uint8_t *weights = (uint8_t *)packed + weights_at(k, &p) + (size_t)n * p.weights_panel;
    const int32_t count = kn_min(KN_PANEL, c->out_channels - n * KN_PANEL);
    kn_pack_panel(&to->channels, c, n * KN_PANEL, count);
    for (int32_t o = 0; o < count; o++) {
      int32_t offsets[MAX_POSITIONS] = {0}, u[MAX_POSITIONS];
      for (int32_t i = 0; i < c->in_channels; i++) {
        if (is_late(k)) {
          pack_late(c, n * KN_PANEL + o, i, o * step + i % step, (int8_t *)weights);
          continue;
        }
        transform_weights(k, c, n * KN_PANEL + o, i, u);
        for (int32_t xi = 0; xi < positions(k); xi++) {
          int32_t below, above;
          reach(k, xi, top, &below, &above);
          ((int8_t *)weights + (size_t)xi * p.weights_position)[i / step * (step * KN_PANEL) + o * step + i % step] = (int8_t)u[xi];
          offsets[xi] += below * u[xi];
        }
      }
      pack_offsets(k, offsets, to, o);
    }
    for (int32_t xi = 0; xi < positions(k) && k.code_bytes == 1; xi++) {
      uint16_t *runs = (uint16_t *)((uint8_t *)packed + runs_at(&p)) + ((size_t)n * positions(k) + xi) * p.runs_position;
      int32_t below, above;
      reach(k, xi, top, &below, &above);
      runs[0] = (uint16_t)kn_find_runs((const int8_t *)weights + (size_t)xi * p.weights_position, p.steps, below + above, runs + 1);
    }
  }
}

/* Lanes of 8 or 16 bits. */
KN_INLINE __m256i add(__m256i a, __m256i b, int32_t bytes) { return bytes == 1 ? _mm256_add_epi8(a, b) : _mm256_add_epi16(a, b); }
KN_INLINE __m256i sub(__m256i a, __m256i b, int32_t bytes) { return bytes == 1 ? _mm256_sub_epi8(a, b) : _mm256_sub_epi16(a, b); }
KN_INLINE __m256i twice(__m256i a, int32_t bytes) { return add(a, a, bytes); }
KN_INLINE __m256i four_times(__m256i a, int32_t bytes) {
  return bytes == 1 ? twice(twice(a, bytes), bytes) : _mm256_slli_epi16(a, 2);
}

/* The transform of codes along one side. */
KN_INLINE void forth(int32_t pixels, const __m256i *d, __m256i *out, int32_t n) {
  if (pixels == 4) {
    const __m256i d42 = sub(d[4], d[2], n), d31 = sub(d[3], d[1], n), twice31 = twice(d31, n);
    const __m256i even = sub(d[4], four_times(d[2], n), n), odd = sub(d[3], four_times(d[1], n), n);
    out[0] = add(four_times(sub(d[0], d[2], n), n), d42, n);
    out[1] = add(even, odd, n);
    out[2] = sub(even, odd, n);
    out[3] = add(d42, twice31, n);
    out[4] = sub(d42, twice31, n);
    out[5] = sub(sub(d[5], d[3], n), four_times(d31, n), n);
  } else {
    out[0] = sub(d[0], d[2], n);
    out[1] = add(d[1], d[2], n);
    out[2] = sub(d[2], d[1], n);
    out[3] = sub(d[1], d[3], n);
  }
}

/* Transforms the codes of one tile: `at` are the pixels under it, `codes` its place at position 0. */
KN_INLINE void transform_codes(kind k, const plan *p, const uint8_t *const *at, const __m256i *offsets, uint8_t *codes) {
  const int32_t n = k.code_bytes;
  for (size_t channel = 0; channel * n < p->row_bytes; channel += 32 / n) {
    __m256i rows[MAX_SIDE][MAX_SIDE];
    KN_UNROLL for (int32_t x = 0; x < in_width(k); x++) {
      __m256i d[MAX_SIDE], out[MAX_SIDE];
      KN_UNROLL for (int32_t y = 0; y < in_height(k); y++) {
        const uint8_t *from = at[y * in_width(k) + x] + channel;
        d[y] = n == 1 ? kn_load(from) : _mm256_cvtepu8_epi16(kn_load_half(from));
      }
      forth(k.out_height, d, out, n);
      KN_UNROLL for (int32_t y = 0; y < in_height(k); y++) rows[y][x] = out[y];
    }
    uint8_t *to = codes + channel * n;
    KN_UNROLL for (int32_t y = 0; y < in_height(k); y++) {
      __m256i out[MAX_SIDE];
      forth(k.out_width, rows[y], out, n);
      KN_UNROLL for (int32_t x = 0; x < in_width(k); x++, to += p->codes_position) {
        kn_save(to, n == 1 ? add(out[x], offsets[y * in_width(k) + x], 1) : out[x]);
      }
    }
  }
}

/* The transform of weights along one side. */
KN_INLINE void spread(int32_t pixels, const __m256i *g, __m256i *out) {
  const __m256i even = add(g[0], g[2], 2);
  out[0] = g[0];
  out[1] = add(even, g[1], 2);
  out[2] = sub(even, g[1], 2);
  if (pixels == 4) {
    const __m256i wide = add(g[0], four_times(g[2], 2), 2), odd = twice(g[1], 2);
    out[3] = add(wide, odd, 2);
    out[4] = sub(wide, odd, 2);
  }
  out[pixels + 1] = g[2];
}

/* Transforms the weights of some steps; half a panel at a time, as it lies there. */
KN_INLINE void transform_late(kind k, const int8_t *weights, int32_t steps, uint8_t *to) {
  for (int32_t half = 0; half < 2 * steps; half++, weights += half % 2 ? KN_PANEL : LATE_PACKED - KN_PANEL, to += 32) {
    __m256i rows[MAX_SIDE][3];
    KN_UNROLL for (int32_t x = 0; x < 3; x++) {
      __m256i g[3], out[MAX_SIDE];
      KN_UNROLL for (int32_t y = 0; y < 3; y++) g[y] = _mm256_cvtepi8_epi16(kn_load_half(weights + (y * 3 + x) * 2 * KN_PANEL));
      spread(k.out_height, g, out);
      KN_UNROLL for (int32_t y = 0; y < in_height(k); y++) rows[y][x] = out[y];
    }
    KN_UNROLL for (int32_t y = 0; y < in_height(k); y++) {
      __m256i out[MAX_SIDE];
      spread(k.out_width, rows[y], out);
      KN_UNROLL for (int32_t x = 0; x < in_width(k); x++) kn_save(to + (y * in_width(k) + x) * LATE_POSITION, out[x]);
    }
  }
}

/* 32-bit sums of `rows` tiles at one position: those of the first steps, or more of them. */
KN_INLINE void product_exact(int32_t rows, int half, const plan *p, const uint8_t *codes, const uint8_t *weights, int32_t steps,
                             int32_t is_first, __m256i *sums) {
  __m256i part[2 * KN_MAX_ROWS];
  if (is_first) {
    kn_loop_exact(rows, half, codes, p->row_bytes, weights, steps, sums);
    return;
  }
  kn_loop_exact(rows, half, codes, p->row_bytes, weights, steps, part);
  KN_UNROLL for (int32_t i = 0; i < 2 * rows; i++) sums[i] = _mm256_add_epi32(sums[i], part[i]);
}

KN_INLINE void product_short(int32_t rows, int half, const plan *p, const uint8_t *codes, const uint8_t *weights, const uint16_t *runs,
                             __m256i *out) {
  const __m256i ones = _mm256_set1_epi16(1);
  __m256i part[2 * KN_MAX_ROWS];
  kn_loop_short(rows, half, codes, p->row_bytes, weights, runs[1], part);
  KN_UNROLL for (int32_t i = 0; i < 2 * rows; i++) out[i] = _mm256_madd_epi16(part[i], ones);
  for (int32_t n = 2; n <= runs[0]; n++) {
    codes += 4 * runs[n - 1];
    weights += 64 * (size_t)runs[n - 1];
    kn_loop_short(rows, half, codes, p->row_bytes, weights, runs[n], part);
    KN_UNROLL for (int32_t i = 0; i < 2 * rows; i++) out[i] = _mm256_add_epi32(out[i], _mm256_madd_epi16(part[i], ones));
  }
}

KN_INLINE __m256i plus(__m256i a, __m256i b) { return _mm256_add_epi32(a, b); }
KN_INLINE __m256i minus(__m256i a, __m256i b) { return _mm256_sub_epi32(a, b); }
KN_INLINE __m256i shifted(__m256i a, int32_t by) { return _mm256_slli_epi32(a, by); }

/* The inverse transform of sums along one side; `back` is the same for numbers. */
KN_INLINE void inverse(int32_t pixels, const __m256i *m, __m256i *out) {
  if (pixels == 4) {
    const __m256i p = plus(m[1], m[2]), q = minus(m[1], m[2]), r = plus(m[3], m[4]), s = minus(m[3], m[4]);
    const __m256i p4 = shifted(p, 2), q4 = shifted(q, 2);
    out[0] = plus(minus(plus(shifted(m[0], 2), shifted(m[0], 1)), p4), r);
    out[1] = minus(shifted(s, 1), q4);
    out[2] = minus(shifted(r, 2), p4);
    out[3] = plus(minus(shifted(s, 3), q4), plus(shifted(m[5], 4), shifted(m[5], 3)));
  } else {
    out[0] = plus(shifted(m[0], 1), plus(m[1], m[2]));
    out[1] = minus(minus(m[1], m[2]), shifted(m[3], 1));
  }
}

/* Sums of one tile of a panel to the accumulators of its pixels: [pixel][2]. */
KN_INLINE void transform_sums(kind k, const plan *p, const panel *from, const __m256i *sums, __m256i *pixels) {
  const __m256i factor = _mm256_set1_epi32((int32_t)k.inverse);
  for (int32_t half = 0; half < 2; half++) {
    const __m256i bias = kn_load(from->channels.bias + 8 * half);
    __m256i rows[4][MAX_SIDE];
    KN_UNROLL for (int32_t x = 0; x < in_width(k); x++) {
      __m256i m[MAX_SIDE], out[4];
      KN_UNROLL for (int32_t y = 0; y < in_height(k); y++) m[y] = sums[(size_t)(y * in_width(k) + x) * p->sums_position + half];
      inverse(k.out_height, m, out);
      KN_UNROLL for (int32_t y = 0; y < k.out_height; y++) rows[y][x] = out[y];
    }
    KN_UNROLL for (int32_t y = 0; y < k.out_height; y++) {
      __m256i out[4];
      inverse(k.out_width, rows[y], out);
      KN_UNROLL for (int32_t x = 0; x < k.out_width; x++) {
        __m256i v = out[x];
        if (k.code_bytes == 1) v = plus(v, kn_load(from->offsets[y * k.out_width + x] + 8 * half));
        if (k.inverse != 1) v = _mm256_mullo_epi32(v, factor);
        pixels[2 * (y * k.out_width + x) + half] = plus(_mm256_srai_epi32(v, k.shift), bias);
      }
    }
  }
}

KN_INLINE void store_tile(kind k, const kn_convolution *c, const kn_finish *f, const panel *from, int32_t first, place t, __m256i *pixels,
                          void *output) {
  const int32_t height = kn_min(k.out_height, c->out_height - t.y), width = kn_min(k.out_width, c->out_width - t.x);
  const int32_t count = kn_min(KN_PANEL, c->out_channels - first);
  const size_t step = (size_t)c->out_channels;
  for (int32_t i = 0; i < height; i++) {
    const size_t at = (((size_t)t.batch * c->out_height + t.y + i) * c->out_width + t.x) * step + first;
    __m256i *row = pixels + 2 * i * k.out_width;
    if (width == k.out_width) {
      kn_store(k.out_width, f, &from->channels, row, output, at, step, count);
    } else {
      for (int32_t j = 0; j < width; j++) kn_store(1, f, &from->channels, row + 2 * j, output, at + step * (size_t)j, step, count);
    }
  }
}

/* The sums of a panel at all positions: codes of `count` tiles by weights that are transformed, */
KN_INLINE void multiply(kind k, const plan *p, int32_t count, const uint8_t *codes, const uint8_t *weights, const uint16_t *runs,
                        __m256i *sums) {
  for (int32_t xi = 0; xi < positions(k); xi++) {
    for (int32_t m = 0, rows; m < count; m += rows) {
      rows = kn_next_rows(count - m);
      kn_fetch(weights + p->weights_position, p->weights_position, m, m + rows, count);
      KN_FOR_ROWS(rows, 0, product_short, p, codes + (size_t)m * p->row_bytes, weights, runs, sums + 2 * (size_t)m);
    }
    codes += p->codes_position;
    weights += p->weights_position;
    runs += p->runs_position;
    sums += p->sums_position;
  }
}

/* or by weights that are not yet. */
KN_INLINE void multiply_late(kind k, const plan *p, int32_t count, const uint8_t *codes, const int8_t *weights, uint8_t *late,
                             __m256i *sums) {
  for (int32_t step = 0, steps; step < p->steps; step += steps) {
    steps = kn_min(p->late_steps, p->steps - step);
    transform_late(k, weights, steps, late);
    weights += (size_t)steps * LATE_PACKED;
    for (int32_t xi = 0; xi < positions(k); xi++) {
      kn_fetch(weights, (size_t)steps * LATE_PACKED, xi, xi + 1, positions(k));
      for (int32_t m = 0, rows; m < count; m += rows) {
        rows = kn_next_rows(count - m);
        KN_FOR_ROWS(rows, 0, product_exact, p, codes + (size_t)xi * p->codes_position + (size_t)m * p->row_bytes + 4 * (size_t)step,
                    late + xi * LATE_POSITION, steps, step == 0, sums + (size_t)xi * p->sums_position + 2 * (size_t)m);
      }
    }
  }
}

KN_INLINE void run(kind k, const kn_convolution *c, const void *packed, const uint8_t *input, void *output, void *scratch, int32_t tile) {
  const plan p = plan_of(k, c);
  const kn_finish finish = kn_finish_of(c);
  const int32_t first = tile % p.blocks * p.block, count = kn_min(p.block, p.tiles - first);
  const int32_t panel_begin = tile / p.blocks * p.block_panels, panel_end = kn_min(p.panels, panel_begin + p.block_panels);
  __m256i *sums = scratch;
  uint8_t *codes = (uint8_t *)scratch + codes_at(k, &p), *border = (uint8_t *)scratch + border_at(k, &p);
  memset(border, c->input_zero, p.row_bytes);

  __m256i offsets[MAX_POSITIONS];
  for (int32_t xi = 0; xi < positions(k); xi++) {
    int32_t below, above;
    reach(k, xi, (1 << c->input_bits) - 1, &below, &above);
    offsets[xi] = _mm256_set1_epi8((char)below);
  }
  for (int32_t t = 0; t < count; t++) {
    const uint8_t *at[MAX_POSITIONS];
    pixels_under(k, c, place_of(k, &p, first + t), input, border, at);
    transform_codes(k, &p, at, offsets, codes + (size_t)t * p.row_bytes);
  }

  for (int32_t n = panel_begin; n < panel_end; n++) {
    const panel *from = (const panel *)packed + n;
    const uint8_t *weights = (const uint8_t *)packed + weights_at(k, &p) + (size_t)n * p.weights_panel;
    if (is_late(k)) {
      multiply_late(k, &p, count, codes, (const int8_t *)weights, (uint8_t *)scratch + late_at(k, &p), sums);
    } else {
      const uint16_t *runs = (const uint16_t *)((const uint8_t *)packed + runs_at(&p)) + (size_t)n * positions(k) * p.runs_position;
      multiply(k, &p, count, codes, weights, runs, sums);
    }
    for (int32_t t = 0; t < count; t++) {
      __m256i pixels[2 * MAX_PIXELS];
      transform_sums(k, &p, from, sums + 2 * (size_t)t, pixels);
      store_tile(k, c, &finish, from, n * KN_PANEL, place_of(k, &p, first + t), pixels, output);
    }
  }
}

#define KERNEL(symbol, tag, kind_, name_)                                                                                            \
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
      .features = KN_AVX2,                                                                                                           \
      .supports = supports_##tag,                                                                                                    \
      .packed_bytes = packed_bytes_##tag,                                                                                            \
      .pack = pack_##tag,                                                                                                            \
      .scratch_bytes = scratch_bytes_##tag,                                                                                          \
      .tiles = tiles_##tag,                                                                                                          \
      .run = run_##tag,                                                                                                              \
  };

KERNEL(kn_convolution_winograd8_4x2_avx2, 4x2, K4X2, "winograd8-4x2.avx2")
KERNEL(kn_convolution_winograd8_2x2_avx2, 2x2, K2X2, "winograd8-2x2.avx2")
KERNEL(kn_convolution_winograd16_4x4_avx2, 4x4, K4X4, "winograd16-4x4.avx2")

#endif
