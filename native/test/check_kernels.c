/*
 * Every convolution kernel of the catalogue against the reference, on random convolutions: check_kernels SEED CASES [NAME].
 * Equality is the test. Guard bytes lie around the output, the packed weights and the scratch memory; tiles run in random order, so
 * that a tile that writes into another's part is seen. A failure prints the seed and the case; with ONLY=CASE in the environment it is
 * repeated alone.
 *
 * Build with -fsanitize=address,undefined -DKN_SANITIZED to have every access checked: the guards give way to exact allocations, and the
 * kernels use intrinsics where they have inline assembly.
 */
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../kernels/kernels.h"
#include "machine.h"

#ifdef KN_SANITIZED
#define GUARD ((size_t)0)
#else
#define GUARD ((size_t)192)
#endif
/* Multiply-accumulates of most cases; some are 20 times as large. */
#ifndef LARGEST
#define LARGEST 400000
#endif
enum { GUARD_BYTE = 0xA5, MAX_KERNELS = 64 };

/* splitmix64 */
static uint64_t state;
static uint64_t next(void) {
  uint64_t z = (state += UINT64_C(0x9E3779B97F4A7C15));
  z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
  z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
  return z ^ (z >> 31);
}
static int32_t between(int32_t low, int32_t high) { return low + (int32_t)(next() % (uint64_t)((int64_t)high - low + 1)); }
static int one_in(int32_t n) { return between(1, n) == 1; }
static int32_t pick(const int32_t *values, int32_t count) { return values[between(0, count - 1)]; }
#define PICK(...) pick((const int32_t[]){__VA_ARGS__}, (int32_t)(sizeof((const int32_t[]){__VA_ARGS__}) / sizeof(int32_t)))

/* Memory with guards on both sides, `misaligned` bytes beyond an aligned address. */
typedef struct {
  uint8_t *block, *data;
  size_t size;
} memory;

static memory allocate(size_t size, size_t misaligned) {
  memory m;
  const size_t all = GUARD + misaligned + size + GUARD;
  m.block = memalign(KN_ALIGNMENT, all ? all : 1);
  if (m.block == NULL) abort();
  memset(m.block, GUARD_BYTE, all);
  m.data = m.block + GUARD + misaligned;
  m.size = size;
  return m;
}

static int intact(const memory *m) {
  const uint8_t *end = m->data + m->size;
  for (const uint8_t *p = m->block; p < m->data; p++) {
    if (*p != GUARD_BYTE) return 0;
  }
  for (const uint8_t *p = end; p < end + GUARD; p++) {
    if (*p != GUARD_BYTE) return 0;
  }
  return 1;
}

/* A convolution with the memory that it points into. `extreme`: weights and codes are as large as they can be, against all certificates. */
typedef struct {
  kn_convolution c;
  int extreme;
  uint8_t *weights, *shifts;
  int32_t *bias, *multipliers;
  memory input;
  int64_t macs;
} example;

static size_t elements_in(const kn_convolution *c) { return (size_t)c->batch * c->in_height * c->in_width * c->in_channels; }
static size_t elements_out(const kn_convolution *c) { return (size_t)c->batch * c->out_height * c->out_width * c->out_channels; }
static int32_t row_of(const kn_convolution *c) { return c->kernel_height * c->kernel_width * (c->in_channels / c->groups); }

static int32_t out_size(int32_t in, int32_t kernel, int32_t stride, int32_t dilation, int32_t before, int32_t after) {
  const int32_t reach = dilation * (kernel - 1) + 1;
  return in + before + after < reach ? 0 : (in + before + after - reach) / stride + 1;
}

