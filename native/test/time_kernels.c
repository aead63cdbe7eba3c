/*
 * Times every convolution kernel of the catalogue on layers of known networks, whole layers on one thread: time_kernels [SECONDS [TEXT
 * [MEGABYTES]]], SECONDS for each layer at each precision, lines that contain TEXT only. All kernels that support a case take turns, so
 * that what the machine does meanwhile strikes each alike; minimum and median in microseconds.
 *
 * With MEGABYTES, so much other memory is read before each run, and the input after that: weights come from memory then, as they do in a
 * model that is larger than the caches. A kernel that is fast only with weights in the cache shows it here.
 */
#define _POSIX_C_SOURCE 200809L
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../kernels/kernels.h"
#include "machine.h"

typedef struct {
  const char *name;
  int32_t in_channels, out_channels, size, kernel, stride, groups;
} layer;

static const layer LAYERS[] = {
    {"3x3 64->64 56", 64, 64, 56, 3, 1, 1},       {"3x3 128->128 28", 128, 128, 28, 3, 1, 1},
    {"3x3 256->256 14", 256, 256, 14, 3, 1, 1},   {"3x3 512->512 7", 512, 512, 7, 3, 1, 1},
    {"3x3 s2 64->128 56", 64, 128, 56, 3, 2, 1},  {"1x1 96->24 56", 96, 24, 56, 1, 1, 1},
    {"1x1 24->144 56", 24, 144, 56, 1, 1, 1},     {"1x1 384->96 14", 384, 96, 14, 1, 1, 1},
    {"1x1 960->160 7", 960, 160, 7, 1, 1, 1},     {"dw 3x3 144 56", 144, 144, 56, 3, 1, 144},
    {"dw 3x3 s2 144 56", 144, 144, 56, 3, 2, 144}, {"dw 5x5 240 14", 240, 240, 14, 5, 1, 240},
    {"7x7 s2 3->64 224", 3, 64, 224, 7, 2, 1},    {"fc 1280->1000", 1280, 1000, 1, 1, 1, 1},
};

/* `deviation` is that of the weights, in tenths. */
typedef struct {
  const char *name;
  int32_t weight_bits, storage_bits, input_bits, deviation;
  kn_rule rule;
} precision;

static const precision PRECISIONS[] = {
    {"W8A8", 8, 8, 8, 420, KN_WIDE},  {"W8A8 s", 8, 8, 8, 280, KN_WIDE},  {"W7A8", 8, 8, 8, 160, KN_WIDE},      {"W4A8", 4, 4, 8, 26, KN_WIDE},
    {"W5A5", 5, 8, 5, 52, KN_WIDE},   {"W4A6", 4, 4, 6, 26, KN_WIDE},        {"W4A4", 4, 4, 4, 26, KN_WIDE},
    {"W4A8 n", 4, 4, 8, 26, KN_NARROW}, {"W4A4 n", 4, 4, 4, 26, KN_NARROW}, {"W3A3", 3, 4, 3, 13, KN_WIDE},
    {"W2A8", 2, 2, 8, 8, KN_WIDE},    {"W2A2", 2, 2, 2, 8, KN_WIDE},
};

enum { MAX_KERNELS = 32, MAX_ROUNDS = 20000 };

static uint64_t state = 7;
static uint32_t next(void) {
  state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
  return (uint32_t)(state >> 33);
}

