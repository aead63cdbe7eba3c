#include "matrix.h"

namespace rounding {
namespace {

// Vectors of the compiler's own kind: registers where there are wide ones, pairs of narrower ones elsewhere.
typedef float Vector __attribute__((vector_size(32), aligned(4)));

// A tile of `Rows` x 16 sums stays in registers over all k: six rows take twelve of sixteen.
template <size_t Rows>
inline __attribute__((always_inline)) void Tile(const float *x, size_t x_stride, const float *y, size_t y_stride, size_t from, size_t to,
                                                float sign, float *c, size_t c_stride) {
  Vector sums[Rows][2] = {};
  for (size_t k = from; k < to; k++) {
    const Vector *row = reinterpret_cast<const Vector *>(y + k * y_stride);
    const Vector first = row[0], second = row[1];
    const float *factors = x + k * x_stride;
#pragma GCC unroll 6
    for (size_t i = 0; i < Rows; i++) {
      sums[i][0] += factors[i] * first;
      sums[i][1] += factors[i] * second;
    }
  }
#pragma GCC unroll 6
  for (size_t i = 0; i < Rows; i++) {
    Vector *out = reinterpret_cast<Vector *>(c + i * c_stride);
    out[0] += sign * sums[i][0];
    out[1] += sign * sums[i][1];
  }
}

inline __attribute__((always_inline)) void Add(const float *x, size_t x_stride, const float *y, size_t y_stride, size_t from, size_t to,
                                               float sign, float *c, size_t c_stride, size_t rows, size_t columns) {
  for (size_t j = 0; j < columns; j += kColumns) {
    size_t i = 0;
    for (; i + 6 <= rows; i += 6) Tile<6>(x + i, x_stride, y + j, y_stride, from, to, sign, c + i * c_stride + j, c_stride);
    for (; i + 2 <= rows; i += 2) Tile<2>(x + i, x_stride, y + j, y_stride, from, to, sign, c + i * c_stride + j, c_stride);
    for (; i < rows; i++) Tile<1>(x + i, x_stride, y + j, y_stride, from, to, sign, c + i * c_stride + j, c_stride);
  }
}

#if defined(__x86_64__)
__attribute__((target("avx2,fma"))) void AddAvx2(const float *x, size_t x_stride, const float *y, size_t y_stride, size_t from, size_t to,
                                                 float sign, float *c, size_t c_stride, size_t rows, size_t columns) {
  Add(x, x_stride, y, y_stride, from, to, sign, c, c_stride, rows, columns);
}
#endif

}  // namespace

void AddProducts(const float *x, size_t x_stride, const float *y, size_t y_stride, size_t from, size_t to, float sign, float *c,
                 size_t c_stride, size_t rows, size_t columns) {
#if defined(__x86_64__)
  static const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (has_avx2) return AddAvx2(x, x_stride, y, y_stride, from, to, sign, c, c_stride, rows, columns);
#endif
  Add(x, x_stride, y, y_stride, from, to, sign, c, c_stride, rows, columns);
}

}  // namespace rounding
