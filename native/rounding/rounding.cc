// Loops over columns are to become vectors.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("O3")
#endif

#include "rounding.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "matrix.h"

namespace rounding {
namespace {

using Matrix = std::vector<float>;

// Rows of the operand that are looked at together, and rows of a matrix that are solved together.
constexpr size_t kPanel = 256;
constexpr size_t kBlock = 32;

// Calls f(part) for all parts, on all threads of the pool.
template <typename F>
void ForAll(ThreadPool &pool, size_t parts, const F &f) {
  const auto call = [](void *argument, int32_t part, int32_t) { (*static_cast<const F *>(argument))(static_cast<size_t>(part)); };
  pool.Parallel(static_cast<int32_t>(parts), call, const_cast<F *>(&f));
}

// Runs parts one after the other: for problems of which many are solved at once.
struct Serial {};
template <typename F>
void ForAll(Serial, size_t parts, const F &f) {
  for (size_t part = 0; part < parts; part++) f(part);
}

// Positions that are looked at: of every sample as many, evenly spread, beginning elsewhere in each.
struct Positions {
  size_t total, each;
  explicit Positions(const Layer &layer)
      : total(layer.window.out_height * layer.window.out_width),
        each(std::min(total, std::max<size_t>(1, (layer.positions + layer.codes.size() - 1) / layer.codes.size()))) {}
  size_t At(size_t sample, size_t index) const {
    // The golden ratio's multiples spread the beginnings evenly.
    const double start = std::fmod(0.6180339887498949 * static_cast<double>(sample + 1), 1.0);
    return each == total ? index : static_cast<size_t>((static_cast<double>(index) + start) * static_cast<double>(total) / static_cast<double>(each));
  }
};

// The values under one window, as floats; 0 where it hangs over the border.
template <typename T>
void Gather(const Window &w, const T *values, size_t first_channel, size_t position, T border, float offset, float *row) {
  const int64_t top = static_cast<int64_t>(position / w.out_width * w.stride_y) - w.pad_top;
  const int64_t left = static_cast<int64_t>(position % w.out_width * w.stride_x) - w.pad_left;
  for (size_t channel = 0; channel < w.channels_per_group; channel++) {
    const T *plane = values + (first_channel + channel) * w.channel_stride;
    for (size_t ky = 0; ky < w.kernel_height; ky++) {
      const int64_t y = top + static_cast<int64_t>(ky * w.dilation_y);
      const bool inside = y >= 0 && y < static_cast<int64_t>(w.in_height);
      for (size_t kx = 0; kx < w.kernel_width; kx++) {
        const int64_t x = left + static_cast<int64_t>(kx * w.dilation_x);
        const bool there = inside && x >= 0 && x < static_cast<int64_t>(w.in_width);
        const T value = there ? plane[static_cast<size_t>(y) * w.row_stride + static_cast<size_t>(x) * w.column_stride] : border;
        *row++ = static_cast<float>(value) - offset;
      }
    }
  }
}

// H and C of one group about the means, in units of the input; C is empty where there are no references.
struct Moments {
  Matrix own, cross;
};

template <typename Pool>
Moments SecondMoments(const Layer &layer, size_t group, Pool &&pool) {
  const Window &w = layer.window;
  const size_t inner = w.Inner(), stride = Padded(inner);
  const Positions positions(layer);
  const bool has_references = !layer.references.empty();
  const size_t channel = group * w.channels_per_group;
  Moments moments{Matrix(inner * stride), has_references ? Matrix(inner * stride) : Matrix()};
  Matrix own(kPanel * stride), reference(has_references ? kPanel * stride : 0);
  std::vector<double> own_sum(stride), reference_sum(stride);
  const size_t count = positions.each * layer.codes.size();
  const size_t tiles = (inner + kBlock - 1) / kBlock;
  for (size_t begin = 0; begin < count; begin += kPanel) {
    const size_t size = std::min(kPanel, count - begin);
    ForAll(pool, (size + kBlock - 1) / kBlock, [&](size_t part) {
      for (size_t p = part * kBlock; p < std::min(size, (part + 1) * kBlock); p++) {
        const size_t sample = (begin + p) / positions.each, position = positions.At(sample, (begin + p) % positions.each);
        Gather<uint8_t>(w, layer.codes[sample], channel, position, static_cast<uint8_t>(layer.zero), static_cast<float>(layer.zero), &own[p * stride]);
        if (has_references) Gather<float>(w, layer.references[sample], channel, position, 0.0f, 0.0f, &reference[p * stride]);
      }
    });
    for (size_t p = 0; p < size; p++)
      for (size_t k = 0; k < inner; k++) {
        own_sum[k] += own[p * stride + k];
        if (has_references) reference_sum[k] += reference[p * stride + k];
      }
    ForAll(pool, tiles, [&](size_t tile) {
      const size_t row = tile * kBlock, rows = std::min(kBlock, inner - row), from = row / kColumns * kColumns;
      // H is symmetric: what lies below the diagonal is copied at the end.
      AddProducts(&own[row], stride, &own[from], stride, 0, size, 1, &moments.own[row * stride + from], stride, rows, stride - from);
      if (has_references) AddProducts(&reference[row], stride, own.data(), stride, 0, size, 1, &moments.cross[row * stride], stride, rows, stride);
    });
  }
  const double n = static_cast<double>(count);
  for (size_t i = 0; i < inner; i++)
    for (size_t j = i; j < inner; j++) {
      const double centred = moments.own[i * stride + j] / n - own_sum[i] / n * (own_sum[j] / n);
      moments.own[i * stride + j] = moments.own[j * stride + i] = static_cast<float>(centred * layer.scale * layer.scale);
    }
  for (size_t i = 0; i < inner && has_references; i++)
    for (size_t j = 0; j < inner; j++) {
      const double centred = moments.cross[i * stride + j] / n - reference_sum[i] / n * (own_sum[j] / n);
      moments.cross[i * stride + j] = static_cast<float>(centred * layer.scale);
    }
  return moments;
}

void AddToDiagonal(Matrix &matrix, size_t size, size_t stride, float value) {
  for (size_t i = 0; i < size; i++) matrix[i * stride + i] += value;
}

double MeanDiagonal(const Matrix &matrix, size_t size, size_t stride) {
  double sum = 0;
  for (size_t i = 0; i < size; i++) sum += matrix[i * stride + i];
  return sum / static_cast<double>(size);
}

// U and its transpose, upper and lower triangular, with U^T U = a.
struct Factor {
  Matrix upper, lower;
};

template <typename Pool>
Factor Factorize(const Matrix &a, size_t size, size_t stride, Pool &&pool) {
  Factor factor{Matrix(size * stride), Matrix(size * stride)};
  Matrix &u = factor.upper;
  for (size_t begin = 0; begin < size; begin += kBlock) {
    const size_t rows = std::min(kBlock, size - begin);
    const size_t first = begin / kColumns * kColumns, tiles = (stride - first + 127) / 128;
    ForAll(pool, tiles, [&](size_t tile) {
      const size_t from = first + tile * 128, columns = std::min<size_t>(128, stride - from);
      for (size_t i = 0; i < rows; i++) std::memcpy(&u[(begin + i) * stride + from], &a[(begin + i) * stride + from], columns * sizeof(float));
      AddProducts(&u[begin], stride, &u[from], stride, 0, begin, -1, &u[begin * stride + from], stride, rows, columns);
    });
    for (size_t i = 0; i < rows; i++) {
      float *row = &u[(begin + i) * stride];
      for (size_t k = 0; k < i; k++) {
        const float *above = &u[(begin + k) * stride];
        const float share = above[begin + i];
        for (size_t j = begin + i; j < size; j++) row[j] -= share * above[j];
      }
      // Damping keeps this positive; rounding errors must not make it otherwise.
      const float root = std::sqrt(std::max(row[begin + i], 1e-20f));
      for (size_t j = begin + i; j < size; j++) row[j] /= root;
      for (size_t j = 0; j < begin + i; j++) row[j] = 0;
      for (size_t j = size; j < stride; j++) row[j] = 0;
    }
  }
  for (size_t i = 0; i < size; i++)
    for (size_t j = 0; j <= i; j++) factor.lower[i * stride + j] = u[j * stride + i];
  return factor;
}

// Solves U^T U x = y in place, for `columns` columns of y.
void Solve(const Factor &factor, size_t size, size_t stride, float *y, size_t y_stride, size_t columns) {
  const auto divide = [&](size_t row, float divisor) {
    for (size_t j = 0; j < columns; j++) y[row * y_stride + j] /= divisor;
  };
  const auto subtract = [&](size_t row, float share, size_t from) {
    for (size_t j = 0; j < columns; j++) y[row * y_stride + j] -= share * y[from * y_stride + j];
  };
  for (size_t begin = 0; begin < size; begin += kBlock) {
    const size_t end = std::min(size, begin + kBlock);
    AddProducts(&factor.upper[begin], stride, y, y_stride, 0, begin, -1, y + begin * y_stride, y_stride, end - begin, columns);
    for (size_t i = begin; i < end; i++) {
      for (size_t k = begin; k < i; k++) subtract(i, factor.upper[k * stride + i], k);
      divide(i, factor.upper[i * stride + i]);
    }
  }
  for (size_t end = size; end > 0;) {
    const size_t begin = (end - 1) / kBlock * kBlock;
    AddProducts(&factor.lower[begin], stride, y, y_stride, end, size, -1, y + begin * y_stride, y_stride, end - begin, columns);
    for (size_t i = end; i-- > begin;) {
      for (size_t k = i + 1; k < end; k++) subtract(i, factor.lower[k * stride + i], k);
      divide(i, factor.lower[i * stride + i]);
    }
    end = begin;
  }
}

// Adding and subtracting 1.5 * 2^23 leaves no fraction bits: to nearest, ties to even, without a call.
inline float RoundToCode(float value, float limit) { return std::min(limit, std::max(-limit, value)) + 0x1.8p23f - 0x1.8p23f; }

// Scale of least squared error of one row, of those between 0.2 and 1 of what its largest weight needs.
float LeastErrorScale(const float *weights, size_t stride, size_t size, float limit, float least) {
  float bound = 0;
  for (size_t k = 0; k < size; k++) bound = std::max(bound, std::fabs(weights[k * stride]));
  const float smallest = std::max(least, 0x1p-100f);
  if (bound == 0) return std::max(least, 1.0f);
  float best = 0, best_error = INFINITY;
  for (int step = 0; step <= 40; step++) {
    const float scale = std::max(bound * (1 - 0.02f * static_cast<float>(step)) / limit, smallest), inverse = 1 / scale;
    float error = 0;
    for (size_t k = 0; k < size; k++) {
      const float difference = RoundToCode(weights[k * stride] * inverse, limit) * scale - weights[k * stride];
      error += difference * difference;
    }
    if (error < best_error) {
      best_error = error;
      best = scale;
    }
  }
  return best;
}

// One group's rows, as columns of matrices with a row for each weight: what follows runs over all of them at once.
struct Rows {
  size_t size, stride, columns;
  const Matrix &moments;
  const Factor &factor;
  float limit;
};

// Rounds one weight after the other, the last first: of || U (q - w) ||^2 = sum over j of (U_jj (q_j - w_j) + sum over k > j of U_jk (q_k - w_k))^2
// each takes its term. Answers the sum for each column. `errors` becomes q - w.
void RoundInTurn(const Rows &r, const float *target, const float *scales, float *codes, float *errors, float *loss) {
  Matrix carried(kBlock * r.columns);
  std::fill(loss, loss + r.columns, 0.0f);
  for (size_t end = r.size; end > 0;) {
    const size_t begin = (end - 1) / kBlock * kBlock;
    std::fill(carried.begin(), carried.end(), 0.0f);
    AddProducts(&r.factor.lower[begin], r.stride, errors, r.columns, end, r.size, 1, carried.data(), r.columns, end - begin, r.columns);
    for (size_t j = end; j-- > begin;) {
      float *own = &carried[(j - begin) * r.columns];
      const float pivot = r.factor.upper[j * r.stride + j], inverse = 1 / pivot;
      const float *wanted = target + j * r.columns;
      float *code = codes + j * r.columns, *error = errors + j * r.columns;
      for (size_t i = 0; i < r.columns; i++) {
        const float shifted = wanted[i] - own[i] * inverse;
        code[i] = RoundToCode(shifted / scales[i], r.limit);
        error[i] = code[i] * scales[i] - wanted[i];
        const float term = pivot * (code[i] * scales[i] - shifted);
        loss[i] += term * term;
      }
      for (size_t k = begin; k < j; k++) {
        const float share = r.factor.lower[j * r.stride + k];
        float *sum = &carried[(k - begin) * r.columns];
        for (size_t i = 0; i < r.columns; i++) sum[i] += share * error[i];
      }
    }
    end = begin;
  }
}

// Moves each code in turn to where the error of the whole is least with all others held. Answers whether any moved.
bool Descend(const Rows &r, const float *scales, float *codes, float *errors) {
  Matrix slopes(kBlock * r.columns), change(r.columns);
  bool moved = false;
  for (size_t begin = 0; begin < r.size; begin += kBlock) {
    const size_t end = std::min(r.size, begin + kBlock);
    std::fill(slopes.begin(), slopes.end(), 0.0f);
    AddProducts(&r.moments[begin], r.stride, errors, r.columns, 0, r.size, 1, slopes.data(), r.columns, end - begin, r.columns);
    for (size_t j = begin; j < end; j++) {
      const float *slope = &slopes[(j - begin) * r.columns];
      const float inverse = 1 / r.moments[j * r.stride + j];
      float *code = codes + j * r.columns, *error = errors + j * r.columns;
      bool any = false;
      for (size_t i = 0; i < r.columns; i++) {
        const float next = RoundToCode(code[i] - slope[i] * inverse / scales[i], r.limit);
        change[i] = (next - code[i]) * scales[i];
        any |= next != code[i];
        error[i] += change[i];
        code[i] = next;
      }
      if (!any) continue;
      moved = true;
      for (size_t k = j; k < end; k++) {
        const float share = r.moments[j * r.stride + k];
        float *sum = &slopes[(k - begin) * r.columns];
        for (size_t i = 0; i < r.columns; i++) sum[i] += share * change[i];
      }
    }
  }
  return moved;
}

// Error of each column by H: e^T H e.
void Losses(const Rows &r, const float *errors, float *loss) {
  Matrix products(kBlock * r.columns);
  std::fill(loss, loss + r.columns, 0.0f);
  for (size_t begin = 0; begin < r.size; begin += kBlock) {
    const size_t rows = std::min(kBlock, r.size - begin);
    std::fill(products.begin(), products.end(), 0.0f);
    AddProducts(&r.moments[begin], r.stride, errors, r.columns, 0, r.size, 1, products.data(), r.columns, rows, r.columns);
    for (size_t k = 0; k < rows; k++)
      for (size_t i = 0; i < r.columns; i++) loss[i] += products[k * r.columns + i] * errors[(begin + k) * r.columns + i];
  }
}

// The codes of some rows of a group, whose aimed weights are the columns of `target`; `scales` come with those of least squared error.
void RoundRows(const Layer &layer, const Rows &r, const Matrix &target, const Matrix &least, Matrix &codes, Matrix &scales) {
  const size_t count = r.size * r.columns;
  const Matrix base = scales;
  Matrix errors(count), tried(count), tried_errors(count), tried_scales(r.columns), loss(r.columns), best(r.columns, INFINITY);
  const auto keepBetter = [&] {
    for (size_t i = 0; i < r.columns; i++) {
      if (!(loss[i] < best[i])) continue;
      best[i] = loss[i];
      scales[i] = tried_scales[i];
      for (size_t k = 0; k < r.size; k++) {
        codes[k * r.columns + i] = tried[k * r.columns + i];
        errors[k * r.columns + i] = tried_errors[k * r.columns + i];
      }
    }
  };
  // To nearest at the scale of least squared error: what the rest must beat.
  tried_scales = base;
  for (size_t k = 0; k < r.size; k++)
    for (size_t i = 0; i < r.columns; i++) {
      const size_t at = k * r.columns + i;
      tried[at] = RoundToCode(target[at] / base[i], r.limit);
      tried_errors[at] = tried[at] * base[i] - target[at];
    }
  Losses(r, tried_errors.data(), loss.data());
  keepBetter();
  for (float factor : layer.factors) {
    for (size_t i = 0; i < r.columns; i++) tried_scales[i] = std::max(base[i] * factor, least[i]);
    RoundInTurn(r, target.data(), tried_scales.data(), tried.data(), tried_errors.data(), loss.data());
    keepBetter();
  }
  for (int32_t sweep = 0; sweep < layer.sweeps; sweep++)
    if (!Descend(r, scales.data(), codes.data(), errors.data())) break;
}

template <typename Pool>
void RoundGroup(const Layer &layer, size_t group, Pool &&pool, int8_t *codes, float *scales) {
  const size_t size = layer.window.Inner(), stride = Padded(size);
  Moments moments = SecondMoments(layer, group, pool);
  // Those of the largest moments come last, and are rounded first.
  std::vector<size_t> order(size);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return moments.own[a * stride + a] < moments.own[b * stride + b]; });
  const auto reorder = [&](Matrix &matrix) {
    Matrix sorted(matrix.size());
    for (size_t i = 0; i < size; i++)
      for (size_t j = 0; j < size; j++) sorted[i * stride + j] = matrix[order[i] * stride + order[j]];
    matrix.swap(sorted);
  };
  reorder(moments.own);
  const double mean = MeanDiagonal(moments.own, size, stride);
  const float floor = 1e-10f;
  const bool is_aimed = !moments.cross.empty();
  Factor aim{};
  if (is_aimed) {
    reorder(moments.cross);
    for (size_t at = 0; at < moments.cross.size(); at++) moments.cross[at] -= moments.own[at];
    Matrix damped = moments.own;
    AddToDiagonal(damped, size, stride, static_cast<float>(layer.target_damping * mean) + floor);
    aim = Factorize(damped, size, stride, pool);
  }
  AddToDiagonal(moments.own, size, stride, static_cast<float>(layer.damping * mean) + floor);
  const Factor factor = Factorize(moments.own, size, stride, pool);
  const float *weights = layer.weights + group * layer.rows * size;
  const size_t width = std::min<size_t>(Padded(layer.rows), 64), parts = (layer.rows + width - 1) / width;
  ForAll(pool, parts, [&](size_t part) {
    const size_t first = part * width, rows = std::min(width, layer.rows - first);
    Matrix target(size * width), part_codes(size * width), part_scales(width, 1.0f), least(width);
    for (size_t i = 0; i < rows; i++)
      for (size_t k = 0; k < size; k++) target[k * width + i] = weights[(first + i) * size + order[k]];
    if (is_aimed) {
      Matrix shift(size * width);
      AddProducts(moments.cross.data(), stride, target.data(), width, 0, size, 1, shift.data(), width, size, width);
      Solve(aim, size, stride, shift.data(), width, width);
      for (size_t at = 0; at < target.size(); at++) target[at] += shift[at];
    }
    const Rows r{size, stride, width, moments.own, factor, static_cast<float>(layer.limit)};
    for (size_t i = 0; i < rows; i++) {
      least[i] = layer.least_scales[group * layer.rows + first + i];
      part_scales[i] = LeastErrorScale(&target[i], width, size, r.limit, least[i]);
    }
    RoundRows(layer, r, target, least, part_codes, part_scales);
    for (size_t i = 0; i < rows; i++) {
      const size_t row = group * layer.rows + first + i;
      scales[row] = part_scales[i];
      for (size_t k = 0; k < size; k++) codes[row * size + order[k]] = static_cast<int8_t>(part_codes[k * width + i]);
    }
  });
}

}  // namespace

void RoundLayer(const Layer &layer, ThreadPool &pool, int8_t *codes, float *scales) {
  if (layer.groups == 1) return RoundGroup(layer, 0, pool, codes, scales);
  ForAll(pool, layer.groups, [&](size_t group) { RoundGroup(layer, group, Serial{}, codes, scales); });
}

}  // namespace rounding
