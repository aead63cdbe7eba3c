#include "record.h"

#include <string.h>

static float float_of(uint32_t word) {
  float value;
  memcpy(&value, &word, sizeof(value));
  return value;
}

static kn_window window_of(const uint32_t *f) {
  const kn_window window = {
      .batch = (int32_t)f[IM_MAX_POOL_BATCH],
      .in_height = (int32_t)f[IM_MAX_POOL_IN_HEIGHT],
      .in_width = (int32_t)f[IM_MAX_POOL_IN_WIDTH],
      .channels = (int32_t)f[IM_MAX_POOL_CHANNELS],
      .out_height = (int32_t)f[IM_MAX_POOL_OUT_HEIGHT],
      .out_width = (int32_t)f[IM_MAX_POOL_OUT_WIDTH],
      .kernel_height = (int32_t)f[IM_MAX_POOL_KERNEL_HEIGHT],
      .kernel_width = (int32_t)f[IM_MAX_POOL_KERNEL_WIDTH],
      .stride_y = (int32_t)f[IM_MAX_POOL_STRIDE_Y],
      .stride_x = (int32_t)f[IM_MAX_POOL_STRIDE_X],
      .dilation_y = (int32_t)f[IM_MAX_POOL_DILATION_Y],
      .dilation_x = (int32_t)f[IM_MAX_POOL_DILATION_X],
      .pad_top = (int32_t)f[IM_MAX_POOL_PAD_TOP],
      .pad_left = (int32_t)f[IM_MAX_POOL_PAD_LEFT],
  };
  return window;
}

uint32_t en_kernel_hash(const char *name) {
  uint32_t hash = 2166136261u;
  for (; *name != '\0' && *name != '.'; name++) hash = (hash ^ (uint8_t)*name) * 16777619u;
  return hash;
}

const kn_convolution_kernel *en_packed_kernel(const uint32_t *fields) {
  for (int32_t i = 0; i < kn_convolution_kernel_count; i++) {
    const kn_convolution_kernel *kernel = kn_convolution_kernels[i];
    if (kernel->layout != 0 && kernel->layout == fields[IM_CONVOLUTION_LAYOUT] && en_kernel_hash(kernel->name) == fields[IM_CONVOLUTION_KERNEL])
      return kernel;
  }
  return NULL;
}

kn_convolution en_convolution_of(const uint8_t *data, const uint32_t *f, int32_t input_bits) {
  const kn_convolution c = {
      .batch = (int32_t)f[IM_CONVOLUTION_BATCH],
      .in_height = (int32_t)f[IM_CONVOLUTION_IN_HEIGHT],
      .in_width = (int32_t)f[IM_CONVOLUTION_IN_WIDTH],
      .in_channels = (int32_t)f[IM_CONVOLUTION_IN_CHANNELS],
      .out_height = (int32_t)f[IM_CONVOLUTION_OUT_HEIGHT],
      .out_width = (int32_t)f[IM_CONVOLUTION_OUT_WIDTH],
      .out_channels = (int32_t)f[IM_CONVOLUTION_OUT_CHANNELS],
      .kernel_height = (int32_t)f[IM_CONVOLUTION_KERNEL_HEIGHT],
      .kernel_width = (int32_t)f[IM_CONVOLUTION_KERNEL_WIDTH],
      .stride_y = (int32_t)f[IM_CONVOLUTION_STRIDE_Y],
      .stride_x = (int32_t)f[IM_CONVOLUTION_STRIDE_X],
      .dilation_y = (int32_t)f[IM_CONVOLUTION_DILATION_Y],
      .dilation_x = (int32_t)f[IM_CONVOLUTION_DILATION_X],
      .pad_top = (int32_t)f[IM_CONVOLUTION_PAD_TOP],
      .pad_left = (int32_t)f[IM_CONVOLUTION_PAD_LEFT],
      .groups = (int32_t)f[IM_CONVOLUTION_GROUPS],
      .weight_bits = (int32_t)f[IM_CONVOLUTION_WEIGHT_BITS],
      .storage_bits = (int32_t)f[IM_CONVOLUTION_STORAGE_BITS],
      .input_bits = input_bits,
      .input_zero = (int32_t)f[IM_CONVOLUTION_INPUT_ZERO],
      .output_zero = (int32_t)f[IM_CONVOLUTION_OUTPUT_ZERO],
      .output_low = (int32_t)f[IM_CONVOLUTION_OUTPUT_LOW],
      .output_high = (int32_t)f[IM_CONVOLUTION_OUTPUT_HIGH],
      .rule = (kn_rule)f[IM_CONVOLUTION_RULE],
      .weights = data + f[IM_CONVOLUTION_WEIGHTS],
      .bias = (const int32_t *)(const void *)(data + f[IM_CONVOLUTION_BIAS]),
      .multipliers = (const int32_t *)(const void *)(data + f[IM_CONVOLUTION_MULTIPLIERS]),
      .shifts = data + f[IM_CONVOLUTION_SHIFTS],
  };
  return c;
}

