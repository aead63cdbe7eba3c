/*
 * direct8.avx2: u8 codes by s8 weights with vpmaddubsw, 32 products an instruction, summed in 16 bits for as long as the weights permit.
 *
 * Exact for all weights: where a pair of them could saturate the instruction, which takes weights of 8 bits, the pair is lowered until it
 * cannot, and what it was lowered by is multiplied once more, in steps that only the few pairs concerned have ("rest"). With weights as
 * networks have them that costs a few per cent, where 16-bit products would cost a third.
 */
#if defined(__x86_64__) && !defined(KN_PORTABLE)
#include "patches.h"
#include "products.h"
#include "runs.h"
#include "store.h"

enum { STEP = 4, STEP_BYTES = STEP * KN_PANEL };

/* Below this mean length of runs, it is faster to widen at every step. */
enum { SHORTEST_RUN = 3 };

static kn_product_plan plan_of(const kn_convolution *c) { return kn_plan_product(c, STEP, 1, KN_PANEL); }

/* A panel: its weights are summed in runs, or widened at every step where it has none; then come the steps of the rest, in runs. */
typedef struct {
  kn_panel channels;
  int32_t run_count, rest_run_count;
  int32_t rest_first, rest_steps; /* steps of all panels' rest before this one's, and of this one's */
} panel;

/* Packed: panels; weights of all panels; weights of the rest of all panels; where in a row the rest's codes are; runs of both kinds. */
typedef struct {
  size_t weights, rest, offsets, runs, rest_runs, end;
} layout;

static int32_t panels_of(const kn_convolution *c, const kn_product_plan *p) { return c->groups * p->panels; }

static layout layout_of(const kn_convolution *c, const kn_product_plan *p, int32_t rest_steps) {
  const size_t steps = (size_t)panels_of(c, p) * p->steps, rest = (size_t)rest_steps;
  layout l;
  l.weights = kn_aligned((size_t)panels_of(c, p) * sizeof(panel));
  l.rest = l.weights + steps * STEP_BYTES;
  l.offsets = l.rest + rest * STEP_BYTES;
  l.runs = l.offsets + rest * sizeof(int32_t);
  l.rest_runs = l.runs + steps * sizeof(uint16_t);
  l.end = kn_aligned(l.rest_runs + rest * sizeof(uint16_t));
  return l;
}

static int supports(const kn_convolution *c) { return c->groups == 1 || c->in_channels / c->groups >= STEP; }

/* Lowers a pair of weights until it does not saturate for codes up to `top`, and puts there what it was lowered by; whether it had to. */
static int lower(int32_t *pair, int32_t top, int32_t *rest) {
  rest[0] = rest[1] = 0;
  if (kn_pair_fits(pair[0], pair[1], top)) return 0;
  const int32_t sign = pair[0] < 0 || pair[1] < 0 ? -1 : 1;
  const int32_t first = kn_max(0, sign * pair[0]), second = kn_max(0, sign * pair[1]), excess = first + second - INT16_MAX / top;
  rest[0] = sign * kn_min(excess, first);
  rest[1] = sign * (excess - kn_min(excess, first));
  pair[0] -= rest[0];
  pair[1] -= rest[1];
  return 1;
}

/* The weights of step `k` of a panel, and their rest; whether there is any. */
static int weights_of_step(const kn_convolution *c, const kn_product_plan *p, int32_t first, int32_t count, int32_t k, int8_t *weights,
                           int8_t *rest) {
  int any = 0;
  for (int32_t o = 0; o < KN_PANEL; o++) {
    for (int32_t i = 0; i < STEP; i += 2) {
      int32_t pair[2] = {0, 0}, lowered[2];
      for (int32_t j = 0; j < 2; j++) {
        if (o < count && k * STEP + i + j < p->row) pair[j] = kn_weight(c, first + o, k * STEP + i + j);
      }
      any |= lower(pair, (1 << c->input_bits) - 1, lowered);
      for (int32_t j = 0; j < 2; j++) {
        weights[o * STEP + i + j] = (int8_t)pair[j];
        rest[o * STEP + i + j] = (int8_t)lowered[j];
      }
    }
  }
  return any;
}

/* First channel of a panel, and how many it has. */
static int32_t first_of(const kn_product_plan *p, int32_t n) { return n / p->panels * p->group_out + n % p->panels * KN_PANEL; }
static int32_t count_of(const kn_product_plan *p, int32_t n) { return kn_min(KN_PANEL, p->group_out - n % p->panels * KN_PANEL); }

/* Steps of all panels' rest. */
static int32_t rest_steps(const kn_convolution *c, const kn_product_plan *p) {
  int32_t found = 0;
  int8_t weights[STEP_BYTES], rest[STEP_BYTES];
  if (2 * ((1 << c->input_bits) - 1) << (c->weight_bits - 1) <= INT16_MAX) return 0;
  for (int32_t n = 0; n < panels_of(c, p); n++) {
    for (int32_t k = 0; k < p->steps; k++) found += weights_of_step(c, p, first_of(p, n), count_of(p, n), k, weights, rest);
  }
  return found;
}

static size_t packed_bytes(const kn_convolution *c) {
  const kn_product_plan p = plan_of(c);
  return layout_of(c, &p, rest_steps(c, &p)).end;
}