static int32_t normal(int32_t deviation_tenths, int32_t low, int32_t high) {
  int64_t sum = 0;
  for (int i = 0; i < 12; i++) sum += (int32_t)(next() & 0xFFFF) - 0x8000;
  const int64_t v = sum * deviation_tenths / 10, rounded = (v + (v < 0 ? -0x8000 : 0x8000)) / 0x10000;
  return (int32_t)(rounded < low ? low : rounded > high ? high : rounded);
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

static void *memory(size_t bytes) {
  void *m;
  if (posix_memalign(&m, KN_ALIGNMENT, bytes + KN_ALIGNMENT) != 0) abort();
  memset(m, 0, bytes + KN_ALIGNMENT);
  return m;
}

static int ascending(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return x < y ? -1 : x > y;
}

/* Memory that is read between runs. */
static uint8_t *other;
static size_t other_bytes;
static volatile uint32_t sink;

static void read_through(const uint8_t *from, size_t bytes) {
  uint32_t sum = 0;
  for (size_t i = 0; i < bytes; i += 64) sum += from[i];
  sink = sum;
}

static void measure(const layer *l, const precision *p, double seconds, const char *text) {
  kn_convolution c = {.batch = 1, .in_height = l->size, .in_width = l->size, .in_channels = l->in_channels,
                      .out_channels = l->out_channels, .kernel_height = l->kernel, .kernel_width = l->kernel, .stride_y = l->stride,
                      .stride_x = l->stride, .dilation_y = 1, .dilation_x = 1, .pad_top = l->kernel / 2, .pad_left = l->kernel / 2,
                      .groups = l->groups, .weight_bits = p->weight_bits, .storage_bits = p->storage_bits, .input_bits = p->input_bits,
                      .output_high = (1 << p->input_bits) - 1, .rule = p->rule};
  c.out_height = c.out_width = (l->size + 2 * (l->kernel / 2) - l->kernel) / l->stride + 1;
  const int32_t row = l->kernel * l->kernel * l->in_channels / l->groups, limit = 1 << (p->weight_bits - 1);
  const int32_t low = p->deviation == 160 ? -64 : -limit, high = p->deviation == 160 ? 63 : limit - 1, top = (1 << p->input_bits) - 1;
  const size_t row_bytes = kn_weight_row_bytes(row, p->storage_bits), n = (size_t)l->out_channels;
  const size_t outputs = (size_t)c.out_height * c.out_width * n, inputs = (size_t)l->size * l->size * l->in_channels;
  uint8_t *weights = memory(row_bytes * n), *input = memory(inputs + KN_SLACK), *shifts = memory(n), *output = memory(outputs);
  int32_t *bias = memory(4 * n), *multipliers = memory(4 * n);
  c.weights = weights, c.bias = bias, c.multipliers = multipliers, c.shifts = shifts;
  int64_t worst = 0;
  for (int32_t o = 0; o < l->out_channels; o++) {
    int64_t negative = 0, positive = 0;
    for (int32_t i = 0; i < row; i++) {
      const int32_t w = normal(p->deviation, low, high);
      *(w < 0 ? &negative : &positive) += (int64_t)w * top;
      weights[row_bytes * (size_t)o + (size_t)(i * p->storage_bits / 8)] |=
          (uint8_t)((w & ((1 << p->storage_bits) - 1)) << (i * p->storage_bits % 8));
    }
    worst = positive > worst ? positive : -negative > worst ? -negative : worst;
    const int64_t m = ((int64_t)(top + 1) << (p->rule == KN_NARROW ? 15 : 32)) / (1 + (positive - negative) / 4);
    multipliers[o] = (int32_t)(p->rule == KN_NARROW && m > 32767 ? 32767 : m > INT32_MAX ? INT32_MAX : m);
  }
  for (size_t i = 0; i < inputs; i++) input[i] = (uint8_t)(next() & (uint32_t)top);

  const kn_convolution_kernel *kernels[MAX_KERNELS];
  void *packed[MAX_KERNELS], *scratch[MAX_KERNELS];
  double *times[MAX_KERNELS];
  int32_t count = 0, rounds = 0;
  for (int32_t i = 0; i < kn_convolution_kernel_count && (p->rule != KN_NARROW || worst <= 32767); i++) {
    const kn_convolution_kernel *k = kn_convolution_kernels[i];
    char line[128];
    if ((k->features & ~machine_features()) != 0) continue;
    snprintf(line, sizeof line, "%s %s %s", l->name, p->name, k->name);
    if (k == &kn_convolution_reference || (text && !strstr(line, text)) || !k->supports(&c)) continue;
    kernels[count] = k;
    packed[count] = memory(k->packed_bytes(&c) + KN_SLACK), scratch[count] = memory(k->scratch_bytes(&c));
    times[count] = memory(sizeof(double) * MAX_ROUNDS);
    k->pack(&c, packed[count++]);
  }
  for (const double begin = now(); count > 0 && rounds < MAX_ROUNDS && (rounds < 8 || now() - begin < seconds * 1e6 * count); rounds++) {
    for (int32_t i = 0; i < count; i++) {
      const int32_t tiles = kernels[i]->tiles(&c);
      if (other_bytes > 0) {
        read_through(other, other_bytes);
        read_through(input, inputs);
      }
      const double start = now();
      for (int32_t t = 0; t < tiles; t++) kernels[i]->run(&c, packed[i], input, output, scratch[i], t);
      times[i][rounds] = now() - start;
    }
  }
  for (int32_t i = 0; i < count; i++) {
    qsort(times[i], (size_t)rounds, sizeof(double), ascending);
    printf("%-18s %-7s %-22s %8.1f %8.1f us %6.1f GMAC/s  tiles %d scratch %zu\n", l->name, p->name, kernels[i]->name, times[i][0],
           times[i][rounds / 2], (double)outputs * row / times[i][0] * 1e-3, kernels[i]->tiles(&c), kernels[i]->scratch_bytes(&c));
    free(packed[i]), free(scratch[i]), free(times[i]);
  }
  fflush(stdout);
  free(weights), free(input), free(shifts), free(output), free(bias), free(multipliers);
}

int main(int argc, char **argv) {
  const double seconds = argc > 1 ? atof(argv[1]) : 0.1;
  other_bytes = argc > 3 ? (size_t)atoi(argv[3]) << 20 : 0;
  other = memory(other_bytes);
  for (size_t l = 0; l < sizeof LAYERS / sizeof *LAYERS; l++) {
    for (size_t p = 0; p < sizeof PRECISIONS / sizeof *PRECISIONS; p++) {
      measure(&LAYERS[l], &PRECISIONS[p], seconds, argc > 2 ? argv[2] : NULL);
    }
  }
  return 0;
}
