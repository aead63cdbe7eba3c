// Best integer weights for one operator, given what it reads: layer-wise rounding without gradients.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "../thread_pool.h"

namespace rounding {

// Which values of its input an output position of a convolution is computed from. A matrix product is a convolution of 1x1 over as
// many columns as it has rows. Strides of the input are in elements.
struct Window {
  size_t channels_per_group;
  size_t in_height, in_width;
  size_t channel_stride, row_stride, column_stride;
  size_t out_height, out_width;
  size_t kernel_height, kernel_width;
  size_t stride_y, stride_x, dilation_y, dilation_x;
  int64_t pad_top, pad_left;

  size_t Inner() const { return channels_per_group * kernel_height * kernel_width; }
};

struct Layer {
  Window window;
  size_t groups;
  // Output channels of one group.
  size_t rows;
  // [groups][rows][channel, kernel row, kernel column]
  const float *weights;
  // One sample each: the input as the quantized model has it, real = scale * (code - zero).
  std::vector<const uint8_t *> codes;
  float scale;
  int32_t zero;
  // The same samples' input as the float model has it; empty: the weights are aimed at themselves.
  std::vector<const float *> references;
  // Codes of weights lie in [-limit, limit].
  int32_t limit;
  // Smallest scale of each output channel.
  const float *least_scales;
  // Shares of the mean second moment that are added to its diagonal: when weights are rounded, and when they are aimed.
  float damping, target_damping;
  // Scales tried, as multiples of the one of least squared error.
  std::vector<float> factors;
  // Sweeps of coordinate descent after rounding.
  int32_t sweeps;
  // Output positions looked at, over all samples.
  size_t positions;
};

// Takes up to 28 bytes times the square of a group's operand, beside the layer itself.
//
// Fills `codes` (laid out as the weights) and one scale for each output channel.
//
// Minimises the squared error of the operator's output, || W x - Q x' ||^2 over the positions, x of the float model and x' of the quantized one,
// both about their means (the bias takes the means):
//   1. second moments H = E[x' x'^T] and C = E[x x'^T];
//   2. target W* = W + W (C - H) (H + lambda I)^-1, the float weights that imitate the float output best from x';
//   3. per channel a scale of least squared error on W*, and multiples of it;
//   4. rounding one weight after the other, those of the largest moments first, each taking over what the ones before did wrong. With
//      H = U^T U this is nearest-plane decoding, the same as GPTQ (arXiv 2210.17323; the identity: arXiv 2507.18553) without an inverse;
//   5. coordinate descent on the integers at the best scale.
// The result is never worse, by H, than what rounding to nearest at the scale of least squared error gives.
void RoundLayer(const Layer &layer, ThreadPool &pool, int8_t *codes, float *scales);

}  // namespace rounding
