/*
 * Counts the instructions of every kernel for Cortex-M on layers of small networks: a program for an emulated board whose timer advances
 * by a known number of ticks an instruction. One line each: layer, precision, kernel, instructions, multiply-accumulates, bytes of packed
 * weights, bytes of scratch memory. Everything that a layer costs is counted, from codes in the arena to codes in the arena. What was
 * counted is compared with the reference; a difference ends the program as a failure.
 *
 * Build with -DSTM32F405 for netduinoplus2 (run with -icount shift=0: a tick an instruction) or -DMPS2 for mps2-an386 (shift=7); with
 * -DLARGEST_WEIGHTS all weights are as large as they can be.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../kernels/kernels.h"

#define REGISTER(address) (*(volatile uint32_t *)(uintptr_t)(address))

#if defined(MPS2)
/* CMSDK timer 0 counts down at 25 MHz; an instruction takes 128 ns. */
static void start_timer(void) {
  REGISTER(0x40000000) = 0;
  REGISTER(0x40000008) = REGISTER(0x40000004) = UINT32_MAX;
  REGISTER(0x40000000) = 1;
}
static uint32_t ticks(void) { return ~REGISTER(0x40000004); }
static uint32_t instructions_of(uint32_t elapsed) { return (uint32_t)(((uint64_t)elapsed * 40 + 64) / 128); }
#else
/* TIM2 counts up, a nanosecond a tick in the emulator; an instruction takes one. */
static void start_timer(void) {
  REGISTER(0x40000028) = 0;
  REGISTER(0x4000002C) = UINT32_MAX;
  REGISTER(0x40000000) = 1;
  REGISTER(0x40000014) = 1;
}
static uint32_t ticks(void) { return REGISTER(0x40000024); }
static uint32_t instructions_of(uint32_t elapsed) { return elapsed; }
#endif

typedef struct {
  const char *name;
  int32_t in_channels, out_channels, size, kernel, stride, groups;
} layer;

static const layer LAYERS[] = {
    {"3x3 16->16", 16, 16, 16, 3, 1, 1},     {"3x3 32->32", 32, 32, 16, 3, 1, 1},      {"3x3 64->64", 64, 64, 16, 3, 1, 1},
    {"1x1 64->64", 64, 64, 16, 1, 1, 1},     {"3x3 s2 32->64", 32, 64, 16, 3, 2, 1},   {"3x3 3->16", 3, 16, 32, 3, 1, 1},
    {"dw 3x3 64", 64, 64, 16, 3, 1, 64},     {"dw 3x3 s2 64", 64, 64, 16, 3, 2, 64},   {"fc 256->128", 256, 128, 1, 1, 1, 1},
};

typedef struct {
  const char *name;
  int32_t weight_bits, storage_bits, input_bits;
} precision;

static const precision PRECISIONS[] = {{"W8A8", 8, 8, 8}, {"W4A8", 4, 4, 8}, {"W4A4", 4, 4, 4}, {"W2A2", 2, 2, 2}};

enum { MOST_CODES = 16384, MOST_WEIGHTS = 65536, MOST_CHANNELS = 128, MOST_PACKED = 65536, MOST_SCRATCH = 28672 };

#if defined(MPS2)
#define ROOM(bytes) (bytes)
#else
#define ROOM(bytes) ((bytes) * 9 / 16) /* what the board's memory has room for; the one larger layer is left out */
#endif

static uint8_t input[MOST_CODES + KN_SLACK], output[MOST_CODES], expected[MOST_CODES];
static uint8_t weights[ROOM(MOST_WEIGHTS)];
static uint8_t packed[ROOM(MOST_PACKED) + KN_SLACK] __attribute__((aligned(KN_ALIGNMENT)));
static uint8_t scratch[MOST_SCRATCH] __attribute__((aligned(KN_ALIGNMENT)));
static int32_t bias[MOST_CHANNELS], multipliers[MOST_CHANNELS];
static uint8_t shifts[MOST_CHANNELS];

static uint64_t state = 7;
static uint32_t next(void) {
  state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
  return (uint32_t)(state >> 33);
}

