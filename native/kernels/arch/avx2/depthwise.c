/*
 * depthwise.avx2: one filter for each channel, 16 channels at a time. A column of the input under a row of output pixels is held as pairs
 * of rows, interleaved, so that one instruction multiplies and adds both. Three ways, chosen from the weights for each 16 channels:
 *
 *   short  vpmaddubsw in 16-bit sums, where accumulators are certified to fit.
 *   split  weights are 16 high + low, with both in [-8, 8]: two short sums of the same codes, certified to fit, make a 32-bit one. All
 *          weights of a 3x3 kernel are served by it, by the wide rule.
 *   long   vpmaddwd in 32-bit sums, exact for everything.
 */
#if defined(__x86_64__) && !defined(KN_PORTABLE)
#include "common.h"
#include "patches.h"
#include "runs.h"
#include "store.h"

enum { PAIR_BYTES = 64, COLUMN_BYTES = 24576, PIXELS_AT_ONCE = 4 };

/* What each function below is made for, always constant. */
typedef enum { SHORT_NARROW, SHORT_WIDE, SPLIT, LONG } form;

/* What belongs to 16 channels; the weights lie behind it: [kernel column][pair of rows][PAIR_BYTES]. */
typedef struct {
  kn_panel panel;
  form form;
} __attribute__((aligned(KN_ALIGNMENT))) block;

/*
 * Two registers of 32-bit sums that were interleaved within 128-bit halves are channels 0 to 3 and 8 to 11, and 4 to 7 and 12 to 15. This
 * is the channel of element i of both. Long weights and, but for short sums, 32-bit biases, multipliers and shifts are packed in that
 * order; packing to 16 bits undoes it.
 */
static int32_t channel_of_long(int32_t i) { return i % 8 / 4 * 8 + i / 8 * 4 + i % 4; }

static int32_t row_pairs(const kn_convolution *c) { return (c->kernel_height + 1) / 2; }
static int32_t blocks(const kn_convolution *c) { return kn_up(c->out_channels, KN_PANEL); }
static size_t column_bytes(const kn_convolution *c) { return (size_t)row_pairs(c) * PAIR_BYTES; }
static size_t block_bytes(const kn_convolution *c) { return sizeof(block) + (size_t)c->kernel_width * column_bytes(c); }

static int supports(const kn_convolution *c) {
  return c->groups > 1 && c->groups == c->in_channels && c->groups == c->out_channels;
}

static size_t packed_bytes(const kn_convolution *c) { return (size_t)blocks(c) * block_bytes(c); }

/* One weight, or 0 beyond the kernel's last row or the last channel. */
static int32_t weight_at(const kn_convolution *c, int32_t channel, int32_t ky, int32_t kx) {
  return ky < c->kernel_height && channel < c->out_channels ? kn_weight(c, channel, ky * c->kernel_width + kx) : 0;
}

static int32_t low_part(int32_t weight) { return ((weight + 8) & 15) - 8; }
static int32_t high_part(int32_t weight) { return (weight - low_part(weight)) / 16; }
static int32_t whole(int32_t weight) { return weight; }

/* Whether 16-bit sums of a channel's parts are exact: no pair saturates and the sum fits, as the narrow rule says of the whole. */
static int fits_short(const kn_convolution *c, int32_t channel, int32_t (*part)(int32_t)) {
  const int32_t top = (1 << c->input_bits) - 1;
  kn_lane sum = {0, 0};
  for (int32_t kx = 0; kx < c->kernel_width; kx++) {
    for (int32_t ky = 0; ky < c->kernel_height; ky += 2) {
      const int32_t first = part(weight_at(c, channel, ky, kx)), second = part(weight_at(c, channel, ky + 1, kx));
      if (!kn_pair_fits(first, second, top)) return 0;
      kn_lane_add(&sum, first, top);
      kn_lane_add(&sum, second, top);
    }
  }
  return (c->rule == KN_NARROW && part == whole) || kn_lane_fits(&sum);
}

static form form_of(const kn_convolution *c, int32_t first, int32_t count) {
  int is_short = 1, is_split = c->rule == KN_WIDE;
  for (int32_t i = first; i < first + count; i++) {
    is_short &= kn_fits_short(c, i) && fits_short(c, i, whole);
    is_split &= fits_short(c, i, high_part) && fits_short(c, i, low_part);
  }
  if (is_short) return c->rule == KN_NARROW ? SHORT_NARROW : SHORT_WIDE;
  return is_split ? SPLIT : LONG;
}

