/*
 * The functions of kernels.ts for speed: the same arguments, the same meaning. Plain C that a compiler vectorizes; the blocks of
 * four rows let one load serve four multiplications, and the blocks of columns keep the operands in the first-level cache.
 */

#define NAPI_VERSION 8
#include <math.h>
#include <node_api.h>
#include <string.h>

enum { BLOCK = 1024, MAX_ARGUMENTS = 12 };

typedef struct {
  float *floats;
  int number;
  double real;
} argument;

static int smaller(int a, int b) { return a < b ? a : b; }

static void multiply_block(float *restrict out, const float *restrict w, const float *restrict x, int rows, int k, int n,
                           int length) {
  if (rows == 4) {
    float *restrict o0 = out, *restrict o1 = out + n, *restrict o2 = out + 2 * n, *restrict o3 = out + 3 * n;
    int i = 0;
    for (; i + 4 <= k; i += 4) {
      const float *restrict a = x + (size_t)i * n, *restrict b = a + n, *restrict c = b + n, *restrict d = c + n;
      const float *w0 = w + i, *w1 = w0 + k, *w2 = w1 + k, *w3 = w2 + k;
      for (int j = 0; j < length; j++) {
        o0[j] += w0[0] * a[j] + w0[1] * b[j] + w0[2] * c[j] + w0[3] * d[j];
        o1[j] += w1[0] * a[j] + w1[1] * b[j] + w1[2] * c[j] + w1[3] * d[j];
        o2[j] += w2[0] * a[j] + w2[1] * b[j] + w2[2] * c[j] + w2[3] * d[j];
        o3[j] += w3[0] * a[j] + w3[1] * b[j] + w3[2] * c[j] + w3[3] * d[j];
      }
    }
    for (; i < k; i++) {
      const float *restrict a = x + (size_t)i * n;
      for (int j = 0; j < length; j++) {
        o0[j] += w[i] * a[j];
        o1[j] += w[i + k] * a[j];
        o2[j] += w[i + 2 * k] * a[j];
        o3[j] += w[i + 3 * k] * a[j];
      }
    }
    return;
  }
  for (int row = 0; row < rows; row++) {
    for (int i = 0; i < k; i++) {
      for (int j = 0; j < length; j++) out[(size_t)row * n + j] += w[row * k + i] * x[(size_t)i * n + j];
    }
  }
}

static void multiply(const argument *v) {
  float *out = v[0].floats;
  const float *w = v[1].floats, *x = v[2].floats;
  int m = v[3].number, k = v[4].number, n = v[5].number;
  memset(out, 0, sizeof(float) * m * n);
  for (int start = 0; start < n; start += BLOCK) {
    int length = smaller(BLOCK, n - start);
    for (int row = 0; row < m; row += 4) {
      multiply_block(out + (size_t)row * n + start, w + row * k, x + start, smaller(4, m - row), k, n, length);
    }
  }
}

static void multiply_transposed(const argument *v) {
  float *out = v[0].floats;
  const float *a = v[1].floats, *b = v[2].floats;
  int m = v[3].number, k = v[4].number, n = v[5].number;
  for (int start = 0; start < n; start += BLOCK) {
    int length = smaller(BLOCK, n - start);
    for (int row = 0; row < m; row++) {
      const float *restrict x = a + (size_t)row * n + start;
      int column = 0;
      for (; column + 4 <= k; column += 4) {
        const float *restrict y = b + (size_t)column * n + start;
        float s0 = 0, s1 = 0, s2 = 0, s3 = 0;
        for (int j = 0; j < length; j++) {
          s0 += x[j] * y[j];
          s1 += x[j] * y[j + n];
          s2 += x[j] * y[j + 2 * n];
          s3 += x[j] * y[j + 3 * n];
        }
        float *o = out + row * k + column;
        o[0] += s0, o[1] += s1, o[2] += s2, o[3] += s3;
      }
      for (; column < k; column++) {
        const float *restrict y = b + (size_t)column * n + start;
        float sum = 0;
        for (int j = 0; j < length; j++) sum += x[j] * y[j];
        out[row * k + column] += sum;
      }
    }
  }
}

/* The lines of output that one of the nine taps reaches: rows top to bottom, columns left to right, bounds included. */
typedef struct {
  int dy, dx, top, bottom, left, right;
} tap_range;

static tap_range range_of(int tap, int height, int width, int stride, int rows, int columns) {
  tap_range r = {tap / 3 - 1, tap % 3 - 1, 0, 0, 0, 0};
  r.top = r.dy < 0;
  r.left = r.dx < 0;
  r.bottom = smaller(rows - 1, (height - 1 - r.dy) / stride);
  r.right = smaller(columns - 1, (width - 1 - r.dx) / stride);
  return r;
}

static void depthwise(const argument *v) {
  int channels = v[3].number, batch = v[4].number, height = v[5].number, width = v[6].number, stride = v[7].number;
  int rows = (height + stride - 1) / stride, columns = (width + stride - 1) / stride;
  memset(v[0].floats, 0, sizeof(float) * channels * batch * rows * columns);
  for (int plane = 0; plane < channels * batch; plane++) {
    for (int tap = 0; tap < 9; tap++) {
      tap_range r = range_of(tap, height, width, stride, rows, columns);
      float w = v[2].floats[plane / batch * 9 + tap];
      for (int row = r.top; row <= r.bottom; row++) {
        float *restrict y = v[0].floats + ((size_t)plane * rows + row) * columns;
        const float *restrict x = v[1].floats + ((size_t)plane * height + row * stride + r.dy) * width + r.dx;
        if (stride == 1) {
          for (int i = r.left; i <= r.right; i++) y[i] += w * x[i];
        } else {
          for (int i = r.left; i <= r.right; i++) y[i] += w * x[i * stride];
        }
      }
    }
  }
}

