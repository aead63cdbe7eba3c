/* Windows that slide over an image without weights. Included by the builds of operators, one for each instruction set. */
#include <string.h>

#include "../kernels.h"
#include "../requantize.h"

/* Positions of a window along one axis that lie inside the input: first to before last, in steps of the dilation. */
typedef struct {
  int32_t first, last;
} span;

static span inside(int32_t start, int32_t kernel, int32_t dilation, int32_t size) {
  span s = {0, kernel};
  while (s.first < kernel && start + s.first * dilation < 0) s.first++;
  while (s.last > s.first && start + (s.last - 1) * dilation >= size) s.last--;
  return s;
}

/* A window where it lies over the input. */
typedef struct {
  const kn_window *w;
  const uint8_t *image;
  int32_t y, x;
  span rows, columns;
} place;

static place place_of(const kn_window *w, const uint8_t *input, int32_t row, int32_t column) {
  const int32_t y = row % w->out_height * w->stride_y - w->pad_top, x = column * w->stride_x - w->pad_left;
  const place p = {w,
                   input + (size_t)(row / w->out_height) * w->in_height * w->in_width * w->channels,
                   y,
                   x,
                   inside(y, w->kernel_height, w->dilation_y, w->in_height),
                   inside(x, w->kernel_width, w->dilation_x, w->in_width)};
  return p;
}

static int32_t elements_of(const place *p) { return (p->rows.last - p->rows.first) * (p->columns.last - p->columns.first); }

static const uint8_t *pixel_of(const place *p, int32_t ky, int32_t kx) {
  return p->image + ((size_t)(p->y + ky * p->w->dilation_y) * p->w->in_width + (p->x + kx * p->w->dilation_x)) * p->w->channels;
}

static void max_pool(const kn_window *w, const uint8_t *input, uint8_t *output, int32_t begin, int32_t end) {
  const int32_t channels = w->channels;
  for (int32_t row = begin; row < end; row++) {
    for (int32_t x = 0; x < w->out_width; x++) {
      const place p = place_of(w, input, row, x);
      uint8_t *restrict out = output + ((size_t)row * w->out_width + x) * channels;
      memset(out, 0, (size_t)channels);
      for (int32_t ky = p.rows.first; ky < p.rows.last; ky++) {
        for (int32_t kx = p.columns.first; kx < p.columns.last; kx++) {
          const uint8_t *restrict pixel = pixel_of(&p, ky, kx);
          for (int32_t c = 0; c < channels; c++) out[c] = pixel[c] > out[c] ? pixel[c] : out[c];
        }
      }
    }
  }
}

/* Channels whose sums are kept at once. */
enum { SUMS = 64 };

/* Sums of (code - input_zero) over the window, of `count` channels from `first` on. */
static void sum_window(const kn_mean *m, const place *p, int32_t first, int32_t count, int32_t *restrict sums) {
  const int32_t start = -elements_of(p) * m->input_zero;
  for (int32_t c = 0; c < count; c++) sums[c] = start;
  for (int32_t ky = p->rows.first; ky < p->rows.last; ky++) {
    for (int32_t kx = p->columns.first; kx < p->columns.last; kx++) {
      const uint8_t *restrict pixel = pixel_of(p, ky, kx) + first;
      for (int32_t c = 0; c < count; c++) sums[c] += pixel[c];
    }
  }
}

static void average_pool(const kn_mean *m, const uint8_t *input, uint8_t *output, int32_t begin, int32_t end) {
  const kn_window *w = &m->window;
  int32_t sums[SUMS];
  for (int32_t row = begin; row < end; row++) {
    for (int32_t x = 0; x < w->out_width; x++) {
      const place p = place_of(w, input, row, x);
      const int32_t elements = elements_of(&p);
      const int32_t divisor = m->counts_padding ? w->kernel_height * w->kernel_width : elements > 0 ? elements : 1;
      const int64_t multiplier = (int64_t)((m->ratio + (uint64_t)divisor / 2) / (uint64_t)divisor);
      uint8_t *out = output + ((size_t)row * w->out_width + x) * w->channels;
      for (int32_t first = 0; first < w->channels; first += SUMS) {
        const int32_t count = w->channels - first < SUMS ? w->channels - first : SUMS;
        sum_window(m, &p, first, count, sums);
        for (int32_t c = 0; c < count; c++) {
          /* |sum| <= 255 n and multiplier <= ratio / n + 1, so the product stays below 2^56. */
          const int32_t scaled = (int32_t)((sums[c] * multiplier + (INT64_C(1) << 31)) >> 32);
          out[first + c] = (uint8_t)kn_clamp(kn_wrapping_add(m->output_zero, scaled), m->output_low, m->output_high);
        }
      }
    }
  }
}

static void sum_pool(const kn_mean *m, const uint8_t *input, int32_t *output, int32_t begin, int32_t end) {
  const kn_window *w = &m->window;
  for (int32_t row = begin; row < end; row++) {
    for (int32_t x = 0; x < w->out_width; x++) {
      const place p = place_of(w, input, row, x);
      sum_window(m, &p, 0, w->channels, output + ((size_t)row * w->out_width + x) * w->channels);
    }
  }
}