static void pack(const kn_convolution *c, void *packed) {
  memset(packed, 0, packed_bytes(c));
  for (int32_t n = 0; n < blocks(c); n++) {
    block *b = (block *)((uint8_t *)packed + (size_t)n * block_bytes(c));
    const int32_t first = n * KN_PANEL, count = kn_min(KN_PANEL, c->out_channels - first);
    kn_pack_panel(&b->panel, c, first, count);
    b->form = form_of(c, first, count);
    if (b->form == SPLIT || b->form == LONG) {
      const kn_panel panel = b->panel;
      for (int32_t i = 0; i < KN_PANEL; i++) {
        b->panel.bias[i] = panel.bias[channel_of_long(i)];
        b->panel.multipliers[i] = panel.multipliers[channel_of_long(i)];
        b->panel.shifts[i] = panel.shifts[channel_of_long(i)];
      }
    }
    int8_t *weights = (int8_t *)(b + 1);
    for (int32_t kx = 0; kx < c->kernel_width; kx++) {
      for (int32_t ky = 0; ky < c->kernel_height; ky += 2, weights += PAIR_BYTES) {
        for (int32_t i = 0; i < 2 * KN_PANEL; i++) {
          const int32_t weight = weight_at(c, first + (b->form == LONG ? channel_of_long(i / 2) : i / 2), ky + i % 2, kx);
          if (b->form == LONG) {
            ((int16_t *)weights)[i] = (int16_t)weight;
          } else if (b->form == SPLIT) {
            weights[i] = (int8_t)low_part(weight);
            weights[2 * KN_PANEL + i] = (int8_t)high_part(weight);
          } else {
            weights[i] = (int8_t)weight;
          }
        }
      }
    }
  }
}

/* Columns of the input under `pixels` output pixels. */
static int32_t columns_under(const kn_convolution *c, int32_t pixels) {
  return (pixels - 1) * c->stride_x + (c->kernel_width - 1) * c->dilation_x + 1;
}

/* Output pixels whose columns are made at a time, so that they stay in the nearest cache. */
static int32_t strip_width(const kn_convolution *c) {
  const int32_t fitting = (int32_t)(COLUMN_BYTES / column_bytes(c));
  const int32_t pixels = kn_max(1, (fitting - columns_under(c, 1)) / c->stride_x) / PIXELS_AT_ONCE * PIXELS_AT_ONCE;
  return kn_min(c->out_width, kn_max(PIXELS_AT_ONCE, pixels));
}

static size_t scratch_bytes(const kn_convolution *c) { return (size_t)columns_under(c, strip_width(c)) * column_bytes(c); }

static int32_t tiles(const kn_convolution *c) { return c->batch * c->out_height; }

/* Some channels of one row of output pixels: what all functions below work on. */
typedef struct {
  const kn_convolution *c;
  const kn_panel *panel;
  const int8_t *weights;
  int32_t count; /* channels that exist */
  const uint8_t *image;
  int32_t y; /* of the kernel's first row */
  void *output;
  size_t at, out_step; /* element of the row's first pixel; elements to the next one's */
  kn_finish finish;
  __m256i border;
} strip;

/* A pair of rows (the second register is used by the long form), its weights (split: low and high), or sums of their products. */
typedef struct {
  __m256i v[2];
} pair;

KN_INLINE pair load_pair(const void *from, int both) {
  const pair p = {{kn_load(from), both ? kn_load((const uint8_t *)from + 32) : _mm256_setzero_si256()}};
  return p;
}

KN_INLINE pair load_weights(const int8_t *from, form f) { return load_pair(from, f == LONG || f == SPLIT); }

KN_INLINE void save_pair(void *to, pair p, form f) {
  kn_save(to, p.v[0]);
  if (f == LONG) kn_save((uint8_t *)to + 32, p.v[1]);
}

KN_INLINE pair interleave(__m256i first, __m256i second, form f) {
  pair p = {{first, second}};
  if (f == LONG) p.v[0] = _mm256_unpacklo_epi16(first, second), p.v[1] = _mm256_unpackhi_epi16(first, second);
  else p.v[0] = _mm256_or_si256(first, _mm256_slli_epi16(second, 8));
  return p;
}

KN_INLINE pair multiply(pair codes, pair weights, form f) {
  pair p = {{_mm256_setzero_si256(), _mm256_setzero_si256()}};
  if (f == LONG) {
    p.v[0] = _mm256_madd_epi16(codes.v[0], weights.v[0]);
    p.v[1] = _mm256_madd_epi16(codes.v[1], weights.v[1]);
  } else {
    p.v[0] = _mm256_maddubs_epi16(codes.v[0], weights.v[0]);
    if (f == SPLIT) p.v[1] = _mm256_maddubs_epi16(codes.v[0], weights.v[1]);
  }
  return p;
}

