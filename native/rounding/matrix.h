// Products of small dense matrices in float32, with whatever vectors the machine has.
#pragma once

#include <cstddef>

namespace rounding {

// Matrices are row-major; leading dimensions and column counts are multiples of this, padded with zeros.
constexpr size_t kColumns = 16;

inline size_t Padded(size_t columns) { return (columns + kColumns - 1) / kColumns * kColumns; }

// c[i][j] += sign * sum over k of x[k][i] * y[k][j], for k in [from, to), i in [0, rows), j in [0, columns).
// `columns` is a multiple of kColumns; c must not overlap what is read.
void AddProducts(const float *x, size_t x_stride, const float *y, size_t y_stride, size_t from, size_t to, float sign, float *c,
                 size_t c_stride, size_t rows, size_t columns);

}  // namespace rounding
