/*
 * lookup8.avx2: codes and weights of up to 2 bits. A pair of codes has 16 values, and so has a pair of weights: vpshufb looks the sum of
 * their two products up in a table of 16 bytes that the codes choose and the weights index, for 32 channels at a time. That is 64 products
 * an instruction, twice as many as vpmaddubsw has. (T-MAC, https://arxiv.org/abs/2407.00088, looks up too, in tables that it computes from
 * activations of any width; codes of 2 bits need only one, which is constant.)
 *
 * Sums are kept in 8 bits for as long as the weights permit, then in 16, which the whole sum must fit.
 */
#if defined(__x86_64__) && !defined(KN_PORTABLE)
#include "patches.h"
#include "products.h"
#include "runs.h"
#include "store.h"

/* Codes of a step; channels of a panel and of a register. */
enum { STEP = 2, WIDTH = 64, REGISTER = 32, TABLE = 16 };

/* Sums of two products, [codes][weights]: the first code and the first weight are the low two bits; weights are signed. */
#define SIGNED(w) ((w) < 2 ? (w) : (w)-4)
#define SUM(codes, weights) (int8_t)(((codes)&3) * SIGNED((weights)&3) + ((codes) >> 2) * SIGNED((weights) >> 2))
#define SUMS_4(codes, w) SUM(codes, w), SUM(codes, w + 1), SUM(codes, w + 2), SUM(codes, w + 3)
#define SUMS(codes) {SUMS_4(codes, 0), SUMS_4(codes, 4), SUMS_4(codes, 8), SUMS_4(codes, 12)}
static const int8_t pair_sums[16][TABLE] __attribute__((aligned(64))) = {
    SUMS(0), SUMS(1), SUMS(2), SUMS(3), SUMS(4), SUMS(5), SUMS(6), SUMS(7),
    SUMS(8), SUMS(9), SUMS(10), SUMS(11), SUMS(12), SUMS(13), SUMS(14), SUMS(15),
};

/*
 * loop(rows, half, codes, stride, weights, steps, out), as in products.h: 8-bit sums of 64 channels, modulo 256. A row's byte of a step is
 * where the table of its pair of codes begins.
 */
#if defined(KN_SANITIZED)

KN_INLINE void loop(int32_t rows, int half, const uint8_t *codes, size_t stride, const uint8_t *weights, ptrdiff_t steps, __m256i *out) {
  (void)half;
  for (int32_t r = 0; r < rows; r++, codes += stride) {
    out[2 * r] = out[2 * r + 1] = _mm256_setzero_si256();
    for (ptrdiff_t i = 0; i < steps; i++) {
      const __m256i table = _mm256_broadcastsi128_si256(kn_load_half((const int8_t *)pair_sums + codes[i]));
      out[2 * r] = _mm256_add_epi8(out[2 * r], _mm256_shuffle_epi8(table, kn_load(weights + WIDTH * i)));
      out[2 * r + 1] = _mm256_add_epi8(out[2 * r + 1], _mm256_shuffle_epi8(table, kn_load(weights + WIDTH * i + REGISTER)));
    }
  }
}

#else

#define TABLE_OF(at) "movzbl " at ",%k[x]\n vbroadcasti128 (%[k],%q[x]),%%ymm14\n"
#define HALF_ROW(at, low, high) TABLE_OF(at) "vpshufb %%ymm12,%%ymm14,%%ymm15\n vpaddb %%ymm15,%%ymm" low ",%%ymm" low "\n"
#define ROW(at, low, high) HALF_ROW(at, low, high) "vpshufb %%ymm13,%%ymm14,%%ymm14\n vpaddb %%ymm14,%%ymm" high ",%%ymm" high "\n"
KN_LOOPS(whole_loop, ROW, pair_sums, "1", "2", "3", "4")
KN_LOOPS(half_loop, HALF_ROW, pair_sums, "1", "2", "3", "4")

KN_INLINE void loop(int32_t rows, int half, const uint8_t *codes, size_t stride, const uint8_t *weights, ptrdiff_t steps, __m256i *out) {
  if (half) half_loop(rows, codes, stride, weights, steps, out);
  else whole_loop(rows, codes, stride, weights, steps, out);
}

#endif

/* Room for the 16 pairs that are written at a time, where the codes are replaced by them. */
static kn_product_plan plan_of(const kn_convolution *c) {
  kn_product_plan p = kn_plan_product(c, STEP, 1, WIDTH);
  if (!p.in_place && p.stride < 16) p.stride = 16;
  return p;
}

/* A panel: 8-bit sums run so many times before they are widened; whether all sums fit 16 bits with bias and shift, too. */
typedef struct {
  kn_panel channels[WIDTH / KN_PANEL];
  int32_t run_count, fits_short;
} panel;