KN_INLINE pair multiply_add(pair sum, pair codes, pair weights, form f) {
  const pair p = multiply(codes, weights, f);
  if (f == LONG) {
    sum.v[0] = _mm256_add_epi32(sum.v[0], p.v[0]);
    sum.v[1] = _mm256_add_epi32(sum.v[1], p.v[1]);
  } else {
    sum.v[0] = _mm256_add_epi16(sum.v[0], p.v[0]);
    if (f == SPLIT) sum.v[1] = _mm256_add_epi16(sum.v[1], p.v[1]);
  }
  return sum;
}

KN_INLINE void store(const strip *s, pair sum, int32_t x, form f) {
  const kn_panel *panel = s->panel;
  const size_t at = s->at + (size_t)x * s->out_step;
  __m256i scaled;
  if (f == SHORT_NARROW || f == SHORT_WIDE) {
    scaled = kn_scale_short(f == SHORT_NARROW ? KN_NARROW : KN_WIDE, panel, sum.v[0]);
  } else {
    __m256i sums[2] = {sum.v[0], sum.v[1]};
    if (f == SPLIT) {
      const __m256i factors = _mm256_set1_epi32(16 << 16 | 1);
      sums[0] = _mm256_madd_epi16(_mm256_unpacklo_epi16(sum.v[0], sum.v[1]), factors);
      sums[1] = _mm256_madd_epi16(_mm256_unpackhi_epi16(sum.v[0], sum.v[1]), factors);
    }
    sums[0] = _mm256_add_epi32(sums[0], kn_load(panel->bias));
    sums[1] = _mm256_add_epi32(sums[1], kn_load(panel->bias + 8));
    if (f == LONG && s->finish.rule == KN_ACCUMULATORS) {
      const __m256i all[2] = {_mm256_permute2x128_si256(sums[0], sums[1], 0x20), _mm256_permute2x128_si256(sums[0], sums[1], 0x31)};
      memcpy((int32_t *)s->output + at, all, (size_t)s->count * 4);
      return;
    }
    if (panel->is_shifted) {
      sums[0] = _mm256_sllv_epi32(sums[0], kn_load(panel->shifts));
      sums[1] = _mm256_sllv_epi32(sums[1], kn_load(panel->shifts + 8));
    }
    if (f == LONG && s->finish.rule == KN_NARROW) {
      scaled = _mm256_mulhrs_epi16(_mm256_packs_epi32(sums[0], sums[1]), kn_load(panel->high_multipliers));
    } else {
      sums[0] = kn_scale_wide_8(sums[0], panel->multipliers);
      sums[1] = kn_scale_wide_8(sums[1], panel->multipliers + 8);
      scaled = _mm256_packs_epi32(sums[0], sums[1]);
    }
  }
  kn_save_codes((uint8_t *)s->output + at, kn_codes(&s->finish, scaled), s->count);
}

/* A row of the input at some column; a row outside is one pixel, repeated. */
typedef struct {
  const uint8_t *at;
  size_t step;
} line;

KN_INLINE line outside(const strip *s) {
  const line l = {(const uint8_t *)&s->border, 0};
  return l;
}

KN_INLINE line line_at(const strip *s, int32_t row, int32_t x) {
  const kn_convolution *c = s->c;
  const int32_t y = s->y + row * c->dilation_y;
  if (row >= c->kernel_height || y < 0 || y >= c->in_height) return outside(s);
  const line l = {s->image + ((size_t)y * c->in_width + (size_t)x) * c->in_channels, (size_t)c->in_channels};
  return l;
}

/* The next 16 codes of a row, in 16 bits each. */
KN_INLINE __m256i take(line *l) {
  const __m256i codes = _mm256_cvtepu8_epi16(kn_load_half(l->at));
  l->at += l->step;
  return codes;
}