static kn_move move_of(const uint8_t *data, const uint32_t *f) {
  kn_move move = {.in_start = (int32_t)f[IM_COPY_IN_START],
                  .out_start = (int32_t)f[IM_COPY_OUT_START],
                  .table = f[IM_COPY_TABLE] == IM_NO_TABLE ? NULL : data + f[IM_COPY_TABLE]};
  for (int d = 0; d < KN_COPY_RANK; d++) {
    move.size[d] = (int32_t)f[IM_COPY_SIZE_0 + d];
    move.in_stride[d] = (int32_t)f[IM_COPY_IN_STRIDE_0 + d];
    move.out_stride[d] = (int32_t)f[IM_COPY_OUT_STRIDE_0 + d];
  }
  return move;
}

void en_decode(const uint8_t *image, const en_record *record, en_problem *problem) {
  const uint8_t *data = image + en_header(image)[IM_HEADER_DATA_OFFSET];
  const uint32_t *f = record->fields;
  memset(problem, 0, sizeof(*problem));
  switch (record->kind) {
    case IM_KIND_QUANTIZE:
      problem->quantize = (kn_quantization){.outer = (int32_t)f[IM_QUANTIZE_OUTER],
                                            .channels = (int32_t)f[IM_QUANTIZE_CHANNELS],
                                            .inner = (int32_t)f[IM_QUANTIZE_INNER],
                                            .inverse_scale = float_of(f[IM_QUANTIZE_INVERSE_SCALE]),
                                            .zero = (int32_t)f[IM_QUANTIZE_ZERO],
                                            .low = (int32_t)f[IM_QUANTIZE_LOW],
                                            .high = (int32_t)f[IM_QUANTIZE_HIGH]};
      break;
    case IM_KIND_DEQUANTIZE:
      problem->dequantize = (kn_dequantization){.outer = (int32_t)f[IM_DEQUANTIZE_OUTER],
                                                .channels = (int32_t)f[IM_DEQUANTIZE_CHANNELS],
                                                .inner = (int32_t)f[IM_DEQUANTIZE_INNER],
                                                .zero = (int32_t)f[IM_DEQUANTIZE_ZERO],
                                                .scale_count = (int32_t)f[IM_DEQUANTIZE_SCALE_COUNT],
                                                .low = float_of(f[IM_DEQUANTIZE_LOW]),
                                                .high = float_of(f[IM_DEQUANTIZE_HIGH]),
                                                .scales = (const float *)(const void *)(data + f[IM_DEQUANTIZE_SCALES])};
      break;
    case IM_KIND_CONVOLUTION:
      problem->convolution = en_convolution_of(data, f, (int32_t)en_tensor(image, record->inputs[0])[IM_TENSOR_BITS]);
      break;
    case IM_KIND_ADD:
      problem->add = (kn_sum){.outer = (int32_t)f[IM_ADD_OUTER],
                              .inner = (int32_t)f[IM_ADD_INNER],
                              .second_is_repeated = f[IM_ADD_SECOND_IS_REPEATED] != 0,
                              .first_multiplier = (int32_t)f[IM_ADD_FIRST_MULTIPLIER],
                              .second_multiplier = (int32_t)f[IM_ADD_SECOND_MULTIPLIER],
                              .offset = (int32_t)f[IM_ADD_OFFSET],
                              .shift = (int32_t)f[IM_ADD_SHIFT],
                              .output_zero = (int32_t)f[IM_ADD_OUTPUT_ZERO],
                              .output_low = (int32_t)f[IM_ADD_OUTPUT_LOW],
                              .output_high = (int32_t)f[IM_ADD_OUTPUT_HIGH]};
      break;
    case IM_KIND_MULTIPLY:
      problem->multiply = (kn_product){.outer = (int32_t)f[IM_MULTIPLY_OUTER],
                                       .inner = (int32_t)f[IM_MULTIPLY_INNER],
                                       .second_is_repeated = f[IM_MULTIPLY_SECOND_IS_REPEATED] != 0,
                                       .first_zero = (int32_t)f[IM_MULTIPLY_FIRST_ZERO],
                                       .second_zero = (int32_t)f[IM_MULTIPLY_SECOND_ZERO],
                                       .multiplier = (int32_t)f[IM_MULTIPLY_MULTIPLIER],
                                       .shift = (int32_t)f[IM_MULTIPLY_SHIFT],
                                       .output_zero = (int32_t)f[IM_MULTIPLY_OUTPUT_ZERO],
                                       .output_low = (int32_t)f[IM_MULTIPLY_OUTPUT_LOW],
                                       .output_high = (int32_t)f[IM_MULTIPLY_OUTPUT_HIGH]};
      break;
    case IM_KIND_TABLE:
      problem->table = data + f[IM_TABLE_TABLE];
      break;
    case IM_KIND_MAX_POOL:
      problem->max_pool = window_of(f);
      break;
    case IM_KIND_AVERAGE_POOL:
      problem->average_pool = (kn_mean){.window = window_of(f),
                                        .ratio = f[IM_AVERAGE_POOL_RATIO_LOW] | (uint64_t)f[IM_AVERAGE_POOL_RATIO_HIGH] << 32,
                                        .counts_padding = f[IM_AVERAGE_POOL_COUNTS_PADDING] != 0,
                                        .input_zero = (int32_t)f[IM_AVERAGE_POOL_INPUT_ZERO],
                                        .output_zero = (int32_t)f[IM_AVERAGE_POOL_OUTPUT_ZERO],
                                        .output_low = (int32_t)f[IM_AVERAGE_POOL_OUTPUT_LOW],
                                        .output_high = (int32_t)f[IM_AVERAGE_POOL_OUTPUT_HIGH]};
      break;
    case IM_KIND_COPY:
      problem->copy = move_of(data, f);
      problem->copy.element_bytes = en_tensor(image, record->output)[IM_TENSOR_TYPE] == IM_TYPE_CODES ? 1 : 4;
      break;
    case IM_KIND_FILL:
      problem->fill = (uint8_t)f[IM_FILL_CODE];
      break;
    case IM_KIND_RESIZE:
      problem->resize = (kn_resample){.batch = (int32_t)f[IM_RESIZE_BATCH],
                                      .in_height = (int32_t)f[IM_RESIZE_IN_HEIGHT],
                                      .in_width = (int32_t)f[IM_RESIZE_IN_WIDTH],
                                      .channels = (int32_t)f[IM_RESIZE_CHANNELS],
                                      .out_height = (int32_t)f[IM_RESIZE_OUT_HEIGHT],
                                      .out_width = (int32_t)f[IM_RESIZE_OUT_WIDTH],
                                      .rows = (const uint32_t *)(const void *)(data + f[IM_RESIZE_ROWS]),
                                      .columns = (const uint32_t *)(const void *)(data + f[IM_RESIZE_COLUMNS])};
      break;
    case IM_KIND_SIGMOID:
    case IM_KIND_CROP:
    case IM_KIND_PASTE:
      break;
    default:
      problem->softmax = (en_softmax){(int32_t)f[IM_SOFTMAX_OUTER], (int32_t)f[IM_SOFTMAX_COUNT], (int32_t)f[IM_SOFTMAX_INNER]};
  }
}