/* Packed: panels; pairs of weights [step][64 channels] of all panels; lengths of runs. */
static int32_t panels_of(const kn_convolution *c, const kn_product_plan *p) { return c->groups * p->panels; }
static size_t weights_at(const kn_convolution *c, const kn_product_plan *p) { return (size_t)panels_of(c, p) * sizeof(panel); }
static size_t panel_weights(const kn_product_plan *p) { return (size_t)p->steps * WIDTH; }
static size_t runs_at(const kn_convolution *c, const kn_product_plan *p) {
  return weights_at(c, p) + (size_t)panels_of(c, p) * panel_weights(p);
}

static size_t packed_bytes(const kn_convolution *c) {
  const kn_product_plan p = plan_of(c);
  return kn_aligned(runs_at(c, &p) + (size_t)panels_of(c, &p) * p.steps * sizeof(uint16_t));
}

static int supports(const kn_convolution *c) {
  const kn_product_plan p = plan_of(c);
  if (c->weight_bits > 2 || c->input_bits > 2 || (c->groups > 1 && p.group_in < 4)) return 0;
  for (int32_t o = 0; o < c->out_channels; o++) {
    kn_lane sum = {0, 0};
    for (int32_t i = 0; i < p.row; i++) kn_lane_add(&sum, kn_weight(c, o, i), (1 << c->input_bits) - 1);
    if (!kn_lane_fits(&sum)) return 0;
  }
  return 1;
}

/* Where a channel's weights lie in a step: even bytes of a register widen to its first 16 channels, odd ones to the others. */
static int32_t place_of(int32_t channel) {
  const int32_t within = channel % REGISTER;
  return channel - within + within % KN_PANEL * 2 + within / KN_PANEL;
}

static void pack(const kn_convolution *c, void *packed) {
  const kn_product_plan p = plan_of(c);
  panel *to = packed;
  uint8_t *weights = (uint8_t *)packed + weights_at(c, &p);
  uint16_t *runs = (uint16_t *)((uint8_t *)packed + runs_at(c, &p));
  memset(packed, 0, packed_bytes(c));
  int32_t fits_short = 1;
  for (int32_t o = 0; o < c->out_channels; o++) fits_short &= kn_fits_short(c, o);
  for (int32_t n = 0; n < panels_of(c, &p); n++, to++, weights += panel_weights(&p), runs += p.steps) {
    const int32_t within = n % p.panels * WIDTH, first = n / p.panels * p.group_out + within;
    const int32_t count = kn_min(WIDTH, p.group_out - within);
    for (int32_t i = 0; i < WIDTH; i += KN_PANEL) {
      kn_pack_panel(&to->channels[i / KN_PANEL], c, first + i, kn_max(0, kn_min(KN_PANEL, count - i)));
    }
    to->run_count = kn_find_channel_runs(c, first, count, STEP, INT8_MAX, runs);
    to->fits_short = fits_short;
    for (int32_t o = 0; o < count; o++) {
      for (int32_t i = 0; i < p.row; i++) {
        weights[i / STEP * WIDTH + place_of(o)] |= (uint8_t)((kn_weight(c, first + o, i) & 3) << (i % STEP * 2));
      }
    }
  }
}

/* From one pixel's pairs of codes to the next's: where a 1x1 convolution has no copy of its codes, and within that copy. */
static size_t stride_of(const kn_product_plan *p) { return p->in_place ? (size_t)p->steps : p->stride; }

static size_t scratch_bytes(const kn_convolution *c) {
  const kn_product_plan p = plan_of(c);
  return p.in_place ? kn_aligned((size_t)kn_min(p.block, p.pixels) * stride_of(&p) + KN_SLACK) : kn_plan_scratch(&p);
}

static int32_t tiles(const kn_convolution *c) {
  const kn_product_plan p = plan_of(c);
  return kn_plan_tiles(c, &p);
}

/*
 * Codes to the places of their pairs' tables, 16 bytes each. `to` may be `from`: it never gets ahead. What lies behind the codes may have
 * any value, so only two bits of it are taken.
 */
KN_INLINE void pair_up(const uint8_t *from, int32_t steps, uint8_t *to) {
  for (int32_t i = 0; i < steps; i += 16) {
    const __m256i v = _mm256_and_si256(kn_load(from + STEP * i), _mm256_set1_epi8(3));
    const __m256i pairs = _mm256_maddubs_epi16(v, _mm256_set1_epi16(TABLE | 4 * TABLE << 8));
    kn_save_half(to + i, _mm_packus_epi16(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1)));
  }
}