/* Columns [count][pair of rows] of the input from column `x` on. */
KN_INLINE void make_columns(const strip *s, int32_t x, int32_t count, uint8_t *columns, form f) {
  const kn_convolution *c = s->c;
  const size_t step = column_bytes(c);
  const int32_t before = kn_min(count, kn_max(0, -x)), end = kn_max(before, kn_min(count, c->in_width - x));
  line none = outside(s);
  const __m256i border = take(&none);
  for (int32_t row = 0; row < c->kernel_height; row += 2) {
    line first = line_at(s, row, x + before), second = line_at(s, row + 1, x + before);
    uint8_t *to = columns + row / 2 * PAIR_BYTES;
    int32_t i = 0;
    for (; i < before; i++, to += step) save_pair(to, interleave(border, border, f), f);
    for (; i < end; i++, to += step) {
      const __m256i codes = take(&first);
      save_pair(to, interleave(codes, take(&second), f), f);
    }
    for (; i < count; i++, to += step) save_pair(to, interleave(border, border, f), f);
  }
}

/* `pixels` output pixels from `x` on, side by side; the first one's columns begin at `columns`. */
KN_INLINE void pixels_of(int32_t pixels, const strip *s, const uint8_t *columns, int32_t x, form f) {
  const kn_convolution *c = s->c;
  const size_t column = column_bytes(c), step = column * c->stride_x, next = column * c->dilation_x;
  const int8_t *w = s->weights;
  pair sums[PIXELS_AT_ONCE];
  KN_UNROLL for (int32_t i = 0; i < pixels; i++) sums[i].v[0] = sums[i].v[1] = _mm256_setzero_si256();
  for (int32_t kx = 0; kx < c->kernel_width; kx++, columns += next) {
    for (const uint8_t *from = columns; from < columns + column; from += PAIR_BYTES, w += PAIR_BYTES) {
      const pair weights = load_weights(w, f);
      KN_UNROLL for (int32_t i = 0; i < pixels; i++) {
        sums[i] = multiply_add(sums[i], load_pair(from + i * step, f == LONG), weights, f);
      }
    }
  }
  KN_UNROLL for (int32_t i = 0; i < pixels; i++) store(s, sums[i], x + i, f);
}

KN_INLINE void any_kernel(const strip *s, uint8_t *columns, form f) {
  const kn_convolution *c = s->c;
  const int32_t width = strip_width(c);
  const size_t step = column_bytes(c) * c->stride_x;
  for (int32_t begin = 0; begin < c->out_width; begin += width) {
    const int32_t end = kn_min(begin + width, c->out_width);
    make_columns(s, begin * c->stride_x - c->pad_left, columns_under(c, end - begin), columns, f);
    const uint8_t *from = columns;
    int32_t x = begin;
    for (; x + 4 <= end; x += 4, from += 4 * step) pixels_of(4, s, from, x, f);
    for (; x < end; x++, from += step) pixels_of(1, s, from, x, f);
  }
}

/* The commonest kernel, 3x3: three columns stay in registers while they slide along the row. */
typedef struct {
  pair p[2];
} column;

/* The three rows under the kernel, and the column of each that comes next. */
typedef struct {
  line rows[3];
  int32_t x;
} window;

KN_INLINE column make_column(__m256i first, __m256i second, __m256i third, form f) {
  const column c = {{interleave(first, second, f), interleave(third, _mm256_setzero_si256(), f)}};
  return c;
}

/* The next column, inside the input for sure. */
KN_INLINE column next_column(window *w, form f) {
  const __m256i first = take(&w->rows[0]), second = take(&w->rows[1]);
  return make_column(first, second, take(&w->rows[2]), f);
}

KN_INLINE column next_column_anywhere(const strip *s, window *w, form f) {
  const int32_t x = w->x++;
  if (x >= 0 && x < s->c->in_width) return next_column(w, f);
  line none = outside(s);
  const __m256i border = take(&none);
  return make_column(border, border, border, f);
}

KN_INLINE void pixel_3x3(const strip *s, const pair *weights, column i, column j, column k, int32_t x, form f) {
  pair sum = multiply(i.p[0], weights[0], f);
  sum = multiply_add(sum, i.p[1], weights[1], f);
  sum = multiply_add(sum, j.p[0], weights[2], f);
  sum = multiply_add(sum, j.p[1], weights[3], f);
  sum = multiply_add(sum, k.p[0], weights[4], f);
  sum = multiply_add(sum, k.p[1], weights[5], f);
  store(s, sum, x, f);
}