static void depthwise_gradient(const argument *v) {
  int channels = v[5].number, batch = v[6].number, height = v[7].number, width = v[8].number, stride = v[9].number;
  int rows = (height + stride - 1) / stride, columns = (width + stride - 1) / stride;
  for (int plane = 0; plane < channels * batch; plane++) {
    for (int tap = 0; tap < 9; tap++) {
      tap_range r = range_of(tap, height, width, stride, rows, columns);
      float w = v[4].floats[plane / batch * 9 + tap], sum = 0;
      for (int row = r.top; row <= r.bottom; row++) {
        const float *restrict dy = v[2].floats + ((size_t)plane * rows + row) * columns;
        size_t start = ((size_t)plane * height + row * stride + r.dy) * width + r.dx;
        const float *restrict x = v[3].floats + start;
        float *restrict dx = v[0].floats + start;
        if (stride == 1) {
          for (int i = r.left; i <= r.right; i++) dx[i] += w * dy[i], sum += x[i] * dy[i];
        } else {
          for (int i = r.left; i <= r.right; i++) dx[i * stride] += w * dy[i], sum += x[i * stride] * dy[i];
        }
      }
      v[1].floats[plane / batch * 9 + tap] += sum;
    }
  }
}

static void normalize(const argument *v) {
  int channels = v[7].number, n = v[8].number;
  for (int channel = 0; channel < channels; channel++) {
    float *restrict y = v[0].floats + (size_t)channel * n, *restrict normalized = v[1].floats + (size_t)channel * n;
    const float *restrict x = v[4].floats + (size_t)channel * n;
    float sum = 0, squares = 0;
    for (int i = 0; i < n; i++) sum += x[i];
    float mean = sum / n;
    for (int i = 0; i < n; i++) squares += (x[i] - mean) * (x[i] - mean);
    v[2].floats[channel] = mean;
    v[3].floats[channel] = squares / n;
    float inverse = 1 / sqrtf(squares / n + (float)v[9].real), gain = v[5].floats[channel], offset = v[6].floats[channel];
    for (int i = 0; i < n; i++) {
      normalized[i] = (x[i] - mean) * inverse;
      y[i] = gain * normalized[i] + offset;
    }
  }
}

static void normalize_gradient(const argument *v) {
  int channels = v[7].number, n = v[8].number;
  for (int channel = 0; channel < channels; channel++) {
    float *restrict dx = v[0].floats + (size_t)channel * n;
    const float *restrict dy = v[3].floats + (size_t)channel * n, *restrict normalized = v[4].floats + (size_t)channel * n;
    float sum = 0, product = 0;
    for (int i = 0; i < n; i++) sum += dy[i], product += dy[i] * normalized[i];
    v[1].floats[channel] += product;
    v[2].floats[channel] += sum;
    float factor = v[6].floats[channel] / sqrtf(v[5].floats[channel] + (float)v[9].real);
    for (int i = 0; i < n; i++) dx[i] = factor * (dy[i] - sum / n - normalized[i] * (product / n));
  }
}

static void rectify(const argument *v) {
  float *restrict y = v[0].floats;
  const float *restrict x = v[1].floats;
  for (int i = 0; i < v[2].number; i++) y[i] = x[i] > 0 ? x[i] : 0;
}

static void rectify_gradient(const argument *v) {
  float *restrict dx = v[0].floats;
  const float *restrict dy = v[1].floats, *restrict y = v[2].floats;
  for (int i = 0; i < v[3].number; i++) dx[i] = y[i] > 0 ? dy[i] : 0;
}

static const struct {
  const char *name;
  void (*function)(const argument *);
} table[] = {
    {"multiply", multiply},
    {"multiplyTransposed", multiply_transposed},
    {"depthwise", depthwise},
    {"depthwiseGradient", depthwise_gradient},
    {"normalize", normalize},
    {"normalizeGradient", normalize_gradient},
    {"rectify", rectify},
    {"rectifyGradient", rectify_gradient},
};

/* Takes Float32Arrays and numbers as they come; sizes are the business of kernels.ts. */
static napi_value call(napi_env env, napi_callback_info info) {
  napi_value values[MAX_ARGUMENTS];
  argument arguments[MAX_ARGUMENTS] = {{0}};
  size_t count = MAX_ARGUMENTS;
  void *function;
  napi_get_cb_info(env, info, &count, values, NULL, &function);
  for (size_t i = 0; i < count && i < MAX_ARGUMENTS; i++) {
    bool is_array;
    napi_is_typedarray(env, values[i], &is_array);
    if (is_array) {
      napi_get_typedarray_info(env, values[i], NULL, NULL, (void **)&arguments[i].floats, NULL, NULL);
    } else {
      napi_get_value_double(env, values[i], &arguments[i].real);
      arguments[i].number = (int)arguments[i].real;
    }
  }
  ((void (*)(const argument *))function)(arguments);
  return NULL;
}

NAPI_MODULE_INIT() {
  for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
    napi_value function;
    napi_create_function(env, table[i].name, NAPI_AUTO_LENGTH, call, (void *)table[i].function, &function);
    napi_set_named_property(env, exports, table[i].name, function);
  }
  return exports;
}