/* A shape, of the kinds that networks have and of any other; a wide one makes kernels cut their work into several parts. */
static void choose_shape(kn_convolution *c, int wide) {
  c->batch = one_in(4) ? 2 : 1;
  c->groups = 1;
  c->stride_y = c->stride_x = c->dilation_y = c->dilation_x = 1;
  int32_t pad = -1;
  switch (between(0, 7)) {
    case 0: /* anything */
      c->kernel_height = between(1, 7), c->kernel_width = between(1, 7);
      c->stride_y = between(1, 3), c->stride_x = between(1, 3);
      c->dilation_y = between(1, 2), c->dilation_x = between(1, 2);
      c->in_height = between(1, 14), c->in_width = between(1, 14);
      c->in_channels = between(1, 20), c->out_channels = between(1, 40);
      break;
    case 1:
    case 2: /* 3x3, stride 1 */
      c->kernel_height = c->kernel_width = 3;
      c->in_height = between(1, 13), c->in_width = between(1, 13);
      c->in_channels = one_in(3) ? PICK(32, 48, 64, 96, 136, 160) : between(1, 40);
      c->out_channels = one_in(3) ? PICK(16, 32, 64) : between(1, 40);
      pad = one_in(4) ? -1 : 1;
      break;
    case 3: /* 1x1 */
      c->kernel_height = c->kernel_width = 1;
      c->in_height = between(1, 9), c->in_width = between(1, 9);
      c->in_channels = one_in(3) ? PICK(64, 128, 200, 320) : between(1, 80);
      c->out_channels = between(1, 70);
      c->stride_y = c->stride_x = one_in(4) ? 2 : 1;
      pad = 0;
      break;
    case 4: /* depthwise */
      c->kernel_height = one_in(2) ? 3 : between(1, 7), c->kernel_width = one_in(2) ? 3 : between(1, 7);
      c->stride_y = between(1, 3), c->stride_x = one_in(2) ? c->stride_y : between(1, 3);
      c->dilation_y = c->dilation_x = one_in(5) ? 2 : 1;
      c->in_height = between(1, 16), c->in_width = between(1, 16);
      c->in_channels = c->out_channels = c->groups = one_in(2) ? PICK(16, 32, 48, 64) : between(2, 70);
      break;
    case 5: /* grouped */
      c->kernel_height = c->kernel_width = PICK(1, 3, 3, 5);
      c->stride_y = c->stride_x = between(1, 2);
      c->in_height = between(1, 10), c->in_width = between(1, 10);
      c->groups = between(2, 5);
      c->in_channels = c->groups * between(1, 12), c->out_channels = c->groups * between(1, 20);
      break;
    case 6: /* the first layer of a network */
      c->kernel_height = c->kernel_width = PICK(3, 5, 7);
      c->stride_y = c->stride_x = between(1, 2);
      c->in_height = between(5, 20), c->in_width = between(5, 20);
      c->in_channels = PICK(1, 3, 3, 4), c->out_channels = PICK(8, 16, 24, 32, 40);
      break;
    default: /* a product with a vector or with a few */
      c->kernel_height = c->kernel_width = 1;
      c->in_height = 1, c->in_width = one_in(2) ? 1 : between(1, 13);
      c->in_channels = one_in(3) ? PICK(128, 256, 512, 1024) : between(1, 300);
      c->out_channels = between(1, 100);
      c->batch = one_in(4) ? 2 : 1;
      pad = 0;
  }
  if (wide) c->in_width = between(40, 200);
  const int32_t after_y = pad >= 0 ? pad : between(0, c->kernel_height / 2 + 1);
  const int32_t after_x = pad >= 0 ? pad : between(0, c->kernel_width / 2 + 1);
  c->pad_top = pad >= 0 ? pad : between(0, c->kernel_height / 2 + 1);
  c->pad_left = pad >= 0 ? pad : between(0, c->kernel_width / 2 + 1);
  c->out_height = out_size(c->in_height, c->kernel_height, c->stride_y, c->dilation_y, c->pad_top, after_y);
  c->out_width = out_size(c->in_width, c->kernel_width, c->stride_x, c->dilation_x, c->pad_left, after_x);
}