static kn_convolution problem(const layer *l, const precision *p) {
  const int32_t pad = l->kernel / 2, out = (l->size + 2 * pad - l->kernel) / l->stride + 1;
  const int32_t row = l->kernel * l->kernel * (l->in_channels / l->groups), top = (1 << p->input_bits) - 1;
  const kn_convolution c = {
      .batch = 1, .in_height = l->size, .in_width = l->size, .in_channels = l->in_channels, .out_height = out, .out_width = out,
      .out_channels = l->out_channels, .kernel_height = l->kernel, .kernel_width = l->kernel, .stride_y = l->stride, .stride_x = l->stride,
      .dilation_y = 1, .dilation_x = 1, .pad_top = pad, .pad_left = pad, .groups = l->groups, .weight_bits = p->weight_bits,
      .storage_bits = p->storage_bits, .input_bits = p->input_bits, .input_zero = top / 5, .output_zero = top / 4, .output_low = 0,
      .output_high = top, .rule = KN_WIDE, .weights = weights, .bias = bias, .multipliers = multipliers, .shifts = shifts};
  const size_t row_bytes = kn_weight_row_bytes(row, p->storage_bits);
  memset(weights, 0, row_bytes * (size_t)l->out_channels);
  for (int32_t o = 0; o < l->out_channels; o++) {
    int32_t sum = 0;
    for (int32_t i = 0; i < row; i++) {
#if defined(LARGEST_WEIGHTS)
      const uint32_t code = (1u << (p->weight_bits - 1)) - 1;
#else
      const uint32_t code = next() & ((1u << p->weight_bits) - 1);
#endif
      weights[row_bytes * (size_t)o + (size_t)(i * p->storage_bits / 8)] |= (uint8_t)(code << (i * p->storage_bits % 8));
      sum += (int32_t)code - (int32_t)((code >> (p->weight_bits - 1)) << p->weight_bits);
    }
    bias[o] = -sum * c.input_zero;
    /* Outputs spread over their codes. */
    multipliers[o] = (int32_t)((UINT64_C(1) << 32) / (uint64_t)(row * (1 << (p->weight_bits - 2))));
    shifts[o] = 0;
  }
  for (int32_t i = 0; i < l->size * l->size * l->in_channels; i++) input[i] = (uint8_t)(next() & (uint32_t)top);
  return c;
}

static void run(const kn_convolution_kernel *k, const kn_convolution *c, uint8_t *to) {
  for (int32_t t = 0; t < k->tiles(c); t++) k->run(c, packed, input, to, scratch, t);
}

static uint32_t count(const kn_convolution_kernel *k, const kn_convolution *c) {
  const uint32_t before = ticks();
  __asm__ volatile("" ::: "memory");
  if (k != NULL) run(k, c, output);
  __asm__ volatile("" ::: "memory");
  uint32_t after = ticks();
  __asm__ volatile("" : "+r"(after)::"memory");
  return instructions_of(after - before);
}

int main(void) {
  start_timer();
  const uint32_t empty = count(NULL, NULL);
  for (size_t i = 0; i < sizeof LAYERS / sizeof *LAYERS; i++) {
    for (size_t j = 0; j < sizeof PRECISIONS / sizeof *PRECISIONS; j++) {
      const layer *l = &LAYERS[i];
      const kn_convolution c = problem(l, &PRECISIONS[j]);
      const size_t size = (size_t)c.out_height * c.out_width * c.out_channels;
      const uint32_t macs = (uint32_t)(size * (size_t)(c.kernel_height * c.kernel_width * (c.in_channels / c.groups)));
      run(&kn_convolution_reference, &c, expected);
      for (int32_t n = 0; n < kn_convolution_kernel_count; n++) {
        const kn_convolution_kernel *k = kn_convolution_kernels[n];
        if (k == &kn_convolution_reference || !k->supports(&c)) continue;
        if (k->packed_bytes(&c) > ROOM(MOST_PACKED) || k->scratch_bytes(&c) > MOST_SCRATCH) {
          printf("%s has no room for %s\n", k->name, l->name);
          return 1;
        }
        k->pack(&c, packed);
        memset(output, 0xA5, size);
        const uint32_t instructions = count(k, &c) - empty;
        if (memcmp(output, expected, size) != 0) {
          printf("%s differs from the reference in %s %s\n", k->name, l->name, PRECISIONS[j].name);
          return 1;
        }
        printf("%s,%s,%s,%lu,%lu,%lu,%lu\n", l->name, PRECISIONS[j].name, k->name, (unsigned long)instructions, (unsigned long)macs,
               (unsigned long)k->packed_bytes(&c), (unsigned long)k->scratch_bytes(&c));
      }
    }
  }
  puts("done");
  return 0;
}
