/* Operators that move elements, and resampling. Included by the builds of operators, behind elementwise.h. */
#include <string.h>

#include "../kernels.h"

/* One line of elements, from and to places that lie so far apart. */
static void copy_line(const kn_move *m, const uint8_t *from, uint8_t *to) {
  const int32_t last = KN_COPY_RANK - 1, count = m->size[last];
  const ptrdiff_t in = m->in_stride[last], out = m->out_stride[last];
  if (in == 1 && out == 1) {
    const int32_t bytes = count * m->element_bytes;
    if (m->table != NULL) table(m->table, from, to, count);
    else memcpy(to, from, (size_t)bytes);
  } else if (m->element_bytes == 4) {
    for (int32_t i = 0; i < count; i++) memcpy(to + i * out * 4, from + i * in * 4, 4);
  } else if (m->table != NULL) {
    for (int32_t i = 0; i < count; i++) to[i * out] = m->table[from[i * in]];
  } else {
    for (int32_t i = 0; i < count; i++) to[i * out] = from[i * in];
  }
}

/* Short lines of a known number of bytes, one after the other. */
#define SHORT_LINES(bytes)                                                            \
  case bytes:                                                                         \
    for (int32_t i = 0; i < count; i++) memcpy(to + i * out, from + i * in, (bytes)); \
    return;

/* The two innermost dimensions. */
static void copy_plane(const kn_move *m, const uint8_t *from, uint8_t *to) {
  const int32_t d = KN_COPY_RANK - 2, count = m->size[d];
  const ptrdiff_t in = (ptrdiff_t)m->in_stride[d] * m->element_bytes, out = (ptrdiff_t)m->out_stride[d] * m->element_bytes;
  if (m->table == NULL && m->in_stride[d + 1] == 1 && m->out_stride[d + 1] == 1) {
    switch (m->size[d + 1] * m->element_bytes) {
      SHORT_LINES(1) SHORT_LINES(2) SHORT_LINES(3) SHORT_LINES(4) SHORT_LINES(6) SHORT_LINES(8) SHORT_LINES(12) SHORT_LINES(16)
    }
  }
  for (int32_t i = 0; i < count; i++) copy_line(m, from + i * in, to + i * out);
}

static void copy(const kn_move *m, const void *input, void *output, int32_t begin, int32_t end) {
  for (int32_t first = begin; first < end; first++) {
    int32_t at[KN_COPY_RANK] = {first};
    int64_t from = (int64_t)m->in_start + (int64_t)first * m->in_stride[0];
    int64_t to = (int64_t)m->out_start + (int64_t)first * m->out_stride[0];
    for (;;) {
      copy_plane(m, (const uint8_t *)input + from * m->element_bytes, (uint8_t *)output + to * m->element_bytes);
      int32_t d = KN_COPY_RANK - 3;
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

static void resize(const kn_resample *r, const uint8_t *input, uint8_t *output, int32_t row_begin, int32_t row_end) {
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