static void pack(const kn_convolution *c, void *packed) {
  const kn_product_plan p = plan_of(c);
  const layout l = layout_of(c, &p, rest_steps(c, &p));
  const int32_t top = (1 << c->input_bits) - 1;
  uint8_t *to = packed;
  panel *panels = packed;
  memset(to, 0, l.end);
  int32_t rest = 0;
  for (int32_t n = 0; n < panels_of(c, &p); n++) {
    panel *b = &panels[n];
    int8_t *weights = (int8_t *)to + l.weights + (size_t)n * p.steps * STEP_BYTES;
    kn_pack_panel(&b->channels, c, first_of(&p, n), count_of(&p, n));
    b->rest_first = rest;
    for (int32_t k = 0; k < p.steps; k++) {
      int8_t lowered[STEP_BYTES];
      if (!weights_of_step(c, &p, first_of(&p, n), count_of(&p, n), k, weights + (size_t)k * STEP_BYTES, lowered)) continue;
      memcpy(to + l.rest + (size_t)rest * STEP_BYTES, lowered, STEP_BYTES);
      ((int32_t *)(to + l.offsets))[rest++] = k * STEP;
    }
    b->rest_steps = rest - b->rest_first;
    b->run_count = kn_find_runs(weights, p.steps, top, (uint16_t *)(to + l.runs) + (size_t)n * p.steps);
    if (b->run_count > 1 && p.steps / b->run_count < SHORTEST_RUN) b->run_count = 0;
    if (b->rest_steps > 0) {
      const int8_t *lowered = (int8_t *)to + l.rest + (size_t)b->rest_first * STEP_BYTES;
      b->rest_run_count = kn_find_runs(lowered, b->rest_steps, top, (uint16_t *)(to + l.rest_runs) + b->rest_first);
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

/* A panel and where the rest of it lies. */
typedef struct {
  const panel *panel;
  const int8_t *weights, *rest;
  const uint16_t *runs, *rest_runs;
  const int32_t *offsets;
} operand;

/* Adds to 32-bit sums what a run has summed in 16 bits. */
KN_INLINE void widen(int32_t rows, __m256i *sums, const __m256i *part) {
  const __m256i ones = _mm256_set1_epi16(1);
  KN_UNROLL for (int32_t i = 0; i < 2 * rows; i++) sums[i] = _mm256_add_epi32(sums[i], _mm256_madd_epi16(part[i], ones));
}

/* `rows` pixels by a panel, into the output. */
KN_INLINE void product(int32_t rows, int half, const kn_finish *f, const kn_product_plan *p, const uint8_t *codes, const operand *b,
                       void *output, size_t at, int32_t channels) {
  const panel *panel = b->panel;
  const __m256i low = kn_load(panel->channels.bias), high = kn_load(panel->channels.bias + 8);
  __m256i sums[2 * KN_MAX_ROWS], part[2 * KN_MAX_ROWS];
  if (panel->run_count == 0) {
    kn_loop_widening(rows, half, codes, p->stride, b->weights, p->steps, part);
    KN_UNROLL for (int32_t i = 0; i < 2 * rows; i++) sums[i] = _mm256_add_epi32(part[i], i & 1 ? high : low);
  } else {
    KN_UNROLL for (int32_t i = 0; i < 2 * rows; i++) sums[i] = i & 1 ? high : low;
    const uint8_t *a = codes;
    const int8_t *w = b->weights;
    for (int32_t n = 0; n < panel->run_count; n++) {
      kn_loop_short(rows, half, a, p->stride, w, b->runs[n], part);
      a += STEP * b->runs[n];
      w += STEP_BYTES * (size_t)b->runs[n];
      widen(rows, sums, part);
    }
  }
  const int8_t *w = b->rest;
  const int32_t *offsets = b->offsets;
  for (int32_t n = 0; n < panel->rest_run_count; n++) {
    kn_loop_listed(rows, half, codes, p->stride, w, offsets, b->rest_runs[n], part);
    offsets += b->rest_runs[n];
    w += STEP_BYTES * (size_t)b->rest_runs[n];
    widen(rows, sums, part);
  }
  kn_store(rows, f, &panel->channels, sums, output, at, (size_t)p->out_step, channels);
}

KN_CODE static void run(const kn_convolution *c, const void *packed, const uint8_t *input, void *output, void *scratch, int32_t tile) {
  const kn_product_plan p = plan_of(c);
  const kn_product_tile t = kn_plan_tile(&p, tile);
  const kn_finish f = kn_finish_of(c);
  const panel *panels = packed, *last = panels + panels_of(c, &p) - 1;
  const layout l = layout_of(c, &p, last->rest_first + last->rest_steps);
  const uint8_t *from = packed, *codes = scratch;
  if (p.in_place) {
    codes = input + (size_t)t.pixel * p.stride + (size_t)t.group * p.group_in;
  } else {
    kn_gather(c, &p, input, t.group, t.pixel, t.pixel_count, scratch, 0);
  }
  for (int32_t n = t.panel; n < t.panel_end; n++) {
    const size_t at = (size_t)t.group * p.panels + n;
    const panel *b = panels + at;
    const operand weights = {
        .panel = b,
        .weights = (const int8_t *)from + l.weights + at * p.steps * STEP_BYTES,
        .rest = (const int8_t *)from + l.rest + (size_t)b->rest_first * STEP_BYTES,
        .runs = (const uint16_t *)(from + l.runs) + at * p.steps,
        .rest_runs = (const uint16_t *)(from + l.rest_runs) + b->rest_first,
        .offsets = (const int32_t *)(from + l.offsets) + b->rest_first,
    };
    const int32_t channels = kn_min(KN_PANEL, p.group_out - n * KN_PANEL);
    size_t out = (size_t)t.pixel * c->out_channels + (size_t)t.group * p.group_out + (size_t)n * KN_PANEL;
    for (int32_t m = 0, rows; m < t.pixel_count; m += rows) {
      rows = kn_next_rows(t.pixel_count - m);
      KN_FOR_ROWS(rows, channels <= KN_PANEL / 2, product, &f, &p, codes + (size_t)m * p.stride, &weights, output, out, channels);
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
#endif
