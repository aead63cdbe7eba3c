/*
 * Kernels: integer operators on dense arrays, channels last. One element of an activation is a code in [0, 2^bits), stored in a byte;
 * real = scale * (code - zero). Nothing here allocates, does I/O, or checks its arguments: the engine checks them once, when a model
 * is prepared, and the caller owns all memory.
 *
 * INVARIANTS
 * 1. Every kernel of an operator computes the same integers as the reference in <family>.c, whatever the machine.
 * 2. A kernel may read up to KN_SLACK bytes beyond the end of an activation or its packed weights, and writes only what is its own.
 * 3. Tiles of one operator may run at the same time, each with its own scratch memory.
 */
#ifndef KN_KERNELS_H
#define KN_KERNELS_H

#include <stddef.h>
#include <stdint.h>

/* Bytes behind every activation and behind packed weights that may be read; their values do not matter. */
#define KN_SLACK 64
/* Alignment of packed weights and of scratch memory. */
#define KN_ALIGNMENT 64

/* Instruction sets a kernel may need, as bits. */
enum { KN_AVX2 = 1u << 0, KN_NEON = 1u << 1, KN_DOTPROD = 1u << 2, KN_DSP = 1u << 3 };

/* What becomes of an accumulator; see requantize.h. */
typedef enum {
  KN_WIDE = 0,        /* codes, by a 32-bit multiplier */
  KN_NARROW = 1,      /* codes, by a 16-bit multiplier; every accumulator is certified to fit 16 bits */
  KN_ACCUMULATORS = 2 /* the int32 accumulators themselves, at the output of a model */
} kn_rule;

/*
 * A convolution, also a product with a matrix (kernel 1x1, rows as width). Input [batch][in_height][in_width][in_channels], output
 * [batch][out_height][out_width][out_channels]. Positions outside the input hold `input_zero`; windows may lie outside altogether. Weights are
 * [out_channels][kernel_height][kernel_width][in_channels / groups], signed, stored in 2, 4 or 8 bits (low bits of a byte first,
 * every output channel beginning on a byte); `weight_bits` says how large they can be. The zero point's part of the sum is in the bias.
 */
typedef struct {
  int32_t batch, in_height, in_width, in_channels, out_height, out_width, out_channels;
  int32_t kernel_height, kernel_width, stride_y, stride_x, dilation_y, dilation_x, pad_top, pad_left, groups;
  int32_t weight_bits, storage_bits, input_bits, input_zero;
  int32_t output_zero, output_low, output_high;
  kn_rule rule;
  const uint8_t *weights;
  const int32_t *bias;        /* [out_channels] */
  const int32_t *multipliers; /* [out_channels], 0 to 2^31 - 1; 0 to 32767 where the rule is narrow */
  const uint8_t *shifts;      /* [out_channels], 0 to 15 */
} kn_convolution;

/* One way to compute a convolution. */
typedef struct {
  const char *name;        /* ARITHMETIC.VARIANT, as reports and plans have it */
  uint32_t features;       /* instruction sets that it needs */
  /* Whether this kernel computes this convolution exactly; looks at the weights where that depends on them. */
  int (*supports)(const kn_convolution *);
  size_t (*packed_bytes)(const kn_convolution *);
  void (*pack)(const kn_convolution *, void *packed);
  /* Of one thread. */
  size_t (*scratch_bytes)(const kn_convolution *);
  /* Parts that may run at the same time. */
  int32_t (*tiles)(const kn_convolution *);
  void (*run)(const kn_convolution *, const void *packed, const uint8_t *input, void *output, void *scratch, int32_t tile);
  /*
   * 0, or the version of the packed form, raised whenever that changes. Such a kernel executes weights that were packed elsewhere where they
   * lie, on a multiple of 16; it runs, as C, on every machine; its packed form is the same for all sizes of input, output and padding.
   */
  uint32_t layout;
  /* Whether packed weights from elsewhere, of the right size, can be executed without harm; NULL: any can. */
  int (*accepts)(const kn_convolution *, const void *packed);
} kn_convolution_kernel;

#define KN_CONVOLUTION(symbol) extern const kn_convolution_kernel symbol;
#include "kernels.def"
#undef KN_CONVOLUTION

/* All kernels for convolutions that this build has, the reference last; those that usually win come first. */
extern const kn_convolution_kernel *const kn_convolution_kernels[];
extern const int32_t kn_convolution_kernel_count;

/* One weight of a convolution, by output channel and by position in the channel. */
int32_t kn_weight(const kn_convolution *c, int32_t out_channel, int32_t index);
/* Bytes of one output channel's weights as they are stored. */
size_t kn_weight_row_bytes(int32_t weights, int32_t storage_bits);

/* q = clamp(zero + ((first * first_multiplier + second * second_multiplier + offset) >> shift)); multipliers are signed 16-bit. */
typedef struct {
  int32_t outer, inner;      /* elements of the first input, outer * inner; the second has as many, or `inner` if it is repeated */
  int32_t second_is_repeated;
  int32_t first_multiplier, second_multiplier, offset, shift;
  int32_t output_zero, output_low, output_high;
} kn_sum;

