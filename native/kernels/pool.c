/* Windows that slide over an image without weights. */
#include <string.h>

#include "kernels.h"
#include "requantize.h"

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

void kn_max_pool(const kn_window *w, const uint8_t *input, uint8_t *output, int32_t row_begin, int32_t row_end) {
  const size_t channels = (size_t)w->channels;
  for (int32_t row = row_begin; row < row_end; row++) {
    const uint8_t *image = input + (size_t)(row / w->out_height) * w->in_height * w->in_width * channels;
    const int32_t y = row % w->out_height * w->stride_y - w->pad_top;
    const span rows = inside(y, w->kernel_height, w->dilation_y, w->in_height);
    for (int32_t ox = 0; ox < w->out_width; ox++) {
      const int32_t x = ox * w->stride_x - w->pad_left;
      const span columns = inside(x, w->kernel_width, w->dilation_x, w->in_width);
      uint8_t *out = output + ((size_t)row * w->out_width + ox) * channels;
      memset(out, 0, channels);
      for (int32_t ky = rows.first; ky < rows.last; ky++) {
        for (int32_t kx = columns.first; kx < columns.last; kx++) {
          const uint8_t *pixel = image + ((size_t)(y + ky * w->dilation_y) * w->in_width + (x + kx * w->dilation_x)) * channels;
          for (size_t c = 0; c < channels; c++) out[c] = pixel[c] > out[c] ? pixel[c] : out[c];
        }
      }
    }
  }
}

/* A window of a mean where it lies over the input. */
typedef struct {
  const kn_mean *m;
  const uint8_t *image;
  int32_t y, x;
  span rows, columns;
} place;

static int32_t elements_of(const place *p) { return (p->rows.last - p->rows.first) * (p->columns.last - p->columns.first); }

static place place_of(const kn_mean *m, const uint8_t *input, int32_t row, int32_t column) {
  const kn_window *w = &m->window;
  const int32_t y = row % w->out_height * w->stride_y - w->pad_top, x = column * w->stride_x - w->pad_left;
  const place p = {m,
                   input + (size_t)(row / w->out_height) * w->in_height * w->in_width * w->channels,
                   y,
                   x,
                   inside(y, w->kernel_height, w->dilation_y, w->in_height),
                   inside(x, w->kernel_width, w->dilation_x, w->in_width)};
  return p;
}

static int64_t sum_of(const place *p, int32_t channel) {
  const kn_window *w = &p->m->window;
  int64_t sum = -(int64_t)elements_of(p) * p->m->input_zero;
  for (int32_t ky = p->rows.first; ky < p->rows.last; ky++)
    for (int32_t kx = p->columns.first; kx < p->columns.last; kx++)
      sum += p->image[((size_t)(p->y + ky * w->dilation_y) * w->in_width + (p->x + kx * w->dilation_x)) * w->channels + channel];
  return sum;
}

void kn_average_pool(const kn_mean *m, const uint8_t *input, uint8_t *output, int32_t row_begin, int32_t row_end) {
  const kn_window *w = &m->window;
  for (int32_t row = row_begin; row < row_end; row++) {
    for (int32_t x = 0; x < w->out_width; x++) {
      const place p = place_of(m, input, row, x);
      const int32_t count = elements_of(&p);
      const int32_t divisor = m->counts_padding ? w->kernel_height * w->kernel_width : count > 0 ? count : 1;
      const int64_t multiplier = (int64_t)((m->ratio + (uint64_t)divisor / 2) / (uint64_t)divisor);
      uint8_t *out = output + ((size_t)row * w->out_width + x) * w->channels;
      for (int32_t c = 0; c < w->channels; c++) {
        /* |sum| <= 255 n and multiplier <= ratio / n + 1, so the product stays below 2^56. */
        const int32_t scaled = (int32_t)((sum_of(&p, c) * multiplier + (INT64_C(1) << 31)) >> 32);
        out[c] = (uint8_t)kn_clamp(kn_wrapping_add(m->output_zero, scaled), m->output_low, m->output_high);
      }
    }
  }
}

void kn_sum_pool(const kn_mean *m, const uint8_t *input, int32_t *output, int32_t row_begin, int32_t row_end) {
  const kn_window *w = &m->window;
  for (int32_t row = row_begin; row < row_end; row++) {
    for (int32_t x = 0; x < w->out_width; x++) {
      const place p = place_of(m, input, row, x);
      for (int32_t c = 0; c < w->channels; c++)
        output[((size_t)row * w->out_width + x) * w->channels + c] = (int32_t)sum_of(&p, c);
    }
  }
}