static int32_t weight_like(int32_t mode, int32_t low, int32_t high, int32_t o) {
  switch (mode) {
    case 0: return between(low, high);
    case 1: return high;
    case 2: return low;
    case 3: return one_in(2) ? low : high;
    case 4: return one_in(6) ? between(low, high) : 0;
    case 5: return o % 3 == 0 ? low : between(low / 3, high / 3); /* channels of unequal size */
    default: return (between(low, high) + between(low, high) + between(low, high) + between(low, high)) / 6;
  }
}

static void choose_weights(example *e) {
  kn_convolution *c = &e->c;
  c->weight_bits = e->extreme ? PICK(2, 4, 5, 8, 8, 8) : PICK(2, 2, 3, 4, 4, 5, 6, 8, 8);
  c->storage_bits = c->weight_bits == 2 ? PICK(2, 4, 8) : c->weight_bits <= 4 ? PICK(4, 8) : 8;
  const int32_t high = (1 << (c->weight_bits - 1)) - 1, low = one_in(3) ? -high : -high - 1, row = row_of(c);
  const size_t row_bytes = kn_weight_row_bytes(row, c->storage_bits);
  const int32_t mode = e->extreme ? between(1, 3) : one_in(2) ? 6 : between(0, 6);
  e->weights = calloc(row_bytes * (size_t)c->out_channels, 1);
  if (!e->weights) abort();
  c->weights = e->weights;
  for (int32_t o = 0; o < c->out_channels; o++) {
    for (int32_t i = 0; i < row; i++) {
      const int32_t code = weight_like(mode, low, high, o) & ((1 << c->storage_bits) - 1);
      e->weights[row_bytes * (size_t)o + (size_t)(i * c->storage_bits / 8)] |= (uint8_t)(code << (i * c->storage_bits % 8));
    }
  }
}

static void choose_input(example *e) {
  kn_convolution *c = &e->c;
  c->input_bits = e->extreme ? PICK(3, 4, 6, 8, 8, 8) : PICK(2, 3, 4, 4, 5, 6, 8, 8);
  if (c->weight_bits <= 4 && one_in(3)) c->input_bits = 4;
  if (c->weight_bits == 2 && one_in(2)) c->input_bits = 2; /* some kernels are for these alone */
  const int32_t top = (1 << c->input_bits) - 1, mode = e->extreme ? 0 : between(0, 4);
  c->input_zero = one_in(2) ? 0 : one_in(3) ? top : between(0, top);
  const size_t n = elements_in(c);
  e->input = allocate(n + KN_SLACK, GUARD ? (size_t)between(0, 63) : 0);
  for (size_t i = 0; i < n; i++) {
    e->input.data[i] = (uint8_t)(mode == 0 ? top : mode == 1 ? 0 : mode == 2 ? (one_in(2) ? top : 0) : between(0, top));
  }
  for (size_t i = n; i < n + KN_SLACK; i++) e->input.data[i] = (uint8_t)next(); /* what lies there does not matter */
}

/* The greatest and the least that an accumulator can be. */
static void reach(const kn_convolution *c, int32_t o, int64_t *low, int64_t *high) {
  const int32_t row = row_of(c), top = (1 << c->input_bits) - 1;
  *low = *high = c->bias[o];
  for (int32_t i = 0; i < row; i++) {
    const int32_t w = kn_weight(c, o, i);
    *(w < 0 ? low : high) += (int64_t)w * top;
  }
}

