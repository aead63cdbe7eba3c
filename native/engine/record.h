/* Records of an image as problems for the kernels; shared by the checks and the execution. */
#ifndef EN_RECORD_H
#define EN_RECORD_H

#include "../kernels/kernels.h"
#include "engine.h"
#include "image.h"

typedef struct {
  uint32_t kind, words, input_count, output;
  const uint32_t *inputs, *fields;
} en_record;

typedef struct {
  int32_t outer, count, inner;
} en_softmax;

typedef union {
  kn_quantization quantize;
  kn_dequantization dequantize;
  kn_convolution convolution;
  kn_sum add;
  kn_product multiply;
  const uint8_t *table;
  kn_window max_pool;
  kn_mean average_pool;
  kn_move copy;
  uint8_t fill;
  kn_resample resize;
  en_softmax softmax;
} en_problem;

static inline const uint32_t *en_header(const uint8_t *image) { return (const uint32_t *)(const void *)image; }

static inline const uint32_t *en_tensor(const uint8_t *image, uint32_t index) {
  return en_header(image) + en_header(image)[IM_HEADER_TENSOR_OFFSET] / 4 + (size_t)index * IM_TENSOR_RECORD_WORDS;
}

static inline en_record en_record_at(const uint32_t *words) {
  const en_record record = {words[IM_OPERATOR_KIND], words[IM_OPERATOR_WORDS], words[IM_OPERATOR_INPUT_COUNT], words[IM_OPERATOR_OUTPUT],
                            words + IM_OPERATOR_RECORD_WORDS, words + IM_OPERATOR_RECORD_WORDS + words[IM_OPERATOR_INPUT_COUNT]};
  return record;
}

/* The kernel that a convolution's weights are packed for, as its record says; NULL where this build does not have it, or its packed form. */
const kn_convolution_kernel *en_packed_kernel(const uint32_t *fields);

/* A convolution of a record's fields, its pointers into `data`. */
kn_convolution en_convolution_of(const uint8_t *data, const uint32_t *fields, int32_t input_bits);

/* The problem of a record whose word count suits its kind; pointers into the data are not checked yet. */
void en_decode(const uint8_t *image, const en_record *record, en_problem *problem);

#endif