KN_INLINE void kernel_3x3(const strip *s, int32_t stride, form f) {
  const kn_convolution *c = s->c;
  const int32_t width = c->out_width, last = c->in_width + c->pad_left - 3;
  pair weights[6];
  KN_UNROLL for (int32_t i = 0; i < 6; i++) weights[i] = load_weights(s->weights + PAIR_BYTES * i, f);
  /* Pixels from `inside` to before `end` have all their columns inside. */
  const int32_t inside = kn_up(c->pad_left, stride), end = last < 0 ? 0 : kn_min(width, last / stride + 1);
  window w = {.x = -c->pad_left};
  KN_UNROLL for (int32_t row = 0; row < 3; row++) w.rows[row] = line_at(s, row, 0);
  column i = next_column_anywhere(s, &w, f), j, k;
  int32_t x = 0;
  if (stride == 1) {
    j = next_column_anywhere(s, &w, f);
    while (x < width) {
      if (x >= inside) {
        const int32_t before = x;
        for (; x + 3 <= end; x += 3) {
          k = next_column(&w, f);
          pixel_3x3(s, weights, i, j, k, x, f);
          i = next_column(&w, f);
          pixel_3x3(s, weights, j, k, i, x + 1, f);
          j = next_column(&w, f);
          pixel_3x3(s, weights, k, i, j, x + 2, f);
        }
        w.x += x - before;
        if (x == width) break;
      }
      k = next_column_anywhere(s, &w, f);
      pixel_3x3(s, weights, i, j, k, x++, f);
      i = j, j = k;
    }
  } else {
    while (x < width) {
      if (x >= inside) {
        const int32_t before = x;
        for (; x + 2 <= end; x += 2) {
          j = next_column(&w, f);
          k = next_column(&w, f);
          pixel_3x3(s, weights, i, j, k, x, f);
          j = next_column(&w, f);
          i = next_column(&w, f);
          pixel_3x3(s, weights, k, j, i, x + 1, f);
        }
        w.x += (x - before) * 2;
        if (x == width) break;
      }
      j = next_column_anywhere(s, &w, f);
      k = next_column_anywhere(s, &w, f);
      pixel_3x3(s, weights, i, j, k, x++, f);
      i = k;
    }
  }
}

KN_INLINE void row_of_pixels(const strip *from, uint8_t *columns, form f) {
  const strip s = *from; /* a copy that no byte stored to the output can change, which a compiler must expect of others */
  const kn_convolution *c = s.c;
  const int is_3x3 = c->kernel_height == 3 && c->kernel_width == 3 && c->dilation_x == 1;
  if (is_3x3 && c->stride_x == 1) kernel_3x3(&s, 1, f);
  else if (is_3x3 && c->stride_x == 2) kernel_3x3(&s, 2, f);
  else any_kernel(&s, columns, f);
}

KN_OUTLINE void row_short_narrow(const strip *s, uint8_t *columns) { row_of_pixels(s, columns, SHORT_NARROW); }
KN_OUTLINE void row_short_wide(const strip *s, uint8_t *columns) { row_of_pixels(s, columns, SHORT_WIDE); }
KN_OUTLINE void row_split(const strip *s, uint8_t *columns) { row_of_pixels(s, columns, SPLIT); }
KN_OUTLINE void row_long(const strip *s, uint8_t *columns) { row_of_pixels(s, columns, LONG); }

/* One row of output pixels. */
KN_CODE static void run(const kn_convolution *c, const void *packed, const uint8_t *input, void *output, void *scratch, int32_t tile) {
  const uint8_t *image = input + (size_t)(tile / c->out_height) * c->in_height * c->in_width * c->in_channels;
  strip s = {.c = c, .output = output, .out_step = (size_t)c->out_channels, .finish = kn_finish_of(c)};
  s.y = tile % c->out_height * c->stride_y - c->pad_top;
  s.border = _mm256_set1_epi8((char)c->input_zero);
  for (int32_t n = 0; n < blocks(c); n++) {
    const block *b = (const block *)((const uint8_t *)packed + (size_t)n * block_bytes(c));
    const int32_t first = n * KN_PANEL;
    s.panel = &b->panel;
    s.weights = (const int8_t *)(b + 1);
    s.count = kn_min(KN_PANEL, c->out_channels - first);
    s.image = image + first;
    s.at = (size_t)tile * c->out_width * c->out_channels + first;
    switch (b->form) {
      case SHORT_NARROW: row_short_narrow(&s, scratch); break;
      case SHORT_WIDE: row_short_wide(&s, scratch); break;
      case SPLIT: row_split(&s, scratch); break;
      default: row_long(&s, scratch);
    }
  }
}

const kn_convolution_kernel kn_convolution_depthwise_avx2 = {
    .name = "depthwise.avx2",
    .features = KN_AVX2,
    .supports = supports,
    .packed_bytes = packed_bytes,
    .pack = pack,
    .scratch_bytes = scratch_bytes,
    .tiles = tiles,
    .run = run,
};
#endif