static void choose_rule(example *e) {
  kn_convolution *c = &e->c;
  const size_t n = (size_t)c->out_channels;
  e->bias = calloc(n, sizeof(int32_t)), e->multipliers = calloc(n, sizeof(int32_t)), e->shifts = calloc(n, 1);
  if (!e->bias || !e->multipliers || !e->shifts) abort();
  c->bias = e->bias, c->multipliers = e->multipliers, c->shifts = e->shifts;
  c->rule = (kn_rule)PICK(KN_WIDE, KN_WIDE, KN_NARROW, KN_NARROW, KN_ACCUMULATORS);
  c->output_high = (1 << between(2, 8)) - 1;
  c->output_zero = one_in(2) ? 0 : between(0, c->output_high);
  c->output_low = one_in(2) ? 0 : c->output_zero;
  int64_t lowest = 0, highest = 0;
  for (int32_t o = 0; o < c->out_channels; o++) {
    int64_t low, high;
    reach(c, o, &low, &high);
    lowest = low < lowest ? low : lowest, highest = high > highest ? high : highest;
  }
  if (c->rule == KN_NARROW && (highest > 32767 || lowest < -32768)) c->rule = KN_WIDE;
  const int extreme = one_in(12), shifting = one_in(2), at_the_limit = one_in(6); /* of 16 bits */
  for (int32_t o = 0; o < c->out_channels; o++) {
    int64_t low, high;
    e->bias[o] = 0;
    reach(c, o, &low, &high);
    const int64_t span = high - low + 1;
    if (c->rule == KN_NARROW) {
      e->bias[o] = between((int32_t)(-32768 - low) / 2, (int32_t)(32767 - high) / 2);
      reach(c, o, &low, &high);
      int32_t room = 0;
      while (room < 15 && high * (2 << room) <= 32767 && low * (2 << room) >= -32768) room++;
      e->shifts[o] = (uint8_t)(shifting ? between(0, room) : 0);
      const int64_t m = ((int64_t)(c->output_high + 1) << (15 - e->shifts[o])) / (span / between(1, 4) + 1);
      e->multipliers[o] = extreme ? PICK(0, 1, 32767) : (int32_t)(m > 32767 ? 32767 : m);
    } else {
      e->bias[o] = extreme ? PICK(INT32_MAX, INT32_MIN, 1 << 24) : (int32_t)(-(low + high) / 2 + between(-1000, 1000));
      if (at_the_limit) e->bias[o] = (int32_t)(one_in(2) ? INT16_MAX - high + between(-2, 1) : INT16_MIN - low + between(-1, 2));
      e->shifts[o] = (uint8_t)(shifting && !at_the_limit ? between(0, 15) : 0);
      const int64_t m = ((int64_t)(c->output_high + 1) << (32 - e->shifts[o])) / (span / between(1, 4) + 1);
      e->multipliers[o] = extreme ? PICK(0, 1, INT32_MAX) : (int32_t)(m > INT32_MAX ? INT32_MAX : m);
    }
  }
}

static example make(void) {
  example e;
  memset(&e, 0, sizeof e);
  const int wide = one_in(25);
  e.extreme = one_in(8);
  do {
    choose_shape(&e.c, wide);
    e.macs = (int64_t)elements_out(&e.c) * row_of(&e.c);
  } while (e.c.out_height < 1 || e.c.out_width < 1 || e.macs > (wide ? 20 : one_in(20) ? 10 : e.extreme ? 2.5 : 1) * LARGEST);
  choose_weights(&e);
  choose_input(&e);
  choose_rule(&e);
  return e;
}

static void release(example *e) {
  free(e->weights), free(e->bias), free(e->multipliers), free(e->shifts), free(e->input.block);
}

static void print(const kn_convolution *c) {
  printf("  in %dx%dx%dx%d out %dx%dx%d kernel %dx%d stride %dx%d dilation %dx%d pad %d,%d groups %d W%d/%d A%d zero %d out %d [%d,%d] "
         "rule %d\n",
         c->batch, c->in_height, c->in_width, c->in_channels, c->out_height, c->out_width, c->out_channels, c->kernel_height,
         c->kernel_width, c->stride_y, c->stride_x, c->dilation_y, c->dilation_x, c->pad_top, c->pad_left, c->groups, c->weight_bits,
         c->storage_bits, c->input_bits, c->input_zero, c->output_zero, c->output_low, c->output_high, (int)c->rule);
}

static void run(const kn_convolution_kernel *k, const kn_convolution *c, const void *packed, const uint8_t *input, void *output,
                void *scratch) {
  const int32_t tiles = k->tiles(c);
  int32_t *order = malloc(sizeof(int32_t) * (size_t)(tiles > 0 ? tiles : 1));
  if (!order) abort();
  for (int32_t i = 0; i < tiles; i++) {
    const int32_t j = between(0, i);
    order[i] = order[j], order[j] = i;
  }
  for (int32_t i = 0; i < tiles; i++) k->run(c, packed, input, output, scratch, order[i]);
  free(order);
}