/* q = clamp of the wide rule of (first - first_zero) * (second - second_zero). */
typedef struct {
  int32_t outer, inner, second_is_repeated;
  int32_t first_zero, second_zero, multiplier, shift;
  int32_t output_zero, output_low, output_high;
} kn_product;

/* Windows over [batch][in_height][in_width][channels]. */
typedef struct {
  int32_t batch, in_height, in_width, channels, out_height, out_width;
  int32_t kernel_height, kernel_width, stride_y, stride_x, dilation_y, dilation_x, pad_top, pad_left;
} kn_window;
/* The greatest code of each window; what lies outside the input does not count. Rows of the output: batch * out_height. */

/*
 * Mean of each window, at another scale: q = clamp(zero + ((sum(code - input_zero) * m(n) + 2^31) >> 32)), m(n) = (ratio + n / 2) / n,
 * `ratio` = round(2^32 * input scale / output scale), n = elements of the window inside the input, or all of it if padding counts.
 */
typedef struct {
  kn_window window;
  uint64_t ratio; /* below 2^40 */
  int32_t counts_padding;
  int32_t input_zero, output_zero, output_low, output_high;
} kn_mean;

/* Moves elements: output[out_start + sum i_d out_stride_d] = input[in_start + sum i_d in_stride_d] for all i_d below size_d. */
#define KN_COPY_RANK 6
typedef struct {
  int32_t size[KN_COPY_RANK], in_stride[KN_COPY_RANK], out_stride[KN_COPY_RANK];
  int32_t in_start, out_start;
  int32_t element_bytes; /* 1, or 4 for floats, which have no table */
  const uint8_t *table;  /* codes are translated by it; NULL: as they are */
} kn_move;

/*
 * Resampling along both axes: each output row mixes input rows low and high by fraction / 256, columns likewise:
 * q = (((a (256 - fx) + b fx) (256 - fy) + (c (256 - fx) + d fx) fy) + 2^15) >> 16. Nearest neighbour is fraction 0.
 */
typedef struct {
  int32_t batch, in_height, in_width, channels, out_height, out_width;
  /* [out_height] and [out_width], each of three words: low, high, fraction. */
  const uint32_t *rows, *columns;
} kn_resample;

/* q = clamp(floor(x * inverse_scale + 0.5) + zero), NaN as the low end; floats [outer][channels][inner], codes [outer][inner][channels]. */
typedef struct {
  int32_t outer, channels, inner;
  float inverse_scale;
  int32_t zero, low, high;
} kn_quantization;

/* x = clamp((code - zero) * scale, low, high), one scale or one for each channel; input codes or accumulators [outer][inner][channels]. */
typedef struct {
  int32_t outer, channels, inner, zero, scale_count;
  float low, high;
  const float *scales;
} kn_dequantization;


/*
 * Everything but convolutions, as one build of operators/<family>.h for an instruction set has it. `begin` and `end` are of the outermost
 * dimension (rows of pools: batch * out_height), so that threads can share an operator.
 */
typedef struct {
  uint32_t features;
  void (*add)(const kn_sum *s, const uint8_t *first, const uint8_t *second, uint8_t *output, int32_t begin, int32_t end);
  void (*multiply)(const kn_product *p, const uint8_t *first, const uint8_t *second, uint8_t *output, int32_t begin, int32_t end);
  /* output[i] = table[input[i]]; in place is allowed. */
  void (*table)(const uint8_t *table, const uint8_t *input, uint8_t *output, int32_t count);
  void (*max_pool)(const kn_window *w, const uint8_t *input, uint8_t *output, int32_t begin, int32_t end);
  void (*average_pool)(const kn_mean *m, const uint8_t *input, uint8_t *output, int32_t begin, int32_t end);
  /* The sums of (code - input_zero) themselves. */
  void (*sum_pool)(const kn_mean *m, const uint8_t *input, int32_t *output, int32_t begin, int32_t end);
  void (*copy)(const kn_move *m, const void *input, void *output, int32_t begin, int32_t end);
  void (*resize)(const kn_resample *r, const uint8_t *input, uint8_t *output, int32_t begin, int32_t end);
  void (*quantize)(const kn_quantization *q, const float *input, uint8_t *output);
  void (*dequantize_codes)(const kn_dequantization *d, const uint8_t *input, float *output);
  void (*dequantize_accumulators)(const kn_dequantization *d, const int32_t *input, float *output);
  /* exp(x - max) / sum over the middle axis of [outer][count][inner], in float; each value is within 1e-6 of the true one. */
  void (*softmax)(int32_t outer, int32_t count, int32_t inner, const float *input, float *output);
  /* 1 / (1 + exp(-x)), within 1e-6. */
  void (*sigmoid)(const float *input, float *output, int32_t count);
} kn_operators;

extern const kn_operators kn_operators_portable;
/* The build for the most of these instruction sets. */
const kn_operators *kn_operators_for(uint32_t features);

#endif
