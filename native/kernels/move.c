/* Operators that move codes, and resampling. */
#include <string.h>

#include "kernels.h"

/* The innermost dimension. */
static void copy_row(const kn_move *m, const uint8_t *from, uint8_t *to) {
  const int32_t last = KN_COPY_RANK - 1, count = m->size[last];
  const ptrdiff_t in = m->in_stride[last], out = m->out_stride[last];
  if (in == 1 && out == 1 && m->table == NULL) {
    memcpy(to, from, (size_t)count * (size_t)m->element_bytes);
  } else if (m->element_bytes == 4) {
    for (int32_t i = 0; i < count; i++) memcpy(to + i * out * 4, from + i * in * 4, 4);
  } else if (m->table != NULL) {
    for (int32_t i = 0; i < count; i++) to[i * out] = m->table[from[i * in]];
  } else {
    for (int32_t i = 0; i < count; i++) to[i * out] = from[i * in];
  }
}

void kn_copy(const kn_move *m, const void *input, void *output, int32_t begin, int32_t end) {
  for (int32_t first = begin; first < end; first++) {
    int32_t at[KN_COPY_RANK] = {first};
    int64_t from = (int64_t)m->in_start + (int64_t)first * m->in_stride[0];
    int64_t to = (int64_t)m->out_start + (int64_t)first * m->out_stride[0];
    for (;;) {
      copy_row(m, (const uint8_t *)input + from * m->element_bytes, (uint8_t *)output + to * m->element_bytes);
      int32_t d = KN_COPY_RANK - 2;
      for (; d > 0; d--) {
        from += m->in_stride[d];
        to += m->out_stride[d];
        if (++at[d] < m->size[d]) break;
        from -= (int64_t)m->size[d] * m->in_stride[d];
        to -= (int64_t)m->size[d] * m->out_stride[d];
        at[d] = 0;
      }
      if (d == 0) break;
    }
  }
}

void kn_resize(const kn_resample *r, const uint8_t *input, uint8_t *output, int32_t row_begin, int32_t row_end) {
  const size_t channels = (size_t)r->channels;
  for (int32_t row = row_begin; row < row_end; row++) {
    const uint8_t *image = input + (size_t)(row / r->out_height) * r->in_height * r->in_width * channels;
    const uint32_t *vertical = r->rows + 3 * (row % r->out_height);
    const uint8_t *top = image + (size_t)vertical[0] * r->in_width * channels;
    const uint8_t *bottom = image + (size_t)vertical[1] * r->in_width * channels;
    const int32_t fy = (int32_t)vertical[2];
    for (int32_t x = 0; x < r->out_width; x++) {
      const uint32_t *horizontal = r->columns + 3 * x;
      const size_t left = horizontal[0] * channels, right = horizontal[1] * channels;
      const int32_t fx = (int32_t)horizontal[2];
      uint8_t *out = output + ((size_t)row * r->out_width + x) * channels;
      if (fx == 0 && fy == 0) {
        memcpy(out, top + left, channels);
        continue;
      }
      for (size_t c = 0; c < channels; c++) {
        const int32_t above = top[left + c] * (256 - fx) + top[right + c] * fx;
        const int32_t below = bottom[left + c] * (256 - fx) + bottom[right + c] * fx;
        out[c] = (uint8_t)((above * (256 - fy) + below * fy + (1 << 15)) >> 16);
      }
    }
  }
}