/* Whether a kernel computes what the reference did, and leaves the rest alone. */
static int check(const kn_convolution_kernel *k, const example *e, const uint8_t *expected, size_t size) {
  const kn_convolution *c = &e->c;
  const size_t packed_bytes = k->packed_bytes(c);
  memory packed = allocate(packed_bytes + KN_SLACK, 0), scratch = allocate(k->scratch_bytes(c), 0);
  memory output = allocate(size, GUARD ? (size_t)between(0, 15) * (c->rule == KN_ACCUMULATORS ? 4 : 1) : 0);
  k->pack(c, packed.data);
  int good = 1;
  for (size_t i = 0; i < KN_SLACK; i++) good &= packed.data[packed_bytes + i] == GUARD_BYTE;
  run(k, c, packed.data, e->input.data, output.data, scratch.data);
  if (!good || !intact(&packed)) printf("  writes behind its packed weights\n"), good = 0;
  if (!intact(&scratch)) printf("  writes behind its scratch memory\n"), good = 0;
  if (!intact(&output)) printf("  writes outside the output\n"), good = 0;
  if (memcmp(output.data, expected, size) != 0) {
    size_t at = 0;
    while (output.data[at] == expected[at]) at++;
    printf("  differs first in byte %zu of %zu\n", at, size);
    good = 0;
  }
  free(packed.block), free(scratch.block), free(output.block);
  return good;
}

int main(int argc, char **argv) {
  if (argc < 3) {
    fprintf(stderr, "usage: check_kernels SEED CASES [NAME]\n");
    return 2;
  }
  const uint64_t seed = strtoull(argv[1], NULL, 10);
  const long cases = strtol(argv[2], NULL, 10);
  const char *name = argc > 3 ? argv[3] : NULL, *only = getenv("ONLY");
  const uint32_t features = machine_features() | KN_DSP; /* its kernels run as C anywhere */
  long had[MAX_KERNELS] = {0}, failures = 0;
  const long begin = only ? strtol(only, NULL, 10) : 0, end = only ? begin + 1 : cases;
  for (long n = begin; n < end && failures < 5; n++) {
    state = seed * UINT64_C(0x9E3779B97F4A7C15) + (uint64_t)n;
    next();
    example e = make();
    const size_t size = elements_out(&e.c) * (e.c.rule == KN_ACCUMULATORS ? 4 : 1);
    uint8_t *expected = NULL;
    for (int32_t i = 0; i < kn_convolution_kernel_count; i++) {
      const kn_convolution_kernel *k = kn_convolution_kernels[i];
      if (name ? strcmp(name, k->name) != 0 : k == &kn_convolution_reference) continue;
      if ((k->features & ~features) || !k->supports(&e.c)) continue;
      if (!expected) {
        expected = malloc(size);
        if (!expected) abort();
        for (int32_t t = 0; t < kn_convolution_reference.tiles(&e.c); t++) {
          kn_convolution_reference.run(&e.c, NULL, e.input.data, expected, NULL, t);
        }
      }
      had[i]++;
      if (!check(k, &e, expected, size)) {
        printf("FAILED %s: seed %llu case %ld\n", k->name, (unsigned long long)seed, n);
        print(&e.c);
        failures++;
      }
    }
    free(expected);
    release(&e);
  }
  for (int32_t i = 0; i < kn_convolution_kernel_count; i++) {
    const kn_convolution_kernel *k = kn_convolution_kernels[i];
    if (name ? strcmp(name, k->name) != 0 : k == &kn_convolution_reference) continue;
    printf("%-20s %ld cases%s\n", k->name, had[i], (k->features & ~features) ? " (this machine lacks it)" : "");
  }
  printf("%s\n", failures ? "FAILED" : "ok");
  return failures ? 1 : 0;
}