/* Sixteen-bit sums of 16 channels as accumulators, into the output. */
KN_INLINE void store_wide(const kn_finish *f, const kn_panel *channels, __m256i sums, void *output, size_t at, int32_t count) {
  __m256i wide[2] = {_mm256_cvtepi16_epi32(_mm256_castsi256_si128(sums)), _mm256_cvtepi16_epi32(_mm256_extracti128_si256(sums, 1))};
  wide[0] = _mm256_add_epi32(wide[0], kn_load(channels->bias));
  wide[1] = _mm256_add_epi32(wide[1], kn_load(channels->bias + 8));
  kn_store(1, f, channels, wide, output, at, 0, count);
}

/* `rows` pixels by a panel, into the output. */
KN_INLINE void product(int32_t rows, int half, const kn_finish *f, const uint8_t *codes, size_t stride, const panel *from,
                       const uint8_t *weights, const uint16_t *runs, void *output, size_t at, size_t out_step, int32_t count) {
  const int32_t registers = half ? 1 : 2;
  __m256i sums[KN_MAX_ROWS][4], part[2 * KN_MAX_ROWS];
  KN_UNROLL for (int32_t r = 0; r < rows; r++) sums[r][0] = sums[r][1] = sums[r][2] = sums[r][3] = _mm256_setzero_si256();
  for (int32_t n = 0; n < from->run_count; n++) {
    loop(rows, half, codes, stride, weights, runs[n], part);
    codes += runs[n];
    weights += WIDTH * (size_t)runs[n];
    KN_UNROLL for (int32_t r = 0; r < rows; r++) {
      KN_UNROLL for (int32_t i = 0; i < registers; i++) {
        const __m256i even = _mm256_srai_epi16(_mm256_slli_epi16(part[2 * r + i], 8), 8), odd = _mm256_srai_epi16(part[2 * r + i], 8);
        sums[r][2 * i] = _mm256_add_epi16(sums[r][2 * i], even);
        sums[r][2 * i + 1] = _mm256_add_epi16(sums[r][2 * i + 1], odd);
      }
    }
  }
  for (int32_t r = 0; r < rows; r++, at += out_step) {
    for (int32_t first = 0, i = 0; first < count; first += REGISTER, i += 2) {
      const int32_t some = kn_min(REGISTER, count - first);
      if (from->fits_short) {
        kn_store_short(f, from->channels + i, sums[r][i], sums[r][i + 1], (uint8_t *)output + at + first, some);
        continue;
      }
      store_wide(f, from->channels + i, sums[r][i], output, at + first, kn_min(KN_PANEL, some));
      if (some <= KN_PANEL) continue;
      store_wide(f, from->channels + i + 1, sums[r][i + 1], output, at + first + KN_PANEL, some - KN_PANEL);
    }
  }
}

KN_CODE static void run(const kn_convolution *c, const void *packed, const uint8_t *input, void *output, void *scratch, int32_t tile) {
  const kn_product_plan p = plan_of(c);
  const kn_product_tile t = kn_plan_tile(&p, tile);
  const kn_finish f = kn_finish_of(c);
  const uint8_t *from = scratch;
  uint8_t *codes = scratch;
  const size_t stride = stride_of(&p);
  if (p.in_place) {
    from = input + (size_t)t.pixel * p.stride + (size_t)t.group * p.group_in;
  } else {
    kn_gather(c, &p, input, t.group, t.pixel, t.pixel_count, scratch, 0);
  }
  for (int32_t m = 0; m < t.pixel_count; m++) pair_up(from + (size_t)m * p.stride, p.steps, codes + (size_t)m * stride);
  for (int32_t n = t.panel; n < t.panel_end; n++) {
    const size_t at = (size_t)t.group * p.panels + n;
    const panel *of = (const panel *)packed + at;
    const uint8_t *weights = (const uint8_t *)packed + weights_at(c, &p) + at * panel_weights(&p);
    const uint16_t *runs = (const uint16_t *)((const uint8_t *)packed + runs_at(c, &p)) + at * p.steps;
    const int32_t count = kn_min(WIDTH, p.group_out - n * WIDTH);
    size_t out = (size_t)t.pixel * c->out_channels + (size_t)t.group * p.group_out + (size_t)n * WIDTH;
    for (int32_t m = 0, rows; m < t.pixel_count; m += rows, out += (size_t)rows * c->out_channels) {
      rows = kn_next_rows(t.pixel_count - m);
      KN_FOR_ROWS(rows, count <= REGISTER, product, &f, codes + (size_t)m * stride, stride, of, weights, runs, output, out,
                  (size_t)p.out_step, count);
    }
  }
}

const kn_convolution_kernel kn_convolution_lookup8_avx2 = {
    .name = "lookup8.avx2",
    .features = KN_AVX2,
    .supports = supports,
    .packed_bytes = packed_bytes,
    .pack = pack,
    .scratch_bytes = scratch_bytes,
    .tiles = tiles,
    .run = run,
};

#endif
